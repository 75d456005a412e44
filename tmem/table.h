/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A hash table that grows one bucket at a time (Litwin's linear hashing), so
 * that no put ever waits for a rehash. Buckets are 32-bit names of nodes in an
 * arena; segments of 1024 buckets are arena blocks. A node begins with struct
 * table_node and keeps its hash there.
 *
 * With p the largest power of two <= buckets, a hash is in bucket
 *   b = hash mod 2p, or hash mod p if b >= buckets.
 *
 * No lock here: a table belongs to a shard.
 */
#ifndef TMEM_TABLE_H
#define TMEM_TABLE_H

#include "tmem/arena.h"

#define TABLE_SEGMENT_BUCKETS 1024u
#define TABLE_SEGMENTS	      256u

struct table_node {
	uint32_t next; /* unit of the next node of the bucket; 0: end */
	uint32_t hash;
};

struct table {
	struct arena *arena;
	uint32_t buckets;
	uint32_t nodes;
	uint32_t segment[TABLE_SEGMENTS]; /* block number + 1 */
};

void table_init(struct table *table, struct arena *arena);

/* -ENOSPC: over budget; -ENOMEM. Only the very first insert can fail. */
MUST_CHECK int table_insert(struct table *table, uint32_t unit, uint32_t hash);
void table_remove(struct table *table, uint32_t unit);

/* First node of the bucket of hash; 0: none. Others may be in it as well. */
uint32_t table_first(const struct table *table, uint32_t hash);

/* The same by number, to walk all. */
uint32_t table_bucket_first(const struct table *table, uint32_t bucket);
uint32_t table_bucket_of(const struct table *table, uint32_t hash);

uint32_t table_segments(const struct table *table);

#endif
