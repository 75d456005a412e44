/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The worker: one thread that does everything that is not a fault or a call of
 * the VMM's. Each turn it looks at new extents, connects if it must, answers
 * hvd, and gives sharing and reclaim a slice of a few ms each; then it sleeps
 * until the earliest of them wants it, or the socket has something.
 *
 *   no RAM fit to manage          sleeps until an extent is announced
 *   RAM, no hvd                   tries again after 0.2 s, doubling up to 5 s
 *   HELLO sent                    waits for WELCOME (hvd may be stopped)
 *   WELCOME                       mm and share exist, extents are adopted
 *   hvd gone                      frames stay mapped, reclaim goes on; as above
 *
 * mm is made at the first WELCOME, not before: a VM that never meets hvd pays
 * nothing, and hvd may bring the /dev/userfaultfd we lack. It is never
 * destroyed: VMM threads may be inside it at any time.
 *
 * A message that breaks the protocol ends the connection, never the VM.
 */
#include "hv/agent/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/agent/agent.h"
#include "hv/agent/extent.h"
#include "hv/agent/guest.h"
#include "hv/agent/job.h"
#include "hv/agent/link.h"
#include "hv/agent/port.h"
#include "hv/base/log.h"
#include "hv/base/thread.h"
#include "hv/mm/mm.h"
#include "sharing/share.h"

#define MS		((uint64_t)1000000)
#define SECOND		(1000 * MS)
#define RETRY_MIN	(200 * MS)
#define RETRY_MAX	(5 * SECOND)
#define ADOPT_RETRY	(100 * MS)
#define RELEASES_EVERY	(100 * MS) /* link_release wakes nobody */
#define MESSAGES_A_TURN 64
#define REBUFFS_MAX	3
#define CHANNEL_REST	5 /* seconds without a channel that there was */

struct worker {
	struct config config;
	char swap_path[sizeof(((struct config *)0)->swap) + WIRE_NAME_MAX + 8];
	struct link *link;
	struct mm *mm;
	struct share *share;
	struct job_list *jobs;
	uint64_t era;	     /* of the connection: whom a job's answer is for */
	uint64_t lent_bytes; /* to the guest, as hvd last said */
	struct wire_target target; /* all else it said then */
	int wake_fd;
	atomic_int socket_fd; /* a copy, for the child of a fork */
	unsigned features;
	bool welcomed;	   /* by the hvd we are connected to */
	bool judging;	   /* an extent had to wait for its verdict */
	bool finished;	   /* nothing will ever be managed any more */
	unsigned broken_s; /* how long the channel to shared pools has been */
	unsigned rebuffs;  /* HELLO said, never welcomed, in a row */
	uint64_t retry_ns;
	uint64_t connect_at, adopt_at, scan_at, reclaim_at, stats_at;
};

static uint64_t now(void)
{
	return host_real.now_ns();
}

/* ---- saying -------------------------------------------------------------- */

/* What is announced from here on is the kernel's, as without us. */
static void give_up(struct worker *w)
{
	w->finished = true;
	agent_turn_off();
	extent_give_up();
}

static void finish(struct worker *w, const char *what, int rc)
{
	agent_unmanaged_say("%s: %s", what, strerror(-rc));
	give_up(w);
}

static void hang_up(struct worker *w)
{
	atomic_store(&w->socket_fd, -1);
	w->era++;
	link_close(w->link);
	if (w->share)
		share_stop(w->share);
	w->welcomed = false;
	w->connect_at = now() + w->retry_ns;
	w->retry_ns = min_u64(2 * w->retry_ns, RETRY_MAX);
}

/*
 * An hvd that hears what we map and hangs up, again and again, may not keep
 * those frames for us. Then we had better not depend on them.
 */
static void rebuffed(struct worker *w)
{
	if (!w->mm || ++w->rebuffs != REBUFFS_MAX)
		return;
	log_warn("hvd does not take us back: giving every shared page a copy "
		 "of its own");
	if (mm_unshare_all(w->mm))
		w->rebuffs--; /* the next time, then */
}

