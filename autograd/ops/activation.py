"""Activations: functions of one element that networks put between their layers.

Their forms avoid two dangers of the textbook's: an exponential that overflows, and a difference of
two numbers that are nearly equal. sigmoid(-1000) as 1 / (1 + exp(1000)) would divide by infinity,
and 1 - sigmoid(40) would be 0 in the place of 4e-18.
"""

import math

import numpy as np

from autograd.engine import TensorBase
from autograd.kernels import kernel
from autograd.op import op
from autograd.ops import special
from autograd.ops.checks import check_floats, check_number
from autograd.precision import in_float, in_single


@op(kinks=(0.0,))
def relu(input):
    """max(0, x); the gradient at 0 is 0."""
    return np.maximum(input, 0)


relu.formula("out = max(input, 0); dinput = g · [input > 0]")
relu.vjp(input=lambda g, out: g * (out > 0))


@op(kinks=(0.0,))
def leaky_relu(input, negative_slope=0.01):
    """Return x where it is positive, negative_slope x elsewhere; at 0 the gradient is the slope."""
    check_number("leaky_relu", "negative_slope", negative_slope)
    return np.where(input > 0, input, negative_slope * input)


leaky_relu.formula(
    "a = [input > 0] + negative_slope · [input ≤ 0]; out = a · input; dinput = a · g"
)


@leaky_relu.vjp("input")
def _(g, input, negative_slope):
    return np.where(input > 0, g, negative_slope * g)


@op(kinks=(0.0,))
def elu(input, alpha=1.0):
    """Return x where it is positive, alpha (e^x - 1) elsewhere; at 0 the gradient is alpha.

    Clevert, Unterthiner and Hochreiter 2015, arXiv:1511.07289.
    """
    check_number("elu", "alpha", alpha)
    return np.where(input > 0, input, alpha * np.expm1(np.minimum(input, 0)))


elu.formula(
    """
    e = alpha · exp(min(input, 0))
    out = [input > 0] · input + [input ≤ 0] · (e - alpha)
    dinput = g · ([input > 0] + [input ≤ 0] · e)
    """
)


@elu.vjp("input")
def _(g, input, alpha):
    # The derivative for x < 0, alpha e^x, is also out + alpha, but that sum loses digits: for
    # x = -20, out is -0.999999998 alpha, and 2e-9 alpha would be left with half of its digits.
    return np.where(input > 0, g, g * (alpha * np.exp(np.minimum(input, 0))))


@op(kinks=(-1.0, 1.0))
def hardtanh(input, min_val=-1.0, max_val=1.0):
    """Limit x to [min_val, max_val]; at a bound the gradient is 0, unlike that of ``np.clip``."""
    check_number("hardtanh", "min_val", min_val)
    check_number("hardtanh", "max_val", max_val)
    if not min_val <= max_val:
        raise ValueError(
            f"hardtanh: min_val is {min_val} and max_val {max_val}; expected min_val <= max_val"
        )
    return np.clip(input, min_val, max_val)


hardtanh.formula(
    "out = min(max(input, min_val), max_val); dinput = g · [input > min_val and input < max_val]"
)


@hardtanh.vjp("input")
def _(g, input, min_val, max_val):
    return np.where((input <= min_val) | (input >= max_val), 0, g)


def relu6(input):
    """min(max(0, x), 6); the gradient at 0 and at 6 is 0."""
    return hardtanh(input, 0.0, 6.0)


@op
def hardswish(input):
    """Return x relu6(x + 3) / 6, which is 0 up to -3, and x from 3 on.

    Howard et al. 2019, arXiv:1905.02244, section 5.2.
    """
    input = in_float(input)
    x = in_single(input)
    return (x * (np.clip(x + 3, 0, 6) / 6)).astype(input.dtype, copy=False)


hardswish.formula(
    """
    out = input · min(max(input + 3, 0), 6) / 6
    dinput = g · ([input ≥ 3] + [input > -3 and input < 3] · (input / 3 + 1/2))
    """
)


