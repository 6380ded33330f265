"""Laws of mixtures: density, responsibilities and means are those of the attributes, and EM ascends.

Legend: n rows, d columns, k components.
"""
import copy
import warnings

import numpy as np

from .. import ops
from ..fused import LOG_2PI
from .bounds import band, gap
from .law import Finding, close, law
from .subject import Skip

FAR = 30      # standard deviations of a row that partial_fit is given
ALIKE = 0.01  # share of the weights' entropy that rows tell of the components


def _mixture(s):
    """The mixture, drawn rows, log w_k p_k(x) of them from its attributes (n, k), and of rows that differ in the last digit."""
    model, x, log_det = getattr(s.model, "model", s.model), s.drawn[:300], 0.0
    if not all(hasattr(model, name) for name in ("weights_", "means_")):
        raise Skip("not a mixture")
    z, of_columns = x, hasattr(model, "kinds_")
    if not of_columns and not hasattr(model, "covariances_"):
        raise Skip("not a mixture of Gaussians")
    if s.is_parametric:
        z, log_det = s.inner.enter(x)
        log_det = log_det[:, None]
    components, log_weights = _columns if of_columns else _gaussians, np.log(np.asarray(model.weights_, np.float64))
    host = getattr(s.host, "model", s.host)
    return model, x, *(log_weights + components(host, rows) + log_det for rows in (z, z * (1 + np.finfo(float).eps)))


def _gaussians(model, x):
    """log N(x; m_k, C_k), from the attributes that scikit-learn's mixtures have too."""
    means, c = (np.asarray(a, np.float64) for a in (model.means_, model.covariances_))
    k, d = means.shape
    kind = getattr(model, "covariance_type_", model.covariance_type)
    c = {"full": lambda: c, "tied": lambda: np.broadcast_to(c, (k, d, d)), "diag": lambda: c[:, :, None] * np.eye(d),
         "spherical": lambda: c[:, None, None] * np.eye(d)}[kind]()
    away = x[:, None] - means
    squares = np.einsum("nkd,kde,nke->nk", away, np.linalg.inv(c), away)
    return -0.5 * (squares + np.linalg.slogdet(c)[1] + d * LOG_2PI)


def _columns(model, x):
    """sum_j log p_kj(x_j), of normal columns, counts, tables of probabilities (k, c), and by the head itself of other kinds."""
    joint, reals = np.zeros((len(x), len(model.weights_))), zip(model.means_.T, model.variances_.T, strict=True)
    rates, tables = iter(model.rates_.T), zip(model.levels_, model.probabilities_, strict=True)
    for j, (values, kind) in enumerate(zip(x.T, model.kinds_, strict=True)):
        if kind == "normal":
            mean, variance = next(reals)
            joint -= 0.5 * ((values[:, None] - mean) ** 2 / variance + np.log(variance) + LOG_2PI)
        elif kind == "poisson":
            rate = next(rates)
            joint += values[:, None] * np.log(rate) - rate - ops.gammaln(values + 1)[:, None]
        elif kind in ("bernoulli", "categorical"):
            levels, table = next(tables)
            joint += np.log(table)[:, np.abs(values[:, None] - levels).argmin(axis=1)].T
        else:  # a head of one's own has no attributes
            inner = model.inner()
            group, place = inner.parts["columns"].at(j)
            head = inner.parts["columns"].heads[group]
            joint += head.of([place]).log_prob(values[:, None, None], head.take(inner.params[group], [place]))
    return joint


@law("a mixture is its attributes")
def mixture(s):
    """log p(x) = log sum_k w_k p_k(x), from weights_, means_ and covariances_, or the tables of every column.

    Look at the log-determinant of the factor, the weights, and the units of what fit standardised.
    """
    _, x, *joints = _mixture(s)
    log_prob, moved = (np.logaddexp.reduce(joint, axis=1) for joint in joints)
    return close(s.log_prob(x), log_prob, 1e-6 + 4 * float(np.abs(moved - log_prob).max()))


@law("responsibilities are posterior probabilities")
def responsibilities(s):
    """predict_proba(x)_k = encode(x)_k = w_k p_k(x) / p(x).

    Look at what it is normalised over, at the weights, and at the order of the components.
    """
    model, x, *joints = _mixture(s)
    posterior, moved = (np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)) for joint in joints)
    allowed = 1e-6 + 4 * float(np.abs(moved - posterior).max())
    found = [close(getattr(model, name)(x), posterior, allowed) for name in ("predict_proba", "encode") if hasattr(model, name)]
    if not found:
        raise Skip("no predict_proba")
    return next((each for each in found if not each.passed), found[0])


@law("responsibilities stand for means")
def means(s):
    """decode(r) = sum_k r_k m_k, in the space of the preprocessing.

    Look at the order of the components, and at the way back into the data's space.
    """
    model, _, joint, _ = _mixture(s)
    if not (s.is_parametric and hasattr(model, "covariances_")):
        raise Skip("not a mixture of Gaussians of npgen")
    r = s.generator(12).dirichlet(np.ones(joint.shape[1]), 100)
    return close(model.decode(r), s.inner.leave(r @ np.asarray(model.means_, np.float64)), 1e-6)


