"""The laws of every model (test_models.py), of models on the device: with --gpu of every class, else of a few, on a stand-in.

Rows of the host go in and come out; what a law asks of the model, a fit included, is computed on the device.
"""
import functools
import inspect

import numpy as np
import pytest
import test_models as laws

from npgen.kernels._cuda import asnumpy

FEW = ["MADE, normal, raw", "GaussianMixture, full"]  # on the stand-in, whose kernels are slow
ONES = [*laws.FIRST.values()]
ALIKE = [laws.test_shapes_and_dtypes, laws.test_the_rows_decide_the_dtype_of_a_query,
         laws.test_same_seed_same_rows_whatever_their_number, laws.test_same_seed_same_fit, laws.test_seeds_differ,
         laws.test_without_a_seed_the_models_own_stream_goes_on, laws.test_a_rows_answer_does_not_depend_on_the_rows_beside_it,
         laws.test_save_then_load_is_the_identity, laws.test_a_pickled_model_is_the_same, laws.test_a_fit_leaves_its_rows_alone,
         laws.test_changed_hyperparameters_wait_for_the_next_fit, laws.test_decode_inverts_encode, laws.test_answers_have_units,
         laws.test_rows_far_out_are_improbable_not_nan, laws.test_weights_of_one_are_no_weights]


def cases_of(law):
    """The cases that it is a law of."""
    marks = [mark.args for mark in law.pytestmark if mark.name == "parametrize"]
    return next(values for names, values in marks if "case" in names)


def pytest_generate_tests(metafunc):
    chosen = ONES if metafunc.config.getoption("--gpu") else FEW
    metafunc.parametrize("law, case", [pytest.param(law, case, id=f"{law.__name__[5:]}-{case}")
                                       for law in ALIKE for case in chosen if case in cases_of(law)])


@pytest.fixture
def on_device(cupy, monkeypatch):
    """A model that the laws make computes there, one that they load or unpickle too."""
    def there(make):
        def made(*args, **params):
            model = make(*args, **params)
            return (model[0].to("cuda"), *model[1:]) if type(model) is tuple else model.to("cuda")
        return made

    fresh, same_bits = laws.fresh, laws.same_bits

    @functools.cache
    def fitted(case, dtype=np.float64):
        x = laws.CASES[case][1].astype(dtype)
        return laws.fresh(case).fit(x), x

    monkeypatch.setattr(laws, "fresh", there(fresh))
    monkeypatch.setattr(laws, "fitted", fitted)
    monkeypatch.setattr(laws, "same_bits", lambda a, b: same_bits(*map(asnumpy, (a, b))))
    monkeypatch.setattr(laws.npgen, "load", there(laws.npgen.load))


def test_it_is_a_law_of_a_model_on_the_device_too(on_device, law, case, tmp_path, monkeypatch):
    asked = inspect.signature(law).parameters
    given = {"case": case, "dtype": np.float32, "tmp_path": tmp_path, "monkeypatch": monkeypatch}
    law(**{name: value for name, value in given.items() if name in asked})
    if law is laws.test_same_seed_same_fit:
        assert laws.fitted(case, np.float32)[0].device == "cuda"
