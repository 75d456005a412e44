#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The compressed store against zram and zswap, on the same pages.

zram is used as its own makers would show it off: as a block device, O_DIRECT,
1 MiB a call from huge pages, so that one system call serves 256 pages and what
is left is compression and its allocator. What remains of the block layer is
part of using zram. Through swap (the way zram and zswap are used in practice)
reclaim and page tables come on top; those pairs carry no target.

"Per core" is pages per second of CPU time, user and system, of all threads:
both sides work in the caller, so that is their whole cost, and other load on
the machine does not count as theirs.
"""
import json
import os
import subprocess
import sys
import tempfile

from lib import pages
from lib.kernel import Kernel, need_root, read
from lib.result import Result, Skip, arguments, interleave, main, say

ABOUT = ("The compressed store against zram and zswap, on the same pages, "
         "with compression and its allocator in the caller on both sides.")
ALGORITHMS = ("lz4", "lzo-rle", "zstd")
SIDES = {"zstd": "dense"}  # the same library against the same
ZSWAP = "/sys/module/zswap/parameters/"
THREADS = (1, 2, 4)
CHURN_REPS = 3
TAKEBACK_REPS = 3
PAGE = pages.PAGE
MIB = 1 << 20


class Store:
    """Runs of build/bench/store, each on an emptied device."""

    def __init__(self, args, kernel, folder):
        self.args = args
        self.kernel = kernel
        self.folder = folder
        self.file = None
        self.bytes = 0
        self.zram = None

    def pages(self, count):
        """From now on these; returns what they are."""
        self.file = os.path.join(self.folder, "pages")
        self.bytes = count * PAGE
        return pages.sample(self.args.build, count, self.args.seed, self.file)

    def run(self, *words):
        program = os.path.join(self.args.build, "bench", "store")
        ran = subprocess.run([program, *map(str, words)],
                             stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(ran.stdout)

    def device(self, algorithm, size=None):
        """zram, empty."""
        if self.zram is None:
            self.zram = self.kernel.zram(algorithm, size or self.bytes)
        else:
            self.kernel.zram_again(self.zram, algorithm, size or self.bytes)
        return self.zram

    def ours(self, what, number, side="ours"):
        return self.run(what, side, self.file, number)

    def theirs(self, what, number, algorithm):
        zram = self.device(algorithm)
        got = self.run(what, "zram", self.file, number, zram.path)
        return {**got, **zram.stat()}


def per_core(runs, phase):
    """Pages a second of CPU time, of each repetition."""
    return [r["pages"] / r[phase + "_cpu_s"] for r in runs]


def speed(store, result, algorithm, threads, repetitions):
    """Both sides in turn; (ours, theirs)."""
    say(f"zram {algorithm}, {threads} threads")
    ours, theirs = interleave(
        repetitions, lambda: store.ours("speed", threads,
                                        SIDES.get(algorithm, "ours")),
        lambda: store.theirs("speed", threads, algorithm))
    # A figure per core has one target, not one for each number of threads.
    target = ">= 1.5" if (algorithm, threads) == ("lz4", 1) else None
    for phase, name in (("put", "put, fresh memory"),
                        ("again", "put over an old page"), ("get", "get")):
        result.pair(f"{name}, {threads} thr.", "pages/s", "more",
                    f"zram {algorithm}", per_core(ours, phase),
                    per_core(theirs, phase), target)
    return ours, theirs


def wall(runs, phase):
    figures = sorted(r["pages"] / r[phase + "_wall_s"] for r in runs)
    return figures[len(figures) // 2]


def ratios(store, result, algorithm, runs):
    ours, theirs = runs
    result.pair("page bytes per compressed byte", "x", "more",
                f"zram {algorithm}",
                [store.bytes / r["stored_bytes"] for r in ours],
                [store.bytes / r["compressed"] for r in theirs])
    result.pair("page bytes per byte of memory used", "x", "more",
                f"zram {algorithm}",
                [store.bytes / r["used_bytes"] for r in ours],
                [store.bytes / r["used"] for r in theirs])
    result.pair("memory per payload byte, fresh", "bytes", "less",
                f"zram {algorithm}",
                [r["used_bytes"] / r["stored_bytes"] for r in ours],
                [r["used"] / r["compressed"] for r in theirs])


def against_zram(store, result, repetitions, full):
    have = None
    curves = {}
    for algorithm in ALGORITHMS:
        counts = THREADS if full or algorithm == "lz4" else (1,)
        try:
            runs = {n: speed(store, result, algorithm, n, repetitions)
                    for n in counts}
        except Skip as why:
            result.lacks(str(why))
            continue
        have = have or algorithm
        ratios(store, result, algorithm, runs[1])
        if len(counts) > 1:
            for index, side in enumerate(("ours", f"zram {algorithm}")):
                for phase in ("put", "get"):
                    curves[f"{phase}, {side}"] = [
                        (n, wall(runs[n][index], phase)) for n in counts]
    if curves:
        result.curve("Throughput by threads (wall clock, whatever else the "
                     "machine did included)", "threads", "pages/s", curves)
    return have


def dense(store, result, repetitions):
    """What cold guest RAM is stored by, beside what guests' own pages are."""
    say("the denser codec")
    denser, ours = interleave(repetitions,
                              lambda: store.ours("speed", 1, "dense"),
                              lambda: store.ours("speed", 1))
    for phase in ("put", "get"):
        result.pair(f"denser codec: {phase}", "pages/s", "more", "our LZ4",
                    per_core(denser, phase), per_core(ours, phase))
    result.pair("denser codec: page bytes per byte of memory used", "x",
                "more", "our LZ4",
                [store.bytes / r["used_bytes"] for r in denser],
                [store.bytes / r["used_bytes"] for r in ours])


