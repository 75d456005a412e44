/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Prometheus metrics by HTTP, on loopback or a unix socket. */
#ifndef HV_DAEMON_METRICS_H
#define HV_DAEMON_METRICS_H

#include "hv/daemon/hvd.h"

struct metrics;

/* where: a path, or 127.0.0.1:PORT. */
MUST_CHECK int metrics_create(struct hvd *hvd, const char *where,
			      struct metrics **out);
void metrics_destroy(struct metrics *metrics);
void metrics_tick(struct metrics *metrics);

/* The page; for free(). NULL: no memory. */
char *metrics_text(const struct hvd *hvd);

#endif
