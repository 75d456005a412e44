/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's core of the line (guest-drivers/mini) without a host: memory as a
 * host might leave it, right and wrong, and a queue driven step by step from
 * any index on, by a host of four lines. With a real host: test_line.c.
 */
#include "guest-drivers/mini/line.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ENTRIES LINE_ENTRIES_MIN
#define BYTES	((size_t)line_bytes(LINE_QUEUES_MAX, LINE_ENTRIES_MAX))

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STEPS 80000
#else
#define STEPS 400000
#endif

static unsigned char *memory;
static struct line_host *host;
static struct line_guest *guest;
static struct line_view view;
static struct line_tx tx;
static line_u8 kept[LINE_ENTRIES_MAX];

static void memory_make(line_u32 queues, line_u32 entries)
{
	memset(memory, 0, (size_t)line_bytes(queues, entries));
	host->magic = LINE_MAGIC;
	host->version = LINE_VERSION;
	host->bytes = (line_u32)line_bytes(queues, entries);
	host->queues = queues;
	host->entries = entries;
	host->host_peer = 7;
	host->features = LINE_FEATURE_FLUSH_RANGE | LINE_FEATURE_STATS;
	host->state = LINE_READY;
}

static void setup(void)
{
	memory = aligned_alloc(LINE_PAGE_BYTES, BYTES);
	ck_assert_ptr_nonnull(memory);
	host = (struct line_host *)(void *)memory;
	guest = (struct line_guest *)(void *)(memory + LINE_PAGE_BYTES);
	memory_make(1, ENTRIES);
}

static void teardown(void)
{
	free(memory);
}

/* ---- the view -------------------------------------------------------- */

START_TEST(view_takes_what_the_abi_allows)
{
	for (line_u32 q = 1; q <= LINE_QUEUES_MAX; q += 5)
		for (line_u32 e = LINE_ENTRIES_MIN; e <= LINE_ENTRIES_MAX;
		     e *= 2) {
			memory_make(q, e);
			ck_assert_int_eq(
				line_view_init(&view, memory, host->bytes), 0);
			ck_assert_uint_eq(view.queues, q);
			ck_assert_uint_eq(view.entries, e);
			ck_assert_uint_eq(view.host_peer, 7);
		}
}
END_TEST

static void refuses(const char *what, line_u64 bytes)
{
	ck_assert_msg(line_view_init(&view, memory, bytes) == LINE_EPROTO,
		      "took a line of wrong %s", what);
	memory_make(1, ENTRIES);
}

START_TEST(view_refuses_what_is_no_line)
{
	static const line_u32 queues[] = {0, LINE_QUEUES_MAX + 1, 0x80000000,
					  UINT32_MAX};
	static const line_u32 entries[] = {0,	 1,    32,	   63,
					   65,	 96,   2048,	   1u << 31,
					   1023, 1025, UINT32_MAX, 0x10000};
	line_u64 bytes = line_bytes(1, ENTRIES);

	host->magic ^= (line_u64)1 << 63;
	refuses("magic", bytes);
	host->version++;
	refuses("version", bytes);
	for (size_t i = 0; i < sizeof(queues) / sizeof(*queues); i++) {
		host->queues = queues[i];
		refuses("queues", BYTES);
	}
	for (size_t i = 0; i < sizeof(entries) / sizeof(*entries); i++) {
		host->entries = entries[i];
		host->bytes = UINT32_MAX;
		refuses("entries", (line_u64)1 << 40);
	}
	host->bytes--;
	refuses("bytes, too few", bytes);
	host->bytes++;
	refuses("bytes, past the memory", bytes);
	refuses("memory, too small", bytes - 1);
	refuses("memory, one page", LINE_PAGE_BYTES);
	refuses("memory, none", 0);
	ck_assert_int_eq(line_view_init(&view, memory + 64, bytes),
			 LINE_EINVAL);
	ck_assert_int_eq(line_view_init(&view, NULL, bytes), LINE_EINVAL);
	ck_assert_int_eq(line_view_init(&view, memory, bytes), 0);
}
END_TEST

