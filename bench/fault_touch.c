// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What it costs to touch memory that is compressed: one side a run, for the
 * bench `fault`. The process fills its memory, has all of it compressed, and
 * then touches every page once, timing each touch.
 *
 *   fault_touch ours|swap [--mib N] [--threads N] [--order random|sequential]
 *               [--handlers N] [--seed N] [--touches N] [--gap MICROSECONDS]
 *               [--poll MICROSECONDS]
 *
 *   ours   the pages are in the manager's store: a touch is a userfaultfd
 *          message, answered by a thread of the manager (hv/mm, as in a VMM)
 *   swap   the pages are where madvise(MADV_PAGEOUT) put them: on the swap
 *          device the caller set up (zram, or a file with zswap in front)
 *
 * With a gap each touch finds everybody asleep: a fault now and then, not a
 * storm of them.
 *
 * Both sides see the same bytes and the same order. What is timed is a read of
 * one byte, by two readings of the clock around it; what the clock itself takes
 * is printed and not subtracted. CPU is the process's own, user and system: the
 * manager's threads run in it, and a swap-in is done by the thread that needs
 * it. Prints one JSON object. Exit code 77: this side cannot be had here.
 *
 * Dropped: a cgroup limit to push pages out (which pages leave is then the
 * kernel's choice, and reclaim runs beside the measurement).
 */
#include "hv/mm/mm.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define THREADS_MAX 16
#define SCANS	    5
#define ENOUGH(n)   ((n) / 100 * 99) /* pages out, of n */
#define ROUNDS_MAX  4000

struct plan {
	bool ours;
	bool sequential;
	size_t pages;
	unsigned threads;
	unsigned handlers;
	unsigned gap_us;
	unsigned poll_us;
	size_t touches; /* of all pages; 0: each */
	uint64_t seed;
};

struct toucher {
	pthread_t id;
	const uint32_t *order;
	uint32_t *took_ns;
	size_t n;
	uint64_t wrong;
};

static struct plan plan = {
	.pages = 16 * CHUNK_PAGES,
	.threads = 1,
	.poll_us = 50, /* as the agent does */
	.seed = 1,
};
static uint8_t *ram;
static atomic_bool go;

/* The manager's ages and trials pass at our pace. */
static _Atomic uint64_t clock_ahead_ns;
static struct host_ops host;

static uint64_t host_now_ns(void)
{
	return host_real.now_ns() + clock_ahead_ns;
}

static void die(const char *what, int rc)
{
	fprintf(stderr, "fault_touch: %s (%d)\n", what, rc);
	exit(1);
}

static void unable(const char *why, int rc)
{
	fprintf(stderr, "fault_touch: %s (%d)\n", why, rc);
	exit(77);
}

static uint64_t random_next(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15u);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/*
 * As a desktop's pages compress: half of them to less than half. Of each 16
 * bytes a page's share is random, the rest repeats. The first byte of a page
 * tells which it is.
 */
static void page_fill(size_t page)
{
	uint64_t state = plan.seed * 0x100000001b3 + page;
	uint64_t fresh = random_next(&state) % 256;
	uint8_t *at = ram + page * PAGE_BYTES;

	for (size_t i = 0; i < PAGE_BYTES; i += 16) {
		uint64_t w[2] = {0x0101010101010101u * (page & 0xff), fresh};

		if (random_next(&state) % 256 < fresh) {
			w[0] = random_next(&state);
			w[1] = random_next(&state);
		}
		memcpy(at + i, w, sizeof(w));
	}
	at[0] = (uint8_t)(page * 7 + 1);
}

static void ram_map(void)
{
	size_t bytes = plan.pages * PAGE_BYTES;
	uint8_t *at = mmap(NULL, bytes + CHUNK_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		die("no memory", 0);
	ram = (uint8_t *)(((uintptr_t)at + CHUNK_BYTES - 1) &
			  ~(uintptr_t)(CHUNK_BYTES - 1));
	madvise(ram, bytes, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < plan.pages; i++)
		page_fill(i);
}

/* ---- our side ---- */

static uint64_t hash(void *arg, const void *page)
{
	uint64_t w[4];

	(void)arg;
	memcpy(w, page, sizeof(w));
	return ((w[0] * 31 + w[1] * 7 + w[2] * 3 + w[3]) & 0xffffffffff) | 1;
}

static bool not_told(void *arg, gfn_t gfn, uint64_t h, uint64_t was,
		     unsigned age)
{
	(void)arg, (void)gfn, (void)h, (void)was, (void)age;
	return false;
}

static void scan_all(struct mm *mm)
{
	struct mm_scan_ops ops = {hash, not_told, NULL};

	for (size_t c = 0; c < mm_chunks(mm); c++)
		(void)mm_scan_chunk(mm, c, &ops);
}

static size_t compressed(struct mm *mm)
{
	struct mm_stats st;

	mm_stats(mm, &st);
	return st.compressed_pages;
}

static void store_all(struct mm *mm)
{
	struct mm_target target = {.resident_bytes = 1, .compress = true};

	for (int i = 0; i < SCANS; i++)
		scan_all(mm);
	mm_target_set(mm, &target);
	for (int i = 0; i < ROUNDS_MAX; i++) {
		if (compressed(mm) >= ENOUGH(plan.pages))
			break;
		mm_reclaim(mm);
		clock_ahead_ns += 2000000000;
		if (i % 64 == 63)
			scan_all(mm);
	}
	target = (struct mm_target){.resident_bytes = 0};
	mm_target_set(mm, &target);
	if (compressed(mm) < ENOUGH(plan.pages))
		die("pages stay out of the store", (int)compressed(mm));
}

static struct mm *ours_begin(void)
{
	struct mm_config config = {
		.host = &host,
		.uffd_device = -1,
		.fault_threads = plan.handlers,
		.fault_poll_ns = plan.poll_us * (uint64_t)1000,
	};
	struct mm *mm = NULL;
	int rc;

	host = host_real;
	host.now_ns = host_now_ns;
	rc = mm_create(&config, &mm);
	if (rc < 0)
		unable("no userfaultfd", rc);
	rc = mm_range_add(mm, hva_of(ram), plan.pages * PAGE_BYTES, false);
	if (rc < 0)
		die("memory is refused", rc);
	store_all(mm);
	return mm;
}

/* ---- the rival's ---- */

static size_t swapped(void)
{
	uint64_t entry[CHUNK_PAGES];
	size_t n = 0;

	for (size_t i = 0; i < plan.pages; i += CHUNK_PAGES) {
		int rc = host_real.pagemap_read(ram + i * PAGE_BYTES,
						CHUNK_PAGES, entry);

		if (rc < 0)
			unable("no pagemap", rc);
		for (size_t k = 0; k < CHUNK_PAGES; k++)
			n += entry[k] >> 62 & 1;
	}
	return n;
}

static void swap_begin(void)
{
	for (int i = 0; i < 20 && swapped() < ENOUGH(plan.pages); i++) {
		if (madvise(ram, plan.pages * PAGE_BYTES, MADV_PAGEOUT) < 0)
			unable("no MADV_PAGEOUT", 0);
		usleep(50000); /* pages under writeback leave a moment later */
	}
	if (swapped() < ENOUGH(plan.pages))
		unable("pages are not swapped out", (int)swapped());
}

/* ---- touching ---- */

static uint32_t *order_make(void)
{
	uint32_t *order = malloc(plan.pages * sizeof(*order));
	uint64_t state = plan.seed;

	if (!order)
		die("no memory", 0);
	for (size_t i = 0; i < plan.pages; i++)
		order[i] = (uint32_t)i;
	for (size_t i = plan.pages - 1; i > 0 && !plan.sequential; i--) {
		size_t k = random_next(&state) % (i + 1);
		uint32_t was = order[i];

		order[i] = order[k];
		order[k] = was;
	}
	return order;
}

static void *touch_all(void *arg)
{
	struct toucher *me = arg;

	while (!go)
		usleep(100);
	for (size_t i = 0; i < me->n; i++) {
		const volatile uint8_t *at = ram + me->order[i] * PAGE_BYTES;
		uint64_t since = host_real.now_ns();
		uint8_t got = *at;

		me->took_ns[i] = (uint32_t)min_u64(host_real.now_ns() - since,
						   UINT32_MAX);
		if (plan.gap_us)
			usleep(plan.gap_us);
		me->wrong += got != (uint8_t)(me->order[i] * 7 + 1);
	}
	return NULL;
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static double cpu_s(void)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	return (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
	       (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
}

static double clock_cost_ns(void)
{
	uint64_t since = host_real.now_ns();

	for (int i = 0; i < 1000; i++)
		(void)host_real.now_ns();
	return (double)(host_real.now_ns() - since) / 1000;
}

/* Returns when they begin: by then they have faulted their stacks in. */
static uint64_t touch_start(struct toucher *t, const uint32_t *order,
			    uint32_t *took, size_t each)
{
	for (unsigned i = 0; i < plan.threads; i++) {
		t[i] = (struct toucher){
			.order = order + i * each,
			.took_ns = took + i * each,
			.n = each,
		};
		if (pthread_create(&t[i].id, NULL, touch_all, &t[i]))
			die("no thread", 0);
	}
	usleep(20000);
	return host_real.now_ns();
}

/* Of all the host, in front of any swap device; the bench runs alone. */
static unsigned long zswapped_kib(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	unsigned long kib = 0;
	char line[128];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "Zswapped: %lu", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib;
}

static void print(const uint32_t *took, size_t n, double wall, double cpu,
		  unsigned long zswapped)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += took[i];
	printf("{\"touches\": %zu, \"p50_ns\": %u, \"p99_ns\": %u, "
	       "\"p999_ns\": %u, \"mean_ns\": %.0f, \"wall_s\": %.6f, "
	       "\"cpu_s\": %.6f, \"cpu_ns\": %.0f, \"per_s\": %.0f, "
	       "\"per_core_s\": %.0f, \"clock_ns\": %.1f, "
	       "\"zswapped_kib\": %lu}\n",
	       n, took[n / 2], took[n - 1 - n / 100], took[n - 1 - n / 1000],
	       sum / (double)n, wall, cpu, cpu * 1e9 / (double)n,
	       (double)n / wall, (double)n / cpu, clock_cost_ns(), zswapped);
}

static void measure(void)
{
	struct toucher t[THREADS_MAX];
	uint32_t *order = order_make();
	uint32_t *took = calloc(plan.pages, sizeof(*took));
	size_t most =
		plan.touches ? min_u64(plan.touches, plan.pages) : plan.pages;
	size_t each = most / plan.threads, n = each * plan.threads;
	unsigned long zswapped = zswapped_kib();
	uint64_t since, wrong = 0;
	double cpu, wall;

	if (!took)
		die("no memory", 0);
	memset(took, 1, plan.pages * sizeof(*took));
	since = touch_start(t, order, took, each);
	cpu = cpu_s();
	go = true;
	for (unsigned i = 0; i < plan.threads; i++) {
		pthread_join(t[i].id, NULL);
		wrong += t[i].wrong;
	}
	wall = (double)(host_real.now_ns() - since) / 1e9;
	cpu = cpu_s() - cpu;
	if (wrong)
		die("pages came back with other bytes", (int)wrong);
	qsort(took, n, sizeof(*took), by_size);
	print(took, n, wall, cpu, zswapped);
	free(order);
	free(took);
}

/* ---- the command ---- */

static void option(const char *name, const char *value)
{
	unsigned long n = strtoul(value, NULL, 10);

	if (!strcmp(name, "--mib") && n >= 2 && n <= 65536)
		plan.pages = n / 2 * CHUNK_PAGES;
	else if (!strcmp(name, "--threads") && n >= 1 && n <= THREADS_MAX)
		plan.threads = (unsigned)n;
	else if (!strcmp(name, "--handlers") && n <= 8)
		plan.handlers = (unsigned)n;
	else if (!strcmp(name, "--gap") && n <= 1000000)
		plan.gap_us = (unsigned)n;
	else if (!strcmp(name, "--poll") && n <= 1000)
		plan.poll_us = (unsigned)n;
	else if (!strcmp(name, "--touches"))
		plan.touches = n;
	else if (!strcmp(name, "--seed"))
		plan.seed = n;
	else if (!strcmp(name, "--order"))
		plan.sequential = !strcmp(value, "sequential");
	else
		die(name, -1);
}

int main(int argc, char **argv)
{
	struct mm *mm = NULL;

	if (argc < 2 || argc % 2)
		die("usage: fault_touch ours|swap [--option value]...", argc);
	plan.ours = !strcmp(argv[1], "ours");
	for (int i = 2; i < argc; i += 2)
		option(argv[i], argv[i + 1]);
	ram_map();
	if (plan.ours)
		mm = ours_begin();
	else
		swap_begin();
	measure();
	mm_destroy(mm);
	return 0;
}
