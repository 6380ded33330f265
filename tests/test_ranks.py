"""Ranks: several processes that fit one model, each a share of every batch, give what one alone gives but for rounding.

Most laws run ranks in threads of this process; `mpirun` starts some, where it is there.
"""
import os
import pickle
import subprocess
import sys
import sysconfig
import threading
import warnings
from pathlib import Path

import mutants
import numpy as np
import pytest
from test_models import CASES, fresh

import npgen
from npgen import cli, parallel
from npgen.models.gradient import GradientModel
from npgen.ranks import digest

TOLERANCE = 1e-8  # of parameters near 1, after a few steps in float64: one row's noise or weight gone wrong moves them by 1e-4


class Rank(parallel.Workers):
    """One of several threads that stand for ranks; sums are added in the order of ranks."""

    map_blocks = sum_blocks = None

    def __init__(self, rank, others):
        super().__init__()
        self.rank, self.size, self.others = rank, len(others.given), others

    def sum(self, arrays):
        for array in arrays:
            array[...] = sum(self.others.everyones(self.rank, array.copy()))
        return arrays

    def once(self, compute):
        given = self.others.everyones(self.rank, pickle.dumps(compute()) if self.rank == 0 else None)[0]
        return pickle.loads(given)

    def agree(self, what, value):
        assert len(set(self.others.everyones(self.rank, digest(value)))) == 1, what


class Others:
    """What ranks tell one another."""

    def __init__(self, n):
        self.given, self.met = [None] * n, threading.Barrier(n, timeout=60)

    def everyones(self, rank, value):
        self.given[rank] = value
        self.met.wait()
        given = list(self.given)
        self.met.wait()
        return given


def ranks(n, run):
    """What run() gives on each of n ranks; the first error of one that did not merely wait for another."""
    others, answers, errors = Others(n), [None] * n, []

    def one(rank):
        try:
            with Rank(rank, others):
                answers[rank] = run()
        except BaseException as error:
            errors.append(error)
            others.met.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return answers


def fit(case, **options):
    model, x = CASES[case]
    x = x.astype(np.float64)
    options = {"max_epochs": 2, "batch_size": 17, "random_state": 0} | options
    weights = np.random.default_rng(0).uniform(0.5, 2, len(x)) if options.pop("weighted", False) else None
    how = {name: options.pop(name) for name in ("checkpoint", "resume") if name in options}
    return fresh(case, **options).fit(x, sample_weight=weights, **how)


def alike(one, other):
    """How far apart two fitted models' parameters are, and the nats of their histories."""
    nats = [abs(a[name] - b[name]) for a, b in zip(one.history_, other.history_, strict=True)
            for name in ("train_nats", "valid_nats") if a[name] is not None]
    return max(np.abs(one.params_.flat - other.params_.flat).max(), *nats)


GRADIENT = [case for case, (model, _) in CASES.items()
            if isinstance(model, GradientModel) or getattr(model, "solver", "em") == "adam"]
WHOLE = {"MAF, batch normalisation", "NSF, base of normals", "FlowMatching, optimal transport, 1 feature", "RBM, Bernoulli",
         "FlowMatching, raw, several steps",
         "RBM, normal", "EnergyModel, by its chains", "GMMN", "GMMN, counts, sliced", "GAN, packs, bits"}




QUICKLY = ["MADE, Bernoulli, several orders, direct", "FlowMatching", "VAE, counts", "MAF, batch normalisation"]


