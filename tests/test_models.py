"""Every model against the laws of its contract (models/base.py). A new model is one line in CASES.

A statistical law raises a false alarm for one seed in a million, and the seeds are fixed.
"""
import contextlib
import copy
import functools
import json
import math
import os
import pickle
import re
import warnings
from pathlib import Path

import numba
import numpy as np
import pytest
from queries import answers_to, by_rows, coded, scored

import npgen
from npgen import checkpoint, data, priors
from npgen.models import (
    CLASSES,
    GAN,
    GMMN,
    IAF,
    MADE,
    MAF,
    NSF,
    RBM,
    VAE,
    Autoencoder,
    Diffusion,
    EnergyModel,
    FlowMatching,
    GaussianMixture,
    Mixture,
    RealNVP,
)
from npgen.models.flow import FlowModel
from npgen.random import Stream
from npgen.testing import check_generative_model
from npgen.transforms import Chain, Dequantize, Logit, Standardize

pytestmark = [pytest.mark.filterwarnings(f"ignore:fit. {words}") for words in (  # the laws hold of these models too
    "hidden=.* is too narrow", "a (IAF|MADE|MAF|RealNVP) of one column is one Gaussian", "column . of X is . in .* of the rows",
    "in some direction components")]

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(160, 5))
BITS = (NORMAL[:, :4] + NORMAL[:, [4]] > 0).astype(float)
REAL = NORMAL @ RNG.normal(size=(5, 5)) * [1, 20, 0.1, 3, 1] + [0, 300, 0, -7, 1]
MOONS = data.moons(160)
LEVELS = np.hstack([REAL[:, :2], BITS[:, :2], np.clip(np.round(1 + NORMAL[:, 2:4]), 0, 2)])
COUNTS = np.clip(np.round(4 + 2 * NORMAL[:, :3] + NORMAL[:, [3]]), 0, 9)
QUICK = {"max_epochs": 4, "random_state": 0}
made = functools.partial(MADE, hidden=(16,), **QUICK)
flow = functools.partial(RealNVP, n_couplings=4, hidden=(8,), **QUICK)
stacked = {"n_layers": 2, "hidden": (8,), **QUICK}
matching = functools.partial(FlowMatching, hidden=(8, 7), n_steps=24, **QUICK)
denoising = functools.partial(Diffusion, hidden=(8, 7), n_steps=16, **QUICK)
adversarial = functools.partial(GAN, hidden=(16,), critic_hidden=(7,), n_noise=3, average=0.9, **QUICK)
vae = functools.partial(VAE, n_latent=2, hidden=(8,), n_importance=20, **QUICK)
mixture = functools.partial(GaussianMixture, n_components=3, tol=1e-2, random_state=0)
columns = functools.partial(Mixture, n_components=3, tol=1e-2, random_state=0)

CASES = {
    "MADE, Bernoulli": (made(), BITS),
    "MADE, Bernoulli, natural order": (made(order="natural"), BITS),
    "MADE, Bernoulli, given order, deep": (made(order=(2, 0, 3, 1), hidden=(9, 7, 8)), BITS),
    "MADE, Bernoulli, 1 feature": (made(), BITS[:, :1]),
    "MADE, Bernoulli, fewer units than features": (made(hidden=(2,)), BITS),
    "MADE, normal": (made(), REAL),
    "MADE, normal, deep, given order": (made(order=(1, 0), hidden=(9, 7)), MOONS),
    "MADE, normal, 1 feature": (made(), REAL[:, 1:2]),
    "MADE, normal, raw": (made(preprocess=None), MOONS),
    "MADE, counts": (made(), COUNTS),
    "RealNVP, 2 features": (flow(), MOONS),
    "RealNVP, 1 feature": (flow(), REAL[:, 1:2]),
    "RealNVP, 3 features, odd couplings": (flow(n_couplings=3), REAL[:, :3]),
    "RealNVP, 5 features": (flow(hidden=(8, 6)), REAL),
    "RealNVP, counts": (flow(), COUNTS),
    "RealNVP, raw, linear": (flow(preprocess=None, hidden=()), MOONS),
    "RealNVP, chain": (flow(preprocess=Chain(steps=(Dequantize(levels=10), Logit(alpha=0.01), Standardize()))), COUNTS),
    "MADE, Bernoulli, several orders, direct": (made(n_masks=3, direct=True), BITS),
    "MADE, normal, any order": (made(order="any"), MOONS),
    "MAF": (MAF(**stacked), REAL),
    "MAF, batch normalisation": (MAF(norm="batch", mix="random", **stacked), MOONS),
    "MAF, 1 feature, LU": (MAF(norm=None, mix="lu", **stacked), REAL[:, 1:2]),
    "RealNVP, base of MADE": (flow(base=priors.MADE(3, (6,))), REAL),
    "MAF, base of MADE": (MAF(base=priors.MADE(3, (6,)), **stacked), REAL),
    "IAF": (IAF(**stacked), MOONS),
    "NSF": (NSF(**stacked), REAL),
    "NSF, base of normals": (NSF(base="mixture", norm="batch", **stacked), MOONS),
    "NSF, autoregressive, counts": (NSF(coupling=False, mix="lu", **stacked), COUNTS),
    "FlowMatching": (matching(), REAL),
    "FlowMatching, optimal transport, 1 feature": (matching(coupling="ot"), REAL[:, 1:2]),
    "FlowMatching, counts": (matching(solver="heun"), COUNTS),
    "FlowMatching, raw, several steps": (matching(preprocess=None, solver="dpm++", target="batch", time_power=1.5), MOONS),
    "Diffusion": (denoising(), MOONS),
    "Diffusion, counts, several steps": (denoising(solver="dpm++"), COUNTS),
    "VAE, Bernoulli": (vae(), BITS),
    "VAE, normal": (vae(), REAL),
    "VAE, counts": (vae(prior=priors.Flow(2, (6,), coupling=False, bins=3)), COUNTS),
    "VAE, 1 latent, linear": (vae(n_latent=1, hidden=()), MOONS),
    "RBM, Bernoulli": (RBM(n_hidden=5, **QUICK), BITS),
    "RBM, normal": (RBM(n_hidden=3, **QUICK), REAL),
    "EnergyModel": (EnergyModel(hidden=(8,), n_importance=500, n_burn=5, **QUICK), MOONS),
    "EnergyModel, by its chains": (EnergyModel(hidden=(8,), objective="pcd", n_chains=20, n_steps=2, n_importance=500, n_burn=5,
                                               **QUICK), REAL),
    "Autoencoder": (Autoencoder(n_latent=2, hidden=(8,), **QUICK), REAL),
    "Autoencoder, noise, counts": (Autoencoder(n_latent=2, hidden=(), noise=0.3, prior=GaussianMixture(1), **QUICK), COUNTS),
    "GMMN": (GMMN(hidden=(8,), **QUICK), MOONS),
    "GMMN, counts, sliced": (GMMN(objective="sliced_wasserstein", hidden=(), n_noise=3, **QUICK), COUNTS),
    "GAN": (adversarial(), REAL),
    "GAN, packs, bits": (adversarial(loss="hellinger", packing=2, n_critic=2), BITS),
    "GAN, slopes of 1, counts": (adversarial(loss="wasserstein-gp"), COUNTS),
    "GaussianMixture, full": (mixture(), MOONS),
    "GaussianMixture, tied": (mixture(covariance_type="tied"), REAL),
    "GaussianMixture, diagonal": (mixture(covariance_type="diag"), REAL[:, :2]),
    "GaussianMixture, spherical, 1 feature": (mixture(covariance_type="spherical"), REAL[:, 1:2]),
    "GaussianMixture, 1 component": (mixture(n_components=1), REAL),
    "GaussianMixture, counts, dequantised": (mixture(preprocess="dequantize+logit"), COUNTS),
    "GaussianMixture, by gradient": (mixture(solver="adam", max_epochs=4), MOONS),
    "Mixture, Bernoulli": (columns(), BITS),
    "Mixture, normal": (columns(), REAL),
    "Mixture, Poisson": (columns(heads="poisson"), COUNTS),
    "Mixture, of all heads": (columns(heads=("normal",) * 2 + ("bernoulli",) * 2 + ("categorical",) * 2), LEVELS),
}
FIRST = {type(model).__name__: case for case, (model, _) in reversed(CASES.items())}  # a case of every class