/* What is in force is fetched once: the host may not move it afterwards. */
START_TEST(view_stays_as_it_was_checked)
{
	ck_assert_int_eq(line_view_init(&view, memory, host->bytes), 0);
	host->queues = 1000;
	host->entries = UINT32_MAX;
	ck_assert_int_eq(line_tx_init(&tx, &view, 1, kept), LINE_EINVAL);
	ck_assert_int_eq(line_tx_init(&tx, &view, 0, kept), 0);
	ck_assert_uint_eq(tx.mask, ENTRIES - 1);
}
END_TEST

START_TEST(epoch_is_never_one_used_last)
{
	ck_assert_int_eq(line_view_init(&view, memory, host->bytes), 0);
	ck_assert_int_eq(line_view_alive(&view), LINE_EIO);
	for (line_u32 theirs = UINT32_MAX - 2; theirs != 3; theirs++) {
		for (line_u32 last = UINT32_MAX - 2; last != 3; last++) {
			host->epoch = theirs;
			guest->epoch = last;
			line_view_begin(&view, UINT32_MAX - 1, 3);
			ck_assert_uint_ne(view.epoch, 0);
			ck_assert_uint_ne(view.epoch, theirs);
			ck_assert_uint_ne(view.epoch, last);
			ck_assert_uint_eq(guest->epoch, view.epoch);
			ck_assert_int_eq(line_view_begun(&view), LINE_EAGAIN);
		}
	}
	host->epoch = view.epoch;
	ck_assert_int_eq(line_view_begun(&view), 0);
	ck_assert_int_eq(line_view_alive(&view), 0);
	host->state = LINE_BROKEN;
	ck_assert_int_eq(line_view_begun(&view), LINE_EIO);
	ck_assert_int_eq(line_view_alive(&view), LINE_EIO);
	host->state = LINE_CLOSED;
	ck_assert_int_eq(line_view_alive(&view), LINE_EIO);
}
END_TEST

START_TEST(features_are_those_of_both)
{
	ck_assert_int_eq(line_view_init(&view, memory, host->bytes), 0);
	line_view_begin(&view, 1, LINE_FEATURE_STATS | LINE_FEATURE_BALLOON);
	ck_assert_uint_eq(guest->features,
			  LINE_FEATURE_STATS | LINE_FEATURE_BALLOON);
	ck_assert_uint_eq(view.features, LINE_FEATURE_STATS);
}
END_TEST

START_TEST(wishes_and_counters_cross)
{
	struct line_wishes wishes;
	struct line_stats stats;

	ck_assert_int_eq(line_view_init(&view, memory, host->bytes), 0);
	host->settings = 5;
	host->swap_priority = -3;
	host->swap_pages = 1 << 20;
	host->balloon_pages = 77;
	host->ephemeral = 1;
	line_view_wishes(&view, &wishes);
	ck_assert_uint_eq(wishes.count, 5);
	ck_assert_int_eq(wishes.swap_priority, -3);
	ck_assert_uint_eq(wishes.swap_pages, 1 << 20);
	ck_assert_uint_eq(wishes.balloon_pages, 77);
	ck_assert(wishes.ephemeral);
	memset(&stats, 0, sizeof(stats));
	stats.swap_writes = 11;
	stats.reserved[18] = 12;
	line_view_stats(&view, &stats);
	ck_assert_mem_eq(&guest->stats, &stats, sizeof(stats));
}
END_TEST

/* ---- the queue ------------------------------------------------------- */

static const struct line_entry nop = {.op = LINE_OP_NOP};

/* A queue that has done 2^32 * n + at requests. */
static void tx_start(line_u32 at)
{
	struct line_queue *q;

	memory_make(1, ENTRIES);
	ck_assert_int_eq(line_view_init(&view, memory, host->bytes), 0);
	q = (struct line_queue *)(void *)(memory + line_queue_at(ENTRIES, 0));
	q->head = q->tail = at;
	ck_assert_int_eq(line_tx_init(&tx, &view, 0, kept), 0);
}

static void must_post(const struct line_entry *e, const void *page, bool keep,
		      line_u32 *position)
{
	ck_assert_int_eq(line_tx_post(&tx, e, page, keep, position), 0);
}

