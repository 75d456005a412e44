#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Page sharing, ours beside the kernel's (KSM).

The same processes stand for VMs on both sides (bench/replay.c): they hold the
memory of real desktops, captured once, or a mix made to measure, and announce
it with madvise(MADV_MERGEABLE). With libhvagent.so preloaded that call reaches
us, else KSM. The clock runs from the announcement: what is known beforehand is
nothing on either side.

What is merged is counted by page frames in use (bench/footprint.c), what there
is to merge by a census of contents (bench/census.c): nobody's own figures.
KSM's fastest setting means sleep_millisecs 0, one core for itself alone.
"""
import json
import os
import subprocess
import sys
import tempfile
import time

from lib import ram, result
from lib.kernel import Kernel, need_root
from lib.life import Life
from lib.measure import PAGE
from lib.replay import Fleet, KernelMemory, page_tables, user_metadata
from lib.result import Result, Skip, say
from lib.sharers import (KSM_ADVISOR, KSM_DEFAULT, KSM_FASTEST, Ksm, Ours,
                         ksm_set, ksm_users)

GIB = 1 << 30
VICTIM_HZ = 2000
STEPS = (50, 90, 99)
SAMPLE_SECONDS = 0.3
STALL_GAIN = 0.002  # less than this in `stall` seconds: it will not come
BREAKS = 2000
RARE = {False: 1, True: 5}  # repetitions of what FULL alone repeats


class Memory:
    """What the processes hold."""

    def __init__(self, name, options):
        self.name = name
        self.options = options
        self.duplicates = None  # pages, zero ones included; by the census


def captured_memory(have, guests, pages, changing):
    """The first `pages` of each guest."""
    options = []
    for i in range(guests):
        one = ["--ram", have.ram(i), "--pages", str(pages)]
        if changing:
            one += ["--changed", have.changed_list(i)]
        options.append(one)
    return Memory("desktops, changing" if changing else "desktops", options)


def mix_memory(seed, mib, guests=2, dup=500, zero=50, run=16):
    return Memory(f"mix: {dup / 10:g} % duplicates in runs of {run}, "
                  f"{zero / 10:g} % zero",
                  [["--pages", str(mib * 256), "--guest", str(i), "--guests",
                    str(guests), "--dup", str(dup), "--zero", str(zero),
                    "--run", str(run), "--seed", str(seed)]
                   for i in range(guests)])


class Bench:
    def __init__(self, args, life, kernel):
        self.args = args
        self.life = life
        self.kernel = kernel
        self.slab = KernelMemory()
        self.result = None

    def tool(self, name):
        return os.path.join(self.args.build, "bench", name)

    def json_of(self, *argv):
        out = subprocess.run(argv, check=True, capture_output=True, text=True)
        return json.loads(out.stdout)

    def census(self, fleet):
        return self.json_of(self.tool("census"), "--touched",
                            *(r.census_argument() for r in fleet.replays))


class Run:
    """One side, one memory, from announcement to where it stays."""

    def __init__(self, bench, sharer, memory):
        self.bench = bench
        self.sharer = sharer
        self.memory = memory
        self.history = []  # (second, share merged, CPU seconds, pages)
        self.figures = {}
        self.fleet = None

    def __enter__(self):
        self.sharer.prepare()
        self.fleet = Fleet(self.bench.life, self.bench.args.build,
                           self.memory.options, self.sharer.env())
        if self.memory.duplicates is None:
            seen = self.bench.census(self.fleet)
            self.memory.duplicates = seen["duplicates"] + seen["zero"]
        self.before = self.fleet.footprint()
        self.slab0 = self.bench.slab.bytes()
        self.tables0 = page_tables(self.fleet)
        self.user0 = user_metadata(self.fleet, self.before)
        self.own0 = self.sharer.metadata_bytes()
        return self

    def __exit__(self, *_):
        self.fleet.stop()
        self.sharer.end()

    def victim(self, hz):
        """Starts touches; the figures of those that end."""
        return self.fleet.replays[0].felt(f"victim {hz}")

    def undisturbed(self, seconds):
        self.victim(VICTIM_HZ)
        time.sleep(seconds)
        self.figures["undisturbed"] = self.victim(0)

    def sample(self):
        now = self.fleet.footprint()
        second = time.monotonic() - self.start
        used = now["frames"] + self.sharer.pool_pages()
        merged = self.before["frames"] - used
        self.history.append((second, merged / max(1, self.memory.duplicates),
                             self.sharer.cpu_seconds() - self.cpu0, merged))
        return now

    def merge(self, limit, stall, victim_hz=VICTIM_HZ, change_ms=0):
        """Until 99 % are merged, nothing comes any more, or `limit`."""
        self.sharer.begin(self.fleet)
        if change_ms:
            for replay in self.fleet.replays:
                replay.ask(f"change {change_ms}")
        self.victim(victim_hz)
        self.cpu0 = self.sharer.cpu_seconds()
        self.start = time.monotonic()
        self.fleet.announce()
        tick = self.start
        while True:
            self.bench.life.check()
            self.last = self.sample()
            second, share = self.history[-1][:2]
            if share >= 0.99 or second >= limit or self.stalled(stall):
                break
            tick += SAMPLE_SECONDS
            time.sleep(max(0, tick - time.monotonic()))
        self.figures["felt"] = self.victim(0)
        self.figures.update(
            {f"seconds_{n}": self.reached(n / 100, 0) for n in STEPS},
            merged_share=self.history[-1][1], seconds=self.history[-1][0],
            cpu_per_gib=self.cpu_per_gib())
        say(f"  {self.sharer.name}, {self.memory.name}: "
            f"{100 * self.history[-1][1]:.1f} % merged after "
            f"{self.history[-1][0]:.1f} s, {self.history[-1][2]:.2f} CPU s; "
            f"90 % after {text(self.figures['seconds_90'])} s")

    def stalled(self, stall):
        second, share = self.history[-1][:2]
        if second < stall or share < 0.01:
            return False
        then = [h for h in self.history if h[0] <= second - stall]
        return bool(then) and share - then[-1][1] < STALL_GAIN

    def reached(self, share, column):
        """Column of the history when that share was merged, by straight
        lines between samples; None if it never was."""
        was = (0, 0, 0, 0)
        for now in self.history:
            if now[1] >= share:
                part = (share - was[1]) / (now[1] - was[1])
                return was[column] + part * (now[column] - was[column])
            was = now
        return None

    def cpu_per_gib(self):
        """At 90 %, the same work for both; else at the end."""
        cpu, pages = self.reached(0.9, 2), self.reached(0.9, 3)
        if cpu is None:
            _, _, cpu, pages = self.history[-1]
        return cpu / (pages * PAGE / GIB) if pages > 0 else None

    def metadata(self):
        """Bytes a guest page that sharing has brought: growth since the
        announcement, so neither ksmd's nor hvd's own code counts."""
        now = self.fleet.footprint()
        slab = self.bench.slab.bytes() - self.slab0
        tables = page_tables(self.fleet) - self.tables0
        user = 0
        if self.sharer.has_agent():
            user = user_metadata(self.fleet, now) - self.user0
        own = self.sharer.metadata_bytes() - self.own0
        pages = self.fleet.filled()
        self.figures["metadata"] = (user + own + slab + tables) / pages
        self.figures["metadata_parts"] = {
            "agents": user / pages, "hvd": own / pages,
            "kernel objects": slab / pages, "page tables": tables / pages}
        self.figures["own_mib"] = self.own0 / (1 << 20)

    def breaks(self, kind):
        """What writing to merged pages takes; captures have no zero ones."""
        self.figures["break"] = self.fleet.replays[-1].felt(
            f"break {BREAKS} {kind}")

    def steady(self, seconds):
        """Share of a core while nothing changes."""
        cpu, start = self.sharer.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return (self.sharer.cpu_seconds() - cpu) / (time.monotonic() - start)


def text(figure):
    return "-" if figure is None else f"{figure:.1f}"


# ---- real desktops ----------------------------------------------------------

def desktop_run(bench, sharer, memory, limit, stall):
    with Run(bench, sharer, memory) as run:
        run.undisturbed(1)
        run.merge(limit, stall)
        run.metadata()
        run.breaks("other")
        return run


def desktops(bench, memory, full):
    limit = 60 if full else 10
    ours, ksm = result.interleave(
        5, lambda: desktop_run(bench, Ours(bench.life, bench.args.build),
                               memory, limit, 18),
        lambda: desktop_run(bench, Ksm("KSM fastest", KSM_FASTEST), memory,
                            limit, 4))
    desktops_report(bench.result, ours, ksm)
    return ours[-1], ksm[-1]


def figure(runs, *names):
    """One figure of each run; None where it was not reached."""
    got = []
    for run in runs:
        value = run.figures
        for name in names:
            value = value.get(name) if value else None
        got.append(value)
    return got


def both(res, name, unit, ours, theirs, target=None, rival="KSM fastest"):
    """A pair where both sides have every figure; else what is missing."""
    if None not in ours and None not in theirs:
        res.pair(name, unit, "less", rival, ours, theirs, target)
        return
    for who, got in (("Tidepool", ours), (rival, theirs)):
        if None in got:
            res.lacks(f"{name}: {who} did not get there in "
                      f"{sum(g is None for g in got)} of {len(got)} runs")


def desktops_report(res, ours, ksm):
    both(res, "desktops: CPU seconds per GiB merged", "s",
         figure(ours, "cpu_per_gib"), figure(ksm, "cpu_per_gib"), "<= 0.25")
    for step in STEPS:
        name = f"seconds_{step}"
        both(res, f"desktops: seconds to {step} % merged", "s",
             figure(ours, name), figure(ksm, name),
             "<= 0.1" if step == 90 else None)
    both(res, "desktops: metadata a guest page", "bytes",
         figure(ours, "metadata"), figure(ksm, "metadata"), "<= 0.8")
    for word, name in (("p50", "p50_ns"), ("p99", "p99_ns"),
                       ("p99.9", "p999_ns")):
        both(res, f"desktops: a touch meanwhile, {word}", "ns",
             figure(ours, "felt", name), figure(ksm, "felt", name))
        res.value(f"undisturbed touch, {word}", "ns",
                  figure(ours + ksm, "undisturbed", name))
    for word, name in (("p50", "p50_ns"), ("p99", "p99_ns")):
        both(res, f"write to a merged page, {word}", "ns",
             figure(ours, "break", name), figure(ksm, "break", name))
    res.value("hvd without a VM", "MiB", figure(ours, "own_mib"))
    for who, runs in (("ours", ours), ("KSM's", ksm)):
        res.value(f"desktops: duplicates merged at the end, {who}", "%",
                  [100 * x for x in figure(runs, "merged_share")])
        for part in runs[0].figures["metadata_parts"]:
            res.value(f"metadata a guest page, {who}: {part}", "bytes",
                      figure(runs, "metadata_parts", part))


def curve_points(run):
    return [(round(h[0], 2), round(100 * h[1], 2)) for h in run.history]


# ---- in the long run --------------------------------------------------------

def steady_ours(bench, memory, window, full):
    with Run(bench, Ours(bench.life, bench.args.build), memory) as run:
        run.merge(40 if full else 8, 18, 0)
        if full:
            time.sleep(20)  # passes come every 20 s from now on
        return run.steady(window)


def steady_ksm(bench, memory, window, full):
    theirs = {}
    with Run(bench, Ksm("KSM fastest", KSM_FASTEST), memory) as run:
        run.merge(60 if full else 16, 4, 0)
        for name, settings, seconds in (
                ("default", KSM_DEFAULT, window // 4),
                ("advisor", KSM_ADVISOR, window // 2),
                ("fastest", KSM_FASTEST, window // 8)):
            ksm_set(settings)
            time.sleep(1)
            theirs[name] = run.steady(seconds)
    return theirs


def steady(bench, memory, full):
    """Nothing changes any more: what does watching cost?"""
    window = 20 if full else 8
    ours, theirs = result.interleave(
        RARE[full], lambda: steady_ours(bench, memory, window, full),
        lambda: steady_ksm(bench, memory, window, full))
    for name in theirs[0]:
        bench.result.pair("steady state: share of a core", "%", "less",
                          f"KSM {name}", [100 * x for x in ours],
                          [100 * one[name] for one in theirs])


def curves(bench, memory, fast, full):
    """How far KSM gets at the settings people have."""
    limit = 60 if full else 6
    lines = {"Tidepool": curve_points(fast[0]),
             "KSM fastest": curve_points(fast[1])}
    for name, settings in (("KSM default", KSM_DEFAULT),
                           ("KSM advisor", KSM_ADVISOR)):
        with Run(bench, Ksm(name, settings), memory) as run:
            run.merge(limit, limit)
            lines[name] = curve_points(run)
    bench.result.curve("Desktops: duplicates merged", "seconds", "%", lines)


def changing(bench, have, guests, pages, full):
    memory = captured_memory(have, guests, pages, True)
    # What changes all the time is not to be merged; where it is for a
    # moment, the share goes above 100 %.
    memory.duplicates = ram.duplicates(have, guests, pages)

    def one(sharer, stall):
        with Run(bench, sharer, memory) as run:
            run.merge(60 if full else 9, stall,
                      change_ms=have.seconds * 1000)
            return run

    ours, ksm = result.interleave(
        RARE[full], lambda: one(Ours(bench.life, bench.args.build), 18),
        lambda: one(Ksm("KSM fastest", KSM_FASTEST), 4))
    res = bench.result
    for step in STEPS[:2]:
        name = f"seconds_{step}"
        both(res, f"changing desktops: seconds to {step} % merged", "s",
             figure(ours, name), figure(ksm, name))
    both(res, "changing desktops: CPU seconds per GiB merged", "s",
         figure(ours, "cpu_per_gib"), figure(ksm, "cpu_per_gib"))
    res.curve("Changing desktops: duplicates merged", "seconds", "%",
              {run.sharer.name: curve_points(run)
               for run in (ours[-1], ksm[-1])})


# ---- mixes ------------------------------------------------------------------

# name: title, unit, log_x, what to show of a value, quick and FULL values
SWEEPS = {
    "dup": ("share of duplicates", "%", False, lambda v: v / 10,
            (900,), (100, 300, 500, 700, 900)),
    "run": ("run", "pages", True, lambda v: v,
            (1, 512), (1, 4, 16, 64, 512)),
    "zero": ("share of zero pages", "%", False, lambda v: v / 10,
             (), (0, 250, 500, 900)),
}


def mix_point(bench, full, **change):
    """Figures of our runs, and of KSM's."""
    memory = mix_memory(bench.args.seed, 256 if full else 96, **change)

    def one(sharer, stall):
        with Run(bench, sharer, memory) as run:
            run.merge(40 if full else 8, stall, 0)
            if "zero" not in change:
                run.breaks("zero")
            return run

    return result.interleave(
        RARE[full], lambda: one(Ours(bench.life, bench.args.build), 8),
        lambda: one(Ksm("KSM fastest", KSM_FASTEST), 2))