@law("components differ")
def apart(s):
    """A row says something about its component: E KL(r(x) || w) > 0 for responsibilities r and weights w, unless samples look
    as rows X do. Measured is what a row leaves open of the entropy of the weights.

    Look at the start: components that begin alike stay alike, and k of them are a mixture of one.
    """
    model, _, joint, _ = _mixture(s)
    if len(model.weights_) == 1 or not s.has_rows:
        raise Skip("there is one component" if s.has_rows else "rows X are not given")
    log_weights, log_r = np.log(model.weights_), joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # of a component that is empty
        information = np.nansum(np.exp(log_r) * (log_r - log_weights), axis=1).mean()
        entropy = -np.nansum(np.exp(log_weights) * log_weights)
    found = Finding(float(1 - information / entropy), 1 - ALIKE, f"{ALIKE:.0%} of the entropy told", "the components are one")
    rows, drawn = s.slices(s.x), s.slices(s.drawn)
    if not found.passed and max(map(gap, rows.T, drawn.T)) <= sum(band(n, 2 * rows.shape[1]) for n in (len(rows), s.n)):
        raise Skip("one component may be what the rows have")
    return found


@law("partial_fit counts rows")
def counted(s):
    """After n rows, one row more moves the mean of the mixture by n^(-1/2) of the way to it at most: steps that fall slower
    do not converge (Robbins & Monro, 1951; Cappe & Moulines, 2009: n^-a with 1/2 < a <= 1). The order of a batch's rows does
    not matter, and an integer weight is as many copies of its row.

    Look at what is counted, calls or rows, and at what weights are divided by.
    """
    if not (s.is_npgen and hasattr(s.model, "partial_fit")):
        raise Skip("no partial_fit")
    whole, bits = (s.pilot == np.round(s.pilot)).all(axis=0), np.isin(s.pilot, (0, 1)).all(axis=0)
    moving = np.flatnonzero(~whole | bits)  # the likeliest of several levels jumps
    if s.adds_noise or not len(moving):
        raise Skip("means of levels jump")
    rows, n = s.drawn[:2000].astype(s.model.dtype_), len(s.drawn[:2000])

    def more(model, x, **options):
        return copy.deepcopy(model).partial_fit(x, **options)

    def centre(model):
        return (np.asarray(model.weights_, np.float64) @ model.decode(np.eye(model.n_latent_)))[moving]

    start = more(s.model, rows)
    before, row, spread = centre(start), rows[0].copy(), s.scale[1]
    row[~whole] += FAR * spread[~whole]
    way = np.maximum(np.abs(row[moving] - before), spread[moving] / 10)
    moved = float(np.max(np.abs(centre(more(start, row[None])) - before) / way))
    found = [Finding(moved, n**-0.5, note=f"one row after {n:,} moves the mean by {moved:.1%} of the way to it")]
    few, weights = rows[:60], np.tile([1, 2, 3], 20)
    copies, allowed = few.repeat(weights, axis=0), max(1e-6, float(np.sqrt(np.finfo(rows.dtype).eps)))
    others = {"the order of rows matters": more(start, copies[::-1]),
              "an integer weight is not so many rows": more(start, few, sample_weight=weights)}
    found += [close(other.log_prob(few), more(start, copies).log_prob(few), allowed, what) for what, other in others.items()]
    return next((each for each in found if not each.passed), found[0])


@law("EM never loses likelihood")
def monotone(s):
    """lower_bounds_ never falls (Dempster, Laird & Rubin, 1977), but for what reg_covar adds and for components seeded anew.
    Nor does the likelihood of any other rows in one more iteration on them, reg_covar left out.

    Look at the M-step: weights, the centre of the second moments, the order of updates.
    """
    model = s.model
    if not (s.is_npgen and hasattr(model, "lower_bounds_") and getattr(model, "solver", "em") == "em"):
        raise Skip("not fitted by EM alone")
    bounds, reseeded = np.array(model.lower_bounds_), [entry.get("iteration") for entry in model.fit_report_["reseeded"]]
    falls = [fall for i, fall in enumerate(bounds[:-1] - bounds[1:]) if i + 2 not in reseeded]
    found = Finding(float(np.max(falls, initial=0)), 1e-9 + 10 * model.reg_covar * s.d)
    if found.passed and hasattr(model, "warm_start") and model.preprocess is None:
        x, more = s.drawn[:2000], copy.copy(model).set_params(warm_start=True, max_iter=1, reg_covar=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one iteration does not converge
            try:
                more.fit(x)
            except ValueError:  # these rows have no density without reg_covar
                return found
        if not more.fit_report_["reseeded"]:
            again = Finding(max(0.0, model.score(x) - more.score(x)), 1e-6)
            return found if again.passed else again
    return found
