/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hot part of bench/line_bench.py: pages through the line to a guest, with
 * a thread of this process as the guest (guest-drivers/mini), against the same
 * calls of the store without a line. One JSON object each.
 *
 *   line store PAGES               put and get by plain calls
 *   line ring PAGES BATCH POLL_US  the same through the ring
 *   line latency PAGES POLL_US     one get at a time, each timed
 *   line idle SECONDS POLL_US      a line that was used, and is not any more
 *
 * PAGES is a file of 4096-byte pages. Puts want no answer, as those of evicted
 * page cache do; gets are posted in batches and copied out of their slots. In a
 * second pass, not timed, each page is compared with what went in.
 *
 * What the host pays is the CPU time of all threads but the guest's: the line's
 * threads are the only others. The guest looks for answers without sleeping, so
 * that the host's share is not mixed with interrupts; what it costs is told,
 * too. CPU time counts what the host's thread does and not what it waits for.
 */
#include "bench/lib/tool.h"
#include "guest-drivers/mini/line.h"
#include "hv/line/line.h"
#include "tmem/tmem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ENTRIES	   256u
#define BATCH_MAX  (ENTRIES / 2)
#define BEGIN_NS   (20 * TOOL_SECOND_NS)
#define LATENCIES  20000u
#define SETTLE_NS  (TOOL_SECOND_NS / 5)
#define LOOKS_MOST 64 /* between looks at whether others want the processor */

struct bench {
	unsigned char *pages;
	uint32_t count;
	uint32_t batch;
	struct tmem *tm;
	struct tmem_client *client; /* without a line */
	struct line *line;
	struct line_view view;
	struct line_tx tx;
	uint8_t kept[ENTRIES];
	uint64_t rings;
	_Atomic uint64_t kicks;
};

struct cost {
	int64_t wall, guest, host; /* ns; the last two of CPU */
};

static const struct tmem_oid oid = {{1, 0, 0}};

static void check(bool good, const char *what)
{
	if (good)
		return;
	errno = EIO;
	tool_fail(what);
}

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * TOOL_SECOND_NS + (uint64_t)ts.tv_nsec;
}

