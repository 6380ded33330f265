"""GaussianMixture with missing values, marginals and conditionals: against quadrature and against the textbook's formulas."""
import functools
import math
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_mixture import blobs, covariance_matrices

import npgen
from npgen import ConvergenceWarning, GaussianMixture
from npgen.heads import Categorical
from npgen.models.mixture import covariances

TYPES = list(covariances.COVARIANCES)
each_type = pytest.mark.parametrize("kind", TYPES)


def fitted(kind, d=3, k=3, seed=0, **options):
    return GaussianMixture(k, covariance_type=kind, random_state=seed, **options).fit(blobs(400, d, k, seed))


def holes(x, share, seed=0):
    """Values missing at random, but one in each row and column."""
    x, rng = x.copy(), np.random.default_rng(seed)
    missing = rng.random(x.shape) < share
    missing[np.arange(len(x)), rng.integers(0, x.shape[1], len(x))] = False
    x[missing] = np.nan
    return x


def grid(model, width, n=201):
    """Points along each of some columns and the volume of a cell: the trapezoid rule is exact to rounding out there."""
    x = model.sample(2000, rng=0)
    low, high = x.min(axis=0) - 6 * x.std(axis=0), x.max(axis=0) + 6 * x.std(axis=0)
    axes = [np.linspace(low[j], high[j], n) for j in width]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(width))
    return points, np.prod([a[1] - a[0] for a in axes])


def textbook_em_step(model, x):
    """Weights, means, full covariances after one iteration with conditional moments row by row (Ghahramani & Jordan, 1994)."""
    k, d = model.means_.shape
    n, first, second = np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d))
    for row in x:
        o = np.flatnonzero(~np.isnan(row))
        m = np.setdiff1d(np.arange(d), o)
        parts = []
        for w, mean, c in zip(model.weights_, model.means_, covariance_matrices(model), strict=True):
            gain = c[np.ix_(m, o)] @ np.linalg.inv(c[np.ix_(o, o)])
            full, hidden = row.copy(), np.zeros((d, d))
            full[m] = mean[m] + gain @ (row[o] - mean[o])
            hidden[np.ix_(m, m)] = c[np.ix_(m, m)] - gain @ c[np.ix_(o, m)]
            parts.append((np.log(w) + stats.multivariate_normal(mean[o], c[np.ix_(o, o)]).logpdf(row[o]), full, hidden))
        joint = np.array([p[0] for p in parts])
        r = np.exp(joint - np.logaddexp.reduce(joint))
        n += r
        for j, (_, full, hidden) in enumerate(parts):
            first[j] += r[j] * full
            second[j] += r[j] * (np.outer(full, full) + hidden)
    means = first / n[:, None]
    return n / n.sum(), means, second / n[:, None, None] - means[:, :, None] * means[:, None]


# ---------------------------------------------------------------- missing values

