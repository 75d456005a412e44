/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory manager of one VM: guest RAM, the state of each of its pages, and
 * every way a page leaves the guest and comes back.
 *
 * Threads. One worker thread calls the functions marked [worker]; any thread
 * of the VMM may call those marked [any]; the manager's own fault threads
 * answer page faults. No function may be called with a lock held that a
 * thread which touches guest RAM might want.
 *
 * A page is named by its gfn in the manager's map. A VMM that knows guest
 * addresses passes them; otherwise ranges get gfns in the order they appear.
 */
#ifndef HV_MM_MM_H
#define HV_MM_MM_H

#include "hv/base/host.h"
#include "hv/base/types.h"
#include "hv/mm/stats.h"

struct mm;
struct tmem;
struct tmem_stats;

struct mm_config {
	const struct host_ops *host;
	int uffd_device;	/* open /dev/userfaultfd (not kept), or -1 */
	unsigned fault_threads; /* 0: a default of 2 */
	uint64_t fault_poll_ns; /* look for the next so long; 0: never */
	struct tmem *store;	/* the caller's; NULL: one of mm's own */
	uint64_t store_bytes;	/* cap of its client there; 0: none */
	bool dense;		/* cold pages by zstd, not LZ4 */
	const char *swap_path;	/* NULL: no swap file */
	uint64_t swap_bytes;	/* its largest size */
};

/* -EPERM: userfaultfd refused; -ENOSYS: the kernel lacks what is needed. */
MUST_CHECK int mm_create(const struct mm_config *config, struct mm **out);

/* Gives every page back first. [any, no VMM thread in the manager] */
void mm_destroy(struct mm *mm);

/* ---- guest RAM ---- */

/*
 * Manages [hva, +bytes): private anonymous memory, trimmed to whole chunks.
 * dontfork: the VMM has it under MADV_DONTFORK (kept on what we map there).
 * -EEXIST: overlaps a range; -EINVAL: not one whole chunk. [any]
 */
MUST_CHECK int mm_range_add(struct mm *mm, hva_t hva, size_t bytes,
			    bool dontfork);

/*
 * Brings every page of the ranges that overlap [hva, +bytes) back, as plain
 * anonymous memory, and stops managing them. [any]
 */
int mm_range_remove(struct mm *mm, hva_t hva, size_t bytes);

/*
 * The VMM is about to unmap [hva, +bytes): forgets the pages and their frames.
 * Call before the munmap. [any]
 */
void mm_range_forget(struct mm *mm, hva_t hva, size_t bytes);

/*
 * In place of madvise(MADV_DONTNEED) on managed memory: drops the pages, reads
 * as zero afterwards. Returns 0, or -ENOENT if no byte of it is managed (then
 * the caller makes its own call). [any]
 */
int mm_discard(struct mm *mm, hva_t hva, size_t bytes, bool balloon);

bool mm_is_managed(struct mm *mm, hva_t hva, size_t bytes);

/*
 * A device or the kernel will write to [hva, +bytes) behind the page table
 * (O_DIRECT): between begin and end no page of it is taken by copying. Only
 * kernels without UFFDIO_MOVE, and pages gone private in an overlay, are taken
 * that way. Nests. [any]
 */
void mm_io_begin(struct mm *mm, hva_t hva, size_t bytes);
void mm_io_end(struct mm *mm, hva_t hva, size_t bytes);

/* From now on nothing is ever taken by copying: I/O we cannot see. [any] */
void mm_copy_takes_off(struct mm *mm);

/* Device-pinned for good (VFIO): restores the range and leaves it alone. */
int mm_pin(struct mm *mm, hva_t hva, size_t bytes);

/* ---- the frame pool ---- */

/* pool_fd is read-only and kept (dup'ed). Replaces one of the same file. */
MUST_CHECK int mm_pool_attach(struct mm *mm, int pool_fd, uint64_t bytes);

/* The attached pool's descriptor, for a new hvd; -1 if none. */
int mm_pool_fd(const struct mm *mm);

/*
 * Called for every reference given back. With n 0: a walk (mm_frames_walk)
 * begins, which tells the whole truth: what the hook has queued so far must be
 * forgotten, or hvd would drop those references twice. The hook is not called
 * while a walk runs. It may only queue. [any]
 */
typedef void mm_release_fn(void *arg, const uint32_t *frames, size_t n);
void mm_release_hook(struct mm *mm, mm_release_fn *fn, void *arg);

