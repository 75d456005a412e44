/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory all of which is compressed, by us or by the kernel; to be touched. */
#ifndef BENCH_LIB_COLD_H
#define BENCH_LIB_COLD_H

#include "bench/lib/tool.h"

struct mm;

struct cold {
	bool ours; /* or the kernel's swap */
	bool sequential;
	bool lz4; /* ours, without the denser codec */
	size_t pages;
	size_t touches; /* of all pages; 0: each */
	unsigned handlers;
	unsigned poll_us;
	uint64_t seed;
	struct tool_ram ram;
	struct mm *mm;
};

/* What touches took, and the process meanwhile. */
struct cold_took {
	uint32_t *ns; /* of each touch; is sorted */
	size_t n;
	double wall_s, cpu_s;
	unsigned long zswapped_kib; /* of all the host, before */
};

/* The defaults. False: side is neither "ours" nor "swap". */
bool cold_init(struct cold *c, const char *side);
/*
 * --mib, --touches, --handlers, --poll, --seed, --order, --codec. False: not
 * one of these, or not with this value.
 */
bool cold_option(struct cold *c, const char *name, const char *value);

/* Maps the memory and fills it. */
void cold_fill(struct cold *c);
/* Has all of it compressed. Ends with TOOL_SKIP where that cannot be had. */
void cold_begin(struct cold *c);
void cold_end(struct cold *c);

/* How often, and in which order; the caller frees it. */
size_t cold_touches(const struct cold *c);
uint32_t *cold_order(const struct cold *c);
/* The first byte of each page. */
uint8_t cold_byte(size_t page);

double cold_cpu_s(void);
unsigned long cold_zswapped_kib(void);
/* The quantiles as members of a JSON object, without its braces. */
void cold_print(struct cold_took *took);

#endif
