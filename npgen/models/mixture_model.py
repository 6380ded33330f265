"""What mixtures of every kind share: restarts, iterations, a run that can be gone on from, queries by component.

Legend: n rows, d features, k components. EM's steps are the model's own: how to start, to expect, to maximise.
"""
import abc
import contextlib
import dataclasses
import math
import warnings

import numpy as np

from ..random import Stream
from ..train import ConvergenceWarning
from .base import Capabilities, ParametricModel

MOST_SEEDINGS = 5  # of a component in one attempt: one that dies again after that is one too many, and stays empty


@dataclasses.dataclass
class Attempt:
    """EM from one start: the components, and the mean nats under the start and after every iteration."""

    components: object
    nats: list = dataclasses.field(default_factory=list)
    converged: bool = False
    reseeded: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class State:
    """An EM run at the end of an iteration: what the attempts before this one reached, the best of them, the present one."""

    stream: Stream
    attempt: Attempt | None = None
    best: Attempt | None = None
    reached: list = dataclasses.field(default_factory=list)

    def save(self):
        """(arrays, JSON-able dict) that restore() takes back."""
        attempts = {name: a for name in ("attempt", "best") if (a := getattr(self, name))}
        arrays = {f"{name}.{key}": value for name, a in attempts.items() for key, value in a.components.arrays().items()}
        rest = {name: {key: value for key, value in vars(a).items() if key != "components"} for name, a in attempts.items()}
        return arrays, {**rest, "stream": self.stream.state(), "reached": self.reached}

    @classmethod
    def restore(cls, make, arrays, rest):
        """The state that save() described; make turns arrays by name into components again."""
        def of(name):
            return {key.removeprefix(f"{name}."): a for key, a in arrays.items() if key.startswith(f"{name}.")}
        attempts = {name: Attempt(make(of(name)), **rest[name]) for name in ("attempt", "best") if name in rest}
        return cls(stream=Stream.from_state(rest["stream"]), reached=rest["reached"], **attempts)

    def likelier(self):
        """The likeliest attempt so far."""
        evaluated = [a for a in (self.best, self.attempt) if a and a.nats]
        return max(evaluated, key=lambda a: a.nats[-1], default=None)


def select_n_components(model, X, n_components=range(1, 11), *, criterion="bic", sample_weight=None):
    """(the best fit, a list of dicts with n_components, nats, aic and bic): a mixture with each number of components.

    model stays as it is; criterion is "bic", "aic", or another method of the fits that takes X, the smallest being the best.
    npgen.plot.selection draws the list. Reference: Schwarz, Estimating the dimension of a model (1978).
    """
    best, table = None, []
    for k in n_components:
        fit = type(model)(**(model.get_params() | {"n_components": k})).fit(X, sample_weight=sample_weight)
        entry = {"n_components": k, "nats": fit.score(X, sample_weight=sample_weight), "aic": fit.aic(X), "bic": fit.bic(X)}
        entry.setdefault(criterion, getattr(fit, criterion)(X))
        if not table or entry[criterion] < min(other[criterion] for other in table):
            best = fit
        table.append(entry)
    if best is None:
        raise ValueError("select_n_components: n_components is empty; pass at least one number")
    return best, table


