"""How to train: what a model that follows a gradient takes as keyword arguments of its constructor."""
import dataclasses
import math

import numpy as np

from . import optim


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class Training:
    """How to train: a model that follows a gradient inherits these, as keyword arguments of its constructor.

    max_epochs           passes over the rows, at most
    batch_size           rows per step
    learning_rate        of the first step; halved whenever the loss was not finite and training went back an epoch
    schedule             of the learning rate from step to step: "constant", "cosine" (down to 0 after max_epochs), "step" (a
                         tenth after each third of max_epochs), or an object of npgen.optim; a fit that stops early stops there
    warmup               epochs over which the learning rate first rises from 0
    optimizer            "adam", "adamw" (with a weight_decay of 0.01 of its own), "sgd", "adam0" (beta1 of 0, beta2 of 0.99,
                         for two players), or an object of npgen.optim
    average              decay of a running mean of the parameters, say 0.999, which is what is then validated, kept and
                         restored (npgen.optim.Average); 0 for none
    validation_fraction  share of the rows that is held out to stop by; 0 trains on all, and stops by the training loss. Of no
                         account where fit is given validation_data
    patience             epochs without a lower held-out loss, after which training stops
    restore_best         whether to end with the parameters of the best epoch, not of the last
    weight_decay         decoupled: every step takes learning_rate * weight_decay of every parameter away
    clip_norm            a gradient longer than this is scaled down to it
    callbacks            functions that are called after every epoch with its entry of history_: a dict of epoch, train_nats and
                         valid_nats (losses: minus the mean of log p or its bound; of a model without a density, or by another
                         objective, what it minimises instead, which is in no nats), learning_rate, rollbacks
    verbose              whether to show a progress bar
    """

    max_epochs: int = 300
    batch_size: int = 100
    learning_rate: float = 1e-3
    schedule: object = "constant"
    warmup: float = 0.0
    optimizer: object = "adam"
    average: object = 0.0
    validation_fraction: float = 0.1
    patience: int = 20
    restore_best: bool = True
    weight_decay: float = 0.0
    clip_norm: float = 100.0
    callbacks: tuple = ()
    verbose: bool = False


def check_training(options):
    """Raise ValueError, or TypeError for callbacks that are no functions, unless these can be used."""
    for name in ("max_epochs", "batch_size", "patience"):
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    for name in ("learning_rate", "clip_norm"):
        value = getattr(options, name)
        if not isinstance(value, (int, float, np.number)) or not value > 0 or not math.isfinite(value):
            raise ValueError(f"{name} must be a positive number, got {value!r}")
    for name in ("weight_decay", "warmup"):
        value = getattr(options, name)
        if not isinstance(value, (int, float, np.number)) or not 0 <= value < math.inf:
            raise ValueError(f"{name} must be 0 or a positive number, got {value!r}")
    optim.schedule(options.schedule), optim.optimizer(options.optimizer), optim.average(options.average)
    if not isinstance(options.callbacks, (list, tuple)) or not all(map(callable, options.callbacks)):
        raise TypeError(f"callbacks must be a list of functions, got {options.callbacks!r}")
    value = options.validation_fraction
    if not isinstance(value, (int, float, np.number)) or not 0 <= value < 1:
        raise ValueError(f"validation_fraction must be in [0, 1), got {value!r}; 0 trains on every row")
