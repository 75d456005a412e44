# SPDX-License-Identifier: GPL-2.0-or-later
"""A small guest: Debian's kernel under TCG and one program of bench/guest as
its process 1, asked over a serial line (bench/guest/line.h). Up in 3 s."""
import os
import socket

from . import initrd
from .control import Control
from .guest import TCG
from .life import Failed
from .qmp import Qmp

READY_S = 120


def boot_make(folder, program, modules=()):
    """(kernel, initrd) of a guest that runs bench/guest/PROGRAM.c."""
    initrd.tools_check()
    kernel = initrd.rig_path("kernel.sh")
    root = os.path.join(folder, "root")
    os.makedirs(os.path.join(root, "dev"))
    initrd.program_build([f"bench/guest/{name}.c"
                          for name in (program, "line", "modules")],
                         os.path.join(root, "init"))
    initrd.modules_add(root, "m", initrd.modules_found(kernel, modules))
    return (os.path.join(kernel, "vmlinuz"),
            initrd.pack(root, os.path.join(folder, "initrd")))


class Small:
    """One guest. wrap, env: what runs its QEMU, and with which variables."""

    def __init__(self, life, folder, boot, name, ram_mib, devices=(), wrap=(),
                 env=None):
        self.name = name
        self.life = life
        line = os.path.join(folder, name + ".line")
        own = os.path.join(folder, name + ".qmp")
        free = os.path.join(folder, name + ".qmp2")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(line)
        listener.listen(1)
        self.child = life.start(name, [
            *wrap, "qemu-system-x86_64", *TCG, "-name", name, "-machine",
            "q35", "-m", str(ram_mib), "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-kernel", boot[0], "-initrd",
            boot[1], "-append",
            "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check",
            "-serial", f"file:{os.path.join(folder, name + '.console')}",
            "-serial", f"unix:{line}", *devices,
            "-qmp", f"unix:{own},server=on,wait=off",
            "-qmp", f"unix:{free},server=on,wait=off"], env)
        listener.settimeout(READY_S)
        self.sock, _ = listener.accept()
        listener.close()
        self.sock.settimeout(READY_S)
        self.file = self.sock.makefile("rb")
        if self.file.readline().strip() != b"ready":
            raise Failed(f"{name} did not boot")
        self.qmp = Qmp(free)

    def ask(self, words):
        """The numbers after "ok"."""
        self.sock.sendall(words.encode() + b"\n")
        answer = self.file.readline().decode().split()
        if answer[:1] != ["ok"]:
            self.life.check()
            raise Failed(f"{self.name}: {words}: {' '.join(answer)}")
        return [float(x) for x in answer[1:]]


def managed(life, folder, build, boot, name, ram_mib, devices=()):
    """The same guest with the agent in its QEMU; hvd runs in folder."""
    return Small(life, folder, boot, name, ram_mib, devices,
                 [os.path.join(build, "hv"), "qemu", "--name", name, "--"],
                 {"TIDEPOOL_RUN_DIR": folder,
                  "TIDEPOOL_AGENT": os.path.join(build, "libhvagent.so")})


def hvd_start(life, folder, build, settings):
    conf = os.path.join(folder, "hvd.conf")
    with open(conf, "w", encoding="ascii") as file:
        file.write(f"[hvd]\nrun_dir = {folder}\nmetrics =\n"
                   f"raise_max_map_count = no\n{settings}")
    life.start("hvd", [os.path.join(build, "hvd"), "--config", conf])
    return Control(os.path.join(folder, "control.sock"))
