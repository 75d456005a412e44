// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What it costs to touch memory that is compressed: one side a run, for the
 * bench `fault`. The process fills its memory, has all of it compressed, and
 * then touches every page once, timing each touch.
 *
 *   fault_touch ours|swap [--mib N] [--threads N] [--order random|sequential]
 *               [--handlers N] [--seed N] [--touches N] [--gap MICROSECONDS]
 *               [--poll MICROSECONDS] [--codec zstd|lz4]
 *
 *   ours   the pages are in the manager's store: a touch is a userfaultfd
 *          message, answered by a thread of the manager (hv/mm, as in a VMM)
 *   swap   the pages are on the swap device the caller set up
 *
 * With a gap each touch finds everybody asleep: a fault now and then, not a
 * storm of them.
 *
 * What is timed is a read of one byte, by two readings of the clock around it;
 * what the clock itself takes is printed and not subtracted. CPU is the
 * process's own, user and system: the manager's threads run in it, and a
 * swap-in is done by the thread that needs it. Prints one JSON object. Exit
 * code 77: this side cannot be had here.
 */
#include "bench/lib/cold.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS_MAX 16

struct toucher {
	pthread_t id;
	const uint32_t *order;
	uint32_t *took_ns;
	size_t n;
	uint64_t wrong;
};

static struct cold cold;
static unsigned threads = 1, gap_us;
static atomic_bool go;

static void *touch_all(void *arg)
{
	struct toucher *me = arg;

	while (!go)
		usleep(100);
	for (size_t i = 0; i < me->n; i++) {
		size_t page = me->order[i];
		const volatile uint8_t *at = tool_page(&cold.ram, page);
		uint64_t since = tool_now_ns();
		uint8_t got = *at;

		me->took_ns[i] =
			(uint32_t)min_u64(tool_now_ns() - since, UINT32_MAX);
		if (gap_us)
			usleep(gap_us);
		me->wrong += got != cold_byte(page);
	}
	return NULL;
}

static double clock_cost_ns(void)
{
	uint64_t since = tool_now_ns();

	for (int i = 0; i < 1000; i++)
		(void)tool_now_ns();
	return (double)(tool_now_ns() - since) / 1000;
}

/* Returns when they begin: by then they have faulted their stacks in. */
static void touch_start(struct toucher *t, const uint32_t *order,
			uint32_t *took, size_t each)
{
	for (unsigned i = 0; i < threads; i++) {
		t[i] = (struct toucher){
			.order = order + i * each,
			.took_ns = took + i * each,
			.n = each,
		};
		if (pthread_create(&t[i].id, NULL, touch_all, &t[i]))
			tool_fail("thread");
	}
	usleep(20000);
}

static void measure(void)
{
	struct toucher t[THREADS_MAX];
	uint32_t *order = cold_order(&cold);
	size_t each = cold_touches(&cold) / threads;
	struct cold_took took = {
		.ns = calloc(cold.pages, sizeof(*took.ns)),
		.n = each * threads,
		.zswapped_kib = cold_zswapped_kib(),
	};
	uint64_t since, wrong = 0;

	if (!took.ns)
		tool_fail("memory");
	memset(took.ns, 1, cold.pages * sizeof(*took.ns));
	touch_start(t, order, took.ns, each);
	since = tool_now_ns();
	took.cpu_s = cold_cpu_s();
	go = true;
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(t[i].id, NULL);
		wrong += t[i].wrong;
	}
	took.wall_s = (double)(tool_now_ns() - since) / 1e9;
	took.cpu_s = cold_cpu_s() - took.cpu_s;
	if (wrong)
		tool_fail("pages came back with other bytes");
	printf("{");
	cold_print(&took);
	printf(", \"clock_ns\": %.1f}\n", clock_cost_ns());
	free(order);
	free(took.ns);
}

static bool option(const char *name, const char *value)
{
	unsigned long n = strtoul(value, NULL, 10);

	if (!strcmp(name, "--threads") && n >= 1 && n <= THREADS_MAX)
		threads = (unsigned)n;
	else if (!strcmp(name, "--gap") && n <= 1000000)
		gap_us = (unsigned)n;
	else
		return cold_option(&cold, name, value);
	return true;
}

int main(int argc, char **argv)
{
	bool good = argc >= 2 && argc % 2 == 0;

	good = cold_init(&cold, good ? argv[1] : "");
	for (int i = 2; good && i < argc; i += 2)
		good = option(argv[i], argv[i + 1]);
	if (!good) {
		fprintf(stderr, "usage: fault_touch ours|swap "
				"[--option value]...\n");
		return 2;
	}
	cold_fill(&cold);
	cold_begin(&cold);
	measure();
	cold_end(&cold);
	return 0;
}
