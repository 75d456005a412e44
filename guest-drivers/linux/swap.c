// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tmemswap0: a block device of 4096-byte blocks for swap, kept in a persistent
 * pool of the host's: a write is a put, a read a get, a freed slot or a discard
 * a flush. Block n is index n of object 0.
 *
 * Accepting a page means keeping it: a write ends only when the host has said
 * that it stored the page, and a refused one fails with BLK_STS_NOSPC, upon
 * which the kernel keeps the page in memory. (Failing early, by a count of free
 * pages, was dropped: only the host knows what compresses.) Once it said that
 * there is no room, writes fail without asking until some pages were freed, or
 * nobody wrote for a while: the kernel's reclaim tries again and again, a
 * million times, before it believes that memory is short and looks for a
 * culprit, and each page that does get through makes it begin anew. Asking each
 * time, a guest was seen to do nothing else for minutes.
 *
 * Besides discard, which swapon must ask for and which comes in clusters, the
 * kernel tells us of every slot it frees (swap_slot_free_notify), under
 * spinlocks. The host's memory is free again with the next flush posted; if the
 * ring has no room, the page is marked and flushed by a work item. Slots are
 * reused at once, so the order matters: marks are cleared by a write before it
 * is submitted, and looked at with the queue's lock held when the flush is
 * posted. So the flush of an old page always comes before the put of a new one.
 *
 * A line that broke took the pages along. Their reads fail, and only theirs:
 * see pagemap.h. Hibernation would lose all of them, so it is refused while the
 * device is open (main.c).
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "line.h"
#include "pagemap.h"
#include "stats.h"
#include "swap.h"

#define NAME	      "tmemswap0"
#define BLOCK_BYTES   LINE_PAGE_BYTES
#define BLOCK_SECTORS (BLOCK_BYTES >> SECTOR_SHIFT)
#define REQUEST_PAGES 16
#define DEPTH	      64
#define PAGES_MOST    (1ull << 32) /* an index has 32 bits */
#define FLUSH_AGAIN   (HZ / 10)
#define FULL_FOR      (10 * HZ)	 /* after the last write that failed so */
#define FULL_MOST     (120 * HZ) /* after the host was last asked */
#define FULL_FREED    64L /* pages freed that make it worth another try */
#define FULL_PART     16  /* or this part of what is held */

/* Of one block layer request. Ends when left does. */
struct swap_cmd {
	atomic_t left;
	blk_status_t status;
	u64 since; /* when a read began; 0: it is none */
	struct tm_request page[REQUEST_PAGES];
};

static struct {
	struct gendisk *disk; /* NULL: none yet, or no more */
	struct blk_mq_tag_set tags;
	struct pagemap map;
	u64 pages;		  /* the disk's size */
	u64 where;		  /* epoch << 32 | pool; 0: nowhere */
	unsigned long full_until; /* jiffies */
	unsigned long full_since;
	atomic_t freed; /* since the host said that it is full */
	atomic_t open;
	struct delayed_work flush;
} swap;

static u32 where_epoch(u64 where)
{
	return where >> 32;
}

static void entry_fill(struct line_entry *entry, u64 where, enum line_op op,
		       u64 index)
{
	memset(entry, 0, sizeof(*entry));
	entry->op = op;
	entry->pool = (s32)(where & U32_MAX);
	entry->index = index;
}

/* ---- freed slots ----------------------------------------------------------
 */

/* True: the host will know, or need not. */
static bool flush_post(u64 index)
{
	u64 where = READ_ONCE(swap.where);
	struct line_entry entry;
	unsigned int queue;
	unsigned long flags;
	bool posted = true;

	entry_fill(&entry, where, LINE_OP_FLUSH_PAGE, index);
	queue = tm_line_queue_of(&entry);
	flags = tm_line_lock(queue);
	if (pagemap_test(&swap.map, PAGE_UNFLUSHED, index)) {
		posted = tm_line_post_locked(queue, where_epoch(where), &entry,
					     NULL);
		if (posted)
			pagemap_clear(&swap.map, PAGE_UNFLUSHED, index);
	}
	tm_line_unlock(queue, flags);
	return posted;
}

