"""Starting the processes of a run, and the work of the ranks other than rank 0."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import autograd
from autograd.kernels import kernels_enabled, product_choice, use_threads
from npgpt.errors import UserError
from npgpt.parallel.group import Group, describe, host, ignore_signals
from npgpt.parallel.mpi import MPIGroup, demand_mpi4py, launched_rank
from npgpt.parallel.workers import Workers
from npgpt.say import say
from npgpt.training.loop import Run
from npgpt.training.memory import keep_freed_memory
from npgpt.training.ranks import END, UPDATE, Alone, Ranks
from npgpt.training.run import open_run


@contextmanager
def working_together(n_workers: int) -> Iterator[Alone]:
    """Begin the work of all processes that train a run, and end it after the block.

    These are the processes that ``mpirun`` started, or processes of this machine that this function
    starts.

    Parameters
    ----------
    n_workers : int
        The number of processes of this machine that train, including this one.

    Yields
    ------
    Alone
        The object that computes the updates, for `npgpt.training.run.start` and `resume`.

    Raises
    ------
    UserError
        If there are more processes than cores, or MPI is needed and missing.
    """
    group: Group
    if launched_rank() is not None:
        if n_workers > 1:
            raise UserError("the launcher sets the number of processes: leave out --workers")
        group, n_threads = _Launched.take()
    else:
        cpus = autograd.machine.usable_cpus()
        if n_workers > cpus:
            raise UserError(
                f"--workers is {n_workers}, and this machine has {cpus} "
                f"core{'s' if cpus > 1 else ''} for them: give --workers {cpus} or fewer"
            )
        if n_workers == 1:
            yield Alone()
            return
        n_threads = cpus // n_workers
        group = Workers(n_workers, f"{__name__}:{follow.__name__}", variables_of(n_threads))
    with use_threads(n_threads), Ranks(group) as ranks:
        yield ranks


def threads_of_each(group: MPIGroup) -> int:
    """Return the number of threads of each process, which is the same for all processes.

    Raises
    ------
    UserError
        If a machine has more processes than cores.
    """
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    usable = autograd.machine.usable_cpus()
    there = group.gather((host(), sorted(mine)))
    here = set().union(*(cores for name, cores in there if name == host()))
    n_cores = usable if here == mine else len(here)  # mpirun may bind each process to cores
    found = group.gather((host(), group.n_here, n_cores, min(usable, n_cores // group.n_here)))
    for name, n_here, n_cores, n_threads in found:
        if n_threads < 1:
            raise UserError(
                f"mpirun starts {n_here} processes on {name}, which has {n_cores} "
                f"core{'s' if n_cores > 1 else ''} for them: start {n_cores} there, or fewer"
            )
    return min(n_threads for *_, n_threads in found)


def variables_of(n_threads: int) -> dict[str, str]:
    """Return the variables with which a worker computes like this process, on so many threads."""
    libraries = ("NUMBA", "OPENBLAS", "MKL", "OMP")
    return {
        **{f"{library}_NUM_THREADS": str(n_threads) for library in libraries},
        "AUTOGRAD_KERNELS": str(int(kernels_enabled())),
        "AUTOGRAD_PRODUCT": product_choice(),
    }


def follow(group: Group) -> None:
    """Do what rank 0 orders, until it orders the end."""
    folder = group.broadcast()
    if folder == END:
        return
    run = open_run(Path(folder))
    run.model.train()
    obey(run, group)


def obey(run: Run, group: Group) -> None:
    """Do what rank 0 orders for a run, until it orders the end."""
    run.ranks = ranks = Ranks(group)
    ranks.join(run)
    keep_freed_memory()
    while (order := group.broadcast()) != END:
        if order == UPDATE:
            run.backward()
            run.descend()
        else:
            ranks.collect()


class _Launched:
    """The processes that ``mpirun`` started, in rank 0, until a run takes them.

    The other ranks wait for an order. If the command ends before it has a run, as after a wrong
    option, the process orders the end when it exits.
    """

    waiting: tuple[MPIGroup, int] | None = None  # and the threads that each process may have

    @classmethod
    def begin(cls) -> None:
        """Make the group with the other ranks, which wait until a run begins."""
        demand_mpi4py()
        group = MPIGroup()
        try:
            cls.waiting = group, threads_of_each(group)
        except UserError:
            group.close(is_failure=True)
            raise
        atexit.register(cls.dismiss)  # it runs before MPI's own end, which was registered earlier

    @classmethod
    def take(cls) -> tuple[MPIGroup, int]:
        """Return the group for a run, which gives the orders from now on."""
        assert cls.waiting is not None
        found, cls.waiting = cls.waiting, None
        return found

    @classmethod
    def dismiss(cls) -> None:
        """Order the end if no run has taken the group."""
        if cls.waiting is not None:
            cls.waiting[0].broadcast(END)


def follow_launched() -> int | None:
    """Do the work of a rank other than 0 that ``mpirun`` started; return the exit code.

    In any other process, return None, and the process goes on with its command.
    """
    rank = launched_rank()
    if rank == 0:
        _Launched.begin()
    if not rank:
        return None
    ignore_signals()
    try:
        demand_mpi4py()
        group = MPIGroup()
    except UserError:
        return 2  # rank 0 says it
    try:
        with use_threads(threads_of_each(group)):
            follow(group)
    except Exception as error:
        time.sleep(1)  # if rank 0 has the same error, only rank 0 prints it
        say(f"npgpt: rank {group.rank} (on {host()}): {describe(error)}", sys.stderr)
        group.close(is_failure=True)
        return 2
    return 0
