#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What `make bench` says must follow from its figures, and the host must be
afterwards as it was before.

No guest here and no kernel setting: figures with known answers go through the
judge and the report, and files of this test stand for the kernel's.
"""

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

import lib
from lib import bench_module

BENCH = os.path.join(lib.ROOT, "bench")


def result_make():
    r = bench_module("result").Result("a <bench>", pages=3)
    r.pair("slow & <sure>", "s", "less", "ksm", [1, 2, 9], [2, 2, 3], "<= 1")
    r.pair("fast", "pages/s", "more", "zram", [4, 5, 6], [2, 2, 2], ">= 2.6")
    r.pair("same", "us", "less", "zram", [1, 2], [2, 1])
    r.pair("better", "us", "less", "zram", [1, 1], [2, 4])
    r.pair("worse", "us", "more", "zram", [1, 1], [2, 4])
    r.value("memory", "bytes", [1.02, 1.04, 1.03], "<= 1.03")
    r.curve("grows", "pages", "us", {"a": [(1, 2), (1000, 3)],
                                     "b": [(1, 0), (10, None)]}, log_x=True)
    r.lacks("zswap: not <here>")
    return r


def verdict_follows_from_ratios():
    """met, missed, ahead, behind, even: of the median of paired ratios"""
    done = bench_module("result").finish(result_make().as_object())
    got = [(p["median"], p["verdict"]) for p in done["pairs"]]
    lib.check(got == [(1, "met"), (2.5, "missed"), (1.25, "even"),
                      (0.375, "ahead"), (0.375, "behind")], str(got))
    first = done["pairs"][0]
    lib.check((first["low"], first["high"]) == (0.5, 3), str(first))
    lib.check(done["values"][0]["verdict"] == "met" and
              done["values"][0]["median"] == 1.03, str(done["values"]))


def no_figures_is_no_success():
    """a rival's zero, or nothing measured at all, never meets a target"""
    finish = bench_module("result").pair_finish
    base = {"name": "x", "unit": "s", "better": "less", "rival": "r",
            "target": "<= 4"}
    for ours, theirs in (([], []), ([1], [0]), ([None], [None]),
                         ([1], [None]), ([None], [1])):
        done = finish({**base, "ours": ours, "theirs": theirs})
        lib.check(done["verdict"] == "no figures", f"{ours} {theirs}: {done}")


def bad_target_is_refused():
    """a typing error in a target cannot become a verdict"""
    r = bench_module("result").Result("x")
    for target in ("< 4", "4", "<=4", "<= four", ""):
        try:
            r.value("v", "s", [1], target)
        except ValueError:
            continue
        raise lib.Failed(f"{target!r} passed")


def sides_run_in_turn():
    """A B A B, and each side's results in the order they ran"""
    order = []
    a, b = bench_module("result").interleave(
        3, lambda: order.append("a") or len(order),
        lambda: order.append("b") or len(order))
    lib.check(order == list("ababab"), str(order))
    lib.check((a, b) == ([1, 3, 5], [2, 4, 6]), f"{a} {b}")


def report_is_whole_and_escaped():
    """one page, well formed, that asks nothing of the network"""
    result, report = bench_module("result"), bench_module("report")
    one = {"name": "store", "date": result.now(), "seconds": 3,
           "machine": result.machine(), "load_before": 0.5,
           **result.finish(result_make().as_object())}
    bad = {"name": "density", "date": result.now(), "seconds": 1,
           "failure": "ended with code 1\n<boom> & more"}
    page = report.page([one, bad])
    # The head's few elements apart, it is XML: every tag closed, text escaped.
    body = page[page.index("<body>"):page.index("</html>")]
    xml.etree.ElementTree.fromstring(
        body.replace("<br>", "<br/>"))
    for want in ("slow &amp; &lt;sure&gt;", "&lt;boom&gt; &amp; more",
                 "zswap: not &lt;here&gt;", "Without figures: density",
                 "missed", "<svg"):
        lib.check(want in page, f"no {want!r} in the report")
    for bad in ("http:", "https:", "<script", "src="):
        lib.check(bad not in page, f"{bad} in the report")


def report_stands_odd_figures():
    """nothing, one point, equal points, zeros, huge spans"""
    plot = bench_module("plot")
    for points in ([], [(1, 1)], [(0, 5), (1, 5)], [(5, 0), (5, 0)],
                   [(1, 1e-9), (1e12, 1e12)], [(-1, -5), (2, 3)],
                   [(1, None)]):
        for log in (False, True):
            plot.curve({"title": "t", "x": "x", "y": "y", "log_x": log,
                        "lines": [{"name": "n", "points": points}]})
    for ratios in ([1.0], [1e-6, 1e6], [2.0, 2.0], [0.0, 1.0]):
        pair = {"name": "n", "rival": "r", "better": "more", "target": ">= 1",
                "ours": ratios, "theirs": [1] * len(ratios)}
        plot.ratios([bench_module("result").pair_finish(pair)])


def file_make(name, text):
    path = os.path.join(lib.work, name)
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    return path


