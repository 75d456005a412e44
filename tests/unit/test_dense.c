/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The denser codec by itself, and a store whose client has one: that pages come
 * back, whichever codec took them and whatever fails, and that no stream and no
 * other client ever meets its form.
 */
#include "hv/mm/dense.h"
#include "tests/support/fault_host.h"
#include "tests/support/run.h"
#include "tests/support/store.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define READERS	 2
#define PAGES	 64
#define DAMAGES	 20000
#define THREADS	 4
#define ROUNDS	 2000
#define SMALL(n) ((n) % 40 * 100) /* random bytes of page n */

static struct dense *dense;

static void dense_start(void)
{
	ck_assert_int_eq(dense_create(&host_real, READERS, &dense), 0);
}

static void dense_stop(void)
{
	dense_destroy(dense);
}

static void page_copy(uint8_t *to, uint64_t seed, size_t random)
{
	memcpy(to, page(seed, random), PAGE_BYTES);
}

static size_t encode(const void *from, void *to, size_t room)
{
	const struct tmem_dense_ops *ops = dense_ops(dense);

	return ops->encode(ops->arg, from, to, room);
}

static int decode(const void *from, size_t n, void *to)
{
	const struct tmem_dense_ops *ops = dense_ops(dense);

	return ops->decode(ops->arg, from, n, to);
}

/* ---- the codec ---- */

START_TEST(page_of_any_kind_comes_back)
{
	uint8_t coded[PAGE_BYTES], got[PAGE_BYTES];

	for (size_t random = 0; random < PAGE_BYTES; random += 13) {
		size_t n = encode(page(random, random), coded, sizeof(coded));

		ck_assert_uint_le(n, sizeof(coded));
		if (random < 3000)
			ck_assert_uint_gt(n, 0);
		if (!n)
			continue;
		memset(got, 0x77, sizeof(got));
		ck_assert_int_eq(decode(coded, n, got), 0);
		ck_assert_mem_eq(got, page(random, random), PAGE_BYTES);
	}
}
END_TEST

START_TEST(page_that_does_not_fit_is_refused)
{
	uint8_t coded[PAGE_BYTES];
	size_t n;

	ck_assert_uint_eq(encode(page(1, PAGE_BYTES), coded, 3840), 0);
	n = encode(page(1, 1000), coded, sizeof(coded));
	ck_assert_uint_gt(n, 0);
	memset(coded, 0x77, sizeof(coded));
	for (size_t room = 0; room < n; room += 7) {
		ck_assert_uint_eq(encode(page(1, 1000), coded, room), 0);
		ck_assert_uint_eq(coded[room], 0x77);
	}
	/* And the next one is not spoilt by it. */
	ck_assert_uint_eq(encode(page(1, 1000), coded, sizeof(coded)), n);
}
END_TEST

/* Bytes at the very end of their memory, so that a sanitizer sees a step out.
 */
static int decode_exactly(const uint8_t *data, size_t n)
{
	uint8_t *copy = malloc(n + !n), *out = malloc(PAGE_BYTES);
	int rc;

	ck_assert(copy && out);
	if (n)
		memcpy(copy, data, n);
	rc = decode(copy, n, out);
	free(copy);
	free(out);
	return rc;
}

START_TEST(damaged_bytes_do_no_harm)
{
	uint8_t coded[PAGE_BYTES], bad[PAGE_BYTES];
	size_t n = encode(page(5, 1500), coded, sizeof(coded));
	struct rng rng = {5};
	int refused = 0;

	for (size_t cut = 0; cut < n; cut++)
		ck_assert_int_eq(decode_exactly(coded, cut), -EUCLEAN);
	for (int i = 0; i < DAMAGES; i++) {
		memcpy(bad, coded, n);
		for (uint64_t k = 1 + rng_below(&rng, 8); k; k--)
			bad[rng_below(&rng, n)] = (uint8_t)rng_next(&rng);
		refused += decode_exactly(bad, n) != 0;
		rng_fill(&rng, bad, 64);
		refused += decode_exactly(bad, rng_below(&rng, 64)) != 0;
	}
	ck_assert_int_gt(refused, DAMAGES / 2);
	memset(bad, 0, sizeof(bad));
	ck_assert_int_eq(decode(coded, n, bad), 0);
	ck_assert_mem_eq(bad, page(5, 1500), PAGE_BYTES);
}
END_TEST

