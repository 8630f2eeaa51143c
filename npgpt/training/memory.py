"""Memory: a check that a model can be trained on this machine, and a setting that saves time."""

from __future__ import annotations

import ctypes
import os
import sys

from npgpt.models.config import ModelConfig
from npgpt.models.parts import parameters_by_part

LAYER = 20_000  # bytes of the Python objects of a layer
TOKEN = 10  # numbers that a layer saves for each token and channel; a real layer saves more


def demand_memory(
    config: ModelConfig, n_tokens: int = 0, checkpointed: bool = False, trained: bool = True
) -> None:
    """Refuse a model that cannot be trained in the memory of this machine.

    Called before the model is made, since a process that runs out of memory is killed without a
    message.

    Parameters
    ----------
    config : ModelConfig
    n_tokens : int
        The tokens in a batch.
    checkpointed : bool
        Whether only the input of each layer is saved for the backward pass.
    trained : bool
        Whether the parameters are trained, and counted; frozen ones may be packed in few bits.

    Raises
    ------
    MemoryError
        If the parameters, their gradients, the two means of the optimizer and the activations of
        a batch need more memory than the machine has. The estimate is low: training takes more.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> demand_memory(GPTConfig(n_embd=8, n_layer=1, n_head=1))
    """
    saved = (1 if checkpointed else TOKEN) * config.n_layer * config.n_embd  # for each token
    n = 4 * trained * sum(parameters_by_part(config).values()) + n_tokens * saved
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

    A training step makes and frees the same arrays again and again. glibc returns freed arrays of
    more than 128 KB to the system, and the system then maps each new array page by page, which
    takes a fifth of the time of a small step. Without glibc, this function does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD: the largest value that it takes
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
