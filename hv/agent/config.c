/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See config.h. One table of words serves the file and the environment (there
 * with TIDEPOOL_ in front and in capitals). The file is read twice, for
 * [default] and for [vm NAME], so that their order in it does not matter.
 * Sections of other VMs are skipped unread: one VM's slip is not another's.
 *
 * inih does the reading. It cuts a line longer than its buffer in two without a
 * word; the reader here sees that and makes it the error it is.
 */
#include "hv/agent/config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int set_fn(const char *text, void *field, size_t room);

int config_size_parse(const char *text, uint64_t *out)
{
	static const char units[] = "kmgt";
	unsigned shift = 0;
	const char *unit;
	uint64_t n;
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	unit = *end ? strchr(units, tolower((unsigned char)*end)) : NULL;
	if (unit) {
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
		if (!strcmp(end, "iB"))
			end += 2;
	}
	if (*end || n > UINT64_MAX >> shift)
		return -EINVAL;
	*out = n << shift;
	return 0;
}

static int size_set(const char *text, void *field, size_t room)
{
	(void)room;
	return config_size_parse(text, field);
}

/* Bytes, or a percentage of guest RAM. */
static int store_set(const char *text, void *field, size_t room)
{
	struct config *c = field;
	uint64_t n;
	char *end;

	(void)room;
	if (!strchr(text, '%')) {
		c->store_percent = 0;
		return config_size_parse(text, &c->store_bytes);
	}
	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	n = strtoull(text, &end, 10);
	if (strcmp(end, "%") || n > 100)
		return -EINVAL;
	c->store_percent = (uint32_t)n;
	c->store_bytes = 0;
	return 0;
}

static int shares_set(const char *text, void *field, size_t room)
{
	uint64_t n;

	(void)room;
	if (config_size_parse(text, &n) || n < 1 || n > 1000000)
		return -EINVAL;
	*(uint32_t *)field = (uint32_t)n;
	return 0;
}

static int tmem_swap_set(const char *text, void *field, size_t room)
{
	struct config *c = field;

	(void)room;
	c->tmem_swap_given = true;
	return config_size_parse(text, &c->tmem_swap_bytes);
}

static int switch_set(const char *text, void *field, size_t room)
{
	(void)room;
	if (strcmp(text, "on") && strcmp(text, "off"))
		return -EINVAL;
	*(bool *)field = !strcmp(text, "on");
	return 0;
}

static int codec_set(const char *text, void *field, size_t room)
{
	(void)room;
	if (strcmp(text, "zstd") && strcmp(text, "lz4"))
		return -EINVAL;
	*(bool *)field = !strcmp(text, "zstd");
	return 0;
}

static int queues_set(const char *text, void *field, size_t room)
{
	uint64_t n;

	(void)room;
	if (config_size_parse(text, &n) || n < 1 || n > 16)
		return -EINVAL;
	*(uint32_t *)field = (uint32_t)n;
	return 0;
}

static int poll_set(const char *text, void *field, size_t room)
{
	uint64_t n;

	(void)room;
	if (config_size_parse(text, &n) || n > 1000)
		return -EINVAL;
	*(uint32_t *)field = (uint32_t)n;
	return 0;
}

static int text_set(const char *text, void *field, size_t room)
{
	if (strlen(text) >= room)
		return -ENAMETOOLONG;
	memset(field, 0, room);
	memcpy(field, text, strlen(text));
	return 0;
}

static int path_set(const char *text, void *field, size_t room)
{
	return *text && *text != '/' ? -EINVAL : text_set(text, field, room);
}

/* As wire_check wants names: [A-Za-z0-9][A-Za-z0-9._-]*. */
static bool name_is_good(const char *text)
{
	if (!isascii((unsigned char)*text) || !isalnum((unsigned char)*text))
		return false;
	for (; *text; text++)
		if (!isascii((unsigned char)*text) ||
		    (!isalnum((unsigned char)*text) && !strchr("._-", *text)))
			return false;
	return true;
}

static int name_set(const char *text, void *field, size_t room)
{
	return name_is_good(text) ? text_set(text, field, room) : -EINVAL;
}

static int domain_set(const char *text, void *field, size_t room)
{
	return *text ? name_set(text, field, room)
		     : text_set(text, field, room);
}

static int log_set(const char *text, void *field, size_t room)
{
	(void)room;
	if (strcmp(text, "debug") && strcmp(text, "info"))
		return -EINVAL;
	*(bool *)field = !strcmp(text, "debug");
	return 0;
}

#define FIELD(f) offsetof(struct config, f), sizeof(((struct config *)0)->f)

