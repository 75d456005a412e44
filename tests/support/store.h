/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What tests of the store share: one store, one client, pages told by their
 * seed. Inline, so that each test program has its own.
 */
#ifndef TESTS_SUPPORT_STORE_H
#define TESTS_SUPPORT_STORE_H

#include "tmem/store.h"
#include "tests/support/rng.h"

#include <check.h>
#include <errno.h>
#include <string.h>

static struct tmem *tm;
static struct tmem_client *cl;
static const struct tmem_oid oid = {{1, 2, 3}};
static const struct tmem_oid oid_other = {{1, 2, 4}};

static inline void start(uint64_t budget)
{
	ck_assert_int_eq(tmem_create(budget, &tm), 0);
	ck_assert_int_eq(tmem_client_create(tm, "guest", &cl), 0);
}

static inline void stop(void)
{
	ck_assert_int_eq(tmem_check(tm), 0);
	tmem_destroy(tm);
}

static inline int pool(uint32_t flags)
{
	int id = tmem_pool_create(cl, flags, NULL);

	ck_assert_int_ge(id, 0);
	return id;
}

/* A page of n random bytes, told by its seed. */
static inline const void *page(uint64_t seed, size_t n)
{
	static unsigned char buf[PAGE_BYTES];
	struct rng rng = {seed};

	memset(buf, 0, sizeof(buf));
	memcpy(buf, &seed, sizeof(seed));
	rng_fill(&rng, buf + sizeof(seed),
		 n > sizeof(seed) ? n - sizeof(seed) : 0);
	return buf;
}

static inline void expect(struct tmem_client *of, int id, uint32_t index,
			  uint64_t seed, size_t n)
{
	unsigned char got[PAGE_BYTES];

	ck_assert_int_eq(tmem_get(of, id, &oid, index, got), 0);
	ck_assert_mem_eq(got, page(seed, n), PAGE_BYTES);
}

static inline void expect_miss(struct tmem_client *of, int id, uint32_t index)
{
	unsigned char got[PAGE_BYTES];
	unsigned char was[PAGE_BYTES];

	memset(got, 0x77, sizeof(got));
	memcpy(was, got, sizeof(was));
	ck_assert_int_eq(tmem_get(of, id, &oid, index, got), -ENOENT);
	ck_assert_mem_eq(got, was, sizeof(got));
}

static inline struct tmem_stats stats(void)
{
	struct tmem_stats st;

	tmem_stats(tm, &st);
	ck_assert_uint_eq(st.stored_bytes + st.metadata_bytes + st.slack_bytes,
			  st.used_bytes);
	return st;
}

#endif
