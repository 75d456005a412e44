/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The store, promise by promise: results at the boundaries, the laws one by
 * one, policy (weight, cap, reserve, budget), and accounting against what the
 * kernel says is resident. Random sequences are in test_tmem_model.c.
 */
#include "tmem/store.h"
#include "tests/support/rng.h"

#include <check.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DENSE_PAGES  100000
#define CHURN_OPS    70000
#define SCRIBBLE_OPS 4000
#else
#define DENSE_PAGES  300000
#define CHURN_OPS    450000 /* ten times what is stored */
#define SCRIBBLE_OPS 20000
#endif

static struct tmem *tm;
static struct tmem_client *cl;
static const struct tmem_oid oid = {{1, 2, 3}};
static const struct tmem_oid oid_other = {{1, 2, 4}};

static void start(uint64_t budget)
{
	ck_assert_int_eq(tmem_create(budget, &tm), 0);
	ck_assert_int_eq(tmem_client_create(tm, "guest", &cl), 0);
}

static void stop(void)
{
	ck_assert_int_eq(tmem_check(tm), 0);
	tmem_destroy(tm);
}

static int pool(uint32_t flags)
{
	int id = tmem_pool_create(cl, flags, NULL);

	ck_assert_int_ge(id, 0);
	return id;
}

/* A page of n random bytes, told by its seed. */
static const void *page(uint64_t seed, size_t n)
{
	static unsigned char buf[PAGE_BYTES];
	struct rng rng = {seed};

	memset(buf, 0, sizeof(buf));
	memcpy(buf, &seed, sizeof(seed));
	rng_fill(&rng, buf + sizeof(seed),
		 n > sizeof(seed) ? n - sizeof(seed) : 0);
	return buf;
}

static void expect(struct tmem_client *of, int id, uint32_t index,
		   uint64_t seed, size_t n)
{
	unsigned char got[PAGE_BYTES];

	ck_assert_int_eq(tmem_get(of, id, &oid, index, got), 0);
	ck_assert_mem_eq(got, page(seed, n), PAGE_BYTES);
}

static void expect_miss(struct tmem_client *of, int id, uint32_t index)
{
	unsigned char got[PAGE_BYTES];
	unsigned char was[PAGE_BYTES];

	memset(got, 0x77, sizeof(got));
	memcpy(was, got, sizeof(was));
	ck_assert_int_eq(tmem_get(of, id, &oid, index, got), -ENOENT);
	ck_assert_mem_eq(got, was, sizeof(got));
}

static struct tmem_stats stats(void)
{
	struct tmem_stats st;

	tmem_stats(tm, &st);
	ck_assert_uint_eq(st.stored_bytes + st.metadata_bytes + st.slack_bytes,
			  st.used_bytes);
	return st;
}

/* ---- results --------------------------------------------------------- */

