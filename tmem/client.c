/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clients: the list of them, their knobs, and what each is charged. A client's
 * charge is its packed objects and its own descriptors, byte by byte:
 *
 *   bytes = sum of its packed objects + leaves + objects of its own pools
 *
 * What the store wastes in pages partly used, and what leads to the pages of
 * shared pools, is nobody's.
 */
#include "tmem/store.h"

#include <errno.h>
#include <string.h>

static void name_copy(char *to, const char *from)
{
	size_t n = strlen(from);

	memcpy(to, from, n + 1);
}

static void client_init(struct tmem_client *cl, struct tmem *tm,
			const char *name)
{
	cl->tm = tm;
	name_copy(cl->name, name);
	atomic_init(&cl->weight, TMEM_WEIGHT_NORMAL);
	atomic_init(&cl->compress, true);
	atomic_init(&cl->lent, UINT64_MAX);
	lock_init(&cl->lock, LOCK_CLIENT);
	lock_init(&cl->age_lock, LOCK_AGE);
	for (uint32_t id = 0; id < TMEM_POOLS_MAX; id++) {
		cl->own[id].tm = tm;
		cl->own[id].cl = cl;
	}
}

int tmem_client_create(struct tmem *tm, const char *name,
		       struct tmem_client **cl_out)
{
	struct tmem_client *cl;

	if (!tm || !cl_out || !name || !*name ||
	    strnlen(name, TMEM_NAME_MAX) == TMEM_NAME_MAX)
		return -EINVAL;
	clients_take(tm, CLIENTS_CHANGE);
	cl = heap_alloc(&tm->budget, sizeof(*cl));
	if (cl) {
		client_init(cl, tm, name);
		cl->salt = key_mix(tm->secret ^ ++tm->client_ids);
		cl->next = tm->clients;
		tm->clients = cl;
	}
	clients_drop(tm);
	if (!cl)
		return -ENOMEM;
	*cl_out = cl;
	return 0;
}

static void client_unlink(const struct tmem_client *cl)
{
	struct tmem_client **at = &cl->tm->clients;

	while (*at != cl)
		at = &(*at)->next;
	*at = cl->next;
}

void tmem_client_destroy(struct tmem_client *cl)
{
	struct tmem *tm;

	if (!cl)
		return;
	tm = cl->tm;
	lock_take(&cl->lock);
	for (uint32_t id = 0; id < TMEM_POOLS_MAX; id++)
		if (atomic_load(&cl->slot[id].pool))
			pool_end(cl, &cl->slot[id]);
	lock_drop(&cl->lock);
	clients_take(tm, CLIENTS_CHANGE);
	client_unlink(cl);
	lock_fini(&cl->lock);
	lock_fini(&cl->age_lock);
	heap_free(&tm->budget, cl, sizeof(*cl));
	clients_drop(tm);
}

int tmem_client_set(struct tmem_client *cl, uint32_t weight, uint64_t cap_bytes,
		    uint64_t reserve_bytes, bool compress)
{
	if (!cl)
		return -EINVAL;
	atomic_store(&cl->weight, weight);
	atomic_store(&cl->cap, cap_bytes);
	atomic_store(&cl->reserve, reserve_bytes);
	atomic_store(&cl->compress, compress);
	evict_to_cap(cl);
	return 0;
}

int tmem_client_dense(struct tmem_client *cl, const struct tmem_dense_ops *ops)
{
	const struct tmem_dense_ops *none = NULL;

	if (!cl || !ops || !ops->encode || !ops->decode)
		return -EINVAL;
	return atomic_compare_exchange_strong(&cl->dense, &none, ops) ? 0
								      : -EEXIST;
}

void tmem_client_stats(const struct tmem_client *cl,
		       struct tmem_client_stats *out)
{
	*out = (struct tmem_client_stats){
		.bytes = atomic_load(&cl->bytes),
		.bytes_ephemeral = atomic_load(&cl->bytes_ephemeral),
		.cap_bytes = atomic_load(&cl->cap),
		.reserve_bytes = atomic_load(&cl->reserve),
		.lent_bytes = atomic_load(&cl->lent),
		.pages_ephemeral = atomic_load(&cl->pages[KIND_EPHEMERAL]),
		.pages_persistent = atomic_load(&cl->pages[KIND_PERSISTENT]),
		.weight = atomic_load(&cl->weight),
		.compress = atomic_load(&cl->compress),
		.frozen = atomic_load(&cl->frozen),
	};
	for (unsigned why = 0; why < TMEM_EVICT_WHYS; why++)
		out->evicted[why] = atomic_load(&cl->evicted[why]);
	for (unsigned id = 0; id < TMEM_POOLS_MAX; id++)
		out->pool[id] = atomic_load(&cl->slot[id].kind);
}

