/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tmem-ctl's verbs about a guest's own pages, and libhv's calls behind them:
 * what they ask hvd, what they print, and what becomes of the files of save and
 * restore when things go well and badly.
 */
#include "tests/support/command.h"
#include "tests/support/fake_hvd.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define UUID "00112233-4455-6677-8899-aabbccddeeff"

static struct fake_hvd *fake;
static char dir[32], file[64], part[80];

static void set_up(void)
{
	fake = fake_hvd_start();
	setenv("TIDEPOOL_RUN_DIR", fake_hvd_dir(fake), 1);
	fake_hvd_reply(fake, "show",
		       "{\"name\":\"a\",\"weight\":7,\"compress\":true,"
		       "\"guest\":{\"used_bytes\":5242880,"
		       "\"ephemeral_bytes\":1048576,\"evicted_lent\":12},"
		       "\"pools\":[{\"pool\":3,\"kind\":\"persistent\"}]}");
	strcpy(dir, "/tmp/test_ctl_XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s/saved", dir);
	snprintf(part, sizeof(part), "%s.part", file);
}

static void tear_down(void)
{
	command_forget();
	unlink(file);
	unlink(part);
	ck_assert_int_eq(rmdir(dir), 0);
	fake_hvd_stop(fake);
}

/* Its %F is the file. */
static int tmem(const char *words)
{
	const char *at = strstr(words, "%F");
	char copy[512];

	if (!at)
		return command_run(&program_tmem, words);
	snprintf(copy, sizeof(copy), "%.*s%s%s", (int)(at - words), words, file,
		 at + 2);
	return command_run(&program_tmem, copy);
}

#define REFUSED(name)                                                          \
	"!{\"id\": %ID%, \"error\": {\"errno\": \"" name                       \
	"\", \"message\": \"because\"}}"

static const struct {
	const char *words, *method, *reply, *params, *out;
} good[] = {
	{"freeze a", "freeze", "{}", "{\"dry_run\":false,\"vm\":\"a\"}",
	 "a is frozen: its guest puts no new page\n"},
	{"freeze --dry-run a", "freeze", "{}",
	 "{\"dry_run\":true,\"vm\":\"a\"}",
	 "a would be frozen: its guest puts no new page\n"},
	{"thaw a", "thaw", "{}", "{\"dry_run\":false,\"vm\":\"a\"}",
	 "a is thawed\n"},
	{"thaw a --json", "thaw", "{}", "{\"dry_run\":false,\"vm\":\"a\"}",
	 "{}\n"},
	{"destroy a:3", "destroy", "{\"pages\":70}",
	 "{\"dry_run\":false,\"force\":false,\"pool\":3,\"vm\":\"a\"}",
	 "a: pool 3 is destroyed, 70 pages freed\n"},
	{"destroy a --force", "destroy", "{\"pages\":7}",
	 "{\"dry_run\":false,\"force\":true,\"vm\":\"a\"}",
	 "a: every pool is destroyed, 7 pages freed\n"},
	{"destroy a:ram --dry-run", "destroy", "{\"pages\":0}",
	 "{\"dry_run\":true,\"force\":false,\"pool\":\"ram\",\"vm\":\"a\"}",
	 "a: pool ram would be destroyed, 0 pages freed\n"},
	{"auth " UUID " a on", "auth", "{}",
	 "{\"dry_run\":false,\"on\":true,\"uuid\":\"" UUID "\",\"vm\":\"a\"}",
	 "a now may join the shared pool " UUID "\n"},
	{"auth " UUID " a off --dry-run", "auth", "{}",
	 "{\"dry_run\":true,\"on\":false,\"uuid\":\"" UUID "\",\"vm\":\"a\"}",
	 "a would be told it may not join the shared pool " UUID "\n"},
	{"save a x --dry-run", "save", "{\"pages\":9}",
	 "{\"dry_run\":true,\"vm\":\"a\"}", "a: 9 pages would be saved to x\n"},
};

START_TEST(each_verb_asks_and_tells)
{
	fake_hvd_reply(fake, good[_i].method, good[_i].reply);
	ck_assert_msg(tmem(good[_i].words) == CTL_DONE, "%s: %s",
		      good[_i].words, err_text);
	fake_hvd_heard(fake, good[_i].params);
	ck_assert_str_eq(out_text, good[_i].out);
	ck_assert_str_eq(err_text, "");
}
END_TEST

