/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reclaim on the real kernel: which pages go to trial, to the store and to the
 * swap file, when they may not, and that they come back as they were. As in
 * test_real_mm.c, with all the kernel offers and without UFFDIO_MOVE.
 */
#include "hv/mm/mm.h"
#include "tests/support/fault_host.h"
#include "tests/support/machine.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"
#include "tmem/tmem.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* In the store, by the denser codec. */
static uint64_t pages_dense(void)
{
	struct tmem_stats st;

	mm_store_stats(machine.mm, &st);
	return st.pages_dense;
}

START_TEST(cold_pages_are_compressed_and_come_back_whole)
{
	struct mm_stats st;

	for (size_t i = 0; i < MACHINE_PAGES; i++)
		page_fill(machine_page(i), i + 1);
	machine_scan(5);
	machine_reclaim();
	st = machine_stats();
	ck_assert_uint_gt(st.compressed_pages, MACHINE_PAGES * 9 / 10);
	ck_assert_uint_eq(pages_dense(), st.compressed_pages);
	ck_assert_uint_lt(st.store_bytes, MACHINE_BYTES / 2);
	ck_assert_int_eq(mm_check(machine.mm), 0);
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i + 1));
	ck_assert_int_eq(mm_check(machine.mm),
			 0); /* waits for the last answer */
	st = machine_stats();
	ck_assert_uint_eq(st.compressed_pages, 0);
	ck_assert_uint_eq(st.store_payload_bytes, 0);
	ck_assert_uint_ge(st.faults_compressed + st.ahead_pages,
			  MACHINE_PAGES * 9 / 10);
	ck_assert_int_eq(mm_check(machine.mm), 0);
}
END_TEST

static void everything_compressed(void)
{
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		page_fill(machine_page(i), i + 1);
	machine_scan(5);
	machine_reclaim();
	ck_assert_uint_gt(machine_stats().compressed_pages,
			  MACHINE_PAGES * 9 / 10);
}

/* In order, a fault brings its neighbours; and each is what it was. */
START_TEST(pages_read_in_order_are_read_ahead)
{
	struct mm_stats st;

	everything_compressed();
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i + 1));
	ck_assert_int_eq(mm_check(machine.mm), 0);
	st = machine_stats();
	ck_assert_uint_gt(st.ahead_pages, MACHINE_PAGES / 2);
	ck_assert_uint_lt(st.faults_compressed, MACHINE_PAGES / 2);
	ck_assert_uint_eq(st.store_payload_bytes, 0);
}
END_TEST

/* Any other way it would only fill the memory that is short. */
START_TEST(pages_read_backwards_come_alone)
{
	struct mm_stats st;

	everything_compressed();
	for (size_t i = MACHINE_PAGES; i-- > 0;)
		ck_assert(page_holds(machine_page(i), i + 1));
	ck_assert_int_eq(mm_check(machine.mm), 0);
	st = machine_stats();
	ck_assert_uint_eq(st.ahead_pages, 0);
	ck_assert_uint_ge(st.faults_compressed, MACHINE_PAGES * 9 / 10);
}
END_TEST

/* What the kernel refuses stays where it is; what came before is back. */
START_TEST(page_refused_ahead_comes_by_itself)
{
	everything_compressed();
	fault_host_runs_end_at(machine_page(6));
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i + 1));
	ck_assert_int_eq(mm_check(machine.mm), 0);
	ck_assert_uint_gt(machine_stats().ahead_pages, MACHINE_PAGES / 2);
	ck_assert_uint_eq(machine_stats().faults_lost, 0);
}
END_TEST

START_TEST(page_on_trial_comes_back_as_it_was)
{
	struct mm_target target = {.resident_bytes = 1, .compress = true};

	for (size_t i = 0; i < CHUNK_PAGES; i++)
		page_fill(machine_page(i), i);
	machine_scan(5);
	mm_target_set(machine.mm, &target);
	mm_reclaim(machine.mm);
	if (!machine_has_move()) {
		ck_assert_uint_eq(machine_stats().held_pages, 0);
		return;
	}
	ck_assert_uint_gt(machine_stats().held_pages, 0);
	for (size_t i = 0; i < CHUNK_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i));
	ck_assert_int_eq(mm_check(machine.mm), 0); /* the last answer is done */
	ck_assert_uint_eq(machine_stats().held_pages, 0);
	ck_assert_uint_gt(machine_stats().faults_held, 0);
}
END_TEST