@pytest.mark.long(but={"case": QUICKLY})
@pytest.mark.parametrize("case", GRADIENT)
def test_ranks_change_a_model_by_rounding_alone(case):
    """To 1e-8; where a step cannot be shared, to the bit, and one sentence says so."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        alone = fit(case, weighted=True)
        each = ranks(3, lambda: fit(case, weighted=True))
    whole = any("cannot share" in str(warning.message) for warning in said)
    assert whole == (case in WHOLE)
    assert alike(each[0], alone) <= (0 if whole else TOLERANCE)
    for other in each[1:]:
        assert alike(each[0], other) == 0


def test_more_ranks_than_rows_in_a_batch_change_a_model_by_rounding_alone():
    """The last batch is of one row."""
    alone = fit("VAE, normal", batch_size=5, validation_fraction=0.01)
    for other in ranks(7, lambda: fit("VAE, normal", batch_size=5, validation_fraction=0.01)):
        assert alike(alone, other) <= TOLERANCE


def test_ranks_without_a_seed_have_that_of_the_first():
    one, other = ranks(2, lambda: fit("RealNVP, 2 features", random_state=None))
    assert alike(one, other) == 0


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 2), (2, 3)])
def test_a_run_goes_on_with_any_number_of_ranks(before, after, tmp_path):
    path = tmp_path / "run"

    def begin():
        return fit("VAE, normal", weighted=True, checkpoint=path, max_epochs=2)

    def go_on():
        return fit("VAE, normal", weighted=True, checkpoint=path, max_epochs=4, resume=True)

    for n, run in ((before, begin), (after, go_on)):
        each = ranks(n, run)
    whole = fit("VAE, normal", weighted=True, max_epochs=4)
    assert [entry["epoch"] for entry in each[0].history_] == [1, 2, 3, 4]
    assert alike(each[0], whole) <= TOLERANCE


def test_one_rank_writes_the_run(tmp_path):
    """Each is given a file of its own, to tell who writes."""
    ranks(3, lambda: fit("RealNVP, 2 features", checkpoint=tmp_path / f"{parallel.current().rank}"))
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_rows_that_differ_between_ranks_are_refused():
    x = CASES["RealNVP, 2 features"][1]
    with pytest.raises(AssertionError, match="the data"):
        ranks(2, lambda: fresh("RealNVP, 2 features").fit(x + parallel.current().rank))


def test_a_draw_that_is_not_of_rows_is_refused_for_a_share():
    stream = npgen.random.Stream(0)
    stream.share = npgen.random.Share(3, 4, 11)
    with pytest.raises(ValueError, match="one for each of the 4 rows"):
        stream.normal((2, 4))
    with pytest.raises(ValueError, match="as many for each of the 4 rows"):
        stream.reserve(6, np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (3,), (5, 60)])
def test_a_share_draws_what_its_rows_have_in_the_whole_batch(shape, dtype):
    for first, n, total in ((0, 11, 11), (3, 4, 11), (10, 1, 11)):
        whole, part = npgen.random.Stream(1), npgen.random.Stream(1)
        part.share = npgen.random.Share(first, n, total)
        for draw in ("normal", "uniform"):
            x = getattr(whole, draw)((total, *shape), dtype)[first:first + n]
            assert x.tobytes() == getattr(part, draw)((n, *shape), dtype).tobytes()
        assert part.state() == whole.state()
        assert part.spawn().normal((n,)).tobytes() == whole.spawn().normal((total,))[first:first + n].tobytes()


MISTAKES = [
    ("players:Move._mean", "stream.share_of(len(batch)).total", "(3 * len(batch))", "MADE, normal"),  # shares are not even
    ("players:Move._of_all", "self.gradient[:] = both[:-1]", "pass", "MADE, normal"),
    ("players:Move._of_all", "both[-1]", "value", "MADE, normal"),
    ("random:Stream.reserve", "self.share.first * each, self.share", "0 * each, self.share", "VAE, normal"),
    ("random:Stream.spawn", "spawned.share = self.share", "pass", "EnergyModel"),
    ("models.flow_matching:FlowMatching._times", "share.first + ", "", "FlowMatching"),
    ("train:_Step.share", "end > first", "True", "MADE, normal"),
    ("train:_Step.share", "return rows[first:", "return rows[0:", "MADE, normal"),
    ("train:_Step.nats", "self.total(np.stack(sums)) if shared else np.stack(sums)", "np.stack(sums)", "MADE, normal"),
    ("models.gan:GAN._players", "self.packing_ == 1", "True", "GAN, packs, bits"),
]


@pytest.mark.long
@pytest.mark.parametrize(("where", "old", "new", "case"), MISTAKES, ids=[f"{m[0]}, {m[2]}" for m in MISTAKES])
def test_a_planted_mistake_changes_the_model(where, old, new, case):
    """Of batches of 4 rows on 5 ranks, one of which has none."""
    options = {"weighted": True, "batch_size": 4, "max_epochs": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = fit(case, **options)
        with mutants.Mutant("", "", where, old, new).made():
            try:
                each = ranks(5, lambda: fit(case, **options))
            except Exception:
                return
    assert max(alike(alone, one) for one in each) > 100 * TOLERANCE


def test_a_stream_that_goes_on_behind_its_share_alone_is_found():
    mistake = mutants.Mutant("", "", "random:Stream.reserve", "self.share.total * each", "n_values")
    with mistake.made(), pytest.raises(AssertionError):
        test_a_share_draws_what_its_rows_have_in_the_whole_batch((5, 60), np.float64)


# ---------------------------------------------------------------- processes

MPIRUN, ROOT = Path(sysconfig.get_path("scripts")) / "mpirun", Path(__file__).resolve().parent.parent


def mpirun(n, *command, limit=120):
    """How a command on n ranks ends; by itself, or the test has failed."""
    pytest.importorskip("mpi4py", reason="no mpi4py: MPI is NOT tested")
    if not MPIRUN.exists():
        pytest.skip("no mpirun beside this Python: MPI is NOT tested")
    env = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1",
                        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([MPIRUN, "--oversubscribe", "-n", str(n), sys.executable, *map(str, command)], env=env,
                          capture_output=True, text=True, timeout=limit)


def test_the_command_on_ranks_prints_once_and_saves_what_one_process_does(tmp_path):
    """Parameters near 1, in float32: to 1e-5."""
    options = "--data", "moons", "--epochs", 3, "--set", "hidden=16", "--set", "batch_size=37", "--out"
    several = mpirun(3, "-m", "npgen", "fit", "made", *options, tmp_path / "several")
    assert several.returncode == 0 and several.stdout.count("held out") == 1 and not several.stderr
    assert cli.main(["fit", "made", *map(str, options), str(tmp_path / "one"), "--quiet"]) == 0
    several, one = (npgen.load(tmp_path / name) for name in ("several", "one"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "several"]
    assert alike(several, one) < 1e-5


SCRIPT = """
import os, signal, sys, time
import numpy as np
import npgen
from npgen import parallel, ranks

