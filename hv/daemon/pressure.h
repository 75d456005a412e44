/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How short of memory the host is: one of five states, from the free memory
 * against a minimum.
 */
#ifndef HV_DAEMON_PRESSURE_H
#define HV_DAEMON_PRESSURE_H

#include "hv/base/types.h"

/* The numbers travel in wire_target. Higher is worse. */
enum pressure_state {
	PRESSURE_HIGH,	/* plenty */
	PRESSURE_CLEAR, /* share, break cold huge pages */
	PRESSURE_SOFT,	/* and balloon */
	PRESSURE_HARD,	/* and compress and swap */
	PRESSURE_LOW,	/* and let nobody grow */
	PRESSURE_STATES
};

struct pressure_config {
	uint64_t min_bytes; /* 0: pressure_min_default */
	/* Percent of the minimum below which a state begins; [HIGH] unused. */
	uint32_t enter_percent[PRESSURE_STATES];
	uint32_t leave_percent; /* a state ends at enter * (1 + this/100) */
};

struct pressure {
	struct pressure_config config;
	enum pressure_state measured;
	enum pressure_state forced;
	bool is_forced;
};

void pressure_config_default(struct pressure_config *config);
/* ESX's sliding scale: 6 % of the first 4 GiB, 4 to 12, 2 to 28, then 1. */
uint64_t pressure_min_default(uint64_t memory_bytes);

void pressure_init(struct pressure *p, const struct pressure_config *config);

/*
 * free_bytes of memory_bytes. True if the state that counts changed; every
 * change is logged with its cause.
 */
bool pressure_update(struct pressure *p, uint64_t free_bytes,
		     uint64_t memory_bytes);
/* By hand, until pressure_release. Both: true if the state changed. */
bool pressure_force(struct pressure *p, enum pressure_state state,
		    const char *by);
bool pressure_release(struct pressure *p, const char *by);

enum pressure_state pressure_now(const struct pressure *p);
/* What is to stay free whatever happens: all states are parts of it. */
uint64_t pressure_min(const struct pressure *p, uint64_t memory_bytes);
/* Free bytes at which shortage is over: where soft would end. */
uint64_t pressure_goal(const struct pressure *p, uint64_t memory_bytes);

const char *pressure_name(enum pressure_state state);
/* 0, or -EINVAL. */
MUST_CHECK int pressure_parse(const char *name, enum pressure_state *out);

#endif
