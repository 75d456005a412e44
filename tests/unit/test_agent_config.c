/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's configuration: what wins over what, what every word refuses, and
 * that an error names its line. config.c is no part of a library, so it is
 * compiled into the test.
 */
#include "hv/agent/config.c"
#include "tests/support/run.h"

#include <check.h>
#include <unistd.h>

static struct {
	const char *name, *value;
} env_table[8];
static size_t env_count;
static char path[64];
static char why[512];

static const char *env_fake(const char *name)
{
	for (size_t i = 0; i < env_count; i++)
		if (!strcmp(env_table[i].name, name))
			return env_table[i].value;
	return NULL;
}

static void env_add(const char *name, const char *value)
{
	env_table[env_count].name = name;
	env_table[env_count++].value = value;
}

static void file_make(const char *text)
{
	int fd;

	snprintf(path, sizeof(path), "/tmp/test_agent_config.XXXXXX");
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (int)strlen(text));
	close(fd);
	env_add("TIDEPOOL_CONFIG", path);
}

static int load(struct config *c)
{
	int rc = config_load(env_fake, "desk1", c, why, sizeof(why));

	if (*path)
		unlink(path);
	return rc;
}

/* The file is refused, and the message ends in this after the path. */
static void refuses(const char *text, const char *end)
{
	struct config c;

	env_count = 0;
	file_make(text);
	ck_assert_int_eq(load(&c), -EINVAL);
	ck_assert_msg(!strncmp(why, path, strlen(path)) &&
			      !strcmp(why + strlen(path), end),
		      "got: %s", why);
}

START_TEST(nothing_given_is_built_in)
{
	struct config c;

	env_add("TIDEPOOL_CONFIG", "");
	if (!access(CONFIG_FILE, F_OK))
		return; /* this machine's own settings would be read */
	ck_assert_int_eq(load(&c), 0);
	ck_assert_str_eq(c.name, "desk1");
	ck_assert_str_eq(c.domain, "");
	ck_assert_str_eq(c.run_dir, "/run/tidepool");
	ck_assert_uint_eq(c.shares, 1000);
	ck_assert_uint_eq(c.poll_us, 50);
	ck_assert(c.dense);
	ck_assert_uint_eq(c.store_percent, 50);
	ck_assert_uint_eq(c.limit_bytes, 0);
}
END_TEST

START_TEST(environment_beats_own_section_beats_default)
{
	struct config c;

	file_make("[vm desk1]\ndomain = mine\nshares = 5\n"
		  "[vm desk2]\ndomain = other\nshares = nonsense\n"
		  "[default]\ndomain = all\nshares = 4\nlimit = 1G\n"
		  "store = 25%\nlog = debug\ncodec = lz4\n");
	env_add("TIDEPOOL_SHARES", "6");
	env_add("TIDEPOOL_RESERVATION", "512MiB");
	ck_assert_msg(load(&c) == 0, "%s", why);
	ck_assert_str_eq(c.domain, "mine");
	ck_assert_uint_eq(c.shares, 6);
	ck_assert_uint_eq(c.limit_bytes, (uint64_t)1 << 30);
	ck_assert_uint_eq(c.reservation_bytes, (uint64_t)512 << 20);
	ck_assert_uint_eq(c.store_percent, 25);
	ck_assert(!c.dense);
	ck_assert(c.debug);
}
END_TEST

START_TEST(page_store_of_the_guest_is_off_until_asked_for)
{
	struct config c;

	file_make("[default]\ntmem_cache = off\n"
		  "[vm other]\ntmem = 1G\n");
	ck_assert_msg(load(&c) == 0, "%s", why);
	ck_assert_uint_eq(c.tmem_bytes, 0);
	ck_assert(!c.tmem_swap_given);
	ck_assert(!c.tmem_cache);
	ck_assert_uint_eq(c.tmem_queues, 2);
	env_count = 0;
	file_make("[vm desk1]\ntmem = 1G\ntmem_swap = 0\ntmem_queues = 16\n");
	env_add("TIDEPOOL_TMEM", "512M");
	ck_assert_msg(load(&c) == 0, "%s", why);
	ck_assert_uint_eq(c.tmem_bytes, (uint64_t)512 << 20);
	ck_assert(c.tmem_swap_given);
	ck_assert_uint_eq(c.tmem_swap_bytes, 0);
	ck_assert(c.tmem_cache);
	ck_assert_uint_eq(c.tmem_queues, 16);
}
END_TEST

