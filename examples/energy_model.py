"""An energy model of two moons on one Gaussian, by noise-contrastive estimation: log Z with its error, and Langevin samples.

python examples/energy_model.py [folder for the pictures]
"""
import sys
from pathlib import Path

from npgen import EnergyModel, GaussianMixture, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

x, test = data.moons(2000), data.moons(1000, seed=1)
model = EnergyModel(base=GaussianMixture(1), hidden=(32, 32), n_burn=100, max_epochs=15, random_state=0).fit(x)
print(f"test log-likelihood {model.score(test):.2f} nats, of the base {GaussianMixture(1).fit(x).score(test):.2f}")
print(f"log Z {model.normaliser}")
plot.points(folder / "energy_model.png", model.sample(1000, rng=0), title="samples of an energy model")
print(f"\npicture: {folder / 'energy_model.png'}")
