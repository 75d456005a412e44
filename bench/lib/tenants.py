# SPDX-License-Identifier: GPL-2.0-or-later
"""Desktops at work (bench/tenant.c) inside one memory budget.

The budget is a memory cgroup that holds all of them and hvd. What a rival needs
outside of it - zram's memory, KSM's records of pages - is taken off the limit,
so everybody has the same bytes:

    limit = budget + headroom - outside

The headroom is what newcomers bring, as large as they are when they come and
nothing when it is measured: merging takes time for everybody, and a host takes
in a VM while it has room for it.
"""
import json
import os
import select
import subprocess
import time

from .kernel import write
from .life import Failed, ended
from .replay import process_run_ns, run_ns

LIMIT_MIN = 64 << 20
ANSWER_SECONDS = 60


class Full(Exception):
    """A desktop did not fit; the message says how that showed."""


class Budget:
    def __init__(self, kernel, size):
        self.kernel = kernel
        self.path = kernel.cgroup("tidepool-bench")
        self.size = size
        self.reclaim_ns = 0  # our CPU time while the kernel reclaimed for us
        write(self.path + "/memory.swappiness", 100)

    def enter(self, pid):
        write(self.path + "/cgroup.procs", pid)

    def number(self, name):
        with open(f"{self.path}/memory.{name}", encoding="ascii") as file:
            return int(file.read())

    def used(self):
        return self.number("usage_in_bytes")

    def set(self, headroom, outside):
        """Returns whether all of it fits, after what the kernel reclaims."""
        limit = max(LIMIT_MIN, self.size + headroom - outside)
        start = time.thread_time_ns()
        try:
            write(self.path + "/memory.limit_in_bytes", limit)
        except OSError:
            return False
        finally:
            self.reclaim_ns += time.thread_time_ns() - start
        return True

    def open(self):
        write(self.path + "/memory.limit_in_bytes", -1)

    def end(self):
        self.kernel.cgroup_end(self.path)


class Tenant:
    """One desktop."""

    def __init__(self, life, build, budget, name, options, env):
        self.name = name
        self.life = life
        argv = ["/bin/sh", "-c",
                f'echo $$ >{budget.path}/cgroup.procs; exec "$@"', "tenant",
                "env", *(f"{k}={v}" for k, v in env.items()),
                f"TIDEPOOL_NAME={name}",
                os.path.join(build, "bench", "tenant"), *options]
        with open(life.log_path(name), "ab") as log:
            self.child = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True, bufsize=1, start_new_session=True)
        life.children.append((name, self.child))

    def _answer(self):
        ready, _, _ = select.select([self.child.stdout], [], [],
                                    ANSWER_SECONDS)
        line = self.child.stdout.readline() if ready else ""
        if not line:
            raise Full(f"{self.name} was killed" if ready else
                       f"{self.name} said nothing in {ANSWER_SECONDS} s")
        return line.strip()

    def ready(self):
        """Until it is filled; how many bytes that were."""
        word, _, _, pages = self._answer().split()
        if word != "ready":
            raise Failed(f"{self.name}: {word}")
        return int(pages) * 4096

    def ask(self):
        try:
            self.child.stdin.write("report\n")
            self.child.stdin.flush()
        except BrokenPipeError as error:
            raise Full(f"{self.name} was killed") from error

    def report(self):
        return json.loads(self._answer())

    def run_ns(self):
        return process_run_ns(self.child.pid)

    def work_ns(self):
        """Of the thread that does the desktop's work."""
        tasks = f"/proc/{self.child.pid}/task"
        for tid in os.listdir(tasks):
            with open(f"{tasks}/{tid}/comm", encoding="ascii") as file:
                if file.read().strip() == "work":
                    return run_ns(f"{tasks}/{tid}")
        return 0

    def stop(self):
        """It ends with its input; where it is gone already, so is that."""
        try:
            self.child.stdin.close()
        except BrokenPipeError:
            pass
        ended(self.child, 5)
        self.life.stop(self.name)
        self.child.stdout.close()


def reports(tenants):
    """Of all, since the last."""
    for tenant in tenants:
        tenant.ask()
    return [tenant.report() for tenant in tenants]


class Pace:
    """What a desktop alone takes for a pass, which stands for `scale` seconds:
    its hot pages are visited once, so their computing counts `scale` times."""

    def __init__(self, alone, scale):
        passes = alone["passes"]
        self.work_ns = (scale * alone["hot_ns"] + alone["other_ns"]) / passes
        self.wait_ns = alone["wait_ns"] / passes
        self.hot_ns = alone["hot_ns"] / passes

    def slowdown(self, report):
        """1.1: a tenth slower. No pass within the window is no work at all."""
        if not report["passes"]:
            return float("inf")
        wait = report["wait_ns"] / report["passes"]
        return (self.work_ns + wait) / (self.work_ns + self.wait_ns)
