# SPDX-License-Identifier: GPL-2.0-or-later
"""A small guest that is told what to do: a stock Debian kernel, busybox, a few
programs and kernel modules, and bench/guest/shell.c as process 1.

It is built and spoken to here; who starts its QEMU, and how, is the caller's
affair (benches and tests differ in that):

    parts = Parts(kernel_folder, programs={"hog": "tests/guest/hog.c"},
                  modules=["virtio_blk"], kos=[path], binaries=["/sbin/fio"])
    image = initrd_make(parts, out_path)
    line = Shell.listen(socket_path)
    start(qemu_argv("name", kernel_folder, image, ram_mib, console_path,
                    socket_path) + [...])
    shell = line.accept()
    shell.ask("cat /proc/swaps")

A command is one line for busybox' sh; what it says is text. Anything that goes
wrong in the conversation is a ShellError.
"""
import os
import shutil
import socket
import subprocess
import tempfile
import time

from . import initrd

INIT = ["bench/guest/shell.c", "bench/guest/modules.c"]
# cx16, erms, fsrm: see bench/lib/guest.py and tests/rig/vm.sh.
CPU = "max,-erms,-fsrm,-cx16"
# ramfs: a root that is never swapped. iomem: root may map a device's memory
# beside its driver, as the hostile guest does.
KERNEL_LINE = ("console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check "
               "rootfstype=ramfs iomem=relaxed")


class ShellError(Exception):
    """The guest did not answer, or not as it was to."""


class Parts:
    """What a guest's root is made of.

    programs: name: C file, compiled statically. modules: names, found in the
    kernel's folder with all they need; they are loaded in order, then kos,
    files of modules from elsewhere. load=False only puts those into /kos.
    binaries: programs of this machine, with their libraries.
    """

    def __init__(self, kernel, programs=(), modules=(), kos=(), binaries=(),
                 load=True):
        self.kernel = kernel
        self.programs = dict(programs)
        self.modules = list(modules)
        self.kos = list(kos)
        self.binaries = list(binaries)
        self.load = load


def libraries(binary):
    """Paths of all that it loads, the loader included."""
    out = subprocess.run(["ldd", binary], stdout=subprocess.PIPE, text=True,
                         stderr=subprocess.DEVNULL).stdout
    return [word for word in out.split() if word.startswith("/")]


def _binary_add(root, binary):
    shutil.copy(binary, os.path.join(root, "bin"))
    for library in libraries(binary):
        there = root + library
        if not os.path.exists(there):
            os.makedirs(os.path.dirname(there), exist_ok=True)
            shutil.copy(library, there)  # follows links


