/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hvd from the administrator's side: the control socket, what it makes agents
 * hear, metrics, and start-up.
 */
#include "tests/support/daemon.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOST "{\"method\": \"host\"}"
#define LIST "{\"method\": \"list\"}"
#define MIB  ((uint64_t)1 << 20)

static struct daemon d;
static struct peer a, b;

static void start_one(void)
{
	daemon_start(&d, NULL, NULL);
	peer_join(&a, &d, "a", "lab");
}

static void stop_one(void)
{
	peer_kill(&a);
	daemon_stop(&d);
}

static void succeeds(const char *request)
{
	char got[32];
	json_t *result = daemon_call(&d, request, got);

	ck_assert_msg(result != NULL, "%s: %s", request, got);
	json_decref(result);
}

static void stats_send(struct peer *p, uint64_t pages, uint64_t cold)
{
	struct wire_stats stats = {0};

	stats.mm.ram_pages = pages;
	stats.mm.private_pages = pages;
	stats.mm.cold_pages = cold;
	stats.mm.held_pages = 3;
	stats.mm.metadata_bytes = 12345;
	stats.mm.fault_p50_ns = 50000;
	stats.tmem.pages = 100;
	stats.tmem.pages_ephemeral = 50;
	stats.tmem.used_bytes = 100 * 4096;
	stats.guest.lines = 1;
	stats.guest.weight = 1000;
	stats.guest.compress = 1;
	stats.guest.freeable_bytes = 50 * 4096;
	peer_send(p, WIRE_STATS, &stats, sizeof(stats));
}

/* The next target of this pressure. */
static struct wire_target target_under(struct peer *p, uint32_t pressure)
{
	struct wire_target target;

	do {
		target = peer_target(p);
	} while (target.pressure != pressure);
	return target;
}

/* ---- looking --------------------------------------------------------------
 */

START_TEST(what_is_known_is_shown)
{
	json_t *vm;
	const char *show = "{\"method\":\"show\",\"params\":{\"vm\":\"a\"}}";

	start_one();
	stats_send(&a, 1000, 10);
	daemon_await(&d, show, "mm.private_pages", 1000);
	vm = daemon_call(&d, show, NULL);
	ck_assert_str_eq(json_string_value(json_object_get(vm, "name")), "a");
	ck_assert_str_eq(json_string_value(json_object_get(vm, "domain")),
			 "lab");
	ck_assert_str_eq(json_string_value(json_object_get(vm, "state")),
			 "managed");
	ck_assert_int_eq(json_integer_value(json_object_get(vm, "pid")), a.pid);
	ck_assert_int_eq(json_integer_value(json_object_get(vm, "shares")),
			 1000);
	ck_assert(json_is_array(json_object_get(vm, "features")));
	ck_assert(json_is_integer(json_object_get(json_object_get(vm, "tmem"),
						  "pages_ephemeral")));
	json_decref(vm);
	ck_assert_int_eq(daemon_number(&d, LIST, "vms.0.mm.cold_pages"), 10);
	ck_assert_int_eq(daemon_number(&d, HOST, "vms"), 1);
	ck_assert_int_gt(daemon_number(&d, HOST, "memory_bytes"), 0);
	ck_assert_int_gt(daemon_number(&d, HOST, "hvd_cpu_ns"), 0);
	ck_assert_int_ge(daemon_number(&d, HOST, "metadata_bytes"), 12345);
	ck_assert_int_eq(
		daemon_number(&d, "{\"method\":\"freeable\"}", "vms.0.bytes"),
		50 * 4096);
	ck_assert_int_eq(daemon_number(&d, "{\"method\":\"freeable\"}",
				       "total_cold_bytes"),
			 13 * 4096);
	ck_assert_int_eq(daemon_number(&d, "{\"method\":\"version\"}", "pid"),
			 d.pid);
	stop_one();
}
END_TEST

