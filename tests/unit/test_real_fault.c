/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The manager's fault threads on the real kernel: one watches, and that none
 * of the others is missed. What a fault brings back is in test_real_mm.c
 * and test_real_reclaim.c.
 */
#include "hv/mm/mm.h"
#include "tests/support/fault_host.h"
#include "tests/support/machine.h"
#include "tests/support/run.h"

#include <check.h>
#include <pthread.h>
#include <unistd.h>
#include <stdatomic.h>
#include <stdlib.h>

#define PATIENCE_S 60
#define HOT_ENOUGH 50 /* scans after which even a page often back is cold */

/* A scan stands still, with its chunk locked, from `inside` to `leave`. */
static atomic_bool inside, leave;

static uint64_t hash_stands_still(void *arg, const void *page)
{
	inside = true;
	while (!leave)
		usleep(1000);
	return machine_hash(arg, page);
}

static void *scan_first_chunk(void *arg)
{
	struct mm_scan_ops ops = {hash_stands_still, machine_not_told, NULL};

	(void)arg;
	ck_assert_int_gt(mm_scan_chunk(machine.mm, 0, &ops), 0);
	return NULL;
}

struct reader {
	pthread_t id;
	size_t page;
	size_t step; /* to the next; 0: this one only */
	atomic_bool done;
	bool wrong;
};

static void *reader_run(void *arg)
{
	struct reader *r = arg;
	size_t page = r->page;

	do {
		r->wrong |= !page_holds(machine_page(page), page + 1);
		page += r->step;
	} while (r->step && page < MACHINE_PAGES);
	r->done = true;
	return NULL;
}

static void reader_start(struct reader *r, size_t page, size_t step)
{
	*r = (struct reader){.page = page, .step = step};
	ck_assert_int_eq(pthread_create(&r->id, NULL, reader_run, r), 0);
}

static bool reader_ends(struct reader *r)
{
	for (int i = 0; i < PATIENCE_S * 1000 && !r->done; i++)
		usleep(1000);
	return r->done && !r->wrong;
}

static void all_compressed(void)
{
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		page_fill(machine_page(i), i + 1);
	machine_scan(HOT_ENOUGH);
	machine_reclaim();
	ck_assert_uint_gt(machine_stats().compressed_pages,
			  MACHINE_PAGES * 9 / 10);
}

START_TEST(fault_that_waits_for_its_chunk_holds_up_no_other)
{
	struct reader waits, goes;
	pthread_t scanner;

	inside = leave = false;
	all_compressed();
	ck_assert(page_holds(machine_page(0), 1)); /* one for the scan */
	ck_assert_int_eq(pthread_create(&scanner, NULL, scan_first_chunk, NULL),
			 0);
	while (!inside)
		usleep(1000);
	reader_start(&waits, 1, 0);
	usleep(50000); /* its fault is in somebody's hands */
	for (size_t i = 1; i < 8; i++) {
		reader_start(&goes, i * CHUNK_PAGES + 1, 0);
		ck_assert(reader_ends(&goes));
		pthread_join(goes.id, NULL);
	}
	ck_assert(!waits.done);
	leave = true;
	ck_assert(reader_ends(&waits));
	pthread_join(waits.id, NULL);
	pthread_join(scanner, NULL);
	ck_assert_int_eq(mm_check(machine.mm), 0);
}
END_TEST

/* More at a time than there are threads to answer, again and again. */
START_TEST(many_readers_at_once_all_get_their_pages)
{
	struct reader r[6];

	for (int round = 0; round < 4; round++) {
		all_compressed();
		for (size_t i = 0; i < ARRAY_LEN(r); i++)
			reader_start(&r[i], i, ARRAY_LEN(r));
		for (size_t i = 0; i < ARRAY_LEN(r); i++) {
			ck_assert(reader_ends(&r[i]));
			pthread_join(r[i].id, NULL);
		}
		ck_assert_int_eq(mm_check(machine.mm), 0);
		ck_assert_uint_eq(machine_stats().compressed_pages, 0);
	}
}
END_TEST

/* The same page, so that all but one find it there already. */
START_TEST(readers_of_one_page_all_go_on)
{
	struct reader r[6];

	all_compressed();
	for (size_t page = 0; page < 300; page++) {
		for (size_t i = 0; i < ARRAY_LEN(r); i++)
			reader_start(&r[i], page, 0);
		for (size_t i = 0; i < ARRAY_LEN(r); i++) {
			ck_assert(reader_ends(&r[i]));
			pthread_join(r[i].id, NULL);
		}
	}
}
END_TEST

/* A parked thread is no reason to wait, nor is one that watches. */
START_TEST(threads_stop_whatever_they_do)
{
	for (int round = 0; round < 50; round++) {
		machine_setup();
		if (round % 2)
			page_fill(machine_page(0), 1);
		machine_teardown();
	}
}
END_TEST

static void setup_polling(void)
{
	machine.poll_ns = 50000;
	machine_setup();
}

static uint64_t manager_cpu_ns(void)
{
	/* Threads note their time with the first fault after a while. */
	usleep(5000);
	ck_assert(page_holds(machine_page(MACHINE_PAGES - 1), MACHINE_PAGES));
	return machine_stats().cpu_ns;
}

/* One fault does not make polling worth it, and it ends soon in any case. */
START_TEST(polling_ends_when_faults_do)
{
	struct reader r;
	uint64_t before, spent;

	all_compressed();
	reader_start(&r, 0, 2);
	ck_assert(reader_ends(&r));
	pthread_join(r.id, NULL);
	before = manager_cpu_ns();
	sleep(1);
	ck_assert(page_holds(machine_page(1), 2));
	usleep(5000);
	spent = machine_stats().cpu_ns - before;
	ck_assert_uint_lt(spent, 100000000);
}
END_TEST

static TCase *promises(const char *name, void (*start)(void))
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, start, machine_teardown);
	tcase_set_timeout(tc, 300);
	tcase_add_test(tc, fault_that_waits_for_its_chunk_holds_up_no_other);
	tcase_add_test(tc, many_readers_at_once_all_get_their_pages);
	tcase_add_test(tc, readers_of_one_page_all_go_on);
	return tc;
}

int main(void)
{
	Suite *s = suite_create("real_fault");
	TCase *alone = tcase_create("alone");
	TCase *polls = promises("polling", setup_polling);

	fault_host_need();
	tcase_set_timeout(alone, 300);
	tcase_add_test(alone, threads_stop_whatever_they_do);
	tcase_add_test(polls, polling_ends_when_faults_do);
	suite_add_tcase(s, promises("all the kernel has", machine_setup));
	suite_add_tcase(s, promises("no UFFDIO_MOVE", machine_setup_no_move));
	suite_add_tcase(s, polls);
	suite_add_tcase(s, alone);
	return suite_run(s);
}
