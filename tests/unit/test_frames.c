/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The frame pool: runs, death, memory given back, and taking a pool over. */
#include "sharing/frames.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct rng rng;
static uint8_t page[PAGE_BYTES];

static uint32_t frame_live(struct frames *fr, uint8_t fill)
{
	uint32_t f;

	memset(page, fill, sizeof(page));
	ck_assert_int_eq(frames_alloc(fr, fill + 1, &f), 0);
	ck_assert_int_eq(frames_write(fr, f, page, 1), 0);
	return f;
}

static uint64_t file_bytes(int fd)
{
	struct stat st;

	ck_assert_int_eq(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

START_TEST(frames_come_in_sequence)
{
	struct frames *fr;
	uint32_t f, i;

	ck_assert_int_eq(frames_create("t", 1000, &fr), 0);
	for (i = 0; i < 1000; i++) {
		ck_assert_int_eq(frames_alloc(fr, 1, &f), 0);
		ck_assert_uint_eq(f, i);
		ck_assert_int_eq(frames_state(fr, f), FRAME_PENDING);
	}
	ck_assert_int_eq(frames_alloc(fr, 1, &f), -ENOSPC);
	frames_free(fr, 17);
	ck_assert_int_eq(frames_alloc(fr, 1, &f), 0);
	ck_assert_uint_eq(f, 17);
	frames_destroy(fr);
}
END_TEST

START_TEST(freed_runs_are_used_as_runs)
{
	struct frames *fr;
	uint32_t f, i;

	ck_assert_int_eq(frames_create("t", 4096, &fr), 0);
	for (i = 0; i < 1024; i++)
		ck_assert_int_eq(frames_alloc(fr, 1, &f), 0);
	for (i = 256; i < 512; i++)
		frames_free(fr, i);
	frames_free(fr, 3); /* a lone hole is not worth a run */
	for (i = 0; i < 256; i++) {
		ck_assert_int_eq(frames_alloc(fr, 1, &f), 0);
		ck_assert_uint_eq(f, 256 + i);
	}
	ck_assert_int_eq(frames_alloc(fr, 1, &f), 0);
	ck_assert_uint_eq(f, 1024);
	frames_destroy(fr);
}
END_TEST

START_TEST(reserved_blocks_keep_their_numbers)
{
	struct frames *fr;
	uint32_t a, b, f;

	ck_assert_int_eq(frames_create("t", 256, &fr), 0);
	ck_assert_int_eq(frames_block_reserve(fr, 0, &a), 0);
	ck_assert_int_eq(frames_block_reserve(fr, a + 1, &b), 0);
	ck_assert_uint_eq(b, a + 1);
	ck_assert_int_eq(frames_alloc_at(fr, 1, a * 64 + 5), 0);
	ck_assert_int_eq(frames_alloc_at(fr, 1, a * 64 + 5), -EBUSY);
	/* Others go elsewhere while there is an elsewhere ... */
	for (int i = 0; i < 128; i++) {
		ck_assert_int_eq(frames_alloc(fr, 2, &f), 0);
		ck_assert_uint_ge(f, 128);
	}
	ck_assert_int_eq(frames_block_reserve(fr, 0, &f), -ENOSPC);
	/* ... and nothing stays unused in the end. */
	for (int i = 0; i < 127; i++) {
		ck_assert_int_eq(frames_alloc(fr, 3, &f), 0);
		ck_assert_uint_lt(f, 128);
	}
	ck_assert_int_eq(frames_alloc(fr, 3, &f), -ENOSPC);
	frames_block_release(fr, a);
	frames_free(fr, a * 64 + 7);
	ck_assert_int_eq(frames_alloc(fr, 4, &f), 0);
	ck_assert_uint_eq(f, a * 64 + 7);
	frames_destroy(fr);
}
END_TEST

START_TEST(references_decide_life)
{
	struct frames_stats fs;
	struct frames *fr;
	uint8_t back[PAGE_BYTES];
	uint32_t f;

	ck_assert_int_eq(frames_create("t", 10, &fr), 0);
	f = frame_live(fr, 7);
	ck_assert_uint_eq(frames_hash(fr, f), 8);
	ck_assert_int_eq(frames_read(fr, f, back), 0);
	ck_assert_mem_eq(back, page, PAGE_BYTES);
	ck_assert_int_eq(frames_ref(fr, f, 4), 0);
	ck_assert_int_eq(frames_ref(fr, f, UINT32_MAX), -EOVERFLOW);
	ck_assert(!frames_unref(fr, f, 3));
	ck_assert(!frames_unref(fr, f, 1));
	frames_stats(fr, &fs);
	ck_assert_uint_eq(fs.refs, 1);
	ck_assert_uint_eq(fs.live, 1);
	ck_assert(frames_unref(fr, f, 1));
	ck_assert_int_eq(frames_state(fr, f), FRAME_FREE);
	ck_assert_int_eq(frames_state(fr, 4000000), FRAME_FREE);
	frames_destroy(fr);
}
END_TEST

START_TEST(agents_can_read_and_not_write)
{
	struct frames *fr;
	uint32_t f;
	void *at;
	int fd;

	ck_assert_int_eq(frames_create("t", 10, &fr), 0);
	f = frame_live(fr, 9);
	ck_assert_int_eq(frames_fd_open(fr, &fd), 0);
	ck_assert_int_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	at = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_eq(at, MAP_FAILED);
	ck_assert_int_lt(ftruncate(fd, 0), 0);
	ck_assert_int_lt(write(fd, "x", 1), 0);
	/* As they use it: private, and a write stays theirs. */
	at = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd,
		  (off_t)f << PAGE_SHIFT);
	ck_assert_ptr_ne(at, MAP_FAILED);
	ck_assert_mem_eq(at, page, PAGE_BYTES);
	memset(at, 1, PAGE_BYTES);
	ck_assert_int_eq(frames_read(fr, f, page), 0);
	ck_assert_uint_eq(page[0], 9);
	munmap(at, PAGE_BYTES);
	close(fd);
	frames_destroy(fr);
}
END_TEST

START_TEST(dead_frames_give_memory_back)
{
	struct frames_stats fs;
	struct frames *fr;
	uint32_t i;
	int fd;

	ck_assert_int_eq(frames_create("t", 1 << 20, &fr), 0);
	ck_assert_int_eq(frames_fd_open(fr, &fd), 0);
	for (i = 0; i < 1000; i++)
		frame_live(fr, (uint8_t)i);
	ck_assert_uint_eq(file_bytes(fd), 1000 * PAGE_BYTES);
	for (i = 0; i < 1000; i++)
		if (i % 10)
			ck_assert(frames_unref(fr, i, 1));
	frames_stats(fr, &fs);
	ck_assert_uint_eq(fs.file_bytes, 1000 * PAGE_BYTES);
	frames_trim(fr);
	frames_stats(fr, &fs);
	ck_assert_uint_eq(file_bytes(fd), 100 * PAGE_BYTES);
	ck_assert_uint_eq(fs.file_bytes, 100 * PAGE_BYTES);
	ck_assert_uint_eq(fs.punched, 900);
	for (i = 0; i < 1000; i += 10) {
		ck_assert_int_eq(frames_read(fr, i, page), 0);
		ck_assert_uint_eq(page[77], (uint8_t)i);
	}
	close(fd);
	frames_destroy(fr);
}
END_TEST

START_TEST(pool_is_taken_over)
{
	struct frames *old, *fr;
	struct frames_stats fs;
	uint32_t f, i;
	dev_t dev;
	ino_t ino;
	int fd;

	ck_assert_int_eq(frames_create("t", 5000, &old), 0);
	for (i = 0; i < 200; i++)
		frame_live(old, (uint8_t)i);
	for (i = 50; i < 100; i++)
		ck_assert(frames_unref(old, i, 1));
	frames_trim(old);
	ck_assert_int_eq(frames_alloc(old, 5, &f), 0); /* pending: no data */
	frames_identity(old, &dev, &ino);
	ck_assert_int_eq(frames_fd_open(old, &fd), 0);
	frames_destroy(old);
	ck_assert_int_eq(frames_adopt(fd, dev, ino + 1, &fr), -ESTALE);
	ck_assert_int_eq(frames_adopt(fd, dev, ino, &fr), 0);
	close(fd);
	frames_stats(fr, &fs);
	ck_assert_uint_eq(fs.capacity, 5000);
	ck_assert_uint_eq(fs.unknown, 150);
	ck_assert_int_eq(frames_state(fr, 49), FRAME_UNKNOWN);
	ck_assert_int_eq(frames_state(fr, 50), FRAME_FREE);
	/* Nobody may be given a frame that someone may map. */
	for (i = 0; i < 300; i++) {
		ck_assert_int_eq(frames_alloc(fr, 1, &f), 0);
		ck_assert(f >= 200 || (f >= 50 && f < 100));
	}
	ck_assert_int_eq(frames_read(fr, 42, page), 0);
	ck_assert_uint_eq(page[5], 42);
	frames_claim(fr, 42, 1234, 3);
	ck_assert_uint_eq(frames_hash(fr, 42), 1234);
	ck_assert_uint_eq(frames_unknown_free(fr), 149);
	ck_assert_int_eq(frames_state(fr, 42), FRAME_LIVE);
	ck_assert_int_eq(frames_state(fr, 43), FRAME_FREE);
	ck_assert(frames_unref(fr, 42, 3));
	/* It is writable again. */
	frame_live(fr, 3);
	frames_destroy(fr);
}
END_TEST

START_TEST(another_file_is_not_taken_over)
{
	struct frames *fr;
	struct stat st;
	int fd;

	fd = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, 4096), 0);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_int_eq(frames_adopt(fd, st.st_dev, st.st_ino, &fr), -EPERM);
	close(fd);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_int_eq(frames_adopt(fd, st.st_dev, st.st_ino, &fr), -ESTALE);
	close(fd);
}
END_TEST