START_TEST(why_names_causes)
{
	const char *why = "{\"method\":\"why\",\"params\":{\"vm\":\"a\"}}";
	struct wire_stats stats = {
		.mm = {.ram_pages = 100, .fault_p50_ns = 1000000}};

	start_one();
	peer_send(&a, WIRE_STATS, &stats, sizeof(stats));
	poll(NULL, 0, 100);
	stats.mm.faults = 30;
	stats.mm.faults_compressed = 20;
	peer_send(&a, WIRE_STATS, &stats, sizeof(stats));
	daemon_await(&d, why, "faults", 30);
	ck_assert_int_eq(daemon_number(&d, why, "causes.0.count"), 20);
	ck_assert_int_eq(daemon_number(&d, why, "causes.1.count"), -1);
	daemon_refuses(&d, "{\"method\":\"why\",\"params\":{\"vm\":\"b\"}}",
		       "ENOENT");
	stop_one();
}
END_TEST

static const struct {
	const char *request, *error;
} bad[] = {
	{"{\"method\":\"nonsense\"}", "ENOSYS"},
	{"{\"method\":\"show\"}", "EINVAL"},
	{"{\"method\":\"show\",\"params\":{\"vm\":7}}", "EINVAL"},
	{"{\"method\":\"show\",\"params\":{\"vm\":\"zzz\"}}", "ENOENT"},
	{"{\"method\":\"host\",\"params\":{\"vm\":\"a\"}}", "EINVAL"},
	{"{\"method\":\"set\",\"params\":{\"vm\":\"a\",\"share\":1}}",
	 "EINVAL"},
	{"{\"method\":\"set\",\"params\":{\"vm\":\"a\",\"shares\":0}}",
	 "EINVAL"},
	{"{\"method\":\"set\",\"params\":{\"vm\":\"a\",\"shares\":\"1\"}}",
	 "EINVAL"},
	{"{\"method\":\"set\",\"params\":{\"vm\":\"a\","
	 "\"limit_bytes\":-1}}",
	 "EINVAL"},
	{"{\"method\":\"set\",\"params\":{\"vm\":\"a\","
	 "\"reservation_bytes\":99999999999999}}",
	 "EINVAL"},
	{"{\"method\":\"set\",\"params\":{\"vm\":\"a\",\"limit_bytes\":1,"
	 "\"reservation_bytes\":2}}",
	 "EINVAL"},
	{"{\"method\":\"set\",\"params\":{\"vm\":\"a\",\"dry_run\":1}}",
	 "EINVAL"},
	{"{\"method\":\"pressure\",\"params\":{\"state\":\"awful\"}}",
	 "EINVAL"},
	{"{\"method\":\"pressure\"}", "EINVAL"},
	{"{\"method\":\"budget\"}", "EINVAL"},
	{"{\"method\":\"budget\",\"params\":{\"bytes\":1.5}}", "EINVAL"},
	{"{\"method\":\"flush\"}", "EINVAL"},
	{"[]", "EPROTO"},
	{"{\"method\":1}", "EPROTO"},
	{"{\"method\":\"list\",\"params\":[]}", "EPROTO"},
	{"{\"method\":\"list\",\"method\":\"host\"}", "EPROTO"},
	{"rubbish", "EPROTO"},
	{"", "EPROTO"},
};

START_TEST(bad_calls_are_refused)
{
	size_t i;

	start_one();
	for (i = 0; i < ARRAY_LEN(bad); i++)
		daemon_refuses(&d, bad[i].request, bad[i].error);
	ck_assert_int_eq(daemon_number(&d, LIST, "vms.0.shares"), 1000);
	stop_one();
}
END_TEST

