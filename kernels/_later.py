"""The files that import Numba are executed when they are first asked for something: it takes longer than all of npgen."""
import contextlib
import importlib.util
import os
import sys
import threading
import types

LATER = ("_blas", "_jit", "_math", "adam", "categorical", "em", "flow", "gather", "gibbs", "gray", "langevin", "likelihood",
         "logsumexp", "made_sample", "masked_matmul", "mixture_likelihood", "mlp", "mlp_slope", "norm", "pairwise",
         "random", "reparameterize", "silu", "spline", "trajectory", "transport")

_lock = threading.RLock()
without_threads = False  # whether this process was forked from one that had started Numba's threads, by a kernel or otherwise


def _forked():
    global without_threads
    with contextlib.suppress(KeyError, AttributeError, ValueError):  # where no thread has been started
        without_threads = bool(sys.modules["numba"].threading_layer())
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forked)


class _Later(types.ModuleType):
    """A module before it is executed; then it is one like any other."""

    def __getattr__(self, name):
        with _lock:  # a second thread waits until the first is through
            if type(self) is _Later and self.__spec__.loader_state is None and not name.startswith("__"):
                self.__spec__.loader_state = "begun"
                try:
                    self.__spec__.loader.exec_module(self)
                    self.__class__ = types.ModuleType
                finally:
                    self.__spec__.loader_state = None
        return types.ModuleType.__getattribute__(self, name)

    def __setattr__(self, name, value):
        if not name.startswith("__"):
            hasattr(self, "anything")
        types.ModuleType.__setattr__(self, name, value)

    def __dir__(self):
        hasattr(self, "anything")
        return types.ModuleType.__dir__(self)


for _name in LATER:
    _spec = importlib.util.find_spec(f"{__package__}.{_name}")
    _module = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
    _module.__class__ = _Later
    setattr(sys.modules[__package__], _name, _module)
