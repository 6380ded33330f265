"""The house rules that a machine can check: who imports whom, what an import costs, what the README promises."""
import ast
import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import npgen
from npgen import cli
from npgen.checks import with_article

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path(npgen.__file__).parent
KERNELS = Path(npgen.kernels.__file__).parent

# A module imports only from ranks below its own; on one rank, only from those listed before it.
RANKS = [
    ["kernels", "version", "ranks", "tree", "parallel", "warn", "tensor", "engine", "checks", "later"],
    ["masks", "layout", "ops.rules", "ops.elementwise", "ops.shapes", "ops.reductions", "ops.products", "ops.linalg", "ops",
     "linalg", "compositions.elementwise", "compositions.reductions", "compositions.calculus",
     "compositions.products", "compositions.shapes", "compositions.fourier", "compositions.refused", "compositions", "fused",
     "splines", "posteriors", "random"],
    ["divergences.base", "divergences.pairs", "divergences.rows", "divergences.densities", "divergences.scores",
     "divergences.objectives", "divergences", "nn", "heads.base", "heads.normal", "heads.bernoulli", "heads.poisson",
     "heads.categorical", "heads.mixture", "heads.scale", "heads.latent", "heads.mapped", "heads.grid", "heads.atoms",
     "heads.pooled", "heads.tied", "heads.columns", "heads", "checkpoint",
     "transforms.base", "transforms.row_noise", "transforms.standardize", "transforms.dequantize", "transforms.logit",
     "transforms.columns", "transforms.choice", "transforms.atoms", "transforms.actnorm", "transforms.permute", "transforms.lu",
     "transforms.elements", "transforms.coupling", "transforms.autoregressive", "transforms", "priors", "ode", "optim"],
    ["record", "graph", "players", "options", "train", "data.table", "data.toys", "data.binary", "data.text", "data.source",
     "data.dates", "data.frames", "data.column",
     "data.determined", "data.relative", "data.reading", "data.schema", "data.blocks", "data"],
    ["models.overflow", "models.capabilities", "models.context", "models.device", "models.estimator", "models.older",
     "models.files", "models.run", "models.blocks",
     "models.choice", "models.tabular", "models.inner", "models.base", "models.gradient", "models.mixture.covariances",
     "models.mixture.rows", "models.mixture.starts", "models.mixture.em", "models.mixture.gaussian_em", "models.mixture.kinds",
     "models.mixture.columns_em", "models.mixture.conditionals", "models.mixture.questions",
     "models.mixture.base", "models.mixture.gaussian",
     "models.mixture.columns", "models.mixture.select", "models.mixture", "models.mixture.tied", "models.classifier",
     "models.conditional", "models.made", "models.flow", "models.maf", "models.iaf", "models.nsf", "models.realnvp",
     "models.vae", "models.boltzmann", "models.rbm", "models.residual", "models.energy", "models.gmmn", "models.gan",
     "models.ode", "models.flow_matching", "models.diffusion", "models.autoencoder", "models"],
    ["testing.derivatives", "testing.kernel", "testing.strategies", "testing.bounds", "testing.reference", "testing.law",
     "testing.subject", "testing.classifiers", "testing.contract", "testing.densities", "testing.encodings",
     "testing.given", "testing.gradients", "testing.latents",
     "testing.mixtures", "testing.states", "testing.laws", "testing.report", "testing", "plot"],
    ["machine", "demo", "words", "reports.markup", "reports.section", "reports.charts", "reports.bins", "reports.measures",
     "reports.subject", "reports.fitted", "reports.columns", "reports.rows", "reports.synthetic", "reports.page", "reports",
     "cli.interrupts", "cli.words", "cli.sources", "cli.contexts", "cli.parser", "cli.settings", "cli.tables", "cli.fitting",
     "cli.queries", "cli.reporting", "cli.about", "cli", "__main__"],
]
ORDER = [name for rank in RANKS for name in rank]
LAZY = ("cupy", "dask", "distributed", "joblib", "llvmlite", "matplotlib", "mpi4py", "narwhals", "numba", "pandas", "polars",
        "pyarrow", "safetensors", "scipy.linalg", "scipy.special", "scipy.stats",
        "sklearn", "tqdm")


def modules():
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and parts[0] != "kernels":
            yield name, path


@functools.cache
def imports(path, package):
    """Absolute names of all that a file imports, at any depth, from x import y as x.y."""
    return list(_imports(path, package))


def _imports(path, package):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rank_of(imported):
    """The name in ORDER that `npgen.x.y.attribute` refers to."""
    parts = imported.split(".")[1:]
    return next((name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in ORDER), None)


