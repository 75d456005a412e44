/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The store's locks, and the order in which they nest. A lock of a rank may be
 * taken only while none of a higher rank is held; of the shards, which may be
 * held all at once, the lower number comes first. Sanitizer builds check it.
 *
 *   take      all ephemeral pages being taken at once
 *   clients   the list of clients, the shelves (many readers)
 *   client    pools and authorisations of one client
 *   shared    the list of shared pools, and who is in them
 *   shard     all keys of the shard: tables, objects, leaves, counters
 *   age       the ephemeral pages of one client, by age
 *   content   which pages are equal: a part of the index of contents
 *   class     the packed objects of one size, and their owners' words
 *   arena     which blocks are free
 *
 * None of them is ever held while a guest's page is touched.
 */
#ifndef TMEM_LOCK_H
#define TMEM_LOCK_H

#include "hv/base/types.h"

#include <assert.h>
#include <pthread.h>

enum lock_rank {
	LOCK_TAKE,
	LOCK_CLIENTS,
	LOCK_CLIENT,
	LOCK_SHARED,
	LOCK_SHARD,
	LOCK_AGE,
	LOCK_CONTENT,
	LOCK_CLASS,
	LOCK_ARENA,
	LOCK_RANKS
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOCK_CHECKED 1
#else
#define LOCK_CHECKED 0
#endif

#if LOCK_CHECKED
extern _Thread_local unsigned lock_held[LOCK_RANKS];

static inline void lock_note_take(enum lock_rank rank)
{
	for (unsigned r = rank + 1; r < LOCK_RANKS; r++)
		assert(lock_held[r] == 0);
	assert(rank == LOCK_SHARD || lock_held[rank] == 0);
	lock_held[rank]++;
}

static inline void lock_note_drop(enum lock_rank rank)
{
	assert(lock_held[rank] > 0);
	lock_held[rank]--;
}

#define LOCK_ASSERT(rank) assert(lock_held[rank] > 0)
#else
static inline void lock_note_take(enum lock_rank rank)
{
	(void)rank;
}

static inline void lock_note_drop(enum lock_rank rank)
{
	(void)rank;
}

#define LOCK_ASSERT(rank) ((void)0)
#endif

struct lock {
	pthread_mutex_t mutex;
	enum lock_rank rank;
};

static inline void lock_init(struct lock *lock, enum lock_rank rank)
{
	pthread_mutex_init(&lock->mutex, NULL);
	lock->rank = rank;
}

static inline void lock_fini(struct lock *lock)
{
	pthread_mutex_destroy(&lock->mutex);
}

static inline void lock_take(struct lock *lock)
{
	lock_note_take(lock->rank);
	pthread_mutex_lock(&lock->mutex);
}

static inline void lock_drop(struct lock *lock)
{
	lock_note_drop(lock->rank);
	pthread_mutex_unlock(&lock->mutex);
}

#endif
