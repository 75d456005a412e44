#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent never makes a VM fail: what is missing costs one line."""

import grp
import pwd

import lib
import share
from lib import Guest, Hvd, check, say, wait_for

NOBODY_GROUP = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
COUNTS = dict(zero=500, common=2000, random=2000)


def one_reason(g):
    lines = wait_for("the agent to say why",
                     lambda: lib.said(g.log, "unmanaged: "), 20)
    lines = [ln for ln in lines if "debug" not in ln]
    check(len(lines) == 1, f"{len(lines)} lines say why:\n" + "\n".join(lines))
    say(lines[0])


def no_hvd():
    """without hvd the guest runs, and one line says why"""
    hvd = Hvd()     # never started
    open(hvd.agent_conf, "w").close()   # with log = debug there are more
    g = Guest("alone", "preload", hvd).ready()
    g.fill(lib.seed(), 1, **COUNTS)
    one_reason(g)
    g.no_mismatch("churn", g.ask("churn", 3000))
    g.verify()
    g.quit()


def hvd_comes_later():
    """an agent that found no hvd goes on looking, and joins it"""
    hvd = Hvd()
    guests = [Guest(f"g{i}", "preload", hvd, "d") for i in range(2)]
    for g in guests:
        g.ready().fill(lib.seed(), 77, **share.COUNTS)
    hvd.start().share()
    hvd.wait_managed("g0", "g1", seconds=60)
    share.wait_merged(hvd, guests)
    for g in guests:
        g.verify()
        g.quit()


def user_without_permission():
    """QEMU and hvd as nobody, no right to userfaultfd: the guest runs on"""
    with open("/proc/sys/vm/unprivileged_userfaultfd") as f:
        if f.read().strip() != "0":
            raise lib.Skip("vm.unprivileged_userfaultfd lets everyone")
    hvd = Hvd(user="nobody").start()
    open(hvd.agent_conf, "w").close()
    g = Guest("nobody", "preload", hvd, user="nobody").ready()
    g.fill(lib.seed(), 1, **COUNTS)
    one_reason(g)
    g.no_mismatch("churn", g.ask("churn", 2000))
    g.verify()
    check((hvd.vm("nobody") or {}).get("state") != "managed",
          "hvd calls it managed")
    g.quit()


def user_helped_by_hvd():
    """QEMU as nobody under a privileged hvd, as libvirt runs it: managed"""
    hvd = Hvd(group=NOBODY_GROUP).start().share()
    guests = [Guest(f"g{i}", "preload", hvd, "d", user="nobody")
              for i in range(2)]
    for g in guests:
        g.ready().fill(lib.seed(), 77, **share.COUNTS)
    hvd.wait_managed("g0", "g1")
    share.wait_merged(hvd, guests)
    for g in guests:
        g.no_mismatch("rewrite", g.ask("rewrite", 300))
        g.verify()
        g.quit()


lib.main(no_hvd, hvd_comes_later, user_without_permission,
         user_helped_by_hvd)
