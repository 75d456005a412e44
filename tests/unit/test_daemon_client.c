/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hvd between an administrator and a guest's own pages: what each method makes
 * the agent hear, what is refused, files that are passed on, and how free
 * memory is lent and taken back.
 */
#include "hv/libhv/hv.h"
#include "tests/support/daemon.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIST "{\"method\":\"list\"}"
#define HOST "{\"method\":\"host\"}"
#define MIB  ((uint64_t)1 << 20)
#define GIB  ((uint64_t)1 << 30)

static struct daemon d;
static struct peer a, b, c;

static void line_stats_send(struct peer *p, uint64_t private_pages,
			    uint64_t lent)
{
	struct wire_stats stats = {.guest = {.lines = 1,
					     .drivers = 1,
					     .weight = 1000,
					     .compress = 1,
					     .freeable_bytes = lent,
					     .ephemeral_bytes = lent}};

	stats.mm.ram_pages = 1000000;
	stats.mm.private_pages = private_pages;
	stats.guest.ephemeral_pages = 40;
	stats.guest.persistent_pages = 70;
	stats.pool[0] = TMEM_POOL_EPHEMERAL;
	stats.pool[3] = TMEM_POOL_PERSISTENT;
	stats.pool[5] = TMEM_POOL_SHARED;
	peer_send(p, WIRE_STATS, &stats, sizeof(stats));
}

static void set_up(void)
{
	daemon_start(&d, NULL, NULL);
	peer_join(&a, &d, "a", "lab");
	line_stats_send(&a, 1000, 0);
	daemon_await(&d, LIST, "vms.0.guest.lines", 1);
}

static void tear_down(void)
{
	peer_kill(&a);
	daemon_stop(&d);
}

/* ---- what the agent hears ------------------------------------------------
 */

static const struct {
	const char *request;
	struct wire_command hears;
	int rc;
	int64_t value;
	const char *answer;
} calls[] = {
	{"{\"method\":\"freeze\",\"params\":{\"vm\":\"a\"}}",
	 {.op = WIRE_CMD_FREEZE, .on = 1},
	 0,
	 0,
	 "{}"},
	{"{\"method\":\"thaw\",\"params\":{\"vm\":\"a\"}}",
	 {.op = WIRE_CMD_FREEZE},
	 0,
	 0,
	 "{}"},
	{"{\"method\":\"destroy\",\"params\":{\"vm\":\"a\",\"pool\":3}}",
	 {.op = WIRE_CMD_DESTROY, .pool = 3},
	 0,
	 70,
	 "{\"pages\":70}"},
	{"{\"method\":\"destroy\",\"params\":{\"vm\":\"a\",\"force\":true}}",
	 {.op = WIRE_CMD_DESTROY, .pool = WIRE_POOL_ALL, .on = 1},
	 0,
	 110,
	 "{\"pages\":110}"},
	{"{\"method\":\"destroy\",\"params\":{\"vm\":\"a\"}}",
	 {.op = WIRE_CMD_DESTROY, .pool = WIRE_POOL_ALL},
	 -ENOTEMPTY,
	 0,
	 "ENOTEMPTY"},
};

START_TEST(each_method_is_one_command)
{
	struct wire_command want = calls[_i].hears, got;
	pid_t pid;

	set_up();
	pid = daemon_call_begin(&d, calls[_i].request, calls[_i].answer);
	got = peer_command(&a);
	want.id = got.id;
	ck_assert_mem_eq(&got, &want, sizeof(got));
	peer_answer(&a, got.id, calls[_i].rc, calls[_i].value, "told");
	daemon_call_end(pid);
	tear_down();
}
END_TEST

#define AUTH(uuid)                                                             \
	"{\"method\":\"auth\",\"params\":{\"vm\":\"a\",\"on\":true,"           \
	"\"uuid\":" uuid "}}"

