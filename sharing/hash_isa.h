/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The same hash, compiled for different instruction sets. For hash.c only. */
#ifndef SHARING_HASH_ISA_H
#define SHARING_HASH_ISA_H

#include "hv/base/types.h"

uint64_t hash_avx2(const uint8_t secret[192], const void *page);

#endif
