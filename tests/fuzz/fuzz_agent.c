/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Everything hvd may send, in any order, to an agent whose guest RAM is real:
 * packets go through the socket and link.c to the worker, and from there into
 * mm and sharing. Half of the guest's pages equal the pool's frames, so that
 * grants the input makes up are really mapped. After each input every byte of
 * the guest must be what it was.
 *
 * fuzz-needs: hv/agent/config.c hv/agent/link.c hv/agent/maps.c
 * fuzz-needs: hv/agent/extent.c hv/agent/agent.c hv/agent/real.c
 * fuzz-needs: hv/agent/port.c hv/agent/guest.c hv/agent/job.c
 * fuzz-needs: hv/agent/command.c
 * fuzz-max-len: 8192
 *
 * An input is a row of packets: one byte of kind, two of length, the bytes.
 */
#include "hv/agent/worker.c"
#include "sharing/share_core.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#define PAGES  (CHUNK_PAGES * 2)
#define FRAMES 256

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct worker w;
static int listener, peer = -1, pool_fd, file_fd;
static unsigned char *ram, *truth;

#define MUST(x)                                                                \
	do {                                                                   \
		if (!(x))                                                      \
			abort();                                               \
	} while (0)

/* Pages of even number equal the frame of their number. */
static void page_make(size_t page, void *out)
{
	uint64_t *word = out;
	uint64_t seed = page % 2 ? page + 12345 : page % FRAMES + 1;

	for (size_t i = 0; i < PAGE_BYTES / 8; i++)
		word[i] = (seed + i) * 0x9e3779b97f4a7c15ULL;
}

static void ram_check(void)
{
	MUST(!memcmp(ram, truth, PAGES * PAGE_BYTES));
}

static void ram_create(void)
{
	unsigned char *at = mmap(NULL, (PAGES + CHUNK_PAGES) * PAGE_BYTES,
				 PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(at != MAP_FAILED);
	ram = (unsigned char *)(((uintptr_t)at + CHUNK_BYTES - 1) &
				~(CHUNK_BYTES - 1));
	MUST(!madvise(ram, PAGES * PAGE_BYTES, MADV_DONTFORK));
	MUST(!madvise(ram, PAGES * PAGE_BYTES, MADV_NOHUGEPAGE));
	truth = malloc(PAGES * PAGE_BYTES);
	MUST(truth);
	for (size_t i = 0; i < PAGES; i++)
		page_make(i, truth + i * PAGE_BYTES);
	memcpy(ram, truth, PAGES * PAGE_BYTES);
}

static void pool_create(void)
{
	uint64_t page[PAGE_BYTES / 8];

	pool_fd = memfd_create("fuzz", MFD_CLOEXEC);
	MUST(pool_fd >= 0 && !ftruncate(pool_fd, FRAMES * PAGE_BYTES));
	for (size_t i = 0; i < FRAMES; i += 2) {
		page_make(i, page);
		MUST(pwrite(pool_fd, page, sizeof(page),
			    (off_t)(i * PAGE_BYTES)) == sizeof(page));
	}
}

static char dir[] = "/tmp/fuzz_agent.XXXXXX";

static void socket_remove(void)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/agent.sock", dir);
	unlink(path);
	rmdir(dir);
}

static void socket_create(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	MUST(mkdtemp(dir));
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/agent.sock", dir);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	MUST(listener >= 0);
	MUST(!bind(listener, (struct sockaddr *)&addr, sizeof(addr)));
	MUST(!listen(listener, 4));
	MUST(!link_create(dir, &w.link));
	atexit(socket_remove);
}

/* A line with nobody at its other end, and pages left by an earlier guest. */
static void guest_create(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), pool;
	static const struct tmem_oid oid = {{1, 2, 3}};
	uint64_t page[PAGE_BYTES / 8];

	w.config.tmem_bytes = 1 << 20;
	w.config.tmem_queues = 1;
	MUST(fd >= 0 && !port_connect(&w.config, fd));
	pool = tmem_pool_create(guest_client(), TMEM_PERSISTENT, NULL);
	MUST(pool >= 0);
	for (uint32_t i = 0; i < 8; i++) {
		page_make(i, page);
		MUST(!tmem_put(guest_client(), pool, &oid, i, page));
	}
	file_fd = memfd_create("file", MFD_CLOEXEC);
	MUST(file_fd >= 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_init("fuzz", 0);
	agent_inside = true;
	w.config = (struct config){
		.name = "fuzz", .shares = 1, .store_bytes = PAGES * PAGE_BYTES};
	w.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w.retry_ns = RETRY_MIN;
	MUST(!job_list_create(w.wake_fd, &w.jobs));
	guest_create();
	ram_create();
	pool_create();
	socket_create();
	return 0;
}

