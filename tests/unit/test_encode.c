/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every block of the encoder through the library's decoder. Page and block lie
 * against memory that may not be touched, at either end.
 *
 * TMEM_ENCODE_PAGES=n: so many pages of every kind there is.
 */
#include "tmem/encode.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <dirent.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAX	   3840u /* what the store takes */
#define AREA_BYTES (2 * PAGE_BYTES)
#define IN_BYTES   (PAGE_BYTES + ENCODE_SLACK)
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PAGES 20000
#else
#define PAGES 200000
#endif

static struct rng rng;
static unsigned char page[PAGE_BYTES];

/* AREA_BYTES between two pages that fault. */
static unsigned char *area_make(void)
{
	unsigned char *at =
		mmap(NULL, AREA_BYTES + 2 * PAGE_BYTES, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ck_assert_ptr_ne(at, MAP_FAILED);
	at += PAGE_BYTES;
	ck_assert_int_eq(mprotect(at, AREA_BYTES, PROT_READ | PROT_WRITE), 0);
	return at;
}

/* The page's block, made at one end of the areas, with that in the slack. */
static uint32_t encode_at(bool end, int slack, uint32_t max,
			  unsigned char *block_out)
{
	static unsigned char *in;
	static unsigned char *block;
	unsigned char *from;
	unsigned char *to;
	uint32_t n;

	if (!in) {
		in = area_make();
		block = area_make();
	}
	from = end ? in + AREA_BYTES - IN_BYTES : in;
	to = end ? block + AREA_BYTES - ENCODE_BYTES : block;
	memcpy(from, page, PAGE_BYTES);
	memset(from + PAGE_BYTES, slack, ENCODE_SLACK);
	n = encode_page(from, to, max);
	ck_assert_uint_le(n, max);
	ck_assert_mem_eq(from, page, PAGE_BYTES);
	memcpy(block_out, to, n);
	return n;
}

/* What the page takes, if no more than max; it came back, or 0. */
static uint32_t check(uint32_t max)
{
	static unsigned char block[2][ENCODE_BYTES];
	static unsigned char back[PAGE_BYTES];
	uint32_t n = encode_at(false, 0, max, block[0]);

	ck_assert_uint_eq(encode_at(true, page[PAGE_BYTES - 1], max, block[1]),
			  n);
	ck_assert_mem_eq(block[0], block[1], n);
	if (n) {
		ck_assert_int_eq(LZ4_decompress_safe((char *)block[0],
						     (char *)back, (int)n,
						     (int)PAGE_BYTES),
				 (int)PAGE_BYTES);
		ck_assert_mem_eq(back, page, PAGE_BYTES);
	}
	return n;
}

START_TEST(page_of_one_byte_is_tiny)
{
	for (int c = 0; c < 256; c++) {
		memset(page, c, PAGE_BYTES);
		ck_assert_uint_lt(check(MAX), 32);
	}
}
END_TEST

START_TEST(page_that_does_not_shrink_fits_or_is_refused)
{
	for (int i = 0; i < 1000; i++) {
		rng_fill(&rng, page, PAGE_BYTES);
		ck_assert_uint_eq(check(MAX), 0);
		ck_assert_uint_gt(check(ENCODE_BYTES), PAGE_BYTES - 8);
	}
}
END_TEST

START_TEST(length_is_refused_above_the_most_and_taken_at_it)
{
	for (size_t n = 0; n < PAGE_BYTES; n += 7) {
		uint32_t bytes;

		memset(page, 0, PAGE_BYTES);
		rng_fill(&rng, page, n);
		bytes = check(ENCODE_BYTES);
		ck_assert_uint_gt(bytes, 0);
		ck_assert_uint_eq(check(bytes), bytes);
		ck_assert_uint_eq(check(bytes - 1), 0);
	}
}
END_TEST

/* Random bytes, but `run` of them from `at` on repeat with a period. */
static void run_page(size_t at, size_t run, size_t period)
{
	rng_fill(&rng, page, PAGE_BYTES);
	for (size_t i = at + period; i < at + run && i < PAGE_BYTES; i++)
		page[i] = page[i - period];
}

START_TEST(every_run_comes_back)
{
	for (size_t run = 1; run <= PAGE_BYTES; run++) {
		size_t period = 1 + rng_below(&rng, run);

		run_page(0, run, period);
		(void)check(ENCODE_BYTES);
		run_page(PAGE_BYTES - run, run, 1);
		(void)check(ENCODE_BYTES);
		run_page(rng_below(&rng, PAGE_BYTES), run, period);
		(void)check(ENCODE_BYTES);
	}
}
END_TEST

/* Pieces of what came before, at any distance, between new bytes. */
static void pieces_page(void)
{
	size_t longest = (size_t)1 << (1 + rng_below(&rng, 12));
	size_t news = (size_t)1 << rng_below(&rng, 10);
	size_t at = 0;

	while (at < PAGE_BYTES) {
		size_t copy = 4 + rng_below(&rng, longest);
		size_t new = rng_below(&rng, news);

		for (; new &&at < PAGE_BYTES; new --)
			page[at++] = (unsigned char)rng_next(&rng);
		for (size_t back = at ? 1 + rng_below(&rng, at) : 0;
		     back && copy && at < PAGE_BYTES; copy--, at++)
			page[at] = page[at - back];
		if (!at)
			page[at++] = 0;
	}
}

/* Words that differ in few bytes, as pointers do. */
static void words_page(void)
{
	uint64_t base = rng_next(&rng);
	uint64_t mask = ((uint64_t)1 << (1 + rng_below(&rng, 40))) - 1;

	for (size_t i = 0; i < PAGE_BYTES; i += sizeof(base)) {
		uint64_t word = base ^ (rng_next(&rng) & mask);

		if (!rng_below(&rng, 4))
			word = 0;
		memcpy(page + i, &word, sizeof(word));
	}
}

/* Few different bytes: many equal hashes, short copies. */
static void letters_page(void)
{
	uint64_t letters = 2 + rng_below(&rng, 30);

	for (size_t i = 0; i < PAGE_BYTES; i++)
		page[i] = (unsigned char)rng_below(&rng, letters);
}

START_TEST(pages_of_every_kind_come_back)
{
	const char *text = getenv("TMEM_ENCODE_PAGES");
	unsigned long pages = text ? strtoul(text, NULL, 10) : PAGES;

	for (unsigned long i = 0; i < pages; i++) {
		if (i % 8 == 0)
			letters_page();
		else if (i % 4 == 1)
			words_page();
		else
			pieces_page();
		(void)check(rng_below(&rng, 2) ? MAX : ENCODE_BYTES);
	}
}
END_TEST

/* Adds what a file's pages take: by this encoder, and by the library. */
static void file_add(const char *path, uint64_t sum[2])
{
	static char block[PAGE_BYTES];
	FILE *f = fopen(path, "rb");

	if (!f)
		return;
	while (fread(page, PAGE_BYTES, 1, f) == 1) {
		uint32_t n = check(MAX);
		int lib = LZ4_compress_default((char *)page, block,
					       (int)PAGE_BYTES, (int)MAX);

		sum[0] += n ? n : PAGE_BYTES;
		sum[1] += lib > 0 ? (uint64_t)lib : PAGE_BYTES;
	}
	fclose(f);
}

START_TEST(libraries_take_at_most_2_percent_more_than_by_the_library)
{
	const char *folder = "/usr/lib/x86_64-linux-gnu";
	DIR *dir = opendir(folder);
	uint64_t sum[2] = {0, 0};
	struct dirent *entry;
	char path[512];

	ck_assert_ptr_nonnull(dir);
	while ((entry = readdir(dir)) && sum[1] < (uint64_t)32 << 20) {
		if (!strstr(entry->d_name, ".so."))
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		file_add(path, sum);
	}
	closedir(dir);
	printf("encode: %.4f of the library's size, %.1f MiB\n",
	       (double)sum[0] / (double)sum[1], (double)sum[1] / 0x100000);
	ck_assert_uint_gt(sum[1], 1 << 20);
	ck_assert_uint_le(sum[0] * 100, sum[1] * 102);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("encode");
	TCase *tc = tcase_create("encode");

	rng_start(&rng, "encode");
	tcase_set_timeout(tc, 600);
	tcase_add_test(tc, page_of_one_byte_is_tiny);
	tcase_add_test(tc, page_that_does_not_shrink_fits_or_is_refused);
	tcase_add_test(tc, length_is_refused_above_the_most_and_taken_at_it);
	tcase_add_test(tc, every_run_comes_back);
	tcase_add_test(tc, pages_of_every_kind_come_back);
	tcase_add_test(
		tc, libraries_take_at_most_2_percent_more_than_by_the_library);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
