/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The references one VM holds: frame -> count. What a VM gives back is checked
 * against it, and what it leaves behind when it dies is read from it.
 */
#ifndef SHARING_HOLDS_H
#define SHARING_HOLDS_H

#include "hv/base/types.h"

struct hold_table {
	struct hold *hold; /* open addressing, NULL while empty */
	uint32_t room, used;
};

struct holds {
	struct hold_table block; /* 64 frames -> a bit for each that is held */
	struct hold_table more;	 /* frame -> references beyond the first */
	uint64_t total;		 /* references */
};

void holds_init(struct holds *h);
void holds_fini(struct holds *h);

/* 0, -ENOMEM, or -EOVERFLOW where a count would not fit. */
MUST_CHECK int holds_add(struct holds *h, uint32_t frame, uint32_t refs);
/* Gives one back: 0, or -ENOENT if none is held. */
MUST_CHECK int holds_drop(struct holds *h, uint32_t frame);
uint32_t holds_refs(const struct holds *h, uint32_t frame);

/* fn must not change h. */
typedef void holds_fn(void *arg, uint32_t frame, uint32_t refs);
void holds_walk(const struct holds *h, holds_fn *fn, void *arg);
uint64_t holds_bytes(const struct holds *h);

#endif
