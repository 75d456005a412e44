/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small machine for tests of the memory manager: 16 MiB of guest RAM, a frame
 * pool, and a count of references, on the host with faults. One a process;
 * libcheck's fixtures start and stop it.
 */
#ifndef TESTS_SUPPORT_MACHINE_H
#define TESTS_SUPPORT_MACHINE_H

#include "hv/mm/mm.h"

#define MACHINE_PAGES	   (8 * CHUNK_PAGES)
#define MACHINE_BYTES	   (MACHINE_PAGES * PAGE_BYTES)
#define MACHINE_POOL_PAGES ((size_t)4096)
#define MACHINE_POOL_BYTES (MACHINE_POOL_PAGES * PAGE_BYTES)

struct machine {
	struct mm *mm;
	uint8_t *ram;
	uint8_t *pool;
	int pool_fd;
	int refs[MACHINE_POOL_PAGES]; /* granted less released */
	unsigned features;	      /* that the kernel is allowed to have */
	uint64_t poll_ns;	      /* of its fault threads */
	unsigned long fail_at; /* call of the host at its start; 0: none */
};

extern struct machine machine;

/* With all the kernel has; without UFFDIO_MOVE. */
void machine_setup(void);
void machine_setup_no_move(void);
void machine_teardown(void);

void machine_start(const char *swap, uint64_t store_bytes);
void machine_pool_start(void);

/* Both the kernel and this run have UFFDIO_MOVE. */
bool machine_has_move(void);

void page_fill(uint8_t *page, uint64_t seed);
bool page_holds(const uint8_t *page, uint64_t seed);
uint8_t *machine_page(size_t n);

/* For mm_scan_ops. */
uint64_t machine_hash(void *arg, const void *page);
bool machine_not_told(void *arg, gfn_t gfn, uint64_t hash, uint64_t was,
		      unsigned age);

void machine_scan(int times);
struct mm_stats machine_stats(void);

/* Grants frames [frame, +n) for pages [page, +n); returns how many it mapped.
 */
size_t machine_share(size_t page, uint32_t frame, size_t n);

/* Everything cold goes to the store. */
void machine_reclaim(void);

#endif
