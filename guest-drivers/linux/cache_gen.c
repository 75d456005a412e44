// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Has this block been written since? Counters, hashed by block, so that memory
 * is bounded by RAM and not by the disks: blocks that meet in one counter make
 * each other look written, which loses a put and nothing else. There are as
 * many counters as pages of RAM, or more.
 *
 *   63          32 31 30          0
 *   | generation  |o| in flight   |
 *
 * A write adds one to the generation when it is submitted and when it ends, and
 * counts as in flight between. o: writes overlapped since the counter was last
 * quiet, so none of them can tell which data the disk has.
 *
 * Each disk has one counter more, for what concerns all of it (large discards,
 * suspend): a block's generation is the sum of both. Both only grow, so the sum
 * is the same only if nothing happened (or 2^32 things did). Disks' counters
 * stay when a disk goes, so that its slot's next owner starts from other
 * numbers than any entry learned before.
 *
 * All changes are single atomic operations that return the value, hence full
 * barriers: a writer that looks at something after tm_gen_write_begin and a
 * reader that stores it, with a full barrier, before tm_gen_now cannot both
 * miss each other.
 */
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/vmalloc.h>

#include "cache.h"

#define GEN_ONE	    (1ull << 32)
#define GEN_OVERLAP (1ull << 31)
#define GEN_FLIGHT  (GEN_OVERLAP - 1)

static atomic64_t *gen_table;
static u64 gen_mask;
static atomic64_t gen_disks[TM_CACHE_DISKS];

static atomic64_t *gen_of(unsigned int slot, u64 block)
{
	/* Neighbours stay neighbours; disks are far from each other. */
	u64 at = block + slot * 0x9e3779b97f4a7c15ull;

	return &gen_table[at & gen_mask];
}

static void gen_begin(atomic64_t *gen)
{
	s64 old = atomic64_read(gen), new;

	do {
		new = old + GEN_ONE + 1;
		if (old & GEN_FLIGHT)
			new |= GEN_OVERLAP;
	} while (!atomic64_try_cmpxchg(gen, &old, new));
}

/* quiet: it was alone from begin to end. */
static struct tm_gen_sample gen_end(atomic64_t *gen)
{
	s64 old = atomic64_read(gen), new;

	do {
		new = old + GEN_ONE - 1;
		if (!(new &GEN_FLIGHT))
			new &= ~GEN_OVERLAP;
	} while (!atomic64_try_cmpxchg(gen, &old, new));
	return (struct tm_gen_sample){
		.generation = (u64) new >> 32,
		.quiet = (old & (GEN_FLIGHT | GEN_OVERLAP)) == 1,
	};
}

/* Of the block's counter and the disk's, in this order. */
static struct tm_gen_sample gen_add(struct tm_gen_sample sample,
				    unsigned int slot)
{
	u64 disk = atomic64_read(&gen_disks[slot]);

	sample.generation += disk >> 32;
	sample.quiet = sample.quiet && !(disk & GEN_FLIGHT);
	return sample;
}

struct tm_gen_sample tm_gen_sample(unsigned int slot, u64 block)
{
	u64 now = atomic64_read(gen_of(slot, block));
	struct tm_gen_sample sample = {
		.generation = now >> 32,
		.quiet = !(now & GEN_FLIGHT),
	};

	/* The read is submitted, and the disk's counter read, after this. */
	smp_mb();
	return gen_add(sample, slot);
}

u32 tm_gen_now(unsigned int slot, u64 block)
{
	return tm_gen_sample(slot, block).generation;
}

void tm_gen_write_begin(unsigned int slot, u64 block)
{
	gen_begin(gen_of(slot, block));
}

struct tm_gen_sample tm_gen_write_end(unsigned int slot, u64 block)
{
	return gen_add(gen_end(gen_of(slot, block)), slot);
}

void tm_gen_disk_begin(unsigned int slot)
{
	gen_begin(&gen_disks[slot]);
}

void tm_gen_disk_end(unsigned int slot)
{
	gen_end(&gen_disks[slot]);
}

u32 tm_gen_disk(unsigned int slot)
{
	return (u64)atomic64_read(&gen_disks[slot]) >> 32;
}

int tm_gen_create(void)
{
	u64 n = roundup_pow_of_two(max(totalram_pages(), 65536ul));

	gen_table = vzalloc(n * sizeof(*gen_table));
	gen_mask = n - 1;
	return gen_table ? 0 : -ENOMEM;
}

void tm_gen_destroy(void)
{
	vfree(gen_table);
	gen_table = NULL;
}
