/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Descriptors of one size, in 4 KiB blocks of an arena. They never move, and a
 * descriptor is named by its unit in the arena: 4 bytes instead of a pointer.
 *
 *   block   [ head | cell 0 | cell 1 | ... | rest ]
 *
 * The head tells what kind of cells the block holds and whose it is, so that
 * the address of any byte of a cell leads to the cell. Blocks with a free cell
 * are in a list; a block without any used one goes back to the arena.
 */
#ifndef TMEM_SLAB_H
#define TMEM_SLAB_H

#include "tmem/arena.h"

#define SLAB_BLOCK_SHIFT 12
#define SLAB_BLOCK_BYTES ((size_t)1 << SLAB_BLOCK_SHIFT)
#define SLAB_BLOCK_UNITS (SLAB_BLOCK_BYTES >> ARENA_UNIT_SHIFT)

struct slab_head {
	uint32_t next; /* block number + 1 in the list; 0: end */
	uint32_t prev;
	uint16_t used; /* cells */
	uint16_t free; /* first free cell + 1; 0: none */
	uint16_t kind; /* the user's */
	uint16_t shard;
};

struct slab {
	struct arena *arena;
	uint32_t partial; /* block number + 1 */
	uint32_t blocks;
	uint32_t cells; /* in use */
	uint16_t cell_bytes;
	uint16_t kind;
	uint16_t shard;
};

void slab_init(struct slab *slab, struct arena *arena, size_t cell_bytes,
	       unsigned kind, unsigned shard);

/* A cell of zeroes. -ENOSPC: over budget; -ENOMEM. */
MUST_CHECK int slab_get(struct slab *slab, uint32_t *unit_out);
void slab_put(struct slab *slab, uint32_t unit);

/* Head of the block that holds this unit. */
static inline struct slab_head *slab_head_of(const struct arena *arena,
					     uint32_t unit)
{
	return arena_unit_at(arena, unit & ~(uint32_t)(SLAB_BLOCK_UNITS - 1));
}

/* First unit of the cell that holds this unit. */
static inline uint32_t slab_cell_of(uint32_t unit, size_t cell_bytes)
{
	uint32_t block = unit & ~(uint32_t)(SLAB_BLOCK_UNITS - 1);
	size_t at =
		((unit - block) << ARENA_UNIT_SHIFT) - sizeof(struct slab_head);

	return unit - (uint32_t)((at % cell_bytes) >> ARENA_UNIT_SHIFT);
}

static inline uint64_t slab_live_bytes(const struct slab *slab)
{
	return (uint64_t)slab->cells * slab->cell_bytes +
	       (uint64_t)slab->blocks * sizeof(struct slab_head);
}

static inline uint64_t slab_slack_bytes(const struct slab *slab)
{
	return slab->blocks * (uint64_t)SLAB_BLOCK_BYTES -
	       slab_live_bytes(slab);
}

#endif
