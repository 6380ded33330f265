"""Every op: derivatives against finite differences and complex steps, NumPy's values, dtypes, shapes and edge cases.

CASES is the table: a name, a function written as a user writes it (NumPy where NumPy has it) and float64 inputs. A new op
needs a line there; test_every_rule_has_an_example says which one is missing.
"""
import itertools

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from npgen import ops
from npgen.engine import OVERRIDES, Node, NoRuleError, Primitive, Tensor, grad, value_and_grad, vjp
from npgen.masks import Plan
from npgen.testing import check_grads

rng = np.random.default_rng(0)
X, Y, ROW = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.normal(size=3)
CUBE, M, V = rng.normal(size=(2, 3, 4)), rng.normal(size=(3, 5)), rng.normal(size=3)
POS, UNIT, BIG = np.abs(X) + 0.5, np.tanh(X) * 0.9, np.abs(X) + 1.5
SPD, SPDS = X.T @ X + np.eye(3), CUBE @ np.swapaxes(CUBE, 1, 2) + np.eye(3)
SQUARE, SQUARES = SPD + rng.normal(size=(3, 3)) / 3, SPDS + rng.normal(size=(2, 3, 3)) / 3
LOWERS, MASK = np.linalg.cholesky(SPDS), rng.random((3, 5)) < 0.5
PLAN = Plan(MASK)
BOOLS, ROWS, INF = X > 0, np.array([0, 0, 2]), np.inf


def sym(a):
    return (a + np.swapaxes(a, -1, -2)) / 2


def holes(x):
    return np.where(np.eye(4, 3) > 0, np.nan, x)


