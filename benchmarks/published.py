"""Published numbers beside npgen's, on the published data.

    python -m benchmarks.published [--only TEXT] [--resume] [--hours H] [--work FOLDER] [--list]

Runs every row of benchmarks/published_rows.py whose model and data have TEXT in them, and writes benchmarks/PUBLISHED.md. What
is done is kept in FOLDER (build/published) and not done again: a run that was stopped goes on where it was. Settings are chosen
by the rows that training stops by; the test's rows are scored once, by the chosen model. A fit that takes longer than H hours
(1) is left where it is, with its learning curve; --resume gives it as many hours again.
"""
import argparse
import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import npgen
from npgen import checkpoint
from npgen.models.estimator import clone
from npgen.models.gradient import GradientModel

from .speed import machine

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: what is fitted to what, the bar, what was published, and how it is found out.

    bar   (sign, figure): a figure that is "<=" or ">=" this meets it; None where there is none
    run   run(Work) -> Result
    why   shown where the bar is missed: what is known of the reason, and what was tried
    """

    model: str
    data: str
    bar: tuple | None
    published: str
    run: object
    why: str = ""

    @property
    def key(self):
        return f"{self.model} | {self.data}"


@dataclasses.dataclass
class Result:
    """What a row came to.

    figure    nats of a test row or another measure; None of a fit that is not done
    error     its standard error, or None
    settings  of the model
    looked    (settings, nats of the rows stopped by) of each that was looked at
    seconds   of fitting, of all that was looked at
    curve     nats of the rows stopped by after each epoch, of the chosen fit; shown where it is not done or misses the bar
    """

    figure: float | None
    error: float | None = None
    settings: str = ""
    looked: list = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    note: str = ""
    curve: list = dataclasses.field(default_factory=list)

    def met(self, bar):
        """Whether the bar is met; None if there is none, or no figure."""
        if bar is None or self.figure is None:
            return None
        return self.figure <= bar[1] if bar[0] == "<=" else self.figure >= bar[1]


class OutOfTime(Exception):
    """A fit has had its hours."""


@dataclasses.dataclass
class Fit:
    """A fitted model, its settings, its nats of the rows that it was stopped by, the seconds; curve as Result has it."""

    model: object
    settings: str
    nats: float
    seconds: float
    curve: list


class Work:
    """Where fits are kept, each in a file of its own, so that no fit is made twice; pictures: where pictures are, if any."""

    def __init__(self, folder, hours=1.0, resume=False, pictures=None):
        self.folder, self.hours, self.resume, self.pictures = Path(folder), hours, resume, pictures and Path(pictures)
        self.folder.mkdir(parents=True, exist_ok=True)

    def fit(self, data, model, x, valid):
        """The Fit of a model to rows x, stopped by rows valid. Raises OutOfTime, with its settings, curve so far and seconds.

        Where valid is None, the loss of the rows fitted takes the place of theirs.
        """
        words = f"{data} {model!r}"
        name = self.folder / f"{data}-{type(model).__name__}-{hashlib.sha256(words.encode()).hexdigest()[:10]}"
        done, notes, run = (name.with_name(name.name + end) for end in (".npgen", ".json", ".run"))
        before = json.loads(notes.read_text()) if notes.exists() else {"settings": words, "seconds": 0.0, "curve": []}
        if done.exists():
            return Fit(npgen.load(done), repr(model), min(before["curve"]), before["seconds"], before["curve"])
        trained, settings, of = isinstance(model, GradientModel), repr(model), "train_nats" if valid is None else "valid_nats"
        curve = []
        if trained and run.exists():  # however it was stopped, these are the epochs that it goes on from
            curve = [entry[of] for entry in checkpoint.read(run)[1]["state"]["history"]]
        if before["seconds"] >= 3600 * self.hours and not self.resume:
            raise OutOfTime(settings, curve, before["seconds"])
        begin = time.perf_counter()

        def keep():
            seconds = before["seconds"] + time.perf_counter() - begin
            write(notes, json.dumps(before | {"curve": curve, "seconds": seconds}))
            return seconds

        def after(entry):
            curve.append(entry[of])
            seconds = keep()
            if seconds - before["seconds"] > 3600 * self.hours:
                raise OutOfTime(settings, curve, seconds)

        model = clone(model)
        try:
            if trained:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    model.set_params(callbacks=(after,)).fit(x, validation_data=valid, checkpoint=run, resume=True)
                if any("interrupted" in str(each.message) for each in told):  # fit keeps what it has, and goes on
                    raise KeyboardInterrupt
            else:
                model.fit(x, checkpoint=run, resume=True)
                curve.append(-model.score(valid))
        finally:
            seconds = keep()
        if trained:
            model.set_params(callbacks=())
        model.save(done)
        run.unlink(missing_ok=True)
        return Fit(model, settings, min(curve), seconds, curve)

    def best(self, data, models, x, valid):
        """(the Fit of least nats of valid, [(settings, these nats)], seconds of all)."""
        fits = [self.fit(data, model, x, valid) for model in models]
        looked = [(fit.settings, fit.nats) for fit in fits]
        return min(fits, key=lambda fit: fit.nats), looked, sum(fit.seconds for fit in fits)


def write(path, text):
    """Write a file in one piece: whatever stops the run leaves the old one or the new one."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def mean(values):
    """(mean, its standard error) of values, one for each row."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def nll(data, load, *models):
    """A Row's run: the nats of a test row under the best of these models by the rows that training stops by."""
    def run(work):
        x, valid, test = load()
        fit, looked, seconds = work.best(data, models, x, valid)
        return Result(*mean(-fit.model.log_prob(test)), fit.settings, looked, seconds, curve=fit.curve)
    return run


