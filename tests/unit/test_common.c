/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A common store and its members over real sockets, several of them in threads:
 * what the channel promises its guest, and what members that lie, flood, do not
 * read or die can do to others, which is nothing.
 */
#include "hv/daemon/common.h"
#include "hv/line/channel.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define POOL	  CHANNEL_POOL_FIRST
#define LENT	  ((uint64_t)64 << 20)
#define THREADS	  4
#define KEYS	  64
#define MODEL_OPS 20000

struct vm {
	struct common_member *member;
	struct channel *channel;
	int fd; /* in place of a channel: the test speaks itself */
};

static struct common *common;
static struct common_store *home, *other;
static uint64_t ids;
static const uint8_t uuid[16] = {5};

static void pause_ms(long ms)
{
	const struct timespec ts = {0, ms * 1000000};

	nanosleep(&ts, NULL);
}

static void set_up(void)
{
	ck_assert_int_eq(common_create(&common), 0);
	ck_assert_int_eq(common_store_create(common, &home), 0);
	ck_assert_int_eq(common_store_create(common, &other), 0);
}

static void tear_down(void)
{
	common_store_drop(home);
	common_store_drop(other);
	common_destroy(common);
}

/* Asks and waits. */
static int job(struct common_member *m, struct common_job what, int64_t *value)
{
	struct pollfd p = {common_fd(common), POLLIN, 0};
	struct common_answer answer;

	what.id = ++ids;
	ck_assert_int_eq(common_ask(m, &what), 0);
	ck_assert_int_eq(poll(&p, 1, 60000), 1);
	ck_assert(common_answer_take(common, &answer));
	ck_assert_uint_eq(answer.id, what.id);
	if (value)
		*value = answer.value;
	return answer.rc;
}

static int auth(struct common_member *m, bool on)
{
	struct common_job what = {.op = COMMON_AUTH, .on = on};

	memcpy(what.uuid, uuid, sizeof(uuid));
	return job(m, what, NULL);
}

/* Authorised, and lent memory. */
static struct vm vm_raw(struct common_store *store)
{
	struct vm vm;

	ck_assert_int_eq(common_member_create(store, "vm", &vm.fd, &vm.member),
			 0);
	common_lend(vm.member, LENT);
	ck_assert_int_eq(auth(vm.member, true), 0);
	vm.channel = NULL;
	return vm;
}

static struct vm vm_make(struct common_store *store)
{
	struct vm vm = vm_raw(store);

	ck_assert_int_eq(channel_create(&vm.channel), 0);
	channel_attach(vm.channel, vm.fd, 1);
	return vm;
}

static void vm_end(struct vm *vm)
{
	if (vm->channel)
		channel_destroy(vm->channel);
	else
		close(vm->fd);
	common_member_drop(vm->member);
}

static struct common_member_stats stats_of(const struct vm *vm)
{
	struct common_member_stats st;

	common_member_stats(vm->member, &st);
	return st;
}

static void pages_await(const struct vm *vm, uint64_t pages)
{
	for (int i = 0; i < 1000 && stats_of(vm).pages != pages; i++)
		pause_ms(10);
	ck_assert_uint_eq(stats_of(vm).pages, pages);
}

static void page_of(uint64_t seed, uint8_t page[LINE_PAGE_BYTES])
{
	struct rng rng = {seed + 1};

	rng_fill(&rng, page, LINE_PAGE_BYTES);
}

static struct line_entry entry(int op, uint32_t index)
{
	return (struct line_entry){
		.op = (line_u8)op, .pool = POOL, .oid = {1}, .index = index};
}

static int join(struct vm *vm, uint8_t first)
{
	struct line_entry e = {.op = LINE_OP_POOL_CREATE,
			       .pool = LINE_POOL_SHARED,
			       .oid = {first}};

	return channel_do(vm->channel, &e, NULL);
}

/* On its way; whatever this VM asks next comes after it. */
static int put_only(struct vm *vm, uint32_t index, uint64_t seed)
{
	struct line_entry e = entry(LINE_OP_PUT, index);
	uint8_t page[LINE_PAGE_BYTES];

	page_of(seed, page);
	return channel_do(vm->channel, &e, page);
}

static int do_op(struct vm *vm, int op, uint32_t index, uint32_t count)
{
	struct line_entry e = entry(op, index);

	e.count = count;
	return channel_do(vm->channel, &e, NULL);
}

