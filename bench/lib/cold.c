/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that is compressed to the last page but one in a hundred, for the
 * programs that measure what touching it costs.
 *
 *   ours   hv/mm manages it, as in a VMM: the pages are in its store
 *   swap   the pages are where madvise(MADV_PAGEOUT) put them: on the swap
 *          device the caller set up (zram, or a file with zswap in front)
 *
 * Both sides see the same bytes and the same order of touches.
 *
 * Dropped: a cgroup limit to push pages out (which pages leave is then the
 * kernel's choice, and reclaim runs beside the measurement).
 */
#include "bench/lib/cold.h"
#include "hv/mm/mm.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define SCANS	   5
#define ENOUGH(n)  ((n) / 100 * 99) /* pages out, of n */
#define ROUNDS_MAX 4000

/* The manager's ages and trials pass at our pace. */
static _Atomic uint64_t clock_ahead_ns;
static struct host_ops host;

static uint64_t host_now_ns(void)
{
	return host_real.now_ns() + clock_ahead_ns;
}

bool cold_init(struct cold *c, const char *side)
{
	*c = (struct cold){
		.ours = !strcmp(side, "ours"),
		.pages = 16 * CHUNK_PAGES,
		.poll_us = 50, /* as the agent does */
		.seed = 1,
	};
	return c->ours || !strcmp(side, "swap");
}

bool cold_option(struct cold *c, const char *name, const char *value)
{
	unsigned long n = strtoul(value, NULL, 10);

	if (!strcmp(name, "--mib") && n >= 2 && n <= 65536)
		c->pages = n / 2 * CHUNK_PAGES;
	else if (!strcmp(name, "--handlers") && n <= 8)
		c->handlers = (unsigned)n;
	else if (!strcmp(name, "--poll") && n <= 1000)
		c->poll_us = (unsigned)n;
	else if (!strcmp(name, "--touches"))
		c->touches = n;
	else if (!strcmp(name, "--seed"))
		c->seed = n;
	else if (!strcmp(name, "--codec") && !strcmp(value, "lz4"))
		c->lz4 = true;
	else if (!strcmp(name, "--order") && !strcmp(value, "sequential"))
		c->sequential = true;
	else
		return (!strcmp(name, "--order") && !strcmp(value, "random")) ||
		       (!strcmp(name, "--codec") && !strcmp(value, "zstd"));
	return true;
}

/* ---- contents ---- */

uint8_t cold_byte(size_t page)
{
	return (uint8_t)(page * 7 + 1);
}

/*
 * As a desktop's pages compress: half of them to less than half. Of each 16
 * bytes a page's share is random, the rest repeats.
 */
static void page_fill(const struct cold *c, size_t page)
{
	uint64_t state = c->seed * 0x100000001b3 + page;
	uint64_t fresh = tool_random_next(&state) % 256;
	uint8_t *at = tool_page(&c->ram, page);

	for (size_t i = 0; i < PAGE_BYTES; i += 16) {
		uint64_t w[2] = {0x0101010101010101u * (page & 0xff), fresh};

		if (tool_random_next(&state) % 256 < fresh) {
			w[0] = tool_random_next(&state);
			w[1] = tool_random_next(&state);
		}
		memcpy(at + i, w, sizeof(w));
	}
	at[0] = cold_byte(page);
}

void cold_fill(struct cold *c)
{
	tool_ram_map(&c->ram, c->pages);
	madvise(c->ram.at, tool_ram_bytes(&c->ram), MADV_NOHUGEPAGE);
	for (size_t i = 0; i < c->pages; i++)
		page_fill(c, i);
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

static bool all_compressed(const struct cold *c)
{
	struct mm_stats st;

	mm_stats(c->mm, &st);
	return st.compressed_pages >= ENOUGH(c->pages);
}

static void store_all(const struct cold *c)
{
	struct mm_target target = {.resident_bytes = 1, .compress = true};

	for (int i = 0; i < SCANS; i++)
		scan_all(c->mm);
	mm_target_set(c->mm, &target);
	for (int i = 0; i < ROUNDS_MAX && !all_compressed(c); i++) {
		mm_reclaim(c->mm);
		clock_ahead_ns += 2 * TOOL_SECOND_NS;
		if (i % 64 == 63)
			scan_all(c->mm);
	}
	target = (struct mm_target){.resident_bytes = 0};
	mm_target_set(c->mm, &target);
	if (!all_compressed(c))
		tool_fail("pages stay out of the store");
}

static void ours_begin(struct cold *c)
{
	struct mm_config config = {
		.host = &host,
		.uffd_device = -1,
		.fault_threads = c->handlers,
		.fault_poll_ns = c->poll_us * (uint64_t)1000,
		.dense = !c->lz4,
	};
	int rc;

	host = host_real;
	host.now_ns = host_now_ns;
	rc = mm_create(&config, &c->mm);
	if (rc < 0)
		tool_skip("no userfaultfd", rc);
	rc = mm_range_add(c->mm, hva_of(c->ram.at), tool_ram_bytes(&c->ram),
			  false);
	if (rc < 0)
		tool_fail("memory is refused");
	store_all(c);
}

/* ---- the rival's ---- */

static size_t swapped(const struct cold *c)
{
	uint64_t entry[CHUNK_PAGES];
	size_t n = 0;

	for (size_t i = 0; i < c->pages; i += CHUNK_PAGES) {
		int rc = host_real.pagemap_read(tool_page(&c->ram, i),
						CHUNK_PAGES, entry);

		if (rc < 0)
			tool_skip("no pagemap", rc);
		for (size_t k = 0; k < CHUNK_PAGES; k++)
			n += entry[k] >> 62 & 1;
	}
	return n;
}

static void swap_begin(const struct cold *c)
{
	for (int i = 0; i < 20 && swapped(c) < ENOUGH(c->pages); i++) {
		if (madvise(c->ram.at, tool_ram_bytes(&c->ram), MADV_PAGEOUT))
			tool_skip("no MADV_PAGEOUT", 0);
		usleep(50000); /* pages under writeback leave a moment later */
	}
	if (swapped(c) < ENOUGH(c->pages))
		tool_skip("pages are not swapped out", 0);
}

void cold_begin(struct cold *c)
{
	if (c->ours)
		ours_begin(c);
	else
		swap_begin(c);
}

void cold_end(struct cold *c)
{
	mm_destroy(c->mm);
	c->mm = NULL;
}

/* ---- touching ---- */

size_t cold_touches(const struct cold *c)
{
	return c->touches ? min_u64(c->touches, c->pages) : c->pages;
}

uint32_t *cold_order(const struct cold *c)
{
	uint32_t *order = malloc(c->pages * sizeof(*order));
	uint64_t state = c->seed;

	if (!order)
		tool_fail("memory");
	for (size_t i = 0; i < c->pages; i++)
		order[i] = (uint32_t)i;
	for (size_t i = c->pages - 1; i > 0 && !c->sequential; i--) {
		size_t k = tool_random_next(&state) % (i + 1);
		uint32_t was = order[i];

		order[i] = order[k];
		order[k] = was;
	}
	return order;
}

double cold_cpu_s(void)
{
	struct rusage ru;

	getrusage(RUSAGE_SELF, &ru);
	return (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
	       (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
}

/* In front of any swap device; the bench runs alone. */
unsigned long cold_zswapped_kib(void)
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

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

void cold_print(struct cold_took *took)
{
	const uint32_t *ns = took->ns;
	size_t n = took->n;
	double sum = 0;

	qsort(took->ns, n, sizeof(*took->ns), by_size);
	for (size_t i = 0; i < n; i++)
		sum += ns[i];
	printf("\"touches\": %zu, \"p50_ns\": %u, \"p99_ns\": %u, "
	       "\"p999_ns\": %u, \"mean_ns\": %.0f, \"wall_s\": %.6f, "
	       "\"cpu_s\": %.6f, \"cpu_ns\": %.0f, \"per_s\": %.0f, "
	       "\"per_core_s\": %.0f, \"zswapped_kib\": %lu",
	       n, ns[n / 2], ns[n - 1 - n / 100], ns[n - 1 - n / 1000],
	       sum / (double)n, took->wall_s, took->cpu_s,
	       took->cpu_s * 1e9 / (double)n, (double)n / took->wall_s,
	       (double)n / took->cpu_s, took->zswapped_kib);
}
