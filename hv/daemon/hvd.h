/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of the daemon know of each other. One thread, one event loop,
 * so there are no locks; whoever frees something takes its event sources along.
 * Pages of shared pools have a thread of their own, behind common.h.
 *
 *   hvd --- vms --------- vm --- link     its agent's socket, NULL while lost
 *       |                   |--- member   its place in a domain
 *       |                   `--- balloon  its QMP socket
 *       `-- trusts --- trust --- domain   (sharing/domain.h)
 */
#ifndef HV_DAEMON_HVD_H
#define HV_DAEMON_HVD_H

#include "hv/daemon/config.h"
#include "hv/daemon/pressure.h"
#include "sharing/domain.h"
#include "sharing/wire.h"

#include <sys/queue.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#define HVD_VERSION "0.1"

struct balloon;
struct common;
struct control;
struct link;
struct metrics;

TAILQ_HEAD(vm_list, vm);
TAILQ_HEAD(trust_list, trust);
TAILQ_HEAD(link_list, link);

struct hvd {
	sd_event *event; /* NULL in tests that only call functions */
	struct config config;
	struct pressure pressure;
	struct vm_list vms;
	struct trust_list trusts;
	struct link_list links; /* not yet said HELLO, or waiting */
	struct control *control;
	struct metrics *metrics;
	struct common *common; /* NULL: no shared pools (tests) */
	uint64_t era;	       /* random: agents know us by it */
	int agent_fd, lock_fd;
	sd_event_source *agent_source, *tick_source, *soon_source;
	sd_event_source *flush_source, *common_source;
	bool flush_armed, gather_armed, soon_armed;
	bool burst;	  /* a burst of contents is under way */
	bool stopping;	  /* what is recorded stays as it is */
	uint32_t vm_last; /* the last id given */
	uint64_t command_last;
	uint64_t start_ns;
	uint64_t memory_bytes, available_bytes; /* of the host, last look */
	uint64_t round_ns;			/* see docs/control.md */
	uint64_t map_count_wanted;
};

/* Everything but sockets. */
MUST_CHECK int hvd_create(const struct config *config, struct hvd **out);
/* Sockets, timers, what an earlier hvd left. */
MUST_CHECK int hvd_start(struct hvd *hvd, sd_event *event);
void hvd_destroy(struct hvd *hvd);

/* Targets may have changed: new ones go out within a quarter of a second. */
void hvd_steer_soon(struct hvd *hvd);
/* A domain has messages gathered: they go out in a few milliseconds. */
void hvd_flush_soon(struct hvd *hvd);

uint64_t hvd_now_ns(void);

#endif
