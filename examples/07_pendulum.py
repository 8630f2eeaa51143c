"""Simulate a double pendulum from its energy: the equations of motion are derivatives of it.

    python examples/07_pendulum.py

Hamilton's equations say dq/dt = dH/dp and dp/dt = -dH/dq. The program states only the energy H, as
a function of the angles q and the momenta p of two unit masses on two unit rods; `grad` computes
the derivatives. The mass matrix of the kinetic energy depends on the angles, so its inverse is
differentiated, too.
"""

import numpy as np

from autograd.functional import grad, jacobian

GRAVITY = 9.81


def hamiltonian(q, p):
    """Return kinetic plus potential energy."""
    c = np.cos(q[0] - q[1])
    mass = np.stack([np.stack([2 + 0 * c, c]), np.stack([c, 1 + 0 * c])])  # (2, 2)
    kinetic = 0.5 * p @ np.linalg.solve(mass, p)
    potential = -GRAVITY * (2 * np.cos(q[0]) + np.cos(q[1]))
    return kinetic + potential


by_q, by_p = grad(hamiltonian, 0), grad(hamiltonian, 1)


def flow(state):
    """Return the time derivative of (q, p)."""
    q, p = state[:2], state[2:]
    return np.concatenate([by_p(q, p), -by_q(q, p)])


def step(state, dt):
    """Advance by the implicit midpoint rule, solved by Newton: it keeps the phase-space volume."""
    new = state + dt * flow(state)
    for _ in range(8):
        middle = (state + new) / 2
        error = new - state - dt * flow(middle)
        slope = np.eye(4) - dt / 2 * jacobian(flow)(middle)  # second derivatives of H
        new = new - np.linalg.solve(slope, error)
        if np.abs(error).max() < 1e-12:
            break
    return new


def draw(q, width=41):
    """Return a picture of the two rods."""
    rows = [[" "] * width for _ in range(11)]
    joints = [(0.0, 0.0), (np.sin(q[0]), np.cos(q[0]))]
    joints.append((joints[1][0] + np.sin(q[1]), joints[1][1] + np.cos(q[1])))
    for (x0, y0), (x1, y1) in zip(joints, joints[1:], strict=False):
        for t in np.linspace(0, 1, 30):
            x, y = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
            rows[round(5 + 2.4 * y)][round(width / 2 + 5 * x)] = "·"
    for (x, y), mark in zip(joints, "+oO", strict=True):
        rows[round(5 + 2.4 * y)][round(width / 2 + 5 * x)] = mark
    return ["".join(row).rstrip() for row in rows]


state = np.array([2.0, 2.5, 0.0, 0.0])
start = hamiltonian(state[:2], state[2:])
dt = 0.02
pictures = []
for i in range(61):
    if i % 30 == 0:
        pictures.append((i * dt, draw(state[:2])))
    if i % 10 == 0:
        energy = hamiltonian(state[:2], state[2:])
        print(f"t = {i * dt:4.2f}  angles {state[0]:+.4f} {state[1]:+.4f}  "
              f"energy off by {energy - start:+.1e}")  # fmt: skip
    state = step(state, dt)
for time, picture in pictures:
    print(f"\nt = {time:.1f}")
    print("\n".join(picture))

# Such a flow conserves volume in phase space (Liouville), and so does the implicit midpoint rule:
# the determinant of the Jacobian of one step is 1. To compute this Jacobian, we differentiate
# through Newton's method, which uses second derivatives of the energy. So third derivatives are
# needed.
J = jacobian(lambda state: step(state, dt))(state)
print(f"\ndeterminant of the Jacobian of a step: 1 {np.linalg.det(J) - 1:+.1e}")