/* Done: others find it. */
static int put(struct vm *vm, uint32_t index, uint64_t seed)
{
	int rc = put_only(vm, index, seed);

	return rc ? rc : do_op(vm, LINE_OP_FLUSH_PAGE, UINT32_MAX, 0);
}

static int get(struct vm *vm, uint32_t index, uint64_t seed)
{
	struct line_entry e = entry(LINE_OP_GET, index);
	uint8_t page[LINE_PAGE_BYTES], want[LINE_PAGE_BYTES];
	int rc = channel_do(vm->channel, &e, page);

	page_of(seed, want);
	return rc ? rc : memcmp(page, want, sizeof(page)) ? -EBADMSG : 0;
}

/* ---- what a guest is promised -------------------------------------------- */

START_TEST(pools_are_joined_by_who_may)
{
	struct vm a = vm_make(home);

	ck_assert_int_eq(join(&a, 6), -EACCES);
	ck_assert_int_eq(get(&a, 1, 1), -ENOENT);
	ck_assert_int_eq(put(&a, 1, 1), -ENOENT);
	ck_assert_int_eq(join(&a, 5), POOL);
	ck_assert_int_eq(put(&a, 1, 1), 0);
	ck_assert_int_eq(get(&a, 1, 1), 0);
	/* The same pool by another number, and no more than there are. */
	ck_assert_int_eq(join(&a, 5), POOL + 1);
	ck_assert_int_eq(join(&a, 5), POOL + 2);
	ck_assert_int_eq(join(&a, 5), POOL + 3);
	ck_assert_int_eq(join(&a, 5), -ENOSPC);
	ck_assert_int_eq(do_op(&a, LINE_OP_POOL_DESTROY, 0, 0), 0);
	ck_assert_int_eq(do_op(&a, LINE_OP_POOL_DESTROY, 0, 0), -ENOENT);
	ck_assert_int_eq(get(&a, 1, 1), -ENOENT);
	ck_assert_int_eq(join(&a, 5), POOL);
	channel_leave(a.channel);
	ck_assert_int_eq(get(&a, 1, 1), -ENOENT);
	pages_await(&a, 0);
	vm_end(&a);
}
END_TEST

START_TEST(domains_with_one_uuid_do_not_meet)
{
	struct vm a = vm_make(home), b = vm_make(home), alien = vm_make(other);

	ck_assert_int_eq(join(&a, 5), POOL);
	ck_assert_int_eq(join(&b, 5), POOL);
	ck_assert_int_eq(join(&alien, 5), POOL);
	ck_assert_int_eq(put(&a, 1, 1), 0);
	ck_assert_int_eq(get(&b, 1, 1), 0);
	ck_assert_int_eq(get(&alien, 1, 1), -ENOENT);
	ck_assert_int_eq(put(&alien, 1, 2), 0);
	ck_assert_int_eq(do_op(&alien, LINE_OP_FLUSH_OBJECT, 0, 0), 0);
	ck_assert_int_eq(get(&b, 1, 1), 0);
	vm_end(&a);
	vm_end(&b);
	vm_end(&alien);
}
END_TEST

START_TEST(ranges_are_flushed_in_pieces)
{
	struct vm a = vm_make(home);

	ck_assert_int_eq(join(&a, 5), POOL);
	for (uint32_t i = 0; i < 3 * CHANNEL_RANGE_MAX; i += 500)
		ck_assert_int_eq(put(&a, i, i), 0);
	ck_assert_int_eq(do_op(&a, LINE_OP_FLUSH_RANGE, 500,
			       2 * CHANNEL_RANGE_MAX + 100),
			 0);
	ck_assert_int_eq(get(&a, 0, 0), 0);
	for (uint32_t i = 500; i < 2500; i += 500)
		ck_assert_int_eq(get(&a, i, i), -ENOENT);
	ck_assert_int_eq(get(&a, 3000, 3000), 0);
	ck_assert_int_eq(do_op(&a, LINE_OP_FLUSH_RANGE, UINT32_MAX, 1), 0);
	vm_end(&a);
}
END_TEST

