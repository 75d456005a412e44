/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One page of a shard: put, get, drop, with the accounting. All of it under
 * the shard's lock, with the page's own bytes already copied.
 *
 * Law: after a put to a key, the key's earlier data is never seen again. A
 * gentle put keeps the old page while it looks for room, so that a get in
 * between sees either the old page or the new one; its caller makes room and
 * tries again, and at last gives the old page up.
 */
#include "tmem/store.h"

#include <errno.h>

struct tmem_pool *shard_pool(const struct key *key)
{
	struct tmem_pool *pool;

	LOCK_ASSERT(LOCK_SHARD);
	if (key->staged)
		return key->staged;
	if (key->pool >= TMEM_POOLS_MAX)
		return NULL;
	pool = atomic_load(&key->cl->slot[key->pool].pool);
	return pool && pool->name == key->name ? pool : NULL;
}

static uint64_t word_of(const struct leaf *leaf, uint32_t n)
{
	return atomic_load_explicit(&leaf->word[n], memory_order_relaxed);
}

/* d: 1 for a page that came, -1 (all bits) for one that went. */
static void page_count(struct part *part, uint32_t tag, uint64_t d)
{
	part->tally.pages += d;
	if (tag == CODEC_SAME)
		part->tally.same_filled += d;
	else if (tag == CODEC_RAW)
		part->tally.raw += d;
	else if (tag == CODEC_DENSE)
		part->tally.dense += d;
}

/* The same for an object. */
static void object_count(struct part *part, uint32_t bytes, uint64_t d)
{
	part->tally.objects += d;
	part->tally.stored_bytes += d * bytes;
	part->tally.object_bytes += d * pack_object_bytes(bytes);
}

static struct tmem_pool *leaf_pool(const struct shelf *shelf, uint32_t leaf)
{
	return object_at(shelf, leaf_at(shelf, leaf)->object)->pool;
}

static uint8_t *member_at(const struct shelf *shelf, uint32_t leaf, uint32_t n)
{
	struct leaf_ephemeral *le = arena_unit_at(&shelf->tables, leaf);

	return &le->member[n];
}

struct tmem_client *page_client(const struct shelf *shelf, uint32_t leaf,
				uint32_t n)
{
	struct tmem_pool *pool = leaf_pool(shelf, leaf);

	return pool->cl ? pool->cl
			: shared_member(pool, *member_at(shelf, leaf, n));
}

/* A place for a page, and who is charged for what is in it. */
struct spot {
	struct tmem_client *cl;
	enum pool_kind kind;
	uint32_t name; /* of its word */
};

static struct spot spot_of(const struct part *part, uint32_t leaf, uint32_t n)
{
	return (struct spot){
		.cl = page_client(part->shelf, leaf, n),
		.kind = part->shelf->kind,
		.name = word_unit(leaf, n),
	};
}

static struct content_scope scope_of(const struct part *part,
				     const struct spot *spot)
{
	return (struct content_scope){part->shelf, spot->cl};
}

/* Counted and aged no more; its object, word and charge are the caller's. */
static void page_leave(struct part *part, const struct spot *spot,
		       uint64_t word)
{
	if (spot->kind == KIND_EPHEMERAL)
		age_remove(spot->cl, spot->name);
	page_count(part, pack_word_tag(word), UINT64_MAX);
	atomic_fetch_sub_explicit(&spot->cl->pages[spot->kind], 1,
				  memory_order_relaxed);
}

static void page_enter(struct part *part, const struct spot *spot,
		       const struct pack_item *item)
{
	if (spot->kind == KIND_EPHEMERAL)
		age_append(spot->cl, spot->name);
	page_count(part, item->tag, 1);
	atomic_fetch_add_explicit(&spot->cl->pages[spot->kind], 1,
				  memory_order_relaxed);
}

/* The place's object is gone. */
static void object_forget(struct part *part, const struct spot *spot,
			  uint32_t bytes)
{
	object_count(part, bytes, UINT64_MAX);
	client_uncharge(spot->cl, spot->kind, pack_object_bytes(bytes));
}