static uint8_t many[PAGES][PAGE_BYTES];
static uint8_t many_coded[PAGES][PAGE_BYTES];
static size_t many_bytes[PAGES];

static void *many_read(void *arg)
{
	uint8_t got[PAGE_BYTES];
	struct rng rng = {(uintptr_t)arg};

	for (int i = 0; i < ROUNDS; i++) {
		size_t k = rng_below(&rng, PAGES);

		if (decode(many_coded[k], many_bytes[k], got) ||
		    memcmp(got, many[k], PAGE_BYTES))
			return arg;
		if (i % 4 == 0 &&
		    encode(many[k], got, sizeof(got)) != many_bytes[k])
			return arg;
	}
	return NULL;
}

/* More of them than there are contexts. */
START_TEST(threads_do_not_disturb_each_other)
{
	pthread_t id[THREADS];
	void *failed;

	for (size_t i = 0; i < PAGES; i++) {
		page_copy(many[i], i, SMALL(i) / 2);
		many_bytes[i] = encode(many[i], many_coded[i], PAGE_BYTES);
		ck_assert_uint_gt(many_bytes[i], 0);
	}
	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&id[i], NULL, many_read,
						(void *)(i + 1)),
				 0);
	for (size_t i = 0; i < THREADS; i++) {
		ck_assert_int_eq(pthread_join(id[i], &failed), 0);
		ck_assert_ptr_null(failed);
	}
}
END_TEST

START_TEST(without_memory_there_is_no_codec)
{
	struct dense *none = NULL;

	fault_host_reset(~0u);
	fault_host_fail(1, -ENOMEM);
	ck_assert_int_eq(dense_create(&fault_host, READERS, &none), -ENOMEM);
	ck_assert_ptr_null(none);
	ck_assert_int_eq(dense_create(&fault_host, READERS, &none), 0);
	ck_assert_uint_lt(dense_bytes(none), 512 << 10);
	dense_destroy(none);
	dense_destroy(NULL);
}
END_TEST

/* ---- in the store ---- */

static void dense_put(struct tmem_client *of, int id, uint32_t index,
		      uint64_t seed, size_t n)
{
	ck_assert_int_eq(tmem_put_dense(of, id, &oid, index, page(seed, n)), 0);
}

static struct tmem_client *client_make(const char *name)
{
	struct tmem_client *c;

	ck_assert_int_eq(tmem_client_create(tm, name, &c), 0);
	return c;
}

static int start_dense(void)
{
	start(0);
	ck_assert_int_eq(tmem_client_dense(cl, dense_ops(dense)), 0);
	return pool(TMEM_PERSISTENT);
}

START_TEST(dense_pages_come_back)
{
	int p = start_dense();

	for (uint32_t i = 0; i < 200; i++)
		dense_put(cl, p, i, i, SMALL(i));
	ck_assert_uint_gt(stats().pages_dense, 150);
	ck_assert_int_eq(tmem_check(tm), 0);
	for (uint32_t i = 0; i < 200; i++)
		expect(cl, p, i, i, SMALL(i));
	/* One form over the other, and back. */
	for (uint32_t i = 0; i < 200; i++)
		ck_assert_int_eq(tmem_put(cl, p, &oid, i, page(i, SMALL(i))),
				 0);
	ck_assert_uint_eq(stats().pages_dense, 0);
	for (uint32_t i = 0; i < 200; i++)
		dense_put(cl, p, i, i + 1000, SMALL(i + 1));
	for (uint32_t i = 0; i < 200; i++)
		expect(cl, p, i, i + 1000, SMALL(i + 1));
	stop();
}
END_TEST

