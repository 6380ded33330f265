"""The command line: what it writes, what it prints, and one line with status 2 for whatever the user can put right."""
import contextlib
import importlib.util
import inspect
import itertools
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

import npgen
from npgen import checkpoint, cli, data, machine, train
from npgen.cli import fitting
from npgen.data.reading import read_table
from npgen.models import RealNVP
from npgen.models.gradient import GradientModel

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small fitted models, by name: files."""
    folder = tmp_path_factory.mktemp("models")
    x = data.digits()[0][:300]
    moons = data.moons(300)
    mixture = npgen.GaussianMixture(n_components=2, covariance_type="diag", preprocess="dequantize", random_state=0)
    fitted = {"digits": mixture.fit(x),
              "moons": npgen.RealNVP(n_couplings=2, hidden=(8,), max_epochs=2, random_state=0).fit(moons),
              "ink": npgen.VAE(n_latent=2, hidden=(8,), n_importance=5, max_epochs=2, random_state=0).fit(data.binarize(x, 8)),
              "three": npgen.MADE(hidden=(8,), max_epochs=2, random_state=0).fit(np.c_[moons, moons[:, 0]])}
    for name, model in fitted.items():
        model.save(folder / name)
    return {name: str(folder / name) for name in fitted}


def run(*argv):
    try:
        return cli.main([str(a) for a in argv])
    except SystemExit as stop:
        return stop.code


def fails(capsys, *argv):
    """The one line on stderr of a command that ends with status 2."""
    assert run(*argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith("npgen: error: ") and err.count("\n") == 1 and err.endswith("\n") and not out
    return err


def fast(*more, model="realnvp", source="moons", out="m"):
    return ("fit", model, "--data", source, "--out", out, "--epochs", "2", *more)


SMALL = ("--set", "hidden=8", "--set", "n_couplings=2")


# ---------------------------------------------------------------- help

def test_help_of_everything(capsys):
    commands = ("fit", "score", "sample", "encode", "report", "check", "info", "config", "demo")
    assert run("--help") == 0
    top = capsys.readouterr().out
    for name in commands:
        assert f"\n    {name} " in top
        assert run(name, "--help") == 0
        text = capsys.readouterr().out
        assert "examples:" in text and f"npgen {name}" in text and max(map(len, text.splitlines())) <= 100
    assert run("--version") == 0
    assert capsys.readouterr().out == f"npgen {npgen.__version__}\n"


def test_fit_help_of_a_model_says_what_each_of_its_settings_means(capsys):
    every = {name for cls in npgen.models.MODELS.values() for name in cls().get_params()}
    for model, cls in npgen.models.MODELS.items():
        assert run("fit", model, "--help") == 0
        text, own = capsys.readouterr().out, cls().get_params()
        summary = inspect.getdoc(cls).partition("\n\n")[0]
        assert " ".join(summary.split()) in " ".join(text.split()) and max(map(len, text.splitlines())) <= 100
        for name in every:
            meaning = re.search(rf"^  {name}=.*\n      (\S.*)$", text, re.MULTILINE)
            assert (meaning is not None) == (name in own and name not in fitting.OWN_FLAGS), (model, name)
    assert run("fit", "--help") == 0
    assert "npgen fit MODEL --help has the settings" in capsys.readouterr().out


@pytest.mark.parametrize("model, setting, part", [
    ("energy", "base=GaussianMixture(3, covariance_type='diag')", "base_"),
    ("energy", "base=NSF(hidden=8, n_layers=1, max_epochs=2)", "base_"),
    ("autoencoder", "prior=GaussianMixture(3, covariance_type='diag')", "prior_"),
    ("autoencoder", "prior=MADE(hidden=(8,), head='mixture', max_epochs=2)", "prior_")])
def test_a_setting_that_is_a_model_is_given_by_its_constructor(here, model, setting, part):
    """It is what Python makes of it, and --seed makes its fit the same again."""
    argv = "fit", model, "--data", "moons", "--epochs", "2", "--quiet", "--set", "hidden=8", "--set", setting, "--out"
    assert run(*argv, "one") == run(*argv, "two") == 0
    one, two = npgen.load("one"), npgen.load("two")
    want = eval(setting.partition("=")[2], vars(npgen))
    assert repr(getattr(one, part[:-1])) == repr(want) and isinstance(getattr(one, part), type(want))
    assert one.sample(9, rng=0).tobytes() == two.sample(9, rng=0).tobytes()


WRONG_MODELS = {"an unknown model": ("GaussianMixtur(5)", ("GaussianMixtur is none of", "GaussianMixture")),
                "no constructor": ("GaussianMixture", ("give the model by its constructor", "GaussianMixture(5)")),
                "half of one": ("GaussianMixture(5", ("never closed",)), "unknown options": ("GaussianMixture(k=5)", ("'k'",)),
                "a text without quotes": ("GaussianMixture(5, covariance_type=diag)", ("diag is no literal", "in quotes")),
                "options in a dict": ("GaussianMixture(**{})", ("no literal",)), "a prior": ("Flow(5)", ("Flow is none of",)),
                "a call": ("__import__('os').mkdir('made')", ("mkdir is none of",)),
                "a call within": ("GaussianMixture(__import__('os').mkdir('made'))", ("mkdir is none of",))}


@pytest.mark.parametrize("what", WRONG_MODELS)
def test_a_setting_that_is_no_model_is_refused_and_nothing_is_executed(here, capsys, what):
    text, says = WRONG_MODELS[what]
    for model, name in ("energy", "base"), ("autoencoder", "prior"):
        error = fails(capsys, *fast("--set", f"{name}={text}", model=model))
        assert error.startswith(f"npgen: error: --set {name}={text}: ") and all(word in error for word in says)
    assert os.listdir() == []


# ---------------------------------------------------------------- fit

@pytest.mark.parametrize(("model", "source", "settings"), [
    ("gmm", "digits", ("--set", "n_components=3", "--set", "covariance_type=diag")),
    ("made", "digits", ("--set", "hidden=16,16")),
    ("realnvp", "eight-gaussians", SMALL),
    ("vae", "digits", ("--set", "hidden=(16,)", "--set", "n_latent=2", "--set", "prior=Mixture(3)")),
    ("mixture", "moons", ("--set", "n_components=3", "--set", "heads=('normal','normal')")),
])
def test_fit_writes_a_model_that_loads(here, capsys, model, source, settings):
    assert run(*fast(*settings, model=model, source=source)) == 0
    out, _ = capsys.readouterr()
    rows = "1,797" if source == "digits" else "2,000"
    assert f"{source}: {rows} rows" in out and "nats per row" in out and "bits per dimension" in out
    fitted = npgen.load("m")
    assert type(fitted) is npgen.models.MODELS[model]
    assert os.listdir() == ["m"]  # the checkpoint of a finished run is gone
    for setting in settings[1::2]:
        name, _, value = setting.partition("=")
        assert str(getattr(fitted, name)).strip("()").rstrip(",") == value.strip("(,)").replace(",", ", ")


def test_the_same_seed_gives_the_same_file_and_another_seed_another(here):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(*fast(*SMALL, "--seed", seed, "--quiet", out=out)) == 0
    assert Path("a").read_bytes() == Path("b").read_bytes() != Path("c").read_bytes()


def test_quiet_prints_nothing(here, capsys):
    assert run(*fast(*SMALL, "--quiet")) == 0
    assert capsys.readouterr() == ("", "")


def test_warnings_are_one_line(here, capsys):
    assert run("fit", "gmm", "--data", "moons", "--out", "m", "--epochs", "1", "--set", "n_components=5", "--set", "tol=0") == 0
    err = capsys.readouterr().err
    assert err.startswith("npgen: warning: ") and err.count("\n") == 1


@pytest.fixture(autouse=True)
def pythons_sigint():
    """Python's own handler of Ctrl-C, which a process that a shell has started in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_after(monkeypatch, n_epochs):
    """Press Ctrl-C when the checkpoint is written for the n-th time."""
    written, write = [], checkpoint.write

    def press(path, arrays, header):
        write(path, arrays, header)
        if str(path).endswith(".checkpoint"):
            written.append(path)
            if len(written) == n_epochs:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(checkpoint, "write", press)
    monkeypatch.setattr("npgen.models.run.WRITE_EVERY", 0)  # after every epoch


