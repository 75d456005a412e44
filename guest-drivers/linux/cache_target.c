// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The device-mapper target "tmem-cache", for under a file system:
 *
 *   0 SECTORS tmem-cache DEVICE [shared UUID]
 *
 * shared: in a pool that guests of the same UUID share; of a table that is
 * loaded read-only, and no other.
 *
 * Everything goes to DEVICE, and writes do so at once. A read is cut where
 * blocks change between being in the pool and not. What is not goes to DEVICE.
 * For what is, gets are posted, whose pages the line copies into the bio; if
 * one fails for any reason, all of that bio goes to DEVICE after all.
 *
 * When I/O ends, it is known that a cached page equals a block. Which pages
 * that may be said of:
 *
 *   read   the page is locked and not up to date: the page cache reads it now.
 *          O_DIRECT never reads into such a page.
 *   write  the page is under writeback, clean again, and the bio is none of
 *          those that write pages from elsewhere: O_DIRECT and the journal
 *          (REQ_IDLE, REQ_META, REQ_PRIO). Writeback of the page cannot start
 *          anew before this one ends, so clean means unchanged since, or
 *          changed by somebody who has yet to make it dirty: cache_probe.
 *
 * and, for both, the file's file system lies on this very device: of pages that
 * come through dm-crypt, say, the block holds something else than the page.
 *
 * Storing an entry and finding the page dirty are done in this order, and the
 * dirtier sets the flag before the entry is forgotten, with full barriers: one
 * of both removes it.
 *
 * Generations are sampled when a read is submitted and kept in the bio, so
 * reads that are learned from are at most TARGET_BLOCKS long: read-ahead's
 * default.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "cache.h"
#include "compat.h"
#include "stats.h"

#define TARGET_BLOCKS 32u
/*
 * From 64 MiB on a write (it is a discard) counts for the whole disk: counting
 * each block would take too long where interrupts are off.
 */
#define TARGET_LARGE 16384u

struct target {
	struct dm_dev *dev;
	struct tm_cache_disk *cd;
};

enum target_io {
	TARGET_PASS, /* nothing to do when it ends */
	TARGET_READ,
	TARGET_WRITE,
	TARGET_LARGE_WRITE,
};

/* Of each bio. */
struct target_bio {
	struct target *target;
	struct bvec_iter iter; /* as submitted */
	enum target_io io;
	bool learn;
	u32 disk_generation;
	u64 first; /* blocks, both touched */
	u64 last;
	u32 generations[TARGET_BLOCKS];
	u32 quiet; /* bit a block: generation may be learned */
	struct work_struct work;
};

struct target_get {
	struct tm_request rq;
	struct target_gets *all;
};

/* The gets of one bio. */
struct target_gets {
	struct bio *bio;
	u64 since; /* when they were posted */
	atomic_t left;
	bool failed;
	struct target_get gets[];
};

static struct workqueue_struct *target_workqueue;

static struct target_bio *target_of(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct target_bio));
}

/* --- Learning --- */

/*
 * Of a page in a bio: the mapping, if entries may be made of it. Only of one
 * that is read or written back now, which keeps the mapping where it is: any
 * other may be truncated, and its inode freed, while we look.
 */
static struct address_space *target_mapping(const struct target *t,
					    struct folio *folio)
{
	struct address_space *mapping = READ_ONCE(folio->mapping);
	const struct block_device *bdev;

	if (!mapping || ((unsigned long)mapping & PAGE_MAPPING_FLAGS) ||
	    folio_test_slab(folio) || folio_test_swapcache(folio))
		return NULL;
	if (!tm_cache_mapping_fits(mapping))
		return NULL;
	bdev = mapping->host->i_sb->s_bdev;
	return bdev && bdev->bd_disk == t->cd->disk ? mapping : NULL;
}

static bool target_page_is_read(struct folio *folio)
{
	return folio_test_locked(folio) && !folio_test_uptodate(folio);
}

