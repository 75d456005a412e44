// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A process that stands for a VM: guest RAM without a guest. It fills private
 * anonymous memory, from a captured desktop or with a mix made to measure, and
 * announces it as QEMU does, with madvise(MADV_MERGEABLE) and MADV_DONTFORK.
 * Run as it is, the memory is KSM's to merge; with libhvagent.so preloaded,
 * ours. The very same program on both sides is what makes the two comparable.
 *
 *   replay --ram FILE [--changed FILE] [--pages MOST]
 *   replay --pages N --guest I --guests G [--dup PERMILLE] [--zero PERMILLE]
 *          [--run PAGES] [--seed S]
 *
 * Prints "ready BASE BYTES FILLED" and then answers each line of its standard
 * input with one line; it ends with its input:
 *
 *   announce          the memory may be merged from here on
 *   victim HZ         touches random pages so often in a second; 0 ends it and
 *                     tells what the touches felt
 *   change MS         writes to each page of --changed once in so many ms; 0
 *                     ends it
 *   break N KIND      writes to N merged pages, KIND zero or other, and tells
 *                     how long each write took
 *
 * A mix has R runs over all guests, in an order shuffled by an affine map. The
 * first zero share of them is zero; of the rest, (1 - dup) have a content of
 * their own and each of the others has the content of one of these:
 *
 *   duplicates = dup * R'        R' = runs that are not zero
 *
 * A touch of the victim reads a word, every 32nd one writes back what is there,
 * with an atomic addition of zero: contents stay what they are, but a merged
 * page comes apart. There are few of these, lest they undo what is measured.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bench/lib/tool.h"
#include "hv/mm/histogram.h"

#define PM_PRESENT ((uint64_t)1 << 63)
#define PM_FILE	   ((uint64_t)1 << 61)
#define PM_PFN	   (((uint64_t)1 << 55) - 1)
#define KPF_KSM	   ((uint64_t)1 << 21)
#define KPF_ZERO   ((uint64_t)1 << 24)
#define VICTIM_NS  5000000 /* between its bursts */
#define CHANGE_NS  10000000

enum kind { KIND_HOLE, KIND_ZERO, KIND_OTHER };

struct mix {
	uint64_t guest, guests, dup, zero, run, seed;
};

struct replay {
	struct tool_ram ram;
	uint8_t *kind; /* of each page, as filled */
	size_t filled;

	uint32_t *changed;
	size_t changed_n;

	pthread_t victim, changer;
	_Atomic unsigned victim_hz, change_ms;
	struct histogram felt;
	uint64_t touches, worst_ns, changes;
};

static struct replay rp;

static void ram_map(size_t pages)
{
	tool_ram_map(&rp.ram, pages);
	rp.kind = calloc(rp.ram.pages, 1);
	if (!rp.kind)
		tool_fail("memory");
}

static void page_note(size_t page)
{
	const uint64_t *w = (const void *)tool_page(&rp.ram, page);
	bool zero = !w[0] && !memcmp(w, w + 1, PAGE_BYTES - sizeof(*w));

	rp.kind[page] = zero ? KIND_ZERO : KIND_OTHER;
	rp.filled++;
}

/* ---- filling: a captured desktop ------------------------------------------
 */

static void part_read(int fd, off_t from, off_t to)
{
	while (from < to) {
		ssize_t n =
			pread(fd, rp.ram.at + from, (size_t)(to - from), from);

		if (n <= 0)
			tool_fail("reading captured memory");
		from += n;
	}
}

/* Holes of the file were never touched by the guest, and stay so. */
static void fill_captured(const char *path, uint64_t most)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	off_t from = 0, to;

	if (fd < 0 || fstat(fd, &st) < 0)
		tool_fail(path);
	if (most && most < (uint64_t)st.st_size / PAGE_BYTES)
		st.st_size = (off_t)(most * PAGE_BYTES);
	ram_map((size_t)st.st_size / PAGE_BYTES);
	while ((from = lseek(fd, from, SEEK_DATA)) >= 0 && from < st.st_size) {
		to = lseek(fd, from, SEEK_HOLE);
		from &= ~(off_t)(PAGE_BYTES - 1);
		to = (to + (off_t)PAGE_BYTES - 1) & ~(off_t)(PAGE_BYTES - 1);
		to = to < st.st_size ? to : st.st_size;
		part_read(fd, from, to);
		for (off_t at = from; at < to; at += (off_t)PAGE_BYTES)
			page_note((size_t)at / PAGE_BYTES);
		from = to;
	}
	close(fd);
}

