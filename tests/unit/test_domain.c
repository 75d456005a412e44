/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The domain's logic with agents of a few lines: honest ones that hold a model
 * of what they map, and each kind of liar. After every step the domain has to
 * be sound: references, claims, index and frames agree.
 */
#include "sharing/domain.h"
#include "sharing/frames.h"
#include "sharing/hash.h"
#include "tests/support/rng.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGES  512
#define AGENTS 4
#define SECOND UINT64_C(1000000000)

struct agent {
	struct domain_member *member;
	bool deaf; /* its socket takes nothing */
	struct wire_grant grant[20000];
	struct wire_want want[20000];
	size_t grants, wants, messages;
	/* A model of the VM: contents by number, and what is mapped where. */
	uint32_t content[PAGES];
	uint64_t offered[PAGES];
	uint32_t frame[PAGES];
};

static struct rng rng;
static const uint8_t secret[192] = {1, 2, 3};
static struct agent agent[AGENTS];
static struct domain *dom;
static _Alignas(8) unsigned char packet[WIRE_MAX];
static struct wire_head *head = (struct wire_head *)packet;
static void *body = packet + sizeof(struct wire_head);

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

static void start(uint32_t capacity)
{
	struct frames *fr;
	size_t i;

	ck_assert_int_eq(frames_create("t", capacity, &fr), 0);
	ck_assert_int_eq(domain_create(secret, 1, fr, agent_hear, &dom), 0);
	memset(agent, 0, sizeof(agent));
	for (i = 0; i < AGENTS; i++)
		ck_assert_int_eq(
			domain_join(dom, &agent[i], 100000, &agent[i].member),
			0);
}

static struct domain_stats stats(void)
{
	struct domain_stats ds;

	ck_assert(domain_is_sound(dom));
	domain_stats(dom, &ds);
	return ds;
}

static void stop(void)
{
	struct domain_stats ds;
	size_t i;

	for (i = 0; i < AGENTS; i++)
		if (agent[i].member)
			domain_leave(agent[i].member);
	ds = stats();
	ck_assert_uint_eq(ds.frames, 0);
	ck_assert_uint_eq(ds.frames_pending, 0);
	ck_assert_uint_eq(ds.index_entries, 0);
	domain_destroy(dom);
}

static int say(struct agent *a, unsigned type, size_t bytes)
{
	int rc;

	head->version = WIRE_VERSION;
	head->type = (uint16_t)type;
	head->bytes = (uint32_t)(sizeof(*head) + bytes);
	ck_assert_int_eq(wire_check(WIRE_AGENT, packet, head->bytes), 0);
	rc = domain_message(a->member, head, 1 * SECOND);
	domain_flush(dom, SECOND);
	ck_assert(domain_is_sound(dom));
	return rc;
}

static void page_fill(void *page, uint32_t content)
{
	memset(page, 0, PAGE_BYTES);
	memcpy(page, &content, sizeof(content));
	memcpy((char *)page + 2000, &content, sizeof(content));
}

static uint64_t hash_of(uint32_t content)
{
	uint8_t page[PAGE_BYTES];

	page_fill(page, content);
	return sharing_hash(secret, page);
}

static int offer(struct agent *a, uint64_t page, uint64_t hash, uint64_t was)
{
	struct wire_offer *o = body;

	*o = (struct wire_offer){page, hash, was};
	return say(a, WIRE_OFFER, sizeof(*o));
}

static int publish(struct agent *a, const struct wire_want *want,
		   uint32_t content)
{
	struct wire_publish *p = body;

	p->count = 1;
	p->reserved = 0;
	p->entry[0] = *want;
	page_fill(&p->entry[1], content);
	return say(a, WIRE_PUBLISH, sizeof(*p) + sizeof(*want) + PAGE_BYTES);
}

static int decline(struct agent *a, const struct wire_want *want)
{
	memcpy(body, want, sizeof(*want));
	return say(a, WIRE_DECLINE, sizeof(*want));
}

static int give_back(struct agent *a, uint32_t frame)
{
	struct wire_release *r = body;

	r->frame = frame;
	return say(a, WIRE_RELEASE, sizeof(*r));
}

static int have(struct agent *a, uint32_t frame, uint32_t refs)
{
	struct wire_have *h = body;

	*h = (struct wire_have){frame, refs};
	return say(a, WIRE_HAVE, sizeof(*h));
}

