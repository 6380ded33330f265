"""Laws of the monotone rational-quadratic splines: a bijection, its derivative, its gradients, and mistakes that these find."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutants import Mutant

from npgen import kernels, splines
from npgen.engine import grad
from npgen.kernels import spline

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
BACKENDS = pytest.mark.parametrize("backend", ["reference", "numba"])
WAYS = pytest.mark.parametrize("way", ["to_noise", "to_data"])
BOX, WIDE = 5.0, [0, 50, -50, 1e4, -1e4]
FORWARD = {"to_noise": spline.to_noise, "to_data": spline.to_data}
BACKWARD = {"to_noise": spline.to_noise_backward, "to_data": spline.to_data_backward}
SEEDS = st.integers(0, 2**32 - 1)


def parameters(rng, n, d, bins, size=1.0, wide=0.0):
    """Raw parameters: normals of this size, a share of them extreme."""
    raw = rng.normal(size=(n, d * (3 * bins - 1))) * size
    return np.where(rng.random(raw.shape) < wide, rng.choice(WIDE, raw.shape), raw)


def places(params, bins, dtype=np.float64, box=BOX):
    """For every row of params, of one feature, values at all knots, at the box's ends, beside both, and between: (n, many)."""
    box, starts = dtype(box), []
    for of in (0, bins):
        p = spline._Bins._softmax(params[:, of:of + bins].astype(float))
        starts.append(np.cumsum(2 * float(box) * (p + spline.LEAST * (1 - bins * p)), axis=1) - float(box))
    knots = np.concatenate([np.full((len(params), 1), -box), np.full((len(params), 1), box), *starts], axis=1).astype(dtype)
    beside = [np.nextafter(knots, dtype(to)) for to in (-np.inf, np.inf)]
    between = np.broadcast_to(np.linspace(-1.2 * box, 1.2 * box, 97), (len(params), 97))
    return np.concatenate([knots, *beside, between], axis=1).astype(dtype)


def through(kernel, v, params, bins, box=BOX):
    """Every value of v (n, many) by the spline of its row."""
    answers = kernel(v.reshape(-1, 1), np.repeat(params, v.shape[1], axis=0).astype(v.dtype), bins, box)
    return [a.reshape(v.shape) for a in answers]


def steepest_back(params, v, bins):
    """The largest dx/dz of the bin of each value and its neighbours."""
    answers = []
    for k in range(3):
        near = np.clip(v + (k - 1) * 1e-9, -BOX, BOX).reshape(-1, 1)
        bin = spline._Bins(near, np.repeat(params, v.shape[1], axis=0), bins, BOX, False)
        for t in np.linspace(0, 1, 33):
            den, q = bin.at(t, 1 - t)
            answers.append((den / bin.s) ** 2 / q)
    return np.max(answers, axis=0).reshape(v.shape)


# --- laws ------------------------------------------------------------------------------------------------------------

def law_inverse(seed=0, size=1.0, wide=0.0, bins=8):
    params = parameters(np.random.default_rng(seed), 20, 1, bins, size, wide)
    v = places(params, bins)
    for one, other in (FORWARD.values(), reversed(FORWARD.values())):
        there, log_det = through(one, v, params, bins)
        back, opposite = through(other, there, params, bins)
        error = np.abs(back - v)
        if size < 1 and not wide:
            assert error.max() <= 1e-12 and np.abs(log_det + opposite).max() <= 1e-11
        if one is spline.to_noise:
            assert (error <= 64 * np.finfo(float).eps * BOX * (1 + steepest_back(params, v, bins))).all()


def law_log_det(seed=0):
    rng = np.random.default_rng(seed)
    params, v, h = parameters(rng, 30, 1, 8), rng.uniform(-5.5, 5.5, (30, 40)), 1e-6
    for kernel in FORWARD.values():
        log_det = through(kernel, v, params, 8)[1]
        slope = (through(kernel, v + h, params, 8)[0] - through(kernel, v - h, params, 8)[0]) / (2 * h)
        np.testing.assert_allclose(log_det, np.log(slope), atol=1e-4)
        assert np.median(np.abs(log_det - np.log(slope))) < 1e-8  # but for those h from a knot, which the slope bends at


