/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Many agents in one program, for bench/scale_bench.py: a host full of guests,
 * simulated through hvd's real socket with real messages.
 *
 *   swarm SOCKET DOMAIN GUESTS PAGES IMAGES SEED
 *
 * Each step ends with one line of JSON, and waits for one word on stdin: what
 * to do next.
 *
 *   pass           every guest offers its pages, at one pace, and answers what
 *                  it is asked for, until nothing more happens
 *   rest SECONDS   statistics alone, once a second from each guest
 *   churn PERMILLE so many of each guest's pages change: what they shared is
 *                  given back, their new content is offered
 *   end
 *
 * Guest RAM is not there at all: what a page holds follows from its number, and
 * is made when hvd asks for it.
 *
 *   a guest     | run of 8 | run | run | ...       turned by another number of
 *                                                  runs in each guest
 *   a run       zero | of the image | within | unique
 *
 * "Of the image": equal in all guests of one image. "Within": one of few
 * contents (a 64th of such pages) equal within this guest. Zero pages are
 * dropped by an agent and never offered. Of a unique page only a number is
 * offered, at random; the rare one that meets another is declined as a page
 * that changed since.
 *
 * hvd knows a VM by its process, so each guest has one: it shares our table of
 * descriptors, connects, and sleeps.
 */
#include "bench/lib/tool.h"
#include "sharing/hash.h"
#include "sharing/wire.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RUN_PAGES   8
#define ZERO_SHARE  6 /* of a hundred runs, as on real desktops */
#define IMAGE_SHARE 40
#define WITHIN	    9
#define WITHIN_SAME 64
#define OFFERS	    2048		       /* in a message */
#define QUIET_NS    (UINT64_C(3) * 1000000000) /* over the 2 s of a gather */
#define EVENTS	    64

enum kind { KIND_ZERO, KIND_IMAGE, KIND_WITHIN, KIND_UNIQUE };

struct guest {
	int fd;
	uint32_t number, turn; /* pages */
	uint64_t at;	       /* next page to offer */
	struct wire_want *want;
	size_t wants, wants_done, want_room;
	struct wire_grant *kept; /* given back by churn */
	size_t kept_count;
	uint64_t shared, stats_ns;
};

struct count {
	uint64_t sent, received; /* messages */
	uint64_t offers, wants, published, declined, grants, releases;
};

struct swarm {
	uint32_t guests, images;
	uint64_t pages, within, seed, keep;
	uint8_t secret[192];
	uint64_t *image_hash, *within_hash; /* 0: not made yet */
	struct guest *guest;
	int epoll;
	struct count count;
	uint64_t active_ns;
	struct {
		struct wire_head head;
		unsigned char body[WIRE_MAX - sizeof(struct wire_head)];
	} out, in;
};

static void *memory(size_t n, size_t bytes)
{
	void *p = calloc(n ? n : 1, bytes);

	if (!p)
		tool_fail("memory");
	return p;
}

/* ---- contents --------------------------------------------------------- */

/* Where the page lies in the order that all guests have. */
static uint64_t place_of(const struct swarm *s, const struct guest *g,
			 uint64_t page)
{
	return (page + g->turn) % s->pages;
}

static enum kind kind_of(const struct swarm *s, uint64_t place)
{
	uint64_t draw = tool_mixed(s->seed ^ place / RUN_PAGES) % 100;

	if (draw < ZERO_SHARE)
		return KIND_ZERO;
	if (draw < ZERO_SHARE + IMAGE_SHARE)
		return KIND_IMAGE;
	return draw < ZERO_SHARE + IMAGE_SHARE + WITHIN ? KIND_WITHIN
							: KIND_UNIQUE;
}

static void content_fill(uint64_t name, uint8_t page[PAGE_BYTES])
{
	memset(page, 0, PAGE_BYTES);
	memcpy(page, &name, sizeof(name));
}

