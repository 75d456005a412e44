/* SPDX-License-Identifier: GPL-2.0-or-later */
/* hv and tmem-ctl as wholes: words in, exit code and text out. */
#include "tests/support/command.h"
#include "tests/support/fake_hvd.h"
#include "tests/support/run.h"

#include <check.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <poll.h>
#include <unistd.h>

static struct fake_hvd *fake;

#define VM(name, private)                                                      \
	"{\"name\":\"" name "\",\"domain\":\"desks\",\"state\":\"managed\","   \
	"\"limit_bytes\":0,\"mm\":{\"ram_pages\":1024,\"private_"              \
	"pages\":" private ",\"held_pages\":0,\"shared_pages\":256,"           \
			   "\"faults\":5,"                                     \
			   "\"fault_p50_ns\":50000},\"tmem\":{\"pages\":3}}"

static void set_up(void)
{
	fake = fake_hvd_start();
	setenv("TIDEPOOL_RUN_DIR", fake_hvd_dir(fake), 1);
	fake_hvd_reply(
		fake, "list",
		"{\"vms\":[" VM("desk1", "512") "," VM("desk2", "128") "]}");
	fake_hvd_reply(fake, "show", VM("desk1", "512"));
	fake_hvd_reply(fake, "host",
		       "{\"memory_bytes\":1073741824,\"pressure\":\"soft\","
		       "\"pressure_forced\":true,\"budget_bytes\":0}");
}

static void tear_down(void)
{
	command_forget();
	fake_hvd_stop(fake);
}

static int hv(const char *words)
{
	return command_run(&program_hv, words);
}

static int tmem(const char *words)
{
	return command_run(&program_tmem, words);
}

START_TEST(every_verb_has_help_and_an_example)
{
	static const struct program *const programs[] = {&program_hv,
							 &program_tmem};
	char words[64];

	for (size_t p = 0; p < ARRAY_LEN(programs); p++)
		for (size_t i = 0; i < programs[p]->n; i++) {
			const char *verb = programs[p]->verbs[i].name;

			snprintf(words, sizeof(words), "%s --help", verb);
			ck_assert_int_eq(command_run(programs[p], words),
					 CTL_DONE);
			ck_assert_ptr_nonnull(strstr(out_text, "Examples:"));
			snprintf(words, sizeof(words), "  %s %s",
				 programs[p]->name, verb);
			ck_assert_ptr_nonnull(strstr(out_text, words));
			ck_assert_str_eq(err_text, "");
		}
}
END_TEST

START_TEST(list_is_a_table)
{
	ck_assert_int_eq(hv("list"), CTL_DONE);
	ck_assert_ptr_eq(strstr(out_text, "NAME "), out_text);
	ck_assert_ptr_nonnull(strstr(
		out_text, "\ndesk1  desks   managed  4.0M     2.0M    1.0M"));
	ck_assert_ptr_nonnull(
		strstr(out_text, "\ntotal  -       -        8.0M     2.5M"));
	ck_assert_str_eq(err_text, "");
}
END_TEST

START_TEST(json_is_the_reply)
{
	ck_assert_int_eq(hv("show desk1 --json"), CTL_DONE);
	ck_assert_ptr_nonnull(strstr(out_text, "\"ram_pages\": 1024"));
	ck_assert_int_eq(out_text[0], '{');
	ck_assert_int_eq(tmem("top --json"), CTL_DONE);
	ck_assert_ptr_eq(strstr(out_text, "{\"host\":{"), out_text);
	ck_assert_ptr_nonnull(strstr(out_text, ",\"vms\":[{"));
}
END_TEST

START_TEST(stats_are_named_as_sent)
{
	ck_assert_int_eq(hv("stats desk1"), CTL_DONE);
	ck_assert_ptr_nonnull(strstr(out_text, "mm.fault_p50_ns"));
	ck_assert_ptr_nonnull(strstr(out_text, "50.0us"));
	ck_assert_ptr_nonnull(strstr(out_text, "tmem.pages"));
	ck_assert_int_eq(hv("stats"), CTL_DONE);
	ck_assert_ptr_nonnull(strstr(out_text, "mm.private_pages   2.5M"));
	/* medians have no sum */
	ck_assert_ptr_nonnull(strstr(out_text, "mm.fault_p50_ns       -"));
}
END_TEST

