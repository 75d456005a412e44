/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The content hash for processors with AVX2: the Makefile builds this file with
 * -mavx2, and libxxhash's header then uses it. Same result as hash_base().
 */
#include "sharing/hash_isa.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash_avx2(const uint8_t secret[192], const void *page)
{
	return XXH3_64bits_withSecret(page, PAGE_BYTES, secret, 192);
}
