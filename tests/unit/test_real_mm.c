/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory manager on the real kernel: every way a page leaves the guest and
 * comes back, and that its bytes are the same afterwards. Each promise is kept
 * with all the kernel offers and again with UFFDIO_MOVE taken away.
 */
#include "hv/mm/mm.h"
#include "tests/support/fault_host.h"
#include "tests/support/rng.h"
#include "tests/support/skip.h"
#include "tmem/tmem.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNKS	   8
#define RAM_PAGES  (CHUNKS * CHUNK_PAGES)
#define RAM_BYTES  (RAM_PAGES * PAGE_BYTES)
#define POOL_PAGES 4096
#define POOL_BYTES (POOL_PAGES * PAGE_BYTES)

static struct mm *mm;
static uint8_t *ram;
static uint8_t *pool;
static int pool_fd;
static int refs[POOL_PAGES]; /* granted less released */
static unsigned features_of_run = ~0u;

/* ---- a small machine ------------------------------------------------------
 */

static void released(void *arg, const uint32_t *frames, size_t n)
{
	(void)arg;
	for (size_t i = 0; i < n; i++)
		__atomic_fetch_sub(&refs[frames[i]], 1, __ATOMIC_SEQ_CST);
}

static void page_fill(uint8_t *page, uint64_t seed)
{
	uint64_t *w = (uint64_t *)page;

	for (size_t i = 0; i < PAGE_BYTES / 8; i++)
		w[i] = i % 2 ? seed * 0x9e3779b97f4a7c15 + i / 8 : seed;
}

static bool page_holds(const uint8_t *page, uint64_t seed)
{
	uint8_t want[PAGE_BYTES];

	page_fill(want, seed);
	return memcmp(page, want, PAGE_BYTES) == 0;
}

static uint8_t *page_at(size_t n)
{
	return ram + n * PAGE_BYTES;
}

static void machine_start(const char *swap, uint64_t store_bytes)
{
	struct mm_config config = {
		.host = &fault_host,
		.uffd_device = -1,
		.store_bytes = store_bytes,
		.swap_path = swap,
		.swap_bytes = swap ? RAM_BYTES : 0,
	};
	void *at = mmap(NULL, RAM_BYTES + CHUNK_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rc;

	ck_assert_ptr_ne(at, MAP_FAILED);
	ram = (uint8_t *)(((uintptr_t)at + CHUNK_BYTES - 1) &
			  ~(CHUNK_BYTES - 1));
	madvise(ram, RAM_BYTES, MADV_NOHUGEPAGE);
	fault_host_reset(features_of_run);
	rc = mm_create(&config, &mm);
	ck_assert_int_eq(rc, 0);
	ck_assert_int_eq(mm_range_add(mm, hva_of(ram), RAM_BYTES, true), 0);
	mm_release_hook(mm, released, NULL);
	mm_break_huge(mm, true);
}

static void pool_start(void)
{
	pool_fd = memfd_create("pool", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(pool_fd, POOL_BYTES), 0);
	pool = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
		    pool_fd, 0);
	ck_assert_ptr_ne(pool, MAP_FAILED);
	memset(refs, 0, sizeof(refs));
	ck_assert_int_eq(mm_pool_attach(mm, pool_fd, POOL_BYTES), 0);
}

/* Both the kernel and this run have UFFDIO_MOVE. */
static bool has_move(void)
{
	unsigned features = 0;
	int fd = -1;

	ck_assert_int_eq(host_real.uffd_open(-1, &features, &fd), 0);
	close(fd);
	return features & features_of_run & HOST_MOVE;
}

static void setup(void)
{
	features_of_run = ~0u;
	machine_start(NULL, 0);
	pool_start();
}

static void setup_no_move(void)
{
	features_of_run = ~(unsigned)HOST_MOVE;
	machine_start(NULL, 0);
	pool_start();
}

static void teardown(void)
{
	mm_destroy(mm);
	munmap(pool, POOL_BYTES);
	close(pool_fd);
	munmap(ram, RAM_BYTES);
}

static uint64_t fake_hash(void *arg, const void *page)
{
	uint64_t w[3];

	(void)arg;
	memcpy(w, page, sizeof(w));
	return ((w[0] * 31 + w[1] * 7 + w[2]) & 0xffffffffff) | 1;
}

