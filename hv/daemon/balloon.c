/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QMP client on the event loop:
 *
 *   connect -> greeting -> qmp_capabilities -> qom-list (twice, until a
 *   virtio-balloon is found) -> qom-set guest-stats-polling-interval ->
 *   query-memory-size-summary -> then, once a second while the balloon is
 *   wanted or out: query-balloon, qom-get guest-stats
 *
 * One request is under way at a time, so an answer needs no lookup: it belongs
 * to the step we are in. Anything unexpected closes the connection; it is tried
 * again after a while, since a guest without a balloon, or a QMP socket another
 * client holds, is no fault of ours.
 *
 * How much: never more than needed, than a tenth of the RAM at a time, or than
 * leaves keep_bytes and a quarter of what is available to the guest. A guest
 * short of that gets some back at once: a balloon that makes a guest swap costs
 * more than the compression it was to spare.
 *
 * Numbers are read as reals: QEMU says 2^64 - 1 for a statistic that the guest
 * never gave, which jansson refuses as an integer.
 */
#include "hv/daemon/balloon.h"
#include "hv/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LINE_MAX_BYTES ((size_t)256 << 10)
#define RETRY_NS       (UINT64_C(10) * 1000000000)
#define ANSWER_NS      (UINT64_C(10) * 1000000000)
#define POLL_SECONDS   1
#define STEP_PART      10 /* of RAM, at a time */
#define UNKNOWN	       (-1.0)

enum step {
	STEP_OFF,
	STEP_GREETING,
	STEP_CAPABILITIES,
	STEP_LIST,	/* /machine/peripheral */
	STEP_LIST_ANON, /* /machine/peripheral-anon */
	STEP_INTERVAL,
	STEP_SIZE,
	STEP_IDLE,
	STEP_ACTUAL,
	STEP_STATS,
	STEP_MOVE,
};

struct balloon {
	struct hvd *hvd;
	char name[WIRE_NAME_MAX];
	struct sockaddr_un addr;
	int fd;
	sd_event_source *source;
	enum step step;
	uint64_t since_ns; /* of this step */
	char device[256];  /* QOM path */
	char *in;
	size_t in_bytes;
	double full, actual, available; /* bytes */
	double stats_at, moved_at;	/* guest statistics' own clock */
	bool want_take, want_deflate, told_missing;
	uint64_t need_bytes, keep_bytes;
};

static void step_set(struct balloon *b, enum step step)
{
	b->step = step;
	b->since_ns = hvd_now_ns();
}

static void balloon_close(struct balloon *b)
{
	sd_event_source_disable_unref(b->source);
	b->source = NULL;
	if (b->fd >= 0)
		close(b->fd);
	b->fd = -1;
	b->in_bytes = 0;
	step_set(b, STEP_OFF);
}

/* ---- requests --------------------------------------------------------- */

/* Takes arguments. The socket of an idle QMP server takes a short line. */
static int request_send(struct balloon *b, const char *command,
			json_t *arguments, enum step step)
{
	json_t *request = json_pack("{s:s, s:o*}", "execute", command,
				    "arguments", arguments);
	char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	size_t n = text ? strlen(text) : 0;
	int rc = -ENOMEM;

	json_decref(request);
	if (text) {
		text[n] = '\n'; /* in place of its end; n + 1 are sent */
		rc = send(b->fd, text, n + 1, MSG_DONTWAIT | MSG_NOSIGNAL) ==
				     (ssize_t)(n + 1)
			     ? 0
			     : -EIO;
	}
	free(text);
	step_set(b, step);
	return rc;
}

static int path_request(struct balloon *b, const char *command,
			const char *path, enum step step)
{
	return request_send(b, command, json_pack("{s:s}", "path", path), step);
}

static int property_get(struct balloon *b, const char *property, enum step step)
{
	return request_send(b, "qom-get",
			    json_pack("{s:s, s:s}", "path", b->device,
				      "property", property),
			    step);
}

static double smaller(double a, double b)
{
	return a < b ? a : b;
}

/*
 * What is on its way into the balloon counts as taken, until the guest says how
 * much it is: who deflates right after this must see that there is something.
 */
static int move_to(struct balloon *b, double bytes)
{
	b->moved_at = b->stats_at;
	b->actual = smaller(b->actual, bytes);
	return request_send(b, "balloon",
			    json_pack("{s:I}", "value", (json_int_t)bytes),
			    STEP_MOVE);
}

/* ---- how much --------------------------------------------------------- */

