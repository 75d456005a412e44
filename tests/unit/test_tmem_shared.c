/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Shared pools: who may join, what each member sees, whose a page is, and what
 * is left when members go.
 */
#include "tests/support/run.h"
#include "tests/support/store.h"

#include <stdlib.h>

#define THREADS 6
#define KEYS	64
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ROUNDS 8
#else
#define ROUNDS 40
#endif

static const uint8_t uuid[16] = {0xfe, 1, 2, 3};

struct member {
	struct tmem_client *cl;
	int pool;
};

static struct member member_make(const char *name)
{
	struct member m;

	ck_assert_int_eq(tmem_client_create(tm, name, &m.cl), 0);
	ck_assert_int_eq(tmem_client_auth(m.cl, uuid, true), 0);
	m.pool = tmem_pool_create(m.cl, TMEM_SHARED, uuid);
	ck_assert_int_ge(m.pool, 0);
	return m;
}

static void put(const struct member *m, uint32_t index, uint64_t seed,
		size_t bytes)
{
	ck_assert_int_eq(
		tmem_put(m->cl, m->pool, &oid, index, page(seed, bytes)), 0);
}

START_TEST(only_the_authorised_join)
{
	uint8_t near[16];
	struct member a;

	start(0);
	a = member_make("a");
	put(&a, 0, 1, 99);
	/* One bit off, the same without authorisation, a private pool. */
	memcpy(near, uuid, sizeof(near));
	near[15] ^= 1;
	ck_assert_int_eq(tmem_client_auth(cl, near, true), 0);
	ck_assert_int_eq(tmem_pool_create(cl, TMEM_SHARED, uuid), -EACCES);
	ck_assert_int_eq(tmem_pool_create(cl, TMEM_SHARED, near), 0);
	ck_assert_int_eq(pool(TMEM_EPHEMERAL), 1);
	expect_miss(cl, 0, 0);
	expect_miss(cl, 1, 0);
	expect(a.cl, a.pool, 0, 1, 99);
	stop();
}
END_TEST

START_TEST(each_member_sees_what_others_put)
{
	struct member a, b;

	start(0);
	a = member_make("a");
	b = member_make("b");
	put(&a, 7, 1, 999);
	expect(b.cl, b.pool, 7, 1, 999);
	expect(b.cl, b.pool, 7, 1, 999); /* a get keeps it */
	expect(a.cl, a.pool, 7, 1, 999);
	put(&b, 7, 2, 2000);
	expect(a.cl, a.pool, 7, 2, 2000);
	put(&a, 8, 3, 50);
	ck_assert_int_eq(tmem_flush_page(b.cl, b.pool, &oid, 7), 0);
	expect_miss(a.cl, a.pool, 7);
	ck_assert_int_eq(tmem_flush_object(b.cl, b.pool, &oid), 0);
	expect_miss(a.cl, a.pool, 8);
	ck_assert_uint_eq(stats().pages, 0);
	ck_assert_uint_eq(tmem_freeable(tm), 0);
	stop();
}
END_TEST

START_TEST(page_is_charged_to_its_putter)
{
	struct member a, b;
	uint64_t of_a;

	start(0);
	a = member_make("a");
	b = member_make("b");
	put(&a, 0, 1, PAGE_BYTES);
	of_a = atomic_load(&a.cl->bytes);
	ck_assert_uint_ge(of_a, PAGE_BYTES);
	ck_assert_uint_eq(atomic_load(&b.cl->bytes), 0);
	/* It changes hands with the put, and leaves nothing behind. */
	put(&b, 0, 2, PAGE_BYTES);
	ck_assert_uint_eq(atomic_load(&a.cl->bytes), 0);
	ck_assert_uint_eq(atomic_load(&b.cl->bytes), of_a);
	/* The cap is the putter's. */
	ck_assert_int_eq(tmem_client_set(a.cl, 1, 1, 0, true), 0);
	ck_assert_int_eq(tmem_put(a.cl, a.pool, &oid, 0, page(3, 99)), -ENOMEM);
	expect_miss(b.cl, b.pool, 0);
	put(&b, 0, 4, 99);
	expect(a.cl, a.pool, 0, 4, 99);
	stop();
}
END_TEST

START_TEST(cap_holds_in_shared_pools)
{
	struct member a, b;

	start(0);
	a = member_make("a");
	b = member_make("b");
	put(&b, 5000, 1, 99);
	ck_assert_int_eq(tmem_client_set(a.cl, 1, 1 << 20, 0, true), 0);
	for (uint32_t i = 0; i < 3000; i++) {
		put(&a, i, i, 1000);
		ck_assert_uint_le(atomic_load(&a.cl->bytes), 1 << 20);
	}
	expect(b.cl, b.pool, 2999, 2999, 1000);
	expect(b.cl, b.pool, 5000, 1, 99);
	expect_miss(b.cl, b.pool, 0);
	ck_assert_uint_ge(tmem_flush(tm, UINT64_MAX), 1 << 19);
	ck_assert_uint_eq(stats().pages, 0);
	ck_assert_uint_eq(tmem_freeable(tm), 0);
	stop();
}
END_TEST

START_TEST(get_makes_most_recent)
{
	struct member a, b;

	start(0);
	a = member_make("a");
	b = member_make("b");
	for (uint32_t i = 0; i < 100; i++)
		put(&a, i, i, 1000);
	for (uint32_t i = 0; i < 50; i++)
		expect(b.cl, b.pool, i, i, 1000);
	while (stats().pages > 50)
		ck_assert_uint_gt(tmem_flush(tm, 1), 0);
	for (uint32_t i = 0; i < 50; i++)
		expect(a.cl, a.pool, i, i, 1000);
	for (uint32_t i = 50; i < 100; i++)
		expect_miss(a.cl, a.pool, i);
	stop();
}
END_TEST

