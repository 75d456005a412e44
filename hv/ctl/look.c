/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verbs that change nothing: ask, then print the reply as JSON or as a
 * table of fields.
 */
#include "hv/ctl/verbs.h"
#include "hv/ctl/view.h"

/* Prints value either way and frees it. */
static enum ctl_exit list_out(struct ctl *ctl, struct hv_value *value,
			      const char *path, const struct view_field *fields,
			      size_t n)
{
	enum ctl_exit exit_code =
		ctl_has(ctl, OPT_JSON) ? ctl_json(ctl, value)
				       : view_list(ctl, value, path, fields, n);

	hv_value_free(value);
	return exit_code;
}

static enum ctl_exit card_out(struct ctl *ctl, struct hv_value *value,
			      const struct view_field *fields, size_t n)
{
	enum ctl_exit exit_code = ctl_has(ctl, OPT_JSON)
					  ? ctl_json(ctl, value)
					  : view_card(ctl, value, fields, n);

	hv_value_free(value);
	return exit_code;
}

enum ctl_exit look_list(struct ctl *ctl)
{
	static const struct view_field fields[] = {
		{"NAME", "name", VIEW_TEXT},
		{"DOMAIN", "domain", VIEW_TEXT},
		{"STATE", "state", VIEW_TEXT},
		{"RAM", "mm.ram_pages", VIEW_PAGES},
		{"PRIVATE", "mm.private_pages+mm.held_pages", VIEW_PAGES},
		{"SHARED", "mm.shared_pages", VIEW_PAGES},
		{"ZERO", "mm.zero_pages", VIEW_PAGES},
		{"COMPR", "mm.compressed_pages", VIEW_PAGES},
		{"SWAP", "mm.swapped_pages", VIEW_PAGES},
		{"STORE", "mm.store_bytes", VIEW_BYTES},
		{"TARGET", "target_bytes", VIEW_LIMIT},
	};
	struct hv_value *value;

	if (hv_list(ctl->hv, &value))
		return ctl_fail(ctl);
	return list_out(ctl, value, "vms", fields, ARRAY_LEN(fields));
}

static const struct view_field tmem_fields[] = {
	{"CLIENT", "name", VIEW_TEXT},
	{"WEIGHT", "weight", VIEW_ID},
	{"CAP", "cap_bytes", VIEW_LIMIT},
	{"RESERVE", "reserve_bytes", VIEW_BYTES},
	{"LENT", "guest.lent_bytes", VIEW_BYTES},
	{"POOLS", "guest.pools", VIEW_COUNT},
	{"EPHEM", "guest.ephemeral_pages", VIEW_COUNT},
	{"PERSIST", "guest.persistent_pages", VIEW_COUNT},
	{"GUEST", "guest.used_bytes", VIEW_BYTES},
	{"SHARED", "common.bytes", VIEW_BYTES},
	{"STORED", "tmem.stored_bytes", VIEW_BYTES},
	{"META", "tmem.metadata_bytes", VIEW_BYTES},
	{"SLACK", "tmem.slack_bytes", VIEW_BYTES},
	{"USED", "tmem.used_bytes", VIEW_BYTES},
};

