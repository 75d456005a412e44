/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verbs of hv and of tmem-ctl: one line of each table is a verb, with its
 * help, its examples and the options it takes. Help, completion and parsing are
 * made of it.
 */
#include "hv/ctl/verbs.h"

#define BIT OPT_BIT

static const struct verb hv_verbs[] = {
	/* name, args, help, examples, options, least and most args, handler */
	{"list", "", "every VM and where its memory is",
	 "list\nlist --watch 5\nlist --json | jq '.vms[].name'", OPTS_VIEW, 0,
	 0, look_list},
	{"show", "VM", "one VM: limits, memory, faults",
	 "show desk1\nshow desk1 --json", OPTS_VIEW, 1, 1, look_show},
	{"stats", "[VM]", "every counter, of one VM or of all",
	 "stats\nstats desk1\nstats desk1 --watch", OPTS_VIEW, 0, 1,
	 look_stats},
	{"domains", "", "the trust domains and what they share",
	 "domains\ndomains --json", OPTS_VIEW, 0, 0, look_domains},
	{"host", "", "the host: memory, pressure, pools, costs",
	 "host\nhost --watch", OPTS_VIEW, 0, 0, look_host},
	{"why", "VM", "what costs this VM time now, and the remedy",
	 "why desk1", OPTS_VIEW, 1, 1, look_why},
	{"set", "VM", "change a VM's reservation, limit or shares",
	 "set desk1 --reservation 512M --limit 2G\n"
	 "set desk1 --shares 2000 --dry-run",
	 OPTS_CHANGE | BIT(OPT_RESERVATION) | BIT(OPT_LIMIT) | BIT(OPT_SHARES),
	 1, 1, change_set},
	{"pressure", "STATE", "force a memory pressure state; auto: no more",
	 "pressure hard\npressure auto\npressure soft --dry-run", OPTS_CHANGE,
	 1, 1, change_pressure},
	{"budget", "SIZE", "memory for all guests; 0: the whole host",
	 "budget 24G\nbudget 0", OPTS_CHANGE, 1, 1, change_budget},
	{"unshare", "VM", "give every shared page of a VM a copy of its own",
	 "unshare desk1\nunshare desk1 --dry-run", OPTS_CHANGE, 1, 1,
	 change_unshare},
	{"unmanage", "VM", "restore all memory of a VM and let go of it",
	 "unmanage desk1\nunmanage desk1 --dry-run", OPTS_CHANGE, 1, 1,
	 change_unmanage},
	{"qemu", "-- QEMU [ARG...]", "run a QEMU command line managed",
	 "qemu -- qemu-system-x86_64 -m 2G -drive file=a.qcow2\n"
	 "qemu --name desk1 --domain desks --limit 1G -- qemu-system-x86_64 "
	 "...\n"
	 "qemu --tmem 2G -- qemu-system-x86_64 -m 2G ...\n"
	 "qemu --dry-run -- qemu-system-x86_64 -m 2G",
	 BIT(OPT_HELP) | BIT(OPT_JSON) | BIT(OPT_DRY_RUN) | BIT(OPT_NAME) |
		 BIT(OPT_DOMAIN) | BIT(OPT_RESERVATION) | BIT(OPT_LIMIT) |
		 BIT(OPT_SHARES) | BIT(OPT_NO_BALLOON) | BIT(OPT_STORE) |
		 BIT(OPT_SWAP) | BIT(OPT_SWAP_SIZE) | BIT(OPT_IF_POSSIBLE) |
		 BIT(OPT_TMEM) | BIT(OPT_TMEM_SWAP),
	 1, ARGS_REST, qemu_verb},
	{"attach-line", "[VM]", "QEMU arguments for its guest's page store",
	 "attach-line desk1\nattach-line desk1 --json",
	 BIT(OPT_HELP) | BIT(OPT_JSON), 0, 1, attach_verb},
	{"version", "", "of hv and of the hvd that answers", "version",
	 OPTS_ALWAYS | BIT(OPT_JSON), 0, 0, look_version},
	{"help", "[VERB]", "all verbs, or one", "help\nhelp qemu",
	 BIT(OPT_HELP), 0, 1, ctl_help},
};

