#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The package for Debian guests, in a Debian 12 with systemd: installing it is
all that swapping to the host takes, and telling it of memory pressure, a line in a
list all that the cache takes; it survives reboots, is no trouble where there is no device, and goes without a
trace.
"""

import hashlib
import os
import random
import subprocess

import lib
import lib_tmem
from lib import check, say, wait_for
from lib_debian import Debian, install, root_copy

SWAP = 192
PRIORITY = 100      # the agent's, for all
PACKAGE = "tidepool-tmem-dkms"
FILE = random.Random(24).randbytes(24 << 20)


def data_make():
    """(a disk with a file to read, the folder with the package)"""
    folder = os.path.join(lib.work, "data")
    os.mkdir(folder)
    subprocess.run(["make", "-s", "-C", lib.ROOT + "/guest-drivers/linux",
                    "deb", "OUT=" + folder], check=True,
                   stdout=subprocess.DEVNULL)
    with open(folder + "/file", "wb") as f:
        f.write(FILE)
    return lib_tmem.disk_make("data", 64, folder), folder


def swaps_to_the_host(m):
    """The device is a swap area as the host wants it, and is used."""
    def area():
        return [ln.split() for ln in m.run("cat /proc/swaps").splitlines()
                if ln.startswith("/dev/tmemswap0")]
    found = wait_for("the swap area", area, 20)[0]
    check(int(found[2]) == SWAP * 1024 - 4 and int(found[4]) == PRIORITY,
          f"the swap area is {found}")
    # 48 MiB in a group of 16: most of it must be somewhere else.
    text = m.run("systemd-run -q --wait --pipe -p MemoryMax=16M sh -c '"
                 "head -c 48M /dev/urandom >/dev/shm/f; md5sum /dev/shm/f; "
                 "md5sum /dev/shm/f'", 90)
    sums = text.split()[::2]
    check(len(sums) == 2 and sums[0] == sums[1], f"read differently: {text}")
    wait_for("24 MiB to be at the host", lambda: m.host_pages() >= 24 << 8, 5)
    wait_for("word of that", lambda: m.host()["driver_psi_permille"], 15)
    pages = m.host_pages()
    m.run("rm /dev/shm/f")
    wait_for("the host to hold fewer", lambda: m.host_pages() < pages // 4, 20)
    return pages


def tells_of_pressure(m):
    """Its service runs, as it was started."""
    text = m.run("systemctl show -P ActiveState -P NRestarts "
                 "tidepool-tmem-pressure")
    check(sorted(text.split()) == ["0", "active"], f"the service: {text}")


def file_is_right(m):
    text = m.run("md5sum </srv/file", 60)
    check(text.split()[0] == hashlib.md5(FILE).hexdigest(), "another file")


def reads_through_the_cache(m):
    """The volume is mounted through the target, and reads what is there."""
    check(m.run("findmnt -no SOURCE /srv") == "/dev/mapper/data",
          "the volume is not mounted through the target")
    for _ in range(2):
        file_is_right(m)
        m.run("echo 1 >/proc/sys/vm/drop_caches")
    file_is_right(m)
    found = m.counters()["cache_hits"]
    check(found >= len(FILE) >> 13, f"{found} pages came from the host")
    return found


def installing_is_enough():
    """installed, booted without a device and with one, rebooted, purged"""
    root = root_copy()
    data, folder = data_make()
    hvd = lib.Hvd().start()
    install(root, folder, "chroot $root sh -c 'dpkg -i /tmp/p/*.deb'")

    m = Debian("bare", root, disks=[data])
    check(len(m.run("cat /proc/swaps").splitlines()) == 1, "there is swap")
    check("tidepool" not in m.run("cat /proc/modules"), "nobody wants it here")
    opt_in(m)
    m.power_off()

    m = Debian("deb", root, hvd, SWAP, [data])
    tells_of_pressure(m)
    say(f"swap: {swaps_to_the_host(m)} pages were at the host")
    say(f"cache: {reads_through_the_cache(m)} pages came from the host")
    m.reboot()
    say(f"swap, rebooted: {swaps_to_the_host(m)} pages were at the host")
    tells_of_pressure(m)
    say(f"cache: {reads_through_the_cache(m)} pages came from the host")
    m.run("umount /srv && tmem-cache off data")
    purges(m)
    m.power_off()


def opt_in(m):
    """As the man page says; and it works without a device, or a module."""
    uuid = m.run("blkid -s UUID -o value /dev/vdb")
    m.run("mkdir -p /etc/tidepool /srv && "
          f"echo 'UUID={uuid} data' >/etc/tidepool/tmem-cache && "
          "echo '/dev/mapper/data /srv ext4 defaults 0 2' >>/etc/fstab && "
          "systemctl daemon-reload && "
          "systemctl enable tidepool-tmem-cache.service")
    # As after a new kernel for which the module was not built.
    m.run("echo 'install tidepool_tmem false' >/etc/modprobe.d/none.conf")
    cache_restart(m, "linear")
    m.run("rm /etc/modprobe.d/none.conf && umount /srv && tmem-cache off data")
    cache_restart(m, "tmem-cache")


def cache_restart(m, target):
    m.run("systemctl restart tidepool-tmem-cache && mount /srv")
    check(target in m.run("dmsetup table data"), f"it is no {target}")
    file_is_right(m)


def purges(m):
    """Nothing is left that the package brought or made."""
    m.run(f"dpkg --purge {PACKAGE}", 400)
    check("tmemswap" not in m.run("cat /proc/swaps"), "it still swaps")
    check("tidepool" not in m.run("cat /proc/modules"), "the module stays")
    wait_for("the host to have no page", lambda: m.host_pages() == 0, 10)
    left = m.run("find / -xdev -name '*tidepool*' -o -xdev -name 'tmem*'; "
                 "grep -l tidepool /lib/modules/*/modules.*; "
                 "systemctl list-units --all | grep tidepool; "
                 "dpkg -l | grep tidepool; true", 60)
    check(not left, f"it left {left.split()}")


lib.main(installing_is_enough)
