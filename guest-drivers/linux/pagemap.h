/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is known of each page of the swap device, a bit of each kind:
 *
 *   held       the host has it, or is being given it
 *   unflushed  it was freed, but the host has not been told yet
 *   failed     its last write failed, so there is nothing to read
 *
 * A page that is neither held nor failed reads as zeros without asking. One
 * that is held and that the host does not know was lost with an earlier epoch
 * of the line, and must not read as anything. (Asking the host instead cannot
 * tell the two apart.)
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

enum page_bit {
	PAGE_HELD,
	PAGE_UNFLUSHED,
	PAGE_FAILED,
	PAGE_BITS,
};

struct pagemap_chunk {
	unsigned long bits[PAGE_BITS][BITS_TO_LONGS(PAGEMAP_CHUNK_PAGES)];
};

struct pagemap {
	struct xarray chunks;
	u64 pages; /* bits there are: whole chunks */
	/* How many are set; may lag by an instant. */
	atomic_long_t count[PAGE_BITS];
};

void pagemap_init(struct pagemap *map);
void pagemap_fini(struct pagemap *map);

/* Room for pages in all; never shrinks. */
int pagemap_grow(struct pagemap *map, u64 pages);

bool pagemap_test(struct pagemap *map, enum page_bit bit, u64 index);

/* Both return what the bit was. */
bool pagemap_set(struct pagemap *map, enum page_bit bit, u64 index);
bool pagemap_clear(struct pagemap *map, enum page_bit bit, u64 index);

/* The first from index on and before end that has the bit, or end. */
u64 pagemap_next(struct pagemap *map, enum page_bit bit, u64 index, u64 end);

/* Each from first on and before end, which is at most map->pages. */
#define pagemap_for_each(map, bit, at, first, end)                             \
	for ((at) = pagemap_next(map, bit, first, end); (at) < (end);          \
	     (at) = pagemap_next(map, bit, (at) + 1, end))

static inline long pagemap_count(const struct pagemap *map, enum page_bit bit)
{
	return atomic_long_read(&map->count[bit]);
}

#endif
