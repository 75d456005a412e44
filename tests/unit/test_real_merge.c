/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's half of merging, given grants by hand: in whatever order they
 * come, what follows each other in a chunk is mapped by one call, the pool is
 * mapped no longer than there is something to compare, and the processor goes
 * round meanwhile.
 */
#include "sharing/share.h"
#include "tests/support/fault_host.h"
#include "tests/support/machine.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <stdio.h>
#include <string.h>

#define GRANTED	 3000 /* pages, over several chunks */
#define A_PACKET 70

static struct share *sh;

static int sent(void *arg, const struct wire_head *msg)
{
	(void)arg, (void)msg;
	return 0;
}

static void setup(void)
{
	static const uint8_t secret[192] = {1};

	machine_setup();
	ck_assert_int_eq(share_create(machine.mm, sent, NULL, &sh), 0);
	share_policy(sh, false, true, 1000);
	share_start(sh, secret);
}

static void teardown(void)
{
	share_destroy(sh);
	machine_teardown();
}

static void pages_and_frames_fill(size_t n)
{
	for (size_t i = 0; i < n; i++) {
		page_fill(machine_page(i), i + 1);
		page_fill(machine.pool + i * PAGE_BYTES, i + 1);
	}
	machine_scan(1);
}

static void grant(const uint32_t *page, size_t n)
{
	struct {
		struct wire_head head;
		struct wire_grant grant[A_PACKET];
	} msg = {.head = {WIRE_VERSION, WIRE_GRANT,
			  (uint32_t)(sizeof(msg.head) +
				     n * sizeof(msg.grant[0]))}};

	for (size_t i = 0; i < n; i++) {
		msg.grant[i].page = page[i];
		msg.grant[i].frame = page[i];
		machine.refs[page[i]]++;
	}
	ck_assert_int_eq(wire_check(WIRE_HVD, &msg.head, msg.head.bytes), 0);
	share_grant(sh, &msg.head);
}

/* By the manager, that is: the test itself may write to its own. */
static bool pool_is_mapped(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	bool found = false;
	char line[512];

	ck_assert_ptr_nonnull(maps);
	while (!found && fgets(line, sizeof(line), maps))
		found = strstr(line, " r--s ") && strstr(line, "/memfd:pool");
	fclose(maps);
	return found;
}

static void shuffle(uint32_t *page, size_t n)
{
	struct rng rng;

	rng_start(&rng, "order of grants");
	for (size_t i = 0; i < n; i++)
		page[i] = (uint32_t)i;
	for (size_t i = n - 1; i; i--) {
		size_t other = rng_below(&rng, i + 1);
		uint32_t was = page[i];

		page[i] = page[other];
		page[other] = was;
	}
}

START_TEST(grants_in_any_order_are_mapped_once_a_chunk)
{
	static uint32_t page[GRANTED];

	pages_and_frames_fill(GRANTED);
	fault_host_overlays((GRANTED - 1) / CHUNK_PAGES + 1);
	shuffle(page, GRANTED);
	for (size_t i = 0; i < GRANTED; i += A_PACKET)
		grant(page + i, min_u64(GRANTED - i, A_PACKET));
	fault_host_clock_add(100000000); /* no more will come, it thinks */
	share_scan(sh);
	ck_assert_uint_eq(machine_stats().shared_pages, GRANTED);
	ck_assert(!pool_is_mapped());
	for (size_t i = 0; i < GRANTED; i++) {
		ck_assert_int_eq(machine.refs[i], 1);
		ck_assert(page_holds(machine_page(i), i + 1));
	}
}
END_TEST

START_TEST(long_merge_gives_way_to_others)
{
	static uint32_t page[GRANTED];
	unsigned long before = fault_host_yields();

	pages_and_frames_fill(GRANTED);
	for (size_t i = 0; i < GRANTED; i++)
		page[i] = (uint32_t)i;
	for (size_t i = 0; i < GRANTED; i += A_PACKET)
		grant(page + i, min_u64(GRANTED - i, A_PACKET));
	fault_host_clock_add(100000000);
	share_scan(sh);
	ck_assert_uint_eq(machine_stats().shared_pages, GRANTED);
	ck_assert_uint_ge(fault_host_yields() - before, GRANTED / CHUNK_PAGES);
}
END_TEST

START_TEST(few_grants_do_not_wait_for_others)
{
	static const uint32_t page[] = {0, CHUNK_PAGES, 2 * CHUNK_PAGES};
	unsigned long before = fault_host_yields();

	pages_and_frames_fill(GRANTED);
	grant(page, 3);
	fault_host_clock_add(100000000);
	share_scan(sh);
	ck_assert_uint_eq(machine_stats().shared_pages, 3);
	ck_assert_uint_eq(fault_host_yields(), before);
}
END_TEST

START_TEST(pool_is_mapped_again_for_later_grants)
{
	static const uint32_t page[] = {0, 1, 2, 3};

	pages_and_frames_fill(4);
	for (size_t i = 0; i < 2; i++) {
		grant(page + 2 * i, 2);
		fault_host_clock_add(100000000);
		share_scan(sh);
		ck_assert_uint_eq(machine_stats().shared_pages, 2 + 2 * i);
		ck_assert(!pool_is_mapped());
	}
}
END_TEST

/* See VmFlags in proc(5): dc, not copied on fork; dd, not dumped. */
START_TEST(mapped_pool_is_kept_from_children_and_core_dumps)
{
	FILE *maps = fopen("/proc/self/smaps", "r");
	bool pool = false, kept = false;
	char line[512];

	ck_assert_ptr_nonnull(maps);
	pages_and_frames_fill(1);
	ck_assert_uint_eq(machine_share(0, 0, 1), 1); /* and is not done */
	while (fgets(line, sizeof(line), maps)) {
		if (strstr(line, " r--s ") && strstr(line, "/memfd:pool"))
			pool = true;
		if (pool && !strncmp(line, "VmFlags:", 8)) {
			kept = strstr(line, " dc") && strstr(line, " dd");
			break;
		}
	}
	fclose(maps);
	ck_assert(pool);
	ck_assert(kept);
	mm_share_done(machine.mm);
	ck_assert(!pool_is_mapped());
}
END_TEST

int main(void)
{
	Suite *s = suite_create("real_merge");
	TCase *tc = tcase_create("grants");

	fault_host_need();
	tcase_set_timeout(tc, 300);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, grants_in_any_order_are_mapped_once_a_chunk);
	tcase_add_test(tc, long_merge_gives_way_to_others);
	tcase_add_test(tc, few_grants_do_not_wait_for_others);
	tcase_add_test(tc, pool_is_mapped_again_for_later_grants);
	tcase_add_test(tc, mapped_pool_is_kept_from_children_and_core_dumps);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
