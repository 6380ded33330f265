"""Laws of players, masks, heads, bounds and classifiers, each with a mistake that it finds.

tests/mutants.py has the mistakes that the checker finds; transforms, priors and splines have theirs in their own files.
"""
import functools

import mutants
import numpy as np
import pytest
import test_classifier
import test_heads
import test_made_orders
import test_players
import test_vae

same = test_classifier.test_scikit_learns_classifiers_are_special_cases
weighted = test_classifier.test_weights_count_as_they_do_there
seen_early = test_made_orders.test_nothing_is_seen_too_early_in_any_order
LAWS = {  # what went wrong -> where, what becomes what, and the law that has to find it
    # players, schedules, averages, weights
    "a player moves all": ("players:Move.__init__", "params if player.moves is None else player.moves", "params",
                           test_players.test_a_player_moves_its_own_parameters_alone),
    "one player decides for two": ("players:Move.__init__", "if player.moves is None else player.moves", "",
                                   test_players.test_two_players_meet_at_the_saddle),
    "the chain is as it was": ("players:Move.__call__", "batch.carry = state.carry", "batch.carry = {'count': np.array([0])}",
                               test_players.test_a_chain_is_moved_before_every_step_and_seen_by_the_loss),
    "weights do not count in a step": (
        "players:Move._mean", "losses * batch.weights", "losses",
        lambda: test_players.test_integer_weights_are_repeated_rows_in_a_models_gradient(test_players.X)),
    "no schedule": ("players:Move.rates", "self.schedule(epoch, epochs) * ", "1.0 * ",
                    lambda: test_players.test_cosine_begins_at_1_and_ends_at_its_floor(7)),
    "an average forgets too fast": ("optim:Average.update", "9 / (10 + t)", "8 / (10 + t)",
                                    test_players.test_the_average_is_its_sum_and_is_what_is_validated_kept_and_restored),
    # masks with context, several orders
    "p(x_1 | c) never sees c": ("masks:made_degrees", "0 if n_context else 1", "1",
                                lambda: seen_early("any", True)),
    "an order is not masked": ("nn:MaskedMLP.ordered", " * self.of(order).flat_mask(like)", "",
                               lambda: seen_early("several", False)),
    "p(x_m | x_s) without x_m": (
        "models.made:MADE._conditional_log_prob", ".log_prob(z[:, s:], ", ".log_prob(0 * z[:, s:], ",
        lambda: test_made_orders.test_every_order_is_a_density_and_the_conditional_of_any_subset_is_that_of_its_order("any")),
    # heads
    "one component draws by the variance": ("heads.mixture:MixtureOfNormals.sample", "std(log_var) *", "std(2 * log_var) *",
                                            lambda: test_heads.test_a_mixture_of_one_is_the_normal(np.float64)),
    "two levels: second moment for variance": ("heads.categorical:Categorical.variance", "levels - mean[..., None]", "levels",
                                               lambda: test_heads.test_two_levels_are_a_bernoulli(np.float64)),
    # ELBO <= IWAE_k <= log p
    "IWAE without q, at the exact posterior": (
        "models.vae:VAE._iwae", " - ops.sum(normal_log_prob(z, mean, log_var), axis=1)", "",
        lambda: test_vae.test_at_the_exact_posterior_of_a_linear_decoder_every_bound_is_log_p("normal", "feature")),
    "IWAE's estimate without q": (
        "models.vae:VAE._log_weight", " - log_q", "",
        lambda: test_vae.test_at_the_exact_posterior_of_a_linear_decoder_every_bound_is_log_p("mixture", "feature")),
    "a bound that does not rise with k": (
        "models.vae:VAE._iwae", "ops.logsumexp(log_w.reshape(n, k), axis=1) - math.log(k)", "log_w.reshape(n, k)[:, 0]",
        lambda: test_vae.test_beside_the_exact_posterior_the_bounds_rise_from_the_elbo_to_log_p("normal")),
    # classifiers
    "QDA: classes as likely as one another": ("models.classifier:BayesClassifier._choose_priors", "counts / counts.sum()",
                                              "np.full(len(counts), 1 / len(counts))", lambda: same("QDA", "empirical")),
    "LDA: a covariance for each class": ("models.classifier:BayesClassifier._fit_each", 'covariance_type == "tied"',
                                         'covariance_type == "none"', lambda: same("LDA", "empirical")),
    "GaussianNB: weights do not count": ("models.classifier:BayesClassifier._rows_of", "weights[rows]",
                                         "np.ones(len(rows))", lambda: weighted("GaussianNB")),
    "BernoulliNB: smoothing of the ones alone": ("heads.bernoulli:Bernoulli.maximise", "seen - ones + smoothing", "seen - ones",
                                                 lambda: same("BernoulliNB, alpha 1", "empirical")),
    "CategoricalNB: smoothing not by rows": ("models.mixture.columns_em:maximise", "smoothing * statistics.weight", "smoothing",
                                             lambda: same("CategoricalNB, alpha 1", "empirical")),
}


@pytest.fixture(autouse=True)
def _fit_anew():
    """A model that another test has fitted does not have the mistake, and one that has it is for no other test."""
    caches = [value for module in (test_classifier, test_made_orders, test_vae) for value in vars(module).values()
              if isinstance(value, functools._lru_cache_wrapper)]
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LAWS)
def test_a_planted_mistake_breaks_its_law(name):
    where, old, new, law = LAWS[name]
    with mutants.Mutant(name, "", where, old, new).made(), np.errstate(all="ignore"), \
            pytest.raises((AssertionError, ExceptionGroup)):
        law()
