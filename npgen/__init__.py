"""npgen: generative models in NumPy, with custom compiled kernels.

Every model answers three queries about data x (n, d): density, log_prob(X); sampling, sample(n); representation,
encode(X) and decode(Z).

    models          GaussianMixture, Mixture, MADE, MAF, IAF, NSF, RealNVP, VAE, RBM, EnergyModel, GMMN, GAN, FlowMatching,
                    Diffusion, Autoencoder; BayesClassifier, made of them
    train, players, optim    the fit loop, who moves which parameters by which loss, Adam and its like
    nn, masks       networks and parameters, autoregressive masks; layout: how kernels see them
    heads           what outputs say about a feature: normal, mixture of normals, Bernoulli, Poisson, categorical, columns
    transforms      standardise, dequantise, logit, counted in log_prob; the steps of flows
    divergences     how far two models, or sets of rows, are apart: KL and its kin, energy distance, MMD, Wasserstein, Stein
    ode             equations whose velocity is a network, with their log-determinants
    priors          of a representation: standard normal, mixture, flow
    ops, fused      every differentiable op: a table of derivatives, and those that one kernel computes
    linalg, compositions    decompositions, norms; NumPy functions that are written in ops
    engine          reverse-mode differentiation: grad, vjp, jacobian, hvp
    random          one counter-based stream
    kernels         compiled hot paths, each beside its NumPy reference
    data, plot      real and toy data, readers; pictures
    reports         report(model, X), a page about a model beside rows
    checkpoint      one safetensors file per model
    testing         the laws that a model, a kernel or a derivative has to obey
    machine         what this machine has, and warmup, which makes every kernel ready
    cli, demo       the command `npgen`
"""
import importlib
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("npgen.kernels") is None:  # a checkout that is not installed: its kernels/ lies beside npgen/
    _folder = Path(__file__).resolve().parent.parent / "kernels"
    _spec = importlib.util.spec_from_file_location("npgen.kernels", _folder / "__init__.py",
                                                   submodule_search_locations=[str(_folder)])
    sys.modules["npgen.kernels"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["npgen.kernels"])

from . import compositions, divergences, kernels, linalg  # noqa: F401  two of them are there for what they register
from .checkpoint import LoadError
from .engine import NoRuleError, Tensor, grad, hvp, jacobian, value_and_grad, vjp
from .machine import warmup
from .models import (
    GAN,
    GMMN,
    IAF,
    MADE,
    MAF,
    NSF,
    RBM,
    VAE,
    Autoencoder,
    BayesClassifier,
    Diffusion,
    EnergyModel,
    FlowMatching,
    GaussianMixture,
    Mixture,
    RealNVP,
    select_n_components,
)
from .models.estimator import NotFittedError
from .models.files import load
from .train import ConvergenceWarning
from .version import __version__

__all__ = ["Autoencoder", "BayesClassifier", "ConvergenceWarning", "Diffusion", "EnergyModel", "FlowMatching", "GAN", "GMMN",
           "GaussianMixture", "IAF", "LoadError", "MADE", "MAF", "Mixture", "NSF", "NoRuleError", "NotFittedError", "RBM",
           "RealNVP", "Tensor", "VAE", "__version__", "data", "divergences", "grad", "hvp", "jacobian", "kernels", "load",
           "plot", "report", "select_n_components", "testing", "value_and_grad", "vjp", "warmup"]


def __getattr__(name):
    """npgen.data and the like are imported when they are asked for."""
    if name == "report":
        return importlib.import_module("npgen.reports").report
    if name not in ("data", "plot", "testing"):
        raise AttributeError(f"module 'npgen' has no attribute {name!r}")
    return importlib.import_module(f"npgen.{name}")
