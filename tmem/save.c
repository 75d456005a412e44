/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing a client out while its guest runs. A page that was written is marked
 * in its word; any put makes a new word without the mark. So a pass tells what
 * changed since the one before, and nobody needs a log:
 *
 *   pass 0      every page                               guest runs
 *   pass 1..n   pages without the mark                   guest runs
 *   last pass   the same, and the list of all keys       guest stopped
 *
 * The keys of a shard's leaves are collected under its lock at once, and each
 * leaf is then looked up again by key, so that the lock is held for at most
 * eight pages and never while writing. What comes after the collecting is new,
 * hence has no mark, and is for the next pass.
 */
#include "tmem/store.h"
#include "tmem/stream.h"

#include <errno.h>
#include <string.h>

struct leaf_key {
	struct tmem_oid oid;
	uint32_t base;
};

struct tmem_saver {
	struct tmem_client *cl;
	struct stream *st;
	uint64_t sent[TMEM_POOLS_MAX]; /* name of the pool told last */
	unsigned passes;
	uint64_t pages;	   /* of this pass */
	uint64_t existing; /* keys told in the last pass */
	struct save_object object;
	bool in_object;
	struct pack_item item[LEAF_PAGES];
	unsigned char data[LEAF_PAGES][PAGE_BYTES];
	unsigned char page[PAGE_BYTES]; /* decoded */
	struct codec_page coded;	/* of it */
};

enum pass_kind { PASS_MORE, PASS_LAST };

/* A client's pools at one moment. */
struct pools_now {
	uint64_t name[TMEM_POOLS_MAX]; /* 0: none */
	struct save_pool desc[TMEM_POOLS_MAX];
};

static void pool_describe(struct pools_now *now, uint32_t id,
			  struct tmem_pool *pool)
{
	struct save_pool *desc = &now->desc[id];

	now->name[id] = pool->name;
	desc->id = id;
	if (pool->kind == KIND_PERSISTENT)
		desc->flags = TMEM_PERSISTENT;
	if (!pool->cl) {
		desc->flags = TMEM_SHARED;
		shared_uuid(pool, desc->uuid);
	}
}

static void pools_describe(struct tmem_client *cl, struct pools_now *now)
{
	memset(now, 0, sizeof(*now));
	lock_take(&cl->lock);
	for (uint32_t id = 0; id < TMEM_POOLS_MAX; id++) {
		struct tmem_pool *pool = atomic_load(&cl->slot[id].pool);

		if (pool)
			pool_describe(now, id, pool);
	}
	lock_drop(&cl->lock);
}

int tmem_save_begin(struct tmem_client *cl, int fd,
		    struct tmem_saver **saver_out)
{
	struct save_head head = {SAVE_MAGIC, SAVE_FORMAT, PAGE_BYTES};
	struct tmem_saver *saver;
	int rc;

	if (!cl || !saver_out)
		return -EINVAL;
	if (atomic_exchange(&cl->moving, true))
		return -EBUSY;
	saver = heap_alloc(&cl->tm->budget, sizeof(*saver));
	rc = saver ? stream_create(fd, &saver->st) : -ENOMEM;
	if (rc) {
		heap_free(&cl->tm->budget, saver, sizeof(*saver));
		atomic_store(&cl->moving, false);
		return rc;
	}
	saver->cl = cl;
	stream_write(saver->st, &head, sizeof(head));
	*saver_out = saver;
	return 0;
}

void tmem_save_cancel(struct tmem_saver *saver)
{
	struct tmem_client *cl;

	if (!saver)
		return;
	cl = saver->cl;
	stream_destroy(saver->st);
	heap_free(&cl->tm->budget, saver, sizeof(*saver));
	atomic_store(&cl->moving, false);
}

static struct tmem_pool *pool_named(const struct tmem_saver *saver, uint32_t id,
				    uint64_t name)
{
	struct key key = {.cl = saver->cl, .pool = id, .name = name};

	return shard_pool(&key);
}

static uint32_t leaves_count(const struct part *part,
			     const struct tmem_pool *pool)
{
	uint32_t n = 0;

	for (uint32_t at = pool->object[part->n]; at;
	     at = object_at(part->shelf, at)->next)
		n += object_at(part->shelf, at)->leaves;
	return n;
}

