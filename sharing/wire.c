/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The one gate every packet passes. A packet is judged whole, once, on the
 * receiver's own copy, before any of it is used; whoever reads a checked
 * message afterwards may trust lengths, counts, ranges and ended strings, and
 * nothing else (what a name or a frame means is for its owner to judge).
 *
 * Alternative dropped: checks where the fields are used. They are then made
 * twice, or not at all, and cannot be fuzzed in one place.
 *
 *   bytes = sizeof(head) + body      body = one structure, or n elements
 *
 * A fixed body is copied into a structure and an array element by element, so
 * the packet may lie at any address.
 */
#include "sharing/wire.h"

#include <errno.h>
#include <string.h>

#define PAGE_LIMIT  ((uint64_t)1 << 40) /* what the content index can name */
#define SHARES_MAX  1000000
#define FEATURE_ALL 31

/* Both sides are built from this header, but perhaps not by one compiler. */
_Static_assert(sizeof(struct wire_head) == 8, "layout");
_Static_assert(sizeof(struct wire_hello) == 280, "layout");
_Static_assert(sizeof(struct wire_welcome) == 224, "layout");
_Static_assert(sizeof(struct wire_offer) == 24, "layout");
_Static_assert(sizeof(struct wire_want) == 24, "layout");
_Static_assert(sizeof(struct wire_grant) == 16, "layout");
_Static_assert(sizeof(struct wire_target) == 40, "layout");
_Static_assert(sizeof(struct wire_command) == 56, "layout");
_Static_assert(WIRE_PUBLISH_MAX == 15, "pages of one PUBLISH");

typedef bool body_check_fn(const uint8_t *body, size_t n);

struct body_rule {
	size_t bytes;	      /* of the structure, or of one element */
	bool array;	      /* check is called for each element */
	bool may_be_empty;    /* an array of no elements has a meaning */
	body_check_fn *check; /* NULL: every value is fine */
};

static bool name_char_ok(char c, bool first)
{
	if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	    (c >= '0' && c <= '9'))
		return true;
	return !first && (c == '.' || c == '_' || c == '-');
}

static bool name_ok(const char name[WIRE_NAME_MAX])
{
	size_t i;

	for (i = 0; i < WIRE_NAME_MAX && name[i]; i++)
		if (!name_char_ok(name[i], i == 0))
			return false;
	return i > 0 && i < WIRE_NAME_MAX;
}

/* Ended, and nothing in it that could forge a line of a log. */
static bool text_ok(const char *text, size_t room)
{
	size_t i;

	for (i = 0; i < room && text[i]; i++)
		if (((uint8_t)text[i] < ' ' && text[i] != '\n' &&
		     text[i] != '\t') ||
		    text[i] == 0x7f)
			return false;
	return i < room;
}

/* Of one line, for a log. */
static bool path_ok(const char *path, size_t room)
{
	return text_ok(path, room) && !strpbrk(path, "\n\t");
}

static bool hash_ok(uint64_t hash)
{
	return hash != HASH_NONE && hash <= HASH_MASK;
}

static bool hello_ok(const uint8_t *body, size_t n)
{
	struct wire_hello hello;

	memcpy(&hello, body, n);
	return name_ok(hello.name) &&
	       (!hello.domain[0] || name_ok(hello.domain)) &&
	       path_ok(hello.qmp, sizeof(hello.qmp)) &&
	       hello.ram_pages <= PAGE_LIMIT && hello.shares <= SHARES_MAX &&
	       !(hello.flags & ~(uint32_t)WIRE_HELLO_RECONNECT) &&
	       hello.features <= FEATURE_ALL && hello.page_bytes == PAGE_BYTES;
}

static bool have_ok(const uint8_t *body, size_t n)
{
	struct wire_have have;

	memcpy(&have, body, n);
	return have.frame != WIRE_FRAME_NONE && have.refs > 0;
}

static bool offer_ok(const uint8_t *body, size_t n)
{
	struct wire_offer offer;

	memcpy(&offer, body, n);
	return offer.page < PAGE_LIMIT && offer.hash <= HASH_MASK &&
	       offer.was <= HASH_MASK;
}

