/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Quantiles over several threads' histograms: summed when asked, so that the
 * fault path pays one increment of its own memory.
 */
#include "hv/mm/histogram.h"

static uint64_t bucket_sum(const struct histogram *const *h, size_t n,
			   unsigned slot)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += h[i]->bucket[slot];
	return sum;
}

uint64_t histogram_quantile(const struct histogram *const *h, size_t n,
			    unsigned permille)
{
	uint64_t total = 0, seen = 0;

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		total += bucket_sum(h, n, i);
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += bucket_sum(h, n, i);
		if (seen && seen * 1000 >= total * permille)
			return histogram_ns(i);
	}
	return 0;
}
