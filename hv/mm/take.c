/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Taking pages (see take.h).
 *
 * Why the chunk is registered first: MOVE leaves a hole, and a hole in memory
 * that userfaultfd does not watch reads as zero. Why it is unregistered as soon
 * as no page is out: elsewhere the guest's first touches run at full speed.
 *
 * Dropped: mremap to lift a page out (the hole is a SIGSEGV, not a wait), and
 * stopping the vCPUs (the VMM's threads and the kernel write too).
 */
#include "hv/mm/take.h"

#include "hv/base/log.h"

#include <errno.h>
#include <sys/mman.h>

static void *at_ptr(const struct spot *s, size_t i)
{
	return hva_ptr(range_hva(s->range, s->page + i));
}

static struct spot chunk_spot(const struct spot *s)
{
	return spot_at(s, s->page & ~(CHUNK_PAGES - 1));
}

static int chunk_register(struct mm *mm, const struct spot *at)
{
	struct spot first = chunk_spot(at);
	unsigned mode = HOST_MISSING;
	int rc;

	if (at->chunk->registered)
		return 0;
	if (!(mm->features & HOST_MOVE))
		mode |= HOST_PROTECT;
	rc = mm->host->uffd_register(mm->uffd, at_ptr(&first, 0), CHUNK_BYTES,
				     mode);
	if (rc < 0)
		return rc;
	at->chunk->registered = true;
	COUNT(mm, chunks_registered, 1);
	return 0;
}

void take_chunk_stale(struct mm *mm, const struct spot *at)
{
	if (!at->chunk->registered)
		return;
	at->chunk->registered = false;
	COUNT(mm, chunks_registered, (uint64_t)-1);
}

void take_chunk_settle(struct mm *mm, const struct spot *at)
{
	struct spot first = chunk_spot(at);

	if (!at->chunk->registered || at->chunk->out)
		return;
	/* A failure leaves it registered: slower, never wrong. */
	if (mm->host->uffd_unregister(mm->uffd, at_ptr(&first, 0),
				      CHUNK_BYTES) < 0)
		return;
	at->chunk->registered = false;
	COUNT(mm, chunks_registered, (uint64_t)-1);
}

static int begin_move(struct take *t, uint8_t *bench)
{
	size_t done;
	int rc = t->mm->host->uffd_move(t->mm->uffd, bench, at_ptr(&t->at, 0),
					t->n * PAGE_BYTES, &done);

	if (!done)
		return rc == -ENOENT ? -EAGAIN : rc;
	t->n = done / PAGE_BYTES;
	t->data = bench;
	t->moved = true;
	return 0;
}

static int begin_copy(struct take *t, bool overlay)
{
	struct mm *mm = t->mm;
	void *ptr = at_ptr(&t->at, 0);
	size_t bytes = t->n * PAGE_BYTES;
	int rc = 0;

	if (!page_is_takeable(mm, spot_word(&t->at)) || t->at.chunk->io)
		return -EBUSY;
	/* An overlay was mapped after the chunk was registered. */
	if (overlay || (mm->features & HOST_MOVE))
		rc = mm->host->uffd_register(mm->uffd, ptr, bytes,
					     HOST_MISSING | HOST_PROTECT);
	if (rc == 0)
		rc = mm->host->uffd_protect(mm->uffd, ptr, bytes, true);
	if (rc < 0)
		return rc;
	t->data = ptr;
	t->moved = false;
	return 0;
}

static void begin_count(struct mm *mm, int rc, size_t n)
{
	if (rc == 0)
		COUNT(mm, takes, n);
	else if (rc == -EBUSY)
		COUNT(mm, take_busy, 1);
	else if (rc == -EAGAIN)
		COUNT(mm, take_raced, 1);
	else
		COUNT(mm, take_failed, 1);
}

int take_begin(struct mm *mm, const struct spot *at, size_t n, uint8_t *bench,
	       struct take *take)
{
	bool overlay = page_flags(spot_word(at)) & PAGE_OVERLAY;
	int rc = chunk_register(mm, at);

	*take = (struct take){.mm = mm, .at = *at, .n = n};
	if (rc == 0) {
		if ((mm->features & HOST_MOVE) && !overlay)
			rc = begin_move(take, bench);
		else
			rc = begin_copy(take, overlay);
	}
	begin_count(mm, rc, take->n);
	return rc;
}

/* A page that cannot be put back is kept where it is and tried for ever. */
static int move_back(struct mm *mm, void *to, void *from, size_t bytes)
{
	size_t done;
	int rc = 0;

	while (bytes) {
		rc = mm->host->uffd_move(mm->uffd, to, from, bytes, &done);
		to = (uint8_t *)to + done;
		from = (uint8_t *)from + done;
		bytes -= done;
		if (bytes && rc != -EAGAIN && !done)
			break;
	}
	return bytes ? rc : 0;
}

int take_return(struct take *t, size_t i, size_t n)
{
	struct mm *mm = t->mm;
	void *to = at_ptr(&t->at, i), *from = t->data + i * PAGE_BYTES;
	size_t bytes = n * PAGE_BYTES;
	int rc = 0;

	if (!t->moved)
		return mm->host->uffd_protect(mm->uffd, to, bytes, false);
	for (size_t at = 0; at < bytes && rc == 0; at += PAGE_BYTES) {
		/* One by one only when the whole run is refused. */
		if (at == 0 && move_back(mm, to, from, bytes) == 0)
			return 0;
		rc = move_back(mm, (uint8_t *)to + at, (uint8_t *)from + at,
			       PAGE_BYTES);
		/* Not on the bench any more: an earlier try got it across. */
		if (rc == -ENOENT || rc == -EEXIST)
			rc = 0;
		if (rc < 0)
			rc = fault_copy_in(mm, (uint8_t *)to + at,
					   (uint8_t *)from + at, PAGE_BYTES);
	}
	if (rc < 0)
		log_error("page at %p cannot be put back (%d): its reader "
			  "waits; please report",
			  to, rc);
	return rc;
}

int take_map(struct take *t, size_t i, size_t n, uint32_t frame)
{
	struct mm *mm = t->mm;
	void *to = at_ptr(&t->at, i);
	size_t bytes = n * PAGE_BYTES;
	int rc = mm->host->map_overlay(to, bytes, mm->pool_fd,
				       (uint64_t)frame << PAGE_SHIFT);

	if (rc < 0)
		return rc;
	for (size_t k = 0; k < n; k++) {
		struct spot s = spot_at(&t->at, t->at.page + i + k);

		spot_set_word(mm, &s,
			      page_word(PAGE_SHARED, 0, 0, 0, frame + k));
	}
	return 0;
}

int take_drop(struct take *t, size_t i, size_t n, enum page_state state)
{
	struct mm *mm = t->mm;
	void *at = at_ptr(&t->at, i);
	int rc = 0;

	if (!t->moved)
		rc = mm->host->advise(at, n * PAGE_BYTES, MADV_DONTNEED);
	if (rc < 0)
		return rc;
	for (size_t k = 0; k < n; k++) {
		struct spot s = spot_at(&t->at, t->at.page + i + k);
		uint64_t w = spot_word(&s);

		spot_set_word(mm, &s, page_word(state, 0, page_heat(w), 0, 0));
	}
	/* Whoever waits meanwhile faults again and finds the new state. */
	mm->host->uffd_wake(mm->uffd, at, n * PAGE_BYTES);
	return 0;
}

void take_end(struct take *t)
{
	if (t->moved)
		t->mm->host->advise(t->data, t->n * PAGE_BYTES, MADV_DONTNEED);
}

/*
 * Write-protect, copy, and slide the copy over the overlay: mremap replaces the
 * mapping in one step, so a reader sees the bytes before and after, never a
 * hole. The new mapping is not registered; the next take does that.
 */
static int anon_slide(struct take *t)
{
	struct mm *mm = t->mm;
	size_t bytes = t->n * PAGE_BYTES;
	void *to = at_ptr(&t->at, 0), *copy;
	int rc = mm->host->map_anon(NULL, bytes, &copy);

	if (rc < 0)
		return rc;
	memcpy(copy, t->data, bytes);
	if (t->at.range->dontfork)
		mm->host->advise(copy, bytes, MADV_DONTFORK);
	rc = mm->host->remap(copy, bytes, to);
	if (rc < 0)
		mm->host->unmap(copy, bytes);
	else
		mm->host->uffd_wake(mm->uffd, to, bytes);
	return rc;
}

int take_to_anon(struct mm *mm, const struct spot *at, size_t n)
{
	struct take t;
	int rc = take_begin(mm, at, n, NULL, &t);

	if (rc < 0)
		return rc;
	rc = anon_slide(&t);
	if (rc < 0) {
		take_return(&t, 0, n);
		return rc;
	}
	take_chunk_stale(mm, at);
	for (size_t k = 0; k < n; k++) {
		struct spot s = spot_at(at, at->page + k);

		spot_set_word(mm, &s,
			      page_without(spot_word(&s), PAGE_OVERLAY));
	}
	return 0;
}