START_TEST(a_line_without_end_ends_the_connection)
{
	char *junk = malloc(70000), answer[1024];
	size_t n = 0;
	ssize_t got;
	int fd;

	daemon_start(&d, NULL, NULL);
	memset(junk, 'x', 70000);
	fd = daemon_connect(&d);
	if (send(fd, junk, 70000, MSG_NOSIGNAL) < 0)
		ck_assert_int_eq(errno, EPIPE);
	while ((got = recv(fd, answer + n, sizeof(answer) - 1 - n, 0)) > 0)
		n += (size_t)got;
	answer[n] = 0;
	ck_assert_ptr_nonnull(strstr(answer, "64 KiB"));
	close(fd);
	free(junk);
	ck_assert_int_eq(daemon_number(&d, HOST, "vms"), 0);
	daemon_stop(&d);
}
END_TEST

START_TEST(calls_may_be_cut_and_joined_anyhow)
{
	const char *text = "{\"id\":1,\"method\":\"version\"}\n"
			   "{\"id\":\"x\",\"method\":\"version\"}\n";
	char answer[2048] = "";
	size_t i, n = 0;
	ssize_t got;
	int fd;

	daemon_start(&d, NULL, NULL);
	fd = daemon_connect(&d);
	for (i = 0; i < strlen(text); i++)
		ck_assert_int_eq(send(fd, text + i, 1, MSG_NOSIGNAL), 1);
	ck_assert_int_gt(send(fd, text, strlen(text), MSG_NOSIGNAL), 0);
	shutdown(fd, SHUT_WR);
	while ((got = recv(fd, answer + n, sizeof(answer) - 1 - n, 0)) > 0)
		n += (size_t)got;
	for (i = 0, n = 0; answer[i]; i++)
		n += answer[i] == '\n';
	ck_assert_uint_eq(n, 4);
	ck_assert_ptr_nonnull(strstr(answer, "\"id\":\"x\""));
	close(fd);
	daemon_stop(&d);
}
END_TEST

/* As another user: root may become one, others cannot try. */
START_TEST(strangers_may_ask_nothing)
{
	int status;
	pid_t pid;

	start_one();
	if (geteuid() == 0) {
		ck_assert_int_eq(chmod(d.dir, 0755), 0);
		pid = fork();
		if (!pid) {
			char got[32];

			if (setgid(65534) || setuid(65534))
				_exit(2);
			if (daemon_call(&d, LIST, got))
				_exit(3);
			_exit(strcmp(got, "EACCES") ? 4 : 0);
		}
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_int_eq(status, 0);
	}
	stop_one();
}
END_TEST

/* ---- what agents are told -------------------------------------------------
 */

START_TEST(pressure_reaches_agents)
{
	struct wire_target t;

	start_one();
	stats_send(&a, 100000, 20000);
	t = peer_target(&a);
	ck_assert_uint_eq(t.flags & WIRE_MAY_SHARE, WIRE_MAY_SHARE);
	ck_assert_uint_eq(t.refault_permille_min, 2);
	ck_assert_uint_eq(t.resident_bytes, 0);
	succeeds("{\"method\":\"pressure\",\"params\":{\"state\":\"low\","
		 "\"dry_run\":true}}");
	ck_assert_int_eq(daemon_number(&d, HOST, "pressure_forced"), 0);
	succeeds("{\"method\":\"pressure\",\"params\":{\"state\":\"hard\"}}");
	t = target_under(&a, 3);
	ck_assert_uint_eq(t.flags & WIRE_MAY_COMPRESS, WIRE_MAY_COMPRESS);
	ck_assert_uint_eq(t.flags & WIRE_MAY_SWAP, 0); /* not configured */
	while (!t.resident_bytes || t.resident_bytes > 81000 * 4096ULL)
		t = peer_target(&a); /* its stats came later */
	/* The cold fifth is what it is asked for. */
	ck_assert_uint_ge(t.resident_bytes, 79000 * 4096ULL);
	ck_assert_uint_eq(t.store_bytes, 100000 * 4096ULL / 100 * 50);
	ck_assert_int_eq(daemon_number(&d, HOST, "pressure_forced"), 1);
	succeeds("{\"method\":\"pressure\",\"params\":{\"state\":\"auto\"}}");
	t = peer_target(&a);
	while (t.pressure == 3)
		t = peer_target(&a);
	ck_assert_uint_eq(t.flags & WIRE_MAY_COMPRESS, 0);
	stop_one();
}
END_TEST

