/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What happens to a content, seen by its hash:
 *
 *   nothing --offer--> candidate --offer of another page--> pending frame
 *      ^                  |  ^                                |      |
 *      |     page left or |  | one page left that    PUBLISH  |      | more
 *      +--- offered anew -+  +-- waits ---- DECLINE ----------+      | pages:
 *      |                                                      v      | waiters
 *      +------------- last RELEASE -------------------- live frame <-+
 *
 * The page that was offered last is the one asked for (WANT): its VM scans in
 * the order of its pages, so the frames, given out in sequence, come to lie in
 * that order. The earlier page waits and gets its GRANT when the content came.
 *
 * An agent may lie about anything. Its content is hashed here, on hvd's copy,
 * before it goes into a frame; what it gives back is looked up in what it
 * holds; what it may have in the index is bounded by its RAM (claims). So a
 * lie costs the liar pages that could have been shared, or its connection.
 *
 *   refs of a frame = sum over members of their holds of it
 *   claims of a member = its candidates + pages waiting + pages asked for
 *                     <= its RAM
 *
 * A grant is counted in both before it is sent, and taken back from both where
 * it cannot be sent: a reference may be too many for a moment, never too few.
 *
 * Grants and wants gather per member until domain_flush, which sorts grants by
 * page: the agent maps runs. content.c has the transitions; here are members
 * and messages.
 */
#include "sharing/content.h"
#include "sharing/frames.h"
#include "sharing/hash.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WANT_PATIENCE_NS (UINT64_C(10) * 1000000000)
#define GATHER_QUIET_NS	 60000000 /* nothing joined: all have offered */
/* At once, in the order of pages; an agent may need a second for them. */
#define ASKED_MOST   65536
#define OFFERS_AHEAD 12
#define LIES_MAX     16	 /* contents that are not of their hash */
#define ODD_MAX	     256 /* messages about things that are not so */

/* Hashes are all over the index: the misses of several are met at once. */
static void offer_prefetch(const struct domain *dom, const struct wire_offer *o)
{
	if (o->was != HASH_NONE)
		index_prefetch(dom->index, o->was);
	if (o->hash != HASH_NONE)
		index_prefetch(dom->index, o->hash);
}

static int offer_message(struct domain_member *m, const struct wire_head *msg)
{
	const struct wire_offer *o = (const void *)(msg + 1);
	size_t i, n = wire_count(msg, sizeof(*o));

	for (i = 0; i < n; i++) {
		if (i + OFFERS_AHEAD < n)
			offer_prefetch(m->dom, &o[i + OFFERS_AHEAD]);
		if (o[i].was != HASH_NONE && o[i].was != o[i].hash)
			content_forget(m, &o[i]);
		if (o[i].hash != HASH_NONE)
			content_remember(m, &o[i]);
	}
	m->dom->count.offers += n;
	return 0;
}

/* An honest agent is late now and then; it never gets far beyond that. */
static int odd_note(struct domain_member *m)
{
	m->odd++;
	return m->odd > ODD_MAX && m->odd - ODD_MAX > m->excuses ? -EPROTO : 0;
}

/* What was asked for, and has the hash it was asked for by; or NULL. */
static struct pending *publish_accept(const struct domain_member *m,
				      const struct wire_want *want,
				      const void *page)
{
	struct pending *p = content_asked_find(m, want);

	if (!p || sharing_hash(m->dom->secret, page) != want->hash)
		return NULL;
	return p;
}

static int publish_refuse(struct domain_member *m, const struct wire_want *want)
{
	struct domain *dom = m->dom;
	struct pending *p = content_asked_find(m, want);

	if (!p) {
		dom->count.publish_unwanted++;
		return odd_note(m);
	}
	dom->count.publish_mismatch++;
	content_pass_on(dom, p);
	return ++m->lies > LIES_MAX ? -EPROTO : 0;
}

/* As many from want[0] on as are right and go into frames in a row. */
static uint32_t publish_run(struct domain_member *m,
			    const struct wire_want *want, uint32_t count,
			    const char *pages)
{
	struct pending *run[WIRE_PUBLISH_MAX];
	uint32_t n = 0;

	while (n < count && want[n].frame == want[0].frame + n) {
		run[n] = publish_accept(m, &want[n], pages + n * PAGE_BYTES);
		if (!run[n])
			break;
		n++;
	}
	if (n)
		content_fulfil(m->dom, run, n, pages);
	return n;
}