static bool not_told(void *arg, gfn_t gfn, uint64_t hash, uint64_t was,
		     unsigned age)
{
	(void)arg, (void)gfn, (void)hash, (void)was, (void)age;
	return false;
}

static void scan_all(int times)
{
	struct mm_scan_ops ops = {fake_hash, not_told, NULL};

	while (times--)
		for (size_t c = 0; c < mm_chunks(mm); c++)
			ck_assert_int_ge(mm_scan_chunk(mm, c, &ops), 0);
}

static struct mm_stats stats(void)
{
	struct mm_stats st;

	mm_stats(mm, &st);
	ck_assert_uint_eq(st.ram_pages,
			  st.absent_pages + st.private_pages + st.held_pages +
				  st.shared_pages + st.zero_pages +
				  st.compressed_pages + st.swapped_pages);
	return st;
}

/* Grants frames [frame, +n) for pages [page, +n). */
static size_t share(size_t page, uint32_t frame, size_t n)
{
	struct mm_page_map *map = malloc(n * sizeof(*map));
	size_t mapped;

	for (size_t i = 0; i < n; i++) {
		map[i] = (struct mm_page_map){{page + i}, frame + (uint32_t)i};
		refs[frame + i]++;
	}
	ck_assert_int_eq(mm_share(mm, map, n, &mapped), 0);
	free(map);
	return mapped;
}

static void reclaim_all(void)
{
	struct mm_target target = {
		.resident_bytes = 1,
		.compress = true,
		.swap = true,
	};

	mm_target_set(mm, &target);
	for (int i = 0; i < 200; i++) {
		mm_reclaim(mm);
		fault_host_clock_add(100000000);
	}
	target.resident_bytes = 0;
	target.compress = false;
	mm_target_set(mm, &target);
}

/* ---- sharing
 * ----------------------------------------------------------------- */

START_TEST(share_maps_equal_pages_and_refuses_others)
{
	for (size_t i = 0; i < 64; i++) {
		page_fill(page_at(i), i);
		page_fill(pool + i * PAGE_BYTES, i);
	}
	pool[10 * PAGE_BYTES + 4095] ^= 1; /* differs in its last byte */
	scan_all(1);
	ck_assert_uint_eq(share(0, 0, 64), 63);
	ck_assert_uint_eq(stats().shared_pages, 63);
	ck_assert_int_eq(refs[10], 0);
	ck_assert_int_eq(refs[11], 1);
	for (size_t i = 0; i < 64; i++)
		ck_assert(page_holds(page_at(i), i));
	ck_assert_int_eq(mm_check(mm), 0);
}
END_TEST

START_TEST(write_to_shared_page_leaves_the_frame_and_gives_it_back)
{
	for (size_t i = 0; i < 16; i++) {
		page_fill(page_at(i), 5 + i);
		page_fill(pool + i * PAGE_BYTES, 5 + i);
	}
	scan_all(1);
	ck_assert_uint_eq(share(0, 0, 16), 16);
	page_fill(page_at(3), 777);
	ck_assert(page_holds(pool + 3 * PAGE_BYTES, 8));
	scan_all(1);
	ck_assert_int_eq(refs[3], 0);
	ck_assert_int_eq(refs[4], 1);
	ck_assert_uint_eq(stats().cow_breaks, 1);
	ck_assert(page_holds(page_at(3), 777));
}
END_TEST

START_TEST(page_gone_private_is_merged_again)
{
	page_fill(page_at(0), 1);
	page_fill(pool, 1);
	page_fill(pool + PAGE_BYTES, 2);
	scan_all(1);
	ck_assert_uint_eq(share(0, 0, 1), 1);
	page_fill(page_at(0), 2);
	scan_all(1);
	ck_assert_uint_eq(share(0, 1, 1), 1);
	ck_assert(page_holds(page_at(0), 2));
	ck_assert_int_eq(refs[1], 1);
	ck_assert_uint_eq(stats().collected_pages, 1);
	page_fill(page_at(0), 3);
	ck_assert(page_holds(pool + PAGE_BYTES, 2));
}
END_TEST

