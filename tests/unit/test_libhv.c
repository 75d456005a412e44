/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libhv against a stand-in hvd that answers well, badly, late or not at all.
 */
#include "hv/libhv/hv.h"
#include "tests/support/fake_hvd.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct fake_hvd *fake;
static struct hv *hv;
static struct hv_value *value;

static void set_up(void)
{
	fake = fake_hvd_start();
	value = NULL;
	ck_assert_int_eq(hv_create(fake_hvd_socket(fake), &hv), 0);
}

static void tear_down(void)
{
	hv_value_free(value);
	hv_destroy(hv);
	fake_hvd_stop(fake);
}

START_TEST(each_method_sends_its_params)
{
	static const struct hv_setting settings[] = {{"limit_bytes", 4096},
						     {"compress", 0}};
	struct hv_value *v[14] = {0};
	static const char *const methods[] = {
		"version", "list",     "show",	   "host",  "domains",
		"set",	   "why",      "freeable", "flush", "check",
		"unshare", "unmanage", "pressure", "budget"};

	for (size_t i = 0; i < ARRAY_LEN(methods); i++)
		fake_hvd_reply(fake, methods[i], "{}");
	ck_assert_int_eq(hv_version(hv, &v[0]), 0);
	fake_hvd_heard(fake, "{}");
	ck_assert_int_eq(hv_list(hv, &v[1]), 0);
	fake_hvd_heard(fake, "{}");
	ck_assert_int_eq(hv_show(hv, "a", &v[2]), 0);
	fake_hvd_heard(fake, "{\"vm\":\"a\"}");
	ck_assert_int_eq(hv_host(hv, &v[3]), 0);
	ck_assert_int_eq(hv_domains(hv, &v[4]), 0);
	ck_assert_int_eq(hv_set(hv, "a", settings, 2, HV_DRY_RUN, &v[5]), 0);
	fake_hvd_heard(fake, "{\"compress\":false,\"dry_run\":true,"
			     "\"limit_bytes\":4096,\"vm\":\"a\"}");
	ck_assert_int_eq(hv_why(hv, "b", &v[6]), 0);
	fake_hvd_heard(fake, "{\"vm\":\"b\"}");
	ck_assert_int_eq(hv_freeable(hv, &v[7]), 0);
	ck_assert_int_eq(hv_flush(hv, NULL, 7, HV_DO, &v[8]), 0);
	fake_hvd_heard(fake, "{\"bytes\":7,\"dry_run\":false}");
	ck_assert_int_eq(hv_check(hv, NULL, &v[9]), 0);
	fake_hvd_heard(fake, "{}");
	ck_assert_int_eq(hv_unshare(hv, "a", HV_DO, &v[10]), 0);
	fake_hvd_heard(fake, "{\"dry_run\":false,\"vm\":\"a\"}");
	ck_assert_int_eq(hv_unmanage(hv, "a", HV_DRY_RUN, &v[11]), 0);
	fake_hvd_heard(fake, "{\"dry_run\":true,\"vm\":\"a\"}");
	ck_assert_int_eq(hv_pressure(hv, "soft", HV_DO, &v[12]), 0);
	fake_hvd_heard(fake, "{\"dry_run\":false,\"state\":\"soft\"}");
	ck_assert_int_eq(hv_budget(hv, INT64_MAX, HV_DO, &v[13]), 0);
	fake_hvd_heard(fake,
		       "{\"bytes\":9223372036854775807,\"dry_run\":false}");
	ck_assert_uint_eq(fake_hvd_requests(fake), 14);
	for (size_t i = 0; i < ARRAY_LEN(v); i++)
		hv_value_free(v[i]);
}
END_TEST