START_TEST(pool_flags_are_checked)
{
	static const uint8_t uuid[16] = {1};
	static const uint8_t other[16] = {2};
	static const uint32_t bad[] = {3, 4, 5, 8, 0x80000000, UINT32_MAX};

	start(0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		ck_assert_int_eq(tmem_pool_create(cl, bad[i], uuid), -EINVAL);
	ck_assert_int_eq(tmem_pool_create(cl, TMEM_SHARED, NULL), -EINVAL);
	ck_assert_int_eq(tmem_pool_create(cl, TMEM_SHARED, uuid), -EACCES);
	ck_assert_int_eq(tmem_client_auth(cl, uuid, true), 0);
	ck_assert_int_eq(tmem_client_auth(cl, uuid, true), 0);
	ck_assert_int_eq(tmem_pool_create(cl, TMEM_SHARED, other), -EACCES);
	ck_assert_int_eq(tmem_pool_create(cl, TMEM_SHARED, uuid), -ENOSYS);
	ck_assert_int_eq(tmem_client_auth(cl, uuid, false), 0);
	ck_assert_int_eq(tmem_pool_create(cl, TMEM_SHARED, uuid), -EACCES);
	ck_assert_int_eq(pool(TMEM_EPHEMERAL), 0);
	ck_assert_int_eq(pool(TMEM_PERSISTENT), 1);
	stop();
}
END_TEST

START_TEST(auths_are_bounded)
{
	uint8_t uuid[16] = {0};

	start(0);
	for (unsigned i = 0; i < TMEM_AUTHS_MAX; i++) {
		uuid[0] = (uint8_t)i;
		ck_assert_int_eq(tmem_client_auth(cl, uuid, true), 0);
	}
	uuid[1] = 1;
	ck_assert_int_eq(tmem_client_auth(cl, uuid, true), -ENOSPC);
	uuid[1] = 0;
	ck_assert_int_eq(tmem_client_auth(cl, uuid, false), 0);
	uuid[1] = 1;
	ck_assert_int_eq(tmem_client_auth(cl, uuid, true), 0);
	stop();
}
END_TEST

START_TEST(sixteen_pools_and_no_more)
{
	start(0);
	for (int i = 0; i < TMEM_POOLS_MAX; i++)
		ck_assert_int_eq(pool(i % 2), i);
	ck_assert_int_eq(tmem_pool_create(cl, 0, NULL), -ENOSPC);
	ck_assert_int_eq(tmem_pool_destroy(cl, 7), 0);
	ck_assert_int_eq(tmem_pool_destroy(cl, 7), -ENOENT);
	ck_assert_int_eq(pool(TMEM_PERSISTENT), 7);
	stop();
}
END_TEST

START_TEST(foreign_pool_ids_reach_nothing)
{
	static const int ids[] = {1, 15, 16, 17, -1, INT_MIN, INT_MAX};
	unsigned char got[PAGE_BYTES];

	start(0);
	ck_assert_int_eq(pool(TMEM_PERSISTENT), 0);
	for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
		int id = ids[i];

		ck_assert_int_eq(tmem_put(cl, id, &oid, 0, page(1, 9)),
				 -ENOENT);
		ck_assert_int_eq(tmem_get(cl, id, &oid, 0, got), -ENOENT);
		ck_assert_int_eq(tmem_flush_page(cl, id, &oid, 0), 0);
		ck_assert_int_eq(tmem_flush_object(cl, id, &oid), 0);
		ck_assert_int_eq(tmem_pool_destroy(cl, id), -ENOENT);
	}
	ck_assert_uint_eq(stats().pages, 0);
	stop();
}
END_TEST

START_TEST(missing_arguments_are_refused)
{
	unsigned char buf[PAGE_BYTES];
	struct tmem_client *other;
	char name[TMEM_NAME_MAX + 1];

	start(0);
	memset(name, 'x', sizeof(name));
	name[TMEM_NAME_MAX] = 0;
	ck_assert_int_eq(tmem_create(0, NULL), -EINVAL);
	ck_assert_int_eq(tmem_client_create(tm, NULL, &other), -EINVAL);
	ck_assert_int_eq(tmem_client_create(tm, "", &other), -EINVAL);
	ck_assert_int_eq(tmem_client_create(tm, name, &other), -EINVAL);
	name[TMEM_NAME_MAX - 1] = 0;
	ck_assert_int_eq(tmem_client_create(tm, name, &other), 0);
	ck_assert_int_eq(tmem_put(cl, 0, &oid, 0, NULL), -EINVAL);
	ck_assert_int_eq(tmem_put(cl, 0, NULL, 0, buf), -EINVAL);
	ck_assert_int_eq(tmem_get(cl, 0, &oid, 0, NULL), -EINVAL);
	ck_assert_int_eq(tmem_save(cl, 1), -ENOSYS);
	ck_assert_int_eq(tmem_restore(cl, 0), -ENOSYS);
	tmem_client_destroy(NULL);
	tmem_destroy(NULL);
	stop();
}
END_TEST

