/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The settings are one table: section, key, how to read the value, where it
 * goes. A key that is not in it is an error, with its line: a setting misspelt
 * must not be a setting ignored. inih parses and names the line of the first
 * error; our handler says what is wrong with it, if it was the handler that
 * found it.
 *
 * Values: sizes 4096, 64K, 512M, 16G, 2T (1024s); times 200ms, 10s, 2m; yes and
 * no; percentages 20%, 0.2%; words. The unit of a time or a percentage has to
 * be there: a number alone would be a guess.
 */
#include "hv/daemon/config.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DOMAIN_PREFIX "domain "
#define SECTION_CUT   49 /* where inih cuts a longer one short */

struct setting {
	const char *section, *key;
	/* False: `expects` says what it should have been. */
	bool (*read)(const char *value, void *out, size_t room);
	size_t offset, room;
	const char *expects;
};

/* ---- values ----------------------------------------------------------- */

/* Digits, perhaps a dot and more digits, scaled by 10^places; end_out: rest */
static bool decimal_read(const char *value, unsigned places, uint64_t *out,
			 const char **end_out)
{
	uint64_t n = 0;
	unsigned left = places;
	bool dot = false;

	if (!isdigit((unsigned char)*value))
		return false;
	for (; isdigit((unsigned char)*value) || (*value == '.' && !dot);
	     value++) {
		if (*value == '.') {
			dot = true;
			continue;
		}
		if ((dot && !left--) || n > UINT64_MAX / 10 - 1)
			return false;
		n = n * 10 + (uint64_t)(*value - '0');
	}
	while (left--) {
		if (n > UINT64_MAX / 10)
			return false;
		n *= 10;
	}
	*out = n;
	*end_out = value;
	return true;
}

static bool size_read(const char *value, void *out, size_t room)
{
	static const char suffix[] = "KMGT";
	const char *end, *at;
	unsigned shift = 0;
	uint64_t n;

	(void)room;
	if (!decimal_read(value, 0, &n, &end))
		return false;
	if (*end && *end != '.') {
		at = strchr(suffix, toupper((unsigned char)*end));
		if (!at)
			return false;
		shift = 10 * (unsigned)(at - suffix + 1);
		end++;
	}
	if (*end || n > UINT64_MAX >> shift)
		return false;
	*(uint64_t *)out = n << shift;
	return true;
}

static bool time_read(const char *value, void *out, size_t room)
{
	const char *end;
	uint64_t n, ms;

	(void)room;
	if (!decimal_read(value, 0, &n, &end))
		return false;
	if (!strcmp(end, "ms"))
		ms = 1;
	else if (!strcmp(end, "s"))
		ms = 1000;
	else if (!strcmp(end, "m"))
		ms = 60000;
	else
		return false;
	if (n > 86400000 / ms)
		return false;
	*(uint32_t *)out = (uint32_t)(n * ms);
	return true;
}

/* In units of 1/10^places percent, at most limit percent. */
static bool percent_any(const char *value, unsigned places, uint64_t limit,
			uint32_t *out)
{
	const char *end;
	uint64_t n, most = limit;
	unsigned i;

	for (i = 0; i < places; i++)
		most *= 10;
	if (!decimal_read(value, places, &n, &end) || strcmp(end, "%") != 0 ||
	    n > most)
		return false;
	*out = (uint32_t)n;
	return true;
}

static bool percent_read(const char *value, void *out, size_t room)
{
	(void)room;
	return percent_any(value, 0, 1000, out);
}

static bool permille_read(const char *value, void *out, size_t room)
{
	(void)room;
	return percent_any(value, 1, 100, out);
}

static bool tax_read(const char *value, void *out, size_t room)
{
	(void)room;
	return percent_any(value, 0, 99, out);
}

static bool yes_read(const char *value, void *out, size_t room)
{
	(void)room;
	*(bool *)out = !strcmp(value, "yes");
	return *(bool *)out || !strcmp(value, "no");
}

static bool text_read(const char *value, void *out, size_t room)
{
	size_t n = strlen(value);

	if (n >= room)
		return false;
	memcpy(out, value, n + 1);
	return true;
}

static bool path_read(const char *value, void *out, size_t room)
{
	/* Room for "/control.sock" in a socket's address. */
	return value[0] == '/' && text_read(value, out, room - 16);
}

static bool metrics_read(const char *value, void *out, size_t room)
{
	const char *port = value + strlen("127.0.0.1:");
	unsigned long n;
	char *end;

	if (!*value || value[0] == '/')
		return text_read(value, out, room);
	if (strncmp(value, "127.0.0.1:", 10) != 0 ||
	    !isdigit((unsigned char)*port))
		return false;
	n = strtoul(port, &end, 10);
	return !*end && n > 0 && n < 65536 && text_read(value, out, room);
}