/* A name for the content and where its hash is kept. */
static uint64_t content_of(const struct swarm *s, const struct guest *g,
			   uint64_t place, uint64_t **hash_out)
{
	uint64_t at;

	if (kind_of(s, place) == KIND_IMAGE) {
		at = g->number % s->images * s->pages + place;
		*hash_out = &s->image_hash[at];
		return tool_mixed(s->seed + 1) ^ at;
	}
	at = g->number * s->within + tool_mixed(place ^ s->seed) % s->within;
	*hash_out = &s->within_hash[at];
	return tool_mixed(s->seed + 2) ^ at;
}

/* HASH_NONE: a zero page. */
static uint64_t page_hash(const struct swarm *s, const struct guest *g,
			  uint64_t page)
{
	uint64_t place = place_of(s, g, page), *hash, name;
	enum kind kind = kind_of(s, place);
	uint8_t bytes[PAGE_BYTES];

	if (kind == KIND_ZERO)
		return HASH_NONE;
	if (kind == KIND_UNIQUE)
		return (tool_mixed((s->seed << 32) + g->number * s->pages +
				   page) &
			HASH_MASK) |
		       1;
	name = content_of(s, g, place, &hash);
	if (*hash == HASH_NONE) {
		content_fill(name, bytes);
		*hash = sharing_hash(s->secret, bytes);
	}
	return *hash;
}

/* Of a page that changed: another one each time, as a unique page's. */
static uint64_t changed_hash(const struct swarm *s, uint64_t number)
{
	return (tool_mixed(~s->seed << 32 ^ number) & HASH_MASK) | 1;
}

/* ---- messages --------------------------------------------------------- */

/* False: the socket takes nothing now. */
static bool message_send(struct swarm *s, const struct guest *g,
			 enum wire_type type, size_t bytes)
{
	ssize_t n;

	s->out.head = (struct wire_head){
		.version = WIRE_VERSION,
		.type = (uint16_t)type,
		.bytes = (uint32_t)(sizeof(s->out.head) + bytes)};
	n = send(g->fd, &s->out, s->out.head.bytes,
		 MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && (errno == EAGAIN || errno == ENOBUFS || errno == EINTR))
		return false;
	if (n < 0)
		tool_fail("hvd ended a connection");
	s->count.sent++;
	if (type != WIRE_STATS)
		s->active_ns = tool_now_ns();
	return true;
}

static bool stats_send(struct swarm *s, struct guest *g)
{
	struct wire_stats stats = {
		.mm = {.ram_pages = s->pages, .shared_pages = g->shared}};

	stats.mm.private_pages = s->pages - min_u64(g->shared, s->pages);
	stats.mm.cold_pages = stats.mm.private_pages / 2;
	stats.mm.metadata_bytes = s->pages * 9;
	memcpy(s->out.body, &stats, sizeof(stats));
	return message_send(s, g, WIRE_STATS, sizeof(stats));
}

/* One message of offers; false: nothing was sent. */
static bool offers_send(struct swarm *s, struct guest *g)
{
	struct wire_offer *offer = (void *)s->out.body;
	uint64_t page = g->at, hash;
	size_t n = 0;

	for (; page < s->pages && n < OFFERS; page++) {
		hash = page_hash(s, g, page);
		if (hash != HASH_NONE)
			offer[n++] =
				(struct wire_offer){.page = page, .hash = hash};
	}
	if (n && !message_send(s, g, WIRE_OFFER, n * sizeof(*offer)))
		return false;
	g->at = page;
	s->count.offers += n;
	return n > 0;
}

