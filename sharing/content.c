/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What happens to one content, from the first offer of its hash to the last
 * reference to its frame; the picture is in domain.c.
 *
 * Nothing here sends while it changes anything: grants and wants are queued
 * with their member, so no transition meets another half done. A pending frame
 * keeps, in the word that will be its references, where its record is.
 */
#include "sharing/content.h"
#include "sharing/frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WAITERS_MAX 16384 /* pages of one content */
#define BODY_MAX    (WIRE_MAX - sizeof(struct wire_head))

/* ---- candidates ------------------------------------------------------- */

static void candidate_add(struct domain_member *m, uint64_t hash, uint64_t page)
{
	const struct index_value v = {.slot = m->slot, .page = page};

	if (index_put(m->dom->index, hash, &v)) {
		m->dom->count.no_memory++;
		return;
	}
	m->claims++;
}

/* ---- pending contents --------------------------------------------------- */

static struct pending *pending_of(const struct domain *dom, uint32_t frame)
{
	return dom->pending[frames_word(dom->frames, frame)];
}

static int pending_room(struct domain *dom)
{
	uint32_t room = dom->pending_room * 2 + 64;
	struct pending **more;

	if (dom->pending_used < dom->pending_room)
		return 0;
	more = realloc(dom->pending, room * sizeof(*more));
	if (!more)
		return -ENOMEM;
	dom->pending = more;
	dom->pending_room = room;
	return 0;
}

static struct pending_list *list_of(struct domain *dom, const struct pending *p)
{
	return p->gathering ? &dom->gathering : &dom->asked;
}

static void pending_link(struct domain *dom, struct pending *p)
{
	struct pending_list *list = list_of(dom, p);

	list->count++;
	p->since_ns = dom->now_ns;
	p->newer = NULL;
	p->older = list->newest;
	if (list->newest)
		list->newest->newer = p;
	else
		list->oldest = p;
	list->newest = p;
}

static void pending_unlink(struct domain *dom, struct pending *p)
{
	struct pending_list *list = list_of(dom, p);

	list->count--;
	if (p->older)
		p->older->newer = p->newer;
	else
		list->oldest = p->newer;
	if (p->newer)
		p->newer->older = p->older;
	else
		list->newest = p->older;
}

/* Its frame must be pending still: the last of the table takes its place. */
static void pending_unhook(struct domain *dom, struct pending *p)
{
	uint32_t at = frames_word(dom->frames, p->frame);
	struct pending *last = dom->pending[--dom->pending_used];

	dom->pending[at] = last;
	frames_word_set(dom->frames, last->frame, at);
	pending_unlink(dom, p);
	if (dom->pending_used)
		return;
	free(dom->pending); /* may have been a burst's */
	dom->pending = NULL;
	dom->pending_room = 0;
}

static void pending_dispose(struct pending *p)
{
	free(p->waiter);
	free(p);
}

static int waiter_add(struct domain *dom, struct pending *p, place_t place)
{
	uint32_t room = p->room * 2 + 2;
	place_t *more;

	if (p->waiters == WAITERS_MAX)
		return -ENOSPC;
	if (p->waiters == p->room) {
		more = realloc(p->waiter, room * sizeof(*more));
		if (!more)
			return -ENOMEM;
		p->waiter = more;
		p->room = room;
	}
	p->waiter[p->waiters++] = place;
	place_member(dom, place)->claims++;
	return 0;
}

void content_waiter_remove(struct domain *dom, struct pending *p, uint32_t i)
{
	place_member(dom, p->waiter[i])->claims--;
	p->waiters--;
	memmove(&p->waiter[i], &p->waiter[i + 1],
		(p->waiters - i) * sizeof(*p->waiter));
}

/* At the home of this page if that is to be had, else anywhere. */
static int frame_alloc_home(struct domain *dom, uint64_t hash, place_t home,
			    uint32_t *frame_out)
{
	struct domain_member *m = place_member(dom, home);

	if (homes_frame(&m->homes, dom->frames, place_page(home), frame_out) ||
	    frames_alloc_at(dom->frames, hash, *frame_out))
		return frames_alloc(dom->frames, hash, frame_out);
	return 0;
}

/* A frame, a record, and no page yet. */
static int pending_create(struct domain *dom, uint64_t hash, place_t home,
			  struct pending **out)
{
	struct pending *p;
	int rc;

	rc = pending_room(dom);
	if (rc)
		return rc;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	rc = frame_alloc_home(dom, hash, home, &p->frame);
	if (rc) {
		free(p);
		return rc;
	}
	frames_word_set(dom->frames, p->frame, dom->pending_used);
	dom->pending[dom->pending_used++] = p;
	p->gathering = dom->gather_ns != 0;
	pending_link(dom, p);
	*out = p;
	return 0;
}

