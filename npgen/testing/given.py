"""Laws of a model of p(x | c): it is a density given each context, and a row's answer is by its own.

Legend: n rows, d columns, m rows of context.
"""
import numpy as np

from ..models.base import Model
from .law import close, law
from .subject import Skip

MOST = 3  # contexts that are looked at


class Given:
    """A model given row i of contexts (m, ...), as one without a context. same: the rows that are as it; j: one that is not."""

    def __init__(self, model, contexts, i, j, same):
        self.model, self.contexts, self.i, self.j, self.same = model, contexts, i, j, same
        self.capabilities, self.n_latent_ = model.capabilities, model.n_latent_
        names = getattr(model, "feature_names_in_", None)
        if names is not None:
            self.feature_names_in_ = names

    def __repr__(self):
        return f"{self.model!r} given {self.shown}"

    @property
    def context(self):
        """The one row."""
        return taken(self.contexts, [self.i])

    @property
    def shown(self):
        """The context, in words."""
        return ", ".join(map(str, np.asarray(self.context, dtype=object).ravel().tolist()))

    def log_prob(self, x):
        return self.model.log_prob(x, context=self.context)

    def encode(self, x):
        return self.model.encode(x, context=self.context)

    def decode(self, z):
        return self.model.decode(z, context=self.context)

    def sample(self, n, rng=None):
        rows = self.model.sample(n, context=self.context, rng=rng)
        return rows.reshape(-1, rows.shape[-1])

    def of(self, X):
        """The rows of X with this context; None if they are not two, or X has other rows than the contexts."""
        return taken(X, self.same) if X is not None and len(X) == len(self.contexts) and len(self.same) > 1 else None


def taken(contexts, numbers):
    """The rows of these numbers of an array, a Table or a DataFrame."""
    return getattr(contexts, "iloc", contexts)[numbers]


def givens(model, context):
    """The model given each of at most MOST different rows of context, spread over them. Raises ValueError as log_prob does."""
    if not isinstance(model, Model) or model.context_ is None:
        raise ValueError(f"check_generative_model: this {type(model).__name__} was fitted without a context; leave it out")
    contexts = context if hasattr(context, "columns") else np.atleast_1d(np.asarray(context))
    known = model.context_.encode("check_generative_model", contexts, np.float64)
    first = np.sort(np.unique(known, axis=0, return_index=True)[1])
    chosen = first[np.unique(np.linspace(0, len(first) - 1, MOST).round().astype(int))].tolist()
    return [Given(model, contexts, i, j, np.flatnonzero((known == known[i]).all(axis=1)))
            for i, j in zip(chosen, np.roll(chosen, -1).tolist(), strict=True)]


@law("a row's context is its own", of="density")
def own(s):
    """log_prob of rows with different contexts is, row by row, that given its own; encode and decode, which are inverse where
    the model promises it, are so given a context of each row.

    Look for a context that is taken from another row, or of the batch as a whole.
    """
    if not isinstance(s.model, Given):
        raise Skip("no context is given")
    given, x = s.model, s.x[:50]
    both, numbers = np.concatenate([x, x[::-1]]), [given.i] * len(x) + [given.j] * len(x)
    contexts = taken(given.contexts, numbers)
    want = np.concatenate([given.log_prob(x), given.model.log_prob(x[::-1], context=taken(given.contexts, [given.j]))])
    found = close(given.model.log_prob(both, context=contexts), want, 1e-9, "log_prob of rows of two contexts")
    if not found.passed or not s.invertible:
        return found
    back = given.model.decode(given.model.encode(both, context=contexts), context=contexts)
    inverse = close(back, both, 1e-6, "decode does not invert encode")
    return found if inverse.passed else inverse