/* The next pages asked for, in one message. */
static bool wants_answer(struct swarm *s, struct guest *g)
{
	const struct wire_want *want = g->want + g->wants_done;
	struct wire_publish *publish = (void *)s->out.body;
	uint32_t n =
		(uint32_t)min_u64(g->wants - g->wants_done, WIRE_PUBLISH_MAX);
	uint8_t *page = (uint8_t *)&publish->entry[n];
	uint64_t *hash;
	uint32_t i;

	*publish = (struct wire_publish){.count = n};
	for (i = 0; i < n; i++) {
		publish->entry[i] = want[i];
		content_fill(
			content_of(s, g, place_of(s, g, want[i].page), &hash),
			page + i * PAGE_BYTES);
	}
	if (!message_send(s, g, WIRE_PUBLISH,
			  sizeof(*publish) + n * (sizeof(*want) + PAGE_BYTES)))
		return false;
	g->wants_done += n;
	s->count.published += n;
	if (g->wants_done == g->wants)
		g->wants = g->wants_done = 0;
	return true;
}

static void want_decline(struct swarm *s, struct guest *g,
			 const struct wire_want *want)
{
	struct pollfd pfd = {.fd = g->fd, .events = POLLOUT};

	memcpy(s->out.body, want, sizeof(*want));
	while (!message_send(s, g, WIRE_DECLINE, sizeof(*want)))
		poll(&pfd, 1, 1000);
	s->count.declined++;
}

static void wants_take(struct swarm *s, struct guest *g)
{
	const struct wire_want *want = (void *)s->in.body;
	size_t n = wire_count(&s->in.head, sizeof(*want)), i;

	if (g->wants + n > g->want_room) {
		g->want_room = 2 * g->want_room + n;
		g->want = realloc(g->want, g->want_room * sizeof(*want));
		if (!g->want)
			tool_fail("memory");
	}
	for (i = 0; i < n; i++)
		if (kind_of(s, place_of(s, g, want[i].page)) == KIND_UNIQUE)
			want_decline(s, g, &want[i]);
		else
			g->want[g->wants++] = want[i];
	s->count.wants += n;
}

static void grants_take(struct swarm *s, struct guest *g)
{
	const struct wire_grant *grant = (void *)s->in.body;
	size_t n = wire_count(&s->in.head, sizeof(*grant)), i;

	for (i = 0; i < n && g->kept_count < s->keep; i++)
		g->kept[g->kept_count++] = grant[i];
	g->shared += n;
	s->count.grants += n;
}

/* All that is there. */
static void messages_take(struct swarm *s, struct guest *g)
{
	ssize_t n;

	while ((n = recv(g->fd, &s->in, sizeof(s->in), MSG_DONTWAIT)) > 0) {
		if (wire_check(WIRE_HVD, &s->in, (size_t)n)) {
			errno = EPROTO;
			tool_fail("hvd");
		}
		s->count.received++;
		if (s->in.head.type == WIRE_WANT)
			wants_take(s, g);
		else if (s->in.head.type == WIRE_GRANT)
			grants_take(s, g);
		else
			continue;
		s->active_ns = tool_now_ns();
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n == 0)
		errno = ECONNRESET;
	tool_fail("hvd ended a connection");
}

/* Answers and statistics before new offers. Did anything go out? */
static bool guest_turn(struct swarm *s, struct guest *g)
{
	uint64_t now = tool_now_ns();

	if (now - g->stats_ns > TOOL_SECOND_NS && stats_send(s, g))
		g->stats_ns = now;
	if (g->wants)
		return wants_answer(s, g);
	return g->at < s->pages && offers_send(s, g);
}

static void events_take(struct swarm *s, int wait_ms)
{
	struct epoll_event event[EVENTS];
	int i, n = epoll_wait(s->epoll, event, EVENTS, wait_ms);

	for (i = 0; i < n; i++)
		messages_take(s, event[i].data.ptr);
}

/* Until `end`, or for 0 until nothing has happened for a while. */
static void swarm_run(struct swarm *s, uint64_t end)
{
	bool busy;
	uint32_t i;

	s->active_ns = tool_now_ns();
	do {
		busy = false;
		for (i = 0; i < s->guests; i++)
			busy |= guest_turn(s, &s->guest[i]);
		events_take(s, busy ? 0 : 5);
	} while (end ? tool_now_ns() < end
		     : tool_now_ns() - s->active_ns < QUIET_NS);
}

