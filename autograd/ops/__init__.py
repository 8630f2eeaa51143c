"""The ops: one file for each kind. `autograd.fast` comes first: it chooses the class of an op."""

from autograd import fast as fast
from autograd.dispatch import RARELY_USED

RARELY_USED += [
    "autograd.ops.arranging",
    "autograd.ops.convolution",
    "autograd.ops.decomposition",
    "autograd.ops.products",
    "autograd.ops.sampled",
    "autograd.ops.statistics",
    "autograd.ops.ufunc_methods",
    "autograd.ops.ufuncs",
]
