#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks read into guest memory while its pages are being taken.

A stock kernel with busybox reads a virtio disk again and again, O_DIRECT in
the guest and O_DIRECT in QEMU, and sums what it read. Under a budget far below
its memory, pages leave and come back all the time; a read that landed in a
page already copied away would change a sum.
"""

import hashlib
import os
import subprocess
import time

import lib
from lib import Hvd, check, said, say, wait_for

DISK_MIB = 16
# In the order of their needs.
MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev",
           "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
for m in $(/bin/busybox cat /modules); do /bin/busybox insmod /m/$m.ko; done
# Memory that stays: kept in a file and read back at the end of each round.
/bin/busybox dd if=/dev/vda of=/tmp/kept bs=1M 2>/dev/null
while :; do
	sum=$(/bin/busybox dd if=/dev/vda iflag=direct bs=1M 2>/dev/null |
		/bin/busybox md5sum)
	/bin/busybox dd if=/dev/vda of=/tmp/copy bs=256k iflag=direct 2>/dev/null
	copy=$(/bin/busybox md5sum </tmp/copy)
	kept=$(/bin/busybox md5sum </tmp/kept)
	echo round ${sum%% *} ${copy%% *} ${kept%% *}
done
"""


def initrd_build(kernel_dir):
    """An initrd of this test's own; returns its path."""
    root = os.path.join(lib.work, "root")
    os.makedirs(root + "/bin")
    os.makedirs(root + "/m")
    os.makedirs(root + "/dev")
    subprocess.run(["cp", "/bin/busybox", root + "/bin/busybox"], check=True)
    for name in MODULES:
        found = subprocess.run(
            ["find", kernel_dir, "-name", name + ".ko"],
            stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        if found:
            subprocess.run(["cp", found[0], root + "/m"], check=True)
    have = [m for m in MODULES if os.path.exists(f"{root}/m/{m}.ko")]
    with open(root + "/modules", "w") as f:
        f.write(" ".join(have) + "\n")
    with open(root + "/init", "w") as f:
        f.write(INIT)
    os.chmod(root + "/init", 0o755)
    out = os.path.join(lib.work, "disk.initrd")
    names = subprocess.run(["find", "."], cwd=root, stdout=subprocess.PIPE,
                           check=True).stdout
    with open(out, "w") as f:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names,
                       cwd=root, stdout=f, check=True)
    return out


def disk_make():
    """Half of it random, half the same few blocks; returns path and md5."""
    path = os.path.join(lib.work, "disk.img")
    block = os.urandom(65536)
    data = b"".join(os.urandom(65536) if i % 2 else block
                    for i in range(DISK_MIB * 16))
    with open(path, "wb") as f:
        f.write(data)
    return path, hashlib.md5(data).hexdigest()


def rounds(console):
    try:
        with open(console, errors="replace") as f:
            return [ln.split()[1:] for ln in f
                    if ln.startswith("round ") and ln.endswith("\n")]
    except FileNotFoundError:
        return []


def run(aio):
    hvd = Hvd().start().share()
    kernel, _ = lib._boot_files()
    disk, md5 = disk_make()
    console = os.path.join(lib.work, "console")
    argv = ["qemu-system-x86_64", "-accel", "tcg,tb-size=64", "-machine", "q35",
            "-cpu", "max,cx16=off", "-m", "192", "-nodefaults",
            "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", kernel, "-initrd", initrd_build(os.path.dirname(kernel)),
            "-append", "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check",
            "-chardev", f"file,id=c0,path={console}", "-serial", "chardev:c0",
            "-drive", f"if=none,id=d,file={disk},format=raw,readonly=on,"
            f"cache.direct=on,aio={aio}",
            "-device", "virtio-blk-pci,drive=d,disable-legacy=on"]
    argv, env = lib.managed(argv, "preload", "reader", hvd, None, {})
    proc = lib.spawn(argv, "reader.log", env=env)
    hvd.wait_managed("reader")
    wait_for("the first round", lambda: rounds(console), 60)
    hvd.call("set", vm="reader", limit_bytes=40 << 20)
    before = len(rounds(console))
    wait_for("six rounds under a low limit",
             lambda: len(rounds(console)) >= before + 6, 120)
    mm = hvd.mm("reader")
    wrong = [r for r in rounds(console) if r != [md5] * 3]
    check(not wrong, f"{len(wrong)} rounds read something else: {wrong[:3]}")
    say(f"{len(rounds(console))} rounds, takes {mm['takes']}, "
        f"busy {mm['take_busy']}, raced {mm['take_raced']}, "
        f"compressed {mm['compressed_pages']}, faults {mm['faults']}, "
        f"hint pages {mm['hint_pages']}")
    check(mm["takes"] > 1000, "hardly a page was taken: nothing was tested")
    check(mm["faults_lost"] == 0, "pages were lost")
    hvd.check()
    check(proc.poll() is None, "QEMU died")
    return mm


def threads():
    """aio=threads: reads are seen, before and after; pages are hinted"""
    mm = run("threads")
    check(mm["hint_pages"] > 0, "no read was a hint")
    check(not said("reader.log", "taken by copying"), "takes by copy are off")


def native():
    """aio=native: their end is not seen: no page is taken by copying"""
    run("native")
    check(len(said("reader.log", "taken by copying")) == 1, "not said once")


def io_uring():
    """aio=io_uring: the same"""
    run("io_uring")
    check(len(said("reader.log", "taken by copying")) == 1, "not said once")


lib.main(threads, native, io_uring)
