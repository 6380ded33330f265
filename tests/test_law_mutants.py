"""Laws of players, masks, heads, bounds and classifiers, each with a mistake that it finds.

tests/mutants.py has the mistakes that the checker finds; transforms, priors and splines have theirs in their own files.
"""
import functools

import mutants
import numpy as np
import pytest
import test_classifier
import test_column_heads
import test_context
import test_energy
import test_heads
import test_made_orders
import test_mixed
import test_mixture_columns
import test_models
import test_players
import test_rbm
import test_vae

from npgen import MADE

same = test_classifier.test_scikit_learns_classifiers_are_special_cases
repeated = test_players.test_integer_weights_are_repeated_rows_in_a_models_gradient
normalised = test_context.test_it_sums_or_integrates_to_one_for_every_context
weighted = test_classifier.test_weights_count_as_they_do_there
has_the_variance = test_energy.test_the_kernels_chains_on_a_normal_have_the_variance_of_their_step_and_malas_none_of_that
as_in_ops = test_energy.test_the_kernels_step_is_that_of_the_chain_in_ops
seen_early = test_made_orders.test_nothing_is_seen_too_early_in_any_order
LAWS = {  # what went wrong -> where, what becomes what, and the law that has to find it
    # players, schedules, averages, weights
    "a player moves all": ("players:Move.__init__", "params if player.moves is None else player.moves", "params",
                           test_players.test_a_player_moves_its_own_parameters_alone),
    "one player decides for two": ("players:Move.__init__", "if player.moves is None else player.moves", "",
                                   test_players.test_two_players_meet_at_the_saddle),
    "the chain is as it was": ("players:Move.__call__", "state.carry | prepared", "{'count': np.array([0])}",
                               test_players.test_a_chain_is_moved_before_every_step_and_seen_by_the_loss),
    "weights do not count in a step": (
        "players:Move._mean", "losses * batch.weights", "losses",
        lambda: repeated(test_players.X, MADE)),
    "weights do not count in a batch's normalisation": (
        "models.gradient:descend", "batch.weights is not None", "False",
        lambda: repeated(test_players.X, test_players.NORMALISED)),
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
    # normals that components share
    "tied: a row is of all alike": ("heads.tied:Tied.moments", "counts.append(weights[:, j] * (", "counts.append(1.0 * (",
                                    lambda: test_column_heads.test_what_is_tied_is_as_precise_as_its_logarithms()),
    "tied: values of another company": ("heads.tied:Tied._known", "column[new]", "column[:0]",
                                        lambda: test_column_heads.test_what_is_tied_is_as_precise_as_its_logarithms()),
    "tied: what was smoothed is smoothed again": (
        "heads.tied:Tied.expected_moments", "counts - self._prior(pooled, smoothing)", "counts",
        lambda: test_column_heads.test_a_step_from_its_own_statistics_moves_no_weight(0.5)),
    # contexts that leak into the normalisation
    "MAF: a density that a context scales": (
        "transforms.autoregressive:Autoregressive.log_prob", "self.element.log_prob(x, self.net(p, beside(x, c)))",
        "self.element.log_prob(x, self.net(p, beside(x, c))) + (0 if c is None else 0.1 * c[:, 0])",
        lambda: normalised("MAF")),
    "IAF: a log-det without the context": (
        "transforms.autoregressive:Autoregressive.to_data", "beside(x, c))", "beside(x, c if c is None else 0 * c))",
        lambda: normalised("IAF")),
    "NSF: a log-det that a context scales": (
        "transforms.coupling:Coupling._apply", "axis=1), log_det", "axis=1), log_det * (1 if c is None else 1 + 0.1 * c[:, 0])",
        lambda: normalised("NSF")),
    # scikit-learn's conventions
    "check_estimator: fit gives another model": ("models.base:Model.fit", "return self", "return learner",
                                                 lambda: test_models.test_check_estimator(MADE)),
    "check_estimator: rows of another width": ("models.estimator:Estimator._check", "!= self.n_features_in_", "< 0",
                                               lambda: test_models.test_check_estimator(MADE)),
    # log p(x, y) = log p(x) + log p(y | x)
    "mixtures: a condition tells nothing of the component": (
        "models.mixture.base:MixtureModel.condition", "seen._rowwise(seen._encode, x)", "np.tile(self.weights_, (len(x), 1))",
        lambda: test_mixture_columns.test_condition_is_the_quotient_of_densities("full")),
    "mixtures of columns: a condition keeps the weights": (
        "models.mixture.columns:Mixture._conditional", "log_weights, others", "np.log(self.weights_), others",
        lambda: test_mixed.test_condition_is_the_quotient_of_densities(None)),
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
    "a linear VAE that draws its codes by their variance": (
        "kernels.reparameterize:_posterior_forward_reference", "_scaled_noise(log_var", "_scaled_noise(2 * log_var",
        test_vae.test_a_linear_one_comes_to_probabilistic_pca),
    "a bound that does not rise with k": (
        "models.vae:VAE._iwae", "ops.logsumexp(log_w.reshape(n, k), axis=1) - math.log(k)", "log_w.reshape(n, k)[:, 0]",
        lambda: test_vae.test_beside_the_exact_posterior_the_bounds_rise_from_the_elbo_to_log_p("normal")),
    # restricted Boltzmann machines: every law is of test_rbm
    "RBM: inverted energy": (
        "models.boltzmann:_cotangents", "np.concatenate([g, -g if", "-np.concatenate([g, -g if",
        test_rbm.test_sign_law_a_step_makes_the_data_likelier_and_what_the_model_dreams_less),
    "RBM: no negative phase": ("models.boltzmann:_cotangents", "- g.sum() / m", "",
                               lambda: test_rbm.test_the_gradient_of_contrastive_divergence_is_that_of_powers_of_the_kernel(1)),
    "RBM: the chain is the data": ("kernels.gibbs:_reference", "return v.astype(dtype)", "return state.astype(dtype)",
                                   test_rbm.test_chains_move_by_the_gibbs_kernel),
    "RBM: units that are off are on": ("kernels.gibbs:_heads", "np.exp(-logits)", "np.exp(logits)",
                                       test_rbm.test_chains_move_by_the_gibbs_kernel),
    "RBM: a gradient of units that are off": (
        "kernels.gibbs:_centred_reference", "-a.astype", "a.astype",
        lambda: test_rbm.test_the_gradient_of_contrastive_divergence_is_that_of_powers_of_the_kernel(1)),
    "RBM: activations of where the chains were": (
        "kernels.gibbs:_contrast_reference", "for u in (rows, v)", "for u in (rows, state)",
        lambda: test_rbm.test_contrast_is_the_chains_and_the_activations_of_rows(np.float64, 0)),
    "RBM: the hidden units are not centred": ("models.boltzmann:Boltzmann.contrast", '], seen, active,', '], seen, 0 * active,',
                                              test_rbm.test_the_centred_gradient_is_that_of_centred_parameters),
    "RBM: the visible units are not centred": ("models.boltzmann:Boltzmann.contrast", '], seen, active,',
                                               '], 0 * seen, active,',
                                               test_rbm.test_the_centred_gradient_forgets_which_of_0_and_1_is_which),
    "RBM: log Z without the hidden biases": ("kernels.gray:_reference", "h @ outer.astype(np.float64) + ", "",
                                             lambda: test_rbm.test_log_z_over_hidden_states_is_that_over_visible_ones(0)),
    "RBM: log Z without the normal's constant": ("models.boltzmann:Boltzmann.log_weights", "self.d / 2 * LOG_2PI if", "0.0 if",
                                                 test_rbm.test_of_normal_columns_it_is_a_tied_spherical_mixture),
    "RBM: variance for standard deviation": ("models.boltzmann:Boltzmann.scaled", 'ops.exp(-p["log_var"] / 2)',
                                             'ops.exp(-p["log_var"])',
                                             test_rbm.test_of_normal_columns_it_is_a_tied_spherical_mixture),
    "RBM: a scale without its determinant": ("models.boltzmann:Boltzmann.free_energy", 'energy + self.d / 2 * p["log_var"]',
                                             "energy", test_rbm.test_of_normal_columns_it_is_a_tied_spherical_mixture),
    "RBM: rows of a hidden state without their biases": (
        "models.boltzmann:Boltzmann.mean", 'p["visible"])', '0 * p["visible"])',
        test_rbm.test_it_is_a_mixture_of_as_many_products_of_bernoullis_as_there_are_hidden_states),
    "RBM: a density that the Gibbs kernel does not keep": (
        "models.boltzmann:Boltzmann.activation", 'p["hidden"])', '0 * p["hidden"])',
        lambda: test_rbm.test_the_gibbs_kernel_keeps_pi_and_is_reversible(0)),
    "AIS: weighed after the step": ("kernels.gibbs:_reference", "(t - before) * (v *", "t * (v *",
                                    lambda: test_rbm.test_annealed_weights_average_to_the_ratio_of_normalisers_for_any_ladder(
                                        False, [0, 0.3, 1])),
    "RBM: the context's biases have no part in the gradient": (
        "models.boltzmann:Boltzmann.contrast", '_against(ops.sum(u * (c @ p["to_visible"]), axis=1), n, own)', "0.0",
        lambda: test_rbm.test_the_gradient_given_a_context_is_that_of_powers_of_its_kernel(False)),
    "RBM: a chain is of another row's context": (
        "models.rbm:RBM._advance", "machine.given(p, c)", "machine.given(p, c if c is None else c[::-1])",
        test_rbm.test_it_learns_a_density_given_a_context),
    "RBM: log Z of the first context for all": (
        "models.context:distinct", "of.ravel() == i", "(i == 0) & (of.ravel() >= 0)",
        lambda: test_rbm.test_given_a_context_it_sums_to_one_by_enumeration(3, test_rbm.LABELS)),
    "RBM: a context's sum without its hidden biases": (
        "models.boltzmann:Boltzmann.given_one", "in (\"visible\", \"hidden\") else a for name, a in self.given(p, c[None])",
        "in (\"visible\", \"hidden\") else a for name, a in self.given(p, 0 * c[None])",
        lambda: test_rbm.test_given_a_context_it_sums_to_one_by_enumeration(3, test_rbm.LABELS)),
    "Gibbs: every row has the first one's biases": (
        "kernels.gibbs:_reference", "hidden, base, v = (a", "hidden, base, v = (a if a is weight or a is state else a[:1]",
        lambda: test_rbm.test_chains_of_own_biases_are_those_alone(0)),
    "AIS: one temperature for both layers": (
        "kernels.gibbs:_reference", "(1 - t) * base + t * (visible", "base + t * (visible",
        lambda: test_rbm.test_annealed_weights_average_to_the_ratio_of_normalisers_for_any_ladder(True, [0, 0.3, 1])),
    "AIS: hidden states are not counted": ("models.boltzmann:Boltzmann.annealed", "self.k * math.log(2)", "0.0",
                                           test_rbm.test_the_bracket_holds_log_z),
    "reverse AIS goes up": ("models.boltzmann:Boltzmann.annealed", "ladder[::-1].copy()", "ladder",
                            test_rbm.test_the_bracket_holds_log_z),
    "a contrast stops the fit": ("train:_epoch", "or not (validates or step.loss_decides)", "",
                                 test_rbm.test_the_last_parameters_are_kept_where_a_contrast_decides_nothing),
    # energy models: every law is of test_energy
    "energy model: inverted energy": ("models.residual:_score", " - _slope(f, z)", " + _slope(f, z)",
                                      lambda: test_energy.test_sign_law("dsm")),
    "nce: data and noise exchanged": (
        "models.residual:nce", "ops.softplus(f(z)) + ops.softplus(-f(y))", "ops.softplus(-f(z)) + ops.softplus(f(y))",
        lambda: test_energy.test_sign_law("nce")),
    "nce: noise is data": ("models.residual:nce", "ops.softplus(-f(y))", "ops.softplus(f(y))",
                           test_energy.test_noise_contrastive_estimation_is_blind_at_the_truth),
    "pcd: rows and chains exchanged": (
        "models.residual:pcd", "f(z) - ops.sum(f(chain)) / len(chain)", "ops.sum(f(chain)) / len(chain) - f(z)",
        lambda: test_energy.test_sign_law("pcd")),
    "score matching: the slope is not halved": (
        "models.residual:score_matching", "axis=1) / 2", "axis=1)",
        lambda: test_energy.test_score_matching_of_a_quadratic_is_the_sample_covariance("score_matching")),
    "sliced score matching: slices that are too long": (
        "models.residual:sliced", "v = stream", "v = 1.5 * stream",
        lambda: test_energy.test_score_matching_of_a_quadratic_is_the_sample_covariance("sliced")),
    "dsm: noise is added to, not taken off": ("models.residual:dsm", "+ noise)", "- noise)",
                                              lambda: test_energy.test_sign_law("dsm")),
    "energy model: at first it is not its base": ("models.residual:Residual.__call__", "return x[:, 0]", "return x[:, 0] + 1",
                                                  test_energy.test_without_an_energy_it_is_its_base_bit_for_bit),
    "Langevin: a step without the 2": (
        "models.residual:langevin", "math.sqrt(2 * step)", "math.sqrt(step)",
        lambda: test_energy.test_langevin_on_a_normal_has_the_variance_of_its_step_and_mala_none_of_that(0.5)),
    "MALA without the way back": ("models.residual:langevin", "np.sum(np.square(noise), axis=1) / 2 - back", "0.0",
                                  test_energy.test_mala_keeps_a_mixture),
    "MALA: the score stays behind": ("models.residual:langevin", "np.where(accept[:, None], its, score)", "score",
                                     test_energy.test_mala_keeps_a_mixture),
    "energy model: no negative phase": (
        "models.energy:EnergyModel._advance", "self._chain(p, z, self.n_steps, stream, batch.context)[0]",
        "batch.x[np.arange(len(z)) % len(batch.x)]",
        lambda: test_energy.test_it_learns_what_its_base_cannot_hold("pcd")),
    "energy model: chains count as rows do": ("models.residual:contrast", "f(z) - f(chain)", "f(z) + f(chain)",
                                              test_energy.test_given_a_context_a_chain_is_of_its_rows_context),
    "score matching without the bend": ("models.residual:_bend", "ops.sum(_slope(", "0.0 * ops.sum(_slope(",
                                        lambda: test_energy.test_score_matching_of_a_quadratic_is_the_sample_covariance(
                                            "score_matching")),
    "log Z of the inverted energy": ("models.energy:EnergyModel._estimated", "-asnumpy(", "asnumpy(",
                                     lambda: test_energy.test_the_density_integrates_to_one("nce")),
    "log Z without its sign": ("models.energy:EnergyModel._log_density", '- self._estimates(p, c)', '+ self._estimates(p, c)',
                               lambda: test_energy.test_the_density_integrates_to_one("dsm")),
    "energy model: log Z of no context": (
        "models.energy:EnergyModel._estimates", "+ one", "+ 0 * one",
        lambda: test_energy.test_given_a_context_the_density_integrates_to_one(test_energy.GaussianMixture(1), "nce")),
    "energy model: the base's rows of no context": (
        "models.residual:Given.sample", "context=self.c", "context=0 * self.c",
        lambda: test_energy.test_given_a_context_the_density_integrates_to_one(test_energy.CONDITIONAL, "nce")),
    "energy model: chains begin where the base is": (
        "models.energy:EnergyModel._likely", "np.argmax(gumbel - ", "np.argmax(gumbel - 0 * ",
        lambda: test_context.test_it_sees_the_context("EnergyModel")),
    "energy model: chains of no context": (
        "models.energy:EnergyModel._chain", "launch(p, z, c)", "launch(p, z, c if c is None else 0 * c)",
        test_energy.test_samples_given_a_context_move_with_it),
    # the kernel of an energy model's chains
    "Langevin's kernel: a step without the 2": (
        "kernels.langevin:_reference", "math.sqrt(2 * step)", "math.sqrt(step)", lambda: has_the_variance(0.1)),
    "MALA's kernel: every step is taken": (
        "kernels.langevin:_reference", "take |= not adjusted", "take |= True", lambda: has_the_variance(0.5)),
    "MALA's kernel: uphill is refused": (
        "kernels.langevin:_reference", "there - here", "here - there",
        test_energy.test_the_kernels_mala_keeps_a_mixture_and_its_energy),
    "MALA's kernel: the way back does not count": ("kernels.langevin:_reference", " - back", "", lambda: has_the_variance(0.5)),
    "MALA's kernel: the score stays behind": (
        "kernels.langevin:_reference", "np.where(take[:, None], its, score)", "score",
        test_energy.test_the_kernels_mala_keeps_a_mixture_and_its_energy),
    "MALA's kernel: the density stays behind": (
        "kernels.langevin:_reference", "np.where(take, there, here)", "here",
        test_energy.test_the_kernels_mala_keeps_a_mixture_and_its_energy),
    "Langevin's kernel: down the energy's wrong side": (
        "kernels.langevin:_reference", "score - slope", "score + slope", lambda: as_in_ops("full", False)),
    "MALA's kernel: inverted energy": (
        "kernels.langevin:_reference", "density - f", "density + f",
        test_energy.test_the_kernels_mala_keeps_a_mixture_and_its_energy),
    "Langevin's kernel: a score of standardised rows": (
        "kernels.langevin:_mixture", ".sum(axis=0) / scale", ".sum(axis=0)", lambda: as_in_ops("tied", False)),
    "Langevin's kernel: components that are all as likely": (
        "kernels.langevin:_mixture", "np.exp(joint - total)", "np.exp(0 * joint)", lambda: as_in_ops("diag", False)),
    "Langevin's kernel: an energy of no context": (
        "kernels.langevin:_network", "np.concatenate([z, context]", "np.concatenate([z, 0 * context]",
        lambda: as_in_ops("spherical", True)),
    # implicit models given a context
    "GMMN: rows of no context": ("models.gmmn:GMMN._draw", "p.flat), c)", "p.flat), c if c is None else 0 * c)",
                                 lambda: test_context.test_it_sees_the_context("GMMN")),
    "GAN: rows of another's context": ("models.gan:GAN._made", "like=like), c)", "like=like), c if c is None else c[::-1])",
                                       lambda: test_context.test_it_sees_the_context("GAN")),
    "GAN: a critic that sees no context": (
        "models.gan:GAN._judged_with_slope", "beside(packs, given)", "beside(packs, given if given is None else 0 * given)",
        lambda: test_context.test_it_sees_the_context("GAN")),
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
    caches = [value for module in (test_classifier, test_context, test_made_orders, test_vae) for value in vars(module).values()
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
