/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Taking cold pages until the VM meets its target.
 *
 * A page unchanged for several scans may still be read all the time, so it is
 * lifted out on trial first: held uncompressed in a slot, where coming back is
 * one MOVE. What nobody touched during the trial is compressed. A page that
 * comes back gets hotter, and each degree doubles the age it needs next time.
 * (Without MOVE there is no trial: the page is compressed at once.)
 *
 *   private --age--> held --nobody came--> compressed --store full--> swapped
 *      ^               |                       |                         |
 *      +---------------+------- fault ---------+-------------------------+
 *
 * The promotion rate, pages that come back from store or swap file per minute
 * as a share of the working set, is the brake: above its target nothing more is
 * taken for a while and trials get longer (as in Lagar-Cavilla et al.,
 * Software- Defined Far Memory, ASPLOS 2019).
 */
#include "hv/mm/reclaim.h"
#include "hv/mm/take.h"

#include "hv/base/log.h"

#include <sys/mman.h>

#define NS_PER_S	((uint64_t)1000000000)
#define AGE_COLD	3 /* scans */
#define AGE_COLD_MAX	12
#define TRIAL_MIN_NS	(16 * NS_PER_S)
#define TRIAL_MAX_NS	(64 * NS_PER_S)
#define IDLE_REST_NS	NS_PER_S
#define BUSY_REST_NS	(NS_PER_S / 50)
#define BRAKE_REST_NS	(20 * NS_PER_S)
#define RATE_SECONDS	((uint64_t)20)
#define CHUNKS_AT_ONCE	48 /* on trial, to begin with */
#define CHUNKS_PER_CALL 8
#define RIPEN_PAGES	8
#define SWAP_RETRY_NS	(30 * NS_PER_S)

void reclaim_init(struct mm *mm)
{
	mm->reclaim = (struct reclaim){
		.trial_len_ns = TRIAL_MIN_NS,
		.age_cold = AGE_COLD,
		.chunks_at_once = CHUNKS_AT_ONCE,
		.slots_free = ~(uint64_t)0,
		.sampled_ns = mm->host->now_ns(),
	};
}

/* ---- how much, and whether now ---- */

static uint64_t resident_bytes(struct mm *mm)
{
	struct tmem_stats st;
	uint64_t pages = mm->count.in_state[PAGE_PRIVATE] +
			 mm->count.in_state[PAGE_HELD];

	tmem_stats(mm->tm, &st);
	return pages * PAGE_BYTES + st.used_bytes;
}

/* Working set: what is resident and the guest's, shared pages included. */
static uint64_t working_set(const struct mm *mm)
{
	return mm->count.in_state[PAGE_PRIVATE] +
	       mm->count.in_state[PAGE_SHARED] + 1;
}

/* Once a second; the average looks back about RATE_SECONDS. */
static void rate_sample(struct mm *mm, uint64_t now)
{
	struct reclaim *rc = &mm->reclaim;
	uint64_t promotions =
		mm->count.faults_compressed + mm->count.faults_swapped;
	uint64_t past = now - rc->sampled_ns, weight, fresh;

	if (past < NS_PER_S)
		return;
	fresh = (promotions - rc->promotions) * 10000 * 60 * 1000 /
		working_set(mm) / (past / (NS_PER_S / 1000));
	weight = min_u64(past / NS_PER_S, RATE_SECONDS);
	rc->rate = (rc->rate * (RATE_SECONDS - weight) + fresh * weight) /
		   RATE_SECONDS;
	rc->sampled_ns = now;
	rc->promotions = promotions;
	mm->count.refault_permille_min = (rc->rate + 5) / 10;
}

static bool braking(const struct mm *mm, uint64_t now)
{
	return mm->reclaim.braked_ns &&
	       now - mm->reclaim.braked_ns < BRAKE_REST_NS;
}

