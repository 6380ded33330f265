"""Numba for the kernels: a decorator that compiles once, caches safely, and does nothing where Numba is missing; its threads.

Every kernel file has a cache folder of its own, named by a hash of its source and of those of the kernel files that it
imports, because Numba's own cache does not see an edit in a helper that lives in another file (numba #1833). Where no
folder is writable, nothing is cached (numba #4908). The folders are made before the first kernel runs, not by an import, and
those of older versions that nobody has used for weeks go.
Numba numbers the files of a function's signatures, and two processes that compile different ones at the same time would
take the same number, after which one is answered with the other's machine code: here every file has a name of its own.
Of several processes that need the same function, one compiles it, and the others wait for it.
Cached machine code finds its callees by name, and closures that share one would be taken for one another: each is numbered.
Numba compiles the two wrappers around a parallel loop, and the loop in them, by themselves as well as in the function that
has the loop, and only ever runs the last: here the wrappers are only linked, which saves a quarter of the time.
Numba and LLVM do not survive an exception in the middle of a compilation: a Ctrl-C is heard at its end.

A parallel loop calls npgen_parallel_for, which hands it to Numba's threads. Without them it runs on the calling thread, to the
same bits: in a process forked after they were started, which does not have them (GNU OpenMP would end it), and
on Numba's own work queue, which more than one caller at a time would abort, while another thread has it.
"""
import collections
import contextlib
import functools
import gc
import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import numpy as np

from . import _later

try:
    import numba
    from numba import get_num_threads, get_thread_id, prange
    from numba.extending import register_jitable
    available, unavailable = True, ""
except Exception as error:  # a broken llvmlite raises OSError, an unsupported NumPy raises ImportError
    numba, prange, get_num_threads, get_thread_id, register_jitable = None, range, None, None, None
    available, unavailable = False, f"Numba cannot be imported ({type(error).__name__}: {error})"

KNOWN = ((0, 61), (0, 68))  # the Numbas whose inside _linked_wrappers has been tested with; others compile for longer
PATIENCE = 60  # seconds that a process waits for another that compiles the same function
KEPT, UNUSED = 4, 21 * 24 * 3600  # a file's folders of other versions that stay, the last used; seconds, before others go
ON_THE_HOST = {"__init__", "_cuda", "_dispatch", "_later"}  # files of which no compiled function takes anything
_BESIDE = re.compile(r"^\s*from \.(\w*) import (\([^)]*\)|.+)", re.MULTILINE)


def imported(text, files):
    """Which of these kernel files a source imports itself; ast takes 70 ms for all sources, and the expression 1."""
    return files & {name for file, names in _BESIDE.findall(text) for name in re.findall(r"\w+", file or names)}


@functools.cache
def folder_names():
    """{kernel file: the name of its cache folder}."""
    texts = {file.stem: file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("*.py")}
    beside = {file: imported(text, texts.keys() - ON_THE_HOST) for file, text in texts.items()}
    names = {}
    for file in texts.keys() - ON_THE_HOST:
        reached, new = set(), {file}
        while new:
            reached |= new
            new = set().union(*map(beside.get, new)) - reached
        digest = hashlib.sha256("\0".join(f"{name}\0{texts[name]}" for name in sorted(reached)).encode())
        names[file] = f"kernels-{file}-{digest.hexdigest()[:16]}"
    return names


@functools.cache
def cache_folder():
    """What the kernel files' folders lie in, made if need be: the first of NPGEN_CACHE_DIR, the user's cache folder and the
    temporary folder where that can be done; None if there is none, and without Numba.
    """
    if not available:
        return None
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA", "~\\AppData\\Local")
    elif sys.platform == "darwin":
        home = "~/Library/Caches"
    else:
        home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    user = getattr(os, "getuid", lambda: "user")()
    roots = [os.environ.get("NPGEN_CACHE_DIR"), os.path.join(home, "npgen"),
             os.path.join(tempfile.gettempdir(), f"npgen-{user}")]
    for root in filter(None, roots):
        root = Path(root).expanduser().absolute()
        ours = [root / name for name in folder_names().values()]
        try:
            for folder in ours:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if all(map(_owned, ours)):  # never load another user's code
                for folder in ours:
                    tempfile.TemporaryFile(dir=folder).close()
                _leave(root, ours)
                return root
        except OSError:
            continue
    return None


