/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * host_real: the kernel behind struct host_ops. Memory calls go through
 * syscall(2), not libc's wrappers: inside a VMM the agent has put its own
 * functions in front of those.
 *
 * Constants of kernels newer than the headers we build against (Debian 12 has
 * 6.1's) are defined here, from include/uapi/linux/userfaultfd.h.
 */
#include "hv/base/host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#endif
#define UFFDIO_MOVE_NR	0x05
#define USERFAULTFD_NEW _IO(0xAA, 0x00)

struct move_arg { /* struct uffdio_move of Linux 6.8 */
	uint64_t dst;
	uint64_t src;
	uint64_t len;
	uint64_t mode;
	int64_t move;
};
#define MOVE_IOCTL _IOWR(0xAA, UFFDIO_MOVE_NR, struct move_arg)

static int call(long r)
{
	return r < 0 ? -errno : 0;
}

static int map(void *addr, size_t bytes, int flags, int fd, uint64_t offset,
	       void **out)
{
	long r = syscall(SYS_mmap, addr, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_NORESERVE | flags, fd, offset);

	if (r == -1)
		return -errno;
	*out = (void *)r;
	return 0;
}

static int real_map_anon(void *addr, size_t bytes, void **out)
{
	return map(addr, bytes, MAP_ANONYMOUS | (addr ? MAP_FIXED : 0), -1, 0,
		   out);
}

static int real_map_overlay(void *addr, size_t bytes, int fd, uint64_t offset)
{
	void *at;

	return map(addr, bytes, MAP_FIXED, fd, offset, &at);
}

static int real_map_pool(int fd, size_t bytes, void **out)
{
	long r = syscall(SYS_mmap, NULL, bytes, PROT_READ,
			 MAP_SHARED | MAP_NORESERVE, fd, 0);

	if (r == -1)
		return -errno;
	*out = (void *)r;
	syscall(SYS_madvise, *out, bytes, MADV_DONTDUMP);
	syscall(SYS_madvise, *out, bytes, MADV_DONTFORK);
	return 0;
}

static int real_unmap(void *addr, size_t bytes)
{
	return call(syscall(SYS_munmap, addr, bytes));
}

static int real_remap(void *from, size_t bytes, void *to)
{
	return call(syscall(SYS_mremap, from, bytes, bytes,
			    MREMAP_MAYMOVE | MREMAP_FIXED, to));
}

static int real_advise(void *addr, size_t bytes, int advice)
{
	return call(syscall(SYS_madvise, addr, bytes, advice));
}

static int uffd_new(int device_fd)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 && errno == EPERM && device_fd >= 0)
		fd = ioctl(device_fd, USERFAULTFD_NEW, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

static uint64_t uffd_wanted(uint64_t there)
{
	return there & (UFFD_FEATURE_PAGEFAULT_FLAG_WP |
			UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_MOVE);
}

static unsigned uffd_features(uint64_t api)
{
	unsigned f = 0;

	if (api & UFFD_FEATURE_PAGEFAULT_FLAG_WP)
		f |= HOST_WP;
	if (api & UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
		f |= HOST_WP_SHMEM;
	if (api & UFFD_FEATURE_MOVE)
		f |= HOST_MOVE;
	return f;
}

/* UFFDIO_API works once a descriptor: one to ask, one to use. */
static int real_uffd_open(int device_fd, unsigned *features_out, int *fd_out)
{
	struct uffdio_api api = {.api = UFFD_API};
	int rc, fd = uffd_new(device_fd);

	if (fd < 0)
		return fd;
	rc = call(ioctl(fd, UFFDIO_API, &api));
	close(fd);
	if (rc < 0)
		return rc;
	fd = uffd_new(device_fd);
	if (fd < 0)
		return fd;
	api = (struct uffdio_api){.api = UFFD_API,
				  .features = uffd_wanted(api.features)};
	*features_out = uffd_features(api.features);
	rc = call(ioctl(fd, UFFDIO_API, &api));
	if (rc < 0) {
		close(fd);
		return rc;
	}
	*fd_out = fd;
	return 0;
}

static int real_uffd_register(int fd, void *addr, size_t bytes, unsigned mode)
{
	struct uffdio_register reg = {
		.range = {(uintptr_t)addr, bytes},
	};

	if (mode & HOST_MISSING)
		reg.mode |= UFFDIO_REGISTER_MODE_MISSING;
	if (mode & HOST_PROTECT)
		reg.mode |= UFFDIO_REGISTER_MODE_WP;
	return call(ioctl(fd, UFFDIO_REGISTER, &reg));
}

static int real_uffd_unregister(int fd, void *addr, size_t bytes)
{
	struct uffdio_range range = {(uintptr_t)addr, bytes};

	return call(ioctl(fd, UFFDIO_UNREGISTER, &range));
}

static int real_uffd_wake(int fd, void *addr, size_t bytes)
{
	struct uffdio_range range = {(uintptr_t)addr, bytes};

	return call(ioctl(fd, UFFDIO_WAKE, &range));
}

static size_t done_bytes(int64_t done)
{
	return done > 0 ? (size_t)done : 0;
}

static int real_uffd_copy(int fd, void *to, const void *from, size_t bytes,
			  size_t *done_out)
{
	struct uffdio_copy arg = {
		.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = bytes};
	int rc = call(ioctl(fd, UFFDIO_COPY, &arg));

	*done_out = done_bytes(arg.copy);
	return rc;
}

static int real_uffd_zero(int fd, void *to, size_t bytes, size_t *done_out)
{
	struct uffdio_zeropage arg = {.range = {(uintptr_t)to, bytes}};
	int rc = call(ioctl(fd, UFFDIO_ZEROPAGE, &arg));

	*done_out = done_bytes(arg.zeropage);
	return rc;
}

static int real_uffd_move(int fd, void *to, void *from, size_t bytes,
			  size_t *done_out)
{
	struct move_arg arg = {
		.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = bytes};
	int rc = call(ioctl(fd, MOVE_IOCTL, &arg));

	*done_out = done_bytes(arg.move);
	return rc;
}

static int real_uffd_protect(int fd, void *addr, size_t bytes, bool on)
{
	struct uffdio_writeprotect arg = {
		.range = {(uintptr_t)addr, bytes},
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return call(ioctl(fd, UFFDIO_WRITEPROTECT, &arg));
}

static struct host_fault fault_of(const struct uffd_msg *msg)
{
	uint64_t flags = msg->arg.pagefault.flags;

	return (struct host_fault){
		.hva = {msg->arg.pagefault.address & ~(PAGE_BYTES - 1)},
		.kind = flags & UFFD_PAGEFAULT_FLAG_WP ? HOST_FAULT_PROTECTED
						       : HOST_FAULT_MISSING,
	};
}

static int real_uffd_wait(int fd, int stop_fd)
{
	struct pollfd p[2] = {
		{.fd = fd, .events = POLLIN},
		{.fd = stop_fd, .events = POLLIN},
	};

	return poll(p, 2, -1) < 0 && errno != EINTR ? -errno : 0;
}

static int real_uffd_read(int fd, struct host_fault *faults, size_t max,
			  size_t *n_out)
{
	struct uffd_msg msg[16];
	size_t want = min_u64(max, ARRAY_LEN(msg)) * sizeof(msg[0]);
	ssize_t r;

	*n_out = 0;
	r = read(fd, msg, want);
	if (r < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (size_t i = 0; i < (size_t)r / sizeof(msg[0]); i++)
		if (msg[i].event == UFFD_EVENT_PAGEFAULT)
			faults[(*n_out)++] = fault_of(&msg[i]);
	return 0;
}

static int pagemap_fd(void)
{
	static atomic_int kept = -1;
	int fd = kept, none = -1;

	if (fd >= 0)
		return fd;
	fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/pagemap",
			  O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (!atomic_compare_exchange_strong(&kept, &none, fd)) {
		close(fd);
		fd = none;
	}
	return fd;
}

static int real_pagemap_read(const void *addr, size_t pages, uint64_t *out)
{
	size_t bytes = pages * sizeof(*out);
	off_t at = (off_t)((uintptr_t)addr / PAGE_BYTES * sizeof(*out));
	int fd = pagemap_fd();
	long r;

	if (fd < 0)
		return fd;
	r = syscall(SYS_pread64, fd, out, bytes, at);
	if (r < 0)
		return -errno;
	return (size_t)r == bytes ? 0 : -EIO;
}

struct scan_region { /* struct page_region of Linux 6.7 */
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

struct scan_arg { /* struct pm_scan_arg */
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end;
	uint64_t vec;
	uint64_t vec_len;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};
#define SCAN_IOCTL   _IOWR('f', 16, struct scan_arg)
#define SCAN_IS_HUGE (1 << 6)

static int real_is_huge(const void *addr, size_t bytes, bool *out)
{
	struct scan_region region = {0};
	struct scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)addr,
		.end = (uintptr_t)addr + bytes,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = SCAN_IS_HUGE,
		.return_mask = SCAN_IS_HUGE,
	};
	int fd = pagemap_fd();

	if (fd < 0)
		return fd;
	if (ioctl(fd, SCAN_IOCTL, &arg) < 0)
		return -errno;
	*out = region.start == arg.start && region.end == arg.end;
	return 0;
}

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static uint64_t real_now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t real_thread_cpu_ns(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

struct sched { /* struct sched_attr of Linux 3.14 */
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime;
	uint64_t deadline;
	uint64_t period;
};

static int real_thread_slice(uint64_t ns)
{
	struct sched attr = {.size = sizeof(attr)};
	int rc = call(syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0));

	if (rc == 0 && attr.policy != SCHED_OTHER && attr.policy != SCHED_BATCH)
		rc = -EINVAL;
	if (rc < 0)
		return rc;
	attr.runtime = ns;
	return call(syscall(SYS_sched_setattr, 0, &attr, 0));
}

static void real_thread_yield(void)
{
	sched_yield();
}

static int real_random(void *buf, size_t bytes)
{
	ssize_t r = getrandom(buf, bytes, 0);

	if (r < 0)
		return -errno;
	return (size_t)r == bytes ? 0 : -EIO;
}

const struct host_ops host_real = {
	.map_anon = real_map_anon,
	.map_overlay = real_map_overlay,
	.map_pool = real_map_pool,
	.unmap = real_unmap,
	.remap = real_remap,
	.advise = real_advise,
	.uffd_open = real_uffd_open,
	.uffd_register = real_uffd_register,
	.uffd_unregister = real_uffd_unregister,
	.uffd_wake = real_uffd_wake,
	.uffd_copy = real_uffd_copy,
	.uffd_zero = real_uffd_zero,
	.uffd_move = real_uffd_move,
	.uffd_protect = real_uffd_protect,
	.uffd_wait = real_uffd_wait,
	.uffd_read = real_uffd_read,
	.pagemap_read = real_pagemap_read,
	.is_huge = real_is_huge,
	.now_ns = real_now_ns,
	.thread_cpu_ns = real_thread_cpu_ns,
	.thread_slice = real_thread_slice,
	.thread_yield = real_thread_yield,
	.random = real_random,
};
