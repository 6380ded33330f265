"""MAF models each column given those before it, one layer after another: ten layers beside one, on two moons.

python examples/maf.py [folder for the picture]
"""
import sys
from pathlib import Path

import numpy as np

from npgen import MADE, MAF, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

train, test = data.moons(4000, seed=0), data.moons(4000, seed=1)
settings = {"max_epochs": 60, "batch_size": 200, "learning_rate": 5e-3, "schedule": "cosine", "average": 0.99,
            "random_state": 0}
one = MADE(hidden=(64,), head="normal", order="natural", **settings).fit(train)  # a layer alone: p(x_2 | x_1) is a normal
model = MAF(n_layers=10, hidden=(32, 32), mix="lu", **settings).fit(train)  # between layers columns are mixed by a matrix
print(f"held-out log p(x): {model.score(test):.3f} nats; of one layer {one.score(test):.3f}")

# Rows are drawn in one pass for each layer, and decode undoes encode.
noise = model.encode(test.astype(np.float64))
print(f"|decode(encode(x)) - x| <= {np.abs(model.decode(noise) - test).max():.1e}")
plot.density(folder / "maf.png", model.log_prob, (-4, 4, -3, 3), title="MAF on two moons")
print(f"\npicture: {folder / 'maf.png'}")