static void leaves_list(const struct part *part, const struct tmem_pool *pool,
			struct leaf_key *keys)
{
	const struct shelf *shelf = part->shelf;
	uint32_t n = 0;

	for (uint32_t at = pool->object[part->n]; at;
	     at = object_at(shelf, at)->next) {
		const struct object *object = object_at(shelf, at);
		uint32_t leaf = object->leaf_first;

		for (; leaf; leaf = leaf_at(shelf, leaf)->next)
			keys[n++] = (struct leaf_key){
				object->oid, leaf_at(shelf, leaf)->base};
	}
}

/* The keys of the pool's leaves in the shard; free with heap_free. */
static int leaves_collect(const struct tmem_saver *saver, struct shard *s,
			  uint32_t id, uint64_t name,
			  struct leaf_key **keys_out, uint32_t *n_out)
{
	struct tmem *tm = saver->cl->tm;
	const struct part *part = part_at(tm, KIND_PERSISTENT, s->n);
	struct tmem_pool *pool;
	int rc = 0;

	*keys_out = NULL;
	lock_take(&s->lock);
	pool = pool_named(saver, id, name);
	*n_out = pool ? leaves_count(part, pool) : 0;
	if (*n_out) {
		*keys_out =
			heap_alloc(&tm->budget, *n_out * sizeof(**keys_out));
		if (*keys_out)
			leaves_list(part, pool, *keys_out);
		else
			rc = -ENOMEM;
	}
	lock_drop(&s->lock);
	return rc;
}

/* Copies what is to be told of a leaf. Returns the mask of its pages. */
static uint32_t leaf_copy(struct tmem_saver *saver, const struct part *part,
			  const struct key *key)
{
	struct pack *pack = &part->shelf->pack;
	uint32_t leaf = shard_pool(key) ? leaf_find(part, key) : 0;
	uint32_t mask = 0;

	LOCK_ASSERT(LOCK_SHARD);
	for (uint32_t n = 0; n < LEAF_PAGES; n++) {
		uint64_t word = 0;

		saver->item[n].bytes = 0;
		if (leaf)
			word = atomic_load(
				&leaf_at(part->shelf, leaf)->word[n]);
		if (!word)
			continue;
		mask |= 1u << n;
		if (saver->passes && pack_word_marked(word))
			continue;
		pack_read(pack, word_unit(leaf, n), saver->data[n],
			  &saver->item[n]);
		pack_mark(pack, word_unit(leaf, n));
	}
	return mask;
}

static void object_tell(struct tmem_saver *saver, uint32_t id,
			const struct tmem_oid *oid)
{
	struct save_object object = {id, 0, {oid->w[0], oid->w[1], oid->w[2]}};

	if (saver->in_object &&
	    !memcmp(&object, &saver->object, sizeof(object)))
		return;
	saver->object = object;
	saver->in_object = true;
	stream_record(saver->st, SAVE_OBJECT, &object, sizeof(object));
}

/*
 * What only this process can decode is told as any other client's page would
 * be.
 */
static int item_undense(struct tmem_saver *saver, const struct pack_item **item)
{
	int rc;

	if ((*item)->tag != CODEC_DENSE)
		return 0;
	rc = codec_decode(*item, atomic_load(&saver->cl->dense), saver->page);
	if (rc)
		return rc;
	codec_encode(&saver->coded, saver->page, CODEC_COMPRESS);
	*item = &saver->coded.item;
	return 0;
}

static int page_tell(struct tmem_saver *saver, uint32_t index,
		     const struct pack_item *item)
{
	int rc = item_undense(saver, &item);
	struct save_page page = {index, item->tag};
	struct save_record record = {SAVE_PAGE,
				     (uint32_t)sizeof(page) + item->bytes};

	if (rc)
		return rc;
	stream_write(saver->st, &record, sizeof(record));
	stream_write(saver->st, &page, sizeof(page));
	stream_write(saver->st, item->data, item->bytes);
	saver->pages++;
	return 0;
}

