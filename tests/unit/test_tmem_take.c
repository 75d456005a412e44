/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All ephemeral pages taken at once: what goes, what stays, what is counted,
 * and when they must go one by one instead. That they went at once shows in the
 * store's shelf, which is another one then. The memory that is on its way back
 * is looked at from within the call that unmaps it.
 */
#include "tests/support/run.h"
#include "tests/support/store.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define MANY 3000u

static const uint8_t uuid[16] = {1, 2, 3};

static const struct shelf *shelf_now(void)
{
	return tm->shelf[KIND_EPHEMERAL];
}

static struct tmem_client_stats told(const struct tmem_client *of)
{
	struct tmem_client_stats st;

	tmem_client_stats(of, &st);
	return st;
}

/* Of every form: same-filled, packed, raw; some equal to others. */
static const void *page_nth(uint32_t i)
{
	return i % 8 == 0 ? page(0, 0) : page(1 + i % 2500, i % PAGE_BYTES);
}

static void fill(struct tmem_client *of, int id, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		ck_assert_int_eq(tmem_put(of, id, &oid, i * 3, page_nth(i)), 0);
}

static void expect_nth(struct tmem_client *of, int id, uint32_t i)
{
	unsigned char got[PAGE_BYTES];

	ck_assert_int_eq(tmem_get(of, id, &oid, i * 3, got), 0);
	ck_assert_mem_eq(got, page_nth(i), PAGE_BYTES);
}

static void expect_all(struct tmem_client *of, int id, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		expect_nth(of, id, i);
}

static void expect_none(struct tmem_client *of, int id, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		expect_miss(of, id, i * 3);
}

START_TEST(all_that_is_lent_goes_and_nothing_else)
{
	const struct shelf *shelf;
	uint64_t used, freeable;
	int e, p;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	p = pool(TMEM_PERSISTENT);
	fill(cl, p, MANY);
	used = stats().used_bytes;
	fill(cl, e, MANY);
	shelf = shelf_now();
	freeable = tmem_freeable_used(tm);
	ck_assert_uint_gt(stats().used_bytes, used + freeable * 99 / 100);
	ck_assert_int_eq(tmem_client_lend(cl, 0), 0);
	ck_assert_ptr_ne(shelf_now(), shelf);
	ck_assert_uint_eq(tmem_freeable(tm), 0);
	ck_assert_uint_eq(told(cl).bytes_ephemeral, 0);
	ck_assert_uint_eq(told(cl).pages_ephemeral, 0);
	ck_assert_uint_eq(told(cl).evicted[TMEM_EVICT_LENT], MANY);
	ck_assert_uint_eq(stats().evictions, MANY);
	ck_assert_uint_eq(stats().pages, MANY);
	ck_assert_uint_le(stats().used_bytes, used);
	ck_assert_int_eq(tmem_check(tm), 0);
	expect_none(cl, e, MANY);
	ck_assert_int_eq(tmem_put(cl, e, &oid, 0, page_nth(1)), -ENOMEM);
	ck_assert_int_eq(tmem_client_lend(cl, UINT64_MAX), 0);
	fill(cl, e, MANY);
	expect_all(cl, e, MANY);
	expect_all(cl, p, MANY);
	ck_assert_int_eq(tmem_pool_destroy(cl, e), 0);
	stop();
}
END_TEST

START_TEST(few_go_one_by_one)
{
	const struct shelf *shelf;
	int e;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	fill(cl, e, 100);
	shelf = shelf_now();
	ck_assert_int_eq(tmem_client_lend(cl, 0), 0);
	ck_assert_ptr_eq(shelf_now(), shelf);
	ck_assert_uint_eq(told(cl).evicted[TMEM_EVICT_LENT], 100);
	expect_none(cl, e, 100);
	stop();
}
END_TEST

START_TEST(part_of_them_goes_oldest_first)
{
	const struct shelf *shelf;
	int e;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	fill(cl, e, MANY);
	shelf = shelf_now();
	ck_assert_int_eq(tmem_client_lend(cl, tmem_freeable(tm) / 2), 0);
	ck_assert_uint_gt(tmem_flush(tm, tmem_freeable(tm) / 2), 0);
	ck_assert_ptr_eq(shelf_now(), shelf);
	expect_nth(cl, e, MANY - 1);
	stop();
}
END_TEST

