"""Ops that one kernel computes: each is defined by a formula in ops, and a pair of kernels makes it fast.

The formula is what a first derivative's kernel is tested against, and what higher derivatives go through.

    mlp                     every layer of a multilayer perceptron, masked or not; layers, its weights and biases
    silu                    x sigmoid(x), for every value
    flow_inverse            every step of a coupling flow, data -> noise; flow_forward, noise -> data
    flow_log_prob           the density of a coupling flow, from standard normal noise
    bernoulli_log_prob      sum_d log P(x_d), from logits
    normal_log_prob         sum_d log N(x_d; mean_d, var_d), from the mean and the raw log-variance of each
    mixture_log_prob        sum_d log sum_c w_dc N(x_d; mean_dc, var_dc), from logits, means and raw log-variances
    categorical_log_prob    sum_d log P(x_d), from logits of levels
    standard_normal_log_prob    sum_d log N(z_d; 0, 1)

Legend: n rows, i inputs, j outputs, h hidden units of all layers, p parameters, d features.
"""
import numpy as np

from . import ops
from .engine import Primitive, Tensor, grad
from .kernels import categorical as _categorical_kernel
from .kernels import flow as _flow_kernel
from .kernels import likelihood as _likelihood_kernel
from .kernels import mixture_likelihood as _mixture_kernel
from .kernels import mlp as _mlp_kernel
from .kernels import mlp_slope as _slope_kernel
from .kernels import silu as _silu_kernel
from .kernels._constants import LOG_2PI
from .kernels._cuda import constant_like
from .kernels._dispatch import placing
from .ops import contiguous, masked_dx
from .tensor import value_of


def fused(name, formula, forward, backward, again=None):
    """An op computed by forward(*args), whose cotangents come from backward(tracked, ans, g, *args).

    formula(*args) is the same in ops. It serves where the kernels cannot: inside a derivative of a derivative, and for a
    cotangent that `backward` declines by returning None. With several answers, g holds None for one that was not used, and
    answers beyond the formula's are what the forward kernel keeps for the backward one. again: backward written in ops, for a
    derivative of the derivative, where it needs less than the formula's; it may decline, too.
    """
    def joint(tracked, ans, *args):
        def pull(g, out):
            several = type(ans) is tuple
            g = [g.get(k) for k in range(len(ans))] if several else [g]
            if not any(type(a) is Tensor for a in (*args, *g)):
                with placing([a for a in out if a is not None]):
                    gradients = backward(tracked, ans, g if several else g[0], *args)
                if gradients is not None:
                    return gradients
            elif again is not None and (gradients := again(tracked, ans, g if several else g[0], *args)) is not None:
                return gradients

            def inner(*values):
                chosen = list(args)
                for i, value in zip(tracked, values, strict=True):
                    chosen[i] = value
                answers = formula(*chosen)
                return sum(np.sum(a * c) for a, c in zip(answers if several else [answers], g, strict=False) if c is not None)

            return grad(inner, tuple(range(len(tracked))))(*(args[i] for i in tracked))
        return pull

    op = Primitive(forward, joint=joint, name=name)
    op.formula = formula
    return op


# ---------------------------------------------------------------- multilayer perceptron

def _mlp_formula(x, params, layout):
    hidden = []
    for layer, plan in enumerate(layout.plans):
        x = ops.masked_matmul(x, *layout.weight_and_bias(params, layer), plan)
        if layer < len(layout.plans) - 1:
            x = ops.relu(x)
            hidden.append(x)
    return x, ops.concatenate([np.ravel(h) for h in hidden]) if hidden else np.ravel(x[:, :0])


def _mlp_forward(x, params, layout):
    return _mlp_kernel.forward(*contiguous(x, params), *layout.cut, layout.mask_as(x.dtype, x))


