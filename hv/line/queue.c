/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Serving one queue. Its thread takes up to LINE_BATCH requests at a time, in
 * order, under the queue's lock; between batches whoever resets the line or
 * reads its counts has the lock first (visitors: a mutex alone would let the
 * thread take it again and again).
 *
 *   requests --> batch --> head stored --> guest interrupted if it asked
 *      ^                       |
 *      |                       v none left
 *      |            looks on for window_ns (yielding), then
 *      '-- doorbell -- sleeping = 1, looks once more, sleeps
 *
 * window_ns follows what sleeps turn out to be, as KVM's halt polling does: a
 * sleep shorter than poll_ns would have been better spent looking, so the
 * window doubles; a longer one ends it. A line at rest thus costs nothing.
 *
 * Both sides store their own word and then load the other's, each in one total
 * order, so one of the two sees the other: sleeping against tail, head against
 * wake_at. While the queue is not live its ring is not touched; who makes it
 * live rings the doorbell, since what the thread wrote to sleeping before may
 * be gone.
 *
 * Nothing is believed. tail is loaded once for each batch and compared with
 * our own head, an entry is copied word by word and the copy is used, result
 * and head are only written.
 */
#include "hv/line/queue.h"

#include "hv/base/thread.h"
#include "hv/line/request.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>

#define WINDOW_MIN_NS  2000
#define STORE(at, n)   __atomic_store_n((at), (n), __ATOMIC_SEQ_CST)
#define LOAD(at)       __atomic_load_n((at), __ATOMIC_SEQ_CST)
#define DOORBELL_WAITS (-1)

enum batch { BATCH_DONE, BATCH_EMPTY, BATCH_NOT_LIVE };

/* ---- requests ---- */

static void position_do(struct queue *q, uint32_t position)
{
	uint32_t i = position & (q->world->entries - 1);
	struct line_entry entry;
	int32_t result;

	guest_words_fetch(&entry, &q->entry[i], sizeof(entry));
	result = request_do(q->world->client, q->world->channel, &entry,
			    q->slot + (size_t)i * LINE_PAGE_BYTES, &q->count);
	__atomic_store_n(&q->entry[i].result, result, __ATOMIC_RELAXED);
}

static void head_advance(struct queue *q, uint32_t old, uint32_t new)
{
	atomic_store_explicit(&q->head, new, memory_order_relaxed);
	STORE(&q->ring->head, new);
	q->count.stores++;
	if ((uint32_t)(new - LOAD(&q->ring->wake_at)) >= (uint32_t)(new - old))
		return;
	q->count.kicks++;
	q->world->kick(q->world->kick_arg, q->vector);
}

static uint32_t queue_waiting(const struct queue *q)
{
	return LOAD(&q->ring->tail) -
	       atomic_load_explicit(&q->head, memory_order_relaxed);
}

/* Lock held. */
static enum batch batch_do(struct queue *q)
{
	uint32_t head = atomic_load_explicit(&q->head, memory_order_relaxed);
	uint32_t n = queue_waiting(q);

	if (n > q->world->entries) {
		q->live = false;
		q->count.breaks++;
		q->world->broken(q->world->arg);
		return BATCH_NOT_LIVE;
	}
	if (!n)
		return BATCH_EMPTY;
	n = (uint32_t)min_u64(n, LINE_BATCH);
	for (uint32_t i = 0; i < n; i++)
		position_do(q, head + i);
	head_advance(q, head, head + n);
	return BATCH_DONE;
}

static enum batch queue_serve(struct queue *q)
{
	enum batch got;

	while (atomic_load(&q->visitors))
		q->world->host->thread_yield();
	pthread_mutex_lock(&q->lock);
	got = q->live ? batch_do(q) : BATCH_NOT_LIVE;
	pthread_mutex_unlock(&q->lock);
	return got;
}

/* ---- waiting ---- */

/* True: there is something to do. */
static bool queue_look_on(struct queue *q)
{
	const struct host_ops *host = q->world->host;
	uint64_t until;

	if (!q->window_ns)
		return false;
	until = host->now_ns() + q->window_ns;
	do {
		if (queue_waiting(q) || atomic_load(&q->stopping)) {
			pthread_mutex_lock(&q->lock);
			q->count.polls++;
			pthread_mutex_unlock(&q->lock);
			return true;
		}
		host->thread_yield();
	} while (host->now_ns() < until);
	return false;
}

