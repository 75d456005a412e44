/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The line from end to end, promise by promise: the host's threads (hv/line)
 * serve a guest that keeps the rules (guest-drivers/mini with locks around it).
 * Guests that do not: test_line_faults.c. Random sequences: test_line_model.c.
 * Indexes near their end: test_line_queue.c.
 */
#include "tests/support/guest.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ROUNDS 4000
#else
#define ROUNDS 40000
#endif

static struct tmem *tm;
static struct guest guest;
static struct line_config config;

static void setup(void)
{
	ck_assert_int_eq(tmem_create(0, &tm), 0);
	config = (struct line_config){
		.tm = tm, .name = "guest", .entries = LINE_ENTRIES_MIN};
}

static void teardown(void)
{
	ck_assert_int_eq(tmem_check(tm), 0);
	tmem_destroy(tm);
}

static void begin(void)
{
	guest_open(&guest, &config);
	guest_begin(&guest);
}

/* Random bytes: no two seeds make the same page, and none compresses. */
static const void *page(uint64_t seed)
{
	static unsigned char buf[PAGE_BYTES];
	struct rng rng = {seed};

	rng_fill(&rng, buf, sizeof(buf));
	return buf;
}

static void expect(int pool, uint64_t object, uint32_t index, uint64_t seed)
{
	unsigned char got[PAGE_BYTES];

	ck_assert_int_eq(guest_get(&guest, pool, object, index, got), 0);
	ck_assert_mem_eq(got, page(seed), PAGE_BYTES);
}

static void expect_miss(int pool, uint64_t object, uint32_t index)
{
	unsigned char got[PAGE_BYTES];

	ck_assert_int_eq(guest_get(&guest, pool, object, index, got),
			 LINE_ENOENT);
}

static int call(enum line_op op, int pool, uint64_t object, uint32_t index)
{
	struct line_entry e = guest_entry(op, pool, object, index);
	unsigned char buf[PAGE_BYTES];

	memset(buf, 0x11, sizeof(buf));
	return guest_call(&guest, 0, &e, buf);
}

static uint64_t stored(void)
{
	struct tmem_stats st;

	tmem_stats(tm, &st);
	return st.pages;
}

static struct line_counts counts(void)
{
	struct line_counts c;

	line_counts(guest.line, &c);
	return c;
}

/* ---- operations and results ------------------------------------------ */

START_TEST(line_settings_outside_the_abi_are_refused)
{
	static const uint32_t entries[] = {1, 32, 63, 65, 96, 2048, UINT32_MAX};
	struct line *line;

	config.kick = (line_kick_fn *)(void (*)(void))abort;
	for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
		config.entries = entries[i];
		ck_assert_int_eq(line_create(&config, &line), -EINVAL);
	}
	config.entries = 0;
	config.queues = LINE_QUEUES_MAX + 1;
	ck_assert_int_eq(line_create(&config, &line), -EINVAL);
	config.queues = 0;
	config.name = "";
	ck_assert_int_eq(line_create(&config, &line), -EINVAL);
	config.name = "guest";
	config.tm = NULL;
	ck_assert_int_eq(line_create(&config, &line), -EINVAL);
}
END_TEST

START_TEST(every_operation_gives_its_result)
{
	int p, e;

	begin();
	ck_assert_int_eq(call(LINE_OP_NOP, -1, 0, 0), 0);
	p = guest_pool(&guest, LINE_POOL_PERSISTENT);
	e = guest_pool(&guest, LINE_POOL_EPHEMERAL);
	ck_assert_int_eq(p, 0);
	ck_assert_int_eq(e, 1);
	for (int pool = p; pool <= e; pool++) {
		expect_miss(pool, 1, 2);
		ck_assert_int_eq(guest_put(&guest, pool, 1, 2, page(3)), 0);
		expect(pool, 1, 2, 3);
	}
	expect(p, 1, 2, 3);
	expect_miss(e, 1, 2); /* the get took it */
	ck_assert_int_eq(guest_flush(&guest, p, 1, 2), 0);
	ck_assert_int_eq(guest_flush(&guest, p, 1, 2), 0);
	expect_miss(p, 1, 2);
	ck_assert_int_eq(guest_put(&guest, p, 1, 2, page(4)), 0);
	ck_assert_int_eq(guest_put(&guest, p, 2, 2, page(5)), 0);
	ck_assert_int_eq(call(LINE_OP_FLUSH_OBJECT, p, 1, 0), 0);
	expect_miss(p, 1, 2);
	expect(p, 2, 2, 5);
	ck_assert_int_eq(call(LINE_OP_POOL_DESTROY, p, 0, 0), 0);
	ck_assert_int_eq(call(LINE_OP_POOL_DESTROY, p, 0, 0), LINE_ENOENT);
	expect_miss(p, 2, 2);
	ck_assert_uint_eq(stored(), 0);
	guest_close(&guest);
}
END_TEST

