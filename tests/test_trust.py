"""The public checker: no false alarm on others' sound models (on npgen's: test_models); what it prints; what it refuses."""
import numpy as np
import pytest
from scipy import stats
from test_models import COUNTS, MOONS, REAL, fitted

import npgen
from npgen import cli
from npgen.data import Table
from npgen.testing import bounds, check_generative_model
from npgen.testing.laws import LAWS

pytestmark = pytest.mark.long


class Adapter:
    """log_prob and sample are all that the checker asks for."""

    def __init__(self, log_prob, sample):
        self.log_prob, self.sample = log_prob, sample


def normals(n, rng):
    return np.random.default_rng(rng).normal(size=(n, 1))


def of_scipy(distribution):
    """A frozen SciPy distribution of one column."""
    log_prob = distribution.logpmf if hasattr(distribution, "pmf") else distribution.logpdf
    return Adapter(lambda x: log_prob(x[:, 0]), lambda n, rng=None: distribution.rvs((n, 1), random_state=rng))


def of_sklearn(mixture, rng=0):
    """A fitted mixture of scikit-learn, which draws its rows sorted by component."""
    shuffle = np.random.default_rng(rng).permutation
    adapter = Adapter(mixture.score_samples, lambda n: shuffle(mixture.sample(n)[0]))
    adapter.model = mixture  # its attributes and predict_proba are checked too
    return adapter


@pytest.mark.parametrize("case", ["MADE, Bernoulli", "RealNVP, 2 features", "GaussianMixture, full"])
def test_float32_models_and_rows_of_its_own(case):
    report = check_generative_model(fitted(case, np.float32)[0], seed=4)
    assert report.passed, str(report)


SCIPY = {
    "normal": stats.norm(3, 1e-3),
    "Student t, heavy tails": stats.t(2.5),
    "Cauchy": stats.cauchy(),
    "uniform, with edges": stats.uniform(-1, 5),
    "beta, unbounded at its ends": stats.beta(0.9, 0.8),
    "lognormal": stats.lognorm(1.0),
    "gamma": stats.gamma(2.0),
    "normal, far from 0": stats.norm(1e8, 1e-3),
    "normal, hardly wider than 0": stats.norm(0, 1e-200),
    "Pareto, without a mean": stats.pareto(0.5),
    "loguniform": stats.loguniform(1e-10, 1e10),
    "Poisson": stats.poisson(6.0),
    "Poisson, nearly always 0": stats.poisson(0.001),
    "geometric": stats.geom(0.01),
    "Zipf": stats.zipf(1.5),
    "binomial": stats.binom(9, 0.3),
    "Bernoulli": stats.bernoulli(0.2),
}


@pytest.mark.parametrize("name", SCIPY)
def test_scipys_distributions(name):
    report = check_generative_model(of_scipy(SCIPY[name]), seed=2)
    assert report.passed, str(report)


def test_scipys_multivariate_normal():
    normal = stats.multivariate_normal([1, -2, 3], [[4, 1, 0], [1, 1, 0.3], [0, 0.3, 2]])
    report = check_generative_model(Adapter(lambda x: np.atleast_1d(normal.logpdf(x)),  # which is a scalar for one row
                                            lambda n, rng=None: normal.rvs(n, random_state=rng).reshape(n, 3)))
    assert report.passed, str(report)


def two(one, other, share=0.5):
    """A mixture of two distributions."""
    def sample(n, rng=None):
        rng = np.random.default_rng(rng)
        return np.where(rng.random((n, 1)) < share, one.rvs((n, 1), random_state=rng), other.rvs((n, 1), random_state=rng))

    def log_prob(x):
        return np.logaddexp(np.log(share) + one.logpdf(x[:, 0]), np.log1p(-share) + other.logpdf(x[:, 0]))
    return Adapter(log_prob, sample)


@pytest.mark.parametrize("pair", [(stats.norm(-1e6, 1), stats.norm(1e6, 1)), (stats.norm(0, 1e-5), stats.norm(), 0.3)],
                         ids=["far apart", "a spike"])
