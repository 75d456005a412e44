#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The tools of bench/ must count right, or every figure of `make run` is wrong.

No guest here: the census reads a process whose memory this test has made page
by page, and the arithmetic of the main job gets rounds and histories whose
answers are known.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile

import lib
from lib import bench_module

MAKER = r"""
import ctypes, mmap, random, sys
kinds = sys.argv[1].split(",")
rng = random.Random(int(sys.argv[2]))
m = mmap.mmap(-1, len(kinds) * 4096, flags=mmap.MAP_PRIVATE)
for i, kind in enumerate(kinds):
    if kind == "zero":
        m[i * 4096:(i + 1) * 4096] = bytes(4096)
    elif kind == "own":
        m[i * 4096:(i + 1) * 4096] = rng.randbytes(4096)
    elif kind != "absent":
        m[i * 4096:(i + 1) * 4096] = kind.encode().ljust(4096, b".")
print(hex(ctypes.addressof(ctypes.c_char.from_buffer(m))), flush=True)
sys.stdin.read()
"""


def memory_make(kinds, seed):
    """A process with such pages; (its Popen, the census's argument)."""
    child = subprocess.Popen(
        [sys.executable, "-c", MAKER, ",".join(kinds), str(seed)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    base = int(child.stdout.readline(), 16)
    return child, f"{child.pid}:{base:x}:{len(kinds) * 4096}"


def census_tool():
    subprocess.run(["make", "-s", "-C", lib.ROOT, f"BUILD={lib.BUILD}",
                    "tools"], check=True)
    return os.path.join(lib.BUILD, "bench", "census")


def census(*arguments):
    tool = census_tool()
    return json.loads(subprocess.run([tool, *arguments], check=True,
                                     capture_output=True).stdout)


FIRST = ["own"] * 1000 + ["zero"] * 30 + ["tide"] * 7 + ["pool"] * 5 + \
    ["absent"] * 61
SECOND = ["tide"] * 3 + ["own"] * 500 + ["zero"] * 20 + ["frame"] * 573


def census_counts_known_memory():
    """zero, absent, distinct and duplicates come out as they were made"""
    a, of_a = memory_make(FIRST, 1)
    b, of_b = memory_make(SECOND, 2)
    try:
        seen = census("--touched", of_a, of_b)
        want = {"zero": 50, "absent": 61, "unreadable": 0,
                "nonzero": 2088, "distinct": 1503, "duplicates": 585,
                "duplicates_across": 1, "duplicates_within": 584}
        got = {name: seen[name] for name in want}
        lib.check(got == want, f"census said {got}, not {want}")
        lib.check(seen["anon"] == 2138, f"resident: {seen['anon']}")
        whole = census(of_a, of_b)
        lib.check(whole["zero"] == 111 and whole["absent"] == 0,
                  f"untouched pages read as zero: {whole}")
    finally:
        for child in (a, b):
            child.kill()
            child.wait()


def census_refuses_bad_arguments():
    """no arguments, garbage, and sizes that are no whole pages"""
    tool = census_tool()
    for argument in ([], ["x"], ["1:0"], ["1:1000:4097"], ["1:1001:4096"],
                     ["0:1000:4096"], ["1:fffffffffffff000:8192"],
                     ["1:1000:4096x"]):
        code = subprocess.run([tool, *argument],
                              capture_output=True).returncode
        lib.check(code == 2, f"{argument}: exit code {code}")


def rounds_are_counted_between_first_and_last():
    """a window's rate does not depend on where in a round it starts"""
    report = bench_module("guest").Report()
    report.rounds = [(t, 500, 400) for t in range(0, 100, 2)]
    for start in (0, 0.5, 1.9):
        window = report.window(start, start + 40)
        lib.check(window["per_minute"] == 30 and window["work_ms"] == 500,
                  f"from {start}: {window}")
    lib.check(report.window(0, 1) is None, "one round is no rate")


def report_line_counts_every_error():
    """a wrong byte is never lost, whichever line tells of it"""
    report = bench_module("guest").Report()
    for text in ("hello 1", "up 93", "ready 3 4096", "round 1 500 400 0"):
        report.line(text)
    lib.check(report.errors == 0 and report.ready and report.up == 93,
              "an honest guest has no error")
    report.line("corrupt memory random:17")
    lib.check(report.errors == 1, "corrupt counts")
    report.line("round 2 500 400 3")
    lib.check(report.errors == 3, "a round's count counts")
    report.line("verified 10 20 5")
    lib.check(report.errors == 5 and report.verified == (10, 20, 5),
              "the last count counts")


def ninety_percent_is_not_claimed_early():
    """the first second at which nine tenths were merged, or none"""
    ninety = bench_module("phases").history_ninety
    history = [(0, 0, 0.0), (1, 89, 0.5), (2, 90, 0.7), (3, 100, 0.9)]
    lib.check(ninety(history, 100) == (2, 0.7), "at exactly 90 of 100")
    lib.check(ninety(history, 112) is None, "100 of 112 is less")


def bar_always_fills_its_width():
    """rounding never makes a VM's bar longer or shorter"""
    table = bench_module("table")
    fields = [field for _, field, *_ in table.BAR]
    for seed in range(1, 200):
        mm = {f: (seed * 7919 * (i + 3)) % 50021
              for i, f in enumerate(fields)}
        mm["ram_pages"] = sum(mm.values())
        drawn = table.bar(mm, False)
        lib.check(len(drawn) == table.WIDTH, f"{mm}: {drawn!r}")


def guest_ram_is_found_from_outside():
    """the smallest private mapping that is large enough, no other"""
    find = bench_module("cold_guest").ram_find
    size = 9001 * lib.PAGE
    child, argument = memory_make(["tide"] * 9001, 3)
    try:
        base = int(argument.split(":")[1], 16)
        found, length = find(child.pid, size)
        lib.check(found <= base and base + size <= found + length,
                  f"{found:x} + {length:x} does not hold {base:x}")
        lib.check(length < 2 * size, f"{length} bytes are a larger one")
    finally:
        child.kill()
        child.wait()


def present_pages_are_no_faults():
    """figures count only if nine touches in ten found their page out"""
    usable = bench_module("cold_guest").usable
    lib.check(usable([{"back": 0.9}, {"back": 1.2}]), "nine in ten")
    lib.check(not usable([{"back": 1}, {"back": 0.89}]), "one run with less")


def touch_tools_refuse_bad_arguments():
    """no side, another side, half an option, one that is none, no memory"""
    census_tool()
    for name in ("fault_touch", "kvm_touch"):
        for words in ([], ["theirs"], ["ours", "--mib"],
                      ["ours", "--mib", "1"], ["ours", "--speed", "9"],
                      ["ours", "--order", "backwards"]):
            code = subprocess.run([os.path.join(lib.BUILD, "bench", name),
                                   *words], capture_output=True).returncode
            lib.check(code == 2, f"{name} {words}: exit code {code}")


def signals_are_the_callers_again():
    """after a bench's guests ended, Ctrl-C reaches what is around them"""
    life = bench_module("life")
    before = signal.getsignal(signal.SIGTERM)
    with life.Life(tempfile.gettempdir()):
        lib.check(signal.getsignal(signal.SIGTERM) != before, "inside")
    lib.check(signal.getsignal(signal.SIGTERM) == before, "outside")


class Held(subprocess.Popen):
    """A process that a faulty kernel does not let end."""

    def wait(self, timeout=None):
        lib.check(timeout is not None, "somebody waits for ever")
        raise subprocess.TimeoutExpired(self.args, timeout)


def process_that_cannot_be_killed_is_named():
    """Failed, while the others are ended all the same"""
    life = bench_module("life")
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    held = Held(["sleep", "600"], start_new_session=True)
    with life.Life(tempfile.gettempdir()) as jobs:
        jobs.children += [("other", other), ("held", held)]
        try:
            jobs.stop("held")
        except life.Failed as error:
            lib.check(str(held.pid) in str(error), str(error))
        else:
            lib.check(False, "it is said to have ended")
        jobs.children.append(("held", held))
    lib.check(other.returncode is not None, "the other one lives")
    subprocess.Popen.wait(held, 10)


lib.main(census_counts_known_memory, census_refuses_bad_arguments,
         rounds_are_counted_between_first_and_last,
         report_line_counts_every_error, ninety_percent_is_not_claimed_early,
         bar_always_fills_its_width, guest_ram_is_found_from_outside,
         present_pages_are_no_faults, touch_tools_refuse_bad_arguments,
         signals_are_the_callers_again,
         process_that_cannot_be_killed_is_named)
