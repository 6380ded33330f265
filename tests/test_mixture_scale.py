"""GaussianMixture wherever the data lie, in pieces, in streams, going on from a fit, and choosing how many components."""
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mixture import blobs, covariance_matrices

import npgen
from npgen import ConvergenceWarning, GaussianMixture
from npgen.models.mixture import covariances, starts
from npgen.models.mixture.em import Statistics
from npgen.models.mixture.gaussian_em import Components, equal_components, expect, maximise, statistics_of
from npgen.models.mixture.rows import Rows
from npgen.random import Stream

TYPES = list(covariances.COVARIANCES)
each_type = pytest.mark.parametrize("kind", TYPES)


# ---------------------------------------------------------------- place and units

@pytest.mark.long(but={"dtype": [np.float32], "scale": [1e-6, 1e6]})
@each_type
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1, 1e6], ids=lambda a: f"times {a:g}")
@pytest.mark.parametrize("deviations", [0, 1e4, 1e6], ids=lambda b: f"off by {b:g} deviations")
def test_the_fit_moves_with_the_data(kind, dtype, scale, deviations):
    """fit(a X + b) = a fit(X) + b, for the X that a X + b is after rounding to its dtype."""
    x = blobs(500, seed=1)
    offset = deviations * x.std()
    moved = (scale * (x + offset)).astype(dtype)
    x = moved.astype(float) / scale - offset
    a, b = (GaussianMixture(3, covariance_type=kind, random_state=0, tol=1e-8, max_iter=2000).fit(rows) for rows in (x, moved))
    np.testing.assert_allclose(b.weights_, a.weights_, atol=1e-6)
    np.testing.assert_allclose(b.means_, scale * (a.means_ + offset), rtol=1e-9, atol=1e-6 * scale)
    np.testing.assert_allclose(b.covariances_, scale**2 * a.covariances_, rtol=1e-5, atol=1e-6 * scale**2)


@each_type
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("mean", [1e4, 1e6, 1e7, 1e8])
@pytest.mark.filterwarnings("ignore:fit. column . of X ")  # of values that repeat, and of steps of float32
def test_far_from_zero(kind, dtype, mean):
    """Where scikit-learn raises, gives a variance of 1.57e6 for 0.97, or flips the sign of a covariance."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(1000, 2)) @ [[1, 0.5], [0, 1]] + mean).astype(dtype)
    if not np.ptp(x, axis=0).all():  # float32 has no two values there
        with pytest.raises(ValueError, match="all rows of X are the same"):
            GaussianMixture(covariance_type=kind, reg_covar=0).fit(x)
        return
    true = np.cov(x.astype(float).T, bias=True)
    got = covariance_matrices(GaussianMixture(covariance_type=kind, reg_covar=0).fit(x))[0]
    want = {"diag": np.diag(np.diag(true)), "spherical": np.eye(2) * np.diag(true).mean()}.get(kind, true)
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-12)


@each_type
def test_small_units(kind):
    """Where an absolute reg_covar adds 45 % to the standard deviation."""
    x = 1e-4 * blobs(400, d=2, k=1)
    got = covariance_matrices(GaussianMixture(covariance_type=kind).fit(x))[0]
    variances = x.var(axis=0)
    np.testing.assert_allclose(np.diag(got), variances.mean() if kind == "spherical" else variances, rtol=1e-5)


# ---------------------------------------------------------------- components far apart

def deviations(model):
    return np.sqrt(np.diagonal(covariance_matrices(model), axis1=1, axis2=2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@each_type
@pytest.mark.parametrize("distance", [1e2, 1e4, 1e7])
def test_components_are_as_wide_as_their_rows_however_far_apart(kind, distance, dtype):
    """A floor relative to the data's variance makes a standard deviation of 1 one of 5,000 at 1e7."""
    groups = [(rows + at).astype(dtype) for at, rows in
              zip((0, distance, -distance), np.random.default_rng(0).normal(size=(3, 400, 2)), strict=True)]
    model = GaussianMixture(3, covariance_type=kind, n_init=3, random_state=0).fit(np.concatenate(groups))
    variances = np.array([np.var(rows.astype(float), axis=0) for rows in groups])
    shared = {"tied": variances.mean(axis=0), "spherical": variances.mean(axis=1, keepdims=True)}.get(kind, variances)
    order = [model.predict(rows[:1])[0] for rows in groups]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(deviations(model)[order], np.broadcast_to(np.sqrt(shared), (3, 2)), rtol=1e-3)


