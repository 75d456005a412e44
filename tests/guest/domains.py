#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Trust domains: what is equal across two of them stays two pages."""

import lib
import share
from lib import Hvd, check, say, wait_for


def apart(hvd, guests):
    """Waits until each guest's own doubles are merged, then looks for more."""
    c = guests[0].counts
    want = (c["dup"] - c["dup"] // lib.DUP_SPREAD) * 9 // 10
    wait_for("each guest's own doubles to be merged", lambda: all(
        hvd.mm(g.name)["shared_pages"] >= want for g in guests), 60)
    done = [hvd.mm(g.name)["scans"] + 2 for g in guests]
    wait_for("two more scans", lambda: all(
        hvd.mm(g.name)["scans"] >= n for g, n in zip(guests, done)), 60)
    both = lib.common_pfns(*guests)
    say(f"{both} of the host's pages serve both guests")
    check(both == 0, f"{both} of the host's pages serve two domains")
    for g in guests:
        g.verify()


def two_domains_never_share():
    """thousands of pages equal across domains a and b: none is shared"""
    hvd = Hvd().start().share()
    guests = share.pair(hvd, domains=("a", "b"))
    apart(hvd, guests)
    names = {d["name"]: d["vms"] for d in hvd.call("domains")["domains"]}
    check(names.get("a") == ["g0"] and names.get("b") == ["g1"],
          f"domains are {names}")


def a_guest_with_no_domain_is_its_own():
    """by default nobody shares with anybody else"""
    hvd = Hvd().start().share()
    guests = share.pair(hvd, domains=(None, None))
    apart(hvd, guests)


lib.main(two_domains_never_share, a_guest_with_no_domain_is_its_own)