/* Two VMs come to share content c, at page 10 of 0 and page 20 of 1. */
static uint32_t share_one(uint32_t c)
{
	ck_assert_int_eq(offer(&agent[0], 10, hash_of(c), 0), 0);
	ck_assert_int_eq(offer(&agent[1], 20, hash_of(c), 0), 0);
	ck_assert_uint_eq(agent[1].wants, 1);
	ck_assert_int_eq(publish(&agent[1], &agent[1].want[0], c), 0);
	ck_assert_uint_eq(agent[0].grants, 1);
	ck_assert_uint_eq(agent[1].grants, 1);
	return agent[0].grant[0].frame;
}

START_TEST(equal_pages_of_two_vms_are_shared)
{
	uint8_t page[PAGE_BYTES], frame[PAGE_BYTES];
	struct domain_stats ds;
	uint32_t f;

	start(100);
	f = share_one(77);
	ck_assert_uint_eq(agent[0].wants, 0); /* the later page is asked for */
	ck_assert_uint_eq(agent[0].grant[0].page, 10);
	ck_assert_uint_eq(agent[1].grant[0].page, 20);
	ck_assert_uint_eq(agent[1].grant[0].frame, f);
	page_fill(page, 77);
	ck_assert_int_eq(frames_read(domain_frames(dom), f, frame), 0);
	ck_assert_mem_eq(page, frame, PAGE_BYTES);
	ds = stats();
	ck_assert_uint_eq(ds.frames, 1);
	ck_assert_uint_eq(ds.sharing_pages, 2);
	ck_assert_uint_eq(ds.saved_pages, 1);
	/* A third finds it there: no content travels. */
	ck_assert_int_eq(offer(&agent[2], 30, hash_of(77), 0), 0);
	ck_assert_uint_eq(agent[2].wants, 0);
	ck_assert_uint_eq(agent[2].grants, 1);
	ck_assert_uint_eq(stats().saved_pages, 2);
	/* The last reference takes frame and index entry along. */
	ck_assert_int_eq(give_back(&agent[0], f), 0);
	ck_assert_int_eq(give_back(&agent[1], f), 0);
	ck_assert_uint_eq(stats().frames, 1);
	ck_assert_int_eq(give_back(&agent[2], f), 0);
	ds = stats();
	ck_assert_uint_eq(ds.frames, 0);
	ck_assert_uint_eq(ds.index_entries, 0);
	stop();
}
END_TEST

START_TEST(equal_pages_of_one_vm_are_shared)
{
	start(100);
	ck_assert_int_eq(offer(&agent[0], 1, hash_of(5), 0), 0);
	ck_assert_int_eq(offer(&agent[0], 1, hash_of(5), 0), 0); /* again */
	ck_assert_uint_eq(agent[0].wants, 0);
	ck_assert_int_eq(offer(&agent[0], 2, hash_of(5), 0), 0);
	ck_assert_int_eq(offer(&agent[0], 3, hash_of(5), 0), 0);
	ck_assert_uint_eq(agent[0].wants, 1);
	ck_assert_int_eq(publish(&agent[0], agent[0].want, 5), 0);
	ck_assert_uint_eq(agent[0].grants, 3);
	ck_assert_uint_eq(agent[0].grant[0].page, 1); /* sorted */
	ck_assert_uint_eq(agent[0].grant[2].page, 3);
	ck_assert_uint_eq(agent[0].messages, 2);
	stop();
}
END_TEST

START_TEST(a_page_that_left_is_forgotten)
{
	start(100);
	ck_assert_int_eq(offer(&agent[0], 1, hash_of(5), 0), 0);
	ck_assert_int_eq(offer(&agent[0], 1, HASH_NONE, hash_of(5)), 0);
	ck_assert_uint_eq(stats().index_entries, 0);
	ck_assert_int_eq(offer(&agent[0], 1, hash_of(5), 0), 0);
	/* Only its owner can take it out. */
	ck_assert_int_eq(offer(&agent[1], 1, HASH_NONE, hash_of(5)), 0);
	ck_assert_int_eq(offer(&agent[0], 2, HASH_NONE, hash_of(5)), 0);
	ck_assert_uint_eq(stats().index_entries, 1);
	ck_assert_int_eq(offer(&agent[0], 1, hash_of(6), hash_of(5)), 0);
	ck_assert_uint_eq(stats().index_entries, 1);
	/* One that waits too. */
	ck_assert_int_eq(offer(&agent[1], 2, hash_of(6), 0), 0);
	ck_assert_int_eq(offer(&agent[0], 1, HASH_NONE, hash_of(6)), 0);
	ck_assert_int_eq(publish(&agent[1], agent[1].want, 6), 0);
	ck_assert_uint_eq(agent[0].grants, 0);
	ck_assert_uint_eq(agent[1].grants, 1);
	stop();
}
END_TEST

