"""Hypothesis strategies for the inputs that generative models meet, well- and ill-conditioned. Needs hypothesis.

    arrays       floats of a dtype and shape, as wild as asked for
    rows         tables (n, d) that a model can be fitted to, in any units
    covariances  positive definite matrices up to a condition number
    masks        0/1 matrices, staircases among them
"""
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DTYPES = (np.float32, np.float64)


def dtypes():
    """float32 or float64."""
    return st.sampled_from(DTYPES)


def arrays(dtype=np.float64, shape=None, *, largest=10.0, special=False):
    """Arrays of `dtype` with values up to `largest` in size; with `special`, also NaN, infinities, subnormals and huge values.

    shape: a tuple, a strategy, or by default any shape of up to three dims.
    """
    shape = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5) if shape is None else shape
    width = np.dtype(dtype).itemsize * 8
    if special:
        return hnp.arrays(dtype, shape, elements=st.floats(width=width))
    bound = float(np.array(largest, dtype))
    return hnp.arrays(dtype, shape, elements=st.floats(-bound, bound, width=width, allow_subnormal=False))


@st.composite
def rows(draw, dtype=np.float64, *, min_rows=2, max_rows=60, max_columns=5, orders=6, kind="real"):
    """Tables (n, d) that a model can be fitted to.

    kind: "real", each column in units of its own, centre and scale up to 10^+-orders, two columns nearly equal now and then;
    "binary", 0 and 1; "integers", counts from 0 to 9.
    """
    n, d = draw(st.integers(min_rows, max_rows)), draw(st.integers(1, max_columns))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "binary":
        return rng.integers(0, 2, (n, d)).astype(dtype)
    if kind == "integers":
        return rng.integers(0, 10, (n, d)).astype(dtype)
    x = rng.normal(size=(n, d))
    if d > 1 and draw(st.booleans()):
        x[:, 1] = x[:, 0] + 1e-3 * x[:, 1]
    scale, centre = (10.0 ** np.array(draw(st.lists(st.integers(-orders, orders), min_size=d, max_size=d))) for _ in range(2))
    return (x * scale + centre * draw(st.sampled_from((-1, 0, 1)))).astype(dtype)


@st.composite
def covariances(draw, d=None, *, condition=1e6):
    """Symmetric positive definite matrices (d, d) with eigenvalues from 1 / condition to 1, in random directions."""
    d = draw(st.integers(1, 6)) if d is None else d
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    eigenvalues = condition ** -rng.uniform(0, 1, d)
    return (rotation * eigenvalues) @ rotation.T


@st.composite
def masks(draw, max_side=12):
    """0/1 matrices (i, j): random, all ones, all zeros, or a staircase as sorted degrees give it."""
    i, j = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    kind = draw(st.sampled_from(("random", "ones", "zeros", "staircase")))
    if kind == "random":
        return draw(hnp.arrays(bool, (i, j)))
    if kind == "staircase":
        inputs, outputs = (np.sort(draw(hnp.arrays(np.int64, n, elements=st.integers(0, max_side)))) for n in (i, j))
        return inputs[:, None] <= outputs[None, :]
    return np.full((i, j), kind == "ones")
