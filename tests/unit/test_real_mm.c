/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory manager on the real kernel: every way a page leaves the guest and
 * comes back, and that its bytes are the same afterwards. Each promise is kept
 * with all the kernel offers and again with UFFDIO_MOVE taken away.
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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- sharing
 * ----------------------------------------------------------------- */

START_TEST(share_maps_equal_pages_and_refuses_others)
{
	for (size_t i = 0; i < 64; i++) {
		page_fill(machine_page(i), i);
		page_fill(machine.pool + i * PAGE_BYTES, i);
	}
	machine.pool[10 * PAGE_BYTES + 4095] ^=
		1; /* differs in its last byte */
	machine_scan(1);
	ck_assert_uint_eq(machine_share(0, 0, 64), 63);
	ck_assert_uint_eq(machine_stats().shared_pages, 63);
	ck_assert_int_eq(machine.refs[10], 0);
	ck_assert_int_eq(machine.refs[11], 1);
	for (size_t i = 0; i < 64; i++)
		ck_assert(page_holds(machine_page(i), i));
	ck_assert_int_eq(mm_check(machine.mm), 0);
}
END_TEST

START_TEST(write_to_shared_page_leaves_the_frame_and_gives_it_back)
{
	for (size_t i = 0; i < 16; i++) {
		page_fill(machine_page(i), 5 + i);
		page_fill(machine.pool + i * PAGE_BYTES, 5 + i);
	}
	machine_scan(1);
	ck_assert_uint_eq(machine_share(0, 0, 16), 16);
	page_fill(machine_page(3), 777);
	ck_assert(page_holds(machine.pool + 3 * PAGE_BYTES, 8));
	machine_scan(1);
	ck_assert_int_eq(machine.refs[3], 0);
	ck_assert_int_eq(machine.refs[4], 1);
	ck_assert_uint_eq(machine_stats().cow_breaks, 1);
	ck_assert(page_holds(machine_page(3), 777));
}
END_TEST

START_TEST(page_gone_private_is_merged_again)
{
	page_fill(machine_page(0), 1);
	page_fill(machine.pool, 1);
	page_fill(machine.pool + PAGE_BYTES, 2);
	machine_scan(1);
	ck_assert_uint_eq(machine_share(0, 0, 1), 1);
	page_fill(machine_page(0), 2);
	machine_scan(1);
	ck_assert_uint_eq(machine_share(0, 1, 1), 1);
	ck_assert(page_holds(machine_page(0), 2));
	ck_assert_int_eq(machine.refs[1], 1);
	ck_assert_uint_eq(machine_stats().collected_pages, 1);
	page_fill(machine_page(0), 3);
	ck_assert(page_holds(machine.pool + PAGE_BYTES, 2));
}
END_TEST

START_TEST(frame_outside_the_pool_is_refused)
{
	struct mm_page_map map = {{0}, MACHINE_POOL_PAGES};
	size_t mapped = 9;

	page_fill(machine_page(0), 1);
	machine_scan(1);
	mm_release_hook(machine.mm, NULL, NULL);
	ck_assert_int_eq(mm_share(machine.mm, &map, 1, &mapped), 0);
	ck_assert_uint_eq(mapped, 0);
	map.gfn.n = MACHINE_PAGES; /* and a page outside guest RAM */
	map.frame = 0;
	ck_assert_int_eq(mm_share(machine.mm, &map, 1, &mapped), 0);
	ck_assert_uint_eq(mapped, 0);
	ck_assert(page_holds(machine_page(0), 1));
}
END_TEST

START_TEST(unshare_gives_every_page_its_own_copy)
{
	for (size_t i = 0; i < 32; i++) {
		page_fill(machine_page(i), i + 1);
		page_fill(machine.pool + i * PAGE_BYTES, i + 1);
	}
	machine_scan(1);
	ck_assert_uint_eq(machine_share(0, 0, 32), 32);
	ck_assert_int_eq(mm_unshare_all(machine.mm), 0);
	memset(machine.pool, 0xee, 32 * PAGE_BYTES);
	for (size_t i = 0; i < 32; i++) {
		ck_assert(page_holds(machine_page(i), i + 1));
		ck_assert_int_eq(machine.refs[i], 0);
	}
}
END_TEST

/* ---- zero pages, discards
 * -------------------------------------------------------- */

START_TEST(zero_pages_are_dropped_and_read_as_zero)
{
	memset(machine.ram, 0, CHUNK_BYTES);
	page_fill(machine_page(7), 7);
	machine_scan(3);
	ck_assert_uint_eq(machine_stats().zero_pages, CHUNK_PAGES - 1);
	for (size_t i = 0; i < CHUNK_BYTES; i += 512)
		if (i / PAGE_BYTES != 7)
			ck_assert_int_eq(machine.ram[i], 0);
	machine_page(3)[9] = 1;
	machine_scan(1);
	ck_assert(page_holds(machine_page(7), 7));
	ck_assert_int_eq(machine_page(3)[9], 1);
}
END_TEST

