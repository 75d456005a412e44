/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Equal pages: stored once for the keys of one client and kind, never across
 * clients, never on the word of a hash, and to the byte in every account.
 */
#include "tests/support/run.h"
#include "tests/support/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define THREADS 8
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MANY 8000
#define OPS  6000
#else
#define MANY 60000
#define OPS  60000
#endif

static void put(struct tmem_client *c, int id, uint32_t index, uint64_t seed,
		size_t n)
{
	ck_assert_int_eq(tmem_put(c, id, &oid, index, page(seed, n)), 0);
}

START_TEST(equal_pages_are_stored_once)
{
	struct tmem_stats one;
	struct tmem_stats all;
	uint64_t bytes;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	put(cl, p, 0, 7, 2000);
	one = stats();
	ck_assert_uint_eq(one.pages_shared, 0);
	bytes = atomic_load(&cl->bytes);
	for (uint32_t i = 1; i < 8; i++)
		put(cl, p, i, 7, 2000);
	all = stats();
	ck_assert_uint_eq(all.pages, 8);
	ck_assert_uint_eq(all.pages_shared, 8);
	ck_assert_uint_eq(all.stored_bytes, one.stored_bytes);
	ck_assert_uint_eq(atomic_load(&cl->bytes), bytes);
	ck_assert_int_eq(tmem_check(tm), 0);
	for (uint32_t i = 0; i < 8; i++)
		expect(cl, p, i, 7, 2000);
	/* The first goes, the others stay. */
	for (uint32_t i = 0; i < 7; i++) {
		ck_assert_int_eq(tmem_flush_page(cl, p, &oid, i), 0);
		expect_miss(cl, p, i);
		expect(cl, p, 7, 7, 2000);
		ck_assert_uint_eq(stats().pages_shared, i < 6 ? 7 - i : 0);
		ck_assert_uint_eq(stats().stored_bytes, one.stored_bytes);
	}
	ck_assert_uint_eq(atomic_load(&cl->bytes), bytes);
	ck_assert_int_eq(tmem_flush_page(cl, p, &oid, 7), 0);
	ck_assert_uint_eq(stats().stored_bytes, 0);
	ck_assert_uint_eq(stats().slack_bytes, 0);
	ck_assert_uint_eq(atomic_load(&cl->bytes), 0);
	stop();
}
END_TEST

START_TEST(each_form_is_shared)
{
	struct tmem_stats st;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	for (uint32_t i = 0; i < 4; i++) {
		put(cl, p, i, 1, 300);
		put(cl, p, 10 + i, 2, PAGE_BYTES);
		put(cl, p, 20 + i, 0, 0); /* a word: nothing to share */
	}
	st = stats();
	ck_assert_uint_eq(st.pages_shared, 8);
	ck_assert_uint_eq(st.pages_raw, 4);
	ck_assert_uint_eq(st.pages_same_filled, 4);
	ck_assert_uint_lt(st.stored_bytes, PAGE_BYTES + 600);
	stop();
}
END_TEST

START_TEST(every_one_of_many_is_found)
{
	struct tmem_stats once;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	for (uint32_t i = 0; i < MANY; i++)
		put(cl, p, i, i, 32);
	once = stats();
	for (uint32_t i = 0; i < MANY; i++)
		put(cl, p, MANY * 2 + i, MANY - 1 - i, 32);
	ck_assert_uint_eq(stats().pages_shared, 2 * MANY);
	ck_assert_uint_eq(stats().stored_bytes, once.stored_bytes);
	ck_assert_int_eq(tmem_check(tm), 0);
	for (uint32_t i = 0; i < MANY; i++)
		ck_assert_int_eq(tmem_flush_page(cl, p, &oid, i), 0);
	ck_assert_uint_eq(stats().pages_shared, 0);
	for (uint32_t i = 0; i < MANY; i += 7)
		expect(cl, p, MANY * 2 + i, MANY - 1 - i, 32);
	/* Still found by those that come now, though the index shrank. */
	for (uint32_t i = 0; i < MANY; i++)
		if (i % 50)
			ck_assert_int_eq(
				tmem_flush_page(cl, p, &oid, MANY * 2 + i), 0);
	for (uint32_t i = 0; i < MANY; i += 50)
		put(cl, p, i, MANY - 1 - i, 32);
	ck_assert_uint_eq(stats().pages_shared, 2 * ((MANY + 49) / 50));
	ck_assert_int_eq(tmem_pool_destroy(cl, p), 0);
	ck_assert_uint_eq(stats().slack_bytes, 0);
	stop();
}
END_TEST

