/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One request of a guest's: see request.c. */
#ifndef HV_LINE_REQUEST_H
#define HV_LINE_REQUEST_H

#include "hv/line/line.h"

struct channel;

/* An index is 32 bits: a range, of so many pages at most, does not wrap. */
static inline bool request_range_fits(const struct line_entry *e, line_u32 most)
{
	return e->count <= most &&
	       (uint64_t)e->index + e->count <= (uint64_t)UINT32_MAX + 1;
}

/*
 * Does what the entry asks and returns its result. entry: a copy that the
 * guest cannot change. slot: a page that it can, at any time. channel: for
 * shared pools; NULL: they are the client's store's as all others.
 */
int32_t request_do(struct tmem_client *client, struct channel *channel,
		   const struct line_entry *entry, uint8_t *slot,
		   struct line_counts *count);

#endif