const struct program program_hv = {
	"hv", "Runs and steers virtual machines that share one host's memory.",
	hv_verbs, ARRAY_LEN(hv_verbs)};

static const struct verb tmem_verbs[] = {
	{"list", "[VM]", "the store of every client, or of one",
	 "list\nlist desk1\nlist --watch 5", OPTS_VIEW, 0, 1, look_tmem_list},
	{"top", "", "a live screen of where all memory is",
	 "top\ntop --sort refault\ntop | cat",
	 OPTS_VIEW | BIT(OPT_SORT) | VERB_OWN_WATCH, 0, 0, screen_verb},
	{"set", "VM", "change a client's weight, cap, reserve, compression",
	 "set desk1 --weight 200 --cap 256M\nset desk1 --compress off "
	 "--dry-run",
	 OPTS_CHANGE | BIT(OPT_WEIGHT) | BIT(OPT_CAP) | BIT(OPT_RESERVE) |
		 BIT(OPT_COMPRESS),
	 1, 1, change_set},
	{"why", "VM", "what costs this VM time now, and the remedy",
	 "why desk1", OPTS_VIEW, 1, 1, look_why},
	{"freeable", "", "how much could be taken now, from whom",
	 "freeable\nfreeable --json", OPTS_VIEW, 0, 0, look_freeable},
	{"flush", "SIZE", "drop ephemeral pages, oldest first",
	 "flush 512M\nflush --client desk1 64M --dry-run",
	 OPTS_CHANGE | BIT(OPT_CLIENT), 1, 1, change_flush},
	{"freeze", "VM", "take no new page from this VM's guest",
	 "freeze desk1\nfreeze desk1 --dry-run", OPTS_CHANGE, 1, 1,
	 client_freeze},
	{"thaw", "VM", "take new pages again", "thaw desk1", OPTS_CHANGE, 1, 1,
	 client_thaw},
	{"destroy", "VM[:POOL]", "free a guest's pages for good",
	 "destroy desk1:0\ndestroy desk1 --dry-run\ndestroy desk1 --force",
	 OPTS_CHANGE | BIT(OPT_FORCE), 1, 1, client_destroy},
	{"auth", "UUID VM on|off", "may this VM's guest join a shared pool",
	 "auth 00112233-4455-6677-8899-aabbccddeeff desk1 on\n"
	 "auth 00112233445566778899aabbccddeeff desk1 off --dry-run",
	 OPTS_CHANGE, 3, 3, client_auth},
	{"save", "VM FILE", "write all pages a guest must not lose to a file",
	 "save desk1 desk1.tmem\nsave desk1 - | ssh other tmem-ctl restore "
	 "desk1 -",
	 OPTS_CHANGE, 2, 2, client_save},
	{"restore", "VM FILE", "read them back into a VM that has none",
	 "restore desk1 desk1.tmem\nrestore desk1 desk1.tmem --dry-run",
	 OPTS_CHANGE, 2, 2, client_restore},
	{"check", "[VM]", "verify every structure and checksum",
	 "check\ncheck desk1", OPTS_ALWAYS | BIT(OPT_JSON), 0, 1, look_check},
	{"version", "", "of tmem-ctl and of the hvd that answers", "version",
	 OPTS_ALWAYS | BIT(OPT_JSON), 0, 0, look_version},
	{"help", "[VERB]", "all verbs, or one", "help\nhelp set", BIT(OPT_HELP),
	 0, 1, ctl_help},
};

const struct program program_tmem = {
	"tmem-ctl",
	"Shows and steers the memory of virtual machines: who has how much, "
	"what it costs,\nhow much could be taken.",
	tmem_verbs, ARRAY_LEN(tmem_verbs)};
