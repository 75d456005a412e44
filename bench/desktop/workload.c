// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The load inside a desktop: what runs in every guest of `make run` while its
 * pages are shared, compressed and brought back, and which notices one wrong
 * byte.
 *
 * It keeps memory whose every page can be computed again from (seed, page,
 * version), so checking needs no second copy that could be damaged alike; it
 * checks files of the image against checksums taken when the image was built;
 * it starts processes. Work comes in rounds of equal size with a rest between,
 * so that rounds a minute and CPU time a round compare a disturbed guest with
 * an undisturbed one.
 *
 * A small part of memory and files is hot: every round goes over some of it.
 * The rest is cold, as most of a desktop is: it is written once, a few pages
 * are sampled each round, and all of it is checked when the host asks.
 *
 *   guest to host, one line each        host to guest
 *     hello INDEX                         verify
 *     up SECONDS       page rendered
 *     ready FILES BYTES
 *     round N WORK_MS CPU_MS ERRORS
 *     corrupt WHAT WHERE
 *     verified FILES PAGES ERRORS
 *
 * `workload manifest ROOT` prints the checksum list of a tree instead.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define PAGE	       4096
#define WORDS	       (PAGE / 8)
#define PORT	       "/dev/ttyS1"
#define MANIFEST       "/usr/share/tidepool/manifest"
#define OWN_FILE       "/var/lib/tidepool-own.dat"
#define UP_PORT	       8999
#define UP_SECONDS     600
#define REST_MS	       1500
#define MIB_PAGES(mib) ((size_t)(mib)*256)

enum {
	FILE_BYTES_A_ROUND = 4 << 20, /* of the hot files */
	FILE_DROP_ONE_IN = 64,	      /* read again from the disk */
	STARTS_A_ROUND = 1,
	FILE_BYTES_MAX = 32 << 20, /* larger ones are left alone */
	FILES_BYTES_HOT = 64 << 20,
	FILES_BYTES_MAX = 400 << 20, /* of all: about half of a guest */
	OWN_FILE_PAGES = 8 * 256,
};

extern char **environ;

/* ---- talking to the host ----------------------------------------------- */

static int port = -1;
static uint64_t errors;

__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n > sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	for (int off = 0; off < n;) {
		ssize_t w = write(port, line + off, (size_t)(n - off));
		if (w < 0 && errno != EINTR)
			return;
		off += w > 0 ? (int)w : 0;
	}
}

static void corrupt(const char *what, const char *name, size_t where)
{
	errors++;
	if (errors < 100)
		say("corrupt %s %s:%zu", what, name, where);
}

static void port_open(const char *path)
{
	struct termios tio;

	port = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (port < 0) {
		port = STDOUT_FILENO;
		return;
	}
	if (tcgetattr(port, &tio) == 0) {
		cfmakeraw(&tio);
		cfsetspeed(&tio, B115200);
		tcsetattr(port, TCSANOW, &tio);
	}
}

/* Waits up to ms for a line of the host. Returns whether there is one. */
static bool port_line(char *line, size_t bytes, int ms)
{
	static char have[256];
	static size_t n;
	struct pollfd pfd = {.fd = port, .events = POLLIN};

	if (poll(&pfd, 1, ms) > 0) {
		ssize_t r = read(port, have + n, sizeof(have) - 1 - n);
		n += r > 0 ? (size_t)r : 0;
	}
	have[n] = 0;
	char *end = strchr(have, '\n');
	if (!end) {
		if (n == sizeof(have) - 1)
			n = 0;
		return false;
	}
	*end = 0;
	size_t len = (size_t)(end - have);
	memcpy(line, have, len < bytes ? len + 1 : bytes);
	line[bytes - 1] = 0;
	n -= len + 1;
	memmove(have, end + 1, n);
	return true;
}