@pytest.mark.parametrize("model", ["made", "realnvp", "vae", "gmm"])
def test_ctrl_c_keeps_the_best_and_resume_gives_the_same_bits(here, capsys, monkeypatch, model):
    settings = {"gmm": ("--set", "n_components=4", "--set", "tol=0"), "realnvp": SMALL}.get(model, ("--set", "hidden=8"))
    argv = ("fit", model, "--data", "pinwheel", "--epochs", "6", *settings, "--out")
    assert run(*argv, "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        assert run(*argv, "m") == 130
    err = capsys.readouterr().err
    assert "npgen: interrupted: m holds the best so far; go on with --resume from m.checkpoint" in err
    assert npgen.load("m").n_epochs_ == 3
    assert "--resume" in fails(capsys, *argv, "m")
    assert run(*argv, "m", "--resume") == 0
    assert Path("m").read_bytes() == Path("whole").read_bytes()
    assert not Path("m.checkpoint").exists()


def test_rows_to_stop_by(here, capsys):
    """They are those that fit(validation_data=) takes; columns are found by name, and what does not fit is one line."""
    x = data.moons(80)
    data.write("train.csv", x[:60])
    Path("valid.csv").write_text("b,a\n" + "\n".join(f"{b},{a}" for a, b in x[60:].tolist()))
    Path("named.csv").write_text("a,b\n" + "\n".join(f"{a},{b}" for a, b in x[:60].tolist()))
    for source, valid in (("train.csv", "rest.csv"), ("named.csv", "valid.csv")):
        data.write("rest.csv", x[60:])
        assert run(*fast(*SMALL, "--valid", valid, source=source)) == 0
        model = RealNVP(hidden=(8,), n_couplings=2, max_epochs=2, random_state=0).fit(
            data.load(source), validation_data=x[60:])
        assert npgen.load("m").history_ == model.history_
    capsys.readouterr()
    write("other.csv", "a,c\n1,2\n3,4\n")
    assert "other.csv has no column 'b', which named.csv has" in fails(
        capsys, *fast(*SMALL, "--valid", "other.csv", source="named.csv"))
    write("wide.csv", "1,2,3\n3,4,5\n")
    assert "wide.csv has 3 columns" in fails(capsys, *fast(*SMALL, "--valid", "wide.csv", source="train.csv"))
    assert fails(capsys, *fast(*SMALL, "--valid", "", source="train.csv")).startswith("npgen: error: : no such file")
    assert "validation_data is for models trained by gradient" in fails(
        capsys, "fit", "gmm", "--data", "train.csv", "--valid", "rest.csv", "--out", "m")


@pytest.mark.parametrize("where", ["fit", "_epoch"])
def test_ctrl_c_before_an_epoch_is_done_keeps_the_old_model(here, capsys, monkeypatch, where):
    old = write("m", "old")
    monkeypatch.setattr(train, where, lambda *_, **__: os.kill(os.getpid(), signal.SIGINT) or time.sleep(5))
    assert run(*fast(*SMALL)) == 130
    assert capsys.readouterr().err.endswith("npgen: interrupted\n")
    assert os.listdir() == [old] and Path(old).read_text() == "old"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_waits_for_an_import_and_is_not_heard_where_it_is_ignored(here, capsys, monkeypatch, ignored):
    """A C extension that is cut off while it imports NumPy prints a traceback and raises another error."""
    Path("imported.py").write_text("import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(0.2); done = 1")
    monkeypatch.syspath_prepend(".")

    def command(*_, **__):
        import imported
        assert imported.done
        time.sleep(0.2 if ignored else 5)
        raise ValueError("it went on")

    monkeypatch.setattr(train, "fit", command)
    monkeypatch.delitem(sys.modules, "imported", raising=False)
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(*fast(*SMALL))
    assert ("it went on" if ignored else "npgen: interrupted") in capsys.readouterr().err and "imported" in sys.modules


def test_ctrl_c_waits_for_llvmlite(here, capsys, monkeypatch):
    """It frees a string, and again if it is cut off before it notes that: a crash of the C library."""
    seen = []

    def command(*_, **__):
        code = "os.kill(os.getpid(), signal.SIGINT)\nfor _ in range(9): pass\nseen.append(1)"
        exec(code, {"__name__": "llvmlite.binding.ffi", "os": os, "signal": signal, "seen": seen})
        time.sleep(5)

    monkeypatch.setattr(train, "fit", command)
    assert run(*fast(*SMALL)) == 130
    assert seen and "npgen: interrupted" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.long
def test_a_killed_run_resumes_to_the_same_bits(here):
    argv = [sys.executable, "-m", "npgen", "fit", "made", "--data", "digits", "--set", "hidden=64", "--quiet"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*argv, "--out", "m", "--epochs", "1000", "--set", "patience=1000"], env=env)
    while not Path("m.checkpoint").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    n = len(checkpoint.read("m.checkpoint")[1]["state"]["history"])
    assert not Path("m").exists()
    for out in ("m", "whole"):
        more = "--resume", "--out", out, "--epochs", str(n + 3), "--set", "patience=1000"
        assert subprocess.run([*argv, *more], env=env, timeout=900).returncode == 0
    assert Path("m").read_bytes() == Path("whole").read_bytes()


def test_resume_with_nothing_to_go_on_from_starts(here):
    assert run(*fast(*SMALL, "--resume")) == 0


