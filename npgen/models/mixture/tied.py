"""Mixtures of several classes with one covariance for the components of all: linear and mixture discriminant analysis.

    p(x | y) = sum_k w_yk N(x; m_yk, C)

EM as for one mixture, but that a row belongs to the components of its own class.

Legend: n rows, d features, k components of a class.
References: Fisher, The use of multiple measurements in taxonomic problems (1936); Hastie & Tibshirani, Discriminant analysis
by Gaussian mixtures (1996).
"""
import copy
import dataclasses

import numpy as np

from ...kernels import session
from ...kernels._cuda import asnumpy
from ...train import ConvergenceWarning
from ...warn import warn
from .em import Statistics
from .gaussian_em import expect, maximise
from .rows import Rows, placed, spread


def tie(mixtures, parts):
    """Tied GaussianMixtures, each fitted to the (rows, weights or None) of a class, fitted on with one covariance for all.

    Raises ValueError for a preprocess, behind which every class has a space of its own, and for a covariance that collapses.
    """
    first, form = mixtures[0], mixtures[0]._form
    if first.preprocess is not None:
        raise ValueError(f"fit: covariance_type='tied' of several classes needs preprocess=None, got {first.preprocess!r}")
    centre, std = spread(Rows(*(np.concatenate(each) for each in zip(*((x, np.ones(len(x)) if weights is None else weights)
                                                                       for x, weights in parts), strict=True))))
    scale = form.units(std)
    factor = form.rescale(form.private(first.precisions_cholesky_), 1 / scale)
    classes = [dataclasses.replace(mixture._components(mixture.params_), means=(mixture.means_ - centre) / scale, factor=factor)
               for mixture in mixtures]  # moments of all rows are whitened alike
    rows = [Rows(x, weights, centre, scale).on(first.device) for x, weights in parts]
    classes = [placed(part.place, components) for part, components in zip(rows, classes, strict=True)]
    nats, ends = -np.inf, np.cumsum([len(mixture.weights_) for mixture in mixtures])
    with session(), np.errstate(under="ignore", over="ignore"):
        for _ in range(max(1, first.max_iter)):
            each = [part.sum(expect, components) for components, part in zip(classes, rows, strict=True)]
            before, nats = nats, sum(s.nats for s in each) / sum(s.weight for s in each)
            if nats - before <= first.tol:
                break
            moments = tuple(np.concatenate(arrays) for arrays in zip(*(s.moments for s in each), strict=True))
            together = Statistics(np.concatenate([s.n for s in each]), moments, nats, 1.0)
            joint, lost = maximise(_joined(classes), together, float(first.reg_covar))
            if lost.any():
                raise ValueError("fit: components of the classes collapse; lower n_components, or raise reg_covar")
            classes = [dataclasses.replace(joint, log_weights=np.log(s.n / s.n.sum()), means=means) for s, means in
                       zip(each, np.split(joint.means, ends[:-1]), strict=True)]
        else:
            warn(f"fit: the classes' covariance has not converged after max_iter={first.max_iter} iterations; raise max_iter "
                 "or tol", ConvergenceWarning)
    return [_fitted(mixture, placed(asnumpy, components), centre, scale)
            for mixture, components in zip(mixtures, classes, strict=True)]


def _joined(classes):
    """The components of all classes as one mixture; what weight a class has does not matter to the M-step."""
    log_weights, means = (np.concatenate([getattr(each, name) for each in classes]) for name in ("log_weights", "means"))
    return dataclasses.replace(classes[0], log_weights=log_weights, means=means)


def _fitted(mixture, components, centre, scale):
    """The mixture with these components."""
    model = copy.copy(mixture)
    model._keep(components, centre=centre, scale=scale)
    return model
