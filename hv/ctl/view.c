/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Values of a reply laid out as tables. A table is a list of fields; nothing
 * here knows what a VM is. What hvd does not send prints as "-", so a command
 * line older or newer than hvd still shows what both know.
 */
#include "hv/ctl/view.h"
#include "hv/ctl/size.h"
#include "hv/ctl/table.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static bool saturating_add(uint64_t *sum, uint64_t n)
{
	return __builtin_add_overflow(*sum, n, sum);
}

int view_sum(const struct hv_value *v, const char *path, uint64_t *out)
{
	uint64_t sum = 0, n;
	char one[96];

	while (*path) {
		size_t len = strcspn(path, "+");
		int rc;

		if (len >= sizeof(one))
			return -ENOENT;
		memcpy(one, path, len);
		one[len] = '\0';
		rc = hv_value_u64(v, one, &n);
		if (rc)
			return rc;
		if (saturating_add(&sum, n))
			return -ERANGE;
		path += len + (path[len] == '+');
	}
	*out = sum;
	return 0;
}

const char *view_number(char *buf, uint64_t n, enum view_unit unit)
{
	switch (unit) {
	case VIEW_COUNT:
		return count_format(buf, (double)n);
	case VIEW_BYTES:
		return size_format(buf, n);
	case VIEW_LIMIT:
		return n ? size_format(buf, n) : strcpy(buf, "none");
	case VIEW_BUDGET:
		return n ? size_format(buf, n) : strcpy(buf, "whole host");
	case VIEW_PAGES:
		return n > UINT64_MAX / PAGE_BYTES
			       ? strcpy(buf, "-")
			       : size_format(buf, n * PAGE_BYTES);
	case VIEW_NS:
		return time_format(buf, n);
	case VIEW_MS:
		return n > UINT64_MAX / 1000000 ? strcpy(buf, "-")
						: time_format(buf, n * 1000000);
	case VIEW_PERMILLE:
		snprintf(buf, VIEW_TEXT_MAX, "%.1f%%", (double)n / 10);
		return buf;
	case VIEW_SECONDS:
		snprintf(buf, VIEW_TEXT_MAX, "%" PRIu64 "s", n);
		return buf;
	default:
		snprintf(buf, VIEW_TEXT_MAX, "%" PRIu64, n);
		return buf;
	}
}

/* As many names as there is room for, and then "...". */
static const char *names_format(char *buf, const struct hv_value *v,
				const char *path)
{
	size_t at = 0, count = hv_value_count(v, path);

	strcpy(buf, "-");
	for (size_t i = 0; i < count; i++) {
		const char *name = hv_value_text(hv_value_at(v, path, i), "");
		int n;

		n = snprintf(buf + at, VIEW_TEXT_MAX - at, "%s%s", i ? " " : "",
			     name ? name : "-");
		if ((size_t)n >= VIEW_TEXT_MAX - at - 4) {
			strcpy(buf + min_u64(at, VIEW_TEXT_MAX - 5), " ...");
			break;
		}
		at += (size_t)n;
	}
	return buf;
}

const char *view_format(char *buf, const struct hv_value *v,
			const struct view_field *field)
{
	const char *text;
	double real;
	uint64_t n;
	bool on;

	strcpy(buf, "-");
	switch (field->unit) {
	case VIEW_TEXT:
		text = hv_value_text(v, field->path);
		if (text)
			snprintf(buf, VIEW_TEXT_MAX, "%s", text);
		return buf;
	case VIEW_NAMES:
		return names_format(buf, v, field->path);
	case VIEW_BOOL:
		if (!hv_value_bool(v, field->path, &on))
			strcpy(buf, on ? "yes" : "no");
		return buf;
	case VIEW_RATE:
		if (!hv_value_real(v, field->path, &real) && real >= 0)
			count_format(buf, real);
		return buf;
	default:
		if (view_sum(v, field->path, &n))
			return buf;
		return view_number(buf, n, field->unit);
	}
}

