/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hot part of bench/store_bench.py: the same pages through our store and
 * through its rivals, each printing one JSON object.
 *
 *   store speed ours PAGES THREADS            put, put again, get, per phase
 *   store speed dense PAGES THREADS           the same by the denser codec
 *   store speed zram PAGES THREADS DEVICE     the seconds it took
 *   store speed swap PAGES THREADS            out by MADV_PAGEOUT, in by touch
 *   store latency ours PAGES SEED             each get timed, random order
 *   store latency zram PAGES SEED DEVICE
 *   store churn ours PAGES SEED               ten times over, random sizes
 *   store churn zram PAGES SEED DEVICE
 *   store evict PAGES                         ephemeral pages dropped
 *   store takeback PAGES                      1 GiB of them, which is all
 *   store takeback PAGES half                 1 GiB of 2, the oldest
 *
 * speed goes through the pages in order on each side, since large calls to zram
 * must; latency takes them at random, on each side too.
 *
 * PAGES is a file of 4096-byte pages. Every page that comes back is compared
 * with what went in; a difference is exit code 1.
 *
 * zram is a block device, so it is given what suits it best: O_DIRECT, no page
 * cache, 1 MiB a call from huge pages, which spreads a system call over 256
 * pages and leaves compression and its allocator. Its work is done in the
 * caller, as ours is, so the process's CPU time is all of the cost of either.
 * Swap pays for reclaim and page tables besides; it is the way those who use
 * zram or zswap pay.
 */
#include "bench/lib/tool.h"
#include "hv/mm/dense.h"
#include "tmem/tmem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 16
#define CHURNS	    10
#define IO_PAGES    256 /* of one call to zram; 1 MiB */
#define GIB	    ((uint64_t)1 << 30)
#define HUGE_BYTES  ((size_t)2 << 20)

struct seconds {
	double wall;
	double cpu; /* of all threads */
};

struct bench {
	unsigned char *pages; /* what is stored */
	uint32_t count;
	unsigned threads;
	struct tmem *tm;
	struct tmem_client *cl;
	struct dense *dense; /* NULL: LZ4 alone */
	unsigned char *area; /* swapped out and in */
	unsigned char *buf;  /* IO_PAGES for each thread */
	int fd;		     /* of zram */
	uint64_t seed;
};

struct worker {
	pthread_t thread;
	struct bench *b;
	void (*work)(struct worker *);
	unsigned char *buf; /* IO_PAGES */
	uint32_t first;
	uint32_t count;
	uint64_t failed;
};

static const struct tmem_oid oid = {{1, 0, 0}};

