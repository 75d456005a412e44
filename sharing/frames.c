/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A pool is one memfd, as large as the domain may ever need and sparse: only
 * frames with content occupy memory. It is sealed against shrinking (an agent's
 * mapping must never meet SIGBUS) and has mode 0400, so that a process of
 * another user that has a read-only descriptor cannot open it for writing.
 * hvd writes with pwrite and maps nothing: page tables for a pool would cost it
 * 8 bytes a frame.
 *
 *   0                                high                      capacity
 *   |LLLLL.LLL..PP......UULLL........|..........................|
 *
 * Every frame below high has a bit in `used` (not free); `stale` marks free
 * frames whose old content is still in the file. A frame in use has a record of
 * 12 bytes, packed by block of 64: of the reserved numbers an eighth are used
 * on real desktops, and a plain array of records was the most of hvd's memory.
 *
 *   record of f = block[f / 64][ones in used[f / 64] below f's bit]
 *
 *   free below high = high - live - pending - unknown
 *
 * Frames are given out in sequence (next fit) because a run of pages whose
 * frames are consecutive costs an agent one mapping. The cursor goes on while
 * the next frame is free; else it looks for 64 free frames in a row, then
 * raises high, and picks up single holes only where holes are more than a
 * quarter of everything or the pool is at its end. Blocks of 64 that are
 * reserved (see homes.h) are passed over while there is anything else.
 *
 * Tables are one reservation of address space each, so they grow without
 * copying and never move.
 */
#include "sharing/frames.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORD_BITS  64
#define SEALS	   (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define HOLES_FEW  4096 /* that may stay unused before holes are filled */
#define SCAN_WORDS 4096 /* looked at for a run before high is raised */

struct frame {
	uint32_t word;
	uint32_t hash_low;
	uint16_t hash_high;
	uint16_t state;
};
_Static_assert(sizeof(struct frame) == 12, "memory of a frame");

struct frames {
	int fd; /* read-write */
	dev_t dev;
	ino_t ino;
	uint32_t capacity, high, cursor;
	struct frame **block; /* records of 64 frames; see record_of */
	uint64_t record_bytes;
	uint64_t *used, *stale;
	uint64_t *reserved;	/* a bit a block */
	uint64_t reserved_free; /* free frames below high in such blocks */
	uint64_t live, pending, unknown, refs, stale_count, punched;
	uint64_t freed; /* since a search for a run failed */
};

static bool bit_get(const uint64_t *map, uint32_t i)
{
	return map[i / WORD_BITS] >> i % WORD_BITS & 1;
}

static void bit_set(uint64_t *map, uint32_t i)
{
	map[i / WORD_BITS] |= (uint64_t)1 << i % WORD_BITS;
}

static void bit_clear(uint64_t *map, uint32_t i)
{
	map[i / WORD_BITS] &= ~((uint64_t)1 << i % WORD_BITS);
}

static bool is_reserved(const struct frames *fr, uint32_t frame)
{
	return bit_get(fr->reserved, frame / WORD_BITS);
}

/* ---- records ---- */

/* How many frames of its block come before this one: its record's place. */
static unsigned rank_of(const struct frames *fr, uint32_t frame)
{
	uint64_t below = ((uint64_t)1 << frame % WORD_BITS) - 1;

	return (unsigned)__builtin_popcountll(fr->used[frame / WORD_BITS] &
					      below);
}

/* Of a frame in use. */
static struct frame *record_of(const struct frames *fr, uint32_t frame)
{
	assert(bit_get(fr->used, frame));
	return &fr->block[frame / WORD_BITS][rank_of(fr, frame)];
}

static unsigned block_count(const struct frames *fr, uint32_t block)
{
	return (unsigned)__builtin_popcountll(fr->used[block]);
}

/* Room comes and goes by four records. */
static size_t records_bytes(unsigned count)
{
	return (count + 3) / 4 * 4 * sizeof(struct frame);
}

/* The frame is in use from here on. */
static int record_insert(struct frames *fr, uint32_t frame,
			 const struct frame *record)
{
	uint32_t block = frame / WORD_BITS;
	unsigned n = block_count(fr, block), at = rank_of(fr, frame);
	struct frame *records = fr->block[block];

	if (records_bytes(n + 1) != records_bytes(n)) {
		records = realloc(records, records_bytes(n + 1));
		if (!records)
			return -ENOMEM;
		fr->record_bytes += records_bytes(n + 1) - records_bytes(n);
		fr->block[block] = records;
	}
	memmove(&records[at + 1], &records[at], (n - at) * sizeof(*records));
	records[at] = *record;
	bit_set(fr->used, frame);
	return 0;
}

/* And free again. */
static void record_remove(struct frames *fr, uint32_t frame)
{
	uint32_t block = frame / WORD_BITS;
	unsigned n = block_count(fr, block) - 1, at = rank_of(fr, frame);
	struct frame *records = fr->block[block], *less;

	bit_clear(fr->used, frame);
	memmove(&records[at], &records[at + 1], (n - at) * sizeof(*records));
	if (records_bytes(n) == records_bytes(n + 1))
		return;
	fr->record_bytes -= records_bytes(n + 1) - records_bytes(n);
	if (!n) {
		free(records);
		fr->block[block] = NULL;
		return;
	}
	less = realloc(records, records_bytes(n));
	if (less) /* else the larger one serves */
		fr->block[block] = less;
}

static size_t map_bytes(uint32_t capacity)
{
	return ((size_t)capacity / WORD_BITS + 1) * sizeof(uint64_t);
}

static size_t blocks_bytes(uint32_t capacity)
{
	return ((size_t)capacity / WORD_BITS + 1) * sizeof(struct frame *);
}

static int reserve(size_t bytes, void **out)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return -errno;
	*out = at;
	return 0;
}

