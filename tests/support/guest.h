/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest at the other end of a line, played by threads of the test: the
 * guest's own core (guest-drivers/mini) with locks and sleeps around it, as a
 * driver has them. Everything fails the running check by itself; a sleep that
 * takes 20 s is a lost wake-up.
 */
#ifndef TESTS_SUPPORT_GUEST_H
#define TESTS_SUPPORT_GUEST_H

#include "guest-drivers/mini/line.h"
#include "hv/line/line.h"
#include "tmem/tmem.h"

#include <pthread.h>

struct guest_queue {
	struct line_tx tx;
	pthread_mutex_t lock;
	pthread_cond_t woken;
	uint8_t kept[LINE_ENTRIES_MAX];
	_Atomic uint64_t kicks;
};

struct guest {
	struct line *line;
	struct line_view view;
	struct guest_queue queue[LINE_QUEUES_MAX];
	pthread_mutex_t lock; /* told waits with it */
	pthread_cond_t told;
	_Atomic uint64_t told_count; /* of vector 0 */
	int bell[LINE_VECTORS_MAX];  /* its own descriptors, as a VMM has */
	void *apart;		     /* its own mapping; NULL: the host's */
	size_t apart_bytes;
	unsigned looks; /* at an answer, before it sleeps */
};

/* A line with a store of the caller's and a guest that has yet to begin. */
void guest_open(struct guest *g, const struct line_config *config);
/*
 * The same with a mapping of its own, as a guest in another process has, which
 * outlives the line. (Sanitizers do not know that both are the same memory.)
 */
void guest_open_apart(struct guest *g, const struct line_config *config);
/* The guest dies, the line goes. */
void guest_close(struct guest *g);
/* The line goes, and the guest, which must be apart, finds out. */
void guest_orphan(struct guest *g);

/* A new epoch; waits until the host is ready. */
void guest_begin(struct guest *g);
/* The same in parts. */
void guest_begin_ask(struct guest *g);
void guest_begin_wait(struct guest *g);
/* Ends it; waits until the pools are gone. */
void guest_end(struct guest *g);

/*
 * Any thread: posts, waits, and returns the result; page is what is put or
 * where to get to, or NULL. LINE_EIO: the line went meanwhile.
 */
int guest_call(struct guest *g, unsigned queue, const struct line_entry *entry,
	       void *page);

/* Posts without asking for an answer; waits for room. 0 or LINE_EIO. */
int guest_post(struct guest *g, unsigned queue, const struct line_entry *entry,
	       const void *page);
/* Waits until all that was posted is done. 0 or LINE_EIO. */
int guest_drain(struct guest *g, unsigned queue);

/* Requests. Object n is {n, ~n, 1}. */
struct line_entry guest_entry(enum line_op op, int pool, uint64_t object,
			      uint32_t index);

/* By queue 0. */
int guest_pool(struct guest *g, uint32_t flags);
int guest_put(struct guest *g, int pool, uint64_t object, uint32_t index,
	      const void *page);
int guest_get(struct guest *g, int pool, uint64_t object, uint32_t index,
	      void *page);
int guest_flush(struct guest *g, int pool, uint64_t object, uint32_t index);

#endif
