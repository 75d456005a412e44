/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One page, made when it is asked for, from the same lists as everything else:
 * tidepool_vm_* with vm and domain, tidepool_domain_* with domain, and
 * tidepool_host_*. Counters end in _total.
 *
 * libmicrohttpd does HTTP; it runs on our event loop through its own epoll
 * descriptor, so there is no thread and no lock.
 */
#include "hv/daemon/metrics.h"
#include "hv/base/log.h"
#include "hv/daemon/host_info.h"
#include "hv/daemon/pools.h"
#include "hv/daemon/server.h"
#include "hv/daemon/steer.h"
#include "hv/daemon/trust.h"
#include "hv/daemon/vm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONNECTIONS_MAX 16
#define SILENCE_SECONDS 10

struct metrics {
	struct hvd *hvd;
	struct MHD_Daemon *daemon;
	sd_event_source *source;
};

struct field {
	const char *name, *help;
	size_t offset;
	bool counter;
};

#define MM_G(name, unit, help)                                                 \
	{#name, help ", " #unit, offsetof(struct mm_stats, name), false},
#define MM_C(name, unit, help)                                                 \
	{#name, help ", " #unit, offsetof(struct mm_stats, name), true},
#define TM_G(name, unit, help)                                                 \
	{"tmem_" #name, help ", " #unit, offsetof(struct tmem_stats, name),    \
	 false},
#define TM_C(name, unit, help)                                                 \
	{"tmem_" #name, help ", " #unit, offsetof(struct tmem_stats, name),    \
	 true},
#define GU_G(name, unit, help)                                                 \
	{"guest_" #name, help ", " #unit, offsetof(struct guest_stats, name),  \
	 false},
#define GU_C(name, unit, help)                                                 \
	{"guest_" #name, help ", " #unit, offsetof(struct guest_stats, name),  \
	 true},
#define DM_G(name, unit, help)                                                 \
	{#name, help ", " #unit, offsetof(struct domain_stats, name), false},
#define DM_C(name, unit, help)                                                 \
	{#name, help ", " #unit, offsetof(struct domain_stats, name), true},

static const struct field mm_field[] = {MM_STATS(MM_G, MM_C)};
static const struct field tmem_field[] = {TMEM_STATS(TM_G, TM_C)};
static const struct field guest_field[] = {GUEST_STATS(GU_G, GU_C)};
static const struct field domain_field[] = {DOMAIN_STATS(DM_G, DM_C)};

static uint64_t field_value(const void *stats, const struct field *f)
{
	uint64_t n;

	memcpy(&n, (const char *)stats + f->offset, sizeof(n));
	return n;
}

static void head_print(FILE *out, const char *of, const struct field *f)
{
	const char *total = f->counter ? "_total" : "";

	fprintf(out, "# HELP tidepool_%s_%s%s %s\n# TYPE tidepool_%s_%s%s %s\n",
		of, f->name, total, f->help, of, f->name, total,
		f->counter ? "counter" : "gauge");
}

static void vm_line(FILE *out, const struct vm *vm, const struct field *f,
		    const void *stats)
{
	fprintf(out, "tidepool_vm_%s%s{vm=\"%s\",domain=\"%s\"} %" PRIu64 "\n",
		f->name, f->counter ? "_total" : "", vm->name, vm->trust->name,
		field_value(stats, f));
}

static void vms_print(FILE *out, const struct hvd *hvd)
{
	const struct vm *vm;
	size_t i;

	for (i = 0; i < ARRAY_LEN(mm_field); i++) {
		head_print(out, "vm", &mm_field[i]);
		TAILQ_FOREACH (vm, &hvd->vms, entry)
			vm_line(out, vm, &mm_field[i], &vm->stats.mm);
	}
	for (i = 0; i < ARRAY_LEN(tmem_field); i++) {
		head_print(out, "vm", &tmem_field[i]);
		TAILQ_FOREACH (vm, &hvd->vms, entry)
			vm_line(out, vm, &tmem_field[i], &vm->stats.tmem);
	}
	for (i = 0; i < ARRAY_LEN(guest_field); i++) {
		head_print(out, "vm", &guest_field[i]);
		TAILQ_FOREACH (vm, &hvd->vms, entry)
			vm_line(out, vm, &guest_field[i], &vm->stats.guest);
	}
}

static void domains_print(FILE *out, const struct hvd *hvd)
{
	const struct trust *trust;
	struct domain_stats ds;
	size_t i;

	for (i = 0; i < ARRAY_LEN(domain_field); i++) {
		head_print(out, "domain", &domain_field[i]);
		TAILQ_FOREACH (trust, &hvd->trusts, entry) {
			if (!trust->domain)
				continue;
			domain_stats(trust->domain, &ds);
			fprintf(out,
				"tidepool_domain_%s%s{domain=\"%s\"} %" PRIu64
				"\n",
				domain_field[i].name,
				domain_field[i].counter ? "_total" : "",
				trust->name,
				field_value(&ds, &domain_field[i]));
		}
	}
}

static void host_line(FILE *out, const char *name, bool counter,
		      const char *help, uint64_t value)
{
	const struct field f = {.name = name, .help = help, .counter = counter};

	head_print(out, "host", &f);
	fprintf(out, "tidepool_host_%s%s %" PRIu64 "\n", name,
		counter ? "_total" : "", value);
}

static void host_print(FILE *out, const struct hvd *hvd)
{
	enum { GAUGE, COUNTER };

	host_line(out, "memory_bytes", GAUGE, "memory of the host, bytes",
		  hvd->memory_bytes);
	host_line(out, "available_bytes", GAUGE, "of it available, bytes",
		  hvd->available_bytes);
	host_line(out, "budget_bytes", GAUGE, "budget; 0: the host, bytes",
		  hvd->config.budget_bytes);
	host_line(out, "pressure", GAUGE,
		  "0 high, 1 clear, 2 soft, 3 hard, "
		  "4 low",
		  pressure_now(&hvd->pressure));
	host_line(out, "pool_bytes", GAUGE, "all frame pools, bytes",
		  steer_pool_bytes(hvd));
	host_line(out, "common_bytes", GAUGE,
		  "all common stores of shared pools, bytes",
		  pools_sum(hvd).tmem.used_bytes);
	host_line(out, "metadata_bytes", GAUGE,
		  "tables of hvd and agents, "
		  "bytes",
		  steer_metadata_bytes(hvd));
	host_line(out, "cow_reserve_bytes", GAUGE,
		  "kept free for copy-on-write breaks, bytes",
		  steer_cow_reserve_bytes(hvd));
	host_line(out, "hvd_cpu_ns", COUNTER, "CPU time of hvd, ns",
		  host_cpu_ns());
	host_line(out, "round_ns", GAUGE,
		  "last look at the host and division of its memory, ns",
		  hvd->round_ns);
}

char *metrics_text(const struct hvd *hvd)
{
	char *text = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&text, &n);
	bool bad;

	if (!out)
		return NULL;
	host_print(out, hvd);
	domains_print(out, hvd);
	vms_print(out, hvd);
	bad = ferror(out);
	if (fclose(out) || bad) {
		free(text);
		return NULL;
	}
	return text;
}

/* ---- HTTP -----------------------------------------------------------------
 */

static enum MHD_Result page_answer(struct MHD_Connection *conn, unsigned code,
				   char *text)
{
	struct MHD_Response *response;
	enum MHD_Result r;

	response = MHD_create_response_from_buffer(strlen(text), text,
						   MHD_RESPMEM_MUST_FREE);
	if (!response) {
		free(text);
		return MHD_NO;
	}
	MHD_add_response_header(response, "Content-Type",
				"text/plain; version=0.0.4; charset=utf-8");
	r = MHD_queue_response(conn, code, response);
	MHD_destroy_response(response);
	return r;
}

static enum MHD_Result request_take(void *arg, struct MHD_Connection *conn,
				    const char *url, const char *method,
				    const char *version, const char *data,
				    size_t *data_bytes, void **state)
{
	const struct metrics *metrics = arg;
	char *text;

	(void)version;
	(void)data;
	(void)state;
	/* A body is nothing we want to read. */
	if (*data_bytes || strcmp(method, "GET") != 0)
		return MHD_NO;
	if (strcmp(url, "/metrics") != 0) {
		text = strdup("see /metrics\n");
		return text ? page_answer(conn, MHD_HTTP_NOT_FOUND, text)
			    : MHD_NO;
	}
	text = metrics_text(metrics->hvd);
	return text ? page_answer(conn, MHD_HTTP_OK, text) : MHD_NO;
}

static int loopback_listen(const char *where, int *fd_out)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const char *port = strrchr(where, ':');
	int fd, rc, one = 1;

	if (!port)
		return -EINVAL;
	addr.sin_port = htons((uint16_t)strtoul(port + 1, NULL, 10));
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ||
	    listen(fd, CONNECTIONS_MAX)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	*fd_out = fd;
	return 0;
}

static int http_event(sd_event_source *source, int fd, uint32_t events,
		      void *arg)
{
	struct metrics *metrics = arg;

	(void)source;
	(void)fd;
	(void)events;
	metrics_tick(metrics);
	return 0;
}

static int http_watch(struct metrics *metrics)
{
	const union MHD_DaemonInfo *info;

	info = MHD_get_daemon_info(metrics->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	if (!info)
		return -EIO;
	return sd_event_add_io(metrics->hvd->event, &metrics->source,
			       info->epoll_fd, EPOLLIN, http_event, metrics);
}

int metrics_create(struct hvd *hvd, const char *where, struct metrics **out)
{
	struct metrics *metrics = calloc(1, sizeof(*metrics));
	int fd, rc;

	if (!metrics)
		return -ENOMEM;
	metrics->hvd = hvd;
	rc = where[0] == '/' ? server_listen(where, SOCK_STREAM, 0660,
					     hvd->config.group, &fd)
			     : loopback_listen(where, &fd);
	if (rc) {
		free(metrics);
		return rc;
	}
	metrics->daemon = MHD_start_daemon(
		MHD_USE_EPOLL, 0, NULL, NULL, request_take, metrics,
		MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
		(unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned)SILENCE_SECONDS, MHD_OPTION_END);
	if (!metrics->daemon)
		close(fd);
	rc = metrics->daemon ? http_watch(metrics) : -EIO;
	if (rc < 0) {
		metrics_destroy(metrics);
		return rc;
	}
	*out = metrics;
	return 0;
}

void metrics_destroy(struct metrics *metrics)
{
	if (!metrics)
		return;
	sd_event_source_disable_unref(metrics->source);
	if (metrics->daemon)
		MHD_stop_daemon(metrics->daemon);
	free(metrics);
}

void metrics_tick(struct metrics *metrics)
{
	if (metrics && MHD_run(metrics->daemon) != MHD_YES)
		log_debug("metrics: libmicrohttpd is not well");
}
