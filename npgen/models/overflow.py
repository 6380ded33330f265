"""Answers about rows so far out that numbers overflow: computed again where they can be, -inf nats where a density vanishes."""
import numpy as np

from ..later import later

FAR = 1e200, 1e100, 1e50, 1e25  # linear maps of such values stay within float64; the square of the first does not


def nan_later(values):
    """Whether it is asked later if one of these values, (n,) or (n, m), is NaN."""
    return values.size > 0 and later(values, lambda values: np.isnan(values.min()))


def without_overflow(function, enter, x, *, far=FAR[:1], of=slice(None)):
    """function(*enter(x)), (n,) or (n, m); of rows of which it is NaN, in its columns `of`, that in float64.

    Parameters and rows are finite, so NaN is inf - inf or 0 inf: something overflowed. Numbers that float32 holds do not
    overflow in float64. Where float64 rows do, the first that enter(x) answers is cut to the first of +-far that is in range:
    there a network is as good as linear, and only directions are left of it.
    """
    def overflown(answer):
        return np.isnan(answer if answer.ndim == 1 else answer[:, of])

    answer = function(*enter(x))
    if nan_later(answer):
        return answer
    if not answer.size or not np.isnan(answer.min()) or not overflown(answer).any():
        return answer
    z, *rest = enter(x.astype(np.float64))
    for limit in far:
        again = function(np.clip(z, -limit, limit), *rest).astype(answer.dtype)
        wrong = overflown(answer).reshape(len(x), -1).any(axis=1)
        answer = np.where(wrong if answer.ndim == 1 else wrong[:, None], again, answer)
        if not overflown(answer).any():
            break
    return answer


def beyond_numbers(log_prob):
    """Nats with -inf for NaN, which of finite rows comes of numbers that overflow, far out, where a density vanishes.

    A network is piecewise linear and the scales are bounded, so that x grows no faster than linearly with a flow's or a VAE's
    noise: log p <= a - b |x|^2, which underflows where |x| passes 1e154, long before linear maps overflow at 1e308. MADE's mean
    of a column may follow the columns before it as closely; but a float64 beyond 1e290 is only known to 1e274, and that is
    further from any mean than a square holds.
    """
    log_prob[log_prob != log_prob] = -np.inf
    return log_prob
