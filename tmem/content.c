/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The index is searched and changed under one stripe's lock, which is held
 * while an object is stored, too: or two equal pages put at once would not see
 * each other.
 *
 * A guest may choose contents that meet in one bucket. Its chain is cut at
 * CHAIN_MAX slots: what is beyond is stored, but not found.
 */
#include "tmem/content.h"
#include "tmem/store.h"

#include <errno.h>
#include <string.h>

#define FIRST_SLOTS	  12u
#define NEXT_SLOTS	  4u
#define LINE_BYTES(slots) (sizeof(struct content_line) + (slots)*5u)
#define BLOCK_LINES	  (SLAB_BLOCK_BYTES / LINE_BYTES(FIRST_SLOTS))
#define BLOCKS_FIRST	  4
#define BUCKETS_MAX	  ((uint32_t)1 << 19)
#define LOAD_GROW	  12 /* entries per bucket */
#define LOAD_SHRINK	  4
#define CHAIN_MAX	  64
#define UNIT_BITS	  27
#define UNIT_MASK	  (((uint32_t)1 << UNIT_BITS) - 1)
#define TAG_SHIFT	  6 /* lower bits are known from the bucket */
#define TAG_MASK	  0x1fffu

_Static_assert(BLOCK_LINES == (size_t)1 << TAG_SHIFT, "buckets at the start");

void stripe_init(struct stripe *st, struct arena *arena, unsigned n)
{
	memset(st, 0, sizeof(*st));
	lock_init(&st->lock, LOCK_CONTENT);
	st->arena = arena;
	slab_init(&st->lines, arena, LINE_BYTES(NEXT_SLOTS), CELL_LINE, n);
	slab_init(&st->contents, arena, sizeof(struct content), CELL_CONTENT,
		  n);
}

void stripe_fini(struct stripe *st)
{
	heap_free(st->arena->budget, st->block,
		  st->blocks_max * sizeof(*st->block));
	lock_fini(&st->lock);
}

/* ---- lines ----------------------------------------------------------- */

struct slot {
	struct content_line *line;
	unsigned slots; /* of the line */
	unsigned n;
};

/* The first slot of a bucket. */
static struct slot slot_first(const struct stripe *st, uint32_t bucket)
{
	char *block =
		arena_block_at(st->arena, st->block[bucket / BLOCK_LINES]);

	return (struct slot){(void *)(block + bucket % BLOCK_LINES *
						      LINE_BYTES(FIRST_SLOTS)),
			     FIRST_SLOTS, 0};
}

/* The next slot of the chain. false: there is none. */
static bool slot_step(const struct stripe *st, struct slot *at)
{
	if (++at->n < at->slots)
		return true;
	if (!at->line->next)
		return false;
	at->line = arena_unit_at(st->arena, at->line->next);
	at->slots = NEXT_SLOTS;
	at->n = 0;
	return true;
}

static uint8_t *slot_high(const struct slot *at)
{
	return (uint8_t *)&at->line->entry[at->slots] + at->n;
}

static uint32_t low_power(uint32_t buckets)
{
	return (uint32_t)1 << (31 - __builtin_clz(buckets));
}

static uint32_t bucket_of(const struct stripe *st, uint64_t hash)
{
	uint32_t p = low_power(st->buckets);
	uint32_t b = (uint32_t)hash & (2 * p - 1);

	return b < st->buckets ? b : (uint32_t)hash & (p - 1);
}

static uint32_t tag_of(uint64_t hash)
{
	return (uint32_t)(hash >> TAG_SHIFT) & TAG_MASK;
}

static uint32_t slot_unit(const struct slot *at)
{
	return at->line->entry[at->n] & UNIT_MASK;
}

static uint32_t slot_tag(const struct slot *at)
{
	return at->line->entry[at->n] >> UNIT_BITS |
	       (uint32_t)*slot_high(at) << (32 - UNIT_BITS);
}

static void slot_set(const struct slot *at, uint32_t unit, uint32_t tag)
{
	at->line->entry[at->n] = unit | tag << UNIT_BITS;
	*slot_high(at) = (uint8_t)(tag >> (32 - UNIT_BITS));
}

