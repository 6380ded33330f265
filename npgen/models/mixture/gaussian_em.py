"""EM's two steps for a mixture of Gaussians, of which rows may miss values.

    p(z) = sum_k w_k N(z; m_k, C_k),    C_k^-1 = P_k P_k^T,    y_k = (z - m_k) P_k

z are rows in standard coordinates (rows.py). The statistics of a component are moments of its own y_k under the parameters of
the step before, where the component is the unit ball, however thin it is in z. A row of which only z F^T is seen, for the
columns of an orthonormal frame F, has E[y | y F] = y F F^T, and covariance 1 - F F^T: so missing values cost no approximation.

Legend: n rows, d features, o columns with values, k components. References: Dempster, Laird & Rubin, Maximum likelihood from
incomplete data via the EM algorithm (1977); Ghahramani & Jordan, Supervised learning from incomplete data via an EM approach
(1994).
"""
import dataclasses
import functools
import math
import operator

import numpy as np

from ... import ops
from ...checks import check_shapes
from ...fused import LOG_2PI
from ...heads.base import EMPTY
from ...heads.normal import THINNEST, typical_variance
from ...kernels import em
from ...kernels._cuda import constant_like
from ...nn import Parameters, Part
from .covariances import COVARIANCES, Covariance, transpose
from .em import Statistics
from .starts import draw

SHARP = 1e4       # precision factor that makes the E-step assign every row to its nearest mean


class Gaussians(Part):
    """The parameters of k Gaussians over d features, in standard coordinates: z = (x - centre) / scale.

    Raises ValueError for what a file cannot have from a fit.
    """

    def __init__(self, k, d, covariance_type, centre, scale):
        self.k, self.d, self.form = k, d, COVARIANCES[covariance_type]
        check_shapes({"centre_": centre, "scale_": scale}, {"centre_": (d,), "scale_": (d,)})
        if not (scale > 0).all():
            raise ValueError(f"scale_ is {scale}"[:200])

    def shapes(self):
        return {"logits": (self.k,), "means": (self.k, self.d), "factor": self.form.shape(self.k, self.d)}


@dataclasses.dataclass
class Components:
    """Weighted Gaussians: log_weights (k,), means (k, d), and the precision factor that `form` reads.

    floor (d,): the variances that the M-step has added to those of the rows.
    """

    form: Covariance
    log_weights: np.ndarray
    means: np.ndarray
    factor: np.ndarray
    floor: np.ndarray

    @classmethod
    def of(cls, form, params, floor):
        """From free parameters."""
        return cls(form, normalised(params["logits"]), params["means"], form.from_free(params["factor"]), floor)

    def params(self):
        """The free parameters."""
        return Parameters({"logits": self.log_weights, "means": self.means, "factor": self.form.to_free(self.factor)})

    def log_prob(self, z):
        """(n,) log-densities of rows z, differentiable."""
        return ops.logsumexp(self.log_weights[:, None] + self.form.log_prob(z, self.means, self.factor), axis=0)

    def arrays(self):
        """What the components are made of, by name."""
        return {"log_weights": self.log_weights, "means": self.means, "factor": self.factor, "floor": self.floor}

    def launch(self):
        """What a kernel of kernels.em needs to know of the components."""
        d = self.means.shape[1]
        offset = self.log_weights + self.form.log_det(self.factor, d) - d / 2 * LOG_2PI
        shift = self.form.apply(self.means[:, None], self.factor)[:, 0]
        return offset, *ops.contiguous(shift, self.form.matrices(self.factor, d))

    def marginal(self, columns):
        """The components of some columns, and the frame (g, d, o) in which they see y."""
        factor, frame = self.form.marginal(self.factor, columns, self.means.shape[1])
        means, = ops.contiguous(self.means[:, columns])
        return Components(self.form, self.log_weights, means, factor, self.floor[columns]), frame

    def conditional(self, columns):
        """The factor and the floor of some columns, given all others."""
        return {"factor": self.form.conditional(self.factor, columns), "floor": self.floor[columns]}

    def draw(self, y, labels):
        """The rows (n, d) that standard normals y are, each under its component, on a device: nobody has to know which."""
        inverse, place = self.form.inverse(self.factor, y.shape[1]), functools.partial(constant_like, like=y)
        if inverse.shape[1] == 1:
            y = y * place(inverse[:, 0])[labels % len(inverse)]
        else:
            each, all_rows = place(inverse), y
            y = ops.matmul(all_rows, each[0])
            for k in range(1, len(each)):
                y = np.where((labels == k)[:, None], ops.matmul(all_rows, each[k]), y)
        return place(self.means)[labels] + y

    def complete(self, z, columns, noise=None):
        """Rows of which z (n, o) is seen, completed under each component, (k, n, d): by E[z], or a draw from normals (n, d)."""
        seen, frame = self.marginal(columns)
        y = self.form.apply(z - seen.means[:, None], seen.factor) @ transpose(frame)
        if noise is not None:
            y += noise - noise @ frame @ transpose(frame)
        return self.means[:, None] + self.form.unwhiten(y, self.factor)


