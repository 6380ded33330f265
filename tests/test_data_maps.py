"""npgen.transforms: every data map is invertible, its log-det is that of its Jacobian, and the noise of a row is its own."""
import json
import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npgen
from npgen import checkpoint
from npgen.random import Stream
from npgen.transforms import Chain, Columns, Dequantize, Log, Logit, Standardize, Transform, base, from_config, make
from npgen.transforms.row_noise import RowNoise

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(50, 4)) * [1e-3, 1, 50, 1e4] + [0, 5, -1e3, 1e5]
UNIT = RNG.uniform(size=(50, 4))
COUNTS = RNG.integers(0, 17, (50, 4)).astype(float)
POSITIVE = np.exp(RNG.normal(size=(50, 4)) * [1, 0.5, 0.1, 1] + [0, 0, 5, -9])
FAR = np.where(np.arange(200).reshape(50, 4) == 7, -9999.0, RNG.normal(size=(50, 4)))  # x[1, 3] is a sentinel
SIDES = np.column_stack([COUNTS[:, 0], REAL[:, 1], np.exp(RNG.normal(size=50)), COUNTS[:, 1] > 8])
CASES = {
    "identity": (lambda: Chain(), REAL),
    "standardize": (lambda: Standardize(), REAL),
    "standardize, an outlier": (lambda: Standardize(), FAR),
    "log": (lambda: Log(), POSITIVE),
    "log+standardize": (lambda: make("log+standardize", None), POSITIVE),
    "columns": (lambda: Columns(maps=(Standardize(), Log()), columns=((3, 0), (1,))), np.abs(REAL) + 1),
    "columns, none": (lambda: Columns(), REAL),
    "columns in columns": (lambda: Columns(maps=(Columns(maps=(Log(),), columns=((1,),)),), columns=((3, 1),)), UNIT),
    "logit": (lambda: Logit(), UNIT),
    "logit, small alpha": (lambda: Logit(alpha=1e-6), UNIT),
    "dequantize": (lambda: Dequantize(), COUNTS),
    "dequantize, from -3": (lambda: Dequantize(), COUNTS - 3),
    "dequantize, 256 levels": (lambda: Dequantize(levels=256), COUNTS),
    "dequantize, levels of their own": (lambda: Dequantize(levels=(256, 17, 18, 19)), COUNTS),
    "columns, some to dequantize": (lambda: make("auto", SIDES), SIDES),
    "dequantize+logit": (lambda: make("dequantize+logit", None), COUNTS),
    "dequantize+logit+standardize": (lambda: make("dequantize+logit+standardize", None), COUNTS),
    "standardize in a chain in a chain": (lambda: Chain(steps=(Chain(steps=(Standardize(),)),)), REAL),
}
cases = pytest.mark.parametrize("case", CASES)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def fitted(case, dtype=np.float64):
    build, x = CASES[case]
    x = x.astype(dtype)
    return build().fit(x), x


pytestmark = pytest.mark.filterwarnings("ignore:Standardize. x.1, 3. is -9999")


@cases
@dtypes
def test_to_data_undoes_to_noise_and_dtypes_are_kept(case, dtype):
    p, x = fitted(case, dtype)
    z, log_det = p.to_noise(None, x)
    back, opposite = p.to_data(None, z)
    assert z.dtype == log_det.dtype == back.dtype == opposite.dtype == dtype and log_det.shape == opposite.shape == (len(x),)
    np.testing.assert_allclose(opposite, -log_det, rtol=50 * np.finfo(dtype).eps, atol=1000 * np.finfo(dtype).eps)
    np.testing.assert_allclose(back, x, rtol=8 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps * np.abs(x).max())
    if "dequantize" in case:
        again, whole = p.to_data(None, p.to_noise(None, x, stream=Stream(1))[0])[0], x == np.floor(x)
        np.testing.assert_array_equal(again[whole], x[whole])


