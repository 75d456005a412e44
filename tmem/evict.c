/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which ephemeral page goes next. Pressure on the store takes from the client
 * that is furthest over its weighted share
 *
 *   over = bytes - all ephemeral bytes * weight / sum of weights
 *
 * (sums over clients that have ephemeral pages at all), its oldest page first.
 * A client within its reserve is passed over while another exceeds its own.
 * A client at its cap, or at what the host lends it, drops its own.
 *
 * A victim's shard is known only from its place in the list, and a shard's
 * lock comes before the list's: so look, lock the shard, and look again.
 */
#include "tmem/store.h"

#include <errno.h>

/* The most one put may newly take: payload, leaf, object, tables, index. */
#define PUT_ROOM (2 * PAGE_BYTES + 6 * SLAB_BLOCK_BYTES)

struct share_sum {
	uint64_t bytes;
	uint64_t weight;
	bool exceeding; /* somebody is above its reserve */
};

static uint64_t ephemeral_of(const struct tmem_client *cl)
{
	return atomic_load_explicit(&cl->bytes_ephemeral, memory_order_relaxed);
}

static bool exceeds_reserve(const struct tmem_client *cl)
{
	return ephemeral_of(cl) > atomic_load(&cl->reserve);
}

static struct share_sum share_sum(const struct tmem *tm)
{
	struct share_sum sum = {0, 0, false};

	for (struct tmem_client *cl = tm->clients; cl; cl = cl->next) {
		uint64_t bytes = ephemeral_of(cl);

		if (!bytes)
			continue;
		sum.bytes += bytes;
		sum.weight += atomic_load(&cl->weight);
		sum.exceeding |= exceeds_reserve(cl);
	}
	return sum;
}

static double over_share(const struct tmem_client *cl,
			 const struct share_sum *sum)
{
	double share = 0;

	if (sum->weight)
		share = (double)sum->bytes * atomic_load(&cl->weight) /
			(double)sum->weight;
	return (double)ephemeral_of(cl) - share;
}

/* Lock: clients. NULL: no ephemeral page anywhere. */
static struct tmem_client *victim_choose(const struct tmem *tm)
{
	struct share_sum sum = share_sum(tm);
	struct tmem_client *victim = NULL;

	for (struct tmem_client *cl = tm->clients; cl; cl = cl->next) {
		if (!ephemeral_of(cl) ||
		    (sum.exceeding && !exceeds_reserve(cl)))
			continue;
		if (!victim || over_share(cl, &sum) > over_share(victim, &sum))
			victim = cl;
	}
	return victim;
}

/* Drops the page if it is still the client's oldest. Returns bytes freed. */
static uint64_t drop_if_oldest(struct tmem_client *cl, struct shard *s,
			       uint32_t word, enum tmem_evict_why why)
{
	struct part *part = part_at(cl->tm, KIND_EPHEMERAL, s->n);
	uint64_t before = part_charged(part);
	unsigned n = 0;
	uint32_t leaf;

	LOCK_ASSERT(LOCK_SHARD);
	if (age_oldest(cl, &n) != word || n != s->n)
		return 0;
	leaf = word_leaf(part->shelf, word);
	page_drop(part, leaf, word - word_unit(leaf, 0));
	s->stats.evictions++;
	atomic_fetch_add_explicit(&cl->evicted[why], 1, memory_order_relaxed);
	return before - part_charged(part);
}

/* Returns bytes freed; 0: the client has no ephemeral page. */
static uint64_t evict_oldest(struct tmem_client *cl, enum tmem_evict_why why)
{
	uint64_t freed = 0;

	while (!freed) {
		unsigned n = 0;
		uint32_t word = age_oldest(cl, &n);
		struct shard *s = &cl->tm->shard[n];

		if (!word)
			break;
		lock_take(&s->lock);
		freed = drop_if_oldest(cl, s, word, why);
		lock_drop(&s->lock);
	}
	return freed;
}

/* Lock: clients. Returns bytes freed; 0: no ephemeral page in the store. */
static uint64_t evict_furthest(const struct tmem *tm, enum tmem_evict_why why)
{
	uint64_t freed = 0;
	struct tmem_client *victim;

	/* A victim may lose its last page to another thread meanwhile. */
	while (!freed) {
		victim = victim_choose(tm);
		if (!victim)
			break;
		freed = evict_oldest(victim, why);
	}
	return freed;
}

static bool evict_for_budget(struct tmem *tm)
{
	bool lacks;

	clients_take(tm, CLIENTS_READ);
	shelves_trim(tm);
	for (;;) {
		lacks = budget_lacks(&tm->budget, PUT_ROOM);
		if (!lacks || !evict_furthest(tm, TMEM_EVICT_BUDGET))
			break;
	}
	clients_drop(tm);
	if (!lacks)
		return true;
	take_wait(tm);
	return !budget_lacks(&tm->budget, PUT_ROOM);
}

static bool is_over_cap(const struct tmem_client *cl, uint64_t more)
{
	uint64_t cap = atomic_load(&cl->cap);
	uint64_t bytes = atomic_load(&cl->bytes);

	return cap && (bytes > cap || more > cap - bytes);
}

static bool is_over_lent(const struct tmem_client *cl, uint64_t more)
{
	uint64_t lent = atomic_load(&cl->lent);
	uint64_t bytes = ephemeral_of(cl);

	return bytes > lent || more > lent - bytes;
}

/* Within both bounds, with room for so much more? */
static bool evict_within(struct tmem_client *cl, uint64_t more)
{
	for (;;) {
		enum tmem_evict_why why = is_over_cap(cl, more)
						  ? TMEM_EVICT_CAP
						  : TMEM_EVICT_LENT;

		if (why == TMEM_EVICT_LENT && !is_over_lent(cl, more))
			return true;
		if (!evict_oldest(cl, why))
			return false;
	}
}

static bool evict_for_cap(struct tmem_client *cl)
{
	return evict_within(cl, PAGE_BYTES + sizeof(struct pack_head) +
					sizeof(struct leaf_ephemeral) +
					sizeof(struct object));
}

bool evict_for_put(struct tmem_client *cl, int rc)
{
	if (rc == -EDQUOT)
		return evict_for_cap(cl);
	if (rc == -ENOSPC)
		return evict_for_budget(cl->tm);
	return false;
}

bool evict_wants_all(const struct tmem_client *cl, enum tmem_evict_why *why_out)
{
	uint64_t cap = atomic_load(&cl->cap);
	uint64_t ephemeral = ephemeral_of(cl);
	uint64_t bytes = atomic_load(&cl->bytes);

	/* What is not ephemeral fills the cap by itself. */
	*why_out = TMEM_EVICT_CAP;
	if (cap && bytes > ephemeral && bytes - ephemeral >= cap)
		return true;
	*why_out = TMEM_EVICT_LENT;
	return !atomic_load(&cl->lent);
}

void evict_to_cap(struct tmem_client *cl)
{
	enum tmem_evict_why why;

	if (evict_wants_all(cl, &why))
		(void)take_all(cl->tm, cl);
	evict_within(cl, 0);
}

uint64_t evict_bytes(struct tmem *tm, uint64_t bytes)
{
	uint64_t freed = 0;
	uint64_t one;

	if (bytes >= tmem_freeable(tm))
		freed = take_all(tm, NULL);
	clients_take(tm, CLIENTS_READ);
	while (freed < bytes) {
		one = evict_furthest(tm, TMEM_EVICT_FLUSH);
		if (!one)
			break;
		freed += one;
	}
	shelves_trim(tm);
	clients_drop(tm);
	return freed;
}
