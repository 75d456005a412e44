/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The packer against a naive model: an array of owners, each with the size and
 * seed of what it should hold. And the promise it exists for: after its content
 * has been replaced ten times over, 97 % of its memory is still payload.
 */
#include "tmem/pack.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS	     8
#define OWNERS	     4000
#define TABLE_BLOCK  12
#define TABLE_PIECE  22
#define TABLE_PIECES 64
#define STORE_BYTES  ((uint64_t)64 << 20)
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ROUNDS 3
#define STEPS  50000
#else
#define ROUNDS 10
#define STEPS  200000
#endif
#define WORDS_A_BLOCK (PAGE_BYTES / sizeof(uint64_t))

struct owner {
	uint32_t unit;
	uint32_t bytes; /* 0: holds nothing */
	uint64_t seed;
};

static struct budget budget;
static struct arena tables;
static struct pack pack;
static struct owner *owners;
static size_t owners_n;

static void owners_make(size_t n)
{
	uint32_t block = 0;

	owners = calloc(n, sizeof(*owners));
	ck_assert_ptr_nonnull(owners);
	owners_n = n;
	for (size_t i = 0; i < n; i++) {
		if (i % (WORDS_A_BLOCK - 1) == 0)
			ck_assert_int_eq(arena_block_get(&tables, &block), 0);
		owners[i].unit = (uint32_t)(block * WORDS_A_BLOCK +
					    i % (WORDS_A_BLOCK - 1) + 1);
	}
}

static void start(size_t n, uint64_t limit)
{
	budget_init(&budget, &memory_real, 0);
	ck_assert_int_eq(arena_init(&tables, &budget, TABLE_BLOCK, TABLE_PIECE,
				    TABLE_PIECES, ARENA_CHARGE_BLOCKS),
			 0);
	ck_assert_int_eq(pack_init(&pack, &budget, &tables), 0);
	owners_make(n);
	if (limit)
		budget.limit = atomic_load(&budget.used) + limit;
}

static void stop(void)
{
	pack_fini(&pack);
	arena_fini(&tables);
	free(owners);
}

static void data_make(const struct owner *o, unsigned char *data)
{
	struct rng rng = {o->seed};

	rng_fill(&rng, data, o->bytes);
}

static int owner_put(struct owner *o, uint32_t bytes, uint64_t seed)
{
	unsigned char data[PAGE_BYTES];
	struct pack_item item = {data, bytes, 1 + seed % 3, (uint32_t)seed,
				 (uint32_t)seed};
	int rc;

	o->bytes = bytes;
	o->seed = seed;
	data_make(o, data);
	rc = pack_put(&pack, o->unit, &item);
	if (rc)
		o->bytes = 0;
	return rc;
}

static void owner_drop(struct owner *o)
{
	pack_drop(&pack, o->unit);
	o->bytes = 0;
}

static void owner_verify(const struct owner *o)
{
	unsigned char want[PAGE_BYTES];
	unsigned char got[PAGE_BYTES];
	struct pack_item item;

	if (!o->bytes)
		return;
	data_make(o, want);
	pack_read(&pack, o->unit, got, &item);
	ck_assert_uint_eq(item.bytes, o->bytes);
	ck_assert_uint_eq(item.tag, 1 + o->seed % 3);
	ck_assert_uint_eq(item.sum, (uint32_t)o->seed);
	ck_assert_mem_eq(want, got, o->bytes);
}

/* Sizes as LZ4 makes them of a desktop's pages: half below 2 KiB. */
static uint32_t size_realistic(struct rng *rng)
{
	uint64_t kind = rng_below(rng, 100);

	if (kind < 5)
		return 8;
	if (kind < 50)
		return 60 + (uint32_t)rng_below(rng, 1988);
	if (kind < 88)
		return 2048 + (uint32_t)rng_below(rng, PACK_SMALL_MAX - 2047);
	return PAGE_BYTES;
}

static uint64_t committed(void)
{
	struct pack_usage usage;

	pack_usage(&pack, &usage);
	return usage.committed_bytes;
}

static void check_sound(void)
{
	for (uint32_t class = 0; class < PACK_CLASSES; class++)
		ck_assert_int_eq(pack_class_check(&pack, class), 0);
}

START_TEST(every_size_comes_back)
{
	uint32_t n = 0;

	start(PACK_SMALL_MAX + 1, 0);
	for (uint32_t bytes = 1; bytes <= PACK_SMALL_MAX; bytes++, n++)
		ck_assert_int_eq(owner_put(&owners[n], bytes, bytes), 0);
	ck_assert_int_eq(owner_put(&owners[n], PAGE_BYTES, 1), 0);
	for (size_t i = 0; i < owners_n; i++)
		owner_verify(&owners[i]);
	check_sound();
	for (size_t i = 0; i < owners_n; i++)
		owner_drop(&owners[i]);
	ck_assert_uint_eq(committed(), 0);
	stop();
}
END_TEST

