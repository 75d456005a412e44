/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon as a whole: made in the order in which things need each other, and
 * driven by three timers beside the sockets:
 *
 *   tick   1 s      looks at the host, expires, steers
 *   soon   250 ms   after something changed: steers again, at most 4 times a
 *                   second
 *   flush  3 ms     after messages came: sends what the domains gathered, so
 *                   that grants of one page run go out in one message; 20 ms
 *                   while contents wait for others to offer them
 */
#include "hv/daemon/hvd.h"
#include "hv/base/log.h"
#include "hv/daemon/control.h"
#include "hv/daemon/heap.h"
#include "hv/daemon/host_info.h"
#include "hv/daemon/link.h"
#include "hv/daemon/metrics.h"
#include "hv/daemon/pools.h"
#include "hv/daemon/server.h"
#include "hv/daemon/state.h"
#include "hv/daemon/steer.h"
#include "hv/daemon/trust.h"
#include "hv/daemon/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TICK_US	  1000000
#define SOON_US	  250000
#define FLUSH_US  3000
#define GATHER_US 20000
#define BURST	  4096 /* contents asked for at once */

uint64_t hvd_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* ---- timers ---------------------------------------------------------------
 */

static void timer_arm(sd_event_source *source, uint64_t us)
{
	if (sd_event_source_set_time_relative(source, us) < 0 ||
	    sd_event_source_set_enabled(source, SD_EVENT_ONESHOT) < 0)
		log_error("event loop: a timer cannot be set");
}

static void domains_flush(struct hvd *hvd)
{
	struct trust *trust;

	TAILQ_FOREACH (trust, &hvd->trusts, entry)
		if (trust->domain)
			domain_flush(trust->domain, hvd_now_ns());
}

/* New VMs had some megabytes of contents asked for; all have come. */
static void burst_end(struct hvd *hvd)
{
	struct trust *trust;
	size_t pending = 0;

	TAILQ_FOREACH (trust, &hvd->trusts, entry)
		if (trust->domain)
			pending += domain_pending(trust->domain);
	if (!pending && hvd->burst)
		heap_purge();
	hvd->burst = pending && (hvd->burst || pending >= BURST);
}

static void domains_tick(struct hvd *hvd)
{
	struct trust *trust;

	TAILQ_FOREACH (trust, &hvd->trusts, entry)
		if (trust->domain)
			domain_tick(trust->domain, hvd_now_ns());
}

static int flush_event(sd_event_source *source, uint64_t us, void *arg)
{
	struct hvd *hvd = arg;

	(void)source;
	(void)us;
	hvd->flush_armed = hvd->gather_armed = false;
	domains_flush(hvd);
	burst_end(hvd);
	hvd_flush_soon(hvd); /* what is unfinished still */
	return 0;
}

/* Looks, divides, tells: what grows with the number of VMs. */
static void steer_round(struct hvd *hvd)
{
	uint64_t start = hvd_now_ns();

	steer_look(hvd);
	steer_apply(hvd);
	hvd->round_ns = hvd_now_ns() - start;
}

static int soon_event(sd_event_source *source, uint64_t us, void *arg)
{
	struct hvd *hvd = arg;

	(void)source;
	(void)us;
	hvd->soon_armed = false;
	link_waiting_retry(hvd);
	steer_round(hvd);
	/* Up to a second of shortage, or of a guest kept short for nothing. */
	steer_balloons(hvd);
	return 0;
}

static int tick_event(sd_event_source *source, uint64_t us, void *arg)
{
	struct hvd *hvd = arg;

	(void)us;
	link_waiting_retry(hvd);
	domains_tick(hvd);
	hvd_flush_soon(hvd);
	vm_tick(hvd);
	control_tick(hvd->control);
	metrics_tick(hvd->metrics);
	steer_round(hvd);
	steer_balloons(hvd);
	heap_tick();
	timer_arm(source, TICK_US);
	return 0;
}

void hvd_flush_soon(struct hvd *hvd)
{
	const struct trust *trust;
	bool dirty = false, unfinished = false;

	if (!hvd->event || hvd->stopping || hvd->flush_armed)
		return;
	TAILQ_FOREACH (trust, &hvd->trusts, entry) {
		if (!trust->domain)
			continue;
		dirty |= domain_is_dirty(trust->domain);
		unfinished |= domain_is_unfinished(trust->domain);
	}
	if (!dirty && (!unfinished || hvd->gather_armed))
		return;
	hvd->flush_armed = dirty;
	hvd->gather_armed = true;
	timer_arm(hvd->flush_source, dirty ? FLUSH_US : GATHER_US);
}

void hvd_steer_soon(struct hvd *hvd)
{
	if (!hvd->event || hvd->stopping || hvd->soon_armed)
		return;
	hvd->soon_armed = true;
	timer_arm(hvd->soon_source, SOON_US);
}

