/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The laws of the store as a guest meets them through the line, against a naive
 * model: an array of keys, each with the seed of the page it should hold.
 * Threads of one guest put, get and flush over two queues, some with answers
 * and some without, under locks over the keys, while the host freezes, evicts,
 * caps and checks, and while the guest begins again now and then.
 *
 * LINE_MODEL_OPS=N: so many operations in all.
 *
 * What a get may return:
 *   persistent   exactly the model's page, or a miss exactly where it has none
 *   ephemeral    the model's page or a miss; after a miss or a get, a miss
 *
 * A put without an answer may have been refused, so only ephemeral pools see
 * those. An object's requests all use one queue, which keeps their order.
 */
#include "tests/support/guest.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS 6
#define QUEUES	2
#define POOLS	4 /* the first half persistent */
#define OBJECTS 4
#define INDEXES 128
#define KEYS	(POOLS * OBJECTS * INDEXES)
#define BUDGET	((uint64_t)2 << 20)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OPS 30000
#else
#define OPS 200000
#endif

static struct tmem *tm;
static struct guest guest;
static uint64_t seed_of[KEYS];			 /* 0: none */
static pthread_mutex_t lock_of[POOLS * OBJECTS]; /* an object's keys */
static pthread_rwlock_t life;			 /* of the epoch */
static _Atomic bool stop;
static _Atomic uint64_t hits, refused;
static unsigned epochs;

static bool persistent(unsigned k)
{
	return k / (OBJECTS * INDEXES) < POOLS / 2;
}

static unsigned object_of(unsigned k)
{
	return k / INDEXES;
}

static struct line_entry entry_of(enum line_op op, unsigned k)
{
	return guest_entry(op, (int)(k / (OBJECTS * INDEXES)), object_of(k),
			   k % INDEXES * 3);
}

static int call(struct line_entry *e, unsigned k, void *page)
{
	return guest_call(&guest, object_of(k) % QUEUES, e, page);
}

static int post(struct line_entry *e, unsigned k, void *page)
{
	return guest_post(&guest, object_of(k) % QUEUES, e, page);
}

/* Same-filled, raw, or compressing to any size; often one of a few. */
static void page_make(uint64_t seed, unsigned char *page)
{
	struct rng rng = {seed};
	size_t random;

	memset(page, (int)(seed >> 8 & 0xff), PAGE_BYTES);
	if (seed % 8 == 0)
		return;
	random = seed % 8 == 1 ? PAGE_BYTES : rng_below(&rng, PAGE_BYTES + 1);
	rng_fill(&rng, page, random);
	memcpy(page + rng_below(&rng, PAGE_BYTES / 8) * 8, &seed, 8);
}

static uint64_t seed_make(struct rng *rng)
{
	uint64_t seed = rng_next(rng);

	if (seed % 4 == 3)
		seed = 3 + rng_below(rng, 64) * 8;
	return seed | (uint64_t)1 << 63;
}

static void try_put(unsigned k, struct rng *rng)
{
	unsigned char page[PAGE_BYTES];
	struct line_entry e = entry_of(LINE_OP_PUT, k);
	uint64_t seed = seed_make(rng);
	int rc;

	page_make(seed, page);
	if (!persistent(k) && rng_below(rng, 2)) {
		ck_assert_int_eq(post(&e, k, page), 0);
		seed_of[k] = seed;
		return;
	}
	rc = call(&e, k, page);
	if (rc == 0) {
		seed_of[k] = seed;
		return;
	}
	ck_assert(rc == LINE_EBUSY || rc == LINE_ENOMEM);
	if (rc == LINE_EBUSY && persistent(k))
		ck_assert_uint_eq(seed_of[k], 0);
	seed_of[k] = 0;
	refused++;
}

static void try_get(unsigned k)
{
	unsigned char page[PAGE_BYTES], want[PAGE_BYTES];
	struct line_entry e = entry_of(LINE_OP_GET, k);
	int rc = call(&e, k, page);

	if (rc == 0) {
		ck_assert_uint_ne(seed_of[k], 0);
		page_make(seed_of[k], want);
		ck_assert_mem_eq(page, want, PAGE_BYTES);
		hits++;
	} else {
		ck_assert_int_eq(rc, LINE_ENOENT);
		if (persistent(k))
			ck_assert_uint_eq(seed_of[k], 0);
	}
	if (!persistent(k))
		seed_of[k] = 0;
}

static void flush(enum line_op op, unsigned k, uint32_t count, struct rng *rng)
{
	struct line_entry e = entry_of(op, k);

	e.count = count;
	if (rng_below(rng, 2))
		ck_assert_int_eq(post(&e, k, NULL), 0);
	else
		ck_assert_int_eq(call(&e, k, NULL), 0);
}

static void try_flush(unsigned k, struct rng *rng)
{
	unsigned last = k / INDEXES * INDEXES + INDEXES;
	unsigned n = 1 + (unsigned)rng_below(rng, 40);

	if (rng_below(rng, 4)) {
		flush(LINE_OP_FLUSH_PAGE, k, 0, rng);
		seed_of[k] = 0;
	} else if (rng_below(rng, 64)) {
		n = k + n > last ? last - k : n;
		flush(LINE_OP_FLUSH_RANGE, k, n * 3 - 2, rng);
		memset(&seed_of[k], 0, n * sizeof(seed_of[k]));
	} else {
		flush(LINE_OP_FLUSH_OBJECT, k, 0, rng);
		memset(&seed_of[last - INDEXES], 0,
		       INDEXES * sizeof(seed_of[k]));
	}
}

