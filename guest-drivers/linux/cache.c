// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The cache's disks, its ephemeral pool, and which blocks are in it. See
 * cache.h for the whole.
 *
 * A block's key: object {random number of the disk, 0, block / 2^32}, index
 * block % 2^32; in a shared pool, object {0, blocks of the disk, block / 2^32}.
 * Blocks of one group of 32 share a queue of the line, and what
 * happens to a group's present bits happens under that queue's lock:
 *
 *   put    set bit; barrier; generation still the same? post : clear bit
 *   write  generation + 1; barrier; bit set? lock, clear it, post a flush
 *   read   bit set? lock, clear it; then post the get
 *
 * Put and write look at each other's mark after setting their own, so one of
 * them gives way: a put of old data never stays behind a write. A bit that is
 * set in vain for a moment is seen under the lock by nobody.
 *
 * A pool is of one epoch of the line. Bits are cleared before the pool is told
 * of (its epoch), and bits are taken and set only while that is the line's
 * epoch, so no bit outlives its pool.
 *
 * A shared pool may be refused, or end without a word: the host's administrator
 * decides that. While reads miss, or find no pool, it is looked after every
 * LOOK_SECONDS; an idle disk costs nothing.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitops.h>
#include <linux/blkdev.h>
#include <linux/debugfs.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "cache.h"
#include "stats.h"

#define CACHE_GROUP  32ull /* as tm_line_queue_of has it */
#define LOOK_SECONDS 10

static DEFINE_MUTEX(cache_mutex); /* pools, and changes of disks */
static struct tm_cache_disk __rcu *cache_disks[TM_CACHE_DISKS];
static unsigned int cache_disk_count, cache_private_count;
static struct tm_cache_pool cache_private; /* of all disks not shared */

static void cache_look(struct work_struct *work);
static DECLARE_DELAYED_WORK(cache_look_work, cache_look);

static DEFINE_PER_CPU(u64[TM_CACHE_COUNTERS], cache_counters);

void tm_cache_count(enum tm_cache_counter which)
{
	this_cpu_inc(cache_counters[which]);
}

/* --- Keys and bits --- */

static bool cache_pool_up(const struct tm_cache_pool *pool)
{
	u32 epoch = smp_load_acquire(&pool->epoch);

	return epoch && epoch == tm_line_epoch();
}

bool tm_cache_up(const struct tm_cache_disk *cd)
{
	return cache_pool_up(cd->pool);
}

/* Of a shared disk: any context. */
static void cache_look_soon(void)
{
	schedule_delayed_work(&cache_look_work, LOOK_SECONDS * HZ);
}

/* The pool is not filled in: cache_pool_of. */
static struct line_entry cache_entry(const struct tm_cache_disk *cd,
				     enum line_op op, u64 block)
{
	return (struct line_entry){
		.op = op,
		.oid = {cd->oid[0], cd->oid[1], block >> 32},
		.index = (u32)block,
	};
}

/*
 * The pool's epoch and id, 0 if there is none. With interrupts off: until they
 * are on again, no other pool is told of.
 */
static u32 cache_pool_of(const struct tm_cache_disk *cd,
			 struct line_entry *entry)
{
	u32 epoch = smp_load_acquire(&cd->pool->epoch);

	entry->pool = READ_ONCE(cd->pool->id);
	return epoch == tm_line_epoch() ? epoch : 0;
}

/* The queue is locked. */
static void cache_put_locked(struct tm_cache_disk *cd, unsigned int queue,
			     struct line_entry *entry,
			     const struct tm_cache_place *place,
			     struct page *page)
{
	u32 epoch = cache_pool_of(cd, entry);

	if (!epoch) {
		tm_cache_count(TM_CACHE_DOWN);
		return;
	}
	set_bit(place->block, cd->present);
	/* Pairs with the barrier in tm_gen_write_begin. */
	smp_mb__after_atomic();
	if (tm_gen_now(place->slot, place->block) != place->generation) {
		clear_bit(place->block, cd->present);
		tm_cache_count(TM_CACHE_STALE);
	} else if (!tm_line_post_locked(queue, epoch, entry, page)) {
		clear_bit(place->block, cd->present);
		tm_count(TM_CACHE_DROPPED);
	} else {
		tm_count(TM_CACHE_PUTS);
	}
}

