/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One queue of the line: mini's ring core with a lock, with the requests that
 * wait for answers, and with the two ways to hear of them: looking, and the
 * interrupt's tasklet.
 *
 *      reaped         head       published      tail        (positions)
 *   -----|--------------|------------|------------|------
 *        done, unseen     host's turn  posted only
 *
 *     reaped - tail never more than entries apart
 *
 * asked[] says who waits for an entry's answer; nobody waits for a post that
 * may be dropped. Requests that found the ring full are in waiting, in order,
 * and nothing passes them. Requests whose answer is known are in done until
 * their callback has run, outside of the lock.
 */
#ifndef TIDEPOOL_QUEUE_H
#define TIDEPOOL_QUEUE_H

#include <linux/interrupt.h>
#include <linux/list.h>
#include <linux/spinlock.h>

#include "../mini/line.h"
#include "line.h"

struct queue {
	spinlock_t lock;
	unsigned int number;
	u32 epoch; /* 0: down, and the ring may not be touched */
	struct line_tx tx;
	void __iomem *doorbell;
	u32 bell; /* what to write there */
	struct tm_request **asked;
	u8 *kept;
	u32 reaped;
	unsigned int awaited; /* how many are asked */
	struct list_head waiting;
	struct list_head done;
	struct tasklet_struct tasklet;

	/* What was published when the doorbell was last rung. */
	bool rung;
	u32 rung_for;

	/* The watch's: where head was when it last looked, and for how long. */
	u32 watched;
	unsigned int stuck;

	u32 answer_ns; /* how long answers take lately, looked for */
	u32 polls;
};

/* Once, for the module's life: the lock works from here on. */
void queue_init(struct queue *q, unsigned int number);

/* For a device's; only while down. */
int queue_alloc(struct queue *q, u32 entries);
void queue_free(struct queue *q);

/*
 * Ready for requests of the view's epoch, unless *epoch is another by now.
 * Locks.
 */
int queue_begin(struct queue *q, const struct line_view *view,
		void __iomem *doorbell, const u32 *epoch);

/* Down: all that wait end with -EIO, within this call. Locks. */
void queue_end(struct queue *q);

/* See tm_line_submit and tm_line_post_locked. */
int queue_submit(struct queue *q, struct tm_request *rq);
bool queue_post(struct queue *q, u32 epoch, const struct line_entry *entry,
		struct page *page);

/* Shows the host what was submitted. Locks. */
void queue_kick(struct queue *q);

/* See tm_line_poll. Locks. */
void queue_poll(struct queue *q);

enum queue_health {
	QUEUE_IDLE, /* nobody waits */
	QUEUE_BUSY,
	QUEUE_BROKEN, /* no answer will ever come */
};

/*
 * Called once a second while anybody waits: looks, should an interrupt or a
 * doorbell have been lost, and counts how long nothing moved. Locks.
 */
enum queue_health queue_watch(struct queue *q, unsigned int patience);

/* One line about it, if it is up. Locks. */
struct seq_file;
void queue_show(struct queue *q, struct seq_file *m);

#endif
