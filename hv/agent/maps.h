/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel says about a piece of our address space: /proc/self/smaps,
 * the only place that tells private from shared, huge from ordinary, locked
 * and kept-from-children memory in one look, whoever set it up and however.
 */
#ifndef HV_AGENT_MAPS_H
#define HV_AGENT_MAPS_H

#include <stdio.h>

#include "hv/base/types.h"

enum maps_flag {
	MAPS_HOLE = 1,	   /* a part of it is not mapped */
	MAPS_NOT_RW = 2,   /* a part cannot be read and written */
	MAPS_SHARED = 4,   /* MAP_SHARED: other processes see it */
	MAPS_FILE = 8,	   /* backed by a file */
	MAPS_HUGETLB = 16, /* from the hugetlb pool */
	MAPS_LOCKED = 32,  /* mlock */
	MAPS_FORKED = 64,  /* a child would get it: no MADV_DONTFORK */
	MAPS_UFFD = 128,   /* somebody else's userfaultfd is on it */
	MAPS_DEVICE = 256, /* a device's own memory */
};

/* Flags that hold for any part of [lo, hi). 0 or -errno. */
MUST_CHECK int maps_look(uintptr_t lo, uintptr_t hi, unsigned *flags_out);

/* The same, from an open file in the format of smaps. */
MUST_CHECK int maps_scan(FILE *smaps, uintptr_t lo, uintptr_t hi,
			 unsigned *flags_out);

/* The first reason in flags to leave memory alone, in words; NULL: none. */
const char *maps_reason(unsigned flags);

#endif
