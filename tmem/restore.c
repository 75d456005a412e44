/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading a saved client back. Every record is copied out of the stream and
 * checked on that copy. Pools are filled in the client's own places for pools
 * but shown in no slot: the guest cannot see them, and a stream that ends badly
 * leaves the client as it was, without pools. Keys that the last pass named
 * are marked in their words; at the end what has no mark goes.
 *
 * What a stream can ask of the host is bounded by the client's cap and the
 * store's budget, as any put is. It cannot authorise: a shared pool in it needs
 * the client to be authorised here.
 */
#include "tmem/store.h"
#include "tmem/stream.h"

#include <errno.h>
#include <string.h>

struct restorer {
	struct tmem_client *cl;
	struct stream *st;
	struct save_record record;
	uint32_t staged; /* pools begun: bit n is id n */
	struct save_pool pool[TMEM_POOLS_MAX];
	struct save_object object;
	bool in_object;
	uint64_t kept;
	struct codec_page coded;
	unsigned char page[PAGE_BYTES]; /* to decode into */
	union {
		struct save_pool pool;
		struct save_object object;
		struct save_keys keys;
		struct save_end end;
		struct {
			struct save_page head;
			unsigned char data[PAGE_BYTES];
		} page;
	} in;
};

_Static_assert(sizeof(((struct restorer *)0)->in) == SAVE_PAYLOAD,
	       "every payload fits");

static struct key key_staged(const struct restorer *r, uint32_t index)
{
	struct tmem_pool *pool = &r->cl->own[r->object.pool];
	struct key key = {
		.cl = r->cl,
		.pool = r->object.pool,
		.index = index,
		.name = pool->name,
		.staged = pool,
	};

	memcpy(key.oid.w, r->object.oid, sizeof(key.oid.w));
	key.hash = key_hash(r->cl->tm, key.name, &key.oid);
	return key;
}

static void pool_drop(struct restorer *r, uint32_t id)
{
	if (r->staged & 1u << id && !(r->pool[id].flags & TMEM_SHARED))
		pool_clear(&r->cl->own[id]);
	r->staged &= ~(1u << id);
}

static int shared_allowed(struct tmem_client *cl, const uint8_t uuid[16])
{
	bool allowed;

	lock_take(&cl->lock);
	allowed = client_is_authorised(cl, uuid);
	lock_drop(&cl->lock);
	return allowed ? 0 : -EACCES;
}

static int pool_read(struct restorer *r)
{
	const struct save_pool *in = &r->in.pool;
	enum pool_kind kind =
		in->flags == TMEM_PERSISTENT ? KIND_PERSISTENT : KIND_EPHEMERAL;
	int rc = 0;

	if (in->id >= TMEM_POOLS_MAX || in->flags > TMEM_SHARED)
		return -EBADMSG;
	pool_drop(r, in->id);
	r->in_object = false;
	if (in->flags == TMEM_SHARED)
		rc = shared_allowed(r->cl, in->uuid);
	if (rc)
		return rc;
	rc = shelf_need(r->cl->tm, kind);
	if (rc)
		return rc;
	pool_name(&r->cl->own[in->id], kind);
	r->pool[in->id] = *in;
	r->staged |= 1u << in->id;
	return 0;
}

static int object_read(struct restorer *r)
{
	const struct save_object *in = &r->in.object;

	if (in->pool >= TMEM_POOLS_MAX || !(r->staged & 1u << in->pool) ||
	    r->pool[in->pool].flags != TMEM_PERSISTENT || in->zero)
		return -EBADMSG;
	r->object = *in;
	r->in_object = true;
	return 0;
}

static bool form_is_sound(uint32_t form, uint32_t bytes)
{
	switch (form) {
	case CODEC_SAME:
		return bytes == sizeof(uint64_t);
	case CODEC_LZ4:
		return bytes && bytes <= PACK_SMALL_MAX;
	case CODEC_RAW:
		return bytes == PAGE_BYTES;
	default:
		return false;
	}
}

