/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's end of the socket to hvd: connecting, a bounded queue of what is
 * to be sent, releases that are never lost, and messages received and checked.
 * It knows the wire, not what the messages mean.
 *
 * All calls come from the worker, except link_release, which any thread makes.
 */
#ifndef HV_AGENT_LINK_H
#define HV_AGENT_LINK_H

#include "hv/base/types.h"
#include "sharing/wire.h"

#define LINK_FDS 3 /* with one message, at most */

struct link;

/* One checked message; msg is good until the next link_receive. */
struct link_message {
	const struct wire_head *msg;
	int fds[LINK_FDS]; /* the caller's to close */
	size_t nfds;
};

MUST_CHECK int link_create(const char *run_dir, struct link **out);
void link_destroy(struct link *ln);

/*
 * Connects and says HELLO; pool_fd, if not -1, goes with it. What was queued
 * before is gone. Releases are refused from now until link_releases_begin.
 */
MUST_CHECK int link_open(struct link *ln, const struct wire_hello *hello,
			 int pool_fd);
void link_close(struct link *ln);
bool link_is_open(const struct link *ln);

/* For poll(2); -1 while closed. */
int link_fd(const struct link *ln);
short link_events(const struct link *ln);

/* A share_send_fn: 0, -EAGAIN (full), -ENOTCONN. arg is the link. */
int link_send(void *arg, const struct wire_head *msg);
bool link_is_full(const struct link *ln);

/* Lifts the queue's bound while HAVE is sent, and sets it again. */
void link_bound_lift(struct link *ln);
void link_bound_set(struct link *ln);

/* No HAVE is needed: releases count from here on; see link.c. */
void link_releases_begin(struct link *ln);

/* A mm_release_fn: n 0 marks the walk for HAVE. [any] */
void link_release(void *arg, const uint32_t *frames, size_t n);

/* Sends what the socket takes. 0, or -errno: the link is to be closed. */
MUST_CHECK int link_flush(struct link *ln);

/* 0 and *out; -EAGAIN: nothing there; else -errno: to be closed. */
MUST_CHECK int link_receive(struct link *ln, struct link_message *out);

#endif