/* Moves on to the first slot from *at on that has this tag. */
static bool slot_seek(const struct stripe *st, struct slot *at, uint32_t tag)
{
	uint32_t low = tag << UNIT_BITS;
	uint8_t high = (uint8_t)(tag >> (32 - UNIT_BITS));

	do {
		uint32_t entry = at->line->entry[at->n];

		/* Most differ in the first that is compared. */
		if ((entry & ~UNIT_MASK) == low && *slot_high(at) == high &&
		    entry & UNIT_MASK)
			return true;
	} while (slot_step(st, at));
	return false;
}

static bool slot_find(const struct stripe *st, uint64_t hash, uint32_t unit,
		      struct slot *at)
{
	if (!st->buckets)
		return false;
	*at = slot_first(st, bucket_of(st, hash));
	while (slot_seek(st, at, tag_of(hash))) {
		if (slot_unit(at) == unit)
			return true;
		if (!slot_step(st, at))
			break;
	}
	return false;
}

/* From *at to a free slot of the chain, which grows if need be. */
static bool slot_free(struct stripe *st, struct slot *at)
{
	unsigned steps = 0;
	uint32_t unit;

	while (at->line->entry[at->n]) {
		if (++steps > CHAIN_MAX)
			return false;
		if (slot_step(st, at))
			continue;
		if (slab_get(&st->lines, &unit))
			return false;
		at->line->next = unit;
		at->n--;
		(void)slot_step(st, at);
	}
	return true;
}

static bool line_is_empty(const struct content_line *line)
{
	for (unsigned n = 0; n < NEXT_SLOTS; n++)
		if (line->entry[n])
			return false;
	return true;
}

/* Frees empty lines beyond the first. */
static void chain_tidy(struct stripe *st, struct content_line *line)
{
	while (line->next) {
		uint32_t unit = line->next;
		struct content_line *next = arena_unit_at(st->arena, unit);

		if (line_is_empty(next)) {
			line->next = next->next;
			slab_put(&st->lines, unit);
		} else {
			line = next;
		}
	}
}

/* ---- growth ---------------------------------------------------------- */

static int blocks_enlarge(struct stripe *st)
{
	struct budget *budget = st->arena->budget;
	uint32_t max = st->blocks_max ? 2 * st->blocks_max : BLOCKS_FIRST;
	uint32_t *block = heap_alloc(budget, max * sizeof(*block));

	if (!block)
		return -ENOMEM;
	if (st->blocks)
		memcpy(block, st->block, st->blocks * sizeof(*block));
	heap_free(budget, st->block, st->blocks_max * sizeof(*block));
	st->block = block;
	st->blocks_max = max;
	return 0;
}

static int block_add(struct stripe *st)
{
	int rc = 0;

	if (st->blocks == st->blocks_max)
		rc = blocks_enlarge(st);
	if (!rc)
		rc = arena_block_get(st->arena, &st->block[st->blocks]);
	if (rc)
		return rc;
	memset(arena_block_at(st->arena, st->block[st->blocks++]), 0,
	       SLAB_BLOCK_BYTES);
	return 0;
}

static void block_remove(struct stripe *st)
{
	arena_block_put(st->arena, st->block[--st->blocks]);
}

/* Moves the entries of the chain whose tags have the bit. */
static void chain_move(struct stripe *st, uint32_t from, uint32_t to,
		       uint32_t tag_bit)
{
	struct slot at = slot_first(st, from);

	do {
		struct slot new = slot_first(st, to);
		uint32_t tag = slot_tag(&at);

		if (!slot_unit(&at) || (tag & tag_bit) != tag_bit)
			continue;
		if (slot_free(st, &new))
			slot_set(&new, slot_unit(&at), tag);
		else
			st->entries--;
		at.line->entry[at.n] = 0;
	} while (slot_step(st, &at));
	chain_tidy(st, slot_first(st, from).line);
}

static void stripe_grow(struct stripe *st)
{
	uint32_t n = st->buckets;
	uint32_t p = low_power(n);

	if (n == BUCKETS_MAX || (n % BLOCK_LINES == 0 && block_add(st)))
		return;
	st->buckets++;
	chain_move(st, n - p, n, p >> TAG_SHIFT);
}