START_TEST(a_budget_makes_pressure)
{
	struct wire_target t, u;

	start_one();
	peer_join(&b, &d, "b", "lab");
	stats_send(&a, 100000, 0);
	stats_send(&b, 100000, 100000);
	daemon_await(&d, LIST, "vms.1.mm.private_pages", 100000);
	succeeds("{\"method\":\"budget\",\"params\":{\"bytes\":700000000}}");
	ck_assert_int_eq(daemon_number(&d, HOST, "budget_bytes"), 700000000);
	/* 819 MB are used: nothing is free. Idle memory is taxed. */
	t = target_under(&a, 4);
	u = target_under(&b, 4);
	ck_assert_uint_gt(t.resident_bytes, u.resident_bytes * 3 / 2);
	ck_assert_uint_gt(u.resident_bytes, 0);
	ck_assert_uint_lt(t.resident_bytes + u.resident_bytes, 700000000);
	succeeds("{\"method\":\"budget\",\"params\":{\"bytes\":0}}");
	peer_kill(&b);
	stop_one();
}
END_TEST

START_TEST(limits_hold_without_pressure)
{
	struct wire_target t;

	start_one();
	stats_send(&a, 100000, 0);
	succeeds("{\"method\":\"set\",\"params\":{\"vm\":\"a\","
		 "\"limit_bytes\":104857600,\"reservation_bytes\":4096,"
		 "\"shares\":5}}");
	do {
		t = peer_target(&a);
	} while (!t.resident_bytes);
	ck_assert_uint_eq(t.resident_bytes, 100 * MIB);
	ck_assert_uint_eq(t.flags & WIRE_MAY_COMPRESS, WIRE_MAY_COMPRESS);
	ck_assert_int_eq(daemon_number(&d, LIST, "vms.0.shares"), 5);
	/* What was set by hand survives hvd's death. */
	daemon_kill(&d);
	daemon_restart(&d);
	peer_connect(&a, &d);
	peer_hello(&a, "a", "lab", true);
	ck_assert_ptr_nonnull(peer_hear(&a, WIRE_WELCOME));
	ck_assert_int_eq(daemon_number(&d, LIST, "vms.0.shares"), 5);
	ck_assert_int_eq(daemon_number(&d, LIST, "vms.0.limit_bytes"),
			 100 * MIB);
	stop_one();
}
END_TEST

START_TEST(set_of_the_store_asks_the_agent)
{
	const char *set = "{\"method\":\"set\",\"params\":{\"vm\":\"a\","
			  "\"weight\":7,\"compress\":false}}";
	struct wire_command c;
	pid_t call;

	start_one();
	call = daemon_call_begin(&d, set,
				 "{\"changed\":{\"compress\":[true,false],"
				 "\"weight\":[1000,7]}}");
	c = peer_command(&a);
	ck_assert_uint_eq(c.op, WIRE_CMD_TMEM_SET);
	ck_assert_uint_eq(c.weight, 7);
	ck_assert_uint_eq(c.compress, 0);
	peer_answer(&a, c.id, 0, 0, "");
	daemon_call_end(call);
	ck_assert_int_eq(daemon_number(&d, LIST, "vms.0.weight"), 7);
	/* Refused by the agent: nothing is changed here either. */
	call = daemon_call_begin(&d,
				 "{\"method\":\"set\",\"params\":{\"vm\":\"a\","
				 "\"weight\":8}}",
				 "ENOSYS");
	c = peer_command(&a);
	peer_answer(&a, c.id, -ENOSYS, 0, "no store");
	daemon_call_end(call);
	ck_assert_int_eq(daemon_number(&d, LIST, "vms.0.weight"), 7);
	stop_one();
}
END_TEST