/* What to do with an entry for this page, now that its I/O ended. */
static void target_learn(const struct target *t, struct page *page, u64 block,
			 const struct tm_gen_sample *sample, bool write)
{
	struct tm_cache_place place = {
		.slot = t->cd->slot,
		.block = block,
		.generation = sample->generation,
	};
	struct folio *folio = page_folio(page);
	struct address_space *mapping;
	pgoff_t index;

	if (write ? !folio_test_writeback(folio) : !target_page_is_read(folio))
		return;
	mapping = target_mapping(t, folio);
	if (!mapping)
		return;
	index = folio->index + folio_page_idx(folio, page);
	if (!sample->quiet) {
		tm_cache_count(TM_CACHE_LEARN_BUSY);
		tm_learn_take(mapping, index, &place);
		return;
	}
	tm_learn_store(mapping, index, &place);
	/* Pairs with setting the flag before tracepoint and probe_dirty. */
	smp_mb();
	if (folio_test_dirty(folio))
		tm_learn_take(mapping, index, &place);
	else
		tm_cache_count(write ? TM_CACHE_LEARNED_WRITE
				     : TM_CACHE_LEARNED_READ);
}

static bool target_segment_fits(const struct bio_vec *bv)
{
	return bv->bv_len == PAGE_SIZE && !bv->bv_offset;
}

static void target_read_end(struct target_bio *tb, struct bio *bio)
{
	struct bvec_iter iter;
	struct bio_vec bv;
	unsigned int i = 0;

	__bio_for_each_segment(bv, bio, iter, tb->iter)
	{
		struct tm_gen_sample sample = {
			.generation = tb->generations[i],
			.quiet = tb->quiet & (1u << i),
		};

		target_learn(tb->target, bv.bv_page, tb->first + i, &sample,
			     false);
		i++;
	}
}

/* Writes of pages that are whole and aligned; others only count. */
static void target_write_end_learn(struct target_bio *tb, struct bio *bio)
{
	const struct target *t = tb->target;
	struct tm_gen_sample sample;
	struct bvec_iter iter;
	struct bio_vec bv;
	u64 block = tb->first;

	__bio_for_each_segment(bv, bio, iter, tb->iter)
	{
		sample = tm_gen_write_end(t->cd->slot, block);
		sample.quiet = sample.quiet && target_segment_fits(&bv) &&
			       tm_gen_disk(t->cd->slot) == tb->disk_generation;
		target_learn(t, bv.bv_page, block++, &sample, true);
	}
}

static void target_write_end(struct target_bio *tb)
{
	u64 block;

	for (block = tb->first; block <= tb->last; block++)
		tm_gen_write_end(tb->target->cd->slot, block);
}

static int target_end_io(struct dm_target *ti, struct bio *bio,
			 blk_status_t *error)
{
	struct target_bio *tb = target_of(bio);

	switch (tb->io) {
	case TARGET_PASS:
		break;
	case TARGET_READ:
		if (!*error)
			target_read_end(tb, bio);
		break;
	case TARGET_WRITE:
		if (tb->learn && !*error)
			target_write_end_learn(tb, bio);
		else
			target_write_end(tb);
		break;
	case TARGET_LARGE_WRITE:
		tm_gen_disk_end(tb->target->cd->slot);
		break;
	}
	return DM_ENDIO_DONE;
}

/* --- Gets --- */

static void target_to_disk(struct work_struct *work)
{
	struct target_bio *tb = container_of(work, struct target_bio, work);

	submit_bio_noacct(dm_bio_from_per_bio_data(tb, sizeof(*tb)));
}

static void target_gets_put(struct target_gets *gets)
{
	struct bio *bio = gets->bio;
	struct target_bio *tb = target_of(bio);
	bool failed;

	if (!atomic_dec_and_test(&gets->left))
		return;
	failed = gets->failed;
	tm_count_wait(gets->since);
	kfree(gets);
	tm_count_many(failed ? TM_CACHE_MISSES : TM_CACHE_HITS,
		      tb->last - tb->first + 1);
	tm_stats_wake();
	if (failed)
		queue_work(target_workqueue, &tb->work);
	else
		bio_endio(bio);
}