def law_smooth(seed=0):
    """The derivative is one and the same from both sides of a knot, and 1 at the ends of the box."""
    params = parameters(np.random.default_rng(seed), 30, 1, 8)
    for of, kernel in zip((False, True), FORWARD.values(), strict=True):
        knots = places(params, 8)[:, 2 + 8 * of:10 + 8 * of]
        left, right = (through(kernel, np.nextafter(knots, to), params, 8)[1] for to in (-np.inf, np.inf))
        np.testing.assert_allclose(left, right, atol=1e-9)


def law_gradients(seed=0, bins=5):
    """Those of the kernels are the derivatives along a direction."""
    rng = np.random.default_rng(seed)
    v, params, g_log = rng.uniform(-6, 6, (40, 3)), parameters(rng, 40, 3, bins), rng.normal(size=40)
    g, dv, dparams = rng.normal(size=v.shape), rng.normal(size=v.shape), rng.normal(size=params.shape)

    def objective(kernel, v, params):
        ans, log_det = kernel(v, params, bins, BOX)
        return (g * ans).sum(axis=1) + g_log * log_det

    for way, kernel in FORWARD.items():
        at = v if way == "to_noise" else kernel(v, params, bins, BOX)[0]
        by_v, by_params = BACKWARD[way](g, g_log, at, params, bins, BOX, True, True)
        h = 1e-6
        for got, along in ((by_v * dv, (dv, 0 * params)), (by_params * dparams, (0 * v, dparams))):
            want = [objective(kernel, v + k * h * along[0], params + k * h * along[1]) for k in (1, -1)]
            got, want = got.sum(axis=1), (want[0] - want[1]) / (2 * h)
            close = np.abs(got - want) <= 1e-6 * (1 + np.abs(want))
            assert close.mean() >= 0.95  # a row that has a value within h of a knot may be off: false alarm < 1e-9


def law_identity(dtype=np.float64, exact=True):
    rng = np.random.default_rng(0)
    for bins in range(1, 17):
        for box in (5.0, 3.3, 0.7):
            edges = places(np.zeros((1, 3 * bins - 1)), bins, dtype, box)[0]
            x = np.concatenate([rng.uniform(-1.2 * box, 1.2 * box, 400), edges]).astype(dtype).reshape(-1, 1)
            params = np.zeros((len(x), 3 * bins - 1), dtype)
            for kernel in FORWARD.values():
                ans, log_det = kernel(x, params, bins, box)
                allowed = 0 if exact else 4 * np.finfo(dtype).eps
                assert np.abs(ans - x).max() <= allowed * box and np.abs(log_det).max() <= 4 * allowed


def law_monotone(dtype=np.float64, seed=0, wide=0.2):
    params = parameters(np.random.default_rng(seed), 20, 1, 8, 3, wide).astype(dtype)
    v = np.sort(places(params, 8, dtype), axis=1)
    for kernel in FORWARD.values():
        ans = through(kernel, v, params, 8)[0]
        assert (np.diff(ans, axis=1) >= -8 * np.finfo(dtype).eps * BOX).all()
        assert (np.abs(ans[np.abs(v) < BOX]) <= BOX).all()  # the box onto the box


def law_outside(dtype=np.float64):
    """Values outside are left alone, to the bit, and no parameter has a say in them; one at an end of the box is outside."""
    rng = np.random.default_rng(0)
    x = np.array([[5.0, -5.0, 5.1, -1e30, np.inf, -np.inf, np.nan, np.nextafter(dtype(5), dtype(9))]], dtype)
    params = parameters(rng, 1, x.size, 4, 2, 0.1).astype(dtype)
    g, g_log = rng.normal(size=x.shape).astype(dtype), np.ones(1, dtype)
    for way, kernel in FORWARD.items():
        ans, log_det = kernel(x, params, 4, BOX)
        assert ans.tobytes() == x.tobytes() and log_det[0] == 0
        dx, dparams = BACKWARD[way](g, g_log, x, params, 4, BOX, True, True)
        assert dx.tobytes() == g.tobytes() and not dparams.any()


