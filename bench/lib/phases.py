# SPDX-License-Identifier: GPL-2.0-or-later
"""The phases of the main job, in the order in which run.py calls them."""
import os
import shutil
import time

from . import result, tmem_guest
from .life import Failed, wait_until
from .measure import PAGE, Account, census, census_paused

BOOT_SECONDS = 900
COMPRESSION_SECONDS = 900
TMEM_UNITS = 4
REFAULT_PERMILLE_MIN = 2  # the target of design.md: 0.2 % of the working set


def boot(job):
    """Until every browser shows its page and every workload goes round."""
    start = time.monotonic()

    def ready():
        job.check()
        up = sum(g.report.up is not None for g in job.guests)
        count = sum(len(g.report.rounds) > 0 for g in job.guests)
        job.table.status(f"booting {len(job.guests)} desktops: {up} with a "
                         f"browser up, {count} at work, "
                         f"{time.monotonic() - start:.0f} s")
        return count == len(job.guests)

    if not wait_until(ready, BOOT_SECONDS, job.life, 1):
        raise Failed(f"desktops not up after {BOOT_SECONDS} s; see the "
                     "consoles among the logs")
    job.table.clear()
    job.summary.set(boot_seconds=round(time.monotonic() - start, 1))
    job.table.note(f"{len(job.guests)} desktops up after "
                   f"{time.monotonic() - start:.0f} s")


def window_rates(job, start, end):
    """Over all guests: mean of rounds a minute and of ms a round."""
    windows = [g.report.window(start, end) for g in job.guests]
    if None in windows:
        return None
    return {key: sum(w[key] for w in windows) / len(windows)
            for key in ("per_minute", "work_ms", "cpu_ms")}


def watch(job, phase, seconds, each=None):
    """The live table once a second. each(sample, second) may end it early."""
    start = time.monotonic()
    tick = start
    while True:
        job.check()
        second = time.monotonic() - start
        if job.control:
            sample = job.control.sample()
            job.table.show(phase, second, sample, job.rates())
            if each and each(sample, second):
                return
        else:
            job.table.status(f"{phase} {second:.0f} s")
        if second >= seconds:
            return
        tick += 1
        time.sleep(max(0, tick - time.monotonic()))


def undisturbed(job):
    """The rate to compare with, once the browsers have done their start."""
    watch(job, "calming down", job.seconds(60, 0))
    start = time.monotonic()
    watch(job, "undisturbed", job.seconds(40, 15))
    job.undisturbed = window_rates(job, start, time.monotonic())
    if not job.undisturbed:
        raise Failed("the workload did not finish two rounds undisturbed")
    job.table.clear()
    tool = job.built("bench/census")
    before = census_paused(tool, job.guests, "--touched")
    job.slab0 = before["slab_bytes"]
    job.before = before
    job.summary.set(
        resident_before=before["anon"] * PAGE,
        duplicate_pages_before=before["duplicates"],
        zero_pages_before=before["zero"],
        distinct_pages_before=before["distinct"],
        undisturbed_rounds_per_minute=job.undisturbed["per_minute"],
        undisturbed_work_ms=job.undisturbed["work_ms"])


def our_cpu(job):
    return job.control.sample().our_cpu_seconds() if job.control else 0.0


