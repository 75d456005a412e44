/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The registry: every VM hvd knows, from its agent's HELLO (or an earlier hvd's
 * record) to the end of its process.
 */
#ifndef HV_DAEMON_VM_H
#define HV_DAEMON_VM_H

#include "hv/daemon/common.h"
#include "hv/daemon/hvd.h"
#include "hv/daemon/lend.h"

#define VM_SAMPLES 61 /* one a second: differences over a minute */
#define VM_RAM_MAX ((uint64_t)1 << 32) /* pages: 16 TiB */
/* What an agent may say its guest has, or is to have; sums of it stay sums. */
#define VM_LENT_MAX ((uint64_t)1 << 44)

struct vm_sample {
	uint64_t at_ns;
	struct mm_stats mm;
	struct guest_stats guest;
};

struct vm {
	TAILQ_ENTRY(vm) entry;
	struct hvd *hvd;
	uint32_t id;
	char name[WIRE_NAME_MAX];
	char qmp[WIRE_PATH_MAX];

	/* The process; it, not its socket, says when memory is free. */
	pid_t pid;
	uint64_t pid_start; /* field 22 of /proc/PID/stat */
	uid_t uid;
	int pidfd;
	sd_event_source *pid_source;

	struct link *link; /* NULL: lost */
	struct trust *trust;
	struct domain_member *member; /* NULL: of an earlier hvd, not heard */
	/* Of a connection before this one; leaves when HAVE is complete. */
	struct domain_member *member_old;
	bool unheard;	/* may hold frames it has not named to us */
	bool lost_told; /* the log has it */
	bool unmanaged; /* let go at an administrator's wish */

	uint64_t ram_pages, reservation_bytes, limit_bytes;
	uint32_t shares, features;
	uint32_t weight;
	uint64_t cap_bytes, reserve_bytes;
	bool compress;
	bool by_hand; /* the settings above, so a new HELLO leaves them */

	bool have_stats;
	struct wire_stats stats; /* as the agent said last */
	struct vm_sample sample[VM_SAMPLES];
	unsigned samples; /* ever; the last is at (samples - 1) % VM_SAMPLES */

	uint64_t target_bytes; /* the arbiter's */
	struct lend lend;
	struct wire_target target; /* as sent */
	bool target_sent;
	struct balloon *balloon; /* NULL: no QMP socket */

	/* Shared pools: see pools.c. */
	struct common_member *common; /* NULL: not connected */
	struct common_member_stats common_stats;
	bool common_tuned;
	uint8_t auth[TMEM_AUTHS_MAX][16]; /* what it may join */
	unsigned auths;
};

struct vm *vm_find(struct hvd *hvd, const char *name);
struct vm *vm_find_id(struct hvd *hvd, uint32_t id);
/* managed, lost or unmanaged: docs/control.md */
const char *vm_state(const struct vm *vm);
/* Managed: what it is told is done. */
static inline bool vm_is_managed(const struct vm *vm)
{
	return vm->link && !vm->unmanaged;
}

/*
 * A checked HELLO of process pid over link, with the pool's descriptor or -1.
 * 0: welcomed. -EAGAIN: to be tried again when something changed. Else refused,
 * with text.
 */
MUST_CHECK int vm_hello(struct link *link, const struct wire_hello *hello,
			int pool_fd, char text[WIRE_TEXT_MAX]);
/* A VM of an earlier hvd; it may be gone: -ESRCH. */
MUST_CHECK int vm_restore(struct hvd *hvd, const char *name, pid_t pid,
			  uint64_t pid_start, struct trust *trust);
/* Its socket is closed. The VM stays, lost, until its process is gone. */
void vm_lose(struct vm *vm);
/* At an administrator's wish. What its balloon took it gets back. */
void vm_let_go(struct vm *vm);
/* Once a second: says which are lost. */
void vm_tick(struct hvd *hvd);
void vm_destroy(struct vm *vm);

/* All its references are known: HAVE is complete, or it began anew. */
void vm_heard(struct vm *vm);

/* What its agent says; -EPROTO ends the connection. */
MUST_CHECK int vm_message(struct vm *vm, const struct wire_head *msg);

size_t vm_count(const struct hvd *hvd);

/* Bytes of host memory it occupies alone: private, held, its store, its own
 * tables. */
uint64_t vm_used_bytes(const struct vm *vm);
/* What is lent to its guest: its ephemeral pages, which may go at any time; in
 * its own process and in shared pools. */
uint64_t vm_lent_bytes(const struct vm *vm);
/* Its own pages that were not used for a while, on trial or not. */
uint64_t vm_cold_bytes(const struct vm *vm);
/* Statistics as they were up to 60 s ago; age_ns_out: how long. NULL: none. */
const struct vm_sample *vm_sample_before(const struct vm *vm,
					 uint64_t *age_ns_out);

#endif
