"""Every family on one density of the plane, side by side: what each can draw, what it knows of the density, how it moves noise.

Of each family, from above: rows that it drew; its density, exact or an estimate, if it has one; and where noise goes, along an
equation or straight to the row that it stands for, of a VAE codes from its prior, if it can be asked.

python examples/taxonomy.py [folder for the picture]
"""
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import npgen
from npgen import data
from npgen.divergences import MMD, energy_distance
from npgen.heads import MixtureOfNormals
from npgen.ode import features
from npgen.random import Stream

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

train, test = data.moons(4000, seed=0), data.moons(2000, seed=1)
steps = {"batch_size": 200, "learning_rate": 5e-3, "schedule": "cosine", "random_state": 0}
longer = {"average": 0.999, "restore_best": False, "patience": 200}  # their losses say little of which epoch is best
field = {"hidden": (64, 64), "first_layer": "sine", "bandwidth": 6, "target": "batch", "max_epochs": 150} | steps | longer
flow = {"hidden": (32, 32), "mix": "lu", "average": 0.99, "max_epochs": 60} | steps
models = {
    "mixture": npgen.GaussianMixture(20, random_state=0),
    "autoregressive": npgen.MADE(hidden=(64,), head=MixtureOfNormals(10), order="natural", max_epochs=60, **steps),
    "latent variables": npgen.VAE(n_latent=2, hidden=(64, 64), prior="mixture", prior_size=20, free_bits=1.5, max_epochs=100,
                                  **steps),
    "coupling flow": npgen.RealNVP(hidden=(64, 64), max_epochs=60, **steps),
    "autoregressive flow": npgen.MAF(n_layers=10, **flow),
    "its inverse": npgen.IAF(n_layers=8, **flow),
    "spline flow": npgen.NSF(n_layers=4, hidden=(64, 64), max_epochs=40, **steps),
    "flow matching": npgen.FlowMatching(**field),
    "diffusion": npgen.Diffusion(**field),
    "energy, of hidden units": npgen.RBM(n_hidden=16, max_epochs=60, random_state=0),
    "energy, on a mixture": npgen.EnergyModel(base=npgen.GaussianMixture(4), max_epochs=60, **steps),
    "codes": npgen.Autoencoder(n_latent=1, hidden=(64, 64), max_epochs=60, **steps),
    "implicit": npgen.GMMN(objective=MMD(scales=(0.1, 0.3, 1.0)), n_noise=2, hidden=(64, 64, 64), max_epochs=60,
                           **steps | longer | {"batch_size": 400, "average": 0.99}),
    "adversarial": npgen.GAN(n_noise=2, hidden=(64, 64, 64), critic_hidden=(64, 64, 64), learning_rate=2e-3, max_epochs=100,
                             random_state=0),
}

side, n_columns = np.linspace(-1, 1, 120), 5
width, height = 3.8, 2.6  # half of what is shown: all rows lie inside
grid = np.stack(np.meshgrid(width * side, height * side), axis=-1).reshape(-1, 2)
figure = Figure((2.3 * n_columns, 5.4 * 3), dpi=100, layout="constrained")
bands = figure.subplots(9, n_columns).reshape(3, 3, n_columns).transpose(0, 2, 1).reshape(-1, 3)  # three panels of every family
for panel in bands.flat:
    panel.set(xticks=[], yticks=[], xlim=(-width, width), ylim=(-height, height))
for band in bands[::n_columns]:
    for panel, name in zip(band, ("rows", "density", "noise or codes to rows"), strict=True):
        panel.set_ylabel(name)


def points(panel, x):
    panel.scatter(*x[:1000].T, s=3, alpha=0.5, linewidths=0)


def path(model, w, n_steps=40):
    """Where noise w (n, 2) goes, or codes from a prior: (steps, n, 2), along an equation, or straight to the rows."""
    if isinstance(model, (npgen.FlowMatching, npgen.Diffusion)):
        inner, given, ways = model.inner(np.float64), w[:, :0], [w]
        ode = inner.parts["ode"]
        for tau in 1 - np.arange(n_steps) / n_steps:
            time = np.broadcast_to(features(np.asarray(tau)), (len(w), 8))
            w = w - ode.rate(np.float64(tau)) / n_steps * ode.field(inner.params, w, given, time)
            ways.append(w)
        return np.stack([model.preprocess_.data(None, model.scale_ * w) for w in ways])
    if getattr(model, "n_latent_", 0) != 2 or isinstance(model, npgen.GaussianMixture):
        return None
    if "prior" in model.inner().parts:
        w = model.inner().parts["prior"].sample(model.inner().params, len(w), None, Stream(0), np.float64)
    return np.linspace(w, model.decode(w), 2)


points(bands[0, 0], train)
bands[0, 0].set_title("data")
bands[0, 0].set_ylabel("rows")
for panel in bands[0, 1:]:
    panel.axis("off")
print(f"{'family':24} {'model':16} {'density':9} {'nats':>8} {'energy distance':>16}")
noise = np.random.default_rng(0).normal(size=(60, 2))
for panels, (family, model) in zip(bands[1:], models.items(), strict=True):
    model.fit(train)
    drawn, kind = model.sample(2000, rng=0), model.capabilities.density
    nats = f"{model.score(test):8.3f}" if kind != "none" else f"{'':8}"
    panels[0].set_title(f"{type(model).__name__}\n{family}", fontsize=9)
    points(panels[0], drawn)
    if kind == "none":
        panels[1].text(0, 0, "none", ha="center")
    else:
        panels[1].imshow(np.exp(model.log_prob(grid)).reshape(120, 120), extent=(-width, width, -height, height),
                         origin="lower", cmap="magma", aspect="auto")
        panels[1].set_xlabel(kind, fontsize=8)
    way = path(model, noise)
    if way is None:
        panels[2].text(0, 0, "none", ha="center")
    else:
        panels[2].plot(*way.transpose(2, 0, 1), color="gray", linewidth=0.5)
        panels[2].scatter(*way[-1].T, s=5, zorder=2)
    print(f"{family:24} {type(model).__name__:16} {kind:9} {nats} {float(energy_distance(test, drawn)):16.4f}", flush=True)
figure.savefig(folder / "taxonomy.png")
print(f"\npicture: {folder / 'taxonomy.png'}")
