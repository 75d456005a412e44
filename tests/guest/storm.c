// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * storm FOLDER SECONDS SEED [WORKERS]: changes files in every way there is,
 * while page cache is dropped, and compares what is read with what must be
 * there. Exit code 0: no difference; 1: a difference or an error, told in one
 * line. Runs as root in a small guest, statically linked.
 *
 * The model. A file is a row of units of 128 bytes, each of which holds the
 * content of one tag; tag 0 is zeros. The tags are all the memory it needs (3 %
 * of the data), a copy is a copy of tags, and a unit names its tag in its first
 * bytes, so a difference tells which write is seen instead of the one expected.
 * Sizes are multiples of a unit, not of a block. Each worker is a process with
 * files of its own; together they fill some 64 MiB.
 *
 * What the file system cannot do (EOPNOTSUPP) is left out and counted.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define UNIT	  128u
#define BLOCK	  4096u
#define SECTOR	  512u
#define FILE_MAX  (2u << 20)
#define UNITS_MAX (FILE_MAX / UNIT)
#define SPAN_MAX  (256u << 10) /* of one operation */
#define FILES	  8u
#define WORKERS	  4u

struct file {
	char name[16];
	uint32_t bytes;
	uint32_t tags[UNITS_MAX]; /* 0 beyond bytes */
};

static struct file files[FILES];
static unsigned char *buffer; /* SPAN_MAX, page-aligned */
static unsigned int worker;
static uint64_t chance_state;
static uint32_t last_tag;
static uint64_t operations, refused, compared;

static _Noreturn void die(const char *format, ...)
	__attribute__((format(printf, 1, 2)));

static _Noreturn void die(const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	printf("storm: worker %u, operation %llu: %s\n", worker,
	       (unsigned long long)operations, text);
	exit(1);
}

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

/* 0 to n - 1 */
static uint32_t chance(uint32_t n)
{
	chance_state += 0x9e3779b97f4a7c15ull;
	return (uint32_t)(mix(chance_state) >> 32) % n;
}

/* ---- units ---------------------------------------------------------------
 */

/* Every fourth run of 32 units compresses. */
static void unit_fill(void *at, uint32_t tag)
{
	uint64_t words[UNIT / 8];
	uint64_t key = (uint64_t)(worker + 1) << 32 | tag;
	unsigned int i;

	memset(words, 0, sizeof(words));
	if (tag) {
		words[0] = key;
		for (i = 1; i < UNIT / 8; i++)
			words[i] = mix(key + (tag & 0x60 ? i : 0ull) * 77);
	}
	memcpy(at, words, UNIT);
}

static void units_fill(unsigned char *at, const uint32_t *tags, uint32_t n)
{
	uint32_t i;

	for (i = 0; i < n; i++)
		unit_fill(at + (size_t)i * UNIT, tags[i]);
}

static void units_compare(const struct file *f, uint32_t at, uint32_t bytes,
			  const unsigned char *have, const char *how)
{
	unsigned char want[UNIT];
	uint32_t done;
	uint64_t found;

	for (done = 0; done < bytes; done += UNIT) {
		uint32_t tag = f->tags[(at + done) / UNIT];

		unit_fill(want, tag);
		if (!memcmp(want, have + done, UNIT))
			continue;
		memcpy(&found, have + done, sizeof(found));
		die("DIFFERENCE in %s at byte %u of %u, by %s: expected tag "
		    "%u of worker %u, found %u of worker %u (%s)",
		    f->name, at + done, f->bytes, how, tag, worker,
		    (uint32_t)found, (uint32_t)(found >> 32) - 1,
		    found ? "or torn" : "zeros");
	}
	compared += bytes;
}

/* New tags for a range; the file grows if need be. */
static void tags_new(struct file *f, uint32_t at, uint32_t bytes)
{
	uint32_t i;

	for (i = at / UNIT; i < (at + bytes) / UNIT; i++)
		f->tags[i] = ++last_tag;
	if (at + bytes > f->bytes)
		f->bytes = at + bytes;
}

static void tags_zero(struct file *f, uint32_t at, uint32_t bytes)
{
	memset(&f->tags[at / UNIT], 0, bytes / UNIT * sizeof(*f->tags));
}

static void tags_copy(struct file *to, uint32_t at, const struct file *from,
		      uint32_t from_at, uint32_t bytes)
{
	memmove(&to->tags[at / UNIT], &from->tags[from_at / UNIT],
		bytes / UNIT * sizeof(*to->tags));
	if (at + bytes > to->bytes)
		to->bytes = at + bytes;
}

/* ---- files ---------------------------------------------------------------
 */

static struct file *file_any(void)
{
	return &files[chance(FILES)];
}

static int file_open(const struct file *f, int flags)
{
	int fd = open(f->name, flags | O_CREAT, 0600);

	if (fd < 0)
		die("open %s: %s", f->name, strerror(errno));
	return fd;
}