void tm_cache_put(const struct tm_cache_place *place, struct page *page)
{
	struct tm_cache_disk *cd;
	struct line_entry entry;
	unsigned long flags;
	unsigned int queue;

	rcu_read_lock();
	cd = rcu_dereference(cache_disks[place->slot]);
	/* The slot's earlier disk may have been larger. */
	if (cd && READ_ONCE(cd->live) && place->block < cd->blocks) {
		entry = cache_entry(cd, LINE_OP_PUT, place->block);
		queue = tm_line_queue_of(&entry);
		flags = tm_line_lock(queue);
		cache_put_locked(cd, queue, &entry, place, page);
		tm_line_unlock(queue, flags);
		tm_stats_wake();
	}
	rcu_read_unlock();
}

/* Clears what is set from *first to *last, narrows these to it; how many. */
static unsigned int cache_clear(struct tm_cache_disk *cd, u64 *first, u64 *last)
{
	u64 block, low = *last, high = *first;
	unsigned int n = 0;

	for (block = *first; block <= *last; block++) {
		if (!test_and_clear_bit(block, cd->present))
			continue;
		low = min(low, block);
		high = block;
		n++;
	}
	*first = low;
	*last = high;
	return n;
}

/* Flushing others, which are not in the pool, does no harm. */
static bool cache_post_flush(unsigned int queue, u32 epoch,
			     struct line_entry *entry, u64 first, u64 last)
{
	bool posted = true;

	entry->index = (u32)first;
	if (tm_line_features() & LINE_FEATURE_FLUSH_RANGE) {
		entry->op = LINE_OP_FLUSH_RANGE;
		entry->count = last - first + 1;
		return tm_line_post_locked(queue, epoch, entry, NULL);
	}
	for (; posted && first <= last; first++, entry->index++)
		posted = tm_line_post_locked(queue, epoch, entry, NULL);
	return posted;
}

/* From first to last, all of one group. */
static void cache_flush_group(struct tm_cache_disk *cd, u64 first, u64 last)
{
	struct line_entry entry = cache_entry(cd, LINE_OP_FLUSH_PAGE, first);
	unsigned int queue = tm_line_queue_of(&entry);
	unsigned long flags = tm_line_lock(queue);
	u32 epoch = cache_pool_of(cd, &entry);
	unsigned int n = cache_clear(cd, &first, &last);

	if (n && epoch) {
		if (cache_post_flush(queue, epoch, &entry, first, last))
			tm_count_many(TM_CACHE_FLUSHES, n);
		else
			tm_cache_count(TM_CACHE_FLUSH_DROPPED);
	}
	tm_line_unlock(queue, flags);
}

void tm_cache_flush(struct tm_cache_disk *cd, u64 first, u64 last)
{
	u64 block = first, end;

	/* find_next_bit reads after the generation moved: cache_put_locked. */
	for (;;) {
		block = find_next_bit(cd->present, last + 1, block);
		if (block > last)
			break;
		end = block | (CACHE_GROUP - 1);
		cache_flush_group(cd, block, min(end, last));
		block = end + 1;
	}
}

bool tm_cache_peek(struct tm_cache_disk *cd, u64 block, unsigned int max,
		   unsigned int *run_out)
{
	u64 end = min(block + max, cd->blocks);
	bool up = tm_cache_up(cd);
	bool present =
		up && READ_ONCE(cd->live) && test_bit(block, cd->present);

	if (!up && cd->shared)
		cache_look_soon();
	if (present) {
		end = min(end, (block | (CACHE_GROUP - 1)) + 1);
		end = find_next_zero_bit(cd->present, end, block + 1);
	} else if (up) {
		end = find_next_bit(cd->present, end, block + 1);
	}
	*run_out = end - block;
	return present;
}

/* A page got from a shared pool is still there. */
static bool cache_bit_take(struct tm_cache_disk *cd, u64 block)
{
	return cd->shared ? test_bit(block, cd->present)
			  : test_and_clear_bit(block, cd->present);
}

u32 tm_cache_take(struct tm_cache_disk *cd, u64 block, unsigned int *count,
		  struct line_entry *entry_out)
{
	unsigned int queue, n = 0;
	unsigned long flags;
	u32 epoch;

