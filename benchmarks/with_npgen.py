"""npgen's side of the benchmark: its public calls, and the step that its fit loop takes.

Every function here takes a problem and yields (variant, check, run): check() gives named arrays that all libraries must
agree on, run(n) does the work n times.
"""
import dataclasses
import time
import warnings
from pathlib import Path

import numpy as np

from npgen import GAN, MADE, MAF, NSF, RBM, VAE, Diffusion, GaussianMixture, RealNVP, heads, kernels, ops, train, transforms
from npgen.kernels._cuda import asnumpy
from npgen.masks import Plan
from npgen.nn import Parameters
from npgen.optim import SGD, Adam
from npgen.random import Stream

from .worker import instructions


def facts():
    """Versions and BLAS, in words."""
    import numba
    from numba.core.registry import cpu_target
    from threadpoolctl import threadpool_info
    with kernels.session():
        pass  # SciPy's BLAS is loaded
    blas = {b["architecture"] for b in threadpool_info() if "scipy" in Path(b["filepath"]).parent.name}
    _, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    widest = instructions(features.split(","))
    return {"npgen": f"numba {numba.__version__}, {numba.get_num_threads()} threads, compiles for {cpu} with "
                     f"{widest}, products of its own",
            "core type": min(blas, default=""), "instructions": widest, "cpu": cpu}


def _build(model, problem, **chosen):
    """The model with the problem's parameters, as fit would have left it but for what is chosen."""
    x = problem["x"]
    model.n_features_in_, model.dtype_, model.stream_ = x.shape[1], x.dtype, Stream(0)
    model.preprocess_ = transforms.make(None, x).fit(x)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*too narrow")  # 784-500-784 is the network that peers are timed with
        model._build(model._choose(x, None, model.stream_) | chosen)
    model.params_ = Parameters({k: a for part in model._parts.values() for k, a in part.init(x[:10], None, Stream(0)).items()},
                               x.dtype)
    model.params_.flat[:] = np.concatenate([p.ravel() for p in problem["params"]])
    return model.to(problem.get("device", "cpu"))


def _made(problem):
    return _build(MADE(hidden=problem["hidden"], head="bernoulli", order="natural"), problem)


def _realnvp(problem):
    return _build(RealNVP(n_couplings=2 * len(problem["orders"]), hidden=problem["hidden"]), problem, orders=problem["orders"])


def _maf(problem):
    return _build(MAF(n_layers=len(problem["orders"]), hidden=problem["hidden"]), problem, orders=problem["orders"])


def _nsf(problem):
    return _build(NSF(n_layers=len(problem["orders"]), hidden=problem["hidden"], bins=problem["bins"], box=problem["box"]),
                  problem, orders=problem["orders"])


def _steps(model, problem):
    x, numbers = model._place(problem["x"]), problem["batches"]  # (b, s): an epoch

    def in_space(batch, stream):
        z, log_det = model.preprocess_.unchecked(None, batch.x, stream=stream)
        return train.Batch(z, carry=batch.carry), log_det

    def of_rows(player):  # as models fit
        def loss(params, batch, stream):
            batch, log_det = in_space(batch, stream)
            return player.loss(params, batch, stream) - log_det if model._likelihood else player.loss(params, batch, stream)

        def prepare(params, carry, batch, stream):
            return player.prepare(params, carry, in_space(batch, stream)[0], stream)

        return dataclasses.replace(player, loss=loss, prepare=player.prepare and prepare)

    players = tuple(map(of_rows, model._players()))

    def start(optimizer, learning_rate):
        params = model.params_.copy()
        options = train.Training(learning_rate=learning_rate, clip_norm=1e30, optimizer=optimizer, batch_size=numbers.shape[1])
        step = train._Step(players, params, train.Batch(x), options)
        state = step.begin(Stream(0))
        state.stream = Stream(problem["stream"])
        state.carry = {name: model._place(a) for name, a in problem.get("carry", {}).items()}
        return step, step.ahead(state)

    def take(step, state, n):
        nats = []
        with kernels.session(), np.errstate(all="ignore"):
            while len(nats) < n:
                batches = step.order(numbers.ravel(), state.stream).reshape(numbers.shape)
                nats += [step.train(state, batch)[0] for batch in batches[:n - len(nats)]]
        return nats

    def check():
        step, state = start(SGD(), 1.0)  # goes down the gradient itself
        value, = take(step, state, 1)
        answers = {"loss": asnumpy(value), "gradient": asnumpy(model.params_.flat - step.params.flat),
                   **{name: asnumpy(a) for name, a in state.carry.items()}}
        return answers if "drawn" in problem else answers | {
            "losses": asnumpy(np.stack(take(*start(Adam(), 1e-3), min(5, len(numbers)))))}

    step, state = start(Adam(), 1e-3)

    def run(n):
        take(step, state, n)
        asnumpy(step.params.flat[:1])  # waits for a GPU

    yield "npgen", check, run


def made_step(problem):
    yield from _steps(_made(problem), problem)


def made_mixture_step(problem):
    head = heads.MixtureOfNormals(problem["components"])
    yield from _steps(_build(MADE(hidden=problem["hidden"], head=head, order="natural"), problem), problem)


def vae_step(problem):
    yield from _steps(_build(VAE(n_latent=problem["latent"], hidden=problem["hidden"], head="bernoulli"), problem), problem)


def realnvp_step(problem):
    yield from _steps(_realnvp(problem), problem)


def maf_step(problem):
    yield from _steps(_maf(problem), problem)


def nsf_step(problem):
    yield from _steps(_nsf(problem), problem)