START_TEST(each_verb_can_be_refused)
{
	fake_hvd_reply(fake, good[_i].method, REFUSED("EPERM"));
	ck_assert_int_eq(tmem(good[_i].words), CTL_REFUSED);
	ck_assert_str_eq(out_text, "");
	ck_assert_str_eq(err_text, "tmem-ctl: because\n");
}
END_TEST

static const char *const senseless[] = {
	"freeze",
	"freeze a b",
	"freeze a --force",
	"thaw",
	"thaw a --watch",
	"destroy",
	"destroy a:",
	"destroy a 3",
	"destroy a --force=1",
	"auth",
	"auth " UUID " a",
	"auth " UUID " a maybe",
	"auth " UUID " a on off",
	"save a",
	"save a b c",
	"save",
	"restore a",
	"restore",
	"restore a b --force",
};

START_TEST(senseless_words_ask_nothing)
{
	ck_assert_msg(tmem(senseless[_i]) == CTL_USAGE, "%s", senseless[_i]);
	ck_assert_uint_eq(fake_hvd_requests(fake), 0);
	ck_assert_str_eq(out_text, "");
	ck_assert_ptr_nonnull(strstr(err_text, "--help"));
}
END_TEST

/* ---- files --------------------------------------------------------------- */

static bool is_there(const char *path)
{
	return !access(path, F_OK);
}

static void file_make(const char *text)
{
	FILE *f = fopen(file, "w");

	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	ck_assert_int_eq(fclose(f), 0);
}

static void file_holds(const char *text)
{
	char got[64] = "";
	FILE *f = fopen(file, "r");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fread(got, 1, sizeof(got) - 1, f), strlen(text));
	fclose(f);
	ck_assert_str_eq(got, text);
}

START_TEST(what_is_whole_gets_its_name)
{
	char want[128];
	struct stat st;

	fake_hvd_reply(fake, "save", "{\"pages\":41}");
	file_make("old");
	ck_assert_msg(tmem("save a %F") == CTL_DONE, "%s", err_text);
	snprintf(want, sizeof(want), "a: 41 pages saved to %s\n", file);
	ck_assert_str_eq(out_text, want);
	fake_hvd_heard(fake, "{\"dry_run\":false,\"vm\":\"a\"}");
	ck_assert(!is_there(part));
	/* This hvd wrote nothing, and that is what is there now. */
	file_holds("");
	ck_assert_int_eq(stat(file, &st), 0);
	ck_assert_int_eq(st.st_mode & 0777, 0600);
}
END_TEST

START_TEST(a_save_that_fails_leaves_the_old_file)
{
	file_make("old");
	fake_hvd_reply(fake, "save", REFUSED("ENOSPC"));
	ck_assert_int_eq(tmem("save a %F"), CTL_REFUSED);
	ck_assert_str_eq(err_text, "tmem-ctl: because\n");
	ck_assert(!is_there(part));
	file_holds("old");
	/* Nor does one that loses hvd on the way. */
	fake_hvd_reply(fake, "save", "!");
	ck_assert_int_eq(tmem("save a %F"), CTL_UNREACHABLE);
	ck_assert(!is_there(part));
	file_holds("old");
}
END_TEST

START_TEST(files_that_cannot_be_opened_ask_nothing)
{
	fake_hvd_reply(fake, "restore", "{\"pages\":1}");
	fake_hvd_reply(fake, "save", "{\"pages\":1}");
	ck_assert_int_eq(tmem("restore a %F"), CTL_REFUSED);
	ck_assert_ptr_nonnull(strstr(err_text, "No such file"));
	ck_assert_int_eq(tmem("restore a %F --dry-run"), CTL_REFUSED);
	ck_assert_uint_eq(fake_hvd_requests(fake), 0);
	ck_assert_int_eq(tmem("save a /nonexistent/x"), CTL_REFUSED);
	ck_assert_ptr_nonnull(strstr(err_text, "No such file"));
	/* Where a link waits, nothing is written through it. */
	ck_assert_int_eq(symlink("/tmp/not_there", part), 0);
	ck_assert_int_eq(tmem("save a %F"), CTL_REFUSED);
	ck_assert(!is_there(file));
}
END_TEST

