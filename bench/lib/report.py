# SPDX-License-Identifier: GPL-2.0-or-later
"""build/bench/report.html: every bench's figures on one self-contained page.
And the same tables as Markdown, for docs/performance.md.

For a reader who was not there: first what the page is and how to read it, the
machine, all targets in one table, then each bench with its plot of ratios,
its tables, curves, and what it could not measure. All text comes from result
files and is escaped.
"""
import json

from . import plot
from .plot import escape, number

STYLE = """
body { font: 15px/1.5 sans-serif; color: #222; background: #fff;
       max-width: 960px; margin: 2em auto; padding: 0 1em; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5em; border-top: 1px solid #bbb; padding-top: 1em; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: 3px 9px; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: top; }
td.n { text-align: right; white-space: nowrap;
       font-variant-numeric: tabular-nums; }
.met, .ahead { color: #1d6b3c; font-weight: bold; }
.missed, .behind, .failure { color: #a3182b; font-weight: bold; }
svg { max-width: 100%; height: auto; }
svg text { font: 12px sans-serif; fill: #222; }
pre { background: #f4f4f4; padding: 8px; overflow-x: auto; }
.small { color: #555; font-size: 13px; }
"""

INTRO = """
<p>Tidepool lets a Linux host run more virtual machines than it has memory
for: equal pages are stored once, cold ones compressed. This page puts each of
its mechanisms next to what people use for the same today, measured on one
machine.</p>
<h3>How to read it</h3>
<ul>
<li>A <b>pair</b> is one figure of ours and the same figure of a rival. Both
were taken in turn (ours, theirs, ours, theirs, ...), so that whatever else the
machine did is in both. The verdict is on the <b>ratio</b> ours / theirs of
neighbours in time: the median of the ratios, and their spread (lowest to
highest). A ratio of 2 is good where more is better and bad where less is.</li>
<li><b>met</b>, <b>missed</b>: the median against the target. Without a target:
<b>ahead</b> or <b>behind</b>, or <b>even</b> where the spread includes 1.</li>
<li>In a plot of ratios each repetition is a dot, the thick bar their median,
the dashed mark the target, the black line "equal"; green is on our side of
it. The axis is logarithmic.</li>
<li>Absolute figures hold for this machine only; ratios travel better.</li>
<li>What could not be measured here is listed with each bench and never
counted as met.</li>
</ul>
"""


def _row(cells, head=False):
    out = []
    for cell in cells:
        text, kind = cell if isinstance(cell, tuple) else (cell, "")
        tag = "th" if head else "td"
        css = f' class="{kind}"' if kind else ""
        out.append(f"<{tag}{css}>{text}</{tag}>")
    return "<tr>" + "".join(out) + "</tr>"


def _table(head, rows):
    return ("<table>" + _row(head, head=True)
            + "".join(_row(r) for r in rows) + "</table>") if rows else ""


def _verdict(row):
    return (escape(row["verdict"]), row["verdict"].split(" ")[0])


def _spread(row):
    return (f"{number(row['low'])} .. {number(row['high'])}", "n")


def _pairs(pairs):
    return _table(
        ["what", "unit", "better", "rival", "ours", "theirs", "ratio",
         "spread", "reps", "target", ""],
        [[escape(p["name"]), escape(p["unit"]), p["better"],
          escape(p["rival"]), (number(p["ours_median"]), "n"),
          (number(p["theirs_median"]), "n"), (number(p["median"]), "n"),
          _spread(p), (str(len(p["ratios"])), "n"),
          escape(p["target"] or ""), _verdict(p)] for p in pairs])


def _values(values):
    return _table(
        ["what", "unit", "median", "spread", "reps", "target", ""],
        [[escape(v["name"]), escape(v["unit"]), (number(v["median"]), "n"),
          _spread(v), (str(len(v["reps"])), "n"), escape(v["target"] or ""),
          _verdict(v)] for v in values])


def _settings(one):
    shown = {**one.get("settings", {}), "seed": one.get("seed"),
             "version": "full" if one.get("full") else "quick"}
    return ", ".join(
        f"{escape(k)}: " + escape(v if isinstance(v, str) else json.dumps(v))
        for k, v in shown.items())