def latency(store, result, algorithm, repetitions):
    """One page at a time, at random: for zram a pread, system call and all."""
    say("latency of a get")
    ours, theirs = interleave(
        repetitions, lambda: store.ours("latency", store.args.seed),
        lambda: store.theirs("latency", store.args.seed, algorithm))
    for part in ("p50", "p99"):
        result.pair(f"get {part}, one page", "us", "less",
                    f"zram {algorithm} (4 KiB pread)",
                    [r[f"get_{part}_us"] for r in ours],
                    [r[f"get_{part}_us"] for r in theirs])


def churn(store, result, algorithm, count):
    """Memory alone: each repetition has another order and other sizes.
    Returns each side's first."""
    say(f"churn of {count} pages, repeated")
    store.pages(count)
    seeds = [iter(range(store.args.seed, store.args.seed + CHURN_REPS))
             for _ in range(2)]
    ours, theirs = interleave(
        CHURN_REPS, lambda: store.ours("churn", next(seeds[0])),
        lambda: store.theirs("churn", next(seeds[1]), algorithm))
    result.value("memory per payload byte after churn", "bytes",
                 [r["used_bytes"] / r["stored_bytes"] for r in ours],
                 "<= 1.03")
    result.value("the same, of memory resident in the process", "bytes",
                 [r["resident_bytes"] / r["stored_bytes"] for r in ours])
    result.pair("memory per payload byte after churn", "bytes", "less",
                f"zram {algorithm} (its page table not counted)",
                [r["used_bytes"] / r["stored_bytes"] for r in ours],
                [r["used"] / r["compressed"] for r in theirs])
    return ours[0], theirs[0]


def churn_curve(store, result, algorithm, sizes, largest):
    """A small store wastes more: what is idle belongs to size classes."""
    points = []
    for count in sizes:
        say(f"churn of {count} pages")
        store.pages(count)
        points.append((store.ours("churn", store.args.seed),
                       store.theirs("churn", store.args.seed, algorithm)))
    points.append(largest)
    result.curve("Memory per payload byte after churn", "payload, MiB",
                 "bytes of memory per byte of payload", {
                     "ours": [(o["stored_bytes"] / MIB,
                               o["used_bytes"] / o["stored_bytes"])
                              for o, _ in points],
                     f"zram {algorithm}": [
                         (t["compressed"] / MIB, t["used"] / t["compressed"])
                         for _, t in points]}, log_x=True)


