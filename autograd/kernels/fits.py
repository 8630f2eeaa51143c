"""Coefficients of the polynomials behind exp and erf, which processors have no instruction for.

The highest power comes first. All are fits of our own, near-minimax: the largest error over the
interval is almost the smallest possible. They are plain numbers, which the functions of NumPy
(`autograd.ops.special`) and the kernels (`autograd.kernels.vector`) both read.
"""

# exp(r) = 1 + r + r^2 q(r) for |r| <= log(2) / 2. Largest error: 3.2e-9, and 3.5e-18.
EXP32 = (0.0013950532, 0.008368919, 0.041666206, 0.16666518, 0.5)
EXP64 = (
    2.5116151098258088e-08, 2.763138042952128e-07, 2.7557221958425745e-06, 2.480148965603405e-05,
    0.000198412699106747, 0.0013888888947302942, 0.008333333333310542, 0.041666666666514245,
    0.16666666666666693, 0.5000000000000013,
)  # fmt: skip

# erf in float32: u = x P(t) / (Q - t), with t = x^2, fits erf / sqrt(1 - erf^2) for |x| < 3.86.
# Then erf = u / sqrt(1 + u^2), which no rounding brings above 1. The relative error is at most
# 3.0e-7, over all numbers of [2^-12, 4).
# erf in float64: x P(t) / Q(t) for |x| < 5.9, with a relative error of at most 9.5e-16. The leading
# coefficient of Q is 1, and is left out.
# Beyond the clipping points both give exactly 1, as erf rounded to the type is.
ERF32_P = (
    9.595246e-05, 0.00089161657, 0.012587574, 0.14562193, 1.0983784, 4.998386, 20.201303,
)  # fmt: skip
ERF32_Q = 17.902939
ERF32_CLIP = 3.9375
ERF64_P = (
    0.017808110462299687, 25.07134750763635, 3723.1011994415794, 190523.98451790612,
    7494952.601841115, 187531582.97877413, 4324676177.23426, 63057731537.47865, 949928264495.1384,
    7639841912361.691, 73516284451267.38, 244559211773204.44, 1256249203012735.8,
)  # fmt: skip
ERF64_Q = (
    372.1547797064394, 28314.292094743694, 1246315.660794074, 38935995.73424658, 924899199.2628037,
    17174357939.054602, 250698963765.9713, 2845933766138.6514, 24416518971038.367,
    149767339840164.6, 587842247937066.0, 1113321868788454.4,
)  # fmt: skip
ERF64_CLIP = 5.9375