static bool share_read(const char *value, void *out, size_t room)
{
	static const char *const word[] = {"always", "pressure", "never"};
	size_t i;

	(void)room;
	for (i = 0; i < ARRAY_LEN(word); i++)
		if (!strcmp(value, word[i])) {
			*(enum share_mode *)out = (enum share_mode)i;
			return true;
		}
	return false;
}

/* ---- the table -------------------------------------------------------- */

#define AT(field)                                                              \
	offsetof(struct config, field), sizeof(((struct config *)0)->field)
#define AT_DOMAIN(field)                                                       \
	offsetof(struct config_domain, field),                                 \
		sizeof(((struct config_domain *)0)->field)

#define SIZE	"a size such as 4096, 512M or 16G"
#define PERCENT "a percentage such as 50%"
#define MODE	"always, pressure or never"

static const struct setting settings[] = {
	{"hvd", "run_dir", path_read, AT(run_dir), "a path of up to 91 bytes"},
	{"hvd", "group", text_read, AT(group), "a group of up to 63 bytes"},
	{"hvd", "metrics", metrics_read, AT(metrics),
	 "a path, 127.0.0.1:PORT or nothing"},
	{"hvd", "budget", size_read, AT(budget_bytes), SIZE},
	{"hvd", "raise_max_map_count", yes_read, AT(raise_map_count),
	 "yes or no"},
	{"share", "mode", share_read, AT(share), MODE},
	{"share", "rest", time_read, AT(scan_ms),
	 "a time such as 500ms or 10s"},
	{"share", "gather", time_read, AT(gather_ms),
	 "a time such as 500ms or 10s"},
	{"share", "pool", size_read, AT(pool_bytes), SIZE},
	{"share", "cow_reserve", permille_read, AT(cow_permille),
	 "a percentage from 0% to 100%"},
	{"share", "cow_reserve_max", size_read, AT(cow_max_bytes), SIZE},
	{"pressure", "min", size_read, AT(pressure.min_bytes), SIZE},
	{"pressure", "clear", percent_read,
	 AT(pressure.enter_percent[PRESSURE_CLEAR]), PERCENT},
	{"pressure", "soft", percent_read,
	 AT(pressure.enter_percent[PRESSURE_SOFT]), PERCENT},
	{"pressure", "hard", percent_read,
	 AT(pressure.enter_percent[PRESSURE_HARD]), PERCENT},
	{"pressure", "low", percent_read,
	 AT(pressure.enter_percent[PRESSURE_LOW]), PERCENT},
	{"pressure", "hysteresis", percent_read, AT(pressure.leave_percent),
	 PERCENT},
	{"vm", "idle_tax", tax_read, AT(tax_percent),
	 "a percentage from 0% to 99%"},
	{"vm", "refault", permille_read, AT(refault_permille),
	 "a percentage such as 0.2%"},
	{"vm", "store", percent_read, AT(store_percent), PERCENT},
	{"vm", "swap", yes_read, AT(swap), "yes or no"},
	{"vm", "balloon", yes_read, AT(balloon), "yes or no"},
	{"vm", "balloon_keep", size_read, AT(balloon_keep_bytes), SIZE},
};

static const struct setting domain_settings[] = {
	{"domain", "pool", size_read, AT_DOMAIN(pool_bytes), SIZE},
	{"domain", "mode", share_read, AT_DOMAIN(share), MODE},
};

void config_default(struct config *config)
{
	*config = (struct config){
		.run_dir = "/run/tidepool",
		.group = "tidepool",
		.raise_map_count = true,
		.share = SHARE_ALWAYS,
		.scan_ms = 20000,
		.gather_ms = 2000,
		.cow_permille = 50,
		.cow_max_bytes = (uint64_t)4 << 30,
		.tax_percent = 75,
		.refault_permille = 2,
		.store_percent = 50,
		.balloon = true,
		.balloon_keep_bytes = (uint64_t)64 << 20,
	};
	pressure_config_default(&config->pressure);
}

void config_fini(struct config *config)
{
	free(config->domain);
	config->domain = NULL;
	config->domains = 0;
}

const struct config_domain *config_domain_find(const struct config *config,
					       const char *name)
{
	size_t i;

	for (i = 0; i < config->domains; i++)
		if (!strcmp(config->domain[i].name, name))
			return &config->domain[i];
	return NULL;
}

/* ---- the file --------------------------------------------------------- */

struct reader {
	struct config *config;
	FILE *file;			  /* or NULL: */
	const char *content;		  /* what is left of it */
	int line, text_line;		  /* being read; of the error */
	char text[CONFIG_TEXT_MAX - 160]; /* of the first error */
};

__attribute__((format(printf, 2, 3))) static bool refuse(struct reader *rd,
							 const char *fmt, ...)
{
	va_list ap;

	if (rd->text[0])
		return false;
	rd->text_line = rd->line;
	va_start(ap, fmt);
	vsnprintf(rd->text, sizeof(rd->text), fmt, ap);
	va_end(ap);
	return false;
}