static int page_read(struct restorer *r)
{
	struct pack_item *item = &r->coded.item;
	struct key key;
	int rc;

	if (!r->in_object || r->record.bytes < sizeof(struct save_page))
		return -EBADMSG;
	item->data = r->in.page.data;
	item->bytes = r->record.bytes - (uint32_t)sizeof(struct save_page);
	item->tag = r->in.page.head.form;
	if (!form_is_sound(item->tag, item->bytes) ||
	    codec_decode(item, NULL, r->page))
		return -EBADMSG;
	item->sum = codec_sum(item->data, item->bytes);
	key = key_staged(r, r->in.page.head.index);
	rc = key_put(&key, &r->coded);
	return rc;
}

static int key_mark(struct restorer *r, uint32_t index)
{
	struct key key = key_staged(r, index);
	struct shard *s = key_shard(&key);
	struct part *part = part_at(r->cl->tm, KIND_PERSISTENT, s->n);
	uint32_t n = index % LEAF_PAGES;
	int rc = -EBADMSG;
	uint32_t leaf;

	lock_take(&s->lock);
	leaf = leaf_find(part, &key);
	if (leaf && atomic_load(&leaf_at(part->shelf, leaf)->word[n])) {
		pack_mark(&part->shelf->pack, word_unit(leaf, n));
		rc = 0;
	}
	lock_drop(&s->lock);
	return rc;
}

static int keys_read(struct restorer *r)
{
	uint32_t base = r->in.keys.base;
	uint32_t mask = r->in.keys.mask;
	int rc = 0;

	if (!r->in_object || !mask)
		return -EBADMSG;
	for (uint32_t n = 0; n < 32 && !rc; n++) {
		if (!(mask & 1u << n))
			continue;
		rc = n <= UINT32_MAX - base ? key_mark(r, base + n) : -EBADMSG;
	}
	return rc;
}

/* Drops what was not named last, and counts the rest. */
static void shard_settle(struct restorer *r, struct tmem_pool *pool,
			 struct shard *s)
{
	struct part *part = part_at(r->cl->tm, KIND_PERSISTENT, s->n);
	const struct shelf *shelf = part->shelf;
	uint32_t object;

	lock_take(&s->lock);
	object = pool->object[s->n];
	while (object) {
		uint32_t next = object_at(shelf, object)->next;
		uint32_t leaf = object_at(shelf, object)->leaf_first;

		while (leaf) {
			uint32_t older = leaf_at(shelf, leaf)->next;

			r->kept += leaf_clear_unmarked(part, leaf);
			leaf = older;
		}
		object = next;
	}
	lock_drop(&s->lock);
}

static int end_read(struct restorer *r, uint64_t sum)
{
	struct tmem *tm = r->cl->tm;
	const struct save_end *end = &r->in.end;

	if (end->sum != sum || end->zero || end->pools & ~r->staged)
		return -EBADMSG;
	for (uint32_t id = 0; id < TMEM_POOLS_MAX; id++) {
		if (!(end->pools & 1u << id))
			pool_drop(r, id);
		if (!(r->staged & 1u << id) ||
		    r->pool[id].flags != TMEM_PERSISTENT)
			continue;
		for (unsigned n = 0; n < tm->shards; n++)
			shard_settle(r, &r->cl->own[id], &tm->shard[n]);
	}
	return r->kept == end->pages ? 0 : -EBADMSG;
}

static const struct {
	uint32_t least;
	uint32_t most;
	int (*read)(struct restorer *r);
} readers[] = {
	[SAVE_POOL] = {sizeof(struct save_pool), sizeof(struct save_pool),
		       pool_read},
	[SAVE_OBJECT] = {sizeof(struct save_object), sizeof(struct save_object),
			 object_read},
	[SAVE_PAGE] = {sizeof(struct save_page) + 1, SAVE_PAYLOAD, page_read},
	[SAVE_KEYS] = {sizeof(struct save_keys), sizeof(struct save_keys),
		       keys_read},
	[SAVE_END] = {sizeof(struct save_end), sizeof(struct save_end), NULL},
};

