/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The functions we stand in front of. Each asks one question (may this touch
 * guest RAM?) and then is the original, or hands over to extent.c. Which ones
 * QEMU 7.2 really imports: madvise, mmap64, munmap, mremap, mprotect, mlockall,
 * connect, ioctl, read, readv, pread64, preadv64, io_submit, io_uring_submit
 * and io_uring_submit_and_wait; the rest is for its neighbours.
 *
 * Alternative dropped: tracing system calls (seccomp, ptrace, BPF) sees static
 * VMMs as well, and costs every call of every VM.
 */
#include "hv/agent/agent.h"
#include "hv/agent/extent.h"
#include "hv/agent/port.h"
#include "hv/agent/real.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define EXPORT	      __attribute__((visibility("default")))
#define EXPORT_AS(fn) EXPORT __attribute__((alias(#fn)))

#define IOV_COUNT_MAX 1024

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

/* Not declared by any header without _FORTIFY_SOURCE, or not in this form. */
ssize_t __read_chk(int fd, void *buf, size_t bytes, size_t room);
ssize_t __pread_chk(int fd, void *buf, size_t bytes, off_t offset, size_t room);
ssize_t __pread64_chk(int fd, void *buf, size_t bytes, off64_t offset,
		      size_t room);
int io_submit(aio_context_t ctx, long n, struct iocb **iocbs);
void __chk_fail(void) __attribute__((noreturn));

static bool is_ours(const void *addr, size_t bytes)
{
	return extent_maybe(addr, bytes) && !agent_inside;
}

static bool ram_announce(const void *addr, size_t bytes,
			 enum extent_origin origin)
{
	bool ours;

	if (bytes < AGENT_RAM_MIN || (uintptr_t)addr % PAGE_BYTES ||
	    agent_inside)
		return false;
	agent_inside = true;
	ours = agent_start() && extent_announce(addr, bytes, origin);
	agent_inside = false;
	if (ours)
		agent_wake();
	return ours;
}

/* ---- memory ----------------------------------------------------------- */

static int ram_leave(const void *addr, size_t bytes, const char *why)
{
	int r;

	agent_inside = true;
	r = extent_leave(addr, bytes, why);
	agent_inside = false;
	return r;
}

static int ram_discard(void *addr, size_t bytes, int advice)
{
	int r;

	agent_inside = true;
	r = extent_discard(addr, bytes, advice);
	agent_inside = false;
	return r;
}

static int ram_dontfork(void *addr, size_t bytes)
{
	int r = real.madvise(addr, bytes, MADV_DONTFORK);

	if (!r)
		extent_kept_from_children(addr, bytes);
	return r;
}

static int ram_advise(void *addr, size_t bytes, int advice)
{
	switch (advice) {
	case MADV_DONTNEED:
	case MADV_DONTNEED_LOCKED:
	case MADV_FREE:
	case MADV_REMOVE:
		return ram_discard(addr, bytes, advice);
	case MADV_DONTFORK:
		return ram_dontfork(addr, bytes);
	case MADV_DOFORK:
		if (ram_leave(addr, bytes,
			      "guest RAM is given to children "
			      "(MADV_DOFORK)"))
			return -1;
		break;
	case MADV_UNMERGEABLE:
		if (ram_leave(addr, bytes,
			      "the VMM wants no merging "
			      "(MADV_UNMERGEABLE)"))
			return -1;
		break;
	}
	return real.madvise(addr, bytes, advice);
}

EXPORT int madvise(void *addr, size_t bytes, int advice)
{
	if (advice == MADV_MERGEABLE &&
	    ram_announce(addr, bytes, EXTENT_MERGEABLE))
		return 0;
	if (!is_ours(addr, bytes))
		return real.madvise(addr, bytes, advice);
	return ram_advise(addr, bytes, advice);
}

EXPORT void *mmap(void *addr, size_t bytes, int prot, int flags, int fd,
		  off_t offset)
{
	void *r;

	if (!(flags & MAP_FIXED) || !is_ours(addr, bytes))
		return real.mmap(addr, bytes, prot, flags, fd, offset);
	agent_inside = true;
	r = extent_map_fixed(addr, bytes, prot, flags, fd, offset);
	agent_inside = false;
	return r;
}

