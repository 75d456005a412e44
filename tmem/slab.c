/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Free cells of a block are linked through their own first two bytes. No lock
 * here: a slab belongs to a shard. One empty block is kept while the slab is
 * large, so that a key put and flushed in turn does not cost a call to the
 * kernel each time; none when the budget is tight.
 */
#include "tmem/slab.h"

#include <string.h>

#define KEEP_FROM_BLOCKS 16

void slab_init(struct slab *slab, struct arena *arena, size_t cell_bytes,
	       unsigned kind, unsigned shard)
{
	memset(slab, 0, sizeof(*slab));
	slab->arena = arena;
	slab->cell_bytes = (uint16_t)cell_bytes;
	slab->kind = (uint16_t)kind;
	slab->shard = (uint16_t)shard;
}

static unsigned cells_per_block(const struct slab *slab)
{
	return (SLAB_BLOCK_BYTES - sizeof(struct slab_head)) / slab->cell_bytes;
}

static struct slab_head *head_at(const struct slab *slab, uint32_t block)
{
	return (struct slab_head *)(void *)arena_block_at(slab->arena, block);
}

static uint16_t *cell_link(struct slab_head *head, const struct slab *slab,
			   unsigned cell)
{
	char *cells = (char *)(head + 1);

	return (uint16_t *)(void *)(cells + (size_t)cell * slab->cell_bytes);
}

static void partial_push(struct slab *slab, uint32_t block)
{
	struct slab_head *head = head_at(slab, block);

	head->prev = 0;
	head->next = slab->partial;
	if (head->next)
		head_at(slab, head->next - 1)->prev = block + 1;
	slab->partial = block + 1;
}

static void partial_remove(struct slab *slab, uint32_t block)
{
	struct slab_head *head = head_at(slab, block);

	if (head->prev)
		head_at(slab, head->prev - 1)->next = head->next;
	else
		slab->partial = head->next;
	if (head->next)
		head_at(slab, head->next - 1)->prev = head->prev;
}

static int block_add(struct slab *slab)
{
	struct slab_head *head;
	uint32_t block;
	unsigned n = cells_per_block(slab);
	int rc = arena_block_get(slab->arena, &block);

	if (rc)
		return rc;
	head = head_at(slab, block);
	memset(head, 0, sizeof(*head));
	head->kind = slab->kind;
	head->shard = slab->shard;
	head->free = 1;
	for (unsigned c = 0; c < n; c++)
		*cell_link(head, slab, c) = c + 1 < n ? (uint16_t)(c + 2) : 0;
	slab->blocks++;
	partial_push(slab, block);
	return 0;
}

int slab_get(struct slab *slab, uint32_t *unit_out)
{
	struct slab_head *head;
	uint16_t *cell;
	unsigned n;
	int rc;

	if (!slab->partial) {
		rc = block_add(slab);
		if (rc)
			return rc;
	}
	head = head_at(slab, slab->partial - 1);
	n = head->free - 1u;
	cell = cell_link(head, slab, n);
	head->free = *cell;
	head->used++;
	slab->cells++;
	*unit_out = (slab->partial - 1) * (uint32_t)SLAB_BLOCK_UNITS +
		    (uint32_t)((sizeof(*head) + n * slab->cell_bytes) >>
			       ARENA_UNIT_SHIFT);
	if (!head->free)
		partial_remove(slab, slab->partial - 1);
	memset(cell, 0, slab->cell_bytes);
	return 0;
}

static bool keeps_empty(const struct slab *slab, const struct slab_head *head)
{
	return slab->blocks >= KEEP_FROM_BLOCKS && !head->next && !head->prev &&
	       !budget_is_tight(slab->arena->budget);
}

void slab_put(struct slab *slab, uint32_t unit)
{
	uint32_t block = unit / (uint32_t)SLAB_BLOCK_UNITS;
	struct slab_head *head = head_at(slab, block);
	size_t at = ((size_t)(unit % SLAB_BLOCK_UNITS) << ARENA_UNIT_SHIFT) -
		    sizeof(*head);
	unsigned n = (unsigned)(at / slab->cell_bytes);

	assert(head->kind == slab->kind && head->shard == slab->shard);
	if (!head->free)
		partial_push(slab, block);
	*cell_link(head, slab, n) = head->free;
	head->free = (uint16_t)(n + 1);
	slab->cells--;
	if (--head->used || keeps_empty(slab, head))
		return;
	partial_remove(slab, block);
	slab->blocks--;
	arena_block_put(slab->arena, block);
}
