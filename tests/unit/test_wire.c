/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every rule of wire.h, as the packet that breaks it: for each message a good
 * one is made, and then one field of it is spoilt at a time.
 */
#include "sharing/wire.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static _Alignas(8) unsigned char packet[WIRE_MAX + 8];
static struct wire_head *head = (struct wire_head *)packet;
static void *body = packet + sizeof(struct wire_head);

static size_t packet_start(unsigned type, size_t body_bytes)
{
	memset(packet, 0, sizeof(packet));
	head->version = WIRE_VERSION;
	head->type = (uint16_t)type;
	head->bytes = (uint32_t)(sizeof(*head) + body_bytes);
	return head->bytes;
}

static int judge(enum wire_side from)
{
	return wire_check(from, packet, head->bytes);
}

static struct wire_hello *hello_make(void)
{
	struct wire_hello *hello = body;

	packet_start(WIRE_HELLO, sizeof(*hello));
	strcpy(hello->name, "desk1");
	hello->ram_pages = 1000;
	hello->shares = 1000;
	hello->page_bytes = 4096;
	return hello;
}

START_TEST(hello_good_is_accepted)
{
	struct wire_hello *hello = hello_make();

	ck_assert_int_eq(judge(WIRE_AGENT), 0);
	strcpy(hello->domain, "a.b-c_9");
	strcpy(hello->qmp, "/run/x.sock");
	hello->flags = WIRE_HELLO_RECONNECT;
	ck_assert_int_eq(judge(WIRE_AGENT), 0);
	memset(hello->name, 'a', WIRE_NAME_MAX - 1);
	ck_assert_int_eq(judge(WIRE_AGENT), 0);
}
END_TEST

START_TEST(hello_names_are_checked)
{
	static const char *const bad[] = {"",	      "-a",   ".a",   "_a",
					  "a b",      "a/b",  "a\n",  "vm:a",
					  "\xc3\xa4", "a\"b", "a\\b", "a;b"};
	struct wire_hello *hello;
	size_t i;

	for (i = 0; i < ARRAY_LEN(bad); i++) {
		hello = hello_make();
		strcpy(hello->name, bad[i]);
		ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
		if (!bad[i][0])
			continue;
		hello = hello_make();
		strcpy(hello->domain, bad[i]);
		ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	}
	hello = hello_make();
	memset(hello->name, 'a', WIRE_NAME_MAX);
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	hello = hello_make();
	memset(hello->qmp, 'a', WIRE_PATH_MAX);
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	hello = hello_make();
	strcpy(hello->qmp, "a\nforged line of a log");
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
}
END_TEST

START_TEST(hello_numbers_are_checked)
{
	struct wire_hello *hello = hello_make();

	hello->page_bytes = 2048;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	hello = hello_make();
	hello->flags = 2;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	hello = hello_make();
	hello->features = 32;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	hello = hello_make();
	hello->ram_pages = ((uint64_t)1 << 40) + 1;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	hello = hello_make();
	hello->shares = 1000001;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
}
END_TEST

START_TEST(head_is_checked)
{
	size_t n;

	for (n = 0; n < sizeof(struct wire_head); n++) {
		hello_make();
		ck_assert_int_eq(wire_check(WIRE_AGENT, packet, n), -EPROTO);
	}
	hello_make();
	head->version = WIRE_VERSION + 1;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTONOSUPPORT);
	/* Also where all else is wrong: it may have another shape. */
	ck_assert_int_eq(wire_check(WIRE_AGENT, packet, 9), -EPROTONOSUPPORT);
	hello_make();
	ck_assert_int_eq(wire_check(WIRE_AGENT, packet, head->bytes - 1),
			 -EPROTO);
	ck_assert_int_eq(wire_check(WIRE_AGENT, packet, head->bytes + 1),
			 -EPROTO);
}
END_TEST

START_TEST(types_belong_to_a_side)
{
	unsigned type, wrong = 0;

	/* A body that no type accepts shows nothing; an empty HAVE is one. */
	for (type = 0; type < 0x10000; type++) {
		packet_start(type, 0);
		wrong += judge(WIRE_AGENT) != (type == WIRE_HAVE ? 0 : -EPROTO);
		wrong += judge(WIRE_HVD) != -EPROTO;
	}
	ck_assert_uint_eq(wrong, 0); /* an assertion each would take minutes */
	hello_make();
	ck_assert_int_eq(judge(WIRE_HVD), -EPROTO);
	packet_start(WIRE_TARGET, sizeof(struct wire_target));
	ck_assert_int_eq(judge(WIRE_HVD), 0);
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
}
END_TEST

