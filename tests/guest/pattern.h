/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages whose content follows from (seed, index, version), so that a checker
 * needs no copy: a byte that is lost, old, or another page's is found. What a
 * page store treats apart is all there, by index modulo 8: 1 page of zeros, 1
 * of one repeated word, 3 that LZ4 halves, 3 that it cannot compress. Only
 * pages of zeros look alike; the others carry (seed, index, version) in every
 * word.
 */
#ifndef TEST_PATTERN_H
#define TEST_PATTERN_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define PATTERN_PAGE  4096u
#define PATTERN_WORDS (PATTERN_PAGE / 8)

static inline uint64_t pattern_mix(uint64_t z)
{
	z += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* Version 0 is what nobody wrote: zeros, as a fresh device reads. */
static inline void pattern_fill(uint64_t *page, uint64_t seed, uint64_t index,
				uint64_t version)
{
	uint64_t x = pattern_mix(pattern_mix(seed ^ index << 20) ^ version);
	unsigned kind = index % 8, i;

	if (!version || !kind) {
		memset(page, 0, PATTERN_PAGE);
		return;
	}
	for (i = 0; i < PATTERN_WORDS; i++) {
		if (kind > 4 || (kind > 1 && i % 8 == 0))
			x = pattern_mix(x);
		page[i] = x;
	}
}

static inline bool pattern_is(const uint64_t *page, uint64_t seed,
			      uint64_t index, uint64_t version)
{
	uint64_t want[PATTERN_WORDS];

	pattern_fill(want, seed, index, version);
	return !memcmp(page, want, PATTERN_PAGE);
}

#endif