def _diffusion(problem):
    (low, high), (mean, std) = problem["sigmas"], problem["log_s"]
    return _build(Diffusion(hidden=problem["hidden"], n_steps=problem["n_steps"], solver=problem["solver"], sigma_min=low,
                            sigma_max=high, p_mean=mean, p_std=std), problem, extent=(1e6, 1.0))  # peers know no rim


def diffusion_step(problem):
    yield from _steps(_diffusion(problem), problem)


def rbm_step(problem):
    yield from _steps(_build(RBM(n_hidden=problem["hidden"], visible="bernoulli"), problem), problem)


def gan_step(problem):
    yield from _steps(_build(GAN(average=0, critic_hidden=problem["hidden"], **{
        name: problem[name] for name in ("hidden", "n_noise", "r1", "r2")}), problem), problem)


def _repeat(call, check=dict):
    """(check, run) of a call."""
    def run(n):
        for _ in range(n):
            call()
    return check, run


def made_sample(problem):
    model, n, x = _made(problem), len(problem["noise"]), problem["x"]

    def check():
        return {"sample": model.sample(n, rng=Stream(problem["stream"])), "log_prob": model.log_prob(x)}

    yield "npgen", *_repeat(lambda: model.sample(n), check)
    rows = model.sample(n)
    yield "npgen, scoring the rows", *_repeat(lambda: model.log_prob(rows))


def _log_prob(model, problem):
    x = problem["x"][:problem["n_rows"]]
    yield "npgen", *_repeat(lambda: model.log_prob(x), lambda: {"log_prob": model.log_prob(x)})


def realnvp_log_prob(problem):
    yield from _log_prob(_realnvp(problem), problem)


def maf_log_prob(problem):
    yield from _log_prob(_maf(problem), problem)


def nsf_log_prob(problem):
    yield from _log_prob(_nsf(problem), problem)


def _sample(model, problem):
    n = len(problem["noise"])
    yield "npgen", *_repeat(lambda: model.sample(n), lambda: {"rows": model.sample(n, rng=Stream(problem["stream"]))})


def realnvp_sample(problem):
    yield from _sample(_realnvp(problem), problem)


def maf_sample(problem):
    yield from _sample(_maf(problem), problem)


def diffusion_sample(problem):
    yield from _sample(_diffusion(problem), problem)


def diffusion_log_prob(problem):
    yield from _log_prob(_diffusion(problem), problem)


def _mixture(problem, n, callbacks=()):
    """A mixture after n iterations."""
    model = GaussianMixture(len(problem["weights"]), weights_init=problem["weights"], means_init=problem["means"],
                            precisions_init=problem["precisions"], tol=0, reg_covar=0, max_iter=n, callbacks=callbacks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few iterations do not converge
        return model.to(problem.get("device", "cpu")).fit(problem["x"])


def em(problem):
    def check():
        model = _mixture(problem, 3)
        return {"weights": model.weights_, "means": model.means_, "covariances": model.covariances_,
                "nats": model.score(problem["x"])}

    def run(n):
        """Seconds from the end of the first of n + 1 iterations to the end of the last."""
        ends = []
        _mixture(problem, n + 1, [lambda entry: ends.append(time.perf_counter())])
        return ends[-1] - ends[0]

    yield "npgen", check, run


em_on_device = em


def em_score(problem):
    model, x = _mixture(problem, 3), problem["x"]
    yield "npgen", *_repeat(lambda: model.score_samples(x), lambda: {"log_prob": model.score_samples(x)})


def mixture_fit(problem):
    def fit():
        return _mixture(problem, problem["iterations"])

    yield "npgen", *_repeat(fit, lambda: {"nats": fit().lower_bound_})


def logsumexp(problem):
    yield "npgen", *_repeat(lambda: ops.logsumexp(problem["x"]), lambda: {"logsumexp": ops.logsumexp(problem["x"])})


def normals(problem):
    mean, log_var, stream = problem["mean"], problem["log_var"], Stream(1)

    def draw():
        return ops.reparameterize(mean, log_var, *stream.reserve(mean.size, mean.dtype))

    def check():
        eps = (draw() - mean) / np.exp(log_var / 2)
        assert abs(eps.mean()) < 6 / eps.size**0.5 and abs(eps.var() - 1) < 9 / eps.size**0.5  # false alarms: 1e-8
        return {}

    yield "npgen", *_repeat(draw, check)


def product(problem):
    """Of the micro-kernel, on one core; and as many multiply-adds that wait for nothing."""
    from .multiply_adds import matmul, multiply_adds
    x, weight = problem["x"], problem["weight"]
    y, n = np.empty((len(x), weight.shape[1]), x.dtype), x.size * weight.shape[1]
    with kernels.session():
        kernels.random.uniform(np.empty(1, x.dtype), 1, 2, 0)  # the kernels' compiler is ready

    def check():
        matmul(x, weight, y)
        return {"y": y}

    yield "npgen", *_repeat(lambda: matmul(x, weight, y), check)
    out = np.empty(1, x.dtype)
    yield "npgen, multiply-adds in registers", *_repeat(lambda: multiply_adds(out, n))


def masked_product(problem):
    x, g, weight, bias = (problem[name] for name in ("x", "g", "weight", "bias"))
    plan = Plan(problem["mask"])
    cut = plan.mask_as(x.dtype), plan.blocks

    def products():
        return (kernels.masked_matmul.forward(x, weight, bias, *cut), kernels.masked_matmul.backward_x(g, weight, *cut),
                kernels.masked_matmul.backward_weight(x, g, *cut))

    yield "npgen", *_repeat(products, lambda: dict(zip(("y", "dx", "dw"), products(), strict=True)))
