/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The store alone: puts and gets per second for 1, 2, 4 and 8 threads, and what
 * part of its memory is payload after churn. Pages compress as a desktop's do
 * (half below 2 KiB); threads use keys of their own in one object, as the
 * memory manager's fault threads do.
 *
 *   store [--json] [--pages N]
 */
#include "tmem/tmem.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define THREADS_MAX 8
#define CHURNS	    10
#define SAMPLES	    256 /* different pages */

struct run {
	unsigned threads;
	double puts_per_s;
	double gets_per_s;
	double put_cpu_ns; /* of one put; free of other load on the machine */
	double get_cpu_ns;
};

struct phase {
	double wall_s;
	double cpu_s; /* of all threads */
};

struct worker {
	pthread_t thread;
	struct tmem_client *cl;
	int pool;
	uint32_t first;
	uint32_t pages;
	uint64_t failed;
};

static unsigned char samples[SAMPLES][PAGE_BYTES];
static const struct tmem_oid oid = {{1, 0, 0}};

static uint64_t random_next(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15u);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* Short runs of random bytes and repeats, from nearly empty to random. */
static void samples_make(void)
{
	uint64_t state = 1;

	for (unsigned s = 0; s < SAMPLES; s++)
		for (unsigned i = 0; i < PAGE_BYTES; i += 16) {
			bool fresh = random_next(&state) % SAMPLES < s;

			for (unsigned b = 0; b < 16; b++)
				samples[s][i + b] =
					fresh ? (unsigned char)random_next(
							&state)
					      : (unsigned char)(b * s);
		}
}

