"""An error that says what to write, for ``import autograd.numpy``, which HIPS autograd has."""

raise ImportError(
    "there is no autograd.numpy here: write `import numpy as np`, since NumPy's own functions work "
    "on tensors; for the gradient of a function use autograd.functional.grad"
)
