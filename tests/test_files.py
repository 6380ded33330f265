"""Damaged and forged model files: 10,000 of them, and each is one LoadError, or a model that answers or refuses; soon, and
in little memory. Data files likewise: a DataError."""
import contextlib
import io
import json
import random
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from test_models import CASES, FIRST, fitted

import npgen
from npgen import checkpoint, data

SLOWEST = 1.0  # seconds of processor time
WEIRD = [None, True, -1, 0, 1, 3, 10**9, 10**30, 2**63, -2**63, 0.5, 1e308, "", "os.system", "../../etc/passwd", "\0", "é" * 50,
         [], [[]], {}, [0, -1], {"class": "Chain", "steps": []}, {"class": "os.system"}, [1] * 50, float("nan"), float("inf")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small model of every class in its file: {class: bytes}."""
    folder = tmp_path_factory.mktemp("files")
    for name, case in FIRST.items():
        fitted(case, np.float32)[0].save(folder / name)
    return {name: (folder / name).read_bytes() for name in FIRST}


def damaged(rng, blob):
    """Bytes cut, flipped, overwritten, inserted, moved."""
    blob, at = bytearray(blob), rng.randrange(len(blob))
    kind = rng.choice(["cut", "flip", "flips", "byte", "length", "insert", "delete", "swap", "zeros", "double", "head only"])
    if kind == "cut":
        del blob[at:]
    elif kind in ("flip", "flips"):
        for _ in range(1 if kind == "flip" else 20):
            blob[rng.randrange(len(blob))] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        blob[at] = (blob[at] + rng.randrange(1, 256)) % 256
    elif kind == "length":
        length = rng.choice([0, 1, len(blob), 2**24, 2**32, 2**63, 2**64 - 1, rng.randrange(len(blob))])
        blob[:8] = length.to_bytes(8, "little")
    elif kind == "insert":
        blob[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif kind == "delete":
        del blob[at:at + rng.randrange(1, 9)]
    elif kind == "swap":
        blob[at:], blob[:at] = blob[:len(blob) - at], blob[len(blob) - at:]
    elif kind == "zeros":
        blob[at:at + 64] = bytes(len(blob[at:at + 64]))
    elif kind == "double":
        blob = blob * 2
    else:
        del blob[8 + int.from_bytes(blob[:8], "little"):]
    return bytes(blob)


def places(tree, path=()):
    """Every place in nested dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def change(rng, tree, prefix=()):
    """Overwrite, remove or duplicate one random thing in nested dicts and lists."""
    *path, key = rng.choice([p for p in places(tree) if p[:len(prefix)] == prefix and p != prefix])
    for step in path:
        tree = tree[step]
    action = rng.random()
    if action < 0.15:
        del tree[key]
    elif action < 0.3 and isinstance(tree, list):
        tree.insert(key, tree[key])
    elif isinstance(tree[key], int) and action < 0.6:
        tree[key] += rng.choice([-1, 1, 8, -8])
    else:
        tree[key] = rng.choice(WEIRD)


def forge(rng, blob):
    """A file with something wrong inside and a checksum that is right."""
    head = 8 + int.from_bytes(blob[:8], "little")
    table, body = json.loads(blob[8:head]), bytearray(blob[head:])
    meta = json.loads(table.pop("__metadata__")["npgen"])
    kind = rng.choice(["header", "header", "table", "table", "names", "overlap", "twice", "numbers", "swap dtypes"])
    if kind == "header":
        change(rng, meta, ("header",))
    elif kind == "table":
        change(rng, table)
    elif kind == "names":
        a, b = rng.sample(sorted(table), 2)
        table[a], table[b] = table[b], table[a]
    elif kind == "overlap":
        a, b = rng.sample(sorted(table), 2)
        table[a]["data_offsets"] = table[b]["data_offsets"]
    elif kind == "twice":
        return sealed(meta, table, bytes(body), rng.choice(sorted(table)))
    elif kind == "numbers":
        for _ in range(5):
            at = rng.randrange(len(body) // 4) * 4
            body[at:at + 4] = rng.choice([np.float32(v).tobytes() for v in (np.nan, np.inf, 1e38, -1, 0)] + [b"\xff" * 4])
    else:
        table[rng.choice(sorted(table))]["dtype"] = rng.choice("F32 F64 I64 U8 BOOL F16 BF16 F8_E4M3 Q9".split())
    return sealed(meta, table, bytes(body))


def sealed(meta, table, body, twice=None):
    """The bytes of a file with the checksum that it needs; twice: the name of a tensor that its header has two times."""
    meta = {**meta, "sha256": "0" * 64}
    text = json.dumps({"__metadata__": {"npgen": json.dumps(meta)}, **table}).encode()
    if twice:
        text = text[:-1] + f', {json.dumps({twice: table[twice]})[1:]}'.encode()
    blob = len(text).to_bytes(8, "little") + text + body
    start = blob.index(b"0" * 64)
    return blob[:start] + checkpoint._digest(blob, start).encode() + blob[start + 64:]


def attempt(path, blob):
    """Load these bytes: the LoadError's text, or the model."""
    path.write_bytes(blob)
    times = []
    while not times or min(times) >= SLOWEST and len(times) < 3:  # anything takes longer on a busy machine
        begin = time.process_time()
        try:
            found = npgen.load(path)
        except npgen.LoadError as error:
            found = str(error)
            assert str(path) in found and len(found) < 1000 + len(str(path)) and "\n" not in found.replace("\\n", "")
        times.append(0 if tracemalloc.is_tracing() else time.process_time() - begin)
    assert min(times) < SLOWEST
    return found


def hundreds(law):
    """5,000 files, 250 at a time."""
    return pytest.mark.long(but={"part": [0]})(pytest.mark.parametrize("part", range(20))(law))


def traced(path, blob):
    """Load these bytes, twice: what attempt says, and the most memory that it took."""
    found = attempt(path, blob)
    tracemalloc.start()
    try:
        attempt(path, blob)
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@hundreds
def test_five_thousand_damaged_files_are_load_errors(files, tmp_path, part):
    rng = random.Random(part)
    for i in range(250):
        name = rng.choice(sorted(files))
        blob = damaged(rng, files[name])
        found = attempt(tmp_path / "x", blob)
        assert isinstance(found, str) or blob == files[name], f"file {i} loads"


@hundreds
def test_five_thousand_forged_files_are_load_errors_or_models_that_answer_or_refuse(files, tmp_path, part):
    rng, loaded = random.Random(part), 0
    for i in range(250):
        name = rng.choice(sorted(files))
        found = attempt(tmp_path / "x", forge(rng, files[name]))
        if isinstance(found, str):
            continue
        loaded += 1
        if i % 5 == 0:
            x = CASES[FIRST[name]][1][:3]
            for ask in (lambda: found.log_prob(x), lambda: found.sample(2, rng=0), lambda: found.encode(x)):  # noqa: B023
                with contextlib.suppress(ValueError, TypeError), np.errstate(all="ignore"):
                    ask()
    assert 0 < loaded < 200  # a changed hyperparameter makes no file invalid


def test_every_number_of_a_header_may_be_at_the_edge_of_floats(files, tmp_path):
    """Python's own arithmetic raises OverflowError and ZeroDivisionError, which are no answers."""
    tried = loaded = 0
    for name, blob in files.items():
        meta, table, body = parts(blob)
        x = CASES[FIRST[name]][1][:3]
        for *path, key in places(meta["header"]):
            tree = meta["header"]
            for step in path:
                tree = tree[step]
            number = tree[key]
            if not isinstance(number, float):
                continue
            for edge in (1e308, 5e-324, -1e308):
                tree[key], tried = edge, tried + 1
                found = attempt(tmp_path / "x", sealed(meta, table, body))
                if not isinstance(found, str):
                    loaded += 1
                    with np.errstate(all="ignore"):
                        for ask in (lambda: found.log_prob(x), lambda: found.sample(2, rng=0), lambda: found.encode(x)):  # noqa: B023
                            with contextlib.suppress(ValueError, TypeError):
                                ask()
            tree[key] = number
    assert tried > 100 and loaded > 0


@pytest.mark.parametrize("make", [damaged, forge])
def test_files_with_arrays_among_the_hyperparameters(tmp_path, make, monkeypatch):
    start = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    model = npgen.GaussianMixture(2, means_init=start, weights_init=start[1, :2], random_state=0)
    model.fit(np.random.default_rng(0).normal(size=(60, 4))).save(tmp_path / "good")
    good, rng = (tmp_path / "good").read_bytes(), random.Random(4)
    assert sorted(json.loads(good[8:8 + int.from_bytes(good[:8], "little")]))[1:4] == ["centre_", "floor_", "header.0"]
    weird = [{"__array__": name} for name in ("header.0", "header.1", "params.means", "centre_", "x")]
    monkeypatch.setitem(globals(), "WEIRD", weird)
    loaded = 0
    for _ in range(250):
        blob = make(rng, good)
        found = attempt(tmp_path / "x", blob)
        assert isinstance(found, str) or make is forge or blob == good
        loaded += not isinstance(found, str)
    assert make is damaged or 0 < loaded < 200
    if make is forge:
        meta, table, body = parts(good)
        meta["header"]["class"] = weird[2]
        assert "of an unknown class" in attempt(tmp_path / "x", sealed(meta, table, body))


def test_loading_takes_memory_for_the_file_and_little_more(files, tmp_path):
    rng = random.Random(2)
    for make in (damaged, forge):
        for _ in range(150):
            blob = make(rng, files[rng.choice(sorted(files))])
            assert traced(tmp_path / "x", blob)[1] < 12 * len(blob) + 2**20


RESHAPED = {
    "twice as long": lambda a: np.concatenate([a, a]) if a.ndim else a[None],
    "of an axis more": lambda a: a[None],
    "of no rows": lambda a: a[:0],
    "flat": np.ravel,
    "transposed": np.transpose,
    "not finite": lambda a: np.full_like(a, np.nan),
    "missing": lambda a: None,
}


@pytest.mark.parametrize("wrong", RESHAPED)
@pytest.mark.parametrize("case", [*FIRST.values(), "Mixture, of all heads", "GaussianMixture, tied",
                                  "GaussianMixture, spherical, 1 feature"])
def test_an_array_that_does_not_fit_the_header_is_a_load_error(case, wrong, tmp_path):
    fitted(case, np.float32)[0].save(tmp_path / "good")
    arrays, header = checkpoint.read(tmp_path / "good")
    for name in [name for name, a in arrays.items() if a.dtype.kind == "f" and a.ndim]:
        bad = RESHAPED[wrong](arrays[name])
        same = bad is not None and bad.squeeze().shape == arrays[name].squeeze().shape and np.isfinite(bad).all()
        if same and (bad.shape == arrays[name].shape or name.startswith("preprocess.")):
            continue
        checkpoint.write(tmp_path / "bad", {k: a for k, a in (arrays | {name: bad}).items() if a is not None}, header)
        with pytest.raises(npgen.LoadError, match="the header and the arrays do not make a"):
            npgen.load(tmp_path / "bad")


@pytest.mark.parametrize("changed", [{"kinds_": ["normal"]}, {"kinds_": "normal"}, {"kinds_": ["poisson"] * 6},
                                     {"levels_": [2]}, {"levels_": [2, 2, 3, 10**12]}, {"levels_": [2, 2, 3, 0]},
                                     {"levels_": [2, 2, 3, [0, 1, 1]]}, {"levels_": [2, 2, 3, "012"]},
                                     {"levels_": [2, 2, [[0], [1]], 3]}, {"levels_": None}, {"n_features_in_": 5},
                                     {"n_batches_": "many"}, {"converged_": 1}, {"lower_bound_": None},
                                     {"feature_names_in_": ["a"]}, {"feature_names_in_": 3}], ids=str)
def test_a_header_that_does_not_fit_a_mixtures_arrays_is_a_load_error(changed, tmp_path):
    fitted("Mixture, of all heads", np.float32)[0].save(tmp_path / "good")
    arrays, header = checkpoint.read(tmp_path / "good")
    header["fitted"] |= changed
    checkpoint.write(tmp_path / "bad", arrays, header)
    with pytest.raises(npgen.LoadError, match="the header and the arrays do not make a Mixture"):
        npgen.load(tmp_path / "bad")


def parts(blob):
    head = 8 + int.from_bytes(blob[:8], "little")
    table = json.loads(blob[8:head])
    return json.loads(table.pop("__metadata__")["npgen"]), table, blob[head:]


BOMBS = {
    "widths that no memory holds": lambda fitted: fitted.update(hidden_=[10**7, 10**7]),
    "a width that no integer holds": lambda fitted: fitted.update(hidden_=[10**40]),
    "columns that no memory holds": lambda fitted: fitted.update(n_features_in_=10**12),
    "columns that are no number": lambda fitted: fitted.update(n_features_in_=2.0),
    "a dtype with a field": lambda fitted: fitted.update(dtype_="O"),
    "a chain of chains": lambda fitted: fitted.update(preprocess_=nested(300)),
    "a longer history": lambda fitted: fitted.update(history_=[{}] * 100_000),
}


def nested(depth):
    config = {"class": "Chain", "steps": []}
    for _ in range(depth):
        config = {"class": "Chain", "steps": [config]}
    return config


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", FIRST)
def test_a_forged_size_is_refused_before_anything_of_that_size_is_made(files, tmp_path, name, bomb):
    meta, table, body = parts(files[name])
    BOMBS[bomb](meta["header"]["fitted"])
    blob = sealed(meta, table, body)
    assert traced(tmp_path / "x", blob)[1] < 25 * len(blob) + 2**22


@pytest.mark.parametrize("text", [b"[" * 10**6, b'{"a":' * 10**5, b'{"a":' + b"[" * 10**6, b"{" + b" " * 2**24 + b"}",
                                  b'{"a":[' + b"[]," * 200_000 + b"[]]}",
                                  b'{"a":1' + b"0" * 10**5 + b"}", b'{"a":"' + b"x" * 10**6],
                         ids=["deep list", "deep dict", "deep in a dict", "spaces", "many", "long number", "open string"])
def test_odd_json_is_a_load_error(tmp_path, text):
    blob = len(text).to_bytes(8, "little") + text
    found, peak = traced(tmp_path / "x", blob)
    assert isinstance(found, str) and peak < 45 * len(blob) + 2**20


@pytest.mark.parametrize("name", FIRST)
def test_a_tensor_that_is_there_twice_is_a_load_error(files, tmp_path, name):
    meta, table, body = parts(files[name])
    assert isinstance(attempt(tmp_path / "x", sealed(meta, table, body)), npgen.models.base.Model)
    assert "damaged header" in attempt(tmp_path / "x", sealed(meta, table, body, twice=min(table)))


def test_a_header_is_never_larger_than_what_is_read(tmp_path):
    with pytest.raises(TypeError, match="header takes more than 16,777,216 bytes"):
        checkpoint.write(tmp_path / "x", {}, {"a": "x" * 2**24})
    assert not list(tmp_path.iterdir())


def test_nothing_is_imported_or_evaluated_by_name(files, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("os.system", lambda *a: calls.append(a))
    for name, where in (("os.system", ("class",)), ("os.system", ("fitted", "preprocess_", "class")),
                        ("__import__('os').system('x')", ("params", "hidden")), ("os.system", ("fitted", "head_")),
                        ("os.system", ("fitted", "covariance_type_"))):
        for blob in files.values():
            meta, table, body = parts(blob)
            place = meta["header"]
            for key in where[:-1]:
                place = place[key]
            place[where[-1]] = name
            attempt(tmp_path / "x", sealed(meta, table, body))
    assert not calls


# ---------------------------------------------------------------- data files

def test_two_thousand_damaged_data_files_are_data_errors_or_data(tmp_path):
    x = np.arange(60.0).reshape(20, 3)
    for suffix in (".npy", ".npz", ".csv"):
        data.write(tmp_path / f"good{suffix}", x)
    idx = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (5, 4, 3)) + bytes(range(60))
    (tmp_path / "good-idx3-ubyte").write_bytes(idx)
    rng = random.Random(3)
    for _ in range(2000):
        name = rng.choice(["good.npy", "good.npz", "good.csv", "good-idx3-ubyte"])
        path = tmp_path / name.replace("good", "bad")
        path.write_bytes(damaged(rng, (tmp_path / name).read_bytes()))
        begin = time.process_time()
        try:
            found = data.load(path)
            assert found.ndim == 2 and found.dtype.kind in "biuf"
        except data.DataError as error:
            assert "bad" in str(error) and "\n" not in str(error)
        assert time.process_time() - begin < SLOWEST


def test_a_decompression_bomb_is_refused_unopened(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**37, 8)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(10**7))
    tracemalloc.start()
    with pytest.raises(data.DataError, match="truncated"):
        data.load(tmp_path / "bomb.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21