START_TEST(a_decline_goes_to_the_next)
{
	struct wire_want *want = agent[1].want;

	start(100);
	ck_assert_int_eq(offer(&agent[0], 10, hash_of(5), 0), 0);
	ck_assert_int_eq(offer(&agent[1], 20, hash_of(5), 0), 0);
	ck_assert_int_eq(offer(&agent[2], 30, hash_of(5), 0), 0);
	ck_assert_int_eq(decline(&agent[1], want), 0);
	ck_assert_uint_eq(agent[0].wants, 1);
	ck_assert_uint_eq(agent[0].want[0].page, 10);
	ck_assert_uint_eq(agent[0].want[0].frame, want->frame);
	/* One page is left: it is a candidate as before, without a frame. */
	ck_assert_int_eq(decline(&agent[0], agent[0].want), 0);
	ck_assert_uint_eq(stats().frames_pending, 0);
	ck_assert_uint_eq(stats().index_entries, 1);
	ck_assert_int_eq(offer(&agent[3], 40, hash_of(5), 0), 0);
	ck_assert_uint_eq(agent[3].wants, 1);
	ck_assert_int_eq(publish(&agent[3], agent[3].want, 5), 0);
	ck_assert_uint_eq(agent[2].grants, 1);
	ck_assert_uint_eq(agent[2].grant[0].page, 30);
	ck_assert_uint_eq(agent[0].grants + agent[1].grants, 0);
	stop();
}
END_TEST

START_TEST(silence_is_a_decline)
{
	start(100);
	ck_assert_int_eq(offer(&agent[0], 10, hash_of(5), 0), 0);
	ck_assert_int_eq(offer(&agent[1], 20, hash_of(5), 0), 0);
	ck_assert_int_eq(offer(&agent[2], 30, hash_of(5), 0), 0);
	domain_tick(dom, 11 * SECOND);
	ck_assert_uint_eq(agent[0].wants, 0);
	domain_tick(dom, 12 * SECOND);
	ck_assert_uint_eq(agent[0].wants, 1);
	ck_assert_uint_eq(stats().want_timeouts, 1);
	ck_assert_int_eq(publish(&agent[0], agent[0].want, 5), 0);
	ck_assert_uint_eq(agent[2].grants, 1);
	/* Late: refused, but no crime. */
	ck_assert_int_eq(publish(&agent[1], agent[1].want, 5), 0);
	ck_assert_uint_eq(stats().publish_unwanted, 1);
	stop();
}
END_TEST

START_TEST(frames_come_in_the_order_of_the_asked_pages)
{
	struct wire_offer *o = body;
	uint32_t i;

	start(2000);
	for (i = 0; i < 500; i++)
		o[i] = (struct wire_offer){i * 7 % 500, hash_of(i * 7 % 500),
					   0};
	ck_assert_int_eq(say(&agent[0], WIRE_OFFER, 500 * sizeof(*o)), 0);
	for (i = 0; i < 500; i++)
		o[i] = (struct wire_offer){i, hash_of(i), 0};
	ck_assert_int_eq(say(&agent[1], WIRE_OFFER, 500 * sizeof(*o)), 0);
	ck_assert_uint_eq(agent[1].wants, 500);
	ck_assert_uint_eq(agent[1].messages, 1);
	for (i = 0; i < 500; i++) {
		ck_assert_uint_eq(agent[1].want[i].page, i);
		ck_assert_uint_eq(agent[1].want[i].frame, i);
	}
	stop();
}
END_TEST

START_TEST(a_full_pool_leaves_candidates)
{
	uint32_t i;

	start(3);
	for (i = 0; i < 10; i++)
		ck_assert_int_eq(offer(&agent[0], i, hash_of(i), 0), 0);
	for (i = 0; i < 10; i++)
		ck_assert_int_eq(offer(&agent[1], i, hash_of(i), 0), 0);
	ck_assert_uint_eq(agent[1].wants, 3);
	ck_assert_uint_eq(stats().pool_full, 7);
	ck_assert_uint_eq(stats().index_entries, 10);
	for (i = 0; i < 3; i++)
		ck_assert_int_eq(publish(&agent[1], &agent[1].want[i], i), 0);
	/* Room again: the next one that comes is served. */
	ck_assert_int_eq(give_back(&agent[0], 0), 0);
	ck_assert_int_eq(give_back(&agent[1], 0), 0);
	ck_assert_int_eq(offer(&agent[2], 9, hash_of(9), 0), 0);
	ck_assert_uint_eq(agent[2].wants, 1);
	stop();
}
END_TEST

/* ---- lies -----------------------------------------------------------------
 */

