/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A shelf: the pages of one kind and all that leads to them, in memory of its
 * own. A store has one for each kind that any pool is of; what an empty one
 * takes (about 100 KiB) counts, but is never refused for the limit's sake.
 *
 *   tables   [ scratch words | leaves, objects, hash tables, index ... ]
 *   pack     [ payload ... ]
 *   memory   [ part 0 | part 1 | ... | stripe 0 | stripe 1 | ... ]
 *
 * One memory for both kinds would waste less at the ends of size classes (a
 * page and a half each), but then ephemeral pages, which the host wants back in
 * a hurry, could go only one by one.
 */
#include "hv/base/thread.h"
#include "tmem/store.h"

#include <errno.h>
#include <string.h>

#define TABLES_PIECE_SHIFT 26
#define TABLES_PIECES	   512 /* 32 GiB: all that units can name */
#define SCRATCH_STEP	   8   /* units: a cache line for each part's word */

/* From here on a second thread is faster: see docs/performance.md. */
#define HELPED_BYTES ((uint64_t)64 << 20)

static void part_init(struct shelf *shelf, unsigned n)
{
	struct part *part = &shelf->part[n];
	struct arena *tables = &shelf->tables;

	part->shelf = shelf;
	part->n = n;
	part->scratch = shelf->scratch_block * (uint32_t)SLAB_BLOCK_UNITS +
			(n + 1) * SCRATCH_STEP;
	table_init(&part->table, tables);
	slab_init(&part->slab[CELL_LEAF], tables, leaf_bytes(shelf->kind),
		  CELL_LEAF, n);
	slab_init(&part->slab[CELL_OBJECT], tables, sizeof(struct object),
		  CELL_OBJECT, n);
}

/* alloc() gives 16-byte alignment; parts want a cache line each. */
static size_t parts_bytes(const struct tmem *tm)
{
	return tm->shards * (sizeof(struct part) + sizeof(struct stripe)) +
	       _Alignof(struct part);
}

static int parts_init(struct shelf *shelf)
{
	const struct tmem *tm = shelf->tm;
	uintptr_t mask = _Alignof(struct part) - 1;

	shelf->memory = heap_alloc(shelf->tables.budget, parts_bytes(tm));
	if (!shelf->memory)
		return -ENOMEM;
	shelf->part =
		(struct part *)(((uintptr_t)shelf->memory + mask) & ~mask);
	shelf->stripe = (struct stripe *)(shelf->part + tm->shards);
	for (unsigned n = 0; n < tm->shards; n++) {
		part_init(shelf, n);
		stripe_init(&shelf->stripe[n], &shelf->tables, n);
	}
	return 0;
}

static int scratch_init(struct shelf *shelf)
{
	struct arena *tables = &shelf->tables;
	int rc = arena_block_need(tables, &shelf->scratch_block);

	if (!rc)
		memset(arena_block_at(tables, shelf->scratch_block), 0,
		       SLAB_BLOCK_BYTES);
	return rc;
}

static int shelf_init(struct shelf *shelf, struct budget *budget)
{
	int rc = arena_init(&shelf->tables, budget, SLAB_BLOCK_SHIFT,
			    TABLES_PIECE_SHIFT, TABLES_PIECES,
			    ARENA_CHARGE_BLOCKS);

	if (rc)
		return rc;
	rc = pack_init(&shelf->pack, budget, &shelf->tables);
	if (rc)
		goto fini_tables;
	rc = scratch_init(shelf);
	if (!rc)
		rc = parts_init(shelf);
	if (rc)
		goto fini_pack;
	return 0;

fini_pack:
	pack_fini(&shelf->pack);
fini_tables:
	arena_fini(&shelf->tables);
	return rc;
}

int shelf_create(struct tmem *tm, enum pool_kind kind, struct shelf **shelf_out)
{
	struct shelf *shelf = heap_alloc(&tm->budget, sizeof(*shelf));

	if (!shelf)
		return -ENOMEM;
	shelf->tm = tm;
	shelf->kind = kind;
	if (shelf_init(shelf, &tm->budget)) {
		heap_free(&tm->budget, shelf, sizeof(*shelf));
		return -ENOMEM;
	}
	*shelf_out = shelf;
	return 0;
}

void shelf_destroy(struct shelf *shelf)
{
	struct tmem *tm;

	if (!shelf)
		return;
	tm = shelf->tm;
	for (unsigned n = 0; n < tm->shards; n++)
		stripe_fini(&shelf->stripe[n]);
	heap_free(&tm->budget, shelf->memory, parts_bytes(tm));
	pack_fini(&shelf->pack);
	arena_fini(&shelf->tables);
	heap_free(&tm->budget, shelf, sizeof(*shelf));
}

static int shelf_add(struct tmem *tm, enum pool_kind kind)
{
	uint64_t heap = atomic_load(&tm->budget.heap);
	struct shelf *shelf;
	int rc = shelf_create(tm, kind, &shelf);

	if (rc)
		return rc;
	/* Give or take what others get at this moment. */
	heap = atomic_load(&tm->budget.heap) - heap;
	atomic_fetch_add(&tm->empty_bytes, heap + shelf_bytes(shelf));
	shards_take(tm);
	tm->shelf[kind] = shelf;
	shards_drop(tm);
	return 0;
}

int shelf_need(struct tmem *tm, enum pool_kind kind)
{
	bool has;
	int rc = 0;

	clients_take(tm, CLIENTS_READ);
	has = tm->shelf[kind] != NULL;
	clients_drop(tm);
	if (has)
		return 0;
	clients_take(tm, CLIENTS_CHANGE);
	if (!tm->shelf[kind])
		rc = shelf_add(tm, kind);
	clients_drop(tm);
	return rc;
}

uint64_t shelf_bytes(struct shelf *shelf)
{
	struct pack_usage usage;

	pack_usage(&shelf->pack, &usage);
	return usage.committed_bytes + arena_kept_bytes(&shelf->tables) +
	       arena_blocks_given(&shelf->tables) * (uint64_t)SLAB_BLOCK_BYTES;
}

void shelves_trim(const struct tmem *tm)
{
	for (unsigned k = 0; k < KINDS; k++)
		if (tm->shelf[k])
			pack_trim(&tm->shelf[k]->pack);
}

/* ---- vacating ------------------------------------------------------------ */

struct vacation {
	const struct arena *arena[2];
	_Atomic uint32_t next; /* part of the first, then of the second */
};

static void *parts_release(void *arg)
{
	struct vacation *v = arg;
	uint32_t first = arena_parts(v->arena[0]);
	uint32_t all = first + arena_parts(v->arena[1]);
	uint32_t n;

	while ((n = atomic_fetch_add(&v->next, 1)) < all)
		if (n < first)
			arena_part_release(v->arena[0], n);
		else
			arena_part_release(v->arena[1], n - first);
	return NULL;
}

void shelf_vacate(struct shelf *shelf)
{
	struct vacation v = {.arena = {&shelf->pack.extents, &shelf->tables}};
	pthread_t helper;

	/* Without a helper, to unmap is all there is to do. */
	if (shelf_bytes(shelf) >= HELPED_BYTES &&
	    !thread_start(&helper, parts_release, &v)) {
		parts_release(&v);
		pthread_join(helper, NULL);
	}
	arena_vacate(&shelf->pack.extents);
	arena_vacate(&shelf->tables);
}