static const char *const misuses[] = {
	"nonsense",
	"list desk1",
	"show",
	"show a b",
	"list --nonsense",
	"list --json=1",
	"list --watch=x",
	"list --watch 0",
	"set desk1",
	"set desk1 --limit",
	"set desk1 --limit x",
	"set desk1 --shares 1K",
	"set --limit 1G",
	"budget 12Q",
	"pressure tight",
	"budget",
	"set desk1 --limit 9E",
	"help nonsense",
	"set desk1 --weight 5",
	"list --socket",
	"show --dry-run desk1",
	"qemu",
	"set desk1 --limit 1G --limit=",
};

START_TEST(misuse_is_exit_2_and_asks_nothing)
{
	ck_assert_int_eq(hv(misuses[_i]), CTL_USAGE);
	ck_assert_str_ne(err_text, "");
	ck_assert_str_eq(out_text, "");
	ck_assert_uint_eq(fake_hvd_requests(fake), 0);
}
END_TEST

START_TEST(refusal_is_exit_1_with_the_reason)
{
	fake_hvd_reply(fake, "show",
		       "!{\"id\":%ID%,\"error\":{\"errno\":\"ENOENT\","
		       "\"message\":\"no VM named \\u001b[2J\"}}");
	ck_assert_int_eq(hv("show desk9"), CTL_REFUSED);
	ck_assert_str_eq(err_text, "hv: no VM named ?[2J\n");
	ck_assert_str_eq(out_text, "");
}
END_TEST

START_TEST(no_hvd_is_exit_3_and_says_how_to_start_it)
{
	ck_assert_int_eq(hv("list --socket /nonexistent/x"), CTL_UNREACHABLE);
	ck_assert_ptr_nonnull(strstr(err_text, "/nonexistent/x"));
	ck_assert_ptr_nonnull(strstr(err_text, "systemctl start hvd"));
	setenv("TIDEPOOL_RUN_DIR", "/nonexistent/y", 1);
	ck_assert_int_eq(tmem("top"), CTL_UNREACHABLE);
	ck_assert_ptr_nonnull(strstr(err_text, "/nonexistent/y/control.sock"));
	ck_assert_int_eq(tmem("list --watch"), CTL_UNREACHABLE);
}
END_TEST

START_TEST(set_sends_only_what_was_given)
{
	fake_hvd_reply(fake, "set",
		       "{\"changed\":{\"limit_bytes\":[0,2147483648],"
		       "\"shares\":[1000,5]}}");
	ck_assert_int_eq(hv("set desk1 --limit 2G --shares=5"), CTL_DONE);
	fake_hvd_heard(fake, "{\"dry_run\":false,\"limit_bytes\":2147483648,"
			     "\"shares\":5,\"vm\":\"desk1\"}");
	ck_assert_str_eq(out_text, "desk1: limit_bytes changed from 0 to 2.0G\n"
				   "desk1: shares changed from 1000 to 5\n");
	fake_hvd_reply(fake, "set",
		       "{\"changed\":{\"compress\":[true,false]}}");
	ck_assert_int_eq(tmem("set --compress off --dry-run desk1"), CTL_DONE);
	fake_hvd_heard(
		fake, "{\"compress\":false,\"dry_run\":true,\"vm\":\"desk1\"}");
	ck_assert_str_eq(out_text, "desk1: compress would be changed from on "
				   "to off\n");
	ck_assert_int_eq(tmem("set desk1 --compress maybe"), CTL_USAGE);
}
END_TEST

