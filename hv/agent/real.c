/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See real.h. The constructor is all that runs in a process that never shows a
 * guest's memory: a score of symbol look-ups, nothing else. It runs while the
 * process has one thread, so the table needs no atomics.
 */
#include "hv/agent/real.h"

#include <dlfcn.h>
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hv/base/types.h"

static int raw_madvise(void *addr, size_t bytes, int advice)
{
	return (int)syscall(SYS_madvise, addr, bytes, advice);
}

static void *raw_mmap(void *addr, size_t bytes, int prot, int flags, int fd,
		      off_t offset)
{
	return (void *)syscall(SYS_mmap, addr, bytes, prot, flags, fd, offset);
}

static int raw_munmap(void *addr, size_t bytes)
{
	return (int)syscall(SYS_munmap, addr, bytes);
}

static void *raw_mremap(void *old, size_t bytes, size_t now, int flags,
			void *to)
{
	return (void *)syscall(SYS_mremap, old, bytes, now, flags, to);
}

static int raw_mprotect(void *addr, size_t bytes, int prot)
{
	return (int)syscall(SYS_mprotect, addr, bytes, prot);
}

static int raw_mlock(const void *addr, size_t bytes)
{
	return (int)syscall(SYS_mlock, addr, bytes);
}

static int raw_mlock2(const void *addr, size_t bytes, unsigned flags)
{
	return (int)syscall(SYS_mlock2, addr, bytes, flags);
}

static int raw_mlockall(int flags)
{
	return (int)syscall(SYS_mlockall, flags);
}

static int raw_ioctl(int fd, unsigned long request, void *arg)
{
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

static int raw_connect(int fd, const struct sockaddr *addr, socklen_t bytes)
{
	return (int)syscall(SYS_connect, fd, addr, bytes);
}

static ssize_t raw_read(int fd, void *buf, size_t bytes)
{
	return syscall(SYS_read, fd, buf, bytes);
}

static ssize_t raw_readv(int fd, const struct iovec *iov, int n)
{
	return syscall(SYS_readv, fd, iov, n);
}

static ssize_t raw_pread(int fd, void *buf, size_t bytes, off_t offset)
{
	return syscall(SYS_pread64, fd, buf, bytes, offset);
}

/* The kernel takes offsets in two halves; a 64-bit one uses the low alone. */
static ssize_t raw_preadv(int fd, const struct iovec *iov, int n, off_t offset)
{
	return syscall(SYS_preadv, fd, iov, n, offset, 0);
}

static ssize_t raw_preadv2(int fd, const struct iovec *iov, int n, off_t offset,
			   int flags)
{
	return syscall(SYS_preadv2, fd, iov, n, offset, 0, flags);
}

static int raw_io_submit(aio_context_t ctx, long n, struct iocb **iocbs)
{
	long r = syscall(SYS_io_submit, ctx, n, iocbs);

	return r < 0 ? -errno : (int)r;
}

struct real_calls real = {
	.madvise = raw_madvise,
	.mmap = raw_mmap,
	.munmap = raw_munmap,
	.mremap = raw_mremap,
	.mprotect = raw_mprotect,
	.mlock = raw_mlock,
	.mlock2 = raw_mlock2,
	.mlockall = raw_mlockall,
	.connect = raw_connect,
	.ioctl = raw_ioctl,
	.read = raw_read,
	.readv = raw_readv,
	.pread = raw_pread,
	.preadv = raw_preadv,
	.preadv2 = raw_preadv2,
	.io_submit = raw_io_submit,
};

/* C has no conversion from dlsym's object pointer to a function pointer. */
static void next_find(const char *name, void *slot)
{
	void *found = dlsym(RTLD_NEXT, name);

	if (found)
		*(void **)slot = found;
}

__attribute__((constructor(101))) static void real_resolve(void)
{
	next_find("madvise", &real.madvise);
	next_find("mmap64", &real.mmap);
	next_find("munmap", &real.munmap);
	next_find("mremap", &real.mremap);
	next_find("mprotect", &real.mprotect);
	next_find("mlock", &real.mlock);
	next_find("mlock2", &real.mlock2);
	next_find("mlockall", &real.mlockall);
	next_find("connect", &real.connect);
	next_find("ioctl", &real.ioctl);
	next_find("read", &real.read);
	next_find("readv", &real.readv);
	next_find("pread64", &real.pread);
	next_find("preadv64", &real.preadv);
	next_find("preadv64v2", &real.preadv2);
	next_find("io_submit", &real.io_submit);
	next_find("io_uring_submit", &real.uring_submit);
	next_find("io_uring_submit_and_wait", &real.uring_submit_wait);
	next_find("io_uring_submit_and_wait_timeout",
		  &real.uring_submit_timeout);
	next_find("io_uring_submit_and_get_events", &real.uring_submit_events);
}
