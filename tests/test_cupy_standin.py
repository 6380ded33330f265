"""The stand-in for CuPy: it refuses what CuPy refuses, and has nothing that CuPy has not."""
import copy
import functools
import inspect
import pickle

import cupy_standin
import numpy as np
import pytest
import scipy.special
from cupy_standin import CREATING, FUNCTIONS, METHODS, PLAIN, READING, SPECIAL, UFUNCS, forbidden, signatures, traffic

from npgen import ops
from npgen.engine import Tensor, grad

HOST = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def x(cupy):
    return cupy.asarray(HOST)


# ---------------------------------------------------------------- against CuPy itself

@pytest.fixture
def real():
    return pytest.importorskip("cupy", reason="no CuPy: the stand-in is NOT compared with it")


def test_its_functions_have_cupys_parameters(real):
    def parameters(signature):
        return [(p.name, p.kind) for p in signature.parameters.values()]

    different = {}
    for name, ours in signatures(FUNCTIONS + CREATING[1:] + READING[1:] + PLAIN[1:]):
        function = functools.reduce(getattr, name.split("."), real)
        if inspect.isfunction(function) and parameters(ours) != parameters(inspect.signature(function)):
            different[name] = inspect.signature(function)
    assert not different


def test_its_names_are_cupys(real):
    assert [name for name in UFUNCS if not hasattr(real, name)] == []
    methods = [name for name, _ in signatures(METHODS)] + cupy_standin.ATTRIBUTES
    own = [name for name in vars(cupy_standin.ndarray) if name not in ("_host", "__dict__", "__weakref__")]
    assert [name for name in methods + own if not hasattr(real.ndarray, name)] == []
    for name in ("array", "asarray", "ascontiguousarray", "asnumpy", "empty"):
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (cupy_standin, real))
        assert list(ours) == [n for n in theirs if n in ours]
    assert hasattr(real, "RawModule")
    for name in ("getDeviceCount", "getDevice", "getDeviceProperties", "CUDARuntimeError", "memcpyAsync"):
        assert hasattr(real.cuda.runtime, name)
    assert real.cuda.runtime.memcpyDeviceToDevice == 3
    for name in ("Graph", "Stream", "Event", "MemoryPool", "MemoryPointer"):
        theirs, ours = getattr(real.cuda, name), getattr(cupy_standin, {"MemoryPointer": "_Pointer"}.get(name, name))
        assert [each for each in vars(ours) if each[0] != "_" and each != "arrays" and not hasattr(theirs, each)] == []


def test_its_special_functions_are_cupys(real):
    special = pytest.importorskip("cupyx.scipy.special", reason="no cuBLAS: cupyx is NOT looked into", exc_type=ImportError)
    assert [name for name in SPECIAL if not hasattr(special, name)] == []


# ---------------------------------------------------------------- what it refuses

