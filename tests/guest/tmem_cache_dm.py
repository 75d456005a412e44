#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache among other targets of the device mapper: its device grows under a
mounted file system; snapshots are taken of what lies below it, and of itself.

A snapshot must go on reading what was there, the origin what was written since,
whichever of them the host has pages of. The page cache is dropped all the
time, files are written with and without it, and freed blocks are used again.
"""

import hashlib
import os

import lib
import lib_tmem
from lib import check, say
from lib_tmem import DM, MIB, Machine

RAM = 112
SMALL, LARGE = 96, 256      # MiB, of the device that grows
COPIES = 7                  # of 16 MiB
DISK = 44                   # MiB, so that freed blocks must be used again
FILES, FILE_MIB = 16, 1

lib_tmem.MODULES = (*lib_tmem.MODULES, "dm_snapshot")


def machine(name, *disks):
    """A guest with the driver, whose page cache is dropped all the time."""
    m = Machine(name, lib.Hvd().start(), ram=RAM, swap=0, tmem=512,
                disks=disks, smp=2, binaries=["/sbin/resize2fs"])
    m.driver_load(swap=False).cache_drop()
    return m


def hits(m):
    return m.counters()["cache_hits"]


def blocks_free(m):
    return m.shell.number("stat -f -c %f /mnt")


def finish(m, disk, *devices):
    """All can be taken down, upper devices first, and the disk is clean."""
    for device in devices:
        m.run(f"dmsetup remove {device}")
    m.run("rmmod tidepool_tmem")
    m.kernel_is_fine()
    m.kill()
    lib_tmem.fsck(disk)


# ---- growing ----------------------------------------------------------------

def grown(m, device):
    """Device and file system, while both are in use."""
    m.run(f"{DM} load cached --table '0 {LARGE << 11} tmem-cache /dev/vda' && "
          f"{DM} suspend cached && {DM} resume cached")
    m.run(f"resize2fs {device}", 60)
    size = m.shell.number("stat -f -c %b /mnt") // 256
    say(f"the file system has {size} MiB now")
    check(size > LARGE * 7 // 8, "it did not grow")


def device_grows_in_a_storm():
    """from 96 to 256 MiB, mounted and written to; all of it is cached"""
    folder = os.path.join(lib.work, "files")
    sums = lib_tmem.files_make(folder, 4, 4)
    disk = lib_tmem.disk_make("grow", SMALL, folder)
    os.truncate(disk, LARGE * MIB)
    m = machine("grow", disk)
    device = m.dm_make("cached", f"0 {SMALL << 11} tmem-cache /dev/vda")
    m.run(f"mount -t ext4 {device} /mnt && mkdir /mnt/storm", 60)
    m.files_check("/mnt", sums)
    m.shell.start(f"storm /mnt/storm 6 {lib.seed()} 2", "storm")
    grown(m, device)
    folders = [f"/mnt/c{i}" for i in range(COPIES)]
    for folder in folders:
        m.run(f"mkdir {folder} && cp /mnt/f* {folder}")
    status, text = m.shell.wait("storm", 60)
    check(status == 0, f"{m.name}: {text}")
    m.run("sync", 60)
    before = hits(m)
    for folder in folders:
        m.files_check(folder, sums)
    found = hits(m) - before
    say(text.splitlines()[-1], f"{found} hits in {COPIES * 16 * 256} pages")
    # The files copied lie in what was there before.
    check(found > (SMALL - 16) * 256, "nothing beyond the old end was cached")
    m.run("umount /mnt", 60)
    finish(m, disk, "cached")


# ---- snapshots --------------------------------------------------------------

class Files:
    """What must be read in the origin (now) and in the snapshot (old)."""

    def __init__(self):
        self.folder = os.path.join(lib.work, "files")
        self.old = lib_tmem.files_make(self.folder, FILES, FILE_MIB)
        self.new = lib_tmem.files_make(f"{self.folder}/new", FILES, FILE_MIB)
        self.now = dict(self.old)

    def disk(self, name):
        return lib_tmem.disk_make(name, DISK, self.folder)

    def overwrite(self, m, numbers, flags=""):
        """In place, so the blocks stay."""
        for i in numbers:
            m.run(f"cd /mnt && dd if=new/f{i} of=f{i} bs=64k conv=notrunc "
                  f"{flags}")
            self.now[f"f{i}"] = self.new[f"f{i}"]

    def truncate(self, m, numbers, size):
        for i in numbers:
            m.run(f"truncate -s {size} /mnt/f{i}")
            with open(f"{self.folder}/f{i}", "rb") as f:
                self.now[f"f{i}"] = hashlib.md5(f.read(size)).hexdigest()

    def change(self, m):
        """Overwrites half of them, truncates and removes others, fills what is
        free then; two stay."""
        free = blocks_free(m)
        self.overwrite(m, range(0, 5))
        self.overwrite(m, range(5, 8), "oflag=direct")
        self.truncate(m, range(8, 11), FILE_MIB * MIB // 2 + 1000)
        for i in range(11, 14):
            m.run(f"rm /mnt/f{i}")
            del self.now[f"f{i}"]
        m.run("sync")
        # ext4 keeps some blocks to itself.
        copies = (blocks_free(m) - 320) // (FILE_MIB * 256)
        for i in range(copies):
            m.run(f"cp /mnt/new/f{i} /mnt/free{i}")
            self.now[f"free{i}"] = self.new[f"f{i}"]
        m.run("sync")
        check(copies * FILE_MIB * 256 > free, "no freed block was used again")

    def check(self, m):
        """Origin and snapshot, in both orders."""
        both = {"/mnt": self.now, "/snap": self.old}
        for folder in ("/snap", "/mnt", "/mnt", "/snap"):
            m.files_check(folder, both[folder])
            m.run("sync; echo 3 >/proc/sys/vm/drop_caches")


def snapshot_make(m, origin, suspended, chunk):
    """Of a device, stored on the second disk, while others are suspended, the
    file system's first; its path."""
    for name in suspended:
        m.run(f"{DM} suspend {name}")
    path = m.dm_make("snap", f"0 {DISK << 11} snapshot {origin} /dev/vdb P "
                     f"{chunk}")
    for name in reversed(suspended):
        m.run(f"{DM} resume {name}")
    return path


