/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A hash table of 12-byte entries: 96 bits that hold what is needed and no
 * pointer.
 *
 *   hash, 48 bits   | shard 8 |              tag 40              |
 *
 *   entry           | tag 40 |f| slot + 1: 15 | page 40 |   candidate, f = 0
 *                   | tag 40 |f|     0        | frame   |   frame, f = 1
 *
 * The shard says the first 8 bits, so the entry need not. Shards grow one at a
 * time: the pause and the memory of a rehash are 1/256 of the whole. A shard is
 * open addressing with linear probing; its size is no power of two, so it grows
 * by about 1/6 when 7/8 full:
 *
 *   bytes per entry = 12 / load,  7/8 * 6/7 = 3/4 <= load <= 7/8
 *                   = 13.7 to 16
 *
 * Home slot: tag times a secret odd number, the top 32 bits scaled to the size
 * (multiply-shift). An agent chooses its hashes, so without the secret it could
 * make all of a domain's searches long. Deletion shifts the followers back;
 * tombstones would cost searches for ever in a table that changes all day.
 *
 * A member that leaves would cost a walk over all entries, which takes a second
 * on a host of 1 TiB. So its candidates are no longer found from then on, and
 * cleared a few shards at a time; until none of any such member is left, none
 * of their slots is given out again.
 *
 * Shards are plain heap memory and not mappings of their own: a page of
 * rounding in each of 256 would double the cost of a small domain.
 */
#include "sharing/index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SHARDS	      256
#define TAG_BITS      40
#define TAG_MASK      (((uint64_t)1 << TAG_BITS) - 1)
#define PAGE_MASK40   TAG_MASK
#define KIND_FRAME    ((uint64_t)1 << 55)
#define SLOT_SHIFT    40
#define SLOT_MASK     0x7fff
#define ROOM_MIN      8
#define SWEEP_ENTRIES 65536 /* looked at in one go: some milliseconds */

struct entry {
	uint32_t w[3]; /* tag 40 | value 56, low bits first; value 0: empty */
};
_Static_assert(sizeof(struct entry) == 12, "three words");

struct shard {
	struct entry *entry;
	uint32_t room;
	uint32_t used;
};

struct index {
	uint64_t factor; /* odd */
	uint64_t count;
	uint64_t room;
	uint64_t left_behind; /* of count: candidates of members that left */
	size_t sweep_at;      /* the next shard to clear of these */
	uint8_t left[(INDEX_SLOT_MAX + 7) / 8]; /* bit: slot of such a member */
	struct shard shard[SHARDS];
};

static struct entry entry_make(uint64_t tag, uint64_t value)
{
	return (struct entry){{(uint32_t)tag,
			       (uint32_t)(tag >> 32) | (uint32_t)(value << 8),
			       (uint32_t)(value >> 24)}};
}

static uint64_t entry_tag(const struct entry *e)
{
	return e->w[0] | (uint64_t)(e->w[1] & 0xff) << 32;
}

static uint64_t entry_value(const struct entry *e)
{
	return (uint64_t)e->w[1] >> 8 | (uint64_t)e->w[2] << 24;
}

static bool entry_empty(const struct entry *e)
{
	return !e->w[2] && !(e->w[1] >> 8);
}

static uint64_t value_pack(const struct index_value *value)
{
	if (value->is_frame)
		return KIND_FRAME | value->frame;
	return (uint64_t)(value->slot + 1) << SLOT_SHIFT |
	       (value->page & PAGE_MASK40);
}

static struct index_value value_unpack(uint64_t word)
{
	if (word & KIND_FRAME)
		return (struct index_value){.is_frame = true,
					    .frame = (uint32_t)word};
	return (struct index_value){
		.slot = (uint32_t)(word >> SLOT_SHIFT & SLOT_MASK) - 1,
		.page = word & PAGE_MASK40};
}

static uint32_t home_of(const struct index *ix, uint64_t tag, uint32_t room)
{
	uint64_t mixed = (tag * ix->factor) >> 32;

	return (uint32_t)(mixed * room >> 32);
}

static uint32_t slot_next(uint32_t i, uint32_t room)
{
	return i + 1 == room ? 0 : i + 1;
}

