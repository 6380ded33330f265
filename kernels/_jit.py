"""Numba for the kernels: decorators that compile once and do nothing where Numba is missing; its threads and parallel loops.

How it compiles is in _compilers.py, where it keeps what is compiled in _caching.py, and several processes that compile in
_processes.py.
Cached machine code finds its callees by name, and closures that share one would be taken for one another: each is numbered.

A parallel loop calls npgen_parallel_for, which hands it to Numba's threads. Without them it runs on the calling thread, to the
same bits: in a process forked after they were started, which does not have them (GNU OpenMP would end it), and
on Numba's own work queue, which more than one caller at a time would abort, while another thread has it.
"""
import collections
import contextlib
import functools
import os
import threading

import numpy as np

from . import _later
from ._caching import enable_caching
from ._compilers import KNOWN, compilers, uncollected, uninterrupted
from ._processes import by_itself

try:
    import numba
    from numba import get_num_threads, get_thread_id, prange
    from numba.extending import register_jitable
    available, unavailable = True, ""
except Exception as error:  # a broken llvmlite raises OSError, an unsupported NumPy raises ImportError
    numba, prange, get_num_threads, get_thread_id, register_jitable = None, range, None, None, None
    available, unavailable = False, f"Numba cannot be imported ({type(error).__name__}: {error})"

_named = collections.Counter()  # how many functions have this module and qualified name


