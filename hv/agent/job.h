/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands that take long, each in a thread of its own, so that the worker goes
 * on answering hvd. What is done is taken back by the worker, which a write to
 * its eventfd has woken.
 */
#ifndef HV_AGENT_JOB_H
#define HV_AGENT_JOB_H

#include "hv/agent/command.h"

#define JOBS_MAX 4 /* running or not yet taken back */

struct job_list;

struct job_done {
	uint64_t id;  /* of the command */
	uint64_t era; /* as job_start was told */
	int rc;
	int64_t value;
	char text[WIRE_TEXT_MAX];
};

/* Never destroyed, as the worker is not. wake_fd stays the caller's. */
MUST_CHECK int job_list_create(int wake_fd, struct job_list **out);

/*
 * What env names must outlive the job. fd is duplicated. era tells the caller
 * later whom the answer is for: ids begin anew with each hvd. -EBUSY: as many
 * as may be are running; -ENOMEM, or what the kernel says. [worker]
 */
MUST_CHECK int job_start(struct job_list *list, const struct command_env *env,
			 const struct wire_command *cmd, int fd, uint64_t era);

/* One that is done; false: none. [worker] */
bool job_take(struct job_list *list, struct job_done *out);

#endif
