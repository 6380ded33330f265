"""The engine: derivatives of any order, structures, memory, long tapes, threads, and what it refuses."""
import gc
import operator
import threading
import tracemalloc

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from npgen import ops
from npgen.engine import NoRuleError, Primitive, Tensor, grad, hvp, jacobian, value_and_grad, vjp
from npgen.testing import check_grads

rng = np.random.default_rng(0)
X, W, B = rng.normal(size=(4, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)


# --- values and structures -------------------------------------------------------------------------------------------

def network(params, x):
    h = np.tanh(x @ params["layers"][0]["w"] + params["layers"][0]["b"])
    return h @ params["layers"][1][0] * params["scale"]


PARAMS = {"layers": [{"w": W, "b": B}, (rng.normal(size=(2, 3)),)], "scale": np.array(1.5)}


def test_gradients_have_the_structure_of_the_argument():
    check_grads(network, PARAMS, X)
    value, gradient = value_and_grad(lambda p: np.sum(network(p, X)))(PARAMS)
    assert value == np.sum(network(PARAMS, X))
    assert list(gradient) == ["layers", "scale"] and isinstance(gradient["layers"][1], tuple)
    assert gradient["layers"][0]["w"].shape == (3, 2) and gradient["scale"].shape == ()


def test_argnum():
    f = lambda x, y, z: np.sum(x * y * y * z)  # noqa: E731
    a, b, c = np.ones(2), np.full(2, 3.0), np.full(2, 5.0)
    assert grad(f)(a, b, c).tolist() == [45, 45]
    assert grad(f, argnum=-1)(a, b, c).tolist() == [9, 9]
    assert [g.tolist() for g in grad(f, argnum=(1, 0))(a, b, c)] == [[30, 30], [45, 45]]
    assert jacobian(lambda x, y: x * y, argnum=-1)(a, b).tolist() == [[1, 0], [0, 1]]


def test_arguments_that_do_not_matter_have_gradient_zero():
    gx, gy = grad(lambda x, y: np.sum(x), argnum=(0, 1))(X, np.float32(B))
    assert (gx == 1).all() and (gy == 0).all() and gy.dtype == np.float32
    assert grad(lambda x: 3.0)(X).tolist() == np.zeros((4, 3)).tolist()
    assert grad(lambda x: np.sum(ops.stop_gradient(x)) + np.argmax(x))(X).tolist() == np.zeros((4, 3)).tolist()
    assert vjp(lambda x: np.ones(2), X)[1](np.ones(2))[0].tolist() == np.zeros((4, 3)).tolist()


def test_a_gradient_is_written_where_it_is_wanted():
    """Over what was there, whether its leaf is used once, by several ops, twice by one, or not at all."""
    def pull(tracked, ans, *args):
        return lambda g, out: [np.multiply(g, i + 1, out=to) for i, to in zip(tracked, out, strict=True)]

    op = Primitive(lambda a, b: a + 2 * b, joint=pull)
    f = lambda p: np.sum(op(p["once"], 3 * p["several"]) + op(p["several"], np.cos(p["several"]))  # noqa: E731
                         + op(p["twice"], p["twice"]) + np.sin(p["plain"]))
    p = {"once": X, "several": X + 1, "twice": X - 1, "plain": X + 2, "unused": X + 3}
    wanted, out = value_and_grad(f)(p), {name: np.full_like(X, np.nan) for name in p}
    for _ in range(2):
        value, gradient = value_and_grad(f, out=out)(p)
        assert value == wanted[0] and all(gradient[name] is out[name] for name in p)
        assert all(out[name].tobytes() == wanted[1][name].tobytes() for name in p)
    pair = np.empty_like(X), np.empty_like(X)
    value_and_grad(lambda a, b, c: np.sum(a * b * c), argnum=(2, 0), out=pair)(X, X + 1, X + 2)
    np.testing.assert_array_equal(pair, (X * (X + 1), (X + 1) * (X + 2)))


def test_python_numbers_and_numpy_scalars():
    assert grad(lambda x: x ** 3)(2.0) == 12
    assert grad(lambda x: x ** 3)(np.float32(2)).dtype == np.float32
    assert grad(lambda p: p[0] * p[1] ** 2)([3.0, 2.0]) == [4, 12]


def test_a_tensor_is_true_as_its_number_is():
    slope = grad(lambda x: 2 * x if x else 3 * x)
    assert slope(1.0) == 2 and slope(0.0) == 3


def test_vjp_may_pull_any_number_of_times():
    value, pull = vjp(np.sin, X)
    for scale in (1, 2):
        np.testing.assert_allclose(pull(scale * np.ones((4, 3)))[0], scale * np.cos(X))


def test_every_argument_gets_a_gradient_of_its_own_dtype():
    single, double = np.float32(X), X
    gs, gd = grad(lambda s, d: np.sum(s * d), argnum=(0, 1))(single, double)
    assert (gs.dtype, gd.dtype) == (np.float32, np.float64)
    assert grad(lambda x: np.sum(x.astype(np.float64) ** 2))(single).dtype == np.float32


@pytest.mark.parametrize("f", [lambda x, y: np.sum(x), lambda x, y: np.sum(x + y), lambda x, y: np.sum(x.T + y.T),
                               lambda x, y: np.sum((x + y) * X), lambda x, y: np.sum(x[::-1])],
                         ids=["broadcast", "shared", "transposed", "product", "view"])
def test_gradients_belong_to_the_caller(f):
    gradients = grad(f, argnum=(0, 1))(X, X)
    before = gradients[1].copy()
    gradients[0][...] = 7
    np.testing.assert_array_equal(gradients[1], before)


def test_cotangents_are_not_written_to():
    g = np.ones((4, 3))
    _, pull = vjp(lambda x, y: x + y + x * 2 + x, X, X)
    gx, gy = pull(g)
    assert (gx == 4).all() and (gy == 1).all() and (g == 1).all()
    gy[...] = 5
    assert (g == 1).all()


def test_arguments_are_not_written_to():
    x = X.copy()
    hvp(lambda x: np.sum(np.exp(x) * x), x, x)
    np.testing.assert_array_equal(x, X)


STEPS = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "matmul": lambda a, b: a @ b.T / 3,
         "tanh": lambda a, b: np.tanh(a), "sum": lambda a, b: a + np.sum(b, axis=0), "flip": lambda a, b: a[::-1],
         "logaddexp": np.logaddexp, "transpose": lambda a, b: a.T * b}


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=12))
@settings(max_examples=60)
def test_any_graph(steps):
    def f(x, y):
        values = [x, y]
        for name, i, j in steps:
            values.append(np.tanh(STEPS[name](values[i % len(values)], values[j % len(values)])))
        return sum(values[2:]) * values[-1]

    check_grads(f, X[:3] / 2, X[1:] / 2, rtol=1e-5, atol=1e-7)


