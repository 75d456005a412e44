/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The swap file: the last tier, one 4 KiB slot a page. Unlinked as soon as it
 * is open, so a VMM that dies leaves nothing behind. Reads and frees may come
 * from any thread, writes from the worker alone.
 */
#ifndef HV_MM_SWAP_H
#define HV_MM_SWAP_H

#include "hv/base/types.h"

struct swap;

#define SWAP_BATCH 32

/* The file grows to at most bytes. */
MUST_CHECK int swap_create(const char *path, uint64_t bytes, struct swap **out);
void swap_destroy(struct swap *swap);

/*
 * Writes up to SWAP_BATCH pages at once. slot_out[i]: where page i is. Returns
 * how many, from the first on, are safely written (their slots are taken), or
 * -ENOSPC (file or disk full) or -EIO when none is. Short of n: the rest failed
 * and took no slot.
 */
MUST_CHECK int swap_write(struct swap *swap, const uint8_t *pages, size_t n,
			  uint64_t *slot_out);

MUST_CHECK int swap_read(struct swap *swap, uint64_t slot, void *page_out);
void swap_free(struct swap *swap, uint64_t slot);

#endif
