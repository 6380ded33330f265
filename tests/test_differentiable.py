"""log_prob of rows inside a derivative: its gradient by the rows, in the data's own space, is what finite differences give."""
import numpy as np
import pytest

from npgen import MADE, VAE, GaussianMixture, Mixture, RealNVP, transforms
from npgen.engine import grad, vjp
from npgen.models import vae

rng = np.random.default_rng(0)
ROWS = rng.normal(size=(200, 3)) * [1, 20, 0.1] + [0, 100, 0]
UNIT = 1 / (1 + np.exp(-rng.normal(size=(200, 3))))
MIXED = np.stack([*ROWS.T[:2], rng.integers(0, 4, 200)], axis=1)
FAR = np.concatenate([ROWS, [[0, 1e4, 0]]])
QUICK = {"max_epochs": 2, "random_state": 0}
COLUMNS = {"preprocess": transforms.Columns(maps=(transforms.Logit(), transforms.Log()), columns=((2,), (0,)))}
LOGIT = {"preprocess": transforms.Chain(steps=(transforms.Logit(), transforms.Standardize()))}
CASES = {
    **{f"GaussianMixture {form}": (GaussianMixture(2, covariance_type=form, random_state=0), ROWS)
       for form in ("full", "tied", "diag", "spherical")},
    "GaussianMixture logit": (GaussianMixture(2, random_state=0, **LOGIT), UNIT),
    "Mixture": (Mixture(2, random_state=0), ROWS),
    "MADE": (MADE(hidden=(8,), **QUICK), ROWS), "MADE logit": (MADE(hidden=(8,), **QUICK, **LOGIT), UNIT),
    "RealNVP": (RealNVP(n_couplings=2, hidden=(8,), **QUICK), ROWS), "RealNVP far": (RealNVP(hidden=(8,), **QUICK), FAR),
    "RealNVP columns": (RealNVP(n_couplings=2, hidden=(8,), **QUICK, **COLUMNS), UNIT),
    "RealNVP mixed": (RealNVP(n_couplings=2, hidden=(8,), **QUICK), MIXED), "MADE mixed": (MADE(hidden=(8,), **QUICK), MIXED),
    "RealNVP logit": (RealNVP(n_couplings=2, hidden=(8,), **QUICK, **LOGIT), UNIT),
    "VAE": (VAE(n_latent=2, hidden=(8,), head="normal", n_importance=8, **QUICK), ROWS),
}


@pytest.mark.filterwarnings("ignore")  # of fits that are cut short
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_log_prob_by_the_rows(name, monkeypatch):
    model, rows = CASES[name]
    model = model.fit(rows)
    noise = np.random.default_rng(1).normal(size=(5, 8, 2))  # the noise of a row is a constant of it
    monkeypatch.setattr(vae, "row_normals", lambda x, shape: noise[:len(x)])
    monkeypatch.setattr(transforms.dequantize.RowNoise, "uniform",
                        lambda row, shape, dtype, like=None: np.full(shape, 0.3, dtype))
    x, step = rows[[3, 17, 41, 100, -1]] if name != "VAE" else rows[3:8], 1e-5 * rows.std(axis=0)
    value, pull = vjp(model.log_prob, x)
    assert value.shape == (5,)
    np.testing.assert_allclose(value, by_parts(model, x), rtol=1e-9)
    got = pull(np.ones(5))[0]
    for j in np.flatnonzero((rows != np.round(rows)).any(axis=0)):  # integers are not moved
        move = step * (np.arange(3) == j)
        want = (by_parts(model, x + move) - by_parts(model, x - move)) / (2 * step[j])
        np.testing.assert_allclose(got[:, j], want, rtol=1e-4, atol=1e-5 / step[j] * 1e-4)


@pytest.mark.filterwarnings("ignore")
def test_rows_inside_a_derivative_are_checked_by_their_value():
    model = GaussianMixture(2, random_state=0).fit(ROWS)
    for wrong, words in ((ROWS[:, :2], "features"), (ROWS * np.inf, "inf|nan"), (np.where(ROWS > 0, np.nan, ROWS), "missing")):
        with pytest.raises(ValueError, match=words), np.errstate(all="ignore"):
            grad(lambda x: np.sum(model.log_prob(x)))(wrong)
    assert grad(lambda x: np.sum(model.log_prob(x)))(ROWS.astype(np.float32)).dtype == np.float32


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["fit", "partial_fit", "score", "encode", "predict", "elbo", "decode"])
def test_only_log_prob_is_differentiable_by_its_rows(method):
    model, rows = CASES["GaussianMixture full" if hasattr(GaussianMixture, method) else "VAE"]
    model, name = model.fit(rows), "Z" if method == "decode" else "X"
    with pytest.raises(TypeError, match=f"^{method}: {name} is a Tensor, but only log_prob is .* or pass {name}.value"):
        grad(lambda x: np.sum(getattr(model, method)(x)))(rows[:5])


def by_parts(model, x):
    """log p(x), of all rows at once."""
    inner = model.inner()
    z, log_det = inner.enter(x)
    return inner.log_density(z) + log_det


@pytest.mark.filterwarnings("ignore")
def test_dequantised_rows_move_as_their_cells_do():
    counts = rng.integers(0, 9, size=(200, 3)).astype(float)
    model = RealNVP(n_couplings=2, hidden=(8,), preprocess="dequantize+logit", **QUICK).fit(counts)
    dequantize = model.preprocess_.steps[0]
    z, log_det = dequantize.to_noise(None, counts[:5])

    def behind(z):
        y, more = model.preprocess_.steps[1].to_noise(None, z)
        return np.sum(model.inner(z.dtype).log_density(y) + more)

    want = grad(behind)(z) / dequantize.levels_
    np.testing.assert_allclose(grad(lambda x: np.sum(model.log_prob(x)))(counts[:5]), want, rtol=1e-9)