@pytest.mark.filterwarnings("ignore:fit. in some direction components")
@each_type
@pytest.mark.parametrize("far", [[-999999.0], [-9999.0, -999999.0, 1e9], [1e6] * 10])
def test_sentinels_do_not_widen_the_other_components(kind, far):
    """2,000 rows, a few far out, and a component for each value of these."""
    x = np.random.default_rng(0).normal(size=(2000, 1))
    model = GaussianMixture(1 + len(set(far)), covariance_type=kind, random_state=0)
    model.fit(np.concatenate([x, np.array(far)[:, None]]))
    inside = model.predict(x[:1])[0]
    assert model.weights_[inside] == pytest.approx(2000 / (2000 + len(far)), abs=1e-3)
    assert deviations(model)[inside] == pytest.approx(x.std(), rel=0.02)


@pytest.mark.filterwarnings("ignore:fit. in some direction components")
@each_type
@pytest.mark.filterwarnings("ignore:fit. column . of X ")  # of values that repeat, and of steps of float32
def test_a_component_on_a_repeated_row_rests_on_the_floor(kind):
    """reg_covar of the geometric mean of the others' variances; where no component has any, of the data's."""
    x = np.concatenate([blobs(200, k=1), np.full((50, 2), 20.0)])
    model = GaussianMixture(2, covariance_type=kind, reg_covar=1e-4, random_state=0).fit(x)
    at = model.predict([[20.0, 20.0]])[0]
    if kind != "tied":
        variances = x[:200].var(axis=0) if kind != "spherical" else x[:200].var(axis=0).mean()
        np.testing.assert_allclose(deviations(model)[at] ** 2, 1e-4 * variances, rtol=1e-6)
    points = np.repeat([[0.0, 1.0], [2.0, 5.0]], 20, axis=0)
    model = GaussianMixture(2, covariance_type=kind, reg_covar=1e-4, random_state=0).fit(points)
    variances = points.var(axis=0) if kind != "spherical" else points.var(axis=0).mean()
    np.testing.assert_allclose(deviations(model) ** 2, np.full((2, 2), 1e-4 * variances), rtol=1e-6)


@pytest.mark.parametrize("make", [*(lambda k, kind=kind: GaussianMixture(k, covariance_type=kind, random_state=0)
                                    for kind in TYPES),
                                  lambda k: npgen.Mixture(k, heads="normal", random_state=0)], ids=[*TYPES, "columns"])
def test_components_that_rest_on_the_floor_are_named(make):
    assert make(3).fit(blobs(300, 2)).fit_report_["on_floor"] == []
    constant = np.column_stack([blobs(300), np.full(300, 7.1)])
    assert make(2).fit(constant).fit_report_["on_floor"] == []  # constant columns are reported already
    spiked = np.concatenate([blobs(200, k=1), np.full((1, 2), 1e5)])
    if getattr(make(2), "covariance_type", None) != "tied":
        with pytest.warns(ConvergenceWarning, match=r"in some direction components \[[01]\] rest on reg_covar alone"):
            model = make(2).fit(spiked)
        assert model.fit_report_["on_floor"] == model.predict(spiked[-1:]).tolist()
        model.partial_fit(blobs(200, k=1) + spiked[-1])  # more rows there
        assert model.fit_report_["on_floor"] == []


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_more_columns_than_rows_of_a_component_rest_on_the_floor(kind):
    x = np.random.default_rng(0).normal(size=(10 if kind == "tied" else 20, 10))
    k = 1 if kind == "tied" else 5
    with pytest.warns(ConvergenceWarning, match="in some direction components .* lower n_components"):
        assert GaussianMixture(k, covariance_type=kind, random_state=0).fit(x).fit_report_["on_floor"] == list(range(k))
    GaussianMixture(k, covariance_type=kind, reg_covar=0.1, random_state=0).fit(x)  # a ridge is no accident