CASES = {
    # elementwise
    "add": (lambda x, y: x + y, X, ROW),
    "subtract": (lambda x, y: x - y, X, ROW),
    "multiply": (lambda x, y: x * y, X, ROW),
    "divide": (lambda x, y: x / y, X, POS),
    "power": (lambda x, y: x ** y, POS, ROW),
    "power-number": (lambda x: x ** 3 + 2 ** x + x ** -1.5 + x ** 0 + x ** 1, POS),
    "remainder": (lambda x, y: x % y, X, POS),
    "floor_divide": (lambda x, y: x * (x // y), X, POS),
    "positive": (lambda x: +x, X),
    "copy": (np.copy, X),
    "negative": (lambda x: -x, X),
    "reciprocal": (np.reciprocal, POS),
    "absolute": (abs, X),
    "square": (np.square, X),
    "sqrt": (np.sqrt, POS),
    "cbrt": (np.cbrt, X),
    "hypot": (np.hypot, X, ROW),
    "exp": (np.exp, X),
    "expm1": (np.expm1, X),
    "exp2": (np.exp2, X),
    "log": (np.log, POS),
    "log1p": (np.log1p, POS),
    "log2": (np.log2, POS),
    "log10": (np.log10, POS),
    "sin": (np.sin, X),
    "cos": (np.cos, X),
    "tan": (np.tan, UNIT),
    "arcsin": (np.arcsin, UNIT),
    "arccos": (np.arccos, UNIT),
    "arctan": (np.arctan, X),
    "arctan2": (np.arctan2, X, ROW),
    "sinh": (np.sinh, X),
    "cosh": (np.cosh, X),
    "tanh": (np.tanh, X),
    "arcsinh": (np.arcsinh, X),
    "arccosh": (np.arccosh, BIG),
    "arctanh": (np.arctanh, UNIT),
    "logaddexp": (np.logaddexp, X, ROW),
    "maximum": (np.maximum, X, ROW),
    "minimum": (np.minimum, X, ROW),
    "where": (lambda x, y: np.where(BOOLS, x, y), X, ROW),
    "clip": (lambda x: np.clip(x, -0.5, 0.7) * x, X),
    "clip-bounds": (np.clip, X, X * 0 - 0.5, ROW * 0 + 0.7),
    "relu": (lambda x: ops.relu(x) * x, X),
    "sigmoid": (ops.sigmoid, X),
    "softplus": (ops.softplus, X),
    "bounded": (lambda x: ops.bounded(x, 3.0), X),
    "astype": (lambda x: x.astype(x.dtype) * x, X),
    "erf": (scipy.special.erf, X),
    "gammaln": (scipy.special.gammaln, POS),
    "normal_log_mass": (lambda x, y: ops.normal_log_mass(3 * x, 3 * x + np.exp(y)), X, ROW),
    "digamma": (scipy.special.psi, POS),
    "expit": (scipy.special.expit, X),
    # shape and indexing
    "reshape": (lambda x: np.reshape(x, (2, -1)) * x.reshape(2, 6), X),
    "ravel": (lambda x: np.ravel(x) * x.ravel(), X),
    "expand_dims": (lambda x: np.expand_dims(x, (0, -1)) * x[None, :, :, None], X),
    "squeeze": (lambda x: np.squeeze(x[:, :1], axis=1) * np.squeeze(x[:, :1]), X),
    "broadcast_to": (lambda x: np.broadcast_to(x, (2, 4, 3)) ** 2, X[:, :1]),
    "transpose": (lambda x: np.transpose(x, (1, -1, 0)) ** 2, CUBE),
    "transpose-all": (lambda x: np.transpose(x) * x.T + x.transpose() * x.transpose(2, 1, 0) * x.transpose((2, 1, 0)), CUBE),
    "swapaxes": (lambda x: np.swapaxes(x, 0, -1) * x.swapaxes(0, 2), CUBE),
    "moveaxis": (lambda x: np.moveaxis(x, (0, 1), (-1, 0)) ** 2, CUBE),
    "flip": (lambda x: np.flip(x) * np.flip(x, 0) * np.flip(x, (0, 1)), X),
    "roll": (lambda x: np.roll(x, 2) * np.roll(x, -1, axis=0) * np.roll(x, (1, 2), axis=(0, 1)), X),
    "tril": (lambda x: np.tril(x) * np.tril(x, 1), X),
    "triu": (lambda x: np.triu(x) * np.triu(x, -1), X),
    "concatenate": (lambda x, y: np.concatenate([x, y, x], axis=-1) ** 2, X, Y[:, :2]),
    "concatenate-flat": (lambda x, y: np.concatenate([x, y], axis=None) ** 2, X, ROW),
    "concatenate-constant": (lambda x: np.concatenate([np.ones((1, 3), x.dtype), x]) ** 2, X),
    "stack": (lambda x, y: np.stack([x, y], axis=-1) * np.stack([y, x], axis=-1), X, Y),
    "hstack": (lambda x, y: np.hstack([x, y]) ** 2, X, Y),
    "hstack-vectors": (lambda x: np.hstack([x, x ** 2]), V),
    "vstack": (lambda x, y: np.vstack([x, y]) ** 2, X, ROW),
    "column_stack": (lambda x, y: np.column_stack([x, y]) ** 2, X, Y[:, 0]),
    "split": (lambda x: np.split(x, 2)[1] * np.split(x, [1, 3])[1], X),
    "split-every": (lambda x: np.concatenate(np.split(x, 3, axis=-1)[::-1]) ** 2, X),
    "take": (lambda x: np.take(x, ROWS, axis=-1) * np.take(x, [5]) * x.take(1), X),
    "take_along_axis": (lambda x: np.take_along_axis(x, np.argsort(-x, axis=1), axis=1) * x, X),
    "sort": (lambda x: np.sort(x, axis=0) * np.sort(x) * np.sort(x, axis=None)[0], X),
    "repeat": (lambda x: np.repeat(x, 2, axis=0)[1:5] * np.repeat(x, [1, 0, 2], axis=1) * np.repeat(x, 2)[7], X),
    "repeat-method": (lambda x: x.repeat(3) ** 2, X),
    "tile": (lambda x: np.tile(x, 2)[:, :3] * np.tile(x, (2, 2, 1))[1, 4:] * np.sum(np.tile(x, 0)), X),
    "tile-more": (lambda x: np.tile(x, (2, 1)) ** 2, CUBE),
    "pad": (lambda x: np.pad(x, ((1, 0), (0, 2))) ** 2, X),
    "pad-modes": (lambda x: sum(np.pad(x, (1, 2), m) ** 2 for m in ("edge", "reflect", "symmetric", "wrap")), X),
    "pad-value": (lambda x: np.pad(x, 1, constant_values=3.0) ** 2 + np.pad(x, (2, 0)), X),
    "diff": (lambda x: np.diff(x)[1:3] * np.diff(x, 2, axis=0)[:, :2], X),
    "full_like": (lambda x: np.full_like(x, x[0, 0]) * x, X),
    "diagonal": (lambda x: np.diagonal(x, axis1=2, axis2=1) ** 2, CUBE),
    "diagonal-offset": (lambda x: np.diagonal(x, 1)[:2] * np.diagonal(x, -1)[:2] * np.sum(np.diagonal(x, -9)), X),
    "diag": (lambda x: np.diag(np.diag(x)) * np.diag(np.diag(x, -1)) * np.diag(np.diag(x), 1)[:3, :3], X),
    "trace": (lambda x: np.trace(x) * np.trace(x, offset=1), X),
    "cumsum": (lambda x: np.cumsum(x, axis=0) * np.cumsum(x, -1) * np.cumsum(x)[0], X),
    "scatter": (lambda x: ops.scatter(x, (ROWS, slice(None)), (5, 3)) ** 2, X[:3]),
    # products
    "matmul": (lambda x, y: x @ y, X, M),
    "matmul-vectors": (lambda x, y: (x @ y) * np.matmul(y, x), V, ROW),
    "matmul-left-vector": (lambda x, y: x @ y, V, M),
    "matmul-right-vector": (lambda x, y: x @ y, X, V),
    "matmul-stacks": (lambda x, y: x @ y, CUBE, rng.normal(size=(5, 1, 4, 2))),
    "matmul-stack-vector": (lambda x, y: x @ y, CUBE, rng.normal(size=4)),
    "matmul-vector-stack": (lambda x, y: x @ y, V, CUBE),
    "dot": (lambda x, y: np.dot(x, y) * x.dot(y), X, M),
    "dot-scalar": (lambda x, y: np.dot(x, y), X, np.array(1.5)),
    "outer": (np.outer, V, X),
    "inner": (np.inner, X, Y),
    "inner-scalar": (np.inner, X, np.array(1.5)),
    "tensordot": (lambda x, y: np.tensordot(x, y, axes=([1, 0], [0, 1])), CUBE, rng.normal(size=(3, 2, 5))),
    "tensordot-number": (lambda x, y: np.tensordot(x, y, 1) * np.sum(np.tensordot(x, y, 0)), X, M),
    "einsum": (lambda x, y: np.einsum("ij,jk->ik", x, y), X, M),
    "einsum-sum": (lambda x, y: np.einsum("ij,jk->k", x, y) * np.einsum("ij, kl ->", x, y), X, M),
    "einsum-three": (lambda x, y, z: np.einsum("ij,jk,k->i", x, y, z), X, M, rng.normal(size=5)),
    "einsum-implicit": (lambda x, y: np.einsum("ij,jk", x, y) + np.einsum("kj,ji", y.T, x.T), X, M),
    "einsum-trace": (lambda x: np.einsum("ii", x) * np.einsum("ii->i", x) * np.einsum("ij,jj,jk", x, x, x), SPD),
    "einsum-thrice": (lambda x: np.einsum("iiij->ji", x[:, None, None] * x[:, :, None, None] * x[:, None, :, None]), SPD),
    "einsum-ellipsis": (lambda x, y: np.einsum("...ij,...jk", x, y) * np.einsum("i...,...", x, x[0])[..., :2].sum(), CUBE,
                        rng.normal(size=(5, 1, 4, 2))),
    "einsum-broadcast": (lambda x, y: np.einsum("...i,...i->...", x, y), X, Y[:1]),
    # linear algebra
    "cholesky": (lambda a: np.linalg.cholesky(sym(a)), SPDS),
    "inv": (np.linalg.inv, SQUARES),
    "logdet": (ops.logdet, SQUARES),
    "slogdet": (lambda a: np.linalg.slogdet(a)[1] * np.linalg.slogdet(a)[0], -SQUARE),
    "det": (np.linalg.det, SQUARES),
    "solve": (np.linalg.solve, SQUARE, M),
    "solve-vector": (np.linalg.solve, SQUARES, V),
    "solve-stacks": (np.linalg.solve, SQUARES[:, None], rng.normal(size=(3, 3, 2))),
    "norm": (lambda x: np.linalg.norm(x) * np.linalg.norm(x, axis=1) * np.linalg.norm(x, 2, axis=1), X),
    "norm-vectors": (lambda x: sum(np.linalg.norm(x, p, -1, keepdims=True) for p in (1, 2, 3, 1.5, INF, -INF)), CUBE),
    "solve_triangular": (lambda a, b: ops.solve_triangular(np.tril(a), b), SQUARE, M),
    "solve_triangular-upper": (lambda a, b: ops.solve_triangular(a, b, lower=False), SQUARE, M),
    "solve_triangular-transpose": (lambda a, b: ops.solve_triangular(a, b, transpose=True), LOWERS, SPDS),
    "solve_triangular-both": (lambda a, b: ops.solve_triangular(a, b, lower=False, transpose=True), SQUARE, V),
    "solve_triangular-stacks": (lambda a, b: ops.solve_triangular(a, b), LOWERS, M),
    # kernels
    "masked_matmul": (lambda x, w, b: ops.masked_matmul(x, w, b, PLAN), X, M, rng.normal(size=5)),
    "linear": (lambda x, w, b: ops.linear(x, w, b) ** 2, X, M, rng.normal(size=5)),
    "reparameterize": (lambda m, s: ops.reparameterize(m, s, (1, 2), 5), X, Y),
    "logsumexp-weights": (lambda x, w: ops.logsumexp(x, weights=w), X, POS),
    "logsumexp-weights-row": (lambda x, w: ops.logsumexp(x, axis=0, weights=w), X, POS[0]),
    "log_softmax": (lambda x: ops.log_softmax(x) * ops.log_softmax(x, axis=0), X),
    "softmax": (lambda x: ops.softmax(x) * ops.softmax(x, axis=(0, 1)), X),
}

ON_HOST = {  # of compositions, linalg and complex numbers: not promised on a device
    "clip-keywords": (lambda x: np.clip(x, min=-0.5) * np.clip(x, max=0.7), X),
    "diff-ends": (lambda x: np.diff(x, prepend=0) * np.diff(x, append=x[:, :1]) * np.diff(x, 1, 0, 1, x)[:4], X),
    # elementwise, from NumPy's longer list
    "fabs": (np.fabs, X),
    "float_power": (lambda x: np.float_power(x, 2.5), POS),
    "radians": (lambda x: np.radians(x) * np.deg2rad(x), X),
    "degrees": (lambda x: np.degrees(x) * np.rad2deg(x), X),
    "deg2rad": (np.deg2rad, X),
    "rad2deg": (np.rad2deg, X),
    "logaddexp2": (np.logaddexp2, X, ROW),
    "copysign": (lambda x: np.copysign(x, -x) * np.copysign(x, 1.0), X),
    "ldexp": (lambda x: np.ldexp(x, np.array([1, 2, 3], np.int32)) ** 2, X),
    "divmod": (lambda x, y: np.divmod(x, y)[1] * np.divmod(x, y)[0], X, POS),
    "modf": (lambda x: np.modf(3 * x)[0] * np.modf(3 * x)[1] * x, X),
    "fmod": (np.fmod, 3 * X, POS),
    "fmax": (lambda x, y: np.fmax(np.where(BOOLS, np.nan, x), y) ** 2, X, ROW),
    "fmin": (lambda x, y: np.fmin(y, np.where(BOOLS, np.nan, x)) ** 2, X, ROW),
    "sinc": (lambda x: np.sinc(x) * np.sinc(x * 1e-3), X),
    "nan_to_num": (lambda x: np.nan_to_num(np.where(BOOLS, np.nan, x), nan=3.0) * x, X),
    "select": (lambda x, y: np.select([X > 0.5, X > 0], [x * y, y], x ** 3), X, Y),
    "choose": (lambda x, y: np.choose(BOOLS.astype(int), [x * y, y ** 2]), X, Y),
    "unwrap": (lambda x: np.unwrap(4 * x) ** 2, X),
    "polyval": (lambda p, x: np.polyval(p, x), V, X),
    "vander": (lambda x: np.vander(x) * np.vander(x, 3, increasing=True), V),
    # sums, order, statistics
    "nansum": (lambda x: np.nansum(np.where(BOOLS, np.nan, x), axis=0) * np.nansum(x), X),
    "nanprod": (lambda x: np.nanprod(np.where(BOOLS, np.nan, x), axis=0) * np.nanprod(x), X),
    "nanmean": (lambda x: np.nanmean(holes(x), axis=0) * np.nanmean(x), X),
    "nanvar": (lambda x: np.nanvar(holes(x), axis=0, ddof=1) * np.nanvar(x), X),
    "nanstd": (lambda x: np.nanstd(holes(x), axis=0, keepdims=True) * np.nanstd(x), X),
    "nanmax": (lambda x: np.nanmax(holes(x), axis=0) * np.nanmax(holes(x)), X),
    "nanmin": (lambda x: np.nanmin(holes(x), axis=0) * np.nanmin(holes(x)), X),
    "nancumsum": (lambda x: np.nancumsum(holes(x), axis=0) * x, X),
    "nancumprod": (lambda x: np.nancumprod(holes(x), axis=0) * x, X),
    "amax": (np.amax, X),
    "amin": (np.amin, X),
    "average": (lambda x, w: np.average(x, weights=w) * np.average(x, axis=0, weights=w[:, 0]) * np.average(x, 1)[:3], X, POS),
    "average-returned": (lambda x, w: np.stack(np.average(x, axis=1, weights=w, returned=True)), X, POS),
    "ptp": (lambda x: np.ptp(x) * np.ptp(x, axis=0), X),
    "cumprod": (lambda x: np.cumprod(x, axis=0) * np.cumprod(x, -1) * x.cumprod()[5], X),
    "cumulative_prod": (lambda x: np.cumulative_prod(x, axis=0), X),
    "cumulative_sum": (lambda x: np.cumulative_sum(x, axis=0) ** 2, X),
    "quantile": (lambda x: np.quantile(x, [0.1, 0.6], axis=1)[:, :3] * np.quantile(x, 0.3, axis=0, keepdims=True), X),
    "quantile-axes": (lambda x: np.quantile(x, [[0.1, 0.6]], axis=(0, 2), keepdims=True) ** 2, CUBE),
    "percentile": (lambda x: np.percentile(x, 30) * np.percentile(x, [20, 90], axis=0), X),
    "median": (lambda x: np.median(x) * np.median(x, axis=0) * np.median(x[:3], axis=0), X),
    "partition": (lambda x: np.partition(x, 2, axis=0)[2] * np.partition(x, 5, axis=None)[5], X),
    "cov": (lambda x, y: np.cov(x) * np.sum(np.cov(x, y, rowvar=False, bias=True)) + np.cov(x[0], ddof=0), X, Y),
    "corrcoef": (lambda x, y: np.corrcoef(x)[:3, :3] * np.corrcoef(x, y, rowvar=False)[:3, :3], X, Y),
    "bincount": (lambda w: np.bincount([0, 2, 2], w, 5) ** 2, V),
    "trapezoid": (lambda x: np.trapezoid(x, axis=0) * np.trapezoid(x, dx=0.5)[:3], X),
    "trapezoid-points": (lambda y, x: np.trapezoid(y, x, axis=0) * np.trapezoid(y, x[:, 0], axis=0), X, Y),
    "gradient": (lambda x: np.gradient(x)[0] * np.gradient(x, 0.5, axis=1) * np.gradient(x, 2.0, edge_order=2)[1], X),
    "gradient-points": (lambda f, x: np.gradient(f, x, axis=0) * np.gradient(f, x, x[:3], edge_order=2)[1], X,
                        np.cumsum(POS[:, 0])),
    "interp": (lambda x, xp, fp: np.interp(x, xp, fp), 2 * X, np.cumsum(POS[:, 0]) - 2, Y[:, 0]),
    "interp-outside": (lambda x, fp: np.interp(x, [-0.5, 0, 0.5], fp, 3.0) * np.interp(x, [-0.5, 0, 0.5], fp, right=2.0), X, V),
    "ediff1d": (lambda x: np.ediff1d(x, to_begin=x[0, 0], to_end=[1, 2]) ** 2, X),
    # shapes, from NumPy's longer list
    "fliplr": (lambda x: np.fliplr(x) * x, X),
    "flipud": (lambda x: np.flipud(x) * x, X),
    "matrix_transpose": (lambda x: np.matrix_transpose(x) * np.linalg.matrix_transpose(x) * x.mT, CUBE),
    "append": (lambda x, y: np.append(x, y, axis=0) * np.append(x, x[0])[:3], X, Y),
    "atleast_1d": (lambda x: np.atleast_1d(x[0, 0]) * np.atleast_1d(x, x)[1], X),
    "atleast_2d": (lambda x: np.atleast_2d(x[0]) * np.atleast_2d(x) * np.atleast_2d(x[0, 0]), X),
    "atleast_3d": (lambda x: np.atleast_3d(x[0]) * np.atleast_3d(x)[:3] * np.atleast_3d(x[0, 0]) * np.atleast_3d(x[None])[0, 0],
                   X),
    "dstack": (lambda x, y: np.dstack([x, y]) * np.dstack([x[0], y[0]]), X, Y),
    "broadcast_arrays": (lambda x, y: np.multiply(*np.broadcast_arrays(x, y)), X, ROW),
    "unstack": (lambda x: np.unstack(x)[1] * np.unstack(x, axis=1)[0][:3], X),
    "compress": (lambda x: np.compress([True, False, True], x, axis=1) ** 2, X),
    "extract": (lambda x: np.extract(X > 0, x) ** 2, X),
    "delete": (lambda x: np.delete(x, [0, 2], axis=0)[:1] * np.delete(x, 1), X[:, :1]),
    "resize": (lambda x: np.resize(x, (3, 5)) ** 2, X),
    "rollaxis": (lambda x: np.rollaxis(x, 2) ** 2 * np.sum(np.rollaxis(x, 0, 3)), CUBE),
    "diagflat": (lambda x: np.diagflat(x, 1) ** 2, M),
    "insert": (lambda x, y: np.insert(x, 1, y, axis=0)[:3] * np.insert(x, [0, 2], y[None] ** 2, axis=0)[:3], V[:, None] * V, V),
    "insert-flat": (lambda x: np.insert(x, 2, 5.0) * np.insert(x, [1, 3], x[0, :2])[:13], X),
    "rot90": (lambda x: np.rot90(x) * np.rot90(x, -1) * np.rot90(x, 3) + np.rot90(np.rot90(x, 2), axes=(1, 0)), X),
    "meshgrid": (lambda x, y: np.multiply(*np.meshgrid(x, y)) * np.multiply(*np.meshgrid(x, y, sparse=True)), V, M[0]),
    "meshgrid-ij": (lambda x, y: np.multiply(*np.meshgrid(x, y, indexing="ij")), V, M[0]),
    "array_split": (lambda x: np.array_split(x, 3)[0] * np.array_split(x, [1, 3])[1], X),
    "hsplit": (lambda x: np.hsplit(x, 3)[0] * np.hsplit(x, [1, 2])[1], X),
    "vsplit": (lambda x: np.vsplit(x, 2)[0] * x[:2], X),
    "dsplit": (lambda x: np.dsplit(x, 2)[0] * x[:, :, :2], CUBE),
    "block": (lambda x, y: np.block([[x, y], [y, x]]) ** 2, X, Y),
    "linspace": (lambda x, y: np.linspace(x, y, 5) * np.linspace(x, y, 5, endpoint=False), V, ROW),
    "logspace": (lambda x, y: np.logspace(x, y, 4, base=2.0), V, ROW),
    "geomspace": (lambda x, y: np.geomspace(x, y, 4, axis=-1), POS[0], POS[1]),
    # complex numbers on the way
    "fft": (lambda x: abs(np.fft.fft(x)) + abs(np.fft.fft(x, 7, 0, "ortho"))[:4], X),
    "ifft": (lambda x: np.real(np.fft.ifft(np.fft.fft(x) ** 2)) + np.fft.ifft(x, norm="forward").imag, X),
    "rfft": (lambda x: abs(np.fft.rfft(x, axis=0)[:2]) * abs(np.fft.rfft(x, 5)[0, 0]), X),
    "irfft": (lambda x: np.fft.irfft(np.fft.rfft(x) * np.exp(x[:, :2])) ** 2, X),
    "irfft-odd": (lambda x: np.fft.irfft(np.fft.rfft(x, norm="ortho"), 3, norm="ortho") ** 2 * np.fft.irfft(x[:, :2], 3), X),
    "hfft": (lambda x: np.fft.hfft(np.fft.ihfft(x, norm="ortho"), 3, norm="forward") * np.fft.hfft(x, 3), X),
    "ihfft": (lambda x: abs(np.fft.ihfft(x)), X),
    "fft2": (lambda x: abs(np.fft.fft2(x)) ** 2, X),
    "ifft2": (lambda x: np.real(np.fft.ifft2(np.fft.fft2(x, (3, 4)) ** 2)), X),
    "rfft2": (lambda x: abs(np.fft.rfft2(x)) ** 2, X),
    "irfft2": (lambda x: np.fft.irfft2(np.fft.rfft2(x) ** 2, (4, 3)), X),
    "fftn": (lambda x: abs(np.fft.fftn(x, axes=(0, 2))) ** 2, CUBE),
    "ifftn": (lambda x: np.real(np.fft.ifftn(np.fft.fftn(x, norm="ortho") ** 2)), CUBE),
    "rfftn": (lambda x: abs(np.fft.rfftn(x)) ** 2, CUBE),
    "irfftn": (lambda x: np.fft.irfftn(np.fft.rfftn(x) ** 2), CUBE),
    "fftshift": (lambda x: np.fft.fftshift(x) * np.fft.fftshift(x, 1), X),
    "ifftshift": (lambda x: np.fft.ifftshift(x) * np.fft.ifftshift(x, (1,)), X),
    "real": (lambda x: np.real(np.exp(1j * x)) * np.exp(1j * x).real * np.real(x), X),
    "imag": (lambda x: np.imag(np.exp(1j * x) * x) + x.imag * x, X),
    "conj": (lambda x: np.real(np.conj(np.exp(1j * x)) * (2 + 1j) * x) * x.conj(), X),
    "angle": (lambda x: np.angle(np.exp(1j * x) * (2 + 1j)) * np.angle(1 + 1j * x, deg=True), X),
    "absolute-complex": (lambda x: abs(x * (1 + 2j) + np.exp(1j * x)), X),
    "std-complex": (lambda x: np.std(np.exp(1j * x), axis=0) * np.var(np.exp(1j * x)) * np.linalg.norm(np.exp(1j * x) * x), X),
    "vdot": (np.vdot, X, Y),
    "vecdot": (lambda x, y: np.vecdot(x, y) + np.linalg.vecdot(x, y, axis=-1), X, ROW),
    "matvec": (np.matvec, CUBE, rng.normal(size=4)),
    "vecmat": (np.vecmat, V, CUBE),
    "kron": (lambda x, y: np.kron(x, y) * np.sum(np.kron(y, x[0])), X, M),
    "cross": (lambda x, y: np.cross(x, y) * np.linalg.cross(y, x), X, ROW),
    "cross-axes": (lambda x, y: np.cross(x, y, axisa=1, axisc=0), CUBE, ROW),
    "convolve": (lambda x, y: np.convolve(x, y) * np.convolve(y, x), V, M[0]),
    "convolve-modes": (lambda x, y: np.convolve(x, y, "same")[:3] * np.convolve(y, x, "valid"), V, M[0]),
    "correlate": (lambda x, y: np.correlate(x, y, "full") * np.correlate(y, x, "full"), V, M[0]),
    "correlate-modes": (lambda x, y: np.correlate(x, y, "same")[:3] * np.correlate(y, x) * np.correlate(x, y), V, M[0]),
    "reduce": (lambda x: np.add.reduce(x) * np.multiply.reduce(x, axis=1)[:3] * np.maximum.reduce(x, axis=None), X),
    "accumulate": (lambda x: np.add.accumulate(x) * np.multiply.accumulate(x, axis=1), X),
    "outer-method": (lambda x, y: np.subtract.outer(x, y) * np.multiply.outer(x, y), X, V),
    "norm-matrices": (lambda x: sum(np.linalg.norm(x, p, axis=(2, 0)) for p in ("fro", "nuc", 1, -1, 2, -2, INF, -INF)), CUBE),
    "norm-keepdims": (lambda x: np.linalg.norm(x, "nuc", (0, 2), True) * np.linalg.norm(x, 1, (1, 2), keepdims=True), CUBE),
    "vector_norm": (lambda x: np.linalg.vector_norm(x) * np.linalg.vector_norm(x, axis=1, ord=3), X),
    "matrix_norm": (lambda x: np.linalg.matrix_norm(x) * np.linalg.matrix_norm(x, ord=2, keepdims=True)[..., 0, 0], CUBE),
    "eigh": (lambda a: np.linalg.eigh(sym(a))[0] * np.sum(np.linalg.eigh(sym(a))[1][..., 0, :2] ** 2), SPDS),
    "eigh-upper": (lambda a: np.linalg.eigh(sym(a), "U").eigenvectors ** 2, SPDS),
    "eigh-function": (lambda a: (lambda w, v: (v * np.log(w)) @ v.T)(*np.linalg.eigh(sym(a))), SPD),
    "eigvalsh": (lambda a: np.linalg.eigvalsh(sym(a)) ** 2, SPDS),
    "svd": (lambda a: (lambda u, s, vh: (u * s ** 2) @ vh)(*np.linalg.svd(a, full_matrices=False)), X),
    "svd-wide": (lambda a: (lambda u, s, vh: (u * np.exp(s)[..., None, :]) @ vh)(*np.linalg.svd(a, full_matrices=False)), CUBE),
    "svd-square": (lambda a: np.linalg.svd(a).U ** 2 + np.linalg.svd(a).Vh ** 2 * np.linalg.svd(a, compute_uv=False), SQUARE),
    "svdvals": (lambda a: np.linalg.svdvals(a) ** 2, CUBE),
    "cond": (np.linalg.cond, SQUARES),
    "qr": (lambda a: np.linalg.qr(a).Q @ np.linalg.qr(a).R ** 2, X),
    "qr-stacks": (lambda a: np.linalg.qr(a)[0] @ np.sin(np.linalg.qr(a, "r")), np.swapaxes(CUBE, 1, 2)),
    "qr-wide": (lambda a: np.linalg.qr(a)[0] @ np.sin(np.linalg.qr(a)[1]), CUBE),
    "pinv": (np.linalg.pinv, X),
    "pinv-wide": (lambda a: np.linalg.pinv(a) ** 2, CUBE),
    "pinv-rank": (lambda x, y: np.linalg.pinv(x @ y), X[:, :2], M[:2]),
    "lstsq": (lambda a, b: np.linalg.lstsq(a, b)[0] * np.sum(np.linalg.lstsq(a, b)[1]), X, Y),
    "lstsq-vector": (lambda a, b: (lambda x, _, rank, s: x * s)(*np.linalg.lstsq(a, b)), X, X[:, 0] ** 2),
    "multi_dot": (lambda x, y: np.linalg.multi_dot([x, y, y.T, x.T]), X, M),
    "matrix_power": (lambda a: sum(np.linalg.matrix_power(a, n) for n in (5, -2, 1, 0)), SQUARES),
}

INDICES = {
    "int": 1, "negative": -1, "slice": slice(1, None, 2), "backwards": np.s_[::-1, ::-2], "ellipsis": np.s_[..., 0],
    "newaxis": np.s_[:, None, 1], "list": [0, 0, 2], "numpy-int": np.int64(2), "empty-list": [], "0-d": np.array(1),
    "pairs": ([0, 0, 3], [1, 1, 2]), "mixed": (slice(None), [2, 2]),
    "mask": BOOLS, "row-mask": np.array([True, False, False, True]), "no-row": np.zeros(4, bool),
    "mask-and-list": ([True, False, True, True], [0, 1, 1]), "matrix": np.array([[0, 1], [1, 1]]),
}
CASES |= {f"getitem-{name}": (lambda x, index=index: x[index] ** 2, X) for name, index in INDICES.items()}

AXES = [None, 0, -1, (0, 2), (-1, 0), ()]
REDUCTIONS = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min, "var": np.var, "std": np.std, "prod": np.prod,
              "logsumexp": ops.logsumexp}
CASES |= {f"{name}-{axis}{'-keepdims' * keep}": (lambda x, r=reduction, a=axis, k=keep: r(x, axis=a, keepdims=k), CUBE)
          for (name, reduction), axis, keep in itertools.product(REDUCTIONS.items(), AXES, [False, True])
          if not (name == "std" and axis == ())}  # a standard deviation of one number is 0, where sqrt has no derivative
CASES |= {f"method-{name}": (lambda x, n=name: getattr(x, n)() * getattr(x, n)(axis=0), X)
          for name in ("sum", "mean", "var", "std", "prod", "max", "min")}
CASES |= {"var-ddof": (lambda x: np.var(x, axis=0, ddof=1) * np.std(x, ddof=2), X),
          "max-ties": (lambda x: np.max(x * 0 + 1, axis=1) * x[:, 0], X)}

HOLOMORPHIC = ["add", "subtract", "multiply", "divide", "power", "power-number", "negative", "reciprocal", "square", "sqrt",
               "exp", "expm1", "exp2", "log", "log1p", "log2", "log10", "sin", "cos", "tan", "arcsin", "arccos", "arctan",
               "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "matmul", "einsum", "inv", "solve", "det", "cumsum",
               "getitem-list", "concatenate", "prod-None", "sum-0", "mean-0", "transpose", "diagonal", "pad", "tensordot"]

CASES |= ON_HOST

EVERY = pytest.mark.parametrize("name", CASES)


@EVERY
def test_derivatives_match_finite_differences(name):
    f, *inputs = CASES[name]
    check_grads(f, *inputs, order=2)


@pytest.mark.parametrize("name", HOLOMORPHIC)
def test_derivatives_match_complex_steps(name):
    f, *inputs = CASES[name]
    value, pull = vjp(f, *inputs)
    r, step = np.random.default_rng(1), 1e-20
    w, v = r.normal(size=np.shape(value)), [r.normal(size=x.shape) for x in inputs]
    want = np.sum(w * f(*(x + 1j * step * d for x, d in zip(inputs, v, strict=True))).imag) / step
    terms = [d * g for d, g in zip(v, pull(w), strict=True)]
    scale = sum(np.abs(t).sum() for t in terms)
    assert abs(sum(t.sum() for t in terms) - want) <= 1e-13 * scale


@EVERY
def test_value_on_tensors_is_the_value_on_arrays(name):
    f, *inputs = CASES[name]
    want, (got, _) = f(*inputs), vjp(f, *inputs)
    assert (np.shape(got), got.dtype) == (np.shape(want), want.dtype)
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-15)