START_TEST(frame_outside_the_pool_is_refused)
{
	struct mm_page_map map = {{0}, POOL_PAGES};
	size_t mapped = 9;

	page_fill(page_at(0), 1);
	scan_all(1);
	mm_release_hook(mm, NULL, NULL);
	ck_assert_int_eq(mm_share(mm, &map, 1, &mapped), 0);
	ck_assert_uint_eq(mapped, 0);
	map.gfn.n = RAM_PAGES; /* and a page outside guest RAM */
	map.frame = 0;
	ck_assert_int_eq(mm_share(mm, &map, 1, &mapped), 0);
	ck_assert_uint_eq(mapped, 0);
	ck_assert(page_holds(page_at(0), 1));
}
END_TEST

START_TEST(unshare_gives_every_page_its_own_copy)
{
	for (size_t i = 0; i < 32; i++) {
		page_fill(page_at(i), i + 1);
		page_fill(pool + i * PAGE_BYTES, i + 1);
	}
	scan_all(1);
	ck_assert_uint_eq(share(0, 0, 32), 32);
	ck_assert_int_eq(mm_unshare_all(mm), 0);
	memset(pool, 0xee, 32 * PAGE_BYTES);
	for (size_t i = 0; i < 32; i++) {
		ck_assert(page_holds(page_at(i), i + 1));
		ck_assert_int_eq(refs[i], 0);
	}
}
END_TEST

/* ---- zero pages, discards
 * -------------------------------------------------------- */

START_TEST(zero_pages_are_dropped_and_read_as_zero)
{
	memset(ram, 0, CHUNK_BYTES);
	page_fill(page_at(7), 7);
	scan_all(3);
	ck_assert_uint_eq(stats().zero_pages, CHUNK_PAGES - 1);
	for (size_t i = 0; i < CHUNK_BYTES; i += 512)
		if (i / PAGE_BYTES != 7)
			ck_assert_int_eq(ram[i], 0);
	page_at(3)[9] = 1;
	scan_all(1);
	ck_assert(page_holds(page_at(7), 7));
	ck_assert_int_eq(page_at(3)[9], 1);
}
END_TEST

START_TEST(discard_reads_as_zero_whatever_the_page_was)
{
	for (size_t i = 0; i < CHUNK_PAGES; i++)
		page_fill(page_at(i), i + 1);
	for (size_t i = 0; i < 8; i++)
		page_fill(pool + i * PAGE_BYTES, i + 1);
	scan_all(5);
	ck_assert_uint_eq(share(0, 0, 8), 8);
	page_fill(page_at(2), 99); /* private inside its overlay */
	reclaim_all();
	ck_assert_uint_gt(stats().compressed_pages, 100);
	ck_assert_int_eq(
		mm_discard(mm, hva_of(page_at(0)), 64 * PAGE_BYTES, true), 0);
	for (size_t i = 0; i < 64; i++)
		ck_assert_int_eq(page_at(i)[0] | page_at(i)[4095], 0);
	for (size_t i = 0; i < 8; i++)
		ck_assert_int_eq(refs[i], 0);
	for (size_t i = 64; i < CHUNK_PAGES; i++)
		ck_assert(page_holds(page_at(i), i + 1));
	ck_assert_int_eq(mm_discard(mm, hva_of(pool), PAGE_BYTES, false),
			 -ENOENT);
	ck_assert_int_eq(mm_check(mm), 0);
}
END_TEST

/* ---- reclaim
 * ------------------------------------------------------------------------ */

START_TEST(cold_pages_are_compressed_and_come_back_whole)
{
	struct mm_stats st;

	for (size_t i = 0; i < RAM_PAGES; i++)
		page_fill(page_at(i), i + 1);
	scan_all(5);
	reclaim_all();
	st = stats();
	ck_assert_uint_gt(st.compressed_pages, RAM_PAGES * 9 / 10);
	ck_assert_uint_lt(st.store_bytes, RAM_BYTES / 2);
	ck_assert_int_eq(mm_check(mm), 0);
	for (size_t i = 0; i < RAM_PAGES; i++)
		ck_assert(page_holds(page_at(i), i + 1));
	ck_assert_int_eq(mm_check(mm), 0); /* waits for the last answer */
	st = stats();
	ck_assert_uint_eq(st.compressed_pages, 0);
	ck_assert_uint_eq(st.store_payload_bytes, 0);
	ck_assert_uint_ge(st.faults_compressed, RAM_PAGES * 9 / 10);
	ck_assert_int_eq(mm_check(mm), 0);
}
END_TEST