static void step(struct rng *rng)
{
	unsigned k = (unsigned)rng_below(rng, KEYS);
	unsigned what = (unsigned)rng_below(rng, 20);

	pthread_rwlock_rdlock(&life);
	pthread_mutex_lock(&lock_of[object_of(k)]);
	if (what < 10)
		try_put(k, rng);
	else if (what < 18)
		try_get(k);
	else
		try_flush(k, rng);
	pthread_mutex_unlock(&lock_of[object_of(k)]);
	pthread_rwlock_unlock(&life);
}

static unsigned long ops_wanted(void)
{
	const char *ops = getenv("LINE_MODEL_OPS");

	return ops ? strtoul(ops, NULL, 10) : OPS;
}

struct worker {
	pthread_t thread;
	struct rng rng;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned long n = 0; n < ops_wanted() / WORKERS; n++)
		step(&w->rng);
	return NULL;
}

/* ---- what happens meanwhile ------------------------------------------ */

static void pools_make(void)
{
	for (int p = 0; p < POOLS; p++)
		ck_assert_int_eq(
			guest_pool(&guest, p < POOLS / 2 ? LINE_POOL_PERSISTENT
							 : LINE_POOL_EPHEMERAL),
			p);
}

/* Requests without answers may be under way; they must not be met later. */
static void begin_again(void)
{
	pthread_rwlock_wrlock(&life);
	guest_begin(&guest);
	pools_make();
	memset(seed_of, 0, sizeof(seed_of));
	epochs++;
	pthread_rwlock_unlock(&life);
}

static void disturb(struct rng *rng)
{
	struct tmem_client *cl = line_client(guest.line);
	struct line_settings want = {.swap_pages = rng_next(rng)};

	switch (rng_below(rng, 7)) {
	case 0:
		tmem_freeze(cl, rng_below(rng, 4) == 0);
		break;
	case 1:
		(void)tmem_flush(tm, rng_below(rng, 64 * PAGE_BYTES));
		break;
	case 2:
		if (rng_below(rng, 32) == 0)
			ck_assert_int_eq(tmem_check(tm), 0);
		break;
	case 3:
		if (rng_below(rng, 256) == 0)
			begin_again();
		break;
	case 4:
		line_settings_set(guest.line, &want);
		break;
	case 5:
		tmem_client_lend(cl, rng_below(rng, 4)
					     ? UINT64_MAX
					     : rng_below(rng, BUDGET));
		break;
	default:
		tmem_client_set(cl, 1 + (uint32_t)rng_below(rng, 9),
				(rng_below(rng, 4) == 0) *
					rng_below(rng, BUDGET),
				rng_below(rng, BUDGET), rng_below(rng, 4));
	}
}

static void *trouble(void *arg)
{
	struct worker *w = arg;

	while (!stop) {
		disturb(&w->rng);
		nanosleep(&(struct timespec){0, 200000}, NULL);
	}
	return NULL;
}

static void life_init(void)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(
		&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&life, &attr);
	pthread_rwlockattr_destroy(&attr);
}

static void start(void)
{
	struct line_config config = {.name = "guest",
				     .queues = QUEUES,
				     .entries = LINE_ENTRIES_MIN,
				     .poll_ns = 5000};

	ck_assert_int_eq(tmem_create(BUDGET, &tm), 0);
	config.tm = tm;
	guest_open(&guest, &config);
	guest_begin(&guest);
	pools_make();
	life_init();
	for (size_t n = 0; n < ARRAY_LEN(lock_of); n++)
		pthread_mutex_init(&lock_of[n], NULL);
}

static void finish(void)
{
	struct tmem_stats st;
	struct line_counts c;

	tmem_stats(tm, &st);
	line_counts(guest.line, &c);
	printf("%" PRIu64 " requests, %" PRIu64 " hits, %" PRIu64
	       " puts refused, %" PRIu64 " pages evicted, %u epochs\n",
	       c.requests, hits, refused, st.evictions, epochs);
	ck_assert_uint_gt(st.evictions, 0);
	ck_assert_uint_gt(hits, OPS / 50);
	ck_assert_uint_gt(refused, 0);
	ck_assert_uint_eq(c.breaks, 0);
	ck_assert_uint_eq(c.rejects, 0);
	for (unsigned k = 0; k < KEYS; k++)
		try_get(k);
	ck_assert_int_eq(tmem_check(tm), 0);
	guest_end(&guest);
	tmem_stats(tm, &st);
	ck_assert_uint_eq(st.pages, 0);
	guest_close(&guest);
	tmem_destroy(tm);
}

START_TEST(laws_hold_through_the_line)
{
	struct worker worker[WORKERS + 1];
	struct rng rng;

	rng_start(&rng, "laws_hold_through_the_line");
	start();
	for (unsigned n = 0; n <= WORKERS; n++) {
		worker[n].rng.state = rng_next(&rng);
		ck_assert_int_eq(pthread_create(&worker[n].thread, NULL,
						n < WORKERS ? work : trouble,
						&worker[n]),
				 0);
	}
	for (unsigned n = 0; n < WORKERS; n++)
		pthread_join(worker[n].thread, NULL);
	stop = true;
	pthread_join(worker[WORKERS].thread, NULL);
	finish();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("line_model");
	TCase *tc = tcase_create("line_model");

	tcase_set_timeout(tc, getenv("LINE_MODEL_OPS") ? 3600 : 120);
	tcase_add_test(tc, laws_hold_through_the_line);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