/* Requests may have been lost with the old connection. */
START_TEST(the_same_hvd_anew_is_another_pool)
{
	struct vm a = vm_make(home), b = vm_make(home), again = vm_raw(home);

	ck_assert_int_eq(join(&a, 5), POOL);
	ck_assert_int_eq(join(&b, 5), POOL);
	ck_assert_int_eq(put(&b, 1, 1), 0);
	channel_attach(a.channel, dup(again.fd), 1);
	ck_assert_int_eq(get(&a, 1, 1), -ENOENT);
	ck_assert_int_eq(put(&a, 1, 1), -ENOENT);
	ck_assert_int_eq(do_op(&a, LINE_OP_FLUSH_PAGE, 1, 0), -ENOENT);
	ck_assert_int_eq(do_op(&a, LINE_OP_POOL_DESTROY, 0, 0), 0);
	ck_assert_int_eq(join(&a, 5), POOL);
	ck_assert_int_eq(get(&a, 1, 1), 0);
	vm_end(&a);
	vm_end(&b);
	vm_end(&again);
}
END_TEST

START_TEST(another_hvd_is_joined_by_itself)
{
	struct vm a = vm_make(home), b = vm_make(home), again = vm_raw(home);

	ck_assert_int_eq(join(&a, 5), POOL);
	ck_assert_int_eq(join(&b, 5), POOL);
	ck_assert_int_eq(put(&b, 1, 1), 0);
	channel_attach(a.channel, dup(again.fd), 2);
	ck_assert_int_eq(get(&a, 1, 1), 0);
	/* But not a pool it may join no more. */
	ck_assert_int_eq(auth(b.member, false), 0);
	ck_assert_int_eq(get(&a, 1, 1), -ENOENT);
	ck_assert_int_eq(put_only(&b, 1, 1), 0);
	ck_assert_int_eq(get(&b, 1, 1), -ENOENT);
	ck_assert_int_eq(get(&a, 1, 1), -ENOENT);
	vm_end(&a);
	vm_end(&b);
	vm_end(&again);
}
END_TEST

/* Nobody answers: a get waits once, and then nobody does. */
START_TEST(who_does_not_answer_is_not_waited_for)
{
	struct channel_reply reply = {0};
	uint8_t in[CHANNEL_BYTES_MAX];
	struct line_entry e;
	struct vm a = {0};
	int end[2];

	ck_assert_int_eq(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, end), 0);
	ck_assert_int_eq(channel_create(&a.channel), 0);
	channel_attach(a.channel, end[0], 1);
	ck_assert_int_eq(join(&a, 5), -EACCES);
	ck_assert_int_eq(get(&a, 1, 1), -ENOENT);
	/* The pool that may yet be joined is left again. */
	ck_assert_int_eq(recv(end[1], in, sizeof(in), 0), sizeof(e));
	ck_assert_int_eq(in[0], LINE_OP_POOL_CREATE);
	ck_assert_int_eq(recv(end[1], &e, sizeof(e), 0), sizeof(e));
	ck_assert_int_eq(e.op, LINE_OP_POOL_DESTROY);
	ck_assert_int_lt(recv(end[1], in, sizeof(in), MSG_DONTWAIT), 0);
	for (reply.sequence = 1; reply.sequence <= e.cookie; reply.sequence++)
		ck_assert_int_eq(send(end[1], &reply, sizeof(reply), 0),
				 sizeof(reply));
	/* All is answered: it is asked and waited for again. */
	ck_assert_int_eq(join(&a, 5), -EACCES);
	ck_assert_int_eq(recv(end[1], in, sizeof(in), 0), sizeof(e));
	close(end[1]);
	ck_assert_int_eq(join(&a, 5), -EACCES);
	channel_destroy(a.channel);
}
END_TEST

/* An answer to another question, or of another size, ends the connection. */
START_TEST(answers_that_cannot_be_are_not_believed)
{
	struct {
		struct channel_reply head;
		uint8_t rest[LINE_PAGE_BYTES + 1];
	} reply = {{0}, {0}};
	static const size_t sizes[] = {
		0, 8, 16, 17, 16 + LINE_PAGE_BYTES, 17 + LINE_PAGE_BYTES};
	struct vm a = {0};
	int end[2];

	ck_assert_int_eq(channel_create(&a.channel), 0);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		ck_assert_int_eq(socketpair(AF_UNIX,
					    SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
					    end),
				 0);
		channel_attach(a.channel, end[0], 2 + i);
		reply.head.sequence = 1000; /* not asked yet */
		ck_assert_int_eq(send(end[1], &reply, sizes[i], 0),
				 (ssize_t)sizes[i]);
		ck_assert_int_eq(join(&a, 5), -EACCES);
		ck_assert_int_eq(send(end[1], &reply, 16, MSG_NOSIGNAL), -1);
		close(end[1]);
	}
	channel_destroy(a.channel);
}
END_TEST

