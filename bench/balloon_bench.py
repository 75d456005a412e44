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

The clock runs from when hvd is told that memory is short. That the guest has
grown it learns from the agent's scans, 20 s apart by default; they come every
second here, and each repetition waits for one.
"""
import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import result, small  # noqa: E402
from lib.life import Failed, Life, wait_until  # noqa: E402

PAGE = 4096
MIB = 1 << 20
GIB = 1 << 30
RAM_MIB = 768
FULL = RAM_MIB * MIB
TAKE_MIB = 256
FILL_MIB = 512
PATIENCE_S = 60
MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev",
           "virtio_pci_modern_dev", "virtio_pci", "virtio_balloon")


def actual(guest):
    return guest.qmp.run("query-balloon")["actual"]


def reaches(guest, wanted):
    """Waits until wanted(bytes of the guest); seconds."""
    start = time.monotonic()
    while not wanted(actual(guest)):
        guest.life.check()
        if time.monotonic() - start > PATIENCE_S:
            raise Failed(f"{guest.name}: the balloon stays at "
                         f"{actual(guest) // MIB} MiB")
        time.sleep(0.01)
    return time.monotonic() - start


class Plain:
    def __init__(self, guest):
        self.guest = guest

    def settle(self):
        time.sleep(1)

    def inflate(self):
        self.guest.qmp.run("balloon", value=FULL - TAKE_MIB * MIB)

    def deflate(self):
        self.guest.qmp.run("balloon", value=FULL)


class Steered:
    """Memory is short by more than the balloon can give; then it is not."""

    def __init__(self, guest, control):
        self.guest = guest
        self.control = control

    def settle(self):
        def known():
            mm = self.control.sample().vms[self.guest.name]["mm"]
            return mm["private_pages"] * PAGE >= FILL_MIB * MIB

        if not wait_until(known, PATIENCE_S, self.guest.life):
            raise Failed("hvd does not learn what the guest has written")

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
    side.settle()
    guest.ask("beats")
    side.inflate()
    seconds = reaches(guest, lambda now: now <= FULL - TAKE_MIB * MIB)
    inflating = guest.ask("beats")
    taken = FULL - actual(guest)
    side.deflate()
    back = reaches(guest, lambda now: now >= FULL)
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


def measure(args, out, folder):
    devices = ["-device", "virtio-balloon-pci,id=balloon0"]
    with Life(folder) as life:
        boot = small.boot_make(folder, "beat", MODULES)
        control = small.hvd_start(life, folder, args.build,
                                  "[share]\nmode = never\nrest = 1s\n")
        control.call("pressure", state="high")
        ours = Steered(small.managed(life, folder, args.build, boot,
                                     "steered", RAM_MIB, devices), control)
        plain = Plain(small.Small(life, folder, boot, "plain", RAM_MIB,
                                  devices))
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
    out.lacks("KVM: no stock kernel runs under it on every machine, so TCG")
    with tempfile.TemporaryDirectory(prefix="tidepool-balloon-") as folder:
        measure(args, out, folder)
    return out


if __name__ == "__main__":
    sys.exit(result.main(__doc__.split("\n\n")[0], run))
