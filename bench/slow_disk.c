// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A slow disk for a guest: serves files over NBD, each request as late as a
 * disk of this latency and rate would answer it, and no later.
 *
 *   slow_disk SOCKET LATENCY_US BYTES_A_SECOND FILE...
 *
 * A request waits its latency, beside all others that wait, and then for the
 * one bus that all files share, which takes bytes / rate:
 *
 *   start = max(arrival + latency, bus free)
 *   due   = start + bytes / rate; bus free = due
 *
 * There is no burst: a disk that did nothing for a while is no faster for it.
 * (Dropped for that reason: QEMU's throttling, which lets a tenth of a second's
 * requests pass at once and delays none that come more slowly; and nbdkit,
 * whose delays are whole milliseconds here.)
 *
 * A connection has two threads: one reads requests and does them at once, the
 * other answers each when it is due. An export is named as its file, without
 * the folder. Reads, writes and flushes; a flush has latency, and reaches no
 * platter. Ends when killed.
 */
#include "bench/lib/tool.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define FILES_MAX   8
#define DEPTH	    64u /* requests of a connection under way */
#define BYTES_MAX   (32u << 20)
#define OPTION_MAX  4096u
#define NBD_MAGIC   0x4e42444d41474943ull
#define NBD_OPTION  0x49484156454f5054ull
#define NBD_ANSWER  0x0003e889045565a9ull
#define NBD_REQUEST 0x25609513u
#define NBD_REPLY   0x67446698u
#define NBD_FIXED   3u	 /* newstyle, no zeroes */
#define NBD_FLAGS   0x05 /* of an export: has flags, takes flushes */

enum { OPT_ABORT = 2, OPT_INFO = 6, OPT_GO = 7 };
enum { REP_ACK = 1, REP_INFO = 3 };
#define REP_UNSUPPORTED 0x80000001u
#define REP_UNKNOWN	0x80000006u
enum { CMD_READ = 0, CMD_WRITE = 1, CMD_DISCONNECT = 2, CMD_FLUSH = 3 };

struct file {
	const char *name;
	int fd;
	uint64_t bytes;
};

struct option {
	uint64_t magic;
	uint32_t option, bytes;
} __attribute__((packed));

struct answer {
	uint64_t magic;
	uint32_t option, type, bytes;
} __attribute__((packed));

struct export_info {
	uint16_t type; /* 0 */
	uint64_t bytes;
	uint16_t flags;
} __attribute__((packed));

struct request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t handle, offset;
	uint32_t bytes;
} __attribute__((packed));

struct reply_head {
	uint32_t magic, error;
	uint64_t handle;
} __attribute__((packed));

struct reply {
	uint64_t due;
	struct reply_head head;
	uint32_t bytes;
	uint8_t *data;
};

struct link {
	int sock;
	const struct file *file;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct reply reply[DEPTH]; /* in the order they are due */
	unsigned first, end;
	bool over;
};

static struct file files[FILES_MAX];
static unsigned file_count;
static uint64_t latency_ns, rate;

static pthread_mutex_t bus_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t bus_free;

static uint64_t request_due(uint64_t arrival, uint32_t bytes)
{
	uint64_t due;

	pthread_mutex_lock(&bus_lock);
	due = max_u64(arrival + latency_ns, bus_free) +
	      bytes * TOOL_SECOND_NS / rate;
	bus_free = due;
	pthread_mutex_unlock(&bus_lock);
	return due;
}

static bool receive(int sock, void *to, size_t bytes)
{
	/* One for nothing would wait for something. */
	return !bytes || recv(sock, to, bytes, MSG_WAITALL) == (ssize_t)bytes;
}