@hardswish.vjp("input")
def _(g, input):
    # (x + 3/2) / 3: in x / 3 + 1/2, the rounding of x / 3 would be left near x = -3/2
    slope = np.where(input < 3, g * ((input + 1.5) / 3), g)
    return np.where(input <= -3, 0, slope)


@hardswish.sample
def _(draw):
    return draw.call(draw.array(low=-4, high=4, kinks=(-3.0, 3.0)))


# With e = exp(-|x|), which is at most 1, sigmoid(x) is 1 / (1 + e) for x >= 0 and e / (1 + e) for
# x < 0. The derivative is sigmoid(x) sigmoid(-x); its other form, s (1 - s), loses the digits of
# 1 - s where s is close to 1.


@op
@kernel("activation.sigmoid")
def sigmoid(input):
    """1 / (1 + e^-x)."""
    input = in_float(input)
    x = in_single(input)
    e = np.exp(-np.absolute(x))
    return (np.where(x < 0, e, 1) / (1 + e)).astype(input.dtype, copy=False)


sigmoid.formula("out = 1 / (1 + exp(-input)); dinput = g · out / (1 + exp(input))")


@sigmoid.vjp("input")
@kernel("activation.sigmoid_vjp")
def _(g, input, out):
    return g * (out * sigmoid(-input))


@op
@kernel("activation.silu", check=lambda input: check_floats("silu", input=input))
def silu(input):
    """Swish, x sigmoid(x)."""
    x = in_single(input)
    return (x * sigmoid(x)).astype(input.dtype, copy=False)


silu.formula("s = 1 / (1 + exp(-input)); out = input · s; dinput = g · (s + input · s · (1 - s))")


@silu.vjp("input")
@kernel("activation.silu_vjp")
def _(g, input, out):
    s = sigmoid(input)
    return g * (s + out * (1 - s))


@op
def softplus(input, beta=1.0, threshold=math.inf):
    """log(1 + e^(beta x)) / beta, without overflow; x itself where beta x is above a threshold.

    PyTorch's threshold is 20, which changes the result by up to 2e-9 there. Here it is infinite
    unless given, since the function is exact without it.
    """
    check_number("softplus", "beta", beta)
    check_number("softplus", "threshold", threshold)
    out = np.logaddexp(beta * input, 0) / beta
    return out if threshold == math.inf else np.where(beta * input > threshold, input, out)


@softplus.formula
def _(threshold=math.inf):
    if threshold == math.inf:
        return """
            out = (max(beta · input, 0) + log(1 + exp(-|beta · input|))) / beta
            dinput = g / (1 + exp(-beta · input))
        """
    return """
        above = [beta · input > threshold]
        soft = (max(beta · input, 0) + log(1 + exp(-|beta · input|))) / beta
        out = above · input + (1 - above) · soft
        dinput = g · (above + (1 - above) / (1 + exp(-beta · input)))
    """


@softplus.vjp("input")
def _(g, input, beta, threshold):
    slope = g * sigmoid(beta * input)
    return slope if threshold == math.inf else np.where(beta * input > threshold, g, slope)


@softplus.sample
def _(draw):
    beta, threshold = draw.choice([1.0, 2.5]), draw.choice([math.inf, 0.0])
    kinks = () if threshold else (0.0,)
    return draw.call(draw.array(kinks=kinks), beta, threshold)


def logsigmoid(input):
    """log(sigmoid(x)), without overflow."""
    return -softplus(-input)


def check_gelu(input, approximate="none"):
    """Raise unless input holds floating-point numbers, and the approximation has a known name."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate is {approximate!r}; expected 'none' or 'tanh'")
    check_floats("gelu", input=input)


def in_blocks(function, *arrays, size=16384):
    """Return ``function(*arrays)`` for a function of single elements, computed block by block.

    A function that takes ten passes over an array of 100 MB would read 1 GB from memory. A block is
    small enough to stay in the cache: all passes but the first find it there. Tensors are given to
    the function as they are, since each block would be an op on the tape.
    """
    if any(isinstance(x, TensorBase) for x in arrays):
        return function(*arrays)
    out = np.empty_like(arrays[0], order="C")
    *parts, target = (x.reshape(-1) for x in (*arrays, out))
    for start in range(0, target.size, size):
        block = slice(start, start + size)
        target[block] = function(*(x[block] for x in parts))
    return out


@op
@kernel("activation.gelu", check=check_gelu)
def gelu(input, approximate="none"):
    """Gaussian error linear unit, x Phi(x), with Phi the normal distribution function.

    ``approximate="tanh"`` takes 1/2 (1 + tanh(u)) for Phi, with u = sqrt(2/pi) (x + 0.044715 x^3):
    GPT-2's choice. Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    out = in_blocks(lambda x: x * _normal_cdf(x, approximate), in_single(input))
    return out.astype(input.dtype, copy=False)


