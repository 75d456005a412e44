/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the agent reads out of /proc/self/smaps: memory fit to manage, memory
 * that is not, and that of the guest's line, which is no guest RAM at all.
 */
#include "hv/agent/maps.c"
#include "tests/support/run.h"

#include <check.h>
#include <stdlib.h>

#define LO 0x7f0000000000
#define HI 0x7f0002000000

static unsigned scan(const char *text)
{
	FILE *file = tmpfile();
	unsigned flags;

	ck_assert_ptr_nonnull(file);
	ck_assert_int_ge(fputs(text, file), 0);
	rewind(file);
	ck_assert_int_eq(maps_scan(file, LO, HI, &flags), 0);
	fclose(file);
	return flags;
}

static const struct {
	const char *text;
	unsigned flags;
} cases[] = {
	{"7f0000000000-7f0002000000 rw-p 00000000 00:00 0\n"
	 "Rss:  4 kB\nVmFlags: rd wr mr mw me dc ac sd hg\n",
	 0},
	{"7f0000000000-7f0001000000 rw-p 00000000 00:00 0\n"
	 "VmFlags: rd wr dc\n",
	 MAPS_HOLE},
	{"7f0000000000-7f0002000000 rw-p 00000000 00:00 0\n"
	 "VmFlags: rd wr\n",
	 MAPS_FORKED},
	{"7f0000000000-7f0002000000 rw-s 00000000 00:01 9 /memfd:ram\n"
	 "VmFlags: rd wr sh dc\n",
	 MAPS_SHARED | MAPS_FILE},
	{"7f0000000000-7f0002000000 rw-s 00000000 00:01 9 "
	 "/memfd:tidepool-line (deleted)\n"
	 "VmFlags: rd wr sh dc\n",
	 MAPS_SHARED | MAPS_FILE | MAPS_DEVICE},
	{"7e0000000000-7f0000000000 rw-s 00000000 00:01 9 "
	 "/memfd:tidepool-line (deleted)\n"
	 "VmFlags: rd wr sh\n"
	 "7f0000000000-7f0002000000 rw-p 00000000 00:00 0\n"
	 "VmFlags: rd wr dc\n",
	 0},
};

START_TEST(flags_are_those_of_the_range)
{
	ck_assert_uint_eq(scan(cases[_i].text), cases[_i].flags);
}
END_TEST

START_TEST(line_is_told_from_shared_guest_ram)
{
	ck_assert_ptr_null(maps_reason(0));
	ck_assert_ptr_nonnull(
		strstr(maps_reason(MAPS_SHARED | MAPS_FILE), "share=on"));
	ck_assert_ptr_nonnull(strstr(
		maps_reason(MAPS_SHARED | MAPS_FILE | MAPS_DEVICE), "device"));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("agent maps");
	TCase *tc = tcase_create("maps");

	tcase_add_loop_test(tc, flags_are_those_of_the_range, 0,
			    ARRAY_LEN(cases));
	tcase_add_test(tc, line_is_told_from_shared_guest_ram);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