static const struct word {
	const char *word, *variable, *want;
	set_fn *set;
	size_t at, room;
} words[] = {
	{"domain", "TIDEPOOL_DOMAIN",
	 "letters, digits, '.', '_', '-', at most 63", domain_set,
	 FIELD(domain)},
	{"reservation", "TIDEPOOL_RESERVATION", "a size such as 512M", size_set,
	 FIELD(reservation_bytes)},
	{"limit", "TIDEPOOL_LIMIT", "a size such as 2G, or 0", size_set,
	 FIELD(limit_bytes)},
	{"shares", "TIDEPOOL_SHARES", "1 to 1000000", shares_set,
	 FIELD(shares)},
	{"run_dir", "TIDEPOOL_RUN_DIR", "an absolute path", path_set,
	 FIELD(run_dir)},
	{"qmp", "TIDEPOOL_QMP", "an absolute path", path_set, FIELD(qmp)},
	{"store", "TIDEPOOL_STORE", "a size, or a percentage of guest RAM",
	 store_set, 0, 0},
	{"codec", "TIDEPOOL_CODEC", "zstd or lz4", codec_set, FIELD(dense)},
	{"swap", "TIDEPOOL_SWAP", "an absolute path", path_set, FIELD(swap)},
	{"swap_size", "TIDEPOOL_SWAP_SIZE", "a size such as 2G", size_set,
	 FIELD(swap_bytes)},
	{"poll", "TIDEPOOL_POLL", "microseconds, 0 to 1000", poll_set,
	 FIELD(poll_us)},
	{"tmem", "TIDEPOOL_TMEM", "a size such as 512M, or 0", size_set,
	 FIELD(tmem_bytes)},
	{"tmem_swap", "TIDEPOOL_TMEM_SWAP", "a size such as 512M, or 0",
	 tmem_swap_set, 0, 0},
	{"tmem_cache", "TIDEPOOL_TMEM_CACHE", "on or off", switch_set,
	 FIELD(tmem_cache)},
	{"tmem_queues", "TIDEPOOL_TMEM_QUEUES", "1 to 16", queues_set,
	 FIELD(tmem_queues)},
	{"log", "TIDEPOOL_LOG", "info or debug", log_set, FIELD(debug)},
};

static int word_set(const struct word *word, struct config *c, const char *text)
{
	return word->set(text, (char *)c + word->at, word->room);
}

struct reader {
	FILE *file;
	const char *section; /* the one wanted */
	struct config *config;
	int line, bad_line;
	char why[160];
};

static void reader_fail(struct reader *rd, const char *fmt, const char *a,
			const char *b)
{
	if (rd->bad_line)
		return;
	rd->bad_line = rd->line;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(rd->why, sizeof(rd->why), fmt, a, b);
#pragma GCC diagnostic pop
}

static char *line_read(char *buf, int room, void *arg)
{
	struct reader *rd = arg;
	size_t n;

	if (!fgets(buf, room, rd->file))
		return NULL;
	rd->line++;
	n = strlen(buf);
	if (n + 1 == (size_t)room && buf[n - 1] != '\n')
		reader_fail(rd, "line too long%s%s", "", "");
	return buf;
}

/* inih: 1 is well, 0 an error. */
static int entry_read(void *arg, const char *section, const char *key,
		      const char *value)
{
	struct reader *rd = arg;

	if (strcmp(section, "default") && strncmp(section, "vm ", 3)) {
		reader_fail(rd, "no such section: [%s]%s", section, "");
		return 0;
	}
	if (strcmp(section, rd->section))
		return 1;
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		if (strcmp(words[i].word, key))
			continue;
		if (!word_set(&words[i], rd->config, value))
			return 1;
		reader_fail(rd, "%s: want %s", key, words[i].want);
		return 0;
	}
	reader_fail(rd, "unknown word: %s%s", key, "");
	return 0;
}

static int section_load(const char *path, const char *section, struct config *c,
			char *why, size_t room)
{
	struct reader rd = {.section = section, .config = c};
	int at;

	rd.file = fopen(path, "re");
	if (!rd.file)
		return -errno;
	at = ini_parse_stream(line_read, &rd, entry_read, &rd);
	fclose(rd.file);
	if (!at && !rd.bad_line)
		return 0;
	if (rd.bad_line && (at <= 0 || rd.bad_line <= at))
		snprintf(why, room, "%s:%d: %s", path, rd.bad_line, rd.why);
	else if (at > 0)
		snprintf(why, room, "%s:%d: not a [section] or word = value",
			 path, at);
	else
		snprintf(why, room, "%s: cannot be read", path);
	return -EINVAL;
}

