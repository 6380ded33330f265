"""Queries at rows of any size, in both dtypes, of every model: log-densities are finite or -inf, all else is a number."""
import functools
import math
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from npgen.models import MADE, VAE, Diffusion, FlowMatching, GaussianMixture, Mixture, RealNVP

D = 3
RNG = np.random.default_rng(0)
REAL = (RNG.normal(size=(80, D)) @ [[1, 2, 0], [0, 1, -3], [0, 0, 0.1]] + [1, -2, 30]).astype(np.float64)
LEVELS = np.clip(np.round(RNG.normal(size=(80, D)) * 2), -4, 4)
BITS = (RNG.normal(size=(80, D)) > 0).astype(np.float64)
QUICK = {"max_epochs": 3, "random_state": 0}
MODELS = {
    "MADE": (MADE(hidden=(8,), preprocess="standardize", **QUICK), REAL),
    "MADE, as given": (MADE(hidden=(8, 8), preprocess=None, **QUICK), REAL),
    "MADE, one column": (MADE(hidden=(4,), preprocess="standardize", **QUICK), REAL[:, :1]),
    "MADE, levels": (MADE(hidden=(8,), preprocess="dequantize+logit", **QUICK), LEVELS),
    "MADE, bits": (MADE(hidden=(8,), preprocess=None, **QUICK), BITS),
    "RealNVP": (RealNVP(n_couplings=3, hidden=(8, 8), preprocess="standardize", **QUICK), REAL),
    "RealNVP, as given": (RealNVP(n_couplings=4, hidden=(8,), preprocess=None, **QUICK), REAL),
    "RealNVP, levels": (RealNVP(n_couplings=2, hidden=(8,), preprocess="dequantize+logit", **QUICK), LEVELS),
    "VAE": (VAE(n_latent=2, hidden=(8,), n_importance=8, preprocess="standardize", **QUICK), REAL),
    "VAE, as given": (VAE(n_latent=2, hidden=(8,), n_importance=1, preprocess=None, **QUICK), REAL),
    "VAE, levels": (VAE(n_latent=2, hidden=(8,), n_importance=8, preprocess="dequantize+logit", **QUICK), LEVELS),
    "VAE, bits": (VAE(n_latent=2, hidden=(8,), n_importance=8, preprocess=None, **QUICK), BITS),
    "FlowMatching": (FlowMatching(hidden=(8,), n_steps=4, preprocess="standardize", **QUICK), REAL),
    "FlowMatching, levels": (FlowMatching(hidden=(8,), n_steps=4, preprocess="dequantize+logit", **QUICK), LEVELS),
    "Diffusion, as given": (Diffusion(hidden=(8,), n_steps=4, preprocess=None, **QUICK), REAL),
    **{f"GaussianMixture, {form}": (GaussianMixture(2, covariance_type=form, tol=0.1, random_state=0), REAL)
       for form in ("full", "tied", "diag", "spherical")},
    "GaussianMixture, standardised": (GaussianMixture(2, tol=0.1, preprocess="standardize", random_state=0), REAL),
    "GaussianMixture by gradient": (GaussianMixture(2, solver="adam", preprocess="standardize", **QUICK), REAL),
    "GaussianMixture, levels": (GaussianMixture(2, tol=0.1, preprocess="dequantize+logit", random_state=0), LEVELS),
    "Mixture": (Mixture(2, tol=0.1, random_state=0), np.concatenate([REAL[:, :2], BITS[:, :1]], axis=1)),
}
names = pytest.mark.parametrize("name", MODELS)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@functools.cache
def fitted(name, dtype=np.float64):
    model, x = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return type(model)(**model.get_params()).fit(x.astype(dtype))


def sizes(dtype):
    """Every kind of number that a column may hold: none, the smallest, the largest, all powers of ten, of both signs."""
    info = np.finfo(dtype)
    of_ten = [dtype(10.0)**k for k in range(int(np.log10(info.tiny)), int(np.log10(info.max)) + 1)]
    values = [0.0, info.smallest_subnormal, info.tiny, info.eps, 1.0, info.max, np.nextafter(info.max, dtype(0)), *of_ten]
    return st.sampled_from([sign * dtype(v) for v in values for sign in (1, -1)])


def rows(model, x, dtype):
    """Rows (n, d), each value of any size, or one that fit saw where the space holds no others."""
    seen = [st.sampled_from([dtype(v) for v in np.unique(column)]) for column in x.T]
    bounded = ["levels" in model or "bits" in model or model == "Mixture" and j == 2 for j in range(x.shape[1])]
    columns = [one if only else st.one_of(sizes(dtype), one) for one, only in zip(seen, bounded, strict=True)]
    return st.lists(st.tuples(*columns), min_size=1, max_size=6).map(lambda r: np.array(r, dtype))