START_TEST(object_bytes_match_class)
{
	static const struct {
		uint32_t bytes, object;
	} table[] = {
		{1, 16},  {8, 16},	{9, 32},      {24, 32},
		{25, 48}, {3839, 3856}, {3840, 3856}, {4096, 4104},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		ck_assert_uint_eq(pack_object_bytes(table[i].bytes),
				  table[i].object);
}
END_TEST

static void step(struct rng *rng)
{
	struct owner *o = &owners[rng_below(rng, owners_n)];
	struct owner *other = &owners[rng_below(rng, owners_n)];
	struct owner next = *o;

	if (!o->bytes) {
		ck_assert_int_eq(
			owner_put(o, size_realistic(rng), rng_next(rng)), 0);
		return;
	}
	owner_verify(o);
	if (!other->bytes && rng_below(rng, 4) == 0) {
		pack_reown(&pack, o->unit, other->unit);
		next.unit = other->unit;
		*other = next;
		o->bytes = 0;
		return;
	}
	owner_drop(o);
}

START_TEST(holds_what_the_model_holds)
{
	struct rng rng;

	rng_start(&rng, "holds_what_the_model_holds");
	start(OWNERS, 0);
	for (unsigned n = 0; n < STEPS; n++) {
		step(&rng);
		if (n % 20000 == 0)
			check_sound();
	}
	for (size_t i = 0; i < owners_n; i++)
		owner_verify(&owners[i]);
	check_sound();
	stop();
}
END_TEST

struct worker {
	pthread_t thread;
	struct rng rng;
	size_t first;
	size_t n;
};

/*
 * Each thread has its owners, but all objects are of two classes: they are
 * moved by other threads' drops all the time.
 */
static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned n = 0; n < STEPS / 2; n++) {
		struct owner *o = &owners[w->first + rng_below(&w->rng, w->n)];

		if (!o->bytes) {
			ck_assert_int_eq(owner_put(o, 100 + 16 * (n & 1),
						   rng_next(&w->rng)),
					 0);
			continue;
		}
		owner_verify(o);
		owner_drop(o);
	}
	return NULL;
}

START_TEST(threads_move_each_others_objects)
{
	struct worker w[THREADS];
	struct rng rng;

	rng_start(&rng, "threads_move_each_others_objects");
	start(64 * THREADS, 0);
	for (unsigned t = 0; t < THREADS; t++) {
		w[t].rng.state = rng_next(&rng);
		w[t].first = t * 64;
		w[t].n = 64;
		ck_assert_int_eq(
			pthread_create(&w[t].thread, NULL, work, &w[t]), 0);
	}
	for (unsigned t = 0; t < THREADS; t++)
		pthread_join(w[t].thread, NULL);
	for (size_t i = 0; i < owners_n; i++)
		owner_verify(&owners[i]);
	check_sound();
	stop();
}
END_TEST

static uint64_t payload(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < owners_n; i++)
		sum += owners[i].bytes;
	return sum;
}

/* Each round replaces every object; bursts leave holes everywhere. */
static void churn_round(struct rng *rng)
{
	for (size_t i = 0; i < owners_n; i++) {
		struct owner *o = &owners[rng_below(rng, owners_n)];

		if (o->bytes)
			owner_drop(o);
		o = &owners[rng_below(rng, owners_n)];
		if (!o->bytes)
			ck_assert_int_eq(owner_put(o, size_realistic(rng),
						   rng_next(rng)),
					 0);
	}
}

START_TEST(is_97_percent_payload_after_churn)
{
	struct rng rng;
	double share;

	rng_start(&rng, "is_97_percent_payload_after_churn");
	/* About half of the owners hold something in the end. */
	start(2 * STORE_BYTES / 1900, 0);
	for (size_t i = 0; i < owners_n; i++)
		ck_assert_int_eq(owner_put(&owners[i], size_realistic(&rng),
					   rng_next(&rng)),
				 0);
	for (unsigned round = 0; round < ROUNDS; round++)
		churn_round(&rng);
	check_sound();
	share = (double)payload() / (double)committed();
	printf("payload %llu of %llu bytes: %.2f %%\n",
	       (unsigned long long)payload(), (unsigned long long)committed(),
	       100 * share);
	ck_assert_uint_ge(committed(), STORE_BYTES / 2);
	ck_assert_msg(share >= 0.97, "only %.4f is payload", share);
	for (size_t i = 0; i < owners_n; i++)
		if (owners[i].bytes)
			owner_drop(&owners[i]);
	ck_assert_uint_eq(committed(), 0);
	stop();
}
END_TEST