static void packet_send(const void *msg, size_t n, const int *fds, size_t nfds)
{
	char control[CMSG_SPACE(4 * sizeof(int))] = {0};
	struct iovec iov = {(void *)(uintptr_t)msg, n};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *cm;

	if (nfds) {
		mh.msg_control = control;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		cm = CMSG_FIRSTHDR(&mh);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(cm), fds, nfds * sizeof(int));
	}
	if (peer >= 0)
		sendmsg(peer, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* What the agent says is thrown away, so that its queue moves. */
static void drain(void)
{
	static char buf[WIRE_MAX];

	while (peer >= 0 && recv(peer, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

static void connect_fresh(void)
{
	if (peer >= 0)
		close(peer);
	w.connect_at = 0;
	connect_try(&w);
	peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	drain();
}

static void welcome_send(void)
{
	struct {
		struct wire_head head;
		struct wire_welcome body;
	} msg = {{WIRE_VERSION, WIRE_WELCOME, sizeof(msg)},
		 {.pool_bytes = FRAMES * PAGE_BYTES, .vm = 1}};

	packet_send(&msg, sizeof(msg), &pool_fd, 1);
}

static void agent_listens(void)
{
	if (link_is_open(w.link))
		messages(&w);
	if (link_is_open(w.link) && link_flush(w.link))
		connection_lost(&w, -EPIPE);
	drain();
}

/* The slices a turn gives to sharing and reclaim take milliseconds. */
static void agent_works(void)
{
	if (w.share) /* grants are gathered for 20 ms: no time for that */
		w.share->grants_since_ns = 0;
	w.scan_at = 0;
	if (w.welcomed)
		work_online(&w);
	if (w.mm)
		mm_reclaim(w.mm);
	jobs_answer(&w);
	agent_listens();
}

/* ---- messages that have a chance ------------------------------------------
 */

static size_t grants_shape(struct wire_grant *g, size_t n)
{
	for (size_t i = 0; i < n / sizeof(*g); i++) {
		g[i].page %= 2 * PAGES;
		g[i].frame %= 2 * FRAMES;
		/* mostly the frame that page equals */
		if (g[i].reserved & 3)
			g[i].frame = (uint32_t)(g[i].page % FRAMES);
		g[i].reserved = 0;
	}
	return n / sizeof(*g) * sizeof(*g);
}

static size_t wants_shape(struct wire_want *want, size_t n)
{
	for (size_t i = 0; i < n / sizeof(*want); i++) {
		want[i].page %= 2 * PAGES;
		want[i].hash = (want[i].hash & HASH_MASK) | 1;
		want[i].reserved = 0;
	}
	return n / sizeof(*want) * sizeof(*want);
}

static size_t target_shape(struct wire_target *t)
{
	t->flags &= WIRE_MAY_SHARE | WIRE_MAY_COMPRESS | WIRE_BREAK_HUGE;
	t->resident_bytes %= 2 * PAGES * PAGE_BYTES;
	t->pressure %= 5;
	return sizeof(*t);
}

static size_t command_shape(struct wire_command *c)
{
	c->op = 1 + c->op % WIRE_CMD_RESTORE;
	c->compress &= 1;
	c->on &= 1;
	c->pool = (int32_t)((uint32_t)c->pool % TMEM_POOLS_MAX) - 1;
	c->reserved = 0;
	return sizeof(*c);
}

/* body has room for every fixed structure, zeros behind n. Its new length. */
static size_t body_shape(unsigned type, void *body, size_t n)
{
	switch (type) {
	case WIRE_GRANT:
		return grants_shape(body, n);
	case WIRE_WANT:
		return wants_shape(body, n);
	case WIRE_TARGET:
		return target_shape(body);
	case WIRE_COMMAND:
		return command_shape(body);
	default:
		return n;
	}
}

/* kind: 0..7 the type; 8 as it is; 16 head included; 64, 128 descriptors. */
static void packet_play(uint8_t kind, const uint8_t *data, size_t n)
{
	static struct {
		struct wire_head head;
		uint8_t body[8192 + 256];
	} msg;
	unsigned type = WIRE_WELCOME + (kind & 7);
	const int fds[3] = {type == WIRE_COMMAND ? file_fd : pool_fd, listener,
			    pool_fd};

	if (kind & 16) {
		packet_send(data, n, fds, kind >> 6);
		return;
	}
	memset(&msg, 0, sizeof(msg));
	memcpy(msg.body, data, n);
	if (!(kind & 8))
		n = body_shape(type, msg.body, n);
	msg.head = (struct wire_head){WIRE_VERSION, (uint16_t)type,
				      (uint32_t)(sizeof(msg.head) + n)};
	packet_send(&msg, msg.head.bytes, fds, kind >> 6);
}

static void manage_once(void)
{
	static bool done;

	if (done || !w.mm)
		return;
	done = true;
	MUST(!mm_range_add(w.mm, hva_of(ram), PAGES * PAGE_BYTES, true));
	/* The first pass finds the pages; until then no grant is for one. */
	for (int i = 0; i < 50; i++)
		agent_works();
}

/* UNMANAGE is for good; here the next input wants a managed VM again. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	w.finished = false;
	MUST(!ftruncate(file_fd, 0));
	if (!link_is_open(w.link))
		connect_fresh();
	if (!w.welcomed) {
		welcome_send();
		agent_listens();
		manage_once();
	}
	while (size > 3) {
		size_t n = min_u64(data[1] | (size_t)data[2] << 8, size - 3);

		packet_play(data[0], data + 3, n);
		data += 3 + n;
		size -= 3 + n;
		agent_listens();
	}
	agent_works();
	ram_check();
	return 0;
}
