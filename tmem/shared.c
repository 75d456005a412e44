/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Shared pools: one pool under one uuid, joined by every client that the host
 * authorised for it and by nobody else. Each page belongs to the member who
 * put it:
 *
 *   leaf    [ word 0 | word 1 | ... ]        member [ 2 | 0 | ... ]
 *   pool    member[0] -> client    member[1] -> NULL   member[2] -> client
 *
 * so cap, weight and reserve hold for shared pages as for all others, and
 * nobody's memory passes to somebody else when a client goes. The alternative,
 * one owner who is succeeded by the next, moves charges past caps.
 *
 * A member's number is free again when no page carries it.
 */
#include "tmem/store.h"

#include <errno.h>
#include <string.h>

static struct shared_pool *shared_of(struct tmem_pool *pool)
{
	return (struct shared_pool *)(void *)((char *)pool -
					      offsetof(struct shared_pool,
						       pool));
}

void shared_uuid(const struct tmem_pool *pool, uint8_t uuid_out[16])
{
	const struct shared_pool *sp =
		(const void *)((const char *)pool -
			       offsetof(struct shared_pool, pool));

	memcpy(uuid_out, sp->uuid, sizeof(sp->uuid));
}

bool shared_is(const struct tmem_pool *pool, const uint8_t uuid[16])
{
	uint8_t has[16];

	shared_uuid(pool, has);
	return !memcmp(has, uuid, sizeof(has));
}

struct tmem_client *shared_member(struct tmem_pool *pool, uint8_t member)
{
	return shared_of(pool)->member[member];
}

static struct shared_pool *shared_find(struct tmem *tm, const uint8_t uuid[16])
{
	struct shared_pool *sp = tm->shared;

	LOCK_ASSERT(LOCK_SHARED);
	while (sp && memcmp(sp->uuid, uuid, sizeof(sp->uuid)))
		sp = sp->next;
	return sp;
}

static struct shared_pool *shared_create(struct tmem *tm,
					 const uint8_t uuid[16])
{
	struct shared_pool *sp = heap_alloc(&tm->budget, sizeof(*sp));

	LOCK_ASSERT(LOCK_SHARED);
	if (!sp)
		return NULL;
	memcpy(sp->uuid, uuid, sizeof(sp->uuid));
	sp->pool.tm = tm;
	pool_name(&sp->pool, KIND_EPHEMERAL);
	sp->next = tm->shared;
	tm->shared = sp;
	return sp;
}

static void shared_destroy(struct tmem *tm, struct shared_pool *sp)
{
	struct shared_pool **at = &tm->shared;

	LOCK_ASSERT(LOCK_SHARED);
	while (*at != sp)
		at = &(*at)->next;
	*at = sp->next;
	heap_free(&tm->budget, sp, sizeof(*sp));
}

static void member_add(struct shared_pool *sp, struct tmem_client *cl,
		       struct pool_slot *slot)
{
	uint8_t n = 0;

	while (sp->member[n])
		n++;
	sp->member[n] = cl;
	sp->members++;
	slot->member = n;
	pool_show(slot, &sp->pool);
}

int shared_join(struct tmem_client *cl, struct pool_slot *slot,
		const uint8_t uuid[16])
{
	struct tmem *tm = cl->tm;
	struct shared_pool *sp;
	int rc = 0;

	LOCK_ASSERT(LOCK_CLIENT);
	lock_take(&tm->shared_lock);
	sp = shared_find(tm, uuid);
	if (!sp)
		sp = shared_create(tm, uuid);
	if (!sp)
		rc = -ENOMEM;
	else if (sp->members == TMEM_MEMBERS_MAX)
		rc = -ENOSPC;
	else
		member_add(sp, cl, slot);
	lock_drop(&tm->shared_lock);
	return rc;
}

/* Holds the shard's lock throughout: a part in 32 of the pool, and rare. */
static void member_clear_shard(struct shared_pool *sp, struct shard *s,
			       uint8_t member)
{
	struct part *part = part_at(sp->pool.tm, KIND_EPHEMERAL, s->n);
	const struct shelf *shelf = part->shelf;
	uint32_t object = sp->pool.object[s->n];

	LOCK_ASSERT(LOCK_SHARD);
	while (object) {
		uint32_t next = object_at(shelf, object)->next;
		uint32_t leaf = object_at(shelf, object)->leaf_first;

		while (leaf) {
			uint32_t older = leaf_at(shelf, leaf)->next;

			leaf_clear_member(part, leaf, member);
			leaf = older;
		}
		object = next;
	}
}

void shared_leave(struct tmem_client *cl, struct pool_slot *slot)
{
	struct shared_pool *sp = shared_of(atomic_load(&slot->pool));
	struct tmem *tm = cl->tm;

	LOCK_ASSERT(LOCK_CLIENT);
	pool_hide(slot);
	for (unsigned n = 0; n < tm->shards; n++) {
		lock_take(&tm->shard[n].lock);
		member_clear_shard(sp, &tm->shard[n], slot->member);
		lock_drop(&tm->shard[n].lock);
	}
	lock_take(&tm->shared_lock);
	sp->member[slot->member] = NULL;
	if (!--sp->members)
		shared_destroy(tm, sp);
	lock_drop(&tm->shared_lock);
}
