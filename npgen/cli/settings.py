"""What --set key=value stands for: a literal, a text, or a constructor of npgen's own, which is parsed and not executed."""
import ast
import re

from .. import heads, priors
from ..divergences.objectives import OBJECTIVES
from ..models import MODELS

PARTS = {cls.__name__: cls for cls in (*heads.HEADS.values(), *priors.PRIORS.values(), *OBJECTIVES.values())}
SUBMODELS = {cls.__name__: cls for cls in MODELS.values()}  # some have a name that a prior has, too


def value_of(cls, name, text, setting):
    """The value of a model's hyperparameter. Raises ValueError, in one line, for a constructor that cannot be called so."""
    known = _known(cls, name)
    if re.match(r"\s*[\w.]+\s*\(", text):
        try:
            return _made(ast.parse(text.strip(), mode="eval").body, known)
        except (SyntaxError, TypeError, ValueError) as error:
            why = error.msg if isinstance(error, SyntaxError) else str(error)
            raise ValueError(f"--set {setting}: {' '.join(why.split())}") from None
    value = _literal(text)
    if known is SUBMODELS and value is not None:
        raise ValueError(f"--set {setting}: {name} is a model or None; give the model by its constructor, such as "
                         f"--set '{name}=GaussianMixture(5)'")
    return value


def _known(cls, name):
    """{name: class} of what may be constructed for an argument of this class."""
    return SUBMODELS if f"{name}_" in getattr(cls, "submodels", ()) else PARTS


def _literal(text):
    """A Python literal, else a text, of which commas make several: hidden=400,200, heads=normal,bernoulli."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        several = "," in text and re.fullmatch(r"[\w\s.,-]+", text)
        return tuple(_literal(part.strip()) for part in text.split(",")) if several else text


def _made(node, known):
    """What NAME(arguments) stands for, of which the arguments are such or literals: Flow(5, hidden=(64,))."""
    if isinstance(node, ast.Call):
        cls = known.get(ast.unparse(node.func))
        if cls is None:
            raise ValueError(f"{ast.unparse(node.func)} is none of {', '.join(known)}")
        words = {word.arg: _made(word.value, _known(cls, word.arg)) for word in node.keywords if word.arg}
        if len(words) == len(node.keywords):
            return cls(*(_made(each, PARTS) for each in node.args), **words)
    elif isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_made(each, PARTS) for each in node.elts)
    else:
        try:
            return ast.literal_eval(node)
        except ValueError:
            pass
    raise ValueError(f"{ast.unparse(node)} is no literal; give a number, a text in quotes, True, False, None, or several in "
                     "parentheses")
