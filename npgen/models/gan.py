"""GAN: a network that makes rows of noise, and a critic that learns to tell them from the data's, which the first deceives.

    y = generator(e), e ~ N(0, I);    D = critic(x), higher where x is more like the data

                      the critic minimises, x ~ data, y made                                   the generator minimises
    relativistic      softplus(D(y) - D(x))                                                    softplus(D(x) - D(y))
    nonsaturating     softplus(-D(x)) + softplus(D(y))                                         softplus(-D(y))
    wasserstein-gp    D(y) - D(x) + gp (|grad D(u x + (1 - u) y)| - 1)^2, u ~ U(0, 1)          -D(y)
    kl, reverse_kl,   f*(T(D(y))) - T(D(x)), at most minus the divergence D_f(data | made),    -f*(T(D(y)))
    chi2, ...         and minus it for the best critic, T* = f'(p / q)

    R1, R2            r1 / 2 |grad D(x)|^2 + r2 / 2 |grad D(y)|^2 beside, but for wasserstein-gp

The two move in turn. Each penalty is a derivative of which the critic's step takes a derivative. A packed critic sees `packing`
rows beside each other, so that rows that are all alike give themselves away: pack k is rows k, k + 1, ... of a batch, in a
circle. Given a context, both networks have it beside what they see.

Legend: n rows, d features, w columns of context, m rows of a pack.
References: Goodfellow et al., Generative adversarial nets (2014); Jolicoeur-Martineau, The relativistic discriminator (2019);
Mescheder, Geiger & Nowozin, Which training methods for GANs do actually converge? (2018), R1 and R2; Gulrajani et al., Improved
training of Wasserstein GANs (2017); Nowozin, Cseke & Tomioka, f-GAN (2016), table 2; Lin et al., PacGAN (2018); Karras et al.,
Progressive growing of GANs (2018), the mean generator; Huang et al., The GAN is dead; long live the GAN (2024).
"""
import math

import numpy as np

from .. import ops, train
from ..checks import check_widths, one_line
from ..divergences import pairs
from ..engine import grad
from ..nn import MLP, beside
from .base import Capabilities, Follows
from .gradient import GradientModel

DIVERGENCES = {  # f -> (T, f* of T), of what the critic's network gives
    "kl": (lambda v: v, lambda v: ops.exp(v - 1)),                                      # T* = 1 + log p/q
    "reverse_kl": (lambda v: -ops.exp(-v), lambda v: v - 1),                            # T* = -q/p
    "chi2": (lambda v: v, lambda v: ops.square(v) / 4 + v),                             # T* = 2 (p/q - 1)
    "hellinger": (lambda v: 1 - ops.exp(-v), lambda v: ops.exp(v) - 1),                 # T* = 1 - sqrt(q/p)
    "js": (lambda v: math.log(2) - ops.softplus(-v), lambda v: ops.softplus(v) - math.log(2)),  # T* = log 2p/(p+q)
}


def _variational(T, conjugate):
    return lambda real, fake: conjugate(fake) - T(real), lambda real, fake: -conjugate(fake)


LOSSES = {  # name -> (critic, generator): (n,) losses of D(x) and D(y), which the generator's has as a function: few ask for it
    "relativistic": (lambda real, fake: ops.softplus(fake - real), lambda real, fake: ops.softplus(real() - fake)),
    "nonsaturating": (lambda real, fake: ops.softplus(-real) + ops.softplus(fake), lambda real, fake: ops.softplus(-fake)),
    "wasserstein-gp": (lambda real, fake: fake - real, lambda real, fake: -fake),
} | {name: _variational(*each) for name, each in DIVERGENCES.items()}


def packed(rows, m):
    """Rows (n, d) -> packs (n, m d): rows k, k + 1, ..., k + m - 1 beside one another, the first after the last."""
    if rows is None or m == 1:
        return rows
    at = [k % max(len(rows), 1) for k in range(m)]
    return ops.concatenate([ops.concatenate([rows[k:], rows[:k]]) for k in at], axis=1)


