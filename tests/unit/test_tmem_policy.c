/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who keeps how much: weight, cap, reserve, budget, flush; and accounting
 * against what the kernel says is resident.
 */
#include "tests/support/run.h"
#include "tests/support/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DENSE_PAGES 100000
#define CHURN_OPS   70000
#else
#define DENSE_PAGES 300000
#define CHURN_OPS   520000 /* ten times what is stored */
#endif

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

START_TEST(client_tells_its_charge_and_knobs)
{
	struct tmem_client_stats st;
	struct tmem_client *other;
	int e, p;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	p = pool(TMEM_PERSISTENT);
	ck_assert_int_eq(tmem_client_create(tm, "other", &other), 0);
	ck_assert_int_eq(tmem_client_set(cl, 7, 1 << 20, 4096, false), 0);
	ck_assert_int_eq(tmem_freeze(other, true), 0);
	ck_assert_int_eq(tmem_put(cl, e, &oid, 1, page(1, 4096)), 0);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 1, page(2, 4096)), 0);
	tmem_client_stats(cl, &st);
	ck_assert_uint_gt(st.bytes_ephemeral, PAGE_BYTES);
	ck_assert_uint_gt(st.bytes, st.bytes_ephemeral + PAGE_BYTES);
	ck_assert_uint_lt(st.bytes, 3 * PAGE_BYTES);
	ck_assert_uint_eq(st.cap_bytes, 1 << 20);
	ck_assert_uint_eq(st.reserve_bytes, 4096);
	ck_assert_uint_eq(st.weight, 7);
	ck_assert(!st.compress && !st.frozen);
	tmem_client_stats(other, &st);
	ck_assert_uint_eq(st.bytes, 0);
	ck_assert(st.compress && st.frozen);
	stop();
}
END_TEST

static struct tmem_client_stats client_now(void)
{
	struct tmem_client_stats st;

	tmem_client_stats(cl, &st);
	return st;
}

START_TEST(what_is_lent_comes_back_at_once)
{
	const uint64_t lent = 40 * PAGE_BYTES;
	int e, p;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	p = pool(TMEM_PERSISTENT);
	for (uint32_t i = 0; i < 100; i++) {
		ck_assert_int_eq(tmem_put(cl, e, &oid, i, page(i, 4096)), 0);
		ck_assert_int_eq(tmem_put(cl, p, &oid, i, page(i, 4096)), 0);
	}
	ck_assert_uint_eq(client_now().lent_bytes, UINT64_MAX);
	ck_assert_int_eq(tmem_client_lend(cl, lent), 0);
	ck_assert_uint_le(client_now().bytes_ephemeral, lent);
	ck_assert_uint_gt(client_now().bytes_ephemeral, lent - 2 * PAGE_BYTES);
	ck_assert_uint_eq(client_now().pages_ephemeral +
				  client_now().evicted[TMEM_EVICT_LENT],
			  100);
	expect_miss(cl, e, 0);
	expect(cl, e, 99, 99, 4096);
	/* The oldest make room for new ones. */
	for (uint32_t i = 200; i < 300; i++) {
		ck_assert_int_eq(tmem_put(cl, e, &oid, i, page(i, 4096)), 0);
		ck_assert_uint_le(client_now().bytes_ephemeral, lent);
	}
	expect(cl, e, 299, 299, 4096);
	/* Nothing lent: nothing stored; what must be kept is kept. */
	ck_assert_int_eq(tmem_client_lend(cl, 0), 0);
	ck_assert_uint_eq(client_now().pages_ephemeral, 0);
	ck_assert_uint_eq(client_now().bytes_ephemeral, 0);
	ck_assert_int_eq(tmem_put(cl, e, &oid, 1, page(1, 4096)), -ENOMEM);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 500, page(1, 4096)), 0);
	ck_assert_uint_eq(client_now().pages_persistent, 101);
	ck_assert_int_eq(tmem_client_lend(cl, UINT64_MAX), 0);
	ck_assert_int_eq(tmem_put(cl, e, &oid, 1, page(1, 4096)), 0);
	for (uint32_t i = 0; i < 100; i++)
		expect(cl, p, i, i, 4096);
	stop();
}
END_TEST

/* Beside persistent pages, compressed and not: within 1 % of what is freed. */
START_TEST(freeable_is_what_the_host_gets_back)
{
	uint64_t before, freed, said;
	int e, p;

	start(0);
	ck_assert_uint_eq(tmem_freeable_used(tm), 0);
	e = pool(TMEM_EPHEMERAL);
	p = pool(TMEM_PERSISTENT);
	for (uint32_t i = 0; i < 12000; i++) {
		ck_assert_int_eq(
			tmem_put(cl, e, &oid, i, page(i, 1500 + i % 2596)), 0);
		if (i % 4 == 0)
			ck_assert_int_eq(
				tmem_put(cl, p, &oid, i, page(i, 4096)), 0);
	}
	before = stats().used_bytes;
	said = tmem_freeable_used(tm);
	ck_assert_uint_ge(said, tmem_freeable(tm));
	ck_assert_uint_gt(tmem_flush(tm, UINT64_MAX), 0);
	freed = before - stats().used_bytes;
	ck_assert_uint_ge(freed * 100, said * 99);
	ck_assert_uint_le(freed * 100, said * 101);
	ck_assert_uint_eq(tmem_freeable_used(tm), 0);
	stop();
}
END_TEST

