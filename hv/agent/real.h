/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The functions that preload.c stands in front of, as they are without us. Each
 * begins as a bare system call, so that a call made before our constructor ran
 * (another library's constructor, an allocator) needs no dlsym, which may
 * allocate; the constructor then puts the next definition in its place.
 *
 * These set errno, as the originals do; the io_* ones return -errno.
 */
#ifndef HV_AGENT_REAL_H
#define HV_AGENT_REAL_H

#include <liburing.h>
#include <linux/aio_abi.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

struct real_calls {
	int (*madvise)(void *addr, size_t bytes, int advice);
	void *(*mmap)(void *addr, size_t bytes, int prot, int flags, int fd,
		      off_t offset);
	int (*munmap)(void *addr, size_t bytes);
	void *(*mremap)(void *old, size_t bytes, size_t now, int flags,
			void *to);
	int (*mprotect)(void *addr, size_t bytes, int prot);
	int (*mlock)(const void *addr, size_t bytes);
	int (*mlock2)(const void *addr, size_t bytes, unsigned flags);
	int (*mlockall)(int flags);
	int (*connect)(int fd, const struct sockaddr *addr, socklen_t bytes);
	int (*ioctl)(int fd, unsigned long request, void *arg);
	ssize_t (*read)(int fd, void *buf, size_t bytes);
	ssize_t (*readv)(int fd, const struct iovec *iov, int n);
	ssize_t (*pread)(int fd, void *buf, size_t bytes, off_t offset);
	ssize_t (*preadv)(int fd, const struct iovec *iov, int n, off_t offset);
	ssize_t (*preadv2)(int fd, const struct iovec *iov, int n, off_t offset,
			   int flags);
	int (*io_submit)(aio_context_t ctx, long n, struct iocb **iocbs);
	/* NULL where the process has no liburing. */
	int (*uring_submit)(struct io_uring *ring);
	int (*uring_submit_wait)(struct io_uring *ring, unsigned wait);
	int (*uring_submit_timeout)(struct io_uring *ring,
				    struct io_uring_cqe **cqe, unsigned wait,
				    struct __kernel_timespec *ts,
				    sigset_t *mask);
	int (*uring_submit_events)(struct io_uring *ring);
};

extern struct real_calls real;

#endif
