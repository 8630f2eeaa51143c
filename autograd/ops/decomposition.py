"""The functions of ``np.linalg`` that few programs call."""

import math

import numpy as np

from autograd.ops.composing import composes

# ---- equations of tensors, as equations of matrices


@composes(np.linalg.tensorinv)
def _(a, ind=2):
    shape = np.shape(a)
    matrix = np.reshape(a, (math.prod(shape[ind:]), -1))
    return np.reshape(np.linalg.inv(matrix), shape[ind:] + shape[:ind])


@composes(np.linalg.tensorsolve, inputs=("a", "b"))
def _(a, b, axes=None):
    order = list(range(np.ndim(a)))
    for axis in axes or ():
        order.remove(axis)
        order.append(axis)
    a = np.transpose(a, order)
    shape = a.shape[np.ndim(b) - a.ndim :]
    n = math.prod(shape)
    return np.reshape(np.linalg.solve(np.reshape(a, (n, n)), np.reshape(b, -1)), shape)