def finite_or_minus_inf(log_prob):
    return not np.isnan(log_prob).any() and (log_prob < np.inf).all()


@names
@dtypes
def test_queries_of_any_rows_are_numbers(name, dtype):
    x = MODELS[name][1]

    @settings(max_examples=60)
    @given(rows(name, x, dtype))
    @example(np.full((2, x.shape[1]), np.finfo(dtype).max if x is REAL else 1.0, dtype))
    def check(x):
        for model in (fitted(name, np.float32), fitted(name, np.float64)):
            log_prob = model.log_prob(x)
            assert log_prob.dtype == dtype and finite_or_minus_inf(log_prob), x
            assert not math.isnan(model.score(x))
            representation = model.encode(x)
            assert representation.dtype == dtype and not np.isnan(representation).any(), x
            if hasattr(model, "predict_proba"):
                np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1, rtol=1e-5)
                assert ((model.predict_proba(x) >= 0) & (model.predict(x)[:, None] >= 0)).all()
            if isinstance(model, VAE):
                assert finite_or_minus_inf(model.elbo(x)), x
                for n in (1, 5):
                    estimate, error = model.importance_log_prob(x, n_importance=n)
                    assert finite_or_minus_inf(estimate), x
                    assert n == 1 or (np.isfinite(error) | np.isneginf(estimate) | (error == np.inf)).all()
            single = np.concatenate([model.log_prob(row[None]) for row in x])  # whatever the rows beside it overflow to
            np.testing.assert_allclose(single, log_prob, rtol=1e-4)

    check()


@names
@dtypes
def test_representations_of_any_size_decode_to_numbers(name, dtype):
    model = fitted(name, dtype)

    @settings(max_examples=60)
    @given(st.lists(st.tuples(*[sizes(dtype)] * model.n_latent_), min_size=1, max_size=6).map(lambda r: np.array(r, dtype)))
    @example(np.full((2, model.n_latent_), np.finfo(dtype).max, dtype))
    def check(z):
        x = model.decode(z)
        assert x.dtype == dtype and not np.isnan(x).any()
        if name.endswith("bits"):
            assert ((x >= 0) & (x <= 1)).all()

    check()


@pytest.mark.parametrize("name", [name for name, (model, x) in MODELS.items() if x is REAL and not isinstance(model, VAE)])
def test_single_rows_have_the_densities_of_double_ones_or_underflow(name):
    """-inf in float32 where, and only where, float64 says that float32 does not hold it; else the same up to rounding."""
    model = fitted(name)

    @settings(max_examples=100)
    @given(rows(name, REAL, np.float32))
    def check(x):
        x = x[(np.abs(x) > 1e12).any(axis=1)]  # where rounding is the same share of all terms
        if len(x):
            single, double = model.log_prob(x), model.log_prob(x.astype(np.float64))
            assert (np.isneginf(single) == (double < -np.finfo(np.float32).max)).all() or \
                np.isclose(double / np.finfo(np.float32).max, -1, rtol=1e-2).any()
            held = ~np.isneginf(single)
            np.testing.assert_allclose(single[held], double[held], rtol=1e-2)

    check()


@pytest.mark.parametrize("name", ["MADE", "RealNVP", "VAE"])
def test_a_line_to_infinity_falls_until_it_underflows(name):
    model, x = fitted(name), REAL[:1] + 10.0**np.arange(1, 308)[:, None] * [1, -1, 0.5]
    log_prob = model.log_prob(x)
    finite = np.isfinite(log_prob)
    assert (np.diff(log_prob[finite]) < 0).all() and 100 < finite.sum() < 200
    assert (np.diff(finite.astype(int)) <= 0).all()  # once -inf, always


@pytest.mark.parametrize("name", ["MADE", "RealNVP", "VAE"])
def test_noise_of_single_rows_is_that_of_double_ones(name):
    """Where float32 overflows on the way, float64 does not; what float32 does not hold is infinite, with the right sign."""
    model, x = fitted(name), REAL[:1] + 10.0**np.arange(30, 38.3, 0.25)[:, None] * [[1, -1, 0.5]]
    x = x.astype(np.float32)
    with np.errstate(over="ignore"):
        want = model.encode(x.astype(np.float64)).astype(np.float32)
    got = model.encode(x)
    np.testing.assert_allclose(got[np.isfinite(got)], want[np.isfinite(got)], rtol=1e-3)
    assert (np.isinf(got) == np.isinf(want)).all() and (np.sign(got) == np.sign(want)).all()
