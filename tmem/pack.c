/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A class's array lies in extents of 1 MiB address space, of which memory is
 * committed page by page as the array grows:
 *
 *   extent[0]  [ objects ................ |tail]    full_pages committed
 *   extent[1]  [ objects ......|spare|         ]    top_pages committed
 *
 * An object never crosses extents (the tail is less than one object: at most
 * 0.4 %), but does cross pages. Memory beyond the last object goes back to the
 * kernel once it is more than a page and 1/128 of the class, or at once when
 * the budget is tight.
 */
#include "tmem/pack.h"

#include <errno.h>
#include <string.h>

#define EXTENT_BYTES  ((uint32_t)1 << PACK_EXTENT_SHIFT)
#define PIECE_SHIFT   29
#define PIECES_MAX    2048
#define SPARE_PART    128 /* of a class's pages may lie idle */
#define EXTENTS_FIRST 4
#define WHOLE_OBJECT  (PAGE_BYTES + sizeof(struct pack_head))

/* A word: tag 3 bits | bytes 13 | class 9 | place 32 | mark 1. */
#define WORD_TAG_MASK	 7u
#define WORD_BYTES_SHIFT 3
#define WORD_CLASS_SHIFT 16
#define WORD_PLACE_SHIFT 25
#define WORD_PLACE_MASK	 ((uint64_t)UINT32_MAX << WORD_PLACE_SHIFT)
#define WORD_MARK	 ((uint64_t)1 << 57)

#define CLASS_REFERENCE 0x1ffu /* the place is a unit */

_Static_assert(PACK_CLASSES < CLASS_REFERENCE, "a class fits its bits");

static uint64_t word_make(const struct pack_item *item, uint32_t class,
			  uint32_t place)
{
	return (uint64_t)item->tag | (uint64_t)item->bytes << WORD_BYTES_SHIFT |
	       (uint64_t) class << WORD_CLASS_SHIFT |
	       (uint64_t)place << WORD_PLACE_SHIFT;
}

uint32_t pack_word_tag(uint64_t word)
{
	return word & WORD_TAG_MASK;
}

uint32_t pack_word_bytes(uint64_t word)
{
	return word >> WORD_BYTES_SHIFT & 0x1fff;
}

static uint32_t word_class(uint64_t word)
{
	return word >> WORD_CLASS_SHIFT & 0x1ff;
}

static uint32_t word_place(uint64_t word)
{
	return (uint32_t)(word >> WORD_PLACE_SHIFT);
}

static uint64_t word_refer(uint64_t word, uint32_t to)
{
	word &= ~(WORD_PLACE_MASK | (uint64_t)CLASS_REFERENCE
					    << WORD_CLASS_SHIFT);
	return word | (uint64_t)CLASS_REFERENCE << WORD_CLASS_SHIFT |
	       (uint64_t)to << WORD_PLACE_SHIFT;
}

static uint64_t word_moved(uint64_t word, uint32_t place)
{
	return (word & ~WORD_PLACE_MASK) | (uint64_t)place << WORD_PLACE_SHIFT;
}

bool pack_word_marked(uint64_t word)
{
	return word & WORD_MARK;
}

static pack_word_t *word_at(const struct pack *pack, uint32_t owner)
{
	return arena_unit_at(pack->owners, owner);
}

/*
 * Who reads a reference goes on to the word it refers to, which may be new, and
 * holds no lock that its maker held: acquire, release.
 */
static uint64_t word_load(const struct pack *pack, uint32_t owner)
{
	return atomic_load_explicit(word_at(pack, owner), memory_order_acquire);
}

static void word_store(const struct pack *pack, uint32_t owner, uint64_t word)
{
	atomic_store_explicit(word_at(pack, owner), word, memory_order_release);
}

static uint32_t class_of(const struct pack_item *item)
{
	if (item->bytes > PACK_SMALL_MAX)
		return PACK_SMALL + item->spread % PACK_WHOLE;
	return (item->bytes + (uint32_t)sizeof(struct pack_head) - 1) /
	       PACK_STEP;
}

