/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client's ephemeral pages by age: a list through the links of their leaves,
 * from the oldest put to the newest. It crosses shards, so it has a lock of its
 * own. A page is in the list exactly while its word is not 0; whoever holds the
 * lock may therefore trust the leaf of any page it meets there to exist, and
 * the shelf that it is on to be the store's.
 */
#include "tmem/store.h"

#include <errno.h>

static struct link *link_at(const struct tmem *tm, uint32_t word)
{
	const struct shelf *shelf = tm->shelf[KIND_EPHEMERAL];
	uint32_t leaf = word_leaf(shelf, word);
	struct leaf_ephemeral *le = arena_unit_at(&shelf->tables, leaf);

	return &le->link[word - word_unit(leaf, 0)];
}

static void list_append(struct tmem_client *cl, uint32_t word)
{
	struct link *link = link_at(cl->tm, word);

	link->older = cl->newest;
	link->newer = 0;
	if (cl->newest)
		link_at(cl->tm, cl->newest)->newer = word;
	else
		cl->oldest = word;
	cl->newest = word;
	cl->aged++;
}

static void list_remove(struct tmem_client *cl, uint32_t word)
{
	const struct link *link = link_at(cl->tm, word);

	if (link->older)
		link_at(cl->tm, link->older)->newer = link->newer;
	else
		cl->oldest = link->newer;
	if (link->newer)
		link_at(cl->tm, link->newer)->older = link->older;
	else
		cl->newest = link->older;
	cl->aged--;
}

void age_append(struct tmem_client *cl, uint32_t word)
{
	LOCK_ASSERT(LOCK_SHARD);
	lock_take(&cl->age_lock);
	list_append(cl, word);
	lock_drop(&cl->age_lock);
}

void age_remove(struct tmem_client *cl, uint32_t word)
{
	LOCK_ASSERT(LOCK_SHARD);
	lock_take(&cl->age_lock);
	list_remove(cl, word);
	lock_drop(&cl->age_lock);
}

void age_renew(struct tmem_client *cl, uint32_t word)
{
	LOCK_ASSERT(LOCK_SHARD);
	lock_take(&cl->age_lock);
	list_remove(cl, word);
	list_append(cl, word);
	lock_drop(&cl->age_lock);
}

void age_clear(struct tmem_client *cl)
{
	LOCK_ASSERT(LOCK_SHARD);
	lock_take(&cl->age_lock);
	cl->oldest = 0;
	cl->newest = 0;
	cl->aged = 0;
	lock_drop(&cl->age_lock);
}

uint32_t age_oldest(struct tmem_client *cl, unsigned *shard_out)
{
	uint32_t word;

	lock_take(&cl->age_lock);
	word = cl->oldest;
	if (word)
		*shard_out =
			slab_head_of(&cl->tm->shelf[KIND_EPHEMERAL]->tables,
				     word)
				->shard;
	lock_drop(&cl->age_lock);
	return word;
}

int age_check(struct tmem_client *cl)
{
	uint64_t n = 0;
	uint32_t older = 0;
	uint32_t word;

	lock_take(&cl->age_lock);
	for (word = cl->oldest; word && n < cl->aged; n++) {
		if (link_at(cl->tm, word)->older != older)
			break;
		older = word;
		word = link_at(cl->tm, word)->newer;
	}
	if (n != cl->aged || older != cl->newest)
		word = 1;
	lock_drop(&cl->age_lock);
	return word ? -EUCLEAN : 0;
}
