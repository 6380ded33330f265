"""Bad calls, through the API and the command line: each has a defined result, or one clear error that names the argument and
what it got; none hangs, corrupts the model or prints a traceback."""
import copy
import functools
import os
import re
import shlex
import signal

import numpy as np
import pytest
from queries import answers_to, coded, scored
from test_models import CASES, FIRST, REAL, answers, fresh

import npgen
from npgen import cli, data, transforms

X = REAL[:60, :3].copy()
SETTINGS = {"MADE": {"hidden": (4,), "head": "normal", "order": "random"}, "RealNVP": {"n_couplings": 2, "hidden": (4,)},
            "VAE": {"n_latent": 2, "hidden": (4,), "head": "normal", "n_importance": 3}, "GaussianMixture": {"n_components": 2},
            "Mixture": {"n_components": 2}, "FlowMatching": {"hidden": (4,), "n_steps": 3},
            "Diffusion": {"hidden": (4,), "n_steps": 3}, "RBM": {"n_hidden": 3, "n_chains": 10},
            "EnergyModel": {"hidden": (4,), "base": npgen.GaussianMixture(2), "n_burn": 3, "n_importance": 100},
            "Autoencoder": {"n_latent": 2, "hidden": (4,), "prior": npgen.GaussianMixture(1)},
            "GMMN": {"n_noise": 2, "hidden": (4,)}, "GAN": {"n_noise": 2, "hidden": (4,), "critic_hidden": (4,)}} | {
                name: {"n_layers": 2, "hidden": (4,)} for name in ("IAF", "MAF", "NSF")}

pytestmark = pytest.mark.long

@functools.cache
def model(name):
    return fresh(FIRST[name], **SETTINGS[name]).fit(X)


@pytest.fixture(autouse=True)
def soon():
    """Nothing hangs."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put(value, at=(3, 1), x=X):
    x = x.copy()
    x[at] = value
    return x


class Frame:
    """A DataFrame, as NumPy sees it."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return np.array(self.x, dtype=dtype)


class Nameless(transforms.Transform):
    """A map that load would not find."""


def saved_with(m, mine):
    """Save a copy of a model that has this map among its hyperparameters; a mixture of columns has none."""
    if "preprocess" not in m.get_params():
        raise TypeError("preprocess: Nameless is not registered")
    copy.copy(m).set_params(preprocess=mine).save("o")


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def memory_map(x, folder):
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


