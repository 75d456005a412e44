#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""hvd as a service of a Debian 12 with systemd, as `make install` leaves it:
what the unit forbids it does not need. VMs are stood for by bench/replay.c.
"""

import json
import os

import lib
from lib import check, say, wait_for
from lib_debian import Debian, install, root_copy

PAGES = 16384
INSTALL = f"""
BUILD={lib.BUILD}
make -s install BUILD=$BUILD DESTDIR=$root &&
cp $BUILD/bench/replay $root/usr/local/bin &&
for file in hvd hv libhvagent.so bench/replay; do ldd $BUILD/$file; done |
	grep -o ' /[^ ]*' | sort -u | while read -r file; do
		[ -e $root$file ] || cp -L $file $root$file || exit 1
	done &&
chroot $root ldconfig && chroot $root systemctl enable hvd
"""


def vm_start(m, name, number):
    m.run(f"systemd-run -q --unit=vm-{name} -E TIDEPOOL_NAME={name} "
          "-E TIDEPOOL_DOMAIN=desks "
          "-E LD_PRELOAD=/usr/local/lib/tidepool/libhvagent.so "
          f"sh -c '(echo announce; sleep 1000) | replay --pages {PAGES} "
          f"--guest {number} --guests 2 --dup 900'")


def vms(m):
    """{name: what hvd says of it}; empty while hvd does not answer."""
    status, text = m.shell.ask("hv list --json")
    if status != 0:
        return {}
    return {vm["name"]: vm for vm in json.loads(text)["vms"]}


def both_share(m):
    found = vms(m)
    return len(found) == 2 and all(
        vm["mm"]["shared_pages"] > PAGES // 4 for vm in found.values())


def service_runs_under_its_unit():
    """enabled, up at boot, killed, stopped; what it is asked for it does"""
    folder = os.path.join(lib.work, "p")
    os.mkdir(folder)
    root = root_copy()
    install(root, folder, INSTALL)
    m = Debian("host", root)
    check(m.run("systemctl is-active hvd") == "active", "hvd is not up")
    for number, name in enumerate("ab"):
        vm_start(m, name, number)
    wait_for("both VMs to share", lambda: both_share(m), 90)
    say({name: vm["mm"]["shared_pages"] for name, vm in vms(m).items()})
    found = int(m.run("cat /proc/sys/vm/max_map_count"))
    check(found >= 65530 + PAGES, f"vm.max_map_count is {found}")

    m.run("systemctl kill -s KILL hvd")
    wait_for("systemd to start it again", lambda: both_share(m), 60)
    check(m.run("systemctl show -P NRestarts hvd") == "1", "it came back else")

    m.run("systemctl stop hvd")
    check(not vms(m), "it answers though it is stopped")
    check(m.run("systemctl is-active vm-a vm-b").split() == ["active"] * 2,
          "a VM ended with hvd")
    m.run("systemctl start hvd")
    wait_for("the VMs to come back", lambda: both_share(m), 60)
    text = m.run("journalctl -u hvd -o cat")
    check(text.count("ready in /run/tidepool") == 3, f"the journal: {text}")
    m.power_off()


lib.main(service_runs_under_its_unit)
