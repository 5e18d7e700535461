"""Estimates, intervals and tests; nothing here knows about figures, files or losses.

Outcomes are matrices of shape (seeds, prompts): one row per training seed, one column per prompt, shared by all rows;
NaN where a prompt was not answered under a seed. What is random takes an explicit ``numpy.random.Generator``; the
rest is a function of the data alone. docs/statistics.md says what to use when, and how often each interval covers.
"""

from analysis.statistics.best_of_trials import REPLICATES, BestOfTrials, best_of_trials, expected_best
from analysis.statistics.bradley_terry import ELO, Ratings, bradley_terry
from analysis.statistics.crossed import Crossed, Matrix, critical_width, crossed
from analysis.statistics.difference import Difference
from analysis.statistics.family import holm
from analysis.statistics.length_controlled import LengthControlled, length_controlled_win_rate
from analysis.statistics.means import Estimate, bounded_interval, estimate, mean_difference, paired_difference
from analysis.statistics.paired_outcomes import mcnemar, permutation_test
from analysis.statistics.power import (
    Components,
    minimum_detectable_effect,
    minimum_detectable_rate_difference,
    needed_prompts,
    needed_seeds,
    power_of,
    variance_components,
)
from analysis.statistics.proportions import (
    critical_normal,
    fisher_exact,
    largest_error,
    one_proportion,
    two_bounded_means,
    two_proportions,
    wilson,
)
from analysis.statistics.runs import (
    improvement_interval,
    interquartile_mean,
    interquartile_mean_estimate,
    interquartile_mean_interval,
    performance_profile,
    probability_of_improvement,
)

__all__ = [
    "ELO",
    "REPLICATES",
    "BestOfTrials",
    "Components",
    "Crossed",
    "Difference",
    "Estimate",
    "LengthControlled",
    "Matrix",
    "Ratings",
    "best_of_trials",
    "bounded_interval",
    "bradley_terry",
    "critical_normal",
    "critical_width",
    "crossed",
    "estimate",
    "expected_best",
    "fisher_exact",
    "holm",
    "improvement_interval",
    "interquartile_mean",
    "interquartile_mean_estimate",
    "interquartile_mean_interval",
    "largest_error",
    "length_controlled_win_rate",
    "mcnemar",
    "mean_difference",
    "minimum_detectable_effect",
    "minimum_detectable_rate_difference",
    "needed_prompts",
    "needed_seeds",
    "one_proportion",
    "paired_difference",
    "performance_profile",
    "permutation_test",
    "power_of",
    "probability_of_improvement",
    "two_bounded_means",
    "two_proportions",
    "variance_components",
    "wilson",
]