def initrd_make(parts, out):
    """Writes it to out, and returns that."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(out)) as root:
        for name in ("bin", "dev", "tmp", "mnt"):
            os.makedirs(os.path.join(root, name))
        shutil.copy("/bin/busybox", os.path.join(root, "bin"))
        initrd.program_build(INIT, os.path.join(root, "init"))
        for name, source in parts.programs.items():
            initrd.program_build([source], os.path.join(root, "bin", name))
        for binary in parts.binaries:
            _binary_add(root, binary)
        initrd.modules_add(root, "m", initrd.modules_found(parts.kernel,
                                                           parts.modules))
        initrd.modules_add(root, "kos", parts.kos, parts.load)
        return initrd.pack(root, out)


def qemu_argv(name, kernel, image, ram_mib, console, path, smp=1):
    """path: of the socket that Shell.listen made."""
    return ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=128",
            "-cpu", CPU, "-machine", "q35", "-smp", str(smp), "-name", name,
            "-m", str(ram_mib), "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot",
            "-kernel", os.path.join(kernel, "vmlinuz"), "-initrd", image,
            "-append", KERNEL_LINE,
            "-chardev", f"file,id=con,path={console}",
            "-serial", "chardev:con",
            "-chardev", f"socket,id=sh,path={path}", "-serial", "chardev:sh"]


def disk_args(path, ident, cache="unsafe", more=""):
    """A virtio disk. unsafe spares fsync on the host: what the guest wrote
    survives the death of QEMU all the same."""
    return ["-drive", f"if=none,id={ident},file={path},format=raw,"
            f"cache={cache},discard=unmap{more}",
            "-device", f"virtio-blk-pci,drive={ident},disable-legacy=on"]


class Shell:
    """The conversation with one guest. alive(): whether its QEMU runs."""

    def __init__(self, listener, alive):
        self._listener = listener
        self._alive = alive
        self._sock = None
        self._have = b""

    @classmethod
    def listen(cls, path, alive=lambda: True):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        return cls(listener, alive)

    def accept(self, seconds=30):
        """QEMU connects at once, the guest comes up later: see ready."""
        end = time.monotonic() + seconds
        self._listener.settimeout(1)
        while self._sock is None:
            try:
                self._sock, _ = self._listener.accept()
            except TimeoutError:
                if time.monotonic() > end or not self._alive():
                    raise ShellError("QEMU did not start") from None
        self._listener.close()
        return self

    def ready(self, seconds=120):
        """Process 1 is up and loaded every module."""
        status, text = self.answer(seconds)
        if status:
            raise ShellError(f"{status} modules did not load {text}")
        return self

    def _receive(self, end, what):
        """More bytes into _have, or ShellError when it is too late."""
        left = end - time.monotonic()
        if left <= 0:
            raise ShellError(f"no end of {what!r}; so far: "
                             f"{self._have[-500:].decode(errors='replace')}")
        self._sock.settimeout(min(left, 1))
        try:
            data = self._sock.recv(65536)
        except TimeoutError:
            return
        except OSError as error:
            raise ShellError(f"guest gone: {error}") from error
        if not data:
            raise ShellError("guest gone, while it was to say the end of "
                             f"{what!r}")
        self._have += data

    def line(self, seconds, what="a line"):
        """The next line of output, of a command that still runs."""
        end = time.monotonic() + seconds
        while b"\n" not in self._have:
            self._receive(end, what)
        line, self._have = self._have.split(b"\n", 1)
        return line.decode(errors="replace").rstrip("\r")

    def send(self, command):
        if "\n" in command:
            raise ValueError("a command is one line")
        self._sock.sendall(command.encode() + b"\n")

    def answer(self, seconds=60, what="it"):
        """(exit status, output) of the command sent last."""
        end = time.monotonic() + seconds
        lines = []
        while True:
            line = self.line(end - time.monotonic(), what)
            if line.startswith("@@ "):
                return int(line[3:]), "\n".join(lines).strip()
            lines.append(line)

    def ask(self, command, seconds=60):
        self.send(command)
        return self.answer(seconds, command)

    def run(self, command, seconds=60):
        """Its output; it must end with 0."""
        status, text = self.ask(command, seconds)
        if status:
            raise ShellError(f"{command!r} ended with {status}: {text}")
        return text

    def number(self, command, seconds=60):
        return int(self.run(command, seconds).split()[0])

    def start(self, command, name):
        """In the background; its output to /tmp/NAME, its end to NAME.rc."""
        self.run(f"( {command} >/tmp/{name} 2>&1; echo $? >/tmp/{name}.rc ) "
                 "</dev/null >/dev/null 2>&1 &")

    def ended(self, name):
        """(exit status, output) of what start started; None: it runs."""
        status, text = self.ask(f"cat /tmp/{name}.rc")
        if status:
            return None
        return int(text), self.run(f"cat /tmp/{name}")

    def wait(self, name, seconds):
        end = time.monotonic() + seconds
        while True:
            done = self.ended(name)
            if done is not None:
                return done
            if time.monotonic() > end:
                raise ShellError(f"{name} did not end in {seconds} s; it said "
                                 + self.run(f"tail -n 5 /tmp/{name}"))
            time.sleep(0.3)

    def drain(self):
        """All lines that still come until the guest is gone."""
        lines = []
        try:
            while True:
                lines.append(self.line(10))
        except ShellError:
            return lines

    def sectors(self, disk):
        """(read, written) by the guest so far, from its /proc/diskstats."""
        for line in self.run("cat /proc/diskstats").splitlines():
            fields = line.split()
            if fields[2] == disk:
                return int(fields[5]), int(fields[9])
        raise ShellError(f"the guest has no disk {disk}")

    def close(self):
        if self._sock:
            self._sock.close()
        self._listener.close()
