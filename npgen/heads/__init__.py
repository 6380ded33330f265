"""Likelihood heads, one file each: what outputs, of a network or of a mixture's components, say about each feature.

    Normal              mean and log-variance of a real feature
    MixtureOfNormals    a real feature of several peaks
    Bernoulli           logit of a binary feature
    Poisson             log-rate of a count
    Categorical         logits of a feature's levels
    Mapped              a real feature behind a monotone map, a Scale
    Grid                whole numbers, times and rounded numbers, by the exact mass of their cells
    Atoms               values with a probability of their own, and whether one is missing, before another head
    Pooled              levels of which the rare ones share a logit
    Tied                a feature of any shape, by distributions that a mixture's components share
    Columns             a head for each column

HEADS maps the name of a head, on the command line and in a file, to its class.
"""
import numpy as np

from .atoms import Atoms
from .base import Family, Head, Unsupported
from .bernoulli import Bernoulli
from .categorical import Categorical, levels_in
from .columns import Columns
from .grid import Grid
from .mapped import Mapped
from .mixture import MixtureOfNormals
from .normal import Normal
from .poisson import Poisson
from .pooled import Pooled
from .scale import Scale
from .tied import Tied

HEADS = {head.name: head for head in (Normal, MixtureOfNormals, Bernoulli, Poisson, Categorical, Mapped, Grid, Atoms, Pooled,
                                      Tied, Columns)}

__all__ = ["HEADS", "Atoms", "Bernoulli", "Categorical", "Columns", "Family", "Grid", "Head", "Mapped", "MixtureOfNormals",
           "Normal", "Poisson", "Pooled", "Scale", "Tied", "Unsupported", "from_config", "has_missing", "head_for", "untouched"]


def head_for(spec, x):
    """The head that `spec` asks for, for rows x (n, d).

    spec  "auto"                  Bernoulli for data of 0 and 1 only, normal otherwise
          "normal", "bernoulli", "poisson"
          "mixture"               of 10 normals
          "categorical"           whole numbers, of which those that are there are a column's levels
          an object               such as MixtureOfNormals(3)
          a list of these         one for each column

    Raises ValueError for anything else.
    """
    if isinstance(spec, str) and spec == "auto":
        spec = "bernoulli" if np.all((x == 0) | (x == 1)) else "normal"
    if isinstance(spec, Head):
        spec.n_outputs(x.shape[1])  # refuses one of other columns
        return spec
    if isinstance(spec, (list, tuple)) and len(spec) == x.shape[1] and len(spec):
        return Columns([head_for(each, x[:, [j]]) for j, each in enumerate(spec)])
    names = [name for name, head in HEADS.items() if head.by_name]
    if not isinstance(spec, str) or spec not in names:
        raise ValueError(f"head: expected 'auto', one of {', '.join(names)}, a head of npgen.heads, or {x.shape[1]} of these, "
                         f"got {spec!r}"[:400])
    return Categorical([levels_in(x, j) for j in range(x.shape[1])]) if spec == "categorical" else HEADS[spec]()


def untouched(spec):
    """Which columns a model with head `spec` needs as they are: all, none or (d,) bool; "bits": all, if they are 0 and 1."""
    if isinstance(spec, str) and spec in ("auto", "bernoulli"):
        return "bits"
    return np.array([_discrete(each) for each in spec]) if isinstance(spec, (list, tuple)) else _discrete(spec)


def has_missing(spec):
    """Whether a head, or one of a list, has a state for a missing value."""
    return bool(np.any([getattr(each, "missing", False) if not isinstance(each, Columns) else each.missing.any()
                        for each in (spec if isinstance(spec, (list, tuple)) else [spec])]))


def _discrete(spec):
    head = HEADS.get(spec) if isinstance(spec, str) else spec
    return getattr(head, "own_map", False) | getattr(head, "discrete", False)


def from_config(config):
    """The head of which config() was asked: Head.config says how it is written. Raises ValueError for what is none."""
    options = {"head": config} if isinstance(config, str) else dict(config)
    name, levels = options.pop("head"), options.get("levels", [])
    if name not in HEADS or not isinstance(levels, list) or len({isinstance(each, list) for each in levels}) > 1:
        raise ValueError(f"head: expected one of {', '.join(HEADS)}, with its options, got {config!r}"[:200])
    if "heads" in options:
        options["heads"] = [from_config(each) for each in options["heads"]]
    if "base" in options:
        options["base"] = from_config(options["base"])
    if "scale" in options:
        options["scale"] = Scale(*options["scale"])
    return HEADS[name](**options)  # levels are lists here, which are no larger than the file that they are in
