/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See swapper.h. */
#include "tests/support/swapper.h"
#include "tests/support/preload.h"
#include "tests/support/rng.h"

#include <check.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define POLLS_MAX 400000 /* of 50 us: 20 s */

#define MUST(x)                                                                \
	do {                                                                   \
		if (!(x)) {                                                    \
			fprintf(stderr, "swapper: line %d: %s (errno %d)\n",   \
				__LINE__, #x, errno);                          \
			_exit(1);                                              \
		}                                                              \
	} while (0)

/* What goes through the pipe to the child; the result comes back. */
struct order {
	int32_t op;
	int32_t pool;
	uint32_t index;
	uint32_t count; /* of these, from index, and seed, on */
	uint64_t seed;
};

void swapper_page(uint64_t seed, void *page_out)
{
	struct rng rng = {seed ^ 0x5a5a5a5a};

	rng_fill(&rng, page_out, PAGE_BYTES);
}

/* ---- the child ----------------------------------------------------------- */

static struct line_host *host;
static struct line_guest *guest;
static struct line_queue *queue;
static char *queue_bytes;
static int bell[2]; /* control, queue 0 */
static line_u32 entries, tail;

static void ram_announce(void)
{
	size_t room = SWAPPER_RAM_BYTES + CHUNK_BYTES;
	char *at = mmap(NULL, room, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uintptr_t up = ((uintptr_t)at + CHUNK_BYTES - 1) & ~(CHUNK_BYTES - 1);

	MUST(at != MAP_FAILED);
	at = (char *)up;
	MUST(!madvise(at, SWAPPER_RAM_BYTES, MADV_MERGEABLE));
	madvise(at, SWAPPER_RAM_BYTES, MADV_HUGEPAGE);
	MUST(!madvise(at, SWAPPER_RAM_BYTES, MADV_DONTFORK));
	memset(at, 0x11, SWAPPER_RAM_BYTES / 4);
}

/* One of the server's messages; *fd_out is -1 if none came along. */
static int64_t server_hear(int sock, int *fd_out)
{
	_Alignas(struct cmsghdr) char buf[CMSG_SPACE(sizeof(int))];
	int64_t n;
	struct iovec iov = {&n, sizeof(n)};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = buf,
			    .msg_controllen = sizeof(buf)};
	struct cmsghdr *cm;

	MUST(recvmsg(sock, &mh, 0) == (ssize_t)sizeof(n));
	cm = CMSG_FIRSTHDR(&mh);
	*fd_out = -1;
	if (cm)
		memcpy(fd_out, CMSG_DATA(cm), sizeof(int));
	return (int64_t)le64toh((uint64_t)n);
}

static void memory_map(int fd)
{
	struct stat st;
	char *at;

	MUST(!fstat(fd, &st));
	at = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		  fd, 0);
	MUST(at != MAP_FAILED);
	host = (void *)at;
	guest = (void *)(at + LINE_PAGE_BYTES);
	MUST(host->magic == LINE_MAGIC && host->version == LINE_VERSION);
	entries = host->entries;
	queue_bytes = at + line_queue_at(entries, 0);
	queue = (void *)queue_bytes;
}

static void device_open(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int sock = socket(AF_UNIX, SOCK_STREAM, 0), fd, n;

	n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s.tmem",
		     getenv("TIDEPOOL_RUN_DIR"), getenv("TIDEPOOL_NAME"));
	MUST(sock >= 0 && n > 0 && (size_t)n < sizeof(addr.sun_path));
	MUST(!connect(sock, (struct sockaddr *)&addr, sizeof(addr)));
	MUST(server_hear(sock, &fd) == 0);  /* version */
	MUST(server_hear(sock, &fd) >= 0);  /* our number */
	MUST(server_hear(sock, &fd) == -1); /* the memory */
	memory_map(fd);
	MUST(server_hear(sock, &bell[0]) == host->host_peer);
	MUST(server_hear(sock, &bell[1]) == host->host_peer);
}

static void rest(void)
{
	const struct timespec ts = {.tv_nsec = 50000};

	nanosleep(&ts, NULL);
}

static int epoch_set(line_u32 epoch)
{
	__atomic_store_n(&guest->epoch, epoch, __ATOMIC_SEQ_CST);
	MUST(!eventfd_write(bell[0], 1));
	for (int i = 0; i < POLLS_MAX; i++, rest())
		if (__atomic_load_n(&host->epoch, __ATOMIC_SEQ_CST) == epoch) {
			tail = 0;
			return 0;
		}
	return -ETIMEDOUT;
}