def _mlp_backward(tracked, ans, g, x, params, layout):
    if g[0] is None or g[1] is not None:
        return None
    dx, dparams = _mlp_kernel.backward(*contiguous(g[0], x), ans[1], *contiguous(params), *layout.cut,
                                       layout.mask_as(x.dtype, x), 0 in tracked, 1 in tracked)
    return [(dx, dparams)[i] for i in tracked]


def _mlp_again(tracked, ans, g, x, params, layout):
    """The derivative by x alone, which asks of the layers only which units were on."""
    if g[0] is None or g[1] is not None or tracked != [0]:
        return None
    return [_mlp_slope(g[0], value_of(ans[1]), params, layout)[0]]


def _slope_formula(g, hidden, params, layout):
    slope, end = g, hidden.size
    for layer, plan in reversed(list(enumerate(layout.plans))):
        slope = masked_dx(slope, layout.weight_and_bias(params, layer)[0], plan)
        if layer:
            begin = end - len(g) * plan.shape[0]
            slope = slope * (hidden[begin:end].reshape(len(g), -1) > 0)
            end = begin
    return slope,


def _slope_forward(g, hidden, params, layout):
    return _slope_kernel.forward(*contiguous(g, hidden, params), *layout.cut, layout.mask_as(g.dtype, g))


