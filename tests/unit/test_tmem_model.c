/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The laws of tmem against a naive model: an array of keys, each with the seed
 * of the page it should hold. Random operations; one thread, and eight that
 * share the model under locks over its keys while a ninth changes everything
 * that must not matter (compression, weights, caps, freezing, eviction, all
 * that is ephemeral taken at once, checks, saving a running client and
 * restoring it). A quarter of the pages are of a few contents, so that they are
 * stored once and part again; half of the puts are dense.
 *
 * TMEM_MODEL_OPS=N makes the threads do N operations in all (10 million take
 * about two minutes). TMEM_MODEL_MIB=N is the budget under pressure, 16 unless
 * told: half of what the keys would take.
 *
 * What a get may return:
 *   persistent   exactly the model's page, or a miss exactly where it has none
 *   ephemeral    the model's page or a miss; after a miss or a get, a miss
 *   shared       the model's page or a miss; after a miss, a miss
 */
#include "hv/mm/dense.h"
#include "tmem/store.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define THREADS 8
#define OBJECTS 4
#define INDEXES 1536 /* of an object: several shards, partly full leaves */
#define POOLS	5
#define KEYS	(POOLS * OBJECTS * INDEXES)
#define CLIENTS 2
#define READERS 2  /* of the denser codec */
#define STRIPES 24 /* locks over the keys of an object; TSan allows 64 */

struct model_key {
	uint64_t seed; /* of the page; 0: none */
};

struct world {
	struct tmem *tm;
	struct tmem_client *cl[CLIENTS];
	struct dense *dense;
	int pool[POOLS];
	bool persistent[POOLS];
	pthread_rwlock_t life; /* of the pools */
	unsigned restores;
	bool dense_seen;
	unsigned takes; /* of all that is ephemeral, at once */
	struct model_key key[KEYS];
	pthread_mutex_t lock[POOLS * OBJECTS * STRIPES];
	_Atomic bool stop;
	bool freezes; /* a put may be refused with -EBUSY */
	bool caps;    /* a put may be refused with -ENOMEM */
	bool pressed; /* the budget must have made it drop pages */
};

static struct world world;

static const uint8_t uuid[16] = {5, 4, 3, 2, 1};

/* The last pool is shared: both clients have it, under one id. */
#define SHARED_POOL (POOLS - 1)

/* A page told by its seed: same-filled, raw, or compressing to any size. */
static void page_make(uint64_t seed, unsigned char *page)
{
	struct rng rng = {seed};
	uint64_t word = rng_next(&rng);
	size_t random;

	if (seed % 8 == 0) {
		if (seed % 16 == 0)
			word = 0;
		for (size_t i = 0; i < PAGE_BYTES; i += sizeof(word))
			memcpy(page + i, &word, sizeof(word));
		return;
	}
	random = seed % 8 == 1 ? PAGE_BYTES : rng_below(&rng, PAGE_BYTES + 1);
	memset(page, (int)(word & 0xff), PAGE_BYTES);
	rng_fill(&rng, page, random);
	/* No two seeds make the same page. */
	memcpy(page + rng_below(&rng, PAGE_BYTES / 8) * 8, &seed, 8);
}

static unsigned pool_of(unsigned k)
{
	return k / (OBJECTS * INDEXES);
}

static struct tmem_client *client_of(const struct world *w, unsigned k)
{
	static _Atomic unsigned turn;

	if (pool_of(k) == SHARED_POOL)
		return w->cl[turn++ % CLIENTS];
	return w->cl[pool_of(k) % CLIENTS];
}

static struct tmem_oid oid_of(unsigned k)
{
	uint64_t n = k / INDEXES % OBJECTS;

	return (struct tmem_oid){{n & 1, n >> 1, UINT64_MAX - n}};
}

/* Spread over the whole range of an index, its two ends included. */
static uint32_t index_of(unsigned k)
{
	uint32_t n = k % INDEXES;

	return n < INDEXES / 2 ? n : UINT32_MAX - (INDEXES - 1 - n) * 3;
}