def law_finite(dtype=np.float64, seed=0):
    params = parameters(np.random.default_rng(seed), 20, 1, 8, 1, 0.5).astype(dtype)
    v = places(params, 8, dtype)
    params = np.repeat(params, v.shape[1], axis=0)
    one = np.ones((v.size, 1), dtype)
    for way, kernel in FORWARD.items():
        ans, log_det = kernel(v.reshape(-1, 1), params, 8, BOX)
        at = v.reshape(-1, 1) if way == "to_noise" else ans
        gradients = BACKWARD[way](one, one[:, 0].copy(), at, params, 8, BOX, True, True)
        for a in (ans, log_det, *gradients):
            assert np.isfinite(a).all()


# --- they hold -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size, wide", [(0.5, 0), (1, 0), (3, 0), (1, 0.2), (1, 0.6)])
@BACKENDS
@settings(max_examples=5)
@given(seed=SEEDS, bins=st.integers(1, 12))
def test_one_way_inverts_the_other(backend, size, wide, seed, bins):
    with kernels.using(backend):
        law_inverse(seed, size, wide, bins)


@BACKENDS
def test_log_det_is_the_logarithm_of_the_derivative(backend):
    with kernels.using(backend):
        law_log_det()


@BACKENDS
def test_the_derivative_is_continuous(backend):
    with kernels.using(backend):
        law_smooth()


@BACKENDS
@pytest.mark.parametrize("bins", [1, 2, 5, 8])
def test_gradients_are_the_derivatives(backend, bins):
    with kernels.using(backend):
        law_gradients(bins=bins)


@DTYPES
@BACKENDS
def test_zero_parameters_are_the_identity(backend, dtype):
    """To the bit; of the reference, whose formula is the paper's, to a few ulp of the box."""
    with kernels.using(backend):
        law_identity(dtype, exact=backend == "numba")


@DTYPES
@BACKENDS
@settings(max_examples=6)
@given(seed=SEEDS)
def test_it_is_monotone_and_finite_everywhere(backend, dtype, seed):
    with kernels.using(backend):
        law_monotone(dtype, seed)
        law_finite(dtype, seed)


@DTYPES
@BACKENDS
def test_outside_the_box_nothing_moves(backend, dtype):
    with kernels.using(backend):
        law_outside(dtype)


def everything(x, params, bins, both=(True, True)):
    z, log_det = spline.to_noise(x, params, bins, BOX)
    y, opposite = spline.to_data(x, params, bins, BOX)
    return [z, log_det, y, opposite, *spline.to_noise_backward(x, log_det, x, params, bins, BOX, *both),
            *spline.to_data_backward(x, log_det, y, params, bins, BOX, *both)]


@DTYPES
@pytest.mark.parametrize("d", [1, 3, 64, 200])
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(dtype, d):
    rng = np.random.default_rng(d)
    x, params = (rng.normal(size=(300, d)) * 3).astype(dtype), parameters(rng, 300, d, 8, 1, 0.01).astype(dtype)
    whole = everything(x, params, 8)
    for part in (slice(0, 1), slice(7, 94), slice(299, 300)):
        for a, b in zip(everything(x[part], params[part], 8), whole, strict=True):
            assert a.tobytes() == b[part].tobytes()
    params[50] = np.nan
    others = np.arange(300) != 50
    for a, b in zip(everything(x, params, 8), whole, strict=True):
        assert a[others].tobytes() == b[others].tobytes()


@BACKENDS
@WAYS
def test_what_is_not_wanted_is_not_computed(backend, way):
    rng = np.random.default_rng(0)
    args = rng.normal(size=(9, 4)), rng.normal(size=9), rng.normal(size=(9, 4)), parameters(rng, 9, 4, 8), 8, BOX
    with kernels.using(backend):
        whole = BACKWARD[way](*args, True, True)
        for wants in ((True, False), (False, True), (False, False)):
            for got, full, want in zip(BACKWARD[way](*args, *wants), whole, wants, strict=True):
                assert got.shape == (full.shape if want else (0, 0)) and (not want or got.tobytes() == full.tobytes())


