/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every service the memory manager asks of the host kernel, behind one table.
 * A system call is wrapped here once; nobody else reads errno. All functions
 * return 0 or a negative errno. host_real is the kernel; tests put a table of
 * their own in its place to fail the n-th call or to run on a fake clock.
 */
#ifndef HV_BASE_HOST_H
#define HV_BASE_HOST_H

#include "hv/base/types.h"

#include <sys/types.h>

/* Bits of host_uffd_open's features, in our own numbering. */
enum host_feature {
	HOST_MOVE = 1,	   /* UFFDIO_MOVE: Linux 6.8 */
	HOST_WP = 2,	   /* write-protect on anonymous memory: 5.7 */
	HOST_WP_SHMEM = 4, /* write-protect on shmem: 5.19 */
	HOST_SIGBUS = 8,   /* a fault may raise SIGBUS: 4.14 */
};

enum host_register { HOST_MISSING = 1, HOST_PROTECT = 2 };

enum host_fault_kind { HOST_FAULT_MISSING, HOST_FAULT_PROTECTED };

struct host_fault {
	hva_t hva; /* of the page, aligned down */
	enum host_fault_kind kind;
};

/* Bits of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst). */
#define PAGEMAP_PRESENT ((uint64_t)1 << 63)
#define PAGEMAP_SWAPPED ((uint64_t)1 << 62)
#define PAGEMAP_FILE	((uint64_t)1 << 61)

struct host_ops {
	/* Anonymous, private, no reserve; at addr (replacing) if not NULL. */
	int (*map_anon)(void *addr, size_t bytes, void **out);
	/* Private, writable overlay of fd at offset, replacing [addr, +bytes)
	 */
	int (*map_overlay)(void *addr, size_t bytes, int fd, uint64_t offset);
	/* Shared, read-only, from the start of fd; not for cores or children */
	int (*map_pool)(int fd, size_t bytes, void **out);
	int (*unmap)(void *addr, size_t bytes);
	/* Moves the mapping at from over the one at to, atomically. */
	int (*remap)(void *from, size_t bytes, void *to);
	int (*advise)(void *addr, size_t bytes, int advice);

	/*
	 * device_fd: an open /dev/userfaultfd, or -1 for the system call.
	 * features_out: enum host_feature bits usable on fd_out.
	 */
	int (*uffd_open)(int device_fd, unsigned *features_out, int *fd_out);
	int (*uffd_register)(int fd, void *addr, size_t bytes, unsigned mode);
	int (*uffd_unregister)(int fd, void *addr, size_t bytes);
	int (*uffd_wake)(int fd, void *addr, size_t bytes);
	/* done_out: bytes done, also on error. */
	int (*uffd_copy)(int fd, void *to, const void *from, size_t bytes,
			 size_t *done_out);
	int (*uffd_zero)(int fd, void *to, size_t bytes, size_t *done_out);
	int (*uffd_move)(int fd, void *to, void *from, size_t bytes,
			 size_t *done_out);
	int (*uffd_protect)(int fd, void *addr, size_t bytes, bool on);
	/* Sleeps until there is something to read on fd or on stop_fd. */
	int (*uffd_wait)(int fd, int stop_fd);
	/* Never sleeps; *n_out may be 0. */
	int (*uffd_read)(int fd, struct host_fault *faults, size_t max,
			 size_t *n_out);

	/* One entry per page of [addr, +pages) of this process. */
	int (*pagemap_read)(const void *addr, size_t pages, uint64_t *out);

	/* Is all of it huge pages? -ENOTTY: this kernel cannot say (< 6.7) */
	int (*is_huge)(const void *addr, size_t bytes, bool *out);

	uint64_t (*now_ns)(void); /* monotonic */
	uint64_t (*thread_cpu_ns)(void);
	/*
	 * The calling thread runs for this long at a time, and so need not wait
	 * for others to use up theirs when it wakes: Linux 6.12. -EINVAL:
	 * under a real-time policy, which stays.
	 */
	int (*thread_slice)(uint64_t ns);
	/* Whoever else waits for this processor runs first. */
	void (*thread_yield)(void);
	int (*random)(void *buf, size_t bytes);
};

extern const struct host_ops host_real;

#endif
