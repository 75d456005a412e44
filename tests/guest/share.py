#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that are equal become one; and no guest ever notices."""

import time

import lib
from lib import Guest, Hvd, check, say, wait_for

COUNTS = dict(zero=3000, same=300, common=6000, dup=1600, random=3000,
              text=3000)


def pair(hvd, ways=("preload", "preload"), domains=("d", "d"), counts=COUNTS):
    """Two guests with the same common pages, managed and filled."""
    guests = [Guest(f"g{i}", way, hvd, domain)
              for i, (way, domain) in enumerate(zip(ways, domains))]
    for g in guests:
        g.ready()
    hvd.wait_managed(*(g.name for g in guests))
    for g in guests:
        g.fill(lib.seed(), 77, **counts)
    return guests


def saved_at_least(counts):
    """Pages two such guests need not have, were nothing else equal."""
    dup = counts["dup"] - counts["dup"] // lib.DUP_SPREAD
    return counts["common"] + 2 * dup


def saved(hvd):
    return sum(d["saved_pages"] for d in hvd.call("domains")["domains"])


def wait_merged(hvd, guests, seconds=60):
    want = saved_at_least(guests[0].counts) * 9 // 10
    wait_for(f"{want} pages to be saved (now {saved(hvd)})",
             lambda: saved(hvd) >= want, seconds)


def wait_common(a, b, want):
    """Until so many of the host's pages serve both guests."""
    n = [0]

    def enough():
        n[0] = lib.common_pfns(a, b)
        return n[0] >= want
    try:
        wait_for("it", enough, 60, every=1)
    except lib.Failed:
        raise lib.Failed(f"after 60 s only {n[0]} of the host's pages serve "
                         f"both {a.name} and {b.name}; want {want}")
    say(f"{n[0]} of the host's pages serve both guests")


def wait_settled(hvd, guests):
    """Until nothing was merged for two seconds: grants may be under way."""
    def merged():
        return [hvd.mm(g.name)["merged_pages"] for g in guests]

    def still():
        before = merged()
        time.sleep(2)
        return merged() == before
    wait_for("merging to stop", still, 30)


def check_bounds(hvd, guests):
    """What is counted lies between what we know is equal and what may be."""
    for g in guests:
        mm = hvd.mm(g.name)
        c = g.counts
        parts = sum(mm[k + "_pages"] for k in
                    ("absent", "private", "held", "shared", "zero",
                     "compressed", "swapped"))
        check(parts == mm["ram_pages"],
              f"{g.name}: states sum to {parts}, not {mm['ram_pages']}")
        check(mm["zero_pages"] + mm["absent_pages"] >= c["zero"] * 9 // 10,
              f"{g.name}: only {mm['zero_pages']} zero pages")
        check(mm["shared_pages"] >= (c["common"] + c["dup"]) * 9 // 10,
              f"{g.name}: only {mm['shared_pages']} shared pages")
        check(mm["shared_pages"] <= mm["ram_pages"] - mm["absent_pages"] -
              c["random"] - c["text"],
              f"{g.name}: {mm['shared_pages']} shared pages; more than there "
              f"are equal ones")


def equal_pages_merge_and_take_writes():
    """merged, checked from outside, written, read back, merged again"""
    hvd = Hvd().start().share()
    guests = pair(hvd, ways=("preload", "hv"))
    wait_merged(hvd, guests)
    wait_common(*guests, COUNTS["common"] * 9 // 10)
    check_bounds(hvd, guests)
    say(f"{saved(hvd)} pages are saved")
    for g in guests:
        g.verify()
        g.no_mismatch("rewrite", g.ask("rewrite", 300))
        g.verify()
    wait_for("broken pages to be counted", lambda: all(
        hvd.mm(g.name)["cow_breaks"] > 0 for g in guests), 30)
    for g in guests:
        g.send("churn", 5000)
    for g in guests:
        g.no_mismatch("churn while it is scanned", g.answer())
        g.verify()
    hvd.check()
    for g in guests:
        g.quit()
    wait_for("all frames to be free", lambda: hvd.frames() == 0, 20)


def unshare_gives_every_page_its_own_copy():
    """after `unshare` no page of the host serves both guests"""
    hvd = Hvd().start().share()
    guests = pair(hvd)
    wait_merged(hvd, guests)
    hvd.call("pressure", state="high")
    wait_settled(hvd, guests)
    for g in guests:
        hvd.call("unshare", vm=g.name)
    for g in guests:
        wait_for(f"{g.name} to share nothing, not "
                 f"{hvd.mm(g.name)['shared_pages']} pages",
                 lambda: hvd.mm(g.name)["shared_pages"] == 0, 10)
    both = lib.common_pfns(*guests)
    check(both == 0, f"{both} of the host's pages still serve both")
    for g in guests:
        g.verify()
    wait_for("all frames to be free", lambda: hvd.frames() == 0, 20)


def commands_tell_what_hvd_tells():
    """`hv --json list` and `show` agree with the control socket"""
    hvd = Hvd().start().share()
    guests = pair(hvd)
    wait_merged(hvd, guests)
    listed = {vm["name"]: vm for vm in lib.hv_json(hvd, "list")["vms"]}
    check(sorted(listed) == ["g0", "g1"], f"hv list shows {sorted(listed)}")
    shown = lib.hv_json(hvd, "show", "g0")
    for key in ("name", "domain", "pid", "state"):
        check(shown[key] == hvd.vm("g0")[key], f"{key} differs: {shown[key]}")
    check(shown["pid"] == guests[0].pid, f"pid {shown['pid']} is not QEMU's")
    # an agent reports once a second; hvd's own counts are ahead of that
    wait_for("hv show to tell of a shared page",
             lambda: lib.hv_json(hvd, "show", "g0")["mm"]["shared_pages"] > 0,
             10)


if __name__ == "__main__":
    lib.main(equal_pages_merge_and_take_writes,
             unshare_gives_every_page_its_own_copy,
             commands_tell_what_hvd_tells)
