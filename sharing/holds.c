/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Eight bytes per frame held, in a table like the content index's: linear
 * probing, growth by a quarter at 7/8, deletion by shifting back. Frames come
 * in runs, so the home slot keeps neighbours together (scaled, not hashed,
 * would cluster; the multiplication spreads runs and keeps searches short).
 *
 *   total = sum of refs over all entries;  refs > 0 in every used entry
 */
#include "sharing/holds.h"

#include <errno.h>
#include <stdlib.h>

#define FACTOR 0x9e3779b1u /* 2^32 over the golden ratio */

struct hold {
	uint32_t frame;
	uint32_t refs; /* 0: empty */
};

static uint32_t home_of(uint32_t frame, uint32_t room)
{
	return (uint32_t)((uint64_t)(frame * FACTOR) * room >> 32);
}

static uint32_t slot_next(uint32_t i, uint32_t room)
{
	return i + 1 == room ? 0 : i + 1;
}

static uint32_t slot_find(const struct holds *h, uint32_t frame)
{
	uint32_t i = home_of(frame, h->room);

	while (h->hold[i].refs && h->hold[i].frame != frame)
		i = slot_next(i, h->room);
	return i;
}

static int holds_resize(struct holds *h, uint32_t room)
{
	struct holds new = {.room = room, .used = h->used, .total = h->total};
	uint32_t i;

	new.hold = calloc(room, sizeof(*new.hold));
	if (!new.hold)
		return -ENOMEM;
	for (i = 0; i < h->room; i++)
		if (h->hold[i].refs)
			new.hold[slot_find(&new, h->hold[i].frame)] =
				h->hold[i];
	free(h->hold);
	*h = new;
	return 0;
}

void holds_init(struct holds *h)
{
	*h = (struct holds){0};
}

void holds_fini(struct holds *h)
{
	free(h->hold);
	holds_init(h);
}

int holds_add(struct holds *h, uint32_t frame, uint32_t refs)
{
	struct hold *hold;
	int rc;

	if ((uint64_t)(h->used + 1) * 8 > (uint64_t)h->room * 7) {
		rc = holds_resize(h, h->room + h->room / 4 + 16);
		if (rc)
			return rc;
	}
	hold = &h->hold[slot_find(h, frame)];
	if (refs > UINT32_MAX - hold->refs)
		return -EOVERFLOW;
	if (!hold->refs)
		h->used++;
	hold->frame = frame;
	hold->refs += refs;
	h->total += refs;
	return 0;
}

/* Is the home h outside of (hole, at], seen around the ring? Then it moves. */
static bool may_move(uint32_t hole, uint32_t at, uint32_t h)
{
	if (hole <= at)
		return h <= hole || h > at;
	return h <= hole && h > at;
}

static void slot_clear(struct holds *h, uint32_t hole)
{
	uint32_t at = hole;

	for (;;) {
		at = slot_next(at, h->room);
		if (!h->hold[at].refs)
			break;
		if (!may_move(hole, at, home_of(h->hold[at].frame, h->room)))
			continue;
		h->hold[hole] = h->hold[at];
		hole = at;
	}
	h->hold[hole].refs = 0;
	h->used--;
}

int holds_drop(struct holds *h, uint32_t frame)
{
	uint32_t at;

	if (!h->used)
		return -ENOENT;
	at = slot_find(h, frame);
	if (!h->hold[at].refs)
		return -ENOENT;
	h->total--;
	if (--h->hold[at].refs)
		return 0;
	slot_clear(h, at);
	if ((uint64_t)h->used * 2 < h->room && h->room > 64 &&
	    holds_resize(h, h->used + h->used / 3 + 16))
		return 0; /* no memory to shrink: the larger table serves */
	return 0;
}

uint32_t holds_refs(const struct holds *h, uint32_t frame)
{
	return h->used ? h->hold[slot_find(h, frame)].refs : 0;
}

void holds_walk(const struct holds *h, holds_fn *fn, void *arg)
{
	uint32_t i;

	for (i = 0; i < h->room; i++)
		if (h->hold[i].refs)
			fn(arg, h->hold[i].frame, h->hold[i].refs);
}

uint64_t holds_bytes(const struct holds *h)
{
	return (uint64_t)h->room * sizeof(struct hold);
}