# what is passed -> (from the rows x, None where it stands for x: else the error and words of its message)
ERRORS = (ValueError, TypeError)
TABLES = {
    "list of lists": (lambda x: x.tolist(), None),
    "tuples": (lambda x: tuple(map(tuple, x)), None),
    "objects": (lambda x: x.astype(object), None),
    "frame": (Frame, None),
    "Fortran order": (np.asfortranarray, None),
    "negative strides": (lambda x: x[::-1, ::-1].copy()[::-1, ::-1], None),
    "every other column of more": (lambda x: np.repeat(x, 2, axis=1)[:, ::2], None),
    "read-only": (read_only, None),
    "byte-swapped": (lambda x: x.astype(x.dtype.newbyteorder()), None),
    "masked array without masked values": (np.ma.array, None),
    "matrix": (lambda x: x.view(np.matrix), None),
    "long double": (lambda x: x.astype(np.longdouble), None),
    "NaN": (lambda x: put(np.nan), (ValueError, r"X\[3, 1\] is nan")),
    "NaN in a list": (lambda x: put(np.nan).tolist(), (ValueError, r"X\[3, 1\] is nan")),
    "all NaN": (lambda x: np.full_like(x, np.nan), (ValueError, r"nan|no values")),
    "infinity": (lambda x: put(np.inf), (ValueError, r"X\[3, 1\] is inf")),
    "minus infinity": (lambda x: put(-np.inf, (0, 0)), (ValueError, r"X\[0, 0\] is -inf")),
    "too large for float64": (lambda x: put(np.longdouble("1e400"), x=x.astype(np.longdouble)), (ValueError, "inf")),
    "None in it": (lambda x: put(None, x=x.astype(object)), (ValueError, r"X\[3, 1\] is nan")),
    "masked values": (lambda x: np.ma.array(x, mask=x > 0), (ValueError, "X has masked values")),
    "None": (lambda x: None, (ERRORS, "X")),
    "a number": (lambda x: 3.5, (ValueError, r"X must have two dimensions.*\(\)")),
    "a string": (lambda x: "moons", (TypeError, "X must")),
    "bytes": (lambda x: b"moons", (TypeError, "X must")),
    "a dict": (lambda x: {"x": x}, (TypeError, "X must")),
    "a set": (lambda x: {1.0, 2.0}, (TypeError, "X must")),
    "a generator": (lambda x: (row for row in x), (TypeError, "X must")),
    "a function": (lambda x: np.sum, (TypeError, "X must")),
    "a class": (lambda x: Frame, (TypeError, "X must")),
    "strings": (lambda x: x.astype(str), (TypeError, "X must hold real numbers|X must be a table")),
    "words": (lambda x: [["a", "b", "c"]] * 9, (TypeError, "X must hold real numbers")),
    "complex": (lambda x: x + 1j, (ValueError, "complex128")),
    "dates": (lambda x: x.astype("M8[s]"), (TypeError, "datetime64")),
    "a structured array": (lambda x: np.zeros(9, dtype=[("a", float), ("b", float)]), (ERRORS, "X must")),
    "ragged": (lambda x: [[1.0, 2.0, 3.0], [4.0]], (ERRORS, "X must")),
    "lists of lists of lists": (lambda x: [x.tolist()], (ValueError, r"two dimensions.*\(1, 60, 3\)")),
    "one dimension": (lambda x: x[0], (ValueError, r"two dimensions.*\(3,\)")),
    "no columns": (lambda x: x[:, :0], (ValueError, r"\(60, 0\)")),
    "an empty list": (lambda x: [], (ValueError, r"\(0,\)")),
}
QUERY_ONLY = {
    "one column less": (lambda x: x[:, :2], (ValueError, "X has 2 features, but .* is expecting 3")),
    "one column more": (lambda x: np.hstack([x, x[:, :1]]), (ValueError, "X has 4 features, but .* is expecting 3")),
    "transposed": (lambda x: x.T, (ValueError, "X has 60 features")),
}
FIT_ONLY = {
    "no rows": (lambda x: x[:0], (ValueError, r"X has shape \(0, 3\)")),
    "one row": (lambda x: x[:1], (ValueError, r"X has shape \(1, 3\)")),
    "an empty table": (lambda x: np.empty((0, 0)), (ValueError, r"\(0, 0\)")),
}


def outcome(call, expected, says):
    """Make a call that either succeeds or raises what is expected, in one line that begins with the method's name."""
    if expected is None:
        with np.errstate(all="raise", under="ignore"):
            return call()
    error, words = expected
    with pytest.raises(error, match=words) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{says}: ") and "\n" not in message and len(message) < 400, message
    return None


def same(answers, others):
    return all(a.tobytes() == b.tobytes() for a, b in zip(answers, others, strict=True))


def missing_is_welcome(name, case):
    """A mixture takes NaN for a value that is not known."""
    return name.endswith("Mixture") and ("NaN" in case or case == "None in it")


@pytest.mark.parametrize("name, query", [(name, query) for query in ("log_prob", "encode", "score") for name in FIRST
                                         if answers_to(CASES[FIRST[name]][0], query)])
