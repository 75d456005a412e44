/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A connection:
 *
 *   greeting --HELLO--> open --------------> closed
 *       |  `--HELLO--> waiting --> open         ^
 *       `---- refused, silent, malformed -------'
 *
 * An agent may be slow, stopped or mad; hvd waits for none. What its socket
 * does not take is queued up to OUT_MAX. Beyond OUT_CALM its own messages are
 * not read, so it cannot cause more; what others cause (grants) is refused at
 * OUT_MAX, and the domain takes the references back.
 *
 *   out_bytes <= OUT_MAX + the few control messages
 *
 * A link is freed only from the event loop's own calls or when no call of its
 * is under way (busy): a message may well end the connection it came by.
 */
#include "hv/daemon/link.h"
#include "hv/base/log.h"
#include "hv/daemon/host_info.h"
#include "hv/daemon/pools.h"
#include "hv/daemon/trust.h"
#include "hv/daemon/vm.h"
#include "sharing/frames.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define OUT_CALM      ((size_t)1 << 20)
#define OUT_MAX	      ((size_t)4 << 20)
#define CONTROL_MAX   ((size_t)64 << 10) /* of control messages beyond it */
#define READS_A_TURN  8
#define FDS_MAX	      4
#define GREETINGS_MAX 256
#define GREETING_NS   (UINT64_C(10) * 1000000000)
#define SNDBUF_BYTES  (1 << 20)

enum link_state { LINK_GREETING, LINK_WAITING, LINK_OPEN };

struct packet {
	STAILQ_ENTRY(packet) entry;
	size_t bytes;
	int fd; /* that goes along, ours; -1: none */
	unsigned char data[];
};

struct link {
	TAILQ_ENTRY(link) entry; /* of hvd->links until open */
	struct hvd *hvd;
	int fd;
	enum link_state state;
	bool busy, closed;
	pid_t pid;
	uid_t uid;
	uint64_t since_ns;
	struct vm *vm;
	sd_event_source *source;
	STAILQ_HEAD(, packet) out;
	size_t out_bytes;
	struct wire_hello hello; /* while waiting */
	int pool_fd;
};

struct hvd *link_hvd(const struct link *link)
{
	return link->hvd;
}

pid_t link_pid(const struct link *link)
{
	return link->pid;
}

uid_t link_uid(const struct link *link)
{
	return link->uid;
}

/* ---- closing ---------------------------------------------------------- */

static void packet_free(struct packet *p)
{
	if (p->fd >= 0)
		close(p->fd);
	free(p);
}

static void out_clear(struct link *link)
{
	struct packet *p;

	while ((p = STAILQ_FIRST(&link->out))) {
		STAILQ_REMOVE_HEAD(&link->out, entry);
		packet_free(p);
	}
	link->out_bytes = 0;
}

static void link_free_if_idle(struct link *link)
{
	if (link->closed && !link->busy)
		free(link);
}

static void link_close(struct link *link)
{
	struct vm *vm = link->vm;

	if (link->closed)
		return;
	link->closed = true;
	link->vm = NULL;
	if (link->state != LINK_OPEN)
		TAILQ_REMOVE(&link->hvd->links, link, entry);
	sd_event_source_disable_unref(link->source);
	out_clear(link);
	if (link->pool_fd >= 0)
		close(link->pool_fd);
	close(link->fd);
	if (vm)
		vm_lose(vm);
	link_free_if_idle(link);
}

void link_disown(struct link *link)
{
	link->vm->link = NULL;
	link->vm = NULL;
	link_close(link);
}

void link_close_all(struct hvd *hvd)
{
	struct link *link;

	while ((link = TAILQ_FIRST(&hvd->links)))
		link_close(link);
}

/* ---- sending ---------------------------------------------------------- */

static void events_set(struct link *link)
{
	uint32_t events = 0;

	if (link->out_bytes < OUT_CALM)
		events |= EPOLLIN;
	if (link->out_bytes)
		events |= EPOLLOUT;
	if (sd_event_source_set_io_events(link->source, events) < 0)
		log_error("event loop: no memory for a socket's events");
}