# Where NumPy itself makes float64 of float32.
WIDENED = {"diff-ends", "float_power", "vander", "quantile", "quantile-axes", "percentile", "cov", "corrcoef", "bincount",
           "interp", "interp-outside", "geomspace", "gradient-points"}


@EVERY
def test_float32_stays_float32(name, monkeypatch):
    f, *inputs = CASES[name]
    inputs = [x.astype(np.float32) for x in inputs]
    value, pull = vjp(f, *inputs)
    if name in WIDENED:
        return
    assert f(*inputs).dtype == value.dtype == np.float32
    if name != "astype":
        monkeypatch.setitem(OVERRIDES, "astype", lambda x, dtype: pytest.fail(f"a gradient of dtype {x.dtype} had to be cast"))
    gradients = pull(np.ones_like(value))
    assert [g.dtype for g in gradients] == [np.float32] * len(inputs)
    assert [g.shape for g in gradients] == [x.shape for x in inputs]

    # and so does the gradient of the gradient
    second = grad(lambda x: np.sum(vjp(f, x, *inputs[1:])[1](np.ones_like(value))[0]))(inputs[0])
    assert second.dtype == np.float32


# Every function of NumPy that asks its arguments what it should do, and which of them npgen says nothing about.
UNSPOKEN = [getattr(np, name) for name in """
bitwise_and bitwise_or bitwise_xor bitwise_invert bitwise_count bitwise_left_shift bitwise_right_shift gcd lcm packbits
unpackbits busday_count busday_offset is_busday isnat datetime_as_string einsum_path ix_ ravel_multi_index unravel_index
frexp nextafter i0 real_if_close sort_complex polyadd polyder polydiv polyint polymul polysub
""".split()]


