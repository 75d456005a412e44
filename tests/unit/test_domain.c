/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The domain's logic with honest agents, which hold a model of what they map:
 * who comes to share what, where frames lie, and that no page ever reads wrong.
 */
#include "sharing/domain.h"
#include "sharing/frames.h"
#include "tests/support/agents.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct rng rng;

START_TEST(equal_pages_of_two_vms_are_shared)
{
	uint8_t page[PAGE_BYTES], frame[PAGE_BYTES];
	struct domain_stats ds;
	uint32_t f;

	agents_start(100);
	f = agents_share(77);
	ck_assert_uint_eq(agent[0].wants, 0); /* the later page is asked for */
	ck_assert_uint_eq(agent[0].grant[0].page, 10);
	ck_assert_uint_eq(agent[1].grant[0].page, 20);
	ck_assert_uint_eq(agent[1].grant[0].frame, f);
	content_fill(page, 77);
	ck_assert_int_eq(frames_read(domain_frames(dom), f, frame), 0);
	ck_assert_mem_eq(page, frame, PAGE_BYTES);
	ds = agents_stats();
	ck_assert_uint_eq(ds.frames, 1);
	ck_assert_uint_eq(ds.sharing_pages, 2);
	ck_assert_uint_eq(ds.saved_pages, 1);
	/* A third finds it there: no content travels. */
	ck_assert_int_eq(agent_offer(&agent[2], 30, content_hash(77), 0), 0);
	ck_assert_uint_eq(agent[2].wants, 0);
	ck_assert_uint_eq(agent[2].grants, 1);
	ck_assert_uint_eq(agents_stats().saved_pages, 2);
	/* The last reference takes frame and index entry along. */
	ck_assert_int_eq(agent_give_back(&agent[0], f), 0);
	ck_assert_int_eq(agent_give_back(&agent[1], f), 0);
	ck_assert_uint_eq(agents_stats().frames, 1);
	ck_assert_int_eq(agent_give_back(&agent[2], f), 0);
	ds = agents_stats();
	ck_assert_uint_eq(ds.frames, 0);
	ck_assert_uint_eq(ds.index_entries, 0);
	agents_stop();
}
END_TEST

START_TEST(equal_pages_of_one_vm_are_shared)
{
	agents_start(100);
	ck_assert_int_eq(agent_offer(&agent[0], 1, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[0], 1, content_hash(5), 0),
			 0); /* again */
	ck_assert_uint_eq(agent[0].wants, 0);
	ck_assert_int_eq(agent_offer(&agent[0], 2, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[0], 3, content_hash(5), 0), 0);
	ck_assert_uint_eq(agent[0].wants, 1);
	ck_assert_int_eq(agent_publish(&agent[0], agent[0].want, 5), 0);
	ck_assert_uint_eq(agent[0].grants, 3);
	ck_assert_uint_eq(agent[0].grant[0].page, 1); /* sorted */
	ck_assert_uint_eq(agent[0].grant[2].page, 3);
	ck_assert_uint_eq(agent[0].messages, 2);
	agents_stop();
}
END_TEST

START_TEST(a_page_that_left_is_forgotten)
{
	agents_start(100);
	ck_assert_int_eq(agent_offer(&agent[0], 1, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[0], 1, HASH_NONE, content_hash(5)),
			 0);
	ck_assert_uint_eq(agents_stats().index_entries, 0);
	ck_assert_int_eq(agent_offer(&agent[0], 1, content_hash(5), 0), 0);
	/* Only its owner can take it out. */
	ck_assert_int_eq(agent_offer(&agent[1], 1, HASH_NONE, content_hash(5)),
			 0);
	ck_assert_int_eq(agent_offer(&agent[0], 2, HASH_NONE, content_hash(5)),
			 0);
	ck_assert_uint_eq(agents_stats().index_entries, 1);
	ck_assert_int_eq(
		agent_offer(&agent[0], 1, content_hash(6), content_hash(5)), 0);
	ck_assert_uint_eq(agents_stats().index_entries, 1);
	/* One that waits too. */
	ck_assert_int_eq(agent_offer(&agent[1], 2, content_hash(6), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[0], 1, HASH_NONE, content_hash(6)),
			 0);
	ck_assert_int_eq(agent_publish(&agent[1], agent[1].want, 6), 0);
	ck_assert_uint_eq(agent[0].grants, 0);
	ck_assert_uint_eq(agent[1].grants, 1);
	agents_stop();
}
END_TEST