#define MINUTE_NS ((uint64_t)61000000000)

static void braked_target_set(void)
{
	struct mm_target target = {.resident_bytes = 1,
				   .compress = true,
				   .refault_permille_min = 2};

	mm_target_set(machine.mm, &target);
}

/* The first chunk, filled and cold, with the brake at its default. */
static void chunk_put_on_trial(void)
{
	for (size_t i = 0; i < CHUNK_PAGES; i++)
		page_fill(machine_page(i), i);
	machine_scan(5);
	braked_target_set();
	mm_reclaim(machine.mm);
}

/* Its copy on trial is still there, and nobody may see it again. */
START_TEST(discarded_page_is_not_read_ahead)
{
	if (!machine_has_move())
		return;
	chunk_put_on_trial();
	ck_assert_uint_eq(machine_stats().held_pages, CHUNK_PAGES);
	ck_assert_int_eq(mm_discard(machine.mm, hva_of(machine_page(6)),
				    PAGE_BYTES, true),
			 0);
	for (size_t i = 0; i < CHUNK_PAGES; i++) {
		if (i == 6)
			ck_assert_int_eq(
				machine_page(i)[0] | machine_page(i)[4095], 0);
		else
			ck_assert(page_holds(machine_page(i), i));
	}
	ck_assert_int_eq(mm_check(machine.mm), 0);
	ck_assert_uint_lt(machine_stats().faults_held, CHUNK_PAGES / 2);
}
END_TEST

START_TEST(held_page_refused_ahead_comes_by_itself)
{
	if (!machine_has_move())
		return;
	chunk_put_on_trial();
	fault_host_runs_end_at(machine_page(6));
	for (size_t i = 0; i < CHUNK_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i));
	ck_assert_int_eq(mm_check(machine.mm), 0);
	ck_assert_uint_lt(machine_stats().faults_held, CHUNK_PAGES / 2);
}
END_TEST

/* What is read now and then is not compressed, what is left alone is. */
START_TEST(trial_is_extended_while_pages_come_back)
{
	if (!machine_has_move())
		return;
	chunk_put_on_trial();
	ck_assert_uint_eq(machine_stats().held_pages, CHUNK_PAGES);
	for (size_t round = 0; round < 3; round++) {
		ck_assert_uint_eq(machine_stats().compressed_pages, 0);
		for (size_t i = 0; i < 20; i++) {
			size_t at = 3 * (round * 20 + i); /* not in order */

			ck_assert(page_holds(machine_page(at), at));
		}
		fault_host_clock_add(MINUTE_NS);
		mm_reclaim(machine.mm);
	}
	ck_assert_uint_eq(machine_stats().compressed_pages, CHUNK_PAGES - 60);
	ck_assert_uint_eq(machine_stats().held_pages, 0);
	for (size_t i = 0; i < CHUNK_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i));
	ck_assert_int_eq(mm_check(machine.mm), 0);
}
END_TEST

START_TEST(brake_stops_compressing_but_not_trials)
{
	if (!machine_has_move())
		return;
	chunk_put_on_trial();
	fault_host_clock_add(MINUTE_NS);
	mm_reclaim(machine.mm);
	ck_assert_uint_gt(machine_stats().compressed_pages, 0);
	for (size_t i = 0; i < CHUNK_PAGES; i++) /* all come back */
		ck_assert(page_holds(machine_page(i), i));
	for (size_t i = CHUNK_PAGES; i < 2 * CHUNK_PAGES; i++)
		page_fill(machine_page(i), i);
	machine_scan(5);
	fault_host_clock_add(1000000000);
	mm_reclaim(machine.mm);
	ck_assert_uint_ge(machine_stats().held_pages, CHUNK_PAGES);
	ck_assert_uint_gt(machine_stats().refault_permille_min, 2);
	fault_host_clock_add(10000000000);
	mm_reclaim(machine.mm);
	ck_assert_uint_eq(machine_stats().compressed_pages, 0);
	/* Calm again: the trial, now longer, ends. */
	for (int i = 0; i < 60; i++) {
		fault_host_clock_add(5000000000);
		mm_reclaim(machine.mm);
	}
	ck_assert_uint_ge(machine_stats().compressed_pages, CHUNK_PAGES);
}
END_TEST

