/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Taking all ephemeral pages back at once. Page by page (evict.c) each costs
 * more than a microsecond: a hole in a size class is filled and zeroed, an
 * entry of the index is found, a leaf unlinked. All of them need none of that.
 * They have a shelf of their own, and an empty one takes its place:
 *
 *   all shards held    shelf <- empty one, every list and charge <- 0
 *   no lock held       the old one's memory goes back to the kernel
 *   clients held       what it used is uncharged
 *
 * so whoever puts or gets waits for the first step alone, which does not depend
 * on the number of pages. What the old shelf used counts as used, and is slack,
 * until the kernel has it. Who lacks memory and finds nothing to evict waits
 * for it (take_wait): else a put would be refused that a moment later is not.
 *
 * Only where nobody else loses a page by it: a client's ephemeral pages go one
 * by one while another client has some, too.
 */
#include "tmem/store.h"

#include <string.h>

/* Fewer are faster dropped one by one. */
#define TAKE_PAGES_MIN 128

/* Lock: clients; what it says is exact while all shards are held. */
static bool take_pays(const struct tmem *tm, const struct tmem_client *cl,
		      enum tmem_evict_why *why_out)
{
	uint64_t pages = 0;

	for (struct tmem_client *at = tm->clients; at; at = at->next) {
		uint64_t n = atomic_load(&at->pages[KIND_EPHEMERAL]);

		if (n && cl && at != cl)
			return false;
		pages += n;
	}
	*why_out = TMEM_EVICT_FLUSH;
	return pages >= TAKE_PAGES_MIN && (!cl || evict_wants_all(cl, why_out));
}

static void pool_forget(struct tmem_pool *pool)
{
	if (pool->kind == KIND_EPHEMERAL)
		memset(pool->object, 0, sizeof(pool->object));
}

/* Returns what the client was charged. */
static uint64_t client_forget(struct tmem_client *cl, enum tmem_evict_why why)
{
	uint64_t bytes = atomic_load(&cl->bytes_ephemeral);
	uint64_t pages = atomic_exchange(&cl->pages[KIND_EPHEMERAL], 0);

	/* An ended pool may still be waiting to be cleared. */
	for (unsigned id = 0; id < TMEM_POOLS_MAX; id++)
		pool_forget(&cl->own[id]);
	age_clear(cl);
	client_uncharge(cl, KIND_EPHEMERAL, bytes);
	atomic_fetch_add(&cl->evicted[why], pages);
	return bytes;
}

/* Locks: clients, shared, all shards. Returns what was charged for it all. */
static uint64_t all_forget(struct tmem *tm, enum tmem_evict_why why)
{
	const struct shelf *shelf = tm->shelf[KIND_EPHEMERAL];
	uint64_t bytes = atomic_exchange(&tm->shared_bytes, 0);

	for (struct tmem_client *cl = tm->clients; cl; cl = cl->next)
		bytes += client_forget(cl, why);
	for (struct shared_pool *sp = tm->shared; sp; sp = sp->next)
		pool_forget(&sp->pool);
	for (unsigned n = 0; n < tm->shards; n++)
		tm->shard[n].stats.evictions += shelf->part[n].tally.pages;
	return bytes;
}

/* Puts the empty shelf in the place of the store's, or destroys it. */
static uint64_t shelf_swap(struct tmem *tm, const struct tmem_client *cl,
			   struct shelf *empty, struct shelf **old_out)
{
	enum tmem_evict_why why;
	uint64_t bytes = 0;

	lock_take(&tm->shared_lock);
	shards_take(tm);
	if (take_pays(tm, cl, &why)) {
		bytes = all_forget(tm, why);
		*old_out = tm->shelf[KIND_EPHEMERAL];
		tm->shelf[KIND_EPHEMERAL] = empty;
		atomic_store(&tm->leaving, shelf_bytes(*old_out));
		empty = NULL;
	}
	shards_drop(tm);
	lock_drop(&tm->shared_lock);
	shelf_destroy(empty);
	return bytes;
}

static void shelf_leave(struct tmem *tm, struct shelf *old)
{
	shelf_vacate(old);
	clients_take(tm, CLIENTS_CHANGE);
	shelf_destroy(old);
	atomic_store(&tm->leaving, 0);
	clients_drop(tm);
}

uint64_t take_all(struct tmem *tm, const struct tmem_client *cl)
{
	struct shelf *empty, *old = NULL;
	enum tmem_evict_why why;
	uint64_t bytes = 0;
	bool pays;

	clients_take(tm, CLIENTS_READ);
	pays = take_pays(tm, cl, &why);
	clients_drop(tm);
	if (!pays)
		return 0;
	lock_take(&tm->take_lock);
	clients_take(tm, CLIENTS_CHANGE);
	if (!shelf_create(tm, KIND_EPHEMERAL, &empty))
		bytes = shelf_swap(tm, cl, empty, &old);
	clients_drop(tm);
	if (old)
		shelf_leave(tm, old);
	lock_drop(&tm->take_lock);
	return bytes;
}

void take_wait(struct tmem *tm)
{
	if (!atomic_load(&tm->leaving))
		return;
	lock_take(&tm->take_lock);
	lock_drop(&tm->take_lock);
}
