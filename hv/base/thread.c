/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See thread.h. A thread inherits the signal mask of the one that starts it. */
#include "hv/base/thread.h"

#include <signal.h>

#define STACK_BYTES ((size_t)256 << 10)

int thread_start(pthread_t *id_out, void *(*run)(void *), void *arg)
{
	sigset_t all, before;
	pthread_attr_t attr;
	pthread_t id;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (!id_out)
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(id_out ? id_out : &id, &attr, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return -r;
}