# --- derivatives of derivatives --------------------------------------------------------------------------------------

def test_third_order():
    f = lambda x: np.sum(np.sin(x) * np.exp(x))  # noqa: E731
    x = 0.3
    np.testing.assert_allclose(grad(grad(grad(f)))(x), 2 * np.exp(x) * (np.cos(x) - np.sin(x)))
    check_grads(lambda x, y: np.tanh(x @ y) * np.sum(x ** 2), X, W, order=3)


@pytest.mark.parametrize("f, want", [
    (lambda x: x * grad(lambda y: x + y)(1.0), 1.0),
    (lambda x: x * grad(lambda y: x * y)(2.0), 6.0),
    (lambda x: grad(lambda y: y * y * x)(x), 12.0),
    (lambda x: grad(lambda y: x)(1.0) + x, 1.0),
    (lambda x: grad(lambda y: grad(lambda z: x * y * z)(y) * y)(x), 12.0),
    (lambda x: vjp(lambda y: y * x, 5.0)[1](x)[0], 6.0),
    (lambda x: np.sum(jacobian(lambda y: y * x)(np.array([1.0, 2.0]))), 2.0),
    (lambda x: np.sum(hvp(lambda y: np.sum(y ** 3) * x, np.ones(2), np.array([1.0, 2.0]))), 18.0),
    (lambda x: value_and_grad(lambda y: x * y ** 2)(x)[0], 27.0),
], ids=["plus", "times", "same-point", "inner-constant", "three-deep", "cotangent", "jacobian", "hvp", "value"])
def test_perturbations_are_not_confused(f, want):
    np.testing.assert_allclose(grad(f)(3.0), want)


