/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * struct mm, for the files of this folder only. See mm.h for what it promises.
 *
 *   guest RAM      [--ranges of the VMM, chunk by chunk--]
 *                     |  MOVE out            ^  MOVE back / COPY
 *                     v                      |
 *   window         [2 MiB]  the worker's bench: compare here, then map a frame
 *   held           [--as long as the range--]  pages on trial
 *                     |  put                 ^  get
 *                     v                      |
 *   store          tmem, a persistent pool; behind it the swap file
 *
 * Lock order: release gate (shared for an operation, exclusive for a walk),
 * chunk, watch_lock, store and swap internals. The gate keeps "this page maps
 * that frame" and "that reference was given back" from being seen apart by a
 * walk.
 */
#ifndef HV_MM_CORE_H
#define HV_MM_CORE_H

#include "hv/base/probe.h"
#include "hv/mm/dense.h"
#include "hv/mm/histogram.h"
#include "hv/mm/map.h"
#include "hv/mm/mm.h"
#include "hv/mm/page.h"
#include "hv/mm/swap.h"
#include "tmem/tmem.h"

#include <stdatomic.h>

#define FAULT_THREADS_MAX 8
#define AGE_COLD	  3  /* scans without a change */
#define AHEAD_MAX	  16 /* pages brought back beside one waited for */

struct mm_count {
#define FIELD(name, unit, help) _Atomic uint64_t name;
	MM_STATS(FIELD, FIELD)
#undef FIELD
	_Atomic uint64_t in_state[PAGE_STATES];
};

#define COUNT(mm, name, n)                                                     \
	atomic_fetch_add_explicit(&(mm)->count.name, n, memory_order_relaxed)

struct fault_thread {
	struct mm *mm;
	pthread_t id;
	_Atomic uint64_t cpu_ns;
	uint64_t cpu_noted_ns;
	uint64_t answered_ns;
	uint64_t poll_from_ns; /* no polling before */
	bool frequent; /* the last fault came soon after the one before */
	struct histogram wait;
	bool away;	     /* has a fault and may sleep: not watching */
	bool parked;	     /* under watch_lock */
	pthread_cond_t call; /* leaves its park */
	uint8_t page[AHEAD_MAX * 4096] __attribute__((aligned(4096)));
};

struct reclaim {
	size_t hand;		 /* next chunk to look at */
	_Atomic unsigned trials; /* chunks on trial */
	bool held_refused;	 /* no memory for pages on trial: said once */

	/* The brake: see reclaim.c. */
	uint64_t sampled_ns;
	uint64_t promotions; /* at that time */
	uint64_t rate;	     /* smoothed, 1/10000 of the working set a minute */
	uint64_t braked_ns;  /* when it last hit; 0: never */
	uint64_t eased_ns;   /* when trials last became shorter or longer */
	uint32_t trial_len;  /* in sixteenths of the rest between scans */

	size_t swap_hand;
	uint64_t swap_rest_ns; /* no writes before; 0: never refused */
};

struct mm {
	const struct host_ops *host;
	int uffd;
	unsigned features;
	struct map map;

	struct tmem *tm; /* also the guest's own client's, if it has one */
	bool store_is_own;
	struct tmem_client *client;
	int store_pool;
	struct dense *dense; /* NULL: LZ4 alone */
	struct swap *swap;

	uint8_t *window;
	uint8_t *swap_batch; /* SWAP_BATCH pages on their way to the disk */

	int pool_fd;
	const uint8_t *pool; /* mapped while there are grants; or NULL */
	uint64_t pool_bytes;

	pthread_rwlock_t gate;
	mm_release_fn *release;
	void *release_arg;

	_Atomic bool copy_takes_off;
	bool break_huge;
	bool vmas_full_said;
	uint64_t vmas_full_until_ns;

	struct mm_target target;
	pthread_mutex_t target_lock;
	struct reclaim reclaim;

	unsigned fault_threads;
	struct fault_thread *fault;
	pthread_mutex_t watch_lock;
	unsigned watching; /* fault threads that wait for the next one */
	uint64_t poll_ns;
	_Atomic bool stopping;
	int stop_fd; /* eventfd: readable when stopping */

	struct mm_count count;
};

/* ---- words ---- */

static inline uint64_t spot_word(const struct spot *s)
{
	return s->range->word[s->page];
}

static inline hva_t spot_hva(const struct spot *s)
{
	return range_hva(s->range, s->page);
}

static inline struct spot spot_at(const struct spot *s, size_t page)
{
	return (struct spot){s->range, s->chunk, page};
}

