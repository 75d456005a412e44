# SPDX-License-Identifier: GPL-2.0-or-later
"""summary.json, the targets beside what was reached, and the closing table."""
import json
import os

from .table import grid

MIB = 1 << 20


class Summary:
    def __init__(self):
        self.values = {}
        self.targets = []

    def set(self, **values):
        self.values.update(values)

    def __getitem__(self, key):
        return self.values[key]

    def at_most(self, name, target, reached, unit=""):
        self._target(name, f"<= {target:g}{unit}", reached, unit,
                     reached is not None and reached <= target)

    def at_least(self, name, target, reached, unit=""):
        self._target(name, f">= {target:g}{unit}", reached, unit,
                     reached is not None and reached >= target)

    def _target(self, name, target, reached, unit, ok):
        text = "not measured" if reached is None else f"{reached:.4g}{unit}"
        self.targets.append({"name": name, "target": target,
                             "reached": reached, "text": text, "ok": ok})

    def write(self, path):
        whole = {**self.values, "targets": [
            {k: t[k] for k in ("name", "target", "reached", "ok")}
            for t in self.targets]}
        temporary = path + ".new"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(whole, file, indent=1)
            file.write("\n")
        os.rename(temporary, path)

    def closing(self):
        """The text for people."""
        rows = []
        for name, value in self.values.items():
            if isinstance(value, bool) or not isinstance(
                    value, (int, float, str)):
                continue
            if isinstance(value, float):
                value = f"{value:.4g}"
            elif isinstance(value, int) and (
                    name.endswith("_bytes") or name.startswith("resident_")):
                value = f"{value / MIB:.1f} MiB"
            rows.append((name, value))
        text = grid(rows, ("figure", "value"))
        if self.targets:
            text += "\n\n" + grid(
                [(t["name"], t["target"], t["text"],
                  "ok" if t["ok"] else "MISSED") for t in self.targets],
                ("target", "wanted", "reached", ""))
        return text
