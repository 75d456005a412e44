/* SPDX-License-Identifier: GPL-2.0-or-later */
/* hvd's settings and the file they come from: see hvd.conf(5). */
#ifndef HV_DAEMON_CONFIG_H
#define HV_DAEMON_CONFIG_H

#include "hv/daemon/pressure.h"
#include "sharing/wire.h"

#define CONFIG_TEXT_MAX 512 /* of an error */

enum share_mode {
	SHARE_ALWAYS,
	SHARE_PRESSURE, /* from state clear on */
	SHARE_NEVER
};

/* What [domain NAME] overrides. */
struct config_domain {
	char name[WIRE_NAME_MAX];
	uint64_t pool_bytes;
	enum share_mode share;
};

struct config {
	char run_dir[WIRE_PATH_MAX];
	char group[WIRE_NAME_MAX];   /* of both sockets' users; may be empty */
	char metrics[WIRE_PATH_MAX]; /* path, or 127.0.0.1:port; empty: off */
	uint64_t budget_bytes;	     /* 0: the whole host */
	bool raise_map_count;

	uint64_t pool_bytes; /* most of a domain; 0: the host's memory */
	enum share_mode share;
	uint32_t scan_ms;
	uint32_t gather_ms; /* see domain_gather_set */
	uint32_t cow_permille; /* of shared references kept free */
	uint64_t cow_max_bytes;

	struct pressure_config pressure;
	uint32_t tax_percent;
	uint32_t refault_permille; /* see wire.h */
	uint32_t store_percent;	   /* of a VM's RAM */
	bool swap;
	bool balloon;
	uint64_t balloon_keep_bytes; /* left free in a guest */

	struct config_domain *domain;
	size_t domains;
};

void config_default(struct config *config);
void config_fini(struct config *config);

/*
 * Each reads over what is there. Returns 0, -EINVAL with text (file, line and
 * what is wrong), or -errno of opening the file, also with text.
 */
MUST_CHECK int config_read(struct config *config, const char *path,
			   char text[CONFIG_TEXT_MAX]);
MUST_CHECK int config_parse(struct config *config, const char *content,
			    char text[CONFIG_TEXT_MAX]);

/* NULL: no section of its own. */
const struct config_domain *config_domain_find(const struct config *config,
					       const char *name);

#endif