static const struct view_field guest_card[] = {
	{"Guest's own pages", "", VIEW_TEXT},
	{"weight", "weight", VIEW_ID},
	{"cap", "cap_bytes", VIEW_LIMIT},
	{"reserve", "reserve_bytes", VIEW_BYTES},
	{"compress", "compress", VIEW_BOOL},
	{"lent now", "guest.lent_bytes", VIEW_BYTES},
	{"used", "guest.used_bytes", VIEW_BYTES},
	{"  of it ephemeral", "guest.ephemeral_bytes", VIEW_BYTES},
	{"ephemeral pages", "guest.ephemeral_pages", VIEW_ID},
	{"persistent pages", "guest.persistent_pages", VIEW_ID},
	{"frozen", "guest.frozen", VIEW_ID},
	{"puts", "guest.puts", VIEW_ID},
	{"  refused", "guest.puts_refused", VIEW_ID},
	{"gets", "guest.gets", VIEW_ID},
	{"  missed", "guest.gets_missed", VIEW_ID},
	{"flushes", "guest.flushes", VIEW_ID},
	{"evicted: taken back", "guest.evicted_lent", VIEW_ID},
	{"evicted: at its cap", "guest.evicted_cap", VIEW_ID},
	{"evicted: by hand", "guest.evicted_flush", VIEW_ID},
	{"evicted: store full", "guest.evicted_budget", VIEW_ID},
	{"Its pages in shared pools", "", VIEW_TEXT},
	{"pages", "common.pages", VIEW_ID},
	{"used", "common.bytes", VIEW_BYTES},
	{"lent now", "common.lent_bytes", VIEW_BYTES},
	{"puts", "common.puts", VIEW_ID},
	{"  refused", "common.puts_refused", VIEW_ID},
	{"gets", "common.gets", VIEW_ID},
	{"  missed", "common.gets_missed", VIEW_ID},
	{"flushes", "common.flushes", VIEW_ID},
	{"evicted", "common.evicted", VIEW_ID},
	{"Whole store, guest RAM included", "", VIEW_TEXT},
	{"pages", "tmem.pages", VIEW_ID},
	{"  ephemeral", "tmem.pages_ephemeral", VIEW_ID},
	{"  persistent", "tmem.pages_persistent", VIEW_ID},
	{"  same-filled", "tmem.pages_same_filled", VIEW_ID},
	{"  uncompressed", "tmem.pages_raw", VIEW_ID},
	{"  by the denser codec", "tmem.pages_dense", VIEW_ID},
	{"  stored once for several", "tmem.pages_shared", VIEW_ID},
	{"stored", "tmem.stored_bytes", VIEW_BYTES},
	{"+ metadata", "tmem.metadata_bytes", VIEW_BYTES},
	{"+ slack", "tmem.slack_bytes", VIEW_BYTES},
	{"= used", "tmem.used_bytes", VIEW_BYTES},
	{"puts", "tmem.puts", VIEW_ID},
	{"  refused", "tmem.puts_failed", VIEW_ID},
	{"gets", "tmem.gets", VIEW_ID},
	{"  missed", "tmem.gets_missed", VIEW_ID},
	{"flushes", "tmem.flushes", VIEW_ID},
	{"evictions", "tmem.evictions", VIEW_ID},
};

static enum ctl_exit tmem_one(struct ctl *ctl)
{
	static const struct view_field pools[] = {
		{"POOL", "pool", VIEW_ID},
		{"KIND", "kind", VIEW_TEXT},
	};
	struct hv_value *value;

	if (hv_show(ctl->hv, ctl->args[0], &value))
		return ctl_fail(ctl);
	if (ctl_has(ctl, OPT_JSON) || !hv_value_count(value, "pools"))
		return card_out(ctl, value, guest_card, ARRAY_LEN(guest_card));
	view_card(ctl, value, guest_card, ARRAY_LEN(guest_card));
	fputc('\n', ctl->out);
	return list_out(ctl, value, "pools", pools, ARRAY_LEN(pools));
}

enum ctl_exit look_tmem_list(struct ctl *ctl)
{
	struct hv_value *value;

	if (ctl->n_args)
		return tmem_one(ctl);
	if (hv_list(ctl->hv, &value))
		return ctl_fail(ctl);
	return list_out(ctl, value, "vms", tmem_fields, ARRAY_LEN(tmem_fields));
}

