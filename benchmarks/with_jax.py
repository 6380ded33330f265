"""JAX's side of the benchmark: one jitted step with donated buffers. For the anatomy see with_npgen.py."""
import itertools
import re
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from . import formulas
from .worker import instructions


def _take(a, number, axis):
    return jnp.take_along_axis(a, jnp.expand_dims(number, axis), axis, mode="promise_in_bounds").squeeze(axis)


xp = types.SimpleNamespace(
    linear=lambda x, weight, bias: x @ weight + bias, relu=jax.nn.relu, exp=jnp.exp, log=jnp.log, tanh=jnp.tanh,
    square=jnp.square, where=jnp.where, concatenate=jnp.concatenate, columns=lambda x, order: x[:, order],
    softmax=jax.nn.softmax, softplus=jax.nn.softplus, logsumexp=jax.nn.logsumexp, cumsum=jnp.cumsum, take=_take,
    cos=jnp.cos, sigmoid=jax.nn.sigmoid, silu=jax.nn.silu, clip=jnp.clip,
    bernoulli_log_prob=lambda x, logits: (x * logits - jax.nn.softplus(logits)).sum())


def facts():
    """Versions, in words, and the instructions that XLA says it compiled for; the products of Eigen and oneDNN say nothing."""
    code = jax.jit(jnp.tanh).lower(jnp.ones(8)).compile().runtime_executable().serialize()
    features = re.findall(rb"[+-][a-z0-9.-]+", code)
    return {"jax": f"{jax.__version__}, {jax.devices()[0].platform}, XLA compiles for "
                   f"{instructions(f.decode() for f in features)}; of its products it says nothing"}


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


def _steps(problem, loss, *, name="", masks=None, draw=lambda key: (), arrange=list):
    """The training step of loss(params, rows, *noise), the parameters as a list of arrays and as one flat buffer.

    masks, like the parameters, are of the gradients; draw(key) gives the noise of a step; arrange(arrays) are the parameters
    as the loss takes them.
    """
    x, batches = jnp.asarray(problem["x"]), [jnp.asarray(b, jnp.int32) for b in problem["batches"]]
    noise = tuple(map(jnp.asarray, problem.get("drawn", ())))
    listed = [jnp.asarray(p) for p in arrange(problem["params"])]
    flat, unravel = ravel_pytree(listed)
    numbers = arrange(formulas.numbered(problem["params"]))

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
            gradient = formulas.in_place(unravel(ravel_pytree(gradient)[0]), numbers)
            return {"gradient": gradient, "loss": float(value), "losses": np.array(losses)}

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


def _masked_steps(problem, loss):
    """Weights masked as they are used, or their gradients."""
    masks = [None if m is None else jnp.asarray(m) for m in problem["masks"]]
    of_gradients = [jnp.ones(p.shape) if m is None else m for p, m in zip(problem["params"], masks, strict=True)]
    yield from _steps(problem, lambda params, x: loss(formulas.masked(params, masks), x))
    yield from _steps(problem, loss, name=", masked gradients", masks=of_gradients)


def made_step(problem):
    yield from _masked_steps(problem, partial(formulas.made_loss, xp))


def made_mixture_step(problem):
    yield from _masked_steps(problem, lambda params, x: formulas.made_mixture_loss(xp, params, problem["components"], x))


def _normals(problem):
    """What draws a step's noise of a key."""
    shapes = [a.shape for a in problem["drawn"]]
    return lambda key: [jax.random.normal(own, shape) for own, shape in zip(jax.random.split(key, len(shapes)), shapes,
                                                                            strict=True)]


def vae_step(problem):
    yield from _steps(problem, partial(formulas.vae_loss, xp), draw=_normals(problem))


def realnvp_step(problem):
    yield from _steps(problem, formulas.loss(partial(formulas.realnvp_log_prob, xp), problem["orders"]))


def maf_step(problem):
    yield from _masked_steps(problem, formulas.loss(partial(formulas.maf_log_prob, xp), problem["orders"]))


def _nsf_given(problem):
    return problem["orders"], problem["bins"], problem["box"], 1


