/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sharing: frames of the pool mapped over guest pages, and the way back.
 *
 *   guest RAM   |a|b|c|d|e|f|      pages b c d equal frames 7 8 9
 *                  \ \ \           one mapping: private, offset of frame 7
 *   frame pool  |.|.|7|8|9|.|
 *
 * Nothing is mapped that was not compared byte by byte while it was held. A
 * reference that comes with a grant ends in exactly one of two ways: the page
 * is SHARED, or the reference is released in the same call.
 *
 * The way back needs no take: an atomic addition of zero makes the kernel copy
 * the frame for us, ordered with whatever the guest writes meanwhile.
 */
#include "hv/base/log.h"
#include "hv/mm/overlay.h"
#include "hv/mm/take.h"

#include <errno.h>
#include <sys/mman.h>

/*
 * Grants before others may have the processor: a millisecond or two. The kernel
 * would take it away while we change mappings, and then every page fault of the
 * guest waits until we have it again: 4 ms, when the host is busy merging.
 */
#define YIELD_AFTER 128

/* What one call works on: grants of one chunk. */
struct batch {
	struct mm *mm;
	const struct mm_page_map *map;
	size_t n;
	size_t mapped;
	bool moved; /* what was taken lies in the window */
	struct releases rel;
	uint64_t pagemap[CHUNK_PAGES];
};

/* ---- mappings, of which the kernel may refuse more ---- */

static bool vmas_full(struct mm *mm)
{
	return mm->vmas_full_until_ns &&
	       mm->host->now_ns() < mm->vmas_full_until_ns;
}

/* rc: what the kernel said to one more. */
static void vmas_note(struct mm *mm, int rc)
{
	if (rc != -ENOMEM)
		return;
	mm->vmas_full_until_ns = mm->host->now_ns() + 5000000000;
	if (mm->vmas_full_said)
		return;
	mm->vmas_full_said = true;
	log_warn("the kernel refuses more mappings; sharing pauses. Raise "
		 "vm.max_map_count (hvd does that when it runs as root)");
}

static int pool_map(struct mm *mm)
{
	void *at;
	int rc;

	if (mm->pool)
		return 0;
	rc = mm->host->map_pool(mm->pool_fd, mm->pool_bytes, &at);
	vmas_note(mm, rc);
	if (rc == 0)
		mm->pool = at;
	return rc;
}

void mm_share_done(struct mm *mm)
{
	if (mm->pool)
		mm->host->unmap((void *)(uintptr_t)mm->pool, mm->pool_bytes);
	mm->pool = NULL;
}

/* ---- a batch ---- */

static size_t page_in_chunk(const struct spot *s)
{
	return s->page & (CHUNK_PAGES - 1);
}

static bool resident(const struct batch *b, const struct spot *s)
{
	uint64_t e = b->pagemap[page_in_chunk(s)];
	bool overlay = page_flags(spot_word(s)) & PAGE_OVERLAY;

	if (overlay)
		return (e & PAGEMAP_PRESENT) && !(e & PAGEMAP_FILE);
	return e & PAGEMAP_PRESENT;
}

static bool may_take(const struct batch *b, const struct spot *s,
		     uint32_t frame)
{
	return page_state(spot_word(s)) == PAGE_PRIVATE && resident(b, s) &&
	       frame < b->mm->pool_bytes >> PAGE_SHIFT;
}

/* Grants i.. that continue a run of takeable, consecutive pages. */
static size_t run_length(const struct batch *b, const struct spot *first,
			 size_t i)
{
	unsigned overlay = page_flags(spot_word(first)) & PAGE_OVERLAY;
	size_t k = 0;

	while (i + k < b->n && b->map[i + k].gfn.n == b->map[i].gfn.n + k) {
		struct spot s = spot_at(first, first->page + k);

		if (!may_take(b, &s, b->map[i + k].frame) ||
		    (page_flags(spot_word(&s)) & PAGE_OVERLAY) != overlay)
			break;
		k++;
	}
	return k;
}

