"""torch's side of the benchmark, eager and compiled, with the fused Adam. For the anatomy see with_npgen.py."""
import itertools
import math
import types
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from . import formulas
from .worker import n_cores

torch.set_num_threads(n_cores())

xp = types.SimpleNamespace(
    linear=lambda x, weight, bias: torch.addmm(bias, x, weight), relu=torch.relu, exp=torch.exp, log=torch.log, tanh=torch.tanh,
    square=torch.square, where=torch.where, concatenate=torch.cat, columns=lambda x, order: x.index_select(1, order),
    softmax=torch.softmax, softplus=F.softplus, logsumexp=torch.logsumexp, cumsum=torch.cumsum,
    cos=torch.cos, sigmoid=torch.sigmoid, silu=F.silu, clip=torch.clamp,
    take=lambda a, number, axis: a.gather(axis, number.unsqueeze(axis)).squeeze(axis),
    bernoulli_log_prob=lambda x, logits: -F.binary_cross_entropy_with_logits(logits, x, reduction="sum"))


def facts():
    """Versions and BLAS, in words."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    blas = "MKL" if torch.backends.mkl.is_available() else "no MKL"
    return {"torch": f"{torch.__version__}, {torch.get_num_threads()} threads, {blas}, its own kernels with "
                     f"{torch.backends.cpu.get_cpu_capability()}, torch.compile for {pick_vec_isa() or 'no vectors'}"}


def reach(device):
    """Raise unless this device can be used."""
    torch.zeros(1, device=device)


def _wait(device):
    """Wait until the device has done all that it was told to."""
    if device == "cuda":
        torch.cuda.synchronize()


def _compiled(loss, device):
    return torch.compile(loss, dynamic=False, mode="reduce-overhead" if device == "cuda" else None)


def tensors(arrays, **options):
    """A tensor of each array, None where there is none."""
    return [None if a is None else torch.tensor(np.ascontiguousarray(a), **options) for a in arrays]


def steps(problem, loss, *, name="torch", compiled="torch.compile", masks=(), draw=tuple, arrange=list, place=tensors):
    """The training step of loss(params, rows, *noise); masks are of the gradients.

    arrange(arrays) are the parameters as the loss takes them, place(them) its tensors.
    """
    device = problem.get("device", "cpu")
    x, batches = torch.from_numpy(problem["x"]).to(device), torch.from_numpy(problem["batches"]).to(device)
    drawn = tensors(problem.get("drawn", ()), device=device)
    numbers = formulas.numbered(problem["params"])

    def start(loss):
        params = place(arrange(problem["params"]), requires_grad=True, device=device)
        if device == "cuda":
            for p in params:
                torch._dynamo.mark_static_address(p)  # a CUDA graph then reads them where they are, and copies none
        adam = torch.optim.Adam(params, lr=1e-3, fused=True)

        def step(batch, noise):
            adam.zero_grad()
            value = loss(params, x.index_select(0, batch), *noise)
            value.backward()
            for p, mask in zip(params, masks, strict=False):
                if mask is not None:
                    p.grad.mul_(mask)
            adam.step()
            return value
        return params, step

    def variant(loss):
        def check():
            params, step = start(loss)
            first = step(batches[0], drawn).item()
            gradient = formulas.in_place([p.grad.cpu().numpy() for p in params], arrange(numbers))
            return {"gradient": gradient, "loss": first, "losses": [first, *(step(b, drawn).item() for b in batches[1:5])]}

        (_, step), order = start(loss), itertools.cycle(batches)

        def run(n):
            for _ in range(n):
                step(next(order), draw())
            _wait(device)

        return check, run

    yield name, *variant(loss)
    yield compiled, *variant(_compiled(loss, device))


def _masked_steps(problem, loss):
    """Weights masked as they are used, or their gradients."""
    masks = tensors(problem["masks"], device=problem.get("device"))
    yield from steps(problem, lambda params, x: loss(formulas.masked(params, masks), x))
    yield from steps(problem, loss, name="torch, masked gradients", compiled="torch.compile, masked gradients", masks=masks)


def made_step(problem):
    yield from _masked_steps(problem, lambda params, x: formulas.made_loss(xp, params, x))


def made_mixture_step(problem):
    yield from _masked_steps(problem, lambda params, x: formulas.made_mixture_loss(xp, params, problem["components"], x))


def _normals(problem):
    """What draws a step's noise anew."""
    shapes, device = [a.shape for a in problem["drawn"]], problem.get("device")
    return lambda: [torch.randn(shape, device=device) for shape in shapes]