static int tables_create(struct frames *fr)
{
	void *block = NULL, *used = NULL, *stale = NULL, *reserved = NULL;
	int rc;

	rc = reserve(blocks_bytes(fr->capacity), &block);
	if (rc)
		return rc;
	rc = reserve(map_bytes(fr->capacity), &used);
	if (rc)
		goto unmap_block;
	rc = reserve(map_bytes(fr->capacity), &stale);
	if (rc)
		goto unmap_used;
	rc = reserve(map_bytes(fr->capacity / WORD_BITS), &reserved);
	if (rc)
		goto unmap_stale;
	fr->block = block;
	fr->used = used;
	fr->stale = stale;
	fr->reserved = reserved;
	return 0;

unmap_stale:
	munmap(stale, map_bytes(fr->capacity));
unmap_used:
	munmap(used, map_bytes(fr->capacity));
unmap_block:
	munmap(block, blocks_bytes(fr->capacity));
	return rc;
}

static int identity_read(struct frames *fr, struct stat *st_out)
{
	if (fstat(fr->fd, st_out))
		return -errno;
	fr->dev = st_out->st_dev;
	fr->ino = st_out->st_ino;
	return 0;
}

static int file_create(struct frames *fr, const char *name)
{
	char label[128];
	struct stat st;

	snprintf(label, sizeof(label), "tidepool:%s", name);
	fr->fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fr->fd < 0)
		return -errno;
	if (ftruncate(fr->fd, (off_t)fr->capacity << PAGE_SHIFT) ||
	    fcntl(fr->fd, F_ADD_SEALS, SEALS) || fchmod(fr->fd, 0400))
		return -errno;
	return identity_read(fr, &st);
}

int frames_create(const char *name, uint32_t capacity, struct frames **out)
{
	struct frames *fr;
	int rc;

	if (!capacity)
		return -EINVAL;
	fr = calloc(1, sizeof(*fr));
	if (!fr)
		return -ENOMEM;
	fr->fd = -1;
	fr->capacity = capacity;
	rc = file_create(fr, name);
	if (!rc)
		rc = tables_create(fr);
	if (rc) {
		frames_destroy(fr);
		return rc;
	}
	*out = fr;
	return 0;
}

/* The owner may lift the mode for a moment; root need not, but may. */
static int reopen_writable(int fd, int *fd_out)
{
	char path[64];
	int rw, rc = 0;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fchmod(fd, 0600))
		return -errno;
	rw = open(path, O_RDWR | O_CLOEXEC);
	if (rw < 0)
		rc = -errno;
	if (fchmod(fd, 0400) && !rc)
		rc = -errno;
	if (rc && rw >= 0)
		close(rw);
	*fd_out = rw;
	return rc;
}

/* Nothing of the file is touched before it is known to be ours. */
static int file_judge(int fd, dev_t dev, ino_t ino, uint32_t *capacity_out)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	if (st.st_dev != dev || st.st_ino != ino || !S_ISREG(st.st_mode))
		return -ESTALE;
	if (st.st_uid != geteuid() || fcntl(fd, F_GET_SEALS) != SEALS)
		return -EPERM;
	if (st.st_size <= 0 || st.st_size >> PAGE_SHIFT >= UINT32_MAX)
		return -ESTALE;
	*capacity_out = (uint32_t)(st.st_size >> PAGE_SHIFT);
	return 0;
}

