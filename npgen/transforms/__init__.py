"""Transforms, one file each: maps of the data's own space, and the steps of flows.

    Standardize, Dequantize, Logit, Log     data maps, fitted to columns
    Chain, Columns, Inverse                 one after the other; side by side; the other way round
    ActNorm, BatchNorm, Permute, LU         steps of flows that see a feature at a time, or mix them all
    Coupling, Autoregressive                steps whose network moves features by an element: Affine, Additive, Spline
    AffineCouplings                         a run of RealNVP's steps, by one kernel
"""
from .actnorm import WEIGHTS, ActNorm, BatchNorm
from .atoms import warn_of_atoms
from .autoregressive import Autoregressive
from .base import Chain, Inverse, Transform, from_config, to_config
from .choice import make
from .columns import Columns
from .coupling import AffineCouplings, Coupling
from .dequantize import Dequantize
from .elements import Additive, Affine, Spline
from .logit import Log, Logit
from .lu import LU
from .permute import Permute
from .standardize import Standardize

__all__ = ["WEIGHTS", "ActNorm", "Additive", "Affine", "AffineCouplings", "Autoregressive", "BatchNorm", "Chain", "Columns",
           "Coupling", "Dequantize", "Inverse", "LU", "Log", "Logit", "Permute", "Spline", "Standardize", "Transform",
           "from_config", "make", "to_config", "warn_of_atoms"]
