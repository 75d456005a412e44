/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Taking cold pages until the VM meets its target.
 *
 * A page unchanged for several scans may still be read all the time, so it is
 * lifted out on trial first: held uncompressed, where coming back is one MOVE.
 * A chunk's trial is extended, a few times, while its pages come back, since
 * what is read once a minute looks cold for most of that minute; then what is
 * left is compressed. A page that comes back gets hotter, and each degree
 * doubles the age it needs next time. (Without MOVE there is no trial: the page
 * is compressed at once.)
 *
 *   private --age--> held --nobody came--> compressed --store full--> swapped
 *      ^               |                       |                         |
 *      +---------------+------- fault ---------+-------------------------+
 *
 * The promotion rate, pages that come back from store or swap file per minute
 * as a share of the working set, is the brake: above its target nothing is
 * compressed for a while, and trials get longer (as in Lagar-Cavilla et al.,
 * Software-Defined Far Memory, ASPLOS 2019). Pages on trial cost no memory
 * beyond what they had, so trials go on meanwhile. Where no rate is set, memory
 * is wanted at once: trials may be short. Pages are stored dense then, too:
 * what that takes longer is less than what is saved by having to take fewer.
 */
#include "hv/mm/reclaim.h"
#include "hv/mm/take.h"

#include "hv/base/log.h"

#include <sys/mman.h>

#define NS_PER_S	((uint64_t)1000000000)
#define SCAN_NS		(20 * NS_PER_S) /* where no target says it */
#define EXTEND_MOST	2
#define QUIET_ONE_IN	64 /* of a chunk's pages that are out: may return */
#define IDLE_REST_NS	NS_PER_S
#define BUSY_REST_NS	(NS_PER_S / 50)
#define RATE_SECONDS	((uint64_t)20)
#define CHUNKS_PER_CALL 8
#define RIPEN_PAGES	8
#define STOCK_ONE_IN	8 /* of what is resident: on trial before it is needed */
#define SWAP_RETRY_NS	(30 * NS_PER_S)

/*
 * How long a page has to stay away is counted as its age is, in rests between
 * two scans: in sixteenths of one.
 */
#define TRIAL	    48 /* to begin with */
#define TRIAL_MIN   16
#define TRIAL_MAX   96
#define TRIAL_HURRY 8
#define EASE	    TRIAL
#define BRAKE_REST  16

/* One call of mm_reclaim. */
struct turn {
	struct mm_target target;
	uint64_t now;
	bool take; /* more pages may be lifted out */
	bool put;  /* and what was tried be compressed, if memory is wanted */
};

void reclaim_init(struct mm *mm)
{
	uint64_t now = mm->host->now_ns();

	mm->reclaim = (struct reclaim){
		.trial_len = TRIAL,
		.sampled_ns = now,
		.eased_ns = now,
	};
}

/* ---- how much, and whether now ---- */

static uint64_t scans_ns(const struct mm_target *target, uint64_t sixteenths)
{
	return (target->scan_ns ? target->scan_ns : SCAN_NS) * sixteenths / 16;
}

