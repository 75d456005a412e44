/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Taking pages safely: from begin to end nobody can change the bytes at
 * take.data, and an access by the guest, the VMM or the kernel waits.
 *
 * Two ways. MOVE (Linux 6.8, UFFDIO_MOVE): the page itself is lifted into the
 * bench; a pinned page is refused by the kernel. COPY (older kernels, and pages
 * gone private inside an overlay, which MOVE cannot lift): the page is
 * write-protected and stays; that does not see a device's write in flight, so
 * it is refused while the chunk has I/O, or when I/O cannot be seen.
 *
 *   n = returned + mapped + dropped      at take_end, for every take
 *
 * All functions: chunk locked; `i` counts pages from the start of the take.
 */
#ifndef HV_MM_TAKE_H
#define HV_MM_TAKE_H

#include "hv/mm/core.h"

struct take {
	struct mm *mm;
	struct spot at;
	size_t n;
	uint8_t *data; /* n pages */
	bool moved;
};

/*
 * Takes up to n pages from `at` on, within one chunk: all PRIVATE and resident,
 * all with the same PAGE_OVERLAY flag. bench: room for n pages, userfaultfd
 * registered, empty. On success take->n is how many were got (1 to n). -EBUSY:
 * pinned or I/O in flight; -EAGAIN: raced; other: the kernel said no. On error
 * nothing was taken and the first page is the one refused.
 */
MUST_CHECK int take_begin(struct mm *mm, const struct spot *at, size_t n,
			  uint8_t *bench, struct take *take);

/* Back into the guest, unchanged. Words are left as they are. */
int take_return(struct take *take, size_t i, size_t n);

/*
 * Maps frames frame, frame + 1, ... in their place and sets the words. When all
 * of a chunk is mapped the caller wakes who waits for it (a fault thread would,
 * but later) and sees to MADV_DONTFORK.
 */
int take_map(struct take *take, size_t i, size_t n, uint32_t frame);

/* Leaves holes; state: of the words (ZERO, COMPRESSED, SWAPPED). */
int take_drop(struct take *take, size_t i, size_t n, enum page_state state);

/* Empties the bench. keep: not (the pages stay there on trial). */
void take_end(struct take *take);

/* The chunk needs no answers any more: full kernel speed again. */
void take_chunk_settle(struct mm *mm, const struct spot *at);

/*
 * Part of the chunk has a new mapping, which userfaultfd does not watch: the
 * next take registers the whole chunk again.
 */
void take_chunk_stale(struct mm *mm, const struct spot *at);

/*
 * Turns n pages gone private inside overlays into plain anonymous memory, so
 * that they can be moved. -EBUSY as for COPY.
 */
int take_to_anon(struct mm *mm, const struct spot *at, size_t n);

#endif
