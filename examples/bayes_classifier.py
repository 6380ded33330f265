"""BayesClassifier turns densities into a classifier that knows what it has never seen: digits, and noise.

python examples/bayes_classifier.py [folder for the picture]
"""
import sys
from pathlib import Path

import numpy as np

from npgen import BayesClassifier, Mixture, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

images, labels = data.digits()
x = data.binarize(images, 8)
train = np.arange(len(x)) % 5 > 0
for k in (1, 5):  # one component is naive Bayes
    model = BayesClassifier(Mixture(k, heads="bernoulli", smoothing=1e-3, random_state=0)).fit(x[train], labels[train])
    print(f"{k} component{'s' if k > 1 else ''} for each digit: {model.score(x[~train], labels[~train]):.1%} right")

# It is a density too: what is no digit is unlikely under all of them.
rng = np.random.default_rng(0)
noise = rng.permuted(x[~train], axis=1)
print(f"log p(x) of held-out digits {model.log_prob(x[~train]).mean():.1f} nats, of shuffled pixels "
      f"{model.log_prob(noise).mean():.1f}")
rows = np.concatenate([model.sample(10, y=digit, rng=digit) for digit in range(10)])
plot.images(folder / "bayes_classifier.png", rows, n_columns=10)
print(f"\npicture: {folder / 'bayes_classifier.png'}: ten rows drawn of every digit")
