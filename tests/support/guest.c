// SPDX-License-Identifier: GPL-2.0-or-later
/* A guest at the other end of a line; tests/support/guest.h. */
#include "tests/support/guest.h"

#include <check.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_S 20
#define LOOKS	   200

static struct timespec patience_end(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_sec += PATIENCE_S;
	return ts;
}

static void cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

static void sleep_on(pthread_cond_t *cond, pthread_mutex_t *lock)
{
	struct timespec end = patience_end();

	ck_assert_msg(pthread_cond_timedwait(cond, lock, &end) == 0,
		      "a wake-up was lost");
}

/* The interrupt. */
static void kick(void *arg, unsigned vector)
{
	struct guest *g = arg;
	struct guest_queue *q;

	if (vector == LINE_VECTOR_CONTROL) {
		pthread_mutex_lock(&g->lock);
		g->told_count++;
		pthread_cond_broadcast(&g->told);
		pthread_mutex_unlock(&g->lock);
		return;
	}
	q = &g->queue[vector - LINE_VECTOR_QUEUE];
	pthread_mutex_lock(&q->lock);
	q->kicks++;
	pthread_cond_broadcast(&q->woken);
	pthread_mutex_unlock(&q->lock);
}

static void ring(struct guest *g, unsigned vector)
{
	ck_assert_int_eq(eventfd_write(g->bell[vector], 1), 0);
}

static void queues_init(struct guest *g)
{
	memset(g, 0, sizeof(*g));
	g->looks = LOOKS;
	pthread_mutex_init(&g->lock, NULL);
	cond_init(&g->told);
	for (unsigned n = 0; n < LINE_QUEUES_MAX; n++) {
		pthread_mutex_init(&g->queue[n].lock, NULL);
		cond_init(&g->queue[n].woken);
	}
}

static void line_make(struct guest *g, const struct line_config *config)
{
	struct line_config own = *config;

	own.kick = kick;
	own.arg = g;
	ck_assert_int_eq(line_create(&own, &g->line), 0);
	for (unsigned v = 0; v < line_vectors(g->line); v++) {
		g->bell[v] = dup(line_doorbell_fd(g->line, v));
		ck_assert_int_ge(g->bell[v], 0);
	}
}

void guest_open(struct guest *g, const struct line_config *config)
{
	size_t bytes;
	void *mem;

	queues_init(g);
	line_make(g, config);
	mem = line_memory(g->line, &bytes);
	ck_assert_int_eq(line_view_init(&g->view, mem, bytes), 0);
}

void guest_open_apart(struct guest *g, const struct line_config *config)
{
	queues_init(g);
	line_make(g, config);
	(void)line_memory(g->line, &g->apart_bytes);
	g->apart = mmap(NULL, g->apart_bytes, PROT_READ | PROT_WRITE,
			MAP_SHARED, line_fd(g->line), 0);
	ck_assert_ptr_ne(g->apart, MAP_FAILED);
	ck_assert_int_eq(line_view_init(&g->view, g->apart, g->apart_bytes), 0);
}

void guest_orphan(struct guest *g)
{
	line_destroy(g->line);
	g->line = NULL;
}

void guest_close(struct guest *g)
{
	line_destroy(g->line);
	if (g->apart)
		munmap(g->apart, g->apart_bytes);
	for (unsigned v = 0; v < LINE_VECTOR_QUEUE + g->view.queues; v++)
		close(g->bell[v]);
	for (unsigned n = 0; n < LINE_QUEUES_MAX; n++) {
		pthread_cond_destroy(&g->queue[n].woken);
		pthread_mutex_destroy(&g->queue[n].lock);
	}
	pthread_cond_destroy(&g->told);
	pthread_mutex_destroy(&g->lock);
}

void guest_begin_ask(struct guest *g)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	line_view_begin(&g->view, (uint32_t)(ts.tv_nsec / 64),
			LINE_FEATURE_FLUSH_RANGE | LINE_FEATURE_STATS |
				LINE_FEATURE_BALLOON);
	ring(g, LINE_VECTOR_CONTROL);
}

/* The host need not tell when it is ready, so look now and then. */
static void nap(void)
{
	nanosleep(&(struct timespec){0, 100000}, NULL);
}

void guest_begin_wait(struct guest *g)
{
	for (unsigned n = 0; line_view_begun(&g->view); n++) {
		ck_assert_uint_lt(n, PATIENCE_S * 10000);
		nap();
	}
	for (unsigned n = 0; n < g->view.queues; n++) {
		struct guest_queue *q = &g->queue[n];

		pthread_mutex_lock(&q->lock);
		ck_assert_int_eq(line_tx_init(&q->tx, &g->view, n, q->kept), 0);
		pthread_mutex_unlock(&q->lock);
	}
}

void guest_begin(struct guest *g)
{
	guest_begin_ask(g);
	guest_begin_wait(g);
}

void guest_end(struct guest *g)
{
	line_view_end(&g->view);
	ring(g, LINE_VECTOR_CONTROL);
	for (unsigned n = 0; !line_view_ended(&g->view); n++) {
		ck_assert_uint_lt(n, PATIENCE_S * 10000);
		nap();
	}
}