/* Too many came back: rest, then take less at once, older, tried for longer. */
static void brake_hit(struct mm *mm, uint64_t now)
{
	struct reclaim *rc = &mm->reclaim;

	rc->braked_ns = now;
	if (rc->chunks_at_once > 1)
		rc->chunks_at_once /= 2;
	rc->trial_len_ns = min_u64(rc->trial_len_ns * 2, TRIAL_MAX_NS);
	rc->age_cold = (unsigned)min_u64(rc->age_cold + 2, AGE_COLD_MAX);
}

/* A trial went by without the brake. */
static void brake_ease(struct mm *mm)
{
	if (mm->reclaim.chunks_at_once < HELD_SLOTS)
		mm->reclaim.chunks_at_once++;
}

/* limit: promotions allowed, permille of the working set a minute; 0: any. */
static bool may_take(struct mm *mm, uint32_t limit, uint64_t now)
{
	rate_sample(mm, now);
	if (braking(mm, now))
		return false;
	if (!limit || mm->reclaim.rate <= (uint64_t)limit * 10)
		return true;
	brake_hit(mm, now);
	return false;
}

/* ---- on trial ---- */

static bool slots_left(const struct mm *mm)
{
	unsigned used = HELD_SLOTS -
			(unsigned)__builtin_popcountll(mm->reclaim.slots_free);

	return used < mm->reclaim.chunks_at_once;
}

static bool slot_take(struct mm *mm, struct chunk *c)
{
	unsigned slot;

	if (!slots_left(mm))
		return false;
	slot = (unsigned)__builtin_ctzll(mm->reclaim.slots_free);
	mm->reclaim.slots_free &= ~((uint64_t)1 << slot);
	c->slot = (uint8_t)(slot + 1);
	return true;
}

void reclaim_slot_put(struct mm *mm, const struct spot *first)
{
	if (!first->chunk->slot)
		return;
	mm->host->advise(slot_ptr(mm, first->chunk), CHUNK_BYTES,
			 MADV_DONTNEED);
	mm->reclaim.slots_free |= (uint64_t)1 << (first->chunk->slot - 1);
	first->chunk->slot = 0;
}

/* Pages of a take that ended on trial. */
static void set_held(struct mm *mm, const struct take *t)
{
	for (size_t k = 0; k < t->n; k++) {
		struct spot s = spot_at(&t->at, t->at.page + k);
		uint64_t w = spot_word(&s);

		spot_set_word(mm, &s,
			      page_word(PAGE_HELD, 0, page_heat(w), 0,
					page_payload(w)));
	}
}

/* ---- into the store ---- */

static int store_put(struct mm *mm, const struct spot *s, const void *page)
{
	struct tmem_oid oid = store_oid();
	int rc = tmem_put(mm->client, mm->store_pool, &oid, store_index(s),
			  page);

	if (rc < 0)
		COUNT(mm, store_full, 1);
	return rc;
}

static void compress_held(struct mm *mm, const struct spot *s)
{
	uint64_t w = spot_word(s);
	uint8_t buf[PAGE_BYTES];

	if (store_put(mm, s, held_ptr(mm, s)) == 0)
		spot_set_word(
			mm, s,
			page_word(PAGE_COMPRESSED, 0, page_heat(w), 0, 0));
	else
		fault_bring_back(mm, s, buf);
}

/*
 * The trial is over: compress what nobody wanted. A page that can neither be
 * stored nor put back keeps the slot until it can. Chunk locked.
 */
static void trial_end(struct mm *mm, struct spot *first)
{
	bool empty = true;

	for (size_t i = 0; i < CHUNK_PAGES; i++) {
		struct spot s = spot_at(first, first->page + i);

		if (page_state(spot_word(&s)) == PAGE_HELD)
			compress_held(mm, &s);
		empty &= page_state(spot_word(&s)) != PAGE_HELD;
	}
	if (empty)
		reclaim_slot_put(mm, first);
}

/* Without MOVE: compressed where it lies, write-protected. */
static void compress_taken(struct mm *mm, struct take *t)
{
	for (size_t k = 0; k < t->n; k++) {
		struct spot s = spot_at(&t->at, t->at.page + k);

		if (store_put(mm, &s, t->data + k * PAGE_BYTES) < 0 ||
		    take_drop(t, k, 1, PAGE_COMPRESSED) < 0) {
			store_drop(mm, &s);
			take_return(t, k, 1);
		}
	}
	take_end(t);
}