START_TEST(a_decline_goes_to_the_next)
{
	struct wire_want *want = agent[1].want;

	agents_start(100);
	ck_assert_int_eq(agent_offer(&agent[0], 10, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[1], 20, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[2], 30, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_decline(&agent[1], want), 0);
	ck_assert_uint_eq(agent[0].wants, 1);
	ck_assert_uint_eq(agent[0].want[0].page, 10);
	ck_assert_uint_eq(agent[0].want[0].frame, want->frame);
	/* One page is left: it is a candidate as before, without a frame. */
	ck_assert_int_eq(agent_decline(&agent[0], agent[0].want), 0);
	ck_assert_uint_eq(agents_stats().frames_pending, 0);
	ck_assert_uint_eq(agents_stats().index_entries, 1);
	ck_assert_int_eq(agent_offer(&agent[3], 40, content_hash(5), 0), 0);
	ck_assert_uint_eq(agent[3].wants, 1);
	ck_assert_int_eq(agent_publish(&agent[3], agent[3].want, 5), 0);
	ck_assert_uint_eq(agent[2].grants, 1);
	ck_assert_uint_eq(agent[2].grant[0].page, 30);
	ck_assert_uint_eq(agent[0].grants + agent[1].grants, 0);
	agents_stop();
}
END_TEST

START_TEST(silence_is_a_decline)
{
	agents_start(100);
	ck_assert_int_eq(agent_offer(&agent[0], 10, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[1], 20, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[2], 30, content_hash(5), 0), 0);
	domain_tick(dom, 11 * SECOND);
	ck_assert_uint_eq(agent[0].wants, 0);
	domain_tick(dom, 12 * SECOND);
	ck_assert_uint_eq(agent[0].wants, 1);
	ck_assert_uint_eq(agents_stats().want_timeouts, 1);
	ck_assert_int_eq(agent_publish(&agent[0], agent[0].want, 5), 0);
	ck_assert_uint_eq(agent[2].grants, 1);
	/* Late: refused, but no crime. */
	ck_assert_int_eq(agent_publish(&agent[1], agent[1].want, 5), 0);
	ck_assert_uint_eq(agents_stats().publish_unwanted, 1);
	agents_stop();
}
END_TEST

START_TEST(frames_come_in_the_order_of_the_asked_pages)
{
	struct wire_offer *o = agent_body;
	uint32_t i;

	agents_start(2000);
	for (i = 0; i < 500; i++)
		o[i] = (struct wire_offer){i * 7 % 500,
					   content_hash(i * 7 % 500), 0};
	ck_assert_int_eq(agent_say(&agent[0], WIRE_OFFER, 500 * sizeof(*o)), 0);
	for (i = 0; i < 500; i++)
		o[i] = (struct wire_offer){i, content_hash(i), 0};
	ck_assert_int_eq(agent_say(&agent[1], WIRE_OFFER, 500 * sizeof(*o)), 0);
	ck_assert_uint_eq(agent[1].wants, 500);
	ck_assert_uint_eq(agent[1].messages, 1);
	for (i = 0; i < 500; i++) {
		ck_assert_uint_eq(agent[1].want[i].page, i);
		ck_assert_uint_eq(agent[1].want[i].frame, i);
	}
	agents_stop();
}
END_TEST

START_TEST(a_full_pool_leaves_candidates)
{
	uint32_t i;

	agents_start(3);
	for (i = 0; i < 10; i++)
		ck_assert_int_eq(agent_offer(&agent[0], i, content_hash(i), 0),
				 0);
	for (i = 0; i < 10; i++)
		ck_assert_int_eq(agent_offer(&agent[1], i, content_hash(i), 0),
				 0);
	ck_assert_uint_eq(agent[1].wants, 3);
	ck_assert_uint_eq(agents_stats().pool_full, 7);
	ck_assert_uint_eq(agents_stats().index_entries, 10);
	for (i = 0; i < 3; i++)
		ck_assert_int_eq(agent_publish(&agent[1], &agent[1].want[i], i),
				 0);
	/* Room again: the next one that comes is served. */
	ck_assert_int_eq(agent_give_back(&agent[0], 0), 0);
	ck_assert_int_eq(agent_give_back(&agent[1], 0), 0);
	ck_assert_int_eq(agent_offer(&agent[2], 9, content_hash(9), 0), 0);
	ck_assert_uint_eq(agent[2].wants, 1);
	agents_stop();
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
		content_fill(page, a->content[g->page]);
		ck_assert_int_eq(
			frames_read(domain_frames(dom), g->frame, frame), 0);
		if (memcmp(page, frame, PAGE_BYTES) != 0 ||
		    a->frame[g->page] != WIRE_FRAME_NONE)
			ck_assert_int_eq(agent_give_back(a, g->frame), 0);
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
		if (content_hash(a->content[w.page]) == w.hash &&
		    rng_below(&rng, 8))
			ck_assert_int_eq(
				agent_publish(a, &w, a->content[w.page]), 0);
		else
			ck_assert_int_eq(agent_decline(a, &w), 0);
	}
}

