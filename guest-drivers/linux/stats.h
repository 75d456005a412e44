/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The module's counters: per processor, so that counting costs nothing, summed
 * for debugfs and, every few seconds while any changed, for the host.
 */
#ifndef TIDEPOOL_STATS_H
#define TIDEPOOL_STATS_H

#include <linux/ktime.h>
#include <linux/percpu.h>
#include <linux/types.h>

enum tm_counter {
	TM_SWAP_WRITES,
	TM_SWAP_READS,
	TM_SWAP_REFUSED, /* puts the host refused: no memory, frozen */
	TM_SWAP_ERRORS,	 /* pages failed for another reason */
	TM_SWAP_LOST,	 /* reads of pages that went with an earlier line */
	TM_SWAP_FREED,	 /* pages flushed since their slot became free */
	TM_CACHE_PUTS,
	TM_CACHE_DROPPED, /* the ring was full */
	TM_CACHE_HITS,
	TM_CACHE_MISSES,
	TM_CACHE_FLUSHES,
	TM_WAIT_NS, /* of reads and calls, for their answers */
	TM_KICKS,   /* doorbells rung */
	TM_INTERRUPTS,
	TM_RING_FULL,	/* requests that had to wait for room */
	TM_LINE_BROKEN, /* times the line went down by itself */
	TM_COUNTERS,
};

DECLARE_PER_CPU(u64[TM_COUNTERS], tm_counters);

static inline void tm_count_many(enum tm_counter which, u64 n)
{
	this_cpu_add(tm_counters[which], n);
}

static inline void tm_count(enum tm_counter which)
{
	tm_count_many(which, 1);
}

/* Somebody waited for the host from then on (ktime_get_ns) until now. */
static inline void tm_count_wait(u64 since)
{
	tm_count_many(TM_WAIT_NS, ktime_get_ns() - since);
}

/* Sum over all processors. */
u64 tm_counter_read(enum tm_counter which);

/*
 * /sys/kernel/debug/tidepool_tmem: a part adds files of its own. NULL or an
 * error pointer is fine to pass on: debugfs ignores it.
 */
struct dentry;
extern struct dentry *tm_debugfs;

/* Something changed: the host is to hear of it within a few seconds. */
void tm_stats_wake(void);
/* At once. */
void tm_stats_now(void);

int tm_stats_init(void);
void tm_stats_exit(void);

#endif