/* ---- one chunk ---- */

/* Cold pages from i on that are there and lie in an overlay, or do not. */
static size_t cold_run(const struct mm *mm, const struct spot *first, size_t i,
		       const uint64_t *pagemap, bool overlay)
{
	size_t n = 0;

	while (i + n < CHUNK_PAGES) {
		struct spot s = spot_at(first, first->page + i + n);
		uint64_t w = spot_word(&s);

		if (!page_is_cold(mm, w) || !(pagemap[i + n] & PAGEMAP_PRESENT))
			break;
		if (!(page_flags(w) & PAGE_OVERLAY) == overlay)
			break;
		n++;
	}
	return n;
}

/*
 * Cold pages that lie in overlays become takeable next time; a few are not
 * worth the mapping that costs.
 */
static size_t ripen(struct mm *mm, const struct spot *first, size_t i,
		    const uint64_t *pagemap)
{
	struct spot s = spot_at(first, first->page + i);
	size_t n = cold_run(mm, first, i, pagemap, true);

	if (n >= RIPEN_PAGES)
		(void)take_to_anon(mm, &s, n);
	return n ? n : 1;
}

static size_t take_run(struct mm *mm, const struct spot *s, size_t n)
{
	bool trial = mm->features & HOST_MOVE;
	struct take t;
	uint8_t *bench = mm->window;

	if (trial) {
		if (!s->chunk->slot && !slot_take(mm, s->chunk))
			return CHUNK_PAGES;
		bench = held_ptr(mm, s);
	}
	if (take_begin(mm, s, n, bench, &t) < 0)
		return 1;
	if (trial)
		set_held(mm, &t);
	else
		compress_taken(mm, &t);
	return t.n;
}

static void take_cold(struct mm *mm, struct spot *first)
{
	uint64_t pagemap[CHUNK_PAGES];
	size_t i = 0;

	if (mm->host->pagemap_read(hva_ptr(spot_hva(first)), CHUNK_PAGES,
				   pagemap) < 0)
		return;
	while (i < CHUNK_PAGES) {
		struct spot s = spot_at(first, first->page + i);
		size_t n = cold_run(mm, first, i, pagemap, false);

		i += n ? take_run(mm, &s, n) : ripen(mm, first, i, pagemap);
	}
	if (first->chunk->slot)
		first->chunk->trial_ns = mm->host->now_ns();
	COUNT(mm, cold_pages, -(uint64_t)first->chunk->cold);
	first->chunk->cold = 0; /* until the next scan */
}

/* Returns whether there was something to do. Chunk locked. */
static bool chunk_visit(struct mm *mm, struct spot *first, bool take,
			uint64_t now)
{
	struct chunk *c = first->chunk;

	if (c->slot && now - c->trial_ns >= mm->reclaim.trial_len_ns) {
		trial_end(mm, first);
		brake_ease(mm);
	} else if (take && !c->slot && c->cold && chunk_may_break(mm, c)) {
		take_cold(mm, first);
	} else {
		return false;
	}
	take_chunk_settle(mm, first);
	return true;
}

/* Goes round until CHUNKS_PER_CALL had something to do, or all were seen. */
static void chunks_visit(struct mm *mm, bool take, uint64_t now)
{
	struct reclaim *rc = &mm->reclaim;
	size_t chunks = mm->map.chunks;
	int busy = 0;

	for (size_t i = 0; i < chunks && busy < CHUNKS_PER_CALL; i++) {
		struct spot first;

		rc->hand = (rc->hand + 1) % chunks;
		if (!map_find_chunk(&mm->map, rc->hand, &first))
			continue;
		pthread_mutex_lock(&first.chunk->lock);
		busy += chunk_visit(mm, &first, take && slots_left(mm), now);
		pthread_mutex_unlock(&first.chunk->lock);
	}
}

/* ---- to the swap file ---- */

static size_t swap_gather(struct mm *mm, const struct spot *first,
			  struct spot *found)
{
	struct tmem_oid oid = store_oid();
	size_t n = 0;

