# SPDX-License-Identifier: GPL-2.0-or-later
"""Two plots as inline SVG: curves, and ratios on one logarithmic axis.

No library and no script: the report must open on any machine and in ten years.
Lines differ in dashes as well as in colour.
"""
import html
import math

COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8e5ea2", "#c77d0a", "#555555")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4")
WIDTH = 760
GRID = "#dddddd"


def escape(text):
    return html.escape(str(text))


def number(figure):
    """Three digits, with k, M, G from thousands on."""
    if figure is None or not math.isfinite(figure):
        return "-"
    size = abs(figure)
    for scale, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= scale * 0.99995:
            return f"{figure / scale:.3g}" + sign
    if 0.9 < size < 1.1:
        return f"{figure:.4g}"  # where targets are close
    return f"{figure:.3g}"


class Axis:
    """Maps figures to pixels; ticks at round figures."""

    def __init__(self, figures, first, last, log=False, zero=False):
        low, high = min(figures), max(figures)
        if zero and not log and low < high / 2:
            low = min(low, 0)  # else zero would only flatten what differs
        self.log = log
        if log:
            low, high = math.log10(low), math.log10(high)
        if high - low < 1e-9 * max(1, abs(high)):
            low, high = low - 0.5, high + 0.5
        self.low, self.high = low, high
        self.first, self.last = first, last

    def at(self, figure):
        value = math.log10(figure) if self.log else figure
        part = (value - self.low) / (self.high - self.low)
        return round(self.first + part * (self.last - self.first), 1)

    def ticks(self):
        if self.log:
            return self._ticks_log()
        step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
        for factor in (1, 2, 5, 10):
            if (self.high - self.low) / (step * factor) <= 6:
                step *= factor
                break
        count = math.ceil(self.low / step - 1e-9)
        out = []
        while count * step <= self.high + 1e-9 * step:
            out.append(count * step)
            count += 1
        return out

    def _ticks_log(self):
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10),
                      [x / 10 for x in range(10, 100)]):
            out = [s * 10 ** d for d in decades for s in steps
                   if self.low - 1e-9 <= math.log10(s * 10 ** d)
                   <= self.high + 1e-9]
            if len(out) >= 3:
                break
        return out[::math.ceil(len(out) / 12)]


def _text(x, y, text, anchor="start", extra=""):
    return (f'<text x="{x}" y="{y}" text-anchor="{anchor}"{extra}>'
            f'{escape(text)}</text>')


def _line(x1, y1, x2, y2, colour=GRID, width=1, dash=""):
    dash = f' stroke-dasharray="{dash}"' if dash else ""
    return (f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" '
            f'stroke="{colour}" stroke-width="{width}"{dash}/>')


def _svg(height, parts, title):
    return (f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" role="img" aria-label="{escape(title)}">'
            + "".join(parts) + "</svg>")


def curve(one):
    """A "curves" entry of a result; "" when it has no point to show."""
    lines = [(line["name"], [(x, y) for x, y in line["points"]
                             if x is not None and y is not None
                             and (x > 0 or not one["log_x"])])
             for line in one["lines"]]
    lines = [line for line in lines if line[1]]
    if not lines:
        return ""
    bottom = 270
    x_axis = Axis([x for _, points in lines for x, _ in points], 70,
                  WIDTH - 20, log=one["log_x"])
    y_axis = Axis([y for _, points in lines for _, y in points], bottom, 20,
                  zero=True)
    parts = []
    for tick in x_axis.ticks():
        parts += [_line(x_axis.at(tick), 20, x_axis.at(tick), bottom),
                  _text(x_axis.at(tick), bottom + 16, number(tick), "middle")]
    for tick in y_axis.ticks():
        parts += [_line(70, y_axis.at(tick), WIDTH - 20, y_axis.at(tick)),
                  _text(64, y_axis.at(tick) + 4, number(tick), "end")]
    parts += [_text(70, 12, one["y"]),
              _text(WIDTH - 20, bottom + 34, one["x"], "end")]
    y = bottom + 34
    for index, (name, points) in enumerate(lines):
        parts += _curve_line(points, index, x_axis, y_axis)
        y += 18
        parts += _legend(70, y, name, index)
    return _svg(y + 10, parts, one["title"])


def _curve_line(points, index, x_axis, y_axis):
    colour = COLOURS[index % len(COLOURS)]
    at = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
    path = " ".join(f"{x},{y}" for x, y in at)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" '
             'stroke-width="2" stroke-dasharray='
             f'"{DASHES[index % len(DASHES)]}"/>']
    if len(at) <= 40:
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>'
                  for x, y in at]
    return parts


def _legend(x, y, name, index):
    return [_line(x, y - 4, x + 30, y - 4, COLOURS[index % len(COLOURS)], 2,
                  DASHES[index % len(DASHES)]), _text(x + 38, y, name)]


def ratios(pairs):
    """Every repetition a dot, the median a bar, the target a dashed mark."""
    rows = [p for p in pairs if p["median"] and p["median"] > 0]
    if not rows:
        return ""
    figures = [1.0]
    for pair in rows:
        figures += [r for r in pair["ratios"] if r and r > 0]
        if pair["target"]:
            figures.append(float(pair["target"].split()[1]))
    figures = [f for f in figures if f > 0]
    left, top, step = 330, 30, 26
    bottom = top + step * len(rows)
    axis = Axis(figures + [min(figures) / 1.1, max(figures) * 1.1], left,
                WIDTH - 20, log=True)
    parts = []
    for tick in axis.ticks():
        parts += [_line(axis.at(tick), top - 6, axis.at(tick), bottom),
                  _text(axis.at(tick), bottom + 16, number(tick), "middle")]
    parts += [_line(axis.at(1), top - 6, axis.at(1), bottom, "#000000", 1.5),
              _text(axis.at(1), top - 12, "equal", "middle")]
    for index, pair in enumerate(rows):
        parts += _ratio_row(pair, top + step * index + step / 2, axis, left)
    parts.append(_text(WIDTH - 20, bottom + 34,
                       "ours / theirs (logarithmic)", "end"))
    return _svg(bottom + 44, parts, "ratios")


def _ratio_row(pair, y, axis, left):
    good = (pair["median"] > 1) == (pair["better"] == "more")
    colour = COLOURS[2] if good else COLOURS[1]
    name = f"{pair['name']} / {pair['rival']}"
    if len(name) > 52:
        name = name[:51] + "\u2026"
    parts = [_text(left - 8, y + 4, name, "end"),
             _line(axis.at(pair["low"]) if pair["low"] > 0 else left, y,
                   axis.at(pair["high"]), y, colour)]
    parts += [f'<circle cx="{axis.at(r)}" cy="{y}" r="3" fill="{colour}" '
              'fill-opacity="0.5"/>' for r in pair["ratios"] if r and r > 0]
    parts.append(_line(axis.at(pair["median"]), y - 8,
                       axis.at(pair["median"]), y + 8, colour, 3))
    if pair["target"]:
        at = float(pair["target"].split()[1])
        if at > 0:
            parts.append(_line(axis.at(at), y - 11, axis.at(at), y + 11,
                               "#000000", 1.5, "3 2"))
    return parts
