"""torch's side of the benchmark, eager and compiled, with the fused Adam. For the anatomy see with_npgen.py."""
import itertools
import math
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


def reach(device):
    """Raise unless this device can be used."""
    torch.zeros(1, device=device)


def _wait(device):
    """Wait until the device has done all that it was told to."""
    if device == "cuda":
        torch.cuda.synchronize()


def _compiled(loss, device):
    return torch.compile(loss, dynamic=False, mode="reduce-overhead" if device == "cuda" else None)


def _tensors(arrays, **options):
    return [torch.tensor(a, **options) for a in arrays]


def _steps(problem, loss, *, name="", masks=(), draw=tuple):
    """The training step of loss(params, rows, *noise); masks are of the gradients of the weights."""
    device = problem.get("device", "cpu")
    x, batches = torch.from_numpy(problem["x"]).to(device), torch.from_numpy(problem["batches"]).to(device)
    eps = _tensors([problem["eps"]], device=device) if "eps" in problem else []

    def start(loss):
        params = _tensors(problem["params"], requires_grad=True, device=device)
        if device == "cuda":
            for p in params:
                torch._dynamo.mark_static_address(p)  # a CUDA graph then reads them where they are, and copies none
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
            gradient = torch.cat([p.grad.ravel() for p in params]).cpu().numpy()
            return {"gradient": gradient, "loss": first, "losses": [first, *(step(b, eps).item() for b in batches[1:5])]}

        (_, step), order = start(loss), itertools.cycle(batches)

        def run(n):
            for _ in range(n):
                step(next(order), draw())
            _wait(device)

        return check, run

    yield "torch" + name, *variant(loss)
    yield "torch.compile" + name, *variant(_compiled(loss, device))


def made_step(problem):
    masks = _tensors(problem["masks"], device=problem.get("device"))
    yield from _steps(problem, lambda params, x: formulas.made_loss(xp, params, masks, x))
    yield from _steps(problem, lambda params, x: formulas.made_loss(xp, params, (), x), name=", masked gradients", masks=masks)


def vae_step(problem):
    shape, device = problem["eps"].shape, problem.get("device")
    yield from _steps(problem, lambda *args: formulas.vae_loss(xp, *args), draw=lambda: (torch.randn(shape, device=device),))


def realnvp_step(problem):
    orders = _tensors(problem["orders"], device=problem.get("device"))
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
    device = problem.get("device", "cpu")
    params, uniforms = _tensors(problem["params"], device=device), torch.from_numpy(problem["noise"]).to(device)

    def sample(noise):
        x = torch.zeros_like(noise)
        for d in range(x.shape[1]):
            x[:, d] = noise[:, d] < torch.sigmoid(formulas.made_logits(xp, params, (), x)[:, d])
        return x

    def check():
        with torch.inference_mode():
            x = torch.from_numpy(problem["x"]).to(device)
            logits = formulas.made_logits(xp, params, (), x)
            log_prob = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
            return {"sample": sample(uniforms).cpu().numpy(), "log_prob": log_prob.cpu().numpy()}

    def run(n):
        with torch.inference_mode():
            for _ in range(n):
                sample(torch.rand(uniforms.shape, device=device))
            _wait(device)

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
