"""check_generative_model: run the laws, and say in one line each what they found."""
import dataclasses
import inspect
import textwrap
import warnings

from .. import data
from .bounds import ALARM
from .given import givens
from .law import Finding
from .laws import LAWS
from .subject import Skip, Subject


@dataclasses.dataclass
class Report:
    """What the laws found; print it. `passed` is True if none is broken, `broken` lists the names of those that are."""

    title: str
    findings: list

    @property
    def passed(self):
        return all(finding.passed for finding in self.findings)

    @property
    def broken(self):
        return [finding.law for finding in self.findings if not finding.passed]

    def __getitem__(self, law):
        return {finding.law: finding for finding in self.findings}[law]

    def __str__(self):
        lines = [self.title, "", f"      {'law':44} {'measured':>9} {'allowed':>9}   would catch"]
        skipped = {}
        for f in self.findings:
            if f.skipped:
                skipped.setdefault(f.skipped, []).append(f.law)
                continue
            words = f.catches if f.passed else f.note or f.catches
            row = f"{'ok' if f.passed else 'FAIL':5} {f.law:44} {_number(f.measured):>9} {_number(f.tolerance):>9}   {words}"
            lines.append(row.rstrip())
        lines += [""] * bool(skipped)
        for reason, names in skipped.items():
            lines += textwrap.wrap(f"not checked, {reason}: {', '.join(names)}", 110, subsequent_indent="   ")
        for name in self.broken:
            lines += ["", f"FAIL  {name}", textwrap.indent(inspect.getdoc(LAWS[name]).replace("\n\n", "\n"), "      ")]
        held, broken = sum(not f.skipped and f.passed for f in self.findings), len(self.broken)
        lines += ["", f"{held} {'law holds' if held == 1 else 'laws hold'}, {broken} {'is' if broken == 1 else 'are'} broken."
                      f" Chance alone breaks a given law in one of {1 / ALARM:,.0f} seeds at most."]
        return "\n".join(lines)


def check_generative_model(model, X=None, *, context=None, seed=0, n_samples=None, laws=None):
    """Check the mathematics of a fitted generative model; returns a Report: print it, or ask for `report.passed`.

    model       fitted; anything with log_prob(X) -> (n,) and sample(n) -> (n, d). `rng=` of sample makes the check repeatable.
                What a model of npgen promises besides (see its capabilities) is checked too. Of one whose capabilities.density
                is "none", the laws of densities are not, and the report says so
    X           rows (n, d) like those that it was fitted on; by default rows drawn from the model
    context     of a model fitted with one: rows of it, of which three that differ, at most, are given in turn; a law's worst
                finding is reported. Laws that look inside a model are of those without a context
    seed        of the checker's choices and of the rows that it draws
    n_samples   rows that the statistical laws look at, at least 100; by default 20,000
    laws        names of the laws to run; by default all of npgen.testing.laws.LAWS

    A model on a GPU answers there; what a law compares that with is computed on the host, by a copy, where it looks inside.

    A row that cannot be has log_prob -inf, or raises ValueError. Columns whose samples are whole numbers are taken for counts
    or levels, and summed over; all others for real numbers, and integrated over. What encode and decode of a VAE mean is not
    checked.

    A law about random rows allows for chance: one that holds is reported as broken at most once in a million seeds, and the
    report says the smallest error that it is sure to find. Raises ValueError or TypeError for arguments that it cannot work
    with, and what the model raises when it is asked for log_prob(X[:2]).
    """
    if isinstance(laws, str):
        raise TypeError(f"check_generative_model: laws must be a list of names, got {laws!r}; pass [{laws!r}]")
    unknown = set(laws or ()) - set(LAWS)
    if unknown:
        raise ValueError(f"laws: there is no law {sorted(unknown)[0]!r}; choose from {', '.join(LAWS)}")
    chosen = {name: law for name, law in LAWS.items() if laws is None or name in laws}
    if getattr(model, "schema_", None) is not None:  # the laws are of numbers
        X = X if data.frames.library_of(X) is None else data.Table(model.schema_.encode(X), model.schema_.names)
        model = model.without_schema()
    models = [model] if context is None else givens(model, context)
    subjects = [Subject(each, X if context is None else each.of(X), seed, n_samples) for each in models]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have valid feature names")  # of what is drawn
        for subject in subjects:
            subject.answers(subject.x[:2])
        findings = [dataclasses.replace(_worst([_run(law, subject) for subject in subjects], models), law=name)
                    for name, law in chosen.items()]
    subject, given = subjects[0], "" if context is None else f" given {'; '.join(each.shown for each in models)}"
    what = f"density {subject.density}, samples {subject.support}, {subject.d} column{'s' if subject.d > 1 else ''}"
    return Report(f"{model!r:.100}{given}: {what}; seed {seed}", findings)


def _worst(findings, models):
    """The finding that is worst; of several contexts it says by which."""
    findings, models = zip(*[each for each in zip(findings, models, strict=True) if not each[0].skipped] or
                           [(findings[0], models[0])], strict=True)
    i = min(range(len(findings)), key=lambda k: (findings[k].passed, -findings[k].measured / (findings[k].tolerance or 1)))
    if len(models) == 1 or findings[i].passed:
        return findings[i]
    return dataclasses.replace(findings[i], note=f"given {models[i].shown}: {findings[i].note or findings[i].catches}")


def _run(law, subject):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            if law.of == "density" and subject.density == "none":
                raise Skip("the model has no density")
            return law(subject)
        except (Skip, NotImplementedError) as reason:
            return Finding(0, 0, skipped=str(reason))
        except Exception as error:  # a law that the model cannot even be asked about is broken
            return Finding(float("nan"), 0, note=f"{type(error).__name__}: {error}".partition("\n")[0])


def _number(value):
    return f"{value:.0f}" if value == int(value if abs(value) < 1e9 else 0) else f"{value:.2g}"