	*entry_out = cache_entry(cd, LINE_OP_GET, block);
	queue = tm_line_queue_of(entry_out);
	flags = tm_line_lock(queue);
	epoch = cache_pool_of(cd, entry_out);
	if (epoch)
		while (n < *count && cache_bit_take(cd, block + n))
			n++;
	tm_line_unlock(queue, flags);
	*count = n;
	return n ? epoch : 0;
}

void tm_cache_missed(struct tm_cache_disk *cd, u64 block)
{
	tm_cache_count(TM_CACHE_GONE);
	if (!cd->shared)
		return;
	clear_bit(block, cd->present);
	cache_look_soon();
}

/* --- Pools [cache_mutex] --- */

static size_t cache_present_bytes(u64 blocks)
{
	return BITS_TO_LONGS(blocks) * sizeof(long);
}

/* Nobody sets any. */
static void cache_disk_clear(struct tm_cache_disk *cd)
{
	memset(cd->present, 0, cache_present_bytes(cd->blocks));
}

static struct tm_cache_disk *cache_disk_at(unsigned int slot)
{
	return rcu_dereference_protected(cache_disks[slot],
					 lockdep_is_held(&cache_mutex));
}

/* What a new pool has of a disk: nothing, or whatever others put. */
static void cache_pool_bits(const struct tm_cache_pool *pool)
{
	struct tm_cache_disk *cd;
	unsigned int i;

	for (i = 0; i < TM_CACHE_DISKS; i++) {
		cd = cache_disk_at(i);
		if (cd && cd->pool == pool)
			memset(cd->present, cd->shared ? 0xff : 0,
			       cache_present_bytes(cd->blocks));
	}
}

/* No bit is set or taken from now on. */
static void cache_pool_hide(struct tm_cache_pool *pool)
{
	WRITE_ONCE(pool->epoch, 0);
	/* Who still saw the epoch did so with interrupts off. */
	synchronize_rcu();
}

/* shared: what it is known by, or NULL. */
static int cache_pool_open(struct tm_cache_pool *pool, u32 epoch,
			   const uuid_t *shared)
{
	struct tm_request rq = {
		.entry = {.op = LINE_OP_POOL_CREATE,
			  .pool = shared ? LINE_POOL_SHARED
					 : LINE_POOL_EPHEMERAL},
		.epoch = epoch,
	};
	int rc;

	if (shared)
		memcpy(rq.entry.oid, shared, sizeof(*shared));
	rc = tm_line_call(&rq);
	if (rc < 0)
		return rc;
	cache_pool_bits(pool);
	WRITE_ONCE(pool->id, rc);
	/* Pairs with cache_pool_up. */
	smp_store_release(&pool->epoch, epoch);
	return 0;
}

static void cache_pool_close(struct tm_cache_pool *pool)
{
	struct tm_request rq = {
		.entry = {.op = LINE_OP_POOL_DESTROY, .pool = pool->id},
		.epoch = pool->epoch,
	};
	bool up = cache_pool_up(pool);

	cache_pool_hide(pool);
	if (up && tm_line_call(&rq) < 0)
		pr_info("a pool of the cache is gone already\n");
}

/* Makes pool or no pool come true. */
static int cache_pool_settle(struct tm_cache_pool *pool, bool want,
			     const uuid_t *shared)
{
	u32 epoch = tm_line_epoch();

	want = want && epoch;
	if (pool->epoch && (!want || pool->epoch != epoch))
		cache_pool_close(pool);
	if (want && !pool->epoch)
		return cache_pool_open(pool, epoch, shared);
	return 0;
}

static void cache_shared_settle(struct tm_cache_disk *cd, bool want)
{
	int rc = cache_pool_settle(&cd->own, want, &cd->uuid);

	if (rc && rc != cd->refused)
		pr_warn("%s: no shared pool %pUb: %d%s\n", cd->disk->disk_name,
			&cd->uuid, rc,
			rc == LINE_EACCES ? " (not authorised)" : "");
	cd->refused = rc;
}

/* What the host wishes now, the line allows, and there are disks for. */
static int cache_settle(void)
{
	struct tm_settings settings;
	struct tm_cache_disk *cd;
	unsigned int i;

	lockdep_assert_held(&cache_mutex);
	tm_line_settings(&settings);
	for (i = 0; i < TM_CACHE_DISKS; i++) {
		cd = cache_disk_at(i);
		if (cd && cd->shared)
			cache_shared_settle(cd, settings.ephemeral);
	}
	return cache_pool_settle(&cache_private,
				 settings.ephemeral && cache_private_count,
				 NULL);
}

