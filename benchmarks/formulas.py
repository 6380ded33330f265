"""The models as they are usually written, for any array library: xp brings linear, relu, exp, log, tanh, square, where,
concatenate, columns (in another order), softmax, softplus, logsumexp, cumsum and take (one value of each row) along an axis,
bernoulli_log_prob (summed over all rows and features), cos, sigmoid, silu and clip.

params are those of problems.py; losses are mean nats per row.

Legend: n rows, d features, l latent dimensions, c components, k bins, t steps, s stages, h hidden units.
"""
import math

import numpy as np

LOG_2PI = math.log(2 * math.pi)
LEAST = 1e-3  # of a spline's bin, as a share of the box, and of a derivative


def loss(log_prob, *given):
    """-log p(x), as a function of the parameters and the rows: log_prob(params, *given, x) is that of each row."""
    return lambda params, x: -log_prob(params, *given, x).mean()


def mlp(xp, params, x):
    """Linear layers with a ReLU between them."""
    for weight, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
        x = xp.relu(xp.linear(x, weight, bias))
    return xp.linear(x, *params[-2:])


def masked(params, masks):
    """The parameters as a masked network uses them; the same where there are no masks."""
    return [p if m is None else p * m for p, m in zip(params, masks, strict=True)] if masks else params


def numbered(params):
    """The place of every parameter, as arrays of their shapes: whoever keeps them otherwise arranges these likewise."""
    starts = np.cumsum([0, *(p.size for p in params)])
    return [np.arange(a, b).reshape(p.shape) for a, b, p in zip(starts, starts[1:], params, strict=False)]


def in_place(arrays, numbers):
    """One flat array of the arrays' values, each in the place that its number says."""
    flat = np.empty(sum(a.size for a in numbers), arrays[0].dtype)
    for a, number in zip(arrays, numbers, strict=True):
        flat[number] = a
    return flat


def bounded(xp, a, limit):
    """a, smoothly kept in (-limit, limit)."""
    return limit * xp.tanh(a / limit)


def made_loss(xp, params, x):
    """-log p(x) of a MADE with a Bernoulli head."""
    return -xp.bernoulli_log_prob(x, mlp(xp, params, x)) / len(x)


def made_mixture_loss(xp, params, n_components, x):
    """-log p(x) of a MADE with mixtures of normals: of each feature the logits, means and raw log-variances."""
    outputs = mlp(xp, params, x).reshape(*x.shape, 3, n_components)
    logits, mean, log_var = outputs[:, :, 0], outputs[:, :, 1], bounded(xp, outputs[:, :, 2], 15)
    joint = logits - (log_var + xp.square(x[:, :, None] - mean) * xp.exp(-log_var)) / 2
    return (xp.logsumexp(logits, -1) - xp.logsumexp(joint, -1)).sum() / len(x) + LOG_2PI * x.shape[1] / 2


def vae_loss(xp, params, x, eps):
    """-ELBO, one sample per row, at z = mean + std * eps."""
    half = len(params) // 2
    outputs = mlp(xp, params[:half], x)
    l = outputs.shape[1] // 2  # noqa: E741
    mean, log_var = outputs[:, :l], bounded(xp, outputs[:, l:], 10)
    logits = mlp(xp, params[half:], mean + xp.exp(log_var / 2) * eps)
    kl = (xp.square(mean) + xp.exp(log_var) - 1 - log_var).sum() / 2
    return (kl - xp.bernoulli_log_prob(x, logits)) / len(x)


def critic_loss(xp, value_and_slope, critic, generator, x, noise, r1, r2):
    """softplus(D(y) - D(x)) + r1 / 2 |grad D(x)|^2 + r2 / 2 |grad D(y)|^2 of rows y that are made of noise.

    value_and_slope(D, rows): D (n,) of the rows, and its derivative by each of them, of which there is a derivative again.
    """
    n, rows = len(x), xp.concatenate([x, mlp(xp, generator, noise)], 0)
    judged, slope = value_and_slope(lambda rows: mlp(xp, critic, rows)[:, 0], rows)
    squares = xp.square(slope).sum(1)
    return (xp.softplus(judged[n:] - judged[:n]) + r1 / 2 * squares[:n] + r2 / 2 * squares[n:]).mean()


def generator_loss(xp, generator, critic, x, noise):
    """softplus(D(x) - D(y)) of rows y that are made of noise."""
    return xp.softplus(mlp(xp, critic, x) - mlp(xp, critic, mlp(xp, generator, noise))).mean()