REFUSED = {
    "a sum with a host array": lambda x: x + HOST, "a host array first": lambda x: HOST + x,
    "a ufunc of both": lambda x: np.multiply(x, HOST), "in place": lambda x: x.__iadd__(HOST),
    "into a host array": lambda x: HOST.copy().__iadd__(x), "a product": lambda x: x @ HOST.T,
    "a comparison": lambda x: x < HOST, "concatenate": lambda x: np.concatenate([x, HOST]),
    "where": lambda x: np.where(x > 0, x, HOST), "stack": lambda x: np.stack([HOST, x]),
    "asarray": np.asarray, "ascontiguousarray": np.ascontiguousarray, "array": np.array,
    "assignment": lambda x: HOST.copy().__setitem__(slice(None), x), "a function of the host": lambda x: np.linalg.pinv(x),
    "NumPy's keyword": lambda x: np.reshape(x, shape=(6,)), "an argument that CuPy lacks": lambda x: np.sum(x, initial=0.0),
    "a method's": lambda x: x.min(initial=0), "reduce": lambda x: np.fmax.reduce(x), "a list": lambda x: x + [1, 2, 3],
    "math": lambda x: HOST.__setitem__(0, x), "hash": hash, "range": lambda x: range(x[0, 0]),
    "entries of a ufunc": lambda x: np.log(x, where=x > 0), "order of a ufunc": lambda x: np.exp(x, order="F"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cupy_refuses(x, what):
    with pytest.raises(TypeError):
        REFUSED[what](x)


MANIPULATED = {
    "repeats on the device": lambda x: np.repeat(x, x[0].astype(int)), "a method's": lambda x: x.repeat(x[0].astype(int)),
    "a shape that is a number": lambda x: np.broadcast_to(x[0, :1], 3), "order K": lambda x: np.ravel(x, order="K"),
    "a method's order": lambda x: x.ravel(order="K"), "a condition of the host": lambda x: np.where(True, x, x),
    "a sort by another way": lambda x: np.argsort(x, kind="quicksort"),
}


@pytest.mark.parametrize("what", MANIPULATED)
def test_what_cupys_manipulation_refuses(x, what):
    with pytest.raises((TypeError, ValueError, NotImplementedError, AttributeError), match="repeats|len|order|astype|kind"):
        MANIPULATED[what](x)


def test_assigning_a_host_array_is_refused(x):
    with pytest.raises(ValueError, match="cannot be used for fill"):
        x[:] = HOST
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)
    for array, name in ((x, "put_along_axis"), (x.flags, "writeable"), (x.flags, "aligned")):
        with pytest.raises(AttributeError):
            getattr(array, name)
    with pytest.raises(TypeError, match="incorrect type"):
        __import__("cupy").ascontiguousarray(HOST)


# ---------------------------------------------------------------- what it does

ALLOWED = {
    "numbers": lambda x: 2.0 * x + np.float32(1), "exp": np.exp, "sum": lambda x: np.sum(x, axis=0, keepdims=True),
    "total": np.sum, "index": lambda x: x[1, 2], "rows": lambda x: x[np.array([1, 1])], "mask": lambda x: x[x > 1],
    "matmul": lambda x: x @ np.transpose(x), "reshape": lambda x: np.reshape(x, (3, -1)),
    "where": lambda x: np.where(x > 1, x, 0), "split": lambda x: np.split(x, 2)[1],
    "slogdet": lambda x: np.linalg.slogdet(x[:, :2])[1], "like": lambda x: np.zeros(3, np.float32, like=x),
    "asarray": lambda x: np.asarray([1.0, 2.0], like=x), "method": lambda x: x.mean(axis=1),
    "einsum": lambda x: np.einsum("ij,kj->ik", x, x), "erf": scipy.special.erf, "astype": lambda x: x.astype(float),
    "take": lambda x: np.take(x, [2, 0], axis=1), "transposed": lambda x: x.T, "close": lambda x: np.allclose(x, x),
    "equal": lambda x: np.array_equal(x, x), "how many": lambda x: np.count_nonzero(x),
}


@pytest.mark.parametrize("what", ALLOWED)
def test_what_it_gives_is_numpys_on_the_device(x, what):
    got, want = ALLOWED[what](x), np.asarray(ALLOWED[what](HOST))
    assert type(got) is type(x) and type(got).__module__ == "cupy"  # a 0-d array where NumPy gives a number
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_array_equal(got.get(), want)


def test_rows_behind_the_last_are_the_first_again(cupy):
    """_take and _scatter_op_default of CuPy take an index modulo the length: a step that is captured last of an epoch may."""
    x, at = cupy.asarray(np.arange(3.0)), cupy.asarray(np.array([1, 3, -1]))
    assert cupy.asnumpy(np.take(x, at)).tolist() == [1, 0, 2]
    x[at] = cupy.asarray(np.array([7.0, 8, 9]))
    assert cupy.asnumpy(x).tolist() == [8, 7, 9]


@pytest.mark.parametrize("like", [np.zeros_like, np.ones_like, np.empty_like, lambda x, shape: np.full_like(x, 2, shape=shape)])
def test_an_empty_shape_is_no_shape(x, like):
    for shape in ((), 0, None):  # cupy/_creation/basic.py: shape if shape else a.shape
        assert like(x, shape=shape).shape == (2, 3)
    assert like(x, shape=(0,)).shape == (0,) and like(x[0, 0], shape=()).shape == () and like(x, shape=4).shape == (4,)


def test_what_cusolver_cannot_do_it_says_to_nobody(x):
    """cupyx/_ufunc_config.py: linalg is "ignore" unless somebody asks for "raise", which waits for the device."""
    square = x[:, :2] * 0 - 1
    for matrices in (square, np.stack([square, square])):
        assert np.array_equal(np.linalg.cholesky(matrices).get(), np.tril(matrices.get()))  # what it was at
    assert not np.isfinite(np.linalg.inv(square).get()).any()
    with pytest.raises(np.linalg.LinAlgError, match="square"):
        np.linalg.cholesky(x)


def test_at_and_assignment_change_it_in_place(x):
    x[0] = 5.0
    x[x > 4.5] = 1.0
    np.add.at(x, (np.array([1, 1]), np.array([0, 0])), 1.0)
    np.testing.assert_array_equal(x.get(), [[1, 1, 1], [5, 4, 1]])
    view = x[1]
    view += 1
    np.testing.assert_array_equal(x.get()[1], [6, 5, 2])


READS = {
    "float": lambda x: float(x[0, 0]), "bool": lambda x: bool(x[0, 0]), "int": lambda x: int(x[0, 0]),
    "item": lambda x: x[0, 0].item(), "get": lambda x: x.get(), "asnumpy": lambda x: __import__("cupy").asnumpy(x),
    "str": str, "repr": repr, "format": lambda x: f"{x}", "a mask": lambda x: x[x > 1], "flatnonzero": np.flatnonzero,
    "tolist": lambda x: x.tolist(), "if": lambda x: 1 if x.any() else 2, "pickle": pickle.dumps,
    "a mask that is assigned to": lambda x: x.copy().__setitem__(x > 1, 0.0), "if equal": lambda x: not np.array_equal(x, x),
}


@pytest.mark.parametrize("what", READS)
def test_reading_back_is_counted_and_can_be_forbidden(x, what):
    before = traffic["reads"]
    READS[what](x)
    assert traffic["reads"] > before
    with forbidden("reads"), pytest.raises(AssertionError, match="forbidden"):
        READS[what](x)
    READS[what](x)


@pytest.mark.parametrize("what", [what for what in ALLOWED if what not in READS and what != "mask"])
def test_computing_reads_nothing_back(x, what):
    with forbidden("reads"):
        ALLOWED[what](x)


def test_sending_is_counted(cupy):
    before = traffic["sent"]
    x = cupy.asarray(HOST)
    assert traffic["sent"] == before + HOST.nbytes
    with forbidden("sent"):
        assert cupy.asarray(x) is not None and (x * 2)[0] is not None
        assert np.concatenate([x] * 8) is not None and np.stack([*[x] * 8, x[:, 0:] > 1]) is not None
        for send in (lambda: cupy.asarray(HOST), lambda: x.__setitem__(np.argmax(x, axis=1), 0.0),
                     lambda: np.concatenate([x] * 9), lambda: np.stack([x] * 9)):
            with pytest.raises(AssertionError):
                send()


def test_copies_are_its_own(x):
    for other in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert type(other) is type(x)
        other[:] = 0.0
    np.testing.assert_array_equal(x.get(), HOST)


def test_a_tensor_has_its_turn(x):
    got = grad(lambda t: np.sum(x * t + t * x + np.multiply(x, t) + (x < t) + np.where(x > 1, t, x)))(x)
    np.testing.assert_array_equal(got.get(), 3 * HOST + (HOST > 1))
    assert type(ops.exp(x)) is type(x) and not isinstance(x, (np.ndarray, Tensor))


def test_without_it_there_is_no_cupy():
    import sys
    before = sys.modules.get("cupy")
    with cupy_standin.installed() as cupy:
        assert sys.modules["cupy"] is cupy
    assert sys.modules.get("cupy") is before