def test_every_module_has_a_rank():
    assert sorted(name for name, _ in modules()) == sorted(set(ORDER) - {"kernels"})


@pytest.mark.parametrize(("name", "path"), [pytest.param(n, p, id=n) for n, p in modules()])
def test_imports_go_downwards(name, path):
    package = ".".join(["npgen", *path.parent.relative_to(SOURCE).parts])
    for imported in imports(path, package):
        if imported.startswith("npgen"):
            target = rank_of(imported)
            late = imported == "npgen.models.CLASSES" and name in ("models.base", "models.files")  # by save() and load()
            assert target or imported == "npgen", f"{name} imports {imported}, which has no rank"
            assert late or ORDER.index(target) < ORDER.index(name), f"{name} imports {imported}, which is not below it"


def test_no_file_is_longer_than_a_reader_holds():
    long = {name for name, path in modules() if len(path.read_text(encoding="utf-8").splitlines()) > 400}
    assert not long, f"cut {', '.join(sorted(long))} along a matter that a reader would name"


@pytest.mark.parametrize("folder", ["testing", "cli", "reports"])
def test_models_are_asked_by_public_names(folder):
    """The checker, the command line and reports use no private name of what they are given."""
    for path in sorted((SOURCE / folder).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
                owner = node.value.id if isinstance(node.value, ast.Name) else ast.unparse(node.value)
                assert owner == "self", f"{folder}/{path.name}:{node.lineno}: {owner}.{node.attr}"


PRIVATE = {("test_mixed.py", "_build"): "a model whose levels are numbered otherwise, which no fit gives",
           ("test_mixed.py", "_chosen"): "likewise", ("test_mixture_scale.py", "_keeps"): "a file of an older version",
           ("test_mixture.py", "_rows_per_call"): "how many rows are computed at once, of which no answer says anything",
           ("test_models.py", "_rows_per_call"): "likewise", ("test_device.py", "_rows_per_call"): "likewise",
           ("test_trust.py", "_reconstruct"): "a model that is wrong, which the checker has to find"}


def _private(node, others):
    """The names that a piece of a test reaches with a name in it: as an attribute, as a text, or from npgen.models."""
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in others:
        yield node.attr
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("getattr", "setattr", "hasattr", "delattr"):
        yield from (text.value for text in node.args[1:2] if isinstance(text, ast.Constant))
    if isinstance(node, ast.ImportFrom) and str(node.module).startswith("npgen.models"):
        yield from (alias.name for alias in node.names if alias.name.startswith("_"))


@pytest.mark.parametrize("code", ["model._draw(3)", "getattr(model, '_draw')", "monkeypatch.setattr(MADE, '_draw', None)",
                                  "from npgen.models.made import _draw"])
def test_a_private_name_is_found_however_it_is_reached(code):
    assert [name for node in ast.walk(ast.parse(code)) for name in _private(node, {"self"}) if name != "setattr"] == ["_draw"]


def test_tests_reach_models_by_public_names():
    """No test uses a private name of a model, such as are defined or set in npgen/models, but for those that say why: not as an
    attribute, nor by getattr and its like, nor does it import one."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (SOURCE / "models").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    members = [member for node in nodes if isinstance(node, ast.ClassDef) for member in node.body]
    names = {f.name for f in members if isinstance(f, ast.FunctionDef)}
    names |= {target.id for each in members if isinstance(each, ast.Assign) for target in each.targets
              if isinstance(target, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    names = {name for name in names if name.startswith("_") and not name.endswith("__")}
    names |= {"_net", "_decoder", "_prior", "_flow"}  # parts, by install
    found, others = {}, {"self", "super()", *(path.stem for path in KERNELS.glob("*.py"))}
    for path in (ROOT / "tests").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for used in _private(node, others):
                if used in names or isinstance(node, ast.ImportFrom):
                    found.setdefault((path.name, used), f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert {"_log_density", "_draw", "_chosen"} < names
    assert not [found[key] for key in found.keys() - PRIVATE.keys()] and PRIVATE.keys() <= found.keys()


@pytest.mark.parametrize("name", sorted(npgen.models.CLASSES))
def test_errors_put_the_right_article_before_a_model(name):
    """An RBM, as it is spelt out, a MADE, as it is not; and no error puts one before a class on its own."""
    says = with_article(name)
    assert says == f"{'an' if name in ('Autoencoder', 'EnergyModel', 'IAF', 'NSF', 'RBM') else 'a'} {name}"
    assert with_article(3) == "an int"
    for path in SOURCE.rglob("*.py"):  # the engine is below what knows
        assert path.name == "engine.py" or not re.search(r"\ban? \{type\(", path.read_text(encoding="utf-8")), path


def test_kernels_know_nothing_of_npgen():
    for path in KERNELS.glob("*.py"):
        for imported in imports(path, "npgen.kernels"):
            assert not imported.startswith("npgen.") or imported.startswith("npgen.kernels"), f"{path.name}: {imported}"
        assert "import npgen" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("package", "owners"), [("cupy", {"_cuda.py"}), ("cupyx", {"_cuda.py"}), ("matplotlib", {"plot.py"}),
                                                 ("sklearn", {"base.py", "classifier.py"}), ("pickle", set()),
                                                 ("narwhals", {"frames.py"}), ("polars", {"reading.py"}), ("pandas", set()),
                                                 ("dask", {"parallel.py", "blocks.py"}), ("distributed", {"parallel.py"}),
                                                 ("joblib", {"parallel.py"}), ("mpi4py", {"parallel.py"}),
                                                 ("torch", set())])
def test_outside_packages_have_one_owner(package, owners):
    paths = [*SOURCE.rglob("*.py"), *KERNELS.glob("*.py")]
    users = {p.name for p in paths if any(i.partition(".")[0] == package for i in imports(p, "npgen"))}
    assert users <= owners


def run(code, **options):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=900, **options)


def test_import_is_light():
    result = run(f"""
import sys
import npgen, npgen.cli, npgen.data, npgen.testing
loaded = [name for name in {LAZY!r} if name in sys.modules]
assert not loaded, loaded
""")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_import_takes_at_most_twice_as_long_as_that_of_numpy(tmp_path):
    """Processor time, the interpreter's start included, compiled to bytecode before; a slow machine is slow for both."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    npgen, numpy = (min(float(run(f"import {name}, time; print(time.process_time())", env=env).stdout) for _ in range(10))
                    for name in ("npgen", "numpy"))
    assert npgen < 2 * numpy  # 1.4; with Numba it takes 4


