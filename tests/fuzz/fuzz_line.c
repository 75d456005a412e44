/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest that writes anything anywhere in its line's memory while the line is
 * served, and rings whatever it likes. Afterwards a driver that keeps to the
 * rules must be able to begin and get back what it puts; the store must be
 * sound and within the guest's cap, and another guest's page in it untouched.
 *
 * fuzz-needs: guest-drivers/mini/line.c
 */
#include "guest-drivers/mini/line.h"
#include "hv/line/line.h"
#include "tmem/tmem.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define QUEUES	2
#define ENTRIES LINE_ENTRIES_MIN
#define CAP	((uint64_t)1 << 20)
#define WAIT_NS ((uint64_t)5 * 1000000000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                                                                \
	do {                                                                   \
		if (!(x))                                                      \
			abort();                                               \
	} while (0)

struct input {
	const uint8_t *at;
	size_t left;
};

static struct tmem *tm;
static struct tmem_client *other;
static struct line *line;
static uint8_t *memory;
static size_t memory_bytes;
static const struct tmem_oid oid = {{1, 2, 3}};
static uint8_t other_page[LINE_PAGE_BYTES];

static uint32_t take(struct input *in, unsigned bytes)
{
	uint32_t n = 0;

	for (; bytes && in->left; bytes--, in->left--)
		n = n << 8 | *in->at++;
	return n;
}

static void nobody_home(void *arg, unsigned vector)
{
	(void)arg;
	(void)vector;
}

/* ---- the world, once ---- */

static void world_make(void)
{
	struct line_config config = {
		.name = "guest",
		.queues = QUEUES,
		.entries = ENTRIES,
		.host_peer = 1,
		.cap_bytes = CAP,
		.settings = {.swap_pages = 256, .ephemeral = true},
		.kick = nobody_home,
	};

	MUST(!tmem_create(0, &tm));
	MUST(!tmem_client_create(tm, "other", &other));
	MUST(tmem_pool_create(other, TMEM_PERSISTENT, NULL) == 0);
	for (size_t i = 0; i < sizeof(other_page); i++)
		other_page[i] = (uint8_t)(i * i >> 3);
	MUST(!tmem_put(other, 0, &oid, 7, other_page));
	config.tm = tm;
	MUST(!line_create(&config, &line));
	memory = line_memory(line, &memory_bytes);
	MUST(memory_bytes >= line_bytes(QUEUES, ENTRIES));
}

/* ---- the vandal ---- */

static struct line_queue *ring_of(unsigned queue)
{
	return (void *)(memory + line_queue_at(ENTRIES, queue));
}

/* A place in one of the parts, each as likely as the others. */
static uint8_t *place(struct input *in)
{
	unsigned queue = take(in, 1) % QUEUES;
	uint8_t *at = (uint8_t *)ring_of(queue);
	uint32_t where = take(in, 2);

	switch (take(in, 1) % 5) {
	case 0:
		return memory + where % 256;
	case 1:
		return memory + LINE_PAGE_BYTES + where % 512;
	case 2:
		return at + where % sizeof(struct line_queue);
	case 3:
		return at + line_entry_at(where % ENTRIES);
	default:
		return memory + (size_t)where * 37 % (memory_bytes - 256);
	}
}

static void scribble(struct input *in)
{
	uint8_t *to = place(in);
	uint32_t n = take(in, 1) % 64;

	for (uint32_t i = 0; i < n; i++)
		to[i] = (uint8_t)take(in, 1);
}

/* Bytes as a request, posted as the rules have it. */
static void post(struct input *in)
{
	unsigned queue = take(in, 1) % QUEUES;
	struct line_queue *ring = ring_of(queue);
	uint32_t tail = __atomic_load_n(&ring->tail, __ATOMIC_RELAXED);
	struct line_entry *e =
		(void *)((uint8_t *)ring + line_entry_at(tail % ENTRIES));

	e->op = (line_u8)(take(in, 1) % 9);
	e->pool = (line_s32)(int8_t)take(in, 1);
	e->oid[0] = take(in, 1) % 4;
	e->oid[1] = e->oid[2] = 0;
	e->index = take(in, 1) & 0x80 ? UINT32_MAX - take(in, 1) : take(in, 1);
	e->count = take(in, 4) >> take(in, 1) % 32;
	__atomic_store_n(&ring->tail, tail + 1, __ATOMIC_SEQ_CST);
	line_ring(line, LINE_VECTOR_QUEUE + queue);
}