START_TEST(clients_share_nothing)
{
	struct tmem_client *other;
	struct tmem_stats one;
	int p, q;

	start(0);
	ck_assert_int_eq(tmem_client_create(tm, "other", &other), 0);
	p = pool(TMEM_PERSISTENT);
	q = tmem_pool_create(other, TMEM_PERSISTENT, NULL);
	put(cl, p, 0, 7, 2000);
	one = stats();
	put(other, q, 0, 7, 2000);
	ck_assert_uint_eq(stats().pages_shared, 0);
	ck_assert_uint_eq(stats().stored_bytes, 2 * one.stored_bytes);
	ck_assert_uint_eq(atomic_load(&cl->bytes), atomic_load(&other->bytes));
	tmem_client_destroy(other);
	expect(cl, p, 0, 7, 2000);
	stop();
}
END_TEST

START_TEST(kinds_share_nothing)
{
	uint64_t freeable;
	int e, p;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	p = pool(TMEM_PERSISTENT);
	put(cl, e, 0, 7, 2000);
	put(cl, p, 0, 7, 2000);
	ck_assert_uint_eq(stats().pages_shared, 0);
	/* What is freeable is, whoever has the same. */
	freeable = tmem_freeable(tm);
	ck_assert_uint_gt(freeable, 2000);
	ck_assert_uint_eq(tmem_flush(tm, UINT64_MAX), freeable);
	expect(cl, p, 0, 7, 2000);
	stop();
}
END_TEST

START_TEST(replaced_copy_leaves_the_others)
{
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	for (uint32_t i = 0; i < 3; i++)
		put(cl, p, i, 7, 2000);
	put(cl, p, 0, 8, 2000);
	put(cl, p, 1, 9, 30);
	expect(cl, p, 0, 8, 2000);
	expect(cl, p, 1, 9, 30);
	expect(cl, p, 2, 7, 2000);
	/* And comes back; and is put onto itself. */
	put(cl, p, 0, 7, 2000);
	put(cl, p, 0, 7, 2000);
	put(cl, p, 2, 7, 2000);
	expect(cl, p, 0, 7, 2000);
	expect(cl, p, 2, 7, 2000);
	ck_assert_uint_eq(stats().pages_shared, 2);
	stop();
}
END_TEST

START_TEST(refused_replacement_keeps_accounts)
{
	uint64_t bytes;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	put(cl, p, 0, 7, 2000);
	put(cl, p, 1, 7, 2000);
	bytes = atomic_load(&cl->bytes);
	ck_assert_int_eq(tmem_client_set(cl, 1, bytes, 0, true), 0);
	/* The old content stays for the other key: there is no room. */
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, page(8, 100)), -ENOMEM);
	expect_miss(cl, p, 0);
	expect(cl, p, 1, 7, 2000);
	ck_assert_uint_eq(atomic_load(&cl->bytes), bytes);
	put(cl, p, 0, 7, 2000); /* takes none */
	ck_assert_uint_eq(atomic_load(&cl->bytes), bytes);
	ck_assert_int_eq(tmem_flush_page(cl, p, &oid, 0), 0);
	put(cl, p, 1, 8, 100); /* alone now: replaced */
	stop();
}
END_TEST

/* Two pages under one checksum, as a guest might make them. */
START_TEST(hash_alone_makes_nothing_equal)
{
	static struct codec_page a, b;
	unsigned char got[PAGE_BYTES];
	struct key key;
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	codec_encode(&a, page(1, PAGE_BYTES), CODEC_COMPRESS);
	codec_encode(&b, page(2, PAGE_BYTES), CODEC_COMPRESS);
	b.item.sum = a.item.sum;
	for (uint32_t i = 0; i < 100; i++) {
		key = key_make(cl, p, &oid, i);
		ck_assert_int_eq(key_put(&key, i % 2 ? &a : &b), 0);
	}
	ck_assert_uint_eq(stats().pages_shared, 100);
	ck_assert_uint_eq(stats().stored_bytes, 2 * PAGE_BYTES);
	for (uint32_t i = 0; i < 100; i++) {
		ck_assert_int_eq(tmem_get(cl, p, &oid, i, got), 0);
		ck_assert_mem_eq(got, page(i % 2 ? 1 : 2, PAGE_BYTES),
				 PAGE_BYTES);
	}
	/* The check sees the forged one. */
	ck_assert_int_eq(tmem_check(tm), -EUCLEAN);
	ck_assert_int_eq(tmem_pool_destroy(cl, p), 0);
	stop();
}
END_TEST

START_TEST(eviction_frees_what_it_says)
{
	uint64_t freeable;
	uint64_t freed;
	int e;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	for (uint32_t i = 0; i < 2000; i++)
		put(cl, e, i, i % 100, 3000);
	ck_assert_uint_eq(stats().pages_shared, 2000);
	freeable = tmem_freeable(tm);
	ck_assert_uint_lt(freeable, 100 * 4096 + 2000 * 24);
	freed = tmem_flush(tm, 100000);
	ck_assert_uint_ge(freed, 100000);
	ck_assert_uint_eq(tmem_freeable(tm), freeable - freed);
	ck_assert_int_eq(tmem_check(tm), 0);
	freeable -= freed;
	ck_assert_uint_eq(tmem_flush(tm, UINT64_MAX), freeable);
	ck_assert_uint_eq(stats().pages, 0);
	stop();
}
END_TEST