START_TEST(same_filled_and_poor_pages_come_back)
{
	static unsigned char same[PAGE_BYTES], half[PAGE_BYTES];
	unsigned char got[PAGE_BYTES];
	int pool;

	begin();
	pool = guest_pool(&guest, LINE_POOL_PERSISTENT);
	memset(same, 0xc3, sizeof(same));
	memcpy(half, page(1), PAGE_BYTES / 2);
	ck_assert_int_eq(guest_put(&guest, pool, 0, 0, same), 0);
	ck_assert_int_eq(guest_put(&guest, pool, 0, 1, half), 0);
	ck_assert_int_eq(guest_get(&guest, pool, 0, 0, got), 0);
	ck_assert_mem_eq(got, same, PAGE_BYTES);
	ck_assert_int_eq(guest_get(&guest, pool, 0, 1, got), 0);
	ck_assert_mem_eq(got, half, PAGE_BYTES);
	guest_close(&guest);
}
END_TEST

START_TEST(nonsense_is_refused_and_counted)
{
	static const int pools[] = {-1,	     1,	      TMEM_POOLS_MAX,
				    INT_MAX, INT_MIN, TMEM_POOLS_MAX - 1};
	static const enum line_op ops[] = {LINE_OP_PUT, LINE_OP_GET,
					   LINE_OP_POOL_DESTROY};
	struct line_counts before;

	begin();
	ck_assert_int_eq(guest_pool(&guest, LINE_POOL_PERSISTENT), 0);
	for (size_t i = 0; i < ARRAY_LEN(pools); i++)
		for (size_t n = 0; n < ARRAY_LEN(ops); n++)
			ck_assert_int_eq(call(ops[n], pools[i], 0, 0),
					 LINE_ENOENT);
	before = counts();
	for (int op = LINE_OP_FLUSH_RANGE + 1; op < 256; op++)
		ck_assert_int_eq(call((enum line_op)op, 0, 0, 0), LINE_EINVAL);
	ck_assert_uint_eq(counts().rejects - before.rejects,
			  255 - LINE_OP_FLUSH_RANGE);
	for (uint32_t bit = 2; bit < 32; bit++)
		ck_assert_int_eq(guest_pool(&guest, (uint32_t)1 << bit),
				 LINE_EINVAL);
	ck_assert_int_eq(
		guest_pool(&guest, LINE_POOL_PERSISTENT | LINE_POOL_SHARED),
		LINE_EINVAL);
	ck_assert_int_eq(guest_pool(&guest, LINE_POOL_SHARED), LINE_EACCES);
	for (int n = 1; n < TMEM_POOLS_MAX; n++)
		ck_assert_int_eq(guest_pool(&guest, LINE_POOL_EPHEMERAL), n);
	ck_assert_int_eq(guest_pool(&guest, LINE_POOL_EPHEMERAL), LINE_ENOSPC);
	ck_assert_int_eq(line_phase(guest.line), LINE_SERVED);
	guest_close(&guest);
}
END_TEST

static int flush_range(int pool, uint32_t index, uint32_t count)
{
	struct line_entry e = guest_entry(LINE_OP_FLUSH_RANGE, pool, 1, index);

	e.count = count;
	return guest_call(&guest, 0, &e, NULL);
}