/* Any context. */
static void page_forget(u64 index)
{
	if (!pagemap_clear(&swap.map, PAGE_HELD, index))
		return;
	pagemap_set(&swap.map, PAGE_UNFLUSHED, index);
	if (!flush_post(index) && !delayed_work_pending(&swap.flush))
		schedule_delayed_work(&swap.flush, FLUSH_AGAIN);
}

static void count_freed(void)
{
	tm_count(TM_SWAP_FREED);
	atomic_inc(&swap.freed);
}

static void page_free(u64 index)
{
	pagemap_clear(&swap.map, PAGE_FAILED, index);
	if (pagemap_test(&swap.map, PAGE_HELD, index))
		count_freed();
	page_forget(index);
}

/*
 * While the line is down there is nobody to tell; begin starts this again. Only
 * while there is a disk: who makes the next one makes its map anew.
 */
static void flush_run(struct work_struct *work)
{
	u64 at = 0;

	if (!READ_ONCE(swap.where))
		return;
	while (pagemap_count(&swap.map, PAGE_UNFLUSHED)) {
		at = pagemap_next(&swap.map, PAGE_UNFLUSHED, at,
				  swap.map.pages);
		if (at >= swap.map.pages)
			break;
		if (!flush_post(at)) {
			schedule_delayed_work(&swap.flush, FLUSH_AGAIN);
			break;
		}
		cond_resched();
	}
}

static void swap_slot_freed(struct block_device *bdev, unsigned long index)
{
	if (bdev->bd_disk == swap.disk && index < swap.map.pages)
		page_free(index);
}

/* ---- requests -------------------------------------------------------------
 */

static void cmd_put(struct swap_cmd *cmd)
{
	if (!atomic_dec_and_test(&cmd->left))
		return;
	if (cmd->since)
		tm_count_wait(cmd->since);
	blk_mq_end_request(blk_mq_rq_from_pdu(cmd), READ_ONCE(cmd->status));
}

static void cmd_fail(struct swap_cmd *cmd, blk_status_t status)
{
	WRITE_ONCE(cmd->status, status);
}

static struct swap_cmd *cmd_of(const struct tm_request *rq)
{
	return (struct swap_cmd *)(unsigned long)rq->entry.cookie;
}

static bool full(void)
{
	long enough = pagemap_count(&swap.map, PAGE_HELD) / FULL_PART;

	return time_before(jiffies, READ_ONCE(swap.full_until)) &&
	       atomic_read(&swap.freed) < max(enough, FULL_FREED);
}

static void full_prolong(void)
{
	unsigned long next = jiffies + FULL_FOR;
	unsigned long most = READ_ONCE(swap.full_since) + FULL_MOST;

	WRITE_ONCE(swap.full_until, time_before(next, most) ? next : most);
}

static void full_begin(void)
{
	atomic_set(&swap.freed, 0);
	WRITE_ONCE(swap.full_since, jiffies);
	full_prolong();
}

static void full_end(void)
{
	WRITE_ONCE(swap.full_until, jiffies);
}

/* The page's last write failed: what was there before is gone, too. */
static void page_refused(struct swap_cmd *cmd, u64 index)
{
	tm_count(TM_SWAP_REFUSED);
	pagemap_set(&swap.map, PAGE_FAILED, index);
	cmd_fail(cmd, BLK_STS_NOSPC);
}

static void write_done(struct tm_request *rq, int result)
{
	struct swap_cmd *cmd = cmd_of(rq);

	if (result == LINE_ENOMEM || result == LINE_EBUSY) {
		if (result == LINE_ENOMEM)
			full_begin();
		page_refused(cmd, rq->entry.index);
		pagemap_clear(&swap.map, PAGE_HELD, rq->entry.index);
	} else if (result) {
		tm_count(TM_SWAP_ERRORS);
		cmd_fail(cmd, BLK_STS_IOERR);
	}
	cmd_put(cmd);
}

static void read_done(struct tm_request *rq, int result)
{
	struct swap_cmd *cmd = cmd_of(rq);

	if (result) {
		tm_count(result == LINE_ENOENT ? TM_SWAP_LOST : TM_SWAP_ERRORS);
		cmd_fail(cmd, BLK_STS_IOERR);
	}
	cmd_put(cmd);
}

