/* SPDX-License-Identifier: GPL-2.0-or-later */
/* hvd as a QMP client: the balloon of a guest whose QEMU is played here. */
#include "tests/support/daemon.h"
#include "tests/support/run.h"

#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LIST "{\"method\": \"list\"}"
#define HOST "{\"method\": \"host\"}"
#define MIB  ((uint64_t)1 << 20)

static struct daemon d;
static struct peer a;

static void pressure_set(const char *state)
{
	char request[128];
	json_t *result;

	snprintf(request, sizeof(request),
		 "{\"method\":\"pressure\",\"params\":{\"state\":\"%s\"}}",
		 state);
	result = daemon_call(&d, request, NULL);
	ck_assert_ptr_nonnull(result);
	json_decref(result);
}

static void stats_send(struct peer *p, uint64_t pages, uint64_t cold)
{
	struct wire_stats stats = {.mm = {.ram_pages = pages,
					  .private_pages = pages,
					  .cold_pages = cold}};

	peer_send(p, WIRE_STATS, &stats, sizeof(stats));
}

struct qmp {
	int listener, fd;
	char in[4096];
	size_t n;
	double actual;
	int update;
};

static void qmp_listen(struct qmp *q)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	memset(q, 0, sizeof(*q));
	q->actual = (double)(400 * MIB);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/qmp.sock", d.dir);
	q->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(
		bind(q->listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	ck_assert_int_eq(listen(q->listener, 1), 0);
}

static void qmp_say(struct qmp *q, const char *text)
{
	ck_assert_int_eq(send(q->fd, text, strlen(text), MSG_NOSIGNAL),
			 (ssize_t)strlen(text));
}

static void qmp_accept(struct qmp *q)
{
	q->fd = accept(q->listener, NULL, NULL);
	ck_assert_int_ge(q->fd, 0);
	qmp_say(q, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n");
}

static void qmp_close(struct qmp *q)
{
	close(q->fd);
	close(q->listener);
}

static json_t *qmp_request(struct qmp *q)
{
	struct pollfd pfd = {.fd = q->fd, .events = POLLIN};
	json_t *request;
	ssize_t got;
	char *end;

	while (!(end = memchr(q->in, '\n', q->n))) {
		ck_assert_int_eq(poll(&pfd, 1, 20000), 1);
		got = recv(q->fd, q->in + q->n, sizeof(q->in) - q->n, 0);
		if (got <= 0)
			return NULL;
		q->n += (size_t)got;
	}
	request = json_loadb(q->in, (size_t)(end - q->in), 0, NULL);
	ck_assert_ptr_nonnull(request);
	q->n -= (size_t)(end + 1 - q->in);
	memmove(q->in, end + 1, q->n);
	return request;
}

/* Answers one request as QEMU does; if `balloon`: the value asked for. */
static double qmp_serve(struct qmp *q, double available)
{
	json_t *request = qmp_request(q), *args;
	const char *what, *path;
	char text[1024];
	double value = 0;

	if (!request)
		return -1;
	what = json_string_value(json_object_get(request, "execute"));
	args = json_object_get(request, "arguments");
	path = json_string_value(json_object_get(args, "path"));
	/* An event in between is nobody's answer. */
	qmp_say(q, "{\"event\": \"RTC_CHANGE\", \"timestamp\": {}}\r\n");
	if (!strcmp(what, "qom-list") && strstr(path, "-anon"))
		snprintf(text, sizeof(text),
			 "{\"return\": [{\"name\": \"type\", \"type\": "
			 "\"string\"}, {\"name\": \"device[3]\", \"type\": "
			 "\"child<virtio-balloon-pci>\"}]}\r\n");
	else if (!strcmp(what, "qom-list"))
		snprintf(text, sizeof(text), "{\"return\": []}\r\n");
	else if (!strcmp(what, "query-memory-size-summary"))
		snprintf(text, sizeof(text),
			 "{\"return\": {\"base-memory\": %.0f}}\r\n",
			 (double)(400 * MIB));
	else if (!strcmp(what, "query-balloon"))
		snprintf(text, sizeof(text),
			 "{\"return\": {\"actual\": %.0f}}\r\n", q->actual);
	else if (!strcmp(what, "qom-get"))
		snprintf(text, sizeof(text),
			 "{\"return\": {\"stats\": {\"stat-available-memory\":"
			 " %.0f, \"stat-free-memory\": 18446744073709551615},"
			 " \"last-update\": %d}}\r\n",
			 available, ++q->update);
	else
		snprintf(text, sizeof(text), "{\"return\": {}}\r\n");
	if (!strcmp(what, "qom-set") || !strcmp(what, "qom-get"))
		ck_assert_str_eq(path, "/machine/peripheral-anon/device[3]");
	if (!strcmp(what, "balloon"))
		value = q->actual =
			json_number_value(json_object_get(args, "value"));
	qmp_say(q, text);
	json_decref(request);
	return value;
}

static double qmp_until_moved(struct qmp *q, double available)
{
	double value = 0;
	int i;

	for (i = 0; i < 60 && !value; i++)
		value = qmp_serve(q, available);
	return value;
}

/* A VM whose QEMU has yet to accept hvd. */
static void set_up(struct qmp *q)
{
	daemon_start(&d, NULL, NULL);
	qmp_listen(q);
	peer_open(&a, &d);
	snprintf(a.qmp, sizeof(a.qmp), "%s/qmp.sock", d.dir);
	peer_hello(&a, "a", "lab", false);
	ck_assert_ptr_nonnull(peer_hear(&a, WIRE_WELCOME));
}

static void tear_down(struct qmp *q)
{
	qmp_close(q);
	peer_kill(&a);
	daemon_stop(&d);
}

START_TEST(the_balloon_takes_and_gives_back)
{
	struct qmp q;

	set_up(&q);
	stats_send(&a, 400 * MIB / 4096, 200 * MIB / 4096);
	daemon_await(&d, LIST, "vms.0.mm.private_pages", 102400);
	pressure_set("soft");
	qmp_accept(&q);
	/* At most a tenth of its RAM at a time. */
	ck_assert_double_eq_tol(qmp_until_moved(&q, (double)(300 * MIB)),
				(double)(360 * MIB), 1e6);
	/* 64 MiB stay available to the guest, whatever is needed. */
	ck_assert_double_eq_tol(qmp_until_moved(&q, (double)(84 * MIB)),
				(double)(340 * MIB), 1e6);
	/* Short of that, it gets some back. */
	ck_assert_double_eq_tol(qmp_until_moved(&q, (double)(14 * MIB)),
				(double)(390 * MIB), 1e6);
	pressure_set("high");
	ck_assert_double_eq_tol(qmp_until_moved(&q, (double)(100 * MIB)),
				(double)(400 * MIB), 1);
	tear_down(&q);
}
END_TEST

static void pressure_moves(const char *state, struct qmp *q)
{
	pressure_set(state);
	ck_assert(qmp_until_moved(q, (double)(300 * MIB)) > 0);
}

/* And something has been taken. */
static void set_up_taken(struct qmp *q)
{
	set_up(q);
	stats_send(&a, 400 * MIB / 4096, 200 * MIB / 4096);
	daemon_await(&d, LIST, "vms.0.mm.private_pages", 102400);
	pressure_set("soft");
	qmp_accept(q);
	ck_assert(qmp_until_moved(q, (double)(300 * MIB)) > 0);
}

/* Also back and forth, faster than its steps. */
START_TEST(the_balloon_moves_with_the_pressure)
{
	struct qmp q;
	int i;

	set_up_taken(&q);
	for (i = 0; i < 4; i++) {
		pressure_moves("high", &q);
		pressure_moves("soft", &q);
	}
	tear_down(&q);
}
END_TEST

START_TEST(the_balloon_takes_what_a_guest_offers)
{
	struct wire_stats stats = {.mm = {.ram_pages = 400 * MIB / 4096,
					  .private_pages = 400 * MIB / 4096}};
	struct qmp q;

	set_up(&q);
	stats.guest.lines = stats.guest.drivers = 1;
	stats.guest.driver_offer_pages = 20 * MIB / 4096;
	peer_send(&a, WIRE_STATS, &stats, sizeof(stats));
	daemon_await(&d, LIST, "vms.0.mm.private_pages", 102400);
	pressure_set("clear");
	qmp_accept(&q);
	ck_assert_double_eq_tol(qmp_until_moved(&q, (double)(300 * MIB)),
				(double)(380 * MIB), 1);
	/* No offer any more: it stays, until the host is at ease. */
	stats.guest.driver_offer_pages = 0;
	stats.mm.private_pages--;
	peer_send(&a, WIRE_STATS, &stats, sizeof(stats));
	daemon_await(&d, LIST, "vms.0.mm.private_pages", 102399);
	pressure_set("high");
	ck_assert_double_eq_tol(qmp_until_moved(&q, (double)(300 * MIB)),
				(double)(400 * MIB), 1);
	tear_down(&q);
}
END_TEST

/* What is asked of it last, before hvd hangs up; its answers are not heard. */
static double qmp_last_move(struct qmp *q)
{
	json_t *request, *args;
	double value = 0;

	while ((request = qmp_request(q))) {
		args = json_object_get(request, "arguments");
		if (json_object_get(args, "value"))
			value = json_number_value(
				json_object_get(args, "value"));
		json_decref(request);
	}
	return value;
}

START_TEST(an_unmanaged_guest_gets_its_memory_back)
{
	struct qmp q;

	set_up_taken(&q);
	peer_unmanage(&d, &a);
	ck_assert_double_eq_tol(qmp_last_move(&q), (double)(400 * MIB), 1);
	tear_down(&q);
}
END_TEST

START_TEST(a_mad_qmp_server_is_left_alone)
{
	static const char *const mad[] = {
		"rubbish\n", "{\"QMP\": {}}\n[1]\n", "{}\n{}\n",
		"{\"QMP\":{}}\n{\"return\":{}}\n{\"return\":7}\n"};
	struct qmp q;

	set_up(&q);
	stats_send(&a, 1000, 0);
	q.fd = accept(q.listener, NULL, NULL);
	qmp_say(&q, mad[_i]);
	poll(NULL, 0, 200);
	qmp_close(&q);
	poll(NULL, 0, 200);
	ck_assert_int_eq(daemon_number(&d, HOST, "vms"), 1);
	peer_kill(&a);
	daemon_stop(&d);
}
END_TEST

int main(int argc, char **argv)
{
	Suite *s = suite_create("daemon_balloon");
	TCase *tc = tcase_create("daemon_balloon");

	(void)argc;
	daemon_find(&d, argv[0]);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, the_balloon_takes_and_gives_back);
	tcase_add_test(tc, the_balloon_moves_with_the_pressure);
	tcase_add_test(tc, the_balloon_takes_what_a_guest_offers);
	tcase_add_test(tc, an_unmanaged_guest_gets_its_memory_back);
	tcase_add_loop_test(tc, a_mad_qmp_server_is_left_alone, 0, 4);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
