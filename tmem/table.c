/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Load is kept between 1/2 and 2 nodes per bucket. When no block for another
 * segment is to be had, the table just stays as it is and its chains grow
 * longer: memory for speed is never a reason to refuse a page.
 */
#include "tmem/table.h"

#include <string.h>

void table_init(struct table *table, struct arena *arena)
{
	memset(table, 0, sizeof(*table));
	table->arena = arena;
}

static uint32_t low_power(uint32_t buckets)
{
	return (uint32_t)1 << (31 - __builtin_clz(buckets));
}

uint32_t table_bucket_of(const struct table *table, uint32_t hash)
{
	uint32_t p = low_power(table->buckets);
	uint32_t b = hash & (2 * p - 1);

	return b < table->buckets ? b : hash & (p - 1);
}

static uint32_t *bucket_at(const struct table *table, uint32_t bucket)
{
	uint32_t block = table->segment[bucket / TABLE_SEGMENT_BUCKETS] - 1;
	uint32_t *segment = (void *)arena_block_at(table->arena, block);

	return &segment[bucket % TABLE_SEGMENT_BUCKETS];
}

static struct table_node *node_at(const struct table *table, uint32_t unit)
{
	return arena_unit_at(table->arena, unit);
}

uint32_t table_bucket_first(const struct table *table, uint32_t bucket)
{
	return *bucket_at(table, bucket);
}

uint32_t table_first(const struct table *table, uint32_t hash)
{
	if (!table->buckets)
		return 0;
	return *bucket_at(table, table_bucket_of(table, hash));
}

uint32_t table_segments(const struct table *table)
{
	return (table->buckets + TABLE_SEGMENT_BUCKETS - 1) /
	       TABLE_SEGMENT_BUCKETS;
}

static int segment_add(struct table *table)
{
	uint32_t n = table->buckets / TABLE_SEGMENT_BUCKETS;
	uint32_t block;
	int rc = arena_block_get(table->arena, &block);

	if (rc)
		return rc;
	memset(arena_block_at(table->arena, block), 0,
	       TABLE_SEGMENT_BUCKETS * sizeof(uint32_t));
	table->segment[n] = block + 1;
	return 0;
}

static void segment_drop(struct table *table)
{
	uint32_t *name =
		&table->segment[table->buckets / TABLE_SEGMENT_BUCKETS];

	arena_block_put(table->arena, *name - 1);
	*name = 0;
}

/* Moves the nodes of bucket `from` to where they belong now. */
static void bucket_spread(struct table *table, uint32_t from)
{
	uint32_t *head = bucket_at(table, from);
	uint32_t unit = *head;

	*head = 0;
	while (unit) {
		struct table_node *node = node_at(table, unit);
		uint32_t next = node->next;
		uint32_t *to =
			bucket_at(table, table_bucket_of(table, node->hash));

		node->next = *to;
		*to = unit;
		unit = next;
	}
}

static void table_grow(struct table *table)
{
	uint32_t n = table->buckets;

	if (n == TABLE_SEGMENTS * TABLE_SEGMENT_BUCKETS)
		return;
	if (n % TABLE_SEGMENT_BUCKETS == 0 && segment_add(table))
		return;
	table->buckets++;
	bucket_spread(table, n - low_power(n));
}

static void table_shrink(struct table *table)
{
	uint32_t last = --table->buckets;
	uint32_t *to = bucket_at(table, last - low_power(last));
	uint32_t unit = *bucket_at(table, last);

	while (unit) {
		struct table_node *node = node_at(table, unit);
		uint32_t next = node->next;

		node->next = *to;
		*to = unit;
		unit = next;
	}
	*bucket_at(table, last) = 0;
	if (last % TABLE_SEGMENT_BUCKETS == 0)
		segment_drop(table);
}

int table_insert(struct table *table, uint32_t unit, uint32_t hash)
{
	struct table_node *node = node_at(table, unit);
	uint32_t *head;
	int rc;

	if (!table->buckets) {
		rc = segment_add(table);
		if (rc)
			return rc;
		table->buckets = TABLE_SEGMENT_BUCKETS;
	}
	head = bucket_at(table, table_bucket_of(table, hash));
	node->hash = hash;
	node->next = *head;
	*head = unit;
	if (++table->nodes > 2 * (uint64_t)table->buckets)
		table_grow(table);
	return 0;
}

void table_remove(struct table *table, uint32_t unit)
{
	struct table_node *node = node_at(table, unit);
	uint32_t *at = bucket_at(table, table_bucket_of(table, node->hash));

	while (*at != unit)
		at = &node_at(table, *at)->next;
	*at = node->next;
	table->nodes--;
	if (!table->nodes) {
		while (table->buckets > TABLE_SEGMENT_BUCKETS)
			table_shrink(table);
		table->buckets = 0;
		segment_drop(table);
	} else if (table->buckets > TABLE_SEGMENT_BUCKETS &&
		   table->nodes < table->buckets / 2) {
		table_shrink(table);
	}
}
