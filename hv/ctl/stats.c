/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `hv stats`: every counter hvd sends, under the name it sends. The names come
 * from the reply and not from a header, so that a counter added to hvd is
 * shown by a command line built before it.
 */
#include "hv/ctl/table.h"
#include "hv/ctl/verbs.h"
#include "hv/ctl/view.h"

#include <inttypes.h>
#include <string.h>

static const char *const groups[] = {"mm", "tmem", "guest"};

static void heads_add(struct table *table, const char *const *heads, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		table_cell(table, heads[i]);
		table_align(table, i, i ? TABLE_RIGHT : TABLE_LEFT);
	}
}

static enum ctl_exit table_out(struct ctl *ctl, struct table *table)
{
	int rc = table_print(table, ctl->out);

	table_destroy(table);
	return rc ? ctl_refuse(ctl, "%s", strerror(-rc)) : CTL_DONE;
}

/* ---- of one VM ------------------------------------------------------- */

static void one_add(struct table *table, const char *group,
		    const struct hv_cursor *stat)
{
	char buf[VIEW_TEXT_MAX];
	uint64_t n;

	snprintf(buf, sizeof(buf), "%s.%s", group, stat->name);
	table_cell(table, buf);
	if (hv_value_u64(stat->value, "", &n)) {
		table_cell(table, NULL);
		table_cell(table, NULL);
		return;
	}
	snprintf(buf, sizeof(buf), "%" PRIu64, n);
	table_cell(table, buf);
	table_cell(table, view_number(buf, n, view_unit_of(stat->name)));
}

static enum ctl_exit one_print(struct ctl *ctl, const struct hv_value *vm)
{
	static const char *const heads[] = {"STAT", "EXACT", "ABOUT"};
	struct table *table;
	int rc = table_create(ARRAY_LEN(heads), &table);

	if (rc)
		return ctl_refuse(ctl, "%s", strerror(-rc));
	heads_add(table, heads, ARRAY_LEN(heads));
	for (size_t g = 0; g < ARRAY_LEN(groups); g++) {
		struct hv_cursor stat = {0};

		while (hv_value_next(hv_value_get(vm, groups[g]), &stat))
			one_add(table, groups[g], &stat);
	}
	return table_out(ctl, table);
}

/* ---- of all ---------------------------------------------------------- */

struct totals {
	uint64_t sum;
	uint64_t highest;
	const char *highest_vm;
	bool known;
};

static struct totals totals_of(const struct hv_value *list, const char *path)
{
	struct totals t = {.known = true};
	size_t count = hv_value_count(list, "vms");
	uint64_t n;

	for (size_t i = 0; i < count; i++) {
		const struct hv_value *vm = hv_value_at(list, "vms", i);

		if (hv_value_u64(vm, path, &n) ||
		    __builtin_add_overflow(t.sum, n, &t.sum)) {
			t.known = false;
			continue;
		}
		if (t.highest_vm && n <= t.highest)
			continue;
		t.highest = n;
		t.highest_vm = hv_value_text(vm, "name");
	}
	return t;
}

static void all_add(struct table *table, const struct hv_value *list,
		    const char *group, const char *name)
{
	enum view_unit unit = view_unit_of(name);
	char buf[VIEW_TEXT_MAX];
	struct totals t;

	snprintf(buf, sizeof(buf), "%s.%s", group, name);
	t = totals_of(list, buf);
	table_cell(table, buf);
	table_cell(table, t.known && view_adds_up(name)
				  ? view_number(buf, t.sum, unit)
				  : NULL);
	table_cell(table,
		   t.highest_vm ? view_number(buf, t.highest, unit) : NULL);
	table_cell(table, t.highest ? t.highest_vm : NULL);
}

static enum ctl_exit all_print(struct ctl *ctl, const struct hv_value *list)
{
	static const char *const heads[] = {"STAT", "TOTAL", "HIGHEST", "IN"};
	const struct hv_value *first = hv_value_at(list, "vms", 0);
	struct table *table;
	int rc = table_create(ARRAY_LEN(heads), &table);

	if (rc)
		return ctl_refuse(ctl, "%s", strerror(-rc));
	heads_add(table, heads, ARRAY_LEN(heads));
	for (size_t g = 0; g < ARRAY_LEN(groups); g++) {
		struct hv_cursor stat = {0};

		while (hv_value_next(hv_value_get(first, groups[g]), &stat))
			all_add(table, list, groups[g], stat.name);
	}
	return table_out(ctl, table);
}

enum ctl_exit look_stats(struct ctl *ctl)
{
	struct hv_value *value;
	enum ctl_exit exit_code;

	if (ctl->n_args ? hv_show(ctl->hv, ctl->args[0], &value)
			: hv_list(ctl->hv, &value))
		return ctl_fail(ctl);
	if (ctl_has(ctl, OPT_JSON))
		exit_code = ctl_json(ctl, value);
	else if (ctl->n_args)
		exit_code = one_print(ctl, value);
	else
		exit_code = all_print(ctl, value);
	hv_value_free(value);
	return exit_code;
}
