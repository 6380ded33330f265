"""A mixture of Gaussians finds the kinds of handwritten digits by itself: how many kinds, what they look like, what is odd.

python examples/gaussian_mixture.py [folder for the picture]
"""
import sys
from pathlib import Path

import numpy as np

from npgen import GaussianMixture, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

images, digit = data.digits()
train, test = data.train_test_split(images)
digit, digit_test = data.train_test_split(digit)
some, others = data.train_test_split(train, seed=1)  # to choose by: what is chosen on test would be too good on test


def fit(k, rows):
    return GaussianMixture(n_components=k, reg_covar=0.1, preprocess="dequantize", random_state=0).fit(rows)


# How many kinds are there? More components always fit better; held-out digits say when it is enough.
print("components   nats, fitted   nats, held out")
held_out = {}
for k in (1, 5, 10, 15, 20, 30):
    model = fit(k, some)
    held_out[k] = model.score(others)
    print(f"{k:10} {model.score(some):14.2f} {held_out[k]:16.2f}")
best = fit(max(held_out, key=held_out.get), train)
print(f"\n{best.n_components} components, fitted to all but the test digits, give those {best.score(test):.2f} nats")

# Are the kinds the digits? Nobody told the mixture; name each component after the digit it holds most of.
component = best.predict(train)
name = np.array([np.bincount(digit[component == k], minlength=10).argmax() for k in range(best.n_components)])
right = np.mean(name[best.predict(test)] == digit_test)
print(f"\n{best.n_components} components, named after their most frequent digits, name {right:.1%} of held-out digits rightly")

# The components' means, by name; then the ten likeliest held-out digits, and the ten least likely.
means = best.decode(np.eye(best.n_components))[np.argsort(name, kind="stable")]
order = np.argsort(best.log_prob(test))[::-1]
plot.images(folder / "gaussian_mixture.png", np.concatenate([means, test[order[:10]], test[order[-10:]]]), n_columns=5)
print(f"\npicture: {folder / 'gaussian_mixture.png'}\n  {len(means)} means of components, by name; "
      "then the ten likeliest held-out digits; then the ten least likely")
