"""MAF: a stack of autoregressive steps, each of which moves a feature by the mean and scale that those before it give.

    z_d = (x_d - mean_d(x_<d, c)) exp(-log_var_d(x_<d, c) / 2)

Scored in one pass; drawn in one pass for each step (kernels.made_sample). Legend: d features, w columns of context.
Reference: Papamakarios, Pavlakou & Murray, Masked autoregressive flow for density estimation (2017).
"""
from ..transforms import Affine, Autoregressive
from .flow import StackedFlow


class MAF(StackedFlow):
    """Masked autoregressive flow: log p(x) = log N(z; 0, I) + log |det dz/dx|, exact, with exact inverse and sampling.

    n_layers       autoregressive steps, each a masked network
    hidden         widths of the ReLU layers in each step's network
    norm           "actnorm", "batch" (batch normalisation as Papamakarios et al., 2017, have it) or None
    mix            the order of the features between steps: "reverse", "random", or "lu", a learned linear map
    base           of the noise: "normal"; learned are "mixture" and "made", a MADE of mixtures of ten normals; or a prior of
                   npgen.priors, such as MADE(5, hidden=(64,))
    objective      "kl", maximum likelihood; or a distance between the rows and as many draws: "energy", "mmd",
                   "sliced_wasserstein", or an object of npgen.divergences, such as MMD(scales=(0.5, 1))
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    encode gives the noise z (n, d), standard normal under the model, or of the base; decode inverts it exactly.
    Attribute: orders_ (n_layers, d), the orders of the features before the steps, and of a learned base; the first is
    not used.
    Reference: Papamakarios, Pavlakou & Murray (2017).
    """

    hidden: tuple = (256,)
    _affine = True

    def _step(self, name, d, w, chosen, k):
        return Autoregressive(name, d, chosen["hidden"], Affine(), w)
