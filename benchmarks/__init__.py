"""npgen beside other libraries: speed, scaling (`python -m benchmarks.speed`), and likelihood (made_digits.py)."""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def refuse_another_checkout():
    """End with one line where npgen, or npgen.kernels, is not of the repository that this file lies in.

    An environment in which another checkout is installed for editing gives a clone's npgen the kernels of that one.
    """
    import npgen.kernels
    for module, folder in (npgen, ROOT / "npgen"), (npgen.kernels, ROOT / "kernels"):
        found = Path(module.__file__).resolve().parent
        if found != folder:
            sys.exit(f"{module.__name__} is imported from {found}, not from {folder}; pip install -e {ROOT}, in an environment "
                     "of its own")
