"""The models, one file each; MODELS maps the name on the command line, and CLASSES the name in a file, to the class."""
from .classifier import BayesClassifier
from .made import MADE
from .mixture import GaussianMixture, Mixture, select_n_components
from .realnvp import RealNVP
from .vae import VAE

MODELS = {"gmm": GaussianMixture, "made": MADE, "mixture": Mixture, "realnvp": RealNVP, "vae": VAE}
CLASSES = {cls.__name__: cls for cls in (*MODELS.values(), BayesClassifier)}

__all__ = ["BayesClassifier", "CLASSES", "GaussianMixture", "MADE", "MODELS", "Mixture", "RealNVP", "VAE",
           "select_n_components"]
