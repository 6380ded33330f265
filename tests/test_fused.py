"""A fused op is its formula: values, gradients through its kernels, and derivatives of those."""
import mutants
import numpy as np
import pytest

from npgen import fused, kernels, posteriors, splines
from npgen.engine import grad, hvp, value_and_grad
from npgen.kernels import flow as flow_kernel
from npgen.layout import FlowLayout, Layout
from npgen.masks import made_masks
from npgen.testing import check_grads

RNG = np.random.default_rng(0)


def network(widths, masks=None):
    layout = Layout(widths, masks)
    params = RNG.normal(size=layout.size)
    for layer, plan in enumerate(layout.plans):
        layout.weight_and_bias(params, layer)[0][...] *= plan.mask
    return (RNG.normal(size=(33, widths[0])), params), layout


def flow(d, *moved):
    layout = FlowLayout([RNG.permutation(d) for _ in moved], [Layout((d - m, 6, 2 * m)) for m in moved])
    return (RNG.normal(size=(40, d)), RNG.normal(size=layout.size) / 2), layout


def spline(bins):
    return (RNG.uniform(-6, 6, (30, 3)), RNG.normal(size=(30, 3 * (3 * bins - 1)))), bins


def of_bins(op):
    return lambda v, params, bins: op.formula(v, params, bins, 5.0)


X, BITS, OUTPUTS = RNG.normal(size=(9, 4)), (RNG.random((9, 4)) < 0.5) * 1.0, RNG.normal(size=(9, 8)) * 2
FIRST, LEVELS = np.array([0, 1, 3, 6, 8]), np.floor(RNG.random((9, 4)) * [1, 2, 3, 2])
LEVELS[[0, 3], [2, 1]] = np.nan
LIKELIHOODS = {  # name -> op, its formula, the arrays
    "bernoulli": (fused.bernoulli_log_prob, fused._bernoulli.formula, (BITS, OUTPUTS[:, :4])),
    "normal": (lambda x, o: fused.normal_log_prob(x, o, 3.0), lambda x, o: fused._normal.formula(x, o, 3.0), (X, OUTPUTS)),
    "mixture": (lambda x, o: fused.mixture_log_prob(x, o, 3, 2.0), lambda x, o: fused._mixture.formula(x, o, 3, 2.0),
                (X, RNG.normal(size=(9, 36)) * 2)),
    "categorical": (lambda x, o: fused.categorical_log_prob(x, o, FIRST), lambda x, o: fused._categorical.formula(x, o, FIRST),
                    (LEVELS, OUTPUTS)),
    "standard normal": (fused.standard_normal_log_prob, fused._standard_normal.formula, (X,)),
    "KL to the standard normal": (posteriors.standard_normal_kl, posteriors._kl.formula, (X, OUTPUTS[:, :4])),
    **{f"posterior's {name}": (lambda o, k=k: posteriors.posterior(o, 3.0, (1, 2), 5)[k],
                               lambda o, k=k: posteriors._posterior_op.formula(o, 3.0, 1, 2, 5)[k], (OUTPUTS,))
       for k, name in enumerate(("draw", "mean", "log-variance"))},
    "posterior, all": (lambda o: sum(posteriors.posterior(o, 3.0, (1, 2), 5)),
                       lambda o: sum(posteriors._posterior_op.formula(o, 3.0, 1, 2, 5)), (OUTPUTS,)),
}
CASES = {  # name -> op, its formula, the arrays, the rest
    "mlp": (fused.mlp, fused._mlp_formula, *network((3, 7, 4, 5))),
    "mlp, one layer": (fused.mlp, fused._mlp_formula, *network((3, 2))),
    "mlp, masked": (fused.mlp, fused._mlp_formula, *network((5, 90, 6, 5), made_masks(5, (90, 6)))),
    "inverse": (fused.flow_inverse, fused._inverse_formula, *flow(5, 3)),
    "inverse, three steps": (fused.flow_inverse, fused._inverse_formula, *flow(5, 3, 2, 3)),
    "inverse of one feature": (fused.flow_inverse, fused._inverse_formula, *flow(1, 1, 0)),
    "inverse, nothing moved": (fused.flow_inverse, fused._inverse_formula, *flow(1, 0)),
    "log_prob": (lambda *a: fused._inverse("flow_log_prob", *a)[:3], fused._inverse_formula, *flow(5, 3, 2)),
    "forward": (fused.flow_forward, fused._forward_formula, *flow(5, 2)),
    "forward, three steps": (fused.flow_forward, fused._forward_formula, *flow(5, 2, 3, 2)),
    "spline to noise": (splines.spline_to_noise, of_bins(splines._to_noise), *spline(8)),
    "spline to data": (splines.spline_to_data, of_bins(splines._to_data), *spline(8)),
    "spline of one bin": (splines.spline_to_data, of_bins(splines._to_data), *spline(1)),
}
OBJECTIVES = {"first": lambda a, b, *c: np.sum(np.sin(a)), "second": lambda a, b, *c: np.sum(b**2),
              "all": lambda a, b, *c: np.sum(np.sin(a)) + np.sum(b**2) + sum(np.sum(np.cos(v)) for v in c),
              "last": lambda *answers: np.sum(np.sin(answers[-1]))}
