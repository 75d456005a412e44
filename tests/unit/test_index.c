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

/* Few members have many candidates each; a slot of one that left is not used.
 */
static struct index_value value_random(const struct index *ix)
{
	struct index_value v = {.is_frame = rng_next(&rng) & 1};

	if (v.is_frame)
		v.frame = (uint32_t)rng_next(&rng);
	else {
		v.slot = (uint32_t)rng_below(
			&rng, rng_below(&rng, 2) ? 30 : INDEX_SLOT_MAX);
		v.page = rng_below(&rng, (uint64_t)1 << 40);
	}
	return v.is_frame || index_slot_is_free(ix, v.slot) ? v
							    : value_random(ix);
}

/* The member of some candidate leaves. Returns how many go with it. */
static uint64_t model_leave(struct index *ix, struct model *m, size_t n)
{
	const struct model *any = &m[rng_below(&rng, n)];
	uint32_t slot = any->value.slot;
	uint64_t gone = 0;
	size_t k;

	if (!any->there || any->value.is_frame)
		return 0;
	for (k = 0; k < n; k++)
		if (m[k].there && !m[k].value.is_frame &&
		    m[k].value.slot == slot) {
			m[k].there = false;
			gone++;
		}
	index_leave(ix, slot, gone);
	return gone;
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
	uint64_t count = 0, empty;
	struct index *ix;
	size_t step, k;

	rng_start(&rng, "index_behaves_as_an_array");
	model_make(m, KEYS, _i);
	ck_assert_int_eq(index_create(rng_next(&rng), &ix), 0);
	empty = index_bytes(ix);
	for (step = 0; step < STEPS; step++) {
		/* A slow tide of sizes, so that it grows and shrinks. */
		k = rng_below(&rng, KEYS);
		if (rng_below(&rng, STEPS) > step * 9 / 10) {
			m[k].value = value_random(ix);
			count += !m[k].there;
			m[k].there = true;
			if (index_put(ix, m[k].hash, &m[k].value))
				ck_abort_msg("no memory");
		} else {
			count -= m[k].there;
			m[k].there = false;
			index_remove(ix, m[k].hash);
		}
		if (rng_below(&rng, 1000) == 0)
			count -= model_leave(ix, m, KEYS);
		if (rng_below(&rng, 3000) == 0)
			index_sweep(ix);
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
	while (!index_is_swept(ix))
		index_sweep(ix);
	ck_assert_uint_eq(index_count(ix), 0);
	ck_assert_uint_eq(index_bytes(ix), empty); /* it shrank */
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

#define MANY 300000u

static void slot_3_is_gone(const struct index *ix, uint64_t gone)
{
	struct index_value v;
	uint64_t h;

	ck_assert_uint_eq(index_count(ix), MANY - gone);
	ck_assert(index_is_sound(ix));
	for (h = 1; h <= MANY; h++) {
		bool is_gone = h % 11 != 0 && h % 7 == 3;

		ck_assert_int_eq(
			index_get(ix, h * 0x9e3779b97f4a7c15ULL >> 16, &v),
			is_gone ? -ENOENT : 0);
	}
}

START_TEST(index_forgets_a_member_and_no_other)
{
	struct index_value v = {0};
	uint64_t h, gone = 0;
	unsigned sweeps = 0;
	struct index *ix;

	ck_assert_int_eq(index_create(99, &ix), 0);
	for (h = 1; h <= MANY; h++) {
		v = (struct index_value){.slot = (uint32_t)(h % 7), .page = h};
		if (h % 11 == 0)
			v = (struct index_value){.is_frame = true, .frame = 3};
		else
			gone += h % 7 == 3;
		ck_assert_int_eq(
			index_put(ix, h * 0x9e3779b97f4a7c15ULL >> 16, &v), 0);
	}
	index_leave(ix, 3, gone);
	while (!index_is_swept(ix)) {
		ck_assert(!index_slot_is_free(ix, 3));
		slot_3_is_gone(ix, gone);
		index_sweep(ix);
		sweeps++;
	}
	ck_assert_uint_ge(sweeps, 3); /* no walk over all of it at once */
	ck_assert(index_slot_is_free(ix, 3));
	slot_3_is_gone(ix, gone);
	index_destroy(ix);
}
END_TEST

START_TEST(index_takes_new_content_where_a_member_left_it)
{
	struct index_value v = {.slot = 3, .page = 7}, w = {.slot = 4};
	struct index *ix;
	uint64_t h;

	ck_assert_int_eq(index_create(99, &ix), 0);
	for (h = 1; h <= 100; h++)
		ck_assert_int_eq(index_put(ix, h << 40, &v), 0);
	index_leave(ix, 3, 100);
	for (h = 1; h <= 50; h++)
		ck_assert_int_eq(index_put(ix, h << 40, &w), 0);
	index_remove(ix, (uint64_t)60 << 40); /* not there: nothing happens */
	ck_assert_uint_eq(index_count(ix), 50);
	ck_assert(index_is_sound(ix));
	while (!index_is_swept(ix))
		index_sweep(ix);
	ck_assert(index_is_sound(ix));
	ck_assert_uint_eq(index_count(ix), 50);
	for (h = 1; h <= 100; h++)
		ck_assert_int_eq(index_get(ix, h << 40, &v),
				 h <= 50 ? 0 : -ENOENT);
	index_leave(ix, 9, 0); /* had none: free at once */
	ck_assert(index_is_swept(ix) && index_slot_is_free(ix, 9));
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
	tcase_add_test(tc, index_takes_new_content_where_a_member_left_it);
	tcase_add_test(tc, index_costs_16_bytes_a_page_at_most);
	tcase_add_test(tc, holds_behave_as_an_array);
	tcase_add_test(tc, holds_refuse_what_does_not_fit);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
