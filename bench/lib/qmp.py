# SPDX-License-Identifier: GPL-2.0-or-later
"""A QMP client of one function: send a command, wait for its answer."""
import json
import socket
import time


class QmpError(Exception):
    pass


class Qmp:
    def __init__(self, path, timeout=20):
        self.sock = connect(path, timeout)
        self.sock.settimeout(60)
        self.file = self.sock.makefile("rb")
        json.loads(self.file.readline())  # the greeting
        self.run("qmp_capabilities")

    def run(self, command, **arguments):
        request = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        while True:
            line = self.file.readline()
            if not line:
                raise QmpError(f"QEMU hung up during {command}")
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error']['desc']}")

    def close(self):
        self.file.close()
        self.sock.close()


def connect(path, timeout):
    """Connects to a unix socket that may not be there yet."""
    end = time.monotonic() + timeout
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
            return sock
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
