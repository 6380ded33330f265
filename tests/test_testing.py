"""The checks that npgen.testing offers find what they are for."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgen import GaussianMixture, ops
from npgen.kernels import Kernel, KernelError
from npgen.testing import check_grads, check_kernel, gradients, strategies

X = np.random.default_rng(0).normal(size=(4, 3))


def test_check_grads_finds_a_wrong_derivative_at_its_order():
    wrong = ops.op(lambda x: x ** 3, lambda ans, x: lambda g: g * 3.0001 * x ** 2, name="wrong")
    with pytest.raises(AssertionError, match=r"check_grads: at order 1, <v, vjp\(w\)> is"):
        check_grads(wrong, X)
    halting = ops.op(lambda x: x ** 3, lambda ans, x: lambda g: g * 3 * ops.stop_gradient(x) ** 2, name="halting")
    check_grads(halting, X, order=1)
    with pytest.raises(AssertionError, match="check_grads: at order 2"):
        check_grads(halting, X)
    flat = ops.op(lambda x: x ** 3, lambda ans, x: lambda g: g * 3 * flat_square(x), name="flat")
    flat_square = ops.op(lambda x: x ** 2, lambda ans, x: lambda g: g * 2 * ops.stop_gradient(x), name="flat_square")
    check_grads(flat, X, order=2)
    with pytest.raises(AssertionError, match="check_grads: at order 3"):
        check_grads(flat, X, order=3)


def test_check_grads_finds_one_wrong_entry_and_one_wrong_argument():
    def rule(ans, x, y):
        return lambda g: g * np.where(np.arange(12).reshape(4, 3) == 7, y * 1.001, y)

    entry = ops.op(np.multiply.__call__, rule, lambda ans, x, y: lambda g: g * x, name="entry")
    with pytest.raises(AssertionError, match="at order 1"):
        check_grads(entry, X, X[::-1].copy())
    swapped = ops.op(np.multiply.__call__, lambda ans, x, y: lambda g: g * y, lambda ans, x, y: lambda g: g * y, name="swapped")
    with pytest.raises(AssertionError, match="at order 1"):
        check_grads(swapped, X, X[::-1].copy())


def test_check_grads_takes_structures_and_any_dtype():
    check_grads(lambda p, y: p["a"] * p["b"][0] + y, {"a": np.float32(X), "b": [X]}, 2)


def _same(x, out):
    return x * 2


BENDS = {  # name -> (a function, its derivative, a place), such that differences over one step or another are wrong
    "a kink nearby": (lambda x: np.maximum(x, 0) + x, lambda x: (x > 0) + 1, [1e-8, -1e-8, 1.0]),
    "a small slope far up": (lambda x: 1e5 + 1e-3 * np.sin(x), lambda x: 1e-3 * np.cos(x), [0.5, 1.0, 2.0]),
    "a sharp bend": (lambda x: np.exp(1e3 * x), lambda x: 1e3 * np.exp(1e3 * x), [1e-3, 2e-3, -1e-3]),
    "an inflection": (lambda x: x ** 3 + x, lambda x: 3 * x ** 2 + 1, [1e-30, 1.0, -1.0]),
}


def _judge(f, derivative, at):
    op = ops.op(f, lambda ans, x: lambda g: g * derivative(x), name="bend")
    return gradients._derivatives([(lambda p: np.sum(op(p["x"])), {"x": np.array(at)})], np.random.default_rng(0))


@pytest.mark.parametrize("name", BENDS)
def test_a_gradient_is_told_from_a_wrong_one_wherever_f_bends(name):
    f, derivative, at = BENDS[name]
    right = _judge(f, derivative, at)
    assert right.passed
    percent = float(right.catches.removeprefix("derivatives off by ").removesuffix("%"))
    assert percent < 1
    for factor in (1 + 3 * percent / 100, -1, np.nan):
        assert not _judge(f, lambda x, factor=factor: factor * derivative(x), at).passed


@pytest.mark.parametrize(("f", "right", "wrong"), [(lambda x: np.maximum(x, 0), (0, 0.5, 1), (-0.1, 1.1)),
                                                   (lambda x: 1e5 + 0 * x, (0,), (1e-6, -1))], ids=["at a kink", "flat"])
def test_a_gradient_where_there_is_no_slope(f, right, wrong):
    for slope in right + wrong:
        assert _judge(f, lambda x, slope=slope: slope, [1e-99]).passed == (slope in right)


def _kernel(numba):
    return Kernel("example", "x(N,D) out(N,D)", reference=_same, numba=numba)


def test_check_kernel_accepts_what_agrees():
    check_kernel(_kernel(_same), X, X)
    check_kernel(_kernel(lambda x, out: x * (2 + 1e-6)), X, X, rtol=1e-5)
    check_kernel(_kernel(lambda x, out: x * 2 + np.float64(1e-6)), X, X, atol=np.full((4, 3), 2e-6))
    check_kernel(_kernel(_same), X * np.nan, X)
    check_kernel(_kernel(_same), X[:0], X[:0])


@pytest.mark.parametrize("numba, words", [
    (lambda x, out: x * (2 + 1e-6), r"check_kernel: example gives .* at \(0, 0\), its reference"),
    (lambda x, out: np.where(np.arange(12).reshape(4, 3) == 7, np.nan, x * 2), r"gives nan at \(2, 1\)"),
    (lambda x, out: (x * 2).astype(np.float32), "float32"),
    (lambda x, out: x[:2] * 2, r"\(2, 3\)"),
    (lambda x, out: (out.fill(0), x * 2)[1], r"gives 0.0 at \(0, 0\)"),
], ids=["value", "nan", "dtype", "shape", "writes"])
def test_check_kernel_finds(numba, words):
    with pytest.raises(AssertionError, match=words):
        check_kernel(_kernel(numba), X, X)


def test_check_kernel_passes_on_a_refused_launch():
    with pytest.raises(KernelError, match="example: out has shape"):
        check_kernel(_kernel(_same), X, X[:2])


# ---------------------------------------------------------------- strategies

@given(st.data(), strategies.dtypes())
def test_strategies_give_what_they_say(data, dtype):
    x = data.draw(strategies.rows(dtype))
    assert x.dtype == dtype and x.ndim == 2 and len(x) >= 2 and np.isfinite(x).all()
    assert np.isin(data.draw(strategies.rows(dtype, kind="binary")), (0, 1)).all()
    assert (data.draw(strategies.rows(kind="integers")) % 1 == 0).all()
    assert np.abs(data.draw(strategies.arrays(dtype, (3, 2), largest=4))).max() <= 4
    assert data.draw(strategies.arrays(dtype, special=True)).dtype == dtype
    c = data.draw(strategies.covariances(condition=1e4))
    assert np.linalg.cholesky(c).shape == c.shape and np.linalg.cond(c) < 2e4
    assert data.draw(strategies.masks()).dtype == bool


@pytest.mark.filterwarnings("ignore:fit. in some direction components")  # columns may be all but the same
@given(strategies.rows(min_rows=10, orders=3))
def test_a_mixture_of_one_normal_takes_any_rows(x):
    model = GaussianMixture(random_state=0).fit(x)
    assert np.isfinite(model.log_prob(x)).all()
    np.testing.assert_allclose(model.means_[0], x.mean(axis=0), rtol=1e-6, atol=1e-6 * np.abs(x).max())