cases = pytest.mark.parametrize("name", CASES)
objectives = pytest.mark.parametrize("objective", OBJECTIVES)
close = {"rtol": 1e-9, "atol": 1e-9}


def functions(name, objective):
    op, formula, arrays, rest = CASES[name]
    n_answers = len(op(*arrays, rest))
    return [lambda *a, f=f: OBJECTIVES[objective](*f(*a, rest)[:n_answers]) for f in (op, formula)], arrays


@cases
def test_its_answers_are_the_formulas(name):
    op, formula, arrays, rest = CASES[name]
    for got, want in zip(op(*arrays, rest), formula(*arrays, rest), strict=False):
        np.testing.assert_allclose(got, want, **close)


@cases
@objectives
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_its_gradients_are_the_formulas(name, objective, backend):
    (f, formula), arrays = functions(name, objective)
    with kernels.using(backend):
        for argnum in (0, 1, (0, 1)):
            got, want = grad(f, argnum)(*arrays), grad(formula, argnum)(*arrays)
            for a, b in zip(np.atleast_1d(got) if isinstance(argnum, int) else got,
                            np.atleast_1d(want) if isinstance(argnum, int) else want, strict=True):
                np.testing.assert_allclose(a, b, **close)


@cases
@objectives
def test_its_second_derivatives_are_the_formulas(name, objective):
    (f, formula), (x, params) = functions(name, objective)
    v = RNG.normal(size=params.shape)
    np.testing.assert_allclose(hvp(lambda p: f(x, p), params, v), hvp(lambda p: formula(x, p), params, v), **close)


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_a_likelihood_and_its_derivatives_are_the_formulas(name, backend):
    op, formula, arrays = LIKELIHOODS[name]

    def of(f):
        return lambda *a: np.sum(np.sin(f(*a)))

    with kernels.using(backend):
        np.testing.assert_allclose(op(*arrays), formula(*arrays), **close)
        for i, a in enumerate(arrays):
            np.testing.assert_allclose(grad(of(op), i)(*arrays), grad(of(formula), i)(*arrays), **close)
            v = RNG.normal(size=a.shape)
            got, want = (hvp(lambda t, f=f, i=i: of(f)(*arrays[:i], t, *arrays[i + 1:]), a, v) for f in (op, formula))
            np.testing.assert_allclose(got, want, **close)


def test_a_likelihood_of_arrays_that_broadcast_is_the_formula():
    outputs = RNG.normal(size=(9, 5, 8))
    each = fused.normal_log_prob(X[:, None], outputs, 3.0)
    np.testing.assert_allclose(each[:, 2], fused.normal_log_prob(X, outputs[:, 2], 3.0))
    assert fused.bernoulli_log_prob(BITS[:, None], outputs[..., :4]).shape == (9, 5)
    each = fused.categorical_log_prob(LEVELS[:, None], outputs, FIRST)
    np.testing.assert_allclose(each[:, 2], fused.categorical_log_prob(LEVELS, outputs[:, 2].copy(), FIRST))
    outputs = RNG.normal(size=(9, 5, 24))
    each = fused.mixture_log_prob(X[:, None], outputs, 2, 3.0)
    np.testing.assert_allclose(each[:, 2], fused.mixture_log_prob(X, outputs[:, 2].copy(), 2, 3.0))


@pytest.mark.parametrize("of", ["mlp", "mlp, one layer", "mlp, masked"])
def test_the_slope_of_a_perceptron_has_the_derivatives_of_its_formula(of):
    *_, (x, params), layout = CASES[of]
    y, hidden = fused.mlp(x, params, layout)[:2]
    g, along = RNG.normal(size=y.shape), RNG.normal(size=params.shape)
    op, formula = (lambda g, p, f=f: np.sum(np.sin(f(g, hidden, p, layout)[0]))
                   for f in (fused._mlp_slope, fused._slope_formula))
    assert np.isclose(op(g, params), formula(g, params), **close)
    for one, other in zip(*(grad(f, (0, 1))(g, params) for f in (op, formula)), strict=True):
        np.testing.assert_allclose(one, other, **close)
    np.testing.assert_allclose(*(hvp(lambda p, f=f: f(g, p), params, along) for f in (op, formula)), **close)

    def penalty(p):  # as a GAN's
        return np.sum(np.square(grad(lambda rows: np.sum(fused.mlp(rows, p, layout)[0]))(x)))

    def of_formula(p):
        return np.sum(np.square(grad(lambda rows: np.sum(fused._mlp_formula(rows, p, layout)[0]))(x)))
    np.testing.assert_allclose(grad(penalty)(params), grad(of_formula)(params), **close)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 4)])