static bool want_ok(const uint8_t *body, size_t n)
{
	struct wire_want want;

	memcpy(&want, body, n);
	return want.page < PAGE_LIMIT && hash_ok(want.hash) &&
	       want.frame != WIRE_FRAME_NONE && !want.reserved;
}

static bool grant_ok(const uint8_t *body, size_t n)
{
	struct wire_grant grant;

	memcpy(&grant, body, n);
	return grant.page < PAGE_LIMIT && grant.frame != WIRE_FRAME_NONE &&
	       !grant.reserved;
}

static bool release_ok(const uint8_t *body, size_t n)
{
	struct wire_release release;

	memcpy(&release, body, n);
	return release.frame != WIRE_FRAME_NONE;
}

static bool stats_ok(const uint8_t *body, size_t n)
{
	struct wire_stats stats;
	size_t i;

	memcpy(&stats, body, n);
	for (i = 0; i < ARRAY_LEN(stats.pool); i++)
		if (stats.pool[i] >= TMEM_POOL_KINDS)
			return false;
	return stats.guest.lines <= 1 && stats.guest.drivers <= 1 &&
	       stats.guest.frozen <= 1 && stats.guest.compress <= 1 &&
	       stats.guest.weight <= UINT32_MAX;
}

static bool result_ok(const uint8_t *body, size_t n)
{
	struct wire_result result;

	memcpy(&result, body, n);
	return result.rc <= 0 && !result.reserved &&
	       text_ok(result.text, sizeof(result.text));
}

static bool welcome_ok(const uint8_t *body, size_t n)
{
	struct wire_welcome welcome;

	memcpy(&welcome, body, n);
	return welcome.uffd_device <= 1 && welcome.channel <= 1 &&
	       !welcome.reserved && welcome.pool_bytes > 0 &&
	       welcome.pool_bytes % PAGE_BYTES == 0 &&
	       welcome.pool_bytes / PAGE_BYTES <= WIRE_FRAME_NONE;
}

static bool refuse_ok(const uint8_t *body, size_t n)
{
	struct wire_refuse refuse;

	memcpy(&refuse, body, n);
	return refuse.rc < 0 && text_ok(refuse.text, sizeof(refuse.text));
}

static bool target_ok(const uint8_t *body, size_t n)
{
	const uint32_t all = WIRE_MAY_SHARE | WIRE_MAY_COMPRESS |
			     WIRE_MAY_SWAP | WIRE_BREAK_HUGE | WIRE_WANT_OFFERS;
	struct wire_target target;

	memcpy(&target, body, n);
	return !(target.flags & ~all) && target.pressure <= 4;
}

static bool command_ok(const uint8_t *body, size_t n)
{
	struct wire_command command;

	memcpy(&command, body, n);
	return command.op >= WIRE_CMD_CHECK && command.op <= WIRE_CMD_RESTORE &&
	       command.compress <= 1 && command.on <= 1 &&
	       command.pool >= WIRE_POOL_ALL && command.pool < TMEM_POOLS_MAX &&
	       !command.reserved;
}

static bool publish_ok(const uint8_t *body, size_t n)
{
	struct wire_publish publish;
	size_t i;

	if (n < sizeof(publish))
		return false;
	memcpy(&publish, body, sizeof(publish));
	if (!publish.count || publish.count > WIRE_PUBLISH_MAX ||
	    publish.reserved)
		return false;
	if (n != sizeof(publish) + publish.count * (sizeof(struct wire_want) +
						    PAGE_BYTES))
		return false;
	for (i = 0; i < publish.count; i++)
		if (!want_ok(body + sizeof(publish) +
				     i * sizeof(struct wire_want),
			     sizeof(struct wire_want)))
			return false;
	return true;
}

#define FIXED(type, fn)                                                        \
	{                                                                      \
		.bytes = sizeof(struct type), .check = (fn)                    \
	}
#define ARRAY(type, fn)                                                        \
	{                                                                      \
		.bytes = sizeof(struct type), .array = true, .check = (fn)     \
	}