/* Within the largest file. */
static void span_any(uint32_t align, uint32_t *at, uint32_t *bytes)
{
	*at = chance(FILE_MAX / align) * align;
	*bytes = (1 + chance(chance(4) ? 16 : SPAN_MAX / align)) * align;
	if (*bytes > SPAN_MAX)
		*bytes = SPAN_MAX;
	if (*bytes > FILE_MAX - *at)
		*bytes = FILE_MAX - *at;
}

/* Within the file; false: it has none of that. */
static bool span_in(const struct file *f, uint32_t align, uint32_t *at,
		    uint32_t *bytes)
{
	uint32_t size = f->bytes / align * align;

	span_any(align, at, bytes);
	if (!size)
		return false;
	*at %= size;
	if (*bytes > size - *at)
		*bytes = size - *at;
	return true;
}

static void all_written(int fd, const void *data, uint32_t bytes, uint32_t at,
			const char *how)
{
	ssize_t r = pwrite(fd, data, bytes, at);

	if (r != (ssize_t)bytes)
		die("%s: wrote %zd of %u: %s", how, r, bytes, strerror(errno));
}

static void all_read(int fd, void *data, uint32_t bytes, uint32_t at,
		     const char *how)
{
	ssize_t r = pread(fd, data, bytes, at);

	if (r != (ssize_t)bytes)
		die("%s: read %zd of %u at %u: %s", how, r, bytes, at,
		    strerror(errno));
}

static unsigned char *file_map(int fd, uint32_t at, uint32_t bytes)
{
	void *map =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);

	if (map == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	return map;
}

/* ---- operations: each leaves file and model equal ------------------------
 */

static void write_by(int flags, uint32_t align, const char *how)
{
	struct file *f = file_any();
	uint32_t at, bytes;
	int fd = file_open(f, O_RDWR | flags);

	span_any(align, &at, &bytes);
	tags_new(f, at, bytes);
	units_fill(buffer, &f->tags[at / UNIT], bytes / UNIT);
	all_written(fd, buffer, bytes, at, how);
	close(fd);
}

static void op_write(void)
{
	write_by(0, UNIT, "write");
}

static void op_write_direct(void)
{
	write_by(O_DIRECT, chance(2) ? SECTOR : BLOCK, "O_DIRECT write");
}

static void op_write_sync(void)
{
	write_by(O_DSYNC, UNIT, "O_DSYNC write");
}

static void op_write_mapped(void)
{
	struct file *f = file_any();
	uint32_t at, bytes, from;
	unsigned char *map;
	int fd;

	if (!span_in(f, UNIT, &at, &bytes))
		return;
	fd = file_open(f, O_RDWR);
	from = at / BLOCK * BLOCK;
	map = file_map(fd, from, at + bytes - from);
	if (chance(2)) /* faults reading first, then writing */
		units_compare(f, at, bytes, map + (at - from), "mmap");
	tags_new(f, at, bytes);
	units_fill(map + (at - from), &f->tags[at / UNIT], bytes / UNIT);
	if (chance(3) == 0 && msync(map, at + bytes - from, MS_SYNC))
		die("msync: %s", strerror(errno));
	munmap(map, at + bytes - from);
	close(fd);
}

/* Two files' pages meet in one bio: one's, written to or read from another. */
static void op_direct_mapped(void)
{
	struct file *disk = file_any(), *cached = file_any();
	uint32_t at, bytes, from;
	unsigned char *map;
	bool write = chance(2);
	int fd, fd_disk;

	if (disk == cached || !span_in(cached, BLOCK, &from, &bytes))
		return;
	at = chance((FILE_MAX - bytes) / BLOCK + 1) * BLOCK;
	if (!write && at + bytes > disk->bytes)
		return;
	fd = file_open(cached, O_RDWR);
	fd_disk = file_open(disk, O_RDWR | O_DIRECT);
	map = file_map(fd, from, bytes);
	if (write) {
		all_written(fd_disk, map, bytes, at, "write of mapped pages");
		tags_copy(disk, at, cached, from, bytes);
	} else {
		all_read(fd_disk, map, bytes, at, "read into mapped pages");
		tags_copy(cached, from, disk, at, bytes);
	}
	munmap(map, bytes);
	close(fd_disk);
	close(fd);
}

static void op_truncate(void)
{
	struct file *f = file_any();
	uint32_t bytes = chance(UNITS_MAX + 1) * UNIT;

	if (chance(3) && f->bytes > BLOCK) /* near the end */
		bytes = f->bytes - chance(BLOCK / UNIT) * UNIT;
	close(file_open(f, O_RDWR));
	if (truncate(f->name, bytes))
		die("truncate: %s", strerror(errno));
	if (bytes < f->bytes)
		tags_zero(f, bytes, f->bytes - bytes);
	f->bytes = bytes;
}

