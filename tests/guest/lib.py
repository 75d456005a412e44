# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests with real guests share: guests, hvd, and asking them things.

A test is a Python file of this folder that calls main() with its functions;
each function is one promise and counts as one check. Its last line has
libcheck's form, so tests/check.sh sums it like any other:

    100%: Checks: 3, Failures: 0, Errors: 0

A guest is a stock QEMU (TCG: works everywhere, is never emulated KVM) with
Debian's cloud kernel and payload.c as its only program. Everything a test
starts dies with it: children carry a parent-death signal, and every file is
in one temporary folder. Environment: BUILD (build), KEEP=1 keeps that folder.
"""

import array
import ctypes
import importlib.util
import json
import mmap
import os
import pwd
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("BUILD", os.path.join(ROOT, "build")))
PAGE = 4096
KINDS = ("zero", "same", "common", "dup", "random", "text")
DUP_SPREAD = 16     # payload.c: equal pages of a guest come in groups of this
PFN_MASK = (1 << 55) - 1
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)
_rng = random.Random()
_cleanups = []
work = None         # this test's temporary folder


class Skip(Exception):
    """This machine cannot run the test, for the reason given."""


class Failed(Exception):
    """A promise was broken."""


def check(truth, text):
    if not truth:
        raise Failed(text)


def say(*words):
    print("  ", *words, flush=True)


def wait_for(what, truth, seconds=30, every=0.1):
    """Waits until truth() is true, and returns what it returned."""
    end = time.monotonic() + seconds
    while True:
        value = truth()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"waited {seconds} s for: {what}")
        time.sleep(every)


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(argv, log, env=None, **more):
    """Starts a program that dies with us; its output goes to work/log."""
    out = open(os.path.join(work, log), "ab")
    full = dict(os.environ)
    full.update(env or {})
    proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out,
                            stderr=subprocess.STDOUT, env=full,
                            preexec_fn=_die_with_parent, **more)
    out.close()
    _cleanups.append(lambda: _end(proc))
    return proc


def _end(proc):
    if proc.poll() is None:
        proc.kill()
    proc.wait()


def log_text(log):
    try:
        with open(os.path.join(work, log), errors="replace") as f:
            return f.read()
    except FileNotFoundError:
        return ""


def said(log, text):
    """The lines of a log that hold the text."""
    return [ln for ln in log_text(log).splitlines() if text in ln]


def bench_module(name):
    """bench/lib is a package named lib, as this module is."""
    if "benchlib" not in sys.modules:
        folder = os.path.join(ROOT, "bench", "lib")
        spec = importlib.util.spec_from_file_location(
            "benchlib", os.path.join(folder, "__init__.py"),
            submodule_search_locations=[folder])
        sys.modules["benchlib"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["benchlib"])
    return importlib.import_module("benchlib." + name)


def built(name):
    path = os.path.join(BUILD, name)
    if not os.path.exists(path):
        raise Failed(f"{path} is not built; run make")
    return path


# ---- guests -----------------------------------------------------------------

def rig(*words):
    """What a script of tests/rig prints, for a kernel most of the time."""
    r = subprocess.run([os.path.join(ROOT, "tests/rig", words[0]), *words[1:]],
                       stdout=subprocess.PIPE, text=True)
    if r.returncode == 77:
        raise Skip(f"{' '.join(words)}: not to be had here")
    check(r.returncode == 0, f"tests/rig/{' '.join(words)} failed")
    return r.stdout.strip().splitlines()[-1]


def _boot_files():
    """(kernel, initrd); the payload is built and packed once."""
    out = os.path.join(BUILD, "guest")
    os.makedirs(out, exist_ok=True)
    kernel = rig("kernel.sh", "6.1")
    source = os.path.join(ROOT, "tests/guest/payload.c")
    initrd = os.path.join(out, "initrd")
    if not os.path.exists(initrd) or \
            os.path.getmtime(initrd) < os.path.getmtime(source):
        with tempfile.TemporaryDirectory(dir=out) as tmp:
            subprocess.run(["gcc", "-std=c11", "-O2", "-D_GNU_SOURCE", "-Wall",
                            "-Wextra", "-Werror", "-static", "-o",
                            tmp + "/init", source],
                           check=True)
            os.mkdir(tmp + "/dev")
            cpio = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"],
                                  input="init\ndev\n", text=True, cwd=tmp,
                                  stdout=open(initrd + ".tmp", "w"))
            check(cpio.returncode == 0, "cpio failed")
            os.rename(initrd + ".tmp", initrd)
    return kernel + "/vmlinuz", initrd


class Guest:
    """One QEMU with the payload in it.

    how: "plain" (no agent), "preload" (LD_PRELOAD and the environment) or
    "hv" (through build/hv qemu).
    """

    def __init__(self, name, how="plain", hvd=None, domain=None, ram=256,
                 user=None, env=None):
        self.name = name
        self.fleet = None
        self.log = name + ".log"
        self._buffer = b""
        self.console = os.path.join(work, name + ".console")
        kernel, initrd = _boot_files()
        path = os.path.join(work, name + ".serial")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        if user is not None:
            # The checkout may be in a folder that this user may not enter.
            kernel, initrd = lend(kernel), lend(initrd)
            env = dict(env or {}, LD_PRELOAD=lend(built("libhvagent.so")))
            os.chmod(path, 0o777)
            open(self.console, "w").close()
            os.chmod(self.console, 0o666)
        argv = ["qemu-system-x86_64", "-accel", "tcg,tb-size=64", "-machine",
                "q35", "-cpu", "max,cx16=off", "-m", str(ram), "-nodefaults",
                "-no-user-config", "-display", "none", "-no-reboot",
                "-kernel", kernel, "-initrd", initrd, "-append",
                # a loaded host may fail the kernel's test of its timer
                "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check",
                "-chardev", f"file,id=c0,path={self.console}",
                "-serial", "chardev:c0",
                "-chardev", f"socket,id=c1,path={path}",
                "-serial", "chardev:c1"]
        argv, env = managed(argv, how, name, hvd, domain, dict(env or {}))
        self.proc = spawn(argv, self.log, env=env, **as_user(user))
        listener.settimeout(30)
        try:
            self.line, _ = listener.accept()
        except TimeoutError:
            raise Failed(f"{name} did not start:\n{log_text(self.log)}")
        listener.close()

    @property
    def pid(self):
        return self.proc.pid

    def _read_line(self, seconds):
        end = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0:
                raise Failed(f"{self.name}: no answer in {seconds} s; state "
                             f"{proc_state(self.pid)}")
            self.line.settimeout(left)
            try:
                data = self.line.recv(4096)
            except TimeoutError:
                continue
            if not data:
                raise Failed(f"{self.name} died:\n{log_text(self.log)[-2000:]}"
                             f"\n{log_text(self.name + '.console')[-1000:]}")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode().strip()

    def ready(self, seconds=90):
        line = self._read_line(seconds)
        check(line == "ready", f"{self.name} said {line!r}")
        return self

    def send(self, *words):
        """Sends a command; answer() waits for what it says."""
        self.line.sendall((" ".join(str(w) for w in words) + "\n").encode())

    def answer(self, seconds=120):
        line = self._read_line(seconds)
        check(line.startswith("ok"), f"{self.name}: {line}")
        return dict(w.split("=", 1) for w in line.split()[1:])

    def ask(self, *words, seconds=120):
        self.send(*words)
        return self.answer(seconds)

    def fill(self, seed, fleet, **counts):
        """Fills the table; counts are pages of each of KINDS."""
        self.counts = {k: counts.pop(k, 0) for k in KINDS}
        check(not counts, f"no such kind of page: {counts}")
        self.ask("fill", seed, fleet, *self.counts.values())

    def no_mismatch(self, what, answer):
        check(answer["mismatches"] == "0",
              f"{self.name}: {what}: {answer} (guest memory was corrupted)")
        return int(answer["pages"])

    def verify(self):
        return self.no_mismatch("verify", self.ask("verify"))

    def kill(self, sig=signal.SIGKILL):
        self.proc.send_signal(sig)

    def alive(self):
        return self.proc.poll() is None

    def quit(self):
        """Powers the guest off; QEMU must end by itself with 0."""
        self.send("quit")
        try:
            rc = self.proc.wait(30)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name}: QEMU does not end")
        check(rc == 0, f"{self.name}: QEMU ended with {rc}:\n"
              f"{log_text(self.log)[-2000:]}")


def managed(argv, how, name, hvd, domain, env):
    """The command line and environment that run argv as a managed VM."""
    if how == "plain":
        return argv, env
    env["TIDEPOOL_RUN_DIR"] = hvd.dir
    env["TIDEPOOL_CONFIG"] = hvd.agent_conf
    if how == "preload":
        env.setdefault("LD_PRELOAD", built("libhvagent.so"))
        env["TIDEPOOL_NAME"] = name
        if domain:
            env["TIDEPOOL_DOMAIN"] = domain
        return argv, env
    check(how == "hv", f"no way {how} to start a guest")
    front = [built("hv"), "qemu", "--name", name]
    if domain:
        front += ["--domain", domain]
    return front + ["--"] + argv, env


def resident_pfns(pid):
    """Page frame numbers of all anonymous memory and overlays of a process.

    That is guest RAM above all: two of these have a number in common exactly
    where one page of the host serves both, whatever hvd says about it.
    """
    found = set()
    with open(f"/proc/{pid}/maps") as maps, \
            open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for line in maps:
            span, perms, _, _, _, *path = line.split(None, 5)
            file = path[0].strip() if path else ""
            # Data of libraries is writable, private and shared till written.
            if perms[:2] != "rw" or perms[3] != "p" or \
                    (file and not file.startswith("/memfd:")):
                continue
            start, end = (int(x, 16) for x in span.split("-"))
            pagemap.seek(start // PAGE * 8)
            entries = array.array("Q")
            entries.frombytes(pagemap.read((end - start) // PAGE * 8))
            found.update(e & PFN_MASK for e in entries if e >> 63)
    found.discard(0)    # not root: the kernel shows none
    return found - _zero_pfns()


def _zero_pfns():
    """The kernel's zero page; and the huge one is not used below 2 MiB."""
    page = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    page[0]             # reads: maps the zero page
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // PAGE * 8)
        entry = struct.unpack("<Q", pagemap.read(8))[0]
    return {entry & PFN_MASK}