@pytest.mark.parametrize("case", TABLES | QUERY_ONLY)
def test_queries(name, case, query, tmp_path):
    make, expected = (TABLES | QUERY_ONLY)[case]
    m = model(name)
    before = answers(m, X)
    if missing_is_welcome(name, case):
        assert np.isfinite(getattr(m, query)(make(X))).all()
    else:
        found = outcome(lambda: getattr(m, query)(make(X)), expected, "log_prob" if query == "score" and scored(m) else query)
        if expected is None:
            np.testing.assert_array_equal(found, getattr(m, query)(X))
    assert same(answers(m, X), before)


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("case", TABLES | FIT_ONLY)
def test_fits(name, case):
    make, expected = (TABLES | FIT_ONLY)[case]
    if missing_is_welcome(name, case) and case != "all NaN":
        return
    m = fresh(FIRST[name], **SETTINGS[name])
    given = make(X)
    kept = given.copy() if isinstance(given, np.ndarray) else None
    found = outcome(lambda: m.fit(given), expected, "fit")
    if expected is None:
        assert found is m and same(answers(m, X), answers(model(name), X))
    else:
        with pytest.raises(npgen.NotFittedError):
            m.sample(1)
    if kept is not None and kept.dtype != object:
        np.testing.assert_array_equal(given, kept)


@pytest.mark.parametrize("name", FIRST)
def test_a_memory_map_is_rows(name, tmp_path):
    x, m = memory_map(X, tmp_path), model(name)
    assert same(answers(m, x), answers(m, X))
    assert same(answers(fresh(FIRST[name], **SETTINGS[name]).fit(x), X), answers(m, X))


EXTREMES = {  # rows that can be fitted, or that one clear error refuses
    "two rows": lambda x: x[:2],
    "three rows": lambda x: x[:3],
    "a constant column": lambda x: put(2.0, (slice(None), 1)),
    "all constant": lambda x: np.full_like(x, 7.0),
    "all zero": lambda x: np.zeros_like(x),
    "the same row twice": lambda x: np.repeat(x[:1], 2, axis=0),
    "huge": lambda x: x * 1e150,
    "huge, of both signs": lambda x: x * 1e300,
    "tiny": lambda x: x * 1e-150,
    "subnormal": lambda x: x * 1e-310,
    "far away": lambda x: x + 1e12,
    "an outlier": lambda x: put(1e12),
    "float32 near its end": lambda x: (x / np.abs(x).max() * 3e38).astype(np.float32),
    "one column": lambda x: x[:, :1],
    "more columns than rows": lambda x: np.tile(x[:5], (1, 5)),
    "collinear": lambda x: x[:, [0, 0, 0]],
    "negative zeros": lambda x: x * 0.0 * -1 + x[:, :1],
    "int64 at its end": lambda x: np.array([[2**62, -2**62, 0], [1, 2, 3], [4, 5, 6]]),
    "uint64 at its end": lambda x: np.array([[2**64 - 1, 0, 1], [1, 2, 3], [4, 5, 6]], dtype=np.uint64),
    "booleans": lambda x: x > x.mean(axis=0),
}


WITHOUT_DENSITY = {(name, case): "fit: all rows of X are the same, which has no density; pass rows that differ"
                   for name in ("GaussianMixture", "EnergyModel", "Autoencoder")  # whose prior is one
                   for case in ("all constant", "all zero", "the same row twice")}
TOO_EXTREME = WITHOUT_DENSITY | {
    ("Mixture", "subnormal"): "fit: column 0 of X has values too close together for float64; multiply it by a constant"}


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("case", EXTREMES)
@pytest.mark.filterwarnings("ignore")
def test_extreme_rows_are_fitted_or_refused(name, case):
    x = EXTREMES[case](X)
    m = fresh(FIRST[name], **SETTINGS[name] | ({"n_components": 1} if name.endswith("Mixture") else {}))
    if words := TOO_EXTREME.get((name, case)):
        with pytest.raises(ValueError, match=re.escape(words)):
            m.fit(x)
        with pytest.raises(npgen.NotFittedError):
            m.sample(1)
        return
    m.fit(x)
    assert not np.isnan(m.sample(3, rng=0)).any() and not (scored(m) and np.isnan(m.log_prob(x)).any())