static void target_missed(struct target_get *get)
{
	const struct target_bio *tb = target_of(get->all->bio);

	tm_cache_missed(tb->target->cd, tb->first + (get - get->all->gets));
}

static void target_got(struct tm_request *rq, int result)
{
	struct target_get *get = container_of(rq, struct target_get, rq);

	if (result) {
		WRITE_ONCE(get->all->failed, true);
		target_missed(get);
	}
	target_gets_put(get->all);
}

/* n present blocks: the bio has no others. */
static void target_submit_gets(struct target_gets *gets,
			       const struct line_entry *first, u32 epoch,
			       unsigned int n)
{
	struct target_bio *tb = target_of(gets->bio);
	unsigned int queue = tm_line_queue_of(first);
	struct bvec_iter iter;
	struct bio_vec bv;
	unsigned int i = 0;

	gets->since = ktime_get_ns();
	atomic_set(&gets->left, n + 1);
	__bio_for_each_segment(bv, gets->bio, iter, tb->iter)
	{
		struct target_get *get = &gets->gets[i];

		get->all = gets;
		get->rq.entry = *first;
		get->rq.entry.index += i++;
		get->rq.page = bv.bv_page;
		get->rq.epoch = epoch;
		get->rq.done = target_got;
		if (tm_line_submit(&get->rq)) {
			WRITE_ONCE(gets->failed, true);
			atomic_dec(&gets->left); /* ours is still there */
		}
	}
	tm_line_poll(queue);
	target_gets_put(gets);
}

/* --- Mapping --- */

static void target_cut(struct bio *bio, u64 blocks)
{
	if (blocks * TM_BLOCK_SECTORS < bio_sectors(bio))
		dm_accept_partial_bio(bio, blocks * TM_BLOCK_SECTORS);
	target_of(bio)->iter = bio->bi_iter;
	target_of(bio)->last = target_of(bio)->first + blocks - 1;
}

/* How many whole pages the bio begins with, at most max. */
static unsigned int target_pages(struct bio *bio, unsigned int max)
{
	struct bvec_iter iter;
	struct bio_vec bv;
	unsigned int n = 0;

	bio_for_each_segment(bv, bio, iter)
	{
		if (n == max || !target_segment_fits(&bv))
			break;
		n++;
	}
	return n;
}

/* False: nothing was taken; the bio is as it was. */
static bool target_serve(struct target_bio *tb, struct bio *bio, unsigned int n)
{
	struct target_gets *gets;
	struct line_entry entry;
	u32 epoch;

	gets = kzalloc(struct_size(gets, gets, n),
		       GFP_NOWAIT | __GFP_NOWARN | __GFP_NOMEMALLOC);
	if (!gets) {
		tm_cache_count(TM_CACHE_NO_MEMORY);
		return false;
	}
	epoch = tm_cache_take(tb->target->cd, tb->first, &n, &entry);
	if (!epoch) {
		kfree(gets);
		return false;
	}
	target_cut(bio, n);
	gets->bio = bio;
	INIT_WORK(&tb->work, target_to_disk);
	target_submit_gets(gets, &entry, epoch, n);
	return true;
}

static void target_sample(struct target_bio *tb, unsigned int n)
{
	struct tm_gen_sample sample;
	unsigned int i;

	tb->quiet = 0;
	for (i = 0; i < n; i++) {
		sample = tm_gen_sample(tb->target->cd->slot, tb->first + i);
		tb->generations[i] = sample.generation;
		tb->quiet |= (u32)sample.quiet << i;
	}
}

static bool target_may_learn_read(const struct target *t, struct bio *bio)
{
	struct folio *folio = page_folio(bio_page(bio));

	return target_page_is_read(folio) && target_mapping(t, folio);
}