START_TEST(name_chooses_the_section)
{
	struct config c;

	file_make("[vm desk1]\nshares = 5\n[vm other]\nshares = 7\n");
	env_add("TIDEPOOL_NAME", "other");
	ck_assert_int_eq(load(&c), 0);
	ck_assert_str_eq(c.name, "other");
	ck_assert_uint_eq(c.shares, 7);
}
END_TEST

START_TEST(errors_name_their_line)
{
	char longline[600] = "[default]\nqmp = /";

	refuses("[default]\nlimit = 1Q\n", ":2: limit: want a size such as 2G, "
					   "or 0");
	refuses("[default]\n\n# so\nlimits = 1G\n", ":4: unknown word: limits");
	refuses("[default]\nshares = 0\n", ":2: shares: want 1 to 1000000");
	refuses("[default]\ntmem_queues = 17\n",
		":2: tmem_queues: want 1 to 16");
	refuses("[default]\ntmem_queues = 0\n",
		":2: tmem_queues: want 1 to 16");
	refuses("[default]\ntmem_cache = yes\n",
		":2: tmem_cache: want on or off");
	refuses("[default]\npoll = 1001\n",
		":2: poll: want microseconds, 0 to 1000");
	refuses("[default]\ncodec = zstd9\n", ":2: codec: want zstd or lz4");
	refuses("[everyone]\nshares = 1\n", ":2: no such section: [everyone]");
	refuses("shares = 1\n", ":1: no such section: []");
	refuses("[default]\nshares 1\nlimit = Q\n",
		":2: not a [section] or word = value");
	refuses("[default]\nlimit = Q\nshares 1\n",
		":2: limit: want a size such as 2G, or 0");
	refuses("[vm desk1]\ndomain = a/b\n",
		":2: domain: want letters, digits, '.', '_', '-', at most 63");
	refuses("[default]\nqmp = relative\n",
		":2: qmp: want an absolute path");
	memset(longline + strlen(longline), 'x', 400);
	refuses(longline, ":2: line too long");
}
END_TEST

START_TEST(bad_environment_is_named)
{
	struct config c;

	file_make("[default]\n");
	env_add("TIDEPOOL_STORE", "101%");
	ck_assert_int_eq(load(&c), -EINVAL);
	ck_assert_str_eq(why, "TIDEPOOL_STORE: want a size, or a percentage of "
			      "guest RAM");
}
END_TEST

START_TEST(asked_file_must_exist)
{
	struct config c;

	env_add("TIDEPOOL_CONFIG", "/nonexistent/agent.conf");
	ck_assert_int_eq(load(&c), -EINVAL);
	ck_assert_str_eq(why, "/nonexistent/agent.conf: No such file or "
			      "directory");
}
END_TEST

START_TEST(bad_name_is_refused)
{
	struct config c;

	env_add("TIDEPOOL_NAME", "-x");
	ck_assert_int_eq(load(&c), -EINVAL);
	env_table[0].value = "a b";
	ck_assert_int_eq(load(&c), -EINVAL);
	env_table[0].value = "0123456789012345678901234567890123456789012345678"
			     "901234567890123";
	ck_assert_int_eq(load(&c), -EINVAL);
}
END_TEST

START_TEST(contradictions_are_refused)
{
	struct config c;

	file_make("[default]\nreservation = 2G\nlimit = 1G\n");
	ck_assert_int_eq(load(&c), -EINVAL);
	env_count = 0;
	file_make("[default]\nswap = /var/tmp\n");
	ck_assert_int_eq(load(&c), -EINVAL);
	ck_assert_str_eq(why, "a swap file needs swap_size");
}
END_TEST