def _numpy_functions():
    for module in (np, np.linalg, np.fft):
        for name in module.__all__:
            f = getattr(module, name)
            if isinstance(f, np.ufunc) or type(f).__name__ == "_ArrayFunctionDispatcher":
                yield name, f


def test_every_function_of_numpy_has_a_rule_or_says_what_to_write_instead():
    functions = dict(_numpy_functions())
    assert len(functions) > 300
    assert sorted(name for name, f in functions.items() if f not in OVERRIDES and f not in UNSPOKEN) == []
    x = Tensor(np.eye(3), Node(), 1)
    for f in functions.values():
        if f not in OVERRIDES:
            with pytest.raises((NoRuleError, TypeError)):
                f(x[0] if f is np.ix_ else x)
        elif OVERRIDES[f].__name__ == "refuse":
            with pytest.raises(NoRuleError, match=f"{f.__name__} has no derivative: .{{20}}"):
                OVERRIDES[f](x)


def _primitives():
    files = ops.rules, ops.elementwise, ops.shapes, ops.reductions, ops.products, ops.linalg
    named = [p for file in files for p in vars(file).values()]
    found = {id(p): p for p in [*named, *OVERRIDES.values()] if isinstance(p, Primitive)}
    return list(found.values())


def test_every_rule_has_an_example(monkeypatch):
    used, pullback = set(), Primitive._pullback

    def spy(self, i, *rest):
        used.add((id(self), 0 if self.each else i))
        return pullback(self, i, *rest)

    def watched(p, joint):
        def rule(*args, **params):
            used.add((id(p), 0))
            return joint(*args, **params)
        return rule

    monkeypatch.setattr(Primitive, "_pullback", spy)
    for p in _primitives():
        if p.joint:
            monkeypatch.setattr(p, "joint", watched(p, p.joint))
    for f, *inputs in CASES.values():
        check_grads(f, *inputs, order=2, rtol=1e300)
    missing = [f"{p.name}, argument {i}" for p in _primitives() for i, rule in enumerate(p.rules or (p.each or p.joint,))
               if rule is not None and (id(p), i) not in used]
    assert not missing, f"no line of CASES uses the derivative of {missing}"