START_TEST(commands_come_back)
{
	struct wire_command c;
	pid_t call;

	start_one();
	stats_send(&a, 1000, 0);
	daemon_await(&d, LIST, "vms.0.mm.ram_pages", 1000);
	call = daemon_call_begin(
		&d, "{\"method\":\"check\"}",
		"{\"ok\":true,\"vms\":[{\"name\":\"a\",\"ok\":true,"
		"\"text\":\"fine\"}]}");
	c = peer_command(&a);
	ck_assert_uint_eq(c.op, WIRE_CMD_CHECK);
	peer_answer(&a, c.id, 0, 0, "fine");
	daemon_call_end(call);
	call = daemon_call_begin(
		&d, "{\"method\":\"check\",\"params\":{\"vm\":\"a\"}}",
		"{\"ok\":false,\"vms\":[{\"name\":\"a\",\"ok\":false,"
		"\"text\":\"page 7\"}]}");
	peer_answer(&a, peer_command(&a).id, -EUCLEAN, 0, "page 7");
	daemon_call_end(call);
	call = daemon_call_begin(
		&d, "{\"method\":\"flush\",\"params\":{\"bytes\":4096}}",
		"{\"flushed_bytes\":4000}");
	c = peer_command(&a);
	ck_assert_uint_eq(c.op, WIRE_CMD_FLUSH);
	ck_assert_uint_eq(c.arg, 4096);
	peer_answer(&a, c.id, 0, 4000, "");
	daemon_call_end(call);
	/* No more than it has lent. */
	call = daemon_call_begin(&d,
				 "{\"method\":\"flush\",\"params\":{\"bytes\":"
				 "99999999,\"vm\":\"a\",\"dry_run\":true}}",
				 "{\"flushed_bytes\":204800}");
	daemon_call_end(call);
	call = daemon_call_begin(
		&d, "{\"method\":\"unshare\",\"params\":{\"vm\":\"a\"}}", "{}");
	c = peer_command(&a);
	ck_assert_uint_eq(c.op, WIRE_CMD_UNSHARE);
	peer_answer(&a, c.id, 0, 0, "");
	daemon_call_end(call);
	peer_unmanage(&d, &a);
	daemon_refuses(&d, "{\"method\":\"unshare\",\"params\":{\"vm\":\"a\"}}",
		       "ENOTCONN");
	stop_one();
}
END_TEST

START_TEST(a_vm_that_goes_ends_its_calls)
{
	pid_t call;

	start_one();
	call = daemon_call_begin(
		&d, "{\"method\":\"unshare\",\"params\":{\"vm\":\"a\"}}",
		"ENOTCONN");
	peer_command(&a);
	peer_kill(&a);
	daemon_call_end(call);
	/* And a caller that goes leaves nothing behind. */
	peer_join(&a, &d, "a", "lab");
	call = daemon_call_begin(
		&d, "{\"method\":\"unshare\",\"params\":{\"vm\":\"a\"}}", "");
	peer_command(&a);
	kill(call, SIGKILL);
	waitpid(call, NULL, 0);
	ck_assert_int_eq(daemon_number(&d, HOST, "vms"), 1);
	stop_one();
}
END_TEST

/* ---- metrics --------------------------------------------------------------
 */

