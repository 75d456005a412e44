/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes, tables and bars: the parts of the commands that need no hvd. */
#include "hv/ctl/size.h"
#include "hv/ctl/table.h"
#include "hv/ctl/top.h"
#include "hv/ctl/view.h"
#include "tests/support/fake_hvd.h"
#include "tests/support/rng.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *text;
	int rc;
	uint64_t bytes;
} sizes[] = {
	{"0", 0, 0},
	{"1", 0, 1},
	{"4096", 0, 4096},
	{"512B", 0, 512},
	{"1K", 0, 1024},
	{"1k", 0, 1024},
	{"1KB", 0, 1024},
	{"2GiB", 0, (uint64_t)2 << 30},
	{"1.5G", 0, (uint64_t)3 << 29},
	{"0.5K", 0, 512},
	{"3T", 0, (uint64_t)3 << 40},
	{"7E", 0, (uint64_t)7 << 60},
	{"7.5E", 0, (uint64_t)15 << 59},
	{"9223372036854775807", 0, INT64_MAX},
	{"9223372036854775808", -ERANGE, 0},
	{"8E", -ERANGE, 0},
	{"99999999999999999999", -ERANGE, 0},
	{"9007199254740992K", -ERANGE, 0},
	{"", -EINVAL, 0},
	{"K", -EINVAL, 0},
	{"-1", -EINVAL, 0},
	{"+1", -EINVAL, 0},
	{" 1", -EINVAL, 0},
	{"1 ", -EINVAL, 0},
	{"1.K", -EINVAL, 0},
	{".5K", -EINVAL, 0},
	{"1.5", -EINVAL, 0},
	{"1.5B", -EINVAL, 0},
	{"1Kx", -EINVAL, 0},
	{"1KiBB", -EINVAL, 0},
	{"1Q", -EINVAL, 0},
	{"0x10", -EINVAL, 0},
	{"1.1234567K", -EINVAL, 0},
};

START_TEST(size_is_read_exactly_or_refused)
{
	uint64_t bytes = 0;

	ck_assert_int_eq(size_parse(sizes[_i].text, &bytes), sizes[_i].rc);
	if (!sizes[_i].rc)
		ck_assert_uint_eq(bytes, sizes[_i].bytes);
}
END_TEST

START_TEST(number_has_a_maximum)
{
	uint64_t n = 0;

	ck_assert_int_eq(number_parse("1000", 1000, &n), 0);
	ck_assert_uint_eq(n, 1000);
	ck_assert_int_eq(number_parse("1001", 1000, &n), -ERANGE);
	ck_assert_int_eq(number_parse("10x", 1000, &n), -EINVAL);
	ck_assert_int_eq(number_parse("", 1000, &n), -EINVAL);
}
END_TEST

START_TEST(units_are_those_people_use)
{
	char buf[SIZE_TEXT_MAX];

	ck_assert_str_eq(size_format(buf, 0), "0");
	ck_assert_str_eq(size_format(buf, 1), "1B");
	ck_assert_str_eq(size_format(buf, 1023), "1023B");
	ck_assert_str_eq(size_format(buf, 1024), "1.0K");
	ck_assert_str_eq(size_format(buf, (uint64_t)768 << 20), "768M");
	ck_assert_str_eq(size_format(buf, (uint64_t)3 << 29), "1.5G");
	ck_assert_str_eq(size_format(buf, ((uint64_t)1 << 30) - 1), "1.0G");
	ck_assert_str_eq(size_format(buf, UINT64_MAX), "16.0E");
	ck_assert_str_eq(count_format(buf, 0), "0");
	ck_assert_str_eq(count_format(buf, 7.05), "7.05");
	ck_assert_str_eq(count_format(buf, 999), "999");
	ck_assert_str_eq(count_format(buf, 999.96), "1.0k");
	ck_assert_str_eq(count_format(buf, 1500000), "1.5M");
	ck_assert_str_eq(time_format(buf, 0), "0");
	ck_assert_str_eq(time_format(buf, 52300), "52.3us");
	ck_assert_str_eq(time_format(buf, 2100000000), "2.1s");
}
END_TEST

START_TEST(columns_line_up)
{
	struct table *table;
	char *text;
	size_t n;
	FILE *out = open_memstream(&text, &n);

	ck_assert_int_eq(table_create(3, &table), 0);
	table_align(table, 1, TABLE_RIGHT);
	table_cell(table, "NAME");
	table_cell(table, "RAM");
	table_cell(table, "X");
	table_cell(table, "a");
	table_cell(table, "1024M");
	table_cell(table, NULL);
	table_cell(table, "d\xc3\xa9sk1");
	table_cell(table, "");
	table_cell(table, "last");
	ck_assert_int_eq(table_print(table, out), 0);
	fclose(out);
	ck_assert_str_eq(text, "NAME     RAM  X\n"
			       "a      1024M  -\n"
			       "d\xc3\xa9sk1      -  last\n");
	table_destroy(table);
	free(text);
	ck_assert_int_eq(table_create(0, &table), -EINVAL);
	ck_assert_int_eq(table_create(1000, &table), -EINVAL);
}
END_TEST