def where(condition):
    """Parametrise with the cases whose (model, rows) meet the condition."""
    return pytest.mark.parametrize("case", [case for case, (model, x) in CASES.items() if condition(model, x)])


def of_bits(x):
    return np.isin(x, (0, 1)).all()


def of_reals(x):
    return np.any(x != np.round(x), axis=0).all()


def of_the_data(model, x):
    """The density is that of the rows as they are, not of rows with noise."""
    return of_bits(x) or of_reals(x) or isinstance(model, Mixture)


def exact(model):
    return not isinstance(model, (EnergyModel, VAE))


def inverts(model, x):
    """decode is the inverse of encode."""
    return isinstance(model, FlowModel) or isinstance(model, MADE) and model.order != "any" and not of_bits(x)


def to_noise(model, x):
    """encode gives standard normal noise."""
    return inverts(model, x) and getattr(model, "base", "normal") == "normal"


cases = where(lambda model, x: True)
classes = pytest.mark.parametrize("case", FIRST.values(), ids=FIRST)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def fresh(case, **params):
    """An unfitted model of the case."""
    model, _ = CASES[case]
    return type(model)(**model.get_params(deep=False) | params)


@functools.cache
def fitted(case, dtype=np.float64):
    """The case's model, fitted once, and its rows."""
    x = CASES[case][1].astype(dtype)
    return fresh(case).fit(x), x


