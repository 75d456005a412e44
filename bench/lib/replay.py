# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that stand for VMs (bench/replay.c), and what is counted of them
from outside: page frames they hold, CPU time, kernel memory.
"""
import json
import os
import subprocess

from .life import Failed, ended
from .measure import PAGE

OWN_THREADS = ("victim", "changer")  # of bench/replay.c


class Replay:
    """One process; its memory is filled when this returns from ready()."""

    def __init__(self, life, build, name, options, env):
        with open(life.log_path(name), "ab") as log:
            self.child = subprocess.Popen(
                [os.path.join(build, "bench", "replay"), *options],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, bufsize=1, env={**os.environ, **env},
                start_new_session=True)
        self.name = name
        self.life = life
        life.children.append((name, self.child))
        self.base = self.bytes = self.filled = 0

    def _answer(self):
        line = self.child.stdout.readline()
        if not line:
            self.life.check()
            raise Failed(f"{self.name} ended; see {self.name}.log")
        return line.strip()

    def ready(self):
        word, base, size, filled = self._answer().split()
        if word != "ready":
            raise Failed(f"{self.name}: {word}")
        self.base, self.bytes, self.filled = \
            int(base, 16), int(size), int(filled)

    def ask(self, line):
        self.tell(line)
        return self._answer()

    def tell(self, line):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def hear(self):
        return self._answer()

    def felt(self, line):
        """Of a command that answers with times."""
        return json.loads(self.ask(line))

    def census_argument(self):
        return f"{self.child.pid}:{self.base:x}:{self.bytes}"

    def agent_cpu_ns(self):
        """All its threads but its own."""
        total = 0
        for tid in os.listdir(f"/proc/{self.child.pid}/task"):
            task = f"/proc/{self.child.pid}/task/{tid}"
            try:
                with open(task + "/comm", encoding="ascii") as file:
                    name = file.read().strip()
                if int(tid) != self.child.pid and name not in OWN_THREADS:
                    total += run_ns(task)
            except OSError:
                continue  # it has ended
        return total


class Fleet:
    """All the processes of one run, and the counter of their frames."""

    def __init__(self, life, build, options, env=None):
        self.life = life
        self.replays = []
        self.counter = None
        for i, one in enumerate(options):
            self.replays.append(Replay(
                life, build, f"vm{i}", one,
                {**(env or {}), "TIDEPOOL_NAME": f"vm{i}"}))
        for replay in self.replays:
            replay.ready()
        with open(life.log_path("footprint"), "ab") as log:
            self.counter = subprocess.Popen(
                [os.path.join(build, "bench", "footprint"),
                 *(r.census_argument() for r in self.replays)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, bufsize=1, start_new_session=True)
        life.children.append(("footprint", self.counter))

    def footprint(self):
        """{"present", "file", "frames"} of all processes together."""
        self.counter.stdin.write("\n")
        self.counter.stdin.flush()
        line = self.counter.stdout.readline()
        if not line:
            raise Failed("footprint ended; see footprint.log")
        return json.loads(line)

    def bytes(self):
        return sum(r.bytes for r in self.replays)

    def filled(self):
        return sum(r.filled for r in self.replays)

    def announce(self):
        """At all of them at once, nearly: none waits for another."""
        for replay in self.replays:
            replay.tell("announce")
        for replay in self.replays:
            replay.hear()

    def stop(self):
        """Each ends with its input."""
        for name, child in [("footprint", self.counter),
                            *((r.name, r.child) for r in self.replays)]:
            child.stdin.close()
            ended(child, 30)
            child.stdout.close()
            self.life.stop(name)


def run_ns(task):
    """On-CPU time of a thread, to the nanosecond where it just slept."""
    with open(task + "/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0])


def process_run_ns(pid):
    tasks = f"/proc/{pid}/task"
    return sum(run_ns(os.path.join(tasks, tid)) for tid in os.listdir(tasks))


def status_bytes(pid, name):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return 0


def anonymous_bytes(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    return 0


class KernelMemory:
    """Objects in use of the slab caches that mappings and KSM are made of.
    Small caches of one size are merged: then /proc/slabinfo has them under
    another's name, and growth is what counts."""

    CACHES = ("vm_area_struct", "maple_node", "anon_vma", "anon_vma_chain",
              "ksm_rmap_item", "ksm_stable_node", "ksm_mm_slot")

    def __init__(self):
        slab = "/sys/kernel/slab"
        wanted = {os.path.realpath(f"{slab}/{name}") for name in self.CACHES
                  if os.path.exists(f"{slab}/{name}")}
        self.names = set(self.CACHES)
        if os.path.isdir(slab):
            self.names |= {name for name in os.listdir(slab)
                           if os.path.realpath(f"{slab}/{name}") in wanted}

    def bytes(self):
        total = 0
        with open("/proc/slabinfo", encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if fields[0] in self.names:
                    total += int(fields[1]) * int(fields[3])
        return total


def user_metadata(fleet, footprint):
    """Anonymous memory of the processes beside guest RAM: what an agent in
    them holds, for the difference of two moments."""
    held = sum(anonymous_bytes(r.child.pid) for r in fleet.replays)
    return held - (footprint["present"] - footprint["file"]) * PAGE


def page_tables(fleet):
    return sum(status_bytes(r.child.pid, "VmPTE") for r in fleet.replays)