/* Chunk locked. Keeps the gauges and the chunk's `out` true. */
static inline void spot_set_word(struct mm *mm, const struct spot *s,
				 uint64_t word)
{
	uint64_t *w = &s->range->word[s->page];
	enum page_state from = page_state(*w), to = page_state(word);

	if ((page_flags(*w) ^ page_flags(word)) & PAGE_BALLOONED)
		COUNT(mm, ballooned_pages,
		      page_flags(word) & PAGE_BALLOONED ? 1 : (uint64_t)-1);
	if (from != to) {
		PROBE4(page, s->range->first.n, s->page, from, to);
		atomic_fetch_sub_explicit(&mm->count.in_state[from], 1,
					  memory_order_relaxed);
		atomic_fetch_add_explicit(&mm->count.in_state[to], 1,
					  memory_order_relaxed);
		s->chunk->out = (uint16_t)(s->chunk->out - page_is_out(*w) +
					   page_is_out(word));
	}
	*w = word;
}

/*
 * Cold enough to be taken: unchanged for AGE_COLD scans, twice that for each
 * degree of heat. One that lies in an overlay is counted apart.
 */
static inline bool page_is_cold(uint64_t word)
{
	unsigned need = AGE_COLD << page_heat(word);

	return page_state(word) == PAGE_PRIVATE &&
	       page_age(word) >= (need < PAGE_AGE_MAX ? need : PAGE_AGE_MAX);
}

/*
 * Is there a way to take this page at all? MOVE lifts plain pages; what is left
 * is COPY, which may be off and needs write-protection.
 */
static inline bool page_is_takeable(const struct mm *mm, uint64_t word)
{
	bool overlay = page_flags(word) & PAGE_OVERLAY;

	if ((mm->features & HOST_MOVE) && !overlay)
		return true;
	return !mm->copy_takes_off &&
	       (mm->features & (overlay ? HOST_WP_SHMEM : HOST_WP));
}

/*
 * May pages of the chunk be taken? A huge page that is being written keeps its
 * speed. Chunk locked.
 */
static inline bool chunk_may_break(const struct mm *mm, const struct chunk *c)
{
	if (!c->managed || c->pinned)
		return false;
	return !c->huge || (mm->break_huge && c->changed < CHUNK_PAGES / 4);
}

/* Where the page lies while it is on trial. Chunk locked. */
static inline uint8_t *held_ptr(const struct spot *s)
{
	return s->range->held + s->page * PAGE_BYTES;
}

/* ---- references to give back ---- */

/* Collected under a chunk's lock, handed to the hook after it. */
struct releases {
	uint32_t n;
	uint32_t frame[CHUNK_PAGES];
};

static inline void releases_add(struct releases *rel, uint32_t frame)
{
	rel->frame[rel->n++] = frame;
}

/* Gate held (shared), chunk not. */
static inline void releases_flush(struct mm *mm, struct releases *rel)
{
	if (rel->n && mm->release)
		mm->release(mm->release_arg, rel->frame, rel->n);
	rel->n = 0;
}

/* ---- mm.c ---- */

/* Tables of the manager and what its mappings cost the kernel. */
uint64_t mm_metadata_bytes(const struct mm *mm);

/*
 * What the store takes, less its ephemeral pages: they are free memory lent to
 * the guest. Also tells all of the store.
 */
uint64_t mm_store_bytes(const struct mm *mm, struct tmem_stats *store_out);

/* Memory to which pages are moved: registered for good, never huge. */
MUST_CHECK int bench_create(struct mm *mm, size_t bytes, uint8_t **out);

/* ---- fault.c ---- */

MUST_CHECK int fault_threads_start(struct mm *mm, unsigned n);
void fault_threads_stop(struct mm *mm);

/*
 * UFFDIO_COPY of whole pages, until they are there: waits for memory if it
 * must. 0, -EEXIST, or the mapping is gone (-ENOENT, -ESRCH, -EINVAL).
 */
int fault_copy_in(struct mm *mm, void *to, const void *from, size_t bytes);

/*
 * Brings the page back into the guest, whatever its state. Chunk locked. buf:
 * one page, the caller's. 0, or why it could not.
 */
int fault_bring_back(struct mm *mm, const struct spot *s, uint8_t *buf);

/* ---- ahead.c ---- */

/*
 * The page at s, of this state, has come back because somebody waited for it:
 * those that will be wanted next come, too. Chunk locked. buf: AHEAD_MAX pages.
 */
void ahead_fetch(struct mm *mm, const struct spot *s, enum page_state state,
		 uint8_t *buf);

/* ---- the store ---- */

static inline struct tmem_oid store_oid(void)
{
	return (struct tmem_oid){{0, 0, 0}};
}

/* Page numbers are 32 bits there: 16 TiB of guest RAM. */
static inline uint32_t store_index(const struct spot *s)
{
	return (uint32_t)range_gfn(s->range, s->page).n;
}

void store_drop(struct mm *mm, const struct spot *s);

/* 0 and a copy; the store keeps its own. */
MUST_CHECK int store_fetch(struct mm *mm, const struct spot *s, uint8_t *buf);

/* Drops whatever a page's state owns outside the guest (store, swap, frame). */
void page_let_go(struct mm *mm, const struct spot *s, struct releases *rel);

#endif
