"""torch's side of the benchmark, eager and compiled, with the fused Adam. For the anatomy see with_npgen.py."""
import itertools
import types

import numpy as np
import torch
from torch.nn import functional as F

from . import formulas
from .worker import n_cores

torch.set_num_threads(n_cores())

xp = types.SimpleNamespace(
    linear=lambda x, weight, bias: torch.addmm(bias, x, weight), relu=torch.relu, exp=torch.exp, tanh=torch.tanh,
    square=torch.square, concatenate=torch.cat, columns=lambda x, order: x.index_select(1, order),
    bernoulli_log_prob=lambda x, logits: -F.binary_cross_entropy_with_logits(logits, x, reduction="sum"))


def facts():
    """Versions and BLAS, in words."""
    blas = "MKL" if torch.backends.mkl.is_available() else "no MKL"
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": f"{torch.__version__}, {torch.get_num_threads()} threads, {blas}, {capability}"}


def _tensors(arrays, **options):
    return [torch.tensor(a, **options) for a in arrays]


def _steps(problem, loss, *, name="", masks=(), draw=tuple):
    """The training step of loss(params, rows, *noise); masks are of the gradients of the weights."""
    x, batches = torch.from_numpy(problem["x"]), torch.from_numpy(problem["batches"])
    eps = _tensors([problem["eps"]]) if "eps" in problem else []

    def start(loss):
        params = _tensors(problem["params"], requires_grad=True)
        adam = torch.optim.Adam(params, lr=1e-3, fused=True)

        def step(batch, noise):
            adam.zero_grad()
            value = loss(params, x.index_select(0, batch), *noise)
            value.backward()
            for p, mask in zip(params[::2], masks, strict=False):
                p.grad.mul_(mask)
            adam.step()
            return value
        return params, step

    def variant(loss):
        def check():
            params, step = start(loss)
            first = step(batches[0], eps).item()
            gradient = torch.cat([p.grad.ravel() for p in params]).numpy()
            return {"gradient": gradient, "loss": first, "losses": [first, *(step(b, eps).item() for b in batches[1:5])]}

        (_, step), order = start(loss), itertools.cycle(batches)

        def run(n):
            for _ in range(n):
                step(next(order), draw())

        return check, run

    yield "torch" + name, *variant(loss)
    yield "torch.compile" + name, *variant(torch.compile(loss, dynamic=False))


def made_step(problem):
    masks = _tensors(problem["masks"])
    yield from _steps(problem, lambda params, x: formulas.made_loss(xp, params, masks, x))
    yield from _steps(problem, lambda params, x: formulas.made_loss(xp, params, (), x), name=", masked gradients", masks=masks)


def vae_step(problem):
    shape = problem["eps"].shape
    yield from _steps(problem, lambda *args: formulas.vae_loss(xp, *args), draw=lambda: (torch.randn(shape),))


def realnvp_step(problem):
    orders = _tensors(problem["orders"])
    yield from _steps(problem, lambda params, x: formulas.realnvp_loss(xp, params, orders, x))


def _queries(call, name=None, given=tuple, draw=tuple):
    """call(*draw()) without gradients, eager and compiled; what it makes of `given` is its answer, called `name`."""
    def variant(call):
        def check():
            with torch.inference_mode():
                return {name: call(*given()).numpy()} if name else {}

        def run(n):
            with torch.inference_mode():
                for _ in range(n):
                    call(*draw())

        return check, run

    yield "torch", *variant(call)
    yield "torch.compile", *variant(torch.compile(call, dynamic=False))


def made_sample(problem):
    """One pass per dimension, the weights masked beforehand."""
    params, uniforms = _tensors(problem["params"]), torch.from_numpy(problem["noise"])

    def sample(noise):
        x = torch.zeros_like(noise)
        for d in range(x.shape[1]):
            x[:, d] = noise[:, d] < torch.sigmoid(formulas.made_logits(xp, params, (), x)[:, d])
        return x

    def check():
        with torch.inference_mode():
            logits, x = formulas.made_logits(xp, params, (), torch.from_numpy(problem["x"])), torch.from_numpy(problem["x"])
            log_prob = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
            return {"sample": sample(uniforms).numpy(), "log_prob": log_prob.numpy()}

    def run(n):
        with torch.inference_mode():
            for _ in range(n):
                sample(torch.rand(uniforms.shape))

    yield "torch", check, run


def realnvp_log_prob(problem):
    params, orders = _tensors(problem["params"]), _tensors(problem["orders"])
    x = torch.from_numpy(problem["x"][:problem["n_rows"]])
    yield from _queries(lambda: formulas.realnvp_log_prob(xp, params, orders, x), "log_prob")


def realnvp_sample(problem):
    params, orders, backs = (_tensors(a) for a in (problem["params"], problem["orders"], np.argsort(problem["orders"])))
    noise = torch.from_numpy(problem["noise"])
    yield from _queries(lambda z: formulas.realnvp_rows(xp, params, orders, backs, z), "rows",
                        lambda: (noise,), lambda: (torch.randn(noise.shape),))


def logsumexp(problem):
    x = torch.from_numpy(problem["x"])
    yield from _queries(lambda: torch.logsumexp(x, -1), "logsumexp")


def normals(problem):
    mean, std = torch.from_numpy(problem["mean"]), torch.from_numpy(np.exp(problem["log_var"] / 2))
    yield from _queries(lambda: mean + std * torch.randn(mean.shape))