static int timer_add(struct hvd *hvd, sd_event_source **source, uint64_t us,
		     uint64_t accuracy_us, sd_event_time_handler_t fn,
		     int enabled)
{
	int rc;

	rc = sd_event_add_time_relative(hvd->event, source, CLOCK_MONOTONIC, us,
					accuracy_us, fn, hvd);
	return rc < 0 ? rc : sd_event_source_set_enabled(*source, enabled);
}

static int timers_create(struct hvd *hvd)
{
	int rc;

	rc = timer_add(hvd, &hvd->tick_source, TICK_US, 10000, tick_event,
		       SD_EVENT_ONESHOT);
	if (rc >= 0)
		rc = timer_add(hvd, &hvd->soon_source, SOON_US, 10000,
			       soon_event, SD_EVENT_OFF);
	if (rc >= 0)
		rc = timer_add(hvd, &hvd->flush_source, FLUSH_US, 1,
			       flush_event, SD_EVENT_OFF);
	return rc < 0 ? rc : 0;
}

/* ---- agents ---------------------------------------------------------------
 */

static int accept_event(sd_event_source *source, int fd, uint32_t events,
			void *arg)
{
	int sock, rc;

	(void)source;
	(void)events;
	sock = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (sock < 0)
		return 0;
	rc = link_accept(arg, sock);
	if (rc)
		log_warn("a connection of an agent was turned down: %s",
			 strerror(-rc));
	return 0;
}

static int agents_listen(struct hvd *hvd)
{
	char path[WIRE_PATH_MAX + 16];
	int rc;

	snprintf(path, sizeof(path), "%s/agent.sock", hvd->config.run_dir);
	rc = server_listen(path, SOCK_SEQPACKET, 0660, hvd->config.group,
			   &hvd->agent_fd);
	if (!rc)
		rc = sd_event_add_io(hvd->event, &hvd->agent_source,
				     hvd->agent_fd, EPOLLIN, accept_event, hvd);
	return rc < 0 ? rc : 0;
}

/* ---- the whole ------------------------------------------------------------
 */

int hvd_create(const struct config *config, struct hvd **out)
{
	struct hvd *hvd = calloc(1, sizeof(*hvd));
	int rc;

	if (!hvd)
		return -ENOMEM;
	rc = host_memory(&hvd->memory_bytes, &hvd->available_bytes);
	if (rc) {
		free(hvd);
		return rc;
	}
	hvd->config = *config;
	hvd->agent_fd = hvd->lock_fd = -1;
	hvd->start_ns = hvd_now_ns();
	TAILQ_INIT(&hvd->vms);
	TAILQ_INIT(&hvd->trusts);
	TAILQ_INIT(&hvd->links);
	pressure_init(&hvd->pressure, &config->pressure);
	*out = hvd;
	return 0;
}

static int failed(int rc, const char *what, const char *where)
{
	log_error("%s %s: %s", what, where, strerror(-rc));
	return rc;
}

int hvd_start(struct hvd *hvd, sd_event *event)
{
	const char *run_dir = hvd->config.run_dir;
	const char *metrics = hvd->config.metrics;
	int rc;

	rc = server_run_dir(run_dir, &hvd->lock_fd);
	if (rc)
		return failed(rc, rc == -EBUSY ? "another hvd runs in" : "no",
			      run_dir);
	hvd->event = event;
	rc = timers_create(hvd);
	if (rc)
		return failed(rc, "event loop", "timers");
	rc = pools_start(hvd);
	if (rc)
		return failed(rc, "shared pools", "have no thread");
	state_load(hvd);
	rc = control_create(hvd, &hvd->control);
	if (rc)
		return failed(rc, "control socket in", run_dir);
	if (metrics[0])
		rc = metrics_create(hvd, metrics, &hvd->metrics);
	if (rc)
		return failed(rc, "metrics at", metrics);
	steer_look(hvd);
	rc = agents_listen(hvd);
	return rc ? failed(rc, "agents' socket in", run_dir) : 0;
}

void hvd_destroy(struct hvd *hvd)
{
	struct vm *vm;

	if (!hvd)
		return;
	hvd->stopping = true;
	link_close_all(hvd);
	while ((vm = TAILQ_FIRST(&hvd->vms)))
		vm_destroy(vm);
	pools_stop(hvd);
	control_destroy(hvd->control);
	metrics_destroy(hvd->metrics);
	sd_event_source_disable_unref(hvd->agent_source);
	sd_event_source_disable_unref(hvd->tick_source);
	sd_event_source_disable_unref(hvd->soon_source);
	sd_event_source_disable_unref(hvd->flush_source);
	if (hvd->agent_fd >= 0)
		close(hvd->agent_fd);
	if (hvd->lock_fd >= 0)
		close(hvd->lock_fd);
	free(hvd);
}
