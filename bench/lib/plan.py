# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of a capture (ram.py) a replayed desktop has: bench/tenant.c.

    build/bench/ram/g0.plan-2   uint32 page numbers, with OWN and WRITTEN

A half of a desktop is not its first half: a page is chosen by its content, so
that all its copies, in whichever desktop, are in or out together. The shares of
duplicates within and across desktops stay what they were; runs of equal pages
get shorter, which costs those who map runs. Zero pages are chosen by number.
"""
import array
import hashlib
import os

from .ram import PAGE, pages_of

OWN = 1 << 31  # nobody else has that content
WRITTEN = 1 << 30
ZERO = bytes(PAGE)


def plans(have, one_in):
    """Paths of the plans of all captured guests; made where there are none."""
    paths = [os.path.join(have.directory, f"g{i}.plan-{one_in}")
             for i in range(have.guests)]
    if not all(os.path.exists(path) for path in paths):
        _make(have, one_in, paths)
    return paths


def _make(have, one_in, paths):
    guests = [_chosen(have.ram(i), one_in) for i in range(have.guests)]
    owner = {}  # key: the one guest that has it, or None
    for i, pages in enumerate(guests):
        for _, key in pages:
            owner[key] = i if owner.setdefault(key, i) == i else None
    for i, (pages, path) in enumerate(zip(guests, paths)):
        with open(have.changed_list(i), "rb") as file:
            written = set(array.array("I", file.read()))
        plan = array.array("I", (
            number | (OWN if owner[key] == i else 0)
            | (WRITTEN if number in written else 0)
            for number, key in pages))
        with open(path + ".new", "wb") as file:
            plan.tofile(file)
        os.rename(path + ".new", path)


def _chosen(path, one_in):
    """[(number, key of the content)]"""
    chosen = []
    for number, data in pages_of(path):
        if data == ZERO:
            if number % one_in == 0:
                chosen.append((number, b""))
            continue
        key = hashlib.blake2b(data, digest_size=12).digest()
        if key[0] % one_in == 0:
            chosen.append((number, key))
    return chosen


def counts(paths):
    """Of all the plans together: pages, own ones, written ones."""
    pages = own = written = 0
    for path in paths:
        plan = array.array("I")
        with open(path, "rb") as file:
            plan.frombytes(file.read())
        pages += len(plan)
        own += sum(1 for p in plan if p & OWN)
        written += sum(1 for p in plan if p & WRITTEN)
    return {"pages": pages, "own": own, "written": written}