static int target_map_read(struct target_bio *tb, struct bio *bio)
{
	bool learn = target_may_learn_read(tb->target, bio), present;
	unsigned int n = target_pages(bio, learn ? TARGET_BLOCKS : UINT_MAX);
	unsigned int run;

	if (!n)
		return DM_MAPIO_REMAPPED;
	if (learn) {
		tb->io = TARGET_READ;
		target_sample(tb, n);
	}
	present = tm_cache_peek(tb->target->cd, tb->first, n, &run);
	if (present && target_serve(tb, bio, run))
		return DM_MAPIO_SUBMITTED;
	/* Up to the next that is present, unless that was a wrong guess. */
	target_cut(bio, present ? n : run);
	if (learn)
		tm_count_many(TM_CACHE_MISSES, tb->last - tb->first + 1);
	return DM_MAPIO_REMAPPED;
}

static bool target_may_learn_write(struct bio *bio)
{
	return bio_op(bio) == REQ_OP_WRITE &&
	       !(bio->bi_opf & (REQ_IDLE | REQ_META | REQ_PRIO));
}

static void target_map_write(struct target_bio *tb, struct bio *bio,
			     bool aligned)
{
	struct tm_cache_disk *cd = tb->target->cd;
	u64 block;

	tb->iter = bio->bi_iter;
	tb->disk_generation = tm_gen_disk(cd->slot);
	if (tb->last - tb->first < TARGET_LARGE) {
		u64 n = tb->last - tb->first + 1;

		tb->io = TARGET_WRITE;
		tb->learn = aligned && target_may_learn_write(bio) &&
			    target_pages(bio, n) == n;
		for (block = tb->first; block <= tb->last; block++)
			tm_gen_write_begin(cd->slot, block);
	} else {
		tb->io = TARGET_LARGE_WRITE;
		tm_gen_disk_begin(cd->slot);
	}
	tm_cache_flush(cd, tb->first, tb->last);
}

static int target_map(struct dm_target *ti, struct bio *bio)
{
	struct target_bio *tb = target_of(bio);
	struct target *t = ti->private;
	sector_t sector = dm_target_offset(ti, bio->bi_iter.bi_sector);
	unsigned int sectors = bio_sectors(bio);
	bool aligned = !(sector % TM_BLOCK_SECTORS);

	bio_set_dev(bio, t->dev->bdev);
	bio->bi_iter.bi_sector = sector;
	tb->target = t;
	tb->io = TARGET_PASS;
	if (!sectors) /* a flush */
		return DM_MAPIO_REMAPPED;
	tb->first = sector / TM_BLOCK_SECTORS;
	tb->last = (sector + sectors - 1) / TM_BLOCK_SECTORS;
	if (op_is_write(bio_op(bio)) && t->cd->shared)
		return DM_MAPIO_KILL;
	if (op_is_write(bio_op(bio))) {
		target_map_write(tb, bio, aligned);
		return DM_MAPIO_REMAPPED;
	}
	if (bio_op(bio) != REQ_OP_READ || !aligned ||
	    (bio->bi_opf & (REQ_INTEGRITY | REQ_POLLED)))
		return DM_MAPIO_REMAPPED;
	return target_map_read(tb, bio);
}

/* --- Life --- */

/* What follows the device. */
static int target_shared(struct dm_target *ti, unsigned int argc, char **argv,
			 uuid_t *uuid_out)
{
	if (argc != 2 || strcmp(argv[0], "shared") ||
	    strlen(argv[1]) != UUID_STRING_LEN ||
	    uuid_parse(argv[1], uuid_out)) {
		ti->error = "expected: DEVICE [shared UUID]";
		return -EINVAL;
	}
	if (dm_table_get_mode(ti->table) & COMPAT_MODE_WRITE) {
		ti->error = "shared: of a read-only table only (--readonly)";
		return -EROFS;
	}
	return 0;
}