EXPORT_AS(mmap)
void *mmap64(void *addr, size_t bytes, int prot, int flags, int fd,
	     off64_t offset);

EXPORT int munmap(void *addr, size_t bytes)
{
	int r;

	if (!is_ours(addr, bytes))
		return real.munmap(addr, bytes);
	agent_inside = true;
	r = extent_unmap(addr, bytes);
	agent_inside = false;
	return r;
}

EXPORT void *mremap(void *old, size_t bytes, size_t now, int flags, ...)
{
	void *to = NULL, *r;
	va_list ap;

	if (flags & MREMAP_FIXED) {
		va_start(ap, flags);
		to = va_arg(ap, void *);
		va_end(ap);
	}
	if (!is_ours(old, bytes) && !(to && is_ours(to, now)))
		return real.mremap(old, bytes, now, flags, to);
	agent_inside = true;
	r = extent_remap(old, bytes, now, flags, to);
	agent_inside = false;
	return r;
}

EXPORT int mprotect(void *addr, size_t bytes, int prot)
{
	if (is_ours(addr, bytes) && prot != (PROT_READ | PROT_WRITE) &&
	    ram_leave(addr, bytes, "guest RAM was given another protection"))
		return -1;
	return real.mprotect(addr, bytes, prot);
}

EXPORT int mlock(const void *addr, size_t bytes)
{
	if (is_ours(addr, bytes) &&
	    ram_leave(addr, bytes, "guest RAM is locked (mlock)"))
		return -1;
	return real.mlock(addr, bytes);
}

EXPORT int mlock2(const void *addr, size_t bytes, unsigned flags)
{
	if (is_ours(addr, bytes) &&
	    ram_leave(addr, bytes, "guest RAM is locked (mlock2)"))
		return -1;
	return real.mlock2(addr, bytes, flags);
}

EXPORT int mlockall(int flags)
{
	int r;

	if (agent_inside ||
	    !atomic_load_explicit(&extent_highest, memory_order_relaxed))
		return real.mlockall(flags);
	agent_inside = true;
	r = extent_lock_all(flags);
	agent_inside = false;
	return r;
}

/* ---- devices ---------------------------------------------------------- */

/*
 * A path of ours, ended by a 0 in out? It is not the file system that says so:
 * see port.c.
 */
static bool port_is_asked(const struct sockaddr *addr, socklen_t bytes,
			  char out[PORT_PATH_MAX + 1])
{
	const struct sockaddr_un *un = (const void *)addr;
	size_t head = offsetof(struct sockaddr_un, sun_path), n;

	if (agent_inside || !addr || bytes <= head || bytes > sizeof(*un) ||
	    un->sun_family != AF_UNIX)
		return false;
	n = strnlen(un->sun_path, bytes - head);
	memcpy(out, un->sun_path, n);
	out[n] = '\0';
	return n > sizeof(PORT_SUFFIX) - 1 &&
	       !strcmp(out + n - (sizeof(PORT_SUFFIX) - 1), PORT_SUFFIX);
}

EXPORT int connect(int fd, const struct sockaddr *addr, socklen_t bytes)
{
	char path[PORT_PATH_MAX + 1];
	int rc;

	if (!port_is_asked(addr, bytes, path))
		return real.connect(fd, addr, bytes);
	agent_inside = true;
	rc = agent_connect(fd, path);
	agent_inside = false;
	if (rc == -ENOENT)
		return real.connect(fd, addr, bytes);
	errno = -rc;
	return rc ? -1 : 0;
}

static int slot_set(int fd, unsigned long request, void *arg)
{
	struct kvm_userspace_memory_region slot;
	int r = real.ioctl(fd, request, arg);

	if (r)
		return r;
	slot = *(const struct kvm_userspace_memory_region *)arg;
	if (!(slot.flags & KVM_MEM_READONLY))
		ram_announce((void *)(uintptr_t)slot.userspace_addr,
			     slot.memory_size, EXTENT_SLOT);
	errno = 0;
	return r;
}