/* Sizes of one element, and of the structure, and each byte beside. */
static const struct {
	unsigned type;
	size_t bytes;
	enum wire_side from;
	bool array;
} sized[] = {
	{WIRE_HELLO, sizeof(struct wire_hello), WIRE_AGENT, false},
	{WIRE_OFFER, sizeof(struct wire_offer), WIRE_AGENT, true},
	{WIRE_RELEASE, sizeof(struct wire_release), WIRE_AGENT, true},
	{WIRE_STATS, sizeof(struct wire_stats), WIRE_AGENT, false},
	{WIRE_RESULT, sizeof(struct wire_result), WIRE_AGENT, false},
	{WIRE_GRANT, sizeof(struct wire_grant), WIRE_HVD, true},
	{WIRE_TARGET, sizeof(struct wire_target), WIRE_HVD, false},
};

START_TEST(lengths_are_exact)
{
	size_t bytes = sized[_i].bytes, n;

	for (n = 0; n <= 2 * bytes + 1; n++) {
		packet_start(sized[_i].type, n);
		if (sized[_i].type == WIRE_HELLO && n == bytes) {
			hello_make();
		}
		if (n == bytes || (sized[_i].array && n == 2 * bytes))
			ck_assert_int_eq(judge(sized[_i].from), 0);
		else
			ck_assert_int_eq(judge(sized[_i].from), -EPROTO);
	}
}
END_TEST

START_TEST(largest_message_is_the_limit)
{
	size_t most = (WIRE_MAX - sizeof(*head)) / sizeof(struct wire_release);

	packet_start(WIRE_RELEASE, most * sizeof(struct wire_release));
	ck_assert_int_eq(judge(WIRE_AGENT), 0);
	ck_assert_uint_eq(wire_count(head, sizeof(struct wire_release)), most);
	packet_start(WIRE_RELEASE, (most + 1) * sizeof(struct wire_release));
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
}
END_TEST

START_TEST(elements_are_checked_to_the_last)
{
	struct wire_offer *offer = body;
	struct wire_release *release = body;
	struct wire_have *have = body;

	packet_start(WIRE_OFFER, 3 * sizeof(*offer));
	ck_assert_int_eq(judge(WIRE_AGENT), 0);
	offer[2].page = (uint64_t)1 << 40;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	offer[2].page = ((uint64_t)1 << 40) - 1;
	ck_assert_int_eq(judge(WIRE_AGENT), 0);
	offer[2].hash = HASH_MASK + 1;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	offer[2].hash = HASH_MASK;
	offer[2].was = HASH_MASK + 1;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	packet_start(WIRE_RELEASE, 3 * sizeof(*release));
	release[2].frame = WIRE_FRAME_NONE;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	packet_start(WIRE_HAVE, sizeof(*have));
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO); /* refs 0 */
	have->refs = 1;
	ck_assert_int_eq(judge(WIRE_AGENT), 0);
	have->frame = WIRE_FRAME_NONE;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
}
END_TEST

static struct wire_publish *publish_make(uint32_t count, size_t pages)
{
	struct wire_publish *publish = body;
	uint32_t i;

	packet_start(WIRE_PUBLISH,
		     sizeof(*publish) +
			     pages * (PAGE_BYTES + sizeof(struct wire_want)));
	publish->count = count;
	for (i = 0; i < count && i < pages; i++)
		publish->entry[i].hash = 1;
	return publish;
}

START_TEST(publish_count_is_its_length)
{
	struct wire_publish *publish;

	publish_make(1, 1);
	ck_assert_int_eq(judge(WIRE_AGENT), 0);
	publish_make(WIRE_PUBLISH_MAX, WIRE_PUBLISH_MAX);
	ck_assert_int_eq(judge(WIRE_AGENT), 0);
	publish_make(0, 0);
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	publish_make(2, 1);
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	publish_make(1, 2);
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	publish_make(UINT32_MAX, 1);
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	publish = publish_make(2, 2);
	publish->entry[1].hash = HASH_NONE;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	publish = publish_make(2, 2);
	publish->reserved = 1;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
}
END_TEST

