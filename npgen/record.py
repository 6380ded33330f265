"""A step recorded once and run again: what it did to arrays, in turn, on the same arrays.

    recording = Recording(stream)
    with recording:
        answers = step(*map(recording.array, arrays), recording.stream)
    recording.replay(stream)

A step is a fixed sequence of kernels and NumPy functions on arrays of fixed shapes, and the Python between them, which finds
that sequence, costs as much as a small kernel. On Recorded arrays it computes as it does on others, and every call is written
down with the arrays that it read and filled: replay makes these calls again. What arrays hold may change in between, and does:
the rows' numbers, parameters, the clock. The stream's draws go on from where it is.

A Recorded array is to its step what an array on a GPU is: it has a shape and no value. A step that asks for one, in a branch,
by float() or np.asarray(), or that does anything else of which no call was seen, raises Unrecordable, and has to be taken the
ordinary way. What it does beside, to Python's own objects, is done once: such a step must be a function of arrays.
"""
import operator
from functools import partial

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from .checks import with_article
from .kernels import _jit
from .kernels import random as _kernel
from .kernels._dispatch import again, recorded_by
from .random import Stream
from .tensor import Tensor

MOST = 2**26  # bytes of arrays that a recording keeps: a step over more has no need of it


def n_threads():
    """How many threads kernels have: their memory for each of them is recorded, too."""
    return _jit.get_num_threads() if _jit.available else 1


class Unrecordable(Exception):
    """A step did what no recording can do again."""


# NumPy's functions of arrays alone: the shape of an answer is given by those of the arguments. Every ufunc is one, too.
FUNCTIONS = {np.reshape, np.ravel, np.transpose, np.swapaxes, np.moveaxis, np.expand_dims, np.squeeze, np.broadcast_to, np.flip,
             np.concatenate, np.stack, np.split, np.repeat, np.tile, np.where, np.take, np.take_along_axis, np.copy, np.diff,
             np.sum, np.mean, np.var, np.std, np.prod, np.max, np.min, np.any, np.all, np.cumsum, np.argmax, np.argmin, np.clip,
             np.argsort, np.sort, np.dot, np.einsum, np.tensordot, np.outer, np.tril, np.triu, np.diagonal, np.diag, np.trace,
             np.round, np.real, np.imag, np.ndim, np.shape, np.size, np.result_type}
REDUCING = {np.sum: np.add.reduce, np.prod: np.multiply.reduce, np.max: np.maximum.reduce, np.min: np.minimum.reduce}
FILLING = {*REDUCING.values(), np.mean, np.any, np.all, np.cumsum, np.concatenate, np.stack}  # those that take out=
FACTS = {np.ndim, np.shape, np.size, np.result_type}  # those that give no array
MADE = {np.zeros_like: 0, np.ones_like: 1, np.zeros: 0, np.ones: 1, np.full_like: None, np.empty_like: None, np.empty: None}
METHODS = ("reshape", "ravel", "transpose", "swapaxes", "squeeze", "astype", "copy", "repeat", "take", "sum", "mean", "var",
           "std", "max", "min", "any", "all", "prod", "cumsum", "argmax", "argmin", "clip", "dot", "round")


