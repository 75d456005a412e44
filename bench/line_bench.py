#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the line to a guest adds to the store's own calls.

A thread plays the guest; the host's side is real. Put and get of the same
pages, through the ring in batches and by plain calls, in turn. The figure is
the host's CPU time: that of all threads but the guest's. Its copy of each page
into a slot, or out of it, is the guest's own and told apart.

Idle is CPU time of the line's threads after use, over some seconds of nothing.
"""
import json
import os
import subprocess
import sys
import tempfile

from lib import pages
from lib.result import Result, arguments, interleave, main, say

ABOUT = ("Pages through the shared-memory line to a guest against the store's "
         "own calls, in CPU time of the host.")
BATCH = 16
POLL_US = 50  # what agents use unless told
MOST_US = "<= 2"
IDLE_MOST = "<= 10"  # us a second: the clock's own calls, nothing else
PHASES = (("put", "put"), ("again", "put over old"), ("get", "get"))


class Line:
    """Runs of build/bench/line."""

    def __init__(self, build, file):
        self.program = os.path.join(build, "bench", "line")
        self.file = file

    def run(self, *words):
        ran = subprocess.run([self.program, *map(str, words)],
                             stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(ran.stdout)

    def store(self):
        return self.run("store", self.file)

    def ring(self, batch):
        return self.run("ring", self.file, batch, POLL_US)

    def latency(self, poll_us):
        return self.run("latency", self.file, poll_us)


def against_store(line, result, batch, repetitions, target):
    say(f"batches of {batch}")
    ours, theirs = interleave(repetitions, lambda: line.ring(batch),
                              line.store)
    for phase, name in PHASES:
        name = f"{name}, {batch} a batch"
        # Plain calls are made by the thread that is the guest otherwise.
        host = [r[phase + "_host_us"] for r in ours]
        plain = [r[phase + "_guest_us"] for r in theirs]
        result.pair(f"{name}: host CPU", "us/page", "less",
                    "the store call itself", host, plain)
        result.value(f"{name}: host CPU, more", "us/page",
                     [a - b for a, b in zip(host, plain)], target)
        result.value(f"{name}: guest CPU, its looks too", "us/page",
                     [r[phase + "_guest_us"] for r in ours])


def latency(line, result, repetitions):
    say("one get at a time")
    for poll_us, name in ((POLL_US, "host looks on"), (0, "host sleeps")):
        runs = [line.latency(poll_us) for _ in range(repetitions)]
        for part in ("p50", "p99"):
            result.value(f"one get, {name}: {part}", "us",
                         [r[f"{part}_us"] for r in runs])


def idle(line, result, seconds, repetitions):
    say("idle")
    runs = [line.run("idle", seconds, POLL_US) for _ in range(repetitions)]
    result.value("idle line: CPU", "us/s",
                 [r["host_cpu_us_per_s"] for r in runs], IDLE_MOST)
    result.value("idle line: times a thread woke", "count",
                 [r["wakeups"] for r in runs], "<= 0")


def run(args):
    count = 131072 if args.full else 16384
    repetitions = 9 if args.full else 5
    with tempfile.TemporaryDirectory(prefix="tidepool-bench-") as folder:
        file = os.path.join(folder, "pages")
        what = pages.sample(args.build, count, args.seed, file)
        say(f"{count} pages of {what}")
        result = Result(ABOUT, pages=count, source=what, poll_us=POLL_US)
        line = Line(args.build, file)
        against_store(line, result, BATCH, repetitions, MOST_US)
        against_store(line, result, 1, repetitions, None)
        latency(line, result, 3)
        idle(line, result, 5 if args.full else 2, 3)
    return result


if __name__ == "__main__":
    sys.exit(main(ABOUT, run, arguments(ABOUT)))