static void connection_lost(struct worker *w, int rc)
{
	if (link_is_open(w->link) && !w->welcomed)
		rebuffed(w);
	if (w->finished)
		log_debug("lost hvd (%s)", strerror(-rc));
	else if (w->welcomed)
		log_warn("lost hvd (%s): the guest runs on as it is",
			 strerror(-rc));
	else if (w->mm)
		log_debug("hvd is not back yet (%s)", strerror(-rc));
	else
		agent_unmanaged_say("no answer from hvd in %s: %s; will try "
				    "again",
				    w->config.run_dir, strerror(-rc));
	hang_up(w);
}

/* ---- HELLO --------------------------------------------------------------- */

static void hello_fill(const struct worker *w, struct wire_hello *hello)
{
	const struct config *c = &w->config;

	*hello = (struct wire_hello){
		.ram_pages = extent_ram_bytes() / PAGE_BYTES,
		.reservation_bytes = c->reservation_bytes,
		.limit_bytes = c->limit_bytes,
		.shares = c->shares,
		.features = w->features,
		.page_bytes = PAGE_BYTES,
	};
	memcpy(hello->name, c->name, sizeof(hello->name));
	memcpy(hello->domain, c->domain, sizeof(hello->domain));
	memcpy(hello->qmp, c->qmp, sizeof(hello->qmp));
}

/* The frames we map, however many messages that takes. */
static int have_send(struct worker *w)
{
	int rc;

	link_bound_lift(w->link);
	rc = share_send_have(w->share);
	link_bound_set(w->link);
	return rc;
}

static int greet(struct worker *w, struct wire_hello *hello)
{
	int pool_fd = w->mm ? mm_pool_fd(w->mm) : -1;
	int rc;

	if (pool_fd >= 0)
		hello->flags = WIRE_HELLO_RECONNECT;
	rc = link_open(w->link, hello, pool_fd);
	if (!rc && pool_fd >= 0)
		rc = have_send(w);
	else if (!rc)
		link_releases_begin(w->link);
	return rc;
}

static void connect_try(struct worker *w)
{
	struct wire_hello hello;
	int rc;

	hello_fill(w, &hello);
	rc = greet(w, &hello);
	if (rc)
		connection_lost(w, rc);
	else
		atomic_store(&w->socket_fd, link_fd(w->link));
}

/* ---- WELCOME ---------------------------------------------------------------
 */

static uint64_t store_bytes(const struct config *c)
{
	return c->store_percent ? extent_ram_bytes() / 100 * c->store_percent
				: c->store_bytes;
}

static const char *swap_path(struct worker *w)
{
	struct stat st;
	bool folder;

	if (!*w->config.swap)
		return NULL;
	folder = !stat(w->config.swap, &st) && S_ISDIR(st.st_mode);
	snprintf(w->swap_path, sizeof(w->swap_path), "%s%s%s%s", w->config.swap,
		 folder ? "/" : "", folder ? w->config.name : "",
		 folder ? ".swap" : "");
	return w->swap_path;
}

/* The system call first: only without the right to it is hvd's device used. */
static int manager_create(struct worker *w, int uffd_device)
{
	struct mm_config config = {
		.host = &host_real,
		.uffd_device = -1,
		.fault_poll_ns = w->config.poll_us * (uint64_t)1000,
		.store_bytes = store_bytes(&w->config),
		.dense = w->config.dense,
		.swap_path = swap_path(w),
		.swap_bytes = w->config.swap_bytes,
	};
	int rc = port_store(&config.store);

	if (!rc)
		rc = mm_create(&config, &w->mm);
	if (rc == -EPERM && uffd_device >= 0) {
		config.uffd_device = uffd_device;
		rc = mm_create(&config, &w->mm);
	}
	if (rc) {
		w->mm = NULL;
		return rc;
	}
	rc = share_create(w->mm, link_send, w->link, &w->share);
	if (rc) {
		w->share = NULL;
		mm_destroy(w->mm);
		w->mm = NULL;
		return rc;
	}
	mm_release_hook(w->mm, link_release, w->link);
	extent_manager_set(w->mm, w->share);
	return 0;
}