static int publish_message(struct domain_member *m, const struct wire_head *msg)
{
	const struct wire_publish *publish = (const void *)(msg + 1);
	const char *page = (const char *)&publish->entry[publish->count];
	uint32_t i, n;
	int rc = 0;

	for (i = 0; i < publish->count && !rc; i += n) {
		n = publish_run(m, &publish->entry[i], publish->count - i,
				page + i * PAGE_BYTES);
		if (!n) {
			rc = publish_refuse(m, &publish->entry[i]);
			n = 1;
		}
	}
	return rc;
}

static int decline_message(struct domain_member *m, const struct wire_head *msg)
{
	const struct wire_want *want = (const void *)(msg + 1);
	size_t i, n = wire_count(msg, sizeof(*want));
	struct pending *p;
	int rc = 0;

	for (i = 0; i < n && !rc; i++) {
		p = content_asked_find(m, &want[i]);
		if (p)
			content_pass_on(m->dom, p);
		else
			rc = odd_note(m);
	}
	m->dom->count.declines += i;
	return rc;
}

static int release_message(struct domain_member *m, const struct wire_head *msg)
{
	const struct wire_release *release = (const void *)(msg + 1);
	size_t i, n = wire_count(msg, sizeof(*release));
	int rc = 0;

	for (i = 0; i < n && !rc; i++) {
		if (!holds_drop(&m->holds, release[i].frame)) {
			content_unref(m->dom, release[i].frame, 1);
			m->dom->count.releases++;
		} else {
			m->dom->count.release_unheld++;
			rc = odd_note(m);
		}
	}
	return rc;
}

/* A frame of a pool taken over becomes known by its content. */
static int frame_identify(struct domain *dom, uint32_t frame, uint32_t refs)
{
	struct index_value v, mine = {.is_frame = true, .frame = frame};
	uint8_t page[PAGE_BYTES];
	uint64_t hash;
	int rc;

	rc = frames_read(dom->frames, frame, page);
	if (rc)
		return rc;
	hash = sharing_hash(dom->secret, page);
	frames_claim(dom->frames, frame, hash, refs);
	rc = index_get(dom->index, hash, &v);
	if (!rc && v.is_frame)
		return 0;
	if (index_put(dom->index, hash, &mine))
		dom->count.no_memory++; /* held, but not found any more */
	else if (!rc) {
		dom->member[v.slot]->claims--;
		content_grant(dom->member[v.slot], v.page, frame);
	}
	return 0;
}

static int have_one(struct domain_member *m, const struct wire_have *have)
{
	struct domain *dom = m->dom;
	int rc;

	switch (frames_state(dom->frames, have->frame)) {
	case FRAME_LIVE:
		rc = frames_ref(dom->frames, have->frame, have->refs);
		break;
	case FRAME_UNKNOWN:
		rc = frame_identify(dom, have->frame, have->refs);
		break;
	default: /* nothing was ever granted there */
		return -EPROTO;
	}
	if (rc)
		return -EPROTO;
	rc = holds_add(&m->holds, have->frame, have->refs);
	if (rc)
		content_unref(dom, have->frame, have->refs);
	return rc ? -EPROTO : 0;
}

static int have_message(struct domain_member *m, const struct wire_head *msg)
{
	const struct wire_have *have = (const void *)(msg + 1);
	size_t i, n = wire_count(msg, sizeof(*have));
	int rc = 0;

	for (i = 0; i < n && !rc; i++)
		rc = have_one(m, &have[i]);
	return rc;
}

int domain_message(struct domain_member *m, const struct wire_head *msg,
		   uint64_t now_ns)
{
	if (m->detached)
		return -EPROTO;
	m->dom->now_ns = now_ns;
	switch (msg->type) {
	case WIRE_OFFER:
		return offer_message(m, msg);
	case WIRE_PUBLISH:
		return publish_message(m, msg);
	case WIRE_DECLINE:
		return decline_message(m, msg);
	case WIRE_RELEASE:
		return release_message(m, msg);
	case WIRE_HAVE:
		return have_message(m, msg);
	default:
		return -EPROTO;
	}
}

/* Ends: a round makes members dirty only by passing a WANT on, and each of
 * these takes a page off a list of those waiting. */
