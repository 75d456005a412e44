/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The store, promise by promise: results at the boundaries, the laws one by
 * one, forms, and damage that the check must see. Policy and accounting are in
 * test_tmem_policy.c, random sequences in test_tmem_model.c.
 */
#include "tests/support/run.h"
#include "tests/support/store.h"

#include <limits.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SCRIBBLE_OPS 4000
#else
#define SCRIBBLE_OPS 20000
#endif

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
	ck_assert_int_eq(tmem_pool_create(cl, TMEM_SHARED, uuid), 0);
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
	ck_assert_int_eq(tmem_save(NULL, 1), -EINVAL);
	ck_assert_int_eq(tmem_restore(NULL, 0), -EINVAL);
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
	(void)pool(TMEM_EPHEMERAL);
	p = pool(TMEM_PERSISTENT);
	empty = stats();
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

START_TEST(check_sees_one_flipped_bit)
{
	struct pack_class *c;
	char *at;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, page(1, PAGE_BYTES)), 0);
	ck_assert_int_eq(tmem_check(tm), 0);
	c = &tm->shelf[KIND_PERSISTENT]->pack.class[PACK_SMALL];
	while (!c->count)
		c++;
	at = arena_block_at(&tm->shelf[KIND_PERSISTENT]->pack.extents,
			    c->extent[0]);
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

/* What a page leaves behind must not wait for the next to overwrite it. */
START_TEST(freed_memory_is_zeroed)
{
	const struct pack_class *c;
	char *beyond;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	for (uint32_t i = 0; i < 300; i++)
		ck_assert_int_eq(tmem_put(cl, p, &oid, i, page(i, 1000)), 0);
	for (uint32_t i = 0; i < 300; i++)
		if (i % 100)
			ck_assert_int_eq(tmem_flush_page(cl, p, &oid, i), 0);
	ck_assert_int_eq(tmem_check(tm), 0);
	c = tm->shelf[KIND_PERSISTENT]->pack.class;
	while (!c->count || c->count * c->bytes % PAGE_BYTES == 0)
		c++;
	beyond = arena_block_at(&tm->shelf[KIND_PERSISTENT]->pack.extents,
				c->extent[0]) +
		 (size_t)c->count * c->bytes;
	for (size_t i = 0; (uintptr_t)(beyond + i) % PAGE_BYTES; i++)
		ck_assert_int_eq(beyond[i], 0);
	beyond[0] = 1;
	ck_assert_int_eq(tmem_check(tm), -EUCLEAN);
	beyond[0] = 0;
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
	tcase_add_test(tc, check_sees_one_flipped_bit);
	tcase_add_test(tc, freed_memory_is_zeroed);
	suite_add_tcase(suite, tc);
}

int main(void)
{
	Suite *suite = suite_create("tmem");

	cases_add(suite);
	return suite_run(suite);
}
