/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A trust domain: the VMs that may share pages with each other, what they have
 * offered, and the frames they hold. The logic alone, without sockets: checked
 * messages come in, messages go out through a function. Not thread safe.
 */
#ifndef SHARING_DOMAIN_H
#define SHARING_DOMAIN_H

#include "sharing/wire.h"

struct domain;
struct domain_member; /* one VM in it */
struct frames;

/* G(name, unit, help): gauge.  C(name, unit, help): counter. */
#define DOMAIN_STATS(G, C)                                                     \
	G(members, count, "VMs")                                               \
	G(frames, frames, "frames with content and holders")                   \
	G(frames_pending, frames, "wanted, not received yet")                  \
	G(frames_unknown, frames, "taken over, holders not heard of yet")      \
	G(sharing_pages, pages, "references to frames")                        \
	G(saved_pages, pages, "references less frames")                        \
	G(pool_bytes, bytes, "memory of the frame pool")                       \
	G(index_entries, count, "contents known")                              \
	G(index_bytes, bytes, "memory of the content index")                   \
	G(metadata_bytes, bytes, "all tables, the index included")             \
	C(offers, pages, "hashes offered")                                     \
	C(wants, pages, "contents asked for")                                  \
	C(publishes, pages, "contents received and accepted")                  \
	C(declines, pages, "contents an agent would not send")                 \
	C(grants, pages, "references given")                                   \
	C(releases, pages, "references given back")                            \
	C(frames_punched, frames, "frames given back to the host")             \
	C(pool_full, pages, "not shared: no frame left")                       \
	C(pool_write_failed, pages, "not shared: the frame took no content")   \
	C(no_memory, pages, "not shared: no memory for a table")               \
	C(offers_over, pages, "ignored: more pages than the VM has")           \
	C(want_timeouts, pages, "asked for, no answer in time")                \
	C(wants_dropped, pages, "not asked for: agent does not read")          \
	C(grants_dropped, pages, "not given: agent does not read")             \
	C(publish_unwanted, pages, "refused: content not asked for")           \
	C(publish_mismatch, pages, "refused: content is not of its hash")      \
	C(release_unheld, pages, "refused: given back, but not held")

struct domain_stats {
#define FIELD(name, unit, help) uint64_t name;
	DOMAIN_STATS(FIELD, FIELD)
#undef FIELD
};

/*
 * Sends a message to a member. 0, or -EAGAIN: its queue is full (the domain
 * takes back what the message would have given). May not call the domain.
 */
typedef int domain_send_fn(void *cookie, const struct wire_head *msg);

/* frames: becomes the domain's own, also on failure. index_seed: see index.h */
MUST_CHECK int domain_create(const uint8_t secret[192], uint64_t index_seed,
			     struct frames *frames, domain_send_fn *send,
			     struct domain **out);
/* All members must have left. */
void domain_destroy(struct domain *dom);

const uint8_t *domain_secret(const struct domain *dom);
const struct frames *domain_frames(const struct domain *dom);

/* cookie: for domain_send_fn. -ENOSPC: no member number left. */
MUST_CHECK int domain_join(struct domain *dom, void *cookie, uint64_t ram_pages,
			   struct domain_member **out);
/* Its process is gone: all its references are given back. */
void domain_leave(struct domain_member *member);
/*
 * Its connection is gone, its process not: it is offered nothing and asked for
 * nothing any more, but keeps its references. Only domain_leave may follow.
 */
void domain_detach(struct domain_member *member);

/* The VM's RAM grew: so many pages it may offer and hold. */
void domain_ram_set(struct domain_member *member, uint64_t ram_pages);

/*
 * A message that passed wire_check, 8-byte aligned: OFFER, PUBLISH, DECLINE,
 * RELEASE or HAVE. -EPROTO: the agent lies, end the connection.
 */
MUST_CHECK int domain_message(struct domain_member *member,
			      const struct wire_head *msg, uint64_t now_ns);
/*
 * So long others may offer a content after the second page that has it, before
 * anybody is asked for it: then its frame lies where the oldest of them has it,
 * and members that scan at once do not mix the order of frames. It ends early
 * when no page has joined a content for 60 ms: then all scans under way have
 * passed. 0: no wait (the default).
 */
void domain_gather_set(struct domain *dom, uint64_t ns);

/* Sends what has gathered. Call when no more messages wait to be read. */
void domain_flush(struct domain *dom, uint64_t now_ns);
bool domain_is_dirty(const struct domain *dom);
/* Contents somebody is to be asked for, or was. */
size_t domain_pending(const struct domain *dom);
/*
 * Contents wait for others to offer them, too, or members left what is not
 * cleared away yet: flush now and then.
 */
bool domain_is_unfinished(const struct domain *dom);
/* Once a second: passes on what was not answered, returns memory. */
void domain_tick(struct domain *dom, uint64_t now_ns);

/* All that held frames of a pool taken over have been heard: frees the rest. */
void domain_recovered(struct domain *dom);

void domain_stats(const struct domain *dom, struct domain_stats *out);
/* References this member holds. */
uint64_t domain_member_refs(const struct domain_member *member);
/* Do index, frames and references agree? */
bool domain_is_sound(const struct domain *dom);

#endif
