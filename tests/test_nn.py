"""Layers are the formulas they say they are; parameters are views of one buffer, whatever is done to them."""
import copy
import math
import pickle

import numpy as np
import pytest
from scipy import stats

from npgen.engine import grad
from npgen.masks import made_masks
from npgen.nn import MLP, Linear, MaskedLinear, Parameters
from npgen.random import Stream
from npgen.testing import check_grads

ALARM = 1e-6  # of a statistical test, per case
RNG = np.random.default_rng(0)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
MASK = made_masks(6, (40,))[0]


def parameters(dtype=np.float64):
    return Parameters({"b": np.arange(3), "a": np.arange(4.0).reshape(2, 2) + 10, "c": np.float64(7)}, dtype)


WAYS = {"as built": lambda p: p, "copied": lambda p: p.copy(), "cast": lambda p: p.copy(np.float32), "copy.copy": copy.copy,
        "deep copy": copy.deepcopy, "pickled": lambda p: pickle.loads(pickle.dumps(p))}


@pytest.mark.parametrize("way", WAYS)
def test_parameters_are_views_of_one_buffer(way):
    p = WAYS[way](parameters())
    assert list(p) == ["b", "a", "c"] and [a.shape for a in p.values()] == [(3,), (2, 2), ()]
    np.testing.assert_array_equal(p.flat, [0, 1, 2, 10, 11, 12, 13, 7])
    p.flat += 1
    np.testing.assert_array_equal(p["a"], [[11, 12], [13, 14]])
    p["a"][0, 1] = 99
    assert p.flat[4] == 99 and {a.dtype for a in p.values()} == {p.flat.dtype}


def test_a_copy_is_another_buffer_and_keeps_its_dtype():
    p = parameters(np.float32)
    for way in ("copied", "copy.copy", "deep copy", "pickled"):
        q = WAYS[way](p)
        q.flat[:] = -1
        assert q.flat.dtype == np.float32 and p.flat[0] == 0


def test_flatten_takes_the_buffers_order_not_the_dicts():
    p, other = parameters(), {"c": np.float64(3), "a": np.ones((2, 2)), "b": np.zeros(3)}
    np.testing.assert_array_equal(p.flatten(other), [0, 0, 0, 1, 1, 1, 1, 3])
    out = np.empty(8)
    assert p.flatten(dict(p), out) is out
    with pytest.raises(KeyError):
        p.flatten({"a": np.ones((2, 2))})


@dtypes
@pytest.mark.parametrize("gain", [1.0, math.sqrt(2), 0.0])
def test_linear_starts_with_the_variance_it_says(dtype, gain):
    layer = Linear("name", 50, 80, gain=gain)
    params = layer.init(Stream(0), dtype)
    assert {k: (a.shape, a.dtype) for k, a in params.items()} == {"name.weight": ((50, 80), dtype), "name.bias": ((80,), dtype)}
    assert not params["name.bias"].any()
    w = params["name.weight"].astype(float)
    assert (w == 0).all() if gain == 0 else stats.kstest(w.ravel(), "norm", (0, gain / math.sqrt(50))).pvalue > ALARM
    np.testing.assert_array_equal(w, layer.init(Stream(0), dtype)["name.weight"])


@dtypes
def test_masked_linear_starts_with_the_variance_of_the_inputs_that_are_left(dtype):
    mask = np.zeros((60, 300), bool)
    mask[:, :100], mask[:15, 100:200] = True, True  # 60 inputs, then 15, then none
    w = MaskedLinear("name", mask, gain=2.0).init(Stream(0), dtype)["name.weight"]
    assert w.dtype == dtype and not w[~mask].any()
    for block, inputs in ((w[:, :100], 60), (w[:15, 100:200], 15)):
        assert stats.kstest(block.ravel(), "norm", (0, 2 / math.sqrt(inputs))).pvalue > ALARM


@dtypes
@pytest.mark.parametrize("n, i, j", [(5, 3, 4), (1, 1, 1), (0, 3, 2), (4, 0, 3), (7, 70, 130)])
def test_linear_is_the_formula(dtype, n, i, j):
    layer = Linear("l", i, j)
    params = {"l.weight": RNG.normal(size=(i, j)).astype(dtype), "l.bias": RNG.normal(size=j).astype(dtype)}
    x = RNG.normal(size=(n, i)).astype(dtype)
    y, want = layer(params, x), x.astype(float) @ params["l.weight"] + params["l.bias"]
    assert y.dtype == dtype
    np.testing.assert_allclose(y, want, atol=60 * np.finfo(dtype).eps * max(i, 1))


@dtypes
def test_masked_linear_is_the_formula_and_its_gradient_stays_masked(dtype):
    layer = MaskedLinear("l", MASK)
    params = {"l.weight": RNG.normal(size=MASK.shape).astype(dtype), "l.bias": RNG.normal(size=40).astype(dtype)}
    x = RNG.normal(size=(9, 6)).astype(dtype)
    np.testing.assert_allclose(layer(params, x), x.astype(float) @ (params["l.weight"] * MASK) + params["l.bias"],
                               atol=100 * np.finfo(dtype).eps)
    gradient = grad(lambda p: np.sum(layer(p, x) ** 2))(params)
    assert gradient["l.weight"].dtype == dtype and not gradient["l.weight"][~MASK].any() and gradient["l.weight"][MASK].all()


@pytest.mark.parametrize("sizes", [(3, 2), (3, 5, 2), (4, 6, 5, 1), (0, 4, 2)], ids=str)
def test_mlp_is_the_formula(sizes):
    mlp = MLP("net", sizes)
    params = {k: RNG.normal(size=a.shape) for k, a in mlp.init(Stream(0), np.float64).items()}
    assert list(params) == [f"net.{k}.{part}" for k in range(len(sizes) - 1) for part in ("weight", "bias")]
    x = RNG.normal(size=(7, sizes[0]))
    h = x
    for k in range(len(sizes) - 1):
        h = h @ params[f"net.{k}.weight"] + params[f"net.{k}.bias"]
        h = np.maximum(h, 0) if k < len(sizes) - 2 else h
    np.testing.assert_allclose(mlp(params, x), h, rtol=1e-12, atol=1e-12)
    check_grads(lambda p, x: np.sum(mlp(p, x) ** 2), params, x)


def test_mlp_keeps_the_scale_of_its_inputs_and_can_start_at_zero():
    x = RNG.normal(size=(500, 100))
    deep = MLP("net", (100, 400, 400, 400, 50))
    out = deep(deep.init(Stream(0), np.float64), x)
    assert 0.8 < np.sqrt(np.mean(out**2)) < 1.25  # without the gain of a ReLU it would be 0.35
    zero = MLP("net", (100, 40, 50), last_gain=0.0)
    assert not zero(zero.init(Stream(0), np.float64), x).any()
