"""A network that turns noise into rows, fitted by a distance between sets of rows: it draws, and has no density.

python examples/gmmn.py [folder for the picture]
"""
import sys
from pathlib import Path

from npgen import GMMN, data, plot
from npgen.divergences import MMD, energy_distance

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

train, test = data.moons(4000, seed=0), data.moons(2000, seed=1)
print(f"energy distance between rows and as many others: {float(energy_distance(test, train[:2000])):.4f}")
settings = {"n_noise": 2, "hidden": (64, 64, 64), "max_epochs": 100, "batch_size": 400, "learning_rate": 5e-3,
            "schedule": "cosine", "average": 0.99, "patience": 100, "restore_best": False, "random_state": 0}
models = {name: GMMN(objective=distance, **settings).fit(train) for name, distance in (
    ("energy", "energy"), ("sliced Wasserstein", "sliced_wasserstein"), ("MMD", MMD(scales=(0.1, 0.3, 1.0))))}
for name, model in models.items():
    print(f"fitted by {name:18}: {-model.score(test):.4f} from its samples to held-out rows")

try:
    models["energy"].log_prob(test)
except ValueError as error:
    print(f"\n{error}")
plot.points(folder / "gmmn.png", models["MMD"].sample(3000, rng=0), title="samples of a GMMN, by MMD")
print(f"\npicture: {folder / 'gmmn.png'}")
