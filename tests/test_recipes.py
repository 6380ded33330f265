"""The README's recipes, followed: a new model or transform is one file, in a folder of one's own, and one line of cases."""
import importlib.util
import textwrap

import numpy as np
import pytest
import test_transforms

import npgen
from npgen import data
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

        def init(self, z, c, stream):
            return {"outputs": np.zeros(2 * self.d, z.dtype)}


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
    with pytest.raises(ValueError, match="encode: a Independent has no representation"):
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