def test_jacobian():
    np.testing.assert_allclose(jacobian(lambda x: x @ W)(X[0]), W.T)
    j = jacobian(network)(PARAMS, X)
    assert j["layers"][0]["w"].shape == (4, 3, 3, 2) and j["layers"][1][0].shape == (4, 3, 2, 3) and j["scale"].shape == (4, 3)
    np.testing.assert_allclose(j["scale"], network(PARAMS, X) / 1.5)
    assert jacobian(lambda x: x[:0])(X).shape == (0, 3, 4, 3)
    assert jacobian(np.sum)(X).shape == (4, 3)
    assert jacobian(lambda x: np.ones(2))(X).tolist() == np.zeros((2, 4, 3)).tolist()
    assert jacobian(lambda x: 2.0)(X).shape == (4, 3)
    hessian = jacobian(grad(lambda x: np.sum(np.tanh(x @ W) ** 2)))(X[0])
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)


def test_hvp_is_the_hessian_times_the_vector():
    f = lambda x: np.sum(np.exp(x) * x[::-1] ** 2)  # noqa: E731
    x, v = X[0], X[1]
    np.testing.assert_allclose(hvp(f, x, v), jacobian(grad(f))(x) @ v)
    tree = {"a": [X[0], X[1]], "b": X[2]}
    got = hvp(lambda p: np.sum(p["a"][0] * p["a"][1] * p["b"]), tree, tree)
    np.testing.assert_allclose(got["b"], 2 * X[0] * X[1])
    np.testing.assert_allclose(got["a"][1], 2 * X[0] * X[2])


def test_a_tensor_of_an_outer_derivative_may_be_an_argument_inside():
    np.testing.assert_allclose(grad(lambda x: np.sum(grad(lambda y: np.sum(np.sin(y)))(x) * x))(X), np.cos(X) - X * np.sin(X))


def _sine_and_cosine_rule(tracked, ans, x):
    return lambda g, out: [g.get(0, 0.0) * ans[1] - g.get(1, 0.0) * ans[0]]


sine_and_cosine = Primitive(lambda x: (np.sin(x), np.cos(x)), joint=_sine_and_cosine_rule, name="sine_and_cosine")
times = Primitive(np.multiply.__call__, name="times",
                  joint=lambda tracked, ans, x, y: lambda g, out: [g * (y, x)[i] for i in tracked])


@pytest.mark.parametrize("f", [
    lambda x: sine_and_cosine(x)[1], lambda x: sine_and_cosine(x)[0] * x, lambda x: np.multiply(*sine_and_cosine(np.exp(x))),
    lambda x: (lambda s, c: s * c + s / (2 + c) + c)(*sine_and_cosine(x)), lambda x: sine_and_cosine(sine_and_cosine(x)[0])[1],
], ids=["one", "other", "both", "several uses", "twice"])
def test_an_op_with_two_answers(f):
    check_grads(f, X, order=3)


def test_an_op_with_a_joint_rule_makes_only_the_gradients_asked_for():
    check_grads(times, X, X[::-1].copy(), order=3)
    check_grads(lambda x: times(X, x) + times(x, X), X[::-1].copy(), order=2)


# --- long tapes, memory ----------------------------------------------------------------------------------------------

@pytest.mark.long
def test_a_chain_of_100_000_ops_both_ways_and_again():
    def chain(x):
        for _ in range(100_000):
            x = x * 1.00001
        return x

    np.testing.assert_allclose(grad(chain)(1.0), 1.00001 ** 100_000)


