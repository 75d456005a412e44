/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A group lives as long as a VM is in it, lost ones included, for these may map
 * its frames. After a restart of hvd:
 *
 *   recorded --first agent brings the pool--> recovering --all heard--> normal
 *       |                                       (frames nobody named yet are
 *       `--all its VMs died--> gone              kept: someone may map them)
 *
 * Heard means: the VM has registered again and named its frames, or its process
 * is gone. Until the pool is back no VM can join: a second pool beside the
 * first would never be one with it.
 */
#include "hv/daemon/trust.h"
#include "hv/base/log.h"
#include "hv/daemon/link.h"
#include "hv/daemon/pools.h"
#include "hv/daemon/vm.h"
#include "sharing/frames.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

struct trust *trust_find(struct hvd *hvd, const char *name)
{
	struct trust *trust;

	TAILQ_FOREACH (trust, &hvd->trusts, entry)
		if (!strcmp(trust->name, name))
			return trust;
	return NULL;
}

static int random_fill(void *buf, size_t bytes)
{
	/* Up to 256 bytes are never cut short. */
	return getrandom(buf, bytes, 0) == (ssize_t)bytes ? 0 : -EIO;
}

/* Well below the patience with an agent that was asked for a content. */
#define GATHER_MOST_MS 8000

static uint64_t gather_ns(const struct trust *trust)
{
	return min_u64(trust->hvd->config.gather_ms, GATHER_MOST_MS) * 1000000;
}

static int domain_make(struct trust *trust, struct frames *frames)
{
	uint64_t seed;
	int rc;

	rc = random_fill(&seed, sizeof(seed));
	if (rc) {
		frames_destroy(frames);
		return rc;
	}
	frames_identity(frames, &trust->dev, &trust->ino);
	rc = domain_create(trust->secret, seed, frames, link_send_to_vm,
			   &trust->domain);
	if (!rc)
		domain_gather_set(trust->domain, gather_ns(trust));
	return rc;
}

static uint32_t pool_frames(const struct trust *trust)
{
	const struct config *config = &trust->hvd->config;
	const struct config_domain *own;
	uint64_t bytes = config->pool_bytes;

	own = config_domain_find(config, trust->name);
	if (own && own->pool_bytes)
		bytes = own->pool_bytes;
	if (!bytes)
		bytes = trust->hvd->memory_bytes;
	bytes = max_u64(bytes, PAGE_BYTES);
	return (uint32_t)min_u64(bytes >> PAGE_SHIFT, UINT32_MAX - 1);
}

static int pool_make(struct trust *trust)
{
	struct frames *frames;
	int rc;

	rc = frames_create(trust->name, pool_frames(trust), &frames);
	return rc ? rc : domain_make(trust, frames);
}

static struct trust *trust_new(struct hvd *hvd, const char *name)
{
	struct trust *trust = calloc(1, sizeof(*trust));

	if (!trust)
		return NULL;
	trust->hvd = hvd;
	snprintf(trust->name, sizeof(trust->name), "%s", name);
	TAILQ_INSERT_TAIL(&hvd->trusts, trust, entry);
	return trust;
}

int trust_get(struct hvd *hvd, const char *name, struct trust **out)
{
	struct trust *trust = trust_find(hvd, name);
	int rc;

	*out = trust;
	if (trust)
		return 0;
	trust = trust_new(hvd, name);
	if (!trust)
		return -ENOMEM;
	rc = random_fill(trust->secret, sizeof(trust->secret));
	if (!rc)
		rc = pool_make(trust);
	if (rc) {
		trust_destroy(trust);
		return rc;
	}
	*out = trust;
	return 0;
}

int trust_restore(struct hvd *hvd, const char *name, const uint8_t secret[192],
		  dev_t dev, ino_t ino, struct trust **out)
{
	struct trust *trust = trust_new(hvd, name);

	if (!trust)
		return -ENOMEM;
	memcpy(trust->secret, secret, sizeof(trust->secret));
	trust->dev = dev;
	trust->ino = ino;
	trust->recovering = true;
	*out = trust;
	return 0;
}

static bool trust_is_heard(const struct trust *trust)
{
	const struct vm *vm;

	TAILQ_FOREACH (vm, &trust->hvd->vms, entry)
		if (vm->trust == trust && vm->unheard)
			return false;
	return true;
}

int trust_renew(struct trust *trust)
{
	if (!trust_is_heard(trust))
		return -EAGAIN;
	trust->recovering = false;
	return pool_make(trust);
}

int trust_adopt(struct trust *trust, int pool_fd)
{
	struct frames *frames;
	struct frames_stats fs;
	int rc;

	rc = frames_adopt(pool_fd, trust->dev, trust->ino, &frames);
	if (rc)
		return rc;
	frames_stats(frames, &fs);
	rc = domain_make(trust, frames);
	if (!rc)
		log_info("domain %s: pool taken over, %llu frames to identify",
			 trust->name, (unsigned long long)fs.unknown);
	return rc;
}

void trust_vm_add(struct trust *trust)
{
	trust->vms++;
}

void trust_vm_remove(struct trust *trust)
{
	if (--trust->vms)
		trust_recover_check(trust);
	else
		trust_destroy(trust);
}

/* A VM that came back but has not named all its frames still counts. */
void trust_recover_check(struct trust *trust)
{
	struct domain_stats ds;

	if (!trust->recovering || !trust->domain || !trust_is_heard(trust))
		return;
	trust->recovering = false;
	domain_stats(trust->domain, &ds);
	log_info("domain %s: recovered: %llu frames held, %llu let go",
		 trust->name, (unsigned long long)ds.frames,
		 (unsigned long long)ds.frames_unknown);
	domain_recovered(trust->domain);
}

void trust_destroy(struct trust *trust)
{
	TAILQ_REMOVE(&trust->hvd->trusts, trust, entry);
	pools_trust_gone(trust);
	domain_destroy(trust->domain);
	explicit_bzero(trust->secret, sizeof(trust->secret));
	free(trust);
}

enum share_mode trust_share(const struct trust *trust)
{
	const struct config_domain *own;

	own = config_domain_find(&trust->hvd->config, trust->name);
	return own ? own->share : trust->hvd->config.share;
}
