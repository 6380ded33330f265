"""Models without a density: what they refuse, what they are asked in place of it, and what the checker and command line say."""
import copy

import numpy as np
import pytest

import npgen
from npgen import cli, data, divergences, ops
from npgen.models.base import Capabilities
from npgen.models.gradient import GradientModel
from npgen.nn import MLP, beside
from npgen.testing import check_generative_model

MOONS = data.moons(200)


class Sampler(GradientModel):
    """Rows that a network makes of noise."""

    _capabilities = Capabilities("none", "none", invertible=False)
    _takes_context = True

    def _assemble(self, d, w, chosen):
        return {"net": MLP("net", (8 + w, 16, d))}

    def _draw(self, p, n, stream, c=None):
        return self._net(p, beside(stream.normal((n, 8), p.flat.dtype), c))

    def _loss(self, p, z, stream, c=None):
        y = self._net(p, beside(stream.normal((len(z), 8), z.dtype), c))
        near, apart = (ops.sqrt(1e-6 + ops.sum(ops.square(y - other), axis=1)) for other in (z, y[::-1]))
        return near - apart / 2


class Coder(GradientModel):
    """A linear map to one number and back."""

    _capabilities = Capabilities("none", "code", invertible=False)
    n_latent_ = 1

    def _assemble(self, d, w, chosen):
        return {"down": MLP("down", (d, 1)), "up": MLP("up", (1, d))}

    def _draw(self, p, n, stream, c=None):
        return self._up(p, stream.normal((n, 1), p.flat.dtype))

    def _represent(self, p, z, c=None):
        return self._down(p, z)

    def _reconstruct(self, p, h, c=None):
        return self._up(p, h)

    def _loss(self, p, z, stream, c=None):
        return ops.sum(ops.square(z - self._up(p, self._down(p, z))), axis=1)


@pytest.fixture(params=[Sampler, Coder])
def model(request, monkeypatch):
    monkeypatch.setitem(npgen.models.CLASSES, request.param.__name__, request.param)
    return request.param(max_epochs=3, random_state=0).fit(MOONS)


def test_what_it_has_not_is_refused_with_what_to_ask(model):
    for query in (model.log_prob, lambda x: model.sample_and_log_prob(3)):
        before = model.stream_.state()
        with pytest.raises(ValueError, match=r"log_prob: \w+ has no density; ask for sample.*, or for score"):
            query(MOONS)
        assert model.stream_.state() == before
    with pytest.raises(AttributeError, match="has no score_samples, as it has no density"):
        model.score_samples(MOONS)
    assert not hasattr(model, "score_samples") and hasattr(model, "transform") == (model.n_latent_ > 0)
    with pytest.raises(TypeError, match=r"^inner\(\).log_density is of a model with a density, and a \w+ has none; ask draw$"):
        model.inner().log_density(MOONS)
    with pytest.raises(npgen.NotFittedError, match="log_prob"):
        type(model)().log_prob(MOONS)
    with pytest.raises(ValueError, match="density must have a log_prob"):
        npgen.BayesClassifier(type(model)()).fit(MOONS, MOONS[:, 0] > 0)


def test_score_is_minus_the_energy_distance_to_its_draws(model):
    drawn = model.sample(2000, rng=0).reshape(10, 200, 2)
    distances = [divergences.energy_distance(MOONS, batch).value for batch in drawn]
    unbiased = np.mean(distances) - np.mean([_mean(batch) / 199 for batch in drawn])
    assert model.score(MOONS) == pytest.approx(-unbiased, rel=1e-9)
    assert model.score(MOONS) == model.score(MOONS) and type(model.score(MOONS)) is float
    w = np.arange(200.0) % 4
    assert model.score(MOONS, sample_weight=w) == pytest.approx(model.score(np.repeat(MOONS, w.astype(int), axis=0)), rel=1e-9)
    assert model.score(model.sample(500, rng=1)) > model.score(model.sample(500, rng=1) + 1)
    with pytest.raises(ValueError, match="score: X has no rows"):
        model.score(MOONS[:0])


def _mean(rows):
    """The mean distance of rows, of all pairs."""
    return np.sqrt(np.square(rows[:, None] - rows).sum(axis=2)).mean()


def test_the_score_given_a_context_tells_right_contexts_from_wrong_ones():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    x = labels[:, None] * 4.0 + rng.normal(size=(400, 2))
    model = Sampler(max_epochs=60, random_state=0).fit(x, context=labels)
    assert model.score(x, context=labels) > 2 * model.score(x, context=1 - labels) and model.score(x, context=labels) < 0
    report = check_generative_model(model, x, context=labels)
    assert report.passed, str(report)


def test_the_checker_skips_what_does_not_apply_and_says_so(model):
    report = check_generative_model(model, MOONS)
    assert report.passed, str(report)
    assert "density none" in str(report) and "not checked, the model has no density: " in str(report)
    skipped = {finding.law for finding in report.findings if finding.skipped}
    assert {"the density sums or integrates to one", "score is the mean of log_prob", "the loss is minus log_prob"} <= skipped
    held = {"shapes and dtypes", "save, then load", "queries change nothing", "gradient by the parameters",
            "score is minus the energy distance", "no row is drawn twice", "a seed decides the rows"}
    assert not held & skipped


def test_the_checker_finds_a_wrong_score(model, monkeypatch):
    for wrong in (lambda self, x: -type(model).score(self, x), lambda self, x: 2 * type(model).score(self, x)):
        other = copy.copy(model)
        monkeypatch.setattr(other, "score", wrong.__get__(other), raising=False)
        assert "score is minus the energy distance" in check_generative_model(other, MOONS).broken


def test_a_sampler_that_is_not_npgens_needs_no_log_prob():
    class Dice:
        capabilities = Capabilities("none", "none", invertible=False)

        def sample(self, n, rng=None):
            return np.random.default_rng(rng).normal(size=(n, 2))

    report = check_generative_model(Dice())
    assert report.passed, str(report)
    with pytest.raises(TypeError, match="has no method sample"):
        check_generative_model(type("Nothing", (), {"capabilities": Dice.capabilities})())


def test_the_command_line_says_what_there_is(model, tmp_path, capsys):
    path = str(tmp_path / "m.npgen")
    model.save(path)
    assert cli.main(["info", path]) == 0
    shown = capsys.readouterr().out
    assert "density         none" in shown and "loss " in shown and "nats" not in shown
    assert cli.main(["score", path, "--data", "moons"]) == 0
    shown = capsys.readouterr().out
    assert f"{-model.score(data.load('moons')):.4f} between the rows" in shown and "has no density" in shown
    assert cli.main(["score", path, "--data", "moons", "--out", str(tmp_path / "out.npy")]) == 2
    assert "has no density" in capsys.readouterr().err
    assert cli.main(["check", path]) == 0
    assert cli.main(["encode", path, "--data", "moons", "--out", str(tmp_path / "z.npy")]) == (0 if model.n_latent_ else 2)
