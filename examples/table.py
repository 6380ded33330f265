"""A table of text, dates, numbers and holes: which rows are odd and why, what is missing, rows under conditions.

python examples/table.py [folder for the picture]            needs polars: pip install 'npgen[tables]'
"""
import datetime
import sys
from pathlib import Path

import numpy as np
import polars as pl

from npgen import Mixture, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

# 3,000 people. Their wage follows from their trade and years in it; the id of a trade follows from its name.
rng, n = np.random.default_rng(0), 3000
trade = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
since = rng.integers(0, 9000, n)
hours = np.where(rng.uniform(size=n) < 0.4, 40, rng.integers(10, 50, n))
people = pl.DataFrame({
    "trade": np.array(["baker", "clerk", "nurse", "pilot"])[trade], "trade_id": np.array([11, 27, 35, 50])[trade],
    "since": [datetime.date(2000, 1, 1) + datetime.timedelta(int(days)) for days in since],
    "city": np.array(["Rome", "Paris", "Bern"])[(trade + rng.integers(0, 2, n)) % 3], "hours": hours,
    "wage": np.round(12 + 9 * trade - since / 1500 + rng.normal(0, 1.5, n), 2)})
holes = people.with_columns(city=pl.when(pl.Series(rng.uniform(size=n) > 0.15)).then("city"),
                            wage=pl.when(pl.Series(rng.uniform(size=n) > 0.15)).then("wage"))
odd = holes.with_columns(wage=pl.when(pl.int_range(n) == 17).then(60.0).otherwise("wage"),
                         trade=pl.when(pl.int_range(n) == 17).then(pl.lit("baker")).otherwise("trade"),
                         trade_id=pl.when(pl.int_range(n) == 17).then(11).otherwise("trade_id"))

# What the columns are is inferred, printed and kept; trade_id follows from trade, and is no part of the density.
model = Mixture(20, max_iter=60, tol=1e-3, random_state=0).fit(holes)
print(model.schema_)

# Scores, and why: the cells of a row that are least likely given all its others. What misses is marginalised.
nats = model.log_prob(odd)
lowest = int(nats.argmin())
why = model.explain(odd[lowest]).row(0, named=True)
print(f"\nthe oddest row is {lowest} with {nats[lowest]:.1f} nats (all: {nats.mean():.1f}):",
      ", ".join(f"{name} {share:.1f}" for name, share in why.items() if share is not None))

# The cells that miss, by means and likeliest levels, and as draws, which keep the spread.
gone = holes["city"].is_null()
right = (model.impute(holes)["city"] == people["city"]).filter(gone).mean()
usual = (people["city"] == holes["city"].drop_nulls().mode()[0]).filter(gone).mean()
draws = model.impute(holes, n=5, rng=0)
print(f"\ncities filled in: {right:.0%} right, {usual:.0%} by the commonest")
print("wages of the first row that has none, in five tables:",
      [table["wage"].filter(holes["wage"].is_null())[0] for table in draws])

# Rows under conditions, exactly and without rejection; a column given all the others.
bakers = model.sample(1000, given={"trade": "baker", "wage": (15, None)}, rng=0)
print("\nbakers of 15 or more:", bakers.head(2).rows())
print(model.predict(people.head(2).drop("city"), "city"))

picture = np.column_stack([people["hours"], people["wage"]])[:1000], np.column_stack(
    [model.sample(1000, rng=0)[name] for name in ("hours", "wage")])
plot.points(folder / "table.png", np.concatenate(picture), np.repeat(["real", "model"], 1000), "hours and wage")
print(f"\npicture: {folder / 'table.png'}")