def test_resume_from_another_run_is_refused(here, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert run(*fast(*SMALL)) == 130
    capsys.readouterr()
    before = Path("m").read_bytes(), Path("m.checkpoint").read_bytes()
    assert "random_state is 7" in fails(capsys, *fast(*SMALL, "--seed", "7", "--resume"))
    assert "rows" in fails(capsys, *fast(*SMALL, "--resume", source="rings"))
    assert (Path("m").read_bytes(), Path("m.checkpoint").read_bytes()) == before


# ---------------------------------------------------------------- score, sample, encode, info

@pytest.mark.parametrize(("name", "source", "answer"), [("digits", "digits", "a lower bound"), ("moons", "moons", "exact")])
def test_score_prints_the_mean_and_writes_the_rows(here, capsys, models, name, source, answer):
    assert run("score", models[name], "--data", source, "--out", "nats.csv") == 0
    out = capsys.readouterr().out
    nats = np.loadtxt("nats.csv")
    x = data.load(source)
    assert np.allclose(nats, npgen.load(models[name]).log_prob(x))
    assert f"{nats.mean():.4f} ± {nats.std(ddof=1) / len(nats) ** 0.5:.4f} nats" in out and answer in out
    assert f"{-nats.mean() / x.shape[1] / np.log(2):.4f} bits per dimension" in out and f"{len(x):,}" in out


def test_score_of_one_row_has_no_standard_error(here, capsys, models):
    np.save("one.npy", data.moons(1))
    assert run("score", models["moons"], "--data", "one.npy") == 0
    assert "±" not in capsys.readouterr().out.partition(" nats")[0]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".NPY"])
@pytest.mark.parametrize("name", ["digits", "three"])
def test_sample_writes_rows_that_the_seed_decides(here, models, suffix, name):
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("sample", models[name], "-n", 50, "--seed", seed, "--out", out + suffix) == 0
    a, b, c = (data.load(f"{out}{suffix}") for out in "abc")
    assert a.shape == (50, 64 if name == "digits" else 3)
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert np.allclose(a, npgen.load(models[name]).sample(50, rng=1), rtol=1e-6)


def test_sample_without_a_seed_gives_new_rows_every_time(here, models):
    for out in ("a.npy", "b.npy"):
        assert run("sample", models["moons"], "--out", out) == 0
    assert np.load("a.npy").shape == (64, 2) and not np.array_equal(np.load("a.npy"), np.load("b.npy"))


@pytest.mark.parametrize("argv", [("sample", "digits"), ("sample", "moons"), ("encode", "digits", "--data", "digits"),
                                  ("encode", "moons", "--data", "moons"), ("encode", "ink", "--data", "ink.npy")], ids=" ".join)
def test_pictures(here, models, argv):
    pytest.importorskip("matplotlib")
    np.save("ink.npy", data.binarize(data.digits()[0], 8))
    command, name, *rest = argv
    assert run(command, models[name], *rest, "--out", "p.png") == 0
    assert Path("p.png").read_bytes()[:4] == b"\x89PNG"


def test_encode_writes_the_representation(here, models):
    assert run("encode", models["moons"], "--data", "moons", "--out", "z.npy") == 0
    z, model = np.load("z.npy"), npgen.load(models["moons"])
    assert np.array_equal(z, model.encode(data.moons(2000)))
    for out in ("z.csv", "z.npz"):
        assert run("encode", models["moons"], "--data", "moons", "--out", out) == 0
        table = data.load_table(out)
        assert table.columns == ["z1", "z2"] and np.array_equal(table.rows, z)


@pytest.mark.filterwarnings("ignore::npgen.ConvergenceWarning")
def test_a_mixture_of_columns_takes_a_head_for_each(here, capsys):
    x = np.c_[data.moons(90)[:, 0], np.arange(90) % 2, np.arange(90) % 5]
    data.write("x.csv", x, ["real", "bit", "level"])
    argv = fast("--set", "n_components=2", "--set", "heads=normal,bernoulli, categorical", model="mixture", source="x.csv")
    assert run(*argv) == 0
    model = npgen.Mixture(2, heads=["normal", "bernoulli", "categorical"], max_iter=2, random_state=0)
    assert np.array_equal(npgen.load("m").log_prob(data.load_table("x.csv")), model.fit(data.load_table("x.csv")).log_prob(
        data.load_table("x.csv")))
    capsys.readouterr()
    assert "heads must be" in fails(capsys, *argv, "--set", "heads=normal,sharp,poisson")
    assert "heads must be" in fails(capsys, *argv, "--set", "heads=normal,poisson")


@pytest.mark.parametrize("name", ["digits", "moons", "ink", "three"])
def test_info(capsys, models, name):
    assert run("info", models[name]) == 0
    out = capsys.readouterr().out
    model = npgen.load(models[name])
    for word in (type(model).__name__, model.capabilities.density, model.capabilities.representation, "random_state=0",
                 f"npgen {npgen.__version__}", f"numpy {np.__version__}", f"{model.n_features_in_} ("):
        assert word in out


def test_config_names_what_there_is(capsys):
    assert run("config") == 0
    out = capsys.readouterr().out
    for word in (npgen.__version__, np.__version__, "scipy", "numba", "cache", "gpu", "threads, layer", "faster"):
        assert word in out


@pytest.mark.parametrize(("patch", "advice"), [
    ({"_blas": lambda: [("numpy", {"architecture": "Haswell"})], "_has_avx512": lambda: True}, "OPENBLAS_CORETYPE=SkylakeX"),
    ({"_layer": lambda: "workqueue"}, "tbb"),
    ({"_numba_threads": lambda: 1, "_n_cores": lambda: 8}, "NUMBA_NUM_THREADS=8"),
])
def test_config_advises(monkeypatch, patch, advice):
    sound = {"_blas": lambda: [("numpy", {"architecture": "SkylakeX"})], "_layer": lambda: "omp", "_numba_threads": lambda: 8,
             "_n_cores": lambda: 8}
    for name, function in sound.items():
        monkeypatch.setattr(machine, name, function)
    assert not list(machine.advice())
    for name, function in patch.items():
        monkeypatch.setattr(machine, name, function)
    line, = machine.advice()
    assert advice in line


def test_config_advises_a_cache_folder(monkeypatch):
    monkeypatch.setattr(machine._caching, "cache_folder", lambda: None)
    assert any("NPGEN_CACHE_DIR" in line for line in machine.advice())


# ---------------------------------------------------------------- errors: data

def write(name, text):
    Path(name).write_text(text)
    return name


BAD_DATA = {
    "no such file": (lambda: "nowhere.csv", ("nowhere.csv", "built in are digits")),
    "non-numeric column": (lambda: write("d.csv", "a,b\n1,2\n3,x\n"), ("d.csv", "row 2", "column 2", "'b'", "not a number")),
    "ragged": (lambda: write("d.csv", "1,2\n3\n"), ("d.csv", "row 2", "1 columns")),
    "NaN": (lambda: write("d.csv", "1,2\n3,nan\n"), ("d.csv", "row 2", "column 2", "nan")),
    "infinity": (lambda: write("d.csv", "1,2\ninf,4\n"), ("d.csv", "row 2", "column 1", "inf")),
    "empty": (lambda: write("d.csv", ""), ("d.csv is empty",)),
    "header only": (lambda: write("d.csv", "a,b\n"), ("d.csv", "no rows")),
    "one row": (lambda: write("d.csv", "1,2\n"), ("d.csv has one row", "at least two")),
    "constant column": (lambda: write("d.csv", "1.5,2.5\n0.1,2.5\n"), ("d.csv", "column 2 is 2.5 in every row", "remove it")),
    "unknown suffix": (lambda: write("d.xls", "1,2\n"), ("d.xls has no known format",)),
    "folder": (lambda: os.makedirs("folder", exist_ok=True) or "folder", ("folder is not a file",)),
    "not what it says": (lambda: write("d.npy", "hello, world"), ("d.npy is damaged",)),
}


