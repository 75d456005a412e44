/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The small machine of the manager's tests. Its pages' content is computed from
 * a number, so that a test can say what any page must hold.
 */
#include "tests/support/machine.h"
#include "tests/support/fault_host.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct machine machine;

static void released(void *arg, const uint32_t *frames, size_t n)
{
	(void)arg;
	for (size_t i = 0; i < n; i++)
		__atomic_fetch_sub(&machine.refs[frames[i]], 1,
				   __ATOMIC_SEQ_CST);
}

void page_fill(uint8_t *page, uint64_t seed)
{
	uint64_t *w = (uint64_t *)page;

	for (size_t i = 0; i < PAGE_BYTES / 8; i++)
		w[i] = i % 2 ? seed * 0x9e3779b97f4a7c15 + i / 8 : seed;
}

bool page_holds(const uint8_t *page, uint64_t seed)
{
	uint8_t want[PAGE_BYTES];

	page_fill(want, seed);
	return memcmp(page, want, PAGE_BYTES) == 0;
}

uint8_t *machine_page(size_t n)
{
	return machine.ram + n * PAGE_BYTES;
}

void machine_start(const char *swap, uint64_t store_bytes)
{
	struct mm_config config = {
		.host = &fault_host,
		.uffd_device = -1,
		.fault_poll_ns = machine.poll_ns,
		.store_bytes = store_bytes,
		.dense = true,
		.swap_path = swap,
		.swap_bytes = swap ? MACHINE_BYTES : 0,
	};
	void *at =
		mmap(NULL, MACHINE_BYTES + CHUNK_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rc;

	ck_assert_ptr_ne(at, MAP_FAILED);
	machine.ram = (uint8_t *)(((uintptr_t)at + CHUNK_BYTES - 1) &
				  ~(CHUNK_BYTES - 1));
	madvise(machine.ram, MACHINE_BYTES, MADV_NOHUGEPAGE);
	fault_host_reset(machine.features);
	fault_host_fail(machine.fail_at, -ENOMEM);
	rc = mm_create(&config, &machine.mm);
	ck_assert_int_eq(rc, 0);
	ck_assert_int_eq(mm_range_add(machine.mm, hva_of(machine.ram),
				      MACHINE_BYTES, true),
			 0);
	mm_release_hook(machine.mm, released, NULL);
	mm_break_huge(machine.mm, true);
}

void machine_pool_start(void)
{
	machine.pool_fd = memfd_create("pool", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(machine.pool_fd, MACHINE_POOL_BYTES), 0);
	machine.pool = mmap(NULL, MACHINE_POOL_BYTES, PROT_READ | PROT_WRITE,
			    MAP_SHARED, machine.pool_fd, 0);
	ck_assert_ptr_ne(machine.pool, MAP_FAILED);
	memset(machine.refs, 0, sizeof(machine.refs));
	ck_assert_int_eq(
		mm_pool_attach(machine.mm, machine.pool_fd, MACHINE_POOL_BYTES),
		0);
}

/* Both the kernel and this run have UFFDIO_MOVE. */
bool machine_has_move(void)
{
	unsigned features = 0;
	int fd = -1;

	ck_assert_int_eq(host_real.uffd_open(-1, &features, &fd), 0);
	close(fd);
	return features & machine.features & HOST_MOVE;
}

void machine_setup(void)
{
	machine.features = ~0u;
	machine_start(NULL, 0);
	machine_pool_start();
}

void machine_setup_no_move(void)
{
	machine.features = ~(unsigned)HOST_MOVE;
	machine_start(NULL, 0);
	machine_pool_start();
}

void machine_teardown(void)
{
	mm_destroy(machine.mm);
	munmap(machine.pool, MACHINE_POOL_BYTES);
	close(machine.pool_fd);
	munmap(machine.ram, MACHINE_BYTES);
}

uint64_t machine_hash(void *arg, const void *page)
{
	uint64_t w[3];

	(void)arg;
	memcpy(w, page, sizeof(w));
	return ((w[0] * 31 + w[1] * 7 + w[2]) & 0xffffffffff) | 1;
}

bool machine_not_told(void *arg, gfn_t gfn, uint64_t hash, uint64_t was,
		      unsigned age)
{
	(void)arg, (void)gfn, (void)hash, (void)was, (void)age;
	return false;
}

void machine_scan(int times)
{
	struct mm_scan_ops ops = {machine_hash, machine_not_told, NULL};

	while (times--)
		for (size_t c = 0; c < mm_chunks(machine.mm); c++)
			ck_assert_int_ge(mm_scan_chunk(machine.mm, c, &ops), 0);
}

struct mm_stats machine_stats(void)
{
	struct mm_stats st;

	mm_stats(machine.mm, &st);
	ck_assert_uint_eq(st.ram_pages,
			  st.absent_pages + st.private_pages + st.held_pages +
				  st.shared_pages + st.zero_pages +
				  st.compressed_pages + st.swapped_pages);
	return st;
}

/* Grants frames [frame, +n) for pages [page, +n). */
size_t machine_share(size_t page, uint32_t frame, size_t n)
{
	struct mm_page_map *map = malloc(n * sizeof(*map));
	size_t mapped;

	for (size_t i = 0; i < n; i++) {
		map[i] = (struct mm_page_map){{page + i}, frame + (uint32_t)i};
		machine.refs[frame + i]++;
	}
	ck_assert_int_eq(mm_share(machine.mm, map, n, &mapped), 0);
	free(map);
	return mapped;
}

void machine_reclaim(void)
{
	struct mm_target target = {
		.resident_bytes = 1,
		.compress = true,
		.swap = true,
	};

	mm_target_set(machine.mm, &target);
	/* Every chunk is visited twice: lifted out, and its trial ended. */
	for (int i = 0; i < 8; i++) {
		mm_reclaim(machine.mm);
		fault_host_clock_add(6000000000);
	}
	target.resident_bytes = 0;
	target.compress = false;
	mm_target_set(machine.mm, &target);
}
