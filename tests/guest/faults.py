#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever dies or hangs in the middle of merging, no guest loses a byte."""

import signal
import time

import lib
import share
from lib import Guest, Hvd, check, say, wait_for

# More pages, so that the middle of merging lasts.
COUNTS = dict(zero=2000, common=16000, dup=3200, random=2000, text=2000)
CHURN_EVERY = 4     # one page in so many is rewritten meanwhile
STILL_COMMON = COUNTS["common"] * (CHURN_EVERY - 1) // CHURN_EVERY * 9 // 10


def merged(hvd):
    """As hvd counts, since what agents count arrives once a second."""
    return sum(d["sharing_pages"] for d in hvd.call("domains")["domains"])


def in_the_middle(hvd, guests):
    """Returns when merging is under way and not yet done; guests churn."""
    hvd.share()
    for g in guests:
        g.send("churn", 6000, CHURN_EVERY)
    done = 2 * (COUNTS["common"] + COUNTS["dup"])
    n = wait_for("merging to begin", lambda: merged(hvd), 60, every=0.01)
    check(n < done * 9 // 10, f"{n} pages merged before we looked: too late")
    say(f"{n} of {done} pages are merged")


def churned(guests):
    for g in guests:
        g.no_mismatch("churn meanwhile", g.answer())
        g.verify()


def hvd_killed_while_merging():
    """kill -9 of hvd, restart: agents return and the merging is finished"""
    hvd = Hvd().start()
    guests = share.pair(hvd, counts=COUNTS)
    in_the_middle(hvd, guests)
    hvd.kill()
    for g in guests:
        check(g.alive(), f"{g.name} died with hvd")
    time.sleep(2)
    hvd.start().share()
    hvd.wait_managed("g0", "g1")
    churned(guests)
    share.wait_common(*guests, STILL_COMMON)
    hvd.check()
    for g in guests:
        g.verify()
        g.quit()
    wait_for("all frames to be free", lambda: hvd.frames() == 0, 20)


def qemu_killed_while_merging():
    """kill -9 of one QEMU: the other is unharmed, its frames come free"""
    hvd = Hvd().start()
    guests = share.pair(hvd, counts=COUNTS)
    in_the_middle(hvd, guests)
    guests[0].kill()
    churned(guests[1:])
    wait_for("hvd to see it", lambda: (hvd.vm("g0") or {}).get("state") !=
             "managed", 20)
    hvd.check()
    third = Guest("g2", "preload", hvd, "d").ready()
    hvd.wait_managed("g2")
    third.fill(lib.seed(), 77, **COUNTS)
    share.wait_common(guests[1], third, STILL_COMMON)
    for g in (guests[1], third):
        g.verify()
        g.kill()
    wait_for("all frames to be free", lambda: hvd.frames() == 0, 20)


def hvd_stopped_while_merging():
    """SIGSTOP of hvd for 30 s: guests run on, and go on merging after"""
    hvd = Hvd().start()
    guests = share.pair(hvd, counts=COUNTS)
    in_the_middle(hvd, guests)
    hvd.kill(signal.SIGSTOP)
    start = time.monotonic()
    churned(guests)
    for g in guests:
        g.no_mismatch("churn", g.ask("churn", 500, CHURN_EVERY))
    took = time.monotonic() - start
    check(took < 30, f"guests took {took:.0f} s for 6.5 s of work")
    time.sleep(max(0.0, 30 - took))
    hvd.kill(signal.SIGCONT)
    hvd.wait_managed("g0", "g1")
    share.wait_common(*guests, STILL_COMMON)
    hvd.check()
    for g in guests:
        g.verify()


if __name__ == "__main__":
    lib.main(hvd_killed_while_merging, qemu_killed_while_merging,
             hvd_stopped_while_merging)
