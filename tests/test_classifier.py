"""BayesClassifier: Bayes' rule, scikit-learn's classifiers as special cases, labels of any kind, one file."""
import copy

import numpy as np
import pytest

import npgen
from npgen import MADE, VAE, BayesClassifier, GaussianMixture, Mixture, RealNVP
from npgen.testing import check_generative_model

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone, is_classifier  # noqa: E402
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.naive_bayes import BernoulliNB, CategoricalNB, GaussianNB  # noqa: E402
from sklearn.neighbors import KernelDensity  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, 300)
X = RNG.normal(size=(300, 4)) @ RNG.normal(size=(4, 4)) + Y[:, None] * [1, 0.5, 0, -1]
BITS, LEVELS, EVEN = (X > 0).astype(float), np.clip(np.round(X), -1, 1) + 1, np.repeat([0, 1, 2], 100)
TRAINING = {"max_epochs": 30, "learning_rate": 5e-3, "random_state": 0}
exact = GaussianMixture(1, reg_covar=0)
SAME = {  # ours, scikit-learn's, rows, labels; smoothing is alpha c / 2 n for c levels and n rows of a class
    "QDA": (exact, QuadraticDiscriminantAnalysis(), X, Y),
    "LDA": (clone(exact).set_params(covariance_type="tied"), LinearDiscriminantAnalysis(solver="lsqr"), X, Y),
    "GaussianNB": (clone(exact).set_params(covariance_type="diag"), GaussianNB(var_smoothing=0), X, Y),
    "GaussianNB, by columns": (Mixture(1, heads="normal", reg_covar=0), GaussianNB(var_smoothing=0), X, Y),
    "BernoulliNB": (Mixture(1, heads="bernoulli", smoothing=0), BernoulliNB(alpha=0, force_alpha=True), BITS, Y),
    "BernoulliNB, alpha 1": (Mixture(1, heads="bernoulli", smoothing=1 / 100), BernoulliNB(alpha=1), BITS, EVEN),
    "CategoricalNB": (Mixture(1, heads="categorical", smoothing=0), CategoricalNB(alpha=0, force_alpha=True), LEVELS, Y),
    "CategoricalNB, alpha 1": (Mixture(1, heads="categorical", smoothing=1.5 / 100), CategoricalNB(alpha=1), LEVELS, EVEN),
}
each_density = pytest.mark.parametrize("density", [
    GaussianMixture(2, random_state=0), GaussianMixture(2, covariance_type="tied", random_state=0), Mixture(2, random_state=0),
    KernelDensity(), MADE(hidden=(16,), **TRAINING), RealNVP(n_couplings=2, hidden=(8,), **TRAINING),
    VAE(n_latent=2, hidden=(16,), n_importance=20, **TRAINING)],
    ids=["full", "tied", "columns", "scikit-learn's", "MADE", "RealNVP", "VAE"])