def _owned(folder):
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def _leave(root, ours):
    """Mark folders as used now, and remove those of other versions, but for each file's last used and the ones in use."""
    with contextlib.suppress(OSError):
        for folder in ours:
            os.utime(folder)
        others = collections.defaultdict(list)
        for folder in set(root.iterdir()) - set(ours):
            name = re.fullmatch("kernels(-\\w+)?-[0-9a-f]{16}", folder.name)
            if name and folder.is_dir() and not folder.is_symlink() and _owned(folder):
                others[name[1]].append((folder.stat().st_mtime, folder))
        for versions in others.values():
            for used, other in sorted(versions, reverse=True)[KEPT:]:
                if time.time() - used > UNUSED:
                    shutil.rmtree(other, ignore_errors=True)


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


def _by_itself(compiled, compile):
    """compile(signature), while no other process does it for this function: what one compiles, the others load.

    Should the other have been stopped, none waits for longer than PATIENCE.
    """
    @functools.wraps(compile)
    def run(signature):
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError, TypeError, ImportError):  # a folder that is gone, no cache, Windows
                import fcntl
                file = held.enter_context(open(os.path.join(compiled.stats.cache_path, f"{compiled.__name__}.lock"), "w"))
                until = time.monotonic() + PATIENCE
                while not _locked(fcntl, file) and time.monotonic() < until:
                    time.sleep(0.002)
            return compile(signature)
    return run


def _locked(fcntl, file):
    """Whether this process has the lock now, which goes when the file is closed, or with the process, and into no fork."""
    with contextlib.suppress(BlockingIOError, PermissionError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


_help = None  # what starts another process that compiles as well


@contextlib.contextmanager
def helped(start):
    """A block in which the first function that has to be compiled calls start(), once."""
    global _help
    before, _help = _help, start
    try:
        yield
    finally:
        _help = before


def call_help():
    """start() of the block helped(start), unless that was done."""
    global _help
    start, _help = _help, None
    if start is not None:
        start()


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
                    _enable_caching(function)
                _jitted.clear()
                _started = True


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
    machine = llvmlite.binding.Target.from_default_triple().create_target_machine()
    engine = llvmlite.binding.create_mcjit_compiler(llvmlite.binding.parse_assembly(str(module)), machine)
    engine.finalize_object()
    _lead_loops.kept = engine  # whose memory the machine code lies in
    llvmlite.binding.add_symbol("npgen_parallel_for", engine.get_function_address("npgen_parallel_for"))
    _threads[0] = 0 if _later.without_threads else llvmlite.binding.address_of_symbol("numba_parallel_for")


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


def _compilers():
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


_known = available and KNOWN[0] <= numba.version_info[:2] <= KNOWN[1]
_of_entries, _of_inner, _of_optimised = _compilers() if _known else ({}, {}, {})

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
    compiled.compile = _by_itself(compiled, uncollected()(uninterrupted()(compiled.compile)))  # or load it from its cache
    if _started:
        _enable_caching(compiled)
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


def _enable_caching(compiled):
    package, _, file = compiled.__module__.rpartition(".")
    if package != __package__ or cache_folder() is None:
        return
    saved = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_folder() / folder_names()[file])
    try:
        compiled.enable_caching()
    finally:
        numba.config.CACHE_DIR = saved
    with contextlib.suppress(AttributeError):  # a Numba that names its files otherwise
        compiled._cache._cache_file._data_name = lambda number: f"{compiled.__name__}-{uuid.uuid4().hex}.nbc"


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
