"""Diffusion: a denoiser, its equation's density, its bound, and guidance towards a label.

python examples/diffusion.py [folder for the picture]
"""
import sys
from pathlib import Path

import numpy as np

from npgen import Diffusion, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

train, test = data.moons(4000, seed=0), data.moons(2000, seed=1)
given = np.where(train[:, 1] > 0.25, "upper", "lower")
settings = {"hidden": (64, 64), "max_epochs": 150, "batch_size": 256, "learning_rate": 8e-3, "schedule": "cosine",
            "patience": 150, "average": 0.999, "restore_best": False, "random_state": 0,
            "first_layer": "sine", "bandwidth": 6, "target": "batch"}  # for few columns with edges
model = Diffusion(**settings).fit(train)
print(f"held-out log p(x): {model.score(test):.3f} nats, {model.capabilities.density}; "
      f"its bound: {model.elbo(test).mean():.3f}")
for solver, n_steps in (("rk4", 40), ("heun", 18), ("dpm++", 18)):
    fast = Diffusion(**settings | {"max_epochs": 1}, solver=solver, n_steps=n_steps).fit(train)
    print(f"{solver} takes {n_steps * {'rk4': 4, 'heun': 2, 'dpm++': 1}[solver]} evaluations of the network for "
          f"{len(fast.sample(1000, rng=0)):,} rows")

# Guidance moves rows of a label away from those of the others.
guided = Diffusion(**settings).fit(train, context=given)
for weight in (0, 1, 2):
    upper = guided.set_params(guidance=weight).sample(1000, context="upper", rng=0)
    print(f"guidance {weight}: {np.mean(upper[:, 1] > 0.25):.1%} of the rows given 'upper' are above")
plot.density(folder / "diffusion.png", model.log_prob, (-3.5, 3.5, -3.5, 3.5), title="diffusion", n_cells=120)
print(f"\npicture: {folder / 'diffusion.png'}")