def vae_step(problem):
    yield from steps(problem, lambda *args: formulas.vae_loss(xp, *args), draw=_normals(problem))


def _orders(problem):
    return tensors(problem["orders"], device=problem.get("device"))


def realnvp_step(problem):
    yield from steps(problem, formulas.loss(partial(formulas.realnvp_log_prob, xp), _orders(problem)))


def maf_step(problem):
    yield from _masked_steps(problem, formulas.loss(partial(formulas.maf_log_prob, xp), _orders(problem)))


def _nsf_given(problem):
    return _orders(problem), problem["bins"], problem["box"], 2


def nsf_step(problem):
    yield from steps(problem, formulas.loss(partial(formulas.nsf_log_prob, xp), *_nsf_given(problem)))


def diffusion_step(problem):
    frequencies, = tensors([problem["frequencies"]], device=problem.get("device"))
    given = frequencies, *(problem[name] for name in ("sigmas", "log_s", "scale"))
    yield from steps(problem, lambda params, *args: formulas.diffusion_loss(xp, params, *given, *args), draw=_normals(problem))


def rbm_step(problem):
    """The gradient is written down, and not left to autograd."""
    x, batches, drawn, chain = (torch.from_numpy(problem["x"]), torch.from_numpy(problem["batches"]), tensors(problem["drawn"]),
                                tensors(problem["carry"].values()))
    shapes = [a.shape for a in drawn]

    def variant(gradient):
        params, carry = tensors(problem["params"]), [a.clone() for a in chain]
        adam = torch.optim.Adam(params, lr=1e-3, fused=True)

        def step(batch, uniforms):
            value, of_params, *carry[:] = gradient(params, x.index_select(0, batch), *carry, *uniforms)
            for p, g in zip(params, of_params, strict=True):
                p.grad = g
            adam.step()
            return value

        def check():
            with torch.no_grad():
                value, of_params, *moved = gradient(params, x.index_select(0, batches[0]), *carry, *drawn)
            return {"loss": value.item(), "gradient": np.concatenate([g.numpy().ravel() for g in of_params]),
                    **{name: a.numpy() for name, a in zip(problem["carry"], moved, strict=True)}}

        order = itertools.cycle(batches)

        def run(n):
            with torch.no_grad():
                for _ in range(n):
                    step(next(order), [torch.rand(shape) for shape in shapes])

        return check, run

    gradient = partial(formulas.rbm_gradient, xp)
    yield "torch", *variant(gradient)
    yield "torch.compile", *variant(torch.compile(gradient, dynamic=False))


def gan_step(problem):
    """The critic moves first, the generator by what it has become; compiled, the slope is torch.func's: autograd's has none."""
    x, batches = torch.from_numpy(problem["x"]), torch.from_numpy(problem["batches"])
    half, draw = len(problem["params"]) // 2, _normals(problem)

    def by_autograd(f, rows):
        rows = rows.detach().requires_grad_()
        value = f(rows)
        return value, torch.autograd.grad(value.sum(), rows, create_graph=True)[0]

    def by_func(f, rows):
        value, pull = torch.func.vjp(f, rows)
        return value, pull(torch.ones_like(value))[0]

    def variant(value_and_slope, build):
        params = tensors(problem["params"], requires_grad=True)
        generator, critic = params[:half], params[half:]
        of_critic = build(lambda critic, generator, x, noise: formulas.critic_loss(
            xp, value_and_slope, critic, generator, x, noise, problem["r1"], problem["r2"]))
        of_generator = build(lambda *given: formulas.generator_loss(xp, *given))

        def step(optimizers, batch, noise):
            rows = x.index_select(0, batch)
            turns = (of_critic, critic, generator), (of_generator, generator, critic)
            for (loss, mine, other), each, adam in zip(turns, noise, optimizers, strict=True):
                value = loss(mine, [p.detach() for p in other], rows, each)
                adam.zero_grad()
                value.backward()
                adam.step()
                yield value

        def check():
            before = [p.detach().clone() for p in params]
            value, _ = step([torch.optim.SGD(each, lr=1.0) for each in (critic, generator)], batches[0],
                            tensors(problem["drawn"]))
            gradient = np.concatenate([(a - b).detach().numpy().ravel() for a, b in zip(before, params, strict=True)])
            with torch.no_grad():
                for p, first in zip(params, before, strict=True):
                    p.copy_(first)
            return {"loss": value.item(), "gradient": gradient}

        optimizers = [torch.optim.Adam(each, lr=1e-3, fused=True) for each in (critic, generator)]
        order = itertools.cycle(batches)

        def run(n):
            for _ in range(n):
                list(step(optimizers, next(order), draw()))

        return check, run

    yield "torch", *variant(by_autograd, lambda loss: loss)
    yield "torch.compile", *variant(by_func, partial(torch.compile, dynamic=False))


