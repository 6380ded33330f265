"""The README's recipes, followed: a new model, head or transform is one file, in any folder, and one line of cases."""
import functools
import importlib.util
import textwrap

import numpy as np
import pytest
import test_heads
import test_transforms
from scipy import stats

import npgen
from npgen import data
from npgen.heads import Family
from npgen.random import Stream
from npgen.testing import check_generative_model

MODEL = """
    import numpy as np

    from npgen.models.flow import FlowModel
    from npgen.transforms import ActNorm, Autoregressive, Chain


    class Shifts(FlowModel):
        \"\"\"One autoregressive step behind a normalisation.\"\"\"

        hidden: tuple = (16,)

        def _choose(self, z, c, stream):
            return {"hidden": tuple(self.hidden)}

        def _assemble(self, d, w, chosen):
            return {"flow": Chain((ActNorm("flow.norm", d), Autoregressive("flow.step", d, chosen["hidden"], n_context=w)))}
    """

PLAIN = """
    import numpy as np

    from npgen.heads import Normal
    from npgen.models.base import Capabilities
    from npgen.models.gradient import GradientModel
    from npgen.nn import Part


    class Outputs(Part):
        def __init__(self, d):
            self.d = d

        def shapes(self):
            return {"outputs": (2 * self.d,)}

        def init(self, z, c, stream, weights=None):
            return {"outputs": Normal().initial(z, weights).astype(z.dtype)}


    class Independent(GradientModel):
        \"\"\"A normal for every column.\"\"\"

        _capabilities = Capabilities("exact", None, invertible=False)

        def _assemble(self, d, w, chosen):
            return {"head": Normal(), "own": Outputs(d)}

        def _log_density(self, p, z, c=None):
            return self._head.log_prob(z, np.broadcast_to(p["outputs"], (len(z), 2 * self._own.d)))

        def _draw(self, p, n, stream, c=None):
            return self._head.sample(stream.normal((n, self._own.d), p.flat.dtype, like=p.flat), p["outputs"][None])
    """

TRANSFORM = """
    import numpy as np

    from npgen import ops
    from npgen.transforms import Transform


    class Sinh(Transform, name="sinh"):
        \"\"\"z = sinh(x), of every feature.\"\"\"

        def to_noise(self, p, x, c=None, stream=None):
            return (ops.exp(x) - ops.exp(-x)) / 2, ops.sum(ops.log((ops.exp(x) + ops.exp(-x)) / 2), axis=1)

        def to_data(self, p, z, c=None):
            x = ops.log(np.abs(z) + ops.sqrt(z * z + 1)) * np.sign(z)
            return x, -self.to_noise(p, x)[1]
    """

HEAD = """
    import numpy as np

    from npgen import ops
    from npgen.heads import Head


    class Laplace(Head):
        \"\"\"p(x_d) = exp(-|x_d - m_d| / b_d) / (2 b_d); outputs are, of each feature, m and log b.\"\"\"

        name, discrete = "laplace", False

        def log_prob(self, x, outputs):
            log_b = outputs[..., 1::2]
            return -ops.sum(np.abs(x - outputs[..., ::2]) * ops.exp(-log_b) + log_b + np.log(2).astype(x.dtype), axis=-1)

        def sample(self, noise, outputs):
            u = noise - 0.5
            return (outputs[..., ::2] - np.exp(outputs[..., 1::2]) * np.sign(u) * np.log1p(-2 * np.abs(u))).astype(noise.dtype)

        def noise(self, stream, shape, dtype, like=None):
            return stream.uniform(shape, dtype, like=like)

        def mean(self, outputs):
            return outputs[..., ::2]

        def variance(self, outputs):
            return 2 * ops.exp(2 * outputs[..., 1::2])

        def n_outputs(self, d):
            return 2 * d

        def first(self, d):
            return 2 * np.arange(d + 1)

        def initial(self, x, weights=None):
            seen = ~np.isnan(x) * (1.0 if weights is None else np.asarray(weights, float)[:, None])
            mean = np.nansum(seen * x, axis=0) / seen.sum(axis=0)
            variance = np.nansum(seen * (x - mean) ** 2, axis=0) / seen.sum(axis=0)
            return np.stack([mean, np.log(variance / 2) / 2], axis=1).ravel()

        def of(self, features):
            return self

        def check(self, x, name, columns=None, shown=None):
            pass
    """