static double now_s(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void die(const char *what)
{
	fprintf(stderr, "store: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void fail(const char *what)
{
	fprintf(stderr, "store: %s\n", what);
	exit(1);
}

/* Anonymous memory, all there, in huge pages if it may be. */
static unsigned char *memory_make(size_t bytes, int advice)
{
	char *at = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		die("memory");
	at += -(uintptr_t)at & (HUGE_BYTES - 1);
	/* A kernel without huge pages refuses, which is as well. */
	(void)madvise(at, bytes, advice);
	memset(at, 1, bytes);
	return (unsigned char *)at;
}

static void pages_load(struct bench *b, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	size_t have = 0;

	b->buf = memory_make((size_t)THREADS_MAX * IO_PAGES * PAGE_BYTES,
			     MADV_HUGEPAGE);
	if (fd < 0 || fstat(fd, &st))
		die(path);
	b->count = (uint32_t)(st.st_size / PAGE_BYTES);
	if (b->count < IO_PAGES * THREADS_MAX)
		fail("too few pages");
	b->pages = memory_make((size_t)b->count * PAGE_BYTES, MADV_HUGEPAGE);
	while (have < (size_t)b->count * PAGE_BYTES) {
		ssize_t n = read(fd, b->pages + have,
				 (size_t)b->count * PAGE_BYTES - have);

		if (n <= 0)
			die(path);
		have += (size_t)n;
	}
	close(fd);
}

static unsigned char *page_at(const struct bench *b, uint32_t i)
{
	return b->pages + (size_t)i * PAGE_BYTES;
}

static void ours_open(struct bench *b, uint32_t flags)
{
	if (tmem_create(0, &b->tm) || tmem_client_create(b->tm, "b", &b->cl) ||
	    tmem_pool_create(b->cl, flags, NULL) != 0)
		fail("no store");
}

static void zram_open(struct bench *b, const char *device)
{
	b->fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (b->fd < 0)
		die(device);
}

/* Workers: each its own part of the pages. */

static void ours_put(struct worker *w)
{
	for (uint32_t i = w->first; i < w->first + w->count; i++)
		w->failed += tmem_put_dense(w->b->cl, 0, &oid, i,
					    page_at(w->b, i)) != 0;
}

static void ours_get(struct worker *w)
{
	for (uint32_t i = 0; i < w->count; i++) {
		unsigned char *to = w->buf + i % IO_PAGES * PAGE_BYTES;

		w->failed += tmem_get(w->b->cl, 0, &oid, w->first + i, to) != 0;
	}
}

static void ours_verify(struct worker *w)
{
	for (uint32_t i = w->first; i < w->first + w->count; i++)
		w->failed += tmem_get(w->b->cl, 0, &oid, i, w->buf) != 0 ||
			     memcmp(w->buf, page_at(w->b, i), PAGE_BYTES) != 0;
}

static size_t zram_step(const struct worker *w, uint32_t done)
{
	uint32_t left = w->count - done;

	return (size_t)(left < IO_PAGES ? left : IO_PAGES) * PAGE_BYTES;
}

static void zram_put(struct worker *w)
{
	for (uint32_t i = 0; i < w->count; i += IO_PAGES) {
		size_t bytes = zram_step(w, i);

		w->failed +=
			pwrite(w->b->fd, page_at(w->b, w->first + i), bytes,
			       (off_t)(w->first + i) * PAGE_BYTES) !=
			(ssize_t)bytes;
	}
}

static void zram_get(struct worker *w)
{
	for (uint32_t i = 0; i < w->count; i += IO_PAGES) {
		size_t bytes = zram_step(w, i);

		w->failed += pread(w->b->fd, w->buf, bytes,
				   (off_t)(w->first + i) * PAGE_BYTES) !=
			     (ssize_t)bytes;
	}
}

static void zram_verify(struct worker *w)
{
	for (uint32_t i = 0; i < w->count; i += IO_PAGES) {
		size_t bytes = zram_step(w, i);

		w->failed +=
			pread(w->b->fd, w->buf, bytes,
			      (off_t)(w->first + i) * PAGE_BYTES) !=
				(ssize_t)bytes ||
			memcmp(w->buf, page_at(w->b, w->first + i), bytes) != 0;
	}
}

static unsigned char *area_at(const struct bench *b, uint32_t i)
{
	return b->area + (size_t)i * PAGE_BYTES;
}

static void swap_put(struct worker *w)
{
	w->failed += madvise(area_at(w->b, w->first),
			     (size_t)w->count * PAGE_BYTES, MADV_PAGEOUT) != 0;
}

static void swap_get(struct worker *w)
{
	for (uint32_t i = 0; i < w->count; i++)
		(void)*(volatile unsigned char *)area_at(w->b, w->first + i);
}

static void swap_verify(struct worker *w)
{
	w->failed += memcmp(area_at(w->b, w->first), page_at(w->b, w->first),
			    (size_t)w->count * PAGE_BYTES) != 0;
}

static void *worker_run(void *arg)
{
	struct worker *w = arg;

	w->work(w);
	return NULL;
}

/* All threads do work on their parts; what it took. */
static struct seconds phase(struct bench *b, void (*work)(struct worker *))
{
	struct worker w[THREADS_MAX] = {0};
	struct seconds s;
	uint32_t part = b->count / b->threads;

	for (unsigned i = 0; i < b->threads; i++) {
		w[i].b = b;
		w[i].work = work;
		w[i].buf = b->buf + (size_t)i * IO_PAGES * PAGE_BYTES;
		w[i].first = i * part;
		w[i].count = part;
	}
	s.wall = -now_s(CLOCK_MONOTONIC);
	s.cpu = -now_s(CLOCK_PROCESS_CPUTIME_ID);
	for (unsigned i = 0; i < b->threads; i++)
		if (pthread_create(&w[i].thread, NULL, worker_run, &w[i]))
			fail("no thread");
	for (unsigned i = 0; i < b->threads; i++)
		pthread_join(w[i].thread, NULL);
	s.cpu += now_s(CLOCK_PROCESS_CPUTIME_ID);
	s.wall += now_s(CLOCK_MONOTONIC);
	for (unsigned i = 0; i < b->threads; i++)
		if (w[i].failed)
			fail("a page was refused, lost or changed");
	return s;
}

/* Bytes of this process that are anonymous and there. */
static uint64_t resident_bytes(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	char line[256];
	uint64_t kib = 0;

	if (!f)
		die("smaps_rollup");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Anonymous: %" SCNu64, &kib) == 1)
			break;
	fclose(f);
	return kib << 10;
}

static void print_seconds(const char *name, struct seconds s)
{
	printf("\"%s_wall_s\": %.6f, \"%s_cpu_s\": %.6f, ", name, s.wall, name,
	       s.cpu);
}

static void print_store(const struct bench *b, uint64_t resident)
{
	struct tmem_stats st;

	tmem_stats(b->tm, &st);
	printf("\"stored_bytes\": %" PRIu64 ", \"metadata_bytes\": %" PRIu64
	       ", \"slack_bytes\": %" PRIu64 ", \"used_bytes\": %" PRIu64
	       ", \"store_pages\": %" PRIu64 ", \"raw_pages\": %" PRIu64
	       ", \"resident_bytes\": %" PRIu64 ", ",
	       st.stored_bytes, st.metadata_bytes, st.slack_bytes,
	       st.used_bytes, st.pages, st.pages_raw, resident);
}

static void speed_ours(struct bench *b)
{
	uint64_t before = resident_bytes();
	struct seconds put, again, get;

	ours_open(b, TMEM_PERSISTENT);
	if (b->dense && tmem_client_dense(b->cl, dense_ops(b->dense)))
		fail("no denser codec");
	put = phase(b, ours_put);
	print_store(b, resident_bytes() - before);
	again = phase(b, ours_put);
	get = phase(b, ours_get);
	(void)phase(b, ours_verify);
	print_seconds("put", put);
	print_seconds("again", again);
	print_seconds("get", get);
	tmem_destroy(b->tm);
}

static void speed_dense(struct bench *b)
{
	if (dense_create(&host_real, b->threads, &b->dense))
		fail("no denser codec");
	speed_ours(b);
	dense_destroy(b->dense);
}

static void speed_zram(struct bench *b, const char *device)
{
	zram_open(b, device);
	print_seconds("put", phase(b, zram_put));
	print_seconds("again", phase(b, zram_put));
	print_seconds("get", phase(b, zram_get));
	(void)phase(b, zram_verify);
	close(b->fd);
}

/* Part of the area that is not in memory. */
static double swapped_part(const struct bench *b)
{
	unsigned char *there = malloc(b->count);
	uint32_t out = 0;

	if (!there || mincore(b->area, (size_t)b->count * PAGE_BYTES, there))
		die("mincore");
	for (uint32_t i = 0; i < b->count; i++)
		out += !(there[i] & 1);
	free(there);
	return (double)out / b->count;
}

static void speed_swap(struct bench *b)
{
	size_t bytes = (size_t)b->count * PAGE_BYTES;

	b->area = memory_make(bytes, MADV_NOHUGEPAGE);
	memcpy(b->area, b->pages, bytes);
	print_seconds("put", phase(b, swap_put));
	printf("\"swapped\": %.4f, ", swapped_part(b));
	print_seconds("get", phase(b, swap_get));
	(void)phase(b, swap_verify);
}

static int double_compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static bool get_one(struct bench *b, uint32_t i, unsigned char *to)
{
	if (b->tm)
		return !tmem_get(b->cl, 0, &oid, i, to);
	return pread(b->fd, to, PAGE_BYTES, (off_t)i * PAGE_BYTES) ==
	       PAGE_BYTES;
}

static void latency(struct bench *b)
{
	uint32_t n = b->count;
	double *took = malloc(n * sizeof(*took));
	unsigned char *buf = memory_make(PAGE_BYTES, MADV_NOHUGEPAGE);

	if (!took)
		die("memory");
	for (uint32_t i = 0; i < n; i++) {
		uint32_t k = (uint32_t)(tool_random_next(&b->seed) % n);
		double start = now_s(CLOCK_MONOTONIC);

		if (!get_one(b, k, buf))
			fail("a page was lost");
		took[i] = now_s(CLOCK_MONOTONIC) - start;
		if (memcmp(buf, page_at(b, k), PAGE_BYTES))
			fail("a page has changed");
	}
	qsort(took, n, sizeof(*took), double_compare);
	printf("\"get_p50_us\": %.3f, \"get_p99_us\": %.3f, "
	       "\"get_p999_us\": %.3f, ",
	       took[n / 2] * 1e6, took[(uint64_t)n * 99 / 100] * 1e6,
	       took[(uint64_t)n * 999 / 1000] * 1e6);
	free(took);
}

/* A page that compresses to about its number of random bytes. */
static void size_fill(unsigned char *page, uint64_t *state)
{
	uint64_t r = tool_random_next(state) % PAGE_BYTES;

	for (uint64_t i = 0; i < r; i++)
		page[i] = (unsigned char)tool_random_next(state);
	memset(page + r, (int)(r & 0xff), PAGE_BYTES - r);
}

static bool churn_flush(struct bench *b, uint32_t i)
{
	uint64_t range[2] = {(uint64_t)i * PAGE_BYTES, PAGE_BYTES};

	if (b->tm)
		return !tmem_flush_page(b->cl, 0, &oid, i);
	return !ioctl(b->fd, BLKDISCARD, range);
}

static bool churn_put(struct bench *b, uint32_t i, const void *page)
{
	if (b->tm)
		return !tmem_put(b->cl, 0, &oid, i, page);
	return pwrite(b->fd, page, PAGE_BYTES, (off_t)i * PAGE_BYTES) ==
	       PAGE_BYTES;
}

/* No two alike: equal pages are stored once, and would leave less to churn. */
static void churn_page(struct bench *b, unsigned char *page, uint64_t r,
		       uint64_t *state)
{
	uint64_t own = tool_random_next(state);

	if (r % 4 == 1)
		size_fill(page, state);
	else
		memcpy(page, page_at(b, (uint32_t)((r >> 8) % b->count)),
		       PAGE_BYTES);
	memcpy(page, &own, sizeof(own));
}

/*
 * A quarter flushes, the rest puts to random keys; a third of those are of a
 * size drawn evenly, so that what is freed seldom fits what comes.
 */
static void churn(struct bench *b)
{
	unsigned char *page = memory_make(PAGE_BYTES, MADV_NOHUGEPAGE);
	uint64_t state = b->seed;

	for (uint64_t n = 0; n < (uint64_t)b->count * CHURNS; n++) {
		uint32_t i = (uint32_t)(tool_random_next(&state) % b->count);
		uint64_t r = tool_random_next(&state);
		bool ok;

		if (r % 4 == 0) {
			ok = churn_flush(b, i);
		} else {
			churn_page(b, page, r, &state);
			ok = churn_put(b, i, page);
		}
		if (!ok)
			fail("the churn failed");
	}
}

static void evict(struct bench *b)
{
	struct tmem_stats st;
	struct seconds s;

	ours_open(b, TMEM_EPHEMERAL);
	(void)phase(b, ours_put);
	s.wall = -now_s(CLOCK_MONOTONIC);
	s.cpu = -now_s(CLOCK_PROCESS_CPUTIME_ID);
	(void)tmem_flush(b->tm, UINT64_MAX);
	s.cpu += now_s(CLOCK_PROCESS_CPUTIME_ID);
	s.wall += now_s(CLOCK_MONOTONIC);
	tmem_stats(b->tm, &st);
	if (st.pages || st.evictions != b->count)
		fail("not all was evicted");
	print_seconds("evict", s);
	tmem_destroy(b->tm);
}

/* Each copy of the pages is stamped, or the store would keep it once. */
static void borrow(struct bench *b, uint64_t bytes)
{
	struct tmem_client_stats st = {0};
	unsigned char page[PAGE_BYTES];
	struct tmem_oid copy = oid;

	for (; st.bytes_ephemeral < bytes; copy.w[1]++) {
		for (uint32_t i = 0; i < b->count; i++) {
			memcpy(page, page_at(b, i), PAGE_BYTES);
			memcpy(page, &copy.w[1], sizeof(copy.w[1]));
			memcpy(page + 8, &i, sizeof(i));
			if (tmem_put(b->cl, 0, &copy, i, page))
				fail("a put was refused");
		}
		tmem_client_stats(b->cl, &st);
	}
}

/* As hvd does it: the client is lent so little any more, or nothing. */
static void takeback(struct bench *b, uint64_t keep)
{
	struct tmem_stats before, after;
	struct tmem_client_stats st;
	struct seconds s;

	ours_open(b, TMEM_EPHEMERAL);
	borrow(b, GIB + keep);
	tmem_stats(b->tm, &before);
	s.wall = -now_s(CLOCK_MONOTONIC);
	s.cpu = -now_s(CLOCK_PROCESS_CPUTIME_ID);
	(void)tmem_client_lend(b->cl, keep);
	s.cpu += now_s(CLOCK_PROCESS_CPUTIME_ID);
	s.wall += now_s(CLOCK_MONOTONIC);
	tmem_stats(b->tm, &after);
	tmem_client_stats(b->cl, &st);
	if (st.bytes_ephemeral > keep || (!keep && after.pages))
		fail("not all was taken back");
	print_seconds("takeback", s);
	printf("\"takeback_bytes\": %" PRIu64 ", \"takeback_pages\": %" PRIu64
	       ", ",
	       before.used_bytes - after.used_bytes,
	       before.pages - after.pages);
	tmem_destroy(b->tm);
}

static int usage(void)
{
	fprintf(stderr, "usage: store speed|latency|churn|evict|takeback ... "
			"(see bench/store.c)\n");
	return 2;
}

static void run_latency(struct bench *b, const char *device)
{
	if (device) {
		zram_open(b, device);
		(void)phase(b, zram_put);
	} else {
		ours_open(b, TMEM_PERSISTENT);
		(void)phase(b, ours_put);
	}
	latency(b);
	tmem_destroy(b->tm);
}

static void run_churn(struct bench *b, const char *device)
{
	uint64_t before = resident_bytes();

	if (device) {
		zram_open(b, device);
		(void)phase(b, zram_put);
		churn(b);
		return;
	}
	ours_open(b, TMEM_PERSISTENT);
	(void)phase(b, ours_put);
	churn(b);
	if (tmem_check(b->tm))
		fail("the store is damaged");
	print_store(b, resident_bytes() - before);
	tmem_destroy(b->tm);
}

static int run(struct bench *b, const char *what, const char *side,
	       const char *device)
{
	if (!strcmp(what, "latency"))
		run_latency(b, device);
	else if (!strcmp(what, "churn"))
		run_churn(b, device);
	else if (strcmp(what, "speed") != 0)
		return usage();
	else if (!strcmp(side, "ours"))
		speed_ours(b);
	else if (!strcmp(side, "dense"))
		speed_dense(b);
	else if (!strcmp(side, "zram") && device)
		speed_zram(b, device);
	else if (!strcmp(side, "swap"))
		speed_swap(b);
	else
		return usage();
	return 0;
}

int main(int argc, char **argv)
{
	struct bench b = {.threads = 1, .fd = -1};
	int rc = 0;

	if (argc < 3)
		return usage();
	printf("{");
	if (!strcmp(argv[1], "evict")) {
		pages_load(&b, argv[2]);
		evict(&b);
	} else if (!strcmp(argv[1], "takeback")) {
		pages_load(&b, argv[2]);
		takeback(&b, argc > 3 && !strcmp(argv[3], "half") ? GIB : 0);
	} else if (argc >= 5) {
		pages_load(&b, argv[3]);
		b.seed = strtoull(argv[4], NULL, 10);
		if (!strcmp(argv[1], "speed"))
			b.threads = (unsigned)b.seed;
		if (!strcmp(argv[1], "speed") &&
		    (!b.threads || b.threads > THREADS_MAX))
			return usage();
		rc = run(&b, argv[1], argv[2], argc > 5 ? argv[5] : NULL);
	} else {
		return usage();
	}
	printf("\"pages\": %u}\n", b.count / b.threads * b.threads);
	return rc;
}
