/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The stream to hvd: lines out, lines in, each with a deadline. */
#ifndef HV_LIBHV_LINK_H
#define HV_LIBHV_LINK_H

#include "hv/base/types.h"

/* A reply lists every VM of a host: a thousand fit several times. */
#define LINK_LINE_MAX ((size_t)16 << 20)

struct hv_link {
	int fd; /* -1: not connected */
	char *buf;
	size_t have; /* bytes in buf */
	size_t used; /* of these, already handed out as a line */
	size_t room;
	void (*tick)(void *arg); /* called while a line is waited for */
	void *tick_arg;
};

#define LINK_TICK_MS 250

/* Milliseconds of the monotonic clock, now + ms. */
uint64_t hv_link_deadline(unsigned ms);

void hv_link_init(struct hv_link *link);
void hv_link_fini(struct hv_link *link);
void hv_link_drop(struct hv_link *link);

/* -ENAMETOOLONG, -ETIMEDOUT or what connect(2) says. */
MUST_CHECK int hv_link_connect(struct hv_link *link, const char *path,
			       uint64_t deadline);

/* Nothing unasked has come and the other end is there. */
bool hv_link_is_quiet(const struct hv_link *link);

/* With the first byte goes fd, unless it is -1; it stays the caller's. */
MUST_CHECK int hv_link_send(struct hv_link *link, const char *data, size_t n,
			    int fd, uint64_t deadline);

/*
 * The next line, without its newline and ended by a 0; valid until the next
 * call. -ETIMEDOUT, -ECONNRESET (ended), -EMSGSIZE (over LINK_LINE_MAX).
 */
MUST_CHECK int hv_link_line(struct hv_link *link, char **line_out,
			    size_t *n_out, uint64_t deadline);

#endif
