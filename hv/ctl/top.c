/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What `tmem-ctl top` shows, without a terminal, so that a test can look at it.
 * The bar of a VM is its whole RAM:
 *
 *   ram = private (with pages on trial) + shared + zero + compressed + swapped
 *       + ballooned + free (absent, but not ballooned)
 *
 * What a reply leaves out or contradicts is shown as free, never as more RAM
 * than there is.
 */
#include "hv/ctl/top.h"
#include "hv/ctl/view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const struct top_part_text top_part_texts[TOP_PARTS] = {
	[TOP_PRIVATE] = {'P', "private"},
	[TOP_SHARED] = {'S', "shared"},
	[TOP_ZERO] = {'Z', "zero"},
	[TOP_COMPRESSED] = {'C', "compressed"},
	[TOP_SWAPPED] = {'W', "swapped"},
	[TOP_BALLOONED] = {'B', "ballooned"},
	[TOP_FREE] = {'.', "free"},
};

static const char *const part_paths[TOP_PARTS] = {
	[TOP_PRIVATE] = "mm.private_pages+mm.held_pages",
	[TOP_SHARED] = "mm.shared_pages",
	[TOP_ZERO] = "mm.zero_pages",
	[TOP_COMPRESSED] = "mm.compressed_pages",
	[TOP_SWAPPED] = "mm.swapped_pages",
	[TOP_BALLOONED] = "mm.ballooned_pages",
};

const struct top_key_text top_key_texts[TOP_KEYS] = {
	[TOP_BY_NAME] = {'n', "name"},	      [TOP_BY_RAM] = {'m', "ram"},
	[TOP_BY_PRIVATE] = {'p', "private"},  [TOP_BY_SHARED] = {'s', "shared"},
	[TOP_BY_COMPRESSED] = {'c', "compr"}, [TOP_BY_SWAPPED] = {'w', "swap"},
	[TOP_BY_REFAULT] = {'r', "refault"},  [TOP_BY_FAULTS] = {'f', "faults"},
};

void top_init(struct top *top)
{
	*top = (struct top){.key = TOP_BY_NAME};
}

void top_fini(struct top *top)
{
	free(top->vms);
	top->vms = NULL;
	top->n = 0;
}

static const struct top_vm *vm_find(const struct top *top, const char *name)
{
	for (size_t i = 0; i < top->n; i++)
		if (!strcmp(top->vms[i].name, name))
			return &top->vms[i];
	return NULL;
}

static void parts_read(struct top_vm *vm, const struct hv_value *v)
{
	uint64_t left = vm->ram_pages, n;

	for (int i = 0; i < TOP_FREE; i++) {
		if (view_sum(v, part_paths[i], &n))
			continue;
		vm->part[i] = min_u64(n, left);
		left -= vm->part[i];
	}
	vm->part[TOP_FREE] = left;
}

static double rate(const struct top *top, const struct top_vm *vm,
		   uint64_t now_ns)
{
	const struct top_vm *was = vm_find(top, vm->name);

	/* Fewer than before: another VM of the same name. */
	if (!was || now_ns <= top->at_ns || vm->faults < was->faults)
		return TOP_UNKNOWN;
	return (double)(vm->faults - was->faults) * 1e9 /
	       (double)(now_ns - top->at_ns);
}

static void vm_read(const struct top *top, struct top_vm *vm,
		    const struct hv_value *v, uint64_t now_ns)
{
	const char *name = hv_value_text(v, "name");
	uint64_t n;

	strncpy(vm->name, name ? name : "-", sizeof(vm->name) - 1);
	if (hv_value_u64(v, "mm.ram_pages", &vm->ram_pages))
		vm->ram_pages = 0;
	parts_read(vm, v);
	vm->refault_percent = TOP_UNKNOWN;
	if (!hv_value_u64(v, "mm.refault_permille_min", &n))
		vm->refault_percent = (double)n / 10;
	vm->faults_per_s = TOP_UNKNOWN;
	if (!hv_value_u64(v, "mm.faults", &vm->faults))
		vm->faults_per_s = rate(top, vm, now_ns);
}

int top_sample(struct top *top, const struct hv_value *list, uint64_t now_ns)
{
	size_t n = hv_value_count(list, "vms");
	struct top_vm *vms = calloc(n + 1, sizeof(*vms));

	if (!vms)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		vm_read(top, &vms[i], hv_value_at(list, "vms", i), now_ns);
	free(top->vms);
	top->vms = vms;
	top->n = n;
	top->at_ns = now_ns;
	top_sort(top, top->key);
	return 0;
}

/* ---- order ----------------------------------------------------------- */

static double key_value(const struct top_vm *vm, enum top_key key)
{
	switch (key) {
	case TOP_BY_RAM:
		return (double)vm->ram_pages;
	case TOP_BY_PRIVATE:
		return (double)vm->part[TOP_PRIVATE];
	case TOP_BY_SHARED:
		return (double)vm->part[TOP_SHARED];
	case TOP_BY_COMPRESSED:
		return (double)vm->part[TOP_COMPRESSED];
	case TOP_BY_SWAPPED:
		return (double)vm->part[TOP_SWAPPED];
	case TOP_BY_REFAULT:
		return vm->refault_percent;
	case TOP_BY_FAULTS:
		return vm->faults_per_s;
	default:
		return 0;
	}
}

/* Names upwards, numbers downwards, equal numbers by name. */
static int vm_compare(const void *a, const void *b, void *arg)
{
	const struct top_vm *x = a, *y = b;
	const enum top_key *key = arg;
	double p = key_value(x, *key), q = key_value(y, *key);

	if (p != q)
		return p < q ? 1 : -1;
	return strcmp(x->name, y->name);
}

void top_sort(struct top *top, enum top_key key)
{
	top->key = key;
	if (top->n)
		qsort_r(top->vms, top->n, sizeof(*top->vms), vm_compare, &key);
}

int top_key_find(const char *name, enum top_key *out)
{
	for (int i = 0; i < TOP_KEYS; i++)
		if (!strcmp(top_key_texts[i].name, name)) {
			*out = (enum top_key)i;
			return 0;
		}
	return -ENOENT;
}

/* ---- bars ------------------------------------------------------------ */

/* Takes a cell from the widest part, or gives it one, until they fit. */
static void widths_fit(size_t *cells, size_t width)
{
	size_t sum = 0;

	for (int i = 0; i < TOP_PARTS; i++)
		sum += cells[i];
	while (sum != width) {
		int widest = 0;

		for (int i = 1; i < TOP_PARTS; i++)
			if (cells[i] > cells[widest])
				widest = i;
		if (sum > width) {
			cells[widest]--;
			sum--;
		} else {
			cells[widest]++;
			sum++;
		}
	}
}

void top_bar(const struct top_vm *vm, size_t width, unsigned char *cells)
{
	double ram = vm->ram_pages ? (double)vm->ram_pages : 1;
	size_t wide[TOP_PARTS];

	for (int i = 0; i < TOP_PARTS; i++) {
		double share = (double)vm->part[i] / ram;

		wide[i] = (size_t)(share * (double)width + 0.5);
		if (vm->part[i] && !wide[i])
			wide[i] = 1;
	}
	if (!vm->ram_pages)
		wide[TOP_FREE] = width;
	widths_fit(wide, width);
	for (int i = 0; i < TOP_PARTS; i++)
		for (size_t n = wide[i]; n; n--)
			*cells++ = (unsigned char)i;
}