def test_modules_that_wait_are_executed_once_by_whoever_asks_first():
    """Two threads at once; an interruption leaves them waiting; dir() and vars() after it show all there is."""
    result = run("""
import sys, threading
from npgen import kernels
from npgen.kernels import _later, gather
assert type(gather) is _later._Later and "numba" not in sys.modules and not hasattr(gather, "__wrapped__")
real, calls = gather.__spec__.loader.exec_module, []
def slow(module):
    calls.append(len(calls))
    if len(calls) == 1:
        raise KeyboardInterrupt
    real(module)
gather.__spec__.loader.exec_module = slow
try:
    gather.rows
except KeyboardInterrupt:
    calls.append("heard")
assert type(gather) is _later._Later
got = []
threads = [threading.Thread(target=lambda: got.append(gather.rows)) for _ in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
assert calls == [0, "heard", 2] and len(got) == 8 and set(got) == {kernels.gather.rows}, calls
assert "rows" in dir(gather) and "forward" in dir(kernels.mlp) and "forward" in vars(kernels.mlp)
kernels.adam.CHUNK = 5
assert kernels.adam.step and kernels.adam.CHUNK == 5
try:
    kernels.norm.nothing
except AttributeError as error:
    print(error)
""")
    assert result.returncode == 0 and result.stdout == "module 'npgen.kernels.norm' has no attribute 'nothing'\n", result.stderr


def test_the_other_modules_are_there_when_they_are_asked_for():
    result = run("import npgen; print(npgen.data.moons(9).shape, npgen.plot.images, npgen.testing.check_kernel); npgen.nothing")
    assert result.stdout.startswith("(9, 2) <function images") and "'npgen' has no attribute 'nothing'" in result.stderr


def test_a_bare_import_of_kernels_is_refused():
    result = run("import kernels")
    assert result.returncode and "npgen.kernels" in result.stderr.splitlines()[-1]


# ---------------------------------------------------------------- README and docs

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language, pages=PAGES):
    return [block for page in pages
            for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)]


def test_readme_has_the_two_commands():
    shell = "\n".join(blocks("sh", PAGES[:1])).splitlines()
    assert "pip install '.[plot]' && npgen demo" in shell
    assert "pip install -e '.[test]' && pytest" in shell


def test_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 400, "move what is not for a newcomer to a page in docs/"


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert "://" in link or target.exists() and (not anchor or anchor in anchors(target)), f"{page.name}: {link}"


def test_command_lines_parse():
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("npgen ")]
    assert lines
    for line in lines:
        cli._parser().parse_args(shlex.split(line, comments=True)[1:])


@pytest.mark.slow
def test_code_runs(tmp_path):
    for block in blocks("python"):
        if block.lstrip().startswith(("import", "from")):
            result = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
                                    capture_output=True, text=True, timeout=900)
            assert result.returncode == 0, f"{block}\n{result.stderr}"
