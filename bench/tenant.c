// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A process that stands for a desktop at work: it holds a captured desktop's
 * memory, announced for merging before it is filled, as QEMU does, and touches
 * it as the desktop did. bench/replay.c only holds memory; here the question is
 * how long a desktop waits for its own.
 *
 *   tenant --ram FILE --plan FILE [--shift K] [--scale N]
 *
 * The plan (bench/lib/plan.py) says which pages of the capture this one has, in
 * order: uint32 page numbers and two flags,
 *
 *   OWN      the content is in no other capture. With --shift K each of its
 *            bytes but zeroes is replaced, b -> 1 + (b - 1 + K) mod 255:
 * another content for another desktop, with the same repetitions at the same
 *            places, so it compresses alike (adding a constant to words would
 *            break those that do not lie on word borders).
 *   WRITTEN  it changed within WRITTEN_S seconds in the capture
 *
 * A pass of the work comes once a second and stands for N seconds:
 *
 *   hot    written pages, and as many others       all of them
 *   warm   a tenth of the rest                     N / 60 of them
 *   cold   what is left                            N / 6000 of it, at random
 *
 * Each page visited is read whole and computed with; a written one gets one
 * word changed when it is due. What the first access to a page takes beyond
 * WAIT_NS is waiting for memory: a page that is there takes a tenth of that.
 * Counted apart from the computing, waits are not blurred by what else the
 * processor's caches and its other programs do.
 *
 * Prints "ready BASE BYTES PAGES"; "report" on its standard input prints what
 * the passes since the last report took. It ends with its input.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bench/lib/tool.h"

#define OWN	     ((uint32_t)1 << 31)
#define WRITTEN	     ((uint32_t)1 << 30)
#define PAGE_MASK    (WRITTEN - 1)
#define WRITTEN_S    10
#define WARM_S	     60
#define WARM_ONE_IN  10
#define COLD_S	     6000
#define VISIT_ROUNDS 2 /* over the page's words: 1.3 us */
#define WAIT_NS	     2000
#define WORDS	     (PAGE_BYTES / sizeof(uint64_t))

/* Of all passes since the last report. */
struct tally {
	uint64_t passes;
	uint64_t hot_ns, other_ns; /* without waits */
	uint64_t wait_ns, waits, worst_ns;
};

struct pages {
	uint32_t *at;
	size_t n;
};

static struct {
	struct tool_ram ram;
	uint32_t *plan;
	size_t pages; /* of the plan */
	uint8_t substitute[256];
	uint64_t scale;

	struct pages written, read, warm, cold;
	size_t warm_hand, write_hand;
	uint64_t warm_due, cold_due, write_due; /* fractions, in pages * s */
	uint64_t random, sink;

	pthread_mutex_t lock;
	struct tally tally; /* under the lock */
} tn = {.scale = 1, .random = 1, .lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- memory ---------------------------------------------------------------
 */

static void plan_read(const char *path)
{
	FILE *f = fopen(path, "re");
	struct stat st;

	if (!f || fstat(fileno(f), &st) < 0)
		tool_fail(path);
	tn.pages = (size_t)st.st_size / sizeof(*tn.plan);
	tn.plan = malloc(tn.pages * sizeof(*tn.plan) + 1);
	if (!tn.plan ||
	    fread(tn.plan, sizeof(*tn.plan), tn.pages, f) != tn.pages)
		tool_fail(path);
	fclose(f);
}

static void ram_map(void)
{
	tool_ram_map(&tn.ram, tn.pages);
	if (madvise(tn.ram.at, tool_ram_bytes(&tn.ram), MADV_MERGEABLE) < 0)
		tool_fail("MADV_MERGEABLE");
	if (madvise(tn.ram.at, tool_ram_bytes(&tn.ram), MADV_DONTFORK) < 0)
		tool_fail("MADV_DONTFORK");
}

static void substitute_set(unsigned shift)
{
	for (unsigned b = 1; b < 256; b++)
		tn.substitute[b] = (uint8_t)(1 + (b - 1 + shift) % 255);
}

static void page_fill(int fd, size_t page, unsigned shift)
{
	uint8_t buf[PAGE_BYTES];
	uint32_t from = tn.plan[page];
	off_t at = (off_t)(from & PAGE_MASK) * (off_t)PAGE_BYTES;

	if (pread(fd, buf, sizeof(buf), at) != (ssize_t)sizeof(buf))
		tool_fail("reading captured memory");
	if (shift && (from & OWN))
		for (size_t i = 0; i < sizeof(buf); i++)
			buf[i] = tn.substitute[buf[i]];
	memcpy(tool_page(&tn.ram, page), buf, sizeof(buf));
}

static void fill(const char *path, unsigned shift)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		tool_fail(path);
	substitute_set(shift);
	for (size_t page = 0; page < tn.pages; page++)
		page_fill(fd, page, shift);
	close(fd);
}