START_TEST(wrong_content_is_refused_and_harms_its_sender_alone)
{
	uint32_t i;
	int rc = 0;

	start(1000);
	ck_assert_int_eq(offer(&agent[0], 10, hash_of(5), 0), 0);
	ck_assert_int_eq(offer(&agent[2], 20, hash_of(5), 0), 0);
	ck_assert_int_eq(offer(&agent[1], 30, hash_of(5), 0), 0);
	ck_assert_int_eq(publish(&agent[2], agent[2].want, 666), 0);
	ck_assert_uint_eq(stats().publish_mismatch, 1);
	ck_assert_uint_eq(stats().frames, 0);
	ck_assert_uint_eq(agent[0].wants, 1);
	ck_assert_int_eq(publish(&agent[0], agent[0].want, 5), 0);
	ck_assert_uint_eq(agent[1].grants, 1);
	ck_assert_uint_eq(agent[2].grants, 0);
	for (i = 0; i < 40 && !rc; i++) {
		agent[2].wants = 0;
		ck_assert_int_eq(offer(&agent[0], 100 + i, hash_of(100 + i), 0),
				 0);
		ck_assert_int_eq(offer(&agent[2], 100 + i, hash_of(100 + i), 0),
				 0);
		rc = publish(&agent[2], agent[2].want, 666);
	}
	ck_assert_int_eq(rc, -EPROTO);
	ck_assert_uint_eq(i, 16);
	stop();
}
END_TEST

START_TEST(unwanted_content_changes_nothing)
{
	struct wire_want want;
	uint8_t before[PAGE_BYTES], after[PAGE_BYTES];
	uint32_t f, i;
	int rc = 0;

	start(100);
	f = share_one(5);
	ck_assert_int_eq(frames_read(domain_frames(dom), f, before), 0);
	ck_assert_int_eq(offer(&agent[0], 50, hash_of(6), 0), 0);
	ck_assert_int_eq(offer(&agent[1], 60, hash_of(6), 0), 0);
	/* A live frame; another's pending frame; no frame; none at all. */
	want = (struct wire_want){20, hash_of(5), f, 0};
	ck_assert_int_eq(publish(&agent[1], &want, 5), 0);
	ck_assert_int_eq(publish(&agent[2], &agent[1].want[1], 6), 0);
	want.frame = 99;
	ck_assert_int_eq(publish(&agent[2], &want, 5), 0);
	want.frame = UINT32_MAX - 1;
	ck_assert_int_eq(publish(&agent[2], &want, 5), 0);
	ck_assert_uint_eq(stats().publish_unwanted, 4);
	ck_assert_int_eq(frames_read(domain_frames(dom), f, after), 0);
	ck_assert_mem_eq(before, after, PAGE_BYTES);
	ck_assert_uint_eq(stats().frames, 1);
	for (i = 0; i < 1000 && !rc; i++)
		rc = publish(&agent[2], &want, 5);
	ck_assert_int_eq(rc, -EPROTO);
	stop();
}
END_TEST

START_TEST(only_what_is_held_can_be_given_back)
{
	uint32_t f, i;
	int rc = 0;

	start(100);
	f = share_one(5);
	ck_assert_int_eq(give_back(&agent[2], f), 0);
	ck_assert_int_eq(give_back(&agent[2], 12345678), 0);
	ck_assert_uint_eq(stats().release_unheld, 2);
	ck_assert_uint_eq(stats().sharing_pages, 2);
	ck_assert_int_eq(give_back(&agent[0], f), 0);
	ck_assert_int_eq(give_back(&agent[0], f), 0); /* twice */
	ck_assert_uint_eq(stats().sharing_pages, 1);
	ck_assert_uint_eq(stats().frames, 1);
	for (i = 0; i < 1000 && !rc; i++)
		rc = give_back(&agent[2], f);
	ck_assert_int_eq(rc, -EPROTO);
	stop();
}
END_TEST

/* Found by fuzzing: it guesses the frame of a GRANT that is still queued. */
START_TEST(a_grant_given_back_before_it_is_sent_is_harmless)
{
	struct wire_offer *o = body;
	struct wire_release *r = body;
	uint32_t f;

	start(100);
	f = share_one(5);
	head->type = WIRE_OFFER;
	head->bytes = sizeof(*head) + sizeof(*o);
	*o = (struct wire_offer){30, hash_of(5), 0};
	ck_assert_int_eq(domain_message(agent[2].member, head, SECOND), 0);
	head->type = WIRE_RELEASE;
	head->bytes = sizeof(*head) + sizeof(*r);
	r->frame = f;
	ck_assert_int_eq(domain_message(agent[2].member, head, SECOND), 0);
	agent[2].deaf = true;
	domain_flush(dom, SECOND);
	ck_assert_uint_eq(stats().sharing_pages, 2);
	stop();
}
END_TEST