def _slope_backward(tracked, ans, h, g, hidden, params, layout):
    if h[0] is None or h[1] is not None or 1 in tracked:
        return None
    h, none = contiguous(h[0])[0], np.zeros_like(g[:, 0])
    both = _slope_kernel.backward(h, none, h, *contiguous(g, hidden), ans[1], *contiguous(params), *layout.cut,
                                  layout.mask_as(g.dtype, g), 0 in tracked)
    return [both[i // 2] for i in tracked]


# J^T g of a perceptron whose hidden layers are these, and what its kernel keeps; penalties on slopes are made of it.
_mlp_slope = fused("mlp_slope", _slope_formula, _slope_forward, _slope_backward)


def _sloped_formula(x, params, layout):
    y, hidden = _mlp_formula(x, params, layout)
    return y, _slope_formula(np.ones_like(value_of(y)), value_of(hidden), params, layout)[0]


def _sloped_forward(x, params, layout):
    y, hidden = _mlp_forward(x, params, layout)
    return y, *_slope_forward(np.ones_like(y), hidden, params, layout), hidden


def _sloped_backward(tracked, ans, g, x, params, layout):
    y, slope, delta, hidden = ans
    if g[1] is None:
        return None
    c, (x, params, h) = np.zeros_like(y[:, 0]) if g[0] is None else contiguous(g[0][:, 0])[0], contiguous(x, params, g[1])
    _, dparams = _slope_kernel.backward(h, c, x, np.ones_like(y), hidden, delta, params, *layout.cut,
                                        layout.mask_as(y.dtype, y), False)
    return [dparams if i else c[:, None] * slope for i in tracked]


_mlp_sloped = fused("mlp_sloped", _sloped_formula, _sloped_forward, _sloped_backward)


def mlp_with_slope(x, params, layout):
    """y (n, 1), what mlp gives, of one output, and dy/dx (n, i), whose derivatives by params take a kernel together."""
    return _mlp_sloped(x, params, layout)[:2]
_mlp = fused("mlp", _mlp_formula, _mlp_forward, _mlp_backward, _mlp_again)


def mlp(x, params, layout):
    """y = relu(... relu(x W_1 + b_1) ...) W_L + b_L, (n, j), and the hidden layers (n, h) one after another, raveled.

    x (n, i); params (p,) hold weight and bias of every layer as `layout`, a npgen.layout.Layout, has them; entries of a
    weight outside its mask must be zero. Raises ValueError if the shapes do not fit.
    """
    if x.ndim != 2 or x.shape[1] != layout.widths[0] or params.shape != (layout.size,):
        raise ValueError(f"mlp: x has shape {x.shape} and params {params.shape}, but the layout needs "
                         f"(n, {layout.widths[0]}) and ({layout.size},)")
    return _mlp(x, params, layout)


def _layers(params, layout):
    return tuple(a for layer in range(len(layout.plans)) for a in layout.weight_and_bias(params, layer))


def _layers_pull(tracked, ans, params, layout):
    shapes = [a.shape for a in ans]

    def pull(g, out):
        pieces = [g[k] if k in g else np.zeros_like(params, shape=shape) for k, shape in enumerate(shapes)]
        if out[0] is None or any(type(a) is Tensor for a in pieces):
            return [ops.concatenate([np.ravel(a) for a in pieces])]
        for place, piece in zip(_layers(out[0], layout), pieces, strict=True):
            place[...] = piece
        return out
    return pull


# Weight (i, j) and bias (j,) of every layer, one after another, views of params (p,) in a Layout; gradients go side by side.
layers = Primitive(_layers, joint=_layers_pull, name="layers")

# x sigmoid(x), the activation of networks whose derivatives count.
silu = fused("silu", lambda x: x * ops.sigmoid(x), lambda x: _silu_kernel.forward(*contiguous(x.ravel())).reshape(x.shape),
             lambda tracked, ans, g, x: [_silu_kernel.backward(*contiguous(g.ravel(), x.ravel())).reshape(x.shape)])


# ---------------------------------------------------------------- coupling flow

COUPLING_LIMIT = 3.0  # of the log-scale, so that no step multiplies by more than e^3


def _network(kept, net, layout):
    outputs, moved = mlp(kept, net, layout)[0], layout.widths[-1] // 2
    return ops.bounded(outputs[:, :moved], COUPLING_LIMIT), outputs[:, moved:]


def _steps(params, layout):
    """shift, log_scale, the network's parameters and its layout, and the order, of every step."""
    d = layout.orders.shape[1]
    for k, (order, net) in enumerate(zip(layout.orders, layout.nets, strict=True)):
        part = params[layout.part(k)]
        yield part[:d], part[d:2 * d], part[2 * d:], net, order


def _inverse_formula(x, params, layout, keep=False):
    log_det = 0.0
    for shift, log_scale, net, net_layout, order in _steps(params, layout):
        a = (x[:, constant_like(order, value_of(x))] - shift) * ops.exp(-log_scale)
        kept, moved = a[:, :net_layout.widths[0]], a[:, net_layout.widths[0]:]
        s, t = _network(kept, net, net_layout)
        x = ops.concatenate([(moved - t) * ops.exp(-s), kept], axis=1)
        log_det = log_det - ops.sum(log_scale) - ops.sum(s, axis=1)
    return x, log_det, _standard_normal_formula(x) + log_det


def _forward_formula(z, params, layout):
    log_det = 0.0
    for shift, log_scale, net, net_layout, order in reversed(list(_steps(params, layout))):
        n_moved = net_layout.widths[-1] // 2
        kept = z[:, n_moved:]
        s, t = _network(kept, net, net_layout)
        a = ops.concatenate([kept, z[:, :n_moved] * ops.exp(s) + t], axis=1)
        z = (a * ops.exp(log_scale) + shift)[:, constant_like(np.argsort(order), value_of(z))]
        log_det = log_det + ops.sum(log_scale) + ops.sum(s, axis=1)
    return z, log_det


def _inverse_backward(tracked, ans, g, x, params, layout, keep):
    (z, _, _, *kept), (dz, dlog_det, dlog_prob, *_) = ans, g
    if dlog_prob is not None:
        through_z = -dlog_prob[:, None] * z
        dz = through_z if dz is None else dz + through_z
        dlog_det = dlog_prob if dlog_det is None else dlog_det + dlog_prob
    dz = np.zeros_like(z) if dz is None else dz
    dlog_det = np.zeros_like(z[:, 0]) if dlog_det is None else dlog_det
    both = _flow_kernel.backward(*contiguous(dz, dlog_det), *kept, *contiguous(params), *layout.cut, COUPLING_LIMIT,
                                 1 in tracked)
    return [both[i] for i in tracked]


_flow_inverse = fused(
    "flow_inverse", _inverse_formula,
    lambda x, params, layout, keep: _flow_kernel.inverse(*contiguous(x, params), *layout.cut, COUPLING_LIMIT, keep),
    _inverse_backward)
_flow_forward = fused(
    "flow_forward", _forward_formula,
    lambda z, params, layout: _flow_kernel.forward(*contiguous(z, params), *layout.cut, COUPLING_LIMIT),
    lambda tracked, ans, g, *args: None)


def flow_inverse(x, params, layout):
    """Data -> noise, each step a = (x[order] - shift) exp(-log_scale), z = [(a_moved - t) exp(-s), a_kept], s, t = mlp(a_kept).

    x (n, d); params as `layout`, a npgen.layout.FlowLayout, has them; s is bounded to +-COUPLING_LIMIT. Returns z (n, d) and
    log |det dz/dx| (n,) in nats. Raises ValueError if the shapes do not fit.
    Sources: Dinh et al. (2017), section 3; Kingma & Dhariwal (2018), section 3.1.
    """
    return _inverse("flow_inverse", x, params, layout)[:2]


def flow_log_prob(x, params, layout):
    """log N(z; 0, I) + log |det dz/dx| (n,) in nats, of flow_inverse's z; raises as it does."""
    return _inverse("flow_log_prob", x, params, layout)[2]


def _inverse(name, x, params, layout):
    _check_flow(name, x, params, layout)
    return _flow_inverse(x, params, layout, type(x) is Tensor or type(params) is Tensor)


def flow_forward(z, params, layout):
    """Noise -> data, the inverse of flow_inverse: x (n, d) and log |det dx/dz| (n,) in nats."""
    _check_flow("flow_forward", z, params, layout)
    return _flow_forward(z, params, layout)


def _check_flow(name, x, params, layout):
    if x.ndim != 2 or x.shape[1] != layout.orders.shape[1] or params.shape != (layout.size,):
        raise ValueError(f"{name}: the features have shape {x.shape} and params {params.shape}, but the layout needs "
                         f"(n, {layout.orders.shape[1]}) and ({layout.size},)")


# ---------------------------------------------------------------- likelihoods

def _for(op, x, outputs, n_outputs):
    """The kernels' op where they apply, one row of outputs for each row of x; its formula for arrays that broadcast."""
    return op if x.ndim == 2 and outputs.shape == (len(x), n_outputs) and x.dtype == outputs.dtype else op.formula


_bernoulli = fused(
    "bernoulli_log_prob", lambda x, logits: ops.sum(x * logits - ops.softplus(logits), axis=-1),
    lambda x, logits: _likelihood_kernel.bernoulli_forward(*contiguous(x, logits)),
    lambda tracked, ans, g, x, logits:
        [_likelihood_kernel.bernoulli_backward(*contiguous(g, x, logits))] if tracked == [1] else None)


def bernoulli_log_prob(x, logits):
    """sum_d x_d logit_d - log(1 + exp(logit_d)) over the last axis, in nats; x in [0, 1]."""
    return _for(_bernoulli, x, logits, x.shape[-1])(x, logits)


def _normal_formula(x, outputs, limit):
    log_var = ops.bounded(outputs[..., 1::2], limit)
    return -0.5 * ops.sum(LOG_2PI + log_var + ops.square(x - outputs[..., ::2]) * ops.exp(-log_var), axis=-1)


_normal = fused(
    "normal_log_prob", _normal_formula,
    lambda x, outputs, limit: _likelihood_kernel.normal_forward(*contiguous(x, outputs), limit),
    lambda tracked, ans, g, x, outputs, limit:
        [_likelihood_kernel.normal_backward(*contiguous(g, x, outputs), limit)] if tracked == [1] else None)


def normal_log_prob(x, outputs, limit):
    """sum_d log N(x_d; mean_d, exp(log_var_d)) over the last axis, in nats.

    outputs (n, 2 d): of each feature the mean and the raw log-variance, which is bounded to +-limit.
    """
    return _for(_normal, x, outputs, 2 * x.shape[-1])(x, outputs, limit)


def _mixture_formula(x, outputs, components, limit):
    logits, mean, raw = np.moveaxis(outputs.reshape(*outputs.shape[:-1], -1, 3, components), -2, 0)
    log_var = ops.bounded(raw, limit)
    log_normal = -0.5 * (LOG_2PI + log_var + ops.square(x[..., None] - mean) * ops.exp(-log_var))
    return ops.sum(ops.logsumexp(ops.log_softmax(logits) + log_normal), axis=-1)


def _mixture_backward(tracked, ans, g, x, outputs, components, limit):
    doutputs, dx = _mixture_kernel.backward(*contiguous(g, x, outputs), components, limit)
    return [(dx, doutputs)[i] for i in tracked]


_mixture = fused("mixture_log_prob", _mixture_formula,
                 lambda x, outputs, *rest: _mixture_kernel.forward(*contiguous(x, outputs), *rest), _mixture_backward)


def mixture_log_prob(x, outputs, components, limit):
    """sum_d log sum_c softmax(logit_d)_c N(x_d; mean_dc, exp(log_var_dc)) over the last axis, in nats.

    outputs (n, 3 d components): of each feature the logits, the means, then the raw log-variances, bounded to +-limit.
    Sources: Bishop, Mixture density networks (1994); Uria, Murray & Larochelle, RNADE (2013).
    """
    return _for(_mixture, x, outputs, 3 * components * x.shape[-1])(x, outputs, components, limit)


def _column_of_level(x, first):
    return np.asarray(first[:-1], like=x) + np.where(np.isnan(x), 0, x).astype(np.int64)


_columns = ops.op(_column_of_level, name="column of a level")  # which carries no derivative


def _categorical_formula(x, logits, first):
    log_p = ops.concatenate([ops.log_softmax(logits[..., a:b]) for a, b in zip(first, first[1:], strict=False)], axis=-1)
    rows = [np.expand_dims(axis, -1) for axis in np.ogrid[tuple(map(slice, logits.shape[:-1]))]]
    return ops.sum(ops.where(np.isnan(x), 0, log_p[(*rows, _columns(x, first))]), axis=-1)


_categorical = fused(
    "categorical_log_prob", _categorical_formula,
    lambda x, logits, first: _categorical_kernel.forward(*contiguous(x, logits), first),
    lambda tracked, ans, g, x, logits, first:
        [_categorical_kernel.backward(*contiguous(g, x, logits), first)] if tracked == [1] else None)


def categorical_log_prob(x, logits, first):
    """sum_d log softmax(logits_d)_{x_d} over the last axis, in nats; a missing x, NaN, adds nothing.

    x holds the numbers of levels, 0, 1, ...; the logits of feature d are the columns first[d]..first[d + 1] - 1 of `logits`,
    first (d + 1,) int64.
    """
    return _for(_categorical, x, logits, first[-1])(x, logits, first)


def _standard_normal_formula(z):
    return -0.5 * ops.sum(ops.square(z) + LOG_2PI, axis=-1)


_standard_normal = fused(
    "standard_normal_log_prob", _standard_normal_formula,
    lambda z: _likelihood_kernel.standard_normal_forward(*contiguous(z)),
    lambda tracked, ans, g, z: [_likelihood_kernel.standard_normal_backward(*contiguous(g, z))])


def standard_normal_log_prob(z):
    """sum_d log N(z_d; 0, 1) over the last axis, in nats."""
    return (_standard_normal if z.ndim == 2 else _standard_normal.formula)(z)
