/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How QEMU's ivshmem-doorbell device finds its server, which is in QEMU itself:
 *
 *   -chardev socket,id=tidepool-tmem,path=RUN_DIR/NAME.tmem
 *
 * connects to that path when QEMU starts, before there is any guest RAM. There
 * is nothing at that path. The call comes to us (preload.c), and the socket it
 * was made for becomes one end of a pair, whose other end is ours and already
 * holds all the server has to say. So no other process can connect in QEMU's
 * place or find a socket of a VMM that died, no run folder must be writable for
 * it, and no thread waits for connections.
 *
 * Alternatives dropped: a real socket, bound from a constructor, would wake the
 * agent in every process of a VMM's command line; a descriptor passed on the
 * command line works for `hv qemu` alone.
 */
#include "hv/agent/port.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/log.h"
#include "hv/line/channel.h"
#include "hv/line/ivshmem.h"
#include "hv/line/line.h"
#include "tmem/tmem.h"

#define CLIENT_NAME   "guest"
#define SWAP_PRIORITY 100 /* above a disk's, which are negative by default */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct tmem *store;
static struct channel *_Atomic channel;
static struct ivshmem *device;
static struct line *_Atomic line;
static int server = -1; /* our end of the device's connection */

static int store_get(struct tmem **out)
{
	int rc = store ? 0 : tmem_create(0, &store);

	*out = store;
	return rc;
}

int port_store(struct tmem **out)
{
	int rc;

	pthread_mutex_lock(&lock);
	rc = store_get(out);
	pthread_mutex_unlock(&lock);
	return rc;
}

struct line *port_line(void)
{
	return line;
}

/* lock held. */
static int channel_get(struct channel **out)
{
	int rc = channel ? 0 : channel_create(out);

	if (rc)
		return rc;
	if (!channel)
		channel = *out;
	*out = channel;
	return 0;
}

void port_channel(int fd, uint64_t era)
{
	struct channel *ch;
	int rc;

	pthread_mutex_lock(&lock);
	rc = channel_get(&ch);
	pthread_mutex_unlock(&lock);
	if (rc) {
		close(fd);
		log_error("no memory for a way to shared pools");
		return;
	}
	channel_attach(ch, fd, era);
}

bool port_channel_is_broken(void)
{
	return channel && channel_is_broken(channel);
}

void port_child_drop(void)
{
	if (channel)
		channel_child_drop(channel);
}

void port_path(const struct config *config, char out[PORT_PATH_MAX])
{
	int n = snprintf(out, PORT_PATH_MAX, "%s/%s%s", config->run_dir,
			 config->name, PORT_SUFFIX);

	if (n < 0 || n >= PORT_PATH_MAX)
		*out = '\0';
}

/* ---- [lock held] ---- */

/*
 * A swap device of no more than the cap, less what the store adds to a page:
 * so even pages that do not compress are taken.
 */
static uint64_t swap_pages(const struct config *c)
{
	uint64_t bytes = c->tmem_swap_given
				 ? c->tmem_swap_bytes
				 : c->tmem_bytes - c->tmem_bytes / 32;

	return bytes / PAGE_BYTES;
}

static int line_make(const struct config *c)
{
	struct line_config lc = {
		.name = CLIENT_NAME,
		.queues = c->tmem_queues,
		.host_peer = IVSHMEM_HOST,
		.poll_ns = c->poll_us * (uint64_t)1000,
		.cap_bytes = c->tmem_bytes,
		.settings = {.swap_pages = swap_pages(c),
			     .swap_priority = SWAP_PRIORITY,
			     .ephemeral = c->tmem_cache},
		.kick = ivshmem_kick,
	};
	struct line *made;
	int rc = store_get(&lc.tm);

	if (!rc)
		rc = channel_get(&lc.channel);
	if (!rc)
		rc = ivshmem_create(LINE_VECTOR_QUEUE + c->tmem_queues,
				    &device);
	if (rc)
		return rc;
	lc.arg = device;
	rc = line_create(&lc, &made);
	if (rc) {
		ivshmem_destroy(device);
		device = NULL;
		return rc;
	}
	line = made;
	log_info("page store for the guest: up to %llu MiB",
		 (unsigned long long)(c->tmem_bytes >> 20));
	return 0;
}

static bool server_is_in_use(void)
{
	struct pollfd p = {.fd = server};

	return server >= 0 && !(poll(&p, 1, 0) > 0 && (p.revents & POLLHUP));
}

/* The socket keeps its number and its flags: the VMM knows it by these. */
static int socket_become(int fd, int end)
{
	int cloexec = fcntl(fd, F_GETFD), flags = fcntl(fd, F_GETFL);

	if (cloexec < 0 || flags < 0)
		return -errno;
	if (fcntl(end, F_SETFL, flags) ||
	    dup3(end, fd, cloexec & FD_CLOEXEC ? O_CLOEXEC : 0) < 0)
		return -errno;
	return 0;
}

static int device_attach(int fd)
{
	int end[2], rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, end))
		return -errno;
	rc = ivshmem_greet(device, line, end[0]);
	if (!rc)
		rc = socket_become(fd, end[1]);
	close(end[1]);
	if (rc) {
		close(end[0]);
		return rc;
	}
	if (server >= 0) {
		close(server);
		line_hang_up(line);
	}
	server = end[0];
	return 0;
}

int port_connect(const struct config *config, int fd)
{
	int rc = 0;

	pthread_mutex_lock(&lock);
	if (server_is_in_use())
		rc = -EBUSY;
	else if (!line)
		rc = line_make(config);
	if (!rc)
		rc = device_attach(fd);
	pthread_mutex_unlock(&lock);
	return rc;
}