START_TEST(every_index_and_object_word_counts)
{
	static const uint32_t index[] = {
		0,   1,		 7,	     8,		 511,
		512, 0x7fffffff, 0x80000000, 0xfffffff8, 0xffffffff,
	};
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	for (unsigned w = 0; w < 3; w++)
		for (unsigned i = 0; i < ARRAY_LEN(index); i++) {
			struct tmem_oid o = {{0, 0, 0}};

			o.w[w] = UINT64_MAX;
			ck_assert_int_eq(tmem_put(cl, p, &o, index[i],
						  page(w * 100 + i + 1, 50)),
					 0);
		}
	ck_assert_uint_eq(stats().pages, 3 * ARRAY_LEN(index));
	for (unsigned w = 0; w < 3; w++)
		for (unsigned i = 0; i < ARRAY_LEN(index); i++) {
			unsigned char got[PAGE_BYTES];
			struct tmem_oid o = {{0, 0, 0}};

			o.w[w] = UINT64_MAX;
			ck_assert_int_eq(tmem_get(cl, p, &o, index[i], got), 0);
			ck_assert_mem_eq(got, page(w * 100 + i + 1, 50),
					 PAGE_BYTES);
		}
	stop();
}
END_TEST

/* ---- laws ------------------------------------------------------------ */

START_TEST(clients_and_pools_are_apart)
{
	struct tmem_client *other;
	int a, b, c;

	start(0);
	ck_assert_int_eq(tmem_client_create(tm, "other", &other), 0);
	a = pool(TMEM_PERSISTENT);
	b = pool(TMEM_PERSISTENT);
	c = tmem_pool_create(other, TMEM_PERSISTENT, NULL);
	ck_assert_int_eq(tmem_put(cl, a, &oid, 0, page(1, 99)), 0);
	expect_miss(cl, b, 0);
	expect_miss(other, c, 0);
	ck_assert_int_eq(tmem_put(cl, b, &oid, 0, page(2, 99)), 0);
	ck_assert_int_eq(tmem_put(other, c, &oid, 0, page(3, 99)), 0);
	tmem_client_destroy(other);
	expect(cl, a, 0, 1, 99);
	ck_assert_int_eq(tmem_pool_destroy(cl, b), 0);
	expect(cl, a, 0, 1, 99);
	stop();
}
END_TEST

START_TEST(second_put_hides_first_even_if_refused)
{
	struct tmem_stats st;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 5, page(1, 99)), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 5, page(2, 700)), 0);
	expect(cl, p, 5, 2, 700);
	/* The new page does not fit, the old one did. */
	ck_assert_int_eq(tmem_client_set(cl, 1, 3000, 0, true), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 5, page(3, PAGE_BYTES)),
			 -ENOMEM);
	expect_miss(cl, p, 5);
	expect_miss(cl, p, 5);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 5, page(4, 99)), 0);
	expect(cl, p, 5, 4, 99);
	st = stats();
	ck_assert_uint_eq(st.puts, 4);
	ck_assert_uint_eq(st.puts_failed, 1);
	ck_assert_uint_eq(st.puts_full, 1);
	ck_assert_uint_eq(st.gets, 4);
	ck_assert_uint_eq(st.gets_missed, 2);
	stop();
}
END_TEST

START_TEST(replacement_needs_only_the_difference)
{
	uint64_t bytes;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, page(1, PAGE_BYTES)), 0);
	bytes = atomic_load(&cl->bytes);
	ck_assert_int_eq(tmem_client_set(cl, 1, bytes, 0, true), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, page(2, PAGE_BYTES)), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, page(3, 100)), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, page(4, PAGE_BYTES)), 0);
	ck_assert_uint_eq(atomic_load(&cl->bytes), bytes);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 1, page(5, 8)), -ENOMEM);
	expect(cl, p, 0, 4, PAGE_BYTES);
	stop();
}
END_TEST

START_TEST(ephemeral_get_removes_persistent_get_keeps)
{
	int e, p;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	p = pool(TMEM_PERSISTENT);
	ck_assert_int_eq(tmem_put(cl, e, &oid, 0, page(1, 99)), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, page(1, 99)), 0);
	expect(cl, e, 0, 1, 99);
	expect_miss(cl, e, 0);
	expect(cl, p, 0, 1, 99);
	expect(cl, p, 0, 1, 99);
	stop();
}
END_TEST

