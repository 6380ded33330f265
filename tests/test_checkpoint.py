"""checkpoint.py: what goes in comes out; any other file is one LoadError; a failed write leaves the old file."""
import json
import os
import pickle
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npgen import checkpoint

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(7), "mask": np.array([True, False])}
HEADER = {"class": "MADE", "hidden": [500], "learning_rate": 1e-3, "history": [1.5, float("inf")], "key": 2**64 - 1}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, ARRAYS, HEADER)
    return path


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_arrays_and_header_come_back(saved):
    arrays, header = checkpoint.read(saved)
    assert header == HEADER and list(arrays) == sorted(ARRAYS)
    assert all(same(arrays[k], ARRAYS[k]) for k in ARRAYS)
    assert all(a.flags.writeable for a in arrays.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.text(), st.text().map(lambda text: text + "\ud800\0"), st.floats(), st.integers(), st.booleans()),
                min_size=1, max_size=6), st.integers(1, 4))
def test_long_lists_come_back_as_they_were(tmp_path_factory, cells, times):
    """Of one type they are arrays in the file, and the JSON is short; of several types, or beyond 64 bits, they stay in it."""
    path, header = tmp_path_factory.mktemp("c") / "x", {}
    for kind in (str, float, int, bool):
        some = [cell for cell in cells if type(cell) is kind] or [kind(0)]
        header[kind.__name__] = {"list": [some * (checkpoint.LONG // len(some) + times)]}
    header["several"] = cells * checkpoint.LONG
    checkpoint.write(path, {"header": np.ones(1)}, header)
    arrays, back = checkpoint.read(path)
    assert repr(back) == repr(header) and list(arrays) == ["header"]


def test_a_million_texts_are_no_header(tmp_path):
    texts = [f"l{i}" * (i % 3) for i in range(10**6)]
    checkpoint.write(tmp_path / "x", {}, {"levels": texts})
    assert (tmp_path / "x").stat().st_size < 16e6 and checkpoint.read(tmp_path / "x")[1] == {"levels": texts}


@pytest.mark.parametrize("letters, counts", [(b"abc", [1, 1]), (b"abc", [4, -1]), (b"\xff", [1]), (b"ab", [1.0, 1.0]),
                                             (b"a", [])])
def test_texts_that_are_damaged_are_refused(tmp_path, letters, counts):
    checkpoint.write(tmp_path / "x", {}, {"a": np.frombuffer(letters, np.uint8), "b": np.array(counts), "c": {
        "__texts__": ["a", "b"]}})
    with pytest.raises(checkpoint.LoadError, match="has a damaged header"):
        checkpoint.read(tmp_path / "x")


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8),
                       hnp.arrays(st.sampled_from([bool, np.int8, np.uint64, np.float16, np.float32, np.float64]),
                                  hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)), max_size=4))