static int dma_map(int fd, unsigned long request, void *arg)
{
	const struct vfio_iommu_type1_dma_map *map = arg;
	void *addr = (void *)(uintptr_t)map->vaddr;

	if (is_ours(addr, map->size)) {
		agent_inside = true;
		extent_pin(addr, map->size);
		agent_inside = false;
	}
	return real.ioctl(fd, request, arg);
}

/* Postcopy and background snapshots: two managers of one page cannot be. */
static int uffd_register(int fd, unsigned long request, void *arg)
{
	const struct uffdio_register *reg = arg;
	void *addr = (void *)(uintptr_t)reg->range.start;

	if (is_ours(addr, reg->range.len) &&
	    ram_leave(addr, reg->range.len,
		      "the VMM itself uses userfaultfd on guest RAM"))
		return -1;
	return real.ioctl(fd, request, arg);
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	switch (request) {
	case KVM_SET_USER_MEMORY_REGION:
		return slot_set(fd, request, arg);
	case VFIO_IOMMU_MAP_DMA:
		return dma_map(fd, request, arg);
	case UFFDIO_REGISTER:
		return uffd_register(fd, request, arg);
	default:
		return real.ioctl(fd, request, arg);
	}
}

/* ---- reads ------------------------------------------------------------ */

static bool fd_is_direct(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && (flags & O_DIRECT);
}

static bool iov_is_ours(const struct iovec *iov, int n)
{
	return !agent_inside && n > 0 && n <= IOV_COUNT_MAX &&
	       atomic_load_explicit(&extent_highest, memory_order_relaxed) &&
	       extent_iov_maybe(iov, n);
}

/* Calls the original between begin and end, and leaves its errno alone. */
#define READ_THROUGH(fd, iov, n, call)                                         \
	do {                                                                   \
		struct extent_read rd_;                                        \
		ssize_t got_;                                                  \
		int errno_;                                                    \
                                                                               \
		read_begin(&rd_, fd, iov, n);                                  \
		got_ = (call);                                                 \
		errno_ = errno;                                                \
		read_end(&rd_, got_);                                          \
		errno = errno_;                                                \
		return got_;                                                   \
	} while (0)

static void read_begin(struct extent_read *rd, int fd, const struct iovec *iov,
		       int n)
{
	agent_inside = true;
	extent_read_begin(rd, iov, n, fd_is_direct(fd));
	agent_inside = false;
}

static void read_end(struct extent_read *rd, ssize_t got)
{
	agent_inside = true;
	extent_read_end(rd, got);
	agent_inside = false;
}

EXPORT ssize_t read(int fd, void *buf, size_t bytes)
{
	const struct iovec iov = {buf, bytes};

	if (!is_ours(buf, bytes))
		return real.read(fd, buf, bytes);
	READ_THROUGH(fd, &iov, 1, real.read(fd, buf, bytes));
}

EXPORT ssize_t readv(int fd, const struct iovec *iov, int n)
{
	if (!iov_is_ours(iov, n))
		return real.readv(fd, iov, n);
	READ_THROUGH(fd, iov, n, real.readv(fd, iov, n));
}

EXPORT ssize_t pread(int fd, void *buf, size_t bytes, off_t offset)
{
	const struct iovec iov = {buf, bytes};

	if (!is_ours(buf, bytes))
		return real.pread(fd, buf, bytes, offset);
	READ_THROUGH(fd, &iov, 1, real.pread(fd, buf, bytes, offset));
}

EXPORT ssize_t preadv(int fd, const struct iovec *iov, int n, off_t offset)
{
	if (!iov_is_ours(iov, n))
		return real.preadv(fd, iov, n, offset);
	READ_THROUGH(fd, iov, n, real.preadv(fd, iov, n, offset));
}

EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t offset,
		       int flags)
{
	if (!iov_is_ours(iov, n))
		return real.preadv2(fd, iov, n, offset, flags);
	READ_THROUGH(fd, iov, n, real.preadv2(fd, iov, n, offset, flags));
}

EXPORT_AS(pread)
ssize_t pread64(int fd, void *buf, size_t bytes, off64_t offset);
EXPORT_AS(preadv)
ssize_t preadv64(int fd, const struct iovec *iov, int n, off64_t offset);
EXPORT_AS(preadv2)
ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off64_t offset,
		   int flags);