/* What hvd reckons a VM to use: its target is a part of that. */
static uint64_t resident_bytes(struct mm *mm)
{
	struct tmem_stats st;
	uint64_t pages = mm->count.in_state[PAGE_PRIVATE] +
			 mm->count.in_state[PAGE_HELD];

	return pages * PAGE_BYTES + mm_store_bytes(mm, &st) +
	       mm_metadata_bytes(mm);
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
	uint64_t promotions = mm->count.faults_compressed +
			      mm->count.faults_swapped + mm->count.ahead_pages;
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

static bool braking(const struct mm *mm, const struct turn *turn)
{
	return mm->reclaim.braked_ns &&
	       turn->now - mm->reclaim.braked_ns <
		       scans_ns(&turn->target, BRAKE_REST);
}

static void trials_set(struct mm *mm, uint32_t len, uint64_t now)
{
	mm->reclaim.trial_len =
		(uint32_t)max_u64(TRIAL_MIN, min_u64(len, TRIAL_MAX));
	mm->reclaim.eased_ns = now;
}

/*
 * The target limits promotions, in permille of the working set a minute; 0:
 * any. Trials get shorter again whenever EASE is over in which the rate was
 * below half of that.
 */
static bool may_put(struct mm *mm, const struct turn *turn)
{
	uint64_t limit = (uint64_t)turn->target.refault_permille_min * 10;
	uint64_t ease_ns = scans_ns(&turn->target, EASE), now = turn->now;
	struct reclaim *rc = &mm->reclaim;

	rate_sample(mm, now);
	if (!limit)
		return true;
	if (braking(mm, turn))
		return false;
	if (rc->rate > limit) {
		rc->braked_ns = now;
		trials_set(mm, rc->trial_len * 3 / 2, now);
		return false;
	}
	if (rc->rate * 2 < limit && now - rc->eased_ns > ease_ns)
		trials_set(mm, rc->trial_len / 2, now);
	return true;
}

/* All it likes, where nothing is to be compressed. */
static uint64_t allowed_bytes(const struct mm_target *target)
{
	if (!target->compress || !target->resident_bytes)
		return UINT64_MAX;
	return target->resident_bytes;
}

/*
 * A page on trial that stays away will save half of itself, and one in three
 * comes back: three times as many as are wanted are tried. Those that are then
 * not wanted stay on trial, where they cost no more than they did. And some are
 * tried before they are wanted, where that may be soon: the longer a trial was,
 * the fewer of its pages come back.
 */
static bool may_take(struct mm *mm, const struct turn *turn)
{
	uint64_t used = resident_bytes(mm);
	uint64_t allowed = allowed_bytes(&turn->target);
	uint64_t excess = used > allowed ? used - allowed : 0;
	uint64_t held = mm->count.in_state[PAGE_HELD] * PAGE_BYTES;
	uint64_t stock = used / STOCK_ONE_IN;

	if (!(mm->features & HOST_MOVE))
		return excess && turn->put;
	if (used + stock < allowed)
		return false;
	return held < max_u64(3 * excess, stock);
}

/* ---- on trial ---- */

static bool held_ready(struct mm *mm, struct range *r)
{
	if (r->held)
		return true;
	if (bench_create(mm, r->pages * PAGE_BYTES, &r->held) == 0)
		return true;
	if (!mm->reclaim.held_refused)
		log_warn("no address space to keep cold pages on trial: "
			 "nothing is compressed. Raise RLIMIT_AS, or do not "
			 "set vm.overcommit_memory to 2");
	mm->reclaim.held_refused = true;
	return false;
}

void reclaim_trial_clear(struct mm *mm, const struct spot *first)
{
	if (!first->chunk->on_trial)
		return;
	mm->host->advise(held_ptr(first), CHUNK_BYTES, MADV_DONTNEED);
	first->chunk->on_trial = false;
	mm->reclaim.trials--;
}

static void trial_begin(struct mm *mm, struct chunk *c, uint64_t now)
{
	mm->reclaim.trials++;
	c->on_trial = true;
	c->extended = 0;
	c->returned = 0;
	c->trial_ns = now;
}

static void trial_extend(struct chunk *c, uint64_t now)
{
	c->extended++;
	c->returned = 0;
	c->trial_ns = now;
}

static bool trial_is_over(struct mm *mm, const struct chunk *c,
			  const struct turn *turn)
{
	uint32_t len = turn->target.refault_permille_min ? mm->reclaim.trial_len
							 : TRIAL_HURRY;

	return c->on_trial && turn->put &&
	       turn->now - c->trial_ns >= scans_ns(&turn->target, len) &&
	       resident_bytes(mm) > allowed_bytes(&turn->target);
}

/* What nobody came for through all extensions is cold, whatever others did. */
static bool was_quiet(const struct chunk *c, const struct turn *turn)
{
	return !turn->target.refault_permille_min ||
	       c->extended == EXTEND_MOST ||
	       c->returned <= c->out / QUIET_ONE_IN;
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
	int rc = tmem_put_dense(mm->client, mm->store_pool, &oid,
				store_index(s), page);

	if (rc < 0)
		COUNT(mm, store_full, 1);
	return rc;
}

static void compress_held(struct mm *mm, const struct spot *s)
{
	uint64_t w = spot_word(s);
	uint8_t buf[PAGE_BYTES];

	if (store_put(mm, s, held_ptr(s)) == 0)
		spot_set_word(
			mm, s,
			page_word(PAGE_COMPRESSED, 0, page_heat(w), 0, 0));
	else
		fault_bring_back(mm, s, buf);
}

/*
 * The trial is over: compress what nobody wanted. A page that can neither be
 * stored nor put back stays on trial until it can. Chunk locked.
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
		reclaim_trial_clear(mm, first);
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
static size_t cold_run(const struct spot *first, size_t i,
		       const uint64_t *pagemap, bool overlay)
{
	size_t n = 0;

	while (i + n < CHUNK_PAGES) {
		struct spot s = spot_at(first, first->page + i + n);
		uint64_t w = spot_word(&s);

		if (!page_is_cold(w) || !(pagemap[i + n] & PAGEMAP_PRESENT))
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
	size_t n = cold_run(first, i, pagemap, true);

	if (n >= RIPEN_PAGES)
		(void)take_to_anon(mm, &s, n);
	return n ? n : 1;
}

static size_t take_run(struct mm *mm, const struct spot *s, size_t n)
{
	bool trial = mm->features & HOST_MOVE;
	struct take t;
	uint8_t *bench = mm->window;

	if (trial)
		bench = held_ptr(s);
	if (take_begin(mm, s, n, bench, &t) < 0)
		return 1;
	if (trial)
		set_held(mm, &t);
	else
		compress_taken(mm, &t);
	return t.n;
}

static void take_cold(struct mm *mm, struct spot *first, uint64_t now)
{
	uint64_t pagemap[CHUNK_PAGES];
	size_t i = 0;

	if (mm->host->pagemap_read(hva_ptr(spot_hva(first)), CHUNK_PAGES,
				   pagemap) < 0)
		return;
	if (mm->features & HOST_MOVE) {
		if (!held_ready(mm, first->range))
			return;
		trial_begin(mm, first->chunk, now);
	}
	while (i < CHUNK_PAGES) {
		struct spot s = spot_at(first, first->page + i);
		size_t n = cold_run(first, i, pagemap, false);

		i += n ? take_run(mm, &s, n) : ripen(mm, first, i, pagemap);
	}
	COUNT(mm, cold_pages, -(uint64_t)first->chunk->cold);
	first->chunk->cold = 0; /* until the next scan */
}