START_TEST(saved_and_restored_they_are_one_again)
{
	struct tmem_client *to;
	struct tmem_stats st;
	int fd = memfd_create("stream", MFD_CLOEXEC);
	int p;

	start(0);
	p = pool(TMEM_PERSISTENT);
	for (uint32_t i = 0; i < 100; i++)
		put(cl, p, i, i % 10, 1000);
	st = stats();
	ck_assert_int_eq(tmem_save(cl, fd), 0);
	/* Put anew, each into a word that had its mark. */
	for (uint32_t i = 0; i < 100; i++)
		put(cl, p, i, i % 10, 1000);
	ck_assert_int_eq(tmem_client_create(tm, "to", &to), 0);
	ck_assert_int_eq(lseek(fd, 0, SEEK_SET), 0);
	ck_assert_int_eq(tmem_restore(to, fd), 0);
	for (uint32_t i = 0; i < 100; i++)
		expect(to, p, i, i % 10, 1000);
	ck_assert_uint_eq(stats().pages_shared, 200);
	ck_assert_uint_eq(stats().stored_bytes, 2 * st.stored_bytes);
	close(fd);
	stop();
}
END_TEST

struct worker {
	pthread_t thread;
	struct rng rng;
	uint32_t first;
};

/* Few contents, keys of its own: every word turns into a reference and back. */
static void *share(void *arg)
{
	struct worker *w = arg;
	uint64_t held[64] = {0};
	unsigned char buf[PAGE_BYTES];

	for (unsigned n = 0; n < OPS; n++) {
		uint32_t i = (uint32_t)rng_below(&w->rng, 64);
		uint32_t index = w->first + i * 3;

		switch (rng_below(&w->rng, 3)) {
		case 0:
			held[i] = 1 + rng_below(&w->rng, 12);
			memset(buf, 0, sizeof(buf));
			memset(buf, (int)held[i], held[i] * 300);
			ck_assert_int_eq(tmem_put(cl, 0, &oid, index, buf), 0);
			break;
		case 1:
			held[i] = 0;
			ck_assert_int_eq(tmem_flush_page(cl, 0, &oid, index),
					 0);
			break;
		default:
			ck_assert_int_eq(tmem_get(cl, 0, &oid, index, buf),
					 held[i] ? 0 : -ENOENT);
			if (held[i]) {
				ck_assert_uint_eq(buf[0], held[i]);
				ck_assert_uint_eq(buf[held[i] * 300 - 1],
						  held[i]);
				ck_assert_uint_eq(buf[held[i] * 300], 0);
			}
		}
	}
	return NULL;
}

START_TEST(threads_share_and_part)
{
	struct worker w[THREADS];
	struct rng rng;

	rng_start(&rng, "threads_share_and_part");
	start(0);
	ck_assert_int_eq(pool(TMEM_PERSISTENT), 0);
	for (uint32_t n = 0; n < THREADS; n++) {
		w[n].rng.state = rng_next(&rng);
		w[n].first = n * 1000;
		ck_assert_int_eq(
			pthread_create(&w[n].thread, NULL, share, &w[n]), 0);
	}
	for (unsigned n = 0; n < 20; n++)
		ck_assert_int_eq(tmem_check(tm), 0);
	for (unsigned n = 0; n < THREADS; n++)
		pthread_join(w[n].thread, NULL);
	ck_assert_int_eq(tmem_check(tm), 0);
	/* Equal ones are one, in spite of the haste. */
	ck_assert_uint_lt(stats().stored_bytes, 12 * 60);
	ck_assert_int_eq(tmem_pool_destroy(cl, 0), 0);
	ck_assert_uint_eq(stats().slack_bytes, 0);
	stop();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tmem_equal");
	TCase *tc = tcase_create("equal");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, equal_pages_are_stored_once);
	tcase_add_test(tc, each_form_is_shared);
	tcase_add_test(tc, every_one_of_many_is_found);
	tcase_add_test(tc, clients_share_nothing);
	tcase_add_test(tc, kinds_share_nothing);
	tcase_add_test(tc, replaced_copy_leaves_the_others);
	tcase_add_test(tc, refused_replacement_keeps_accounts);
	tcase_add_test(tc, hash_alone_makes_nothing_equal);
	tcase_add_test(tc, eviction_frees_what_it_says);
	tcase_add_test(tc, saved_and_restored_they_are_one_again);
	tcase_add_test(tc, threads_share_and_part);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
