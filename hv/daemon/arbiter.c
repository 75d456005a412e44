/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Min-funding revocation with an idle tax (Waldspurger, "Memory Resource
 * Management in VMware ESX Server", OSDI 2002). A VM pays for its pages with
 * its shares; an idle page costs k = 1 / (1 - tax) times as much as one in use:
 *
 *   price of VM i:   shares_i / (pages_i * (f_i + k * (1 - f_i)))
 *
 * with f the part in use. Memory is taken from whoever pays least per page,
 * until it suffices. Done page by page that ends where all prices are equal,
 * so it need not be done page by page:
 *
 *   target_i = clamp(lambda * weight_i, low_i, high_i)
 *   weight_i = shares_i / (f_i + k * (1 - f_i))
 *   high_i   = min(limit_i, demand_i),   low_i = min(reservation_i, high_i)
 *   sum of target_i = min(budget, sum of high_i), rounded down
 *
 * lambda is found as CSS's flexible lengths are: divide what is left among
 * those not yet fixed, fix the side (too low or too high) that is further off,
 * again. Each round fixes one at least.
 */
#include "hv/daemon/arbiter.h"

#include <errno.h>

#define FREE UINT64_MAX /* target not fixed yet */

static uint64_t high_of(const struct arbiter_vm *vm)
{
	return vm->limit_bytes ? min_u64(vm->limit_bytes, vm->demand_bytes)
			       : vm->demand_bytes;
}

static uint64_t low_of(const struct arbiter_vm *vm)
{
	return min_u64(vm->reservation_bytes, high_of(vm));
}

static double weight_of(const struct arbiter_vm *vm, double k)
{
	double shares = vm->shares ? vm->shares : 1;
	double idle = 0;

	if (vm->used_bytes)
		idle = (double)min_u64(vm->idle_bytes, vm->used_bytes) /
		       (double)vm->used_bytes;
	return shares / (1 - idle + k * idle);
}

static uint64_t part_of(const struct arbiter_vm *vm, double k, double lambda)
{
	double part = weight_of(vm, k) * lambda;

	/* Beyond this a double has no pages left to tell apart. */
	return part < 0x1p62 ? (uint64_t)part : (uint64_t)1 << 62;
}

struct round {
	double lambda;
	uint64_t too_high; /* sum of part - high over those above high */
	uint64_t too_low;  /* sum of low - part over those below low */
};

static struct round round_measure(const struct arbiter_vm *vms, size_t n,
				  uint64_t left, double k)
{
	struct round r = {0};
	double weights = 0;
	uint64_t part;
	size_t i;

	for (i = 0; i < n; i++)
		if (vms[i].target_bytes == FREE)
			weights += weight_of(&vms[i], k);
	r.lambda = weights > 0 ? (double)left / weights : 0;
	for (i = 0; i < n; i++) {
		if (vms[i].target_bytes != FREE)
			continue;
		part = part_of(&vms[i], k, r.lambda);
		if (part > high_of(&vms[i]))
			r.too_high += part - high_of(&vms[i]);
		if (part < low_of(&vms[i]))
			r.too_low += low_of(&vms[i]) - part;
	}
	return r;
}

/* Fixes those that are off; returns the bytes they take. */
static uint64_t round_fix(struct arbiter_vm *vms, size_t n,
			  const struct round *r, double k)
{
	bool highs = r->too_high >= r->too_low;
	uint64_t part, taken = 0;
	size_t i;

	for (i = 0; i < n; i++) {
		if (vms[i].target_bytes != FREE)
			continue;
		part = part_of(&vms[i], k, r->lambda);
		if (highs && part > high_of(&vms[i]))
			vms[i].target_bytes = high_of(&vms[i]);
		else if (!highs && part < low_of(&vms[i]))
			vms[i].target_bytes = low_of(&vms[i]);
		else
			continue;
		taken += vms[i].target_bytes;
	}
	return taken;
}

static void rest_divide(struct arbiter_vm *vms, size_t n, uint64_t left,
			double k)
{
	struct round r;
	size_t i;

	for (;;) {
		r = round_measure(vms, n, left, k);
		if (!r.too_high && !r.too_low)
			break;
		left -= min_u64(left, round_fix(vms, n, &r, k));
	}
	for (i = 0; i < n; i++)
		if (vms[i].target_bytes == FREE)
			vms[i].target_bytes = part_of(&vms[i], k, r.lambda);
}

/* Rounding of doubles may leave a few bytes too many: off the largest slack. */
static void excess_trim(struct arbiter_vm *vms, size_t n, uint64_t budget)
{
	uint64_t sum = 0, cut;
	size_t i;

	for (i = 0; i < n; i++)
		sum += vms[i].target_bytes;
	for (i = 0; i < n && sum > budget; i++) {
		cut = min_u64(vms[i].target_bytes - low_of(&vms[i]),
			      sum - budget);
		vms[i].target_bytes -= cut;
		sum -= cut;
	}
}

int arbiter_divide(struct arbiter_vm *vms, size_t n, uint64_t budget_bytes,
		   uint32_t tax_percent)
{
	double k = 100.0 / (100.0 - (tax_percent < 99 ? tax_percent : 99));
	uint64_t low = 0, high = 0;
	size_t i;

	for (i = 0; i < n; i++) {
		low += low_of(&vms[i]);
		high += high_of(&vms[i]);
		vms[i].target_bytes = FREE;
	}
	for (i = 0; i < n && (low > budget_bytes || high <= budget_bytes); i++)
		vms[i].target_bytes =
			low > budget_bytes ? low_of(&vms[i]) : high_of(&vms[i]);
	if (low > budget_bytes)
		return -ENOSPC;
	rest_divide(vms, n, budget_bytes, k);
	excess_trim(vms, n, budget_bytes);
	return 0;
}