FIT_ONLY = ("one row", "constant column")  # enough to score


@pytest.mark.parametrize(("command", "case"), [(command, case) for command in ("fit", "score", "encode") for case in BAD_DATA
                                               if command == "fit" or case not in FIT_ONLY])
def test_bad_data_is_one_line(here, capsys, models, case, command):
    make, words = BAD_DATA[case]
    source, old = make(), write("old.npy", "old")
    argv = fast(source=source, out=old) if command == "fit" else (command, models["moons"], "--data", source, "--out", old)
    line = fails(capsys, *argv)
    assert all(word in line for word in words), line
    assert Path(old).read_text() == "old" and len(os.listdir()) <= 2


@pytest.mark.parametrize("command", ["score", "encode"])
def test_another_width_names_both(here, capsys, models, command):
    line = fails(capsys, command, models["digits"], "--data", "moons", "--out", "o.npy")
    assert "moons has 2 columns" in line and "fitted on 64" in line and os.listdir() == []


def test_values_that_the_model_has_no_density_for_name_the_file(here, capsys, models):
    np.save("grey.npy", data.digits()[0] + 1)
    assert "grey.npy" in fails(capsys, "score", models["digits"], "--data", "grey.npy")


def test_integer_columns_may_be_constant(here):
    np.savetxt("d.csv", np.c_[np.arange(40) % 4, np.full(40, 3)], delimiter=",", fmt="%d")
    assert run(*fast(*SMALL, source="d.csv")) == 0


# ---------------------------------------------------------------- names of columns

NAMES = ["a", "b; c", 'd, "e"']
ROWS = np.random.default_rng(0).normal(size=(60, 3)) * [1, 5, 0.1] + [0, 100, -3]


@pytest.fixture
def named(here):
    """A model fitted to the columns NAMES of a file."""
    data.write("train.csv", ROWS, NAMES)
    assert run("fit", "gmm", "--data", "train.csv", "--out", "m", "--quiet", "--set", "n_components=2") == 0
    return npgen.load("m")


def answers(capsys, *argv):
    """What a command writes, and what it prints to stderr."""
    capsys.readouterr()
    assert run(*argv) == 0
    return data.load(argv[-1]), capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]], ids=str)
@pytest.mark.parametrize("query", ["score", "encode"])
def test_columns_are_found_by_their_names_in_any_order(here, capsys, named, query, order, suffix):
    data.write(f"x{suffix}", ROWS[:, order], [NAMES[j] for j in order])
    found, err = answers(capsys, query, "m", "--data", f"x{suffix}", "--out", "o.csv")
    right = named.log_prob(data.Table(ROWS, NAMES))[:, None] if query == "score" else named.encode(data.Table(ROWS, NAMES))
    assert np.array_equal(found.reshape(right.shape), right) and not err


def test_a_model_fitted_on_columns_in_another_order_wants_them_in_its_own(here, capsys, named):
    data.write("x.csv", ROWS[:, ::-1], NAMES[::-1])
    assert run("fit", "gmm", "--data", "x.csv", "--out", "other", "--quiet", "--set", "n_components=2") == 0
    for model in ("m", "other"):
        found = [answers(capsys, "score", model, "--data", source, "--out", "o.csv")[0] for source in ("x.csv", "train.csv")]
        assert np.array_equal(*found)


def test_columns_that_are_missing_are_named_and_nothing_is_written(here, capsys, named):
    data.write("x.csv", ROWS, ["a", "z", 'd, "e"'])
    line = fails(capsys, "score", "m", "--data", "x.csv", "--out", "o.csv")
    assert "x.csv has no column 'b; c', which m was fitted on; it has 'z' instead" in line and not Path("o.csv").exists()
    data.write("x.csv", ROWS[:, :2], ["a", "b; c"])
    line = fails(capsys, "encode", "m", "--data", "x.csv", "--out", "o.csv")
    assert "x.csv has no column 'd, \"e\"', which m was fitted on; give" in line


def test_columns_too_many_are_ignored_and_named(here, capsys, named):
    data.write("x.csv", np.c_[np.arange(60), ROWS[:, ::-1], ROWS[:, 0]], ["id", *NAMES[::-1], "label"])
    found, err = answers(capsys, "score", "m", "--data", "x.csv", "--out", "o.csv")
    assert err == "npgen: warning: x.csv: 'id', 'label' left out, because m was fitted on no column of that name\n"
    assert np.array_equal(found[:, 0], named.log_prob(data.Table(ROWS, NAMES)))


def test_text_in_columns_that_are_not_the_models_is_not_read(here, capsys, named):
    """It is left out with one line, as numbers are; text in a column of the model's is an error that names the cell."""
    fields = [line.split(",") for line in Path("train.csv").read_text().splitlines()[1:]]
    header = 'who,"d, ""e""",a,kind,"b; c"\n'

    def table(kind):
        return header + "".join(f"row {i},{c},{a},{kind},{b}\n" for i, (a, b, c) in enumerate(fields))

    write("x.csv", table('"x, y"'))
    for query, right in (("score", named.log_prob), ("encode", named.encode)):
        found, err = answers(capsys, query, "m", "--data", "x.csv", "--out", "o.csv")
        assert np.array_equal(np.squeeze(found), right(data.Table(ROWS, NAMES)))
        assert err == "npgen: warning: x.csv: 'who', 'kind' left out, because m was fitted on no column of that name\n"
    assert run(*fast(*SMALL, "--valid", "x.csv", "--quiet", source="train.csv")) == 0
    for text, said in ((header + "1,2,3,x\n", "x.csv: row 1 (line 2) has 4 columns, the header has 5"),
                       (table("x") + "1,2,3,x,4,5\n", "x.csv: row 61 (line 62) has 6 columns"),
                       (table("x") + "1,2,three,x,4\n", "x.csv: row 61 (line 62), column 3 ('a') is 'three', not a number"),
                       (table("x") + "1,2,nan,x,4\n", "x.csv: row 61 (line 62), column 3 ('a') is nan")):
        write("x.csv", text)
        capsys.readouterr()
        assert said in fails(capsys, "score", "m", "--data", "x.csv")


def test_files_and_models_without_names_are_compared_by_width_with_a_warning(here, capsys, named):
    np.save("bare.npy", ROWS)
    found, err = answers(capsys, "score", "m", "--data", "bare.npy", "--out", "o.csv")
    assert np.array_equal(found[:, 0], named.log_prob(data.Table(ROWS, NAMES)))
    assert "bare.npy has no names of columns; they are taken to be those that m was fitted on: 'a', 'b; c'" in err
    assert err.startswith("npgen: warning: ") and err.count("\n") == 1
    npgen.GaussianMixture(random_state=0).fit(ROWS).save("nameless")
    _, err = answers(capsys, "score", "nameless", "--data", "train.csv", "--out", "o.csv")
    assert "nameless has no names of columns; those of train.csv are taken in their order" in err
    assert err.startswith("npgen: warning: ") and err.count("\n") == 1
    np.save("two.npy", ROWS[:, :2])
    assert "two.npy has 2 columns, but m was fitted on 3" in fails(capsys, "score", "m", "--data", "two.npy")
    assert not answers(capsys, "score", "nameless", "--data", "bare.npy", "--out", "o.csv")[1]


