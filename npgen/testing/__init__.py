"""The laws, public: the checks that npgen's own tests run, for whoever adds an op, a kernel or a model.

    check_generative_model   every law that a fitted model's capabilities promise; anything with log_prob and sample will do
    check_grads              the derivatives of a function against finite differences
    check_kernel             a kernel's compiled implementation against its reference
    strategies               Hypothesis strategies for well- and ill-conditioned inputs (needs hypothesis)
"""
from .derivatives import check_grads
from .kernel import check_kernel
from .report import Report, check_generative_model

__all__ = ["Report", "check_generative_model", "check_grads", "check_kernel"]