def test_a_density_that_a_grid_cannot_show(pair):
    report = check_generative_model(two(*pair))
    assert report.passed and report["probability integral transform"].skipped, str(report)


def test_many_counts():
    """More states than can be listed: the total is still looked at."""
    def model(shift):
        return Adapter(lambda x: stats.poisson(3).logpmf(x).sum(axis=1) + shift,
                       lambda n, rng=None: np.random.default_rng(rng).poisson(3, (n, 5)).astype(float))
    law = "the density sums or integrates to one"
    assert check_generative_model(model(0.0)).passed
    assert check_generative_model(model(1.0), laws=[law]).broken == [law]


def test_what_is_not_npgens_may_have_attributes_of_the_same_names():
    model = of_scipy(stats.norm())
    model.order_, model.elbo, model.lower_bounds_ = [0], None, [1.0, 2.0]
    assert check_generative_model(model).passed


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("x", [MOONS, REAL], ids=["moons", "five columns"])
def test_scikit_learns_mixtures(kind, x):
    mixture = pytest.importorskip("sklearn.mixture", reason="scikit-learn is not installed")
    report = check_generative_model(of_sklearn(mixture.GaussianMixture(3, covariance_type=kind, random_state=0).fit(x)), x)
    assert report.passed, str(report)
    assert not report["a mixture is its attributes"].skipped


def test_scikit_learns_kernel_density():
    neighbors = pytest.importorskip("sklearn.neighbors", reason="scikit-learn is not installed")
    density = neighbors.KernelDensity(bandwidth=0.5).fit(MOONS)
    report = check_generative_model(Adapter(density.score_samples, lambda n, rng=0: density.sample(n, random_state=rng)))
    assert report.passed, str(report)