static bool transmit(int sock, const void *from, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t n = send(sock, (const uint8_t *)from + done,
				 bytes - done, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

/* ---- handshake ---- */

static bool answer(int sock, uint32_t option, uint32_t type, const void *data,
		   uint32_t bytes)
{
	struct answer a = {htobe64(NBD_ANSWER), htobe32(option), htobe32(type),
			   htobe32(bytes)};

	return transmit(sock, &a, sizeof(a)) && transmit(sock, data, bytes);
}

/* data: length of the name, the name, and what it would like to know. */
static const struct file *export_find(const uint8_t *data, uint32_t bytes)
{
	uint32_t length;

	if (bytes < sizeof(length))
		return NULL;
	memcpy(&length, data, sizeof(length));
	length = be32toh(length);
	if (length > bytes - sizeof(length))
		return NULL;
	for (unsigned i = 0; i < file_count; i++)
		if (strlen(files[i].name) == length &&
		    !memcmp(files[i].name, data + sizeof(length), length))
			return &files[i];
	return NULL;
}

static bool export_tell(int sock, uint32_t option, const struct file *file)
{
	struct export_info info = {0, 0, htobe16(NBD_FLAGS)};

	if (!file)
		return answer(sock, option, REP_UNKNOWN, NULL, 0);
	info.bytes = htobe64(file->bytes);
	return answer(sock, option, REP_INFO, &info, sizeof(info)) &&
	       answer(sock, option, REP_ACK, NULL, 0);
}

/* The file that the client wants in the end; NULL: it is gone. */
static const struct file *options_take(int sock)
{
	uint8_t data[OPTION_MAX];
	struct option o;

	for (;;) {
		const struct file *file;
		uint32_t bytes, option;

		if (!receive(sock, &o, sizeof(o)) ||
		    be64toh(o.magic) != NBD_OPTION)
			return NULL;
		bytes = be32toh(o.bytes);
		option = be32toh(o.option);
		if (bytes > sizeof(data) || !receive(sock, data, bytes))
			return NULL;
		if (option == OPT_ABORT)
			return NULL;
		if (option != OPT_GO && option != OPT_INFO) {
			if (!answer(sock, option, REP_UNSUPPORTED, NULL, 0))
				return NULL;
			continue;
		}
		file = export_find(data, bytes);
		if (!export_tell(sock, option, file))
			return NULL;
		if (file && option == OPT_GO)
			return file;
	}
}

static const struct file *handshake(int sock)
{
	struct {
		uint64_t magic, option;
		uint16_t flags;
	} __attribute__((packed))
	hello = {htobe64(NBD_MAGIC), htobe64(NBD_OPTION), htobe16(NBD_FIXED)};
	uint32_t flags;

	if (!transmit(sock, &hello, sizeof(hello)) ||
	    !receive(sock, &flags, sizeof(flags)))
		return NULL;
	return options_take(sock);
}

/* ---- requests ---- */

static void reply_add(struct link *link, const struct reply *reply)
{
	pthread_mutex_lock(&link->lock);
	while (link->end - link->first == DEPTH)
		pthread_cond_wait(&link->changed, &link->lock);
	link->reply[link->end++ % DEPTH] = *reply;
	pthread_cond_broadcast(&link->changed);
	pthread_mutex_unlock(&link->lock);
}

static bool reply_take(struct link *link, struct reply *out)
{
	bool got;

	pthread_mutex_lock(&link->lock);
	while (link->end == link->first && !link->over)
		pthread_cond_wait(&link->changed, &link->lock);
	got = link->end != link->first;
	if (got)
		*out = link->reply[link->first++ % DEPTH];
	pthread_cond_broadcast(&link->changed);
	pthread_mutex_unlock(&link->lock);
	return got;
}

static void *replies_send(void *arg)
{
	struct link *link = arg;
	struct reply r;

	prctl(PR_SET_TIMERSLACK, 1);
	while (reply_take(link, &r)) {
		struct timespec due = {(time_t)(r.due / TOOL_SECOND_NS),
				       (long)(r.due % TOOL_SECOND_NS)};

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
		/* A failure is the reader's to see. */
		if (transmit(link->sock, &r.head, sizeof(r.head)))
			transmit(link->sock, r.data, r.bytes);
		free(r.data);
	}
	return NULL;
}

static uint32_t request_do(const struct link *link, uint16_t type,
			   uint64_t offset, uint32_t bytes, uint8_t *data)
{
	const struct file *file = link->file;
	ssize_t n = (ssize_t)bytes;

	if (bytes > file->bytes || offset > file->bytes - bytes)
		return EINVAL;
	if (type == CMD_READ)
		n = pread(file->fd, data, bytes, (off_t)offset);
	else if (type == CMD_WRITE)
		n = pwrite(file->fd, data, bytes, (off_t)offset);
	else if (type != CMD_FLUSH)
		return EINVAL;
	return n == (ssize_t)bytes ? 0 : EIO;
}

/* False: the client is gone, or not one we understand. */
static bool request_serve(struct link *link)
{
	struct reply reply = {0};
	uint64_t arrival;
	struct request r;
	uint32_t bytes;
	uint16_t type;

	if (!receive(link->sock, &r, sizeof(r)) ||
	    be32toh(r.magic) != NBD_REQUEST)
		return false;
	arrival = tool_now_ns();
	type = be16toh(r.type);
	bytes = type == CMD_READ || type == CMD_WRITE ? be32toh(r.bytes) : 0;
	if (type == CMD_DISCONNECT || bytes > BYTES_MAX)
		return false;
	reply.data = bytes ? malloc(bytes) : NULL;
	if (bytes && !reply.data)
		tool_fail("memory");
	if (type == CMD_WRITE && !receive(link->sock, reply.data, bytes)) {
		free(reply.data);
		return false;
	}
	reply.head.magic = htobe32(NBD_REPLY);
	reply.head.handle = r.handle;
	reply.head.error = htobe32(
		request_do(link, type, be64toh(r.offset), bytes, reply.data));
	reply.bytes = type == CMD_READ && !reply.head.error ? bytes : 0;
	reply.due = request_due(arrival, bytes);
	reply_add(link, &reply);
	return true;
}

static void *link_main(void *arg)
{
	struct link *link = arg;
	pthread_t sender;

	link->file = handshake(link->sock);
	if (link->file) {
		if (pthread_create(&sender, NULL, replies_send, link))
			tool_fail("a thread");
		while (request_serve(link))
			;
		pthread_mutex_lock(&link->lock);
		link->over = true;
		pthread_cond_broadcast(&link->changed);
		pthread_mutex_unlock(&link->lock);
		pthread_join(sender, NULL);
	}
	close(link->sock);
	free(link);
	return NULL;
}

/* ---- life ---- */

static void file_add(const char *path)
{
	const char *slash = strrchr(path, '/');
	struct stat st;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) || file_count == FILES_MAX)
		tool_fail(path);
	files[file_count++] = (struct file){
		.name = slash ? slash + 1 : path,
		.fd = fd,
		.bytes = (uint64_t)st.st_size,
	};
}