def mix_report(res, what, unit, key, sweep, points):
    """points: value -> (our runs, KSM's)."""
    title, x_unit, log_x, scale = sweep[:4]
    lines = {who: [(scale(value), result.spread(figure(runs[side], key))["median"])
                   for value, runs in points.items()]
             for side, who in enumerate(("Tidepool", "KSM fastest"))}
    res.curve(f"Mix: {what}, by {title}", f"{title}, {x_unit}", unit,
              {who: [point for point in line if point[1] is not None]
               for who, line in lines.items()}, log_x)
    for value, runs in points.items():
        both(res, f"mix, {title} {scale(value):g}: {what}", unit,
             *(figure(side, key) for side in runs))


def mixes(bench, full):
    breaks = ([], [])
    for name, sweep in SWEEPS.items():
        points = {value: mix_point(bench, full, **{name: value})
                  for value in sweep[5 if full else 4]}
        if not points:
            continue
        for what, key in (("CPU seconds per GiB merged", "cpu_per_gib"),
                          ("seconds to 90 % merged", "seconds_90")):
            mix_report(bench.result, what, "s", key, sweep, points)
        for runs in points.values() if name != "zero" else ():
            for all_runs, some in zip(breaks, runs):
                all_runs.extend(some)
    for word in ("p50", "p99"):
        both(bench.result, f"mixes: write to a merged zero page, {word}", "ns",
             *(figure(runs, "break", word + "_ns") for runs in breaks))


