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
from ...kernels._cuda import asnumpy
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
        return offset, shift, np.ascontiguousarray(self.form.matrices(self.factor, d))

    def marginal(self, columns):
        """The components of some columns, and the frame (g, d, o) in which they see y."""
        factor, frame = self.form.marginal(self.factor, columns, self.means.shape[1])
        means = np.ascontiguousarray(self.means[:, columns])
        return Components(self.form, self.log_weights, means, factor, self.floor[columns]), frame

    def conditional(self, columns):
        """The factor and the floor of some columns, given all others."""
        return {"factor": self.form.conditional(self.factor, columns), "floor": self.floor[columns]}

    def complete(self, z, columns, noise=None):
        """Rows of which z (n, o) is seen, completed under each component, (k, n, d): by E[z], or a draw from normals (n, d)."""
        seen, frame = self.marginal(columns)
        y = self.form.apply(z - seen.means[:, None], seen.factor) @ transpose(frame)
        if noise is not None:
            y += noise - noise @ frame @ transpose(frame)
        return self.means[:, None] + self.form.unwhiten(y, self.factor)


def expect(components, rows):
    """The E-step: the statistics of Rows."""
    form, launch = components.form, components.launch()

    def statistics(*args):
        return map(asnumpy, em.statistics(*args))

    def gather(index, columns):
        x, w = rows.there(index)
        if columns is None:
            scale = rows.scale
            n, first, second, nats = statistics(*ops.contiguous(x), w, rows.centre, scale, *launch)
        else:
            (seen, frame), scale = components.marginal(columns), rows.scale[columns]
            n, first, second, nats = statistics(*ops.contiguous(x[:, columns]), w, rows.centre[columns], scale, *seen.launch())
            unseen = form.moments(np.eye(frame.shape[1]) - frame @ transpose(frame))
            first, second = (first[:, None] @ transpose(frame))[:, 0], form.rotate(second, frame) + n[:, None, None] * unseen
        weight = float(w.sum())
        return Statistics(n, (first, second), float(nats - weight * np.log(scale).sum()), weight)

    return functools.reduce(operator.add, (gather(*group) for group in rows.groups))


def maximise(components, statistics, reg_covar):
    """The M-step: new components, and which of them (k,) are empty or collapsed and have no parameters.

    C_k = S_k + reg_covar diag(v), of the rows' covariances S_k and the variances v that are typical within the components.
    """
    form, n, (first, second) = components.form, np.maximum(statistics.n, EMPTY), statistics.moments
    shift = first / n[:, None]
    second = second - n[:, None, None] * form.outer(shift)
    covariance, floor = form.pool(second, n), np.zeros(first.shape[1])
    if reg_covar > 0:
        variances = form.variances(covariance, components.factor)
        floor += reg_covar * typical_variance(variances, n[:, None] if len(variances) > 1 else n.sum())
        covariance = covariance + form.whitened(floor, components.factor)
    factor = form.update(components.factor, covariance)
    size = np.abs(factor).reshape(len(factor), -1).max(axis=1)
    sound = size * THINNEST < 1  # false for NaN
    factor[~sound] = form.from_free(np.zeros(factor.shape[1:])[None])
    means = components.means + form.unwhiten(shift[:, None], components.factor)[:, 0]
    return Components(form, np.log(n / n.sum()), means, factor, floor), ~sound | (statistics.n <= EMPTY)


def statistics_of(components):
    """The statistics, of weight 1, from which an M-step makes these same components."""
    form, (k, d), n = components.form, components.means.shape, np.exp(components.log_weights)
    second = form.moments(np.eye(d)[None]) - form.matrices(form.whitened(components.floor, components.factor), d)
    return Statistics(n, (np.zeros((k, d)), n[:, None, None] * second), 0.0, 1.0)


def normalised(logits):
    """(k,) logarithms of weights whose sum is 1: of an array by NumPy, as a first fit compiles for a second what few need."""
    return logits - (np.logaddexp.reduce(logits) if type(logits) is np.ndarray else ops.logsumexp(logits))


def reseed(components, lost, rows, stream):
    """Put every lost component on a row of its own, with the data's covariance and an equal share of the weight."""
    components.log_weights[lost] = -math.log(len(lost))
    components.log_weights = normalised(components.log_weights)
    z, weights = rows.sample(stream)
    for k in np.flatnonzero(lost):
        components.means[k] = draw(z, weights, stream)
    lost = lost.reshape(len(components.factor), -1).all(axis=1)
    components.factor[lost] = components.form.from_free(np.zeros(components.factor.shape[1:])[None])


def equal_components(form, means, sharpness):
    """Components of equal weight with these means and precision factor sharpness * 1."""
    factor = form.from_free(np.zeros(form.shape(*means.shape)))
    return Components(form, np.full(len(means), -math.log(len(means))), means, sharpness * factor, np.zeros(means.shape[1]))
