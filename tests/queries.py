"""Which queries a model answers: no log_prob where there is no density, no encode where there is no representation.

That is read from its methods, as scikit-learn reads what an estimator is: a model without a density has no score_samples, and
one without a representation no transform.
"""
NEEDS = {"log_prob": "score_samples", "sample_and_log_prob": "score_samples", "encode": "transform", "decode": "transform"}


def answers_to(model, query):
    """Whether the model answers to the query of this name."""
    return hasattr(model, NEEDS.get(query, query))


def scored(model):
    """Whether it has a log_prob."""
    return answers_to(model, "log_prob")


def coded(model):
    """Whether it has a representation."""
    return answers_to(model, "encode")


def by_rows(model, x):
    """Every query of rows that the fitted model answers, and rows to ask it of: [(query, rows)]."""
    names = [name for name in ("log_prob", "encode", "critic") if answers_to(model, name)]
    return [(getattr(model, name), x) for name in names] + ([(model.decode, model.encode(x))] if coded(model) else [])
