"""A restricted Boltzmann machine of real handwritten digits: exact log-likelihood, exact samples, and what its units do.

python examples/rbm.py [folder for the pictures]
"""
import sys
from pathlib import Path

from npgen import RBM, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

X, labels = data.digits()
X = (X > 7).astype("float32")
train, test = data.train_test_split(X, test_fraction=0.2, seed=0)
model = RBM(n_hidden=16, max_epochs=20, random_state=0).fit(train)
print(f"test log-likelihood {model.score(test):.2f} nats, {model.capabilities.density}; log Z {model.normaliser}")
print(f"units on, of 16: {model.encode(test).sum(axis=1).mean():.1f} on average")
plot.images(folder / "rbm.png", model.sample(64, rng=0))
print(f"\npicture: {folder / 'rbm.png'}")
