"""Rotary position embedding: pairs of channels are rotated, by angles that the position decides."""

import numpy as np

from autograd.kernels import kernel
from autograd.op import op
from autograd.ops.checks import check_floats
from autograd.precision import in_single


def check_rope(input, cos, sin):
    """Raise unless cos and sin have a number for each pair of channels, and broadcast to input."""
    check_floats("rope", input=input, cos=cos, sin=sin)
    half = input.shape[-1] // 2 if input.ndim else 0
    lead = input.shape[:-1]
    added = len(lead) - (cos.ndim - 1)
    if (
        not input.ndim
        or input.shape[-1] % 2
        or cos.shape != sin.shape
        or cos.shape[-1:] != (half,)
        or added < 0
        or any(n not in (1, lead[added + i]) for i, n in enumerate(cos.shape[:-1]))
    ):
        raise ValueError(
            f"rope: input {input.shape}, cos {cos.shape} and sin {sin.shape} do not fit; expected "
            "(..., D) with an even D, and twice (..., D / 2), which broadcasts to input"
        )


# With D = 4 channels, channel 0 and channel 2 are a pair, and so are 1 and 3: a pair lies half a
# row apart. The vector (x0, x2) is rotated by the first angle a, and (x1, x3) by the second b:
#
#     [x0 cos a - x2 sin a,  x1 cos b - x3 sin b,  x2 cos a + x0 sin a,  x3 cos b + x1 sin b]
#
# A scalar product of two rotated vectors depends on the difference of their angles alone. So the
# score of a query and a key depends on how far apart they stand, and not on where they stand.


@op(broadcasts=True)
@kernel("rotary.rope", check=check_rope)
def rope(input, cos, sin):
    """Rotate pairs of channels, (x_i, x_{i + D/2}), by angles with this cosine and this sine.

    Shapes: ``input (..., D)``; ``cos`` and ``sin (..., D / 2)`` broadcast over the axes before the
    last. Su et al. 2021, arXiv:2104.09864, equation 34, in the order of channels of Llama's files
    in transformers.
    """
    x, cos, sin = map(in_single, (input, cos, sin))
    first, second = halves(x)  # (..., D / 2)
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return np.concatenate(rotated, axis=-1).astype(input.dtype, copy=False)


def halves(x):
    """Return the two halves of the channels: ``(..., D) ->`` twice ``(..., D / 2)``."""
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


rope.formula(
    """
    out_i = cos_{mod(i, h)} · input_i + sin_{mod(i, h)} · (input_{i - h} - input_{i + h})
    dinput_i = cos_{mod(i, h)} · g_i + sin_{mod(i, h)} · (g_{i + h} - g_{i - h})
    dcos_j = Σ_i [mod(i, h) = j] · g_i · input_i
    dsin_j = Σ_i [mod(i, h) = j] · g_i · (input_{i - h} - input_{i + h})
    """,
    h=lambda cos_shape: cos_shape[-1],
)


def pairs_with(g, input):
    """Return the halves of a cotangent and of the input."""
    return (*halves(g), *halves(input))


@rope.vjp("cos")
def _(g, input):
    g_first, g_second, first, second = pairs_with(g, input)
    return g_first * first + g_second * second


@rope.vjp("sin")
def _(g, input):
    g_first, g_second, first, second = pairs_with(g, input)
    return g_second * first - g_first * second


rope.vjp(input=lambda g, cos, sin: rope(g, cos, -sin))  # the inverse of a rotation is its transpose


@rope.reference
def _(input, cos, sin):
    first, second = halves(input)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


@rope.sample
def _(draw):
    lead, half = draw.shape(max_dims=2), draw.integer(1, 3)
    table = draw.choice([(*lead[-1:], half), (*lead, half), (half,)])
    input = draw.array(shape=(*lead, 2 * half))
    return draw.call(input, draw.array(shape=table), draw.array(shape=table))
