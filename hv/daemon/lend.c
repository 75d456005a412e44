/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See lend.h. What is lent costs nobody anything: it is memory that would lie
 * idle, so all of it may go out, down to the minimum that pressure is measured
 * by, and it comes back before anything else is done about a shortage:
 *
 *   lendable = free + lent - minimum      soft begins below the minimum
 *
 * Division is the arbiter's (min-funding by weight), with what a guest has and
 * as much again as its demand, so that one which needs little leaves its part
 * to the others; what is left then goes out by weight alone, so that the sum is
 * lent whatever the demand and a guest that begins to fill need not wait.
 *
 * Who took it: a guest that is lent less than it has loses memory because
 * somebody grew. What it loses is charged to those VMs whose own use grew since
 * the last division, each in proportion; to the host if none did.
 */
#include "hv/daemon/lend.h"
#include "hv/daemon/arbiter.h"
#include "hv/daemon/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Demand beyond what a guest has: so much at least. */
#define GROWTH_MIN ((uint64_t)256 << 20)
/* Less is urgent; that there is a little more can wait until it is more. */
#define LESS_SHIFT 6
#define MORE_SHIFT 4

static bool borrows(const struct vm *vm)
{
	return vm_is_managed(vm) && vm->stats.guest.lines;
}

/* An agent told to give back more than it says it has is about to. */
static uint64_t lent_to(const struct vm *vm)
{
	uint64_t has = vm_lent_bytes(vm);

	return vm->target_sent ? min_u64(has, vm->target.lent_bytes) : has;
}

uint64_t lend_sum(const struct hvd *hvd)
{
	const struct vm *vm;
	uint64_t sum = 0;

	TAILQ_FOREACH (vm, &hvd->vms, entry)
		if (vm_is_managed(vm))
			sum += lent_to(vm);
	return sum;
}

bool lend_moved(uint64_t to, uint64_t told)
{
	if (!to != !told)
		return true;
	return to < told ? told - to > told >> LESS_SHIFT
			 : to - told > told >> MORE_SHIFT;
}

/* ---- dividing ------------------------------------------------------------ */

static uint64_t cap_of(const struct vm *vm)
{
	return vm->cap_bytes ? vm->cap_bytes : UINT64_MAX;
}

static struct arbiter_vm row_of(const struct vm *vm)
{
	uint64_t has = vm_lent_bytes(vm);
	uint64_t reserve = min_u64(vm->reserve_bytes, VM_LENT_MAX);
	uint64_t demand = max_u64(has + max_u64(has, GROWTH_MIN), reserve);

	return (struct arbiter_vm){.reservation_bytes = reserve,
				   .limit_bytes = vm->cap_bytes,
				   .demand_bytes = demand,
				   .used_bytes = has,
				   .shares = vm->weight};
}

/* The rest by weight, within the caps. */
static void rest_give(struct hvd *hvd, uint64_t rest, uint64_t weights)
{
	struct vm *vm;
	uint64_t part;

	TAILQ_FOREACH (vm, &hvd->vms, entry) {
		if (!borrows(vm) || !weights)
			continue;
		part = (uint64_t)((double)rest * vm->weight / (double)weights);
		part = min_u64(part, rest);
		vm->lend.bytes = min_u64(vm->lend.bytes + part,
					 max_u64(cap_of(vm), vm->lend.bytes));
	}
}

static void divide(struct hvd *hvd, struct arbiter_vm *row, uint64_t bytes)
{
	uint64_t given = 0, weights = 0;
	struct vm *vm;
	size_t n = 0;

	TAILQ_FOREACH (vm, &hvd->vms, entry)
		if (borrows(vm))
			row[n++] = row_of(vm);
	/* Reserves are of what there is: they do not make memory. */
	if (arbiter_divide(row, n, bytes, 0))
		for (size_t i = 0; i < n; i++)
			row[i].target_bytes = bytes / n;
	n = 0;
	TAILQ_FOREACH (vm, &hvd->vms, entry) {
		vm->lend.bytes = 0;
		if (!borrows(vm))
			continue;
		vm->lend.bytes = row[n++].target_bytes;
		given += vm->lend.bytes;
		weights += vm->weight;
	}
	rest_give(hvd, bytes > given ? bytes - given : 0, weights);
}

