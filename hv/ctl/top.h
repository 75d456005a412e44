/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `tmem-ctl top` shows: samples, rates, order and bars; no terminal. */
#ifndef HV_CTL_TOP_H
#define HV_CTL_TOP_H

#include "hv/libhv/hv.h"

#define TOP_NAME_MAX 64
#define TOP_UNKNOWN  (-1.0)

enum top_part {
	TOP_PRIVATE,
	TOP_SHARED,
	TOP_ZERO,
	TOP_COMPRESSED,
	TOP_SWAPPED,
	TOP_BALLOONED,
	TOP_FREE,
	TOP_PARTS
};

struct top_part_text {
	char letter;
	const char *name;
};
extern const struct top_part_text top_part_texts[TOP_PARTS];

enum top_key {
	TOP_BY_NAME,
	TOP_BY_RAM,
	TOP_BY_PRIVATE,
	TOP_BY_SHARED,
	TOP_BY_COMPRESSED,
	TOP_BY_SWAPPED,
	TOP_BY_REFAULT,
	TOP_BY_FAULTS,
	TOP_KEYS
};

struct top_key_text {
	int key; /* the key to press */
	const char *name;
};
extern const struct top_key_text top_key_texts[TOP_KEYS];

struct top_vm {
	char name[TOP_NAME_MAX];
	uint64_t ram_pages;
	uint64_t part[TOP_PARTS]; /* pages; their sum is at most ram_pages */
	uint64_t faults;
	double refault_percent; /* or TOP_UNKNOWN */
	double faults_per_s;	/* or TOP_UNKNOWN: seen once only */
};

struct top {
	struct top_vm *vms;
	size_t n;
	enum top_key key;
	uint64_t at_ns;
};

void top_init(struct top *top);
void top_fini(struct top *top);

/*
 * Takes list (a reply of hv_list) as the state at now_ns; rates are against
 * the sample before. -ENOMEM leaves the last sample.
 */
MUST_CHECK int top_sample(struct top *top, const struct hv_value *list,
			  uint64_t now_ns);
void top_sort(struct top *top, enum top_key key);

/* -ENOENT: no key of that name. */
MUST_CHECK int top_key_find(const char *name, enum top_key *out);

/*
 * Fills cells[0..width) with enum top_part values in proportion to vm's parts:
 * each part there is gets a cell as long as there are enough.
 */
void top_bar(const struct top_vm *vm, size_t width, unsigned char *cells);

#endif
