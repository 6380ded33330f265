"""The forms that a mixture's covariances take, one object each: full, tied, diagonal, spherical.

A covariance C is known by its precision factor P, C^-1 = P P^T, which whitens rows: y = (z - m) P. Second moments are
those of whitened rows, as far as the form needs them.

Legend: k components, d features, o observed ones; a factor has g = k matrices or rows, or g = 1 where components share
it. Second moments are (k, d, d), or (k, 1, d) where only their diagonals count.
"""
import abc
import contextlib
import math

import numpy as np

from ... import ops
from ...fused import LOG_2PI
from ...kernels._cuda import constant_like, is_device_array
from ...tensor import value_of

ROUNDING = 1e-9   # of a matrix's largest entry, that the product of its factors may differ from it


class Covariance(abc.ABC):
    """One form. shared: the axes of P along which there is one value for all; they have length 1 in P, and are not in the
    public attributes.
    """

    shared = ()

    def shape(self, k, d):
        """P's."""
        return tuple(1 if i in self.shared else m for i, m in enumerate(self._full_shape(k, d)))

    def pool(self, second, n):
        """Second moments of the rows n (k,) of each component to covariances, in the form that P has."""
        second = second.reshape(self._full_shape(len(second), second.shape[-1]))
        n = n.reshape(-1, *[1] * (second.ndim - 1))
        if not self.shared:
            return second / n
        n = np.broadcast_to(n, second.shape)
        return second.sum(axis=self.shared, keepdims=True) / n.sum(axis=self.shared, keepdims=True)

    def units(self, std):
        """The units (d,) to measure features of standard deviations std in; a constant one's are typical of the others'."""
        typical = std.max() * np.sqrt(np.square(std / std.max()).mean())
        return np.full_like(std, typical) if 1 in self.shared else np.where(std > 0, std, typical)

    def public(self, array):
        """An array of P's shape as the attributes show it."""
        return np.squeeze(array, axis=self.shared)

    def private(self, array):
        """The inverse of public."""
        return np.expand_dims(array, self.shared)

    def log_prob(self, z, means, factor):
        """(k, n) log-densities of rows z (n, d), differentiable; kernels.em has them for arrays."""
        y, d = self._whiten(z, means, factor), z.shape[-1]
        return self.log_det(factor, d)[:, None] - ops.einsum("knd,knd->kn", y, y) / 2 - d / 2 * LOG_2PI

    @abc.abstractmethod
    def _full_shape(self, k, d):
        """P's shape with nothing shared."""

    @abc.abstractmethod
    def n_free(self, k, d):
        """How many numbers the covariances are."""

    @abc.abstractmethod
    def _whiten(self, z, means, factor):
        """y = (z - m_k) P_k, (k, n, d), of z (n, d), differentiable."""

    @abc.abstractmethod
    def log_det(self, factor, d):
        """log det P, (g,)."""

    @abc.abstractmethod
    def to_free(self, factor):
        """Unconstrained numbers in P's shape: what has to be positive by its logarithm. 0 is the unit covariance."""

    @abc.abstractmethod
    def from_free(self, free):
        """The inverse of to_free, differentiable."""

    @abc.abstractmethod
    def matrices(self, factor, d):
        """P as kernels.em takes it: (g, d, d), or (g, 1, d) for diagonals."""

    @abc.abstractmethod
    def apply(self, y, factor):
        """y P, for y (k, n, d)."""

    @abc.abstractmethod
    def unwhiten(self, y, factor):
        """y P^-1, a deviation from the mean, for y (k, n, d)."""

    @abc.abstractmethod
    def inverse(self, factor, d):
        """P^-1, as `matrices` has P."""

    @abc.abstractmethod
    def outer(self, y):
        """y^T y as a second moment, for y (k, d)."""

    @abc.abstractmethod
    def moments(self, matrices):
        """What second moments keep of matrices (k, d, d)."""

    @abc.abstractmethod
    def whitened(self, variances, factor):
        """P^T diag(v) P, independent features of variances v (d,) in the coordinates that P whitens."""

    @abc.abstractmethod
    def largest(self, covariance):
        """The largest variance in any direction, (g,)."""

    @abc.abstractmethod
    def variances(self, covariance, factor):
        """The diagonals of P^-T C P^-1, the variances (g, d) of z whose covariance is C in the coordinates that P whitens."""

    @abc.abstractmethod
    def update(self, factor, covariance):
        """The factor of a covariance that is given in the coordinates that the old factor whitens; NaN if not positive."""

    @abc.abstractmethod
    def rotate(self, second, frame):
        """F S F^T, for second moments S (k, o, o) and frames F (g, d, o)."""

    @abc.abstractmethod
    def marginal(self, factor, columns, d):
        """The factor of some columns, and the frame F (g, d, o) with orthonormal columns that has y F whiten them."""

    @abc.abstractmethod
    def conditional(self, factor, columns):
        """The factor of some columns, given all others."""

    @abc.abstractmethod
    def rescale(self, factor, scale):
        """The factor after the features are multiplied by scale (d,)."""

    @abc.abstractmethod
    def from_precision(self, precision):
        """P from P P^T; NaN if that is not positive."""

    @abc.abstractmethod
    def precision(self, factor):
        """P P^T."""

    @abc.abstractmethod
    def covariance(self, factor):
        """(P P^T)^-1."""


