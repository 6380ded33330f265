"""Files of older formats, which load for good: what they hold, as today's format has it.

Formats 1 and 2: the outputs of a normal head were the means of all features, then their log-variances; today, format 3, they
are a feature's mean and log-variance, then the next feature's. A VAE had a standard normal prior, and log-variances that are
outputs of its network. Mixtures did not say how many components they have; earlier ones had no floor, as reg_covar was a share
of the data's variance then, and of the levels of a column only how many they are.

Format 3, earlier ones: an EnergyModel given a context did not know how many of its chains' steps are taken.
"""
import numpy as np

from ..heads import from_config

UNKNOWN = -1.0  # a share that a file does not have


def upgrade(arrays, header):
    """The arrays of a model's file of format 1 or 2, as a file of format 3 has them. Raises whatever a forged file leads to."""
    name, fitted = header["class"], header["fitted"]
    if name in ("MADE", "VAE"):
        head, below = from_config(fitted["head_"]), [fitted.get("n_latent_"), *fitted["hidden_"]]
        outputs, inputs = head.n_outputs(fitted["n_features_in_"]), below[-1 if name == "MADE" else min(1, len(below) - 1)]
        flat = arrays["params.net" if name == "MADE" else "params.decoder"]
        last = flat[len(flat) - (inputs + 1) * outputs:].reshape(inputs + 1, outputs)  # its weight, and below it the bias
        last[...] = last[:, head.drawn(outputs)]
    if name == "VAE":
        fitted |= {"prior_": {"prior": "normal"}, "variance_": "network"}
    if name == "Mixture" and "params.normal" in arrays:
        for key in ("params.normal", "pooled.normal"):
            arrays[key] = arrays[key][:, from_config("normal").drawn(arrays[key].shape[1])]
    if name in ("GaussianMixture", "Mixture"):
        fitted["n_components_"] = len(arrays["params.logits"])
        reals = len(arrays["centre_"]) if name == "GaussianMixture" else fitted["kinds_"].count("normal")
        arrays.setdefault("floor_", np.full(reals, float(header["params"]["reg_covar"])))
    if name == "Mixture":
        most = sum(a.size for a in arrays.values())
        fitted["levels_"] = [list(range(each)) if type(each) is int and each <= max(most, 2) else each
                             for each in fitted["levels_"]]
    return arrays


def completed(name, arrays, fitted):
    """The arrays of a file of format 3 of a model of this class, with those that today's files have beside."""
    if name == "EnergyModel" and fitted.get("context_") is not None and "params.estimates" not in arrays:
        fitted["params_"] = [*fitted["params_"], "estimates"]
        arrays = arrays | {"params.estimates": np.full(1, UNKNOWN, fitted["dtype_"])}
    return arrays