/* A page still stored is wasted, not wrong: nobody can read it. */
static void flush_done(struct tm_request *rq, int result)
{
	if (result < 0 && result != -EIO)
		tm_count(TM_SWAP_ERRORS);
	cmd_put(cmd_of(rq));
}

/* The line is down: done is not called. */
static void cmd_submit(struct swap_cmd *cmd, struct tm_request *rq)
{
	rq->entry.cookie = (unsigned long)cmd;
	atomic_inc(&cmd->left);
	if (tm_line_submit(rq))
		rq->done(rq, -EIO);
}

static void page_write(struct swap_cmd *cmd, struct tm_request *rq, u64 index)
{
	tm_count(TM_SWAP_WRITES);
	if (!rq->epoch || full()) {
		if (rq->epoch)
			full_prolong();
		page_forget(index);
		page_refused(cmd, index);
		return;
	}
	pagemap_set(&swap.map, PAGE_HELD, index);
	pagemap_clear(&swap.map, PAGE_UNFLUSHED, index);
	pagemap_clear(&swap.map, PAGE_FAILED, index);
	rq->done = write_done;
	cmd_submit(cmd, rq);
}

static void page_read(struct swap_cmd *cmd, struct tm_request *rq, u64 index)
{
	tm_count(TM_SWAP_READS);
	if (pagemap_test(&swap.map, PAGE_HELD, index)) {
		rq->done = read_done;
		cmd_submit(cmd, rq);
	} else if (pagemap_test(&swap.map, PAGE_FAILED, index)) {
		tm_count(TM_SWAP_ERRORS);
		cmd_fail(cmd, BLK_STS_IOERR);
	} else {
		clear_highpage(rq->page);
	}
}

/* The alignment asked of the block layer makes each segment one block. */
static void pages_issue(struct request *blk, struct swap_cmd *cmd, bool write)
{
	u64 index = blk_rq_pos(blk) / BLOCK_SECTORS;
	u64 where = READ_ONCE(swap.where);
	struct req_iterator iter;
	struct tm_request *rq = cmd->page;
	struct bio_vec bv;

	rq_for_each_segment(bv, blk, iter)
	{
		if (bv.bv_offset || bv.bv_len != BLOCK_BYTES ||
		    rq == &cmd->page[REQUEST_PAGES]) {
			cmd_fail(cmd, BLK_STS_IOERR);
			return;
		}
		entry_fill(&rq->entry, where, write ? LINE_OP_PUT : LINE_OP_GET,
			   index);
		rq->epoch = where_epoch(where);
		rq->page = bv.bv_page;
		if (write)
			page_write(cmd, rq++, index++);
		else
			page_read(cmd, rq++, index++);
	}
}

static void range_flush(struct swap_cmd *cmd, u64 index, u32 count)
{
	u64 where = READ_ONCE(swap.where);
	struct tm_request *rq = cmd->page;

	entry_fill(&rq->entry, where, LINE_OP_FLUSH_RANGE, index);
	rq->entry.count = count;
	rq->epoch = where_epoch(where);
	rq->page = NULL;
	rq->done = flush_done;
	cmd_submit(cmd, rq);
}

static void discard_issue(struct request *blk, struct swap_cmd *cmd)
{
	u64 first = blk_rq_pos(blk) / BLOCK_SECTORS;
	u64 end = first + blk_rq_sectors(blk) / BLOCK_SECTORS;
	bool range = tm_line_features() & LINE_FEATURE_FLUSH_RANGE;
	bool any = false;
	u64 at;

	pagemap_for_each(&swap.map, PAGE_FAILED, at, first, end)
		pagemap_clear(&swap.map, PAGE_FAILED, at);
	pagemap_for_each(&swap.map, PAGE_HELD, at, first, end)
	{
		if (!range)
			page_free(at);
		else if (pagemap_clear(&swap.map, PAGE_HELD, at))
			count_freed();
		any = true;
	}
	if (range && any)
		range_flush(cmd, first, end - first);
}

