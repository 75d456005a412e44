/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The whole user space of a test guest: process 1 of a stock Debian kernel. It
 * holds a table of pages whose content it can compute again at any time, so
 * every byte the host gives back is checked, not a checksum of it.
 *
 *   content(page) = base(kind, seeds, index)        written = 0
 *                 = random(seed, index, written)    otherwise
 *   and then patches 1..patched, one word each, on top
 *
 * Kinds differ in who holds an equal page: nobody else (random), the next
 * guest (common: the seed is the fleet's), another page of this guest (dup).
 *
 * Commands come as lines on ttyS1, each answered by one line that begins with
 * "ok" or "error"; the kernel's console is ttyS0. The guest has no other
 * devices, so nothing but these pages and the kernel uses its memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE	    4096
#define WORDS	    (PAGE / sizeof(uint64_t))
#define PATCHES_MAX 8
#define DUP_SPREAD  16 /* equal pages of a guest come in groups of this */

enum kind { ZERO, SAME, COMMON, DUP, RANDOM, TEXT, KINDS };

static const char *const kind_names[KINDS] = {"zero", "same",	"common",
					      "dup",  "random", "text"};

struct page {
	uint8_t kind;
	uint8_t patched; /* one-word patches since the last whole write */
	uint16_t reserved;
	uint32_t written; /* whole writes since fill */
	uint32_t index;	  /* within its kind */
};

static struct {
	uint64_t guest_seed;
	uint64_t fleet_seed;
	uint64_t state; /* of the rng that picks what to rewrite */
	struct page *page;
	uint64_t *ram;
	size_t pages;
} table;

static uint64_t mix(uint64_t z)
{
	z += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static uint64_t pick(uint64_t bound)
{
	return (table.state = mix(table.state)) % bound;
}

/* ---- what a page holds ------------------------------------------------- */

static void make_random(uint64_t *out, uint64_t seed)
{
	for (size_t i = 0; i < WORDS; i++)
		out[i] = seed = mix(seed);
}

/* Unique, but LZ4 halves it: each random word eight times. */
static void make_text(uint64_t *out, uint64_t seed)
{
	for (size_t i = 0; i < WORDS; i++) {
		if (i % 8 == 0)
			seed = mix(seed);
		out[i] = seed;
	}
}

static void make_same(uint64_t *out, uint64_t word)
{
	for (size_t i = 0; i < WORDS; i++)
		out[i] = word;
}

static void make_base(uint64_t *out, const struct page *p)
{
	uint64_t own = mix(table.guest_seed ^ (uint64_t)p->kind << 56);
	uint64_t fleet = mix(table.fleet_seed);

	switch ((enum kind)p->kind) {
	case ZERO:
		make_same(out, 0);
		break;
	case SAME:
		make_same(out, mix(p->index) | 1);
		break;
	case COMMON:
		make_random(out, mix(fleet + p->index));
		break;
	case DUP:
		make_random(out, mix(own + p->index / DUP_SPREAD));
		break;
	case RANDOM:
		make_random(out, mix(own + p->index));
		break;
	case TEXT:
	case KINDS:
		make_text(out, mix(own + p->index));
		break;
	}
}

static uint64_t patch_word(const struct page *p, size_t i, unsigned patch)
{
	return mix(mix(table.guest_seed + i) ^ (uint64_t)p->written << 32 ^
		   patch);
}

static void make_page(uint64_t *out, size_t i)
{
	const struct page *p = &table.page[i];

	if (p->written)
		make_random(out, patch_word(p, i, 0));
	else
		make_base(out, p);
	for (unsigned patch = 1; patch <= p->patched; patch++) {
		uint64_t word = patch_word(p, i, patch);

		out[word % WORDS] = word;
	}
}

static uint64_t *page_at(size_t i)
{
	return table.ram + i * WORDS;
}

/* ---- steps ------------------------------------------------------------- */

struct verdict {
	size_t checked;
	size_t bad;
	size_t first; /* page */
	size_t first_word;
};

static void check_page(size_t i, struct verdict *v)
{
	uint64_t want[WORDS];
	const uint64_t *have = page_at(i);

	make_page(want, i);
	v->checked++;
	if (!memcmp(have, want, PAGE))
		return;
	if (!v->bad++) {
		v->first = i;
		while (have[v->first_word] == want[v->first_word])
			v->first_word++;
	}
}

/* Whole page, or (three times in four) one word of it. */
static void rewrite_page(size_t i)
{
	struct page *p = &table.page[i];

	if (p->patched < PATCHES_MAX && pick(4)) {
		uint64_t word = patch_word(p, i, ++p->patched);

		page_at(i)[word % WORDS] = word;
		return;
	}
	p->written++;
	p->patched = 0;
	make_page(page_at(i), i);
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void say_verdict(FILE *out, const struct verdict *v, const char *more)
{
	if (v->bad)
		fprintf(out,
			"ok pages=%zu mismatches=%zu first=%zu kind=%s "
			"word=%zu%s\n",
			v->checked, v->bad, v->first,
			kind_names[table.page[v->first].kind], v->first_word,
			more);
	else
		fprintf(out, "ok pages=%zu mismatches=0%s\n", v->checked, more);
}

static int table_map(size_t pages)
{
	size_t bytes = pages * PAGE;

	table.page = calloc(pages, sizeof(*table.page));
	table.ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!table.page || table.ram == MAP_FAILED)
		return -ENOMEM;
	/* With guest huge pages, runs of 512 would be in order by luck. */
	madvise(table.ram, bytes, MADV_NOHUGEPAGE);
	return 0;
}

/* fill guest-seed fleet-seed zero same common dup random text */
static void do_fill(FILE *out, const char *args)
{
	unsigned long long own, fleet;
	size_t n[KINDS], pages = 0;

	if (table.page || sscanf(args, "%llu %llu %zu %zu %zu %zu %zu %zu",
				 &own, &fleet, &n[ZERO], &n[SAME], &n[COMMON],
				 &n[DUP], &n[RANDOM], &n[TEXT]) != 8) {
		fputs("error fill takes two seeds and six counts, once\n", out);
		return;
	}
	for (int k = 0; k < KINDS; k++)
		pages += n[k];
	if (table_map(pages)) {
		fputs("error out of guest memory\n", out);
		return;
	}
	table.guest_seed = own;
	table.fleet_seed = fleet;
	table.state = mix(own);
	for (int k = 0; k < KINDS; k++)
		for (size_t i = 0; i < n[k]; i++, table.pages++) {
			table.page[table.pages].kind = (uint8_t)k;
			table.page[table.pages].index = (uint32_t)i;
			make_page(page_at(table.pages), table.pages);
		}
	fprintf(out, "ok pages=%zu\n", table.pages);
}

static void do_verify(FILE *out, const char *args)
{
	struct verdict v = {0};

	(void)args;
	for (size_t i = 0; i < table.pages; i++)
		check_page(i, &v);
	say_verdict(out, &v, "");
}

/* rewrite permille: of the table, checking each page just before. */
static void do_rewrite(FILE *out, const char *args)
{
	unsigned long permille = strtoul(args, NULL, 10);
	size_t n = table.pages * permille / 1000;
	struct verdict v = {0};

	while (n-- && table.pages) {
		size_t i = pick(table.pages);

		check_page(i, &v);
		rewrite_page(i);
	}
	say_verdict(out, &v, "");
}

/*
 * churn ms [every]: check and rewrite pages at random until the time is up;
 * only one page in so many, so that the others stay what they are.
 */
static void do_churn(FILE *out, const char *args)
{
	unsigned long ms = 0, every = 1;
	struct verdict v = {0};
	size_t n = 0;
	uint64_t end;

	sscanf(args, "%lu %lu", &ms, &every);
	end = now_ms() + ms;
	while (table.pages && every && now_ms() < end) {
		size_t i = pick(table.pages) / every * every;

		check_page(i, &v);
		if (n++ % 2)
			rewrite_page(i);
	}
	say_verdict(out, &v, "");
}

/* Proves that verify can fail: damages one page behind the table's back. */
static void do_damage(FILE *out, const char *args)
{
	size_t i = strtoul(args, NULL, 10);

	if (i >= table.pages) {
		fputs("error no such page\n", out);
		return;
	}
	page_at(i)[WORDS - 1] ^= 1;
	fputs("ok\n", out);
}

/* Frees the table's memory to the guest kernel: free pages of stale content. */
static void do_drop(FILE *out, const char *args)
{
	(void)args;
	if (table.ram)
		munmap(table.ram, table.pages * PAGE);
	free(table.page);
	memset(&table, 0, sizeof(table));
	fputs("ok\n", out);
}

static void do_hello(FILE *out, const char *args)
{
	(void)args;
	fprintf(out, "ok available_kib=%ld\n",
		sysconf(_SC_AVPHYS_PAGES) * (PAGE / 1024));
}

static void do_quit(FILE *out, const char *args)
{
	(void)args;
	fputs("ok\n", out);
	fflush(out);
	tcdrain(fileno(out));
	reboot(RB_POWER_OFF);
}

static const struct {
	const char *name;
	void (*run)(FILE *out, const char *args);
} commands[] = {
	{"hello", do_hello},	 {"fill", do_fill},   {"verify", do_verify},
	{"rewrite", do_rewrite}, {"churn", do_churn}, {"damage", do_damage},
	{"drop", do_drop},	 {"quit", do_quit},
};

static void obey(FILE *out, char *line)
{
	char *args = line + strcspn(line, " \n");

	if (*args)
		*args++ = 0;
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (!strcmp(line, commands[i].name)) {
			commands[i].run(out, args);
			fflush(out);
			return;
		}
	fprintf(out, "error no command %s\n", line);
	fflush(out);
}

/* NULL if there is no such line. */
static FILE *open_line(FILE **out)
{
	struct termios tio;
	int fd = open("/dev/ttyS1", O_RDWR | O_NOCTTY);

	if (fd < 0)
		return NULL;
	if (!tcgetattr(fd, &tio)) {
		cfmakeraw(&tio);
		tcsetattr(fd, TCSANOW, &tio);
	}
	*out = fdopen(dup(fd), "w");
	return *out ? fdopen(fd, "r") : NULL;
}

int main(void)
{
	FILE *in, *out = NULL;
	char line[256];

	mount("dev", "/dev", "devtmpfs", 0, NULL);
	in = open_line(&out);
	if (!in) {
		perror("payload: /dev/ttyS1");
		reboot(RB_POWER_OFF);
	}
	fputs("ready\n", out);
	fflush(out);
	while (fgets(line, sizeof(line), in))
		obey(out, line);
	reboot(RB_POWER_OFF);
	return 1;
}
