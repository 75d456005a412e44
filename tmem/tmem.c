/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The store's front: its life, and put, get and flush of one page. What is
 * slow (copying the guest's page, compressing, decompressing into it) happens
 * here with no lock held; what is under the shard's lock is in page.c.
 */
#include "tmem/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SHARD_BUDGET ((uint64_t)2 << 20) /* one more shard for each */
#define PUT_TRIES    64

static unsigned shards_for(uint64_t budget)
{
	unsigned n = 1;

	while (n < SHARDS_MAX && (!budget || n * SHARD_BUDGET < budget))
		n *= 2;
	return n;
}

/* alloc() gives 16-byte alignment; shards want a cache line each. */
static size_t shards_bytes(const struct tmem *tm)
{
	return tm->shards * sizeof(struct shard) + _Alignof(struct shard);
}

static int shards_init(struct tmem *tm)
{
	uintptr_t at;

	tm->shards_memory = heap_alloc(&tm->budget, shards_bytes(tm));
	if (!tm->shards_memory)
		return -ENOMEM;
	at = (uintptr_t)tm->shards_memory;
	at = (at + _Alignof(struct shard) - 1) &
	     ~(uintptr_t)(_Alignof(struct shard) - 1);
	tm->shard = (struct shard *)at;
	for (unsigned n = 0; n < tm->shards; n++) {
		lock_init(&tm->shard[n].lock, LOCK_SHARD);
		tm->shard[n].n = n;
	}
	return 0;
}

static void shards_fini(struct tmem *tm)
{
	for (unsigned n = 0; n < tm->shards; n++)
		lock_fini(&tm->shard[n].lock);
	heap_free(&tm->budget, tm->shards_memory, shards_bytes(tm));
}

static void clients_lock_init(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;

	/* Or steady eviction would keep a client from coming or going. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(
		&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(lock, &attr);
	pthread_rwlockattr_destroy(&attr);
}

static int tmem_init(struct tmem *tm, uint64_t budget_bytes)
{
	int rc;

	tm->secret = memory_secret();
	tm->shards = shards_for(budget_bytes);
	rc = shards_init(tm);
	if (rc)
		return rc;
	lock_init(&tm->take_lock, LOCK_TAKE);
	lock_init(&tm->shared_lock, LOCK_SHARED);
	clients_lock_init(&tm->clients_lock);
	return 0;
}

int tmem_create_on(const struct memory_ops *ops, uint64_t budget_bytes,
		   struct tmem **tm_out)
{
	struct budget budget;
	struct tmem *tm;
	int rc;

	if (!tm_out)
		return -EINVAL;
	budget_init(&budget, ops, 0);
	tm = heap_alloc(&budget, sizeof(*tm));
	if (!tm)
		return -ENOMEM;
	tm->budget = budget;
	rc = tmem_init(tm, budget_bytes);
	if (rc) {
		ops->free(tm);
		return rc;
	}
	/* What the store itself takes counts, but is not refused. */
	tm->budget.limit = budget_bytes;
	atomic_init(&tm->empty_bytes, atomic_load(&tm->budget.used));
	*tm_out = tm;
	return 0;
}

int tmem_create(uint64_t budget_bytes, struct tmem **tm_out)
{
	return tmem_create_on(&memory_real, budget_bytes, tm_out);
}

void tmem_destroy(struct tmem *tm)
{
	const struct memory_ops *ops;

	if (!tm)
		return;
	while (tm->clients)
		tmem_client_destroy(tm->clients);
	ops = tm->budget.ops;
	for (unsigned k = 0; k < KINDS; k++)
		shelf_destroy(tm->shelf[k]);
	shards_fini(tm);
	lock_fini(&tm->take_lock);
	lock_fini(&tm->shared_lock);
	pthread_rwlock_destroy(&tm->clients_lock);
	ops->free(tm);
}

void clients_take(struct tmem *tm, enum clients_access access)
{
	lock_note_take(LOCK_CLIENTS);
	if (access == CLIENTS_CHANGE)
		pthread_rwlock_wrlock(&tm->clients_lock);
	else
		pthread_rwlock_rdlock(&tm->clients_lock);
}

void clients_drop(struct tmem *tm)
{
	lock_note_drop(LOCK_CLIENTS);
	pthread_rwlock_unlock(&tm->clients_lock);
}

void shards_take(struct tmem *tm)
{
	for (unsigned n = 0; n < tm->shards; n++)
		lock_take(&tm->shard[n].lock);
}

void shards_drop(struct tmem *tm)
{
	for (unsigned n = tm->shards; n--;)
		lock_drop(&tm->shard[n].lock);
}

static bool is_no_room(int rc)
{
	return rc == -ENOSPC || rc == -EDQUOT || rc == -ENOMEM;
}

static int put_try(struct shard *s, const struct key *key,
		   const struct codec_page *page, enum put_try how)
{
	int rc;

	lock_take(&s->lock);
	rc = page_put(s, key, page, how);
	lock_drop(&s->lock);
	return rc;
}

static void put_count(struct shard *s, const struct codec_page *page, int rc)
{
	struct tmem_stats *st = &s->stats;

	lock_take(&s->lock);
	st->puts++;
	st->puts_failed += rc != 0;
	st->puts_frozen += rc == -EBUSY;
	st->puts_full += rc == -ENOMEM;
	st->puts_poor += !rc && page->poor;
	lock_drop(&s->lock);
}

int key_put(const struct key *key, const struct codec_page *coded)
{
	struct shard *s = key_shard(key);
	int tries = 0;
	int rc;

	do
		rc = put_try(s, key, coded, PUT_GENTLY);
	while (is_no_room(rc) && tries++ < PUT_TRIES &&
	       evict_for_put(key->cl, rc));
	if (is_no_room(rc))
		rc = put_try(s, key, coded, PUT_AT_ALL_COSTS);
	if (is_no_room(rc))
		rc = -ENOMEM;
	put_count(s, coded, rc);
	return rc;
}

/* The codec for a dense put, or NULL. A shared pool is read by others, who have
 * another or none. */
static const struct tmem_dense_ops *dense_for(const struct key *key)
{
	struct tmem_client *cl = key->cl;

	if (key->pool >= TMEM_POOLS_MAX || !atomic_load(&cl->compress) ||
	    atomic_load(&cl->slot[key->pool].kind) != TMEM_POOL_PERSISTENT)
		return NULL;
	return atomic_load(&cl->dense);
}

static int put(const struct key *key, const void *page,
	       const struct tmem_dense_ops *dense)
{
	struct codec_page coded;

	if (dense)
		codec_encode_dense(&coded, page, dense);
	else
		codec_encode(&coded, page,
			     atomic_load(&key->cl->compress) ? CODEC_COMPRESS
							     : CODEC_PLAIN);
	return key_put(key, &coded);
}

int tmem_put(struct tmem_client *cl, int pool, const struct tmem_oid *oid,
	     uint32_t index, const void *page)
{
	struct key key;

	if (!cl || !oid || !page)
		return -EINVAL;
	key = key_make(cl, pool, oid, index);
	return put(&key, page, NULL);
}

int tmem_put_dense(struct tmem_client *cl, int pool, const struct tmem_oid *oid,
		   uint32_t index, const void *page)
{
	struct key key;

	if (!cl || !oid || !page)
		return -EINVAL;
	key = key_make(cl, pool, oid, index);
	return put(&key, page, dense_for(&key));
}

int tmem_get(struct tmem_client *cl, int pool, const struct tmem_oid *oid,
	     uint32_t index, void *page_out)
{
	_Alignas(16) unsigned char buf[PAGE_BYTES];
	struct pack_item item;
	struct key key;
	struct shard *s;
	int rc;

	if (!cl || !oid || !page_out)
		return -EINVAL;
	key = key_make(cl, pool, oid, index);
	s = key_shard(&key);
	lock_take(&s->lock);
	rc = page_get(s, &key, buf, &item);
	s->stats.gets++;
	s->stats.gets_missed += rc != 0;
	lock_drop(&s->lock);
	return rc ? rc : codec_decode(&item, atomic_load(&cl->dense), page_out);
}

int tmem_flush_page(struct tmem_client *cl, int pool,
		    const struct tmem_oid *oid, uint32_t index)
{
	struct key key;
	struct shard *s;

	if (!cl || !oid)
		return -EINVAL;
	key = key_make(cl, pool, oid, index);
	s = key_shard(&key);
	lock_take(&s->lock);
	page_flush(s, &key);
	s->stats.flushes++;
	lock_drop(&s->lock);
	return 0;
}

uint64_t tmem_flush(struct tmem *tm, uint64_t bytes)
{
	return tm ? evict_bytes(tm, bytes) : 0;
}

/* What all clients are charged. */
struct charged {
	uint64_t all, ephemeral;
};

static struct charged charged_sum(const struct tmem *tm)
{
	struct tmem *inside = tmem_inside(tm);
	uint64_t shared = atomic_load(&tm->shared_bytes);
	struct charged sum = {.all = shared, .ephemeral = shared};

	clients_take(inside, CLIENTS_READ);
	for (struct tmem_client *cl = tm->clients; cl; cl = cl->next) {
		sum.all += atomic_load(&cl->bytes);
		sum.ephemeral += atomic_load(&cl->bytes_ephemeral);
	}
	clients_drop(inside);
	return sum;
}

uint64_t tmem_freeable(const struct tmem *tm)
{
	return tm ? charged_sum(tm).ephemeral : 0;
}

uint64_t tmem_freeable_used(const struct tmem *tm)
{
	struct charged charged;
	uint64_t used;

	if (!tm)
		return 0;
	charged = charged_sum(tm);
	used = atomic_load(&tm->budget.used);
	used -= min_u64(used, atomic_load(&tm->empty_bytes) +
				      atomic_load(&tm->leaving));
	if (!charged.all || used < charged.all)
		return charged.ephemeral;
	return (uint64_t)((double)used * (double)charged.ephemeral /
			  (double)charged.all);
}