def test_every_composed_op_has_an_example():
    heads = {name.partition("-")[0] for name in CASES}
    names = {key.__name__ for key, f in OVERRIDES.items() if hasattr(key, "__name__") and not isinstance(f, Primitive)
             and f.__name__ != "refuse"}
    assert names <= heads, f"CASES has no line for {names - heads}"


CONSTANTS = {p.name: p for p in _primitives() if not p.differentiable}
MORE = {"argpartition": (np.stack([ROW, V]), 1), "digitize": (V, np.sort(ROW)), "matrix_rank": (SPD,), "lexsort": (X,),
        "tril_indices_from": (SPD,), "triu_indices_from": (SPD,), "diag_indices_from": (SPD,), "can_cast": (V, float)}
TWO = {"less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "floor_divide", "logical_and", "logical_or",
       "isclose", "allclose", "array_equal", "searchsorted", "result_type", "heaviside", "isin", "logical_xor", "array_equiv",
       "may_share_memory", "shares_memory"}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_have_numpys_value_and_no_derivative(name):
    inputs = MORE.get(name, [np.sort(ROW), V][:1 + (name in TWO)])
    seen = []

    def f(x):
        seen.append(CONSTANTS[name](*[x][:1], *inputs[1:]))
        assert not isinstance(seen[-1], Tensor)
        return np.sum(x)

    np.testing.assert_array_equal(grad(f)(inputs[0]), np.ones(np.shape(inputs[0])))
    if name not in ("stop_gradient", "empty_like"):
        np.testing.assert_equal(seen[0], getattr(np, name, getattr(np.linalg, name, None))(*inputs))


UNARY = [name for name, (f, *_) in CASES.items() if isinstance(f, np.ufunc) and f.nin == 1 or f in (ops.sigmoid, ops.softplus)]


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0, 1)], ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_elementwise_at_0_d_and_empty(name, shape):
    f, x = CASES[name]
    for dtype in (np.float32, np.float64):
        at = np.full(shape, x[0, 0], dtype)
        value, pull = vjp(f, at)
        gradient, = pull(np.ones_like(value))
        assert (value.shape, value.dtype, gradient.shape, gradient.dtype) == (shape, dtype, shape, dtype)
        if shape == ():
            np.testing.assert_allclose(gradient, vjp(f, x)[1](np.ones_like(x))[0][0, 0], rtol=1e-5)


BINARY = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "power": np.power,
          "remainder": np.remainder, "hypot": np.hypot, "arctan2": np.arctan2, "logaddexp": np.logaddexp,
          "maximum": np.maximum, "minimum": np.minimum, "where": lambda x, y: np.where(np.bool_(True), x, y)}
PAIRS = [((4, 3), (3,)), ((4, 1), (1, 3)), ((), (2, 3)), ((2, 1, 3), (4, 1)), ((3,), (3,)), ((1, 1), ()), ((), ()),
         ((0, 3), (1, 3)), ((0,), ()), ((2, 1), (2, 0)), ((1,), (3, 1, 2))]


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_broadcast_pairs(name, shapes):
    r = np.random.default_rng(2)
    a, b = (0.5 + r.random(s) for s in shapes)
    for x, y in ((a, b), (b, a)):
        check_grads(BINARY[name], x, y, order=2)
        value, pull = vjp(BINARY[name], np.float32(x), np.float32(y))
        assert [g.dtype for g in pull(np.ones_like(value))] == [np.float32, np.float32]


@given(st.data())
def test_broadcasting_and_reducing_any_shapes(data):
    shape = data.draw(st.lists(st.integers(0, 3), max_size=4).map(tuple))
    small = tuple(1 if data.draw(st.booleans()) else n for n in shape)[data.draw(st.integers(0, len(shape))):]
    axis = data.draw(st.none() | st.sets(st.integers(-len(shape), len(shape) - 1).map(lambda a: a % len(shape))).map(tuple)
                     if shape else st.none())
    keepdims = data.draw(st.booleans())
    x, y = np.random.default_rng(0).normal(size=shape), np.random.default_rng(1).normal(size=small)
    check_grads(lambda x, y: np.sum(x * y + y, axis=axis, keepdims=keepdims) ** 2, x, y)