class Given:
    """The same noise u for every cell."""

    def __init__(self, u):
        self.u = u

    def uniform(self, shape, dtype, like=None):
        return np.full(shape, self.u, dtype)


@cases
def test_log_det_is_that_of_the_numerical_jacobian(case):
    """Of a dequantised column the derivative is that by the noise, which moves x + u by as much."""
    p, x = fitted(case)
    dz, whole = np.empty_like(x), np.zeros(4, bool)
    h = 1e-6
    for j in range(4):
        step = np.zeros_like(x)
        step[:, j] = h * np.ptp(x[:, j])
        inside = np.minimum(x, 1 - x).min(axis=1) > 1e-3 if "logit" in case and "dequantize" not in case else slice(None)
        whole[j] = "dequantize" in case and (x[:, j] == np.floor(x[:, j])).all()
        if whole[j]:
            ends = [p.to_noise(None, x, stream=Given(0.5 + by))[0] for by in (h, -h)]
            dz[:, j] = (ends[0] - ends[1])[:, j] / (2 * h)
        else:
            ends = [p.to_noise(None, x[inside] + by[inside], stream=Given(0.5))[0] for by in (step, -step)]
            dz[inside, j] = (ends[0] - ends[1])[:, j] / (2 * h * np.ptp(x[:, j]))
    np.testing.assert_allclose(p.to_noise(None, x, stream=Given(0.5))[1][inside], np.log(dz[inside]).sum(axis=1),
                               rtol=1e-6, atol=1e-5)


@cases
@dtypes
def test_config_and_arrays_restore_the_same_map_through_a_file(case, dtype, tmp_path):
    p, x = fitted(case, dtype)
    checkpoint.write(tmp_path / "p", p.arrays(), {"preprocess": p.config()})
    arrays, header = checkpoint.read(tmp_path / "p")
    again = from_config(header["preprocess"], arrays)
    for a, b in zip(p.to_noise(None, x), again.to_noise(None, x), strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
    assert json.dumps(again.config()) == json.dumps(p.config()) and repr(again) == repr(p)


def test_config_alone_restores_an_unfitted_map():
    p = Chain(steps=(Dequantize(levels=20), Logit(alpha=0.01)))
    again = from_config(json.loads(json.dumps(p.config())), p.arrays())
    assert repr(again) == repr(p)
    assert again.fit(COUNTS).steps[0].levels_.tolist() == [20] * 4


def test_only_dequantizing_makes_a_density_a_bound():
    assert {case: p().exact for case, (p, _) in CASES.items()} == {case: "dequantize" not in case for case in CASES}
    assert not Chain(steps=(Columns(maps=(Log(), Dequantize()), columns=((0,), (1,))),)).exact


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 70000), st.sampled_from([np.float32, np.float64]), st.integers(-5, 5), st.integers(0, 2**32 - 1))
def test_dequantized_values_stay_inside_their_cell(levels, dtype, low, seed):
    rng = np.random.default_rng(seed)
    x = (low + np.concatenate([[0, levels - 1], rng.integers(0, levels, 40)])).astype(dtype)[:, None]
    p = Dequantize().fit(x)
    assert (p.low_, p.levels_) == (low, levels)

    class Ends:
        def uniform(self, shape, dtype, like=None):
            return rng.choice(np.array([0, 1e-30, 0.5, 1 - np.finfo(dtype).epsneg], dtype), shape)

    for stream in (None, Ends()):
        z, _ = p.to_noise(None, x, stream=stream)
        assert z.dtype == dtype and (0 < z).all() and (z < 1).all()
        np.testing.assert_array_equal(p.to_data(None, z)[0], x)