START_TEST(what_is_flushed_is_gone_and_its_memory_too)
{
	struct tmem_stats empty;
	struct tmem_client *other;
	int p;

	start(0);
	empty = stats();
	p = pool(TMEM_PERSISTENT);
	for (uint32_t i = 0; i < 3000; i++)
		ck_assert_int_eq(tmem_put(cl, p, &oid, i * 5, page(i, i)), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid_other, 0, page(1, 99)), 0);
	ck_assert_int_eq(tmem_flush_page(cl, p, &oid, 0), 0);
	ck_assert_int_eq(tmem_flush_page(cl, p, &oid, 0), 0);
	expect_miss(cl, p, 0);
	expect(cl, p, 5, 1, 1);
	ck_assert_int_eq(tmem_flush_object(cl, p, &oid), 0);
	for (uint32_t i = 0; i < 3000; i++)
		expect_miss(cl, p, i * 5);
	ck_assert_uint_eq(stats().pages, 1);
	ck_assert_int_eq(tmem_pool_destroy(cl, p), 0);
	/* All but the arenas' maps, which stay. */
	ck_assert_uint_eq(stats().slack_bytes, 0);
	ck_assert_uint_le(stats().used_bytes, empty.used_bytes + 8192);
	ck_assert_int_eq(tmem_client_create(tm, "other", &other), 0);
	p = tmem_pool_create(other, TMEM_EPHEMERAL, NULL);
	ck_assert_int_eq(tmem_put(other, p, &oid, 0, page(1, 99)), 0);
	tmem_client_destroy(other);
	ck_assert_uint_eq(stats().pages, 0);
	ck_assert_uint_le(stats().used_bytes, empty.used_bytes + 8192);
	stop();
}
END_TEST

START_TEST(frozen_refuses_new_keys_only)
{
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, page(1, 99)), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 2, page(1, 99)), 0);
	ck_assert_int_eq(tmem_freeze(cl, true), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 1, page(1, 99)), -EBUSY);
	expect_miss(cl, p, 1);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, page(2, 999)), 0);
	expect(cl, p, 0, 2, 999);
	ck_assert_int_eq(tmem_flush_page(cl, p, &oid, 0), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, page(3, 99)), -EBUSY);
	ck_assert_int_eq(tmem_flush_object(cl, p, &oid), 0);
	expect_miss(cl, p, 2);
	ck_assert_uint_eq(stats().puts_frozen, 2);
	ck_assert_int_eq(tmem_freeze(cl, false), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 1, page(1, 99)), 0);
	stop();
}
END_TEST

static unsigned char scribbled[PAGE_BYTES];
static _Atomic bool scribble_ends;

static void *scribble(void *arg)
{
	volatile unsigned char *at = scribbled;
	struct rng rng = {*(uint64_t *)arg};

	while (!scribble_ends)
		at[rng_below(&rng, PAGE_BYTES)] = (unsigned char)rng_next(&rng);
	return NULL;
}

#if defined(__SANITIZE_THREAD__)
/* The race is the point of the test, and the guest's own. */
#define SCRIBBLE_TEST 0
#else
#define SCRIBBLE_TEST 1
#endif

/* A page that changes while it is put is some page, but never a damaged one. */
START_TEST(page_changing_under_way_harms_nobody)
{
	unsigned char got[PAGE_BYTES];
	pthread_t thread;
	uint64_t seed = 1;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	ck_assert_int_eq(pthread_create(&thread, NULL, scribble, &seed), 0);
	for (uint32_t n = 0; n < SCRIBBLE_OPS; n++) {
		if (n % 64 == 0)
			memset(scribbled, (int)n, PAGE_BYTES * 3 / 4);
		ck_assert_int_eq(tmem_put(cl, p, &oid, n % 16, scribbled), 0);
		ck_assert_int_eq(tmem_get(cl, p, &oid, n % 16, got), 0);
	}
	scribble_ends = true;
	pthread_join(thread, NULL);
	stop();
}
END_TEST

/* ---- forms ----------------------------------------------------------- */