START_TEST(limit_is_never_exceeded)
{
	uint64_t limit = 1 << 20;
	uint64_t least;
	struct rng rng;
	unsigned refused = 0;

	rng_start(&rng, "limit_is_never_exceeded");
	start(OWNERS, limit);
	for (size_t i = 0; i < owners_n; i++) {
		int rc = owner_put(&owners[i], size_realistic(&rng), i + 1);

		ck_assert(rc == 0 || rc == -ENOSPC);
		refused += rc != 0;
		ck_assert_uint_le(committed(), limit);
	}
	ck_assert_uint_gt(refused, 0);
	/* Close to the limit nothing is kept spare. */
	least = committed();
	pack_trim(&pack);
	ck_assert_uint_eq(committed(), least);
	for (size_t i = 0; i < owners_n; i++)
		owner_verify(&owners[i]);
	stop();
}
END_TEST

/*
 * A later object in the same memory must not show an earlier one's bytes: what
 * is read is what was written by the put, to the byte.
 */
START_TEST(nothing_of_an_earlier_object_is_read)
{
	unsigned char secret[PAGE_BYTES];
	unsigned char got[PAGE_BYTES];
	struct pack_item item = {secret, 3000, 1, 0, 0};
	unsigned char one = 7;

	start(2, 0);
	memset(secret, 0x5e, sizeof(secret));
	ck_assert_int_eq(pack_put(&pack, owners[0].unit, &item), 0);
	pack_drop(&pack, owners[0].unit);
	item.data = &one;
	/* 2999 bytes are of the same class; here all but the first are 7. */
	memset(got, 7, sizeof(got));
	item.data = got;
	item.bytes = 2999;
	ck_assert_int_eq(pack_put(&pack, owners[1].unit, &item), 0);
	memset(got, 0xff, sizeof(got));
	pack_read(&pack, owners[1].unit, got, &item);
	for (unsigned i = 0; i < PAGE_BYTES; i++)
		ck_assert_uint_eq(got[i], i < 2999 ? one : 0xff);
	stop();
}
END_TEST

/* Nor lie on behind the end of a shorter one that took its place. */
START_TEST(nothing_of_a_replaced_object_stays)
{
	unsigned char page[PAGE_BYTES];
	struct pack_item item = {page, 3000, 1, 0, 0};
	const struct pack_class *c;
	const char *data;

	start(1, 0);
	memset(page, 0x5e, sizeof(page));
	ck_assert_int_eq(pack_put(&pack, owners[0].unit, &item), 0);
	item.bytes = 2990;
	ck_assert(pack_overwrite(&pack, owners[0].unit, &item));
	for (c = pack.class; !c->count; c++)
		;
	data = arena_block_at(&pack.extents, c->extent[0]) +
	       sizeof(struct pack_head);
	ck_assert_int_eq(data[2989], 0x5e);
	for (unsigned i = 2990; i < 3000; i++)
		ck_assert_int_eq(data[i], 0);
	stop();
}
END_TEST

static int release_refused(void *addr, size_t bytes)
{
	(void)addr;
	(void)bytes;
	return -EINVAL;
}

START_TEST(memory_the_kernel_will_not_take_is_used_again)
{
	struct memory_ops ops = memory_real;
	uint64_t most = 0;

	ops.release = release_refused;
	start(OWNERS, 0);
	budget.ops = &ops;
	for (unsigned round = 0; round < 3; round++) {
		for (size_t i = 0; i < owners_n; i++)
			ck_assert_int_eq(owner_put(&owners[i], 2000, i), 0);
		if (round == 0)
			most = committed();
		ck_assert_uint_eq(committed(), most);
		for (size_t i = 0; i < owners_n; i++)
			owner_drop(&owners[i]);
		/* Not given back, and still counted. */
		ck_assert_uint_eq(committed(), most);
	}
	budget.ops = &memory_real;
	pack_trim(&pack);
	ck_assert_uint_eq(committed(), 0);
	stop();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("pack");
	TCase *tc = tcase_create("pack");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, every_size_comes_back);
	tcase_add_test(tc, object_bytes_match_class);
	tcase_add_test(tc, holds_what_the_model_holds);
	tcase_add_test(tc, threads_move_each_others_objects);
	tcase_add_test(tc, is_97_percent_payload_after_churn);
	tcase_add_test(tc, limit_is_never_exceeded);
	tcase_add_test(tc, nothing_of_an_earlier_object_is_read);
	tcase_add_test(tc, nothing_of_a_replaced_object_stays);
	tcase_add_test(tc, memory_the_kernel_will_not_take_is_used_again);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
