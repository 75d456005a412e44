/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The clock, chance and guest RAM of the benches' C programs: what is compared
 * across two of them must not differ in these.
 *
 * Unlike the product's functions these end the program where something fails. A
 * bench that goes on without its memory measures something else.
 */
#include "bench/lib/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define GOLDEN UINT64_C(0x9e3779b97f4a7c15)

uint64_t tool_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * TOOL_SECOND_NS + (uint64_t)ts.tv_nsec;
}

void tool_fail(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what,
		strerror(errno));
	exit(1);
}

void tool_skip(const char *what, int rc)
{
	fprintf(stderr, "%s: %s%s%s\n", program_invocation_short_name, what,
		rc ? ": " : "", rc ? strerror(-rc) : "");
	exit(TOOL_SKIP);
}

/* splitmix64 */
uint64_t tool_mixed(uint64_t x)
{
	x += GOLDEN;
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

uint64_t tool_random_next(uint64_t *state)
{
	uint64_t r = tool_mixed(*state);

	*state += GOLDEN;
	return r;
}

void tool_ram_map(struct tool_ram *ram, size_t pages)
{
	size_t bytes =
		(pages * PAGE_BYTES + CHUNK_BYTES - 1) & ~(CHUNK_BYTES - 1);
	uint8_t *at = mmap(NULL, bytes + CHUNK_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		tool_fail("memory");
	ram->at = at + (-(uintptr_t)at & (CHUNK_BYTES - 1));
	ram->pages = bytes / PAGE_BYTES;
	if (ram->at > at)
		munmap(at, (size_t)(ram->at - at));
	munmap(ram->at + bytes, (size_t)(at + CHUNK_BYTES - ram->at));
}
