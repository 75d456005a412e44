/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices that write to guest RAM behind the page table while pages are taken:
 * what a disk read put there must be there afterwards, and a pinned page must
 * be refused. On the real kernel, with and without UFFDIO_MOVE.
 */
#include "tests/support/fault_host.h"
#include "tests/support/machine.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_PAGES   256
#define FILE_BYTES   (FILE_PAGES * PAGE_BYTES)
#define STRESS_NS    ((uint64_t)3000000000)
#define PAGE_VERSION 1000 /* content of file page p: seed PAGE_VERSION + p */

static _Atomic bool stop;

/* A file whose pages we know, open for O_DIRECT; -1: not on this file system.
 */
static int file_open(void)
{
	char path[] = "./tidepool_ioXXXXXX";
	uint8_t *buf = aligned_alloc(PAGE_BYTES, FILE_BYTES);
	int fd = mkstemp(path), direct;

	ck_assert_int_ge(fd, 0);
	for (size_t p = 0; p < FILE_PAGES; p++)
		page_fill(buf + p * PAGE_BYTES, PAGE_VERSION + p);
	ck_assert_int_eq(pwrite(fd, buf, FILE_BYTES, 0), (int)FILE_BYTES);
	fsync(fd);
	free(buf);
	direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	close(fd);
	unlink(path);
	return direct;
}

/* Reads land in the first FILE_PAGES pages of RAM. Returns wrong pages. */
static size_t wrong_pages(size_t first, size_t file_page, size_t n)
{
	size_t wrong = 0;

	for (size_t i = 0; i < n; i++)
		wrong += !page_holds(machine_page(first + i),
				     PAGE_VERSION + file_page + i);
	return wrong;
}

/* pread with O_DIRECT, announced to the manager as the preload does. */
static void *reader(void *arg)
{
	struct rng rng = {7};
	size_t wrong = 0;
	int fd = *(int *)arg;

	while (!stop) {
		size_t n = 1 + rng_below(&rng, 16);
		size_t to = rng_below(&rng, FILE_PAGES - n);
		size_t from = rng_below(&rng, FILE_PAGES - n);
		hva_t hva = hva_of(machine_page(to));
		ssize_t r;

		mm_io_begin(machine.mm, hva, n * PAGE_BYTES);
		r = pread(fd, hva_ptr(hva), n * PAGE_BYTES,
			  (off_t)(from * PAGE_BYTES));
		mm_io_end(machine.mm, hva, n * PAGE_BYTES);
		wrong += r != (ssize_t)(n * PAGE_BYTES) ||
			 wrong_pages(to, from, n);
	}
	return (void *)wrong;
}

/* The same through io_uring: many in flight, nobody announces them. */
static void *uring_reader(void *arg)
{
	struct io_uring ring;
	struct rng rng = {9};
	size_t wrong = 0, from[8];
	int fd = *(int *)arg;

	if (io_uring_queue_init(8, &ring, 0) < 0)
		return (void *)1;
	while (!stop) {
		for (unsigned i = 0; i < 8; i++) {
			struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

			from[i] = rng_below(&rng, FILE_PAGES - 16);
			io_uring_prep_read(sqe, fd, machine_page(i * 16),
					   16 * PAGE_BYTES,
					   from[i] * PAGE_BYTES);
		}
		io_uring_submit_and_wait(&ring, 8);
		for (unsigned i = 0; i < 8; i++) {
			struct io_uring_cqe *cqe;

			if (io_uring_wait_cqe(&ring, &cqe) < 0)
				return (void *)1;
			wrong += cqe->res != (int)(16 * PAGE_BYTES);
			io_uring_cqe_seen(&ring, cqe);
		}
		for (unsigned i = 0; i < 8; i++)
			wrong += wrong_pages(i * 16, from[i], 16);
	}
	io_uring_queue_exit(&ring);
	return (void *)wrong;
}

