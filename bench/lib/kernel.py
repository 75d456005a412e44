# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings of the kernel a bench changes, and their way back.

    with Kernel() as kernel:
        kernel.set("/sys/kernel/mm/ksm/run", 1)
        zram = kernel.zram("lz4", 1 << 30)
        kernel.swap_on(zram.path, 100)

Everything is undone in reverse order when the block ends: normally, by an
exception, by Ctrl-C or SIGTERM (both come as Interrupted). Each change is
written into a journal before it is made. A bench that was killed outright
leaves that journal, and whoever opens it next - the next bench, or bench.py
after each bench - undoes it first. The journal is locked meanwhile, so two
benches never change the kernel at the same time.

What is undone is put back only in what it says now: nobody else's later change
is known here, so do not change the same settings by hand while a bench runs.
"""
import contextlib
import ctypes
import fcntl
import glob
import json
import os
import re
import signal
import stat
import sys
import tempfile
import time

from .life import Interrupted
from .result import Skip

JOURNAL = "/run/tidepool-bench.journal"
KSM = "/sys/kernel/mm/ksm"
MEMORY_CGROUP = "/sys/fs/cgroup/memory"
SWAP_FLAG_PREFER = 0x8000
TRIES = 5
PAUSE = 0.3

_libc = ctypes.CDLL(None, use_errno=True)


def read(path):
    """What the file says; of `lzo [lz4] zstd` the chosen word."""
    with open(path, encoding="ascii") as file:
        text = file.read().strip()
    chosen = re.search(r"\[([^\]]+)\]", text)
    return chosen.group(1) if chosen else text


def choices(path):
    """All words of a file like `lzo [lz4] zstd`; none where there is none."""
    try:
        with open(path, encoding="ascii") as file:
            return re.findall(r"[^\s\[\]]+", file.read())
    except OSError:
        return []


def write(path, value):
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def swaps():
    """{path: priority} of the swap areas in use."""
    with open("/proc/swaps", encoding="ascii") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return {row[0]: int(row[-1]) for row in rows}


def need_root():
    if os.geteuid():
        raise Skip("needs root")


class Zram:
    """A zram device of ours, for as long as the Kernel lives."""

    def __init__(self, number, path):
        self.number = number
        self.path = path

    def file(self, name):
        return f"/sys/block/zram{self.number}/{name}"

    def stat(self):
        """Of mm_stat, in bytes: what was given, compressed, used."""
        fields = [int(x) for x in read(self.file("mm_stat")).split()]
        return {"orig": fields[0], "compressed": fields[1],
                "used": fields[2], "same_pages": fields[5],
                "huge_pages": fields[7] if len(fields) > 7 else 0}


class Kernel:
    def __init__(self, journal=JOURNAL):
        self.journal_path = journal
        self.journal = None
        self.undos = []
        self.handlers = {}

    def __enter__(self):
        self.journal = open(self.journal_path, "a+", encoding="utf-8")
        try:
            fcntl.flock(self.journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another bench that changes the kernel",
                  file=sys.stderr, flush=True)
            fcntl.flock(self.journal, fcntl.LOCK_EX)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.handlers[number] = signal.signal(number, _interrupted)
        self.journal.seek(0)
        self.undos = _journal_parse(self.journal.read())
        if self.undos:
            print("undoing what a killed bench left", file=sys.stderr)
            self._undo_all()
        return self

    def __exit__(self, *_):
        for number in self.handlers:
            signal.signal(number, signal.SIG_IGN)
        try:
            self._undo_all()
        finally:
            self.journal.close()
            for number, handler in self.handlers.items():
                signal.signal(number, handler)

    def keep(self, *paths):
        """Puts them back at the end, whoever changes them meanwhile."""
        for path in paths:
            if not any(u["kind"] == "file" and u["path"] == path
                       for u in self.undos):
                self._note(kind="file", path=path, value=read(path))

    def set(self, path, value):
        self.keep(path)
        write(path, value)

    def keep_ksm(self):
        """All of KSM: its advisor changes settings by itself."""
        if not os.path.isdir(KSM):
            raise Skip("no KSM in this kernel")
        self.keep(*sorted(p for p in glob.glob(KSM + "/*")
                          if os.stat(p).st_mode & stat.S_IWUSR
                          and os.path.basename(p) != "run"))
        # Last noted, so first undone: others can change only while it rests.
        self._note(kind="ksm_run", path=KSM + "/run",
                   value=read(KSM + "/run"),
                   merged=int(read(KSM + "/pages_shared")))

    def zram(self, algorithm, size_bytes):
        """A device with that algorithm; Skip where there is none."""
        number, node = self._zram_take()
        zram = Zram(number, node)
        self._zram_setup(zram, algorithm, size_bytes)
        return zram

    def zram_again(self, zram, algorithm, size_bytes):
        """The same device, emptied."""
        write(zram.file("reset"), 1)
        self._zram_setup(zram, algorithm, size_bytes)

    @staticmethod
    def _zram_setup(zram, algorithm, size_bytes):
        if algorithm not in choices(zram.file("comp_algorithm")):
            raise Skip(f"zram has no {algorithm} here")
        write(zram.file("comp_algorithm"), algorithm)
        write(zram.file("disksize"), size_bytes)

    def _zram_take(self):
        for path in sorted(glob.glob("/sys/block/zram*")):
            number = int(path[len("/sys/block/zram"):])
            if read(path + "/initstate") == "0":
                self._note(kind="zram", number=number,
                           algorithm=read(path + "/comp_algorithm"))
                return number, self._zram_node(number)
        try:
            number = int(read("/sys/class/zram-control/hot_add"))
        except OSError as error:
            raise Skip(f"no zram in this kernel: {error}") from error
        self._note(kind="zram_added", number=number)
        return number, self._zram_node(number)

    def _zram_node(self, number):
        """Where no udev makes device files, ours."""
        node = f"/dev/zram{number}"
        if os.path.exists(node):
            return node
        folder = tempfile.mkdtemp(prefix="tidepool-bench-")
        node = os.path.join(folder, f"zram{number}")
        self._note(kind="unlink", path=node)
        major, minor = map(int, read(f"/sys/block/zram{number}/dev")
                           .split(":"))
        os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
        return node

    def swap_on(self, path, priority):
        """path holds a swap header already (mkswap)."""
        self._note(kind="swapoff", path=path)
        _swapon(path, priority)

    def swap_off(self, path):
        """Of ours before the end, or of the host's, which comes back."""
        priority = swaps().get(path)
        if priority is None:
            return
        for undo in self.undos:
            if undo["kind"] == "swapoff" and undo["path"] == path:
                break
        else:
            self._note(kind="swapon", path=path, priority=priority)
        _swapoff(path)

    def cgroup(self, name):
        """A memory cgroup of ours. Whoever is left in it goes to the root."""
        if not os.path.exists(MEMORY_CGROUP + "/memory.limit_in_bytes"):
            raise Skip("no memory cgroup (v1) here")
        path = os.path.join(MEMORY_CGROUP, name)
        if not os.path.isdir(path):
            self._note(kind="cgroup", path=path)
            os.mkdir(path)
        return path

    def cgroup_end(self, path):
        """Before the end; leaves nothing to undo but a look."""
        _cgroup_remove(path)

    def _note(self, **undo):
        self.undos.append(undo)
        self.journal.write(json.dumps(undo) + "\n")
        self.journal.flush()

    def _undo_all(self):
        """Reverse order; some settings only move once others have."""
        left = list(reversed(self.undos))
        why = None
        for _ in range(TRIES):
            again = []
            for undo in left:
                try:
                    _undo(undo)
                except OSError as error:
                    why = error
                    again.append(undo)
            left = again
            if not left:
                break
            time.sleep(PAUSE)  # a killed user of a device takes a while
        for undo in left:
            print(f"kernel: could not undo {undo}: {why}", file=sys.stderr)
        self.undos = []
        os.ftruncate(self.journal.fileno(), 0)