START_TEST(changes_pass_dry_run_on)
{
	fake_hvd_reply(fake, "flush", "{\"flushed_bytes\":1048576}");
	fake_hvd_reply(fake, "pressure",
		       "{\"was\":\"clear\",\"now\":\"hard\"}");
	fake_hvd_reply(fake, "budget", "{\"was_bytes\":0,\"now_bytes\":1024}");
	fake_hvd_reply(fake, "unshare", "{}");
	fake_hvd_reply(fake, "unmanage", "{}");
	ck_assert_int_eq(tmem("flush 2M --client desk1 --dry-run"), CTL_DONE);
	fake_hvd_heard(fake,
		       "{\"bytes\":2097152,\"dry_run\":true,\"vm\":\"desk1\"}");
	ck_assert_str_eq(out_text,
			 "1.0M of ephemeral pages would be flushed\n");
	ck_assert_int_eq(hv("pressure hard"), CTL_DONE);
	fake_hvd_heard(fake, "{\"dry_run\":false,\"state\":\"hard\"}");
	ck_assert_str_eq(out_text, "pressure changed from clear to hard\n");
	ck_assert_int_eq(hv("budget 1K --dry-run"), CTL_DONE);
	fake_hvd_heard(fake, "{\"bytes\":1024,\"dry_run\":true}");
	ck_assert_str_eq(out_text, "budget would be changed from whole host to "
				   "1.0K\n");
	ck_assert_int_eq(hv("unshare desk1 --dry-run"), CTL_DONE);
	fake_hvd_heard(fake, "{\"dry_run\":true,\"vm\":\"desk1\"}");
	ck_assert_int_eq(hv("unmanage desk1"), CTL_DONE);
	fake_hvd_heard(fake, "{\"dry_run\":false,\"vm\":\"desk1\"}");
}
END_TEST

START_TEST(failed_check_is_exit_1)
{
	fake_hvd_reply(fake, "check", "{\"ok\":true,\"vms\":[]}");
	ck_assert_int_eq(tmem("check"), CTL_DONE);
	fake_hvd_reply(fake, "check",
		       "{\"ok\":false,\"vms\":[{\"name\":\"a\",\"ok\":false,"
		       "\"text\":\"count is off\"}]}");
	ck_assert_int_eq(tmem("check a"), CTL_REFUSED);
	ck_assert_ptr_nonnull(strstr(out_text, "a       no     count is off"));
	fake_hvd_reply(fake, "check", "{}");
	ck_assert_int_eq(tmem("check --json"), CTL_REFUSED);
}
END_TEST

/* Replies of any shape: dashes, perhaps, but no crash and no error. */
START_TEST(odd_replies_are_shown_as_dashes)
{
	static const char *const odd[] = {
		"{}", "{\"vms\":3,\"domains\":{},\"causes\":7}",
		"{\"vms\":[null,[],{\"mm\":null,\"tmem\":{\"a\":{}}}],"
		"\"domains\":[{\"vms\":[1,[]]}],\"causes\":[{}],\"mm\":{"
		"\"x\":-1,\"y\":\"\"},\"changed\":{\"a\":3,\"b\":[],"
		"\"c\":[[],{}]}}"};
	static const char *const words[] = {
		"list",		 "show a",    "stats",		 "stats a",
		"domains",	 "host",      "why a",		 "version",
		"pressure hard", "budget 1G", "set a --shares 2"};
	static const char *const methods[] = {"list",	 "show",   "domains",
					      "host",	 "why",	   "set",
					      "version", "budget", "pressure"};

	for (size_t i = 0; i < ARRAY_LEN(methods); i++)
		fake_hvd_reply(fake, methods[i], odd[_i]);
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		ck_assert_int_eq(hv(words[i]), CTL_DONE);
	ck_assert_int_eq(tmem("list"), CTL_DONE);
	ck_assert_int_eq(tmem("list a"), CTL_DONE);
	ck_assert_int_eq(tmem("top"), CTL_DONE);
}
END_TEST

START_TEST(top_without_a_terminal_is_one_table)
{
	ck_assert_int_eq(tmem("top --sort private"), CTL_DONE);
	ck_assert_ptr_eq(strstr(out_text, "pressure soft (forced)"), out_text);
	ck_assert_ptr_nonnull(strstr(out_text, "\ndesk1  4.0M     2.0M"));
	ck_assert_ptr_null(strchr(out_text, '\033'));
	ck_assert_int_eq(tmem("top --sort nonsense"), CTL_USAGE);
}
END_TEST

/* ---- the live screen ------------------------------------------------- */

/* What main() does when asked for SCREEN. */
#define SCREEN "--screen"

static int screen_main(void)
{
	char name[] = "tmem-ctl", verb[] = "top", *argv[] = {name, verb, NULL};

	return program_run(&program_tmem, 2, argv, stdout, stderr);
}

/* Executed: a thread is hvd here, and a child has whatever lock it held. */
static pid_t screen_start(int *terminal)
{
	const struct winsize size = {.ws_row = 24, .ws_col = 80};
	pid_t pid;

	setenv("TERM", "vt100", 1);
	pid = forkpty(terminal, NULL, NULL, &size);
	if (!pid) {
		execl("/proc/self/exe", "test_ctl_program", SCREEN, NULL);
		_exit(127);
	}
	return pid;
}

