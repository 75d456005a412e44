/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sums over the shards. All shards are held, so that the ballast law holds
 * exactly:
 *
 *   used = stored + metadata + slack
 *
 * used is what was charged; stored and metadata are counted where they are
 * made; slack is the rest: free cells, the rounding to size classes, the ends
 * of pages, what is on its way back to the kernel (take.c). tmem_check() counts
 * slack in its own way and compares.
 */
#include "tmem/store.h"

#include <string.h>

static void stats_add(struct tmem_stats *sum, const struct tmem_stats *st)
{
#define ADD(name, unit, help) sum->name += st->name;
	TMEM_STATS(ADD, ADD)
#undef ADD
}

static uint64_t part_metadata(const struct part *part)
{
	uint64_t bytes =
		table_segments(&part->table) * (uint64_t)SLAB_BLOCK_BYTES;

	for (unsigned k = 0; k < CELL_KINDS; k++)
		bytes += slab_live_bytes(&part->slab[k]);
	return bytes + part->tally.objects * sizeof(struct pack_head);
}

static void shelf_add(struct tmem_stats *sum, const struct shelf *shelf)
{
	uint64_t pages = 0;

	for (unsigned n = 0; n < shelf->tm->shards; n++) {
		const struct tally *tally = &shelf->part[n].tally;

		pages += tally->pages;
		sum->pages_same_filled += tally->same_filled;
		sum->pages_raw += tally->raw;
		sum->pages_dense += tally->dense;
		sum->stored_bytes += tally->stored_bytes;
		sum->metadata_bytes += part_metadata(&shelf->part[n]);
		sum->metadata_bytes += stripe_live_bytes(&shelf->stripe[n]);
		sum->pages_shared += shelf->stripe[n].shared;
	}
	sum->pages += pages;
	if (shelf->kind == KIND_EPHEMERAL)
		sum->pages_ephemeral = pages;
	else
		sum->pages_persistent = pages;
	/* The block of scratch words. */
	sum->metadata_bytes += SLAB_BLOCK_BYTES;
}

void tmem_stats(const struct tmem *tm, struct tmem_stats *out)
{
	struct tmem *inside = tmem_inside(tm);
	uint64_t known;

	memset(out, 0, sizeof(*out));
	clients_take(inside, CLIENTS_READ);
	shards_take(inside);
	for (unsigned n = 0; n < tm->shards; n++)
		stats_add(out, &tm->shard[n].stats);
	for (unsigned k = 0; k < KINDS; k++)
		if (tm->shelf[k])
			shelf_add(out, tm->shelf[k]);
	out->metadata_bytes += atomic_load(&tm->budget.heap);
	out->used_bytes = atomic_load(&tm->budget.used);
	shards_drop(inside);
	clients_drop(inside);
	known = out->stored_bytes + out->metadata_bytes;
	/* A trim may be halfway through freeing a table just counted. */
	if (out->used_bytes < known)
		out->used_bytes = known;
	out->slack_bytes = out->used_bytes - known;
}
