/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pools that VMs of one trust domain share: which VM may join which, its
 * connection to its domain's common store (common.h), and what is lent to it
 * there. See pools.c.
 */
#ifndef HV_DAEMON_POOLS_H
#define HV_DAEMON_POOLS_H

#include "hv/daemon/command.h"
#include "hv/daemon/common.h"
#include "hv/daemon/hvd.h"

struct trust;
struct vm;

MUST_CHECK int pools_start(struct hvd *hvd);
void pools_stop(struct hvd *hvd);

/*
 * The VM's agent is about to be welcomed. *fd_out: its end of the channel, the
 * caller's, or -1: it has to do without.
 */
void pools_connect(struct vm *vm, int *fd_out);
/* Its agent is gone, and so are the pages its guest put. */
void pools_disconnect(struct vm *vm);
/* Of a group whose last VM went. */
void pools_trust_gone(struct trust *trust);

/* Reads the figures of all, which the daemon then goes by. */
void pools_look(struct hvd *hvd);
/* Tells what of lend.c's division is left for shared pools. */
void pools_lend(struct hvd *hvd);

/* By the recorded state, or by hand. -ENOSPC: as many as can be. */
MUST_CHECK int pools_auth_set(struct vm *vm, const uint8_t uuid[16], bool on);
/* What its agent says of the guest's own client holds here, too. */
void pools_tune(struct vm *vm);
/* And what was set by hand. */
void pools_compress(struct vm *vm);

/*
 * Adds to what a call waits for. What the job has no VM or connection for is
 * answered at once: 0, nothing done.
 */
void pools_ask(struct command_set *set, struct vm *vm, struct common_job *job);

/* Of all stores together. */
struct common_store_stats pools_sum(const struct hvd *hvd);

#endif
