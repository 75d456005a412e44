/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pages of the swap device the host holds, two bits for each:
 *
 *   held       somebody wrote it, and it has not been freed since
 *   unflushed  it was freed, but the host has not been told yet
 *
 * A page that is not held reads as zeros without asking. One that is held and
 * that the host does not know was lost with an earlier epoch of the line, and
 * must not read as anything. (Asking the host instead cannot tell the two
 * apart.)
 *
 * Bits lie in chunks of 1 GiB of pages, which stay where they are when the
 * device grows. All but grow may be called in any context.
 */
#ifndef TIDEPOOL_PAGEMAP_H
#define TIDEPOOL_PAGEMAP_H

#include <linux/atomic.h>
#include <linux/types.h>
#include <linux/xarray.h>

#define PAGEMAP_CHUNK_PAGES (1u << 18)

struct pagemap_chunk {
	DECLARE_BITMAP(held, PAGEMAP_CHUNK_PAGES);
	DECLARE_BITMAP(unflushed, PAGEMAP_CHUNK_PAGES);
};

struct pagemap {
	struct xarray chunks;
	u64 pages; /* bits there are: whole chunks */
	atomic_long_t held;
	atomic_long_t unflushed;
};

void pagemap_init(struct pagemap *map);
void pagemap_fini(struct pagemap *map);

/* Room for pages in all; never shrinks. */
int pagemap_grow(struct pagemap *map, u64 pages);

bool pagemap_held(struct pagemap *map, u64 index);
bool pagemap_unflushed(struct pagemap *map, u64 index);

/* Each returns what the bit was. */
bool pagemap_held_set(struct pagemap *map, u64 index);
bool pagemap_held_clear(struct pagemap *map, u64 index);
bool pagemap_unflushed_set(struct pagemap *map, u64 index);
bool pagemap_unflushed_clear(struct pagemap *map, u64 index);

/* The first at or after index whose bit is set, or map->pages. */
u64 pagemap_held_next(struct pagemap *map, u64 index);
u64 pagemap_unflushed_next(struct pagemap *map, u64 index);

#endif
