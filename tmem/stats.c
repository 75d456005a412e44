/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sums over the shards. All shards are held, so that the ballast law holds
 * exactly:
 *
 *   used = stored + metadata + slack
 *
 * used is what was charged; stored and metadata are counted where they are
 * made; slack is the rest: free cells, the rounding to size classes, the ends
 * of pages. tmem_check() counts slack in its own way and compares.
 */
#include "tmem/store.h"

#include <string.h>

static void stats_add(struct tmem_stats *sum, const struct tmem_stats *st)
{
#define ADD(name, unit, help) sum->name += st->name;
	TMEM_STATS(ADD, ADD)
#undef ADD
}

static uint64_t shard_metadata(const struct shard *s)
{
	uint64_t bytes = table_segments(&s->table) * (uint64_t)SLAB_BLOCK_BYTES;

	for (unsigned k = 0; k < CELL_KINDS; k++)
		bytes += slab_live_bytes(&s->slab[k]);
	return bytes + s->objects * sizeof(struct pack_head);
}

void tmem_stats(const struct tmem *tm, struct tmem_stats *out)
{
	struct tmem *inside = tmem_inside(tm);
	uint64_t known;

	memset(out, 0, sizeof(*out));
	/* The block of scratch words. */
	out->metadata_bytes = SLAB_BLOCK_BYTES;
	clients_take(inside, CLIENTS_READ);
	shards_take(inside);
	for (unsigned n = 0; n < tm->shards; n++) {
		stats_add(out, &tm->shard[n].stats);
		out->metadata_bytes += shard_metadata(&tm->shard[n]);
		out->metadata_bytes += stripe_live_bytes(&tm->stripe[n]);
		out->pages_shared += tm->stripe[n].shared;
	}
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