static const struct {
	const char *request, *error;
} bad[] = {
	{"{\"method\":\"freeze\"}", "EINVAL"},
	{"{\"method\":\"freeze\",\"params\":{\"vm\":\"zzz\"}}", "ENOENT"},
	{"{\"method\":\"thaw\",\"params\":{\"vm\":\"a\",\"on\":true}}",
	 "EINVAL"},
	{"{\"method\":\"destroy\",\"params\":{\"vm\":\"a\",\"pool\":20}}",
	 "EINVAL"},
	{"{\"method\":\"destroy\",\"params\":{\"vm\":\"a\",\"pool\":-1}}",
	 "EINVAL"},
	{"{\"method\":\"destroy\",\"params\":{\"vm\":\"a\",\"pool\":\"x\"}}",
	 "EINVAL"},
	{"{\"method\":\"destroy\",\"params\":{\"vm\":\"a\",\"pool\":1}}",
	 "ENOENT"},
	{"{\"method\":\"destroy\",\"params\":{\"vm\":\"a\",\"pool\":\"ram\","
	 "\"force\":true}}",
	 "EPERM"},
	{"{\"method\":\"destroy\",\"params\":{\"vm\":\"a\",\"force\":1}}",
	 "EINVAL"},
	{"{\"method\":\"save\",\"params\":{\"vm\":\"a\"}}", "EBADF"},
	{"{\"method\":\"restore\",\"params\":{\"vm\":\"a\"}}", "EBADF"},
	{"{\"method\":\"auth\",\"params\":{\"vm\":\"a\",\"uuid\":"
	 "\"00000000000000000000000000000000\"}}",
	 "EINVAL"},
	{AUTH("7"), "EINVAL"},
	{AUTH("\"\""), "EINVAL"},
	{AUTH("\"0000000000000000000000000000000\""), "EINVAL"},
	{AUTH("\"000000000000000000000000000000000\""), "EINVAL"},
	{AUTH("\"0000000000000000000000000000000g\""), "EINVAL"},
	{AUTH("\"-00000000000000000000000000000000\""), "EINVAL"},
	{AUTH("\"00000000000000000000000000000000-\""), "EINVAL"},
	{AUTH("\"0-0-0-0-0-000000000000000000000000000\""), "EINVAL"},
};

START_TEST(bad_calls_are_refused)
{
	struct wire_stats none = {.mm.ram_pages = 1000};
	size_t i;

	set_up();
	for (i = 0; i < ARRAY_LEN(bad); i++)
		daemon_refuses(&d, bad[i].request, bad[i].error);
	peer_hears_not(&a, WIRE_COMMAND, 100);
	/* A VM without the device: its store is its RAM, and left alone. */
	peer_send(&a, WIRE_STATS, &none, sizeof(none));
	daemon_await(&d, LIST, "vms.0.guest.lines", 0);
	daemon_refuses(&d, calls[3].request, "ENXIO");
	daemon_refuses(&d, calls[0].request, "ENXIO");
	tear_down();
}
END_TEST

/* Whoever has as much for its weight as another is asked like the other. */
START_TEST(a_flush_asks_all_who_have_as_much)
{
	set_up();
	peer_join(&b, &d, "b", "lab");
	peer_join(&c, &d, "c", "lab");
	line_stats_send(&a, 1000, 10 * MIB);
	line_stats_send(&b, 1000, 30 * MIB);
	line_stats_send(&c, 1000, 10 * MIB);
	daemon_await(&d, "{\"method\":\"freeable\"}", "total_bytes", 50 * MIB);
	ck_assert_int_eq(daemon_number(&d,
				       "{\"method\":\"flush\",\"params\":{"
				       "\"bytes\":99999999,\"dry_run\":true}}",
				       "flushed_bytes"),
			 50 * MIB);
	peer_kill(&b);
	peer_kill(&c);
	tear_down();
}
END_TEST

/* Nobody can take it back, so it is neither free nor freeable. */
START_TEST(what_an_unmanaged_vm_has_is_not_freeable)
{
	set_up();
	line_stats_send(&a, 1000, 10 * MIB);
	daemon_await(&d, "{\"method\":\"freeable\"}", "total_bytes", 10 * MIB);
	peer_unmanage(&d, &a);
	ck_assert_int_eq(
		daemon_number(&d, "{\"method\":\"freeable\"}", "total_bytes"),
		0);
	tear_down();
}
END_TEST

START_TEST(two_settings_at_once_are_both_kept)
{
	struct wire_command command;
	pid_t call;

	set_up();
	call = daemon_call_begin(&d,
				 "{\"method\":\"set\",\"params\":{"
				 "\"vm\":\"a\",\"weight\":5}}",
				 "{\"changed\":{\"weight\":[1000,5]}}");
	command = peer_command(&a);
	json_decref(daemon_call(&d,
				"{\"method\":\"set\",\"params\":{"
				"\"vm\":\"a\",\"shares\":7}}",
				NULL));
	peer_answer(&a, command.id, 0, 0, "");
	daemon_call_end(call);
	ck_assert_int_eq(daemon_number(&d, LIST, "vms.0.weight"), 5);
	ck_assert_int_eq(daemon_number(&d, LIST, "vms.0.shares"), 7);
	tear_down();
}
END_TEST

