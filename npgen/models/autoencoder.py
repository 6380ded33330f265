"""Autoencoder: codes of rows that give the rows back, and rows by a density that is fitted to the codes afterwards.

    h = encoder(z + noise e), e ~ N(0, I);    loss = |z - output(decoder(h))|^2;    sample = output(decoder(h)), h ~ prior

Linear and without noise it spans the first principal components, and its loss is the sum of the other variances; with noise s
and as many codes as features, of covariance S, decoder(encoder(z)) is S (S + s^2 I)^-1 z. Codes at random would decode to
nothing that the data are like, so that the prior is fitted to those that there are.

Given a context c, encoder and decoder have it beside what they see, so that codes hold what c does not say: linear ones, the
first principal components of what is left of the rows after regression on c. The prior is given c, too.

Legend: n rows, d features, w columns of context, l latent dimensions.
References: Baldi & Hornik, Neural networks and principal component analysis (1989); Vincent et al., Extracting and composing
robust features with denoising autoencoders (2008); Hinton & Salakhutdinov, Reducing the dimensionality of data with neural
networks (2006), pixels from a sigmoid; Ghosh et al., From variational to deterministic autoencoders (2020).
"""
import math

import numpy as np

from .. import ops
from ..checks import check_widths, one_line, with_article
from ..kernels._cuda import asnumpy
from ..nn import MLP, beside
from ..random import Stream
from .base import Capabilities, Follows, Model, clone
from .gradient import GradientModel
from .made import MADE
from .mixture import GaussianMixture

OUTPUTS = {"linear": lambda y: y, "sigmoid": ops.sigmoid}


class Autoencoder(GradientModel):
    """Autoencoder: codes that give the rows back by squared error; samples through a density of the codes; no log_prob.

    n_latent       latent dimensions
    hidden         widths of the encoder's ReLU layers; the decoder has them in reverse
    noise          standard deviation of what is added to the rows that the encoder sees in training, in the space that
                   preprocessing leads to: a denoising autoencoder
    output         what follows the decoder's last layer: "linear", nothing; or "sigmoid", for rows from 0 to 1, such as pixels,
                   most of which are near one of the two
    prior          an unfitted model of npgen, which is fitted to the codes: GaussianMixture(n_components=20), a flow; None for
                   a GaussianMixture of up to ten components. Given a context, one that takes it; None for a MADE of mixtures
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives the codes (n, l); decode the rows that codes stand for. score is minus the energy distance between rows and
    draws. Attribute: prior_, the density of the codes.
    Reference: Vincent et al. (2008).
    """

    n_latent: int = 16
    hidden: tuple = (256,)
    noise: float = 0.0
    output: str = "linear"
    prior: object = None
    _capabilities = Capabilities("none", "code", invertible=False)
    _objectives = ("squared_error",)
    submodels = ("prior_",)
    _takes_context = True
    hidden_, n_latent_, output_ = Follows(), Follows(), Follows()

    def _choose(self, z, c, stream):
        (n_latent,) = check_widths("n_latent", (self.n_latent,))
        if not isinstance(self.noise, (int, float, np.number)) or not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be a non-negative number, got {one_line(self.noise)}")
        if self.prior is not None and not isinstance(self.prior, Model):
            raise TypeError(f"prior must be a model of npgen or None, got {one_line(self.prior)}")
        if c is not None and self.prior is not None and not self.prior._takes_context:
            raise ValueError(f"prior must take a context, as codes may depend on it, and {with_article(self.prior)} takes "
                             "none; take a MADE, a flow or None")
        if not isinstance(self.output, str) or self.output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(map(repr, OUTPUTS))}, got {one_line(self.output)}")
        if self.output == "sigmoid" and not (z.min() >= 0 and z.max() <= 1):
            raise ValueError(f"output='sigmoid' gives values from 0 to 1, but preprocessing leads to {z.min():.3g} to "
                             f"{z.max():.3g}; give rows from 0 to 1 with preprocess=None, or take output='linear'")
        return {"hidden": check_widths("hidden", self.hidden), "n_latent": n_latent, "output": self.output}

    def _assemble(self, d, w, chosen):
        hidden, n_latent = tuple(chosen["hidden"]), chosen["n_latent"]
        if chosen.setdefault("output", "linear") not in tuple(OUTPUTS):  # older files have none
            raise ValueError(f"output {chosen['output']!r}")
        return {"encoder": MLP("encoder", (d + w, *hidden, n_latent)),
                "decoder": MLP("decoder", (n_latent + w, *hidden[::-1], d))}

    def _conclude(self, seen, held):
        x, c, weights = seen
        self.prior_ = self._fit_prior(self._rowwise(self._encode, x, c), c, weights)

    def _fit_prior(self, codes, c, weights):
        """The density of the codes (n, l), given their context (n, w), of rows with weights."""
        prior = clone(self.prior) if self.prior is not None else MADE(hidden=(64,), head="mixture") if c is not None else (
            GaussianMixture(n_components=min(10, 1 + len(codes) // 20)))
        if prior.random_state is None:
            prior.random_state = int(Stream.from_state(self.stream_.state()).integers(2**31))
        return prior.fit(codes, sample_weight=weights, context=c)

    def _loss(self, p, z, stream, c=None):
        seen = z + self.noise * stream.normal(z.shape, z.dtype, like=z) if self.noise else z
        return ops.sum(ops.square(z - self._reconstruct(p, self._represent(p, seen, c), c)), axis=1)

    def _represent(self, p, z, c=None):
        return self._encoder(p, beside(z, c))

    def _reconstruct(self, p, h, c=None):
        return OUTPUTS[self.output_](self._decoder(p, beside(h, c)))

    def _draw(self, p, n, stream, c=None):
        codes = self.prior_.sample(n, rng=stream) if c is None else self.prior_.sample(context=asnumpy(c), rng=stream)
        return self._reconstruct(p, self._place(codes.astype(p.flat.dtype)), c)

    def _finish(self):
        mine, its = (0 if each is None else each.width for each in (self.context_, self.prior_.context_))
        if self.prior_.n_features_in_ != self.n_latent_ or its != mine:
            raise ValueError("the density is not of the codes, or of another context")
