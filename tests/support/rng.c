/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See rng.h. */
#include "tests/support/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void rng_start(struct rng *rng, const char *what)
{
	const char *given = getenv("TEST_SEED");
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	rng->state = (uint64_t)ts.tv_sec * 1000000007u ^
		     (uint64_t)ts.tv_nsec << 20 ^ (uint64_t)getpid();
	if (given)
		rng->state = strtoull(given, NULL, 0);
	printf("%s: TEST_SEED=0x%llx\n", what, (unsigned long long)rng->state);
	fflush(stdout);
}

uint64_t rng_next(struct rng *rng)
{
	uint64_t z = (rng->state += 0x9e3779b97f4a7c15u);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

uint64_t rng_below(struct rng *rng, uint64_t bound)
{
	return rng_next(rng) % bound;
}

void rng_fill(struct rng *rng, void *buf, size_t bytes)
{
	unsigned char *p = buf;

	while (bytes) {
		uint64_t word = rng_next(rng);
		size_t n = bytes < sizeof(word) ? bytes : sizeof(word);

		memcpy(p, &word, n);
		p += n;
		bytes -= n;
	}
}
