/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pressure states: lines, hysteresis, the hand that overrides. */
#include "hv/base/log.h"
#include "hv/daemon/pressure.h"
#include "tests/support/run.h"

#include <check.h>
#include <errno.h>

#define MEMORY 100000 /* with a minimum of 1000: lines at whole numbers */

static struct pressure p;

static void start(void)
{
	struct pressure_config config;

	log_init("test", LOGL_ERROR);
	pressure_config_default(&config);
	config.min_bytes = 1000;
	pressure_init(&p, &config);
}

static enum pressure_state at(uint64_t free_bytes)
{
	pressure_update(&p, free_bytes, MEMORY);
	return pressure_now(&p);
}

/* Default lines: 3000, 640, 320, 160; left at 3750, 800, 400, 200. */
static const struct {
	uint64_t free_bytes;
	enum pressure_state falling, rising;
} line[] = {
	{100000, PRESSURE_HIGH, PRESSURE_HIGH},
	{3750, PRESSURE_HIGH, PRESSURE_HIGH},
	{3749, PRESSURE_HIGH, PRESSURE_CLEAR},
	{3000, PRESSURE_HIGH, PRESSURE_CLEAR},
	{2999, PRESSURE_CLEAR, PRESSURE_CLEAR},
	{800, PRESSURE_CLEAR, PRESSURE_CLEAR},
	{799, PRESSURE_CLEAR, PRESSURE_SOFT},
	{640, PRESSURE_CLEAR, PRESSURE_SOFT},
	{639, PRESSURE_SOFT, PRESSURE_SOFT},
	{400, PRESSURE_SOFT, PRESSURE_SOFT},
	{320, PRESSURE_SOFT, PRESSURE_HARD},
	{319, PRESSURE_HARD, PRESSURE_HARD},
	{160, PRESSURE_HARD, PRESSURE_LOW},
	{159, PRESSURE_LOW, PRESSURE_LOW},
	{0, PRESSURE_LOW, PRESSURE_LOW},
};

START_TEST(states_have_lines_and_hysteresis)
{
	size_t i;

	start();
	for (i = 0; i < ARRAY_LEN(line); i++)
		ck_assert_int_eq(at(line[i].free_bytes), line[i].falling);
	for (i = ARRAY_LEN(line); i-- > 0;)
		ck_assert_int_eq(at(line[i].free_bytes), line[i].rising);
}
END_TEST

START_TEST(swinging_around_a_line_is_one_change)
{
	unsigned i, changes = 0;

	start();
	for (i = 0; i < 100; i++)
		changes += pressure_update(&p, i % 2 ? 630 : 650, MEMORY);
	ck_assert_uint_eq(changes, 2); /* high -> clear -> soft */
}
END_TEST

START_TEST(states_are_skipped_when_memory_falls_at_once)
{
	start();
	ck_assert_int_eq(at(0), PRESSURE_LOW);
	ck_assert_int_eq(at(100000), PRESSURE_HIGH);
	ck_assert_int_eq(at(330), PRESSURE_SOFT);
}
END_TEST

START_TEST(hand_overrides_and_lets_go)
{
	start();
	ck_assert(pressure_force(&p, PRESSURE_HARD, "test"));
	ck_assert(!pressure_force(&p, PRESSURE_HARD, "test"));
	ck_assert_int_eq(at(100000), PRESSURE_HARD);
	ck_assert(!pressure_update(&p, 100, MEMORY)); /* measured, hidden */
	ck_assert_int_eq(pressure_now(&p), PRESSURE_HARD);
	ck_assert(pressure_release(&p, "test"));
	ck_assert_int_eq(pressure_now(&p), PRESSURE_LOW);
	ck_assert(!pressure_release(&p, "test"));
}
END_TEST

START_TEST(default_minimum_slides)
{
	const uint64_t gib = (uint64_t)1 << 30;

	ck_assert_uint_eq(pressure_min_default(0), 0);
	ck_assert_uint_eq(pressure_min_default(4 * gib), 4 * gib / 100 * 6);
	ck_assert_uint_eq(pressure_min_default(100 * gib),
			  4 * gib / 100 * 6 + 8 * gib / 100 * 4 +
				  16 * gib / 100 * 2 + 72 * gib / 100);
}
END_TEST

START_TEST(goal_is_out_of_soft)
{
	start();
	ck_assert_int_eq(at(500), PRESSURE_SOFT);
	ck_assert_int_eq(at(pressure_goal(&p, MEMORY) - 1), PRESSURE_SOFT);
	ck_assert_int_eq(at(pressure_goal(&p, MEMORY)), PRESSURE_CLEAR);
}
END_TEST

START_TEST(names_are_read_back)
{
	enum pressure_state s, back;

	for (s = PRESSURE_HIGH; s < PRESSURE_STATES; s++) {
		ck_assert_int_eq(pressure_parse(pressure_name(s), &back), 0);
		ck_assert_int_eq(s, back);
	}
	ck_assert_int_eq(pressure_parse("auto", &back), -EINVAL);
	ck_assert_int_eq(pressure_parse("", &back), -EINVAL);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pressure");
	TCase *tc = tcase_create("pressure");

	tcase_add_test(tc, states_have_lines_and_hysteresis);
	tcase_add_test(tc, swinging_around_a_line_is_one_change);
	tcase_add_test(tc, states_are_skipped_when_memory_falls_at_once);
	tcase_add_test(tc, hand_overrides_and_lets_go);
	tcase_add_test(tc, default_minimum_slides);
	tcase_add_test(tc, goal_is_out_of_soft);
	tcase_add_test(tc, names_are_read_back);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