static int unknown_mark(struct frames *fr, uint64_t from, uint64_t to)
{
	const struct frame unknown = {.state = FRAME_UNKNOWN};
	int rc;

	for (; from < to; from++) {
		rc = record_insert(fr, (uint32_t)from, &unknown);
		if (rc)
			return rc;
		fr->unknown++;
		fr->high = (uint32_t)from + 1;
	}
	return 0;
}

/* A frame is written before it is ever granted: what has no data is free. */
static int content_find(struct frames *fr)
{
	off_t data, hole = 0;
	int rc;

	for (;;) {
		data = lseek(fr->fd, hole, SEEK_DATA);
		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		hole = lseek(fr->fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		rc = unknown_mark(fr, (uint64_t)data >> PAGE_SHIFT,
				  ((uint64_t)hole + PAGE_BYTES - 1) >>
					  PAGE_SHIFT);
		if (rc)
			return rc;
	}
}

int frames_adopt(int fd, dev_t dev, ino_t ino, struct frames **out)
{
	struct frames *fr;
	struct stat st;
	int rc;

	fr = calloc(1, sizeof(*fr));
	if (!fr)
		return -ENOMEM;
	fr->fd = -1;
	rc = file_judge(fd, dev, ino, &fr->capacity);
	if (!rc)
		rc = reopen_writable(fd, &fr->fd);
	if (!rc)
		rc = identity_read(fr, &st);
	if (!rc)
		rc = tables_create(fr);
	if (!rc)
		rc = content_find(fr);
	if (rc) {
		frames_destroy(fr);
		return rc;
	}
	*out = fr;
	return 0;
}

static void records_free(struct frames *fr)
{
	uint32_t block;

	for (block = 0; block <= fr->high / WORD_BITS; block++)
		free(fr->block[block]);
	munmap(fr->block, blocks_bytes(fr->capacity));
}

void frames_destroy(struct frames *fr)
{
	if (!fr)
		return;
	if (fr->block) {
		records_free(fr);
		munmap(fr->used, map_bytes(fr->capacity));
		munmap(fr->stale, map_bytes(fr->capacity));
		munmap(fr->reserved, map_bytes(fr->capacity / WORD_BITS));
	}
	if (fr->fd >= 0)
		close(fr->fd);
	free(fr);
}

int frames_fd_open(const struct frames *fr, int *fd_out)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fr->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	*fd_out = fd;
	return 0;
}

void frames_identity(const struct frames *fr, dev_t *dev_out, ino_t *ino_out)
{
	*dev_out = fr->dev;
	*ino_out = fr->ino;
}

static uint64_t holes(const struct frames *fr)
{
	return fr->high - fr->live - fr->pending - fr->unknown;
}

/* 64 free frames in a row, near after the cursor. */
static bool run_find(struct frames *fr, uint32_t *out)
{
	uint32_t words = fr->high / WORD_BITS, w, n;

	if (fr->freed < WORD_BITS || !words)
		return false;
	fr->freed = 0;
	w = fr->cursor / WORD_BITS;
	for (n = 0; n < words && n < SCAN_WORDS; n++, w++) {
		if (w >= words)
			w = 0;
		if (!fr->used[w] && !bit_get(fr->reserved, w)) {
			*out = w * WORD_BITS;
			fr->freed = WORD_BITS; /* perhaps not the last */
			return true;
		}
	}
	return false;
}

/* Any free frame below high; there is one, also outside reserved blocks if
 * those are not wanted. */
static uint32_t hole_find(const struct frames *fr, bool reserved_too)
{
	uint32_t words = (fr->high + WORD_BITS - 1) / WORD_BITS;
	uint32_t w = fr->cursor / WORD_BITS, at;

	for (;; w++) {
		if (w >= words)
			w = 0;
		if (!~fr->used[w] ||
		    (!reserved_too && bit_get(fr->reserved, w)))
			continue;
		at = w * WORD_BITS + (uint32_t)__builtin_ctzll(~fr->used[w]);
		if (at < fr->high)
			return at;
	}
}