static bool equals_frame(const struct take *t, size_t k, uint32_t frame)
{
	return memcmp(t->data + k * PAGE_BYTES,
		      t->mm->pool + ((size_t)frame << PAGE_SHIFT),
		      PAGE_BYTES) == 0;
}

/* The next scan may offer the page again. */
static void refuse(struct batch *b, const struct spot *any, size_t i, size_t n)
{
	for (size_t k = i; k < i + n; k++) {
		size_t at = b->map[k].gfn.n - any->range->first.n;
		struct spot s = spot_at(any, at);
		uint64_t w = spot_word(&s);

		releases_add(&b->rel, b->map[k].frame);
		if (page_state(w) == PAGE_PRIVATE)
			spot_set_word(b->mm, &s, page_without(w, PAGE_OFFERED));
	}
}

static void put_back(struct batch *b, struct take *t, size_t i, size_t k)
{
	struct spot s = spot_at(&t->at, t->at.page + k);
	uint64_t w = spot_word(&s);

	take_return(t, k, 1);
	spot_set_word(b->mm, &s,
		      page_word(PAGE_PRIVATE, 0, page_heat(w),
				page_flags(w) & PAGE_OVERLAY, 0));
	refuse(b, &s, i + k, 1);
}

/* From page k of the take: maps the longest piece that is one mapping. */
static size_t map_piece(struct batch *b, struct take *t, size_t i, size_t k)
{
	const struct mm_page_map *m = b->map + i;
	size_t n = 0;
	int rc;

	while (k + n < t->n && m[k + n].frame == m[k].frame + n &&
	       equals_frame(t, k + n, m[k + n].frame))
		n++;
	if (!n) {
		COUNT(b->mm, merge_mismatch, 1);
		put_back(b, t, i, k);
		return 1;
	}
	if (page_flags(spot_word(&t->at)) & PAGE_OVERLAY)
		COUNT(b->mm, collected_pages, n);
	rc = take_map(t, k, n, m[k].frame);
	vmas_note(b->mm, rc);
	if (rc == 0) {
		b->mapped += n;
		COUNT(b->mm, merged_pages, n);
		return n;
	}
	for (size_t j = 0; j < n; j++)
		put_back(b, t, i, k + j);
	return n;
}

/* Handles grants i, i + 1, ... of one run; returns how many. */
static size_t share_run(struct batch *b, const struct spot *s, size_t i)
{
	struct mm *mm = b->mm;
	size_t n = run_length(b, s, i);
	struct take t;

	if (!n) {
		COUNT(mm, merge_changed, 1);
		refuse(b, s, i, 1);
		return 1;
	}
	if (take_begin(mm, s, n, mm->window + page_in_chunk(s) * PAGE_BYTES,
		       &t) < 0) {
		refuse(b, s, i, 1);
		return 1;
	}
	for (size_t k = 0; k < t.n;)
		k += map_piece(b, &t, i, k);
	b->moved |= t.moved;
	return t.n;
}

/* The kernel's entries of the pages that are granted. */
static int pagemap_fill(struct batch *b, const struct range *range)
{
	size_t from = b->map[0].gfn.n - range->first.n;
	size_t to = b->map[b->n - 1].gfn.n - range->first.n;

	return b->mm->host->pagemap_read(
		hva_ptr(range_hva(range, from)), to - from + 1,
		b->pagemap + (from & (CHUNK_PAGES - 1)));
}

/* What each run would need, once for all of them. */
static void share_settle(struct batch *b, const struct spot *first)
{
	const struct host_ops *host = b->mm->host;
	size_t page = first->page & ~(CHUNK_PAGES - 1);
	void *at = hva_ptr(range_hva(first->range, page));

	host->uffd_wake(b->mm->uffd, at, CHUNK_BYTES);
	if (b->moved)
		host->advise(b->mm->window, CHUNK_BYTES, MADV_DONTNEED);
	b->moved = false;
	if (first->range->dontfork)
		host->advise(at, CHUNK_BYTES, MADV_DONTFORK);
	take_chunk_settle(b->mm, first);
}