def fitted(density, x=X, y=Y, **options):
    return BayesClassifier(density, random_state=0, **options).fit(x, y)


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("prior", ["empirical", [0.2, 0.5, 0.3]])
def test_scikit_learns_classifiers_are_special_cases(name, prior):
    if name == "LDA" and prior != "empirical":
        pytest.skip("scikit-learn weighs the classes' covariances by a prior that is given, which says nothing of the rows")
    density, theirs, x, y = SAME[name]
    known = {"class_prior" if hasattr(theirs, "class_prior") else "priors": None if prior == "empirical" else prior}
    ours, theirs = fitted(density, x, y, prior=prior), clone(theirs).set_params(**known).fit(x, y)
    np.testing.assert_allclose(ours.predict_log_proba(x), theirs.predict_log_proba(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    assert ours.score(x, y) == theirs.score(x, y)


@pytest.mark.parametrize("name", ["GaussianNB", "GaussianNB, by columns", "BernoulliNB", "CategoricalNB"])
def test_weights_count_as_they_do_there(name):
    density, theirs, x, y = SAME[name]
    weights = np.random.default_rng(1).uniform(0.5, 3, len(x))
    ours, theirs = BayesClassifier(density).fit(x, y, sample_weight=weights), clone(theirs).fit(x, y, sample_weight=weights)
    np.testing.assert_allclose(ours.predict_log_proba(x), theirs.predict_log_proba(x), rtol=1e-9, atol=1e-9)
    assert ours.score(x, y, weights) == pytest.approx(theirs.score(x, y, weights), rel=1e-12)


@each_density
def test_bayes_rule(density):
    """log p(x, y) = log p(x) + log p(y | x), of densities that are asked themselves; probabilities add up to 1."""
    model = fitted(density)
    if len(model.densities_) == 1:
        joint = np.stack([model.densities_[0].log_prob(X, context=[i]) for i in range(3)], axis=1)
    else:
        joint = np.stack([getattr(each, "log_prob", each.score_samples)(X) for each in model.densities_], axis=1)
    joint = joint + np.log(np.bincount(Y) / len(Y))
    np.testing.assert_allclose(model.log_prob(X)[:, None] + model.predict_log_proba(X), joint, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(X), joint.argmax(axis=1))
    assert model.score(X, Y) > 0.5


@each_density
def test_samples_are_of_their_class(density):
    """Means of 4,000 rows of a class are those of its rows up to the model's own error, and labels are drawn by their share."""
    model = fitted(density, prior=[0.1, 0.2, 0.7])
    for label in range(3):
        rows = X[Y == label]
        drawn = model.sample(4000, y=label, rng=label)
        assert drawn.shape == (4000, 4) and drawn.dtype == X.dtype
        np.testing.assert_allclose(drawn.mean(axis=0), rows.mean(axis=0), atol=0.5 * rows.std(axis=0).max())
    rows, labels = model.sample(4000, rng=0, return_labels=True)
    again, same = model.sample(4000, rng=0, return_labels=True)
    np.testing.assert_array_equal(labels, same)
    assert isinstance(density, KernelDensity) or (rows == again).all()
    error = 5 * np.sqrt(0.25 / 4000)  # a false alarm in 1,700,000
    np.testing.assert_allclose(np.bincount(labels) / 4000, [0.1, 0.2, 0.7], atol=error)
    np.testing.assert_array_equal(model.sample(y=labels[:50], rng=1, return_labels=True)[1], labels[:50])
    assert not np.array_equal(model.sample(3), model.sample(3)) and model.sample(0).shape == (0, 4)


@pytest.mark.parametrize("labels", [["no", "yes", "perhaps"], [3, -1, 7], [0.0, 2.0, 1.0], [True, False, True]], ids=str)
@pytest.mark.parametrize("density", [exact, VAE(n_latent=2, hidden=(8,), max_epochs=2, random_state=0)],
                         ids=["each", "conditional"])
def test_labels_of_any_kind_and_a_file(labels, density, tmp_path):
    y = np.array(labels)[Y]
    model = fitted(density, y=y)
    model.save(tmp_path / "model")
    again = npgen.load(tmp_path / "model")
    assert again.classes_.tolist() == model.classes_.tolist() == sorted(set(labels)) and again.classes_.dtype == y.dtype
    assert repr(again) == repr(model)
    for query in ("predict", "predict_log_proba", "log_prob"):
        np.testing.assert_array_equal(getattr(again, query)(X), getattr(model, query)(X))
    np.testing.assert_array_equal(again.sample(9, y=labels[0]), model.sample(9, y=labels[0]))
    objects = BayesClassifier(density).fit(X, y.astype(str).astype(object))
    objects.save(tmp_path / "objects")
    assert npgen.load(tmp_path / "objects").predict(X[:3]).dtype == object


@pytest.mark.parametrize("changed", [{"classes_": [0, 2]}, {"classes_": [2, 1, 0]}, {"classes_": [0, 1, "2"]}, {"classes_": []},
                                     {"classes_": None}, {"labels": "U"}, {"densities_": []}, {"n_features_in_": 3},
                                     {"densities_": [{"class": "os"}] * 3}, {"classes_": [[0], [1], [2]]}], ids=str)
def test_a_file_that_does_not_fit_is_a_load_error(changed, tmp_path):
    from npgen import checkpoint
    fitted(exact).save(tmp_path / "good")
    arrays, header = checkpoint.read(tmp_path / "good")
    header["fitted"] |= changed
    checkpoint.write(tmp_path / "bad", arrays, header)
    with pytest.raises(npgen.LoadError, match="the header and the arrays do not make a BayesClassifier"):
        npgen.load(tmp_path / "bad")


def test_one_class_only():
    model = fitted(exact, y=np.full(300, "all"))
    assert (model.predict(X[:5]) == "all").all() and (model.predict_proba(X) == 1).all()
    np.testing.assert_allclose(model.log_prob(X), clone(exact).fit(X).log_prob(X), rtol=1e-12)


def test_a_class_of_one_row():
    y = np.where(np.arange(300) == 7, "rare", "often")
    with pytest.raises(ValueError, match="class 'rare' has n_samples=1, one row, .* give it more, leave it out, or fit one"):
        fitted(exact, y=y)
    assert fitted(VAE(n_latent=2, hidden=(8,), max_epochs=2, random_state=0), y=y).classes_.tolist() == ["often", "rare"]
    weights = np.where(y == "rare", 0.0, 1.0)  # a row of weight 0 is not there
    assert BayesClassifier(exact).fit(X, y, weights).classes_.tolist() == ["often"]


def test_missing_values():
    """As where the columns of a row that have values are all there are."""
    holes = np.where(np.random.default_rng(2).random(X.shape) < 0.2, np.nan, X)
    model = fitted(GaussianMixture(1), x=holes)
    assert model.score(holes, Y) > 0.5
    only = [each.marginal([1, 3]) for each in model.densities_]
    joint = np.log(model.priors_) + np.stack([each.log_prob(X[:, [1, 3]]) for each in only], axis=1)
    rows = np.where([True, False, True, False], np.nan, X)
    np.testing.assert_allclose(model.log_prob(rows), np.logaddexp.reduce(joint, axis=1), rtol=1e-9)
    with pytest.raises(ValueError, match=r"fit: X\[\d+, \d\] is nan"):
        fitted(RealNVP(), x=holes)


def test_what_the_data_decide_is_decided_by_all_rows():
    """A level, or a kind of column, that one class alone does not show."""
    x, y = np.column_stack([Y % 2, Y, X[:, 0]]).astype(float), Y
    model = fitted(Mixture(1, heads="auto", smoothing=0.01), x=x, y=y)
    assert [each.kinds_ for each in model.densities_] == [["bernoulli", "normal", "normal"]] * 3
    levels = fitted(Mixture(1, heads=["bernoulli", "categorical", "normal"], smoothing=0.01), x=x, y=y)
    assert all(each.levels_[1].tolist() == [0, 1, 2] for each in levels.densities_)
    assert np.isfinite(levels.log_prob(x)).all() and levels.score(x, y) == 1
    bits = np.column_stack([Y > 0, X[:, 0] > 0, Y + X[:, 1]]).astype(float)
    made = fitted(MADE(hidden=(8,), max_epochs=2, random_state=0), x=bits, conditional=False)
    assert {each.head_.name for each in made.densities_} == {"normal"} and np.isfinite(made.log_prob(bits)).all()


def test_tied_components_of_several_classes_have_one_covariance():
    """Mixture discriminant analysis: a maximum of the joint likelihood, where no change of the shared covariance is better."""
    x = np.concatenate([X, X + [6, 0, 0, 0]])
    y = np.concatenate([Y, Y])
    model = fitted(GaussianMixture(2, covariance_type="tied", tol=1e-10, max_iter=1000, random_state=0), x=x, y=y)
    first, *others = model.densities_
    for each in others:
        np.testing.assert_allclose(each.covariances_, first.covariances_, rtol=1e-9)

    def nats(scale):
        densities = [GaussianMixture.from_parameters(each.weights_, each.means_, each.covariances_ * scale,
                                                     covariance_type="tied") for each in model.densities_]
        return sum(each.log_prob(x[y == i]).sum() for i, each in enumerate(densities))

    assert nats(1) > max(nats(0.99), nats(1.01))
    with pytest.raises(ValueError, match="needs preprocess=None"):
        fitted(GaussianMixture(1, covariance_type="tied", preprocess="standardize"))


def test_rows_where_every_density_vanishes_have_the_prior():
    model = fitted(exact, prior=[0.2, 0.5, 0.3])
    far = np.full((1, 4), 3e38, np.float32)
    assert model.log_prob(far) == -np.inf and model.predict(far) == 1
    np.testing.assert_allclose(model.predict_proba(far), [[0.2, 0.5, 0.3]], rtol=1e-12)


PROMISED = {"any number of threads", "save, then load", "log_prob of any number is a number"}


@pytest.mark.parametrize(("density", "promises"), [
    (GaussianMixture(2, random_state=0), True), (MADE(hidden=(16,), **TRAINING), True), (KernelDensity(), False)],
    ids=["one of each class", "one given the class", "scikit-learn's"])
def test_the_checker_holds_it_to_what_models_of_npgen_promise(density, promises):
    """Files, threads, dtypes and streams too, where its densities have files."""
    rows = npgen.data.Table(X, list("abcd"))
    report = check_generative_model(fitted(density, rows), rows, n_samples=2000)
    skipped = {finding.law for finding in report.findings if finding.skipped}
    assert report.passed, str(report)
    assert PROMISED & skipped == (set() if promises else PROMISED)


WRONG = [
    (lambda: BayesClassifier(GaussianMixture).fit(X, Y), TypeError, "density must be a model with fit, log_prob or"),
    (lambda: BayesClassifier(StandardScaler()).fit(X, Y), TypeError, "density must be a model with fit, log_prob or"),
    (lambda: fitted(exact, prior=[0.5, 0.5]), ValueError, "prior must be 'empirical' or 3 probabilities"),
    (lambda: fitted(exact, prior="even"), ValueError, "prior must be 'empirical' or given"),
    (lambda: fitted(exact, conditional=True), ValueError, "a GaussianMixture takes no context"),
    (lambda: fitted(exact, y=Y[:9]), ValueError, r"y has shape \(9,\), but X has 300 rows"),
    (lambda: fitted(exact, y=X[:, 0]), ValueError, "Unknown label type: y holds"),
    (lambda: fitted(exact, y=np.where(Y, 1, np.nan)), ValueError, "y contains NaN"),
    (lambda: fitted(exact, y=Y.astype(complex)), TypeError, "Unknown label type"),
    (lambda: fitted(exact).sample(y=5), ValueError, "y is 5, but the classes are"),
    (lambda: fitted(exact).sample(3, y=[0, 1]), ValueError, "n_samples is 3, but y has 2 labels"),
    (lambda: fitted(exact).sample(-1), ValueError, "n_samples must be a non-negative integer"),
    (lambda: BayesClassifier(exact).predict(X), npgen.NotFittedError, "predict: this BayesClassifier is not fitted"),
    (lambda: fitted(exact).predict(X[:, :2]), ValueError, "X has 2 features, but BayesClassifier is expecting 4"),
    (lambda: fitted(KernelDensity()).save("x"), TypeError, "a KernelDensity is no model of npgen"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_what_cannot_be_asked(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_fit_that_fails_changes_nothing():
    model = fitted(exact)
    before = copy.copy(vars(model))
    with pytest.raises(ValueError, match="class"):
        model.fit(X, np.arange(300) > 0)
    assert vars(model) == before


def test_hyperparameters_of_the_density():
    model = BayesClassifier(GaussianMixture(2))
    assert model.get_params()["density__n_components"] == 2 and "density__n_components" not in model.get_params(deep=False)
    model.set_params(density__n_components=3, prior=[0.5, 0.5])
    assert repr(model) == "BayesClassifier(density=GaussianMixture(n_components=3), prior=[0.5, 0.5])"
    with pytest.raises(ValueError, match="no parameter"):
        model.set_params(density__nothing=1)
    search = GridSearchCV(BayesClassifier(exact), {"density__covariance_type": ["full", "diag"]}).fit(X, Y)
    assert search.best_score_ > 0.5 and is_classifier(model)
    assert cross_val_score(make_pipeline(StandardScaler(), BayesClassifier(exact)), X, Y).mean() > 0.5
    assert clone(model).density is not model.density


def test_seeds():
    """A density without a seed has one of the classifier's."""
    a, b, c = (BayesClassifier(MADE(hidden=(8,), max_epochs=2), random_state=seed).fit(X, Y) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    assert not np.array_equal(a.predict_proba(X), c.predict_proba(X)) and a.density.random_state is None


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # as scikit-learn runs them: with no warning an error
@pytest.mark.parametrize(("density", "inherent"), [
    (Mixture(1, random_state=0), {}),
    (GaussianMixture(1, random_state=0), {"check_sample_weight_equivalence_on_dense_data": "one of its classes is one row"})])
def test_check_estimator(density, inherent):
    results = check_estimator(BayesClassifier(density), on_skip=None, expected_failed_checks=inherent)
    assert sum(result["status"] == "passed" for result in results) > 55
