/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bytes as a saved client. First as they are; then as the records of a stream
 * whose head and checksum are right, which is what someone who wants to harm
 * the host would send. What is taken must be sound and saved again alike; what
 * is refused must leave nothing behind.
 *
 * fuzz-max-len: 32768
 */
#include "tmem/stream.h"
#include "tmem/tmem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                                                                \
	do {                                                                   \
		if (!(x))                                                      \
			abort();                                               \
	} while (0)

static void fd_put(int fd, const void *data, size_t bytes)
{
	MUST(write(fd, data, bytes) == (ssize_t)bytes);
}

static int fd_get(void)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	MUST(fd >= 0);
	return fd;
}

static int restore(struct tmem_client *cl, int fd)
{
	MUST(lseek(fd, 0, SEEK_SET) == 0);
	return tmem_restore(cl, fd);
}

/* What was taken is saved and restored again: as many pages as before. */
static void again(struct tmem *tm, struct tmem_client *cl)
{
	struct tmem_client *to;
	struct tmem_stats before;
	struct tmem_stats after;
	int fd = fd_get();

	tmem_stats(tm, &before);
	MUST(!tmem_save(cl, fd));
	MUST(!tmem_client_create(tm, "again", &to));
	MUST(!restore(to, fd));
	tmem_stats(tm, &after);
	MUST(after.pages == 2 * before.pages);
	close(fd);
}

static void try_stream(int fd)
{
	struct tmem_client *cl;
	struct tmem_stats st;
	struct tmem *tm;

	MUST(!tmem_create(0, &tm));
	MUST(!tmem_client_create(tm, "guest", &cl));
	if (!restore(cl, fd)) {
		again(tm, cl);
	} else {
		tmem_stats(tm, &st);
		MUST(!st.pages && tmem_pool_destroy(cl, 0));
	}
	MUST(!tmem_check(tm));
	tmem_destroy(tm);
}

/* The first 4 bytes are what the end says: pools and pages. */
static void dress(int fd, const uint8_t *data, size_t size)
{
	struct save_head head = {SAVE_MAGIC, SAVE_FORMAT, PAGE_BYTES};
	struct save_record record = {SAVE_END, sizeof(struct save_end)};
	struct save_end end = {0};
	XXH3_state_t *state = XXH3_createState();

	end.pools = (uint32_t)data[0] | (uint32_t)data[1] << 8;
	end.pages = (uint64_t)data[2] | (uint64_t)data[3] << 8;
	data += 4;
	size -= 4;
	MUST(state);
	fd_put(fd, &head, sizeof(head));
	fd_put(fd, data, size);
	fd_put(fd, &record, sizeof(record));
	(void)XXH3_64bits_reset(state);
	(void)XXH3_64bits_update(state, &head, sizeof(head));
	(void)XXH3_64bits_update(state, data, size);
	(void)XXH3_64bits_update(state, &record, sizeof(record));
	(void)XXH3_64bits_update(state, &end, offsetof(struct save_end, sum));
	end.sum = XXH3_64bits_digest(state);
	(void)XXH3_freeState(state);
	fd_put(fd, &end, sizeof(end));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = fd_get();

	fd_put(fd, data, size);
	try_stream(fd);
	close(fd);
	if (size < 4)
		return 0;
	fd = fd_get();
	dress(fd, data, size);
	try_stream(fd);
	close(fd);
	return 0;
}
