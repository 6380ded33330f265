"""The atoms head: some values of a feature, and that it is missing, have a probability each, and the rest has another head.

    p(x_d) = P(missing) where it is NaN, else P(rest) p_base(x_d) + sum_i P(a_i) [x_d = a_i]

Where base has a density, an atom is the only way to its value. Where it has probabilities, the rest is another, and EM takes
the way for missing, so that no step loses likelihood.

Legend: n rows, d features, k components, t states (rest, the atoms, missing), b outputs of base.
"""
import copy
import dataclasses

import numpy as np

from .. import ops
from ..kernels._cuda import constant_like, is_device_array
from ..tensor import value_of
from .base import RAREST, Family, Head, choice_and_noise

STATES = 64         # of which EM counts rows at once, on a device


class Atoms(Family):
    """States softmax(logits_d) of every feature; outputs are, of each feature, t logits, of the rest, the atoms in their order
    and missing, then the outputs of base.

    base: a head of one feature. atoms: numbers. missing: whether NaN is a state; else it is left out by EM, and refused by
    a network. Atoms are with respect to counting, the rest is as base's density is.
    Raises ValueError for a base of several features, and for atoms that are no numbers or there twice.
    """

    name, by_name = "atoms", False

    def __init__(self, base, atoms=(), missing=False):
        try:
            self.atoms = np.unique(np.asarray(atoms, np.float64))
            sound = (isinstance(base, Head) and not isinstance(base, Atoms) and base.n_outputs(1) > 0 and np.ndim(atoms) == 1
                     and len(self.atoms) == len(atoms) and np.isfinite(self.atoms).all() and len(atoms) + missing > 0)
        except (TypeError, ValueError):
            sound = False
        if not sound:
            raise ValueError("Atoms: expected a head of one feature, and atoms that are numbers and differ, or missing=True, "
                             f"got {base!r}, {atoms!r}, missing={missing!r}"[:300])
        self.base, self.missing, self.discrete, self.noises = base, bool(missing), base.discrete, 1 + base.noises
        self.own_map = base.own_map
        self._states = 1 + len(self.atoms) + self.missing
        shared = [base.discrete and self._inside(atom) for atom in self.atoms]
        self._shared = np.array([False, *shared, *[False] * self.missing])  # states whose value the rest may have, too
        self._none_missing = False

    def _inside(self, atom):
        """Whether base may draw it, too."""
        try:
            return self.base.check(np.array([[atom]]), "Atoms") is None
        except ValueError:
            return False

    def __repr__(self):
        return f"Atoms({self.base!r}, atoms={self.atoms.tolist()}, missing={self.missing})"

    def _options(self):
        return {"base": self.base.config(), "atoms": self.atoms.tolist()} | ({"missing": True} if self.missing else {})

    @property
    def has_steps(self):
        return self.base.has_steps

    @property
    def floored(self):
        return self.base.floored

    @property
    def somewhere(self):
        return self.base.somewhere

    @property
    def measure(self):
        if self.discrete:
            return "counting"
        shown = ", ".join([*(f"{atom:g}" for atom in self.atoms[:4]), *["..."] * (len(self.atoms) > 4),
                           *["missing"] * self.missing])
        return f"length, counting at {shown}"

    def smooth(self, x):
        return np.where(self.states(x) == 0, x, np.nan)

    def seen(self):
        if not self.missing:
            return self
        other = copy.copy(self)
        other._none_missing = True
        return other

    def _shares(self, flags):
        """Whether each state of flags (..., t) is one whose value the rest may have, too (...)."""
        return ops.sum(flags * constant_like(self._shared, value_of(flags)), axis=-1) == 1

    def states(self, x):
        """The number of each value's state (..., d), t where it is missing and that is none."""
        atoms = np.asarray(np.append(self.atoms, np.nan).astype(x.dtype), like=x)
        at = np.minimum(np.searchsorted(atoms, x), len(self.atoms))
        return np.where(np.isnan(x), 1 + len(self.atoms), np.where(atoms[at] == x, 1 + at, 0))

    def flags(self, x):
        """1 at the state of each value, (..., d, t) in its dtype."""
        named, gaps = x[..., None] == np.asarray(self.atoms.astype(x.dtype), like=x), np.isnan(x)[..., None]
        rest = ~(named.any(axis=-1, keepdims=True) | gaps)
        return np.concatenate([rest, named, *([gaps] if self.missing else [])], axis=-1).astype(x.dtype)

    def _split(self, outputs):
        """The logarithms of the states' probabilities (..., d, t), and the outputs of base (..., d, b)."""
        width = self._states + self.base.n_outputs(1)
        parts = outputs.reshape(*outputs.shape[:-1], outputs.shape[-1] // width, width)
        logits = parts[..., :self._states]
        if self._none_missing:
            logits = np.concatenate([logits[..., :-1], np.full_like(logits[..., :1], -np.inf)], axis=-1)
        return ops.log_softmax(logits), parts[..., self._states:]

    def _joined(self, states, rest):
        """Outputs (..., j) from the states' logits (..., d, t) and the outputs of base (..., d, b)."""
        both = np.concatenate([states, rest], axis=-1)
        return both.reshape(*both.shape[:-2], both.shape[-2] * both.shape[-1])

    def _base(self, d):
        """The head of the rest of d features."""
        return self.base.of([0] * d)

    def log_prob(self, x, outputs):
        log_p, rest = self._split(outputs)
        flags = _flags(x, self)
        alone, both = flags[..., 0] == 1, self._shares(flags)
        whole, own = ops.where(alone | both, x, self.somewhere), ops.sum(flags * log_p, axis=-1)
        if x.ndim == 2 and len(rest) == len(x) and rest.ndim == 3:  # as kernels take it
            n, d = x.shape
            density = self.base.log_prob(whole.reshape(n * d, 1), rest.reshape(n * d, rest.shape[-1])).reshape(n, d)
        else:
            density = self.base.log_prob(whole[..., None], rest)
        if self._shared.any():
            own = ops.where(both, ops.logaddexp(own, log_p[..., 0] + density), own)
        return ops.sum(ops.where(alone, own + density, own), axis=-1)

    def support(self):
        points = self.base.support()
        return None if points is None else np.union1d(points, self.atoms)

    def _mass(self, low, high, outputs):
        """log P of the rest in an interval (..., d, 1) and of the atoms in it (..., d, a)."""
        log_p, rest = self._split(outputs.astype(np.float64))
        own = [self.base.log_mass(low[[j]], high[[j]], rest[..., j, :]) for j in range(rest.shape[-2])]
        inside = (low[:, None] <= self.atoms) & (self.atoms <= high[:, None])
        atoms = np.where(inside, log_p[..., 1:1 + len(self.atoms)], -np.inf)
        return np.concatenate([log_p[..., :1] + np.stack(own, axis=-2), atoms], axis=-1)

    def log_mass(self, low, high, outputs):
        return np.logaddexp.reduce(self._mass(low, high, outputs), axis=-1)

    def sample_within(self, noise, low, high, outputs):
        log_p, rest = self._mass(low, high, outputs), self._split(outputs.astype(np.float64))[1]
        edges = np.cumsum(np.exp(log_p - log_p.max(axis=-1, keepdims=True)), axis=-1)
        at = noise[..., None] * edges[..., -1:]
        state = (edges[..., :-1] <= at).sum(axis=-1)
        first = np.where(state == 0, at[..., 0] / np.maximum(edges[..., 0], RAREST), 0.5)  # a uniform again, of the rest
        drawn = [self.base.sample_within(first[..., [j]], low[[j]], high[[j]], rest[..., j, :]) for j in range(rest.shape[-2])]
        return np.where(state == 0, np.concatenate(drawn, axis=-1), np.array([np.nan, *self.atoms])[state])

    def noise(self, stream, shape, dtype, like=None):
        """Of each feature a uniform, which chooses the state, then the noise of base."""
        return choice_and_noise(self.base, stream, shape, dtype, like)

    def sample(self, noise, outputs):
        log_p, rest = self._split(outputs)
        noise = noise.reshape(*noise.shape[:-1], noise.shape[-1] // self.noises, self.noises)
        edges = np.cumsum(np.exp(log_p), axis=-1)
        state = (edges[..., :-1] <= noise[..., :1] * edges[..., -1:]).sum(axis=-1)
        values = np.array([np.nan, *self.atoms, *[np.nan] * self.missing])
        drawn = self.base.sample(noise[..., 1:], rest)[..., 0]
        return np.where(state == 0, drawn, constant_like(values, state)[state]).astype(outputs.dtype)

    def _parts(self, outputs):
        """Given that it is there: P of the rest and of the atoms (..., d, 1 + a); mean and variance of the rest (..., d)."""
        log_p, rest = self._split(outputs)
        p = np.exp(log_p)[..., :1 + len(self.atoms)]
        p = p / np.maximum(p.sum(axis=-1, keepdims=True), RAREST)
        return p, *(ask(rest)[..., 0] for ask in (self.base.mean, self.base.variance))

    def mean(self, outputs):
        p, mean, _ = self._parts(outputs)
        return (p[..., 0] * mean + p[..., 1:] @ constant_like(self.atoms, p)).astype(outputs.dtype)

    def variance(self, outputs):
        p, mean, variance = self._parts(outputs)
        atoms = constant_like(self.atoms, p)
        total = p[..., 0] * mean + p[..., 1:] @ atoms
        apart = p[..., 0] * (variance + np.square(mean - total))
        return (apart + (p[..., 1:] * np.square(atoms - total[..., None])).sum(axis=-1)).astype(outputs.dtype)

    def n_outputs(self, d):
        return d * (self._states + self.base.n_outputs(1))

    def first(self, d):
        return self.n_outputs(1) * np.arange(d + 1)

    def initial(self, x, weights=None):
        """The states' frequencies, each seen once more than it was, and the first outputs of base for the rest."""
        w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
        counts = [np.bincount(column, w, self._states + 1)[:self._states] for column in self.states(x).T]
        states = np.log(np.stack(counts) + 1)
        return self._joined(states, self._base(x.shape[1]).initial(self.smooth(x), weights).reshape(x.shape[1], -1))

    def of(self, features):
        return self

    def n_inputs(self, d):
        return np.full(d, self._states - 1 + int(self.base.n_inputs(1)[0]), np.int64)

    def inputs(self, x):
        """An indicator of each state but the rest, and what base makes of the rest, 0 of others."""
        flags, columns = _flags(x, self), []
        whole = ops.where(flags[..., 0] == 1, x, self.somewhere)
        for j in range(x.shape[1]):
            columns += [flags[:, j, 1:], self.base.inputs(whole[:, [j]]) * flags[:, j, :1]]
        return ops.concatenate(columns, axis=1)

    def check(self, x, name, columns=None, shown=None):
        self._base(x.shape[1]).check(self.smooth(x), name, columns, shown)

    # ------------------------------------------------------------ EM

    def _rest(self, rest):
        """The outputs of base (k, d b)."""
        return rest.reshape(len(rest), rest.shape[1] * rest.shape[2])

    def _states_of(self, x):
        """Of each feature: its states (n,), which rows are the rest's alone, and which may be that or an atom, (n, 1)."""
        shared = constant_like(np.append(self._shared, False), x)
        for state in self.states(x).T:
            yield state, (state == 0)[:, None], shared[state][:, None]

    def _sums(self, state, weights):
        """The sums (t - 1, k) of the weights (n, k) of rows in every state (n,) but the rest."""
        if not is_device_array(state):
            from scipy.sparse import csr_array  # only where there are atoms
            flags = csr_array((np.ones(len(state)), state, np.arange(len(state) + 1)), (len(state), self._states + 1))
            return (flags.T @ weights)[1:self._states]
        parts = np.array_split(np.arange(1, self._states), max(1, (self._states - 1) // STATES))  # that take little memory
        return np.concatenate([(state[:, None] == constant_like(part, state)).astype(np.float64).T @ weights for part in parts])

    def log_prob_each(self, x, outputs):
        log_p, rest = self._split(outputs)
        joint = 0
        for j, (state, alone, both) in enumerate(self._states_of(x)):
            density = self.base.log_prob_each(np.where(alone | both, x[:, [j]], np.nan), rest[:, j])
            density += log_p[:, j, 0]
            own = np.concatenate([log_p[:, j].T, np.zeros_like(log_p, shape=(1, len(outputs)))])[state]
            if self._shared.any():
                own = np.where(both, np.logaddexp(own, density), own)
            joint = joint + np.where(alone, density, own)
        return joint

    def moments(self, x, r, outputs):
        """The weights of every state (k, d, t), and the moments of base."""
        (log_p, rest), counts, of_rest = self._split(outputs), [], []
        for j, (state, alone, both) in enumerate(self._states_of(x)):
            own = np.where(alone, r, 0)
            if self._shared.any():  # the rest's part of what is both, which are few rows
                rows = slice(None) if is_device_array(x) else np.flatnonzero(both)
                density = self.base.log_prob_each(np.where(both[rows], x[rows, j][:, None], np.nan), rest[:, j])
                density += log_p[:, j, 0]
                atom = log_p[:, j].T[np.where(both[rows, 0], state[rows], 0)]
                own[rows] = np.where(both[rows], r[rows] * ops.sigmoid(density - atom), own[rows])
            counts.append(np.concatenate([own.sum(axis=0)[None], self._sums(state, r - own)]).T)
            of_rest.append(self.base.moments(np.where(alone | both, x[:, [j]], np.nan), own, rest[:, j]))
        return Moments(np.stack(counts, axis=1), np.concatenate(of_rest, axis=-1))

    def maximise(self, moments, outputs, pooled, smoothing):
        rows, more = smoothing if isinstance(smoothing, tuple) else (smoothing, smoothing)
        d, last = moments.counts.shape[1], None if outputs is None else self._rest(self._split(outputs)[1])
        of_all = None if pooled is None else self._rest(self._split(pooled)[1])
        states = np.log(np.maximum(moments.counts + rows * 2 / self._states, RAREST))
        rest = self._base(d).maximise(moments.rest, last, of_all, more)
        return self._joined(ops.log_softmax(states), rest.reshape(*states.shape[:-1], self.base.n_outputs(1)))

    def smoothing(self, rows, floor):
        return rows, self.base.smoothing(rows, floor)

    def redundant(self, d):
        return d * (1 + self.base.redundant(1))

    def expected_moments(self, outputs, n, pooled, smoothing):
        rows, more = smoothing if isinstance(smoothing, tuple) else (smoothing, smoothing)
        log_p, rest = self._split(outputs)
        counts = np.exp(log_p) * (n[:, None, None] + 2 * rows) - 2 * rows / self._states
        d, seen = log_p.shape[1], np.maximum(counts[..., 0], 0)
        of_all, more = self._split(pooled)[1], np.broadcast_to(more, (d,))
        each = [self.base.expected_moments(rest[:, j], seen[:, j], of_all[:, j], more[j]) for j in range(d)]
        return Moments(counts, np.concatenate(each, axis=-1))

    def typical_variance(self, moments, outputs, pooled):
        return self._base(moments.counts.shape[1]).typical_variance(
            moments.rest, *(self._rest(self._split(a)[1]) for a in (outputs, pooled)))

    def around(self, x, pooled):
        log_p, rest = self._split(pooled)
        d, flags = x.shape[1], self.flags(x).astype(np.float64)
        seen = flags.sum(axis=-1, keepdims=True)
        states = np.log((np.exp(log_p) + flags) / (1 + seen))
        return self._joined(states, self._base(d).around(self.smooth(x), self._rest(rest)).reshape(
            len(x), d, self.base.n_outputs(1)))

    def log_prob_around(self, x, pooled):
        (log_p, rest), state = self._split(pooled), self.states(x)
        halves = (1 + np.exp(log_p[0])) / 2  # of each state, and 0 of none
        own = np.concatenate([halves, np.zeros_like(halves[:, :1])], axis=1)[np.arange(x.shape[1], like=state), state]
        shared = constant_like(np.append(self._shared, False), x)
        for j in range(x.shape[1] if self._shared.any() else 0):
            both = shared[state[:, j]]
            way = log_p[0, j, 0] + self.base.log_prob_each(np.where(both[:, None], x[:, [j]], np.nan), rest[:, j])[:, 0]
            own[:, j] += np.where(both, np.exp(way) / 2, 0)
        return np.log(np.where(own > 0, own, 1)).sum(axis=1) + self._base(x.shape[1]).log_prob_around(
            self.smooth(x), self._rest(rest))

    def guess(self, r, outputs):
        log_p, rest = self._split(outputs)
        if not len(self.atoms):
            return self._base(log_p.shape[1]).guess(r, self._rest(rest))
        return np.einsum("nk,kd->nd", r.astype(np.float64), self.mean(outputs.astype(np.float64)))

    def take(self, outputs, features):
        width = self.n_outputs(1)
        parts = outputs.reshape(len(outputs), outputs.shape[1] // width, width)
        return parts[:, features].reshape(len(outputs), len(features) * width)


@dataclasses.dataclass
class Moments:
    """The weights of states, and the moments of the rest; those of other rows add."""

    counts: np.ndarray
    rest: np.ndarray

    def __add__(self, other):
        return Moments(self.counts + other.counts, self.rest + other.rest)

    def __mul__(self, factor):
        return Moments(self.counts * factor, self.rest * factor)


_flags = ops.op(lambda x, head: head.flags(x), name="states")  # which carry no derivative
