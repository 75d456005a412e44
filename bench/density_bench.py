#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How many desktops fit into a fixed memory budget before the slowest is 10 %
slower than alone: Tidepool, plain memory, KSM, and KSM + zram swap.

The desktops are replayed: processes with the memory of real ones, captured
once, that touch it as those did (bench/tenant.c). More than were captured are
derived: pages whose content several captures have stay, the others' bytes are
substituted, which makes them unique but compresses alike. The rivals get the
same processes, the same settings and the same seconds to settle.

The budget is a memory cgroup of all desktops and of hvd with its frames;
what a rival has outside of it is taken off (lib/tenants.py). So many desktops come
as most runs held, and then one at a time, until they no longer fit or the slowest is
too slow. A desktop's slowdown is what it waits for memory within a pass beside what
the pass takes alone, so that two cores for all of them do not decide.
"""
import os
import subprocess
import sys
import tempfile
import time

from lib import plan, ram, result
from lib.kernel import KSM, Kernel, choices, need_root, read
from lib.life import Life
from lib.measure import PAGE
from lib.replay import process_run_ns
from lib.result import Result, Skip, say
from lib.sharers import KSM_FASTEST, Ksm, Ours, ksm_users
from lib.tenants import Budget, Full, Pace, Tenant, reports

MIB = 1 << 20
TOO_SLOW = 1.10
MOST = 48  # desktops; nobody is expected there
ZRAM = ("lz4", "zstd")  # quick or dense; the better one is the rival
KSM_ITEM = 64  # bytes of struct ksm_rmap_item, one for each page looked at

# scale: a second of the bench stands for so many of a desktop's (tenant.c).
# Newcomers' warm pages have come round twice before it is measured.
QUICK = {"one_in": 2, "budget": 1600 * MIB, "scale": 10, "settle": 18,
         "window": 6, "alone": 3, "repetitions": 1}
FULL = {"one_in": 1, "budget": 3072 * MIB, "scale": 10, "settle": 24,
        "window": 6, "alone": 6, "repetitions": 5}
LEFT = 3  # seconds to settle in where nobody has come, or nothing settles
FEWER = 2  # desktops, where those to begin with are too many


class Plain:
    """QEMU as it comes: no swap, so what does not fit is killed."""

    name = "plain memory"
    begins = 1  # with so many times the desktops that plain memory holds
    settles = False  # there is nothing at work

    def __init__(self, bench):
        self.bench = bench

    def env(self):
        return {}

    def prepare(self, budget):
        pass

    def outside(self):
        """Bytes it has that the cgroup does not count."""
        return 0

    def cpu_ns(self):
        """Outside of the desktops' processes."""
        return 0

    def account(self):
        return ""

    def end(self):
        pass


class PlainKsm(Plain):
    name = "KSM"
    begins = 2
    settles = True

    def __init__(self, bench):
        super().__init__(bench)
        self.ksm = Ksm(self.name, KSM_FASTEST)

    def prepare(self, budget):
        self.ksm.prepare()
        self.ksm.begin(None)

    def outside(self):
        return KSM_ITEM * sum(int(read(f"{KSM}/pages_{kind}")) for kind in
                              ("shared", "sharing", "unshared", "volatile"))

    def cpu_ns(self):
        return process_run_ns(self.ksm.pid)

    def account(self):
        return f"KSM saves {int(read(KSM + '/pages_sharing')) >> 8} MiB"

    def end(self):
        self.ksm.end()


