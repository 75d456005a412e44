/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See mini_hvd.h. The thread holds the lock but while it sleeps in poll, so the
 * test's calls happen between its turns.
 *
 * A lost connection is not a dead process: the member keeps its references
 * until the agent has said HAVE on a new connection, or its process has ended.
 */
#include "tests/support/mini_hvd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "hv/base/host.h"
#include "sharing/frames.h"

#define AGENTS 8
#define FRAMES 65536

#define MUST(x)                                                                \
	do {                                                                   \
		if (!(x)) {                                                    \
			perror("mini_hvd: " #x);                               \
			abort();                                               \
		}                                                              \
	} while (0)

struct agent {
	int fd; /* -1: free */
	int pidfd;
	struct domain_member *member;
	bool greeted;
};

struct mini_hvd {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t answered;
	atomic_bool stop;
	char path[108];
	int listener;
	bool lend_uffd;
	struct domain *domain;
	struct agent agent[AGENTS];
	struct {
		struct domain_member *member;
		int pidfd;
	} detached[AGENTS];
	size_t detached_count;
	struct mm_stats stats;
	struct wire_result result;
	uint64_t command_id;
	unsigned hellos, liars;
	_Alignas(8) unsigned char in[WIRE_MAX];
};

struct target {
	struct wire_head head;
	struct wire_target body;
};

static int member_send(void *cookie, const struct wire_head *msg)
{
	struct agent *a = cookie;

	if (a->fd < 0 || send(a->fd, msg, msg->bytes, MSG_NOSIGNAL) < 0)
		return -EAGAIN;
	return 0;
}

static void old_member_leave(struct mini_hvd *h, size_t i)
{
	domain_leave(h->detached[i].member);
	close(h->detached[i].pidfd);
	h->detached[i] = h->detached[--h->detached_count];
}

static void old_members_leave(struct mini_hvd *h)
{
	while (h->detached_count)
		old_member_leave(h, 0);
}

static void dead_members_leave(struct mini_hvd *h)
{
	for (size_t i = 0; i < h->detached_count; i++) {
		struct pollfd p = {h->detached[i].pidfd, POLLIN, 0};

		if (poll(&p, 1, 0) == 1)
			old_member_leave(h, i--);
	}
}

static void agent_drop(struct mini_hvd *h, struct agent *a)
{
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
	a->greeted = false;
	if (!a->member)
		return;
	MUST(h->detached_count < AGENTS);
	domain_detach(a->member);
	h->detached[h->detached_count].member = a->member;
	h->detached[h->detached_count++].pidfd = a->pidfd;
	a->member = NULL;
}

static int peer_pidfd(int fd)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);

	MUST(!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n));
	return (int)syscall(SYS_pidfd_open, peer.pid, 0);
}

static void welcome_send(struct mini_hvd *h, struct agent *a)
{
	struct {
		struct wire_head head;
		struct wire_welcome body;
	} msg = {{WIRE_VERSION, WIRE_WELCOME, sizeof(msg)},
		 {.pool_bytes = (uint64_t)FRAMES * PAGE_BYTES,
		  .vm = 1,
		  .uffd_device = h->lend_uffd}};
	char control[CMSG_SPACE(2 * sizeof(int))] = {0};
	struct iovec iov = {&msg, sizeof(msg)};
	size_t n = h->lend_uffd ? 2 : 1;
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = CMSG_SPACE(n * sizeof(int))};
	struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);
	int fds[2] = {-1, -1};

	memcpy(msg.body.secret, domain_secret(h->domain),
	       sizeof(msg.body.secret));
	MUST(frames_fd_open(domain_frames(h->domain), &fds[0]) == 0);
	if (n == 2)
		MUST((fds[1] = open("/dev/userfaultfd", O_RDWR)) >= 0);
	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(cm), fds, n * sizeof(int));
	sendmsg(a->fd, &mh, MSG_NOSIGNAL);
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
	a->greeted = true;
}

static void target_fill(struct target *msg, uint64_t resident_bytes)
{
	*msg = (struct target){
		{WIRE_VERSION, WIRE_TARGET, sizeof(*msg)},
		{.resident_bytes = resident_bytes,
		 .store_bytes = (uint64_t)1 << 30,
		 .lent_bytes = UINT64_MAX,
		 .flags = WIRE_MAY_SHARE | WIRE_MAY_COMPRESS | WIRE_BREAK_HUGE,
		 .refault_permille_min = 1000,
		 .scan_ms = 500}};
}