/* ---- what others cannot do ----------------------------------------------- */

static void raw_send(const struct vm *vm, const void *msg, size_t n)
{
	ck_assert_int_eq(send(vm->fd, msg, n, MSG_NOSIGNAL), (ssize_t)n);
}

static bool is_closed(const struct vm *vm)
{
	struct pollfd p = {vm->fd, POLLIN, 0};
	uint8_t in[CHANNEL_BYTES_MAX];

	while (poll(&p, 1, 30000) == 1)
		if (recv(vm->fd, in, sizeof(in), 0) <= 0)
			return true;
	return false;
}

static const struct {
	struct line_entry e;
	size_t bytes;
} nonsense[] = {
	{{.op = LINE_OP_GET}, 0},
	{{.op = LINE_OP_GET}, 63},
	{{.op = LINE_OP_GET}, 65},
	{{.op = LINE_OP_GET}, CHANNEL_BYTES_MAX},
	{{.op = LINE_OP_GET, .pool = -1}, 64},
	{{.op = LINE_OP_GET, .pool = CHANNEL_POOLS_MAX}, 64},
	{{.op = LINE_OP_PUT}, 64},
	{{.op = LINE_OP_PUT}, CHANNEL_BYTES_MAX - 1},
	{{.op = LINE_OP_PUT, .pool = POOL}, CHANNEL_BYTES_MAX},
	{{.op = LINE_OP_NOP}, 64},
	{{.op = LINE_OP_FLUSH_RANGE + 1}, 64},
	{{.op = LINE_OP_FLUSH_PAGE, .pool = CHANNEL_POOLS_MAX}, 64},
	{{.op = LINE_OP_FLUSH_OBJECT, .pool = -1}, 64},
	{{.op = LINE_OP_FLUSH_RANGE, .count = CHANNEL_RANGE_MAX + 1}, 64},
	{{.op = LINE_OP_FLUSH_RANGE, .index = UINT32_MAX, .count = 2}, 64},
	{{.op = LINE_OP_POOL_DESTROY, .pool = -1}, 64},
	{{.op = LINE_OP_POOL_CREATE, .pool = LINE_POOL_EPHEMERAL}, 64},
	{{.op = LINE_OP_POOL_CREATE, .pool = LINE_POOL_PERSISTENT}, 64},
	{{.op = LINE_OP_POOL_CREATE, .pool = 3}, 64},
	{{.op = LINE_OP_POOL_CREATE, .pool = 2, .index = CHANNEL_POOLS_MAX},
	 64},
};

START_TEST(nonsense_costs_its_sender_the_connection)
{
	struct vm liar = vm_raw(home), a = vm_make(home);
	uint8_t msg[CHANNEL_BYTES_MAX] = {0};

	ck_assert_int_eq(join(&a, 5), POOL);
	ck_assert_int_eq(put(&a, 1, 1), 0);
	memcpy(msg, &nonsense[_i].e, sizeof(nonsense[_i].e));
	ck_assert_int_eq(channel_check(msg, nonsense[_i].bytes), -EPROTO);
	raw_send(&liar, msg, nonsense[_i].bytes);
	ck_assert(is_closed(&liar));
	ck_assert_int_eq(get(&a, 1, 1), 0);
	vm_end(&liar);
	vm_end(&a);
}
END_TEST

START_TEST(whole_messages_are_well_formed)
{
	uint8_t msg[CHANNEL_BYTES_MAX + 1] = {0};
	struct line_entry e = {.op = LINE_OP_PUT, .pool = 3};

	memcpy(msg, &e, sizeof(e));
	ck_assert_int_eq(channel_check(msg, CHANNEL_BYTES_MAX), 0);
	e = (struct line_entry){
		.op = LINE_OP_FLUSH_RANGE, .index = UINT32_MAX, .count = 1};
	memcpy(msg, &e, sizeof(e));
	ck_assert_int_eq(channel_check(msg, sizeof(e)), 0);
	e = (struct line_entry){.op = LINE_OP_POOL_CREATE,
				.pool = LINE_POOL_SHARED,
				.index = CHANNEL_POOLS_MAX - 1};
	memcpy(msg, &e, sizeof(e));
	ck_assert_int_eq(channel_check(msg, sizeof(e)), 0);
}
END_TEST

