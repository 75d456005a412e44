#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What hvd costs on a large host: memory and CPU per guest page, messages a
second, and the time of one division of memory among the VMs.

The real hvd, its real socket and real messages; the guests are simulated (see
bench/swarm.c), since no page of theirs is needed to find out what hvd does with
what agents tell it. Along the curve there are as many guests at each point and
only their RAM grows, so that the mixture (how many guests hold one content)
stays the same and a cost that grows with the number of pages shows as such.
Every point is an hvd of its own.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import result  # noqa: E402
from lib.control import Control  # noqa: E402
from lib.life import Life  # noqa: E402
from lib.measure import hvd_bytes, status_kib  # noqa: E402

GIB = 1 << 30
PAGE = 4096
GUESTS = 512
IMAGES = 4
QUICK = (8, 16)
FULL = (16, 32, 64, 128, 256, 512, 1024)
CROWDS = (8, 128)       # guests as large, on smaller hosts; FULL only
REST_S = 4
CHURN_PERMILLE = 40
FRAME_SHARE = 0.006     # of guest RAM that swarm.c's mixture needs as frames
KSM_BYTES = 64          # rmap_item of a page scanned, its nodes not counted


def config_write(folder, host_bytes):
    path = os.path.join(folder, "hvd.conf")
    with open(path, "w", encoding="ascii") as file:
        file.write(f"[hvd]\nrun_dir = {folder}\nmetrics =\n"
                   "raise_max_map_count = no\n"
                   f"[share]\npool = {host_bytes}\n")
    return path


