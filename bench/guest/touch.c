/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Process 1 of the guest of bench/fault_bench.py: fills memory, and after the
 * host took it away touches it page by page, timing each touch by the guest's
 * clock.
 *
 * Commands:
 *   fill PARTS PAGES SEED       that many parts of so many pages each
 *   touch PART random|linear    reads one byte of each page of a part, once;
 *                               answers with count, mean, p50, p99 and p999
 *                               in ns, and how many held other bytes
 *
 * As with a desktop half of the pages compress to less than half, see page_fill
 * in bench/lib/cold.c.
 */
#include "line.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096

static struct {
	unsigned char *at;
	size_t parts, pages;
	uint64_t seed;
} ram;

static uint64_t random_next(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static unsigned char first_byte(size_t page)
{
	return (unsigned char)(page * 7 + 1);
}

static void page_fill(size_t page)
{
	uint64_t state = ram.seed * UINT64_C(0x100000001b3) + page;
	uint64_t fresh = random_next(&state) % 256;
	unsigned char *at = ram.at + page * PAGE;
	size_t i;

	for (i = 0; i < PAGE; i += 16) {
		uint64_t w[2] = {UINT64_C(0x0101010101010101) * (page & 0xff),
				 fresh};

		if (random_next(&state) % 256 < fresh) {
			w[0] = random_next(&state);
			w[1] = random_next(&state);
		}
		memcpy(at + i, w, sizeof(w));
	}
	at[0] = first_byte(page);
}

static void do_fill(FILE *out, const char *args)
{
	unsigned long parts, pages, seed;
	size_t page;
	void *at;

	if (ram.at || sscanf(args, "%lu %lu %lu", &parts, &pages, &seed) != 3) {
		fputs("error fill once, with three numbers\n", out);
		return;
	}
	at = mmap(NULL, parts * pages * PAGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED) {
		fputs("error no memory\n", out);
		return;
	}
	ram.at = at;
	ram.parts = parts;
	ram.pages = pages;
	ram.seed = seed;
	for (page = 0; page < parts * pages; page++)
		page_fill(page);
	fputs("ok\n", out);
}

static uint32_t *order_make(size_t part, int shuffled)
{
	uint32_t *order = malloc(ram.pages * sizeof(*order));
	uint64_t state = ram.seed + part;
	size_t i, k;

	for (i = 0; order && i < ram.pages; i++)
		order[i] = (uint32_t)(part * ram.pages + i);
	for (i = ram.pages - 1; order && shuffled && i > 0; i--) {
		uint32_t was = order[i];

		k = random_next(&state) % (i + 1);
		order[i] = order[k];
		order[k] = was;
	}
	return order;
}

static size_t touch(const uint32_t *order, uint64_t *took)
{
	size_t i, wrong = 0;

	for (i = 0; i < ram.pages; i++) {
		const volatile unsigned char *at =
			ram.at + (size_t)order[i] * PAGE;
		uint64_t since = line_now_ns();
		unsigned char got = *at;

		took[i] = line_now_ns() - since;
		wrong += got != first_byte(order[i]);
	}
	return wrong;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* took is sorted. */
static void took_print(FILE *out, const uint64_t *took, size_t n, size_t wrong)
{
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < n; i++)
		sum += took[i];
	fprintf(out, "ok %zu %llu %llu %llu %llu %zu\n", n,
		(unsigned long long)(sum / n), (unsigned long long)took[n / 2],
		(unsigned long long)took[n - 1 - n / 100],
		(unsigned long long)took[n - 1 - n / 1000], wrong);
}

static void do_touch(FILE *out, const char *args)
{
	size_t part, wrong, n = ram.pages;
	uint32_t *order = NULL;
	uint64_t *took = NULL;
	char how[16];

	if (sscanf(args, "%zu %15s", &part, how) == 2 && part < ram.parts) {
		order = order_make(part, !strcmp(how, "random"));
		took = malloc(n * sizeof(*took));
	}
	if (!order || !took) {
		fputs("error no such part\n", out);
	} else {
		memset(took, 1, n * sizeof(*took));
		wrong = touch(order, took);
		qsort(took, n, sizeof(*took), by_size);
		took_print(out, took, n, wrong);
	}
	free(order);
	free(took);
}

static void answer(FILE *out, const char *command)
{
	if (!strncmp(command, "fill ", 5))
		do_fill(out, command + 5);
	else if (!strncmp(command, "touch ", 6))
		do_touch(out, command + 6);
	else
		fputs("error what?\n", out);
}

int main(void)
{
	struct line line;

	if (line_open(&line)) {
		perror("ttyS1");
		return 1;
	}
	line_serve(&line, answer);
	return 1;
}
