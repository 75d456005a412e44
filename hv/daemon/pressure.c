/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The states of memory pressure, as ESX has them. A state is entered when free
 * memory falls below its percentage of the minimum, and left for a better one
 * only when free memory is clearly above that line again:
 *
 *   free/min   300 %      64 %     32 %     16 %
 *      high    |   clear   |  soft  |  hard  |  low          falling
 *      high       |  clear    | soft    | hard   | low       rising: + 25 %
 *
 * so a value that swings around a line costs one transition, not one a second.
 * Getting worse may skip states; getting better may too, each line being looked
 * at on its own.
 *
 * A state set by hand hides the measured one, which is kept up all the same, so
 * that letting go does not start from an old value.
 */
#include "hv/daemon/pressure.h"
#include "hv/base/log.h"
#include "hv/base/probe.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define GIB	  ((uint64_t)1 << 30)
#define MIB_SHIFT 20

static const char *const state_name[PRESSURE_STATES] = {
	[PRESSURE_HIGH] = "high", [PRESSURE_CLEAR] = "clear",
	[PRESSURE_SOFT] = "soft", [PRESSURE_HARD] = "hard",
	[PRESSURE_LOW] = "low",
};

const char *pressure_name(enum pressure_state state)
{
	return state_name[state];
}

int pressure_parse(const char *name, enum pressure_state *out)
{
	size_t i;

	for (i = 0; i < PRESSURE_STATES; i++)
		if (!strcmp(name, state_name[i])) {
			*out = (enum pressure_state)i;
			return 0;
		}
	return -EINVAL;
}

void pressure_config_default(struct pressure_config *config)
{
	*config = (struct pressure_config){
		.enter_percent = {[PRESSURE_CLEAR] = 300,
				  [PRESSURE_SOFT] = 64,
				  [PRESSURE_HARD] = 32,
				  [PRESSURE_LOW] = 16},
		.leave_percent = 25,
	};
}

uint64_t pressure_min_default(uint64_t memory_bytes)
{
	static const struct {
		uint64_t upto;
		uint64_t percent;
	} scale[] = {{4 * GIB, 6}, {12 * GIB, 4}, {28 * GIB, 2}, {~0ULL, 1}};
	uint64_t from = 0, min = 0, to;
	size_t i;

	for (i = 0; i < ARRAY_LEN(scale) && memory_bytes > from; i++) {
		to = min_u64(memory_bytes, scale[i].upto);
		min += (to - from) / 100 * scale[i].percent;
		from = to;
	}
	return min;
}

void pressure_init(struct pressure *p, const struct pressure_config *config)
{
	*p = (struct pressure){.config = *config};
}

uint64_t pressure_min(const struct pressure *p, uint64_t memory_bytes)
{
	return p->config.min_bytes ? p->config.min_bytes
				   : pressure_min_default(memory_bytes);
}

static uint64_t percent_of(uint64_t bytes, uint32_t percent)
{
	return bytes / 100 * percent + bytes % 100 * percent / 100;
}

static uint64_t line_enter(const struct pressure *p, unsigned state,
			   uint64_t min)
{
	return percent_of(min, p->config.enter_percent[state]);
}

static uint64_t line_leave(const struct pressure *p, unsigned state,
			   uint64_t min)
{
	return percent_of(line_enter(p, state, min),
			  100 + p->config.leave_percent);
}

/* The worst state whose line holds: entered, or held and not yet left. */
static enum pressure_state state_of(const struct pressure *p,
				    uint64_t free_bytes, uint64_t min)
{
	uint64_t line;
	unsigned s;

	for (s = PRESSURE_LOW; s > PRESSURE_HIGH; s--) {
		line = s <= p->measured ? line_leave(p, s, min)
					: line_enter(p, s, min);
		if (free_bytes < line)
			break;
	}
	return (enum pressure_state)s;
}

enum pressure_state pressure_now(const struct pressure *p)
{
	return p->is_forced ? p->forced : p->measured;
}

bool pressure_update(struct pressure *p, uint64_t free_bytes,
		     uint64_t memory_bytes)
{
	uint64_t min = pressure_min(p, memory_bytes);
	enum pressure_state was = p->measured;

	p->measured = state_of(p, free_bytes, min);
	if (p->measured == was)
		return false;
	PROBE3(pressure, was, p->measured, 0);
	log_info("pressure: %s -> %s: %" PRIu64 " MiB free, minimum %" PRIu64
		 " MiB%s%s",
		 state_name[was], state_name[p->measured],
		 free_bytes >> MIB_SHIFT, min >> MIB_SHIFT,
		 p->is_forced ? "; held by hand at " : "",
		 p->is_forced ? state_name[p->forced] : "");
	return !p->is_forced;
}

bool pressure_force(struct pressure *p, enum pressure_state state,
		    const char *by)
{
	enum pressure_state was = pressure_now(p);

	p->is_forced = true;
	p->forced = state;
	PROBE3(pressure, was, state, 1);
	log_info("pressure: %s -> %s: set by %s, until set to auto",
		 state_name[was], state_name[state], by);
	return was != state;
}

bool pressure_release(struct pressure *p, const char *by)
{
	enum pressure_state was = pressure_now(p);

	if (!p->is_forced)
		return false;
	p->is_forced = false;
	PROBE3(pressure, was, p->measured, 0);
	log_info("pressure: %s -> %s: set to auto by %s", state_name[was],
		 state_name[p->measured], by);
	return was != p->measured;
}

uint64_t pressure_goal(const struct pressure *p, uint64_t memory_bytes)
{
	return line_leave(p, PRESSURE_SOFT, pressure_min(p, memory_bytes));
}
