"""The kernel of trajectories against its reference: any shape, any threads, the emulated device; and its op's formula."""
import itertools

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuda import on_device

from npgen import kernels
from npgen.engine import jacobian
from npgen.kernels import trajectory
from npgen.models.ode import FIRST_LAYERS
from npgen.ode import N_FEATURES, SOLVERS, Trajectory, features, held, integrate
from npgen.testing import check_grads, check_kernel

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def launch(seed, n, d, hidden, w, g, e, steps, dtype, solver="rk4", want=True, held=True, sine=False):
    """A launch over the time 1, of a network whose units are of size 1; held: about half the rows are beyond its reach."""
    rng = np.random.default_rng(seed)
    widths = np.array([d + w + e, *hidden, d])
    shapes = zip(widths, widths[1:], strict=False)
    layers = [(rng.normal(size=i * j) / np.sqrt(max(i, 1)), rng.normal(size=j)) for i, j in shapes]
    alpha, beta = (np.array(a, np.float64) for a in SOLVERS[solver])
    times = (steps, len(alpha))
    reach = rng.uniform(0.5, 1.5, times) * np.sqrt(d) if held else np.full(times, np.inf)
    return (rng.normal(size=(n, d)).astype(dtype), np.concatenate([a for layer in layers for a in layer]).astype(dtype), widths,
            rng.normal(size=(n, g * w)).astype(dtype), np.array([1.0]) if g == 1 else np.linspace(-0.5, 1.5, g) / g * 2,
            rng.normal(size=(*times, e)), np.stack([reach, rng.uniform(-1, 1, times)], axis=-1),
            rng.choice([-1, 1]) * np.full(times, 1 / max(steps, 1)), alpha, beta, want, sine)


def tolerance(dtype, args):
    """Two hundred roundings of the largest number, which steps of slope 1 or so amplify."""
    with kernels.using("reference"):
        y, log_det = trajectory.solve(*args)
    return 200 * np.finfo(dtype).eps * (1 + abs(y).max(initial=0) + abs(log_det).max(initial=0) + len(args[1])**0.5)


@DTYPES
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.sampled_from([0, 1, 59, 61, 130]), d=st.sampled_from([1, 2, 17]),
       hidden=st.tuples(*[st.sampled_from([1, 8, 33])] * 2), w=st.integers(0, 3), g=st.integers(1, 3), e=st.integers(0, 4),
       steps=st.integers(0, 3), solver=st.sampled_from(list(SOLVERS)), want=st.booleans(), held=st.booleans(),
       sine=st.booleans())
def test_agrees_with_the_reference(dtype, seed, n, d, hidden, w, g, e, steps, solver, want, held, sine):
    args = launch(seed, n, d, hidden, w, g, e, steps, dtype, solver, want, held, sine)
    check_kernel(trajectory.solve, *args, rtol=0, atol=tolerance(dtype, args))


@DTYPES
def test_deep_products_are_cut_into_parts(dtype):
    args = launch(0, 7, 3, (450, 810), 2, 2, 3, 2, dtype)
    check_kernel(trajectory.solve, *args, rtol=0, atol=tolerance(dtype, args))


@DTYPES
def test_same_bits_for_any_thread_count_and_whatever_rows_are_beside_a_row(dtype):
    x, params, widths, context, *rest = launch(1, 400, 5, (33, 40), 2, 2, 3, 4, dtype)
    before, answers = numba.get_num_threads(), set()
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            y, log_det = trajectory.solve(x, params, widths, context, *rest)
            answers.add(y.tobytes() + log_det.tobytes())
    finally:
        numba.set_num_threads(before)
    assert len(answers) == 1
    for rows in ([0], [399, 3], np.arange(17, 90), np.arange(400)[::-1]):
        some = trajectory.solve(*(np.ascontiguousarray(a[rows]) for a in (x,)), params, widths,
                                np.ascontiguousarray(context[rows]), *rest)
        assert some[0].tobytes() == y[rows].tobytes() and some[1].tobytes() == log_det[rows].tobytes()


