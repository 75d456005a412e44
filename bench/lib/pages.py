# SPDX-License-Identifier: GPL-2.0-or-later
"""A file of pages to store: real ones, the same for each side of a bench.

Drawn at random, by a seed, from captured desktop RAM (build/bench/ram/*.ram)
if there is any, else from the large libraries in /usr/lib. Pages of zeros are
left out: neither our memory manager nor any rival stores them, and they would
only flatter every ratio.
"""
import glob
import os
import random

from .result import Skip

PAGE = 4096
LARGE = 1 << 20
TRIES = 64  # draws for each page wanted


def sources(build):
    """(paths, what they are)."""
    images = sorted(glob.glob(os.path.join(build, "bench", "ram", "*.ram")))
    if images:
        return images, f"memory of {len(images)} desktops"
    found = []
    for folder, _, names in os.walk("/usr/lib"):
        for name in names:
            path = os.path.join(folder, name)
            if ".so" in name and not os.path.islink(path) and \
                    os.path.getsize(path) >= LARGE:
                found.append(path)
    if not found:
        raise Skip("no pages to store: neither desktop memory nor libraries")
    return sorted(found), (f"{len(found)} libraries in /usr/lib "
                           "(no desktop memory captured)")


def _offsets(rng, sizes):
    """Pages of all files alike: larger files give more."""
    total = sum(sizes)
    ends, end = [], 0
    for size in sizes:
        end += size
        ends.append(end)
    while True:
        at = rng.randrange(total)
        index = next(i for i, e in enumerate(ends) if at < e)
        yield index, at - (ends[index] - sizes[index])


def sample(build, count, seed, to_path):
    """Writes count pages to to_path; returns what they are."""
    paths, what = sources(build)
    files = [open(path, "rb") for path in paths]
    try:
        sizes = [os.fstat(f.fileno()).st_size // PAGE for f in files]
        draw = _offsets(random.Random(seed), sizes)
        with open(to_path, "wb") as out:
            for _ in range(count * TRIES):
                index, page = next(draw)
                data = os.pread(files[index].fileno(), PAGE, page * PAGE)
                if data.count(0) != PAGE:
                    out.write(data)
                    count -= 1
                    if not count:
                        return what
    finally:
        for file in files:
            file.close()
    raise Skip(f"too few pages in {what}")