class KsmZram(PlainKsm):
    name = "KSM + zram"
    begins = 2.75

    def __init__(self, bench, algorithm):
        super().__init__(bench)
        self.name = f"{KsmZram.name} {algorithm}"
        self.algorithm = algorithm
        self.zram = None

    def prepare(self, budget):
        kernel = self.bench.kernel
        self.zram = self.bench.zram
        kernel.zram_again(self.zram, self.algorithm, 8 * budget.size)
        subprocess.run(["mkswap", self.zram.path], check=True,
                       capture_output=True)
        kernel.set("/proc/sys/vm/page-cluster", 0)  # as is advised for zram
        kernel.swap_on(self.zram.path, 100)
        super().prepare(budget)

    def outside(self):
        return super().outside() + self.zram.stat()["used"]

    def account(self):
        stat = self.zram.stat()
        return (f"{super().account()}, {stat['orig'] // MIB} MiB swapped "
                f"into {stat['used'] // MIB} MiB")

    def end(self):
        super().end()
        if self.zram:
            self.bench.kernel.swap_off(self.zram.path)


class Tidepool(Plain):
    """hvd's states of pressure are automatic, as they come."""

    name = "Tidepool"
    begins = 2.75
    settles = True

    def __init__(self, bench):
        super().__init__(bench)
        scale = bench.plan["scale"]
        self.ours = Ours(bench.life, bench.args.build,
                         vm={"refault": f"{0.2 * scale:.1f}%"},
                         rest=f"{20000 // scale}ms")

    def env(self):
        return self.ours.env()

    def prepare(self, budget):
        self.ours.prepare()
        budget.enter(self.ours.hvd.pid)
        self.ours.control.call("budget", bytes=budget.size)

    def cpu_ns(self):
        return process_run_ns(self.ours.hvd.pid)

    def account(self):
        now = self.ours.control.sample()

        def mib(name):
            return now.total(name) * PAGE // MIB

        return (f"{now.host['pressure']}: private {mib('private_pages')}, "
                f"on trial {mib('held_pages')}, cold {mib('cold_pages')}, "
                f"frames {now.frames() * PAGE // MIB} for "
                f"{mib('shared_pages')}, zero {mib('zero_pages')}, "
                f"{mib('compressed_pages')} in store of "
                f"{now.store_bytes() // MIB}, reserve "
                f"{now.host['cow_reserve_bytes'] // MIB}, metadata "
                f"{now.host['metadata_bytes'] // MIB} MiB; faults "
                f"{now.total('faults')}, held {now.total('faults_held')}, "
                f"compressed {now.total('faults_compressed')}, median "
                f"{now.worst('fault_p50_ns') // 1000} us")

    def end(self):
        if self.ours.hvd:
            self.ours.end()


