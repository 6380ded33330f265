"""Mixtures, fitted by expectation maximisation: of Gaussians, and of products of columns of any kind."""
from .columns import Mixture
from .gaussian import GaussianMixture
from .select import select_n_components

__all__ = ["GaussianMixture", "Mixture", "select_n_components"]
