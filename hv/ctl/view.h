/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Values of a reply laid out as tables: which field, in which unit. */
#ifndef HV_CTL_VIEW_H
#define HV_CTL_VIEW_H

#include "hv/ctl/program.h"

enum view_unit {
	VIEW_TEXT,
	VIEW_NAMES, /* a list of strings */
	VIEW_BOOL,
	VIEW_ID,    /* a number that is not added up */
	VIEW_COUNT, /* up to here: numbers of events or things */
	VIEW_RATE,
	VIEW_BYTES,
	VIEW_LIMIT,  /* bytes; 0 means none */
	VIEW_BUDGET, /* bytes; 0 means the whole host */
	VIEW_PAGES,  /* shown as bytes */
	VIEW_NS,
	VIEW_MS,
	VIEW_PERMILLE, /* shown in percent */
	VIEW_SECONDS,
};

#define VIEW_TEXT_MAX 512

/* path: of one value, or of several numbers to add ("a.x+a.y"). */
struct view_field {
	const char *head;
	const char *path;
	enum view_unit unit;
};

/* Adds what path names; -ENOENT if one of them is missing. */
MUST_CHECK int view_sum(const struct hv_value *v, const char *path,
			uint64_t *out);

/* buf holds VIEW_TEXT_MAX. Returns it. */
const char *view_number(char *buf, uint64_t n, enum view_unit unit);

/* buf holds VIEW_TEXT_MAX; "-" for what is not there. Returns buf. */
const char *view_format(char *buf, const struct hv_value *v,
			const struct view_field *field);

/*
 * One row per element of the list at `path`; a last row adds up what can be
 * added when there is more than one.
 */
enum ctl_exit view_list(struct ctl *ctl, const struct hv_value *v,
			const char *path, const struct view_field *fields,
			size_t n);

/* One line per field: head, value. An empty path makes a heading. */
enum ctl_exit view_card(struct ctl *ctl, const struct hv_value *v,
			const struct view_field *fields, size_t n);

/* The unit a counter's name implies: _bytes, _pages, _ns, _permille. */
enum view_unit view_unit_of(const char *name);

/* Can values of different VMs be added? */
bool view_adds_up(const char *name);

#endif
