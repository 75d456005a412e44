#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""TMEM when somebody misbehaves or dies: a guest that writes random bytes over
its end of the line, hvd killed amid puts and gets, and the host's end of the
line gone.

Whoever did nothing wrong must notice nothing, and no kernel may hang.
"""

import os
import subprocess
import time

import lib
import lib_tmem
from lib import check, say, wait_for
from lib_tmem import LONG, Machine

RAM = 112
VANDAL_SECONDS = 60 if LONG else 4
PATIENCE = "" if LONG else "patience=8"  # else the driver's 30 s
PATIENCE_SECONDS = 120  # several times what the driver waits for a host


def device_folder(m):
    """The line's PCI device, by its number 1af4:1110."""
    return m.run("cd /sys/bus/pci/devices; for d in *; do case "
                 "$(cat $d/vendor)$(cat $d/device) in 0x1af40x1110) "
                 "echo /sys/bus/pci/devices/$d;; esac; done")


def hostile_guest():
    """random bytes over the shared memory hurt nobody else"""
    hvd = lib.Hvd().start()
    bad = Machine("vandal", hvd, ram=RAM, swap=32, tmem=64)
    bad.driver_load(options=PATIENCE)
    good = Machine("neighbour", hvd, ram=RAM, swap=96, tmem=256).driver_load()
    good.shell.start(f"verify /dev/tmemswap0 96 {VANDAL_SECONDS + 4} "
                     f"{lib.seed()}", "verify")
    bad.shell.start(f"verify /dev/tmemswap0 32 {VANDAL_SECONDS} {lib.seed()}",
                    "own")
    say(bad.run(f"vandal {device_folder(bad)} {VANDAL_SECONDS} {lib.seed()}",
                VANDAL_SECONDS + 60))
    status, text = good.shell.wait("verify", VANDAL_SECONDS + 60)
    check(status == 0 and " refused 0 unreadable 0" in text,
          f"the neighbour's verify ended with {status}: {text}")
    check(bad.alive() and good.alive(), "a QEMU died")
    broken = lib.said(bad.log, "broke the rules")
    check(broken, "the host did not notice")
    check(not lib.said(good.log, "broke the rules"), "the neighbour is blamed")
    # What the hostile guest's own processes saw is its own affair, but they
    # must end, and a driver loaded anew must find a line as good as new.
    wait_for("its own verify to end",
             lambda: bad.shell.ended("own"), PATIENCE_SECONDS)
    bad.run("rmmod tidepool_tmem", 60)
    bad.driver_load()
    text = bad.run(f"verify /dev/tmemswap0 32 3 {lib.seed()}", 60)
    check(" refused 0 unreadable 0" in text, f"after begin again: {text}")
    say(f"noticed {len(broken)} times; after that {text}")
    hvd.check()
    good.kernel_is_fine()


def hvd_killed_amid_puts_and_gets():
    """hvd comes and goes; what the guest swapped out is all there"""
    hvd = lib.Hvd().start()
    m = Machine("orphan", hvd, ram=RAM, swap=2 * RAM, tmem=512)
    m.driver_load().swap_on()
    hvd.wait_managed("orphan")
    m.shell.start(f"hog {RAM + 32} {6 if LONG else 2} {lib.seed()}", "hog")
    kills = 0
    while m.shell.ended("hog") is None:
        time.sleep(2)
        hvd.kill()
        time.sleep(1)
        hvd.start()
        hvd.wait_managed("orphan")
        kills += 1
    status, text = m.shell.ended("hog")
    counters = m.counters()
    say(f"hvd killed {kills} times, {counters}")
    check(status == 0, f"hog ended with {status}: {text}")
    check(kills > 0 and counters["swap_reads"] > 1000, "nothing was tested")
    check(counters["swap_errors"] == 0, "the guest noticed")
    m.kernel_is_fine()


def line_host_start(path, cap_mib, swap_mib):
    """The host's end in a process of its own."""
    program = os.path.join(lib.work, "line_host")
    subprocess.run(["gcc", "-std=c11", "-O2", "-D_GNU_SOURCE", "-I", lib.ROOT,
                    "-o", program,
                    os.path.join(lib.ROOT, "tests/guest/line_host.c"),
                    lib.built("libtidepool.a"), lib.built("libtmem.a"),
                    "-llz4", "-lxxhash", "-luring", "-pthread"], check=True)
    proc = lib.spawn([program, path, str(cap_mib), str(swap_mib)],
                     "line_host.log")
    wait_for("line_host's socket", lambda: os.path.exists(path), 10, 0.02)
    return proc


def answer_while(m, truth):
    """The guest's shell answers all the time; the slowest answer."""
    start = time.monotonic()
    slowest = 0
    while truth():
        asked = time.monotonic()
        m.run("true", PATIENCE_SECONDS)
        slowest = max(slowest, time.monotonic() - asked)
        check(asked < start + PATIENCE_SECONDS,
              "its kernel still waits for a dead host")
        time.sleep(0.5)
    return slowest


def host_end_dies():
    """no answer any more: bounded waits, I/O errors, and a guest that lives"""
    path = os.path.join(lib.work, "line")
    host = line_host_start(path, 256, 2 * RAM)
    m = Machine("stranded", ram=RAM, line=path)
    m.driver_load(options=PATIENCE).swap_on()
    m.shell.start(f"hog {RAM} 0 {lib.seed()}", "hog")
    wait_for("a pass", lambda: "pass 1 " in m.run("cat /tmp/hog"), 90)
    host.kill()
    host.wait()
    start = time.monotonic()
    m.shell.start("dd if=/dev/tmemswap0 of=/dev/null bs=4k count=1 "
                  "iflag=direct", "dd")
    slowest = answer_while(m, lambda: m.shell.ended("dd") is None or
                           m.shell.ask("pidof hog")[0] == 0)
    took = time.monotonic() - start
    status, text = m.shell.ended("dd")
    say(f"errors after {took:.0f} s, slowest answer {slowest:.1f} s; dd: "
        f"{text}")
    check(status != 0, "a read without a host succeeded")
    # It was killed for a page that is lost, and not handed another's. Who
    # would have told how it ended may have been swapped out itself.
    check("wrong" not in m.run("cat /tmp/hog"), "hog read a wrong page")
    check(m.counters()["line_broken"] == 1, "the driver noticed nothing")
    m.shell.ask("swapoff /dev/tmemswap0", PATIENCE_SECONDS)
    check(m.run("echo alive") == "alive", "the guest is gone")
    m.kernel_is_fine()


lib.main(hostile_guest, hvd_killed_amid_puts_and_gets, host_end_dies)
