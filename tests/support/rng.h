/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random numbers of a test: seeded once, the seed printed, so a failure found
 * on any machine repeats on every other with TEST_SEED=seed. splitmix64, since
 * its whole state is the seed and its stream is the same everywhere; rand(3)
 * is neither.
 */
#ifndef TESTS_SUPPORT_RNG_H
#define TESTS_SUPPORT_RNG_H

#include <stddef.h>
#include <stdint.h>

struct rng {
	uint64_t state;
};

/*
 * Seeds from the environment's TEST_SEED, or from the clock, and prints
 * "what: TEST_SEED=..." so that a failure can be repeated.
 */
void rng_start(struct rng *rng, const char *what);

uint64_t rng_next(struct rng *rng);

/* 0 to bound - 1; bound must not be 0. */
uint64_t rng_below(struct rng *rng, uint64_t bound);

void rng_fill(struct rng *rng, void *buf, size_t bytes);

#endif
