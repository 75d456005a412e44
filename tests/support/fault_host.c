/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Only calls whose failure the kernel documents are failed: those that answer a
 * fault or put a page back may be retried by the caller, so they fail once, not
 * for ever.
 */
#include "tests/support/fault_host.h"
#include "tests/support/skip.h"

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

static atomic_ulong calls, fail_at;
static atomic_int fail_rc, refuse_rc;
static atomic_long overlays = -1;
static _Atomic uintptr_t runs_end_at;
static _Atomic uint64_t clock_ahead;
static _Thread_local unsigned long yields;
static atomic_uint allowed = ~0u;

void fault_host_need(void)
{
	unsigned features;
	int fd;

	if (host_real.uffd_open(-1, &features, &fd) < 0)
		test_skip("userfaultfd is not permitted here");
	close(fd);
}

void fault_host_reset(unsigned features)
{
	calls = 0;
	fail_at = 0;
	refuse_rc = 0;
	overlays = -1;
	runs_end_at = 0;
	clock_ahead = 0;
	allowed = features;
}

void fault_host_fail(unsigned long n, int rc)
{
	fail_rc = rc;
	fail_at = n ? calls + n : 0;
}

void fault_host_overlays(long n)
{
	overlays = n;
}

void fault_host_runs_end_at(const void *to)
{
	runs_end_at = (uintptr_t)to;
}

void fault_host_refuse_uffd(int rc)
{
	refuse_rc = rc;
}

unsigned long fault_host_calls(void)
{
	return calls;
}

unsigned long fault_host_yields(void)
{
	return yields;
}

void fault_host_clock_add(uint64_t ns)
{
	clock_ahead += ns;
}

/* 0, or what this call has to return instead of doing its work. */
static int fails(void)
{
	unsigned long n = ++calls;

	return fail_at && n == fail_at ? fail_rc : 0;
}

static int f_map_anon(void *addr, size_t bytes, void **out)
{
	int rc = fails();

	return rc ? rc : host_real.map_anon(addr, bytes, out);
}

static int f_map_overlay(void *addr, size_t bytes, int fd, uint64_t offset)
{
	int rc = fails();

	if (rc)
		return rc;
	if (overlays == 0)
		return -ENOMEM;
	if (overlays > 0)
		overlays--;
	return host_real.map_overlay(addr, bytes, fd, offset);
}

static int f_map_pool(int fd, size_t bytes, void **out)
{
	int rc = fails();

	return rc ? rc : host_real.map_pool(fd, bytes, out);
}

static int f_remap(void *from, size_t bytes, void *to)
{
	int rc = fails();

	return rc ? rc : host_real.remap(from, bytes, to);
}

static int f_uffd_open(int device_fd, unsigned *features_out, int *fd_out)
{
	int rc = refuse_rc ? refuse_rc : fails();

	if (rc)
		return rc;
	rc = host_real.uffd_open(device_fd, features_out, fd_out);
	*features_out &= allowed;
	return rc;
}

static int f_uffd_register(int fd, void *addr, size_t bytes, unsigned mode)
{
	int rc = fails();

	return rc ? rc : host_real.uffd_register(fd, addr, bytes, mode);
}

static int f_uffd_unregister(int fd, void *addr, size_t bytes)
{
	int rc = fails();

	return rc ? rc : host_real.uffd_unregister(fd, addr, bytes);
}

/* How much of the run is brought in. */
static size_t run_bytes(const void *to, size_t bytes)
{
	uintptr_t end = runs_end_at, start = (uintptr_t)to;

	if (bytes == PAGE_BYTES || end < start || end - start >= bytes)
		return bytes;
	return end - start;
}

/* What the kernel says of a run of which it brought in that much. */
static int run_rc(int rc, size_t bytes, size_t most)
{
	if (rc || most == bytes)
		return rc;
	return most ? -EAGAIN : -EEXIST;
}

static int f_uffd_copy(int fd, void *to, const void *from, size_t bytes,
		       size_t *done_out)
{
	size_t most = run_bytes(to, bytes);
	int rc = fails();

	*done_out = 0;
	if (!rc && most)
		rc = host_real.uffd_copy(fd, to, from, most, done_out);
	return run_rc(rc, bytes, most);
}

static int f_uffd_zero(int fd, void *to, size_t bytes, size_t *done_out)
{
	int rc = fails();

	*done_out = 0;
	return rc ? rc : host_real.uffd_zero(fd, to, bytes, done_out);
}

static int f_uffd_move(int fd, void *to, void *from, size_t bytes,
		       size_t *done_out)
{
	size_t most = run_bytes(to, bytes);
	int rc = fails();

	*done_out = 0;
	if (!rc && most)
		rc = host_real.uffd_move(fd, to, from, most, done_out);
	return run_rc(rc, bytes, most);
}

static int f_uffd_protect(int fd, void *addr, size_t bytes, bool on)
{
	int rc = on ? fails() : 0; /* taking a protection off does not fail */

	return rc ? rc : host_real.uffd_protect(fd, addr, bytes, on);
}

static int f_pagemap_read(const void *addr, size_t pages, uint64_t *out)
{
	int rc = fails();

	return rc ? rc : host_real.pagemap_read(addr, pages, out);
}

static int real_unmap(void *addr, size_t bytes)
{
	return host_real.unmap(addr, bytes);
}

static int real_advise(void *addr, size_t bytes, int advice)
{
	return host_real.advise(addr, bytes, advice);
}

static int real_wake(int fd, void *addr, size_t bytes)
{
	return host_real.uffd_wake(fd, addr, bytes);
}

static int real_wait(int fd, int stop_fd)
{
	return host_real.uffd_wait(fd, stop_fd);
}

static int real_read(int fd, struct host_fault *faults, size_t max,
		     size_t *n_out)
{
	return host_real.uffd_read(fd, faults, max, n_out);
}

static int real_is_huge(const void *addr, size_t bytes, bool *out)
{
	return host_real.is_huge(addr, bytes, out);
}

static uint64_t f_now_ns(void)
{
	return host_real.now_ns() + clock_ahead;
}

static uint64_t real_cpu_ns(void)
{
	return host_real.thread_cpu_ns();
}

static int real_slice(uint64_t ns)
{
	return host_real.thread_slice(ns);
}

static void real_yield(void)
{
	yields++;
	host_real.thread_yield();
}

static int real_random(void *buf, size_t bytes)
{
	return host_real.random(buf, bytes);
}

const struct host_ops fault_host = {
	.map_anon = f_map_anon,
	.map_overlay = f_map_overlay,
	.map_pool = f_map_pool,
	.unmap = real_unmap,
	.remap = f_remap,
	.advise = real_advise,
	.uffd_open = f_uffd_open,
	.uffd_register = f_uffd_register,
	.uffd_unregister = f_uffd_unregister,
	.uffd_wake = real_wake,
	.uffd_copy = f_uffd_copy,
	.uffd_zero = f_uffd_zero,
	.uffd_move = f_uffd_move,
	.uffd_protect = f_uffd_protect,
	.uffd_wait = real_wait,
	.uffd_read = real_read,
	.pagemap_read = f_pagemap_read,
	.is_huge = real_is_huge,
	.now_ns = f_now_ns,
	.thread_cpu_ns = real_cpu_ns,
	.thread_slice = real_slice,
	.thread_yield = real_yield,
	.random = real_random,
};