# ---------------------------------------------------------------- statistics add

@each_type
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True))
def test_statistics_of_pieces_add_up_in_any_grouping(kind, seed, cuts):
    x, form = blobs(100, 3, 2, seed), covariances.COVARIANCES[kind]
    weights = np.random.default_rng(seed).random(100)
    components = equal_components(form, x[:2] / 3, 1.5)
    whole = expect(components, Rows(x, weights, np.zeros(3), np.ones(3)))
    parts = [expect(components, Rows(p, w, np.zeros(3), np.ones(3)))
             for p, w in zip(np.split(x, sorted(cuts)), np.split(weights, sorted(cuts)), strict=True)]
    left, right = parts[0], parts[-1]
    for part in parts[1:]:
        left = left + part
    for part in parts[-2::-1]:
        right = part + right
    for total in (left, right):
        for a, b in zip((total.n, *total.moments, total.nats, total.weight),
                        (whole.n, *whole.moments, whole.nats, whole.weight), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@each_type
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_remembered_statistics_give_the_components_back(kind, ridge):
    x, form = blobs(300, 3), covariances.COVARIANCES[kind]
    rows = Rows(x, None, np.zeros(3), np.full(3, 3.0))
    start = equal_components(form, x[:3] / 3, 1.0)
    components = maximise(start, expect(start, rows), ridge)[0]
    again, lost = maximise(components, statistics_of(components), ridge)
    assert not lost.any() and isinstance(again, Components) and isinstance(statistics_of(components), Statistics)
    for name in ("log_weights", "means", "factor"):
        np.testing.assert_allclose(getattr(again, name), getattr(components, name), rtol=1e-9, atol=1e-9)


@each_type
def test_blocks_of_a_file_in_memory(kind, tmp_path, monkeypatch):
    x = blobs(3000, 4)
    np.save(tmp_path / "rows.npy", x)
    monkeypatch.setattr("npgen.models.mixture.rows.BLOCK", 1000)
    model = GaussianMixture(3, covariance_type=kind, random_state=0)
    pieces = model.fit(np.load(tmp_path / "rows.npy", mmap_mode="r")).log_prob(x)
    monkeypatch.undo()
    np.testing.assert_allclose(pieces, model.fit(x).log_prob(x), rtol=1e-7, atol=1e-7)


@pytest.mark.long
def test_memory_does_not_depend_on_the_number_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("npgen.models.mixture.rows.BLOCK", 2**16)
    monkeypatch.setattr("npgen.models.mixture.rows.START", 2**16)
    peaks = []
    for n in (50_000, 400_000):
        rows = np.lib.format.open_memmap(tmp_path / f"{n}.npy", "w+", np.float64, (n, 4))
        for low in range(0, n, 50_000):
            rows[low:low + 50_000] = blobs(50_000, 4, seed=1)
        rows.flush()
        rows = np.load(tmp_path / f"{n}.npy", mmap_mode="r")
        model = GaussianMixture(3, random_state=0, max_iter=3, tol=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(rows)  # what is loaded and compiled once
            tracemalloc.start()
            model.fit(rows)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] and peaks[1] < 400_000 * 4 * 8


# ---------------------------------------------------------------- streams

@pytest.mark.long(but={"kind": ["diag"]})
@each_type
def test_stepwise_em_on_a_stream_reaches_em_on_all_of_it(kind):
    x = blobs(20000, 2, 3, seed=4)
    whole = GaussianMixture(3, covariance_type=kind, random_state=0).fit(x)
    model = GaussianMixture(3, covariance_type=kind, random_state=0)
    for batch in np.split(x, 40):
        model.partial_fit(batch)
    assert model.score(x) > whole.score(x) - 0.01 and model.n_batches_ == 40
    np.testing.assert_allclose(model.weights_.sum(), 1)


@each_type
def test_partial_fit_weighs_rows(kind):
    first, second = blobs(200, seed=5), blobs(90, seed=6)
    weights = np.random.default_rng(0).integers(0, 3, 90)

    def stepped(rows, sample_weight=None):
        model = GaussianMixture(2, covariance_type=kind, random_state=0).fit(first)
        return model.partial_fit(rows, sample_weight=sample_weight).log_prob(second)

    same = stepped(second)
    np.testing.assert_allclose(stepped(second, np.ones(90)), same, rtol=1e-12)
    np.testing.assert_allclose(stepped(second, np.full(90, 3)), stepped(np.repeat(second, 3, axis=0)), rtol=1e-9, atol=1e-9)
    repeated = stepped(np.repeat(second, weights, axis=0))
    np.testing.assert_allclose(stepped(second, weights), repeated, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(stepped(second[weights > 0], weights[weights > 0]), repeated, rtol=1e-9, atol=1e-9)


def test_partial_fit_follows_a_drift_and_goes_on_from_a_file(tmp_path):
    model = GaussianMixture(2, random_state=0).fit(blobs(500))
    for i in range(30):
        model.partial_fit(blobs(500, seed=i) + 5)
    assert model.score(blobs(500) + 5) > model.score(blobs(500)) + 1
    model.save(tmp_path / "m.npgen")
    again = npgen.load(tmp_path / "m.npgen")
    batch = blobs(100, seed=9)
    np.testing.assert_array_equal(again.partial_fit(batch).log_prob(batch), model.partial_fit(batch).log_prob(batch))
    with pytest.raises(ValueError, match="expecting 2 features"):
        model.partial_fit(batch[:, :1])
    with pytest.raises(ValueError, match="X has no rows"):
        model.partial_fit(batch[:0])
    assert np.isfinite(model.partial_fit(np.repeat(batch[:1], 50, axis=0)).log_prob(batch)).all()


def test_a_batch_counts_by_its_rows():
    """Of batches of one size the t-th has a share of t^-0.7; a row after 5,000 has one of 5001^-0.7, whatever the calls."""
    model = GaussianMixture(random_state=0).fit(np.random.default_rng(0).normal(size=(5000, 2)))
    before = model.means_.copy()
    model.partial_fit([[8.0, 8.0]])
    np.testing.assert_allclose(model.means_ - before, (8 - before) * 5001**-0.7, rtol=1e-9)
    assert abs(model.means_ - before).max() < 0.03 and model.n_seen_ == 5001
    batch, weighted = blobs(50), GaussianMixture(random_state=0).fit(blobs(25), sample_weight=np.full(25, 2.0))
    assert weighted.partial_fit(batch).n_seen_ == 100  # rows of weight 2 are two rows each
    np.testing.assert_allclose(weighted.means_[0], blobs(25).mean(axis=0) * (1 - 2**-0.7) + batch.mean(axis=0) * 2**-0.7)


def test_a_file_that_does_not_know_how_many_rows_it_has_seen_counts_calls(tmp_path, monkeypatch):
    model = GaussianMixture(random_state=0).fit(blobs(500)).partial_fit(blobs(300, seed=1))
    known = {name: types for name, types in GaussianMixture._keeps.items() if name != "n_seen_"}
    monkeypatch.setattr(GaussianMixture, "_keeps", known)
    model.save(tmp_path / "old")
    monkeypatch.undo()
    again, before = npgen.load(tmp_path / "old"), model.means_[0].copy()
    again.partial_fit(blobs(10, seed=2) + 5)
    np.testing.assert_allclose(again.means_[0], before * (1 - 3**-0.7) + (blobs(10, seed=2) + 5).mean(axis=0) * 3**-0.7)
    assert again.n_seen_ == 30


# ---------------------------------------------------------------- warm starts

@each_type
def test_a_warm_start_goes_on(kind):
    x, options = blobs(400, seed=2), {"covariance_type": kind, "tol": 0, "random_state": 0, "reg_covar": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = GaussianMixture(3, max_iter=2, warm_start=True, n_init=3, **options)
        bounds = [bound for _ in range(4) for bound in model.fit(x).lower_bounds_]
        best = GaussianMixture(3, max_iter=8, **options)
        assert len(model.fit_report_["starts"]) == 1  # where the fit before has ended, however often
        assert np.diff(bounds).min() >= -1e-10 and len(bounds) >= 6  # fewer than 8 where a step changes nothing any more
        model.set_params(n_components=2).fit(x)  # of another form: from new means
        once = GaussianMixture(3, max_iter=2, warm_start=True, **options).fit(x)
    assert model.means_.shape == (2, 2) and best.n_init == 1
    assert once.fit_report_["starts"] == once.lower_bounds_[-1:]


# ---------------------------------------------------------------- how many components

@pytest.mark.parametrize("criterion", ["bic", "aic"])
def test_the_number_of_components_is_found(criterion, tmp_path):
    x, model = blobs(1500, 2, 3, seed=1, spread=20), GaussianMixture(1, n_init=3, random_state=0)
    best, table = npgen.select_n_components(model, x, range(1, 6), criterion=criterion)
    assert best.n_components == min(table, key=lambda entry: entry[criterion])["n_components"] and model.n_components == 1
    assert best.n_components == 3 or criterion == "aic"
    assert [entry["n_components"] for entry in table] == [1, 2, 3, 4, 5]
    assert table[2]["bic"] == pytest.approx(-2 * 1500 * table[2]["nats"] + 17 * np.log(1500))
    plot = pytest.importorskip("npgen.plot")
    pytest.importorskip("matplotlib")
    plot.selection(tmp_path / "bic.png", table)
    assert (tmp_path / "bic.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="n_components is empty"):
        npgen.select_n_components(model, x, [])


@pytest.mark.parametrize("criterion", ["bic", "aic"])
def test_the_criteria_count_a_row_of_weight_2_twice(criterion):
    x, weights = blobs(300, 2, 2, seed=1, spread=6), np.random.default_rng(0).integers(0, 4, 300)
    model, repeated = GaussianMixture(1, random_state=0), np.repeat(x, weights, axis=0)
    best, table = npgen.select_n_components(model, x, [1, 2, 3], criterion=criterion, sample_weight=weights)
    expected, theirs = npgen.select_n_components(model, repeated, [1, 2, 3], criterion=criterion)
    assert best.n_components == expected.n_components
    for a, b in zip(table, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-6)
    assert best.bic(x, sample_weight=weights) == pytest.approx(best.bic(repeated), rel=1e-12)
    assert best.aic(x, sample_weight=weights) == pytest.approx(best.aic(repeated), rel=1e-12)


def test_k_means_takes_rows_in_pieces(monkeypatch):
    """Its memory does not grow with rows times components, and the means are those of all rows at once."""
    z, weights = blobs(30_000, 2, 5), np.random.default_rng(0).random(30_000)
    whole = starts.k_means(z, weights, 5, Stream(0))
    monkeypatch.setattr(starts, "BLOCK", 5000)
    np.testing.assert_allclose(starts.k_means(z, weights, 5, Stream(0)), whole, rtol=1e-9)
    tracemalloc.start()
    starts.k_means(z, weights, 50, Stream(0), max_iter=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * z.nbytes  # of which k-means++ takes the most, for the distances to five draws at once


def test_one_step_of_partial_fit_is_the_blend_of_moments():
    a, b, g = blobs(100), blobs(70, seed=1) + 2, (70 / 170)**0.7
    model = GaussianMixture(reg_covar=0).fit(a).partial_fit(b)
    mean = (1 - g) * a.mean(axis=0) + g * b.mean(axis=0)
    second = (1 - g) * (a.T @ a) / 100 + g * (b.T @ b) / 70
    np.testing.assert_allclose(model.means_[0], mean, rtol=1e-10)
    np.testing.assert_allclose(model.covariances_[0], second - np.outer(mean, mean), rtol=1e-9)