/* ---- which pages are how warm ---------------------------------------------
 */

static void pages_init(struct pages *p)
{
	p->at = malloc(tn.pages * sizeof(*p->at) + 1);
	if (!p->at)
		tool_fail("memory");
}

static void pages_add(struct pages *p, size_t page)
{
	p->at[p->n++] = (uint32_t)page;
}

/* By a hash of the page's number: the same share everywhere in the memory. */
static void sort_by_warmth(void)
{
	size_t written = 0;

	pages_init(&tn.written);
	pages_init(&tn.read);
	pages_init(&tn.warm);
	pages_init(&tn.cold);
	for (size_t page = 0; page < tn.pages; page++)
		written += !!(tn.plan[page] & WRITTEN);
	for (size_t page = 0; page < tn.pages; page++) {
		uint64_t r = tool_mixed(page);

		if (tn.plan[page] & WRITTEN)
			pages_add(&tn.written, page);
		else if (r % tn.pages < written)
			pages_add(&tn.read, page);
		else if (tool_mixed(r) % WARM_ONE_IN == 0)
			pages_add(&tn.warm, page);
		else
			pages_add(&tn.cold, page);
	}
}

/* ---- the work -------------------------------------------------------------
 */

static void wait_count(struct tally *t, uint64_t ns)
{
	if (ns < WAIT_NS)
		return;
	t->waits++;
	t->wait_ns += ns;
	t->worst_ns = max_u64(t->worst_ns, ns);
}

static void compute(const void *page)
{
	const _Atomic uint64_t *w = page;
	uint64_t sum = tn.sink;

	for (unsigned round = 0; round < VISIT_ROUNDS; round++)
		for (size_t i = 0; i < WORDS; i++)
			sum = (sum ^ atomic_load_explicit(
					     &w[i], memory_order_relaxed)) *
			      0x94d049bb133111ebu;
	tn.sink = sum;
}

static void visit(struct tally *t, size_t page, bool write)
{
	_Atomic uint64_t *w = (void *)tool_page(&tn.ram, page);
	uint64_t start = tool_now_ns();

	if (write) /* always the same word: it goes on compressing alike */
		atomic_store(&w[tool_mixed(page) % WORDS], ++tn.random);
	else
		(void)atomic_load(&w[0]);
	wait_count(t, tool_now_ns() - start);
	compute(tool_page(&tn.ram, page));
}

/* So many of n, of which each comes once in `period` seconds. */
static size_t due(uint64_t *fraction, size_t n, uint64_t period)
{
	*fraction += n * tn.scale;
	size_t count = (size_t)(*fraction / period);
	*fraction %= period;
	return count;
}

/* A write comes once in WRITTEN_S, not oftener than once a pass. */
static void pass_hot(struct tally *t)
{
	size_t n = tn.written.n;
	size_t writes = min_u64(n, due(&tn.write_due, n, WRITTEN_S));

	for (size_t i = 0; i < n; i++)
		visit(t, tn.written.at[(tn.write_hand + i) % n], i < writes);
	tn.write_hand = n ? (tn.write_hand + writes) % n : 0;
	for (size_t i = 0; i < tn.read.n; i++)
		visit(t, tn.read.at[i], false);
}