int tmem_client_lend(struct tmem_client *cl, uint64_t bytes)
{
	struct tmem *tm;
	uint64_t was;

	if (!cl)
		return -EINVAL;
	tm = cl->tm;
	was = atomic_exchange(&cl->lent, bytes);
	evict_to_cap(cl);
	if (bytes < was) {
		clients_take(tm, CLIENTS_READ);
		shelves_trim(tm); /* the host waits for it */
		clients_drop(tm);
	}
	return 0;
}

static unsigned auth_find(const struct tmem_client *cl, const uint8_t uuid[16])
{
	unsigned n = 0;

	LOCK_ASSERT(LOCK_CLIENT);
	while (n < cl->auths && memcmp(cl->auth[n].uuid, uuid, 16))
		n++;
	return n;
}

bool client_is_authorised(const struct tmem_client *cl, const uint8_t uuid[16])
{
	return auth_find(cl, uuid) < cl->auths;
}

/* Whoever is no longer authorised is no longer in. */
static void pools_revoke(struct tmem_client *cl, const uint8_t uuid[16])
{
	for (uint32_t id = 0; id < TMEM_POOLS_MAX; id++) {
		struct tmem_pool *pool = atomic_load(&cl->slot[id].pool);

		if (pool && !pool->cl && shared_is(pool, uuid))
			pool_end(cl, &cl->slot[id]);
	}
}

static int auth_change(struct tmem_client *cl, const uint8_t uuid[16], bool on)
{
	unsigned n = auth_find(cl, uuid);
	bool has = n < cl->auths;

	if (on == has)
		return 0;
	if (!on) {
		cl->auth[n] = cl->auth[--cl->auths];
		pools_revoke(cl, uuid);
		return 0;
	}
	if (n == TMEM_AUTHS_MAX)
		return -ENOSPC;
	memcpy(cl->auth[cl->auths++].uuid, uuid, 16);
	return 0;
}

int tmem_client_auth(struct tmem_client *cl, const uint8_t uuid[16], bool on)
{
	int rc;

	if (!cl || !uuid)
		return -EINVAL;
	lock_take(&cl->lock);
	rc = auth_change(cl, uuid, on);
	lock_drop(&cl->lock);
	return rc;
}

int tmem_freeze(struct tmem_client *cl, bool on)
{
	struct tmem *tm;

	if (!cl)
		return -EINVAL;
	tm = cl->tm;
	atomic_store(&cl->frozen, on);
	/* A put that has not seen it yet ends before its shard's lock is ours.
	 */
	for (unsigned n = 0; on && n < tm->shards; n++) {
		lock_take(&tm->shard[n].lock);
		lock_drop(&tm->shard[n].lock);
	}
	return 0;
}

/* Adds to a sum that may not come above most. */
static int sum_add(_Atomic uint64_t *sum, uint64_t bytes, uint64_t most)
{
	uint64_t now = atomic_load(sum);

	do {
		if (now > most || bytes > most - now)
			return -EDQUOT;
	} while (!atomic_compare_exchange_weak(sum, &now, now + bytes));
	return 0;
}

int client_charge(struct tmem_client *cl, enum pool_kind kind, uint64_t bytes)
{
	uint64_t cap = atomic_load(&cl->cap);
	int rc = sum_add(&cl->bytes, bytes, cap ? cap : UINT64_MAX);

	if (rc || kind != KIND_EPHEMERAL)
		return rc;
	rc = sum_add(&cl->bytes_ephemeral, bytes, atomic_load(&cl->lent));
	if (rc)
		atomic_fetch_sub(&cl->bytes, bytes);
	return rc;
}

void client_recharge(struct tmem_client *cl, enum pool_kind kind,
		     uint64_t bytes)
{
	atomic_fetch_add(&cl->bytes, bytes);
	if (kind == KIND_EPHEMERAL)
		atomic_fetch_add(&cl->bytes_ephemeral, bytes);
}

void client_uncharge(struct tmem_client *cl, enum pool_kind kind,
		     uint64_t bytes)
{
	atomic_fetch_sub(&cl->bytes, bytes);
	if (kind == KIND_EPHEMERAL)
		atomic_fetch_sub(&cl->bytes_ephemeral, bytes);
}

int pool_charge(struct tmem_pool *pool, uint64_t bytes)
{
	if (pool->cl)
		return client_charge(pool->cl, pool->kind, bytes);
	atomic_fetch_add(&pool->tm->shared_bytes, bytes);
	return 0;
}

void pool_uncharge(struct tmem_pool *pool, uint64_t bytes)
{
	if (pool->cl)
		client_uncharge(pool->cl, pool->kind, bytes);
	else
		atomic_fetch_sub(&pool->tm->shared_bytes, bytes);
}