START_TEST(a_range_is_flushed_to_its_bounds)
{
	int pool;

	begin();
	pool = guest_pool(&guest, LINE_POOL_PERSISTENT);
	for (uint32_t i = 0; i < 8; i++)
		guest_put(&guest, pool, 1, i, page(i));
	guest_put(&guest, pool, 1, UINT32_MAX, page(9));
	guest_put(&guest, pool, 1, UINT32_MAX - 1, page(10));
	ck_assert_int_eq(flush_range(pool, 0, 0), 0);
	ck_assert_int_eq(flush_range(pool, 2, LINE_FLUSH_MAX + 1), LINE_EINVAL);
	ck_assert_int_eq(flush_range(pool, 2, UINT32_MAX), LINE_EINVAL);
	ck_assert_int_eq(flush_range(pool, UINT32_MAX, 2), LINE_EINVAL);
	ck_assert_uint_eq(stored(), 10);
	ck_assert_int_eq(flush_range(pool, 2, 3), 0);
	for (uint32_t i = 0; i < 8; i++)
		if (i < 2 || i > 4)
			expect(pool, 1, i, i);
		else
			expect_miss(pool, 1, i);
	ck_assert_int_eq(flush_range(pool, 0, LINE_FLUSH_MAX), 0);
	ck_assert_int_eq(flush_range(pool, UINT32_MAX, 1), 0);
	expect_miss(pool, 1, UINT32_MAX);
	expect(pool, 1, UINT32_MAX - 1, 10);
	guest_close(&guest);
}
END_TEST

START_TEST(two_guests_share_what_the_host_allows)
{
	static struct guest other;
	struct line_config theirs = config;
	uint8_t uuid[16];
	struct line_entry e =
		guest_entry(LINE_OP_POOL_CREATE, LINE_POOL_SHARED, 77, 0);
	unsigned char got[PAGE_BYTES];
	int mine, its;

	begin();
	theirs.name = "other";
	guest_open(&other, &theirs);
	guest_begin(&other);
	memcpy(uuid, e.oid, sizeof(uuid));
	tmem_client_auth(line_client(guest.line), uuid, true);
	ck_assert_int_eq(guest_call(&other, 0, &e, NULL), LINE_EACCES);
	tmem_client_auth(line_client(other.line), uuid, true);
	mine = guest_call(&guest, 0, &e, NULL);
	its = guest_call(&other, 0, &e, NULL);
	ck_assert_int_eq(mine, 0);
	ck_assert_int_eq(its, 0);
	ck_assert_int_eq(guest_put(&guest, mine, 1, 1, page(5)), 0);
	ck_assert_int_eq(guest_get(&other, its, 1, 1, got), 0);
	ck_assert_mem_eq(got, page(5), PAGE_BYTES);
	expect(mine, 1, 1, 5);
	guest_close(&other);
	guest_close(&guest);
}
END_TEST

START_TEST(frozen_and_full_are_told_apart)
{
	int pool;

	begin();
	pool = guest_pool(&guest, LINE_POOL_PERSISTENT);
	guest_put(&guest, pool, 0, 0, page(1));
	tmem_freeze(line_client(guest.line), true);
	ck_assert_int_eq(guest_put(&guest, pool, 0, 1, page(2)), LINE_EBUSY);
	ck_assert_int_eq(guest_put(&guest, pool, 0, 0, page(3)), 0);
	tmem_freeze(line_client(guest.line), false);
	tmem_client_set(line_client(guest.line), 1, 1, 0, true);
	ck_assert_int_eq(guest_put(&guest, pool, 0, 1, page(2)), LINE_ENOMEM);
	expect(pool, 0, 0, 3);
	ck_assert_uint_eq(counts().puts_refused, 2);
	guest_close(&guest);
}
END_TEST

/* ---- order, room, batches -------------------------------------------- */

START_TEST(requests_of_one_key_keep_their_order)
{
	struct line_entry put, flush;
	int pool;

	begin();
	pool = guest_pool(&guest, LINE_POOL_PERSISTENT);
	put = guest_entry(LINE_OP_PUT, pool, 1, 7);
	flush = guest_entry(LINE_OP_FLUSH_PAGE, pool, 1, 7);
	for (uint64_t n = 0; n < ROUNDS / 40; n++) {
		for (uint64_t i = 0; i < 3 + n % 90; i++)
			ck_assert_int_eq(
				guest_post(&guest, 0, &put, page(i + n)), 0);
		if (n % 3 == 0)
			ck_assert_int_eq(guest_post(&guest, 0, &flush, NULL),
					 0);
		if (n % 3 == 0)
			expect_miss(pool, 1, 7);
		else
			expect(pool, 1, 7, 2 + n % 90 + n);
	}
	guest_close(&guest);
}
END_TEST

