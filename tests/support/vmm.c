/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See vmm.h. A page's content is made from one word, its seed (0: all zero), so
 * the process keeps eight bytes a page to know what the rest must be.
 */
#include "tests/support/vmm.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(x)                                                               \
	do {                                                                   \
		if (!(x)) {                                                    \
			fprintf(stderr, "vmm: line %d: %s (errno %d)\n",       \
				__LINE__, #x, errno);                          \
			_exit(1);                                              \
		}                                                              \
	} while (0)

/* Not on a chunk's border: the first and last chunk are managed in part. */
#define LEAD (8 * PAGE_BYTES)

static unsigned char *ram;
static uint64_t seed[VMM_PAGES];

static void page_make(uint64_t s, uint64_t out[PAGE_BYTES / 8])
{
	for (size_t i = 0; i < PAGE_BYTES / 8; i++)
		out[i] = s ? (s + i) * 0x9e3779b97f4a7c15ULL : 0;
}

static unsigned char *page_at(size_t page)
{
	return ram + page * PAGE_BYTES;
}

static void page_write(size_t page, uint64_t s)
{
	uint64_t buf[PAGE_BYTES / 8];

	page_make(s, buf);
	memcpy(page_at(page), buf, PAGE_BYTES);
	seed[page] = s;
}

static void pages_verify(size_t from, size_t to)
{
	uint64_t buf[PAGE_BYTES / 8];

	for (size_t i = from; i < to; i++) {
		page_make(seed[i], buf);
		if (!memcmp(page_at(i), buf, PAGE_BYTES))
			continue;
		fprintf(stderr, "vmm: page %zu of %d is corrupt\n", i,
			VMM_PAGES);
		_exit(1);
	}
}

static void verify(void)
{
	pages_verify(0, VMM_PAGES);
}

static void fill(void)
{
	for (size_t i = 0; i < VMM_PAGES; i++) {
		if (i % 8 == 0)
			page_write(i, 0);
		else if (i % 8 < 4)
			page_write(i, 1 + i / 8 % 64);
		else
			page_write(i, 1000000 + i * 7919);
	}
}

static void announce(void)
{
	CHECK(!madvise(ram, (size_t)VMM_MIB << 20, MADV_MERGEABLE));
	madvise(ram, (size_t)VMM_MIB << 20, MADV_HUGEPAGE);
	CHECK(!madvise(ram, (size_t)VMM_MIB << 20, MADV_DONTFORK));
}

static void ram_map(int flags)
{
	size_t room = ((size_t)VMM_MIB << 20) + 2 * CHUNK_BYTES;
	unsigned char *at = mmap(NULL, room, PROT_READ | PROT_WRITE,
				 MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
	uintptr_t up;

	CHECK(at != MAP_FAILED);
	up = ((uintptr_t)at + CHUNK_BYTES - 1) & ~(CHUNK_BYTES - 1);
	ram = (unsigned char *)up + LEAD;
	munmap(at, (size_t)(ram - at));
}

static void wait_for_line(const char *say)
{
	char c = 0;

	CHECK(write(1, say, strlen(say)) == (ssize_t)strlen(say));
	while (c != '\n')
		CHECK(read(0, &c, 1) == 1);
}

static void begin(void)
{
	ram_map(MAP_PRIVATE);
	announce();
	fill();
	wait_for_line("ready\n");
	verify();
}

/* ---- scenarios ------------------------------------------------------------
 */

static void discard(size_t from, size_t to)
{
	CHECK(!madvise(page_at(from), (to - from) * PAGE_BYTES, MADV_DONTNEED));
	for (size_t i = from; i < to; i++)
		seed[i] = 0;
}

static void do_discard(void)
{
	static const size_t part[][2] = {
		{0, 3},	      /* in front of the first whole chunk */
		{500, 510},   /* across the border to it */
		{1000, 1001}, /* one page */
		{2048, 4096}, /* several chunks */
		{VMM_PAGES - 600, VMM_PAGES}, /* past the last whole chunk */
	};

	for (size_t i = 0; i < ARRAY_LEN(part); i++) {
		discard(part[i][0], part[i][1]);
		verify();
	}
	for (size_t i = 2000; i < 4200; i += 3)
		page_write(i, 77 + i);
	verify();
	discard(0, VMM_PAGES);
	verify();
	CHECK(madvise(page_at(1) + 1, PAGE_BYTES, MADV_DONTNEED) == -1 &&
	      errno == EINVAL);
	wait_for_line("done\n");
}

static void do_write(void)
{
	for (size_t i = 0; i < VMM_PAGES; i += 2)
		page_write(i, i + 5);
	verify();
	wait_for_line("done\n");
	verify();
}

static void do_unmap(void)
{
	const size_t half = VMM_PAGES / 2;
	void *again;

	CHECK(!munmap(page_at(half), 1000 * PAGE_BYTES));
	pages_verify(0, half);
	pages_verify(half + 1000, VMM_PAGES);
	again = mmap(page_at(half), 1000 * PAGE_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	CHECK(again == page_at(half));
	for (size_t i = half; i < half + 1000; i++)
		seed[i] = 0;
	verify();
	discard(0, half + 500);
	verify();
	CHECK(!munmap(ram, (size_t)VMM_MIB << 20));
	CHECK(mmap(ram, (size_t)VMM_MIB << 20, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == ram);
	memset(seed, 0, sizeof(seed));
	verify();
	announce();
	fill();
	wait_for_line("ready\n");
	verify();
}

static void do_map_over(void)
{
	const size_t from = 3000, n = 700;

	/* One that fails must leave all in place. */
	CHECK(mmap(page_at(from), n * PAGE_BYTES, PROT_READ,
		   MAP_SHARED | MAP_FIXED, -1, 0) == MAP_FAILED);
	verify();
	CHECK(mmap(page_at(from), n * PAGE_BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0) == page_at(from));
	for (size_t i = from; i < from + n; i++)
		seed[i] = 0;
	verify();
	discard(100, 5000);
	verify();
}

static void do_remap(void)
{
	const size_t bytes = (size_t)VMM_MIB << 20;
	unsigned char *to;

	CHECK(mremap(ram, bytes, bytes + CHUNK_BYTES, 0) == MAP_FAILED);
	verify();
	to = mremap(ram, bytes, bytes + CHUNK_BYTES, MREMAP_MAYMOVE);
	CHECK(to != MAP_FAILED);
	ram = to;
	verify();
	CHECK(to[bytes] == 0);
	to = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(mremap(ram, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) ==
	      to);
	ram = to;
	verify();
	discard(10, 5000);
	verify();
}

static size_t task_count(void)
{
	DIR *dir = opendir("/proc/self/task");
	size_t n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2;
}

static void child_ends_well(pid_t pid)
{
	int status = -1;

	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* A child without guest RAM may call what it likes; the parent is not hurt. */
static void do_fork(void)
{
	for (int i = 0; i < 20; i++) {
		pid_t pid = fork();

		if (!pid) {
			ram_map(MAP_PRIVATE);
			fill();
			announce();
			discard(0, 5000);
			verify();
			CHECK(task_count() == 1);
			_exit(0);
		}
		child_ends_well(pid);
		page_write((size_t)i * 100, (uint64_t)i);
	}
	verify();
}

/* A VMM that changes its mind: the child must get every page. */
static void do_dofork(void)
{
	pid_t pid;

	CHECK(!madvise(ram, (size_t)VMM_MIB << 20, MADV_DOFORK));
	pid = fork();
	if (!pid) {
		verify();
		_exit(0);
	}
	child_ends_well(pid);
	discard(1000, 9000);
	verify();
}

static int file_make(char *path)
{
	uint64_t buf[PAGE_BYTES / 8];
	int fd = mkstemp(path);

	CHECK(fd >= 0);
	for (size_t i = 0; i < 512; i++) {
		page_make(500 + i, buf);
		CHECK(write(fd, buf, PAGE_BYTES) == (ssize_t)PAGE_BYTES);
	}
	close(fd);
	fd = open(path, O_RDONLY | O_DIRECT);
	unlink(path);
	CHECK(fd >= 0);
	return fd;
}

static void file_has_been_read(size_t page)
{
	for (size_t i = 0; i < 512; i++)
		seed[page + i] = 500 + i;
}

static void do_direct(void)
{
	char path[] = "vmm.XXXXXX";
	int fd = file_make(path);

	for (size_t round = 0; round < 300; round++) {
		size_t page = round * 37 % (VMM_PAGES - 600);
		struct iovec iov[2] = {{page_at(page), 100 * PAGE_BYTES},
				       {page_at(page + 100), 412 * PAGE_BYTES}};
		const ssize_t all = 512 * PAGE_BYTES;

		if (round % 3 == 0)
			CHECK(preadv(fd, iov, 2, 0) == all);
		else if (round % 3 == 1)
			CHECK(pread(fd, page_at(page), (size_t)all, 0) == all);
		else
			CHECK(lseek(fd, 0, SEEK_SET) == 0 &&
			      readv(fd, iov, 2) == all);
		file_has_been_read(page);
		pages_verify(page, page + 512);
		usleep(2000);
	}
	errno = 0;
	CHECK(pread(-1, page_at(0), PAGE_BYTES, 0) == -1 && errno == EBADF);
	verify();
	close(fd);
}

static void do_uring(void)
{
	char path[] = "vmm.XXXXXX";
	int fd = file_make(path);
	struct io_uring_cqe *cqe;
	struct io_uring ring;

	CHECK(!io_uring_queue_init(4, &ring, 0));
	for (size_t page = 0; page < 8192; page += 512) {
		io_uring_prep_read(io_uring_get_sqe(&ring), fd, page_at(page),
				   512 * PAGE_BYTES, 0);
		CHECK(io_uring_submit(&ring) == 1);
		CHECK(!io_uring_wait_cqe(&ring, &cqe));
		CHECK(cqe->res == (int)(512 * PAGE_BYTES));
		io_uring_cqe_seen(&ring, cqe);
		file_has_been_read(page);
	}
	io_uring_queue_exit(&ring);
	verify();
	close(fd);
}

/* libaio's function, without libaio: the preloaded one, or none. */
static int aio_read(aio_context_t ctx, int fd, size_t page)
{
	int (*submit)(aio_context_t, long, struct iocb **);
	struct iocb cb = {.aio_fildes = (uint32_t)fd,
			  .aio_lio_opcode = IOCB_CMD_PREAD,
			  .aio_buf = (uintptr_t)page_at(page),
			  .aio_nbytes = 512 * PAGE_BYTES};
	struct iocb *one = &cb;
	struct io_event event;

	*(void **)&submit = dlsym(RTLD_DEFAULT, "io_submit");
	CHECK(submit && submit(ctx, 1, &one) == 1);
	CHECK(syscall(SYS_io_getevents, ctx, 1, 1, &event, NULL) == 1);
	return (int)event.res;
}

static void do_aio(void)
{
	char path[] = "vmm.XXXXXX";
	int fd = file_make(path);
	aio_context_t ctx = 0;

	CHECK(!syscall(SYS_io_setup, 4, &ctx));
	for (size_t page = 0; page < 8192; page += 512) {
		CHECK(aio_read(ctx, fd, page) == (int)(512 * PAGE_BYTES));
		file_has_been_read(page);
	}
	syscall(SYS_io_destroy, ctx);
	verify();
	close(fd);
}

static void do_lock(void)
{
	CHECK(!mlockall(MCL_CURRENT) || errno == ENOMEM || errno == EPERM ||
	      errno == EAGAIN);
	verify();
	munlockall();
	discard(0, 4000);
	verify();
}

static void do_vfio(void)
{
	struct vfio_iommu_type1_dma_map map = {.argsz = sizeof(map),
					       .vaddr = (uintptr_t)ram,
					       .size = (uint64_t)VMM_MIB << 20};

	CHECK(ioctl(-1, VFIO_IOMMU_MAP_DMA, &map) == -1 && errno == EBADF);
	verify();
	wait_for_line("done\n");
	verify();
}

static void do_nothing(void)
{
	wait_for_line("done\n");
	verify();
}

/* ---- as vCPUs do: all at once ----------------------------------------------
 */

static atomic_bool stress_end;

/* Each owns its pages: every eighth chunk-sized stripe. */
static void *stress_thread(void *arg)
{
	size_t me = (size_t)(uintptr_t)arg;
	uint64_t rnd = me + 1;

	while (!atomic_load(&stress_end)) {
		size_t page;

		rnd = rnd * 6364136223846793005ULL + 1442695040888963407ULL;
		page = (rnd >> 33) % (VMM_PAGES / 4) * 4 + me;
		pages_verify(page, page + 1);
		if (rnd >> 63)
			page_write(page, rnd >> 40 & 255);
		else if ((rnd >> 58 & 31) == 1)
			discard(page, page + 1);
	}
	return NULL;
}

static void do_stress(void)
{
	pthread_t id[4];

	for (size_t i = 0; i < 4; i++)
		CHECK(!pthread_create(&id[i], NULL, stress_thread,
				      (void *)(uintptr_t)i));
	wait_for_line("done\n");
	atomic_store(&stress_end, true);
	for (size_t i = 0; i < 4; i++)
		pthread_join(id[i], NULL);
	verify();
}

/* ---- memory that cannot be managed -----------------------------------------
 */

static void with_ram(int flags, bool kept)
{
	ram_map(flags);
	CHECK(!madvise(ram, (size_t)VMM_MIB << 20, MADV_MERGEABLE));
	if (kept)
		CHECK(!madvise(ram, (size_t)VMM_MIB << 20, MADV_DONTFORK));
	fill();
	wait_for_line("ready\n");
	verify();
	discard(0, 100);
	if (!(flags & MAP_SHARED))
		verify();
}

static void small(void)
{
	unsigned char *at = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(at != MAP_FAILED);
	madvise(at, 1 << 20, MADV_MERGEABLE);
	madvise(at, 1 << 20, MADV_DONTFORK);
	CHECK(task_count() == 1);
}

/* Guest RAM that only KVM is told of, as VMMs other than QEMU do. */
static void slot(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
	struct kvm_userspace_memory_region region = {
		.memory_size = (uint64_t)VMM_MIB << 20};

	ram_map(MAP_PRIVATE);
	region.userspace_addr = (uintptr_t)ram;
	CHECK(!madvise(ram, (size_t)VMM_MIB << 20, MADV_DONTFORK));
	CHECK(vm >= 0 && !ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
	fill();
	wait_for_line("ready\n");
	verify();
	discard(0, 9000);
	verify();
}

static const struct {
	const char *name;
	void (*run)(void);
} scenarios[] = {
	{"discard", do_discard},   {"write", do_write},	  {"unmap", do_unmap},
	{"map_over", do_map_over}, {"remap", do_remap},	  {"fork", do_fork},
	{"dofork", do_dofork},	   {"direct", do_direct}, {"uring", do_uring},
	{"aio", do_aio},	   {"lock", do_lock},	  {"vfio", do_vfio},
	{"nothing", do_nothing},   {"stress", do_stress},
};

int vmm_main(const char *scenario)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!strcmp(scenario, "small"))
		small();
	else if (!strcmp(scenario, "slot"))
		slot();
	else if (!strcmp(scenario, "shared"))
		with_ram(MAP_SHARED, true);
	else if (!strcmp(scenario, "forked"))
		with_ram(MAP_PRIVATE, false);
	for (size_t i = 0; i < ARRAY_LEN(scenarios); i++) {
		if (strcmp(scenario, scenarios[i].name))
			continue;
		begin();
		scenarios[i].run();
	}
	return 0;
}