/* Forgets the content, its pages and its frame. */
static void pending_abandon(struct domain *dom, struct pending *p)
{
	uint32_t frame = p->frame;

	index_remove(dom->index, frames_hash(dom->frames, frame));
	while (p->waiters)
		content_waiter_remove(dom, p, p->waiters - 1);
	pending_unhook(dom, p);
	pending_dispose(p);
	frames_free(dom->frames, frame);
}

/* ---- what goes out ---------------------------------------------------- */

static void member_dirty(struct domain_member *m)
{
	if (m->dirty)
		return;
	m->dirty = true;
	m->dirty_next = m->dom->dirty;
	m->dom->dirty = m;
}

/* Room for one more entry; NULL: no memory. */
static void *batch_next(struct domain_member *m, struct batch *b, size_t bytes)
{
	size_t room = b->room * 2 + 64;
	void *more;

	if (b->count == b->room) {
		more = realloc(b->entry, room * bytes);
		if (!more)
			return NULL;
		b->entry = more;
		b->room = room;
	}
	member_dirty(m);
	return (char *)b->entry + b->count++ * bytes;
}

void content_batch_clear(struct batch *b)
{
	free(b->entry);
	*b = (struct batch){0};
}

/* As many messages as it takes. Returns how many entries went out. */
static size_t batch_send(struct domain_member *m, const struct batch *b,
			 enum wire_type type, size_t bytes)
{
	struct {
		struct wire_head head;
		char body[BODY_MAX];
	} msg;
	size_t at = 0, n;

	while (at < b->count) {
		n = min_u64(b->count - at, BODY_MAX / bytes);
		msg.head = (struct wire_head){
			.version = WIRE_VERSION,
			.type = (uint16_t)type,
			.bytes = (uint32_t)(sizeof(msg.head) + n * bytes)};
		memcpy(msg.body, (char *)b->entry + at * bytes, n * bytes);
		if (m->dom->send(m->cookie, &msg.head))
			break;
		at += n;
	}
	return at;
}

void content_unref(struct domain *dom, uint32_t frame, uint32_t refs)
{
	uint64_t hash = frames_hash(dom->frames, frame);
	struct index_value v;

	if (!frames_unref(dom->frames, frame, refs))
		return;
	/* Of a pool taken over, two frames may have one content. */
	if (!index_get(dom->index, hash, &v) && v.is_frame && v.frame == frame)
		index_remove(dom->index, hash);
}

void content_grant_take_back(struct domain_member *m, uint32_t frame)
{
	/* A liar may have given it back before it was told that it has it. */
	if (!holds_drop(&m->holds, frame))
		content_unref(m->dom, frame, 1);
	m->dom->count.grants_dropped++;
}

static int grant_compare(const void *a, const void *b)
{
	const struct wire_grant *x = a, *y = b;

	return x->page < y->page ? -1 : x->page > y->page;
}

void content_grants_send(struct domain_member *m)
{
	struct wire_grant *grant = m->grants.entry;
	size_t sent, i;

	if (!m->grants.count)
		return;
	qsort(grant, m->grants.count, sizeof(*grant), grant_compare);
	sent = batch_send(m, &m->grants, WIRE_GRANT, sizeof(*grant));
	m->dom->count.grants += sent;
	for (i = sent; i < m->grants.count; i++)
		content_grant_take_back(m, grant[i].frame);
	content_batch_clear(&m->grants);
}

/* The frame has a reference for this page already. */
static void grant_queue(struct domain_member *m, uint64_t page, uint32_t frame)
{
	struct wire_grant *grant;

	if (holds_add(&m->holds, frame, 1)) {
		content_unref(m->dom, frame, 1);
		m->dom->count.no_memory++;
		return;
	}
	grant = batch_next(m, &m->grants, sizeof(*grant));
	if (!grant) {
		content_grant_take_back(m, frame);
		return;
	}
	*grant = (struct wire_grant){.page = page, .frame = frame};
}

struct pending *content_asked_find(const struct domain_member *m,
				   const struct wire_want *want)
{
	const struct domain *dom = m->dom;
	struct pending *p;

	if (frames_state(dom->frames, want->frame) != FRAME_PENDING ||
	    frames_hash(dom->frames, want->frame) != want->hash)
		return NULL;
	p = pending_of(dom, want->frame);
	return p->asked == place_of(m, want->page) ? p : NULL;
}

static int want_compare(const void *a, const void *b)
{
	const struct wire_want *x = a, *y = b;

	return x->page < y->page ? -1 : x->page > y->page;
}

