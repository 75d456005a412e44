# SPDX-License-Identifier: GPL-2.0-or-later
"""The live table: redrawn in place on a terminal, a line at a time else."""
import sys
import time

MIB = 1 << 20
PAGE = 4096
BAR = (("private", "private_pages", "#", 31),
       ("held", "held_pages", "h", 35),
       ("shared", "shared_pages", "=", 32),
       ("zero", "zero_pages", "0", 90),
       ("compressed", "compressed_pages", "c", 33),
       ("swapped", "swapped_pages", "s", 36),
       ("absent", "absent_pages", ".", 37))
WIDTH = 40


def mib(pages):
    return pages * PAGE // MIB


def colour(text, code, on):
    return f"\033[{code}m{text}\033[0m" if on and text else text


def bar(mm, on):
    """One cell for every 1/WIDTH of guest RAM; the cells always add up."""
    total = max(1, mm["ram_pages"])
    out, seen, drawn = "", 0, 0
    for _, field, sign, code in BAR:
        seen += mm[field]
        cells = round(WIDTH * seen / total) - drawn
        out += colour(sign * cells, code, on)
        drawn += cells
    return out


class Table:
    def __init__(self, stream=sys.stdout, every=5):
        self.stream = stream
        self.tty = stream.isatty()
        self.every = every   # seconds between lines where it is no terminal
        self.drawn = 0
        self.last = 0.0

    def note(self, text):
        self.clear()
        print(text, file=self.stream, flush=True)

    def status(self, text):
        """One line that the next one replaces."""
        if self.tty:
            self._redraw([text])
        elif time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            print(text, file=self.stream, flush=True)

    def show(self, phase, second, sample, rates):
        if self.tty:
            self._redraw(self._lines(phase, second, sample, rates))
        elif time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            mm = sample.total
            print(f"{phase} {second:3.0f} s: private {mib(mm('private_pages'))}"
                  f" shared {mib(mm('shared_pages'))}"
                  f" on frames {mib(sample.frames())}"
                  f" zero {mib(mm('zero_pages'))}"
                  f" compressed {mib(mm('compressed_pages'))}"
                  f" in {sample.store_bytes() // MIB}"
                  f" swapped {mib(mm('swapped_pages'))} MiB,"
                  f" {sample.our_cpu_seconds():.1f} CPU s",
                  file=self.stream, flush=True)

    def _lines(self, phase, second, sample, rates):
        head = f"{phase}, {second:.0f} s   pressure " \
               f"{sample.host['pressure']}   " \
               f"our CPU {sample.our_cpu_seconds():.1f} s"
        names = "".join(f"{name:>11}" for name, *_ in BAR)
        lines = [colour(head, 1, True), f"{'MiB':10}{names}  rounds/min"]
        for name, vm in sorted(sample.vms.items()):
            mm = vm["mm"]
            values = "".join(colour(f"{mib(mm[field]):11}", code, True)
                             for _, field, _, code in BAR)
            rate = rates.get(name)
            lines.append(f"{name:10}{values}"
                         f"{'-' if rate is None else f'{rate:.1f}':>12}")
            lines.append(f"{'':10}{bar(mm, True)}")
        frames = mib(sample.frames())
        shared = mib(sample.total("shared_pages"))
        lines.append(f"host: {shared} MiB shared on {frames} MiB of frames, "
                     f"store {sample.store_bytes() // MIB} MiB, "
                     f"available {sample.host['available_bytes'] // MIB} MiB")
        return lines

    def _redraw(self, lines):
        self.clear()
        self.stream.write("\n".join(lines) + "\n")
        self.stream.flush()
        self.drawn = len(lines)

    def clear(self):
        if self.drawn:
            self.stream.write(f"\033[{self.drawn}A\033[J")
            self.stream.flush()
            self.drawn = 0


def grid(rows, head):
    """Rows of text under a head, columns as wide as they need to be."""
    rows = [head] + [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths))) for row in rows)
