#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job, `make run`: packs real desktops on this host and shows what
was saved.

It prepares the golden image, starts hvd and the guests, and goes through
these phases, with a workload in every guest during all of them:

  boot         guests managed, but nothing is shared (pressure high)
  undisturbed  the workload's own rate
  sharing      pressure clear: equal and zero pages merge
  compression  a budget below what is resident: cold pages are compressed
  idle         all guests paused: what we cost while nothing changes
  verify       every guest checks all its memory and files
  tmem         two small guests one after the other: a workload larger than
               the memory, with the page store and without (TMEM=0: left out)

What is claimed is counted from outside: duplicates by reading the guests'
memory, residence by pagemap, mappings by the kernel's slab caches. Results go
to build/run/summary.json. Exit code 1 means a wrong byte or a failed job;
a missed target is shown, but is no failure.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from lib import phases, ram
from lib.control import Control, ControlError
from lib.guest import Guest
from lib.life import Failed, Interrupted, Life
from lib.qmp import QmpError
from lib.shell_guest import ShellError
from lib.summary import Summary
from lib.table import Table

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MIB = 1 << 20
GUESTS = 4
RAM_MIB = 768
SOCKET_DIR_MAX = 70  # leaves room for NAME.report in a sun_path


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--guests", type=int, help="how many (default 4, "
                        "fewer on a small host)")
    parser.add_argument("--ram", type=int, default=RAM_MIB,
                        help="MiB of each (default 768)")
    parser.add_argument("--quick", action="store_true",
                        help="short phases: shows that it works, no figures "
                        "to quote")
    parser.add_argument("--plain", action="store_true",
                        help="unmanaged guests: the undisturbed phase alone")
    parser.add_argument("--capture", metavar="DIR",
                        help="unmanaged guests: their memory, for benches to "
                        "replay (see lib/ram.py)")
    parser.add_argument("--build", default=os.path.join(TOP, "build"))
    args = parser.parse_args()
    args.guests = args.guests or guests_fitting(args.ram)
    args.plain = args.plain or bool(args.capture)
    if args.guests < 1 or args.ram < 512:
        parser.error("at least one guest, and 512 MiB for a desktop")
    return args


