/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the VMM does to guest RAM while we manage it: it adds, unmaps and
 * discards memory, reads disks into it and pins it for devices.
 *
 * A range that is let go (mm_range_remove, mm_pin) is not forgotten: pages that
 * went private inside an overlay would show the frame again if the VMM
 * discarded them, so its discards still come through here. Only munmap
 * (mm_range_forget) ends a range.
 */
#include "hv/mm/overlay.h"
#include "hv/mm/reclaim.h"
#include "hv/mm/take.h"

#include "hv/base/log.h"

#include <errno.h>
#include <sys/mman.h>

/* A stretch of one chunk: pages [first, first + n) of its range. */
struct stretch {
	struct spot at;
	size_t n;
};

/*
 * Walks [*hva, +*bytes) chunk by chunk; steps over what is not guest RAM.
 * False: the end.
 */
static bool stretch_next(struct mm *mm, hva_t *hva, size_t *bytes,
			 struct stretch *out)
{
	while (*bytes) {
		size_t left = CHUNK_BYTES - (hva->n & (CHUNK_BYTES - 1));
		size_t step = min_u64(left, *bytes);
		hva_t here = *hva;

		hva->n += step;
		*bytes -= step;
		if (!map_find_hva(&mm->map, here, &out->at))
			continue;
		out->n =
			(step + (here.n & (PAGE_BYTES - 1)) + PAGE_BYTES - 1) >>
			PAGE_SHIFT;
		return true;
	}
	return false;
}

bool mm_is_managed(struct mm *mm, hva_t hva, size_t bytes)
{
	struct stretch st;

	return stretch_next(mm, &hva, &bytes, &st);
}

int mm_range_add(struct mm *mm, hva_t hva, size_t bytes, bool dontfork)
{
	uintptr_t start = (hva.n + CHUNK_BYTES - 1) & ~(CHUNK_BYTES - 1);
	uintptr_t end = (hva.n + bytes) & ~(CHUNK_BYTES - 1);
	struct range *r;
	int rc;

	if (hva.n + bytes < hva.n || end <= start)
		return -EINVAL;
	rc = map_add(&mm->map, (hva_t){start}, (end - start) >> PAGE_SHIFT,
		     dontfork, &r);
	if (rc == 0)
		COUNT(mm, in_state[PAGE_ABSENT], r->pages);
	return rc;
}

/* ---- letting go ---- */

static int page_restore(struct mm *mm, const struct spot *s,
			struct releases *rel)
{
	uint8_t buf[PAGE_BYTES];
	uint64_t w = spot_word(s);

	if (page_state(w) == PAGE_SHARED)
		overlay_break(mm, s, rel);
	else if (page_is_out(w))
		return fault_bring_back(mm, s, buf);
	return 0;
}

/* The whole chunk; a page that cannot come back stays answerable. */
static int chunk_restore(struct mm *mm, const struct spot *at, bool pinned)
{
	struct releases rel = {.n = 0};
	struct spot first = spot_at(at, at->page & ~(CHUNK_PAGES - 1));
	int rc = 0;

	pthread_rwlock_rdlock(&mm->gate);
	pthread_mutex_lock(&first.chunk->lock);
	first.chunk->managed = false;
	for (size_t i = 0; i < CHUNK_PAGES; i++) {
		struct spot s = spot_at(&first, first.page + i);
		int r = page_restore(mm, &s, &rel);

		if (r < 0)
			rc = r;
	}
	if (rc == 0)
		reclaim_trial_clear(mm, &first);
	take_chunk_settle(mm, &first);
	if (pinned && !first.chunk->pinned) {
		first.chunk->pinned = true;
		COUNT(mm, pinned_pages, CHUNK_PAGES);
	}
	pthread_mutex_unlock(&first.chunk->lock);
	releases_flush(mm, &rel);
	pthread_rwlock_unlock(&mm->gate);
	return rc;
}

int mm_range_remove(struct mm *mm, hva_t hva, size_t bytes)
{
	unsigned n = mm->map.ranges;
	int rc = 0;

	for (unsigned i = 0; i < n; i++) {
		struct range *r = &mm->map.range[i];

		if (!r->live || hva.n + bytes <= r->hva.n ||
		    hva.n >= r->hva.n + r->pages * PAGE_BYTES)
			continue;
		for (size_t p = 0; p < r->pages; p += CHUNK_PAGES) {
			struct spot s = {r, &r->chunk[p >> CHUNK_SHIFT], p};
			int one = chunk_restore(mm, &s, false);

			if (one < 0)
				rc = one;
		}
	}
	return rc;
}

int mm_pin(struct mm *mm, hva_t hva, size_t bytes)
{
	struct stretch st;
	int rc = 0;

	while (stretch_next(mm, &hva, &bytes, &st)) {
		int one = chunk_restore(mm, &st.at, true);

		if (one < 0)
			rc = one;
	}
	return rc;
}

/* ---- discards ---- */

static bool in_overlay(const struct spot *s)
{
	uint64_t w = spot_word(s);

	return page_state(w) == PAGE_SHARED || page_flags(w) & PAGE_OVERLAY;
}