static blk_status_t swap_queue_rq(struct blk_mq_hw_ctx *hctx,
				  const struct blk_mq_queue_data *bd)
{
	struct request *blk = bd->rq;
	struct swap_cmd *cmd = blk_mq_rq_to_pdu(blk);
	bool last = bd->last, read = req_op(blk) == REQ_OP_READ;
	unsigned int queue;

	atomic_set(&cmd->left, 1);
	cmd->status = BLK_STS_OK;
	cmd->since = read ? ktime_get_ns() : 0;
	blk_mq_start_request(blk);
	memset(&cmd->page[0].entry, 0, sizeof(cmd->page[0].entry));
	switch (req_op(blk)) {
	case REQ_OP_READ:
	case REQ_OP_WRITE:
		pages_issue(blk, cmd, !read);
		break;
	case REQ_OP_DISCARD:
		discard_issue(blk, cmd);
		break;
	default:
		cmd_fail(cmd, BLK_STS_NOTSUPP);
	}
	queue = tm_line_queue_of(&cmd->page[0].entry);
	cmd_put(cmd);	  /* may be gone now */
	if (last && read) /* before asking for an interrupt */
		tm_line_poll(queue);
	if (last)
		tm_line_kick();
	tm_stats_wake();
	return BLK_STS_OK;
}

static void swap_commit_rqs(struct blk_mq_hw_ctx *hctx)
{
	tm_line_kick();
}

static const struct blk_mq_ops swap_mq_ops = {
	.queue_rq = swap_queue_rq,
	.commit_rqs = swap_commit_rqs,
};

/* ---- the disk -------------------------------------------------------------
 */

static COMPAT_DISK_OPEN(swap_open)
{
	atomic_inc(&swap.open);
	return 0;
}

static COMPAT_DISK_RELEASE(swap_release)
{
	atomic_dec(&swap.open);
}

bool tm_swap_busy(void)
{
	return atomic_read(&swap.open) > 0;
}

static const struct block_device_operations swap_ops = {
	.owner = THIS_MODULE,
	.open = swap_open,
	.release = swap_release,
	.swap_slot_free_notify = swap_slot_freed,
};

/* For whoever swaps on: /sys/block/tmemswap0/tmem/. */
static ssize_t swap_priority_show(struct device *dev,
				  struct device_attribute *attr, char *buf)
{
	struct tm_settings settings;

	tm_line_settings(&settings);
	return sysfs_emit(buf, "%d\n", settings.swap_priority);
}
static DEVICE_ATTR_RO(swap_priority);

static ssize_t swap_pages_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	struct tm_settings settings;

	tm_line_settings(&settings);
	return sysfs_emit(buf, "%llu\n", settings.swap_pages);
}
static DEVICE_ATTR_RO(swap_pages);

static ssize_t held_pages_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%ld\n", pagemap_count(&swap.map, PAGE_HELD));
}
static DEVICE_ATTR_RO(held_pages);

static struct attribute *swap_attrs[] = {
	&dev_attr_swap_priority.attr,
	&dev_attr_swap_pages.attr,
	&dev_attr_held_pages.attr,
	NULL,
};
static const struct attribute_group swap_group = {
	.name = "tmem",
	.attrs = swap_attrs,
};
static const struct attribute_group *swap_groups[] = {&swap_group, NULL};

static int tags_alloc(void)
{
	memset(&swap.tags, 0, sizeof(swap.tags));
	swap.tags.ops = &swap_mq_ops;
	swap.tags.nr_hw_queues = min(tm_line_queues(), nr_cpu_ids);
	swap.tags.queue_depth = DEPTH;
	swap.tags.numa_node = NUMA_NO_NODE;
	swap.tags.cmd_size = sizeof(struct swap_cmd);
	swap.tags.flags = BLK_MQ_F_SHOULD_MERGE | BLK_MQ_F_NO_SCHED_BY_DEFAULT;
	return blk_mq_alloc_tag_set(&swap.tags);
}

static struct gendisk *disk_alloc(u64 pages)
{
	const struct compat_limits limits = {
		.block_bytes = BLOCK_BYTES,
		.request_pages = REQUEST_PAGES,
		.discard_sectors = LINE_FLUSH_MAX * BLOCK_SECTORS,
	};
	struct gendisk *disk = compat_disk_alloc(&swap.tags, &limits);