static const struct {
	const char *text;
	int rc;
	uint64_t bytes;
} sizes[] = {
	{"0", 0, 0},
	{"1", 0, 1},
	{"4k", 0, 4096},
	{"4K", 0, 4096},
	{"512M", 0, (uint64_t)512 << 20},
	{"2GiB", 0, (uint64_t)2 << 30},
	{"1T", 0, (uint64_t)1 << 40},
	{"18446744073709551615", 0, UINT64_MAX},
	{"18446744073709551616", -EINVAL, 0},
	{"16777215T", 0, (uint64_t)16777215 << 40},
	{"16777216T", -EINVAL, 0},
	{"", -EINVAL, 0},
	{"-1", -EINVAL, 0},
	{" 1", -EINVAL, 0},
	{"1 M", -EINVAL, 0},
	{"M", -EINVAL, 0},
	{"1MB", -EINVAL, 0},
	{"1x", -EINVAL, 0},
	{"0x10", -EINVAL, 0},
};

START_TEST(size_is_parsed_or_refused)
{
	uint64_t bytes = 7;

	ck_assert_msg(config_size_parse(sizes[_i].text, &bytes) == sizes[_i].rc,
		      "%s", sizes[_i].text);
	if (!sizes[_i].rc)
		ck_assert_uint_eq(bytes, sizes[_i].bytes);
}
END_TEST

/* Sizes with inner zeros: the strings are /proc/self/cmdline. */
#define LINE(text) text, sizeof(text) - 1

static const struct {
	const char *cmdline;
	size_t n;
	const char *name;
} guesses[] = {
	{LINE("qemu\0-name\0desk7\0-m\0001"), "desk7"},
	{LINE("qemu\0-name\0guest=web 1,debug-threads=on\0"), "web-1"},
	{LINE("qemu\0-name\0debug-threads=on,guest=b\0"), "b"},
	{LINE("qemu\0-name\0.../x\0"), "x"},
	{LINE("qemu\0-name\0,\0"), "vm-42"},
	{LINE("qemu\0-name"), "vm-42"},
	{LINE("qemu\0-m\0512"), "vm-42"},
	{LINE(""), "vm-42"},
};

START_TEST(name_is_guessed_from_the_command_line)
{
	char name[WIRE_NAME_MAX];

	config_name_guess(guesses[_i].cmdline, guesses[_i].n, 42, name);
	ck_assert_str_eq(name, guesses[_i].name);
	ck_assert(name_is_good(name));
}
END_TEST

START_TEST(guessed_name_is_cut_not_overrun)
{
	char line[200] = "q", name[WIRE_NAME_MAX];

	memcpy(line + 2, "-name", 6);
	memset(line + 8, 'a', 192);
	config_name_guess(line, sizeof(line), 1, name);
	ck_assert_uint_eq(strlen(name), WIRE_NAME_MAX - 1);
}
END_TEST

static void fresh(void)
{
	env_count = 0;
	path[0] = why[0] = '\0';
}

int main(void)
{
	Suite *suite = suite_create("agent config");
	TCase *tc = tcase_create("config");

	tcase_add_checked_fixture(tc, fresh, NULL);
	tcase_add_test(tc, nothing_given_is_built_in);
	tcase_add_test(tc, environment_beats_own_section_beats_default);
	tcase_add_test(tc, page_store_of_the_guest_is_off_until_asked_for);
	tcase_add_test(tc, name_chooses_the_section);
	tcase_add_test(tc, errors_name_their_line);
	tcase_add_test(tc, bad_environment_is_named);
	tcase_add_test(tc, asked_file_must_exist);
	tcase_add_test(tc, bad_name_is_refused);
	tcase_add_test(tc, contradictions_are_refused);
	tcase_add_loop_test(tc, size_is_parsed_or_refused, 0,
			    (int)ARRAY_LEN(sizes));
	tcase_add_loop_test(tc, name_is_guessed_from_the_command_line, 0,
			    (int)ARRAY_LEN(guesses));
	tcase_add_test(tc, guessed_name_is_cut_not_overrun);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
