/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A guest of KVM with one vCPU that runs a few instructions at CPL 3. */
#ifndef BENCH_LIB_RING3_H
#define BENCH_LIB_RING3_H

#include "bench/lib/tool.h"

#define RING3_RAM_MAX ((size_t)1 << 30)

struct ring3;

/*
 * A guest whose RAM is ram, at most RING3_RAM_MAX of it. 0, or -errno with
 * *why_out set to what could not be had.
 */
MUST_CHECK int ring3_create(const struct tool_ram *ram, struct ring3 **out,
			    const char **why_out);
void ring3_destroy(struct ring3 *r);

/*
 * Instructions a second of this thread's CPU time; 0 if the guest did not come
 * to its end.
 */
double ring3_speed(struct ring3 *r);

/*
 * Touches the pages of order, counts in *wrong_out those whose first byte is
 * not what cold_byte says, and writes what each touch took to took_ns.
 */
MUST_CHECK int ring3_touch(struct ring3 *r, const uint32_t *order, size_t n,
			   uint32_t *took_ns, uint64_t *wrong_out);

#endif
