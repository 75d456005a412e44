/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Looking for pages worth sharing, in slices of about two milliseconds.
 *
 * A pass looks at every chunk; a page whose hash is the same in two passes is
 * offered. The first passes begin 1/4, 2, 4, 8 ... seconds after each other,
 * so that a new guest is merged soon; then the rest is what hvd sets. A large
 * guest rests for at least as long as its pass took.
 * Pages just read from a disk are looked at at once (Satori: Milos et al.,
 * USENIX ATC 2009): the same block read by another guest is the same page.
 *
 * Dropped: telling hvd of every page in the first pass. A third of the pages of
 * a busy desktop change within seconds; each would cost a merge and a break.
 */
#include "sharing/share_core.h"
#include "sharing/hash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_MS      ((uint64_t)1000000)
#define SLICE_NS       (2 * NS_PER_MS)
#define FIRST_REST_NS  (250 * NS_PER_MS)
#define SECOND_REST_NS (2000 * NS_PER_MS)
#define SCAN_NS	       (16000 * NS_PER_MS) /* until hvd has said */
#define GRANTS_NS      (10 * NS_PER_MS)	   /* until more have come, or none */
#define CONGESTED_NS   (2 * NS_PER_MS)
#define IDLE_NS	       (1000 * NS_PER_MS)

int share_create(struct mm *mm, share_send_fn *send, void *arg,
		 struct share **out)
{
	struct share *sh = calloc(1, sizeof(*sh));

	if (!sh)
		return -ENOMEM;
	sh->out = malloc(sizeof(*sh->out));
	if (!sh->out) {
		free(sh);
		return -ENOMEM;
	}
	sh->mm = mm;
	sh->send = send;
	sh->arg = arg;
	sh->may_share = true;
	sh->scan_ns = SCAN_NS;
	pthread_mutex_init(&sh->hints.lock, NULL);
	*out = sh;
	return 0;
}

void share_destroy(struct share *sh)
{
	if (!sh)
		return;
	merge_forget(sh);
	pthread_mutex_destroy(&sh->hints.lock);
	free(sh->out);
	free(sh);
}

void share_start(struct share *sh, const uint8_t secret[192])
{
	memcpy(sh->secret, secret, sizeof(sh->secret));
	mm_offers_forget(sh->mm);
	sh->running = true;
	sh->cursor = 0;
	sh->next_pass_ns = 0;
	sh->rest_ns = FIRST_REST_NS;
	sh->offers = 0;
}

void share_stop(struct share *sh)
{
	sh->running = false;
	sh->offers = 0;
	merge_forget(sh);
}

void share_policy(struct share *sh, bool may_share, bool break_huge,
		  uint32_t scan_ms)
{
	if (may_share && !sh->may_share) {
		sh->next_pass_ns = 0;
		sh->rest_ns = FIRST_REST_NS;
	}
	sh->may_share = may_share;
	if (scan_ms)
		sh->scan_ns = scan_ms * NS_PER_MS;
	mm_break_huge(sh->mm, break_huge);
}

/* ---- offers ---- */

static int offers_send(struct share *sh)
{
	int rc;

	if (!sh->offers)
		return 0;
	sh->out->head = (struct wire_head){
		.version = WIRE_VERSION,
		.type = WIRE_OFFER,
		.bytes = (uint32_t)(sizeof(sh->out->head) +
				    sh->offers * sizeof(sh->out->offer[0])),
	};
	rc = sh->send(sh->arg, &sh->out->head);
	if (rc == 0)
		sh->offers = 0;
	return rc;
}

static uint64_t scan_hash(void *arg, const void *page)
{
	struct share *sh = arg;

	return sharing_hash(sh->secret, page);
}

static bool scan_seen(void *arg, gfn_t gfn, uint64_t hash, uint64_t was,
		      unsigned age)
{
	struct share *sh = arg;

	(void)age;
	if (!sh->may_share)
		return false;
	if (sh->offers == OFFERS_MAX && offers_send(sh) < 0)
		return false;
	sh->out->offer[sh->offers++] = (struct wire_offer){
		.page = gfn.n,
		.hash = hash,
		.was = was,
	};
	return true;
}

