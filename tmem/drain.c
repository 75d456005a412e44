/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All ephemeral pages of a client at once: what a host that runs short asks
 * for. Since all go, none is the oldest, so they need not go one by one.
 * Threads go round the shards and drop a batch of each, its newest: those lie
 * at the ends of the packer's arrays, where nothing has to move into the place
 * they leave.
 *
 *   caller ---+--- shard 0, 2, 3, 5 ... 0, 1, 3 ...  until all are empty
 *    helper --+--- shard 1, 4, 6, 7 ... 2, 4, 5 ...
 *
 * The threads live as long as the call. One that cannot be made is done
 * without. Pages of shared pools are left to evict.c.
 *
 * Lock: the client's is held throughout by the caller, for all threads, so that
 * its pools stay; each shard's, a batch at a time.
 */
#include "tmem/drain.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#define THREADS_MAX  8
#define BATCH_LEAVES 64
#define STACK_BYTES  ((size_t)64 << 10)

struct drain {
	struct tmem_client *cl;
	enum tmem_evict_why why;
	_Atomic unsigned
		turn; /* the next is at this shard, modulo their number */
	_Atomic unsigned open; /* shards that are not empty */
	_Atomic uint64_t freed;
	uint64_t left[SHARDS_MAX]; /* pages; lock: that shard */
};

/* Drops up to a batch of the pool's newest leaves in this shard. */
static void pool_batch(struct shard *s, const struct tmem_pool *pool)
{
	uint32_t unit = pool->object[s->n];

	LOCK_ASSERT(LOCK_SHARD);
	for (unsigned n = 0; unit && n < BATCH_LEAVES; n++) {
		leaf_clear(s, object_at(s->tm, unit)->leaf_first);
		unit = pool->object[s->n];
	}
}

/* The first pool of the client's own that has something here. */
static const struct tmem_pool *pool_find(const struct tmem_client *cl,
					 const struct shard *s)
{
	for (unsigned id = 0; id < TMEM_POOLS_MAX; id++) {
		const struct tmem_pool *pool = atomic_load(&cl->slot[id].pool);

		if (pool && pool->cl && pool->kind == KIND_EPHEMERAL &&
		    pool->object[s->n])
			return pool;
	}
	return NULL;
}

/* Returns how many pages went; 0: none are left. */
static uint64_t shard_batch(struct drain *d, struct shard *s)
{
	uint64_t pages = s->stats.pages, bytes = shard_charged(s);
	const struct tmem_pool *pool = pool_find(d->cl, s);

	LOCK_ASSERT(LOCK_SHARD);
	if (pool)
		pool_batch(s, pool);
	pages -= s->stats.pages;
	s->stats.evictions += pages;
	atomic_fetch_add(&d->cl->evicted[d->why], pages);
	atomic_fetch_add(&d->freed, bytes - shard_charged(s));
	return pages;
}

/* No more pages than there were: puts made meanwhile cannot keep it going. */
static void shard_turn(struct drain *d, struct shard *s)
{
	uint64_t pages;

	lock_take(&s->lock);
	if (d->left[s->n]) {
		pages = shard_batch(d, s);
		d->left[s->n] -=
			pages ? min_u64(d->left[s->n], pages) : d->left[s->n];
		if (!d->left[s->n])
			atomic_fetch_sub(&d->open, 1);
	}
	lock_drop(&s->lock);
}

static void *drain_run(void *arg)
{
	struct drain *d = arg;
	struct tmem *tm = d->cl->tm;

	while (atomic_load(&d->open))
		shard_turn(d, &tm->shard[atomic_fetch_add(&d->turn, 1) &
					 (tm->shards - 1)]);
	return NULL;
}

static void drain_init(struct drain *d)
{
	struct tmem *tm = d->cl->tm;

	for (unsigned n = 0; n < tm->shards; n++) {
		lock_take(&tm->shard[n].lock);
		d->left[n] = tm->shard[n].stats.pages_ephemeral;
		lock_drop(&tm->shard[n].lock);
		d->open += d->left[n] != 0;
	}
}

/* As many as processors, the caller's thread being one. */
static unsigned helpers_wanted(const struct tmem *tm)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned n =
		cpus > 1 ? (unsigned)min_u64((uint64_t)cpus, THREADS_MAX) : 1;

	return (n < tm->shards ? n : tm->shards) - 1;
}

/* Signals are for the process's own threads. Returns how many there are. */
static unsigned helpers_start(struct drain *d, pthread_t *helper)
{
	unsigned want = helpers_wanted(d->cl->tm), n = 0;
	sigset_t all, before;
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (n < want && !pthread_create(&helper[n], &attr, drain_run, d))
		n++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return n;
}

uint64_t drain_client(struct tmem_client *cl, enum tmem_evict_why why)
{
	struct drain d = {.cl = cl, .why = why};
	pthread_t helper[THREADS_MAX];
	unsigned n;

	lock_take(&cl->lock);
	drain_init(&d);
	n = helpers_start(&d, helper);
	(void)drain_run(&d);
	while (n)
		pthread_join(helper[--n], NULL);
	lock_drop(&cl->lock);
	return atomic_load(&d.freed);
}
