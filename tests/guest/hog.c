/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hog MIB PASSES SEED: fills that much memory with patterns and reads it back,
 * PASSES times (0: until killed), each time with other content and in another
 * direction. With more than the guest has, every page goes to swap and comes
 * back each time. One line a pass; exit code 1 at the first wrong page.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/guest/pattern.h"

static uint64_t seed;
static uint64_t *ram;
static size_t pages;

static uint64_t *page_at(size_t i)
{
	return ram + i * PATTERN_WORDS;
}

static void pages_write(uint64_t version)
{
	for (size_t i = 0; i < pages; i++)
		pattern_fill(page_at(i), seed, i, version);
}

/* -1 if all are right, else the first that is not. */
static long pages_check(uint64_t version)
{
	for (size_t n = 0; n < pages; n++) {
		size_t i = version % 2 ? n : pages - 1 - n;

		if (!pattern_is(page_at(i), seed, i, version))
			return (long)i;
	}
	return -1;
}

static int run(unsigned long passes)
{
	for (unsigned long pass = 1; !passes || pass <= passes; pass++) {
		long wrong;

		pages_write(pass);
		wrong = pages_check(pass);
		if (wrong >= 0) {
			printf("wrong page %ld in pass %lu\n", wrong, pass);
			return 1;
		}
		printf("pass %lu pages %zu\n", pass, pages);
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: hog MIB PASSES SEED\n");
		return 2;
	}
	pages = strtoul(argv[1], NULL, 0) << 20 >> 12;
	seed = strtoull(argv[3], NULL, 0);
	ram = mmap(NULL, pages * PATTERN_PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ram == MAP_FAILED) {
		perror("hog: mmap");
		return 2;
	}
	return run(strtoul(argv[2], NULL, 0));
}
