/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the store's memory comes from, and the count of it. The calls to the
 * world go through struct memory_ops, so that a test can fail the n-th; every
 * byte obtained is charged to a struct budget, which is at once the limit and
 * the truth about used_bytes:
 *
 *   used = heap + blocks of tables + committed pages of payload
 *
 * All counts are in bytes and atomic; a charge never takes used past limit.
 */
#ifndef TMEM_MEMORY_H
#define TMEM_MEMORY_H

#include "hv/base/types.h"

#include <stdatomic.h>

struct memory_ops {
	/* Address space that takes memory only where it is touched. */
	int (*map)(size_t bytes, void **out);
	void (*unmap)(void *addr, size_t bytes);
	/* Gives the memory back; the range reads as zero afterwards. */
	int (*release)(void *addr, size_t bytes);
	void *(*alloc)(size_t bytes); /* zeroed; NULL if there is none */
	void (*free)(void *ptr);
};

extern const struct memory_ops memory_real;

struct budget {
	const struct memory_ops *ops;
	uint64_t limit; /* 0: none */
	_Atomic uint64_t used;
	_Atomic uint64_t heap; /* the part of used that heap_alloc gave */
};

void budget_init(struct budget *b, const struct memory_ops *ops,
		 uint64_t limit);

/* 0, or -ENOSPC: it would exceed the limit. */
MUST_CHECK int budget_charge(struct budget *b, uint64_t bytes);
/* Beyond the limit, if need be. */
void budget_charge_anyway(struct budget *b, uint64_t bytes);
void budget_uncharge(struct budget *b, uint64_t bytes);

/* So close to the limit that nothing may lie idle? */
bool budget_is_tight(const struct budget *b);

/* Less than this left under the limit? */
bool budget_lacks(const struct budget *b, uint64_t bytes);

/*
 * Small, long-lived, zeroed memory. It counts, but is not refused for the
 * limit's sake: what is little and decides whether the store can work at all
 * comes first. NULL: none.
 */
void *heap_alloc(struct budget *b, size_t bytes);
void heap_free(struct budget *b, void *ptr, size_t bytes);

/* A number no guest can guess. */
uint64_t memory_secret(void);

#endif