/* The slot of tag, or the empty one where it belongs. room > used. */
static uint32_t slot_find(const struct index *ix, const struct shard *sh,
			  uint64_t tag)
{
	uint32_t i = home_of(ix, tag, sh->room);

	while (!entry_empty(&sh->entry[i]) && entry_tag(&sh->entry[i]) != tag)
		i = slot_next(i, sh->room);
	return i;
}

static struct shard *shard_of(struct index *ix, uint64_t hash)
{
	return &ix->shard[hash >> TAG_BITS & (SHARDS - 1)];
}

/* room: at least used + 1, or 0 for an empty shard. */
static int shard_resize(struct index *ix, struct shard *sh, uint32_t room)
{
	struct shard new = {.room = room, .used = sh->used};
	uint32_t i, to;

	if (room) {
		new.entry = calloc(room, sizeof(*new.entry));
		if (!new.entry)
			return -ENOMEM;
	}
	for (i = 0; i < sh->room; i++) {
		if (entry_empty(&sh->entry[i]))
			continue;
		to = slot_find(ix, &new, entry_tag(&sh->entry[i]));
		new.entry[to] = sh->entry[i];
	}
	ix->room += room;
	ix->room -= sh->room;
	free(sh->entry);
	*sh = new;
	return 0;
}

static int shard_grow(struct index *ix, struct shard *sh)
{
	if ((uint64_t)(sh->used + 1) * 8 <= (uint64_t)sh->room * 7)
		return 0;
	return shard_resize(ix, sh, sh->room + sh->room / 6 + ROOM_MIN / 2);
}

static void shard_shrink(struct index *ix, struct shard *sh)
{
	uint32_t room;

	if ((uint64_t)sh->used * 5 >= (uint64_t)sh->room * 3 &&
	    sh->room > ROOM_MIN)
		return;
	room = sh->used ? sh->used + sh->used / 4 + 1 : 0;
	/* Where memory is short the larger table serves as well. */
	if (room < sh->room && shard_resize(ix, sh, room))
		return;
}

/* Is the home h outside of (hole, at], seen around the ring? Then it moves. */
static bool may_move(uint32_t hole, uint32_t at, uint32_t h)
{
	if (hole <= at)
		return h <= hole || h > at;
	return h <= hole && h > at;
}

static void slot_clear(struct index *ix, struct shard *sh, uint32_t hole)
{
	uint32_t at = hole;

	for (;;) {
		at = slot_next(at, sh->room);
		if (entry_empty(&sh->entry[at]))
			break;
		if (!may_move(hole, at,
			      home_of(ix, entry_tag(&sh->entry[at]), sh->room)))
			continue;
		sh->entry[hole] = sh->entry[at];
		hole = at;
	}
	sh->entry[hole] = (struct entry){{0, 0, 0}};
	sh->used--;
	ix->count--;
}

/* Any seed, also 0, gives an odd number with bits all over (splitmix64). */
static uint64_t factor_of(uint64_t seed)
{
	seed += 0x9e3779b97f4a7c15;
	seed = (seed ^ seed >> 30) * 0xbf58476d1ce4e5b9;
	seed = (seed ^ seed >> 27) * 0x94d049bb133111eb;
	return (seed ^ seed >> 31) | 1;
}

int index_create(uint64_t seed, struct index **out)
{
	struct index *ix = calloc(1, sizeof(*ix));

	if (!ix)
		return -ENOMEM;
	ix->factor = factor_of(seed);
	*out = ix;
	return 0;
}

void index_destroy(struct index *ix)
{
	size_t i;

	if (!ix)
		return;
	for (i = 0; i < SHARDS; i++)
		free(ix->shard[i].entry);
	free(ix);
}

void index_prefetch(const struct index *ix, uint64_t hash)
{
	const struct shard *sh = &ix->shard[hash >> TAG_BITS & (SHARDS - 1)];
	const char *home;

	if (!sh->room)
		return;
	home = (const char *)&sh->entry[home_of(ix, hash & TAG_MASK, sh->room)];
	__builtin_prefetch(home);
	__builtin_prefetch(home + 64); /* a search goes on for a while */
}

