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
#define TRIAL_MIN_NS	(2 * NS_PER_S)
#define TRIAL_MAX_NS	(32 * NS_PER_S)
#define IDLE_REST_NS	NS_PER_S
#define BUSY_REST_NS	(10 * NS_PER_S / 1000)
#define BRAKE_REST_NS	(10 * NS_PER_S)
#define CHUNKS_PER_CALL 8
#define SWAP_RETRY_NS	(30 * NS_PER_S)

void reclaim_init(struct mm *mm)
{
	mm->reclaim = (struct reclaim){
		.trial_len_ns = TRIAL_MIN_NS,
		.slots_free = ~(uint64_t)0,
		.minute_ns = mm->host->now_ns(),
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

static uint64_t promotions(const struct mm *mm)
{
	return mm->count.faults_compressed + mm->count.faults_swapped;
}

/* Working set: what is resident and the guest's, shared pages included. */
static uint64_t working_set(const struct mm *mm)
{
	return mm->count.in_state[PAGE_PRIVATE] +
	       mm->count.in_state[PAGE_SHARED] + 1;
}

/* Promotions of the running minute, in 1/10000 of the working set. */
static uint64_t promotion_rate(const struct mm *mm)
{
	uint64_t n = promotions(mm) - mm->reclaim.minute_refaults;

	return n * 10000 / working_set(mm);
}

static void minute_turn(struct mm *mm, uint64_t now)
{
	struct reclaim *rc = &mm->reclaim;

	if (now - rc->minute_ns < 60 * NS_PER_S)
		return;
	mm->count.refault_permille_min = promotion_rate(mm) / 10;
	if (rc->trial_len_ns > TRIAL_MIN_NS)
		rc->trial_len_ns -= rc->trial_len_ns / 4;
	rc->minute_ns = now;
	rc->minute_refaults = promotions(mm);
}

/*
 * limit is in permille x 10, that is 1/10000, for one minute; a tenth of it may
 * come at once before the brake.
 */
static bool brake(struct mm *mm, uint32_t limit, uint64_t now)
{
	struct reclaim *rc = &mm->reclaim;
	uint64_t in_minute = now - rc->minute_ns;
	uint64_t allowed = limit * in_minute / (60 * NS_PER_S) + limit / 10 + 1;

	if (!limit || promotion_rate(mm) <= allowed)
		return false;
	rc->rest_until_ns = now + BRAKE_REST_NS;
	if (rc->trial_len_ns < TRIAL_MAX_NS)
		rc->trial_len_ns *= 2;
	return true;
}

/* ---- on trial ---- */

static uint8_t *slot_ptr(const struct mm *mm, const struct spot *first)
{
	return mm->held + (size_t)(first->chunk->slot - 1) * CHUNK_BYTES;
}

static bool slot_take(struct mm *mm, struct chunk *c)
{
	unsigned slot;

	if (!mm->reclaim.slots_free)
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
	mm->host->advise(slot_ptr(mm, first), CHUNK_BYTES, MADV_DONTNEED);
	mm->reclaim.slots_free |= (uint64_t)1 << (first->chunk->slot - 1);
	first->chunk->slot = 0;
}

static bool is_cold(const struct spot *s)
{
	uint64_t w = spot_word(s);
	unsigned need = AGE_COLD << page_heat(w);

	return page_state(w) == PAGE_PRIVATE &&
	       page_age(w) >= min_u64(need, PAGE_AGE_MAX);
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

static void compress_held(struct mm *mm, const struct spot *s,
			  const uint8_t *page)
{
	uint64_t w = spot_word(s);
	uint8_t buf[PAGE_BYTES];

	if (store_put(mm, s, page) == 0)
		spot_set_word(
			mm, s,
			page_word(PAGE_COMPRESSED, 0, page_heat(w), 0, 0));
	else
		fault_bring_back(mm, s, buf);
}

/* The trial is over: compress what nobody wanted. Chunk locked. */
static void trial_end(struct mm *mm, struct spot *first)
{
	const uint8_t *slot = slot_ptr(mm, first);

	for (size_t i = 0; i < CHUNK_PAGES; i++) {
		struct spot s = spot_at(first, first->page + i);

		if (page_state(spot_word(&s)) == PAGE_HELD)
			compress_held(mm, &s, slot + i * PAGE_BYTES);
	}
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

static size_t cold_run(const struct spot *first, size_t i,
		       const uint64_t *pagemap)
{
	size_t n = 0;

	while (i + n < CHUNK_PAGES) {
		struct spot s = spot_at(first, first->page + i + n);

		if (!is_cold(&s) || !(pagemap[i + n] & PAGEMAP_PRESENT) ||
		    (page_flags(spot_word(&s)) & PAGE_OVERLAY))
			break;
		n++;
	}
	return n;
}

/* A cold page that lies in an overlay becomes takeable next time. */
static void overlay_ripen(struct mm *mm, const struct spot *s)
{
	if (is_cold(s) && (page_flags(spot_word(s)) & PAGE_OVERLAY))
		(void)take_to_anon(mm, s, mm->window);
}

static size_t take_run(struct mm *mm, const struct spot *s, size_t n)
{
	bool trial = mm->features & HOST_MOVE;
	size_t in_chunk = s->page & (CHUNK_PAGES - 1);
	struct take t;
	uint8_t *bench = mm->window;

	if (trial) {
		if (!s->chunk->slot && !slot_take(mm, s->chunk))
			return CHUNK_PAGES;
		bench = slot_ptr(mm, s) + in_chunk * PAGE_BYTES;
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
		size_t n = cold_run(first, i, pagemap);

		if (!n)
			overlay_ripen(mm, &s);
		i += n ? take_run(mm, &s, n) : 1;
	}
	if (first->chunk->slot)
		first->chunk->trial_ns = mm->host->now_ns();
}

static void chunk_visit(struct mm *mm, struct spot *first, bool take,
			uint64_t now)
{
	struct chunk *c = first->chunk;

	pthread_mutex_lock(&c->lock);
	if (c->slot && now - c->trial_ns >= mm->reclaim.trial_len_ns)
		trial_end(mm, first);
	else if (take && !c->slot && chunk_may_break(mm, c))
		take_cold(mm, first);
	take_chunk_settle(mm, first);
	pthread_mutex_unlock(&c->lock);
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
	size_t chunks = mm->map.chunks;
	bool over, on_trial = ~rc->slots_free != 0;

	if (!chunks)
		return IDLE_REST_NS;
	minute_turn(mm, now);
	over = target.compress && target.resident_bytes &&
	       resident_bytes(mm) > target.resident_bytes &&
	       now >= rc->rest_until_ns &&
	       !brake(mm, target.refault_permille_min, now);
	swap_some(mm, &target, now);
	if (!over && !on_trial)
		return IDLE_REST_NS;
	for (int i = 0; i < CHUNKS_PER_CALL; i++) {
		struct spot first;

		rc->hand = (rc->hand + 1) % chunks;
		if (map_find_chunk(&mm->map, rc->hand, &first))
			chunk_visit(mm, &first, over && rc->slots_free, now);
	}
	return BUSY_REST_NS;
}

void mm_target_set(struct mm *mm, const struct mm_target *target)
{
	pthread_mutex_lock(&mm->target_lock);
	mm->target = *target;
	pthread_mutex_unlock(&mm->target_lock);
	if (target->store_bytes)
		tmem_client_set(mm->client, 1, target->store_bytes, 0, true);
}
