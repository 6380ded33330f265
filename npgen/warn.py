"""Warnings point at the user's line, however deep inside npgen they are given."""
import os
import sys
import warnings

from . import parallel

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def warn(message, category=UserWarning):
    """warnings.warn, at the line outside npgen that the call came from; of several ranks the first does."""
    if parallel.rank() > 0:
        return
    frame, level = sys._getframe(1), 2
    while frame is not None and os.path.abspath(frame.f_code.co_filename).startswith(_HERE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