/* ---- guests ----------------------------------------------------------- */

/* Shares our descriptors, not our memory. */
static void process_start(const struct sockaddr_un *addr, int fd)
{
	long pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);

	if (pid < 0)
		tool_fail("clone");
	if (pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)))
		tool_fail("connect");
	for (;;)
		pause();
}

static void guest_hello(struct swarm *s, struct guest *g, const char *domain)
{
	struct wire_hello hello = {.ram_pages = s->pages,
				   .shares = 1000,
				   .page_bytes = PAGE_BYTES};
	struct pollfd pfd = {.fd = g->fd, .events = POLLIN};
	struct wire_welcome welcome;
	ssize_t n;

	snprintf(hello.name, sizeof(hello.name), "guest%u", g->number);
	snprintf(hello.domain, sizeof(hello.domain), "%s", domain);
	memcpy(s->out.body, &hello, sizeof(hello));
	s->out.head = (struct wire_head){
		WIRE_VERSION, WIRE_HELLO,
		(uint32_t)(sizeof(s->out.head) + sizeof(hello))};
	while (send(g->fd, &s->out, s->out.head.bytes, MSG_NOSIGNAL) < 0)
		if (errno != ENOTCONN || usleep(500))
			tool_fail("HELLO");
	if (poll(&pfd, 1, 20000) != 1)
		tool_fail("no WELCOME");
	/* Without room for descriptors: the kernel closes them. */
	n = recv(g->fd, &s->in, sizeof(s->in), 0);
	if (n < 0 || wire_check(WIRE_HVD, &s->in, (size_t)n) ||
	    s->in.head.type != WIRE_WELCOME) {
		errno = EPROTO;
		tool_fail("WELCOME");
	}
	memcpy(&welcome, s->in.body, sizeof(welcome));
	memcpy(s->secret, welcome.secret, sizeof(s->secret));
}

static void guest_start(struct swarm *s, uint32_t number,
			const struct sockaddr_un *addr, const char *domain)
{
	struct guest *g = &s->guest[number];
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = g};

	g->number = number;
	g->turn = (uint32_t)(tool_mixed(s->seed + number) %
			     (s->pages / RUN_PAGES) * RUN_PAGES);
	g->at = s->pages;
	g->kept = memory(s->keep, sizeof(*g->kept));
	g->fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	if (g->fd < 0)
		tool_fail("socket");
	process_start(addr, g->fd);
	guest_hello(s, g, domain);
	if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, g->fd, &event))
		tool_fail("epoll");
}

static void swarm_init(struct swarm *s)
{
	s->epoll = epoll_create1(0);
	if (s->epoll < 0)
		tool_fail("epoll");
	s->within = s->pages * WITHIN / 100 / WITHIN_SAME + 1;
	s->keep = s->pages / 20;
	s->image_hash = memory(s->images * s->pages, sizeof(uint64_t));
	s->within_hash = memory(s->guests * s->within, sizeof(uint64_t));
	s->guest = memory(s->guests, sizeof(*s->guest));
}

/* ---- steps ------------------------------------------------------------ */

static void step_report(struct swarm *s, const char *step, uint64_t start,
			uint64_t idle_ns)
{
	const struct count *c = &s->count;
	double seconds = (double)(tool_now_ns() - start - idle_ns) / 1e9;

	printf("{\"step\": \"%s\", \"seconds\": %.3f, \"sent\": %" PRIu64
	       ", \"received\": %" PRIu64 ", \"offers\": %" PRIu64
	       ", \"wants\": %" PRIu64 ", \"published\": %" PRIu64
	       ", \"declined\": %" PRIu64 ", \"grants\": %" PRIu64
	       ", \"releases\": %" PRIu64 "}\n",
	       step, seconds, c->sent, c->received, c->offers, c->wants,
	       c->published, c->declined, c->grants, c->releases);
	fflush(stdout);
	s->count = (struct count){0};
}

