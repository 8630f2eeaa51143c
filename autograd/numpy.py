"""What ``import autograd.numpy``, a habit from another package of this name, ends in."""

raise ImportError(
    "there is no autograd.numpy here: write `import numpy as np`, since NumPy's own functions work "
    "on tensors; for the gradient of a function use autograd.functional.grad"
)
