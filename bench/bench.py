#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`make bench`: runs measurements by name, each to build/bench/NAME.json.

A bench is a script bench/NAME_bench.py; called with --json it prints one
result object (lib/result.py) as its last line, or ends with 77 where this
machine cannot run it. The C programs in bench/ are tools of theirs. With no
name all of them run; one that fails does not keep the others from running,
and what it lacks is said in the table, in NAME.json and in report.html, where
an older run's figures must not pass for this run's.

Exit code: 0 all ran (a missed target is a result, not a failure), 1 one
failed, 2 usage, 130 interrupted.
"""
import argparse
import glob
import json
import os
import signal
import subprocess
import sys
import threading
import time

from lib import kernel, report, result
from lib.life import Interrupted, ended, tail

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SUFFIX = "_bench.py"
SECONDS = {False: 1200, True: 3 * 3600}  # quick, full: then it hangs
PATIENCE = 90                           # to undo what it did to the host


def benches():
    found = glob.glob(os.path.join(TOP, "bench", "*" + SUFFIX))
    return {os.path.basename(p)[:-len(SUFFIX)]: p for p in sorted(found)}


def revision():
    """The commit that is measured, + where files differ from it."""
    git = ["git", "-C", TOP]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"],
                              capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"],
                                 capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


class Child:
    """One running bench: a group of its own, its stderr shown and kept."""

    def __init__(self, name, argv, log_path):
        self.child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True)
        self.lines = []
        self.threads = [
            threading.Thread(target=self._show, args=(name, log_path)),
            threading.Thread(target=self._collect)]
        for thread in self.threads:
            thread.start()

    def _show(self, name, log_path):
        start = time.monotonic()
        with open(log_path, "w", encoding="utf-8") as log:
            for line in self.child.stderr:
                log.write(line)
                log.flush()
                second = time.monotonic() - start
                print(f"[{name} {second:4.0f} s] {line.rstrip()}",
                      file=sys.stderr, flush=True)

    def _collect(self):
        self.lines = self.child.stdout.read().strip().split("\n")

    def wait(self, seconds):
        """Its exit code; None when it had to be stopped for its time."""
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.stop()

    def stop(self):
        """It may undo what it did; what is left of its group then dies."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            ended(self.child, PATIENCE)
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()
        for thread in self.threads:
            thread.join()


def object_parse(lines):
    try:
        found = json.loads(lines[-1])
        return result.finish(found) if isinstance(found, dict) else None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def bench_run(name, program, args):
    """Its finished object; with "failure" or "skipped" if it has no figures."""
    log = os.path.join(args.build, "bench", name + ".log")
    argv = [sys.executable, program, "--json", "--seed", str(args.seed),
            "--build", args.build] + ["--full"] * args.full
    base = {"name": name, "machine": result.machine(),
            "kernel": os.uname().release, "date": result.now(),
            "seed": args.seed, "full": args.full, "revision": revision(),
            "load_before": os.getloadavg()[0]}
    start = time.monotonic()
    child = Child(name, argv, log)
    try:
        code = child.wait(SECONDS[args.full])
    finally:
        kernel.recover()
    base["seconds"] = round(time.monotonic() - start, 1)
    if code == result.SKIP:
        return {**base, "skipped": child.lines[-1]}
    found = object_parse(child.lines)
    if code or found is None:
        if code is None:
            why = f"stopped after {SECONDS[args.full]} s"
        else:
            why = f"ended with code {code}" if code else "printed no result"
        return {**base, "failure": f"{why}\n{tail(log)}".strip()}
    return {**base, **found}


def write_json(path, thing):
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(thing, file, indent=1)
        file.write("\n")
    os.rename(path + ".new", path)


def results_read(build):
    found = []
    for path in sorted(glob.glob(os.path.join(build, "bench", "*.json"))):
        try:
            with open(path, encoding="utf-8") as file:
                thing = json.load(file)
        except (OSError, json.JSONDecodeError):
            continue
        if isinstance(thing, dict) and "name" in thing:
            found.append(thing)
    return found


def report_write(build):
    path = os.path.join(build, "bench", "report.html")
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(report.page(results_read(build)))
    os.rename(path + ".new", path)
    return path


def closing(done):
    """The table at the end, of what ran now."""
    lines = [f"{'':<45} {'ratio ours/theirs, or figure':<26} "
             f"{'spread':<18} {'target':<8} verdict"]
    counts = {"met": 0, "missed": 0}
    for one in done:
        lines.append(f"{one['name']} ({one['seconds']:.0f} s)")
        for kind in ("failure", "skipped"):
            if kind in one:
                lines += [f"  {kind}: {text}"
                          for text in one[kind].splitlines()]
        if "pairs" in one:
            lines += result.table(one)
        for row in one.get("pairs", []) + one.get("values", []):
            if row["verdict"] in counts:
                counts[row["verdict"]] += 1
    failed = sum("failure" in one for one in done)
    skipped = sum("skipped" in one for one in done)
    lines.append(f"{len(done) - failed - skipped} benches ran, "
                 f"{failed} failed, {skipped} skipped; "
                 f"{counts['met']} targets met, {counts['missed']} missed")
    return "\n".join(lines)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("name", nargs="*")
    parser.add_argument("--list", action="store_true",
                        help="only say which benches there are")
    parser.add_argument("--report", action="store_true",
                        help="only write the report, of what there is")
    parser.add_argument("--markdown", action="store_true",
                        help="only print the tables of docs/performance.md")
    parser.add_argument("--full", action="store_true",
                        default=os.environ.get("FULL", "") not in ("", "0"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build", default=result.BUILD)
    args = parser.parse_args()
    args.build = os.path.abspath(args.build)
    unknown = [name for name in args.name if name not in benches()]
    if unknown:
        parser.error(f"no bench {unknown[0]}; there are: "
                     + ", ".join(benches()))
    return args


def run_all(args, names):
    done = []
    for name in names:
        print(f"{name}:", file=sys.stderr, flush=True)
        done.append(bench_run(name, benches()[name], args))
        write_json(os.path.join(args.build, "bench", name + ".json"),
                   done[-1])
    return done


def interrupted(number, _frame):
    """Once: what is undone then is not to be interrupted."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


def main():
    args = arguments()
    if args.list:
        print("\n".join(benches()))
        return 0
    if args.markdown:
        print(report.markdown(results_read(args.build)))
        return 0
    os.makedirs(os.path.join(args.build, "bench"), exist_ok=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        done = [] if args.report else run_all(args, args.name or benches())
    except Interrupted as why:
        print(f"bench: stopped by {why}", file=sys.stderr)
        return 130
    if done:
        print(closing(done))
    print(f"\nreport: {report_write(args.build)}")
    return 1 if any("failure" in one for one in done) else 0


if __name__ == "__main__":
    sys.exit(main())
