"""Files of older formats, which load for good: what they hold, as today's format has it.

Formats 1 and 2: the outputs of a normal head were the means of all features, then their log-variances; today, format 3, they
are a feature's mean and log-variance, then the next feature's. A VAE had a standard normal prior, and log-variances that are
outputs of its network.
"""
from ..heads import from_config


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
    return arrays
