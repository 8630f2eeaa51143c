"""Starting the processes of a run, and what the ranks besides rank 0 do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import autograd
from autograd.kernels import kernels_enabled, product_choice, use_threads
from npgpt.errors import UserError
from npgpt.parallel.group import Group
from npgpt.parallel.workers import Workers
from npgpt.training.memory import keep_freed_memory
from npgpt.training.ranks import END, UPDATE, Alone, Ranks
from npgpt.training.run import open_run


@contextmanager
def working_together(n_workers: int) -> Iterator[Alone]:
    """Start the processes that train a run together, and end them after the block.

    Parameters
    ----------
    n_workers : int
        How many processes of this machine train, this one among them.

    Yields
    ------
    Alone
        Who computes the updates: for `npgpt.training.run.start` and `resume`.

    Raises
    ------
    UserError
        If there are more processes than cores.
    """
    if n_workers == 1:
        yield Alone()
        return
    cpus = autograd.machine.usable_cpus()
    if n_workers > cpus:
        raise UserError(
            f"--workers is {n_workers}, and this machine has {cpus} "
            f"core{'s' if cpus > 1 else ''} for them: give --workers {cpus} or fewer"
        )
    n_threads = cpus // n_workers
    with use_threads(n_threads):
        group = Workers(n_workers, f"{__name__}:{follow.__name__}", variables_of(n_threads))
        with Ranks(group) as ranks:
            yield ranks


def variables_of(n_threads: int) -> dict[str, str]:
    """Return the environment in which another process computes as this one, by so many threads."""
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
    run.ranks = ranks = Ranks(group)
    ranks.join(run)
    run.model.train()
    keep_freed_memory()
    while (order := group.broadcast()) != END:
        if order == UPDATE:
            run.backward()
            run.descend()
        else:
            ranks.collect()