uint32_t pack_object_bytes(uint32_t bytes)
{
	if (bytes > PACK_SMALL_MAX)
		return WHOLE_OBJECT;
	return (bytes + (uint32_t)sizeof(struct pack_head) + PACK_STEP - 1) /
	       PACK_STEP * PACK_STEP;
}

static struct pack_head *object_at(const struct pack *pack,
				   const struct pack_class *c, uint32_t place)
{
	uint32_t block = c->extent[place / c->per_extent];

	return (void *)(arena_block_at(&pack->extents, block) +
			(size_t)(place % c->per_extent) * c->bytes);
}

/* Pages that the first n objects of an extent lie in. */
static uint32_t pages_of(const struct pack_class *c, uint32_t n)
{
	return (n * c->bytes + PAGE_BYTES - 1) >> PAGE_SHIFT;
}

static uint32_t pages_committed(const struct pack_class *c)
{
	if (!c->extents)
		return 0;
	return (c->extents - 1) * pages_of(c, c->per_extent) + c->top_pages;
}

static uint32_t pages_needed(const struct pack_class *c)
{
	return c->count / c->per_extent * pages_of(c, c->per_extent) +
	       pages_of(c, c->count % c->per_extent);
}

/* Lowest object of the last extent; beyond count if that holds none. */
static uint32_t top_first(const struct pack_class *c)
{
	return (c->extents - 1) * c->per_extent;
}

static int extents_enlarge(struct pack *pack, struct pack_class *c)
{
	uint32_t max = c->extents_max ? 2 * c->extents_max : EXTENTS_FIRST;
	uint32_t *extent = heap_alloc(pack->budget, max * sizeof(*extent));

	if (!extent)
		return -ENOMEM;
	if (c->extents)
		memcpy(extent, c->extent, c->extents * sizeof(*extent));
	heap_free(pack->budget, c->extent, c->extents_max * sizeof(*extent));
	c->extent = extent;
	c->extents_max = max;
	return 0;
}

static int extent_add(struct pack *pack, struct pack_class *c)
{
	int rc;

	if (c->extents == c->extents_max) {
		rc = extents_enlarge(pack, c);
		if (rc)
			return rc;
	}
	rc = arena_block_get(&pack->extents, &c->extent[c->extents]);
	if (rc)
		return rc;
	c->extents++;
	c->top_pages = 0;
	return 0;
}

/* The last extent has no page committed. */
static void extent_remove(struct pack *pack, struct pack_class *c)
{
	arena_block_put(&pack->extents, c->extent[--c->extents]);
	c->top_pages = pages_of(c, c->per_extent);
	if (c->extents)
		return;
	heap_free(pack->budget, c->extent, c->extents_max * sizeof(uint32_t));
	c->extent = NULL;
	c->extents_max = 0;
	c->top_pages = 0;
}

/* Makes room for one more object. */
static int class_grow(struct pack *pack, struct pack_class *c)
{
	uint32_t want;
	int rc;

	if (c->count == c->extents * c->per_extent) {
		rc = extent_add(pack, c);
		if (rc)
			return rc;
	}
	if (c->count < top_first(c))
		return 0; /* in a full extent, before a spare one */
	want = pages_of(c, c->count - top_first(c) + 1);
	if (want <= c->top_pages)
		return 0;
	rc = budget_charge(pack->budget, (uint64_t)(want - c->top_pages)
						 << PAGE_SHIFT);
	if (!rc)
		c->top_pages = want;
	else if (!c->top_pages)
		extent_remove(pack, c);
	return rc;
}

/* Releases pages of the last extent, and it. false: no more can be done. */
static bool top_release(struct pack *pack, struct pack_class *c,
			uint32_t excess)
{
	char *base = arena_block_at(&pack->extents, c->extent[c->extents - 1]);
	uint32_t first = top_first(c);
	uint32_t keep = c->count > first ? pages_of(c, c->count - first) : 0;
	uint32_t n = c->top_pages - keep;

	if (n > excess)
		n = excess;
	if (n) {
		keep = c->top_pages - n;
		if (pack->budget->ops->release(
			    base + ((size_t)keep << PAGE_SHIFT),
			    (size_t)n << PAGE_SHIFT))
			return false;
		budget_uncharge(pack->budget, (uint64_t)n << PAGE_SHIFT);
		c->top_pages = keep;
	}
	if (!c->top_pages)
		extent_remove(pack, c);
	return n != 0;
}