START_TEST(full_queue_refuses_until_the_host_moves)
{
	line_u32 at = (line_u32)_i, position;

	tx_start(at);
	for (line_u32 n = 0; n < ENTRIES; n++)
		must_post(&nop, NULL, false, NULL);
	ck_assert_int_eq(line_tx_post(&tx, &nop, NULL, false, NULL),
			 LINE_EAGAIN);
	ck_assert_uint_eq(tx.queue->tail, at);
	ck_assert(!line_tx_publish(&tx));
	ck_assert(!line_tx_publish(&tx));
	ck_assert_uint_eq(tx.queue->tail, at + ENTRIES);
	ck_assert_int_eq(line_tx_drained(&tx), 0);
	tx.queue->head = at + 1;
	must_post(&nop, NULL, false, &position);
	ck_assert_uint_eq(position, at + ENTRIES);
	ck_assert_int_eq(line_tx_post(&tx, &nop, NULL, false, NULL),
			 LINE_EAGAIN);
	tx.queue->sleeping = 1;
	ck_assert(line_tx_publish(&tx));
	tx.queue->head = at + ENTRIES + 1;
	ck_assert_int_eq(line_tx_drained(&tx), 1);
}
END_TEST

START_TEST(kept_entry_stays_until_released)
{
	line_u32 at = (line_u32)_i, first, position;
	unsigned char page[LINE_PAGE_BYTES];

	tx_start(at);
	memset(page, 0x5a, sizeof(page));
	must_post(&nop, page, true, &first);
	line_tx_publish(&tx);
	ck_assert_int_eq(line_tx_done(&tx, first), 0);
	ck_assert_int_eq(line_tx_result(&tx, first), LINE_EIO);
	tx.queue->head = at + 1;
	ck_assert_int_eq(line_tx_done(&tx, first), 1);
	for (line_u32 n = 1; n < ENTRIES; n++)
		must_post(&nop, NULL, false, &position);
	line_tx_publish(&tx);
	tx.queue->head = at + ENTRIES;
	ck_assert_int_eq(line_tx_post(&tx, &nop, NULL, false, NULL),
			 LINE_EBUSY);
	ck_assert_int_eq(line_tx_done(&tx, first), 1);
	ck_assert_mem_eq(line_tx_slot(&tx, first), page, sizeof(page));
	line_tx_release(&tx, first);
	must_post(&nop, NULL, false, &position);
	ck_assert_uint_eq(position, at + ENTRIES);
}
END_TEST

/* Each head outside of [last seen, published] ends the queue for good. */
START_TEST(impossible_head_breaks_the_queue)
{
	/* From where it began; seen: 2, published: 3. */
	static const line_u32 wrong[] = {
		0, 1, 4, ENTRIES + 2, 0x7fffffff, 0x80000000, UINT32_MAX};
	line_u32 at = (line_u32)_i;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		tx_start(at);
		for (line_u32 n = 0; n < 3; n++)
			must_post(&nop, NULL, false, NULL);
		line_tx_publish(&tx);
		tx.queue->head = at + 2;
		ck_assert_int_eq(line_tx_drained(&tx), 0);
		tx.queue->head = at + wrong[i];
		ck_assert_int_eq(line_tx_drained(&tx), LINE_EIO);
		tx.queue->head = at + 3;
		ck_assert_int_eq(line_tx_drained(&tx), LINE_EIO);
		ck_assert_int_eq(line_tx_post(&tx, &nop, NULL, false, NULL),
				 LINE_EIO);
	}
}
END_TEST

START_TEST(head_far_away_is_no_answer)
{
	line_u32 at = (line_u32)_i, position;

	tx_start(at);
	must_post(&nop, NULL, true, &position);
	line_tx_publish(&tx);
	for (line_u32 n = 1; n <= ENTRIES; n++) {
		tx.queue->head = at + n;
		ck_assert_int_eq(line_tx_done(&tx, position), 1);
		tx.queue->head = at - n + 1;
		ck_assert_int_eq(line_tx_done(&tx, position), 0);
	}
	tx.queue->head = at + ENTRIES + 1;
	ck_assert_int_eq(line_tx_done(&tx, position), LINE_EIO);
	tx.queue->head = at - ENTRIES;
	ck_assert_int_eq(line_tx_done(&tx, position), LINE_EIO);
	ck_assert_int_eq(line_tx_arm_among(&tx, position), LINE_SLEEP_NOT);
}
END_TEST