def test_columns_to_stop_by_are_compared_with_those_to_fit(here, capsys, named):
    def fit(x, valid):
        return "fit", "made", "--data", x, "--valid", valid, "--out", "new", "--epochs", 1, "--quiet"

    np.save("bare.npy", ROWS)
    np.save("two.npy", ROWS[:, :2])
    data.write("two.csv", ROWS[:, :2], NAMES[:2])
    data.write("x.csv", np.c_[np.arange(60), ROWS[:, 1:]], ["id", *NAMES[1:]])
    assert "x.csv has no column 'a', which train.csv has; it has 'id' instead" in fails(capsys, *fit("train.csv", "x.csv"))
    assert "two.npy has 2 columns, but bare.npy has 3" in fails(capsys, *fit("bare.npy", "two.npy"))
    for x, valid, said in (("bare.npy", "train.csv", "bare.npy has no names of columns; those of train.csv are taken in their"),
                           ("train.csv", "bare.npy", "they are taken to be those that train.csv has: 'a'"),
                           ("two.csv", "train.csv", "'d, \"e\"' left out, because two.csv has no column of that name")):
        assert run(*fit(x, valid)) == 0
        err = capsys.readouterr().err
        assert said in err and "fitted" not in err and err.count("\n") == 1


def test_columns_of_the_same_name_are_refused(here, capsys):
    Path("x.csv").write_text("a,b,a\n" + "1.5,2,3\n2,2.5,1\n" * 9)
    for argv in (("fit", "gmm", "--data", "x.csv", "--out", "m"), ("check", "gmm", "--data", "x.csv")):
        assert "x.csv: columns 1 and 3 are both named 'a'; give each a name of its own" in fails(capsys, *argv)
    assert data.load("x.csv").shape == (18, 3)


def test_samples_are_written_under_their_names_and_score_as_they_are(here, capsys, named):
    for out in ("s.csv", "s.npz"):
        rows, err = answers(capsys, "sample", "m", "-n", 20, "--seed", 1, "--out", out)
        table = data.load_table(out)
        assert table.columns == NAMES and np.array_equal(table.rows, rows) and not err
        assert not answers(capsys, "score", "m", "--data", out, "--out", "o.csv")[1]
    assert np.array_equal(rows, named.sample(20, rng=1))


def test_names_that_are_numbers_are_no_header_that_would_be_a_row(here, capsys):
    npgen.GaussianMixture(random_state=0).fit(data.Table(ROWS, ["0", "1.5", "2nd"])).save("m")
    rows, err = answers(capsys, "sample", "m", "-n", 20, "--out", "s.csv")
    assert rows.shape == (20, 3) and "s.csv has no header" in err and err.count("\n") == 1
    assert len(Path("s.csv").read_text().splitlines()) == 20


def test_info_and_errors_of_fit_show_the_names(here, capsys, named):
    capsys.readouterr()
    assert run("info", "m") == 0
    assert 'names           a, b; c, d, "e"\n' in capsys.readouterr().out
    data.write("x.csv", np.c_[ROWS[:, 0], np.full(60, 2.5)], ["a", "b"])
    assert "column 2 ('b') is 2.5 in every row" in fails(capsys, *fast(source="x.csv"))


def test_check_looks_at_as_many_rows_as_it_is_told(here, capsys, monkeypatch):
    """Of a model whose rows are dear, such as an energy model, 500 take a fortieth of the time."""
    seen, whole = [], npgen.testing.check_generative_model

    def watched(model, x, **how):
        seen.append(how["n_samples"])
        return whole(model, x, **how)

    monkeypatch.setattr(npgen.testing, "check_generative_model", watched)
    assert run("check", "gmm", "--set", "n_components=3", "--samples", 500) == 0 and seen == [500]
    assert "0 are broken" in capsys.readouterr().out
    assert "--samples: must be a positive whole number, got '0'" in fails(capsys, "check", "gmm", "--samples", 0)


def test_check_finds_columns_by_name_too(here, capsys, named, monkeypatch):
    data.write("x.csv", ROWS[:, ::-1], NAMES[::-1])
    seen, whole = [], npgen.testing.check_generative_model

    def short(model, x, **_):
        seen.append(x)
        return whole(model, x, laws=["score is the mean of log_prob"])

    monkeypatch.setattr(npgen.testing, "check_generative_model", short)
    capsys.readouterr()
    assert run("check", "m", "--data", "x.csv") == 0
    assert np.array_equal(seen[0], ROWS) and seen[0].columns == NAMES and not capsys.readouterr().err


# ---------------------------------------------------------------- context

LABELS = np.array(["red, dark", "green", "blue"])[np.arange(60) % 3]
AGES = np.arange(60) / 7


def context_csv(path, columns, header=True):
    """A file of some of the columns a, b, kind, age."""
    cells = {"a": ROWS[:, 0].tolist(), "b": ROWS[:, 1].tolist(), "kind": [f'"{label}"' for label in LABELS],
             "age": AGES.tolist(), "level": [0, 1, 2] * 20, "who": [f"row {i}" for i in range(60)]}
    lines = [",".join(columns)] * header + [",".join(map(str, row)) for row in zip(*(cells[c] for c in columns), strict=True)]
    Path(path).write_text("\n".join(lines) + "\n")
    return path


def given(*names):
    """The context that those columns are, as fit takes it."""
    rows = np.empty((60, len(names)), object)
    for k, name in enumerate(names):
        rows[:, k] = {"kind": LABELS, "age": AGES, "level": np.arange(60) % 3}[name].tolist()
    return data.Table(rows, list(names))


@pytest.fixture
def conditional(here, capsys):
    """A model of a and b given kind and age, fitted by the command."""
    context_csv("train.csv", ["a", "kind", "b", "age"])
    assert run(*fast(*SMALL, "--context", "kind,age", source="train.csv")) == 0
    assert "60 rows, 2 columns (float64), context: kind (3 labels: 'blue', 'green', 'red, dark'), age (numbers)" in \
        capsys.readouterr().out
    return npgen.load("m")


CONDITIONAL = [name for name, cls in npgen.models.MODELS.items() if issubclass(cls, GradientModel)
               and name not in ("energy", "rbm", "autoencoder")]  # whose log Z, or codes, would be others for every context


@pytest.mark.parametrize("model", CONDITIONAL)
def test_a_context_is_what_fit_takes(here, model):
    """Columns by name or by number, of text or whole numbers, taken out of the rows."""
    cls, x = npgen.models.MODELS[model], data.Table(ROWS[:, :2], ["a", "b"])
    settings = {name: value for name, value in {"hidden": (8,), "n_couplings": 2}.items() if name in cls().get_params()}
    argv = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    for columns, context, names in ((["a", "kind", "b"], "kind", ["kind"]),
                                    (["age", "a", "b", "level"], "4, 1", ["level", "age"])):
        context_csv("x.csv", columns)
        assert run(*fast(*argv, "--context", context, model=model, source="x.csv")) == 0
        right = cls(**settings, max_epochs=2, random_state=0).fit(x, context=given(*names))
        loaded = npgen.load("m")
        assert loaded.context_.names == names and list(loaded.feature_names_in_) == ["a", "b"]
        query = "score" if right.capabilities.density == "none" else "log_prob"
        assert np.array_equal(*(getattr(each, query)(x, context=given(*names)) for each in (loaded, right)))