START_TEST(controls_never_reach_the_terminal)
{
	char text[] = "a\033[2J\x7f\x9b\xc2\x9b\n\xc3\xa9\xc2";

	text_clean(text);
	ck_assert_str_eq(text, "a?[2J?\x9b???\xc3\xa9\xc2");
}
END_TEST

/* ---- bars ------------------------------------------------------------ */

static size_t cells_of(const unsigned char *cells, size_t width, int part)
{
	size_t n = 0;

	for (size_t i = 0; i < width; i++)
		n += cells[i] == part;
	return n;
}

START_TEST(bar_is_in_proportion)
{
	struct top_vm vm = {.ram_pages = 1000};
	unsigned char cells[40];

	vm.part[TOP_PRIVATE] = 500;
	vm.part[TOP_SHARED] = 250;
	vm.part[TOP_SWAPPED] = 1;
	vm.part[TOP_FREE] = 249;
	top_bar(&vm, 40, cells);
	ck_assert_uint_eq(cells_of(cells, 40, TOP_SWAPPED), 1);
	ck_assert_uint_eq(cells_of(cells, 40, TOP_PRIVATE), 19);
	ck_assert_uint_eq(cells_of(cells, 40, TOP_SHARED), 10);
	ck_assert_uint_eq(cells_of(cells, 40, TOP_FREE), 10);
	ck_assert_uint_eq(cells_of(cells, 40, TOP_ZERO), 0);
}
END_TEST

/* An assertion a cell would take libcheck longer than all the rest. */
static bool bar_is_good(const struct top_vm *vm, size_t width,
			const unsigned char *cells)
{
	for (size_t i = 0; i < width; i++)
		if (cells[i] >= TOP_PARTS ||
		    (vm->ram_pages && !vm->part[cells[i]]) ||
		    (i && cells[i] < cells[i - 1]))
			return false;
	return true;
}

/* Any parts, any width: exactly width cells, none of a part that is not. */
START_TEST(bar_always_fits)
{
	unsigned char cells[64 + 1];
	struct rng rng;

	rng_start(&rng, "bar_always_fits");
	for (int round = 0; round < 20000; round++) {
		struct top_vm vm = {0};
		size_t width = rng_below(&rng, 65);

		for (int i = 0; i < TOP_PARTS; i++) {
			vm.part[i] = rng_below(&rng, 3)
					     ? 0
					     : rng_next(&rng) >>
						       rng_below(&rng, 64) >> 4;
			vm.ram_pages += vm.part[i];
		}
		memset(cells, 0xee, sizeof(cells));
		top_bar(&vm, width, cells);
		ck_assert_uint_eq(cells[width], 0xee);
		ck_assert(bar_is_good(&vm, width, cells));
	}
}
END_TEST

/* ---- samples --------------------------------------------------------- */

static struct fake_hvd *fake;
static struct hv *hv;
static struct top top;

static void set_up(void)
{
	fake = fake_hvd_start();
	ck_assert_int_eq(hv_create(fake_hvd_socket(fake), &hv), 0);
	top_init(&top);
}

static void tear_down(void)
{
	top_fini(&top);
	hv_destroy(hv);
	fake_hvd_stop(fake);
}

static void sample(const char *vms, uint64_t seconds)
{
	struct hv_value *list;

	fake_hvd_reply(fake, "list", vms);
	ck_assert_int_eq(hv_list(hv, &list), 0);
	ck_assert_int_eq(top_sample(&top, list, seconds * 1000000000), 0);
	hv_value_free(list);
}

START_TEST(rate_needs_two_samples)
{
	sample("{\"vms\":[{\"name\":\"a\",\"mm\":{\"faults\":100}}]}", 10);
	ck_assert_uint_eq(top.n, 1);
	ck_assert(top.vms[0].faults_per_s == TOP_UNKNOWN);
	ck_assert(top.vms[0].refault_percent == TOP_UNKNOWN);
	sample("{\"vms\":[{\"name\":\"b\",\"mm\":{\"faults\":7}},"
	       "{\"name\":\"a\",\"mm\":{\"faults\":150,"
	       "\"refault_permille_min\":2}}]}",
	       15);
	ck_assert_str_eq(top.vms[0].name, "a");
	ck_assert(top.vms[0].faults_per_s == 10);
	ck_assert(top.vms[0].refault_percent == 0.2);
	ck_assert(top.vms[1].faults_per_s == TOP_UNKNOWN);
	/* started again under the same name */
	sample("{\"vms\":[{\"name\":\"a\",\"mm\":{\"faults\":3}}]}", 20);
	ck_assert(top.vms[0].faults_per_s == TOP_UNKNOWN);
	sample("{\"vms\":[]}", 25);
	ck_assert_uint_eq(top.n, 0);
}
END_TEST

