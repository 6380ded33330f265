"""How far two distributions are apart; each of them is rows with weights, or a model.

    kl, reverse_kl, js, chi2, total_variation, hellinger    between densities: over all states, by quadrature, by samples
    energy_distance, mmd2                                   between rows or what draws them; no bias
    wasserstein_1d, sliced_wasserstein, coverage            between rows or what draws them
    fisher_divergence, kernel_stein_discrepancy             by the score, d log q / dx, of a model
    Energy, MMD, SlicedWasserstein                          as objectives, for fit(objective=)

Every one but these gives a Divergence, which says whether its value is exact or an estimate; none holds a matrix of all pairs.
"""
from .base import Divergence
from .densities import chi2, hellinger, js, kl, reverse_kl, total_variation
from .objectives import MMD, Energy, SlicedWasserstein
from .rows import coverage, energy_distance, mmd2, sliced_wasserstein, wasserstein_1d
from .scores import fisher_divergence, kernel_stein_discrepancy

__all__ = ["MMD", "Divergence", "Energy", "SlicedWasserstein", "chi2", "coverage", "energy_distance", "fisher_divergence",
           "hellinger", "js", "kernel_stein_discrepancy", "kl", "mmd2", "reverse_kl", "sliced_wasserstein", "total_variation",
           "wasserstein_1d"]
