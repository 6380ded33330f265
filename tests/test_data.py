"""data.py: built-in data are what they say; files read as written; every fault names file, row and column."""
import contextlib
import gzip
import io
import os
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import npgen
from npgen import data
from npgen.data import DataError

X = np.array([[1.5, -2.0], [0.1, 1e-30], [3e20, 7.0]])


def idx(array, code=8, dtype=">u1"):
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.astype(dtype).tobytes()


def npy(array, **header):
    file = io.BytesIO()
    plain = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, plain | header)
    return file.getvalue() + array.tobytes()


def npz(**entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


# built-in data

def test_digits_are_the_published_ones():
    sklearn = pytest.importorskip("sklearn.datasets")
    x, y = data.digits()
    theirs = sklearn.load_digits()
    np.testing.assert_array_equal(x, theirs.data)
    np.testing.assert_array_equal(y, theirs.target)
    assert x.dtype == np.float32 and y.dtype == np.int64
    np.testing.assert_array_equal(data.load("digits", n=5), x[:5])


def test_digits_carry_their_attribution():
    text = (Path(npgen.__file__).parent / "_assets" / "digits.txt").read_text()
    assert "Alpaydin" in text and "CC BY 4.0" in text and "https://creativecommons.org/licenses/by/4.0/" in text


@pytest.mark.parametrize("name", data.TOYS)
def test_toy_densities_are_seeded(name):
    x = data.load(name, n=500, seed=3)
    assert x.shape == (500, 2) and x.dtype == np.float64 and np.abs(x).max() < 5
    np.testing.assert_array_equal(x, data.load(name, n=500, seed=3))
    assert not np.isin(x, data.load(name, n=500, seed=4)).any()
    assert data.load(name).shape == (2000, 2)


def radius(x):
    return np.hypot(*x.T)


@pytest.mark.parametrize("name, holds", [
    ("moons", lambda x: np.minimum(abs(radius(x + [1, 0.5]) - 2), abs(radius(x - [1, -0.5]) - 2)) < 1.2),
    ("rings", lambda x: abs(radius(x)[:, None] - 0.75 * np.arange(1, 5)).min(axis=1) < 0.375),
    ("pinwheel", lambda x: radius(x) < 6),
    ("checkerboard", lambda x: np.floor(x / 2).sum(axis=1) % 2 == 0),
    ("eight-gaussians", lambda x: abs(radius(x) - 3) < 1.5),
], ids=data.TOYS)
def test_toy_densities_lie_where_their_docstrings_say(name, holds):
    assert holds(data.load(name, n=4000)).all()


# files that read well

FILES = {
    "a.npy": npy(X), "a.NPY": npy(X), "be.npy": npy(X.astype(">f8")),
    "f.npy": npy(np.array(X.T), shape=(3, 2), fortran_order=True),
    "one.npz": npz(anything=npy(X)), "x.npz": npz(other=npy(X[:1]), x=npy(X)),
    "data.npz": npz(y=npy(X[0]), data=npy(X)),
    "a.csv": b"1.5,-2\n0.1,1e-30\n3e20,7\n", "header.csv": b"a,b\n1.5,-2\n0.1,1e-30\n3e20,7\n",
    "years.csv": b"1990,year\n1.5,-2\n0.1,1e-30\n3e20,7\n", "semicolon.csv": b"1.5;-2\n0.1;1e-30\n3e20;7",
    "tab.csv": b"a b\tc,d\n1.5\t-2\n0.1\t1e-30\n3e20\t7\n", "tab.tsv": b"1.5\t-2\n0.1\t1e-30\n3e20\t7\n",
    "quoted.csv": b'"a;1","b"\n"1.5",-2\n0.1,"1e-30"\n3e20,7\n', "space.csv": b"a, b\n 1.5, -2 \n0.1, 1e-30\n3e20, 7\n",
    "windows.csv": b"\xef\xbb\xbfa,b\r\n1.5,-2\r\n0.1,1e-30\r\n3e20,7\r\n",
    "blank.csv": b"\n\na,b\n\n1.5,-2\n0.1,1e-30\n\n3e20,7\n\n",
    "a.csv.gz": gzip.compress(b"a,b\n1.5,-2\n0.1,1e-30\n3e20,7\n"),
    "f8.idx": idx(X, 14, ">f8"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_read_as_written(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    x = data.load(tmp_path / name)
    np.testing.assert_array_equal(x, X)
    assert x.dtype == np.float64 and x.dtype.isnative
    np.testing.assert_array_equal(data.load(str(tmp_path / name), n=2), X[:2])


def test_npy_is_memory_mapped(tmp_path):
    np.save(tmp_path / "x.npy", X)
    assert isinstance(data.load(tmp_path / "x.npy"), np.memmap)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images.idx3-ubyte.gz", "images.idx"])
def test_idx_images_become_rows(tmp_path, name):
    images = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    (tmp_path / name).write_bytes(gzip.compress(idx(images)) if name.endswith("gz") else idx(images))
    x = data.load(tmp_path / name)
    np.testing.assert_array_equal(x, images.reshape(3, 20))
    assert x.dtype == np.uint8


def test_single_row_and_single_column(tmp_path):
    (tmp_path / "row.csv").write_text("a,b\n1,2\n")
    (tmp_path / "column.csv").write_text("1\n2\n")
    assert data.load(tmp_path / "row.csv").tolist() == [[1, 2]]
    assert data.load(tmp_path / "column.csv").tolist() == [[1], [2]]


# files that do not

DEEP = b"[" * 5000
BAD = {
    "text.csv": (b"a,species\n1,2\n3,setosa\n", r"row 2 \(line 3\), column 2 \('species'\) is 'setosa', not a number"),
    "all-text.csv": (b"a,b\nx,1\ny,2\n", r"row 1 \(line 2\), column 1 \('a'\) is 'x', not a number"),
    "hole.csv": (b"1,2\n\n3,\n", r"row 2 \(line 3\), column 2 is empty; correct it, or remove the row or the column"),
    "first.csv": (b"1,?\n3,4\n", r"row 1 \(line 1\), column 2 is '\?', not a number"),
    "comma.csv": (b"1,5;2\n1;2\n", r"row 1 \(line 1\), column 1 is '1,5', not a number"),
    "underscore.csv": (b"1,2\n1_0,2\n", r"row 2 \(line 2\), column 1 is '1_0', not a number"),
    "long.csv": (b"1,2\n" + b"z" * 5000 + b",2\n", "'z{40}', not"),
    "ragged.csv": (b"1,2\n3,4\n5\n", r"row 3 \(line 3\) has 1 columns, row 1 has 2; correct or remove it"),
    "wide.csv": (b"a,b\n3,4\n5,6,7\n", r"row 2 \(line 3\) has 3 columns, the header has 2"),
    "header.csv": (b"a,b,c\n3,4\n5,6\n", r"row 1 \(line 2\) has 2 columns, the header has 3"),
    "nan.csv": (b"a,b\n\n1,2\n3,NaN\n", r"row 2 \(line 4\), column 2 \('b'\) is nan; fill it in or remove the row"),
    "inf.csv": (b"1,2\n1e999,3\n", r"row 2 \(line 2\), column 1 is inf; fill it in"),
    "misspelt.csv": (b"1.o,2\n3,4\n", r"row 1 \(line 1\), column 1 is '1.o', not a number"),
    "empty.csv": (b"", "is empty$"),
    "blank.csv": (b"\n \n", "has no rows"),
    "names.csv": (b"a,b\n\n", "has a header but no rows"),
    "latin.csv": (b"1,2\n3,\xff\n", "is no UTF-8 text .byte 0xff in line 2.; save it as UTF-8"),
    "cut.csv.gz": (gzip.compress(os.urandom(9000).hex().encode())[:-2000], "is damaged or not what its name says"),
    "not.csv.gz": (b"1,2\n", "is damaged or not what its name says .Not a gzipped file"),
    "empty.npy": (b"", "is empty$"),
    "text.npy": (b"hello, here is no array", "is damaged or not what its name says .*magic string"),
    "cut.npy": (npy(X)[:-1], r"is truncated: shape \(3, 2\) takes 48 bytes, it has 47; use another copy"),
    "bomb.npy": (npy(X, shape=(10**9, 10**9)), "is truncated: .* takes 8000000000000000000 bytes, it has 48"),
    "negative.npy": (npy(X, shape=(-3, -2)), "at least one row"),
    "deep.npy": (b"\x93NUMPY\x01\x00" + struct.pack("<H", 5000) + DEEP, "is damaged or not what its name says"),
    "object.npy": (npy(np.zeros(6), descr="|O", shape=(3, 2)), "holds Python objects, which are never loaded; save"),
    "string.npy": (npy(np.array([["a", "b"]])), "holds <U1, not numbers; save an array of floats or integers"),
    "complex.npy": (npy(X * 1j), "holds complex128, not numbers"),
    "vector.npy": (npy(X[0]), r"has shape \(2,\); reshape it to \(rows, columns\)"),
    "cube.npy": (npy(np.zeros((2, 3, 4))), r"has shape \(2, 3, 4\); reshape it to \(rows, columns\)"),
    "norows.npy": (npy(X[:0]), r"has shape \(0, 2\): it needs at least one row and one column"),
    "nan.npy": (npy(np.where(X == 7, np.nan, X)), r"row 3, column 2 \(x\[2, 1\]\) is nan; fill it in or remove"),
    "inf.npz": (npz(a=npy(np.where(X == 7, -np.inf, X))), r"row 3, column 2 \(x\[2, 1\]\) is -inf"),
    "names.npz": (npz(a=npy(X), b=npy(X)), "holds a, b; save one, or name the one to read x"),
    "nothing.npz": (npz(), "holds nothing; save one"),
    "vector.npz": (npz(x=npy(X[0]), y=npy(X)), r"vector.npz\[x\] has shape \(2,\)"),
    "object.npz": (npz(x=npy(np.zeros(6), descr="|O", shape=(3, 2))), "holds Python objects, which are never loaded"),
    "bomb.npz": (npz(x=npy(X, shape=(10**6, 10**6))), "is truncated: .* takes 8000000000000 bytes"),
    "cut.npz": (npz(x=npy(X))[:-30], "is damaged or not what its name says .File is not a zip file"),
    "text.npz": (b"hello", "is damaged or not what its name says .File is not a zip file"),
    "foreign.npz": (npz(x=b"hello, here is no array"), "is damaged or not what its name says .*magic string"),
    "labels-idx1-ubyte": (idx(np.arange(4)), r"has shape \(4,\); reshape"),
    "cut-idx3-ubyte": (idx(np.zeros((2, 3, 4)))[:-1], r"is truncated: shape \(2, 12\) takes 24 bytes, it has fewer"),
    "cut-idx3-ubyte.gz": (gzip.compress(idx(np.zeros((2, 3, 4)))[:-1]), "is truncated"),
    "bomb-idx3-ubyte.gz": (gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31)), "is truncated"),
    "text-idx3-ubyte": (b"hello", "is not an idx file: it begins with 68 65 6c 6c; give the file as published"),
    "header-idx3-ubyte": (idx(np.zeros((2, 3, 4)))[:9], "is damaged"),
    "nan.idx": (idx(np.array([[1, np.nan]]), 13, ">f4"), r"row 1, column 2 \(x\[0, 1\]\) is nan"),
    "a.npy.gz": (gzip.compress(npy(X)), "unpack it first"),
    "a.xlsx": (b"PK", "has no known format; give a .npy, .npz, .csv or idx file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_that_says_where_and_what_to_do(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    with pytest.raises(DataError, match=message) as info:
        data.load(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(info.value).startswith(str(tmp_path / name)) and "\n" not in str(info.value)
    assert peak < 20e6


def test_a_corrupted_zip_entry_is_found(tmp_path):
    blob = bytearray(npz(x=npy(np.random.default_rng(0).normal(size=(100, 2)))))
    blob[600] ^= 255
    (tmp_path / "x.npz").write_bytes(blob)
    with pytest.raises(DataError, match="x.npz is damaged"):
        data.load(tmp_path / "x.npz")


@pytest.mark.parametrize("source, options, message", [
    ("mnist", {}, "mnist: no such file, nor built-in data of that name; built in are digits, moons, rings, pin"),
    ("missing.csv", {}, "missing.csv: no such file"),
    (".", {}, r"\. is not a file"),
    ("digits", {"n": 1798}, "digits has 1797 rows; ask for no more"),
    ("moons", {"n": 0}, "n is 0; ask for at least one row"),
], ids=["name", "file", "folder", "too many", "none"])
def test_what_cannot_be_loaded(source, options, message):
    with pytest.raises(DataError, match=message):
        data.load(source, **options)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["a.npy", "a.csv", "one.npz", "a.csv.gz", "f8.idx"]), st.data())
def test_any_damage_reads_or_is_a_data_error(tmp_path_factory, name, draw):
    blob = bytearray(FILES[name])
    for _ in range(draw.draw(st.integers(1, 3))):
        blob[draw.draw(st.integers(0, len(blob) - 1))] = draw.draw(st.integers(0, 255))
    blob = blob[:draw.draw(st.integers(0, len(blob)))]
    path = tmp_path_factory.mktemp("d") / name
    path.write_bytes(blob)
    try:
        x = data.load(path)
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert x.ndim == 2 and np.isfinite(x).all()


def test_memory_maps_are_checked_in_blocks(tmp_path, monkeypatch):
    x = np.zeros((1000, 3))
    x[777, 1] = np.inf
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(data.table, "_BLOCK", 50)
    with pytest.raises(DataError, match=r"row 778, column 2 \(x\[777, 1\]\)"):
        data.load(tmp_path / "x.npy")


# writing

@settings(max_examples=100, deadline=None)
@given(hnp.arrays(st.sampled_from([np.float32, np.float64, np.int64, np.uint8, bool]),
                  hnp.array_shapes(min_dims=2, max_dims=2)), st.sampled_from(data.OUTPUTS))
def test_what_is_written_reads_back_the_same(tmp_path_factory, x, suffix):
    x = np.nan_to_num(x, posinf=1, neginf=1) if x.dtype.kind == "f" else x % 2**53 if x.dtype == np.int64 else x
    path = tmp_path_factory.mktemp("w") / f"x{suffix}"
    data.write(path, x)
    back = data.load(path)
    np.testing.assert_array_equal(back.astype(x.dtype), x)
    assert suffix == ".csv" or back.dtype == x.dtype


def test_csv_is_short_and_a_vector_is_a_column(tmp_path):
    data.write(tmp_path / "a.csv", np.array([[0.1, 3]], np.float32))
    data.write(tmp_path / "b.csv", np.array([1, 2]))
    assert (tmp_path / "a.csv").read_text() == "0.1,3.0\n" and (tmp_path / "b.csv").read_text() == "1\n2\n"


@pytest.mark.parametrize("suffix", data.OUTPUTS)
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"x{suffix}"
    data.write(path, X)
    before = path.read_bytes()

    def fail(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        data.write(path, X + 1)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name, array, message", [
    ("x.xlsx", X, "x.xlsx has no known format; end its name in .npy, .npz, .csv"),
    ("x.npy", X[None], r"float64 of shape \(1, 3, 2\) cannot be written; give numbers \(n, d\)"),
    ("x.npy", np.array([[None]]), "object of shape"),
], ids=["format", "cube", "object"])
def test_what_cannot_be_written(tmp_path, name, array, message):
    with pytest.raises(DataError, match=message):
        data.write(tmp_path / name, array)
    assert os.listdir(tmp_path) == []


# names of columns

NAMED = {
    "a.csv": b"a, b\n1.5,-2\n0.1,1e-30\n3e20,7\n", "quoted.csv": b'"a";"b"\n1.5;-2\n0.1;1e-30\n3e20;7\n',
    "a.npz": npz(x=npy(X), columns=npy(np.array(["a", "b"]))),
}


def structured(dtype):
    rows = np.empty(3, dtype)
    for j, name in enumerate(rows.dtype.names):
        rows[name] = X[:, j]
    return npy(rows, descr=np.lib.format.dtype_to_descr(rows.dtype))


NAMED["fields.npy"] = structured([("a", "f8"), ("b", ">f8")])
NAMED["fields.npz"] = npz(anything=structured([("a", "f8"), ("b", "f8")]))


@pytest.mark.parametrize("name", NAMED)
def test_files_keep_the_names_of_their_columns(tmp_path, name):
    (tmp_path / name).write_bytes(NAMED[name])
    table = data.load_table(tmp_path / name)
    assert table.columns == ["a", "b"] and table.shape == (3, 2) and len(table) == 3
    np.testing.assert_array_equal(table, X)
    np.testing.assert_array_equal(data.load(tmp_path / name), X)
    assert table[["b"]].columns == ["b"] and np.array_equal(table[["b", "a"]], X[:, ::-1])
    assert data.load_table(tmp_path / name, n=2).shape == (2, 2)


@pytest.mark.parametrize("name", ["a.npy", "one.npz", "a.csv", "f8.idx"])
def test_files_without_names_have_none(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    assert data.load_table(tmp_path / name).columns is None and data.load_table("moons").columns is None


@pytest.mark.parametrize("name, content, message", [
    ("x.csv", b"a,b,c,a\n1,2,3,4\n", "x.csv: columns 1 and 4 are both named 'a'; give each a name of its own"),
    ("x.csv", b"a,, \n1,2,3\n", "x.csv: columns 2 and 3 are both named ''"),
    ("x.npz", npz(x=npy(X), columns=npy(np.array(["a", "a"]))), "columns 1 and 2 are both named 'a'"),
    ("x.npz", npz(x=npy(X), columns=npy(np.array(["a", "b", "c"]))), "x.npz has 3 names for 2 columns"),
    ("x.npy", npy(np.zeros(3, [("a", "f8"), ("b", "U3")]), descr=[("a", "<f8"), ("b", "<U3")]), "not numbers; save"),
    ("x.npy", npy(np.zeros(3, [("a", "f8", 2)]), descr=[("a", "<f8", (2,))]), "not numbers; save"),
    ("x.npy", npy(np.zeros((3, 1), [("a", "f8")]), descr=[("a", "<f8")]), r"has shape \(3, 1, 1\); reshape"),
    ("x.npy", npy(np.zeros(1, [("a", "f8")]), descr=[("a", "<f8")], shape=(10**12,)), "is truncated"),
], ids=range(8))
def test_names_that_cannot_be(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as info:
        data.load_table(tmp_path / name)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("key", ["z", 0, ["a", 1], ["a", "z"], np.zeros((2, 2), int)])
def test_a_table_says_what_it_takes(key):
    with pytest.raises(KeyError, match="a Table takes one or a list of its columns .'a', 'b'., or a slice or an array"):
        data.Table(np.eye(2), ["a", "b"])[key]
    assert data.Table(np.eye(2), None)[[1]].rows.tolist() == [[0, 1]]


def test_a_column_of_a_table_is_an_array_of_a_dtype_of_its_own():
    mixed = data.Table(np.array([[1, "x", 0.5], [2, "yes", 1]], object), ["a", "b", "c"])
    assert [mixed[name].dtype.kind for name in mixed.columns] == ["i", "U", "f"] and mixed["b"].tolist() == ["x", "yes"]
    assert data.Table(np.eye(2), ["a", "b"])["b"].tolist() == [0, 1]


@pytest.mark.parametrize("rows", [slice(1, 9, 2), [3, 1], np.array([3, 1]), np.arange(20) % 3 == 0, [], slice(0)], ids=str)
def test_rows_of_a_table_are_a_table(rows):
    x = np.arange(40.0).reshape(20, 2)
    part = data.Table(x, ["a", "b"])[rows]
    assert part.columns == ["a", "b"] and np.array_equal(part.rows, x[rows])


def test_a_table_is_split_as_its_rows_are():
    x = np.arange(40.0).reshape(20, 2)
    for part, rows in zip(data.train_test_split(data.Table(x, ["a", "b"])), data.train_test_split(x), strict=True):
        assert part.columns == ["a", "b"] and np.array_equal(part.rows, rows)


def test_strings_that_are_no_names_are_nothing_to_load(tmp_path):
    (tmp_path / "x.npz").write_bytes(npz(x=npy(X), columns=npy(np.array(["a", "b", "c"]))))
    np.testing.assert_array_equal(data.load(tmp_path / "x.npz"), X)


@pytest.mark.parametrize("columns", [np.arange(2), np.array([["a", "b"]]), np.array([1j, 2])], ids=str)
def test_an_entry_columns_that_is_no_names_is_nothing(tmp_path, columns):
    (tmp_path / "x.npz").write_bytes(npz(x=npy(X), columns=npy(columns)))
    assert data.load_table(tmp_path / "x.npz").columns is None


def test_a_bomb_of_names_is_not_opened(tmp_path):
    (tmp_path / "x.npz").write_bytes(npz(x=npy(X), columns=npy(np.array(["a"]), shape=(10**12,))))
    tracemalloc.start()
    assert data.load_table(tmp_path / "x.npz").columns is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5).map(str.strip), min_size=1,
                max_size=4, unique=True), st.sampled_from([".csv", ".npz"]))
def test_names_that_are_written_are_read_back(tmp_path_factory, names, suffix):
    path, x = tmp_path_factory.mktemp("n") / f"x{suffix}", np.arange(2.0 * len(names)).reshape(2, -1)
    header = any(map(data.text.is_name, names))
    with contextlib.nullcontext() if header or suffix == ".npz" else pytest.warns(UserWarning, match="has no header"):
        data.write(path, x, names)
    table = data.load_table(path)
    np.testing.assert_array_equal(table, x)
    one_line = [" ".join(name.splitlines()).strip() for name in names]
    assert table.columns == (names if suffix == ".npz" else one_line if header else None)


# helpers

def test_split_is_a_partition_and_labels_split_alike():
    x, y = data.digits()
    train, test = data.train_test_split(x, 0.2, seed=0)
    assert len(train) == 1438 and len(test) == 359
    index_train, index_test = data.train_test_split(np.arange(len(x)), 0.2, seed=0)
    assert sorted([*index_train, *index_test]) == list(range(len(x)))
    np.testing.assert_array_equal(x[index_test], test)
    np.testing.assert_array_equal(x[index_train], train)
    assert not np.array_equal(index_test, data.train_test_split(np.arange(len(x)), 0.2, seed=1)[1])
    with pytest.raises(ValueError, match="test_fraction 1.0 of 3 rows leaves an empty part"):
        data.train_test_split(X, 1.0)


def test_binarize_keeps_the_dtype():
    x = data.binarize(np.array([[7.9, 8.0]], np.float32), 8)
    assert x.dtype == np.float32 and x.tolist() == [[0, 1]]


def test_some_columns_are_read_and_the_others_may_be_text(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('name,a,b,kind,n\n"x, 1",1,2.5,A,7\nx2,3,4.5,"b; ""c""", -8\n')
    for columns, right in ((["b", "a"], [[2.5, 1], [4.5, 3]]), ([4, 1], [[7, 1], [-8, 3]]), (["a", 2], [[1, 2.5], [3, 4.5]])):
        table = data.load_table(path, columns=columns)
        assert np.array_equal(table.rows, right)
        assert table.columns == [("name", "a", "b", "kind", "n")[j] if isinstance(j, int) else j for j in columns]
    for columns, said in ((["c"], "has no column 'c'; it has 'name', 'a'"), ([5], "has no column 5"),
                          ([-1], "has no column -1"), (["kind"], "row 1 (line 2), column 4 ('kind') is 'A', not a number")):
        with pytest.raises(DataError, match=re.escape(said)):
            data.load_table(path, columns=columns)
    with pytest.raises(DataError, match="row 1 .* is 'x, 1', not a number"):
        data.load_table(path)
    np.save(tmp_path / "x.npy", X)
    assert np.array_equal(data.load_table(tmp_path / "x.npy", columns=[1]).rows, X[:, [1]])
    with pytest.raises(DataError, match="has no column 'a'; it has 2 without names"):
        data.load_table(tmp_path / "x.npy", columns=["a"])


@pytest.mark.parametrize(("cells", "right"), [(["1", "-2", "+3"], np.array([1, -2, 3])), (["1", "2.0"], np.array([1.0, 2.0])),
                                              (["1", "1e3"], np.array([1.0, 1000.0])), (["a", "2"], np.array(["a", "2"])),
                                              (["9" * 19, "1"], np.array(["9" * 19, "1"])),
                                              (["1_0", "2"], np.array(["1_0", "2"])),
                                              (['"a, b"', " c "], np.array(["a, b", "c"]))], ids=str)
def test_a_column_is_what_its_cells_are(tmp_path, cells, right):
    path = tmp_path / "x.csv"
    path.write_text("first,second\n" + "".join(f"x,{cell}\n" for cell in cells))
    found = data.Source(path).column(1)
    assert found.dtype.kind == right.dtype.kind and np.array_equal(found, right)
    path.write_text("first,second\nx,1\ny, \n")
    with pytest.raises(DataError, match=r"row 2 \(line 3\), column 2 \('second'\) is empty"):
        data.Source(path).column(1)
