/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The content hash: XXH3 (xxHash specification 0.8) with the 192-byte secret of
 * the domain, cut to 48 bits. It is a hint only: nothing is shared without a
 * comparison of all 4096 bytes. The secret keeps a guest from making pages that
 * collide, and a hash from saying anything to another domain.
 */
#ifndef SHARING_HASH_H
#define SHARING_HASH_H

#include "hv/base/types.h"
#include "sharing/wire.h"

/* Never HASH_NONE. */
uint64_t sharing_hash(const uint8_t secret[192], const void *page);

#endif
