/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What several of the benches' C programs need. */
#ifndef BENCH_LIB_TOOL_H
#define BENCH_LIB_TOOL_H

#include "hv/base/types.h"

#define TOOL_SKIP      77 /* exit code: this machine cannot run it */
#define TOOL_SECOND_NS UINT64_C(1000000000)

/* Memory that stands for guest RAM. */
struct tool_ram {
	uint8_t *at; /* on a chunk border */
	size_t pages;
};

uint64_t tool_now_ns(void);

/* Prints the program's name, what and why (errno), and ends it with 1. */
_Noreturn void tool_fail(const char *what);
/* The same with TOOL_SKIP. rc: 0, or a negative errno. */
_Noreturn void tool_skip(const char *what, int rc);

/* Every bit of the result depends on all of x. */
uint64_t tool_mixed(uint64_t x);
/* The next of a sequence that the first *state chooses. */
uint64_t tool_random_next(uint64_t *state);

/*
 * Private anonymous memory, whole chunks on chunk borders, as QEMU has it: at
 * least so many pages. Ends the program where there is no room.
 */
void tool_ram_map(struct tool_ram *ram, size_t pages);

static inline uint8_t *tool_page(const struct tool_ram *ram, size_t page)
{
	return ram->at + page * PAGE_BYTES;
}

static inline size_t tool_ram_bytes(const struct tool_ram *ram)
{
	return ram->pages * PAGE_BYTES;
}

#endif