def test_queries_find_the_context_by_the_names_in_the_file(here, capsys, conditional):
    x, c = data.Table(ROWS[:, :2], ["a", "b"]), given("kind", "age")
    context_csv("x.csv", ["age", "who", "b", "a", "kind"])
    for query, right in (("score", conditional.log_prob), ("encode", conditional.encode)):
        found, err = answers(capsys, query, "m", "--data", "x.csv", "--out", "o.csv")
        assert np.array_equal(np.squeeze(found), right(x, context=c)) and "'who' left out" in err and err.count("\n") == 1
    Path("y.csv").write_text(Path("train.csv").read_text().replace("kind", "type", 1))
    assert "y.csv has no column 'kind', which is the context of m" in fails(capsys, "score", "m", "--data", "y.csv")
    found, err = answers(capsys, "score", "m", "--data", "y.csv", "--context", "type,4", "--out", "o.csv")
    assert np.array_equal(found[:, 0], conditional.log_prob(x, context=c)) and not err
    assert run("info", "m") == 0
    assert "context         kind (3 labels: 'blue', 'green', 'red, dark'), age (numbers)" in capsys.readouterr().out


def test_columns_without_names_have_numbers(here, capsys):
    context_csv("x.csv", ["kind", "a", "b"], header=False)
    text = Path("x.csv").read_text()
    write("x.csv", text.replace('"red, dark"', "0").replace('"green"', "1").replace('"blue"', "2"))
    assert run(*fast(*SMALL, "--context", "1", source="x.csv")) == 0
    capsys.readouterr()
    model = npgen.load("m")
    assert model.context_.names == ["1"]
    found, err = answers(capsys, "score", "m", "--data", "x.csv", "--out", "o.csv")
    assert np.array_equal(found[:, 0], model.log_prob(ROWS[:, :2], context=np.arange(60) % 3)) and not err
    context_csv("x.csv", ["a", "b"], header=False)
    assert "x.csv has 1 column beside the context, but m was fitted on 2" in fails(capsys, "score", "m", "--data", "x.csv")


def test_rows_are_drawn_for_a_context(here, capsys, conditional):
    rows, _ = answers(capsys, "sample", "m", "-n", 7, "--seed", 1, "--context", '"kind=red, dark",age=2.5', "--out", "s.csv")
    c = data.Table(np.array([["red, dark", 2.5]], object), ["kind", "age"])
    assert np.array_equal(rows, conditional.sample(7, context=c, rng=1).reshape(7, 2))
    for n, right in ((None, 60), (2, 120)):
        many = ("-n", n) if n else ()
        rows, _ = answers(capsys, "sample", "m", *many, "--seed", 1, "--data", "train.csv", "--out", "s.csv")
        assert np.array_equal(rows, conditional.sample(n or 1, context=given("kind", "age"), rng=1).reshape(right, 2))


def test_the_laws_are_checked_given_contexts(here, capsys, conditional):
    assert run("check", "m", "--data", "train.csv") == 0
    out = capsys.readouterr().out
    assert "ok    a row's context is its own" in out and " given red, dark, 0.0; " in out and "0 are broken" in out
    assert run("check", "realnvp", "--data", "train.csv", "--context", "kind,4", "--epochs", 1, "--set", "hidden=8") == 0
    assert " given red, dark, 0.0; " in capsys.readouterr().out
    assert "m was fitted with a context; give rows that have it, --data DATA" in fails(capsys, "check", "m")
    assert run(*fast(*SMALL)) == 0
    capsys.readouterr()
    assert "--context kind: m was fitted without a context; leave it out" in fails(capsys, "check", "m", "--context", "kind")


def test_rows_to_stop_by_have_a_context_too(here, capsys):
    context_csv("train.csv", ["a", "kind", "b"])
    context_csv("valid.csv", ["kind", "b", "a"])
    assert run(*fast(*SMALL, "--context", "kind", "--valid", "valid.csv", source="train.csv")) == 0
    x, c = data.Table(ROWS[:, :2], ["a", "b"]), given("kind")
    model = RealNVP(hidden=(8,), n_couplings=2, max_epochs=2, random_state=0).fit(x, context=c, validation_data=(x, None, c))
    assert npgen.load("m").history_ == model.history_
    context_csv("valid.csv", ["b", "a"])
    capsys.readouterr()
    assert "valid.csv has no column 'kind'" in fails(
        capsys, *fast(*SMALL, "--context", "kind", "--valid", "valid.csv", source="train.csv"))


BAD_CONTEXTS = {
    "no such column": (fast("--context", "sort", source="train.csv"), "--context sort: train.csv has no column 'sort'; its"),
    "no such number": (fast("--context", "5", source="train.csv"), "--context 5: train.csv has no column '5'"),
    "number 0": (fast("--context", "0", source="train.csv"), "--context 0: train.csv has no column '0'"),
    "empty": (fast("--context", "", source="train.csv"), "empty"),
    "empty part": (fast("--context", "kind,,age", source="train.csv"), "empty part"),
    "twice": (fast("--context", "kind,2", source="train.csv"), "names a column twice"),
    "all": (fast("--context", "1,2,3,4", source="train.csv"), "leave at least one"),
    "not taken": (fast("--context", "kind,age", model="gmm", source="train.csv"), "GaussianMixture takes no context"),
    "text in the rows": (fast("--context", "age", source="train.csv"), "column 2 ('kind') is 'red, dark', not a number"),
    "empty cell": (fast("--context", "kind", source="hole.csv"), "hole.csv: row 2 (line 3), column 2 ('kind') is empty"),
    "unknown label": (("score", "m", "--data", "pink.csv"), "'pink'"),
    "too few": (("score", "m", "--data", "train.csv", "--context", "kind"), "with a context of 2 columns, 'kind', 'age'"),
    "none fitted": (("score", "plain", "--data", "train.csv", "--context", "kind"), "plain was fitted without a context"),
    "none fitted, sample": (("sample", "plain", "--context", "kind=blue", "--out", "o.csv"), "was fitted without a context"),
    "none fitted, data": (("sample", "plain", "--data", "train.csv", "--out", "o.csv"), "was fitted without a context"),
    "sample without": (("sample", "m", "--out", "o.csv"), "--context kind=VALUE,age=VALUE, or rows that have it, --data DATA"),
    "sample, half": (("sample", "m", "--context", "kind=blue", "--out", "o.csv"), "--context kind=VALUE,age=VALUE"),
    "sample, unknown label": (("sample", "m", "--context", "kind=pink,age=1", "--out", "o.csv"), "kind=pink: the labels"),
    "sample, no number": (("sample", "m", "--context", "kind=blue,age=old", "--out", "o.csv"), "age=old: m was fitted with"),
    "check": (("check", "m"), "context"),
}