static int frame_pick(struct frames *fr, uint32_t *out)
{
	uint64_t free_frames = holes(fr) - fr->reserved_free;

	if (fr->cursor < fr->high && !bit_get(fr->used, fr->cursor) &&
	    !is_reserved(fr, fr->cursor))
		*out = fr->cursor;
	else if (run_find(fr, out))
		return 0;
	else if (fr->high < fr->capacity &&
		 (free_frames < HOLES_FEW || free_frames < fr->high / 4))
		*out = fr->high++;
	else if (free_frames || holes(fr))
		*out = hole_find(fr, !free_frames);
	else
		return -ENOSPC;
	return 0;
}

static int frame_take(struct frames *fr, uint64_t hash, uint32_t at)
{
	const struct frame pending = {.hash_low = (uint32_t)hash,
				      .hash_high = (uint16_t)(hash >> 32),
				      .state = FRAME_PENDING};
	int rc = record_insert(fr, at, &pending);

	if (rc)
		return rc;
	fr->reserved_free -= is_reserved(fr, at);
	fr->pending++;
	return 0;
}

int frames_alloc(struct frames *fr, uint64_t hash, uint32_t *frame_out)
{
	uint32_t at;
	int rc;

	rc = frame_pick(fr, &at);
	if (!rc)
		rc = frame_take(fr, hash, at);
	if (rc)
		return rc;
	fr->cursor = at + 1 < fr->capacity ? at + 1 : 0;
	*frame_out = at;
	return 0;
}

int frames_alloc_at(struct frames *fr, uint64_t hash, uint32_t frame)
{
	if (frame >= fr->high || bit_get(fr->used, frame))
		return -EBUSY;
	return frame_take(fr, hash, frame);
}

/* Whole, free and nobody's; beyond high: there, but not begun. */
static bool block_is_free(const struct frames *fr, uint32_t block)
{
	return (uint64_t)(block + 1) * WORD_BITS <= fr->capacity &&
	       !fr->used[block] && !bit_get(fr->reserved, block);
}

static int block_find(struct frames *fr, uint32_t near, uint32_t *block_out)
{
	uint32_t top = (fr->high + WORD_BITS - 1) / WORD_BITS, at;

	if (near <= top && block_is_free(fr, near))
		*block_out = near;
	else if (run_find(fr, &at))
		*block_out = at / WORD_BITS;
	else if (block_is_free(fr, top))
		*block_out = top;
	else
		return -ENOSPC;
	return 0;
}

int frames_block_reserve(struct frames *fr, uint32_t near, uint32_t *block_out)
{
	int rc = block_find(fr, near, block_out);
	uint32_t end;

	if (rc)
		return rc;
	end = (*block_out + 1) * WORD_BITS;
	if (fr->high < end)
		fr->high = end;
	bit_set(fr->reserved, *block_out);
	fr->reserved_free += WORD_BITS;
	return 0;
}

void frames_block_release(struct frames *fr, uint32_t block)
{
	bit_clear(fr->reserved, block);
	fr->reserved_free -=
		WORD_BITS - (unsigned)__builtin_popcountll(fr->used[block]);
	fr->freed += WORD_BITS; /* worth a search again */
}

static void stale_clear(struct frames *fr, uint32_t frame)
{
	if (!bit_get(fr->stale, frame))
		return;
	bit_clear(fr->stale, frame);
	fr->stale_count--;
}

int frames_fill(struct frames *fr, uint32_t frame, const void *pages,
		uint32_t count)
{
	size_t bytes = (size_t)count << PAGE_SHIFT;
	ssize_t n;

	assert(frames_state(fr, frame) == FRAME_PENDING);
	do {
		n = pwrite(fr->fd, pages, bytes, (off_t)frame << PAGE_SHIFT);
	} while (n < 0 && errno == EINTR);
	if (n != (ssize_t)bytes)
		return n < 0 ? -errno : -ENOSPC;
	return 0;
}

void frames_begin(struct frames *fr, uint32_t frame, uint32_t refs)
{
	struct frame *f = record_of(fr, frame);

	assert(f->state == FRAME_PENDING && refs);
	stale_clear(fr, frame);
	f->state = FRAME_LIVE;
	f->word = refs;
	fr->pending--;
	fr->live++;
	fr->refs += refs;
}

int frames_write(struct frames *fr, uint32_t frame, const void *page,
		 uint32_t refs)
{
	int rc = frames_fill(fr, frame, page, 1);

	if (!rc)
		frames_begin(fr, frame, refs);
	return rc;
}

void frames_claim(struct frames *fr, uint32_t frame, uint64_t hash,
		  uint32_t refs)
{
	struct frame *f = record_of(fr, frame);

	assert(f->state == FRAME_UNKNOWN && refs);
	*f = (struct frame){.word = refs,
			    .hash_low = (uint32_t)hash,
			    .hash_high = (uint16_t)(hash >> 32),
			    .state = FRAME_LIVE};
	fr->unknown--;
	fr->live++;
	fr->refs += refs;
}

