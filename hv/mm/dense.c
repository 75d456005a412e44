/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See dense.h. Contexts are static: they lie in one mapping made at the start,
 * each for one thread at a time,
 *
 *   [ one to encode | reader | reader | ... ]
 *
 * so whatever memory is short of later, a page that was stored can be decoded.
 * A call that finds all of them in use waits for one: a few microseconds.
 *
 * Frames have no magic number and no length, 6 bytes a page that say nothing.
 * Strategy dfast with tables of 4096 entries. On desktops' pages `fast` is a
 * quarter quicker in for 2 % more bytes, `lazy` takes twice as long for 2 %
 * less, and a dictionary trained on other desktops gains nothing.
 *
 * Before it is given out it must bring back a page of its own, so that a
 * libzstd which does not know these parameters is found out at the start.
 */
#define ZSTD_STATIC_LINKING_ONLY
#include "hv/mm/dense.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define TABLE_LOG  12
#define ALIGN(n)   (((n) + 63) & ~(size_t)63)
#define MUST(call) (!ZSTD_isError(call))

struct slot {
	pthread_mutex_t lock;
	union {
		ZSTD_CCtx *writer;
		ZSTD_DCtx *reader;
	};
};

struct dense {
	struct tmem_dense_ops ops;
	const struct host_ops *host;
	uint8_t *memory;
	size_t bytes;
	unsigned readers;
	struct slot writer;
	struct slot reader[];
};

/* ---- contexts ---- */

static ZSTD_CCtx_params *params_make(void)
{
	static const struct {
		ZSTD_cParameter what;
		int value;
	} set[] = {
		{ZSTD_c_windowLog, PAGE_SHIFT},
		{ZSTD_c_hashLog, TABLE_LOG},
		{ZSTD_c_chainLog, TABLE_LOG},
		{ZSTD_c_minMatch, 4},
		{ZSTD_c_strategy, ZSTD_dfast},
		{ZSTD_c_contentSizeFlag, 0},
		{ZSTD_c_format, ZSTD_f_zstd1_magicless},
	};
	ZSTD_CCtx_params *params = ZSTD_createCCtxParams();
	bool good = params;

	for (size_t i = 0; good && i < ARRAY_LEN(set); i++)
		good = MUST(ZSTD_CCtxParams_setParameter(params, set[i].what,
							 set[i].value));
	if (good)
		return params;
	ZSTD_freeCCtxParams(params);
	return NULL;
}

static bool writer_init(struct dense *d, size_t bytes,
			const ZSTD_CCtx_params *params)
{
	d->writer.writer = ZSTD_initStaticCCtx(d->memory, bytes);
	return d->writer.writer && MUST(ZSTD_CCtx_setParametersUsingCCtxParams(
					   d->writer.writer, params));
}

static bool reader_init(struct slot *s, uint8_t *at, size_t bytes)
{
	s->reader = ZSTD_initStaticDCtx(at, bytes);
	return s->reader &&
	       MUST(ZSTD_DCtx_setParameter(s->reader, ZSTD_d_format,
					   ZSTD_f_zstd1_magicless));
}

/* All contexts, and the one mapping they lie in. */
static int contexts_init(struct dense *d, const ZSTD_CCtx_params *params)
{
	size_t reader = ALIGN(ZSTD_estimateDCtxSize());
	size_t writer = ZSTD_estimateCCtxSize_usingCCtxParams(params);
	bool good;
	int rc;

	if (!MUST(writer))
		return -ENOSYS;
	d->bytes = ALIGN(writer) + d->readers * reader;
	rc = d->host->map_anon(NULL, d->bytes, (void **)&d->memory);
	if (rc < 0)
		return rc;
	good = writer_init(d, writer, params);
	for (unsigned i = 0; good && i < d->readers; i++)
		good = reader_init(&d->reader[i],
				   d->memory + ALIGN(writer) + i * reader,
				   reader);
	if (good)
		return 0;
	d->host->unmap(d->memory, d->bytes);
	return -ENOSYS;
}

/* ---- one page ---- */

static size_t page_encode(void *arg, const void *page, void *out, size_t room)
{
	struct dense *d = arg;
	size_t n;

	pthread_mutex_lock(&d->writer.lock);
	n = ZSTD_compress2(d->writer.writer, out, room, page, PAGE_BYTES);
	pthread_mutex_unlock(&d->writer.lock);
	return MUST(n) ? n : 0;
}

static struct slot *reader_get(struct dense *d)
{
	for (unsigned i = 0; i < d->readers; i++)
		if (!pthread_mutex_trylock(&d->reader[i].lock))
			return &d->reader[i];
	pthread_mutex_lock(&d->reader[0].lock);
	return &d->reader[0];
}

static int page_decode(void *arg, const void *data, size_t bytes,
		       void *page_out)
{
	struct slot *s = reader_get(arg);
	size_t n = ZSTD_decompressDCtx(s->reader, page_out, PAGE_BYTES, data,
				       bytes);

	pthread_mutex_unlock(&s->lock);
	return n == PAGE_BYTES ? 0 : -EUCLEAN;
}

/* Each context is used once, which also touches most of its memory. */
static bool proves_itself(struct dense *d)
{
	uint8_t page[PAGE_BYTES], got[PAGE_BYTES], small[PAGE_BYTES];
	size_t n;

	for (size_t i = 0; i < sizeof(page); i++)
		page[i] = (uint8_t)(i * i >> 7 & 15);
	n = page_encode(d, page, small, sizeof(small));
	for (unsigned i = 0; n && i < d->readers; i++)
		if (ZSTD_decompressDCtx(d->reader[i].reader, got, sizeof(got),
					small, n) != sizeof(got) ||
		    memcmp(got, page, sizeof(page)))
			n = 0;
	return n;
}

/* ---- life ---- */

int dense_create(const struct host_ops *host, unsigned readers,
		 struct dense **out)
{
	struct dense *d =
		calloc(1, sizeof(*d) + readers * sizeof(d->reader[0]));
	ZSTD_CCtx_params *params = params_make();
	int rc = params ? -ENOMEM : -ENOSYS;

	if (!d || !params)
		goto free_all;
	d->host = host;
	d->readers = readers;
	d->ops = (struct tmem_dense_ops){page_encode, page_decode, d};
	pthread_mutex_init(&d->writer.lock, NULL);
	for (unsigned i = 0; i < readers; i++)
		pthread_mutex_init(&d->reader[i].lock, NULL);
	rc = contexts_init(d, params);
	if (rc < 0)
		goto free_all;
	ZSTD_freeCCtxParams(params);
	if (!proves_itself(d)) {
		dense_destroy(d);
		return -ENOSYS;
	}
	*out = d;
	return 0;

free_all:
	ZSTD_freeCCtxParams(params);
	free(d);
	return rc;
}

void dense_destroy(struct dense *d)
{
	if (!d)
		return;
	d->host->unmap(d->memory, d->bytes);
	pthread_mutex_destroy(&d->writer.lock);
	for (unsigned i = 0; i < d->readers; i++)
		pthread_mutex_destroy(&d->reader[i].lock);
	free(d);
}

const struct tmem_dense_ops *dense_ops(const struct dense *d)
{
	return &d->ops;
}

size_t dense_bytes(const struct dense *d)
{
	return d ? d->bytes : 0;
}