START_TEST(disorder_left_by_the_host_is_seen)
{
	tx_start(9);
	tx.queue->tail = 10;
	ck_assert_int_eq(line_tx_init(&tx, &view, 0, kept), LINE_EIO);
	ck_assert_int_eq(line_tx_post(&tx, &nop, NULL, false, NULL), LINE_EIO);
}
END_TEST

/* The word the host compares: the earliest that anybody sleeps for. */
START_TEST(sleepers_are_woken_for_the_earliest)
{
	line_u32 at = (line_u32)_i, p[4];

	tx_start(at);
	for (line_u32 n = 0; n < 4; n++)
		must_post(&nop, NULL, true, &p[n]);
	line_tx_publish(&tx);
	ck_assert_int_eq(line_tx_arm_among(&tx, p[2]), LINE_SLEEP_ARMED);
	ck_assert_uint_eq(tx.queue->wake_at, at + 3);
	ck_assert_int_eq(line_tx_arm_among(&tx, p[3]), LINE_SLEEP_ARMED);
	ck_assert_uint_eq(tx.queue->wake_at, at + 3);
	ck_assert_int_eq(line_tx_arm_among(&tx, p[1]), LINE_SLEEP_ARMED);
	ck_assert_uint_eq(tx.queue->wake_at, at + 2);
	tx.queue->head = at + 2;
	ck_assert_int_eq(line_tx_arm_among(&tx, p[0]), LINE_SLEEP_NOT);
	/* Who waits for p[1] has yet to run: it must be woken. */
	ck_assert_int_eq(line_tx_arm_among(&tx, p[3]), LINE_SLEEP_OTHERS);
	ck_assert_int_eq(line_tx_arm_among(&tx, p[3]), LINE_SLEEP_ARMED);
	ck_assert_uint_eq(tx.queue->wake_at, at + 4);
	ck_assert_uint_eq(line_tx_half(&tx), at + 4 - ENTRIES / 2 - 1);
	ck_assert_int_eq(line_tx_arm_among(&tx, line_tx_half(&tx)),
			 LINE_SLEEP_NOT);
}
END_TEST

START_TEST(one_sleeper_takes_back_what_it_asked)
{
	line_u32 at = (line_u32)_i, p[2];

	tx_start(at);
	must_post(&nop, NULL, true, &p[0]);
	must_post(&nop, NULL, true, &p[1]);
	line_tx_publish(&tx);
	ck_assert(line_tx_arm(&tx, p[1]));
	ck_assert(line_tx_arm(&tx, p[0]));
	ck_assert_uint_eq(tx.queue->wake_at, at + 1);
	tx.queue->head = at + 1;
	ck_assert(!line_tx_arm(&tx, p[0]));
	ck_assert(line_tx_arm(&tx, p[1]));
	ck_assert_uint_eq(tx.queue->wake_at, at + 2);
	tx.queue->head = at + 99;
	ck_assert(!line_tx_arm(&tx, p[1]));
}
END_TEST

/* ---- the queue against a model --------------------------------------- */

struct model {
	line_u32 head, tail, published; /* counted from the start */
	bool keeps[ENTRIES];
	line_u64 cookie[ENTRIES];
};

static void model_post(struct model *m, struct rng *rng, line_u32 at)
{
	unsigned char page[LINE_PAGE_BYTES];
	struct line_entry e = nop;
	line_u32 i = (at + m->tail) % ENTRIES, position = 0;
	int want = m->tail - m->head >= ENTRIES ? LINE_EAGAIN
		   : m->keeps[i]		? LINE_EBUSY
						: 0;
	bool keep = rng_below(rng, 2);
	int rc;

	e.cookie = rng_next(rng);
	memset(page, (int)(e.cookie & 0xff), sizeof(page));
	rc = line_tx_post(&tx, &e, page, keep, &position);
	ck_assert_int_eq(rc, want);
	if (rc)
		return;
	ck_assert_uint_eq(position, at + m->tail);
	m->keeps[i] = keep;
	m->cookie[i] = e.cookie;
	m->tail++;
}

