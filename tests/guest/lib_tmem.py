# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of TMEM in real guests share: a guest with the driver, and
the host's view of its pages.

The guest is bench/lib/shell_guest.py's. By default the agent, preloaded into
QEMU, serves the line; with line=PATH it gets the device alone, and who
listens on PATH serves it. The driver is not loaded at boot: tests do that
(driver_load), since many of them are about when it comes and goes.

Environment: TMEM_KERNEL (6.1, or another of tests/rig/kernel.sh), TMEM_LONG=1
for long forms, TMEM_MODULE: a tidepool_tmem.ko built for that kernel before.
"""

import hashlib
import os
import random
import subprocess

import lib
from lib import Failed, Skip, bench_module, check, wait_for

MIB = 1 << 20
KERNEL = os.environ.get("TMEM_KERNEL", "6.1")
MODULE = os.environ.get("TMEM_MODULE")
LONG = os.environ.get("TMEM_LONG", "0") not in ("", "0")
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "dm_mod")
PROGRAMS = {p: f"tests/guest/{p}.c" for p in
            ("hog", "verify", "records", "vandal", "storm")}
PROGRAMS["tmem-pressure"] = "guest-drivers/linux/package/tmem-pressure.c"
# MiB that a kernel takes for itself more than 6.1 does.
TAKES_MORE = {"6.1-full": 20}
VECTORS = 17
DEBUG = "/sys/kernel/debug/tidepool_tmem"
DM = "dmsetup --noudevrules --noudevsync"
# Where the programs for file systems are found.
ENV = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")

shell_guest = bench_module("shell_guest")
ShellError = shell_guest.ShellError


_made = {}


def boot_files(binaries=()):
    """(folder of the kernel, initrd), made once a run of tests."""
    key = (KERNEL, *MODULES, *map(os.path.basename, binaries))
    if key not in _made:
        kernel = lib.rig("kernel.sh", KERNEL)
        out = os.path.join(lib.BUILD, "guest")
        os.makedirs(out, exist_ok=True)
        name = "-".join(["tmem", *key])
        _made[key] = kernel, shell_guest.initrd_make(
            shell_guest.Parts(kernel, programs=PROGRAMS, modules=MODULES,
                              kos=[MODULE or lib.rig("module.sh", KERNEL)],
                              load=False,
                              binaries=["/sbin/dmsetup", *binaries]),
            os.path.join(out, name + ".initrd"))
    return _made[key]


def disk_blank(name, mib):
    """A disk of that size, all zeros; its path."""
    path = os.path.join(lib.work, name + ".img")
    with open(path, "wb") as f:
        f.truncate(mib * MIB)
    return path


def disk_make(name, mib, files=None):
    """A disk with an ext4 of that size, with what is in a folder; its path."""
    path = disk_blank(name, mib)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F",
                    # mke2fs gives small disks blocks of 1 KiB
                    "-b", "4096",
                    "-E", "lazy_itable_init=0,lazy_journal_init=0",
                    *(["-d", files] if files else []), path],
                   check=True, env=ENV)
    return path


def files_make(folder, count, mib):
    """Files in a new folder, half of whose pages compress; their sums by
    name."""
    os.makedirs(folder)
    chance = random.Random(lib.seed())
    sums = {}
    for i in range(count):
        data = b"".join(
            chance.randbytes(4096) if n % 2 else chance.randbytes(512) * 8
            for n in range(mib * 256))
        with open(f"{folder}/f{i}", "wb") as f:
            f.write(data)
        sums[f"f{i}"] = hashlib.md5(data).hexdigest()
    return sums


def fsck(path):
    """The file system as it lies there, its journal replayed: is it clean?"""
    subprocess.run(["e2fsck", "-p", path], stdout=subprocess.PIPE, env=ENV)
    r = subprocess.run(["e2fsck", "-fn", path], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, env=ENV)
    check(r.returncode == 0, f"e2fsck -fn {path}: {r.stdout[-2000:]}")


def ctl(hvd, *words):
    """What tmem-ctl says; it must end with 0."""
    r = subprocess.run([lib.built("tmem-ctl"), *words, "--socket",
                        hvd.control_socket], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=30)
    check(r.returncode == 0, f"tmem-ctl {words} ended with {r.returncode}: "
          f"{r.stdout}")
    return r.stdout


class Machine:
    """One guest; ram: less what its kernel takes more than 6.1; tmem and swap: the
    most its client may hold, and the size of its swap device, in MiB. Without hvd and line it has no such device.

    domain: its trust domain; by default one of its own.

    boot: a folder with vmlinuz and initrd, of a guest with another root, and
    more: QEMU's arguments for that."""

    def __init__(self, name, hvd=None, ram=96, tmem=256, swap=192, disks=(),
                 line=None, binaries=(), smp=1, boot=None, more=(),
                 domain=""):
        self.name = name
        self.hvd = hvd
        self.domain = domain
        self.log = name + ".log"
        self.console = os.path.join(lib.work, name + ".console")
        kernel, initrd = (boot, boot + "/initrd") if boot \
            else boot_files(binaries)
        ram += 0 if boot else TAKES_MORE.get(KERNEL, 0)
        path = os.path.join(lib.work, name + ".sh")
        if os.path.exists(path):
            os.unlink(path)
        self.shell = shell_guest.Shell.listen(path, self.alive)
        self.proc = None
        argv = shell_guest.qemu_argv(name, kernel, initrd, ram, self.console,
                                     path, smp) + list(more)
        for i, disk in enumerate(disks):
            argv += shell_guest.disk_args(disk, f"d{i}")
        argv, env = self._wrapped(argv, tmem, swap, line)
        self.proc = lib.spawn(argv, self.log, env=env)
        try:
            self.shell.accept().ready()
        except ShellError as e:
            raise Failed(f"{name} did not boot: {e}\n"
                         f"{lib.log_text(self.log)[-2000:]}\n"
                         f"{lib.log_text(name + '.console')[-1000:]}")

    def _wrapped(self, argv, tmem, swap, line):
        if not self.hvd and not line:
            return argv, {}
        argv = argv + ["-chardev", "socket,id=tidepool-tmem,path=" +
                       (line or f"{self.hvd.dir}/{self.name}.tmem"),
                       "-device", "ivshmem-doorbell,chardev=tidepool-tmem,"
                       f"vectors={VECTORS}"]
        if line:
            return argv, {}
        own = {"TIDEPOOL_DOMAIN": self.domain} if self.domain else {}
        return argv, {**own, "TIDEPOOL_RUN_DIR": self.hvd.dir,
                      "TIDEPOOL_CONFIG": self.hvd.agent_conf,
                      "LD_PRELOAD": lib.built("libhvagent.so"),
                      "TIDEPOOL_NAME": self.name,
                      "TIDEPOOL_TMEM": f"{tmem}M",
                      "TIDEPOOL_TMEM_SWAP": f"{swap}M"}

    def alive(self):
        return self.proc is None or self.proc.poll() is None

    def kill(self):
        """Power cut."""
        self.proc.kill()
        self.proc.wait()

    # ---- the guest's side ----

    def run(self, command, seconds=60):
        try:
            return self.shell.run(command, seconds)
        except ShellError as e:
            raise Failed(f"{self.name}: {e}\n{self.last_words()}")

    def last_words(self):
        return lib.log_text(self.name + ".console")[-1500:]

    def driver_load(self, swap=True, options=""):
        """insmod; and its device is there, if there is to be one."""
        self.run(f"insmod /kos/tidepool_tmem.ko {options}", 30)
        if swap:
            wait_for(f"{self.name}: /dev/tmemswap0",
                     lambda: self.shell.ask("test -b /dev/tmemswap0")[0] == 0,
                     15)
        return self

    def swap_on(self):
        self.run("mkswap /dev/tmemswap0 && swapon /dev/tmemswap0")
        return self

    def swap_used_kib(self):
        return sum(int(line.split()[3]) for line in
                   self.run("cat /proc/swaps").splitlines()[1:])

    def disk_sectors(self, disk):
        """Of /dev/DISK, in all."""
        return int(self.run(f"cat /sys/class/block/{disk}/size"))

    def dm_make(self, name, table, options=""):
        """A device of the device mapper; its path."""
        self.run(f"{DM} create {name} {options} --table '{table}'")
        return "/dev/" + self.run(f"cd /sys/block; grep -lx {name} dm-*/dm/name"
                                  ).split("/")[0]

    def cache_on(self, disk, name="cached"):
        """The target over a disk; the path of what to mount."""
        return self.dm_make(
            name, f"0 {self.disk_sectors(disk)} tmem-cache /dev/{disk}")

    def cache_off(self):
        """Unmounts it, and takes the target away."""
        self.run("umount /mnt && dmsetup remove cached", 60)

    def cache_drop(self):
        """From now on, drops the page cache all the time."""
        self.shell.start("while :; do sleep 0.3; "
                         "echo 1 >/proc/sys/vm/drop_caches; done", "drop")

    def files_check(self, folder, sums):
        """The files f* of a folder are these, and read so."""
        text = self.run(f"cd {folder} && md5sum f*", 120)
        found = {ln.split()[1]: ln.split()[0] for ln in text.splitlines()}
        wrong = sorted(set(sums.items()) ^ set(found.items()))
        check(not wrong, f"{len(wrong)} sums in {folder} differ: {wrong[:5]}")

    def counters(self):
        """The driver's counters, by their names."""
        found = {}
        for line in self.run(f"cat {DEBUG}/counters").splitlines():
            words = line.replace(":", " ").split()
            if len(words) == 2 and words[1].lstrip("-").isdigit():
                found[words[0]] = int(words[1])
        return found

    def kernel_is_fine(self):
        """Nothing in its log that a kernel says when it is in trouble."""
        text = lib.log_text(self.name + ".console") + self.run("dmesg")
        for word in ("BUG:", "Oops", "blocked for more than", "WARNING:",
                     "soft lockup", "general protection"):
            bad = [ln for ln in text.splitlines() if word in ln]
            check(not bad, f"{self.name}: its kernel said {bad[:3]}")

    # ---- the host's side ----

    def host(self):
        """What the host says of the guest's client."""
        vm = self.hvd.vm(self.name)
        check(vm and "guest" in vm, f"hvd says nothing of {self.name}'s pages")
        return vm["guest"]

    def host_pages(self):
        host = self.host()
        return host["persistent_pages"] + host["ephemeral_pages"]