def same_bits(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def answers(model, x):
    """Every query, as arrays."""
    return [*(query(rows) for query, rows in by_rows(model, x)), np.array(model.score(x)), model.sample(7, rng=3)]


def same_answers(a, b, x):
    for one, other in zip(answers(a, x), answers(b, x), strict=True):
        same_bits(one, other)


def same_fit(a, b):
    for x, y in zip(*(model.state()[0].values() for model in (a, b)), strict=True):
        same_bits(x, y)


# ---------------------------------------------------------------- shapes and dtypes

@cases
@dtypes
def test_shapes_and_dtypes(case, dtype):
    model, x = fitted(case, dtype)
    n, d = x.shape
    shapes = {"sample": (model.sample(5, rng=0), (5, d)), "none": (model.sample(0, rng=0), (0, d))}
    if scored(model):
        log_prob, (drawn, drawn_log_prob) = model.log_prob(x), model.sample_and_log_prob(5, rng=0)
        shapes |= {"log_prob": (log_prob, (n,)), "drawn": (drawn_log_prob, (5,)), "no rows": (model.log_prob(x[:0]), (0,)),
                   "one": (model.log_prob(x[:1]), (1,))}
        assert math.isclose(model.score(x), log_prob.mean(), rel_tol=1e-5)
        same_bits(drawn, model.sample(5, rng=0))
        same_bits(drawn_log_prob, model.log_prob(drawn))
        same_bits(model.score_samples(x), log_prob)
    if coded(model):
        z = model.encode(x)
        decoded = model.decode(z)
        shapes |= {"encode": (z, (n, model.n_latent_)), "decode": (decoded, (n, d)),
                   "no rows encoded": (model.encode(x[:0]), (0, model.n_latent_)),
                   "no rows decoded": (model.decode(z[:0]), (0, d))}
        same_bits(model.transform(x), z)
        same_bits(model.inverse_transform(z), decoded)
    for name, (answer, shape) in shapes.items():
        assert answer.shape == shape and answer.dtype == dtype, name
        assert np.isfinite(answer).all(), name
    assert type(model.score(x)) is float and model.n_features_in_ == d and (model.n_latent_ > 0) == coded(model)
    assert model.capabilities.density == ("none" if not scored(model) else "estimate" if not exact(model) else
                                          "exact" if of_the_data(model, x) else "bound")
    assert model.capabilities.invertible == inverts(model, x)


@cases
def test_the_rows_decide_the_dtype_of_a_query(case):
    model, x = fitted(case, np.float32)
    for (query, rows), (_, exactly) in zip(by_rows(model, x), by_rows(model, x.astype(np.float64)), strict=True):
        assert query(rows).dtype == np.float32 and query(exactly).dtype == np.float64
        if query != model.log_prob or model.capabilities.density != "estimate":  # whose noise is that of the rounded row
            np.testing.assert_allclose(query(rows), query(exactly), rtol=1e-2, atol=2e-3 * max(1, abs(rows).max()))
    assert all(query(rows).dtype == np.float32 for query, rows in by_rows(fitted(case)[0], x))


class Frame:
    """What a DataFrame is to NumPy, with names of its columns if there are any."""

    def __init__(self, x, columns=None):
        self.x, self.shape = x, x.shape
        if columns is not None:
            self.columns = columns

    def __array__(self, dtype=None, copy=None):
        return np.array(self.x, dtype=dtype)


def _memory_map(x, folder):
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


FORMS = {  # form -> (what is passed, what it stands for); x holds small integers
    "list": lambda x, folder: (x.tolist(), x),
    "tuple of rows": lambda x, folder: (tuple(map(tuple, x)), x),
    "frame": lambda x, folder: (Frame(x), x),
    "objects": lambda x, folder: (x.astype(object), x),
    "memory map": lambda x, folder: (_memory_map(x, folder), x),
    "read-only": lambda x, folder: (_read_only(x), x),
    "Fortran order": lambda x, folder: (np.asfortranarray(x), x),
    "reversed view": lambda x, folder: (x[::-1, ::-1].copy()[::-1, ::-1], x),
    "byte-swapped": lambda x, folder: (x.astype(x.dtype.newbyteorder()), x),
    "byte-swapped float32": lambda x, folder: (x.astype(np.dtype("f4").newbyteorder()), x.astype("f4")),
    "long double": lambda x, folder: (x.astype(np.longdouble), x),
    "float16": lambda x, folder: (x.astype("f2"), x.astype("f4")),
    "int8": lambda x, folder: (x.astype("i1"), x.astype("f4")),
    "uint64": lambda x, folder: (x.astype("u8"), x.astype("f4")),
    "bool": lambda x, folder: (x.astype(bool), x.astype(bool).astype("f4")),
}


@classes
@pytest.mark.parametrize("form", FORMS)
def test_anything_array_like_goes_in(case, form, tmp_path):
    given, meant = FORMS[form](BITS[:40], tmp_path)
    if isinstance(CASES[case][0], (GaussianMixture, Mixture)) and meant.dtype == np.float32 and "float32" not in form:
        meant = meant.astype(np.float64)
    raw = {"preprocess": None} if "preprocess" in CASES[case][0].get_params() else {}
    a, b = (fresh(case, **raw).fit(x) for x in (given, meant))
    assert a.dtype_ == meant.dtype
    same_answers(a, b, given)
    for one, other in zip(answers(a, given), answers(b, meant), strict=True):
        same_bits(one, other)
    if coded(a):
        same_bits(a.decode(np.asfortranarray(a.encode(given))), b.decode(b.encode(meant)))


@classes
def test_columns_have_the_names_of_the_fit(case, tmp_path):
    x = CASES[case][1]
    names = [f"column {j}" for j in range(x.shape[1])]
    model, named = fresh(case).fit(Frame(x, names)), Frame(x, names)
    queries = [getattr(model, name) for name in ("log_prob", "score", "encode") if answers_to(model, name)]
    assert model.feature_names_in_.dtype == object and list(model.feature_names_in_) == names
    same_bits(np.array(queries[0](named)), np.array(getattr(fresh(case).fit(x), queries[0].__name__)(x)))
    model.save(tmp_path / "model")
    assert list(npgen.load(tmp_path / "model").feature_names_in_) == names
    for query in queries:
        with pytest.warns(UserWarning, match="X does not have valid feature names, but .* was fitted with"):
            query(x)
        with pytest.raises(ValueError, match="Feature names must be in the same order as they were in fit"):
            query(Frame(x[:, ::-1], names[::-1]))
        with pytest.raises(ValueError, match="unseen at fit time:\n- other\nFeature names seen .*:\n- column 0\n"):
            query(Frame(x, ["other", *names[1:]]))
    if len(names) > 1:
        with pytest.raises(TypeError, match=r"only supported if all input features have string names, .* \['int', 'str'\]"):
            model.fit(Frame(x, [3, *names[1:]]))
    assert not hasattr(model.fit(Frame(x, range(len(names)))), "feature_names_in_")
    with pytest.warns(UserWarning, match="X has feature names, but .* was fitted without feature names"):
        queries[0](named)


@pytest.mark.parametrize(("case", "name"), [("MADE, Bernoulli", "order_"), ("RealNVP, 5 features", "orders_")])
def test_orders_are_read_only(case, name):
    """Layers and masks are made from them."""
    for model in (fitted(case)[0], pickle.loads(pickle.dumps(fitted(case)[0]))):
        with pytest.raises(ValueError, match="read-only"):
            getattr(model, name)[0] = 0
        with pytest.raises(AttributeError):
            setattr(model, name, 0)
    assert not hasattr(fresh(case), name)


FRAMES = {"table": data.Table,
          "pandas": lambda x, names: pytest.importorskip("pandas").DataFrame(x, columns=names),
          "polars": lambda x, names: pytest.importorskip("polars").DataFrame(x, schema=names)}
PUBLIC = {  # a call of every public method, of a model m fitted on named rows x
    "fit": lambda m, x, z, folder: m.fit(x),
    "fit_transform": lambda m, x, z, folder: m.fit_transform(x),
    "fit_predict": lambda m, x, z, folder: m.fit_predict(x),
    "partial_fit": lambda m, x, z, folder: m.partial_fit(x),
    "sample": lambda m, x, z, folder: m.sample(3),
    "sample_and_log_prob": lambda m, x, z, folder: m.sample_and_log_prob(3),
    "critic": lambda m, x, z, folder: m.critic(x),
    "decode": lambda m, x, z, folder: m.decode(z),
    "inverse_transform": lambda m, x, z, folder: m.inverse_transform(z),
    "marginal": lambda m, x, z, folder: m.marginal([0]).sample_and_log_prob(3),
    "condition": lambda m, x, z, folder: [m.condition([j], np.asarray(x)[0, [j]]).sample(3) for j in np.ravel(
        getattr(m, "order_", 0))[:1] if m.n_features_in_ > 1],
    "impute": lambda m, x, z, folder: m.impute(x),
    "predict": lambda m, x, z, folder: answers_to(m, "predict") and m.predict(x, *([0] if isinstance(m, npgen.MADE) else [])),
    "inner": lambda m, x, z, folder: m.inner().enter(np.asarray(x)),
    "install": lambda m, x, z, folder: m.install(m.inner().parts),
    "state": lambda m, x, z, folder: m.state(),
    "log_z": lambda m, x, z, folder: m.log_z(),
    "interpolate": lambda m, x, z, folder: m.interpolate(x[:2], x[2:4], 3),
    "save": lambda m, x, z, folder: (m.save(folder / "m"), npgen.load(folder / "m").score(x)),
    "to": lambda m, x, z, folder: m.to("cpu").score(x),
    "get_params": lambda m, x, z, folder: m.get_params(),
    "set_params": lambda m, x, z, folder: m.set_params(),
    "without_schema": lambda m, x, z, folder: m.without_schema().sample(3),
}
BESIDE = {  # what takes a model
    "select_n_components": lambda m, x, z, folder: npgen.select_n_components(m, x, (1, 2))[0].sample_and_log_prob(3),
    "check_generative_model": lambda m, x, z, folder: check_generative_model(m, seed=1, n_samples=100),
    "check_generative_model, of rows": lambda m, x, z, folder: check_generative_model(m, x, seed=1, n_samples=100),
}


@classes
@pytest.mark.parametrize("frame", FRAMES)
def test_a_model_of_a_data_frame_warns_of_no_rows_of_its_own(case, frame, tmp_path):
    """Every warning is an error here. A public method that is in no table is asked about the rows of the fit."""
    x = CASES[case][1]
    names = [f"column {j}" for j in range(x.shape[1])]
    rows, model = FRAMES[frame](x, names), fresh(case)
    model.fit(rows)
    assert list(model.feature_names_in_) == names
    z = model.encode(rows) if coded(model) else None
    methods = [name for name in dir(model) if name[0] != "_" and getattr(getattr(model, name, None), "__self__", None) is model
               and answers_to(model, name)]
    assert {"score", "sample"} <= set(methods) and ("log_prob" in methods, "encode" in methods) == (scored(model), coded(model))
    for name in methods:
        call = PUBLIC.get(name, lambda m, x, z, folder, name=name: getattr(m, name)(x))
        call(copy.copy(model), rows, z, tmp_path)
    for name, call in BESIDE.items():
        if name != "select_n_components" or hasattr(model, "bic"):
            call(model, rows, z, tmp_path)


@classes
def test_columns_in_another_order_are_refused_with_what_to_write(case):
    x = CASES[case][1]
    names = [f"column {j}" for j in range(x.shape[1])]
    model = fresh(case).fit(data.Table(x, names))
    for frame in FRAMES.values():
        given = frame(np.c_[x[:, 0], x[:, ::-1]], ["label", *names[::-1]])
        with pytest.raises(ValueError, match=r"(?s)unseen at fit time:\n- label\n.*Pass X\[list\(model.feature_names_in_\)\]"):
            model.score(given)
        assert model.score(given[list(model.feature_names_in_)]) == model.score(data.Table(x, names))
    with pytest.raises(ValueError, match=r"Feature names must be in the same order as they were in fit.\nPass X\[list"):
        (model.encode if coded(model) else model.score)(data.Table(x[:, ::-1], names[::-1]))
    with pytest.raises(ValueError, match="check_generative_model: X has columns"):
        check_generative_model(model, data.Table(x[:, ::-1], names[::-1]))
    with pytest.raises(ValueError, match="now missing:\n- column 0\n$"):
        model.score(data.Table(x[:, 1:], names[1:]))


@classes
def test_a_fit_leaves_its_rows_alone(case):
    x = CASES[case][1].copy()
    fresh(case).fit(x, sample_weight=np.arange(1.0, len(x) + 1))
    same_bits(x, CASES[case][1])


# ---------------------------------------------------------------- hyperparameters that are arrays

START = REAL[:3].round().astype(np.int64)
WEIGHTS, PRECISIONS = np.array([0.5, 0.25, 0.25]), np.stack([np.eye(5), 2 * np.eye(5), np.eye(5) + 1]) / 16
ARRAYS = {  # a hyperparameter that is an array -> a model that has it, its values, rows
    "means_init": (mixture, START, REAL), "weights_init": (mixture, WEIGHTS, REAL),
    "precisions_init": (mixture, PRECISIONS, REAL),
    "order": (made, np.array([2, 0, 3, 1]), BITS), "hidden": (made, np.array([9, 7]), BITS),
}
LAYOUTS = {
    "list": lambda a: a.tolist(), "tuple": lambda a: tuple(map(tuple, a)) if a.ndim == 2 else tuple(a.tolist()),
    "Fortran order": np.asfortranarray, "reversed": lambda a: a[::-1].copy()[::-1], "read-only": _read_only,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2], "objects": lambda a: a.astype(object),
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()), "float16": lambda a: a.astype("f2"),
    "float32": lambda a: a.astype("f4"), "long double": lambda a: a.astype(np.longdouble), "int16": lambda a: a.astype("i2"),
    "pandas": lambda a: pytest.importorskip("pandas").DataFrame(a) if a.ndim == 2 else pytest.importorskip("pandas").Series(a),
    "polars": lambda a: pytest.importorskip("polars").DataFrame(a) if a.ndim == 2 else pytest.importorskip("polars").Series(a),
}


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning")
@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_array_hyperparameter_may_lie_in_memory_as_it_likes(name, layout, tmp_path):
    """The same numbers are the same fit, file and run, whatever holds them."""
    make, values, x = ARRAYS[name]
    if values.ndim == 3 and layout in ("pandas", "polars", "tuple"):
        return
    given = LAYOUTS[layout](values)
    kind = np.asarray(given).dtype.kind
    if not np.array_equal(np.asarray(given, float), values) or name in ("order", "hidden") and kind not in "iu":
        return  # other numbers, or columns and units that are not counted
    plain, other = make(**{name: values}).fit(x), make(**{name: given})
    assert other.get_params()[name] is given and len(repr(other)) < 1000 and "\n" not in repr(other)
    same_answers(other.fit(x, checkpoint=tmp_path / "run"), plain, x)
    other.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    np.testing.assert_array_equal(np.asarray(again.get_params()[name], float), values)
    same_answers(again, plain, x)
    same_answers(again.fit(x), plain, x)
    for holder in (values, values.tolist(), np.asfortranarray(values)):
        same_answers(make(**{name: holder}).fit(x, checkpoint=tmp_path / "run", resume=True), plain, x)
    changed = values[::-1] if name != "hidden" else values + 1
    with pytest.raises(ValueError, match=f"was written with {name}=.* is .* now; set it back") as caught:
        make(**{name: changed}).fit(x, checkpoint=tmp_path / "run", resume=True)
    assert "\n" not in str(caught.value)
    clone = pytest.importorskip("sklearn.base").clone(other)
    np.testing.assert_array_equal(np.asarray(clone.get_params()[name], float), values)