def sharing(job):
    """From here the targets' 60 s run."""
    cpu0 = our_cpu(job)
    start = time.monotonic()
    history = []  # (second, merged pages, CPU seconds)
    job.control.call("pressure", state="clear")

    def each(sample, second):
        history.append((second, sample.merged_pages(),
                        sample.our_cpu_seconds() - cpu0))

    watch(job, "sharing", job.seconds(60, 25), each)
    end = time.monotonic()
    job.table.clear()
    tool = job.built("bench/census")
    job.account = Account(tool, job.guests, job.hvd.pid, job.slab0)
    sample = job.control.sample()
    account = job.account.take(sample)
    rates = window_rates(job, start, end)
    present = census_paused(tool, job.guests)
    zero = max(0, present["zero"] - job.before["absent"])
    reached = history_ninety(history, present["duplicates"] + zero)
    job.unreadable = present["unreadable"]
    job.summary.set(
        resident_after_sharing=account["resident_bytes"],
        account_after_sharing=account,
        frames=sample.frames(),
        shared_pages=sample.total("shared_pages"),
        zero_pages=sample.total("zero_pages"),
        duplicate_pages_present=present["duplicates"],
        duplicates_within=present["duplicates_within"],
        duplicates_across=present["duplicates_across"],
        zero_pages_present=zero,
        merged_share=history[-1][1] / max(1, present["duplicates"] + zero),
        seconds_to_90_percent=reached[0] if reached else None,
        cpu_seconds_to_90_percent=reached[1] if reached else None,
        sharing_cpu_seconds=history[-1][2],
        sharing_history=[[round(x, 2) for x in h] for h in history],
        sharing_work_ms=rates["work_ms"] if rates else None,
        sharing_rate_share=rate_share(job, rates))


def history_ninety(history, present):
    """(second, CPU seconds) when nine tenths were merged, or None."""
    for second, merged, cpu in history:
        if merged >= 0.9 * present:
            return second, cpu
    return None


def rate_share(job, rates):
    """Of the undisturbed rate; None if there were too few rounds."""
    if not rates:
        return None
    return rates["per_minute"] / job.undisturbed["per_minute"]


def compression(job):
    """A budget of 40 % of what was resident, until no more is compressed.

    Of the working set 0.2 % may come back in a minute. That a page is so cold
    it shows only by staying away for minutes, so this takes its time.
    """
    budget = int(job.summary["resident_before"] * 0.40)
    job.control.call("budget", bytes=budget)
    job.control.call("pressure", state="hard")
    last = []

    def settled(sample, _second):
        held = PAGE * sample.total("held_pages")
        last.append(sample.store_bytes() + held
                    + PAGE * sample.total("private_pages"))
        recent = last[-job.seconds(120, 10):]
        return (len(last) > job.seconds(240, 20) and held < 0.04 * budget and
                max(recent) - min(recent) < 0.01 * budget)

    watch(job, "compression", job.seconds(COMPRESSION_SECONDS, 100), settled)
    start = time.monotonic()
    first = job.control.sample()
    cpu = our_cpu(job)
    watch(job, "compressed", job.seconds(45, 20))
    end = time.monotonic()
    job.table.clear()
    sample = job.control.sample()
    account = job.account.take(sample)
    rates = window_rates(job, start, end)
    job.summary.set(
        budget_bytes=budget,
        resident_after_compression=account["resident_bytes"],
        account_after_compression=account,
        compressed_pages=sample.total("compressed_pages"),
        swapped_pages=sample.total("swapped_pages"),
        store_bytes=sample.store_bytes(),
        store_payload_bytes=sample.total("store_payload_bytes"),
        metadata_bytes=account["metadata_bytes"],
        compressed_rounds_per_minute=rates["per_minute"] if rates else None,
        compressed_work_ms=rates["work_ms"] if rates else None,
        compressed_rate_share=rate_share(job, rates),
        refault_permille_min=refaults(first, sample, end - start),
        cpu_share_per_guest=(our_cpu(job) - cpu) / (end - start)
        / len(job.guests),
        faults=sample.total("faults"),
        fault_p50_us=sample.worst("fault_p50_ns") / 1e3,
        fault_p99_us=sample.worst("fault_p99_ns") / 1e3)


def refaults(first, last, seconds):
    """Permille of the working set a minute, from the counters."""
    count = sum(last.total(n) - first.total(n)
                for n in ("faults_compressed", "ahead_pages", "faults_swapped"))
    pages = sum(last.total(n) for n in ("private_pages", "shared_pages",
                                        "held_pages"))
    return 1000 * count * 60 / seconds / max(1, pages)


