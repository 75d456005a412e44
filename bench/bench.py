#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bench`: runs measurements by name, each to build/bench/NAME.json.

A bench is a program built from bench/NAME_bench.c, or a script
bench/NAME_bench.py; called with --json it prints one JSON object as its last
line, or ends with 77 where this machine cannot run it. With no name all of
them run; `--list` only says which there are.
"""
import argparse
import glob
import json
import os
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SUFFIX = "_bench"


def benches(build):
    found = {}
    for source in glob.glob(os.path.join(TOP, "bench", f"*{SUFFIX}.[cp]*")):
        stem, kind = os.path.splitext(os.path.basename(source))
        if kind in (".c", ".py"):
            found[stem[:-len(SUFFIX)]] = source if kind == ".py" else \
                os.path.join(build, "bench", stem)
    return dict(sorted(found.items()))


def bench_run(name, program, build):
    """Returns whether it ran and printed its object."""
    start = time.monotonic()
    print(f"{name}:", flush=True)
    ran = subprocess.run([program, "--json"], stdout=subprocess.PIPE, text=True)
    lines = ran.stdout.strip().split("\n")
    sys.stdout.write(ran.stdout)
    if ran.returncode == 77:
        print(f"{name}: skipped")
        return True
    try:
        result = json.loads(lines[-1])
    except json.JSONDecodeError:
        result = None
    if ran.returncode or not isinstance(result, dict):
        print(f"{name}: ended with code {ran.returncode}, "
              f"{'no' if result is None else 'a'} result", file=sys.stderr)
        return False
    result["seconds"] = round(time.monotonic() - start, 1)
    path = os.path.join(build, "bench", name + ".json")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    os.rename(path + ".new", path)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("name", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--build", default=os.path.join(TOP, "build"))
    args = parser.parse_args()
    known = benches(args.build)
    unknown = [name for name in args.name if name not in known]
    if unknown:
        parser.error(f"no bench {unknown[0]}; there are: "
                     + (", ".join(known) or "none yet"))
    if args.list or not known:
        print("\n".join(known) or "no benches yet")
        return 0
    os.makedirs(os.path.join(args.build, "bench"), exist_ok=True)
    good = [bench_run(name, known[name], args.build)
            for name in args.name or known]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
