/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The balloon of one QEMU guest, through its QMP socket. */
#ifndef HV_DAEMON_BALLOON_H
#define HV_DAEMON_BALLOON_H

#include "hv/daemon/hvd.h"

/* Connects by itself, and again. NULL: no memory. name is copied. */
struct balloon *balloon_create(struct hvd *hvd, const char *name,
			       const char *qmp_path);
/* Deflates first. b may be NULL, here and below. */
void balloon_destroy(struct balloon *b);

/*
 * The guest shall give need_bytes more, as far as keep_bytes stay available in
 * it. Call about once a second; it moves in steps, after fresh statistics.
 */
void balloon_take(struct balloon *b, uint64_t need_bytes, uint64_t keep_bytes);
/* All of it back. */
void balloon_deflate(struct balloon *b);

#endif
