# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever the job starts or changes, and its undoing in reverse order.

Ctrl-C, SIGTERM and failure all come out as one exception through run.py, whose
`with Life()` then kills exactly the process groups started here, puts sysctls
back and removes what was to be removed. Children are group leaders of their
own, so that the terminal's Ctrl-C reaches this program alone and they are
stopped in order.
"""
import os
import shutil
import signal
import subprocess
import sys
import time

KILLED_SECONDS = 60  # what the kernel may take to free a guest's memory


class Interrupted(Exception):
    pass


class Failed(Exception):
    """The job failed; the message says what to look at."""


class Life:
    def __init__(self, log_dir):
        self.log_dir = log_dir
        self.children = []  # (name, Popen)
        self.trees = []
        self.sysctls = {}
        self.handlers = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.handlers[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for name, _ in reversed(list(self.children)):
            try:
                self.stop(name)
            except Failed as error:
                print(error, file=sys.stderr)
        for path, value in self.sysctls.items():
            _write_if_changed(path, value)
        for tree in self.trees:
            shutil.rmtree(tree, ignore_errors=True)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    @staticmethod
    def _signalled(number, _frame):
        raise Interrupted(signal.Signals(number).name)

    def log_path(self, name):
        return os.path.join(self.log_dir, name + ".log")

    def keep_sysctl(self, path):
        """Puts it back at the end, if somebody changes it meanwhile."""
        try:
            with open(path, encoding="ascii") as file:
                self.sysctls[path] = file.read()
        except OSError:
            pass

    def remove_tree(self, path):
        self.trees.append(path)

    def start(self, name, argv, env=None):
        with open(self.log_path(name), "ab") as log:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **(env or {})}, start_new_session=True)
        self.children.append((name, child))
        return child

    def run(self, name, argv):
        """Runs a tool to its end; its output is ours. Stoppable."""
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL,
                                 start_new_session=True)
        self.children.append((name, child))
        code = child.wait()
        self.children.remove((name, child))
        if code:
            raise Failed(f"{name} ended with code {code}")

    def check(self):
        """All children live, or Failed with the last words of the dead."""
        for name, child in self.children:
            if child.poll() is not None:
                raise Failed(f"{name} ended with code {child.returncode}:\n"
                             + tail(self.log_path(name)))

    def stop(self, name, patience=30):
        """Failed: it is still there, although it was killed."""
        for entry in list(self.children):
            if entry[0] != name:
                continue
            self.children.remove(entry)
            _group_kill(entry[1], signal.SIGTERM)
            ended(entry[1], patience)
            _group_kill(entry[1], signal.SIGKILL)
            if not ended(entry[1], KILLED_SECONDS):
                raise Failed(f"{name} ({entry[1].pid}) was killed and does "
                             "not end: the kernel holds it, dmesg may say why")


def ended(child, seconds):
    """Within so many; it may be asked again."""
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _group_kill(child, number):
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        pass


def _write_if_changed(path, value):
    try:
        with open(path, "r+", encoding="ascii") as file:
            if file.read() != value:
                file.seek(0)
                file.write(value)
    except OSError:
        pass


def tail(path, lines=8):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-lines:])
    except OSError:
        return ""


def wait_until(condition, seconds, life, step=0.2):
    """Whether condition came true in time; all children stay alive."""
    end = time.monotonic() + seconds
    while not condition():
        life.check()
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True
