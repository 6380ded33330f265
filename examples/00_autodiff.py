"""Reverse-mode differentiation on a page: the idea in 25 lines, then npgen's engine doing real work with it.

python examples/00_autodiff.py [folder for the picture]
"""
import math
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from npgen import data, grad, hvp, value_and_grad

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)


# 1. The idea. Every number remembers the numbers it was made of, and its derivative by each of them. Going back from
#    the answer, each number hands its parents its own derivative times the local one: the chain rule, read from the end.

class Number:
    def __init__(self, value, parents=()):
        self.value, self.parents, self.slope = value, parents, 0.0

    def __add__(self, other):
        return Number(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        return Number(self.value * other.value, [(self, other.value), (other, self.value)])

    def sin(self):
        return Number(math.sin(self.value), [(self, math.cos(self.value))])

    def backward(self, slope=1.0):
        self.slope += slope
        for parent, local in self.parents:
            parent.backward(slope * local)


x, y = Number(2.0), Number(3.0)
z = x * y + x.sin()
z.backward()
print("by hand:  z = x y + sin x at (2, 3)")
print(f"          dz/dx = {x.slope:.6f}   dz/dy = {y.slope:.6f}")

# 2. npgen does the same for arrays. The numbers are Tensors, the code is NumPy, and one pass back gives all derivatives.
dz = grad(lambda x, y: x * y + np.sin(x), argnum=(0, 1))(np.array(2.0), np.array(3.0))
print(f"npgen:    dz/dx = {dz[0]:.6f}   dz/dy = {dz[1]:.6f}\n")

# 3. A gradient is a function like any other, so it can be differentiated again.
curves = [np.tanh]
for _ in range(3):
    curves.append(lambda t, f=curves[-1]: grad(lambda t: np.sum(f(t)))(t))
t = np.linspace(-3, 3, 301)
figure = Figure((6, 4), dpi=130, layout="constrained")
axes = figure.add_subplot(title="tanh and its derivatives")
for order, f in enumerate(curves):
    axes.plot(t, f(t), label=f"order {order}")
axes.grid(alpha=0.3)
axes.legend(frameon=False)
figure.savefig(folder / "00_autodiff.png")

# 4. Real work: logistic regression telling threes from eights. Newton's method needs the Hessian only times a vector,
#    which hvp gives at the price of two gradients; conjugate gradients solve for the step.
images, digit = data.digits()
keep = np.isin(digit, (3, 8))
train, test = data.train_test_split(images[keep].astype(np.float64) / 16)
is_eight, is_eight_test = data.train_test_split(np.where(digit[keep] == 8, 1.0, -1.0))


def loss(w):
    return np.mean(np.log1p(np.exp(-is_eight * (train @ w)))) + 1e-4 * np.sum(w * w)


def newton_step(w, g):
    step, rest = np.zeros_like(w), -g
    direction = rest
    while (size := rest @ rest) > 1e-20:
        curved = hvp(loss, w, direction)
        reach = size / (direction @ curved)
        step, rest = step + reach * direction, rest - reach * curved
        direction = rest + (rest @ rest) / size * direction
    return step


w = np.zeros(64)
print("threes and eights, Newton's method:")
for k in range(7):
    value, g = value_and_grad(loss)(w)
    print(f"  step {k}: loss {value:.6f}   |gradient| {np.linalg.norm(g):.1e}")
    w = w + newton_step(w, g)
right = np.mean(np.sign(test @ w) == is_eight_test)
print(f"  {right:.1%} of {len(test)} held-out digits told apart")
print(f"\npicture: {folder / '00_autodiff.png'}")