/* Posts one request and waits for it. */
static int request(const struct line_entry *entry, char **slot_out)
{
	line_u32 i = tail % entries;
	struct line_entry *e = (void *)(queue_bytes + line_entry_at(i));
	char *slot = queue_bytes + line_slot_at(entries, i);

	if (entry->op == LINE_OP_PUT)
		swapper_page(entry->cookie, slot);
	*e = *entry;
	__atomic_store_n(&queue->tail, ++tail, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&queue->sleeping, __ATOMIC_SEQ_CST))
		MUST(!eventfd_write(bell[1], 1));
	*slot_out = slot;
	for (int n = 0; n < POLLS_MAX; n++) {
		if (__atomic_load_n(&queue->head, __ATOMIC_SEQ_CST) == tail)
			return e->result;
		if (n > 100)
			rest();
	}
	return -ETIMEDOUT;
}

static struct line_entry entry_of(const struct order *o)
{
	struct line_entry e = {.op = (line_u8)o->op,
			       .pool = o->pool,
			       .oid = {7, 8, 9},
			       .index = o->index,
			       .cookie = o->seed};

	if (o->op == LINE_OP_POOL_CREATE) {
		e.pool = (line_s32)o->index;
		e.index = 0;
		e.oid[0] = o->seed;
		e.oid[1] = e.oid[2] = 0;
	}
	return e;
}

static int obey_one(const struct order *o)
{
	struct line_entry entry = entry_of(o);
	char *slot, page[PAGE_BYTES];
	int rc = request(&entry, &slot);

	if (rc || o->op != LINE_OP_GET)
		return rc;
	swapper_page(o->seed, page);
	return memcmp(page, slot, PAGE_BYTES) ? -EBADMSG : 0;
}

static int obey(struct order *o)
{
	static line_u32 epoch;
	int rc = 0;

	if (o->op == SWAPPER_BEGIN)
		return epoch_set(++epoch);
	if (o->op == SWAPPER_END)
		return epoch_set(0);
	if (o->op == SWAPPER_STATS) {
		guest->stats.wait_ns += o->seed;
		return 0;
	}
	if (o->op == SWAPPER_WISH)
		return (int)__atomic_load_n(&host->balloon_pages,
					    __ATOMIC_SEQ_CST);
	if (o->op == LINE_OP_POOL_CREATE)
		return obey_one(o);
	for (; o->count && !rc; o->count--, o->index++, o->seed++)
		rc = obey_one(o);
	return rc;
}

void swapper_main(void)
{
	struct order o;
	int32_t rc;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	device_open();
	ram_announce();
	while (read(0, &o, sizeof(o)) == (ssize_t)sizeof(o)) {
		rc = obey(&o);
		MUST(write(1, &rc, sizeof(rc)) == (ssize_t)sizeof(rc));
	}
	_exit(0);
}

/* ---- the test's side ----------------------------------------------------- */

_Noreturn static void child_exec(const char *run_dir, const char *name,
				 const char *tmem)
{
	setenv("TIDEPOOL_RUN_DIR", run_dir, 1);
	setenv("TIDEPOOL_NAME", name, 1);
	setenv("TIDEPOOL_TMEM", tmem, 1);
	preload_exec("--swapper", NULL);
}

void swapper_start(struct swapper *s, const char *run_dir, const char *name,
		   const char *tmem)
{
	int in[2], out[2];

	ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	s->pid = fork();
	ck_assert_int_ge(s->pid, 0);
	if (!s->pid) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		child_exec(run_dir, name, tmem);
	}
	close(in[0]);
	close(out[1]);
	s->in = in[1];
	s->out = out[0];
}

void swapper_stop(struct swapper *s)
{
	kill(s->pid, SIGKILL);
	ck_assert_int_eq(waitpid(s->pid, NULL, 0), s->pid);
	close(s->in);
	close(s->out);
}

static int order_give(struct swapper *s, const struct order *o)
{
	struct pollfd p = {s->out, POLLIN, 0};
	int32_t rc;

	ck_assert_int_eq(write(s->in, o, sizeof(*o)), sizeof(*o));
	ck_assert_msg(poll(&p, 1, 60000) == 1, "the guest hangs");
	ck_assert_msg(read(s->out, &rc, sizeof(rc)) == (ssize_t)sizeof(rc),
		      "the VM died");
	return rc;
}

int swapper_do(struct swapper *s, int op, int pool, uint32_t index,
	       uint64_t seed)
{
	const struct order o = {op, pool, index, 1, seed};

	return order_give(s, &o);
}

void swapper_put_many(struct swapper *s, int pool, uint32_t first, uint32_t n,
		      uint64_t base)
{
	const struct order o = {LINE_OP_PUT, pool, first, n, base + first};

	ck_assert_int_eq(order_give(s, &o), 0);
}