/* The page is the guest's again as soon as it is posted. */
START_TEST(posted_page_may_be_reused_at_once)
{
	unsigned char buf[PAGE_BYTES];
	struct line_entry e;
	int pool;

	begin();
	pool = guest_pool(&guest, LINE_POOL_PERSISTENT);
	for (uint32_t i = 0; i < 1000; i++) {
		e = guest_entry(LINE_OP_PUT, pool, 1, i);
		memcpy(buf, page(i), PAGE_BYTES);
		ck_assert_int_eq(guest_post(&guest, 0, &e, buf), 0);
		memset(buf, 0xee, sizeof(buf));
	}
	for (uint32_t i = 0; i < 1000; i++)
		expect(pool, 1, i, i);
	guest_close(&guest);
}
END_TEST

START_TEST(head_is_stored_once_a_batch)
{
	struct line_entry nop = guest_entry(LINE_OP_NOP, 0, 0, 0);
	struct line_counts before;

	begin();
	before = counts();
	for (unsigned n = 0; n < 100; n++) {
		for (unsigned i = 0; i < LINE_ENTRIES_MIN; i++)
			ck_assert_int_eq(guest_post(&guest, 0, &nop, NULL), 0);
		ck_assert_int_eq(guest_drain(&guest, 0), 0);
	}
	ck_assert_uint_eq(counts().requests - before.requests,
			  100 * LINE_ENTRIES_MIN);
	ck_assert_uint_eq(counts().stores - before.stores,
			  100 * LINE_ENTRIES_MIN / LINE_BATCH);
	guest_close(&guest);
}
END_TEST

/* ---- sleeping and waking --------------------------------------------- */

struct caller {
	pthread_t thread;
	unsigned queue;
	uint64_t id;
	int pool;
};

/* Puts and gets of its own keys, each call waiting for its answer. */
static void *call_many(void *arg)
{
	struct caller *c = arg;
	struct rng rng = {c->id};
	struct line_entry e;
	unsigned char buf[PAGE_BYTES], was[PAGE_BYTES];

	for (uint32_t n = 0; n < ROUNDS / 8; n++) {
		e = guest_entry(LINE_OP_PUT, c->pool, c->id, n % 16);
		rng_fill(&rng, was, 64);
		memset(was + 64, (int)n, sizeof(was) - 64);
		memcpy(buf, was, sizeof(buf));
		ck_assert_int_eq(guest_call(&guest, c->queue, &e, buf), 0);
		e.op = LINE_OP_GET;
		memset(buf, 0, sizeof(buf));
		ck_assert_int_eq(guest_call(&guest, c->queue, &e, buf), 0);
		ck_assert_mem_eq(buf, was, sizeof(buf));
	}
	return NULL;
}

static void callers_run(unsigned n, unsigned queues, unsigned looks)
{
	struct caller caller[16];
	int pool;

	begin();
	guest.looks = looks;
	pool = guest_pool(&guest, LINE_POOL_PERSISTENT);
	for (unsigned i = 0; i < n; i++) {
		caller[i] = (struct caller){
			.queue = i % queues, .id = i, .pool = pool};
		ck_assert_int_eq(pthread_create(&caller[i].thread, NULL,
						call_many, &caller[i]),
				 0);
	}
	for (unsigned i = 0; i < n; i++)
		pthread_join(caller[i].thread, NULL);
}

/* Both sides sleep whenever they can. */
START_TEST(no_wakeup_is_lost_alone)
{
	callers_run(1, 1, 0);
	ck_assert_uint_gt(guest.queue[0].kicks, 0);
	ck_assert_uint_gt(counts().sleeps, 0);
	guest_close(&guest);
}
END_TEST

START_TEST(no_wakeup_is_lost_among_many)
{
	callers_run(8, 1, 0);
	ck_assert_uint_gt(guest.queue[0].kicks, 0);
	guest_close(&guest);
}
END_TEST