def _bench(one):
    parts = [f'<h2 id="{escape(one["name"])}">{escape(one["name"])}</h2>']
    if "about" in one:
        parts.append(f"<p>{escape(one['about'])}</p>")
    parts.append(f'<p class="small">{escape(one.get("date", "?"))}, '
                 f"{number(one.get('seconds'))} s, commit "
                 f"{escape(one.get('revision') or 'unknown')}, load before "
                 f"it {number(one.get('load_before'))}<br>"
                 f"{_settings(one)}</p>")
    for kind in ("failure", "skipped"):
        if kind in one:
            parts.append(f'<p class="failure">{kind}: no figures</p>'
                         f"<pre>{escape(one[kind])}</pre>")
    parts += [plot.ratios(one.get("pairs", [])), _pairs(one.get("pairs", [])),
              _values(one.get("values", []))]
    for curve in one.get("curves", []):
        parts.append(f"<h3>{escape(curve['title'])}</h3>" + plot.curve(curve))
    if one.get("missing"):
        parts.append("<h3>Not measured</h3><ul>" + "".join(
            f"<li>{escape(text)}</li>" for text in one["missing"]) + "</ul>")
    return "\n".join(parts)


def _targets(results):
    rows = []
    for one in results:
        for row in one.get("pairs", []) + one.get("values", []):
            if not row.get("target"):
                continue
            against = f", ours / {row['rival']}" if "rival" in row else ""
            unit = "x" if "rival" in row else " " + row["unit"]
            rows.append([f'<a href="#{escape(one["name"])}">'
                         f'{escape(one["name"])}</a>',
                         escape(row["name"] + against),
                         (number(row["median"]) + escape(unit), "n"),
                         _spread(row), escape(row["target"]), _verdict(row)])
    return _table(["bench", "what", "reached", "spread", "target", ""], rows)


def _machines(results):
    seen = []
    for one in results:
        machine = one.get("machine")
        if machine and machine not in seen:
            seen.append(machine)
    return _table(
        ["processor", "cores", "memory", "kernel", ""],
        [[escape(m.get("cpu")), (str(m.get("cores")), "n"),
          (f"{m.get('memory_bytes', 0) / 2 ** 30:.1f} GiB", "n"),
          escape(m.get("kernel")),
          "a virtual machine" if m.get("virtual") else ""] for m in seen])


def page(results):
    """The whole page, of finished result objects."""
    dates = sorted(one.get("date", "?") for one in results)
    when = f"{dates[0]} to {dates[-1]}" if dates else "nothing ran yet"
    failed = [one["name"] for one in results
              if "failure" in one or "skipped" in one]
    parts = ["<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
             "<title>Tidepool: measurements</title>",
             f"<style>{STYLE}</style></head><body>",
             "<h1>Tidepool: measurements side by side</h1>",
             f'<p class="small">{escape(when)}</p>', INTRO,
             "<h3>The machine</h3>", _machines(results),
             "<h3>Targets</h3>", _targets(results) or "<p>none measured</p>"]
    if failed:
        parts.append('<p class="failure">Without figures: '
                     + escape(", ".join(failed)) + "</p>")
    parts += [_bench(one) for one in results]
    return "\n".join(parts) + "\n</body></html>\n"


def _markdown_row(row, unit):
    name = row["name"].replace("|", "/")
    cells = [name + (f" / {row['rival']}" if "rival" in row else ""),
             number(row.get("ours_median")), number(row.get("theirs_median")),
             f"{number(row['median'])}{unit}",
             f"{number(row['low'])} .. {number(row['high'])}",
             row["target"] or "", row["verdict"]]
    return "| " + " | ".join(cells) + " |"


def _markdown_bench(one):
    lines = [f"### {one['name']}", "",
             f"{one.get('date', '?')}, commit {one.get('revision')}, "
             f"{'full' if one.get('full') else 'quick'} version, "
             f"{number(one.get('seconds'))} s, "
             + ", ".join(f"{k}: {v}" for k, v in
                         one.get("settings", {}).items()), ""]
    for kind in ("failure", "skipped"):
        if kind in one:
            lines += [f"{kind}: {one[kind].splitlines()[0]}", ""]
    rows = [_markdown_row(p, "x") for p in one.get("pairs", [])]
    rows += [_markdown_row(v, " " + v["unit"]) for v in one.get("values", [])]
    if rows:
        lines += ["| what / rival | ours | theirs | reached | spread | target "
                  "| |", "|---|---|---|---|---|---|---|", *rows, ""]
    lines += [f"- not measured: {text}" for text in one.get("missing", [])]
    return lines + [""] * bool(one.get("missing"))


def markdown(results):
    lines = []
    for one in results:
        lines += _markdown_bench(one)
    return "\n".join(lines)