/* Returns whether there was something to do. Chunk locked. */
static bool chunk_visit(struct mm *mm, struct spot *first,
			const struct turn *turn)
{
	struct chunk *c = first->chunk;

	if (trial_is_over(mm, c, turn)) {
		if (was_quiet(c, turn))
			trial_end(mm, first);
		else
			trial_extend(c, turn->now);
	} else if (!c->on_trial && c->cold && turn->take &&
		   chunk_may_break(mm, c)) {
		take_cold(mm, first, turn->now);
	} else {
		return false;
	}
	take_chunk_settle(mm, first);
	return true;
}

/*
 * Goes round until CHUNKS_PER_CALL had something to do, or all were seen.
 * Returns whether there may be more.
 */
static bool chunks_visit(struct mm *mm, const struct turn *turn)
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
		busy += chunk_visit(mm, &first, turn);
		pthread_mutex_unlock(&first.chunk->lock);
	}
	return busy == CHUNKS_PER_CALL;
}

/* ---- to the swap file ---- */

static size_t swap_gather(struct mm *mm, const struct spot *first,
			  struct spot *found)
{
	size_t n = 0;

	for (size_t i = 0; i < CHUNK_PAGES && n < SWAP_BATCH; i++) {
		struct spot s = spot_at(first, first->page + i);

		if (page_state(spot_word(&s)) != PAGE_COMPRESSED)
			continue;
		if (store_fetch(mm, &s, mm->swap_batch + n * PAGE_BYTES) == 0)
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
	struct tmem_client_stats st;

	if (!target->store_bytes)
		return false;
	tmem_client_stats(mm->client, &st);
	return st.bytes > target->store_bytes - target->store_bytes / 16;
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
	struct turn turn = {.target = target_get(mm),
			    .now = mm->host->now_ns()};
	bool more = false;

	if (!mm->map.chunks)
		return IDLE_REST_NS;
	turn.put = may_put(mm, &turn);
	swap_some(mm, &turn.target, turn.now);
	turn.take = may_take(mm, &turn);
	if (mm->reclaim.trials || turn.take)
		more = chunks_visit(mm, &turn);
	return more ? BUSY_REST_NS : IDLE_REST_NS;
}

void mm_target_set(struct mm *mm, const struct mm_target *target)
{
	pthread_mutex_lock(&mm->target_lock);
	mm->target = *target;
	pthread_mutex_unlock(&mm->target_lock);
	if (target->store_bytes)
		tmem_client_set(mm->client, 1, target->store_bytes, 0, true);
}