_SQRT_2_PI = math.sqrt(2 / math.pi)


def _normal_cdf(x, approximate):
    """Return Phi(x), or its approximation, for an array or a Tensor."""
    if approximate == "tanh":  # 1/2 (1 + tanh(u)) = 1 / (1 + exp(-2u)), at half the cost
        with np.errstate(over="ignore"):  # exp may overflow: 1 / infinity is 0, as Phi is there
            minus_2u = x * (x * x * (-2 * 0.044715 * _SQRT_2_PI) - 2 * _SQRT_2_PI)
            if isinstance(x, TensorBase):  # the derivative of the quotient would be NaN there
                return sigmoid(-minus_2u)
            return 1 / (1 + np.exp(minus_2u))
    return (1 + erf(x * math.sqrt(0.5))) * 0.5


@gelu.formula
def _(approximate="none"):
    if approximate == "tanh":
        return """
            u = sqrt(2 / π) · (input + 0.044715 · input^3)
            out = input · (1 + tanh(u)) / 2
            du = sqrt(2 / π) · (1 + 3 · 0.044715 · input^2)
            dinput = g · ((1 + tanh(u)) / 2 + input · du / (2 · cosh(u)^2))
        """
    return """
        Φ = (1 + erf(input / sqrt(2))) / 2
        out = input · Φ
        dinput = g · (Φ + input · exp(-input^2 / 2) / sqrt(2 · π))
    """


@gelu.vjp("input")
@kernel("activation.gelu_vjp")
def _(g, input, approximate, out):
    # g (Phi + x dPhi/dx). The kernel divides `out` by x where it can, and so need not compute Phi.
    def gradient(g, x):
        phi = _normal_cdf(x, approximate)
        with np.errstate(over="ignore"):
            square = x * x
        if approximate == "tanh":  # dPhi/dx = 2 Phi (1 - Phi) du/dx
            square = np.minimum(square, 1600)  # for |x| > 40, Phi (1 - Phi) is 0 anyhow
            density = phi * (1 - phi) * (square * (6 * 0.044715 * _SQRT_2_PI) + 2 * _SQRT_2_PI)
        else:  # dPhi/dx is the normal density
            density = np.exp(-0.5 * square) * (1 / math.sqrt(2 * math.pi))
        return g * (phi + x * density)

    return in_blocks(gradient, g, input)


@gelu.reference
def _(input, approximate):
    if approximate == "tanh":
        x = np.clip(input, -40, 40)  # x^3 may be out of range; for |x| > 40, tanh is -1 or 1
        return input * 0.5 * (1 + np.tanh(_SQRT_2_PI * (x + 0.044715 * x**3)))
    return input * 0.5 * (1 + erf(input * math.sqrt(0.5)))


@gelu.sample
def _(draw):
    return draw.call(draw.array(low=-4, high=4), draw.choice(["none", "tanh"]))


@op
def erf(input):
    """Error function: 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return special.erf(in_float(input))


erf.formula("out = erf(input); dinput = g · 2 / sqrt(π) · exp(-input^2)")
erf.vjp(input=lambda g, input: g * (2 / math.sqrt(math.pi) * np.exp(-input * input)))


@op(domain={"input": (0.5, 2.0)})
def rsqrt(input):
    """1 / sqrt(x)."""
    return 1 / np.sqrt(input)


rsqrt.formula("out = 1 / sqrt(input); dinput = -g / (2 · input^(3/2))")
rsqrt.vjp(input=lambda g, out: g * (-0.5 * out * out * out))
