/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wire_check against any packet, and what a checked packet promises its
 * reader: lengths, ended strings, ranges. The packet is copied to memory of
 * exactly its size, so a read past its end is seen.
 *
 * First byte: who sends it. The mutator then makes most inputs well-framed
 * (version and length right), else the gate's first lines stop everything.
 *
 * fuzz-max-len: 8192
 */
#include "sharing/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max,
			       unsigned seed);

#define PROMISE(truth)                                                         \
	do {                                                                   \
		if (!(truth))                                                  \
			abort();                                               \
	} while (0)

static void hello_read(const void *body)
{
	struct wire_hello hello;

	memcpy(&hello, body, sizeof(hello));
	PROMISE(strnlen(hello.name, WIRE_NAME_MAX) < WIRE_NAME_MAX);
	PROMISE(hello.name[0] && !strpbrk(hello.name, "/ \n\"\\"));
	PROMISE(strnlen(hello.domain, WIRE_NAME_MAX) < WIRE_NAME_MAX);
	PROMISE(strnlen(hello.qmp, WIRE_PATH_MAX) < WIRE_PATH_MAX);
	PROMISE(hello.page_bytes == PAGE_BYTES);
}

static void result_read(const void *body)
{
	struct wire_result result;

	memcpy(&result, body, sizeof(result));
	PROMISE(strnlen(result.text, WIRE_TEXT_MAX) < WIRE_TEXT_MAX);
	PROMISE(result.rc <= 0);
}

static void wants_read(const uint8_t *body, size_t n)
{
	struct wire_want want;

	for (size_t i = 0; i < n; i++) {
		memcpy(&want, body + i * sizeof(want), sizeof(want));
		PROMISE(want.hash != HASH_NONE && want.hash <= HASH_MASK);
		PROMISE(want.frame != WIRE_FRAME_NONE);
	}
}

static void publish_read(const uint8_t *body, const struct wire_head *head)
{
	struct wire_publish publish;

	memcpy(&publish, body, sizeof(publish));
	PROMISE(publish.count && publish.count <= WIRE_PUBLISH_MAX);
	PROMISE(sizeof(*head) + sizeof(publish) +
			publish.count *
				(sizeof(struct wire_want) + PAGE_BYTES) ==
		head->bytes);
	wants_read(body + sizeof(publish), publish.count);
}

static void message_read(const uint8_t *msg, const struct wire_head *head)
{
	const uint8_t *body = msg + sizeof(*head);

	switch ((enum wire_type)head->type) {
	case WIRE_HELLO:
		hello_read(body);
		break;
	case WIRE_RESULT:
		result_read(body);
		break;
	case WIRE_WANT:
	case WIRE_DECLINE:
		wants_read(body, wire_count(head, sizeof(struct wire_want)));
		break;
	case WIRE_PUBLISH:
		publish_read(body, head);
		break;
	case WIRE_HAVE:
	case WIRE_OFFER:
	case WIRE_RELEASE:
	case WIRE_STATS:
	case WIRE_WELCOME:
	case WIRE_REFUSE:
	case WIRE_GRANT:
	case WIRE_TARGET:
	case WIRE_COMMAND:
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum wire_side from;
	struct wire_head head;
	uint8_t *msg;

	if (!size)
		return 0;
	from = data[0] & 1 ? WIRE_HVD : WIRE_AGENT;
	msg = malloc(size - 1);
	if (size > 1)
		memcpy(msg, data + 1, size - 1);
	if (!wire_check(from, msg, size - 1)) {
		memcpy(&head, msg, sizeof(head));
		PROMISE(head.bytes == size - 1);
		PROMISE((head.type >= WIRE_WELCOME) == (from == WIRE_HVD));
		message_read(msg, &head);
	}
	free(msg);
	return 0;
}

/* The length of a type's body, now and then off by a little. */
static size_t body_bytes(unsigned type, unsigned seed)
{
	static const size_t bytes[] = {
		sizeof(struct wire_hello),
		sizeof(struct wire_have),
		sizeof(struct wire_offer),
		sizeof(struct wire_publish) + sizeof(struct wire_want) +
			PAGE_BYTES,
		sizeof(struct wire_want),
		sizeof(struct wire_release),
		sizeof(struct wire_stats),
		sizeof(struct wire_result),
		sizeof(struct wire_welcome),
		sizeof(struct wire_refuse),
		sizeof(struct wire_want),
		sizeof(struct wire_grant),
		sizeof(struct wire_target),
		sizeof(struct wire_command),
	};
	size_t times = type == WIRE_HELLO ? 1 : 1 + (seed >> 8) % 4 / 3;

	return bytes[type % ARRAY_LEN(bytes)] * times;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max,
			       unsigned seed)
{
	struct wire_head head = {.version = WIRE_VERSION};
	size_t want, least = 1 + sizeof(head);
	unsigned type = seed % 14;

	size = LLVMFuzzerMutate(data, size, max);
	if (max < least || seed >> 28 == 0)
		return size;
	want = least + body_bytes(type, seed);
	if (want > max)
		want = max;
	if (want > size)
		memset(data + size, 0, want - size);
	if (seed >> 24 & 7) { /* else: as long as it is */
		size = want;
		data[0] = type >= 8;
		head.type = (uint16_t)(type < 8 ? type + WIRE_HELLO
						: type - 8 + WIRE_WELCOME);
	} else if (size < least) {
		return size;
	} else {
		memcpy(&head.type, data + 3, sizeof(head.type));
	}
	head.bytes = (uint32_t)(size - 1);
	memcpy(data + 1, &head, sizeof(head));
	return size;
}