static pthread_mutex_t *lock_of(struct world *w, unsigned k)
{
	return &w->lock[k / INDEXES * STRIPES + k % STRIPES];
}

typedef int put_fn(struct tmem_client *, int, const struct tmem_oid *, uint32_t,
		   const void *);

static void try_put(struct world *w, unsigned k, struct rng *rng)
{
	unsigned char page[PAGE_BYTES];
	struct model_key *key = &w->key[k];
	struct tmem_oid oid = oid_of(k);
	uint64_t seed = rng_next(rng);
	put_fn *put = rng_below(rng, 2) ? tmem_put_dense : tmem_put;
	int rc;

	if (seed % 4 == 3)
		seed = 3 + rng_below(rng, 64) * 8; /* often the same */
	seed |= (uint64_t)1 << 63;

	page_make(seed, page);
	rc = put(client_of(w, k), w->pool[pool_of(k)], &oid, index_of(k), page);
	memset(page, 0xa5, sizeof(page)); /* it is the guest's again */
	if (rc == 0) {
		key->seed = seed;
		return;
	}
	if (rc == -EBUSY) {
		ck_assert(w->freezes);
		if (w->persistent[pool_of(k)])
			ck_assert_uint_eq(key->seed, 0);
	} else {
		ck_assert_int_eq(rc, -ENOMEM);
		ck_assert(w->caps);
	}
	key->seed = 0;
}

static void try_get(struct world *w, unsigned k)
{
	unsigned char page[PAGE_BYTES];
	unsigned char want[PAGE_BYTES];
	struct model_key *key = &w->key[k];
	struct tmem_oid oid = oid_of(k);
	bool persistent = w->persistent[pool_of(k)];
	int rc = tmem_get(client_of(w, k), w->pool[pool_of(k)], &oid,
			  index_of(k), page);

	if (rc == 0) {
		ck_assert_uint_ne(key->seed, 0);
		page_make(key->seed, want);
		ck_assert_mem_eq(page, want, PAGE_BYTES);
	} else {
		ck_assert_int_eq(rc, -ENOENT);
		if (persistent)
			ck_assert_uint_eq(key->seed, 0);
	}
	if (!persistent && (rc || pool_of(k) != SHARED_POOL))
		key->seed = 0;
}

static void try_flush(struct world *w, unsigned k)
{
	struct tmem_oid oid = oid_of(k);

	ck_assert_int_eq(tmem_flush_page(client_of(w, k), w->pool[pool_of(k)],
					 &oid, index_of(k)),
			 0);
	w->key[k].seed = 0;
}

static void try_flush_object(struct world *w, unsigned k)
{
	struct tmem_oid oid = oid_of(k);
	unsigned first = k / INDEXES * INDEXES;

	for (unsigned i = 0; i < STRIPES; i++)
		pthread_mutex_lock(lock_of(w, first + i));
	ck_assert_int_eq(
		tmem_flush_object(client_of(w, k), w->pool[pool_of(k)], &oid),
		0);
	for (unsigned i = 0; i < INDEXES; i++)
		w->key[first + i].seed = 0;
	for (unsigned i = 0; i < STRIPES; i++)
		pthread_mutex_unlock(lock_of(w, first + i));
}

static void step_any(struct world *w, struct rng *rng)
{
	unsigned k = (unsigned)rng_below(rng, KEYS);
	unsigned what = (unsigned)rng_below(rng, 2000);

	if (what == 0) {
		try_flush_object(w, k);
		return;
	}
	pthread_mutex_lock(lock_of(w, k));
	if (what < 1000)
		try_put(w, k, rng);
	else if (what < 1800)
		try_get(w, k);
	else
		try_flush(w, k);
	pthread_mutex_unlock(lock_of(w, k));
}

static void step(struct world *w, struct rng *rng)
{
	pthread_rwlock_rdlock(&w->life);
	step_any(w, rng);
	pthread_rwlock_unlock(&w->life);
}