START_TEST(save_replaces_nothing_but_files)
{
	struct stat st;

	fake_hvd_reply(fake, "save", "{\"pages\":1}");
	ck_assert_int_eq(mkfifo(file, 0600), 0);
	ck_assert_int_eq(tmem("save a %F"), CTL_REFUSED);
	ck_assert_ptr_nonnull(strstr(err_text, "is no regular file; `-`"));
	ck_assert_int_eq(stat(file, &st), 0);
	ck_assert(S_ISFIFO(st.st_mode));
	ck_assert(!is_there(part));
}
END_TEST

START_TEST(restore_tells_how_many)
{
	char want[128];

	file_make("stream");
	fake_hvd_reply(fake, "restore", "{\"pages\":12}");
	ck_assert_int_eq(tmem("restore a %F"), CTL_DONE);
	snprintf(want, sizeof(want), "a: 12 pages restored from %s\n", file);
	ck_assert_str_eq(out_text, want);
	ck_assert_int_eq(tmem("restore a %F --dry-run"), CTL_DONE);
	fake_hvd_heard(fake, "{\"dry_run\":true,\"vm\":\"a\"}");
	snprintf(want, sizeof(want), "a would be restored from %s\n", file);
	ck_assert_str_eq(out_text, want);
	file_holds("stream");
}
END_TEST

/* ---- looking ------------------------------------------------------------- */

START_TEST(list_tells_the_guests_pages_and_pools)
{
	ck_assert_int_eq(tmem("list a"), CTL_DONE);
	ck_assert_ptr_nonnull(strstr(out_text, "evicted: taken back"));
	ck_assert_ptr_nonnull(strstr(out_text, "5.0M"));
	ck_assert_ptr_nonnull(strstr(out_text, "POOL"));
	ck_assert_ptr_nonnull(strstr(out_text, "persistent\n"));
}
END_TEST

START_TEST(why_tells_who_took_it)
{
	fake_hvd_reply(fake, "why",
		       "{\"vm\":\"a\",\"faults\":0,\"guest_wait_ms\":12.5,"
		       "\"guest\":{\"gets\":5,\"gets_missed\":4,"
		       "\"taken_bytes\":1048576,\"taken_by\":[{\"name\":"
		       "\"desk2\",\"bytes\":1048576}]},\"causes\":[]}");
	ck_assert_int_eq(tmem("why a"), CTL_DONE);
	ck_assert_ptr_nonnull(strstr(out_text, "TAKEN FOR"));
	ck_assert_ptr_nonnull(strstr(out_text, "desk2"));
	ck_assert_ptr_nonnull(strstr(out_text, "1.0M"));
}
END_TEST

/* ---- libhv --------------------------------------------------------------- */

static void ticked(void *arg)
{
	int *count = arg;

	++*count;
}

/* While an answer is waited for, and in the time the caller allows for it. */
START_TEST(progress_is_told_while_waiting)
{
	struct hv_value *value;
	struct hv *hv;
	int count = 0;

	fake_hvd_reply(fake, "version", "!!");
	ck_assert_int_eq(hv_create(NULL, &hv), 0);
	hv_timeout_set(hv, 900);
	hv_progress_set(hv, ticked, &count);
	ck_assert_int_eq(hv_version(hv, &value), -ETIMEDOUT);
	ck_assert_int_ge(count, 2);
	ck_assert_int_le(count, 6);
	hv_destroy(hv);
}
END_TEST

static Suite *suite_make(void)
{
	Suite *suite = suite_create("ctl_client");
	TCase *tc = tcase_create("client");

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 30);
	tcase_add_loop_test(tc, each_verb_asks_and_tells, 0,
			    (int)ARRAY_LEN(good));
	tcase_add_loop_test(tc, each_verb_can_be_refused, 0,
			    (int)ARRAY_LEN(good));
	tcase_add_loop_test(tc, senseless_words_ask_nothing, 0,
			    (int)ARRAY_LEN(senseless));
	tcase_add_test(tc, what_is_whole_gets_its_name);
	tcase_add_test(tc, a_save_that_fails_leaves_the_old_file);
	tcase_add_test(tc, save_replaces_nothing_but_files);
	tcase_add_test(tc, files_that_cannot_be_opened_ask_nothing);
	tcase_add_test(tc, restore_tells_how_many);
	tcase_add_test(tc, list_tells_the_guests_pages_and_pools);
	tcase_add_test(tc, why_tells_who_took_it);
	tcase_add_test(tc, progress_is_told_while_waiting);
	suite_add_tcase(suite, tc);
	return suite;
}

int main(void)
{
	return suite_run(suite_make());
}
