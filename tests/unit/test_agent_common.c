/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pools that VMs share, all the way: three VMs of real agents, each with a
 * guest at its line, and the real hvd, killed, stopped and started between
 * them. "a" and "b" are of one domain, "alien" is of another and knows the same
 * uuid.
 */
#include "hv/libhv/hv.h"
#include "hv/line/channel.h"
#include "tests/support/daemon.h"
#include "tests/support/preload.h"
#include "tests/support/run.h"
#include "tests/support/swapper.h"

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POOL	 CHANNEL_POOL_FIRST
#define PAGES	 200u
#define MIB	 ((int64_t)1 << 20)
#define UUID	 5 /* its first byte */
#define FREEABLE "{\"method\":\"freeable\"}"

enum { A, B, ALIEN, GUESTS };

static const char *const names[GUESTS] = {"a", "b", "alien"};
static struct daemon d;
static struct swapper vm[GUESTS];
static struct hv *hv;

#define CALL(rc, call)                                                         \
	do {                                                                   \
		struct hv_value *value_ = NULL;                                \
                                                                               \
		ck_assert_msg((call) == (rc), "%s: %s", #call, hv_error(hv));  \
		hv_value_free(value_);                                         \
	} while (0)
#define OUT (&value_)

static int64_t shows(int guest, const char *path)
{
	char request[80];

	snprintf(request, sizeof(request),
		 "{\"method\":\"show\",\"params\":{\"vm\":\"%s\"}}",
		 names[guest]);
	return daemon_number(&d, request, path);
}

static void await(int guest, const char *path, bool (*is)(int64_t n))
{
	for (int i = 0; i < 1000; i++) {
		if (is(shows(guest, path)))
			return;
		usleep(20000);
	}
	ck_abort_msg("%s: %s is %lld", names[guest], path,
		     (long long)shows(guest, path));
}

static bool some(int64_t n)
{
	return n > 0;
}

static bool none(int64_t n)
{
	return n == 0;
}

static void auth(int guest, bool on)
{
	CALL(0, hv_auth(hv, "05000000000000000000000000000000", names[guest],
			on, HV_DO, OUT));
}

static int join(int guest)
{
	return swapper_do(&vm[guest], LINE_OP_POOL_CREATE, 0, LINE_POOL_SHARED,
			  UUID);
}

static int put_only(int guest, uint32_t index, uint64_t seed)
{
	return swapper_do(&vm[guest], LINE_OP_PUT, POOL, index, seed);
}

/* Whatever this guest put before is done, and others find it. */
static void puts_settle(int guest)
{
	ck_assert_int_eq(
		swapper_do(&vm[guest], LINE_OP_FLUSH_PAGE, POOL, UINT32_MAX, 0),
		0);
}

static int put(int guest, uint32_t index, uint64_t seed)
{
	int rc = put_only(guest, index, seed);

	if (!rc)
		puts_settle(guest);
	return rc;
}

static void put_many(int guest, uint32_t first, uint32_t n)
{
	swapper_put_many(&vm[guest], POOL, first, n, 1000);
	puts_settle(guest);
}

static int get(int guest, uint32_t index, uint64_t seed)
{
	return swapper_do(&vm[guest], LINE_OP_GET, POOL, index, seed);
}

static void guest_start(int guest)
{
	setenv("TIDEPOOL_DOMAIN", guest == ALIEN ? "other" : "home", 1);
	swapper_start(&vm[guest], d.dir, names[guest], "64M");
	ck_assert_int_eq(swapper_do(&vm[guest], SWAPPER_BEGIN, 0, 0, 0), 0);
	await(guest, "guest.drivers", some);
	await(guest, "common.lent_bytes", some);
}

static void set_up(void)
{
	daemon_start(&d, NULL, NULL);
	hv = daemon_hv(&d);
	for (int i = 0; i < GUESTS; i++)
		guest_start(i);
}

static void tear_down(void)
{
	hv_destroy(hv);
	for (int i = 0; i < GUESTS; i++)
		swapper_stop(&vm[i]);
	daemon_stop(&d);
}

static void all_join(void)
{
	for (int i = 0; i < GUESTS; i++) {
		auth(i, true);
		ck_assert_int_eq(join(i), POOL);
	}
}

START_TEST(members_meet_and_other_domains_do_not)
{
	ck_assert_int_eq(join(B), LINE_EACCES);
	all_join();
	put_many(A, 0, PAGES);
	/* Gets of a shared pool keep the page. */
	for (int turn = 0; turn < 2; turn++)
		ck_assert_int_eq(get(B, 7, 1007), 0);
	for (uint32_t i = 0; i < PAGES; i++)
		ck_assert_int_eq(get(ALIEN, i, 1000 + i), LINE_ENOENT);
	ck_assert_int_eq(put(ALIEN, 7, 66), 0);
	ck_assert_int_eq(get(A, 7, 1007), 0);
	ck_assert_int_eq(put(B, 7, 55), 0);
	ck_assert_int_eq(get(A, 7, 55), 0);
	ck_assert_int_eq(get(ALIEN, 7, 66), 0);
	ck_assert_int_eq(swapper_do(&vm[B], LINE_OP_FLUSH_PAGE, POOL, 8, 0), 0);
	ck_assert_int_eq(get(A, 8, 1008), LINE_ENOENT);
	ck_assert_int_eq(swapper_do(&vm[B], LINE_OP_FLUSH_OBJECT, POOL, 0, 0),
			 0);
	ck_assert_int_eq(get(A, 9, 1009), LINE_ENOENT);
	ck_assert_int_eq(get(ALIEN, 7, 66), 0);
	/* Its own pools are where they always were. */
	ck_assert_int_eq(swapper_do(&vm[A], LINE_OP_POOL_CREATE, 0,
				    LINE_POOL_PERSISTENT, 0),
			 0);
	ck_assert_int_eq(swapper_do(&vm[A], LINE_OP_POOL_CREATE, 0,
				    LINE_POOL_SHARED | LINE_POOL_PERSISTENT,
				    UUID),
			 LINE_EINVAL);
}
END_TEST

/* What a guest was authorised for outlives hvd; the pages do not. */
START_TEST(a_killed_hvd_takes_all_pages_along)
{
	all_join();
	put_many(A, 0, PAGES);
	daemon_kill(&d);
	ck_assert_int_eq(get(B, 1, 1001), LINE_ENOENT);
	ck_assert_int_eq(put(B, 1, 1), LINE_ENOMEM);
	ck_assert_int_eq(swapper_do(&vm[B], LINE_OP_FLUSH_PAGE, POOL, 1, 0), 0);
	ck_assert_int_eq(swapper_do(&vm[B], LINE_OP_POOL_CREATE, 0,
				    LINE_POOL_SHARED, UUID),
			 LINE_EACCES);
	daemon_restart(&d);
	for (int i = 0; i < GUESTS; i++)
		await(i, "common.lent_bytes", some);
	for (uint32_t i = 0; i < PAGES; i++)
		ck_assert_int_eq(get(B, i, 1000 + i), LINE_ENOENT);
	ck_assert_int_eq(put(B, 1, 77), 0);
	ck_assert_int_eq(get(A, 1, 77), 0);
	ck_assert_int_eq(get(ALIEN, 1, 77), LINE_ENOENT);
}
END_TEST

/* Bounded waits, and nothing older than what was put or flushed meanwhile. */
START_TEST(a_stopped_hvd_stops_nobody)
{
	uint32_t i;

	all_join();
	put_many(A, 0, PAGES);
	put_many(B, PAGES, PAGES);
	daemon_signal(&d, SIGSTOP);
	ck_assert_int_eq(get(A, 1, 1001), LINE_ENOENT);
	for (i = 0; i < 50; i++)
		ck_assert_int_eq(put(A, i, 9000 + i), LINE_ENOMEM);
	for (i = 50; i < 100; i++)
		ck_assert_int_eq(
			swapper_do(&vm[A], LINE_OP_FLUSH_PAGE, POOL, i, 0), 0);
	/* A guest begins anew, another VM ends. */
	ck_assert_int_eq(swapper_do(&vm[B], SWAPPER_BEGIN, 0, 0, 0), 0);
	swapper_stop(&vm[ALIEN]);
	daemon_signal(&d, SIGCONT);
	await(A, "common.pages", some);
	for (i = 0; i < 500 && get(A, 100, 1100); i++)
		usleep(20000);
	ck_assert_int_eq(get(A, 100, 1100), 0);
	for (i = 0; i < 100; i++)
		ck_assert_int_eq(get(A, i, 1000 + i), LINE_ENOENT);
	/* Of the guest that began anew nothing is left. */
	await(B, "common.pages", none);
	ck_assert_int_eq(get(A, PAGES + 1, 1001 + PAGES), LINE_ENOENT);
	ck_assert_int_eq(get(B, 100, 1100), LINE_ENOENT);
	ck_assert_int_eq(join(B), POOL);
	ck_assert_int_eq(get(B, 100, 1100), 0);
	guest_start(ALIEN);
}
END_TEST

/* More than can lie in the channel: it is given up, and made anew. */
START_TEST(a_channel_that_was_given_up_is_made_anew)
{
	uint32_t i = 0;
	int rc = 0;

	all_join();
	put_many(A, 0, PAGES);
	daemon_signal(&d, SIGSTOP);
	while (!rc && i < 100000)
		rc = put_only(A, i++, 9);
	ck_assert_int_eq(rc, LINE_ENOMEM);
	daemon_signal(&d, SIGCONT);
	for (i = 0; i < 1000 && rc != POOL; i++) {
		swapper_do(&vm[A], LINE_OP_POOL_DESTROY, POOL, 0, 0);
		rc = join(A);
		usleep(20000);
	}
	ck_assert_int_eq(rc, POOL);
	await(A, "common.lent_bytes", some);
	ck_assert_int_eq(put(A, 1, 1), 0);
	ck_assert_int_eq(get(B, 1, 1), 0);
	/* Of before, nothing is left. */
	ck_assert_int_eq(get(B, PAGES - 1, 999 + PAGES), LINE_ENOENT);
}
END_TEST

START_TEST(a_vm_that_dies_takes_its_pages_and_no_others)
{
	all_join();
	put_many(A, 0, PAGES);
	put_many(B, PAGES, PAGES);
	swapper_stop(&vm[A]);
	for (int i = 0; i < 500 && !get(B, PAGES - 1, 999 + PAGES); i++)
		usleep(20000);
	for (uint32_t i = 0; i < PAGES; i++)
		ck_assert_int_eq(get(B, i, 1000 + i), LINE_ENOENT);
	for (uint32_t i = PAGES; i < 2 * PAGES; i++)
		ck_assert_int_eq(get(B, i, 1000 + i), 0);
	guest_start(A);
	ck_assert_int_eq(join(A), LINE_EACCES); /* another VM of that name */
	CALL(0, hv_check(hv, NULL, OUT));
}
END_TEST

START_TEST(the_administrator_steers_shared_pools_too)
{
	int64_t all;

	all_join();
	put_many(A, 0, PAGES);
	put_many(B, PAGES, PAGES);
	for (int i = 0; i < 500 && shows(B, "common.pages") != PAGES; i++)
		usleep(20000);
	ck_assert_int_eq(shows(A, "common.pages"), PAGES);
	all = daemon_number(&d, FREEABLE, "total_bytes");
	ck_assert_int_ge(all, 2 * PAGES * 4096);
	CALL(0, hv_freeze(hv, "a", HV_DO, OUT));
	ck_assert_int_eq(put(A, 2 * PAGES, 1), 0); /* and then refused */
	ck_assert_int_eq(get(A, 2 * PAGES, 1), LINE_ENOENT);
	ck_assert_int_eq(put(A, 5, 1), 0);
	ck_assert_int_eq(put(B, 2 * PAGES, 1), 0);
	CALL(0, hv_thaw(hv, "a", HV_DO, OUT));
	ck_assert_int_eq(put(A, 2 * PAGES, 1), 0);
	CALL(-ENOENT, hv_pool_destroy(hv, "a", "17", HV_GENTLY, HV_DO, OUT));
	CALL(0, hv_pool_destroy(hv, "a", "16", HV_GENTLY, HV_DO, OUT));
	ck_assert_int_eq(shows(A, "common.pages"), 0);
	ck_assert_int_eq(get(A, PAGES, 1000 + PAGES), LINE_ENOENT);
	ck_assert_int_eq(get(B, 6, 1006), LINE_ENOENT);
	ck_assert_int_eq(get(B, PAGES, 1000 + PAGES), 0);
	CALL(0, hv_check(hv, NULL, OUT));
	CALL(0, hv_flush(hv, NULL, 1 << 30, HV_DO, OUT));
	ck_assert_int_eq(shows(B, "common.pages"), 0);
	ck_assert_int_eq(get(B, PAGES, 1000 + PAGES), LINE_ENOENT);
	auth(B, false);
	ck_assert_int_eq(put_only(B, 1, 1), 0);
	ck_assert_int_eq(get(B, 1, 1), LINE_ENOENT);
	ck_assert_int_eq(shows(B, "pools.0.pool"), -1);
}
END_TEST

START_TEST(pressure_takes_shared_pages_first)
{
	all_join();
	put_many(A, 0, PAGES);
	await(A, "common.pages", some);
	CALL(0, hv_pressure(hv, "soft", HV_DO, OUT));
	await(A, "common.pages", none);
	ck_assert_int_eq(put(A, 1, 1), 0);
	ck_assert_int_eq(get(A, 1, 1), LINE_ENOENT);
	CALL(0, hv_pressure(hv, "auto", HV_DO, OUT));
	await(A, "common.lent_bytes", some);
	ck_assert_int_eq(put(A, 1, 1), 0);
	ck_assert_int_eq(get(B, 1, 1), 0);
}
END_TEST

static Suite *suite_make(void)
{
	Suite *suite = suite_create("agent_common");
	TCase *tc = tcase_create("common");

	tcase_set_timeout(tc, 180);
	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_test(tc, members_meet_and_other_domains_do_not);
	tcase_add_test(tc, a_killed_hvd_takes_all_pages_along);
	tcase_add_test(tc, a_stopped_hvd_stops_nobody);
	tcase_add_test(tc, a_channel_that_was_given_up_is_made_anew);
	tcase_add_test(tc, a_vm_that_dies_takes_its_pages_and_no_others);
	tcase_add_test(tc, the_administrator_steers_shared_pools_too);
	tcase_add_test(tc, pressure_takes_shared_pages_first);
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
