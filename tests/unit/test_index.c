/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The content index and the table of references against naive arrays, and the
 * promise of 16 bytes per tracked page at every size.
 */
#include "sharing/holds.h"
#include "sharing/index.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS  3000
#define STEPS 400000

static struct rng rng;

struct model {
	uint64_t hash;
	bool there;
	struct index_value value;
};

static struct index_value value_random(void)
{
	struct index_value v = {.is_frame = rng_next(&rng) & 1};

	if (v.is_frame)
		v.frame = (uint32_t)rng_next(&rng);
	else {
		v.slot = (uint32_t)rng_below(&rng, INDEX_SLOT_MAX);
		v.page = rng_below(&rng, (uint64_t)1 << 40);
	}
	return v;
}

/* libcheck's assertions write to a pipe each: here only a difference does. */
static void same(const struct index *ix, const struct model *m)
{
	struct index_value v = {0};
	int rc = index_get(ix, m->hash, &v);

	if (rc != (m->there ? 0 : -ENOENT))
		ck_abort_msg("index_get returns %d", rc);
	if (!rc &&
	    (v.is_frame != m->value.is_frame || v.frame != m->value.frame ||
	     v.slot != m->value.slot || v.page != m->value.page))
		ck_abort_msg("another value for hash %#lx",
			     (unsigned long)m->hash);
}

/* few: hashes that fall into one shard, neighbours and wrap-around included. */
static void model_make(struct model *m, size_t n, bool few)
{
	size_t i;

	for (i = 0; i < n; i++) {
		m[i] = (struct model){.hash = rng_next(&rng) >> 16};
		if (few)
			m[i].hash = (uint64_t)7 << 40 | i;
	}
}

START_TEST(index_behaves_as_an_array)
{
	static struct model m[KEYS];
	uint64_t count = 0;
	struct index *ix;
	size_t step, k;

	rng_start(&rng, "index_behaves_as_an_array");
	model_make(m, KEYS, _i);
	ck_assert_int_eq(index_create(rng_next(&rng), &ix), 0);
	for (step = 0; step < STEPS; step++) {
		/* A slow tide of sizes, so that it grows and shrinks. */
		k = rng_below(&rng, KEYS);
		if (rng_below(&rng, STEPS) > step * 9 / 10) {
			m[k].value = value_random();
			count += !m[k].there;
			m[k].there = true;
			if (index_put(ix, m[k].hash, &m[k].value))
				ck_abort_msg("no memory");
		} else {
			count -= m[k].there;
			m[k].there = false;
			index_remove(ix, m[k].hash);
		}
		same(ix, &m[rng_below(&rng, KEYS)]);
		if (index_count(ix) != count)
			ck_abort_msg("count is wrong at step %zu", step);
		if (step % 20000 == 0)
			ck_assert(index_is_sound(ix));
	}
	for (k = 0; k < KEYS; k++)
		same(ix, &m[k]);
	for (k = 0; k < KEYS; k++)
		index_remove(ix, m[k].hash);
	ck_assert_uint_eq(index_count(ix), 0);
	ck_assert_uint_lt(index_bytes(ix), 8192); /* it shrank */
	index_destroy(ix);
}
END_TEST

START_TEST(index_extreme_values_survive)
{
	const struct index_value v[] = {
		{.is_frame = true, .frame = 0},
		{.is_frame = true, .frame = UINT32_MAX - 1},
		{.slot = 0, .page = 0},
		{.slot = INDEX_SLOT_MAX - 1, .page = ((uint64_t)1 << 40) - 1}};
	const uint64_t hash[] = {1, 0xffffffffffff, 0x800000000000,
				 0xff0000000000, 0x00ffffffffff};
	struct model m = {.there = true};
	struct index *ix;
	size_t i, j;

	ck_assert_int_eq(index_create(0, &ix), 0);
	for (i = 0; i < ARRAY_LEN(v); i++)
		for (j = 0; j < ARRAY_LEN(hash); j++) {
			m.hash = hash[j];
			m.value = v[i];
			ck_assert_int_eq(index_put(ix, hash[j], &v[i]), 0);
			same(ix, &m);
		}
	ck_assert_uint_eq(index_count(ix), ARRAY_LEN(hash));
	index_destroy(ix);
}
END_TEST

