/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A trust group as the daemon has it: a domain of sharing/ under its name, and
 * what becomes of it over a restart of hvd.
 */
#ifndef HV_DAEMON_TRUST_H
#define HV_DAEMON_TRUST_H

#include "hv/daemon/common.h"
#include "hv/daemon/hvd.h"

/* A name no VM can give: of the group of a VM that names none. */
#define TRUST_PRIVATE  "vm:"
#define TRUST_NAME_MAX (WIRE_NAME_MAX + sizeof(TRUST_PRIVATE))

struct trust {
	TAILQ_ENTRY(trust) entry;
	struct hvd *hvd;
	char name[TRUST_NAME_MAX];
	uint8_t secret[192];
	dev_t dev;
	ino_t ino;
	struct common_store *common; /* NULL: no VM of it was welcomed yet */
	struct common_store_stats common_stats;
	struct domain *domain; /* NULL: of an earlier hvd, pool not back yet */
	bool recovering;       /* some holders of its frames not heard yet */
	unsigned vms;	       /* that are in it, lost ones too */
};

struct trust *trust_find(struct hvd *hvd, const char *name);
/* Found or created, with a domain unless it is recovering. */
MUST_CHECK int trust_get(struct hvd *hvd, const char *name, struct trust **out);
/* As an earlier hvd recorded it. */
MUST_CHECK int trust_restore(struct hvd *hvd, const char *name,
			     const uint8_t secret[192], dev_t dev, ino_t ino,
			     struct trust **out);
/* The pool is back: -ESTALE, -EPERM: it is not the one. */
MUST_CHECK int trust_adopt(struct trust *trust, int pool_fd);
/*
 * A new pool in place of one that nobody alive has any frame of. -EAGAIN:
 * someone may.
 */
MUST_CHECK int trust_renew(struct trust *trust);
/* A VM came or went. The last one takes the group along. */
void trust_vm_add(struct trust *trust);
void trust_vm_remove(struct trust *trust);
/* Ends the recovery if no lost VM is left in it. */
void trust_recover_check(struct trust *trust);
void trust_destroy(struct trust *trust);

enum share_mode trust_share(const struct trust *trust);

#endif
