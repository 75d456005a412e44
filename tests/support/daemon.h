/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The real hvd in a folder of its own, and agents played over real sockets. An
 * agent is a child process that connects and hands its socket over, since hvd
 * knows a VM by the process at the other end; the child lives until it is
 * killed, as a VMM does. Everything fails the running check by itself.
 */
#ifndef TESTS_SUPPORT_DAEMON_H
#define TESTS_SUPPORT_DAEMON_H

#include "sharing/wire.h"

#include <jansson.h>
#include <sys/types.h>

struct daemon {
	char dir[64];
	pid_t pid;
	char hvd[512]; /* the program */
	char log[80];
};

struct peer {
	pid_t pid;
	int fd;
	int pool_fd;
	int channel_fd; /* of the last WELCOME, or -1: the test's to take */
	int file_fd;	/* that came with the last COMMAND, or -1: the test's */
	char name[WIRE_NAME_MAX], domain[WIRE_NAME_MAX], qmp[WIRE_PATH_MAX];
	struct wire_welcome welcome;
	_Alignas(8) unsigned char in[WIRE_MAX];
};

/* Once, in main: finds hvd beside the test program. Skips if it is missing. */
void daemon_find(struct daemon *d, const char *argv0);
/* A new folder. extra: one more option and its value, or NULL. */
void daemon_start(struct daemon *d, const char *option, const char *value);
/* In the same folder, after a kill. */
void daemon_restart(struct daemon *d);
/* SIGSTOP: none of its threads runs any more when this returns. */
void daemon_signal(struct daemon *d, int sig);
/* SIGKILL, and waits. */
void daemon_kill(struct daemon *d);
/* SIGTERM; it has to end with 0. Removes the folder. */
void daemon_stop(struct daemon *d);
bool daemon_log_has(const struct daemon *d, const char *text);

/* One call over the control socket; the result, or NULL with *errno_out. */
json_t *daemon_call(struct daemon *d, const char *request, char errno_out[32]);
/* The call fails with this errno. */
void daemon_refuses(struct daemon *d, const char *request, const char *error);
/*
 * For a call that waits for an agent, which the test plays: a child makes it.
 * expect: its result as compact JSON with sorted keys, or its errno.
 */
pid_t daemon_call_begin(struct daemon *d, const char *request,
			const char *expect);
/* Waits for the child: the answer was that. */
void daemon_call_end(pid_t call);
/* A connection to the control socket. */
int daemon_connect(const struct daemon *d);
/* libhv's, for hv_destroy(). */
struct hv *daemon_hv(const struct daemon *d);
/* A number of the result, named by a path such as "vms.0.mm.scans". */
int64_t daemon_number(struct daemon *d, const char *request, const char *path);
/* Waits until it is so; fails after 10 s. */
void daemon_await(struct daemon *d, const char *request, const char *path,
		  int64_t number);

/* A process with a connected socket, no HELLO yet. */
void peer_open(struct peer *p, const struct daemon *d);
/* The same process connects anew. */
void peer_connect(struct peer *p, const struct daemon *d);
void peer_send(struct peer *p, unsigned type, const void *body, size_t bytes);
void peer_send_raw(struct peer *p, const void *packet, size_t bytes);
/* HELLO; with the pool's descriptor if reconnect. */
void peer_hello(struct peer *p, const char *name, const char *domain,
		bool reconnect);
/* Opens, says HELLO, gets WELCOME. */
void peer_join(struct peer *p, const struct daemon *d, const char *name,
	       const char *domain);
/*
 * The next message of this type, within 10 s; others are passed over. NULL: the
 * connection was closed.
 */
const struct wire_head *peer_hear(struct peer *p, unsigned type);
/* The next message of the type, which has to come. */
struct wire_command peer_command(struct peer *p);
struct wire_target peer_target(struct peer *p);
/* The answer to the command of this id. */
void peer_answer(struct peer *p, uint64_t id, int rc, int64_t value,
		 const char *text);
/* hvd is asked to let go of VM "a", which p plays and agrees to. */
void peer_unmanage(struct daemon *d, struct peer *p);
/* Nothing of this type comes for so long. */
void peer_hears_not(struct peer *p, unsigned type, int ms);
bool peer_is_closed(struct peer *p); /* waits for it, up to 10 s */
void peer_offer(struct peer *p, uint64_t page, uint32_t content);
void peer_publish(struct peer *p, const struct wire_want *want,
		  uint32_t content);
/* What the pool holds in this frame: is it that content? */
bool peer_reads(const struct peer *p, uint32_t frame, uint32_t content);
void peer_close(struct peer *p); /* the socket */
void peer_kill(struct peer *p);	 /* the process, as by kill -9 */

#endif
