#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The test of the tests: guests without any of our code around them.

What the payload says must be true before it can accuse anyone: it finds
nothing wrong in an honest machine, and it finds a single damaged bit.
"""

import lib


def honest_guest_has_no_mismatch():
    """filled, rewritten and churned memory reads back as written"""
    g = lib.Guest("plain").ready()
    g.fill(lib.seed(), 1, zero=2000, same=500, common=4000, dup=2000,
           random=4000, text=4000)
    lib.check(g.verify() == 16500, "verify must look at every page")
    for _ in range(3):
        g.no_mismatch("rewrite", g.ask("rewrite", 300))
        g.no_mismatch("churn", g.ask("churn", 500))
        g.verify()
    g.quit()


def damaged_bit_is_found():
    """one flipped bit is one mismatch, at the right place"""
    g = lib.Guest("plain").ready()
    g.fill(lib.seed(), 1, zero=10, common=10, random=10)
    g.ask("damage", 15)
    answer = g.ask("verify")
    lib.check(answer == {"pages": "30", "mismatches": "1", "first": "15",
                         "kind": "common", "word": "511"},
              f"verify said {answer}")


lib.main(honest_guest_has_no_mismatch, damaged_bit_is_found)