WRONG = {  # a mistake in someone else's model -> (its log_prob, its sample, a law that must find it)
    "normaliser": (lambda x: -x[:, 0] ** 2 / 2, None, "the density sums or integrates to one"),
    "variance for std": (lambda x: stats.norm(0, 4).logpdf(x[:, 0]), lambda n, rng=None: stats.norm(0, 2).rvs((n, 1)),
                         "samples follow the density along slices"),
    "shifted samples": (None, lambda n, rng=None: 0.3 + normals(n, rng), "probability integral transform"),
    "heavier tails": (None, lambda n, rng=None: stats.t(3).rvs((n, 1), random_state=rng), "probability integral transform"),
    "rows twice": (None, lambda n, rng=None: np.repeat(normals(n // 2 + 1, rng), 2, axis=0)[:n],
                   "rows are independent of those before"),
    "neighbours alike": (None, lambda n, rng=None: np.repeat(normals(n // 2 + 1, rng), 2, axis=0)[1:n + 1],
                         "rows are independent of those before"),
    "rows drawn again": (None, lambda n, rng=None: np.resize(normals(min(n, 9000), rng), (n, 1)), "no row is drawn twice"),
    "sorted": (None, lambda n, rng=None: np.sort(normals(n, rng), axis=0), "rows are independent of those before"),
    "batch statistics": (lambda x: stats.norm().logpdf((x - x.mean(axis=0))[:, 0]), None, "a row's answer is its own"),
    "NaN far out": (lambda x: np.where(np.abs(x[:, 0]) > 1e5, np.nan, stats.norm().logpdf(x[:, 0])), None,
                    "log_prob is finite"),
    "seed ignored": (None, lambda n, rng=None: normals(n, None), "a seed decides the rows"),
    "one stream": (None, lambda n, rng=None: normals(n, 0), "a seed decides the rows"),
    "flat": (lambda x: stats.norm().logpdf(x), None, "shapes and dtypes"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_in_a_model_of_ones_own_is_found(mistake):
    log_prob, sample, law = WRONG[mistake]
    right = of_scipy(stats.norm())
    report = check_generative_model(Adapter(log_prob or right.log_prob, sample or right.sample))
    assert law in report.broken and not report.passed, str(report)


def normal_of(x):
    """One normal of independent columns, with the mean and variance of the rows."""
    normal = stats.norm(x.mean(axis=0), x.std(axis=0))
    return Adapter(lambda rows: normal.logpdf(rows).sum(axis=1),
                   lambda n, rng=None: normal.rvs((n, x.shape[1]), random_state=np.random.default_rng(rng)))


def resample(x):
    """A model whose rows are those of x, all as likely."""
    def log_prob(rows):
        with np.errstate(divide="ignore"):
            return np.log((rows[:, None] == x).all(axis=2).mean(axis=1))
    return Adapter(log_prob, lambda n, rng=None: x[np.random.default_rng(rng).integers(len(x), size=n)])


Z = np.random.default_rng(1).normal(size=(500, 2))
ATOMS = {  # rows -> whether a continuous density of them is flagged
    "real": (Z, False),
    "rounded to a tenth": (Z.round(1), False),
    "counts of many levels": (np.random.default_rng(1).poisson(400, (500, 2)), False),
    "a bit beside a real": (np.column_stack([Z[:, 0], Z[:, 1] > 0]), True),
    "bits": (Z > 0, True),
    "a rare bit": (np.column_stack([Z[:, 0], Z[:, 1] > 1.2]), True),
    "two values": (np.column_stack([Z[:, 0], np.where(Z[:, 1] > 0, 0.1, -7.3)]), True),
    "zero-inflated": (np.column_stack([Z[:, 0], np.where(Z[:, 1] > 1, Z[:, 1], 0)]), True),
    "a ceiling": (np.minimum(Z, 1), True),
    "few counts": (np.random.default_rng(1).poisson(2, (500, 2)), True),
    "rounded to a whole": (Z.round(), True),
}


@pytest.mark.parametrize("rows", ATOMS)
def test_a_continuous_density_of_values_that_repeat_is_found(rows):
    law, (x, found) = "values that repeat are drawn", ATOMS[rows]
    x = x.astype(float)
    assert check_generative_model(normal_of(x), x, laws=[law]).broken == [law] * found
    assert check_generative_model(resample(x), x, laws=[law]).passed
    assert check_generative_model(normal_of(x), laws=[law])[law].skipped == "rows X are not given"


def test_samples_that_are_levels_only_in_part_are_found():
    x = (Z > 0).astype(float)
    model = resample(x)
    halves = Adapter(model.log_prob, lambda n, rng=None: model.sample(n, rng) * np.where(np.arange(n) % 4, 1, 0.5)[:, None])
    found = check_generative_model(halves, x, laws=["values that repeat are drawn"]).findings[0]
    assert not found.passed and "all rows are whole numbers, 8" in found.note


def test_a_model_of_few_rows_may_miss_a_value():
    """Of 3 rows, or among 100 samples, nothing repeats more often than by chance."""
    rare = (np.random.default_rng(0).random((1000, 1)) < 0.06).astype(float)
    right, law = of_scipy(stats.bernoulli(0.06)), "values that repeat are drawn"
    assert all(check_generative_model(right, rare, seed=seed, n_samples=100, laws=[law]).passed for seed in range(200))
    assert check_generative_model(normal_of(Z), Z[[0, 0, 0]], laws=[law]).passed


class OfFrames(Adapter):
    """A model of two columns with names, which goes by their place, or by their name."""

    feature_names_in_ = np.array(["height", "weight"], dtype=object)

    def __init__(self, by_name):
        self.by_name = by_name
        right = normal_of(Z * [1, 50])
        super().__init__(lambda x: right.log_prob(self.rows(x)), right.sample)

    def rows(self, x):
        if self.by_name and hasattr(x, "columns"):
            x = x[list(self.feature_names_in_)]
        return np.asarray(x, float)


def test_columns_taken_for_others_are_found():
    pytest.importorskip("pandas", reason="there are no frames")
    law = "columns go by their names"
    report = check_generative_model(OfFrames(by_name=False), laws=[law])
    assert report.broken == [law] and "log_prob answers columns of other names" in str(report)
    assert check_generative_model(OfFrames(by_name=True), laws=[law]).passed
    assert check_generative_model(normal_of(Z), laws=[law])[law].skipped == "fitted on columns without names"


def test_the_checker_takes_columns_by_their_names():
    model = OfFrames(by_name=True)
    assert check_generative_model(model, Table(Z, ["height", "weight"]), laws=["log_prob is finite"]).passed
    with pytest.raises(ValueError, match=r"X has columns \['weight', 'height'\], the model was fitted on \['height', 'w"):
        check_generative_model(model, Table(Z, ["weight", "height"]))
    named = npgen.GaussianMixture().fit(Table(Z, ["height", "weight"]))
    for x in (None, Z, Table(Z, ["height", "weight"])):
        report = check_generative_model(named, x)
        assert report.passed and not report["columns go by their names"].skipped, str(report)


def equal_components(x):
    """Two components that are one."""
    model = normal_of(x)
    model.weights_, model.means_ = np.array([0.5, 0.5]), np.stack([x.mean(axis=0)] * 2)
    model.covariances_, model.covariance_type = np.stack([x.var(axis=0)] * 2), "diag"
    return model


def test_components_that_are_one_are_found():
    law, far = "components differ", Z + 10 * (np.arange(len(Z)) % 2)[:, None]
    assert check_generative_model(equal_components(far), far, laws=[law]).broken == [law]
    assert check_generative_model(equal_components(Z), Z, laws=[law])[law].skipped == "one component may be what the rows have"
    assert check_generative_model(npgen.GaussianMixture(2, random_state=0).fit(far), far, laws=[law]).passed


class Drawing(npgen.GaussianMixture):
    """A query draws from the model's own stream."""

    def encode(self, X):
        self.stream_.uniform(1)
        return super().encode(X)


class Keeping(npgen.GaussianMixture):
    """A query keeps something of the rows."""

    def predict(self, X):
        self.fit_report_["rows"] = len(X)
        return super().predict(X)


class Sharing(npgen.GaussianMixture):
    """What is derived draws from the stream of the model it is derived from."""

    def marginal(self, columns):
        model = super().marginal(columns)
        model.stream_ = self.stream_
        return model


class Shifted(npgen.GaussianMixture):
    """An attribute, shift_, that samples follow, and the density does not."""

    shift_ = np.array([1.0, 2.0])

    def fit(self, X, y=None, **options):
        self.shift_ = np.array([1.0, 2.0])
        return super().fit(X, y, **options)

    def sample(self, n_samples=1, *, rng=None):
        return super().sample(n_samples, rng=rng) + self.shift_ - [1.0, 2.0]


class CountingCalls(npgen.GaussianMixture):
    """A batch is as much as all before, however many rows it has."""

    def partial_fit(self, X, y=None, *, sample_weight=None):
        x = np.asarray(X)
        weights = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight)
        return super().partial_fit(x, sample_weight=np.round(5000 * weights / weights.sum()))


class Unweighted(npgen.GaussianMixture):
    """partial_fit takes weights and leaves them out."""

    def partial_fit(self, X, y=None, *, sample_weight=None):
        return super().partial_fit(X)


class FarOut(npgen.GaussianMixture):
    """A density that overflows far out."""

    def log_prob(self, X):
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.square(np.asarray(X)).sum(axis=1)
        return super().log_prob(X) + (squares - squares)


STATES = {  # a faulty model -> (the law that finds it, words of what it says)
    Drawing: ("queries change nothing", "encode changes the model's own stream"),
    Keeping: ("queries change nothing", "predict changes fit_report_"),
    Sharing: ("queries change nothing", "sample of a marginal changes the model's own stream"),
    Shifted: ("attributes are what the model answers with", "shift_ can be written to, and sample follows"),
    CountingCalls: ("partial_fit counts rows", "one row after 2,000 moves the mean by"),
    Unweighted: ("partial_fit counts rows", "an integer weight is not so many rows"),
    FarOut: ("log_prob of any number is a number", "is nan"),
}


@pytest.mark.parametrize("faulty", STATES, ids=lambda faulty: faulty.__name__)
def test_a_model_whose_state_is_not_its_own_is_found(faulty):
    law, words = STATES[faulty]
    laws = sorted({law for law, _ in STATES.values()})
    assert check_generative_model(npgen.GaussianMixture(2, random_state=0).fit(Z), laws=laws).passed
    report = check_generative_model(faulty(2, random_state=0).fit(Z), laws=laws)
    assert report.broken == [law] and words in report[law].note, str(report)


def test_a_query_of_others_that_changes_their_state_or_the_rows_is_found():
    class Model:
        def __init__(self, spoil):
            self.spoil, self.rng = spoil, np.random.default_rng(0)

        def log_prob(self, x):
            self.spoil(self, x)
            return stats.norm().logpdf(x[:, 0])

        def sample(self, n):
            return self.rng.normal(size=(n, 1))

    law = "queries change nothing"
    for spoil, words in ((lambda m, x: m.rng.random(), "log_prob changes sample"),
                         (lambda m, x: x.__imul__(2), "log_prob writes to its rows"), (lambda m, x: None, "")):
        found = check_generative_model(Model(spoil), laws=[law])[law]
        assert found.note == words and found.passed == (not words)


@pytest.mark.parametrize("share", [0.2, 0.02, 1e-3])
def test_copies_that_share_a_stream_are_no_alarm(share):
    """Their nine draws are often the same by chance, and then others after a query: chance alarms in 4^-10 of the models."""
    rng = np.random.default_rng(0)
    model = Adapter(lambda x: stats.bernoulli(share).logpmf(x[:, 0]), lambda n: (rng.random((n, 1)) < share).astype(float))
    law, skipped = "queries change nothing", 0
    for seed in range(60):
        found = check_generative_model(model, laws=[law], seed=seed)[law]
        assert found.passed or found.skipped == "a copy of the model does not draw as the model does"
        skipped += bool(found.skipped)
    assert skipped or share < 0.01


def test_others_attributes_are_theirs():
    """scikit-learn lets covariances_ be set: samples follow and the density does not. That is said, and no alarm."""
    mixture = pytest.importorskip("sklearn.mixture", reason="scikit-learn is not installed")

    class Model(mixture.GaussianMixture):
        log_prob = mixture.GaussianMixture.score_samples

        def sample(self, n):
            return np.random.default_rng(0).permutation(super().sample(n)[0])

    law = "attributes are what the model answers with"
    report = check_generative_model(Model(2, random_state=0).fit(Z), laws=[law])
    assert report.passed and "covariances_ can be written to, and sample follows" in report[law].skipped


def test_the_power_that_a_law_states_is_what_it_has():
    """A shift that displaces as much of the mass as `would catch` says is found, and a fifth of it is not."""
    normal = stats.norm()
    tolerance = check_generative_model(of_scipy(normal))["probability integral transform"].tolerance
    for displaced, found in ((2 * tolerance, True), (tolerance / 5, False)):
        shift = 2 * normal.ppf(0.5 + displaced / 2)  # the largest difference of the two distribution functions is `displaced`
        for seed in range(20):
            model = Adapter(of_scipy(normal).log_prob, lambda n, rng=None, s=shift: normal.rvs((n, 1), random_state=rng) + s)
            report = check_generative_model(model, seed=seed, laws=["probability integral transform"])
            assert report.passed == (not found)


def test_the_power_that_the_law_of_states_has():
    """Every other probability too large, the rest too small, by as much as `would catch` says, or by a fifth of it."""
    law, counts = "samples follow the density over states", stats.binom(9, 0.4)
    tolerance = check_generative_model(of_scipy(counts), laws=[law])[law].tolerance
    p = counts.pmf(np.arange(10))
    for r, found in ((2 * tolerance, True), (tolerance / 5, False)):
        wrong = p * (1 + r * np.where(np.arange(10) % 2, 1, -1))
        wrong /= wrong.sum()
        for seed in range(20):
            def draw(n, rng=None, p=wrong):
                return np.random.default_rng(rng).choice(10, (n, 1), p=p).astype(float)
            report = check_generative_model(Adapter(of_scipy(counts).log_prob, draw), seed=seed, laws=[law])
            assert report.passed == (not found)


def _of_means(bound, width):
    def repeat(rng):
        x = width * (rng.random((5000, 400)) < 0.2)
        return np.abs(x.mean(axis=1) - 0.2 * width), bound(x, width)
    return repeat


def _of_an_event(rng):
    return rng.binomial(400, 0.025, 5000) / 400, bounds.chernoff(400, 0.025)


def _of_frequencies(rng):
    p = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    return np.sqrt(((rng.multinomial(1000, p, 5000) / 1000 - p) ** 2 / p).sum(axis=1)), bounds.pearson(1000, p)


BOUNDS = {  # 5,000 repetitions of a statistic, and how large it may be
    "band": lambda rng: (bounds.distance(rng.random((400, 5000))), bounds.band(400)),
    "hoeffding": _of_means(lambda x, width: bounds.hoeffding(400, width=width), 2.0),
    "bernstein": _of_means(lambda x, width: bounds.bernstein(x, width=width), 2.0),
    "chernoff": _of_an_event,
    "pearson": _of_frequencies,
}


@pytest.mark.parametrize("name", BOUNDS)
def test_chance_goes_beyond_a_bound_no_more_often_than_it_says_and_nearly_as_far(name, monkeypatch):
    monkeypatch.setattr(bounds, "ALARM", 0.01)
    statistic, bound = BOUNDS[name](np.random.default_rng(0))
    assert np.mean(statistic > bound) <= 0.01
    assert np.quantile(statistic, 0.99) > np.mean(bound) / 2


def test_a_model_of_many_binary_columns():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(300, 30)) + rng.normal(size=(300, 1)) > 0).astype(float)
    model = npgen.MADE(hidden=(32,), max_epochs=5, random_state=0).fit(x)
    report = check_generative_model(model, x)
    assert report.passed, str(report)
    assert not report["a Metropolis step leaves samples alone"].skipped


def test_columns_of_several_kinds():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=200), rng.integers(0, 2, 200), rng.integers(0, 5, 200)])
    kinds = ("normal", "bernoulli", "categorical")
    report = check_generative_model(npgen.models.Mixture(3, heads=kinds, random_state=0).fit(x), x)
    assert report.passed, str(report)
    assert not report["samples follow the density along slices"].skipped


