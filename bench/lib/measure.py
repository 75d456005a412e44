# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures taken from outside: the census of the guests' memory and what the
kernel says our processes hold.

The account of a moment, all in bytes:

  resident = guest pages private to a guest (pagemap)
           + pages held on trial + the frame pool + the compressed stores
           + metadata
  metadata = hvd's own memory + what agents say they hold
           + the growth of the kernel's caches for mappings since the start

Agents count an estimate of their mappings into their metadata; the kernel's
caches are measured here, so that estimate is taken out again, lest it be
counted twice.
"""
import json
import subprocess

PAGE = 4096
AGENT_VMA_BYTES = 280  # VMA_BYTES of hv/mm/mm.c: what agents assume


def census(tool, guests, *options):
    argv = [tool, *options, *(g.census_argument() for g in guests)]
    out = subprocess.run(argv, check=True, capture_output=True, text=True,
                         start_new_session=True)
    return json.loads(out.stdout)


def census_paused(tool, guests, *options):
    """Nothing moves while it is counted."""
    for guest in guests:
        guest.qmp.run("stop")
    try:
        return census(tool, guests, *options)
    finally:
        for guest in guests:
            guest.qmp.run("cont")


def status_kib(pid, *names):
    total = 0
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in names:
                total += int(value.split()[0])
    return total


def hvd_bytes(pid):
    """Its own memory, its share of the libraries it maps, its page tables.
    The frame pool, which is shared memory, is counted apart."""
    kib = status_kib(pid, "VmPTE")
    with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in ("Pss_Anon", "Pss_File"):
                kib += int(value.split()[0])
    return 1024 * kib


class Account:
    """tool: build/bench/census. slab0: slab bytes before anything shared."""

    def __init__(self, tool, guests, hvd_pid, slab0):
        self.tool = tool
        self.guests = guests
        self.hvd_pid = hvd_pid
        self.slab0 = slab0

    def take(self, sample):
        seen = census(self.tool, self.guests, "--resident")
        vma_bytes = max(0, seen["slab_bytes"] - self.slab0)
        hvd = hvd_bytes(self.hvd_pid)
        agents = (sample.total("metadata_bytes")
                  - sample.total("vmas") * AGENT_VMA_BYTES)
        account = {
            "private_bytes": seen["anon"] * PAGE,
            "held_bytes": sample.total("held_pages") * PAGE,
            "frames_bytes": sample.frames() * PAGE,
            "store_bytes": sample.store_bytes(),
            "hvd_bytes": hvd,
            "agents_bytes": agents,
            "kernel_vma_bytes": vma_bytes,
            "vmas": seen["vmas"],
        }
        account["metadata_bytes"] = hvd + agents + vma_bytes
        account["resident_bytes"] = sum(
            account[k] for k in ("private_bytes", "held_bytes", "frames_bytes",
                                 "store_bytes", "metadata_bytes"))
        return account