def file_read(path):
    with open(path, encoding="ascii") as file:
        return file.read()


def kernel_is_put_back():
    """in any case: at the end, by an exception, with a word in brackets"""
    kernel = bench_module("kernel")
    journal = os.path.join(lib.work, "journal")
    plain, words = file_make("a", "60"), file_make("b", "x [y] z")
    with kernel.Kernel(journal) as k:
        k.set(plain, 20)
        k.set(plain, 30)
        k.set(words, "z")
        lib.check(file_read(plain) == "30", "not set")
    lib.check(file_read(plain) == "60", "not put back")
    lib.check(file_read(words)[:1] == "y", "not the word in brackets")
    try:
        with kernel.Kernel(journal) as k:
            k.set(plain, 90)
            raise RuntimeError("as a bench may")
    except RuntimeError:
        pass
    lib.check(file_read(plain) == "60", "not put back after an exception")
    lib.check(os.path.getsize(journal) == 0, "a journal is left")


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[1])
from lib.kernel import Kernel
with Kernel(sys.argv[2]) as k:
    k.set(sys.argv[3], 77)
    print("set", flush=True)
    time.sleep(60)
"""


def killed_bench_is_undone():
    """by signals at once, after SIGKILL by whoever opens the journal next"""
    kernel = bench_module("kernel")
    journal = os.path.join(lib.work, "journal")
    path = file_make("c", "11")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, BENCH, journal, path],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        child.stdout.readline()
        lib.check(file_read(path) == "77", "not set")
        child.send_signal(number)
        child.wait(30)
        if number == signal.SIGKILL:
            lib.check(file_read(path) == "77", "who could have undone it?")
            kernel.recover(journal)
        lib.check(file_read(path) == "11", f"left behind after {number}")


RUN = """
import sys, time
from lib.result import Result, Skip, main, say
def run(args):
    r = Result("x")
    if sys.argv[0].endswith("skip_bench.py"):
        raise Skip("no such thing here")
    if sys.argv[0].endswith("fail_bench.py"):
        raise RuntimeError("broke")
    if sys.argv[0].endswith("slow_bench.py"):
        say("sleeping")
        time.sleep(60)
    r.value("v", "s", [1, 2, 3], "<= 2")
    return r
sys.exit(main("x", run))
"""


def benches_make():
    """A tree with bench.py, its lib, and four benches."""
    top = os.path.join(lib.work, "top", "bench")
    if not os.path.isdir(top):
        os.makedirs(top)
        os.symlink(os.path.join(BENCH, "lib"), os.path.join(top, "lib"))
        file_make("top/bench/bench.py",
                  file_read(os.path.join(BENCH, "bench.py")))
        for name in ("fail", "good", "skip", "slow"):
            file_make(f"top/bench/{name}_bench.py", RUN)
    return os.path.join(top, "bench.py")


def one_failure_stops_no_other():
    """and is seen: in the table, in NAME.json, by the exit code"""
    build = os.path.join(lib.work, "out")
    ran = subprocess.run(
        [sys.executable, benches_make(), "--build", build, "fail", "good",
         "skip"], capture_output=True, text=True)
    lib.check(ran.returncode == 1, f"exit code {ran.returncode}")
    lib.check("1 benches ran, 1 failed, 1 skipped; 1 targets met, 0 missed"
              in ran.stdout, ran.stdout)
    lib.check("RuntimeError: broke" in ran.stdout, ran.stdout)
    seen = {}
    for name in ("fail", "good", "skip"):
        seen[name] = json.loads(file_read(f"{build}/bench/{name}.json"))
    lib.check("broke" in seen["fail"]["failure"], str(seen["fail"]))
    lib.check("no such thing" in seen["skip"]["skipped"], str(seen["skip"]))
    good = seen["good"]
    lib.check(good["values"][0]["verdict"] == "met" and good["seed"] == 1 and
              good["machine"]["cores"] > 0 and not good["full"], str(good))
    lib.check(os.path.exists(f"{build}/bench/report.html"), "no report")


def interrupt_ends_the_bench():
    """Ctrl-C reaches bench.py alone; what it runs ends with it"""
    build = os.path.join(lib.work, "out2")
    child = subprocess.Popen(
        [sys.executable, benches_make(), "--build", build, "slow"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while "sleeping" not in child.stderr.readline():
        lib.check(child.poll() is None, "it ended by itself")
    start = time.monotonic()
    child.send_signal(signal.SIGINT)
    err = child.stderr.read()
    lib.check(child.wait(30) == 130, f"exit code {child.returncode}")
    # stderr ends only when nobody holds it any more: the bench is gone.
    lib.check(time.monotonic() - start < 30, "it slept on")
    lib.check("stopped by SIGINT" in err, err)


lib.main(verdict_follows_from_ratios, no_figures_is_no_success,
         bad_target_is_refused, sides_run_in_turn,
         report_is_whole_and_escaped, report_stands_odd_figures,
         kernel_is_put_back, killed_bench_is_undone,
         one_failure_stops_no_other, interrupt_ends_the_bench)