START_TEST(dry_runs_tell_and_do_nothing)
{
	set_up();
	ck_assert_int_eq(
		daemon_number(&d,
			      "{\"method\":\"destroy\",\"params\":{\"vm\":"
			      "\"a\",\"dry_run\":true}}",
			      "pages"),
		110);
	ck_assert_int_eq(
		daemon_number(&d,
			      "{\"method\":\"destroy\",\"params\":{\"vm\":"
			      "\"a\",\"pool\":3,\"dry_run\":true}}",
			      "pages"),
		70);
	ck_assert_int_eq(daemon_number(&d,
				       "{\"method\":\"save\",\"params\":{"
				       "\"vm\":\"a\",\"dry_run\":true}}",
				       "pages"),
			 70);
	json_decref(daemon_call(&d,
				"{\"method\":\"freeze\",\"params\":{\"vm\":"
				"\"a\",\"dry_run\":true}}",
				NULL));
	peer_hears_not(&a, WIRE_COMMAND, 100);
	tear_down();
}
END_TEST

/* ---- files --------------------------------------------------------------- */

static pid_t save_begin(int fd, int want_rc)
{
	struct hv_value *value = NULL;
	uint64_t pages = 0;
	pid_t pid = fork();
	int rc;

	ck_assert_int_ge(pid, 0);
	if (pid)
		return pid;
	rc = hv_save(daemon_hv(&d), "a", fd, HV_DO, &value);
	if (!rc && (hv_value_u64(value, "pages", &pages) || pages != 7))
		_exit(2);
	_exit(rc != want_rc);
}

START_TEST(the_callers_file_is_passed_on)
{
	struct wire_command command;
	int end[2];
	char text[8] = "";
	pid_t pid;

	set_up();
	ck_assert_int_eq(pipe2(end, O_CLOEXEC), 0);
	pid = save_begin(end[1], 0);
	close(end[1]);
	command = peer_command(&a);
	ck_assert_uint_eq(command.op, WIRE_CMD_SAVE);
	ck_assert_int_ge(a.file_fd, 0);
	/* While it is written, others are served. */
	ck_assert_int_eq(daemon_number(&d, HOST, "vms"), 1);
	ck_assert_int_eq(write(a.file_fd, "stream", 6), 6);
	close(a.file_fd);
	peer_answer(&a, command.id, 0, 7, "ok");
	daemon_call_end(pid);
	ck_assert_int_eq(read(end[0], text, sizeof(text)), 6);
	ck_assert_str_eq(text, "stream");
	/* Nobody else holds it: hvd has let go of it, too. */
	ck_assert_int_eq(read(end[0], text, sizeof(text)), 0);
	close(end[0]);
	tear_down();
}
END_TEST

START_TEST(a_vm_that_dies_while_saved_ends_the_call)
{
	int end[2];
	pid_t pid;

	set_up();
	ck_assert_int_eq(pipe2(end, O_CLOEXEC), 0);
	pid = save_begin(end[1], -ENOTCONN);
	(void)peer_command(&a);
	close(a.file_fd);
	peer_kill(&a);
	daemon_call_end(pid);
	close(end[0]);
	close(end[1]);
	daemon_stop(&d);
}
END_TEST

/* n descriptors, all of the same file. */
static void text_send(int sock, const char *text, int fd, size_t n)
{
	_Alignas(struct cmsghdr) char buf[CMSG_SPACE(8 * sizeof(int))] = {0};
	char copy[256];
	struct iovec iov = {copy, strlen(text)};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = buf,
			    .msg_controllen = CMSG_SPACE(n * sizeof(int))};
	struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);

	snprintf(copy, sizeof(copy), "%s", text);
	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = CMSG_LEN(n * sizeof(int));
	for (size_t i = 0; i < n; i++)
		memcpy(CMSG_DATA(cm) + i * sizeof(int), &fd, sizeof(int));
	ck_assert_int_eq(sendmsg(sock, &mh, MSG_NOSIGNAL),
			 (ssize_t)iov.iov_len);
}

