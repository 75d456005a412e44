# SPDX-License-Identifier: GPL-2.0-or-later
"""What a bench hands back: one JSON object, the last line it prints.

    {"about": sentence, "settings": {...},
     "pairs":  [{"name", "unit", "better": "less" | "more", "rival",
                 "ours": [repetitions], "theirs": [repetitions],
                 "target": "<= 4" | null}],
     "values": [{"name", "unit", "reps": [...], "target"}],
     "curves": [{"title", "x", "y", "log_x", "lines":
                 [{"name", "points": [[x, y], ...]}]}],
     "missing": ["zswap: not in this kernel"]}

A bench fills a Result and ends with `return main(about, run)`. finish() adds
what follows from the figures, so that no bench judges itself:

  pair:  ratios[i] = ours[i] / theirs[i]; median, low, high of the ratios;
         verdict: with a target "met" or "missed", of the median; without
         one "ahead", "behind" or "even" (the spread holds 1)
  value: median, low, high of reps; verdict "met", "missed" or ""

Repetition i of ours ran next to repetition i of theirs (A B A B, see
interleave), so what a shared machine did meanwhile is in both halves of a
ratio; that is why ratios are formed first and their median is taken after.
"""
import argparse
import json
import math
import os
import signal
import statistics
import sys
import time

from .life import Interrupted

SKIP = 77
BUILD = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))), "build")


class Skip(Exception):
    """This machine cannot run the bench, for the reason given."""


class Result:
    def __init__(self, about, **settings):
        self.about = about
        self.settings = settings
        self.pairs = []
        self.values = []
        self.curves = []
        self.missing = []

    def pair(self, name, unit, better, rival, ours, theirs, target=None):
        """Repetitions of ours and of the rival's, in the order they ran."""
        if better not in ("less", "more"):
            raise ValueError(f"{name}: better is less or more")
        target_parse(target)
        self.pairs.append({"name": name, "unit": unit, "better": better,
                           "rival": rival, "ours": list(ours),
                           "theirs": list(theirs), "target": target})

    def value(self, name, unit, reps, target=None):
        """A figure without a rival."""
        target_parse(target)
        self.values.append({"name": name, "unit": unit, "reps": list(reps),
                            "target": target})

    def curve(self, title, x, y, lines, log_x=False):
        """lines: {name: [(x, y), ...]}."""
        self.curves.append({"title": title, "x": x, "y": y, "log_x": log_x,
                            "lines": [{"name": name,
                                       "points": [list(p) for p in points]}
                                      for name, points in lines.items()]})

    def lacks(self, text):
        """What this machine or kernel has not, or the bench could not do."""
        if text not in self.missing:
            self.missing.append(text)

    def as_object(self):
        return {"about": self.about, "settings": self.settings,
                "pairs": self.pairs, "values": self.values,
                "curves": self.curves, "missing": self.missing}


def target_parse(target):
    """("<=" or ">=", number), or None for no target."""
    if target is None:
        return None
    sign, _, number = target.partition(" ")
    if sign not in ("<=", ">="):
        raise ValueError(f"target {target!r} is neither '<= n' nor '>= n'")
    return sign, float(number)


def target_is_met(target, figure):
    sign, number = target_parse(target)
    return figure <= number if sign == "<=" else figure >= number


def spread(figures):
    """median, low and high; None for none."""
    good = [f for f in figures if f is not None and math.isfinite(f)]
    if not good:
        return {"median": None, "low": None, "high": None}
    return {"median": statistics.median(good), "low": min(good),
            "high": max(good)}


def pair_finish(pair):
    ratios = [o / t if t and o is not None else None
              for o, t in zip(pair["ours"], pair["theirs"])]
    done = dict(pair, ratios=ratios, **spread(ratios),
                ours_median=spread(pair["ours"])["median"],
                theirs_median=spread(pair["theirs"])["median"])
    if done["median"] is None:
        done["verdict"] = "no figures"
    elif pair["target"] is not None:
        done["verdict"] = "met" if target_is_met(pair["target"],
                                                 done["median"]) else "missed"
    elif done["low"] <= 1 <= done["high"]:
        done["verdict"] = "even"
    else:
        done["verdict"] = "ahead" if (done["median"] > 1) == \
            (pair["better"] == "more") else "behind"
    return done


def value_finish(value):
    done = dict(value, **spread(value["reps"]), verdict="")
    if done["median"] is None:
        done["verdict"] = "no figures"
    elif value["target"] is not None:
        done["verdict"] = "met" if target_is_met(
            value["target"], done["median"]) else "missed"
    return done


def finish(result):
    """The object with everything that follows from its figures."""
    return dict(result,
                pairs=[pair_finish(p) for p in result.get("pairs", [])],
                values=[value_finish(v) for v in result.get("values", [])])


def interleave(repetitions, *sides):
    """Calls each side in turn, A B A B; a list of what each returned."""
    got = [[] for _ in sides]
    for _ in range(repetitions):
        for results, side in zip(got, sides):
            results.append(side())
    return got


def say(text):
    """Progress: on stderr, since stdout's last line is the result."""
    print(text, file=sys.stderr, flush=True)


def machine():
    """What a reader must know of where the figures come from."""
    info = {"cpu": "unknown", "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE")
            * os.sysconf("SC_PHYS_PAGES"),
            "kernel": os.uname().release, "arch": os.uname().machine,
            "virtual": False}
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            word, _, rest = line.partition(":")
            if word.strip() == "model name":
                info["cpu"] = rest.strip()
            elif word.strip() == "flags":
                info["virtual"] = "hypervisor" in rest.split()
                break
    return info


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def arguments(about):
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true",
                        help="the result object as the last line")
    parser.add_argument("--full", action="store_true",
                        help="the long version (FULL=1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build", default=BUILD)
    return parser


def table(result):
    """Lines of text for the terminal, of a finished result."""
    lines = []
    for pair in result["pairs"]:
        lines.append(_line(pair["name"], f"{_number(pair['median'])}x "
                           f"{pair['rival']}", pair))
    for value in result["values"]:
        lines.append(_line(value["name"], f"{_number(value['median'])} "
                           f"{value['unit']}", value))
    lines += [f"  not measured: {text}" for text in result["missing"]]
    return lines


def _line(name, figure, row):
    inside = f"{_number(row['low'])} .. {_number(row['high'])}"
    target = row["target"] or ""
    verdict = row["verdict"]
    return (f"  {name[:43]:<43} {figure[:26]:<26} {inside:<18} "
            f"{target:<8} {verdict.upper() if verdict == 'missed' else verdict}"
            ).rstrip()


def _number(figure):
    if figure is None:
        return "-"
    if figure and abs(figure) < 0.01:
        return f"{figure:.2g}"
    if abs(figure) >= 1000:
        return f"{figure:,.0f}"
    if 0.9 < abs(figure) < 1.1:
        return f"{figure:.4g}"  # where targets are close
    return f"{figure:.3g}" if abs(figure) < 100 else f"{figure:.0f}"


def main(about, run, parser=None):
    """run(args) returns a Result. The exit code: 0, 77 skipped, 130, 1."""
    args = (parser or arguments(about)).parse_args()
    # An exception, so that every `with` on the way undoes what it did.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        result = run(args)
    except Skip as why:
        print(f"skipped: {why}")
        return SKIP
    except Interrupted as number:
        say(f"stopped by {number}")
        return 130
    done = finish(result.as_object())
    if args.json:
        print(json.dumps(result.as_object()))
    else:
        print("\n".join(table(done)))
    return 0


def _interrupted(number, _frame):
    raise Interrupted(signal.Signals(number).name)