static double now_s(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void *work_put(void *arg)
{
	struct worker *w = arg;

	for (uint32_t i = w->first; i < w->first + w->pages; i++)
		w->failed += tmem_put(w->cl, w->pool, &oid, i,
				      samples[i * 7 % SAMPLES]) != 0;
	return NULL;
}

/* In an order of no help to caches: a stride prime to the count. */
static void *work_get(void *arg)
{
	struct worker *w = arg;
	unsigned char page[PAGE_BYTES];
	uint64_t at = 0;

	for (uint32_t i = 0; i < w->pages; i++) {
		at = (at + 7919) % w->pages;
		w->failed += tmem_get(w->cl, w->pool, &oid,
				      w->first + (uint32_t)at, page) != 0;
	}
	return NULL;
}

static struct phase run_phase(struct worker *w, unsigned n,
			      void *(*work)(void *))
{
	struct phase phase = {-now_s(CLOCK_MONOTONIC),
			      -now_s(CLOCK_PROCESS_CPUTIME_ID)};
	unsigned begun = 0;

	while (begun < n &&
	       !pthread_create(&w[begun].thread, NULL, work, &w[begun]))
		begun++;
	for (unsigned i = 0; i < begun; i++)
		pthread_join(w[i].thread, NULL);
	if (begun < n)
		w[begun].failed++;
	phase.wall_s += now_s(CLOCK_MONOTONIC);
	phase.cpu_s += now_s(CLOCK_PROCESS_CPUTIME_ID);
	return phase;
}

static int run_threads(unsigned n, uint32_t pages, struct run *out)
{
	struct worker w[THREADS_MAX] = {0};
	struct tmem_client *cl;
	struct tmem *tm;
	uint64_t failed = 0;
	struct phase put, get;
	uint32_t ops = pages / n * n;
	int rc = tmem_create(0, &tm);

	if (rc)
		return rc;
	rc = tmem_client_create(tm, "bench", &cl);
	if (rc)
		goto destroy;
	for (unsigned i = 0; i < n; i++) {
		w[i].cl = cl;
		w[i].pages = pages / n;
		w[i].first = i * (pages / n);
	}
	rc = tmem_pool_create(cl, TMEM_PERSISTENT, NULL);
	if (rc < 0)
		goto destroy;
	rc = 0;
	put = run_phase(w, n, work_put);
	get = run_phase(w, n, work_get);
	for (unsigned i = 0; i < n; i++)
		failed += w[i].failed;
	if (failed)
		rc = -EIO;
	out->threads = n;
	out->puts_per_s = ops / put.wall_s;
	out->gets_per_s = ops / get.wall_s;
	out->put_cpu_ns = put.cpu_s * 1e9 / ops;
	out->get_cpu_ns = get.cpu_s * 1e9 / ops;
destroy:
	tmem_destroy(tm);
	return rc;
}

static int run_churn(uint32_t pages, struct tmem_stats *st)
{
	uint64_t state = 2;
	struct tmem_client *cl;
	struct tmem *tm;
	int rc = tmem_create(0, &tm);

	if (rc)
		return rc;
	rc = tmem_client_create(tm, "bench", &cl);
	if (rc)
		goto destroy;
	rc = tmem_pool_create(cl, TMEM_PERSISTENT, NULL);
	if (rc < 0)
		goto destroy;
	rc = 0;
	for (uint64_t n = 0; n < (uint64_t)pages * CHURNS && !rc; n++) {
		uint32_t i = (uint32_t)(random_next(&state) % pages);
		uint64_t r = random_next(&state);

		if (r % 4 == 0)
			rc = tmem_flush_page(cl, 0, &oid, i);
		else
			rc = tmem_put(cl, 0, &oid, i, samples[r / 4 % SAMPLES]);
	}
	tmem_stats(tm, st);
destroy:
	tmem_destroy(tm);
	return rc;
}

static void print_json(const struct run *runs, size_t n,
		       const struct tmem_stats *st)
{
	printf("{\"runs\": [");
	for (size_t i = 0; i < n; i++)
		printf("%s{\"threads\": %u, \"puts_per_s\": %.0f, "
		       "\"gets_per_s\": %.0f, \"put_cpu_ns\": %.0f, "
		       "\"get_cpu_ns\": %.0f}",
		       i ? ", " : "", runs[i].threads, runs[i].puts_per_s,
		       runs[i].gets_per_s, runs[i].put_cpu_ns,
		       runs[i].get_cpu_ns);
	printf("], \"churn\": {\"pages\": %llu, \"stored_bytes\": %llu, "
	       "\"metadata_bytes\": %llu, \"slack_bytes\": %llu, "
	       "\"used_bytes\": %llu, \"payload_ratio\": %.4f}}\n",
	       (unsigned long long)st->pages,
	       (unsigned long long)st->stored_bytes,
	       (unsigned long long)st->metadata_bytes,
	       (unsigned long long)st->slack_bytes,
	       (unsigned long long)st->used_bytes,
	       (double)st->stored_bytes / (double)st->used_bytes);
}

static void print_table(const struct run *runs, size_t n,
			const struct tmem_stats *st)
{
	printf("threads     puts/s     gets/s  CPU ns: put    get\n");
	for (size_t i = 0; i < n; i++)
		printf("%7u %10.0f %10.0f %12.0f %6.0f\n", runs[i].threads,
		       runs[i].puts_per_s, runs[i].gets_per_s,
		       runs[i].put_cpu_ns, runs[i].get_cpu_ns);
	printf("after churn: %llu pages, %.1f MiB used, %.2f %% payload, "
	       "%.2f %% metadata, %.2f %% slack\n",
	       (unsigned long long)st->pages,
	       (double)st->used_bytes / (1 << 20),
	       100.0 * (double)st->stored_bytes / (double)st->used_bytes,
	       100.0 * (double)st->metadata_bytes / (double)st->used_bytes,
	       100.0 * (double)st->slack_bytes / (double)st->used_bytes);
}

static int usage(void)
{
	fprintf(stderr, "usage: store [--json] [--pages N]\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct run runs[4];
	struct tmem_stats st;
	uint32_t pages = 100000;
	bool json = false;
	int rc = 0;

	for (int a = 1; a < argc; a++) {
		if (!strcmp(argv[a], "--json"))
			json = true;
		else if (!strcmp(argv[a], "--pages") && a + 1 < argc)
			pages = (uint32_t)strtoul(argv[++a], NULL, 10);
		else
			return usage();
	}
	if (pages < THREADS_MAX)
		return usage();
	samples_make();
	for (size_t i = 0; i < ARRAY_LEN(runs) && !rc; i++)
		rc = run_threads(1u << i, pages, &runs[i]);
	if (!rc)
		rc = run_churn(pages, &st);
	if (rc) {
		fprintf(stderr, "store: %s\n", strerror(-rc));
		return 1;
	}
	if (json)
		print_json(runs, ARRAY_LEN(runs), &st);
	else
		print_table(runs, ARRAY_LEN(runs), &st);
	return 0;
}