/*
 * Calls fn for the frames this VM maps, with the number of pages that map them;
 * a frame may come several times. [worker]
 */
typedef void mm_frame_fn(void *arg, uint32_t frame, uint32_t refs);
int mm_frames_walk(struct mm *mm, mm_frame_fn *fn, void *arg);

/* ---- what sharing needs (see sharing/share.h) ---- */

struct mm_page_map {
	gfn_t gfn;
	uint32_t frame;
};

/*
 * Takes each page, compares it byte by byte with its frame, and maps the frame
 * in its place. map is sorted by gfn; runs of consecutive pages and frames cost
 * one mapping. *mapped_out counts; the frames of all others are given to the
 * release hook. [worker]
 */
int mm_share(struct mm *mm, const struct mm_page_map *map, size_t n,
	     size_t *mapped_out);

/*
 * There are no more to share for now: the pool, which the first call has
 * mapped to compare with, is unmapped until the next. Its page tables, 8 bytes
 * a frame in each VMM, are worth that. [worker]
 */
void mm_share_done(struct mm *mm);

/*
 * What a scan asks of its caller. hash: content hash of a page, 48 bits, never
 * 0. seen: the page has had this hash for `age` scans; was: the hash hvd was
 * told, or 0. Returns true if hvd is told the new one. Both run with the
 * page's chunk locked: they may not call the manager.
 */
struct mm_scan_ops {
	uint64_t (*hash)(void *arg, const void *page);
	bool (*seen)(void *arg, gfn_t gfn, uint64_t hash, uint64_t was,
		     unsigned age);
	void *arg;
};

/* Chunks in all ranges: what mm_scan_chunk takes, 0 to this less one. */
size_t mm_chunks(const struct mm *mm);

/*
 * Looks at one chunk: finds shared pages gone private, pages come and gone,
 * drops pages that stayed zero, hashes the private rest. Returns the pages
 * hashed, or -ENOENT (no longer managed). [worker]
 */
int mm_scan_chunk(struct mm *mm, size_t chunk, const struct mm_scan_ops *ops);

/* The same for the pages of [hva, +bytes) only, without waiting for age. */
int mm_scan_hint(struct mm *mm, hva_t hva, size_t bytes,
		 const struct mm_scan_ops *ops);

/* hvd forgot all offers: every page may be seen as new. [worker] */
void mm_offers_forget(struct mm *mm);

/* May cold huge pages be broken up to share parts of them. [worker] */
void mm_break_huge(struct mm *mm, bool on);

/*
 * Copies a page as it is now (another thread may be writing to it). -ENOENT:
 * not resident. [worker]
 */
int mm_page_read(struct mm *mm, gfn_t gfn, void *page_out);

/*
 * The same for n pages, up to the first that is not resident: returns how many
 * were copied. Best in the order of pages: a chunk is looked up once.
 */
size_t mm_pages_read(struct mm *mm, const gfn_t *gfn, size_t n,
		     uint8_t (*out)[PAGE_BYTES]);

/* ---- policy ---- */

struct mm_target {
	uint64_t resident_bytes; /* 0: no target */
	uint64_t store_bytes;
	bool compress;
	bool swap;
	uint32_t refault_permille_min; /* allowed; 2 is 0.2 % a minute */
	/* Rest between two scans, by which trials last; 0: 20 seconds. */
	uint64_t scan_ns;
};

void mm_target_set(struct mm *mm, const struct mm_target *target);

/*
 * Does a bounded slice (a few ms) of reclaim towards the target. Returns the
 * ns until it wants to be called again. [worker]
 */
uint64_t mm_reclaim(struct mm *mm);

/* Gives every shared page a copy of its own. [worker] */
int mm_unshare_all(struct mm *mm);

/* The clock of the manager's host. [any] */
uint64_t mm_now_ns(const struct mm *mm);

/* ---- looking ---- */

void mm_stats(struct mm *mm, struct mm_stats *out);
void mm_store_stats(struct mm *mm, struct tmem_stats *out);

/* Knobs of the store's client: see tmem_client_set. [any] */
int mm_store_set(struct mm *mm, uint32_t weight, uint64_t cap_bytes,
		 uint64_t reserve_bytes, bool compress);

/* Verifies states against pagemap, counts and the store. 0 or -EUCLEAN. */
int mm_check(struct mm *mm);

#endif
