// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One queue of the line; queue.h has the picture.
 *
 * Whoever finds answers (the tasklet after an interrupt, a thread that polls,
 * a post that needs room) takes them out of the ring at once, copying pages
 * while the lock is held: an entry that nobody is done with blocks the ring,
 * since positions are used in order. Callbacks run later, without the lock.
 *
 * The host is asked to interrupt for a get as soon as that is done, since a
 * thread waits for it, and for puts once for up to LINE_BATCH of them.
 */
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/ktime.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/sched/stat.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "queue.h"
#include "stats.h"

#define REAP_ONCE  64	/* answers taken while the lock is held */
#define POLL_LEAST 1000 /* ns */
#define POLL_TRY   16	/* each so many polls look for the whole time */

static unsigned int tm_poll_us = 20;
module_param_named(poll_us, tm_poll_us, uint, 0644);
MODULE_PARM_DESC(poll_us, "most microseconds to look for an answer");
static unsigned int tm_idle_us = 200;
module_param_named(poll_idle_us, tm_idle_us, uint, 0644);
MODULE_PARM_DESC(poll_idle_us, "the same while the processor has nothing else");

static size_t list_count(const struct list_head *list)
{
	const struct list_head *at;
	size_t n = 0;

	list_for_each(at, list) n++;
	return n;
}

static void callbacks_run(struct list_head *done)
{
	struct tm_request *rq, *next;

	list_for_each_entry_safe(rq, next, done, link) rq->done(rq, rq->result);
}

/* What a get brings lies in the slot; more than 0 is no answer of a get. */
static int answer_take(struct queue *q, u32 position, struct tm_request *rq)
{
	int result = line_tx_result(&q->tx, position);
	void *to;

	if (rq->entry.op != LINE_OP_GET || result < 0)
		return result;
	if (result > 0)
		return -EIO;
	to = kmap_local_page(rq->page);
	memcpy(to, line_tx_slot(&q->tx, position), LINE_PAGE_BYTES);
	kunmap_local(to);
	return 0;
}

static void answer_reap(struct queue *q, u32 position)
{
	struct tm_request **asked = &q->asked[position & q->tx.mask];
	struct tm_request *rq = *asked;

	if (!rq)
		return;
	rq->result = answer_take(q, position, rq);
	line_tx_release(&q->tx, position);
	*asked = NULL;
	q->awaited--;
	list_add_tail(&rq->link, &q->done);
}

/* True: the budget ended, there may be more. */
static bool reap(struct queue *q, unsigned int budget)
{
	for (; budget; budget--) {
		if (q->reaped == q->tx.published)
			return false;
		if (line_tx_done(&q->tx, q->reaped) != 1)
			return false;
		answer_reap(q, q->reaped++);
	}
	return true;
}

static bool full(const struct queue *q)
{
	return q->tx.tail - q->reaped > q->tx.mask;
}

/* -EAGAIN: full; -EIO. */
static int post(struct queue *q, const struct line_entry *entry,
		struct page *page, struct tm_request *rq)
{
	void *from = NULL;
	u32 position;
	int rc;

	if (full(q))
		reap(q, REAP_ONCE);
	if (!list_empty(&q->done))
		tasklet_schedule(&q->tasklet);
	if (full(q))
		return -EAGAIN;
	if (page && entry->op == LINE_OP_PUT)
		from = kmap_local_page(page);
	rc = line_tx_post(&q->tx, entry, from, rq != NULL, &position);
	if (from)
		kunmap_local(from);
	if (rc)
		return rc == LINE_EIO ? -EIO : -EAGAIN;
	q->asked[position & q->tx.mask] = rq;
	q->awaited += rq != NULL;
	return 0;
}

static void ring(struct queue *q)
{
	q->rung = true;
	q->rung_for = q->tx.published;
	writel(q->bell, q->doorbell);
	tm_count(TM_KICKS);
}

/*
 * The host says it sleeps until it has woken up, and a doorbell costs an exit.
 * While it has not done all that was there when we last rang, it is awake, or
 * about to be: it looks for more before it sleeps again.
 */
static void publish(struct queue *q)
{
	u32 head;

	if (!line_tx_publish(&q->tx))
		return;
	virt_rmb(); /* pairs with the host's release of head, then sleeping */
	head = READ_ONCE(q->tx.queue->head);
	if (q->rung && (s32)(head - q->rung_for) < 0)
		return;
	ring(q);
}

/* Those that found no room, while there is some. */
static void refill(struct queue *q)
{
	struct tm_request *rq, *next;

	list_for_each_entry_safe(rq, next, &q->waiting, link)
	{
		list_del(&rq->link);
		if (post(q, &rq->entry, rq->page, rq)) {
			list_add(&rq->link, &q->waiting);
			return;
		}
	}
}

