/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * XXH3 over one page, from libxxhash's header so that the compiler sees the
 * fixed length. Built twice, for the base instruction set and for AVX2, and
 * chosen once: at memory bandwidth the difference is what a pass costs.
 */
#include "sharing/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t sharing_hash(const uint8_t secret[192], const void *page)
{
	uint64_t h = XXH3_64bits_withSecret(page, PAGE_BYTES, secret, 192);

	h &= HASH_MASK;
	return h == HASH_NONE ? 1 : h;
}