/* However long it has been over: too much has just come back. */
START_TEST(trial_that_is_over_waits_for_the_brake)
{
	if (!machine_has_move())
		return;
	chunk_put_on_trial();
	fault_host_clock_add(MINUTE_NS);
	mm_reclaim(machine.mm);
	ck_assert_uint_eq(machine_stats().compressed_pages, CHUNK_PAGES);
	for (size_t i = CHUNK_PAGES; i < 2 * CHUNK_PAGES; i++)
		page_fill(machine_page(i), i);
	machine_scan(5);
	mm_reclaim(machine.mm);
	ck_assert_uint_eq(machine_stats().held_pages, CHUNK_PAGES);
	fault_host_clock_add(3 * MINUTE_NS);
	for (size_t i = 0; i < CHUNK_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i));
	mm_reclaim(machine.mm);
	ck_assert_uint_eq(machine_stats().compressed_pages, 0);
	ck_assert_uint_eq(machine_stats().held_pages, CHUNK_PAGES);
	for (int minutes = 0; minutes < 10; minutes++) {
		fault_host_clock_add(MINUTE_NS);
		mm_reclaim(machine.mm);
	}
	ck_assert_uint_ge(machine_stats().compressed_pages, CHUNK_PAGES);
}
END_TEST

/* A page is cold by its age in scans, and a trial is over by theirs. */
START_TEST(trial_lasts_by_the_rest_between_scans)
{
	struct mm_target target = {.resident_bytes = 1,
				   .compress = true,
				   .refault_permille_min = 2};

	if (!machine_has_move())
		return;
	chunk_put_on_trial();
	fault_host_clock_add((uint64_t)7000000000);
	mm_reclaim(machine.mm);
	ck_assert_uint_eq(machine_stats().held_pages, CHUNK_PAGES);
	target.scan_ns = (uint64_t)2000000000;
	mm_target_set(machine.mm, &target);
	mm_reclaim(machine.mm);
	ck_assert_uint_eq(machine_stats().compressed_pages, CHUNK_PAGES);
}
END_TEST

/* As hvd reckons it (vm_used_bytes). */
static uint64_t used_bytes(void)
{
	struct mm_stats st = machine_stats();

	return (st.private_pages + st.held_pages) * PAGE_BYTES +
	       st.store_bytes + st.metadata_bytes;
}

/* Trials begin with more than is needed: the rest is not compressed. */
START_TEST(no_more_is_compressed_than_is_wanted)
{
	struct mm_target target = {.resident_bytes = 1, .compress = true};
	struct mm_stats st;

	if (!machine_has_move())
		return;
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		page_fill(machine_page(i), i + 1);
	machine_scan(5);
	mm_target_set(machine.mm, &target);
	mm_reclaim(machine.mm);
	ck_assert_uint_eq(machine_stats().held_pages, MACHINE_PAGES);
	target.resident_bytes = used_bytes() - CHUNK_BYTES;
	mm_target_set(machine.mm, &target);
	for (int minutes = 0; minutes < 5; minutes++) {
		fault_host_clock_add(MINUTE_NS);
		mm_reclaim(machine.mm);
	}
	ck_assert_uint_le(used_bytes(), target.resident_bytes);
	ck_assert_uint_ge(used_bytes(), target.resident_bytes - CHUNK_BYTES);
	st = machine_stats();
	ck_assert_uint_gt(st.compressed_pages, 0);
	ck_assert_uint_eq(st.held_pages + st.compressed_pages, MACHINE_PAGES);
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i + 1));
	ck_assert_int_eq(mm_check(machine.mm), 0);
}
END_TEST

/* On trial, nothing more; and not even that far below the target. */
START_TEST(some_are_tried_before_they_are_wanted)
{
	struct mm_target target = {.compress = true};

	if (!machine_has_move())
		return;
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		page_fill(machine_page(i), i + 1);
	machine_scan(5);
	target.resident_bytes = 2 * used_bytes();
	mm_target_set(machine.mm, &target);
	mm_reclaim(machine.mm);
	ck_assert_uint_eq(machine_stats().held_pages, 0);
	target.resident_bytes = used_bytes() + PAGE_BYTES;
	mm_target_set(machine.mm, &target);
	for (int minutes = 0; minutes < 5; minutes++) {
		mm_reclaim(machine.mm);
		fault_host_clock_add(MINUTE_NS);
	}
	ck_assert_uint_ge(machine_stats().held_pages, MACHINE_PAGES / 8);
	ck_assert_uint_eq(machine_stats().compressed_pages, 0);
}
END_TEST

