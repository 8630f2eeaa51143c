"""Backpropagation on paper: a two-layer net with numbers small enough to check by hand.

    h = tanh(W1 x + b1)        two hidden units
    y = w2 . h                 one output
    loss = (y - t)^2

The program first prints every value of the forward pass. Then it prints the backward pass. For each
operation it shows the cotangent (the derivative of the loss with respect to the result), the local
derivatives, written by hand, and the product of both that goes to each input. The products come
from an observer of the engine's own backward pass, and the program checks each product against the
local derivative.
"""

import numpy as np

import autograd


def show(value):
    """Return a number or an array in four digits, on one line."""
    text = np.array2string(np.asarray(value), precision=4, suppress_small=True)
    return text.replace("\n", "")


x = np.array([1.0, 2.0])
t = 0.5
W1 = autograd.tensor([[0.1, -0.2], [0.4, 0.3]], requires_grad=True)
b1 = autograd.tensor([0.0, -0.5], requires_grad=True)
w2 = autograd.tensor([0.7, -0.6], requires_grad=True)

# ---- forward: each line puts one operation on the tape

a = W1 @ x
z = a + b1
h = np.tanh(z)
p = w2 * h
y = p.sum()
e = y - t
loss = e * e

values = {
    "W1": W1,
    "b1": b1,
    "w2": w2,
    "a": a,
    "z": z,
    "h": h,
    "p": p,
    "y": y,
    "e": e,
    "loss": loss,
}
formulas = {
    "a": "W1 x", "z": "a + b1", "h": "tanh(z)", "p": "w2 * h", "y": "sum(p)", "e": "y - t",
    "loss": "e * e",
}  # fmt: skip

print("forward\n")
for name, formula in formulas.items():
    print(f"  {name:>4} = {formula:<7} = {show(values[name].numpy())}")

# ---- the local derivatives, by hand: (result, input) -> the formula, and its value

local = {
    ("loss", "e"): ("e, once for each factor", e.numpy()),
    ("e", "y"): ("1", 1.0),
    ("y", "p"): ("1 for each element", np.ones(2)),
    ("p", "w2"): ("h", h.numpy()),
    ("p", "h"): ("w2", w2.numpy()),
    ("h", "z"): ("1 - h^2", 1 - h.numpy() ** 2),
    ("z", "a"): ("1", np.ones(2)),
    ("z", "b1"): ("1", np.ones(2)),
    ("a", "W1"): ("x, in each row", np.stack([x, x])),
}

# ---- backward: from the loss down, in the order in which the engine does it


class Narrator:
    """An observer that prints the backward pass, with the names from above."""

    names = {value._node.number: name for name, value in values.items()}

    def visit(self, node, cotangent):
        """Show an operation's result, and its cotangent."""
        self.result, self.cotangent = self.names[node.number], np.asarray(cotangent)
        print(f"\n  d loss / d {self.result} = {show(cotangent)}")

    def edge(self, node, name, parent, contribution):
        """Show a local derivative, and the contribution to the input."""
        to = self.names[parent.number]
        what, derivative = local[self.result, to]
        print(f"      d {self.result} / d {to} = {what} = {show(derivative)}")
        print(f"          times that: {show(contribution)} to {to}")
        above = self.cotangent[:, None] if to == "W1" else self.cotangent
        assert np.allclose(contribution, above * derivative, rtol=1e-14)


print("\nbackward")
with autograd.observe(Narrator()):
    loss.backward()

print("\ngradients: what arrived, added up\n")
for name in ("w2", "b1", "W1"):
    print(f"  d loss / d {name} = {show(values[name].grad.numpy())}")