static void share_chunk(struct batch *b, const struct spot *first)
{
	struct mm *mm = b->mm;
	size_t i = 0;

	pthread_mutex_lock(&first->chunk->lock);
	if (chunk_may_break(mm, first->chunk) && !vmas_full(mm) &&
	    pool_map(mm) == 0 && pagemap_fill(b, first->range) == 0) {
		while (i < b->n) {
			size_t at = b->map[i].gfn.n - first->range->first.n;
			struct spot s = spot_at(first, at);

			i += share_run(b, &s, i);
		}
		share_settle(b, first);
	}
	refuse(b, first, i, b->n - i);
	pthread_mutex_unlock(&first->chunk->lock);
}

/* No such page, or no pool: there is only the reference to give back. */
static void refuse_unknown(struct batch *b)
{
	for (size_t k = 0; k < b->n; k++)
		releases_add(&b->rel, b->map[k].frame);
}

/* Grants from the start of map that lie in one chunk, none of them twice. */
static size_t chunk_grants(const struct mm_page_map *map, size_t n)
{
	uint64_t chunk = map[0].gfn.n >> CHUNK_SHIFT;
	size_t k = 1;

	while (k < n && map[k].gfn.n >> CHUNK_SHIFT == chunk &&
	       map[k].gfn.n > map[k - 1].gfn.n)
		k++;
	return k;
}

int mm_share(struct mm *mm, const struct mm_page_map *map, size_t n,
	     size_t *mapped_out)
{
	struct batch b = {.mm = mm};
	size_t at_once = 0;
	struct spot s;

	*mapped_out = 0;
	pthread_rwlock_rdlock(&mm->gate);
	while (n) {
		b.map = map;
		b.n = chunk_grants(map, n);
		if (mm->pool_fd >= 0 && map_find_gfn(&mm->map, map[0].gfn, &s))
			share_chunk(&b, &s);
		else
			refuse_unknown(&b);
		releases_flush(mm, &b.rel);
		map += b.n;
		n -= b.n;
		at_once += b.n;
		if (at_once < YIELD_AFTER)
			continue;
		mm->host->thread_yield();
		at_once = 0;
	}
	pthread_rwlock_unlock(&mm->gate);
	*mapped_out = b.mapped;
	return 0;
}

/* ---- the way back ---- */

/* Chunk locked, page SHARED (or private in its overlay already). */
void overlay_break(struct mm *mm, const struct spot *s, struct releases *rel)
{
	uint32_t *word = hva_ptr(spot_hva(s));

	__atomic_fetch_add(word, 0, __ATOMIC_SEQ_CST);
	releases_add(rel, (uint32_t)page_payload(spot_word(s)));
	spot_set_word(mm, s, page_word(PAGE_PRIVATE, 0, 0, PAGE_OVERLAY, 0));
}

static void unshare_chunk(struct mm *mm, const struct spot *first,
			  struct releases *rel)
{
	pthread_mutex_lock(&first->chunk->lock);
	for (size_t i = 0; i < CHUNK_PAGES; i++) {
		struct spot s = spot_at(first, first->page + i);

		if (page_state(spot_word(&s)) == PAGE_SHARED)
			overlay_break(mm, &s, rel);
	}
	pthread_mutex_unlock(&first->chunk->lock);
}

int mm_unshare_all(struct mm *mm)
{
	struct releases rel = {.n = 0};
	struct spot s;

	pthread_rwlock_rdlock(&mm->gate);
	for (size_t c = 0; c < mm->map.chunks; c++) {
		if (!map_find_chunk(&mm->map, c, &s))
			continue;
		unshare_chunk(mm, &s, &rel);
		releases_flush(mm, &rel);
	}
	pthread_rwlock_unlock(&mm->gate);
	return 0;
}