rank, x = int(os.environ["OMPI_COMM_WORLD_RANK"]), npgen.data.moons(200)
ranks.GRACE = 2.0


def fit(x=x, callback=None, **options):
    return npgen.RealNVP(n_couplings=2, hidden=(8,), max_epochs=3, callbacks=[callback] if callback else [], **options).fit(x)


def fails(entry):
    if rank == 1:
        raise ArithmeticError("one and one")


def dies(entry):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def sleeps(entry):
    if rank == 1:
        time.sleep(1000)
"""
ENDS = {
    "an error on one rank": ("fit(callback=fails)", "rank 1 of 2: one and one; all ranks end"),
    "an error on one rank that its program hears": (
        "try:\n    fit(callback=fails)\nexcept ArithmeticError:\n    pass\ntime.sleep(1000)", "rank 1 of 2: one and one"),
    "a rank that is killed": ("fit(callback=dies)", "signal 9"),
    "a rank that does not come": ("with parallel.MPI(limit=3):\n    fit(callback=sleeps)", "waited 3 seconds for the others"),
    "a rank that does not come to a sum": (
        "if rank == 0:\n    parallel.MPI(limit=2).sum([np.ones(3)])\nelse:\n    parallel.MPI()\n    time.sleep(1000)",
        "rank 0 of 2: waited 2 seconds for the others"),
    "an error outside of a fit": ("fit()\nif rank == 1:\n    raise ArithmeticError('two')\nfit()", "ArithmeticError: two"),
}


@pytest.mark.long(but={"end": ["an error on one rank"]})
@pytest.mark.parametrize("end", ENDS)
def test_what_ends_one_rank_ends_all(end, tmp_path):
    code, why = ENDS[end]
    (tmp_path / "program.py").write_text(f"{SCRIPT}\n{code}\nprint('went on', flush=True)\n")
    result = mpirun(2, tmp_path / "program.py")
    assert result.returncode != 0 and why in result.stderr and "went on" not in result.stdout


def test_what_all_ranks_do_wrong_is_an_error_as_on_one(tmp_path):
    (tmp_path / "program.py").write_text(SCRIPT + """
for bad, word in ((lambda: fit(x * np.nan), "NaN"), (lambda: fit(x + rank), "the data must be the same"),
                  (lambda: fit(batch_size=rank + 1), "the hyperparameters must be the same")):
    try:
        bad()
    except ValueError as error:
        assert word.lower() in str(error).lower(), error
    else:
        raise AssertionError(word)
one = parallel.current().comm.allgather(fit().params_.flat.tobytes())
assert len(set(one)) == 1
with parallel.Serial():
    assert len(set(parallel._ranks().comm.allgather(fit(random_state=rank).params_.flat.tobytes()))) == 3
print("all is well", flush=True)
""")
    result = mpirun(3, tmp_path / "program.py")
    assert (result.returncode, result.stdout.count("all is well")) == (0, 3), result.stderr
