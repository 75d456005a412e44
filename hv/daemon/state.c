/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Written whenever a VM comes or goes, before it is told WELCOME, so every
 * process that ever got a pool is in it. rename(2) makes it whole at any
 * moment; it need not survive the host, since no VM would.
 *
 * The secrets in it are worth something only to who can send offers: mode 0600
 * and never logged.
 *
 * A file that cannot be read is not fatal: agents that come back are then
 * refused and run on unmanaged, and new VMs are served.
 */
#include "hv/daemon/state.h"
#include "hv/base/log.h"
#include "hv/daemon/pools.h"
#include "hv/daemon/trust.h"
#include "hv/daemon/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATE_VERSION 1
#define SECRET_HEX    (2 * 192)

static void path_make(const struct hvd *hvd, const char *name,
		      char out[WIRE_PATH_MAX + 32])
{
	snprintf(out, WIRE_PATH_MAX + 32, "%s/%s", hvd->config.run_dir, name);
}

/* ---- saving ---------------------------------------------------------------
 */

static void hex_make(const uint8_t *bytes, size_t n, char *hex)
{
	static const char digit[] = "0123456789abcdef";
	size_t i;

	for (i = 0; i < n; i++) {
		hex[2 * i] = digit[bytes[i] >> 4];
		hex[2 * i + 1] = digit[bytes[i] & 15];
	}
	hex[2 * n] = 0;
}

static json_t *trusts_pack(const struct hvd *hvd)
{
	json_t *list = json_array();
	char hex[SECRET_HEX + 1];
	const struct trust *trust;

	TAILQ_FOREACH (trust, &hvd->trusts, entry) {
		hex_make(trust->secret, sizeof(trust->secret), hex);
		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:I, s:I}", "name",
						trust->name, "secret", hex,
						"dev", (json_int_t)trust->dev,
						"ino", (json_int_t)trust->ino));
	}
	explicit_bzero(hex, sizeof(hex));
	return list;
}

/* What an administrator set by hand; of others, null. */
static json_t *settings_pack(const struct vm *vm)
{
	if (!vm->by_hand)
		return json_null();
	return json_pack("[I, I, I, I, I, I, b]",
			 (json_int_t)vm->reservation_bytes,
			 (json_int_t)vm->limit_bytes, (json_int_t)vm->shares,
			 (json_int_t)vm->weight, (json_int_t)vm->cap_bytes,
			 (json_int_t)vm->reserve_bytes, vm->compress);
}

/* What it may join: 32 digits each. */
static json_t *auths_pack(const struct vm *vm)
{
	json_t *list = json_array();
	char hex[2 * 16 + 1];
	unsigned n;

	for (n = 0; n < vm->auths; n++) {
		hex_make(vm->auth[n], 16, hex);
		json_array_append_new(list, json_string(hex));
	}
	return list;
}

static json_t *vms_pack(const struct hvd *hvd)
{
	json_t *list = json_array();
	const struct vm *vm;

	TAILQ_FOREACH (vm, &hvd->vms, entry) {
		if (!vm->trust)
			continue;
		json_array_append_new(
			list,
			json_pack("{s:s, s:i, s:I, s:s, s:o, s:o}", "name",
				  vm->name, "pid", (int)vm->pid, "start",
				  (json_int_t)vm->pid_start, "domain",
				  vm->trust->name, "set", settings_pack(vm),
				  "auth", auths_pack(vm)));
	}
	return list;
}

static int state_write(const struct hvd *hvd, const json_t *state)
{
	char path[WIRE_PATH_MAX + 32], next[WIRE_PATH_MAX + 32];
	int fd, rc = 0;

	path_make(hvd, "state.json", path);
	path_make(hvd, "state.json.new", next);
	fd = open(next, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
		  0600);
	if (fd < 0)
		return -errno;
	if (json_dumpfd(state, fd, JSON_COMPACT))
		rc = -EIO;
	if (close(fd) && !rc)
		rc = -errno;
	if (!rc && rename(next, path))
		rc = -errno;
	return rc;
}

void state_save(struct hvd *hvd)
{
	json_t *state;
	int rc;

	if (!hvd->event || hvd->stopping)
		return;
	state = json_pack("{s:i, s:o, s:o}", "version", STATE_VERSION,
			  "domains", trusts_pack(hvd), "agents", vms_pack(hvd));
	rc = state ? state_write(hvd, state) : -ENOMEM;
	json_decref(state);
	if (rc)
		log_error("state.json: %s: if hvd restarts now, VMs of today "
			  "cannot come back",
			  strerror(-rc));
}

/* ---- loading ---------------------------------------------------------- */

