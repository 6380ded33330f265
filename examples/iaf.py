"""IAF is a MAF the other way round: it draws in one pass, and scores a row by undoing a column after another.

python examples/iaf.py [folder for the picture]
"""
import sys
from pathlib import Path

import numpy as np

from npgen import IAF, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

train, test = data.moons(4000, seed=0), data.moons(2000, seed=1)
model = IAF(n_layers=8, hidden=(32, 32), mix="lu", max_epochs=60, batch_size=200, learning_rate=5e-3, schedule="cosine",
            average=0.99, random_state=0).fit(train)
print(f"held-out log p(x): {model.score(test):.3f} nats")

rows, log_prob = model.sample_and_log_prob(2000, rng=0)
print(f"log p of its own rows: {log_prob.mean():.3f} nats, which is minus its entropy")
print(f"|decode(encode(x)) - x| <= {np.abs(model.decode(model.encode(test)) - test).max():.1e}")
plot.points(folder / "iaf.png", rows, np.where(rows[:, 1] > 0.25, "upper half", "lower half"), title="rows that IAF drew")
print(f"\npicture: {folder / 'iaf.png'}")