START_TEST(value_is_read_by_name)
{
	const char *text = "{\"vms\": [{\"name\": \"a\", \"mm\": {\"n\": 5}}, "
			   "{\"name\": 3, \"on\": true, \"f\": 2.5, "
			   "\"neg\": -1}]}";
	const struct hv_value *a, *b;
	uint64_t n = 0;
	double f = 0;
	bool on = false;
	char *json;

	fake_hvd_reply(fake, "list", text);
	ck_assert_int_eq(hv_list(hv, &value), 0);
	ck_assert_uint_eq(hv_value_count(value, "vms"), 2);
	a = hv_value_at(value, "vms", 0);
	b = hv_value_at(value, "vms", 1);
	ck_assert_str_eq(hv_value_text(a, "name"), "a");
	ck_assert_int_eq(hv_value_u64(a, "mm.n", &n), 0);
	ck_assert_uint_eq(n, 5);
	ck_assert_ptr_null(hv_value_text(b, "name"));
	ck_assert_int_eq(hv_value_bool(b, "on", &on), 0);
	ck_assert(on);
	ck_assert_int_eq(hv_value_real(b, "f", &f), 0);
	ck_assert(f == 2.5);
	ck_assert_int_eq(hv_value_u64(b, "neg", &n), -ERANGE);
	ck_assert_int_eq(hv_value_u64(b, "f", &n), -ENOENT);
	ck_assert_int_eq(hv_value_u64(b, "mm.n", &n), -ENOENT);
	ck_assert_int_eq(hv_value_u64(NULL, "x", &n), -ENOENT);
	ck_assert_ptr_null(hv_value_at(value, "vms", 2));
	ck_assert_uint_eq(n, 5);
	json = hv_value_json(hv_value_get(a, "mm"), HV_ONE_LINE);
	ck_assert_str_eq(json, "{\"n\":5}");
	free(json);
}
END_TEST

START_TEST(members_come_in_order)
{
	static const char *const names[] = {"z", "a", "m"};
	struct hv_cursor cursor = {0};
	size_t i = 0;

	fake_hvd_reply(fake, "show", "{\"z\": 1, \"a\": 2, \"m\": {}}");
	ck_assert_int_eq(hv_show(hv, "v", &value), 0);
	while (hv_value_next(value, &cursor))
		ck_assert_str_eq(cursor.name, names[i++]);
	ck_assert_uint_eq(i, 3);
	cursor = (struct hv_cursor){0};
	ck_assert(!hv_value_next(NULL, &cursor));
}
END_TEST

START_TEST(refusal_keeps_errno_and_words)
{
	fake_hvd_reply(fake, "show",
		       "!{\"id\": %ID%, \"error\": {\"errno\": \"ENOENT\", "
		       "\"message\": \"no VM named x\"}}");
	ck_assert_int_eq(hv_show(hv, "x", &value), -ENOENT);
	ck_assert_str_eq(hv_error(hv), "no VM named x");
	ck_assert_int_eq(hv_fault(hv), HV_FAULT_REFUSED);
	ck_assert_ptr_null(value);
	fake_hvd_reply(fake, "show",
		       "!{\"id\": null, \"error\": {\"errno\": "
		       "\"EACCES\", \"message\": \"no\"}}");
	ck_assert_int_eq(hv_show(hv, "x", &value), -EACCES);
	fake_hvd_reply(fake, "show",
		       "!{\"id\": %ID%, \"error\": {\"errno\": "
		       "\"EOTHEROS\"}}");
	ck_assert_int_eq(hv_show(hv, "x", &value), -EPROTO);
	ck_assert_int_eq(hv_fault(hv), HV_FAULT_REFUSED);
}
END_TEST

START_TEST(absent_hvd_is_out_of_reach)
{
	struct hv *lonely;

	ck_assert_int_eq(hv_create("/nonexistent/sock", &lonely), 0);
	ck_assert_int_eq(hv_list(lonely, &value), -ENOENT);
	ck_assert_int_eq(hv_fault(lonely), HV_FAULT_REACH);
	ck_assert_str_eq(hv_socket(lonely), "/nonexistent/sock");
	hv_destroy(lonely);
}
END_TEST

