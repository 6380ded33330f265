"""Every family on one density of the plane, side by side: what each can draw, what it knows of the density, how it moves noise.

python examples/taxonomy.py [folder for the picture]
"""
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import npgen
from npgen import data
from npgen.divergences import energy_distance
from npgen.heads import MixtureOfNormals
from npgen.ode import features

folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
folder.mkdir(parents=True, exist_ok=True)

train, test = data.moons(4000, seed=0), data.moons(2000, seed=1)
flow = {"max_epochs": 60, "batch_size": 200, "learning_rate": 5e-3, "schedule": "cosine", "random_state": 0}
models = {
    "mixture": npgen.GaussianMixture(20, random_state=0),
    "autoregressive": npgen.MADE(hidden=(64,), head=MixtureOfNormals(10), order="natural", **flow),
    "latent variables": npgen.VAE(n_latent=2, hidden=(64,), learning_rate=5e-3, max_epochs=60, random_state=0),
    "coupling flow": npgen.RealNVP(hidden=(64, 64), **flow),
    "autoregressive flow": npgen.MAF(hidden=(64, 64), **flow),
    "spline flow": npgen.NSF(n_layers=4, hidden=(64, 64), **flow),
    "flow matching": npgen.FlowMatching(hidden=(64, 64), coupling="ot", **flow | {"max_epochs": 150}),
    "diffusion": npgen.Diffusion(hidden=(64, 64), **flow | {"max_epochs": 150}),
    "energy, of hidden units": npgen.RBM(n_hidden=16, max_epochs=60, random_state=0),
    "implicit": npgen.GMMN(random_state=0, max_epochs=30),
    "adversarial": npgen.GAN(random_state=0, learning_rate=1e-3, max_epochs=60),
}

side = np.linspace(-1, 1, 120)
grid = np.stack(np.meshgrid(3.2 * side, 2.2 * side), axis=-1).reshape(-1, 2)
figure = Figure((2.1 * (len(models) + 1), 6.6), dpi=100, layout="constrained")
axes = figure.subplots(3, len(models) + 1)
for panel in axes.flat:
    panel.set(xticks=[], yticks=[], xlim=(-3.2, 3.2), ylim=(-2.2, 2.2))
for row, name in enumerate(("rows", "density", "noise to rows")):
    axes[row, 1].set_ylabel(name)


def points(panel, x):
    panel.scatter(*x[:1000].T, s=3, alpha=0.5, linewidths=0)


def path(model, w, n_steps=40):
    """Where noise w (n, 2) goes, (steps, n, 2): along a model's equation, or straight to the row that it stands for."""
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
    return np.linspace(w, model.decode(w), 2)


points(axes[0, 0], train)
axes[0, 0].set_title("data")
for panel in axes[1:, 0]:
    panel.axis("off")
print(f"{'family':24} {'model':16} {'density':9} {'nats':>8} {'energy distance':>16}")
noise = np.random.default_rng(0).normal(size=(60, 2))
for column, (family, model) in enumerate(models.items(), 1):
    model.fit(train)
    drawn, kind = model.sample(2000, rng=0), model.capabilities.density
    nats = f"{model.score(test):8.3f}" if kind != "none" else f"{'':8}"
    print(f"{family:24} {type(model).__name__:16} {kind:9} {nats} {float(energy_distance(test, drawn)):16.4f}", flush=True)
    axes[0, column].set_title(f"{type(model).__name__}\n{family}", fontsize=9)
    points(axes[0, column], drawn)
    if kind == "none":
        axes[1, column].text(0, 0, "none", ha="center")
    else:
        axes[1, column].imshow(np.exp(model.log_prob(grid)).reshape(120, 120), extent=(-3.2, 3.2, -2.2, 2.2), origin="lower",
                               cmap="magma", aspect="auto")
        axes[1, column].set_xlabel(kind, fontsize=8)
    way = path(model, noise)
    if way is None:
        axes[2, column].text(0, 0, "none", ha="center")
    else:
        axes[2, column].plot(*way.transpose(2, 0, 1), color="gray", linewidth=0.5)
        axes[2, column].scatter(*way[-1].T, s=5, zorder=2)
figure.savefig(folder / "taxonomy.png")
print(f"\npicture: {folder / 'taxonomy.png'}")