FAMILY = """
    import numpy as np

    from npgen import ops
    from npgen.heads import Family
    from npgen.heads.base import EMPTY, RAREST, filled, linear, refuse, totals, weigh, without


    class Geometric(Family):
        \"\"\"x_d in {0, 1, 2, ...} with P(x_d = n) = p (1 - p)^n, p = sigmoid(-o_d); outputs o are log-means.\"\"\"

        name = "geometric"

        def log_prob(self, x, outputs):
            return -ops.sum(x * ops.softplus(-outputs) + ops.softplus(outputs), axis=-1)

        def sample(self, noise, outputs):
            return np.floor(-np.log1p(-noise.astype(float)) / ops.softplus(-outputs.astype(float))).astype(outputs.dtype)

        def noise(self, stream, shape, dtype, like=None):
            return stream.uniform(shape, dtype, like=like)

        def mean(self, outputs):
            return ops.exp(outputs)

        def variance(self, outputs):
            return ops.exp(outputs) * (1 + ops.exp(outputs))

        def n_outputs(self, d):
            return d

        def first(self, d):
            return np.arange(d + 1)

        def initial(self, x, weights=None):
            seen, total = totals(x, weights)
            return np.log(total + 1) - np.log(seen + 1)

        def of(self, features):
            return self

        def check(self, x, name, columns=None, shown=None):
            refuse(~((x == np.floor(x)) & (x >= 0) | np.isnan(x)), x if shown is None else shown, name, columns,
                   "but a geometric head needs counts 0, 1, 2, ...")

        def log_prob_each(self, x, outputs):
            x, missing = filled(x.astype(float))
            zeros = -ops.softplus(outputs)
            return without(missing, linear(x, -ops.softplus(-outputs)) + zeros.sum(axis=1), zeros)

        def moments(self, x, r, outputs):
            x, missing = filled(x.astype(float))
            return np.stack([r.sum(axis=0)[:, None] - r[:len(missing)].T @ missing, weigh(x, r)])

        def maximise(self, moments, outputs, pooled, smoothing):
            seen, total = moments
            return np.log(np.maximum(total + smoothing, RAREST)) - np.log(np.maximum(seen, EMPTY))

        def expected_moments(self, outputs, n, pooled, smoothing):
            seen = np.broadcast_to(n[:, None], outputs.shape)
            return np.stack([seen, self.mean(outputs) * seen - smoothing])

        def around(self, x, pooled):
            return np.where(np.isnan(x), pooled, np.log(x.astype(float) + 0.5))

        def log_prob_around(self, x, pooled):
            own = x * np.log((x + 0.5) / (x + 1.5)) - np.log(x + 1.5)
            return np.where(np.isnan(x), -ops.softplus(pooled) * 0, own).sum(axis=1)

        def guess(self, r, outputs):
            return linear(r.astype(np.float64), self.mean(outputs).T)

        def take(self, outputs, features):
            return outputs[:, features]
    """


