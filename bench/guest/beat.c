/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Process 1 of the guest of bench/balloon_bench.py: feels how long the guest
 * stands still. Once a millisecond it writes to some pages of its working set
 * and to one page fresh from the kernel; a beat counts from when it was due to
 * when that is done, so a guest that is stopped, waits for memory, or has no
 * processor is late.
 *
 * Commands:
 *   fill MIB   write that much and give it back to the guest's kernel
 *   beats      count, p50, p99, p999 and worst of the beats since, in us
 */
#include "line.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE	  4096
#define SET_PAGES 16384 /* working set: 64 MiB */
#define TOUCHES	  16
#define PERIOD_NS 1000000
#define BUCKETS	  512 /* eighths of a power of two */

static struct {
	pthread_mutex_t lock;
	uint64_t bucket[BUCKETS];
	uint64_t count, worst;
} beats = {.lock = PTHREAD_MUTEX_INITIALIZER};

static unsigned bucket_of(uint64_t ns)
{
	unsigned log = 63 - (unsigned)__builtin_clzll(ns | 8);

	return log * 8 + (ns >> (log - 3) & 7);
}

static double bucket_us(unsigned i)
{
	return (double)((uint64_t)(8 + i % 8) << (i / 8 - 3)) / 1000;
}

static void beat_note(uint64_t ns)
{
	pthread_mutex_lock(&beats.lock);
	beats.bucket[bucket_of(ns)]++;
	beats.count++;
	if (ns > beats.worst)
		beats.worst = ns;
	pthread_mutex_unlock(&beats.lock);
}

static void beat(volatile char *set, uint64_t *state)
{
	volatile char *fresh;
	int i;

	for (i = 0; i < TOUCHES; i++) {
		*state = *state * UINT64_C(6364136223846793005) + 1;
		set[(*state >> 33) % SET_PAGES * PAGE]++;
	}
	fresh = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fresh == MAP_FAILED)
		return;
	*fresh = 1;
	munmap((void *)(uintptr_t)fresh, PAGE);
}

static void *beats_run(void *arg)
{
	uint64_t due, state = 1;
	struct timespec ts;

	for (due = line_now_ns();;
	     due = line_now_ns() > due ? line_now_ns() : due) {
		due += PERIOD_NS;
		ts.tv_sec = (time_t)(due / 1000000000);
		ts.tv_nsec = (long)(due % 1000000000);
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
		beat(arg, &state);
		beat_note(line_now_ns() - due);
	}
	return NULL;
}

static double part(double share)
{
	uint64_t upto = (uint64_t)(share * (double)beats.count), n = 0;
	unsigned i;

	for (i = 24; i < BUCKETS; i++) {
		n += beats.bucket[i];
		if (n > upto)
			return bucket_us(i);
	}
	return 0;
}

static void do_beats(FILE *out)
{
	pthread_mutex_lock(&beats.lock);
	fprintf(out, "ok %llu %.1f %.1f %.1f %.1f\n",
		(unsigned long long)beats.count, part(0.5), part(0.99),
		part(0.999), (double)beats.worst / 1000);
	memset(beats.bucket, 0, sizeof(beats.bucket));
	beats.count = beats.worst = 0;
	pthread_mutex_unlock(&beats.lock);
}

static void do_fill(FILE *out, size_t mib)
{
	size_t i, bytes = mib << 20;
	char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		fputs("error no memory\n", out);
		return;
	}
	/* Each page another, so that nothing but the balloon takes it. */
	for (i = 0; i < bytes; i += PAGE)
		*(uint64_t *)(void *)(at + i) =
			i * UINT64_C(0x9e3779b97f4a7c15);
	munmap(at, bytes);
	fputs("ok\n", out);
}

static void answer(FILE *out, const char *command)
{
	if (!strncmp(command, "fill ", 5))
		do_fill(out, strtoul(command + 5, NULL, 10));
	else
		do_beats(out);
}

int main(void)
{
	struct line line;
	pthread_t id;
	char *set;

	set = mmap(NULL, (size_t)SET_PAGES * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (line_open(&line) || set == MAP_FAILED ||
	    pthread_create(&id, NULL, beats_run, set)) {
		perror("beat");
		return 1;
	}
	line_serve(&line, answer);
	return 1;
}
