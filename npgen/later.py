"""What a device is asked later, when all is on its way: whether something about rows was wrong, which are asked about again.

Legend: a flag is an array of no dimension.
"""
import contextlib
import contextvars

from .kernels._cuda import is_device_array

_asked = contextvars.ContextVar("asked", default=None)


@contextlib.contextmanager
def asked_later():
    """A block in which nobody waits for a device to say if something is wrong: all go on as if it were not, and the flags are
    put into this list, which is to be looked at once.
    """
    asked = []
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def later(values, wrong):
    """Whether it is asked later, as of values on a device in such a block, if the flag wrong(values) is set."""
    asked = _asked.get()
    if asked is None or not is_device_array(values):
        return False
    asked.append(wrong(values))
    return True
