"""GMMN: a network that makes rows of noise, fitted by a distance between the rows that it makes and the data's.

    y = net(e), e ~ N(0, I);    d(p, q) = E k(x, x') + E k(y, y') - 2 E k(x, y),    x ~ data, y ~ net

    energy                k(x, y) = -|x - y|
    mmd                   k(x, y) = sum_s exp(-|x - y|^2 / (2 scale_s^2))
    sliced_wasserstein    E_u W_2(<u, x>, <u, y>)^2 over directions u, in its place

There is no adversary. A batch's rows are compared with as many that are drawn; no drawn row is a pair with itself, so that
gradients of the first two have no bias. What the rows are apart from one another is left out of the loss, as it is constant.
Given a context, rows have it beside them in the distance.

Legend: n rows, d features, w columns of context, s scales, l directions.
References: Li, Swersky & Zemel, Generative moment matching networks (2015); Dziugaite, Roy & Ghahramani (2015); Székely &
Rizzo, Energy statistics (2013); Deshpande, Zhang & Schwing, Generative modeling using the sliced Wasserstein distance (2018).
"""
import numpy as np

from .. import ops, train
from ..checks import check_widths, one_line
from ..divergences import pairs
from ..nn import MLP, beside
from .base import Capabilities, Follows
from .gradient import GradientModel

DISTANCES = "energy", "mmd", "sliced_wasserstein"


class GMMN(GradientModel):
    """Generative moment matching network: rows made of noise, by an energy, MMD or sliced Wasserstein distance; no density.

    distance       "energy", "mmd" or "sliced_wasserstein"
    n_noise        numbers of noise that a row is made of
    hidden         widths of the ReLU layers
    scales         of "mmd": the Gaussian kernels' standard deviations, times the root of the number of columns
    n_directions   of "sliced_wasserstein": drawn anew at every step
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    score is minus the energy distance between rows and draws; history_ has the losses, without what is constant in them.
    Reference: Li, Swersky & Zemel (2015).
    """

    distance: str = "energy"
    n_noise: int = 16
    hidden: tuple = (128, 128)
    scales: tuple = (0.25, 0.5, 1.0, 2.0)
    n_directions: int = 50
    batch_size: int = 200
    _capabilities = Capabilities("none", "none", invertible=False)
    _takes_context = True
    hidden_, n_noise_ = Follows(), Follows()

    def _choose(self, z, c, stream):
        if self.distance not in DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(map(repr, DISTANCES))}, got {one_line(self.distance)}")
        scales = np.atleast_1d(self.scales)
        if scales.dtype.kind not in "fi" or scales.ndim != 1 or not (np.isfinite(scales) & (scales > 0)).all():
            raise ValueError(f"scales must be positive numbers, got {one_line(self.scales)}")
        (n_noise,), _ = check_widths("n_noise", (self.n_noise,)), check_widths("n_directions", (self.n_directions,))
        return {"hidden": check_widths("hidden", self.hidden), "n_noise": n_noise}

    def _assemble(self, d, w, chosen):
        return {"net": MLP("net", (chosen["n_noise"] + w, *chosen["hidden"], d))}

    def _draw(self, p, n, stream, c=None):
        return self._net(p, beside(stream.normal((n, self.n_noise_), p.flat.dtype, like=p.flat), c))

    def _players(self):
        return train.Player(loss=lambda p, batch, stream: self._loss(p, batch.x, stream, batch.context, batch.weights),
                            repeats=self.distance != "sliced_wasserstein"),

    def _loss(self, p, z, stream, c=None, weights=None):
        noise = stream.normal((len(z), self.n_noise_), z.dtype, like=z)
        x, y = beside(z, c), beside(self._net(p, beside(noise, c)), c)
        if self.distance == "sliced_wasserstein":
            return self._sliced(x, y, stream, weights)
        if self.distance == "energy":
            return pairs.energy(x, y)
        n, each = len(z), np.full_like(z[:, 0], 1 / len(z))
        scales = np.asarray(np.atleast_1d(self.scales) * np.sqrt(x.shape[1]), dtype=z.dtype, like=z)
        within = (ops.sum(pairs.gaussians(y, y, each, scales)) - len(scales)) / max(n - 1, 1)
        return within - 2 * pairs.gaussians(x, y, each, scales)

    def _sliced(self, x, y, stream, weights):
        """E_u W_2^2 of the batch, as each row's loss: row j of y in order stands for the j-th n-th of the weighted rows x."""
        n, d = x.shape
        directions = stream.normal((d, self.n_directions), x.dtype, like=x)
        directions = directions / np.sqrt(np.sum(directions * directions, axis=0))
        along, mean = x @ directions, 1.0
        order = np.argsort(along, axis=0)
        if weights is not None:
            ends, mean = np.cumsum(weights[order].astype(np.float64), axis=0), np.mean(weights)
            each = np.arange(self.n_directions, like=ends)[:, None]  # one direction behind the other, in one search
            middle = (np.arange(n, like=ends) + 0.5) / n
            at = np.searchsorted(np.ravel((ends / ends[-1]).T + each), np.ravel(middle + each)).reshape(-1, n) - n * each
            order = np.take_along_axis(order, np.minimum(at, n - 1).T, axis=0)
        apart = np.sort(y @ directions, axis=0) - np.take_along_axis(along, order, axis=0)
        each = ops.mean(ops.square(apart), axis=1)
        return each if weights is None else ops.mean(each) / mean * np.ones_like(x[:, 0])
