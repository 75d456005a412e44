/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mill TREE UNITS JOBS SEED MIB: a workload shaped like a compilation, for
 * guests that are too small to hold a compiler's tools. Each unit is a process
 * that
 *
 *   - runs a large program: maps TREE/cc and touches most of its pages;
 *   - reads its own source and some dozen headers, many of them popular ones;
 *   - builds something like a syntax tree in memory of its own and walks it in
 *     a random order, several times;
 *   - writes an object to TREE/out.
 *
 * JOBS units run at a time. Beside them one process keeps memory that outlives
 * units, as a build's daemon or the desktop around it does, and touches a part
 * of it whenever a unit ends. At last all objects are read and summed, as a
 * linker does.
 *
 * MIB is what all of this uses again and again, the working set:
 *
 *   MIB = cc + headers + JOBS x tree + kept
 *
 * of which the program is 36/320, the headers 59/320, the trees of three jobs
 * 78/320, and what is kept 147/320; sources and objects come on top.
 *
 * Prints `sum S seconds T`. S follows from the tree and SEED alone, so two runs
 * that differ in it tell of damage; bench/lib/tmem_guest.py makes the tree.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define INCLUDES     48u
#define WALKS	     3u
#define KEPT_PART    8u /* of it a unit's end touches one in so many pages */
#define OBJECT_WORDS 4096u
#define PAGE	     4096u
#define PAGE_WORDS   (PAGE / 8)

/* Of 320 MiB; see above. */
#define WHOLE_MIB 320u
#define HEADERS	  1664u
#define TREE_MIB  26u
#define KEPT_MIB  147u

static struct {
	unsigned headers;
	size_t tree_bytes, kept_bytes;
} size;

static void sizes_set(unsigned mib)
{
	size.headers = HEADERS * mib / WHOLE_MIB;
	size.tree_bytes = (size_t)TREE_MIB * mib / WHOLE_MIB << 20;
	size.kept_bytes = (size_t)KEPT_MIB * mib / WHOLE_MIB << 20;
}

static uint64_t mix(uint64_t z)
{
	z += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static void fail(const char *what)
{
	printf("mill: %s: %s\n", what, strerror(errno));
	exit(2);
}

static int file_open(const char *name, unsigned n, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), name, n);
	fd = open(path, flags, 0644);
	if (fd < 0)
		fail(path);
	return fd;
}

static uint64_t *memory(size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		fail("memory");
	return at;
}

static uint64_t words_sum(uint64_t sum, const uint64_t *word, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sum = (sum ^ word[i]) * 0x9e3779b97f4a7c15u + (sum >> 29);
	return sum;
}

static uint64_t file_sum(uint64_t sum, const char *name, unsigned n)
{
	static uint64_t buffer[8192];
	int fd = file_open(name, n, O_RDONLY);
	ssize_t got;

	while ((got = read(fd, buffer, sizeof(buffer))) > 0)
		sum = words_sum(sum, buffer, (size_t)got / 8);
	if (got < 0)
		fail(name);
	close(fd);
	return sum;
}

/* The program's pages come as they are used, most of them each time. */
static uint64_t program_sum(uint64_t sum, uint64_t chance)
{
	int fd = file_open("cc", 0, O_RDONLY);
	const uint64_t *at;
	struct stat st;

	if (fstat(fd, &st))
		fail("cc");
	at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (at == MAP_FAILED)
		fail("cc");
	for (size_t i = 0; i < (size_t)st.st_size / PAGE; i++) {
		chance = mix(chance);
		if (chance % 4)
			sum = words_sum(sum, at + i * PAGE_WORDS, 8);
	}
	close(fd);
	return sum;
}

/* Squared, so that low numbers are popular. */
static unsigned header_pick(uint64_t chance)
{
	uint64_t r = chance >> 40;

	return (unsigned)((r * r >> 24) * size.headers >> 24);
}

static uint64_t tree_walk(uint64_t sum, uint64_t chance)
{
	uint64_t *tree = memory(size.tree_bytes);
	size_t i, pages = size.tree_bytes / PAGE;

	for (i = 0; i < size.tree_bytes / 8; i += 4)
		tree[i] = sum + i;
	for (i = 0; i < WALKS * pages; i++) {
		uint64_t *page;

		chance = mix(chance);
		page = tree + chance % pages * PAGE_WORDS;
		page[8] += page[16] ^ sum;
		sum = words_sum(sum, page, PAGE_WORDS / 4);
	}
	return sum;
}

static void object_write(unsigned unit, uint64_t sum)
{
	static uint64_t word[OBJECT_WORDS];
	int fd = file_open("out/o%u", unit, O_RDWR | O_CREAT | O_TRUNC);

	for (unsigned i = 0; i < OBJECT_WORDS; i++)
		word[i] = i % 3 ? sum : mix(sum + i);
	if (write(fd, word, sizeof(word)) != (ssize_t)sizeof(word))
		fail("object");
	close(fd);
}

static void unit_run(unsigned unit, uint64_t seed)
{
	uint64_t chance = mix(seed ^ unit), sum = unit;

	sum = program_sum(sum, chance);
	sum = file_sum(sum, "s%u", unit);
	for (unsigned i = 0; i < INCLUDES; i++) {
		chance = mix(chance);
		sum = file_sum(sum, "h%u", header_pick(chance));
	}
	object_write(unit, tree_walk(sum, chance));
	_exit(0);
}

static void unit_start(unsigned unit, uint64_t seed)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (!pid)
		unit_run(unit, seed);
}

static void unit_wait(void)
{
	int status;

	if (wait(&status) < 0 || status) {
		printf("mill: a unit ended with status %d\n", status);
		exit(1);
	}
}

static uint64_t kept_touch(uint64_t *kept, uint64_t chance)
{
	size_t pages = size.kept_bytes / PAGE;

	for (size_t i = 0; i < pages / KEPT_PART; i++) {
		chance = mix(chance);
		kept[chance % pages * PAGE_WORDS]++;
	}
	return chance;
}

static uint64_t units_run(unsigned units, unsigned jobs, uint64_t seed)
{
	uint64_t *kept = memory(size.kept_bytes), chance = seed, sum = 0;
	unsigned started = 0, ended;

	for (size_t i = 0; i < size.kept_bytes / 8; i++)
		kept[i] = i % 4 ? i : mix(i);
	for (ended = 0; ended < units; ended++) {
		while (started < units && started - ended < jobs)
			unit_start(started++, seed);
		unit_wait();
		chance = kept_touch(kept, chance);
	}
	for (size_t i = 0; i < size.kept_bytes / PAGE; i++)
		sum += kept[i * PAGE_WORDS];
	return sum;
}

int main(int argc, char **argv)
{
	struct timespec from, to;
	unsigned units, i;
	uint64_t sum;

	if (argc != 6) {
		fprintf(stderr, "usage: mill TREE UNITS JOBS SEED MIB\n");
		return 2;
	}
	sizes_set((unsigned)strtoul(argv[5], NULL, 0));
	if (chdir(argv[1]))
		fail(argv[1]);
	units = (unsigned)strtoul(argv[2], NULL, 0);
	clock_gettime(CLOCK_MONOTONIC, &from);
	sum = units_run(units, (unsigned)strtoul(argv[3], NULL, 0),
			strtoull(argv[4], NULL, 0));
	for (i = 0; i < units; i++)
		sum = file_sum(sum, "out/o%u", i);
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("sum %016llx seconds %.3f\n", (unsigned long long)sum,
	       (double)(to.tv_sec - from.tv_sec) +
		       (double)(to.tv_nsec - from.tv_nsec) / 1e9);
	return 0;
}