int frames_read(const struct frames *fr, uint32_t frame, void *page_out)
{
	ssize_t n;

	do {
		n = pread(fr->fd, page_out, PAGE_BYTES,
			  (off_t)frame << PAGE_SHIFT);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return n == (ssize_t)PAGE_BYTES ? 0 : -EIO;
}

/* had_content: the file still holds a page there. */
static void frame_release(struct frames *fr, uint32_t frame, bool had_content)
{
	record_remove(fr, frame);
	fr->reserved_free += is_reserved(fr, frame);
	fr->freed++;
	if (had_content && !bit_get(fr->stale, frame)) {
		bit_set(fr->stale, frame);
		fr->stale_count++;
	}
}

void frames_free(struct frames *fr, uint32_t frame)
{
	enum frame_state state = frames_state(fr, frame);
	bool unknown = state == FRAME_UNKNOWN;

	assert(unknown || state == FRAME_PENDING);
	if (unknown)
		fr->unknown--;
	else
		fr->pending--;
	frame_release(fr, frame, unknown);
}

int frames_ref(struct frames *fr, uint32_t frame, uint32_t refs)
{
	struct frame *f = record_of(fr, frame);

	assert(f->state == FRAME_LIVE);
	if (refs > UINT32_MAX - f->word)
		return -EOVERFLOW;
	f->word += refs;
	fr->refs += refs;
	return 0;
}

bool frames_unref(struct frames *fr, uint32_t frame, uint32_t refs)
{
	struct frame *f = record_of(fr, frame);

	assert(f->state == FRAME_LIVE && refs <= f->word);
	f->word -= refs;
	fr->refs -= refs;
	if (f->word)
		return false;
	fr->live--;
	frame_release(fr, frame, true);
	return true;
}

enum frame_state frames_state(const struct frames *fr, uint32_t frame)
{
	if (frame >= fr->high || !bit_get(fr->used, frame))
		return FRAME_FREE;
	return (enum frame_state)record_of(fr, frame)->state;
}

uint64_t frames_hash(const struct frames *fr, uint32_t frame)
{
	const struct frame *f = record_of(fr, frame);

	return f->hash_low | (uint64_t)f->hash_high << 32;
}

uint32_t frames_word(const struct frames *fr, uint32_t frame)
{
	return record_of(fr, frame)->word;
}

void frames_word_set(struct frames *fr, uint32_t frame, uint32_t word)
{
	struct frame *f = record_of(fr, frame);

	assert(f->state == FRAME_PENDING);
	f->word = word;
}

uint64_t frames_unknown_free(struct frames *fr)
{
	uint64_t n = 0;
	uint32_t i;

	for (i = 0; i < fr->high && fr->unknown; i++)
		if (frames_state(fr, i) == FRAME_UNKNOWN) {
			frames_free(fr, i);
			n++;
		}
	return n;
}

static void run_punch(struct frames *fr, uint32_t from, uint32_t to)
{
	uint32_t i;

	if (fallocate(fr->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)from << PAGE_SHIFT,
		      (off_t)(to - from) << PAGE_SHIFT))
		return; /* stays stale: used again, or tried again */
	for (i = from; i < to; i++)
		stale_clear(fr, i);
	fr->punched += to - from;
}

void frames_trim(struct frames *fr)
{
	uint32_t i = 0, end;

	while (fr->stale_count && i < fr->high) {
		if (!(i % WORD_BITS) && !fr->stale[i / WORD_BITS]) {
			i += WORD_BITS;
			continue;
		}
		for (end = i; end < fr->high && bit_get(fr->stale, end);)
			end++;
		if (end > i)
			run_punch(fr, i, end);
		i = end > i ? end : i + 1;
	}
}

void frames_stats(const struct frames *fr, struct frames_stats *out)
{
	*out = (struct frames_stats){
		.capacity = fr->capacity,
		.live = fr->live,
		.pending = fr->pending,
		.unknown = fr->unknown,
		.refs = fr->refs,
		.file_bytes = (fr->live + fr->unknown + fr->stale_count)
			      << PAGE_SHIFT,
		.bytes = sizeof(*fr) + fr->record_bytes +
			 fr->high / WORD_BITS * 8 + fr->high / 4,
		.punched = fr->punched,
	};
}