/* Shares, breaks and compresses the pages that are being read into. */
static void take_all_the_time(void)
{
	struct mm_target target = {.resident_bytes = 1, .compress = true};
	uint64_t until = host_real.now_ns() + STRESS_NS;
	struct rng rng = {3};

	mm_target_set(machine.mm, &target);
	while (host_real.now_ns() < until) {
		for (int i = 0; i < 64; i++) {
			size_t p = rng_below(&rng, FILE_PAGES);
			uint8_t *frame = machine.pool + p * PAGE_BYTES;

			if (mm_page_read(machine.mm, (gfn_t){p}, frame) == 0)
				machine_share(p, (uint32_t)p, 1);
		}
		machine_scan(1);
		mm_reclaim(machine.mm);
		fault_host_clock_add(20000000000);
		mm_reclaim(machine.mm);
	}
}

static void reads_meet_takes(void *(*how)(void *))
{
	pthread_t id;
	void *wrong;
	int fd = file_open();

	if (fd < 0) {
		printf("note: no O_DIRECT on this file system: not tried\n");
		return;
	}
	memset(machine.ram, 1, FILE_BYTES);
	machine_scan(1);
	stop = false;
	pthread_create(&id, NULL, how, &fd);
	take_all_the_time();
	stop = true;
	pthread_join(id, &wrong);
	close(fd);
	ck_assert_uint_eq((size_t)wrong, 0);
	ck_assert_uint_gt(machine_stats().takes, 10);
	ck_assert_int_eq(mm_check(machine.mm), 0);
}

START_TEST(direct_reads_in_flight_keep_their_data)
{
	reads_meet_takes(reader);
}
END_TEST

START_TEST(unseen_uring_reads_in_flight_keep_their_data)
{
	/* Nobody sees them: the agent switches copying off. MOVE stays safe. */
	mm_copy_takes_off(machine.mm);
	if (!machine_has_move())
		return;
	reads_meet_takes(uring_reader);
}
END_TEST

START_TEST(pinned_page_is_refused)
{
	struct io_uring ring;
	struct iovec iov = {machine_page(2), 2 * PAGE_BYTES};

	ck_assert_int_eq(io_uring_queue_init(4, &ring, 0), 0);
	for (size_t i = 0; i < 8; i++) {
		page_fill(machine_page(i), i);
		page_fill(machine.pool + i * PAGE_BYTES, i);
	}
	ck_assert_int_eq(io_uring_register_buffers(&ring, &iov, 1), 0);
	machine_scan(1);
	if (machine_has_move()) {
		ck_assert_uint_eq(machine_share(0, 0, 8), 6);
		ck_assert_uint_ge(machine_stats().take_busy, 2);
	} else {
		mm_io_begin(machine.mm, hva_of(iov.iov_base), iov.iov_len);
		ck_assert_uint_eq(machine_share(0, 0, 8), 0);
		mm_io_end(machine.mm, hva_of(iov.iov_base), iov.iov_len);
	}
	io_uring_unregister_buffers(&ring);
	io_uring_queue_exit(&ring);
	machine_scan(1);
	for (size_t i = 0; i < 8; i++)
		ck_assert(page_holds(machine_page(i), i));
}
END_TEST

START_TEST(device_range_is_restored_and_left_alone)
{
	struct mm_stats st;

	for (size_t i = 0; i < MACHINE_PAGES; i++)
		page_fill(machine_page(i), i + 1);
	machine_scan(5);
	machine_reclaim();
	ck_assert_int_eq(mm_pin(machine.mm, hva_of(machine.ram), CHUNK_BYTES),
			 0);
	st = machine_stats();
	ck_assert_uint_eq(st.pinned_pages, CHUNK_PAGES);
	ck_assert_uint_ge(st.private_pages, CHUNK_PAGES);
	machine_reclaim();
	ck_assert_uint_ge(machine_stats().private_pages, CHUNK_PAGES);
	for (size_t i = 0; i < MACHINE_PAGES; i++)
		ck_assert(page_holds(machine_page(i), i + 1));
}
END_TEST

static TCase *promises(const char *name, void (*start)(void))
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, start, machine_teardown);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, direct_reads_in_flight_keep_their_data);
	tcase_add_test(tc, unseen_uring_reads_in_flight_keep_their_data);
	tcase_add_test(tc, pinned_page_is_refused);
	tcase_add_test(tc, device_range_is_restored_and_left_alone);
	return tc;
}

int main(void)
{
	Suite *s = suite_create("real_io");

	fault_host_need();
	suite_add_tcase(s, promises("all the kernel has", machine_setup));
	suite_add_tcase(s, promises("no UFFDIO_MOVE", machine_setup_no_move));
	return suite_run(s);
}
