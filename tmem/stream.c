/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing is buffered, reading is not: a reader must leave alone what comes
 * after the stream in a socket, and cannot know where that is before it has
 * read each record's head.
 */
#include "tmem/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define BUFFER_BYTES 65536

struct stream {
	int fd;
	int rc;
	XXH3_state_t *hash;
	size_t used;
	unsigned char buf[BUFFER_BYTES];
};

int stream_create(int fd, struct stream **st_out)
{
	struct stream *st = malloc(sizeof(*st));

	if (!st)
		return -ENOMEM;
	st->fd = fd;
	st->rc = 0;
	st->used = 0;
	st->hash = XXH3_createState();
	if (!st->hash) {
		free(st);
		return -ENOMEM;
	}
	(void)XXH3_64bits_reset(st->hash);
	*st_out = st;
	return 0;
}

void stream_destroy(struct stream *st)
{
	if (!st)
		return;
	(void)XXH3_freeState(st->hash);
	free(st);
}

static int fd_write(int fd, const unsigned char *data, size_t bytes)
{
	while (bytes) {
		ssize_t n = write(fd, data, bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		bytes -= (size_t)n;
	}
	return 0;
}

static int fd_read(int fd, unsigned char *out, size_t bytes)
{
	while (bytes) {
		ssize_t n = read(fd, out, bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EBADMSG;
		out += n;
		bytes -= (size_t)n;
	}
	return 0;
}

static void buffer_empty(struct stream *st)
{
	if (!st->rc)
		st->rc = fd_write(st->fd, st->buf, st->used);
	st->used = 0;
}

int stream_flush(struct stream *st)
{
	buffer_empty(st);
	return st->rc;
}

void stream_write(struct stream *st, const void *data, size_t bytes)
{
	if (st->used + bytes > BUFFER_BYTES)
		buffer_empty(st);
	(void)XXH3_64bits_update(st->hash, data, bytes);
	memcpy(st->buf + st->used, data, bytes);
	st->used += bytes;
}

void stream_record(struct stream *st, enum save_type type, const void *payload,
		   size_t bytes)
{
	struct save_record record = {type, (uint32_t)bytes};

	stream_write(st, &record, sizeof(record));
	stream_write(st, payload, bytes);
}

int stream_read(struct stream *st, void *out, size_t bytes)
{
	int rc = fd_read(st->fd, out, bytes);

	if (!rc)
		(void)XXH3_64bits_update(st->hash, out, bytes);
	return rc;
}

uint64_t stream_sum(const struct stream *st)
{
	return XXH3_64bits_digest(st->hash);
}
