"""FlowMatching: a velocity that carries noise to data along straight lines, fitted without solving anything.

    x_t = (1 - t) eps + t x,    F(x_t; t) is fitted to E[x - eps | x_t],    dx_t/dt = F

t = 1 - tau of models/ode.py. With pairs (eps, x) that belong together by optimal transport, lines cross less and few steps are
enough. Legend: n rows, d columns.
References: Lipman et al., Flow matching for generative modeling (2023); Liu, Gong & Liu, Flow straight and fast (2023); Tong et
al., Improving and generalizing flow-based generative models with minibatch optimal transport (2024).
"""
import math

import numpy as np

from ..kernels._cuda import asnumpy
from .ode import ODEModel

BLOCK = 64  # rows that are paired at once
LEAST, LARGEST = 0.004, 1000.0  # sigma / alpha that elbo is taken between, in units of the rows
APART = 100.0  # what contexts count beside rows: noise has its row's context, and hardly ever changes it


class FlowMatching(ODEModel):
    """Flow matching: a fitted velocity moves noise to data; log_prob by its divergence, exact up to the solver; elbo, a bound.

    coupling       "independent", or "ot": pairs of noise and rows of least total squared distance, in blocks of 64 of a batch
    time_power     the loss is taken at the times u^time_power of the way from data to noise, u uniform: above 1, more of them
                   are near data, where narrow rings and edges are told from noise
    hidden         widths of the network's two SiLU layers, or one for both
    n_steps        of the solver, from data to noise or back
    solver         of sample: "rk4", "heun", "euler", or "dpm++" (see models/ode.py); log_prob, encode and decode take "rk4"
    guidance       g of F = F_u + g (F_c - F_u), F_u the network that sees no context: 0 is the model given none, 1 the
                   model given its context; at every level of noise, g is the power of p(c | x_s) in p(x_s) p(c | x_s)^g
    drop_context   share of the rows whose context is hidden from the network while fitting, from which F_u is learned
    bandwidth      how much finer than otherwise the network's first units look at rows, the finest of them: 8 or more for a
                   few columns with edges or narrow rings; 1 for many columns
    first_layer    "silu", or "sine": units of sin, Fourier features whose frequencies are learned, and which with a bandwidth
                   of 8 see narrow rings and edges of a few columns long before SiLU does (Sitzmann et al., 2020)
    target         what F is fitted to: "row", that of the row which noise was added to, or "batch", its mean over the rows of
                   the batch by how likely each was the one: less noise, where a batch is dense among a few columns
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives noise (n, d), standard normal under the model; decode inverts it up to the solver's error, solver_error_.
    Reference: Lipman et al. (2023); Tong et al. (2024).
    """

    coupling: str = "independent"
    time_power: float = 1.0
    _objectives = ("flow_matching",)

    def _choose(self, z, c, stream):
        if self.coupling not in ("independent", "ot"):
            raise ValueError(f"coupling must be 'independent' or 'ot', got {self.coupling!r}")
        if self.coupling == "ot" and self.target == "batch":
            raise ValueError("target='batch' is a mean over rows that noise may belong to, and coupling='ot' says to which it "
                             "does; take target='row'")
        if not isinstance(self.time_power, (int, float, np.number)) or not 0 < self.time_power < math.inf:
            raise ValueError(f"time_power must be a positive number, got {self.time_power!r}")
        return super()._choose(z, c, stream)

    @property
    def _by_rows(self):
        return super()._by_rows and self.coupling == "independent"

    def _path(self, tau):
        return 1 - tau, tau, -np.ones_like(tau), np.ones_like(tau)

    def _rate(self, tau):
        return -np.ones_like(tau)

    def _times(self, stream, x):
        u, share = stream.uniform(len(x), x.dtype, like=x), stream.share_of(len(x))
        even = (share.first + np.cumsum(np.ones_like(u)) - u) / share.total  # one in every n-th of (0, 1): less noise
        return even if self.time_power == 1 else even**float(self.time_power)

    @property
    def _levels(self):
        return LEAST, LARGEST

    def _level_time(self, share):
        s = LEAST * np.exp(math.log(LARGEST / LEAST) * share)
        return s / (1 + s)

    def _noise(self, x, stream, c):
        eps = super()._noise(x, stream, c)
        return eps if self.coupling == "independent" else eps[paired(eps, x, c)]


def paired(eps, x, c=None):
    """The numbers (n,) of the noise that goes with each row, of least total cost in blocks of BLOCK rows.

    The cost is |eps_i - x_j|^2, and of contexts APART |c_i - c_j|^2: noise i came with row i, and its context is that row's, so
    that noise stays standard normal given each.
    """
    from scipy.optimize import linear_sum_assignment
    eps, x = asnumpy(eps).astype(np.float64), asnumpy(x).astype(np.float64)
    c = np.zeros((len(x), 0)) if c is None else asnumpy(c).astype(np.float64)
    chosen = np.empty(len(x), np.int64)
    for low in range(0, len(x), BLOCK):
        rows = slice(low, low + BLOCK)
        cost = sum(k * np.square(a[None, rows] - b[rows, None]).sum(axis=2) for k, a, b in ((1, eps, x), (APART, c, c)))
        chosen[rows] = low + linear_sum_assignment(cost)[1]
    return chosen