class Recording:
    """The calls of one step, which may draw from `stream`; sound: whether replay does all that it did."""

    def __init__(self, stream):
        self.calls, self.places, self.lent, self.nbytes, self.sound = [], [], {}, 0, True
        self.counter, self.stream = [stream.counter], _Stream(stream, self)

    def array(self, value):
        """An array that the step reads or writes."""
        return Recorded(value, self)

    def __enter__(self):
        self._hook = recorded_by(self)
        self._hook.__enter__()
        return self

    def __exit__(self, *error):
        self._hook.__exit__(*error)
        self.blocks = self.stream.counter - self.counter[0]
        self.lent.clear()
        del self.stream, self._hook  # which know the recording: it goes when nobody else does

    @staticmethod
    def value(answer):
        """What lies beneath an answer of the step."""
        return answer.value if type(answer) is Recorded else answer

    def replay(self, stream):
        """Do it all again; the stream goes on as it did."""
        self.counter[0] = stream.counter
        again(self.calls, self.places)
        stream.counter += self.blocks

    # ------------------------------------------------------------ what is written down

    def refuse(self, why):
        """Raise Unrecordable, of which whoever recorded learns even if somebody hears it."""
        self.sound = False
        raise Unrecordable(why)

    def function(self, function, args, params):
        """What a NumPy function gives."""
        args, params = _values(args), _values(params)
        if function in MADE:
            return self._made(function, args, params)
        if function not in FUNCTIONS or function is np.where and len(args) < 3:
            self.refuse(f"{function.__name__} is none of npgen.record.FUNCTIONS")
        if function in REDUCING and len(args) == 1:
            function, params = REDUCING[function], {"axis": None} | params
        if function is np.take and _within(*args, **params):  # NumPy fills no answer that it might have to refuse
            params |= {"mode": "clip"}
        answer = function(*args, **params)
        if function in FACTS:
            return answer
        filling = (function in FILLING or params.get("mode") == "clip") and "out" not in params
        return self.keep(answer, function, args, params, filling)

    def _made(self, function, args, params):
        answer = np.asarray(function(*args, **params))
        if answer.dtype == bool:  # which entries an index chooses: a constant of the step
            return answer
        fill = MADE[function] if function is not np.full_like else answer.flat[0] if answer.size else 0
        if fill is not None:
            self.calls.append(partial(answer.fill, fill))
        return self._counted(answer)

    def ufunc(self, function, args, params):
        """What a ufunc gives, or one of its methods."""
        out, (args, params) = params.pop("out", None), (_values(args), _values(params))
        if out is not None:
            if not all(type(a) is Recorded for a in out):
                self.refuse("what it writes to an array of its own is there again in a replay")
            into = {} if function.__name__ == "at" else {"out": tuple(map(_value, out))}
            self.calls.append(call := partial(function, *args, **params, **into))
            call()
            return out[0] if len(out) == 1 else out
        return self.keep(function(*args, **params), function, args, params, filling=True)

    def place(self, array):
        """An array that a kernel takes for its own."""
        if type(array) is Recorded:
            self.lent[id(array.value)] = array
            array = array.value
        else:
            self.nbytes += array.nbytes
        self.places.append(array)
        return array

    def kernel(self, kernel, args):
        """What a kernel gives."""
        drawn = {k: a for k, a in enumerate(args) if type(a) is _Place}
        args = [int(a) if k in drawn else a for k, a in enumerate(_values(args))]
        before, run = len(self.places), kernel.side(args)
        answers = kernel.run(run, args)
        known = (*self.places[before:], *(a for a in args if isinstance(a, np.ndarray)))
        redo = partial(_drawing, drawn, run, args) if drawn else partial(run, *args)
        several = answers if type(answers) is tuple else (answers,)
        if not all(a.size == 0 or any(np.may_share_memory(a, b) for b in known) for a in several):
            redo = partial(_fill, several, redo)
        self.calls.append(redo)
        kept = tuple(map(self._counted, several))
        return kept if type(answers) is tuple else kept[0]

    def keep(self, answer, function, args, params, filling):
        """The answer of a call as a Recorded array, which the call fills again if it has memory of its own."""
        if type(answer) in (tuple, list):
            kept = [np.asarray(a) for a in answer]
            if not all(_is_view(a, (args, params)) for a in kept):
                self.calls.append(partial(_fill, kept, partial(function, *args, **params)))
            return type(answer)(map(self._counted, kept))
        if not isinstance(answer, (np.ndarray, np.generic)):
            self.refuse(f"{function} gives {with_article(answer)}, no array")
        answer = np.asarray(answer)
        if not _is_view(answer, (args, params)):
            if filling:
                self.calls.append(partial(function, *args, **params, out=answer))
            else:
                self.calls.append(partial(_fill, (answer,), partial(function, *args, **params)))
        return self._counted(answer)

    def _counted(self, answer):
        if id(answer) in self.lent:
            return self.lent[id(answer)]
        self.nbytes += answer.nbytes if answer.base is None else 0
        if self.nbytes > MOST:
            self.refuse(f"it keeps more than {MOST} bytes")
        return Recorded(answer, self)


