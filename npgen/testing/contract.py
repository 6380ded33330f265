"""Laws of the contract: shapes, seeds, threads, files, and rows that do not know of one another.

Legend: n rows, d columns, l latent dimensions.
"""
import itertools

import numpy as np

from .bounds import ALARM
from .law import Finding, close, every, law
from .subject import Skip, loaded


@law("shapes and dtypes")
def shapes(s):
    """log_prob gives (n,), sample (n, d), encode (n, l), decode (n, d); float32 rows get float32 answers.

    Look for a Python float that became np.float64, and for a squeezed axis.
    """
    model, checks = s.model, []
    for dtype in (np.float32, np.float64) if s.is_npgen else (np.float64,):
        x = s.x[:5].astype(dtype)
        if "log_prob" in s.queries:
            p, none = np.asarray(model.log_prob(x)), model.log_prob(x[:0]) if s.is_npgen else np.zeros(0, dtype)
            right = p.dtype == dtype if s.is_npgen else p.dtype.kind == "f"
            checks += [(f"log_prob of {dtype.__name__} rows has dtype {p.dtype}", right),
                       (f"log_prob of {x.shape} rows has shape {p.shape}", p.shape == (len(x),)),
                       (f"log_prob of no rows has shape {none.shape}", none.shape == (0,) and none.dtype == dtype)]
        if s.represents:
            z = model.encode(x)
            back = model.decode(z)
            checks += [(f"encode gives {z.dtype} {z.shape}", (z.dtype, z.shape) == (dtype, (len(x), model.n_latent_))),
                       (f"decode gives {back.dtype} {back.shape}", (back.dtype, back.shape) == (dtype, x.shape))]
    for n in (1, 7):
        rows = model.sample(n)
        checks += [(f"sample({n}) has shape {np.shape(rows)}", np.shape(rows) == (n, s.d))]
        if s.is_npgen:
            checks += [(f"sample gives {rows.dtype}, but the model is {model.dtype_}", rows.dtype == model.dtype_)]
    return every(*checks)


@law("log_prob is finite", of="density")
def finite(s):
    """log p(x) is finite for rows drawn from the model; rows far out are improbable, not NaN.

    Look for an exponential that overflows, or for 0 times infinity.
    """
    x = s.drawn[:2000]
    p = np.asarray(s.model.log_prob(x))
    inside = np.isfinite(p)
    checks = [(f"log_prob of drawn row {np.argmin(inside)} is {p[np.argmin(inside)]}", inside.all())]
    if s.support == "real" and s.density == "exact":
        far = s.log_prob(x[:1] + s.scale[1] * 10.0 ** np.array([[3], [6], [9], [12]]))
        checks += [(f"log_prob of rows far out is {far}", not np.isnan(far).any() and (far < p[0]).all())]
    return every(*checks)


@law("log_prob of any number is a number", of="density")
def extremes(s):
    """log_prob of rows that hold the largest, huge and the smallest numbers of either dtype is finite or -inf, and
    responsibilities are probabilities; or the rows are refused.

    Look for inf - inf and 0 times infinity: in squares, in layers that cancel, in a log-determinant.
    """
    if not s.is_npgen:
        raise Skip("not a model of npgen")
    real, turns, first = ~(s.pilot == np.round(s.pilot)).all(axis=0), (-1.0) ** np.arange(s.d), np.arange(s.d) == 0
    checks = []
    for dtype in (np.float32, np.float64):
        info = np.finfo(dtype)
        values = [dtype(value) for value in (info.max, np.sqrt(info.max), info.tiny, info.smallest_subnormal)]
        for value, signs in itertools.product(values, (1, -1, turns, -turns, first)):
            row = np.where(real, signs * value, s.x[0]).astype(dtype)[None]
            with np.errstate(all="ignore"):
                try:
                    p = s.model.log_prob(row)[0]
                    r = s.model.predict_proba(row).sum() if hasattr(s.model, "predict_proba") else 1
                except ValueError:
                    continue
            shown = f"of {dtype.__name__} {', '.join(f'{x:.3g}' for x in row[0, :3])}"
            checks += [(f"log_prob {shown} is {p}", p < np.inf), (f"responsibilities {shown} sum to {r}", abs(r - 1) < 1e-3)]
    return every(*checks)


@law("a row's answer is its own")
def rows_alone(s):
    """log_prob (and encode) of a row does not depend on the rows beside it, nor on their order, up to rounding: a BLAS takes
    the last rows of a product by other instructions than the rest.

    Look for statistics of the batch that are used in a query, for noise that is numbered by place, for a wrong last batch.
    """
    x = s.drawn[:4500 if s.density == "exact" else 300]
    worst = Finding(0.0, 1e-11 if s.is_npgen else 1e-8)
    if not s.queries:
        raise Skip("the model answers no query of rows")
    for query in s.queries:
        ask = getattr(s.model, query)
        whole = ask(x)
        for what, answer in (("split", np.concatenate([ask(x[i:i + 97]) for i in range(0, len(x), 97)])),
                             ("reversed", ask(x[::-1])[::-1]), ("alone", np.concatenate([ask(x[i:i + 1]) for i in range(3)]))):
            found = close(answer, whole[:len(answer)], worst.tolerance, f"{query} of the rows {what}")
            worst = found if not found.measured <= worst.measured else worst
    return worst


