# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian 12 with systemd to install into and to boot (tests/rig/debian.sh).

Packages and programs are installed into its root before it boots, at this
machine's speed: a compiler under TCG takes minutes. None of this is among
tests/check.sh's, since it takes minutes itself, and one more to make the Debian
at the first run.
"""
import os
import subprocess

import lib
from lib import check, say
from lib_tmem import ENV, Machine, shell_guest

RAM = 448
KERNEL_LINE = ("root=/dev/vda rw console=ttyS0 quiet tsc=reliable "
               "no_timer_check")


def root_copy():
    """The path of a root of its own."""
    if os.getuid() != 0:
        raise lib.Skip("only root can install into an image")
    root = os.path.join(lib.work, "root.img")
    subprocess.run(["cp", "--sparse=always",
                    os.path.join(lib.rig("debian.sh"), "root.raw"), root],
                   check=True)
    return root


def install(root, folder, command):
    """Runs a command with $root mounted, and the folder's files in /tmp/p."""
    there = os.path.join(lib.work, "root")
    os.makedirs(there, exist_ok=True)
    script = ("mount -o loop $1 $2 && cp -r $3 $2/tmp/p && "
              "mount -t proc proc $2/proc && export root=$2 && "
              f"({command}); rc=$?; "
              "rm -r $2/tmp/p; umount $2/proc $2; exit $rc")
    # Mounts of its own: they go with it, whatever happens.
    r = subprocess.run(["unshare", "--mount", "sh", "-c", script, "-", root,
                        there, folder], stdout=subprocess.PIPE, cwd=lib.ROOT,
                       stderr=subprocess.STDOUT, text=True, env=ENV)
    check(r.returncode == 0, f"{command}: {r.stdout[-2000:]}")


class Debian(Machine):
    """One that has booted. tmem, swap: as Machine's, if there is hvd."""

    def __init__(self, name, root, hvd=None, swap=192, disks=()):
        super().__init__(
            name, hvd, ram=RAM, swap=swap, tmem=2 * swap, smp=2, disks=disks,
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