CALLS = {  # the argument that the message must name
    "sample: negative": (lambda m: m.sample(-1), "n_samples.*-1"),
    "sample: a fraction": (lambda m: m.sample(2.5), "n_samples.*2.5"),
    "sample: a string": (lambda m: m.sample("3"), "n_samples.*'3'"),
    "sample: True": (lambda m: m.sample(True), "n_samples.*True"),
    "sample: a list": (lambda m: m.sample([3]), "n_samples"),
    "sample: an array": (lambda m: m.sample(np.array([3, 4])), "n_samples"),
    "sample: NaN": (lambda m: m.sample(float("nan")), "n_samples.*nan"),
    "sample: a negative seed": (lambda m: m.sample(1, rng=-1), "rng.*-1"),
    "sample: a seed that is a string": (lambda m: m.sample(1, rng="0"), "rng.*'0'"),
    "sample: a seed that is a fraction": (lambda m: m.sample(1, rng=0.5), "rng.*0.5"),
    "decode: too wide": (lambda m: m.decode(np.zeros((2, m.n_latent_ + 1))), "Z has"),
    "decode: one dimension": (lambda m: m.decode(np.zeros(m.n_latent_)), "Z must have two"),
    "decode: NaN": (lambda m: m.decode(np.full((2, m.n_latent_), np.nan)), r"Z\[0, 0\] is nan"),
    "decode: words": (lambda m: m.decode([["a"] * m.n_latent_]), "Z must"),
    "decode: None": (lambda m: m.decode(None), "Z must"),
    "score: no rows": (lambda m: m.score(X[:0]), "no rows"),
    "score: weights too short": (lambda m: m.score(X, sample_weight=[1.0]), "sample_weight has shape"),
    "score: negative weights": (lambda m: m.score(X, sample_weight=-np.ones(60)), r"sample_weight\[0\] is -1"),
    "score: NaN weights": (lambda m: m.score(X, sample_weight=np.full(60, np.nan)), r"sample_weight\[0\] is nan"),
    "score: infinite weights": (lambda m: m.score(X, sample_weight=np.full(60, np.inf)), r"sample_weight\[0\] is inf"),
    "score: weights of zero": (lambda m: m.score(X, sample_weight=np.zeros(60)), "sample_weight is zero"),
    "score: weights in words": (lambda m: m.score(X, sample_weight=["a"] * 60), "sample_weight must be numbers"),
    "score: weights in a table": (lambda m: m.score(X, sample_weight=np.ones((60, 1))), "sample_weight has shape"),
    "set_params: no such name": (lambda m: m.set_params(colour=1), "'colour'"),
    "save: a folder": (lambda m: m.save(os.curdir), "not a regular file"),
    "save: in no folder": (lambda m: m.save("nowhere/model"), "nowhere"),
    "save: a map of one's own": (lambda m: saved_with(m, Nameless()), "preprocess: Nameless is not registered"),
    "save: None": (lambda m: m.save(None), "path must be the name of a file, got None"),
    "save: a number": (lambda m: m.save(1), "path must be the name of a file, got 1"),
    "fit: resume without a checkpoint": (lambda m: m.fit(X, resume=True), "resume"),
    "fit: checkpoint in no folder": (lambda m: m.fit(X, checkpoint="nowhere/run"), "nowhere"),
    "fit: checkpoint a folder": (lambda m: m.fit(X, checkpoint=os.curdir), "not a regular file"),
    "fit: weights too long": (lambda m: m.fit(X, sample_weight=np.ones(61)), r"sample_weight has shape \(61,\)"),
    "fit: one row with weight": (lambda m: m.fit(X, sample_weight=np.arange(60) == 0), "X has shape"),
    "fit: weights complex": (lambda m: m.fit(X, sample_weight=np.ones(60) * 1j), "sample_weight"),
}


