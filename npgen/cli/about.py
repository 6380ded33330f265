"""npgen info, config, warmup and demo: what a file, this machine and npgen have to show."""
import os
import textwrap

from .. import checkpoint
from ..checks import one_line
from ..models import MODELS
from ..words import count, describe, training
from . import contexts
from .parser import add_command, add_file
from .sources import model_in, names_of
from .words import print_table, size


def info(args):
    """npgen info FILE"""
    model = model_in(args.file)
    header = checkpoint.read(args.file)[1]
    can = model.capabilities
    print_table([
        ("model", describe(model)),
        ("columns", f"{model.n_features_in_} ({model.dtype_.name})"),
        *zip(["names"] + [""] * model.n_features_in_, textwrap.wrap(", ".join(names_of(model) or []), 86), strict=False),
        *([("context", contexts.words(model))] if model.context_ else []),
        ("density", can.density),
        *([("solver", f"{model.n_steps_} steps; twice as many move log_prob by {model.solver_error_:.1e} nats at most")]
          if hasattr(model, "solver_error_") else []),
        ("representation", f"{can.representation}, {count(model.n_latent_, 'column')}"
                           + (", invertible" if can.invertible else "") if model.n_latent_ else "none"),
        ("parameters", f"{model.n_parameters_:,}"),
        ("settings", ", ".join(f"{name}={one_line(value)}" for name, value in model.get_params().items()
                               if name not in ("callbacks", "verbose"))),
        *training(model),
        ("written by", ", ".join(f"{name} {version}" for name, version in header["versions"].items())),
        ("file", f"{args.file}, {size(os.path.getsize(args.file))}")])
    if getattr(model, "schema_", None) is not None:
        print("\n" + model.schema_.table({"measure": dict(zip(model.schema_.names, model.measures_, strict=True))}))


def config(args):
    """npgen config"""
    from .. import machine
    print_table(machine.facts())
    print()
    advice = list(machine.advice())
    print("What would make this machine faster:" if advice else "Nothing found that would make this machine faster.")
    for line in advice:
        print(f"  - {line}")


def warmup(args):
    """npgen warmup"""
    from .. import machine
    machine.warmup(models=args.models or tuple(MODELS), processes=2)


def demo(args):
    """npgen demo"""
    from .. import demo
    demo.run(args.out, quick=args.quick, seed=args.seed)


def add_to(commands):
    """npgen info, config, warmup, demo"""
    sub = add_command(commands, info, "say what a model file holds", examples=["npgen info digits.npgen"])
    add_file(sub)

    add_command(commands, config, "show versions, BLAS, threads, caches, and what would make this machine faster",
                examples=["npgen config"])

    sub = add_command(commands, warmup, "make every kernel ready, which takes about a minute once, so that no later command "
                      "pauses for it", examples=["npgen warmup", "npgen warmup made vae"])
    sub.add_argument("models", metavar="MODEL", nargs="*", help=f"of which models (default: all): {', '.join(sorted(MODELS))}")

    sub = add_command(commands, demo, "fit seven models to handwritten digits; print a table, draw pictures",
                      examples=["npgen demo", "npgen demo --out pictures --seed 1"])
    sub.add_argument("--out", default="npgen-demo", metavar="FOLDER", help="folder for the pictures (default: npgen-demo)")
    sub.add_argument("--quick", action="store_true", help="a few epochs only: does everything work here?")
    sub.add_argument("--seed", type=int, default=0, metavar="S", help="of the split and the models (default: 0)")