START_TEST(index_forgets_a_member_and_no_other)
{
	struct index_value v = {0};
	uint64_t h, gone = 0;
	struct index *ix;

	ck_assert_int_eq(index_create(99, &ix), 0);
	for (h = 1; h <= 20000; h++) {
		v = (struct index_value){.slot = (uint32_t)(h % 7), .page = h};
		if (h % 11 == 0)
			v = (struct index_value){.is_frame = true, .frame = 3};
		else
			gone += h % 7 == 3;
		ck_assert_int_eq(
			index_put(ix, h * 0x9e3779b97f4a7c15ULL >> 16, &v), 0);
	}
	ck_assert_uint_eq(index_remove_slot(ix, 3), gone);
	ck_assert_uint_eq(index_count(ix), 20000 - gone);
	ck_assert(index_is_sound(ix));
	for (h = 1; h <= 20000; h++) {
		bool is_gone = h % 11 != 0 && h % 7 == 3;

		ck_assert_int_eq(
			index_get(ix, h * 0x9e3779b97f4a7c15ULL >> 16, &v),
			is_gone ? -ENOENT : 0);
	}
	index_destroy(ix);
}
END_TEST

START_TEST(index_costs_16_bytes_a_page_at_most)
{
	const struct index_value v = {.slot = 1, .page = 1};
	uint64_t n, sizes = 0, failed = 0;
	double per, sum = 0, worst = 0;
	struct index *ix;

	rng_start(&rng, "index_costs_16_bytes_a_page_at_most");
	ck_assert_int_eq(index_create(5, &ix), 0);
	for (n = 1; n <= 3000000; n++) {
		failed += index_put(ix, rng_next(&rng) >> 16, &v) != 0;
		if (n < 50000 || n % 10000)
			continue;
		per = (double)index_bytes(ix) / (double)index_count(ix);
		worst = per > worst ? per : worst;
		sum += per;
		sizes++;
	}
	ck_assert_uint_eq(failed, 0);
	printf("index: %.2f bytes per page on average, %.2f at worst\n",
	       sum / (double)sizes, worst);
	ck_assert_double_le(sum / (double)sizes, 16.0);
	ck_assert_double_le(worst, 16.5);
	index_destroy(ix);
}
END_TEST

#define FRAMES 2000

struct walk {
	uint32_t refs[FRAMES];
};

static void walk_note(void *arg, uint32_t frame, uint32_t refs)
{
	struct walk *w = arg;

	ck_assert_uint_lt(frame, FRAMES);
	ck_assert_uint_eq(w->refs[frame], 0); /* each once */
	w->refs[frame] = refs;
}

START_TEST(holds_behave_as_an_array)
{
	static uint32_t model[FRAMES];
	static struct walk walk;
	uint64_t total = 0;
	struct holds h;
	uint32_t f, n;
	size_t step;

	rng_start(&rng, "holds_behave_as_an_array");
	holds_init(&h);
	for (step = 0; step < STEPS; step++) {
		f = (uint32_t)rng_below(&rng, FRAMES);
		n = (uint32_t)rng_below(&rng, 4) + 1;
		if (rng_below(&rng, STEPS) > step * 9 / 10) {
			ck_assert_int_eq(holds_add(&h, f, n), 0);
			model[f] += n;
			total += n;
		} else {
			ck_assert_int_eq(holds_drop(&h, f),
					 model[f] ? 0 : -ENOENT);
			total -= model[f] > 0;
			model[f] -= model[f] > 0;
		}
		f = (uint32_t)rng_below(&rng, FRAMES);
		if (h.total != total || holds_refs(&h, f) != model[f])
			ck_abort_msg("frame %u or the total is wrong", f);
	}
	holds_walk(&h, walk_note, &walk);
	ck_assert_mem_eq(walk.refs, model, sizeof(model));
	holds_fini(&h);
}
END_TEST

START_TEST(holds_refuse_what_does_not_fit)
{
	struct holds h;

	holds_init(&h);
	ck_assert_int_eq(holds_drop(&h, 5), -ENOENT);
	ck_assert_int_eq(holds_add(&h, 5, UINT32_MAX), 0);
	ck_assert_int_eq(holds_add(&h, 5, 1), -EOVERFLOW);
	ck_assert_uint_eq(holds_refs(&h, 5), UINT32_MAX);
	ck_assert_uint_eq(h.total, UINT32_MAX);
	holds_fini(&h);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("index");
	TCase *tc = tcase_create("index");

	tcase_set_timeout(tc, 240);
	tcase_add_loop_test(tc, index_behaves_as_an_array, 0, 2);
	tcase_add_test(tc, index_extreme_values_survive);
	tcase_add_test(tc, index_forgets_a_member_and_no_other);
	tcase_add_test(tc, index_costs_16_bytes_a_page_at_most);
	tcase_add_test(tc, holds_behave_as_an_array);
	tcase_add_test(tc, holds_refuse_what_does_not_fit);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