START_TEST(hvd_bodies_are_checked)
{
	struct wire_welcome *welcome = body;
	struct wire_refuse *refuse = body;
	struct wire_command *command = body;
	struct wire_target *target = body;

	packet_start(WIRE_WELCOME, sizeof(*welcome));
	ck_assert_int_eq(judge(WIRE_HVD), -EPROTO); /* no pool */
	welcome->pool_bytes = 4096;
	ck_assert_int_eq(judge(WIRE_HVD), 0);
	welcome->pool_bytes = 4097;
	ck_assert_int_eq(judge(WIRE_HVD), -EPROTO);
	packet_start(WIRE_REFUSE, sizeof(*refuse));
	ck_assert_int_eq(judge(WIRE_HVD), -EPROTO); /* 0 is no refusal */
	refuse->rc = -1;
	ck_assert_int_eq(judge(WIRE_HVD), 0);
	memset(refuse->text, 'x', sizeof(refuse->text));
	ck_assert_int_eq(judge(WIRE_HVD), -EPROTO);
	packet_start(WIRE_COMMAND, sizeof(*command));
	ck_assert_int_eq(judge(WIRE_HVD), -EPROTO);
	command->op = WIRE_CMD_RESTORE;
	ck_assert_int_eq(judge(WIRE_HVD), 0);
	command->op++;
	ck_assert_int_eq(judge(WIRE_HVD), -EPROTO);
	command->op = WIRE_CMD_DESTROY;
	command->pool = WIRE_POOL_ALL;
	ck_assert_int_eq(judge(WIRE_HVD), 0);
	command->pool = TMEM_POOLS_MAX - 1;
	ck_assert_int_eq(judge(WIRE_HVD), 0);
	command->pool++;
	ck_assert_int_eq(judge(WIRE_HVD), -EPROTO);
	command->pool = WIRE_POOL_ALL - 1;
	ck_assert_int_eq(judge(WIRE_HVD), -EPROTO);
	command->pool = 0;
	command->on = 2;
	ck_assert_int_eq(judge(WIRE_HVD), -EPROTO);
	packet_start(WIRE_TARGET, sizeof(*target));
	target->flags = 32;
	ck_assert_int_eq(judge(WIRE_HVD), -EPROTO);
	target->flags = 31;
	target->pressure = 5;
	ck_assert_int_eq(judge(WIRE_HVD), -EPROTO);
}
END_TEST

/* What is shown as yes and no is yes or no; kinds of pools are known ones. */
START_TEST(stats_are_checked)
{
	struct wire_stats *stats = body;

	packet_start(WIRE_STATS, sizeof(*stats));
	stats->pool[TMEM_POOLS_MAX - 1] = TMEM_POOL_SHARED;
	stats->guest.lines = stats->guest.drivers = 1;
	stats->guest.weight = UINT32_MAX;
	stats->guest.puts = UINT64_MAX;
	ck_assert_int_eq(judge(WIRE_AGENT), 0);
	stats->pool[TMEM_POOLS_MAX - 1] = TMEM_POOL_KINDS;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	stats->pool[TMEM_POOLS_MAX - 1] = 0;
	stats->guest.lines = 2;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
	stats->guest.lines = 1;
	stats->guest.weight = (uint64_t)UINT32_MAX + 1;
	ck_assert_int_eq(judge(WIRE_AGENT), -EPROTO);
}
END_TEST

START_TEST(any_address_will_do)
{
	unsigned char *odd = malloc(sizeof(packet) + 1);

	hello_make();
	ck_assert_ptr_nonnull(odd);
	memcpy(odd + 1, packet, head->bytes);
	ck_assert_int_eq(wire_check(WIRE_AGENT, odd + 1, head->bytes), 0);
	publish_make(3, 3);
	memcpy(odd + 1, packet, head->bytes);
	ck_assert_int_eq(wire_check(WIRE_AGENT, odd + 1, head->bytes), 0);
	free(odd);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("wire");
	TCase *tc = tcase_create("wire");

	tcase_set_timeout(tc, 60);

	tcase_add_test(tc, hello_good_is_accepted);
	tcase_add_test(tc, hello_names_are_checked);
	tcase_add_test(tc, hello_numbers_are_checked);
	tcase_add_test(tc, head_is_checked);
	tcase_add_test(tc, types_belong_to_a_side);
	tcase_add_loop_test(tc, lengths_are_exact, 0, ARRAY_LEN(sized));
	tcase_add_test(tc, largest_message_is_the_limit);
	tcase_add_test(tc, elements_are_checked_to_the_last);
	tcase_add_test(tc, publish_count_is_its_length);
	tcase_add_test(tc, hvd_bodies_are_checked);
	tcase_add_test(tc, stats_are_checked);
	tcase_add_test(tc, any_address_will_do);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
