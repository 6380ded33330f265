"""What is timed: data, first parameters and noise in NumPy, made once and handed to every library.

A problem is a dict. params: the arrays of a model in order, weight (inputs, outputs) before bias; masks: what is allowed of
each of them, or None; batches (b, n): the row numbers of b steps; drawn, noise: the random numbers of a check, those of a
step and of a sample, drawn as npgen draws them; carry: what a step keeps for the next one beside parameters. Whoever times
one may add device: "cpu", as without it, or "cuda", where training steps, made_sample and em_on_device run too.

Legend: n rows, d features, k components.
"""
import math

import numpy as np

from npgen import masks
from npgen.kernels.random import values_per_block
from npgen.models.boltzmann import APART
from npgen.random import Stream

N_BATCHES = 20


def _layers(rng, sizes):
    for n_in, n_out in zip(sizes, sizes[1:], strict=False):
        yield rng.normal(0, 1 / math.sqrt(n_in), (n_in, n_out)).astype(np.float32)
        yield rng.normal(0, 0.1, n_out).astype(np.float32)


def _batches(rng, batch):
    return rng.permutation(N_BATCHES * batch).reshape(N_BATCHES, batch)


def _binary_rows(rng, n, d):
    return (rng.uniform(size=(n, d)) < rng.uniform(size=d)).astype(np.float32)


def _masked(rng, d, hidden, each):
    """(params, masks) of a masked autoencoder of d features whose outputs are `each` of the first, then of the second, ..."""
    *inner, last = (m.astype(np.float32) for m in masks.made_masks(d, hidden))
    allowed = [a for m in (*inner, np.repeat(last, each, axis=1)) for a in (m, None)]
    return [p if m is None else p * m for p, m in zip(_layers(rng, (d, *hidden, each * d)), allowed, strict=True)], allowed


def made(d=784, hidden=500, batch=100, n_samples=100):
    """A MADE of one hidden layer on binary rows; noise (n_samples, d) are the uniforms that decide a sample."""
    rng = np.random.default_rng(0)
    params, allowed = _masked(rng, d, (hidden,), 1)
    return {"params": params, "masks": allowed, "hidden": (hidden,), "x": _binary_rows(rng, N_BATCHES * batch, d),
            "batches": _batches(rng, batch), "noise": Stream(1).uniform((n_samples, d), np.float32), "stream": 1}


def made_mixture(d=784, hidden=500, batch=100, components=10):
    """A MADE of one hidden layer whose conditionals are mixtures of normals, on rows of normals."""
    rng = np.random.default_rng(0)
    params, allowed = _masked(rng, d, (hidden,), 3 * components)
    return {"params": params, "masks": allowed, "hidden": (hidden,), "components": components, "batches": _batches(rng, batch),
            "x": rng.normal(size=(N_BATCHES * batch, d)).astype(np.float32), "stream": 1}


def vae(d=784, hidden=400, latent=20, batch=128):
    """A VAE with a Bernoulli head on binary rows; drawn: eps (batch, latent)."""
    rng = np.random.default_rng(0)
    params = [*_layers(rng, (d, hidden, 2 * latent)), *_layers(rng, (latent, hidden, d))]
    return {"params": params, "hidden": (hidden,), "latent": latent, "x": _binary_rows(rng, N_BATCHES * batch, d),
            "batches": _batches(rng, batch), "drawn": [Stream(1).normal((batch, latent), np.float32)], "stream": 1}


def _norm(rng, d):
    """The shift and the log-scale of an ActNorm."""
    return list(rng.normal(0, 0.1, (2, d)).astype(np.float32))


def _near_identity(params):
    """The parameters of a step's network, its outputs as small as a fit starts them."""
    *network, last, bias = params
    return [*network, last / 10, bias]


def _flow(rng, d, batch, n_rows, n_noise):
    """What the problems of all flows have: rows, batches, and noise (n_noise, d)."""
    n = max(N_BATCHES * batch, n_rows)
    return {"x": rng.normal(size=(n, d)).astype(np.float32), "batches": _batches(rng, batch), "n_rows": n_rows,
            "noise": Stream(1).normal((n_noise, d), np.float32), "stream": 1}


