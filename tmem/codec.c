/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page is copied first. LZ4 looks at its input more than once, and a guest
 * that changes a page between the looks would make a stream that does not
 * decode; the copy costs a tenth of what LZ4 does.
 */
#include "tmem/codec.h"

#include <errno.h>
#include <lz4.h>
#include <string.h>
#include <xxhash.h>

#define WORDS (PAGE_BYTES / sizeof(uint64_t))

uint32_t codec_sum(const void *data, uint32_t bytes)
{
	return (uint32_t)XXH3_64bits(data, bytes);
}

static bool page_is_same_filled(const unsigned char *page)
{
	/* Equal to itself moved by a word: every word equals the next. */
	return memcmp(page, page + sizeof(uint64_t),
		      PAGE_BYTES - sizeof(uint64_t)) == 0;
}

static void item_set(struct codec_page *out, enum codec_form form,
		     const void *data, uint32_t bytes)
{
	out->item.data = data;
	out->item.bytes = bytes;
	out->item.tag = form;
	out->item.sum = codec_sum(data, bytes);
}

void codec_encode(struct codec_page *out, const void *page,
		  enum codec_mode mode)
{
	int n = 0;

	memcpy(out->page, page, PAGE_BYTES);
	out->poor = false;
	out->item.spread = 0;
	if (page_is_same_filled(out->page)) {
		item_set(out, CODEC_SAME, out->page, sizeof(uint64_t));
		return;
	}
	if (mode == CODEC_COMPRESS) {
		n = LZ4_compress_default((const char *)out->page,
					 (char *)out->lz4, PAGE_BYTES,
					 PACK_SMALL_MAX);
		out->poor = n <= 0;
	}
	if (n > 0)
		item_set(out, CODEC_LZ4, out->lz4, (uint32_t)n);
	else
		item_set(out, CODEC_RAW, out->page, PAGE_BYTES);
}

static void fill(void *page_out, const void *word)
{
	unsigned char *at = page_out;

	for (size_t i = 0; i < WORDS; i++)
		memcpy(at + i * sizeof(uint64_t), word, sizeof(uint64_t));
}

int codec_decode(const struct pack_item *item, void *page_out)
{
	int n;

	switch (item->tag) {
	case CODEC_SAME:
		fill(page_out, item->data);
		return 0;
	case CODEC_RAW:
		memcpy(page_out, item->data, PAGE_BYTES);
		return 0;
	case CODEC_LZ4:
		n = LZ4_decompress_safe(item->data, page_out, (int)item->bytes,
					PAGE_BYTES);
		return n == (int)PAGE_BYTES ? 0 : -EUCLEAN;
	default:
		return -EUCLEAN;
	}
}
