/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * channel_check against any packet, and what a checked request promises its
 * reader: length, number of the pool, ranges. What passes is then done in a
 * store as hvd does it, so nothing that passes may harm it, either. The packet
 * is copied to memory of exactly its size, so a read past its end is seen.
 *
 * Input: packets, each behind two bytes of length.
 *
 * fuzz-max-len: 16384
 */
#include "hv/line/channel.h"
#include "hv/line/request.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PROMISE(truth)                                                         \
	do {                                                                   \
		if (!(truth))                                                  \
			abort();                                               \
	} while (0)

static struct tmem *tm;
static struct tmem_client *client;

static void client_make(void)
{
	static const uint8_t uuid[16] = {5};

	if (!tm)
		PROMISE(!tmem_create((uint64_t)16 << 20, &tm));
	PROMISE(!tmem_client_create(tm, "fuzz", &client));
	PROMISE(!tmem_client_auth(client, uuid, true));
}

static void promises_check(const struct line_entry *e, size_t n)
{
	PROMISE(n == sizeof(*e) + (e->op == LINE_OP_PUT ? LINE_PAGE_BYTES : 0));
	if (e->op == LINE_OP_POOL_CREATE) {
		PROMISE(e->pool == (int32_t)LINE_POOL_SHARED);
		PROMISE(e->index < CHANNEL_POOLS_MAX);
	} else {
		PROMISE(e->pool >= 0 && e->pool < CHANNEL_POOLS_MAX);
	}
	if (e->op == LINE_OP_FLUSH_RANGE)
		PROMISE(e->count <= CHANNEL_RANGE_MAX &&
			e->count <= UINT64_C(0x100000000) - e->index);
}

static void packet_try(const uint8_t *data, size_t n)
{
	uint8_t *msg = malloc(n ? n : 1), page[LINE_PAGE_BYTES] = {0};
	struct line_counts count = {0};
	struct line_entry e;

	PROMISE(msg);
	memcpy(msg, data, n);
	if (!channel_check(msg, n)) {
		memcpy(&e, msg, sizeof(e));
		promises_check(&e, n);
		if (e.op == LINE_OP_PUT)
			memcpy(page, msg + sizeof(e), sizeof(page));
		(void)request_do(client, NULL, &e, page, &count);
		PROMISE(!count.rejects);
	}
	free(msg);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t at = 0, n;

	client_make();
	while (at + 2 <= size) {
		n = data[at] | (size_t)data[at + 1] << 8;
		at += 2;
		n = n < size - at ? n : size - at;
		packet_try(data + at, n);
		at += n;
	}
	PROMISE(!tmem_check(tm));
	tmem_client_destroy(client);
	return 0;
}
