/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A block is a row of sequences: some literal bytes, then a copy of bytes that
 * came before.
 *
 *   | literals' length : copy's length - 4 | more | literals | distance | more
 * | 4 bits, 15: more   4 bits, 15: more            bytes      2 bytes
 *
 * The last has literals only, 5 or more; no copy starts in the page's last 12
 * bytes.
 *
 * A desktop's page has some 280 sequences, so time is what a sequence takes,
 * and most of that is branches nobody can predict. Hence hashes of 5 bytes:
 * a fifth fewer sequences than with the library's 4, and those left out save a
 * byte each. Two places are hashed from one load. No bound of the block is
 * checked: a sequence is no longer than what it stands for, but for one byte in
 * 255 literals,
 *
 *   bytes written <= bytes read + bytes read / 255, and 16 of a copy too many
 */
#include "tmem/encode.h"

#include <emmintrin.h>
#include <string.h>

#define HASH_BITS  12
#define HASH_BYTES 5
#define COPY_MIN   4
#define STEP	   16 /* bytes copied or compared at once */
#define LIT_END	   5
#define START_END  12
#define SKIP_BITS  5
#define NIBBLE	   15u

_Static_assert(PAGE_BYTES <= UINT16_MAX, "a place is 16 bits");
_Static_assert(PAGE_BYTES / 255 + 2 * STEP < ENCODE_BYTES - PAGE_BYTES,
	       "a page that does not shrink fits");

/* The bytes from `at` on are those from `from` on. */
struct match {
	const unsigned char *at;
	const unsigned char *from;
	const unsigned char *end; /* of those at `at` */
};

static uint64_t load64(const unsigned char *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static bool starts_with(const unsigned char *p, uint64_t bytes)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v == (uint32_t)bytes;
}

static void copy_step(unsigned char *to, const unsigned char *from)
{
	_mm_storeu_si128((void *)to, _mm_loadu_si128((const void *)from));
}

/* A bit for each of STEP bytes that differs. */
static uint32_t differ(const unsigned char *a, const unsigned char *b)
{
	__m128i equal = _mm_cmpeq_epi8(_mm_loadu_si128((const void *)a),
				       _mm_loadu_si128((const void *)b));

	return (uint32_t)_mm_movemask_epi8(equal) ^ 0xffff;
}

/* The place that was last under the first bytes' hash; now it is `at`. */
static const unsigned char *place_swap(const unsigned char *page,
				       uint16_t *places, uint64_t bytes,
				       const unsigned char *at)
{
	uint64_t factor = 0x9e3779b185ebca87u << (64 - 8 * HASH_BYTES);
	uint16_t *place = &places[bytes * factor >> (64 - HASH_BITS)];
	const unsigned char *was = page + *place;

	*place = (uint16_t)(at - page);
	return was;
}

/*
 * From `at` on, which is past the first byte: a free place of the table means
 * the page's first. Where little is found, fewer places are tried.
 */
static bool match_find(const unsigned char *page, uint16_t *places,
		       const unsigned char *at, struct match *m)
{
	const unsigned char *last = page + PAGE_BYTES - START_END;
	uint32_t tries = 1u << SKIP_BITS;

	for (; at < last; at += 2 * (tries++ >> SKIP_BITS)) {
		uint64_t bytes = load64(at);
		uint64_t next = bytes >> 8;
		const unsigned char *from = place_swap(page, places, bytes, at);
		const unsigned char *from_next =
			place_swap(page, places, next, at + 1);

		m->at = at;
		m->from = from;
		if (starts_with(from, bytes))
			return true;
		m->at = at + 1;
		m->from = from_next;
		if (starts_with(from_next, next))
			return true;
	}
	return false;
}

/* The first COPY_MIN bytes are known to be equal. */
static void match_extend(const unsigned char *page, const unsigned char *done,
			 struct match *m)
{
	const unsigned char *most = page + PAGE_BYTES - LIT_END;
	const unsigned char *a = m->at + COPY_MIN;
	const unsigned char *b = m->from + COPY_MIN;
	uint32_t bits = 0;

	while (a < most && !(bits = differ(a, b))) {
		a += STEP;
		b += STEP;
	}
	if (bits)
		a += __builtin_ctz(bits);
	m->end = a < most ? a : most;
	/* Places that were skipped; at the page's start none comes before. */
	if (m->at[-1] != m->from[-(m->from > page)])
		return;
	while (m->at > done && m->from > page && m->at[-1] == m->from[-1]) {
		m->at--;
		m->from--;
	}
}

/* A length of which the nibble holds 15. */
static unsigned char *more_put(unsigned char *op, uint32_t length)
{
	for (length -= NIBBLE; length >= 255; length -= 255)
		*op++ = 255;
	*op++ = (unsigned char)length;
	return op;
}

static unsigned char *distance_put(unsigned char *op, uint16_t distance)
{
	memcpy(op, &distance, sizeof(distance));
	return op + sizeof(distance);
}

/* A sequence of any lengths. */
static __attribute__((noinline)) unsigned char *
sequence_put_long(unsigned char *op, const unsigned char *done,
		  uint32_t literals, uint32_t copy, uint16_t distance)
{
	*op++ = (unsigned char)((literals < NIBBLE ? literals : NIBBLE) << 4 |
				(copy < NIBBLE ? copy : NIBBLE));
	if (literals >= NIBBLE)
		op = more_put(op, literals);
	for (uint32_t i = 0; i < literals; i += STEP)
		copy_step(op + i, done + i);
	op = distance_put(op + literals, distance);
	return copy < NIBBLE ? op : more_put(op, copy);
}

static unsigned char *sequence_put(unsigned char *op, const unsigned char *done,
				   const struct match *m)
{
	uint32_t literals = (uint32_t)(m->at - done);
	uint32_t copy = (uint32_t)(m->end - m->at) - COPY_MIN;
	uint16_t distance = (uint16_t)(m->at - m->from);

	if (literals >= NIBBLE || copy >= NIBBLE)
		return sequence_put_long(op, done, literals, copy, distance);
	*op = (unsigned char)(literals << 4 | copy);
	copy_step(op + 1, done);
	return distance_put(op + 1 + literals, distance);
}

uint32_t encode_page(const unsigned char *page, unsigned char *block,
		     uint32_t max)
{
	uint16_t places[1 << HASH_BITS] = {0};
	const unsigned char *done = page; /* so far is written */
	const unsigned char *at = page + 1;
	unsigned char *op = block;
	uint32_t literals;
	struct match m;

	while (match_find(page, places, at, &m)) {
		match_extend(page, done, &m);
		op = sequence_put(op, done, &m);
		at = done = m.end;
		/* Of the bytes copied, this place is found most often. */
		(void)place_swap(page, places, load64(at - 2), at - 2);
	}
	literals = (uint32_t)(page + PAGE_BYTES - done);
	if ((size_t)(op - block) + 1 + literals > max)
		return 0;
	*op++ = (unsigned char)((literals < NIBBLE ? literals : NIBBLE) << 4);
	if (literals >= NIBBLE)
		op = more_put(op, literals);
	memcpy(op, done, literals);
	op += literals;
	return op - block <= max ? (uint32_t)(op - block) : 0;
}