START_TEST(forms_are_counted)
{
	unsigned char same[PAGE_BYTES];
	struct tmem_stats st;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	memset(same, 0xab, sizeof(same));
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, same), 0);
	memset(same, 0, sizeof(same));
	ck_assert_int_eq(tmem_put(cl, p, &oid, 1, same), 0);
	st = stats();
	ck_assert_uint_eq(st.pages_same_filled, 2);
	ck_assert_uint_eq(st.stored_bytes, 16);
	same[PAGE_BYTES - 1] = 1; /* the last byte decides */
	ck_assert_int_eq(tmem_put(cl, p, &oid, 1, same), 0);
	ck_assert_uint_eq(stats().pages_same_filled, 1);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 2, page(1, PAGE_BYTES)), 0);
	st = stats();
	ck_assert_uint_eq(st.pages_raw, 1);
	ck_assert_uint_eq(st.puts_poor, 1);
	ck_assert_int_eq(tmem_client_set(cl, 1, 0, 0, false), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 3, page(2, 100)), 0);
	st = stats();
	ck_assert_uint_eq(st.pages_raw, 2);
	ck_assert_uint_eq(st.puts_poor, 1);
	ck_assert_uint_eq(st.pages, 4);
	expect(cl, p, 3, 2, 100);
	expect(cl, p, 2, 1, PAGE_BYTES);
	stop();
}
END_TEST

/* ---- policy ---------------------------------------------------------- */

START_TEST(oldest_goes_first)
{
	unsigned char got[PAGE_BYTES];
	unsigned gone = 0;
	int e;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	for (uint32_t i = 0; i < 1000; i++)
		ck_assert_int_eq(tmem_put(cl, e, &oid, i * 977, page(i, 1500)),
				 0);
	/* Put again: no longer the oldest. */
	ck_assert_int_eq(tmem_put(cl, e, &oid, 0, page(0, 1500)), 0);
	ck_assert_uint_ge(tmem_flush(tm, 500000), 500000);
	for (uint32_t i = 1; i < 1000; i++) {
		int rc = tmem_get(cl, e, &oid, i * 977, got);

		ck_assert_int_eq(rc, i == gone + 1 && rc ? -ENOENT : 0);
		gone += rc != 0;
	}
	ck_assert_uint_gt(gone, 200);
	ck_assert_uint_lt(gone, 600);
	expect(cl, e, 0, 0, 1500);
	ck_assert_uint_eq(stats().evictions, gone);
	stop();
}
END_TEST

struct rival {
	uint32_t weight;
	uint64_t reserve;
	struct tmem_client *cl;
	int pool;
};

static void rivals_make(struct rival *r, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		ck_assert_int_eq(tmem_client_create(tm, "rival", &r[i].cl), 0);
		ck_assert_int_eq(tmem_client_set(r[i].cl, r[i].weight, 0,
						 r[i].reserve, true),
				 0);
		r[i].pool = tmem_pool_create(r[i].cl, TMEM_EPHEMERAL, NULL);
	}
}

static void rivals_put(struct rival *r, size_t n, uint32_t from, uint32_t to)
{
	for (uint32_t index = from; index < to; index++)
		for (size_t i = 0; i < n; i++)
			ck_assert_int_eq(tmem_put(r[i].cl, r[i].pool, &oid,
						  index, page(index, 2000)),
					 0);
}

static double part_of(const struct rival *r)
{
	return (double)atomic_load(&r->cl->bytes_ephemeral) /
	       (double)tmem_freeable(tm);
}

START_TEST(pressure_divides_by_weight)
{
	/* The idle one must not count: its share is the others'. */
	struct rival r[4] = {
		{.weight = 1}, {.weight = 2}, {.weight = 5}, {.weight = 9}};

	start(8 << 20);
	rivals_make(r, 4);
	rivals_put(r, 3, 0, 8000);
	ck_assert_double_eq_tol(part_of(&r[0]), 1.0 / 8, 0.01);
	ck_assert_double_eq_tol(part_of(&r[1]), 2.0 / 8, 0.01);
	ck_assert_double_eq_tol(part_of(&r[2]), 5.0 / 8, 0.01);
	/* A new weight acts on the next pressure, with no put of its owner. */
	ck_assert_int_eq(tmem_client_set(r[2].cl, 0, 0, 0, true), 0);
	rivals_put(r, 2, 8000, 12000);
	ck_assert_double_eq_tol(part_of(&r[2]), 0, 0.01);
	ck_assert_double_eq_tol(part_of(&r[1]), 2.0 / 3, 0.01);
	ck_assert_uint_le(stats().used_bytes, 8 << 20);
	stop();
}
END_TEST

