// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which cached page equals which block: (mapping, index) -> (disk, block,
 * generation). A hash table of fixed size, two entries for each page of RAM, in
 * buckets of two cache lines; a full bucket forgets one of its entries, which
 * loses a put later on and nothing else. With one entry a page that befell one
 * page in seven of a guest whose RAM is nearly all page cache.
 *
 *   | lock bit, next victim | 5 entries of 24 bytes |     128 bytes
 *
 * An entry is stored when I/O of the page ends, and taken when the page becomes
 * dirty or is removed. Each of these happens with interrupts off or in them, so
 * a bucket's lock is a bit, held for a few comparisons.
 *
 * mapping is only compared, never followed: an inode that is freed had its
 * pages removed before, and their entries with them.
 */
#include <linux/build_bug.h>
#include <linux/hash.h>
#include <linux/kernel.h>
#include <linux/processor.h> /* cpu_relax, which bit_spinlock.h forgets */
#include <linux/bit_spinlock.h>
#include <linux/vmalloc.h>

#include "cache.h"

#define LEARN_WAYS   5
#define LEARN_LOCKED 0	/* bit of word; the victim's number above */
#define LEARN_BLOCK  56 /* bits of a place that are the block */

struct learn_entry {
	struct address_space *mapping; /* NULL: free */
	u32 index;
	u32 generation;
	u64 place; /* slot << LEARN_BLOCK | block */
};

struct learn_bucket {
	unsigned long word;
	struct learn_entry entries[LEARN_WAYS];
};
static_assert(sizeof(struct learn_bucket) == 128);

static struct learn_bucket *learn_table;
static u32 learn_buckets;

static struct learn_bucket *learn_of(const struct address_space *mapping,
				     u32 index)
{
	u64 key = (unsigned long)mapping + index * 0x9e3779b97f4a7c15ull;

	return &learn_table[reciprocal_scale(hash_64(key, 32), learn_buckets)];
}

static unsigned long learn_lock(struct learn_bucket *bucket) __acquires(bitlock)
{
	unsigned long flags;

	local_irq_save(flags);
	bit_spin_lock(LEARN_LOCKED, &bucket->word);
	return flags;
}

static void learn_unlock(struct learn_bucket *bucket, unsigned long flags)
	__releases(bitlock)
{
	bit_spin_unlock(LEARN_LOCKED, &bucket->word);
	local_irq_restore(flags);
}

/* The bucket is locked, as below. */
static struct learn_entry *learn_find(struct learn_bucket *bucket,
				      const struct address_space *mapping,
				      u32 index)
{
	struct learn_entry *e = bucket->entries;

	for (; e < bucket->entries + LEARN_WAYS; e++)
		if (e->mapping == mapping && e->index == index)
			return e;
	return NULL;
}

static struct learn_entry *learn_free(struct learn_bucket *bucket)
{
	struct learn_entry *e = bucket->entries;
	unsigned int victim;

	for (; e < bucket->entries + LEARN_WAYS; e++)
		if (!e->mapping)
			return e;
	victim = (bucket->word >> 1) % LEARN_WAYS;
	/* Under the lock: the bit stays, and nobody else changes the rest. */
	WRITE_ONCE(bucket->word, (victim + 1) << 1 | 1);
	return &bucket->entries[victim];
}

void tm_learn_store(struct address_space *mapping, pgoff_t index,
		    const struct tm_cache_place *place)
{
	struct learn_bucket *bucket;
	struct learn_entry *e;
	unsigned long flags;

	if (index > U32_MAX) /* beyond 16 TiB in one file */
		return;
	bucket = learn_of(mapping, index);
	flags = learn_lock(bucket);
	e = learn_find(bucket, mapping, index);
	if (!e)
		e = learn_free(bucket);
	e->mapping = mapping;
	e->index = index;
	e->generation = place->generation;
	e->place = (u64)place->slot << LEARN_BLOCK | place->block;
	learn_unlock(bucket, flags);
}

bool tm_learn_take(struct address_space *mapping, pgoff_t index,
		   struct tm_cache_place *place_out)
{
	struct learn_bucket *bucket;
	struct learn_entry *e;
	unsigned long flags;

	if (index > U32_MAX)
		return false;
	bucket = learn_of(mapping, index);
	flags = learn_lock(bucket);
	e = learn_find(bucket, mapping, index);
	if (e) {
		e->mapping = NULL;
		place_out->slot = e->place >> LEARN_BLOCK;
		place_out->block = e->place & ((1ull << LEARN_BLOCK) - 1);
		place_out->generation = e->generation;
	}
	learn_unlock(bucket, flags);
	return e;
}

int tm_learn_create(void)
{
	u64 n = DIV_ROUND_UP(2 * (u64)totalram_pages(), LEARN_WAYS);

	learn_buckets = min_t(u64, n, U32_MAX);
	learn_table = vzalloc(array_size(learn_buckets, sizeof(*learn_table)));
	return learn_table ? 0 : -ENOMEM;
}

void tm_learn_destroy(void)
{
	vfree(learn_table);
	learn_table = NULL;
}
