/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verbs that change something. Each says what it did, or under --dry-run
 * what it would do: the words are hvd's reply, not what was asked for.
 */
#include "hv/ctl/size.h"
#include "hv/ctl/table.h"
#include "hv/ctl/verbs.h"
#include "hv/ctl/view.h"

#include <string.h>

static const char *would(const struct ctl *ctl)
{
	return ctl_has(ctl, OPT_DRY_RUN) ? "would be " : "";
}

/* ---- set ------------------------------------------------------------- */

enum set_kind { SET_SIZE, SET_NUMBER, SET_SWITCH };

static const struct set_option {
	enum opt opt;
	enum set_kind kind;
	const char *param;
	uint64_t max;
} set_options[] = {
	{OPT_RESERVATION, SET_SIZE, "reservation_bytes", 0},
	{OPT_LIMIT, SET_SIZE, "limit_bytes", 0},
	{OPT_SHARES, SET_NUMBER, "shares", UINT32_MAX},
	{OPT_WEIGHT, SET_NUMBER, "weight", UINT32_MAX},
	{OPT_CAP, SET_SIZE, "cap_bytes", 0},
	{OPT_RESERVE, SET_SIZE, "reserve_bytes", 0},
	{OPT_COMPRESS, SET_SWITCH, "compress", 0},
};

static enum ctl_exit switch_read(struct ctl *ctl, enum opt opt, uint64_t *out)
{
	const char *text = ctl->opt[opt];

	if (strcmp(text, "on") && strcmp(text, "off"))
		return ctl_usage(ctl, "`%s` is neither on nor off", text);
	*out = !strcmp(text, "on");
	return CTL_DONE;
}

static enum ctl_exit setting_read(struct ctl *ctl, const struct set_option *set,
				  struct hv_setting *out)
{
	out->name = set->param;
	switch (set->kind) {
	case SET_SIZE:
		return ctl_size(ctl, set->opt, &out->value);
	case SET_NUMBER:
		return ctl_number(ctl, set->opt, set->max, &out->value);
	default:
		return switch_read(ctl, set->opt, &out->value);
	}
}

static const char *changed_format(char *buf, const struct hv_value *pair,
				  size_t i, const char *name)
{
	const struct hv_value *v = hv_value_at(pair, "", i);
	uint64_t n;
	bool on;

	if (!hv_value_bool(v, "", &on))
		return strcpy(buf, on ? "on" : "off");
	if (hv_value_u64(v, "", &n))
		return strcpy(buf, "-");
	return view_number(buf, n,
			   view_unit_of(name) == VIEW_BYTES ? VIEW_BYTES
							    : VIEW_ID);
}

static void changes_print(struct ctl *ctl, const struct hv_value *value)
{
	const struct hv_value *changed = hv_value_get(value, "changed");
	char was[VIEW_TEXT_MAX], now[VIEW_TEXT_MAX], name[64];
	struct hv_cursor cursor = {0};
	size_t n = 0;

	while (hv_value_next(changed, &cursor)) {
		snprintf(name, sizeof(name), "%s", cursor.name);
		text_clean(name);
		changed_format(was, cursor.value, 0, cursor.name);
		changed_format(now, cursor.value, 1, cursor.name);
		fprintf(ctl->out, "%s: %s %schanged from %s to %s\n",
			ctl->args[0], name, would(ctl), was, now);
		n++;
	}
	if (!n)
		fprintf(ctl->out, "%s: nothing %schanged\n", ctl->args[0],
			would(ctl));
}

enum ctl_exit change_set(struct ctl *ctl)
{
	struct hv_setting settings[ARRAY_LEN(set_options)];
	struct hv_value *value;
	enum ctl_exit exit_code = CTL_DONE;
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(set_options); i++) {
		if (!ctl_has(ctl, set_options[i].opt))
			continue;
		exit_code = setting_read(ctl, &set_options[i], &settings[n++]);
		if (exit_code)
			return exit_code;
	}
	if (!n)
		return ctl_usage(ctl, "set: nothing to set");
	if (hv_set(ctl->hv, ctl->args[0], settings, n, ctl_mode(ctl), &value))
		return ctl_fail(ctl);
	if (ctl_has(ctl, OPT_JSON))
		exit_code = ctl_json(ctl, value);
	else
		changes_print(ctl, value);
	hv_value_free(value);
	return exit_code;
}

/* ---- the others ------------------------------------------------------ */

