"""Laws of mixtures of Gaussians: density and responsibilities are those of the attributes, and EM ascends.

Legend: n rows, d columns, k components.
"""
import math

import numpy as np

from ..preprocess import Preprocessor
from .law import Finding, close, law
from .subject import Skip

LOG_2PI = math.log(2 * math.pi)


def _mixture(s):
    """log w_k N(x; m_k, C_k) of drawn rows from the attributes that scikit-learn's mixtures have too, (n, k)."""
    model, names = s.model, ("weights_", "means_", "covariances_")
    model = getattr(model, "model", model)
    if not all(hasattr(model, name) for name in names):
        raise Skip("not a mixture of Gaussians")
    if isinstance(getattr(model, "preprocess", None), (str, Preprocessor)):
        raise Skip("the mixture is in a preprocessed space")
    x, (weights, means, c) = s.drawn[:300], (np.asarray(getattr(model, name), np.float64) for name in names)
    k, d = means.shape
    kind = getattr(model, "covariance_type_", model.covariance_type)
    c = {"full": lambda: c, "tied": lambda: np.broadcast_to(c, (k, d, d)), "diag": lambda: c[:, :, None] * np.eye(d),
         "spherical": lambda: c[:, None, None] * np.eye(d)}[kind]()
    away = x[:, None] - means
    squares = np.einsum("nkd,kde,nke->nk", away, np.linalg.inv(c), away)
    return x, np.log(weights) - 0.5 * (squares + np.linalg.slogdet(c)[1] + d * LOG_2PI)


@law("a mixture is its attributes")
def mixture(s):
    """log p(x) = log sum_k w_k N(x; m_k, C_k), from weights_, means_ and covariances_.

    Look at the log-determinant of the factor, the weights, and the units of what fit standardised.
    """
    x, joint = _mixture(s)
    return close(s.log_prob(x), np.logaddexp.reduce(joint, axis=1), 1e-6)


@law("responsibilities are posterior probabilities")
def responsibilities(s):
    """predict_proba(x)_k = w_k N(x; m_k, C_k) / p(x).

    Look at what it is normalised over, and at the weights.
    """
    x, joint = _mixture(s)
    predict = getattr(getattr(s.model, "model", s.model), "predict_proba", None)
    if predict is None:
        raise Skip("no predict_proba")
    return close(predict(x), np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)), 1e-6)


@law("EM never loses likelihood")
def monotone(s):
    """lower_bounds_ never falls (Dempster, Laird & Rubin, 1977), but for what reg_covar adds and for components seeded anew.

    Look at the M-step: weights, the centre of the second moments, the order of updates.
    """
    model = s.model
    if not hasattr(model, "lower_bounds_") or getattr(model, "solver", "em") != "em" or model.fit_report_["reseeded"]:
        raise Skip("not fitted by EM alone")
    bounds = np.array(model.lower_bounds_)
    fall = float(np.max(bounds[:-1] - bounds[1:], initial=0))
    return Finding(fall, 1e-9 + 10 * model.reg_covar * s.d)