static void page_write(struct agent *a, uint64_t page)
{
	uint32_t f = a->frame[page];

	a->content[page] = (uint32_t)rng_below(&rng, 400);
	a->frame[page] = WIRE_FRAME_NONE;
	if (f != WIRE_FRAME_NONE)
		ck_assert_int_eq(agent_give_back(a, f), 0);
}

static void page_offer(struct agent *a, uint64_t page)
{
	uint64_t hash = content_hash(a->content[page]);

	if (a->frame[page] != WIRE_FRAME_NONE)
		return;
	ck_assert_int_eq(agent_offer(a, page, hash, a->offered[page]), 0);
	a->offered[page] = hash;
}

static void agent_reset(struct agent *a)
{
	size_t i;

	a->grants = a->wants = 0;
	for (i = 0; i < AGENT_PAGES; i++) {
		a->content[i] = (uint32_t)rng_below(&rng, 400);
		a->offered[i] = 0;
		a->frame[i] = WIRE_FRAME_NONE;
	}
	ck_assert_int_eq(domain_join(dom, a, AGENT_PAGES, &a->member), 0);
}

/* Whatever happens, a mapped page reads as what the guest wrote there. */
static void contents_check(void)
{
	uint8_t page[PAGE_BYTES], frame[PAGE_BYTES];
	size_t i, p;

	for (i = 0; i < AGENTS; i++)
		for (p = 0; p < AGENT_PAGES; p++) {
			if (agent[i].frame[p] == WIRE_FRAME_NONE)
				continue;
			content_fill(page, agent[i].content[p]);
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

	agents_start(1000);
	domain_gather_set(dom, SECOND);
	for (i = 0; i < 4; i++) {
		agent_offer(&agent[1], 50 + order[i],
			    content_hash(order[i] + 1), 0);
		agent_offer(&agent[2], 70 + i, content_hash(order[i] + 1), 0);
	}
	for (i = 0; i < 4; i++)
		agent_offer(&agent[0], 128 + i, content_hash((uint32_t)i + 1),
			    0);
	ck_assert_uint_eq(agent[2].wants, 0);
	domain_tick(dom, 3 * SECOND);
	ck_assert_uint_eq(agent[0].wants, 4);
	for (i = 0; i < 4; i++)
		ck_assert_int_eq(agent_publish(&agent[0], &agent[0].want[i],
					       (uint32_t)i + 1),
				 0);
	ck_assert_uint_eq(agent[0].grants, 4);
	for (i = 0; i < 4; i++)
		ck_assert_uint_eq(agent[0].grant[i].frame -
					  (uint32_t)agent[0].grant[i].page,
				  agent[0].grant[0].frame -
					  (uint32_t)agent[0].grant[0].page);
	ck_assert_uint_eq(agents_stats().saved_pages, 8);
	agents_stop();
}
END_TEST

/* In one message; bad: the one of them whose bytes are not of its hash. */
static int publish_three(struct agent *a, uint32_t bad)
{
	struct wire_publish *p = agent_body;
	uint8_t *page = (uint8_t *)&p->entry[3];
	uint32_t i;

	p->count = 3;
	p->reserved = 0;
	for (i = 0; i < 3; i++) {
		p->entry[i] = a->want[i];
		content_fill(page + i * PAGE_BYTES, i == bad ? 99 : i + 1);
	}
	return agent_say(a, WIRE_PUBLISH,
			 sizeof(*p) + 3 * (sizeof(p->entry[0]) + PAGE_BYTES));
}

/* Three in a row are one write; a wrong one spoils itself alone. */
START_TEST(a_row_of_contents_is_taken_one_by_one)
{
	uint8_t page[PAGE_BYTES], frame[PAGE_BYTES];
	uint32_t i;

	agents_start(1000);
	domain_gather_set(dom, SECOND);
	for (i = 0; i < 3; i++) {
		agent_offer(&agent[0], 64 + i, content_hash(i + 1), 0);
		agent_offer(&agent[1], 20 + 2 * i, content_hash(i + 1), 0);
	}
	domain_flush(dom, 2 * SECOND);
	ck_assert_uint_eq(agent[0].wants, 3);
	ck_assert_uint_eq(agent[0].want[2].frame, agent[0].want[0].frame + 2);
	ck_assert_int_eq(publish_three(&agent[0], (uint32_t)_i), 0);
	ck_assert_uint_eq(agents_stats().publishes, _i < 3 ? 2 : 3);
	ck_assert_uint_eq(agents_stats().publish_mismatch, _i < 3);
	ck_assert_uint_eq(agent[1].grants, _i < 3 ? 2 : 3);
	for (i = 0; i < agent[1].grants; i++) {
		content_fill(page,
			     1 + (uint32_t)(agent[1].grant[i].page - 20) / 2);
		ck_assert_int_eq(frames_read(domain_frames(dom),
					     agent[1].grant[i].frame, frame),
				 0);
		ck_assert_mem_eq(page, frame, PAGE_BYTES);
	}
	agents_stop();
}
END_TEST

START_TEST(gathering_ends_when_nobody_joins)
{
	static const uint64_t quiet = 60 * SECOND / 1000;

	agents_start(1000);
	domain_gather_set(dom, 2 * SECOND);
	agent_offer(&agent[0], 50, content_hash(1), 0);
	ck_assert(!domain_is_unfinished(dom));
	agent_offer(&agent[1], 60, content_hash(1), 0);
	ck_assert(domain_is_unfinished(dom));
	domain_flush(dom, SECOND + quiet - 1);
	ck_assert(domain_is_unfinished(dom));
	ck_assert_uint_eq(agent[1].wants, 0);
	domain_flush(dom, SECOND + quiet);
	ck_assert(!domain_is_unfinished(dom));
	ck_assert_uint_eq(agent[0].wants, 1);
	agents_stop();
}
END_TEST

/* What the one that left had offered is cleared away later. */
START_TEST(a_newcomer_is_not_the_one_that_left)
{
	agents_start(100);
	for (uint32_t i = 1; i <= 10; i++)
		ck_assert_int_eq(agent_offer(&agent[0], i, content_hash(i), 0),
				 0);
	domain_leave(agent[0].member);
	ck_assert(domain_is_unfinished(dom));
	ck_assert_uint_eq(agents_stats().index_entries, 0);
	ck_assert_int_eq(domain_join(dom, &agent[0], 100000, &agent[0].member),
			 0);
	*(struct wire_offer *)agent_body =
		(struct wire_offer){1, content_hash(1), 0};
	ck_assert_int_eq(
		agent_tell(&agent[0], WIRE_OFFER, sizeof(struct wire_offer)),
		0);
	ck_assert_uint_eq(agents_stats().index_entries, 1);
	ck_assert_int_eq(agent_offer(&agent[1], 20, content_hash(1), 0), 0);
	ck_assert_uint_eq(agent[1].wants, 1);
	ck_assert_int_eq(agent_offer(&agent[1], 21, content_hash(2), 0), 0);
	ck_assert_uint_eq(agent[1].wants, 1);
	ck_assert(!domain_is_unfinished(dom));
	agents_stop();
}
END_TEST

START_TEST(no_page_ever_reads_wrong)
{
	struct agent *a;
	uint64_t page, now = SECOND;
	size_t step, i;

	rng_start(&rng, "no_page_ever_reads_wrong");
	agents_start(40); /* fewer frames than contents */
	for (i = 0; i < AGENTS; i++) {
		domain_leave(agent[i].member);
		agent_reset(&agent[i]);
	}
	for (step = 0; step < 60000; step++) {
		a = &agent[rng_below(&rng, AGENTS)];
		page = rng_below(&rng, AGENT_PAGES);
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
	ck_assert_uint_gt(agents_stats().publishes, 40);
	agents_stop();
}
END_TEST
int main(void)
{
	Suite *s = suite_create("domain");
	TCase *tc = tcase_create("domain");

	tcase_set_timeout(tc, 240);
	tcase_add_test(tc, equal_pages_of_two_vms_are_shared);
	tcase_add_test(tc, equal_pages_of_one_vm_are_shared);
	tcase_add_test(tc, a_page_that_left_is_forgotten);
	tcase_add_test(tc, a_decline_goes_to_the_next);
	tcase_add_test(tc, silence_is_a_decline);
	tcase_add_test(tc, frames_come_in_the_order_of_the_asked_pages);
	tcase_add_test(tc, a_full_pool_leaves_candidates);
	tcase_add_test(tc, gathered_contents_lie_as_the_oldest_has_them);
	tcase_add_test(tc, gathering_ends_when_nobody_joins);
	tcase_add_test(tc, a_newcomer_is_not_the_one_that_left);
	tcase_add_loop_test(tc, a_row_of_contents_is_taken_one_by_one, 0, 4);
	tcase_add_test(tc, no_page_ever_reads_wrong);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
