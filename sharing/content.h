/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside a domain, for domain.c (members and messages) and content.c (what
 * happens to a content). The rules are told in domain.c.
 */
#ifndef SHARING_CONTENT_H
#define SHARING_CONTENT_H

#include "sharing/domain.h"
#include "sharing/holds.h"
#include "sharing/homes.h"
#include "sharing/index.h"

#define PAGE_BITS 40

/* A page of a member in one word: slot above PAGE_BITS, page below. */
typedef uint64_t place_t;

struct pending {
	place_t asked;
	place_t *waiter;
	uint32_t waiters, room;
	uint32_t frame;
	bool gathering; /* nobody is asked yet: others may offer it too; this
			   decides which list it is in */
	uint64_t since_ns;
	struct pending *older, *newer;
};

/* By since_ns. */
struct pending_list {
	struct pending *oldest, *newest;
	size_t count;
};

/* Entries gathered for one member until the flush. */
struct batch {
	void *entry;
	size_t count, room;
};

struct domain_member {
	struct domain *dom;
	void *cookie;
	uint32_t slot;
	bool detached, dirty;
	struct domain_member *dirty_next;
	uint64_t ram_pages, claims;
	uint32_t lies, odd, excuses;
	struct holds holds;
	struct homes homes;
	struct batch grants, wants;
};

struct domain {
	uint8_t secret[192];
	struct index *index;
	struct frames *frames;
	domain_send_fn *send;
	uint64_t now_ns;	       /* of the call under way */
	uint64_t gather_ns;	       /* see domain_gather_set */
	uint64_t joined_ns;	       /* when the last page joined one */
	struct domain_member **member; /* by slot; NULL: free */
	uint32_t slots;
	struct domain_member *dirty;
	struct pending_list asked, gathering;
	struct pending **pending; /* by the word of its frame */
	uint32_t pending_room, pending_used;
	struct domain_stats count; /* counters alone */
};

static inline place_t place_of(const struct domain_member *m, uint64_t page)
{
	return (uint64_t)m->slot << PAGE_BITS | page;
}

static inline uint32_t place_slot(place_t place)
{
	return (uint32_t)(place >> PAGE_BITS);
}

static inline uint64_t place_page(place_t place)
{
	return place & (((uint64_t)1 << PAGE_BITS) - 1);
}

static inline struct domain_member *place_member(const struct domain *dom,
						 place_t place)
{
	return dom->member[place_slot(place)];
}

/*
 * An offer's two halves: the page no longer has the content `was`; it has the
 * content `hash`.
 */
void content_forget(struct domain_member *m, const struct wire_offer *o);
void content_remember(struct domain_member *m, const struct wire_offer *o);

/* The content this member was asked for in exactly these words, or NULL. */
struct pending *content_asked_find(const struct domain_member *m,
				   const struct wire_want *want);
/* The page asked for will not come: asks for the next, if two are left. */
void content_pass_on(struct domain *dom, struct pending *p);
/* Asks for contents that have gathered for `ns` or longer, up to `most`. */
void content_gathered_ask(struct domain *dom, uint64_t ns, size_t most);
/*
 * The pages of n contents came, are right, and their frames follow each other.
 * They end as pending ones.
 */
void content_fulfil(struct domain *dom, struct pending *const *p, uint32_t n,
		    const char *pages);
void content_waiter_remove(struct domain *dom, struct pending *p, uint32_t i);

/* Counts a reference to a live frame and queues its GRANT. */
void content_grant(struct domain_member *m, uint64_t page, uint32_t frame);
void content_grant_take_back(struct domain_member *m, uint32_t frame);
void content_unref(struct domain *dom, uint32_t frame, uint32_t refs);

/* Sends what is queued. What does not go out is taken back or passed on. */
void content_grants_send(struct domain_member *m);
void content_wants_send(struct domain_member *m);
void content_batch_clear(struct batch *b);

#endif
