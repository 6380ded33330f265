"""Mixtures on a device: starts, both steps of EM, missing values; rows stay there or are streamed through pinned memory."""
import copy
import inspect
import warnings

import cupy_standin
import numpy as np
import pytest
from cupy_standin import traffic

from npgen.heads import Atoms, Grid, Mapped, Normal, Pooled, Tied
from npgen.heads.scale import Scale
from npgen.kernels import _pinned
from npgen.models import GaussianMixture, Mixture
from npgen.models.mixture import columns, covariances, gaussian, rows
from npgen.models.mixture.gaussian_em import Components
from npgen.random import Stream
from npgen.train import ConvergenceWarning

RNG = np.random.default_rng(0)
N = 120
GROUP = RNG.integers(3, size=N)
REAL = RNG.normal(size=(N, 3)) @ RNG.normal(size=(3, 3)) + 1.5 * np.eye(3)[GROUP]
MIXED = np.column_stack([REAL[:, 0], RNG.random(N) < 0.2 + 0.3 * GROUP, RNG.poisson(2 + 3 * GROUP),
                         (GROUP + RNG.integers(2, size=N)) % 3, np.exp(REAL[:, 1] / 3), np.rint(REAL[:, 2] * 2),
                         np.where(GROUP == 1, 0, REAL[:, 1]), RNG.integers(6, size=N)])
LINE = Normal(limit=None)
HEADS = ["normal", "bernoulli", "poisson", "categorical", Mapped(LINE, Scale.fit(MIXED[:, 4], ("linear", "log"))), Grid(LINE),
         Atoms(Mapped(LINE), [0.0]), Pooled([0, 1, 2, 3], [4, 5], [0.5, 0.5])]
GAPS = RNG.random(MIXED.shape) < 0.15
WEIGHTS = RNG.random(N)
STEPS = {"n_components": 3, "max_iter": 4, "tol": 0, "random_state": 1}
CASES = {
    "full": (GaussianMixture(**STEPS), REAL), "tied": (GaussianMixture(**STEPS, covariance_type="tied"), REAL),
    "diagonal": (GaussianMixture(**STEPS, covariance_type="diag", init_params="k-means++"), REAL),
    "spherical": (GaussianMixture(**STEPS, covariance_type="spherical", init_params="random"), REAL.astype(np.float32)),
    "rows of its own": (GaussianMixture(**STEPS, init_params="random_from_data", n_init=2), REAL),
    "columns": (Mixture(heads=HEADS, **STEPS), MIXED),
    "columns, what misses is modelled": (Mixture(heads=HEADS, missing="model", **STEPS), MIXED.astype(np.float32)),
    "columns, random": (Mixture(heads=HEADS, init_params="random_from_data", **STEPS), MIXED),
    "what is tied": (Mixture(heads=[Tied(Mapped(LINE), [[-1, 0], [0, -1], [2, 0.5]]), Atoms(Tied(
        Grid(LINE, low=0, ends="cut"), [[1, 0], [4, 2]]), [2.0]), "bernoulli"], **STEPS), MIXED[:, [0, 2, 1]]),
    "a grid that is cut": (Mixture(heads=[Grid(LINE, low=0, ends="cut"), "normal"], **STEPS), MIXED[:, [2, 0]]),
}


def fitted(name, device, holes=False, weights=None, **params):
    model, x = CASES[name]
    x = np.where(GAPS[:, :x.shape[1]], np.nan, x).astype(x.dtype) if holes else x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return type(model)(**model.get_params() | params).to(device).fit(x, sample_weight=weights)


def parts(model):
    return [model.lower_bounds_, model.params_.flat]