class Bench:
    def __init__(self, args, life, kernel):
        self.args = args
        self.life = life
        self.kernel = kernel
        self.plan = FULL if args.full else QUICK
        self.pace = None
        self.zram = kernel.zram(ZRAM[0], MIB)
        self.have = ram.need(args.build, 4)
        self.paths = plan.plans(self.have, self.plan["one_in"])

    def algorithms(self):
        """Those of zram that this kernel has."""
        have = choices(self.zram.file("comp_algorithm"))
        return [algorithm for algorithm in ZRAM if algorithm in have]

    def options(self, number):
        """Of desktop so and so: a capture, or derived from one."""
        guest = number % len(self.paths)
        return ["--ram", self.have.ram(guest), "--plan", self.paths[guest],
                "--shift", str(number // len(self.paths)),
                "--scale", str(self.plan["scale"])]

    def cache_fill(self):
        """Captures into the page cache, where we are charged for them and not
        the budget."""
        for guest in range(len(self.paths)):
            with open(self.have.ram(guest), "rb", buffering=0) as file:
                while file.read(4 * MIB):
                    pass


class Host:
    """One rival's desktops in one budget."""

    def __init__(self, bench, rival):
        self.bench = bench
        self.rival = rival
        self.tenants = []
        self.started = 0
        self.desktop_bytes = 0
        self.points = []  # (desktops, slowdown of the slowest)
        self.cpu = {}  # desktops: of a core, for each

    def __enter__(self):
        self.bench.cache_fill()
        self.budget = Budget(self.bench.kernel, self.bench.plan["budget"])
        self.rival.prepare(self.budget)
        return self

    def __exit__(self, *_):
        for tenant in list(self.tenants):
            self.remove(tenant)
        self.rival.end()
        self.budget.end()

    def remove(self, tenant):
        tenant.stop()
        self.tenants.remove(tenant)

    def add(self, count):
        """They come with room of their own, which is taken back later."""
        self.budget.open()
        for _ in range(count):
            tenant = Tenant(self.bench.life, self.bench.args.build,
                            self.budget, f"vm{self.started}",
                            self.bench.options(self.started),
                            self.rival.env())
            self.started += 1
            self.tenants.append(tenant)
            self.desktop_bytes = tenant.ready()

    def settle(self, headroom):
        """Down to the budget in equal steps; then it is the limit."""
        steps = LEFT
        if headroom and self.rival.settles:
            steps = self.bench.plan["settle"] - self.bench.plan["window"]
        for left in range(steps - 1, -1, -1):
            self.limit_for_a_second(headroom * left // steps)

    def limit_for_a_second(self, headroom):
        end = time.monotonic() + 1
        fits = self.budget.set(headroom, self.rival.outside())
        time.sleep(max(0, end - time.monotonic()))
        return fits

    def cpu_ns(self):
        return (sum(t.run_ns() for t in self.tenants) + self.rival.cpu_ns()
                + self.budget.reclaim_ns)

    def measure(self):
        """The slowest one's slowdown over a window, which visits every hot
        and warm page."""
        reports(self.tenants)
        start, cpu = time.monotonic(), self.cpu_ns()
        for _ in range(self.bench.plan["window"]):
            fits = self.limit_for_a_second(0)
        seconds = time.monotonic() - start
        count = len(self.tenants)
        self.cpu[count] = (self.cpu_ns() - cpu) / 1e9 / seconds / count
        got = reports(self.tenants)
        if not fits:
            raise Full(f"{self.budget.used() // MIB} MiB in use do not get "
                       "less")
        return max(self.bench.pace.slowdown(report) for report in got)

    def attempt(self, newcomers):
        """Whether so many more, or after others left those that are, do."""
        try:
            self.add(newcomers)
            self.settle(newcomers * self.desktop_bytes)
            slow = self.measure()
            verdict = f"{100 * (slow - 1):.1f} % slower"
        except Full as why:
            slow, verdict = None, str(why)
        count = len(self.tenants)
        self.points.append((count, slow))
        say(f"  {self.rival.name}, {count} desktops: {verdict}; "
            f"{self.budget.used() // MIB} MiB"
            f" + {self.rival.outside() // MIB} outside. "
            f"{self.rival.account()}")
        return slow is not None and slow <= TOO_SLOW

    def fall_back(self, count):
        """To so many, those that were killed first."""
        for tenant in list(self.tenants):
            if tenant.child.poll() is not None:
                self.remove(tenant)
        while len(self.tenants) > count:
            self.remove(self.tenants[-1])

    def does(self, wanted):
        """Whether that many do, some leaving or joining those that are."""
        self.fall_back(wanted)
        return self.attempt(wanted - len(self.tenants))

    def climb(self, first):
        """The most that do, as a host fills: by one newcomer at a time."""
        good = min(max(1, first), MOST)
        while good > 0 and not self.does(good):
            good -= FEWER
        while 0 < good < MOST and self.does(good + 1):
            good += 1
        return max(good, 0)


def alone(bench):
    """What a desktop takes for a pass that has all of its memory: of the
    captured ones, one after another, the one that waited least."""
    paces = []
    with Host(bench, Plain(bench)) as host:
        for _ in range(len(bench.paths)):
            host.add(1)
            time.sleep(2)
            reports(host.tenants)
            time.sleep(bench.plan["alone"])
            paces.append(Pace(reports(host.tenants)[0], bench.plan["scale"]))
            host.fall_back(0)
    bench.pace = min(paces, key=lambda pace: pace.wait_ns)
    return host.desktop_bytes


def rivals(bench):
    return [Plain(bench), PlainKsm(bench),
            *(KsmZram(bench, algorithm) for algorithm in bench.algorithms()),
            Tidepool(bench)]


def repetition(bench, bytes_each):
    hosts = {}
    # Without any rival's help there is memory for so many.
    fits = max(1, bench.plan["budget"] // bytes_each)
    for rival in rivals(bench):
        start = time.monotonic()
        with Host(bench, rival) as host:
            host.fits = host.climb(int(rival.begins * fits))
        fits = fits if hosts else host.fits
        hosts[rival.name] = host
        say(f"{rival.name}: {host.fits} desktops, "
            f"{time.monotonic() - start:.0f} s")
    return hosts


def report(res, runs, pace):
    def fits(name):
        return [run[name].fits for run in runs]

    # The one of them that somebody who wants density would take.
    zram = max((name for name in runs[0] if name.startswith(KsmZram.name)),
               key=lambda name: sorted(fits(name))[len(runs) // 2])
    for name, target in (("plain memory", ">= 3"), ("KSM", None),
                         (zram, ">= 1.5")):
        res.pair("desktops that fit", "desktops", "more", name,
                 fits("Tidepool"), fits(name), target)
    for name in runs[0]:
        res.value(f"desktops that fit: {name}", "desktops", fits(name))
        cpu = [100 * run[name].cpu.get(run[name].fits, 0) for run in runs]
        res.value(f"a desktop's part of a core, its work included: {name}",
                  "%", cpu)
    res.value("a desktop's work alone, of a core", "%",
              [pace.hot_ns / 1e7])
    res.curve("The slowest desktop against alone", "desktops", "% slower", {
        name: sorted((count, round(100 * (slow - 1), 2))
                     for count, slow in host.points if slow is not None)
        for name, host in runs[-1].items()})


def run_all(bench):
    if ksm_users():
        raise Skip("KSM would merge memory of other processes, too: "
                   + ", ".join(ksm_users()))
    counts = plan.counts(bench.paths)
    res = Result(
        __doc__.split("\n\n")[0].replace("\n", " "),
        desktops="replayed from captures: hot pages (those that changed "
        f"within {bench.have.seconds} s, and as many others) once a second, "
        "a tenth of the rest once a minute, 1 % of what is left a minute",
        derived=f"beyond {bench.have.guests} desktops contents that only one "
        "capture has are byte-wise substituted copies of a capture's",
        captured_pages=counts["pages"], of_one_capture_only=counts["own"],
        changed_pages=counts["written"], ksm=KSM_FASTEST,
        zram="swappiness 100, page-cluster 0",
        tidepool=f"rest {20 // bench.plan['scale']} s between scans and "
        f"{0.2 * bench.plan['scale']:.1f} % refaults a minute (20 s and 0.2 % "
        "by the scale of time), else as it comes", **bench.plan)
    for algorithm in ZRAM:
        if algorithm not in bench.algorithms():
            res.lacks(f"zram with {algorithm}: not in this kernel")
    if bench.plan["repetitions"] == 1:
        res.lacks("spread: one repetition in the quick version")
    bytes_each = alone(bench)
    say(f"alone: {bench.pace.hot_ns / 1e6:.1f} ms a second, waits "
        f"{bench.pace.wait_ns / 1e6:.2f} ms a pass of "
        f"{bench.pace.work_ns / 1e6:.0f} ms; {bytes_each // MIB} MiB each")
    runs = [repetition(bench, bytes_each)
            for _ in range(bench.plan["repetitions"])]
    report(res, runs, bench.pace)
    return res


def run(args):
    need_root()
    logs = tempfile.mkdtemp(prefix="tidepool-density-")
    with Kernel() as kernel, Life(logs) as life:
        life.remove_tree(logs)
        kernel.keep("/proc/sys/vm/max_map_count")
        kernel.keep_ksm()
        return run_all(Bench(args, life, kernel))


if __name__ == "__main__":
    sys.exit(result.main(__doc__.split("\n\n")[0], run))
