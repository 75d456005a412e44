/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Cleancache for kernels that have no hooks for it (any since 5.17): what the
 * page cache drops goes to the host, and comes back from there instead of from
 * the disk. Four parts, this header between them:
 *
 *   cache_target  the device-mapper target below the file system: sees every
 *                 read, write and discard, and answers reads
 *   cache_probe   two tracepoints: a page becomes dirty, a page is removed
 *   cache_learn   which cached page equals which block of which disk
 *   cache_gen     has a block been written since?
 *   cache         the disks, the pool, and what is in it
 *
 *        read done                                   removed, clean
 *   ------------------> learn (mapping, index) -> block -----> put, set bit
 *                         |                                       |
 *     page made dirty ----+---- block written: generation + 1     |
 *     (forget)                  (stale from then on)     bit clear, flush
 *
 * Two invariants carry all of it.
 *
 * 1. A learned entry (mapping, index) -> (block, generation) says: the page
 * that is cached there holds what the disk holds at this block, as long as the
 *    block's generation is still this one. How the file system maps files to
 *    blocks plays no part, so nothing it does with its extents can break it.
 *    Whoever changes the page makes it dirty, which forgets the entry; whoever
 *    changes the block submits a bio, which moves the generation.
 *
 * 2. A present bit is set only if the last thing the host was asked about that
 *    block, in the order of its queue, was a put of what the disk holds. A get
 *    is sent for a block with the bit set, and for no other. So what the host
 *    still keeps of blocks whose bit is clear is garbage nobody asks for, a
 *    flush is a courtesy which frees the host's memory sooner, and a write
 *    need not wait for a full ring: there is nothing to deadlock on.
 *
 * A disk that nobody writes to may be in a pool that several guests share. Then
 * keys are those of the disk's contents, the same in each guest, and a bit says
 * that the host may have the block: all are set at first, a miss clears one, a
 * put sets it. There is nothing to be flushed, and invariant 2 is not needed:
 * whoever put it, it is what the disk holds.
 *
 * The host may drop any page at any time, the line may break: reads then go to
 * the disk, which always has everything, since writes are never held back.
 *
 * A page is put only when it is removed with its references frozen (reclaim,
 * drop_caches): then nobody else has it pinned or mapped. What truncation
 * removes is not put: it is garbage by the file system's own word, and some of
 * it lies (folio_cancel_dirty makes unwritten data look clean).
 *
 * Dropped alternatives. Learning by page frame: migration moves a page without
 * a tracepoint, and a frame that is used again would speak for its earlier
 * page; keyed by (mapping, index) an entry moves along. Looking up the block
 * when a page is removed (bmap): needs locks one may not take there. Holding
 * writes back until the flush is posted: needs room in the ring under memory
 * pressure, for nothing (invariant 2).
 *
 * Memory, while at least one disk has the target: for each page of RAM 51.2
 * bytes of cache_learn and 8 to 16 of cache_gen; for each disk one bit a block
 * (32 MiB for 1 TiB). Without a disk nothing is allocated and no tracepoint is
 * enabled.
 *
 * Locks, in this order:
 *   mapping->i_pages > queue of the line > nothing
 *   mapping->i_pages > bucket of cache_learn > nothing
 *   cache_mutex (process context) > what the line does to call
 */
#ifndef TIDEPOOL_CACHE_H
#define TIDEPOOL_CACHE_H

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/types.h>
#include <linux/uuid.h>

#include "line.h"

#define TM_CACHE_DISKS	 16
#define TM_BLOCK_SHIFT	 12 /* a block: 4096 bytes, as a page of the store */
#define TM_BLOCK_SECTORS (1u << (TM_BLOCK_SHIFT - SECTOR_SHIFT))

struct gendisk;

/* Counters of the cache alone, in debugfs; those for the host are tm_count. */
enum tm_cache_counter {
	TM_CACHE_LEARNED_READ,
	TM_CACHE_LEARNED_WRITE,
	TM_CACHE_LEARN_BUSY, /* a write to the block was under way */
	TM_CACHE_FORGOTTEN,  /* the page became dirty */
	TM_CACHE_REMOVED,    /* with an entry, but not clean and frozen */
	TM_CACHE_STALE,	     /* the block had been written since */
	TM_CACHE_DOWN,	     /* could be put, but there is no pool now */
	TM_CACHE_GONE,	     /* gets of what the host had dropped */
	TM_CACHE_NO_MEMORY, /* reads that went to the disk for want of memory */
	TM_CACHE_FLUSH_DROPPED,
	TM_CACHE_COUNTERS,
};
void tm_cache_count(enum tm_cache_counter which);

/* A pool of the line, of one epoch. */
struct tm_cache_pool {
	u32 epoch; /* 0: there is none */
	s32 id;
};