def test_the_report_is_for_reading():
    report = check_generative_model(fitted("GaussianMixture, full")[0])
    text = str(report)
    assert report.passed and report.broken == [] and "0 are broken" in text and "FAIL" not in text
    assert {finding.law for finding in report.findings} == set(LAWS)
    assert max(map(len, text.splitlines()[:25])) <= 120
    bad = check_generative_model(Adapter(lambda x: np.zeros((len(x), 1)), lambda n: np.zeros((n, 1))))
    assert not bad.passed and "FAIL  shapes and dtypes" in str(bad) and "Look for" in str(bad)
    assert report["save, then load"].passed
    with pytest.raises(KeyError, match="gravity"):
        report["gravity"]


def test_every_law_is_stated_and_says_where_to_look():
    for name, law in LAWS.items():
        statement, _, look = law.__doc__.partition("\n\n")
        assert statement.strip() and look.strip().startswith("Look"), name


REFUSED = {  # arguments, and the words of the error
    "no such law": ({"laws": ["gravity"]}, "laws: there is no law 'gravity'"),
    "one law, not in a list": ({"laws": "save, then load"}, r"laws must be a list of names, got 'save, then load'"),
    "no seed": ({"seed": None}, "seed must be an integer of at least 0, got None"),
    "negative seed": ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    "few rows": ({"n_samples": 3}, "n_samples must be an integer of at least 100, got 3"),
    "half a row": ({"n_samples": 250.5}, "n_samples must be an integer of at least 100, got 250.5"),
    "another width": ({"X": MOONS[:, :1]}, "X has 1 columns, but samples of the model 2"),
    "no rows": ({"X": MOONS[:0]}, "at least 2 rows are needed"),
    "missing values": ({"X": [[np.nan, 1.0], [0.0, 1.0]]}, r"X\[0, 0\] is nan"),
    "words": ({"X": [["a", "b"]]}, "X must hold real numbers"),
    "no model": ({"model": npgen.MADE}, "MADE is a class; give a fitted model"),
    "not fitted": ({"model": npgen.MADE()}, "not fitted|fit"),
    "no sample": ({"model": stats.norm()}, "rv_continuous_frozen has no method log_prob"),
    "flat samples": ({"model": Adapter(lambda x: x, lambda n: np.zeros(n))}, r"must give 2000 rows \(n, d\), but has shape"),
    "rows and labels": ({"model": Adapter(lambda x: x, lambda n: (np.zeros((n, 1)), np.zeros(n)))}, "but gave a tuple"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_checker_refuses(case):
    arguments, words = REFUSED[case]
    arguments = {"model": fitted("GaussianMixture, full")[0]} | arguments
    with pytest.raises((TypeError, ValueError), match=words):
        check_generative_model(**arguments)


def test_the_checker_refuses_a_density_of_no_known_kind():
    model = of_scipy(stats.norm())
    model.capabilities = npgen.models.base.Capabilities("approximate", "noise", invertible=False)
    with pytest.raises(ValueError, match="density is 'approximate'; it must be 'exact', 'bound', 'estimate' or 'none'"):
        check_generative_model(model)


def test_a_law_that_raises_is_broken_not_fatal():
    def log_prob(x):
        if len(x) != 2:
            raise RuntimeError("out of order")
        return np.zeros(2)

    report = check_generative_model(Adapter(log_prob, lambda n: np.zeros((n, 1))))
    assert not report.passed and "RuntimeError: out of order" in str(report)


# ---------------------------------------------------------------- the command

def test_npgen_check(tmp_path, capsys, monkeypatch):
    fitted("RealNVP, 2 features")[0].save(tmp_path / "flow")
    assert cli.main(["check", str(tmp_path / "flow"), "--data", "moons"]) == 0
    out = capsys.readouterr().out
    assert "ok    decode inverts encode" in out and "0 are broken" in out
    assert cli.main(["check", "gmm", "--set", "n_components=3"]) == 0
    assert "ok    responsibilities" in (out := capsys.readouterr().out) and "fitted to moons" in out
    monkeypatch.setattr(npgen.RealNVP, "_reconstruct", lambda self, params, h: h)
    assert cli.main(["check", str(tmp_path / "flow")]) == 1
    assert "FAIL  decode inverts encode" in capsys.readouterr().out


def test_npgen_check_of_what_is_no_model(tmp_path, capsys):
    np.save(tmp_path / "x.npy", COUNTS)
    fitted("RealNVP, 2 features")[0].save(tmp_path / "flow")
    for argv, words in ((["check", "nowhere"], "cannot be read"), (["check", str(tmp_path / "x.npy")], "not a safetensors"),
                        (["check", str(tmp_path / "flow"), "--data", str(tmp_path / "x.npy")], "has 3 columns"),
                        (["check", "vae", "--set", "colour=1"], "--set colour=1")):
        assert cli.main(argv) == 2
        out, err = capsys.readouterr()
        assert words in err and err.count("\n") == 1 and not out