class Dense(Covariance):
    """Full matrices; P (g, d, d) is upper triangular."""

    def _full_shape(self, k, d):
        return k, d, d

    def n_free(self, k, d):
        return self.shape(k, d)[0] * d * (d + 1) // 2

    def _whiten(self, z, means, factor):
        return ops.matmul(z, factor) - ops.matmul(means[:, None], factor)

    def log_det(self, factor, d):
        return ops.sum(ops.log(ops.diagonal(factor, axis1=1, axis2=2)), axis=1)

    def to_free(self, factor):
        free, i = factor.copy(), np.arange(factor.shape[-1])
        free[:, i, i] = np.log(factor[:, i, i])
        return free

    def from_free(self, free):
        eye = constant_like(np.eye(free.shape[-1]), value_of(free))
        return ops.triu(free, 1) + eye * ops.exp(eye * free)

    def matrices(self, factor, d):
        return factor

    def apply(self, y, factor):
        return y @ factor

    def unwhiten(self, y, factor):
        matrices = np.broadcast_to(transpose(factor), (len(y), *factor.shape[1:]))  # which CuPy's solve does not
        return transpose(np.linalg.solve(matrices, transpose(y)))

    def inverse(self, factor, d):
        return np.linalg.inv(factor)

    def outer(self, y):
        return y[:, :, None] * y[:, None]

    def moments(self, matrices):
        return matrices

    def whitened(self, variances, factor):
        return transpose(factor) @ (variances[:, None] * factor)

    def largest(self, covariance):
        return np.linalg.eigvalsh(covariance)[:, -1]

    def variances(self, covariance, factor):
        inverse = np.linalg.inv(factor)
        return (covariance @ inverse * inverse).sum(axis=1)

    def update(self, factor, covariance):
        return factor @ transpose(np.linalg.inv(cholesky(covariance)))

    def rotate(self, second, frame):
        return frame @ second @ transpose(frame)

    def marginal(self, factor, columns, d):
        frame, root = _upper(np.linalg.inv(factor)[:, :, columns])
        return np.linalg.inv(root), frame

    def conditional(self, factor, columns):
        return np.flip(transpose(_upper(transpose(factor[:, columns[::-1]]))[1]), axis=(1, 2))

    def rescale(self, factor, scale):
        return factor / scale[:, None]

    def from_precision(self, precision):
        return np.flip(cholesky(np.flip(precision, axis=(1, 2))), axis=(1, 2))

    def precision(self, factor):
        return factor @ transpose(factor)

    def covariance(self, factor):
        inverse = np.linalg.inv(factor)
        return transpose(inverse) @ inverse