def rbm_gradient(xp, params, x, chain, seen, active, of_hidden, of_visible):
    """Persistent contrastive divergence in centred parameters, after one Gibbs step of the chains by these uniforms.

    Returns F(x) - F(chain), mean free energies, its gradient, and the chain and the offsets seen and active.
    """
    weight, visible, hidden = params
    h = xp.where(of_hidden < xp.sigmoid(xp.linear(chain, weight, hidden)), 1.0, 0.0)
    chain = xp.where(of_visible < xp.sigmoid(xp.linear(h, weight.T, visible)), 1.0, 0.0)
    a, b = xp.linear(x, weight, hidden), xp.linear(chain, weight, hidden)
    p, q, n, m = xp.sigmoid(a), xp.sigmoid(b), len(x), len(chain)
    mean_x, mean_p, mean_chain, mean_q = x.mean(0), p.mean(0), chain.mean(0), q.mean(0)
    seen, active = seen + 0.01 * (mean_x - seen), active + 0.01 * (mean_p - active)
    value = (mean_chain - mean_x) @ visible + xp.softplus(b).sum() / m - xp.softplus(a).sum() / n
    of_visible, of_hidden = mean_chain - mean_x, mean_q - mean_p
    of_weight = chain.T @ (q / m) - x.T @ (p / n) - seen[:, None] * of_hidden - of_visible[:, None] * active
    return value, [of_weight, of_visible - of_weight @ active, of_hidden - seen @ of_weight], chain, seen, active


def diffusion_loss(xp, params, frequencies, sigmas, log_s, scale, x, normal, eps):
    """Squared error of F at rows x with noise: w = (x / scale + s eps) / sqrt(1 + s^2), F -> (s x / scale - eps) / the same."""
    low, length = math.log(sigmas[0]), math.log(sigmas[1] / sigmas[0])
    tau = xp.clip((log_s[0] + log_s[1] * normal - low) / length, 0, 1)[:, None]
    s, x = xp.exp(low + length * tau), x / scale
    cosine = (1 + s * s)**-0.5
    first, b1, second, b2, third, b3 = params
    h = xp.silu(xp.linear(xp.concatenate([cosine * (x + s * eps), xp.cos(tau * frequencies)], 1), first, b1))
    F = xp.linear(xp.silu(xp.linear(h, second, b2)), third, b3)
    return xp.square(F + cosine * (eps - s * x)).sum(1).mean()


def network_in_time(params, features, divergence):
    """What all rows share on their way: a network's matrices, and the first layer's shifts (t, s, h).

    divergence: whether W_2 * (W_1 W_3)^T is among the matrices, with which `ode_step` takes it.
    """
    first, b1, second, b2, third, b3 = params
    d = third.shape[1]
    both = second * (third @ first[:d]).T if divergence else None
    return (first[:d], second, b2, third, b3, both), features @ first[d:] + b1


def ode_step(xp, network, lead, share, w, log_det, shifts, rates):
    """Rows w (n, d) and log |det| (n,) after a Runge-Kutta step; shifts (s, h), rates (s,)."""
    first, second, b2, third, b3, both = network
    start, at = w, w
    for stage, (ahead, counts) in enumerate(zip((*lead[1:], 0), share, strict=True)):
        a = at @ first + shifts[stage]
        b = xp.linear(xp.silu(a), second, b2)
        k = rates[stage] * xp.linear(xp.silu(b), third, b3)
        if both is not None:
            p, q = (sigmoid * (1 + z * (1 - sigmoid)) for z, sigmoid in ((a, xp.sigmoid(a)), (b, xp.sigmoid(b))))
            log_det = log_det + counts * rates[stage] * ((p @ both) * q).sum(1)
        w, at = w + counts * k, start + ahead * k
    return w, log_det


def diffusion_log_prob(w, log_det, scale):
    """log p(x), (n,), of rows that lead to w."""
    return log_det - (w * w).sum(1) / 2 - w.shape[1] * (LOG_2PI / 2 + math.log(scale))


