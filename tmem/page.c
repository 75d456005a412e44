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
static void page_count(struct shard *s, enum pool_kind kind, uint32_t tag,
		       uint64_t d)
{
	struct tmem_stats *st = &s->stats;

	st->pages += d;
	if (kind == KIND_EPHEMERAL)
		st->pages_ephemeral += d;
	else
		st->pages_persistent += d;
	if (tag == CODEC_SAME)
		st->pages_same_filled += d;
	else if (tag == CODEC_RAW)
		st->pages_raw += d;
	else if (tag == CODEC_DENSE)
		st->pages_dense += d;
}

/* The same for an object. */
static void object_count(struct shard *s, uint32_t bytes, uint64_t d)
{
	s->objects += d;
	s->stats.stored_bytes += d * bytes;
	s->object_bytes += d * pack_object_bytes(bytes);
}

static struct tmem_pool *leaf_pool(const struct tmem *tm, uint32_t leaf)
{
	return object_at(tm, leaf_at(tm, leaf)->object)->pool;
}

static uint8_t *member_at(const struct tmem *tm, uint32_t leaf, uint32_t n)
{
	struct leaf_ephemeral *le = arena_unit_at(&tm->tables, leaf);

	return &le->member[n];
}

struct tmem_client *page_client(const struct tmem *tm, uint32_t leaf,
				uint32_t n)
{
	struct tmem_pool *pool = leaf_pool(tm, leaf);

	return pool->cl ? pool->cl
			: shared_member(pool, *member_at(tm, leaf, n));
}

/* A place for a page, and who is charged for what is in it. */
struct spot {
	struct tmem_client *cl;
	enum pool_kind kind;
	uint32_t name; /* of its word */
};

static struct spot spot_of(const struct shard *s, uint32_t leaf, uint32_t n)
{
	return (struct spot){
		.cl = page_client(s->tm, leaf, n),
		.kind = leaf_pool(s->tm, leaf)->kind,
		.name = word_unit(leaf, n),
	};
}

static struct content_scope scope_of(const struct shard *s,
				     const struct spot *spot)
{
	return (struct content_scope){s->tm, spot->cl, spot->kind};
}

/* Counted and aged no more; its object, word and charge are the caller's. */
static void page_leave(struct shard *s, const struct spot *spot, uint64_t word)
{
	if (spot->kind == KIND_EPHEMERAL)
		age_remove(spot->cl, spot->name);
	page_count(s, spot->kind, pack_word_tag(word), UINT64_MAX);
	atomic_fetch_sub_explicit(&spot->cl->pages[spot->kind], 1,
				  memory_order_relaxed);
}

static void page_enter(struct shard *s, const struct spot *spot,
		       const struct pack_item *item)
{
	if (spot->kind == KIND_EPHEMERAL)
		age_append(spot->cl, spot->name);
	page_count(s, spot->kind, item->tag, 1);
	atomic_fetch_add_explicit(&spot->cl->pages[spot->kind], 1,
				  memory_order_relaxed);
}

/* The place's object is gone. */
static void object_forget(struct shard *s, const struct spot *spot,
			  uint32_t bytes)
{
	object_count(s, bytes, UINT64_MAX);
	client_uncharge(spot->cl, spot->kind, pack_object_bytes(bytes));
}

/* Leaves the leaf, even if it is empty now. */
static void page_remove(struct shard *s, uint32_t leaf, uint32_t n)
{
	struct spot spot = spot_of(s, leaf, n);
	struct content_scope scope = scope_of(s, &spot);
	uint64_t word = word_of(leaf_at(s->tm, leaf), n);

	page_leave(s, &spot, word);
	if (content_drop(&scope, spot.name))
		object_forget(s, &spot, pack_word_bytes(word));
}

void page_drop(struct shard *s, uint32_t leaf, uint32_t n)
{
	LOCK_ASSERT(LOCK_SHARD);
	page_remove(s, leaf, n);
	if (leaf_is_empty(leaf_at(s->tm, leaf)))
		leaf_destroy(s, leaf);
}

void leaf_clear(struct shard *s, uint32_t leaf)
{
	LOCK_ASSERT(LOCK_SHARD);
	for (uint32_t n = 0; n < LEAF_PAGES; n++)
		if (word_of(leaf_at(s->tm, leaf), n))
			page_remove(s, leaf, n);
	leaf_destroy(s, leaf);
}

uint32_t leaf_clear_unmarked(struct shard *s, uint32_t leaf)
{
	uint32_t stay = 0;

	LOCK_ASSERT(LOCK_SHARD);
	for (uint32_t n = 0; n < LEAF_PAGES; n++) {
		uint64_t word = word_of(leaf_at(s->tm, leaf), n);

		if (pack_word_marked(word))
			stay++;
		else if (word)
			page_remove(s, leaf, n);
	}
	if (!stay)
		leaf_destroy(s, leaf);
	return stay;
}

void leaf_clear_member(struct shard *s, uint32_t leaf, uint8_t member)
{
	LOCK_ASSERT(LOCK_SHARD);
	for (uint32_t n = 0; n < LEAF_PAGES; n++)
		if (word_of(leaf_at(s->tm, leaf), n) &&
		    *member_at(s->tm, leaf, n) == member)
			page_remove(s, leaf, n);
	if (leaf_is_empty(leaf_at(s->tm, leaf)))
		leaf_destroy(s, leaf);
}

