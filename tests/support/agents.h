/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A domain with agents of a few lines, which hear what it says and say what the
 * test wants. After everything that is said the domain is checked: references,
 * claims, index and frames agree.
 */
#ifndef TESTS_SUPPORT_AGENTS_H
#define TESTS_SUPPORT_AGENTS_H

#include "sharing/domain.h"
#include "sharing/frames.h"

#define AGENT_PAGES 512
#define AGENTS	    4
#define SECOND	    UINT64_C(1000000000)

struct agent {
	struct domain_member *member;
	bool deaf; /* its socket takes nothing */
	struct wire_grant grant[20000];
	struct wire_want want[20000];
	size_t grants, wants, messages;
	/* A model of the VM: contents by number, and what is mapped where. */
	uint32_t content[AGENT_PAGES];
	uint64_t offered[AGENT_PAGES];
	uint32_t frame[AGENT_PAGES];
};

extern struct domain *dom;
extern struct agent agent[AGENTS];
/* Room for the body of the message that agent_say() says. */
extern void *const agent_body;

/* A domain of so many frames at most; all agents join it. */
void agents_start(uint32_t capacity);
/* All leave, which gives everything back. */
void agents_stop(void);
struct domain_stats agents_stats(void);
/* By itself: dom becomes another one, on these frames, without members. */
void agents_domain_make(struct frames *fr, uint64_t index_seed);

/* A page with this content, and its hash. */
void content_fill(void *page, uint32_t content);
uint64_t content_hash(uint32_t content);

/* One message with these bytes of agent_body; what the domain says to it. */
int agent_say(struct agent *a, unsigned type, size_t bytes);
/* The same, but what the domain has to say to it stays unsent. */
int agent_tell(struct agent *a, unsigned type, size_t bytes);
int agent_offer(struct agent *a, uint64_t page, uint64_t hash, uint64_t was);
int agent_publish(struct agent *a, const struct wire_want *want,
		  uint32_t content);
int agent_decline(struct agent *a, const struct wire_want *want);
int agent_give_back(struct agent *a, uint32_t frame);
int agent_have(struct agent *a, uint32_t frame, uint32_t refs);

/* Two VMs come to share content c, at page 10 of 0 and 20 of 1; its frame. */
uint32_t agents_share(uint32_t c);

#endif