static uint64_t clock_ms(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* CPU time of this process and of all it waited for. */
static uint64_t cpu_ms(void)
{
	struct rusage own, kids;

	getrusage(RUSAGE_SELF, &own);
	getrusage(RUSAGE_CHILDREN, &kids);
	return (uint64_t)(own.ru_utime.tv_sec + own.ru_stime.tv_sec +
			  kids.ru_utime.tv_sec + kids.ru_stime.tv_sec) *
		       1000 +
	       (uint64_t)(own.ru_utime.tv_usec + own.ru_stime.tv_usec +
			  kids.ru_utime.tv_usec + kids.ru_stime.tv_usec) /
		       1000;
}

/* ---- page contents ------------------------------------------------------- */

enum kind { RANDOM, TEXT, ZERO };

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* TEXT halves under LZ4: 8-byte words out of 256. */
static void page_make(enum kind kind, uint64_t seed, size_t page,
		      uint32_t version, uint64_t *out)
{
	uint64_t x = mix(seed ^ mix(page) ^ mix((uint64_t)version << 32));

	if (kind == ZERO) {
		memset(out, 0, PAGE);
		return;
	}
	for (size_t i = 0; i < WORDS; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		out[i] = kind == TEXT ? (x & 0xff) * 0x0101020305080d15u : x;
	}
}

/* ---- memory ------------------------------------------------------------ */

struct region {
	const char *name;
	enum kind kind;
	bool own; /* else equal in all guests */
	size_t pages;
	size_t hot;	/* the first so many; the others are cold */
	size_t check;	/* hot pages checked a round */
	size_t rewrite; /* hot pages written anew a round */
	size_t sample;	/* cold pages checked a round */
	uint64_t seed;
	uint64_t *base;
	uint32_t *version;
	size_t next_check;
	size_t next_write;
};

static struct region regions[] = {
	{.name = "random",
	 .kind = RANDOM,
	 .own = true,
	 .pages = MIB_PAGES(24),
	 .hot = MIB_PAGES(8),
	 .check = 128,
	 .rewrite = 48,
	 .sample = 1},
	{.name = "text",
	 .kind = TEXT,
	 .own = true,
	 .pages = MIB_PAGES(16),
	 .hot = MIB_PAGES(4),
	 .check = 128,
	 .rewrite = 48,
	 .sample = 1},
	{.name = "same",
	 .kind = RANDOM,
	 .own = false,
	 .pages = MIB_PAGES(16),
	 .hot = MIB_PAGES(4),
	 .check = 64,
	 .rewrite = 16,
	 .sample = 1},
	{.name = "zero",
	 .kind = ZERO,
	 .own = false,
	 .pages = MIB_PAGES(8),
	 .hot = MIB_PAGES(1),
	 .check = 64,
	 .rewrite = 8,
	 .sample = 1},
};
#define REGIONS (sizeof(regions) / sizeof(regions[0]))

static uint64_t *region_page(const struct region *r, size_t page)
{
	return r->base + page * WORDS;
}

static void region_check(const struct region *r, size_t page)
{
	uint64_t want[WORDS];

	page_make(r->kind, r->seed, page, r->version[page], want);
	if (memcmp(region_page(r, page), want, PAGE) != 0)
		corrupt("memory", r->name, page);
}

static void region_write(struct region *r, size_t page)
{
	r->version[page]++;
	if (r->kind == ZERO) /* dirty, then zero again */
		memset(region_page(r, page), 0x5a, PAGE);
	page_make(r->kind, r->seed, page, r->version[page],
		  region_page(r, page));
}

static void region_init(struct region *r, unsigned index, uint64_t number)
{
	r->seed = mix(number + 1) ^ (r->own ? mix(1000 + index) : 0);
	r->base = mmap(NULL, r->pages * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	r->version = calloc(r->pages, sizeof(*r->version));
	if (r->base == MAP_FAILED || !r->version) {
		say("fail no memory for %s", r->name);
		exit(1);
	}
	for (size_t p = 0; p < r->pages; p++)
		region_write(r, p);
}

static void region_round(struct region *r, uint64_t round)
{
	for (size_t i = 0; i < r->check; i++) {
		region_check(r, r->next_check);
		r->next_check = (r->next_check + 1) % r->hot;
	}
	for (size_t i = 0; i < r->rewrite; i++) {
		region_write(r, r->next_write);
		r->next_write = (r->next_write + 1) % r->hot;
	}
	for (size_t i = 0; i < r->sample; i++)
		region_check(r, r->hot + mix(r->seed ^ round ^ (i << 40)) %
						 (r->pages - r->hot));
}

/* ---- files --------------------------------------------------------------- */

struct file {
	char *path;
	uint64_t bytes;
	uint64_t sum;
};

static struct file *files;
static size_t file_count, file_hot, file_next;

/* Returns the checksum, or 0 after noting why there is none. */
static uint64_t file_sum(const char *path, bool drop, uint64_t *bytes_out)
{
	static char buf[128 << 10];
	XXH64_state_t st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t r;

	if (fd < 0)
		return 0;
	if (drop)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	XXH64_reset(&st, 1);
	*bytes_out = 0;
	while ((r = read(fd, buf, sizeof(buf))) > 0) {
		XXH64_update(&st, buf, (size_t)r);
		*bytes_out += (uint64_t)r;
	}
	close(fd);
	return r < 0 ? 0 : XXH64_digest(&st);
}

static uint64_t file_check(const struct file *f, bool drop)
{
	uint64_t bytes = 0;

	if (file_sum(f->path, drop, &bytes) != f->sum || bytes != f->bytes)
		corrupt("file", f->path, bytes);
	return bytes;
}

static int manifest_visit(const char *path, const struct stat *st, int type,
			  struct FTW *ftw)
{
	uint64_t bytes = 0;

	static ino_t seen[64]; /* hard links; the tree is one file system */
	static size_t n;

	(void)ftw;
	if (type != FTW_F || !S_ISREG(st->st_mode) || st->st_size < PAGE ||
	    st->st_size > FILE_BYTES_MAX)
		return 0;
	for (size_t i = 0; st->st_nlink > 1 && i < n; i++)
		if (seen[i] == st->st_ino)
			return 0;
	if (st->st_nlink > 1 && n < sizeof(seen) / sizeof(seen[0]))
		seen[n++] = st->st_ino;
	uint64_t sum = file_sum(path, false, &bytes);
	printf("%016jx %ju %s\n", (uintmax_t)sum, (uintmax_t)bytes, path);
	return 0;
}

static int file_cmp(const void *a, const void *b)
{
	const struct file *x = a, *y = b;

	if (x->sum == y->sum)
		return 0;
	return x->sum < y->sum ? -1 : 1;
}

/* The order is by checksum: arbitrary, and the same in every guest. */
static void files_load(const char *manifest)
{
	FILE *in = fopen(manifest, "re");
	char path[1024];
	uintmax_t sum, bytes;

	if (!in) {
		say("fail no %s", manifest);
		exit(1);
	}
	while (fscanf(in, "%jx %ju %1023[^\n]", &sum, &bytes, path) == 3) {
		files = realloc(files, (file_count + 1) * sizeof(*files));
		if (!files)
			abort();
		files[file_count++] = (struct file){strdup(path), bytes, sum};
	}
	fclose(in);
	qsort(files, file_count, sizeof(*files), file_cmp);
	uint64_t total = 0;
	size_t n = 0;
	for (; n < file_count && total < FILES_BYTES_MAX; n++) {
		total += files[n].bytes;
		if (total < FILES_BYTES_HOT)
			file_hot = n + 1;
	}
	file_count = n;
}

static uint64_t files_check_all(void)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < file_count; i++)
		bytes += file_check(&files[i], false);
	return bytes;
}