START_TEST(parts_never_exceed_ram)
{
	uint64_t sum = 0;

	sample("{\"vms\":[{\"name\":\"a\",\"mm\":{\"ram_pages\":100,"
	       "\"private_pages\":60,\"held_pages\":10,\"shared_pages\":90,"
	       "\"zero_pages\":9223372036854775807,"
	       "\"ballooned_pages\":-5}}]}",
	       1);
	for (int i = 0; i < TOP_PARTS; i++)
		sum += top.vms[0].part[i];
	ck_assert_uint_eq(sum, 100);
	ck_assert_uint_eq(top.vms[0].part[TOP_PRIVATE], 70);
	ck_assert_uint_eq(top.vms[0].part[TOP_SHARED], 30);
}
END_TEST

START_TEST(order_follows_the_key)
{
	enum top_key key;

	sample("{\"vms\":[{\"name\":\"c\",\"mm\":{\"ram_pages\":5}},"
	       "{\"name\":\"a\",\"mm\":{\"ram_pages\":5}},"
	       "{\"name\":\"b\",\"mm\":{\"ram_pages\":9}}]}",
	       1);
	ck_assert_str_eq(top.vms[0].name, "a");
	ck_assert_int_eq(top_key_find("ram", &key), 0);
	top_sort(&top, key);
	ck_assert_str_eq(top.vms[0].name, "b");
	ck_assert_str_eq(top.vms[1].name, "a");
	ck_assert_str_eq(top.vms[2].name, "c");
	ck_assert_int_eq(top_key_find("nonsense", &key), -ENOENT);
}
END_TEST

START_TEST(odd_vms_do_no_harm)
{
	sample("{\"vms\":[3,null,{},{\"name\":7,\"mm\":[]},"
	       "{\"name\":\"0123456789012345678901234567890123456789"
	       "01234567890123456789012345678901234567890123456789\"}]}",
	       1);
	ck_assert_uint_eq(top.n, 5);
	sample("{\"vms\":{}}", 2);
	ck_assert_uint_eq(top.n, 0);
	sample("{}", 3);
	ck_assert_uint_eq(top.n, 0);
}
END_TEST

START_TEST(missing_field_is_a_dash)
{
	static const struct view_field fields[] = {
		{"", "mm.x+mm.y", VIEW_PAGES}, {"", "mm.x", VIEW_PAGES},
		{"", "zero", VIEW_LIMIT},      {"", "names", VIEW_NAMES},
		{"", "huge", VIEW_PAGES},      {"", "name", VIEW_TEXT},
		{"", "r", VIEW_PERMILLE},      {"", "no", VIEW_BOOL}};
	static const char *const wanted[] = {"-", "12.0K", "none", "a b",
					     "-", "-",	   "0.2%", "-"};
	char buf[VIEW_TEXT_MAX];
	struct hv_value *v;

	fake_hvd_reply(fake, "show",
		       "{\"mm\":{\"x\":3},\"zero\":0,\"names\":[\"a\",\"b\"],"
		       "\"huge\":9223372036854775807,\"name\":1,\"r\":2}");
	ck_assert_int_eq(hv_show(hv, "a", &v), 0);
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		ck_assert_str_eq(view_format(buf, v, &fields[i]), wanted[i]);
	hv_value_free(v);
}
END_TEST

START_TEST(many_names_are_cut)
{
	struct view_field field = {"", "n", VIEW_NAMES};
	char buf[VIEW_TEXT_MAX], text[8192] = "{\"n\":[\"first\"";
	struct hv_value *v;

	for (int i = 0; i < 200; i++)
		strcat(text, ",\"a-long-name-of-a-vm\"");
	strcat(text, "]}");
	fake_hvd_reply(fake, "show", text);
	ck_assert_int_eq(hv_show(hv, "a", &v), 0);
	view_format(buf, v, &field);
	ck_assert_uint_lt(strlen(buf), sizeof(buf));
	ck_assert_str_eq(buf + strlen(buf) - 4, " ...");
	hv_value_free(v);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("ctl");
	TCase *plain = tcase_create("plain"), *asked = tcase_create("asked");

	tcase_add_loop_test(plain, size_is_read_exactly_or_refused, 0,
			    ARRAY_LEN(sizes));
	tcase_add_test(plain, number_has_a_maximum);
	tcase_add_test(plain, units_are_those_people_use);
	tcase_add_test(plain, columns_line_up);
	tcase_add_test(plain, controls_never_reach_the_terminal);
	tcase_add_test(plain, bar_is_in_proportion);
	tcase_add_test(plain, bar_always_fits);
	tcase_add_checked_fixture(asked, set_up, tear_down);
	tcase_add_test(asked, rate_needs_two_samples);
	tcase_add_test(asked, parts_never_exceed_ram);
	tcase_add_test(asked, order_follows_the_key);
	tcase_add_test(asked, odd_vms_do_no_harm);
	tcase_add_test(asked, missing_field_is_a_dash);
	tcase_add_test(asked, many_names_are_cut);
	suite_add_tcase(suite, plain);
	suite_add_tcase(suite, asked);
	return suite_run(suite);
}
