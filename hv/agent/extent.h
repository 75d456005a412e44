/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The extents of guest RAM this process has shown us, and what becomes of them
 * when the VMM calls the kernel about them. See extent.c for the life of one.
 *
 * The functions for interposers set errno and return what the call returns.
 */
#ifndef HV_AGENT_EXTENT_H
#define HV_AGENT_EXTENT_H

#include <stdatomic.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "hv/base/types.h"
#include "hv/mm/mm.h"

enum extent_origin {
	EXTENT_MERGEABLE, /* madvise(MADV_MERGEABLE) */
	EXTENT_SLOT	  /* KVM_SET_USER_MEMORY_REGION */
};

/* Every extent lies in [extent_lowest, extent_highest): empty at first. */
extern atomic_uintptr_t extent_lowest, extent_highest;

/* May [addr, +bytes) touch an extent? All that a call not about them costs. */
static inline bool extent_maybe(const void *addr, size_t bytes)
{
	uintptr_t at = (uintptr_t)addr;

	return at < atomic_load_explicit(&extent_highest,
					 memory_order_relaxed) &&
	       at + bytes > atomic_load_explicit(&extent_lowest,
						 memory_order_relaxed);
}

/* ---- for the interposers [any] ---------------------------------------- */

/* True: it is ours from now on (or was already). */
bool extent_announce(const void *addr, size_t bytes, enum extent_origin origin);

/* The kernel has just accepted MADV_DONTFORK. */
void extent_kept_from_children(const void *addr, size_t bytes);

/* MADV_DONTNEED and its kin, part by part where a part is not managed. */
int extent_discard(void *addr, size_t bytes, int advice);

/*
 * The extents that touch [addr, +bytes) become plain memory again, for good;
 * why is said unless NULL. -1 with errno if it cannot be brought back: then the
 * call that wants plain memory must not be made.
 */
int extent_leave(const void *addr, size_t bytes, const char *why);
int extent_leave_all(const char *why);

/* mlockall */
int extent_lock_all(int flags);

int extent_unmap(void *addr, size_t bytes);
void *extent_remap(void *old, size_t bytes, size_t now, int flags, void *to);
void *extent_map_fixed(void *addr, size_t bytes, int prot, int flags, int fd,
		       off_t offset);

/* A device is about to pin it for good. */
void extent_pin(const void *addr, size_t bytes);

/*
 * A read that may go straight from a device into an extent. direct: it does so
 * (O_DIRECT). begin and end come in pairs; got: what the call returned.
 */
struct extent_read {
	const struct iovec *iov;
	int n;
	bool waiting; /* counted in the extents' reads in flight */
	bool managed; /* mm_io_begin was called */
};
bool extent_iov_maybe(const struct iovec *iov, int n);
void extent_read_begin(struct extent_read *rd, const struct iovec *iov, int n,
		       bool direct);
void extent_read_end(struct extent_read *rd, ssize_t got);

/* Device reads into extents that nobody can see the end of. */
void extent_copy_takes_off(const char *why);
bool extent_copy_takes_are_off(void);

/* ---- for the worker ----------------------------------------------------- */

struct share;

/* ns until extents want another look; UINT64_MAX: none do. */
uint64_t extent_judge(uint64_t now_ns);

/* From here on mm manages what is found fit; sh gets the hints. */
void extent_manager_set(struct mm *mm, struct share *sh);

/* Hands fit extents to mm. False: some must wait for reads in flight. */
bool extent_adopt(void);

/* Bytes of extents fit or managed. */
uint64_t extent_ram_bytes(void);

/* Nothing that waits will ever be managed: it is the kernel's to merge. */
void extent_give_up(void);

/* In a forked child: nothing is ours, no lock is known to be free. */
void extent_forget_all(void);

#endif
