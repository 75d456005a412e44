/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest RAM map (see map.h). A handful of ranges, so lookups walk an array:
 * a tree would be slower and need a lock. Publishing a range is one release
 * store of the count; readers see it whole or not at all.
 *
 * Tables are mapped, not malloc'ed: a page of words that no guest page uses
 * costs nothing.
 */
#include "hv/mm/map.h"

#include <errno.h>
#include <string.h>

void map_init(struct map *map, const struct host_ops *host)
{
	memset(map, 0, sizeof(*map));
	map->host = host;
	pthread_mutex_init(&map->grow, NULL);
}

static size_t word_bytes(size_t pages)
{
	return pages * sizeof(uint64_t);
}

static size_t chunk_bytes(size_t pages)
{
	return pages / CHUNK_PAGES * sizeof(struct chunk);
}

void map_fini(struct map *map)
{
	for (unsigned i = 0; i < map->ranges; i++) {
		struct range *r = &map->range[i];

		for (size_t c = 0; c < r->pages / CHUNK_PAGES; c++)
			pthread_mutex_destroy(&r->chunk[c].lock);
		map->host->unmap(r->chunk, chunk_bytes(r->pages));
		map->host->unmap(r->word, word_bytes(r->pages));
	}
	pthread_mutex_destroy(&map->grow);
}

static bool range_overlaps(const struct range *r, hva_t hva, size_t pages)
{
	return r->live && hva.n < r->hva.n + r->pages * PAGE_BYTES &&
	       r->hva.n < hva.n + pages * PAGE_BYTES;
}

static int range_init(struct map *map, struct range *r, hva_t hva, size_t pages,
		      bool dontfork)
{
	void *word, *chunk;
	int rc = map->host->map_anon(NULL, word_bytes(pages), &word);

	if (rc < 0)
		return rc;
	rc = map->host->map_anon(NULL, chunk_bytes(pages), &chunk);
	if (rc < 0) {
		map->host->unmap(word, word_bytes(pages));
		return rc;
	}
	*r = (struct range){
		.first = {map->chunks * CHUNK_PAGES},
		.hva = hva,
		.pages = pages,
		.dontfork = dontfork,
		.word = word,
		.chunk = chunk,
	};
	for (size_t c = 0; c < pages / CHUNK_PAGES; c++) {
		pthread_mutex_init(&r->chunk[c].lock, NULL);
		r->chunk[c].managed = true;
	}
	r->live = true;
	return 0;
}

int map_add(struct map *map, hva_t hva, size_t pages, bool dontfork,
	    struct range **out)
{
	unsigned n;
	int rc = 0;

	pthread_mutex_lock(&map->grow);
	n = map->ranges;
	for (unsigned i = 0; i < n; i++)
		if (range_overlaps(&map->range[i], hva, pages))
			rc = -EEXIST;
	if (!rc && n == MAP_RANGES)
		rc = -ENOSPC;
	if (!rc)
		rc = range_init(map, &map->range[n], hva, pages, dontfork);
	if (!rc) {
		*out = &map->range[n];
		map->chunks += pages / CHUNK_PAGES;
		map->ranges = n + 1;
	}
	pthread_mutex_unlock(&map->grow);
	return rc;
}

static bool spot_set(struct range *r, size_t page, struct spot *out)
{
	*out = (struct spot){r, &r->chunk[page >> CHUNK_SHIFT], page};
	return true;
}

bool map_find_hva(struct map *map, hva_t hva, struct spot *out)
{
	unsigned n = map->ranges;

	for (unsigned i = 0; i < n; i++) {
		struct range *r = &map->range[i];
		size_t page = (hva.n - r->hva.n) >> PAGE_SHIFT;

		if (hva.n >= r->hva.n && page < r->pages && r->live)
			return spot_set(r, page, out);
	}
	return false;
}

bool map_find_gfn(struct map *map, gfn_t gfn, struct spot *out)
{
	unsigned n = map->ranges;

	for (unsigned i = 0; i < n; i++) {
		struct range *r = &map->range[i];

		if (gfn.n >= r->first.n && gfn.n - r->first.n < r->pages)
			return r->live && spot_set(r, gfn.n - r->first.n, out);
	}
	return false;
}

bool map_find_chunk(struct map *map, size_t n, struct spot *out)
{
	return map_find_gfn(map, (gfn_t){n << CHUNK_SHIFT}, out);
}

size_t map_metadata(const struct map *map)
{
	size_t bytes = 0;
	unsigned n = map->ranges;

	for (unsigned i = 0; i < n; i++)
		bytes += word_bytes(map->range[i].pages) +
			 chunk_bytes(map->range[i].pages);
	return bytes;
}