/* The position to be interrupted after; false: nobody waits. */
static bool wake_position(const struct queue *q, u32 *position_out)
{
	const struct tm_request *rq;
	unsigned int seen = 0;
	u32 at;

	for (at = q->reaped; at != q->tx.published; at++) {
		rq = q->asked[at & q->tx.mask];
		if (!rq)
			continue;
		*position_out = at;
		if (rq->entry.op != LINE_OP_PUT || ++seen == LINE_BATCH)
			return true;
	}
	if (!seen && !list_empty(&q->waiting)) {
		*position_out = line_tx_half(&q->tx);
		return true;
	}
	return seen;
}

/* True: an answer came meanwhile, so reap first. */
static bool arm(struct queue *q)
{
	u32 position;

	if (!wake_position(q, &position))
		return false;
	return !line_tx_arm(&q->tx, position) &&
	       line_tx_done(&q->tx, position) == 1;
}

/* All that can be done without the host; true: once more. Lock held. */
static bool turn(struct queue *q, bool sleep)
{
	bool more = reap(q, REAP_ONCE);

	refill(q);
	publish(q);
	if (!more && sleep)
		more = arm(q);
	return more;
}

/* One turn, and the callbacks of what it found. */
static void run(struct queue *q, bool sleep)
{
	LIST_HEAD(done);
	unsigned long flags;

	spin_lock_irqsave(&q->lock, flags);
	if (q->epoch && turn(q, sleep))
		tasklet_schedule(&q->tasklet);
	list_splice_init(&q->done, &done);
	spin_unlock_irqrestore(&q->lock, flags);
	callbacks_run(&done);
}

static void queue_tasklet(struct tasklet_struct *tasklet)
{
	run(from_tasklet(container_of(tasklet, struct queue, tasklet), tasklet,
			 tasklet),
	    true);
}

int queue_submit(struct queue *q, struct tm_request *rq)
{
	unsigned long flags;
	int rc = 0;

	spin_lock_irqsave(&q->lock, flags);
	if (!q->epoch || q->epoch != rq->epoch)
		rc = -EIO;
	else if (!list_empty(&q->waiting) ||
		 post(q, &rq->entry, rq->page, rq)) {
		list_add_tail(&rq->link, &q->waiting);
		tm_count(TM_RING_FULL);
	}
	spin_unlock_irqrestore(&q->lock, flags);
	return rc;
}

bool queue_post(struct queue *q, u32 epoch, const struct line_entry *entry,
		struct page *page)
{
	lockdep_assert_held(&q->lock);
	if (!q->epoch || q->epoch != epoch || !list_empty(&q->waiting) ||
	    post(q, entry, page, NULL))
		return false;
	publish(q);
	return true;
}

void queue_kick(struct queue *q)
{
	unsigned long flags;

	spin_lock_irqsave(&q->lock, flags);
	if (q->epoch) {
		publish(q);
		if (arm(q))
			tasklet_schedule(&q->tasklet);
	}
	spin_unlock_irqrestore(&q->lock, flags);
}

/* Nobody else wants the processor: it would idle until the interrupt. */
static bool alone(void)
{
	return single_task_running() && !need_resched();
}

static u32 poll_limit(bool idle)
{
	u32 busy_us = READ_ONCE(tm_poll_us), idle_us = READ_ONCE(tm_idle_us);

	return (idle ? max(busy_us, idle_us) : busy_us) * NSEC_PER_USEC;
}

/* How long looking is worth it: not at all if answers come too late for it. */
static u32 poll_window(struct queue *q, bool idle)
{
	u32 limit = poll_limit(idle);
	u32 polls = READ_ONCE(q->polls);

	WRITE_ONCE(q->polls, polls + 1);
	if (READ_ONCE(q->answer_ns) <= limit || polls % POLL_TRY == 0)
		return limit;
	return min_t(u32, POLL_LEAST, limit);
}

/* Several may do it at once; that it is about right is enough. */
static void poll_learn(struct queue *q, u64 took)
{
	u64 next = (7ull * READ_ONCE(q->answer_ns) + took) / 8;

	WRITE_ONCE(q->answer_ns, min_t(u64, next, U32_MAX));
}

/*
 * Until all that is there now is done: what comes later is for others. Where
 * the processor would be idle, for longer, as a kernel that polls before it
 * halts: a sleep costs an interrupt and two wake-ups.
 */
void queue_poll(struct queue *q)
{
	bool idle = alone(), found;
	u32 window = poll_window(q, idle);
	bool whole = window > POLL_LEAST;
	u32 all = READ_ONCE(q->tx.tail);
	u64 took, from = ktime_get_ns();

	do {
		run(q, false);
		found = (s32)(READ_ONCE(q->reaped) - all) >= 0;
		took = ktime_get_ns() - from;
		if (found)
			break;
		if (idle && !alone()) {
			idle = false;
			whole = false;
			window = min(window, poll_limit(false));
		}
		cpu_relax();
	} while (took < window);
	if (found)
		poll_learn(q, took);
	else if (whole)
		poll_learn(q, 2 * took);
	if (!found)
		run(q, true);
}