static const struct body_rule from_agent[] = {
	[WIRE_HELLO] = FIXED(wire_hello, hello_ok),
	[WIRE_HAVE] = {.bytes = sizeof(struct wire_have),
		       .array = true,
		       .may_be_empty = true,
		       .check = have_ok},
	[WIRE_OFFER] = ARRAY(wire_offer, offer_ok),
	[WIRE_PUBLISH] = {.check = publish_ok}, /* bytes 0: judges its length */
	[WIRE_DECLINE] = ARRAY(wire_want, want_ok),
	[WIRE_RELEASE] = ARRAY(wire_release, release_ok),
	[WIRE_STATS] = FIXED(wire_stats, stats_ok),
	[WIRE_RESULT] = FIXED(wire_result, result_ok),
};

static const struct body_rule from_hvd[] = {
	[WIRE_WELCOME - WIRE_WELCOME] = FIXED(wire_welcome, welcome_ok),
	[WIRE_REFUSE - WIRE_WELCOME] = FIXED(wire_refuse, refuse_ok),
	[WIRE_WANT - WIRE_WELCOME] = ARRAY(wire_want, want_ok),
	[WIRE_GRANT - WIRE_WELCOME] = ARRAY(wire_grant, grant_ok),
	[WIRE_TARGET - WIRE_WELCOME] = FIXED(wire_target, target_ok),
	[WIRE_COMMAND - WIRE_WELCOME] = FIXED(wire_command, command_ok),
};

static const struct body_rule *rule_find(enum wire_side from, unsigned type)
{
	if (from == WIRE_AGENT && type >= WIRE_HELLO &&
	    type < ARRAY_LEN(from_agent))
		return &from_agent[type];
	if (from == WIRE_HVD && type >= WIRE_WELCOME &&
	    type - WIRE_WELCOME < ARRAY_LEN(from_hvd))
		return &from_hvd[type - WIRE_WELCOME];
	return NULL;
}

static bool array_ok(const struct body_rule *rule, const uint8_t *body,
		     size_t n)
{
	size_t at;

	if (n % rule->bytes || (!n && !rule->may_be_empty))
		return false;
	for (at = 0; at < n; at += rule->bytes)
		if (!rule->check(body + at, rule->bytes))
			return false;
	return true;
}

static bool body_ok(const struct body_rule *rule, const uint8_t *body, size_t n)
{
	if (rule->array)
		return array_ok(rule, body, n);
	if (rule->bytes && n != rule->bytes)
		return false;
	return !rule->check || rule->check(body, n);
}

int wire_check(enum wire_side from, const void *msg, size_t n)
{
	const struct body_rule *rule;
	struct wire_head head;

	if (n < sizeof(head))
		return -EPROTO;
	memcpy(&head, msg, sizeof(head));
	/* Before the length: another version may have another head. */
	if (head.version != WIRE_VERSION)
		return -EPROTONOSUPPORT;
	if (n > WIRE_MAX || head.bytes != n)
		return -EPROTO;
	rule = rule_find(from, head.type);
	if (!rule || !body_ok(rule, (const uint8_t *)msg + sizeof(head),
			      n - sizeof(head)))
		return -EPROTO;
	return 0;
}

const char *wire_type_name(uint16_t type)
{
	static const char *const name[] = {
		[WIRE_HELLO] = "HELLO",	    [WIRE_HAVE] = "HAVE",
		[WIRE_OFFER] = "OFFER",	    [WIRE_PUBLISH] = "PUBLISH",
		[WIRE_DECLINE] = "DECLINE", [WIRE_RELEASE] = "RELEASE",
		[WIRE_STATS] = "STATS",	    [WIRE_RESULT] = "RESULT",
		[WIRE_WELCOME] = "WELCOME", [WIRE_REFUSE] = "REFUSE",
		[WIRE_WANT] = "WANT",	    [WIRE_GRANT] = "GRANT",
		[WIRE_TARGET] = "TARGET",   [WIRE_COMMAND] = "COMMAND",
	};

	return type < ARRAY_LEN(name) && name[type] ? name[type] : "message";
}

size_t wire_count(const struct wire_head *head, size_t element_bytes)
{
	return (head->bytes - sizeof(*head)) / element_bytes;
}