@pytest.mark.parametrize("hold", [np.asarray, np.asfortranarray, np.ndarray.tolist], ids=["C", "Fortran", "list"])
def test_a_million_numbers_are_a_hyperparameter_that_a_file_holds(hold, tmp_path):
    """What JSON makes of them is larger than any header."""
    large = hold(np.random.default_rng(0).normal(size=(1000, 1000)))
    model = mixture().fit(REAL).set_params(means_init=large)
    model.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    np.testing.assert_array_equal(again.means_init, large)
    assert os.path.getsize(tmp_path / "m") < 9e6 and len(repr(model)) < 1000 and len(repr(again)) < 1000
    model.set_params(means_init=None, n_components=1000)
    with pytest.raises(ValueError, match="means_init must") as caught:
        mixture(means_init=large).fit(REAL)
    assert len(str(caught.value)) < 500


# ---------------------------------------------------------------- randomness

@cases
def test_same_seed_same_rows_whatever_their_number(case):
    model, _ = fitted(case, np.float32)
    many = model.sample(300, rng=5)
    same_bits(many, model.sample(300, rng=5))
    same_bits(many, model.sample(300, rng=Stream(5)))
    np.testing.assert_allclose(model.sample(40, rng=5), many[:40], rtol=1e-4, atol=1e-5 * np.abs(many).max())
    for rng in (np.random.SeedSequence, np.random.default_rng):
        same_bits(model.sample(9, rng=rng(5)), model.sample(9, rng=rng(5)))
    assert not np.array_equal(many, model.sample(300, rng=6))
    assert len(np.unique(many, axis=0)) > 1


@classes
def test_without_a_seed_the_models_own_stream_goes_on(case):
    a, b = (fresh(case).fit(CASES[case][1]) for _ in range(2))
    first, second = a.sample(50), a.sample(50)
    assert not np.array_equal(first, second)
    same_bits(b.sample(50), first)
    same_bits(b.sample(50), second)


@cases
@dtypes
def test_same_seed_same_fit(case, dtype):
    model, x = fitted(case, dtype)
    same_fit(fresh(case).fit(x), model)


@classes
def test_seeds_differ(case):
    model, x = fitted(case)
    assert any(not np.array_equal(a, b) for a, b in zip(
        *(m.state()[0].values() for m in (model, fresh(case, random_state=1).fit(x))), strict=True))
    rng = [fresh(case, random_state=np.random.default_rng(7)).fit(x) for _ in range(2)]
    same_fit(*rng)


