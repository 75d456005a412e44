# SPDX-License-Identifier: GPL-2.0-or-later
"""What small guests boot from: a stock Debian kernel, and a root made here of
static programs and of that kernel's modules. What process 1 does with it is
its own affair: bench/guest/modules.c loads what the file /modules names."""
import os
import shutil
import subprocess
import tempfile

from . import result

TOP = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))


def rig_path(script):
    """What a script of tests/rig prints for Debian's 6.1 kernel."""
    done = subprocess.run([os.path.join(TOP, "tests/rig", script), "6.1"],
                          stdout=subprocess.PIPE, text=True)
    if done.returncode == result.SKIP:
        raise result.Skip(f"{script}: Debian's 6.1 kernel or its headers are "
                          "not reachable from here")
    done.check_returncode()
    return done.stdout.strip().splitlines()[-1]


def tools_check():
    if not shutil.which("qemu-system-x86_64") or not shutil.which("cpio"):
        raise result.Skip("no qemu-system-x86_64 or no cpio")


def _run(argv, **more):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, **more)
    if done.returncode:
        raise OSError(f"{argv[0]} ended with {done.returncode}: "
                      f"{done.stderr.strip()[-2000:]}")
    return done.stdout


def program_build(sources, out):
    """Static, with the tree's headers; sources from its top."""
    _run(["gcc", "-std=c11", "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra",
          "-static", "-pthread", "-I", TOP, "-o", out,
          *(os.path.join(TOP, source) for source in sources)])


def modules_found(kernel, names):
    """Files of these modules and of what they need, in loading order."""
    version = os.listdir(os.path.join(kernel, "lib/modules"))[0]
    env = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    found = []
    for name in names:
        out = _run(["modprobe", "-d", kernel, "-S", version, "--show-depends",
                    name], env=env)
        for line in out.splitlines():
            word, _, path = line.partition(" ")
            path = path.split(" ")[0]
            if word == "insmod" and path not in found:
                found.append(path)
    return found


def modules_add(root, folder, files, listed=True):
    """Copies them into a folder of root; listed: to be loaded at the start."""
    os.makedirs(os.path.join(root, folder))
    with open(os.path.join(root, "modules"), "a", encoding="ascii") as names:
        for path in files:
            shutil.copy(path, os.path.join(root, folder))
            if listed:
                names.write(f"/{folder}/{os.path.basename(path)}\n")


def pack(root, out):
    """Everything below root, as an initrd; returns out. It is there whole or
    not at all: programs that make the same one may run at the same time."""
    names = _run(["find", "."], cwd=root)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(out)) as folder:
        made = os.path.join(folder, "initrd")
        with open(made, "wb") as file:
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"],
                           input=names.encode(), cwd=root, stdout=file,
                           check=True)
        os.replace(made, out)
    return out