	if (IS_ERR(disk))
		return disk;
	disk->fops = &swap_ops;
	disk->flags |= GENHD_FL_NO_PART;
	strscpy(disk->disk_name, NAME, sizeof(disk->disk_name));
	set_capacity(disk, pages * BLOCK_SECTORS);
	return disk;
}

static int disk_make(u64 pages)
{
	struct gendisk *disk;
	int rc;

	if (tm_swap_busy()) /* somebody still has the last one */
		return -EBUSY;
	pagemap_fini(&swap.map);
	pagemap_init(&swap.map);
	rc = pagemap_grow(&swap.map, pages);
	if (rc)
		return rc;
	rc = tags_alloc();
	if (rc)
		return rc;
	disk = disk_alloc(pages);
	if (IS_ERR(disk)) {
		rc = PTR_ERR(disk);
		goto free_tags;
	}
	swap.disk = disk;
	swap.pages = pages;
	rc = device_add_disk(NULL, disk, swap_groups);
	if (!rc)
		return 0;
	swap.disk = NULL;
	compat_disk_free(disk);
free_tags:
	blk_mq_free_tag_set(&swap.tags);
	return rc;
}

/* A swap area keeps its size until it is swapped on again. */
static int disk_grow(u64 pages)
{
	int rc;

	if (pages <= swap.pages)
		return 0;
	rc = pagemap_grow(&swap.map, pages);
	if (rc)
		return rc;
	swap.pages = pages;
	set_capacity_and_notify(swap.disk, pages * BLOCK_SECTORS);
	return 0;
}

static int disk_fit(void)
{
	struct tm_settings settings;

	tm_line_settings(&settings);
	if (!settings.swap_pages)
		return 0;
	if (settings.swap_pages > PAGES_MOST)
		return -EFBIG;
	return swap.disk ? disk_grow(settings.swap_pages)
			 : disk_make(settings.swap_pages);
}

static void disk_remove(void)
{
	if (!swap.disk)
		return;
	del_gendisk(swap.disk);
	compat_disk_free(swap.disk);
	blk_mq_free_tag_set(&swap.tags);
	swap.disk = NULL;
	cancel_delayed_work_sync(&swap.flush);
}

/* ---- the line comes and goes ----------------------------------------------
 */

static int swap_begin(u32 epoch)
{
	struct tm_request rq = {
		.entry.op = LINE_OP_POOL_CREATE,
		.entry.pool = LINE_POOL_PERSISTENT,
		.epoch = epoch,
	};
	long lost = pagemap_count(&swap.map, PAGE_HELD);
	int pool = tm_line_call(&rq);

	if (pool < 0)
		return pool;
	full_end();
	WRITE_ONCE(swap.where, (u64)epoch << 32 | (u32)pool);
	if (lost)
		pr_warn("%ld swapped pages went with the line\n", lost);
	if (swap.disk)
		schedule_delayed_work(&swap.flush, 0);
	return disk_fit();
}

static void swap_broken(void)
{
	WRITE_ONCE(swap.where, 0);
}

static void swap_settings(void)
{
	int rc = READ_ONCE(swap.where) ? disk_fit() : 0;

	full_end();
	if (rc)
		pr_warn("the swap device cannot change: %d\n", rc);
}

/*
 * One that is swapped on stays, without a line: it can still be swapped off,
 * and goes on, less what it held, when a device comes back.
 */
static void swap_gone(void)
{
	if (!tm_swap_busy())
		disk_remove();
}

static struct tm_user swap_user = {
	.name = "swap",
	.begin = swap_begin,
	.broken = swap_broken,
	.settings = swap_settings,
	.gone = swap_gone,
};

int tm_swap_init(void)
{
	pagemap_init(&swap.map);
	INIT_DELAYED_WORK(&swap.flush, flush_run);
	tm_line_user_add(&swap_user);
	return 0;
}

void tm_swap_exit(void)
{
	tm_line_user_remove(&swap_user);
	disk_remove();
	pagemap_fini(&swap.map);
}
