"""zuko's side of the benchmark: its flows, eager and compiled, with torch's fused Adam. For the anatomy see with_npgen.py.

Steps, masked networks, inverses and densities are zuko's. So that answers compare, the masks and parameters are npgen's, put
where zuko has them, and so are the bounds of log-scales and of splines' knots, a line or two for each of its elements; and a
step first normalises the features, as npgen's does by default. As zuko does, steps know the features by their own columns, in
another order, and none are moved between them; couplings are its general ones, whose network has outputs for half of them.

Legend: d features.
"""
import functools
import math

import numpy as np
import torch
import zuko
from torch.nn import functional as F
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.lazy import Flow, UnconditionalDistribution, UnconditionalTransform
from zuko.transforms import DependentTransform, MonotonicAffineTransform, MonotonicRQSTransform, Transform

from . import with_torch
from .formulas import LEAST, bounded


def facts():
    """Versions, in words."""
    return {"zuko": f"{zuko.__version__}, on torch"}


class _Affine(MonotonicAffineTransform):
    """exp(-log_var / 2) (x - mean), of the mean and the raw log-variance."""

    def __init__(self, mean, raw):
        Transform.__init__(self)
        self.log_scale = -bounded(torch, raw, 15) / 2
        self.scale = self.log_scale.exp()
        self.shift = -mean * self.scale


class _Norm(MonotonicAffineTransform):
    """exp(-log_scale) (x - shift)."""

    def __init__(self, shift, log_scale):
        Transform.__init__(self)
        self.log_scale, self.scale = -log_scale, torch.exp(-log_scale)
        self.shift = -shift * self.scale


class _Spline(MonotonicRQSTransform):
    """A spline by raw widths, heights and derivatives as Durkan et al. (2019) bound them."""

    def __init__(self, widths, heights, derivatives, bins, box):
        Transform.__init__(self)
        self.horizontal, self.vertical = (
            2 * box * F.pad(LEAST + (1 - bins * LEAST) * raw.softmax(-1), (1, 0)).cumsum(-1) - box for raw in (widths, heights))
        self.derivatives = F.pad(LEAST + F.softplus(derivatives + math.log(math.expm1(1 - LEAST))), (1, 1), value=1)


def _normalised(d):
    return UnconditionalTransform(lambda *both: DependentTransform(_Norm(*both), 1), torch.zeros(d), torch.zeros(d))


def _flow(steps, d):
    base = UnconditionalDistribution(zuko.distributions.DiagNormal, torch.zeros(d), torch.ones(d), buffer=True)
    return Flow([part for step in steps for part in (_normalised(d), step)], base)


def _columns(orders):
    """The data's columns in the order of every step's features, (d,) each."""
    order = np.arange(orders.shape[1])
    for k, mixed in enumerate(orders):
        order = order[mixed] if k else order
        yield order


def _arrange(columns, n_moved, arrays):
    """npgen's parameters, or masks, of steps whose features are these columns, as zuko has them; None stays None.

    The last n_moved features of a step are moved, and a network sees those that it keeps, or all of them if none is kept.
    """
    arrays, arranged = list(arrays), []
    size = len(arrays) // len(columns)
    for k, order in enumerate(columns):
        shift, log_scale, *network = arrays[k * size:(k + 1) * size]
        kept, moved = order[:-n_moved], order[-n_moved:]
        rows, moved = np.argsort(kept if len(kept) else order), np.argsort(moved)
        network[0] = network[0][rows]
        network[-2:] = [a if a is None else a.reshape(*a.shape[:-1], n_moved, -1)[..., moved, :].reshape(a.shape)
                        for a in network[-2:]]
        arranged += [a if a is None else a[np.argsort(order)] for a in (shift, log_scale)]
        arranged += [a if a is None else np.ascontiguousarray(a.T) for a in network]
    return arranged


def _maf(problem):
    """(a MAF of zuko's, npgen's parameters as it has them)."""
    columns, d = list(_columns(problem["orders"])), problem["x"].shape[1]
    steps = [MaskedAutoregressiveTransform(d, order=np.argsort(order), univariate=_Affine, hidden_features=problem["hidden"])
             for order in columns]
    arrange = functools.partial(_arrange, columns, d)
    masks = iter([m for m in arrange(problem["masks"]) if m is not None])
    for step in steps:
        for layer in step.hyper:
            if hasattr(layer, "mask"):
                layer.mask.copy_(torch.from_numpy(next(masks)))
    return _flow(steps, d), arrange


def _nsf(problem):
    """(an NSF of zuko's couplings, npgen's parameters as it has them)."""
    columns, d, bins = list(_columns(problem["orders"])), problem["x"].shape[1], problem["bins"]
    spline = functools.partial(_Spline, bins=bins, box=problem["box"])
    steps = [GeneralCouplingTransform(d, mask=np.argsort(order) < d // 2, univariate=spline,
                                      shapes=((bins,), (bins,), (bins - 1,)), hidden_features=problem["hidden"])
             for order in columns]
    return _flow(steps, d), functools.partial(_arrange, columns, d - d // 2)


def _placed(flow, arrays, **options):
    """The flow's parameters, with these values."""
    params = list(flow.parameters())
    with torch.no_grad():
        for p, a in zip(params, arrays, strict=True):
            p.copy_(torch.from_numpy(a))
    return params


def _steps(problem, flow, arrange):
    yield from with_torch.steps(problem, lambda params, x: -flow().log_prob(x).mean(), name="zuko", compiled="zuko, compiled",
                                arrange=arrange, place=functools.partial(_placed, flow))


def maf_step(problem):
    yield from _steps(problem, *_maf(problem))


def nsf_step(problem):
    yield from _steps(problem, *_nsf(problem))


def _log_prob(problem, flow, arrange):
    _placed(flow, arrange(problem["params"]))
    x = torch.from_numpy(problem["x"][:problem["n_rows"]])
    for name, call in ("zuko", lambda: flow().log_prob(x)), ("zuko, compiled", torch.compile(lambda: flow().log_prob(x))):
        yield name, *with_torch.query(call, "log_prob")


def maf_log_prob(problem):
    yield from _log_prob(problem, *_maf(problem))


def nsf_log_prob(problem):
    yield from _log_prob(problem, *_nsf(problem))


def maf_sample(problem):
    """A pass of the whole network for every feature of every step, which is zuko's inverse; compiled, it would be unrolled."""
    flow, arrange = _maf(problem)
    _placed(flow, arrange(problem["params"]))
    *_, order = _columns(problem["orders"])  # in which npgen's noise is
    noise = torch.from_numpy(np.ascontiguousarray(problem["noise"][:, np.argsort(order)]))
    yield "zuko", *with_torch.query(flow().transform.inv, "rows", lambda: (noise,), lambda: (torch.randn(noise.shape),))