@dtypes
@cases
def test_a_row_has_the_same_bits_whatever_rows_are_beside_it(case, dtype):
    model, x = fitted(case, dtype)
    pack = getattr(model, "packing", 1)  # rows that are one to its critic
    for query, rows in by_rows(model, x):
        whole = query(rows)
        for size in (1, 3, 50, 97):
            size, each = (size * pack, pack) if query == getattr(model, "critic", None) else (size, 1)
            if 3 * size > len(rows):
                continue
            same_bits(np.concatenate([query(rows[i:i + size]) for i in range(0, 3 * size, size)]), whole[:3 * size // each])


@cases
def test_same_bits_with_one_thread_as_with_two(case):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread is all there is")
    model, x = fitted(case, np.float32)
    before, found = numba.get_num_threads(), []
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            found.append(fresh(case).fit(x))
            found[-1].answers = answers(found[-1], x)
    finally:
        numba.set_num_threads(before)
    same_fit(*found)
    for a, b in zip(found[0].answers, found[1].answers, strict=True):
        same_bits(a, b)


@cases
@dtypes
def test_a_rows_answer_does_not_depend_on_the_rows_beside_it(case, dtype, monkeypatch):
    """Up to rounding: a BLAS takes the last rows of a product by other instructions than the rest. A mixture's are alike."""
    model, x = fitted(case, dtype)
    close = 1e-12 if dtype == np.float64 else 1e-5
    same = same_bits if isinstance(model, GaussianMixture) else functools.partial(
        np.testing.assert_allclose, rtol=close, atol=close * np.abs(x).max())
    whole = [query(rows) for query, rows in by_rows(model, x)]
    if scored(model):
        same(model.log_prob(x[::-1])[::-1].copy(), whole[0])
        for i in range(3):  # a new axis has stride 0
            same(model.log_prob(x[i][None]), whole[0][i:i + 1])
    monkeypatch.setattr(type(model), "_rows_per_call", 7)
    for (query, rows), b in zip(by_rows(model, x), whole, strict=True):
        same(query(rows), b)


# ---------------------------------------------------------------- files and parameters

@cases
def test_save_then_load_is_the_identity(case, tmp_path):
    model, x = fitted(case, np.float32)
    model.save(tmp_path / "model")
    again = npgen.load(tmp_path / "model")
    assert type(again) is type(model) and repr(again) == repr(model) and again.capabilities == model.capabilities
    assert again.history_ == model.history_ and again.n_epochs_ == model.n_epochs_ and again.dtype_ == model.dtype_
    same_answers(again, model, x)
    same_answers(again, model, x.astype(np.float64))
    same_bits(again.sample(3), pickle.loads(pickle.dumps(model)).sample(3))  # the stream goes on where it was
    again.save(tmp_path / "again")
    same_answers(npgen.load(tmp_path / "again"), model, x)


@cases
def test_a_pickled_model_is_the_same(case):
    model, x = fitted(case)
    same_answers(pickle.loads(pickle.dumps(model)), model, x)


@classes
def test_changed_hyperparameters_wait_for_the_next_fit(case, tmp_path):
    _, x = fitted(case)
    model = fresh(case).fit(x)
    before = answers(model, x)
    other = {"hidden": (3,), "n_latent": 4, "n_couplings": 1, "head": "normal", "order": "natural", "preprocess": None,
             "n_components": 4, "covariance_type": "diag"}
    model.set_params(**{k: v for k, v in other.items() if k in model.get_params()})
    for a, b in zip(answers(model, x), before, strict=True):
        same_bits(a, b)
    model.save(tmp_path / "model")
    for a, b in zip(answers(npgen.load(tmp_path / "model"), x), before, strict=True):
        same_bits(a, b)


@cases
def test_parameters_go_in_and_out(case):
    model = CASES[case][0]
    params = model.get_params(deep=False)
    assert vars(type(model)(**params)) == vars(model)  # the constructor keeps what it is given, and does no work
    clone = type(model)().set_params(**params)
    assert clone.get_params(deep=False) == params and repr(clone) == repr(model)
    assert repr(type(model)()) == f"{type(model).__name__}()"
    assert "random_state=0" in repr(model)
    with pytest.raises(ValueError, match="has no parameter 'colour': choose from"):
        clone.set_params(colour=1)
    with pytest.raises(TypeError):
        type(model)(3, 4)


@classes
def test_scikit_learn_can_use_it(case):
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer
    from sklearn.utils.validation import check_is_fitted
    model, x = fitted(case)
    assert base.clone(model).get_params() == model.get_params()
    with pytest.raises(ValueError):
        check_is_fitted(fresh(case))
    check_is_fitted(model)
    pipe = make_pipeline(FunctionTransformer(), fresh(case)).fit(x)
    assert pipe.score(x) == model.score(x)
    if coded(model):
        same_bits(pipe.transform(x), model.encode(x))
    search = GridSearchCV(fresh(case), {"random_state": [0, 1]}, cv=2).fit(x)
    assert np.isfinite(search.best_score_)


def test_a_model_of_ones_own_is_saved_once_it_is_registered(tmp_path, monkeypatch):
    class Mine(npgen.RealNVP):
        pass

    model = Mine(n_couplings=2, hidden=(4,), max_epochs=1, random_state=0).fit(REAL)
    with pytest.raises(TypeError, match=r"^save: Mine .* register it, .*: npgen.models.CLASSES\['Mine'\] = Mine$"):
        model.save(tmp_path / "m")
    assert not os.listdir(tmp_path)
    monkeypatch.setitem(npgen.models.CLASSES, "Mine", Mine)
    model.save(tmp_path / "m")
    assert type(npgen.load(tmp_path / "m")) is Mine


@classes
def test_files_that_hold_no_model(case, tmp_path):
    model, x = fitted(case)
    path = tmp_path / "file"
    model.save(path)
    arrays, header = checkpoint.read(path)
    wrong = {
        "a training checkpoint": header | {"class": "checkpoint"},
        "an unknown class": header | {"class": "Oracle"},
        "class os.system": header | {"class": "os.system"},
        "no class": {},
        "no params": {k: v for k, v in header.items() if k != "params"},
        "a dtype there is none of": header | {"fitted": header["fitted"] | {"dtype_": "float99"}},
        "no stream": header | {"fitted": {k: v for k, v in header["fitted"].items() if k != "stream_"}},
        "fitted is a list": header | {"fitted": []},
        "a list for a class": header | {"class": ["MADE"]},
    }
    for name, bad in wrong.items():
        checkpoint.write(path, arrays, bad)
        with pytest.raises(npgen.LoadError, match=re.escape(str(path))):
            npgen.load(path)
            pytest.fail(name)
    checkpoint.write(path, {}, header)
    with pytest.raises(npgen.LoadError):
        npgen.load(path)
    with pytest.raises(npgen.LoadError, match="resume"):
        checkpoint.write(path, arrays, wrong["a training checkpoint"])
        npgen.load(path)


@classes
def test_a_parameter_that_no_file_can_hold_is_named(case, tmp_path):
    model, _ = fitted(case)
    name = "preprocess" if "preprocess" in model.get_params() else "heads"
    broken = pickle.loads(pickle.dumps(model)).set_params(**{name: object()})
    with pytest.raises(TypeError, match=name):
        broken.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- densities

@pytest.mark.long(but={"case": ["MADE, Bernoulli", "RealNVP, 2 features", "GaussianMixture, full", "Mixture, normal"]})
@cases
def test_every_law_holds(case):
    """Those of npgen.testing: the density's total, samples, log-dets, gradients, bounds.

    Of a few epochs without a likelihood, draws are not yet like the rows, which such a model is not asked about.
    """
    model, x = fitted(case)
    state = model.stream_.state()
    report = check_generative_model(model, x if scored(model) else None)
    assert report.passed, str(report)
    assert model.stream_.state() == state, "a check is to leave the model's stream alone"


@where(to_noise)
def test_decode_inverts_encode(case):
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-4)):
        model, x = fitted(case, dtype)
        scale = np.abs(x).max(axis=0)
        assert (np.abs(model.decode(model.encode(x)) - x) <= tolerance * scale).all()
    if of_reals(x):
        z = RNG.normal(size=(50, x.shape[1]))
        np.testing.assert_allclose(fitted(case)[0].encode(fitted(case)[0].decode(z)), z, atol=1e-9)