static int file_load(config_env_fn *env, struct config *c, char *why,
		     size_t room)
{
	const char *asked = env("TIDEPOOL_CONFIG");
	const char *path = asked && *asked ? asked : CONFIG_FILE;
	char section[WIRE_NAME_MAX + 8];
	int rc;

	rc = section_load(path, "default", c, why, room);
	if (rc == -ENOENT && path != asked)
		return 0;
	snprintf(section, sizeof(section), "vm %s", c->name);
	if (!rc)
		rc = section_load(path, section, c, why, room);
	if (rc && rc != -EINVAL)
		snprintf(why, room, "%s: %s", path, strerror(-rc));
	return rc ? -EINVAL : 0;
}

static int env_load(config_env_fn *env, struct config *c, char *why,
		    size_t room)
{
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		const char *text = env(words[i].variable);

		if (!text || !*text || !word_set(&words[i], c, text))
			continue;
		snprintf(why, room, "%s: want %s", words[i].variable,
			 words[i].want);
		return -EINVAL;
	}
	return 0;
}

/* The name decides which section is read, so it comes first. */
static int name_load(config_env_fn *env, const char *guess, struct config *c,
		     char *why, size_t room)
{
	const char *text = env("TIDEPOOL_NAME");

	if (!text || !*text)
		text = guess ? guess : "vm";
	if (!name_set(text, c->name, sizeof(c->name)))
		return 0;
	snprintf(why, room,
		 "TIDEPOOL_NAME: want letters, digits, '.', '_', '-', at most "
		 "63");
	return -EINVAL;
}

int config_load(config_env_fn *env, const char *guess, struct config *out,
		char *why, size_t room)
{
	struct config c = {.run_dir = "/run/tidepool",
			   .shares = 1000,
			   .dense = true,
			   .poll_us = 50,
			   .tmem_cache = true,
			   .tmem_queues = 2,
			   .store_percent = 50};
	int rc;

	rc = name_load(env, guess, &c, why, room);
	if (!rc)
		rc = file_load(env, &c, why, room);
	if (!rc)
		rc = env_load(env, &c, why, room);
	if (!rc && c.limit_bytes && c.reservation_bytes > c.limit_bytes) {
		snprintf(why, room, "the reservation is above the limit");
		rc = -EINVAL;
	}
	if (!rc && *c.swap && !c.swap_bytes) {
		snprintf(why, room, "a swap file needs swap_size");
		rc = -EINVAL;
	}
	if (!rc)
		*out = c;
	return rc;
}

/* Keeps what may stand in a name; everything else becomes '-'. */
static void name_clean(const char *text, size_t n, char out[WIRE_NAME_MAX])
{
	size_t at = 0;

	for (size_t i = 0; i < n && at < WIRE_NAME_MAX - 1; i++) {
		unsigned char ch = (unsigned char)text[i];
		bool good = isascii(ch) && isalnum(ch);

		if (!at && !good)
			continue;
		out[at++] = good || strchr("._-", ch) ? (char)ch : '-';
	}
	out[at] = '\0';
}

/* The value in "NAME,opt=x", or in "opt=x,guest=NAME". n: its bytes. */
static const char *name_value(const char *arg, size_t n, size_t *n_out)
{
	const char *guest = memmem(arg, n, "guest=", 6);
	const char *value = guest ? guest + 6 : arg;
	const char *comma = memchr(value, ',', n - (size_t)(value - arg));

	*n_out = (size_t)((comma ? comma : arg + n) - value);
	return value;
}

static bool is_name_option(const char *arg, size_t n)
{
	return (n == 5 && !memcmp(arg, "-name", 5)) ||
	       (n == 6 && !memcmp(arg, "--name", 6));
}

/* The text may end anywhere: it is what of a command line fitted a buffer. */
void config_name_guess(const char *cmdline, size_t n, int pid,
		       char out[WIRE_NAME_MAX])
{
	const char *end = cmdline + n, *value;
	bool next = false;
	size_t len, value_len;

	out[0] = '\0';
	for (const char *arg = cmdline; arg < end && !out[0]; arg += len + 1) {
		len = strnlen(arg, (size_t)(end - arg));
		if (next) {
			value = name_value(arg, len, &value_len);
			name_clean(value, value_len, out);
			break;
		}
		next = is_name_option(arg, len);
	}
	if (!out[0])
		snprintf(out, WIRE_NAME_MAX, "vm-%d", pid);
}