static void admit(struct mini_hvd *h, struct agent *a)
{
	struct target msg;

	welcome_send(h, a);
	target_fill(&msg, 0);
	send(a->fd, &msg, sizeof(msg), MSG_NOSIGNAL);
}

static void hello(struct mini_hvd *h, struct agent *a)
{
	struct wire_hello body;

	memcpy(&body, h->in + sizeof(struct wire_head), sizeof(body));
	h->hellos++;
	a->pidfd = peer_pidfd(a->fd);
	MUST(domain_join(h->domain, a, body.ram_pages + 4096, &a->member) == 0);
	if (!(body.flags & WIRE_HELLO_RECONNECT))
		admit(h, a);
}

static int message(struct mini_hvd *h, struct agent *a,
		   const struct wire_head *msg)
{
	struct wire_stats stats;

	if (msg->type == WIRE_HELLO) {
		if (a->member)
			return -EPROTO;
		hello(h, a);
		return 0;
	}
	if (!a->member)
		return -EPROTO;
	if (msg->type == WIRE_STATS) {
		memcpy(&stats, msg + 1, sizeof(stats));
		h->stats = stats.mm;
		return 0;
	}
	if (msg->type == WIRE_RESULT) {
		memcpy(&h->result, msg + 1, sizeof(h->result));
		pthread_cond_broadcast(&h->answered);
		return 0;
	}
	if (msg->type == WIRE_HAVE && msg->bytes == sizeof(*msg)) {
		old_members_leave(h);
		admit(h, a);
		return 0;
	}
	return domain_message(a->member, msg, host_real.now_ns());
}

static void agent_read(struct mini_hvd *h, struct agent *a)
{
	const struct wire_head *msg = (const void *)h->in;
	char control[CMSG_SPACE(4 * sizeof(int))];
	struct iovec iov = {h->in, sizeof(h->in)};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(a->fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *cm = n >= 0 ? CMSG_FIRSTHDR(&mh) : NULL;
	int fd;

	if (cm) { /* the pool it had: ours */
		memcpy(&fd, CMSG_DATA(cm), sizeof(fd));
		close(fd);
	}
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		agent_drop(h, a);
	} else if (wire_check(WIRE_AGENT, h->in, (size_t)n) ||
		   message(h, a, msg)) {
		h->liars++;
		agent_drop(h, a);
	}
}

static void agent_accept(struct mini_hvd *h)
{
	int fd = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	for (int i = 0; fd >= 0 && i < AGENTS; i++) {
		if (h->agent[i].fd >= 0)
			continue;
		h->agent[i].fd = fd;
		return;
	}
	if (fd >= 0)
		close(fd);
}