/* What a caller built with _FORTIFY_SOURCE calls instead. */
EXPORT ssize_t __read_chk(int fd, void *buf, size_t bytes, size_t room)
{
	if (bytes > room)
		__chk_fail();
	return read(fd, buf, bytes);
}

EXPORT ssize_t __pread_chk(int fd, void *buf, size_t bytes, off_t offset,
			   size_t room)
{
	if (bytes > room)
		__chk_fail();
	return pread(fd, buf, bytes, offset);
}

EXPORT_AS(__pread_chk)
ssize_t __pread64_chk(int fd, void *buf, size_t bytes, off64_t offset,
		      size_t room);

/* ---- asynchronous reads: their end cannot be seen ------------------------ */

static bool may_look(void)
{
	return !agent_inside && !extent_copy_takes_are_off() &&
	       atomic_load_explicit(&extent_highest, memory_order_relaxed);
}

static bool iocb_is_ours(const struct iocb *cb)
{
	void *buf = (void *)(uintptr_t)cb->aio_buf;
	bool ours;

	if (cb->aio_lio_opcode == IOCB_CMD_PREAD)
		ours = extent_maybe(buf, cb->aio_nbytes);
	else if (cb->aio_lio_opcode == IOCB_CMD_PREADV)
		ours = iov_is_ours(buf, (int)cb->aio_nbytes);
	else
		return false;
	return ours && fd_is_direct((int)cb->aio_fildes);
}

EXPORT int io_submit(aio_context_t ctx, long n, struct iocb **iocbs)
{
	for (long i = 0; i < n && may_look(); i++)
		if (iocb_is_ours(iocbs[i]))
			extent_copy_takes_off("direct reads by libaio "
					      "(aio=native)");
	return real.io_submit(ctx, n, iocbs);
}

static bool sqe_is_ours(const struct io_uring_sqe *sqe)
{
	void *buf = (void *)(uintptr_t)sqe->addr;
	bool ours;

	switch (sqe->opcode) {
	case IORING_OP_READ:
	case IORING_OP_READ_FIXED:
	case IORING_OP_RECV:
		ours = extent_maybe(buf, sqe->len);
		break;
	case IORING_OP_READV:
		ours = iov_is_ours(buf, (int)sqe->len);
		break;
	default:
		return false;
	}
	/* A registered file is only a number here: take it for a direct one. */
	return ours &&
	       ((sqe->flags & IOSQE_FIXED_FILE) || fd_is_direct(sqe->fd));
}

/*
 * QEMU keeps a ring for polling in any case, so a ring as such says nothing:
 * look at what is queued. kring_mask is there in every version of liburing 2.
 */
static void ring_look(const struct io_uring *ring)
{
	const struct io_uring_sq *sq = &ring->sq;
	unsigned shift = ring->flags & IORING_SETUP_SQE128 ? 1 : 0;

	for (unsigned i = sq->sqe_head; i != sq->sqe_tail && may_look(); i++)
		if (sqe_is_ours(&sq->sqes[(i & *sq->kring_mask) << shift]))
			extent_copy_takes_off("direct reads by io_uring "
					      "(aio=io_uring)");
}

EXPORT int io_uring_submit(struct io_uring *ring)
{
	if (may_look())
		ring_look(ring);
	return real.uring_submit ? real.uring_submit(ring) : -ENOSYS;
}

EXPORT int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait)
{
	if (may_look())
		ring_look(ring);
	return real.uring_submit_wait ? real.uring_submit_wait(ring, wait)
				      : -ENOSYS;
}

EXPORT int io_uring_submit_and_wait_timeout(struct io_uring *ring,
					    struct io_uring_cqe **cqe,
					    unsigned wait,
					    struct __kernel_timespec *ts,
					    sigset_t *mask)
{
	if (may_look())
		ring_look(ring);
	return real.uring_submit_timeout
		       ? real.uring_submit_timeout(ring, cqe, wait, ts, mask)
		       : -ENOSYS;
}

EXPORT int io_uring_submit_and_get_events(struct io_uring *ring)
{
	if (may_look())
		ring_look(ring);
	return real.uring_submit_events ? real.uring_submit_events(ring)
					: -ENOSYS;
}