/* Is a shared pool still there? Flushing what nobody puts tells. */
static void cache_shared_look(struct tm_cache_disk *cd)
{
	struct tm_request rq = {
		.entry = {.op = LINE_OP_FLUSH_PAGE,
			  .pool = cd->own.id,
			  .oid = {U64_MAX}},
		.epoch = cd->own.epoch,
	};

	if (cache_pool_up(&cd->own) && tm_line_call(&rq) == LINE_ENOENT)
		cache_pool_close(&cd->own);
}

static void cache_look(struct work_struct *work)
{
	struct tm_cache_disk *cd;
	unsigned int i;

	mutex_lock(&cache_mutex);
	for (i = 0; i < TM_CACHE_DISKS; i++) {
		cd = cache_disk_at(i);
		if (cd && cd->shared)
			cache_shared_look(cd);
	}
	if (cache_settle())
		pr_warn("no pool for the cache\n");
	mutex_unlock(&cache_mutex);
}

static int cache_begin(u32 epoch)
{
	int rc;

	mutex_lock(&cache_mutex);
	rc = cache_settle();
	mutex_unlock(&cache_mutex);
	return rc;
}

static void cache_broken(void)
{
	struct tm_cache_disk *cd;
	unsigned int i;

	mutex_lock(&cache_mutex);
	cache_pool_hide(&cache_private);
	for (i = 0; i < TM_CACHE_DISKS; i++) {
		cd = cache_disk_at(i);
		if (cd && cd->shared)
			cache_pool_hide(&cd->own);
	}
	mutex_unlock(&cache_mutex);
}

static void cache_settings(void)
{
	int rc = cache_begin(0);

	if (rc)
		pr_warn("no pool for the cache: %d\n", rc);
}

static struct tm_user cache_user = {
	.name = "cache",
	.begin = cache_begin,
	.broken = cache_broken,
	.settings = cache_settings,
};

/* --- Disks --- */

static int cache_start(void)
{
	int rc = tm_gen_create();

	if (rc)
		return rc;
	rc = tm_learn_create();
	if (rc)
		goto destroy_gen;
	rc = tm_probe_start();
	if (rc)
		goto destroy_learn;
	return 0;

destroy_learn:
	tm_learn_destroy();
destroy_gen:
	tm_gen_destroy();
	return rc;
}

static void cache_stop(void)
{
	tm_probe_stop();
	tm_learn_destroy();
	tm_gen_destroy();
}

/* Puts the disk into a slot; the first one starts everything. */
static int cache_disk_add(struct tm_cache_disk *cd)
{
	unsigned int slot = 0;
	int rc = 0;

	while (slot < TM_CACHE_DISKS && rcu_access_pointer(cache_disks[slot]))
		slot++;
	if (slot == TM_CACHE_DISKS)
		return -ENOSPC;
	if (!cache_disk_count)
		rc = cache_start();
	if (rc)
		return rc;
	cd->slot = slot;
	rcu_assign_pointer(cache_disks[slot], cd);
	cache_disk_count++;
	cache_private_count += !cd->shared;
	/* Without a pool reads go to the disk: no reason to fail. */
	rc = cache_settle();
	if (rc)
		pr_warn("no pool for the cache: %d\n", rc);
	return 0;
}

int tm_cache_disk_create(struct gendisk *disk, u64 blocks, const uuid_t *shared,
			 struct tm_cache_disk **cd_out)
{
	struct tm_cache_disk *cd = kzalloc(sizeof(*cd), GFP_KERNEL);
	int rc = -ENOMEM;

	if (!cd)
		return -ENOMEM;
	cd->shared = shared;
	cd->pool = shared ? &cd->own : &cache_private;
	if (shared) {
		uuid_copy(&cd->uuid, shared);
		cd->oid[1] = blocks;
	} else {
		cd->oid[0] = get_random_u64();
	}
	cd->blocks = blocks;
	cd->disk = disk;
	cd->present = vzalloc(cache_present_bytes(blocks));
	if (!cd->present)
		goto free_disk;
	mutex_lock(&cache_mutex);
	rc = cache_disk_add(cd);
	mutex_unlock(&cache_mutex);
	if (rc)
		goto free_present;
	*cd_out = cd;
	return 0;

free_present:
	vfree(cd->present);
free_disk:
	kfree(cd);
	return rc;
}