def test_every_dtype_and_shape_comes_back(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("c") / "x"
    checkpoint.write(path, arrays, {})
    back, _ = checkpoint.read(path)
    assert back.keys() == arrays.keys() and all(same(back[k], arrays[k]) for k in arrays)


@pytest.mark.parametrize("value", [
    np.arange(6.0).reshape(2, 3).T, np.arange(9)[::-2], np.arange(3, dtype=">f4"), np.asfortranarray(np.eye(3)[:2]),
], ids=["transposed", "reversed", "big-endian", "fortran"])
def test_memory_layout_does_not_matter(tmp_path, value):
    checkpoint.write(tmp_path / "x", {"a": value}, {})
    np.testing.assert_array_equal(checkpoint.read(tmp_path / "x")[0]["a"], value)


def test_same_content_gives_the_same_bytes(saved, tmp_path):
    checkpoint.write(tmp_path / "again", dict(reversed(ARRAYS.items())), HEADER)
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_safetensors_itself_reads_the_file(saved):
    from safetensors.numpy import load_file
    assert same(load_file(saved)["w"], ARRAYS["w"])


@pytest.mark.parametrize("arrays, header, message", [
    ({"a": np.array(["x"])}, {}, r"arrays\['a'\] has dtype <U1"),
    ({"a": np.array([None])}, {}, r"arrays\['a'\] has dtype object"),
    ({"a": np.array([1j])}, {}, r"arrays\['a'\] has dtype complex128"),
    ({"__metadata__": np.zeros(1)}, {}, r"arrays\['__metadata__'\] has the name that safetensors keeps"),
    ({}, {"x": np.float32(1)}, "header cannot be written as JSON .*float32"),
], ids=["text", "object", "complex", "reserved", "header"])
def test_what_the_file_cannot_hold_is_refused(tmp_path, arrays, header, message):
    with pytest.raises(TypeError, match=message):
        checkpoint.write(tmp_path / "x", arrays, header)
    assert os.listdir(tmp_path) == []


# arrays in the header

LAYOUTS = {"C": np.ascontiguousarray, "Fortran": np.asfortranarray, "reversed": lambda a: a[::-1].copy()[::-1],
           "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder())}


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.integers() | st.text(max_size=3) | hnp.arrays(
    st.sampled_from([bool, np.int8, np.uint64, np.float16, np.float32, np.float64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    st.sampled_from(sorted(LAYOUTS)))
def test_arrays_anywhere_in_a_header_come_back(tmp_path_factory, tree, layout):
    def same_tree(a, b):
        if isinstance(a, np.ndarray):
            return same(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same_tree(a[key], b[key]) for key in a)
        return len(a) == len(b) and all(map(same_tree, a, b)) if isinstance(a, list) else a == b

    def laid_out(a):
        if isinstance(a, dict):
            return {key: laid_out(value) for key, value in a.items()}
        return [*map(laid_out, a)] if isinstance(a, list) else LAYOUTS[layout](a) if np.ndim(a) else a

    path = tmp_path_factory.mktemp("h") / "x"
    checkpoint.write(path, ARRAYS, {"tree": laid_out(tree)})
    arrays, header = checkpoint.read(path)
    assert arrays.keys() == ARRAYS.keys() and same_tree(tree, header["tree"])
    assert checkpoint._metadata(path, path.read_bytes())[0]["format"] == checkpoint.FORMAT


def test_a_large_array_in_a_header_is_a_tensor(tmp_path):
    checkpoint.write(tmp_path / "x", {}, {"large": np.zeros((2000, 1000))})
    assert checkpoint.read(tmp_path / "x")[1]["large"].shape == (2000, 1000)
    from safetensors.numpy import load_file
    assert list(load_file(tmp_path / "x")) == ["header.0"]


@pytest.mark.parametrize("arrays, header, message", [
    ({}, {"a": np.array(["x"])}, r"arrays\['header.0'\] has dtype <U1"),
    ({}, {"a": np.array([1j])}, "has dtype complex128"),
    ({"header.0": np.ones(1)}, {"a": np.zeros(2)}, r"arrays\['header.0'\] has the name of an array in the header"),
], ids=["text", "complex", "taken"])
def test_arrays_that_a_header_cannot_hold(tmp_path, arrays, header, message):
    with pytest.raises(TypeError, match=message):
        checkpoint.write(tmp_path / "x", arrays, header)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["nowhere", 3, None, [], {}, "w twice"], ids=str)
def test_a_forged_name_of_an_array_is_a_load_error(tmp_path, name):
    entry = {"__array__": "w" if name == "w twice" else name}
    text = json.dumps({"sha256": "0" * 64, "format": 2, "header": {"a": entry, "b": entry}})
    forged(tmp_path / "x", metadata(text) | {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"abcd")
    blob = (tmp_path / "x").read_bytes()
    start = blob.index(b"0" * 64)
    (tmp_path / "x").write_bytes(blob.replace(b"0" * 64, checkpoint._digest(blob, start).encode()))
    with pytest.raises(checkpoint.LoadError, match="damaged header") as info:
        checkpoint.read(tmp_path / "x")
    assert "\n" not in str(info.value)


# every way a file can be wrong

def foreign(path):
    from safetensors.numpy import save_file
    save_file({"a": np.zeros(2)}, path)


def newer(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
        checkpoint.write(path, ARRAYS, HEADER | {"array": np.zeros(1)})


def metadata(text):
    return {"__metadata__": {"npgen": text}}


def forged(path, head, tail=b""):
    text = json.dumps(head).encode() if not isinstance(head, bytes) else head
    path.write_bytes(len(text).to_bytes(8, "little") + text + tail)


BAD = {
    "missing": (lambda p: p.unlink(), "cannot be read: No such file"),
    "folder": (lambda p: (p.unlink(), p.mkdir()), "cannot be read: Is a directory"),
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps(HEADER)), "is not a safetensors file"),
    "short": (lambda p: p.write_bytes(b"\x80\x04"), "is not a safetensors file"),
    "cut in the header": (lambda p: p.write_bytes(p.read_bytes()[:60]), "the header alone needs"),
    "cut in the arrays": (lambda p: p.write_bytes(p.read_bytes()[:-1]), r"is truncated \(\d+ bytes of"),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"x"), "was altered"),
    "one bit": (lambda p: p.write_bytes(p.read_bytes()[:-1] + bytes([p.read_bytes()[-1] ^ 1])), "was altered"),
    "edited header": (lambda p: p.write_bytes(p.read_bytes().replace(b"MADE", b"FADE")), "was altered"),
    "without npgen": (foreign, "has no npgen header"),
    "newer": (newer, "has format 4, this npgen reads up to 3; upgrade"),
    "json list": (lambda p: forged(p, [1]), "is not a safetensors file"),
    "deep json": (lambda p: forged(p, b"{\"a\":" + b"[" * 100000), "damaged header"),
    "huge header": (lambda p: p.write_bytes(b"\xff" * 8 + b"{}"), "is truncated"),
    "odd metadata": (lambda p: forged(p, metadata("3")), "damaged header"),
    "odd digest": (lambda p: forged(p, metadata('{"sha256":"\\ud800","format":1,"header":{}}')), "damaged header"),
    "odd format": (lambda p: forged(p, metadata('{"sha256":"0","format":"1","header":{}}')), "damaged header"),
    "odd offsets": (lambda p: forged(p, metadata("{}") | {"a": {"data_offsets": [0, "9"]}}), "damaged header"),
    "no digest": (lambda p: forged(p, metadata('{"sha256":"","format":1,"header":{}}')), "was altered"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_load_error_that_says_what_is_wrong(saved, case):
    spoil, message = BAD[case]
    spoil(saved)
    with pytest.raises(checkpoint.LoadError, match=message) as info:
        checkpoint.read(saved)
    assert str(saved) in str(info.value) and "\n" not in str(info.value)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_changed_byte_and_any_cut_is_detected(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("c") / "x"
    checkpoint.write(path, ARRAYS, HEADER)
    blob = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(blob) - 1))
    if data.draw(st.booleans()):
        blob[at] ^= data.draw(st.integers(1, 255))
    else:
        blob = blob[:at]
    path.write_bytes(blob)
    with pytest.raises(checkpoint.LoadError):
        checkpoint.read(path)


def test_a_forged_checksum_over_a_broken_file_is_still_a_load_error(tmp_path):
    text = json.dumps({"sha256": "0" * 64, "format": 1, "header": {}})
    tensor = {"dtype": "Q7", "shape": [9], "data_offsets": [0, 4]}
    forged(tmp_path / "x", metadata(text) | {"a": tensor}, b"abcd")
    blob = (tmp_path / "x").read_bytes()
    start = blob.index(b"0" * 64)
    (tmp_path / "x").write_bytes(blob.replace(b"0" * 64, checkpoint._digest(blob, start).encode()))
    with pytest.raises(checkpoint.LoadError, match="not a valid safetensors file"):
        checkpoint.read(tmp_path / "x")


# atomic writing

def raising(*args, **kwargs):
    raise OSError(28, "No space left on device")


class Full:
    """A file whose disk is full: part of the first write arrives."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.file.close()

    def write(self, chunk):
        self.file.write(bytes(chunk)[:10])
        raising()


@pytest.mark.parametrize("failing", ["write", "fsync", "replace", "copymode", "interrupt"])
def test_the_old_file_survives_any_failure_and_nothing_is_left_behind(saved, monkeypatch, failing):
    before = saved.read_bytes()
    if failing == "write":
        monkeypatch.setattr("builtins.open", lambda *a, open=open, **k: Full(open(*a, **k)))
    elif failing == "interrupt":
        monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(KeyboardInterrupt))
    else:
        monkeypatch.setattr(checkpoint.shutil if failing == "copymode" else os, failing, raising)
    with pytest.raises(KeyboardInterrupt if failing == "interrupt" else OSError):
        checkpoint.write(saved, {"w": np.zeros(1000)}, {})
    monkeypatch.undo()
    assert saved.read_bytes() == before and os.listdir(saved.parent) == [saved.name]


def test_the_file_is_on_disk_before_it_takes_the_name_and_the_folder_after(saved, monkeypatch):
    calls = []
    is_folder = {True: "folder", False: "file"}
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(is_folder[stat.S_ISDIR(os.fstat(fd).st_mode)]))
    monkeypatch.setattr(os, "replace", lambda a, b, replace=os.replace: (calls.append("replace"), replace(a, b)))
    checkpoint.write(saved, ARRAYS, HEADER)
    assert calls == ["file", "replace", "folder"]


def test_permissions_follow_the_umask_then_the_old_file(tmp_path):
    path, old = tmp_path / "x", os.umask(0o027)
    try:
        checkpoint.write(path, ARRAYS, HEADER)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        checkpoint.write(path, ARRAYS, HEADER)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(old)


def test_a_symbolic_link_stays_a_link(saved):
    link = saved.parent / "link"
    link.symlink_to(saved.name)
    checkpoint.write(link, {}, {"new": 1})
    assert link.is_symlink() and checkpoint.read(saved)[1] == {"new": 1}


def test_a_folder_is_not_written_over(tmp_path):
    with pytest.raises(ValueError, match="is not a regular file"):
        checkpoint.write(tmp_path, ARRAYS, HEADER)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .*nowhere does not exist; make it first"):
        checkpoint.write(tmp_path / "nowhere" / "x", ARRAYS, HEADER)
