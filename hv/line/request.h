/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One request of a guest's: see request.c. */
#ifndef HV_LINE_REQUEST_H
#define HV_LINE_REQUEST_H

#include "hv/line/line.h"

/*
 * Does what the entry asks and returns its result. entry: a copy that the
 * guest cannot change. slot: a page that it can, at any time.
 */
int32_t request_do(struct tmem_client *client, const struct line_entry *entry,
		   uint8_t *slot, struct line_counts *count);

#endif