START_TEST(dense_pages_take_less)
{
	uint8_t text[PAGE_BYTES];
	uint64_t lz4, zstd;
	int p = start_dense();

	/* What repeats too little for LZ4: each byte one of 16. */
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)("0123456789abcdef"[key_mix(i) & 15]);
	ck_assert_int_eq(tmem_put(cl, p, &oid, 0, text), 0);
	lz4 = stats().stored_bytes;
	ck_assert_int_eq(tmem_put_dense(cl, p, &oid, 0, text), 0);
	zstd = stats().stored_bytes;
	ck_assert_uint_lt(zstd * 4, lz4 * 3);
	stop();
}
END_TEST

START_TEST(equal_dense_pages_are_stored_once)
{
	int p = start_dense();
	uint64_t one;

	dense_put(cl, p, 0, 7, 1000);
	one = stats().stored_bytes;
	dense_put(cl, p, 1, 7, 1000);
	dense_put(cl, p, 2, 7, 1000);
	ck_assert_uint_eq(stats().stored_bytes, one);
	ck_assert_uint_eq(stats().pages_shared, 3);
	/* In the other form it is another object, and as right. */
	ck_assert_int_eq(tmem_put(cl, p, &oid, 3, page(7, 1000)), 0);
	ck_assert_uint_gt(stats().stored_bytes, one);
	for (uint32_t i = 0; i < 4; i++)
		expect(cl, p, i, 7, 1000);
	stop();
}
END_TEST

/* Only there can nobody else read them, and nothing drop them. */
START_TEST(only_private_persistent_pools_take_dense_pages)
{
	static const uint8_t uuid[16] = {9};
	struct tmem_client *plain;
	int p = start_dense();
	int ephemeral = pool(TMEM_EPHEMERAL);
	int shared;

	ck_assert_int_eq(tmem_client_auth(cl, uuid, true), 0);
	shared = tmem_pool_create(cl, TMEM_SHARED, uuid);
	ck_assert_int_ge(shared, 0);
	dense_put(cl, ephemeral, 0, 1, 500);
	dense_put(cl, shared, 0, 2, 500);
	plain = client_make("plain");
	ck_assert_int_eq(tmem_pool_create(plain, TMEM_PERSISTENT, NULL), 0);
	dense_put(plain, 0, 0, 3, 500);
	ck_assert_int_eq(tmem_client_set(cl, 1, 0, 0, false), 0);
	dense_put(cl, p, 0, 4, 500);
	ck_assert_uint_eq(stats().pages_dense, 0);
	ck_assert_uint_eq(stats().pages_raw, 1);
	expect(cl, ephemeral, 0, 1, 500);
	expect(cl, shared, 0, 2, 500);
	expect(plain, 0, 0, 3, 500);
	expect(cl, p, 0, 4, 500);
	ck_assert_int_eq(tmem_put_dense(cl, 99, &oid, 0, page(1, 1)), -ENOENT);
	ck_assert_int_eq(tmem_put_dense(cl, p, &oid, 0, NULL), -EINVAL);
	stop();
}
END_TEST

START_TEST(codec_is_given_once)
{
	struct tmem_dense_ops half = *dense_ops(dense);

	start_dense();
	ck_assert_int_eq(tmem_client_dense(cl, dense_ops(dense)), -EEXIST);
	ck_assert_int_eq(tmem_client_dense(NULL, dense_ops(dense)), -EINVAL);
	ck_assert_int_eq(tmem_client_dense(cl, NULL), -EINVAL);
	half.decode = NULL;
	ck_assert_int_eq(tmem_client_dense(cl, &half), -EINVAL);
	stop();
}
END_TEST

/* ---- a codec that fails ---- */

static struct {
	bool encode, decode; /* do they? */
	size_t claims;	     /* bytes it says it wrote; 0: the truth */
} fails;

static size_t failing_encode(void *arg, const void *from, void *out,
			     size_t room)
{
	(void)arg;
	if (fails.claims)
		return fails.claims;
	return fails.encode ? 0 : encode(from, out, room);
}

static int failing_decode(void *arg, const void *data, size_t n, void *page_out)
{
	(void)arg;
	memset(page_out, 0x55, 100); /* as one that gives up half-way */
	return fails.decode ? -EUCLEAN : decode(data, n, page_out);
}

static const struct tmem_dense_ops failing = {failing_encode, failing_decode,
					      NULL};

