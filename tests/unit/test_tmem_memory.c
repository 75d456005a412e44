/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The store when memory fails: a fixed run of operations, repeated with the
 * first, second, ... call for memory refused, until a run needs no more calls
 * than that. Nothing but -ENOMEM may come of it; what was stored stays, every
 * sum still holds, and all memory is returned in the end.
 */
#include "tmem/store.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS  600
#define OPS   3000
#define POOLS 2

enum refusal { REFUSE_ONE, REFUSE_FROM_THEN_ON };

static struct {
	enum refusal how;
	unsigned calls;
	unsigned at; /* the call to refuse, from 1 */
	int out;     /* allocations and mappings not returned yet */
} world;

static bool refused(void)
{
	unsigned call = ++world.calls;

	return world.how == REFUSE_ONE ? call == world.at : call >= world.at;
}

static int map(size_t bytes, void **out)
{
	int rc = refused() ? -ENOMEM : memory_real.map(bytes, out);

	world.out += rc == 0;
	return rc;
}

static void unmap(void *addr, size_t bytes)
{
	world.out--;
	memory_real.unmap(addr, bytes);
}

static void *alloc(size_t bytes)
{
	void *ptr = refused() ? NULL : memory_real.alloc(bytes);

	world.out += ptr != NULL;
	return ptr;
}

static void release_ptr(void *ptr)
{
	world.out -= ptr != NULL;
	memory_real.free(ptr);
}

static struct memory_ops ops;

static void page_make(uint64_t seed, unsigned char *page)
{
	struct rng rng = {seed};

	memset(page, 0, PAGE_BYTES);
	rng_fill(&rng, page, seed % (PAGE_BYTES + 1));
}

static uint64_t model[POOLS][KEYS];

static void get_one(struct tmem_client *cl, int pool, uint32_t key)
{
	static const struct tmem_oid oid = {{9, 9, 9}};
	unsigned char want[PAGE_BYTES];
	unsigned char got[PAGE_BYTES];
	int rc = tmem_get(cl, pool, &oid, key * 3, got);

	if (!model[pool][key]) {
		ck_assert_int_eq(rc, -ENOENT);
		return;
	}
	ck_assert_int_eq(rc, 0);
	page_make(model[pool][key], want);
	ck_assert_mem_eq(got, want, PAGE_BYTES);
	if (pool == 1)
		model[pool][key] = 0;
}

static void put_one(struct tmem_client *cl, int pool, uint32_t key,
		    uint64_t seed)
{
	static const struct tmem_oid oid = {{9, 9, 9}};
	unsigned char page[PAGE_BYTES];
	int rc;

	page_make(seed, page);
	rc = tmem_put(cl, pool, &oid, key * 3, page);
	ck_assert(rc == 0 || rc == -ENOMEM);
	model[pool][key] = rc ? 0 : seed;
}

/* The first pool of a kind needs memory. */
static bool pools_make(struct tmem_client *cl)
{
	int persistent = tmem_pool_create(cl, TMEM_PERSISTENT, NULL);
	int ephemeral = tmem_pool_create(cl, TMEM_EPHEMERAL, NULL);

	if (persistent == 0 && ephemeral == 1)
		return true;
	ck_assert(persistent == -ENOMEM || ephemeral == -ENOMEM);
	ck_assert(persistent <= 0 && ephemeral <= 0);
	return false;
}

static void use(struct tmem *tm, struct tmem_client *cl)
{
	struct rng rng = {7};

	if (!pools_make(cl))
		return;
	memset(model, 0, sizeof(model));
	for (unsigned n = 0; n < OPS; n++) {
		int pool = (int)rng_below(&rng, POOLS);
		uint32_t key = (uint32_t)rng_below(&rng, KEYS);

		if (rng_below(&rng, 3))
			put_one(cl, pool, key, rng_next(&rng) | 1);
		else
			get_one(cl, pool, key);
	}
	ck_assert_int_eq(tmem_check(tm), 0);
	for (uint32_t key = 0; key < KEYS; key++)
		for (int pool = 0; pool < POOLS; pool++)
			get_one(cl, pool, key);
	ck_assert_int_eq(tmem_check(tm), 0);
}

static void run(void)
{
	struct tmem_client *cl;
	struct tmem *tm;
	int rc = tmem_create_on(&ops, 0, &tm);

	if (rc) {
		ck_assert_int_eq(rc, -ENOMEM);
		return;
	}
	rc = tmem_client_create(tm, "guest", &cl);
	if (rc)
		ck_assert_int_eq(rc, -ENOMEM);
	else
		use(tm, cl);
	tmem_destroy(tm);
}

static unsigned step(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return 13;
#else
	return 1;
#endif
}

static unsigned run_all(enum refusal how)
{
	unsigned runs = 0;

	ops = memory_real;
	ops.map = map;
	ops.unmap = unmap;
	ops.alloc = alloc;
	ops.free = release_ptr;
	do {
		world.how = how;
		world.calls = 0;
		world.at = 1 + runs++ * step();
		run();
		ck_assert_int_eq(world.out, 0);
	} while (world.calls >= world.at);
	printf("%u calls for memory, one in %u refused in turn\n", world.calls,
	       step());
	return runs;
}

START_TEST(any_one_call_may_fail)
{
	ck_assert_uint_gt(run_all(REFUSE_ONE), 40 / step());
}
END_TEST

START_TEST(all_calls_from_any_on_may_fail)
{
	ck_assert_uint_gt(run_all(REFUSE_FROM_THEN_ON), 40 / step());
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tmem_memory");
	TCase *tc = tcase_create("memory");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, any_one_call_may_fail);
	tcase_add_test(tc, all_calls_from_any_on_may_fail);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