void domain_flush(struct domain *dom, uint64_t now_ns)
{
	struct domain_member *m;
	uint64_t quiet;

	dom->now_ns = now_ns;
	index_sweep(dom->index);
	quiet = now_ns - dom->joined_ns;
	if (dom->asked.count < ASKED_MOST / 2)
		content_gathered_ask(
			dom, quiet < GATHER_QUIET_NS ? dom->gather_ns : 0,
			ASKED_MOST - dom->asked.count);
	while (dom->dirty) {
		m = dom->dirty;
		dom->dirty = m->dirty_next;
		m->dirty = false;
		content_grants_send(m);
		content_wants_send(m);
	}
}

void domain_gather_set(struct domain *dom, uint64_t ns)
{
	dom->gather_ns = ns;
}

bool domain_is_dirty(const struct domain *dom)
{
	return dom->dirty != NULL;
}

size_t domain_pending(const struct domain *dom)
{
	return dom->pending_used;
}

bool domain_is_unfinished(const struct domain *dom)
{
	return dom->gathering.oldest || !index_is_swept(dom->index);
}

void domain_tick(struct domain *dom, uint64_t now_ns)
{
	struct pending_list *asked = &dom->asked;

	dom->now_ns = now_ns;
	while (asked->oldest && now_ns > asked->oldest->since_ns &&
	       now_ns - asked->oldest->since_ns > WANT_PATIENCE_NS) {
		dom->count.want_timeouts++;
		content_pass_on(dom, asked->oldest);
	}
	domain_flush(dom, now_ns);
	frames_trim(dom->frames);
}

void domain_recovered(struct domain *dom)
{
	frames_unknown_free(dom->frames);
	frames_trim(dom->frames);
}

/* ---- members ------------------------------------------------------------ */

static int slot_find(struct domain *dom, uint32_t *out)
{
	uint32_t i, slots = dom->slots * 2 + 4;
	struct domain_member **more;

	for (i = 0; i < dom->slots; i++)
		if (!dom->member[i] && index_slot_is_free(dom->index, i))
			goto found;
	if (i == INDEX_SLOT_MAX)
		return -ENOSPC;
	slots = (uint32_t)min_u64(slots, INDEX_SLOT_MAX);
	more = realloc(dom->member, slots * sizeof(*more));
	if (!more)
		return -ENOMEM;
	memset(more + i, 0, (slots - i) * sizeof(*more));
	dom->member = more;
	dom->slots = slots;
found:
	*out = i;
	return 0;
}

int domain_join(struct domain *dom, void *cookie, uint64_t ram_pages,
		struct domain_member **out)
{
	struct domain_member *m = calloc(1, sizeof(*m));
	int rc;

	if (!m)
		return -ENOMEM;
	rc = slot_find(dom, &m->slot);
	if (rc) {
		free(m);
		return rc;
	}
	m->dom = dom;
	m->cookie = cookie;
	m->ram_pages = ram_pages;
	holds_init(&m->holds);
	homes_init(&m->homes);
	dom->member[m->slot] = m;
	dom->count.members++;
	*out = m;
	return 0;
}

static void member_unwait(struct domain_member *m, struct pending *p)
{
	uint32_t i;

	for (i = p->waiters; i-- > 0;)
		if (place_slot(p->waiter[i]) == m->slot)
			content_waiter_remove(m->dom, p, i);
}

static void member_undirty(struct domain_member *m)
{
	struct domain_member **at;

	for (at = &m->dom->dirty; *at; at = &(*at)->dirty_next)
		if (*at == m) {
			*at = m->dirty_next;
			break;
		}
	m->dirty = false;
}

static void grants_cancel(struct domain_member *m)
{
	const struct wire_grant *grant = m->grants.entry;
	size_t i;

	for (i = 0; i < m->grants.count; i++)
		content_grant_take_back(m, grant[i].frame);
	content_batch_clear(&m->grants);
	content_batch_clear(&m->wants);
}

/* Passed on ones go to the end of those asked, and never to m again. */
static void member_unask(struct domain_member *m, struct pending *oldest)
{
	struct pending *p, *next;

	for (p = oldest; p; p = next) {
		next = p->newer;
		member_unwait(m, p);
		if (place_slot(p->asked) == m->slot)
			content_pass_on(m->dom, p);
	}
}

void domain_detach(struct domain_member *m)
{
	struct domain *dom = m->dom;

	if (m->detached)
		return;
	member_unask(m, dom->gathering.oldest);
	member_unask(m, dom->asked.oldest);
	/* What it waits for and is asked for is no more: candidates are left.
	 */
	index_leave(dom->index, m->slot, m->claims);
	m->claims = 0;
	member_undirty(m);
	grants_cancel(m);
	m->detached = true;
}

