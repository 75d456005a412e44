#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Cold pages leave for the compressed store, and come back as they were."""

import lib
from lib import Guest, Hvd, check, say, wait_for

COUNTS = dict(zero=1000, same=1000, random=4000, text=16000)
MIB = 1 << 20


def squeezed(hvd):
    """A guest most of whose text pages have been compressed."""
    g = Guest("g0", "preload", hvd).ready()
    hvd.wait_managed("g0")
    g.fill(lib.seed(), 77, **COUNTS)
    hvd.call("budget", bytes=64 * MIB)
    want = COUNTS["text"] // 3
    wait_for(f"{want} pages to be compressed",
             lambda: hvd.mm("g0")["compressed_pages"] >= want, 90)
    return g


def cold_pages_come_back():
    """a low budget compresses; every byte is read back, under writes too"""
    hvd = Hvd().start()
    g = squeezed(hvd)
    before = hvd.mm("g0")
    say(f"{before['compressed_pages']} pages in "
        f"{before['store_bytes'] // MIB} MiB, "
        f"{before['private_pages']} private")
    check(before["store_bytes"] < before["compressed_pages"] * lib.PAGE,
          "the store is larger than what is in it")
    dense = hvd.vm("g0")["tmem"]["pages_dense"]
    check(dense > before["compressed_pages"] // 2,
          f"only {dense} of these pages went through the denser codec")
    g.verify()
    after = wait_for("faults to be counted", lambda: (
        lambda mm: mm if mm["faults"] > before["faults"] else None)(
            hvd.mm("g0")), 20)
    say(f"{after['faults'] - before['faults']} faults, median "
        f"{after['fault_p50_ns'] // 1000} us, p99 "
        f"{after['fault_p99_ns'] // 1000} us")
    check(after["faults_lost"] == 0, "a page could not be given back")
    g.no_mismatch("churn", g.ask("churn", 5000))
    g.no_mismatch("rewrite", g.ask("rewrite", 500))
    g.verify()
    hvd.check()
    g.quit()


def unmanage_gives_everything_back():
    """`unmanage` restores all memory; the guest goes on without us"""
    hvd = Hvd().start()
    g = squeezed(hvd)
    hvd.call("unmanage", vm="g0")
    wait_for("g0 to be let go", lambda: (hvd.vm("g0") or {}).get("state") !=
             "managed", 60)
    hvd.kill()
    g.verify()
    g.no_mismatch("churn", g.ask("churn", 1000))
    g.quit()


def hvd_dies_while_pages_are_out():
    """kill -9 of hvd with most memory compressed: faults are answered on"""
    hvd = Hvd().start()
    g = squeezed(hvd)
    g.send("churn", 4000)
    hvd.kill()
    g.no_mismatch("churn without hvd", g.answer())
    g.verify()
    hvd.start()
    hvd.wait_managed("g0")
    g.verify()
    hvd.check()


lib.main(cold_pages_come_back, unmanage_gives_everything_back,
         hvd_dies_while_pages_are_out)