START_TEST(pages_of_another_client_stay)
{
	const struct shelf *shelf;
	struct tmem_client *other;
	int e, o;

	start(0);
	ck_assert_int_eq(tmem_client_create(tm, "other", &other), 0);
	e = pool(TMEM_EPHEMERAL);
	o = tmem_pool_create(other, TMEM_EPHEMERAL, NULL);
	fill(cl, e, MANY);
	fill(other, o, 1);
	shelf = shelf_now();
	ck_assert_int_eq(tmem_client_lend(cl, 0), 0);
	ck_assert_ptr_eq(shelf_now(), shelf);
	expect_none(cl, e, MANY);
	expect_nth(other, o, 0);
	/* Now it has none either. */
	ck_assert_int_eq(tmem_client_lend(cl, UINT64_MAX), 0);
	fill(cl, e, MANY);
	ck_assert_int_eq(tmem_client_lend(cl, 0), 0);
	ck_assert_ptr_ne(shelf_now(), shelf);
	fill(other, o, MANY);
	expect_all(other, o, MANY);
	stop();
}
END_TEST

START_TEST(flush_takes_all_of_all_clients)
{
	struct tmem_client *other;
	const struct shelf *shelf;
	uint64_t freeable;
	int e, s, o;

	start(0);
	ck_assert_int_eq(tmem_client_create(tm, "other", &other), 0);
	ck_assert_int_eq(tmem_client_auth(cl, uuid, true), 0);
	ck_assert_int_eq(tmem_client_auth(other, uuid, true), 0);
	e = pool(TMEM_EPHEMERAL);
	s = tmem_pool_create(cl, TMEM_SHARED, uuid);
	o = tmem_pool_create(other, TMEM_SHARED, uuid);
	fill(cl, e, MANY);
	fill(cl, s, MANY / 2);
	for (uint32_t i = MANY / 2; i < MANY; i++)
		ck_assert_int_eq(tmem_put(other, o, &oid, i * 3, page_nth(i)),
				 0);
	shelf = shelf_now();
	freeable = tmem_freeable(tm);
	ck_assert_uint_eq(tmem_flush(tm, UINT64_MAX), freeable);
	ck_assert_ptr_ne(shelf_now(), shelf);
	ck_assert_uint_eq(told(cl).evicted[TMEM_EVICT_FLUSH], MANY + MANY / 2);
	ck_assert_uint_eq(told(other).evicted[TMEM_EVICT_FLUSH], MANY / 2);
	ck_assert_uint_eq(stats().pages, 0);
	ck_assert_uint_eq(tmem_freeable(tm), 0);
	ck_assert_int_eq(tmem_check(tm), 0);
	expect_none(cl, e, MANY);
	expect_none(other, o, MANY);
	/* The pools go on; a member leaves, the other stays. */
	fill(cl, s, MANY);
	expect_all(other, o, MANY);
	ck_assert_int_eq(tmem_pool_destroy(other, o), 0);
	expect_all(cl, s, MANY);
	tmem_client_destroy(cl);
	ck_assert_uint_eq(stats().pages, 0);
	stop();
}
END_TEST

START_TEST(cap_that_kept_pages_fill_takes_all)
{
	const struct shelf *shelf;
	int e, p;

	start(0);
	e = pool(TMEM_EPHEMERAL);
	p = pool(TMEM_PERSISTENT);
	fill(cl, p, 100);
	fill(cl, e, MANY);
	shelf = shelf_now();
	ck_assert_int_eq(tmem_client_set(cl, 1, PAGE_BYTES, 0, true), 0);
	ck_assert_ptr_ne(shelf_now(), shelf);
	ck_assert_uint_eq(told(cl).evicted[TMEM_EVICT_CAP], MANY);
	ck_assert_uint_eq(told(cl).pages_persistent, 100);
	expect_all(cl, p, 100);
	stop();
}
END_TEST

/* ---- memory that fails --------------------------------------------------- */

static struct memory_ops ops;
static struct {
	unsigned calls;
	unsigned at;	 /* the call to refuse, from 1 */
	_Atomic int out; /* allocations and mappings not returned yet */
	void (*unmapping)(void);
} world;

static int map(size_t bytes, void **out)
{
	int rc = ++world.calls == world.at ? -ENOMEM
					   : memory_real.map(bytes, out);

	world.out += rc == 0;
	return rc;
}

static void unmap(void *addr, size_t bytes)
{
	void (*unmapping)(void) = world.unmapping;

	world.unmapping = NULL;
	if (unmapping)
		unmapping();
	world.out--;
	memory_real.unmap(addr, bytes);
}

