#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache under a file system while everything around it comes and goes: the
device-mapper device is suspended, reloaded and told to forget, the line's
device is taken from its driver and given back, pages that the host has no room
for are dropped. What is read must be right all the while, and something of it
must have come from the host.

On ext4, and on xfs, which moves blocks under pages that stay (reflink) and
reads into large folios. TMEM_STORM_SECONDS=600 is the long storm.
"""

import os
import random
import shutil
import subprocess
import time

import lib
import lib_tmem
from lib import check, say
from lib_tmem import DM, ENV, Machine

RAM = 112
SECONDS = int(os.environ.get("TMEM_STORM_SECONDS", "15"))
DRIVER = "/sys/bus/pci/drivers/tidepool_tmem"

lib_tmem.MODULES = (*lib_tmem.MODULES, "xfs")


def stormy(name, kind, disk, tmem=256):
    """A guest with a storm on the target over the disk."""
    m = Machine(name, lib.Hvd().start(), ram=RAM, swap=0, tmem=tmem,
                disks=[disk], smp=2)
    device = m.driver_load(swap=False).cache_on("vda")
    m.run(f"mount -t {kind} {device} /mnt && mkdir /mnt/storm", 60)
    m.shell.start(f"storm /mnt/storm {SECONDS} {lib.seed()}", "storm")
    return m


def calm(m, hits=100):
    """No difference; all can be taken down; its counters."""
    status, text = m.shell.wait("storm", SECONDS + 120)
    check(status == 0, f"{m.name}: {text}")
    counters = m.counters()
    for line in m.run(f"cat {lib_tmem.DEBUG}/cache").splitlines():
        counters[line.split()[0]] = int(line.split()[1])
    say(text.splitlines()[-1], counters)
    check(counters["cache_hits"] >= hits, "the cache was hardly hit")
    m.cache_off()
    m.run("rmmod tidepool_tmem")
    m.kernel_is_fine()
    m.kill()
    return counters


def xfs_make(name, mib):
    if not shutil.which("mkfs.xfs", path=ENV["PATH"]):
        raise lib.Skip("no mkfs.xfs here")
    path = lib_tmem.disk_blank(name, mib)
    subprocess.run(["mkfs.xfs", "-q", path], check=True, env=ENV)
    return path


def xfs_check(path):
    r = subprocess.run(["xfs_repair", "-n", path], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, env=ENV)
    check(r.returncode == 0, f"xfs_repair -n {path}: {r.stdout[-2000:]}")


def disturbances(m):
    """What one can do to it, by name; each a command that must end well."""
    line = m.run(f"cd {DRIVER} && ls -d 0*")
    sectors = m.disk_sectors("vda")
    return {
        "suspend": f"{DM} suspend cached && sleep 0.1 && {DM} resume cached",
        "noflush": f"{DM} suspend --noflush --nolockfs cached && "
                   f"{DM} resume cached",
        "forget": f"{DM} message cached 0 forget",
        "reload": f"{DM} load cached --table '0 {sectors} tmem-cache /dev/vda'"
                  f" && {DM} resume cached",
        "line": f"echo {line} >{DRIVER}/unbind; sleep 0.3; "
                f"echo {line} >{DRIVER}/bind",
        "module": "! rmmod tidepool_tmem 2>/dev/null",
    }


def comes_and_goes_in_a_storm():
    """suspend, reload, forget, the line away and back, rmmod refused"""
    disk = lib_tmem.disk_make("life", 400)
    m = stormy("life", "ext4", disk)
    todo = disturbances(m)
    done = dict.fromkeys(todo, 0)
    chance = random.Random(lib.seed())
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or not all(done.values()):
        name = chance.choice(list(todo))
        m.run(todo[name])
        done[name] += 1
        time.sleep(0.4)
    say("done to it:", done)
    check(calm(m)["disks"] == 1, "a device of before was left")
    lib_tmem.fsck(disk)


def xfs_makes_no_difference():
    """the storm on xfs: reflinks, large folios"""
    disk = xfs_make("xfs", 400)
    m = stormy("xfs", "xfs", disk)
    m.cache_drop()
    calm(m)
    xfs_check(disk)


def full_store_makes_no_difference():
    """a host that drops most of what it gets: those reads go to the disk"""
    disk = lib_tmem.disk_make("full", 400)
    m = stormy("full", "ext4", disk, tmem=2)
    m.cache_drop()
    check(calm(m, 1)["gone"] > 0, "the host dropped nothing")
    lib_tmem.fsck(disk)


lib.main(comes_and_goes_in_a_storm, full_store_makes_no_difference,
         xfs_makes_no_difference)