@pytest.mark.parametrize("case", BAD_CONTEXTS, ids=lambda case: case.replace(" ", "-"))
def test_bad_contexts_are_one_line(here, capsys, conditional, case):
    npgen.GaussianMixture(random_state=0).fit(data.Table(ROWS[:, :2], ["a", "b"])).save("plain")
    write("hole.csv", "a,kind,b\n1,x,2.5\n2, ,3.5\n")
    Path("pink.csv").write_text(Path("train.csv").read_text().replace("green", "pink"))
    before = sorted(os.listdir())
    argv, said = BAD_CONTEXTS[case]
    assert said in fails(capsys, *("new" if part == "m" and argv[0] == "fit" else part for part in argv))
    assert sorted(os.listdir()) == before


# ---------------------------------------------------------------- errors: models and settings

BAD_MODELS = {
    "missing": (lambda good: "nowhere", "nowhere"),
    "truncated": (lambda good: good[:len(good) // 2], "truncated"),
    "altered": (lambda good: good[:-3] + b"abc", "altered"),
    "foreign": (lambda good: b"PK\x03\x04 something else entirely", "not a safetensors file"),
    "empty": (lambda good: b"", "empty"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
@pytest.mark.parametrize("command", ["score", "sample", "encode", "info"])
def test_bad_model_files_are_one_line(here, capsys, models, case, command):
    make, word = BAD_MODELS[case]
    bad = make(Path(models["moons"]).read_bytes())
    if isinstance(bad, bytes):
        Path("bad").write_bytes(bad)
        bad = "bad"
    more = {"score": ("--data", "moons"), "sample": ("--out", "o.npy"), "encode": ("--data", "moons", "--out", "o.npy")}
    line = fails(capsys, command, bad, *more.get(command, ()))
    assert bad in line and word in line and not Path("o.npy").exists()


def test_a_checkpoint_is_no_model(here, capsys, monkeypatch):
    interrupt_after(monkeypatch, 1)
    assert run(*fast(*SMALL)) == 130
    capsys.readouterr()
    assert "resume" in fails(capsys, "info", "m.checkpoint")


BAD_SETTINGS = {
    "unknown model": (("fit", "glow", "--data", "moons", "--out", "m"), ("glow", "gan", "gmm", "made", "realnvp", "vae")),
    "unknown key": (fast("--set", "layers=3"), ("layers=3", "n_couplings", "hidden")),
    "no value": (fast("--set", "hidden"), ("key=value", "n_couplings")),
    "prior of no size": (fast("--set", "prior=Mixture(0)", model="vae"), ("--set prior=Mixture(0): n_components must be",)),
    "prior of unknown options": (fast("--set", "prior=Flow(size=3)", model="vae"), ("--set prior=Flow(size=3): ", "'size'")),
    "flag by --set": (fast("--set", "random_state=1"), ("random_state=1", "--seed", "hidden")),
    "epochs by --set": (fast("--set", "max_epochs=30"), ("max_epochs=30", "--epochs", "hidden")),
    "iterations by --set": (fast("--set", "max_iter=30", model="gmm"), ("max_iter=30", "--epochs", "tol")),
    "another's flag by --set": (fast("--set", "max_iter=30"), ("max_iter=30: give key=value",)),
    "bad value": (fast("--set", "learning_rate=fast"), ("learning_rate", "'fast'")),
    "bad width": (fast("--set", "hidden=0"), ("hidden", "0")),
    "epochs 0": (fast("--epochs", "0"), ("max_epochs", "0")),
    "epochs no number": (fast("--epochs", "many"), ("--epochs", "'many'")),
    "negative seed": (fast("--seed", "-1"), ("-1",)),
    "no command": ((), ("COMMAND",)),
    "unknown command": (("train",), ("train",)),
    "no data": (("fit", "gmm", "--out", "m"), ("--data",)),
    "n is 0": (("sample", "m", "-n", "0", "--out", "o.npy"), ("-n", "'0'")),
    "n no number": (("sample", "m", "-n", "ten", "--out", "o.npy"), ("-n", "'ten'")),
}


@pytest.mark.parametrize("case", BAD_SETTINGS, ids=lambda case: case.replace(" ", "-"))
def test_bad_settings_are_one_line(here, capsys, case):
    argv, words = BAD_SETTINGS[case]
    line = fails(capsys, *argv)
    assert all(word in line for word in words), line
    assert os.listdir() == []


# ---------------------------------------------------------------- errors: outputs, before any work

@pytest.fixture
def lazy(monkeypatch):
    """Loading data or a model is work: it fails the test."""
    for module, name in ((data, "Source"), (npgen.models.files, "load")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("worked before it looked where to write"))


@pytest.mark.parametrize("argv", [fast(out="{}"), ("score", "m", "--data", "moons", "--out", "{}"),
                                  ("sample", "m", "--out", "{}"), ("encode", "m", "--data", "moons", "--out", "{}")],
                         ids=lambda argv: argv[0])
class TestOutputs:
    def test_missing_folder(self, here, capsys, lazy, argv):
        assert "does not exist" in fails(capsys, *(a.format("no/where/o.npy") for a in argv))

    def test_a_folder_in_the_way(self, here, capsys, lazy, argv):
        os.mkdir("o.npy")
        assert "is a folder" in fails(capsys, *(a.format("o.npy") for a in argv))

    def test_read_only_folder(self, here, capsys, lazy, argv, monkeypatch):
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert "read-only" in fails(capsys, *(a.format("o.npy") for a in argv))


def test_messages_of_several_lines_become_one(capsys, monkeypatch):
    monkeypatch.setattr(npgen.models.files, "load", lambda path: (_ for _ in ()).throw(ValueError("first\n  second")))
    assert fails(capsys, "info", "m") == "npgen: error: first second\n"


def test_pictures_need_matplotlib(here, capsys, lazy, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install matplotlib" in fails(capsys, "sample", "m", "--out", "o.png")


def test_rows_that_are_no_picture(here, capsys, models):
    assert "neither images nor points" in fails(capsys, "sample", models["three"], "--out", "o.png")


@pytest.mark.parametrize("argv", [("score", "m", "--data", "moons"), ("sample", "m"), ("encode", "m", "--data", "moons")],
                         ids=lambda argv: argv[0])
def test_unknown_suffix(here, capsys, lazy, argv):
    assert ".npy, .npz, .csv" in fails(capsys, *argv, "--out", "o.xyz")


def test_score_draws_no_picture(here, capsys, models):
    assert ".npy, .npz, .csv" in fails(capsys, "score", models["moons"], "--data", "moons", "--out", "o.png")


def test_a_full_disk_keeps_the_old_file(here, capsys, models, monkeypatch):
    old = write("o.npy", "old")
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device", "o.npy")))
    assert "o.npy: No space left on device" in fails(capsys, "sample", models["moons"], "--out", old)
    assert os.listdir() == [old] and Path(old).read_text() == "old"


# ---------------------------------------------------------------- demo, and the real command

@pytest.mark.long
def test_demo_prints_the_table_and_draws(here, capsys):
    from npgen import demo
    pytest.importorskip("matplotlib")
    assert run("demo", "--quick", "--out", "pictures") == 0
    out = capsys.readouterr().out
    for word in ("GaussianMixture", "MADE", "RealNVP", "VAE", "RBM", "GMMN", "Autoencoder", "bits/pixel", "distance",
                 "exact", "bound", "estimate", "none", "rows/s"):
        assert word in out
    names = {path.name for path in Path("pictures").iterdir()}
    assert len(demo.CASES) >= 7 and names >= {f"{m}-samples.png" for m, *_ in demo.CASES}
    assert names >= {f"{m}-latent.png" for m, *_ in demo.CASES if m != "gmmn"} and "gmmn-latent.png" not in names


@pytest.mark.long
@pytest.mark.parametrize("argv", [("demo", "--quick"), ("fit", "gmm", "--data", "moons", "--out", "moons.npgen")])
def test_the_second_process_finds_the_same_npgen(here, monkeypatch, argv):
    """Not another beside it, as in a checkout from which npgen was installed elsewhere: its kernels have other places."""
    Path("npgen").mkdir()
    Path("npgen/__init__.py").write_text("raise SystemExit('not this one')")
    ended, popen = [], subprocess.Popen

    def helped(start):
        start()
        return contextlib.nullcontext()

    def through(*args, **params):
        process = popen(*args, **params)
        ended.append(process.wait(timeout=900))
        return process

    monkeypatch.setattr(machine, "_n_cores", lambda: 2)
    monkeypatch.setattr(machine._processes, "helped", helped)
    monkeypatch.setattr(machine, "subprocess", types.SimpleNamespace(Popen=through, DEVNULL=subprocess.DEVNULL))
    assert run(*argv) == 0 and ended == [0]


@pytest.mark.long
def test_demo_without_matplotlib(here, capsys, monkeypatch):
    from npgen import demo
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(demo, "CASES", demo.CASES[4:5])
    assert run("demo", "--quick") == 0
    assert "matplotlib is not installed" in capsys.readouterr().out and list(Path("npgen-demo").iterdir()) == []


@pytest.mark.long
def test_as_a_process(here, models):
    env = os.environ | {"PYTHONPATH": str(ROOT)}

    def npgen_(*argv):
        return subprocess.run([sys.executable, "-m", "npgen", *argv], env=env, capture_output=True, text=True, timeout=900)

    assert npgen_("--help").stdout.startswith("usage: npgen")
    failed = npgen_("score", models["moons"], "--data", "nowhere.csv")
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and not failed.stdout
    assert npgen_("sample", models["moons"], "--out", "o.npy").returncode == 0
    piped = subprocess.run(f"'{sys.executable}' -m npgen info '{models['digits']}' | head -c 1", shell=True, env=env,
                           capture_output=True, text=True, timeout=900)
    assert "Traceback" not in piped.stderr


# ---------------------------------------------------------------- missing values

def holes():
    """Rows of ROWS' first two columns, every fifth value of b missing, in a .csv and a .npy; the rows."""
    x = ROWS[:, :2].astype(float)
    x[::5, 1] = np.nan
    words = itertools.cycle(["", "NA", "?", "nan"])
    lines = ["a,b", *(f"{a!r},{next(words) if np.isnan(b) else repr(b)}" for a, b in x.tolist())]
    Path("holes.csv").write_text("\n".join(lines) + "\n")
    np.save("holes.npy", x)
    return x


@pytest.mark.parametrize("model", ["gmm", "mixture"])
def test_empty_cells_are_missing_values_of_mixtures(here, capsys, model):
    x = holes()
    for source in ("holes.csv", "holes.npy"):
        plain = ("--set", "preprocess=None") if model == "gmm" else ()
        assert run("fit", model, "--data", source, *plain, "--out", "m") == 0
        table = model == "mixture" and source == "holes.csv"  # whose columns have names
        rows = read_table(source) if table else x
        right = npgen.models.MODELS[model](random_state=0).fit(rows)
        for query, seed, want in (("score", None, right.log_prob(rows)), ("impute", None, right.impute(rows)),
                                  ("impute", 3, right.impute(rows, rng=3))):
            many = () if seed is None else ("--seed", seed)
            assert run(query, "m", "--data", source, *many, "--out", "o.npy") == 0
            np.testing.assert_allclose(np.load("o.npy"), np.asarray(want), rtol=1e-12)


def test_made_imputes_and_what_takes_no_missing_values_says_where_one_is(here, capsys):
    x = holes()
    full = np.where(np.isnan(x), 0.5, x)
    model = npgen.MADE(order="any", hidden=(8,), max_epochs=1, random_state=0).fit(full)
    model.save("m")
    found, _ = answers(capsys, "impute", "m", "--data", "holes.npy", "--out", "o.npy")
    np.testing.assert_array_equal(found, model.impute(x))
    assert "holes.csv: row 1 (line 2), column 2 ('b') is empty" in fails(capsys, "score", "m", "--data", "holes.csv")
    assert "holes.csv: row 1 (line 2), column 2 ('b') is empty" in fails(capsys, *fast(*SMALL, source="holes.csv"))
    assert "row 1 (line 2), column 2 ('b') is empty" in fails(capsys, "fit", "gmm", "--data", "holes.csv", "--out", "m2")
    assert "holes.npy: row 1, column 2 (x[0, 1]) is nan" in fails(capsys, *fast(*SMALL, source="holes.npy"))
    npgen.RealNVP(**{"hidden": (8,), "n_couplings": 2}, max_epochs=1, random_state=0).fit(full).save("m")
    assert "m holds a RealNVP, which has no impute" in fails(
        capsys, "impute", "m", "--data", "holes.csv", "--out", "o.csv")
    Path("bad.csv").write_text("a,b\n1,2\n3,red\n")
    assert "bad.csv: row 2 (line 3), column 2 ('b') is 'red', not a number" in fails(
        capsys, "fit", "gmm", "--data", "bad.csv", "--out", "m")


@pytest.mark.parametrize("model", ["diffusion", "flowmatching", "gan", "gmmn", "autoencoder", "rbm", "energy", "gmm"])
def test_columns_of_texts_are_refused_with_what_models_them(here, capsys, model):
    Path("bad.csv").write_text("a,b\n1,2\n3,red\n")
    assert "'red', not a number; correct it, or remove the row or the column, or fit a mixture or a made, which" in fails(
        capsys, "fit", model, "--data", "bad.csv", "--out", "m")
    assert "or fit a mixture" not in fails(capsys, "fit", "made", "--data", "bad.csv", "--out", "m", "--context", "a")


def test_a_classifiers_file_is_not_asked(here, capsys):
    y = np.arange(60) % 2
    npgen.BayesClassifier(npgen.GaussianMixture(1, random_state=0)).fit(ROWS, y).save("m")
    for argv in (("score", "m", "--data", "digits"), ("sample", "m", "--out", "o.csv"), ("info", "m"),
                 ("encode", "m", "--data", "digits", "--out", "o.csv")):
        assert "m holds a BayesClassifier, which the command line does not ask" in fails(capsys, *argv)
    assert run("check", "m") == 0 and "the likeliest class is predicted" in capsys.readouterr().out