/* 1 sent, 0 not now, -errno. fds may be NULL. */
static int packet_send(int sock, const void *data, size_t bytes, const int *fds,
		       size_t n)
{
	_Alignas(struct cmsghdr) char buf[CMSG_SPACE(FDS_MAX * sizeof(int))];
	struct iovec iov = {.iov_len = bytes};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *cm;

	memcpy(&iov.iov_base, &data, sizeof(data)); /* sendmsg only reads */
	memset(buf, 0, sizeof(buf));
	if (n) {
		mh.msg_control = buf;
		mh.msg_controllen = CMSG_SPACE(n * sizeof(int));
		cm = CMSG_FIRSTHDR(&mh);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(cm), fds, n * sizeof(int));
	}
	if (sendmsg(sock, &mh, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return 1;
	if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS)
		return 0;
	return -errno;
}

/* A broken socket is not reported here: the event loop will find it. */
static int packet_queue(struct link *link, const void *data, size_t bytes,
			int fd, size_t most)
{
	struct packet *p;
	int rc = 0;

	if (!link->out_bytes)
		rc = packet_send(link->fd, data, bytes, &fd, fd >= 0);
	if (rc < 0 && fd >= 0)
		return rc; /* perhaps too many descriptors are under way */
	if (rc)
		return 0;
	if (link->out_bytes + bytes > most)
		return -EAGAIN;
	p = malloc(sizeof(*p) + bytes);
	if (!p)
		return -ENOMEM;
	p->fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (fd >= 0 && p->fd < 0) {
		free(p);
		return -EMFILE;
	}
	p->bytes = bytes;
	memcpy(p->data, data, bytes);
	STAILQ_INSERT_TAIL(&link->out, p, entry);
	link->out_bytes += bytes;
	events_set(link);
	return 0;
}

static int out_flush(struct link *link)
{
	struct packet *p;
	int rc;

	while ((p = STAILQ_FIRST(&link->out))) {
		rc = packet_send(link->fd, p->data, p->bytes, &p->fd,
				 p->fd >= 0);
		if (rc <= 0)
			return rc;
		STAILQ_REMOVE_HEAD(&link->out, entry);
		link->out_bytes -= p->bytes;
		packet_free(p);
	}
	return 0;
}

int link_send_to_vm(void *arg, const struct wire_head *msg)
{
	struct vm *vm = arg;

	if (!vm->link || packet_queue(vm->link, msg, msg->bytes, -1, OUT_MAX))
		return -EAGAIN;
	return 0;
}

int link_send_control(struct link *link, enum wire_type type, const void *body,
		      size_t bytes, int fd)
{
	struct {
		struct wire_head head;
		unsigned char body[sizeof(struct wire_refuse)];
	} msg;

	if (!link || bytes > sizeof(msg.body))
		return -ENOTCONN;
	msg.head = (struct wire_head){
		.version = WIRE_VERSION,
		.type = (uint16_t)type,
		.bytes = (uint32_t)(sizeof(msg.head) + bytes)};
	memcpy(msg.body, body, bytes);
	return packet_queue(link, &msg, msg.head.bytes, fd,
			    OUT_MAX + CONTROL_MAX);
}

static void link_refuse(struct link *link, int rc, const char *text)
{
	struct wire_refuse refuse = {.rc = rc};
	size_t n = min_u64(strlen(text), sizeof(refuse.text) - 1);

	log_warn("process %d refused: %s", (int)link->pid, text);
	memcpy(refuse.text, text, n);
	/* If its socket takes nothing, it does not want to know. */
	if (link_send_control(link, WIRE_REFUSE, &refuse, sizeof(refuse), -1))
		log_debug("process %d does not read", (int)link->pid);
	link_close(link);
}

/* ---- WELCOME --------------------------------------------------------------
 */