START_TEST(page_on_trial_comes_back_as_it_was)
{
	struct mm_target target = {.resident_bytes = 1, .compress = true};

	for (size_t i = 0; i < CHUNK_PAGES; i++)
		page_fill(page_at(i), i);
	scan_all(5);
	mm_target_set(mm, &target);
	mm_reclaim(mm);
	if (!has_move()) {
		ck_assert_uint_eq(stats().held_pages, 0);
		return;
	}
	ck_assert_uint_gt(stats().held_pages, 0);
	for (size_t i = 0; i < CHUNK_PAGES; i++)
		ck_assert(page_holds(page_at(i), i));
	ck_assert_uint_eq(stats().held_pages, 0);
	ck_assert_uint_gt(stats().faults_held, 0);
}
END_TEST

START_TEST(full_store_keeps_pages_in_memory)
{
	struct mm_target target = {
		.resident_bytes = 1, .compress = true, .store_bytes = 64 << 10};

	for (size_t i = 0; i < RAM_PAGES; i++)
		page_fill(page_at(i), i + 1);
	scan_all(5);
	mm_target_set(mm, &target);
	for (int i = 0; i < 100; i++) {
		mm_reclaim(mm);
		fault_host_clock_add(100000000);
	}
	ck_assert_uint_gt(stats().store_full, 0);
	for (size_t i = 0; i < RAM_PAGES; i++)
		ck_assert(page_holds(page_at(i), i + 1));
}
END_TEST

START_TEST(range_remove_brings_everything_back)
{
	for (size_t i = 0; i < RAM_PAGES; i++)
		page_fill(page_at(i), i + 1);
	for (size_t i = 0; i < 100; i++)
		page_fill(pool + i * PAGE_BYTES, i + 1);
	scan_all(5);
	ck_assert_uint_eq(share(0, 0, 100), 100);
	reclaim_all();
	ck_assert_int_eq(mm_range_remove(mm, hva_of(ram), RAM_BYTES), 0);
	ck_assert_uint_eq(stats().private_pages, RAM_PAGES);
	memset(pool, 0xee, 100 * PAGE_BYTES);
	for (size_t i = 0; i < RAM_PAGES; i++)
		ck_assert(page_holds(page_at(i), i + 1));
	/* Its discards are still ours: the frame must not show through. */
	ck_assert_int_eq(mm_discard(mm, hva_of(ram), PAGE_BYTES, false), 0);
	ck_assert_int_eq(ram[0], 0);
}
END_TEST

/* ---- the guest writes while its pages are taken
 * --------------------------------------- */

#define WRITERS	     2
#define STRESS_PAGES (2 * CHUNK_PAGES)

static _Atomic bool stress_stop;

/* Each page holds a counter that only its writer raises; none may be lost. */
static void *stress_writer(void *arg)
{
	size_t me = (size_t)arg;
	uint64_t *count = calloc(STRESS_PAGES, sizeof(*count));
	struct rng rng = {me + 1};
	uint64_t wrong = 0;

	while (!stress_stop) {
		size_t i =
			rng_below(&rng, STRESS_PAGES / WRITERS) * WRITERS + me;
		volatile uint64_t *w = (volatile uint64_t *)page_at(i);

		wrong += w[8] != count[i] || w[511] != count[i];
		w[8] = w[511] = ++count[i];
		if (count[i] % 16 == 0)
			usleep(50);
	}
	for (size_t i = me; i < STRESS_PAGES; i += WRITERS)
		wrong += ((uint64_t *)page_at(i))[8] != count[i];
	free(count);
	return (void *)wrong;
}

/* Whatever is there now is made a frame and granted: half will be too late. */
static void stress_share(struct rng *rng)
{
	size_t page = rng_below(rng, STRESS_PAGES - 8);

	for (size_t k = 0; k < 8; k++)
		if (mm_page_read(mm, (gfn_t){page + k},
				 pool + (page + k) * PAGE_BYTES) < 0)
			return;
	share(page, (uint32_t)page, 8);
}