static void class_shrink(struct pack *pack, struct pack_class *c, uint32_t keep)
{
	uint32_t target = pages_needed(c) + keep;

	while (pages_committed(c) > target)
		if (!top_release(pack, c, pages_committed(c) - target))
			break;
}

/* Spare pages a class may keep for its next objects. */
static uint32_t spare_allowed(const struct pack *pack,
			      const struct pack_class *c)
{
	uint32_t needed = pages_needed(c);

	if (!needed || budget_is_tight(pack->budget))
		return 0;
	return 1 + needed / SPARE_PART;
}

static uint32_t spare_of(const struct pack_class *c)
{
	return pages_committed(c) - pages_needed(c);
}

/* Spare pages are counted in sum, to know whether a trim would find any. */
static void spare_note(struct pack *pack, const struct pack_class *c,
		       uint32_t before)
{
	uint32_t now = spare_of(c);

	if (now != before)
		atomic_fetch_add_explicit(&pack->spare_pages,
					  (uint64_t)now - before,
					  memory_order_relaxed);
}

static void object_write(struct pack_head *object, uint32_t owner,
			 const struct pack_item *item)
{
	object->owner = owner;
	object->sum = item->sum;
	memcpy(object + 1, item->data, item->bytes);
}

int pack_put(struct pack *pack, uint32_t owner, const struct pack_item *item)
{
	uint32_t class = class_of(item);
	struct pack_class *c = &pack->class[class];
	uint32_t spare;
	int rc = -ENOMEM;

	lock_take(&c->lock);
	spare = spare_of(c);
	if (c->count < UINT32_MAX)
		rc = class_grow(pack, c);
	if (!rc) {
		object_write(object_at(pack, c, c->count), owner, item);
		word_store(pack, owner, word_make(item, class, c->count));
		c->count++;
	}
	spare_note(pack, c, spare);
	lock_drop(&c->lock);
	return rc;
}

/*
 * Locks the class of the object that *owner or what it refers to owns, and says
 * which. A word may become a reference until its class is locked: then again.
 */
static struct pack_class *class_lock(struct pack *pack, uint32_t *owner,
				     uint64_t *word_out)
{
	for (;;) {
		uint64_t word = word_load(pack, *owner);
		struct pack_class *c;

		assert(word);
		if (word_class(word) == CLASS_REFERENCE) {
			*owner = word_place(word);
			continue;
		}
		c = &pack->class[word_class(word)];
		lock_take(&c->lock);
		*word_out = word_load(pack, *owner);
		if (word_class(*word_out) == word_class(word))
			return c;
		lock_drop(&c->lock);
	}
}

bool pack_overwrite(struct pack *pack, uint32_t owner,
		    const struct pack_item *item)
{
	uint32_t class = class_of(item);
	struct pack_head *object;
	struct pack_class *c;
	uint32_t was;
	uint64_t word;

	if (word_class(word_load(pack, owner)) != class)
		return false;
	c = class_lock(pack, &owner, &word);
	object = object_at(pack, c, word_place(word));
	was = pack_word_bytes(word);
	object_write(object, owner, item);
	if (was > item->bytes)
		memset((char *)(object + 1) + item->bytes, 0,
		       was - item->bytes);
	word_store(pack, owner, word_make(item, class, word_place(word)));
	lock_drop(&c->lock);
	return true;
}

void pack_reown(struct pack *pack, uint32_t from, uint32_t to)
{
	uint64_t word;
	struct pack_class *c;

	if (pack_reference(pack, from)) {
		word_store(pack, to, word_load(pack, from));
		word_store(pack, from, 0);
		return;
	}
	c = class_lock(pack, &from, &word);
	object_at(pack, c, word_place(word))->owner = to;
	word_store(pack, to, word);
	word_store(pack, from, 0);
	lock_drop(&c->lock);
}

