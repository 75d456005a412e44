/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a program may count on after a power cut.
 *
 *   records write FOLDER SEED    until killed: overwrites slots of a file in
 *                                place and appends to another, fsync after
 *                                each, and only then says `slot N VERSION` or
 *                                `log N`
 *   records check FOLDER SEED    prints `slots V V V ...` and `logs N`: what is
 *                                there; exit code 1 for a record that is torn
 *
 * A slot is one page, written with one pwrite: it holds one of its versions
 * whole (the disks of these guests write a page in one piece). Who listened
 * knows the least version each must have.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/guest/pattern.h"

#define SLOTS	  256u
#define LOG_SPACE UINT64_C(0x1000000) /* index of the first log record */
/* An index of the kind that LZ4 halves: its words tell the version. */
#define INDEX(i) ((uint64_t)(i)*8 + 3)

static uint64_t seed;

static int file_open(const char *folder, const char *name)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_RDWR | O_CREAT, 0644);
	if (fd < 0) {
		perror(path);
		exit(2);
	}
	return fd;
}

/* The version comes first in a record, then what follows from it. */
static void record_make(uint64_t *page, uint64_t index, uint64_t version)
{
	pattern_fill(page, seed, INDEX(index), version);
	page[0] = version;
}

static long record_version(const uint64_t *page, uint64_t index)
{
	uint64_t want[PATTERN_WORDS];

	record_make(want, index, page[0]);
	if (memcmp(page, want, PATTERN_PAGE))
		return -1;
	return (long)page[0];
}

static void record_write(int fd, uint64_t index, uint64_t at, uint64_t version)
{
	uint64_t page[PATTERN_WORDS];

	record_make(page, index, version);
	if (pwrite(fd, page, PATTERN_PAGE, (off_t)(at * PATTERN_PAGE)) !=
		    PATTERN_PAGE ||
	    fsync(fd)) {
		perror("records: write");
		exit(2);
	}
}

static void writer(int slots, int log)
{
	uint64_t state = seed, version, logs = 0;

	for (version = 1;; version++) {
		unsigned slot;

		state = pattern_mix(state);
		slot = (unsigned)(state % SLOTS);
		record_write(slots, slot, slot, version);
		printf("slot %u %llu\n", slot, (unsigned long long)version);
		if (version % 4)
			continue;
		record_write(log, LOG_SPACE + logs, logs, version);
		printf("log %llu\n", (unsigned long long)++logs);
	}
}

static int slots_check(int fd)
{
	uint64_t page[PATTERN_WORDS];
	int bad = 0;

	printf("slots");
	for (unsigned i = 0; i < SLOTS; i++) {
		long version = 0;

		if (pread(fd, page, PATTERN_PAGE, i * PATTERN_PAGE) ==
		    PATTERN_PAGE)
			version = record_version(page, i);
		printf(" %ld", version);
		bad |= version < 0;
	}
	printf("\n");
	return bad;
}

/* The last record may be on its way still: then it is not counted. */
static int logs_check(int fd)
{
	uint64_t page[PATTERN_WORDS], n = 0;
	struct stat st;

	while (pread(fd, page, PATTERN_PAGE, (off_t)(n * PATTERN_PAGE)) ==
		       PATTERN_PAGE &&
	       record_version(page, LOG_SPACE + n) > 0)
		n++;
	printf("logs %llu\n", (unsigned long long)n);
	return fstat(fd, &st) || (uint64_t)st.st_size > (n + 1) * PATTERN_PAGE;
}

int main(int argc, char **argv)
{
	int slots, log, bad;

	if (argc != 4) {
		fprintf(stderr, "usage: records write|check FOLDER SEED\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	seed = strtoull(argv[3], NULL, 0);
	slots = file_open(argv[2], "slots");
	log = file_open(argv[2], "log");
	if (argv[1][0] == 'w')
		writer(slots, log);
	bad = slots_check(slots);
	bad |= logs_check(log);
	return bad;
}
