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
from ..checks import check_size, check_widths
from ..fused import standard_normal_log_prob
from ..heads import from_config, head_for
from ..heads.normal import normal_log_prob, std
from ..nn import MLP
from ..random import row_normals
from .base import Capabilities
from .overflow import beyond_numbers
from .parametric import GradientModel

LOG_VAR_LIMIT = 10.0


def _kl(mean, log_var):
    """sum_l KL(N(mean_l, exp(log_var_l)) || N(0, 1)), (n,) nats."""
    return np.sum(np.square(mean) + np.exp(log_var) - 1 - log_var, axis=1) / 2


_kl_op = ops.op(lambda mean, log_var: _kl(mean, log_var),  # by one rule each: a step has no time for eight small ops
                lambda ans, mean, log_var: lambda g: g[:, None] * mean,
                lambda ans, mean, log_var: lambda g: g[:, None] * (ops.expm1(log_var) / 2), name="kl")


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

    _capabilities = Capabilities("estimate", "posterior mean", invertible=False)
    n_latent_ = None  # fit sets it

    def __init__(self, *, n_latent=16, hidden=(256,), head="auto", beta=1.0, n_importance=100, preprocess="auto",
                 max_epochs=500, batch_size=100, learning_rate=1e-3, validation_fraction=0.1, patience=30,
                 restore_best=True, weight_decay=0.0, callbacks=(), verbose=False, random_state=None):
        self.n_latent, self.hidden, self.head, self.beta = n_latent, hidden, head, beta
        self.n_importance, self.preprocess = n_importance, preprocess
        self.max_epochs, self.batch_size, self.learning_rate = max_epochs, batch_size, learning_rate
        self.validation_fraction, self.patience, self.restore_best = validation_fraction, patience, restore_best
        self.weight_decay, self.callbacks, self.verbose = weight_decay, callbacks, verbose
        self.random_state = random_state

    @property
    def _takes_bits(self):
        return self.head in ("auto", "bernoulli")

    def _build(self, z):
        if not isinstance(self.beta, (int, float, np.number)) or not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be a non-negative number, got {self.beta!r}")
        self.hidden_ = check_widths("hidden", self.hidden)
        (self.n_latent_,) = check_widths("n_latent", (self.n_latent,))
        check_widths("n_importance", (self.n_importance,))
        self.head_ = head_for(self.head, z)
        self._assemble(z.shape[1])

    def _assemble(self, d):
        self._encoder = MLP("encoder", (d, *self.hidden_, 2 * self.n_latent_))
        self._decoder = MLP("decoder", (self.n_latent_, *self.hidden_[::-1], self.head_.n_outputs(d)), head=self.head_)

    def _init(self, z, stream):
        return self._encoder.init(stream, z.dtype) | self._decoder.init(stream, z.dtype)

    def _posterior(self, params, x):
        mean, raw = ops.split(self._encoder(params, x), 2, axis=1)
        return mean, ops.bounded(raw, LOG_VAR_LIMIT)

    def _terms(self, params, x, draw):
        """The ELBO's two terms, (n,) each: log p(x | z) at one z = draw(mean, log_var), and the KL divergence, exact."""
        mean, log_var = self._posterior(params, x)
        kl = _kl_op(mean, log_var)  # here, while the kernels' threads are awake anyway
        return self.head_.log_prob(x, self._decoder(params, draw(mean, log_var))), kl

    def _loss(self, params, z, stream):
        at = stream.reserve(len(z) * self.n_latent_, z.dtype)
        log_prob, kl = self._terms(params, z, lambda mean, log_var: ops.reparameterize(mean, log_var, *at))
        return self.beta * kl - log_prob

    def _log_density(self, params, z):
        return self._importance(params, z, self.n_importance)[0]

    def _importance(self, params, x, n_importance):
        """log 1/S sum_s w_s, w_s = p(x, z_s) / q(z_s | x), and its standard error, for every row: (2, n)."""
        check_widths("n_importance", (n_importance,))
        answers, posterior = [np.empty_like(x, shape=(2, 0))], self._posterior(params, x)
        least = self._multiple // math.gcd(self._multiple, n_importance)
        rows = max(1, 8192 // (n_importance * least)) * least
        for i in range(0, len(x), rows):
            chunk, mean, log_var = (a[i:i + rows, None] for a in (x, *posterior))
            eps = row_normals(ops.stop_gradient(x[i:i + rows]), (n_importance, self.n_latent_))  # (n, s, l)
            z = mean + std(log_var) * eps
            log_q = ops.sum(normal_log_prob(z, mean, log_var), axis=2)
            outputs = self._decoder(params, z.reshape(-1, self.n_latent_)).reshape(len(chunk), n_importance, -1)
            log_w = self.head_.log_prob(chunk, outputs) + standard_normal_log_prob(z) - log_q
            log_mean = ops.logsumexp(log_w, axis=1) - math.log(n_importance)
            with np.errstate(invalid="ignore"):  # NaN where the estimate is -inf, or of one sample
                error = np.std(np.exp(log_w - log_mean[:, None]), axis=1) / np.sqrt(x.dtype.type(n_importance - 1))
            answers.append(np.stack([log_mean, error]))
        return np.concatenate(answers, axis=1)

    def elbo(self, X):
        """A one-sample, unbiased estimate of the lower bound E_q[log p(x | z)] - KL(q || N(0, I)) on log p(x), (n,) nats.

        Its noise is a function of the row. Raises as log_prob does.
        """
        def bound(params, z, log_det):
            eps = row_normals(z, (self.n_latent_,))
            log_prob, kl = self._terms(params, z, lambda mean, log_var: mean + std(log_var) * eps)
            return log_prob - kl + log_det

        return beyond_numbers(self._rowwise(lambda x: self._in_space(bound, x), self._check("elbo", X)))

    def importance_log_prob(self, X, *, n_importance=None):
        """The importance-weighted estimate of log p(x), and its standard error: two arrays (n,), in nats.

        The error is NaN for one sample, and where the estimate is -inf: at a row so far out that every weight underflows.
        n_importance: samples per row, by default the constructor's. In expectation the estimate is at most log p(x) and
        at least the ELBO, and rises with n_importance (Burda et al., 2016). Raises as log_prob does, and ValueError for
        an n_importance below 1.
        """
        n = self.n_importance if n_importance is None else n_importance

        def estimate(params, z, log_det):
            log_prob, error = self._importance(params, z, n)
            return np.stack([log_prob + log_det, error], axis=1)

        both = self._rowwise(lambda x: self._in_space(estimate, x, of=slice(1)), self._check("importance_log_prob", X))
        return beyond_numbers(both[:, 0]), both[:, 1]

    def _draw_rows(self, params, n, stream):
        flat, latent, observed = params.flat, stream.spawn(), stream.spawn()  # row i is the same whatever n is
        outputs = self._decoder(params, latent.normal((n, self.n_latent_), flat.dtype, like=flat))
        noise = getattr(observed, self.head_.noise)((n, self.n_features_in_), flat.dtype, like=flat)
        return self.head_.sample(noise, outputs)

    def _represent(self, params, z):
        return self._posterior(params, z)[0]

    def _reconstruct(self, params, h):
        return self.head_.mean(self._decoder(params, h))

    def _state(self):
        arrays, fitted = super()._state()
        return arrays, fitted | {"head_": self.head_.config(), "hidden_": self.hidden_, "n_latent_": self.n_latent_}

    def _restore(self, arrays, fitted):
        super()._restore(arrays, fitted)
        self.head_ = from_config(fitted["head_"])
        self.hidden_, self.n_latent_ = tuple(fitted["hidden_"]), fitted["n_latent_"]
        d, width = self.n_features_in_, self.n_latent_
        check_size(self.params_["encoder"], (d, *self.hidden_, 2 * width))
        check_size(self.params_["decoder"], (width, *self.hidden_[::-1], self.head_.n_outputs(d)))
        self._assemble(self.n_features_in_)
