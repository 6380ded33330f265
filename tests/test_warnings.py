"""Warnings: of one line, said once, and at the user's line, so that another fit of theirs is warned of too."""
import warnings

import numpy as np
import pytest

from npgen import MADE, VAE, GaussianMixture, Mixture, RealNVP, data

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3))
QUICK = {"max_epochs": 1, "hidden": (4,), "random_state": 0}
BAD = {kind: np.column_stack([X, column]) for kind, column in (
    ("far", np.where(np.arange(300) == 7, -9999, X[:, 1])), ("constant", np.ones(300)), ("atom", np.maximum(X[:, 1], 0)))}
NAMED = data.Table(X, ["a", "b", "c"])
FITTED = {"GaussianMixture": GaussianMixture(random_state=0), "VAE": VAE(**QUICK)}


def interrupt(entry):
    raise KeyboardInterrupt


CASES = {
    **{f"{model.__name__} {kind}": lambda model=model, kind=kind: model(**QUICK).fit(BAD[kind])
       for model in (MADE, RealNVP, VAE) for kind in BAD},
    "fit_transform": lambda: RealNVP(**QUICK).fit_transform(BAD["far"]),
    "log and standardize": lambda: RealNVP(preprocess="log+standardize", **QUICK).fit(np.exp(BAD["constant"])),
    "some columns": lambda: RealNVP(**QUICK).fit(np.column_stack([BAD["far"], np.arange(300) % 3])),
    "one column": lambda: MADE(**QUICK).fit(X[:, :1]),
    "narrow": lambda: MADE(**QUICK | {"hidden": (1,)}).fit(X),
    "interrupted": lambda: MADE(callbacks=[interrupt], **QUICK).fit(X),
    "rolled back": lambda: RealNVP(learning_rate=1e30, **QUICK).fit(X),
    "atom of a mixture": lambda: GaussianMixture(random_state=0).fit(BAD["atom"]),
    "on the floor, fit_transform": lambda: GaussianMixture(20, tol=1, random_state=0).fit_transform(X[:60]),
    "no likelier than one, the first partial_fit": lambda: Mixture(2, random_state=0).partial_fit((X[:, :1] > 0).astype(float)),
    "interrupted EM, fit_predict": lambda: GaussianMixture(2, callbacks=[interrupt], random_state=0).fit_predict(X),
    "not converged": lambda: GaussianMixture(2, max_iter=1, tol=0, random_state=0).fit(X),
    **{f"names of {query}": lambda query=query: getattr(FITTED["GaussianMixture"].fit(NAMED), query)(X)
       for query in ("log_prob", "score", "encode", "predict", "partial_fit")},
    "names of elbo": lambda: FITTED["VAE"].fit(NAMED).elbo(X),
    "names of validation_data": lambda: VAE(**QUICK).fit(NAMED, validation_data=X),
}


@pytest.mark.parametrize("case", CASES)
def test_a_warning_is_one_line_said_once_at_the_users_line(case):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        CASES[case]()
    texts = [str(w.message) for w in said]
    assert texts and len(set(texts)) == len(texts) and not any("\n" in text or len(text) > 400 for text in texts)
    assert {w.filename for w in said} == {__file__}


def test_a_warning_of_names_that_are_numbers_is_at_the_users_line(tmp_path):
    with pytest.warns(UserWarning, match="has no header") as said:
        data.write(tmp_path / "x.csv", X, ["1", "2", "3"])
    assert said[0].filename == __file__