@law("a seed decides the rows")
def seeds(s):
    """The same rng gives the same rows, another one others; without rng, two calls differ; fewer rows are the first ones.

    Look for a generator that is made anew in every call, or shared by two draws.
    """
    if not s.takes_rng:
        raise Skip("sample takes no rng")

    def draw(n, rng):
        return np.asarray(s.model.sample(n, rng=rng), np.float64)

    many, few = draw(300, 5), draw(40, 5)
    half = len(s.pilot) // 2
    equal = (s.pilot[:half] == s.pilot[half:2 * half]).all(axis=1).mean()
    dull = (equal + 0.02) ** 300 > ALARM  # two draws of so few different rows may well be the same
    slack = np.sqrt(np.finfo(s.model.dtype_).eps) if s.is_npgen else np.inf  # a product of few rows may round otherwise
    first = np.allclose(few, many[:40], rtol=0, atol=slack * (s.scale[1] + np.abs(s.scale[0])))
    return every(("the same seed gave other rows", np.array_equal(many, draw(300, 5))),
                 ("another seed gave the same rows", dull or not np.array_equal(many, draw(300, 6))),
                 ("two calls without a seed gave the same rows",
                  dull or not np.array_equal(draw(300, None), draw(300, None))),
                 ("40 rows are not the first of 300", first))


@law("any number of threads")
def threads(s):
    """log_prob, encode and sample give the same bits with one thread as with all of them.

    Look for a sum whose partition follows the number of threads.
    """
    if not s.is_npgen:
        raise Skip("not a model of npgen")
    from ..kernels._jit import numba, on_threads
    if numba is None or numba.config.NUMBA_NUM_THREADS < 2:
        raise Skip("there is one thread only")
    x = s.drawn[:4200 if s.density == "exact" else 300].astype(np.float32)
    found = []
    for n in (1, numba.config.NUMBA_NUM_THREADS):
        with on_threads(n):
            found.append([*(getattr(s.model, query)(x) for query in s.queries), s.model.sample(1000, rng=0)])
    return every(*((f"{query} depends on the number of threads", a.tobytes() == b.tobytes())
                   for query, a, b in zip((*s.queries, "sample"), *found, strict=True)))


@law("save, then load")
def files(s):
    """load(save(model)) answers every query with the same bits, and draws on from the same place.

    Look for an array that is not in the file, or is there in another dtype.
    """
    if not s.is_npgen:
        raise Skip("not a model of npgen")
    state = s.model.stream_.state()
    again = loaded(s.model)

    def answers(model):
        found = s.answers(s.x[:20], model)
        return found | ({"decode": model.decode(found["encode"])} if s.represents else {}) | {"sample": model.sample(9, rng=3)}

    mine, its = answers(s.model), answers(again)
    return every(*((f"{query} differs", mine[query].tobytes() == its[query].tobytes()) for query in mine),
                 ("the loaded model's own stream is at another place", again.stream_.state() == state))


@law("score is the mean of log_prob", of="density")
def score(s):
    """score(X) = mean of log_prob(X); score_samples is log_prob.

    Look for a sum, a sign, or a mean over columns as well.
    """
    if not s.is_parametric:
        raise Skip("its score is of labels" if s.is_npgen else "not a model of npgen")
    x = s.x[:100]
    found = close(s.model.score(x), np.mean(s.model.log_prob(x)), 1e-9, "score")
    other = close(s.model.score_samples(x), s.model.log_prob(x), 0.0, "score_samples")
    return found if other.passed else other


@law("score is minus the energy distance")
def distance(s):
    """Of a model without a density: score(X) = -(2 E|x - y| - E|x - x'| - E|y - y'|), y rows drawn with rng=0, in ten batches
    whose answers are averaged; rows of one batch that are the same row are no pair.

    Look for a sign, a factor 2, a pair of a drawn row with itself.
    """
    if not s.is_npgen or s.density != "none":
        raise Skip("the model has a density")
    x, y = s.x[:100], s.sample(2000, 0).reshape(10, 200, s.d)

    def between(a, b):
        return np.sqrt(np.square(a[..., :, None, :] - b[..., None, :, :]).sum(axis=-1)).mean(axis=(-1, -2))

    want = 2 * between(x, y) - between(x, x) - np.array([between(batch, batch) for batch in y]) * 200 / 199
    return close(s.model.score(x), -want.mean(), 1e-9)