/* A copy of its own, since the message's descriptors are closed after it. */
static void channel_take(const struct wire_welcome *body,
			 const struct link_message *m)
{
	int fd;

	if (!body->channel)
		return;
	fd = fcntl(m->fds[m->nfds - 1], F_DUPFD_CLOEXEC, 0);
	if (fd >= 0)
		port_channel(fd, body->era);
	else
		log_warn("no way to shared pools: %s", strerror(errno));
}

static void welcome(struct worker *w, const struct link_message *m)
{
	struct wire_welcome body;
	int rc = 0;

	memcpy(&body, m->msg + 1, sizeof(body));
	if (!w->mm)
		rc = manager_create(w, body.uffd_device ? m->fds[1] : -1);
	if (rc) {
		finish(w,
		       rc == -EPERM ? "userfaultfd is not permitted"
				    : "the kernel lacks what is needed",
		       rc);
		hang_up(w);
		return;
	}
	rc = mm_pool_attach(w->mm, m->fds[0], body.pool_bytes);
	if (rc) {
		connection_lost(w, rc);
		return;
	}
	w->welcomed = true;
	w->target = (struct wire_target){0};
	w->rebuffs = 0;
	w->retry_ns = RETRY_MIN;
	w->adopt_at = w->scan_at = w->reclaim_at = w->stats_at = now();
	channel_take(&body, m);
	share_start(w->share, body.secret);
	log_debug("hvd knows us as VM %u", body.vm);
}

static void refused(struct worker *w, const struct wire_refuse *body)
{
	agent_unmanaged_say("hvd refuses: %.*s",
			    (int)min_u64(strcspn(body->text, "\n"), 200),
			    body->text);
	w->retry_ns = RETRY_MAX;
	hang_up(w);
}

/* ---- COMMAND ---------------------------------------------------------------
 */

/*
 * The connection stays: grants under way are still to be refused, so that hvd
 * gets its references back. Once it is gone nothing is left to return for.
 */
static int unmanage_run(struct worker *w)
{
	if (extent_leave_all("hvd was told to let go of this VM"))
		return -ENOMEM;
	share_policy(w->share, false, false, 0);
	give_up(w);
	return 0;
}

/* Commands about the whole VM; those about its store: command.c. */
static int vm_command_run(struct worker *w, const struct wire_command *cmd,
			  const struct command_env *env, struct job_done *done)
{
	switch (cmd->op) {
	case WIRE_CMD_CHECK:
		return mm_check(w->mm);
	case WIRE_CMD_UNSHARE:
		return mm_unshare_all(w->mm);
	case WIRE_CMD_UNMANAGE:
		return unmanage_run(w);
	default:
		return command_run(env, cmd, -1, &done->value, done->text);
	}
}

static void result_send(struct worker *w, const struct job_done *done)
{
	struct {
		struct wire_head head;
		struct wire_result body;
	} msg = {.head = {WIRE_VERSION, WIRE_RESULT, sizeof(msg)},
		 .body = {.id = done->id,
			  .value = done->value,
			  .rc = done->rc < 0 ? done->rc : 0}};
	const char *text = done->rc < 0 ? strerror(-done->rc) : "ok";

	snprintf(msg.body.text, sizeof(msg.body.text), "%s",
		 done->text[0] ? done->text : text);
	/* An answer must not drown in a full queue; there are few of them. */
	link_bound_lift(w->link);
	if (link_send(w->link, &msg.head))
		log_debug("no memory for the result of a command");
	link_bound_set(w->link);
}

static void command(struct worker *w, const struct wire_command *cmd, int fd)
{
	struct job_done done = {.id = cmd->id, .era = w->era};
	struct command_env env = {.mm = w->mm, .guest = guest_client()};

	done.rc = port_store(&env.tm);
	if (!done.rc && command_is_slow(cmd->op)) {
		done.rc = job_start(w->jobs, &env, cmd, fd, w->era);
		if (!done.rc)
			return; /* jobs_answer */
	} else if (!done.rc) {
		done.rc = vm_command_run(w, cmd, &env, &done);
	}
	result_send(w, &done);
}