def density(z, offset, shift, factor):
    """log p of rows z (n, d), (n,), from what kernels.em is told of components: differentiable, on a device, where products are
    of two matrices, which a stream can capture.
    """
    g, b, d = factor.shape
    y = z[:, None] * factor[:, 0] if b == 1 else ops.matmul(z, np.swapaxes(factor, 0, 1).reshape(d, g * d)).reshape(-1, g, d)
    return ops.logsumexp(offset - ops.sum(ops.square(y - shift), axis=2) / 2)


def expect(components, rows):
    """The E-step: the statistics of Rows."""
    form, launch = components.form, components.launch()

    def gather(index, columns):
        x, w = rows.take(index)
        if columns is None:
            scale = rows.scale
            n, first, second, nats = em.statistics(*ops.contiguous(x), w, rows.centre, scale, *launch)
        else:
            (seen, frame), scale = components.marginal(columns), rows.scale[columns]
            n, first, second, nats = em.statistics(*ops.contiguous(x[:, columns]), w, rows.centre[columns], scale,
                                                   *seen.launch())
            unseen = form.moments(constant_like(np.eye(frame.shape[1]), frame) - frame @ transpose(frame))
            first, second = (first[:, None] @ transpose(frame))[:, 0], form.rotate(second, frame) + n[:, None, None] * unseen
        weight = w.sum()
        return Statistics(n, (first, second), nats - weight * np.log(scale).sum(), weight)

    return functools.reduce(operator.add, (gather(*group) for group in rows.groups))


def maximise(components, statistics, reg_covar):
    """The M-step: new components, and which of them (k,) are empty or collapsed and have no parameters.

    C_k = S_k + reg_covar diag(v), of the rows' covariances S_k and the variances v that are typical within the components.
    """
    form, n, (first, second) = components.form, np.maximum(statistics.n, EMPTY), statistics.moments
    shift = first / n[:, None]
    second = second - n[:, None, None] * form.outer(shift)
    covariance, floor = form.pool(second, n), np.zeros_like(first[0])
    if reg_covar > 0:
        variances = form.variances(covariance, components.factor)
        floor += reg_covar * typical_variance(variances, n[:, None] if len(variances) > 1 else n.sum())
        covariance = covariance + form.whitened(floor, components.factor)
    factor = form.update(components.factor, covariance)
    size = np.abs(factor).reshape(len(factor), -1).max(axis=1)
    sound = size * THINNEST < 1  # false for NaN
    factor = np.where(sound.reshape(-1, *[1] * (factor.ndim - 1)), factor, form.from_free(np.zeros_like(factor[:1])))
    means = components.means + form.unwhiten(shift[:, None], components.factor)[:, 0]
    return Components(form, np.log(n / n.sum()), means, factor, floor), ~sound | (statistics.n <= EMPTY)


def statistics_of(components):
    """The statistics, of weight 1, from which an M-step makes these same components."""
    form, d, n = components.form, components.means.shape[1], np.exp(components.log_weights)
    one = constant_like(np.eye(d)[None], n)
    second = form.moments(one) - form.matrices(form.whitened(components.floor, components.factor), d)
    return Statistics(n, (np.zeros_like(components.means), n[:, None, None] * second), 0.0, 1.0)


def normalised(logits):
    """(k,) logarithms of weights whose sum is 1: of an array by NumPy, as a first fit compiles for a second what few need."""
    return logits - (np.logaddexp.reduce(logits) if type(logits) is np.ndarray else ops.logsumexp(logits))


def reseed(components, lost, rows, stream):
    """Every lost component on a row of its own, with the data's covariance and an equal share of the weight."""
    log_weights, means, factor = components.log_weights.copy(), components.means.copy(), components.factor.copy()
    z, weights = rows.sample(stream)
    for k in np.flatnonzero(lost):
        log_weights[k], means[k] = -math.log(len(lost)), draw(z, weights, stream)
    for g in np.flatnonzero(lost.reshape(len(factor), -1).all(axis=1)):
        factor[g] = components.form.from_free(np.zeros_like(factor[:1]))[0]
    return dataclasses.replace(components, log_weights=normalised(log_weights), means=means, factor=factor)


def equal_components(form, means, sharpness):
    """Components of equal weight with these means and precision factor sharpness * 1."""
    factor = form.from_free(np.zeros_like(means, shape=form.shape(*means.shape)))
    log_weights = np.full_like(means, -math.log(len(means)), shape=(len(means),))
    return Components(form, log_weights, means, sharpness * factor, np.zeros_like(means[0]))