/* False: not on this file system. */
static bool space(const struct file *f, int mode, uint32_t at, uint32_t bytes)
{
	int fd = file_open(f, O_RDWR);
	int r = fallocate(fd, mode, at, bytes);

	if (r && errno != EOPNOTSUPP)
		die("fallocate %x of %u at %u, size %u: %s", (unsigned)mode,
		    bytes, at, f->bytes, strerror(errno));
	close(fd);
	refused += r != 0;
	return !r;
}

static void op_punch(void)
{
	struct file *f = file_any();
	uint32_t at, bytes;

	if (span_in(f, chance(2) ? UNIT : BLOCK, &at, &bytes) &&
	    space(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, bytes))
		tags_zero(f, at, bytes);
}

static void op_zero_range(void)
{
	struct file *f = file_any();
	uint32_t at, bytes;

	if (span_in(f, UNIT, &at, &bytes) &&
	    space(f, FALLOC_FL_ZERO_RANGE, at, bytes))
		tags_zero(f, at, bytes);
}

static void op_allocate(void)
{
	struct file *f = file_any();
	uint32_t at, bytes;

	span_any(UNIT, &at, &bytes);
	if (space(f, 0, at, bytes) && at + bytes > f->bytes)
		f->bytes = at + bytes;
}

static void op_collapse(void)
{
	struct file *f = file_any();
	uint32_t at, bytes;

	if (!span_in(f, BLOCK, &at, &bytes) || at + bytes >= f->bytes)
		return;
	if (!space(f, FALLOC_FL_COLLAPSE_RANGE, at, bytes))
		return;
	tags_copy(f, at, f, at + bytes, f->bytes - at - bytes);
	tags_zero(f, f->bytes - bytes, bytes);
	f->bytes -= bytes;
}

static void op_insert(void)
{
	struct file *f = file_any();
	uint32_t at, bytes, after;

	if (!span_in(f, BLOCK, &at, &bytes) || at >= f->bytes)
		return;
	if (f->bytes + bytes > FILE_MAX)
		return;
	if (!space(f, FALLOC_FL_INSERT_RANGE, at, bytes))
		return;
	after = f->bytes - at;
	tags_copy(f, at + bytes, f, at, after);
	tags_zero(f, at, bytes);
}

static void op_clone(void)
{
	struct file *to = file_any(), *from = file_any();
	int fd, fd_from;

	if (to == from)
		return;
	fd = file_open(to, O_RDWR | O_TRUNC);
	fd_from = file_open(from, O_RDWR);
	tags_zero(to, 0, to->bytes);
	to->bytes = 0;
	if (!ioctl(fd, FICLONE, fd_from)) {
		tags_copy(to, 0, from, 0, from->bytes);
		to->bytes = from->bytes;
	} else {
		refused++;
	}
	close(fd_from);
	close(fd);
}

static void op_remove(void)
{
	struct file *f = file_any();

	close(file_open(f, O_RDWR));
	if (unlink(f->name))
		die("unlink %s: %s", f->name, strerror(errno));
	tags_zero(f, 0, f->bytes);
	f->bytes = 0;
}

/* Over another, which ends. */
static void op_rename(void)
{
	struct file *from = file_any(), *to = file_any();

	if (from == to)
		return;
	close(file_open(from, O_RDWR));
	if (rename(from->name, to->name))
		die("rename: %s", strerror(errno));
	memcpy(to->tags, from->tags, sizeof(to->tags));
	to->bytes = from->bytes;
	tags_zero(from, 0, from->bytes);
	from->bytes = 0;
}

static void op_sync(void)
{
	struct file *f = file_any();
	int fd = file_open(f, O_RDWR);

	if (chance(2) ? fsync(fd) : fdatasync(fd))
		die("fsync: %s", strerror(errno));
	if (chance(2))
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
}

static void op_trim(void)
{
	struct fstrim_range range = {.len = UINT64_MAX};
	int fd = open(".", O_RDONLY);

	if (chance(8) == 0 && ioctl(fd, FITRIM, &range))
		refused++;
	close(fd);
}

static void op_drop(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

	if (chance(2))
		sync();
	if (fd >= 0 && write(fd, chance(4) ? "1" : "3", 1) != 1)
		die("drop_caches: %s", strerror(errno));
	close(fd);
}

static void read_by(int flags, uint32_t align, const char *how)
{
	struct file *f = file_any();
	uint32_t at, bytes;
	int fd;

	if (!span_in(f, align, &at, &bytes))
		return;
	fd = file_open(f, O_RDWR | flags);
	all_read(fd, buffer, bytes, at, how);
	units_compare(f, at, bytes, buffer, how);
	close(fd);
}

static void op_read(void)
{
	read_by(0, UNIT, "read");
}