def same_bits(ours, theirs):
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(parts(ours), parts(theirs), strict=True))


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_em_on_the_device_is_em_on_the_host(cupy, name, holes):
    host, device = (fitted(name, where, holes, WEIGHTS) for where in ("cpu", "cuda"))
    for want, got in zip(parts(host), parts(device), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    assert len(host.lower_bounds_) == 4 and host.fit_report_.keys() == device.fit_report_.keys()


@pytest.mark.parametrize("name", ["full", "diagonal", "columns"])
def test_an_iteration_reads_once_and_sends_nothing(standin, name):
    def of_fit(max_iter):
        before = dict(traffic)
        fitted(name, "cuda", True, max_iter=max_iter)
        return np.array([traffic[what] - before[what] for what in ("reads", "sent")])

    of_two, more = of_fit(2), of_fit(7) - of_fit(2)
    assert of_two[1] > CASES[name][1].nbytes and more[0] == 5
    assert more[1] == (0 if name != "columns" else more[1]) and more[1] < 5 * 2000  # columns: addresses that are joined


@pytest.mark.parametrize("name, weights", [("full", WEIGHTS), ("diagonal", None), ("columns", None)])
def test_rows_that_do_not_fit_are_streamed_to_the_same_bits(standin, name, weights, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 50 * CASES[name][1].shape[1])
    made, streamed = [], _pinned.streamed
    monkeypatch.setattr(_pinned, "streamed", lambda parts: made.append(len(parts)) or streamed(parts))
    stay = fitted(name, "cuda", True, weights, max_iter=2)
    assert not made
    monkeypatch.setattr(cupy_standin, "FREE", [0])
    assert same_bits(fitted(name, "cuda", True, weights, max_iter=2), stay) and set(made) == {3}


def test_blocks_are_sent_by_those_who_read_them(cupy, tmp_path):
    paths = [tmp_path / f"{i}.npy" for i in range(3)]
    for path, part in zip(paths, np.split(REAL, 3), strict=True):
        np.save(path, part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        host, device = (GaussianMixture(**STEPS).to(where).fit(paths) for where in ("cpu", "cuda"))
    np.testing.assert_allclose(parts(device)[1], parts(host)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["full", "columns"])
def test_a_component_that_is_lost_is_seeded_anew_to_the_same_place(cupy, name, monkeypatch):
    module, calls = {"full": gaussian, "columns": columns}[name], []

    def second(*args, whole=module.maximise):  # after which a component is lost; the first is the start's
        new, lost = whole(*args)
        calls.append(1)
        return new, lost | (np.arange(len(lost), like=lost) == (0 if len(calls) == 2 else -1))

    monkeypatch.setattr(module, "maximise", second)
    host, device = [(fitted(name, where), calls.clear())[0] for where in ("cpu", "cuda")]
    assert host.fit_report_["reseeded"] == device.fit_report_["reseeded"] == [{"iteration": 1, "component": 0}]
    np.testing.assert_allclose(parts(device)[1], parts(host)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["full", "columns"])
def test_partial_fit_takes_its_steps_there(cupy, name):
    x, weights = CASES[name][1][:99], WEIGHTS[:99]
    host, device = (fitted(name, where).partial_fit(x, sample_weight=weights) for where in ("cpu", "cuda"))
    np.testing.assert_allclose(parts(device)[1], parts(host)[1], rtol=1e-9, atol=1e-9)


def test_a_matrix_without_factors_has_none_there(cupy):
    matrices = np.stack([np.eye(3), -np.eye(3), np.diag([1.0, 0, 1]), np.full((3, 3), np.nan), np.diag([1e-9, 1, 1e9])])
    want, got = covariances.cholesky(matrices), cupy.asnumpy(covariances.cholesky(cupy.asarray(matrices)))
    for factors in (want, got):
        assert np.isnan(factors).any(axis=(1, 2)).tolist() == [False, True, True, True, False]
    np.testing.assert_allclose(got[[0, 4]], want[[0, 4]], rtol=1e-12)


# ---------------------------------------------------------------- pinned buffers

PARTS = [(np.arange(7.0) + i, np.full((3, 2), i, np.float32)) for i in range(5)] + [(np.zeros(2), np.zeros((0, 2), np.float32))]


def through(cupy, streamed, parts):
    """What comes of parts, looked at when the next is there."""
    seen, last = [], None
    for arrays in streamed(parts):
        seen.append(tuple(2 * a for a in arrays))
        assert all(type(a) is cupy.ndarray for a in arrays)
        if last is not None:
            assert arrays[0].data.ptr != last
        last = arrays[0].data.ptr
    return [tuple(map(cupy.asnumpy, arrays)) for arrays in seen]


@pytest.mark.parametrize("n", [0, 1, 2, 6])
def test_parts_come_whole_and_in_their_order(cupy, n):
    got = through(cupy, _pinned.streamed, PARTS[:n])
    assert len(got) == n
    for want, arrays in zip(PARTS, got, strict=False):
        assert all((2 * a).tobytes() == b.tobytes() and a.shape == b.shape for a, b in zip(want, arrays, strict=True))


def test_half_of_the_memory_is_left(standin, monkeypatch):
    monkeypatch.setattr(cupy_standin, "FREE", [1000])
    assert _pinned.fits(500) and not _pinned.fits(501)


MISTAKES = {
    "the host fills a buffer before it is copied": ("            buffer.copied.synchronize()\n", ""),
    "kernels do not wait for the copy": ("            kernels.wait_event(buffer.copied)\n", ""),
    "a copy does not wait for the kernels": ("            copies.wait_event(buffer.used)\n", ""),
    "kernels are never through": ("            buffer.used.record(kernels)\n", ""),
    "one buffer": ("buffers[i % 2]", "buffers[0]"),
    "the size of the first part": ("max(map(_size, parts))", "_size(parts[0])"),
    "an array lies over the one before": ("low += -(-a.nbytes // ALIGNED) * ALIGNED\n\n", "low += 8\n\n"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(standin, name):
    source, (right, wrong) = inspect.getsource(_pinned), MISTAKES[name]
    assert source.count(right) == 1
    mistaken = vars(_pinned).copy()
    exec(compile(source.replace(right, wrong), "_pinned.py", "exec"), mistaken)
    parts = [*reversed(PARTS)] * 2
    want = through(standin, _pinned.streamed, parts)
    try:
        got = through(standin, mistaken["streamed"], parts)
        found = any(a.tobytes() != b.tobytes() for ours, theirs in zip(got, want, strict=True)
                    for a, b in zip(ours, theirs, strict=True))
    except (AssertionError, ValueError):
        found = True
    assert found


def test_components_move_as_they_are(cupy):
    form = covariances.COVARIANCES["diag"]
    components = Components(form, *(RNG.normal(size=shape) for shape in ((2,), (2, 3), (2, 3), (3,))))
    there = rows.placed(cupy.asarray, ((components, {"a": components}), 3))
    assert type(there[0][1]["a"].means) is cupy.ndarray and there[0][0].form is form and there[1] == 3
    back = rows.placed(cupy.asnumpy, there)
    assert back[0][0].factor.tobytes() == components.factor.tobytes()


# ---------------------------------------------------------------- draws and what is missing

@pytest.mark.parametrize("name", CASES)
def test_rows_are_drawn_there_as_on_the_host(standin, name):
    """The same rows and components of the same stream, and no value comes back."""
    host = fitted(name, "cpu")
    device = copy.deepcopy(host).to("cuda")
    device.inner().draw(5, Stream(3))  # what is sent once
    with cupy_standin.forbidden("reads"):
        got = device.inner().draw(200, Stream(3))
    assert type(got) is standin.ndarray
    np.testing.assert_allclose(standin.asnumpy(got), host.inner().draw(200, Stream(3)), rtol=1e-5, atol=1e-6)
    (x, labels), (want, components) = (m.sample(200, rng=3, return_components=True) for m in (device, host))
    assert type(x) is np.ndarray and x.dtype == want.dtype and (labels == components).all()
    np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rng", [None, 1])
def test_what_is_missing_is_filled_in_there_as_on_the_host(standin, name, rng, monkeypatch):
    """Of rows there, which stay: the host asks which values are missing, and of a Mixture's draws whose they are."""
    host = fitted(name, "cpu")
    x, device = CASES[name][1], copy.deepcopy(host).to("cuda")
    holes = np.where(GAPS[:, :x.shape[1]], np.nan, x).astype(x.dtype)
    read, get = [], standin.ndarray.get
    with monkeypatch.context() as patch:
        patch.setattr(standin.ndarray, "get", lambda self: read.append(self.dtype.kind) or get(self))
        got, want = device.impute(standin.asarray(holes), rng=rng), host.impute(holes, rng=rng)
    assert type(got) is standin.ndarray and got.dtype == want.dtype and read and not set(read) - set("bi")
    np.testing.assert_allclose(standin.asnumpy(got), want, rtol=1e-5 if x.dtype == np.float32 else 1e-9, atol=1e-9)


# ---------------------------------------------------------------- queries

@pytest.mark.parametrize("name", ["full", "columns", "columns, what misses is modelled"])
def test_queries_are_answered_there(cupy, name):
    """To a row far out, and to rows that miss values, too; their shares of the components are those on the host."""
    host = fitted(name, "cpu", True)
    x, device = CASES[name][1], copy.deepcopy(host).to("cuda")
    holes = np.where(GAPS[:, :x.shape[1]], np.nan, x).astype(x.dtype)
    far = holes.copy()
    far[3, 0] = 1e30
    columns, values = [0, 2], x[:5, [0, 2]]
    for ask in (lambda m: m.log_prob(holes), lambda m: m.log_prob(far), lambda m: m.encode(far), lambda m: m.predict_proba(x),
                lambda m: m.predict(holes), lambda m: m.predict(x, 0), lambda m: m.impute(holes), lambda m: m.score(holes),
                lambda m: m.impute(holes, rng=1), lambda m: m.explain(x[:9]), lambda m: m.condition(columns, values).mean,
                lambda m: m.condition(columns, values[0]).log_prob(x[:, [1, *range(3, x.shape[1])]]), lambda m: m.bic(holes),
                lambda m: m.marginal([1]).log_prob(x[:, [1]]), lambda m: m.sample(9, rng=0)):
        before = traffic["sent"]
        got, want = ask(device), ask(host)
        assert type(got) is type(want)
        np.testing.assert_allclose(got, want, rtol=1e-5 if x.dtype == np.float32 else 1e-9, atol=1e-9)
        assert cupy.__version__ != "stand-in" or traffic["sent"] > before or np.shape(got) == (9, x.shape[1])
