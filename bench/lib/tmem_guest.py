# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest with too little memory and a slow disk, with TMEM and without: what
`make bench B=tmem` repeats and `make run` shows once.

Both sides are the same stock kernel with the same two virtio disks, one with an
ext4 of files, one for swap. bench/slow_disk.c serves both: a request takes
0.5 ms, beside others under way, and all share 100 MB/s. With TMEM the driver is
loaded, tmemswap0 is a swap area of higher priority, and the target tmem-cache
lies under the ext4; the host keeps what the guest evicts. Without, the guest
has what it has. What is read and written on the disks is counted by the guest's
own /proc/diskstats.

Two workloads:

  files    files of twice the memory read twice, one after the other: sectors
           of each pass
  compile  bench/guest/mill.c: many processes, many small files; the program,
           the headers, the jobs' trees and what is kept are twice the memory
"""
import os
import random
import shutil
import subprocess
import time

from . import initrd, shell_guest
from .life import Failed
from .shell_guest import Parts, Shell
from .table import grid

MIB = 1 << 20
RAM_MIB = 160
ROOMY_MIB = 640     # nothing is short
SWAP_MIB = 384
TMEM_MIB = 640      # the most the host lends
FILE_MIB = 8
FILES = 2 * RAM_MIB // FILE_MIB
WORK_MIB = 2 * RAM_MIB
JOBS = 3
# What a read of 4 KiB takes QEMU then is 0.5 ms: the wake-ups of two threads
# and the transfer are in it.
LATENCY_US = 340
BYTES_A_SECOND = 100_000_000
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "dm_mod")


def _data(chance, size):
    """Pages of which every second one compresses eightfold, as programs and
    texts do, the others not at all, as archives."""
    pages = (chance.randbytes(4096) if n % 2 else chance.randbytes(512) * 8
             for n in range((size + 4095) // 4096))
    return b"".join(pages)[:size]


def _file(folder, name, data):
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)


def tree_make(folder, units, seed, work_mib):
    """What mill reads; sizes in whole words, shares as mill.c's."""
    chance = random.Random(seed)
    os.makedirs(os.path.join(folder, "out"))
    _file(folder, "cc", _data(chance, 36 * work_mib // 320 * MIB))
    for i in range(1664 * work_mib // 320):
        _file(folder, f"h{i}", _data(chance, 8 * chance.randrange(256, 9000)))
    for i in range(units):
        _file(folder, f"s{i}", _data(chance, 8 * chance.randrange(512, 6000)))


def files_make(folder, seed):
    chance = random.Random(seed)
    os.makedirs(folder)
    for i in range(FILES):
        _file(folder, f"f{i}", _data(chance, FILE_MIB * MIB))


class Rig:
    """What the guests of both sides are made from; all in one folder."""

    def __init__(self, folder, build, units, seed, files=True,
                 work_mib=WORK_MIB):
        self.folder = folder
        self.build = build
        self.units = units
        self.seed = seed
        self.work_mib = work_mib
        self.kernel = initrd.rig_path("kernel.sh")
        self.initrd = shell_guest.initrd_make(
            Parts(self.kernel, programs={"mill": "bench/guest/mill.c"},
                  modules=MODULES, kos=[initrd.rig_path("module.sh")],
                  load=False,
                  binaries=["/sbin/dmsetup"]),
            os.path.join(folder, "tmem.initrd"))
        content = os.path.join(folder, "content")
        tree_make(os.path.join(content, "tree"), units, seed, work_mib)
        if files:
            files_make(os.path.join(content, "files"), seed)
        self.image = os.path.join(folder, "files.img")
        self._image_make(content)
        shutil.rmtree(content)

    def _image_make(self, content):
        with open(self.image, "wb") as file:
            file.truncate((2 * FILES * FILE_MIB + 128) * MIB)
        env = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
        done = subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-F", "-b", "4096", "-d", content,
             "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image],
            env=env, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise Failed(f"mke2fs: {done.stderr}")

    def disks(self, name):
        """Copies of its own, for a guest of that name."""
        files = os.path.join(self.folder, name + ".files")
        swap = os.path.join(self.folder, name + ".swap")
        subprocess.run(["cp", "--sparse=always", self.image, files],
                       check=True)
        with open(swap, "wb") as file:
            file.truncate(SWAP_MIB * MIB)
        return files, swap


class Disk:
    """The slow disk that serves these files; use it with `with`."""

    def __init__(self, rig, life, name, files):
        self.rig = rig
        self.life = life
        self.name = name + "-disk"
        self.files = files
        self.socket = os.path.join(rig.folder, self.name)

    def __enter__(self):
        self.life.start(self.name, [
            os.path.join(self.rig.build, "bench", "slow_disk"), self.socket,
            str(LATENCY_US), str(BYTES_A_SECOND), *self.files])
        for _ in range(100):
            if os.path.exists(self.socket):
                return self
            time.sleep(0.1)
        self.__exit__()
        raise Failed(f"{self.name} does not listen")

    def __exit__(self, *_):
        self.life.stop(self.name)
        if os.path.exists(self.socket):
            os.unlink(self.socket)

    def uri(self, file):
        return f"nbd+unix:///{os.path.basename(file)}?socket={self.socket}"

    def read_ms(self, depth, count=2000):
        """What a read of 4 KiB takes QEMU with so many under way."""
        done = subprocess.run(
            ["qemu-img", "bench", "-c", str(count), "-d", str(depth), "-s",
             "4096", "-S", "40960", "-f", "raw", "-t", "none",
             self.uri(self.files[0])],
            stdout=subprocess.PIPE, text=True, check=True, timeout=60)
        seconds = float(done.stdout.split("completed in")[1].split()[0])
        return 1000 * seconds * depth / count


class Guest:
    """One side's guest, from boot to stop; use it with `with`."""

    def __init__(self, rig, life, name, tmem, ram_mib=RAM_MIB):
        self.rig = rig
        self.life = life
        self.name = name
        self.tmem = tmem
        self.ram_mib = ram_mib

    def __enter__(self):
        rig = self.rig
        path = os.path.join(rig.folder, self.name + ".sh")
        self.used = [path, *rig.disks(self.name)]
        self.disk = Disk(rig, self.life, self.name, self.used[1:])
        argv = shell_guest.qemu_argv(
            self.name, rig.kernel, rig.initrd, self.ram_mib,
            os.path.join(rig.folder, self.name + ".console"), path)
        for ident, disk in zip(("files", "swap"), self.used[1:]):
            argv += shell_guest.disk_args(self.disk.uri(disk), ident)
        env = None
        if self.tmem:
            argv += ["-chardev", "socket,id=tidepool-tmem,path="
                     f"{rig.folder}/{self.name}.tmem", "-device",
                     "ivshmem-doorbell,chardev=tidepool-tmem,vectors=17"]
            env = {"TIDEPOOL_RUN_DIR": rig.folder, "TIDEPOOL_NAME": self.name,
                   "TIDEPOOL_TMEM": f"{TMEM_MIB}M",
                   "TIDEPOOL_TMEM_SWAP": f"{SWAP_MIB}M",
                   "LD_PRELOAD": os.path.join(rig.build, "libhvagent.so")}
        self.shell = Shell.listen(path)
        try:
            self.disk.__enter__()
            self.life.start(self.name, argv, env)
            self.shell.accept().ready()
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.shell.close()
        self.life.stop(self.name)
        self.disk.__exit__()
        for path in self.used:
            if os.path.exists(path):
                os.unlink(path)

    def _prepare(self):
        run = self.shell.run
        device = "/dev/vda"
        if self.tmem:
            device = self._driver()
        # The kernel gives what comes later less priority.
        run("mkswap /dev/vdb && swapon /dev/vdb")
        run(f"mount -t ext4 -o noatime {device} /mnt")

    def _driver(self):
        run = self.shell.run
        run("insmod /kos/tidepool_tmem.ko")
        run("for i in $(seq 50); do test -b /dev/tmemswap0 && break; "
            "sleep 0.2; done; test -b /dev/tmemswap0", 30)
        run("mkswap /dev/tmemswap0 && swapon /dev/tmemswap0")
        sectors = int(run("cat /sys/class/block/vda/size"))
        run("dmsetup --noudevrules --noudevsync create cached --table "
            f"'0 {sectors} tmem-cache /dev/vda'")
        return "/dev/dm-0"

    def _fresh(self):
        self.shell.run("sync; echo 3 >/proc/sys/vm/drop_caches", 60)

    def files_twice(self):
        """Sectors read of the disk by the first pass and by the second."""
        self._fresh()
        passes = []
        for _ in range(2):
            before = self.shell.sectors("vda")[0]
            self.shell.run("cat /mnt/files/* >/dev/null", 300)
            passes.append(self.shell.sectors("vda")[0] - before)
        return passes

    def compile(self):
        """Seconds, sectors read of the files, of swap read and written."""
        self._fresh()
        before = self.shell.sectors("vda"), self.shell.sectors("vdb")
        status, text = self.shell.ask(
            f"mill /mnt/tree {self.rig.units} {JOBS} {self.rig.seed} "
            f"{self.rig.work_mib}", 900)
        words = text.split()
        if status or words[:1] != ["sum"]:
            raise Failed(f"{self.name}: the compilation ended with {status}: "
                         f"{text[-500:]}")
        after = self.shell.sectors("vda"), self.shell.sectors("vdb")
        return {"sum": words[1], "seconds": float(words[3]),
                "disk_sectors_read": after[0][0] - before[0][0],
                "swap_sectors_read": after[1][0] - before[1][0],
                "swap_sectors_written": after[1][1] - before[1][1]}


class Runs:
    """Guests of one rig, each with a name of its own; a second run in the same
    guest would meet a warm one."""

    def __init__(self, rig, life):
        self.rig = rig
        self.life = life
        self.count = 0

    def _guest(self, tmem, ram_mib=RAM_MIB):
        self.count += 1
        name = f"{'tmem' if tmem else 'plain'}{self.count}"
        return Guest(self.rig, self.life, name, tmem, ram_mib)

    def compile(self, tmem, ram_mib=RAM_MIB):
        with self._guest(tmem, ram_mib) as guest:
            return guest.compile()

    def disk_ms(self, depth):
        with Disk(self.rig, self.life, "alone", [self.rig.image]) as disk:
            return disk.read_ms(depth)

    def files(self, tmem):
        with self._guest(tmem) as guest:
            return guest.files_twice()


def sums_compare(runs):
    """All runs must have computed the same."""
    sums = {run["sum"] for run in runs}
    if len(sums) != 1:
        raise Failed(f"runs of the same work computed different sums: {sums}")


def side_by_side(done):
    """A table of {"with": a run, "without": a run} for people."""
    rows = [("seconds", *(f"{done[side]['seconds']:.1f}"
                          for side in ("with", "without")))]
    for key, name in (("disk_sectors_read", "MiB read of the disk"),
                      ("swap_sectors_written", "MiB written to disk swap"),
                      ("swap_sectors_read", "MiB read from disk swap")):
        rows.append((name, *(f"{done[side][key] * 512 / MIB:.1f}"
                             for side in ("with", "without"))))
    return grid(rows, ("compile-like work", "with TMEM", "without"))
