"""VAE: a latent-variable model fitted by a lower bound on its likelihood.

    z ~ prior, x | z ~ head(decoder(z)), q(z | x) = N(mean(x), exp(log_var(x))), (mean, log_var) = encoder(x)

    ELBO(x) = E_q[log p(x | z)] - beta KL(q(z | x) || prior) <= log p(x) for beta = 1
    IWAE_k(x) = E[log 1/k sum_s w_s], w_s = p(x | z_s) (p(z_s) / q(z_s | x))^beta, z_s ~ q(z | x): ELBO <= IWAE_k <= log p(x),
    for beta = 1, and rises with k; what log_prob estimates is one such sample of n_importance

Legend: n rows, d features, l latent dimensions, s importance samples, w columns of context.
References: Kingma & Welling, Auto-encoding variational Bayes (2014); Rezende, Mohamed & Wierstra, Stochastic backpropagation
and approximate inference in deep generative models (2014); Burda, Grosse & Salakhutdinov, Importance weighted autoencoders
(2016); Kingma et al., Improved variational inference with inverse autoregressive flow (2016); Higgins et al., beta-VAE (2017);
Mattei & Frellsen, Leveraging the exact likelihood of deep latent variable models (2018).
"""
import math

import numpy as np

from .. import ops, posteriors, priors
from ..checks import check_widths
from ..heads import from_config, head_for
from ..heads.normal import interleaved, mean_and_variance, normal_log_prob, raw_log_var, std
from ..kernels._cuda import asnumpy, is_device_array
from ..nn import MLP, Part, beside
from ..random import as_stream, row_normals, row_streams
from .base import Capabilities, Follows
from .gradient import GradientModel
from .overflow import FAR, beyond_numbers

LOG_VAR_LIMIT = 10.0
VARIANCES = "network", "feature", "shared"
IMPUTED = 2**22  # random numbers of impute at once


class Homoscedastic(Part):
    """A decoder whose network gives the means of a normal head; their log-variances are parameters, the same for every z.

    n_variances: d, one for each feature, or 1 for all. Means and log-variances begin at those of the rows.
    """

    def __init__(self, name, widths, n_variances, head):
        self.net, self.log_var = MLP(name, widths, last_gain=0.0), f"{name}_log_var"
        self.n_variances, self.head = n_variances, head

    def shapes(self):
        return self.net.shapes() | {self.log_var: (self.n_variances,)}

    def init(self, z, c, stream, weights=None):
        mean, variance = mean_and_variance(z, weights)
        variance = variance if self.n_variances > 1 else variance.mean(keepdims=True)
        params = self.net.init(z, c, stream, weights)
        self.net.last_layer(params)[1][...] = mean
        return params | {self.log_var: raw_log_var(variance, self.head.limit).astype(z.dtype)}

    def __call__(self, p, x):
        mean = self.net(p, x)
        return interleaved(mean, np.broadcast_to(p[self.log_var], mean.shape))


