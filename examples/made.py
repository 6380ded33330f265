"""MADE as a judge of handwriting: how many bits does a digit hold, and which digits are written most oddly?

python examples/made.py [folder for the picture]
"""
import math
import sys
from pathlib import Path

import numpy as np

from npgen import MADE, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

images, _ = data.digits()
train, test = data.train_test_split(data.binarize(images, 8))

# A code that knows how often each pixel is black, but takes the pixels to be independent.
p = (train.sum(axis=0) + 1) / (len(train) + 2)
independent = -np.mean(test @ np.log(p) + (1 - test) @ np.log1p(-p))

# MADE predicts each pixel from the ones before it, p(x) = prod_d p(x_d | x_<d), and so knows what digits look like.
model = MADE(random_state=0).fit(train)
nats = -model.score(test)

for name, value in (("one bit for each pixel", 64 * math.log(2)), ("independent pixels", independent), ("MADE", nats)):
    print(f"{name:24} {value:6.2f} nats = {value / math.log(2):5.2f} bits per digit")

# log_prob is exact, so it ranks: 20 samples, then the 20 most ordinary and the 20 oddest of the held-out digits.
surprise = np.argsort(-model.log_prob(test))
rows = np.concatenate([model.sample(20, rng=0), test[surprise[:20]], test[surprise[-20:]]])
plot.images(folder / "made.png", rows, n_columns=10)
print(f"\npicture: {folder / 'made.png'}\n  two lines each: samples, the most ordinary held-out digits, the oddest")
