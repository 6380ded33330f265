"""Networks are the formulas they say they are; parameters are views of one buffer, whatever is done to them."""
import copy
import math
import pickle

import numpy as np
import pytest
from scipy import stats

from npgen.engine import grad
from npgen.masks import made_masks
from npgen.nn import MLP, Parameters
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


def test_parts_are_where_the_arrays_lie():
    p = parameters()
    for name, part in p.parts.items():
        np.testing.assert_array_equal(p.flat[part], p[name].ravel())
        assert np.shares_memory(p.flat[part], p[name])


def layers(mlp, params):
    return [mlp.layout.weight_and_bias(params["net"], k) for k in range(len(mlp.layout.plans))]


@dtypes
@pytest.mark.parametrize("gain", [1.0, math.sqrt(2), 0.0])
def test_a_layer_starts_with_the_variance_it_says(dtype, gain):
    """Finds a standard deviation that is 35 % off: sqrt(2) is 41 %."""
    mlp = MLP("net", (50, 120), last_gain=gain)
    params = mlp.init(np.empty(0, dtype), None, Stream(0))
    (weight, bias), = layers(mlp, params)
    assert weight.shape == (50, 120) and weight.dtype == bias.dtype == dtype and not bias.any()
    w = weight.astype(float)
    assert (w == 0).all() if gain == 0 else stats.kstest(w.ravel(), "norm", (0, gain / math.sqrt(50))).pvalue > ALARM
    np.testing.assert_array_equal(params["net"], mlp.init(np.empty(0, dtype), None, Stream(0))["net"])


@dtypes
def test_a_masked_layer_starts_with_the_variance_of_the_inputs_that_are_left(dtype):
    """Finds a standard deviation that is twice or half of what it should be, as that of all inputs is."""
    mask = np.zeros((60, 300), bool)
    mask[:, :100], mask[:15, 100:200] = True, True  # 60 inputs, then 15, then none
    mlp = MLP("net", (60, 300), [mask], last_gain=2.0)
    w = layers(mlp, mlp.init(np.empty(0, dtype), None, Stream(0)))[0][0]
    assert w.dtype == dtype and not w[~mask].any()
    for block, inputs in ((w[:, :100], 60), (w[:15, 100:200], 15)):
        assert stats.kstest(block.ravel(), "norm", (0, 2 / math.sqrt(inputs))).pvalue > ALARM


@dtypes
@pytest.mark.parametrize("n", [0, 1, 9, 70])
def test_a_masked_network_is_the_formula_and_its_gradient_stays_masked(dtype, n):
    masks = made_masks(6, (40, 30))
    mlp = MLP("net", (6, 40, 30, 6), masks)
    params = mlp.init(np.empty(0, dtype), None, Stream(0))
    x = RNG.normal(size=(n, 6)).astype(dtype)
    h = x.astype(float)
    for k, (weight, bias) in enumerate(layers(mlp, params)):
        assert not weight[~masks[k]].any()
        bias += RNG.normal(size=bias.shape).astype(dtype)
        h = h @ weight + bias
        h = np.maximum(h, 0) if k < 2 else h
    y = mlp(params, x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, h, atol=200 * np.finfo(dtype).eps)
    gradient = grad(lambda p: np.sum(mlp(p, x) ** 2))(params)
    assert gradient["net"].dtype == dtype
    for (weight, _), mask in zip(layers(mlp, gradient), masks, strict=True):
        assert not weight[~mask].any()
    if n == 70:
        assert np.count_nonzero(layers(mlp, gradient)[0][0][masks[0]]) > 0.8 * masks[0].sum()  # a ReLU may be off in every row


@pytest.mark.parametrize("masks", [None, made_masks(6, (40,))], ids=["dense", "masked"])
def test_hidden_and_last_are_the_two_halves_of_the_network(masks):
    mlp, x = MLP("net", (6, 40, 6), masks), RNG.normal(size=(11, 6))
    params = mlp.init(np.empty(0, np.float64), None, Stream(0))
    h = mlp.hidden(params, x)
    assert h.shape == (11, 40) and (h >= 0).all()
    np.testing.assert_allclose(mlp.last(params, h), mlp(params, x), rtol=1e-12, atol=1e-12)


def test_layout_refuses_masks_of_other_shapes():
    with pytest.raises(ValueError, match=r"masks of shapes \[\(6, 40\)\] do not fit the layers \[\(6, 5\)\]"):
        MLP("net", (6, 5), [MASK]).layout  # noqa: B018


@pytest.mark.parametrize("sizes", [(3, 2), (3, 5, 2), (4, 6, 5, 1), (0, 4, 2)], ids=str)
def test_mlp_is_the_formula(sizes):
    mlp = MLP("net", sizes)
    params = {k: RNG.normal(size=a.shape) for k, a in mlp.init(np.empty(0, np.float64), None, Stream(0)).items()}
    assert list(params) == ["net"]
    x = RNG.normal(size=(7, sizes[0]))
    h = x
    for k, (weight, bias) in enumerate(layers(mlp, params)):
        h = h @ weight + bias
        h = np.maximum(h, 0) if k < len(sizes) - 2 else h
    np.testing.assert_allclose(mlp(params, x), h, rtol=1e-12, atol=1e-12)
    check_grads(lambda p, x: np.sum(mlp(p, x) ** 2), params, x)


def test_mlp_keeps_the_scale_of_its_inputs_and_can_start_at_zero():
    x = RNG.normal(size=(500, 100))
    deep = MLP("net", (100, 400, 400, 400, 50))
    out = deep(deep.init(np.empty(0), None, Stream(0)), x)
    assert 0.8 < np.sqrt(np.mean(out**2)) < 1.25  # without the gain of a ReLU it would be 0.35
    zero = MLP("net", (100, 40, 50), last_gain=0.0)
    assert not zero(zero.init(np.empty(0), None, Stream(0)), x).any()