static void op_read_direct(void)
{
	read_by(O_DIRECT, SECTOR, "O_DIRECT read");
}

static void op_read_mapped(void)
{
	struct file *f = file_any();
	uint32_t at, bytes;
	unsigned char *map;
	int fd;

	if (!span_in(f, BLOCK, &at, &bytes))
		return;
	fd = file_open(f, O_RDWR);
	map = file_map(fd, at, bytes);
	units_compare(f, at, bytes, map, "mmap");
	munmap(map, bytes);
	close(fd);
}

static void file_check(const struct file *f, const char *how)
{
	uint32_t at, bytes;
	struct stat st;
	int fd = file_open(f, O_RDWR);

	if (fstat(fd, &st) || st.st_size != f->bytes)
		die("%s has %lld bytes, expected %u", f->name,
		    (long long)st.st_size, f->bytes);
	for (at = 0; at < f->bytes; at += bytes) {
		bytes = f->bytes - at < SPAN_MAX ? f->bytes - at : SPAN_MAX;
		all_read(fd, buffer, bytes, at, how);
		units_compare(f, at, bytes, buffer, how);
	}
	close(fd);
}

static void op_read_all(void)
{
	file_check(file_any(), "read of all");
}

static const struct {
	void (*run)(void);
	unsigned int weight;
} ops[] = {
	{op_write, 20},	       {op_write_direct, 8},  {op_write_sync, 2},
	{op_write_mapped, 10}, {op_direct_mapped, 6}, {op_truncate, 5},
	{op_punch, 5},	       {op_zero_range, 3},    {op_allocate, 3},
	{op_collapse, 2},      {op_insert, 2},	      {op_clone, 2},
	{op_remove, 2},	       {op_rename, 3},	      {op_sync, 6},
	{op_trim, 1},	       {op_drop, 3},	      {op_read, 24},
	{op_read_direct, 6},   {op_read_mapped, 8},   {op_read_all, 12},
};
#define OPS (sizeof(ops) / sizeof(ops[0]))

static void op_any(void)
{
	unsigned int all = 0, at, i;

	for (i = 0; i < OPS; i++)
		all += ops[i].weight;
	at = chance(all);
	for (i = 0; at >= ops[i].weight; i++)
		at -= ops[i].weight;
	ops[i].run();
	operations++;
}

/* ---- workers -------------------------------------------------------------
 */

static uint64_t seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec;
}

static void worker_begin(const char *folder, uint64_t seed)
{
	char path[32];
	unsigned int i;

	chance_state = mix(seed + worker);
	snprintf(path, sizeof(path), "w%u", worker);
	if (chdir(folder) || mkdir(path, 0700) || chdir(path))
		die("%s/%s: %s", folder, path, strerror(errno));
	buffer = mmap(NULL, SPAN_MAX, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer == MAP_FAILED)
		die("no memory");
	for (i = 0; i < FILES; i++)
		snprintf(files[i].name, sizeof(files[i].name), "f%u", i);
}

static _Noreturn void worker_run(const char *folder, uint64_t seconds,
				 uint64_t seed)
{
	uint64_t end = seconds_now() + seconds;
	unsigned int i;

	worker_begin(folder, seed);
	do {
		op_any();
	} while (seconds_now() < end);
	sync();
	op_drop();
	for (i = 0; i < FILES; i++)
		file_check(&files[i], "read at the end");
	printf("storm: worker %u: %llu operations (%llu refused), %llu MiB "
	       "compared\n",
	       worker, (unsigned long long)operations,
	       (unsigned long long)refused, (unsigned long long)compared >> 20);
	exit(0);
}

/* The first that fails ends all. */
static int workers_wait(const pid_t *pids, unsigned int n)
{
	unsigned int left, i;
	int status;

	for (left = n; left; left--) {
		if (wait(&status) < 0)
			return 1;
		if (WIFEXITED(status) && !WEXITSTATUS(status))
			continue;
		if (WIFSIGNALED(status))
			printf("storm: a worker died of signal %d\n",
			       WTERMSIG(status));
		for (i = 0; i < n; i++)
			kill(pids[i], SIGKILL);
		return 1;
	}
	printf("storm: %u workers, no difference\n", n);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned int n = argc > 4 ? (unsigned int)atoi(argv[4]) : WORKERS;
	pid_t pids[16];

	if (argc < 4 || n < 1 || n > 16) {
		fprintf(stderr, "usage: storm FOLDER SECONDS SEED [WORKERS]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (worker = 0; worker < n; worker++) {
		pids[worker] = fork();
		if (pids[worker] < 0)
			return 1;
		if (!pids[worker])
			worker_run(argv[1], strtoull(argv[2], NULL, 0),
				   strtoull(argv[3], NULL, 0));
	}
	return workers_wait(pids, n);
}