@pytest.mark.parametrize("scalar", [2, 2.5, np.float32(2.5), np.int64(2)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("operator", ["+", "-", "*", "/", "**", "%", "//", "@", "<", "=="])
def test_operators_with_plain_operands_on_either_side(operator, scalar):
    if operator == "@":
        forward, swapped, other = (lambda t, a: t @ a), (lambda t, a: a @ t), np.ones((3, 3))
    else:
        forward, swapped = eval(f"lambda t, a: t {operator} a"), eval(f"lambda t, a: a {operator} t")
        other = scalar
    x = np.array([[0.6, 1.4, 2.7]] * 3)
    for f in (forward, swapped):
        value, _ = vjp(lambda t, f=f: f(t, other), x)
        np.testing.assert_array_equal(value, f(x, other))
        if operator not in ("//", "<", "=="):
            check_grads(lambda t, f=f: f(t, other), x)
        if not isinstance(scalar, np.int64) and operator != "@":  # NumPy: a float32 array with an int64 scalar is float64
            value, pull = vjp(lambda t, f=f: f(t, other), np.float32(x))
            assert value.dtype == f(np.float32(x), other).dtype
            if value.dtype == np.float32:
                assert pull(np.ones_like(value))[0].dtype == np.float32


def test_augmented_assignment_is_functional():
    def f(x):
        t = x
        t += x
        t *= 3
        t @= np.eye(3)
        return np.sum(t * x)

    np.testing.assert_allclose(grad(f)(X), 12 * X)


def test_lists_and_iteration():
    check_grads(lambda x: np.stack([row * i for i, row in enumerate(x)]) ** 2 * [1.0, 2.0, 3.0], X)
    assert grad(lambda x: len(x) * x[0])(V).tolist() == [3, 0, 0]


# --- values and derivatives where they are delicate ------------------------------------------------------------------

@pytest.mark.parametrize("x, y, dx, dy", [(0.0, 2.0, 0, 0), (0.0, 1.0, 1, 0), (0.0, 0.0, 0, 0), (-2.0, 3.0, 12, np.nan),
                                          (3.0, 0.0, 0, np.log(3))], ids=str)
def test_power_at_zero_and_below(x, y, dx, dy):
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(grad(lambda x, y: x ** y, argnum=(0, 1))(x, y), (dx, dy))


def test_powers_of_zero_to_third_order():
    third = grad(grad(grad(lambda x: x ** 3 + x ** 2 + x)))
    assert third(0.0) == 6 and third(1.0) == 6
    np.testing.assert_allclose(grad(grad(lambda x, y: x ** y), argnum=1)(3.0, 0.0), 1 / 3)


@pytest.mark.parametrize("name, x, value, gradient", [
    ("sigmoid", [-800.0, -30.0, 0.0, 30.0, 800.0], [0, np.exp(-30) / (1 + np.exp(-30)), 0.5, 1, 1], None),
    ("softplus", [-800.0, -30.0, 0.0, 30.0, 800.0], [0, np.exp(-30), np.log(2), 30, 800], None),
    ("relu", [-1.0, 0.0, 2.0], [0, 0, 2], [0, 0, 1])], ids=["sigmoid", "softplus", "relu"])
def test_activations_far_out(name, x, value, gradient):
    f, x = getattr(ops, name), np.array(x)
    np.testing.assert_allclose(f(x), value, rtol=1e-12)
    got = grad(lambda x: np.sum(f(x)))(x)
    np.testing.assert_allclose(got, gradient or (ops.sigmoid(x) if name == "softplus" else f(x) * (1 - f(x))), rtol=1e-12)


@pytest.mark.parametrize("f, want", [
    (lambda x: np.max(x), [0.5, 0.5, 0]), (lambda x: np.min(-x), [-0.5, -0.5, 0]),
    (lambda x: np.sum(np.maximum(x, 2.0)), [0.5, 0.5, 0]),
    (lambda x: np.sum(np.clip(x, 0, 2.0)), [0.5, 0.5, 1]), (lambda x: np.sum(abs(x - 2.0)), [0, 0, -1])],
    ids=["max", "min", "maximum", "clip", "abs"])
def test_ties_share_equally(f, want):
    np.testing.assert_array_equal(grad(f)(np.array([2.0, 2.0, 1.0])), want)


def test_max_of_nan_is_nan_without_a_warning():
    np.testing.assert_array_equal(grad(lambda x: np.sum(np.max(x, axis=1)))(np.array([[1, np.nan], [1, 2]])), [[0, 1], [0, 1]])


def test_where_keeps_infinite_gradients_out_of_the_other_branch():
    gradient = grad(lambda x: np.sum(np.where(x > 0, 1 / np.where(x > 0, x, 1), x)))(np.array([0.0, 2.0]))
    np.testing.assert_array_equal(gradient, [1, -0.25])
    for i in range(2):
        cotangent = np.where(np.arange(2) == i, np.inf, 1)
        got = vjp(lambda x, y: np.where(x > 0, x, 2 * y), np.array([0.0, 2.0]), np.ones(2))[1](cotangent)
        np.testing.assert_array_equal(got, [[0, cotangent[1]], [2 * cotangent[0], 0]])


def test_prod_with_zeros_is_differentiable():
    np.testing.assert_array_equal(grad(np.prod)(np.array([0.0, 2.0, 3.0])), [6, 0, 0])
    np.testing.assert_array_equal(grad(np.prod)(np.array([0.0, 0.0, 3.0])), [0, 0, 0])
    assert np.prod(vjp(lambda x: np.prod(x, axis=0), np.ones((0, 2)))[0]) == 1


# --- every op at zeros, ties, equal values and infinities -----------------------------------------------------------

POINTS = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -3.0]
DELICATE = {name: f for name, (f, *inputs) in CASES.items() if isinstance(f, np.ufunc) and f.nin == 1 and len(inputs) == 1}
DELICATE |= {"relu": ops.relu, "sigmoid": ops.sigmoid, "softplus": ops.softplus, "erf": scipy.special.erf, "sinc": np.sinc,
             **{f"power {p}": lambda x, p=p: x ** p for p in (0, 1, 2, 3, 2.5, 0.5, -1)},
             "clip": lambda x: np.clip(x, -1, 1), "max 0": lambda x: np.maximum(x, 0.0),
             "cbrt cubed": lambda x: np.cbrt(x) ** 3}
TWO_NUMBERS = (np.maximum, np.minimum, np.hypot, np.arctan2, np.logaddexp, np.multiply, np.true_divide, np.power, np.fmax,
               np.fmin)
SEVERAL = {
    **{f.__name__: lambda x, f=f: f(x[0], x[1]) for f in TWO_NUMBERS},
    **{f"{f.__name__} of three": f for f in (np.max, np.min, np.prod, np.std, np.var, np.ptp, np.linalg.norm)},
    "cumprod": lambda x: np.cumprod(x)[-1], "norm squared": lambda x: np.linalg.norm(x) ** 2,
    "std squared": lambda x: np.std(x) ** 2, "nuclear norm": lambda x: np.linalg.norm(np.outer(x, x), "nuc"),
    "hypot squared": lambda x: np.hypot(x[0], x[1]) ** 2, "norm 1": lambda x: np.linalg.norm(x, 1),
    "norm inf": lambda x: np.linalg.norm(x, INF), "norm cubed": lambda x: np.linalg.norm(x) ** 3 + x[0],
    "logsumexp": ops.logsumexp, "sorted": lambda x: np.sort(x) @ np.arange(3.0),
    "row norms": lambda x: np.sum(np.linalg.norm(np.outer(x, x), axis=1) ** 2),
}


def _slopes(f, x, move):
    """The slopes of f along a move, to the left and to the right; NaN where there are none to this precision."""
    with np.errstate(all="ignore"):
        left, right = (np.array([sign * (f(x + sign * h * move) - f(x)) / h for h in (1e-5, 1e-6)]) for sign in (-1, 1))
        return [s[1] if abs(s[1] - s[0]) < 1e-3 * (1 + abs(s[1])) else np.nan for s in (left, right)]


def _check_slopes(f, x, move, nan=False):
    left, right = _slopes(f, x, move)
    if not np.isfinite([left, right]).all():
        return
    with np.errstate(all="ignore"):
        got = np.sum(np.where(move != 0, grad(f)(x) * move, 0))
    if nan and np.isnan(got):
        return
    slack = 1e-3 * (1 + abs(left))
    assert min(left, right) - slack <= got <= max(left, right) + slack, (got, left, right)


@pytest.mark.parametrize("name", DELICATE)
def test_a_function_of_one_number_has_its_slope_wherever_it_has_one(name):
    """Where slopes to the left and right differ, as those of |x| at 0, the gradient is between them.

    NaN is allowed at a vertical tangent inside, where zero times infinity can be anything.
    """
    for x in POINTS:
        _check_slopes(DELICATE[name], np.array(x), 1.0, nan=name == "cbrt cubed")
        if name not in ("absolute", "fabs", "relu", "max 0", "clip"):
            _check_slopes(grad(DELICATE[name]), np.array(x), 1.0, nan=name == "cbrt cubed")


@pytest.mark.parametrize("name", SEVERAL)
@given(st.lists(st.sampled_from(POINTS), min_size=3, max_size=3), st.sampled_from([0, 1, 2, 3]))
def test_a_function_of_several_numbers_has_its_slope_wherever_it_has_one(name, x, move):
    """Also among ties, equal values and zeros. At a kink of several, the gradient is between the slopes of every move."""
    move = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, -0.5, 0.3]][move])
    _check_slopes(SEVERAL[name], np.array(x), move)


@pytest.mark.parametrize("f, x, want", [
    (lambda x: np.linalg.norm(x) ** 2, np.zeros(3), np.zeros(3)),
    (np.std, np.full(3, 7.0), np.zeros(3)),
    (lambda x: np.std(x) ** 2 + np.sum(x), np.full(3, 7.0), np.ones(3)),
    (lambda x: np.logaddexp(x[0], x[1]), np.array([INF, INF]), [0.5, 0.5]),
    (lambda x: np.logaddexp(x[0], x[1]), np.array([-INF, -INF]), [0.5, 0.5]),
    (lambda x: np.logaddexp(x[0], x[1]), np.array([INF, -INF]), [1, 0]),
    (lambda x: np.logaddexp(x[0], x[1]), np.array([0.0, -INF]), [1, 0]),
    (lambda x: np.arctan2(x[0], x[1]), np.array([1e-200, 1e-200]), [5e199, -5e199]),
    (lambda x: np.arctan2(x[0], x[1]), np.array([1e200, 1e200]), [5e-201, -5e-201]),
    (np.prod, np.array([0.0, 2.0, 0.0]), np.zeros(3)),
    (lambda x: np.cumprod(x)[2], np.array([0.0, 2.0, 3.0]), [6, 0, 0]),
    (np.sinc, np.array(0.0), 0.0), (grad(np.sinc), np.array(0.0), -np.pi ** 2 / 3),
    (grad(lambda x: x ** 2), np.array(0.0), 2.0), (grad(grad(lambda x: x ** 3)), np.array(0.0), 6.0),
])
def test_derivatives_at_single_points(f, x, want):
    with np.errstate(invalid="raise", divide="raise"):
        np.testing.assert_allclose(grad(f)(x), want, rtol=1e-12)


# --- entries that a function does not look at --------------------------------------------------------------------------