enum ctl_exit look_show(struct ctl *ctl)
{
	static const struct view_field card[] = {
		{"VM", "", VIEW_TEXT},
		{"name", "name", VIEW_TEXT},
		{"domain", "domain", VIEW_TEXT},
		{"state", "state", VIEW_TEXT},
		{"pid", "pid", VIEW_ID},
		{"kernel features", "features", VIEW_NAMES},
		{"Limits", "", VIEW_TEXT},
		{"reservation", "reservation_bytes", VIEW_BYTES},
		{"limit", "limit_bytes", VIEW_LIMIT},
		{"shares", "shares", VIEW_ID},
		{"target now", "target_bytes", VIEW_LIMIT},
		{"Memory", "", VIEW_TEXT},
		{"guest RAM", "mm.ram_pages", VIEW_PAGES},
		{"  private", "mm.private_pages", VIEW_PAGES},
		{"  on trial", "mm.held_pages", VIEW_PAGES},
		{"  shared", "mm.shared_pages", VIEW_PAGES},
		{"  zero", "mm.zero_pages", VIEW_PAGES},
		{"  compressed", "mm.compressed_pages", VIEW_PAGES},
		{"  swapped", "mm.swapped_pages", VIEW_PAGES},
		{"  absent", "mm.absent_pages", VIEW_PAGES},
		{"    of it ballooned", "mm.ballooned_pages", VIEW_PAGES},
		{"cold", "mm.cold_pages", VIEW_PAGES},
		{"pinned", "mm.pinned_pages", VIEW_PAGES},
		{"compressed store", "mm.store_bytes", VIEW_BYTES},
		{"agent's metadata", "mm.metadata_bytes", VIEW_BYTES},
		{"Faults", "", VIEW_TEXT},
		{"answered", "mm.faults", VIEW_ID},
		{"median", "mm.fault_p50_ns", VIEW_NS},
		{"99th percentile", "mm.fault_p99_ns", VIEW_NS},
		{"refaults per minute", "mm.refault_permille_min",
		 VIEW_PERMILLE},
		{"lost pages", "mm.faults_lost", VIEW_ID},
		{"CPU time of the agent", "mm.cpu_ns", VIEW_NS},
	};
	struct hv_value *value;

	if (hv_show(ctl->hv, ctl->args[0], &value))
		return ctl_fail(ctl);
	return card_out(ctl, value, card, ARRAY_LEN(card));
}

enum ctl_exit look_domains(struct ctl *ctl)
{
	static const struct view_field fields[] = {
		{"DOMAIN", "name", VIEW_TEXT},
		{"FRAMES", "frames", VIEW_PAGES},
		{"PENDING", "frames_pending", VIEW_PAGES},
		{"SHARING", "sharing_pages", VIEW_PAGES},
		{"SAVED", "saved_pages", VIEW_PAGES},
		{"ENTRIES", "index_entries", VIEW_COUNT},
		{"INDEX", "index_bytes", VIEW_BYTES},
		{"VMS", "vms", VIEW_NAMES},
	};
	struct hv_value *value;

	if (hv_domains(ctl->hv, &value))
		return ctl_fail(ctl);
	return list_out(ctl, value, "domains", fields, ARRAY_LEN(fields));
}

enum ctl_exit look_host(struct ctl *ctl)
{
	static const struct view_field card[] = {
		{"Host", "", VIEW_TEXT},
		{"memory", "memory_bytes", VIEW_BYTES},
		{"available", "available_bytes", VIEW_BYTES},
		{"budget for guests", "budget_bytes", VIEW_BUDGET},
		{"pressure", "pressure", VIEW_TEXT},
		{"  forced", "pressure_forced", VIEW_BOOL},
		{"VMs", "vms", VIEW_ID},
		{"domains", "domains", VIEW_ID},
		{"Sharing", "", VIEW_TEXT},
		{"frames", "pool_frames", VIEW_ID},
		{"frame pools", "pool_bytes", VIEW_BYTES},
		{"guests' shared pools", "common_bytes", VIEW_BYTES},
		{"index entries", "index_entries", VIEW_ID},
		{"index", "index_bytes", VIEW_BYTES},
		{"copy-on-write reserve", "cow_reserve_bytes", VIEW_BYTES},
		{"Cost", "", VIEW_TEXT},
		{"metadata", "metadata_bytes", VIEW_BYTES},
		{"CPU time of hvd", "hvd_cpu_ns", VIEW_NS},
		{"last division", "round_ns", VIEW_NS},
	};
	struct hv_value *value;

	if (hv_host(ctl->hv, &value))
		return ctl_fail(ctl);
	return card_out(ctl, value, card, ARRAY_LEN(card));
}

