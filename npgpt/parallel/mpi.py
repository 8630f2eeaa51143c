"""A group of processes that ``mpirun`` starts, on one machine or on several.

The messages are MPI's (mpi4py, with any MPI library; the extra ``mpi`` brings MPICH along). The
ranks of a machine are numbered consecutively, even if ``mpirun`` numbers them otherwise. So the
parts of a vector that belong to a machine lie side by side, and one rank of each machine exchanges
them with the other machines.
"""

from __future__ import annotations

import atexit
import os
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.parallel.group import Group, add_in_order, part_of

SHARED_MEMORY = "/dev/shm"
"""The folder in which MPI shares memory, on Linux."""

RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
"""Variables by which a launcher (MPICH's, Slurm's, Open MPI's) tells a process its rank."""

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables by which it tells a process how many processes it started."""


def launched_rank() -> int | None:
    """Return the rank that a launcher gave this process; None if there was no launcher."""
    rank = _first_number(*RANKS)
    if rank is None and (launched_size() or 1) > 1:
        rank = _first_number("SLURM_PROCID")  # srun started the processes without MPI
    return rank


def launched_size() -> int | None:
    """Return how many processes a launcher started; None if it does not tell."""
    return _first_number(*SIZES)


def free_bytes(folder: str) -> float:
    """Return the bytes that are free in a folder of memory; infinity if there is no such folder."""
    try:
        found = os.statvfs(folder)
    except (OSError, AttributeError):
        return float("inf")
    return found.f_bavail * found.f_frsize


def _first_number(*names: str) -> int | None:
    """Return the first of these variables that is a number."""
    found = [os.environ[name] for name in names if os.environ.get(name, "").isdecimal()]
    return int(found[0]) if found else None


def demand_mpi4py() -> None:
    """Refuse to go on without mpi4py."""
    if find_spec("mpi4py") is None:
        raise UserError(
            "mpirun or srun started this command, and mpi4py is missing: pip install npgpt[mpi]"
        )


class MPIGroup(Group):
    """All processes that ``mpirun`` started.

    Attributes
    ----------
    n_here : int
        How many of them are on this machine.

    Raises
    ------
    UserError
        If MPI does not work here, or is another MPI than the one whose launcher was used.
    """

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"mpi4py finds no MPI here: {reason}") from None
        self._mpi = MPI
        world = MPI.COMM_WORLD
        started = launched_size() or world.size
        if started != world.size:
            name, version = MPI.get_vendor()
            raise UserError(
                f"{started} processes were started, and MPI ({name} {version[0]}) connects "
                f"{world.size} of them: start them by the mpirun that belongs to this MPI, or by "
                "srun --mpi=pmi2"
            )
        here = world.Split_type(MPI.COMM_TYPE_SHARED, key=world.rank)
        first = here.bcast(world.rank)  # the machines are numbered by their first ranks
        self._all = world.Split(0, key=first * world.size + here.rank)
        self._here = here
        self.rank, self.size, self.n_here = self._all.rank, self._all.size, here.size
        self.is_first_here = here.rank == 0
        self._firsts = self._all.Split(0 if self.is_first_here else 1, key=self.rank)
        machines = self._all.allgather(first)
        self.n_machines = len(set(machines))
        counts = [machines.count(machine) for machine in dict.fromkeys(machines)]
        self._bounds = np.cumsum([0, *counts]).tolist()  # the first rank of each machine, and size

    def gather(self, value: Any) -> list[Any]:
        """Return the value of each rank; a barrier."""
        return self._all.allgather(value)

    def broadcast(self, value: Any = None) -> Any:
        """Return the value of rank 0."""
        return self._all.bcast(value)

    def share(self, n: int, dtype: np.dtype) -> ndarray:
        """Return memory of the first rank of this machine, which all ranks of it map."""
        size = n * dtype.itemsize
        try:
            if min(self.gather(free_bytes(SHARED_MEMORY))) < size:
                raise MemoryError  # MPI would reserve it, and the first access would kill a rank
            window = self._mpi.Win.Allocate_shared(
                size if self.is_first_here else 0, dtype.itemsize, comm=self._here
            )
        except (MemoryError, self._mpi.Exception) as error:
            raise UserError(
                f"MPI cannot reserve {size / 1e6:,.0f} MB of shared memory in {SHARED_MEMORY} (a "
                "container may have little: docker run --shm-size=8g; npgpt train --workers needs "
                f"none){f': {error}' if str(error) else ''}"
            ) from None
        vector = np.frombuffer(window.Shared_query(0)[0], dtype, n)
        if self.is_first_here:
            vector[:] = 0
        self._here.Barrier()
        return vector

    def own(self, n: int, dtype: np.dtype) -> ndarray:
        """Return memory of this rank alone."""
        return np.empty(n, dtype)

    def add_up(self, vector: ndarray) -> None:
        """Send each rank its part of the vector, and add up what the others send.

        An all-reduce sends as much data in its first half. MPI's own reductions are not used, since
        their order of addition depends on the library and on the number of ranks.
        """
        parts = [part_of(len(vector), rank, self.size) for rank in range(self.size)]
        mine = parts[self.rank]
        n = mine.stop - mine.start
        found = np.empty((self.size, n), vector.dtype)
        counts = [part.stop - part.start for part in parts], [part.start for part in parts]
        self._all.Alltoallv([vector, counts], [found, [n] * self.size])
        add_in_order(list(found), vector[mine])

    def complete(self, vector: ndarray) -> None:
        """Wait for all ranks of this machine, and exchange their parts with other machines."""
        self._here.Barrier()
        if self.n_machines > 1 and self.is_first_here:
            starts = [part_of(len(vector), rank, self.size).start for rank in self._bounds[:-1]]
            counts = np.diff([*starts, len(vector)]).tolist()
            self._firsts.Allgatherv(self._mpi.IN_PLACE, [vector, (counts, starts)])
        self._here.Barrier()

    def close(self, is_failure: bool) -> None:
        """End all ranks after a failure, once its message is printed."""
        if is_failure:
            atexit.register(self._all.Abort, 2)
