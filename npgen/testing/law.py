"""What a law is: a function of a Subject that returns a Finding, or raises Skip where the model does not promise it.

The first paragraph of its docstring states it; the second, for whoever sees it broken, says where to look.
"""
import dataclasses

import numpy as np

LAWS = {}  # name -> law, in the order in which they are run
SIGMAS = 7  # standard errors allowed to a mean whose terms have no bound: the normal tail beyond is 3e-12


@dataclasses.dataclass
class Finding:
    """A law holds if measured <= tolerance.

    catches   of a law that has to allow for chance or rounding: the smallest error that it is sure to find
    note      what went wrong, where numbers do not say it
    """

    measured: float
    tolerance: float
    catches: str = ""
    note: str = ""
    law: str = ""
    skipped: str = ""

    @property
    def passed(self):
        """True also for a law that was skipped."""
        return bool(self.skipped) or bool(self.measured <= self.tolerance)


def law(name, of=None):
    """Enter the decorated function into LAWS; of="density": it says nothing of a model that has none."""
    def enter(function):
        LAWS[name], function.of = function, of
        return function
    return enter


def every(*checks):
    """The Finding of (description, truth) pairs: how many are false, and which is the first."""
    broken = [what for what, holds in checks if not holds]
    return Finding(len(broken), 0, note=broken[0] if broken else "")


def close(a, b, rtol, note=""):
    """The Finding that |a - b| <= rtol (1 + |b|) everywhere, as the largest |a - b| / (1 + |b|)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        error = np.where(a == b, 0, np.abs(a - b) / (1 + np.abs(b)))
    return Finding(float(np.max(error, initial=0)), rtol, note=note)  # NaN is no smaller than any tolerance
