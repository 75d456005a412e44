/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an administrator does to a guest's pages, all the way: libhv, the real
 * hvd, the preloaded agent, its store, and a guest at the other end of the line
 * that knows what its pages must hold. What is saved is read by a store of the
 * test's own, page by page.
 */
#include "hv/libhv/hv.h"
#include "hv/line/channel.h"
#include "tests/support/daemon.h"
#include "tests/support/preload.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"
#include "tests/support/swapper.h"
#include "tmem/tmem.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGES	    600u
#define SHARED_POOL CHANNEL_POOL_FIRST
#define MANY	    14000 /* what tables take by the block is then below 1 % */
#define MIB	    ((uint64_t)1 << 20)
#define SHOW	    "{\"method\":\"show\",\"params\":{\"vm\":\"a\"}}"

static struct daemon d;
static struct swapper vm;
static struct hv *hv;
static const struct tmem_oid oid = {{7, 8, 9}};
static const char uuid_text[] = "05000000-0000-0000-0000-000000000000";

static void set_up(void)
{
	daemon_start(&d, NULL, NULL);
	swapper_start(&vm, d.dir, "a", "64M");
	hv = daemon_hv(&d);
	ck_assert_int_eq(swapper_do(&vm, SWAPPER_BEGIN, 0, 0, 0), 0);
	daemon_await(&d, SHOW, "guest.drivers", 1);
}

static void tear_down(void)
{
	hv_destroy(hv);
	swapper_stop(&vm);
	daemon_stop(&d);
}

static int pool_make(uint32_t flags)
{
	int id = swapper_do(&vm, LINE_OP_POOL_CREATE, 0, flags, 0);

	ck_assert_int_ge(id, 0);
	return id;
}

static int get(int pool, uint32_t index, uint64_t seed)
{
	return swapper_do(&vm, LINE_OP_GET, pool, index, seed);
}

/* The number a call answered with. */
static uint64_t number_of(struct hv_value *value, const char *name)
{
	uint64_t n = 0;

	ck_assert_int_eq(hv_value_u64(value, name, &n), 0);
	hv_value_free(value);
	return n;
}

