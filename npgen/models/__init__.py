"""The models, one file each; MODELS maps the name on the command line, and CLASSES the name in a file, to the class."""
from .autoencoder import Autoencoder
from .classifier import BayesClassifier
from .diffusion import Diffusion
from .energy import EnergyModel
from .flow_matching import FlowMatching
from .gan import GAN
from .gmmn import GMMN
from .iaf import IAF
from .made import MADE
from .maf import MAF
from .mixture import GaussianMixture, Mixture, select_n_components
from .nsf import NSF
from .rbm import RBM
from .realnvp import RealNVP
from .vae import VAE

MODELS = {"autoencoder": Autoencoder, "diffusion": Diffusion, "energy": EnergyModel, "flowmatching": FlowMatching,
          "gan": GAN, "gmm": GaussianMixture, "gmmn": GMMN, "iaf": IAF, "made": MADE, "maf": MAF, "mixture": Mixture,
          "nsf": NSF, "rbm": RBM, "realnvp": RealNVP, "vae": VAE}
CLASSES = {cls.__name__: cls for cls in (*MODELS.values(), BayesClassifier)}

__all__ = ["Autoencoder", "BayesClassifier", "CLASSES", "Diffusion", "EnergyModel", "FlowMatching", "GAN", "GMMN",
           "GaussianMixture", "IAF", "MADE", "MAF", "MODELS", "Mixture", "NSF", "RBM", "RealNVP", "VAE", "select_n_components"]
