/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The stream to hvd: lines out, lines in, each with a deadline. */
#ifndef HV_LIBHV_LINK_H
#define HV_LIBHV_LINK_H

#include "hv/base/types.h"

/* A reply lists every VM of a host: a thousand fit several times. */
#define LINK_LINE_MAX ((size_t)16 << 20)

struct link {
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
uint64_t link_deadline(unsigned ms);

void link_init(struct link *link);
void link_fini(struct link *link);
void link_drop(struct link *link);

/* -ENAMETOOLONG, -ETIMEDOUT or what connect(2) says. */
MUST_CHECK int link_connect(struct link *link, const char *path,
			    uint64_t deadline);

/* Nothing unasked has come and the other end is there. */
bool link_is_quiet(const struct link *link);

/* With the first byte goes fd, unless it is -1; it stays the caller's. */
MUST_CHECK int link_send(struct link *link, const char *data, size_t n, int fd,
			 uint64_t deadline);

/*
 * The next line, without its newline and ended by a 0; valid until the next
 * call. -ETIMEDOUT, -ECONNRESET (ended), -EMSGSIZE (over LINK_LINE_MAX).
 */
MUST_CHECK int link_line(struct link *link, char **line_out, size_t *n_out,
			 uint64_t deadline);

#endif
