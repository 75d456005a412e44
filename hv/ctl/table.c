/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Aligned tables. All cells are kept until the table is printed, since only
 * then is the width of a column known; a failed allocation is remembered and
 * reported there, so that filling a table needs no checks.
 */
#include "hv/ctl/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS_MAX 24
#define GAP	    2

struct table {
	size_t columns;
	enum table_align align[COLUMNS_MAX];
	char **cells;
	size_t n, room;
	bool failed;
};

int table_create(size_t columns, struct table **out)
{
	if (!columns || columns > COLUMNS_MAX)
		return -EINVAL;
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -ENOMEM;
	(*out)->columns = columns;
	return 0;
}

void table_destroy(struct table *table)
{
	if (!table)
		return;
	for (size_t i = 0; i < table->n; i++)
		free(table->cells[i]);
	free(table->cells);
	free(table);
}

void table_align(struct table *table, size_t column, enum table_align align)
{
	table->align[column] = align;
}

/* ESC, and the C1 controls that UTF-8 spells C2 80 to C2 9F. */
void text_clean(char *text)
{
	unsigned char *p = (unsigned char *)text;

	for (; *p; p++)
		if (*p < 0x20 || *p == 0x7f)
			*p = '?';
		else if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
			p[0] = p[1] = '?';
}

void table_cell(struct table *table, const char *text)
{
	char *copy = strdup(text && *text ? text : "-");

	if (copy && table->n == table->room) {
		size_t room = table->room ? table->room * 2 : 64;
		char **cells = realloc(table->cells, room * sizeof(*cells));

		if (cells) {
			table->cells = cells;
			table->room = room;
		}
	}
	if (!copy || table->n == table->room) {
		table->failed = true;
		free(copy);
		return;
	}
	text_clean(copy);
	table->cells[table->n++] = copy;
}

/* In characters: every byte but those that continue one. */
static size_t text_width(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

static void spaces(FILE *out, size_t n)
{
	while (n--)
		fputc(' ', out);
}

static void cell_print(const struct table *table, size_t i, size_t width,
		       FILE *out)
{
	size_t column = i % table->columns;
	size_t pad = width - text_width(table->cells[i]);
	bool right = table->align[column] == TABLE_RIGHT;

	if (right)
		spaces(out, pad);
	fputs(table->cells[i], out);
	if (column + 1 == table->columns) {
		fputc('\n', out);
		return;
	}
	spaces(out, (right ? 0 : pad) + GAP);
}

int table_print(const struct table *table, FILE *out)
{
	size_t width[COLUMNS_MAX] = {0};

	if (table->failed)
		return -ENOMEM;
	for (size_t i = 0; i < table->n; i++) {
		size_t *w = &width[i % table->columns];

		*w = max_u64(*w, text_width(table->cells[i]));
	}
	for (size_t i = 0; i < table->n; i++)
		cell_print(table, i, width[i % table->columns], out);
	return 0;
}
