/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The domain's logic with agents that lie, that do not read what they are told,
 * and that die.
 */
#include "sharing/domain.h"
#include "sharing/frames.h"
#include "tests/support/agents.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- lies -----------------------------------------------------------------
 */

START_TEST(wrong_content_is_refused_and_harms_its_sender_alone)
{
	uint32_t i;
	int rc = 0;

	agents_start(1000);
	ck_assert_int_eq(agent_offer(&agent[0], 10, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[2], 20, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[1], 30, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_publish(&agent[2], agent[2].want, 666), 0);
	ck_assert_uint_eq(agents_stats().publish_mismatch, 1);
	ck_assert_uint_eq(agents_stats().frames, 0);
	ck_assert_uint_eq(agent[0].wants, 1);
	ck_assert_int_eq(agent_publish(&agent[0], agent[0].want, 5), 0);
	ck_assert_uint_eq(agent[1].grants, 1);
	ck_assert_uint_eq(agent[2].grants, 0);
	for (i = 0; i < 40 && !rc; i++) {
		agent[2].wants = 0;
		ck_assert_int_eq(agent_offer(&agent[0], 100 + i,
					     content_hash(100 + i), 0),
				 0);
		ck_assert_int_eq(agent_offer(&agent[2], 100 + i,
					     content_hash(100 + i), 0),
				 0);
		rc = agent_publish(&agent[2], agent[2].want, 666);
	}
	ck_assert_int_eq(rc, -EPROTO);
	ck_assert_uint_eq(i, 16);
	agents_stop();
}
END_TEST

START_TEST(unwanted_content_changes_nothing)
{
	struct wire_want want;
	uint8_t before[PAGE_BYTES], after[PAGE_BYTES];
	uint32_t f, i;
	int rc = 0;

	agents_start(100);
	f = agents_share(5);
	ck_assert_int_eq(frames_read(domain_frames(dom), f, before), 0);
	ck_assert_int_eq(agent_offer(&agent[0], 50, content_hash(6), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[1], 60, content_hash(6), 0), 0);
	/* A live frame; another's pending frame; no frame; none at all. */
	want = (struct wire_want){20, content_hash(5), f, 0};
	ck_assert_int_eq(agent_publish(&agent[1], &want, 5), 0);
	ck_assert_int_eq(agent_publish(&agent[2], &agent[1].want[1], 6), 0);
	want.frame = 99;
	ck_assert_int_eq(agent_publish(&agent[2], &want, 5), 0);
	want.frame = UINT32_MAX - 1;
	ck_assert_int_eq(agent_publish(&agent[2], &want, 5), 0);
	ck_assert_uint_eq(agents_stats().publish_unwanted, 4);
	ck_assert_int_eq(frames_read(domain_frames(dom), f, after), 0);
	ck_assert_mem_eq(before, after, PAGE_BYTES);
	ck_assert_uint_eq(agents_stats().frames, 1);
	for (i = 0; i < 1000 && !rc; i++)
		rc = agent_publish(&agent[2], &want, 5);
	ck_assert_int_eq(rc, -EPROTO);
	agents_stop();
}
END_TEST

START_TEST(only_what_is_held_can_be_given_back)
{
	uint32_t f, i;
	int rc = 0;

	agents_start(100);
	f = agents_share(5);
	ck_assert_int_eq(agent_give_back(&agent[2], f), 0);
	ck_assert_int_eq(agent_give_back(&agent[2], 12345678), 0);
	ck_assert_uint_eq(agents_stats().release_unheld, 2);
	ck_assert_uint_eq(agents_stats().sharing_pages, 2);
	ck_assert_int_eq(agent_give_back(&agent[0], f), 0);
	ck_assert_int_eq(agent_give_back(&agent[0], f), 0); /* twice */
	ck_assert_uint_eq(agents_stats().sharing_pages, 1);
	ck_assert_uint_eq(agents_stats().frames, 1);
	for (i = 0; i < 1000 && !rc; i++)
		rc = agent_give_back(&agent[2], f);
	ck_assert_int_eq(rc, -EPROTO);
	agents_stop();
}
END_TEST

/* Found by fuzzing: it guesses the frame of a GRANT that is still queued. */
START_TEST(a_grant_given_back_before_it_is_sent_is_harmless)
{
	struct wire_offer *o = agent_body;
	struct wire_release *r = agent_body;
	uint32_t f;

	agents_start(100);
	f = agents_share(5);
	*o = (struct wire_offer){30, content_hash(5), 0};
	ck_assert_int_eq(agent_tell(&agent[2], WIRE_OFFER, sizeof(*o)), 0);
	r->frame = f;
	ck_assert_int_eq(agent_tell(&agent[2], WIRE_RELEASE, sizeof(*r)), 0);
	agent[2].deaf = true;
	domain_flush(dom, SECOND);
	ck_assert_uint_eq(agents_stats().sharing_pages, 2);
	agents_stop();
}
END_TEST

START_TEST(offers_are_bounded_by_ram)
{
	uint32_t i;

	agents_start(100);
	domain_ram_set(agent[0].member, 50);
	for (i = 0; i < 500; i++)
		ck_assert_int_eq(agent_offer(&agent[0], 1, content_hash(i), 0),
				 0);
	ck_assert_uint_eq(agents_stats().index_entries, 50);
	ck_assert_uint_eq(agents_stats().offers_over, 450);
	agents_stop();
}
END_TEST

START_TEST(have_of_what_was_never_granted_is_a_lie)
{
	agents_start(100);
	ck_assert_int_eq(agent_have(&agent[0], 5, 1), -EPROTO);
	ck_assert_int_eq(agent_have(&agent[0], 4000000000, 1), -EPROTO);
	ck_assert_int_eq(agent_have(&agent[0], agents_share(1), UINT32_MAX),
			 -EPROTO);
	ck_assert_uint_eq(agents_stats().sharing_pages, 2);
	agents_stop();
}
END_TEST

/* ---- slow and dead --------------------------------------------------------
 */

START_TEST(who_does_not_read_loses_grants_not_references)
{
	uint32_t f;

	agents_start(100);
	agent[0].deaf = true;
	ck_assert_int_eq(agent_offer(&agent[0], 10, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[1], 20, content_hash(5), 0), 0);
	ck_assert_int_eq(agent_publish(&agent[1], agent[1].want, 5), 0);
	ck_assert_uint_eq(agent[1].grants, 1);
	ck_assert_uint_eq(agents_stats().grants_dropped, 1);
	ck_assert_uint_eq(agents_stats().sharing_pages, 1);
	f = agent[1].grant[0].frame;
	/* It alone: granted and dropped until the frame is gone. */
	ck_assert_int_eq(agent_give_back(&agent[1], f), 0);
	ck_assert_uint_eq(agents_stats().frames, 0);
	/* A WANT that cannot be sent goes to the next. */
	ck_assert_int_eq(agent_offer(&agent[1], 20, content_hash(6), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[0], 10, content_hash(6), 0), 0);
	ck_assert_uint_eq(agents_stats().wants_dropped, 1);
	ck_assert_uint_eq(agents_stats().frames_pending, 0);
	ck_assert_int_eq(agent_offer(&agent[2], 30, content_hash(6), 0), 0);
	ck_assert_uint_eq(agent[2].wants, 1);
	agents_stop();
}
END_TEST

START_TEST(all_deaf_ends)
{
	struct wire_offer *o = agent_body;
	uint32_t i, k;

	agents_start(20000);
	for (k = 0; k < AGENTS; k++)
		agent[k].deaf = true;
	for (k = 0; k < 12; k++) {
		for (i = 0; i < 2700; i++)
			o[i] = (struct wire_offer){i + 2700 * k, i + 1, 0};
		ck_assert_int_eq(
			agent_say(&agent[k % 4], WIRE_OFFER, 2700 * sizeof(*o)),
			0);
	}
	ck_assert_uint_eq(agents_stats().frames_pending, 0);
	agents_stop();
}
END_TEST

START_TEST(death_returns_everything)
{
	uint32_t f;

	agents_start(100);
	f = agents_share(5);
	ck_assert_int_eq(agent_offer(&agent[0], 50, content_hash(6), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[1], 60, content_hash(6), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[2], 70, content_hash(6), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[1], 61, content_hash(7), 0), 0);
	domain_leave(agent[1].member); /* asked for 6, candidate for 7 */
	agent[1].member = NULL;
	domain_flush(dom, SECOND);
	ck_assert_uint_eq(agents_stats().sharing_pages, 1);
	ck_assert_uint_eq(agent[0].wants, 1);
	ck_assert_int_eq(agent_offer(&agent[2], 71, content_hash(7), 0), 0);
	ck_assert_uint_eq(agent[2].wants, 0);
	ck_assert_int_eq(agent_publish(&agent[0], agent[0].want, 6), 0);
	ck_assert_uint_eq(agent[2].grants, 1);
	domain_leave(agent[0].member);
	agent[0].member = NULL;
	ck_assert_uint_eq(agents_stats().sharing_pages, 1);
	ck_assert_int_eq(frames_state(domain_frames(dom), f), FRAME_FREE);
	agents_stop();
}
END_TEST

START_TEST(a_lost_vm_keeps_its_frames)
{
	struct domain_member *again;
	uint32_t f;

	agents_start(100);
	f = agents_share(5);
	ck_assert_int_eq(agent_offer(&agent[0], 50, content_hash(6), 0), 0);
	domain_detach(agent[0].member);
	domain_detach(agent[0].member); /* twice is once */
	ck_assert_int_eq(agent_give_back(&agent[0], f), -EPROTO);
	ck_assert_int_eq(agent_give_back(&agent[1], f), 0);
	ck_assert_uint_eq(agents_stats().sharing_pages, 1);
	ck_assert_uint_eq(agents_stats().index_entries, 1);
	/* It comes back, names its frame, and the old references go. */
	ck_assert_int_eq(domain_join(dom, &agent[0], 1000, &again), 0);
	domain_leave(agent[0].member);
	agent[0].member = again;
	ck_assert_uint_eq(agents_stats().frames, 0);
	agents_stop();
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

	agents_start(100);
	f = agents_share(5);
	ck_assert_int_eq(agent_offer(&agent[0], 11, content_hash(6), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[1], 21, content_hash(6), 0), 0);
	ck_assert_int_eq(agent_publish(&agent[1], &agent[1].want[1], 6), 0);
	g = agent[0].grant[1].frame;
	ck_assert_int_eq(agent_offer(&agent[0], 12, content_hash(7), 0), 0);
	ck_assert_int_eq(agent_offer(&agent[1], 22, content_hash(7), 0), 0);
	ck_assert_int_eq(agent_publish(&agent[1], &agent[1].want[2], 7), 0);
	lost = agent[0].grant[2].frame;
	frames_identity(domain_frames(dom), &dev, &ino);
	ck_assert_int_eq(frames_fd_open(domain_frames(dom), &fd), 0);
	old = dom; /* killed: nothing of it may be used any more */
	ck_assert_int_eq(frames_adopt(fd, dev, ino, &fr), 0);
	agents_domain_make(fr, 2);
	memcpy(before, agent, sizeof(agent));
	memset(agent, 0, sizeof(agent));
	ck_assert_int_eq(domain_join(dom, &agent[0], 1000, &agent[0].member),
			 0);
	ck_assert_int_eq(domain_join(dom, &agent[2], 1000, &agent[2].member),
			 0);
	ck_assert_uint_eq(agents_stats().frames_unknown, 3);
	/* Offered before its holder is heard: asked for anew, or a candidate
	 * that gets its grant when the holder speaks. */
	ck_assert_int_eq(agent_offer(&agent[2], 31, content_hash(6), 0), 0);
	ck_assert_int_eq(agent_have(&agent[0], f, 2), 0);
	ck_assert_int_eq(agent_have(&agent[0], g, 1), 0);
	ck_assert_uint_eq(agent[2].grants, 1);
	ck_assert_uint_eq(agent[2].grant[0].frame, g);
	ck_assert_int_eq(agent_offer(&agent[2], 30, content_hash(5), 0), 0);
	ck_assert_uint_eq(agent[2].grants, 2);
	ck_assert_uint_eq(agent[2].grant[1].frame, f);
	domain_recovered(dom);
	ck_assert_int_eq(frames_state(domain_frames(dom), lost), FRAME_FREE);
	ck_assert_uint_eq(agents_stats().sharing_pages, 5);
	ck_assert_int_eq(agent_give_back(&agent[0], f), 0);
	ck_assert_int_eq(agent_give_back(&agent[0], f), 0);
	ck_assert_int_eq(agent_give_back(&agent[0], f), 0);
	ck_assert_uint_eq(agents_stats().release_unheld, 1);
	agents_stop();
	dom = old;
	memcpy(agent, before, sizeof(agent));
	agents_stop();
	close(fd);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("domain_faults");
	TCase *tc = tcase_create("domain_faults");

	tcase_set_timeout(tc, 240);
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
	suite_add_tcase(s, tc);
	return suite_run(s);
}