def query(call, name=None, given=tuple, draw=tuple):
    """(check, run) of call(*draw()) without gradients; what it makes of `given` is its answer, called `name`."""
    def check():
        with torch.inference_mode():
            return {name: call(*given()).numpy()} if name else {}

    def run(n):
        with torch.inference_mode():
            for _ in range(n):
                call(*draw())

    return check, run


def _queries(call, *rest):
    """A query eager and compiled."""
    yield "torch", *query(call, *rest)
    yield "torch.compile", *query(torch.compile(call, dynamic=False), *rest)


def made_sample(problem):
    """One pass per dimension, the weights masked beforehand."""
    device = problem.get("device", "cpu")
    params, uniforms = tensors(problem["params"], device=device), torch.from_numpy(problem["noise"]).to(device)

    def sample(noise):
        x = torch.zeros_like(noise)
        for d in range(x.shape[1]):
            x[:, d] = noise[:, d] < torch.sigmoid(formulas.mlp(xp, params, x)[:, d])
        return x

    def check():
        with torch.inference_mode():
            x = torch.from_numpy(problem["x"]).to(device)
            logits = formulas.mlp(xp, params, x)
            log_prob = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
            return {"sample": sample(uniforms).cpu().numpy(), "log_prob": log_prob.cpu().numpy()}

    def run(n):
        with torch.inference_mode():
            for _ in range(n):
                sample(torch.rand(uniforms.shape, device=device))
            _wait(device)

    yield "torch", check, run


def _log_prob(problem, log_prob, *given):
    params, x = tensors(problem["params"]), torch.from_numpy(problem["x"][:problem["n_rows"]])
    yield from _queries(lambda: log_prob(xp, params, *given, x), "log_prob")


def realnvp_log_prob(problem):
    yield from _log_prob(problem, formulas.realnvp_log_prob, _orders(problem))


def maf_log_prob(problem):
    yield from _log_prob(problem, formulas.maf_log_prob, _orders(problem))


def nsf_log_prob(problem):
    yield from _log_prob(problem, formulas.nsf_log_prob, *_nsf_given(problem))


def maf_sample(problem):
    """Every step takes a pass for each feature, of whose outputs alone the last layer is."""
    params, orders, backs = (tensors(a) for a in (problem["params"], problem["orders"], np.argsort(problem["orders"])))
    noise = torch.from_numpy(problem["noise"])
    d = noise.shape[1]

    def rows(feature, z):
        def inverse(network, z):
            *hidden, weight, bias = network
            x = torch.zeros_like(z)
            for j in range(d):
                x[:, j] = feature(hidden, (weight[:, 2 * j:2 * j + 2], bias[2 * j:2 * j + 2]), x, z[:, j])
            return x

        return formulas.maf_rows(xp, params, orders, backs, z, inverse)

    feature = partial(formulas.maf_feature, xp)
    for name, how in ("torch", feature), ("torch.compile", torch.compile(feature)):
        yield name, *query(partial(rows, how), "rows", lambda: (noise,), lambda: (torch.randn(noise.shape),))


def realnvp_sample(problem):
    params, orders, backs = (tensors(a) for a in (problem["params"], problem["orders"], np.argsort(problem["orders"])))
    noise = torch.from_numpy(problem["noise"])
    yield from _queries(lambda z: formulas.realnvp_rows(xp, params, orders, backs, z), "rows",
                        lambda: (noise,), lambda: (torch.randn(noise.shape),))