static int nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool hex_read(const char *hex, uint8_t *bytes, size_t n)
{
	size_t i;

	if (strlen(hex) != 2 * n)
		return false;
	for (i = 0; i < n; i++) {
		if (nibble(hex[2 * i]) < 0 || nibble(hex[2 * i + 1]) < 0)
			return false;
		bytes[i] = (uint8_t)(nibble(hex[2 * i]) << 4 |
				     nibble(hex[2 * i + 1]));
	}
	return true;
}

static bool trust_load(struct hvd *hvd, json_t *item)
{
	const char *name, *hex;
	struct trust *trust;
	uint8_t secret[192];
	json_int_t dev, ino;

	if (json_unpack(item, "{s:s, s:s, s:I, s:I}", "name", &name, "secret",
			&hex, "dev", &dev, "ino", &ino) ||
	    strlen(name) >= TRUST_NAME_MAX ||
	    !hex_read(hex, secret, sizeof(secret)))
		return false;
	return !trust_restore(hvd, name, secret, (dev_t)dev, (ino_t)ino,
			      &trust);
}

/* Nothing is set where it is null. */
static bool settings_load(struct vm *vm, json_t *set)
{
	json_int_t reservation, limit, shares, weight, cap, reserve;
	int compress;

	if (!set || json_is_null(set))
		return true;
	if (json_unpack(set, "[I, I, I, I, I, I, b]", &reservation, &limit,
			&shares, &weight, &cap, &reserve, &compress))
		return false;
	vm->reservation_bytes = (uint64_t)reservation;
	vm->limit_bytes = (uint64_t)limit;
	vm->shares = (uint32_t)shares;
	vm->weight = (uint32_t)weight;
	vm->cap_bytes = (uint64_t)cap;
	vm->reserve_bytes = (uint64_t)reserve;
	vm->compress = compress;
	vm->by_hand = true;
	return true;
}

/* An hvd before shared pools wrote none. */
static bool auths_load(struct vm *vm, json_t *list)
{
	uint8_t uuid[16];
	const char *hex;
	bool good = true;
	json_t *item;
	size_t i;

	json_array_foreach (list, i, item) {
		hex = json_string_value(item);
		good &= hex && hex_read(hex, uuid, sizeof(uuid)) &&
			!pools_auth_set(vm, uuid, true);
	}
	return good;
}

static bool vm_load(struct hvd *hvd, json_t *item)
{
	const char *name, *domain;
	struct trust *trust;
	json_int_t start;
	struct vm *vm;
	int pid, rc;

	if (json_unpack(item, "{s:s, s:i, s:I, s:s}", "name", &name, "pid",
			&pid, "start", &start, "domain", &domain) ||
	    strlen(name) >= WIRE_NAME_MAX || pid <= 0)
		return false;
	trust = trust_find(hvd, domain);
	if (!trust)
		return false;
	rc = vm_restore(hvd, name, pid, (uint64_t)start, trust);
	log_info("vm %s: of an earlier hvd: %s", name,
		 rc ? "its process is gone" : "waiting for it to reconnect");
	if (rc)
		return true;
	vm = vm_find(hvd, name);
	return settings_load(vm, json_object_get(item, "set")) &&
	       auths_load(vm, json_object_get(item, "auth"));
}

static bool lists_load(struct hvd *hvd, json_t *state)
{
	json_t *domains = json_object_get(state, "domains");
	json_t *agents = json_object_get(state, "agents"), *item;
	bool good = json_is_array(domains) && json_is_array(agents);
	size_t i;

	json_array_foreach (domains, i, item)
		good &= trust_load(hvd, item);
	json_array_foreach (agents, i, item)
		good &= vm_load(hvd, item);
	return good;
}

/* Nobody alive holds frames of them. */
static void empty_trusts_drop(struct hvd *hvd)
{
	struct trust *trust, *next;

	for (trust = TAILQ_FIRST(&hvd->trusts); trust; trust = next) {
		next = TAILQ_NEXT(trust, entry);
		if (!trust->vms)
			trust_destroy(trust);
	}
}

void state_load(struct hvd *hvd)
{
	char path[WIRE_PATH_MAX + 32];
	json_error_t error;
	json_t *state;

	path_make(hvd, "state.json", path);
	if (access(path, F_OK))
		return;
	state = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
	if (!state)
		log_error("%s:%d: %s: VMs of before cannot come back", path,
			  error.line, error.text);
	else if (json_integer_value(json_object_get(state, "version")) !=
		 STATE_VERSION)
		log_error("%s: of another version of hvd: VMs of before cannot "
			  "come back",
			  path);
	else if (!lists_load(hvd, state))
		log_error("%s: damaged: some VMs of before cannot come back",
			  path);
	json_decref(state);
	empty_trusts_drop(hvd);
}