static void ballast_holds(const struct tmem *tm)
{
	struct tmem_stats st;

	tmem_stats(tm, &st);
	ck_assert_uint_eq(st.stored_bytes + st.metadata_bytes + st.slack_bytes,
			  st.used_bytes);
	ck_assert_uint_eq(st.pages_ephemeral + st.pages_persistent, st.pages);
}

static void forget(struct world *w, unsigned c, bool persistent)
{
	for (unsigned k = 0; k < KEYS; k++)
		if (pool_of(k) != SHARED_POOL && pool_of(k) % CLIENTS == c &&
		    w->persistent[pool_of(k)] == persistent)
			w->key[k].seed = 0;
}

static void pools_make(struct world *w, unsigned c)
{
	for (unsigned p = 0; p < POOLS; p++) {
		uint32_t flags = TMEM_EPHEMERAL;

		if (p == SHARED_POOL)
			flags = TMEM_SHARED;
		else if (p % CLIENTS != c)
			continue;
		else if (w->persistent[p])
			flags = TMEM_PERSISTENT;
		w->pool[p] = tmem_pool_create(w->cl[c], flags, uuid);
		ck_assert_int_ge(w->pool[p], 0);
	}
}

static void pools_end(struct world *w, unsigned c)
{
	for (unsigned p = 0; p < POOLS; p++)
		if (p == SHARED_POOL || p % CLIENTS == c)
			ck_assert_int_eq(
				tmem_pool_destroy(w->cl[c], w->pool[p]), 0);
}

/* All others wait. The client's pools end, and return from the stream. */
static void reincarnate(struct world *w, unsigned c, struct tmem_saver *saver,
			int fd)
{
	int rc;

	ck_assert_int_eq(tmem_save_end(saver), 0);
	pools_end(w, c);
	forget(w, c, false);
	ck_assert_int_eq(tmem_client_set(w->cl[c], 1, 0, 0, true), 0);
	ck_assert_int_eq(lseek(fd, 0, SEEK_SET), 0);
	rc = tmem_restore(w->cl[c], fd);
	if (rc == 0) {
		w->restores++;
		return;
	}
	/* In another order, the same may not fit to the last byte. */
	ck_assert_int_eq(rc, -ENOMEM);
	ck_assert(w->pressed);
	forget(w, c, true);
	pools_make(w, c);
}

/* A client is streamed while its guest runs, then restored from that. */
static void migrate(struct world *w, struct rng *rng)
{
	unsigned c = (unsigned)rng_below(rng, CLIENTS);
	int fd = memfd_create("stream", MFD_CLOEXEC);
	struct tmem_saver *saver;
	uint64_t pages;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(tmem_save_begin(w->cl[c], fd, &saver), 0);
	for (uint64_t n = rng_below(rng, 3); n; n--)
		ck_assert_int_eq(tmem_save_pass(saver, &pages), 0);
	pthread_rwlock_wrlock(&w->life);
	reincarnate(w, c, saver, fd);
	pthread_rwlock_unlock(&w->life);
	close(fd);
}

/* Some pages, or all that may go, at once. */
static void flush(struct world *w, struct rng *rng)
{
	const struct shelf *shelf = w->tm->shelf[KIND_EPHEMERAL];
	struct tmem_stats st;
	bool all;

	/* Of few there would always be few. */
	tmem_stats(w->tm, &st);
	w->dense_seen |= st.pages_dense != 0;
	all = st.pages_ephemeral >= 128 && rng_below(rng, 2);
	(void)tmem_flush(w->tm,
			 all ? UINT64_MAX : rng_below(rng, 64 * PAGE_BYTES));
	w->takes += w->tm->shelf[KIND_EPHEMERAL] != shelf;
}

/* Nothing, some, or all that it wants. */
static void lend(struct world *w, struct tmem_client *cl, struct rng *rng)
{
	const struct shelf *shelf = w->tm->shelf[KIND_EPHEMERAL];
	uint64_t bytes = UINT64_MAX;

	if (w->caps && rng_below(rng, 4) == 0)
		bytes = rng_below(rng, 4) ? rng_below(rng, 8 << 20) : 0;
	tmem_client_lend(cl, bytes);
	w->takes += w->tm->shelf[KIND_EPHEMERAL] != shelf;
}