static int target_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct target *t;
	uuid_t uuid;
	int rc;

	if (argc < 1) {
		ti->error = "expected: DEVICE [shared UUID]";
		return -EINVAL;
	}
	rc = argc > 1 ? target_shared(ti, argc - 1, argv + 1, &uuid) : 0;
	if (rc)
		return rc;
	t = kzalloc(sizeof(*t), GFP_KERNEL);
	if (!t) {
		ti->error = "out of memory";
		return -ENOMEM;
	}
	rc = dm_get_device(ti, argv[0], dm_table_get_mode(ti->table), &t->dev);
	if (rc) {
		ti->error = "cannot open the device";
		goto free_target;
	}
	rc = tm_cache_disk_create(dm_disk(dm_table_get_md(ti->table)),
				  DIV_ROUND_UP_ULL(ti->len, TM_BLOCK_SECTORS),
				  argc > 1 ? &uuid : NULL, &t->cd);
	if (rc) {
		ti->error = "cannot start the cache (see the kernel's log)";
		goto put_device;
	}
	ti->private = t;
	ti->per_io_data_size = sizeof(struct target_bio);
	ti->num_flush_bios = 1;
	ti->num_discard_bios = 1;
	ti->num_secure_erase_bios = 1;
	ti->num_write_zeroes_bios = 1;
	return 0;

put_device:
	dm_put_device(ti, t->dev);
free_target:
	kfree(t);
	return rc;
}

static void target_dtr(struct dm_target *ti)
{
	struct target *t = ti->private;

	tm_cache_disk_destroy(t->cd);
	dm_put_device(ti, t->dev);
	kfree(t);
}

static void target_postsuspend(struct dm_target *ti)
{
	struct target *t = ti->private;

	tm_cache_disk_live(t->cd, false);
}

static void target_resume(struct dm_target *ti)
{
	struct target *t = ti->private;

	tm_cache_disk_live(t->cd, true);
}

static int target_message(struct dm_target *ti, unsigned int argc, char **argv,
			  char *result, unsigned int maxlen)
{
	struct target *t = ti->private;

	if (argc != 1 || strcasecmp(argv[0], "forget"))
		return -EINVAL;
	tm_cache_disk_forget(t->cd);
	return 0;
}

static void target_status(struct dm_target *ti, status_type_t type,
			  unsigned int flags, char *result, unsigned int maxlen)
{
	struct target *t = ti->private;
	unsigned int sz = 0; /* DMEMIT counts in it */

	switch (type) {
	case STATUSTYPE_INFO:
		DMEMIT("%s", tm_cache_up(t->cd) ? "up" : "down");
		break;
	case STATUSTYPE_TABLE:
		DMEMIT("%s", t->dev->name);
		if (t->cd->shared)
			DMEMIT(" shared %pUb", &t->cd->uuid);
		break;
	case STATUSTYPE_IMA:
		DMEMIT_TARGET_NAME_VERSION(ti->type);
		DMEMIT(",device=%s;", t->dev->name);
		break;
	}
}

static int target_iterate(struct dm_target *ti, iterate_devices_callout_fn fn,
			  void *data)
{
	struct target *t = ti->private;

	return fn(ti, t->dev, 0, ti->len, data);
}

static struct target_type target_type = {
	.name = "tmem-cache",
	.version = {1, 0, 0},
	.module = THIS_MODULE,
	.ctr = target_ctr,
	.dtr = target_dtr,
	.map = target_map,
	.end_io = target_end_io,
	.postsuspend = target_postsuspend,
	.resume = target_resume,
	.message = target_message,
	.status = target_status,
	.iterate_devices = target_iterate,
};

int tm_target_init(void)
{
	int rc;

	BUILD_BUG_ON(PAGE_SIZE != LINE_PAGE_BYTES);
	target_workqueue = alloc_workqueue("tmem-cache", WQ_MEM_RECLAIM, 0);
	if (!target_workqueue)
		return -ENOMEM;
	rc = dm_register_target(&target_type);
	if (rc)
		destroy_workqueue(target_workqueue);
	return rc;
}

void tm_target_exit(void)
{
	dm_unregister_target(&target_type);
	destroy_workqueue(target_workqueue);
}

/* What the device mapper asks for when a table names the target. */
MODULE_ALIAS("dm-tmem-cache");