START_TEST(offers_are_bounded_by_ram)
{
	uint32_t i;

	start(100);
	domain_ram_set(agent[0].member, 50);
	for (i = 0; i < 500; i++)
		ck_assert_int_eq(offer(&agent[0], 1, hash_of(i), 0), 0);
	ck_assert_uint_eq(stats().index_entries, 50);
	ck_assert_uint_eq(stats().offers_over, 450);
	stop();
}
END_TEST

START_TEST(have_of_what_was_never_granted_is_a_lie)
{
	start(100);
	ck_assert_int_eq(have(&agent[0], 5, 1), -EPROTO);
	ck_assert_int_eq(have(&agent[0], 4000000000, 1), -EPROTO);
	ck_assert_int_eq(have(&agent[0], share_one(1), UINT32_MAX), -EPROTO);
	ck_assert_uint_eq(stats().sharing_pages, 2);
	stop();
}
END_TEST

/* ---- slow and dead --------------------------------------------------------
 */

START_TEST(who_does_not_read_loses_grants_not_references)
{
	uint32_t f;

	start(100);
	agent[0].deaf = true;
	ck_assert_int_eq(offer(&agent[0], 10, hash_of(5), 0), 0);
	ck_assert_int_eq(offer(&agent[1], 20, hash_of(5), 0), 0);
	ck_assert_int_eq(publish(&agent[1], agent[1].want, 5), 0);
	ck_assert_uint_eq(agent[1].grants, 1);
	ck_assert_uint_eq(stats().grants_dropped, 1);
	ck_assert_uint_eq(stats().sharing_pages, 1);
	f = agent[1].grant[0].frame;
	/* It alone: granted and dropped until the frame is gone. */
	ck_assert_int_eq(give_back(&agent[1], f), 0);
	ck_assert_uint_eq(stats().frames, 0);
	/* A WANT that cannot be sent goes to the next. */
	ck_assert_int_eq(offer(&agent[1], 20, hash_of(6), 0), 0);
	ck_assert_int_eq(offer(&agent[0], 10, hash_of(6), 0), 0);
	ck_assert_uint_eq(stats().wants_dropped, 1);
	ck_assert_uint_eq(stats().frames_pending, 0);
	ck_assert_int_eq(offer(&agent[2], 30, hash_of(6), 0), 0);
	ck_assert_uint_eq(agent[2].wants, 1);
	stop();
}
END_TEST

START_TEST(all_deaf_ends)
{
	struct wire_offer *o = body;
	uint32_t i, k;

	start(20000);
	for (k = 0; k < AGENTS; k++)
		agent[k].deaf = true;
	for (k = 0; k < 12; k++) {
		for (i = 0; i < 2700; i++)
			o[i] = (struct wire_offer){i + 2700 * k, i + 1, 0};
		ck_assert_int_eq(
			say(&agent[k % 4], WIRE_OFFER, 2700 * sizeof(*o)), 0);
	}
	ck_assert_uint_eq(stats().frames_pending, 0);
	stop();
}
END_TEST

START_TEST(death_returns_everything)
{
	uint32_t f;

	start(100);
	f = share_one(5);
	ck_assert_int_eq(offer(&agent[0], 50, hash_of(6), 0), 0);
	ck_assert_int_eq(offer(&agent[1], 60, hash_of(6), 0), 0);
	ck_assert_int_eq(offer(&agent[2], 70, hash_of(6), 0), 0);
	ck_assert_int_eq(offer(&agent[1], 61, hash_of(7), 0), 0);
	domain_leave(agent[1].member); /* asked for 6, candidate for 7 */
	agent[1].member = NULL;
	domain_flush(dom, SECOND);
	ck_assert_uint_eq(stats().sharing_pages, 1);
	ck_assert_uint_eq(agent[0].wants, 1);
	ck_assert_int_eq(offer(&agent[2], 71, hash_of(7), 0), 0);
	ck_assert_uint_eq(agent[2].wants, 0);
	ck_assert_int_eq(publish(&agent[0], agent[0].want, 6), 0);
	ck_assert_uint_eq(agent[2].grants, 1);
	domain_leave(agent[0].member);
	agent[0].member = NULL;
	ck_assert_uint_eq(stats().sharing_pages, 1);
	ck_assert_int_eq(frames_state(domain_frames(dom), f), FRAME_FREE);
	stop();
}
END_TEST