def test_a_value_with_its_slope_has_the_derivatives_of_its_formula(hidden):
    (x, params), layout = network((3, *hidden, 1))
    y, slope = fused.mlp_with_slope(x, params, layout)
    np.testing.assert_allclose(y, fused.mlp(x, params, layout)[0], **close)
    np.testing.assert_allclose(slope, grad(lambda x: np.sum(fused.mlp(x, params, layout)[0]))(x), **close)
    for f in (lambda y, s: np.sum(np.sin(y)) + np.sum(s**3), lambda y, s: np.sum(s**2), lambda y, s: np.sum(y**2)):
        got, want = (grad(lambda x, p, op=op, f=f: f(*op(x, p, layout)), (0, 1))(x, params)
                     for op in (fused.mlp_with_slope, fused._sloped_formula))
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, **close)
        along = RNG.normal(size=params.shape)
        np.testing.assert_allclose(*(hvp(lambda p, op=op, f=f: f(*op(x, p, layout)), params, along)
                                     for op in (fused.mlp_with_slope, fused._sloped_formula)), **close)


def test_mlp_refuses_shapes_that_do_not_fit():
    (x, params), layout = network((3, 7, 5))
    with pytest.raises(ValueError, match=r"x has shape \(33, 2\) and params \(68,\), but the layout needs \(n, 3\)"):
        fused.mlp(x[:, :2], params, layout)


def law_of_gradients_asked_for(backend, ask=lambda want_dparams: want_dparams):
    """A gradient by x alone is dx, to the same bits, and none of a weight; `ask` is between the op and the kernel."""
    (x, params), layout = flow(5, 3, 2)
    run, seen = getattr(flow_kernel.backward, backend), []

    def f(x, params):
        return np.sum(fused.flow_log_prob(x, params, layout))

    with kernels.using(backend), pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_kernel.backward, backend, lambda *args: seen.append(run(*args[:-1], ask(args[-1]))) or seen[-1])
        both, alone, weights = grad(f, (0, 1))(x, params), grad(f)(x, params), grad(f, 1)(x, params)
    assert [dparams.shape for _, dparams in seen] == [params.shape, (0,), params.shape]
    assert alone.tobytes() == both[0].tobytes() and weights.tobytes() == both[1].tobytes()


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_flow_computes_the_gradients_that_are_asked_for(backend):
    law_of_gradients_asked_for(backend)


@pytest.mark.parametrize("ask", [lambda want: True, lambda want: not want], ids=["always", "the other way round"])
def test_a_gradient_asked_for_wrongly_is_seen(ask):
    with pytest.raises(AssertionError):
        law_of_gradients_asked_for("numba", ask)


def test_a_gradient_that_nobody_asked_for_is_seen():
    mistake = mutants.Mutant("", "", "kernels.flow:_backward_reference", "dparams if want_dparams else np.empty(0)", "dparams")
    with mistake.made(), pytest.raises(AssertionError):
        law_of_gradients_asked_for("reference")


def test_a_flow_refuses_shapes_that_do_not_fit():
    (x, params), layout = flow(3, 1)
    for op in (fused.flow_inverse, fused.flow_forward):
        with pytest.raises(ValueError, match=r"have shape \(40, 2\) and params \(38,\), but the layout needs \(n, 3\)"):
            op(x[:, :2], params, layout)


@pytest.mark.parametrize("used", [range(4), [1, 2]], ids=["all", "some"])
def test_layers_have_the_gradients_of_views(used):
    """Of the first and second order; and written to an array that is there for it, to the same bits."""
    layout, rng = Layout((3, 4, 2)), np.random.default_rng(0)
    params = rng.normal(size=layout.size)

    def loss(params):
        layers = fused.layers(params, layout)
        return sum(np.sum(np.sin(layers[k] * (k + 1))) for k in used)

    def by_views(params):
        views = [a for layer in range(2) for a in layout.weight_and_bias(params, layer)]
        return sum(np.sum(np.sin(views[k] * (k + 1))) for k in used)

    check_grads(loss, params, order=2)
    out = np.full_like(params, np.nan)
    assert value_and_grad(loss, out=out)(params)[1] is out
    assert out.tobytes() == grad(loss)(params).tobytes() == grad(by_views)(params).tobytes()
