"""Where a model computes: on the CPU, or on an NVIDIA GPU through CuPy."""
import copy

from ..kernels._cuda import asarray, asnumpy, is_device_array, require, zero


class OnDevice:
    """A model that to("cuda") moves; it writes _move, which puts what the mathematics uses where the model computes."""

    _device = "cpu"

    @property
    def device(self):
        """Where this model computes: "cpu", or "cuda" after to("cuda")."""
        return self._device

    def to(self, device):
        """Go on to compute on "cuda", an NVIDIA GPU through CuPy, or on "cpu"; returns self.

        On "cuda", NumPy arrays in give NumPy arrays out, and CuPy arrays in CuPy arrays out; sample() gives NumPy arrays.
        Fitted attributes are NumPy arrays on both, except params_ and preprocess_. It may be called before fit or after.
        Raises ValueError for another name, npgen.kernels.DeviceError where CuPy, a driver or a device is missing; the model is
        then as it was before, and so it is where a device has too little memory.
        """
        if device not in ("cpu", "cuda"):
            raise ValueError(f"to: device must be 'cpu' or 'cuda', got {device!r}")
        if device == "cuda":
            require()
        moved = copy.copy(self)  # a move that fails, for want of memory, leaves this model where it was
        moved._device = device
        if self.__sklearn_is_fitted__():
            moved._move()
        vars(self).update(vars(moved))
        return self

    @property
    def _here(self):
        """An array where this model computes, or None on the host."""
        return zero() if self._device == "cuda" else None

    def _place(self, array):
        """The array, where this model computes."""
        return asarray(array) if self._device == "cuda" else asnumpy(array)

    def _check_place(self, method, name, X):
        if self._device == "cpu" and is_device_array(X):
            raise TypeError(f"{method}: {name} is on the GPU, but this {type(self).__name__} is on the CPU; move the "
                            f"model there with to('cuda'), or pass {name}.get()")