SINGULAR = {  # a function, and points where it or its derivative is infinite or does not exist
    "sqrt": (np.sqrt, [0.0, -1.0]), "log": (np.log, [0.0, -1.0]), "reciprocal": (lambda x: 1 / x, [0.0]),
    "power": (lambda x: x ** 0.5, [0.0, -2.0]), "arccos": (np.arccos, [1.0, 2.0]), "arctanh": (np.arctanh, [1.0, -1.0, 3.0]),
    "exp": (lambda x: np.exp(x) * x, [1e4]), "entropy": (lambda x: x * np.log(x), [0.0]), "cbrt": (np.cbrt, [0.0]),
    "sin x / x": (lambda x: np.sin(x) / x, [0.0]), "log of square": (lambda x: np.log(x * x), [0.0]),
    "gammaln": (scipy.special.gammaln, [0.0, -1.0]), "x^x": (lambda x: x ** x, [0.0, -0.5]),
    "arctan2": (lambda x: np.arctan2(x, x), [0.0]),
}
CHOICES = {  # what is used of y, and x elsewhere
    "where": lambda c, x, y: np.where(c, x, y),
    "where of where": lambda c, x, y: np.where(c, x, np.where(c, 3.0, y) * 1.0),
    "where of transposed": lambda c, x, y: np.where(c.T, x.T, np.flip(np.flip(y.T, 0), 0)).T,
    "where of reshaped": lambda c, x, y: np.where(np.ravel(c), np.ravel(x), np.reshape(y, -1)).reshape(x.shape),
    "where of broadcast": lambda c, x, y: np.where(c[None], x[None], np.broadcast_to(y, (2, *y.shape)) * np.ones((2, 1, 1)))[1],
    "where of rows": lambda c, x, y: np.where(c, x, np.concatenate([y[:1], np.stack([y[1], y[2]])])),
    "where of sums": lambda c, x, y: np.where(c, x, np.sum(np.stack([y, 0 * X[:3]]), axis=0)),
    "select": lambda c, x, y: np.select([c], [x], y),
    "index": lambda c, x, y: ops.scatter(x[c], (c,), x.shape) + ops.scatter(y[~c], (~c,), x.shape),
    "nan": lambda c, x, y: np.where(c, x, 0) + np.nan_to_num(np.where(c, np.nan, y)),
}


@pytest.mark.parametrize("name", SINGULAR)
@given(st.data())
def test_what_a_function_does_not_look_at_has_no_say_in_its_gradient(name, data):
    f, singular = SINGULAR[name]
    choose = CHOICES[data.draw(st.sampled_from(sorted(CHOICES)))]
    c = np.array(data.draw(st.lists(st.booleans(), min_size=9, max_size=9))).reshape(3, 3)
    points = data.draw(st.lists(st.sampled_from(singular), min_size=9, max_size=9))
    x = np.where(c, np.array(points).reshape(3, 3), 0.25 + 0.05 * np.arange(9).reshape(3, 3))
    order = data.draw(st.sampled_from([1, 2]))

    def derivative(g):
        slope = grad(lambda x: np.sum(g(x)))
        return slope if order == 1 else grad(lambda x: np.sum(slope(x)))

    with np.errstate(all="ignore"):
        got, inside = derivative(lambda x: choose(c, x ** 2, f(x)))(x), derivative(f)(np.where(c, 0.3, x))
    np.testing.assert_allclose(got, np.where(c, 2 * x if order == 1 else 2, inside), rtol=1e-12)


@pytest.mark.parametrize("f, x", [(lambda x: np.exp(np.log(x)), 0.0), (lambda x: np.cbrt(x) ** 3, 0.0),
                                  (lambda x: 1 / (1 / x), 0.0), (lambda x: np.arccos(x) ** 2, 1.0)],
                         ids=["exp log", "cbrt cubed", "twice reciprocal", "arccos squared"])
def test_zero_times_infinity_is_not_zero_where_the_function_does_look(f, x):
    """These have slopes 1, 1, 1 and -2; a rule that took every zero cotangent for nothing would say 0."""
    with np.errstate(all="ignore"):
        assert np.isnan(grad(f)(x))


def test_of_two_uses_of_one_entry_either_counts():
    with np.errstate(all="ignore"):
        got = grad(lambda x: (lambda y: np.sum(np.where(x > 0, y, 0)) + np.sum(y[:2]))(np.sqrt(x)))(np.array([1.0, 0.0, 0.0]))
    np.testing.assert_array_equal(got, [1.0, INF, 0.0])


def test_the_larger_one_alone_counts():
    with np.errstate(all="ignore"):
        assert grad(lambda x: np.maximum(np.sqrt(x), 1.0))(0.0) == 0
        assert grad(lambda x: np.clip(np.log(x), -2, 2))(0.0) == 0
        assert grad(lambda x: ops.relu(np.log(x)))(0.0) == 0
        np.testing.assert_array_equal(grad(lambda x: np.max(np.sqrt(x)))(np.array([0.0, 4.0])), [0, 0.25])


# --- decompositions of matrices with equal values --------------------------------------------------------------------

TURN = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))[0]
REPEATED = {"unit": np.eye(4), "pairs": (TURN * [1.0, 1, 3, 3]) @ TURN.T, "triple": (TURN * [2.0, 2, 2, 5]) @ TURN.T}