/* The end's own checksum is not in the sum. */
static int last_read(struct restorer *r)
{
	uint64_t sum;
	int rc = stream_read(r->st, &r->in.end, offsetof(struct save_end, sum));

	if (rc)
		return rc;
	sum = stream_sum(r->st);
	rc = stream_read(r->st, &r->in.end.sum, sizeof(r->in.end.sum));
	return rc ? rc : end_read(r, sum);
}

static int record_read(struct restorer *r)
{
	uint32_t type;
	int rc = stream_read(r->st, &r->record, sizeof(r->record));

	if (rc)
		return rc;
	type = r->record.type;
	if (type < SAVE_POOL || type > SAVE_END ||
	    r->record.bytes < readers[type].least ||
	    r->record.bytes > readers[type].most)
		return -EBADMSG;
	if (type == SAVE_END)
		return last_read(r);
	rc = stream_read(r->st, &r->in, r->record.bytes);
	return rc ? rc : readers[type].read(r);
}

static int head_read(struct restorer *r)
{
	struct save_head head;
	int rc = stream_read(r->st, &head, sizeof(head));

	if (rc)
		return rc;
	if (memcmp(head.magic, SAVE_MAGIC, sizeof(head.magic)))
		return -EBADMSG;
	if (head.format != SAVE_FORMAT)
		return -EPROTONOSUPPORT;
	return head.page_bytes == PAGE_BYTES ? 0 : -EBADMSG;
}

/* Makes the pools the guest's, all or none. */
static int pools_show(struct restorer *r)
{
	struct tmem_client *cl = r->cl;
	int rc = 0;

	lock_take(&cl->lock);
	for (uint32_t id = 0; id < TMEM_POOLS_MAX && !rc; id++)
		if (r->staged & 1u << id && r->pool[id].flags == TMEM_SHARED)
			rc = client_is_authorised(cl, r->pool[id].uuid)
				     ? shared_join(cl, &cl->slot[id],
						   r->pool[id].uuid)
				     : -EACCES;
	for (uint32_t id = 0; id < TMEM_POOLS_MAX; id++) {
		struct pool_slot *slot = &cl->slot[id];

		if (rc && atomic_load(&slot->pool))
			pool_end(cl, slot);
		else if (!rc && r->staged & 1u << id &&
			 r->pool[id].flags != TMEM_SHARED)
			pool_show(slot, &cl->own[id]);
	}
	lock_drop(&cl->lock);
	return rc;
}

static int client_read(struct restorer *r)
{
	int rc = head_read(r);

	while (!rc) {
		rc = record_read(r);
		if (!rc && r->record.type == SAVE_END)
			break;
	}
	if (!rc)
		rc = pools_show(r);
	for (uint32_t id = 0; rc && id < TMEM_POOLS_MAX; id++)
		pool_drop(r, id);
	return rc;
}

/* From now on the client has no pools, and gets none but ours. */
static int places_take(struct tmem_client *cl)
{
	int rc = 0;

	if (atomic_exchange(&cl->moving, true))
		return -EBUSY;
	lock_take(&cl->lock);
	for (uint32_t id = 0; id < TMEM_POOLS_MAX; id++)
		if (atomic_load(&cl->slot[id].pool))
			rc = -EEXIST;
	if (!rc)
		cl->restoring = true;
	lock_drop(&cl->lock);
	if (rc)
		atomic_store(&cl->moving, false);
	return rc;
}

static void places_drop(struct tmem_client *cl)
{
	lock_take(&cl->lock);
	cl->restoring = false;
	lock_drop(&cl->lock);
	atomic_store(&cl->moving, false);
}

int tmem_restore(struct tmem_client *cl, int fd)
{
	struct restorer *r;
	int rc;

	if (!cl)
		return -EINVAL;
	rc = places_take(cl);
	if (rc)
		return rc;
	r = heap_alloc(&cl->tm->budget, sizeof(*r));
	rc = r ? stream_create(fd, &r->st) : -ENOMEM;
	if (!rc) {
		r->cl = cl;
		rc = client_read(r);
		stream_destroy(r->st);
	}
	heap_free(&cl->tm->budget, r, sizeof(*r));
	places_drop(cl);
	return rc;
}