def judged(result, bar):
    return "" if result is None else {None: "", True: "yes", False: "**no**"}[result.met(bar)]


def line(row, result):
    """A row's line of the table."""
    bar = "" if row.bar is None else f"{row.bar[0]} {row.bar[1]:.10g}"
    seconds = "" if result is None else f"{result.seconds:,.0f}"
    if result is None:
        figure = "not run yet"
    elif result.figure is None:
        figure = f"not done: {len(result.curve)} epochs, {min(result.curve, default=math.nan):.6g} of the rows stopped by"
    else:
        digits = 10 if result.error is None and abs(result.figure) > 100 else 6
        figure = f"{result.figure:.{digits}g}" + ("" if result.error is None else f" ± {result.error:.2g}")
    return f"| {row.model} | {row.data} | {bar} | {row.published} | {figure} | {judged(result, row.bar)} | {seconds} |"


def short(row, result):
    """Whether the row has no figure, or one that misses its bar."""
    return result.figure is None or result.met(row.bar) is False


def details(rows, result):
    """What stands behind the lines of rows that have the same model, or the same fits, in common."""
    yield ""
    yield f"**{'; '.join(dict.fromkeys(row.model for row in rows))}: {', '.join(dict.fromkeys(row.data for row in rows))}**"
    yield ""
    if result.settings:
        yield f"`{result.settings}`"
        yield ""
    if result.note:
        yield result.note
        yield ""
    if len(result.looked) == 1:
        yield f"- of the rows stopped by: {result.looked[0][1]:.6g}"
    else:
        for settings, nats in result.looked:
            yield f"- `{settings}`: {nats:.6g}"