static void step_pass(struct swarm *s)
{
	uint64_t start = tool_now_ns();
	uint32_t i;

	for (i = 0; i < s->guests; i++)
		s->guest[i].at = 0;
	swarm_run(s, 0);
	step_report(s, "pass", start, tool_now_ns() - s->active_ns);
}

static void step_rest(struct swarm *s, unsigned seconds)
{
	uint64_t start = tool_now_ns();

	swarm_run(s, start + seconds * TOOL_SECOND_NS);
	step_report(s, "rest", start, 0);
}

static void message_send_surely(struct swarm *s, struct guest *g,
				enum wire_type type, size_t bytes)
{
	static struct {
		unsigned char body[sizeof(s->out.body)];
	} copy;

	memcpy(copy.body, s->out.body, bytes);
	while (!message_send(s, g, type, bytes)) {
		events_take(s, 1);
		memcpy(s->out.body, copy.body, bytes);
	}
}

/* These pages were shared; each is written, and becomes unique. */
static void guest_churn(struct swarm *s, struct guest *g, size_t n)
{
	struct wire_release *release = (void *)s->out.body;
	struct wire_offer *offer = (void *)s->out.body;
	const struct wire_grant *from;
	size_t i;

	n = min_u64(min_u64(n, g->kept_count), OFFERS);
	if (!n)
		return;
	from = &g->kept[g->kept_count - n];
	for (i = 0; i < n; i++)
		release[i].frame = from[i].frame;
	message_send_surely(s, g, WIRE_RELEASE, n * sizeof(*release));
	for (i = 0; i < n; i++)
		offer[i] = (struct wire_offer){
			.page = from[i].page,
			.hash = changed_hash(s, s->count.offers + i),
			.was = page_hash(s, g, from[i].page)};
	message_send_surely(s, g, WIRE_OFFER, n * sizeof(*offer));
	g->kept_count -= n;
	g->shared -= min_u64(g->shared, n);
	s->count.releases += n;
	s->count.offers += n;
}

static void step_churn(struct swarm *s, unsigned permille)
{
	uint64_t start = tool_now_ns(), each = s->pages * permille / 1000, done;
	uint32_t i;

	for (done = 0; done < each; done += OFFERS)
		for (i = 0; i < s->guests; i++)
			guest_churn(s, &s->guest[i],
				    min_u64(OFFERS, each - done));
	swarm_run(s, 0);
	step_report(s, "churn", start, tool_now_ns() - s->active_ns);
}

static bool step_next(struct swarm *s)
{
	char line[64];
	unsigned n;

	if (!fgets(line, sizeof(line), stdin) || !strcmp(line, "end\n"))
		return false;
	if (!strcmp(line, "pass\n"))
		step_pass(s);
	else if (sscanf(line, "rest %u", &n) == 1)
		step_rest(s, n);
	else if (sscanf(line, "churn %u", &n) == 1)
		step_churn(s, n);
	else
		return false;
	return true;
}

int main(int argc, char **argv)
{
	static struct swarm s;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	uint64_t start = tool_now_ns();
	uint32_t i;

	if (argc != 7) {
		fprintf(stderr, "usage: swarm SOCKET DOMAIN GUESTS PAGES "
				"IMAGES SEED\n");
		return 2;
	}
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", argv[1]);
	s.guests = (uint32_t)strtoul(argv[3], NULL, 10);
	s.pages = strtoull(argv[4], NULL, 10) / RUN_PAGES * RUN_PAGES;
	s.images = (uint32_t)strtoul(argv[5], NULL, 10);
	s.seed = strtoull(argv[6], NULL, 10);
	if (!s.guests || !s.pages || !s.images)
		return 2;
	signal(SIGCHLD, SIG_IGN);
	swarm_init(&s);
	for (i = 0; i < s.guests; i++)
		guest_start(&s, i, &addr, argv[2]);
	step_report(&s, "hello", start, 0);
	while (step_next(&s))
		;
	return 0;
}