static int start_failing(void)
{
	memset(&fails, 0, sizeof(fails));
	start(0);
	ck_assert_int_eq(tmem_client_dense(cl, &failing), 0);
	return pool(TMEM_PERSISTENT);
}

START_TEST(what_cannot_be_encoded_goes_by_lz4)
{
	int p = start_failing();

	fails.encode = true;
	dense_put(cl, p, 0, 1, 500);
	dense_put(cl, p, 1, 2, PAGE_BYTES);
	fails.encode = false;
	fails.claims = PAGE_BYTES; /* more than there was room for */
	dense_put(cl, p, 2, 3, 500);
	ck_assert_uint_eq(stats().pages_dense, 0);
	ck_assert_uint_eq(stats().pages_raw, 1);
	expect(cl, p, 0, 1, 500);
	expect(cl, p, 1, 2, PAGE_BYTES);
	expect(cl, p, 2, 3, 500);
	stop();
}
END_TEST

START_TEST(what_cannot_be_decoded_is_told_and_kept)
{
	unsigned char got[PAGE_BYTES], was[PAGE_BYTES];
	int p = start_failing();
	int fd = memfd_create("stream", MFD_CLOEXEC);

	dense_put(cl, p, 0, 1, 500);
	ck_assert_uint_eq(stats().pages_dense, 1);
	fails.decode = true;
	memset(got, 0x77, sizeof(got));
	memcpy(was, got, sizeof(was));
	ck_assert_int_eq(tmem_get(cl, p, &oid, 0, got), -EUCLEAN);
	ck_assert_mem_eq(got, was, sizeof(was));
	ck_assert_int_eq(tmem_save(cl, fd), -EUCLEAN);
	fails.decode = false;
	expect(cl, p, 0, 1, 500);
	close(fd);
	stop();
}
END_TEST

/* ---- saving ---- */

/* A client without such a codec reads it: format 1 knows no dense form. */
START_TEST(stream_of_dense_pages_is_anybodys)
{
	int p = start_dense();
	struct tmem_client *to = client_make("to");
	int fd = memfd_create("stream", MFD_CLOEXEC);

	for (uint32_t i = 0; i < 100; i++)
		dense_put(cl, p, i, i, SMALL(i));
	ck_assert_uint_gt(stats().pages_dense, 50);
	ck_assert_int_eq(tmem_save(cl, fd), 0);
	for (uint32_t i = 0; i < 100; i++)
		expect(cl, p, i, i, SMALL(i));
	tmem_client_destroy(cl);
	ck_assert_int_eq(lseek(fd, 0, SEEK_SET), 0);
	ck_assert_int_eq(tmem_restore(to, fd), 0);
	ck_assert_uint_eq(stats().pages_dense, 0);
	for (uint32_t i = 0; i < 100; i++)
		expect(to, p, i, i, SMALL(i));
	close(fd);
	stop();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("dense");
	TCase *codec = tcase_create("codec");
	TCase *store = tcase_create("store");

	tcase_add_checked_fixture(codec, dense_start, dense_stop);
	tcase_set_timeout(codec, 120);
	tcase_add_test(codec, page_of_any_kind_comes_back);
	tcase_add_test(codec, page_that_does_not_fit_is_refused);
	tcase_add_test(codec, damaged_bytes_do_no_harm);
	tcase_add_test(codec, threads_do_not_disturb_each_other);
	tcase_add_test(codec, without_memory_there_is_no_codec);
	suite_add_tcase(s, codec);
	tcase_add_checked_fixture(store, dense_start, dense_stop);
	tcase_add_test(store, dense_pages_come_back);
	tcase_add_test(store, dense_pages_take_less);
	tcase_add_test(store, equal_dense_pages_are_stored_once);
	tcase_add_test(store, only_private_persistent_pools_take_dense_pages);
	tcase_add_test(store, codec_is_given_once);
	tcase_add_test(store, what_cannot_be_encoded_goes_by_lz4);
	tcase_add_test(store, what_cannot_be_decoded_is_told_and_kept);
	tcase_add_test(store, stream_of_dense_pages_is_anybodys);
	suite_add_tcase(s, store);
	return suite_run(s);
}