START_TEST(reserve_is_spared_while_others_exceed_theirs)
{
	struct rival r[2] = {{.weight = 0, .reserve = 1 << 20},
			     {.weight = 100}};
	uint64_t had;

	start(8 << 20);
	rivals_make(r, 2);
	rivals_put(r, 1, 0, 450); /* within its reserve */
	had = atomic_load(&r[0].cl->bytes_ephemeral);
	ck_assert_uint_lt(had, 1 << 20);
	rivals_put(&r[1], 1, 0, 8000);
	ck_assert_uint_gt(stats().evictions, 0);
	ck_assert_uint_eq(atomic_load(&r[0].cl->bytes_ephemeral), had);
	/* With nobody else to take from, it is taken. */
	tmem_client_destroy(r[1].cl);
	ck_assert_uint_eq(tmem_flush(tm, UINT64_MAX), had);
	stop();
}
END_TEST

START_TEST(cap_holds_on_every_put)
{
	uint64_t cap = 1 << 20;
	int e;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	ck_assert_int_eq(tmem_client_set(cl, 1, cap, 0, true), 0);
	for (uint32_t i = 0; i < 3000; i++) {
		ck_assert_int_eq(tmem_put(cl, e, &oid, i, page(i, 1000)), 0);
		ck_assert_uint_le(atomic_load(&cl->bytes), cap);
	}
	ck_assert_uint_gt(atomic_load(&cl->bytes), cap - 16384);
	/* At once. */
	ck_assert_int_eq(tmem_client_set(cl, 1, cap / 4, 0, true), 0);
	ck_assert_uint_le(atomic_load(&cl->bytes), cap / 4);
	ck_assert_uint_eq(tmem_freeable(tm), atomic_load(&cl->bytes));
	expect(cl, e, 2999, 2999, 1000);
	stop();
}
END_TEST

START_TEST(cap_takes_ephemeral_never_persistent)
{
	unsigned char got[PAGE_BYTES];
	uint32_t kept = 0;
	int e, p;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	p = pool(TMEM_PERSISTENT);
	ck_assert_int_eq(tmem_client_set(cl, 1, 1 << 20, 0, true), 0);
	for (uint32_t i = 0; i < 100; i++)
		ck_assert_int_eq(tmem_put(cl, e, &oid, i, page(i, 1000)), 0);
	while (!tmem_put(cl, p, &oid, kept, page(kept, 2000)))
		kept++;
	ck_assert_uint_gt(kept, 400);
	ck_assert_uint_eq(tmem_freeable(tm), 0);
	expect_miss(cl, p, kept);
	ck_assert_int_eq(tmem_client_set(cl, 1, 4096, 0, true), 0);
	for (uint32_t i = 0; i < kept; i++)
		expect(cl, p, i, i, 2000);
	ck_assert_int_eq(tmem_get(cl, e, &oid, 99, got), -ENOENT);
	ck_assert_int_eq(tmem_put(cl, p, &oid, kept, page(1, 8)), -ENOMEM);
	stop();
}
END_TEST

START_TEST(budget_takes_ephemeral_never_persistent)
{
	uint64_t budget = 4 << 20;
	struct tmem_client *other;
	uint32_t kept = 0;
	int e, p;

	start(budget);
	ck_assert_int_eq(tmem_client_create(tm, "other", &other), 0);
	e = tmem_pool_create(other, TMEM_EPHEMERAL, NULL);
	p = pool(TMEM_PERSISTENT);
	for (uint32_t i = 0; i < 4000; i++)
		ck_assert_int_eq(tmem_put(other, e, &oid, i, page(i, 1000)), 0);
	while (!tmem_put(cl, p, &oid, kept, page(kept, kept % PAGE_BYTES))) {
		ck_assert_uint_le(stats().used_bytes, budget);
		kept++;
	}
	ck_assert_uint_eq(tmem_freeable(tm), 0);
	ck_assert_uint_gt(stats().stored_bytes, budget / 2);
	for (uint32_t i = 0; i < kept; i++)
		expect(cl, p, i, i, i % PAGE_BYTES);
	stop();
}
END_TEST