/* Lock held. */
static void watch_progress(struct queue *q)
{
	u32 head = READ_ONCE(q->tx.queue->head);

	if (head != q->watched) {
		q->watched = head;
		q->stuck = 0;
		return;
	}
	q->stuck++;
	ring(q);
}

enum queue_health queue_watch(struct queue *q, unsigned int patience)
{
	enum queue_health health = QUEUE_IDLE;
	unsigned long flags;

	spin_lock_irqsave(&q->lock, flags);
	if (q->epoch && (q->awaited || !list_empty(&q->waiting))) {
		watch_progress(q);
		health = QUEUE_BUSY;
		if (q->stuck > patience || q->tx.broken ||
		    line_tx_done(&q->tx, q->reaped) < 0)
			health = QUEUE_BROKEN;
	} else {
		q->stuck = 0;
	}
	spin_unlock_irqrestore(&q->lock, flags);
	if (health == QUEUE_BUSY)
		tasklet_schedule(&q->tasklet);
	return health;
}

void queue_show(struct queue *q, struct seq_file *m)
{
	unsigned long flags;

	spin_lock_irqsave(&q->lock, flags);
	if (q->epoch)
		seq_printf(m,
			   "queue %u: reaped %u head %u published %u tail %u "
			   "awaited %u waiting %zu wake_at %u stuck %u "
			   "sleeping %u\n",
			   q->number, q->reaped, READ_ONCE(q->tx.queue->head),
			   q->tx.published, q->tx.tail, q->awaited,
			   list_count(&q->waiting), q->tx.wake_at, q->stuck,
			   READ_ONCE(q->tx.queue->sleeping));
	spin_unlock_irqrestore(&q->lock, flags);
}

int queue_begin(struct queue *q, const struct line_view *view,
		void __iomem *doorbell, const u32 *epoch)
{
	unsigned long flags;
	int rc;

	spin_lock_irqsave(&q->lock, flags);
	rc = READ_ONCE(*epoch) == view->epoch ? 0 : -EIO;
	if (!rc)
		rc = line_tx_init(&q->tx, view, q->number, q->kept);
	if (!rc) {
		q->reaped = q->tx.tail;
		q->watched = q->tx.head;
		q->doorbell = doorbell;
		q->bell =
			view->host_peer << 16 | (LINE_VECTOR_QUEUE + q->number);
		q->rung = false;
		q->stuck = 0;
		q->answer_ns = 0;
		q->polls = 0;
		q->epoch = view->epoch;
	}
	spin_unlock_irqrestore(&q->lock, flags);
	return rc ? -EIO : 0;
}

/* Of a queue that just went down: nobody else looks at asked then. */
static void asked_fail(struct queue *q, struct list_head *failed)
{
	struct tm_request *rq;
	u32 i;

	for (i = 0; q->awaited && i <= q->tx.mask; i++) {
		rq = q->asked[i];
		if (!rq)
			continue;
		q->asked[i] = NULL;
		q->awaited--;
		list_add_tail(&rq->link, failed);
	}
}

void queue_end(struct queue *q)
{
	struct tm_request *rq;
	unsigned long flags;
	LIST_HEAD(failed);

	spin_lock_irqsave(&q->lock, flags);
	if (q->epoch) {
		q->epoch = 0;
		asked_fail(q, &failed);
		list_splice_tail_init(&q->waiting, &failed);
	}
	spin_unlock_irqrestore(&q->lock, flags);
	list_for_each_entry(rq, &failed, link) rq->result = -EIO;
	callbacks_run(&failed);
}

void queue_init(struct queue *q, unsigned int number)
{
	q->number = number;
	spin_lock_init(&q->lock);
	INIT_LIST_HEAD(&q->waiting);
	INIT_LIST_HEAD(&q->done);
	tasklet_setup(&q->tasklet, queue_tasklet);
}

int queue_alloc(struct queue *q, u32 entries)
{
	q->asked = kvcalloc(entries, sizeof(*q->asked), GFP_KERNEL);
	q->kept = kvcalloc(entries, sizeof(*q->kept), GFP_KERNEL);
	return q->asked && q->kept ? 0 : -ENOMEM;
}

/* Some callbacks may still be due: of answers found before it went down. */
void queue_free(struct queue *q)
{
	run(q, false);
	tasklet_kill(&q->tasklet);
	kvfree(q->asked);
	kvfree(q->kept);
	q->asked = NULL;
	q->kept = NULL;
}
