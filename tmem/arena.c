/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which blocks are free: one bit per block, the lowest free one first, so that
 * what is used stays together. A free block holds no memory and cannot hold a
 * list link, which is why this is a bitmap.
 *
 * If the kernel will not take a block back (it may refuse for locked memory),
 * the block is free all the same, but its charge stays (kept): the next block
 * handed out is charged nothing.
 */
#include "tmem/arena.h"

#include <errno.h>
#include <string.h>

#define WORD_BITS  64
#define MAP_FIRST  4
#define PART_SHIFT 24 /* of a piece; pieces are larger */

struct arena_piece {
	uint32_t free; /* blocks */
	uint32_t words;
	uint64_t used[]; /* one bit per block */
};

static uint32_t blocks_per_piece(const struct arena *arena)
{
	return (uint32_t)1 << (arena->piece_shift - arena->block_shift);
}

static size_t piece_bytes(const struct arena *arena)
{
	return sizeof(struct arena_piece) + blocks_per_piece(arena) / 8;
}

static size_t map_bytes(const struct arena *arena)
{
	return arena->map_room * sizeof(struct arena_piece *);
}

int arena_init(struct arena *arena, struct budget *budget, unsigned block_shift,
	       unsigned piece_shift, uint32_t pieces_max,
	       enum arena_charge charge)
{
	memset(arena, 0, sizeof(*arena));
	arena->budget = budget;
	arena->block_shift = block_shift;
	arena->piece_shift = piece_shift;
	arena->pieces_max = pieces_max;
	arena->charge = charge;
	arena->base = heap_alloc(budget, pieces_max * sizeof(*arena->base));
	lock_init(&arena->lock, LOCK_ARENA);
	if (arena->base)
		return 0;
	arena_fini(arena);
	return -ENOMEM;
}

void arena_vacate(struct arena *arena)
{
	size_t bytes = (size_t)1 << arena->piece_shift;

	for (uint32_t p = 0; p < arena->pieces; p++) {
		if (arena->base[p])
			arena->budget->ops->unmap(arena->base[p], bytes);
		arena->base[p] = NULL;
	}
}

static unsigned parts_shift(const struct arena *arena)
{
	return arena->piece_shift - PART_SHIFT;
}

uint32_t arena_parts(const struct arena *arena)
{
	return arena->pieces << parts_shift(arena);
}

void arena_part_release(const struct arena *arena, uint32_t part)
{
	char *base = arena->base[part >> parts_shift(arena)];
	uint32_t n = part & (((uint32_t)1 << parts_shift(arena)) - 1);

	/* What the kernel does not take now, it takes when it is unmapped. */
	(void)arena->budget->ops->release(base + ((size_t)n << PART_SHIFT),
					  (size_t)1 << PART_SHIFT);
}

void arena_fini(struct arena *arena)
{
	struct budget *budget = arena->budget;

	arena_vacate(arena);
	for (uint32_t p = 0; p < arena->pieces; p++)
		heap_free(budget, arena->map[p], piece_bytes(arena));
	if (arena->charge == ARENA_CHARGE_BLOCKS)
		budget_uncharge(budget, ((uint64_t)arena->given + arena->kept)
						<< arena->block_shift);
	heap_free(budget, arena->base,
		  arena->pieces_max * sizeof(*arena->base));
	heap_free(budget, arena->map, map_bytes(arena));
	lock_fini(&arena->lock);
}

static int map_enlarge(struct arena *arena)
{
	uint32_t room = arena->map_room ? 2 * arena->map_room : MAP_FIRST;
	struct arena_piece **map =
		heap_alloc(arena->budget, room * sizeof(*map));

	if (!map)
		return -ENOMEM;
	if (arena->map)
		memcpy(map, arena->map, map_bytes(arena));
	heap_free(arena->budget, arena->map, map_bytes(arena));
	arena->map = map;
	arena->map_room = room;
	return 0;
}

