/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host's end of the line: serves a guest's requests, which lie in memory
 * both can see (guest-drivers/abi/tmem_line.h), from one client of a page
 * store. Of the device that shows the memory to the guest it knows only how to
 * interrupt; see hv/line/ivshmem.h for one.
 *
 * Functions marked [any] may be called by any thread at any time between
 * line_create and line_destroy, the others by one thread at a time.
 */
#ifndef HV_LINE_LINE_H
#define HV_LINE_LINE_H

#include "guest-drivers/abi/tmem_line.h"
#include "hv/base/host.h"
#include "hv/base/types.h"

#define LINE_VECTORS_MAX (LINE_VECTOR_QUEUE + LINE_QUEUES_MAX)

struct channel;
struct line;
struct tmem;
struct tmem_client;

/* What the host wants of the guest's driver; see struct line_host. */
struct line_settings {
	uint64_t swap_pages; /* size of its swap device; 0: none */
	int32_t swap_priority;
	bool ephemeral;		/* cleancache */
	uint64_t balloon_pages; /* the most it may offer */
};

/*
 * Interrupts the guest: its own vector 0 (settings) or 1 + queue. Called by
 * the line's threads, also several at once; may not call the line.
 */
typedef void line_kick_fn(void *arg, unsigned vector);

struct line_config {
	struct tmem *tm;	     /* the caller's; outlives the line */
	const char *name;	     /* of the client in it; copied */
	struct channel *channel;     /* the caller's; NULL: shared pools are
					those of tm */
	const struct host_ops *host; /* clock; NULL: host_real */
	uint32_t queues;	     /* 1 to LINE_QUEUES_MAX; 0: 2 */
	uint32_t entries;	     /* of a queue, a power of two; 0: 256 */
	uint32_t host_peer;	     /* whom the guest is to ring */
	uint64_t poll_ns; /* most a queue's thread looks on; 0: none */

	/* As tmem_client_set. */
	uint32_t weight; /* 0: TMEM_WEIGHT_NORMAL */
	uint64_t cap_bytes;
	uint64_t reserve_bytes;

	struct line_settings settings;
	line_kick_fn *kick;
	void *arg;
};

/* C(name, help): all are counters. */
#define LINE_COUNTS(C)                                                         \
	C(begins, "times a guest began")                                       \
	C(breaks, "times it was found to break the rules")                     \
	C(requests, "requests done")                                           \
	C(puts, "put requests")                                                \
	C(puts_refused, "of them not stored")                                  \
	C(gets, "get requests")                                                \
	C(gets_missed, "of them without a page")                               \
	C(flushes, "flush requests of every kind")                             \
	C(rejects, "requests that made no sense")                              \
	C(stores, "stores of head: batches done")                              \
	C(kicks, "interrupts of the guest")                                    \
	C(rings, "doorbells heard")                                            \
	C(polls, "times polling was worth while")                              \
	C(sleeps, "times a queue's thread slept")

struct line_counts {
#define FIELD(name, help) uint64_t name;
	LINE_COUNTS(FIELD)
#undef FIELD
};

/*
 * Makes the client, the memory (a memfd that cannot shrink, its size the next
 * power of two: what a BAR must be) and one thread, which sleeps until the
 * guest rings. A thread for each queue follows when a guest begins. -EINVAL,
 * -ENOMEM, or what the kernel says.
 */
MUST_CHECK int line_create(const struct line_config *config, struct line **out);

/* The guest is told LINE_CLOSED. Its pages are gone. NULL is allowed. */
void line_destroy(struct line *line);

/* The memory: as a file, which stays the line's, and as mapped here. [any] */
int line_fd(const struct line *line);
void *line_memory(const struct line *line, size_t *bytes_out);

/* Vectors in use: 1 + queues. [any] */
unsigned line_vectors(const struct line *line);

/*
 * The eventfd that a doorbell of the guest's is to write to; the line's. KVM
 * or QEMU may write to it directly. Vector: less than line_vectors. [any]
 */
int line_doorbell_fd(const struct line *line, unsigned vector);

/* The same for a caller that is told of doorbells. Any vector. [any] */
void line_ring(struct line *line, unsigned vector);

/*
 * The device that showed the memory is gone, and the guest with it: as if it
 * had stored epoch 0. The next one may begin. [any]
 */
void line_hang_up(struct line *line);

/* Tells the guest, too. [any] */
void line_settings_set(struct line *line, const struct line_settings *to);
void line_settings_get(struct line *line, struct line_settings *out);

/* The guest's client in the store, for its knobs. [any] */
struct tmem_client *line_client(const struct line *line);

enum line_phase {
	LINE_AWAITED, /* no guest has begun, or it ended */
	LINE_SERVED,
	LINE_REFUSED, /* it broke the rules and has not begun again */
};
enum line_phase line_phase(struct line *line);		      /* [any] */
void line_counts(struct line *line, struct line_counts *out); /* [any] */

/* What the guest says of itself: a copy, none of it to be believed. [any] */
void line_guest_stats(const struct line *line, struct line_stats *out);

#endif
