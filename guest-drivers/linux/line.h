/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The line to the host's page store, as the rest of the module sees it: post a
 * request, be told its result. The ABI is ../abi/tmem_line.h, the ring's core
 * ../mini/line.c; what line.c adds is locking, waiting, interrupts, bounded
 * patience, and beginning again.
 *
 * There is one line: the first device found wins, others are refused. It is an
 * object of the module, not of the device, so that nobody holds a pointer that
 * a removed device leaves behind: without a device every call says -EIO.
 *
 * Requests for one key must always use one queue, tm_line_queue_of() of it:
 * then they are done in the order posted. A request that meets a full ring
 * waits in a list of that queue, in order, so a submit never fails for want of
 * room; a post that may be dropped (tm_line_post_locked) is dropped instead.
 *
 * The epoch. Each time the line begins it has another epoch; while it is down
 * the epoch is 0. With it all pools of the earlier one are gone. A request
 * names the epoch it is for and is refused in any other, so that none ever
 * meets a pool that merely has the same number.
 *
 * Locks. A queue's lock is a leaf, and safe in interrupts: take it under
 * anything, and take nothing under it.
 *
 * Patience. If the host does nothing for 30 s (parameter "patience") with
 * requests waiting, or says that the line is broken or closed, the line is
 * down: each request outstanding ends with -EIO, users are told (broken), and
 * beginning again is tried in the background while the device is there.
 */
#ifndef TIDEPOOL_LINE_H
#define TIDEPOOL_LINE_H

#include <linux/list.h>
#include <linux/mm_types.h>
#include <linux/types.h>

#include "../abi/tmem_line.h"

struct pci_dev;

/*
 * One request. The caller fills entry (op, pool, oid, index, count, and cookie
 * as it likes; nothing uninitialised: the host sees all of it), page (to put
 * from or get into, NULL for others), epoch and done. It and the page stay
 * untouched until done is called. done gets the host's result, or -EIO; it
 * runs in softirq or process context, never within tm_line_submit, with no
 * lock of the line held, and may free the request.
 */
struct tm_request {
	struct line_entry entry;
	u32 epoch;
	int result; /* line.c's own */
	struct page *page;
	void (*done)(struct tm_request *rq, int result);
	struct list_head link; /* line.c's own */
};

/* Whoever wants to know when the line comes and goes. */
struct tm_user {
	const char *name;
	/*
	 * All run in process context, one at a time, and may sleep.
	 * begin: the line is up with a new epoch and no pools; tm_line_call
	 * works. An error is logged, and the line stays.
	 */
	int (*begin)(u32 epoch);
	/* The line is down; nothing is outstanding any more. */
	void (*broken)(void);
	/* The host changed a setting: read tm_line_settings() again. */
	void (*settings)(void);
	/* The device is about to go for good; broken follows. May be NULL. */
	void (*gone)(void);
	struct list_head link;
};

/* What the host wishes now; a copy, all zero while the line is down. */
struct tm_settings {
	u64 swap_pages;
	u64 balloon_pages;
	s32 swap_priority;
	bool ephemeral; /* cleancache wanted */
};

/* begin is called at once (before this returns) if the line is up. */
void tm_line_user_add(struct tm_user *user);
/* No call of the user's is running, or will be, once this returns. */
void tm_line_user_remove(struct tm_user *user);

void tm_line_settings(struct tm_settings *out);

/* 0 while down. */
u32 tm_line_epoch(void);

/* LINE_FEATURE_ that both sides have; 0 while down. */
u32 tm_line_features(void);

/* 0 without a device. */
unsigned int tm_line_queues(void);

/* Which queue a key must use; 32 neighbouring indexes share one. */
unsigned int tm_line_queue_of(const struct line_entry *entry);

/*
 * Posts a request, or lets it wait for room. From any context, interrupts
 * included. 0, or -EIO: the line is down or of another epoch, and done will
 * not be called. The host may not see it until tm_line_kick or tm_line_poll,
 * which may follow several submits.
 */
int __must_check tm_line_submit(struct tm_request *rq);
void tm_line_kick(void);

/*
 * As tm_line_kick for one queue; then looks for results for a short while
 * (about what a get takes), so that a request is done without an interrupt.
 * Not in interrupts.
 */
void tm_line_poll(unsigned int queue);

/*
 * Submits, kicks and waits: polls first, then sleeps, uninterruptibly but not
 * for ever. Uses done and entry.cookie itself. The result, or -EIO.
 */
int __must_check tm_line_call(struct tm_request *rq);

/*
 * Posts without asking for an answer; false: dropped, since the ring is full,
 * others wait, the line is down or of another epoch. From any context. page
 * (of a put, else NULL) is copied before it returns. Kicks the host if that
 * sleeps. queue is tm_line_queue_of(entry), locked by the caller, who checks
 * something of its own together with posting.
 */
unsigned long tm_line_lock(unsigned int queue);
void tm_line_unlock(unsigned int queue, unsigned long flags);
bool __must_check tm_line_post_locked(unsigned int queue, u32 epoch,
				      const struct line_entry *entry,
				      struct page *page);

/* Shows the host our counters. May sleep. */
void tm_line_stats(const struct line_stats *stats);

/* The queues as they are, for debugfs. */
struct seq_file;
void tm_line_show(struct seq_file *m);

/* Of the PCI driver (main.c). */
int tm_line_start(struct pci_dev *pdev);
void tm_line_stop(struct pci_dev *pdev);
/* The memory may have been replaced while the guest slept: look. */
void tm_line_look(void);
int tm_line_init(void);
void tm_line_exit(void);

#endif
