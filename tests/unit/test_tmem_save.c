/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Save, restore and the live stream: what comes back, what a running guest may
 * change under way, and that a stream cut or altered at any byte is refused
 * whole. tests/golden/tmem-save-1.bin was written by format 1 and must be
 * readable for ever; TMEM_GOLDEN_WRITE=FILE writes such a file anew.
 */
#include "tests/support/run.h"
#include "tests/support/store.h"
#include "tmem/stream.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define GOLDEN "tests/golden/tmem-save-1.bin"

static const uint8_t uuid[16] = {0xab, 0xcd};

static int file_make(void)
{
	int fd = memfd_create("stream", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	return fd;
}

static void rewind_fd(int fd)
{
	ck_assert_int_eq(lseek(fd, 0, SEEK_SET), 0);
}

static int restore_from(struct tmem_client *to, int fd)
{
	rewind_fd(fd);
	return tmem_restore(to, fd);
}

static struct tmem_client *client_make(const char *name)
{
	struct tmem_client *c;

	ck_assert_int_eq(tmem_client_create(tm, name, &c), 0);
	return c;
}

static void put(struct tmem_client *c, int id, uint32_t index, uint64_t seed,
		size_t n)
{
	ck_assert_int_eq(tmem_put(c, id, &oid, index, page(seed, n)), 0);
}

static void *bytes_of(int fd, size_t *n_out)
{
	off_t n = lseek(fd, 0, SEEK_END);
	void *data = malloc((size_t)n);

	ck_assert_ptr_nonnull(data);
	ck_assert_int_eq(pread(fd, data, (size_t)n, 0), n);
	*n_out = (size_t)n;
	return data;
}

/*
 * What the golden file holds: a persistent pool of 60 pages in two objects, of
 * every form and put in no order; an ephemeral one with a page that is not
 * saved; a persistent one of one page; a hole; an empty persistent one.
 */
static void golden_fill(struct tmem_client *c)
{
	unsigned char zero[PAGE_BYTES] = {0};

	for (int id = 0; id < 5; id++)
		ck_assert_int_eq(tmem_pool_create(c, id != 1, NULL), id);
	ck_assert_int_eq(tmem_pool_destroy(c, 3), 0);
	for (uint32_t i = 0; i < 60; i++)
		put(c, 0, i * 37 % 60 * 3, i * 37 % 60, i % 5 * 200);
	put(c, 0, 17, 4711, PAGE_BYTES);
	ck_assert_int_eq(tmem_put(c, 0, &oid_other, UINT32_MAX, zero), 0);
	put(c, 1, 0, 1, 100);
	put(c, 2, 0, 99, 77);
}

static void golden_expect(struct tmem_client *c)
{
	unsigned char zero[PAGE_BYTES] = {0};
	unsigned char got[PAGE_BYTES];

	for (uint32_t i = 0; i < 60; i++)
		expect(c, 0, i * 37 % 60 * 3, i * 37 % 60, i % 5 * 200);
	expect(c, 0, 17, 4711, PAGE_BYTES);
	ck_assert_int_eq(tmem_get(c, 0, &oid_other, UINT32_MAX, got), 0);
	ck_assert_mem_eq(got, zero, PAGE_BYTES);
	expect_miss(c, 1, 0);
	expect(c, 2, 0, 99, 77);
	ck_assert_int_eq(tmem_put(c, 3, &oid, 0, zero), -ENOENT);
	expect_miss(c, 4, 0);
	ck_assert_int_eq(tmem_pool_destroy(c, 4), 0);
	ck_assert_int_eq(tmem_pool_destroy(c, 4), -ENOENT);
	/* The second is ephemeral still. */
	put(c, 1, 3, 5, 5);
	expect(c, 1, 3, 5, 5);
	expect_miss(c, 1, 3);
}

START_TEST(restored_is_what_was_saved)
{
	struct tmem_client *to;
	int fd = file_make();

	start(0);
	golden_fill(cl);
	ck_assert_int_eq(tmem_save(cl, fd), 0);
	to = client_make("to");
	ck_assert_int_eq(restore_from(to, fd), 0);
	ck_assert_int_eq(lseek(fd, 0, SEEK_CUR), lseek(fd, 0, SEEK_END));
	ck_assert_int_eq(tmem_check(tm), 0);
	golden_expect(to);
	/* The first is as it was. */
	ck_assert_int_eq(restore_from(cl, fd), -EEXIST);
	ck_assert_int_eq(tmem_flush_page(cl, 1, &oid, 0), 0);
	golden_expect(cl);
	close(fd);
	stop();
}
END_TEST

START_TEST(format_1_is_readable)
{
	int fd = open(GOLDEN, O_RDONLY);

	if (fd < 0)
		fd = open("../../" GOLDEN, O_RDONLY);
	ck_assert_int_ge(fd, 0);
	start(0);
	ck_assert_int_eq(tmem_restore(cl, fd), 0);
	golden_expect(cl);
	close(fd);
	stop();
}
END_TEST

START_TEST(client_without_pools_is_saved)
{
	struct tmem_client *to;
	int fd = file_make();

	start(0);
	ck_assert_int_eq(tmem_save(cl, fd), 0);
	to = client_make("to");
	ck_assert_int_eq(restore_from(to, fd), 0);
	ck_assert_int_eq(tmem_pool_create(to, 0, NULL), 0);
	close(fd);
	stop();
}
END_TEST

START_TEST(shared_pool_needs_authorisation_again)
{
	struct tmem_client *to;
	int fd = file_make();

	start(0);
	ck_assert_int_eq(tmem_client_auth(cl, uuid, true), 0);
	ck_assert_int_eq(pool(TMEM_PERSISTENT), 0);
	ck_assert_int_eq(tmem_pool_create(cl, TMEM_SHARED, uuid), 1);
	put(cl, 0, 0, 1, 100);
	put(cl, 1, 0, 2, 100);
	ck_assert_int_eq(tmem_save(cl, fd), 0);
	to = client_make("to");
	ck_assert_int_eq(restore_from(to, fd), -EACCES);
	ck_assert_int_eq(tmem_pool_destroy(to, 0), -ENOENT);
	ck_assert_int_eq(tmem_client_auth(to, uuid, true), 0);
	ck_assert_int_eq(restore_from(to, fd), 0);
	expect(to, 0, 0, 1, 100);
	expect(to, 1, 0, 2, 100); /* from its other member */
	close(fd);
	stop();
}
END_TEST

/* The client's pools and pages, and its charge, are none. */
static void expect_nothing(struct tmem_client *c)
{
	for (int id = 0; id < TMEM_POOLS_MAX; id++)
		ck_assert_int_eq(tmem_pool_destroy(c, id), -ENOENT);
	ck_assert_uint_eq(atomic_load(&c->bytes), 0);
}

START_TEST(cut_stream_is_refused_whole)
{
	struct tmem_client *to;
	int fd = file_make();
	size_t n;
	void *data;

	start(0);
	golden_fill(cl);
	ck_assert_int_eq(tmem_save(cl, fd), 0);
	data = bytes_of(fd, &n);
	to = client_make("to");
	for (size_t cut = 0; cut < n;
	     cut += cut < 64 || cut > n - 64 ? 1 : 37) {
		ck_assert_int_eq(ftruncate(fd, 0), 0);
		ck_assert_int_eq(pwrite(fd, data, cut, 0), (ssize_t)cut);
		ck_assert_int_eq(restore_from(to, fd), -EBADMSG);
		expect_nothing(to);
	}
	ck_assert_int_eq(pwrite(fd, data, n, 0), (ssize_t)n);
	ck_assert_int_eq(restore_from(to, fd), 0);
	golden_expect(to);
	free(data);
	close(fd);
	stop();
}
END_TEST

START_TEST(altered_stream_is_refused_whole)
{
	struct tmem_client *to;
	int fd = file_make();
	unsigned char *data;
	size_t n;
	int rc;

	start(0);
	golden_fill(cl);
	ck_assert_int_eq(tmem_save(cl, fd), 0);
	data = bytes_of(fd, &n);
	to = client_make("to");
	for (size_t at = 0; at < n; at += at < 200 || at > n - 64 ? 1 : 41) {
		unsigned char was = data[at];
		unsigned char is = (unsigned char)(was ^ 1u << at % 8);

		ck_assert_int_eq(pwrite(fd, &is, 1, (off_t)at), 1);
		rc = restore_from(to, fd);
		ck_assert(rc == -EBADMSG || rc == -EPROTONOSUPPORT ||
			  rc == -EACCES);
		expect_nothing(to);
		ck_assert_int_eq(pwrite(fd, &was, 1, (off_t)at), 1);
	}
	ck_assert_int_eq(restore_from(to, fd), 0);
	golden_expect(to);
	free(data);
	close(fd);
	stop();
}
END_TEST

START_TEST(restore_obeys_the_cap)
{
	struct tmem_client *to;
	int fd = file_make();

	start(0);
	golden_fill(cl);
	ck_assert_int_eq(tmem_save(cl, fd), 0);
	to = client_make("to");
	ck_assert_int_eq(tmem_client_set(to, 1, 9000, 0, true), 0);
	ck_assert_int_eq(restore_from(to, fd), -ENOMEM);
	expect_nothing(to);
	ck_assert_int_eq(tmem_client_set(to, 1, 0, 0, true), 0);
	ck_assert_int_eq(restore_from(to, fd), 0);
	golden_expect(to);
	close(fd);
	stop();
}
END_TEST

START_TEST(write_errors_are_told)
{
	int fd = open("/dev/full", O_WRONLY);

	start(0);
	ck_assert_int_ge(fd, 0);
	golden_fill(cl);
	ck_assert_int_eq(tmem_save(cl, fd), -ENOSPC);
	ck_assert_int_eq(tmem_save(cl, -1), -EBADF);
	ck_assert_int_eq(tmem_restore(client_make("to"), -1), -EBADF);
	ck_assert_int_eq(tmem_flush_page(cl, 1, &oid, 0), 0);
	golden_expect(cl);
	close(fd);
	stop();
}
END_TEST

/* ---- live ------------------------------------------------------------ */

START_TEST(passes_tell_only_what_changed)
{
	struct tmem_saver *saver, *second;
	struct tmem_client *to;
	uint64_t pages;
	int fd = file_make();

	start(0);
	golden_fill(cl);
	ck_assert_int_eq(tmem_save_begin(cl, fd, &saver), 0);
	ck_assert_int_eq(tmem_save_begin(cl, fd, &second), -EBUSY);
	ck_assert_int_eq(tmem_save_pass(saver, &pages), 0);
	ck_assert_uint_eq(pages, 63);
	ck_assert_int_eq(tmem_save_pass(saver, &pages), 0);
	ck_assert_uint_eq(pages, 0);
	/* Replaced, flushed, new, and a pool gone and come again. */
	put(cl, 0, 0, 1000, 500);
	put(cl, 0, 3, 1001, PAGE_BYTES);
	ck_assert_int_eq(tmem_flush_page(cl, 0, &oid, 6), 0);
	put(cl, 0, 1000000, 1002, 5);
	ck_assert_int_eq(tmem_save_pass(saver, &pages), 0);
	ck_assert_uint_eq(pages, 3);
	ck_assert_int_eq(tmem_pool_destroy(cl, 2), 0);
	ck_assert_int_eq(tmem_pool_destroy(cl, 4), 0);
	ck_assert_int_eq(tmem_pool_create(cl, TMEM_PERSISTENT, NULL), 2);
	put(cl, 2, 5, 1003, 5);
	ck_assert_int_eq(tmem_flush_object(cl, 0, &oid_other), 0);
	ck_assert_int_eq(tmem_save_end(saver), 0);
	to = client_make("to");
	ck_assert_int_eq(restore_from(to, fd), 0);
	ck_assert_int_eq(tmem_check(tm), 0);
	expect(to, 0, 0, 1000, 500);
	expect(to, 0, 3, 1001, PAGE_BYTES);
	expect_miss(to, 0, 6);
	expect(to, 0, 1000000, 1002, 5);
	expect(to, 0, 17, 4711, PAGE_BYTES);
	expect_miss(to, 2, 0);
	expect(to, 2, 5, 1003, 5);
	ck_assert_int_eq(tmem_flush_object(to, 0, &oid), 0);
	ck_assert_int_eq(tmem_pool_destroy(to, 4), -ENOENT);
	ck_assert_uint_eq(stats().pages_persistent, 62 + 1);
	close(fd);
	stop();
}
END_TEST

START_TEST(cancelled_save_restores_nothing)
{
	struct tmem_saver *saver;
	struct tmem_client *to;
	uint64_t pages;
	int fd = file_make();

	start(0);
	golden_fill(cl);
	ck_assert_int_eq(tmem_save_begin(cl, fd, &saver), 0);
	ck_assert_int_eq(tmem_save_pass(saver, &pages), 0);
	tmem_save_cancel(saver);
	to = client_make("to");
	ck_assert_int_eq(restore_from(to, fd), -EBADMSG);
	expect_nothing(to);
	/* A new save is whole in spite of the marks of the old one. */
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	rewind_fd(fd);
	ck_assert_int_eq(tmem_save(cl, fd), 0);
	ck_assert_int_eq(restore_from(to, fd), 0);
	golden_expect(to);
	close(fd);
	stop();
}
END_TEST

static _Atomic bool guest_ends;

static void *guest(void *arg)
{
	unsigned char buf[PAGE_BYTES];
	struct rng rng = {*(uint64_t *)arg};

	while (!guest_ends) {
		uint32_t index = (uint32_t)rng_below(&rng, 5000);

		memset(buf, (int)rng_next(&rng), sizeof(buf));
		memcpy(buf, &index, sizeof(index));
		if (rng_below(&rng, 4))
			ck_assert_int_eq(tmem_put(cl, 0, &oid, index, buf), 0);
		else
			ck_assert_int_eq(tmem_flush_page(cl, 0, &oid, index),
					 0);
	}
	return NULL;
}

/* The guest runs during the passes and stops for the last. */
START_TEST(live_stream_is_the_state_at_its_end)
{
	unsigned char a[PAGE_BYTES];
	unsigned char b[PAGE_BYTES];
	struct tmem_saver *saver;
	struct tmem_client *to;
	uint64_t seed = 3;
	uint64_t pages;
	pthread_t thread;
	int fd = file_make();

	start(0);
	ck_assert_int_eq(pool(TMEM_PERSISTENT), 0);
	for (uint32_t i = 0; i < 5000; i++)
		put(cl, 0, i, i, 64);
	ck_assert_int_eq(pthread_create(&thread, NULL, guest, &seed), 0);
	ck_assert_int_eq(tmem_save_begin(cl, fd, &saver), 0);
	for (unsigned pass = 0; pass < 10; pass++)
		ck_assert_int_eq(tmem_save_pass(saver, &pages), 0);
	guest_ends = true;
	pthread_join(thread, NULL);
	ck_assert_int_eq(tmem_save_end(saver), 0);
	to = client_make("to");
	ck_assert_int_eq(restore_from(to, fd), 0);
	for (uint32_t i = 0; i < 5000; i++) {
		int rc = tmem_get(cl, 0, &oid, i, a);

		ck_assert_int_eq(tmem_get(to, 0, &oid, i, b), rc);
		if (!rc)
			ck_assert_mem_eq(a, b, PAGE_BYTES);
	}
	close(fd);
	stop();
}
END_TEST

START_TEST(golden_is_written)
{
	int fd = open(getenv("TMEM_GOLDEN_WRITE"), O_WRONLY | O_CREAT | O_TRUNC,
		      0644);

	ck_assert_int_ge(fd, 0);
	start(0);
	golden_fill(cl);
	ck_assert_int_eq(tmem_save(cl, fd), 0);
	close(fd);
	stop();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tmem_save");
	TCase *tc = tcase_create("save");

	tcase_set_timeout(tc, 120);
	if (getenv("TMEM_GOLDEN_WRITE"))
		tcase_add_test(tc, golden_is_written);
	tcase_add_test(tc, restored_is_what_was_saved);
	tcase_add_test(tc, format_1_is_readable);
	tcase_add_test(tc, client_without_pools_is_saved);
	tcase_add_test(tc, shared_pool_needs_authorisation_again);
	tcase_add_test(tc, cut_stream_is_refused_whole);
	tcase_add_test(tc, altered_stream_is_refused_whole);
	tcase_add_test(tc, restore_obeys_the_cap);
	tcase_add_test(tc, write_errors_are_told);
	tcase_add_test(tc, passes_tell_only_what_changed);
	tcase_add_test(tc, cancelled_save_restores_nothing);
	tcase_add_test(tc, live_stream_is_the_state_at_its_end);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
