/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The denser codec of cold guest RAM: zstd, for a store that brings LZ4 along
 * (struct tmem_dense_ops). A page of a real desktop takes 0.77 of what LZ4
 * makes of it, at twice the time in and four times the time out.
 */
#ifndef HV_MM_DENSE_H
#define HV_MM_DENSE_H

#include "hv/base/host.h"
#include "tmem/tmem.h"

struct dense;

/*
 * readers: how many pages are decoded at once; more wait. All memory it will
 * ever need is taken now. -ENOMEM; -ENOSYS: this libzstd does not do.
 */
MUST_CHECK int dense_create(const struct host_ops *host, unsigned readers,
			    struct dense **out);

/* NULL is allowed. No page may be stored by it any more. */
void dense_destroy(struct dense *d);

/* Valid until dense_destroy. */
const struct tmem_dense_ops *dense_ops(const struct dense *d);

/* Memory it takes; 0 for NULL. */
size_t dense_bytes(const struct dense *d);

#endif