def test_noise_is_a_function_of_the_row_alone():
    p, x = fitted("dequantize")
    z, _ = p.to_noise(None, x)
    order = RNG.permutation(len(x))
    np.testing.assert_array_equal(p.to_noise(None, x[order])[0], z[order])
    np.testing.assert_array_equal(np.concatenate([p.to_noise(None, x[i:i + 7])[0] for i in range(0, 50, 7)]), z)
    np.testing.assert_array_equal(p.to_noise(None, np.asfortranarray(x).astype(np.int8))[0], z)
    np.testing.assert_allclose(p.to_noise(None, x.astype(np.float32))[0], z, atol=1e-6)


def test_noise_from_a_stream_is_fresh():
    p, x = fitted("dequantize")
    stream = Stream(1)
    assert not (p.to_noise(None, x, stream=stream)[0] == p.to_noise(None, x, stream=stream)[0]).any()


def test_noise_of_near_rows_is_uniform_and_uncorrelated():
    """20,000 rows that differ in one or two values. False-alarm rate 1e-6 per statement; the data are fixed. Finds 4 %
    of the mass displaced, a correlation of 0.08."""
    from scipy import stats
    k = np.zeros((20000, 8))
    k[:, 2], k[:, 5] = np.divmod(np.arange(20000), 200)
    u = RowNoise(k.astype(np.uint64)).uniform(k.shape, float)
    assert all(stats.kstest(column, "uniform").pvalue > 1e-6 / 8 for column in u.T)
    beside = np.corrcoef(np.hstack([u[:-1], u[1:]]).T) - np.eye(16)
    assert np.abs(beside).max() < stats.norm.isf(1e-6 / 240) / np.sqrt(19999)
    assert len(np.unique(u)) == u.size


def test_dequantized_density_of_a_cell_is_its_probability():
    """The mean of exp(log_prob) over the noise is P(k), for a density that varies inside the cells.

    p(z) = 2 z on (0, 1), 4 levels: P(k) = (2 k + 1) / 16. 40,000 draws, six standard errors: false alarms 2e-9.
    Surely found: a probability off by 7 %.
    """
    x = np.repeat(np.arange(4.0), 10000)[:, None]
    z, log_det = Dequantize().fit(x).to_noise(None, x, stream=Stream(1))
    density = (2 * z[:, 0] * np.exp(log_det)).reshape(4, -1)
    error = density.std(axis=1) / 100
    assert (np.abs(density.mean(axis=1) - (2 * np.arange(4) + 1) / 16) < 6 * error).all()


def test_standardized_columns_have_mean_0_and_std_1_under_the_weights():
    weight = RNG.uniform(0, 2, 50)
    z, _ = Standardize().fit(REAL, weight).to_noise(None, REAL)
    np.testing.assert_allclose(np.average(z, axis=0, weights=weight), 0, atol=1e-10)
    np.testing.assert_allclose(np.average(z**2, axis=0, weights=weight), 1, rtol=1e-10)


def test_integer_weights_are_repeated_rows():
    count = RNG.integers(0, 3, 50)
    weighted, repeated = Standardize().fit(REAL, count), Standardize().fit(np.repeat(REAL, count, axis=0))
    np.testing.assert_allclose(weighted.std_, repeated.std_, rtol=1e-12)


def test_float32_statistics_are_summed_in_float64():
    x = (np.arange(2_000_000, dtype=np.float32) % 2 + 4096)[:, None]
    p = Standardize().fit(x)
    assert p.mean_ == np.float32(4096.5) and p.std_ == np.float32(0.5)


