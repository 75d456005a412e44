/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any page through the encoder and the library's decoder. Shorter inputs are
 * repeated until they fill one. Page and block are memory of exactly their
 * size, so a byte read or written too far is seen.
 *
 * fuzz-max-len: 4096
 */
#include "tmem/encode.h"

#include <lz4.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool truth)
{
	if (!truth)
		abort();
}

static uint32_t encode(const uint8_t *data, size_t size, int slack,
		       unsigned char **block_out)
{
	unsigned char *page = malloc(PAGE_BYTES + ENCODE_SLACK);
	uint32_t n;

	*block_out = malloc(ENCODE_BYTES);
	must(page && *block_out);
	for (size_t i = 0; i < PAGE_BYTES; i++)
		page[i] = data[i % size];
	memset(page + PAGE_BYTES, slack, ENCODE_SLACK);
	n = encode_page(page, *block_out, ENCODE_BYTES);
	free(page);
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char back[PAGE_BYTES];
	unsigned char *block[2];
	uint32_t n;

	if (!size)
		return 0;
	n = encode(data, size, 0, &block[0]);
	must(n && n == encode(data, size, data[0], &block[1]));
	must(!memcmp(block[0], block[1], n));
	must(LZ4_decompress_safe((char *)block[0], back, (int)n,
				 (int)PAGE_BYTES) == (int)PAGE_BYTES);
	for (size_t i = 0; i < PAGE_BYTES; i++)
		must((uint8_t)back[i] == data[i % size]);
	free(block[0]);
	free(block[1]);
	return 0;
}