def common_pfns(a, b):
    """Pages of the host that serve both guests.

    What was merged is mapped but not in the page table until it is read, so
    both guests read everything first.
    """
    for guest in (a, b):
        guest.verify()
    return len(resident_pfns(a.pid) & resident_pfns(b.pid))


def as_user(name):
    """spawn's arguments to run something as a user without rights."""
    if name is None:
        return {}
    if os.getuid() != 0:
        raise Skip(f"only root can start a program as {name}")
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


def lend(path):
    """A copy of a file that every user can read."""
    os.chmod(work, 0o755)
    copy = os.path.join(work, os.path.basename(path))
    if not os.path.exists(copy):    # else it may be in use
        shutil.copy(path, copy)
        os.chmod(copy, 0o755)
    return copy


def proc_state(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                if line.startswith("State:"):
                    return line.split(None, 1)[1].strip()
    except OSError:
        pass
    return "gone"


# ---- hvd --------------------------------------------------------------------

class Hvd:
    """A daemon of this test's own, with sockets in the test's folder."""

    def __init__(self, user=None, group=""):
        self.user = user
        self.dir = os.path.join(work, "run")
        os.makedirs(self.dir, exist_ok=True)
        os.chmod(work, 0o755)
        self.control_socket = os.path.join(self.dir, "control.sock")
        # Nothing is shared before the test says so: share().
        self.conf = os.path.join(work, "hvd.conf")
        with open(self.conf, "w") as f:
            f.write(f"[hvd]\nrun_dir = {self.dir}\ngroup = {group}\n"
                    "metrics =\nraise_max_map_count = no\n"
                    "[share]\nmode = pressure\nrest = 200ms\n")
        self.agent_conf = os.path.join(work, "agent.conf")
        with open(self.agent_conf, "w") as f:
            f.write("[default]\nlog = debug\n")
        self.log = "hvd.log"
        self.proc = None
        if user is not None:
            shutil.chown(self.dir, user)

    def start(self):
        program = built("hvd") if self.user is None else lend(built("hvd"))
        self.proc = spawn([program, "--config", self.conf], self.log,
                          env={"TIDEPOOL_RUN_DIR": self.dir},
                          **as_user(self.user))
        wait_for("hvd's control socket", self._answers, 20)
        return self

    def _answers(self):
        if self.proc.poll() is not None:
            raise Failed(f"hvd ended with {self.proc.returncode}:\n"
                         f"{log_text(self.log)[-2000:]}")
        try:
            return self.call("version")["pid"] == self.proc.pid
        except OSError:
            return False

    def kill(self, sig=signal.SIGKILL):
        self.proc.send_signal(sig)
        if sig == signal.SIGKILL:
            self.proc.wait()

    def call(self, method, **params):
        """One call of docs/control.md."""
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(30)
        try:
            s.connect(self.control_socket)
            s.sendall(json.dumps({"id": 1, "method": method,
                                  "params": params}).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n"):
                got = s.recv(1 << 16)
                if not got:
                    raise ConnectionError("hvd closed the connection")
                data += got
        finally:
            s.close()
        answer = json.loads(data)
        if "error" in answer:
            raise Failed(f"hvd: {method} {params}: {answer['error']}")
        return answer["result"]

    def vm(self, name):
        for vm in self.call("list")["vms"]:
            if vm["name"] == name:
                return vm
        return None

    def mm(self, name):
        vm = self.vm(name)
        check(vm, f"hvd does not list {name}")
        return vm["mm"]

    def share(self):
        """From now on equal pages are looked for, pressure or none."""
        self.call("pressure", state="clear")
        return self

    def frames(self):
        """Frames in use, in all domains."""
        return sum(d["frames"] for d in self.call("domains")["domains"])

    def check(self):
        """Every agent verifies its own structures against the kernel's."""
        answer = self.call("check")
        check(answer["ok"], f"hvd: check: {answer}")

    def domain(self, name):
        for d in self.call("domains")["domains"]:
            if d["name"] == name:
                return d
        return None

    def wait_managed(self, *names, seconds=30):
        for name in names:
            wait_for(f"{name} to be managed",
                     lambda: (self.vm(name) or {}).get("state") == "managed",
                     seconds)


def hv_json(hvd, *words):
    """What the command hv says, through its own socket option."""
    r = subprocess.run([built("hv"), *words, "--json", "--socket",
                        hvd.control_socket], stdout=subprocess.PIPE, text=True,
                       timeout=30)
    check(r.returncode == 0, f"hv {words} ended with {r.returncode}")
    return json.loads(r.stdout)


# ---- the runner -------------------------------------------------------------

def _clean():
    while _cleanups:
        try:
            _cleanups.pop()()
        except OSError as e:
            say("cleanup:", e)


def _interrupted(sig, frame):
    raise KeyboardInterrupt


def _run_one(function):
    """Returns None, or the text of its failure."""
    global work
    base = os.environ.get("TMPDIR", "/tmp")
    work = tempfile.mkdtemp(prefix="tidepool-", dir=base)
    try:
        function()
        return None
    except Failed as e:
        return str(e)
    except Skip:
        raise
    except Exception:
        return traceback.format_exc()
    finally:
        logs = [f for f in os.listdir(work) if f.endswith(".log")]
        _texts.update({f: log_text(f)[-3000:] for f in logs})
        _clean()
        if not os.environ.get("KEEP"):
            shutil.rmtree(work, ignore_errors=True)


_texts = {}


def main(*functions):
    seed = int(os.environ.get("TEST_SEED", "0")) or \
        struct.unpack("<I", os.urandom(4))[0]
    _rng.seed(seed)
    print(f"TEST_SEED={seed}", flush=True)
    signal.signal(signal.SIGTERM, _interrupted)
    only = sys.argv[1:]
    failures = checks = 0
    for function in functions:
        if only and function.__name__ not in only:
            continue
        print(f"{function.__name__}:", (function.__doc__ or "").strip(),
              flush=True)
        checks += 1
        _texts.clear()
        start = time.monotonic()
        try:
            text = _run_one(function)
        except Skip as e:
            print(f"skipped: {e}")
            sys.exit(77)
        except KeyboardInterrupt:
            sys.exit(130)
        if text is not None:
            failures += 1
            for name, log in sorted(_texts.items()):
                print(f"--- end of {name}\n{log.rstrip()}")
            print(f"FAILED {function.__name__}: {text}")
        else:
            say(f"passed in {time.monotonic() - start:.1f} s")
    percent = 100 * (checks - failures) // max(checks, 1)
    print(f"{percent}%: Checks: {checks}, Failures: {failures}, Errors: 0")
    sys.exit(1 if failures or not checks else 0)


def seed():
    return _rng.randrange(1, 1 << 32)
