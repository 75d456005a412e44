#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Balloons: how fast memory comes out of a guest and goes back, and how long
the guest stands still meanwhile; hvd's control loop against QEMU's own
`balloon` command.

Both guests are one small Debian kernel under TCG, both have written to the
memory first that the balloon then takes. The rival is told a size and goes
there at once. hvd moves in steps of a tenth of the RAM, each after fresh
statistics from the guest, and stops before the guest is short; that it is
slower is its design, what it costs and saves is shown here.
"""
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import result  # noqa: E402
from lib.control import Control  # noqa: E402
from lib.guest import TCG  # noqa: E402
from lib.life import Failed, Life  # noqa: E402
from lib.qmp import Qmp  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MIB = 1 << 20
GIB = 1 << 30
RAM_MIB = 768
TAKE_MIB = 256
FILL_MIB = 512
PATIENCE_S = 60
MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev",
           "virtio_pci_modern_dev", "virtio_pci", "virtio_balloon")


def initrd_make(folder):
    """(kernel, initrd) of a guest that loads virtio-balloon and beats."""
    got = subprocess.run([os.path.join(TOP, "tests/rig/kernel.sh"), "6.1"],
                         stdout=subprocess.PIPE, text=True)
    if got.returncode:
        raise result.Skip("Debian's 6.1 kernel is not reachable from here")
    kernel = got.stdout.strip()
    root = os.path.join(folder, "root")
    os.makedirs(os.path.join(root, "dev"))
    subprocess.run(["gcc", "-std=c11", "-O2", "-D_GNU_SOURCE", "-static",
                    "-pthread", "-o", os.path.join(root, "init"),
                    os.path.join(TOP, "bench/guest/beat.c")], check=True)
    wanted = {f"{name}.ko": name for name in MODULES}
    for where, _, files in os.walk(os.path.join(kernel, "lib/modules")):
        for file in set(files) & set(wanted):
            shutil.copy(os.path.join(where, file), root)
            del wanted[file]
    if wanted:
        raise result.Skip(f"that kernel has no {', '.join(wanted)}")
    with open(os.path.join(root, "modules"), "w", encoding="ascii") as file:
        file.write("".join(f"/{name}.ko\n" for name in MODULES))
    initrd = os.path.join(folder, "initrd")
    with open(initrd, "wb") as out:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root,
                       input="\n".join(["dev", *os.listdir(root)]).encode(),
                       stdout=out, stderr=subprocess.DEVNULL, check=True)
    return os.path.join(kernel, "vmlinuz"), initrd


class Guest:
    def __init__(self, life, folder, boot, name, wrap=(), env=None):
        self.name = name
        self.life = life
        line = os.path.join(folder, name + ".line")
        own = os.path.join(folder, name + ".qmp")
        free = os.path.join(folder, name + ".qmp2")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(line)
        listener.listen(1)
        life.start(name, [
            *wrap, "qemu-system-x86_64", *TCG, "-name", name, "-machine",
            "q35", "-m", str(RAM_MIB), "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-kernel", boot[0], "-initrd",
            boot[1], "-append",
            "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check",
            "-serial", f"file:{os.path.join(folder, name + '.console')}",
            "-serial", f"unix:{line}",
            "-device", "virtio-balloon-pci,id=balloon0",
            "-qmp", f"unix:{own},server=on,wait=off",
            "-qmp", f"unix:{free},server=on,wait=off"], env)
        listener.settimeout(30)
        self.sock, _ = listener.accept()
        self.sock.settimeout(120)
        self.file = self.sock.makefile("rb")
        if self.file.readline().strip() != b"ready":
            raise Failed(f"{name} did not boot")
        self.qmp = Qmp(free)
        self.full = self.actual()

    def ask(self, words):
        self.sock.sendall(words.encode() + b"\n")
        answer = self.file.readline().decode().split()
        if answer[:1] != ["ok"]:
            raise Failed(f"{self.name}: {words}: {answer}")
        return [float(x) for x in answer[1:]]

    def actual(self):
        return self.qmp.run("query-balloon")["actual"]

    def reaches(self, wanted):
        """Waits until wanted(bytes of the guest); seconds."""
        start = time.monotonic()
        while not wanted(self.actual()):
            self.life.check()
            if time.monotonic() - start > PATIENCE_S:
                raise Failed(f"{self.name}: the balloon stays at "
                             f"{self.actual() // MIB} MiB")
            time.sleep(0.01)
        return time.monotonic() - start


class Plain:
    def __init__(self, guest):
        self.guest = guest

    def inflate(self):
        self.guest.qmp.run("balloon", value=self.guest.full - TAKE_MIB * MIB)

    def deflate(self):
        self.guest.qmp.run("balloon", value=self.guest.full)


class Steered:
    """Memory is short by more than the balloon can give; then it is not."""

    def __init__(self, guest, control):
        self.guest = guest
        self.control = control

    def inflate(self):
        self.control.call("budget", bytes=RAM_MIB * MIB // 4)
        self.control.call("pressure", state="soft")

    def deflate(self):
        self.control.call("budget", bytes=0)
        self.control.call("pressure", state="high")


def once(side):
    """Full, inflated by TAKE_MIB or more, full again; what the guest felt."""
    guest = side.guest
    guest.ask(f"fill {FILL_MIB}")
    time.sleep(1.5)  # the agent's next report has it
    guest.ask("beats")
    side.inflate()
    low = guest.full - TAKE_MIB * MIB
    seconds = guest.reaches(lambda actual: actual <= low)
    inflating = guest.ask("beats")
    taken = guest.full - guest.actual()
    side.deflate()
    back = guest.reaches(lambda actual: actual >= guest.full)
    deflating = guest.ask("beats")
    figures = {"inflate": taken / GIB / seconds, "deflate": taken / GIB / back,
               "p50": inflating[1], "p99": inflating[2], "p999": inflating[3],
               "worst": inflating[4] / 1000,
               "deflate_p99": deflating[2],
               "deflate_worst": deflating[4] / 1000}
    result.say(f"  {guest.name}: {taken // MIB} MiB in {seconds:.2f} s, back "
               f"in {back:.2f} s, p99 {inflating[2]:.0f} us, "
               f"worst {inflating[4] / 1000:.1f} ms")
    return figures


def hvd_start(life, folder, build):
    conf = os.path.join(folder, "hvd.conf")
    with open(conf, "w", encoding="ascii") as file:
        file.write(f"[hvd]\nrun_dir = {folder}\nmetrics =\n"
                   "raise_max_map_count = no\n[share]\nmode = never\n")
    life.start("hvd", [os.path.join(build, "hvd"), "--config", conf])
    return Control(os.path.join(folder, "control.sock"))


def measure(args, out, folder):
    with Life(folder) as life:
        boot = initrd_make(folder)
        control = hvd_start(life, folder, args.build)
        control.call("pressure", state="high")
        ours = Steered(Guest(
            life, folder, boot, "steered",
            [os.path.join(args.build, "hv"), "qemu", "--name", "steered",
             "--"], {"TIDEPOOL_RUN_DIR": folder,
                     "TIDEPOOL_AGENT": os.path.join(args.build,
                                                    "libhvagent.so")}),
            control)
        plain = Plain(Guest(life, folder, boot, "plain"))
        time.sleep(2)
        a, b = result.interleave(10 if args.full else 5, lambda: once(ours),
                                 lambda: once(plain))
    rival = "QEMU's balloon command"
    for key, name, unit, better in (
            ("inflate", "inflate", "GiB/s", "more"),
            ("deflate", "deflate", "GiB/s", "more"),
            ("p50", "a guest's beat while inflating, p50", "us", "less"),
            ("p99", "a guest's beat while inflating, p99", "us", "less"),
            ("p999", "a guest's beat while inflating, p99.9", "us", "less"),
            ("worst", "longest stall while inflating", "ms", "less"),
            ("deflate_p99", "a guest's beat while deflating, p99", "us",
             "less"),
            ("deflate_worst", "longest stall while deflating", "ms", "less")):
        out.pair(name, unit, better, rival, [x[key] for x in a],
                 [x[key] for x in b])


def run(args):
    out = result.Result(
        "virtio-balloon of a small guest under TCG: hvd's control loop beside "
        "QEMU's balloon command",
        ram_mib=RAM_MIB, take_mib=TAKE_MIB, written_before_mib=FILL_MIB,
        beat="16 writes into 64 MiB and one fresh page, each 1 ms")
    if not shutil.which("qemu-system-x86_64") or not shutil.which("cpio"):
        raise result.Skip("no qemu-system-x86_64 or no cpio")
    out.lacks("KVM: no stock kernel runs under it on every machine, so TCG")
    with tempfile.TemporaryDirectory(prefix="tidepool-balloon-") as folder:
        measure(args, out, folder)
    return out


if __name__ == "__main__":
    sys.exit(result.main(__doc__.split("\n\n")[0], run))
