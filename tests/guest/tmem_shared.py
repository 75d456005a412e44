#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock kernels that share evicted page cache: three guests with one read-only
image and the target tmem-cache over it, each in the shared pool of its uuid.

Two are of one trust domain: what the first evicts the second need not read from
the disk. The third is of another domain: it knows the uuid and gets nothing.
"""

import os

import lib
import lib_tmem
from lib import check, say, wait_for
from lib_tmem import DM, Machine, shell_guest

RAM = 128
FILE_MIB = 8
FILES = 6
SECTORS = FILES * FILE_MIB * 2048
UUID = "7c1d2e90-5a0b-4d1c-9f3e-0123456789ab"


def machine(hvd, name, domain, disk):
    """A guest with its driver loaded, and the image as /dev/vda."""
    m = Machine(name, hvd, ram=RAM, swap=0, tmem=4 * FILES * FILE_MIB,
                domain=domain, more=shell_guest.disk_args(
                    disk, "image", more=",readonly=on"))
    wait_for(f"hvd to know of {name}'s line",
             lambda: (hvd.vm(name) or {"guest": {"lines": 0}})
             ["guest"]["lines"], 30)
    return m.driver_load(swap=False)


def shared_pools(m):
    return int(m.run(f"sed -n 's/^shared //p' {lib_tmem.DEBUG}/cache"))


def image_on(m):
    """The target over the image, and that on /mnt."""
    device = m.dm_make("cached", f"0 {m.disk_sectors('vda')} tmem-cache "
                       f"/dev/vda shared {UUID}", "--readonly")
    m.run(f"mount -t ext4 -o ro,noload {device} /mnt")


def pass_over(m, sums):
    """Reads every file anew; sectors of the disk it took, pages it got."""
    m.run("echo 1 >/proc/sys/vm/drop_caches")
    sectors, hits = m.shell.sectors("vda")[0], m.counters()["cache_hits"]
    m.files_check("/mnt", sums)
    return (m.shell.sectors("vda")[0] - sectors,
            m.counters()["cache_hits"] - hits)


def refused(m, command, why):
    status, text = m.shell.ask(command)
    check(status != 0, f"{command}: it was done")
    check(why in text + m.run("dmesg | tail -n 20"),
          f"{command}: not refused for that: {text}")


def writers_are_refused(m):
    """Whoever could write would make others read what they did not."""
    table = f"0 {m.disk_sectors('vda')} tmem-cache /dev/vda shared"
    refused(m, f"{DM} create writer --table '{table} {UUID}'", "read-only")
    refused(m, f"{DM} create nobody --readonly --table '{table} 1234'",
            "expected")
    refused(m, "dd if=/dev/zero of=/dev/dm-0 bs=4096 count=1 oflag=direct", "")


def guests_of_a_domain_share():
    """the second guest's reads are what the first evicted; another's are not"""
    folder = os.path.join(lib.work, "image")
    sums = lib_tmem.files_make(folder, FILES, FILE_MIB)
    disk = lib_tmem.disk_make("image", FILES * FILE_MIB + 32, folder)
    hvd = lib.Hvd().start()
    first = machine(hvd, "first", "boot", disk)
    image_on(first)
    check(shared_pools(first) == 0, "a pool was joined without authority")
    check(pass_over(first, sums)[0] >= SECTORS, "the disk was not read")
    lib_tmem.ctl(hvd, "auth", UUID, "first", "on")
    # It asks again by itself, while it reads.
    wait_for("the pool to be joined", lambda: pass_over(first, sums) and
             shared_pools(first), 60)
    # What meets a full queue is dropped, and put the next time.
    wait_for("its pages to be in the pool", lambda: pass_over(first, sums) and
             hvd.vm("first")["common"]["pages"] >=
             FILES * FILE_MIB * 256 * 98 // 100, 60)
    writers_are_refused(first)
    say("the first guest's pages:", hvd.vm("first")["common"],
        first.counters())
    check(hvd.vm("first")["guest"]["ephemeral_pages"] == 0,
          "some pages are in a pool of its own")

    second = machine(hvd, "second", "boot", disk)
    lib_tmem.ctl(hvd, "auth", UUID, "second", "on")
    image_on(second)
    sectors, hits = pass_over(second, sums)
    say(f"second: {sectors} sectors of {SECTORS} from the disk, {hits} pages "
        "of the first's")
    check(sectors < SECTORS // 3, "the disk was read")
    check(hits > FILES * FILE_MIB * 256 * 2 // 3, "few pages were shared")

    alien = machine(hvd, "alien", "other", disk)
    lib_tmem.ctl(hvd, "auth", UUID, "alien", "on")
    image_on(alien)
    check(shared_pools(alien) == 1, "it could not join its domain's pool")
    sectors, hits = pass_over(alien, sums)
    say(f"another domain's: {sectors} sectors from the disk, {hits} pages")
    check(hits == 0 and sectors >= SECTORS, "it got another domain's pages")

    first.kill()
    pass_over(second, sums)
    for m in (second, alien):
        m.cache_off()
        m.run("rmmod tidepool_tmem")
        m.kernel_is_fine()
    hvd.check()


def host_that_changes_its_mind():
    """hvd dies and comes back, a pool is destroyed: it is joined anew"""
    folder = os.path.join(lib.work, "mind")
    sums = lib_tmem.files_make(folder, 2, FILE_MIB)
    disk = lib_tmem.disk_make("mind", 2 * FILE_MIB + 32, folder)
    hvd = lib.Hvd().start()
    m = machine(hvd, "mind", "boot", disk)
    lib_tmem.ctl(hvd, "auth", UUID, "mind", "on")
    image_on(m)
    pass_over(m, sums)
    check(pass_over(m, sums)[1] > 0, "nothing was kept")
    hvd.kill()
    check(pass_over(m, sums)[1] == 0, "pages came from a dead host")
    hvd.start()
    wait_for("pages to be kept again", lambda: pass_over(m, sums)[1], 60)
    lib_tmem.ctl(hvd, "destroy", "mind:16")
    pass_over(m, sums)
    wait_for("the pool to be joined anew", lambda: pass_over(m, sums)[1] and
             hvd.vm("mind")["common"]["pages"], 60)
    m.cache_off()
    m.kernel_is_fine()


lib.main(guests_of_a_domain_share, host_that_changes_its_mind)