@pytest.mark.long
def test_second_derivatives_of_a_long_chain():
    def chain(x):
        for _ in range(5_000):
            x = x * (1 + 4e-5 * x)
        return x

    f, df, d2f = 1.0, 1.0, 0.0  # the same recurrence, differentiated by hand
    for _ in range(5_000):
        f, df, d2f = f * (1 + 4e-5 * f), df * (1 + 8e-5 * f), d2f * (1 + 8e-5 * f) + 8e-5 * df * df
    np.testing.assert_allclose([chain(1.0), grad(chain)(1.0), grad(grad(chain))(1.0)], [f, df, d2f])


@pytest.mark.long
def test_one_value_used_100_000_times():
    def wide(x):
        total = 0.0
        for _ in range(100_000):
            total = total + x
        return total

    assert grad(wide)(1.0) == 100_000
    assert grad(lambda x: np.sum(np.concatenate([x] * 1000)))(np.ones(3)).tolist() == [1000] * 3


def test_exponentially_many_paths_take_linear_time():
    def doubling(x):
        for _ in range(500):
            x = x + x
        return x

    assert grad(doubling)(1.0) == 2.0 ** 500


@pytest.mark.long
def test_a_long_tape_that_is_thrown_away_is_freed():
    def abandoned(x, n):
        for _ in range(n):
            x = x * 1.00001
        raise KeyError

    for f, n in ((grad(abandoned), 100_000), (grad(lambda x, n: grad(abandoned)(x, n)), 20_000)):
        with pytest.raises(KeyError):
            f(1.0, n)
    gc.collect()


def _peak(f):
    gc.collect()
    tracemalloc.start()
    try:
        kept = f()
        current, peak = tracemalloc.get_traced_memory()
        del kept
        return current / 1e6, peak / 1e6
    finally:
        tracemalloc.stop()


def test_the_backward_pass_frees_the_tape_as_it_goes():
    x = np.zeros(125_000)  # 1 MB

    def deep(x):
        for _ in range(50):
            x = np.exp(x * 0.1)  # each exp keeps its answer, each product nothing but the number
        return np.sum(x)

    current, peak = _peak(lambda: value_and_grad(deep)(x))
    assert 50 <= peak < 58 and current < 2.5, (current, peak)  # all answers once, a few cotangents; then the gradient

    at_the_end = []
    probe = ops.op(lambda x: x + 0.0, lambda ans, x: lambda g: (at_the_end.append(tracemalloc.get_traced_memory()[0]), g)[1])
    _peak(lambda: grad(lambda x: deep(probe(x)))(x))
    assert at_the_end[0] < 4e6, at_the_end


def test_what_no_rule_needs_is_not_kept():
    x = np.zeros(125_000)

    def linear(x):
        for _ in range(50):
            x = -(x + 1.0)
        return np.sum(x)

    current, peak = _peak(lambda: grad(linear)(x))
    assert peak < 6, peak


def test_constants_are_not_on_the_tape():
    c = np.zeros(125_000)

    def f(x):
        total = 0.0
        for _ in range(50):
            total = total + np.sum(np.exp(c)) * x
        return total

    assert _peak(lambda: grad(f)(1.0))[1] < 6


def test_derivatives_without_a_tape_cost_nothing():
    assert isinstance(ops.exp(X), np.ndarray) and not isinstance(ops.exp(X), Tensor)
    assert isinstance(np.exp(X), np.ndarray)


# --- errors leave nothing behind, threads ----------------------------------------------------------------------------

def test_an_exception_inside_a_derivative_leaves_nothing_broken():
    broken = ops.op(lambda x: x * 2, lambda ans, x: lambda g: 1 / 0, name="broken")
    for f in (lambda x: np.sum(x @ x), lambda x: broken(x[0, 0]), lambda x: grad(lambda y: 1 / 0)(x[0, 0])):
        with pytest.raises((ValueError, ZeroDivisionError)):
            grad(f)(X)
    check_grads(lambda x: np.sin(x) ** 2, X)