/* Takes what is published, as a host does: never more, never less. */
static void model_serve(struct model *m, struct rng *rng, line_u32 at)
{
	line_u32 n, i;

	ck_assert_uint_eq(tx.queue->tail, at + m->published);
	n = (line_u32)rng_below(rng, m->published - m->head + 1);
	while (n--) {
		i = (at + m->head) % ENTRIES;
		ck_assert_uint_eq(tx.entries[i].cookie, m->cookie[i]);
		ck_assert_int_eq(tx.slots[(size_t)i * LINE_PAGE_BYTES + n % 64],
				 (int)(m->cookie[i] & 0xff));
		tx.entries[i].result = (line_s32)m->cookie[i];
		m->head++;
	}
	tx.queue->head = at + m->head;
}

/* One position that may still be spoken of. */
static void model_answer(struct model *m, struct rng *rng, line_u32 at)
{
	line_u32 back = 1 + (line_u32)rng_below(rng, ENTRIES);
	line_u32 n = m->tail - back, i = (at + n) % ENTRIES;

	if (back > m->tail || n >= m->published || !m->keeps[i])
		return;
	ck_assert_int_eq(line_tx_done(&tx, at + n), n < m->head);
	if (n >= m->head)
		return;
	ck_assert_int_eq(line_tx_result(&tx, at + n), (line_s32)m->cookie[i]);
	line_tx_release(&tx, at + n);
	m->keeps[i] = false;
}

static void model_step(struct model *m, struct rng *rng, line_u32 at)
{
	switch (rng_below(rng, 8)) {
	case 0:
		line_tx_publish(&tx);
		m->published = m->tail;
		break;
	case 1:
		model_serve(m, rng, at);
		break;
	case 2:
	case 3:
	case 4:
		model_answer(m, rng, at);
		break;
	case 5:
		ck_assert_int_eq(line_tx_drained(&tx), m->head == m->published);
		break;
	default:
		model_post(m, rng, at);
	}
}

START_TEST(queue_agrees_with_a_model_across_the_wrap)
{
	struct rng rng;

	rng_start(&rng, "queue_agrees_with_a_model_across_the_wrap");
	for (unsigned round = 0; round < 8; round++) {
		line_u32 at = -(line_u32)rng_below(&rng, 4 * ENTRIES);
		struct model m = {0};

		tx_start(at);
		for (unsigned n = 0; n < STEPS / 8; n++)
			model_step(&m, &rng, at);
		ck_assert_uint_gt(m.tail, 4 * ENTRIES);
	}
}
END_TEST

/* ---- sleeping, against a host that races ------------------------------ */

/*
 * Sleepers spin until the count of interrupts moves, and the host is a few
 * loads and stores: so the two meet within nanoseconds of each other all the
 * time, which real sleeps seldom do.
 */
#define SLEEPERS_MOST 3
#define LOST_S	      20

struct sleeper {
	pthread_t thread;
	bool alone; /* line_tx_arm */
};

static pthread_mutex_t tx_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint interrupts;
static atomic_bool host_stops;

/* As hv/line/queue.c: in batches of any size, wake_at looked at after head. */
static void *host_race(void *arg)
{
	struct rng rng = {1};
	line_u32 head = *(line_u32 *)arg, tail, next, wake_at;

	while (!host_stops) {
		tail = __atomic_load_n(&tx.queue->tail, __ATOMIC_SEQ_CST);
		if (tail == head) {
			sched_yield();
			continue;
		}
		next = head + 1 + (line_u32)rng_below(&rng, tail - head);
		__atomic_store_n(&tx.queue->head, next, __ATOMIC_SEQ_CST);
		wake_at = __atomic_load_n(&tx.queue->wake_at, __ATOMIC_SEQ_CST);
		if (next - wake_at < next - head)
			interrupts++;
		head = next;
	}
	return NULL;
}

static void interrupt_await(unsigned seen)
{
	time_t until = time(NULL) + LOST_S;

	for (unsigned n = 1; interrupts == seen; n++) {
		if (n % 64 == 0)
			sched_yield();
		if (n % 65536 == 0)
			ck_assert_msg(time(NULL) < until, "a wake-up was lost");
	}
}

