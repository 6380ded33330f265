"""Every law of a generative model, a file for each kind; they are run in this order."""
from . import classifiers, contract, densities, encodings, given, gradients, latents, mixtures, states
from .law import LAWS

__all__ = ["LAWS", "classifiers", "contract", "densities", "encodings", "given", "gradients", "latents", "mixtures", "states"]
