/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the frames of a member's pages live: 64 consecutive pages of a guest
 * have 64 consecutive frame numbers reserved, from the first of them that is
 * shared on. So pages that lie together get frames that lie together, in
 * whatever order they are offered, and an agent maps them with one call.
 */
#ifndef SHARING_HOMES_H
#define SHARING_HOMES_H

#include "hv/base/types.h"

struct frames;

#define HOME_PAGES 64

struct homes {
	uint32_t *block; /* by page / HOME_PAGES: block + 1; 0: none */
	uint64_t room;
};

void homes_init(struct homes *h);
/* The reservations end; frames in use stay. */
void homes_fini(struct homes *h, struct frames *frames);

/* The frame number of page's home; -ENOSPC, -ENOMEM: it has none. */
MUST_CHECK int homes_frame(struct homes *h, struct frames *frames,
			   uint64_t page, uint32_t *frame_out);

uint64_t homes_bytes(const struct homes *h);

#endif
