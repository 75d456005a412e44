/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See agents.h. */
#include "tests/support/agents.h"
#include "sharing/hash.h"

#include <check.h>
#include <errno.h>
#include <string.h>

static const uint8_t secret[192] = {1, 2, 3};
static _Alignas(8) unsigned char packet[WIRE_MAX];
static struct wire_head *head = (struct wire_head *)packet;
void *const agent_body = packet + sizeof(struct wire_head);
struct agent agent[AGENTS];
struct domain *dom;

static int agent_hear(void *cookie, const struct wire_head *msg)
{
	struct agent *a = cookie;
	size_t n;

	if (a->deaf)
		return -EAGAIN;
	ck_assert_int_eq(wire_check(WIRE_HVD, msg, msg->bytes), 0);
	a->messages++;
	if (msg->type == WIRE_GRANT) {
		n = wire_count(msg, sizeof(struct wire_grant));
		memcpy(a->grant + a->grants, msg + 1,
		       n * sizeof(struct wire_grant));
		a->grants += n;
	} else {
		ck_assert_int_eq(msg->type, WIRE_WANT);
		n = wire_count(msg, sizeof(struct wire_want));
		memcpy(a->want + a->wants, msg + 1,
		       n * sizeof(struct wire_want));
		a->wants += n;
	}
	ck_assert_uint_le(a->grants, 20000);
	return 0;
}

void agents_domain_make(struct frames *fr, uint64_t index_seed)
{
	ck_assert_int_eq(
		domain_create(secret, index_seed, fr, agent_hear, &dom), 0);
}

void agents_start(uint32_t capacity)
{
	struct frames *fr;
	size_t i;

	ck_assert_int_eq(frames_create("t", capacity, &fr), 0);
	agents_domain_make(fr, 1);
	memset(agent, 0, sizeof(agent));
	for (i = 0; i < AGENTS; i++)
		ck_assert_int_eq(
			domain_join(dom, &agent[i], 100000, &agent[i].member),
			0);
}

struct domain_stats agents_stats(void)
{
	struct domain_stats ds;

	ck_assert(domain_is_sound(dom));
	domain_stats(dom, &ds);
	return ds;
}

void agents_stop(void)
{
	struct domain_stats ds;
	size_t i;

	for (i = 0; i < AGENTS; i++)
		if (agent[i].member)
			domain_leave(agent[i].member);
	ds = agents_stats();
	ck_assert_uint_eq(ds.frames, 0);
	ck_assert_uint_eq(ds.frames_pending, 0);
	ck_assert_uint_eq(ds.index_entries, 0);
	domain_destroy(dom);
}

int agent_tell(struct agent *a, unsigned type, size_t bytes)
{
	head->version = WIRE_VERSION;
	head->type = (uint16_t)type;
	head->bytes = (uint32_t)(sizeof(*head) + bytes);
	ck_assert_int_eq(wire_check(WIRE_AGENT, packet, head->bytes), 0);
	return domain_message(a->member, head, SECOND);
}

int agent_say(struct agent *a, unsigned type, size_t bytes)
{
	int rc = agent_tell(a, type, bytes);

	domain_flush(dom, SECOND);
	ck_assert(domain_is_sound(dom));
	return rc;
}

void content_fill(void *page, uint32_t content)
{
	memset(page, 0, PAGE_BYTES);
	memcpy(page, &content, sizeof(content));
	memcpy((char *)page + 2000, &content, sizeof(content));
}

uint64_t content_hash(uint32_t content)
{
	uint8_t page[PAGE_BYTES];

	content_fill(page, content);
	return sharing_hash(secret, page);
}

int agent_offer(struct agent *a, uint64_t page, uint64_t hash, uint64_t was)
{
	struct wire_offer *o = agent_body;

	*o = (struct wire_offer){page, hash, was};
	return agent_say(a, WIRE_OFFER, sizeof(*o));
}

int agent_publish(struct agent *a, const struct wire_want *want,
		  uint32_t content)
{
	struct wire_publish *p = agent_body;

	p->count = 1;
	p->reserved = 0;
	p->entry[0] = *want;
	content_fill(&p->entry[1], content);
	return agent_say(a, WIRE_PUBLISH,
			 sizeof(*p) + sizeof(*want) + PAGE_BYTES);
}

int agent_decline(struct agent *a, const struct wire_want *want)
{
	memcpy(agent_body, want, sizeof(*want));
	return agent_say(a, WIRE_DECLINE, sizeof(*want));
}

int agent_give_back(struct agent *a, uint32_t frame)
{
	struct wire_release *r = agent_body;

	r->frame = frame;
	return agent_say(a, WIRE_RELEASE, sizeof(*r));
}

int agent_have(struct agent *a, uint32_t frame, uint32_t refs)
{
	struct wire_have *h = agent_body;

	*h = (struct wire_have){frame, refs};
	return agent_say(a, WIRE_HAVE, sizeof(*h));
}

uint32_t agents_share(uint32_t c)
{
	ck_assert_int_eq(agent_offer(&agent[0], 10, content_hash(c), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[1], 20, content_hash(c), 0), 0);
	ck_assert_uint_eq(agent[1].wants, 1);
	ck_assert_int_eq(agent_publish(&agent[1], &agent[1].want[0], c), 0);
	ck_assert_uint_eq(agent[0].grants, 1);
	ck_assert_uint_eq(agent[1].grants, 1);
	return agent[0].grant[0].frame;
}
