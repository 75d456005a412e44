/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any sequence of checked messages of two agents to a domain: after each the
 * index, the frames and the references have to agree, and no frame that is held
 * may change.
 *
 * The input is a list of steps of 8 bytes (what, who, page, hash, frame...) and
 * not of packets: wire_check has a target of its own. Contents are few, so
 * pages meet; a lie is as likely as a truth.
 *
 * fuzz-max-len: 2048
 */
#include "sharing/domain.h"
#include "sharing/frames.h"
#include "sharing/hash.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define AGENTS 2
#define FRAMES 8
#define SECOND UINT64_C(1000000000)

struct step {
	uint8_t what, who, page, hash, was, frame, content, more;
};

struct agent {
	struct domain_member *member;
	bool deaf;
	struct wire_want asked; /* the last */
	uint32_t granted;
};

static const uint8_t secret[192] = {7};
static struct agent agent[AGENTS];
static struct domain *dom;
static uint64_t hash_table[16];

static void must(bool truth)
{
	if (!truth)
		abort();
}

static int hear(void *cookie, const struct wire_head *msg)
{
	struct agent *a = cookie;

	must(!wire_check(WIRE_HVD, msg, msg->bytes));
	if (a->deaf)
		return -11;
	if (msg->type == WIRE_WANT)
		memcpy(&a->asked, msg + 1, sizeof(a->asked));
	else
		memcpy(&a->granted,
		       (const char *)(msg + 1) +
			       offsetof(struct wire_grant, frame),
		       sizeof(a->granted));
	return 0;
}

static void page_fill(uint8_t page[PAGE_BYTES], uint8_t content)
{
	memset(page, content & 15, PAGE_BYTES);
}

static uint64_t hash_of(uint8_t content)
{
	return content & 0x80 ? HASH_NONE : hash_table[content & 15];
}

static void say(struct agent *a, unsigned type, const void *body, size_t bytes,
		uint64_t now)
{
	static _Alignas(8) unsigned char packet[WIRE_MAX];
	struct wire_head head = {WIRE_VERSION, (uint16_t)type,
				 (uint32_t)(sizeof(head) + bytes)};

	memcpy(packet, &head, sizeof(head));
	memcpy(packet + sizeof(head), body, bytes);
	if (wire_check(WIRE_AGENT, packet, head.bytes))
		return;
	if (!domain_message(a->member, (const void *)packet, now))
		return;
	domain_leave(a->member); /* as hvd does with a liar */
	must(!domain_join(dom, a, 64, &a->member));
}

static void publish_do(struct agent *a, const struct step *s, uint64_t now)
{
	struct {
		uint32_t count, reserved;
		struct wire_want want;
		uint8_t page[PAGE_BYTES];
	} msg = {.count = 1, .want = a->asked};

	if (s->more & 1)
		msg.want.frame = s->frame & 15;
	if (s->more & 2)
		msg.want.page = s->page & 15;
	page_fill(msg.page, s->content);
	say(a, WIRE_PUBLISH, &msg, sizeof(msg), now);
}

static void step_do(const struct step *s, uint64_t now)
{
	struct agent *a = &agent[s->who % AGENTS];
	const struct wire_offer offer = {s->page & 15, hash_of(s->hash),
					 hash_of(s->was)};
	struct wire_want want = a->asked;
	const struct wire_have have = {s->frame & 15, s->more};
	uint32_t frame = s->more & 1 ? s->frame & 15 : a->granted;

	switch (s->what % 10) {
	case 0:
	case 1:
	case 2:
		say(a, WIRE_OFFER, &offer, sizeof(offer), now);
		break;
	case 3:
		publish_do(a, s, now);
		break;
	case 4:
		say(a, WIRE_RELEASE, &frame, sizeof(frame), now);
		break;
	case 5:
		say(a, WIRE_DECLINE, &want, sizeof(want), now);
		break;
	case 6:
		say(a, WIRE_HAVE, &have, sizeof(have), now);
		break;
	case 7:
		a->deaf = s->more & 1;
		break;
	case 8:
		domain_tick(dom, now);
		break;
	default:
		domain_detach(a->member);
		domain_leave(a->member);
		must(!domain_join(dom, a, 64, &a->member));
	}
}

/* Live frames hold what their hash says. */
static void frames_check(void)
{
	const struct frames *fr = domain_frames(dom);
	uint8_t page[PAGE_BYTES];
	uint32_t f;

	for (f = 0; f < FRAMES; f++) {
		if (frames_state(fr, f) != FRAME_LIVE)
			continue;
		must(!frames_read(fr, f, page));
		must(sharing_hash(secret, page) == frames_hash(fr, f));
	}
}

static void start(void)
{
	uint8_t page[PAGE_BYTES];
	struct frames *fr;
	size_t i;

	for (i = 0; i < 16; i++) {
		page_fill(page, (uint8_t)i);
		hash_table[i] = sharing_hash(secret, page);
	}
	must(!frames_create("fuzz", FRAMES, &fr));
	must(!domain_create(secret, 3, fr, hear, &dom));
	memset(agent, 0, sizeof(agent));
	for (i = 0; i < AGENTS; i++)
		must(!domain_join(dom, &agent[i], 64, &agent[i].member));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t now = SECOND;
	struct step step;
	size_t i;

	start();
	for (; size >= sizeof(step); size -= sizeof(step)) {
		memcpy(&step, data, sizeof(step));
		data += sizeof(step);
		now += (step.more & 0x70) * SECOND / 16;
		step_do(&step, now);
		if (step.more & 0x80)
			domain_flush(dom, now);
		must(domain_is_sound(dom));
	}
	domain_flush(dom, now);
	frames_check();
	for (i = 0; i < AGENTS; i++)
		domain_leave(agent[i].member);
	must(domain_is_sound(dom));
	domain_destroy(dom);
	return 0;
}
