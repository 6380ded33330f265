"""Laws of a classifier that is made of densities: Bayes' rule, and rows drawn given a label.

Legend: n rows, m classes.
"""
import math

import numpy as np

from .law import SIGMAS, Finding, close, every, law
from .subject import Skip


def _classifier(s):
    """The classifier and its densities; Skip for what is none, or has one density for all classes."""
    model = s.model
    if not all(hasattr(model, name) for name in ("classes_", "priors_", "densities_", "predict_log_proba")):
        raise Skip("no classifier made of densities")
    if len(model.densities_) != len(model.classes_):
        raise Skip("one density of all classes")
    return model


@law("Bayes' rule")
def bayes(s):
    """log p(x) + log p(y | x) = log p(y) + log p(x | y), of densities that are asked themselves.

    Look for a prior that is left out, or a posterior that does not add up to 1.
    """
    model = _classifier(s)
    each = [(getattr(density, "log_prob", None) or density.score_samples)(s.x) for density in model.densities_]
    joint = np.log(model.priors_) + np.stack(each, axis=1)
    return close(model.log_prob(s.x)[:, None] + model.predict_log_proba(s.x), joint, 1e-9)


@law("the likeliest class is predicted")
def prediction(s):
    """predict_proba is exp predict_log_proba and adds up to 1; predict is its largest.

    Look at the order of classes_, and at what is normalised.
    """
    model = _classifier(s)
    p = model.predict_proba(s.x)
    return every(("predict_proba is not exp predict_log_proba", np.allclose(p, np.exp(model.predict_log_proba(s.x)))),
                 ("probabilities do not add up to 1", np.allclose(p.sum(axis=1), 1)),
                 ("predict is not the likeliest", (model.predict(s.x) == model.classes_[p.argmax(axis=1)]).all()))


@law("labels are drawn by the prior")
def labels(s):
    """The share of each label among samples is p(y), up to chance.

    Look at how a label is drawn.
    """
    model, n = _classifier(s), s.n
    drawn = model.sample(n, rng=s.seed + 31, return_labels=True)[1]
    share = np.array([(drawn == label).mean() for label in model.classes_])
    tolerance = SIGMAS * 0.5 / math.sqrt(n)
    return Finding(float(np.abs(share - model.priors_).max()), tolerance, f"{2 * tolerance:.2g}")


@law("samples of a class are of its density")
def rows(s):
    """E[log p(x | y)] is the same of sample(n, y) and of the rows that the density of y draws, in standard errors.

    Look for rows of another class.
    """
    model, n, worst = _classifier(s), min(4000, s.n), 0.0
    if not s.is_npgen:
        raise Skip("the densities are not of npgen")
    for i, (label, density) in enumerate(zip(model.classes_, model.densities_, strict=True)):
        mine = density.log_prob(model.sample(n, label, rng=s.seed + 37 + i)).astype(np.float64)
        its = density.log_prob(density.sample(n, rng=s.seed + 137 + i)).astype(np.float64)
        error = math.sqrt((mine.var() + its.var()) / n) + 1e-12
        worst = max(worst, abs(float(mine.mean() - its.mean())) / error)
    return Finding(worst, SIGMAS)
