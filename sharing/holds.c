/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames come in runs (see homes.h), so what is held of 64 consecutive ones is
 * one entry with a bit for each; references beyond a frame's first are counted
 * in a second table, which only the few frames that hold a content twice in one
 * VM are in. Both are open addressing like the content index: linear probing,
 * growth by a quarter at 7/8, deletion by shifting back.
 *
 *   references of a frame = its bit + its count of more
 *   total = sum over all frames;   a frame with more has its bit set
 *
 * An entry is 12 bytes: on real desktops about 2 bytes a frame held. Dropped:
 * an entry of frame and count for each frame, 8 bytes and the spare room; it is
 * smaller where fewer than two frames of 64 are held, which no VM with homes
 * comes to.
 */
#include "sharing/holds.h"

#include <errno.h>
#include <stdlib.h>

#define FACTOR	    0x9e3779b1u /* 2^32 over the golden ratio */
#define BLOCK_SHIFT 6

struct hold {
	uint32_t key;
	uint32_t low, high; /* a value of 64 bits; 0: empty */
};

static uint64_t value_of(const struct hold *hold)
{
	return hold->low | (uint64_t)hold->high << 32;
}

static void value_set(struct hold *hold, uint64_t value)
{
	hold->low = (uint32_t)value;
	hold->high = (uint32_t)(value >> 32);
}

/* ---- a table ------------------------------------------------------------ */

static uint32_t home_of(uint32_t key, uint32_t room)
{
	return (uint32_t)((uint64_t)(key * FACTOR) * room >> 32);
}

static uint32_t slot_next(uint32_t i, uint32_t room)
{
	return i + 1 == room ? 0 : i + 1;
}

/* Its slot, or the empty one where it belongs. room > used. */
static uint32_t slot_find(const struct hold_table *t, uint32_t key)
{
	uint32_t i = home_of(key, t->room);

	while (value_of(&t->hold[i]) && t->hold[i].key != key)
		i = slot_next(i, t->room);
	return i;
}

static uint64_t table_get(const struct hold_table *t, uint32_t key)
{
	return t->used ? value_of(&t->hold[slot_find(t, key)]) : 0;
}

static int table_resize(struct hold_table *t, uint32_t room)
{
	struct hold_table new = {.room = room, .used = t->used};
	uint32_t i;

	new.hold = calloc(room, sizeof(*new.hold));
	if (!new.hold)
		return -ENOMEM;
	for (i = 0; i < t->room; i++)
		if (value_of(&t->hold[i]))
			new.hold[slot_find(&new, t->hold[i].key)] = t->hold[i];
	free(t->hold);
	*t = new;
	return 0;
}

/* Is the home h outside of (hole, at], seen around the ring? Then it moves. */
static bool may_move(uint32_t hole, uint32_t at, uint32_t h)
{
	if (hole <= at)
		return h <= hole || h > at;
	return h <= hole && h > at;
}

static void slot_clear(struct hold_table *t, uint32_t hole)
{
	uint32_t at = hole;

	for (;;) {
		at = slot_next(at, t->room);
		if (!value_of(&t->hold[at]))
			break;
		if (!may_move(hole, at, home_of(t->hold[at].key, t->room)))
			continue;
		t->hold[hole] = t->hold[at];
		hole = at;
	}
	value_set(&t->hold[hole], 0);
	t->used--;
}

static void table_remove(struct hold_table *t, uint32_t key)
{
	slot_clear(t, slot_find(t, key));
	if ((uint64_t)t->used * 2 < t->room && t->room > 64 &&
	    table_resize(t, t->used + t->used / 3 + 16))
		return; /* no memory to shrink: the larger table serves */
}

/* value: not 0. */
static int table_set(struct hold_table *t, uint32_t key, uint64_t value)
{
	struct hold *hold;
	int rc;

	if ((uint64_t)(t->used + 1) * 8 > (uint64_t)t->room * 7) {
		rc = table_resize(t, t->room + t->room / 4 + 16);
		if (rc)
			return rc;
	}
	hold = &t->hold[slot_find(t, key)];
	if (!value_of(hold))
		t->used++;
	hold->key = key;
	value_set(hold, value);
	return 0;
}

/* A value that is there takes another: nothing to allocate. */
static void table_change(struct hold_table *t, uint32_t key, uint64_t value)
{
	value_set(&t->hold[slot_find(t, key)], value);
}

/* ---- holds -------------------------------------------------------------- */

static uint32_t block_of(uint32_t frame)
{
	return frame >> BLOCK_SHIFT;
}

static uint64_t bit_of(uint32_t frame)
{
	return (uint64_t)1 << (frame & ((1u << BLOCK_SHIFT) - 1));
}

void holds_init(struct holds *h)
{
	*h = (struct holds){0};
}

void holds_fini(struct holds *h)
{
	free(h->block.hold);
	free(h->more.hold);
	holds_init(h);
}

uint32_t holds_refs(const struct holds *h, uint32_t frame)
{
	if (!(table_get(&h->block, block_of(frame)) & bit_of(frame)))
		return 0;
	return 1 + (uint32_t)table_get(&h->more, frame);
}

int holds_add(struct holds *h, uint32_t frame, uint32_t refs)
{
	uint32_t had = holds_refs(h, frame);
	uint64_t bits = table_get(&h->block, block_of(frame));
	int rc = 0;

	if (!refs)
		return 0;
	if (refs > UINT32_MAX - had)
		return -EOVERFLOW;
	if (had + refs > 1)
		rc = table_set(&h->more, frame, had + refs - 1);
	if (!rc && !had) {
		rc = table_set(&h->block, block_of(frame),
			       bits | bit_of(frame));
		if (rc && refs > 1)
			table_remove(&h->more, frame);
	}
	if (!rc)
		h->total += refs;
	return rc;
}

int holds_drop(struct holds *h, uint32_t frame)
{
	uint64_t bits = table_get(&h->block, block_of(frame));
	uint64_t more;

	if (!(bits & bit_of(frame)))
		return -ENOENT;
	h->total--;
	more = table_get(&h->more, frame);
	if (more > 1)
		table_change(&h->more, frame, more - 1);
	else if (more)
		table_remove(&h->more, frame);
	else if (bits == bit_of(frame))
		table_remove(&h->block, block_of(frame));
	else
		table_change(&h->block, block_of(frame), bits ^ bit_of(frame));
	return 0;
}

void holds_walk(const struct holds *h, holds_fn *fn, void *arg)
{
	uint64_t bits;
	uint32_t i, frame;

	for (i = 0; i < h->block.room; i++)
		for (bits = value_of(&h->block.hold[i]); bits;
		     bits &= bits - 1) {
			frame = h->block.hold[i].key << BLOCK_SHIFT |
				(uint32_t)__builtin_ctzll(bits);
			fn(arg, frame, holds_refs(h, frame));
		}
}

uint64_t holds_bytes(const struct holds *h)
{
	return ((uint64_t)h->block.room + h->more.room) * sizeof(struct hold);
}
