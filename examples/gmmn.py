"""A network that turns noise into rows, fitted by a distance between sets of rows: it draws, and has no density.

python examples/gmmn.py [folder for the picture]
"""
import sys
from pathlib import Path

from npgen import GMMN, data, plot
from npgen.divergences import energy_distance

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

train, test = data.load("rings", n=4000, seed=0), data.load("rings", n=2000, seed=1)
print(f"energy distance between rows and as many others: {float(energy_distance(test, train[:2000])):.4f}")
models = {distance: GMMN(objective=distance, n_noise=4, max_epochs=60, random_state=0).fit(train)
          for distance in ("energy", "sliced_wasserstein", "mmd")}
for distance, model in models.items():
    print(f"fitted by {distance:18}: {-model.score(test):.4f} from its samples to held-out rows")

try:
    models["energy"].log_prob(test)
except ValueError as error:
    print(f"\n{error}")
plot.points(folder / "gmmn.png", models["energy"].sample(3000, rng=0), title="samples of a GMMN")
print(f"\npicture: {folder / 'gmmn.png'}")
