"""Reading tokens one at a time, by one kernel for the whole model where that is possible.

The instructions of the kernel are not written by hand. The model is traced: `write` calls its
modules with a `Row` in the place of numbers, and each layer adds its instruction to the program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

import autograd
from autograd import nn
from autograd.kernels import kernel, kernels_enabled
from npgpt.generation import ahead
from npgpt.models.cache import KVCache, Memory
from npgpt.models.gpt import GPT
from npgpt.models.layers import ACTIVATIONS
from npgpt.module import Parameter, Traced
from npgpt.weights.packed import PackedMatrix

ACTIVATION_NAMES = {
    ACTIVATIONS["gelu_new"]: "gelu_tanh",
    nn.gelu: "gelu",
    nn.relu: "relu",
    nn.silu: "silu",
    np.tanh: "tanh",
}


class Decoder:
    """A model and its cache: it reads tokens, and returns the logits of the next ones.

    A single new token of each of a few sequences is read by one kernel. Several tokens at a time
    are read by the modules. The logits are the same. Between two calls, parameters may change in
    place; a parameter must not get another array.

    Parameters
    ----------
    model : GPT
        With dropout off.
    cache : KVCache, optional
    memory : Memory, optional
        The sources, if the model is an encoder-decoder.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd import no_grad
    >>> from npgpt import GPT, GPTConfig
    >>> from npgpt.models.cache import KVCache
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2)).eval()
    >>> decoder = Decoder(model, KVCache(capacity=8))
    >>> with no_grad():
    ...     first = decoder(np.array([[1, 2, 3]]))
    ...     second = decoder(np.array([[4]]))  # which sees all four tokens
    >>> second.shape
    (1, 65)
    """

    def __init__(
        self, model: GPT, cache: KVCache | None = None, memory: Memory | None = None
    ) -> None:
        self.model, self.cache, self.memory = model, cache, memory
        self._step: Step | None = None
        self._keys: ndarray | None = None  # the first layer's, when the step was written

    def __call__(
        self,
        input_ids: ndarray,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
    ) -> ndarray:
        """Return the logits after ``input_ids (B, T)``, (B, V); see `GPT.forward`."""
        B, T = input_ids.shape
        if self.cache is not None:
            self.cache.make_room(B, T)  # which may give the cache new arrays
        step = self._written() if T == 1 else None
        length = 0 if self.cache is None else self.cache.length
        if attention_mask is not None and np.shape(attention_mask) != (B, length + 1):
            step = None  # the modules say what is wrong
        if step is None or self.cache is None:
            hidden = self.model.transformer(
                input_ids, attention_mask, position_ids, cache=self.cache, memory=self.memory,
                only_last=True,
            )  # (B, 1, C)  # fmt: skip
            return self.model.lm_head(hidden[:, -1]).numpy()
        if position_ids is None:
            position_ids = np.array([length])
        x = self.model.transformer.embed(input_ids, position_ids)  # (B, 1, C)
        step.x[:] = x.numpy()[:, 0]
        turn = self.model.transformer.rotation(position_ids)
        for there, now in zip(step.rotation, turn or (), strict=True):
            there[:] = now.reshape(-1, there.shape[1])  # of all sequences, or of each
        step.run(length, None if attention_mask is None else np.array(attention_mask, bool))
        self.cache.length += 1
        return step.logits.copy()

    def _written(self) -> Step | None:
        """Return the step as a kernel; it is written again when the cache has new arrays."""
        if self.cache is None or not self.cache.keys:
            return None
        if not kernels_enabled() or autograd.stepper.current_recording() is not None:
            return None
        if self.cache.keys[0] is not self._keys:
            ahead.finish()
            self._keys = self.cache.keys[0]
            self._step = write(self.model, self.cache)
        return self._step


class Step(NamedTuple):
    """A model's step for one token of each sequence, and the arrays that it reads and writes."""

    run: Any  # (length, mask)
    x: ndarray  # (B, C), the embeddings
    rotation: tuple[ndarray, ...]  # the cosines and sines of their positions, (B, D / 2) each
    logits: ndarray  # (B, V)


@kernel("decode.program")
def new_program(n_rows: int) -> Any:
    """Return an empty program of instructions for the kernel; None where there is no kernel."""
    return None


def write(model: GPT, cache: KVCache) -> Step | None:
    """Write a model's step for one token of each sequence as a program.

    Returns None where there is no kernel for so many sequences, or where a module cannot be traced:
    the modules then compute the step.
    """
    B, dtypes = len(cache.keys[0]), {parameter.dtype for parameter in model.parameters()}
    program = new_program(B) if dtypes == {np.dtype(np.float32)} else None
    if program is None:
        return None
    turn = model.transformer.rotation(np.zeros(1, int)) or ()
    rotation = tuple(np.empty((B, part.shape[-1]), np.float32) for part in turn)
    writing = Writing(program, cache, rotation)
    x = Row(writing, np.empty((B, model.config.n_embd), np.float32))
    try:
        logits = model.lm_head(model.transformer(x))
        return Step(program, x.array(), rotation, logits.array())
    except (AttributeError, TypeError, ValueError):  # a traced value cannot do what numbers can
        return None