@DTYPES
@pytest.mark.parametrize("size", [(0, 2, (3, 4), 1, 1, 2, 2), (1, 1, (1, 1), 0, 1, 0, 1), (9, 3, (5, 300), 2, 2, 3, 2),
                                  (6, 300, (7, 4), 0, 1, 1, 2)], ids=str)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_device_agrees_with_the_reference(cupy, size, solver, dtype):
    for want, sine in itertools.product((True, False), (True, False)):
        args = launch(2, *size, dtype, solver, want, sine=sine)
        loose, got = tolerance(dtype, args), on_device(cupy, trajectory.solve, args)
        with kernels.using("reference"):
            wanted = trajectory.solve(*args)
        for one, expected in zip(got, wanted, strict=True):
            assert one.dtype == dtype and one.shape == expected.shape
            np.testing.assert_allclose(one, expected, rtol=0, atol=loose)
        for schedule in 1, 2:
            assert [a.tobytes() for a in on_device(cupy, trajectory.solve, args, schedule, 9)] == [a.tobytes() for a in got]


def test_widths_that_do_not_fit_are_refused():
    args = launch(0, 3, 2, (3, 4), 1, 1, 2, 2, np.float64)
    wrong = [(3, np.ones((3, 2))), (6, args[6][:, :, :1].copy()),
             (2, np.array([5, 3, 4, 3])), (5, args[5][:, :, :1].copy()), (4, np.ones(0)), (1, args[1][1:])]
    for place, value in wrong:
        with pytest.raises(kernels.KernelError, match="kernel trajectory.solve"):
            trajectory.solve(*args[:place], value, *args[place + 1:])


def straight(tau):
    """alpha, sigma and their derivatives of a straight path."""
    return 1 - tau, tau, -np.ones_like(tau), np.ones_like(tau)


EXTENT = 1.3, 0.8  # of which the rows of random_trajectory are within, beside and beyond
extents = pytest.mark.parametrize("extent", [None, EXTENT])
first_layers = pytest.mark.parametrize("first_layer", FIRST_LAYERS)


def random_trajectory(extent=None, d=3, w=2, seed=0, first_layer="silu"):
    """A trajectory of a random network, its parameters, rows and their contexts, with guidance."""
    rng, ode = np.random.default_rng(seed), Trajectory("ode", d, w, (6, 5), straight, lambda tau: -1 - tau, extent,
                                                       first_layer=first_layer)
    p = {"ode": rng.normal(size=ode.shapes()["ode"]) / 2}
    return ode, p, rng.normal(size=(4, d)), (rng.normal(size=(4, 2 * w)), (-0.5, 1.5))