START_TEST(flush_frees_what_it_says)
{
	uint64_t freeable;
	int e, p;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	p = pool(TMEM_PERSISTENT);
	ck_assert_uint_eq(tmem_flush(tm, 1), 0);
	for (uint32_t i = 0; i < 2000; i++) {
		ck_assert_int_eq(tmem_put(cl, e, &oid, i, page(i, 1000)), 0);
		ck_assert_int_eq(tmem_put(cl, p, &oid, i, page(i, 10)), 0);
	}
	freeable = tmem_freeable(tm);
	ck_assert_uint_ge(freeable, 2000 * 1000);
	ck_assert_uint_eq(tmem_flush(tm, 0), 0);
	ck_assert_uint_ge(tmem_flush(tm, 1), 1);
	ck_assert_uint_ge(tmem_flush(tm, 100000), 100000);
	ck_assert_uint_gt(tmem_freeable(tm), freeable - 110000);
	freeable = tmem_freeable(tm);
	ck_assert_uint_eq(tmem_flush(tm, UINT64_MAX), freeable);
	ck_assert_uint_eq(tmem_freeable(tm), 0);
	ck_assert_uint_eq(stats().pages, 2000);
	ck_assert_uint_eq(stats().pages_ephemeral, 0);
	stop();
}
END_TEST

/* ---- accounting ------------------------------------------------------ */

START_TEST(dense_page_costs_under_24_bytes)
{
	uint64_t before;
	struct tmem_stats st;
	double each;
	int p;

	start(0);
	before = stats().metadata_bytes;
	p = pool(TMEM_PERSISTENT);
	for (uint32_t i = 0; i < DENSE_PAGES; i++)
		ck_assert_int_eq(tmem_put(cl, p, &oid, i, page(i, 40)), 0);
	st = stats();
	each = (double)(st.metadata_bytes - before) / (double)st.pages;
	printf("metadata: %.2f bytes for each of %llu dense pages\n", each,
	       (unsigned long long)st.pages);
	ck_assert_double_lt(each, 24);
	stop();
}
END_TEST

START_TEST(large_store_is_nearly_all_payload)
{
	struct rng rng = {42};
	struct tmem_stats st;
	double share;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	for (uint32_t n = 0; n < CHURN_OPS; n++) {
		uint32_t i = (uint32_t)rng_below(&rng, 45000);
		size_t bytes = 50 + rng_below(&rng, 3700);

		if (n > 45000 && rng_below(&rng, 4) == 0)
			(void)tmem_flush_page(cl, p, &oid, i);
		else
			ck_assert_int_eq(
				tmem_put(cl, p, &oid, i, page(n, bytes)), 0);
	}
	st = stats();
	share = (double)st.stored_bytes / (double)st.used_bytes;
	printf("payload, all metadata counted: %.2f %% of %llu bytes\n",
	       100 * share, (unsigned long long)st.used_bytes);
	ck_assert_double_ge(share, 0.96);
	stop();
}
END_TEST

static struct {
	void *addr;
	size_t bytes;
} mapped[16];
static size_t mapped_n;

static int map_noting(size_t bytes, void **out)
{
	int rc = memory_real.map(bytes, out);

	if (!rc) {
		ck_assert_uint_lt(mapped_n, ARRAY_LEN(mapped));
		mapped[mapped_n].addr = *out;
		mapped[mapped_n++].bytes = bytes;
	}
	return rc;
}

static uint64_t resident(void)
{
	static unsigned char in[(512 << 20) / PAGE_BYTES];
	uint64_t pages = 0;

	for (size_t m = 0; m < mapped_n; m++) {
		ck_assert_int_eq(mincore(mapped[m].addr, mapped[m].bytes, in),
				 0);
		for (size_t i = 0; i < mapped[m].bytes / PAGE_BYTES; i++)
			pages += in[i] & 1;
	}
	return pages * PAGE_BYTES;
}

