/* SPDX-License-Identifier: GPL-2.0-or-later */
/* hvd.conf: every setting arrives, every mistake is named with its line. */
#include "hv/daemon/config.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct config config;
static char text[CONFIG_TEXT_MAX];

static int parse(const char *content)
{
	config_fini(&config);
	config_default(&config);
	text[0] = 0;
	return config_parse(&config, content, text);
}

START_TEST(every_setting_arrives)
{
	const struct config_domain *d;
	int rc;

	rc = parse("# a comment\n[hvd]\nrun_dir = /tmp/x\ngroup = kvm\n"
		   "metrics = 127.0.0.1:9464\nbudget = 16G\n"
		   "raise_max_map_count = no\n"
		   "[share]\nmode = pressure\nrest = 1500ms\npool = 512M\n"
		   "cow_reserve = 2.5%\ncow_reserve_max = 1T\n"
		   "[pressure]\nmin = 64K\nclear = 200%\nsoft = 100%\n"
		   "hard = 50%\nlow = 20%\nhysteresis = 10%\n"
		   "[vm]\nidle_tax = 0%\nrefault = 0.5%\nstore = 20%\n"
		   "swap = yes\nballoon = no\nballoon_keep = 4096\n"
		   "[domain lab]\npool = 1G\nmode = never\n");
	ck_assert_msg(!rc, "%s", text);
	ck_assert_str_eq(config.run_dir, "/tmp/x");
	ck_assert_str_eq(config.group, "kvm");
	ck_assert_str_eq(config.metrics, "127.0.0.1:9464");
	ck_assert_uint_eq(config.budget_bytes, (uint64_t)16 << 30);
	ck_assert(!config.raise_map_count);
	ck_assert_int_eq(config.share, SHARE_PRESSURE);
	ck_assert_uint_eq(config.scan_ms, 1500);
	ck_assert_uint_eq(config.pool_bytes, (uint64_t)512 << 20);
	ck_assert_uint_eq(config.cow_permille, 25);
	ck_assert_uint_eq(config.cow_max_bytes, (uint64_t)1 << 40);
	ck_assert_uint_eq(config.pressure.min_bytes, 65536);
	ck_assert_uint_eq(config.pressure.enter_percent[PRESSURE_CLEAR], 200);
	ck_assert_uint_eq(config.pressure.enter_percent[PRESSURE_LOW], 20);
	ck_assert_uint_eq(config.pressure.leave_percent, 10);
	ck_assert_uint_eq(config.tax_percent, 0);
	ck_assert_uint_eq(config.refault_permille, 5);
	ck_assert_uint_eq(config.store_percent, 20);
	ck_assert(config.swap);
	ck_assert(!config.balloon);
	ck_assert_uint_eq(config.balloon_keep_bytes, 4096);
	d = config_domain_find(&config, "lab");
	ck_assert_ptr_nonnull(d);
	ck_assert_uint_eq(d->pool_bytes, (uint64_t)1 << 30);
	ck_assert_int_eq(d->share, SHARE_NEVER);
	ck_assert_ptr_null(config_domain_find(&config, "other"));
}
END_TEST

static const struct {
	const char *content;
	int line;
	const char *word; /* that the text has to have */
} bad[] = {
	{"[hvd]\n\nbudgte = 1G\n", 3, "budgte"},
	{"[hvd]\nbudget = 1X\n", 2, "1X"},
	{"[hvd]\nbudget = 1GB\n", 2, "1GB"},
	{"[hvd]\nbudget = -1\n", 2, "budget"},
	{"[hvd]\nbudget = 99999999999999999999\n", 2, "budget"},
	{"[hvd]\nbudget = 99999999999T\n", 2, "budget"},
	{"[hvd]\nbudget = 1.5G\n", 2, "budget"},
	{"[hvd]\nbudget =\n", 2, "budget"},
	{"[hvd]\nrun_dir = here\n", 2, "run_dir"},
	{"[hvd]\nmetrics = 0.0.0.0:80\n", 2, "metrics"},
	{"[hvd]\nmetrics = 127.0.0.1:\n", 2, "metrics"},
	{"[hvd]\nmetrics = 127.0.0.1:65536\n", 2, "metrics"},
	{"[hvd]\nmetrics = 12\n", 2, "metrics"},
	{"[hvd]\nraise_max_map_count = true\n", 2, "yes or no"},
	{"[share]\nrest = 10\n", 2, "time"},
	{"[share]\nrest = 2d\n", 2, "time"},
	{"[share]\nmode = sometimes\n", 2, "sometimes"},
	{"[vm]\nrefault = 0.2\n", 2, "percentage"},
	{"[vm]\nrefault = 0.25%\n", 2, "percentage"},
	{"[vm]\nidle_tax = 100%\n", 2, "idle_tax"},
	{"[share]\ncow_reserve = 101%\n", 2, "cow_reserve"},
	{"[nonsense]\na = b\n", 2, "nonsense"},
	{"a = b\n", 1, "section"},
	{"[hvd]\njust words\n", 2, "KEY"},
	{"[hvd\nbudget = 1G\n", 1, "SECTION"},
	{"[domain a b]\npool = 1G\n", 2, "a b"},
	{"[domain vm:x]\npool = 1G\n", 2, "vm:x"},
	{"[domain x]\nbudget = 1G\n", 2, "budget"},
	{"[domain "
	 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]\n"
	 "pool = 1G\n",
	 2, "characters"},
};

START_TEST(every_mistake_has_its_line)
{
	char where[32];

	snprintf(where, sizeof(where), ":%d: ", bad[_i].line);
	ck_assert_int_eq(parse(bad[_i].content), -EINVAL);
	ck_assert_msg(strstr(text, where), "\"%s\" has no \"%s\"", text, where);
	ck_assert_msg(strstr(text, bad[_i].word), "\"%s\" has no \"%s\"", text,
		      bad[_i].word);
}
END_TEST

START_TEST(states_out_of_order_are_refused)
{
	ck_assert_int_eq(parse("[pressure]\nsoft = 300%\n"), -EINVAL);
	ck_assert_int_eq(parse("[pressure]\nlow = 32%\n"), -EINVAL);
	ck_assert_ptr_nonnull(strstr(text, "order"));
	ck_assert_int_eq(parse("[pressure]\nlow = 31%\n"), 0);
}
END_TEST

START_TEST(files_are_read)
{
	char path[] = "/tmp/test_config.XXXXXX";
	int fd = mkstemp(path);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, "[hvd]\nbudget = 1Q\n", 18), 18);
	close(fd);
	config_default(&config);
	ck_assert_int_eq(config_read(&config, path, text), -EINVAL);
	ck_assert_ptr_nonnull(strstr(text, path));
	ck_assert_ptr_nonnull(strstr(text, ":2: "));
	unlink(path);
	ck_assert_int_eq(config_read(&config, path, text), -ENOENT);
	ck_assert_ptr_nonnull(strstr(text, path));
}
END_TEST

START_TEST(the_example_is_accepted)
{
	const char *path = "hv/daemon/hvd.conf";

	/* Run from the source tree, as make check does, or not at all. */
	if (access(path, R_OK))
		return;
	config_default(&config);
	ck_assert_msg(!config_read(&config, path, text), "%s", text);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("config");
	TCase *tc = tcase_create("config");

	tcase_add_test(tc, every_setting_arrives);
	tcase_add_loop_test(tc, every_mistake_has_its_line, 0, ARRAY_LEN(bad));
	tcase_add_test(tc, states_out_of_order_are_refused);
	tcase_add_test(tc, files_are_read);
	tcase_add_test(tc, the_example_is_accepted);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
