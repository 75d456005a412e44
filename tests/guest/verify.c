/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * verify DEVICE MIB SECONDS SEED: random reads, writes and discards of a block
 * device by several processes, O_DIRECT, one to 16 pages each, compared with
 * what was written last. Each process has its own chunks of 64 pages, so what a
 * page holds is always known: its version, 0 after a discard. At the end all is
 * read once more, then discarded and read as zeros.
 *
 * A write that fails leaves its pages unknown until the next write: they may
 * hold their old content, the new one, zeros, or not be readable; anything else
 * is a wrong page. Prints the sums of all; exit code 1 for a wrong page.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/guest/pattern.h"

#define WORKERS	  3
#define CHUNK	  64u
#define RUN_PAGES 16u
#define UNKNOWN	  UINT32_C(0x80000000) /* | the version that was refused */

struct sums {
	unsigned long reads, writes, discards, refused, unreadable;
};

static struct {
	int fd;
	uint64_t seed, state;
	uint32_t pages;	  /* of the device */
	uint32_t worker;  /* this one */
	uint32_t *last;	  /* version by page */
	uint32_t *before; /* that one's predecessor, where last is unknown */
	uint32_t version; /* the newest given out */
	uint64_t *buffer; /* of a run */
	struct sums *sums;
} v;

static uint32_t pick(uint32_t bound)
{
	return (uint32_t)((v.state = pattern_mix(v.state)) % bound);
}

static uint64_t *buffer_page(uint32_t i)
{
	return v.buffer + (size_t)i * PATTERN_WORDS;
}

static void wrong(uint32_t page)
{
	printf("wrong page %u: version %u expected\n", page, v.last[page]);
	exit(1);
}

static bool page_right(const uint64_t *data, uint32_t page)
{
	uint32_t last = v.last[page];

	if (!(last & UNKNOWN))
		return pattern_is(data, v.seed, page, last);
	return pattern_is(data, v.seed, page, last & ~UNKNOWN) ||
	       pattern_is(data, v.seed, page, v.before[page]) ||
	       pattern_is(data, v.seed, page, 0);
}

static void run_read(uint32_t first, uint32_t n)
{
	ssize_t got = pread(v.fd, v.buffer, (size_t)n * PATTERN_PAGE,
			    (off_t)first * PATTERN_PAGE);
	uint32_t i;

	v.sums->reads++;
	if (got == (ssize_t)n * (ssize_t)PATTERN_PAGE) {
		for (i = 0; i < n; i++)
			if (!page_right(buffer_page(i), first + i))
				wrong(first + i);
		return;
	}
	/* One by one, to tell the lost from their neighbours. */
	for (i = 0; i < n; i++) {
		if (pread(v.fd, buffer_page(i), PATTERN_PAGE,
			  (off_t)(first + i) * PATTERN_PAGE) == PATTERN_PAGE) {
			if (!page_right(buffer_page(i), first + i))
				wrong(first + i);
		} else if (v.last[first + i] & UNKNOWN) {
			v.sums->unreadable++;
		} else {
			printf("page %u cannot be read\n", first + i);
			exit(1);
		}
	}
}

static void run_discard(uint32_t first, uint32_t n)
{
	uint64_t range[2] = {(uint64_t)first * PATTERN_PAGE,
			     (uint64_t)n * PATTERN_PAGE};
	uint32_t i;

	v.sums->discards++;
	if (ioctl(v.fd, BLKDISCARD, range)) {
		perror("verify: BLKDISCARD");
		exit(1);
	}
	for (i = first; i < first + n; i++)
		v.last[i] = 0;
}

