/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests that break the rules of the line, while another keeps to them beside
 * on the same store: whatever the first writes, wherever and whenever, the host
 * stays whole, the second loses nothing, and the first may begin again.
 *
 * Threads that play vandals are not instrumented: their races are the point.
 */
#include "tests/support/guest.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define VANDAL	 __attribute__((no_sanitize("thread", "address", "undefined")))
#define CAP	 ((uint64_t)1 << 20)
#define STORM_MS 700

static struct tmem *tm;
static struct guest bad, good;
static uint8_t *memory; /* the bad one's */
static size_t memory_bytes;
static int good_pool;
static pthread_t good_thread;
static atomic_bool good_stop;
static _Atomic uint64_t good_rounds;

/* No two seeds make the same page. */
static void page_make(uint64_t seed, unsigned char *buf)
{
	struct rng rng = {seed};

	memset(buf, (int)seed, PAGE_BYTES);
	rng_fill(&rng, buf, 512 + (size_t)rng_below(&rng, 3000));
}

static int good_call(enum line_op op, uint32_t i, void *buf)
{
	struct line_entry e = guest_entry(op, good_pool, i % 3, i);

	return guest_call(&good, i % 2, &e, buf);
}

/* Every page it put is there, whatever the other does. */
static void *good_run(void *arg)
{
	unsigned char buf[PAGE_BYTES], want[PAGE_BYTES];

	(void)arg;
	for (uint32_t n = 0; !good_stop; n++) {
		uint32_t i = n % 64;

		if (n >= 64) {
			page_make(n - 64, want);
			ck_assert_int_eq(good_call(LINE_OP_GET, i, buf), 0);
			ck_assert_mem_eq(buf, want, PAGE_BYTES);
		}
		page_make(n, buf);
		ck_assert_int_eq(good_call(LINE_OP_PUT, i, buf), 0);
		good_rounds++;
	}
	return NULL;
}

static void setup(void)
{
	struct line_config config = {.entries = LINE_ENTRIES_MIN, .queues = 2};

	ck_assert_int_eq(tmem_create(0, &tm), 0);
	config.tm = tm;
	config.name = "good";
	guest_open(&good, &config);
	guest_begin(&good);
	good_pool = guest_pool(&good, LINE_POOL_PERSISTENT);
	config.name = "bad";
	config.cap_bytes = CAP;
	guest_open(&bad, &config);
	memory = line_memory(bad.line, &memory_bytes);
	memory_bytes = line_bytes(2, LINE_ENTRIES_MIN);
	guest_begin(&bad);
	ck_assert_int_eq(pthread_create(&good_thread, NULL, good_run, NULL), 0);
}

/* It begins again, and what it puts is there. */
static void bad_reforms(void)
{
	unsigned char buf[PAGE_BYTES], want[PAGE_BYTES];
	int pool;

	guest_begin(&bad);
	ck_assert_int_eq(line_phase(bad.line), LINE_SERVED);
	pool = guest_pool(&bad, LINE_POOL_PERSISTENT);
	ck_assert_int_eq(pool, 0);
	ck_assert_int_eq(guest_get(&bad, pool, 1, 1, buf), LINE_ENOENT);
	page_make(99, want);
	ck_assert_int_eq(guest_put(&bad, pool, 1, 1, want), 0);
	ck_assert_int_eq(guest_get(&bad, pool, 1, 1, buf), 0);
	ck_assert_mem_eq(buf, want, PAGE_BYTES);
}

static void teardown(void)
{
	bad_reforms();
	ck_assert_int_eq(tmem_check(tm), 0);
	while (!good_rounds)
		sched_yield();
	good_stop = true;
	pthread_join(good_thread, NULL);
	ck_assert_int_eq(line_phase(good.line), LINE_SERVED);
	guest_close(&bad);
	guest_close(&good);
	ck_assert_int_eq(tmem_check(tm), 0);
	tmem_destroy(tm);
}

static struct line_queue *bad_queue(unsigned n)
{
	return (struct line_queue *)(void *)(memory +
					     line_queue_at(LINE_ENTRIES_MIN,
							   n));
}

static struct line_counts bad_counts(void)
{
	struct line_counts c;

