"""Flows: densities of data that an invertible map turns into standard normal noise.

    log p(x) = log N(z; 0, I) + log |det dz/dx|,    z = flow(x)

Legend: n rows, d features. Reference: Papamakarios et al., Normalizing flows for probabilistic modeling and inference (2021).
"""
from .base import Capabilities
from .gradient import GradientModel


class FlowModel(GradientModel):
    """A flow: its _assemble gives {"flow": a transform}, and that is all that a subclass has to write.

    encode gives the noise z (n, d), standard normal under the model; decode inverts it exactly.
    """

    _capabilities = Capabilities("exact", "noise", invertible=True)
    _takes_context = True

    @property
    def n_latent_(self):
        return self.n_features_in_

    def _log_density(self, p, z, c=None):
        return self._flow.log_prob(p, z, c)

    def _draw(self, p, n, stream, c=None):
        return self._flow.data(p, stream.normal((n, self.n_features_in_), p.flat.dtype, like=p.flat), c)

    def _represent(self, p, z, c=None):
        return self._flow.to_noise(p, z, c)[0]

    def _reconstruct(self, p, h, c=None):
        return self._flow.data(p, h, c)