static void files_round(uint64_t round)
{
	for (uint64_t bytes = 0; bytes < FILE_BYTES_A_ROUND;) {
		bool drop = mix(round ^ file_next) % FILE_DROP_ONE_IN == 0;
		bytes += file_check(&files[file_next], drop) + PAGE;
		file_next = (file_next + 1) % file_hot;
	}
}

/* A file of the guest's own, through its disk and page cache. */
static void own_file_write(uint64_t seed)
{
	uint64_t page[WORDS];
	FILE *f = fopen(OWN_FILE, "we");

	for (size_t p = 0; f && p < OWN_FILE_PAGES; p++) {
		page_make(RANDOM, seed, p, 0, page);
		fwrite(page, PAGE, 1, f);
	}
	if (!f || fclose(f) != 0)
		say("warn cannot write %s", OWN_FILE);
}

static void own_file_check(uint64_t seed)
{
	uint64_t page[WORDS], want[WORDS];
	FILE *f = fopen(OWN_FILE, "re");

	for (size_t p = 0; f && p < OWN_FILE_PAGES; p++) {
		page_make(RANDOM, seed, p, 0, want);
		if (fread(page, PAGE, 1, f) != 1 ||
		    memcmp(page, want, PAGE) != 0)
			corrupt("file", OWN_FILE, p);
	}
	if (f)
		fclose(f);
}

