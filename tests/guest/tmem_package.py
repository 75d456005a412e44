#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The package for Debian guests, in a Debian 12 with systemd: installing it is
all that swapping to the host takes, a line in a list all that the cache takes;
it survives reboots, is no trouble where there is no device, and goes without a
trace.

DKMS builds the module in the guest's root before the guest is booted, at this
machine's speed: a compiler under TCG takes minutes. Not one of tests/check.sh,
since it takes four itself, and one more to make its Debian at the first run.
"""

import hashlib
import os
import random
import subprocess

import lib
import lib_tmem
from lib import check, say, wait_for
from lib_tmem import MIB, Machine, shell_guest

RAM = 448
SWAP = 192
PRIORITY = 100      # the agent's, for all
PACKAGE = "tidepool-tmem-dkms"
FILE = random.Random(24).randbytes(24 * MIB)
KERNEL_LINE = ("root=/dev/vda rw console=ttyS0 quiet tsc=reliable "
               "no_timer_check")


class Debian(Machine):
    def __init__(self, name, root, data, hvd=None):
        super().__init__(
            name, hvd, ram=RAM, swap=SWAP, tmem=2 * SWAP, smp=2, disks=[data],
            boot=lib.rig("debian.sh"),
            more=["-append", KERNEL_LINE, "-action", "reboot=reset",
                  *shell_guest.disk_args(root, "root")])
        self.booted()

    def booted(self):
        """All that is to be started is, and nothing failed."""
        status, text = self.shell.ask("systemctl is-system-running --wait", 90)
        check(status == 0, f"{self.name} is {text}: "
              + self.shell.ask("systemctl --failed; journalctl -b -p 4 | "
                               "tail -n 40")[1])
        say(self.name, self.run("systemd-analyze time").splitlines()[0])

    def leave(self, verb):
        """Answers before it goes."""
        self.run(f"(sleep 0.5; systemctl {verb}) >/dev/null 2>&1 &")

    def reboot(self):
        self.leave("reboot")
        self.shell.ready(150)
        self.booted()

    def power_off(self):
        self.kernel_is_fine()
        self.leave("poweroff")
        rc = self.proc.wait(60)
        check(rc == 0, f"{self.name}: QEMU ended with {rc}")


def disks_make():
    """(root, data): a copy of the image; the package, and a file to read."""
    root = os.path.join(lib.work, "root.img")
    subprocess.run(["cp", "--sparse=always",
                    os.path.join(lib.rig("debian.sh"), "root.raw"), root],
                   check=True)
    folder = os.path.join(lib.work, "data")
    os.mkdir(folder)
    subprocess.run(["make", "-s", "-C", lib.ROOT + "/guest-drivers/linux",
                    "deb", "OUT=" + folder], check=True,
                   stdout=subprocess.DEVNULL)
    with open(folder + "/file", "wb") as f:
        f.write(FILE)
    return root, lib_tmem.disk_make("data", 64, folder), folder


def install_offline(root, folder):
    """As whoever makes images does, and at this machine's speed."""
    there = os.path.join(lib.work, "root")
    os.mkdir(there)
    script = ("mount -o loop $1 $2 && cp -r $3 $2/tmp/p && "
              "mount -t proc proc $2/proc && "
              "chroot $2 sh -c 'dpkg -i /tmp/p/*.deb'; rc=$?; "
              "rm -r $2/tmp/p; umount $2/proc $2; exit $rc")
    # Mounts of its own: they go with it, whatever happens.
    r = subprocess.run(["unshare", "--mount", "sh", "-c", script, "-", root,
                        there, folder], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, env=lib_tmem.ENV)
    check(r.returncode == 0, f"dpkg -i: {r.stdout[-2000:]}")


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
    pages = m.host_pages()
    m.run("rm /dev/shm/f")
    wait_for("the host to hold fewer", lambda: m.host_pages() < pages // 4, 20)
    return pages


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
    if os.getuid() != 0:
        raise lib.Skip("only root can install into an image")
    root, data, folder = disks_make()
    hvd = lib.Hvd().start()
    install_offline(root, folder)

    m = Debian("bare", root, data)
    check(len(m.run("cat /proc/swaps").splitlines()) == 1, "there is swap")
    check("tidepool" not in m.run("cat /proc/modules"), "nobody wants it here")
    opt_in(m)
    m.power_off()

    m = Debian("deb", root, data, hvd)
    say(f"swap: {swaps_to_the_host(m)} pages were at the host")
    say(f"cache: {reads_through_the_cache(m)} pages came from the host")
    m.reboot()
    say(f"swap, rebooted: {swaps_to_the_host(m)} pages were at the host")
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
    m.run(f"dpkg --purge {PACKAGE}", 120)
    check("tmemswap" not in m.run("cat /proc/swaps"), "it still swaps")
    check("tidepool" not in m.run("cat /proc/modules"), "the module stays")
    wait_for("the host to have no page", lambda: m.host_pages() == 0, 10)
    left = m.run("find / -xdev -name '*tidepool*' -o -xdev -name 'tmem*'; "
                 "grep -l tidepool /lib/modules/*/modules.*; "
                 "systemctl list-units --all | grep tidepool; "
                 "dpkg -l | grep tidepool; true", 60)
    check(not left, f"it left {left.split()}")


lib.main(installing_is_enough)
