/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page is copied first. The encoder looks at it more than once, and a guest
 * that changes a page between the looks would make a block that does not
 * decode; the copy costs a twentieth of what encoding does.
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

/* true: the page is one word, and done with. */
static bool page_take(struct codec_page *out, const void *page)
{
	memcpy(out->page, page, PAGE_BYTES);
	memset(out->page + PAGE_BYTES, 0, ENCODE_SLACK);
	out->poor = false;
	out->item.spread = 0;
	if (!page_is_same_filled(out->page))
		return false;
	item_set(out, CODEC_SAME, out->page, sizeof(uint64_t));
	return true;
}

static void lz4_encode(struct codec_page *out)
{
	uint32_t n = encode_page(out->page, out->small, PACK_SMALL_MAX);

	out->poor = !n;
	if (n)
		item_set(out, CODEC_LZ4, out->small, n);
	else
		item_set(out, CODEC_RAW, out->page, PAGE_BYTES);
}

void codec_encode(struct codec_page *out, const void *page,
		  enum codec_mode mode)
{
	if (page_take(out, page))
		return;
	if (mode == CODEC_COMPRESS)
		lz4_encode(out);
	else
		item_set(out, CODEC_RAW, out->page, PAGE_BYTES);
}

void codec_encode_dense(struct codec_page *out, const void *page,
			const struct tmem_dense_ops *dense)
{
	size_t n;

	if (page_take(out, page))
		return;
	n = dense->encode(dense->arg, out->page, out->small, PACK_SMALL_MAX);
	if (n && n <= PACK_SMALL_MAX)
		item_set(out, CODEC_DENSE, out->small, (uint32_t)n);
	else
		lz4_encode(out);
}

static void fill(void *page_out, const void *word)
{
	unsigned char *at = page_out;

	for (size_t i = 0; i < WORDS; i++)
		memcpy(at + i * sizeof(uint64_t), word, sizeof(uint64_t));
}

/*
 * A touch of page_out may fault and come back here, while the codec holds what
 * it has for this thread: so it writes to memory of ours.
 */
static int dense_decode(const struct pack_item *item,
			const struct tmem_dense_ops *dense, void *page_out)
{
	_Alignas(16) unsigned char page[PAGE_BYTES];

	if (!dense || dense->decode(dense->arg, item->data, item->bytes, page))
		return -EUCLEAN;
	memcpy(page_out, page, PAGE_BYTES);
	return 0;
}

int codec_decode(const struct pack_item *item,
		 const struct tmem_dense_ops *dense, void *page_out)
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
	case CODEC_DENSE:
		return dense_decode(item, dense, page_out);
	default:
		return -EUCLEAN;
	}
}