START_TEST(used_is_what_the_kernel_says)
{
	struct memory_ops ops = memory_real;
	uint64_t counted;
	int e;

	ops.map = map_noting;
	ck_assert_int_eq(tmem_create_on(&ops, 0, &tm), 0);
	ck_assert_int_eq(tmem_client_create(tm, "guest", &cl), 0);
	e = pool(TMEM_EPHEMERAL);
	for (unsigned round = 0; round < 4; round++) {
		for (uint32_t i = 0; i < 8000; i++)
			ck_assert_int_eq(tmem_put(cl, e, &oid, i * 3,
						  page(i, i % PAGE_BYTES)),
					 0);
		(void)tmem_flush(tm, round << 20);
		counted = stats().used_bytes - atomic_load(&tm->budget.heap);
		/* The end of a class's last object may touch no new page. */
		ck_assert_uint_le(resident(), counted);
		ck_assert_uint_ge(resident(), counted - counted / 100);
	}
	stop();
}
END_TEST

START_TEST(check_sees_one_flipped_bit)
{
	struct pack_class *c;
	char *at;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, page(1, PAGE_BYTES)), 0);
	ck_assert_int_eq(tmem_check(tm), 0);
	c = &tm->pack.class[PACK_SMALL];
	while (!c->count)
		c++;
	at = arena_block_at(&tm->pack.extents, c->extent[0]);
	at[3000] ^= 16;
	ck_assert_int_eq(tmem_check(tm), -EUCLEAN);
	at[3000] ^= 16;
	/* The owner's word, too. */
	*(uint32_t *)(void *)at += 1;
	ck_assert_int_eq(tmem_check(tm), -EUCLEAN);
	*(uint32_t *)(void *)at -= 1;
	/* A counter. */
	atomic_fetch_add(&tm->budget.used, 16);
	ck_assert_int_eq(tmem_check(tm), -EUCLEAN);
	atomic_fetch_sub(&tm->budget.used, 16);
	stop();
}
END_TEST

static void cases_add(Suite *suite)
{
	TCase *tc = tcase_create("store");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, pool_flags_are_checked);
	tcase_add_test(tc, auths_are_bounded);
	tcase_add_test(tc, sixteen_pools_and_no_more);
	tcase_add_test(tc, foreign_pool_ids_reach_nothing);
	tcase_add_test(tc, missing_arguments_are_refused);
	tcase_add_test(tc, every_index_and_object_word_counts);
	tcase_add_test(tc, clients_and_pools_are_apart);
	tcase_add_test(tc, second_put_hides_first_even_if_refused);
	tcase_add_test(tc, replacement_needs_only_the_difference);
	tcase_add_test(tc, ephemeral_get_removes_persistent_get_keeps);
	tcase_add_test(tc, what_is_flushed_is_gone_and_its_memory_too);
	tcase_add_test(tc, frozen_refuses_new_keys_only);
	if (SCRIBBLE_TEST)
		tcase_add_test(tc, page_changing_under_way_harms_nobody);
	tcase_add_test(tc, forms_are_counted);
	tcase_add_test(tc, oldest_goes_first);
	tcase_add_test(tc, pressure_divides_by_weight);
	tcase_add_test(tc, reserve_is_spared_while_others_exceed_theirs);
	tcase_add_test(tc, cap_holds_on_every_put);
	tcase_add_test(tc, cap_takes_ephemeral_never_persistent);
	tcase_add_test(tc, budget_takes_ephemeral_never_persistent);
	tcase_add_test(tc, flush_frees_what_it_says);
	tcase_add_test(tc, dense_page_costs_under_24_bytes);
	tcase_add_test(tc, large_store_is_nearly_all_payload);
	tcase_add_test(tc, used_is_what_the_kernel_says);
	tcase_add_test(tc, check_sees_one_flipped_bit);
	suite_add_tcase(suite, tc);
}

int main(void)
{
	Suite *suite = suite_create("tmem");
	SRunner *runner = srunner_create(suite);
	int failed;

	cases_add(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
