/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The frame pool of one domain: a sparse memfd that hvd writes and agents map.
 * Frames are named by their number; each has a content hash and a count of
 * references. Not thread safe.
 */
#ifndef SHARING_FRAMES_H
#define SHARING_FRAMES_H

#include "hv/base/types.h"

#include <sys/types.h>

struct frames;

enum frame_state {
	FRAME_FREE,
	FRAME_PENDING, /* wanted, not written yet; its word is the owner's */
	FRAME_LIVE,    /* written; word: references, at least one */
	FRAME_UNKNOWN, /* of a pool taken over: written, holder not heard of */
};

struct frames_stats {
	uint64_t capacity, live, pending, unknown;
	uint64_t refs;	     /* over all live frames */
	uint64_t file_bytes; /* of the pool's file that hold memory */
	uint64_t bytes;	     /* of our own tables */
	uint64_t punched;    /* frames given back to the host, ever */
};

MUST_CHECK int frames_create(const char *name, uint32_t capacity,
			     struct frames **out);
/*
 * Takes a pool over from fd, a read-only descriptor of it (not kept), that
 * lies at dev and ino. All frames with content become FRAME_UNKNOWN. -ESTALE:
 * another file; -EPERM: not sealed as ours are.
 */
MUST_CHECK int frames_adopt(int fd, dev_t dev, ino_t ino, struct frames **out);
void frames_destroy(struct frames *fr);

/* A new read-only descriptor for an agent; the caller closes it. */
MUST_CHECK int frames_fd_open(const struct frames *fr, int *fd_out);
void frames_identity(const struct frames *fr, dev_t *dev_out, ino_t *ino_out);

/* A free frame becomes pending. Successive calls give successive frames where
 * they can. -ENOSPC: the pool is full. */
MUST_CHECK int frames_alloc(struct frames *fr, uint64_t hash,
			    uint32_t *frame_out);
/* This free frame becomes pending. -EBUSY: it is not free. */
MUST_CHECK int frames_alloc_at(struct frames *fr, uint64_t hash,
			       uint32_t frame);

/*
 * A block is 64 consecutive frames, from block * 64 on. A reserved one is given
 * out by frames_alloc_at, and by frames_alloc only where nothing else is left.
 * near: the block to reserve if it is free. -ENOSPC: no block is free.
 */
MUST_CHECK int frames_block_reserve(struct frames *fr, uint32_t near,
				    uint32_t *block_out);
/* Frames of it that are in use stay as they are. */
void frames_block_release(struct frames *fr, uint32_t block);

/* Writes count pending frames from `frame` on; all of them or an error. */
MUST_CHECK int frames_fill(struct frames *fr, uint32_t frame, const void *pages,
			   uint32_t count);
/* A pending frame that was filled becomes live with refs references. */
void frames_begin(struct frames *fr, uint32_t frame, uint32_t refs);
/* Both, for one. */
MUST_CHECK int frames_write(struct frames *fr, uint32_t frame, const void *page,
			    uint32_t refs);
/* An unknown frame becomes live with refs references and this hash. */
void frames_claim(struct frames *fr, uint32_t frame, uint64_t hash,
		  uint32_t refs);
MUST_CHECK int frames_read(const struct frames *fr, uint32_t frame,
			   void *page_out);
/* Pending or unknown: nobody may have it mapped. */
void frames_free(struct frames *fr, uint32_t frame);

MUST_CHECK int frames_ref(struct frames *fr, uint32_t frame, uint32_t refs);
/* True: that was the last reference, and the frame is free now. */
bool frames_unref(struct frames *fr, uint32_t frame, uint32_t refs);

enum frame_state frames_state(const struct frames *fr, uint32_t frame);
uint64_t frames_hash(const struct frames *fr, uint32_t frame);
/* What a pending frame's owner keeps with it. */
uint32_t frames_word(const struct frames *fr, uint32_t frame);
void frames_word_set(struct frames *fr, uint32_t frame, uint32_t word);

/* Frees all unknown frames; returns how many. */
uint64_t frames_unknown_free(struct frames *fr);
/* Gives the memory of freed frames back to the host. */
void frames_trim(struct frames *fr);
void frames_stats(const struct frames *fr, struct frames_stats *out);

#endif