/* Frees the host's memory; what puts under way add later, it drops by age. */
static void cache_disk_flush(struct tm_cache_disk *cd)
{
	u64 object;

	for (object = 0; object <= (cd->blocks - 1) >> 32; object++) {
		struct tm_request rq = {
			.entry = cache_entry(cd, LINE_OP_FLUSH_OBJECT,
					     object << 32),
		};

		rq.epoch = cache_pool_of(cd, &rq.entry);
		if (!rq.epoch || tm_line_call(&rq) < 0)
			break;
	}
}

void tm_cache_disk_destroy(struct tm_cache_disk *cd)
{
	mutex_lock(&cache_mutex);
	tm_cache_disk_live(cd, false);
	RCU_INIT_POINTER(cache_disks[cd->slot], NULL);
	synchronize_rcu();
	/* Of a shared pool, others' pages are not ours to flush. */
	if (cd->shared)
		cache_pool_close(&cd->own);
	else
		cache_disk_flush(cd);
	cache_private_count -= !cd->shared;
	cache_settle();
	if (!--cache_disk_count)
		cache_stop();
	mutex_unlock(&cache_mutex);
	vfree(cd->present);
	kfree(cd);
}

void tm_cache_disk_forget(struct tm_cache_disk *cd)
{
	bool live = cd->live;

	tm_cache_disk_live(cd, false);
	tm_cache_disk_live(cd, live);
}

void tm_cache_disk_live(struct tm_cache_disk *cd, bool live)
{
	WRITE_ONCE(cd->live, live);
	if (live)
		return;
	/* Entries learned so far are stale, and nobody sets a bit any more. */
	tm_gen_disk_begin(cd->slot);
	tm_gen_disk_end(cd->slot);
	synchronize_rcu();
	cache_disk_clear(cd);
}

/* --- Counters --- */

static const char *const cache_names[TM_CACHE_COUNTERS] = {
	[TM_CACHE_LEARNED_READ] = "learned_read",
	[TM_CACHE_LEARNED_WRITE] = "learned_write",
	[TM_CACHE_LEARN_BUSY] = "learn_busy",
	[TM_CACHE_FORGOTTEN] = "forgotten",
	[TM_CACHE_REMOVED] = "removed",
	[TM_CACHE_STALE] = "stale",
	[TM_CACHE_DOWN] = "down",
	[TM_CACHE_GONE] = "gone",
	[TM_CACHE_NO_MEMORY] = "no_memory",
	[TM_CACHE_FLUSH_DROPPED] = "flush_dropped",
};

/* Disks whose shared pool is there. */
static unsigned int cache_shared_up(void)
{
	struct tm_cache_disk *cd;
	unsigned int i, n = 0;

	rcu_read_lock();
	for (i = 0; i < TM_CACHE_DISKS; i++) {
		cd = rcu_dereference(cache_disks[i]);
		n += cd && cd->shared && tm_cache_up(cd);
	}
	rcu_read_unlock();
	return n;
}

static int cache_show(struct seq_file *file, void *unused)
{
	unsigned int i, cpu;
	u64 sum;

	seq_printf(file, "up %u\nshared %u\ndisks %u\n",
		   cache_pool_up(&cache_private), cache_shared_up(),
		   READ_ONCE(cache_disk_count));
	for (i = 0; i < TM_CACHE_COUNTERS; i++) {
		sum = 0;
		for_each_possible_cpu(cpu) sum +=
			READ_ONCE(per_cpu(cache_counters, cpu)[i]);
		seq_printf(file, "%s %llu\n", cache_names[i], sum);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(cache);

int tm_cache_init(void)
{
	int rc = tm_target_init();

	if (rc)
		return rc;
	debugfs_create_file("cache", 0400, tm_debugfs, NULL, &cache_fops);
	tm_line_user_add(&cache_user);
	return 0;
}

/* No target exists any more: each holds the module. */
void tm_cache_exit(void)
{
	tm_target_exit();
	tm_line_user_remove(&cache_user);
	cancel_delayed_work_sync(&cache_look_work);
	mutex_lock(&cache_mutex);
	cache_pool_close(&cache_private);
	mutex_unlock(&cache_mutex);
}
