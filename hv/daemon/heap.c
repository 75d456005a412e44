/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * jemalloc counts the age of free memory only while somebody allocates, and hvd
 * after a burst of offers does not: what the burst needed (several times its
 * tables, as they grow) stayed resident for good. Told once a second that time
 * has passed, it gives back what has been free for its dirty_decay_ms.
 *
 * Dropped: its background thread (a stack and caches of its own, in a daemon
 * that has one thread), and no delay at all (each growth of a table would fault
 * its memory in anew).
 */
#include "hv/daemon/heap.h"

#include <stddef.h>

/* NULL in builds without jemalloc: sanitizers have their own allocator. */
__attribute__((weak)) int mallctl(const char *name, void *old, size_t *old_size,
				  void *new, size_t new_size);

/* Some twenty of each size: a megabyte, once tables of all sizes have grown. */
static void cache_flush(void)
{
	(void)mallctl("thread.tcache.flush", NULL, NULL, NULL, 0);
}

void heap_tick(void)
{
	if (!mallctl)
		return;
	cache_flush();
	/* 4096: MALLCTL_ARENAS_ALL */
	(void)mallctl("arena.4096.decay", NULL, NULL, NULL, 0);
}

void heap_purge(void)
{
	if (!mallctl)
		return;
	cache_flush();
	(void)mallctl("arena.4096.purge", NULL, NULL, NULL, 0);
}