def _by_bins(problem, arrays):
    """Outputs in the order in which splines are fastest here: the first of every feature, then the second, ..."""
    arrays, each = list(arrays), 3 * problem["bins"] - 1
    size = len(arrays) // len(problem["orders"])
    for k in range(size, len(arrays) + 1, size):
        arrays[k - 2:k] = [a.reshape(*a.shape[:-1], -1, each).swapaxes(-1, -2).reshape(a.shape) for a in arrays[k - 2:k]]
    return arrays


def nsf_step(problem):
    yield from _steps(problem, formulas.loss(partial(formulas.nsf_log_prob, xp), *_nsf_given(problem)),
                      arrange=partial(_by_bins, problem))


def diffusion_step(problem):
    given = [problem[name] for name in ("frequencies", "sigmas", "log_s", "scale")]
    yield from _steps(problem, lambda params, *args: formulas.diffusion_loss(xp, params, *given, *args), draw=_normals(problem))


def rbm_step(problem):
    """The gradient is written down, and not left to autodiff."""
    x, batches = jnp.asarray(problem["x"]), [jnp.asarray(b, jnp.int32) for b in problem["batches"]]
    shapes, gradient = [a.shape for a in problem["drawn"]], partial(formulas.rbm_gradient, xp)

    @partial(jax.jit, donate_argnums=0)
    def step(state, x, batch):
        params, m, v, t, key, carry = state
        key, *own = jax.random.split(key, 3)
        uniforms = [jax.random.uniform(k, shape) for k, shape in zip(own, shapes, strict=True)]
        value, of_params, *carry = gradient(params, x.at[batch].get(mode="promise_in_bounds"), *carry, *uniforms)
        return (*_adam(params, m, v, t, of_params), t + 1, key, carry), value

    def start():
        params = [jnp.array(p) for p in problem["params"]]
        m, v = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return params, m, v, jnp.float32(1), jax.random.key(0), [jnp.array(a) for a in problem["carry"].values()]

    def check():
        given = *problem["carry"].values(), *problem["drawn"]
        value, of_params, *moved = jax.jit(gradient)(start()[0], x[batches[0]], *map(jnp.asarray, given))
        return {"loss": float(value), "gradient": np.asarray(ravel_pytree(of_params)[0]),
                **{name: np.asarray(a) for name, a in zip(problem["carry"], moved, strict=True)}}

    state, order = start(), itertools.cycle(batches)

    def run(n):
        nonlocal state
        for _ in range(n):
            state, value = step(state, x, next(order))
        jax.block_until_ready((state, value))

    yield "jax", check, run


def gan_step(problem):
    """The critic moves first, and the generator by what it has become."""
    x, batches = jnp.asarray(problem["x"]), [jnp.asarray(b, jnp.int32) for b in problem["batches"]]
    half, draw = len(problem["params"]) // 2, _normals(problem)

    def value_and_slope(f, rows):
        value, pull = jax.vjp(f, rows)
        return value, pull(jnp.ones_like(value))[0]

    of_critic = jax.value_and_grad(lambda critic, *given: formulas.critic_loss(
        xp, value_and_slope, critic, *given, problem["r1"], problem["r2"]))
    of_generator = jax.grad(partial(formulas.generator_loss, xp))

    @partial(jax.jit, donate_argnums=0)
    def step(state, x, batch):
        (generator, *of_first), (critic, *of_second), t, key = state
        key, own = jax.random.split(key)
        rows, noise = x.at[batch].get(mode="promise_in_bounds"), draw(own)
        value, gradient = of_critic(critic, generator, rows, noise[0])
        second = _adam(critic, *of_second, t, gradient)
        first = _adam(generator, *of_first, t, of_generator(generator, second[0], rows, noise[1]))
        return (first, second, t + 1, key), value

    def networks():
        params = [jnp.array(p) for p in problem["params"]]
        return params[:half], params[half:]

    def check():
        (generator, critic), rows, noise = networks(), x[batches[0]], list(map(jnp.asarray, problem["drawn"]))
        value, moved = jax.jit(of_critic)(critic, generator, rows, noise[0])
        critic = [p - g for p, g in zip(critic, moved, strict=True)]
        gradient = [*jax.jit(of_generator)(generator, critic, rows, noise[1]), *moved]
        return {"loss": float(value), "gradient": np.asarray(ravel_pytree(gradient)[0])}

    zeros = partial(jax.tree.map, jnp.zeros_like)
    state, order = (*((p, zeros(p), zeros(p)) for p in networks()), jnp.float32(1), jax.random.key(0)), itertools.cycle(batches)

    def run(n):
        nonlocal state
        for _ in range(n):
            state, value = step(state, x, next(order))
        jax.block_until_ready((state, value))

    yield "jax", check, run


