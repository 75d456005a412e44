/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All ephemeral pages at once, by several threads: exactly those go, whoever
 * puts and gets meanwhile, and the store is sound and its sums right.
 */
#include "tests/support/store.h"
#include "tmem/drain.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define BYTES (2 * DRAIN_BYTES)
#define KEPT  500u

static struct tmem_client_stats client_now(void)
{
	struct tmem_client_stats st;

	tmem_client_stats(cl, &st);
	return st;
}

/* Ephemeral pages enough for a drain, one in eight equal to others. */
static uint32_t fill(int id)
{
	uint32_t n = 0;

	while (client_now().bytes_ephemeral < BYTES) {
		for (uint32_t i = 0; i < 500; i++, n++)
			ck_assert_int_eq(tmem_put(cl, id, &oid, n,
						  page(n % 8 ? n : n % 64 + 1,
						       2000 + n % 2096)),
					 0);
	}
	return n;
}

START_TEST(flush_of_all_takes_the_ephemeral_alone)
{
	static const uint8_t uuid[16] = {9};
	struct tmem_client *other;
	uint64_t before, freeable;
	int e, p, s, x;
	uint32_t n;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	p = pool(TMEM_PERSISTENT);
	ck_assert_int_eq(tmem_client_auth(cl, uuid, true), 0);
	s = tmem_pool_create(cl, TMEM_SHARED, uuid);
	ck_assert_int_eq(tmem_client_create(tm, "other", &other), 0);
	x = tmem_pool_create(other, TMEM_EPHEMERAL, NULL);
	for (uint32_t i = 0; i < KEPT; i++) {
		ck_assert_int_eq(tmem_put(cl, p, &oid, i, page(i, 3000)), 0);
		ck_assert_int_eq(tmem_put(cl, s, &oid, i, page(i, 3000)), 0);
		ck_assert_int_eq(tmem_put(other, x, &oid, i, page(i, 3000)), 0);
	}
	n = fill(e);
	before = stats().used_bytes;
	freeable = tmem_freeable(tm);
	ck_assert_uint_eq(tmem_flush(tm, UINT64_MAX), freeable);
	ck_assert_uint_eq(tmem_freeable(tm), 0);
	ck_assert_uint_eq(stats().pages_ephemeral, 0);
	ck_assert_uint_eq(stats().pages_persistent, KEPT);
	ck_assert_uint_eq(stats().evictions, n + 2 * KEPT);
	ck_assert_uint_eq(client_now().evicted[TMEM_EVICT_FLUSH], n + KEPT);
	ck_assert_uint_ge((before - stats().used_bytes) * 100, freeable * 99);
	for (uint32_t i = 0; i < KEPT; i++)
		expect(cl, p, i, i, 3000);
	stop();
}
END_TEST

START_TEST(lending_nothing_takes_all_of_one_client)
{
	struct tmem_client *other;
	int e, x;
	uint32_t n;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	ck_assert_int_eq(tmem_client_create(tm, "other", &other), 0);
	x = tmem_pool_create(other, TMEM_EPHEMERAL, NULL);
	ck_assert_int_eq(tmem_put(other, x, &oid, 1, page(1, 3000)), 0);
	n = fill(e);
	ck_assert_int_eq(tmem_client_lend(cl, 0), 0);
	ck_assert_uint_eq(client_now().pages_ephemeral, 0);
	ck_assert_uint_eq(client_now().bytes, 0);
	ck_assert_uint_eq(client_now().evicted[TMEM_EVICT_LENT], n);
	expect(other, x, 1, 1, 3000);
	stop();
}
END_TEST

struct putter {
	pthread_t thread;
	int id;
	_Atomic bool stop;
	uint64_t puts;
};

/* Keys of its own; what it gets is what it put, or nothing. */
static void *put_on(void *arg)
{
	struct putter *p = arg;
	uint64_t got[PAGE_BYTES / 8], want[PAGE_BYTES / 8] = {0};

	while (!atomic_load(&p->stop)) {
		uint32_t i = 1u << 30 | (uint32_t)(p->puts++ % 4096);

		for (size_t k = 0; k < 300; k++)
			want[k] = (p->puts + k) * 0x9e3779b97f4a7c15u;
		if (tmem_put(cl, p->id, &oid, i, want))
			abort();
		if (!tmem_get(cl, p->id, &oid, i, got) &&
		    memcmp(got, want, sizeof(got)))
			abort();
		if (tmem_put(cl, p->id, &oid, i, want))
			abort();
	}
	return NULL;
}

START_TEST(drains_end_while_others_put)
{
	struct putter p = {0};

	start(0);
	p.id = pool(TMEM_EPHEMERAL);
	ck_assert_int_eq(pthread_create(&p.thread, NULL, put_on, &p), 0);
	for (int i = 0; i < 5; i++) {
		(void)fill(p.id);
		ck_assert_uint_ge(drain_client(cl, TMEM_EVICT_FLUSH),
				  BYTES / 2);
		ck_assert_uint_lt(client_now().bytes_ephemeral, BYTES / 2);
		ck_assert_int_eq(tmem_check(tm), 0);
	}
	atomic_store(&p.stop, true);
	pthread_join(p.thread, NULL);
	stop();
}
END_TEST

static Suite *suite_make(void)
{
	Suite *suite = suite_create("tmem_drain");
	TCase *tc = tcase_create("drain");

	tcase_set_timeout(tc, 240);
	tcase_add_test(tc, flush_of_all_takes_the_ephemeral_alone);
	tcase_add_test(tc, lending_nothing_takes_all_of_one_client);
	tcase_add_test(tc, drains_end_while_others_put);
	suite_add_tcase(suite, tc);
	return suite;
}

int main(void)
{
	SRunner *run = srunner_create(suite_make());
	int failed;

	srunner_run_all(run, CK_ENV);
	failed = srunner_ntests_failed(run);
	srunner_free(run);
	return failed != 0;
}