/* Leaves the leaf, even if it is empty now. */
static void page_remove(struct part *part, uint32_t leaf, uint32_t n)
{
	struct spot spot = spot_of(part, leaf, n);
	struct content_scope scope = scope_of(part, &spot);
	uint64_t word = word_of(leaf_at(part->shelf, leaf), n);

	page_leave(part, &spot, word);
	if (content_drop(&scope, spot.name))
		object_forget(part, &spot, pack_word_bytes(word));
}

void page_drop(struct part *part, uint32_t leaf, uint32_t n)
{
	LOCK_ASSERT(LOCK_SHARD);
	page_remove(part, leaf, n);
	if (leaf_is_empty(leaf_at(part->shelf, leaf)))
		leaf_destroy(part, leaf);
}

void leaf_clear(struct part *part, uint32_t leaf)
{
	LOCK_ASSERT(LOCK_SHARD);
	for (uint32_t n = 0; n < LEAF_PAGES; n++)
		if (word_of(leaf_at(part->shelf, leaf), n))
			page_remove(part, leaf, n);
	leaf_destroy(part, leaf);
}

uint32_t leaf_clear_unmarked(struct part *part, uint32_t leaf)
{
	uint32_t stay = 0;

	LOCK_ASSERT(LOCK_SHARD);
	for (uint32_t n = 0; n < LEAF_PAGES; n++) {
		uint64_t word = word_of(leaf_at(part->shelf, leaf), n);

		if (pack_word_marked(word))
			stay++;
		else if (word)
			page_remove(part, leaf, n);
	}
	if (!stay)
		leaf_destroy(part, leaf);
	return stay;
}

void leaf_clear_member(struct part *part, uint32_t leaf, uint8_t member)
{
	LOCK_ASSERT(LOCK_SHARD);
	for (uint32_t n = 0; n < LEAF_PAGES; n++)
		if (word_of(leaf_at(part->shelf, leaf), n) &&
		    *member_at(part->shelf, leaf, n) == member)
			page_remove(part, leaf, n);
	if (leaf_is_empty(leaf_at(part->shelf, leaf)))
		leaf_destroy(part, leaf);
}

/*
 * Into a word that is 0. credit: bytes that the caller will give back when this
 * is done, so that the cap need not have room for both.
 */
static int object_put(struct part *part, const struct spot *spot,
		      const struct pack_item *item, uint32_t credit)
{
	struct content_scope scope = scope_of(part, spot);
	uint32_t bytes = pack_object_bytes(item->bytes);
	uint32_t more = bytes > credit ? bytes - credit : 0;
	bool stored = false;
	int rc = 0;

	if (more)
		rc = client_charge(spot->cl, spot->kind, more);
	if (rc)
		return content_join(&scope, spot->name, item) ? 0 : rc;
	rc = content_put(&scope, spot->name, item, &stored);
	if (rc || !stored) {
		client_uncharge(spot->cl, spot->kind, more);
		return rc;
	}
	client_recharge(spot->cl, spot->kind, bytes - more);
	object_count(part, item->bytes, 1);
	return 0;
}

static int page_insert(struct part *part, const struct spot *spot,
		       const struct pack_item *item)
{
	int rc = object_put(part, spot, item, 0);

	if (!rc)
		page_enter(part, spot, item);
	return rc;
}

/* An object of the same class goes into the old one's place. */
static bool page_overwrite(struct part *part, const struct spot *spot,
			   uint64_t word, const struct pack_item *item)
{
	struct content_scope scope = scope_of(part, spot);
	uint32_t bytes = pack_word_bytes(word);

	if (pack_object_bytes(bytes) != pack_object_bytes(item->bytes) ||
	    !content_overwrite(&scope, spot->name, item))
		return false;
	object_count(part, bytes, UINT64_MAX);
	object_count(part, item->bytes, 1);
	page_leave(part, spot, word);
	page_enter(part, spot, item);
	return true;
}

/*
 * The old object waits under the shard's scratch word until the new one is in
 * place, and returns if it cannot be.
 */
