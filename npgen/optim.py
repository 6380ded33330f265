"""Optimisers on one flat buffer: init(flat) -> moments, and update(flat, gradient, moments, scale, step, learning_rate).

What update does is done in place. scale (1,) multiplies the gradient, and is an array so that it can stay on a GPU; where it
is NaN or infinite the step is refused: nothing changes.

    Adam    adaptive moments (Kingma & Ba, 2015)
    SGD     gradient descent, with momentum if asked for
"""
import numpy as np

from .kernels import adam


class Adam:
    """theta -= lr * m_hat / (sqrt(v_hat) + eps), m and v the bias-corrected running means of g and g^2.

    beta1, beta2 in [0, 1): decay per step. eps > 0. Reference: Kingma & Ba, Adam (2015), algorithm 1.
    """

    def __init__(self, beta1=0.9, beta2=0.999, eps=1e-8):
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(f"Adam: beta1 and beta2 must be in [0, 1), got {beta1} and {beta2}")
        if not eps > 0:
            raise ValueError(f"Adam: eps must be positive, got {eps}")
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def init(self, flat):
        """The moments before the first step."""
        return {"m": np.zeros_like(flat), "v": np.zeros_like(flat)}

    def update(self, flat, gradient, moments, scale, step, learning_rate):
        """One step, number `step` from 1 on, along scale * gradient; flat and the moments change in place."""
        adam.step(flat, gradient, moments["m"], moments["v"], scale, step, learning_rate, self.beta1, self.beta2, self.eps)


class SGD:
    """theta -= lr * b, b = momentum * b + g."""

    def __init__(self, momentum=0.0):
        if not 0 <= momentum < 1:
            raise ValueError(f"SGD: momentum must be in [0, 1), got {momentum}")
        self.momentum = momentum

    def init(self, flat):
        """The velocity before the first step."""
        return {"b": np.zeros_like(flat)}

    def update(self, flat, gradient, moments, scale, step, learning_rate):
        """One step along scale * gradient; flat and the velocity change in place."""
        b, taken = moments["b"], np.isfinite(scale)
        b[:] = np.where(taken, self.momentum * b + scale * gradient, b)
        flat -= np.where(taken, learning_rate * b, 0)