static void raw_join(const struct vm *vm)
{
	struct line_entry e = {.op = LINE_OP_POOL_CREATE,
			       .pool = LINE_POOL_SHARED,
			       .oid = {5}};
	struct channel_reply reply;

	raw_send(vm, &e, sizeof(e));
	ck_assert_int_eq(recv(vm->fd, &reply, sizeof(reply), 0), sizeof(reply));
	ck_assert_int_eq(reply.result, 0);
}

static atomic_bool flood_ends;

static void *flood(void *arg)
{
	const struct vm *vm = arg;
	struct line_entry e = {.op = LINE_OP_FLUSH_RANGE,
			       .oid = {1},
			       .index = 1000,
			       .count = CHANNEL_RANGE_MAX};
	uint8_t in[CHANNEL_BYTES_MAX];

	while (!atomic_load(&flood_ends)) {
		(void)send(vm->fd, &e, sizeof(e), MSG_NOSIGNAL | MSG_DONTWAIT);
		while (recv(vm->fd, in, sizeof(in), MSG_DONTWAIT) > 0)
			;
	}
	return NULL;
}

/* Its queue is always full; without turns another would wait for ever. */
START_TEST(a_flood_is_served_in_turn)
{
	struct vm a = vm_make(home), wild = vm_raw(home);
	uint64_t handled;
	pthread_t thread;

	raw_join(&wild);
	ck_assert_int_eq(join(&a, 5), POOL);
	atomic_store(&flood_ends, false);
	pthread_create(&thread, NULL, flood, &wild);
	for (int i = 0; i < 1000 && !stats_of(&wild).count.flushes; i++)
		pause_ms(10);
	handled = stats_of(&wild).count.flushes;
	for (uint32_t i = 0; i < 200; i++) {
		ck_assert_int_eq(put(&a, i, i), 0);
		ck_assert_int_eq(get(&a, i, i), 0);
	}
	pause_ms(100); /* figures are shown */
	handled = stats_of(&wild).count.flushes - handled;
	atomic_store(&flood_ends, true);
	pthread_join(thread, NULL);
	ck_assert_uint_gt(handled, 10);
	vm_end(&a);
	vm_end(&wild);
}
END_TEST

START_TEST(who_does_not_read_is_cut_off)
{
	struct vm deaf = vm_raw(home), a = vm_make(home);
	struct line_entry e = {.op = LINE_OP_GET, .oid = {1}, .index = 1};
	ssize_t n = 0;

	raw_join(&deaf);
	ck_assert_int_eq(join(&a, 5), POOL);
	ck_assert_int_eq(put(&a, 1, 1), 0);
	for (int i = 0; i < 100000; i++) {
		n = send(deaf.fd, &e, sizeof(e), MSG_NOSIGNAL);
		if (n < 0)
			break;
	}
	ck_assert_int_lt(n, 0);
	ck_assert_int_eq(get(&a, 1, 1), 0);
	vm_end(&deaf);
	vm_end(&a);
}
END_TEST

/*
 * It died with answers unread and flushes and puts on their way: these are done
 * all the same, then its pages go.
 */
START_TEST(what_a_dead_member_sent_is_done_first)
{
	struct vm a = vm_make(home);

	ck_assert_int_eq(join(&a, 5), POOL);
	for (int round = 0; round < 20; round++) {
		struct vm dying = vm_raw(home);
		struct line_entry e = {.oid = {1}, .index = 1};
		uint8_t msg[CHANNEL_BYTES_MAX] = {0};

		raw_join(&dying);
		for (uint32_t i = 0; i < 100; i++)
			ck_assert_int_eq(put(&a, i, i), 0);
		ck_assert_int_eq(get(&a, 99, 99), 0); /* all are there */
		e.op = LINE_OP_GET;
		raw_send(&dying, &e, sizeof(e));
		e.op = LINE_OP_PUT;
		e.index = 1000;
		memcpy(msg, &e, sizeof(e));
		raw_send(&dying, msg, sizeof(msg));
		e.op = LINE_OP_FLUSH_PAGE;
		for (e.index = 0; e.index < 100; e.index++)
			raw_send(&dying, &e, sizeof(e));
		close(dying.fd);
		if (round % 2) /* hvd hears of it first */
			common_member_drop(dying.member);
		for (int i = 0; i < 1000 && !get(&a, 99, 99); i++)
			pause_ms(1);
		for (uint32_t i = 0; i < 100; i++)
			ck_assert_int_eq(get(&a, i, i), -ENOENT);
		for (int i = 0; i < 1000 && get(&a, 1000, 0) != -ENOENT; i++)
			pause_ms(1);
		ck_assert_int_eq(get(&a, 1000, 0), -ENOENT);
		if (!(round % 2))
			common_member_drop(dying.member);
	}
	vm_end(&a);
}
END_TEST

