// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Bits per page of the swap device; pagemap.h says which.
 *
 * The counts may lag the bits by an instant; nothing is decided by them but
 * whether to look at all.
 */
#include <linux/bitmap.h>
#include <linux/slab.h>

#include "pagemap.h"

static struct pagemap_chunk *chunk_of(struct pagemap *map, u64 index)
{
	return xa_load(&map->chunks, index / PAGEMAP_CHUNK_PAGES);
}

static unsigned int bit_of(u64 index)
{
	return index % PAGEMAP_CHUNK_PAGES;
}

bool pagemap_held(struct pagemap *map, u64 index)
{
	return test_bit(bit_of(index), chunk_of(map, index)->held);
}

bool pagemap_unflushed(struct pagemap *map, u64 index)
{
	return test_bit(bit_of(index), chunk_of(map, index)->unflushed);
}

bool pagemap_held_set(struct pagemap *map, u64 index)
{
	if (test_and_set_bit(bit_of(index), chunk_of(map, index)->held))
		return true;
	atomic_long_inc(&map->held);
	return false;
}

bool pagemap_held_clear(struct pagemap *map, u64 index)
{
	if (!test_and_clear_bit(bit_of(index), chunk_of(map, index)->held))
		return false;
	atomic_long_dec(&map->held);
	return true;
}

bool pagemap_unflushed_set(struct pagemap *map, u64 index)
{
	if (test_and_set_bit(bit_of(index), chunk_of(map, index)->unflushed))
		return true;
	atomic_long_inc(&map->unflushed);
	return false;
}

bool pagemap_unflushed_clear(struct pagemap *map, u64 index)
{
	unsigned long *bits = chunk_of(map, index)->unflushed;

	if (!test_bit(bit_of(index), bits) ||
	    !test_and_clear_bit(bit_of(index), bits))
		return false;
	atomic_long_dec(&map->unflushed);
	return true;
}

static u64 next(struct pagemap *map, u64 index, bool held)
{
	struct pagemap_chunk *chunk;
	unsigned long bit;

	while (index < map->pages) {
		chunk = chunk_of(map, index);
		bit = find_next_bit(held ? chunk->held : chunk->unflushed,
				    PAGEMAP_CHUNK_PAGES, bit_of(index));
		index = index - bit_of(index) + bit;
		if (bit < PAGEMAP_CHUNK_PAGES)
			break;
	}
	return min(index, map->pages);
}

u64 pagemap_held_next(struct pagemap *map, u64 index)
{
	return next(map, index, true);
}

u64 pagemap_unflushed_next(struct pagemap *map, u64 index)
{
	return next(map, index, false);
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