/* True: to sleep. Lock held. */
static bool sleeper_arms(const struct sleeper *s, line_u32 position)
{
	enum line_sleep found;

	if (s->alone)
		return line_tx_arm(&tx, position);
	while ((found = line_tx_arm_among(&tx, position)) == LINE_SLEEP_OTHERS)
		interrupts++;
	return found == LINE_SLEEP_ARMED;
}

/* The others may come around to an entry that one still keeps. Lock held. */
static void sleeper_posts(line_u32 *position)
{
	int rc;

	while ((rc = line_tx_post(&tx, &nop, NULL, true, position))) {
		ck_assert_int_eq(rc, LINE_EBUSY);
		pthread_mutex_unlock(&tx_lock);
		sched_yield();
		pthread_mutex_lock(&tx_lock);
	}
	line_tx_publish(&tx);
}

static void *sleeper_run(void *arg)
{
	const struct sleeper *s = arg;
	line_u32 position;
	unsigned seen;
	bool sleeps;

	for (unsigned n = 0; n < STEPS / 8; n++) {
		pthread_mutex_lock(&tx_lock);
		sleeper_posts(&position);
		pthread_mutex_unlock(&tx_lock);
		/* So that they arm in another order than they posted. */
		if (n % 3 == 0)
			sched_yield();
		pthread_mutex_lock(&tx_lock);
		do {
			seen = interrupts;
			sleeps = sleeper_arms(s, position);
			pthread_mutex_unlock(&tx_lock);
			if (sleeps)
				interrupt_await(seen);
			pthread_mutex_lock(&tx_lock);
		} while (sleeps);
		ck_assert_int_eq(line_tx_done(&tx, position), 1);
		line_tx_release(&tx, position);
		pthread_mutex_unlock(&tx_lock);
	}
	return NULL;
}

static void sleepers_race(unsigned sleepers)
{
	struct sleeper sleeper[SLEEPERS_MOST];
	line_u32 at = -(line_u32)STEPS / 16;
	pthread_t thread;

	tx_start(at);
	pthread_create(&thread, NULL, host_race, &at);
	for (unsigned n = 0; n < sleepers; n++) {
		sleeper[n].alone = sleepers == 1;
		pthread_create(&sleeper[n].thread, NULL, sleeper_run,
			       &sleeper[n]);
	}
	for (unsigned n = 0; n < sleepers; n++)
		pthread_join(sleeper[n].thread, NULL);
	host_stops = true;
	pthread_join(thread, NULL);
	ck_assert_uint_gt(interrupts, 0);
}

START_TEST(one_sleeper_never_misses_the_host)
{
	sleepers_race(1);
}
END_TEST

START_TEST(sleepers_never_miss_the_host)
{
	sleepers_race(SLEEPERS_MOST);
}
END_TEST

static void cases_add(Suite *suite)
{
	TCase *tc = tcase_create("line_guest");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, view_takes_what_the_abi_allows);
	tcase_add_test(tc, view_refuses_what_is_no_line);
	tcase_add_test(tc, view_stays_as_it_was_checked);
	tcase_add_test(tc, epoch_is_never_one_used_last);
	tcase_add_test(tc, features_are_those_of_both);
	tcase_add_test(tc, wishes_and_counters_cross);
	/* Started just before the wrap, and just after. */
	tcase_add_loop_test(tc, full_queue_refuses_until_the_host_moves, -66,
			    2);
	tcase_add_loop_test(tc, kept_entry_stays_until_released, -66, 2);
	tcase_add_loop_test(tc, impossible_head_breaks_the_queue, -5, 2);
	tcase_add_loop_test(tc, head_far_away_is_no_answer, -3, 2);
	tcase_add_test(tc, disorder_left_by_the_host_is_seen);
	tcase_add_loop_test(tc, sleepers_are_woken_for_the_earliest, -6, 2);
	tcase_add_loop_test(tc, one_sleeper_takes_back_what_it_asked, -4, 2);
	tcase_add_test(tc, one_sleeper_never_misses_the_host);
	tcase_add_test(tc, sleepers_never_miss_the_host);
	tcase_add_test(tc, queue_agrees_with_a_model_across_the_wrap);
	suite_add_tcase(suite, tc);
}

int main(void)
{
	Suite *suite = suite_create("line_guest");

	cases_add(suite);
	return suite_run(suite);
}
