# SPDX-License-Identifier: GPL-2.0-or-later
"""Who merges equal pages: ours (hvd and an agent in each process) or KSM.

Both offer the same: env() for the processes, begin() before their memory is
announced, cpu_seconds() spent so far, pool_pages() of merged contents that are
in no page table of the processes, metadata_bytes() of their own beside what
is in the processes and in slab caches, and end().
"""
import os
import shutil
import tempfile

from .control import Control
from .kernel import KSM, write
from .life import Failed
from .measure import PAGE, hvd_bytes
from .replay import process_run_ns

KSM_DEFAULT = {"pages_to_scan": 100, "sleep_millisecs": 20, "smart_scan": 1,
               "use_zero_pages": 0, "advisor_mode": "none"}
KSM_ADVISOR = {"smart_scan": 1, "use_zero_pages": 0,
               "advisor_mode": "scan-time"}
# Zero pages are cheapest for KSM this way: the strongest rival is wanted.
KSM_FASTEST = {"pages_to_scan": 20000, "sleep_millisecs": 0, "smart_scan": 1,
               "use_zero_pages": 1, "advisor_mode": "none"}


class Ours:
    name = "Tidepool"

    def __init__(self, life, build, vm=(), **share):
        """share, vm: what these sections say, else as it comes."""
        self.life = life
        self.build = build
        self.vm = {"balloon": "no", **dict(vm)}
        self.share = share
        self.dir = self.hvd = self.control = self.pool = None

    def env(self):
        return {"LD_PRELOAD": os.path.join(self.build, "libhvagent.so"),
                "TIDEPOOL_RUN_DIR": self.dir, "TIDEPOOL_DOMAIN": "bench",
                "TIDEPOOL_CONFIG": os.devnull}

    def prepare(self):
        """hvd is up: it is there before VMs are."""
        self.dir = tempfile.mkdtemp(prefix="tidepool-")
        self.life.remove_tree(self.dir)
        config = os.path.join(self.dir, "hvd.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.write(f"[hvd]\nrun_dir = {self.dir}\n")
            for name, section in (("vm", self.vm), ("share", self.share)):
                file.write(f"[{name}]\n")
                file.writelines(f"{k} = {v}\n" for k, v in section.items())
        self.hvd = self.life.start(
            "hvd", [os.path.join(self.build, "hvd"), "--config", config,
                    "--metrics", ""],
            {"TIDEPOOL_RUN_DIR": self.dir})
        try:
            self.control = Control(os.path.join(self.dir, "control.sock"))
        except OSError as error:
            self.life.check()
            raise Failed(f"hvd's control socket: {error}") from error

    def begin(self, fleet):
        self.fleet = fleet

    def cpu_seconds(self):
        ns = process_run_ns(self.hvd.pid)
        return (ns + sum(r.agent_cpu_ns() for r in self.fleet.replays)) / 1e9

    def pool_pages(self):
        """Memory of the frame pool's file, as the file system has it. Any of
        hvd's descriptors of it will do, but some are gone the next moment."""
        for _ in range(2):
            try:
                if self.pool:
                    return os.stat(self.pool).st_blocks * 512 // PAGE
            except FileNotFoundError:
                pass
            self.pool = self._pool_find()
        return 0

    def _pool_find(self):
        folder = f"/proc/{self.hvd.pid}/fd"
        for fd in os.listdir(folder):
            path = os.path.join(folder, fd)
            try:
                if os.readlink(path).startswith("/memfd:") and \
                        os.stat(path).st_size >= PAGE:
                    return path
            except FileNotFoundError:
                continue
        return None

    def metadata_bytes(self):
        return hvd_bytes(self.hvd.pid)

    def has_agent(self):
        return True

    def end(self):
        self.control.sock.close()
        self.life.stop("hvd")
        shutil.rmtree(self.dir, ignore_errors=True)
        self.pool = None


class Ksm:
    def __init__(self, name, settings):
        self.name = name
        self.settings = settings
        self.pid = ksmd_pid()

    def env(self):
        return {}

    def prepare(self):
        write(KSM + "/run", 0)
        ksm_set(self.settings)

    def begin(self, _fleet):
        write(KSM + "/run", 1)

    def cpu_seconds(self):
        return process_run_ns(self.pid) / 1e9

    def pool_pages(self):
        return 0

    def metadata_bytes(self):
        return 0

    def has_agent(self):
        return False

    def end(self):
        write(KSM + "/run", 2)
        write(KSM + "/run", 0)


def ksm_set(settings):
    """With an advisor at work the others cannot be set, so it goes first."""
    for name, value in [("advisor_mode", "none"), *settings.items()]:
        if os.path.exists(f"{KSM}/{name}"):  # some are newer than 5.15
            write(f"{KSM}/{name}", value)


def ksmd_pid():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="ascii") as file:
                if file.read().strip() == "ksmd":
                    return int(pid)
        except OSError:
            continue
    raise Failed("no ksmd")


def ksm_users():
    """Processes that have offered memory to KSM (newer kernels tell)."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/ksm_stat", encoding="ascii") as file:
                if "ksm_mergeable: yes" in file.read():
                    found.append(f"pid {pid}")
        except OSError:
            continue
    return found
