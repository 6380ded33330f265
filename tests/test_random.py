"""The random stream: published test vectors, the same bits however it is cut, the right distributions, honest seeds.

Seeds are fixed, so a statistical test fails always or never; each was given a false-alarm rate of 1e-6 per assertion,
for whoever changes the algorithm or the seed, and says the smallest error that it is sure to find: twice what it allows.
"""
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from npgen import kernels
from npgen.kernels import random as kernel
from npgen.random import Stream, as_stream

FALSE_ALARM = 1e-6
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
BACKENDS = pytest.mark.parametrize("backend", ["reference", "numba"])
DRAWS = pytest.mark.parametrize("draw", [kernel.uniform, kernel.normal], ids=["uniform", "normal"])
KEY = 0xA4093822, 0x299F31D0


# --- Philox ----------------------------------------------------------------------------------------------------------

VECTORS = {  # Random123's kat_vectors, philox4x32 with 10 rounds: counter, key -> words
    "zeros": ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
}


@pytest.mark.parametrize("vector", VECTORS)
def test_published_vectors(vector):
    counter, key, words = ([int(word, 16) for word in text.split()] for text in VECTORS[vector])
    for philox in kernel.philox, numba.njit(lambda a, b, c, d, *key: kernel.philox_inlined(a, b, c, d, key[0], key[1])):
        assert [int(w) for w in philox(*map(np.uint64, counter + key))] == words


