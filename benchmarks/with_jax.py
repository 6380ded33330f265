"""JAX's side of the benchmark: one jitted step with donated buffers. For the anatomy see with_npgen.py."""
import itertools
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from . import formulas

xp = types.SimpleNamespace(
    linear=lambda x, weight, bias: x @ weight + bias, relu=jax.nn.relu, exp=jnp.exp, tanh=jnp.tanh, square=jnp.square,
    concatenate=jnp.concatenate, columns=lambda x, order: x[:, order],
    bernoulli_log_prob=lambda x, logits: (x * logits - jax.nn.softplus(logits)).sum())


def facts():
    """Versions, in words."""
    return {"jax": f"{jax.__version__}, {jax.devices()[0].platform}"}


def reach(device):
    """Raise unless JAX uses this device; products of float32 are then of float32, as in the other libraries, not of TF32."""
    if jax.devices()[0] not in jax.devices(device):
        raise RuntimeError(f"JAX computes on {jax.devices()[0].platform}, not on {device}")
    jax.config.update("jax_default_matmul_precision", "highest")


def _adam(params, m, v, t, gradient):
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
    rate, root = 1e-3 / (1 - 0.9**t), 1 / jnp.sqrt(1 - 0.999**t)
    return jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) * root + 1e-8), params, m, v), m, v


def _steps(problem, loss, *, name="", masks=None, draw=lambda key: ()):
    """The training step of loss(params, rows, *noise), the parameters as a list of arrays and as one flat buffer.

    masks, like the parameters, are of the gradients; draw(key) gives the noise of a step.
    """
    x, batches = jnp.asarray(problem["x"]), [jnp.asarray(b, jnp.int32) for b in problem["batches"]]
    noise = tuple(jnp.asarray(problem[n]) for n in ("eps",) if n in problem)
    listed = [jnp.asarray(p) for p in problem["params"]]
    flat, unravel = ravel_pytree(listed)

    def variant(params, loss, masks):
        def derive(params, rows, *noise):
            value, gradient = jax.value_and_grad(loss)(params, rows, *noise)
            return value, gradient if masks is None else jax.tree.map(jnp.multiply, gradient, masks)

        @partial(jax.jit, donate_argnums=0)
        def step(state, x, batch, *noise):
            params, m, v, t, key = state
            key, own = jax.random.split(key)
            rows = x.at[batch].get(mode="promise_in_bounds")
            value, gradient = derive(params, rows, *(noise or draw(own)))
            return (*_adam(params, m, v, t, gradient), t + 1, key), value

        def start():
            copy, zeros = partial(jax.tree.map, jnp.array), partial(jax.tree.map, jnp.zeros_like)
            return copy(params), zeros(params), zeros(params), jnp.float32(1), jax.random.key(0)

        def check():
            value, gradient = jax.jit(derive)(params, x[batches[0]], *noise)
            state, losses = start(), []
            for batch in batches[:5]:
                state, loss = step(state, x, batch, *noise)
                losses.append(loss)
            return {"gradient": np.asarray(ravel_pytree(gradient)[0]), "loss": float(value), "losses": np.array(losses)}

        state, order = start(), itertools.cycle(batches)

        def run(n):
            nonlocal state
            for _ in range(n):
                state, value = step(state, x, next(order))
            jax.block_until_ready((state, value))

        return check, run

    yield "jax" + name, *variant(listed, loss, masks)
    yield f"jax{name}, flat buffer", *variant(flat, lambda params, *args: loss(unravel(params), *args),
                                              None if masks is None else ravel_pytree(masks)[0])


def made_step(problem):
    masks = [jnp.asarray(m) for m in problem["masks"]]
    of_gradients = [jnp.ones(p.shape) if p.ndim == 1 else masks[i // 2] for i, p in enumerate(problem["params"])]
    yield from _steps(problem, lambda params, x: formulas.made_loss(xp, params, masks, x))
    yield from _steps(problem, lambda params, x: formulas.made_loss(xp, params, (), x), name=", masked gradients",
                      masks=of_gradients)


def vae_step(problem):
    shape = problem["eps"].shape
    yield from _steps(problem, partial(formulas.vae_loss, xp), draw=lambda key: (jax.random.normal(key, shape),))


def realnvp_step(problem):
    yield from _steps(problem, lambda params, x: formulas.realnvp_loss(xp, params, problem["orders"], x))


def _query(call, *args):
    """run(n) of a call whose answers are ready."""
    def run(n):
        for _ in range(n):
            jax.block_until_ready(call(*args))
    return run


def realnvp_log_prob(problem):
    params, x = [jnp.asarray(p) for p in problem["params"]], jnp.asarray(problem["x"][:problem["n_rows"]])
    call = jax.jit(lambda params, x: formulas.realnvp_log_prob(xp, params, problem["orders"], x))
    yield "jax", lambda: {"log_prob": np.asarray(call(params, x))}, _query(call, params, x)


def realnvp_sample(problem):
    params, orders, noise = [jnp.asarray(p) for p in problem["params"]], problem["orders"], jnp.asarray(problem["noise"])

    def rows(params, noise):
        return formulas.realnvp_rows(xp, params, orders, np.argsort(orders), noise)

    draw = jax.jit(lambda params, key: rows(params, jax.random.normal(key, noise.shape)))
    yield "jax", lambda: {"rows": np.asarray(jax.jit(rows)(params, noise))}, _query(draw, params, jax.random.key(0))


def logsumexp(problem):
    x, call = jnp.asarray(problem["x"]), jax.jit(partial(jax.nn.logsumexp, axis=-1))
    yield "jax", lambda: {"logsumexp": np.asarray(call(x))}, _query(call, x)


def normals(problem):
    mean, std = jnp.asarray(problem["mean"]), jnp.asarray(np.exp(problem["log_var"] / 2))
    call = jax.jit(lambda mean, std, key: mean + std * jax.random.normal(key, mean.shape))
    yield "jax", dict, _query(call, mean, std, jax.random.key(0))
