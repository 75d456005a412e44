/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's end of the line to its host's page store (abi/tmem_line.h), for
 * any guest: the Linux module, a unikernel, a test. Freestanding C99 for 64-bit
 * guests: no allocation, no lock, no clock, no libc but memcpy, and no way to
 * ring: where a doorbell is due a function says so, and the caller, who knows
 * the device, rings. So the same lines run inside a kernel and against a host
 * thread in a unit test.
 *
 * A view is the checked shared memory; a tx is one queue in use. A caller's
 * life: line_view_init, line_view_begin, ring vector 0, wait until
 * line_view_begun, line_tx_init for each queue, then requests; line_view_end
 * at last. After a reset, or LINE_EIO from anything, begin again.
 *
 *     head     published        tail          (positions, modulo 2^32)
 *   ---|------------|-------------|---
 *      host's turn   posted only
 *
 *     published - head <= tail - head <= entries
 *
 * The host is not trusted to be sane: what says how large something is was
 * fetched once and checked, a head outside of the above breaks the queue
 * (LINE_EIO from then on), and no address is ever made from what the host
 * writes after that. What a get brings is as good as the host.
 *
 * Locks are the caller's: one for each tx, around what says "lock held". The
 * rest may run at any time, beside those, too.
 *
 * Errors are the numbers of Linux, as results of requests are.
 */
#ifndef MINI_LINE_H
#define MINI_LINE_H

#include "../abi/tmem_line.h"

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdbool.h>
#include <stddef.h>
#endif

#define LINE_EIO    (-5)  /* the host broke the rules, or is gone */
#define LINE_EAGAIN (-11) /* not now */
#define LINE_EPROTO (-71) /* no line of this kind here */

struct line_view {
	unsigned char *base;
	line_u32 queues;
	line_u32 entries;   /* of a queue */
	line_u32 host_peer; /* whom to ring */
	line_u32 features;  /* the host's; in force once begun */
	line_u32 epoch;	    /* ours; 0: not begun */
};

/* What the host wishes of the guest; see struct line_host. */
struct line_wishes {
	line_u32 count; /* grows when something below changed */
	line_s32 swap_priority;
	line_u64 swap_pages;
	line_u64 balloon_pages;
	bool ephemeral;
};

struct line_tx {
	struct line_queue *queue;
	struct line_entry *entries;
	unsigned char *slots;
	line_u8 *kept; /* one byte per entry: the guest is not done with it */
	line_u32 mask; /* entries - 1 */
	line_u32 tail;
	line_u32 published;
	line_u32 head;	  /* as last seen */
	line_u32 wake_at; /* the head somebody sleeps for, if armed */
	bool armed;
	bool broken;
};

/* What line_tx_arm_among found. */
enum line_sleep {
	LINE_SLEEP_NOT = 0,    /* do not: it is done, or LINE_EIO */
	LINE_SLEEP_ARMED = 1,  /* sleep: the interrupt comes */
	LINE_SLEEP_OTHERS = 2, /* wake all sleepers of the queue; ask again */
};

/*
 * mem: all of BAR2, page-aligned, of mem_bytes; stays the caller's. Reads and
 * checks what never changes. LINE_EPROTO: not this protocol, or it lies
 * outside; LINE_EINVAL: mem is not aligned.
 */
int line_view_init(struct line_view *view, void *mem, line_u64 mem_bytes);

/*
 * Starts an epoch: picks one near the hint (anything random) that neither side
 * used last, and says that the guest can do these features. Ring vector 0 then.
 * No tx of an earlier epoch may be used again.
 */
void line_view_begin(struct line_view *view, line_u32 hint, line_u32 features);

/*
 * 0: the line is ready, the features are those in force, all pools of before
 * are gone. LINE_EAGAIN: not yet. LINE_EIO: the host refused. Cheap: poll it,
 * or wait for vector 0.
 */
int line_view_begun(struct line_view *view);

/* 0 while what was begun goes on; LINE_EIO: begin again. Two loads. */
int line_view_alive(const struct line_view *view);

/* The guest needs nothing any more. Ring vector 0 then. */
void line_view_end(struct line_view *view);

/* Are the pools gone? */
bool line_view_ended(const struct line_view *view);

/* After vector 0, and after begun: what changed, if count did. */
void line_view_wishes(const struct line_view *view, struct line_wishes *out);

/* Makes the guest's counters seen; each is stored whole. One caller at a time.
 */
void line_view_stats(const struct line_view *view,
		     const struct line_stats *stats);

/*
 * A queue of a line that has begun. kept: view->entries bytes, which stay the
 * caller's and are cleared. LINE_EINVAL: no such queue; LINE_EIO: the host left
 * it in disorder.
 */
int line_tx_init(struct line_tx *tx, const struct line_view *view,
		 line_u32 queue, line_u8 *kept);

/*
 * Puts a request into the queue, and page (if not NULL: for a put) into its
 * slot; both may be reused at once. The host sees it at the next
 * line_tx_publish. keep: its answer matters, so the entry and its slot stay
 * until line_tx_release; else they are free when the host is done. position_out
 * may be NULL if not kept. LINE_EAGAIN: the queue is full of requests that the
 * host has yet to do (line_tx_half); LINE_EBUSY: the next entry is still kept,
 * whoever keeps it must release it; LINE_EIO. Lock held. Costs copies of 64
 * bytes and of the page; a load of the host's head only when the queue looks
 * full.
 */
int line_tx_post(struct line_tx *tx, const struct line_entry *request,
		 const void *page, bool keep, line_u32 *position_out);

/*
 * Lets the host see what was posted. True: ring vector 1 + queue (outside of
 * the lock, if you like). Lock held. One locked instruction and a load; so post
 * in batches.
 */
bool line_tx_publish(struct line_tx *tx);

/*
 * Is a published request done? 1: yes; 0: not yet; LINE_EIO: it never will be.
 * Of a request that is kept, or was posted no more than entries ago. No lock.
 * One load.
 */
int line_tx_done(const struct line_tx *tx, line_u32 position);

/* The answer of a kept request that is done. No lock. */
line_s32 line_tx_result(const struct line_tx *tx, line_u32 position);

/* The page of a kept request; copy it before release. No lock. */
void *line_tx_slot(const struct line_tx *tx, line_u32 position);

/* Of a kept request that is done, once. No lock. */
void line_tx_release(struct line_tx *tx, line_u32 position);

/*
 * Asks for an interrupt when a published request is done. True: it comes, so
 * sleep; false: the request is done (or LINE_EIO). Each call takes back what
 * the one before asked for: for a caller with one reaper, who takes all answers
 * there are and arms for the oldest one awaited. Sleep for a bounded time all
 * the same, and look at line_view_alive: hosts go away. Lock held. One locked
 * instruction and a load.
 */
bool line_tx_arm(struct line_tx *tx, line_u32 position);

/*
 * The same where several sleep on one queue, each for a request of its own. The
 * host is asked to interrupt for the earliest; who takes the interrupt wakes
 * all sleepers of the queue, and each that is not done arms again. Be one whom
 * that wakes before arming. LINE_SLEEP_OTHERS is never the last word: ask
 * again. Lock held.
 */
enum line_sleep line_tx_arm_among(struct line_tx *tx, line_u32 position);

/*
 * The published request whose end leaves half of the queue free of the host's
 * work: what to sleep for when it is full. Lock held.
 */
line_u32 line_tx_half(const struct line_tx *tx);

/* Has the host done all that was published? 1, 0 or LINE_EIO. Lock held. */
int line_tx_drained(struct line_tx *tx);

#endif