/* Reads until wanted has come; false: the other end closed, or 10 s. */
static bool screen_shows(int terminal, const char *wanted, char *seen,
			 size_t room)
{
	struct pollfd pfd = {.fd = terminal, .events = POLLIN};
	size_t n = 0;

	seen[0] = '\0';
	while (n + 1 < room && poll(&pfd, 1, 10000) > 0) {
		ssize_t r = read(terminal, seen + n, room - n - 1);

		if (r <= 0)
			return strstr(seen, wanted) != NULL;
		n += (size_t)r;
		seen[n] = '\0';
		if (strstr(seen, wanted))
			return true;
	}
	return false;
}

static void screen_ends_well(bool by_signal)
{
	static char seen[1 << 16];
	int terminal, status;
	pid_t pid = screen_start(&terminal);

	ck_assert_int_gt(pid, 0);
	ck_assert(screen_shows(terminal, "q quit", seen, sizeof(seen)));
	ck_assert_ptr_nonnull(strstr(seen, "pressure soft (forced)"));
	ck_assert_ptr_nonnull(strstr(seen, "desk1"));
	if (by_signal)
		kill(pid, SIGINT);
	else
		ck_assert_int_eq(write(terminal, "q", 1), 1);
	/* vt100's rmkx: the keypad is given back last */
	ck_assert(screen_shows(terminal, "\033[?1l\033>", seen, sizeof(seen)));
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), CTL_DONE);
	close(terminal);
}

START_TEST(screen_quits_on_q)
{
	screen_ends_well(false);
}
END_TEST

START_TEST(screen_survives_ctrl_c_with_the_terminal_put_back)
{
	screen_ends_well(true);
}
END_TEST

/* hvd goes away while it is watched, and comes back. */
START_TEST(screen_outlives_hvd)
{
	static char seen[1 << 16];
	int terminal, status;
	pid_t pid = screen_start(&terminal);

	ck_assert_int_gt(pid, 0);
	ck_assert(screen_shows(terminal, "q quit", seen, sizeof(seen)));
	fake_hvd_reply(fake, "host", "!");
	ck_assert(screen_shows(terminal, "no hvd: still", seen, sizeof(seen)));
	fake_hvd_reply(fake, "host", "{\"pressure\":\"low\"}");
	ck_assert(screen_shows(terminal, "low", seen, sizeof(seen)));
	ck_assert_int_eq(write(terminal, "q", 1), 1);
	ck_assert(screen_shows(terminal, "\033[?1l\033>", seen, sizeof(seen)));
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && !WEXITSTATUS(status));
	close(terminal);
}
END_TEST

static Suite *suite_make(void)
{
	Suite *suite = suite_create("ctl_program");
	TCase *tc = tcase_create("verbs");

	unsetenv("LINES");
	unsetenv("COLUMNS");
	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 40);
	tcase_add_test(tc, every_verb_has_help_and_an_example);
	tcase_add_test(tc, list_is_a_table);
	tcase_add_test(tc, json_is_the_reply);
	tcase_add_test(tc, stats_are_named_as_sent);
	tcase_add_loop_test(tc, misuse_is_exit_2_and_asks_nothing, 0,
			    ARRAY_LEN(misuses));
	tcase_add_test(tc, refusal_is_exit_1_with_the_reason);
	tcase_add_test(tc, no_hvd_is_exit_3_and_says_how_to_start_it);
	tcase_add_test(tc, set_sends_only_what_was_given);
	tcase_add_test(tc, changes_pass_dry_run_on);
	tcase_add_test(tc, failed_check_is_exit_1);
	tcase_add_loop_test(tc, odd_replies_are_shown_as_dashes, 0, 3);
	tcase_add_test(tc, top_without_a_terminal_is_one_table);
	tcase_add_test(tc, screen_quits_on_q);
	tcase_add_test(tc, screen_survives_ctrl_c_with_the_terminal_put_back);
	tcase_add_test(tc, screen_outlives_hvd);
	suite_add_tcase(suite, tc);
	return suite;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], SCREEN))
		return screen_main();
	return suite_run(suite_make());
}
