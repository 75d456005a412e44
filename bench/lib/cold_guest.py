# SPDX-License-Identifier: GPL-2.0-or-later
"""Touches of compressed pages felt inside a guest under QEMU's TCG.

Two guests alike (bench/guest/touch.c) fill the same parts of their memory.
Then all of it is taken: of one by the agent in its QEMU, which hvd tells that
memory is short; of the other by the kernel, to the swap device the caller set
up, with MADV_PAGEOUT from outside. Each repetition touches another part, ours
and theirs in turn, so memory has to be taken only once.

Both are told to leave the guest alone while it touches: hvd that the shortage
is over, and nobody asks the kernel for more.

That a touch found its page out is counted on the host (hvd's faults, pages the
kernel swapped in): below MOST of them the figures are not used.
"""
import ctypes
import os
import time

from . import result, small
from .life import Failed, wait_until

PART_PAGES = 2048
OTHER_MIB = 96       # of a guest: its kernel, and room
PATIENCE_S = 100
MOST = 0.9
PAGE = 4096
MIB = 1 << 20
ADVICE_PAGEOUT = 21
PROCESS_MADVISE = 440  # the same number on every architecture
SETTINGS = ("[share]\nmode = never\nrest = 200ms\n"
            "[vm]\nballoon = no\nswap = no\n")


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]


def pageout(pid, base, size):
    """madvise(MADV_PAGEOUT) in another process."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    try:
        vec = Iovec(base, size)
        done = libc.syscall(PROCESS_MADVISE, pidfd, ctypes.byref(vec), 1,
                            ADVICE_PAGEOUT, 0)
        if done < 0:
            raise result.Skip("no process_madvise(MADV_PAGEOUT): "
                              + os.strerror(ctypes.get_errno()))
    finally:
        os.close(pidfd)


def ram_find(pid, size):
    """(base, bytes) of the smallest mapping that can be the guest's RAM."""
    found = []
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        for line in file:
            span, perms, _, _, inode = line.split()[:5]
            base, end = (int(x, 16) for x in span.split("-"))
            if perms == "rw-p" and inode == "0" and end - base >= size:
                found.append((end - base, base))
    if not found:
        raise Failed("guest RAM not found in the process")
    return min(found)[1], min(found)[0]


def swapped_kib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmSwap:"):
                return int(line.split()[1])
    return 0


def swapped_in():
    with open("/proc/vmstat", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file
                    if line.startswith("pswpin "))


def cpu_ns(pid):
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat",
                  encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total


class Side:
    """One guest whose memory is out, all of it. pid: its QEMU."""

    def __init__(self, guest, ram_bytes):
        self.guest = guest
        self.ram_bytes = ram_bytes
        self.pid = guest.child.pid

    def fill(self, parts, seed):
        self.guest.ask(f"fill {parts} {PART_PAGES} {seed}")

    def came_back(self):
        raise NotImplementedError

    def touch(self, part, order):
        before, cpu = self.came_back(), cpu_ns(self.pid)
        count, mean, p50, p99, p999, wrong = self.guest.ask(
            f"touch {part} {order}")
        if wrong:
            raise Failed(f"{self.guest.name}: {wrong:.0f} pages came back "
                         "with other bytes")
        cpu = cpu_ns(self.pid) - cpu
        back = (self.came_back() - before) / count
        return {"mean_ns": mean, "p50_ns": p50, "p99_ns": p99,
                "p999_ns": p999, "cpu_ns": cpu / count, "back": back}


class Ours(Side):
    def __init__(self, guest, ram_bytes, control):
        super().__init__(guest, ram_bytes)
        self.control = control

    def figures(self):
        return self.control.sample().vms[self.guest.name]["mm"]

    def came_back(self):
        time.sleep(1.2)  # the agent's next report has it
        mm = self.figures()
        return mm["faults_compressed"] + mm["ahead_pages"]

    def take(self, pages):
        """Until so many pages are in the store, and none on trial."""
        self.control.call("budget", bytes=MIB)
        self.control.call("pressure", state="low")

        def taken():
            mm = self.figures()
            return mm["compressed_pages"] >= pages and \
                mm["held_pages"] < pages // 50

        if not wait_until(taken, PATIENCE_S, self.guest.life):
            raise result.Skip(
                f"after {PATIENCE_S} s only "
                f"{self.figures()['compressed_pages']} of {pages} pages are "
                "compressed")
        self.control.call("budget", bytes=0)
        self.control.call("pressure", state="high")


class Swapped(Side):
    def came_back(self):
        return swapped_in()

    def take(self, pages):
        base, size = ram_find(self.pid, self.ram_bytes)

        def taken():
            pageout(self.pid, base, size)
            return swapped_kib(self.pid) * 1024 >= pages * PAGE

        if not wait_until(taken, PATIENCE_S, self.guest.life):
            raise result.Skip("the kernel does not swap a guest out")


def guests_start(life, folder, build, ram_mib):
    boot = small.boot_make(folder, "touch")
    control = small.hvd_start(life, folder, build, SETTINGS)
    control.call("pressure", state="high")
    return (Ours(small.managed(life, folder, build, boot, "ours", ram_mib),
                 ram_mib * MIB, control),
            Swapped(small.Small(life, folder, boot, "theirs", ram_mib),
                    ram_mib * MIB))


def measure(life, folder, build, seed, repetitions, orders):
    """{order: (ours, theirs)}, lists of what touch() returned; "present": of
    memory that is there."""
    parts = 1 + repetitions * len(orders)
    sides = guests_start(life, folder, build,
                         OTHER_MIB + parts * PART_PAGES * PAGE // MIB)
    for side in sides:
        side.fill(parts, seed)
        side.take(int(MOST * parts * PART_PAGES))
        side.touch(0, orders[0])  # the program itself was out, too
    got = {}
    part = 0
    for order in orders:
        got[order] = ([], [])
        for _ in range(repetitions):
            part += 1
            for side, runs in zip(sides, got[order]):
                runs.append(side.touch(part, order))
    got["present"] = tuple([side.touch(0, orders[0])] for side in sides)
    return got


def usable(runs):
    """Were the pages really out in each of them?"""
    return all(run["back"] >= MOST for run in runs)