static void jobs_answer(struct worker *w)
{
	struct job_done done;

	while (job_take(w->jobs, &done))
		if (w->welcomed && done.era == w->era)
			result_send(w, &done);
}

/* ---- messages --------------------------------------------------------------
 */

/* What the last target means for the guest's own pages, if it has a line. */
static void guest_tell(const struct worker *w)
{
	guest_lend(w->lent_bytes);
	guest_balloon(w->target.flags & WIRE_WANT_OFFERS
			      ? extent_ram_bytes() / PAGE_BYTES / 2
			      : 0);
}

static void target(struct worker *w, const struct wire_target *t)
{
	const struct mm_target to = {
		.resident_bytes = t->resident_bytes,
		.store_bytes = t->store_bytes,
		.compress = t->flags & WIRE_MAY_COMPRESS,
		.swap = t->flags & WIRE_MAY_SWAP,
		.refault_permille_min = t->refault_permille_min,
		.scan_ns = (uint64_t)t->scan_ms * 1000000,
	};
	struct wire_target rest = *t, was = w->target;

	rest.lent_bytes = 0;
	w->target = rest;
	w->lent_bytes = t->lent_bytes;
	guest_tell(w); /* first: it costs the guest least */
	if (!memcmp(&rest, &was, sizeof(rest)))
		return; /* what is lent moves often, and wakes nothing else */
	mm_target_set(w->mm, &to);
	share_policy(w->share, t->flags & WIRE_MAY_SHARE,
		     t->flags & WIRE_BREAK_HUGE, t->scan_ms);
	w->scan_at = w->reclaim_at = now();
}

/* link_receive has seen to it that the message is whole and due. */
static void message(struct worker *w, const struct link_message *m)
{
	const void *body = m->msg + 1;

	switch (m->msg->type) {
	case WIRE_WELCOME:
		welcome(w, m);
		break;
	case WIRE_REFUSE:
		refused(w, body);
		break;
	case WIRE_WANT:
		share_want(w->share, m->msg);
		break;
	case WIRE_GRANT:
		share_grant(w->share, m->msg);
		break;
	case WIRE_TARGET:
		target(w, body);
		break;
	case WIRE_COMMAND:
		command(w, body, m->nfds ? m->fds[0] : -1);
		break;
	}
	for (size_t i = 0; i < m->nfds; i++)
		close(m->fds[i]);
}

static void messages(struct worker *w)
{
	struct link_message m;
	int rc = 0;

	for (int i = 0; i < MESSAGES_A_TURN && link_is_open(w->link); i++) {
		rc = link_receive(w->link, &m);
		if (rc)
			break;
		message(w, &m);
	}
	if (rc && rc != -EAGAIN)
		connection_lost(w, rc);
}

/* ---- a turn ----------------------------------------------------------------
 */

static void stats_send(struct worker *w)
{
	struct {
		struct wire_head head;
		struct wire_stats body;
	} msg = {.head = {WIRE_VERSION, WIRE_STATS, sizeof(msg)}};

	mm_stats(w->mm, &msg.body.mm);
	share_stats(w->share, &msg.body.mm);
	mm_store_stats(w->mm, &msg.body.tmem);
	guest_tell(w); /* its line may be newer than the target */
	guest_stats(&msg.body.guest, msg.body.pool);
	msg.body.mm.cpu_ns += host_real.thread_cpu_ns();
	if (link_send(w->link, &msg.head))
		log_debug("hvd does not read: a second without STATS");
}

static uint64_t later(uint64_t from, uint64_t ns)
{
	return ns > UINT64_MAX - from ? UINT64_MAX : from + ns;
}

/* hvd was stopped too long, or closed it: with WELCOME comes another. */
static void channel_watch(struct worker *w)
{
	w->broken_s = port_channel_is_broken() ? w->broken_s + 1 : 0;
	if (w->broken_s < CHANNEL_REST || w->finished)
		return;
	w->broken_s = 0;
	log_warn("the way to shared pools is gone: connecting anew");
	hang_up(w);
}

