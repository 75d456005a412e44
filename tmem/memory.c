/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory from the kernel. Pages come from mmap, not from an allocator: the
 * store wants to know, to the page, what it uses, and to give it back.
 */
#include "tmem/memory.h"
#include "tmem/lock.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

#if LOCK_CHECKED
_Thread_local unsigned lock_held[LOCK_RANKS];
#endif

/* Below this part of the limit left, nothing is kept for later. */
#define TIGHT_PART 32

/*
 * Mapped without access first: a VMM that locks all its memory
 * (mlockall(MCL_FUTURE)) would else fill the whole range at once, and could not
 * give any of it back. munlock comes before access is allowed.
 */
static int real_map(size_t bytes, void **out)
{
	void *addr = mmap(NULL, bytes, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int rc;

	if (addr == MAP_FAILED)
		return -errno;
	(void)munlock(addr, bytes);
	if (mprotect(addr, bytes, PROT_READ | PROT_WRITE) < 0) {
		rc = -errno;
		(void)munmap(addr, bytes);
		return rc;
	}
	/* A huge page would use 2 MiB where we count 4 KiB. */
	(void)madvise(addr, bytes, MADV_NOHUGEPAGE);
	(void)madvise(addr, bytes, MADV_DONTDUMP);
	*out = addr;
	return 0;
}

static void real_unmap(void *addr, size_t bytes)
{
	(void)munmap(addr, bytes);
}

static int real_release(void *addr, size_t bytes)
{
	return madvise(addr, bytes, MADV_DONTNEED) < 0 ? -errno : 0;
}

static void *real_alloc(size_t bytes)
{
	return calloc(1, bytes);
}

const struct memory_ops memory_real = {
	.map = real_map,
	.unmap = real_unmap,
	.release = real_release,
	.alloc = real_alloc,
	.free = free,
};

void budget_init(struct budget *b, const struct memory_ops *ops, uint64_t limit)
{
	b->ops = ops;
	b->limit = limit;
	atomic_init(&b->used, 0);
	atomic_init(&b->heap, 0);
}

int budget_charge(struct budget *b, uint64_t bytes)
{
	uint64_t used = atomic_load_explicit(&b->used, memory_order_relaxed);

	do {
		if (b->limit && (used > b->limit || bytes > b->limit - used))
			return -ENOSPC;
	} while (!atomic_compare_exchange_weak_explicit(
		&b->used, &used, used + bytes, memory_order_relaxed,
		memory_order_relaxed));
	return 0;
}

void budget_charge_anyway(struct budget *b, uint64_t bytes)
{
	atomic_fetch_add_explicit(&b->used, bytes, memory_order_relaxed);
}

void budget_uncharge(struct budget *b, uint64_t bytes)
{
	atomic_fetch_sub_explicit(&b->used, bytes, memory_order_relaxed);
}

bool budget_lacks(const struct budget *b, uint64_t bytes)
{
	uint64_t used = atomic_load_explicit(&b->used, memory_order_relaxed);

	return b->limit && (used > b->limit || bytes > b->limit - used);
}

bool budget_is_tight(const struct budget *b)
{
	return budget_lacks(b, b->limit / TIGHT_PART);
}

void *heap_alloc(struct budget *b, size_t bytes)
{
	void *ptr = b->ops->alloc(bytes);

	if (!ptr)
		return NULL;
	budget_charge_anyway(b, bytes);
	atomic_fetch_add_explicit(&b->heap, bytes, memory_order_relaxed);
	return ptr;
}

void heap_free(struct budget *b, void *ptr, size_t bytes)
{
	if (!ptr)
		return;
	b->ops->free(ptr);
	atomic_fetch_sub_explicit(&b->heap, bytes, memory_order_relaxed);
	budget_uncharge(b, bytes);
}

uint64_t memory_secret(void)
{
	uint64_t secret;
	struct timespec ts;

	if (getrandom(&secret, sizeof(secret), GRND_NONBLOCK) ==
	    (ssize_t)sizeof(secret))
		return secret;
	/* Early in boot: only speed under attack depends on this number. */
	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_nsec * 0x9E3779B97F4A7C15u ^
	       (uint64_t)(uintptr_t)&ts;
}