START_TEST(discard_reads_as_zero_whatever_the_page_was)
{
	for (size_t i = 0; i < CHUNK_PAGES; i++)
		page_fill(machine_page(i), i + 1);
	for (size_t i = 0; i < 8; i++)
		page_fill(machine.pool + i * PAGE_BYTES, i + 1);
	machine_scan(5);
	ck_assert_uint_eq(machine_share(0, 0, 8), 8);
	page_fill(machine_page(2), 99); /* private inside its overlay */
	machine_reclaim();
	ck_assert_uint_gt(machine_stats().compressed_pages, 100);
	ck_assert_int_eq(mm_discard(machine.mm, hva_of(machine_page(0)),
				    64 * PAGE_BYTES, true),
			 0);
	for (size_t i = 0; i < 64; i++)
		ck_assert_int_eq(machine_page(i)[0] | machine_page(i)[4095], 0);
	for (size_t i = 0; i < 8; i++)
		ck_assert_int_eq(machine.refs[i], 0);
	for (size_t i = 64; i < CHUNK_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i + 1));
	ck_assert_int_eq(
		mm_discard(machine.mm, hva_of(machine.pool), PAGE_BYTES, false),
		-ENOENT);
	ck_assert_int_eq(mm_check(machine.mm), 0);
}
END_TEST

START_TEST(range_remove_brings_everything_back)
{
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		page_fill(machine_page(i), i + 1);
	for (size_t i = 0; i < 100; i++)
		page_fill(machine.pool + i * PAGE_BYTES, i + 1);
	machine_scan(5);
	ck_assert_uint_eq(machine_share(0, 0, 100), 100);
	machine_reclaim();
	ck_assert_int_eq(
		mm_range_remove(machine.mm, hva_of(machine.ram), MACHINE_BYTES),
		0);
	ck_assert_uint_eq(machine_stats().private_pages, MACHINE_PAGES);
	memset(machine.pool, 0xee, 100 * PAGE_BYTES);
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i + 1));
	/* Its discards are still ours: the frame must not show through. */
	ck_assert_int_eq(
		mm_discard(machine.mm, hva_of(machine.ram), PAGE_BYTES, false),
		0);
	ck_assert_int_eq(machine.ram[0], 0);
}
END_TEST

/* ---- the guest writes while its pages are taken
 * --------------------------------------- */

#define WRITERS	     2
#define STRESS_PAGES (2 * CHUNK_PAGES)

/* How much is enough; an emulated or instrumented run does less of it. */
#define STRESS_TAKES   ((uint64_t)1000000)
#define STRESS_MERGES  ((uint64_t)20)
#define STRESS_NS      ((uint64_t)4000000000)
#define STRESS_MOST_NS ((uint64_t)120000000000)
#define FAULTS_NS      ((uint64_t)15000000000)

static _Atomic bool stress_stop;

/* Each page holds a counter that only its writer raises; none may be lost. */
static void *stress_writer(void *arg)
{
	size_t me = (size_t)arg;
	uint64_t *count = calloc(STRESS_PAGES, sizeof(*count));
	struct rng rng = {me + 1};
	uint64_t wrong = 0;

	while (!stress_stop) {
		size_t i =
			rng_below(&rng, STRESS_PAGES / WRITERS) * WRITERS + me;
		volatile uint64_t *w = (volatile uint64_t *)machine_page(i);

		wrong += w[8] != count[i] || w[511] != count[i];
		w[8] = w[511] = ++count[i];
		if (count[i] % 16 == 0)
			usleep(50);
	}
	for (size_t i = me; i < STRESS_PAGES; i += WRITERS)
		wrong += ((uint64_t *)machine_page(i))[8] != count[i];
	free(count);
	return (void *)wrong;
}

/* Whatever is there now is made a frame and granted: half will be too late. */
static void stress_share(struct rng *rng)
{
	size_t page = rng_below(rng, STRESS_PAGES - 8);

	for (size_t k = 0; k < 8; k++)
		if (mm_page_read(machine.mm, (gfn_t){page + k},
				 machine.pool + (page + k) * PAGE_BYTES) < 0)
			return;
	machine_share(page, (uint32_t)page, 8);
}

