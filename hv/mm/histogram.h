/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A log-linear histogram of durations: 8 buckets for each power of two, so a
 * quantile is right to within 12.5 %. One writer; readers may run at any time.
 */
#ifndef HV_MM_HISTOGRAM_H
#define HV_MM_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_BUCKETS 320

struct histogram {
	_Atomic uint32_t bucket[HISTOGRAM_BUCKETS];
};

static inline unsigned histogram_slot(uint64_t ns)
{
	unsigned top, slot;

	if (ns < 8)
		return (unsigned)ns;
	top = 63 - (unsigned)__builtin_clzll(ns);
	slot = (top - 2) * 8 + (unsigned)(ns >> (top - 3) & 7);
	return slot < HISTOGRAM_BUCKETS ? slot : HISTOGRAM_BUCKETS - 1;
}

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
	h->bucket[histogram_slot(ns)]++;
}

/* Lower bound of a bucket. */
static inline uint64_t histogram_ns(unsigned slot)
{
	unsigned top = slot / 8 + 2;

	return slot < 8 ? slot : (uint64_t)(8 + slot % 8) << (top - 3);
}

/* The permille-th of 1000 over n histograms; 0 when they are empty. */
uint64_t histogram_quantile(const struct histogram *const *h, size_t n,
			    unsigned permille);

#endif
