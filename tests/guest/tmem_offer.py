#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest offers its host of its memory, and what it hears of memory
pressure in itself: from the kernel (PSI), by way of package/tmem-pressure.c.
"""

import json
import time

import lib
import lib_tmem
from lib import check, say, wait_for
from lib_tmem import Machine, shell_guest

RAM = 320
MIB_PAGES = 256
ATTRIBUTE = "/sys/bus/pci/drivers/tidepool_tmem/psi_some_permille"
VALID = 30          # seconds that a value counts


def offering(name):
    """One that is asked what it can do without, and said it."""
    m = Machine(name, lib.Hvd().start(), ram=RAM, swap=96, smp=2)
    m.driver_load().swap_on()
    m.hvd.call("pressure", state="clear")
    wait_for("an offer", lambda: offer(m) > 64 * MIB_PAGES, 30, 0.5)
    return m


def offer(m):
    """In pages, as the host knows it. Asking keeps the guest awake: it does
    not wake by itself to renew it."""
    m.run("true")
    return m.host()["driver_offer_pages"]


def why(m):
    """The administrator's view: stalled for memory, in thousandths."""
    text = lib_tmem.ctl(m.hvd, "why", m.name, "--json")
    return json.loads(text)["guest"]["psi_permille"]


def available(m):
    """In pages."""
    return m.shell.number("sed -n 's/MemAvailable: *//p' /proc/meminfo") // 4


def seconds_until(truth, most):
    start = time.monotonic()
    wait_for(truth.__doc__, truth, most)
    return time.monotonic() - start


def told_pressure_withdraws():
    """a value withdraws the offer at once, 0 and old age bring it back"""
    m = offering("told")
    first = offer(m)

    def withdrawn():
        """the offer to be withdrawn"""
        return offer(m) == 0 and why(m) == 200

    def renewed():
        """the offer to come back"""
        return offer(m) > 0 and why(m) == 0

    m.run(f"echo 200 >{ATTRIBUTE}")
    took = seconds_until(withdrawn, 4)
    check(available(m) > first // 2, "memory became short by itself")
    m.run(f"echo 0 >{ATTRIBUTE}")
    seconds_until(renewed, 20)
    m.run(f"echo 200 >{ATTRIBUTE}")
    start = time.monotonic()
    seconds_until(withdrawn, 4)
    while time.monotonic() < start + VALID - 2:
        check(withdrawn(), "it counted for too short a time")
        time.sleep(1)
    old = VALID - 2 + seconds_until(renewed, 20)
    check(m.run(f"cat {ATTRIBUTE}") == "0", "it is still known")
    say(f"{first} pages withdrawn after {took:.1f} s, back {old:.0f} s after "
        "the last word")
    for value in ("1001", "-1", "much", "''"):
        check(m.shell.ask(f"echo {value} >{ATTRIBUTE}")[0] != 0,
              f"it took {value}")
    m.run("swapoff -a; rmmod tidepool_tmem")
    m.kernel_is_fine()


def switches(m, pid):
    text = m.run(f"grep ctxt_switches /proc/{pid}/status")
    return [int(ln.split()[1]) for ln in text.splitlines()]


def is_at_rest(m, pid, seconds):
    """Nothing woke it in that time."""
    before = switches(m, pid)
    time.sleep(seconds)
    after = switches(m, pid)
    check(after == before, f"it woke: {before}, then {after}")


def service_tells_pressure():
    """at rest it never wakes; pressure comes to the host, and ends"""
    m = offering("teller")
    m.shell.start("tmem-pressure", "teller")
    pid = m.run("sleep 1; pidof tmem-pressure")
    wait_for("it to be calm", lambda: m.run(f"cat {ATTRIBUTE}") == "0", 60)
    time.sleep(3)
    is_at_rest(m, pid, 10)
    say(*m.run(f"grep VmRSS /proc/{pid}/status").split())

    # Its waiting is all of the pressure: elsewhere there is plenty.
    m.run("mkdir /cg && mount -t cgroup2 none /cg && mkdir /cg/poor && "
          "echo +memory >/cg/cgroup.subtree_control && "
          "echo 12M >/cg/poor/memory.max")
    m.shell.start("sh -c 'echo $$ >/cg/poor/cgroup.procs; "
                  f"exec hog 24 0 {lib.seed()}'", "hog")
    psi = wait_for("word of pressure", lambda: why(m), 30, 0.5)
    found = wait_for("no offer", lambda: offer(m) == 0 and available(m), 10)
    check(found > 64 * MIB_PAGES, f"only {found} pages were available")
    time.sleep(10)
    say(f"{psi} thousandths at first, {why(m)} after 10 s; {found} pages were "
        "available")
    check(why(m) > psi or why(m) > 100, "the average does not rise")

    m.run("kill $(pidof hog)")
    took = seconds_until_calm(m)
    say(f"calm {took:.0f} s later, offering {offer(m)} pages")
    time.sleep(3)
    is_at_rest(m, pid, 10)
    check(m.shell.ended("teller") is None, "the service ended")
    m.run("swapoff -a; rmmod tidepool_tmem")
    m.kernel_is_fine()


def seconds_until_calm(m):
    def calm():
        """the end of the pressure"""
        return why(m) == 0 and m.run(f"cat {ATTRIBUTE}") == "0"
    return seconds_until(calm, 90)


def kernel_without_psi():
    """the service says so, and ends well"""
    m = Machine("without", lib.Hvd().start(), ram=128, swap=32,
                more=["-append", shell_guest.KERNEL_LINE + " psi=0"])
    m.driver_load()
    status, text = m.shell.ask("tmem-pressure")
    check(status == 0 and text == "tmem-pressure: this kernel has no PSI",
          f"it ended with {status}: {text}")
    check(m.counters()["psi_some_permille"] == 0, "who told?")
    m.kernel_is_fine()


lib.main(told_pressure_withdraws, service_tells_pressure, kernel_without_psi)
