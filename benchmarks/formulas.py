"""The models as they are usually written, for any array library: xp brings linear, relu, exp, tanh, square, concatenate,
columns (in another order) and bernoulli_log_prob (summed over all rows and features).

params are those of problems.py; losses are mean nats per row.

Legend: n rows, d features, l latent dimensions.
"""
import math


def mlp(xp, params, x):
    """Linear layers with a ReLU between them."""
    for weight, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
        x = xp.relu(xp.linear(x, weight, bias))
    return xp.linear(x, *params[-2:])


def made_logits(xp, params, masks, x):
    """The Bernoulli logits (n, d) of a MADE whose weights are masked as they are used; no masks where they are already."""
    if masks:
        params = [p if i % 2 else p * masks[i // 2] for i, p in enumerate(params)]
    return mlp(xp, params, x)


def made_loss(xp, params, masks, x):
    """-log p(x)."""
    return -xp.bernoulli_log_prob(x, made_logits(xp, params, masks, x)) / len(x)


def vae_loss(xp, params, x, eps):
    """-ELBO, one sample per row, at z = mean + std * eps."""
    half = len(params) // 2
    outputs = mlp(xp, params[:half], x)
    l = outputs.shape[1] // 2  # noqa: E741
    mean, log_var = outputs[:, :l], 10 * xp.tanh(outputs[:, l:] / 10)
    logits = mlp(xp, params[half:], mean + xp.exp(log_var / 2) * eps)
    kl = (xp.square(mean) + xp.exp(log_var) - 1 - log_var).sum() / 2
    return (kl - xp.bernoulli_log_prob(x, logits)) / len(x)


def _couplings(params, orders, d):
    """(order or None, n_kept, shift, log_scale, network) of every coupling."""
    n_couplings = 2 * len(orders)
    size = len(params) // n_couplings
    for k in range(n_couplings):
        shift, log_scale, *network = params[k * size:(k + 1) * size]
        yield None if k % 2 else orders[k // 2], d - d // 2 if k % 2 else d // 2, shift, log_scale, network


def _scale_and_shift(xp, network, kept):
    outputs = mlp(xp, network, kept)
    n_moved = outputs.shape[1] // 2
    return 3 * xp.tanh(outputs[:, :n_moved] / 3), outputs[:, n_moved:]


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
    return log_det - xp.square(x).sum(1) / 2 - d / 2 * math.log(2 * math.pi)


def realnvp_loss(xp, params, orders, x):
    """-log p(x)."""
    return -realnvp_log_prob(xp, params, orders, x).mean()


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