def recover(journal=JOURNAL):
    """Undoes what a killed bench left, if anything."""
    try:
        with open(journal, "rb") as file:
            if not file.read(1):
                return
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return  # there is none, or its writer lives and will undo it
    with Kernel(journal):
        pass


def _journal_parse(text):
    """A killed writer may have cut the last line; its change was not made."""
    undos = []
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            undos.append(json.loads(line))
    return undos


def _undo(undo):
    kind = undo["kind"]
    if kind == "file":
        if os.path.exists(undo["path"]) and \
                read(undo["path"]) != undo["value"]:
            write(undo["path"], undo["value"])
    elif kind == "ksm_run":
        if read(undo["path"]) != undo["value"]:
            if not undo["merged"]:
                write(undo["path"], 2)  # nothing was merged before us
            write(undo["path"], undo["value"])
    elif kind == "zram":
        base = f"/sys/block/zram{undo['number']}"
        write(base + "/reset", 1)
        write(base + "/comp_algorithm", undo["algorithm"])
    elif kind == "zram_added":
        if os.path.exists(f"/sys/block/zram{undo['number']}"):
            write("/sys/class/zram-control/hot_remove", undo["number"])
    elif kind == "cgroup":
        _cgroup_remove(undo["path"])
    elif kind == "unlink":
        if os.path.exists(undo["path"]):
            os.unlink(undo["path"])
            os.rmdir(os.path.dirname(undo["path"]))
    elif kind == "swapoff":
        if undo["path"] in swaps():
            _swapoff(undo["path"])
    elif kind == "swapon":
        if undo["path"] not in swaps():
            _swapon(undo["path"], undo["priority"])


def _cgroup_remove(path):
    if not os.path.isdir(path):
        return
    with open(path + "/cgroup.procs", encoding="ascii") as file:
        for pid in file.read().split():
            with contextlib.suppress(ProcessLookupError):
                write(MEMORY_CGROUP + "/cgroup.procs", pid)
    os.rmdir(path)


def _swapon(path, priority):
    flags = SWAP_FLAG_PREFER | priority if priority >= 0 else 0
    if _libc.swapon(os.fsencode(path), flags):
        raise OSError(ctypes.get_errno(), "swapon " + path)


def _swapoff(path):
    if _libc.swapoff(os.fsencode(path)):
        raise OSError(ctypes.get_errno(), "swapoff " + path)


def _interrupted(number, _frame):
    raise Interrupted(signal.Signals(number).name)
