"""A fitted model as mathematics: what its public methods are made of, for who studies, tests or differentiates it.

Legend: n rows, d features, w columns of context, l latent dimensions.
"""
import numpy as np

from ..checks import with_article


class Inner:
    """The mathematics of a fitted model, in one dtype: of arrays in the space that its preprocessing leads to, unchecked.

    What a model has not, such as a VAE's bounds of a MADE, raises TypeError.

    params   its parameters {name: array} of that dtype
    parts    {name: Part}, such as networks, transforms and heads: what the parameters are of

    z are rows (n, d) in that space, c their context (n, w) as numbers, or None; p, where it is given, are parameters in place
    of the model's own, in a derivative Tensors: grad(lambda p: np.mean(inner.loss(z, Stream(0), p=p)))(inner.params).
    """

    def __init__(self, model, dtype):
        self._model, self._maps, self.parts = model, model.preprocess_, dict(model._parts)
        self.params = model._at(np.dtype(dtype))

    def enter(self, x):
        """Rows of data (n, d) -> z, and log |det dz/dx| (n,)."""
        return self._maps.to_noise(None, x)

    def leave(self, z):
        """z -> rows of data (n, d)."""
        return self._maps.data(None, z)

    def log_density(self, z, c=None, p=None):
        """log p(z | c), (n,) nats: log_prob of the data less the log-determinant of enter."""
        if self._model.capabilities.density == "none":
            raise TypeError(f"inner().log_density is of a model with a density, and {with_article(self._model)} has none; "
                            "ask draw")
        return self._model._log_density(self._at(p), z, c)

    def loss(self, z, stream, c=None, p=None):
        """What training minimises, (n,) nats; minus log_density, if a model does not say otherwise."""
        return self._model._loss(self._at(p), z, stream, c)

    @property
    def by_likelihood(self):
        """Whether loss is minus log_density, or minus a bound on it; else it is no likelihood, as a squared error."""
        return getattr(self._model, "_likelihood", True)

    def draw(self, n, stream, c=None, p=None):
        """n rows."""
        return self._model._draw(self._at(p), n, stream, c)

    def represent(self, z, c=None, p=None):
        """The representation h (n, l)."""
        return self._model._represent(self._at(p), z, c)

    def reconstruct(self, h, c=None, p=None):
        """The rows that representations stand for."""
        return self._model._reconstruct(self._at(p), h, c)

    def posterior(self, z, c=None, p=None):
        """Of a VAE: mean and log-variance of q(h | z), (n, l) each."""
        return self._own("posterior", "a VAE")(self._at(p), z, c)

    def terms(self, z, draw, c=None, p=None):
        """Of a VAE: log p(z | h) at one h = draw(mean, log_var) of q(h | z), and the KL divergence to the prior, (n,) each."""
        terms, (mean, log_var) = self._own("terms", "a VAE"), self.posterior(z, c, p)
        return terms(self._at(p), z, draw(mean, log_var), mean, log_var, c)

    def importance(self, z, n_importance, c=None, p=None):
        """Of a VAE: the importance-weighted log-density of so many samples, and its standard error, (n,) each."""
        return self._own("importance", "a VAE")(self._at(p), z, n_importance, c)

    def log_density_in(self, order, z, c=None, p=None):
        """Of a MADE: log p(z | c) in one order of the columns, (n,) nats."""
        density = self._own("log_density_in", "a MADE")
        return density(self._at(p), z, c, type(self.parts["orders"])((order,))[0])

    def _own(self, name, owner):
        """The model's function of this name. Raises TypeError where it has none."""
        if not hasattr(self._model, f"_{name}"):
            raise TypeError(f"inner().{name} is of {owner}, and this model is {with_article(self._model)}; ask log_density")
        return getattr(self._model, f"_{name}")

    def _at(self, p):
        return self.params if p is None else p