#define CALL(rc, call)                                                         \
	do {                                                                   \
		struct hv_value *value_ = NULL;                                \
                                                                               \
		ck_assert_msg((call) == (rc), "%s: %s", #call, hv_error(hv));  \
		hv_value_free(value_);                                         \
	} while (0)
#define OUT (&value_)

/* ---- freeze, auth, destroy, flush ----------------------------------------
 */

START_TEST(frozen_guest_puts_no_new_page)
{
	int p = pool_make(LINE_POOL_PERSISTENT);

	swapper_put_many(&vm, p, 0, 10, 100);
	CALL(0, hv_freeze(hv, "a", HV_DRY_RUN, OUT));
	ck_assert_int_eq(swapper_do(&vm, LINE_OP_PUT, p, 10, 110), 0);
	CALL(0, hv_freeze(hv, "a", HV_DO, OUT));
	daemon_await(&d, SHOW, "guest.frozen", 1);
	ck_assert_int_eq(swapper_do(&vm, LINE_OP_PUT, p, 11, 111), LINE_EBUSY);
	ck_assert_int_eq(swapper_do(&vm, LINE_OP_PUT, p, 3, 999), 0);
	ck_assert_int_eq(get(p, 3, 999), 0);
	CALL(0, hv_thaw(hv, "a", HV_DO, OUT));
	daemon_await(&d, SHOW, "guest.frozen", 0);
	ck_assert_int_eq(swapper_do(&vm, LINE_OP_PUT, p, 11, 111), 0);
	CALL(-ENOENT, hv_freeze(hv, "b", HV_DO, OUT));
}
END_TEST

/* hvd lends once it knows that the guest has a line. */
static void lent_await(void)
{
	for (int i = 0; i < 500; i++) {
		if (daemon_number(&d, SHOW, "common.lent_bytes") > 0)
			return;
		usleep(20000);
	}
	ck_abort_msg("nothing is lent for shared pools");
}

START_TEST(only_authorised_guests_join_a_shared_pool)
{
	ck_assert_int_eq(
		swapper_do(&vm, LINE_OP_POOL_CREATE, 0, LINE_POOL_SHARED, 5),
		LINE_EACCES);
	CALL(-EINVAL, hv_auth(hv, "0500", "a", true, HV_DO, OUT));
	CALL(0, hv_auth(hv, uuid_text, "a", true, HV_DRY_RUN, OUT));
	ck_assert_int_eq(
		swapper_do(&vm, LINE_OP_POOL_CREATE, 0, LINE_POOL_SHARED, 5),
		LINE_EACCES);
	CALL(0, hv_auth(hv, uuid_text, "a", true, HV_DO, OUT));
	ck_assert_int_eq(
		swapper_do(&vm, LINE_OP_POOL_CREATE, 0, LINE_POOL_SHARED, 6),
		LINE_EACCES);
	ck_assert_int_eq(
		swapper_do(&vm, LINE_OP_POOL_CREATE, 0, LINE_POOL_SHARED, 5),
		SHARED_POOL);
	lent_await();
	swapper_put_many(&vm, SHARED_POOL, 0, 10, 100);
	ck_assert_int_eq(get(SHARED_POOL, 1, 101), 0);
	daemon_await(&d, SHOW, "common.pages", 10);
	ck_assert_int_eq(daemon_number(&d, SHOW, "pools.0.pool"), SHARED_POOL);
	ck_assert_int_eq(daemon_number(&d, SHOW, "guest.pools"), 0);
	CALL(0, hv_auth(hv, uuid_text, "a", false, HV_DO, OUT));
	ck_assert_int_eq(get(SHARED_POOL, 1, 101), LINE_ENOENT);
	ck_assert_int_eq(daemon_number(&d, SHOW, "common.pages"), 0);
}
END_TEST

START_TEST(destroy_frees_and_keeps_what_exists_nowhere_else)
{
	int e = pool_make(LINE_POOL_EPHEMERAL);
	int p = pool_make(LINE_POOL_PERSISTENT);
	char pool[16];
	struct hv_value *value;

	swapper_put_many(&vm, e, 0, PAGES, 1000);
	swapper_put_many(&vm, p, 0, PAGES, 5000);
	daemon_await(&d, SHOW, "guest.persistent_pages", PAGES);
	snprintf(pool, sizeof(pool), "%d", p);
	CALL(-ENOTEMPTY, hv_pool_destroy(hv, "a", pool, HV_GENTLY, HV_DO, OUT));
	CALL(-ENOTEMPTY, hv_pool_destroy(hv, "a", NULL, HV_GENTLY, HV_DO, OUT));
	CALL(-EPERM, hv_pool_destroy(hv, "a", "ram", HV_FORCE, HV_DO, OUT));
	CALL(-ENOENT, hv_pool_destroy(hv, "a", "15", HV_FORCE, HV_DO, OUT));
	CALL(-EINVAL, hv_pool_destroy(hv, "a", "20", HV_FORCE, HV_DO, OUT));
	CALL(-ENOENT, hv_pool_destroy(hv, "a", "19", HV_FORCE, HV_DO, OUT));
	CALL(-EINVAL, hv_pool_destroy(hv, "a", "x", HV_FORCE, HV_DO, OUT));
	ck_assert_int_eq(get(p, 17, 5017), 0);
	snprintf(pool, sizeof(pool), "%d", e);
	ck_assert_int_eq(
		hv_pool_destroy(hv, "a", pool, HV_GENTLY, HV_DO, &value), 0);
	ck_assert_uint_eq(number_of(value, "pages"), PAGES);
	ck_assert_int_eq(get(e, 17, 1017), LINE_ENOENT);
	ck_assert_int_eq(get(p, 17, 5017), 0);
	ck_assert_int_eq(
		hv_pool_destroy(hv, "a", NULL, HV_FORCE, HV_DRY_RUN, &value),
		0);
	hv_value_free(value);
	ck_assert_int_eq(get(p, 17, 5017), 0);
	ck_assert_int_eq(
		hv_pool_destroy(hv, "a", NULL, HV_FORCE, HV_DO, &value), 0);
	ck_assert_uint_eq(number_of(value, "pages"), PAGES);
	ck_assert_int_eq(get(p, 17, 5017), LINE_ENOENT);
	daemon_await(&d, SHOW, "guest.used_bytes", 0);
}
END_TEST

/* What is said to be freeable is what the store then uses less, within 1 %. */
START_TEST(freeable_is_what_a_flush_frees)
{
	const char *freeable = "{\"method\":\"freeable\"}";
	int e = pool_make(LINE_POOL_EPHEMERAL);
	uint64_t flushed;
	int64_t said, before, freed;
	struct hv_value *value;

	swapper_put_many(&vm, e, 0, MANY, 1);
	daemon_await(&d, SHOW, "guest.ephemeral_pages", MANY);
	said = daemon_number(&d, freeable, "total_bytes");
	before = daemon_number(&d, SHOW, "tmem.used_bytes");
	ck_assert_int_gt(said, MANY * 4096);
	ck_assert_int_eq(
		hv_flush(hv, NULL, (uint64_t)said * 2, HV_DRY_RUN, &value), 0);
	ck_assert_uint_eq(number_of(value, "flushed_bytes"), (uint64_t)said);
	ck_assert_int_eq(hv_flush(hv, NULL, (uint64_t)said * 2, HV_DO, &value),
			 0);
	flushed = number_of(value, "flushed_bytes");
	ck_assert_uint_eq(flushed, (uint64_t)said);
	daemon_await(&d, SHOW, "guest.ephemeral_pages", 0);
	freed = before - daemon_number(&d, SHOW, "tmem.used_bytes");
	ck_assert_int_ge(freed * 100, said * 99);
	ck_assert_int_le(freed * 100, said * 101);
	ck_assert_int_eq(daemon_number(&d, freeable, "total_bytes"), 0);
	ck_assert_int_eq(daemon_number(&d, SHOW, "guest.evicted_flush"), MANY);
}
END_TEST

/* Pressure takes what was lent, first and at once; when it ends, it may lend.
 */
START_TEST(pressure_takes_back_what_was_lent)
{
	int e = pool_make(LINE_POOL_EPHEMERAL);
	int p = pool_make(LINE_POOL_PERSISTENT);

	swapper_put_many(&vm, e, 0, PAGES, 1000);
	swapper_put_many(&vm, p, 0, PAGES, 5000);
	daemon_await(&d, SHOW, "guest.ephemeral_pages", PAGES);
	CALL(0, hv_pressure(hv, "soft", HV_DO, OUT));
	daemon_await(&d, SHOW, "guest.ephemeral_pages", 0);
	ck_assert_int_eq(daemon_number(&d, SHOW, "guest.lent_bytes"), 0);
	ck_assert_int_eq(daemon_number(&d, SHOW, "guest.evicted_lent"), PAGES);
	ck_assert_int_eq(swapper_do(&vm, LINE_OP_PUT, e, 1, 1), LINE_ENOMEM);
	ck_assert_int_eq(swapper_do(&vm, LINE_OP_PUT, p, PAGES, 1), 0);
	ck_assert_int_eq(get(p, 17, 5017), 0);
	CALL(0, hv_pressure(hv, "auto", HV_DO, OUT));
	/* As far as this host has any to lend. */
	for (int i = 0; i < 500; i++) {
		if (daemon_number(&d, SHOW, "guest.lent_bytes") > 0)
			break;
		usleep(20000);
	}
	if (daemon_number(&d, SHOW, "guest.lent_bytes") > 0)
		ck_assert_int_eq(swapper_do(&vm, LINE_OP_PUT, e, 1, 1), 0);
}
END_TEST

static void wish_await(int pages)
{
	for (int i = 0; i < 500; i++) {
		if (swapper_do(&vm, SWAPPER_WISH, 0, 0, 0) == pages)
			return;
		usleep(20000);
	}
	ck_abort_msg("the guest may not offer %d pages", pages);
}

/* While memory is tight it may offer half of its RAM, at other times nothing.
 */
START_TEST(pressure_lets_a_guest_offer_memory)
{
	CALL(0, hv_pressure(hv, "high", HV_DO, OUT));
	wish_await(0);
	CALL(0, hv_pressure(hv, "clear", HV_DO, OUT));
	wish_await(SWAPPER_RAM_BYTES / PAGE_BYTES / 2);
	CALL(0, hv_pressure(hv, "high", HV_DO, OUT));
	wish_await(0);
}
END_TEST

START_TEST(knobs_come_from_the_agent_and_go_to_it)
{
	const struct hv_setting weight = {"weight", 77};

	ck_assert_int_eq(daemon_number(&d, SHOW, "cap_bytes"), 64 * MIB);
	CALL(0, hv_set(hv, "a", &weight, 1, HV_DO, OUT));
	daemon_await(&d, SHOW, "guest.weight", 77);
	ck_assert_int_eq(daemon_number(&d, SHOW, "guest.cap_bytes"), 64 * MIB);
	ck_assert_int_eq(daemon_number(&d, SHOW, "guest.compress"), 1);
}
END_TEST

START_TEST(why_tells_of_the_guest)
{
	const char *why = "{\"method\":\"why\",\"params\":{\"vm\":\"a\"}}";
	int e = pool_make(LINE_POOL_EPHEMERAL);

	for (uint32_t i = 0; i < 5; i++)
		ck_assert_int_eq(get(e, i, 0), LINE_ENOENT);
	ck_assert_int_eq(swapper_do(&vm, SWAPPER_STATS, 0, 0, 7000000), 0);
	daemon_await(&d, why, "guest.gets_missed", 5);
	daemon_await(&d, SHOW, "guest.driver_wait_ns", 7000000);
	CALL(0, hv_pressure(hv, "soft", HV_DO, OUT));
	CALL(0, hv_pressure(hv, "auto", HV_DO, OUT));
}
END_TEST

/* ---- save and restore ---------------------------------------------------- */

static int file_new(void)
{
	int fd = memfd_create("saved", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	return fd;
}

static uint64_t save_to(int fd)
{
	struct hv_value *value;

	ck_assert_msg(!hv_save(hv, "a", fd, HV_DO, &value), "%s", hv_error(hv));
	return number_of(value, "pages");
}

/* A store of the test's own holds what the stream says, and no more. */
static void stream_holds(int fd, int pool, uint32_t n, uint64_t base)
{
	unsigned char page[PAGE_BYTES], want[PAGE_BYTES];
	struct tmem_client_stats st;
	struct tmem_client *cl;
	struct tmem *tm;

	ck_assert_int_eq(tmem_create(0, &tm), 0);
	ck_assert_int_eq(tmem_client_create(tm, "copy", &cl), 0);
	ck_assert_int_eq(lseek(fd, 0, SEEK_SET), 0);
	ck_assert_int_eq(tmem_restore(cl, fd), 0);
	for (uint32_t i = 0; i < n; i++) {
		swapper_page(base + i, want);
		ck_assert_int_eq(tmem_get(cl, pool, &oid, i, page), 0);
		ck_assert_mem_eq(page, want, PAGE_BYTES);
	}
	tmem_client_stats(cl, &st);
	ck_assert_uint_eq(st.pages_persistent, n);
	tmem_destroy(tm);
}

static void restore_is(int fd, int rc)
{
	ck_assert_int_eq(lseek(fd, 0, SEEK_SET), 0);
	CALL(rc, hv_restore(hv, "a", fd, HV_DO, OUT));
}

/* The driver goes, and with it its pools: as before a guest runs. */
static void driver_goes(void)
{
	ck_assert_int_eq(swapper_do(&vm, SWAPPER_END, 0, 0, 0), 0);
	daemon_await(&d, SHOW, "guest.pools", 0);
}

START_TEST(saved_pages_come_back_whole)
{
	int e = pool_make(LINE_POOL_EPHEMERAL);
	int p = pool_make(LINE_POOL_PERSISTENT);
	int fd = file_new(), again = file_new();

	swapper_put_many(&vm, e, 0, 50, 1);
	swapper_put_many(&vm, p, 0, PAGES, 5000);
	ck_assert_uint_ge(save_to(fd), PAGES);
	stream_holds(fd, p, PAGES, 5000);
	restore_is(fd, -EEXIST);
	ck_assert_int_eq(get(p, 17, 5017), 0);
	driver_goes();
	restore_is(fd, 0);
	daemon_await(&d, SHOW, "guest.persistent_pages", PAGES);
	ck_assert_int_eq(daemon_number(&d, SHOW, "guest.pools"), 2);
	ck_assert_uint_eq(save_to(again), PAGES);
	stream_holds(again, p, PAGES, 5000);
	ck_assert_int_eq(
		daemon_number(&d, "{\"method\":\"check\",\"params\":{}}", "ok"),
		1);
	close(fd);
	close(again);
}
END_TEST

static void byte_flip(int fd, off_t at)
{
	unsigned char byte;

	ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
	byte ^= 0x40;
	ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
}

START_TEST(cut_and_altered_streams_are_refused_whole)
{
	int p = pool_make(LINE_POOL_PERSISTENT), fd = file_new();
	struct rng rng;
	struct stat st;

	rng_start(&rng, "cut_and_altered");
	swapper_put_many(&vm, p, 0, 100, 5000);
	save_to(fd);
	driver_goes();
	ck_assert_int_eq(fstat(fd, &st), 0);
	for (int i = 0; i < 12; i++) {
		off_t at = (off_t)rng_below(&rng, (uint64_t)st.st_size);

		byte_flip(fd, at);
		restore_is(fd, -EBADMSG);
		byte_flip(fd, at);
	}
	ck_assert_int_eq(daemon_number(&d, SHOW, "guest.pools"), 0);
	ck_assert_int_eq(ftruncate(fd, st.st_size - 1), 0);
	restore_is(fd, -EBADMSG);
	ck_assert_int_eq(ftruncate(fd, st.st_size / 2), 0);
	restore_is(fd, -EBADMSG);
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	restore_is(fd, -EBADMSG);
	/* The client is as it was: a guest may begin, and finds nothing. */
	ck_assert_int_eq(swapper_do(&vm, SWAPPER_BEGIN, 0, 0, 0), 0);
	daemon_await(&d, SHOW, "guest.used_bytes", 0);
	close(fd);
}
END_TEST

/* A reader that hangs up is an error for the caller, not the VM's death. */
START_TEST(a_file_that_cannot_be_written_harms_nobody)
{
	int p = pool_make(LINE_POOL_PERSISTENT), end[2], fd;

	swapper_put_many(&vm, p, 0, PAGES, 5000);
	ck_assert_int_eq(pipe2(end, O_CLOEXEC), 0);
	close(end[0]);
	CALL(-EPIPE, hv_save(hv, "a", end[1], HV_DO, OUT));
	close(end[1]);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	CALL(-EBADF, hv_save(hv, "a", fd, HV_DO, OUT));
	close(fd);
	CALL(-EBADF, hv_save(hv, "a", -1, HV_DO, OUT));
	fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	CALL(-ENOSPC, hv_save(hv, "a", fd, HV_DO, OUT));
	ck_assert_ptr_nonnull(strstr(hv_error(hv), "no room for the file"));
	close(fd);
	ck_assert_int_eq(get(p, 17, 5017), 0);
	/* And the next one works. */
	fd = file_new();
	save_to(fd);
	stream_holds(fd, p, PAGES, 5000);
	close(fd);
}
END_TEST

static void saves_await(void)
{
	struct hv_value *value;

	for (int i = 0; i < 500; i++) {
		int fd = file_new(), rc = hv_save(hv, "a", fd, HV_DO, &value);

		close(fd);
		if (!rc) {
			hv_value_free(value);
			return;
		}
		ck_assert_int_eq(rc, -EBUSY);
		usleep(20000);
	}
	ck_abort_msg("the save that waited never ended");
}

/* A save to a pipe that nobody reads: it goes on until that is closed. */
static void save_that_waits(int end[2])
{
	struct hv *slow = daemon_hv(&d);
	struct hv_value *value;

	ck_assert_int_eq(pipe2(end, O_CLOEXEC), 0);
	hv_timeout_set(slow, 300);
	ck_assert_int_eq(hv_save(slow, "a", end[1], HV_DO, &value), -ETIMEDOUT);
	hv_destroy(slow);
}

/* While one is saved to a pipe that nobody reads, all else goes on. */
START_TEST(a_save_that_waits_holds_up_nobody)
{
	int p = pool_make(LINE_POOL_PERSISTENT), end[2];

	swapper_put_many(&vm, p, 0, PAGES, 5000);
	save_that_waits(end);
	ck_assert_int_eq(get(p, 17, 5017), 0);
	CALL(0, hv_freeze(hv, "a", HV_DO, OUT));
	CALL(0, hv_thaw(hv, "a", HV_DO, OUT));
	CALL(-EBUSY, hv_save(hv, "a", end[1], HV_DO, OUT));
	close(end[0]); /* which ends it */
	close(end[1]);
	saves_await();
}
END_TEST

/* Its answer is not for the hvd that came after the one that asked. */
START_TEST(a_save_may_outlive_the_hvd_that_asked)
{
	int p = pool_make(LINE_POOL_PERSISTENT), end[2];

	swapper_put_many(&vm, p, 0, PAGES, 5000);
	save_that_waits(end);
	daemon_kill(&d);
	daemon_restart(&d);
	daemon_await(&d, SHOW, "guest.drivers", 1);
	close(end[0]);
	close(end[1]);
	usleep(300000);
	ck_assert(!daemon_log_has(&d, "connection ended"));
	saves_await();
}
END_TEST

static Suite *suite_make(void)
{
	Suite *suite = suite_create("agent_guest");
	TCase *tc = tcase_create("guest");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_test(tc, frozen_guest_puts_no_new_page);
	tcase_add_test(tc, only_authorised_guests_join_a_shared_pool);
	tcase_add_test(tc, destroy_frees_and_keeps_what_exists_nowhere_else);
	tcase_add_test(tc, freeable_is_what_a_flush_frees);
	tcase_add_test(tc, pressure_takes_back_what_was_lent);
	tcase_add_test(tc, pressure_lets_a_guest_offer_memory);
	tcase_add_test(tc, knobs_come_from_the_agent_and_go_to_it);
	tcase_add_test(tc, why_tells_of_the_guest);
	tcase_add_test(tc, saved_pages_come_back_whole);
	tcase_add_test(tc, cut_and_altered_streams_are_refused_whole);
	tcase_add_test(tc, a_file_that_cannot_be_written_harms_nobody);
	tcase_add_test(tc, a_save_that_waits_holds_up_nobody);
	tcase_add_test(tc, a_save_may_outlive_the_hvd_that_asked);
	suite_add_tcase(suite, tc);
	return suite;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--swapper"))
		swapper_main();
	preload_refuse_tsan();
	preload_find();
	daemon_find(&d, argv[0]);
	return suite_run(suite_make());
}