int link_welcome(struct link *link, struct vm *vm)
{
	struct {
		struct wire_head head;
		struct wire_welcome body;
	} msg = {{WIRE_VERSION, WIRE_WELCOME, sizeof(msg)}, {.vm = vm->id}};
	const struct domain *dom = vm->trust->domain;
	struct frames_stats fs;
	int fds[3], n = 1, rc;

	frames_stats(domain_frames(dom), &fs);
	msg.body.pool_bytes = fs.capacity << PAGE_SHIFT;
	memcpy(msg.body.secret, domain_secret(dom), sizeof(msg.body.secret));
	rc = frames_fd_open(domain_frames(dom), &fds[0]);
	if (rc)
		return rc;
	/* Without it the agent tries the system call; all else is the same. */
	if (!host_uffd_device_open(&fds[1])) {
		msg.body.uffd_device = 1;
		n = 2;
	}
	pools_connect(vm, &fds[n]);
	if (fds[n] >= 0) {
		msg.body.channel = 1;
		msg.body.era = vm->hvd->era;
		n++;
	}
	rc = packet_send(link->fd, &msg, sizeof(msg), fds, (size_t)n);
	while (n)
		close(fds[--n]);
	explicit_bzero(&msg, sizeof(msg));
	if (rc <= 0)
		return rc ? rc : -EAGAIN;
	link->vm = vm;
	return 0;
}

/* ---- receiving ------------------------------------------------------------
 */

/* rc 0: the link is open now. -EAGAIN: it waits. Else it is closed. */
static void hello_try(struct link *link)
{
	char text[WIRE_TEXT_MAX] = "";
	int rc;

	rc = vm_hello(link, &link->hello, link->pool_fd, text);
	if (rc == -EAGAIN && link->state == LINK_GREETING) {
		log_info("vm %s waits: the pool of its domain is with VMs that "
			 "have not reconnected yet",
			 link->hello.name);
		link->state = LINK_WAITING;
	}
	if (rc == -EAGAIN)
		return;
	if (rc) {
		link_refuse(link, rc, text);
		return;
	}
	TAILQ_REMOVE(&link->hvd->links, link, entry);
	link->state = LINK_OPEN;
	if (link->pool_fd >= 0)
		close(link->pool_fd);
	link->pool_fd = -1;
	hvd_steer_soon(link->hvd);
}

static void fds_close(int *fds, size_t n)
{
	while (n)
		close(fds[--n]);
}

static void malformed(struct link *link, int rc, const char *what)
{
	if (link->vm)
		log_warn("vm %s: connection ended: %s", link->vm->name, what);
	if (link->state == LINK_GREETING)
		link_refuse(link, rc, what);
	else
		link_close(link);
}

/* Takes the descriptors. */
static void packet_take(struct link *link, const struct wire_head *msg,
			int *fds, size_t nfds)
{
	char what[80];

	if (link->state == LINK_OPEN && !nfds && msg->type != WIRE_HELLO) {
		if (vm_message(link->vm, msg)) {
			snprintf(what, sizeof(what),
				 "its %s says what cannot be true",
				 wire_type_name(msg->type));
			malformed(link, -EPROTO, what);
		}
		return;
	}
	if (link->state != LINK_GREETING || msg->type != WIRE_HELLO ||
	    nfds > 1) {
		fds_close(fds, nfds);
		malformed(link, -EPROTO, "not the time for such a message");
		return;
	}
	memcpy(&link->hello, msg + 1, sizeof(link->hello));
	link->pool_fd = nfds ? fds[0] : -1;
	hello_try(link);
}

static size_t fds_collect(struct msghdr *mh, int *fds)
{
	struct cmsghdr *cm;
	size_t n = 0, more;

	for (cm = CMSG_FIRSTHDR(mh); cm; cm = CMSG_NXTHDR(mh, cm)) {
		if (cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS)
			continue;
		more = (cm->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds + n, CMSG_DATA(cm), more * sizeof(int));
		n += more;
	}
	return n;
}