static void *run(void *arg)
{
	struct mini_hvd *h = arg;
	struct pollfd fds[AGENTS + 1];
	uint64_t tick_ns = 0, now;

	pthread_mutex_lock(&h->lock);
	while (!atomic_load(&h->stop)) {
		fds[AGENTS] = (struct pollfd){h->listener, POLLIN, 0};
		for (int i = 0; i < AGENTS; i++)
			fds[i] = (struct pollfd){h->agent[i].fd, POLLIN, 0};
		pthread_mutex_unlock(&h->lock);
		poll(fds, AGENTS + 1, 10);
		pthread_mutex_lock(&h->lock);
		if (fds[AGENTS].revents)
			agent_accept(h);
		for (int i = 0; i < AGENTS; i++)
			if (fds[i].revents && fds[i].fd == h->agent[i].fd)
				agent_read(h, &h->agent[i]);
		now = host_real.now_ns();
		dead_members_leave(h);
		domain_flush(h->domain, now);
		if (now - tick_ns > 1000000000) {
			domain_tick(h->domain, now);
			tick_ns = now;
		}
	}
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

static void listen_at(struct mini_hvd *h, const char *dir)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(h->path, sizeof(h->path), "%s/agent.sock", dir);
	memcpy(addr.sun_path, h->path, sizeof(addr.sun_path));
	h->listener = socket(AF_UNIX,
			     SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	MUST(h->listener >= 0);
	unlink(h->path);
	MUST(bind(h->listener, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	MUST(chmod(h->path, 0666) == 0);
	MUST(listen(h->listener, AGENTS) == 0);
}

struct mini_hvd *mini_hvd_start(const char *dir)
{
	struct mini_hvd *h = calloc(1, sizeof(*h));
	struct frames *frames;
	uint8_t secret[192];

	MUST(h);
	for (int i = 0; i < AGENTS; i++)
		h->agent[i].fd = -1;
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->answered, NULL);
	MUST(host_real.random(secret, sizeof(secret)) == 0);
	MUST(frames_create("mini", FRAMES, &frames) == 0);
	MUST(domain_create(secret, 1, frames, member_send, &h->domain) == 0);
	listen_at(h, dir);
	MUST(pthread_create(&h->thread, NULL, run, h) == 0);
	return h;
}

void mini_hvd_stop(struct mini_hvd *h)
{
	atomic_store(&h->stop, true);
	pthread_join(h->thread, NULL);
	for (int i = 0; i < AGENTS; i++)
		agent_drop(h, &h->agent[i]);
	old_members_leave(h);
	domain_destroy(h->domain);
	close(h->listener);
	unlink(h->path);
	free(h);
}

void mini_hvd_lend_uffd(struct mini_hvd *h, bool on)
{
	pthread_mutex_lock(&h->lock);
	h->lend_uffd = on;
	pthread_mutex_unlock(&h->lock);
}

void mini_hvd_hang_up(struct mini_hvd *h)
{
	pthread_mutex_lock(&h->lock);
	for (int i = 0; i < AGENTS; i++)
		agent_drop(h, &h->agent[i]);
	pthread_mutex_unlock(&h->lock);
}

void mini_hvd_send_raw(struct mini_hvd *h, const void *msg, size_t n)
{
	pthread_mutex_lock(&h->lock);
	for (int i = 0; i < AGENTS; i++)
		if (h->agent[i].greeted)
			send(h->agent[i].fd, msg, n, MSG_NOSIGNAL);
	pthread_mutex_unlock(&h->lock);
}

void mini_hvd_target(struct mini_hvd *h, uint64_t resident_bytes)
{
	struct target msg;

	target_fill(&msg, resident_bytes);
	mini_hvd_send_raw(h, &msg, sizeof(msg));
}

int mini_hvd_command(struct mini_hvd *h, enum wire_command_op op)
{
	struct {
		struct wire_head head;
		struct wire_command body;
	} msg = {{WIRE_VERSION, WIRE_COMMAND, sizeof(msg)}, {.op = op}};
	struct timespec until;
	int r = 0, rc;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 30;
	pthread_mutex_lock(&h->lock);
	msg.body.id = ++h->command_id;
	for (int i = 0; i < AGENTS; i++)
		if (h->agent[i].greeted)
			send(h->agent[i].fd, &msg, sizeof(msg), MSG_NOSIGNAL);
	while (!r && h->result.id != msg.body.id)
		r = pthread_cond_timedwait(&h->answered, &h->lock, &until);
	rc = r ? -ETIMEDOUT : h->result.rc;
	pthread_mutex_unlock(&h->lock);
	return rc;
}

void mini_hvd_domain(struct mini_hvd *h, struct domain_stats *out)
{
	pthread_mutex_lock(&h->lock);
	domain_stats(h->domain, out);
	pthread_mutex_unlock(&h->lock);
}

void mini_hvd_stats(struct mini_hvd *h, struct mm_stats *out)
{
	pthread_mutex_lock(&h->lock);
	*out = h->stats;
	pthread_mutex_unlock(&h->lock);
}

unsigned mini_hvd_hellos(struct mini_hvd *h)
{
	unsigned n;

	pthread_mutex_lock(&h->lock);
	n = h->hellos;
	pthread_mutex_unlock(&h->lock);
	return n;
}

unsigned mini_hvd_liars(struct mini_hvd *h)
{
	unsigned n;

	pthread_mutex_lock(&h->lock);
	n = h->liars;
	pthread_mutex_unlock(&h->lock);
	return n;
}