@pytest.mark.parametrize("wanted, flags", [(0, (True, False)), (1, (False, True)), ((0, 1), (True, True))])
@WAYS
def test_an_op_asks_for_what_it_is_asked(monkeypatch, way, wanted, flags):
    rng, seen, run = np.random.default_rng(0), [], BACKWARD[way].numba
    monkeypatch.setattr(BACKWARD[way], "numba", lambda *args: seen.append(args[-2:]) or run(*args))
    op = getattr(splines, f"spline_{way}")
    grad(lambda v, p: np.sum(op(v, p, 3)[0]), wanted)(rng.normal(size=(5, 2)), parameters(rng, 5, 2, 3))
    assert seen == [flags]


@pytest.mark.parametrize("op", [splines.spline_to_noise, splines.spline_to_data])
def test_an_op_refuses_what_does_not_fit(op):
    x, params = np.zeros((4, 2)), np.zeros((4, 46))
    with pytest.raises(ValueError, match=r"have shape \(4, 2\) and params \(4, 46\), but 7 bins need \(n, d\) and \(n, 20 d\)"):
        op(x, params, 7)
    with pytest.raises(ValueError, match="bins must be 1 to 999 and box a positive number, got 8 and 0"):
        op(x, params, box=0)
    with pytest.raises(ValueError, match="bins must be 1 to 999"):
        op(np.zeros((1, 1)), np.zeros((1, 2999)), 1000)


# --- mistakes, planted in the references, and the law that each breaks -----------------------------------------------

MISTAKES = {
    "height for width": ("_to_data_reference", "bin.X + bin.w * t", "bin.X + bin.h * t", law_inverse),
    "the other root": ("_to_data_reference", "np.where(p >= 0", "np.where(p < 0", law_inverse),
    "bins found among the knots of the other axis": ("_Bins.__init__", "starts[of_z]", "starts[not of_z]", law_inverse),
    "sign of the inverse's log-det": ("_to_data_reference", "-np.log(", "np.log(", law_log_det),
    "log-det: denominator not squared": ("_to_noise_reference", "(bin.s / den) ** 2", "(bin.s / den)", law_log_det),
    "log-det: middle term halved": ("_Bins.at", "2 * self.s * t * u", "self.s * t * u", law_log_det),
    "derivatives of the wrong knots": ("_Bins.__init__", "self._chosen(derivatives, 1)", "self._chosen(derivatives)",
                                       law_smooth),
    "derivative at the box's ends not 1": ("_Bins.__init__", "one = np.ones", "one = 2 * np.ones", law_identity),
    "shift forgotten": ("_Bins.__init__", " + SHIFT", "", law_identity),
    "tails before the clamp": ("_Bins.__init__", "np.where(self.inside, v, 0)", "v", law_outside),
    "box one ulp too wide": ("_Bins.__init__", "np.abs(v) < box", "np.abs(v) <= box", law_outside),
    "gradient: bins before forgotten": ("_gradients", "np.where(k < number, before[..., None],", "np.where(k < 0, 0,",
                                        law_gradients),
    "gradient: softmax not centred": ("_gradients", " - (p * g).sum(axis=-1, keepdims=True)", "", law_gradients),
    "gradient: log-det's share of the slope": ("_gradients", " + dlog * bend", "", law_gradients),
    "gradient: ends exchanged": ("_gradients", "k[1:] == number, dd0", "k[1:] == number, dd1", law_gradients),
    "gradient: minimal sizes forgotten": ("_gradients", "(1 - bins * LEAST)", "1", law_gradients),
    "gradient: the inverse's sign": ("_gradients", "dv, dlog = (dlog * bend - dv) / slope, -dlog",
                                     "dv, dlog = (dlog * bend - dv) / slope, dlog", law_gradients),
    "gradient outside the box": ("_gradients", "np.where(bin.inside, dlog_det[:, None], 0)", "dlog_det[:, None] + 0 * dz",
                                 law_outside),
    "no least size": ("_Bins.__init__", "p + LEAST * (1 - bins * p)", "p", law_finite),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_breaks_its_law(name):
    where, old, new, law = MISTAKES[name]
    with Mutant(name, "", f"kernels.spline:{where}", old, new).made(), np.errstate(all="ignore"), pytest.raises(AssertionError):
        law(exact=False) if law is law_identity else law()