/* Statistics are known, and newer than what we last did. */
static int decide_take(struct balloon *b)
{
	double keep = (double)b->keep_bytes, can, step;

	if (b->available < keep / 2 && b->actual < b->full) {
		log_info("vm %s: balloon gives back: the guest has only %.0f "
			 "MiB available",
			 b->name, b->available / 0x1p20);
		return move_to(
			b, smaller(b->full, b->actual + keep - b->available));
	}
	can = b->available -
	      (keep > b->available / 4 ? keep : b->available / 4);
	step = smaller(smaller((double)b->need_bytes, can),
		       b->full / STEP_PART);
	if (step < 0x1p20)
		return 0;
	log_info("vm %s: balloon takes %.0f MiB, the guest has %.0f MiB "
		 "available",
		 b->name, step / 0x1p20, b->available / 0x1p20);
	return move_to(b, b->actual - step);
}

static int decide(struct balloon *b)
{
	step_set(b, STEP_IDLE);
	if (b->want_deflate) {
		b->want_deflate = false;
		if (b->actual >= b->full)
			return 0;
		log_info("vm %s: balloon deflated", b->name);
		return move_to(b, b->full);
	}
	if (!b->want_take || b->available < 0 || b->stats_at <= b->moved_at)
		return 0;
	b->want_take = false;
	return decide_take(b);
}

/* ---- answers ---------------------------------------------------------- */

static double number(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);
	double x = json_is_number(value) ? json_number_value(value) : UNKNOWN;

	return x >= 0 && x < 0x1p62 ? x : UNKNOWN;
}

static bool device_find(struct balloon *b, const json_t *list, const char *root)
{
	const char *type, *name;
	json_t *item;
	size_t i;

	json_array_foreach (list, i, item) {
		type = json_string_value(json_object_get(item, "type"));
		name = json_string_value(json_object_get(item, "name"));
		if (!type || !name || !strstr(type, "virtio-balloon"))
			continue;
		return (size_t)snprintf(b->device, sizeof(b->device), "%s/%s",
					root, name) < sizeof(b->device);
	}
	return false;
}

static int list_answer(struct balloon *b, const json_t *list)
{
	const char *root = b->step == STEP_LIST ? "/machine/peripheral"
						: "/machine/peripheral-anon";

	if (device_find(b, list, root))
		return request_send(b, "qom-set",
				    json_pack("{s:s, s:s, s:i}", "path",
					      b->device, "property",
					      "guest-stats-polling-interval",
					      "value", POLL_SECONDS),
				    STEP_INTERVAL);
	if (b->step == STEP_LIST)
		return path_request(b, "qom-list", "/machine/peripheral-anon",
				    STEP_LIST_ANON);
	if (!b->told_missing)
		log_info("vm %s: no virtio-balloon in it", b->name);
	b->told_missing = true;
	return -ENODEV;
}

static int stats_answer(struct balloon *b, const json_t *answer)
{
	const json_t *stats = json_object_get(answer, "stats");

	b->stats_at = number(answer, "last-update");
	b->available = number(stats, "stat-available-memory");
	return decide(b);
}

/* The answer to the request of this step: its "return". */
static int answer_take(struct balloon *b, const json_t *answer)
{
	switch (b->step) {
	case STEP_CAPABILITIES:
		return path_request(b, "qom-list", "/machine/peripheral",
				    STEP_LIST);
	case STEP_LIST:
	case STEP_LIST_ANON:
		return list_answer(b, answer);
	case STEP_INTERVAL:
		return request_send(b, "query-memory-size-summary", NULL,
				    STEP_SIZE);
	case STEP_SIZE:
		b->full = number(answer, "base-memory");
		step_set(b, STEP_IDLE);
		return b->full > 0 ? 0 : -EPROTO;
	case STEP_ACTUAL:
		b->actual = number(answer, "actual");
		if (b->actual <= 0)
			return -EPROTO;
		return property_get(b, "guest-stats", STEP_STATS);
	case STEP_STATS:
		return stats_answer(b, answer);
	case STEP_MOVE:
		step_set(b, STEP_IDLE);
		return 0;
	default:
		return -EPROTO;
	}
}

static int message_take(struct balloon *b, const json_t *msg)
{
	if (json_object_get(msg, "event"))
		return 0;
	if (b->step == STEP_GREETING)
		return json_object_get(msg, "QMP")
			       ? request_send(b, "qmp_capabilities", NULL,
					      STEP_CAPABILITIES)
			       : -EPROTO;
	/* A list that is not there is an empty one. */
	if (json_object_get(msg, "error"))
		return b->step == STEP_LIST || b->step == STEP_LIST_ANON
			       ? list_answer(b, NULL)
			       : -EPROTO;
	return answer_take(b, json_object_get(msg, "return"));
}