START_TEST(no_write_is_lost_while_pages_are_taken)
{
	pthread_t id[WRITERS];
	struct rng rng;
	uint64_t until;

	rng_start(&rng, "no_write_is_lost");
	stress_stop = false;
	for (size_t i = 0; i < WRITERS; i++)
		pthread_create(&id[i], NULL, stress_writer, (void *)i);
	until = host_real.now_ns() + 4000000000;
	while (host_real.now_ns() < until) {
		struct mm_target target = {.resident_bytes = 1,
					   .compress = true};

		for (int i = 0; i < 64; i++)
			stress_share(&rng);
		scan_all(1);
		mm_target_set(mm, &target);
		mm_reclaim(mm);
		fault_host_clock_add(3000000000);
		mm_reclaim(mm);
	}
	stress_stop = true;
	for (size_t i = 0; i < WRITERS; i++) {
		void *wrong;

		pthread_join(id[i], &wrong);
		ck_assert_uint_eq((uint64_t)wrong, 0);
	}
	ck_assert_uint_gt(stats().takes, 1000);
	ck_assert_uint_gt(stats().merged_pages, 10);
	ck_assert_int_eq(mm_check(mm), 0);
}
END_TEST

/* ---- the host fails
 * --------------------------------------------------------------------- */

static void scenario(void)
{
	for (size_t i = 0; i < 2 * CHUNK_PAGES; i++)
		if (i % 3)
			page_fill(page_at(i), i + 1);
		else
			memset(page_at(i), 0, PAGE_BYTES);
	for (size_t i = 0; i < 64; i++)
		page_fill(pool + i * PAGE_BYTES, i + 1);
	for (int pass = 0; pass < 5; pass++) {
		struct mm_scan_ops ops = {fake_hash, not_told, NULL};

		for (size_t c = 0; c < 2; c++)
			(void)mm_scan_chunk(mm, c, &ops);
	}
	share(0, 0, 64);
	page_fill(page_at(4), 5);
	reclaim_all();
	mm_discard(mm, hva_of(page_at(600)), 4 * PAGE_BYTES, false);
	mm_unshare_all(mm);
}

static void scenario_verify(void)
{
	for (size_t i = 0; i < 2 * CHUNK_PAGES; i++) {
		bool discarded = i >= 600 && i < 604;

		if (discarded)
			continue; /* may have been refused: checked elsewhere */
		if (i % 3)
			ck_assert(page_holds(page_at(i), i + 1));
		else
			ck_assert_int_eq(page_at(i)[0] | page_at(i)[4095], 0);
	}
	for (size_t i = 0; i < 64; i++)
		ck_assert_int_eq(refs[i], 0);
}

START_TEST(any_failing_host_call_loses_nothing)
{
	unsigned long total, step;

	scenario();
	total = fault_host_calls();
	ck_assert_uint_gt(total, 50);
	scenario_verify();
	step = total / 150 + 1;
	for (unsigned long n = 1 + (unsigned long)_i; n <= total; n += step) {
		int rc = n % 2 ? -ENOMEM : -EAGAIN;

		teardown();
		machine_start(NULL, 0);
		pool_start();
		fault_host_fail(n, rc);
		scenario();
		scenario_verify();
	}
}
END_TEST

START_TEST(no_more_mappings_pauses_sharing)
{
	for (size_t i = 0; i < 64; i++) {
		page_fill(page_at(i), i);
		page_fill(pool + i * PAGE_BYTES, i);
	}
	scan_all(1);
	fault_host_overlays(0);
	ck_assert_uint_eq(share(0, 0, 64), 0);
	for (size_t i = 0; i < 64; i++) {
		ck_assert(page_holds(page_at(i), i));
		ck_assert_int_eq(refs[i], 0);
	}
	fault_host_overlays(-1);
	fault_host_clock_add(6000000000);
	ck_assert_uint_eq(share(0, 0, 64), 64);
}
END_TEST

START_TEST(refused_userfaultfd_is_an_error_not_a_crash)
{
	struct mm_config config = {.host = &fault_host, .uffd_device = -1};
	struct mm *none = NULL;

	fault_host_reset(~0u);
	fault_host_refuse_uffd(-EPERM);
	ck_assert_int_eq(mm_create(&config, &none), -EPERM);
	fault_host_reset(0);
	ck_assert_int_eq(mm_create(&config, &none), -ENOSYS);
	ck_assert_ptr_null(none);
}
END_TEST

/* ---- devices
 * ----------------------------------------------------------------------------
 */