@pytest.mark.parametrize("case, name", [(case, name) for case in CALLS for name in FIRST
                                        if "decode" not in case or coded(CASES[FIRST[name]][0])])
def test_arguments(name, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, words = CALLS[case]
    m = model(name)
    before = answers(m, X)
    with pytest.raises((*ERRORS, OSError), match=words) as caught:
        call(m)
    assert "\n" not in str(caught.value)
    assert same(answers(m, X), before)
    assert not os.listdir(tmp_path)


LOADS = {"None": None, "a file descriptor": 0, "a folder": os.curdir, "nothing": "", "no file": "nowhere",
         "a null byte": "a\0b",
         "a very long name": "x" * 5000, "a list": ["x"], "bytes that are no name": b"\xff"}


@pytest.mark.parametrize("case", LOADS)
def test_loads(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((npgen.LoadError, TypeError)) as caught:
        npgen.load(LOADS[case])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 6000


# ---------------------------------------------------------------- the command line

@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a model, data that fit it, and files that are no data."""
    folder = tmp_path_factory.mktemp("here")
    model("RealNVP").save(folder / "m")
    fresh(FIRST["RealNVP"], **SETTINGS["RealNVP"]).fit(data.Table(X, ["a", "b", "c"])).save(folder / "named")
    data.write(folder / "x.npy", X)
    data.write(folder / "x.csv", X)
    texts = {"empty.csv": "", "header.csv": "a,b,c\n", "words.csv": "a,b\nred,green\n", "short.csv": "1,2,3\n4,5\n",
             "missing.csv": "1,2,3\n4,,6\n", "nan.csv": "1,2,3\n4,nan,6\n", "inf.csv": "1,2,3\n4,inf,6\n", "one.csv": "1,2,3\n",
             "comma.csv": "1;2,5;3\n4;5,5;6\n", "binary.csv": "\0\1\2", "notes.md": "# notes", "x.npz": "not a zip",
             "bad.npy": "not numpy", "same.csv": "1.5,2.5,3.5\n" * 9, "constant.csv": "1.5,2.5\n" + "1.5,3.5\n" * 9,
             "twice.csv": "a,b,a\n1.5,2,3\n4,5,6\n", "unnamed.csv": "a,,\n1.5,2,3\n4,5,6\n",
             "other.csv": "a,b,z\n1.5,2,3\n4,5,6\n", "fewer.csv": "b,a\n1.5,2\n4,5\n"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    for name, array in {"nan.npy": put(np.nan), "flat.npy": X[0], "objects.npy": None, "complex.npy": X + 1j, "none.npy": X[:0],
                        "two.npy": X[:, :2], "words.npy": X.astype(str)}.items():
        np.save(folder / name, np.array([{}], dtype=object) if array is None else array, allow_pickle=array is None)
    (folder / "folder").mkdir()
    (folder / "cut").write_bytes((folder / "m").read_bytes()[:-3])
    return folder


NAMELESS = ["twice.csv", "unnamed.csv"]  # columns that have no names of their own
SOURCES = ["nowhere", "nowhere.csv", "", "empty.csv", "header.csv", "words.csv", "short.csv", "missing.csv", "nan.csv",
           "inf.csv", "comma.csv", "binary.csv", "notes.md",
           "x.npz", "bad.npy", "nan.npy", "flat.npy", "objects.npy", "complex.npy",
           "none.npy", "words.npy", "folder", "m"]
LINES = [
    "", "paint", "fit", "fit made", "fit made --data moons", "fit made --out o", "fit glow --data moons --out o",
    *[f"fit made --out o --data '{source}'" for source in [*SOURCES, "one.csv", "same.csv", "constant.csv"]],
    *[f"score m --data '{source}'" for source in [*SOURCES, "two.npy"]],
    *[f"encode m --out o.npy --data '{source}'" for source in ("nowhere", "nan.csv", "two.npy")],
    *[line for source in NAMELESS for line in (f"fit made --out o --data {source}", f"score m --data {source}",
                                               f"check realnvp --data {source}")],
    *[f"{command} --data {source}" for source in ("other.csv", "fewer.csv", "two.npy", *NAMELESS)
      for command in ("score named", "encode named --out o.npy", "check named")],
    *[f"{command}" for file in ("nowhere", "cut", "x.npy", "x.csv", "folder", "")
      for command in (f"info '{file}'", f"sample '{file}' --out o.npy", f"score '{file}' --data x.npy")],
    *[f"report m --out o.html --data '{source}'" for source in [*SOURCES, "two.npy"]],
    *[f"report m --data x.npy --out '{out}'" for out in ("", "o", "o.png", "folder", "nowhere/o.html")],
    *[f"report m --data x.npy --out o.html {more}" for more in ("--seed -1", "--rows -1", "--rows x", "--holdout two.npy")],
    "report m", "report nowhere --data x.npy --out o.html", "report named --data other.csv --out o.html",
    *[f"sample m --out o.npy -n {n}" for n in ("0", "-1", "2.5", "many", "1e3", "''")],
    *[f"sample m --out '{out}'" for out in ("", "o", "o.txt", "o.jpg", "folder", "nowhere/o.npy", "o.npy/x.npy")],
    "sample m --out o.npy --seed -1", "sample m --out o.npy --seed x", "sample m", "sample --out o.npy",
    "sample m --out o.npy extra",
    *[f"fit realnvp --data moons --out o {more}" for more in (
        "--epochs 0", "--epochs -1", "--epochs x", "--epochs 1.5", "--seed -1", "--seed x", "--set", "--set colour=1",
        "--set hidden", "--set =1", "--set hidden=0", "--set hidden=-1", "--set hidden=x", "--set n_couplings=0",
        "--set n_couplings=2.5",
        "--set learning_rate=0", "--set learning_rate=fast", "--set batch_size=0", "--set validation_fraction=1",
        "--set preprocess=whiten", "--set random_state=1", "--set verbose=1", "--set __class__=1", "--nonsense")],
    *[f"fit gmm --data moons --out o --set {setting}" for setting in (
        "n_components=0", "n_components=3000", "covariance_type=round", "tol=-1", "reg_covar=x", "n_init=0",
        "init_params=luck", "solver=luck", "means_init=3", "weights_init=3")],
    *[f"fit vae --data moons --out o --set {setting}" for setting in (
        "n_latent=0", "beta=-1", "n_importance=0", "head=cauchy", "head=bernoulli")],
    *[f"fit made --data moons --out o --set {setting}" for setting in (
        "order=sorted", "order=(0,0)", "hidden=()", "head=bernoulli")],
    "fit made --data moons --out nowhere/o", "fit made --data moons --out folder", "fit made --data moons --out ''",
    "check", "check nowhere", "check x.npy", "check m --data nowhere", "check m --data two.npy", "check glow",
    "check made --set colour=1", "check made --epochs 0", "info", "info m m", "config now", "demo --seed x",
]


def test_there_are_enough_bad_calls():
    n_api = 4 * (3 * len(TABLES | QUERY_ONLY) + len(TABLES | FIT_ONLY) + len(EXTREMES) + len(CALLS)) + len(LOADS)
    assert len(TABLES | QUERY_ONLY | FIT_ONLY | EXTREMES | CALLS) + len(LOADS) + len(set(LINES)) >= 250 and n_api > 800


@pytest.mark.parametrize("line", LINES)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_command_line_is_one_line_on_stderr(line, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    before = sorted(os.listdir(here))
    try:
        status = cli.main(shlex.split(line))
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    lines = [text for text in err.splitlines() if not text.startswith("npgen: warning: ")]
    assert status == 2 and not out, (status, out, err)
    assert len(lines) == 1 and lines[0].startswith("npgen: error: ") and 20 < len(lines[0]) < 600, err
    assert sorted(os.listdir(here)) == before
