// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Bits per page of the swap device; pagemap.h says which.
 */
#include <linux/bitmap.h>
#include <linux/slab.h>

#include "pagemap.h"

static unsigned long *bits_of(struct pagemap *map, enum page_bit bit, u64 index)
{
	struct pagemap_chunk *chunk;

	chunk = xa_load(&map->chunks, index / PAGEMAP_CHUNK_PAGES);
	return chunk->bits[bit];
}

static unsigned int number_of(u64 index)
{
	return index % PAGEMAP_CHUNK_PAGES;
}

bool pagemap_test(struct pagemap *map, enum page_bit bit, u64 index)
{
	return test_bit(number_of(index), bits_of(map, bit, index));
}

bool pagemap_set(struct pagemap *map, enum page_bit bit, u64 index)
{
	if (test_and_set_bit(number_of(index), bits_of(map, bit, index)))
		return true;
	atomic_long_inc(&map->count[bit]);
	return false;
}

/* Most are not set: look before writing to what others look at. */
bool pagemap_clear(struct pagemap *map, enum page_bit bit, u64 index)
{
	unsigned long *bits = bits_of(map, bit, index);

	if (!test_bit(number_of(index), bits) ||
	    !test_and_clear_bit(number_of(index), bits))
		return false;
	atomic_long_dec(&map->count[bit]);
	return true;
}

u64 pagemap_next(struct pagemap *map, enum page_bit bit, u64 index, u64 end)
{
	unsigned long size, found;

	end = min(end, map->pages);
	while (index < end) {
		size = min_t(u64, PAGEMAP_CHUNK_PAGES,
			     number_of(index) + (end - index));
		found = find_next_bit(bits_of(map, bit, index), size,
				      number_of(index));
		index = index - number_of(index) + found;
		if (found < size)
			break;
	}
	return index;
}

int pagemap_grow(struct pagemap *map, u64 pages)
{
	u64 at = DIV_ROUND_UP_ULL(map->pages, PAGEMAP_CHUNK_PAGES);
	u64 end = DIV_ROUND_UP_ULL(pages, PAGEMAP_CHUNK_PAGES);
	struct pagemap_chunk *chunk;
	int rc;

	for (; at < end; at++) {
		chunk = kvzalloc(sizeof(*chunk), GFP_KERNEL);
		if (!chunk)
			return -ENOMEM;
		rc = xa_err(xa_store(&map->chunks, at, chunk, GFP_KERNEL));
		if (rc) {
			kvfree(chunk);
			return rc;
		}
		map->pages = (at + 1) * PAGEMAP_CHUNK_PAGES;
	}
	return 0;
}

void pagemap_init(struct pagemap *map)
{
	memset(map, 0, sizeof(*map));
	xa_init(&map->chunks);
}

void pagemap_fini(struct pagemap *map)
{
	struct pagemap_chunk *chunk;
	unsigned long at;

	xa_for_each(&map->chunks, at, chunk) kvfree(chunk);
	xa_destroy(&map->chunks);
}
