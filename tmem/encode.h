/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One page to a block of LZ4's format, which any decoder of it reads. Depends
 * on nothing but the page: equal pages give equal blocks. Keeps no state.
 */
#ifndef TMEM_ENCODE_H
#define TMEM_ENCODE_H

#include "hv/base/types.h"

/* Read, but of no influence, behind the page. */
#define ENCODE_SLACK 16
/* What a block may be written into; never more, whatever the page. */
#define ENCODE_BYTES (PAGE_BYTES + 64)

/*
 * page: PAGE_BYTES + ENCODE_SLACK that nobody changes meanwhile; block:
 * ENCODE_BYTES. Returns the block's length, or 0 if that were over max. About
 * 8 KiB of stack.
 */
uint32_t encode_page(const unsigned char *page, unsigned char *block,
		     uint32_t max);

#endif
