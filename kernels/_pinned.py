"""Host arrays that do not fit on a device, sent there one after the other while it computes with the one before.

    for x, w in streamed([(x_0, w_0), (x_1, w_1), ...]): ...

Two pinned buffers of the host and two of the device take turns. A copy goes by a stream of its own, and events keep the order:

    host      wait until the pinned buffer was copied; fill it
    copies    wait until kernels are through with the buffer on the device; copy; record `copied`
    kernels   wait for `copied`; run; record `used`

Reference: NVIDIA, CUDA C++ best practices guide, section 10.1.2, asynchronous and overlapping transfers with computation.
"""
import numpy as np

from . import _cuda

ALIGNED = 512  # bytes, as CuPy's own memory is


def fits(n_bytes):
    """Whether so many bytes leave as much of the device's memory to what is computed."""
    return n_bytes <= _cuda.require().cuda.runtime.memGetInfo()[0] // 2


def streamed(parts):
    """Tuples of host arrays as tuples on the device, where each lies until the next is asked for."""
    cupy = _cuda.require()
    kernels, copies = cupy.cuda.get_current_stream(), cupy.cuda.Stream(non_blocking=True)
    buffers = [_Buffer(cupy, max(map(_size, parts))) for _ in parts[:2]]
    try:
        for i, part in enumerate(parts):
            buffer = buffers[i % 2]
            buffer.copied.synchronize()
            buffer.fill(part)
            copies.wait_event(buffer.used)
            cupy.cuda.runtime.memcpyAsync(buffer.there.data.ptr, buffer.pinned.ptr, _size(part),
                                          cupy.cuda.runtime.memcpyHostToDevice, copies.ptr)
            buffer.copied.record(copies)
            kernels.wait_event(buffer.copied)
            yield buffer.views(part)
            buffer.used.record(kernels)
    finally:
        copies.synchronize()  # before anybody is given the pinned memory


class _Buffer:
    """Pinned memory of the host, as much on the device, and the events after which each may be written again."""

    def __init__(self, cupy, size):
        self.pinned, self.there = cupy.cuda.alloc_pinned_memory(size), _cuda.empty((size,), np.uint8)
        self.host = np.frombuffer(self.pinned, np.uint8, size)
        self.copied, self.used = (cupy.cuda.Event(disable_timing=True) for _ in range(2))

    def fill(self, part):
        for a, place in zip(part, _places(part), strict=True):
            self.host[place] = np.ascontiguousarray(a).reshape(-1).view(np.uint8)

    def views(self, part):
        return tuple(self.there[place].view(a.dtype).reshape(a.shape) for a, place in zip(part, _places(part), strict=True))


def _places(part):
    """Where the bytes of each array lie in a buffer."""
    low = 0
    for a in part:
        yield slice(low, low + a.nbytes)
        low += -(-a.nbytes // ALIGNED) * ALIGNED


def _size(part):
    return sum(-(-a.nbytes // ALIGNED) * ALIGNED for a in part)
