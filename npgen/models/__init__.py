"""The models, one file each; MODELS maps the name on the command line, and CLASSES the name in a file, to the class."""
from .made import MADE

MODELS = {"made": MADE}
CLASSES = {cls.__name__: cls for cls in MODELS.values()}

__all__ = ["CLASSES", "MADE", "MODELS"]