static void stripe_shrink(struct stripe *st)
{
	uint32_t last = --st->buckets;

	chain_move(st, last, last - low_power(last), 0);
	if (last % BLOCK_LINES == 0)
		block_remove(st);
}

static void stripe_fit(struct stripe *st)
{
	if (!st->entries) {
		while (st->blocks)
			block_remove(st);
		heap_free(st->arena->budget, st->block,
			  st->blocks_max * sizeof(*st->block));
		st->block = NULL;
		st->blocks_max = 0;
		st->buckets = 0;
	} else if (st->entries > (uint64_t)st->buckets * LOAD_GROW) {
		stripe_grow(st);
	} else if (st->buckets > BLOCK_LINES &&
		   st->entries < (uint64_t)st->buckets * LOAD_SHRINK) {
		stripe_shrink(st);
	}
}

static void entry_add(struct stripe *st, uint64_t hash, uint32_t unit)
{
	struct slot at;

	if (unit > UNIT_MASK)
		return;
	if (!st->buckets) {
		if (block_add(st))
			return;
		st->buckets = BLOCK_LINES;
	}
	at = slot_first(st, bucket_of(st, hash));
	if (slot_free(st, &at)) {
		slot_set(&at, unit, tag_of(hash));
		st->entries++;
	}
	stripe_fit(st);
}

static void entry_remove(struct stripe *st, uint64_t hash, uint32_t unit)
{
	struct slot at;

	if (!slot_find(st, hash, unit, &at))
		return;
	at.line->entry[at.n] = 0;
	st->entries--;
	chain_tidy(st, slot_first(st, bucket_of(st, hash)).line);
	stripe_fit(st);
}

/* ---- contents -------------------------------------------------------- */

static uint64_t scope_hash(const struct content_scope *scope, uint32_t sum,
			   uint32_t bytes)
{
	uint64_t x = (uint64_t)sum << 32 | bytes << 1 | scope->shelf->kind;

	return key_mix(x ^ scope->cl->salt);
}

static struct stripe *stripe_of(struct shelf *shelf, uint64_t hash)
{
	return &shelf->stripe[(hash >> 40) & (shelf->tm->shards - 1)];
}

static struct content *content_at(const struct shelf *shelf, uint32_t unit)
{
	return arena_unit_at(&shelf->tables, unit);
}

static bool is_content(const struct shelf *shelf, uint32_t unit)
{
	return slab_head_of(&shelf->tables, unit)->kind == CELL_CONTENT;
}

/* A page's word stays one while it is in the index, and so does its leaf. */
static bool scope_has(const struct content_scope *scope, uint64_t hash,
		      uint32_t unit)
{
	uint32_t leaf;

	if (is_content(scope->shelf, unit))
		return content_at(scope->shelf, unit)->hash == hash;
	leaf = word_leaf(scope->shelf, unit);
	return page_client(scope->shelf, leaf, unit - word_unit(leaf, 0)) ==
	       scope->cl;
}

static void refs_add(struct stripe *st, struct content *c)
{
	c->refs++;
	st->refs++;
	if (c->refs > 1)
		st->shared += c->refs == 2 ? 2 : 1;
}

static void refs_remove(struct stripe *st, struct content *c)
{
	if (c->refs > 1)
		st->shared -= c->refs == 2 ? 2 : 1;
	c->refs--;
	st->refs--;
}

/* The word in the slot is a page's: makes it a content with one reference. */
static bool content_create(struct shelf *shelf, struct stripe *st,
			   const struct slot *at, uint64_t hash)
{
	uint32_t name = slot_unit(at);
	struct content *c;
	uint32_t unit;

	if (slab_get(&st->contents, &unit))
		return false;
	if (unit > UNIT_MASK) {
		slab_put(&st->contents, unit);
		return false;
	}
	c = content_at(shelf, unit);
	c->hash = hash;
	pack_share(&shelf->pack, name, unit);
	slot_set(at, unit, tag_of(hash));
	refs_add(st, c);
	return true;
}