/* A disk with the target: one instance of one table. */
struct tm_cache_disk {
	unsigned int slot; /* 0 to TM_CACHE_DISKS - 1 */
	bool live;	   /* between resume and suspend */
	bool shared;	   /* read-only; in a pool that other guests share */
	u64 oid[2];	   /* words of its objects: see cache.c */
	u64 blocks;
	struct gendisk *disk; /* as file systems see it */
	unsigned long *present;
	struct tm_cache_pool *pool; /* that of all private ones, or own */
	struct tm_cache_pool own;
	uuid_t uuid; /* of the shared pool */
	int refused; /* what the host last said to that */
};

/* Where a cached page's content also is. */
struct tm_cache_place {
	unsigned int slot;
	u64 block;
	u32 generation;
};

/* cache.c; Kbuild leaves it out of kernels without the tracepoints. */
#ifdef TM_CACHE
int tm_cache_init(void);
void tm_cache_exit(void);
#else
static inline int tm_cache_init(void)
{
	return 0;
}

static inline void tm_cache_exit(void)
{
}
#endif
/*
 * Process context. disk: as seen from above; owner keeps it alive. shared: the
 * pool to share, of a disk that nobody writes to; NULL: none.
 */
int __must_check tm_cache_disk_create(struct gendisk *disk, u64 blocks,
				      const uuid_t *shared,
				      struct tm_cache_disk **cd_out);
void tm_cache_disk_destroy(struct tm_cache_disk *cd);
/* Nothing known of the disk is true any more. May sleep. */
void tm_cache_disk_forget(struct tm_cache_disk *cd);
/* After resume, before suspend. False: forgets, and may sleep. */
void tm_cache_disk_live(struct tm_cache_disk *cd, bool live);
/* Is there a pool for it? May be over as soon as it is said. */
bool tm_cache_up(const struct tm_cache_disk *cd);
/* From the removal of a clean page; any context. */
void tm_cache_put(const struct tm_cache_place *place, struct page *page);
/* The blocks' content changes; after tm_gen_write_begin. Any context. */
void tm_cache_flush(struct tm_cache_disk *cd, u64 first, u64 last);
/*
 * Is block in the pool? A guess. run_out: for how many blocks from here on the
 * answer is the same, 1 to max; if true, those have one queue.
 */
bool tm_cache_peek(struct tm_cache_disk *cd, u64 block, unsigned int max,
		   unsigned int *run_out);
/*
 * Takes the bits of at most *count present blocks from block on (a shared
 * disk's stay), and tells how many: the caller must get each, with the epoch
 * returned; entry_out is the first's, and the others follow in the same object
 * and queue. 0: none.
 */
u32 tm_cache_take(struct tm_cache_disk *cd, u64 block, unsigned int *count,
		  struct line_entry *entry_out);
/* The host did not have it. Any context. */
void tm_cache_missed(struct tm_cache_disk *cd, u64 block);

/* cache_learn.c: any context but NMI. */
int tm_learn_create(void);
void tm_learn_destroy(void);
void tm_learn_store(struct address_space *mapping, pgoff_t index,
		    const struct tm_cache_place *place);
/* True: there was an entry, now it is the caller's alone. */
bool tm_learn_take(struct address_space *mapping, pgoff_t index,
		   struct tm_cache_place *place_out);

/* cache_gen.c: any context. */
struct tm_gen_sample {
	u32 generation;
	bool quiet; /* no write was under way: the generation may be learned */
};
int tm_gen_create(void);
void tm_gen_destroy(void);
/* Generation of a block, for comparing. */
u32 tm_gen_now(unsigned int slot, u64 block);
struct tm_gen_sample tm_gen_sample(unsigned int slot, u64 block);
/* Around each write: before it is submitted, after it ended. */
void tm_gen_write_begin(unsigned int slot, u64 block);
/* quiet: no other write overlapped; then generation is that of its data. */
struct tm_gen_sample tm_gen_write_end(unsigned int slot, u64 block);
/* The same for everything on the disk. */
void tm_gen_disk_begin(unsigned int slot);
void tm_gen_disk_end(unsigned int slot);
/* Changes whenever tm_gen_disk_begin or _end is called. */
u32 tm_gen_disk(unsigned int slot);

/* cache_probe.c */
int tm_probe_start(void);
void tm_probe_stop(void);

/* cache_target.c */
int tm_target_init(void);
void tm_target_exit(void);

/*
 * File systems whose pages mean what invariant 1 says: what a read bio brings
 * is the page's content, and what becomes dirty says so. Encrypted files are
 * decrypted in the page after the read, so their pages differ from the disk.
 */
static inline bool tm_cache_mapping_fits(const struct address_space *mapping)
{
	const struct inode *inode = mapping->host;

	return inode && S_ISREG(inode->i_mode) && !IS_ENCRYPTED(inode) &&
	       (inode->i_sb->s_magic == EXT4_SUPER_MAGIC ||
		inode->i_sb->s_magic == XFS_SUPER_MAGIC);
}

#endif
