"""What a mixture says of some columns, given values of the others, for many rows at once.

Legend: n rows, k components, m columns.
"""
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Conditionals:
    """n mixtures of m columns: weights (n, k), means (n, k, m), covariances (k, m, m), which all n have in common."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @property
    def mean(self):
        """(n, m)."""
        return np.einsum("nk,nkm->nm", self.weights, self.means)

    @property
    def covariance(self):
        """(n, m, m): that within the components, and that between them."""
        apart = self.means - self.mean[:, None]
        between = np.swapaxes(apart * self.weights[:, :, None], 1, 2) @ apart
        return np.tensordot(self.weights, self.covariances, 1) + between
