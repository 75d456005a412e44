/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes as people write and read them, and the other units of the tables. */
#ifndef HV_CTL_SIZE_H
#define HV_CTL_SIZE_H

#include "hv/base/types.h"

#define SIZE_TEXT_MAX 32

/*
 * "512", "64K", "1.5G", "2GiB", "1t": binary units; a bare number is bytes.
 * -EINVAL: not a size; -ERANGE: over 2^63 - 1.
 */
MUST_CHECK int size_parse(const char *text, uint64_t *bytes_out);

/* A plain decimal number up to max. -EINVAL or -ERANGE. */
MUST_CHECK int number_parse(const char *text, uint64_t max, uint64_t *out);

/* All of these return buf, which holds SIZE_TEXT_MAX. */
const char *size_format(char *buf, uint64_t bytes); /* 0, 512B, 1.5G, 768M */
const char *count_format(char *buf, double count);  /* 950, 12.5k, 3.4M */
const char *time_format(char *buf, uint64_t ns);    /* 950ns, 1.5us, 2.1s */

#endif