@pytest.mark.parametrize("name", REPEATED)
def test_functions_of_equal_eigenvalues_and_singular_values_have_their_derivative(name):
    a = REPEATED[name] + 0.0
    np.testing.assert_allclose(grad(lambda a: np.sum(np.linalg.eigvalsh(a) ** 3))(a), 3 * a @ a, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(grad(lambda a: np.sum(np.linalg.svdvals(a) ** 4))(a), 4 * a @ a @ a, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(grad(lambda a: np.linalg.norm(a, "nuc"))(a), np.eye(4), atol=1e-10)
    np.testing.assert_allclose(grad(lambda a: np.sum(np.log(np.linalg.eigh(a)[0])))(a), np.linalg.inv(a), atol=1e-10)


@pytest.mark.parametrize("f", [
    lambda a: np.sum((lambda w, v: (v * np.exp(w)) @ v.T)(*np.linalg.eigh(a)) * (TURN + TURN.T)),
    lambda a: np.sum((lambda u, s, vh: (u * np.exp(s)) @ vh)(*np.linalg.svd(a)) * TURN),
    lambda a: np.sum(grad(lambda a: np.sum(np.linalg.eigvalsh(a) ** 2))(a) * (TURN + TURN.T)),
], ids=["eigh", "svd", "second derivative"])
@pytest.mark.parametrize("name", REPEATED)
def test_the_vectors_of_equal_values_have_no_derivative(name, f):
    with pytest.raises(np.linalg.LinAlgError, match="values are equal to rounding, so that their vectors have no derivative"):
        grad(f)(REPEATED[name])


# --- log-sum-exp ------------------------------------------------------------------------------------------------------

EDGES = {  # x, weights, value, gradient by x, gradient by weights (None: not asked)
    "all -inf": ([-INF, -INF], None, -INF, [0, 0], None),
    "one +inf": ([1.0, INF, 2.0], None, INF, [0, 1, 0], None),
    "two +inf": ([INF, INF, 2.0], None, INF, [0.5, 0.5, 0], None),
    "inf and -inf": ([INF, -INF], None, INF, [1, 0], None),
    "one -inf": ([0.0, -INF], None, 0, [1, 0], None),
    "empty": ([], None, -INF, [], None),
    "nan": ([0.0, np.nan], None, np.nan, [np.nan, np.nan], None),
    "zero weights": ([0.0, 1.0], [0.0, 0.0], -INF, [0, 0], [0, 0]),
    "a zero weight": ([1.0, 0.0], [0.0, 2.0], np.log(2), [0, 1], [np.e / 2, 0.5]),
    "a zero weight at +inf": ([INF, 0.0], [0.0, 1.0], 0, [0, 1], None),
    "a zero weight at -inf": ([-INF, 0.0], [0.0, 1.0], 0, [0, 1], [0, 1]),
    "weights share +inf": ([INF, INF], [1.0, 3.0], INF, [0.25, 0.75], None),
    "far apart": ([800.0, -800.0], None, 800, [1, 0], None),
    "far out": ([-4000.0, -4000.0], None, np.log(2) - 4000, [0.5, 0.5], None),
    "one entry": ([3.0], [2.0], 3 + np.log(2), [1], [0.5]),
}
LAYOUTS = {"vector": ((-1,), 0), "axis None": ((1, -1), None), "axis 0": ((-1, 1), 0), "tuple": ((1, -1, 1), (-2, 0)),
           "negative": ((1, -1, 1), -2)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("edge", EDGES)
def test_logsumexp_edges(edge, layout):
    x, w, value, dx, dw = EDGES[edge]
    shape, axis = LAYOUTS[layout]

    def f(x, w=None):
        x, w = np.reshape(x, shape), None if w is None else np.reshape(w, shape)
        return np.sum(ops.logsumexp(x, axis=axis, weights=w))

    for dtype in (np.float64, np.float32):
        rtol = np.finfo(dtype).eps * (4000 if edge == "far out" else 8)  # a softmax is as sharp as its largest x is known
        a, weights = np.array(x, dtype), None if w is None else np.array(w, dtype)
        got, gradient = value_and_grad(f)(a, weights)
        np.testing.assert_allclose(got, value, rtol=rtol)
        np.testing.assert_allclose(gradient, np.array(dx, dtype), rtol=rtol)
        assert gradient.dtype == dtype
        if dw is not None:
            np.testing.assert_allclose(grad(f, argnum=1)(a, weights), dw, rtol=rtol)


def test_logsumexp_takes_what_users_have():
    np.testing.assert_allclose(ops.logsumexp([0, 0]), np.log(2))
    np.testing.assert_allclose(ops.logsumexp([0.0, 0.0], weights=[1, 3]), np.log(4))
    assert ops.logsumexp(np.zeros(2, np.float32), weights=[1, 3]).dtype == np.float32
    assert ops.logsumexp(np.zeros(2, np.float32), weights=np.array([1.0, 3.0])).dtype == np.float32
    assert ops.logsumexp(np.float64(3), axis=None) == 3
    for axis in (2, -3, (0, 0)):
        with pytest.raises(ValueError, match="axis"):
            ops.logsumexp(X, axis=axis)


def test_log_softmax_is_scipys():
    np.testing.assert_allclose(ops.log_softmax(X, axis=0), scipy.special.log_softmax(X, axis=0))
    np.testing.assert_allclose(ops.softmax(X), scipy.special.softmax(X, axis=1))


def test_reparameterize_follows_its_formula_and_stream():
    noise = ops.reparameterize(np.zeros((50, 3)), np.zeros((50, 3)), (3, 4), 7)
    mean, log_var = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    np.testing.assert_allclose(ops.reparameterize(mean, log_var, (3, 4), 7), mean + np.exp(log_var / 2) * noise)


# --- what rules hold on to -------------------------------------------------------------------------------------------

def _held(pullback):
    """Every array that a pullback keeps alive."""
    seen, stack, arrays = set(), [pullback], []
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray):
            arrays.append(thing)
        elif isinstance(thing, (tuple, list)):
            stack.extend(thing)
        elif isinstance(thing, dict):
            stack.extend(thing.values())
        elif hasattr(thing, "func"):
            stack.extend([*thing.args, thing.keywords])
        else:
            stack.extend(c.cell_contents for c in getattr(thing, "__closure__", None) or ())
    return arrays


def _call(primitive, x, *args):
    out = primitive(Tensor(x, Node(), 1), *args)
    return out, _held(out.node.pull)


LINEAR = {"add": (X, Y), "subtract": (X, Y), "negative": (X,), "reshape": (X, (12,)), "transpose": (X,), "sum": (X,),
          "mean": (X, 0), "broadcast_to": (X, (2, 4, 3)), "tril": (X,), "flip": (X,), "roll": (X, 1), "cumsum": (X,),
          "getitem": (X, 0), "squeeze": (X,), "moveaxis": (X, 0, 1), "astype": (X, "f4")}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_rules_hold_no_array(name):
    assert _call(getattr(ops, name), *LINEAR[name])[1] == []


@pytest.mark.parametrize("name", ["exp", "sqrt", "tanh", "sigmoid", "expm1", "reciprocal"])
def test_these_rules_hold_the_answer_and_not_the_argument(name):
    out, held = _call(getattr(ops, name), POS)
    assert [h is out.value for h in held] == [True]


@pytest.mark.parametrize("name", ["log", "sin", "cos", "square", "softplus", "log1p"])
def test_these_rules_hold_the_argument_and_not_the_answer(name):
    _, held = _call(getattr(ops, name), POS)
    assert [h is POS for h in held] == [True]


@pytest.mark.parametrize("primitive, other", [(ops.multiply, Y), (ops.products._matmul, M)], ids=["multiply", "matmul"])
def test_a_product_holds_the_other_factor_only(primitive, other):
    assert [h is other for h in _call(primitive, X, other)[1]] == [True]


# --- refusals --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("f, error, words", [
    (lambda x: np.i0(x), NoRuleError, "numpy.i0 has no derivative rule: add one with npgen.ops.op"),
    (lambda x: np.add.at(x, 0, 1), NoRuleError, "numpy.add.at has no derivative rule"),
    (lambda x: np.linalg.eig(x @ x.T), NoRuleError, "numpy.linalg.eig has no derivative: .* use numpy.linalg.eigh"),
    (lambda x: np.quantile(x, x[0, 0]), NoRuleError, "numpy.quantile: there is no derivative rule for q"),
    (lambda x: np.nanmedian(x), NoRuleError, r"numpy.nanmedian has no derivative: select the entries first, x\[~np.isnan"),
    (lambda x: np.cov(x, aweights=np.ones(3)), NoRuleError, "cov: its derivative rule does not take.*'aweights'"),
    (lambda x: np.linalg.svd(x), NoRuleError, "numpy.linalg.svd: .* pass full_matrices=False"),
    (lambda x: np.linalg.qr(x * 0), np.linalg.LinAlgError, "qr: the first columns are linearly dependent; .* use pinv"),
    (lambda x: np.linalg.qr(x, "complete"), NoRuleError, "numpy.linalg.qr: a derivative exists for mode 'reduced' and 'r'"),
    (lambda x: np.pad(x, 1, "mean"), NoRuleError, "numpy.pad: a derivative exists for the modes"),
    (lambda x: np.cross(x[:, :2], x[:, :2]), ValueError, "cross: vectors must have length 3"),
    (lambda x: np.gradient(x, axis=1, edge_order=3), ValueError, "gradient: axis 1 has 3 points; edge_order=3 needs 4"),
    (lambda x: np.gradient(x, 1.0, 2.0, 3.0), TypeError, "gradient: 3 spacings for 2 axes"),
    (lambda x: scipy.special.j0(x), NoRuleError, "j0 has no derivative rule"),
    (lambda x: np.add(x, 1, out=np.zeros((4, 3))), TypeError, "numpy.add: out= cannot be used"),
    (lambda x: np.sum(x, dtype=np.float32), NoRuleError, "sum: its derivative rule does not take.*'dtype'"),
    (lambda x: np.exp(x, dtype=np.float32), NoRuleError, "exp: its derivative rule does not take.*'dtype'"),
    (lambda x: np.reshape(x, (3, 4), order="F"), NoRuleError, "reshape: its derivative rule does not take.*'order'"),
    (lambda x: np.sum(a=x), TypeError, "sum: an array inside a derivative was passed by keyword"),
    (lambda x: np.where(x, 1.0, 2.0), NoRuleError, "where: there is no derivative rule for argument 0"),
    (lambda x: x + np.ones(7), ValueError, r"add: shapes \(4, 3\) and \(7,\) do not fit"),
    (lambda x: x @ np.ones((4, 2)), ValueError, r"matmul: shapes \(4, 3\) and \(4, 2\) do not fit"),
    (lambda x: x @ 2.0, ValueError, r"matmul: shapes \(4, 3\) and \(\) do not fit: a scalar"),
    (lambda x: np.concatenate([x, np.ones((2, 2))]), ValueError, r"concatenate: shapes \(4, 3\) and \(2, 2\) do not fit"),
    (lambda x: x.reshape(5), ValueError, r"reshape: shapes \(4, 3\) do not fit"),
    (lambda x: np.linalg.cholesky(-x.T @ x), np.linalg.LinAlgError, "not positive definite"),
    (lambda x: np.einsum(x, [0, 1]), NoRuleError, "numpy.einsum: a derivative exists for subscripts in a string"),
    (lambda x: np.einsum("ij,jk", x), ValueError, "einsum: 'ij,jk' names 2 operands, but there are 1"),
    (lambda x: np.linalg.norm(x, 3), ValueError, "norm: ord must be 'fro', 'nuc', .* for matrices, got 3"),
    (lambda x: np.dot(x, np.ones((2, 3, 2))), NoRuleError, "numpy.dot: a derivative exists for at most 2 axes"),
    (lambda x: np.split(x, 3), ValueError, "split: an axis of length 4 cannot be cut into 3 equal pieces"),
    (lambda x: ops.linear(x, np.ones((2, 5)), np.ones(5)), ValueError, r"masked_matmul: x \(4, 3\), weight \(2, 5\)"),
    (lambda x: ops.masked_matmul(x, M, np.ones(4), PLAN), ValueError, r"bias \(4,\) must have shapes"),
    (lambda x: np.asarray(x), TypeError, "a Tensor cannot become a plain array"),
    (lambda x: np.array([x, x]), TypeError, "a Tensor cannot become a plain array"),
    (lambda x: x.__setitem__(0, 1.0), TypeError, "a Tensor cannot be assigned to"),
    (lambda x: np.zeros((4, 3)).__setitem__(0, x[0]), TypeError, "a Tensor cannot become a plain array"),
    (lambda x: np.zeros((4, 3)).__iadd__(x), TypeError, "numpy.add: out= cannot be used"),
], ids=lambda v: None if callable(v) else "" if isinstance(v, type) else v[:40])
def test_refusals_name_the_function_and_say_what_to_do(f, error, words):
    with pytest.raises(error, match=words):
        vjp(f, X)


def test_an_op_of_ones_own():
    cube = ops.op(lambda x: x ** 3, lambda ans, x: lambda g: g * 3 * x ** 2, name="cube")
    check_grads(cube, X, order=3)
    assert repr(cube) == "<op cube>"


def test_a_rule_for_a_numpy_function_makes_it_work_on_tensors(monkeypatch):
    monkeypatch.setitem(OVERRIDES, np.sinc, None)  # removed again after the test
    ops.op(np.sinc, lambda ans, x: lambda g: g * (np.cos(np.pi * x) - ans) / x)
    check_grads(np.sinc, X)
