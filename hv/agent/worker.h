/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The agent's one thread: see worker.c. */
#ifndef HV_AGENT_WORKER_H
#define HV_AGENT_WORKER_H

#include "hv/agent/config.h"

struct worker;

/* Starts the thread. It lives as long as the process. 0 or -errno. */
MUST_CHECK int worker_start(const struct config *config, struct worker **out);

/* [any] */
void worker_wake(struct worker *w);

/* In a forked child: the descriptors are the parent's. */
void worker_child_drop(struct worker *w);

#endif
