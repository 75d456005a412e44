/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The references one VM holds, against a plain array of counts. */
#include "sharing/holds.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FRAMES 4096

static struct rng rng;
static uint32_t model[FRAMES];

static void note(void *arg, uint32_t frame, uint32_t refs)
{
	uint32_t *seen = arg;

	if (frame >= FRAMES || seen[frame] || !refs)
		ck_abort_msg("frame %u, %u references: walked to", frame, refs);
	seen[frame] = refs;
}

/* Walk, count of each and total say the same as the model. */
static void agree(const struct holds *h)
{
	static uint32_t seen[FRAMES];
	uint64_t total = 0;
	uint32_t i;

	memset(seen, 0, sizeof(seen));
	holds_walk(h, note, seen);
	for (i = 0; i < FRAMES; i++) {
		total += model[i];
		if (seen[i] != model[i] || holds_refs(h, i) != model[i])
			ck_abort_msg("frame %u: %u in a walk, %u asked, not %u",
				     i, seen[i], holds_refs(h, i), model[i]);
	}
	ck_assert_uint_eq(h->total, total);
}

/* clustered: most of a block's frames together, as homes make them. */
static uint32_t frame_pick(bool clustered)
{
	uint32_t f = (uint32_t)rng_below(&rng, FRAMES);

	return clustered ? f & ~0x3c0u : f;
}

static void model_run(bool clustered)
{
	struct holds h;
	uint32_t f, refs, i;
	int rc;

	memset(model, 0, sizeof(model));
	holds_init(&h);
	for (i = 0; i < 60000; i++) {
		f = frame_pick(clustered);
		/* Phases that grow and phases that shrink. */
		if (rng_below(&rng, 8) < (i / 10000 % 2 ? 2u : 6u)) {
			refs = rng_below(&rng, 4)
				       ? 1
				       : 1 + (uint32_t)rng_below(&rng, 5);
			if (holds_add(&h, f, refs))
				ck_abort_msg("no memory");
			model[f] += refs;
		} else {
			rc = holds_drop(&h, f);
			if (rc != (model[f] ? 0 : -ENOENT))
				ck_abort_msg("frame %u: %d", f, rc);
			model[f] -= !rc;
		}
		if (i % 2000 == 0)
			agree(&h);
	}
	agree(&h);
	for (f = 0; f < FRAMES; f++)
		for (; model[f]; model[f]--)
			if (holds_drop(&h, f))
				ck_abort_msg("frame %u: not held", f);
	agree(&h);
	holds_fini(&h);
}

START_TEST(counts_are_those_of_an_array)
{
	model_run(false);
	model_run(true);
}
END_TEST

START_TEST(the_last_frame_numbers_are_held_too)
{
	struct holds h;

	holds_init(&h);
	ck_assert_int_eq(holds_add(&h, UINT32_MAX - 1, 1), 0);
	ck_assert_int_eq(holds_add(&h, 0, 2), 0);
	ck_assert_uint_eq(holds_refs(&h, UINT32_MAX - 1), 1);
	ck_assert_uint_eq(holds_refs(&h, UINT32_MAX - 2), 0);
	ck_assert_uint_eq(holds_refs(&h, 0), 2);
	holds_fini(&h);
}
END_TEST

START_TEST(a_count_that_does_not_fit_changes_nothing)
{
	struct holds h;

	holds_init(&h);
	ck_assert_int_eq(holds_add(&h, 7, UINT32_MAX), 0);
	ck_assert_int_eq(holds_add(&h, 7, 1), -EOVERFLOW);
	ck_assert_uint_eq(holds_refs(&h, 7), UINT32_MAX);
	ck_assert_int_eq(holds_drop(&h, 7), 0);
	ck_assert_int_eq(holds_add(&h, 7, 1), 0);
	ck_assert_uint_eq(h.total, UINT32_MAX);
	holds_fini(&h);
}
END_TEST

START_TEST(runs_cost_little)
{
	struct holds h;
	uint32_t f;

	holds_init(&h);
	for (f = 0; f < 64000; f++)
		if (f % 64 < 8)
			ck_assert_int_eq(holds_add(&h, f, 1), 0);
	/* 12 bytes for 8 frames, and room to grow. */
	ck_assert_uint_le(holds_bytes(&h), 8000 * 5 / 2);
	holds_fini(&h);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("holds");
	TCase *tc = tcase_create("holds");

	rng_start(&rng, "holds");
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, counts_are_those_of_an_array);
	tcase_add_test(tc, the_last_frame_numbers_are_held_too);
	tcase_add_test(tc, a_count_that_does_not_fit_changes_nothing);
	tcase_add_test(tc, runs_cost_little);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