START_TEST(a_lost_vm_keeps_its_frames)
{
	struct domain_member *again;
	uint32_t f;

	start(100);
	f = share_one(5);
	ck_assert_int_eq(offer(&agent[0], 50, hash_of(6), 0), 0);
	domain_detach(agent[0].member);
	domain_detach(agent[0].member); /* twice is once */
	ck_assert_int_eq(give_back(&agent[0], f), -EPROTO);
	ck_assert_int_eq(give_back(&agent[1], f), 0);
	ck_assert_uint_eq(stats().sharing_pages, 1);
	ck_assert_uint_eq(stats().index_entries, 1);
	/* It comes back, names its frame, and the old references go. */
	ck_assert_int_eq(domain_join(dom, &agent[0], 1000, &again), 0);
	domain_leave(agent[0].member);
	agent[0].member = again;
	ck_assert_uint_eq(stats().frames, 0);
	stop();
}
END_TEST

START_TEST(a_pool_taken_over_is_shared_again)
{
	static struct agent before[AGENTS];
	struct frames *fr;
	struct domain *old;
	uint32_t f, g, lost;
	dev_t dev;
	ino_t ino;
	int fd;

	start(100);
	f = share_one(5);
	ck_assert_int_eq(offer(&agent[0], 11, hash_of(6), 0), 0);
	ck_assert_int_eq(offer(&agent[1], 21, hash_of(6), 0), 0);
	ck_assert_int_eq(publish(&agent[1], &agent[1].want[1], 6), 0);
	g = agent[0].grant[1].frame;
	ck_assert_int_eq(offer(&agent[0], 12, hash_of(7), 0), 0);
	ck_assert_int_eq(offer(&agent[1], 22, hash_of(7), 0), 0);
	ck_assert_int_eq(publish(&agent[1], &agent[1].want[2], 7), 0);
	lost = agent[0].grant[2].frame;
	frames_identity(domain_frames(dom), &dev, &ino);
	ck_assert_int_eq(frames_fd_open(domain_frames(dom), &fd), 0);
	old = dom; /* killed: nothing of it may be used any more */
	ck_assert_int_eq(frames_adopt(fd, dev, ino, &fr), 0);
	ck_assert_int_eq(domain_create(secret, 2, fr, agent_hear, &dom), 0);
	memcpy(before, agent, sizeof(agent));
	memset(agent, 0, sizeof(agent));
	ck_assert_int_eq(domain_join(dom, &agent[0], 1000, &agent[0].member),
			 0);
	ck_assert_int_eq(domain_join(dom, &agent[2], 1000, &agent[2].member),
			 0);
	ck_assert_uint_eq(stats().frames_unknown, 3);
	/* Offered before its holder is heard: asked for anew, or a candidate
	 * that gets its grant when the holder speaks. */
	ck_assert_int_eq(offer(&agent[2], 31, hash_of(6), 0), 0);
	ck_assert_int_eq(have(&agent[0], f, 2), 0);
	ck_assert_int_eq(have(&agent[0], g, 1), 0);
	ck_assert_uint_eq(agent[2].grants, 1);
	ck_assert_uint_eq(agent[2].grant[0].frame, g);
	ck_assert_int_eq(offer(&agent[2], 30, hash_of(5), 0), 0);
	ck_assert_uint_eq(agent[2].grants, 2);
	ck_assert_uint_eq(agent[2].grant[1].frame, f);
	domain_recovered(dom);
	ck_assert_int_eq(frames_state(domain_frames(dom), lost), FRAME_FREE);
	ck_assert_uint_eq(stats().sharing_pages, 5);
	ck_assert_int_eq(give_back(&agent[0], f), 0);
	ck_assert_int_eq(give_back(&agent[0], f), 0);
	ck_assert_int_eq(give_back(&agent[0], f), 0);
	ck_assert_uint_eq(stats().release_unheld, 1);
	stop();
	dom = old;
	memcpy(agent, before, sizeof(agent));
	stop();
	close(fd);
}
END_TEST

/* ---- everything at random -------------------------------------------------
 */

/* What an honest agent does with a grant: verify, map or give back. */
static void grants_use(struct agent *a)
{
	uint8_t page[PAGE_BYTES], frame[PAGE_BYTES];
	const struct wire_grant *g;

	while (a->grants) {
		g = &a->grant[--a->grants];
		page_fill(page, a->content[g->page]);
		ck_assert_int_eq(
			frames_read(domain_frames(dom), g->frame, frame), 0);
		if (memcmp(page, frame, PAGE_BYTES) != 0 ||
		    a->frame[g->page] != WIRE_FRAME_NONE)
			ck_assert_int_eq(give_back(a, g->frame), 0);
		else {
			a->frame[g->page] = g->frame;
			a->offered[g->page] = 0;
		}
	}
}

static void wants_answer(struct agent *a)
{
	struct wire_want w;

	while (a->wants) {
		w = a->want[--a->wants];
		if (hash_of(a->content[w.page]) == w.hash && rng_below(&rng, 8))
			ck_assert_int_eq(publish(a, &w, a->content[w.page]), 0);
		else
			ck_assert_int_eq(decline(a, &w), 0);
	}
}