def _couplings(params, orders, d):
    """(order or None, n_kept, shift, log_scale, network) of every coupling."""
    n_couplings = 2 * len(orders)
    size = len(params) // n_couplings
    for k in range(n_couplings):
        shift, log_scale, *network = params[k * size:(k + 1) * size]
        yield None if k % 2 else orders[k // 2], d - d // 2 if k % 2 else d // 2, shift, log_scale, network


def _log_normal(xp, z):
    """log N(z; 0, I), (n,)."""
    return -xp.square(z).sum(1) / 2 - z.shape[1] / 2 * LOG_2PI


def _scale_and_shift(xp, network, kept):
    outputs = mlp(xp, network, kept)
    n_moved = outputs.shape[1] // 2
    return bounded(xp, outputs[:, :n_moved], 3), outputs[:, n_moved:]


def realnvp_log_prob(xp, params, orders, x):
    """log N(z; 0, I) + log |det dz/dx|, (n,)."""
    d, log_det = x.shape[1], 0.0
    for order, n_kept, shift, log_scale, network in _couplings(params, orders, d):
        if order is not None:
            x = xp.columns(x, order)
        x = (x - shift) * xp.exp(-log_scale)
        kept, moved = x[:, :n_kept], x[:, n_kept:]
        s, t = _scale_and_shift(xp, network, kept)
        x = xp.concatenate([(moved - t) * xp.exp(-s), kept], 1)
        log_det = log_det - log_scale.sum() - s.sum(1)
    return log_det + _log_normal(xp, x)


def realnvp_rows(xp, params, orders, backs, z):
    """The rows that noise z stands for; backs undo the orders."""
    d = z.shape[1]
    steps = list(_couplings(params, orders, d))
    for k, (_, n_kept, shift, log_scale, network) in reversed(list(enumerate(steps))):
        moved, kept = z[:, :d - n_kept], z[:, d - n_kept:]
        s, t = _scale_and_shift(xp, network, kept)
        z = xp.concatenate([kept, moved * xp.exp(s) + t], 1) * xp.exp(log_scale) + shift
        if k % 2 == 0:
            z = xp.columns(z, backs[k // 2])
    return z


def _stack(params, orders):
    """(the order of the features before it, or None, shift, log_scale, network) of every step of a stack."""
    size = len(params) // len(orders)
    for k, order in enumerate(orders):
        shift, log_scale, *network = params[k * size:(k + 1) * size]
        yield order if k else None, shift, log_scale, network


def _stacked_log_prob(xp, params, orders, x, step):
    """log p(x) (n,) of steps that each normalise the features; step(network, x) -> z, log_det."""
    log_det = 0.0
    for order, shift, log_scale, network in _stack(params, orders):
        if order is not None:
            x = xp.columns(x, order)
        x, more = step(network, (x - shift) * xp.exp(-log_scale))
        log_det = log_det - log_scale.sum() + more
    return log_det + _log_normal(xp, x)


def maf_log_prob(xp, params, orders, x):
    """log N(z; 0, I) + log |det dz/dx|, (n,)."""
    def step(network, x):
        outputs = mlp(xp, network, x)
        log_var = bounded(xp, outputs[:, 1::2], 15)
        return (x - outputs[:, ::2]) * xp.exp(-log_var / 2), -log_var.sum(1) / 2

    return _stacked_log_prob(xp, params, orders, x, step)


def maf_rows(xp, params, orders, backs, z, inverse):
    """The rows that noise z stands for; inverse(network, z) is that of a step, which takes a pass for every feature."""
    for (order, shift, log_scale, network), back in reversed(list(zip(_stack(params, orders), backs, strict=True))):
        z = inverse(network, z) * xp.exp(log_scale) + shift
        if order is not None:
            z = xp.columns(z, back)
    return z


def maf_feature(xp, hidden, last, x, noise):
    """One feature (n,) of the rows, its noise given, from those before it in x; `last` are its columns of the last layer."""
    outputs = xp.linear(xp.relu(mlp(xp, hidden, x)), *last)
    return outputs[:, 0] + xp.exp(bounded(xp, outputs[:, 1], 15) / 2) * noise


def nsf_log_prob(xp, params, orders, bins, box, axis, x):
    """log N(z; 0, I) + log |det dz/dx|, (n,); for axis see `spline`."""
    def step(network, x):
        kept, moved = x[:, :x.shape[1] // 2], x[:, x.shape[1] // 2:]
        z, log_det = spline(xp, moved, mlp(xp, network, kept), bins, box, axis)
        return xp.concatenate([kept, z], 1), log_det

    return _stacked_log_prob(xp, params, orders, x, step)


def spline(xp, x, raw, bins, box, axis):
    """Every value by its own monotone rational-quadratic spline in (-box, box): z (n, d), log |det dz/dx| (n,).

    raw are of each feature bins widths, heights and bins - 1 derivatives (axis 2), or those of all features one after the
    other (axis 1): libraries are fast along different axes.
    """
    (n, d), each = x.shape, 3 * bins - 1
    raw = raw.reshape((n, d, each) if axis == 2 else (n, each, d))

    def part(a, first, end):
        return a[:, :, first:end] if axis == 2 else a[:, first:end]

    def along(a):
        return a[:, :, None] if axis == 2 else a[:, None]

    width, height = (2 * box * (LEAST + (1 - bins * LEAST) * xp.softmax(part(raw, i * bins, (i + 1) * bins), axis))
                     for i in range(2))
    left, low = (xp.cumsum(size, axis) - size - box for size in (width, height))
    one = part(0 * raw + 1, 0, 1)
    slope = LEAST + xp.softplus(part(raw, 2 * bins, each) + math.log(math.expm1(1 - LEAST)))
    slope = xp.concatenate([one, slope, one], axis)
    inside = abs(x) < box
    v = xp.where(inside, x, 0.0)
    number = (along(v) >= part(left, 1, bins)).sum(axis)
    left, low, w, h, d0 = (xp.take(a, number, axis) for a in (left, low, width, height, slope))
    s, d1 = h / w, xp.take(slope, number + 1, axis)
    t = (v - left) / w
    u = 1 - t
    den = s + (d0 + d1 - 2 * s) * t * u
    log_det = xp.where(inside, 2 * xp.log(s / den) + xp.log(d1 * t * t + 2 * s * t * u + d0 * u * u), 0.0)
    return xp.where(inside, low + h * t * (s * t + d0 * u) / den, x), log_det.sum(1)
