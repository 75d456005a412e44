# SPDX-License-Identifier: GPL-2.0-or-later
"""hvd's control socket (docs/control.md): one JSON object a line."""
import json

from .qmp import connect


class ControlError(Exception):
    pass


class Control:
    def __init__(self, path, timeout=10):
        self.sock = connect(path, timeout)
        self.sock.settimeout(60)
        self.file = self.sock.makefile("rb")
        self.id = 0

    def call(self, method, **params):
        self.id += 1
        request = {"id": self.id, "method": method, "params": params}
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise ControlError(f"hvd hung up during {method}")
        answer = json.loads(line)
        if "error" in answer:
            raise ControlError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def sample(self):
        return Sample(self.call("list")["vms"], self.call("host"),
                      self.call("domains")["domains"])


class Sample:
    """All of hvd's figures at one moment."""

    def __init__(self, vms, host, domains):
        self.vms = {vm["name"]: vm for vm in vms}
        self.host = host
        self.domains = domains

    def total(self, name):
        return sum(vm["mm"][name] for vm in self.vms.values())

    def worst(self, name):
        return max((vm["mm"][name] for vm in self.vms.values()), default=0)

    def store_bytes(self):
        return self.total("store_bytes")

    def frames(self):
        return sum(d["frames"] for d in self.domains)

    def merged_pages(self):
        """Pages that cost nothing any more: references less frames, zero."""
        saved = sum(d["saved_pages"] for d in self.domains)
        return saved + self.total("zero_pages")

    def our_cpu_seconds(self):
        return (self.total("cpu_ns") + self.host["hvd_cpu_ns"]) / 1e9