@where(lambda model, x: of_reals(x) and (model.preprocess or isinstance(model, (GaussianMixture, Mixture))))
def test_answers_have_units(case):
    model, x = fitted(case)
    scaled = fresh(case).fit(1024 * x)  # a power of two: the preprocessed rows have the same bits
    if scored(model):
        np.testing.assert_allclose(scaled.log_prob(1024 * x), model.log_prob(x) - x.shape[1] * math.log(1024), rtol=1e-9,
                                   atol=1e-9)
    else:
        assert math.isclose(scaled.score(1024 * x), 1024 * model.score(x), rel_tol=1e-9)
    np.testing.assert_allclose(scaled.sample(9, rng=1), 1024 * model.sample(9, rng=1), rtol=1e-9)
    units = x.shape[1] * math.log(1024) if scored(model) and model.inner().by_likelihood else 0  # a squared error has none
    for now, before in zip(scaled.history_, model.history_, strict=True):
        for key in ("train_nats", "valid_nats"):
            assert before[key] is None or math.isclose(now[key], before[key] + units, rel_tol=1e-9)


@where(lambda model, x: of_reals(x) and scored(model))
def test_rows_far_out_are_improbable_not_nan(case):
    model, x = fitted(case, np.float32)
    far = model.log_prob(x[:1] + np.float32([[0], [1e4], [1e10], [1e18], [1e30]]) * np.float32(1))
    assert not np.isnan(far).any() and (far[1:] < far[0]).all()


# ---------------------------------------------------------------- weights

@cases
def test_weights_of_one_are_no_weights(case):
    model, x = fitted(case)
    for weight in (1, 1.0, 0.3, 7):
        same_fit(fresh(case).fit(x, sample_weight=np.full(len(x), weight)), model)


@cases
def test_rows_of_weight_zero_are_not_there(case):
    x, keep = CASES[case][1], RNG.random(160) < 0.7
    w = RNG.uniform(0.5, 2, 160)
    junk = np.where(keep[:, None], x, 1)
    same_fit(fresh(case).fit(junk, sample_weight=w * keep), fresh(case).fit(x[keep], sample_weight=w[keep]))
    same_fit(fresh(case).fit(junk, sample_weight=keep), fresh(case).fit(x[keep]))


@cases
def test_weights_have_no_scale(case):
    x, w = CASES[case][1], RNG.uniform(0.5, 2, 160)
    a, b = (fresh(case).fit(x, sample_weight=scale * w) for scale in (1, 1024))
    same_fit(a, b)
    weighted = a.score(x, sample_weight=w)
    if scored(a):
        assert math.isclose(weighted, np.average(a.log_prob(x), weights=w), rel_tol=1e-12)
    assert math.isclose(weighted, a.score(x, sample_weight=w * 3), rel_tol=1e-12)


@where(lambda model, x: of_reals(x) and model.preprocess == "auto")
def test_preprocessing_is_weighted_too(case):
    x, w = CASES[case][1], RNG.uniform(0.1, 5, 160)
    model = fresh(case).fit(x, sample_weight=w)
    np.testing.assert_allclose(model.preprocess_.mean_, np.average(x, axis=0, weights=w), rtol=1e-12)


@classes
def test_weights_pull_the_fit_towards_their_rows(case):
    x = BITS if "Bernoulli" in case else REAL[:, :2]
    low, high = x[:, 0] <= x[:, 0].mean(), x[:, 0] > x[:, 0].mean()
    kind = {"max_epochs": 30} if "max_epochs" in CASES[case][0].get_params() else {}
    a, b = (fresh(case, **kind).fit(x, sample_weight=np.where(side, 1, 1e-3)) for side in (low, high))
    assert a.score(x[low]) > b.score(x[low]) and b.score(x[high]) > a.score(x[high])


# ---------------------------------------------------------------- refusals

def put(x, value, place=(3, 1)):
    x = x.copy()
    x[place[0], min(place[1], x.shape[1] - 1)] = value
    return x


BAD_FITS = {  # what is wrong -> (arguments of fit from the rows x, error, what the message must say)
    "NaN": (lambda x: (put(x, np.nan),), ValueError, r"fit: X\[3, \d\] is nan"),
    "infinity": (lambda x: (put(x, -np.inf),), ValueError, r"fit: X\[3, \d\] is -inf"),
    "one row": (lambda x: (x[:1],), ValueError, r"fit: X has shape \(1, \d\)"),
    "no rows": (lambda x: (x[:0],), ValueError, r"fit: X has shape \(0, \d\)"),
    "no columns": (lambda x: (x[:, :0],), ValueError, r"fit: X has 0 feature\(s\) \(shape=\(160, 0\)\)"),
    "one dimension": (lambda x: (x[0],), ValueError, r"fit: X must have two dimensions.*got shape \(\d,\)"),
    "three dimensions": (lambda x: (x[None],), ValueError, r"fit: X must have two dimensions.*got shape \(1, 160, \d\)"),
    "a number": (lambda x: (3.0,), ValueError, r"fit: X must have two dimensions.*got shape \(\)"),
    "None": (lambda x: (None,), (TypeError, ValueError), "fit: X must"),
    "words": (lambda x: ([["a", "b"], ["c", "d"]],), TypeError, "fit: X must hold real numbers, got dtype <U1"),
    "objects": (lambda x: (np.array([["a", 1.0]] * 2, object),), TypeError, "fit: X must be a table of numbers, got ndarray"),
    "ragged": (lambda x: ([[1.0, 2.0], [3.0]],), TypeError, "fit: X must be a table of numbers, got list"),
    "complex": (lambda x: (x + 1j,), ValueError, "fit: Complex data not supported, X has dtype complex128"),
    "dates": (lambda x: (np.full((4, 2), "2020-01-01", "M8[D]"),), TypeError, "fit: X must hold real numbers, got dtype date"),
    "masked": (lambda x: (np.ma.masked_array(x, mask=x == x[0, 0]),), ValueError, "fit: X has masked values"),
    "weights, too few": (lambda x: (x, None, np.ones(3)), ValueError, r"fit: sample_weight has shape \(3,\), but X has 160"),
    "weights, a column": (lambda x: (x, None, np.ones((160, 1))), ValueError, r"fit: sample_weight has shape \(160, 1\)"),
    "weights, one negative": (lambda x: (x, None, np.r_[-1, np.ones(159)]), ValueError, r"fit: sample_weight\[0\] is -1"),
    "weights, one NaN": (lambda x: (x, None, np.r_[1, np.nan, np.ones(158)]), ValueError, r"fit: sample_weight\[1\] is nan"),
    "weights, all zero": (lambda x: (x, None, np.zeros(160)), ValueError, "fit: sample_weight is zero everywhere"),
    "weights, one row left": (lambda x: (x, None, np.arange(160) == 5), ValueError, r"fit: X has shape \(1, \d\)"),
    "weights, words": (lambda x: (x, None, ["a"] * 160), TypeError, "fit: sample_weight must be numbers, got list"),
}


