"""How many components: a mixture with each number of them, compared by an information criterion."""
from .base import MixtureModel


def select_n_components(model, X, n_components=range(1, 11), *, criterion="bic", sample_weight=None):
    """(the best fit, a list of dicts with n_components, nats, aic and bic): a mixture with each number of components.

    model stays as it is; criterion is "bic", "aic", or another method of the fits that takes X (and sample_weight, if that is
    given), the smallest being the best. sample_weight (n,): see MixtureModel.aic.
    npgen.plot.selection draws the list. Raises TypeError for a model that is no mixture, ValueError for an unknown criterion.
    Reference: Schwarz, Estimating the dimension of a model (1978).
    """
    if not isinstance(model, MixtureModel):
        raise TypeError(f"select_n_components: model must be a mixture, got {model!r}"[:200])
    if not callable(getattr(model, criterion, None)):
        raise ValueError(f"select_n_components: criterion must be 'bic', 'aic' or the name of a method, got {criterion!r}")
    best, table, weighted = None, [], {} if sample_weight is None else {"sample_weight": sample_weight}
    for k in n_components:
        fit = type(model)(**(model.get_params() | {"n_components": k})).to(model.device).fit(X, **weighted)
        names = {"nats": "score", "aic": "aic", "bic": "bic", criterion: criterion}
        entry = {"n_components": k} | {name: getattr(fit, method)(X, **weighted) for name, method in names.items()}
        if not table or entry[criterion] < min(other[criterion] for other in table):
            best = fit
        table.append(entry)
    if best is None:
        raise ValueError("select_n_components: n_components is empty; pass at least one number")
    return best, table