def shortfall(row, result):
    """Why the row is short of its bar, and the curve of its fit."""
    if row.why:
        yield f"- why {row.data} is short of the bar: {row.why}"
    if result.curve:
        shown = [*result.curve[:-1:max(1, len(result.curve) // 12)], result.curve[-1]]
        yield (f"- {row.data}, of the rows stopped by, from epoch to epoch of {len(result.curve)}: "
               + ", ".join(f"{nats:.5g}" for nats in shown))


def report(rows, results):
    """The Markdown text."""
    known = [(row, results[row.key]) for row in rows if row.key in results]
    barred = [result.met(row.bar) for row, result in known if row.bar]
    yield "# Published numbers beside npgen's"
    yield ""
    yield "What others printed of a model on data that anyone can have, and what npgen's comes to on the same rows. Written by"
    yield "`python -m benchmarks.published`, which fits each model below and goes on where it was stopped."
    yield ""
    yield "- Figures are nats of a test row unless the row says otherwise; lower is better, but where the bar is `>=`."
    yield "- The bar is what npgen set out to reach; beside it stands what was published, if anything was."
    yield "- ± is one standard error, of the rows of the test or of the folds."
    yield "- Settings were chosen by the rows that training stops by; those of the test were scored once, by the chosen model."
    yield "- Settings that missed a bar in an earlier table were replaced, by the rows stopped by or by others that are in no"
    yield "  table, and scored again: of the autoencoder (4.27, 3.69 and 3.299, of fewer epochs), Asia (2.24285, chosen by a"
    yield "  tenth of its rows), MAF of checkerboard (0.105); flow matching and diffusion of"
    yield "  eight-gaussians, rings and checkerboard (0.539, 0.177; 0.463, 0.152, the last two of each, before a first layer of"
    yield "  sines; rings 0.0787 and 0.0631, and eight-gaussians of flow matching 0.0274, before a batch's targets); RealNVP"
    yield "  and MAF of"
    yield "  eight-gaussians and rings (0.0864, 0.298; 0.164, 0.331, over N(0, I), not over a MADE)."
    yield "- Seconds are those of all fits that were looked at, on a thread or two of a shared machine."
    yield ""
    done = sum(result.figure is not None for _, result in known)
    yield f"{done} of {len(rows)} rows are done, {len(known) - done} begun; {barred.count(True)} of {len(barred)} bars are met."
    yield ""
    yield f"{machine()}; npgen {npgen.__version__}"
    yield ""
    yield "| model | data | bar | published | npgen | met | seconds |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        yield line(row, results.get(row.key))
    yield ""
    yield "## Settings, what else was looked at, and what is short of its bar"
    for _, same in itertools.groupby(known, lambda each: (each[1].settings, each[1].note, each[1].looked)):
        same = list(same)
        yield from details([row for row, _ in same], same[0][1])
        for row, result in same:
            if short(row, result):
                yield from shortfall(row, result)


def main(argv=None):
    """Run the rows that are not done, write the table after each."""
    from .published_rows import ROWS  # a row's data are read when it runs
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="TEXT", default="", help="the rows whose model or data have this in them")
    parser.add_argument("--resume", action="store_true", help="go on with fits that have had their hours")
    parser.add_argument("--hours", type=float, default=1.0, metavar="H", help="that one fit may take (1)")
    parser.add_argument("--work", metavar="FOLDER", default=str(HERE.parent / "build" / "published"),
                        help="where fits are kept (build/published)")
    parser.add_argument("--out", metavar="FILE", default=str(HERE / "PUBLISHED.md"))
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    args = parser.parse_args(argv)
    chosen = [row for row in ROWS if args.only.lower() in row.key.lower()]
    if args.list or not chosen:
        print("\n".join(row.key for row in chosen or ROWS))
        return bool(chosen)
    out = Path(args.out)
    return run(ROWS, chosen, Work(args.work, args.hours, args.resume, out.parent / "published"), out)


def run(rows, chosen, work, out):
    """Run the chosen rows, keep what they came to, write the table of all; True if every bar of the chosen ones is met."""
    kept = work.folder / "results.json"
    results = {key: Result(**result) for key, result in json.loads(kept.read_text()).items()} if kept.exists() else {}

    def tell():
        write(out, "\n".join(report(rows, results)) + "\n")

    tell()  # what is known, as the rows are described now
    for row in chosen:
        if row.key in results and results[row.key].figure is not None:
            continue
        print(f"{row.key} ...", file=sys.stderr, flush=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of epochs that end, and of columns that repeat a value
                results[row.key] = row.run(work)
        except OutOfTime as stop:
            settings, curve, seconds = stop.args
            results[row.key] = Result(None, settings=settings, curve=list(curve), seconds=seconds)
        write(kept, json.dumps({key: dataclasses.asdict(result) for key, result in results.items()}))
        tell()
        print(f"{row.key}: {results[row.key].figure} {judged(results[row.key], row.bar)}", flush=True)
    return all(results[row.key].met(row.bar) is not False for row in chosen)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(not main())
