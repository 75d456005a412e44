/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host's queue of a line (hv/line/queue.c) by itself, at indexes that a
 * whole line, which begins at 0, reaches only after hours.
 */
#include "guest-drivers/mini/line.h"
#include "hv/line/queue.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"
#include "tmem/tmem.h"

#include <check.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ENTRIES LINE_ENTRIES_MIN

static struct tmem *tm;
static struct queue_world world;
static struct queue queue;
static uint8_t *memory;
static int bell;
static _Atomic unsigned kicks;
static _Atomic bool broke;

static void kick(void *arg, unsigned vector)
{
	(void)arg;
	ck_assert_uint_eq(vector, LINE_VECTOR_QUEUE);
	kicks++;
}

static void broken(void *arg)
{
	(void)arg;
	broke = true;
}

static void setup(void)
{
	ck_assert_int_eq(tmem_create(0, &tm), 0);
	world = (struct queue_world){.entries = ENTRIES,
				     .host = &host_real,
				     .kick = kick,
				     .broken = broken};
	ck_assert_int_eq(tmem_client_create(tm, "guest", &world.client), 0);
	ck_assert_int_eq(tmem_pool_create(world.client, TMEM_PERSISTENT, NULL),
			 0);
	memory = aligned_alloc(PAGE_BYTES, line_bytes(1, ENTRIES));
	memset(memory, 0, line_bytes(1, ENTRIES));
	bell = eventfd(0, EFD_NONBLOCK);
	queue_init(&queue, &world, 0, memory + line_queue_at(ENTRIES, 0), bell);
}

/* As if it had served up to here. */
static void queue_begin(uint32_t at)
{
	broke = false;
	queue_resume(&queue);
	queue.head = at;
	queue.ring->head = queue.ring->tail = at;
}

static void teardown(void)
{
	queue_stop(&queue);
	queue_fini(&queue);
	close(bell);
	free(memory);
	ck_assert_int_eq(tmem_check(tm), 0);
	tmem_destroy(tm);
}

/* No two seeds make the same page. */
static const void *page(uint64_t seed)
{
	static unsigned char buf[PAGE_BYTES];
	struct rng rng = {seed};

	rng_fill(&rng, buf, sizeof(buf));
	return buf;
}

static void expect(uint32_t index)
{
	struct tmem_oid oid = {{1, 2, 3}};
	unsigned char got[PAGE_BYTES];

	ck_assert_int_eq(tmem_get(world.client, 0, &oid, index, got), 0);
	ck_assert_mem_eq(got, page(index), PAGE_BYTES);
}

static void ring(void)
{
	ck_assert_int_eq(eventfd_write(bell, 1), 0);
}

static void wait_done(struct line_tx *tx, uint32_t position)
{
	if (line_tx_publish(tx))
		ring();
	for (unsigned n = 0; line_tx_done(tx, position) != 1; n++) {
		ck_assert_uint_lt(n, 10000);
		poll(NULL, 0, 1);
	}
}

/* The host stores head, then looks whether to interrupt. */
static void wait_kicks(unsigned n)
{
	for (unsigned i = 0; kicks < n; i++) {
		ck_assert_uint_lt(i, 10000);
		poll(NULL, 0, 1);
	}
}

START_TEST(indexes_wrap)
{
	static uint8_t kept[ENTRIES];
	struct line_entry e = {.op = LINE_OP_PUT, .oid = {1, 2, 3}};
	struct line_view view = {
		.base = memory, .queues = 1, .entries = ENTRIES};
	struct line_tx tx;
	uint32_t position;

	queue_begin((uint32_t)-100);
	ck_assert_int_eq(line_tx_init(&tx, &view, 0, kept), 0);
	ck_assert_int_eq(queue_start(&queue), 0);
	for (e.index = 0; e.index < 300; e.index++) {
		ck_assert_int_eq(
			line_tx_post(&tx, &e, page(e.index), true, &position),
			0);
		ck_assert_uint_eq(position, e.index - 100);
		ck_assert(line_tx_arm(&tx, position));
		wait_done(&tx, position);
		wait_kicks(e.index + 1);
		ck_assert_int_eq(line_tx_result(&tx, position), 0);
		line_tx_release(&tx, position);
	}
	ck_assert(!broke);
	ck_assert_uint_eq(kicks, 300);
	for (uint32_t i = 0; i < 300; i++)
		expect(i);
}
END_TEST

/* tail - head may be entries and no more, wherever the two are. */
START_TEST(fullest_queue_is_served_and_no_fuller)
{
	for (uint32_t at = -(2 * ENTRIES); at != ENTRIES; at++) {
		queue_begin(at);
		queue.ring->tail = at + ENTRIES;
		ck_assert_int_eq(queue_start(&queue), 0);
		for (unsigned n = 0;
		     __atomic_load_n(&queue.ring->head, __ATOMIC_ACQUIRE) !=
		     at + ENTRIES;
		     n++) {
			ck_assert_uint_lt(n, 10000);
			poll(NULL, 0, 1);
		}
		ck_assert(!broke);
		__atomic_store_n(&queue.ring->tail, at + 2 * ENTRIES + 1,
				 __ATOMIC_SEQ_CST);
		ring();
		for (unsigned n = 0; !broke; n++) {
			ck_assert_uint_lt(n, 10000);
			poll(NULL, 0, 1);
		}
		queue_stop(&queue);
		queue.stopping = false;
		ck_assert_uint_eq(queue.ring->head, at + ENTRIES);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("line_queue");
	TCase *tc = tcase_create("line_queue");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, indexes_wrap);
	tcase_add_test(tc, fullest_queue_is_served_and_no_fuller);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
