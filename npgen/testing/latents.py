"""Laws of latent variables: what the bounds are, and in which order."""
import copy
import math

import numpy as np

from .bounds import band, gap
from .law import SIGMAS, Finding, close, every, law
from .subject import Skip


def _mean_zero(values):
    """The Finding that the expectation is 0, from the mean and its standard error."""
    error = values.std(ddof=1) / math.sqrt(len(values)) + 1e-12
    return Finding(abs(float(values.mean())), SIGMAS * error, f"{2 * SIGMAS * error:.2g} nats")


def _weighted(s):
    """Raise Skip unless there are importance weights."""
    if not s.is_parametric or not hasattr(s.model, "importance_log_prob"):
        raise Skip("its ELBO is none of importance weights" if hasattr(s.model, "elbo") else "not a model with an ELBO")


class _Unchecked:
    """A likelihood head that takes any row."""

    def __init__(self, head):
        self._head = head

    def check(self, x, name, shown=None):
        pass

    def __getattr__(self, name):
        return getattr(self._head, name)


def _bounds(s):
    """The model and 2,000 rows that all differ, as noise that is a function of the row needs: bits are moved by 1e-9."""
    _weighted(s)
    x, model = s.drawn[:2000], copy.copy(s.model)
    if s.support != "binary":
        return model, np.unique(x, axis=0)
    model.install(model.inner().parts | {"head": _Unchecked(model.head_)})
    return model, np.abs(x - 1e-9 * s.generator(11).random(x.shape))


@law("the ELBO is what it bounds with")
def elbo(s):
    """E[elbo] = E_q[log p(x, z) - log q(z | x)]: the KL divergence in closed form against one importance sample per row.

    Look at the KL divergence: a mean over the latent dimensions, a missing 1/2, the sign of the log-variance.
    """
    model, x = _bounds(s)
    return _mean_zero(model.elbo(x) - model.importance_log_prob(x, n_importance=1)[0])


@law("ELBO <= IWAE <= log p(x)")
def ordered(s):
    """In expectation elbo <= IWAE_1 <= IWAE_8 <= IWAE_64 <= log p(x) (Burda et al., 2016), log p(x) by quadrature where l <= 2.

    Look for log S that is not subtracted, a prior or a q that is left out. Measured is the largest fall.
    """
    model, x = _bounds(s)
    levels = [model.elbo(x), *(model.importance_log_prob(x, n_importance=k)[0] for k in (1, 8, 64))]
    falls = [lower - upper for lower, upper in zip(levels, levels[1:], strict=False)]
    if model.n_latent_ <= 2:
        falls.append(levels[-1][:200] - s.log_prob(np.round(x[:200]) if s.support == "binary" else x[:200]))
    errors = [SIGMAS * fall.std(ddof=1) / math.sqrt(len(fall)) + 1e-9 for fall in falls]
    over = [fall.mean() / error for fall, error in zip(falls, errors, strict=True)]
    i = int(np.argmax(over))
    return Finding(float(falls[i].mean()), float(errors[i]), f"{2 * max(errors):.2g} nats")


@law("ELBO <= log p(x)")
def below(s):
    """In expectation over rows that the model draws elbo <= log_prob: in the mean of 5,000, up to its standard error and the
    solver's. Of such rows it holds for a bound on any density q, as E_p[log q(x)] <= E_p[log p(x)] (Gibbs): of a diffusion,
    whose ELBO is of the equation with noise and whose log_prob is of the one without.

    Look for a term that is left out of the ELBO, its sign, a weight of the levels of noise.
    """
    if not s.is_parametric or not hasattr(s.model, "elbo"):
        raise Skip("not a model with an ELBO")
    if hasattr(s.model, "importance_log_prob"):
        raise Skip("it is held to importance weights")
    if s.density != "exact" or s.adds_noise:
        raise Skip("log_prob is not exact")
    over = s.model.elbo(s.drawn[:5000]) - s.drawn_log_prob[:5000]
    tolerance = SIGMAS * float(over.std(ddof=1)) / math.sqrt(len(over)) + 10 * getattr(s.model, "solver_error_", 0.0)
    return Finding(float(over.mean()), tolerance, f"{2 * tolerance:.2g} nats above log p(x)")