static void changed_read(const char *path)
{
	FILE *f = fopen(path, "re");
	struct stat st;

	if (!f || fstat(fileno(f), &st) < 0)
		tool_fail(path);
	size_t n = (size_t)st.st_size / sizeof(uint32_t);
	rp.changed = malloc((n + 1) * sizeof(*rp.changed));
	if (!rp.changed || fread(rp.changed, sizeof(uint32_t), n, f) != n)
		tool_fail(path);
	fclose(f);
	for (size_t i = 0; i < n; i++)
		if (rp.changed[i] < rp.ram.pages &&
		    rp.kind[rp.changed[i]] != KIND_HOLE)
			rp.changed[rp.changed_n++] = rp.changed[i];
}

/* ---- filling: a mix -------------------------------------------------------
 */

static void page_make(size_t page, uint64_t content)
{
	uint64_t *w = (void *)tool_page(&rp.ram, page);
	uint64_t at = tool_mixed(content);

	for (size_t i = 0; i < PAGE_BYTES / sizeof(*w); i++) {
		at += 0x9e3779b97f4a7c15u;
		w[i] = at ^ at >> 29;
	}
}

static uint64_t coprime(uint64_t n, uint64_t from)
{
	for (uint64_t a = from | 1;; a += 2) {
		uint64_t x = a, y = n;

		while (y) {
			uint64_t t = x % y;
			x = y;
			y = t;
		}
		if (x == 1)
			return a;
	}
}

/* The content's number of a run; 0: zero. */
static uint64_t run_content(const struct mix *m, uint64_t run, uint64_t all)
{
	uint64_t step = coprime(all, tool_mixed(m->seed) % all);
	uint64_t place = (uint64_t)(((__uint128_t)run * step +
				     tool_mixed(m->seed + 1) % all) %
				    all);
	uint64_t zero = all * m->zero / 1000;
	uint64_t own = (all - zero) * (1000 - m->dup) / 1000;

	if (place < zero)
		return 0;
	place -= zero;
	own += own == 0;
	return 1 +
	       (place < own ? place : tool_mixed(place ^ m->seed << 32) % own);
}

static void fill_mix(const struct mix *m, size_t pages)
{
	ram_map(pages);
	uint64_t runs = rp.ram.pages / m->run, all = runs * m->guests;

	for (size_t page = 0; page < runs * m->run; page++) {
		uint64_t run = m->guest * runs + page / m->run;
		uint64_t content = run_content(m, run, all);

		if (content)
			page_make(page, (m->seed << 48) + content * m->run +
						page % m->run);
		else
			memset(tool_page(&rp.ram, page), 0, PAGE_BYTES);
		page_note(page);
	}
}

/* ---- threads --------------------------------------------------------------
 */

static void sleep_ns(uint64_t ns)
{
	struct timespec ts = {(time_t)(ns / TOOL_SECOND_NS),
			      (long)(ns % TOOL_SECOND_NS)};

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
		;
}

static uint64_t page_touch(size_t page, size_t word, bool write)
{
	_Atomic uint64_t *w = (void *)tool_page(&rp.ram, page);
	uint64_t start = tool_now_ns();

	if (write)
		atomic_fetch_add(&w[word], 0);
	else
		(void)atomic_load(&w[word]);
	return tool_now_ns() - start;
}

static size_t page_random(uint64_t *state)
{
	size_t page;

	do
		page = tool_random_next(state) % rp.ram.pages;
	while (rp.kind[page] == KIND_HOLE);
	return page;
}

