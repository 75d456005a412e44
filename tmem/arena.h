/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Blocks of one size, named by number, from large pieces of address space.
 *
 *   block n:   piece n / blocks_per_piece          block within it
 *   base[] --> [ 0 | 1 | 2 | ...        ] --> [ 0 | 1 | ... ]
 *
 * A piece never moves and stays until the arena ends, so a number becomes an
 * address without a lock, and numbers of 32 bits can stand for pointers. A
 * block given back is given back to the kernel.
 *
 * The store has two: 4 KiB blocks for tables, charged to the budget when handed
 * out, and 1 MiB extents for payload, where the packer charges each page it
 * commits.
 */
#ifndef TMEM_ARENA_H
#define TMEM_ARENA_H

#include "tmem/lock.h"
#include "tmem/memory.h"

/* A cell of 8 bytes of an arena, counted from its start. 0: none. */
#define ARENA_UNIT_SHIFT 3

enum arena_charge { ARENA_CHARGE_BLOCKS, ARENA_CHARGE_NOTHING };

struct arena {
	struct budget *budget;
	struct lock lock;
	unsigned block_shift;
	unsigned piece_shift;
	enum arena_charge charge;
	uint32_t pieces;
	uint32_t pieces_max;
	uint32_t hint;	/* no piece below this has a free block */
	uint32_t kept;	/* free blocks the kernel would not take back */
	uint32_t given; /* blocks handed out */
	char **base;	/* of each piece */
	struct arena_piece **map; /* lock: arena */
	uint32_t map_room;
};

MUST_CHECK int arena_init(struct arena *arena, struct budget *budget,
			  unsigned block_shift, unsigned piece_shift,
			  uint32_t pieces_max, enum arena_charge charge);
void arena_fini(struct arena *arena);

/*
 * Gives the memory of all blocks back, except that it stays charged until
 * arena_fini, which is all that may follow. Before that, several threads may do
 * a part each, of so many.
 */
void arena_vacate(struct arena *arena);
uint32_t arena_parts(const struct arena *arena);
void arena_part_release(const struct arena *arena, uint32_t part);

/*
 * The contents of a new block are undefined: zero, or what an earlier owner
 * left. -ENOSPC: over budget; -ENOMEM.
 */
MUST_CHECK int arena_block_get(struct arena *arena, uint32_t *block_out);

/* The same for what a store cannot be without: counted, not refused. */
MUST_CHECK int arena_block_need(struct arena *arena, uint32_t *block_out);
void arena_block_put(struct arena *arena, uint32_t block);

static inline char *arena_block_at(const struct arena *arena, uint32_t block)
{
	unsigned shift = arena->piece_shift - arena->block_shift;
	uint32_t mask = ((uint32_t)1 << shift) - 1;

	return arena->base[block >> shift] +
	       ((size_t)(block & mask) << arena->block_shift);
}

static inline void *arena_unit_at(const struct arena *arena, uint32_t unit)
{
	unsigned shift = arena->piece_shift - ARENA_UNIT_SHIFT;
	uint32_t mask = ((uint32_t)1 << shift) - 1;

	return arena->base[unit >> shift] +
	       ((size_t)(unit & mask) << ARENA_UNIT_SHIFT);
}

/* Bytes charged that hold nothing. */
uint64_t arena_kept_bytes(struct arena *arena);
uint32_t arena_blocks_given(struct arena *arena);

/* No unit at or beyond this number exists. */
uint64_t arena_units(struct arena *arena);

#endif