static void page_write(struct agent *a, uint64_t page)
{
	uint32_t f = a->frame[page];

	a->content[page] = (uint32_t)rng_below(&rng, 400);
	a->frame[page] = WIRE_FRAME_NONE;
	if (f != WIRE_FRAME_NONE)
		ck_assert_int_eq(give_back(a, f), 0);
}

static void page_offer(struct agent *a, uint64_t page)
{
	uint64_t hash = hash_of(a->content[page]);

	if (a->frame[page] != WIRE_FRAME_NONE)
		return;
	ck_assert_int_eq(offer(a, page, hash, a->offered[page]), 0);
	a->offered[page] = hash;
}

static void agent_reset(struct agent *a)
{
	size_t i;

	a->grants = a->wants = 0;
	for (i = 0; i < PAGES; i++) {
		a->content[i] = (uint32_t)rng_below(&rng, 400);
		a->offered[i] = 0;
		a->frame[i] = WIRE_FRAME_NONE;
	}
	ck_assert_int_eq(domain_join(dom, a, PAGES, &a->member), 0);
}

/* Whatever happens, a mapped page reads as what the guest wrote there. */
static void contents_check(void)
{
	uint8_t page[PAGE_BYTES], frame[PAGE_BYTES];
	size_t i, p;

	for (i = 0; i < AGENTS; i++)
		for (p = 0; p < PAGES; p++) {
			if (agent[i].frame[p] == WIRE_FRAME_NONE)
				continue;
			page_fill(page, agent[i].content[p]);
			ck_assert_int_eq(frames_read(domain_frames(dom),
						     agent[i].frame[p], frame),
					 0);
			ck_assert_mem_eq(page, frame, PAGE_BYTES);
		}
}

/* 1 and 2 are first, in disorder; the frames still lie as 0 has its pages. */
START_TEST(gathered_contents_lie_as_the_oldest_has_them)
{
	static const uint32_t order[] = {3, 0, 2, 1};
	size_t i;

	start(1000);
	domain_gather_set(dom, SECOND);
	for (i = 0; i < 4; i++) {
		offer(&agent[1], 50 + order[i], hash_of(order[i] + 1), 0);
		offer(&agent[2], 70 + i, hash_of(order[i] + 1), 0);
	}
	for (i = 0; i < 4; i++)
		offer(&agent[0], 128 + i, hash_of((uint32_t)i + 1), 0);
	ck_assert_uint_eq(agent[2].wants, 0);
	domain_tick(dom, 3 * SECOND);
	ck_assert_uint_eq(agent[0].wants, 4);
	for (i = 0; i < 4; i++)
		ck_assert_int_eq(
			publish(&agent[0], &agent[0].want[i], (uint32_t)i + 1),
			0);
	ck_assert_uint_eq(agent[0].grants, 4);
	for (i = 0; i < 4; i++)
		ck_assert_uint_eq(agent[0].grant[i].frame -
					  (uint32_t)agent[0].grant[i].page,
				  agent[0].grant[0].frame -
					  (uint32_t)agent[0].grant[0].page);
	ck_assert_uint_eq(stats().saved_pages, 8);
	stop();
}
END_TEST

/* In one message; bad: the one of them whose bytes are not of its hash. */
static int publish_three(struct agent *a, uint32_t bad)
{
	struct wire_publish *p = body;
	uint8_t *page = (uint8_t *)&p->entry[3];
	uint32_t i;

	p->count = 3;
	p->reserved = 0;
	for (i = 0; i < 3; i++) {
		p->entry[i] = a->want[i];
		page_fill(page + i * PAGE_BYTES, i == bad ? 99 : i + 1);
	}
	return say(a, WIRE_PUBLISH,
		   sizeof(*p) + 3 * (sizeof(p->entry[0]) + PAGE_BYTES));
}

/* Three in a row are one write; a wrong one spoils itself alone. */
START_TEST(a_row_of_contents_is_taken_one_by_one)
{
	uint8_t page[PAGE_BYTES], frame[PAGE_BYTES];
	uint32_t i;

	start(1000);
	domain_gather_set(dom, SECOND);
	for (i = 0; i < 3; i++) {
		offer(&agent[0], 64 + i, hash_of(i + 1), 0);
		offer(&agent[1], 20 + 2 * i, hash_of(i + 1), 0);
	}
	domain_flush(dom, 2 * SECOND);
	ck_assert_uint_eq(agent[0].wants, 3);
	ck_assert_uint_eq(agent[0].want[2].frame, agent[0].want[0].frame + 2);
	ck_assert_int_eq(publish_three(&agent[0], (uint32_t)_i), 0);
	ck_assert_uint_eq(stats().publishes, _i < 3 ? 2 : 3);
	ck_assert_uint_eq(stats().publish_mismatch, _i < 3);
	ck_assert_uint_eq(agent[1].grants, _i < 3 ? 2 : 3);
	for (i = 0; i < agent[1].grants; i++) {
		page_fill(page,
			  1 + (uint32_t)(agent[1].grant[i].page - 20) / 2);
		ck_assert_int_eq(frames_read(domain_frames(dom),
					     agent[1].grant[i].frame, frame),
				 0);
		ck_assert_mem_eq(page, frame, PAGE_BYTES);
	}
	stop();
}
END_TEST