/*
 * In the order of pages: the agent looks up each chunk once. What cannot be
 * sent is asked of others, which may make members dirty.
 */
void content_wants_send(struct domain_member *m)
{
	struct batch batch = m->wants;
	struct wire_want *want = batch.entry;
	struct pending *p;
	size_t i;

	m->wants = (struct batch){0};
	if (batch.count)
		qsort(want, batch.count, sizeof(*want), want_compare);
	i = batch_send(m, &batch, WIRE_WANT, sizeof(*want));
	m->dom->count.wants += i;
	for (; i < batch.count; i++) {
		m->dom->count.wants_dropped++;
		p = content_asked_find(m, &want[i]);
		if (p)
			content_pass_on(m->dom, p);
	}
	content_batch_clear(&batch);
}

/* False: no memory. */
static bool want_queue(struct domain_member *m, const struct pending *p)
{
	struct wire_want *want;

	want = batch_next(m, &m->wants, sizeof(*want));
	if (!want)
		return false;
	*want = (struct wire_want){
		.page = place_page(p->asked),
		.hash = frames_hash(m->dom->frames, p->frame),
		.frame = p->frame};
	return true;
}

/* ---- transitions ------------------------------------------------------- */

/*
 * Its asked page is counted as a claim and hears of it. From the list of
 * gathering ones, or of asked ones, to the latter's end.
 */
static void pending_ask(struct domain *dom, struct pending *p)
{
	struct domain_member *m = place_member(dom, p->asked);

	pending_unlink(dom, p);
	p->gathering = false;
	pending_link(dom, p);
	if (!want_queue(m, p)) {
		m->claims--;
		pending_abandon(dom, p);
		dom->count.no_memory++;
	}
}

/* One page is left that has this content: a candidate again. */
static void pending_revert(struct domain *dom, struct pending *p)
{
	uint64_t hash = frames_hash(dom->frames, p->frame);
	place_t place = p->waiter[0];

	pending_abandon(dom, p);
	candidate_add(place_member(dom, place), hash, place_page(place));
}

/* The page asked for will not come: ask for the next, if two are left. */
void content_pass_on(struct domain *dom, struct pending *p)
{
	struct domain_member *m = place_member(dom, p->asked);

	m->claims--;
	m->excuses++;
	if (p->waiters == 0) {
		pending_abandon(dom, p);
		return;
	}
	if (p->waiters == 1) {
		pending_revert(dom, p);
		return;
	}
	p->asked = p->waiter[0];
	content_waiter_remove(dom, p, 0);
	place_member(dom, p->asked)->claims++;
	pending_ask(dom, p);
}

/* A second page with the content of a candidate: ask for it. */
static void pending_start(struct domain_member *m, const struct wire_offer *o,
			  const struct index_value *candidate)
{
	struct domain *dom = m->dom;
	struct domain_member *first = dom->member[candidate->slot];
	struct index_value v = {.is_frame = true};
	place_t one = place_of(first, candidate->page);
	place_t two = place_of(m, o->page);
	struct pending *p;
	int rc;

	/* The oldest member's order: one order for as many as possible. */
	rc = pending_create(dom, o->hash, min_u64(one, two), &p);
	if (rc == -ENOSPC)
		dom->count.pool_full++;
	else if (rc)
		dom->count.no_memory++;
	if (rc)
		return;
	dom->joined_ns = dom->now_ns;
	v.frame = p->frame;
	rc = waiter_add(dom, p, one);
	if (!rc)
		rc = index_put(dom->index, o->hash, &v);
	p->asked = two;
	if (rc || (!p->gathering && !want_queue(m, p))) {
		/* Without the index entry, so that the candidate is lost. */
		dom->count.no_memory++;
		first->claims--;
		pending_abandon(dom, p);
		return;
	}
	m->claims++;
	first->claims--; /* the candidate; as a waiter it was counted above */
}

/* The oldest's order is that of the frames, so many go into them at once. */
static void oldest_is_asked(struct pending *p)
{
	place_t was;
	uint32_t i;

	for (i = 0; i < p->waiters; i++) {
		was = p->asked;
		p->asked = min_u64(was, p->waiter[i]);
		p->waiter[i] = max_u64(was, p->waiter[i]);
	}
}

/* Who offers it is known now: its frame moves to the oldest member's home. */
static void pending_rehome(struct domain *dom, struct pending *p)
{
	uint64_t hash = frames_hash(dom->frames, p->frame);
	struct index_value v = {.is_frame = true};

	if (homes_frame(&place_member(dom, p->asked)->homes, dom->frames,
			place_page(p->asked), &v.frame) ||
	    v.frame == p->frame || frames_alloc_at(dom->frames, hash, v.frame))
		return;
	if (index_put(dom->index, hash, &v)) {
		frames_free(dom->frames, v.frame);
		return;
	}
	frames_word_set(dom->frames, v.frame,
			frames_word(dom->frames, p->frame));
	frames_free(dom->frames, p->frame);
	p->frame = v.frame;
}