class Host:
    """One hvd and the guests of one point of the curve."""

    def __init__(self, life, args, host_bytes, guests):
        self.life = life
        self.build = args.build
        self.folder = tempfile.mkdtemp(prefix="tidepool-scale-")
        self.pages = host_bytes // guests // PAGE
        self.all_pages = self.pages * guests
        self.hvd = life.start("hvd", [
            os.path.join(args.build, "hvd"), "--config",
            config_write(self.folder, host_bytes)])
        self.control = Control(os.path.join(self.folder, "control.sock"))
        self.base = self.bytes()
        self.swarm = subprocess.Popen(
            [os.path.join(args.build, "bench", "swarm"),
             os.path.join(self.folder, "agent.sock"), "desktops", str(guests),
             str(self.pages), str(min(IMAGES, guests)), str(args.seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True)
        life.children.append(("swarm", self.swarm))
        self.answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.life.stop("swarm")
        self.life.stop("hvd", 120)
        shutil.rmtree(self.folder, ignore_errors=True)

    def bytes(self):
        return hvd_bytes(self.hvd.pid)

    def cpu(self):
        return self.control.call("host")["hvd_cpu_ns"] / 1e9

    def answer(self):
        line = self.swarm.stdout.readline()
        if not line:
            self.life.check()
            raise RuntimeError("swarm ended early")
        return json.loads(line)

    def step(self, *words):
        """What the step did, and what hvd spent on it."""
        before, start = self.cpu(), time.monotonic()
        print(*words, file=self.swarm.stdin, flush=True)
        done = self.answer()
        done["cpu"] = self.cpu() - before
        done["wall"] = time.monotonic() - start
        return done

    def rounds(self, state):
        """Milliseconds of some divisions, one a second, in this state."""
        control = Control(os.path.join(self.folder, "control.sock"))
        control.call("pressure", state=state)
        seen = []
        for _ in range(REST_S):
            time.sleep(1.03)
            seen.append(control.call("host")["round_ns"] / 1e6)
        return seen


class Asking:
    """How long the control socket takes to answer meanwhile."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "control.sock")
        self.seen = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self):
        control = Control(self.path)
        while not self.done.wait(0.05):
            start = time.monotonic()
            control.call("version")
            self.seen.append(1000 * (time.monotonic() - start))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join(60)

    def part(self, share):
        order = sorted(self.seen) or [0.0]
        return order[min(len(order) - 1, int(share * len(order)))]


def point(life, args, gib, guests):
    """Every figure of one host."""
    with Host(life, args, int(gib * GIB), guests) as host:
        joined = host.bytes()
        with Asking(host.folder) as asking:
            first = host.step("pass")
        millions = first["offers"] / 1e6
        domain = host.control.call("domains")["domains"][0]
        figures = {
            "pages": host.all_pages,
            "peak": 1024 * status_kib(host.hvd.pid, "VmHWM"),
            "bytes_page": (host.bytes() - host.base) / host.all_pages,
            "bytes_guest": (joined - host.base) / guests,
            "messages_s": (first["sent"] + first["received"])
            / first["seconds"],
            "messages_cpu_s": (first["sent"] + first["received"])
            / first["cpu"],
            "offers_s": first["offers"] / first["seconds"],
            "answer_p50": asking.part(0.5), "answer_p99": asking.part(0.99),
            "frames": domain["frames"], "shared": domain["sharing_pages"],
            "index": domain["index_entries"], "declined": first["declined"]}
        # The division where it has most to do: memory is short.
        rest = threading.Thread(
            target=lambda: figures.update(rest=host.step("rest", REST_S + 1)))
        rest.start()
        figures["round_ms"] = host.rounds("soft")
        rest.join()
        host.control.call("pressure", state="auto")
        rest_core = figures["rest"]["cpu"] / figures["rest"]["seconds"]
        churn = host.step("churn", CHURN_PERMILLE)
    # A report a second of each guest costs the same at rest: not per page.
    figures.update(
        rest_core=rest_core,
        cpu_million=(first["cpu"] - rest_core * first["wall"]) / millions,
        churn_million=(churn["cpu"] - rest_core * churn["wall"])
        / (churn["offers"] / 1e6))
    result.say(f"  {gib:g} GiB, {guests} guests: "
               f"{figures['bytes_page']:.2f} B/page, "
               f"{figures['cpu_million']:.2f} CPU s/M pages, "
               f"{figures['messages_s']:,.0f} messages/s, round "
               f"{max(figures['round_ms']):.2f} ms, control p99 "
               f"{figures['answer_p99']:.1f} ms")
    return figures


def memory_needed(gib):
    return gib * GIB * FRAME_SHARE + gib * GIB / PAGE * 16 + 2 * GIB


def memory_available():
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable"):
                return 1024 * int(line.split()[1])
    return 0


def growth(out, name, key, small, large, target):
    """Cost at the large host beside the same cost at the small one."""
    out.pair(f"{name}, largest host", "ratio", "less", "our smallest host",
             [large[key]] * len(small), [p[key] for p in small], target)


def values(out, last, sizes):
    largest = f"{sizes[-1]} GiB, {GUESTS} guests"
    out.value(f"memory per guest page ({largest})", "bytes",
              [last["bytes_page"]], "<= 16")
    out.value("memory per guest, before it offered anything", "bytes",
              [last["bytes_guest"]])
    out.value("largest memory of hvd during the first pass", "MiB",
              [last["peak"] / (1 << 20)])
    out.value("messages per second", "1/s", [last["messages_s"]])
    out.value("messages per CPU second of hvd", "1/s",
              [last["messages_cpu_s"]])
    out.value("pages offered per second", "1/s", [last["offers_s"]])
    out.value("CPU of hvd per million pages offered", "s",
              [last["cpu_million"]])
    out.value("CPU of hvd per million shared pages that change", "s",
              [last["churn_million"]])
    out.value("one division of memory among the VMs", "ms",
              last["round_ms"])
    out.value("of a core, guests at rest (512 reports a second)", "share",
              [last["rest_core"]], "<= 0.05")
    out.value("control socket answers under full load, median", "ms",
              [last["answer_p50"]])
    out.value("control socket answers under full load, p99", "ms",
              [last["answer_p99"]])


def curves(out, sizes, points, crowds):
    def line(key):
        return [(gib, points[gib][-1][key]) for gib in sizes]
    out.curve("Memory of hvd", "GiB of guest RAM", "bytes per guest page",
              {"hvd": line("bytes_page"),
               "KSM, one rmap_item": [(g, KSM_BYTES) for g in sizes]},
              log_x=True)
    out.curve("CPU of hvd", "GiB of guest RAM", "CPU s per million pages",
              {"first offer": line("cpu_million"),
               "change of a shared page": line("churn_million")}, log_x=True)
    out.curve("Messages", "GiB of guest RAM", "messages a second",
              {"both ways": line("messages_s")}, log_x=True)
    if len(crowds) > 1:
        out.curve("One division of memory", "guests", "ms",
                  {"median of a few rounds": [
                      (n, result.spread(p["round_ms"])["median"])
                      for n, p in crowds]}, log_x=True)


def run(args):
    wanted = FULL if args.full else QUICK
    sizes = [g for g in wanted if memory_needed(g) < memory_available()]
    out = result.Result(
        "hvd on a host of many guests, which are simulated; a cost per page "
        "must not grow with the number of pages",
        guests=GUESTS, sizes_gib=sizes, images=IMAGES,
        guest_pages_percent="6 zero, 40 of an image that a quarter of the "
        "guests share, 9 equal within a guest (64 each), 45 unique",
        run_pages=8, churn_permille=CHURN_PERMILLE, gather="2 s (default)")
    for gib in set(wanted) - set(sizes):
        out.lacks(f"{gib} GiB: this machine has not the memory for the frames")
    points = {gib: [] for gib in sizes}
    with tempfile.TemporaryDirectory(prefix="tidepool-") as logs:
        with Life(logs) as life:
            for gib in sizes:
                for _ in range(2 if args.full and gib == sizes[0] else 1):
                    points[gib].append(point(life, args, gib, GUESTS))
            crowds = [(n, point(life, args, n * sizes[0] / GUESTS, n))
                      for n in (CROWDS if args.full else ())]
            crowds.append((GUESTS, points[sizes[0]][-1]))
    small, last = points[sizes[0]], points[sizes[-1]][-1]
    growth(out, "memory per page", "bytes_page", small, last, "<= 1.1")
    growth(out, "CPU per page", "cpu_million", small, last, "<= 1.25")
    values(out, last, sizes)
    curves(out, sizes, points, crowds)
    return out


if __name__ == "__main__":
    sys.exit(result.main(__doc__.split("\n\n")[0], run))