#define CAP 700

START_TEST(frames_behave_as_an_array)
{
	static uint32_t refs[CAP];
	static bool pending[CAP];
	uint64_t live = 0, waiting = 0;
	struct frames_stats fs;
	struct frames *fr;
	size_t step;
	uint32_t f;
	int rc;

	rng_start(&rng, "frames_behave_as_an_array");
	ck_assert_int_eq(frames_create("t", CAP, &fr), 0);
	for (step = 0; step < 200000; step++) {
		f = (uint32_t)rng_below(&rng, CAP);
		if (rng_below(&rng, 3) == 0) {
			rc = frames_alloc(fr, step, &f);
			ck_assert_int_eq(rc,
					 live + waiting < CAP ? 0 : -ENOSPC);
			if (rc)
				continue;
			ck_assert(!refs[f] && !pending[f]);
			pending[f] = true;
			waiting++;
		} else if (pending[f] && rng_next(&rng) & 1) {
			refs[f] = (uint32_t)rng_below(&rng, 3) + 1;
			ck_assert_int_eq(frames_write(fr, f, page, refs[f]), 0);
			pending[f] = false;
			waiting--;
			live++;
		} else if (pending[f]) {
			frames_free(fr, f);
			pending[f] = false;
			waiting--;
		} else if (refs[f]) {
			refs[f]--;
			ck_assert_int_eq(frames_unref(fr, f, 1), !refs[f]);
			live -= !refs[f];
		}
		if (step % 1000 == 0)
			frames_trim(fr);
		frames_stats(fr, &fs);
		ck_assert_uint_eq(fs.live, live);
		ck_assert_uint_eq(fs.pending, waiting);
	}
	frames_destroy(fr);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("frames");
	TCase *tc = tcase_create("frames");

	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, frames_come_in_sequence);
	tcase_add_test(tc, freed_runs_are_used_as_runs);
	tcase_add_test(tc, reserved_blocks_keep_their_numbers);
	tcase_add_test(tc, references_decide_life);
	tcase_add_test(tc, agents_can_read_and_not_write);
	tcase_add_test(tc, dead_frames_give_memory_back);
	tcase_add_test(tc, pool_is_taken_over);
	tcase_add_test(tc, another_file_is_not_taken_over);
	tcase_add_test(tc, frames_behave_as_an_array);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
