"""Charts as SVG and small pictures as PNG, of bins and means alone, inside the page.

Legend: k bins or points.
"""
import base64
import struct
import zlib

import numpy as np

from .markup import Markup, join, number, short, tag

SERIES = ("real", "model", "held")  # classes of the page's style, in the order of series


def png(pixels):
    """An (h, w, 3) array of bytes as a PNG file. Source: PNG specification, third edition (W3C, 2025)."""
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.astype(np.uint8).reshape(height, -1)], axis=1)

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
            + chunk(b"IEND", b""))


def picture(pixels, words, **attributes):
    """An <img> of (h, w, 3) bytes; words: what it shows, for who does not see it."""
    return tag("img", src="data:image/png;base64," + base64.b64encode(png(pixels)).decode(), alt=words, **attributes)


LOW, HIGH = np.array([[250, 250, 250], [8, 48, 107]])


def heat(values, words, most=None, **attributes):
    """A picture of values (h, w) from 0, light, to `most`, dark; the first row at the bottom, NaN grey."""
    most = most or np.nanmax(values, initial=0) or 1
    part = np.clip(np.nan_to_num(values) / most, 0, 1)[::-1, :, None]
    pixels = np.where(np.isnan(values)[::-1, :, None], 200, LOW + part * (HIGH - LOW))
    return picture(np.rint(pixels), words, class_="heat square", **attributes)


def curves(series, across, up):
    """Lines over x: series {name: (x (k,), y (k,))}, of which points that are not finite are left out."""
    series = {name: _thinned(*map(np.asarray, line)) for name, line in series.items()}
    x, y = (np.concatenate([line[i] for line in series.values()]) for i in (0, 1))
    (left, right), (low, high) = _range(x), _range(y, 0.02)

    def place(line):
        px, py = 60 + 560 * (line[0] - left) / (right - left), 210 - 200 * (line[1] - low) / (high - low)
        return Markup("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(px, py, strict=True)))
    parts = [tag("path", d=place(line), class_=f"line {kind}") for line, kind in zip(series.values(), SERIES, strict=False)
             if len(line[0])]
    parts += [tag("text", number(value, ".5g"), x=54, y=at, text_anchor="end") for value, at in ((low, 210), (high, 18))]
    parts += [tag("text", number(value, ".5g"), x=at, y=228, text_anchor=anchor) for value, at, anchor in
              ((left, 60, "start"), (right, 620, "end"))]
    parts += [tag("text", across, x=340, y=228, text_anchor="middle"), tag("path", d="M60 10V210H620", class_="axis")]
    return tag("figure", legend(series), tag("svg", *parts, viewBox="0 0 640 236", class_="curves", role="img",
                                             aria_label=f"{up} over {across}"), tag("figcaption", up))


def bars(labels, shares, wide=False, alone=0):
    """Bars side by side, one for each bin: shares {name: (k,)}, the first filled, the others lines; labels (k,).

    alone: how many of them come before the axis, as each is of one value.
    """
    k, top, end = len(labels), max(max(map(np.max, shares.values())), 1e-12), 750 if wide else 290
    width, names, values = (end - 10) / k, list(shares), list(shares.values())
    filled = "".join(f"V{110 - 100 * v / top:.1f}h{width:.2f}" for v in values[0])
    parts = [tag("path", d=f"M10 110{filled}V110", class_=f"bar {SERIES[0]}")]
    for kind, heights in zip(SERIES[1:], values[1:], strict=False):
        line = "".join(f"{'M' if i == 0 else 'L'}{10 + i * width:.1f} {110 - 100 * v / top:.1f}h{width:.1f}"
                       for i, v in enumerate(heights))
        parts.append(tag("path", d=line, class_=f"line {kind}"))
    parts += [tag("rect", _title(label, shares, i), x=f"{10 + i * width:.1f}", y=8, width=f"{width:.1f}", height=104,
                  class_="over") for i, label in enumerate(labels)]
    start, half = 10 + alone * width, alone + (k - alone) // 2
    parts.append(tag("path", d=f"M{start:.1f} 110H{end}", class_="axis"))
    low, high = [label.partition(" to ")[0] for label in labels], labels[-1].rpartition(" to ")[2]
    first = labels[alone] if low[alone] == "up" else low[alone]
    marks = [(first, start, "start"), (high, end, "end")] if k > alone + 1 else []
    marks += [(low[half], 10 + (half + 0.5) * width, "middle")] if k != alone + 2 else []
    parts += [tag("text", short(label, 16), x=f"{x:.1f}", y=124, text_anchor=anchor) for label, x, anchor in marks]
    return tag("svg", *parts, viewBox=f"0 0 {end + 10} 130", role="img", aria_label=f"{' and '.join(names)} by bin")


def levels(labels, shares):
    """Lines of bars, one for each level: shares {name: (k,)}."""
    top = max(max(map(np.max, shares.values())), 1e-12)
    parts = []
    for i, label in enumerate(labels):
        y = 4 + 20 * i
        parts.append(tag("text", short(label, 18), x=112, y=y + 11, text_anchor="end"))
        for slot, (kind, each) in enumerate(zip(SERIES, shares.values(), strict=False)):
            parts.append(tag("rect", x=118, y=y + 8 * slot, width=f"{130 * each[i] / top:.1f}", height=7, class_=f"bar {kind}"))
        parts.append(tag("text", number(next(iter(shares.values()))[i], ".1%"), x=296, y=y + 11, text_anchor="end"))
        parts.append(tag("rect", _title(label, shares, i), x=0, y=y, width=300, height=18, class_="over"))
    return tag("svg", *parts, viewBox=f"0 0 300 {20 * len(labels) + 8}", role="img",
               aria_label=f"{' and '.join(shares)} by level")


def _title(label, shares, i):
    """What is shown when one points at bin i."""
    return tag("title", f"{short(label)}: " + ", ".join(f"{name} {number(each[i], '.1%')}" for name, each in shares.items()))


def legend(names):
    """What the colours of series mean."""
    return tag("p", *(join(tag("span", class_=f"key {kind}"), " ", name, "  ") for kind, name in zip(SERIES, names,
                                                                                                   strict=False)),
               class_="legend")


def _thinned(x, y, most=300):
    """The points of a line that are finite, every so many of them where there are more."""
    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), most)).astype(int)) if len(x) else []
    return x[kept], y[kept]


def _range(values, margin=0.0):
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    apart = (high - low) * margin or (0.5 if low == high else 0)
    return low - apart, high + apart
