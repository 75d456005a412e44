/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See job.h.
 *
 * A job's thread blocks every signal: QEMU's are for its own threads, and a
 * pipe that nobody reads any more has to be EPIPE, not the death of a VM. It
 * may wait for its descriptor for ever; that costs one of JOBS_MAX places, and
 * nobody else anything.
 *
 *   free --job_start--> running --thread--> done --job_take--> free
 *
 * Lock: the list's guards each place's state and, unless running, the rest.
 */
#include "hv/agent/job.h"

#include "hv/base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hv/agent/agent.h"

enum job_state { JOB_FREE, JOB_RUNNING, JOB_DONE };

struct job {
	struct job_list *list;
	enum job_state state;
	struct command_env env;
	struct wire_command cmd;
	int fd; /* -1: none */
	struct job_done done;
};

struct job_list {
	pthread_mutex_t lock;
	int wake_fd;
	struct job job[JOBS_MAX];
};

int job_list_create(int wake_fd, struct job_list **out)
{
	struct job_list *list = calloc(1, sizeof(*list));

	if (!list)
		return -ENOMEM;
	pthread_mutex_init(&list->lock, NULL);
	list->wake_fd = wake_fd;
	*out = list;
	return 0;
}

static void state_set(struct job *job, enum job_state state)
{
	pthread_mutex_lock(&job->list->lock);
	job->state = state;
	pthread_mutex_unlock(&job->list->lock);
}

static void *job_main(void *arg)
{
	struct job *job = arg;
	struct job_list *list = job->list;

	agent_inside = true;
	pthread_setname_np(pthread_self(), "tidepool-job");
	job->done.rc = command_run(&job->env, &job->cmd, job->fd,
				   &job->done.value, job->done.text);
	if (job->fd >= 0)
		close(job->fd);
	state_set(job, JOB_DONE);
	eventfd_write(list->wake_fd, 1);
	return NULL;
}

/* The first place in this state becomes `to`; NULL: there is none. */
static struct job *job_find(struct job_list *list, enum job_state state,
			    enum job_state to)
{
	struct job *job = NULL;

	pthread_mutex_lock(&list->lock);
	for (size_t i = 0; i < JOBS_MAX && !job; i++)
		if (list->job[i].state == state)
			job = &list->job[i];
	if (job)
		job->state = to;
	pthread_mutex_unlock(&list->lock);
	return job;
}

static int fd_keep(int fd, int *out)
{
	*out = -1;
	if (fd < 0)
		return 0;
	*out = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return *out < 0 ? -errno : 0;
}

int job_start(struct job_list *list, const struct command_env *env,
	      const struct wire_command *cmd, int fd, uint64_t era)
{
	struct job *job = job_find(list, JOB_FREE, JOB_RUNNING);
	int rc;

	if (!job)
		return -EBUSY;
	job->list = list;
	job->env = *env;
	job->cmd = *cmd;
	job->done = (struct job_done){.id = cmd->id, .era = era};
	rc = fd_keep(fd, &job->fd);
	if (!rc)
		rc = thread_start(NULL, job_main, job);
	if (!rc)
		return 0;
	if (job->fd >= 0)
		close(job->fd);
	state_set(job, JOB_FREE);
	return rc;
}

bool job_take(struct job_list *list, struct job_done *out)
{
	struct job *job = job_find(list, JOB_DONE, JOB_RUNNING);

	if (!job)
		return false;
	*out = job->done;
	state_set(job, JOB_FREE);
	return true;
}