START_TEST(no_wakeup_is_lost_while_both_look_on)
{
	config.poll_ns = 20000;
	callers_run(8, 1, 100);
	guest_close(&guest);
}
END_TEST

START_TEST(queues_run_side_by_side)
{
	config.queues = 4;
	callers_run(8, 4, 20);
	for (unsigned n = 0; n < 4; n++)
		ck_assert_uint_gt(guest.queue[n].kicks, 0);
	guest_close(&guest);
}
END_TEST

/* A client that never looks at answers: only room makes it wait. */
static void *post_many(void *arg)
{
	struct caller *c = arg;
	struct line_entry e;

	for (uint32_t n = 0; n < ROUNDS / 4; n++) {
		e = guest_entry(LINE_OP_PUT, c->pool, c->id, n % 64);
		ck_assert_int_eq(guest_post(&guest, 0, &e, page(n % 64)), 0);
	}
	return NULL;
}

START_TEST(who_waits_for_room_is_woken)
{
	struct caller poster = {.id = 100}, caller = {.id = 200};
	unsigned char buf[PAGE_BYTES];
	struct line_entry e;

	begin();
	guest.looks = 0;
	poster.pool = caller.pool = guest_pool(&guest, LINE_POOL_PERSISTENT);
	pthread_create(&poster.thread, NULL, post_many, &poster);
	/* page() is the poster's meanwhile. */
	pthread_create(&caller.thread, NULL, call_many, &caller);
	pthread_join(poster.thread, NULL);
	pthread_join(caller.thread, NULL);
	ck_assert_int_eq(guest_drain(&guest, 0), 0);
	for (uint32_t i = 0; i < 64; i++) {
		e = guest_entry(LINE_OP_GET, poster.pool, 100, i);
		ck_assert_int_eq(guest_call(&guest, 0, &e, buf), 0);
		ck_assert_mem_eq(buf, page(i), PAGE_BYTES);
	}
	guest_close(&guest);
}
END_TEST

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

START_TEST(idle_line_costs_nothing)
{
	struct line_counts before, after;
	uint64_t cpu;

	config.poll_ns = 50000;
	begin();
	ck_assert_int_eq(guest_pool(&guest, LINE_POOL_PERSISTENT), 0);
	poll(NULL, 0, 20); /* the look for more ends */
	before = counts();
	cpu = cpu_ns();
	poll(NULL, 0, 500);
	cpu = cpu_ns() - cpu;
	after = counts();
	ck_assert_mem_eq(&before, &after, sizeof(before));
	if (!getenv("TEST_SLOW"))
		ck_assert_uint_lt(cpu, 1000000);
	guest_close(&guest);
}
END_TEST

/* ---- epochs ---------------------------------------------------------- */

START_TEST(nothing_moves_before_it_begins)
{
	guest_open(&guest, &config);
	ck_assert_int_eq(line_view_alive(&guest.view), LINE_EIO);
	ck_assert_int_eq(line_phase(guest.line), LINE_AWAITED);
	line_ring(guest.line, LINE_VECTOR_QUEUE);
	line_ring(guest.line, LINE_VECTORS_MAX + 5);
	ck_assert_uint_eq(counts().requests, 0);
	guest_close(&guest);
}
END_TEST

START_TEST(new_epoch_drops_everything)
{
	int pool;

	begin();
	for (unsigned round = 1; round < 20; round++) {
		uint32_t epoch = guest.view.epoch;

		pool = guest_pool(&guest, LINE_POOL_PERSISTENT);
		ck_assert_int_eq(pool, 0);
		for (uint32_t i = 0; i < 50; i++) {
			expect_miss(pool, 1, i);
			guest_put(&guest, pool, 1, i, page(i));
		}
		ck_assert_uint_eq(stored(), 50);
		guest_begin(&guest);
		ck_assert_uint_ne(guest.view.epoch, epoch);
		ck_assert_uint_eq(stored(), 0);
		expect_miss(pool, 1, 1);
		ck_assert_uint_eq(counts().begins, round + 1);
	}
	guest_close(&guest);
}
END_TEST