def rolled_back(m):
    """Below the cache, what was there before comes back."""
    m.run(f"{DM} suspend cached && {DM} suspend origin && dmsetup remove snap")
    m.run(f"{DM} load origin --table '0 {DISK << 11} snapshot-merge /dev/vda "
          "/dev/vdb P 8'")
    m.run(f"{DM} resume origin && {DM} resume cached")


def merged(m):
    """Does the snapshot's store hold nothing but its own tables?"""
    used, tables = m.run("dmsetup status origin").split()[3:5]
    return used.split("/")[0] == tables


def snapshot_below_the_cache():
    """the cache over the origin, and over the snapshot; rolled back"""
    files = Files()
    disk = files.disk("below")
    m = machine("below", disk, lib_tmem.disk_blank("cow", 2 * DISK))
    size = DISK << 11
    origin = m.dm_make("origin", f"0 {size} snapshot-origin /dev/vda")
    cached = m.dm_make("cached", f"0 {size} tmem-cache {origin}")
    m.run(f"mount -t ext4 {cached} /mnt && mkdir /snap", 60)
    m.files_check("/mnt", files.old)
    snap = snapshot_make(m, "/dev/vda", ("cached", "origin"), 8)
    old = m.dm_make("old", f"0 {size} tmem-cache {snap}")
    m.run(f"mount -t ext4 -o ro {old} /snap")
    files.check(m)
    files.change(m)
    before = hits(m)
    files.check(m)
    found = hits(m) - before
    say(f"{found} hits in origin and snapshot")
    check(found > FILES * FILE_MIB * 256, "the cache was hardly hit")
    m.run("umount /snap /mnt && dmsetup remove old", 60)
    lib_tmem.fsck(disk)
    rolled_back(m)
    m.run(f"mount -t ext4 {cached} /mnt", 60)
    m.files_check("/mnt", files.old)
    lib.wait_for("the snapshot to be merged", lambda: merged(m), 30)
    m.files_check("/mnt", files.old)
    m.run("umount /mnt", 60)
    finish(m, disk, "cached", "origin")


def snapshot_of_the_cached_device():
    """the cache under the origin and its snapshot, which copies out of it"""
    files = Files()
    disk = files.disk("above")
    m = machine("above", disk, lib_tmem.disk_blank("cow", 2 * DISK))
    cached = m.cache_on("vda")
    m.run(f"mount -t ext4 {cached} /mnt && mkdir /snap", 60)
    m.files_check("/mnt", files.old)
    m.run("echo 3 >/proc/sys/vm/drop_caches; umount /mnt", 60)
    origin = m.dm_make("origin", f"0 {DISK << 11} snapshot-origin {cached}")
    m.run(f"mount -t ext4 {origin} /mnt", 60)
    # Nothing is copied yet, so these writes are what drops these pages.
    files.overwrite(m, (14, 15))
    m.run("sync")
    files.old = dict(files.now)
    snap = snapshot_make(m, cached, ("origin",), 32)
    m.run(f"mount -t ext4 -o ro {snap} /snap")
    before = hits(m)
    files.change(m)
    found = hits(m) - before
    say(f"{found} pages of the copies came from the host")
    check(found > FILES * FILE_MIB * 256 // 4, "the cache was hardly hit")
    files.check(m)
    m.run("umount /snap /mnt", 60)
    finish(m, disk, "snap", "origin", "cached")


lib.main(device_grows_in_a_storm, snapshot_below_the_cache,
         snapshot_of_the_cached_device)