static void pages_load(struct bench *b, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		tool_fail(path);
	b->count = (uint32_t)(st.st_size / PAGE_BYTES);
	b->pages = mmap(NULL, (size_t)st.st_size, PROT_READ,
			MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (b->pages == MAP_FAILED || !b->count)
		tool_fail(path);
	close(fd);
}

static const unsigned char *page_at(const struct bench *b, uint32_t i)
{
	return b->pages + (size_t)i * PAGE_BYTES;
}

/* ---- without a line -------------------------------------------------- */

static void store_put(struct bench *b)
{
	for (uint32_t i = 0; i < b->count; i++)
		check(!tmem_put(b->client, 0, &oid, i, page_at(b, i)), "put");
}

static void store_get(struct bench *b)
{
	unsigned char buf[PAGE_BYTES];

	for (uint32_t i = 0; i < b->count; i++)
		check(!tmem_get(b->client, 0, &oid, i, buf), "get");
}

static void store_verify(struct bench *b)
{
	unsigned char buf[PAGE_BYTES];

	for (uint32_t i = 0; i < b->count; i++) {
		check(!tmem_get(b->client, 0, &oid, i, buf), "get");
		check(!memcmp(buf, page_at(b, i), PAGE_BYTES), "page differs");
	}
}

/* ---- the guest ------------------------------------------------------- */

static void kick(void *arg, unsigned vector)
{
	struct bench *b = arg;

	(void)vector;
	b->kicks++;
}

static struct line_entry entry_of(enum line_op op, uint32_t index)
{
	return (struct line_entry){
		.op = (uint8_t)op, .oid = {1, 0, 0}, .index = index};
}

static void publish(struct bench *b)
{
	if (!line_tx_publish(&b->tx))
		return;
	b->rings++;
	line_ring(b->line, LINE_VECTOR_QUEUE);
}

/* On a busy machine the host's thread may need this processor. */
static void look(unsigned *looks)
{
	__builtin_ia32_pause();
	if (++*looks % LOOKS_MOST == 0)
		sched_yield();
}

static void wait_done(const struct bench *b, uint32_t position)
{
	unsigned looks = 0;
	int rc;

	while (!(rc = line_tx_done(&b->tx, position)))
		look(&looks);
	check(rc == 1, "the line broke");
}

static void post(struct bench *b, const struct line_entry *e, const void *page,
		 bool keep, uint32_t *position)
{
	unsigned looks = 0;
	int rc;

	while ((rc = line_tx_post(&b->tx, e, page, keep, position)) ==
	       LINE_EAGAIN) {
		publish(b);
		look(&looks);
	}
	check(!rc, "post");
}

static void drain(struct bench *b)
{
	unsigned looks = 0;
	int rc;

	publish(b);
	while (!(rc = line_tx_drained(&b->tx)))
		look(&looks);
	check(rc == 1, "the line broke");
}

static int answer(struct bench *b, uint32_t position, void *page)
{
	int result;

	wait_done(b, position);
	result = line_tx_result(&b->tx, position);
	if (page && !result)
		memcpy(page, line_tx_slot(&b->tx, position), PAGE_BYTES);
	line_tx_release(&b->tx, position);
	return result;
}

static int call(struct bench *b, const struct line_entry *e, void *page)
{
	uint32_t position;

	post(b, e, NULL, true, &position);
	publish(b);
	return answer(b, position, page);
}

static void ring_open(struct bench *b, uint64_t poll_us)
{
	struct line_config config = {.tm = b->tm,
				     .name = "bench",
				     .queues = 1,
				     .entries = ENTRIES,
				     .poll_ns = poll_us * 1000,
				     .kick = kick,
				     .arg = b};
	struct line_entry e = entry_of(LINE_OP_POOL_CREATE, 0);
	uint64_t until = tool_now_ns() + BEGIN_NS;
	size_t bytes;
	void *mem;

	e.pool = LINE_POOL_PERSISTENT;
	check(!line_create(&config, &b->line), "no line");
	mem = line_memory(b->line, &bytes);
	check(!line_view_init(&b->view, mem, bytes), "no view");
	line_view_begin(&b->view, 1, LINE_FEATURE_STATS);
	line_ring(b->line, LINE_VECTOR_CONTROL);
	while (line_view_begun(&b->view)) {
		check(tool_now_ns() < until, "it does not begin");
		sched_yield();
	}
	check(!line_tx_init(&b->tx, &b->view, 0, b->kept), "no queue");
	check(call(b, &e, NULL) == 0, "no pool");
}

static void ring_put(struct bench *b)
{
	for (uint32_t i = 0; i < b->count; i++) {
		struct line_entry e = entry_of(LINE_OP_PUT, i);

		post(b, &e, page_at(b, i), false, NULL);
		if (i % b->batch == b->batch - 1)
			publish(b);
	}
	drain(b);
}

static void batch_get(struct bench *b, uint32_t first, uint32_t n, bool compare)
{
	unsigned char buf[PAGE_BYTES];
	uint32_t position[BATCH_MAX];

	for (uint32_t i = 0; i < n; i++) {
		struct line_entry e = entry_of(LINE_OP_GET, first + i);

		post(b, &e, NULL, true, &position[i]);
	}
	publish(b);
	for (uint32_t i = 0; i < n; i++) {
		check(!answer(b, position[i], buf), "get");
		check(!compare ||
			      !memcmp(buf, page_at(b, first + i), PAGE_BYTES),
		      "page differs");
	}
}

static void all_get(struct bench *b, bool compare)
{
	for (uint32_t i = 0; i < b->count; i += b->batch) {
		uint32_t left = b->count - i;

		batch_get(b, i, left < b->batch ? left : b->batch, compare);
	}
}

static void ring_get(struct bench *b)
{
	all_get(b, false);
}

static void ring_verify(struct bench *b)
{
	all_get(b, true);
}

/* ---- what it costs --------------------------------------------------- */

static struct cost cost_now(void)
{
	struct cost c = {
		.wall = (int64_t)tool_now_ns(),
		.guest = (int64_t)clock_ns(CLOCK_THREAD_CPUTIME_ID),
	};

	c.host = (int64_t)clock_ns(CLOCK_PROCESS_CPUTIME_ID) - c.guest;
	return c;
}

static struct cost phase(struct bench *b, void (*work)(struct bench *))
{
	struct cost from = cost_now(), to;

	work(b);
	to = cost_now();
	return (struct cost){.wall = to.wall - from.wall,
			     .guest = to.guest - from.guest,
			     .host = to.host - from.host};
}

static void print_cost(const struct bench *b, const char *name, struct cost c)
{
	double pages = (double)b->count * 1000;

	printf("\"%s_wall_us\": %.4f, \"%s_guest_us\": %.4f, "
	       "\"%s_host_us\": %.4f, ",
	       name, (double)c.wall / pages, name, (double)c.guest / pages,
	       name, (double)c.host / pages);
}

static void run_store(struct bench *b)
{
	check(!tmem_client_create(b->tm, "bench", &b->client), "no client");
	check(!tmem_pool_create(b->client, TMEM_PERSISTENT, NULL), "no pool");
	print_cost(b, "put", phase(b, store_put));
	print_cost(b, "again", phase(b, store_put));
	print_cost(b, "get", phase(b, store_get));
	store_verify(b);
}

static void run_ring(struct bench *b, uint32_t batch, uint64_t poll_us)
{
	check(batch && batch <= BATCH_MAX, "batch");
	b->batch = batch;
	ring_open(b, poll_us);
	print_cost(b, "put", phase(b, ring_put));
	print_cost(b, "again", phase(b, ring_put));
	print_cost(b, "get", phase(b, ring_get));
	ring_verify(b);
	printf("\"rings\": %" PRIu64 ", ", b->rings);
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void run_latency(struct bench *b, uint64_t poll_us)
{
	uint64_t *took = calloc(LATENCIES, sizeof(*took)), state = 1;
	unsigned char buf[PAGE_BYTES];

	check(took, "memory");
	b->batch = 16;
	ring_open(b, poll_us);
	ring_put(b);
	for (uint32_t n = 0; n < LATENCIES; n++) {
		uint64_t r = tool_random_next(&state) % b->count;
		struct line_entry e = entry_of(LINE_OP_GET, (uint32_t)r);
		uint64_t from = tool_now_ns();

		check(!call(b, &e, buf), "get");
		took[n] = tool_now_ns() - from;
		check(!memcmp(buf, page_at(b, (uint32_t)r), PAGE_BYTES),
		      "page differs");
	}
	qsort(took, LATENCIES, sizeof(*took), compare_u64);
	printf("\"p50_us\": %.3f, \"p99_us\": %.3f, ",
	       (double)took[LATENCIES / 2] / 1e3,
	       (double)took[LATENCIES / 100 * 99] / 1e3);
	free(took);
}

static void nap(uint64_t ns)
{
	struct timespec ts = {(time_t)(ns / TOOL_SECOND_NS),
			      (long)(ns % TOOL_SECOND_NS)};

	while (nanosleep(&ts, &ts))
		;
}

/* The guest's thread sleeps in one call: what runs is the host's. */
static void run_idle(struct bench *b, uint64_t seconds, uint64_t poll_us)
{
	struct line_entry nop = entry_of(LINE_OP_NOP, 0);
	struct line_counts before, after;
	struct cost from, to;

	ring_open(b, poll_us);
	for (unsigned n = 0; n < 1000; n++)
		check(call(b, &nop, NULL) == 0, "nop");
	nap(SETTLE_NS);
	line_counts(b->line, &before);
	from = cost_now();
	nap(seconds * TOOL_SECOND_NS);
	to = cost_now();
	line_counts(b->line, &after);
	printf("\"host_cpu_us_per_s\": %.4f, \"wakeups\": %" PRIu64 ", ",
	       (double)(to.host - from.host) / 1e3 / (double)seconds,
	       after.sleeps - before.sleeps + after.polls - before.polls);
}

static int usage(void)
{
	fprintf(stderr, "usage: line store|ring|latency|idle ... "
			"(see bench/line.c)\n");
	return 2;
}

static uint64_t number(const char *word)
{
	return strtoull(word, NULL, 10);
}

int main(int argc, char **argv)
{
	static struct bench b;

	if (argc < 3)
		return usage();
	check(!tmem_create(0, &b.tm), "no store");
	printf("{");
	if (!strcmp(argv[1], "idle") && argc == 4) {
		run_idle(&b, number(argv[2]), number(argv[3]));
	} else {
		pages_load(&b, argv[2]);
		if (!strcmp(argv[1], "store") && argc == 3)
			run_store(&b);
		else if (!strcmp(argv[1], "ring") && argc == 5)
			run_ring(&b, (uint32_t)number(argv[3]),
				 number(argv[4]));
		else if (!strcmp(argv[1], "latency") && argc == 4)
			run_latency(&b, number(argv[3]));
		else
			return usage();
	}
	line_destroy(b.line);
	check(!tmem_check(b.tm), "the store is damaged");
	tmem_destroy(b.tm);
	printf("\"pages\": %u}\n", b.count);
	return 0;
}
