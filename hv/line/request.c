/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A request and its result. Ids, flags and indexes go to the store as they
 * are: it refuses what it does not know, and a client reaches nothing but its
 * own pools and the shared ones it was authorised for. Checked here is only
 * what the store has no call for.
 *
 * The slot is handed to the store as it lies in the guest's memory. The store
 * reads it once, with no lock held, and writes it without reading back what
 * decides anything: a guest that changes it meanwhile gets garbage of its own
 * making. So no page is copied for the sake of the line.
 */
#include "hv/line/request.h"

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

static int put(struct tmem_client *client, const struct line_entry *e,
	       const uint8_t *slot, struct line_counts *count)
{
	struct tmem_oid oid = oid_of(e);
	int rc = tmem_put(client, e->pool, &oid, e->index, slot);

	count->puts++;
	count->puts_refused += rc != 0;
	return rc;
}

static int get(struct tmem_client *client, const struct line_entry *e,
	       uint8_t *slot, struct line_counts *count)
{
	struct tmem_oid oid = oid_of(e);
	int rc = tmem_get(client, e->pool, &oid, e->index, slot);

	count->gets++;
	count->gets_missed += rc != 0;
	return rc;
}

static int flush_range(struct tmem_client *client, const struct line_entry *e)
{
	struct tmem_oid oid = oid_of(e);

	/* An index is 32 bits: a range does not wrap. */
	if (e->count > LINE_FLUSH_MAX ||
	    (uint64_t)e->index + e->count > (uint64_t)UINT32_MAX + 1)
		return -EINVAL;
	for (uint32_t i = 0; i < e->count; i++)
		tmem_flush_page(client, e->pool, &oid, e->index + i);
	return 0;
}

static int flush(struct tmem_client *client, const struct line_entry *e,
		 struct line_counts *count)
{
	struct tmem_oid oid = oid_of(e);

	count->flushes++;
	if (e->op == LINE_OP_FLUSH_RANGE)
		return flush_range(client, e);
	if (e->op == LINE_OP_FLUSH_OBJECT)
		return tmem_flush_object(client, e->pool, &oid);
	return tmem_flush_page(client, e->pool, &oid, e->index);
}

int32_t request_do(struct tmem_client *client, const struct line_entry *entry,
		   uint8_t *slot, struct line_counts *count)
{
	int rc;

	count->requests++;
	switch (entry->op) {
	case LINE_OP_NOP:
		return 0;
	case LINE_OP_POOL_CREATE:
		rc = pool_create(client, entry);
		break;
	case LINE_OP_POOL_DESTROY:
		rc = tmem_pool_destroy(client, entry->pool);
		break;
	case LINE_OP_PUT:
		rc = put(client, entry, slot, count);
		break;
	case LINE_OP_GET:
		rc = get(client, entry, slot, count);
		break;
	case LINE_OP_FLUSH_PAGE:
	case LINE_OP_FLUSH_OBJECT:
	case LINE_OP_FLUSH_RANGE:
		rc = flush(client, entry, count);
		break;
	default:
		rc = -EINVAL;
	}
	count->rejects += rc == -EINVAL;
	return result_of(rc);
}