START_TEST(new_epoch_drops_every_pool)
{
	begin();
	for (int pool = 0; pool < TMEM_POOLS_MAX; pool++) {
		ck_assert_int_eq(guest_pool(&guest, LINE_POOL_EPHEMERAL), pool);
		guest_put(&guest, pool, 1, 1, page(1));
	}
	ck_assert_uint_eq(stored(), TMEM_POOLS_MAX);
	guest_begin(&guest);
	ck_assert_uint_eq(stored(), 0);
	for (int pool = 0; pool < TMEM_POOLS_MAX; pool++)
		ck_assert_int_eq(guest_pool(&guest, LINE_POOL_EPHEMERAL), pool);
	guest_close(&guest);
}
END_TEST

/* The host is in the midst of a full ring, and must not act on it later. */
START_TEST(epoch_ends_requests_under_way)
{
	struct line_entry e;
	int pool;

	begin();
	for (unsigned round = 0; round < ROUNDS / 100; round++) {
		pool = guest_pool(&guest, LINE_POOL_PERSISTENT);
		ck_assert_int_eq(pool, 0);
		for (uint32_t i = 0; i < LINE_ENTRIES_MIN; i++) {
			e = guest_entry(LINE_OP_PUT, pool, 1, i);
			guest_post(&guest, 0, &e, page(i));
		}
		if (line_tx_publish(&guest.queue[0].tx))
			line_ring(guest.line, LINE_VECTOR_QUEUE);
		guest_begin(&guest);
		ck_assert_uint_eq(stored(), 0);
		ck_assert_int_eq(guest_drain(&guest, 0), 0);
		ck_assert_int_eq(call(LINE_OP_NOP, 0, 0, 0), 0);
		ck_assert_uint_eq(stored(), 0);
	}
	ck_assert_uint_eq(counts().breaks, 0);
	guest_close(&guest);
}
END_TEST

START_TEST(end_and_hang_up_free_everything)
{
	struct tmem_stats st;

	begin();
	guest_put(&guest, guest_pool(&guest, LINE_POOL_PERSISTENT), 1, 1,
		  page(1));
	guest_end(&guest);
	ck_assert_uint_eq(stored(), 0);
	ck_assert_int_eq(line_phase(guest.line), LINE_AWAITED);
	guest_begin(&guest);
	guest_put(&guest, guest_pool(&guest, LINE_POOL_PERSISTENT), 1, 1,
		  page(1));
	line_hang_up(guest.line);
	while (line_phase(guest.line) != LINE_AWAITED)
		poll(NULL, 0, 1);
	ck_assert_int_eq(line_view_alive(&guest.view), LINE_EIO);
	tmem_stats(tm, &st);
	ck_assert_uint_eq(st.pages, 0);
	guest_begin(&guest);
	ck_assert_int_eq(guest_pool(&guest, LINE_POOL_PERSISTENT), 0);
	guest_close(&guest);
	ck_assert_uint_eq(stored(), 0);
}
END_TEST

static void *call_until_gone(void *arg)
{
	struct caller *c = arg;
	unsigned char buf[PAGE_BYTES];
	struct line_entry e;
	int rc = 0;

	for (uint32_t n = 0; !rc; n++) {
		e = guest_entry(n % 2 ? LINE_OP_GET : LINE_OP_PUT, c->pool,
				c->id, n / 2 % 64);
		memset(buf, (int)n, sizeof(buf));
		rc = guest_call(&guest, c->queue, &e, buf);
		ck_assert(rc == 0 || rc == LINE_EIO);
	}
	return NULL;
}

/* Nobody waits for ever, and what was under way ends as an error. */
START_TEST(host_that_goes_is_noticed_by_all)
{
	struct caller caller[6];
	int pool;

	config.queues = 2;
	guest_open_apart(&guest, &config);
	guest_begin(&guest);
	guest.looks = 5;
	pool = guest_pool(&guest, LINE_POOL_PERSISTENT);
	for (unsigned i = 0; i < ARRAY_LEN(caller); i++) {
		caller[i] =
			(struct caller){.queue = i % 2, .id = i, .pool = pool};
		pthread_create(&caller[i].thread, NULL, call_until_gone,
			       &caller[i]);
	}
	poll(NULL, 0, 50);
	guest_orphan(&guest);
	for (unsigned i = 0; i < ARRAY_LEN(caller); i++)
		pthread_join(caller[i].thread, NULL);
	ck_assert_int_eq(line_view_alive(&guest.view), LINE_EIO);
	ck_assert_uint_eq(stored(), 0);
	guest_close(&guest);
}
END_TEST