START_TEST(metrics_are_served)
{
	const char *get = "GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n";
	static char page[1 << 18];
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	char where[] = "/tmp/test_metrics.XXXXXX";
	size_t n = 0;
	ssize_t got;
	int fd;

	close(mkstemp(where));
	daemon_start(&d, "--metrics", where);
	peer_join(&a, &d, "a", "lab");
	stats_send(&a, 1000, 77);
	daemon_await(&d, LIST, "vms.0.mm.cold_pages", 77);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strcpy(addr.sun_path, where);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)),
			 0);
	ck_assert_int_gt(send(fd, get, strlen(get), 0), 0);
	while ((got = recv(fd, page + n, sizeof(page) - 1 - n, 0)) > 0)
		n += (size_t)got;
	page[n] = 0;
	ck_assert_ptr_nonnull(strstr(page, " 200 OK"));
	ck_assert_ptr_nonnull(strstr(
		page, "tidepool_vm_cold_pages{vm=\"a\",domain=\"lab\"} 77\n"));
	ck_assert_ptr_nonnull(
		strstr(page, "# TYPE tidepool_vm_scans_total counter\n"));
	ck_assert_ptr_nonnull(
		strstr(page, "tidepool_domain_members{domain=\"lab\"} 1\n"));
	ck_assert_ptr_nonnull(strstr(page, "tidepool_host_pressure "));
	close(fd);
	unlink(where);
	stop_one();
}
END_TEST

/* ---- starting -------------------------------------------------------------
 */

static int run_hvd(const char *option, const char *value, char *out,
		   size_t room)
{
	int pair[2], status;
	ssize_t n;
	pid_t pid;

	ck_assert_int_eq(pipe(pair), 0);
	pid = fork();
	if (!pid) {
		dup2(pair[1], STDERR_FILENO);
		dup2(pair[1], STDOUT_FILENO);
		execl(d.hvd, "hvd", option, value, "--check-config",
		      (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	n = read(pair[0], out, room - 1);
	out[n > 0 ? n : 0] = 0;
	close(pair[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return WEXITSTATUS(status);
}

START_TEST(mistakes_are_told_at_the_start)
{
	char path[] = "/tmp/test_conf.XXXXXX", out[2048];
	int fd = mkstemp(path);

	ck_assert_int_eq(write(fd, "[hvd]\n\nbudget = 1Z\n", 19), 19);
	close(fd);
	ck_assert_int_eq(run_hvd("--config", path, out, sizeof(out)), 2);
	ck_assert_ptr_nonnull(strstr(out, ":3: "));
	ck_assert_ptr_nonnull(strstr(out, "1Z"));
	unlink(path);
	ck_assert_int_eq(run_hvd("--config", path, out, sizeof(out)), 2);
	ck_assert_ptr_nonnull(strstr(out, "No such file"));
	ck_assert_int_eq(run_hvd("--run-dir", "relative", out, sizeof(out)), 2);
	ck_assert_int_eq(run_hvd("--nonsense", "x", out, sizeof(out)), 2);
	ck_assert_int_eq(run_hvd("--run-dir", "/tmp/x", out, sizeof(out)), 0);
	ck_assert_int_eq(run_hvd("--version", NULL, out, sizeof(out)), 0);
	ck_assert_ptr_nonnull(strstr(out, "hvd 0"));
}
END_TEST

int main(int argc, char **argv)
{
	Suite *s = suite_create("daemon_control");
	TCase *tc = tcase_create("daemon_control");

	(void)argc;
	daemon_find(&d, argv[0]);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, what_is_known_is_shown);
	tcase_add_test(tc, why_names_causes);
	tcase_add_test(tc, bad_calls_are_refused);
	tcase_add_test(tc, a_line_without_end_ends_the_connection);
	tcase_add_test(tc, calls_may_be_cut_and_joined_anyhow);
	tcase_add_test(tc, strangers_may_ask_nothing);
	tcase_add_test(tc, pressure_reaches_agents);
	tcase_add_test(tc, a_budget_makes_pressure);
	tcase_add_test(tc, limits_hold_without_pressure);
	tcase_add_test(tc, set_of_the_store_asks_the_agent);
	tcase_add_test(tc, commands_come_back);
	tcase_add_test(tc, a_vm_that_goes_ends_its_calls);
	tcase_add_test(tc, metrics_are_served);
	tcase_add_test(tc, mistakes_are_told_at_the_start);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
