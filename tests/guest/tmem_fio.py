#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""fio verifies what it wrote, in a guest whose memory or page cache the host
keeps: a second opinion beside the programs of this folder, by somebody who
knows nothing of this driver. TMEM_LONG=1: swap, too, which takes longer.
"""

import os
import shutil

import lib
import lib_tmem
from lib import check, say
from lib_tmem import LONG, Machine, shell_guest

RAM = 112
MIB = 64            # with fio and the kernel it does not fit
# Its libraries are as large as the guest's memory: they stay on a disk.
FIO = "/opt/ld-linux-x86-64.so.2 --library-path /opt /opt/fio"


def fio_disk():
    program = shutil.which("fio")
    if not program:
        raise lib.Skip("no fio here")
    folder = os.path.join(lib.work, "fio")
    os.mkdir(folder)
    for path in (program, *shell_guest.libraries(program)):
        shutil.copy(path, folder)  # follows links
    return lib_tmem.disk_make("fio", 160, folder)


def fio_verifies(m, folder, engine):
    """Two threads write files in random order and read them again; no page may
    be another than the one written."""
    m.run("echo 1 >/proc/sys/vm/overcommit_memory; mkdir -p /opt; "
          "mount -t ext4 -o ro /dev/vda /opt", 60)
    text = m.run(f"{FIO} --name=v --thread --numjobs=2 --bs=4k "
                 f"--directory={folder} --size={MIB // 2}M --rw=randwrite "
                 f"--ioengine={engine} --randseed={lib.seed()} "
                 "--verify=crc32c --verify_fatal=1 --group_reporting "
                 "--minimal", 250)
    fields = text.splitlines()[-1].split(";")
    # Terse form: the error, then KiB read, which verifying does.
    check(fields[4] == "0" and int(fields[5]) == MIB << 10,
          f"fio verified {fields[5]} KiB: {text[-500:]}")


def swapped_tmpfs():
    """a tmpfs that memory cannot hold, swapped to the host"""
    m = Machine("shm", lib.Hvd().start(), ram=RAM, swap=2 * MIB, tmem=512,
                disks=[fio_disk()], smp=2).driver_load().swap_on()
    m.run(f"mkdir /shm; mount -t tmpfs -o size={MIB + 16}M tmpfs /shm")
    fio_verifies(m, "/shm", "mmap")
    counters = m.counters()
    say(counters)
    check(counters["swap_reads"] > 2000, "hardly a read")
    check(counters["swap_errors"] == 0, "swapping had errors")
    m.kernel_is_fine()


def cached_ext4():
    """files on ext4, whose page cache is dropped all the time"""
    disk = lib_tmem.disk_make("files", 2 * MIB)
    m = Machine("files", lib.Hvd().start(), ram=RAM, swap=0, tmem=512,
                disks=[fio_disk(), disk], smp=2).driver_load(swap=False)
    m.run(f"mount -t ext4 {m.cache_on('vdb')} /mnt", 60)
    m.cache_drop()
    fio_verifies(m, "/mnt", "psync")
    counters = m.counters()
    say(counters)
    check(counters["cache_hits"] > 2000, "hardly a hit")
    m.cache_off()
    m.kernel_is_fine()
    m.kill()
    lib_tmem.fsck(disk)


lib.main(cached_ext4, *([swapped_tmpfs] if LONG else []))