static int piece_add(struct arena *arena)
{
	struct budget *budget = arena->budget;
	struct arena_piece *piece;
	void *base;
	int rc;

	if (arena->pieces == arena->pieces_max ||
	    (arena->pieces == arena->map_room && map_enlarge(arena)))
		return -ENOMEM;
	piece = heap_alloc(budget, piece_bytes(arena));
	if (!piece)
		return -ENOMEM;
	rc = budget->ops->map((size_t)1 << arena->piece_shift, &base);
	if (rc) {
		heap_free(budget, piece, piece_bytes(arena));
		return -ENOMEM;
	}
	piece->free = blocks_per_piece(arena);
	piece->words = piece->free / WORD_BITS;
	arena->base[arena->pieces] = base;
	arena->map[arena->pieces++] = piece;
	return 0;
}

/* The piece is known to have a free block. */
static uint32_t piece_take(struct arena_piece *piece)
{
	uint32_t w = 0;
	uint32_t bit;

	while (!~piece->used[w])
		w++;
	bit = (uint32_t)__builtin_ctzll(~piece->used[w]);
	piece->used[w] |= (uint64_t)1 << bit;
	piece->free--;
	return w * WORD_BITS + bit;
}

enum need { NEED_WITHIN_LIMIT, NEED_ANYWAY };

static int charge_block(struct arena *arena, enum need need)
{
	uint64_t bytes = (uint64_t)1 << arena->block_shift;

	if (arena->charge == ARENA_CHARGE_NOTHING)
		return 0;
	if (arena->kept) {
		arena->kept--;
		return 0;
	}
	if (need == NEED_WITHIN_LIMIT)
		return budget_charge(arena->budget, bytes);
	budget_charge_anyway(arena->budget, bytes);
	return 0;
}

static int block_get_locked(struct arena *arena, enum need need,
			    uint32_t *block_out)
{
	uint32_t p = arena->hint;
	int rc;

	while (p < arena->pieces && !arena->map[p]->free)
		p++;
	arena->hint = p;
	if (p == arena->pieces) {
		rc = piece_add(arena);
		if (rc)
			return rc;
	}
	rc = charge_block(arena, need);
	if (rc)
		return rc;
	*block_out = p * blocks_per_piece(arena) + piece_take(arena->map[p]);
	arena->given++;
	return 0;
}

static int block_get(struct arena *arena, enum need need, uint32_t *block_out)
{
	int rc;

	lock_take(&arena->lock);
	rc = block_get_locked(arena, need, block_out);
	lock_drop(&arena->lock);
	return rc;
}

int arena_block_get(struct arena *arena, uint32_t *block_out)
{
	return block_get(arena, NEED_WITHIN_LIMIT, block_out);
}

int arena_block_need(struct arena *arena, uint32_t *block_out)
{
	return block_get(arena, NEED_ANYWAY, block_out);
}

void arena_block_put(struct arena *arena, uint32_t block)
{
	uint32_t per = blocks_per_piece(arena);
	size_t bytes = (size_t)1 << arena->block_shift;
	uint32_t n = block % per;
	struct arena_piece *piece;
	int rc = 0;

	/* Ours until the bit is cleared: the kernel is asked unlocked. */
	if (arena->charge == ARENA_CHARGE_BLOCKS)
		rc = arena->budget->ops->release(arena_block_at(arena, block),
						 bytes);
	lock_take(&arena->lock);
	piece = arena->map[block / per];
	assert(piece->used[n / WORD_BITS] >> n % WORD_BITS & 1);
	piece->used[n / WORD_BITS] &= ~((uint64_t)1 << n % WORD_BITS);
	piece->free++;
	arena->given--;
	if (block / per < arena->hint)
		arena->hint = block / per;
	if (rc)
		arena->kept++;
	else if (arena->charge == ARENA_CHARGE_BLOCKS)
		budget_uncharge(arena->budget, bytes);
	lock_drop(&arena->lock);
}

uint64_t arena_kept_bytes(struct arena *arena)
{
	uint64_t bytes;

	lock_take(&arena->lock);
	bytes = (uint64_t)arena->kept << arena->block_shift;
	lock_drop(&arena->lock);
	return bytes;
}

uint32_t arena_blocks_given(struct arena *arena)
{
	uint32_t given;

	lock_take(&arena->lock);
	given = arena->given;
	lock_drop(&arena->lock);
	return given;
}

uint64_t arena_units(struct arena *arena)
{
	uint64_t units;

	lock_take(&arena->lock);
	units = (uint64_t)arena->pieces
		<< (arena->piece_shift - ARENA_UNIT_SHIFT);
	lock_drop(&arena->lock);
	return units;
}