/* ---- processes ----------------------------------------------------------- */

static void process_start(char *command)
{
	static char sh[] = "/bin/sh", dash_c[] = "-c";
	char *const argv[] = {sh, dash_c, command, NULL};
	pid_t pid;
	int status = 0;

	if (posix_spawn(&pid, sh, NULL, NULL, argv, environ) != 0 ||
	    waitpid(pid, &status, 0) != pid || status != 0)
		corrupt("process", command, (size_t)status);
}

static void processes_round(void)
{
	static char list[] = "test $(ls /usr/bin | wc -l) -gt 100";
	static char python[] = "exec python3 -S -c "
			       "'assert sum(range(20000)) == 199990000'";

	for (int i = 0; i < STARTS_A_ROUND; i++)
		process_start(list);
	process_start(python);
}

/* ---- the whole ----------------------------------------------------------- */

static unsigned guest_index(void)
{
	char line[1024] = "";
	FILE *f = fopen("/proc/cmdline", "re");

	if (f) {
		if (!fgets(line, sizeof(line), f))
			line[0] = 0;
		fclose(f);
	}
	const char *at = strstr(line, "tidepool.index=");
	return at ? (unsigned)strtoul(at + 15, NULL, 10) : 0;
}

/* The page that Firefox shows fetches this once it is drawn. */
static void desktop_wait(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_port = htons(UP_PORT),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int on = 1;

	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	struct pollfd pfd = {.fd = s, .events = POLLIN};
	if (bind(s, (struct sockaddr *)&sa, sizeof(sa)) != 0 ||
	    listen(s, 4) != 0 || poll(&pfd, 1, UP_SECONDS * 1000) != 1) {
		say("fail no browser after %d s", UP_SECONDS);
		exit(1);
	}
	static const char answer[] =
		"HTTP/1.0 204 No Content\r\nContent-Length: 0\r\n\r\n";
	int c = accept(s, NULL, NULL);
	char junk[2048];
	if (read(c, junk, sizeof(junk)) >= 0 &&
	    write(c, answer, sizeof(answer) - 1) < 0)
		say("warn the browser did not wait for its answer");
	close(c);
	close(s);
	say("up %ju", (uintmax_t)clock_ms(CLOCK_BOOTTIME) / 1000);
}

static void verify_all(uint64_t own_seed)
{
	size_t pages = 0;

	for (size_t i = 0; i < REGIONS; i++) {
		for (size_t p = 0; p < regions[i].pages; p++)
			region_check(&regions[i], p);
		pages += regions[i].pages;
	}
	files_check_all();
	own_file_check(own_seed);
	say("verified %zu %zu %ju", file_count + 1, pages + OWN_FILE_PAGES,
	    (uintmax_t)errors);
}

static void round_do(uint64_t n)
{
	uint64_t start = clock_ms(CLOCK_MONOTONIC), cpu = cpu_ms();

	for (size_t i = 0; i < REGIONS; i++)
		region_round(&regions[i], n);
	files_round(n);
	processes_round();
	say("round %ju %ju %ju %ju", (uintmax_t)n,
	    (uintmax_t)(clock_ms(CLOCK_MONOTONIC) - start),
	    (uintmax_t)(cpu_ms() - cpu), (uintmax_t)errors);
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "manifest") == 0) {
		if (chdir(argv[2]) != 0)
			return 1;
		return nftw("usr", manifest_visit, 32, FTW_PHYS) != 0;
	}
	port_open(argc == 2 ? argv[1] : PORT);
	unsigned index = guest_index();
	uint64_t own_seed = mix(77) ^ mix(1000 + index);
	say("hello %u", index);
	if (chdir("/") != 0)
		return 1;
	files_load(MANIFEST);
	for (size_t i = 0; i < REGIONS; i++)
		region_init(&regions[i], index, i);
	own_file_write(own_seed);
	desktop_wait();
	say("ready %zu %ju", file_count, (uintmax_t)files_check_all());
	for (uint64_t n = 1;; n++) {
		char line[64];
		round_do(n);
		if (port_line(line, sizeof(line), REST_MS) &&
		    strcmp(line, "verify") == 0)
			verify_all(own_seed);
	}
}