@each_type
def test_one_iteration_with_missing_values_is_the_textbook_one(kind):
    x = holes(blobs(150, 3, seed=1), 0.3)
    with pytest.warns(ConvergenceWarning):
        before = GaussianMixture(2, covariance_type=kind, reg_covar=0, tol=0, max_iter=1, random_state=0).fit(x)
        after = GaussianMixture(2, covariance_type=kind, reg_covar=0, tol=0, max_iter=1, weights_init=before.weights_,
                                means_init=before.means_, precisions_init=before.precisions_).fit(x)
    weights, means, full = textbook_em_step(before, x)
    diagonal = np.diagonal(full, axis1=1, axis2=2)
    expected = {"full": full, "tied": np.einsum("k,kij->ij", weights, full), "diag": diagonal,
                "spherical": diagonal.mean(axis=1)}[kind]
    np.testing.assert_allclose(after.weights_, weights, rtol=1e-9)
    np.testing.assert_allclose(after.means_, means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(after.covariances_, expected, rtol=1e-8, atol=1e-9)


@each_type
def test_log_prob_with_missing_values_is_the_integral(kind):
    model = fitted(kind)
    x = model.sample(4, rng=1)
    points, cell = grid(model, (0, 2))
    for row in x:
        seen = [np.nan, row[1], np.nan]
        rows = np.column_stack([points[:, 0], np.full(len(points), row[1]), points[:, 1]])
        assert model.log_prob([seen])[0] == pytest.approx(np.log(np.exp(model.log_prob(rows)).sum() * cell), abs=1e-9)
        r = (model.encode(rows) * np.exp(model.log_prob(rows))[:, None]).sum(axis=0) * cell
        np.testing.assert_allclose(model.predict_proba([seen])[0], r / r.sum(), atol=1e-9)
    nothing = np.full((1, 3), np.nan)
    assert model.log_prob(nothing)[0] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(model.encode(nothing)[0], model.weights_, rtol=1e-12)


@pytest.mark.long(but={"kind": ["full"]})
@each_type
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.6), shift=st.floats(-1e5, 1e5), log_scale=st.floats(-13, 13))
def test_em_with_missing_values_never_decreases_and_moves_with_the_data(kind, seed, share, shift, log_scale):
    x, scale = holes(blobs(120, 3, 2, seed), share, seed), np.exp(log_scale)
    options = {"covariance_type": kind, "max_iter": 300, "random_state": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = GaussianMixture(2, reg_covar=0, tol=1e-6, init_params="random_from_data", **options).fit(x)
        moved = (x + shift) * scale
        a, b = (GaussianMixture(2, **options).fit(rows) for rows in (moved / scale - shift, moved))
    if not model.fit_report_["reseeded"]:
        assert np.diff(model.lower_bounds_).min(initial=0) >= -1e-10
    assert model.lower_bound_ == pytest.approx(model.score(x), abs=1e-9)
    n_seen = (~np.isnan(x)).sum(axis=1)
    np.testing.assert_allclose(a.log_prob(x), b.log_prob(moved) + n_seen * log_scale, atol=1e-5 * (1 + abs(shift) / 1e3))


@each_type
def test_few_missing_values_change_little(kind):
    """The fit goes to the complete-data fit as the missing share goes to zero."""
    x = blobs(2000, 3, seed=2)
    options = {"covariance_type": kind, "means_init": x[:3], "tol": 1e-9, "max_iter": 3000}
    complete = GaussianMixture(3, **options).fit(x)
    apart = [abs(GaussianMixture(3, **options).fit(holes(x, share)).log_prob(x) - complete.log_prob(x)).mean()
             for share in (0.2, 0.02, 0.002)]
    assert apart[0] > 2 * apart[1] > 4 * apart[2] and apart[2] < 0.005


@each_type
def test_weights_of_rows_with_missing_values(kind):
    x, weights = holes(blobs(60, seed=3), 0.3), np.random.default_rng(0).integers(0, 3, 60)
    model = GaussianMixture(2, covariance_type=kind, random_state=0, max_iter=1000)
    repeated = model.fit(np.repeat(x, weights, axis=0)).log_prob(x)
    np.testing.assert_allclose(model.fit(x, sample_weight=weights).log_prob(x), repeated, rtol=1e-6, atol=1e-6)


@each_type
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_imputed_values_are_the_conditional_mean(kind, dtype):
    model = fitted(kind)
    x = holes(model.sample(40, rng=3), 0.4, seed=1).astype(dtype)
    full = model.impute(x)
    assert full.dtype == dtype and np.array_equal(full[~np.isnan(x)], x[~np.isnan(x)])
    for row, answer in zip(x.astype(float), full, strict=True):
        hidden = np.isnan(row)
        if hidden.any():
            want = model.condition(np.flatnonzero(~hidden), row[None, ~hidden]).mean[0]
            np.testing.assert_allclose(answer[hidden], want, rtol=1e-5 if dtype == np.float32 else 1e-9, atol=1e-6)
    np.testing.assert_array_equal(model.impute(full), full)


@each_type
def test_imputed_draws_have_the_conditional_moments(kind):
    """10 comparisons at 6 standard errors: a false alarm in 1 of 5e7 runs, and none under a fixed seed.

    Surely found: a mean off by 0.06 standard deviations, a variance by 9 %.
    """
    model, n = fitted(kind), 40000
    value = model.means_[0, 1]
    rows = np.tile([np.nan, value, np.nan], (n, 1))
    drawn = model.impute(rows, rng=5)
    np.testing.assert_array_equal(drawn, model.impute(rows, rng=5))
    moments = model.condition([1], [[value]])
    mean, covariance = moments.mean[0], moments.covariance[0]
    x = drawn[:, [0, 2]] - mean
    assert (drawn[:, 1] == value).all() and (abs(x.mean(axis=0)) < 6 * np.sqrt(np.diag(covariance) / n)).all()
    for i, j in ((0, 0), (0, 1), (1, 1)):
        products = x[:, i] * x[:, j]
        assert abs(products.mean() - covariance[i, j]) < 6 * products.std() / np.sqrt(n)


def test_columns_without_values_are_refused():
    x = blobs()
    x[:, 1] = np.nan
    with pytest.raises(ValueError, match="column 1 of X has no values"):
        GaussianMixture(2).fit(x)
    with pytest.raises(ValueError, match=r"X\[0, 1\] is nan; remove or fill"):
        GaussianMixture(2, solver="adam").fit(x)
    x[3, 0] = np.inf
    with pytest.raises(ValueError, match=r"X\[3, 0\] is inf"):
        GaussianMixture(2).fit(x)


# ---------------------------------------------------------------- marginals, conditionals

@each_type
def test_marginal_is_the_integral(kind):
    model = fitted(kind)
    some = model.marginal([2, 0])
    x = model.sample(5, rng=4)
    np.testing.assert_allclose(some.means_, model.means_[:, [2, 0]], rtol=1e-12)
    block = covariance_matrices(model)[:, [2, 0]][:, :, [2, 0]]
    np.testing.assert_allclose(covariance_matrices(some), block, rtol=1e-9, atol=1e-12)
    points, cell = grid(model, (1,), 2001)
    for row in x:
        rows = np.column_stack([np.full(len(points), row[0]), points[:, 0], np.full(len(points), row[2])])
        assert some.log_prob([row[[2, 0]]])[0] == pytest.approx(np.log(np.exp(model.log_prob(rows)).sum() * cell), abs=1e-9)
    assert some.sample(3, rng=0).shape == (3, 2) and some.n_features_in_ == 2


@each_type
def test_condition_is_the_quotient_of_densities(kind):
    model = fitted(kind)
    x = model.sample(6, rng=5)
    for columns, others in (([1], [0, 2]), ([2, 0], [1])):
        for row in x:
            given = model.condition(columns, row[columns])
            want = model.log_prob(x_with(row, others, x)) - model.marginal(columns).log_prob([row[columns]])
            np.testing.assert_allclose(given.log_prob(x[:, others]), want, rtol=1e-9, atol=1e-9)
            assert np.isfinite(given.sample(5, rng=0)).all()


def x_with(row, others, x):
    rows = np.tile(row, (len(x), 1))
    rows[:, others] = x[:, others]
    return rows


@each_type
def test_conditionals_are_the_moments_of_each_condition(kind):
    model = fitted(kind)
    values = model.sample(5, rng=6)[:, [2]]
    many = model.condition([2], values)
    points, cell = grid(model, (0, 1))
    for i, value in enumerate(values):
        one = model.condition([2], value)
        np.testing.assert_allclose(many.weights[i], one.weights_, atol=1e-12)
        np.testing.assert_allclose(many.means[i], one.means_, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(many.covariances, covariance_matrices(one), rtol=1e-9)
        density = np.exp(one.log_prob(points)) * cell
        mean = density @ points
        np.testing.assert_allclose(many.mean[i], mean, atol=1e-8)
        np.testing.assert_allclose(many.covariance[i], (points - mean).T * density @ (points - mean), atol=1e-7)


@pytest.mark.parametrize("columns, values, message", [
    ([0, 1, 2], [0, 0, 0], "columns are all there are"), ([3], [0], r"columns must be numbers of the 3 columns, got \[3\]"),
    ([0, -3], [0, 0], "columns must differ"), ([0], [0, 1], r"values have shape \(2,\); pass \(1,\) or \(n, 1\)"),
    ([0], [np.nan], r"values\[0, 0\] is nan")])
def test_wrong_columns(columns, values, message):
    with pytest.raises(ValueError, match=message):
        fitted("full").condition(columns, values)


# ---------------------------------------------------------------- a mixture that one knows

@each_type
def test_parameters_of_a_fit_make_the_same_mixture(kind, tmp_path):
    x = blobs(200, 3)
    model = GaussianMixture(3, covariance_type=kind, random_state=0).fit(x)
    parameters = model.weights_, model.means_, model.covariances_
    known = GaussianMixture.from_parameters(*parameters, covariance_type=kind, random_state=0, warm_start=True)
    np.testing.assert_allclose(known.log_prob(x), model.log_prob(x), rtol=1e-12)
    np.testing.assert_allclose(known.covariances_, model.covariances_, rtol=1e-12)
    np.testing.assert_allclose(known.encode(x), model.encode(x), atol=1e-12)
    np.testing.assert_allclose(known.marginal([2, 0]).log_prob(x[:, [2, 0]]), model.marginal([2, 0]).log_prob(x[:, [2, 0]]))
    np.testing.assert_allclose(known.condition([1], [0.5]).means_, model.condition([1], [0.5]).means_)
    known.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    np.testing.assert_array_equal(again.log_prob(x), known.log_prob(x))
    np.testing.assert_array_equal(again.sample(5, rng=0), known.sample(5, rng=0))
    assert known.n_features_in_ == 3 and known.sample(4).shape == (4, 3)
    before = known.score(x)
    assert again.partial_fit(x).score(x) > before - 0.01 and known.fit(x).lower_bound_ > before - 1e-3 and known.n_iter_ < 5


@pytest.mark.parametrize("bad, message", [
    ({"weights": [0.5, 0.6]}, "weights must be positive and add up to 1"),
    ({"weights": [1.0, 0.0]}, "weights must be positive and add up to 1"),
    ({"weights": [1.0]}, r"weights must be finite and have shape \(2,\), got \(1,\)"),
    ({"means": [[0.0, math.nan], [0, 0]]}, "means must be finite"),
    ({"covariances": np.ones((2, 2, 2))}, "covariances must be symmetric and positive definite"),
    ({"covariances": [[[1.0, 0.5], [0, 1]]] * 2}, "covariances must be symmetric"),
    ({"covariances": np.eye(2)}, r"covariances must be finite and have shape \(2, 2, 2\), got \(2, 2\)"),
    ({"dtype": int}, "dtype must be float32 or float64"), ({"feature_names": ["a"]}, "feature_names must be 2 names")])
def test_parameters_that_are_no_mixture_are_refused(bad, message):
    good = {"weights": [0.5, 0.5], "means": np.zeros((2, 2)), "covariances": np.stack([np.eye(2)] * 2)}
    with pytest.raises(ValueError, match=f"from_parameters: {message}"):
        GaussianMixture.from_parameters(**(good | bad))


HEADS = ["normal", "bernoulli", Categorical([2, 5, 11]), "poisson", "normal", "categorical"]


@functools.cache
def mixed():
    """A mixture of every head, and its rows."""
    rng = np.random.default_rng(0)
    k = rng.integers(3, size=400)
    x = np.column_stack([rng.normal(5 * k), rng.random(400) < k / 3, rng.choice([2, 5, 11], 400), rng.poisson(1 + 3 * k),
                         rng.normal(size=400), (k + (rng.random(400) < 0.2)) % 3])
    return npgen.Mixture(3, heads=HEADS, random_state=0).fit(x), x


def columns_of(model):
    """What from_parameters takes of each column."""
    normal, tables = zip(model.means_.T, model.variances_.T, strict=True), iter(model.probabilities_)
    take = {"normal": lambda: next(normal), "poisson": lambda: model.rates_[:, 0], "bernoulli": lambda: next(tables)[:, 1],
            "categorical": lambda: next(tables)}
    return [take[kind]() for kind in model.kinds_]


def test_parameters_of_a_fit_to_columns_make_the_same_mixture(tmp_path):
    model, x = mixed()
    known = npgen.Mixture.from_parameters(model.weights_, HEADS, columns_of(model), random_state=0)
    np.testing.assert_allclose(known.log_prob(x), model.log_prob(x), rtol=1e-12)
    np.testing.assert_allclose(known.encode(x), model.encode(x), atol=1e-12)
    for name in ("means_", "variances_", "rates_"):
        np.testing.assert_allclose(getattr(known, name), getattr(model, name), rtol=1e-12)
    for a, b in zip(known.levels_, model.levels_, strict=True):
        np.testing.assert_array_equal(a, b)
    of_some, of_others = ([m.marginal([5, 0, 3]).log_prob(x[:, [5, 0, 3]]) for m in (known, model)],
                          [m.condition([1, 0], [1, 4.0]).weights_ for m in (known, model)])
    np.testing.assert_allclose(*of_some, rtol=1e-12)
    np.testing.assert_allclose(*of_others, rtol=1e-9)
    np.testing.assert_allclose(known.sample(50, rng=0), model.sample(50, rng=0), rtol=1e-9)
    known.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    np.testing.assert_array_equal(again.log_prob(x), known.log_prob(x))
    assert again.partial_fit(x).score(x) > known.score(x) - 0.01 and known.fit(x).score(x) > model.score(x) - 1e-6


@pytest.mark.parametrize("bad, message", [
    ({"heads": "auto"}, "heads must say what each column is"), ({"weights": [0.5, 0.6]}, "weights must be positive"),
    ({"parameters": [[0.0, 1], [0.2, 0.3]]}, r"parameters\[0\] must be finite and have shape \(2, 2\), got \(2,\)"),
    ({"parameters": [[[0, 1], [1, 0]], [0.2, 0.3]]}, r"parameters\[0\] must hold variances above 0"),
    ({"parameters": [[[0, 1], [1, 1]], [0.2, 1.3]]}, r"parameters\[1\] must hold probabilities, 0 to 1"),
    ({"parameters": [[[0, 1], [1]], [0.2, 0.3]]}, r"parameters\[0\] must be numbers of shape \(2, 2\)"),
    ({"heads": ["normal", "poisson"], "parameters": [[[0, 1], [1, 1]], [-1, 3]]}, r"parameters\[1\] must hold rates"),
    ({"heads": ["normal", "categorical"], "parameters": [[[0, 1], [1, 1]], [[0.5, 0.4], [0, 1]]]}, "that add up to 1")])
def test_parameters_of_columns_that_are_no_mixture_are_refused(bad, message):
    good = {"weights": [0.5, 0.5], "heads": ["normal", "bernoulli"], "parameters": [[[0, 1], [1, 1]], [0.2, 0.3]]}
    with pytest.raises(ValueError, match=f"(from_parameters: )?.*{message}"):
        npgen.Mixture.from_parameters(**(good | bad))


@pytest.mark.parametrize("model", [GaussianMixture(2, random_state=0), npgen.Mixture(2, random_state=0)])
def test_what_follows_from_the_parameters_is_read_only(model):
    """A mean that sample used and log_prob did not would be two models in one."""
    own = ["variances_", "probabilities_", "rates_"], ["covariances_", "precisions_", "precisions_cholesky_"]
    names = ["weights_", "means_", *own[isinstance(model, GaussianMixture)]]
    assert not any(hasattr(model, name) for name in names)
    x = blobs(100, 3)
    copied = pickle.loads(pickle.dumps(model.fit(x)))
    for fitted in (model, copied):
        for name in names:
            with pytest.raises(AttributeError, match=f"{name} follows from what this .* has learned and cannot be set; "):
                setattr(fitted, name, getattr(fitted, name))
            with pytest.raises((ValueError, TypeError), match="read-only|item assignment"):
                getattr(fitted, name)[0] = 0.5
