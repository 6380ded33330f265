"""Several processes that compile: of those that need the same function, one compiles it, and the others wait for it.

A process that has to compile may start another that helps, once.
"""
import contextlib
import functools
import os
import time

PATIENCE = 60  # seconds that a process waits for another that compiles the same function
_help = None  # what starts another process that compiles as well


def by_itself(compiled, compile):
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
