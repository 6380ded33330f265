"""Ctrl-C in a command: it ends one line, whatever the interpreter was doing when it came."""
import contextlib
import signal
import sys
import threading


@contextlib.contextmanager
def ctrl_c():
    """A list that is no longer empty once Ctrl-C was pressed; it raises KeyboardInterrupt where Python can pass that on.

    It waits for an import to end, because a C extension that cannot import NumPy prints a traceback and raises another error,
    and for llvmlite, which frees a string twice when it is cut off between doing so and noting it; it comes again if it came
    inside a callback of compiled code. Where SIGINT is ignored, as in a script's job, it stays so.
    """
    pressed, again = [], []

    def press(_, frame):
        pressed.append(True)
        if _waits(frame):
            return later()
        raise KeyboardInterrupt

    def lost(unraisable):
        if unraisable.exc_type is not KeyboardInterrupt:
            return hook(unraisable)
        later()

    def later():
        again.append(threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]))
        again[-1].start()

    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    signal.signal(signal.SIGINT, press)
    sys.unraisablehook = lost
    try:
        yield pressed
    finally:
        for timer in again:
            timer.cancel()
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)


def _waits(frame):
    """Is an import under way, or llvmlite, in a frame or in those that called it?"""
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""
        if frame.f_code.co_filename.startswith("<frozen importlib") or name.startswith("llvmlite"):
            return True
        frame = frame.f_back
    return False