/* 1 one packet done, 0 nothing there; the link may be closed after it. */
static int packet_receive(struct link *link)
{
	static _Alignas(16) unsigned char data[WIRE_MAX];
	_Alignas(struct cmsghdr) char buf[CMSG_SPACE(FDS_MAX * sizeof(int))];
	struct iovec iov = {.iov_base = data, .iov_len = sizeof(data)};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = buf,
			    .msg_controllen = sizeof(buf)};
	int fds[FDS_MAX], rc;
	size_t nfds;
	ssize_t n;

	n = recvmsg(link->fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) {
		link_close(link);
		return 0;
	}
	nfds = fds_collect(&mh, fds);
	rc = mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC)
		     ? -EPROTO
		     : wire_check(WIRE_AGENT, data, (size_t)n);
	if (rc) {
		fds_close(fds, nfds);
		malformed(link, rc,
			  rc == -EPROTONOSUPPORT
				  ? "it speaks another version of the protocol"
				  : "malformed message");
		return 0;
	}
	packet_take(link, (const struct wire_head *)data, fds, nfds);
	return 1;
}

static int link_event(sd_event_source *source, int fd, uint32_t events,
		      void *arg)
{
	struct link *link = arg;
	unsigned i;

	(void)source;
	(void)fd;
	link->busy = true;
	if (events & EPOLLOUT && out_flush(link) < 0)
		link_close(link);
	for (i = 0; i < READS_A_TURN && !link->closed && events & EPOLLIN; i++)
		if (!packet_receive(link))
			break;
	if (!link->closed && !(events & EPOLLIN) &&
	    events & (EPOLLHUP | EPOLLERR))
		link_close(link);
	if (!link->closed)
		events_set(link);
	link->busy = false;
	hvd_flush_soon(link->hvd);
	link_free_if_idle(link);
	return 0;
}

/* ---- accepting -------------------------------------------------------- */

static unsigned greetings(const struct hvd *hvd)
{
	const struct link *link;
	unsigned n = 0;

	TAILQ_FOREACH (link, &hvd->links, entry)
		n++;
	return n;
}

static int peer_read(struct link *link)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);

	if (getsockopt(link->fd, SOL_SOCKET, SO_PEERCRED, &peer, &n))
		return -errno;
	link->pid = peer.pid;
	link->uid = peer.uid;
	/* 0: of a pid namespace we cannot see into, so cannot watch. */
	return peer.pid > 0 ? 0 : -ESRCH;
}

int link_accept(struct hvd *hvd, int fd)
{
	struct link *link;
	int rc, bytes = SNDBUF_BYTES;

	link = greetings(hvd) < GREETINGS_MAX ? calloc(1, sizeof(*link)) : NULL;
	if (!link) {
		close(fd);
		return -ENOMEM;
	}
	link->hvd = hvd;
	link->fd = fd;
	link->pool_fd = -1;
	link->since_ns = hvd_now_ns();
	STAILQ_INIT(&link->out);
	TAILQ_INSERT_TAIL(&hvd->links, link, entry);
	rc = peer_read(link);
	if (!rc)
		rc = sd_event_add_io(hvd->event, &link->source, fd, EPOLLIN,
				     link_event, link);
	/* After everything else: hundreds of agents with much to say must not
	 * keep the second's tick and the control socket waiting. */
	if (rc >= 0)
		rc = sd_event_source_set_priority(link->source,
						  SD_EVENT_PRIORITY_IDLE);
	if (rc < 0) {
		link_close(link);
		return rc;
	}
	/* The default serves too, only slower. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)))
		log_debug("socket keeps its send buffer");
	return 0;
}

void link_waiting_retry(struct hvd *hvd)
{
	struct link *link, *next;
	uint64_t now = hvd_now_ns();

	for (link = TAILQ_FIRST(&hvd->links); link; link = next) {
		next = TAILQ_NEXT(link, entry);
		link->busy = true;
		if (link->state == LINK_WAITING)
			hello_try(link);
		else if (now - link->since_ns > GREETING_NS)
			link_refuse(link, -ETIMEDOUT, "it said no HELLO");
		link->busy = false;
		link_free_if_idle(link);
	}
}