def _solved(problem, step, table, w, divergence):
    """Rows w at the other end of the equation, and log |det|, a step at a time."""
    features, rates, lead, share = table
    network, shifts = formulas.network_in_time(tensors(problem["params"]), torch.from_numpy(features), divergence)
    log_det, rates = w.new_zeros(len(w)), torch.from_numpy(rates)
    for t in range(len(rates)):
        w, log_det = step(network, lead, share, w, log_det, shifts[t], rates[t])
    return w, log_det


def _ode_steps():
    """A solver's step, eager and compiled."""
    step = partial(formulas.ode_step, xp)
    return ("torch", step), ("torch.compile", torch.compile(step, dynamic=False))


def diffusion_sample(problem):
    noise, scale = torch.from_numpy(problem["noise"]), problem["scale"]
    for name, step in _ode_steps():
        def rows(w, step=step):
            return scale * _solved(problem, step, problem["to_data"], w, False)[0]
        yield name, *query(rows, "rows", lambda: (noise,), lambda: (torch.randn(noise.shape),))


def diffusion_log_prob(problem):
    x, scale = torch.from_numpy(problem["x"][:problem["n_rows"]]), problem["scale"]
    for name, step in _ode_steps():
        def log_prob(step=step):
            return formulas.diffusion_log_prob(*_solved(problem, step, problem["to_noise"], x / scale, True), scale)
        yield name, *query(log_prob, "log_prob")


def logsumexp(problem):
    x = torch.from_numpy(problem["x"])
    yield from _queries(lambda: torch.logsumexp(x, -1), "logsumexp")


def normals(problem):
    mean, std = torch.from_numpy(problem["mean"]), torch.from_numpy(np.exp(problem["log_var"] / 2))
    yield from _queries(lambda: mean + std * torch.randn(mean.shape))


def em_on_device(problem):
    """EM as npgen does it: moments of whitened rows y = (x - mean) P, P P^T the precision, of as many rows as memory allows."""
    device = problem.get("device", "cpu")
    x, weights, means, precisions = (torch.from_numpy(problem[name]).to(device) for name in
                                     ("x", "weights", "means", "precisions"))
    (n, d), k = x.shape, len(weights)
    pieces = x.split(max(1, 2**26 // (k * d)))

    def densities(rows, log_weights, means, factors):
        """(log p (n,), y (k, n, d), log p of each component too (k, n))."""
        y = rows @ factors - (means[:, None] @ factors)
        log_det = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        joint = (log_weights + log_det - d / 2 * math.log(2 * math.pi))[:, None] - y.square().sum(2) / 2
        return joint.logsumexp(0), y, joint

    def iterate(log_weights, means, factors):
        counts, first, second = (x.new_zeros(shape) for shape in ((k,), (k, d), (k, d, d)))
        for rows in pieces:
            log_prob, y, joint = densities(rows, log_weights, means, factors)
            r = (joint - log_prob).exp()
            counts += r.sum(1)
            first += (r[:, None] @ y)[:, 0]
            second += (r[:, :, None] * y).mT @ y
        shift, back = first / counts[:, None], torch.linalg.inv(factors)
        spread = second / counts[:, None, None] - shift[:, :, None] * shift[:, None]
        covariances = back.mT @ spread @ back
        identity = torch.eye(d, dtype=x.dtype, device=device).expand_as(factors)
        factors = torch.linalg.solve_triangular(torch.linalg.cholesky(covariances), identity, upper=False).mT
        return ((counts / n).log(), means + (shift[:, None] @ back)[:, 0], factors), covariances

    start = weights.log(), means, torch.linalg.inv(torch.linalg.cholesky(precisions.inverse())).mT

    def check():
        with torch.inference_mode():
            components = start
            for _ in range(3):
                components, covariances = iterate(*components)
            nats = sum(densities(rows, *components)[0].sum() for rows in pieces) / n
            answers = {"weights": components[0].exp(), "means": components[1], "covariances": covariances, "nats": nats}
            return {name: answer.cpu().numpy() for name, answer in answers.items()}

    def run(n):
        with torch.inference_mode():
            components = start
            for _ in range(n):
                components, _ = iterate(*components)
            _wait(device)

    yield "torch", check, run