static enum ctl_exit size_argument(struct ctl *ctl, uint64_t *out)
{
	if (!size_parse(ctl->args[0], out))
		return CTL_DONE;
	return ctl_usage(ctl, "`%s` is not a size (such as 512M or 2G)",
			 ctl->args[0]);
}

/* Prints the reply as JSON, or the line that says it; frees value. */
static enum ctl_exit change_out(struct ctl *ctl, struct hv_value *value,
				char *line)
{
	enum ctl_exit exit_code = CTL_DONE;

	text_clean(line);
	if (ctl_has(ctl, OPT_JSON))
		exit_code = ctl_json(ctl, value);
	else
		fprintf(ctl->out, "%s\n", line);
	hv_value_free(value);
	return exit_code;
}

/* "NOUN changed from WAS to NOW" */
static enum ctl_exit was_now_out(struct ctl *ctl, struct hv_value *value,
				 const char *noun, struct view_field was,
				 struct view_field now)
{
	char a[VIEW_TEXT_MAX], b[VIEW_TEXT_MAX], line[2 * VIEW_TEXT_MAX + 64];

	view_format(a, value, &was);
	view_format(b, value, &now);
	snprintf(line, sizeof(line), "%s %schanged from %s to %s", noun,
		 would(ctl), a, b);
	return change_out(ctl, value, line);
}

enum ctl_exit change_flush(struct ctl *ctl)
{
	static const struct view_field flushed = {NULL, "flushed_bytes",
						  VIEW_BYTES};
	char a[VIEW_TEXT_MAX], line[VIEW_TEXT_MAX + 64];
	struct hv_value *value;
	uint64_t bytes;
	enum ctl_exit exit_code = size_argument(ctl, &bytes);

	if (exit_code)
		return exit_code;
	if (hv_flush(ctl->hv, ctl->opt[OPT_CLIENT], bytes, ctl_mode(ctl),
		     &value))
		return ctl_fail(ctl);
	snprintf(line, sizeof(line), "%s of ephemeral pages %sflushed",
		 view_format(a, value, &flushed), would(ctl));
	return change_out(ctl, value, line);
}

enum ctl_exit change_pressure(struct ctl *ctl)
{
	static const char *const states[] = {"auto", "high", "clear",
					     "soft", "hard", "low"};
	struct hv_value *value;
	size_t i = 0;

	while (i < ARRAY_LEN(states) && strcmp(states[i], ctl->args[0]))
		i++;
	if (i == ARRAY_LEN(states))
		return ctl_usage(ctl,
				 "`%s` is not one of auto, high, clear, soft, "
				 "hard, low",
				 ctl->args[0]);
	if (hv_pressure(ctl->hv, states[i], ctl_mode(ctl), &value))
		return ctl_fail(ctl);
	return was_now_out(ctl, value, "pressure",
			   (struct view_field){NULL, "was", VIEW_TEXT},
			   (struct view_field){NULL, "now", VIEW_TEXT});
}

enum ctl_exit change_budget(struct ctl *ctl)
{
	struct hv_value *value;
	uint64_t bytes;
	enum ctl_exit exit_code = size_argument(ctl, &bytes);

	if (exit_code)
		return exit_code;
	if (hv_budget(ctl->hv, bytes, ctl_mode(ctl), &value))
		return ctl_fail(ctl);
	return was_now_out(ctl, value, "budget",
			   (struct view_field){NULL, "was_bytes", VIEW_BUDGET},
			   (struct view_field){NULL, "now_bytes", VIEW_BUDGET});
}

enum ctl_exit change_unshare(struct ctl *ctl)
{
	char line[VIEW_TEXT_MAX];
	struct hv_value *value;

	if (hv_unshare(ctl->hv, ctl->args[0], ctl_mode(ctl), &value))
		return ctl_fail(ctl);
	snprintf(line, sizeof(line), "%s: every shared page %s its own again",
		 ctl->args[0], ctl_has(ctl, OPT_DRY_RUN) ? "would be" : "is");
	return change_out(ctl, value, line);
}

enum ctl_exit change_unmanage(struct ctl *ctl)
{
	char line[VIEW_TEXT_MAX];
	struct hv_value *value;

	if (hv_unmanage(ctl->hv, ctl->args[0], ctl_mode(ctl), &value))
		return ctl_fail(ctl);
	snprintf(line, sizeof(line), "%s: memory %srestored and let go",
		 ctl->args[0], would(ctl));
	return change_out(ctl, value, line);
}
