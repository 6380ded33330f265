"""Data that need no file: the embedded digits, and toy densities in the plane.

Legend: n rows.
"""
from pathlib import Path

import numpy as np


def digits():
    """The 1,797 handwritten digits of UCI's optical recognition set: X (1797, 64) float32, y (1797,) int64.

    Rows are 8x8 images; values are the integers 0..16, the count of inked pixels in a 4x4 block.
    E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
    doi:10.24432/C50P49, licensed CC BY 4.0; see npgen/_assets/digits.txt.
    """
    with np.load(Path(__file__).parent.parent / "_assets" / "digits.npz", allow_pickle=False) as file:
        return file["x"].astype(np.float32), file["y"].astype(np.int64)


def moons(n, seed=0):
    """Two interleaved half circles of radius 2 with normal noise of std 0.2: (n, 2)."""
    rng = np.random.default_rng(seed)
    angle, lower = rng.uniform(0, np.pi, n), rng.integers(0, 2, n)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (1 - 2 * lower[:, None]) + lower[:, None] * [1, 0.5]
    return 2 * (x - [0.5, 0.25]) + 0.2 * rng.standard_normal((n, 2))


def rings(n, seed=0):
    """Four circles of radius 0.75, 1.5, 2.25 and 3 with normal noise of std 0.1: (n, 2)."""
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * np.pi, n), 0.75 * rng.integers(1, 5, n)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.1 * rng.standard_normal((n, 2))


def pinwheel(n, seed=0):
    """Five curved arms, twisted by exp(radius) / 4 (after Johnson et al. 2016): (n, 2)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2)) * [0.3, 0.1] + [1, 0]
    angle = 2 * np.pi / 5 * rng.integers(0, 5, n) + 0.25 * np.exp(x[:, 0])
    cos, sin = np.cos(angle), np.sin(angle)
    return 2 * np.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], axis=1)


def checkerboard(n, seed=0):
    """Uniform on the eight black squares, of side 2, of a 4x4 board on [-4, 4]^2; density 1/32 there: (n, 2)."""
    rng = np.random.default_rng(seed)
    column = rng.integers(0, 4, n)
    row = 2 * rng.integers(0, 2, n) + column % 2
    return 2 * (np.stack([column, row], axis=1) + rng.uniform(size=(n, 2))) - 4


def eight_gaussians(n, seed=0):
    """Eight normals of std 0.25, evenly spaced on a circle of radius 3: (n, 2)."""
    rng = np.random.default_rng(seed)
    angle = np.pi / 4 * rng.integers(0, 8, n)
    return 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.25 * rng.standard_normal((n, 2))


TOYS = {"moons": moons, "rings": rings, "pinwheel": pinwheel, "checkerboard": checkerboard,
        "eight-gaussians": eight_gaussians}
BUILT_IN = ("digits", *TOYS)