/*
 * Into a word that is 0. credit: bytes that the caller will give back when this
 * is done, so that the cap need not have room for both.
 */
static int object_put(struct shard *s, const struct spot *spot,
		      const struct pack_item *item, uint32_t credit)
{
	struct content_scope scope = scope_of(s, spot);
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
	object_count(s, item->bytes, 1);
	return 0;
}

static int page_insert(struct shard *s, const struct spot *spot,
		       const struct pack_item *item)
{
	int rc = object_put(s, spot, item, 0);

	if (!rc)
		page_enter(s, spot, item);
	return rc;
}

/* An object of the same class goes into the old one's place. */
static bool page_overwrite(struct shard *s, const struct spot *spot,
			   uint64_t word, const struct pack_item *item)
{
	struct content_scope scope = scope_of(s, spot);
	uint32_t bytes = pack_word_bytes(word);

	if (pack_object_bytes(bytes) != pack_object_bytes(item->bytes) ||
	    !content_overwrite(&scope, spot->name, item))
		return false;
	object_count(s, bytes, UINT64_MAX);
	object_count(s, item->bytes, 1);
	page_leave(s, spot, word);
	page_enter(s, spot, item);
	return true;
}

/*
 * The old object waits under the shard's scratch word until the new one is in
 * place, and returns if it cannot be.
 */
static int page_replace(struct shard *s, const struct spot *spot, uint64_t word,
			const struct pack_item *item)
{
	struct content_scope scope = scope_of(s, spot);
	uint32_t bytes = pack_word_bytes(word);
	bool alone;
	int rc;

	if (page_overwrite(s, spot, word, item))
		return 0;
	alone = content_hide(&scope, spot->name, s->scratch);
	rc = object_put(s, spot, item, alone ? pack_object_bytes(bytes) : 0);
	if (rc) {
		content_return(&scope, s->scratch, spot->name);
		return rc;
	}
	if (content_drop_hidden(&scope, s->scratch))
		object_forget(s, spot, bytes);
	page_leave(s, spot, word);
	page_enter(s, spot, item);
	return 0;
}

static int page_put_new(struct shard *s, struct tmem_pool *pool,
			const struct key *key, uint32_t leaf,
			const struct pack_item *item)
{
	uint32_t n = key->index % LEAF_PAGES;
	struct spot spot;
	int rc;

	if (!leaf) {
		rc = leaf_create(s, pool, key, &leaf);
		if (rc)
			return rc;
	}
	if (!pool->cl)
		*member_at(s->tm, leaf, n) = key->cl->slot[key->pool].member;
	spot = spot_of(s, leaf, n);
	rc = page_insert(s, &spot, item);
	if (rc && leaf_is_empty(leaf_at(s->tm, leaf)))
		leaf_destroy(s, leaf);
	return rc;
}

static int page_put_again(struct shard *s, struct tmem_pool *pool,
			  const struct key *key, uint32_t leaf,
			  const struct pack_item *item, enum put_try how)
{
	uint32_t n = key->index % LEAF_PAGES;
	struct spot spot = spot_of(s, leaf, n);

	/* What another member put cannot become ours by replacement. */
	if (how == PUT_GENTLY && spot.cl == key->cl)
		return page_replace(s, &spot, word_of(leaf_at(s->tm, leaf), n),
				    item);
	page_remove(s, leaf, n);
	return page_put_new(s, pool, key, leaf, item);
}

int page_put(struct shard *s, const struct key *key,
	     const struct codec_page *page, enum put_try how)
{
	struct tmem_pool *pool = shard_pool(key);
	struct pack_item item = page->item;
	bool has = false;
	uint32_t leaf;

	if (!pool)
		return -ENOENT;
	item.spread = s->n;
	leaf = leaf_find(s, key);
	if (leaf)
		has = word_of(leaf_at(s->tm, leaf), key->index % LEAF_PAGES);
	if (has)
		return page_put_again(s, pool, key, leaf, &item, how);
	if (atomic_load(&key->cl->frozen) && !key->staged)
		return -EBUSY;
	return page_put_new(s, pool, key, leaf, &item);
}

int page_get(struct shard *s, const struct key *key, void *buf,
	     struct pack_item *item_out)
{
	struct tmem_pool *pool = shard_pool(key);
	uint32_t n = key->index % LEAF_PAGES;
	uint32_t leaf = pool ? leaf_find(s, key) : 0;

	if (!leaf || !word_of(leaf_at(s->tm, leaf), n))
		return -ENOENT;
	pack_read(&s->tm->pack, word_unit(leaf, n), buf, item_out);
	if (!pool->cl)
		age_renew(page_client(s->tm, leaf, n), word_unit(leaf, n));
	else if (pool->kind == KIND_EPHEMERAL)
		page_drop(s, leaf, n);
	return 0;
}

void page_flush(struct shard *s, const struct key *key)
{
	uint32_t n = key->index % LEAF_PAGES;
	uint32_t leaf = shard_pool(key) ? leaf_find(s, key) : 0;

	if (leaf && word_of(leaf_at(s->tm, leaf), n))
		page_drop(s, leaf, n);
}