class GAN(GradientModel):
    """Generative adversarial network: rows made of noise, judged by a critic that is fitted beside; no density.

    loss           "relativistic", "nonsaturating", "wasserstein-gp", or an f-divergence: "kl", "reverse_kl", "chi2",
                   "hellinger" (twice the squared one), "js" (twice it)
    n_noise        numbers of noise that a row is made of
    hidden         widths of the generator's ReLU layers
    critic_hidden  widths of the critic's
    r1, r2         weights of the squared slopes of the critic at the data and at what is made; not of "wasserstein-gp"
    gp             of "wasserstein-gp": weight of the penalty that holds the slope between them at 1
    packing        rows that the critic sees beside each other
    n_critic       steps of the critic before one of the generator's
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    The energy distance of rows held out from rows that are made decides when to stop, and which parameters are kept: a running
    mean (average) of both networks'. score is minus that distance; history_ has it, as valid_nats, and both
    players' losses: its names are those of all models, though there are no nats here.
    References: Goodfellow et al. (2014); Huang et al. (2024), the default loss.
    """

    loss: str = "relativistic"
    n_noise: int = 16
    hidden: tuple = (128, 128)
    critic_hidden: tuple = (128, 128)
    r1: float = 0.1
    r2: float = 0.1
    gp: float = 10.0
    packing: int = 1
    n_critic: int = 1
    batch_size: int = 200
    optimizer: object = "adam0"
    average: object = 0.999
    patience: int = 50
    _capabilities = Capabilities("none", "none", invertible=False)
    _objectives = ("adversarial",)
    _takes_context = True
    _likelihood = False
    hidden_, critic_hidden_, n_noise_, packing_ = Follows(), Follows(), Follows(), Follows()

    def _choose(self, z, c, stream):
        if not isinstance(self.loss, str) or self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(map(repr, LOSSES))}, got {one_line(self.loss)}")
        for name in ("r1", "r2", "gp"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a non-negative number, got {one_line(value)}")
        (n_noise,), (packing,) = check_widths("n_noise", (self.n_noise,)), check_widths("packing", (self.packing,))
        return {"hidden": check_widths("hidden", self.hidden), "n_noise": n_noise, "packing": packing,
                "critic_hidden": check_widths("critic_hidden", self.critic_hidden)}

    def _assemble(self, d, w, chosen):
        return {"generator": MLP("generator", (chosen["n_noise"] + w, *chosen["hidden"], d)),
                "critic": MLP("critic", (chosen["packing"] * (d + w), *chosen["critic_hidden"], 1))}

    _by_rows = False  # _monitor has pairs of rows

    def _players(self):
        check_widths("n_critic", (self.n_critic,))

        def player(name, loss, steps):
            return train.Player(name=name, moves=(name,), steps=int(steps), repeats=True, by_rows=self.packing_ == 1,
                                loss=lambda p, batch, stream: loss(p, batch.x, stream, batch.context)
                                * self._others(batch.weights))
        return player("critic", self._loss, self.n_critic), player("generator", self._deception, 1)

    def _others(self, weights):
        """What a row's loss counts by beside its own weight: the product of the others' in its pack."""
        if weights is None or self.packing_ == 1:
            return 1
        return np.prod(packed(weights[:, None], self.packing_)[:, 1:], axis=1)

    def _made(self, p, n, stream, c, like):
        return self._generator(p, beside(stream.normal((n, self.n_noise_), like.dtype, like=like), c))

    def _judged(self, p, packs, given):
        """D (n,) of packs of rows, given those of their context."""
        return self._critic(p, beside(packs, given))[:, 0]

    def _judged_with_slope(self, p, packs, given):
        """D (n,), and its derivative by the packs, of their shape."""
        judged, slope = self._critic.with_slope(p, beside(packs, given))
        return judged[:, 0], slope[:, :packs.shape[1]]

    def _packs(self, p, z, stream, c):
        """Packs of the rows z, of rows that are made, and of their context."""
        return [packed(rows, self.packing_) for rows in (z, self._made(p, len(z), stream, c, z), c)]

    def _loss(self, p, z, stream, c=None):
        """What the critic minimises, (n,), with its penalties."""
        x, y, given = self._packs(p, z, stream, c)
        both = ops.concatenate([x, y]), given if given is None else ops.concatenate([given, given])
        penalised, n = self.loss != "wasserstein-gp" and bool(self.r1 or self.r2), len(z)
        judged, slope = self._judged_with_slope(p, *both) if penalised else (self._judged(p, *both), None)
        loss = LOSSES[self.loss][0](judged[:n], judged[n:])
        if self.loss == "wasserstein-gp":
            u = stream.uniform((n, 1), z.dtype, like=z)
            slope = grad(lambda packs: ops.sum(self._judged(p, packs, given)))(u * x + (1 - u) * y)
            return loss + self.gp * ops.square(ops.sqrt(ops.sum(ops.square(slope), axis=1) + 1e-12) - 1)
        if penalised:
            squares = ops.sum(ops.square(slope), axis=1)
            loss = loss + self.r1 / 2 * squares[:n] + self.r2 / 2 * squares[n:]
        return loss

    def _deception(self, p, z, stream, c=None):
        """What the generator minimises, (n,)."""
        x, y, given = self._packs(p, z, stream, c)
        return LOSSES[self.loss][1](lambda: self._judged(p, x, given), self._judged(p, y, given))

    def _monitor(self, p, batch, stream):
        c = batch.context
        return pairs.energy(beside(batch.x, c), beside(self._made(p, len(batch), stream, c, batch.x), c))

    def _draw(self, p, n, stream, c=None):
        return self._made(p, n, stream, c, p.flat)

    def critic(self, X, *, context=None):
        """What the critic gives for every row of X, (n,): more for rows that are more like the data than what is made.

        Of a critic that sees m rows beside each other, for rows 0 to m - 1, m to 2m - 1, ...: (n / m,). A constant in it has no
        meaning where the loss is "relativistic" or "wasserstein-gp". Raises NotFittedError, and ValueError as log_prob does of
        other models, or where m does not divide n.
        """
        x, c = self._check_both("critic", X, context)
        m = self.packing_
        if len(x) % m:
            raise ValueError(f"critic: X has {len(x)} rows, but the critic sees {m} beside each other; pass a multiple of {m}")

        def judged(x, c=None):
            z = self.preprocess_.to_noise(None, x.reshape(-1, self.n_features_in_))[0]
            return self._judged(self._at(z.dtype), z.reshape(len(x), -1), c)
        return self._rowwise(judged, *(a if a is None else a.reshape(len(x) // m, -1) for a in (x, c)))
