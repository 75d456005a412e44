/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One queue of a line and the thread that serves it, for the files of this
 * folder only. See queue.c.
 */
#ifndef HV_LINE_QUEUE_H
#define HV_LINE_QUEUE_H

#include "hv/line/line.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

/* What the threads of one line share, and none of it changes. */
struct queue_world {
	struct tmem_client *client;
	struct channel *channel; /* to hvd's shared pools; NULL: none */
	const struct host_ops *host;
	uint32_t entries;
	uint64_t poll_ns;
	line_kick_fn *kick;
	void *kick_arg;
	/* The guest broke the rules on a queue, which is no longer live. */
	void (*broken)(void *arg);
	void *arg;
};

struct queue {
	const struct queue_world *world;
	unsigned vector;
	int doorbell;

	/* In the guest's memory. */
	struct line_queue *ring;
	struct line_entry *entry;
	uint8_t *slot;

	pthread_t thread;
	bool running;
	_Atomic bool stopping;
	uint64_t window_ns; /* the thread's: how long it looks on, now */

	pthread_mutex_t lock;	   /* held while requests are done */
	_Atomic unsigned visitors; /* others who want the lock: they go first */
	bool live;		   /* lock; else nothing is read or written */
	_Atomic uint32_t head;
	struct line_counts count; /* lock */
};

/*
 * A copy of what the guest can change, whole words of it. Atomic: the compiler
 * may not look again.
 */
static inline void guest_words_fetch(void *to, const void *from, size_t bytes)
{
	const uint64_t *word = from;

	for (size_t i = 0; i < bytes / sizeof(*word); i++) {
		uint64_t copy = __atomic_load_n(&word[i], __ATOMIC_RELAXED);

		memcpy((uint8_t *)to + i * sizeof(copy), &copy, sizeof(copy));
	}
}

/* at: where the queue begins in memory. */
void queue_init(struct queue *q, const struct queue_world *world, unsigned n,
		uint8_t *at, int doorbell);
void queue_fini(struct queue *q);

/* One thread, once. */
MUST_CHECK int queue_start(struct queue *q);
void queue_stop(struct queue *q);

/* When this returns no request is under way, and none is done until resumed. */
void queue_pause(struct queue *q);

/* From the beginning: the ring is all zeros. */
void queue_resume(struct queue *q);

/* Adds. */
void queue_counts(struct queue *q, struct line_counts *sum);

#endif
