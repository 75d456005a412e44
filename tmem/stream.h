/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bytes of a saved client: a file, pipe or socket with a running checksum,
 * and the format in it. All numbers are little endian.
 *
 *   head | record | record | ... | end          record: type, bytes, payload
 *
 *   POOL     the pool of this id begins (anew, if there was one)
 *   OBJECT   what follows is of this object
 *   PAGE     index and stored form; replaces what the key had
 *   KEYS     these indexes exist: in the last pass, for every page
 *   END      the pools that exist, the number of pages, and XXH3 of all bytes
 *            of the stream before the checksum
 *
 * A stream has one or more passes over the pages, of which all but the first
 * tell only what changed. What END and KEYS do not name is gone: so pages and
 * pools that vanished meanwhile need no record of their own.
 *
 * Format 1 is all there is. A reader accepts every format ever written:
 * tests/golden holds a stream of each.
 */
#ifndef TMEM_STREAM_H
#define TMEM_STREAM_H

#include "hv/base/types.h"

#define SAVE_MAGIC   "TMEMSAVE"
#define SAVE_FORMAT  1u
#define SAVE_PAYLOAD (8u + 4096u) /* longest of a record */

enum save_type { SAVE_POOL = 1, SAVE_OBJECT, SAVE_PAGE, SAVE_KEYS, SAVE_END };

struct save_head {
	char magic[8];
	uint32_t format;
	uint32_t page_bytes;
};

struct save_record {
	uint32_t type;
	uint32_t bytes;
};

struct save_pool {
	uint32_t id;
	uint32_t flags;	  /* of tmem_pool_create */
	uint8_t uuid[16]; /* zero unless it is shared */
};

struct save_object {
	uint32_t pool;
	uint32_t zero;
	uint64_t oid[3];
};

struct save_page {
	uint32_t index;
	uint32_t form; /* enum codec_form; the data follows */
};

struct save_keys {
	uint32_t base;
	uint32_t mask; /* bit n: base + n */
};

struct save_end {
	uint32_t pools; /* bit n: id n */
	uint32_t zero;
	uint64_t pages;
	uint64_t sum;
};

_Static_assert(sizeof(struct save_head) == 16, "as in files");
_Static_assert(sizeof(struct save_record) == 8, "as in files");
_Static_assert(sizeof(struct save_pool) == 24, "as in files");
_Static_assert(sizeof(struct save_object) == 32, "as in files");
_Static_assert(sizeof(struct save_page) == 8, "as in files");
_Static_assert(sizeof(struct save_keys) == 8, "as in files");
_Static_assert(sizeof(struct save_end) == 24, "as in files");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "as in files");

struct stream;

/* The fd stays the caller's. -ENOMEM. */
MUST_CHECK int stream_create(int fd, struct stream **st_out);
void stream_destroy(struct stream *st);

/* Buffered; an error sticks and is told by stream_flush. */
void stream_write(struct stream *st, const void *data, size_t bytes);
void stream_record(struct stream *st, enum save_type type, const void *payload,
		   size_t bytes);
MUST_CHECK int stream_flush(struct stream *st);

/* Exactly so many bytes, and no more taken from the fd. -EBADMSG: cut. */
MUST_CHECK int stream_read(struct stream *st, void *out, size_t bytes);

/* Of all bytes written, or read, so far. */
uint64_t stream_sum(const struct stream *st);

#endif