class VAE(GradientModel):
    """Variational autoencoder; log_prob is an importance-weighted estimate, elbo a lower bound.

    n_latent       latent dimensions
    hidden         widths of the encoder's ReLU layers; the decoder has them in reverse
    head           what the columns are: "normal", "mixture" (of ten normals), "bernoulli" (0 or 1), "poisson" (counts),
                   "categorical" (whole numbers, of which those that are there are its levels), a head of npgen.heads, such as
                   MixtureOfNormals(3) or Categorical(levels), or a list of one for each column; "auto": Bernoulli for data of
                   0 and 1, normal for others
    variance       of a normal head: "network", a function of z; "feature", one parameter for each column; "shared", one for all
    prior          of z: "normal", N(0, I); learned are "mixture", of diagonal normals, "made", a MADE of mixtures of normals,
                   and "flow", of affine couplings, whose networks have `hidden`'s layers and see the context; or a prior of
                   npgen.priors, such as Mixture(20), Flow(5, hidden=(64,), coupling=False) or one of your own
    prior_size     normals of "mixture", or of each dimension of "made", or couplings of "flow"
    objective      what is maximised: "elbo", or "iwae", whose gradient is the plain one, of all that depends on parameters
    k              samples per row of "iwae"
    beta           weight of the KL divergence while fitting (Higgins et al., 2017); of "iwae", the power of p(z) / q(z | x)
    free_bits      nats of the KL divergence that every latent dimension of every row may have for nothing while fitting by
                   "elbo": max(free_bits, KL_l(x)) for KL_l(x). Kingma et al. (2016) take the mean over a batch first; by rows,
                   no row's loss depends on others. Of a learned prior, KL is known as a whole, by one sample: one group
    n_importance   samples per row behind log_prob
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives the posterior mean (n, l); decode the mean of x given z.
    Reference: Kingma & Welling (2014).
    """

    n_latent: int = 16
    hidden: tuple = (256,)
    head: object = "auto"
    variance: str = "network"
    prior: object = "normal"
    prior_size: int = 10
    objective: str = "elbo"
    k: int = 5
    beta: float = 1.0
    free_bits: float = 0.0
    n_importance: int = 100
    max_epochs: int = 500
    patience: int = 30
    _capabilities = Capabilities("estimate", "posterior mean", invertible=False)
    _objectives = ("elbo", "iwae")
    _takes_context = True
    hidden_, n_latent_, prior_, variance_ = Follows(), Follows(), Follows(), Follows()

    def _choose(self, z, c, stream):
        for name in ("beta", "free_bits"):
            value = getattr(self, name)
            if not isinstance(value, (int, float, np.number)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a non-negative number, got {value!r}")
        hidden, (n_latent,) = check_widths("hidden", self.hidden), check_widths("n_latent", (self.n_latent,))
        check_widths("n_importance", (self.n_importance,))
        (size,) = check_widths("prior_size", (self.prior_size,))
        check_widths("k", (self.k,))
        if self.free_bits and self.objective != "elbo":
            raise ValueError(f"free_bits={self.free_bits!r} is a floor of the ELBO's KL divergence; leave it out, or take "
                             "objective='elbo'")
        prior = priors.prior_for(self.prior, size, hidden).config()
        return {"head": head_for(self.head, z).config(), "hidden": hidden, "n_latent": n_latent, "variance": self.variance,
                "prior": prior}

    def _assemble(self, d, w, chosen):
        head, hidden, n_latent = from_config(chosen["head"]), tuple(chosen["hidden"]), chosen["n_latent"]
        widths, variance = (n_latent + w, *hidden[::-1]), chosen["variance"]
        if variance not in VARIANCES:
            raise ValueError(f"variance: expected one of {', '.join(VARIANCES)}, got {variance!r}")
        if variance == "network":
            decoder = MLP("decoder", (*widths, head.n_outputs(d)), head=head)
        elif head.name == "normal":
            decoder = Homoscedastic("decoder", (*widths, d), d if variance == "feature" else 1, head)
        else:
            raise ValueError(f"variance={variance!r} is of a normal head, but the head is {head.name}; leave it at 'network'")
        return {"head": head, "prior": priors.from_config(chosen["prior"]).of(n_latent, w),
                "encoder": MLP("encoder", (d + w, *hidden, 2 * n_latent)), "decoder": decoder}

    def _posterior(self, p, x, c=None):
        mean, raw = ops.split(self._encoder(p, beside(x, c)), 2, axis=1)
        return mean, ops.bounded(raw, LOG_VAR_LIMIT)

    def _drawn_posterior(self, p, x, at, c=None, k=1):
        """z ~ q(z | x), mean and log_var, (n k, l) each: k draws for every row, by the values of the stream from `at` on."""
        outputs = self._encoder(p, beside(x, c))
        if k > 1:
            outputs = np.broadcast_to(outputs[:, None], (len(x), k, outputs.shape[1])).reshape(len(x) * k, -1)
        return posteriors.posterior(outputs, LOG_VAR_LIMIT, *at)

    def _terms(self, p, x, z, mean, log_var, c=None, free_bits=0.0):
        """The ELBO's two terms, (n,) each: log p(x | z) at one z ~ q(z | x), and the KL divergence.

        That is exact, or of a learned prior log q(z | x) - log p(z) at the same z.
        """
        kl = self._prior.kl(mean, log_var)
        if kl is not None and free_bits:
            kl = ops.sum(ops.maximum(self._prior.kl_each(mean, log_var), free_bits), axis=1)
        if kl is None:
            kl = ops.sum(normal_log_prob(z, mean, log_var), axis=1) - self._prior.log_prob(p, z, c)
            kl = ops.maximum(kl, free_bits * self.n_latent_) if free_bits else kl
        return self._head.log_prob(x, self._decoder(p, beside(z, c))), kl

    def _loss(self, p, z, stream, c=None):
        if self.objective == "iwae":
            return -self._iwae(p, z, stream, c)
        at = stream.reserve(len(z) * self.n_latent_, z.dtype)
        log_prob, kl = self._terms(p, z, *self._drawn_posterior(p, z, at, c), c, self.free_bits)
        return self.beta * kl - log_prob

    def _iwae(self, p, x, stream, c=None):
        """log 1/k sum_s w_s, (n,): a sample of IWAE_k. Row i has the stream's next values from the (i k l)th on."""
        n, k = len(x), self.k
        z, mean, log_var = self._drawn_posterior(p, x, stream.reserve(n * k * self.n_latent_, x.dtype), c, k)
        x, c = (a if a is None else np.repeat(a, k, axis=0) for a in (x, c))
        log_ratio = self._prior.log_prob(p, z, c) - ops.sum(normal_log_prob(z, mean, log_var), axis=1)
        log_w = self._head.log_prob(x, self._decoder(p, beside(z, c))) + self.beta * log_ratio
        return ops.logsumexp(log_w.reshape(n, k), axis=1) - math.log(k)

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
            context = None if c is None else np.repeat(c[i:i + rows], n_importance, axis=0)
            outputs = self._decoder(p, beside(z.reshape(-1, self.n_latent_), context)).reshape(len(chunk), n_importance, -1)
            log_w = self._log_weight(p, chunk, z, outputs, mean, log_var, context)
            log_mean = ops.logsumexp(log_w, axis=1) - math.log(n_importance)
            with np.errstate(invalid="ignore"):  # NaN where the estimate is -inf, or of one sample
                error = np.std(np.exp(log_w - log_mean[:, None]), axis=1) / np.sqrt(x.dtype.type(n_importance - 1))
            answers.append(np.stack([log_mean, error]))
        return np.concatenate(answers, axis=1)

    def _log_weight(self, p, x, z, outputs, mean, log_var, c):
        """log p(x | z) p(z) / q(z | x), (n,) or (n, s); outputs: the decoder's for z, mean and log_var: the encoder's for x."""
        log_q = ops.sum(normal_log_prob(z, mean, log_var), axis=-1)
        return self._head.log_prob(x, outputs) + self._prior.log_prob(p, z, c) - log_q

    def elbo(self, X, *, context=None):
        """A one-sample, unbiased estimate of the lower bound E_q[log p(x | z)] - KL(q || prior) on log p(x), (n,) nats.

        Its noise is a function of the row. Raises as log_prob does.
        """
        def bound(p, z, c, log_det):
            eps = row_normals(z, (self.n_latent_,))
            mean, log_var = self._posterior(p, z, c)
            log_prob, kl = self._terms(p, z, mean + std(log_var) * eps, mean, log_var, c)
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

    def encode(self, X, *, context=None, return_std=False):
        """The posterior mean of every row, (n, l); with return_std also the posterior's standard deviations, (n, l).

        It is never NaN, of rows as far out as Model.encode says. Raises as log_prob does.
        """
        if not return_std:
            return super().encode(X, context=context)
        both = self._posteriors(*self._check_both("encode", X, context))
        return both[:, 0], both[:, 1]

    def _posteriors(self, x, c):
        """Mean and standard deviation of q(z | x), (n, 2, l)."""
        def both(p, z, c, log_det):
            mean, log_var = self._posterior(p, z, c)
            return np.concatenate([mean, std(log_var)], axis=1)

        return self._rowwise(lambda x, c: self._in_space(both, x, c, far=FAR), x, c).reshape(len(x), 2, self.n_latent_)

    def reconstruct(self, X, *, context=None, rng=None):
        """What the model makes of the rows, (n, d): decode(encode(X)), or a draw of x ~ p(x | z), z ~ q(z | X).

        rng: None for the former; an int, SeedSequence, Generator or npgen.random.Stream for draws. Raises as encode does.
        """
        x, c = self._check_both("reconstruct", X, context)
        both = self._posteriors(x, c)
        if rng is None:
            return self._rowwise(self._decode, both[:, 0], c)
        both, c = self._place(both), c if c is None else self._place(c)
        drawn = self._drawn(lambda n, stream: self._redrawn(both, c, stream), len(x), rng)
        return drawn if is_device_array(x) else asnumpy(drawn)

    def _redrawn(self, both, c, stream):
        """Rows x ~ p(x | z) in the data's own space, for z drawn from N(mean, std^2), of which `both` (n, 2, l) are."""
        latent, observed = stream.spawn(), stream.spawn()
        z = both[:, 0] + both[:, 1] * latent.normal(both[:, 0].shape, both.dtype, like=both)
        return self.preprocess_.data(None, self._observed(self._at(z.dtype), z, observed, c))

    def interpolate(self, a, b, n=10, *, context=None, spherical=False):
        """Rows between a and b (d,): decode at n equal steps between their codes, ends included, (n, d); of (m, d), (m, n, d).

            (1 - t) h_a + t h_b, t = 0, 1 / (n - 1), ..., 1;    spherical: (sin((1 - t) w) h_a + sin(t w) h_b) / sin w, w the
        angle between the codes, which keeps the length that codes of many dimensions have (White, 2016); as without where they
        have one direction or opposite ones. context: of each pair, or one for all. Raises ValueError for n below 2.
        """
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 2:
            raise ValueError(f"interpolate: n must be an integer of at least 2, got {n!r}")
        alone = np.ndim(a) == np.ndim(b) == 1
        a, b = (self._check("interpolate", [x] if alone else x, name) for x, name in ((a, "a"), (b, "b")))
        if a.shape != b.shape:
            raise ValueError(f"interpolate: a has {len(a)} rows, b {len(b)}; pass as many of the one as of the other")
        c = self._check_context("interpolate", context, a)
        begin, end = (self._rowwise(self._encode, x, c)[:, None] for x in (a, b))
        t = np.linspace(0, 1, n, dtype=begin.dtype)[:, None]
        shares = great_circle(begin, end, t) if spherical else (1 - t, t)
        h = (shares[0] * begin + shares[1] * end).reshape(-1, self.n_latent_)
        rows = self._rowwise(self._decode, h, None if c is None else np.repeat(c, n, axis=0))
        return rows if alone else rows.reshape(len(a), n, -1)

    def impute(self, X, *, context=None, n=None, rng=None, n_sweeps=200):
        """X (n, d) with every missing value (NaN) replaced by its mean given the row's other values, or by a draw.

        Both come from a Markov chain for each row: z' ~ q(z | x) is taken in place of z with probability
        min(1, w(z') / w(z)), w(z) = p(x | z) p(z) / q(z | x), then x_m ~ p(x_m | z) (Mattei & Frellsen, 2018: Metropolis within
        Gibbs; without the test it is the pseudo-Gibbs chain of Rezende et al., 2014). Its law tends to p(z, x_m | x_o) of the
        fitted model, whatever q is; how near n_sweeps bring it depends on how well q fits, and no one number tells. The mean is
        that of E[x_m | z] over the later half of the sweeps, where the model computes; a draw is the last x_m.

        rng: None for the mean, whose noise is a function of the row; an int, SeedSequence, Generator or npgen.random.Stream for
        draws. n: so many tables of draws, a list; rng is 0 then unless it is given. Raises NotFittedError, and ValueError for
        rows of another width, infinities, or n_sweeps below 1.
        """
        if n is not None:
            return self._imputations(X, n, rng, context=context, n_sweeps=n_sweeps)
        (n_sweeps,), stream = check_widths("n_sweeps", (n_sweeps,)), None if rng is None else as_stream(rng)
        x = self._check("impute", X, missing=True)
        c = self._check_context("impute", context, x)
        x = np.where(np.isnan(x), np.nan, x)  # NaNs of one kind, as the rows' noise is a hash of their bytes
        some = np.isnan(x).any(axis=1)
        if some.any():
            at_once = max(self._multiple, IMPUTED // (n_sweeps * (self.n_features_in_ + self.n_latent_)))
            x[some] = self._rowwise(lambda rows, c: self._imputed(rows, c, stream, n_sweeps), x[some],
                                    None if c is None else c[some], rows=at_once)
        return self._filled_in(X, x)

    def _imputed(self, x, c, stream, n_sweeps):
        p, missing = self._at(x.dtype), np.isnan(x)
        streams = list(row_streams(x)) if stream is None else [stream.spawn() for _ in range(len(x))]
        first, eps, uniform, noise = self._chain_noise(p, c, streams, n_sweeps, x)
        z, outputs = first, self._decoder(p, beside(first, c))
        x = np.where(missing, self.preprocess_.data(None, self._head.sample(noise[0], outputs)), x)
        h, total = self.preprocess_.to_noise(None, x)[0], np.zeros_like(x)
        for sweep in range(n_sweeps):
            mean, log_var = self._posterior(p, h, c)
            proposed = mean + std(log_var) * eps[sweep]
            new = self._decoder(p, beside(proposed, c))
            gain = (self._log_weight(p, h, proposed, new, mean, log_var, c)
                    - self._log_weight(p, h, z, outputs, mean, log_var, c))
            taken = (np.log(uniform[sweep]) < gain)[:, None]
            z, outputs = np.where(taken, proposed, z), np.where(taken, new, outputs)
            h = np.where(missing, self._head.sample(noise[sweep + 1], outputs), h)
            if 2 * sweep >= n_sweeps - 1:
                total += self._head.mean(outputs)
        answer = h if stream is not None else np.where(missing, total / (n_sweeps // 2 + n_sweeps % 2), h)
        return np.where(missing, self.preprocess_.data(None, answer), x)

    def _chain_noise(self, p, c, streams, n_sweeps, like):
        """What n chains draw: z (n, l) of the prior, where they begin, and by sweep normals, uniforms, the head's noise."""
        draws = []
        for i, stream in enumerate(streams):
            context = None if c is None else c[i:i + 1]
            draws.append((self._prior.sample(p, 1, context, stream.spawn(), like.dtype, like=like)[0],
                          stream.normal((n_sweeps, self.n_latent_), like.dtype, like=like),
                          stream.uniform(n_sweeps, like.dtype, like=like),
                          self._head.noise(stream, (n_sweeps + 1, self.n_features_in_), like.dtype, like)))
        first, *others = (np.stack(part, axis=0 if i == 0 else 1) for i, part in enumerate(zip(*draws, strict=True)))
        return first, *others

    def _draw(self, p, n, stream, c=None):
        latent, observed = stream.spawn(), stream.spawn()  # row i is the same whatever n is
        return self._observed(p, self._prior.sample(p, n, c, latent, p.flat.dtype, like=p.flat), observed, c)

    def _observed(self, p, z, stream, c=None):
        """x ~ p(x | z)."""
        noise = self._head.noise(stream, (len(z), self.n_features_in_), z.dtype, z)
        return self._head.sample(noise, self._decoder(p, beside(z, c)))

    def _represent(self, p, z, c=None):
        return self._posterior(p, z, c)[0]

    def _reconstruct(self, p, h, c=None):
        return self._head.mean(self._decoder(p, beside(h, c)))


def great_circle(a, b, t):
    """The shares of a and b (m, 1, l) at the shares t (n, 1) of the angle between them, (m, n, 1) each."""
    lengths = np.linalg.norm(a, axis=-1, keepdims=True) * np.linalg.norm(b, axis=-1, keepdims=True)
    cosine = np.where(lengths > 0, np.sum(a * b, axis=-1, keepdims=True) / np.where(lengths > 0, lengths, 1), 1)
    angle = np.arccos(np.clip(cosine, -1, 1))
    curved = np.sin(angle) > 1e-3
    sine = np.where(curved, np.sin(angle), 1)
    return tuple(np.where(curved, np.sin(share * angle) / sine, share) for share in (1 - t, t))