@dtypes
def test_constant_columns_keep_scale_one_and_are_reported(dtype):
    x = np.array([[0.1, 1, 7], [0.1, 2, 7], [0.1, 4, 7]], dtype)
    with pytest.warns(UserWarning, match=r"x does not vary in columns 0, 2 \(counted from 0\)"):
        p = Standardize().fit(x)
    assert p.constant_.tolist() == [0, 2] and p.std_[0] == p.std_[2] == 1
    np.testing.assert_allclose(p.to_data(None, p.to_noise(None, x)[0])[0], x, rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_row_of_weight_0_is_not_there():
    x = np.array([[-9999.0, 3.0], *np.random.default_rng(0).normal(size=(50, 2))])
    p = Standardize().fit(x, sample_weight=np.arange(51) > 0)
    q = Standardize().fit(x[1:])
    assert not p.far_.size and not q.far_.size
    np.testing.assert_allclose([p.mean_, p.std_], [q.mean_, q.std_], rtol=1e-12)
    x[1:, 1] = x[1, 1]
    with pytest.warns(UserWarning, match="does not vary in column 1"):
        assert Standardize().fit(x, sample_weight=np.arange(51) > 0).constant_.tolist() == [1]


def test_logit_keeps_its_precision_near_one_in_float32():
    x = np.array([[0.0, 1e-4, 0.25, 1 - 2**-14, 1.0]])
    p, exact = Logit(alpha=1e-6).fit(x), Logit(alpha=1e-6).fit(x).to_noise(None, x)
    for a, b in zip(p.to_noise(None, x.astype(np.float32)), exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6)


def test_logit_inverse_of_far_values_is_finite_and_silent():
    p, z = Logit().fit(UNIT), np.full((1, 4), 1e5) * [1, -1, 1e3, -1e3]
    np.testing.assert_array_equal(p.to_data(None, z)[0], [[1, 0, 1, 0]])
    np.testing.assert_allclose(p.unclipped(z), np.array([[0.95, -0.05, 0.95, -0.05]]) / 0.9)


@pytest.mark.parametrize("call, message", [
    (lambda: Dequantize().fit([[1, 2], [3, 0.5]]), r"0.5 at x\[1, 1\] \(row 2, column 2\) is not an integer; use"),
    (lambda: Dequantize().fit([[1], [4]]).to_noise(None, [[1], [2], [5]]), r"5.0 at x\[2, 0\] .row 3, column 1. .* in 1..4"),
    (lambda: Dequantize().fit([[1], [4]]).to_noise(None, [[2.5]]), r"2.5 at x\[0, 0\] .* set the range with"),
    (lambda: Dequantize().fit([[1], [4]]).to_noise(None, [[np.nan]]), r"nan at x\[0, 0\] .* is not an integer"),
    (lambda: Dequantize(levels=4).fit([[1], [4]]), r"4.0 at x\[1, 0\] .* in 0..3"),
    (lambda: Dequantize(levels=0).fit([[0]]), "0 levels cannot be told apart"),
    (lambda: Dequantize().fit(np.array([[0], [2**22]], np.float32)), "4194305 levels cannot be told apart in float32"),
    (lambda: Dequantize().fit([[0], [2**22]]).to_noise(None, np.zeros((1, 1), np.float32)), "told apart in float32"),
    (lambda: Logit().fit([[0.5, 1.1]]), r"1.1 at x\[0, 1\] \(row 1, column 2\) is out of range for alpha"),
    (lambda: Logit(alpha=0).fit([[0.0]]), r"0.0 at x\[0, 0\] .* alpha=0;"),
    (lambda: Logit(alpha=0.5).fit([[0.5]]), "alpha is 0.5; give 0 <= alpha < 0.5"),
    (lambda: Standardize().fit(REAL).to_noise(None, REAL[:, :3]), r"x has shape \(50, 3\); give \(n, 4\)"),
    (lambda: Standardize().fit(REAL[0]), r"x has shape \(4,\); give \(n, d\)"),
    (lambda: make("standardise", REAL), "preprocess names 'standardise'; give None, 'auto', or standardize"),
    (lambda: from_config({"class": "os.system"}, {}), "preprocess has class 'os.system'; known are Chain,"),
], ids=range(15))
def test_errors_say_where_and_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_use_before_fit_says_so():
    with pytest.raises(AttributeError, match=r"Standardize is not fitted; call fit\(x\) first"):
        Standardize().to_noise(None, REAL)


@pytest.mark.parametrize("x, expected", [
    (COUNTS, "dequantize+logit"), (COUNTS.astype(np.uint8), "dequantize+logit"), (COUNTS - 8, "dequantize+logit"),
    (REAL, "standardize"), (COUNTS * 1e6, "standardize"), (np.array([[1, 2], [2, 1]]), "dequantize+logit"),
    (COUNTS > 8, "dequantize+logit"), ((COUNTS > 8).astype(np.float32), "dequantize+logit"), (np.ones((3, 2)), "standardize"),
    (np.array([[5, 1], [5, 2]]), "dequantize+logit"), (np.float32([[1e8], [1e8 + 8]]), "standardize"),
], ids=range(11))
def test_auto_looks_at_the_data(x, expected):
    assert repr(make("auto", x)) == repr(make(expected, x))
    bits = np.isin(x, (0, 1)).all()
    assert repr(make("auto", x, untouched="bits")) == repr(make(None if bits else expected, x))


def test_auto_decides_by_column():
    x = np.column_stack([REAL[:, 0], COUNTS[:, 0] > 8, np.full(50, 3), COUNTS[:, 1] * 1e6, COUNTS[:, 2] - 4])
    found = make("auto", x, untouched="bits")
    assert repr(found) == repr(Columns(maps=(make("dequantize+logit", x), Standardize()), columns=((1, 4), (0, 2, 3))))


def test_every_column_has_its_own_levels():
    x = np.column_stack([COUNTS[:, 0] > 8, RNG.integers(0, 50001, 50)])
    p = Dequantize().fit(x)
    assert p.low_.tolist() == [0, x[:, 1].min()] and p.levels_.tolist() == [2, np.ptp(x[:, 1]) + 1]


def test_pixels_share_their_range_but_not_with_a_flag():
    """A pixel that was dark in all rows of a fit may be grey in others; a column of 0 and 1 beside them is one of 0 and 1."""
    x = RNG.integers(0, 17, (200, 9))
    x[:, 0], x[:, 1], x[:, 2] = 0, x[:, 1] == 3, np.arange(200) % 2
    x[:, 1] *= np.arange(200) < 50  # a few
    p = Dequantize().fit(x)
    assert not p.low_.any() and p.levels_.tolist() == [17, 17, 2] + [17] * 6


def test_a_file_with_one_range_for_all_columns_still_loads():
    now = Dequantize(levels=17).fit(COUNTS)
    before = from_config(now.config(), {"low_": np.array(0), "levels_": np.array(17), "n_columns_": np.array(4)})
    assert before.to_noise(None, COUNTS)[0].tobytes() == now.to_noise(None, COUNTS)[0].tobytes()
    arrays = Standardize().fit(REAL).arrays()
    del arrays["far_"]
    assert (from_config({"class": "Standardize"}, arrays).to_noise(None, FAR)[0] < -10).any()


def test_noise_behind_columns_is_a_function_of_the_whole_row():
    """20,000 rows of one integer beside real columns: their noise is uniform. False alarms: 1e-6."""
    from scipy import stats
    x = np.column_stack([np.zeros(20000), np.random.default_rng(1).normal(size=20000)])
    p = Columns(maps=(Dequantize(levels=2),), columns=((0,),)).fit(x)
    u = 2 * p.to_noise(None, x)[0][:, 0]
    assert stats.kstest(u, "uniform").pvalue > 1e-6
    np.testing.assert_array_equal(2 * p.to_noise(None, x[::-1])[0][::-1, 0], u)
    np.testing.assert_allclose(2 * p.to_noise(None, x.astype(np.float32))[0][:, 0], u, atol=1e-6)
    two = Columns(maps=(Dequantize(levels=2), Dequantize(levels=2)), columns=((0,), (1,)))
    z = two.fit(np.zeros((1, 2))).to_noise(None, np.zeros((1, 2)))[0]
    assert z[0, 0] != z[0, 1]  # the maps draw from one stream


@pytest.mark.parametrize("call, message", [
    (lambda x: Columns(maps=(Log(),), columns=((3, 1),)).fit(x), r"Log: -1.0 at x\[2, 1\] \(row 3, column 2\) is not above 0"),
    (lambda x: Columns(maps=(Chain(steps=(Columns(maps=(Log(),), columns=((1,),)),)),), columns=((3, 1),)).fit(x),
     r"Log: -1.0 at x\[2, 1\] "),
    (lambda x: Columns(maps=(Dequantize(),), columns=((2,),)).fit(x).to_noise(None, x + 9),
     r"at x\[0, 2\].*in 1..1, the range"),
    (lambda x: Columns(maps=(Log(),), columns=((0, 0),)).fit(x), "give one set for each of 1 maps, of numbers from 0 to 3"),
    (lambda x: Columns(maps=(Log(),), columns=((4,),)).fit(x), "give one set for each of 1 maps, of numbers from 0 to 3"),
    (lambda x: Columns(maps=(Log(),), columns=()).fit(x), "give one set for each of 1 maps"),
    (lambda x: Dequantize(levels=(2, 3)).fit(x * 0), r"levels has shape \(2,\); give one number, or one for each of 4"),
], ids=range(7))
def test_messages_count_columns_as_the_user_does(call, message):
    x = np.ones((5, 4))
    x[2, 1] = -1
    with pytest.raises(ValueError, match=message):
        call(x)


def test_warnings_count_columns_as_the_user_does():
    with pytest.warns(UserWarning, match=r"x does not vary in column 2 \(counted"):
        Columns(maps=(Standardize(),), columns=((0, 2),)).fit(np.column_stack([REAL[:, 0], REAL[:, 1], np.ones(50)]))


# ---------------------------------------------------------------- maps of one's own

class Shift(Transform, name="shift"):
    """z = x - by - lowest."""

    _options = ("by",)
    _fitted = ("lowest_",)

    def __init__(self, *, by=0.0):
        self.by = by

    def fit(self, x, sample_weight=None):
        self.lowest_ = x.min(axis=0)
        return self

    def to_noise(self, p, x, c=None, stream=None):
        return (x - self.by - self.lowest_).astype(x.dtype), np.zeros(len(x), x.dtype)

    def to_data(self, p, z, c=None):
        return (z + self.lowest_ + self.by).astype(z.dtype), np.zeros(len(z), z.dtype)


def under_another_name(cls):
    """The same class, not registered."""
    return type("Nameless", (cls,), {"__module__": __name__})


def small(**options):
    return npgen.RealNVP(n_couplings=2, hidden=(4,), max_epochs=1, random_state=0, **options)


@pytest.mark.parametrize("spec", ["shift", "shift+standardize", Shift(by=2.0), Chain(steps=(Shift(by=0.5), Standardize()))],
                         ids=str)
def test_a_registered_map_is_saved_and_loaded(spec, tmp_path):
    model = small(preprocess=spec).fit(REAL)
    model.save(tmp_path / "m")
    again = npgen.load(tmp_path / "m")
    assert repr(again.preprocess_) == repr(model.preprocess_) and repr(again) == repr(model)
    np.testing.assert_array_equal(again.log_prob(REAL), model.log_prob(REAL))
    small(preprocess=spec).fit(REAL, checkpoint=tmp_path / "run")
    resumed = small(preprocess=spec).fit(REAL, checkpoint=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(resumed.log_prob(REAL), model.log_prob(REAL))


@pytest.mark.parametrize("inside", [lambda p: p, lambda p: Chain(steps=(Standardize(), p))], ids=["alone", "in a chain"])
def test_what_could_not_be_loaded_is_refused_before_it_is_written(inside, tmp_path):
    class Demanding(Shift, name="demanding"):
        """Its hyperparameter is not in _options."""
        _options = ()

        def __init__(self, by):
            self.by = by

    nameless, path = under_another_name(Shift)(), tmp_path / "m"
    small().fit(REAL).save(path)
    before = path.read_bytes()
    try:
        for mine, message in ((nameless, r"Nameless is not registered.*class Nameless\(Transform, name='nameless'\)"),
                              (Demanding(1.0), r"cannot be made again from its config\(\) .*_options")):
            with pytest.raises(TypeError, match=f"^preprocess: .*{message}") as caught:
                small(preprocess=inside(mine)).fit(REAL).save(path)
            assert "\n" not in str(caught.value) and path.read_bytes() == before and os.listdir(tmp_path) == ["m"]
    finally:
        del base._CLASSES["Demanding"], base._NAMES["demanding"]


def test_load_wants_a_map_of_ones_own_defined_first(tmp_path, monkeypatch):
    small(preprocess="shift").fit(REAL).save(tmp_path / "m")
    monkeypatch.delitem(base._CLASSES, "Shift")
    with pytest.raises(npgen.LoadError, match="preprocess has class 'Shift'; known are .* before load$") as caught:
        npgen.load(tmp_path / "m")
    assert str(caught.value).startswith(str(tmp_path / "m")) and "\n" not in str(caught.value)


def test_names_of_maps_are_one_each_and_a_cell_that_runs_again_replaces_its_own():
    def define(name, module):
        return type("Again", (Shift,), {"__module__": module}, name=name)

    try:
        define("again", "notebook")
        newer = define("again", "notebook")
        assert type(make("again", REAL)) is newer
        for name, module in (("again", "other"), ("standardize", "other")):
            with pytest.raises(ValueError, match="is registered already, for "):
                define(name, module)
        for name in ("auto", "a+b", "", 3):
            with pytest.raises(ValueError, match="give a word without"):
                define(name, "notebook")
    finally:
        base._CLASSES.pop("Again"), base._NAMES.pop("again")


def test_make_copies_an_object_and_refuses_what_it_does_not_know():
    mine = Logit(alpha=0.01)
    assert make(mine, None) is not mine and make(mine, None).alpha == 0.01
    with pytest.raises(TypeError, match="preprocess is 3; give None, a name"):
        make(3, REAL)


finite = st.floats(allow_nan=False, allow_infinity=False)
anywhere = st.one_of(finite, st.sampled_from([0.0, 1e30, -1e30, 1.7976931348623157e308, -1.7976931348623157e308, 5e-324, 37.0]))


@settings(max_examples=300, deadline=None)
@given(st.lists(anywhere, min_size=4, max_size=4), st.sampled_from([0.0, 1e-12, 1e-6, 0.05, 0.49]),
       st.sampled_from([np.float32, np.float64]))
def test_logit_never_leaves_its_bounds(z, alpha, dtype):
    p = Logit(alpha=alpha).fit(UNIT)
    x = p.to_data(None, np.clip([z], np.finfo(dtype).min, np.finfo(dtype).max).astype(dtype))[0]
    assert x.dtype == dtype and (0 <= x).all() and (x <= 1).all()
    assert all(np.isfinite(a).all() for a in p.to_noise(None, x))


@settings(max_examples=300, deadline=None)
@given(st.lists(anywhere, min_size=4, max_size=4), st.sampled_from([np.float32, np.float64]),
       st.sampled_from([case for case, (build, _) in CASES.items() if "dequantize" not in case]))
def test_maps_of_extreme_rows_are_finite_or_refused(values, dtype, case):
    p, _ = fitted(case)
    rows = np.clip([values], np.finfo(dtype).min, np.finfo(dtype).max).astype(dtype)
    with np.errstate(all="ignore"):
        assert all(np.isfinite(a).all() for a in p.to_data(None, rows))
        try:
            z, log_det = p.to_noise(None, rows)
        except ValueError as error:
            assert re.search(r"(Logit|Log): .* at x\[0, [0-3]\] ", str(error))
            return
    assert np.isfinite(z).all() and np.isfinite(log_det).all()
