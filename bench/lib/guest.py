# SPDX-License-Identifier: GPL-2.0-or-later
"""One desktop guest: its QEMU, its QMP, and what its workload reports."""
import os
import select
import subprocess
import threading
import time

from .life import Failed
from .qmp import Qmp, connect

MIB = 1 << 20


# TCG runs a string instruction byte by byte, and a kernel that sees erms or
# fsrm copies every page with one. QEMU 7.2 does not keep cmpxchg16b atomic.
TCG = ["-accel", "tcg,thread=multi,tb-size=512", "-cpu",
       "max,-erms,-fsrm,-cx16"]
KVM = ["-accel", "kvm", "-cpu", "host"]


class Report:
    """The workload's lines (see bench/desktop/workload.c)."""

    def __init__(self):
        self.up = None         # guest's own seconds since its boot
        self.ready = False
        self.rounds = []       # (our time, work ms, CPU ms)
        self.errors = 0
        self.corruptions = []
        self.verified = None   # (files, pages, errors)
        self.failure = None

    def line(self, text):
        word, *rest = text.split(" ") or [""]
        if word == "up":
            self.up = int(rest[0])
        elif word == "ready":
            self.ready = True
        elif word == "round":
            self.rounds.append(
                (time.monotonic(), int(rest[1]), int(rest[2])))
            self.errors = max(self.errors, int(rest[3]))
        elif word == "corrupt":
            self.corruptions.append(" ".join(rest))
            self.errors = max(self.errors, len(self.corruptions))
        elif word == "verified":
            self.verified = tuple(int(x) for x in rest)
            self.errors = max(self.errors, self.verified[2])
        elif word == "fail":
            self.failure = " ".join(rest)

    def window(self, start, end):
        """Of the rounds that ended in it: a minute, mean work and CPU ms."""
        rounds = [r for r in self.rounds if start <= r[0] <= end]
        if len(rounds) < 2:
            return None
        span = rounds[-1][0] - rounds[0][0]
        # The first only marks where the others start.
        body = rounds[1:]
        return {"rounds": len(body), "per_minute": 60 * len(body) / span,
                "work_ms": sum(r[1] for r in body) / len(body),
                "cpu_ms": sum(r[2] for r in body) / len(body)}


class Guest:
    def __init__(self, index, ram_mib, run_dir, image_dir, engine):
        self.index = index
        self.name = f"desk{index + 1}"
        self.ram_bytes = ram_mib * MIB
        self.run_dir = run_dir
        self.image_dir = image_dir
        self.engine = engine
        self.report = Report()
        self.child = self.base = self.qmp = None
        self._sock = None
        self._thread = None

    def path(self, kind):
        return os.path.join(self.run_dir, f"{self.name}.{kind}")

    def argv(self):
        accel = KVM if self.engine == "kvm" else TCG
        kernel = ("root=/dev/vda rw console=ttyS0 quiet panic=-1 "
                  "tsc=reliable no_timer_check "
                  f"tidepool.index={self.index + 1}")
        disk = self.path("qcow2")
        image = os.path.join(self.image_dir, "desktop.raw")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F",
                        "raw", "-b", os.path.abspath(image), disk],
                       check=True)
        return ["qemu-system-x86_64", *accel, "-name", self.name,
                "-machine", "q35", "-smp", "1",
                "-m", str(self.ram_bytes // MIB),
                "-nodefaults", "-no-user-config", "-display", "none",
                "-no-reboot",
                "-kernel", os.path.join(self.image_dir, "vmlinuz"),
                "-initrd", os.path.join(self.image_dir, "initrd"),
                "-append", kernel,
                "-serial", f"file:{self.path('console')}",
                "-serial", f"unix:{self.path('report')},server=on,wait=off",
                "-qmp", f"unix:{self.path('mon')},server=on,wait=off",
                "-drive", f"if=none,id=disk,file={disk},format=qcow2",
                "-device", "virtio-blk-pci,drive=disk,disable-legacy=on"]

    def start(self, life, wrap, env):
        """wrap: the command that runs QEMU managed, [] for none."""
        self.child = life.start(self.name, wrap + self.argv(), env)
        try:
            self.qmp = Qmp(self.path("mon"))
        except OSError as error:
            life.check()
            raise Failed(f"{self.name}: no monitor: {error}") from error
        self.base = self._ram_base()
        self._sock = connect(self.path("report"), 10)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _ram_base(self):
        """Before the agent divides it, RAM is one anonymous mapping."""
        with open(f"/proc/{self.child.pid}/maps", encoding="utf-8") as maps:
            for line in maps:
                fields = line.split()
                first, last = (int(x, 16) for x in fields[0].split("-"))
                if last - first == self.ram_bytes and len(fields) == 5:
                    return first
        raise Failed(f"{self.name}: no mapping of {self.ram_bytes} bytes "
                     f"in /proc/{self.child.pid}/maps")

    def _listen(self):
        have = b""
        while True:
            ready, _, _ = select.select([self._sock], [], [], 1)
            if not ready:
                continue
            try:
                data = self._sock.recv(4096)
            except OSError:
                return
            if not data:
                return
            *lines, have = (have + data).split(b"\n")
            for line in lines:
                try:
                    self.report.line(line.decode("ascii", "replace").strip())
                except (ValueError, IndexError):
                    self.report.failure = f"garbled report: {line!r}"

    def tell(self, word):
        self._sock.sendall(word.encode() + b"\n")

    def census_argument(self):
        return f"{self.child.pid}:{self.base:x}:{self.ram_bytes}"

    def cpu_seconds(self):
        return process_cpu_seconds(self.child.pid)


def process_cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