/* The line hears of both at once, in the worst case. */
START_TEST(guest_after_a_hang_up_is_not_taken_for_the_last)
{
	begin();
	for (unsigned n = 0; n < ROUNDS / 40; n++) {
		ck_assert_int_eq(guest_pool(&guest, LINE_POOL_PERSISTENT), 0);
		ck_assert_int_eq(guest_put(&guest, 0, 1, 1, page(n)), 0);
		line_hang_up(guest.line);
		guest_begin(&guest);
		ck_assert_uint_eq(stored(), 0);
	}
	guest_close(&guest);
}
END_TEST

START_TEST(settings_and_counters_cross)
{
	struct line_settings want = {.swap_pages = 1000,
				     .swap_priority = -7,
				     .ephemeral = true,
				     .balloon_pages = 55};
	struct line_stats stats = {.swap_writes = 3, .refaults = 9}, seen;
	struct line_wishes wishes;
	uint64_t told;
	uint32_t count;

	begin();
	line_view_wishes(&guest.view, &wishes);
	count = wishes.count;
	told = guest.told_count;
	line_settings_set(guest.line, &want);
	line_view_wishes(&guest.view, &wishes);
	ck_assert_uint_ne(wishes.count, count);
	ck_assert_uint_eq(wishes.swap_pages, 1000);
	ck_assert_int_eq(wishes.swap_priority, -7);
	ck_assert_uint_eq(wishes.balloon_pages, 55);
	ck_assert(wishes.ephemeral);
	ck_assert_uint_gt(guest.told_count, told);
	line_view_stats(&guest.view, &stats);
	line_guest_stats(guest.line, &seen);
	ck_assert_mem_eq(&seen, &stats, sizeof(seen));
	guest_close(&guest);
}
END_TEST

static TCase *case_add(Suite *suite, const char *name)
{
	TCase *tc = tcase_create(name);

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	suite_add_tcase(suite, tc);
	return tc;
}

static void cases_add(Suite *suite)
{
	TCase *tc = case_add(suite, "operations");

	tcase_add_test(tc, line_settings_outside_the_abi_are_refused);
	tcase_add_test(tc, every_operation_gives_its_result);
	tcase_add_test(tc, same_filled_and_poor_pages_come_back);
	tcase_add_test(tc, nonsense_is_refused_and_counted);
	tcase_add_test(tc, a_range_is_flushed_to_its_bounds);
	tcase_add_test(tc, two_guests_share_what_the_host_allows);
	tcase_add_test(tc, frozen_and_full_are_told_apart);
	tc = case_add(suite, "order");
	tcase_add_test(tc, requests_of_one_key_keep_their_order);
	tcase_add_test(tc, posted_page_may_be_reused_at_once);
	tcase_add_test(tc, head_is_stored_once_a_batch);
	tc = case_add(suite, "sleep");
	tcase_add_test(tc, no_wakeup_is_lost_alone);
	tcase_add_test(tc, no_wakeup_is_lost_among_many);
	tcase_add_test(tc, no_wakeup_is_lost_while_both_look_on);
	tcase_add_test(tc, queues_run_side_by_side);
	tcase_add_test(tc, who_waits_for_room_is_woken);
	tcase_add_test(tc, idle_line_costs_nothing);
	tc = case_add(suite, "epochs");
	tcase_add_test(tc, nothing_moves_before_it_begins);
	tcase_add_test(tc, new_epoch_drops_everything);
	tcase_add_test(tc, new_epoch_drops_every_pool);
	tcase_add_test(tc, epoch_ends_requests_under_way);
	tcase_add_test(tc, end_and_hang_up_free_everything);
	tcase_add_loop_test(tc, host_that_goes_is_noticed_by_all, 0, 5);
	tcase_add_test(tc, guest_after_a_hang_up_is_not_taken_for_the_last);
	tcase_add_test(tc, settings_and_counters_cross);
}

int main(void)
{
	Suite *suite = suite_create("line");

	cases_add(suite);
	return suite_run(suite);
}
