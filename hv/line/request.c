/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A request and its result. Ids, flags and indexes go to the store as they
 * are: it refuses what it does not know, and a client reaches nothing but its
 * own pools and the shared ones it was authorised for. Checked here is only
 * what the store has no call for. What is about shared pools goes over the
 * channel, where there is one: hvd, at its other end, does it here, too.
 *
 * The slot is handed to the store as it lies in the guest's memory. The store
 * reads it once, with no lock held, and writes it without reading back what
 * decides anything: a guest that changes it meanwhile gets garbage of its own
 * making. So no page is copied for the sake of the line.
 */
#include "hv/line/request.h"

#include "hv/line/channel.h"
#include "tmem/tmem.h"

#include <errno.h>
#include <string.h>

_Static_assert((int)LINE_POOL_EPHEMERAL == TMEM_EPHEMERAL, "flags are passed");
_Static_assert((int)LINE_POOL_PERSISTENT == TMEM_PERSISTENT, "flags are "
							     "passed");
_Static_assert((int)LINE_POOL_SHARED == TMEM_SHARED, "flags are passed");
_Static_assert(LINE_PAGE_BYTES == TMEM_PAGE_BYTES, "slots are pages");

/* The guest's numbers are Linux's, whatever this host calls them. */
static int32_t result_of(int rc)
{
	if (rc >= 0)
		return rc;
	switch (-rc) {
	case ENOENT:
		return LINE_ENOENT;
	case ENOMEM:
		return LINE_ENOMEM;
	case EACCES:
		return LINE_EACCES;
	case EBUSY:
		return LINE_EBUSY;
	case ENOSPC:
		return LINE_ENOSPC;
	case EUCLEAN:
		return LINE_EUCLEAN;
	default:
		return LINE_EINVAL;
	}
}

static struct tmem_oid oid_of(const struct line_entry *e)
{
	return (struct tmem_oid){{e->oid[0], e->oid[1], e->oid[2]}};
}

static int pool_create(struct tmem_client *client, const struct line_entry *e)
{
	uint8_t uuid[16];

	memcpy(uuid, e->oid, sizeof(uuid));
	return tmem_pool_create(client, (uint32_t)e->pool, uuid);
}

static int flush_range(struct tmem_client *client, const struct line_entry *e)
{
	struct tmem_oid oid = oid_of(e);

	for (uint32_t i = 0; i < e->count; i++)
		tmem_flush_page(client, e->pool, &oid, e->index + i);
	return 0;
}

static int store_do(struct tmem_client *client, const struct line_entry *e,
		    uint8_t *slot)
{
	struct tmem_oid oid = oid_of(e);

	switch (e->op) {
	case LINE_OP_NOP:
		return 0;
	case LINE_OP_POOL_CREATE:
		return pool_create(client, e);
	case LINE_OP_POOL_DESTROY:
		return tmem_pool_destroy(client, e->pool);
	case LINE_OP_PUT:
		return tmem_put(client, e->pool, &oid, e->index, slot);
	case LINE_OP_GET:
		return tmem_get(client, e->pool, &oid, e->index, slot);
	case LINE_OP_FLUSH_PAGE:
		return tmem_flush_page(client, e->pool, &oid, e->index);
	case LINE_OP_FLUSH_OBJECT:
		return tmem_flush_object(client, e->pool, &oid);
	case LINE_OP_FLUSH_RANGE:
		return flush_range(client, e);
	default:
		return -EINVAL;
	}
}

static void request_count(const struct line_entry *e, int rc,
			  struct line_counts *count)
{
	count->requests++;
	count->rejects += rc == -EINVAL;
	switch (e->op) {
	case LINE_OP_PUT:
		count->puts++;
		count->puts_refused += rc != 0;
		break;
	case LINE_OP_GET:
		count->gets++;
		count->gets_missed += rc != 0;
		break;
	case LINE_OP_FLUSH_PAGE:
	case LINE_OP_FLUSH_OBJECT:
	case LINE_OP_FLUSH_RANGE:
		count->flushes++;
		break;
	}
}

int32_t request_do(struct tmem_client *client, struct channel *channel,
		   const struct line_entry *entry, uint8_t *slot,
		   struct line_counts *count)
{
	int rc;

	if (entry->op == LINE_OP_FLUSH_RANGE &&
	    !request_range_fits(entry, LINE_FLUSH_MAX))
		rc = -EINVAL;
	else if (channel && channel_wants(entry))
		rc = channel_do(channel, entry, slot);
	else
		rc = store_do(client, entry, slot);
	request_count(entry, rc, count);
	return result_of(rc);
}