START_TEST(no_copy_take_while_a_device_writes)
{
	for (size_t i = 0; i < 16; i++) {
		page_fill(page_at(i), i);
		page_fill(pool + i * PAGE_BYTES, i);
	}
	scan_all(1);
	mm_io_begin(mm, hva_of(page_at(4)), PAGE_BYTES);
	if (has_move()) {
		mm_io_end(mm, hva_of(page_at(4)), PAGE_BYTES);
		ck_assert_uint_eq(share(0, 0, 16), 16);
		return;
	}
	ck_assert_uint_eq(share(0, 0, 16), 0);
	ck_assert_uint_gt(stats().take_busy, 0);
	mm_io_end(mm, hva_of(page_at(4)), PAGE_BYTES);
	mm_copy_takes_off(mm);
	ck_assert_uint_eq(share(0, 0, 16), 0);
	for (size_t i = 0; i < 16; i++)
		ck_assert_int_eq(refs[i], 0);
}
END_TEST

/* ---- the swap file
 * ------------------------------------------------------------------------ */

START_TEST(swap_file_takes_the_coldest_and_gives_them_back)
{
	char path[] = "/tmp/test_real_mm_swapXXXXXX";
	struct mm_target target = {.resident_bytes = 1,
				   .store_bytes = 256 << 10,
				   .compress = true,
				   .swap = true};
	int fd = mkstemp(path);

	close(fd);
	unlink(path);
	features_of_run = ~0u;
	machine_start(path, 256 << 10);
	pool_start();
	for (size_t i = 0; i < RAM_PAGES; i++)
		page_fill(page_at(i), i + 1);
	scan_all(5);
	mm_target_set(mm, &target);
	for (int i = 0; i < 600; i++) {
		mm_reclaim(mm);
		fault_host_clock_add(100000000);
		if (i % 20 == 0)
			scan_all(1);
	}
	ck_assert_uint_gt(stats().swapped_pages, 0);
	ck_assert_int_eq(mm_check(mm), 0);
	for (size_t i = 0; i < RAM_PAGES; i++)
		ck_assert(page_holds(page_at(i), i + 1));
	ck_assert_uint_gt(stats().faults_swapped, 0);
	teardown();
}
END_TEST

static TCase *promises(const char *name, void (*start)(void))
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, start, teardown);
	tcase_set_timeout(tc, 300);
	tcase_add_test(tc, share_maps_equal_pages_and_refuses_others);
	tcase_add_test(tc,
		       write_to_shared_page_leaves_the_frame_and_gives_it_back);
	tcase_add_test(tc, page_gone_private_is_merged_again);
	tcase_add_test(tc, frame_outside_the_pool_is_refused);
	tcase_add_test(tc, unshare_gives_every_page_its_own_copy);
	tcase_add_test(tc, zero_pages_are_dropped_and_read_as_zero);
	tcase_add_test(tc, discard_reads_as_zero_whatever_the_page_was);
	tcase_add_test(tc, cold_pages_are_compressed_and_come_back_whole);
	tcase_add_test(tc, page_on_trial_comes_back_as_it_was);
	tcase_add_test(tc, full_store_keeps_pages_in_memory);
	tcase_add_test(tc, range_remove_brings_everything_back);
	tcase_add_test(tc, no_write_is_lost_while_pages_are_taken);
	tcase_add_test(tc, no_more_mappings_pauses_sharing);
	tcase_add_test(tc, no_copy_take_while_a_device_writes);
	tcase_add_test(tc, any_failing_host_call_loses_nothing);
	return tc;
}

int main(void)
{
	Suite *s = suite_create("real_mm");
	TCase *alone = tcase_create("alone");
	SRunner *sr;
	int failed, uffd;
	unsigned features;

	if (host_real.uffd_open(-1, &features, &uffd) < 0)
		test_skip("userfaultfd is not permitted here");
	close(uffd);
	tcase_set_timeout(alone, 300);
	tcase_add_test(alone, refused_userfaultfd_is_an_error_not_a_crash);
	tcase_add_test(alone, swap_file_takes_the_coldest_and_gives_them_back);
	suite_add_tcase(s, promises("all the kernel has", setup));
	suite_add_tcase(s, promises("no UFFDIO_MOVE", setup_no_move));
	suite_add_tcase(s, alone);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? 1 : 0;
}