START_TEST(long_path_is_refused)
{
	char path[200];
	struct hv *lonely;

	memset(path, 'a', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	ck_assert_int_eq(hv_create(path, &lonely), 0);
	ck_assert_int_eq(hv_list(lonely, &value), -ENAMETOOLONG);
	hv_destroy(lonely);
}
END_TEST

START_TEST(run_dir_names_the_socket)
{
	struct hv *other;

	setenv("TIDEPOOL_RUN_DIR", fake_hvd_dir(fake), 1);
	ck_assert_int_eq(hv_create(NULL, &other), 0);
	ck_assert_str_eq(hv_socket(other), fake_hvd_socket(fake));
	hv_destroy(other);
	unsetenv("TIDEPOOL_RUN_DIR");
	ck_assert_int_eq(hv_create(NULL, &other), 0);
	ck_assert_str_eq(hv_socket(other), "/run/tidepool/control.sock");
	hv_destroy(other);
}
END_TEST

/* A restart between two calls is not seen by the caller. */
START_TEST(restarted_hvd_is_found_again)
{
	struct hv_value *first;

	fake_hvd_reply(fake, "list", "{\"vms\": []}");
	ck_assert_int_eq(hv_list(hv, &first), 0);
	hv_value_free(first);
	fake_hvd_restart(fake);
	ck_assert_int_eq(hv_list(hv, &value), 0);
	ck_assert_uint_eq(fake_hvd_requests(fake), 2);
}
END_TEST

/* hvd dies after it got the request: nobody may send that again. */
START_TEST(request_is_never_sent_twice)
{
	fake_hvd_reply(fake, "flush", "!");
	ck_assert_int_eq(hv_flush(hv, NULL, 1, HV_DO, &value), -ECONNRESET);
	ck_assert_int_eq(hv_fault(hv), HV_FAULT_REACH);
	ck_assert_uint_eq(fake_hvd_requests(fake), 1);
}
END_TEST

START_TEST(silent_hvd_costs_bounded_time)
{
	struct timespec a, b;

	fake_hvd_reply(fake, "list", "!!");
	hv_timeout_set(hv, 200);
	clock_gettime(CLOCK_MONOTONIC, &a);
	ck_assert_int_eq(hv_list(hv, &value), -ETIMEDOUT);
	clock_gettime(CLOCK_MONOTONIC, &b);
	ck_assert_int_eq(hv_fault(hv), HV_FAULT_REACH);
	ck_assert_int_le(b.tv_sec - a.tv_sec, 10);
}
END_TEST

static const char *const bad_replies[] = {
	"!not JSON",
	"![]",
	"!{}",
	"!3",
	"!{\"id\": %ID%}",
	"!{\"id\": %ID%, \"result\": 3}",
	"!{\"id\": %ID%, \"result\": null}",
	"!{\"id\": %ID%, \"error\": \"x\"}",
	"!{\"id\": 999999, \"result\": {}}",
	"!{\"id\": \"%ID%\", \"result\": {}}",
	"!{\"result\": {}}",
	"!{\"id\": %ID%, \"result\": {}, \"result\": {}}",
	"!{\"id\": %ID%, \"result\": {\"n\": 99999999999999999999}}",
	"!{\"id\": %ID%, \"result\": {\"s\": \"\\u0000\"}}",
	"!{\"id\": %ID%, \"result\": {\"s\": \"\xff\"}}",
	"!",
};

START_TEST(bad_reply_is_refused_and_forgotten)
{
	fake_hvd_reply(fake, "list", bad_replies[_i]);
	ck_assert_int_lt(hv_list(hv, &value), 0);
	ck_assert_ptr_null(value);
	ck_assert_int_ne(hv_fault(hv), HV_FAULT_REFUSED);
	ck_assert_str_ne(hv_error(hv), "");
	fake_hvd_reply(fake, "list", "{}");
	ck_assert_int_eq(hv_list(hv, &value), 0);
}
END_TEST

/* A second, unasked line must not become the answer to the next question. */
START_TEST(unasked_line_is_not_an_answer)
{
	struct hv_value *first;
	uint64_t n;

	fake_hvd_reply(fake, "list",
		       "!{\"id\": %ID%, \"result\": {\"n\": 1}}\n"
		       "{\"id\": 2, \"result\": {\"n\": 666}}");
	ck_assert_int_eq(hv_list(hv, &first), 0);
	hv_value_free(first);
	fake_hvd_reply(fake, "list", "{\"n\": 2}");
	ck_assert_int_eq(hv_list(hv, &value), 0);
	ck_assert_int_eq(hv_value_u64(value, "n", &n), 0);
	ck_assert_uint_eq(n, 2);
}
END_TEST

START_TEST(large_reply_arrives_whole)
{
	size_t bytes = (size_t)3 << 20;
	char *text = malloc(bytes + 32);

	strcpy(text, "{\"s\": \"");
	memset(text + 7, 'x', bytes);
	strcpy(text + 7 + bytes, "\"}");
	fake_hvd_reply(fake, "list", text);
	ck_assert_int_eq(hv_list(hv, &value), 0);
	ck_assert_uint_eq(strlen(hv_value_text(value, "s")), bytes);
	free(text);
}
END_TEST

START_TEST(endless_reply_is_cut_off)
{
	size_t bytes = (size_t)17 << 20;
	char *text = malloc(bytes + 1);

	memset(text, 'x', bytes);
	text[0] = '!';
	text[bytes] = '\0';
	fake_hvd_reply(fake, "list", text);
	ck_assert_int_eq(hv_list(hv, &value), -EMSGSIZE);
	ck_assert_int_eq(hv_fault(hv), HV_FAULT_REPLY);
	free(text);
}
END_TEST

START_TEST(bad_argument_is_not_sent)
{
	struct hv_setting huge = {"limit_bytes", UINT64_MAX};
	char *name = calloc(1, 70000);

	ck_assert_int_eq(hv_set(hv, "a", &huge, 1, HV_DO, &value), -EINVAL);
	ck_assert_int_eq(hv_budget(hv, UINT64_MAX, HV_DO, &value), -EINVAL);
	ck_assert_int_eq(hv_show(hv, "\xff\xfe", &value), -EINVAL);
	memset(name, 'a', 69999);
	ck_assert_int_eq(hv_show(hv, name, &value), -E2BIG);
	ck_assert_int_eq(hv_fault(hv), HV_FAULT_LOCAL);
	ck_assert_uint_eq(fake_hvd_requests(fake), 0);
	free(name);
}
END_TEST

START_TEST(given_connection_is_not_renewed)
{
	struct hv *one;
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	ck_assert_int_eq(hv_create_fd(pair[0], &one), 0);
	close(pair[1]);
	ck_assert_int_lt(hv_list(one, &value), 0);
	ck_assert_int_eq(hv_list(one, &value), -ENOTCONN);
	hv_destroy(one);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("libhv");
	TCase *tc = tcase_create("calls");

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, each_method_sends_its_params);
	tcase_add_test(tc, value_is_read_by_name);
	tcase_add_test(tc, members_come_in_order);
	tcase_add_test(tc, refusal_keeps_errno_and_words);
	tcase_add_test(tc, absent_hvd_is_out_of_reach);
	tcase_add_test(tc, long_path_is_refused);
	tcase_add_test(tc, run_dir_names_the_socket);
	tcase_add_test(tc, restarted_hvd_is_found_again);
	tcase_add_test(tc, request_is_never_sent_twice);
	tcase_add_test(tc, silent_hvd_costs_bounded_time);
	tcase_add_loop_test(tc, bad_reply_is_refused_and_forgotten, 0,
			    ARRAY_LEN(bad_replies));
	tcase_add_test(tc, unasked_line_is_not_an_answer);
	tcase_add_test(tc, large_reply_arrives_whole);
	tcase_add_test(tc, endless_reply_is_cut_off);
	tcase_add_test(tc, bad_argument_is_not_sent);
	tcase_add_test(tc, given_connection_is_not_renewed);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
