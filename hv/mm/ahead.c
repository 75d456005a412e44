/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading ahead: most of what a fault costs is the way to its answer and back,
 * so where a guest goes through pages that are out in order, the next ones are
 * brought back along with the one it waits for.
 *
 *   faults        p            p+1               p+4
 *   brought back  p            p+1  p+2 p+3      p+4  p+5 ... p+8     ...
 *   window        0            2                 4
 *
 * A chunk expects the next fault where its last answer ended. Met, the window
 * doubles, up to AHEAD_MAX; missed, it is 0: an access at random costs nothing
 * more than its own page. Pages of the same state only, and of one chunk, whose
 * lock is held. The one waited for is answered first.
 *
 * What is read ahead is a guess: whatever the kernel or the store refuses stays
 * where it is, and a fault of its own will tell. A page counts as come back for
 * the brake of reclaim.c, but is no hotter for it.
 */
#include "hv/mm/core.h"

#include <errno.h>

static size_t run_length(const struct spot *s, enum page_state state,
			 size_t most)
{
	size_t end = (s->page | (CHUNK_PAGES - 1)) + 1, n = 0;

	while (n < most && s->page + n < end) {
		struct spot next = spot_at(s, s->page + n);

		if (page_state(spot_word(&next)) != state)
			break;
		n++;
	}
	return n;
}

/* The next pages' place in the chunk; CHUNK_PAGES at its end: never met. */
static bool window_adapt(const struct spot *s)
{
	struct chunk *c = s->chunk;
	size_t at = s->page % CHUNK_PAGES;

	if (at && at == c->ahead_at)
		c->ahead = (uint8_t)min_u64(AHEAD_MAX,
					    c->ahead ? 2 * c->ahead : 2);
	else
		c->ahead = 0;
	c->ahead_at = (uint16_t)(at + 1);
	return c->ahead;
}

/* Pages that arrived; the kernel may refuse any of them. */
static size_t run_in(struct mm *mm, const struct spot *s, uint8_t *from,
		     size_t pages, bool move)
{
	const struct host_ops *host = mm->host;
	uint8_t *to = hva_ptr(spot_hva(s));
	size_t bytes = pages * PAGE_BYTES, all = 0, done;
	int rc;

	do {
		rc = (move ? host->uffd_move(mm->uffd, to + all, from + all,
					     bytes - all, &done)
			   : host->uffd_copy(mm->uffd, to + all, from + all,
					     bytes - all, &done));
		all += done;
	} while (all < bytes && rc == -EAGAIN);
	return all / PAGE_BYTES;
}

static size_t compressed_in(struct mm *mm, const struct spot *s, size_t n,
			    uint8_t *buf)
{
	size_t got = 0, pages;

	while (got < n) {
		struct spot next = spot_at(s, s->page + got);

		if (store_fetch(mm, &next, buf + got * PAGE_BYTES) < 0)
			break;
		got++;
	}
	if (!got)
		return 0;
	pages = run_in(mm, s, buf, got, false);
	for (size_t i = 0; i < pages; i++) {
		struct spot next = spot_at(s, s->page + i);

		store_drop(mm, &next);
	}
	return pages;
}

static void set_private(struct mm *mm, const struct spot *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct spot next = spot_at(s, s->page + i);
		unsigned heat = page_heat(spot_word(&next));

		spot_set_word(mm, &next,
			      page_word(PAGE_PRIVATE, 0, heat, 0, 0));
	}
}

void ahead_fetch(struct mm *mm, const struct spot *s, enum page_state state,
		 uint8_t *buf)
{
	struct spot next = spot_at(s, s->page + 1);
	size_t n;

	if (!window_adapt(s) || next.page % CHUNK_PAGES == 0)
		return;
	n = run_length(&next, state, s->chunk->ahead);
	if (!n)
		return;
	if (state == PAGE_COMPRESSED)
		n = compressed_in(mm, &next, n, buf);
	else
		n = run_in(mm, &next, held_ptr(&next), n, true);
	set_private(mm, &next, n);
	if (state == PAGE_HELD)
		s->chunk->returned = (uint16_t)(s->chunk->returned + n);
	else
		COUNT(mm, ahead_pages, n);
	s->chunk->ahead_at = (uint16_t)(s->chunk->ahead_at + n);
}
