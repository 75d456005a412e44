/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest RAM map: ranges of the VMM's memory that hold guest RAM, each cut
 * into 2 MiB chunks. The map only grows: a range that ends is marked dead and
 * its tables stay until the manager goes, so that lookups take no lock.
 *
 * The chunk is the unit of policy and of locking. Its lock protects the chunk
 * and the words of its pages. Lock order: release gate (core.h), chunk, then
 * what the store and the swap file lock inside. No two chunks at once.
 */
#ifndef HV_MM_MAP_H
#define HV_MM_MAP_H

#include "hv/base/host.h"
#include "hv/base/types.h"

#include <pthread.h>

#define MAP_RANGES 32

struct chunk {
	pthread_mutex_t lock;
	uint64_t trial_ns; /* since when its held pages are watched */
	uint16_t out;	   /* pages HELD, COMPRESSED or SWAPPED */
	uint16_t io;	   /* device writes in flight: no copy takes */
	uint16_t changed;  /* pages found changed by the last scan */
	uint16_t cold;	   /* pages worth taking, as the last scan saw it */
	uint16_t vmas;	   /* mappings inside, as the last scan saw it */
	uint16_t returned; /* held pages that came back since trial_ns */
	uint16_t ahead_at; /* where in it the next fault is expected */
	uint8_t ahead;	   /* pages read ahead last time: see ahead.c */
	uint8_t extended;  /* times its trial was */
	bool on_trial : 1; /* pages are HELD, or were until lately */
	bool managed : 1;
	bool registered : 1; /* with userfaultfd */
	bool pinned : 1;     /* by a device, for good */
	bool huge : 1;	     /* one huge page, as the last scan saw it */
};

struct range {
	gfn_t first;
	hva_t hva;
	size_t pages; /* whole chunks */
	bool dontfork;
	_Atomic bool live;
	uint64_t *word;
	struct chunk *chunk;
	uint8_t *held; /* as long as the range: pages on trial; or NULL */
};

struct map {
	const struct host_ops *host;
	struct range range[MAP_RANGES];
	_Atomic unsigned ranges;
	_Atomic size_t chunks; /* of all ranges, dead ones too */
	pthread_mutex_t grow;
};

/* One page, found. chunk is not locked. */
struct spot {
	struct range *range;
	struct chunk *chunk;
	size_t page; /* within the range */
};

void map_init(struct map *map, const struct host_ops *host);
void map_fini(struct map *map);

/* hva and pages on chunk borders. -EEXIST overlap; -ENOSPC; -ENOMEM. */
MUST_CHECK int map_add(struct map *map, hva_t hva, size_t pages, bool dontfork,
		       struct range **out);

/* False: not guest RAM (also: the range is dead). */
bool map_find_hva(struct map *map, hva_t hva, struct spot *out);
bool map_find_gfn(struct map *map, gfn_t gfn, struct spot *out);
/* The n-th chunk of all ranges; page: its first. */
bool map_find_chunk(struct map *map, size_t n, struct spot *out);

static inline hva_t range_hva(const struct range *r, size_t page)
{
	return (hva_t){r->hva.n + page * PAGE_BYTES};
}

static inline gfn_t range_gfn(const struct range *r, size_t page)
{
	return (gfn_t){r->first.n + page};
}

/* Memory of the map's own tables. */
size_t map_metadata(const struct map *map);

#endif
