"""A neural spline flow, and one given a label: the density of a checkerboard, and of each of its halves.

python examples/nsf.py [folder for the picture]
"""
import sys
from pathlib import Path

import numpy as np

from npgen import NSF, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

train, test = data.checkerboard(4000, seed=0), data.checkerboard(4000, seed=1)
given, held_out = (np.where(x[:, 0] > 0, "right", "left") for x in (train, test))  # labels, which become one-hot
settings = {"n_layers": 4, "hidden": (64, 64), "max_epochs": 60, "batch_size": 200, "learning_rate": 3e-3,
            "schedule": "cosine", "random_state": 0}
whole, model = NSF(**settings).fit(train), NSF(**settings).fit(train, context=given)
print(f"held-out log p(x): {whole.score(test):.3f} nats; given its half: {model.score(test, context=held_out):.3f}, "
      "which is a bit, 0.693 nats, more where both are right")
print(f"rows of the left half: x_1 <= 0 in {np.mean(model.sample(1000, context='left', rng=0)[:, 0] <= 0):.1%}")

# p(x) = sum of p(half) p(x | half): both models say it.
halves = np.stack([model.log_prob(test, context=half) for half in ("left", "right")])
print(f"mean log of 1/2 p(x | left) + 1/2 p(x | right): {np.mean(np.logaddexp(*halves) - np.log(2)):.3f} nats")
plot.density(folder / "nsf.png", whole.log_prob, (-4.5, 4.5, -4.5, 4.5), title="NSF on a checkerboard")
print(f"\npicture: {folder / 'nsf.png'}")
