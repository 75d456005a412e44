/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The state of one guest page in one 64-bit word:
 *
 *   63    60 59     54 53   51 50    48 47                              0
 *  +--------+---------+-------+--------+---------------------------------+
 *  | state  |   age   | heat  | flags  | payload                         |
 *  +--------+---------+-------+--------+---------------------------------+
 *
 * payload: PRIVATE, HELD: content hash of the last scan, 0 if none.
 *          SHARED: frame number.  SWAPPED: slot in the swap file.
 * age:     scans since the page last changed or came back (saturates).
 * heat:    times it came back soon after it was taken; each doubles its rest.
 *
 * A word is read and written under its chunk's lock.
 */
#ifndef HV_MM_PAGE_H
#define HV_MM_PAGE_H

#include "hv/base/types.h"

#include <string.h>

enum page_state {
	PAGE_ABSENT,	 /* no content: reads as zero */
	PAGE_PRIVATE,	 /* in the guest's own memory */
	PAGE_HELD,	 /* lifted out on trial, uncompressed */
	PAGE_SHARED,	 /* overlay of a frame, not written since */
	PAGE_ZERO,	 /* was all zero; dropped */
	PAGE_COMPRESSED, /* in the store, key = page number */
	PAGE_SWAPPED,	 /* in the swap file */
	PAGE_STATES
};

enum page_flag {
	PAGE_OVERLAY = 1,   /* PRIVATE, but inside an overlay's mapping */
	PAGE_OFFERED = 2,   /* hvd was told the hash in payload */
	PAGE_BALLOONED = 4, /* ABSENT, because the guest gave it back */
};

#define PAGE_AGE_MAX  63u
#define PAGE_HEAT_MAX 4u

static inline enum page_state page_state(uint64_t word)
{
	return (enum page_state)(word >> 60);
}

static inline unsigned page_age(uint64_t word)
{
	return word >> 54 & PAGE_AGE_MAX;
}

static inline unsigned page_heat(uint64_t word)
{
	return word >> 51 & 7;
}

static inline unsigned page_flags(uint64_t word)
{
	return word >> 48 & 7;
}

static inline uint64_t page_payload(uint64_t word)
{
	return word & (((uint64_t)1 << 48) - 1);
}

static inline uint64_t page_word(enum page_state state, unsigned age,
				 unsigned heat, unsigned flags,
				 uint64_t payload)
{
	return (uint64_t)state << 60 | (uint64_t)(age & PAGE_AGE_MAX) << 54 |
	       (uint64_t)(heat & 7) << 51 | (uint64_t)(flags & 7) << 48 |
	       (payload & (((uint64_t)1 << 48) - 1));
}

static inline uint64_t page_without(uint64_t word, enum page_flag flag)
{
	return word & ~((uint64_t)flag << 48);
}

/* Out of the guest: an access needs our answer. */
static inline bool page_is_out(uint64_t word)
{
	enum page_state s = page_state(word);

	return s == PAGE_HELD || s == PAGE_COMPRESSED || s == PAGE_SWAPPED;
}

/* Most pages differ in their first words: this rarely reads on. */
static inline bool page_is_zero(const void *page)
{
	const uint64_t *w = page;

	if (w[0] | w[1] || w[511])
		return false;
	return memcmp(w, w + 1, PAGE_BYTES - sizeof(*w)) == 0;
}

#endif