static void *alloc(size_t bytes)
{
	void *ptr = ++world.calls == world.at ? NULL : memory_real.alloc(bytes);

	world.out += ptr != NULL;
	return ptr;
}

static void release_ptr(void *ptr)
{
	world.out -= ptr != NULL;
	memory_real.free(ptr);
}

static int release_refused(void *addr, size_t bytes)
{
	(void)addr;
	(void)bytes;
	return -EINVAL;
}

static void start_on_world(uint64_t budget)
{
	memset(&world, 0, sizeof(world));
	ops = memory_real;
	ops.map = map;
	ops.unmap = unmap;
	ops.alloc = alloc;
	ops.free = release_ptr;
	ck_assert_int_eq(tmem_create_on(&ops, budget, &tm), 0);
	ck_assert_int_eq(tmem_client_create(tm, "guest", &cl), 0);
}

static void stop_world(void)
{
	stop();
	ck_assert_int_eq(world.out, 0);
}

START_TEST(without_memory_they_go_one_by_one)
{
	unsigned refused = 0;
	bool at_once = false;
	int e, p;

	while (!at_once) {
		const struct shelf *shelf;

		start_on_world(0);
		e = pool(TMEM_EPHEMERAL);
		p = pool(TMEM_PERSISTENT);
		fill(cl, e, 1000);
		fill(cl, p, 100);
		shelf = shelf_now();
		world.calls = 0;
		world.at = refused + 1;
		ck_assert_int_eq(tmem_client_lend(cl, 0), 0);
		at_once = shelf_now() != shelf;
		ck_assert(at_once == (world.calls < world.at));
		ck_assert_uint_eq(told(cl).evicted[TMEM_EVICT_LENT], 1000);
		ck_assert_uint_eq(tmem_freeable(tm), 0);
		expect_none(cl, e, 1000);
		expect_all(cl, p, 100);
		refused += !at_once;
		stop_world();
	}
	ck_assert_uint_ge(refused, 7);
}
END_TEST

/* Locked memory cannot be released, only unmapped; by two threads here. */
START_TEST(what_is_not_released_is_unmapped)
{
	uint64_t used;
	int out;
	int e;

	start_on_world(0);
	e = pool(TMEM_EPHEMERAL);
	used = stats().used_bytes;
	for (uint32_t i = 0; i < (80 << 20) / PAGE_BYTES; i++)
		ck_assert_int_eq(tmem_put(cl, e, &oid, i, page(i, PAGE_BYTES)),
				 0);
	ops.release = release_refused;
	out = world.out;
	ck_assert_int_eq(tmem_client_lend(cl, 0), 0);
	ops.release = memory_real.release;
	ck_assert_uint_eq(stats().used_bytes, used);
	ck_assert_int_lt(world.out, out);
	stop_world();
}
END_TEST

/* ---- while it is under way ------------------------------------------------
 */

static pthread_t putter;
static int put_rc;
static int persistent_id, ephemeral_id;
static struct tmem_client *keeper;

static void *put_kept(void *arg)
{
	(void)arg;
	for (uint32_t i = 0; i < 500 && !put_rc; i++)
		put_rc = tmem_put(keeper, persistent_id, &oid, 100000 + i,
				  page(i, PAGE_BYTES));
	return NULL;
}

static void look(void)
{
	ck_assert_uint_eq(tmem_freeable(tm), 0);
	ck_assert_uint_eq(tmem_freeable_used(tm), 0);
	ck_assert_uint_eq(stats().pages_ephemeral, 0);
	ck_assert_uint_gt(stats().slack_bytes, 6 << 20);
	ck_assert_int_eq(tmem_check(tm), 0);
	expect_none(cl, ephemeral_id, 10);
	expect_nth(keeper, persistent_id, 5);
}

START_TEST(everything_holds_while_memory_goes_back)
{
	struct tmem_stats st;

	start_on_world(0);
	ck_assert_int_eq(tmem_client_create(tm, "keeper", &keeper), 0);
	ephemeral_id = pool(TMEM_EPHEMERAL);
	persistent_id = tmem_pool_create(keeper, TMEM_PERSISTENT, NULL);
	fill(keeper, persistent_id, 100);
	st = stats();
	for (uint32_t i = 0; i < (8 << 20) / PAGE_BYTES; i++)
		ck_assert_int_eq(tmem_put(cl, ephemeral_id, &oid, i,
					  page(i, PAGE_BYTES)),
				 0);
	world.unmapping = look;
	ck_assert_int_eq(tmem_client_lend(cl, 0), 0);
	ck_assert_ptr_null(world.unmapping);
	ck_assert_uint_le(stats().used_bytes, st.used_bytes);
	stop_world();
}
END_TEST