static bool setting_apply(struct reader *rd, const struct setting *table,
			  size_t n, void *base, const char *section,
			  const char *key, const char *value)
{
	const struct setting *s;
	bool section_known = false;

	for (s = table; s < table + n; s++) {
		if (strcmp(section, s->section) != 0)
			continue;
		section_known = true;
		if (strcmp(key, s->key) != 0)
			continue;
		if (s->read(value, (char *)base + s->offset, s->room))
			return true;
		return refuse(rd, "%s: \"%.60s\" is not %s", key, value,
			      s->expects);
	}
	if (section_known)
		return refuse(rd, "no setting \"%.60s\" in [%s]", key, section);
	return refuse(rd, "no section [%.60s]", section);
}

static bool name_is_good(const char *name)
{
	static const char ok[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRST"
		"UVWXYZ0123456789._-";

	return isalnum((unsigned char)*name) && strlen(name) < WIRE_NAME_MAX &&
	       strspn(name, ok) == strlen(name);
}

static struct config_domain *domain_get(struct config *config, const char *name)
{
	struct config_domain *more;
	size_t i;

	for (i = 0; i < config->domains; i++)
		if (!strcmp(config->domain[i].name, name))
			return &config->domain[i];
	more = realloc(config->domain, (i + 1) * sizeof(*more));
	if (!more)
		return NULL;
	config->domain = more;
	config->domains++;
	more[i] = (struct config_domain){.pool_bytes = config->pool_bytes,
					 .share = config->share};
	snprintf(more[i].name, sizeof(more[i].name), "%s", name);
	return &more[i];
}

static bool domain_apply(struct reader *rd, const char *name, const char *key,
			 const char *value)
{
	struct config_domain *domain;

	if (!name_is_good(name))
		return refuse(rd, "\"%.60s\" cannot name a domain", name);
	domain = domain_get(rd->config, name);
	if (!domain)
		return refuse(rd, "no memory");
	return setting_apply(rd, domain_settings, ARRAY_LEN(domain_settings),
			     domain, "domain", key, value);
}

static int line_handle(void *arg, const char *section, const char *key,
		       const char *value)
{
	struct reader *rd = arg;

	if (strlen(section) >= SECTION_CUT)
		return refuse(rd, "a section of over %d characters",
			      SECTION_CUT - 1);
	if (!strncmp(section, DOMAIN_PREFIX, strlen(DOMAIN_PREFIX)))
		return domain_apply(rd, section + strlen(DOMAIN_PREFIX), key,
				    value);
	return setting_apply(rd, settings, ARRAY_LEN(settings), rd->config,
			     section, key, value);
}

/* Each state has to begin below the one before it. */
static bool lines_are_ordered(const struct config *config)
{
	unsigned s;

	for (s = PRESSURE_SOFT; s < PRESSURE_STATES; s++)
		if (config->pressure.enter_percent[s] >=
		    config->pressure.enter_percent[s - 1])
			return false;
	return true;
}

static int result_tell(const struct reader *rd, int line, const char *where,
		       char text[CONFIG_TEXT_MAX])
{
	if (line > 0) {
		snprintf(text, CONFIG_TEXT_MAX, "%.100s:%d: %s", where, line,
			 rd->text_line == line
				 ? rd->text
				 : "not [SECTION] or KEY = VALUE");
		return -EINVAL;
	}
	if (!lines_are_ordered(rd->config)) {
		snprintf(text, CONFIG_TEXT_MAX,
			 "%.100s: [pressure] clear, soft, hard and low have to "
			 "become smaller in this order",
			 where);
		return -EINVAL;
	}
	return 0;
}

/* ini_reader: one line, as fgets. */
static char *line_next(char *buf, int room, void *arg)
{
	struct reader *rd = arg;
	size_t n;

	rd->line++;
	if (rd->file)
		return fgets(buf, room, rd->file);
	n = strcspn(rd->content, "\n");
	n += rd->content[n] == '\n';
	n = min_u64(n, (uint64_t)room - 1);
	memcpy(buf, rd->content, n);
	buf[n] = 0;
	rd->content += n;
	return n ? buf : NULL;
}

static int reader_run(struct reader *rd, const char *where,
		      char text[CONFIG_TEXT_MAX])
{
	int line = ini_parse_stream(line_next, rd, line_handle, rd);

	return result_tell(rd, line, where, text);
}

int config_parse(struct config *config, const char *content,
		 char text[CONFIG_TEXT_MAX])
{
	struct reader rd = {.config = config, .content = content};

	return reader_run(&rd, "config", text);
}

int config_read(struct config *config, const char *path,
		char text[CONFIG_TEXT_MAX])
{
	struct reader rd = {.config = config, .file = fopen(path, "re")};
	int rc;

	if (!rd.file) {
		rc = -errno;
		snprintf(text, CONFIG_TEXT_MAX, "%.100s: %s", path,
			 strerror(-rc));
		return rc;
	}
	rc = reader_run(&rd, path, text);
	fclose(rd.file);
	return rc;
}
