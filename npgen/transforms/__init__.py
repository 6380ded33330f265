"""Transforms, one file each: maps of the data's own space, and the steps of flows.

    Standardize, Dequantize, Logit, Log     data maps, fitted to columns
    Chain, Columns                          one after the other; side by side
"""
from .atoms import warn_of_atoms
from .base import Chain, Transform, from_config, to_config
from .choice import make
from .columns import Columns
from .dequantize import Dequantize
from .logit import Log, Logit
from .standardize import Standardize

__all__ = ["Chain", "Columns", "Dequantize", "Log", "Logit", "Standardize", "Transform", "from_config", "make", "to_config",
           "warn_of_atoms"]
