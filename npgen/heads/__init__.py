"""Likelihood heads, one file each: what outputs, of a network or of a mixture's components, say about each feature.

    Normal        mean and log-variance of a real feature
    Bernoulli     logit of a binary feature
    Poisson       log-rate of a count
    Categorical   logits of a feature's levels

HEADS maps the name of a head, on the command line and in a file, to its class.
"""
import numpy as np

from .base import Family, Head
from .bernoulli import Bernoulli
from .categorical import Categorical
from .normal import Normal
from .poisson import Poisson

HEADS = {head.name: head for head in (Normal, Bernoulli, Poisson, Categorical)}
OF_NETWORKS = "normal", "bernoulli"

__all__ = ["HEADS", "Bernoulli", "Categorical", "Family", "Head", "Normal", "Poisson", "from_config", "head_for"]


def head_for(spec, x):
    """The head called `spec`; "auto" is Bernoulli for data of 0 and 1 only, Normal otherwise. Raises ValueError."""
    if spec == "auto":
        spec = "bernoulli" if np.all((x == 0) | (x == 1)) else "normal"
    if spec not in OF_NETWORKS:
        raise ValueError(f"head: expected 'auto' or one of {', '.join(OF_NETWORKS)}, got {spec!r}")
    return HEADS[spec]()


def from_config(config):
    """The head of which config() was asked: Head.config says how it is written. Raises ValueError for what is none."""
    options = {"head": config} if isinstance(config, str) else dict(config)
    name, levels = options.pop("head"), options.get("levels", [])
    if name not in HEADS or not isinstance(levels, list) or len({isinstance(each, list) for each in levels}) > 1:
        raise ValueError(f"head: expected one of {', '.join(HEADS)}, with its options, got {config!r}"[:200])
    return HEADS[name](**options)  # levels are lists here, which are no larger than the file that they are in
