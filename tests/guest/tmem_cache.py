#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock kernel whose evicted page cache the host keeps: ext4 on the target
tmem-cache over a virtio disk.

What a file system reads must be what it would read without: under a storm of
every way to change a file, and after the power was cut. What it need not read
from the disk is counted in sectors. TMEM_STORM_SECONDS=600 is the long storm,
TMEM_LONG=1 cuts the power more often.
"""

import os
import random
import subprocess

import lib
import lib_tmem
from lib import Failed, check, say
from lib_tmem import LONG, Machine, ShellError

RAM = 112
STORM_SECONDS = int(os.environ.get("TMEM_STORM_SECONDS", "12"))
CUTS = 20 if LONG else 2
FILE_MIB = 8
FILES = 2 * RAM // FILE_MIB


def mounted(m, cached=True):
    """/dev/vda on /mnt, by way of the target or plainly."""
    device = m.driver_load(swap=False).cache_on("vda") if cached \
        else "/dev/vda"
    m.run(f"mount -t ext4 {device} /mnt", 60)
    return m


def storm_makes_no_difference():
    """every way to change a file, page cache dropped all the time"""
    disk = lib_tmem.disk_make("storm", 256)
    m = mounted(Machine("storm", lib.Hvd().start(), ram=RAM, swap=0, tmem=256,
                        disks=[disk], smp=2))
    m.cache_drop()
    m.run("mkdir /mnt/storm")
    text = m.run(f"storm /mnt/storm {STORM_SECONDS} {lib.seed()}",
                 STORM_SECONDS + 120)
    counters = m.counters()
    say(text.splitlines()[-1], {k: v for k, v in counters.items()
                                if k.startswith("cache")})
    check(counters["cache_hits"] > 100, "the cache was hardly hit")
    check(counters["cache_flushes"] > 0, "nothing was ever flushed")
    m.cache_off()
    m.run("rmmod tidepool_tmem")
    m.kernel_is_fine()
    m.kill()
    lib_tmem.fsck(disk)


def first_block(disk, path):
    """Where on the disk a file that lies in one piece begins, in blocks."""
    text = subprocess.run(["debugfs", "-R", f"bmap {path} 0", disk],
                          env=lib_tmem.ENV, check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True).stdout
    return int(text)


def block_written_under_a_page():
    """a page whose block was written since is not kept for that block"""
    folder = os.path.join(lib.work, "under")
    os.mkdir(folder)
    for name in ("file", "other"):
        with open(os.path.join(folder, name), "wb") as f:
            f.write(random.Random(lib.seed()).randbytes(64 << 12))
    disk = lib_tmem.disk_make("under", 64, files=folder)
    block = first_block(disk, "/file")
    m = mounted(Machine("under", lib.Hvd().start(), ram=RAM, swap=0, tmem=64,
                        disks=[disk]))
    device = m.run("sed -n 's/ .mnt ext4.*//p' /proc/mounts")
    m.run("cat /mnt/file >/dev/null; yes new | head -c 262144 >/new")
    m.run(f"dd if=/new of={device} bs=4k seek={block} oflag=direct "
          "conv=notrunc")
    # A page that somebody holds for a moment is dropped the next time.
    lib.wait_for("the file to be as on the disk", lambda: m.shell.ask(
        "cat /mnt/other >/dev/null; echo 1 >/proc/sys/vm/drop_caches; "
        "cmp /new /mnt/file")[0] == 0, 10)
    stale = m.run(f"sed -n 's/^stale //p' {lib_tmem.DEBUG}/cache")
    say(f"{stale} pages were stale, {m.counters()['cache_puts']} put")
    check(int(stale) >= 32, "the file's pages were never known")
    m.cache_off()
    m.kernel_is_fine()


def pass_over(m, sums):
    """Reads every file; sectors it took of the disk."""
    before = m.shell.sectors("vda")[0]
    m.files_check("/mnt", sums)
    return m.shell.sectors("vda")[0] - before


def second_pass_spares_the_disk():
    """files of 2x RAM, read again: at least 80 % fewer sectors"""
    # 95 % where the host keeps up. What meets a full queue is dropped, so a
    # busy one loses some; `make bench B=tmem` holds it against its target.
    folder = os.path.join(lib.work, "files")
    sums = lib_tmem.files_make(folder, FILES, FILE_MIB)
    disk = lib_tmem.disk_make("files", FILES * FILE_MIB + 64, folder)
    m = mounted(Machine("reader", lib.Hvd().start(), ram=RAM, swap=0,
                        tmem=2 * FILES * FILE_MIB, disks=[disk]))
    first = pass_over(m, sums)
    second = pass_over(m, sums)
    counters = m.counters()
    say(f"sectors: first pass {first}, second {second}", counters)
    check(first >= FILES * FILE_MIB * 2048, "the first pass came from a cache")
    check(second <= first // 5, f"the second pass read {second} sectors, "
          f"of {first}")
    m.kernel_is_fine()


class Ledger:
    """What records said was safe, round by round."""

    def __init__(self):
        self.rounds = []  # (seed, {slot: version}, logs)

    def note(self, seed, lines):
        slots, logs = {}, 0
        for line in lines:
            words = line.split()
            if words[:1] == ["slot"] and len(words) == 3:
                slots[int(words[1])] = int(words[2])
            elif words[:1] == ["log"] and len(words) == 2:
                logs = int(words[1])
        self.rounds.append((seed, slots, logs))
        return len(slots), logs

    def check(self, m):
        for i, (seed, slots, logs) in enumerate(self.rounds):
            status, text = m.shell.ask(f"records check /mnt/r{i} {seed}", 60)
            check(status == 0, f"round {i}: a torn record: {text}")
            have, count = text.splitlines()
            have = [int(w) for w in have.split()[1:]]
            old = [s for s, v in slots.items() if have[s] < v]
            check(not old, f"round {i}: slots {old[:5]} are older than what "
                  "was safe")
            check(int(count.split()[1]) >= logs, f"round {i}: {count}, but "
                  f"{logs} were safe")


def said_until_the_cut(m, seconds):
    """All the lines that come in that time, then the cut, then the rest."""
    lines = []
    end = lib.time.monotonic() + seconds
    while True:
        left = end - lib.time.monotonic()
        if left <= 0:
            break
        try:
            lines.append(m.shell.line(left))
        except ShellError as e:
            if not m.alive():
                raise Failed(f"the guest died by itself: {e}")
            break
    m.kill()
    return lines + m.shell.drain()


def power_cuts():
    """kill -9 of QEMU in a storm: what was synced is there, fsck is clean"""
    disk = lib_tmem.disk_make("cut", 256)
    hvd = lib.Hvd().start()
    ledger = Ledger()
    chance = random.Random(lib.seed())
    for cut in range(CUTS + 1):
        # Now and then without the target: the disk alone is the truth.
        cached = cut % 3 != 1
        m = mounted(Machine(f"cut{cut}", hvd, ram=RAM, swap=0, tmem=256,
                            disks=[disk]), cached)
        ledger.check(m)
        if cut == CUTS:
            break
        m.run(f"rm -rf /mnt/s*; mkdir /mnt/s{cut} /mnt/r{cut}; sync")
        m.cache_drop()
        m.shell.start(f"storm /mnt/s{cut} 1000 {lib.seed()}", "storm")
        seed = lib.seed()
        m.shell.send(f"records write /mnt/r{cut} {seed}")
        lines = said_until_the_cut(m, chance.uniform(1, 5))
        slots, logs = ledger.note(seed, lines)
        say(f"cut {cut} {'with' if cached else 'without'} the target: {slots} "
            f"slots, {logs} log records were safe")
        check(slots, "nothing was written before the cut")
    m.run("umount /mnt", 60)
    m.kill()
    lib_tmem.fsck(disk)


lib.main(storm_makes_no_difference, block_written_under_a_page,
         second_pass_spares_the_disk, power_cuts)
