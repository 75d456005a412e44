/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a page is stored: as one word if it repeats it, by LZ4 or denser, or raw
 * where that does not pay. Knows nothing of the store, takes no lock, allocates
 * nothing.
 */
#ifndef TMEM_CODEC_H
#define TMEM_CODEC_H

#include "tmem/encode.h"
#include "tmem/pack.h"
#include "tmem/tmem.h"

/* The tag of a packed item. */
enum codec_form {
	CODEC_SAME = 1,
	CODEC_LZ4 = 2,
	CODEC_RAW = 3,
	CODEC_DENSE = 4 /* by the client's tmem_dense_ops; never in a stream */
};

enum codec_mode { CODEC_PLAIN, CODEC_COMPRESS };

struct codec_page {
	struct pack_item item; /* data points into this structure */
	bool poor;	       /* raw because LZ4 saved too little */
	_Alignas(16) unsigned char page[PAGE_BYTES + ENCODE_SLACK];
	_Alignas(16) unsigned char small[ENCODE_BYTES];
};

/* Reads the page once: it may be changing. About 16 KiB of stack. */
void codec_encode(struct codec_page *out, const void *page,
		  enum codec_mode mode);

/* The same by a denser codec, and by LZ4 what that refuses. */
void codec_encode_dense(struct codec_page *out, const void *page,
			const struct tmem_dense_ops *dense);

/*
 * Writes PAGE_BYTES to page_out, or fewer and returns -EUCLEAN. dense: may be
 * NULL, then there is no such form.
 */
MUST_CHECK int codec_decode(const struct pack_item *item,
			    const struct tmem_dense_ops *dense, void *page_out);

/* Checksum of an item's data. */
uint32_t codec_sum(const void *data, uint32_t bytes);

#endif