/* Whatever was passed, hvd holds none of it when the connection is gone. */
START_TEST(descriptors_nobody_asked_for_are_closed)
{
	static const size_t count[] = {1, 2, 3, 8};
	char text[64];
	int end[2], sock;
	size_t i;

	set_up();
	for (i = 0; i < ARRAY_LEN(count); i++) {
		ck_assert_int_eq(pipe2(end, O_CLOEXEC), 0);
		sock = daemon_connect(&d);
		text_send(sock, "{\"method\":", end[1], count[i]);
		if (count[i] == 1) {
			/* One may wait; a second may not. */
			text_send(sock, "\"host\"", end[1], 1);
		}
		close(end[1]);
		ck_assert_int_eq(recv(sock, text, sizeof(text), 0), 0);
		close(sock);
		/* Blocks if anybody still has it. */
		ck_assert_int_eq(read(end[0], text, sizeof(text)), 0);
		close(end[0]);
	}
	/* One that no request wanted goes with its connection. */
	ck_assert_int_eq(pipe2(end, O_CLOEXEC), 0);
	sock = daemon_connect(&d);
	text_send(sock, HOST "\n", end[1], 1);
	close(end[1]);
	ck_assert_int_gt(recv(sock, text, sizeof(text), 0), 0);
	close(sock);
	ck_assert_int_eq(read(end[0], text, sizeof(text)), 0);
	close(end[0]);
	tear_down();
}
END_TEST

/* ---- lending ------------------------------------------------------------- */

/* The next target that is lent nothing, or something. */
static struct wire_target target_lent(struct peer *p, bool something)
{
	struct wire_target target;

	do {
		target = peer_target(p);
	} while (!target.lent_bytes == something);
	return target;
}

static void budget_set(uint64_t bytes)
{
	char request[128];

	snprintf(request, sizeof(request),
		 "{\"method\":\"budget\",\"params\":{\"bytes\":%llu}}",
		 (unsigned long long)bytes);
	json_decref(daemon_call(&d, request, NULL));
}

static void weight_set(const char *vm, unsigned weight, struct peer *p)
{
	char request[160];
	struct wire_command command;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (!pid) {
		snprintf(request, sizeof(request),
			 "{\"method\":\"set\",\"params\":{\"vm\":\"%s\","
			 "\"weight\":%u}}",
			 vm, weight);
		_exit(!daemon_call(&d, request, NULL));
	}
	command = peer_command(p);
	ck_assert_uint_eq(command.weight, weight);
	peer_answer(p, command.id, 0, 0, "ok");
	daemon_call_end(pid);
}

/* What is left of 1 GiB above the minimum, in the relation of the weights. */
START_TEST(free_memory_is_lent_by_weight)
{
	uint64_t x = 0, y = 0, sum;
	int i;

	set_up();
	peer_join(&b, &d, "b", "lab");
	line_stats_send(&b, 1000, GIB);
	weight_set("b", 3000, &b);
	line_stats_send(&a, 1000, GIB);
	line_stats_send(&b, 1000, GIB);
	budget_set(GIB);
	for (i = 0; i < 20 && !(y > x * 2 && y < GIB); i++) {
		x = target_lent(&a, true).lent_bytes;
		y = target_lent(&b, true).lent_bytes;
	}
	sum = x + y;
	ck_assert_uint_lt(sum, GIB - GIB / 20); /* 6 % is the minimum */
	ck_assert_uint_gt(sum, GIB / 2);
	ck_assert_uint_gt(y * 100, x * 297);
	ck_assert_uint_lt(y * 100, x * 303);
	peer_kill(&b);
	tear_down();
}
END_TEST

/*
 * A VM grows until 70 % of the minimum is free: nothing is lent any more, and
 * nothing else is done about it. hvd says who took it.
 */
START_TEST(what_is_lent_is_taken_first)
{
	const char *why = "{\"method\":\"why\",\"params\":{\"vm\":\"b\"}}";
	const uint64_t min = GIB / 100 * 6;
	struct wire_target target;
	json_t *reply, *taker;

	set_up();
	peer_join(&b, &d, "b", "lab");
	line_stats_send(&b, 1000, 100 * MIB);
	budget_set(GIB);
	target = target_lent(&b, true);
	line_stats_send(&a, (GIB - min / 100 * 70) / PAGE_BYTES - 1100, 0);
	line_stats_send(&b, 1000, 100 * MIB);
	target = target_lent(&b, false);
	ck_assert_uint_eq(target.resident_bytes, 0);
	ck_assert_uint_eq(target.flags & (WIRE_MAY_COMPRESS | WIRE_MAY_SWAP),
			  0);
	ck_assert_uint_lt(target.pressure, 2);
	reply = daemon_call(&d, why, NULL);
	taker = json_array_get(
		json_object_get(json_object_get(reply, "guest"), "taken_by"),
		0);
	ck_assert_str_eq(json_string_value(json_object_get(taker, "name")),
			 "a");
	ck_assert_int_eq(json_integer_value(json_object_get(taker, "bytes")),
			 100 * MIB);
	json_decref(reply);
	peer_kill(&b);
	tear_down();
}
END_TEST