/* ---- jobs ---------------------------------------------------------------- */

START_TEST(jobs_do_what_they_say)
{
	struct vm a = vm_make(home), b = vm_make(home);
	int64_t value;

	ck_assert_int_eq(join(&a, 5), POOL);
	ck_assert_int_eq(join(&b, 5), POOL);
	for (uint32_t i = 0; i < 1000; i++)
		ck_assert_int_eq(put(i < 600 ? &a : &b, i, i), 0);
	pages_await(&a, 600);
	pages_await(&b, 400);
	ck_assert_uint_ge(stats_of(&a).bytes, 600 * LINE_PAGE_BYTES);
	ck_assert_int_eq(
		job(a.member, (struct common_job){.op = COMMON_CHECK}, NULL),
		0);
	ck_assert_int_eq(
		job(a.member,
		    (struct common_job){.op = COMMON_FREEZE, .on = true}, NULL),
		0);
	ck_assert_int_eq(put(&a, 5000, 1), 0); /* on its way, and refused */
	ck_assert_int_eq(get(&a, 5000, 1), -ENOENT);
	ck_assert_int_eq(put(&b, 5000, 1), 0);
	ck_assert_int_eq(get(&b, 5000, 1), 0);
	ck_assert_int_eq(
		job(a.member, (struct common_job){.op = COMMON_FREEZE}, NULL),
		0);
	ck_assert_int_eq(put(&a, 5001, 1), 0);
	ck_assert_int_eq(job(a.member,
			     (struct common_job){.op = COMMON_FLUSH,
						 .bytes = 100 * 4096},
			     &value),
			 0);
	ck_assert_int_ge(value, 90 * 4096);
	ck_assert_int_le(value, 130 * 4096);
	ck_assert_int_eq(get(&a, 599, 599), 0);
	ck_assert_int_eq(get(&b, 600, 600), 0);
	ck_assert_int_eq(
		job(a.member,
		    (struct common_job){.op = COMMON_DESTROY, .pool = 1},
		    &value),
		-ENOENT);
	ck_assert_int_eq(
		job(a.member,
		    (struct common_job){.op = COMMON_DESTROY, .pool = -1},
		    &value),
		0);
	ck_assert_int_gt(value, 400);
	ck_assert_uint_eq(stats_of(&a).pages, 0);
	ck_assert_int_eq(get(&a, 600, 600), -ENOENT);
	ck_assert_int_eq(get(&b, 599, 599), -ENOENT);
	common_lend(b.member, 0);
	pages_await(&b, 0);
	ck_assert_int_eq(put(&b, 1, 1), 0);
	ck_assert_int_eq(get(&b, 1, 1), -ENOENT);
	ck_assert_uint_gt(stats_of(&b).count.puts, 0);
	vm_end(&a);
	vm_end(&b);
}
END_TEST

/* A pool that was destroyed for the guest is not met by another's number. */
START_TEST(numbers_of_destroyed_pools_lead_nowhere)
{
	struct common_job other_uuid = {
		.op = COMMON_AUTH, .on = true, .uuid = {6}};
	struct vm a = vm_make(home);

	ck_assert_int_eq(job(a.member, other_uuid, NULL), 0);
	ck_assert_int_eq(join(&a, 5), POOL);
	ck_assert_int_eq(auth(a.member, false), 0);
	ck_assert_int_eq(join(&a, 6), POOL + 1);
	ck_assert_int_eq(put_only(&a, 1, 1), 0);
	ck_assert_int_eq(get(&a, 1, 1), -ENOENT);
	ck_assert_int_eq(do_op(&a, LINE_OP_FLUSH_PAGE, 1, 0), -ENOENT);
	ck_assert_int_eq(do_op(&a, LINE_OP_POOL_DESTROY, 0, 0), 0);
	pages_await(&a, 0);
	ck_assert_int_eq(join(&a, 6), POOL);
	vm_end(&a);
}
END_TEST