START_TEST(trials_get_shorter_while_nothing_comes_back)
{
	if (!machine_has_move())
		return;
	braked_target_set();
	for (int minutes = 0; minutes < 3; minutes++) {
		fault_host_clock_add(MINUTE_NS);
		mm_reclaim(machine.mm);
	}
	chunk_put_on_trial();
	ck_assert_uint_eq(machine_stats().held_pages, CHUNK_PAGES);
	fault_host_clock_add(MINUTE_NS / 2);
	mm_reclaim(machine.mm);
	ck_assert_uint_eq(machine_stats().compressed_pages, CHUNK_PAGES);
}
END_TEST

START_TEST(full_store_keeps_pages_in_memory)
{
	struct mm_target target = {
		.resident_bytes = 1, .compress = true, .store_bytes = 64 << 10};

	for (size_t i = 0; i < MACHINE_PAGES; i++)
		page_fill(machine_page(i), i + 1);
	machine_scan(5);
	mm_target_set(machine.mm, &target);
	for (int i = 0; i < 100; i++) {
		mm_reclaim(machine.mm);
		fault_host_clock_add(1000000000);
	}
	ck_assert_uint_gt(machine_stats().store_full, 0);
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i + 1));
}
END_TEST

/* Two threads answer faults and all is stored anew: nothing is mixed up. */
static void *every_other_page_read(void *arg)
{
	for (size_t i = (uintptr_t)arg; i < MACHINE_PAGES; i += 2)
		ck_assert(page_holds(machine_page(i * 7 % MACHINE_PAGES),
				     i * 7 % MACHINE_PAGES + 1));
	return NULL;
}

START_TEST(dense_pages_are_read_while_others_are_stored)
{
	pthread_t reader;

	everything_compressed();
	ck_assert_int_eq(
		pthread_create(&reader, NULL, every_other_page_read, (void *)1),
		0);
	for (int i = 0; i < 3; i++) {
		machine_scan(5);
		machine_reclaim();
	}
	every_other_page_read(NULL);
	pthread_join(reader, NULL);
	ck_assert_int_eq(mm_check(machine.mm), 0);
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i + 1));
	ck_assert_uint_eq(machine_stats().faults_lost, 0);
}
END_TEST

/* ---- without the denser codec ---- */

/* What a manager says that meets a refusal of the n-th thing it asks for. */
static int rc_without(unsigned long n)
{
	struct mm_config config = {
		.host = &fault_host, .uffd_device = -1, .dense = true};
	struct mm *mm;
	int rc;

	fault_host_reset(~0u);
	fault_host_fail(n, -ENOMEM);
	rc = mm_create(&config, &mm);
	ck_assert_uint_ge(fault_host_calls(), n);
	if (rc == 0)
		mm_destroy(mm);
	return rc;
}

/* One thing only it can do without, and then it does its work by LZ4. */
START_TEST(without_memory_for_the_codec_pages_go_by_lz4)
{
	unsigned long n = 1;

	while (rc_without(n) == -ENOMEM)
		n++;
	machine.features = ~0u;
	machine.fail_at = n;
	machine_start(NULL, 0);
	machine_pool_start();
	everything_compressed();
	ck_assert_uint_eq(pages_dense(), 0);
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i + 1));
	ck_assert_int_eq(mm_check(machine.mm), 0);
	machine_teardown();
}
END_TEST

/* ---- the swap file
 * ------------------------------------------------------------------------ */

START_TEST(swap_file_takes_the_coldest_and_gives_them_back)
{
	char path[] = "/tmp/test_real_reclaim_swapXXXXXX";
	struct mm_target target = {.resident_bytes = 1,
				   .store_bytes = 256 << 10,
				   .compress = true,
				   .swap = true};
	int fd = mkstemp(path);

	close(fd);
	unlink(path);
	machine.features = ~0u;
	machine_start(path, 256 << 10);
	machine_pool_start();
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		page_fill(machine_page(i), i + 1);
	machine_scan(5);
	mm_target_set(machine.mm, &target);
	for (int i = 0; i < 600; i++) {
		mm_reclaim(machine.mm);
		fault_host_clock_add(100000000);
		if (i % 20 == 0)
			machine_scan(1);
	}
	ck_assert_uint_gt(machine_stats().swapped_pages, 0);
	ck_assert_int_eq(mm_check(machine.mm), 0);
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i + 1));
	ck_assert_uint_gt(machine_stats().faults_swapped, 0);
	machine_teardown();
}
END_TEST

