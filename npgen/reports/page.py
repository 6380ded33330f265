"""The page: sections below one another, its style and the few lines of script that it does without."""
import base64
import hashlib

from .markup import Markup, join, number, short, tag

STYLE = """
:root { --ink: #1c2733; --faint: #5d6a76; --rule: #dde3e8; --real: #9db8d2; --model: #d1495b; --held: #2a9d6f }
* { box-sizing: border-box }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff }
header, nav, section, footer { max-width: 1060px; margin: 0 auto; padding: 0 20px }
header { padding-top: 28px }
h1 { font-size: 26px; margin: 0 0 8px }
h2 { font-size: 20px; margin: 36px 0 8px; border-bottom: 1px solid var(--rule) }
h3 { font-size: 14px; margin: 12px 0 4px; overflow-wrap: anywhere }
nav { position: sticky; top: 0; z-index: 1; padding: 8px 20px; background: #fff; border-bottom: 1px solid var(--rule) }
nav a { margin-right: 14px; display: inline-block }
a { color: #1d5f9e; text-decoration: none }
section { scroll-margin-top: 60px }
figure { scroll-margin-top: 80px; margin: 0 }
.note, figcaption, .legend, footer, li { color: var(--faint); font-size: 13px; margin: 4px 0; max-width: 860px }
.lead { font-size: 16px; max-width: 860px }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; margin: 8px 0 }
th, td { text-align: left; padding: 3px 12px 3px 0; border-bottom: 1px solid var(--rule); vertical-align: top }
th, td { unicode-bidi: isolate; max-width: 420px; overflow-wrap: break-word }
th { color: var(--faint); font-weight: 600; white-space: nowrap }
#samples td { white-space: nowrap }
.js .sort th { cursor: pointer }
.number { font-variant-numeric: tabular-nums }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 16px 24px }
.small { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)) }
.tables { grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)) }
.tables .two { gap: 12px }
.tables .two figure { flex: 0 1 200px }
.row { width: 64px }
.two { display: flex; gap: 24px; flex-wrap: wrap }
.two figure { flex: 0 1 400px }
svg { width: 100%; height: auto; display: block }
svg text { font: 10px system-ui, sans-serif; fill: var(--faint); unicode-bidi: isolate }
.curves, .broad svg { max-width: 760px }
.bar.real { fill: var(--real) }
.bar.model { fill: var(--model) }
.line { fill: none; stroke-width: 1.6 }
.line.real { stroke: #4477aa }
.line.model { stroke: var(--model) }
.line.held { stroke: var(--held) }
.axis { fill: none; stroke: #aab4bd; stroke-width: 1 }
.over { fill: transparent }
.over:hover { fill: #0001 }
.key { display: inline-block; width: 14px; height: 10px; background: var(--real) }
.key.model { background: var(--model) }
.key.held { background: var(--held) }
.heat { width: 100%; image-rendering: pixelated; border: 1px solid var(--rule); display: block }
.square { aspect-ratio: 1 }
.script { display: none }
.js .script { display: block }
input { font: inherit; padding: 4px 8px; width: 260px }
summary { cursor: pointer; margin-top: 8px }
[hidden] { display: none }
[data-matrix] { cursor: crosshair }
@media print { nav { position: static } }
"""

SCRIPT = """
document.documentElement.classList.add("js");
const filter = document.getElementById("filter");
if (filter) filter.addEventListener("input", () => {
  for (const figure of document.querySelectorAll("[data-name]"))
    figure.hidden = !figure.dataset.name.includes(filter.value.toLowerCase());
});
const value = cell => parseFloat(cell.textContent.replace(/,/g, "").replace("\\u2212", "-"));
for (const table of document.querySelectorAll(".sort"))
  table.querySelectorAll("th").forEach((head, j) => head.addEventListener("click", () => {
    const rows = [...table.tBodies[0].rows], up = head.dataset.up = head.dataset.up === "1" ? "0" : "1";
    const numbers = rows.every(row => !isNaN(value(row.cells[j])));
    rows.sort((a, b) => (numbers ? value(a.cells[j]) - value(b.cells[j])
      : a.cells[j].textContent.localeCompare(b.cells[j].textContent)) * (up === "1" ? 1 : -1));
    table.tBodies[0].append(...rows);
  }));
const matrices = document.getElementById("matrices"), line = document.getElementById("pair");
if (matrices) {
  const names = JSON.parse(matrices.dataset.names), real = JSON.parse(matrices.dataset.real);
  const model = JSON.parse(matrices.dataset.model), d = names.length;
  const show = event => {
    const box = event.target.getBoundingClientRect(), at = (p, q) => Math.min(d - 1, Math.max(0, Math.floor(p / q * d)));
    const i = at(event.clientY - box.top, box.height), j = at(event.clientX - box.left, box.width);
    line.textContent = i === j ? names[i] : `${names[i]} and ${names[j]}: rows ${(real[i * d + j] / 100).toFixed(2)}, samples `
      + (model[i * d + j] / 100).toFixed(2);
  };
  for (const image of matrices.querySelectorAll("[data-matrix]"))
    for (const name of ["mousemove", "click"]) image.addEventListener(name, show);
}
"""


def page(subject, sections, facts):
    """The whole page as text, which asks for nothing outside of it, and of which no text can be a script."""
    title = f"{type(subject.model).__name__} beside {subject.given:,} rows"
    policy = ("default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action "
              "'none'").format(*(base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (STYLE, SCRIPT)))
    head = join(tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=policy),
                tag("meta", name="viewport", content="width=device-width, initial-scale=1"), tag("title", title),
                tag("style", Markup(STYLE)))
    names = "" if subject.names is None else f": {', '.join(short(name, 24) for name in subject.names[:8])}" + (
        ", …" if len(subject.names) > 8 else "")
    body = join(
        tag("header", tag("h1", title), tag("p", _lead(subject, facts), class_="lead"),
            tag("p", f"{subject.given:,} rows of {len(subject.columns):,} columns{names}. {_looked(subject)}", class_="note")),
        tag("nav", *(tag("a", section.title, href=f"#{section.name}") for section in sections)),
        *(section.html for section in sections),
        tag("footer", tag("p", "Charts show bins and means, never single rows; rows are shown where the density is lowest, and "
                          "images. This page loads nothing and sends nothing.")),
        tag("script", Markup(SCRIPT)))
    return f"<!DOCTYPE html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"


def _lead(subject, facts):
    """The page in three sentences."""
    three = {key: number(value, ".3f") for key, value in facts.items() if isinstance(value, float)}
    said = ["The rows have {log_prob} ± {log_prob_error} nats on average, samples {samples_log_prob}.".format(**three)
            if "log_prob" in facts else
            "The energy distance between rows and samples is {energy_distance}.".format(**three)]
    if "samples" in facts:
        shapes, both, told = ([number(facts[key][what], ".3f") for key in ("samples", "real", "independent")]
                              for what in ("shapes", "pairs", "auc"))
        said.append(f"Columns of samples agree with the rows' to {shapes[0]}, where other rows reach {shapes[1]}; pairs of "
                    f"columns to {both[0]}, where other rows reach {both[1]} and independent columns {both[2]}. A classifier "
                    f"tells samples from rows with an AUC of {told[0]}, other rows with {told[1]}, independent columns with "
                    f"{told[2]}; 0.5 is a coin.")
    return " ".join(said)


def _looked(subject):
    looked = "" if len(subject.x) == subject.given else f"{len(subject.x):,} of them, drawn at random, are looked at. "
    return looked + f"{len(subject.some):,} are compared with {len(subject.drawn):,} that the model draws."