@classes
@pytest.mark.parametrize("wrong", BAD_FITS)
def test_a_fit_that_fails_leaves_the_model_as_it_was(case, wrong):
    model, x = fitted(case)
    arguments, error, message = BAD_FITS[wrong]
    if wrong == "NaN" and model.takes_missing:
        fresh(case).fit(*arguments(x))
        return
    before = answers(model, x)
    X, y, weights = (*arguments(x), None, None)[:3]
    with pytest.raises(error, match=message):
        model.fit(X, y, sample_weight=weights)
    for a, b in zip(answers(model, x), before, strict=True):
        same_bits(a, b)
    unfitted = fresh(case)
    with pytest.raises(error, match=message):
        unfitted.fit(X, y, sample_weight=weights)
    with pytest.raises(npgen.NotFittedError):
        unfitted.score(x)


BAD_PARAMS = {
    "hidden": [(0,), (2.5,), "wide", None, -3, (True,)],
    "head": ["cauchy", None, 3],
    "order": ["sorted", (0, 0, 1, 2), (1, 2, 3, 4), None, 1.5],
    "preprocess": ["whiten", 3],
    "n_couplings": [0, -1, 1.5, None, "4", (2, 3)],
    "n_latent": [0, -1, 1.5, None, "4", (2, 3)],
    "n_noise": [0, -1, 1.5, None, "4", (2, 3)],
    "critic_hidden": [(0,), (2.5,), "wide", None],
    "loss": ["mse", None, 3],
    "r1": [-1, math.nan, math.inf, "big", None, True],
    "r2": [-1, math.nan, math.inf, "big", None, True],
    "gp": [-1, math.nan, math.inf, "big", None, True],
    "packing": [0, 1.5, None],
    "n_critic": [0, 1.5, None],
    "noise": [-1, math.nan, math.inf, "big", None],
    "n_importance": [0, 1.5, None],
    "n_hidden": [0, -1, 1.5, None, "4"],
    "visible": ["poisson", None, 3],
    "n_chains": [0, 1.5, None],
    "n_steps": [0, 1.5, None],
    "n_annealed": [0, 1.5, None],
    "n_burn": [0, 1.5, None],
    "objective": ["mle", None, 3],
    "sampler": ["hmc", None],
    "sigma": [0, -1, math.nan, "wide", None],
    "step": [0, -1, math.inf, "long", None],
    "base": [3, "gmm"],
    "beta": [-1, math.nan, math.inf, "big", None],
    "max_epochs": [0, -1, 1.5, None, True, "9"],
    "batch_size": [0, 1.5, None],
    "learning_rate": [0, -1.0, math.nan, math.inf, None, "fast"],
    "validation_fraction": [-0.1, 1, 1.5, math.nan, None],
    "patience": [0, 1.5, None],
    "weight_decay": [-1, math.nan, "much", None],
    "callbacks": [3, None, (3,)],
    "random_state": [-1, "seed", 1.5, True],
    "n_components": [0, -1, 1.5, None, "4"],
    "covariance_type": ["round", None, 3],
    "tol": [-1, math.nan, None],
    "reg_covar": [-1, math.nan, None],
    "max_iter": [1.5, None],
    "n_init": [0, 1.5, None],
    "heads": ["cauchy", None, 3, ("normal",)],
    "smoothing": [-1, math.nan, None],
}
BAD = [(case, name, value) for case in FIRST.values() for name in CASES[case][0].get_params()
       for value in BAD_PARAMS.get(name, ())]


@pytest.mark.parametrize("case, name, value", BAD, ids=[f"{type(CASES[c][0]).__name__}-{n}-{v}" for c, n, v in BAD])
def test_a_hyperparameter_that_cannot_be_is_named(case, name, value):
    model, x = fitted(case)
    before, old = answers(model, x), model.get_params()[name]
    try:
        with pytest.raises((ValueError, TypeError)) as caught:
            model.set_params(**{name: value}).fit(x)
    finally:
        model.set_params(**{name: old})
    message = str(caught.value)
    assert name in message and "\n" not in message
    assert any(str(v) in message for v in [repr(value), value, *np.atleast_1d(np.asarray(value, dtype=object))])
    for a, b in zip(answers(model, x), before, strict=True):
        same_bits(a, b)


QUERIES = {
    "log_prob": lambda m, x: m.log_prob(x),
    "score": lambda m, x: m.score(x),
    "score_samples": lambda m, x: m.score_samples(x),
    "encode": lambda m, x: m.encode(x),
    "transform": lambda m, x: m.transform(x),
    "decode": lambda m, x: m.decode(x),
    "inverse_transform": lambda m, x: m.inverse_transform(x),
    "sample": lambda m, x: m.sample(2),
    "sample_and_log_prob": lambda m, x: m.sample_and_log_prob(2),
    "save": lambda m, x: m.save("nowhere"),
    "elbo": lambda m, x: m.elbo(x),
    "importance_log_prob": lambda m, x: m.importance_log_prob(x),
    "free_energy": lambda m, x: m.free_energy(x),
    "log_prob_bracket": lambda m, x: m.log_prob_bracket(x),
    "log_z": lambda m, x: m.log_z(),
    "energy": lambda m, x: m.energy(x),
    "critic": lambda m, x: m.critic(x),
    "explain": lambda m, x: m.explain(x),
    "predict": lambda m, x: answers_to(m, "predict") and m.predict(x, *([0] if isinstance(m, npgen.MADE) else [])),
    "predict_proba": lambda m, x: m.predict_proba(x),
    "aic": lambda m, x: m.aic(x),
    "bic": lambda m, x: m.bic(x),
    "impute": lambda m, x: m.impute(x),
    "marginal": lambda m, x: m.marginal([0]),
    "condition": lambda m, x: m.condition([0], [0.0]),
}


@pytest.mark.parametrize("case, query", [(c, q) for c in CASES for q in QUERIES
                                         if q != "save" and answers_to(CASES[c][0], q)])
def test_a_query_changes_nothing(case, query):
    """What save writes has the same bits after it: only sample(rng=None) moves on, and only in the model's own stream."""
    model, x = fitted(case)
    model = copy.copy(model)
    model.stream_ = Stream.from_state(model.stream_.state())

    def state():
        arrays, fitted = model.state()
        stream = None if query.startswith("sample") else model.stream_.state()
        return {name: np.asarray(a).tobytes() for name, a in arrays.items()}, json.dumps([fitted, stream], default=str)

    before, rows = state(), model.encode(x) if query in ("decode", "inverse_transform") else x
    with contextlib.suppress(ValueError):  # columns behind a preprocessing
        QUERIES[query](model, rows)
    assert state() == before


@pytest.mark.parametrize("case, query", [(c, q) for c in FIRST.values() for q in QUERIES if answers_to(CASES[c][0], q)])
def test_before_a_fit_every_query_says_so(case, query):
    model = fresh(case)
    with pytest.raises(npgen.NotFittedError, match=f"this {type(model).__name__} is not fitted yet; call fit"):
        QUERIES[query](model, CASES[case][1])


