"""Laws of encode and decode: noise is normal, decode inverts encode, every log-determinant is counted, masks hold.

Legend: n rows, d columns.
"""
import numpy as np

from .. import engine
from ..fused import LOG_2PI
from .bounds import band, distance
from .law import Finding, law
from .subject import Skip


def _noise(s):
    """By how much noise and what is said of it may differ: nothing, or by what the solver of an equation is off."""
    if (s.representation or "").partition(",")[0] != "noise":  # "noise of the base" is not normal
        raise Skip("encode does not give noise")
    if s.density == "estimate":
        raise Skip("encode is as rough as log_prob is")
    return 10 * getattr(s.model, "solver_error_", 0.0)  # which was measured, of other rows


@law("the noise of samples is standard normal")
def noise(s):
    """encode(sample) ~ N(0, I): Phi(z_i) and Phi of random directions are uniform (Cramér & Wold, 1936).

    Look for a decoder that is not the inverse of the encoder: order, scale, a stale copy of a statistic.
    """
    _noise(s)
    if s.adds_noise:
        raise Skip("integers are spread by noise")
    from scipy.special import ndtr
    z = np.asarray(s.model.encode(s.drawn), np.float64)
    directions = s.generator(5).normal(size=(s.d, 16))
    z = np.hstack([z, z @ (directions / np.linalg.norm(directions, axis=0))])
    tolerance = band(s.n, z.shape[1])
    return Finding(float(distance(ndtr(z)).max()), tolerance, f"{2 * tolerance:.1%} of the mass displaced along a direction")


@law("decode inverts encode")
def inverse(s):
    """decode(encode(x)) = x in float64, relative to the spread of each column; exact for integers, and up to a hundredth where
    the two are steps of an equation.

    Look for a step that is not undone, is undone in the wrong order, or with another parameter.
    """
    by_equation = s.density == "exact" and hasattr(s.model, "solver_error_")
    if not (s.invertible or by_equation):
        raise Skip("the model does not promise it")
    x = s.x[:200]
    error = np.abs(np.asarray(s.model.decode(s.model.encode(x)), np.float64) - x) / (s.scale[1] + np.abs(x) * 1e-3)
    return Finding(float(error.max()), 1e-2 if by_equation else 1e-9 if s.dequantize is None else 0.0)


@law("features give the conditionals back")
def features(s):
    """log p(x) = sum_d log P(x_d | x_<d) of bits, the probabilities of ones from decode(encode(x)); of several orders, in the
    first one. (Nine rows in ten decide: 1 - p has no digits left where a bit is drawn that has probability 1e-12.)

    Look at the layer that encode stops at, and at the order in which decode gives the columns.
    """
    if s.representation is None or not s.representation.startswith("features") or s.support != "binary":
        raise Skip("encode does not give features of bits")
    x = s.drawn[:200]
    ones = np.asarray(s.model.decode(s.model.encode(x)), np.float64)
    log_prob = s.log_prob(x)
    if s.several_orders:  # features are of the first one
        log_prob = s.inner.log_density_in(np.atleast_2d(s.model.order_)[0], s.inner.enter(x)[0])
    error = np.abs(log_prob - np.log(np.where(x == 1, ones, 1 - ones)).sum(axis=1))
    return Finding(float(np.quantile(error, 0.9)), 1e-6 * s.d)


@law("log_prob counts every change of variables", of="density")
def change_of_variables(s):
    """log p(x) = log N(encode(x); 0, I) + log |det d encode / dx|, derivatives by central differences, in the data's space.

    Look at the log-determinant: its sign, a term that is missing, the preprocessing's part. (Three rows in four decide,
    because a step may cross a kink of the network.)
    """
    slack = _noise(s)
    if s.adds_noise:
        raise Skip("integers are spread by noise")
    x, step = s.x[:20], 1e-6 * s.scale[1]
    moves = np.eye(s.d) * step
    above, below = (np.asarray(s.model.encode((x[:, None] + sign * moves).reshape(-1, s.d))).reshape(-1, s.d, s.d)
                    for sign in (1, -1))
    log_det = np.linalg.slogdet((above - below) / (2 * step[:, None]))[1]
    z = np.asarray(s.model.encode(x), np.float64)
    error = np.abs(s.log_prob(x) - log_det + 0.5 * (z ** 2 + LOG_2PI).sum(axis=1))
    return Finding(float(np.quantile(error, 0.75)), 1e-4 * s.d + slack)


@law("log-det is that of the Jacobian", of="density")
def jacobian(s):
    """log p(z) = log N(e(z); 0, I) + log |det de/dz|, derivatives by npgen.engine, in the preprocessed space.

    Look at the log-determinant that the model adds up, and at the derivative rules of what it is made of.
    """
    slack = _noise(s)
    if not s.is_parametric:
        raise Skip("not a model of npgen")
    worst = 0.0
    for row in s.inner.enter(s.x[:4])[0]:
        jacobian = engine.jacobian(lambda r: s.inner.represent(r[None])[0])(row)
        z = s.inner.represent(row[None])
        want = np.linalg.slogdet(jacobian)[1] - 0.5 * np.sum(z ** 2 + LOG_2PI)
        worst = max(worst, abs(float(s.inner.log_density(row[None])[0] - want)))
    return Finding(worst, 1e-8 * s.d + slack)


@law("autoregressive pattern")
def pattern(s):
    """The conditional of x_i depends on the columns before it in the order, and on none after.

    Look at the masks: < where they need <=, degrees that are off by one, an order that is not inverted.
    """
    if not (s.is_parametric and hasattr(s.model, "order_")):
        raise Skip("not an autoregressive model")
    return Finding(max(_sees_ahead(s, order) for order in np.atleast_2d(s.model.order_)), 1e-9)


def _sees_ahead(s, order):
    """By how much the conditionals of columns in this order are moved by those that they may not see."""
    net = s.inner.parts["net"].of(order)
    p, log_prob = s.inner.parts["net"].ordered(s.inner.params, order), net.head.log_prob
    z = s.inner.enter(s.x[:20])[0][:, order]
    other, turned = z + s.generator(6).normal(size=z.shape), np.roll(z, 1, axis=0)

    def outputs(z):
        return net(p, net.inputs(z))

    base, worst = outputs(z), 0.0
    for i in range(s.d):  # what the first i + 1 conditionals say of their columns, in nats, is moved by none from the i-th on
        values = np.concatenate([turned[:, :i + 1], z[:, i + 1:]], axis=1)
        changed = outputs(np.concatenate([z[:, :i], other[:, i:]], axis=1))
        say = np.array([[log_prob(x, o) for x in (z, values)] for o in (base, changed)])
        off = np.abs(np.diff(say, axis=1)[0] - np.diff(say, axis=1)[1]) / (1 + np.abs(say).max(axis=(0, 1)))
        worst = max(worst, float(off.max()))
    return worst