void pack_share(struct pack *pack, uint32_t from, uint32_t to)
{
	uint64_t word;
	struct pack_class *c = class_lock(pack, &from, &word);

	object_at(pack, c, word_place(word))->owner = to;
	word_store(pack, to, word & ~WORD_MARK);
	word_store(pack, from, word_refer(word, to));
	lock_drop(&c->lock);
}

void pack_refer(struct pack *pack, uint32_t name, uint32_t to,
		const struct pack_item *item)
{
	word_store(pack, name, word_make(item, CLASS_REFERENCE, to));
}

void pack_clear(struct pack *pack, uint32_t name)
{
	word_store(pack, name, 0);
}

uint32_t pack_reference(const struct pack *pack, uint32_t name)
{
	uint64_t word = word_load(pack, name);

	return word_class(word) == CLASS_REFERENCE ? word_place(word) : 0;
}

uint64_t pack_word(const struct pack *pack, uint32_t owner)
{
	return word_load(pack, owner);
}

bool pack_equal(struct pack *pack, uint32_t owner, const struct pack_item *item)
{
	uint64_t word = word_load(pack, owner);
	const struct pack_head *object;
	struct pack_class *c;
	bool equal;

	/* These never change while the object is the owner's. */
	if (pack_word_bytes(word) != item->bytes ||
	    pack_word_tag(word) != item->tag)
		return false;
	c = class_lock(pack, &owner, &word);
	object = object_at(pack, c, word_place(word));
	equal = object->sum == item->sum &&
		!memcmp(object + 1, item->data, item->bytes);
	lock_drop(&c->lock);
	return equal;
}

bool pack_sum(struct pack *pack, uint32_t owner, uint32_t *sum_out,
	      uint32_t *bytes_out)
{
	uint32_t at = owner;
	uint64_t word;
	struct pack_class *c = class_lock(pack, &at, &word);

	*sum_out = object_at(pack, c, word_place(word))->sum;
	*bytes_out = pack_word_bytes(word);
	lock_drop(&c->lock);
	return at == owner;
}

void pack_mark(struct pack *pack, uint32_t owner)
{
	uint32_t at = owner;
	uint64_t word;
	struct pack_class *c = class_lock(pack, &at, &word);

	/* A reference is its user's own; else we hold the class. */
	word_store(pack, owner, word_load(pack, owner) | WORD_MARK);
	lock_drop(&c->lock);
}

static void last_move(struct pack *pack, struct pack_class *c, uint32_t place)
{
	struct pack_head *last = object_at(pack, c, c->count - 1);

	memcpy(object_at(pack, c, place), last, c->bytes);
	word_store(pack, last->owner,
		   word_moved(word_load(pack, last->owner), place));
}

void pack_drop(struct pack *pack, uint32_t owner)
{
	uint64_t word;
	struct pack_class *c = class_lock(pack, &owner, &word);
	uint32_t spare = spare_of(c);
	uint32_t allowed;

	if (word_place(word) != c->count - 1)
		last_move(pack, c, word_place(word));
	memset(object_at(pack, c, c->count - 1), 0, c->bytes);
	word_store(pack, owner, 0);
	c->count--;
	allowed = spare_allowed(pack, c);
	if (spare_of(c) > allowed)
		class_shrink(pack, c, allowed / 2);
	spare_note(pack, c, spare);
	lock_drop(&c->lock);
}

void pack_read(struct pack *pack, uint32_t owner, void *buf,
	       struct pack_item *item_out)
{
	uint64_t word;
	struct pack_class *c = class_lock(pack, &owner, &word);
	const struct pack_head *object = object_at(pack, c, word_place(word));

	item_out->data = buf;
	item_out->bytes = pack_word_bytes(word);
	item_out->tag = pack_word_tag(word);
	item_out->sum = object->sum;
	item_out->spread = 0;
	memcpy(buf, object + 1, item_out->bytes);
	lock_drop(&c->lock);
}