@law("importance sampling estimates p(x)")
def importance(s):
    """The median row's exp(IWAE - log p(x)) is one up to its error, log p(x) by quadrature over one or two latent dimensions.

    Look at the weights p(x, z) / q(z | x): every term once, with the right sign.
    """
    model, x = _bounds(s)
    x = x[:100]
    log_prob, error = model.importance_log_prob(x, n_importance=2000)
    sure = error < 0.05  # few weights decide elsewhere, and the standard error is none
    if sure.sum() < 20:
        raise Skip("the weights vary too much")
    ratio = np.exp(log_prob - s.log_prob(np.round(x) if s.support == "binary" else x))[sure] - 1
    # Where the weights' tail is long and unseen, a row is too low by more than its standard error tells: by five of them
    # one row in 30, in the worst model looked at. If it were one in 14, half the rows would be so for a seed in 1,000,000.
    tolerance = 5 * float(np.median(error[sure])) + 1e-3
    return Finding(abs(float(np.median(ratio))), tolerance, f"{2 * tolerance:.2g} nats")


@law("log_prob is the importance-weighted estimate")
def estimate(s):
    """log_prob(x) is the estimate that importance_log_prob(x) gives with the model's own number of samples.

    Look for a log-determinant, or log S, that only one of the two counts.
    """
    _weighted(s)
    x = s.x[:100]
    return close(s.model.log_prob(x), s.model.importance_log_prob(x)[0], 1e-12)


@law("reconstructions and lines are decode of encode")
def lines(s):
    """reconstruct(x) = decode(encode(x)), and so do lines of interpolate begin and end, straight and spherical ones.

    Look at the shares of the two ends, at their order, and at which rows an answer is of.
    """
    if not (s.is_parametric and hasattr(s.model, "interpolate")):
        raise Skip("not a model with lines between rows")
    model, x = s.model, s.x[:20]
    want, each = model.decode(model.encode(x)), (model.interpolate(x[:-1], x[1:], 4, spherical=how) for how in (False, True))
    return every(("reconstruct", np.array_equal(model.reconstruct(x), want)),
                 *((f"the {which} of a line", np.array_equal(rows[:, i], part)) for rows in each
                   for which, i, part in (("first row", 0, want[:-1]), ("last row", -1, want[1:]))))


@law("imputed draws follow the density")
def imputed(s):
    """Rows drawn from the model of which one value each is hidden, and imputed by a draw, follow the density as before, along
    every column and random directions; what was not hidden is as it was.

    Look at what the draw is given: x_m of p(x_m | x_o), not of p(x_m), not its mean.
    """
    if not (s.is_parametric and hasattr(s.model, "impute")):
        raise Skip("not a model that imputes")
    if getattr(s.model, "any_order_", False):
        raise Skip("it imputes in other orders than those of its density")
    x, others = np.split(s.drawn, [min(1000, s.n // 2)])
    holes = np.where(np.arange(s.d) == np.arange(len(x))[:, None] % s.d, np.nan, x)
    try:
        full = np.asarray(s.model.impute(holes, rng=s.seed), np.float64)
    except ValueError:
        raise Skip("the model takes no missing values") from None
    kept = ~np.isnan(holes)
    if not np.array_equal(full[kept], x[kept]):
        return every(("what was seen is as it was", False))
    full, others = s.slices(full), s.slices(others)
    tolerance = band(len(full), 2 * full.shape[1]) + band(len(others), 2 * full.shape[1])
    return Finding(float(max(map(gap, full.T, others.T))), tolerance, f"{2 * tolerance:.1%} of the mass displaced")
