/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pools, and dropping many pages at once. What may be long (an object of
 * millions of pages) lets go of the shard's lock every few leaves, so that
 * gets of other keys never wait for it.
 */
#include "tmem/store.h"

#include <errno.h>
#include <string.h>

#define BATCH_LEAVES 32

static int flags_check(const struct tmem_client *cl, uint32_t flags,
		       const uint8_t uuid[16])
{
	if (flags & ~(uint32_t)(TMEM_PERSISTENT | TMEM_SHARED))
		return -EINVAL;
	if (!(flags & TMEM_SHARED))
		return 0;
	if (flags & TMEM_PERSISTENT || !uuid)
		return -EINVAL;
	return client_is_authorised(cl, uuid) ? 0 : -EACCES;
}

void pool_name(struct tmem_pool *pool, enum pool_kind kind)
{
	struct lock *lock = &pool->tm->shard[0].lock;

	lock_take(lock);
	memset(pool->object, 0, sizeof(pool->object));
	pool->kind = kind;
	pool->name = atomic_fetch_add(&pool->tm->pool_names, 1) + 1;
	lock_drop(lock);
}

void pool_show(struct pool_slot *slot, struct tmem_pool *pool)
{
	atomic_store(&slot->name, pool->name);
	atomic_store(&slot->pool, pool);
	atomic_store(&slot->kind, !pool->cl ? TMEM_POOL_SHARED
				  : pool->kind == KIND_PERSISTENT
					  ? TMEM_POOL_PERSISTENT
					  : TMEM_POOL_EPHEMERAL);
}

void pool_hide(struct pool_slot *slot)
{
	atomic_store(&slot->pool, NULL);
	atomic_store(&slot->kind, TMEM_POOL_NONE);
}

static enum pool_kind kind_of(uint32_t flags)
{
	return flags & TMEM_PERSISTENT ? KIND_PERSISTENT : KIND_EPHEMERAL;
}

static int slot_find(const struct tmem_client *cl)
{
	LOCK_ASSERT(LOCK_CLIENT);
	for (int id = 0; id < TMEM_POOLS_MAX; id++)
		if (!atomic_load(&cl->slot[id].pool))
			return id;
	return -ENOSPC;
}

static int pool_begin(struct tmem_client *cl, uint32_t flags,
		      const uint8_t uuid[16])
{
	int id = slot_find(cl);
	int rc;

	if (id < 0)
		return id;
	if (flags & TMEM_SHARED) {
		rc = shared_join(cl, &cl->slot[id], uuid);
		return rc ? rc : id;
	}
	pool_name(&cl->own[id], kind_of(flags));
	pool_show(&cl->slot[id], &cl->own[id]);
	return id;
}

int tmem_pool_create(struct tmem_client *cl, uint32_t flags,
		     const uint8_t uuid[16])
{
	int no_room;
	int rc;

	if (!cl)
		return -EINVAL;
	no_room = shelf_need(cl->tm, kind_of(flags));
	lock_take(&cl->lock);
	rc = flags_check(cl, flags, uuid);
	if (!rc && cl->restoring)
		rc = -EBUSY;
	if (!rc)
		rc = no_room;
	if (!rc)
		rc = pool_begin(cl, flags, uuid);
	lock_drop(&cl->lock);
	return rc;
}

/*
 * Clears up to *left leaves of the object, at most a batch, oldest first.
 * false: the object is gone.
 */
static bool object_clear_some(struct part *part, uint32_t unit, uint32_t *left)
{
	LOCK_ASSERT(LOCK_SHARD);
	for (unsigned n = 0; n < BATCH_LEAVES && *left; n++) {
		const struct object *object = object_at(part->shelf, unit);
		bool last = object->leaves == 1;

		leaf_clear(part, object->leaf_last);
		--*left;
		if (last)
			return false;
	}
	return true;
}

static void pool_clear_shard(struct tmem_pool *pool, struct shard *s)
{
	uint32_t *first = &pool->object[s->n];
	bool more = true;

	while (more) {
		uint32_t left = UINT32_MAX;

		lock_take(&s->lock);
		more = *first != 0;
		if (more)
			(void)object_clear_some(
				part_at(pool->tm, pool->kind, s->n), *first,
				&left);
		lock_drop(&s->lock);
	}
}

void pool_clear(struct tmem_pool *pool)
{
	for (unsigned n = 0; n < pool->tm->shards; n++)
		pool_clear_shard(pool, &pool->tm->shard[n]);
}

void pool_end(struct tmem_client *cl, struct pool_slot *slot)
{
	struct tmem_pool *pool = atomic_load(&slot->pool);

	LOCK_ASSERT(LOCK_CLIENT);
	if (!pool->cl) {
		shared_leave(cl, slot);
		return;
	}
	pool_hide(slot);
	pool_clear(pool);
}

int tmem_pool_destroy(struct tmem_client *cl, int pool)
{
	int rc = -ENOENT;

	if (!cl)
		return -EINVAL;
	if (pool < 0 || pool >= TMEM_POOLS_MAX)
		return -ENOENT;
	lock_take(&cl->lock);
	if (atomic_load(&cl->slot[pool].pool)) {
		pool_end(cl, &cl->slot[pool]);
		rc = 0;
	}
	lock_drop(&cl->lock);
	return rc;
}

/* Lock: shard. *left becomes 0 where there is no more to do. */
static void flush_some(const struct shard *s, const struct key *key,
		       uint32_t *left)
{
	const struct tmem_pool *pool = shard_pool(key);
	struct part *part = NULL;
	uint32_t unit = 0;

	if (pool) {
		part = part_at(pool->tm, pool->kind, s->n);
		unit = object_find(part, key);
	}
	if (unit && *left > object_at(part->shelf, unit)->leaves)
		*left = object_at(part->shelf, unit)->leaves;
	if (!unit || !object_clear_some(part, unit, left))
		*left = 0;
}

/*
 * Only as many leaves as there were at the start: new ones come at the other
 * end of the list, so puts made meanwhile cannot keep this going for ever.
 */
static void flush_object_in(struct shard *s, const struct key *key)
{
	uint32_t left = UINT32_MAX;

	do {
		lock_take(&s->lock);
		flush_some(s, key, &left);
		lock_drop(&s->lock);
	} while (left);
}

int tmem_flush_object(struct tmem_client *cl, int pool,
		      const struct tmem_oid *oid)
{
	struct key key;
	struct tmem *tm;

	if (!cl || !oid)
		return -EINVAL;
	tm = cl->tm;
	key = key_make(cl, pool, oid, 0);
	for (unsigned n = 0; n < tm->shards; n++)
		flush_object_in(&tm->shard[n], &key);
	lock_take(&tm->shard[0].lock);
	tm->shard[0].stats.flushes++;
	lock_drop(&tm->shard[0].lock);
	return 0;
}
