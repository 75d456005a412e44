/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VM is its process. A socket may close while the process runs on (the agent
 * reconnects after an error, hvd was restarted); its mappings of frames are
 * then still there, and so are its references here:
 *
 *   managed --socket closed--> lost --HELLO of the same process--> managed
 *      `----------- process gone (pidfd) -----------> destroyed <-- lost
 *
 * At a new HELLO of a lost VM the old references stay until the new connection
 * has named its frames (HAVE), so no frame dies in between.
 */
#include "hv/daemon/vm.h"
#include "hv/base/log.h"
#include "hv/daemon/balloon.h"
#include "hv/daemon/control.h"
#include "hv/daemon/host_info.h"
#include "hv/daemon/link.h"
#include "hv/daemon/pools.h"
#include "hv/daemon/state.h"
#include "hv/daemon/trust.h"
#include "sharing/frames.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* An agent may add RAM and offer it before its next STATS says so. */
#define RAM_SLACK_PAGES ((uint64_t)1 << 18)

size_t vm_count(const struct hvd *hvd)
{
	const struct vm *vm;
	size_t n = 0;

	TAILQ_FOREACH (vm, &hvd->vms, entry)
		n++;
	return n;
}

struct vm *vm_find(struct hvd *hvd, const char *name)
{
	struct vm *vm;

	TAILQ_FOREACH (vm, &hvd->vms, entry)
		if (!strcmp(vm->name, name))
			return vm;
	return NULL;
}

struct vm *vm_find_id(struct hvd *hvd, uint32_t id)
{
	struct vm *vm;

	TAILQ_FOREACH (vm, &hvd->vms, entry)
		if (vm->id == id)
			return vm;
	return NULL;
}

const char *vm_state(const struct vm *vm)
{
	if (vm->unmanaged)
		return "unmanaged";
	return vm->link ? "managed" : "lost";
}

static uint64_t claim_limit(uint64_t ram_pages)
{
	return ram_pages + ram_pages / 4 + RAM_SLACK_PAGES;
}

/* ---- the process ----------------------------------------------------------
 */

static int process_gone(sd_event_source *source, int fd, uint32_t events,
			void *arg)
{
	struct vm *vm = arg;

	(void)source;
	(void)fd;
	(void)events;
	log_info("vm %s: process %d is gone", vm->name, (int)vm->pid);
	vm_destroy(vm);
	return 0;
}

static bool process_is_gone(const struct vm *vm)
{
	struct pollfd pfd = {.fd = vm->pidfd, .events = POLLIN};

	return vm->pidfd >= 0 && poll(&pfd, 1, 0) == 1;
}

static int process_watch(struct vm *vm)
{
	int rc;

	rc = host_pidfd_open(vm->pid, &vm->pidfd);
	if (rc)
		return rc;
	/* Opened first, so that the number cannot have been given anew. */
	rc = host_pid_start(vm->pid, &vm->pid_start);
	if (rc || !vm->hvd->event)
		return rc;
	return sd_event_add_io(vm->hvd->event, &vm->pid_source, vm->pidfd,
			       EPOLLIN, process_gone, vm);
}

/* ---- come and go ------------------------------------------------------ */

static struct vm *vm_new(struct hvd *hvd, const char *name, pid_t pid)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return NULL;
	vm->hvd = hvd;
	vm->id = ++hvd->vm_last;
	vm->pid = pid;
	vm->pidfd = -1;
	vm->shares = 1000;
	vm->weight = 1000;
	vm->compress = true;
	snprintf(vm->name, sizeof(vm->name), "%s", name);
	TAILQ_INSERT_TAIL(&hvd->vms, vm, entry);
	return vm;
}

static void members_leave(struct vm *vm)
{
	if (vm->member)
		domain_leave(vm->member);
	if (vm->member_old)
		domain_leave(vm->member_old);
	vm->member = vm->member_old = NULL;
}

void vm_destroy(struct vm *vm)
{
	struct hvd *hvd = vm->hvd;

	if (vm->link)
		link_disown(vm->link);
	balloon_destroy(vm->balloon);
	control_vm_gone(hvd, vm);
	members_leave(vm);
	pools_disconnect(vm);
	sd_event_source_disable_unref(vm->pid_source);
	if (vm->pidfd >= 0)
		close(vm->pidfd);
	TAILQ_REMOVE(&hvd->vms, vm, entry);
	if (vm->trust)
		trust_vm_remove(vm->trust);
	free(vm);
	state_save(hvd);
	hvd_flush_soon(hvd);
	hvd_steer_soon(hvd); /* and whoever waits for this name tries again */
}

int vm_restore(struct hvd *hvd, const char *name, pid_t pid, uint64_t pid_start,
	       struct trust *trust)
{
	struct vm *vm = vm_new(hvd, name, pid);
	int rc;

	if (!vm)
		return -ENOMEM;
	vm->trust = trust;
	vm->unheard = true;
	trust_vm_add(trust);
	rc = process_watch(vm);
	if (!rc && vm->pid_start != pid_start)
		rc = -ESRCH;
	if (!rc && process_is_gone(vm))
		rc = -ESRCH;
	if (!rc)
		return 0;
	/* Its group has to outlive this: the record may hold more VMs of it. */
	vm->trust = NULL;
	trust->vms--;
	vm_destroy(vm);
	return rc;
}

static void balloon_drop(struct vm *vm)
{
	balloon_destroy(vm->balloon);
	vm->balloon = NULL;
}

void vm_let_go(struct vm *vm)
{
	vm->unmanaged = true;
	balloon_drop(vm);
}

void vm_lose(struct vm *vm)
{
	vm->link = NULL;
	vm->target_sent = false;
	if (process_is_gone(vm)) {
		log_info("vm %s: process %d is gone", vm->name, (int)vm->pid);
		vm_destroy(vm);
		return;
	}
	vm->lost_told = false; /* most are gone before vm_tick says so */
	pools_disconnect(vm);
	if (vm->member)
		domain_detach(vm->member);
	balloon_drop(vm);
	control_vm_gone(vm->hvd, vm);
	hvd_flush_soon(vm->hvd);
	hvd_steer_soon(vm->hvd);
}

void vm_tick(struct hvd *hvd)
{
	struct vm *vm;

	TAILQ_FOREACH (vm, &hvd->vms, entry) {
		if (vm->link || vm->lost_told)
			continue;
		vm->lost_told = true;
		log_info("vm %s: not connected, but process %d runs: its "
			 "frames are kept",
			 vm->name, (int)vm->pid);
	}
}

/* ---- HELLO ----------------------------------------------------------------
 */

__attribute__((format(printf, 3, 4))) static int
refuse(int rc, char text[WIRE_TEXT_MAX], const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, WIRE_TEXT_MAX, fmt, ap);
	va_end(ap);
	return rc;
}

/* The VM this HELLO speaks for: a lost one, a new one (NULL), or a refusal. */
static int vm_match(struct link *link, const struct wire_hello *hello,
		    struct vm **out, char text[WIRE_TEXT_MAX])
{
	struct vm *vm = vm_find(link_hvd(link), hello->name);
	pid_t pid = link_pid(link);

	*out = NULL;
	if (!vm)
		return 0;
	if (process_is_gone(vm)) {
		vm_destroy(vm);
		return 0;
	}
	if (vm->pid != pid)
		return refuse(-EEXIST, text,
			      "a VM named %s is already registered, by process "
			      "%d; give this one another name",
			      hello->name, (int)vm->pid);
	if (vm->link) {
		log_info("vm %s: connects anew", vm->name);
		link_disown(vm->link);
		vm_lose(vm);
		vm = vm_find(link_hvd(link), hello->name);
	}
	*out = vm;
	return 0;
}

static int process_known(struct hvd *hvd, pid_t pid, const struct vm *but,
			 const struct vm **out)
{
	const struct vm *vm;

	TAILQ_FOREACH (vm, &hvd->vms, entry)
		if (vm != but && vm->pid == pid) {
			*out = vm;
			return -EEXIST;
		}
	return 0;
}

static void domain_name(const struct wire_hello *hello,
			char name[TRUST_NAME_MAX])
{
	if (hello->domain[0])
		snprintf(name, TRUST_NAME_MAX, "%s", hello->domain);
	else
		snprintf(name, TRUST_NAME_MAX, TRUST_PRIVATE "%s", hello->name);
}

/* A pool that comes along has to be the one of the group. */
static int pool_judge(struct trust *trust, struct vm *vm, int pool_fd,
		      char text[WIRE_TEXT_MAX])
{
	int rc = 0;

	if (pool_fd < 0) {
		/* It has no frame of ours, so nothing of it is to be waited
		 * for. */
		if (vm)
			vm->unheard = false;
		return trust->domain ? 0 : trust_renew(trust);
	}
	if (!trust->domain)
		rc = trust_adopt(trust, pool_fd);
	else if (!host_fd_is(pool_fd, trust->dev, trust->ino))
		rc = -ESTALE;
	if (!rc)
		return 0;
	return refuse(rc, text,
		      "the frame pool is not that of domain %s (%s): its "
		      "frames stay mapped, but are not managed any more",
		      trust->name, strerror(-rc));
}

static void hello_take(struct vm *vm, const struct wire_hello *hello)
{
	uint64_t ram = hello->ram_pages << PAGE_SHIFT;

	vm->ram_pages = hello->ram_pages;
	vm->features = hello->features;
	vm->unmanaged = false;
	memcpy(vm->qmp, hello->qmp, sizeof(vm->qmp));
	if (vm->by_hand)
		return;
	vm->reservation_bytes = hello->reservation_bytes;
	if (ram)
		vm->reservation_bytes = min_u64(vm->reservation_bytes, ram);
	vm->limit_bytes = hello->limit_bytes;
	vm->shares = hello->shares ? hello->shares : 1000;
}

/* The VM is part of everything; welcome it. */
static int vm_admit(struct vm *vm, struct link *link,
		    const struct wire_hello *hello, char text[WIRE_TEXT_MAX])
{
	struct domain_member *member;
	int rc;

	rc = domain_join(vm->trust->domain, vm, claim_limit(hello->ram_pages),
			 &member);
	if (rc)
		return refuse(rc, text, "domain %s takes no more VMs: %s",
			      vm->trust->name, strerror(-rc));
	/* Only the newest HAVE is the truth; anything older is a subset. */
	if (vm->member_old)
		domain_leave(vm->member);
	else
		vm->member_old = vm->member;
	vm->member = member;
	hello_take(vm, hello);
	vm->link = link;
	state_save(vm->hvd);
	rc = link_welcome(link, vm);
	if (!rc)
		return 0;
	vm->link = NULL;
	pools_disconnect(vm);
	domain_detach(vm->member);
	return refuse(rc, text, "no descriptor for the frame pool: %s",
		      strerror(-rc));
}

static int vm_create(struct link *link, const struct wire_hello *hello,
		     struct trust *trust, struct vm **out,
		     char text[WIRE_TEXT_MAX])
{
	struct vm *vm = vm_new(link_hvd(link), hello->name, link_pid(link));
	int rc;

	if (!vm)
		return refuse(-ENOMEM, text, "hvd has no memory");
	vm->uid = link_uid(link);
	vm->trust = trust;
	trust_vm_add(trust);
	rc = process_watch(vm);
	if (rc) {
		vm_destroy(vm);
		return refuse(rc, text, "process %d cannot be watched: %s",
			      (int)link_pid(link), strerror(-rc));
	}
	*out = vm;
	return 0;
}

static int hello_check(struct link *link, const struct wire_hello *hello,
		       const struct vm *vm, char text[WIRE_TEXT_MAX])
{
	const struct vm *other;
	char domain[TRUST_NAME_MAX];

	if (hello->ram_pages > VM_RAM_MAX)
		return refuse(-E2BIG, text, "over 16 TiB of guest RAM");
	if (hello->limit_bytes && hello->limit_bytes < hello->reservation_bytes)
		return refuse(-EINVAL, text,
			      "the limit is below the reservation");
	if (process_known(link_hvd(link), link_pid(link), vm, &other))
		return refuse(-EEXIST, text,
			      "process %d is registered already, as %s",
			      (int)link_pid(link), other->name);
	domain_name(hello, domain);
	if (vm && strcmp(vm->trust->name, domain) != 0)
		return refuse(-EINVAL, text,
			      "VM %s belongs to domain %s until it ends",
			      vm->name, vm->trust->name);
	return 0;
}

int vm_hello(struct link *link, const struct wire_hello *hello, int pool_fd,
	     char text[WIRE_TEXT_MAX])
{
	bool reconnect = hello->flags & WIRE_HELLO_RECONNECT;
	struct hvd *hvd = link_hvd(link);
	char domain[TRUST_NAME_MAX];
	struct trust *trust;
	struct vm *vm;
	int rc;

	rc = vm_match(link, hello, &vm, text);
	if (!rc)
		rc = hello_check(link, hello, vm, text);
	if (rc)
		return rc;
	domain_name(hello, domain);
	if (reconnect && pool_fd >= 0 && !trust_find(hvd, domain))
		return refuse(-ESTALE, text,
			      "no record of domain %s or its frame pool",
			      domain);
	rc = trust_get(hvd, domain, &trust);
	if (rc)
		return refuse(rc, text, "no frame pool for domain %s: %s",
			      domain, strerror(-rc));
	trust_vm_add(trust); /* keeps it while we may still fail */
	rc = pool_judge(trust, vm, reconnect ? pool_fd : -1, text);
	if (!rc && !vm)
		rc = vm_create(link, hello, trust, &vm, text);
	if (!rc) {
		vm->unheard |= reconnect;
		rc = vm_admit(vm, link, hello, text);
	}
	if (!rc && !reconnect)
		vm_heard(vm);
	trust_vm_remove(trust);
	if (!rc)
		log_info("vm %s: process %d, domain %s, %llu MiB%s", vm->name,
			 (int)vm->pid, domain,
			 (unsigned long long)(vm->ram_pages >> 8),
			 reconnect ? ", is back" : "");
	return rc;
}

/* ---- messages --------------------------------------------------------- */

/* Its references are known in full: HAVE is complete, or it began anew. */
void vm_heard(struct vm *vm)
{
	if (vm->member_old)
		domain_leave(vm->member_old);
	vm->member_old = NULL;
	vm->unheard = false;
	trust_recover_check(vm->trust);
}

/* The agent's own configuration has set them, before any hvd did. */
static void knobs_take(struct vm *vm)
{
	const struct guest_stats *g = &vm->stats.guest;

	if (vm->by_hand || !g->lines)
		return;
	vm->weight = (uint32_t)g->weight;
	vm->cap_bytes = min_u64(g->cap_bytes, INT64_MAX);
	vm->reserve_bytes = min_u64(g->reserve_bytes, INT64_MAX);
	vm->compress = g->compress;
}

static void stats_take(struct vm *vm, const struct wire_head *msg)
{
	struct vm_sample *sample;

	memcpy(&vm->stats, msg + 1, sizeof(vm->stats));
	vm->have_stats = true;
	vm->ram_pages = min_u64(vm->stats.mm.ram_pages, VM_RAM_MAX);
	domain_ram_set(vm->member, claim_limit(vm->ram_pages));
	sample = &vm->sample[vm->samples++ % VM_SAMPLES];
	sample->at_ns = hvd_now_ns();
	sample->mm = vm->stats.mm;
	sample->guest = vm->stats.guest;
	knobs_take(vm);
	pools_tune(vm);
}

int vm_message(struct vm *vm, const struct wire_head *msg)
{
	switch (msg->type) {
	case WIRE_STATS:
		stats_take(vm, msg);
		return 0;
	case WIRE_RESULT:
		return control_result(vm, (const void *)(msg + 1));
	case WIRE_HAVE:
		if (!vm->unheard)
			return -EPROTO;
		if (wire_count(msg, sizeof(struct wire_have)))
			return domain_message(vm->member, msg, hvd_now_ns());
		vm_heard(vm);
		return 0;
	default:
		return domain_message(vm->member, msg, hvd_now_ns());
	}
}

/* ---- figures ---------------------------------------------------------- */

/* An agent says these numbers: bounded, so that sums stay sums. */
static uint64_t pages_bytes(const struct vm *vm, uint64_t pages)
{
	return min_u64(pages, vm->ram_pages) << PAGE_SHIFT;
}

uint64_t vm_used_bytes(const struct vm *vm)
{
	const struct mm_stats *mm = &vm->stats.mm;

	return pages_bytes(vm, mm->private_pages + mm->held_pages) +
	       min_u64(mm->store_bytes + mm->metadata_bytes,
		       vm->ram_pages << PAGE_SHIFT);
}

uint64_t vm_lent_bytes(const struct vm *vm)
{
	return min_u64(vm->stats.guest.freeable_bytes, VM_LENT_MAX) +
	       vm->common_stats.bytes;
}

uint64_t vm_cold_bytes(const struct vm *vm)
{
	const struct mm_stats *mm = &vm->stats.mm;

	return pages_bytes(vm, mm->cold_pages + mm->held_pages);
}

const struct vm_sample *vm_sample_before(const struct vm *vm,
					 uint64_t *age_ns_out)
{
	const struct vm_sample *first, *last;

	if (vm->samples < 2)
		return NULL;
	last = &vm->sample[(vm->samples - 1) % VM_SAMPLES];
	first = &vm->sample[vm->samples < VM_SAMPLES
				    ? 0
				    : vm->samples % VM_SAMPLES];
	*age_ns_out = last->at_ns - first->at_ns;
	return first;
}