static void gathered_ask(struct domain *dom, struct pending *p)
{
	oldest_is_asked(p);
	pending_rehome(dom, p);
	pending_ask(dom, p);
}

void content_gathered_ask(struct domain *dom, uint64_t ns, size_t most)
{
	struct pending *p;

	for (; (p = dom->gathering.oldest) && most; most--) {
		if (dom->now_ns - p->since_ns < ns)
			break;
		gathered_ask(dom, p);
	}
}

static bool claim_allowed(struct domain_member *m)
{
	if (m->claims < m->ram_pages)
		return true;
	m->dom->count.offers_over++;
	return false;
}

void content_grant(struct domain_member *m, uint64_t page, uint32_t frame)
{
	/* Twice its RAM: a page gone private holds on until it is collected. */
	if (m->holds.total >= 2 * m->ram_pages) {
		m->dom->count.offers_over++;
		return;
	}
	if (frames_ref(m->dom->frames, frame, 1)) {
		m->dom->count.pool_full++;
		return;
	}
	grant_queue(m, page, frame);
}

static void frame_offer(struct domain_member *m, const struct wire_offer *o,
			uint32_t frame)
{
	struct pending *p;

	if (frames_state(m->dom->frames, frame) == FRAME_LIVE) {
		content_grant(m, o->page, frame);
		return;
	}
	p = pending_of(m->dom, frame);
	if (p->asked == place_of(m, o->page) || !claim_allowed(m))
		return;
	if (p->gathering)
		m->dom->joined_ns = m->dom->now_ns;
	if (waiter_add(m->dom, p, place_of(m, o->page)))
		m->dom->count.no_memory++;
}

void content_remember(struct domain_member *m, const struct wire_offer *o)
{
	struct index_value v;

	if (index_get(m->dom->index, o->hash, &v)) {
		if (claim_allowed(m))
			candidate_add(m, o->hash, o->page);
		return;
	}
	if (v.is_frame)
		frame_offer(m, o, v.frame);
	else if ((v.slot != m->slot || v.page != o->page) && claim_allowed(m))
		pending_start(m, o, &v);
}

static void waiter_forget(struct domain_member *m, struct pending *p,
			  place_t place)
{
	uint32_t i;

	for (i = 0; i < p->waiters; i++)
		if (p->waiter[i] == place) {
			content_waiter_remove(m->dom, p, i);
			return;
		}
}

void content_forget(struct domain_member *m, const struct wire_offer *o)
{
	struct domain *dom = m->dom;
	struct index_value v;

	if (index_get(dom->index, o->was, &v))
		return;
	if (!v.is_frame && v.slot == m->slot && v.page == o->page) {
		index_remove(dom->index, o->was);
		m->claims--;
	} else if (v.is_frame &&
		   frames_state(dom->frames, v.frame) == FRAME_PENDING) {
		waiter_forget(m, pending_of(dom, v.frame),
			      place_of(m, o->page));
	}
}

static void page_fulfil(struct domain *dom, place_t place, uint32_t frame)
{
	struct domain_member *m = place_member(dom, place);

	m->claims--;
	grant_queue(m, place_page(place), frame);
}

/* Its frame is filled: out to all. */
static void fulfil(struct domain *dom, struct pending *p)
{
	uint32_t i;

	pending_unhook(dom, p);
	frames_begin(dom->frames, p->frame, p->waiters + 1);
	dom->count.publishes++;
	page_fulfil(dom, p->asked, p->frame);
	for (i = 0; i < p->waiters; i++)
		page_fulfil(dom, p->waiter[i], p->frame);
	pending_dispose(p);
}

static void fulfil_fail(struct domain *dom, struct pending *p)
{
	dom->count.pool_write_failed++;
	place_member(dom, p->asked)->claims--;
	pending_abandon(dom, p);
}

/* One write for all; if that fails, perhaps some can be written. */
void content_fulfil(struct domain *dom, struct pending *const *p, uint32_t n,
		    const char *pages)
{
	bool filled = !frames_fill(dom->frames, p[0]->frame, pages, n);
	uint32_t i;

	for (i = 0; i < n; i++)
		if (filled || !frames_fill(dom->frames, p[i]->frame,
					   pages + i * PAGE_BYTES, 1))
			fulfil(dom, p[i]);
		else
			fulfil_fail(dom, p[i]);
}
