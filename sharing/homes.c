/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A number costs nothing until its frame is written (the pool's file is sparse)
 * and its record is touched, so reserving more numbers than are used is cheap:
 * on real desktops an eighth of the reserved ones are.
 *
 * Dropped: giving frames out in the order contents are matched. Four desktops
 * scan at once, so the orders of several of them mix, and three quarters of all
 * mappings held one page.
 */
#include "sharing/homes.h"
#include "sharing/frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void homes_init(struct homes *h)
{
	*h = (struct homes){0};
}

void homes_fini(struct homes *h, struct frames *frames)
{
	for (uint64_t i = 0; i < h->room; i++)
		if (h->block[i])
			frames_block_release(frames, h->block[i] - 1);
	free(h->block);
	homes_init(h);
}

static int room_make(struct homes *h, uint64_t at)
{
	uint64_t room = at + 1 + at / 4;
	uint32_t *more;

	if (at < h->room)
		return 0;
	more = realloc(h->block, room * sizeof(*more));
	if (!more)
		return -ENOMEM;
	memset(more + h->room, 0, (room - h->room) * sizeof(*more));
	h->block = more;
	h->room = room;
	return 0;
}

int homes_frame(struct homes *h, struct frames *frames, uint64_t page,
		uint32_t *frame_out)
{
	uint64_t at = page / HOME_PAGES;
	uint32_t near, block;
	int rc = room_make(h, at);

	if (rc)
		return rc;
	if (!h->block[at]) {
		/* block + 1 is kept, so this is the one after the last home's
		 */
		near = at ? h->block[at - 1] : 0;
		rc = frames_block_reserve(frames, near, &block);
		if (rc)
			return rc;
		h->block[at] = block + 1;
	}
	*frame_out =
		(h->block[at] - 1) * HOME_PAGES + (uint32_t)(page % HOME_PAGES);
	return 0;
}

uint64_t homes_bytes(const struct homes *h)
{
	return h->room * sizeof(*h->block);
}
