/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sizes as people write and read them. Reading is exact and refuses what it
 * cannot represent; a fraction is cut to whole bytes. Writing keeps three
 * digits: enough to compare two guests, narrow enough for a column. Exact
 * numbers are what --json is for.
 */
#include "hv/ctl/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char units[] = "KMGTPE";

/* "", "B", "K", "KB", "KiB" and so on, in either case. -1: none of these. */
static int unit_shift(const char *text)
{
	const char *unit;

	if (!*text || !strcasecmp(text, "B"))
		return 0;
	unit = strchr(units, toupper((unsigned char)*text));
	if (!unit)
		return -1;
	text++;
	if (*text && strcasecmp(text, "B") && strcasecmp(text, "iB"))
		return -1;
	return 10 * (int)(unit - units + 1);
}

static int digits_read(const char **at, uint64_t *out)
{
	const char *p = *at;
	uint64_t n = 0;

	if (!isdigit((unsigned char)*p))
		return -EINVAL;
	for (; isdigit((unsigned char)*p); p++) {
		uint64_t digit = (uint64_t)(*p - '0');

		if (n > (INT64_MAX - digit) / 10)
			return -ERANGE;
		n = n * 10 + digit;
	}
	*at = p;
	*out = n;
	return 0;
}

int size_parse(const char *text, uint64_t *bytes_out)
{
	uint64_t whole, part = 0, scale = 1;
	int rc = digits_read(&text, &whole), shift;

	if (rc)
		return rc;
	if (*text == '.') {
		text++;
		if (!isdigit((unsigned char)*text))
			return -EINVAL;
		for (; isdigit((unsigned char)*text); text++) {
			if (scale >= 1000000)
				return -EINVAL;
			part = part * 10 + (uint64_t)(*text - '0');
			scale *= 10;
		}
	}
	shift = unit_shift(text);
	if (shift < 0 || (scale > 1 && shift == 0))
		return -EINVAL;
	if (whole > (uint64_t)INT64_MAX >> shift)
		return -ERANGE;
	whole <<= shift;
	/* part < 10^6 < 2^20: shifting by 40 at most keeps it in 64 bits */
	part = shift > 40 ? (part << 40) / scale << (shift - 40)
			  : (part << shift) / scale;
	if (part > INT64_MAX - whole)
		return -ERANGE;
	*bytes_out = whole + part;
	return 0;
}

int number_parse(const char *text, uint64_t max, uint64_t *out)
{
	int rc = digits_read(&text, out);

	if (rc)
		return rc;
	if (*text)
		return -EINVAL;
	return *out <= max ? 0 : -ERANGE;
}

static const char *scaled(char *buf, double value, double base,
			  const char *names[], size_t n)
{
	size_t i = 0;

	/* 999.95 would print as 1000.0 */
	while (i + 1 < n && value >= base - 0.05) {
		value /= base;
		i++;
	}
	snprintf(buf, SIZE_TEXT_MAX, i && value < 99.95 ? "%.1f%s" : "%.0f%s",
		 value, names[i]);
	return buf;
}

const char *size_format(char *buf, uint64_t bytes)
{
	static const char *names[] = {"B", "K", "M", "G", "T", "P", "E"};

	if (!bytes)
		return strcpy(buf, "0");
	return scaled(buf, (double)bytes, 1024, names, ARRAY_LEN(names));
}

const char *count_format(char *buf, double count)
{
	static const char *names[] = {"", "k", "M", "G", "T"};

	if (count > 0 && count < 9.95) {
		snprintf(buf, SIZE_TEXT_MAX, "%.3g", count);
		return buf;
	}
	return scaled(buf, count, 1000, names, ARRAY_LEN(names));
}

const char *time_format(char *buf, uint64_t ns)
{
	static const char *names[] = {"ns", "us", "ms", "s"};

	if (!ns)
		return strcpy(buf, "0");
	return scaled(buf, (double)ns, 1000, names, ARRAY_LEN(names));
}
