"""How Numba compiles for the kernels: no function twice, no wrapper that is never run, and to the end.

Numba compiles the two wrappers around a parallel loop, and the loop in them, by themselves as well as in the function that
has the loop, and only ever runs the last: here the wrappers are only linked, which saves a quarter of the time.
Numba and LLVM do not survive an exception in the middle of a compilation: a Ctrl-C is heard at its end.
"""
import contextlib
import functools
import gc
import signal
import threading

from ._processes import call_help

KNOWN = ((0, 61), (0, 68))  # the Numbas whose inside this has been tested with; others compile for longer


@contextlib.contextmanager
def uninterrupted():
    """A Ctrl-C that comes meanwhile is heard at the end; of nested ones, at the end of the outermost."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before) or hasattr(before, "heard"):
        yield
        return
    heard = []

    def later(number, frame):
        heard.append(frame)

    later.heard = heard
    signal.signal(signal.SIGINT, later)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if heard:
            before(signal.SIGINT, heard[0])


@contextlib.contextmanager
def uncollected():
    """Without the collector of reference cycles: a compiler makes millions of objects, which it looks at again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _in_place_of(owner, **attributes):
    """A block in which these attributes are others."""
    before = {name: getattr(owner, name) for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@functools.cache
def _defaults(kind):
    return {name: option.default for name, option in kind.options.items()}


def _values(flags):
    """All flags of a compilation, what TargetConfig.values asks one property each for."""
    return _defaults(type(flags)) | flags._values


def compilers():
    """Numba's compiler for entries and for what only they call, as options of njit.

    An inner function is linked into whatever calls it, and compiled to machine code there alone, not by itself as well. One
    that may reorder a sum is optimised first, so that its order, and with it the bits, are the same wherever it is called; so
    is one that asks for it.
    So are Numba's own functions that an entry calls, such as np.empty, and the wrappers around a loop of parallel=True, which
    call npgen_parallel_for. Nor are the wrappers made that C would call an entry by, the flags looked up one by one that every
    search for a function compares, or LLVM's calls timed.
    """
    from llvmlite.binding import ffi
    from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
    from numba.core.compiler import Compiler
    from numba.core.targetconfig import TargetConfig

    class Inner(JITCodeLibrary):
        codegen = property(lambda self: self)

        def set_env(self, name, env):  # of machine code of its own
            pass

        def _optimize_final_module(self):
            pass

        def _finalize_final_module(self):
            self._finalize_dynamic_globals()
            self._finalized = True

    class Wrapper(Inner):
        def add_llvm_module(self, module):
            with contextlib.suppress(NameError):
                module.get_function("numba_parallel_for").name = "npgen_parallel_for"
            super().add_llvm_module(module)

    class Optimised(Inner):
        _optimize_final_module = JITCodeLibrary._optimize_final_module

    class ForInner(Compiler):
        optimised = False

        def compile_extra(self, function):
            library = Optimised if self.optimised or self.state.flags.fastmath else Inner
            self.state.library = library(self.state.targetctx.codegen(), function.__qualname__)
            return super().compile_extra(function)

    class ForOptimised(ForInner):
        optimised = True

    class ForEntries(Compiler):
        def compile_extra(self, function):  # runs under Numba's lock: no other thread compiles
            call_help()
            create = JITCPUCodegen.create_library

            def create_library(codegen, name, **options):
                if name in (function.__qualname__, "nrt", "multi3"):  # the last two are Numba's own, made once
                    return create(codegen, name, **options)
                wrapper = name == "parallelgufuncwrapper" or "_GufuncWrapper object" in name
                return (Wrapper if wrapper else Inner)(codegen, name, **options)

            with _in_place_of(JITCPUCodegen, create_library=create_library), _in_place_of(TargetConfig, values=_values), \
                    _in_place_of(ffi.lib._lock, _cblist=[]):
                return super().compile_extra(function)

    alone = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return ({"pipeline_class": ForEntries, "no_cfunc_wrapper": True}, {"pipeline_class": ForInner} | alone,
            {"pipeline_class": ForOptimised} | alone)
