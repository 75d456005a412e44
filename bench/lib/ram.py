# SPDX-License-Identifier: GPL-2.0-or-later
"""Real desktop memory, captured once: what benches replay.

    build/bench/ram/g0.ram      guest 0's RAM, sparse: a hole is a page the
                                guest never touched
                    g0.changed  numbers (uint32) of the pages that were not the
                                same `seconds` later: how much changes
                    recipe      what it was made from, as JSON; written last

All guests stand still while they are read, so that pages that are equal were
equal at one moment. A page written twice in the interval counts once: the rate
is a lower bound.
"""
import array
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

from .life import Failed

PAGE = 4096
BATCH = 512  # pages of one read
VERSION = 1
APART_SECONDS = 10
PRESENT = 1 << 63 | 1 << 62  # or swapped out


class Captured:
    """What is in the cache: paths, and figures of its recipe."""

    def __init__(self, directory, recipe):
        self.directory = directory
        self.guests = recipe["guests"]
        self.ram_bytes = recipe["ram_bytes"]
        self.seconds = recipe["seconds"]
        self.present = recipe["present"]
        self.changed = recipe["changed"]

    def ram(self, index):
        return os.path.join(self.directory, f"g{index}.ram")

    def changed_list(self, index):
        return os.path.join(self.directory, f"g{index}.changed")


def image_recipe(image_dir):
    with open(os.path.join(image_dir, "recipe"), encoding="ascii") as file:
        return file.read().split()[0]


def find(build):
    """The captured memory of the image in build, or None."""
    directory = os.path.join(build, "bench", "ram")
    try:
        with open(os.path.join(directory, "recipe"), encoding="utf-8") as file:
            recipe = json.load(file)
        image = image_recipe(os.path.join(build, "image"))
    except (OSError, json.JSONDecodeError, IndexError):
        return None
    if recipe.get("version") != VERSION or recipe.get("image") != image:
        return None
    return Captured(directory, recipe)


def need(build, guests):
    """The captured memory of so many guests; captures it where there is
    none. Takes three minutes for two guests, five for four."""
    have = find(build)
    if have and have.guests >= guests:
        return have
    top = os.path.dirname(os.path.dirname(os.path.dirname(
        os.path.abspath(__file__))))
    subprocess.run([sys.executable, os.path.join(top, "bench", "run.py"),
                    "--build", build, "--guests", str(guests),
                    "--capture", os.path.join(build, "bench", "ram")],
                   check=True, stdout=sys.stderr)
    have = find(build)
    if not have:
        raise Failed("capturing left no memory to replay")
    return have


def capture(job, directory):
    """Of a Job (run.py) whose guests are up and at work."""
    new = directory + ".new"
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(new)
    start = time.monotonic()
    with Paused(job.guests):
        present = [first_snapshot(g, os.path.join(new, f"g{i}.ram"))
                   for i, g in enumerate(job.guests)]
    time.sleep(APART_SECONDS)
    with Paused(job.guests):
        changed = [second_snapshot(g, os.path.join(new, f"g{i}"))
                   for i, g in enumerate(job.guests)]
    recipe = {"version": VERSION, "image": image_recipe(job.built("image")),
              "guests": len(job.guests),
              "ram_bytes": job.guests[0].ram_bytes,
              "seconds": APART_SECONDS, "present": present,
              "changed": changed}
    with open(os.path.join(new, "recipe"), "w", encoding="utf-8") as file:
        json.dump(recipe, file, indent=1)
    shutil.rmtree(directory, ignore_errors=True)
    os.rename(new, directory)
    job.table.note(
        f"captured {sum(present) * PAGE >> 20} MiB of {len(present)} guests "
        f"in {time.monotonic() - start:.0f} s; {sum(changed)} pages changed "
        f"within {APART_SECONDS} s")


class Paused:
    def __init__(self, guests):
        self.guests = guests

    def __enter__(self):
        for guest in self.guests:
            guest.qmp.run("stop")

    def __exit__(self, *_):
        for guest in self.guests:
            guest.qmp.run("cont")


def present_runs(guest):
    """(first page, pages) of what the guest ever touched, in batches."""
    pages = guest.ram_bytes // PAGE
    with open(f"/proc/{guest.child.pid}/pagemap", "rb", buffering=0) as file:
        for first in range(0, pages, BATCH):
            n = min(BATCH, pages - first)
            file.seek((guest.base // PAGE + first) * 8)
            entries = array.array("Q", file.read(n * 8))
            at = 0
            while at < n:
                run = at
                while run < n and entries[run] & PRESENT:
                    run += 1
                if run > at:
                    yield first + at, run - at
                at = max(run, at + 1)


def first_snapshot(guest, path):
    total = 0
    with open(f"/proc/{guest.child.pid}/mem", "rb", buffering=0) as mem, \
            open(path, "wb") as out:
        out.truncate(guest.ram_bytes)
        for first, n in present_runs(guest):
            mem.seek(guest.base + first * PAGE)
            out.seek(first * PAGE)
            out.write(exactly(mem, n * PAGE))
            total += n
    return total


def second_snapshot(guest, stem):
    """Only which pages are not what they were."""
    changed = array.array("I")
    with open(f"/proc/{guest.child.pid}/mem", "rb", buffering=0) as mem, \
            open(stem + ".ram", "rb") as was:
        for first, n in present_runs(guest):
            mem.seek(guest.base + first * PAGE)
            was.seek(first * PAGE)
            now, then = exactly(mem, n * PAGE), was.read(n * PAGE)
            if now == then:
                continue
            changed.extend(
                first + i for i in range(n)
                if now[i * PAGE:(i + 1) * PAGE] != then[i * PAGE:(i + 1)
                                                        * PAGE])
    with open(stem + ".changed", "wb") as file:
        changed.tofile(file)
    return len(changed)


def exactly(file, size):
    data = file.read(size)
    if len(data) != size:
        raise Failed(f"a guest's memory: {len(data)} of {size} bytes read")
    return data


def duplicates(have, guests, most):
    """Pages, zero ones included, that are equal to another, of the first
    `most` of each guest; those that changed within the interval left out."""
    seen, count = set(), 0
    for index in range(guests):
        with open(have.changed_list(index), "rb") as file:
            skip = set(array.array("I", file.read()))
        for page, data in pages_of(have.ram(index)):
            if page >= most:
                break
            if page in skip:
                continue
            key = hashlib.blake2b(data, digest_size=16).digest()
            count += key in seen or data == bytes(PAGE)
            seen.add(key)
    return count


def pages_of(path):
    """(number, content) of each page that is there."""
    with open(path, "rb") as file:
        end = 0
        size = os.fstat(file.fileno()).st_size
        while end < size:
            try:
                first = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            first -= first % PAGE
            end = os.lseek(file.fileno(), first, os.SEEK_HOLE)
            end = min(size, end + -end % PAGE)
            for at in range(first, end, PAGE):
                yield at // PAGE, os.pread(file.fileno(), PAGE, at)
