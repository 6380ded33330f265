"""Likelihood heads: what a network's outputs say about each feature. One object per family.

    Normal      mean and log-variance of a real feature
    Bernoulli   logit of a binary feature

Legend: n rows, d features. A head turns outputs (n, n_params * d) into a log-density, a sample or a mean.
"""
import numpy as np

from . import fused, ops
from .fused import LOG_2PI


def std(log_var):
    """The standard deviation, exp(log_var / 2): the one convention for scale."""
    return ops.exp(log_var / 2)


def normal_log_prob(x, mean, log_var):
    """log N(x; mean, exp(log_var)) of every feature, in nats."""
    return -0.5 * (LOG_2PI + log_var + ops.square(x - mean) * ops.exp(-log_var))


class Normal:
    """x_d ~ N(mean_d, exp(log_var_d)); outputs are the means, then the raw log-variances, bounded to +-LIMIT nats."""

    name = "normal"
    n_params = 2
    noise = "normal"
    LIMIT = 15.0

    def split(self, outputs):
        """The means and log-variances in a network's outputs (n, 2 d)."""
        d = outputs.shape[-1] // 2
        return outputs[..., :d], ops.bounded(outputs[..., d:], self.LIMIT)

    def log_prob(self, x, outputs):
        """sum_d log N(x_d; mean_d, exp(log_var_d)), (n,) nats."""
        return fused.normal_log_prob(x, outputs, self.LIMIT)

    def sample(self, noise, outputs):
        """mean + std * noise, for standard normal noise."""
        mean, log_var = self.split(outputs)
        return mean + std(log_var) * noise

    def mean(self, outputs):
        """E[x]."""
        return self.split(outputs)[0]

    def check(self, x, name):
        """Every real number is in the support."""


class Bernoulli:
    """x_d in {0, 1} with P(x_d = 1) = sigmoid(logit_d); outputs are the logits."""

    name = "bernoulli"
    n_params = 1
    noise = "uniform"

    def log_prob(self, x, outputs):
        """sum_d x_d logit_d - softplus(logit_d), (n,) nats."""
        return fused.bernoulli_log_prob(x, outputs)

    def sample(self, noise, outputs):
        """1 where uniform noise falls below the probability."""
        return (noise < ops.sigmoid(outputs)).astype(outputs.dtype)

    def mean(self, outputs):
        """P(x = 1)."""
        return ops.sigmoid(outputs)

    def check(self, x, name):
        """Raise ValueError unless every value is 0 or 1."""
        wrong = np.argwhere((x != 0) & (x != 1))
        if len(wrong):
            row, column = wrong[0]
            raise ValueError(f"{name}: X[{row}, {column}] is {x[row, column]:g}, but a Bernoulli head needs 0 or 1: "
                             "binarise the data, or use head='normal'")


HEADS = {head.name: head for head in (Normal(), Bernoulli())}


def head_for(spec, x):
    """The head called `spec`; "auto" is Bernoulli for data of 0 and 1 only, Normal otherwise. Raises ValueError."""
    if spec == "auto":
        spec = "bernoulli" if np.all((x == 0) | (x == 1)) else "normal"
    if spec not in HEADS:
        raise ValueError(f"head: expected 'auto' or one of {', '.join(HEADS)}, got {spec!r}")
    return HEADS[spec]