/* Says that we sleep. False: something came just now. */
static bool queue_lie_down(struct queue *q)
{
	bool down = true;

	pthread_mutex_lock(&q->lock);
	if (q->live) {
		STORE(&q->ring->sleeping, 1);
		down = !queue_waiting(q);
		if (!down)
			STORE(&q->ring->sleeping, 0);
	}
	q->count.sleeps += down;
	pthread_mutex_unlock(&q->lock);
	return down;
}

static void queue_get_up(struct queue *q)
{
	pthread_mutex_lock(&q->lock);
	if (q->live)
		STORE(&q->ring->sleeping, 0);
	q->count.rings++;
	pthread_mutex_unlock(&q->lock);
}

/* The eventfd may be blocking or not: its other owners decide. */
static void doorbell_wait(int fd)
{
	struct pollfd bell = {.fd = fd, .events = POLLIN};
	eventfd_t ignored;

	if (poll(&bell, 1, DOORBELL_WAITS) > 0)
		(void)eventfd_read(fd, &ignored);
}

static void window_adapt(struct queue *q, uint64_t slept_ns)
{
	uint64_t most = q->world->poll_ns;

	if (slept_ns < most)
		q->window_ns =
			min_u64(most, max_u64(WINDOW_MIN_NS, 2 * q->window_ns));
	else
		q->window_ns = 0;
}

static void queue_sleep(struct queue *q)
{
	uint64_t from;

	if (!queue_lie_down(q))
		return;
	from = q->world->host->now_ns();
	doorbell_wait(q->doorbell);
	window_adapt(q, q->world->host->now_ns() - from);
	queue_get_up(q);
}

static void *queue_main(void *arg)
{
	struct queue *q = arg;

	pthread_setname_np(pthread_self(), "tidepool-line");
	while (!atomic_load(&q->stopping)) {
		enum batch got = queue_serve(q);

		if (got == BATCH_DONE)
			continue;
		if (got == BATCH_EMPTY && queue_look_on(q))
			continue;
		queue_sleep(q);
	}
	return NULL;
}

/* ---- life ---- */

void queue_init(struct queue *q, const struct queue_world *world, unsigned n,
		uint8_t *at, int doorbell)
{
	*q = (struct queue){
		.world = world,
		.vector = LINE_VECTOR_QUEUE + n,
		.doorbell = doorbell,
		.ring = (struct line_queue *)(void *)at,
		.entry = (struct line_entry *)(void *)(at + line_entry_at(0)),
		.slot = at + line_slot_at(world->entries, 0),
	};
	pthread_mutex_init(&q->lock, NULL);
}

void queue_fini(struct queue *q)
{
	pthread_mutex_destroy(&q->lock);
}

int queue_start(struct queue *q)
{
	int rc;

	if (q->running)
		return 0;
	rc = thread_start(&q->thread, queue_main, q);
	q->running = !rc;
	return rc;
}

void queue_stop(struct queue *q)
{
	if (!q->running)
		return;
	atomic_store(&q->stopping, true);
	(void)eventfd_write(q->doorbell, 1);
	pthread_join(q->thread, NULL);
	q->running = false;
}

static void queue_enter(struct queue *q)
{
	atomic_fetch_add(&q->visitors, 1);
	pthread_mutex_lock(&q->lock);
}

static void queue_leave(struct queue *q)
{
	pthread_mutex_unlock(&q->lock);
	atomic_fetch_sub(&q->visitors, 1);
}

void queue_pause(struct queue *q)
{
	queue_enter(q);
	q->live = false;
	queue_leave(q);
}

void queue_resume(struct queue *q)
{
	queue_enter(q);
	atomic_store_explicit(&q->head, 0, memory_order_relaxed);
	q->live = true;
	queue_leave(q);
}

void queue_counts(struct queue *q, struct line_counts *sum)
{
	queue_enter(q);
#define ADD(name, help) sum->name += q->count.name;
	LINE_COUNTS(ADD)
#undef ADD
	queue_leave(q);
}