static void *victim_main(void *arg)
{
	uint64_t state = 7;
	unsigned hz;

	(void)arg;
	pthread_setname_np(pthread_self(), "victim");
	while ((hz = rp.victim_hz) != 0) {
		unsigned burst = hz / (TOOL_SECOND_NS / VICTIM_NS);

		for (unsigned i = 0; i < burst + !burst; i++) {
			size_t page = page_random(&state);
			uint64_t r = tool_random_next(&state);
			uint64_t ns =
				page_touch(page, r >> 8 & 511, r % 32 == 0);

			histogram_add(&rp.felt, ns);
			rp.worst_ns = max_u64(rp.worst_ns, ns);
			rp.touches++;
		}
		sleep_ns(VICTIM_NS);
	}
	return NULL;
}

static void *changer_main(void *arg)
{
	uint64_t state = tool_mixed((uint64_t)getpid()), start = tool_now_ns();
	double due = 0;
	unsigned ms;

	(void)arg;
	pthread_setname_np(pthread_self(), "changer");
	while ((ms = rp.change_ms) != 0) {
		due = (double)(tool_now_ns() - start) / 1e6 / ms *
		      (double)rp.changed_n;
		while ((double)rp.changes < due) {
			uint32_t page = rp.changed[rp.changes++ % rp.changed_n];
			_Atomic uint64_t *w = (void *)tool_page(&rp.ram, page);
			uint64_t r = tool_random_next(&state);

			atomic_store(&w[r & 511], r);
		}
		sleep_ns(CHANGE_NS);
	}
	return NULL;
}

/* ---- commands -------------------------------------------------------------
 */

static void announce(void)
{
	if (madvise(rp.ram.at, tool_ram_bytes(&rp.ram), MADV_MERGEABLE) < 0)
		tool_fail("MADV_MERGEABLE");
	if (madvise(rp.ram.at, tool_ram_bytes(&rp.ram), MADV_DONTFORK) < 0)
		tool_fail("MADV_DONTFORK");
	printf("announced\n");
}

static void felt_print(const struct histogram *h, uint64_t n, uint64_t worst)
{
	printf("{\"count\": %ju, \"p50_ns\": %ju, \"p99_ns\": %ju, "
	       "\"p999_ns\": %ju, \"worst_ns\": %ju}\n",
	       (uintmax_t)n, (uintmax_t)histogram_quantile(&h, 1, 500),
	       (uintmax_t)histogram_quantile(&h, 1, 990),
	       (uintmax_t)histogram_quantile(&h, 1, 999), (uintmax_t)worst);
}

static void victim(unsigned hz)
{
	if (rp.victim_hz) {
		rp.victim_hz = 0;
		pthread_join(rp.victim, NULL);
	}
	felt_print(&rp.felt, rp.touches, rp.worst_ns);
	memset(&rp.felt, 0, sizeof(rp.felt));
	rp.touches = rp.worst_ns = 0;
	rp.victim_hz = hz;
	if (hz && pthread_create(&rp.victim, NULL, victim_main, NULL))
		tool_fail("thread");
}

static void change(unsigned ms)
{
	if (rp.change_ms) {
		rp.change_ms = 0;
		pthread_join(rp.changer, NULL);
	}
	printf("{\"changes\": %ju}\n", (uintmax_t)rp.changes);
	rp.changes = 0;
	rp.change_ms = rp.changed_n ? ms : 0;
	if (rp.change_ms &&
	    pthread_create(&rp.changer, NULL, changer_main, NULL))
		tool_fail("thread");
}

/*
 * What was filled and is not in the page table was taken: dropped as zero, or
 * a frame is mapped there and was not touched since.
 */
static bool page_is_merged(int pagemap, int flags, size_t page)
{
	uint64_t at = (uintptr_t)tool_page(&rp.ram, page) / PAGE_BYTES, entry,
		 kpf;

	if (pread(pagemap, &entry, 8, (off_t)(at * 8)) != 8)
		tool_fail("pagemap");
	if (!(entry & PM_PRESENT) || (entry & PM_FILE))
		return true;
	at = entry & PM_PFN;
	if (pread(flags, &kpf, 8, (off_t)(at * 8)) != 8)
		tool_fail("kpageflags");
	return kpf & (KPF_KSM | KPF_ZERO);
}

