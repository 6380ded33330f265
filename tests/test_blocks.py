"""Mixtures fitted to rows in blocks: the bits of a fit to the array, on workers of every kind, and through their failures."""
import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import mutants
import numpy as np
import pytest
from test_parallel import KINDS, client, forked, mpi, workers_of  # noqa: F401  client: a fixture

import npgen
from npgen import GaussianMixture, Mixture, parallel
from npgen.data import DataError, Schema

pytestmark = pytest.mark.filterwarnings("ignore::npgen.train.ConvergenceWarning")
SIZE = 1500  # values of a block
EM = {"random_state": 3, "max_iter": 4, "tol": 0}


def rows(n=1200, d=3, seed=0, missing=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) + 3 * rng.integers(0, 3, (n, 1))
    x[:, 1] *= 10
    if missing:
        x[rng.random((n, d)) < 0.2] = np.nan
    return x


def levels(n=1200, seed=1):
    """A normal column, one of bits, one of levels, one of counts."""
    rng = np.random.default_rng(seed)
    k = rng.integers(0, 2, n)
    return np.stack([rng.normal(4 * k), rng.random(n) < 0.2 + 0.6 * k, rng.integers(0, 3, n) + k, rng.poisson(2 + 5 * k)], 1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks of few rows, in this process alone: a block that is read is not cut further elsewhere."""
    monkeypatch.setattr("npgen.models.mixture.rows.BLOCK", SIZE)
    monkeypatch.setattr("npgen.data.blocks.AT_ONCE", SIZE)


def files(folder, x, *cuts, name="x"):
    paths = [folder / f"{name}{i}.npy" for i in range(len(cuts) + 1)]
    for path, part in zip(paths, np.split(x, cuts), strict=True):
        np.save(path, part)
    return paths


def learned(model):
    """All that a fit has found, as bytes."""
    return b"".join(np.asarray(value).tobytes() for value in (*model.params_.values(), model.lower_bound_, model.lower_bounds_))


GAUSSIAN = (GaussianMixture, {"n_components": 3})
COLUMNS = (Mixture, {"n_components": 2, "heads": ["normal", "bernoulli", "categorical", "poisson"]})


@pytest.mark.parametrize("case", ["gaussian", "missing", "diag", "columns", "auto", "random"])
def test_a_file_gives_the_bits_of_its_array(case, tmp_path):
    cls, options = COLUMNS if case in ("columns", "auto") else GAUSSIAN
    x = levels() if cls is Mixture else rows(missing=case == "missing")
    options = options | {"diag": {"covariance_type": "diag", "init_params": "k-means++"}, "auto": {"heads": "auto"},
                         "random": {"init_params": "random_from_data", "n_init": 2}}.get(case, {}) | EM
    x = x[:, :2] if case == "auto" else x
    array, blocks = cls(**options).fit(x), cls(**options)
    path = files(tmp_path, x)
    assert blocks.fit(path) is blocks and learned(blocks) == learned(array)
    assert blocks.fit_report_ == array.fit_report_ and blocks.dtype_ == array.dtype_
    np.testing.assert_array_equal(blocks.sample(5, rng=0), array.sample(5, rng=0))


@pytest.mark.parametrize("weights", ["array", "files"])
def test_weights_are_those_of_the_array(weights, tmp_path):
    x, w = rows(missing=True), np.random.default_rng(0).integers(0, 3, 1200).astype(float)
    given = w if weights == "array" else files(tmp_path, w, 300, 900, name="w")
    array, blocks = (GaussianMixture(3, **EM).fit(X, sample_weight=w)
                     for X, w in ((x, w), (files(tmp_path, x, 300, 900), given)))
    np.testing.assert_allclose(blocks.means_, array.means_, rtol=1e-9)
    np.testing.assert_allclose(blocks.covariances_, array.covariances_, rtol=1e-8)
    X = files(tmp_path, x, 300, 900)
    assert blocks.score(X, sample_weight=given) == pytest.approx(blocks.score(x, sample_weight=w), rel=1e-12)
    assert blocks.bic(X, sample_weight=given) == pytest.approx(blocks.bic(x, sample_weight=w), rel=1e-12)
    twice = GaussianMixture(3, **EM).fit(np.repeat(x, w.astype(int), axis=0))
    assert blocks.n_seen_ == twice.n_seen_ == w.sum()


@KINDS
@pytest.mark.parametrize("case", ["gaussian", "columns"])
def test_workers_of_every_kind_fit_the_same_bits(kind, case, client, tmp_path):  # noqa: F811
    (cls, options), x = (GAUSSIAN, rows(missing=True)) if case == "gaussian" else (COLUMNS, levels())
    paths, options = files(tmp_path, x, 100, 700), options | EM
    with parallel.Serial():
        want = cls(**options).fit(paths)
    with workers_of(kind, client):
        model = cls(**options).fit(paths)
        assert learned(model) == learned(want)
        np.testing.assert_array_equal(model.predict(paths), want.predict(x))
        np.testing.assert_array_equal(model.score_samples(paths), want.score_samples(x))
        np.testing.assert_array_equal(model.predict_proba(paths), want.predict_proba(x))
        assert model.score(paths) == pytest.approx(want.score(x), rel=1e-12)


def test_ranks_fit_the_same_bits(tmp_path):
    paths = [str(path) for path in files(tmp_path, rows(), 100, 700)]
    with parallel.Serial():
        want = GaussianMixture(3, **EM).fit(paths)
    out, result = mpi(2, f"""
import warnings; warnings.simplefilter("ignore")
import npgen, npgen.data.blocks
npgen.data.blocks.AT_ONCE = {SIZE}
model = npgen.GaussianMixture(3, **{EM}).fit({paths})
assert type(parallel.current()) is parallel.MPI
if model.means_.tobytes().hex() == {want.means_.tobytes().hex()!r}: print("same")""", tmp_path)
    assert out == "same\n" * 2, (out, result.stderr[-2000:])


@pytest.mark.parametrize("where", ["client", "no client"])
@pytest.mark.parametrize("known", [True, False])
def test_a_dask_array_gives_the_bits_of_its_chunks_anywhere(where, known, client):  # noqa: F811
    import dask.array as da
    x = rows(missing=True)
    chunked, weights = da.from_array(x, chunks=(500, 2)), da.from_array(np.arange(1200.0) % 3, chunks=500)
    if not known:  # how long its chunks are
        chunked, weights = chunked[~(chunked[:, 0] > 1e9)], weights[weights > -1]
    with parallel.Dask(client) if where == "client" else parallel.Serial():
        model = GaussianMixture(3, **EM).fit(chunked, sample_weight=weights)
        assert model.score(chunked) == pytest.approx(model.score(x), rel=1e-12)
        found = model.predict(chunked)
    BITS.add(learned(model))
    assert len(BITS) == 1
    np.testing.assert_array_equal(found, model.predict(x))


BITS = set()  # of all these cases


@pytest.mark.parametrize("known", [True, False])
def test_answers_for_a_dask_array_are_one_of_dask(known, client):  # noqa: F811
    """Whose chunks are computed when they are asked for, and then alone."""
    import dask.array as da
    x, read = rows(missing=True), []

    def chunk(part):
        read.append(len(part))
        return part

    chunked = da.from_array(x, chunks=(500, 3)).map_blocks(chunk, meta=x[:0])
    chunked = chunked if known else chunked[~(chunked[:, 0] > 1e9)]
    model = GaussianMixture(3, **EM).fit(x)
    for name in ("predict", "score_samples", "log_prob", "encode", "predict_proba", "transform", "impute"):
        want, found = getattr(model, name)(x), getattr(model, name)(chunked)
        assert isinstance(found, da.Array) and not read and found.dtype == want.dtype and found.shape[1:] == want.shape[1:]
        assert not known or found.shape == want.shape and found.chunks[0] == (500, 500, 200)
        np.testing.assert_array_equal(found.blocks[1].compute(scheduler="synchronous"), want[500:1000])
        assert read == [500]
        read.clear()
        np.testing.assert_array_equal(found.compute(scheduler="threads"), want)
        read.clear()
    lazy = model.predict(da.from_array(x, chunks=(500, 3)))
    np.testing.assert_array_equal(client.compute(lazy).result(300), model.predict(x))
    with pytest.raises(ValueError, match="log_prob: X has 2 features"):  # at once
        model.log_prob(chunked[:, :2])
    with pytest.raises(npgen.NotFittedError):
        GaussianMixture(3).predict(chunked)


def test_draws_differ_from_block_to_block_and_come_again(tmp_path):
    import dask.array as da
    x = np.tile(np.where(np.arange(3) == 1, np.nan, 0.0), (1500, 1))
    model = GaussianMixture(3, **EM).fit(rows())
    for blocks in (files(tmp_path, x), da.from_array(x, chunks=(500, 3))):
        with parallel.Serial():
            one, again, other = (np.asarray(model.impute(blocks, rng=rng)) for rng in (0, 0, 1))
            assert len(np.unique(one[:, 1])) == 1500 and (one == again).all() and (one != other).any()
            several = model.impute(blocks, n=2)
            assert len(several) == 2 and (np.asarray(several[0]) != np.asarray(several[1])).any()
        lazy = model.impute(blocks, rng=0)
        np.testing.assert_array_equal(np.asarray(lazy), np.asarray(lazy))
    with parallel.Serial(), mutants.Mutant("", "", "models.blocks:_answer", "block.number]", "0]").made():
        assert len(np.unique(model.impute(files(tmp_path, x), rng=0)[:, 1])) < 1500


def test_a_dask_data_frame_and_parquet_files_have_a_schema(client, tmp_path):  # noqa: F811
    dd, pd = pytest.importorskip("dask.dataframe"), pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=600).round(2), "sex": rng.choice(["F", "M"], 600),
                          "place": rng.choice(["N", "S", "W"], 600)})
    frame.loc[::7, "sex"] = None
    want = Mixture(2, **EM).fit(frame)
    with parallel.Dask(client):
        model = Mixture(2, **EM).fit(dd.from_pandas(frame, npartitions=3))
        assert model.score(dd.from_pandas(frame, npartitions=3)) == pytest.approx(model.score(frame))
    assert model.schema_.names == want.schema_.names and list(model.sample(3, rng=0).columns) == list(frame.columns)
    assert model.score(frame) == pytest.approx(want.score(frame), abs=1e-6)
    for i in range(3):
        frame[200 * i:200 * (i + 1)].to_parquet(tmp_path / f"{i}.parquet")
    with parallel.Serial():
        stored = Mixture(2, **EM).fit(tmp_path)
    assert type(stored.sample(2)).__module__.startswith("polars")
    assert stored.score(tmp_path) == pytest.approx(model.score(frame), abs=1e-6)
    for column in (None, "place"):  # likeliest components, and what a column is: an array, and a frame
        found = model.predict(dd.from_pandas(frame, npartitions=3), column)
        want = model.predict(frame, column)
        assert hasattr(found, "dask") and np.array_equal(found.compute(), want) and list(found.compute()) == list(want)
    filled, want = model.impute(dd.from_pandas(frame, npartitions=3)), model.impute(frame)
    assert isinstance(filled, dd.DataFrame) and list(filled.columns) == list(frame.columns)
    pd.testing.assert_frame_equal(filled.compute(), want, check_dtype=False)
    with parallel.Serial():
        assert stored.impute(tmp_path).to_dicts() == want.to_dict("records")
    schema = Schema.infer(frame[frame["place"] != "W"], {"place": "category"})
    with parallel.Serial(), pytest.raises(DataError, match="place.*W"):
        Mixture(2, **EM).fit(tmp_path, columns=schema)


def test_a_partition_without_rows_changes_nothing(client):  # noqa: F811
    import dask.array as da
    x = rows(900)
    chunks = [da.from_array(part, chunks=(300, 3)) for part in np.split(x, 3)]
    empty = da.from_array(x[:0], chunks=(1, 3))
    with parallel.Serial():
        several, fewer = (GaussianMixture(3, **EM).fit(da.concatenate(some)) for some in (
            [chunks[0], empty, *chunks[1:]], chunks))
    np.testing.assert_allclose(several.means_, fewer.means_, rtol=1e-9)


def test_a_number_of_components_is_selected(tmp_path):
    x = rows()
    paths = files(tmp_path, x)
    with parallel.Serial():
        best, table = npgen.select_n_components(GaussianMixture(**EM), paths, range(1, 5))
    assert best.n_components == 3 == npgen.select_n_components(GaussianMixture(**EM), x, range(1, 5))[0].n_components
    assert [entry["n_components"] for entry in table] == [1, 2, 3, 4]


# ---------------------------------------------------------------- what is refused

@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda f, x: [f / "no.npy"], DataError, "fit: .*no.npy: no such file"),
    (lambda f, x: [*files(f, x), "a.parquet"], DataError, "fit: a.parquet is not of the kind of .*x0.npy; give .npy files"),
    (lambda f, x: f, DataError, "fit: .* is not a file, and a folder without .parquet or"),
    (lambda f, x: f"{f}/*.npy", DataError, r"fit: .*\*.npy: there are no such files"),
    (lambda f, x: files(f, x[:, 0]), DataError, r"fit: .*x0.npy holds float64 of shape \(1200,\); save numbers"),
    (lambda f, x: files(f, x.astype(str)), DataError, "fit: .*x0.npy holds .*; save numbers"),
    (lambda f, x: files(f, np.where(x > 40, np.inf, x), 600), ValueError, r"fit: .*x\d.npy, from row \d+,\[\d+, 1\] is inf"),
    (lambda f, x: [*files(f, x), *files(f, x[:, :2], name="y")], ValueError, "fit: .*y0.npy, from row 0, has 2 columns, but"),
    (lambda f, x: files(f, x[:1]), ValueError, "fit: X has 1 rows of a weight above 0; at least 2"),
    (lambda f, x: files(f, x * 0), ValueError, "fit: all rows of X are the same"),
    (lambda f, x: files(f, np.where(np.arange(3) == 1, np.nan, x)), ValueError, "fit: column 1 of X has no values"),
])
def test_bad_blocks_are_refused_in_one_sentence(make, error, words, tmp_path):
    model = GaussianMixture(2, **EM).fit(rows())
    before = learned(model)
    with parallel.Serial(), pytest.raises(error, match=words):
        model.fit(make(tmp_path, rows()))
    assert learned(model) == before


@pytest.mark.parametrize(("weights", "words"), [
    (np.ones(3), r"sample_weight has shape \(3,\), but X has 1200 rows"), (np.zeros(1200), "sample_weight is zero everywhere"),
    (-np.ones(1200), "sample_weight of .* must be finite, 0 or more"),
    (np.full(1200, np.nan), "sample_weight of .* must be finite, 0 or more")])
def test_bad_weights_are_refused(weights, words, tmp_path):
    with parallel.Serial(), pytest.raises(ValueError, match=f"fit: {words}"):
        GaussianMixture(2, **EM).fit(files(tmp_path, rows(), 300), sample_weight=weights)


def test_what_does_not_come_in_blocks_is_refused(tmp_path):
    paths = files(tmp_path, levels())
    for model, words in ((npgen.MADE(), "fit: X comes in blocks, of which EM alone can learn, and a MADE is fitted otherwise"),
                         (GaussianMixture(2, solver="adam"), "fit: X in blocks is for preprocess=None and solver='em'"),
                         (GaussianMixture(2, preprocess="standardize"), "fit: X in blocks is for preprocess=None and solver"),
                         (Mixture(2, heads="bernoulli"), "fit: .*x0.npy, from row 0,.* but a Bernoulli head needs 0 or 1")):
        with pytest.raises((TypeError, ValueError), match=words):
            model.fit(paths)
    with pytest.raises(ValueError, match="fit: X comes in blocks, for which there is no validation_data; leave it out"):
        GaussianMixture(2).fit(paths, validation_data=levels())
    np.save(paths[0], np.zeros((3, 3)))
    paths[0].write_bytes(paths[0].read_bytes()[:-8])
    with pytest.raises(DataError, match="fit: .*x0.npy is damaged or no .npy file"):
        GaussianMixture(2).fit(paths)


# ---------------------------------------------------------------- failures

class Stop(Exception):
    pass


def test_a_run_in_blocks_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("npgen.models.run.WRITE_EVERY", 0.0)
    paths, file = files(tmp_path, rows(missing=True), 500), tmp_path / "run"
    want = GaussianMixture(3, **EM).fit(paths)

    def stop(entry):
        if entry["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        GaussianMixture(3, **EM, callbacks=[stop]).fit(paths, checkpoint=file)
    epochs = []
    model = GaussianMixture(3, **EM, callbacks=[lambda entry: epochs.append(entry["epoch"])])
    assert learned(model.fit(paths, checkpoint=file, resume=True)) == learned(want) and epochs == [3, 4]
    other = files(tmp_path, rows(seed=9), 500, name="other")
    with pytest.raises(ValueError, match="is of other rows or weights"):
        GaussianMixture(3, **EM).fit(other, checkpoint=file, resume=True)


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.long)])
def test_workers_that_are_killed_in_the_middle_change_no_bit(kills, client, tmp_path):  # noqa: F811
    """At random moments of fits that follow one another, while both are there; a block that ended four is one error, and the
    run goes on from its checkpoint."""
    def fitted(model, paths, run):
        with contextlib.suppress(parallel.WorkersError):
            return model.fit(paths, checkpoint=run, resume=True)

    paths, options = files(tmp_path, rows(4000), 1900), EM | {"max_iter": 12}
    with parallel.Serial():
        want = learned(GaussianMixture(3, **options).fit(paths))
    killed, stop, draw = [], threading.Event(), random.Random(0)

    def kill():
        in_vain = 0
        while len(killed) < kills and in_vain < 300 and not stop.wait(draw.uniform(0.02, 0.4)):
            # one at a time, of two that have started: a nanny whose worker dies before that starts no other
            pids = {nanny.pid for nanny in client.cluster.workers.values()
                    if nanny.process is not None and nanny.process.status.name == "running"} - {None, *killed}
            in_vain = 0 if len(pids) > 1 else in_vain + 1
            if in_vain % 20 == 19:  # not every nanny survives its worker
                client.cluster.scale(len(client.cluster.workers) + 1)
            if len(pids) > 1:
                killed.append(draw.choice(sorted(pids)))
                os.kill(killed[-1], signal.SIGKILL)

    killer, fits = threading.Thread(target=kill), []
    killer.start()
    try:
        with parallel.Dask(client, limit=100):
            while killer.is_alive():
                model, run = GaussianMixture(3, **options), tmp_path / "run"
                assert any(fitted(model, paths, run) for _ in range(20))
                run.unlink()
                fits.append(learned(model))
    finally:
        stop.set()
        killer.join()
    assert len(killed) == kills and set(fits) == {want}


def test_a_scheduler_that_goes_away_leaves_a_checkpoint(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="no distributed: Dask is NOT tested")
    monkeypatch.setattr("npgen.models.run.WRITE_EVERY", 0.0)
    paths, file = files(tmp_path, rows(), 500), tmp_path / "run"
    want = learned(GaussianMixture(3, **EM).fit(paths))
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1") as cluster, \
            distributed.Client(cluster, set_as_default=False) as own:
        def leave(entry):
            if entry["epoch"] == 2:
                cluster.close()

        with parallel.Dask(own, limit=60), pytest.raises(parallel.WorkersError, match="the Dask scheduler has gone away"):
            GaussianMixture(3, **EM, callbacks=[leave]).fit(paths, checkpoint=file)
    with parallel.Serial():
        assert learned(GaussianMixture(3, **EM).fit(paths, checkpoint=file, resume=True)) == want


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 1 MB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no disk of 1 MB can be mounted here: a full disk is NOT tested but where fsync says so")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("disk", ["tmp_path", "small_disk"])
def test_a_full_disk_is_one_error_and_leaves_the_checkpoint_before(disk, request, tmp_path, monkeypatch):
    monkeypatch.setattr("npgen.models.run.WRITE_EVERY", 0.0)
    paths, folder, full = files(tmp_path, rows(), 500), request.getfixturevalue(disk), []
    file, filler = folder / "run", folder / "filler"
    want = learned(GaussianMixture(3, **EM).fit(paths))

    def synced(descriptor, fsync=os.fsync):
        if full:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    def fill(entry):
        if entry["epoch"] == 2 and disk == "tmp_path":
            full.append(True)
        elif entry["epoch"] == 2:
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(4096))

    monkeypatch.setattr("os.fsync", synced)
    with pytest.raises(OSError, match="No space left on device"):
        GaussianMixture(3, **EM, callbacks=[fill]).fit(paths, checkpoint=file)
    filler.unlink(missing_ok=True)
    assert not list(folder.glob(".npgen-*"))
    full.clear()
    epochs = []
    model = GaussianMixture(3, **EM, callbacks=[lambda entry: epochs.append(entry["epoch"])])
    assert learned(model.fit(paths, checkpoint=file, resume=True)) == want and epochs[0] > 1


def test_a_disk_too_full_for_what_a_worker_puts_aside_changes_no_bit(small_disk, monkeypatch):
    """A worker that may hold 0.5 MB of 3, and has 1 MB of disk for the rest: Dask tries again what fails by that, some times;
    then the disk's own error is everyone's."""
    distributed = pytest.importorskip("distributed", reason="no distributed: Dask is NOT tested")
    import dask
    import dask.array as da
    x = da.from_array(rows(120_000), chunks=(20_000, 3))
    monkeypatch.setattr("npgen.models.mixture.rows.BLOCK", 2**22)  # as the worker has it
    with parallel.Serial():
        want = learned(GaussianMixture(3, **EM).fit(x))
    with forked(), dask.config.set({"distributed.worker.memory.target": 5e-4}), distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, memory_limit="1GB", local_directory=str(small_disk), dashboard_address=":0",
            host="127.0.0.1") as cluster, distributed.Client(cluster, set_as_default=False) as own:
        held = own.persist(x)
        try:
            with parallel.Dask(own, limit=100):
                assert learned(GaussianMixture(3, **EM).fit(held)) == want
        except OSError as error:
            assert error.errno == errno.ENOSPC
        (said,) = own.get_worker_logs().values()
    assert any("No space left on device" in line for _, line in said), said


@pytest.mark.long
def test_a_block_that_no_worker_can_hold_is_one_error(tmp_path):
    """Workers of 400 MB, and a chunk of 1.2 GB."""
    distributed = pytest.importorskip("distributed", reason="no distributed: Dask is NOT tested")
    import dask.array as da
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, memory_limit="400MB", dashboard_address=":0",
                                  host="127.0.0.1") as cluster, distributed.Client(cluster, set_as_default=False) as own:
        x = da.random.default_rng(0).normal(size=(150_000_000, 1), chunks=(150_000_000, 1))
        with parallel.Dask(own, limit=100), pytest.raises(parallel.WorkersError, match="more memory, or make blocks smaller"):
            GaussianMixture(2, **EM).fit(x)


def test_the_command_line_fits_files(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    files(folder, rows(), 300)
    done = [subprocess.run([sys.executable, "-m", "npgen", *args], cwd=tmp_path, capture_output=True, text=True, timeout=200,
                           env=os.environ | {"PYTHONPATH": str(Path(npgen.__file__).parent.parent)})
            for args in (["fit", "gmm", "--data", "rows/*.npy", "--workers", "2", "--out", "m.npgen",
                          "--set", "n_components=3"], ["score", "m.npgen", "--data", "rows/x0.npy"])]
    assert [run.returncode for run in done] == [0, 0], [run.stderr for run in done]
    assert "1,200 rows, 3 columns" in done[0].stdout


# ---------------------------------------------------------------- planted mistakes

def fits(folder):
    """(of the array, of its files, of which all but the last are whole blocks) what a fit finds, in bytes but with weights."""
    for cls, options, x, n in ((*GAUSSIAN, rows(missing=True), 500), (*COLUMNS, levels(), 375)):
        array, paths = cls(**options, **EM).fit(x), files(folder, x, n)
        of_files = cls(**options, **EM).fit(paths)
        yield learned(array), learned(of_files)
        yield array.predict(x).tobytes(), of_files.predict(paths).tobytes()
    x, w = rows(), np.random.default_rng(0).integers(0, 3, 1200).astype(float)
    options, paths = EM | {"init_params": "random_from_data"}, files(folder, x, 500)
    array, of_files = (GaussianMixture(3, **options).fit(X, sample_weight=w) for X in (x, paths))
    yield array.means_.round(6).tolist(), of_files.means_.round(6).tolist()
    yield round(array.score(x, sample_weight=w), 6), round(of_files.score(paths, sample_weight=w), 6)


MISTAKES = [
    ("tree:Tree.add", "sibling + part if i % 2", "part if i % 2"),
    ("tree:Tree.add", "(i + 1) << h >= self.n", "False"),
    ("data.blocks:OfFile.raw", "_array(self.path)[self.low_in:self.high_in]", "_array(self.path)[:self.high_in - self.low_in]"),
    ("data.blocks:Blocks.look", "low += look.counting", "low += look.n"),
    ("models.mixture.rows:_taken", "- block.low)", "- index[0])"),
    ("models.mixture.rows:BlockedRows.of", "self.device, columns", "self.device, None"),
    ("models.mixture.rows:BlockedRows.seen_from", "self.columns, centre", "self.columns, self.centre"),
    ("models.blocks:_score", "w[w > 0] @ log_prob[w > 0]", "log_prob.sum()"),
    ("models.blocks:_score", "w.sum()", "float(len(w))"),
]


@pytest.mark.parametrize(("where", "old", "new"), [(None, None, None), *MISTAKES], ids=lambda text: str(text)[:40])
def test_a_planted_mistake_is_found(where, old, new, tmp_path):
    """Without one, files give what their array gives."""
    def same():
        return all(a == b for a, b in fits(tmp_path))

    with parallel.Serial():
        if where is None:
            assert same()
            return
        with mutants.Mutant("", "", where, old, new).made():
            try:
                assert not same()
            except (ArithmeticError, IndexError, TypeError, ValueError):
                pass