static int line_take(struct balloon *b, const char *line, size_t n)
{
	json_t *msg = json_loadb(line, n, JSON_DECODE_INT_AS_REAL, NULL);
	int rc = msg ? message_take(b, msg) : -EPROTO;

	json_decref(msg);
	return rc;
}

static int lines_take(struct balloon *b)
{
	char *end;
	size_t n;
	int rc = 0;

	while (!rc && (end = memchr(b->in, '\n', b->in_bytes))) {
		n = (size_t)(end - b->in);
		rc = n > 1 ? line_take(b, b->in, n) : 0;
		b->in_bytes -= n + 1;
		memmove(b->in, end + 1, b->in_bytes);
	}
	return !rc && b->in_bytes == LINE_MAX_BYTES ? -EMSGSIZE : rc;
}

static int balloon_event(sd_event_source *source, int fd, uint32_t events,
			 void *arg)
{
	struct balloon *b = arg;
	ssize_t n;
	int rc;

	(void)source;
	(void)events;
	n = recv(fd, b->in + b->in_bytes, LINE_MAX_BYTES - b->in_bytes,
		 MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n > 0)
		b->in_bytes += (size_t)n;
	rc = n > 0 ? lines_take(b) : -ECONNRESET;
	if (rc) {
		log_debug("vm %s: QMP: %s", b->name, strerror(-rc));
		balloon_close(b);
	}
	return 0;
}

/* ---- the connection -------------------------------------------------------
 */

static void balloon_connect(struct balloon *b)
{
	int rc = -EINVAL;

	step_set(b, STEP_GREETING);
	b->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (b->fd < 0 ||
	    connect(b->fd, (struct sockaddr *)&b->addr, sizeof(b->addr)))
		rc = -errno;
	else
		rc = sd_event_add_io(b->hvd->event, &b->source, b->fd, EPOLLIN,
				     balloon_event, b);
	if (rc < 0) {
		log_debug("vm %s: QMP socket %s: %s", b->name, b->addr.sun_path,
			  strerror(-rc));
		balloon_close(b);
	}
}

/* Connects, gives up on a server that does not answer, or asks how it is. */
static void balloon_poll(struct balloon *b)
{
	uint64_t age = hvd_now_ns() - b->since_ns;
	int rc = 0;

	if (b->step == STEP_OFF) {
		if (age > RETRY_NS || !b->since_ns)
			balloon_connect(b);
	} else if (b->step == STEP_IDLE) {
		rc = request_send(b, "query-balloon", NULL, STEP_ACTUAL);
	} else if (age > ANSWER_NS) {
		rc = -ETIMEDOUT;
	}
	if (rc)
		balloon_close(b);
}

struct balloon *balloon_create(struct hvd *hvd, const char *name,
			       const char *qmp_path)
{
	struct balloon *b = calloc(1, sizeof(*b));

	if (b)
		b->in = malloc(LINE_MAX_BYTES);
	if (!b || !b->in || !hvd->event) {
		free(b ? b->in : NULL);
		free(b);
		return NULL;
	}
	b->hvd = hvd;
	b->fd = -1;
	b->addr.sun_family = AF_UNIX;
	b->moved_at = UNKNOWN;
	snprintf(b->name, sizeof(b->name), "%s", name);
	snprintf(b->addr.sun_path, sizeof(b->addr.sun_path), "%s", qmp_path);
	return b;
}

void balloon_destroy(struct balloon *b)
{
	if (!b)
		return;
	/* Nobody waits for the answer; the server acts all the same. */
	if (b->step >= STEP_IDLE && b->actual > 0 && b->actual < b->full &&
	    move_to(b, b->full))
		log_warn("vm %s: balloon could not be deflated", b->name);
	balloon_close(b);
	free(b->in);
	free(b);
}

void balloon_take(struct balloon *b, uint64_t need_bytes, uint64_t keep_bytes)
{
	if (!b)
		return;
	b->need_bytes = need_bytes;
	b->keep_bytes = keep_bytes;
	b->want_take = true;
	b->want_deflate = false;
	balloon_poll(b);
}

void balloon_deflate(struct balloon *b)
{
	if (!b)
		return;
	b->want_take = false;
	/* Connected already, or perhaps left inflated by an earlier hvd. */
	if (b->step >= STEP_IDLE && b->actual >= b->full && b->actual > 0)
		return;
	b->want_deflate = true;
	balloon_poll(b);
}