/* ---- who took it --------------------------------------------------------- */

/* Its place among the takers, or that of who took least. */
static size_t taker_find(const struct lend *lend, const char *name)
{
	size_t i, least = 0;

	for (i = 0; i < LEND_TAKERS; i++) {
		if (lend->taker[i].bytes && !strcmp(lend->taker[i].name, name))
			return i;
		if (lend->taker[i].bytes < lend->taker[least].bytes)
			least = i;
	}
	return least;
}

static void taker_note(struct lend *lend, const char *name, uint64_t bytes)
{
	size_t i = taker_find(lend, name);

	if (!bytes)
		return;
	if (strcmp(lend->taker[i].name, name) != 0) {
		snprintf(lend->taker[i].name, sizeof(lend->taker[i].name), "%s",
			 name);
		lend->taker[i].bytes = 0;
	}
	lend->taker[i].bytes += bytes;
}

static uint64_t growth_of(const struct vm *vm)
{
	uint64_t used = vm_used_bytes(vm);

	if (!vm->lend.divided || used <= vm->lend.used_before)
		return 0;
	return used - vm->lend.used_before;
}

/* What it will be told to give back. */
static uint64_t loss_of(const struct vm *vm)
{
	uint64_t has = lent_to(vm);

	if (!borrows(vm) || has <= vm->lend.bytes)
		return 0;
	if (vm->target_sent &&
	    !lend_moved(vm->lend.bytes, vm->target.lent_bytes))
		return 0;
	return has - vm->lend.bytes;
}

static void loss_note(struct hvd *hvd, struct vm *loser, uint64_t loss)
{
	uint64_t growth = 0;
	const struct vm *vm;

	loser->lend.taken_bytes += loss;
	TAILQ_FOREACH (vm, &hvd->vms, entry)
		growth += growth_of(vm);
	if (!growth) {
		taker_note(&loser->lend, "", loss);
		return;
	}
	TAILQ_FOREACH (vm, &hvd->vms, entry)
		taker_note(&loser->lend, vm->name,
			   (uint64_t)((double)loss * (double)growth_of(vm) /
				      (double)growth));
}

void lend_divide(struct hvd *hvd, uint64_t bytes)
{
	struct arbiter_vm *row = calloc(vm_count(hvd) + 1, sizeof(*row));
	struct vm *vm;

	if (!row)
		return; /* what was lent before still is */
	divide(hvd, row, bytes);
	free(row);
	TAILQ_FOREACH (vm, &hvd->vms, entry)
		if (loss_of(vm))
			loss_note(hvd, vm, loss_of(vm));
	TAILQ_FOREACH (vm, &hvd->vms, entry) {
		vm->lend.used_before = vm_used_bytes(vm);
		vm->lend.divided = vm->have_stats;
	}
}

/* ---- showing ------------------------------------------------------------- */

static int taker_compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? 1 : *x > *y ? -1 : 0;
}

json_t *lend_takers_pack(const struct vm *vm)
{
	uint64_t order[LEND_TAKERS][2];
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < LEND_TAKERS; i++) {
		order[i][0] = vm->lend.taker[i].bytes;
		order[i][1] = i;
	}
	qsort(order, LEND_TAKERS, sizeof(order[0]), taker_compare);
	for (i = 0; i < LEND_TAKERS && order[i][0]; i++) {
		const char *name = vm->lend.taker[order[i][1]].name;

		json_array_append_new(
			list,
			json_pack("{s:s, s:I}", "name",
				  name[0] ? name : "the host", "bytes",
				  (json_int_t)min_u64(order[i][0], INT64_MAX)));
	}
	return list;
}