@classes
def test_queries_refuse_what_they_cannot_answer(case):
    model, x = fitted(case)
    d, holes = x.shape[1], model.takes_missing
    queries = [query for query in ("log_prob", "encode", "score", "critic") if answers_to(model, query)]
    for query in queries:
        ask = getattr(model, query)
        for X, error, message in ((x[:, 1:], ValueError, rf"X has {d - 1} features, but \w+ is expecting {d} features"),
                                  (np.hstack([x, x]), ValueError, f"X has {2 * d} features"),
                                  (x[0], ValueError, r"must have two dimensions.*\(\d,\)"),
                                  (put(x, np.inf), ValueError, r"X\[3, \d\] is inf"),
                                  *([] if holes else [(put(x, np.nan), ValueError, r"X\[3, \d\] is nan")]),
                                  ([["a"] * d], TypeError, "X must hold real numbers")):
            with pytest.raises(error, match=message) as caught:
                ask(X)
            assert str(caught.value).startswith(f"{'log_prob' if query == 'score' and 'log_prob' in queries else query}: ")
    if coded(model):
        z = model.encode(x)
        width = z.shape[1]
        message = f"decode: Z has {width + 1} columns, but this model's representations have {width}"
        with pytest.raises(ValueError, match=message):
            model.decode(np.hstack([z, z[:, :1]]))
        with pytest.raises(ValueError, match=r"decode: Z\[3, \d\] is nan"):
            model.decode(put(z, np.nan))
    for query, name in ((model.encode, "encode"), (model.decode, "decode")):
        if not coded(model):
            with pytest.raises(ValueError, match=f"{name}: a .* has no representation|decode: Z has"):
                query(x)
    if not scored(model):
        with pytest.raises(ValueError, match="log_prob: .* has no density; ask for sample"):
            model.log_prob(x)
    for n in (-1, 2.5, True, "3"):
        with pytest.raises(ValueError, match=f"sample: n_samples must be a non-negative integer, got {n!r}"):
            model.sample(n)
    for rng, error in ((-1, ValueError), ("a", TypeError), (1.5, TypeError)):
        with pytest.raises(error, match=re.escape(f"got {rng!r}" if error is TypeError else "got -1")):
            model.sample(2, rng=rng)
    with pytest.raises(ValueError, match="score: X has no rows"):
        model.score(x[:0])
    with pytest.raises(ValueError, match=r"score: sample_weight has shape \(3,\)"):
        model.score(x, sample_weight=[1, 2, 3])


@where(lambda model, x: of_bits(x) and scored(model))
def test_bits_are_asked_for_where_the_head_needs_them(case):
    model, x = fitted(case)
    rows = np.tile(x, (30, 1))
    for query in (model.log_prob, model.encode, *([model.elbo] if hasattr(model, "elbo") else [])):
        with pytest.raises(ValueError, match=r"X\[4500, 0\] is 0.5, but a Bernoulli head needs 0 or 1"):
            query(put(rows, 0.5, (4500, 0)))
    with pytest.raises(ValueError, match=r"fit: X\[3, 0\] is 2, but a Bernoulli head needs 0 or 1"):
        asked = dict.fromkeys(("head", "heads", "visible"), "bernoulli") | {"preprocess": None}
        fresh(case, **{k: v for k, v in asked.items() if k in model.get_params()}).fit(put(x, 2, (3, 0)))


# ---------------------------------------------------------------- what a model cannot hold

OWN = np.random.default_rng(9)
ONE, TWO, SIX = (OWN.normal(size=(60, d)) for d in (1, 2, 6))
ONE_GAUSSIAN = "is one Gaussian behind its preprocessing, however many peaks"
NARROW = r"hidden=\(4,\) is too narrow for 1 of the 6 conditionals to see every column before them; make each hidden layer"
CANNOT = {  # a model and rows, and the words of the one warning, if there is any
    "MADE of one column": (MADE(hidden=(4,)), ONE, ONE_GAUSSIAN),
    "RealNVP of one column": (RealNVP(n_couplings=2, hidden=(4,)), ONE, ONE_GAUSSIAN),
    "MADE of one column of bits": (MADE(hidden=(4,)), (ONE > 0).astype(float), None),
    "VAE of one column": (VAE(hidden=(4,), n_latent=2), ONE, None),
    "MADE too narrow": (MADE(hidden=(4,)), SIX, NARROW),
    "MADE of bits, too narrow": (MADE(hidden=(9, 2)), (SIX > 0).astype(float), "is too narrow for 3 of the 6"),
    "MADE wide enough": (MADE(hidden=(5,)), SIX, None),
    "MADE of two columns": (MADE(hidden=(1,)), TWO, None),
    "RealNVP of two columns": (RealNVP(n_couplings=2, hidden=(1,)), TWO, None),
}


@pytest.mark.parametrize("name", CANNOT)
def test_a_model_that_cannot_hold_the_rows_says_so_once(name):
    model, x, words = CANNOT[name]
    model = type(model)(**model.get_params() | {"max_epochs": 1, "random_state": 0})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model.fit(x)
    assert len(seen) == (words is not None), [str(w.message) for w in seen]
    for warning in seen:
        assert re.search(words, str(warning.message)) and "\n" not in str(warning.message) and warning.filename == __file__


@pytest.mark.parametrize("ask", ["terms", "posterior", "importance", "log_density_in"])
def test_what_a_models_mathematics_has_not_is_one_sentence(ask):
    inner = columns().fit(BITS).inner()
    with pytest.raises(TypeError, match=rf"^inner\(\).{ask} is of a .*, and this model is a Mixture; ask log_density$"):
        getattr(inner, ask)(BITS, 3)


def table_of_models():
    """The README's table of models: {name: [(density, representation), ...]}, a pair for each row that names it."""
    readme, found = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8"), {}
    table = readme.partition("| model | density, `log_prob` |")[2].partition("\n\n")[0]
    for row in table.splitlines()[2:]:
        names, density, _, representation = row.strip("| ").split(" | ")
        for name in re.findall(r"`(\w+)`", names):
            found.setdefault(name, []).append((density, representation))
    return found


def test_readmes_table_has_every_model():
    assert table_of_models().keys() == CLASSES.keys()


@where(of_the_data)
def test_readmes_table_says_what_they_answer(case):
    """Of rows as they are: whole numbers make a bound of what is exact."""
    model = fitted(case)[0]
    can, rows = model.capabilities, table_of_models()[type(model).__name__]
    assert any(can.density in density for density, _ in rows), (can, rows)
    assert any(can.representation.removeprefix("the ").split()[0].strip(",:") in words for _, words in rows), (can, rows)
    assert can.invertible == any("inverted exactly" in words for _, words in rows) or type(model) is MADE, (can, rows)


@pytest.mark.long(but={"kind": [MADE]})
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [MADE, VAE, RealNVP, MAF, NSF, IAF, RBM, EnergyModel, FlowMatching, Diffusion])
def test_check_estimator(kind):
    """All but one check: a row drawn once by weight 2 is not drawn as two rows are; the gradient's law is test_players.py's."""
    check = pytest.importorskip("sklearn.utils.estimator_checks", reason="scikit-learn is not installed").check_estimator
    drawn = {"check_sample_weight_equivalence_on_dense_data": "batches and held-out rows are drawn"}
    model = kind(**{"n_hidden": 8} if kind is RBM else {"hidden": (8,)}, max_epochs=2, random_state=0)
    results = check(model, on_skip=None, expected_failed_checks=drawn)  # raises where another fails
    assert sum(result["status"] == "passed" for result in results) > 45