/* Makes the word refer to the page in the slot, which is equal. */
static bool content_refer(struct shelf *shelf, struct stripe *st,
			  const struct slot *at, uint64_t hash, uint32_t name,
			  const struct pack_item *item)
{
	if (!is_content(shelf, slot_unit(at)) &&
	    !content_create(shelf, st, at, hash))
		return false;
	pack_refer(&shelf->pack, name, slot_unit(at), item);
	refs_add(st, content_at(shelf, slot_unit(at)));
	return true;
}

/* The slot of a page equal to the item. */
static bool content_find(const struct content_scope *scope,
			 const struct stripe *st, uint64_t hash,
			 const struct pack_item *item, struct slot *at)
{
	LOCK_ASSERT(LOCK_CONTENT);
	if (!st->buckets)
		return false;
	*at = slot_first(st, bucket_of(st, hash));
	while (slot_seek(st, at, tag_of(hash))) {
		if (scope_has(scope, hash, slot_unit(at)) &&
		    pack_equal(&scope->shelf->pack, slot_unit(at), item))
			return true;
		if (!slot_step(st, at))
			break;
	}
	return false;
}

/* Makes the word refer to an equal page, if there is one. */
static bool content_share(const struct content_scope *scope, struct stripe *st,
			  uint64_t hash, uint32_t name,
			  const struct pack_item *item)
{
	struct slot at;

	return content_find(scope, st, hash, item, &at) &&
	       content_refer(scope->shelf, st, &at, hash, name, item);
}

int content_put(const struct content_scope *scope, uint32_t name,
		const struct pack_item *item, bool *stored_out)
{
	struct shelf *shelf = scope->shelf;
	struct stripe *st;
	uint64_t hash;
	int rc = 0;

	LOCK_ASSERT(LOCK_SHARD);
	*stored_out = true;
	if (item->tag == CODEC_SAME)
		return pack_put(&shelf->pack, name, item);
	hash = scope_hash(scope, item->sum, item->bytes);
	st = stripe_of(shelf, hash);
	lock_take(&st->lock);
	if (content_share(scope, st, hash, name, item)) {
		*stored_out = false;
	} else {
		rc = pack_put(&shelf->pack, name, item);
		if (!rc)
			entry_add(st, hash, name);
	}
	lock_drop(&st->lock);
	return rc;
}

bool content_join(const struct content_scope *scope, uint32_t name,
		  const struct pack_item *item)
{
	uint64_t hash = scope_hash(scope, item->sum, item->bytes);
	struct stripe *st = stripe_of(scope->shelf, hash);
	bool joined;

	LOCK_ASSERT(LOCK_SHARD);
	lock_take(&st->lock);
	joined = content_share(scope, st, hash, name, item);
	lock_drop(&st->lock);
	return joined;
}

static bool reference_drop(struct shelf *shelf, uint32_t name, uint32_t unit)
{
	struct stripe *st =
		&shelf->stripe[slab_head_of(&shelf->tables, unit)->shard];
	struct content *c = content_at(shelf, unit);
	bool last;

	lock_take(&st->lock);
	pack_clear(&shelf->pack, name);
	refs_remove(st, c);
	last = !c->refs;
	if (last) {
		entry_remove(st, c->hash, unit);
		pack_drop(&shelf->pack, unit);
		slab_put(&st->contents, unit);
	}
	lock_drop(&st->lock);
	return last;
}

/*
 * Takes the word out of the index, so that it stays what it is. false: it is a
 * reference (now).
 */
static bool word_forget(const struct content_scope *scope, uint32_t name)
{
	struct shelf *shelf = scope->shelf;
	struct stripe *st;
	uint64_t hash;
	uint32_t sum;
	uint32_t bytes;
	bool plain;

	if (!pack_sum(&shelf->pack, name, &sum, &bytes))
		return false;
	hash = scope_hash(scope, sum, bytes);
	st = stripe_of(shelf, hash);
	lock_take(&st->lock);
	plain = !pack_reference(&shelf->pack, name);
	if (plain)
		entry_remove(st, hash, name);
	lock_drop(&st->lock);
	return plain;
}

static bool is_same_filled(const struct shelf *shelf, uint32_t name)
{
	return pack_word_tag(pack_word(&shelf->pack, name)) == CODEC_SAME;
}

