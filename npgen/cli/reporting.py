"""npgen report: a page about a model beside rows."""
import os

from .. import data
from . import contexts, tables
from .parser import DATA, add_command, add_context, add_data, add_device, add_file, dialect
from .sources import check_output, model_in, named, names_of, rows_of
from .words import print_table, size


def report(args):
    """npgen report FILE --data DATA --out OUT"""
    check_output(args.out, (".html", ".htm"), (args.file, args.data, args.holdout))
    from .. import reports
    model = model_in(args.file, args.device)
    x, context = _rows(model, args, args.data)
    holdout = None if args.holdout is None else _rows(model, args, args.holdout)[0]
    try:
        made = reports.report(model, x, context=context, holdout=holdout, n_rows=args.rows, seed=args.seed)
    except ValueError as error:
        path = args.holdout if str(error).startswith("report: holdout") else args.data
        raise ValueError(f"{path}: {tables.with_way_out(error, model, x, holdout)}") from None
    made.save(args.out)
    rows, facts = [], made.facts
    if "log_prob" in facts:
        rows.append(("log p(x)", "{log_prob:.4f} ± {log_prob_error:.4f} nats per row, mean ± standard error".format(**facts)))
    if "samples" in facts:
        rows.append(("samples", "agreement of columns {shapes:.3f}, of pairs {pairs:.3f}; AUC of a classifier {auc:.3f}; "
                     "copies {copies:.2%}".format(**facts["samples"])))
    print_table([*rows, ("page", f"{args.out}, {size(os.path.getsize(args.out))}")])


def _rows(model, args, source):
    """The rows of a source, as the model was fitted on them, and their context, None without one."""
    if model.schema_ is not None and model.context_ is None:
        rows = tables.rows_for(model.schema_, source, dialect(args), args.file)
        return rows.filter(tables.known_in(model, rows, args.file, source).all(axis=1)) if args.unseen else rows, None
    found = data.Source(source, missing=model.takes_missing, dialect=dialect(args))
    context, without = contexts.of(model, found, args.file, args.context)
    return named(model, rows_of(found, names_of(model), model.n_features_in_, args.file, without=without)), context


def add_report(commands):
    """npgen report"""
    sub = add_command(commands, report, "write a page about a model beside rows: what was fitted, columns, pairs, odd rows",
                      notes=f"""\
OUT is one .html file, which a browser shows without a network; it is read without JavaScript, and
sorts and filters with it. Of more than 20,000 rows as many are looked at, drawn by --seed.

{DATA}""", examples=["npgen report people.npgen --data people.csv --out report.html",
                     "npgen report digits.npgen --data digits --out digits.html"])
    add_file(sub)
    add_data(sub)
    tables.add_unseen(sub)
    sub.add_argument("--holdout", metavar="DATA", help="rows that the model has not seen, to compare samples with (default: "
                     "half of DATA)")
    add_context(sub)
    sub.add_argument("--rows", type=int, default=10, metavar="N", help="how many of the rows with the lowest density are shown "
                     "(default: 10)")
    sub.add_argument("--seed", type=int, default=0, metavar="S", help="of the rows drawn: the same seed gives the same page "
                     "(default: 0)")
    sub.add_argument("--out", required=True, metavar="OUT", help="where to write the page")
    add_device(sub)