/* ---- a model, with threads ------------------------------------------------
 */

struct worker {
	struct vm vm;
	uint32_t base;
	uint64_t seed;
	int failed;
};

/*
 * Each writes keys of its own, which others read, and it alone knows what they
 * hold: 0, or what it put last. A page may be missing; no other may come.
 */
static void *worker_main(void *arg)
{
	struct worker *w = arg;
	uint64_t last[KEYS] = {0};
	struct rng rng = {w->seed};

	for (uint64_t n = 1; n <= MODEL_OPS / THREADS && !w->failed; n++) {
		uint32_t k = (uint32_t)(rng_next(&rng) % KEYS);
		int rc = 0;

		switch (rng_next(&rng) % 4) {
		case 0:
			rc = put_only(&w->vm, w->base + k, w->seed + n);
			last[k] = rc ? 0 : w->seed + n;
			w->failed |= rc && rc != -ENOMEM;
			break;
		case 1:
			w->failed |= do_op(&w->vm, LINE_OP_FLUSH_RANGE,
					   w->base + k, 2) != 0;
			last[k] = 0;
			if (k + 1 < KEYS)
				last[k + 1] = 0;
			break;
		default:
			rc = get(&w->vm, w->base + k, last[k]);
			w->failed |= rc && (rc != -ENOENT);
			w->failed |= !rc && !last[k];
		}
	}
	return NULL;
}

START_TEST(no_page_is_mixed_up)
{
	struct worker worker[THREADS];
	struct vm reader = vm_make(home);
	pthread_t thread[THREADS];

	ck_assert_int_eq(join(&reader, 5), POOL);
	for (uint32_t i = 0; i < THREADS; i++) {
		worker[i] = (struct worker){.vm = vm_make(home),
					    .base = i * (KEYS + 1),
					    .seed = (uint64_t)(i + 1) << 40};
		ck_assert_int_eq(join(&worker[i].vm, 5), POOL);
		pthread_create(&thread[i], NULL, worker_main, &worker[i]);
	}
	for (int i = 0; i < 50; i++) {
		common_lend(worker[i % THREADS].vm.member,
			    (uint64_t)(i % 20) * 16384 + 8192);
		ck_assert_int_eq(job(reader.member,
				     (struct common_job){.op = COMMON_CHECK},
				     NULL),
				 0);
		pause_ms(5);
	}
	for (uint32_t i = 0; i < THREADS; i++) {
		pthread_join(thread[i], NULL);
		ck_assert_int_eq(worker[i].failed, 0);
		vm_end(&worker[i].vm);
	}
	vm_end(&reader);
}
END_TEST

static Suite *suite_make(void)
{
	Suite *suite = suite_create("common");
	TCase *tc = tcase_create("common");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_test(tc, pools_are_joined_by_who_may);
	tcase_add_test(tc, domains_with_one_uuid_do_not_meet);
	tcase_add_test(tc, ranges_are_flushed_in_pieces);
	tcase_add_test(tc, the_same_hvd_anew_is_another_pool);
	tcase_add_test(tc, another_hvd_is_joined_by_itself);
	tcase_add_test(tc, who_does_not_answer_is_not_waited_for);
	tcase_add_test(tc, answers_that_cannot_be_are_not_believed);
	tcase_add_loop_test(tc, nonsense_costs_its_sender_the_connection, 0,
			    ARRAY_LEN(nonsense));
	tcase_add_test(tc, whole_messages_are_well_formed);
	tcase_add_test(tc, a_flood_is_served_in_turn);
	tcase_add_test(tc, who_does_not_read_is_cut_off);
	tcase_add_test(tc, what_a_dead_member_sent_is_done_first);
	tcase_add_test(tc, jobs_do_what_they_say);
	tcase_add_test(tc, numbers_of_destroyed_pools_lead_nowhere);
	tcase_add_test(tc, no_page_is_mixed_up);
	suite_add_tcase(suite, tc);
	return suite;
}

int main(void)
{
	return suite_run(suite_make());
}