static void disturb(struct world *w, struct rng *rng)
{
	struct tmem_client *cl = w->cl[rng_below(rng, CLIENTS)];
	uint64_t cap = 0;

	switch (rng_below(rng, 8)) {
	case 0:
		if (w->freezes)
			ck_assert_int_eq(tmem_freeze(cl, rng_below(rng, 2)), 0);
		break;
	case 1:
		flush(w, rng);
		break;
	case 2:
		ballast_holds(w->tm);
		break;
	case 3:
		if (rng_below(rng, 16) == 0)
			ck_assert_int_eq(tmem_check(w->tm), 0);
		break;
	case 4:
		if (rng_below(rng, 8) == 0)
			migrate(w, rng);
		break;
	case 5:
		lend(w, cl, rng);
		break;
	default:
		if (w->caps && rng_below(rng, 2))
			cap = (1 + rng_below(rng, 8)) << 20;
		ck_assert_int_eq(
			tmem_client_set(cl, 1 + (uint32_t)rng_below(rng, 9),
					cap, rng_below(rng, 1 << 22),
					rng_below(rng, 4)),
			0);
	}
}

static void life_init(pthread_rwlock_t *life)
{
	pthread_rwlockattr_t attr;

	/* Or eight readers would never let a restore begin. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(
		&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(life, &attr);
	pthread_rwlockattr_destroy(&attr);
}

static void world_start(struct world *w, uint64_t budget)
{
	memset(w, 0, sizeof(*w));
	w->pressed = budget != 0;
	ck_assert_int_eq(tmem_create(budget, &w->tm), 0);
	ck_assert_int_eq(dense_create(&host_real, READERS, &w->dense), 0);
	life_init(&w->life);
	for (unsigned p = 0; p < POOLS; p++)
		w->persistent[p] = p < POOLS / 2;
	for (unsigned c = 0; c < CLIENTS; c++) {
		ck_assert_int_eq(tmem_client_create(w->tm, "guest", &w->cl[c]),
				 0);
		ck_assert_int_eq(tmem_client_auth(w->cl[c], uuid, true), 0);
		ck_assert_int_eq(
			tmem_client_dense(w->cl[c], dense_ops(w->dense)), 0);
		pools_make(w, c);
	}
	for (size_t n = 0; n < ARRAY_LEN(w->lock); n++)
		pthread_mutex_init(&w->lock[n], NULL);
}

static void world_end(struct world *w)
{
	struct tmem_stats st;

	tmem_stats(w->tm, &st);
	/* Not now, perhaps: all may just have been taken, the rest restored. */
	ck_assert(w->dense_seen || st.pages_dense);
	if (w->pressed)
		ck_assert_uint_gt(st.evictions, 0);
	for (unsigned k = 0; k < KEYS; k++)
		try_get(w, k);
	ck_assert_int_eq(tmem_check(w->tm), 0);
	ballast_holds(w->tm);
	for (unsigned c = 0; c < CLIENTS; c++)
		pools_end(w, c);
	tmem_stats(w->tm, &st);
	ck_assert_uint_eq(st.pages_shared, 0);
	ck_assert_uint_eq(st.pages, 0);
	ck_assert_uint_eq(st.stored_bytes, 0);
	ck_assert_uint_eq(st.slack_bytes, 0);
	ck_assert_int_eq(tmem_check(w->tm), 0);
	for (size_t n = 0; n < ARRAY_LEN(w->lock); n++)
		pthread_mutex_destroy(&w->lock[n]);
	pthread_rwlock_destroy(&w->life);
	tmem_destroy(w->tm);
	dense_destroy(w->dense);
}

static unsigned steps(unsigned normal)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return normal / 4;
#else
	return normal;
#endif
}

