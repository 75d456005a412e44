/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vandal DEVICE SECONDS SEED: what a hostile root can do to the other end of
 * its shared memory. Maps BAR2 and BAR0 of a PCI device (a folder in
 * /sys/bus/pci/devices) and writes random bytes all over the first, mostly
 * where the indexes and requests lie, and rings random doorbells of the second.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest-drivers/abi/tmem_line.h"
#include "tests/guest/pattern.h"

struct area {
	volatile unsigned char *at;
	size_t bytes;
};

static uint64_t state;

static uint64_t pick(uint64_t bound)
{
	return (state = pattern_mix(state)) % bound;
}

static struct area area_open(const char *device, const char *name)
{
	struct area area = {NULL, 0};
	char path[256];
	struct stat st;
	void *at;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", device, name);
	fd = open(path, O_RDWR | O_SYNC);
	if (fd < 0 || fstat(fd, &st)) {
		perror(path);
		exit(2);
	}
	at = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		  fd, 0);
	if (at == MAP_FAILED) {
		perror(path);
		exit(2);
	}
	area.at = at;
	area.bytes = (size_t)st.st_size;
	return area;
}

/* Half of the blows hit the first pages: epochs, and queue 0's indexes. */
static void blow(struct area memory)
{
	size_t span = pick(2) ? memory.bytes : 4 * LINE_PAGE_BYTES;
	size_t at = pick(span / 8) * 8, n = 1 + pick(64);

	for (; n && at < memory.bytes; n--, at += 8) {
		volatile uint64_t *word = (volatile uint64_t *)(memory.at + at);

		*word = pick(4) ? pick(UINT64_MAX) : pick(8);
	}
}

static void ring(struct area registers)
{
	volatile uint32_t *doorbell =
		(volatile uint32_t *)(registers.at + LINE_REG_DOORBELL);

	*doorbell = (uint32_t)(pick(3) << 16 | pick(20));
}

int main(int argc, char **argv)
{
	struct area memory, registers;
	unsigned long blows = 0;
	time_t end;

	if (argc != 4) {
		fprintf(stderr, "usage: vandal DEVICE SECONDS SEED\n");
		return 2;
	}
	memory = area_open(argv[1], "resource2");
	registers = area_open(argv[1], "resource0");
	state = strtoull(argv[3], NULL, 0);
	for (end = time(NULL) + atol(argv[2]); time(NULL) < end; blows++) {
		blow(memory);
		if (blows % 16 == 0)
			ring(registers);
	}
	printf("%lu blows\n", blows);
	return 0;
}
