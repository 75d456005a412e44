/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Aligned tables with a header line. Cells are copied; what comes from hvd or
 * a guest cannot reach the terminal as a control sequence.
 */
#ifndef HV_CTL_TABLE_H
#define HV_CTL_TABLE_H

#include "hv/base/types.h"

#include <stdio.h>

struct table;

enum table_align { TABLE_LEFT, TABLE_RIGHT };

MUST_CHECK int table_create(size_t columns, struct table **out);
void table_destroy(struct table *table);

/* Row by row, left to right. NULL prints as "-". The first row is the head. */
void table_cell(struct table *table, const char *text);
void table_align(struct table *table, size_t column, enum table_align align);

/* -ENOMEM also for a table_cell that had no memory. */
MUST_CHECK int table_print(const struct table *table, FILE *out);

/* Replaces every control character, in place. */
void text_clean(char *text);

#endif