def idle(job):
    """What we cost while nothing changes: all guests stand still."""
    for guest in job.guests:
        guest.qmp.run("stop")
    try:
        watch(job, "settling", 3)
        start, cpu = time.monotonic(), our_cpu(job)
        watch(job, "idle", job.seconds(20, 8))
        spent = (our_cpu(job) - cpu) / (time.monotonic() - start)
    finally:
        for guest in job.guests:
            guest.qmp.run("cont")
    job.table.clear()
    job.summary.set(idle_cpu_per_guest=spent / len(job.guests))


def verify(job):
    """Every guest checks all it has, which brings every page back."""
    start = time.monotonic()
    if job.control:
        job.summary.set(cpu_seconds=our_cpu(job))
    for guest in job.guests:
        guest.tell("verify")

    def done():
        job.check()
        count = sum(g.report.verified is not None for g in job.guests)
        job.table.status(f"verifying: {count} of {len(job.guests)} guests "
                         f"done, {time.monotonic() - start:.0f} s")
        return count == len(job.guests)

    if not wait_until(done, 300, job.life, 1):
        raise Failed("a guest did not finish verifying in 300 s")
    job.table.clear()
    files, pages, _ = map(sum, zip(*(g.report.verified for g in job.guests)))
    job.summary.set(verified_files=files, verified_pages=pages,
                    rounds=sum(len(g.report.rounds) for g in job.guests))
    if job.control:
        last = census(job.built("bench/census"), job.guests)
        job.unreadable += last["unreadable"]


def tmem(job):
    """A guest with too little memory and a slow disk, with TMEM and without."""
    for guest in job.guests:
        guest.qmp.run("stop")  # their work is done; the processors are ours
    job.table.status("tmem: preparing two small guests")
    folder = os.path.join(job.run_dir, "tmem")
    os.makedirs(folder)
    try:
        rig = tmem_guest.Rig(folder, job.args.build, TMEM_UNITS, seed=1,
                             files=False)
        runs = tmem_guest.Runs(rig, job.life)
        done = {}
        for side, on in (("without", False), ("with", True)):
            job.table.status(f"tmem: compiling {side} it")
            done[side] = runs.compile(on)
        tmem_guest.sums_compare(done.values())
    except result.Skip as why:
        job.table.note(f"tmem: left out: {why}")
        return
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    done["times_faster"] = done["without"]["seconds"] / done["with"]["seconds"]
    job.summary.set(tmem=done)
    job.table.note("a guest with less memory than its work needs:\n"
                   + tmem_guest.side_by_side(done))


def account_corruptions(job):
    """Wrong bytes the guests saw, pages that could not be given back."""
    lost = 0
    if job.control:
        try:
            lost = job.control.sample().total("faults_lost")
        except Exception as error:  # hvd may be gone: count the rest
            job.table.note(f"no last figures from hvd: {error}")
    job.summary.set(
        corruptions=sum(g.report.errors for g in job.guests)
        + lost + getattr(job, "unreadable", 0),
        corruption_notes=[f"{g.name}: {text}" for g in job.guests
                          for text in g.report.corruptions[:20]])


def conclude(job):
    """Targets beside what was reached."""
    if not job.control:
        return
    s, get = job.summary, job.summary.values.get
    s.at_most("wrong bytes", 0, sum(g.report.errors for g in job.guests))
    s.at_least("duplicate and zero pages merged after 60 s", 90,
               100 * s["merged_share"], " %")
    s.at_most("CPU seconds of that", 12, s["sharing_cpu_seconds"], " s")
    before = s["resident_before"]
    s.at_most("resident after sharing", 50,
              100 * s["resident_after_sharing"] / before, " %")
    s.at_most("resident after compression", 42,
              100 * s["resident_after_compression"] / before, " %")
    share = get("compressed_rate_share")
    s.at_least("workload's rate then, of undisturbed", 90,
               share and 100 * share, " %")
    s.at_most("refaults a minute, of the working set",
              REFAULT_PERMILLE_MIN / 10, s["refault_permille_min"] / 10, " %")
    s.at_most("metadata, of guest RAM", 1.8,
              100 * s["metadata_bytes"] / s["ram_bytes"], " %")
    s.at_most("of a core per guest while nothing changes", 1,
              100 * s["idle_cpu_per_guest"], " %")