bool content_overwrite(const struct content_scope *scope, uint32_t name,
		       const struct pack_item *item)
{
	struct shelf *shelf = scope->shelf;
	bool done = false;
	struct stripe *st;
	struct slot at;
	uint64_t hash;

	LOCK_ASSERT(LOCK_SHARD);
	if (is_same_filled(shelf, name) || item->tag == CODEC_SAME)
		return false;
	if (pack_reference(&shelf->pack, name) || !word_forget(scope, name))
		return false;
	hash = scope_hash(scope, item->sum, item->bytes);
	st = stripe_of(shelf, hash);
	lock_take(&st->lock);
	if (!content_find(scope, st, hash, item, &at))
		done = pack_overwrite(&shelf->pack, name, item);
	if (done)
		entry_add(st, hash, name);
	lock_drop(&st->lock);
	return done;
}

bool content_drop_hidden(const struct content_scope *scope, uint32_t name)
{
	struct shelf *shelf = scope->shelf;
	uint32_t unit = pack_reference(&shelf->pack, name);

	LOCK_ASSERT(LOCK_SHARD);
	if (unit)
		return reference_drop(shelf, name, unit);
	pack_drop(&shelf->pack, name);
	return true;
}

bool content_drop(const struct content_scope *scope, uint32_t name)
{
	struct shelf *shelf = scope->shelf;

	LOCK_ASSERT(LOCK_SHARD);
	if (!pack_reference(&shelf->pack, name) && !is_same_filled(shelf, name))
		(void)word_forget(scope, name);
	return content_drop_hidden(scope, name);
}

static bool reference_is_last(struct shelf *shelf, uint32_t unit)
{
	struct stripe *st =
		&shelf->stripe[slab_head_of(&shelf->tables, unit)->shard];
	bool last;

	lock_take(&st->lock);
	last = content_at(shelf, unit)->refs == 1;
	lock_drop(&st->lock);
	return last;
}

bool content_hide(const struct content_scope *scope, uint32_t name, uint32_t to)
{
	struct shelf *shelf = scope->shelf;
	uint32_t unit = pack_reference(&shelf->pack, name);
	bool last;

	LOCK_ASSERT(LOCK_SHARD);
	if (!unit && !is_same_filled(shelf, name) && !word_forget(scope, name))
		unit = pack_reference(&shelf->pack, name);
	last = !unit || reference_is_last(shelf, unit);
	pack_reown(&shelf->pack, name, to);
	return last;
}

void content_return(const struct content_scope *scope, uint32_t from,
		    uint32_t name)
{
	struct shelf *shelf = scope->shelf;
	struct stripe *st;
	uint64_t hash;
	uint32_t sum;
	uint32_t bytes;

	LOCK_ASSERT(LOCK_SHARD);
	pack_reown(&shelf->pack, from, name);
	if (is_same_filled(shelf, name) ||
	    !pack_sum(&shelf->pack, name, &sum, &bytes))
		return;
	hash = scope_hash(scope, sum, bytes);
	st = stripe_of(shelf, hash);
	lock_take(&st->lock);
	entry_add(st, hash, name);
	lock_drop(&st->lock);
}

/* ---- accounting ------------------------------------------------------ */

uint64_t stripe_blocks(const struct stripe *st)
{
	return (uint64_t)st->blocks + st->lines.blocks + st->contents.blocks;
}

uint64_t stripe_live_bytes(const struct stripe *st)
{
	return st->blocks * (uint64_t)SLAB_BLOCK_BYTES +
	       slab_live_bytes(&st->lines) + slab_live_bytes(&st->contents);
}

static uint64_t chain_count(const struct stripe *st, uint32_t bucket)
{
	struct slot at = slot_first(st, bucket);
	uint64_t n = 0;

	do
		n += slot_unit(&at) != 0;
	while (slot_step(st, &at));
	return n;
}

int stripe_check(struct stripe *st)
{
	uint64_t entries = 0;
	int rc = 0;

	lock_take(&st->lock);
	for (uint32_t b = 0; b < st->buckets; b++)
		entries += chain_count(st, b);
	if (entries != st->entries || st->refs < st->contents.cells ||
	    st->shared > st->refs)
		rc = -EUCLEAN;
	lock_drop(&st->lock);
	return rc;
}