/* With the queue's lock, which it lets go of while it sleeps. */
static void wait_for(struct guest *g, struct guest_queue *q, uint32_t position)
{
	enum line_sleep found;

	for (;;) {
		found = line_tx_arm_among(&q->tx, position);
		if (found == LINE_SLEEP_NOT || line_view_alive(&g->view))
			return;
		if (found == LINE_SLEEP_OTHERS)
			pthread_cond_broadcast(&q->woken);
		else
			sleep_on(&q->woken, &q->lock);
	}
}

static void publish(struct guest *g, struct guest_queue *q)
{
	if (line_tx_publish(&q->tx))
		ring(g, LINE_VECTOR_QUEUE + (unsigned)(q - g->queue));
}

/* With the queue's lock. Of the host's work, or of an entry a thread keeps. */
static void wait_room(struct guest *g, struct guest_queue *q, int why)
{
	publish(g, q);
	if (why == LINE_EBUSY)
		sleep_on(&q->woken, &q->lock);
	else
		wait_for(g, q, line_tx_half(&q->tx));
}

/* With the queue's lock. 0 or LINE_EIO. */
static int post(struct guest *g, struct guest_queue *q,
		const struct line_entry *entry, const void *page, bool keep,
		uint32_t *position)
{
	int rc;

	for (;;) {
		rc = line_view_alive(&g->view);
		if (rc == 0)
			rc = line_tx_post(&q->tx, entry, page, keep, position);
		if (rc != LINE_EAGAIN && rc != LINE_EBUSY)
			return rc;
		wait_room(g, q, rc);
	}
}

static int answer_take(struct guest_queue *q, const struct line_entry *entry,
		       uint32_t position, void *page)
{
	int result;

	if (line_tx_done(&q->tx, position) != 1)
		return LINE_EIO;
	result = line_tx_result(&q->tx, position);
	if (entry->op == LINE_OP_GET && result == 0)
		memcpy(page, line_tx_slot(&q->tx, position), LINE_PAGE_BYTES);
	return result;
}

int guest_call(struct guest *g, unsigned queue, const struct line_entry *entry,
	       void *page)
{
	struct guest_queue *q = &g->queue[queue];
	const void *put = entry->op == LINE_OP_PUT ? page : NULL;
	uint32_t position;
	int result;

	pthread_mutex_lock(&q->lock);
	result = post(g, q, entry, put, true, &position);
	if (result) {
		pthread_mutex_unlock(&q->lock);
		return result;
	}
	publish(g, q);
	pthread_mutex_unlock(&q->lock);
	for (unsigned n = 0; n < g->looks; n++)
		if (line_tx_done(&q->tx, position))
			break;
	pthread_mutex_lock(&q->lock);
	wait_for(g, q, position);
	result = answer_take(q, entry, position, page);
	line_tx_release(&q->tx, position);
	pthread_cond_broadcast(&q->woken); /* of who waits for this entry */
	pthread_mutex_unlock(&q->lock);
	return result;
}

int guest_post(struct guest *g, unsigned queue, const struct line_entry *entry,
	       const void *page)
{
	struct guest_queue *q = &g->queue[queue];
	int rc;

	pthread_mutex_lock(&q->lock);
	rc = post(g, q, entry, page, false, NULL);
	pthread_mutex_unlock(&q->lock);
	return rc;
}

int guest_drain(struct guest *g, unsigned queue)
{
	struct guest_queue *q = &g->queue[queue];
	int rc;

	pthread_mutex_lock(&q->lock);
	publish(g, q);
	wait_for(g, q, q->tx.published - 1);
	rc = line_tx_drained(&q->tx) == 1 ? 0 : LINE_EIO;
	pthread_mutex_unlock(&q->lock);
	return rc;
}

struct line_entry guest_entry(enum line_op op, int pool, uint64_t object,
			      uint32_t index)
{
	struct line_entry e;

	memset(&e, 0, sizeof(e));
	e.op = (uint8_t)op;
	e.pool = pool;
	e.oid[0] = object;
	e.oid[1] = ~object;
	e.oid[2] = 1;
	e.index = index;
	return e;
}

int guest_pool(struct guest *g, uint32_t flags)
{
	struct line_entry e =
		guest_entry(LINE_OP_POOL_CREATE, (int)flags, 0, 0);

	return guest_call(g, 0, &e, NULL);
}

int guest_put(struct guest *g, int pool, uint64_t object, uint32_t index,
	      const void *page)
{
	struct line_entry e = guest_entry(LINE_OP_PUT, pool, object, index);
	unsigned char copy[LINE_PAGE_BYTES];

	memcpy(copy, page, sizeof(copy));
	return guest_call(g, 0, &e, copy);
}

int guest_get(struct guest *g, int pool, uint64_t object, uint32_t index,
	      void *page)
{
	struct line_entry e = guest_entry(LINE_OP_GET, pool, object, index);

	return guest_call(g, 0, &e, page);
}

int guest_flush(struct guest *g, int pool, uint64_t object, uint32_t index)
{
	struct line_entry e =
		guest_entry(LINE_OP_FLUSH_PAGE, pool, object, index);

	return guest_call(g, 0, &e, NULL);
}