void pack_trim(struct pack *pack)
{
	if (!atomic_load_explicit(&pack->spare_pages, memory_order_relaxed))
		return;
	for (uint32_t i = 0; i < PACK_CLASSES; i++) {
		struct pack_class *c = &pack->class[i];
		uint32_t spare;

		lock_take(&c->lock);
		spare = spare_of(c);
		class_shrink(pack, c, 0);
		spare_note(pack, c, spare);
		lock_drop(&c->lock);
	}
}

int pack_init(struct pack *pack, struct budget *budget, struct arena *owners)
{
	int rc;

	memset(pack, 0, sizeof(*pack));
	pack->budget = budget;
	pack->owners = owners;
	rc = arena_init(&pack->extents, budget, PACK_EXTENT_SHIFT, PIECE_SHIFT,
			PIECES_MAX, ARENA_CHARGE_NOTHING);
	if (rc)
		return rc;
	for (uint32_t i = 0; i < PACK_CLASSES; i++) {
		struct pack_class *c = &pack->class[i];

		lock_init(&c->lock, LOCK_CLASS);
		c->bytes = i < PACK_SMALL ? (i + 1) * PACK_STEP : WHOLE_OBJECT;
		c->per_extent = EXTENT_BYTES / c->bytes;
	}
	return 0;
}

void pack_fini(struct pack *pack)
{
	for (uint32_t i = 0; i < PACK_CLASSES; i++) {
		struct pack_class *c = &pack->class[i];

		budget_uncharge(pack->budget, (uint64_t)pages_committed(c)
						      << PAGE_SHIFT);
		heap_free(pack->budget, c->extent,
			  c->extents_max * sizeof(uint32_t));
		lock_fini(&c->lock);
	}
	arena_fini(&pack->extents);
}

void pack_usage(struct pack *pack, struct pack_usage *out)
{
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < PACK_CLASSES; i++) {
		struct pack_class *c = &pack->class[i];

		lock_take(&c->lock);
		out->committed_bytes += (uint64_t)pages_committed(c)
					<< PAGE_SHIFT;
		out->object_bytes += (uint64_t)c->count * c->bytes;
		out->objects += c->count;
		lock_drop(&c->lock);
	}
}

static bool object_is_sound(const struct pack *pack, uint32_t class,
			    uint32_t place, uint64_t units)
{
	const struct pack_class *c = &pack->class[class];
	const struct pack_head *object = object_at(pack, c, place);
	uint64_t word;

	if (object->owner >= units)
		return false;
	word = word_load(pack, object->owner);
	return word && word_class(word) == class && word_place(word) == place &&
	       pack_object_bytes(pack_word_bytes(word)) == c->bytes;
}

static bool is_zero(const char *at, size_t bytes)
{
	return !bytes || (!*at && !memcmp(at, at + 1, bytes - 1));
}

/* Is what is committed beyond the last object as it came from the kernel? */
static bool rest_is_zero(const struct pack *pack, const struct pack_class *c)
{
	uint32_t first = c->count / c->per_extent;

	for (uint32_t e = first; e < c->extents; e++) {
		size_t from = 0;
		size_t to = (size_t)pages_of(c, c->per_extent) << PAGE_SHIFT;

		if (e == first)
			from = (size_t)(c->count % c->per_extent) * c->bytes;
		if (e == c->extents - 1)
			to = (size_t)c->top_pages << PAGE_SHIFT;
		if (to > from &&
		    !is_zero(arena_block_at(&pack->extents, c->extent[e]) +
				     from,
			     to - from))
			return false;
	}
	return true;
}

static int class_check(const struct pack *pack, uint32_t class)
{
	const struct pack_class *c = &pack->class[class];
	uint64_t units = arena_units(pack->owners);

	if (pages_committed(c) < pages_needed(c) || !rest_is_zero(pack, c))
		return -EUCLEAN;
	for (uint32_t place = 0; place < c->count; place++)
		if (!object_is_sound(pack, class, place, units))
			return -EUCLEAN;
	return 0;
}

int pack_class_check(struct pack *pack, uint32_t class)
{
	int rc;

	lock_take(&pack->class[class].lock);
	rc = class_check(pack, class);
	lock_drop(&pack->class[class].lock);
	return rc;
}