static void pass_other(struct tally *t)
{
	for (size_t n = due(&tn.warm_due, tn.warm.n, WARM_S); n; n--)
		visit(t, tn.warm.at[tn.warm_hand++ % tn.warm.n], false);
	for (size_t n = due(&tn.cold_due, tn.cold.n, COLD_S); n; n--)
		visit(t, tn.cold.at[tool_mixed(++tn.random) % tn.cold.n],
		      false);
}

static void pass(struct tally *t)
{
	uint64_t start = tool_now_ns(), waited;

	pass_hot(t);
	waited = t->wait_ns;
	t->hot_ns = tool_now_ns() - start - waited;
	start = tool_now_ns();
	pass_other(t);
	t->other_ns = tool_now_ns() - start - (t->wait_ns - waited);
}

static void tally_add(const struct tally *one)
{
	pthread_mutex_lock(&tn.lock);
	tn.tally.passes++;
	tn.tally.hot_ns += one->hot_ns;
	tn.tally.other_ns += one->other_ns;
	tn.tally.wait_ns += one->wait_ns;
	tn.tally.waits += one->waits;
	tn.tally.worst_ns = max_u64(tn.tally.worst_ns, one->worst_ns);
	pthread_mutex_unlock(&tn.lock);
}

/* A pass that took longer than a second is followed by the next at once. */
static void *work_main(void *arg)
{
	uint64_t next = tool_now_ns();

	(void)arg;
	pthread_setname_np(pthread_self(), "work");
	for (;;) {
		struct tally one = {0};
		struct timespec ts;

		pass(&one);
		tally_add(&one);
		next = max_u64(next + TOOL_SECOND_NS, tool_now_ns());
		ts = (struct timespec){(time_t)(next / TOOL_SECOND_NS),
				       (long)(next % TOOL_SECOND_NS)};
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts,
				       NULL) == EINTR)
			;
	}
	return NULL;
}

static void report(void)
{
	struct tally t;

	pthread_mutex_lock(&tn.lock);
	t = tn.tally;
	tn.tally = (struct tally){0};
	pthread_mutex_unlock(&tn.lock);
	printf("{\"passes\": %ju, \"hot_ns\": %ju, \"other_ns\": %ju, "
	       "\"wait_ns\": %ju, \"waits\": %ju, \"worst_ns\": %ju}\n",
	       (uintmax_t)t.passes, (uintmax_t)t.hot_ns, (uintmax_t)t.other_ns,
	       (uintmax_t)t.wait_ns, (uintmax_t)t.waits, (uintmax_t)t.worst_ns);
	fflush(stdout);
}

/* ---- the command line -----------------------------------------------------
 */

struct options {
	const char *ram, *plan;
	unsigned shift;
};

static bool option_read(struct options *o, const char *name, const char *value)
{
	if (!strcmp(name, "--ram"))
		o->ram = value;
	else if (!strcmp(name, "--plan"))
		o->plan = value;
	else if (!strcmp(name, "--shift"))
		o->shift = (unsigned)strtoul(value, NULL, 10) % 255;
	else if (!strcmp(name, "--scale"))
		tn.scale = strtoul(value, NULL, 10);
	else
		return false;
	return true;
}

int main(int argc, char **argv)
{
	struct options o = {0};
	bool good = argc % 2 == 1;
	pthread_t work;
	char line[64];

	for (int i = 1; good && i + 1 < argc; i += 2)
		good = option_read(&o, argv[i], argv[i + 1]);
	if (!good || !o.ram || !o.plan || !tn.scale) {
		fprintf(stderr, "usage: tenant --ram FILE --plan FILE "
				"[--shift K] [--scale N]\n");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	plan_read(o.plan);
	ram_map();
	fill(o.ram, o.shift);
	tn.random = tool_mixed((uint64_t)getpid());
	sort_by_warmth();
	if (pthread_create(&work, NULL, work_main, NULL))
		tool_fail("thread");
	printf("ready %jx %zu %zu\n", (uintmax_t)(uintptr_t)tn.ram.at,
	       tool_ram_bytes(&tn.ram), tn.pages);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		report();
	return 0;
}
