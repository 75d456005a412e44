#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock kernel that swaps to the host's page store, through tmemswap0.

The guest has no other swap and a hog twice its memory, whose every page is
checked; what the host holds is read from the host. TMEM_LONG=1: more and
longer of each.
"""

import lib
import lib_tmem
from lib import check, say, wait_for
from lib_tmem import LONG, Machine

RAM = 112
PASSES = 6 if LONG else 2
VERIFY_SECONDS = 120 if LONG else 4


def hog_line(mib, passes):
    return f"hog {mib} {passes} {lib.seed()}"


def started(name, **more):
    return Machine(name, lib.Hvd().start(), **more).driver_load()


def hog_twice_the_memory():
    """a working set of 2x RAM goes out and comes back, and is let go of"""
    m = started("swapper", ram=RAM, swap=2 * RAM + 32, tmem=512).swap_on()
    m.shell.start(hog_line(2 * RAM, PASSES), "hog")
    most = 0

    def ended():
        nonlocal most
        most = max(most, m.host_pages())
        return m.shell.ended("hog")

    status, text = wait_for("the hog", ended, 280 if LONG else 100, 0.5)
    check(status == 0, f"hog ended with {status}: {text}")
    check(text.count("pages") == PASSES, f"hog said {text}")
    check(most > RAM << 8, f"the host never held more than {most} pages")
    wait_for("the guest to let go of its pages",
             lambda: m.host_pages() < most // 4, 20)
    counters = m.counters()
    say(f"at most {most} pages at the host, now {m.host_pages()}, {counters}")
    check(counters["swap_writes"] >= PASSES * (RAM << 8), "hardly a write")
    check(counters["swap_reads"] >= PASSES * (RAM << 7), "hardly a read")
    check(counters["swap_errors"] == 0, "swapping had errors")
    check(counters["wait_ns"] > 1000 * counters["swap_reads"],
          "reads hardly waited, or nobody counted")
    m.kernel_is_fine()


def swapoff_brings_all_back():
    """swapoff leaves no page behind and loses none"""
    m = started("leaver", ram=RAM, swap=RAM, tmem=256).swap_on()
    m.shell.start(hog_line(RAM // 5, 0), "kept")
    wait_for("a pass", lambda: "pass 1 " in m.run("cat /tmp/kept"), 60)
    pid = m.run("pidof hog")
    m.run(f"kill -STOP {pid}")
    # Pushes the other out; what is left must fit into memory again.
    m.run(hog_line(RAM * 2 // 3, 1), 60)
    out = m.swap_used_kib()
    check(out > 1024, f"only {out} KiB were in swap")
    m.run("swapoff /dev/tmemswap0", 60)
    passes = m.run("cat /tmp/kept").count("pass")
    m.run(f"kill -CONT {pid}")
    wait_for("two passes more", lambda: m.run("cat /tmp/kept").count("pass")
             >= passes + 2, 60)
    check("wrong" not in m.run("cat /tmp/kept"), "swapoff lost a page")
    m.run(f"kill {pid}")
    wait_for("the host to hold nothing", lambda: m.host_pages() < 64, 20)
    m.run("rmmod tidepool_tmem")
    m.kernel_is_fine()


def device_verifies():
    """random writes, reads and discards of the device read as written"""
    m = started("verifier", ram=RAM, swap=96, tmem=256, smp=2)
    text = m.run(f"verify /dev/tmemswap0 96 {VERIFY_SECONDS} {lib.seed()}",
                 VERIFY_SECONDS + 60)
    say(text)
    check(" refused 0 unreadable 0" in text, text)
    m.run("swapoff -a; rmmod tidepool_tmem && insmod /kos/tidepool_tmem.ko")
    m.kernel_is_fine()


def full_store_refuses():
    """over its cap writes are refused; what was accepted stays right"""
    m = started("poor", ram=RAM, swap=160, tmem=16)
    text = m.run(f"verify /dev/tmemswap0 96 {VERIFY_SECONDS} {lib.seed()}",
                 VERIFY_SECONDS + 60)
    say(text)
    check(" refused 0 " not in text, "a cap of 16 MiB refused nothing")
    m.swap_on()
    status, text = m.shell.ask(hog_line(RAM + 16, 1), 100)
    say(f"a hog of {RAM + 16} MiB: {status} {text}")
    # It may be short of memory and die of that, but not of a wrong page.
    check("wrong" not in text and status in (0, 137), f"{status}: {text}")
    check(m.counters()["swap_refused"] > 0, "the driver counted no refusal")
    m.kernel_is_fine()


def frozen_client():
    """frozen, new pages are refused and old ones are right; then as before"""
    m = started("frozen", ram=RAM, swap=96, tmem=256, smp=2)
    verify = f"verify /dev/tmemswap0 96 {VERIFY_SECONDS} {lib.seed()}"
    m.shell.start(verify, "verify")
    lib_tmem.ctl(m.hvd, "freeze", m.name)
    wait_for("a refused write", lambda: m.counters()["swap_refused"] > 0, 30)
    lib_tmem.ctl(m.hvd, "thaw", m.name)
    status, text = m.shell.wait("verify", VERIFY_SECONDS + 60)
    say(text)
    check(status == 0 and " refused 0 " not in text, f"{status}: {text}")
    text = m.run(verify, VERIFY_SECONDS + 60)
    check(" refused 0 unreadable 0" in text, text)
    m.kernel_is_fine()


def lost_pages_cannot_be_read():
    """what went with an earlier line is an error, and nothing else is"""
    m = started("loser", ram=RAM, swap=96, tmem=256)
    driver = "/sys/bus/pci/drivers/tidepool_tmem"
    line = m.run(f"cd {driver} && ls -d 0*")

    def fails(how, page):
        return m.shell.ask(f"dd {how} bs=4k {page} count=1 conv=notrunc")[0]

    def unread(page):
        return fails("if=/dev/tmemswap0 of=/dev/null iflag=direct",
                     f"skip={page}")

    def unwritten(page):
        return fails("if=/dev/urandom of=/dev/tmemswap0 oflag=direct",
                     f"seek={page}")

    pages = (0, 1, 31, 32, 1000)
    for page in pages:
        check(not unwritten(page) and not unread(page), f"no page {page}")
    # Who has it open keeps the device while there is no line.
    m.shell.start("sleep 1000 </dev/tmemswap0", "keep")
    wait_for("it to be open", lambda: m.shell.ask("pidof sleep")[0] == 0)
    m.run(f"echo {line} >{driver}/unbind")
    check(unread(0) and unwritten(2), "there is no line, but pages")
    m.run(f"echo {line} >{driver}/bind")
    wait_for("writes as before", lambda: not unwritten(3), 15)
    for page in pages:
        check(unread(page), f"lost page {page} was read")
    check(m.counters()["swap_lost"] == len(pages), "not counted as lost")
    check(unread(2), "a page that was never stored was read")
    for page in (3, 500):
        check(not unread(page), f"page {page} was never lost")
    for page in pages:
        check(not unwritten(page) and not unread(page), f"page {page} stays")
    m.run("kill $(pidof sleep)")
    m.kernel_is_fine()


lib.main(hog_twice_the_memory, swapoff_brings_all_back, device_verifies,
         full_store_refuses, frozen_client, lost_pages_cannot_be_read)