/* A candidate of a member that left: not there, for all but us. */
static bool entry_is_left(const struct index *ix, const struct entry *e)
{
	uint64_t word = entry_value(e);
	uint32_t slot;

	if (!ix->left_behind || word & KIND_FRAME)
		return false;
	slot = value_unpack(word).slot;
	return ix->left[slot / 8] >> slot % 8 & 1;
}

int index_get(const struct index *ix, uint64_t hash, struct index_value *out)
{
	const struct shard *sh = &ix->shard[hash >> TAG_BITS & (SHARDS - 1)];
	const struct entry *e;

	if (!sh->used)
		return -ENOENT;
	e = &sh->entry[slot_find(ix, sh, hash & TAG_MASK)];
	if (entry_empty(e) || entry_is_left(ix, e))
		return -ENOENT;
	*out = value_unpack(entry_value(e));
	return 0;
}

int index_put(struct index *ix, uint64_t hash, const struct index_value *value)
{
	struct shard *sh = shard_of(ix, hash);
	struct entry *e;
	int rc;

	rc = shard_grow(ix, sh);
	if (rc)
		return rc;
	e = &sh->entry[slot_find(ix, sh, hash & TAG_MASK)];
	if (entry_empty(e)) {
		sh->used++;
		ix->count++;
	} else if (entry_is_left(ix, e)) {
		ix->left_behind--;
	}
	*e = entry_make(hash & TAG_MASK, value_pack(value));
	return 0;
}

void index_remove(struct index *ix, uint64_t hash)
{
	struct shard *sh = shard_of(ix, hash);
	uint32_t at;

	if (!sh->used)
		return;
	at = slot_find(ix, sh, hash & TAG_MASK);
	if (entry_empty(&sh->entry[at]) || entry_is_left(ix, &sh->entry[at]))
		return;
	slot_clear(ix, sh, at);
	shard_shrink(ix, sh);
}

void index_leave(struct index *ix, uint32_t slot, uint64_t candidates)
{
	if (!candidates)
		return;
	ix->left[slot / 8] |= (uint8_t)(1u << slot % 8);
	ix->left_behind += candidates;
}

/*
 * A clear pulls followers into slot i, so i is looked at again. Entries pulled
 * around the end were looked at before: harmless.
 */
static void shard_sweep(struct index *ix, struct shard *sh)
{
	uint32_t i = 0, used = sh->used;

	while (i < sh->room) {
		if (!entry_empty(&sh->entry[i]) &&
		    entry_is_left(ix, &sh->entry[i])) {
			slot_clear(ix, sh, i);
			ix->left_behind--;
		} else {
			i++;
		}
	}
	if (sh->used != used)
		shard_shrink(ix, sh);
}

void index_sweep(struct index *ix)
{
	uint64_t seen = 0;

	while (ix->left_behind && seen < SWEEP_ENTRIES) {
		seen += ix->shard[ix->sweep_at].room;
		shard_sweep(ix, &ix->shard[ix->sweep_at]);
		ix->sweep_at = (ix->sweep_at + 1) % SHARDS;
	}
	if (!ix->left_behind)
		memset(ix->left, 0, sizeof(ix->left));
}

bool index_is_swept(const struct index *ix)
{
	return !ix->left_behind;
}

bool index_slot_is_free(const struct index *ix, uint32_t slot)
{
	return !(ix->left[slot / 8] >> slot % 8 & 1);
}

uint64_t index_count(const struct index *ix)
{
	return ix->count - ix->left_behind;
}

uint64_t index_bytes(const struct index *ix)
{
	return sizeof(*ix) + ix->room * sizeof(struct entry);
}

bool index_is_sound(const struct index *ix)
{
	const struct shard *sh;
	uint64_t count = 0, room = 0, left_behind = 0;
	uint32_t i, used;

	for (sh = ix->shard; sh < ix->shard + SHARDS; sh++) {
		for (i = 0, used = 0; i < sh->room; i++) {
			if (entry_empty(&sh->entry[i]))
				continue;
			used++;
			left_behind += entry_is_left(ix, &sh->entry[i]);
			if (slot_find(ix, sh, entry_tag(&sh->entry[i])) != i)
				return false;
		}
		if (used != sh->used)
			return false;
		count += used;
		room += sh->room;
	}
	return count == ix->count && room == ix->room &&
	       left_behind == ix->left_behind;
}