/* A million takes; where all is slow, four seconds and a thousand. */
static bool stress_is_enough(void)
{
	static uint64_t since;
	bool slow = getenv("TEST_SLOW") || getenv("TEST_SAN");
	struct mm_stats st;

	mm_stats(machine.mm, &st);
	if (!since)
		since = host_real.now_ns();
	return st.merged_pages >= STRESS_MERGES &&
	       (st.takes >= STRESS_TAKES ||
		(slow && st.takes >= STRESS_TAKES / 1000 &&
		 host_real.now_ns() - since >= STRESS_NS));
}

START_TEST(no_write_is_lost_while_pages_are_taken)
{
	pthread_t id[WRITERS];
	struct rng rng;
	uint64_t until = host_real.now_ns() + STRESS_MOST_NS;

	rng_start(&rng, "no_write_is_lost");
	stress_stop = false;
	for (size_t i = 0; i < WRITERS; i++)
		pthread_create(&id[i], NULL, stress_writer, (void *)i);
	while (host_real.now_ns() < until && !stress_is_enough()) {
		struct mm_target target = {.resident_bytes = 1,
					   .compress = true};

		for (int i = 0; i < 64; i++)
			stress_share(&rng);
		machine_scan(1);
		mm_target_set(machine.mm, &target);
		mm_reclaim(machine.mm);
		fault_host_clock_add(20000000000);
		mm_reclaim(machine.mm);
	}
	stress_stop = true;
	for (size_t i = 0; i < WRITERS; i++) {
		void *wrong;

		pthread_join(id[i], &wrong);
		ck_assert_uint_eq((uint64_t)wrong, 0);
	}
	ck_assert(stress_is_enough());
	ck_assert_int_eq(mm_check(machine.mm), 0);
}
END_TEST

/* ---- the host fails
 * --------------------------------------------------------------------- */

static void scenario(void)
{
	for (size_t i = 0; i < 2 * CHUNK_PAGES; i++)
		if (i % 3)
			page_fill(machine_page(i), i + 1);
		else
			memset(machine_page(i), 0, PAGE_BYTES);
	for (size_t i = 0; i < 64; i++)
		page_fill(machine.pool + i * PAGE_BYTES, i + 1);
	for (int pass = 0; pass < 5; pass++) {
		struct mm_scan_ops ops = {machine_hash, machine_not_told, NULL};

		for (size_t c = 0; c < 2; c++)
			(void)mm_scan_chunk(machine.mm, c, &ops);
	}
	machine_share(0, 0, 64);
	page_fill(machine_page(4), 5);
	machine_reclaim();
	mm_discard(machine.mm, hva_of(machine_page(600)), 4 * PAGE_BYTES,
		   false);
	mm_unshare_all(machine.mm);
}

static void scenario_verify(void)
{
	for (size_t i = 0; i < 2 * CHUNK_PAGES; i++) {
		bool discarded = i >= 600 && i < 604;

		if (discarded)
			continue; /* may have been refused: checked elsewhere */
		if (i % 3)
			ck_assert(page_holds(machine_page(i), i + 1));
		else
			ck_assert_int_eq(
				machine_page(i)[0] | machine_page(i)[4095], 0);
	}
	for (size_t i = 0; i < 64; i++)
		ck_assert_int_eq(machine.refs[i], 0);
}

/* Each call in turn, in an order that spreads, for as long as there is time. */
START_TEST(any_failing_host_call_loses_nothing)
{
	uint64_t until = host_real.now_ns() + FAULTS_NS;
	unsigned long total, tried = 0;

	scenario();
	total = fault_host_calls();
	ck_assert_uint_gt(total, 50);
	scenario_verify();
	while (tried < total && host_real.now_ns() < until) {
		unsigned long n = 1 + tried++ * 7919 % total;

		machine_teardown();
		machine_start(NULL, 0);
		machine_pool_start();
		fault_host_fail(n, n % 2 ? -ENOMEM : -EAGAIN);
		scenario();
		scenario_verify();
	}
	printf("failed %lu of %lu host calls in turn\n", tried, total);
}
END_TEST

START_TEST(no_more_mappings_pauses_sharing)
{
	for (size_t i = 0; i < 64; i++) {
		page_fill(machine_page(i), i);
		page_fill(machine.pool + i * PAGE_BYTES, i);
	}
	machine_scan(1);
	fault_host_overlays(0);
	ck_assert_uint_eq(machine_share(0, 0, 64), 0);
	for (size_t i = 0; i < 64; i++) {
		ck_assert(page_holds(machine_page(i), i));
		ck_assert_int_eq(machine.refs[i], 0);
	}
	fault_host_overlays(-1);
	fault_host_clock_add(6000000000);
	ck_assert_uint_eq(machine_share(0, 0, 64), 64);
}
END_TEST

static unsigned times_told;

static bool told_again(void *arg, gfn_t gfn, uint64_t hash, uint64_t was,
		       unsigned age)
{
	(void)arg, (void)hash;
	if (gfn.n || !age || was)
		return false;
	times_told++;
	return true;
}