static void step(struct input *in)
{
	struct line_guest *guest = (void *)(memory + LINE_PAGE_BYTES);
	struct line_settings settings;
	struct line_stats stats;

	switch (take(in, 1) % 8) {
	case 0:
	case 1:
		scribble(in);
		break;
	case 2:
	case 3:
		post(in);
		break;
	case 4:
		line_ring(line, take(in, 1));
		break;
	case 5:
		__atomic_store_n(&guest->epoch, take(in, 1) % 4,
				 __ATOMIC_RELEASE);
		line_ring(line, LINE_VECTOR_CONTROL);
		break;
	case 6:
		line_settings_get(line, &settings);
		line_settings_set(line, &settings);
		line_guest_stats(line, &stats);
		break;
	default:
		sched_yield();
	}
}

/* ---- the driver after it ---- */

static void until(bool (*done)(void *arg), void *arg)
{
	uint64_t end = host_real.now_ns() + WAIT_NS;

	while (!done(arg)) {
		MUST(host_real.now_ns() < end);
		sched_yield();
	}
}

/* Not by mini's eyes: what it takes for granted is what is in ruins. */
static bool page_is_whole(void *arg)
{
	const struct line_host *host = (const void *)memory;

	(void)arg;
	return host->magic == LINE_MAGIC && host->version == LINE_VERSION &&
	       host->bytes == line_bytes(QUEUES, ENTRIES) &&
	       host->queues == QUEUES && host->entries == ENTRIES &&
	       host->host_peer == 1 && host->features == 7 &&
	       host->swap_pages == 256 && host->ephemeral == 1;
}

static bool has_begun(void *arg)
{
	int rc = line_view_begun(arg);

	MUST(!rc || rc == LINE_EAGAIN);
	return !rc;
}

struct asked {
	struct line_tx *tx;
	uint32_t position;
};

static bool is_done(void *arg)
{
	struct asked *asked = arg;
	int rc = line_tx_done(asked->tx, asked->position);

	MUST(rc >= 0);
	return rc;
}

/* page: put's in, get's out. */
static int32_t ask(struct line_tx *tx, const struct line_entry *e, bool put,
		   uint8_t *page)
{
	struct asked asked = {.tx = tx};
	int32_t result;

	MUST(!line_tx_post(tx, e, put ? page : NULL, true, &asked.position));
	if (line_tx_publish(tx))
		line_ring(line, LINE_VECTOR_QUEUE +
					(tx->queue == ring_of(1) ? 1 : 0));
	until(is_done, &asked);
	result = line_tx_result(tx, asked.position);
	if (page && !put)
		memcpy(page, line_tx_slot(tx, asked.position), LINE_PAGE_BYTES);
	line_tx_release(tx, asked.position);
	return result;
}

static void pool_try(struct line_tx *tx, int32_t flags, uint8_t fill)
{
	struct line_entry e = {.op = LINE_OP_POOL_CREATE, .pool = flags};
	uint8_t page[LINE_PAGE_BYTES], got[LINE_PAGE_BYTES];
	int32_t pool = ask(tx, &e, false, NULL);

	MUST(pool >= 0 && pool < TMEM_POOLS_MAX);
	memset(page, fill, sizeof(page));
	page[fill] = 99;
	e = (struct line_entry){.op = LINE_OP_GET, .pool = pool, .index = 5};
	MUST(ask(tx, &e, false, got) == LINE_ENOENT);
	e.op = LINE_OP_PUT;
	MUST(ask(tx, &e, true, page) == 0);
	e.op = LINE_OP_GET;
	MUST(ask(tx, &e, false, got) == 0);
	MUST(!memcmp(got, page, sizeof(page)));
}

static void behave(uint32_t seed)
{
	static uint8_t kept[QUEUES][ENTRIES];
	struct line_tx tx[QUEUES];
	struct line_view view;

	line_ring(line, LINE_VECTOR_CONTROL);
	until(page_is_whole, NULL);
	MUST(!line_view_init(&view, memory, memory_bytes));
	line_view_begin(&view, seed, ~0u);
	line_ring(line, LINE_VECTOR_CONTROL);
	until(has_begun, &view);
	for (unsigned q = 0; q < QUEUES; q++) {
		MUST(!line_tx_init(&tx[q], &view, q, kept[q]));
		pool_try(&tx[q], LINE_POOL_PERSISTENT, 10);
		pool_try(&tx[q], LINE_POOL_EPHEMERAL, 20);
	}
}

/* ---- everybody else ---- */

static void world_check(void)
{
	uint8_t got[LINE_PAGE_BYTES];
	struct tmem_client_stats st;

	tmem_client_stats(line_client(line), &st);
	MUST(st.bytes <= CAP);
	MUST(!tmem_get(other, 0, &oid, 7, got));
	MUST(!memcmp(got, other_page, sizeof(got)));
	MUST(!tmem_check(tm));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};

	if (!tm)
		world_make();
	while (in.left)
		step(&in);
	behave((uint32_t)size * 2654435761u | 1);
	world_check();
	return 0;
}
