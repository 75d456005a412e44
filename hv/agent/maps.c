/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See maps.h. An entry of smaps is one header line, some counters, and last a
 * line of two-letter flags:
 *
 *   7f2a40000000-7f2a70000000 rw-p 00000000 00:00 0
 *   Rss:                   4 kB
 *   ...
 *   VmFlags: rd wr mr mw me dc ac sd hg
 *
 * Asking once per range when it is adopted is cheap (guest RAM is still empty
 * then), and far simpler than following every call that may have made it so.
 */
#include "hv/agent/maps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct walk {
	uintptr_t lo, hi;
	uintptr_t at; /* everything of [lo, at) was seen */
	bool inside;  /* the entry being read overlaps [lo, hi) */
	unsigned flags;
};

static void entry_begin(struct walk *w, uintptr_t from, uintptr_t to,
			const char *line)
{
	char perms[5] = "";
	unsigned long inode = 0;

	w->inside = from < w->hi && to > w->lo;
	if (!w->inside)
		return;
	if (from > w->at)
		w->flags |= MAPS_HOLE;
	w->at = to;
	if (sscanf(line, "%*x-%*x %4s %*x %*x:%*x %lu", perms, &inode) != 2 ||
	    perms[0] != 'r' || perms[1] != 'w')
		w->flags |= MAPS_NOT_RW;
	if (perms[3] != 'p')
		w->flags |= MAPS_SHARED;
	/* What the guest's line to its page store lies in. */
	if (strstr(line, "/memfd:tidepool-line"))
		w->flags |= MAPS_DEVICE;
	if (inode)
		w->flags |= MAPS_FILE;
}

static void entry_flags(struct walk *w, char *text)
{
	static const struct {
		const char *word;
		unsigned flag;
	} bad[] = {{"sh", MAPS_SHARED}, {"ht", MAPS_HUGETLB},
		   {"lo", MAPS_LOCKED}, {"um", MAPS_UFFD},
		   {"uw", MAPS_UFFD},	{"ui", MAPS_UFFD},
		   {"io", MAPS_DEVICE}, {"pf", MAPS_DEVICE}};
	bool kept = false;
	char *save = NULL;

	for (char *word = strtok_r(text, " \n", &save); word;
	     word = strtok_r(NULL, " \n", &save)) {
		kept |= !strcmp(word, "dc");
		for (size_t i = 0; i < ARRAY_LEN(bad); i++)
			if (!strcmp(word, bad[i].word))
				w->flags |= bad[i].flag;
	}
	if (!kept)
		w->flags |= MAPS_FORKED;
}

int maps_scan(FILE *smaps, uintptr_t lo, uintptr_t hi, unsigned *flags_out)
{
	struct walk w = {.lo = lo, .hi = hi, .at = lo};
	unsigned long from, to;
	size_t room = 0;
	char *line = NULL;
	int rc;

	while (getline(&line, &room, smaps) > 0) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			entry_begin(&w, from, to, line);
		else if (w.inside && !strncmp(line, "VmFlags:", 8))
			entry_flags(&w, line + 8);
	}
	rc = ferror(smaps) ? -EIO : 0;
	free(line);
	if (w.at < hi)
		w.flags |= MAPS_HOLE;
	*flags_out = w.flags;
	return rc;
}

int maps_look(uintptr_t lo, uintptr_t hi, unsigned *flags_out)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	int rc;

	if (!smaps)
		return -errno;
	rc = maps_scan(smaps, lo, hi, flags_out);
	fclose(smaps);
	return rc;
}

const char *maps_reason(unsigned flags)
{
	static const struct {
		unsigned flag;
		const char *text;
	} reason[] = {
		{MAPS_HOLE, "guest RAM has holes or is gone"},
		{MAPS_DEVICE, "guest RAM is a device's memory"},
		{MAPS_HUGETLB, "guest RAM is from hugetlbfs"},
		{MAPS_SHARED, "guest RAM is shared memory (share=on)"},
		{MAPS_FILE, "guest RAM is backed by a file"},
		{MAPS_NOT_RW, "guest RAM is not readable and writable"},
		{MAPS_LOCKED, "guest RAM is locked (mlock)"},
		{MAPS_UFFD, "the VMM itself uses userfaultfd on guest RAM"},
		{MAPS_FORKED, "guest RAM is not MADV_DONTFORK: a child process "
			      "would lose pages"},
	};

	for (size_t i = 0; i < ARRAY_LEN(reason); i++)
		if (flags & reason[i].flag)
			return reason[i].text;
	return NULL;
}