static int page_replace(struct part *part, const struct spot *spot,
			uint64_t word, const struct pack_item *item)
{
	struct content_scope scope = scope_of(part, spot);
	uint32_t bytes = pack_word_bytes(word);
	bool alone;
	int rc;

	if (page_overwrite(part, spot, word, item))
		return 0;
	alone = content_hide(&scope, spot->name, part->scratch);
	rc = object_put(part, spot, item, alone ? pack_object_bytes(bytes) : 0);
	if (rc) {
		content_return(&scope, part->scratch, spot->name);
		return rc;
	}
	if (content_drop_hidden(&scope, part->scratch))
		object_forget(part, spot, bytes);
	page_leave(part, spot, word);
	page_enter(part, spot, item);
	return 0;
}

static int page_put_new(struct part *part, struct tmem_pool *pool,
			const struct key *key, uint32_t leaf,
			const struct pack_item *item)
{
	uint32_t n = key->index % LEAF_PAGES;
	struct spot spot;
	int rc;

	if (!leaf) {
		rc = leaf_create(part, pool, key, &leaf);
		if (rc)
			return rc;
	}
	if (!pool->cl)
		*member_at(part->shelf, leaf, n) =
			key->cl->slot[key->pool].member;
	spot = spot_of(part, leaf, n);
	rc = page_insert(part, &spot, item);
	if (rc && leaf_is_empty(leaf_at(part->shelf, leaf)))
		leaf_destroy(part, leaf);
	return rc;
}

static int page_put_again(struct part *part, struct tmem_pool *pool,
			  const struct key *key, uint32_t leaf,
			  const struct pack_item *item, enum put_try how)
{
	uint32_t n = key->index % LEAF_PAGES;
	struct spot spot = spot_of(part, leaf, n);

	/* What another member put cannot become ours by replacement. */
	if (how == PUT_GENTLY && spot.cl == key->cl)
		return page_replace(part, &spot,
				    word_of(leaf_at(part->shelf, leaf), n),
				    item);
	page_remove(part, leaf, n);
	return page_put_new(part, pool, key, leaf, item);
}

int page_put(struct shard *s, const struct key *key,
	     const struct codec_page *page, enum put_try how)
{
	struct tmem_pool *pool = shard_pool(key);
	struct pack_item item = page->item;
	struct part *part;
	bool has = false;
	uint32_t leaf;

	if (!pool)
		return -ENOENT;
	part = part_at(pool->tm, pool->kind, s->n);
	item.spread = s->n;
	leaf = leaf_find(part, key);
	if (leaf)
		has = word_of(leaf_at(part->shelf, leaf),
			      key->index % LEAF_PAGES);
	if (has)
		return page_put_again(part, pool, key, leaf, &item, how);
	if (atomic_load(&key->cl->frozen) && !key->staged)
		return -EBUSY;
	return page_put_new(part, pool, key, leaf, &item);
}

/* The leaf that has the key's page, 0: none. */
static uint32_t page_find(const struct shard *s, const struct key *key,
			  struct part **part_out)
{
	struct tmem_pool *pool = shard_pool(key);
	uint32_t leaf;

	if (!pool)
		return 0;
	*part_out = part_at(pool->tm, pool->kind, s->n);
	leaf = leaf_find(*part_out, key);
	if (!leaf || !word_of(leaf_at((*part_out)->shelf, leaf),
			      key->index % LEAF_PAGES))
		return 0;
	return leaf;
}

int page_get(struct shard *s, const struct key *key, void *buf,
	     struct pack_item *item_out)
{
	uint32_t n = key->index % LEAF_PAGES;
	struct part *part;
	uint32_t leaf = page_find(s, key, &part);
	struct shelf *shelf;

	if (!leaf)
		return -ENOENT;
	shelf = part->shelf;
	pack_read(&shelf->pack, word_unit(leaf, n), buf, item_out);
	if (!leaf_pool(shelf, leaf)->cl)
		age_renew(page_client(shelf, leaf, n), word_unit(leaf, n));
	else if (shelf->kind == KIND_EPHEMERAL)
		page_drop(part, leaf, n);
	return 0;
}

void page_flush(struct shard *s, const struct key *key)
{
	struct part *part;
	uint32_t leaf = page_find(s, key, &part);

	if (leaf)
		page_drop(part, leaf, key->index % LEAF_PAGES);
}