START_TEST(who_leaves_takes_its_own)
{
	struct tmem_stats empty;
	struct member a, b, c;

	start(0);
	a = member_make("a");
	b = member_make("b");
	c = member_make("c");
	empty = stats();
	for (uint32_t i = 0; i < 3000; i++)
		put(i % 3 == 0 ? &a : i % 3 == 1 ? &b : &c, i, i, 100);
	ck_assert_int_eq(tmem_pool_destroy(a.cl, a.pool), 0);
	ck_assert_int_eq(tmem_pool_destroy(a.cl, a.pool), -ENOENT);
	expect_miss(a.cl, a.pool, 1);
	ck_assert_uint_eq(atomic_load(&a.cl->bytes), 0);
	expect_miss(b.cl, b.pool, 0);
	expect(b.cl, b.pool, 1, 1, 100);
	expect(b.cl, b.pool, 2, 2, 100);
	ck_assert_uint_eq(stats().pages, 2000);
	tmem_client_destroy(b.cl);
	expect(c.cl, c.pool, 2, 2, 100);
	expect_miss(c.cl, c.pool, 1);
	/* No longer authorised is no longer in. */
	ck_assert_int_eq(tmem_client_auth(c.cl, uuid, false), 0);
	ck_assert_int_eq(tmem_put(c.cl, c.pool, &oid, 1, page(1, 9)), -ENOENT);
	expect_miss(c.cl, c.pool, 2);
	ck_assert_uint_eq(stats().pages, 0);
	ck_assert_uint_le(stats().used_bytes, empty.used_bytes + 8192);
	/* A pool of the same uuid is a new one. */
	ck_assert_int_eq(tmem_client_auth(c.cl, uuid, true), 0);
	c.pool = tmem_pool_create(c.cl, TMEM_SHARED, uuid);
	expect_miss(c.cl, c.pool, 2);
	stop();
}
END_TEST

START_TEST(members_are_bounded)
{
	struct tmem_client *other;
	struct member m[TMEM_MEMBERS_MAX];

	start(0);
	for (unsigned i = 0; i < TMEM_MEMBERS_MAX; i++) {
		m[i] = member_make("m");
		put(&m[i], i, i, 99);
	}
	ck_assert_int_eq(tmem_client_create(tm, "one more", &other), 0);
	ck_assert_int_eq(tmem_client_auth(other, uuid, true), 0);
	ck_assert_int_eq(tmem_pool_create(other, TMEM_SHARED, uuid), -ENOSPC);
	tmem_client_destroy(m[20].cl);
	ck_assert_int_eq(tmem_pool_create(other, TMEM_SHARED, uuid), 0);
	expect_miss(other, 0, 20);
	expect(other, 0, 21, 21, 99);
	stop();
}
END_TEST

START_TEST(frozen_member_puts_nothing_new)
{
	struct member a, b;

	start(0);
	a = member_make("a");
	b = member_make("b");
	put(&b, 0, 1, 99);
	ck_assert_int_eq(tmem_freeze(a.cl, true), 0);
	ck_assert_int_eq(tmem_put(a.cl, a.pool, &oid, 1, page(2, 9)), -EBUSY);
	put(&a, 0, 2, 999);
	expect(b.cl, b.pool, 0, 2, 999);
	put(&b, 1, 3, 9);
	stop();
}
END_TEST

/* Joins, puts, gets and leaves: every page got is one that somebody put. */
static void *come_and_go(void *arg)
{
	unsigned char buf[PAGE_BYTES];
	unsigned char got[PAGE_BYTES];
	struct rng rng = {(uint64_t)(uintptr_t)arg};

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct member m = member_make("thread");

		for (unsigned n = 0; n < 500; n++) {
			uint32_t index = (uint32_t)rng_below(&rng, KEYS);

			memset(buf, (int)index, sizeof(buf));
			buf[rng_below(&rng, PAGE_BYTES)] = 0xff;
			if (n % 2)
				(void)tmem_put(m.cl, m.pool, &oid, index, buf);
			else if (!tmem_get(m.cl, m.pool, &oid, index, got))
				ck_assert(got[0] == index || got[1] == index);
		}
		if (round % 2)
			ck_assert_int_eq(tmem_pool_destroy(m.cl, m.pool), 0);
		tmem_client_destroy(m.cl);
	}
	return NULL;
}

START_TEST(members_come_and_go_under_load)
{
	pthread_t thread[THREADS];

	start(1 << 20);
	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, come_and_go,
						(void *)(i + 1)),
				 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	ck_assert_uint_eq(stats().pages, 0);
	stop();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tmem_shared");
	TCase *tc = tcase_create("shared");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, only_the_authorised_join);
	tcase_add_test(tc, each_member_sees_what_others_put);
	tcase_add_test(tc, page_is_charged_to_its_putter);
	tcase_add_test(tc, cap_holds_in_shared_pools);
	tcase_add_test(tc, get_makes_most_recent);
	tcase_add_test(tc, who_leaves_takes_its_own);
	tcase_add_test(tc, members_are_bounded);
	tcase_add_test(tc, frozen_member_puts_nothing_new);
	tcase_add_test(tc, members_come_and_go_under_load);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
