#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""TMEM: what a guest with too little memory gains, beside the same guest with
its disk alone.

The rival is no straw man: the stock kernel with its page cache and swap on the
same disk, limited for both alike (see lib/tmem_guest.py). Under TCG everything
the driver and the host do costs far more than on hardware, while the disk is as
slow as it says: what is gained here is gained against that. A guest that has
all the memory it needs tells how much there is to gain at most.
"""
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import initrd, result, tmem_guest  # noqa: E402
from lib.life import Life  # noqa: E402

UNITS = {False: 2, True: 4}
PAIRS = 5


def sectors_percent(passes):
    """What the second pass read of what the first did."""
    first, second = passes
    return 100 * second / first


def files(runs, out, repetitions):
    ours, theirs = result.interleave(
        repetitions, lambda: runs.files(True), lambda: runs.files(False))
    result.say(f"  sectors of two passes: {ours} with, {theirs} without")
    out.pair("sectors read by a second pass over files of 2x RAM", "sectors",
             "less", "page cache alone", [p[1] for p in ours],
             [p[1] for p in theirs], "<= 0.1")
    out.value("the same, of the first pass", "%",
              [sectors_percent(p) for p in ours], "<= 10")


def compile_pairs(runs, out, target=None):
    times = runs.rig.work_mib / tmem_guest.RAM_MIB
    work = f"compiling {times:g}x RAM"
    ours, theirs = result.interleave(
        PAIRS, lambda: runs.compile(True), lambda: runs.compile(False))
    tmem_guest.sums_compare(ours + theirs)
    result.say(f"  with: {ours}\n  without: {theirs}")
    out.pair(f"{work}: runs a second", "1/s", "more",
             "disk swap, no cleancache", [1 / r["seconds"] for r in ours],
             [1 / r["seconds"] for r in theirs], target)
    for key, name in (("disk_sectors_read", "sectors read of files"),
                      ("swap_sectors_read", "sectors read of swap"),
                      ("swap_sectors_written", "sectors written to swap")):
        out.pair(f"{work}: {name}", "sectors", "less", "disk",
                 [r[key] for r in ours], [r[key] for r in theirs])


def roomy(runs, out):
    """The same work where nothing has to be fetched twice."""
    done = runs.compile(False, tmem_guest.ROOMY_MIB)
    out.value(f"compiling it with {tmem_guest.ROOMY_MIB} MiB: runs a second",
              "1/s", [1 / done["seconds"]])


def compile_fitting(life, args, folder, units, out):
    """The same with a working set that the memory would hold, but for the
    kernel's own share."""
    os.makedirs(folder)
    rig = tmem_guest.Rig(folder, args.build, units, args.seed, files=False,
                         work_mib=tmem_guest.RAM_MIB)
    compile_pairs(tmem_guest.Runs(rig, life), out)


def disk(runs, out):
    for depth in (1, 8):
        out.value(f"the disk: a read of 4 KiB, {depth} at a time", "ms",
                  [runs.disk_ms(depth)])


def run(args):
    initrd.tools_check()
    units = UNITS[args.full]
    out = result.Result(
        "a guest with too little memory, under TCG: TMEM beside the disk "
        "alone", ram_mib=tmem_guest.RAM_MIB, disk="100 MB/s, 0.5 ms a request",
        units=units, jobs=tmem_guest.JOBS, seed=args.seed)
    out.lacks("KVM: no stock kernel runs under it on every machine, so TCG")
    with tempfile.TemporaryDirectory(prefix="tidepool-tmem-") as folder, \
            Life(folder) as life:
        rig = tmem_guest.Rig(folder, args.build, units, args.seed)
        runs = tmem_guest.Runs(rig, life)
        disk(runs, out)
        files(runs, out, 5 if args.full else 1)
        compile_pairs(runs, out, ">= 1.3")
        if args.full:
            roomy(runs, out)
            compile_fitting(life, args, os.path.join(folder, "fitting"), units,
                            out)
    return out


if __name__ == "__main__":
    sys.exit(result.main(__doc__.split("\n\n")[0], run))