def evict(store, result, repetitions, full):
    say("eviction")
    runs = [store.run("evict", store.file) for _ in range(repetitions)]
    result.value("ephemeral pages evicted, per core", "pages/s",
                 per_core(runs, "evict"))
    ways = [([], "1 GiB of ephemeral pages taken back", "<= 100"),
            (["half"], "1 GiB of 2 GiB, the oldest pages", None)]
    for words, name, target in ways if full else ways[:1]:
        runs = [store.run("takeback", store.file, *words)
                for _ in range(TAKEBACK_REPS)]
        gib = [1e3 * (1 << 30) / r["takeback_bytes"] for r in runs]
        result.value(name, "ms", [r["takeback_wall_s"] * each
                                  for r, each in zip(runs, gib)], target)
        result.value(f"{name}, CPU time of all threads", "ms",
                     [r["takeback_cpu_s"] * each
                      for r, each in zip(runs, gib)])


def memory_line(name):
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith(name + ":"):
                return int(line.split()[1]) << 10
    return None


def swap_side(store):
    got = store.run("speed", "swap", store.file, 1)
    if got["swapped"] < 0.99:
        raise Skip(f"only {got['swapped']:.0%} of the pages went to swap")
    return got


def against_swap(store, result, rival, repetitions):
    say(f"swap to {rival}")
    try:
        ours, theirs = interleave(repetitions,
                                  lambda: store.ours("speed", 1),
                                  lambda: swap_side(store))
    except Skip as why:
        result.lacks(f"{rival}: {why}")
        return
    for phase, name in (("put", "put, against swap-out"),
                        ("get", "get, against swap-in")):
        result.pair(name, "pages/s", "more",
                    f"{rival} (reclaim, page tables too)",
                    per_core(ours, phase), per_core(theirs, phase))


def swap(store, result, algorithm, repetitions):
    """zram as swap, then zswap in front of it."""
    kernel = store.kernel
    zram = store.device(algorithm, 2 * store.bytes)
    subprocess.run(["mkswap", zram.path], check=True,
                   stdout=subprocess.DEVNULL)
    kernel.set("/proc/sys/vm/page-cluster", 0)
    zswap = os.path.isdir(ZSWAP)
    if zswap:
        kernel.set(ZSWAP + "enabled", "N")
    kernel.swap_on(zram.path, 32767)
    against_swap(store, result, f"zram {algorithm} as swap", repetitions)
    if not zswap:
        result.lacks("zswap: not in this kernel")
        kernel.swap_off(zram.path)
        return
    kernel.set(ZSWAP + "max_pool_percent", 50)
    for compressor in ("lz4", "lzo"):
        try:
            kernel.set(ZSWAP + "compressor", compressor)
            break
        except OSError:
            result.lacks(f"zswap with {compressor}: not in this kernel")
    kernel.set(ZSWAP + "enabled", "Y")
    against_swap(store, result,
                 f"zswap {read(ZSWAP + 'compressor')}", repetitions)
    kernel.set(ZSWAP + "enabled", "N")
    kernel.swap_off(zram.path)


def run(args):
    need_root()
    count = 65536 if args.full else 16384
    churn_count = 2 * count if args.full else 65536
    repetitions = 7 if args.full else 5
    with Kernel() as kernel, tempfile.TemporaryDirectory(
            prefix="tidepool-bench-") as folder:
        store = Store(args, kernel, folder)
        what = store.pages(count)
        say(f"{count} pages of {what}")
        result = Result(ABOUT, pages=count, churn_pages=churn_count,
                        source=what, zram_io="O_DIRECT, 1 MiB a call")
        algorithm = against_zram(store, result, repetitions, args.full)
        dense(store, result, repetitions)
        if algorithm:
            latency(store, result, algorithm, repetitions)
            swap(store, result, algorithm, repetitions)
        evict(store, result, repetitions, args.full)
        if algorithm:
            largest = churn(store, result, algorithm, churn_count)
            churn_curve(store, result, algorithm,
                        [churn_count >> n for n in (3, 2, 1)], largest)
    return result


if __name__ == "__main__":
    sys.exit(main(ABOUT, run, arguments(ABOUT)))