static int leaf_tell(struct tmem_saver *saver, const struct key *key,
		     uint32_t mask, enum pass_kind kind)
{
	struct save_keys keys = {key->index, mask};
	int rc = 0;

	for (uint32_t n = 0; n < LEAF_PAGES && !rc; n++)
		if (saver->item[n].bytes) {
			object_tell(saver, key->pool, &key->oid);
			rc = page_tell(saver, key->index + n, &saver->item[n]);
		}
	if (rc || kind == PASS_MORE || !mask)
		return rc;
	object_tell(saver, key->pool, &key->oid);
	stream_record(saver->st, SAVE_KEYS, &keys, sizeof(keys));
	saver->existing += (uint64_t)__builtin_popcount(mask);
	return 0;
}

static int leaf_save(struct tmem_saver *saver, uint32_t id, uint64_t name,
		     const struct leaf_key *at, enum pass_kind kind)
{
	struct tmem *tm = saver->cl->tm;
	struct key key = {
		.cl = saver->cl,
		.pool = id,
		.index = at->base,
		.oid = at->oid,
		.name = name,
		.hash = key_hash(tm, name, &at->oid),
	};
	struct shard *s = key_shard(&key);
	uint32_t mask;

	lock_take(&s->lock);
	mask = leaf_copy(saver, part_at(tm, KIND_PERSISTENT, s->n), &key);
	lock_drop(&s->lock);
	return leaf_tell(saver, &key, mask, kind);
}

static int shard_save(struct tmem_saver *saver, struct shard *s, uint32_t id,
		      uint64_t name, enum pass_kind kind)
{
	struct leaf_key *keys;
	uint32_t n;
	int rc = leaves_collect(saver, s, id, name, &keys, &n);

	if (rc)
		return rc;
	for (uint32_t i = 0; i < n && !rc; i++)
		rc = leaf_save(saver, id, name, &keys[i], kind);
	heap_free(&saver->cl->tm->budget, keys, n * sizeof(*keys));
	return rc ? rc : stream_flush(saver->st);
}

static int pool_save(struct tmem_saver *saver, uint32_t id,
		     const struct pools_now *now, enum pass_kind kind)
{
	struct tmem *tm = saver->cl->tm;
	uint64_t name = now->name[id];
	int rc = 0;

	if (saver->sent[id] != name) {
		stream_record(saver->st, SAVE_POOL, &now->desc[id],
			      sizeof(now->desc[id]));
		saver->in_object = false;
		saver->sent[id] = name;
	}
	if (now->desc[id].flags != TMEM_PERSISTENT)
		return 0;
	for (unsigned n = 0; n < tm->shards && !rc; n++)
		rc = shard_save(saver, &tm->shard[n], id, name, kind);
	return rc;
}

static int pass_make(struct tmem_saver *saver, enum pass_kind kind,
		     uint32_t *pools_out)
{
	struct pools_now now;
	int rc = 0;

	*pools_out = 0;
	saver->pages = 0;
	pools_describe(saver->cl, &now);
	for (uint32_t id = 0; id < TMEM_POOLS_MAX && !rc; id++)
		if (now.name[id]) {
			rc = pool_save(saver, id, &now, kind);
			*pools_out |= 1u << id;
		}
	saver->passes++;
	return rc ? rc : stream_flush(saver->st);
}

int tmem_save_pass(struct tmem_saver *saver, uint64_t *pages_out)
{
	uint32_t pools;
	int rc;

	if (!saver || !pages_out)
		return -EINVAL;
	rc = pass_make(saver, PASS_MORE, &pools);
	*pages_out = saver->pages;
	return rc;
}

static int end_tell(struct tmem_saver *saver, uint32_t pools)
{
	struct save_record record = {SAVE_END, sizeof(struct save_end)};
	struct save_end end = {.pools = pools, .pages = saver->existing};

	stream_write(saver->st, &record, sizeof(record));
	stream_write(saver->st, &end, offsetof(struct save_end, sum));
	end.sum = stream_sum(saver->st);
	stream_write(saver->st, &end.sum, sizeof(end.sum));
	return stream_flush(saver->st);
}

int tmem_save_end(struct tmem_saver *saver)
{
	uint32_t pools;
	int rc;

	if (!saver)
		return -EINVAL;
	rc = pass_make(saver, PASS_LAST, &pools);
	if (!rc)
		rc = end_tell(saver, pools);
	tmem_save_cancel(saver);
	return rc;
}

int tmem_save(struct tmem_client *cl, int fd)
{
	struct tmem_saver *saver;
	int rc = tmem_save_begin(cl, fd, &saver);

	return rc ? rc : tmem_save_end(saver);
}
