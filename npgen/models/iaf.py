"""IAF: a stack of inverse autoregressive steps, each of which moves a feature by what the noise of those before it gives.

    x_d = z_d exp(log_var_d(z_<d, c) / 2) + mean_d(z_<d, c)

Drawn in one pass; a row of data is scored by undoing the steps, a feature after the other. Legend: d features, w columns of
context. Reference: Kingma et al., Improved variational inference with inverse autoregressive flow (2016).
"""
from ..transforms import Affine, Autoregressive, Inverse
from .flow import StackedFlow


class IAF(StackedFlow):
    """Inverse autoregressive flow: log p(x) = log N(z; 0, I) + log |det dz/dx|, exact; it draws fast, and learns slowly.

    n_layers       inverse autoregressive steps, each a masked network
    hidden         widths of the ReLU layers in each step's network
    norm           "actnorm", "batch" or None
    mix            the order of the features between steps: "reverse", "random", or "lu", a learned linear map
    base           of the noise: "normal"; learned are "mixture" and "made", a MADE of mixtures of ten normals; or a prior of
                   npgen.priors, such as MADE(5, hidden=(64,))
    objective      "kl", maximum likelihood; or a distance between the rows and as many draws: "energy", "mmd",
                   "sliced_wasserstein", or an object of npgen.divergences, such as MMD(scales=(0.5, 1))
    preprocess     None, "standardize", "dequantize+logit", ..., or "auto" (see npgen.transforms.make)
    max_epochs ... verbose: see npgen.train.Training; random_state: seed of everything random

    Drawing takes one pass through each step's network. So do log_prob and encode, by the one-pass sampler, one feature after
    another, with a second pass for the log-determinant. A training step's gradient takes d passes through each network more:
    for data of many columns a MAF learns faster.
    encode gives the noise z (n, d), standard normal under the model, or of the base; decode inverts it exactly.
    Attribute: orders_ (n_layers, d), the orders of the features before the steps, and of a learned base; the first is
    not used.
    Reference: Kingma et al. (2016).
    """

    n_layers: int = 3
    hidden: tuple = (64,)
    _affine = True

    def _step(self, name, d, w, chosen, k):
        return Inverse(Autoregressive(name, d, chosen["hidden"], Affine(), w))