/* ---- lists ----------------------------------------------------------- */

static void heads_add(struct table *table, const struct view_field *fields,
		      size_t n)
{
	for (size_t i = 0; i < n; i++) {
		table_cell(table, fields[i].head);
		table_align(table, i,
			    fields[i].unit <= VIEW_BOOL ? TABLE_LEFT
							: TABLE_RIGHT);
	}
}

static bool unit_adds_up(enum view_unit unit)
{
	return unit == VIEW_COUNT || unit == VIEW_BYTES || unit == VIEW_PAGES ||
	       unit == VIEW_MS;
}

static bool any_adds_up(const struct view_field *fields, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (unit_adds_up(fields[i].unit))
			return true;
	return false;
}

/* A VM that does not say makes the sum unknown, not smaller. */
static const char *total_format(char *buf, const struct hv_value *v,
				const char *path,
				const struct view_field *field)
{
	uint64_t sum = 0, n;

	for (size_t i = 0; i < hv_value_count(v, path); i++)
		if (view_sum(hv_value_at(v, path, i), field->path, &n) ||
		    saturating_add(&sum, n))
			return "-";
	return view_number(buf, sum, field->unit);
}

static void total_add(struct table *table, const struct hv_value *v,
		      const char *path, const struct view_field *fields,
		      size_t n)
{
	char buf[VIEW_TEXT_MAX];

	table_cell(table, "total");
	for (size_t i = 1; i < n; i++)
		table_cell(table,
			   unit_adds_up(fields[i].unit)
				   ? total_format(buf, v, path, &fields[i])
				   : "");
}

static enum ctl_exit table_done(struct ctl *ctl, struct table *table)
{
	int rc = table_print(table, ctl->out);

	table_destroy(table);
	return rc ? ctl_refuse(ctl, "%s", strerror(-rc)) : CTL_DONE;
}

enum ctl_exit view_list(struct ctl *ctl, const struct hv_value *v,
			const char *path, const struct view_field *fields,
			size_t n)
{
	char buf[VIEW_TEXT_MAX];
	struct table *table;
	size_t count = hv_value_count(v, path);
	int rc = table_create(n, &table);

	if (rc)
		return ctl_refuse(ctl, "%s", strerror(-rc));
	heads_add(table, fields, n);
	for (size_t i = 0; i < count; i++)
		for (size_t f = 0; f < n; f++)
			table_cell(table,
				   view_format(buf, hv_value_at(v, path, i),
					       &fields[f]));
	if (count > 1 && any_adds_up(fields, n))
		total_add(table, v, path, fields, n);
	return table_done(ctl, table);
}

enum ctl_exit view_card(struct ctl *ctl, const struct hv_value *v,
			const struct view_field *fields, size_t n)
{
	char buf[VIEW_TEXT_MAX];

	for (size_t i = 0; i < n; i++) {
		if (!*fields[i].path) {
			fprintf(ctl->out, "%s%s\n", i ? "\n" : "",
				fields[i].head);
			continue;
		}
		view_format(buf, v, &fields[i]);
		text_clean(buf);
		fprintf(ctl->out, "  %-24s %s\n", fields[i].head, buf);
	}
	return CTL_DONE;
}

/* ---- counters by name ------------------------------------------------ */

static bool ends_in(const char *name, const char *end)
{
	size_t n = strlen(name), m = strlen(end);

	return n >= m && !strcmp(name + n - m, end);
}

enum view_unit view_unit_of(const char *name)
{
	if (ends_in(name, "_bytes"))
		return VIEW_BYTES;
	if (ends_in(name, "_pages"))
		return VIEW_PAGES;
	if (ends_in(name, "_ns"))
		return VIEW_NS;
	return strstr(name, "_permille") ? VIEW_PERMILLE : VIEW_COUNT;
}

bool view_adds_up(const char *name)
{
	return !strstr(name, "_permille") && !strstr(name, "_p50_") &&
	       !strstr(name, "_p99_");
}