static void work_online(struct worker *w)
{
	if (now() >= w->adopt_at)
		w->adopt_at = extent_adopt() ? UINT64_MAX : now() + ADOPT_RETRY;
	if (now() >= w->scan_at && !link_is_full(w->link))
		w->scan_at = later(now(), share_scan(w->share));
	if (now() >= w->stats_at) {
		stats_send(w);
		w->stats_at = now() + SECOND;
		channel_watch(w);
	}
}

static void work(struct worker *w)
{
	int rc;

	jobs_answer(w);
	if (link_is_open(w->link))
		messages(w);
	else if (!w->finished && now() >= w->connect_at && extent_ram_bytes())
		connect_try(w);
	if (w->welcomed)
		work_online(w);
	if (w->mm && now() >= w->reclaim_at)
		w->reclaim_at = later(now(), mm_reclaim(w->mm));
	if (!link_is_open(w->link))
		return;
	rc = link_flush(w->link);
	if (rc)
		connection_lost(w, rc);
}

/* When something is to be done without anybody knocking. */
static uint64_t next_at(const struct worker *w)
{
	uint64_t at = w->mm ? w->reclaim_at : UINT64_MAX;

	if (w->welcomed) {
		at = min_u64(at, min_u64(w->adopt_at, w->stats_at));
		at = min_u64(at, later(now(), RELEASES_EVERY));
		if (!link_is_full(w->link))
			at = min_u64(at, w->scan_at);
	} else if (!link_is_open(w->link) && !w->finished &&
		   extent_ram_bytes()) {
		at = min_u64(at, w->connect_at);
	}
	return at;
}

static int timeout_ms(uint64_t at)
{
	uint64_t t = now();

	if (at <= t)
		return 0;
	return (int)min_u64((at - t + MS - 1) / MS, 60000);
}

static void rest(struct worker *w, uint64_t until)
{
	struct pollfd fds[] = {
		{.fd = w->wake_fd, .events = POLLIN},
		{.fd = link_fd(w->link), .events = link_events(w->link)},
	};
	eventfd_t ignored;

	if (poll(fds, ARRAY_LEN(fds), timeout_ms(until)) > 0 &&
	    fds[0].revents && !eventfd_read(w->wake_fd, &ignored))
		w->adopt_at = 0; /* there may be a new extent */
}

static void turn(struct worker *w)
{
	uint64_t judge_ns = w->finished ? UINT64_MAX : extent_judge(now());

	if (w->judging)
		w->adopt_at = 0;
	w->judging = judge_ns != UINT64_MAX;
	work(w);
	rest(w, min_u64(next_at(w), later(now(), judge_ns)));
}

/* ---- the thread ------------------------------------------------------------
 */

static unsigned features_probe(void)
{
	unsigned features = 0;
	int fd;

	if (host_real.uffd_open(-1, &features, &fd))
		return 0;
	close(fd);
	return features;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	agent_inside = true;
	pthread_setname_np(pthread_self(), "tidepool");
	w->features = features_probe();
	for (;;)
		turn(w);
	return NULL;
}

int worker_start(const struct config *config, struct worker **out)
{
	struct worker *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return -ENOMEM;
	w->config = *config;
	w->retry_ns = RETRY_MIN;
	w->adopt_at = UINT64_MAX;
	atomic_store(&w->socket_fd, -1);
	w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w->lent_bytes = UINT64_MAX;
	rc = w->wake_fd < 0 ? -errno : job_list_create(w->wake_fd, &w->jobs);
	if (!rc)
		rc = link_create(config->run_dir, &w->link);
	if (!rc)
		rc = thread_start(NULL, worker_main, w);
	if (!rc) {
		*out = w;
		return 0;
	}
	link_destroy(w->link);
	free(w->jobs);
	if (w->wake_fd >= 0)
		close(w->wake_fd);
	free(w);
	return rc;
}

void worker_wake(struct worker *w)
{
	eventfd_write(w->wake_fd, 1);
}

void worker_child_drop(struct worker *w)
{
	int fd = atomic_load(&w->socket_fd);

	if (fd >= 0)
		close(fd);
	close(w->wake_fd);
	port_child_drop();
}