# ---- hashing ----------------------------------------------------------------

def hash_alone(bench, full):
    got = bench.json_of(bench.tool("hash_rate"), "--mib", "512",
                        "--repetitions", "15" if full else "5")
    bench.result.pair("hashing, of plain read bandwidth", "GB a CPU s",
                      "more", "plain read", [x / 1e9 for x in got["hash"]],
                      [x / 1e9 for x in got["plain"]], ">= 0.75")
    return got["plain"]


def ours_scan(bench, memory, seconds):
    """Pages a core-second, all of ours counted (hvd, too), passes one after
    the other, once every page was offered."""
    sharer = Ours(bench.life, bench.args.build, rest="1ms")
    with Run(bench, sharer, memory) as run:
        sharer.begin(run.fleet)
        run.fleet.announce()
        time.sleep(2.5)
        cpu0, hashed = sharer.cpu_seconds(), hashed_pages(sharer)
        time.sleep(seconds)
        return (hashed_pages(sharer) - hashed) / (sharer.cpu_seconds() - cpu0)


def hashed_pages(sharer):
    """As agents told last, up to a second ago, at both ends alike."""
    return sharer.control.sample().total("hashed_pages")


def ksm_scan(bench, memory, seconds):
    """(first pass, later passes) in pages a CPU second of ksmd."""
    sharer = Ksm("KSM", {**KSM_FASTEST, "smart_scan": 0})
    with Run(bench, sharer, memory) as run:
        sharer.begin(run.fleet)
        cpu0 = sharer.cpu_seconds()
        run.fleet.announce()
        while ksm_count("full_scans") < 1:
            time.sleep(0.002)
        first = run.fleet.filled() / (sharer.cpu_seconds() - cpu0)
        passes, cpu0 = ksm_count("full_scans"), sharer.cpu_seconds()
        start = time.monotonic()
        while time.monotonic() < start + seconds or \
                ksm_count("full_scans") < passes + 2:
            time.sleep(0.05)
        passes = ksm_count("full_scans") - passes
        return first, passes * run.fleet.filled() / (sharer.cpu_seconds()
                                                     - cpu0)


