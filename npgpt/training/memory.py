"""Memory: a setting that makes training faster, and a check that a run fits into the machine's."""

from __future__ import annotations

import ctypes
import os
import sys

from npgpt.models.config import GPTConfig
from npgpt.models.parts import parameters_by_part

LAYER = 20_000  # bytes of a layer's Python objects
TOKEN = 10  # activations of a token in a layer, for each channel; in truth there are more


def demand_memory(config: GPTConfig, n_tokens: int = 0) -> None:
    """Refuse a model that cannot be trained in the memory of this machine, before it is made.

    Parameters
    ----------
    config : GPTConfig
    n_tokens : int
        In a batch.

    Raises
    ------
    MemoryError
        If the parameters, their gradients, the optimizer's two means and the batch's activations
        need more than the machine has. What is counted is less than what training takes.

    Examples
    --------
    >>> demand_memory(GPTConfig(n_embd=8, n_layer=1, n_head=1))
    """
    n = 4 * sum(parameters_by_part(config).values()) + TOKEN * n_tokens * (
        config.n_layer * config.n_embd
    )
    needed = 4 * n + LAYER * config.n_layer
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not known on this system
        return
    if needed > there:
        raise MemoryError(
            f"a step takes at least {needed / 1e9:,.0f} GB, and this machine has "
            f"{there / 1e9:,.0f} GB"
        )


def keep_freed_memory() -> None:
    """Let the C library keep freed arrays for the next ones.

    A training step makes and frees the same arrays again and again. glibc gives those of over
    128 KB back to the system, and each new one is then faulted in page by page: a fifth of a
    small step's time. Elsewhere than with glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD: the largest value that it takes
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
