/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The arbiter's laws, on random sets of VMs and on the cases of the paper:
 * nothing is given twice, reservations and limits hold, shares are
 * proportional, more budget is never less for anyone.
 */
#include "hv/daemon/arbiter.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <string.h>

#define VMS 20
#define MIB ((uint64_t)1 << 20)

static struct rng rng;

static uint64_t sum_of(const struct arbiter_vm *vm, size_t n)
{
	uint64_t sum = 0;

	while (n--)
		sum += vm[n].target_bytes;
	return sum;
}

static uint64_t high_of(const struct arbiter_vm *vm)
{
	return vm->limit_bytes ? min_u64(vm->limit_bytes, vm->demand_bytes)
			       : vm->demand_bytes;
}

static size_t vms_random(struct arbiter_vm *vm)
{
	size_t n = rng_below(&rng, VMS) + 1, i;

	memset(vm, 0, VMS * sizeof(*vm));
	for (i = 0; i < n; i++) {
		vm[i].demand_bytes = rng_below(&rng, 4096) * MIB;
		vm[i].used_bytes = rng_below(&rng, vm[i].demand_bytes + 1);
		vm[i].idle_bytes = rng_below(&rng, vm[i].used_bytes + 1);
		vm[i].shares = (uint32_t)rng_below(&rng, 5000);
		if (rng_next(&rng) & 1)
			vm[i].reservation_bytes = rng_below(&rng, 1024) * MIB;
		if (rng_next(&rng) & 1)
			vm[i].limit_bytes = vm[i].reservation_bytes +
					    rng_below(&rng, 2048) * MIB + 1;
	}
	return n;
}

START_TEST(laws_hold)
{
	struct arbiter_vm vm[VMS];
	uint64_t low, high, budget;
	size_t n, i, round;
	int rc;

	rng_start(&rng, "laws_hold");
	for (round = 0; round < 50000; round++) {
		n = vms_random(vm);
		budget = rng_below(&rng, 40000) * MIB + rng_below(&rng, MIB);
		rc = arbiter_divide(vm, n, budget,
				    (uint32_t)rng_below(&rng, 100));
		for (i = 0, low = high = 0; i < n; i++) {
			low += min_u64(vm[i].reservation_bytes,
				       high_of(&vm[i]));
			high += high_of(&vm[i]);
			ck_assert_uint_le(vm[i].target_bytes, high_of(&vm[i]));
			ck_assert_uint_ge(vm[i].target_bytes,
					  min_u64(vm[i].reservation_bytes,
						  high_of(&vm[i])));
		}
		ck_assert_int_eq(rc, low > budget ? -ENOSPC : 0);
		if (rc)
			continue;
		ck_assert_uint_le(sum_of(vm, n), budget);
		/* And nothing lies idle, rounding apart. */
		ck_assert_uint_ge(sum_of(vm, n) + n + 64,
				  min_u64(budget, high));
	}
}
END_TEST

START_TEST(more_budget_is_never_less)
{
	struct arbiter_vm vm[VMS], more[VMS];
	uint64_t budget;
	size_t n, i, round;

	rng_start(&rng, "more_budget_is_never_less");
	for (round = 0; round < 20000; round++) {
		n = vms_random(vm);
		memcpy(more, vm, sizeof(vm));
		budget = rng_below(&rng, 40000) * MIB;
		if (arbiter_divide(vm, n, budget, 75) ||
		    arbiter_divide(more, n,
				   budget + rng_below(&rng, 1000) * MIB, 75))
			continue;
		for (i = 0; i < n; i++)
			ck_assert_uint_ge(more[i].target_bytes + 64,
					  vm[i].target_bytes);
	}
}
END_TEST

START_TEST(shares_are_proportional)
{
	struct arbiter_vm vm[3] = {
		{.demand_bytes = 1000 * MIB, .shares = 1000},
		{.demand_bytes = 1000 * MIB, .shares = 2000},
		{.demand_bytes = 1000 * MIB, .shares = 3000}};

	ck_assert_int_eq(arbiter_divide(vm, 3, 600 * MIB, 75), 0);
	ck_assert_uint_eq(vm[0].target_bytes, 100 * MIB);
	ck_assert_uint_eq(vm[1].target_bytes, 200 * MIB);
	ck_assert_uint_eq(vm[2].target_bytes, 300 * MIB);
	/* What one cannot use goes to the others by their shares. */
	vm[2].demand_bytes = 150 * MIB;
	ck_assert_int_eq(arbiter_divide(vm, 3, 600 * MIB, 75), 0);
	ck_assert_uint_eq(vm[0].target_bytes, 150 * MIB);
	ck_assert_uint_eq(vm[1].target_bytes, 300 * MIB);
	ck_assert_uint_eq(vm[2].target_bytes, 150 * MIB);
}
END_TEST

START_TEST(idle_memory_is_taxed)
{
	struct arbiter_vm vm[2] = {{.demand_bytes = 400 * MIB,
				    .used_bytes = 400 * MIB,
				    .idle_bytes = 400 * MIB,
				    .shares = 1000},
				   {.demand_bytes = 400 * MIB,
				    .used_bytes = 400 * MIB,
				    .shares = 1000}};

	/* No tax: equal shares, equal memory. */
	ck_assert_int_eq(arbiter_divide(vm, 2, 400 * MIB, 0), 0);
	ck_assert_uint_eq(vm[0].target_bytes, vm[1].target_bytes);
	/* 75 %: an idle page costs four times as much (the paper's figure). */
	ck_assert_int_eq(arbiter_divide(vm, 2, 400 * MIB, 75), 0);
	ck_assert_uint_eq(vm[0].target_bytes, 80 * MIB);
	ck_assert_uint_eq(vm[1].target_bytes, 320 * MIB);
	/* A reservation is safe from it. */
	vm[0].reservation_bytes = 200 * MIB;
	ck_assert_int_eq(arbiter_divide(vm, 2, 400 * MIB, 75), 0);
	ck_assert_uint_eq(vm[0].target_bytes, 200 * MIB);
}
END_TEST

START_TEST(edges_are_harmless)
{
	struct arbiter_vm vm[2] = {{.demand_bytes = 10, .shares = 0},
				   {.demand_bytes = 0, .shares = 7}};

	ck_assert_int_eq(arbiter_divide(vm, 0, 100, 75), 0);
	ck_assert_int_eq(arbiter_divide(vm, 2, 0, 75), 0);
	ck_assert_uint_eq(sum_of(vm, 2), 0);
	ck_assert_int_eq(arbiter_divide(vm, 2, UINT64_MAX, 200), 0);
	ck_assert_uint_eq(vm[0].target_bytes, 10);
	vm[0].reservation_bytes = 100; /* more than it wants */
	ck_assert_int_eq(arbiter_divide(vm, 2, 10, 75), 0);
	ck_assert_uint_eq(vm[0].target_bytes, 10);
	ck_assert_int_eq(arbiter_divide(vm, 2, 9, 75), -ENOSPC);
	ck_assert_uint_eq(vm[0].target_bytes, 10);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("arbiter");
	TCase *tc = tcase_create("arbiter");

	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, laws_hold);
	tcase_add_test(tc, more_budget_is_never_less);
	tcase_add_test(tc, shares_are_proportional);
	tcase_add_test(tc, idle_memory_is_taxed);
	tcase_add_test(tc, edges_are_harmless);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