@extents
@first_layers
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_formula_is_the_kernels_and_has_its_derivatives(solver, first_layer, extent):
    """log |det| against finite differences by rows and by parameters: what is differentiated is the formula."""
    ode, p, w, given = random_trajectory(extent, first_layer=first_layer)
    y, log_det = ode.to_noise(p, w, *given, 3, solver)
    at, tau = SOLVERS[solver][0], np.arange(3)[:, None] / 3
    times = tau + np.array(at) / 3
    table = features(times), -(1 + times) / 3

    def velocity(w, t, s):
        e = np.broadcast_to(table[0][t, s], (4, N_FEATURES))
        each = [ode.field.with_divergence(p["ode"], w, c, e) for c in np.split(given[0], 2, axis=1)]
        F, div = [sum(share * one for share, one in zip(given[1], parts, strict=True)) for parts in zip(*each, strict=True)]
        if extent is None:
            return F, div
        F, div = held(F, div[:, None], w, ode.rim(times[t, s]))
        np.testing.assert_allclose(ode.velocity(p, w, *given, times[t, s]), F, atol=1e-12)
        return F, div[:, 0]

    want = integrate(velocity, w, table[1], *map(np.array, SOLVERS[solver]))
    np.testing.assert_allclose(y, want[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(log_det, want[1], rtol=0, atol=1e-12)
    check_grads(lambda w, flat: ode.to_noise({"ode": flat}, w, *given, 3, solver)[1], w, p["ode"], order=1)


@extents
@first_layers
def test_log_det_is_that_of_the_map_where_steps_are_fine(first_layer, extent):
    ode, p, w, given = random_trajectory(extent, first_layer=first_layer)
    for i in range(4):
        one = tuple(np.asarray(a[i:i + 1]) for a in given[:1]) + given[1:]
        whole = jacobian(lambda row, one=one: ode.to_noise(p, row[None], *one, 60)[0][0])(w[i])
        log_det = ode.to_noise(p, w[i:i + 1], *one, 60)[1][0]
        assert abs(np.linalg.slogdet(whole)[1] - log_det) < (1e-6 if extent is None else 1e-4)
        assert abs(ode.to_noise(p, w[i:i + 1], *one, 60, "euler")[1][0] - log_det) > 1e-4  # steps are no matter of course


@DTYPES
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_beyond_its_reach_a_steep_network_has_no_say(backend, dtype):
    """A row far out goes on as one of N(0, rms^2 I), to 1 / rms of where it is; none runs off, however far or near it is."""
    ode, p, w, given = random_trajectory(EXTENT, d=2)
    ode.rate = lambda tau: -np.ones_like(tau)
    p, given = {"ode": (20 * p["ode"]).astype(dtype)}, (given[0].astype(dtype), given[1])
    apart = Trajectory("ode", 2, 2, (6, 5), straight, ode.rate)
    with kernels.using(backend):
        for size in (0, 1e-3, 0.5, 0.9, 1, 1.1, 1.2, 2, 10, 1e4, 1e15):
            rows = (size * EXTENT[0] * w / np.sqrt(np.square(w).sum(axis=1, keepdims=True))).astype(dtype)
            y, log_det = ode.to_noise(p, rows, *given, 80)
            assert np.isfinite(y).all() and np.isfinite(log_det).all()
            if size > 10:
                np.testing.assert_allclose(y, rows / EXTENT[1], rtol=1e-5)
                np.testing.assert_allclose(log_det, -2 * np.log(EXTENT[1]), rtol=1e-5)
        assert not np.isfinite(apart.to_noise(p, rows, *given, 80)[0]).all()  # which is what there is to be held


@DTYPES
def test_a_wave_is_the_sine_of_sums_however_many_turns_long(dtype):
    """One Euler step of F = silu(sin x) at rows x. Off by the rounding of z alone, up to 10^4 turns."""
    z, none, once = np.linspace(-6e4, 6e4, 1001, dtype=dtype)[:, None], np.zeros((1001, 0), dtype), np.ones((1, 1))
    params, still = np.array([1, 0, 1, 0, 1, 0], dtype), np.stack([np.inf * once, 0 * once], axis=-1)
    y, log_det = trajectory.solve(z, params, np.ones(4, np.int64), none, np.ones(1), np.ones((1, 1, 0)), still, once,
                                  np.zeros(1), np.ones(1), True, True)
    sine, cosine = np.sin(z.astype(np.float64)), np.cos(z.astype(np.float64))
    s = 1 / (1 + np.exp(-sine))
    np.testing.assert_allclose(y - z, sine * s, rtol=0, atol=6e4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(log_det, (cosine * s * (1 + sine * (1 - s)))[:, 0], rtol=0, atol=6e4 * np.finfo(dtype).eps)


@first_layers
def test_the_divergence_is_the_trace_of_the_jacobian(first_layer):
    ode, p, w, given = random_trajectory(first_layer=first_layer)
    c, e = given[0][:, :2], np.linspace(-1, 1, 4 * N_FEATURES).reshape(4, N_FEATURES)
    F, div = ode.field.with_divergence(p["ode"], w, c, e)
    np.testing.assert_allclose(F, ode.field(p, w, c, e), rtol=0, atol=1e-13)
    for i in range(4):
        whole = jacobian(lambda row, i=i: ode.field(p, row[None], c[i:i + 1], e[i:i + 1])[0])(w[i])
        np.testing.assert_allclose(div[i], np.trace(whole), rtol=0, atol=1e-12)