/* A guest has all it is lent, and a little less could be: it keeps it. */
START_TEST(what_is_left_to_a_guest_was_not_taken)
{
	const char *why = "{\"method\":\"why\",\"params\":{\"vm\":\"a\"}}";
	uint64_t lent;

	set_up();
	budget_set(GIB);
	do
		lent = target_lent(&a, true).lent_bytes;
	while (lent > GIB);
	line_stats_send(&a, 1000, lent);
	line_stats_send(&a, 1256, lent);
	peer_hears_not(&a, WIRE_TARGET, 2500);
	ck_assert_int_eq(daemon_number(&d, why, "guest.taken_bytes"), 0);
	tear_down();
}
END_TEST

START_TEST(no_one_is_lent_more_than_its_cap)
{
	struct wire_stats stats = {.guest = {.lines = 1,
					     .weight = 1000,
					     .cap_bytes = 50 * MIB,
					     .compress = 1}};
	struct wire_target target;

	set_up();
	stats.mm.ram_pages = 100000;
	peer_send(&a, WIRE_STATS, &stats, sizeof(stats));
	budget_set(GIB);
	do
		target = target_lent(&a, true);
	while (target.lent_bytes != 50 * MIB);
	ck_assert_int_eq(daemon_number(&d, LIST, "vms.0.cap_bytes"), 50 * MIB);
	tear_down();
}
END_TEST

/* Their sum is 1 in 64 bits: a reserve that is easily kept. */
START_TEST(reserves_beyond_all_memory_lend_no_more_than_there_is)
{
	static const uint64_t reserve[] = {INT64_MAX, INT64_MAX, 3};
	struct peer *const peer[] = {&a, &b, &c};
	struct wire_stats stats = {.guest = {.lines = 1, .weight = 1000}};

	set_up();
	peer_join(&b, &d, "b", "lab");
	peer_join(&c, &d, "c", "lab");
	stats.mm.ram_pages = 100000;
	for (int i = 0; i < 3; i++) {
		stats.guest.reserve_bytes = reserve[i];
		peer_send(peer[i], WIRE_STATS, &stats, sizeof(stats));
	}
	daemon_await(&d, LIST, "vms.2.reserve_bytes", 3);
	daemon_await(&d, LIST, "vms.1.reserve_bytes", INT64_MAX);
	budget_set(GIB);
	for (int i = 0; i < 3; i++)
		while (target_lent(peer[i], true).lent_bytes > GIB / 3)
			;
	peer_kill(&b);
	peer_kill(&c);
	tear_down();
}
END_TEST

static Suite *suite_make(void)
{
	Suite *suite = suite_create("daemon_client");
	TCase *tc = tcase_create("client");

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, each_method_is_one_command, 0,
			    (int)ARRAY_LEN(calls));
	tcase_add_test(tc, bad_calls_are_refused);
	tcase_add_test(tc, a_flush_asks_all_who_have_as_much);
	tcase_add_test(tc, what_an_unmanaged_vm_has_is_not_freeable);
	tcase_add_test(tc, two_settings_at_once_are_both_kept);
	tcase_add_test(tc, dry_runs_tell_and_do_nothing);
	tcase_add_test(tc, the_callers_file_is_passed_on);
	tcase_add_test(tc, a_vm_that_dies_while_saved_ends_the_call);
	tcase_add_test(tc, descriptors_nobody_asked_for_are_closed);
	tcase_add_test(tc, free_memory_is_lent_by_weight);
	tcase_add_test(tc, what_is_lent_is_taken_first);
	tcase_add_test(tc, what_is_left_to_a_guest_was_not_taken);
	tcase_add_test(tc, no_one_is_lent_more_than_its_cap);
	tcase_add_test(tc,
		       reserves_beyond_all_memory_lend_no_more_than_there_is);
	suite_add_tcase(suite, tc);
	return suite;
}

int main(int argc, char **argv)
{
	(void)argc;
	daemon_find(&d, argv[0]);
	return suite_run(suite_make());
}
