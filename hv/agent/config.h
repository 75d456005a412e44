/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the administrator says about this VM: environment first, then the
 * section [vm NAME] of the configuration file, then its section [default],
 * then what is built in. docs/man/libhvagent.7 lists every word.
 */
#ifndef HV_AGENT_CONFIG_H
#define HV_AGENT_CONFIG_H

#include "hv/base/types.h"
#include "sharing/wire.h"

#define CONFIG_FILE "/etc/tidepool/agent.conf"

struct config {
	char name[WIRE_NAME_MAX];
	char domain[WIRE_NAME_MAX]; /* empty: the VM's own */
	char run_dir[WIRE_PATH_MAX];
	char qmp[WIRE_PATH_MAX];
	char swap[256]; /* file, or a folder to put it in; empty: none */
	uint64_t reservation_bytes;
	uint64_t limit_bytes;
	uint64_t swap_bytes;
	uint64_t store_bytes;	/* used if store_percent is 0 */
	uint32_t store_percent; /* of guest RAM */
	uint32_t shares;
	bool dense;	  /* cold pages by zstd, not LZ4 */
	uint32_t poll_us; /* of a thread that answers, while it is busy */

	/* The guest's own driver; see hv/agent/port.h. */
	uint64_t tmem_bytes;	  /* most its client may hold; 0: no line */
	uint64_t tmem_swap_bytes; /* size of its swap device, if given */
	bool tmem_swap_given;
	bool tmem_cache;
	uint32_t tmem_queues;
	bool debug;
};

/* Looks up a variable, as getenv does; tests pass their own. */
typedef const char *config_env_fn(const char *name);

/*
 * guess: a name for the VM if none is given; may be NULL. On -EINVAL why holds
 * one line, with file and line number where there is one.
 */
MUST_CHECK int config_load(config_env_fn *env, const char *guess,
			   struct config *out, char *why, size_t room);

/* Bytes with an optional K, M, G or T (times 1024). 0 or -EINVAL. */
MUST_CHECK int config_size_parse(const char *text, uint64_t *out);

/*
 * The name after QEMU's -name (or its guest=), made fit for a VM's name; or
 * "vm-PID". cmdline: as in /proc/self/cmdline, n bytes.
 */
void config_name_guess(const char *cmdline, size_t n, int pid,
		       char out[WIRE_NAME_MAX]);

#endif