enum ctl_exit look_why(struct ctl *ctl)
{
	static const struct view_field card[] = {
		{"VM", "vm", VIEW_TEXT},
		{"looked at the last", "since_s", VIEW_SECONDS},
		{"page faults answered", "faults", VIEW_ID},
		{"  per second", "faults_per_s", VIEW_RATE},
		{"time spent on them", "wait_ms", VIEW_MS},
		{"refaults per minute", "refault_permille_min", VIEW_PERMILLE},
		{"Guest's own pages", "", VIEW_TEXT},
		{"waited for the store", "guest_wait_ms", VIEW_MS},
		{"put", "guest.puts", VIEW_ID},
		{"asked for", "guest.gets", VIEW_ID},
		{"  in vain", "guest.gets_missed", VIEW_ID},
		{"evicted too early", "guest.refaults", VIEW_ID},
		{"stalled for memory", "guest.psi_permille", VIEW_PERMILLE},
		{"taken back, ever", "guest.taken_bytes", VIEW_BYTES},
	};
	static const struct view_field takers[] = {
		{"TAKEN FOR", "name", VIEW_TEXT},
		{"BYTES", "bytes", VIEW_BYTES},
	};
	static const struct view_field causes[] = {
		{"CAUSE", "cause", VIEW_TEXT},
		{"COUNT", "count", VIEW_COUNT},
		{"TIME", "ms", VIEW_MS},
		{"REMEDY", "remedy", VIEW_TEXT},
	};
	struct hv_value *value;

	if (hv_why(ctl->hv, ctl->args[0], &value))
		return ctl_fail(ctl);
	if (ctl_has(ctl, OPT_JSON))
		return list_out(ctl, value, "causes", causes, 0);
	view_card(ctl, value, card, ARRAY_LEN(card));
	fputc('\n', ctl->out);
	if (hv_value_count(value, "guest.taken_by")) {
		view_list(ctl, value, "guest.taken_by", takers,
			  ARRAY_LEN(takers));
		fputc('\n', ctl->out);
	}
	if (hv_value_count(value, "causes"))
		return list_out(ctl, value, "causes", causes,
				ARRAY_LEN(causes));
	fprintf(ctl->out, "Tidepool costs this VM no time now.\n");
	hv_value_free(value);
	return CTL_DONE;
}

enum ctl_exit look_freeable(struct ctl *ctl)
{
	static const struct view_field fields[] = {
		{"CLIENT", "name", VIEW_TEXT},
		{"FREEABLE", "bytes", VIEW_BYTES},
		{"COLD RAM", "cold_bytes", VIEW_BYTES},
	};
	struct hv_value *value;

	if (hv_freeable(ctl->hv, &value))
		return ctl_fail(ctl);
	return list_out(ctl, value, "vms", fields, ARRAY_LEN(fields));
}

enum ctl_exit look_check(struct ctl *ctl)
{
	static const struct view_field fields[] = {
		{"CLIENT", "name", VIEW_TEXT},
		{"SOUND", "ok", VIEW_BOOL},
		{"FOUND", "text", VIEW_TEXT},
	};
	struct hv_value *value;
	enum ctl_exit exit_code;
	bool ok = false;

	if (hv_check(ctl->hv, ctl->args[0], &value))
		return ctl_fail(ctl);
	if (hv_value_bool(value, "ok", &ok))
		ok = false;
	exit_code = list_out(ctl, value, "vms", fields, ARRAY_LEN(fields));
	if (exit_code || ok)
		return exit_code;
	return ctl_refuse(ctl, "the check failed: see hvd's and QEMU's log");
}

enum ctl_exit look_version(struct ctl *ctl)
{
	static const struct view_field card[] = {
		{"hvd", "version", VIEW_TEXT},
		{"protocol", "protocol", VIEW_ID},
		{"pid", "pid", VIEW_ID},
		{"running for", "uptime_s", VIEW_SECONDS},
	};
	struct hv_value *value;

	if (!ctl_has(ctl, OPT_JSON))
		fprintf(ctl->out, "  %-24s %s\n", ctl->program->name,
			HV_VERSION);
	if (hv_version(ctl->hv, &value))
		return ctl_fail(ctl);
	return card_out(ctl, value, card, ARRAY_LEN(card));
}