class Axes(Covariance):
    """Diagonal matrices; P (g, d) or (g, 1) holds the inverse standard deviations."""

    def _full_shape(self, k, d):
        return k, d

    def n_free(self, k, d):
        return math.prod(self.shape(k, d))

    def _whiten(self, z, means, factor):
        return (z - means[:, None]) * factor[:, None]

    def log_det(self, factor, d):
        return ops.sum(ops.log(factor), axis=1) * (d if 1 in self.shared else 1)

    def to_free(self, factor):
        return np.log(factor)

    def from_free(self, free):
        return ops.exp(free)

    def matrices(self, factor, d):
        return np.broadcast_to(factor, (len(factor), d))[:, None]

    def apply(self, y, factor):
        return y * factor[:, None]

    def unwhiten(self, y, factor):
        return y / factor[:, None]

    def inverse(self, factor, d):
        return 1 / self.matrices(factor, d)

    def outer(self, y):
        return (y * y)[:, None]

    def moments(self, matrices):
        return np.diagonal(matrices, axis1=1, axis2=2)[:, None]

    def whitened(self, variances, factor):
        return variances[:factor.shape[1]] * factor**2

    def largest(self, covariance):
        return covariance.max(axis=1)

    def variances(self, covariance, factor):
        return covariance / factor**2

    def update(self, factor, covariance):
        with np.errstate(invalid="ignore", divide="ignore"):
            return factor / np.sqrt(covariance)

    def rotate(self, second, frame):
        return second @ transpose(frame)

    def marginal(self, factor, columns, d):
        return self._of(factor, columns), constant_like(np.eye(d)[None], factor)[:, :, columns]

    def conditional(self, factor, columns):
        return self._of(factor, columns)

    def _of(self, factor, columns):
        return factor if 1 in self.shared else ops.contiguous(factor[:, columns])[0]

    def rescale(self, factor, scale):
        return factor / scale[:factor.shape[1]]

    def from_precision(self, precision):
        return np.sqrt(precision)

    def precision(self, factor):
        return factor**2

    def covariance(self, factor):
        return 1 / factor**2


class Full(Dense):
    """A matrix of its own for every component: covariances_ (k, d, d)."""


class Tied(Dense):
    """One matrix for all components: covariances_ (d, d)."""

    shared = (0,)


class Diag(Axes):
    """A variance per component and feature: covariances_ (k, d)."""


class Spherical(Axes):
    """A variance per component: covariances_ (k,)."""

    shared = (1,)


COVARIANCES = {"full": Full(), "tied": Tied(), "diag": Diag(), "spherical": Spherical()}


def transpose(x):
    """Of the last two axes."""
    return np.swapaxes(x, -1, -2)


def _upper(matrices):
    """QR with a positive diagonal of R."""
    q, r = np.linalg.qr(matrices)
    sign = np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)
    return q * sign[:, None], np.triu(r * sign[:, :, None])


def cholesky(matrices):
    """Lower triangular factors (g, d, d); NaN where a matrix is not positive definite."""
    if is_device_array(matrices):  # where CuPy says nothing of what cuSOLVER could not do, and gives what it left there
        factors = np.linalg.cholesky(matrices)
        error = np.abs(factors @ transpose(factors) - matrices).max(axis=(1, 2), keepdims=True)
        sound = error <= ROUNDING * np.abs(matrices).max(axis=(1, 2), keepdims=True)
        positive = (np.diagonal(factors, axis1=1, axis2=2) > 0).all(axis=1)
        return np.where(sound & positive[:, None, None], factors, np.nan)
    with contextlib.suppress(np.linalg.LinAlgError):
        return np.linalg.cholesky(matrices)
    factors = np.full_like(matrices, np.nan)
    for factor, matrix in zip(factors, matrices, strict=True):
        with contextlib.suppress(np.linalg.LinAlgError):
            factor[:] = np.linalg.cholesky(matrix)
    return factors
