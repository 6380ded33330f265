"""Flow matching carries noise to data along nearly straight lines, which optimal transport makes straighter still.

python examples/flow_matching.py [folder for the picture]
"""
import sys
from pathlib import Path

import numpy as np

from npgen import FlowMatching, data, plot

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

train, test = data.load("pinwheel", n=4000, seed=0), data.load("pinwheel", n=2000, seed=1)
settings = {"hidden": (64, 64), "max_epochs": 200, "batch_size": 256, "learning_rate": 1e-2, "schedule": "cosine",
            "patience": 200, "average": 0.999, "restore_best": False, "random_state": 0,
            "first_layer": "sine", "bandwidth": 5}  # sines: for few columns with edges
models = {coupling: FlowMatching(coupling=coupling, **settings).fit(train) for coupling in ("independent", "ot")}
for coupling, model in models.items():
    print(f"{coupling}: {model.score(test):.3f} nats, {model.capabilities.density}: twice the steps move log_prob by "
          f"{model.solver_error_:.1e} nats at most")

# How far one Euler step ends from where forty steps of fourth order do: a straight line needs one.
for coupling, model in models.items():
    inner, w = model.inner(), np.random.default_rng(0).normal(size=(1000, 2))
    ode, given = inner.parts["ode"], (w[:, :0], (1.0,))
    off = ode.to_data(model.inner(np.float64).params, w, *given, 1, "euler") - ode.to_data(
        model.inner(np.float64).params, w, *given, 40)
    print(f"{coupling}: one step is off by {np.sqrt(np.mean(off**2)):.3f}")
plot.density(folder / "flow_matching.png", models["ot"].log_prob, (-4, 4, -4, 4), title="flow matching", n_cells=120)
print(f"\npicture: {folder / 'flow_matching.png'}")
