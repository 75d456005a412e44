// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How fast pages are hashed, beside how fast the same memory can be read at
 * all: one buffer larger than any cache, read and hashed in turn.
 *
 *   hash_rate [--mib N] [--repetitions N]
 *
 * "Plain read" is what one core does with wide loads and a sum nobody can leave
 * out. Times are CPU times of this thread: other load on the machine takes none
 * of it away, but it does take memory bandwidth. One JSON object on standard
 * output; rates are bytes a CPU second.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "hv/base/types.h"
#include "sharing/hash.h"

#define REPETITIONS_MAX 100
#define AHEAD		12 /* vectors: found fastest, and what XXH3 itself does */

typedef uint64_t wide __attribute__((vector_size(32), aligned(32)));

static volatile uint64_t sink;

static double cpu_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

#define READ_PLAIN                                                             \
	const wide *w = at;                                                    \
	wide a = {0}, b = {0}, c = {0}, d = {0};                               \
	for (size_t i = 0; i < bytes / sizeof(*w); i += 4) {                   \
		__builtin_prefetch(w + i + AHEAD);                             \
		__builtin_prefetch(w + i + AHEAD + 2);                         \
		a += w[i];                                                     \
		b += w[i + 1];                                                 \
		c += w[i + 2];                                                 \
		d += w[i + 3];                                                 \
	}                                                                      \
	a += b + c + d;                                                        \
	sink = a[0] + a[1] + a[2] + a[3]

__attribute__((target("avx2"))) static void read_avx2(const void *at,
						      size_t bytes)
{
	READ_PLAIN;
}

static void read_base(const void *at, size_t bytes)
{
	READ_PLAIN;
}

static double read_rate(const void *at, size_t bytes)
{
	double start = cpu_s();

	if (__builtin_cpu_supports("avx2"))
		read_avx2(at, bytes);
	else
		read_base(at, bytes);
	return (double)bytes / (cpu_s() - start);
}

static double hash_rate(const uint8_t *at, size_t bytes)
{
	static const uint8_t secret[192] = {1, 2, 3};
	double start = cpu_s();
	uint64_t all = 0;

	for (size_t i = 0; i < bytes; i += PAGE_BYTES)
		all ^= sharing_hash(secret, at + i);
	sink = all;
	return (double)bytes / (cpu_s() - start);
}

static void rates_print(const char *name, const double *rate, size_t n)
{
	printf("\"%s\": [", name);
	for (size_t i = 0; i < n; i++)
		printf("%s%.0f", i ? ", " : "", rate[i]);
	printf("]");
}

static int measure(size_t bytes, size_t n)
{
	double plain[REPETITIONS_MAX], hash[REPETITIONS_MAX];
	uint64_t *w = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (w == MAP_FAILED)
		return -ENOMEM;
	for (size_t i = 0; i < bytes / sizeof(*w); i++)
		w[i] = i * 0x9e3779b97f4a7c15u;
	for (size_t i = 0; i < n; i++) {
		plain[i] = read_rate(w, bytes);
		hash[i] = hash_rate((const uint8_t *)w, bytes);
	}
	printf("{");
	rates_print("plain", plain, n);
	printf(", ");
	rates_print("hash", hash, n);
	printf("}\n");
	munmap(w, bytes);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long mib = 512, n = 7;

	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--mib"))
			mib = strtoul(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--repetitions"))
			n = strtoul(argv[i + 1], NULL, 10);
	}
	if (argc % 2 == 0 || !mib || mib > 1 << 20 || !n ||
	    n > REPETITIONS_MAX) {
		fprintf(stderr, "usage: hash_rate [--mib N] "
				"[--repetitions N]\n");
		return 2;
	}
	int rc = measure(mib << 20, n);
	if (rc)
		fprintf(stderr, "hash_rate: %s\n", strerror(-rc));
	return rc ? 1 : 0;
}