class Recorded(NDArrayOperatorsMixin):
    """An array of a step that is being recorded."""

    __slots__ = ("value", "recording")
    __hash__ = object.__hash__

    def __init__(self, value, recording):
        self.value, self.recording = value, recording

    def __array_ufunc__(self, ufunc, method, *inputs, **params):
        if any(type(a) is Tensor for a in inputs):
            return NotImplemented
        if method == "at":
            params["out"] = inputs[:1]
        return self.recording.ufunc(ufunc if method == "__call__" else getattr(ufunc, method), inputs, params)

    def __array_function__(self, function, types, args, params):
        if Tensor in types:
            return NotImplemented
        if function in (np.asarray, np.arange):  # like this one: a constant of the step
            return args[0] if type(args[0]) is Recorded else function(*_values(args), **params)
        return self.recording.function(function, args, params)

    def __getitem__(self, index):
        index = _values(index)
        if any(getattr(each, "dtype", int) == np.bool_ for each in (index if type(index) is tuple else (index,))):
            self.recording.refuse("how many rows a mask chooses depends on values")
        answer = self.value[index]
        if isinstance(answer, np.generic):
            answer = self.value[*(index if type(index) is tuple else (index,)), ...]
        return self.recording.keep(answer, operator.getitem, (self.value, index), {}, filling=False)

    def __setitem__(self, index, value):
        self.recording.calls.append(call := partial(operator.setitem, self.value, _values(index), _value(value)))
        call()

    def __len__(self):
        return len(self.value)

    def __iter__(self):
        return (self[k] for k in range(len(self)))

    def __repr__(self):
        return f"Recorded({self.value!r})"

    def _refuse(self, *args, **params):
        self.recording.refuse("it looked at the values of an array")

    __array__ = __bool__ = __float__ = __int__ = __complex__ = __index__ = item = tolist = __contains__ = _refuse

    def __getattr__(self, name):
        self.recording.refuse(f"{name} of an array")

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: self.value.dtype)
    flags = property(lambda self: self.value.flags)
    nbytes = property(lambda self: self.value.nbytes)
    base = property(lambda self: self.value.base)
    T = property(lambda self: Recorded(self.value.T, self.recording))


def _method(name):
    function = getattr(np.ndarray, name)

    def method(self, *args, **params):
        args, params = (self.value, *_values(args)), _values(params)
        return self.recording.keep(function(*args, **params), function, args, params, filling=False)
    return method


for _name in METHODS:
    setattr(Recorded, _name, _method(_name))


class _Place:
    """Where a draw begins in the stream: so many values after the block where the step began."""

    def __init__(self, counter, values, per_block):
        self.counter, self.values, self.per_block = counter, values, per_block

    def __int__(self):
        return self.counter[0] * self.per_block + self.values


class _Stream(Stream):
    """A stream of which a step may draw arrays alone."""

    def __init__(self, stream, recording):
        super().__init__(key=stream.key, counter=stream.counter)
        self._first, self._recording, self.share = stream.counter, recording, stream.share

    def reserve(self, n_values, dtype):
        (key, start), per_block = super().reserve(n_values, dtype), _kernel.values_per_block(np.dtype(dtype))
        return key, _Place(self._recording.counter, start - self._first * per_block, per_block)

    def spawn(self):
        self._recording.refuse("a draw of Python's numbers")

    _generator = spawn


def _value(a):
    return a.value if type(a) is Recorded else a


def _values(tree):
    """The same arguments, with the arrays beneath."""
    if type(tree) is Recorded:
        return tree.value
    if type(tree) in (tuple, list):
        return type(tree)([_values(a) for a in tree])
    return {k: _values(a) for k, a in tree.items()} if type(tree) is dict else tree


def _is_view(a, args):
    """Whether an answer lies in the memory of an argument."""
    if type(args) in (tuple, list, dict):
        return any(_is_view(a, b) for b in (args.values() if type(args) is dict else args))
    return isinstance(args, np.ndarray) and np.may_share_memory(a, args)


def _within(x, index, axis=None, **params):
    """Whether an index, a constant of the step, has numbers of entries from 0 on alone."""
    size = x.size if axis is None else x.shape[axis]
    return not params and isinstance(index, np.ndarray) and bool(((0 <= index) & (index < size)).all())


def _fill(kept, call):
    answers = call()
    for a, new in zip(kept, answers if type(answers) in (tuple, list) else (answers,), strict=True):
        a[...] = new


def _drawing(drawn, run, args):
    return run(*[int(drawn[k]) if k in drawn else a for k, a in enumerate(args)])