def made(folder, text):
    """The module that a file of this text is."""
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(text))
    spec = importlib.util.spec_from_file_location("mine", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
def test_a_model_is_one_file(tmp_path, monkeypatch):
    """One method that it must write, one that it may; hyperparameters, files, context, resume and the laws come with it."""
    mine = made(tmp_path, MODEL).Shifts
    x = data.moons(400)
    monkeypatch.setitem(npgen.models.CLASSES, "Shifts", mine)
    model = mine(max_epochs=5, random_state=0, hidden=(8,)).fit(x)
    assert repr(model) == "Shifts(hidden=(8,), random_state=0, max_epochs=5)"
    report = check_generative_model(model, x)
    assert report.passed, str(report)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(npgen.load(tmp_path / "model").log_prob(x), model.log_prob(x))
    labels = (x[:, 0] > 0.5).astype(int)
    given = mine(max_epochs=20, learning_rate=1e-2, random_state=0).fit(x, context=labels)
    assert given.score(x, context=labels) - given.score(x, context=1 - labels) > 1


@pytest.mark.long
def test_a_model_has_three_methods_that_it_must_write(tmp_path, monkeypatch):
    mine = made(tmp_path, PLAIN).Independent
    x = np.random.default_rng(0).normal(size=(2000, 2)) * [1, 30] + [5, 0]
    monkeypatch.setitem(npgen.models.CLASSES, "Independent", mine)
    model = mine(max_epochs=20, learning_rate=0.02, random_state=0).fit(x)
    np.testing.assert_allclose(model.sample(20_000, rng=0).std(axis=0), x.std(axis=0), rtol=0.05)
    report = check_generative_model(model, x)
    assert report.passed, str(report)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(npgen.load(tmp_path / "model").log_prob(x), model.log_prob(x))
    with pytest.raises(ValueError, match="encode: an Independent has no representation"):
        model.encode(x)


def test_a_constructor_that_is_written_by_hand_is_inherited():
    class Mine(npgen.MADE):
        def __init__(self, width=3):
            super().__init__(hidden=(width,))
            self.width = width

    class Narrower(Mine):
        pass

    class Fields(npgen.MADE):
        depth: int = 2

    assert repr(Narrower(5)) == "Narrower(width=5)" and Narrower(5).hidden == (5,)
    assert repr(Fields(depth=3, hidden=(2,))) == "Fields(depth=3, hidden=(2,))"


def test_a_transform_is_one_file_and_one_line_of_cases(tmp_path, monkeypatch):
    mine = made(tmp_path, TRANSFORM).Sinh
    monkeypatch.setitem(test_transforms.CASES, "sinh", test_transforms.Case(lambda w: mine()))
    for law in (test_transforms.test_to_data_undoes_to_noise_and_to_noise_to_data,
                test_transforms.test_log_det_is_that_of_the_numerical_jacobian,
                test_transforms.test_the_engine_differentiates_both_ways,
                test_transforms.test_log_prob_is_that_of_standard_normal_noise,
                test_transforms.test_rows_have_nothing_to_do_with_one_another):
        law("sinh", 0)

    class Wrong(mine):
        def to_noise(self, p, x, c=None, stream=None):
            return super().to_noise(p, x)[0], x[:, 0]

    monkeypatch.setitem(test_transforms.CASES, "wrong", test_transforms.Case(lambda w: Wrong()))
    with pytest.raises(AssertionError):
        test_transforms.test_log_det_is_that_of_the_numerical_jacobian("wrong", 0)
    model = npgen.RealNVP(n_couplings=2, hidden=(8,), max_epochs=2, preprocess="sinh", random_state=0).fit(data.moons(200))
    assert model.sample(3, rng=0).shape == (3, 2)


# ---------------------------------------------------------------- heads

HEAD_LAWS = [test_heads.test_samples_are_drawn_from_the_distribution, test_heads.test_every_feature_integrates_or_sums_to_one,
             test_heads.test_a_row_is_the_product_of_its_features, test_heads.test_first_outputs_are_the_datas_marginals,
             test_heads.test_derivatives, test_heads.test_a_head_is_written_as_json,
             *(functools.partial(law, dtype=dtype) for dtype in (np.float32, np.float64) for law in
               (test_heads.test_log_prob_and_moments_are_those_of_the_distribution,
                test_heads.test_samples_keep_the_dtype_and_the_support))]
FAMILY_LAWS = [
    functools.partial(test_heads.test_every_row_under_every_component_is_log_prob_of_the_values_seen, dtype=np.float64),
    *(functools.partial(test_heads.test_the_likeliest_outputs_have_no_slope_and_give_moments, smoothing=smoothing)
      for smoothing in (0, 0.01)),
    test_heads.test_a_component_around_a_row_is_the_likeliest_of_those_around_rows, test_heads.test_guesses_and_parts]
CASES = {"laplace": (HEAD, "Laplace", lambda head, o: stats.laplace(o[0], np.exp(o[1]))),
         "geometric": (FAMILY, "Geometric", lambda head, o: stats.geom(1 / (1 + np.exp(o[0])), loc=-1))}


MISTAKES = [  # a head, an edit of its file, a law that finds it
    ("laplace", "log_b + np.log(2)", "log_b + 0 * np.log(2)", "test_every_feature_integrates_or_sums_to_one"),
    ("laplace", "np.abs(x - outputs[..., ::2])", "np.abs(x - np.asarray(getattr(outputs, 'value', outputs))[..., ::2])",
     "test_derivatives"),
    ("laplace", "- np.exp(outputs[..., 1::2])", "- np.exp(2 * outputs[..., 1::2])",
     "test_samples_are_drawn_from_the_distribution"),
    ("laplace", ".astype(noise.dtype)", ".astype(float)", "test_samples_keep_the_dtype_and_the_support"),
    ("laplace", "2 * ops.exp(2 *", "ops.exp(2 *", "test_log_prob_and_moments_are_those_of_the_distribution"),
    ("laplace", "np.asarray(weights, float)[:, None]", "1.0", "test_first_outputs_are_the_datas_marginals"),
    ("laplace", "np.log(variance / 2) / 2", "np.log(variance) / 2", "test_first_outputs_are_the_datas_marginals"),
    ("laplace", "2 * np.arange(d + 1)", "np.arange(d + 1)", "test_a_row_is_the_product_of_its_features"),
    ("geometric", "ops.softplus(-outputs) + ops.softplus(outputs)", "ops.softplus(-outputs)",
     "test_every_feature_integrates_or_sums_to_one"),
    ("geometric", "np.floor(", "np.ceil(", "test_samples_are_drawn_from_the_distribution"),
    ("geometric", "without(missing, linear(", "without(missing[:0], linear(",
     "test_every_row_under_every_component_is_log_prob_of_the_values_seen"),
    ("geometric", "total + smoothing", "total", "test_the_likeliest_outputs_have_no_slope_and_give_moments"),
    ("geometric", "(seen, EMPTY)", "(seen + 1, EMPTY)", "test_the_likeliest_outputs_have_no_slope_and_give_moments"),
    ("geometric", "np.log((x + 0.5) / (x + 1.5))", "np.log((x + 0.5) / (x + 2.5))",
     "test_a_component_around_a_row_is_the_likeliest_of_those_around_rows"),
    ("geometric", "self.mean(outputs).T", "outputs.T", "test_guesses_and_parts"),
]


@pytest.fixture
def head(tmp_path, monkeypatch):
    """head(name, old="", new=""): a new head, of an edited file, that npgen and the tables of tests/test_heads.py know."""
    def known(name, old="", new=""):
        text, class_name, truth = CASES[name]
        assert old in text, f"the head {name} no longer has {old!r}"
        cls, n, d = getattr(made(tmp_path, text.replace(old, new) if old else text), class_name), test_heads.N, test_heads.D
        one, outputs = cls(), np.random.default_rng(1).normal(size=(n, cls().n_outputs(d)))
        rows = one.sample(one.noise(Stream(9), (n, d), np.float64), outputs)
        for table, key, value in ((npgen.heads.HEADS, name, cls), (test_heads.OF, name, one), (test_heads.TRUTH, cls, truth),
                                  (test_heads.OUTPUTS, name, outputs), (test_heads.ROWS, name, rows)):
            monkeypatch.setitem(table, key, value)
        return one

    return known


@pytest.mark.parametrize("name", CASES)
def test_a_head_is_one_file_and_one_line_of_cases(name, head):
    for law in HEAD_LAWS + (FAMILY_LAWS if isinstance(head(name), Family) else []):
        law(name)


@pytest.mark.parametrize(("name", "old", "new", "law"), MISTAKES)
def test_a_mistake_in_a_head_is_found(name, old, new, law, head):
    """By the law of heads that is about it."""
    head(name, old, new)
    laws = [each for each in HEAD_LAWS + FAMILY_LAWS if getattr(each, "func", each).__name__ == law]
    with pytest.raises((AssertionError, ValueError)):
        for each in laws:
            each(name)


@pytest.mark.long
@pytest.mark.parametrize(("name", "build"), [
    ("laplace", lambda **options: npgen.MADE(hidden=(12,), **options)),
    ("geometric", lambda **options: npgen.MADE(hidden=(12,), **options)),
    ("laplace", lambda **options: npgen.VAE(n_latent=1, hidden=(12,), n_importance=50, **options)),
    ("geometric", lambda **options: npgen.VAE(n_latent=1, hidden=(12,), n_importance=50, **options)),
    ("geometric", lambda max_epochs, learning_rate, head, **options: npgen.Mixture(2, heads=head, **options)),
], ids=["MADE, Laplace", "MADE, geometric", "VAE, Laplace", "VAE, geometric", "Mixture, geometric"])
def test_models_take_a_new_head(name, build, head, tmp_path):
    """The laws of a model hold of one with this head, by its name; it is kept in files."""
    head(name)
    rng = np.random.default_rng(3)
    x = rng.laplace(size=(400, 2)) @ [[1, 0.5], [0, 1]] if name == "laplace" else rng.geometric(
        np.where(rng.random((400, 1)) < 0.5, 0.7, 0.4), (400, 2)) - 1.0
    model = build(head=name, max_epochs=15, learning_rate=5e-3, random_state=0).fit(x)
    report = check_generative_model(model, x)
    assert report.passed, str(report)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(npgen.load(tmp_path / "model").log_prob(x), model.log_prob(x))
