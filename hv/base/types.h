/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Addresses and small words that every layer speaks.
 *
 * gfn, gpa and hva are one-member structs, so that mixing them does not
 * compile. A gfn counts 4 KiB guest frames; a gpa is a guest-physical byte
 * address; an hva is a byte address in the VMM's own address space.
 */
#ifndef HV_BASE_TYPES_H
#define HV_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SHIFT  12
#define PAGE_BYTES  ((size_t)1 << PAGE_SHIFT)
#define CHUNK_SHIFT 9
#define CHUNK_PAGES ((size_t)1 << CHUNK_SHIFT)
#define CHUNK_BYTES (CHUNK_PAGES * PAGE_BYTES)

#define MUST_CHECK	 __attribute__((warn_unused_result))
#define PRINTF(fmt, arg) __attribute__((format(printf, fmt, arg)))
#define ARRAY_LEN(a)	 (sizeof(a) / sizeof((a)[0]))

typedef struct {
	uint64_t n;
} gfn_t;

typedef struct {
	uint64_t n;
} gpa_t;

typedef struct {
	uintptr_t n;
} hva_t;

static inline void *hva_ptr(hva_t hva)
{
	return (void *)hva.n;
}

static inline hva_t hva_of(const void *ptr)
{
	return (hva_t){(uintptr_t)ptr};
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

#endif
