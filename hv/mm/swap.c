/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The swap file (see swap.h). Writes go out in batches through one io_uring, so
 * that a disk sees a queue; the depth is bounded by SWAP_BATCH. A read is one
 * pread: it is on a fault's path, alone, and a ring adds only a lock.
 *
 * Slots: a bitmap, next-fit, so that pages taken together lie together.
 *
 *   slots taken = pages SWAPPED + pages of the batch being written
 */
#include "hv/mm/swap.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

struct swap {
	int fd;
	uint64_t slots;
	uint64_t next;
	uint64_t *taken;      /* bitmap */
	pthread_mutex_t lock; /* of next, taken */
	bool broken; /* entries were left in the ring: never use it again */
	struct io_uring ring;
};

int swap_create(const char *path, uint64_t bytes, struct swap **out)
{
	struct swap *sw = calloc(1, sizeof(*sw));
	int rc;

	if (!sw)
		return -ENOMEM;
	sw->slots = bytes >> PAGE_SHIFT;
	sw->taken = calloc(sw->slots / 64 + 1, sizeof(*sw->taken));
	rc = -ENOMEM;
	if (!sw->taken)
		goto free_swap;
	sw->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	rc = -errno;
	if (sw->fd < 0)
		goto free_taken;
	unlink(path);
	rc = io_uring_queue_init(SWAP_BATCH, &sw->ring, 0);
	if (rc < 0)
		goto close_fd;
	pthread_mutex_init(&sw->lock, NULL);
	*out = sw;
	return 0;

close_fd:
	close(sw->fd);
free_taken:
	free(sw->taken);
free_swap:
	free(sw);
	return rc;
}

void swap_destroy(struct swap *sw)
{
	if (!sw)
		return;
	io_uring_queue_exit(&sw->ring);
	pthread_mutex_destroy(&sw->lock);
	close(sw->fd);
	free(sw->taken);
	free(sw);
}

static bool slot_is_taken(const struct swap *sw, uint64_t slot)
{
	return sw->taken[slot / 64] >> (slot % 64) & 1;
}

/* -ENOSPC when every slot is taken. */
static int slot_alloc(struct swap *sw, uint64_t *out)
{
	int rc = -ENOSPC;

	pthread_mutex_lock(&sw->lock);
	for (uint64_t tried = 0; tried < sw->slots; tried++) {
		uint64_t slot = sw->next;

		sw->next = slot + 1 < sw->slots ? slot + 1 : 0;
		if (slot_is_taken(sw, slot))
			continue;
		sw->taken[slot / 64] |= (uint64_t)1 << (slot % 64);
		*out = slot;
		rc = 0;
		break;
	}
	pthread_mutex_unlock(&sw->lock);
	return rc;
}

void swap_free(struct swap *sw, uint64_t slot)
{
	pthread_mutex_lock(&sw->lock);
	sw->taken[slot / 64] &= ~((uint64_t)1 << (slot % 64));
	pthread_mutex_unlock(&sw->lock);
}

static size_t slots_alloc(struct swap *sw, size_t n, uint64_t *slot)
{
	size_t got = 0;

	while (got < n && slot_alloc(sw, &slot[got]) == 0)
		got++;
	return got;
}

static void batch_queue(struct swap *sw, const uint8_t *pages, size_t n,
			const uint64_t *slot)
{
	for (size_t i = 0; i < n; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&sw->ring);

		io_uring_prep_write(sqe, sw->fd, pages + i * PAGE_BYTES,
				    PAGE_BYTES, slot[i] << PAGE_SHIFT);
		io_uring_sqe_set_data64(sqe, i);
	}
}

/* Waits for all n, whatever fails: the buffers are the caller's. */
static int batch_wait(struct swap *sw, size_t n, bool *good)
{
	struct io_uring_cqe *cqe;
	int first_error = 0;

	for (size_t done = 0; done < n; done++) {
		int r;

		do
			r = io_uring_wait_cqe(&sw->ring, &cqe);
		while (r == -EINTR);
		if (r < 0)
			return r;
		good[cqe->user_data] = cqe->res == (int)PAGE_BYTES;
		if (!good[cqe->user_data] && !first_error)
			first_error = cqe->res < 0 ? cqe->res : -ENOSPC;
		io_uring_cqe_seen(&sw->ring, cqe);
	}
	return first_error;
}

int swap_write(struct swap *sw, const uint8_t *pages, size_t n,
	       uint64_t *slot_out)
{
	bool good[SWAP_BATCH] = {false};
	size_t kept = 0;
	int rc;

	if (sw->broken)
		return -EIO;
	n = slots_alloc(sw, min_u64(n, SWAP_BATCH), slot_out);
	if (!n)
		return -ENOSPC;
	batch_queue(sw, pages, n, slot_out);
	rc = io_uring_submit_and_wait(&sw->ring, (unsigned)n);
	sw->broken = rc != (int)n;
	if (rc >= 0)
		rc = batch_wait(sw, (size_t)rc, good);
	while (kept < n && good[kept])
		kept++;
	for (size_t i = kept; i < n; i++)
		swap_free(sw, slot_out[i]);
	return kept ? (int)kept : rc < 0 ? rc : -EIO;
}

int swap_read(struct swap *sw, uint64_t slot, void *page_out)
{
	ssize_t r;

	do
		r = pread(sw->fd, page_out, PAGE_BYTES,
			  (off_t)(slot << PAGE_SHIFT));
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	return r == (ssize_t)PAGE_BYTES ? 0 : -EIO;
}