class Writing(NamedTuple):
    """What all rows of a trace share."""

    program: Any  # an autograd.kernels.decode.Program, to which instructions are added
    cache: KVCache
    rotation: tuple[ndarray, ...]  # cosines and sines, (B, D / 2) each; empty without rotation


class Row(Traced):
    """Hidden states of a decoding step, (B, C): where the program leaves them.

    The kernel has one instruction for a linear layer with the activation or the sum that follows
    it. So the instruction of a linear layer waits until the trace shows what follows. In
    ``x + self.mlp(x)`` the last linear layer of the MLP waits, and the sum adds it to the program
    with x as its residual.

    Parameters
    ----------
    writing : Writing
    array : ndarray, (B, C), optional
        Where the numbers are, once the program has run up to here.
    waiting : dict, optional
        In the place of an array: the arguments of ``program.linear`` but its result.
    """

    def __init__(
        self,
        writing: Writing,
        array: ndarray | None = None,
        waiting: dict[str, Any] | None = None,
    ) -> None:
        self.writing, self._array, self._waiting = writing, array, waiting

    def array(self) -> ndarray:
        """Return where the numbers are; a linear layer that waits is added to the program."""
        if self._array is None:
            self._array = self._finish().array()
        return self._array

    def _finish(self, **follows: Any) -> Row:
        """Add the linear layer that waits, with what follows it, to the program."""
        if self._waiting is None:
            raise TypeError("an instruction has an activation or a sum only after a linear layer")
        out = self._new(self._waiting["weight"].shape[1])
        self.writing.program.linear(**self._waiting, out=out, **follows)
        return Row(self.writing, out)

    def _new(self, width: int) -> ndarray:
        return np.empty((self.writing.program.n, width), np.float32)

    def linear(self, weight: ndarray, bias: Parameter | None = None) -> Row:
        """Let a linear layer wait for what follows."""
        return self._wait(bias, weight=weight)

    def packed_linear(self, weight: PackedMatrix, bias: Parameter | None = None) -> Row:
        """Let a linear layer with a packed weight wait for what follows."""
        stored = dict(weight=weight.values.T, scale=weight.scale, packing=weight.format)
        return self._wait(bias, **stored)

    def _wait(self, bias: Parameter | None, **weight: Any) -> Row:
        numbers = None if bias is None else bias.numpy()
        return Row(self.writing, waiting=dict(x=self.array(), bias=numbers, **weight))

    def layer_norm(self, weight: Parameter, bias: Parameter | None, eps: float) -> Row:
        """Add a layer norm."""
        x = self.array()
        out = self._new(x.shape[1])
        numbers = None if bias is None else bias.numpy()
        self.writing.program.norm(x, weight.numpy(), numbers, eps, out)
        return Row(self.writing, out)

    def rms_norm(self, weight: Parameter, eps: float) -> Row:
        """Add an RMS norm."""
        x = self.array()
        out = self._new(x.shape[1])
        self.writing.program.norm(x, weight.numpy(), None, eps, out, centred=False)
        return Row(self.writing, out)

    def activation(self, function: Any) -> Row:
        """Let the linear layer that waits have an activation, and wait on."""
        if function not in ACTIVATION_NAMES:
            raise TypeError(f"the kernel has no activation {function}")
        if self._waiting is None or "activation" in self._waiting:
            raise TypeError("the kernel has an activation only after a linear layer")
        waiting = self._waiting | {"activation": ACTIVATION_NAMES[function]}
        return Row(self.writing, waiting=waiting)

    def rotate(self, head_size: int) -> Row:
        """Add the rotation of all heads."""
        x = self.array()
        out = self._new(x.shape[1])
        self.writing.program.rotate(x, *self.writing.rotation, out)
        return Row(self.writing, out)

    def split(self, n: int) -> list[Row]:
        """Return the parts of the columns, which are views."""
        return [Row(self.writing, part) for part in np.split(self.array(), n, axis=1)]

    def attend(
        self, key: Any, value: Any, layer: int, n_head: int, scale: float, window_size: int | None
    ) -> Row:
        """Add attention to all that is in the cache; the new keys and values are stored there."""
        query = self.array()
        out = self._new(query.shape[1])
        keys, values = self.writing.cache.keys[layer], self.writing.cache.values[layer]
        self.writing.program.attend(
            query, key.array(), value.array(), keys, values, out, scale, window_size
        )
        return Row(self.writing, out)

    def __mul__(self, other: Any) -> Row:
        """Add the linear layer that waits on this side, with the other side as its factor."""
        if not isinstance(other, Row):
            return NotImplemented
        return self._finish(factor=other.array())

    def __add__(self, other: Any) -> Row:
        """Add the linear layer that waits on one side, with the other side as its residual."""
        if not isinstance(other, Row):
            return NotImplemented
        if other._waiting is not None:
            return other._finish(residual=self.array())
        return self._finish(residual=other.array())


def compile_step() -> None:
    """Let a tiny model read a token by the kernel, which is then compiled; see `ahead`."""
    from npgpt.models.llama import Llama, LlamaConfig  # no other use of this file needs a Llama

    config = LlamaConfig(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=2, n_kv_head=1)
    model = Llama(config)
    model.eval()
    decoder = Decoder(model, KVCache(capacity=8))
    with autograd.no_grad():
        with autograd.use_kernels(False):  # there is a step after the first token
            decoder(np.array([[1]]))
        decoder(np.array([[2]]))