static int listener_make(const char *path)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(at.sun_path)) {
		errno = ENAMETOOLONG;
		tool_fail(path);
	}
	strcpy(at.sun_path, path);
	if (sock < 0 || bind(sock, (struct sockaddr *)&at, sizeof(at)) ||
	    listen(sock, FILES_MAX))
		tool_fail(path);
	return sock;
}

static void link_start(int sock)
{
	struct link *link = calloc(1, sizeof(*link));
	pthread_t thread;

	if (sock < 0 || !link)
		tool_fail("a connection");
	link->sock = sock;
	pthread_mutex_init(&link->lock, NULL);
	pthread_cond_init(&link->changed, NULL);
	if (pthread_create(&thread, NULL, link_main, link))
		tool_fail("a thread");
	pthread_detach(thread);
}

int main(int argc, char **argv)
{
	int listener;

	if (argc < 5) {
		fprintf(stderr, "usage: slow_disk SOCKET LATENCY_US "
				"BYTES_A_SECOND FILE...\n");
		return 2;
	}
	latency_ns = strtoull(argv[2], NULL, 0) * 1000;
	rate = strtoull(argv[3], NULL, 0);
	if (!rate) {
		fprintf(stderr, "slow_disk: a rate of 0\n");
		return 2;
	}
	for (int i = 4; i < argc; i++)
		file_add(argv[i]);
	listener = listener_make(argv[1]);
	for (;;)
		link_start(accept(listener, NULL, NULL));
}