static struct mm_scan_ops scan_ops(struct share *sh)
{
	return (struct mm_scan_ops){scan_hash, scan_seen, sh};
}

/* ---- hints ---- */

void share_hint(struct share *sh, hva_t hva, size_t bytes)
{
	struct hints *h = &sh->hints;

	if (pthread_mutex_trylock(&h->lock) != 0)
		return;
	if (h->n < HINTS_MAX)
		h->hint[h->n++] = (struct hint){hva, bytes};
	pthread_mutex_unlock(&h->lock);
}

/* One chunk's part at a time: a read may span several. */
static void hint_look(struct share *sh, struct hint h)
{
	struct mm_scan_ops ops = scan_ops(sh);

	while (h.bytes >= PAGE_BYTES) {
		size_t left = CHUNK_BYTES - (h.hva.n & (CHUNK_BYTES - 1));
		size_t step = min_u64(left, h.bytes);
		int n = mm_scan_hint(sh->mm, h.hva, step, &ops);

		if (n > 0)
			sh->hint_pages += (uint64_t)n;
		h.hva.n += step;
		h.bytes -= step;
	}
}

static void hints_work(struct share *sh)
{
	struct hint taken[HINTS_MAX];
	unsigned n;

	pthread_mutex_lock(&sh->hints.lock);
	n = sh->hints.n;
	memcpy(taken, sh->hints.hint, n * sizeof(taken[0]));
	sh->hints.n = 0;
	pthread_mutex_unlock(&sh->hints.lock);
	for (unsigned i = 0; i < n; i++)
		hint_look(sh, taken[i]);
}

/* ---- passes ---- */

/* While the guest is new, from start to start: else the rest is a rest. */
static uint64_t pass_next(const struct share *sh, uint64_t now)
{
	uint64_t took = now - sh->pass_ns, latest = now + sh->scan_ns;

	if (sh->rest_ns >= sh->scan_ns)
		return latest;
	return min_u64(max_u64(sh->pass_ns + sh->rest_ns, now + took), latest);
}

static void pass_end(struct share *sh, uint64_t now)
{
	sh->cursor = 0;
	sh->scans++;
	sh->next_pass_ns = pass_next(sh, now);
	sh->rest_ns =
		min_u64(max_u64(sh->rest_ns * 2, SECOND_REST_NS), sh->scan_ns);
}

/* Chunks until the slice is used up; stops early when hvd cannot keep up. */
static void pass_some(struct share *sh, uint64_t since)
{
	struct mm_scan_ops ops = scan_ops(sh);
	size_t chunks = mm_chunks(sh->mm);

	if (!sh->cursor)
		sh->pass_ns = since;
	while (sh->cursor < chunks && sh->offers < OFFERS_MAX - CHUNK_PAGES) {
		mm_scan_chunk(sh->mm, sh->cursor++, &ops);
		if (mm_now_ns(sh->mm) - since > SLICE_NS)
			break;
	}
	if (sh->cursor >= chunks)
		pass_end(sh, mm_now_ns(sh->mm));
}

uint64_t share_scan(struct share *sh)
{
	uint64_t now = mm_now_ns(sh->mm);

	if (!sh->running)
		return IDLE_NS;
	if (merge_work(sh, now))
		return 0;
	if (offers_send(sh) < 0)
		return CONGESTED_NS;
	hints_work(sh);
	if (now >= sh->next_pass_ns)
		pass_some(sh, now);
	if (offers_send(sh) < 0)
		return CONGESTED_NS;
	now = mm_now_ns(sh->mm);
	/* Wants are left over where the link is full: as soon as it is not. */
	if (now >= sh->next_pass_ns || sh->wants.n)
		return 0;
	return min_u64(sh->next_pass_ns - now,
		       sh->grants.n ? GRANTS_NS : IDLE_NS / 10);
}

void share_stats(const struct share *sh, struct mm_stats *out)
{
	out->scans = sh->scans;
	out->hint_pages = sh->hint_pages;
}
