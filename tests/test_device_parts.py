"""Every head and every transform on a device: the cases of test_heads.py and test_transforms.py, answered as on the host."""
import cupy_standin
import numpy as np
import pytest
import test_heads as heads
import test_transforms as transforms
from test_device import both

from npgen.engine import grad
from npgen.heads import Normal
from npgen.heads.normal import normal_between
from npgen.kernels._cuda import asarray, is_device_array
from npgen.random import Stream
from npgen.transforms import Standardize

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def here(part, *arrays):
    """The part where the arrays are."""
    return part.to(asarray) if any(map(is_device_array, arrays)) else part


def agree(f, arrays, dtype):
    for want, got in zip(*both(f, *arrays), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        tolerance = 2e-4 if dtype == np.float32 else 1e-9
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def of_head(head, x, outputs, noise):
    """All that a model asks of a head; and the gradient by its outputs."""
    own = here(head, x)
    slope = grad(lambda o: np.sum(np.sin(own.log_prob(x, o))))(outputs)
    return own.log_prob(x, outputs), slope, own.mean(outputs), own.variance(outputs), own.sample(noise, outputs), own.inputs(x)


@DTYPES
@pytest.mark.parametrize("name", heads.OF)
def test_a_head_answers_there_as_on_the_host(cupy, name, dtype):
    head = heads.OF[name]
    noise = head.noise(Stream(3), (heads.N, heads.D), dtype)
    agree(lambda *arrays: of_head(head, *arrays),
          (heads.ROWS[name].astype(dtype), heads.OUTPUTS[name].astype(dtype), noise), dtype)


@pytest.mark.parametrize("name", heads.OF)
def test_a_head_draws_its_noise_there(cupy, name):
    noise = heads.OF[name].noise
    there = noise(Stream(3), (5, heads.D), np.float64, like=cupy.asarray(np.zeros(1)))
    assert is_device_array(there) and cupy.asnumpy(there).tobytes() == noise(Stream(3), (5, heads.D), np.float64).tobytes()


@pytest.mark.parametrize("name", heads.OF)
def test_a_head_is_not_waited_for(standin, name):
    """What a head makes of arrays there stays there: no value comes back."""
    head, arrays = heads.OF[name], (heads.ROWS[name], heads.OUTPUTS[name])
    noise = head.noise(Stream(3), (heads.N, heads.D), np.float64)
    x, outputs, noise = map(standin.asarray, (*arrays, noise))
    own = head.to(asarray)
    with cupy_standin.forbidden("reads"):
        of_head(own, x, outputs, noise)


def test_draws_far_out_are_those_of_the_host(cupy):
    """A device has no inverse of the logarithm of the cdf, but an expansion of it."""
    low, high = np.array([[-50.0, 36, 40, 200, 1e4, -3, -1e100], [-45.0, 1e100, 1e100, 201, 1e100, 2, 1e100]])
    log_u = np.log(Stream(0).uniform((500, 7)))
    for want, got in zip(*both(lambda *arrays: [normal_between(*arrays)], log_u, low, high), strict=True):
        assert (low <= got).all() and (got <= high).all()
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(got[:, :2], want[:, :2], atol=1e-4)
        np.testing.assert_allclose(got[:, 5:], want[:, 5:], rtol=1e-9, atol=1e-9)


def of_transform(t, names, x, *rest):
    """Both ways, and the gradients by rows and parameters."""
    own, p, c = here(t, x), dict(zip(names, rest, strict=False)), rest[len(names)] if len(rest) > len(names) else None
    z, log_det = own.to_noise(p, x, c)
    learned = {k: v for k, v in p.items() if not k.endswith(".statistics")}

    def value(x, learned):
        z, log_det = own.to_noise({**p, **learned}, x, c)
        return np.sum(np.sin(z)) + np.sum(np.cos(log_det))

    slopes = grad(value, (0, 1))(x, learned) if learned else grad(lambda x: value(x, {}))(x)
    return z, log_det, own.to_data(p, z, c), slopes


@DTYPES
@pytest.mark.parametrize("name, w", transforms.ALL)
@pytest.mark.filterwarnings("ignore:Standardize. x.1, 3. is -900")
def test_a_transform_answers_there_as_on_the_host(cupy, name, w, dtype):
    t, p, x, c = transforms.made(name, w, dtype)
    if transforms.integers(name):  # whose noise is a hash of a row's bits, and to which no derivative goes back
        agree(lambda x: here(t, x).to_noise({}, x, None), (x,), dtype)
        return
    agree(lambda *arrays: of_transform(t, list(p), *arrays), (x, *p.values(), *([] if c is None else [c])), dtype)


@pytest.mark.parametrize("part, method", [(Normal, "mean"), (Standardize, "to_noise")])
def test_a_mistake_on_the_device_alone_is_found(cupy, monkeypatch, part, method):
    right = getattr(part, method)

    def wrong(self, *args):
        answer, there = right(self, *args), any(map(is_device_array, args))
        return tuple(1.01 * a for a in answer) if there and type(answer) is tuple else 1.01 * answer if there else answer

    monkeypatch.setattr(part, method, wrong)
    with pytest.raises(AssertionError, match="Not equal"):
        if part is Normal:
            test_a_head_answers_there_as_on_the_host(cupy, "normal", np.float64)
        else:
            test_a_transform_answers_there_as_on_the_host(cupy, "standardize", 0, np.float64)