def guests_fitting(ram_mib):
    """At most 60 % of what is available: the rest is QEMU's and the host's."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) // 1024
    return max(1, min(GUESTS, available * 6 // 10 // ram_mib))


class Job:
    """Everything a phase needs."""

    def __init__(self, args, life, run_dir):
        self.args = args
        self.life = life
        self.run_dir = run_dir
        self.table = Table()
        self.summary = Summary()
        self.control = self.hvd = None
        self.engine = "tcg"
        self.guests = []
        self.started = time.monotonic()

    def built(self, name):
        return os.path.join(self.args.build, name)

    def seconds(self, full, quick):
        return quick if self.args.quick else full

    def rates(self, back=60):
        now = time.monotonic()
        windows = ((g.name, g.report.window(now - back, now))
                   for g in self.guests)
        return {name: w["per_minute"] for name, w in windows if w}

    def check(self):
        """Whatever must be true all the time."""
        self.life.check()
        for guest in self.guests:
            if guest.report.failure:
                raise Failed(f"{guest.name}: {guest.report.failure}")


def engine_choose(job):
    out = subprocess.run([job.built("bench/engine")], check=True, text=True,
                         capture_output=True).stdout.split("\n")
    job.engine = out[0]
    job.table.note(f"engine: {out[0]} ({out[1]})")
    job.summary.set(engine=out[0], engine_reason=out[1])


def image_prepare(job):
    image = job.built("image")
    job.life.run("image", [os.path.join(TOP, "bench/desktop/image.sh"),
                           image])
    return image


def hvd_start(job):
    config = os.path.join(job.run_dir, "hvd.conf")
    with open(config, "w", encoding="utf-8") as file:
        file.write("# Written by bench/run.py. With this mode nothing is "
                   "shared before\n# the pressure says so, which is where "
                   "the clock of the targets starts.\n"
                   f"[hvd]\nrun_dir = {job.run_dir}\n"
                   "[share]\nmode = pressure\n"
                   "# Left out: a balloon makes guests drop the file cache "
                   "that is shared\n# anyway, and what it took would look "
                   "like our saving.\n"
                   "[vm]\nballoon = no\n")
    job.life.keep_sysctl("/proc/sys/vm/max_map_count")
    job.hvd = job.life.start("hvd", [job.built("hvd"), "--config", config],
                             {"TIDEPOOL_RUN_DIR": job.run_dir})
    try:
        job.control = Control(os.path.join(job.run_dir, "control.sock"))
    except OSError as error:
        job.life.check()
        raise Failed(f"hvd's control socket: {error}") from error
    job.control.call("pressure", state="high")


def guests_start(job, image):
    env = {"TIDEPOOL_RUN_DIR": job.run_dir,
           "TIDEPOOL_AGENT": job.built("libhvagent.so")}
    for index in range(job.args.guests):
        guest = Guest(index, job.args.ram, job.run_dir, image, job.engine)
        wrap = [] if job.args.plain else [
            job.built("hv"), "qemu", "--name", guest.name,
            "--domain", "desktops", "--"]
        guest.start(job.life, wrap, env)
        job.guests.append(guest)


def run_dir_make(job_dir, life):
    """build/run itself, or a short name for it where sockets do not fit."""
    if len(job_dir) <= SOCKET_DIR_MAX:
        return job_dir
    short = tempfile.mkdtemp(prefix="tidepool-")
    life.remove_tree(short)
    link = os.path.join(short, "run")
    os.symlink(job_dir, link)
    return link


def job_run(job):
    image = image_prepare(job)
    engine_choose(job)
    job.summary.set(guests=job.args.guests,
                    ram_bytes=job.args.guests * job.args.ram * MIB)
    if not job.args.plain:
        hvd_start(job)
    guests_start(job, image)
    phases.boot(job)
    phases.undisturbed(job)
    if job.args.capture:
        ram.capture(job, os.path.abspath(job.args.capture))
        return
    if not job.args.plain:
        phases.sharing(job)
        phases.compression(job)
        phases.idle(job)
    phases.verify(job)
    if not job.args.plain and os.environ.get("TMEM") != "0":
        phases.tmem(job)
    phases.conclude(job)


def main():
    args = arguments()
    job_dir = os.path.join(os.path.abspath(args.build),
                           "capture" if args.capture else "run")
    shutil.rmtree(job_dir, ignore_errors=True)
    logs = os.path.join(job_dir, "logs")
    os.makedirs(logs)
    with Life(logs) as life:
        job = Job(args, life, run_dir_make(job_dir, life))
        try:
            job_run(job)
            why = None
        except Interrupted as signal:
            why = f"stopped by {signal}"
        except (Failed, ControlError, QmpError, ShellError, OSError,
                json.JSONDecodeError, subprocess.SubprocessError) as error:
            why = f"failed: {error}"
        job.table.clear()
        phases.account_corruptions(job)
    guests_remove(job)
    job.summary.set(seconds=round(time.monotonic() - job.started, 1))
    if why:
        job.summary.set(failure=why)
    job.summary.write(os.path.join(job_dir, "summary.json"))
    print(job.summary.closing())
    print(f"\nresults: {job_dir}/summary.json, logs: {logs}")
    if why:
        print(f"make run {why}", file=sys.stderr)
        return 130 if why.startswith("stopped") else 1
    return 1 if job.summary["corruptions"] else 0


def guests_remove(job):
    """Disks and sockets; the consoles are kept as logs."""
    for guest in job.guests:
        for kind in ("qcow2", "report", "mon", "qmp"):
            if os.path.exists(guest.path(kind)):
                os.unlink(guest.path(kind))
        if os.path.exists(guest.path("console")):
            os.replace(guest.path("console"),
                       job.life.log_path(guest.name + ".console"))


if __name__ == "__main__":
    sys.exit(main())