def test_threads_take_gradients_at_once():
    wrong = []

    def work(seed):
        x = np.random.default_rng(seed).normal(size=50)
        for _ in range(50):
            got = grad(lambda x: np.sum(x * grad(lambda y: np.sum(y ** 3))(x)))(x)
            if not np.allclose(got, 9 * x ** 2):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


# --- refusals ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("call, error, words", [
    (lambda: grad(np.sum)(np.arange(3)), TypeError, "grad: cannot differentiate .* array of dtype int64; pass floating"),
    (lambda: grad(np.sum)(True), TypeError, "dtype bool"),
    (lambda: grad(np.sum)(X + 0j), TypeError, "dtype complex128"),
    (lambda: vjp(np.sum, np.array(["a"])), TypeError, "vjp: cannot differentiate .* of dtype <U1"),
    (lambda: grad(np.sum)(None), TypeError, "dtype object"),
    (lambda: grad(np.exp)(X), ValueError, r"returned an array of shape \(4, 3\), not a scalar; sum it"),
    (lambda: grad(lambda x: np.ones(3))(X), ValueError, r"shape \(3,\), not a scalar"),
    (lambda: grad(lambda x: (np.sum(x), 1))(X), TypeError, "grad: the function returned a tuple, not an array; return one"),
    (lambda: grad(lambda x: None)(X), TypeError, "grad: the function returned a NoneType"),
    (lambda: grad(lambda x: np.sum(x * 1j))(X), TypeError, "grad: the function returned complex numbers; return real ones"),
    (lambda: jacobian(np.fft.fft)(X[0]), TypeError, "vjp: the function returned complex numbers"),
    (lambda: grad(np.sum, argnum=1)(X), ValueError, "grad: argnum is 1, but the function was given 1 "),
    (lambda: jacobian(np.sum, argnum=-2)(X), ValueError, "jacobian: argnum is -2"),
    (lambda: grad(lambda: 1.0)(), ValueError, "grad: argnum is 0, but the function was given 0"),
    (lambda: vjp(np.exp, X)[1](np.ones(3)), ValueError, r"vjp: the cotangent has shape \(3,\), but .* \(4, 3\)"),
    (lambda: hvp(np.sum, X, np.ones(3)), ValueError, r"hvp: v has shape \(3,\) where x has \(4, 3\)"),
    (lambda: grad(lambda x: np.i0(x)[0])(X[0]), NoRuleError, "numpy.i0 has no derivative rule: add one"),
    (lambda: grad(lambda x: float(x))(1.0), TypeError, "a Tensor cannot become a plain array .* in place of math's"),
    (lambda: grad(lambda x: np.array([x[0], x[1]])[0])(X[0]), TypeError, r"np.stack in place of np.array\(\[x\[0\], x\[1\]\]"),
    (lambda: grad(lambda x: scipy.special.logsumexp(x))(X[0]), TypeError, "npgen.ops.logsumexp and softmax in place of Sci"),
], ids=lambda v: None if callable(v) else "" if isinstance(v, type) else v[:40])
def test_refusals_say_what_to_do(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_assignment_into_an_array_says_what_to_write():
    def fill(x):
        y = np.zeros(3)
        y[0] = x[0]

    with pytest.raises(ValueError, match="setting an array element") as caught:
        grad(fill)(X[0])
    assert "use np.stack in place of" in str(caught.value.__cause__)


def test_a_missing_rule_is_not_implemented():
    assert issubclass(NoRuleError, NotImplementedError)


COMPARE = operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne


def test_tensors_look_like_arrays():
    def f(x):
        assert (x.shape, x.ndim, x.size, x.dtype, len(x)) == ((4, 3), 2, 12, np.float64, 4)
        assert repr(x[0, 0]) == f"Tensor({X[0, 0]!r})" and bool(x[0, 0] > -99)
        assert [compare(x, 0).tolist() for compare in COMPARE] == [compare(X, 0).tolist() for compare in COMPARE]
        return np.sum(x)

    grad(f)(X)