def realnvp(d=64, n_couplings=8, hidden=(128, 128), batch=512, n_rows=10_000):
    """A RealNVP; orders (n_couplings / 2, d) shuffle the features before each pair of couplings, noise (n_rows, d)."""
    rng = np.random.default_rng(0)
    params = []
    for k in range(n_couplings):
        n_kept = d // 2 if k % 2 == 0 else d - d // 2
        params += _norm(rng, d) + _near_identity(_layers(rng, (n_kept, *hidden, 2 * (d - n_kept))))
    orders = np.stack([rng.permutation(d) for _ in range((n_couplings + 1) // 2)])
    return {"params": params, "orders": orders, "hidden": hidden, **_flow(rng, d, batch, n_rows, n_rows)}


def maf(d=64, n_layers=5, hidden=(256, 256), batch=512, n_rows=10_000, n_samples=1000):
    """A MAF, features reversed between steps (orders (n_layers, d), the first is not used); noise (n_samples, d).

    A step's network has two hidden layers, as zuko's and nflows' have by default.
    """
    rng = np.random.default_rng(0)
    params, allowed = [], []
    for _ in range(n_layers):
        network, of_network = _masked(rng, d, hidden, 2)
        params += _norm(rng, d) + _near_identity(network)
        allowed += [None, None, *of_network]
    return {"params": params, "masks": allowed, "orders": np.tile(np.arange(d)[::-1], (n_layers, 1)), "hidden": hidden,
            **_flow(rng, d, batch, n_rows, n_samples)}


def nsf(d=64, n_layers=8, hidden=(128, 128), bins=8, batch=512, n_rows=10_000):
    """An NSF of couplings, features shuffled between them (orders (n_layers, d), the first is not used); box 5."""
    rng = np.random.default_rng(0)
    params = []
    for _ in range(n_layers):
        params += _norm(rng, d) + _near_identity(_layers(rng, (d // 2, *hidden, (3 * bins - 1) * (d - d // 2))))
    orders = np.stack([rng.permutation(d) for _ in range(n_layers)])
    return {"params": params, "orders": orders, "hidden": hidden, "bins": bins, "box": 5.0,
            **_flow(rng, d, batch, n_rows, n_rows)}


def rbm(d=784, hidden=500, batch=100, n_chains=100):
    """An RBM on binary rows, with chains (n_chains, d) and the offsets of centred parameters (d,), (hidden,).

    drawn: the uniforms of a Gibbs step, of the hidden units and of the visible ones.
    """
    rng = np.random.default_rng(0)
    weight, of_hidden = _layers(rng, (d, hidden))
    stream, apart = Stream(1).spawn(), APART // values_per_block(np.float32)
    drawn = [Stream(key=stream.key, counter=first).uniform((n_chains, width), np.float32)
             for first, width in ((0, hidden), (apart, d))]
    carry = {"chain": _binary_rows(rng, n_chains, d), "seen": rng.uniform(size=d).astype(np.float32),
             "active": rng.uniform(size=hidden).astype(np.float32)}
    return {"params": [weight, rng.normal(0, 0.1, d).astype(np.float32), of_hidden], "hidden": hidden, "carry": carry,
            "x": _binary_rows(rng, N_BATCHES * batch, d), "batches": _batches(rng, batch), "drawn": drawn, "stream": 1}


def gan(d=64, hidden=(256, 256), batch=512, n_noise=16):
    """A GAN: parameters of the generator, then of the critic; drawn: the noise of a step of the critic, and of the other."""
    rng, stream = np.random.default_rng(0), Stream(1)
    return {"params": [*_layers(rng, (n_noise, *hidden, d)), *_layers(rng, (d, *hidden, 1))], "hidden": hidden,
            "n_noise": n_noise, "x": rng.normal(size=(N_BATCHES * batch, d)).astype(np.float32), "r1": 0.1, "r2": 0.1,
            "batches": _batches(rng, batch), "stream": 1,
            "drawn": [stream.normal((batch, n_noise), np.float32) for _ in range(2)]}


def diffusion(d=64, hidden=(256, 256), batch=512, n_rows=1000, n_samples=10_000, n_steps=40, solver="rk4"):
    """A diffusion model, Karras et al.'s, noise levels `sigmas`, log s while fitting N(*log_s).

    frequencies (e,): what the network sees of a time tau are cos(tau frequencies). drawn: the normals of a step's times and the
    noise of its rows. to_noise, to_data: a solver's table, features (t, s, e) and rates (t, s) of every stage of every step,
    lead (s,) and share (s,): a stage is at start + lead k of the one before, and its k counts by its share.
    """
    rng, sigmas, frequencies = np.random.default_rng(0), (0.004, 20.0), math.pi * np.arange(1, 9)
    lead, share = {"heun": ((0, 1), (1 / 2, 1 / 2)), "rk4": ((0, 1 / 2, 1 / 2, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6))}[solver]
    length, tables = math.log(sigmas[1] / sigmas[0]), {}
    for name, start, sign in ("to_noise", 0, 1), ("to_data", 1, -1):
        tau = start + sign * (np.arange(n_steps)[:, None] + np.array(lead)) / n_steps
        s, features = sigmas[0] * np.exp(length * tau), np.cos(tau[:, :, None] * frequencies)
        rates = -sign / n_steps * length * s / (1 + s * s)
        tables[name] = (features.astype(np.float32), rates.astype(np.float32), lead, share)
    problem = _flow(rng, d, batch, n_rows, n_samples)
    stream = Stream(1)
    drawn = [stream.normal(shape, np.float32) for shape in (batch, (batch, d))]
    return problem | tables | {
        "params": list(_layers(rng, (d + len(frequencies), *hidden, d))), "hidden": hidden, "n_steps": n_steps,
        "solver": solver, "sigmas": sigmas, "log_s": (-0.5, 1.2), "frequencies": frequencies.astype(np.float32), "drawn": drawn,
        "scale": math.sqrt(np.square(problem["x"], dtype=np.float64).mean())}


def mixture(n=100_000, d=16, k=32):
    """Rows of k clusters that overlap, and where EM starts: equal weights, a row of each cluster as mean, unit precisions."""
    rng = np.random.default_rng(0)
    scale = 1 / math.sqrt(d)
    centres, shapes = rng.normal(0, 2 * scale, (k, d)), np.eye(d) + rng.normal(0, scale / 2, (k, d, d))
    rows, member = rng.normal(size=(n, d)), np.arange(n) % k
    for i in range(k):
        rows[member == i] = centres[i] + rows[member == i] @ shapes[i]
    return {"x": rows, "weights": np.full(k, 1 / k), "means": rows[:k].copy(), "precisions": np.tile(np.eye(d), (k, 1, 1))}


def logsumexp(n=100_000, d=32):
    """Rows (n, d) of normals."""
    return {"x": np.random.default_rng(0).normal(0, 3, (n, d)).astype(np.float32)}


def normals(n=1_000_000):
    """Means and log-variances (n,) for reparameterised normals."""
    rng = np.random.default_rng(0)
    return {"mean": rng.normal(size=(n // 1000, 1000)).astype(np.float32),
            "log_var": rng.normal(size=(n // 1000, 1000)).astype(np.float32)}


def masked_product(d=784, hidden=500, batch=1000):
    """x (n, d), weight (d, hidden) under the sorted mask of a MADE, and the cotangent g (n, hidden)."""
    rng = np.random.default_rng(0)
    mask = masks.made_masks(d, (hidden,))[0]
    x, g = rng.normal(size=(batch, d)).astype(np.float32), rng.normal(size=(batch, hidden)).astype(np.float32)
    weight, bias = _layers(rng, (d, hidden))
    return {"x": x, "g": g, "mask": mask, "weight": weight * mask, "bias": bias}


def large_products(n=4096, d=1024, m=1024, dtype="float32"):
    """What masked_product makes, of a weight without a mask."""
    rng = np.random.default_rng(0)
    x, g, weight, bias = (rng.normal(size=shape).astype(dtype) for shape in ((n, d), (n, m), (d, m), (m,)))
    return {"x": x, "g": g, "mask": np.ones((d, m), bool), "weight": weight, "bias": bias}


def product(n=100, d=784, m=500):
    """x (n, d) and weight (d, m)."""
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(n, d)).astype(np.float32), "weight": rng.normal(size=(d, m)).astype(np.float32)}