	line_counts(bad.line, &c);
	return c;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void await_phase(enum line_phase phase)
{
	uint64_t until = now_ms() + 20000;

	while (line_phase(bad.line) != phase) {
		ck_assert_uint_lt(now_ms(), until);
		poll(NULL, 0, 1);
	}
}

/* ---- indexes --------------------------------------------------------- */

START_TEST(impossible_tail_ends_the_guest)
{
	static const uint32_t tails[] = {LINE_ENTRIES_MIN + 1, UINT32_MAX,
					 0x80000000, 0x7fffffff,
					 2 * LINE_ENTRIES_MIN};

	for (size_t i = 0; i < ARRAY_LEN(tails); i++)
		for (unsigned q = 0; q < 2; q++) {
			uint32_t epoch = bad.view.epoch;

			ck_assert_int_eq(guest_pool(&bad, 0), 0);
			guest_put(&bad, 0, 1, 1, memory);
			__atomic_store_n(&bad_queue(q)->tail,
					 bad.queue[q].tx.tail + tails[i],
					 __ATOMIC_SEQ_CST);
			line_ring(bad.line, LINE_VECTOR_QUEUE + q);
			await_phase(LINE_REFUSED);
			ck_assert_int_eq(line_view_alive(&bad.view), LINE_EIO);
			/* Ringing again with the old epoch mends nothing. */
			line_ring(bad.line, LINE_VECTOR_CONTROL);
			line_ring(bad.line, LINE_VECTOR_QUEUE + q);
			poll(NULL, 0, 2);
			ck_assert_int_eq(line_phase(bad.line), LINE_REFUSED);
			guest_begin(&bad);
			ck_assert_uint_ne(bad.view.epoch, epoch);
		}
	ck_assert_uint_eq(bad_counts().breaks, 2 * ARRAY_LEN(tails));
}
END_TEST

static void break_once(void)
{
	__atomic_store_n(&bad_queue(0)->tail, 1u << 31, __ATOMIC_SEQ_CST);
	line_ring(bad.line, LINE_VECTOR_QUEUE);
	await_phase(LINE_REFUSED);
	guest_begin(&bad);
}

START_TEST(breaks_do_not_fill_the_log)
{
	char text[4096];
	int fd = memfd_create("log", 0), err = dup(STDERR_FILENO);
	unsigned lines = 0;
	ssize_t n;

	dup2(fd, STDERR_FILENO);
	for (unsigned i = 0; i < 50; i++)
		break_once();
	dup2(err, STDERR_FILENO);
	n = pread(fd, text, sizeof(text), 0);
	for (ssize_t i = 0; i < n; i++)
		lines += text[i] == '\n';
	ck_assert_uint_eq(lines, 1);
	ck_assert_uint_eq(bad_counts().breaks, 50);
	close(fd);
	close(err);
}
END_TEST

/* The largest tail the rules allow, over entries nobody filled: all zero. */
START_TEST(fullest_queue_is_served)
{
	struct line_queue *q = bad_queue(0);
	uint64_t until = now_ms() + 20000;

	__atomic_store_n(&q->tail, LINE_ENTRIES_MIN, __ATOMIC_SEQ_CST);
	line_ring(bad.line, LINE_VECTOR_QUEUE);
	while (__atomic_load_n(&q->head, __ATOMIC_ACQUIRE) !=
	       LINE_ENTRIES_MIN) {
		ck_assert_uint_lt(now_ms(), until);
		poll(NULL, 0, 1);
	}
	ck_assert_uint_eq(bad_counts().breaks, 0);
	ck_assert_uint_eq(bad_counts().rejects, 0);
}
END_TEST

/* The words the host writes are not what it goes by. */
START_TEST(words_of_the_host_are_not_believed)
{
	struct rng rng;
	struct line_entry e;
	unsigned char buf[PAGE_BYTES];

	rng_start(&rng, "words_of_the_host_are_not_believed");
	ck_assert_int_eq(guest_pool(&bad, LINE_POOL_PERSISTENT), 0);
	memset(memory, 0xff, LINE_PAGE_BYTES);
	for (uint32_t n = 0; n < 200; n++) {
		uint32_t position, saw = bad.queue[0].tx.tail;
		uint64_t until = now_ms() + 20000;

		__atomic_store_n(&bad_queue(0)->head, (uint32_t)rng_next(&rng),
				 __ATOMIC_SEQ_CST);
		__atomic_store_n(&bad_queue(0)->sleeping,
				 (uint32_t)rng_next(&rng), __ATOMIC_SEQ_CST);
		__atomic_store_n(&bad_queue(0)->wake_at,
				 (uint32_t)rng_next(&rng), __ATOMIC_SEQ_CST);
		e = guest_entry(LINE_OP_PUT, 0, 0, n);
		e.result = (int32_t)rng_next(&rng);
		page_make(n, buf);
		/* mini would see the head: play it here. */
		bad.queue[0].tx.head = saw;
		bad.queue[0].tx.broken = false;
		ck_assert_int_eq(line_tx_post(&bad.queue[0].tx, &e, buf, false,
					      &position),
				 0);
		line_tx_publish(&bad.queue[0].tx);
		line_ring(bad.line, LINE_VECTOR_QUEUE);
		while (__atomic_load_n(&bad_queue(0)->head, __ATOMIC_ACQUIRE) !=
		       position + 1) {
			ck_assert_uint_lt(now_ms(), until);
			sched_yield();
		}
		ck_assert_int_eq(line_tx_result(&bad.queue[0].tx, position), 0);
	}
	ck_assert_uint_eq(bad_counts().puts, 200);
	ck_assert_uint_eq(bad_counts().breaks, 0);
}
END_TEST

/* ---- what is put and got --------------------------------------------- */

START_TEST(storm_beyond_the_cap_is_refused)
{
	static bool stored[4096];
	unsigned char buf[PAGE_BYTES], want[PAGE_BYTES];
	struct tmem_stats before, after;
	uint64_t refused = 0, kept = 0;
	int rc, pool = guest_pool(&bad, LINE_POOL_PERSISTENT);

	tmem_stats(tm, &before);
	for (uint32_t i = 0; i < ARRAY_LEN(stored); i++) {
		page_make(i, buf);
		rc = guest_put(&bad, pool, i % 5, i, buf);
		ck_assert(rc == 0 || rc == LINE_ENOMEM);
		stored[i] = rc == 0;
		refused += rc != 0;
	}
	tmem_stats(tm, &after);
	ck_assert_uint_gt(refused, 1000);
	ck_assert_uint_eq(bad_counts().puts_refused, refused);
	/* The good guest's 64 pages come and go meanwhile. */
	ck_assert_uint_lt(after.stored_bytes,
			  before.stored_bytes + CAP + 128 * PAGE_BYTES);
	for (uint32_t i = 0; i < ARRAY_LEN(stored); i++) {
		rc = guest_get(&bad, pool, i % 5, i, buf);
		ck_assert_int_eq(rc, stored[i] ? 0 : LINE_ENOENT);
		page_make(i, want);
		if (stored[i])
			ck_assert_mem_eq(buf, want, PAGE_BYTES);
		kept += stored[i];
	}
	ck_assert_uint_gt(kept, 100);
}
END_TEST

struct flipper {
	pthread_t thread;
	uint64_t *at;
	size_t words;
	uint64_t value[2];
	atomic_bool on, off_seen, stop;
};

/* Word by word the one or the other, for as long as it is on. */
VANDAL static void *flip(void *arg)
{
	struct flipper *f = arg;

	for (unsigned n = 0; !f->stop; n++) {
		if (!f->on) {
			f->off_seen = true;
			sched_yield();
			continue;
		}
		for (size_t i = 0; i < f->words; i++)
			((volatile uint64_t *)f->at)[i] =
				f->value[(n + i * n / 7) & 1];
	}
	f->off_seen = true;
	return NULL;
}

static void flip_off(struct flipper *f)
{
	f->on = false;
	f->off_seen = false;
	while (!f->off_seen)
		sched_yield();
}

static void flipper_start(struct flipper *f)
{
	ck_assert_int_eq(pthread_create(&f->thread, NULL, flip, f), 0);
}

static void flipper_end(struct flipper *f)
{
	f->stop = true;
	pthread_join(f->thread, NULL);
}

static int words_of(const struct flipper *f, const void *page)
{
	const uint64_t *word = page;

	for (size_t i = 0; i < PAGE_BYTES / sizeof(*word); i++)
		if (word[i] != f->value[0] && word[i] != f->value[1])
			return 0;
	return 1;
}

/* Copied once: what comes back is what the slot held, and always the same. */
START_TEST(slot_changing_under_a_put_is_copied_once)
{
	static _Alignas(8) unsigned char got[PAGE_BYTES], again[PAGE_BYTES];
	struct flipper f = {
		.words = PAGE_BYTES / 8,
		.value = {0x0123456789abcdefull, 0xfedcba9876543210ull}};
	int pool = guest_pool(&bad, LINE_POOL_PERSISTENT);
	unsigned mixed = 0;

	/* Each put is steered into the entry whose slot changes. */
	f.at = line_tx_slot(&bad.queue[0].tx, 1);
	flipper_start(&f);
	for (uint32_t n = 0; n < 1000; n++) {
		uint64_t fill[PAGE_BYTES / 8];

		for (size_t i = 0; i < ARRAY_LEN(fill); i++)
			fill[i] = f.value[0];
		while (bad.queue[0].tx.tail % LINE_ENTRIES_MIN != 1) {
			struct line_entry nop =
				guest_entry(LINE_OP_NOP, 0, 0, 0);

			ck_assert_int_eq(guest_call(&bad, 0, &nop, NULL), 0);
		}
		f.on = true;
		ck_assert_int_eq(guest_put(&bad, pool, 1, n, fill), 0);
		flip_off(&f);
		ck_assert_int_eq(guest_get(&bad, pool, 1, n, got), 0);
		ck_assert_int_eq(guest_get(&bad, pool, 1, n, again), 0);
		ck_assert_mem_eq(got, again, PAGE_BYTES);
		ck_assert(words_of(&f, got));
		mixed += memcmp(got, got + 8, PAGE_BYTES - 8) != 0;
	}
	flipper_end(&f);
	printf("%u of 1000 pages changed under way\n", mixed);
}
END_TEST

/* The host writes a page that the guest writes: only the guest's is spoilt. */
START_TEST(slot_changing_under_a_get_spoils_only_itself)
{
	static _Alignas(8) unsigned char got[PAGE_BYTES], want[PAGE_BYTES];
	struct flipper f = {.words = PAGE_BYTES / 8 * LINE_ENTRIES_MIN,
			    .value = {0, UINT64_MAX}};
	int pool = guest_pool(&bad, LINE_POOL_PERSISTENT);

	for (uint32_t i = 0; i < 64; i++) {
		page_make(i, got);
		ck_assert_int_eq(guest_put(&bad, pool, 1, i, got), 0);
	}
	f.at = line_tx_slot(&bad.queue[0].tx, 0);
	f.on = true;
	flipper_start(&f);
	for (uint32_t n = 0; n < 4000; n++) {
		struct line_entry e = guest_entry(LINE_OP_GET, pool, 1, n % 64);

		/* Its answer is not looked at, and not its page. */
		ck_assert_int_eq(guest_post(&bad, 0, &e, NULL), 0);
	}
	ck_assert_int_eq(guest_drain(&bad, 0), 0);
	flipper_end(&f);
	for (uint32_t i = 0; i < 64; i++) {
		page_make(i, want);
		ck_assert_int_eq(guest_get(&bad, pool, 1, i, got), 0);
		ck_assert_mem_eq(got, want, PAGE_BYTES);
	}
}
END_TEST

/* An entry fetched twice would be one request checked and another done. */
START_TEST(entry_changing_under_way_is_one_or_the_other)
{
	struct line_entry *entry = bad.queue[0].tx.entries;
	struct flipper f = {.at = (uint64_t *)(void *)entry, .words = 1};
	struct line_entry nop = guest_entry(LINE_OP_NOP, 0, 0, 0);
	uint64_t until = now_ms() + 40000;
	int32_t result;

	/* op, reserved and pool share a word: a put to 0, a get from -1. */
	f.value[0] = LINE_OP_PUT;
	f.value[1] = LINE_OP_GET | (uint64_t)UINT32_MAX << 32;
	ck_assert_int_eq(guest_pool(&bad, LINE_POOL_PERSISTENT), 0);
	f.on = true;
	flipper_start(&f);
	do {
		for (unsigned n = 0; n < LINE_ENTRIES_MIN; n++)
			ck_assert_int_eq(guest_post(&bad, 0, &nop, NULL), 0);
		ck_assert_int_eq(guest_drain(&bad, 0), 0);
		ck_assert_uint_lt(now_ms(), until);
	} while (bad_counts().puts < 100 || bad_counts().gets < 100);
	flipper_end(&f);
	ck_assert_int_eq(guest_drain(&bad, 0), 0);
	result = line_tx_result(&bad.queue[0].tx, 0);
	ck_assert(result == 0 || result == LINE_ENOENT);
	ck_assert_uint_eq(bad_counts().puts_refused, 0); /* a put to -1 */
	ck_assert_uint_eq(bad_counts().rejects, 0);
	ck_assert_uint_eq(bad_counts().breaks, 0);
}
END_TEST

/* ---- storms ---------------------------------------------------------- */

static atomic_bool storm_stop;

/* Anything anywhere; half of it where it tells. */
VANDAL static void scribble(struct rng *rng)
{
	uint64_t value = rng_next(rng);
	uint64_t at = rng_below(rng, memory_bytes) & ~(uint64_t)7;
	unsigned q = (unsigned)(value >> 60) & 1;
	volatile struct line_entry *e;

	if (value % 4 == 0)
		*(volatile uint64_t *)(void *)(memory + at) = value;
	else if (value % 4 == 1)
		memory[at] = (uint8_t)(value >> 8);
	else if (value % 4 == 2)
		*(volatile uint32_t *)&bad_queue(q)->tail += 1 + value % 9;
	else {
		e = (volatile void *)((uint8_t *)bad_queue(q) +
				      line_entry_at((value >> 8) % 64));
		e->op = (value >> 16) % 9;
		e->pool = (int)(value >> 20) % 18 - 1;
		e->index = (uint32_t)(value >> 24);
		e->count = (uint32_t)(value >> 32);
	}
}

static void *storm(void *arg)
{
	struct rng rng = {(uint64_t)(uintptr_t)arg};

	while (!storm_stop) {
		for (unsigned n = 0; n < 32; n++)
			scribble(&rng);
		line_ring(bad.line, (unsigned)rng_below(&rng, 4));
	}
	return NULL;
}

START_TEST(random_bytes_everywhere_harm_nobody)
{
	struct rng rng;
	pthread_t thread[2];
	struct line_stats seen;
	uint64_t rounds;

	rng_start(&rng, "random_bytes_everywhere_harm_nobody");
	for (unsigned round = 0; round < 3; round++) {
		uint64_t until = now_ms() + STORM_MS;

		storm_stop = false;
		rounds = good_rounds;
		for (unsigned n = 0; n < 2; n++)
			pthread_create(&thread[n], NULL, storm,
				       (void *)(uintptr_t)rng_next(&rng));
		while (now_ms() < until) {
			line_guest_stats(bad.line, &seen);
			line_settings_set(bad.line, &(struct line_settings){0});
			if (rng_below(&rng, 20) == 0)
				line_hang_up(bad.line);
			poll(NULL, 0, 1);
		}
		storm_stop = true;
		for (unsigned n = 0; n < 2; n++)
			pthread_join(thread[n], NULL);
		bad_reforms();
		ck_assert_int_eq(tmem_check(tm), 0);
		while (good_rounds == rounds)
			sched_yield();
	}
	printf("%llu requests done, %llu breaks, %llu beginnings\n",
	       (unsigned long long)bad_counts().requests,
	       (unsigned long long)bad_counts().breaks,
	       (unsigned long long)bad_counts().begins);
	ck_assert_uint_gt(bad_counts().breaks, 0);
	ck_assert_uint_gt(bad_counts().requests, 1000);
}
END_TEST

/* A driver that begins again and again while its queues are full. */
START_TEST(epoch_storm_leaves_the_last)
{
	uint64_t until = now_ms() + STORM_MS;
	struct line_guest *page = (void *)(memory + LINE_PAGE_BYTES);
	uint32_t epoch = 1;

	while (now_ms() < until) {
		for (unsigned q = 0; q < 2; q++) {
			__atomic_fetch_add(&bad_queue(q)->tail, 40,
					   __ATOMIC_SEQ_CST);
			line_ring(bad.line, LINE_VECTOR_QUEUE + q);
		}
		__atomic_store_n(&page->epoch, epoch++ % 5, __ATOMIC_SEQ_CST);
		line_ring(bad.line, LINE_VECTOR_CONTROL);
	}
	ck_assert_uint_gt(epoch, 100);
}
END_TEST

static void cases_add(Suite *suite)
{
	TCase *tc = tcase_create("line_faults");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, impossible_tail_ends_the_guest);
	tcase_add_test(tc, breaks_do_not_fill_the_log);
	tcase_add_test(tc, fullest_queue_is_served);
	tcase_add_test(tc, words_of_the_host_are_not_believed);
	tcase_add_test(tc, storm_beyond_the_cap_is_refused);
	tcase_add_test(tc, slot_changing_under_a_put_is_copied_once);
	tcase_add_test(tc, slot_changing_under_a_get_spoils_only_itself);
	tcase_add_test(tc, entry_changing_under_way_is_one_or_the_other);
	tcase_add_test(tc, random_bytes_everywhere_harm_nobody);
	tcase_add_test(tc, epoch_storm_leaves_the_last);
	suite_add_tcase(suite, tc);
}

int main(void)
{
	Suite *suite = suite_create("line_faults");

	cases_add(suite);
	return suite_run(suite);
}