START_TEST(client_tells_its_pools_and_why_pages_went)
{
	static const uint8_t uuid[16] = {7};
	int e, p, s;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	p = pool(TMEM_PERSISTENT);
	ck_assert_int_eq(tmem_client_auth(cl, uuid, true), 0);
	s = tmem_pool_create(cl, TMEM_SHARED, uuid);
	ck_assert_int_ge(s, 0);
	ck_assert_uint_eq(client_now().pool[e], TMEM_POOL_EPHEMERAL);
	ck_assert_uint_eq(client_now().pool[p], TMEM_POOL_PERSISTENT);
	ck_assert_uint_eq(client_now().pool[s], TMEM_POOL_SHARED);
	ck_assert_uint_eq(client_now().pool[TMEM_POOLS_MAX - 1],
			  TMEM_POOL_NONE);
	for (uint32_t i = 0; i < 10; i++) {
		ck_assert_int_eq(tmem_put(cl, e, &oid, i, page(i, 4096)), 0);
		ck_assert_int_eq(tmem_put(cl, s, &oid, i, page(i + 50, 4096)),
				 0);
	}
	ck_assert_uint_eq(client_now().pages_ephemeral, 20);
	ck_assert_int_eq(tmem_client_set(cl, 1, 12 * PAGE_BYTES, 0, true), 0);
	ck_assert_uint_ge(client_now().evicted[TMEM_EVICT_CAP], 8);
	ck_assert_uint_gt(tmem_flush(tm, 1), 0);
	ck_assert_uint_eq(client_now().evicted[TMEM_EVICT_FLUSH], 1);
	ck_assert_int_eq(tmem_client_auth(cl, uuid, false), 0);
	ck_assert_uint_eq(client_now().pool[s], TMEM_POOL_NONE);
	ck_assert_int_eq(tmem_pool_destroy(cl, p), 0);
	ck_assert_uint_eq(client_now().pool[p], TMEM_POOL_NONE);
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

START_TEST(dense_page_costs_under_28_bytes)
{
	uint64_t before;
	struct tmem_stats st;
	double each;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	before = stats().metadata_bytes;
	for (uint32_t i = 0; i < DENSE_PAGES; i++)
		ck_assert_int_eq(tmem_put(cl, p, &oid, i, page(i, 40)), 0);
	st = stats();
	each = (double)(st.metadata_bytes - before) / (double)st.pages;
	printf("metadata: %.2f bytes for each of %llu dense pages\n", each,
	       (unsigned long long)st.pages);
	ck_assert_double_lt(each, getenv("TEST_SAN") ? 30 : 28);
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
		uint32_t i = (uint32_t)rng_below(&rng, 52000);
		size_t bytes = 50 + rng_below(&rng, 3700);

		if (n > 52000 && rng_below(&rng, 4) == 0)
			(void)tmem_flush_page(cl, p, &oid, i);
		else
			ck_assert_int_eq(
				tmem_put(cl, p, &oid, i, page(n, bytes)), 0);
	}
	st = stats();
	share = (double)st.stored_bytes / (double)st.used_bytes;
	printf("payload, all metadata counted: %.2f %% of %llu bytes\n",
	       100 * share, (unsigned long long)st.used_bytes);
	ck_assert_double_ge(share, getenv("TEST_SAN") ? 0.955 : 0.96);
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

static void cases_add(Suite *suite)
{
	TCase *tc = tcase_create("store");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, oldest_goes_first);
	tcase_add_test(tc, pressure_divides_by_weight);
	tcase_add_test(tc, reserve_is_spared_while_others_exceed_theirs);
	tcase_add_test(tc, client_tells_its_charge_and_knobs);
	tcase_add_test(tc, what_is_lent_comes_back_at_once);
	tcase_add_test(tc, freeable_is_what_the_host_gets_back);
	tcase_add_test(tc, client_tells_its_pools_and_why_pages_went);
	tcase_add_test(tc, cap_holds_on_every_put);
	tcase_add_test(tc, cap_takes_ephemeral_never_persistent);
	tcase_add_test(tc, budget_takes_ephemeral_never_persistent);
	tcase_add_test(tc, flush_frees_what_it_says);
	tcase_add_test(tc, dense_page_costs_under_28_bytes);
	tcase_add_test(tc, large_store_is_nearly_all_payload);
	tcase_add_test(tc, used_is_what_the_kernel_says);
	suite_add_tcase(suite, tc);
}

int main(void)
{
	Suite *suite = suite_create("tmem_policy");

	cases_add(suite);
	return suite_run(suite);
}