static void run_alone(const char *what, uint64_t budget, bool disturbed)
{
	struct rng rng;

	rng_start(&rng, what);
	world_start(&world, budget);
	world.freezes = disturbed;
	world.caps = disturbed || budget;
	for (unsigned n = 0; n < steps(200000); n++) {
		step(&world, &rng);
		if (disturbed && n % 64 == 0)
			disturb(&world, &rng);
		if (n % 50000 == 0)
			ck_assert_int_eq(tmem_check(world.tm), 0);
	}
	world_end(&world);
}

START_TEST(laws_hold_undisturbed)
{
	run_alone("laws_hold_undisturbed", 0, false);
}
END_TEST

START_TEST(laws_hold_under_pressure)
{
	run_alone("laws_hold_under_pressure", 12 << 20, false);
}
END_TEST

START_TEST(laws_hold_whatever_changes)
{
	run_alone("laws_hold_whatever_changes", 16 << 20, true);
}
END_TEST

struct worker {
	pthread_t thread;
	struct rng rng;
};

/* 0: not set */
static unsigned long ops_wanted(void)
{
	const char *ops = getenv("TMEM_MODEL_OPS");

	return ops ? strtoul(ops, NULL, 10) : 0;
}

static uint64_t budget_wanted(void)
{
	const char *mib = getenv("TMEM_MODEL_MIB");

	return (mib ? strtoull(mib, NULL, 10) : 16) << 20;
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	unsigned long ops = ops_wanted();

	ops = ops ? ops / THREADS : steps(40000);
	for (unsigned long n = 0; n < ops; n++)
		step(&world, &worker->rng);
	return NULL;
}

static void *trouble(void *arg)
{
	struct worker *worker = arg;

	while (!world.stop)
		disturb(&world, &worker->rng);
	return NULL;
}

static void run_together(const char *what, uint64_t budget)
{
	struct worker worker[THREADS + 1];
	struct tmem_stats st;
	struct rng rng;

	rng_start(&rng, what);
	world_start(&world, budget);
	world.freezes = true;
	world.caps = true;
	for (unsigned n = 0; n <= THREADS; n++) {
		worker[n].rng.state = rng_next(&rng);
		ck_assert_int_eq(pthread_create(&worker[n].thread, NULL,
						n < THREADS ? work : trouble,
						&worker[n]),
				 0);
	}
	for (unsigned n = 0; n < THREADS; n++)
		pthread_join(worker[n].thread, NULL);
	world.stop = true;
	pthread_join(worker[THREADS].thread, NULL);
	tmem_stats(world.tm, &st);
	printf("%s: restored %u times, all taken %u times, %" PRIu64
	       " pages evicted\n",
	       what, world.restores, world.takes, st.evictions);
	ck_assert(world.takes);
	ck_assert(world.restores || budget);
	world_end(&world);
}

START_TEST(laws_hold_for_threads)
{
	run_together("laws_hold_for_threads", 0);
}
END_TEST

START_TEST(laws_hold_for_threads_under_pressure)
{
	run_together("laws_hold_for_threads_under_pressure", budget_wanted());
}
END_TEST

/* One case each: CK_RUN_CASE chooses. */
static TCase *case_add(Suite *suite, const char *name)
{
	TCase *tc = tcase_create(name);

	tcase_set_timeout(tc, ops_wanted() ? 3600 : 120);
	suite_add_tcase(suite, tc);
	return tc;
}

int main(void)
{
	Suite *suite = suite_create("tmem_model");
	TCase *tc = case_add(suite, "alone");

	tcase_add_test(tc, laws_hold_undisturbed);
	tcase_add_test(tc, laws_hold_under_pressure);
	tcase_add_test(tc, laws_hold_whatever_changes);
	tc = case_add(suite, "threads");
	tcase_add_test(tc, laws_hold_for_threads);
	tc = case_add(suite, "pressure");
	tcase_add_test(tc, laws_hold_for_threads_under_pressure);
	return suite_run(suite);
}