class MixtureModel(ParametricModel):
    """p(x) = sum_k w_k p_k(x), fitted by EM from n_init starts; encode gives the responsibilities p(k | x).

    A subclass writes _start, _expect (to statistics with nats and weight), _step (the M-step), _restore_components,
    _draw_components, _n_parameters, and what ParametricModel asks for. components.arrays() are what a run keeps of them.
    """

    _capabilities = Capabilities("exact", "responsibilities of the components", invertible=False)
    _default_dtype = np.float64
    _warm = {}

    @abc.abstractmethod
    def _start(self, rows, stream):
        """Components to begin with."""

    @abc.abstractmethod
    def _expect(self, components, rows):
        """The E-step: statistics; `nats` is the sum of the rows' log-densities, `weight` that of their weights."""

    @abc.abstractmethod
    def _step(self, components, statistics, rows, stream, seeded=True):
        """The M-step: new components, and which of them (k,) had to be seeded anew."""

    @abc.abstractmethod
    def _restore_components(self, arrays):
        """Components from their arrays by name."""

    @abc.abstractmethod
    def _draw_components(self, params, n, stream):
        """n rows in the mixture's space and the component of each."""

    @abc.abstractmethod
    def _n_parameters(self):
        """How many numbers the mixture is."""

    def _check_counts(self):
        for name, least, words in (("n_components", 1, "a"), ("max_iter", 0, "0 or a"), ("n_init", 1, "a")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name} must be {words} positive integer, got {value!r}")
        for name in ("tol", "reg_covar"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or a positive number, got {value!r}")
        self._options()  # refuses callbacks that it cannot call

    def _iterate(self, rows, stream, run):
        """The likeliest components that EM reaches from n_init starts."""
        before = run.read()
        state = State.restore(self._restore_components, *before) if before else State(stream)
        n_init = 1 if self._warm else self.n_init
        with self._progress(n_init * self.max_iter) as bar:
            def report(attempt):
                entry = {"epoch": len(attempt.nats) - 1, "train_nats": -attempt.nats[-1], "valid_nats": None}
                start = len(state.reached)
                if bar is not None:
                    bar.set_postfix(nats=f"{entry['train_nats']:.3f}", start=f"{start + 1}/{n_init}", refresh=False)
                    bar.update(start * self.max_iter + entry["epoch"] - bar.n)
                for callback in self.callbacks:
                    callback(entry)
                if run.path:
                    run.write(state)

            try:
                while len(state.reached) < n_init:
                    state.attempt = state.attempt or Attempt(self._start(rows, state.stream))
                    self._climb(state.attempt, rows, state.stream, report)
                    state.reached.append(state.attempt.nats[-1])
                    state.best, state.attempt = state.likelier(), None
            except KeyboardInterrupt:
                if state.likelier() is None:
                    raise
                warnings.warn("fit: interrupted; the likeliest parameters so far are kept", ConvergenceWarning, stacklevel=5)
        best = state.likelier()
        if not best.converged and len(best.nats) > self.max_iter:
            warnings.warn(f"fit: EM has not converged after max_iter={self.max_iter} iterations; raise max_iter or tol",
                          ConvergenceWarning, stacklevel=5)
        self.converged_, self.lower_bound_ = best.converged, best.nats[-1]
        self.history_ = [{"epoch": i, "train_nats": -nats, "valid_nats": None} for i, nats in enumerate(best.nats)][1:]
        self.n_epochs_ = len(self.history_)
        self.fit_report_ |= {"reseeded": best.reseeded, "starts": state.reached}
        return best.components

    def _progress(self, total):
        if not self.verbose:  # not a disabled bar: even that starts a thread, and takes a lock that forked processes share
            return contextlib.nullcontext()
        from tqdm import tqdm
        return tqdm(total=total, unit="iteration", miniters=self.verbose_interval)

    def _climb(self, attempt, rows, stream, report):
        """EM iterations until the attempt has converged or has had its share."""
        statistics = self._expect(attempt.components, rows)
        attempt.nats = attempt.nats or [self._mean_nats(statistics)]
        while not attempt.converged and len(attempt.nats) <= self.max_iter:
            seedings = np.bincount([entry["component"] for entry in attempt.reseeded], minlength=self.n_components)
            attempt.components, lost = self._step(attempt.components, statistics, rows, stream, seedings < MOST_SEEDINGS)
            statistics = self._expect(attempt.components, rows)
            attempt.reseeded += [{"iteration": len(attempt.nats), "component": int(k)} for k in np.flatnonzero(lost)]
            attempt.nats = [*attempt.nats, self._mean_nats(statistics)]
            attempt.converged = not lost.any() and abs(attempt.nats[-1] - attempt.nats[-2]) <= self.tol
            report(attempt)

    def _mean_nats(self, statistics):
        return statistics.nats / statistics.weight + self._mean_log_det

    def fit_predict(self, X, y=None, *, sample_weight=None):
        """fit, then predict the same rows."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    @property
    def n_iter_(self):
        """Iterations (epochs) that the start which was kept took."""
        return self.n_epochs_

    @property
    def lower_bounds_(self):
        """Mean nats after each iteration (epoch)."""
        return [-entry["train_nats"] for entry in self.history_]

    # ------------------------------------------------------------ queries

    @property
    def n_latent_(self):
        return len(self.weights_)

    def predict(self, X):
        """The likeliest component of every row, (n,)."""
        return self._rowwise(self._encode, self._check("predict", X)).argmax(axis=1)

    def predict_proba(self, X):
        """encode under the name that scikit-learn gives it."""
        return self._rowwise(self._encode, self._check("predict_proba", X))

    def sample(self, n_samples=1, *, rng=None, return_components=False):
        """Rows drawn from the mixture, (n_samples, d), in no order; with return_components, also the component of each.

        rng and errors: see Model.sample.
        """
        x, components = self._draw(self._draw_pairs, n_samples, rng)
        return (x, components) if return_components else x

    def aic(self, X):
        """Akaike's information criterion on X, 2 parameters - 2 log-likelihood: lower is better."""
        return -2 * self.score(X) * len(X) + 2 * self._n_parameters()

    def bic(self, X):
        """The Bayesian information criterion on X, parameters * log n - 2 log-likelihood: lower is better."""
        return -2 * self.score(X) * len(X) + self._n_parameters() * math.log(len(X))

    def _at(self, dtype):
        return self.params_  # float64 for rows of any dtype

    def _draw_pairs(self, n, stream):
        x, components = self._draw_components(self.params_, n, stream)
        return self.preprocess_.inverse(x), components

    def _draw_rows(self, params, n, stream):
        return self._draw_components(params, n, stream)[0]