static size_t merged_find(enum kind kind, uint32_t *found)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int flags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	size_t n = 0;

	if (pagemap < 0 || flags < 0)
		tool_fail("pagemap");
	for (size_t page = 0; page < rp.ram.pages; page++)
		if (rp.kind[page] == kind &&
		    page_is_merged(pagemap, flags, page))
			found[n++] = (uint32_t)page;
	close(pagemap);
	close(flags);
	return n;
}

/* Spread evenly, so that they do not help each other. */
static void pages_break(size_t most, enum kind kind)
{
	uint32_t *found = malloc(rp.ram.pages * sizeof(*found));
	struct histogram took = {0};
	uint64_t worst = 0;

	if (!found)
		tool_fail("memory");
	size_t n = merged_find(kind, found);
	size_t count = min_u64(n, most);
	for (size_t i = 0; i < count; i++) {
		size_t page = found[n * i / count];
		uint64_t ns = page_touch(page, 1, true);

		histogram_add(&took, ns);
		worst = max_u64(worst, ns);
	}
	free(found);
	felt_print(&took, count, worst);
}

static void command(const char *line)
{
	char word[16] = "", what[16] = "";
	unsigned n = 0;
	int fields = sscanf(line, "%15s %u %15s", word, &n, what);

	if (!strcmp(word, "announce"))
		announce();
	else if (!strcmp(word, "victim") && fields == 2)
		victim(n);
	else if (!strcmp(word, "change") && fields == 2)
		change(n);
	else if (!strcmp(word, "break") && fields == 3)
		pages_break(n, !strcmp(what, "zero") ? KIND_ZERO : KIND_OTHER);
	else
		printf("what?\n");
	fflush(stdout);
}

/* ---- the command line -----------------------------------------------------
 */

struct options {
	const char *ram, *changed;
	uint64_t pages;
	struct mix mix;
};

static bool option_read(struct options *o, const char *name, const char *value)
{
	const struct {
		const char *name;
		uint64_t *to;
	} number[] = {
		{"--pages", &o->pages},	      {"--guest", &o->mix.guest},
		{"--guests", &o->mix.guests}, {"--dup", &o->mix.dup},
		{"--zero", &o->mix.zero},     {"--run", &o->mix.run},
		{"--seed", &o->mix.seed},
	};

	if (!strcmp(name, "--ram"))
		o->ram = value;
	else if (!strcmp(name, "--changed"))
		o->changed = value;
	for (size_t i = 0; i < ARRAY_LEN(number); i++)
		if (!strcmp(name, number[i].name)) {
			*number[i].to = strtoull(value, NULL, 10);
			return true;
		}
	return o->ram == value || o->changed == value;
}

static bool options_fit(const struct options *o)
{
	const struct mix *m = &o->mix;

	if (o->ram)
		return true;
	return o->pages && m->guests && m->guest < m->guests && m->run &&
	       m->run <= o->pages && m->dup < 1000 && m->zero <= 1000 &&
	       !o->changed;
}

int main(int argc, char **argv)
{
	struct options o = {.mix = {.guests = 1, .run = 1, .seed = 1}};
	char line[128];
	bool good = argc % 2 == 1;

	for (int i = 1; good && i + 1 < argc; i += 2)
		good = option_read(&o, argv[i], argv[i + 1]);
	if (!good || !options_fit(&o)) {
		fprintf(stderr, "usage: replay --ram FILE [--changed FILE] | "
				"--pages N --guest I --guests G ...\n");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (o.ram)
		fill_captured(o.ram, o.pages);
	else
		fill_mix(&o.mix, o.pages);
	if (o.changed)
		changed_read(o.changed);
	printf("ready %jx %zu %zu\n", (uintmax_t)(uintptr_t)rp.ram.at,
	       tool_ram_bytes(&rp.ram), rp.filled);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		command(line);
	return 0;
}