@contextlib.contextmanager
def environment(**variables):
    """Environment variables for a library that reads them while it is loaded; put back as they were at the end."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def start():
    """Start Numba's threads, lead parallel loops to them, and give every function its cache, once.

    A thread of GNU OpenMP that waits for the others spins for milliseconds by default: on a machine with other work it
    then holds the core that they need, and a kernel of 1 ms takes 30. Here it sleeps after some 50 microseconds, unless
    the user has set how to wait.
    """
    global _started
    with _lock:
        if available and not _started:
            chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ)
            with uninterrupted():
                with contextlib.nullcontext() if chosen else environment(GOMP_SPINCOUNT="2000"):
                    numba.get_num_threads()
                _lead_loops(numba.threading_layer() == "workqueue")
                for function in _jitted:
                    enable_caching(function)
                _jitted.clear()
                _started = True


@contextlib.contextmanager
def on_threads(n):
    """A block whose kernels have n threads, at least one and at most as many as there are."""
    if not available:
        yield
        return
    start()
    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(n, numba.config.NUMBA_NUM_THREADS)))
    try:
        yield
    finally:
        numba.set_num_threads(before)


_started, _lock = False, threading.RLock()
_jitted = []  # every function, until the first kernel runs
_threads = np.zeros(2, np.int64)  # the address of Numba's function that runs a loop on its threads, 0 to do without; 0


def _forked():
    """In a forked process: its one thread does without those that did not come along."""
    if _later.without_threads:
        _threads[0] = 0
    _lock.release()


if available and hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forked)


def _lead_loops(one_at_a_time):
    """Compile npgen_parallel_for: the function in _threads, if one is there, or the loop itself, on the calling thread, as
    one of a single step is.

    one_at_a_time: whoever calls that function takes it out of _threads meanwhile, so that another thread finds none.
    """
    import llvmlite.binding
    from llvmlite import ir
    byte, size = ir.IntType(8).as_pointer(), ir.IntType(64)
    of_loop = ir.FunctionType(ir.VoidType(), [byte] * 4)
    declared = ir.FunctionType(ir.VoidType(), [byte] * 5 + [size] * 3)  # the loop, its arguments, two lengths, threads
    module = ir.Module()
    module.triple = llvmlite.binding.get_process_triple()
    function = ir.Function(module, declared, "npgen_parallel_for")
    builder = ir.IRBuilder(function.append_basic_block())
    steps = builder.load(builder.bitcast(function.args[2], size.as_pointer()))
    cell = builder.inttoptr(builder.select(builder.icmp_signed(">", steps, size(1)), size(_threads.ctypes.data),
                                           size(_threads[1:].ctypes.data)), size.as_pointer())
    if one_at_a_time:
        run = builder.atomic_rmw("xchg", cell, size(0), "seq_cst")
    else:
        run = builder.load_atomic(cell, "seq_cst", 8)
    with builder.if_else(builder.icmp_signed("!=", run, size(0))) as (threads, alone):
        with threads:
            builder.call(builder.inttoptr(run, declared.as_pointer()), function.args)
            if one_at_a_time:
                builder.store_atomic(run, cell, "seq_cst", 8)
        with alone:
            builder.call(builder.bitcast(function.args[0], of_loop.as_pointer()), function.args[1:5])
    builder.ret_void()
    llvmlite.binding.initialize_native_target()  # as Numba does, once it compiles
    llvmlite.binding.initialize_native_asmprinter()
    machine = llvmlite.binding.Target.from_default_triple().create_target_machine()
    engine = llvmlite.binding.create_mcjit_compiler(llvmlite.binding.parse_assembly(str(module)), machine)
    engine.finalize_object()
    _lead_loops.kept = engine  # whose memory the machine code lies in
    llvmlite.binding.add_symbol("npgen_parallel_for", engine.get_function_address("npgen_parallel_for"))
    _threads[0] = 0 if _later.without_threads else llvmlite.binding.address_of_symbol("numba_parallel_for")


_known = available and KNOWN[0] <= numba.version_info[:2] <= KNOWN[1]
_of_entries, _of_inner, _of_optimised = compilers() if _known else ({}, {}, {})

YES, NO, ZERO = np.bool_(True), np.bool_(False), np.int64(0)  # as arguments: for a literal, Numba compiles the callee anew


def jit(function=None, *, parallel=False, fastmath=False, inline="never", optimised=False):
    """Compile a function that compiled functions call, into them; where Numba is missing, return the function as it is.

    parallel: make it an entry that has Numba's own parallel loops, prange, each of which takes a second to compile.
    optimised: before it is linked, for loops that only vectorise while nothing stands around them; compiles for longer.
    """
    if function is None:
        return functools.partial(jit, parallel=parallel, fastmath=fastmath, inline=inline, optimised=optimised)
    if parallel:
        return entry(function, parallel=parallel, fastmath=fastmath, inline=inline)
    if not available:
        return function
    compiled = _compiled(function, fastmath=fastmath, inline=inline, **(_of_optimised if optimised else _of_inner))
    if _known:
        compiled._insert, compiled._compile_for_args = (lambda *args: None), functools.partial(_refuse, function.__name__)
    return compiled


def entry(function=None, **options):
    """Compile a function that Python calls, cached on disk; where Numba is missing, return it as it is."""
    if function is None:
        return functools.partial(entry, **options)
    if not available:
        return function
    compiled = _compiled(function, **options, **_of_entries)
    compiled.compile = by_itself(compiled, uncollected()(uninterrupted()(compiled.compile)))  # or load it from its cache
    if _started:
        enable_caching(compiled)
    else:
        _jitted.append(compiled)
    return compiled if _known else _guarded(compiled)


def _compiled(function, **options):
    name = function.__module__, function.__qualname__
    _named[name] += 1
    function.__qualname__ += str(_named[name])
    return numba.njit(function, error_model="numpy", nogil=True, **options)


def _refuse(name, *args):
    raise TypeError(f"{name} is compiled into compiled functions alone; a function that Python calls is an @entry")


def jitable(function):
    """Let compiled functions call this one too; whoever else calls it, as the references do, runs it as it stands."""
    return register_jitable(function) if available else function


def _guarded(compiled):
    """An entry with a Numba whose loops cannot be led elsewhere: refused after a fork, and on its own work queue one launch at
    a time.
    """
    @functools.wraps(compiled.py_func)
    def run(*args):
        if _later.without_threads:
            raise RuntimeError("this process was forked after the first parallel kernel; start it by 'spawn' or 'forkserver', "
                               "as in multiprocessing.get_context('spawn'), or fork before any kernel runs")
        with _lock if numba.threading_layer() == "workqueue" else contextlib.nullcontext():
            return compiled(*args)
    return run


if _known:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    _SIZE, _BYTE = ir.IntType(64), ir.IntType(8).as_pointer()
    _LOOP = ir.FunctionType(ir.VoidType(), [_BYTE] * 4)  # arguments, lengths, steps, data
    _PARALLEL_FOR = ir.FunctionType(ir.VoidType(), [_BYTE] * 5 + [_SIZE] * 3)  # a loop, its arguments, two lengths, threads

    def _lent(context, builder, kind, value):
        """An array without its owner, who waits for the tasks: threads that count references to it take turns at the count."""
        if isinstance(kind, types.Array):
            array = context.make_array(kind)(context, builder, value)
            array.meminfo = cgutils.get_null_value(array.meminfo.type)
            value = array._getvalue()
        return value

    @intrinsic
    def parallel(typingctx, n, task, args):
        """task(i, *args) for i in range(n) on Numba's threads, in a compiled function: task is one too, and returns nothing.

        MemoryError if a task runs out of memory. prange takes a second to compile, this a few milliseconds: npgen_parallel_for
        calls the task through a loop of a few instructions, with the arguments in one block of memory. A task keeps none of
        the arrays that it is given.
        """
        kinds = task.get_call_type(typingctx, (types.intp, *map(types.unliteral, args)), {}).args

        def codegen(context, builder, signature, values):
            count, _, packed = values
            compiled = signature.args[1].dispatcher.overloads[kinds]
            context.active_code_library.add_linking_library(compiled.library)
            given = [_lent(context, builder, kind, context.cast(builder, value, was, kind))
                     for value, was, kind in zip(cgutils.unpack_tuple(builder, packed), args, kinds[1:], strict=True)]
            failed = cgutils.alloca_once_value(builder, cgutils.false_bit)
            shared = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [failed, *given]))

            loop = ir.Function(builder.module, _LOOP, builder.module.get_unique_name("loop"))
            loop.linkage = "internal"
            inside = ir.IRBuilder(loop.append_basic_block())
            pointers, lengths = (inside.bitcast(arg, kind.as_pointer()) for arg, kind in zip(loop.args, (_SIZE, _SIZE),
                                                                                             strict=False))
            first, block = (inside.load(inside.gep(pointers, [_SIZE(k)])) for k in range(2))
            flag, *taken = cgutils.unpack_tuple(inside, inside.load(inside.inttoptr(block, shared.type)))
            with cgutils.for_range(inside, inside.load(lengths)) as step:
                status, _ = context.call_internal_no_propagate(inside, compiled.fndesc, types.none(*kinds),
                                                               [inside.add(first, step.index), *taken])
                with inside.if_then(status.is_error, likely=False):
                    inside.store(cgutils.true_bit, flag)
            inside.ret_void()

            def array(*numbers):
                return builder.bitcast(cgutils.alloca_once_value(builder, cgutils.pack_array(builder, numbers)), _BYTE)

            run = cgutils.get_or_insert_function(builder.module, _PARALLEL_FOR, "npgen_parallel_for")
            threads = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_SIZE, []), "get_num_threads")
            builder.call(run, [builder.bitcast(loop, _BYTE), array(_SIZE(0), builder.ptrtoint(shared, _SIZE)), array(count),
                               array(_SIZE(1), _SIZE(0)), _BYTE(None), _SIZE(0), _SIZE(2), builder.call(threads, [])])
            with builder.if_then(builder.load(failed), likely=False):
                context.call_conv.return_user_exc(builder, MemoryError, ("in a parallel loop",))
            return context.get_dummy_value()

        return types.none(types.intp, task, args), codegen
elif available:
    @numba.njit(parallel=True)
    def parallel(n, task, args):
        for i in prange(n):
            task(i, *args)
else:
    def parallel(n, task, args):
        for i in range(n):
            task(i, *args)