static size_t same_kind(const struct spot *s, size_t most)
{
	size_t n = 1;

	while (n < most) {
		struct spot next = spot_at(s, s->page + n);

		if (in_overlay(&next) != in_overlay(s))
			break;
		n++;
	}
	return n;
}

/* Fresh anonymous memory over overlays: their frame must not show through. */
static int discard_overlay(struct mm *mm, const struct spot *s, size_t n)
{
	void *out;
	int rc = mm->host->map_anon(hva_ptr(spot_hva(s)), n * PAGE_BYTES, &out);

	if (rc < 0)
		return rc;
	if (s->range->dontfork)
		mm->host->advise(out, n * PAGE_BYTES, MADV_DONTFORK);
	take_chunk_stale(mm, s);
	return 0;
}

static int discard_run(struct mm *mm, const struct spot *s, size_t n,
		       bool balloon, struct releases *rel)
{
	void *ptr = hva_ptr(spot_hva(s));
	int rc = in_overlay(s)
			 ? discard_overlay(mm, s, n)
			 : mm->host->advise(ptr, n * PAGE_BYTES, MADV_DONTNEED);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < n; i++) {
		struct spot p = spot_at(s, s->page + i);

		page_let_go(mm, &p, rel);
		spot_set_word(mm, &p,
			      page_word(PAGE_ABSENT, 0, 0,
					balloon ? PAGE_BALLOONED : 0, 0));
	}
	mm->host->uffd_wake(mm->uffd, ptr, n * PAGE_BYTES);
	COUNT(mm, discards, n);
	return 0;
}

static int discard_stretch(struct mm *mm, const struct stretch *st,
			   bool balloon)
{
	struct releases rel = {.n = 0};
	int rc = 0;

	pthread_rwlock_rdlock(&mm->gate);
	pthread_mutex_lock(&st->at.chunk->lock);
	for (size_t i = 0; i < st->n && rc == 0;) {
		struct spot s = spot_at(&st->at, st->at.page + i);
		size_t n = same_kind(&s, st->n - i);

		rc = discard_run(mm, &s, n, balloon, &rel);
		i += n;
	}
	pthread_mutex_unlock(&st->at.chunk->lock);
	releases_flush(mm, &rel);
	pthread_rwlock_unlock(&mm->gate);
	return rc;
}

int mm_discard(struct mm *mm, hva_t hva, size_t bytes, bool balloon)
{
	struct stretch st;
	int rc = -ENOENT;

	while (stretch_next(mm, &hva, &bytes, &st)) {
		rc = discard_stretch(mm, &st, balloon);
		if (rc < 0)
			break;
	}
	return rc;
}

/* ---- munmap ---- */

static void forget_stretch(struct mm *mm, const struct stretch *st)
{
	struct releases rel = {.n = 0};

	pthread_rwlock_rdlock(&mm->gate);
	pthread_mutex_lock(&st->at.chunk->lock);
	st->at.chunk->managed = false;
	for (size_t i = 0; i < st->n; i++) {
		struct spot s = spot_at(&st->at, st->at.page + i);

		page_let_go(mm, &s, &rel);
		spot_set_word(mm, &s, page_word(PAGE_ABSENT, 0, 0, 0, 0));
	}
	if (!st->at.chunk->out)
		reclaim_trial_clear(mm, &st->at);
	pthread_mutex_unlock(&st->at.chunk->lock);
	releases_flush(mm, &rel);
	pthread_rwlock_unlock(&mm->gate);
}

void mm_range_forget(struct mm *mm, hva_t hva, size_t bytes)
{
	unsigned n = mm->map.ranges;
	hva_t at = hva;
	size_t left = bytes;
	struct stretch st;

	while (stretch_next(mm, &at, &left, &st))
		forget_stretch(mm, &st);
	for (unsigned i = 0; i < n; i++) {
		struct range *r = &mm->map.range[i];

		if (r->live && hva.n <= r->hva.n &&
		    hva.n + bytes >= r->hva.n + r->pages * PAGE_BYTES) {
			r->live = false;
			COUNT(mm, in_state[PAGE_ABSENT], -(uint64_t)r->pages);
		}
	}
}

/* ---- I/O behind the page table
 * ------------------------------------------------ */

static void io_count(struct mm *mm, hva_t hva, size_t bytes, int by)
{
	struct stretch st;

	while (stretch_next(mm, &hva, &bytes, &st)) {
		pthread_mutex_lock(&st.at.chunk->lock);
		st.at.chunk->io = (uint16_t)(st.at.chunk->io + by);
		pthread_mutex_unlock(&st.at.chunk->lock);
	}
}

void mm_io_begin(struct mm *mm, hva_t hva, size_t bytes)
{
	io_count(mm, hva, bytes, 1);
}

void mm_io_end(struct mm *mm, hva_t hva, size_t bytes)
{
	io_count(mm, hva, bytes, -1);
}

/* A take under way holds its chunk's lock: pass through every lock once. */
void mm_copy_takes_off(struct mm *mm)
{
	mm->copy_takes_off = true;
	for (size_t c = 0; c < mm->map.chunks; c++) {
		struct spot s;

		if (!map_find_chunk(&mm->map, c, &s))
			continue;
		pthread_mutex_lock(&s.chunk->lock);
		pthread_mutex_unlock(&s.chunk->lock);
	}
}
