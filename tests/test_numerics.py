"""Numbers at length: 100,000 points per elementwise function against mpmath, and torch's own sample inputs for our ops."""
import warnings

import mpmath
import numpy as np
import pytest
from test_kernels import ELEMENTWISE, applied

from npgen import ops
from npgen.engine import vjp

N = 100_000
ALLOWED = {np.float64: 2.0, np.float32: 4.0}  # ulp
OPS = {
    "ops.sigmoid": (ops.sigmoid, lambda x: 1 / (1 + mpmath.exp(-x)), (-80, 100), (-700, 700)),
    "ops.softplus": (ops.softplus, lambda x: mpmath.log1p(mpmath.exp(x)), (-80, 100), (-700, 700)),
    "ops.log_sigmoid": (lambda x: -ops.softplus(-x), lambda x: -mpmath.log1p(mpmath.exp(-x)), (-100, 80), (-700, 700)),
}
FUNCTIONS = {name: (lambda x, f=f: applied(f, x), exact, *ranges) for name, (f, exact, _, *ranges) in ELEMENTWISE.items()} | OPS


def points(dtype, low, high):
    """100,000 values: even over the range, of every size, subnormal, near 0 and 1 and the ends, where digits cancel."""
    rng, info = np.random.default_rng(1), np.finfo(dtype)
    magnitudes = np.exp(rng.uniform(np.log(info.smallest_subnormal), np.log(info.max), N // 4)) * rng.choice([-1, 1], N // 4)
    subnormal = rng.integers(1, 2**20, N // 20) * float(info.smallest_subnormal) * rng.choice([-1, 1], N // 20)
    near = np.concatenate([centre + rng.normal(size=N // 20) * 10.0 ** rng.uniform(-9, -1, N // 20)
                           for centre in (0, 1, -1, low, high)])
    x = np.concatenate([magnitudes, subnormal, near])
    x = x[(low <= x) & (x <= high)]
    x = np.concatenate([x, rng.uniform(low, high, N - len(x))]).astype(dtype)
    return np.clip(x, dtype(low), dtype(high))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ALLOWED)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementwise_functions_on_100_000_points(name, dtype):
    f, exact, *ranges = FUNCTIONS[name]
    x = points(dtype, *ranges[dtype is np.float64])
    got, worst = f(x), 0.0
    with mpmath.workprec(90 if dtype is np.float32 else 120):
        for value, answer in zip(x.tolist(), got.tolist(), strict=True):
            want = exact(mpmath.mpf(value))
            ulp = float(np.spacing(dtype(abs(float(want)))))
            worst = max(worst, float(abs(answer - want)) / ulp)
    print(f"{name}, {np.dtype(dtype).name}: {worst:.2f} ulp on {len(x):,} points")
    assert len(x) == N and worst <= ALLOWED[dtype]


@pytest.mark.parametrize("dtype", ALLOWED)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ends_of_the_line(name, dtype):
    f, *_ = FUNCTIONS[name]
    x = np.array([np.nan, np.inf, -np.inf, np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max, 0.0, -0.0], dtype)
    with np.errstate(all="ignore"):
        got = f(x)
    bounded = name in ("cos", "sin", "exp_small", "exp_small_fused")
    assert got.dtype == dtype and np.isnan(got[0]) and (bounded or not np.isnan(got[3:6]).any())


# ---------------------------------------------------------------- torch's sample inputs

def _reduced(f):
    def call(x, dim=None, keepdim=False, **kw):
        if kw or np.ndim(x) == 0:  # torch gives a number an axis
            raise NotImplementedError
        return f(x, axis=tuple(dim) if isinstance(dim, (list, tuple)) else dim, keepdims=keepdim)
    return call


def _along(f):
    def call(x, *args):
        if np.ndim(x) == 0:
            raise NotImplementedError
        return f(x, *args)
    return call


def _solve(a, b):
    if np.ndim(b) != np.ndim(a):  # which NumPy takes for matrices
        raise NotImplementedError
    return np.linalg.solve(a, b)


def _plain(f):
    def call(*args, **kw):
        if kw:
            raise NotImplementedError(kw)
        return f(*args)
    return call


def _softmax(f):
    def call(x, dim=None, *args, dtype=None, **kw):
        if dtype is not None or kw or args or np.ndim(x) == 0:
            raise NotImplementedError
        return f(x, axis=dim)
    return call


NAMED = {  # torch's name for it -> ours; one that takes other arguments than ours raises NotImplementedError
    **{name: _plain(getattr(np, name)) for name in
       "exp expm1 exp2 log log1p log2 log10 sin cos tan sinh cosh tanh sqrt square abs reciprocal logaddexp hypot maximum "
       "minimum matmul dot inner tril triu".split()},
    "asin": _plain(np.arcsin), "acos": _plain(np.arccos), "atan": _plain(np.arctan), "atan2": _plain(np.arctan2),
    "asinh": _plain(np.arcsinh), "acosh": _plain(np.arccosh), "atanh": _plain(np.arctanh), "neg": _plain(np.negative),
    "add": _plain(np.add), "sub": _plain(np.subtract), "mul": _plain(np.multiply), "true_divide": _plain(np.true_divide),
    "pow": _plain(np.power), "sigmoid": _plain(ops.sigmoid), "erf": _plain(ops.erf), "digamma": _plain(ops.digamma),
    "lgamma": _plain(ops.gammaln), "nn.functional.relu": _plain(ops.relu), "sum": _reduced(np.sum), "mean": _reduced(np.mean),
    "logsumexp": lambda x, dim, keepdim=False: _logsumexp(x, dim, keepdim), "softmax": _softmax(ops.softmax),
    "log_softmax": _softmax(ops.log_softmax), "cumsum": _along(np.cumsum),
    "flip": lambda x, dims: np.flip(x, tuple(dims)), "linalg.inv": _plain(np.linalg.inv), "linalg.det": _plain(np.linalg.det),
    "linalg.solve": _solve, "reshape": lambda x, shape: np.reshape(x, tuple(shape)),
    "transpose": _along(np.swapaxes), "broadcast_to": lambda x, shape: np.broadcast_to(x, tuple(shape)),
}


def _logsumexp(x, dim, keepdim):
    if np.ndim(x) == 0 or isinstance(dim, (tuple, list)) and len(dim) != 1:
        raise NotImplementedError
    return ops.logsumexp(x, axis=dim[0] if isinstance(dim, (tuple, list)) else dim, keepdims=keepdim)


def _opinfo():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        methods = pytest.importorskip("torch.testing._internal.common_methods_invocations", exc_type=ImportError,
                                      reason="torch's OpInfo needs expecttest")
    return torch, {(op.name, op.variant_test_name): op for op in methods.op_db}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchs_sample_inputs():
    """Values and gradients agree to 1e-10 on every sample input of torch's OpInfo that our op takes."""
    torch, database = _opinfo()
    taken, tried = {}, 0
    for (name, variant), info in database.items():
        if name not in NAMED or variant:
            continue
        for sample in info.sample_inputs("cpu", torch.float64, requires_grad=True):
            tensors = [sample.input, *sample.args]
            arrays = [t.detach().numpy().copy() if isinstance(t, torch.Tensor) else t for t in tensors]
            which = [i for i, t in enumerate(tensors) if isinstance(t, torch.Tensor) and t.requires_grad]
            tried += 1
            try:
                def ours(*values, arrays=arrays, which=which, kw=sample.kwargs, f=NAMED[name]):
                    given = list(arrays)
                    for i, value in zip(which, values, strict=True):
                        given[i] = value
                    return f(*given, **kw)
                value, pull = vjp(ours, *(arrays[i] for i in which))
            except (NotImplementedError, TypeError):
                continue
            want = info.op(sample.input, *sample.args, **sample.kwargs)
            theirs = want.detach().numpy()
            assert np.shape(value) == theirs.shape, name
            np.testing.assert_allclose(value, theirs, rtol=1e-10, atol=1e-10, err_msg=name)
            g = np.random.default_rng(tried).normal(size=theirs.shape)
            grads = torch.autograd.grad(want, [tensors[i] for i in which], torch.from_numpy(g), allow_unused=True)
            for mine, its in zip(pull(g), grads, strict=True):
                its = np.zeros_like(mine) if its is None else its.numpy()
                np.testing.assert_allclose(mine, its, rtol=1e-9, atol=1e-9, err_msg=f"gradient of {name}")
            taken[name] = taken.get(name, 0) + 1
    print(f"{sum(taken.values())} of {tried} sample inputs of {len(taken)} ops: values and gradients agree")
    assert len(taken) >= 50 and sum(taken.values()) >= 300