	for (size_t i = 0; i < CHUNK_PAGES && n < SWAP_BATCH; i++) {
		struct spot s = spot_at(first, first->page + i);

		if (page_state(spot_word(&s)) != PAGE_COMPRESSED)
			continue;
		if (tmem_get(mm->client, mm->store_pool, &oid, store_index(&s),
			     mm->swap_batch + n * PAGE_BYTES) == 0)
			found[n++] = s;
	}
	return n;
}

static int swap_chunk(struct mm *mm, const struct spot *first)
{
	struct spot found[SWAP_BATCH];
	uint64_t slot[SWAP_BATCH];
	int n = 0;

	pthread_mutex_lock(&first->chunk->lock);
	if (first->chunk->managed)
		n = (int)swap_gather(mm, first, found);
	if (n)
		n = swap_write(mm->swap, mm->swap_batch, (size_t)n, slot);
	for (int i = 0; i < n; i++) {
		store_drop(mm, &found[i]);
		spot_set_word(mm, &found[i],
			      page_word(PAGE_SWAPPED, 0, 0, 0, slot[i]));
	}
	pthread_mutex_unlock(&first->chunk->lock);
	return n;
}

static bool store_is_full(struct mm *mm, const struct mm_target *target)
{
	struct tmem_stats st;

	if (!target->store_bytes)
		return false;
	tmem_stats(mm->tm, &st);
	return st.used_bytes > target->store_bytes - target->store_bytes / 16;
}

/* A disk that is full stays full for a while: said once, tried again later. */
static void swap_failed(struct mm *mm, int rc, uint64_t now)
{
	COUNT(mm, swap_full, 1);
	if (!mm->reclaim.swap_rest_ns)
		log_warn("the swap file refuses pages (%d: disk full?); they "
			 "stay in memory. Free space on its file system",
			 rc);
	mm->reclaim.swap_rest_ns = now + SWAP_RETRY_NS;
}

/* Chunks in order of the hand: those longest out come round first. */
static void swap_some(struct mm *mm, const struct mm_target *target,
		      uint64_t now)
{
	struct reclaim *rc = &mm->reclaim;
	size_t chunks = mm->map.chunks;

	if (!mm->swap || !target->swap || now < rc->swap_rest_ns)
		return;
	for (int i = 0; i < CHUNKS_PER_CALL && store_is_full(mm, target); i++) {
		struct spot first;
		int n;

		rc->swap_hand = (rc->swap_hand + 1) % chunks;
		if (!map_find_chunk(&mm->map, rc->swap_hand, &first))
			continue;
		n = swap_chunk(mm, &first);
		if (n < 0) {
			swap_failed(mm, n, now);
			return;
		}
	}
}

/* ---- the slice ---- */

static struct mm_target target_get(struct mm *mm)
{
	struct mm_target t;

	pthread_mutex_lock(&mm->target_lock);
	t = mm->target;
	pthread_mutex_unlock(&mm->target_lock);
	return t;
}

uint64_t mm_reclaim(struct mm *mm)
{
	struct reclaim *rc = &mm->reclaim;
	struct mm_target target = target_get(mm);
	uint64_t now = mm->host->now_ns();
	bool take, on_trial = ~rc->slots_free != 0;

	if (!mm->map.chunks)
		return IDLE_REST_NS;
	take = may_take(mm, target.refault_permille_min, now) &&
	       target.compress && target.resident_bytes &&
	       resident_bytes(mm) > target.resident_bytes;
	swap_some(mm, &target, now);
	if (take || on_trial)
		chunks_visit(mm, take, now);
	return take && slots_left(mm) && mm->count.cold_pages ? BUSY_REST_NS
							      : IDLE_REST_NS;
}

void mm_target_set(struct mm *mm, const struct mm_target *target)
{
	pthread_mutex_lock(&mm->target_lock);
	mm->target = *target;
	pthread_mutex_unlock(&mm->target_lock);
	if (target->store_bytes)
		tmem_client_set(mm->client, 1, target->store_bytes, 0, true);
}
