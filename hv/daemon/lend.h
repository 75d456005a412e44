/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Free memory lent to guests for their ephemeral pages, and who it was taken
 * from for whom.
 */
#ifndef HV_DAEMON_LEND_H
#define HV_DAEMON_LEND_H

#include "hv/daemon/hvd.h"

#include <jansson.h>

#define LEND_TAKERS 8

struct vm;

/* Of one VM: what it may have, and what it lost. */
struct lend {
	uint64_t bytes;	      /* lent to it now */
	uint64_t used_before; /* by the VM itself, at the last division */
	bool divided;	      /* there was one */
	uint64_t taken_bytes; /* in all, ever */
	struct {
		char name[WIRE_NAME_MAX]; /* empty: the host itself */
		uint64_t bytes;		  /* 0: nobody */
	} taker[LEND_TAKERS];
};

/* What guests have now of what may be taken: it counts as free. */
uint64_t lend_sum(const struct hvd *hvd);

/*
 * Divides so many bytes: by weight, no one below its reserve nor above its cap.
 * Then notes who lost memory to whom.
 */
void lend_divide(struct hvd *hvd, uint64_t bytes);

/* Does it differ from what its guest was told by enough for a message? */
bool lend_moved(uint64_t to, uint64_t told);

/* [{"name", "bytes"}], most first; name "the host" where it was no VM. */
json_t *lend_takers_pack(const struct vm *vm);

#endif