/* The pool's own mapping may be the one too many. */
START_TEST(pool_that_cannot_be_mapped_pauses_sharing)
{
	const struct mm_scan_ops ops = {machine_hash, told_again, NULL};

	page_fill(machine_page(0), 1);
	page_fill(machine.pool, 1);
	for (size_t i = 0; i < 3; i++)
		ck_assert_int_ge(mm_scan_chunk(machine.mm, 0, &ops), 0);
	ck_assert_uint_eq(times_told, 1);
	fault_host_fail(1, -ENOMEM);
	ck_assert_uint_eq(machine_share(0, 0, 1), 0);
	ck_assert_int_eq(machine.refs[0], 0);
	fault_host_fail(0, 0);
	ck_assert_int_ge(mm_scan_chunk(machine.mm, 0, &ops), 0);
	ck_assert_uint_eq(times_told, 2); /* hvd is offered it anew */
	ck_assert_uint_eq(machine_share(0, 0, 1), 0); /* it pauses */
	fault_host_clock_add(6000000000);
	ck_assert_uint_eq(machine_share(0, 0, 1), 1);
	ck_assert_int_eq(machine.refs[0], 1);
	ck_assert(page_holds(machine_page(0), 1));
}
END_TEST

START_TEST(refused_userfaultfd_is_an_error_not_a_crash)
{
	struct mm_config config = {.host = &fault_host, .uffd_device = -1};
	struct mm *none = NULL;

	fault_host_reset(~0u);
	fault_host_refuse_uffd(-EPERM);
	ck_assert_int_eq(mm_create(&config, &none), -EPERM);
	fault_host_reset(0);
	ck_assert_int_eq(mm_create(&config, &none), -ENOSYS);
	ck_assert_ptr_null(none);
}
END_TEST

/* ---- devices
 * ----------------------------------------------------------------------------
 */

START_TEST(no_copy_take_while_a_device_writes)
{
	for (size_t i = 0; i < 16; i++) {
		page_fill(machine_page(i), i);
		page_fill(machine.pool + i * PAGE_BYTES, i);
	}
	machine_scan(1);
	mm_io_begin(machine.mm, hva_of(machine_page(4)), PAGE_BYTES);
	if (machine_has_move()) {
		mm_io_end(machine.mm, hva_of(machine_page(4)), PAGE_BYTES);
		ck_assert_uint_eq(machine_share(0, 0, 16), 16);
		return;
	}
	ck_assert_uint_eq(machine_share(0, 0, 16), 0);
	ck_assert_uint_gt(machine_stats().take_busy, 0);
	mm_io_end(machine.mm, hva_of(machine_page(4)), PAGE_BYTES);
	mm_copy_takes_off(machine.mm);
	ck_assert_uint_eq(machine_share(0, 0, 16), 0);
	for (size_t i = 0; i < 16; i++)
		ck_assert_int_eq(machine.refs[i], 0);
}
END_TEST

static TCase *promises(const char *name, void (*start)(void))
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, start, machine_teardown);
	tcase_set_timeout(tc, 300);
	tcase_add_test(tc, share_maps_equal_pages_and_refuses_others);
	tcase_add_test(tc,
		       write_to_shared_page_leaves_the_frame_and_gives_it_back);
	tcase_add_test(tc, page_gone_private_is_merged_again);
	tcase_add_test(tc, frame_outside_the_pool_is_refused);
	tcase_add_test(tc, unshare_gives_every_page_its_own_copy);
	tcase_add_test(tc, zero_pages_are_dropped_and_read_as_zero);
	tcase_add_test(tc, discard_reads_as_zero_whatever_the_page_was);
	tcase_add_test(tc, range_remove_brings_everything_back);
	tcase_add_test(tc, no_write_is_lost_while_pages_are_taken);
	tcase_add_test(tc, no_more_mappings_pauses_sharing);
	tcase_add_test(tc, pool_that_cannot_be_mapped_pauses_sharing);
	tcase_add_test(tc, no_copy_take_while_a_device_writes);
	tcase_add_test(tc, any_failing_host_call_loses_nothing);
	return tc;
}

int main(void)
{
	Suite *s = suite_create("real_mm");
	TCase *alone = tcase_create("alone");

	fault_host_need();
	tcase_set_timeout(alone, 300);
	tcase_add_test(alone, refused_userfaultfd_is_an_error_not_a_crash);
	suite_add_tcase(s, promises("all the kernel has", machine_setup));
	suite_add_tcase(s, promises("no UFFDIO_MOVE", machine_setup_no_move));
	suite_add_tcase(s, alone);
	return suite_run(s);
}