static void put_meanwhile(void)
{
	ck_assert_int_eq(pthread_create(&putter, NULL, put_kept, NULL), 0);
	usleep(50000);
}

/* The budget is full of what goes: a put must wait for it, not be refused. */
START_TEST(put_waits_for_what_goes)
{
	start_on_world(8 << 20);
	ck_assert_int_eq(tmem_client_create(tm, "keeper", &keeper), 0);
	ephemeral_id = pool(TMEM_EPHEMERAL);
	persistent_id = tmem_pool_create(keeper, TMEM_PERSISTENT, NULL);
	for (uint32_t i = 0; !stats().evictions; i++)
		ck_assert_int_eq(tmem_put(cl, ephemeral_id, &oid, i,
					  page(i, PAGE_BYTES)),
				 0);
	put_rc = 0;
	world.unmapping = put_meanwhile;
	ck_assert_int_eq(tmem_client_lend(cl, 0), 0);
	ck_assert_ptr_null(world.unmapping);
	pthread_join(putter, NULL);
	ck_assert_int_eq(put_rc, 0);
	ck_assert_uint_eq(stats().puts_failed, 0);
	ck_assert_uint_eq(stats().pages_persistent, 500);
	stop_world();
}
END_TEST

static _Atomic bool ended;

/* Pools come, fill and go, some while they are being taken. */
static void *pools_turn(void *arg)
{
	struct tmem_client *of = arg;
	unsigned char buf[PAGE_BYTES];
	int rc = 0;

	memset(buf, 7, sizeof(buf));
	for (unsigned turn = 0; turn < 60 && !rc; turn++) {
		int id = tmem_pool_create(
			of, turn % 3 == 1 ? TMEM_SHARED : TMEM_EPHEMERAL, uuid);

		for (uint32_t i = 0; i < 600 && !rc; i++) {
			memcpy(buf, &i, sizeof(i));
			rc = tmem_put(of, id, &oid, i * 9, buf);
		}
		rc = rc ? rc : tmem_pool_destroy(of, id);
	}
	ended = true;
	return rc ? of : NULL;
}

START_TEST(pools_end_while_they_are_taken)
{
	const struct shelf *shelf;
	struct tmem_client *other;
	pthread_t turner[2];
	unsigned takes = 0;
	void *wrong;

	start(0);
	ck_assert_int_eq(tmem_client_create(tm, "other", &other), 0);
	ck_assert_int_eq(tmem_client_auth(cl, uuid, true), 0);
	ck_assert_int_eq(tmem_client_auth(other, uuid, true), 0);
	(void)pool(TMEM_EPHEMERAL);
	ended = false;
	ck_assert_int_eq(pthread_create(&turner[0], NULL, pools_turn, cl), 0);
	ck_assert_int_eq(pthread_create(&turner[1], NULL, pools_turn, other),
			 0);
	while (!ended) {
		shelf = shelf_now();
		(void)tmem_flush(tm, UINT64_MAX);
		takes += shelf != shelf_now();
		(void)stats();
	}
	for (unsigned n = 0; n < 2; n++) {
		pthread_join(turner[n], &wrong);
		ck_assert_ptr_null(wrong);
	}
	ck_assert_uint_gt(takes, 0);
	ck_assert_uint_eq(stats().pages, 0);
	ck_assert_uint_eq(tmem_freeable(tm), 0);
	stop();
}
END_TEST

static void cases_add(Suite *suite)
{
	TCase *tc = tcase_create("take");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, all_that_is_lent_goes_and_nothing_else);
	tcase_add_test(tc, few_go_one_by_one);
	tcase_add_test(tc, part_of_them_goes_oldest_first);
	tcase_add_test(tc, pages_of_another_client_stay);
	tcase_add_test(tc, flush_takes_all_of_all_clients);
	tcase_add_test(tc, cap_that_kept_pages_fill_takes_all);
	tcase_add_test(tc, without_memory_they_go_one_by_one);
	tcase_add_test(tc, what_is_not_released_is_unmapped);
	tcase_add_test(tc, everything_holds_while_memory_goes_back);
	tcase_add_test(tc, put_waits_for_what_goes);
	tcase_add_test(tc, pools_end_while_they_are_taken);
	suite_add_tcase(suite, tc);
}

int main(void)
{
	Suite *suite = suite_create("tmem_take");

	cases_add(suite);
	return suite_run(suite);
}