static void hold_drop_all(void *arg, uint32_t frame, uint32_t refs)
{
	content_unref(arg, frame, refs);
}

void domain_leave(struct domain_member *m)
{
	struct domain *dom = m->dom;

	domain_detach(m);
	holds_walk(&m->holds, hold_drop_all, dom);
	holds_fini(&m->holds);
	homes_fini(&m->homes, dom->frames);
	dom->member[m->slot] = NULL;
	dom->count.members--;
	free(m);
}

void domain_ram_set(struct domain_member *m, uint64_t ram_pages)
{
	m->ram_pages = ram_pages;
}

uint64_t domain_member_refs(const struct domain_member *m)
{
	return m->holds.total;
}

/* ---- the whole ---------------------------------------------------------- */

int domain_create(const uint8_t secret[192], uint64_t index_seed,
		  struct frames *frames, domain_send_fn *send,
		  struct domain **out)
{
	struct domain *dom = calloc(1, sizeof(*dom));

	if (!dom)
		goto destroy_frames;
	if (index_create(index_seed, &dom->index))
		goto free_dom;
	memcpy(dom->secret, secret, sizeof(dom->secret));
	dom->frames = frames;
	dom->send = send;
	*out = dom;
	return 0;

free_dom:
	free(dom);
destroy_frames:
	frames_destroy(frames);
	return -ENOMEM;
}

void domain_destroy(struct domain *dom)
{
	if (!dom)
		return;
	assert(!dom->count.members && !dom->pending_used);
	index_destroy(dom->index);
	frames_destroy(dom->frames);
	free(dom->pending);
	free(dom->member);
	free(dom);
}

const uint8_t *domain_secret(const struct domain *dom)
{
	return dom->secret;
}

const struct frames *domain_frames(const struct domain *dom)
{
	return dom->frames;
}

static uint64_t members_bytes(const struct domain *dom)
{
	uint64_t bytes = dom->slots * sizeof(dom->member[0]);
	uint32_t i;

	for (i = 0; i < dom->slots; i++)
		if (dom->member[i])
			bytes += sizeof(*dom->member[i]) +
				 holds_bytes(&dom->member[i]->holds) +
				 homes_bytes(&dom->member[i]->homes);
	return bytes;
}

void domain_stats(const struct domain *dom, struct domain_stats *out)
{
	struct frames_stats fs;

	frames_stats(dom->frames, &fs);
	*out = dom->count;
	out->frames = fs.live;
	out->frames_pending = fs.pending;
	out->frames_unknown = fs.unknown;
	out->sharing_pages = fs.refs;
	out->saved_pages = fs.refs - fs.live;
	out->pool_bytes = fs.file_bytes;
	out->frames_punched = fs.punched;
	out->index_entries = index_count(dom->index);
	out->index_bytes = index_bytes(dom->index);
	out->metadata_bytes = out->index_bytes + fs.bytes + members_bytes(dom) +
			      dom->pending_room * sizeof(dom->pending[0]) +
			      dom->pending_used * sizeof(struct pending);
}

/* How many are in the list; adds the pages that wait for them. */
static uint64_t list_count(const struct pending_list *list, uint64_t *waiting)
{
	const struct pending *p;
	uint64_t n = 0;

	for (p = list->oldest; p; p = p->newer, n++)
		*waiting += p->waiters + 1;
	assert(n == list->count);
	return n;
}

bool domain_is_sound(const struct domain *dom)
{
	uint64_t refs = 0, claims = 0, waiting = 0, n, indexed;
	struct frames_stats fs;
	uint32_t i;

	for (i = 0; i < dom->slots; i++)
		if (dom->member[i]) {
			refs += dom->member[i]->holds.total;
			claims += dom->member[i]->claims;
		}
	n = list_count(&dom->asked, &waiting) +
	    list_count(&dom->gathering, &waiting);
	frames_stats(dom->frames, &fs);
	/* Each content is a candidate, a pending or a live frame; a live frame
	 * may be unknown to the index, if memory was short. */
	indexed = index_count(dom->index);
	return index_is_sound(dom->index) && refs == fs.refs &&
	       n == fs.pending && n == dom->pending_used &&
	       indexed - n + waiting >= claims &&
	       indexed - n + waiting <= claims + fs.live;
}
