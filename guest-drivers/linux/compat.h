/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What changed in the kernel between 5.15 and 6.12, in one place; the rest of
 * the module is written for the newest.
 */
#ifndef TIDEPOOL_COMPAT_H
#define TIDEPOOL_COMPAT_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/pm.h>
#include <linux/timer.h>
#include <linux/version.h>

static inline int compat_timer_delete_sync(struct timer_list *timer)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	return timer_delete_sync(timer);
#else
	return del_timer_sync(timer);
#endif
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#define COMPAT_DISK_OPEN(name)	  int name(struct gendisk *disk, blk_mode_t mode)
#define COMPAT_DISK_RELEASE(name) void name(struct gendisk *disk)
#else
#define COMPAT_DISK_OPEN(name)	  int name(struct block_device *bdev, fmode_t mode)
#define COMPAT_DISK_RELEASE(name) void name(struct gendisk *disk, fmode_t mode)
#endif

/* In a device-mapper table's mode. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#define COMPAT_MODE_WRITE BLK_OPEN_WRITE
#else
#define COMPAT_MODE_WRITE FMODE_WRITE
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 17, 0)
#define GENHD_FL_NO_PART GENHD_FL_NO_PART_SCAN
#endif

#ifndef pm_sleep_ptr /* before 5.17 */
#define pm_sleep_ptr(ops) (ops)
#define DEFINE_SIMPLE_DEV_PM_OPS(name, suspend, resume)                        \
	const struct dev_pm_ops name = {                                       \
		SET_SYSTEM_SLEEP_PM_OPS(suspend, resume)}
#endif

/* What the swap device asks of the block layer. */
struct compat_limits {
	unsigned int block_bytes; /* logical and physical, and alignment */
	unsigned int request_pages;
	unsigned int discard_sectors;
};

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
static inline struct gendisk *compat_disk_alloc(struct blk_mq_tag_set *set,
						const struct compat_limits *l)
{
	struct queue_limits limits = {
		.logical_block_size = l->block_bytes,
		.physical_block_size = l->block_bytes,
		.dma_alignment = l->block_bytes - 1,
		.virt_boundary_mask = l->block_bytes - 1,
		.max_hw_sectors = l->request_pages * (l->block_bytes >> 9),
		.max_segments = l->request_pages,
		.discard_granularity = l->block_bytes,
		.max_hw_discard_sectors = l->discard_sectors,
	};

	return blk_mq_alloc_disk(set, &limits, NULL);
}
#else
static inline struct gendisk *compat_disk_alloc(struct blk_mq_tag_set *set,
						const struct compat_limits *l)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
	struct gendisk *disk = blk_mq_alloc_disk(set, NULL, NULL);
#else
	struct gendisk *disk = blk_mq_alloc_disk(set, NULL);
#endif
	struct request_queue *q;

	if (IS_ERR(disk))
		return disk;
	q = disk->queue;
	blk_queue_logical_block_size(q, l->block_bytes);
	blk_queue_physical_block_size(q, l->block_bytes);
	blk_queue_dma_alignment(q, l->block_bytes - 1);
	blk_queue_virt_boundary(q, l->block_bytes - 1);
	blk_queue_max_hw_sectors(q, l->request_pages * (l->block_bytes >> 9));
	blk_queue_max_segments(q, l->request_pages);
	q->limits.discard_granularity = l->block_bytes;
	blk_queue_max_discard_sectors(q, l->discard_sectors);
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 19, 0)
	blk_queue_flag_set(QUEUE_FLAG_DISCARD, q);
#endif
	blk_queue_flag_set(QUEUE_FLAG_NONROT, q);
	blk_queue_flag_clear(QUEUE_FLAG_ADD_RANDOM, q);
	return disk;
}
#endif

static inline void compat_disk_free(struct gendisk *disk)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 0, 0)
	put_disk(disk);
#else
	blk_cleanup_disk(disk);
#endif
}

#endif