@BACKENDS
def test_layout_of_the_words(backend):
    c = 64 * (2**30 + 5) + 17  # lane 17 of a block whose counters need more than 32 bits
    words = kernel.philox(*map(np.uint64, (c % 2**32, c >> 32, 0, 0, *KEY)))
    with kernels.using(backend):
        single = kernel.uniform(np.empty(256, np.float32), *KEY, (c >> 6) * 256)
        double = kernel.uniform(np.empty(128, np.float64), *KEY, (c >> 6) * 128)
    assert [float(u) for u in single[17::64]] == [(int(w) // 2**9 + 0.5) / 2**23 for w in words]
    pairs = [int(words[0]) | int(words[1]) << 32, int(words[2]) | int(words[3]) << 32]
    assert [float(u) for u in double[17::64]] == [(v // 2**12 + 0.5) / 2**52 for v in pairs]


BITS = {  # the stream is part of the file format: a model's seed must give the same rows in later versions
    ("uniform", "float32"): "cf41a84a31af8f50", ("uniform", "float64"): "e10fff5098a25c23",
    ("normal", "float32"): "d66b9f8bc80c0ff4", ("normal", "float64"): "29a4ed2eb3757781",
}


@DRAWS
@DTYPES
def test_bits_are_these_for_ever(draw, dtype):
    values = draw(np.empty(10_000, dtype), *KEY, 12345)
    assert hashlib.sha256(values.tobytes()).hexdigest()[:16] == BITS[draw.name.split(".")[1], np.dtype(dtype).name]


@BACKENDS
@DRAWS
@DTYPES
@given(start=st.integers(0, 6000), n=st.integers(0, 6000))
def test_any_slice_can_be_drawn_alone(backend, draw, dtype, start, n):
    with kernels.using(backend):
        whole = draw(np.empty(start + n, dtype), *KEY, 0)
        np.testing.assert_array_equal(draw(np.empty(n, dtype), *KEY, start), whole[start:])


@DRAWS
@DTYPES
@given(start=st.integers(0, 2**40), n=st.integers(0, 3000), key=st.tuples(*[st.integers(0, 2**32 - 1)] * 2))
def test_numpy_draws_the_bits_of_the_compiled_kernel(draw, dtype, start, n, key):
    by_numpy = kernel.by_numpy[draw](np.empty(n, dtype), *key, start)
    with kernels.using("numba"):
        assert by_numpy.tobytes() == draw(np.empty(n, dtype), *key, start).tobytes()


@DRAWS
@DTYPES
def test_a_million_values_of_both_have_the_same_bits(draw, dtype):
    by_numpy = kernel.by_numpy[draw](np.empty(2**20, dtype), *KEY, 77)
    with kernels.using("numba"):
        assert by_numpy.tobytes() == draw(np.empty(2**20, dtype), *KEY, 77).tobytes()


def test_the_first_draws_are_numpys_and_all_of_one_stream(monkeypatch):
    made = []
    for draw, function in kernel.by_numpy.items():
        monkeypatch.setitem(kernel.by_numpy, draw, lambda *args, function=function: made.append(1) or function(*args))
    drawn = []
    for first in 0, 2**62:
        monkeypatch.setattr(kernel, "FIRST", first)
        drawn.append(draw_everything(Stream(7)).tobytes())
        assert bool(made) == bool(first)
    assert drawn[0] == drawn[1]


# --- distributions ---------------------------------------------------------------------------------------------------

@DTYPES
def test_uniforms_are_uniform(dtype):
    """Finds 1.2 % of the mass displaced."""
    u = Stream(1).uniform(200_000, dtype)
    assert 0 < u.min() and u.max() < 1
    assert scipy.stats.kstest(u, "uniform").pvalue > FALSE_ALARM
    assert scipy.stats.kstest(u * 4096 % 1, "uniform").pvalue > FALSE_ALARM  # the lower bits too


@DTYPES
def test_normals_are_normal(dtype):
    """Finds 0.9 % of the mass displaced, a mean or a correlation of 0.016."""
    z = Stream(2).normal(400_000, dtype).astype(float)
    assert scipy.stats.kstest(z, "norm").pvalue > FALSE_ALARM
    limit = scipy.stats.norm.isf(FALSE_ALARM / 2) / np.sqrt(z.size)
    for power, moment in enumerate([0, 1, 0, 3, 0, 15], start=1):
        assert abs(np.mean(z**power) - moment) < limit * np.std(z**power)
    for lag in (1, 2, 63, 64, 128, 192, 256):  # neighbours in a row, in a lane and in the next block
        assert abs(np.mean(z[lag:] * z[:-lag])) < limit * 1.01
        assert abs(np.mean((z[lag:]**2 - 1) * (z[:-lag]**2 - 1))) < limit * 2 * 1.01


@DTYPES
def test_normals_have_their_tails(dtype):
    """Finds 10 % too many or too few beyond 3, 65 % beyond 4, three times as many beyond 4.5."""
    z = np.abs(Stream(3).normal(4_000_000, dtype))
    for at in (3, 4, 4.5):
        expected = 2 * scipy.stats.norm.sf(at)
        low, high = (scipy.stats.binom(z.size, expected).ppf(q) for q in (FALSE_ALARM / 2, 1 - FALSE_ALARM / 2))
        assert low <= (z > at).sum() <= high


EXTREME = [(np.float32, 6.66043, 2.0**-24), (np.float64, 8.6523, 2.0**-53)]  # sqrt(2 * 32 log 2), sqrt(2 * 54 log 2)


@pytest.mark.parametrize("dtype, largest, margin", EXTREME, ids=["float32", "float64"])
@pytest.mark.parametrize("word", [0, 2**32 - 1], ids=["zeros", "ones"])
def test_the_extreme_words(monkeypatch, word, dtype, largest, margin):
    monkeypatch.setattr(kernel, "philox", lambda c0, *rest: (np.full_like(c0, word),) * 4)
    with kernels.using("reference"):
        u = kernel.uniform(np.empty(4, dtype), *KEY, 0)
        z = kernel.normal(np.empty(4, dtype), *KEY, 0)
    np.testing.assert_array_equal(u, dtype(1 - margin if word else margin))
    np.testing.assert_allclose(np.abs(z).max(), 0 if word else largest, rtol=1e-4)


# --- Stream ----------------------------------------------------------------------------------------------------------

@DTYPES
@pytest.mark.parametrize("shape", [(), 0, 5, (3, 4), (0, 3), (1000, 7)], ids=str)
@pytest.mark.parametrize("name", ["normal", "uniform"])
def test_shapes_dtypes_and_counting(name, shape, dtype):
    stream = Stream(0)
    values = getattr(stream, name)(shape, dtype)
    assert values.shape == np.empty(shape).shape and values.dtype == dtype
    assert stream.counter == -(-values.size // kernel.values_per_block(dtype))
    np.testing.assert_array_equal(getattr(Stream(0), name)(shape, dtype), values)


def test_draws_do_not_overlap():
    stream = Stream(0)
    draws = [stream.normal(100, np.float64), stream.normal(300, np.float64), stream.uniform(100, np.float64),
             stream.spawn().normal(100), stream.normal(100)]
    assert len(np.unique(np.concatenate(draws))) == 700


@DTYPES
def test_reserve_is_what_would_have_been_drawn(dtype):
    drawn, reserved = Stream(5), Stream(5)
    drawn.normal(7, np.float32), reserved.normal(7, np.float32)
    want = drawn.normal((30, 20), dtype)
    key, start = reserved.reserve(600, dtype)
    np.testing.assert_array_equal(kernel.normal(np.empty(600, dtype), *key, start), want.ravel())
    assert drawn.state() == reserved.state()


def draw_everything(stream):
    return np.concatenate([stream.normal(5), stream.permutation(9), stream.integers(7, 3), stream.spawn().uniform(4),
                           stream.normal(600, np.float32)])


def test_state_continues_the_stream():
    stream = Stream(11)
    draw_everything(stream)
    state = stream.state()
    assert all(type(v) is int for v in state.values())
    np.testing.assert_array_equal(draw_everything(Stream.from_state(state)), draw_everything(stream))


SAME = {
    "int": (0, np.int64(0)), "int and SeedSequence": (7, np.random.SeedSequence(7)), "large int": (2**100, 2**100),
    "Generator": (np.random.default_rng(3), np.random.default_rng(3)), "Stream": (Stream(4), 4),
}
DIFFERENT = {
    "seeds": (0, 1), "far seeds": (1, 1 + 2**32), "fresh entropy": (None, None),
    "spawned SeedSequences": np.random.SeedSequence(0).spawn(2), "Generator moves on": (np.random.default_rng(3),) * 2,
}


@pytest.mark.parametrize("pair", SAME)
def test_same_seed_same_draws(pair):
    first, second = map(as_stream, SAME[pair])
    np.testing.assert_array_equal(draw_everything(first), draw_everything(second))


@pytest.mark.parametrize("pair", DIFFERENT)
def test_other_seed_other_draws(pair):
    first, second = map(as_stream, DIFFERENT[pair])
    assert first.key != second.key and (first.normal(20) != second.normal(20)).all()


def test_a_stream_is_passed_on_as_it_is():
    stream = Stream(0)
    assert as_stream(stream) is stream


def test_permutation_and_integers():
    """Finds probabilities of integers that are 13 % off (root mean square), of places in a permutation 26 %."""
    stream = Stream(6)
    a, b = stream.permutation(1000), stream.permutation(1000)
    assert sorted(a) == sorted(b) == list(range(1000)) and (a != b).any()
    k = stream.integers(7, (100, 100))
    assert k.shape == (100, 100)
    assert scipy.stats.chisquare(np.bincount(k.ravel(), minlength=7)).pvalue > FALSE_ALARM
    where = [int(np.flatnonzero(stream.permutation(5) == 0)[0]) for _ in range(2000)]
    assert scipy.stats.chisquare(np.bincount(where, minlength=5)).pvalue > FALSE_ALARM


def test_spawned_streams_are_independent():
    """Finds 1.7 % of the mass displaced, a correlation of 0.03."""
    stream = Stream(8)
    children = np.array([stream.spawn().normal(256) for _ in range(400)])
    assert scipy.stats.kstest(children.ravel(), "norm").pvalue > FALSE_ALARM
    limit = scipy.stats.norm.isf(FALSE_ALARM / 2) / np.sqrt(children[1:].size)
    assert abs(np.mean(children[1:] * children[:-1])) < limit * 1.01
    assert len({stream.spawn().key for _ in range(100)}) == 100


BAD = {
    "negative": (-1, ValueError, "a seed must not be negative, got -1; pass a non-negative int"),
    "float": (1.0, TypeError, "rng must be None, a non-negative int.*got 1.0"),
    "str": ("0", TypeError, "got '0'"), "bool": (True, TypeError, "got True"), "list": ([1, 2], TypeError, "got"),
    "numpy bool": (np.True_, TypeError, "got"), "a module": (np.random, TypeError, "got"),
}


@pytest.mark.parametrize("seed", BAD)
def test_a_bad_seed_is_refused(seed):
    value, error, message = BAD[seed]
    for make in (as_stream, Stream):
        with pytest.raises(error, match=message):
            make(value)


@pytest.mark.parametrize("dtype", [np.float16, int, complex], ids=str)
def test_another_dtype_is_refused(dtype):
    stream = Stream(0)
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got"):
        stream.normal(3, dtype)
    assert stream.counter == 0


def test_numpys_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()
    draw_everything(Stream())
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.long
def test_processes_that_compile_in_another_order_share_a_cache(tmp_path):
    """Two closures of one name, compiled by two processes, were once taken for one another by a third: uniform normals."""
    lines = ("random.uniform(np.empty(9, 'f'), 1, 2, 0)", "random.normal(np.empty(9, 'f'), 1, 2, 0)",
             "random.uniform(np.empty(9, 'f'), 1, 2, 0); z = random.normal(np.empty(10_000, 'f'), 1, 2, 0); "
             "assert abs(z.std() - 1) < 0.05")  # 7 standard errors
    for line in lines:
        subprocess.run([sys.executable, "-c", f"import numpy as np; from npgen.kernels import random; {line}"], check=True,
                       env=os.environ | {"NPGEN_CACHE_DIR": str(tmp_path)}, cwd=Path(__file__).parent.parent)


def test_a_random_state_is_a_seed_and_moves_on():
    state = np.random.RandomState(0)
    first, second = as_stream(state).normal(3), as_stream(state).normal(3)
    np.testing.assert_array_equal(first, as_stream(np.random.RandomState(0)).normal(3))
    assert not np.array_equal(first, second)
