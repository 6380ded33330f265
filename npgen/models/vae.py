"""VAE: a latent-variable model fitted by a lower bound on its likelihood.

    z ~ N(0, I), x | z ~ head(decoder(z)), q(z | x) = N(mean(x), exp(log_var(x))), (mean, log_var) = encoder(x)

    ELBO(x) = E_q[log p(x | z)] - beta KL(q(z | x) || N(0, I)) <= log p(x) for beta = 1
    log p(x) ~ log 1/S sum_s p(x, z_s) / q(z_s | x), z_s ~ q(z | x): an estimate, low by a bias that falls with S

Legend: n rows, d features, l latent dimensions, s importance samples.
References: Kingma & Welling, Auto-encoding variational Bayes (2014); Burda, Grosse & Salakhutdinov, Importance weighted
autoencoders (2016); Higgins et al., beta-VAE (2017).
"""
import math

import numpy as np

from .. import ops
from ..checks import check_widths
from ..heads import from_config, head_for
from ..heads.normal import normal_log_prob, std
from ..nn import MLP, beside
from ..priors import StandardNormal
from ..random import row_normals
from .base import Capabilities, Follows
from .gradient import GradientModel
from .overflow import beyond_numbers

LOG_VAR_LIMIT = 10.0


class VAE(GradientModel):
    """Variational autoencoder; log_prob is an importance-weighted estimate, elbo a lower bound.

    n_latent       latent dimensions
    hidden         widths of the encoder's ReLU layers; the decoder has them in reverse
    head           "bernoulli" for data of 0 and 1, "normal" for real data, "auto" decides by looking at the data
    beta           weight of the KL divergence while fitting (Higgins et al., 2017)
    n_importance   samples per row behind log_prob
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives the posterior mean (n, l); decode the mean of x given z.
    Reference: Kingma & Welling (2014).
    """

    n_latent: int = 16
    hidden: tuple = (256,)
    head: str = "auto"
    beta: float = 1.0
    n_importance: int = 100
    max_epochs: int = 500
    patience: int = 30
    _capabilities = Capabilities("estimate", "posterior mean", invertible=False)
    _takes_context = True
    hidden_, n_latent_ = Follows(), Follows()

    @property
    def _takes_bits(self):
        return self.head in ("auto", "bernoulli")

    def _choose(self, z, c, stream):
        if not isinstance(self.beta, (int, float, np.number)) or not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be a non-negative number, got {self.beta!r}")
        hidden, (n_latent,) = check_widths("hidden", self.hidden), check_widths("n_latent", (self.n_latent,))
        check_widths("n_importance", (self.n_importance,))
        return {"head": head_for(self.head, z).config(), "hidden": hidden, "n_latent": n_latent}

    def _assemble(self, d, w, chosen):
        head, hidden, n_latent = from_config(chosen["head"]), tuple(chosen["hidden"]), chosen["n_latent"]
        return {"head": head, "prior": StandardNormal(n_latent), "encoder": MLP("encoder", (d + w, *hidden, 2 * n_latent)),
                "decoder": MLP("decoder", (n_latent + w, *hidden[::-1], head.n_outputs(d)), head=head)}

    def _posterior(self, p, x, c=None):
        mean, raw = ops.split(self._encoder(p, beside(x, c)), 2, axis=1)
        return mean, ops.bounded(raw, LOG_VAR_LIMIT)

    def _terms(self, p, x, draw, c=None):
        """The ELBO's two terms, (n,) each: log p(x | z) at one z = draw(mean, log_var), and the KL divergence, exact."""
        mean, log_var = self._posterior(p, x, c)
        kl = self._prior.kl(mean, log_var)  # here, while the kernels' threads are awake anyway
        return self._head.log_prob(x, self._decoder(p, beside(draw(mean, log_var), c))), kl

    def _loss(self, p, z, stream, c=None):
        at = stream.reserve(len(z) * self.n_latent_, z.dtype)
        log_prob, kl = self._terms(p, z, lambda mean, log_var: ops.reparameterize(mean, log_var, *at), c)
        return self.beta * kl - log_prob

    def _log_density(self, p, z, c=None):
        return self._importance(p, z, self.n_importance, c)[0]

    def _importance(self, p, x, n_importance, c=None):
        """log 1/S sum_s w_s, w_s = p(x, z_s) / q(z_s | x), and its standard error, for every row: (2, n)."""
        check_widths("n_importance", (n_importance,))
        answers, posterior = [np.empty_like(x, shape=(2, 0))], self._posterior(p, x, c)
        least = self._multiple // math.gcd(self._multiple, n_importance)
        rows = max(1, 8192 // (n_importance * least)) * least
        for i in range(0, len(x), rows):
            chunk, mean, log_var = (a[i:i + rows, None] for a in (x, *posterior))
            eps = row_normals(ops.stop_gradient(x[i:i + rows]), (n_importance, self.n_latent_))  # (n, s, l)
            z = mean + std(log_var) * eps
            log_q = ops.sum(normal_log_prob(z, mean, log_var), axis=2)
            context = None if c is None else np.repeat(c[i:i + rows], n_importance, axis=0)
            outputs = self._decoder(p, beside(z.reshape(-1, self.n_latent_), context)).reshape(len(chunk), n_importance, -1)
            log_w = self._head.log_prob(chunk, outputs) + self._prior.log_prob(p, z) - log_q
            log_mean = ops.logsumexp(log_w, axis=1) - math.log(n_importance)
            with np.errstate(invalid="ignore"):  # NaN where the estimate is -inf, or of one sample
                error = np.std(np.exp(log_w - log_mean[:, None]), axis=1) / np.sqrt(x.dtype.type(n_importance - 1))
            answers.append(np.stack([log_mean, error]))
        return np.concatenate(answers, axis=1)

    def elbo(self, X, *, context=None):
        """A one-sample, unbiased estimate of the lower bound E_q[log p(x | z)] - KL(q || N(0, I)) on log p(x), (n,) nats.

        Its noise is a function of the row. Raises as log_prob does.
        """
        def bound(p, z, c, log_det):
            eps = row_normals(z, (self.n_latent_,))
            log_prob, kl = self._terms(p, z, lambda mean, log_var: mean + std(log_var) * eps, c)
            return log_prob - kl + log_det

        return beyond_numbers(self._rowwise(lambda x, c: self._in_space(bound, x, c), *self._check_both("elbo", X, context)))

    def importance_log_prob(self, X, *, context=None, n_importance=None):
        """The importance-weighted estimate of log p(x), and its standard error: two arrays (n,), in nats.

        The error is NaN for one sample, and where the estimate is -inf: at a row so far out that every weight underflows.
        n_importance: samples per row, by default the constructor's. In expectation the estimate is at most log p(x) and
        at least the ELBO, and rises with n_importance (Burda et al., 2016). Raises as log_prob does, and ValueError for
        an n_importance below 1.
        """
        n = self.n_importance if n_importance is None else n_importance

        def estimate(p, z, c, log_det):
            log_prob, error = self._importance(p, z, n, c)
            return np.stack([log_prob + log_det, error], axis=1)

        both = self._rowwise(lambda x, c: self._in_space(estimate, x, c, of=slice(1)),
                             *self._check_both("importance_log_prob", X, context))
        return beyond_numbers(both[:, 0]), both[:, 1]

    def _draw(self, p, n, stream, c=None):
        flat, latent, observed = p.flat, stream.spawn(), stream.spawn()  # row i is the same whatever n is
        outputs = self._decoder(p, beside(self._prior.sample(p, n, c, latent, flat.dtype, like=flat), c))
        noise = getattr(observed, self._head.noise)((n, self.n_features_in_), flat.dtype, like=flat)
        return self._head.sample(noise, outputs)

    def _represent(self, p, z, c=None):
        return self._posterior(p, z, c)[0]

    def _reconstruct(self, p, h, c=None):
        return self._head.mean(self._decoder(p, beside(h, c)))
