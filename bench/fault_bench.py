#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Touching memory that is compressed: our page fault against a swap-in.

Each side fills the same memory with the same bytes, has it compressed, and
touches it in the same order, timing every touch:

  ours    in the manager's store; a touch is a userfaultfd message that a
          thread of the manager answers, as in a VMM
  zram    swapped to zram with lz4; the kernel answers in the thread itself
  zswap   swapped to a file with zswap in front (lz4 where it has that)

In order, ours reads ahead: most touches there find their page, and the mean
tells more than the median.

Who touches:

  a process               bench/fault_touch.c
  a guest of KVM, CPL 3   bench/kvm_touch.c, natively, where KVM can
  a Linux guest in TCG    bench/guest/touch.c, the agent in a stock QEMU
                          against a QEMU that the kernel swaps out

The rivals run with vm.page-cluster 0, no read-ahead, and zswap also with the
kernel's default of 3; zram, which answers at once, is never read ahead from, so
there the two say the same. Our thread polls for up to 50 us while faults are
frequent, as in the agent. What it costs is in the CPU figures, which count the
whole process, user and system; our faults without polling, and of pages stored by
LZ4 instead of zstd, are there as values.
"""
import json
import os
import subprocess
import sys
import tempfile

from lib import cold_guest, kernel, result
from lib.life import Life

ABOUT = ("page faults on compressed pages, answered by the manager's threads, "
         "against swap-in from zram and zswap")
TARGET = "<= 4"
ZSWAP = "/sys/module/zswap/parameters"
CLUSTER = "/proc/sys/vm/page-cluster"
PRIORITY = 32000
POLL_US = 50   # as the agent's default
SWAP_ROOM = 4  # times what is touched
ZSWAP_PART = 0.9  # of the pages, or it was the disk that was measured

# name: the tool, and how it touches its pages
PATTERNS = {
    "random": ["fault_touch", "--order", "random"],
    "sequential": ["fault_touch", "--order", "sequential"],
    "random, 2 threads": ["fault_touch", "--order", "random", "--threads",
                          "2"],
    "random, one a millisecond": ["fault_touch", "--order", "random", "--gap",
                                  "1000"],
    "KVM guest, random": ["kvm_touch", "--order", "random"],
    "KVM guest, sequential": ["kvm_touch", "--order", "sequential"],
}
ZRAM_BYTES = 1 << 30  # takes a whole guest, too
SLOW_TOUCHES = {False: 300, True: 2000}  # of the last one, quick and full
GUEST_ORDERS = {False: ("random",), True: ("random", "linear")}

# what is compared: field, unit, which is better, name
FIGURES = [("p50_ns", "ns", "less", "fault p50"),
           ("p99_ns", "ns", "less", "fault p99"),
           ("mean_ns", "ns", "less", "touch, mean"),
           ("cpu_ns", "ns", "less", "CPU per fault"),
           ("per_core_s", "1/s", "more", "faults per core-second")]


class Rival:
    def __init__(self, name, device, cluster, zswap):
        self.name = f"{name}, cluster {cluster}"
        self.device = device
        self.cluster = cluster
        self.zswap = zswap


class Touch:
    """Runs the tool, one side at a time."""

    def __init__(self, args, state):
        self.tools = os.path.join(args.build, "bench")
        self.mib = 128 if args.full else 16
        self.slow = SLOW_TOUCHES[args.full]
        self.seed = args.seed
        self.state = state

    def run(self, side, pattern, *options):
        name, *how = PATTERNS[pattern]
        tool = os.path.join(self.tools, name)
        if not os.path.exists(tool):
            raise result.Skip(f"no {tool}: make tools builds it")
        argv = [tool, side, "--mib", str(self.mib),
                "--seed", str(self.seed), *how, *options]
        if "--gap" in argv:
            argv += ["--touches", str(self.slow)]
        ran = subprocess.run(argv, capture_output=True, text=True)
        if ran.returncode == result.SKIP:
            raise result.Skip(ran.stderr.strip())
        if ran.stderr:
            result.say(ran.stderr.strip())
        ran.check_returncode()
        return json.loads(ran.stdout)

    def ours(self, pattern, poll_us=POLL_US, codec="zstd"):
        return self.run("ours", pattern, "--poll", str(poll_us), "--codec",
                        codec)

    def rival(self, rival, pattern):
        self.state.set(CLUSTER, rival.cluster)
        if os.path.isdir(ZSWAP):
            self.state.set(ZSWAP + "/enabled", "Y" if rival.zswap else "N")
        self.state.swap_on(rival.device, PRIORITY)
        try:
            got = self.run("swap", pattern)
        finally:
            self.state.swap_off(rival.device)
        part = got["zswapped_kib"] / (self.mib << 10)
        if rival.zswap and part < ZSWAP_PART:
            raise result.Skip(f"zswap kept only {part:.0%} of the pages")
        return got


def mkswap(path):
    ran = subprocess.run(["mkswap", path], capture_output=True, text=True)
    if ran.returncode:
        raise result.Skip(f"mkswap {path}: {ran.stderr.strip()}")


def zram_rivals(state, room):
    zram = state.zram("lz4", max(room, ZRAM_BYTES))
    mkswap(zram.path)
    return [Rival("zram lz4", zram.path, 0, False)]


def zswap_rivals(state, room, path, res):
    """A file, written whole: a swap file may have no holes."""
    if not os.path.isdir(ZSWAP):
        raise result.Skip("not in this kernel")
    with open(path, "wb") as file:
        for _ in range(room >> 20):
            file.write(bytes(1 << 20))
        os.fsync(file.fileno())
    os.chmod(path, 0o600)
    mkswap(path)
    name = zswap_compressor(state)
    if name != "lz4":
        res.lacks(f"zswap with lz4: this kernel has it with {name} only")
    state.set(ZSWAP + "/max_pool_percent", 40)
    return [Rival(f"zswap {name}", path, cluster, True) for cluster in (0, 3)]


def zswap_compressor(state):
    """The first of these it takes; else what it is set to."""
    for name in ("lz4", "lzo-rle"):
        try:
            state.set(ZSWAP + "/compressor", name)
            return name
        except OSError:
            continue
    return kernel.read(ZSWAP + "/compressor")


def rivals_find(state, touch, path, res):
    found = []
    room = SWAP_ROOM * touch.mib << 20
    for name, find in (("zram", lambda: zram_rivals(state, room)),
                       ("zswap", lambda: zswap_rivals(state, room, path,
                                                         res))):
        try:
            found += find()
        except result.Skip as why:
            res.lacks(f"{name}: {why}")
    return found


def rivals_of(rivals, pattern):
    """Read-ahead is a process's matter: a guest's touches come one by one."""
    return [rival for rival in rivals
            if rival.cluster == 0 or PATTERNS[pattern][0] == "fault_touch"]


def pattern_run(touch, rivals, pattern, repetitions, res):
    """Ours, then each rival in turn, again and again."""
    ours, asleep, lz4 = [], [], []
    theirs = {rival.name: [] for rival in rivals}
    for number in range(repetitions):
        result.say(f"{pattern}: {number + 1} of {repetitions}")
        ours.append(touch.ours(pattern))
        asleep.append(touch.ours(pattern, 0))
        lz4.append(touch.ours(pattern, codec="lz4"))
        for rival in list(rivals):
            try:
                theirs[rival.name].append(touch.rival(rival, pattern))
            except result.Skip as why:
                res.lacks(f"{rival.name}: {why}")
                rivals.remove(rival)
    return ours, asleep, lz4, theirs


def pattern_tell(res, pattern, ours, asleep, lz4, theirs):
    for rival, runs in theirs.items():
        if len(runs) < len(ours):
            continue
        for field, unit, better, name in FIGURES:
            target = TARGET if field == "p50_ns" and "zram" in rival else None
            res.pair(f"{name}, {pattern}", unit, better, rival,
                     [run[field] for run in ours],
                     [run[field] for run in runs], target)
    res.value(f"fault p99.9, {pattern}", "ns",
              [run["p999_ns"] for run in ours])
    for field, unit, _, name in FIGURES[:4]:
        res.value(f"{name}, {pattern}, no polling", unit,
                  [run[field] for run in asleep])
        res.value(f"{name}, {pattern}, codec lz4", unit,
                  [run[field] for run in lz4])


def guest_tell(res, rival, got):
    """Of a Linux guest; figures only if its pages really were out."""
    present = got.pop("present")
    for order, (ours, theirs) in got.items():
        name = f"TCG guest, {order}"
        if not cold_guest.usable(ours + theirs):
            res.lacks(f"{name}: pages were there that should be out: "
                      + ", ".join(f"{r['back']:.2f}" for r in ours + theirs))
            continue
        for field, unit, better, title in FIGURES[:4]:
            target = TARGET if field == "p50_ns" else None
            res.pair(f"{title}, {name}", unit, better, rival.name,
                     [run[field] for run in ours],
                     [run[field] for run in theirs], target)
    for side, runs in zip(("ours", "the rival's"), present):
        res.value(f"touch of what is there, p50, TCG guest, {side}", "ns",
                  [run["p50_ns"] for run in runs])


def guest_measure(args, state, rivals, repetitions, res):
    """The rival: zram, where there is any."""
    rival = next((r for r in rivals if not r.zswap), None)
    if not rival:
        res.lacks("TCG guest: no zram to compare with")
        return
    result.say("a Linux guest under TCG")
    state.set(CLUSTER, rival.cluster)
    if os.path.isdir(ZSWAP):
        state.set(ZSWAP + "/enabled", "N")
    state.swap_on(rival.device, PRIORITY)
    try:
        with tempfile.TemporaryDirectory(prefix="tidepool-fault-") as folder, \
                Life(folder) as life:
            got = cold_guest.measure(life, folder, args.build, args.seed,
                                     repetitions, GUEST_ORDERS[args.full])
        guest_tell(res, rival, got)
    except result.Skip as why:
        res.lacks(f"TCG guest: {why}")
    finally:
        state.swap_off(rival.device)


def run(args):
    kernel.need_root()
    repetitions = 9 if args.full else 5
    path = os.path.join(args.build, "bench", "fault.swap")
    with kernel.Kernel() as state:
        touch = Touch(args, state)
        res = result.Result(ABOUT, mib=touch.mib, seed=args.seed,
                            repetitions=repetitions,
                            slow_touches=touch.slow, poll_us=POLL_US)
        state.keep(CLUSTER)
        try:
            rivals = rivals_find(state, touch, path, res)
            for pattern in PATTERNS:
                try:
                    runs = pattern_run(touch, rivals_of(rivals, pattern),
                                       pattern, repetitions, res)
                    pattern_tell(res, pattern, *runs)
                except result.Skip as why:
                    res.lacks(f"{pattern}: {why}")
            guest_measure(args, state, rivals, repetitions, res)
        finally:
            if os.path.exists(path) and path not in kernel.swaps():
                os.unlink(path)
    return res


if __name__ == "__main__":
    sys.exit(result.main(ABOUT, run))