static void run_write(uint32_t first, uint32_t n)
{
	uint32_t i, version = ++v.version;
	ssize_t done;

	/* Refused twice over, it might hold a third content. */
	for (i = first; i < first + n; i++)
		if (v.last[i] & UNKNOWN)
			run_discard(i, 1);
	for (i = 0; i < n; i++)
		pattern_fill(buffer_page(i), v.seed, first + i, version);
	done = pwrite(v.fd, v.buffer, (size_t)n * PATTERN_PAGE,
		      (off_t)first * PATTERN_PAGE);
	v.sums->writes++;
	if (done == (ssize_t)n * (ssize_t)PATTERN_PAGE) {
		for (i = 0; i < n; i++)
			v.last[first + i] = version;
		return;
	}
	v.sums->refused++;
	for (i = first; i < first + n; i++) {
		v.before[i] = v.last[i];
		v.last[i] = version | UNKNOWN;
	}
}

/* A random run of pages within one of this worker's chunks. */
static void op_random(void)
{
	uint32_t chunks = v.pages / CHUNK / WORKERS;
	uint32_t chunk = pick(chunks) * WORKERS + v.worker;
	uint32_t at = pick(CHUNK), n = 1 + pick(RUN_PAGES), what = pick(16);

	if (n > CHUNK - at)
		n = CHUNK - at;
	if (what < 8)
		run_write(chunk * CHUNK + at, n);
	else if (what < 15)
		run_read(chunk * CHUNK + at, n);
	else
		run_discard(chunk * CHUNK + at, n);
}

static void each_own_run(void (*act)(uint32_t first, uint32_t n))
{
	uint32_t chunk, at;

	for (chunk = v.worker; chunk < v.pages / CHUNK / WORKERS * WORKERS;
	     chunk += WORKERS)
		for (at = 0; at < CHUNK; at += RUN_PAGES)
			act(chunk * CHUNK + at, RUN_PAGES);
}

static void worker_run(uint32_t worker, time_t end)
{
	v.worker = worker;
	v.state = v.seed + worker;
	each_own_run(run_discard);
	while (time(NULL) < end)
		op_random();
	each_own_run(run_read);
	each_own_run(run_discard);
	each_own_run(run_read);
	exit(0);
}

static void *memory(size_t bytes, int flags)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			flags | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		perror("verify: mmap");
		exit(2);
	}
	return at;
}

static int workers_run(time_t end)
{
	int bad = 0, status;
	uint32_t i;

	for (i = 0; i < WORKERS; i++) {
		pid_t pid = fork();

		if (!pid) {
			v.sums += i;
			worker_run(i, end);
		}
		bad |= pid < 0;
	}
	while (wait(&status) > 0)
		bad |= status != 0;
	return bad;
}

static void sums_print(void)
{
	struct sums all = {0};

	for (int i = 0; i < WORKERS; i++) {
		all.reads += v.sums[i].reads;
		all.writes += v.sums[i].writes;
		all.discards += v.sums[i].discards;
		all.refused += v.sums[i].refused;
		all.unreadable += v.sums[i].unreadable;
	}
	printf("reads %lu writes %lu discards %lu refused %lu unreadable %lu\n",
	       all.reads, all.writes, all.discards, all.refused,
	       all.unreadable);
}

int main(int argc, char **argv)
{
	int bad;

	if (argc != 5) {
		fprintf(stderr, "usage: verify DEVICE MIB SECONDS SEED\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	v.fd = open(argv[1], O_RDWR | O_DIRECT);
	if (v.fd < 0) {
		perror(argv[1]);
		return 2;
	}
	v.pages = (uint32_t)strtoul(argv[2], NULL, 0) << 8;
	v.seed = strtoull(argv[4], NULL, 0);
	v.last = memory(v.pages * sizeof(*v.last), MAP_PRIVATE);
	v.before = memory(v.pages * sizeof(*v.before), MAP_PRIVATE);
	v.buffer = memory(RUN_PAGES * PATTERN_PAGE, MAP_PRIVATE);
	v.sums = memory(WORKERS * sizeof(*v.sums), MAP_SHARED);
	bad = workers_run(time(NULL) + atol(argv[3]));
	sums_print();
	return bad;
}