START_TEST(gathering_ends_when_nobody_joins)
{
	static const uint64_t quiet = 60 * SECOND / 1000;

	start(1000);
	domain_gather_set(dom, 2 * SECOND);
	offer(&agent[0], 50, hash_of(1), 0);
	ck_assert(!domain_is_gathering(dom));
	offer(&agent[1], 60, hash_of(1), 0);
	ck_assert(domain_is_gathering(dom));
	domain_flush(dom, SECOND + quiet - 1);
	ck_assert(domain_is_gathering(dom));
	ck_assert_uint_eq(agent[1].wants, 0);
	domain_flush(dom, SECOND + quiet);
	ck_assert(!domain_is_gathering(dom));
	ck_assert_uint_eq(agent[0].wants, 1);
	stop();
}
END_TEST

START_TEST(no_page_ever_reads_wrong)
{
	struct agent *a;
	uint64_t page, now = SECOND;
	size_t step, i;

	rng_start(&rng, "no_page_ever_reads_wrong");
	start(40); /* fewer frames than contents */
	for (i = 0; i < AGENTS; i++) {
		domain_leave(agent[i].member);
		agent_reset(&agent[i]);
	}
	for (step = 0; step < 60000; step++) {
		a = &agent[rng_below(&rng, AGENTS)];
		page = rng_below(&rng, PAGES);
		switch (rng_below(&rng, 12)) {
		case 0:
		case 6:
		case 7:
			page_write(a, page);
			break;
		case 1:
			grants_use(a);
			break;
		case 2:
			wants_answer(a);
			break;
		case 3:
			a->deaf = rng_below(&rng, 4) == 0;
			break;
		case 4:
			if (rng_below(&rng, 200) == 0) {
				domain_leave(a->member);
				agent_reset(a);
			}
			break;
		case 5:
			now += SECOND;
			domain_tick(dom, now);
			break;
		default:
			page_offer(a, page);
		}
		if (step % 500 == 0)
			contents_check();
		if (step == 30000)
			domain_gather_set(dom, 2 * SECOND);
	}
	contents_check();
	ck_assert_uint_gt(stats().publishes, 40);
	stop();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("domain");
	TCase *tc = tcase_create("domain");
	SRunner *sr;
	int failed;

	tcase_set_timeout(tc, 240);
	tcase_add_test(tc, equal_pages_of_two_vms_are_shared);
	tcase_add_test(tc, equal_pages_of_one_vm_are_shared);
	tcase_add_test(tc, a_page_that_left_is_forgotten);
	tcase_add_test(tc, a_decline_goes_to_the_next);
	tcase_add_test(tc, silence_is_a_decline);
	tcase_add_test(tc, frames_come_in_the_order_of_the_asked_pages);
	tcase_add_test(tc, a_full_pool_leaves_candidates);
	tcase_add_test(tc, wrong_content_is_refused_and_harms_its_sender_alone);
	tcase_add_test(tc, unwanted_content_changes_nothing);
	tcase_add_test(tc, only_what_is_held_can_be_given_back);
	tcase_add_test(tc, a_grant_given_back_before_it_is_sent_is_harmless);
	tcase_add_test(tc, offers_are_bounded_by_ram);
	tcase_add_test(tc, have_of_what_was_never_granted_is_a_lie);
	tcase_add_test(tc, who_does_not_read_loses_grants_not_references);
	tcase_add_test(tc, all_deaf_ends);
	tcase_add_test(tc, death_returns_everything);
	tcase_add_test(tc, a_lost_vm_keeps_its_frames);
	tcase_add_test(tc, a_pool_taken_over_is_shared_again);
	tcase_add_test(tc, gathered_contents_lie_as_the_oldest_has_them);
	tcase_add_test(tc, gathering_ends_when_nobody_joins);
	tcase_add_loop_test(tc, a_row_of_contents_is_taken_one_by_one, 0, 4);
	tcase_add_test(tc, no_page_ever_reads_wrong);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? 1 : 0;
}