def _query(call, *args):
    """run(n) of a call whose answers are ready."""
    def run(n):
        for _ in range(n):
            jax.block_until_ready(call(*args))
    return run


def _log_prob(problem, log_prob, *given, arrange=list):
    params, x = [jnp.asarray(p) for p in arrange(problem["params"])], jnp.asarray(problem["x"][:problem["n_rows"]])
    call = jax.jit(lambda params, x: log_prob(xp, params, *given, x))
    yield "jax", lambda: {"log_prob": np.asarray(call(params, x))}, _query(call, params, x)


def realnvp_log_prob(problem):
    yield from _log_prob(problem, formulas.realnvp_log_prob, problem["orders"])


def maf_log_prob(problem):
    yield from _log_prob(problem, formulas.maf_log_prob, problem["orders"])


def nsf_log_prob(problem):
    yield from _log_prob(problem, formulas.nsf_log_prob, *_nsf_given(problem), arrange=partial(_by_bins, problem))


def _sample(problem, rows):
    """rows(params, noise), and the same of noise drawn anew."""
    params, noise = [jnp.asarray(p) for p in problem["params"]], jnp.asarray(problem["noise"])
    draw = jax.jit(lambda params, key: rows(params, jax.random.normal(key, noise.shape)))
    yield "jax", lambda: {"rows": np.asarray(jax.jit(rows)(params, noise))}, _query(draw, params, jax.random.key(0))


def maf_sample(problem):
    """Every step takes a pass for each feature, of whose outputs alone the last layer is."""
    orders = problem["orders"]

    def inverse(network, z):
        *hidden, weight, bias = network

        def feature(j, x):
            last = lax.dynamic_slice_in_dim(weight, 2 * j, 2, 1), lax.dynamic_slice_in_dim(bias, 2 * j, 2)
            return x.at[:, j].set(formulas.maf_feature(xp, hidden, last, x, z[:, j]))

        return lax.fori_loop(0, z.shape[1], feature, jnp.zeros_like(z))

    yield from _sample(problem, lambda params, z: formulas.maf_rows(xp, params, orders, np.argsort(orders), z, inverse))


def realnvp_sample(problem):
    orders = problem["orders"]
    yield from _sample(problem, lambda params, z: formulas.realnvp_rows(xp, params, orders, np.argsort(orders), z))


def _solved(params, table, w, divergence):
    """Rows w at the other end of the equation, and log |det|."""
    features, rates, lead, share = table
    network, shifts = formulas.network_in_time(params, features, divergence)

    def step(state, of_step):
        return formulas.ode_step(xp, network, lead, share, *state, *of_step), None

    return lax.scan(step, (w, jnp.zeros(len(w))), (shifts, jnp.asarray(rates)))[0]


def diffusion_sample(problem):
    yield from _sample(problem, lambda params, w: problem["scale"] * _solved(params, problem["to_data"], w, False)[0])


def diffusion_log_prob(problem):
    params, x = [jnp.asarray(p) for p in problem["params"]], jnp.asarray(problem["x"][:problem["n_rows"]])
    scale = problem["scale"]
    call = jax.jit(lambda params, x: formulas.diffusion_log_prob(*_solved(params, problem["to_noise"], x / scale, True), scale))
    yield "jax", lambda: {"log_prob": np.asarray(call(params, x))}, _query(call, params, x)


def logsumexp(problem):
    x, call = jnp.asarray(problem["x"]), jax.jit(partial(jax.nn.logsumexp, axis=-1))
    yield "jax", lambda: {"logsumexp": np.asarray(call(x))}, _query(call, x)


def normals(problem):
    mean, std = jnp.asarray(problem["mean"]), jnp.asarray(np.exp(problem["log_var"] / 2))
    call = jax.jit(lambda mean, std, key: mean + std * jax.random.normal(key, mean.shape))
    yield "jax", dict, _query(call, mean, std, jax.random.key(0))