/* 512 pages that do not compress, half of them lent. */
static struct tmem_client *others_put(struct tmem *tm)
{
	static unsigned char page[PAGE_BYTES];
	const struct tmem_oid oid = {{0}};
	struct rng rng = {7};
	struct tmem_client *cl;

	ck_assert_int_eq(tmem_client_create(tm, "guest", &cl), 0);
	ck_assert_int_eq(tmem_pool_create(cl, TMEM_EPHEMERAL, NULL), 0);
	ck_assert_int_eq(tmem_pool_create(cl, TMEM_PERSISTENT, NULL), 1);
	for (uint32_t i = 0; i < 512; i++) {
		rng_fill(&rng, page, sizeof(page));
		ck_assert_int_eq(tmem_put(cl, i % 2, &oid, i, page), 0);
	}
	return cl;
}

START_TEST(others_in_the_store_are_neither_counted_nor_harmed)
{
	const struct tmem_oid oid = {{0}};
	struct mm_config config = {.host = &fault_host, .uffd_device = -1};
	unsigned char page[PAGE_BYTES];
	struct mm_stats st = {0};
	struct tmem_client *guest;
	struct mm *mm;

	fault_host_reset(~0u);
	ck_assert_int_eq(tmem_create(0, &config.store), 0);
	guest = others_put(config.store);
	ck_assert_int_eq(mm_create(&config, &mm), 0);
	mm_stats(mm, &st);
	/* The persistent half, and little besides: the rest may be taken. */
	ck_assert_uint_ge(st.store_bytes, 256 * PAGE_BYTES);
	ck_assert_uint_le(st.store_bytes, 384 * PAGE_BYTES);
	ck_assert_uint_le(st.store_payload_bytes, st.store_bytes);
	mm_destroy(mm);
	ck_assert_int_eq(tmem_check(config.store), 0);
	for (uint32_t i = 0; i < 512; i++)
		ck_assert_int_eq(tmem_get(guest, i % 2, &oid, i, page), 0);
	tmem_destroy(config.store);
}
END_TEST

static TCase *promises(const char *name, void (*start)(void))
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, start, machine_teardown);
	tcase_set_timeout(tc, 300);
	tcase_add_test(tc, cold_pages_are_compressed_and_come_back_whole);
	tcase_add_test(tc, pages_read_in_order_are_read_ahead);
	tcase_add_test(tc, pages_read_backwards_come_alone);
	tcase_add_test(tc, page_refused_ahead_comes_by_itself);
	tcase_add_test(tc, discarded_page_is_not_read_ahead);
	tcase_add_test(tc, held_page_refused_ahead_comes_by_itself);
	tcase_add_test(tc, page_on_trial_comes_back_as_it_was);
	tcase_add_test(tc, trial_is_extended_while_pages_come_back);
	tcase_add_test(tc, brake_stops_compressing_but_not_trials);
	tcase_add_test(tc, trial_that_is_over_waits_for_the_brake);
	tcase_add_test(tc, trial_lasts_by_the_rest_between_scans);
	tcase_add_test(tc, no_more_is_compressed_than_is_wanted);
	tcase_add_test(tc, some_are_tried_before_they_are_wanted);
	tcase_add_test(tc, trials_get_shorter_while_nothing_comes_back);
	tcase_add_test(tc, full_store_keeps_pages_in_memory);
	tcase_add_test(tc, dense_pages_are_read_while_others_are_stored);
	return tc;
}

int main(void)
{
	Suite *s = suite_create("real_reclaim");
	TCase *alone = tcase_create("alone");

	fault_host_need();
	tcase_set_timeout(alone, 300);
	tcase_add_test(alone,
		       others_in_the_store_are_neither_counted_nor_harmed);
	tcase_add_test(alone, swap_file_takes_the_coldest_and_gives_them_back);
	tcase_add_test(alone, without_memory_for_the_codec_pages_go_by_lz4);
	suite_add_tcase(s, promises("all the kernel has", machine_setup));
	suite_add_tcase(s, promises("no UFFDIO_MOVE", machine_setup_no_move));
	suite_add_tcase(s, alone);
	return suite_run(s);
}