def ksm_count(name):
    with open(f"/sys/kernel/mm/ksm/{name}", encoding="ascii") as file:
        return int(file.read())


def scanning(bench, plain, full):
    """Memory without a duplicate: nothing but looking is done."""
    memory = mix_memory(bench.args.seed, 512 if full else 256, guests=1,
                        dup=0, zero=0, run=1)
    seconds = 6 if full else 3
    ours, ksm = result.interleave(
        5 if full else 2, lambda: ours_scan(bench, memory, seconds),
        lambda: ksm_scan(bench, memory, seconds))
    res = bench.result
    res.pair("scanning: pages a core-second", "pages/s", "more",
             "KSM, first pass", ours, [k[0] for k in ksm], ">= 4")
    res.pair("scanning: pages a core-second", "pages/s", "more",
             "KSM, later passes", ours, [k[1] for k in ksm], ">= 15")
    middle = sorted(plain)[len(plain) // 2]
    res.value("scanning as a whole, of plain read bandwidth", "",
              [rate * PAGE / middle for rate in ours])


# ---- all of it --------------------------------------------------------------

def run_all(bench):
    args = bench.args
    if ksm_users():
        raise Skip("KSM would merge memory of other processes, too: "
                   + ", ".join(ksm_users()))
    guests, mib = (4, None) if args.full else (2, 512)
    have = ram.need(args.build, guests)
    mib = mib or have.ram_bytes >> 20
    bench.result = Result(
        "Page sharing of equal pages, against KSM", guests=guests,
        ram_mib=mib, change_seconds=have.seconds,
        changed_pages=have.changed[:guests], ksm_fastest=KSM_FASTEST,
        ksm_default=KSM_DEFAULT, ksm_advisor=KSM_ADVISOR,
        victim_touches_a_second=VICTIM_HZ, huge_pages="none")
    if not args.full:
        bench.result.lacks("spread of changing desktops, of the steady state "
                           "and of mixes: one repetition in the quick version")
    start = time.monotonic()

    def stage(name):
        say(f"{time.monotonic() - start:.0f} s: {name}")

    stage("hashing")
    plain = hash_alone(bench, args.full)
    scanning(bench, plain, args.full)
    memory = captured_memory(have, guests, mib * 256, False)
    stage("desktops")
    last = desktops(bench, memory, args.full)
    stage("KSM's other settings")
    curves(bench, memory, last, args.full)
    stage("changing desktops")
    changing(bench, have, guests, mib * 256, args.full)
    stage("steady state")
    steady(bench, memory, args.full)
    stage("mixes")
    mixes(bench, args.full)
    return bench.result


def run(args):
    need_root()
    logs = tempfile.mkdtemp(prefix="tidepool-sharing-")
    with Kernel() as kernel, Life(logs) as life:
        life.remove_tree(logs)
        kernel.keep("/proc/sys/vm/max_map_count")
        kernel.keep_ksm()
        return run_all(Bench(args, life, kernel))


if __name__ == "__main__":
    sys.exit(result.main(__doc__.split("\n\n")[0], run))
