// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An independent reader of guests' memory: what is really there, counted from
 * outside and by nothing of ours that could be wrong in the same way.
 *
 *   census [--resident] [--touched] PID:BASE_HEX:BYTES ...
 *
 * BASE and BYTES are a guest's RAM in its VMM's address space; they are given,
 * since once a VM is managed its RAM is tens of thousands of mappings. Every
 * page is read with process_vm_readv, through whatever fault handler it has, so
 * pause the guests meanwhile. With --touched, pages that never were touched (or
 * were discarded) are left out: right only before anything is managed.
 *
 * With --resident nothing is read: pagemap alone tells what each guest holds,
 * and the slab caches what its mappings cost the kernel. Cheap, repeatable.
 *
 * Law: pages = absent + zero + distinct + duplicates, where duplicates are
 * divided into those whose content the same VM had already and the others.
 * Contents are told apart by 128 bits of XXH3, so no two are ever confused in
 * practice. One JSON object on standard output.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "hv/base/types.h"

#define VMS_MAX	   64
#define BATCH	   256 /* pages of one read */
#define PM_PRESENT ((uint64_t)1 << 63)
#define PM_SWAPPED ((uint64_t)1 << 62)
#define PM_FILE	   ((uint64_t)1 << 61) /* or shared anonymous */

struct guest {
	pid_t pid;
	uint64_t base, pages;
	uint64_t present, file, swapped, vmas; /* from /proc */
	uint64_t absent, zero, unreadable;
};

struct content {
	XXH128_hash_t sum;
	uint32_t guest;
};

struct census {
	struct guest guest[VMS_MAX];
	size_t guests;
	struct content *content;
	size_t n;
};

static bool guest_parse(struct guest *g, const char *arg)
{
	uintmax_t pid, base, bytes;
	char end;

	if (sscanf(arg, "%ju:%jx:%ju%c", &pid, &base, &bytes, &end) != 3 ||
	    pid == 0 || pid > INT32_MAX || base % PAGE_BYTES != 0 ||
	    bytes == 0 || bytes % PAGE_BYTES != 0 || base + bytes < base)
		return false;
	g->pid = (pid_t)pid;
	g->base = base;
	g->pages = bytes / PAGE_BYTES;
	return true;
}

static int proc_open(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* n entries of pagemap from page `first` of the guest. */
static int pagemap_read(int fd, const struct guest *g, uint64_t first,
			uint64_t *entry, size_t n)
{
	off_t at = (off_t)((g->base / PAGE_BYTES + first) * sizeof(*entry));
	ssize_t r = pread(fd, entry, n * sizeof(*entry), at);

	return r == (ssize_t)(n * sizeof(*entry)) ? 0 : -EIO;
}

static int guest_resident(struct guest *g)
{
	uint64_t entry[BATCH];
	int fd = proc_open(g->pid, "pagemap");
	int rc = fd < 0 ? fd : 0;

	for (uint64_t at = 0; !rc && at < g->pages; at += BATCH) {
		size_t n = (size_t)min_u64(BATCH, g->pages - at);
		rc = pagemap_read(fd, g, at, entry, n);
		for (size_t i = 0; !rc && i < n; i++) {
			g->swapped += (entry[i] & PM_SWAPPED) != 0;
			if (!(entry[i] & PM_PRESENT))
				continue;
			g->present++;
			g->file += (entry[i] & PM_FILE) != 0;
		}
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

/* Mappings that lie in guest RAM. */
static int guest_vmas(struct guest *g)
{
	char path[64], line[512];
	uintmax_t from, to;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)g->pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%jx-%jx", &from, &to) == 2 &&
		    from < g->base + g->pages * PAGE_BYTES && to > g->base)
			g->vmas++;
	fclose(f);
	return 0;
}

static bool page_is_zero(const uint64_t *page)
{
	for (size_t i = 0; i < PAGE_BYTES / sizeof(*page); i++)
		if (page[i])
			return false;
	return true;
}

static void page_count(struct census *c, uint32_t index, const uint8_t *page)
{
	if (page_is_zero((const uint64_t *)(const void *)page)) {
		c->guest[index].zero++;
		return;
	}
	c->content[c->n++] = (struct content){
		.sum = XXH3_128bits(page, PAGE_BYTES),
		.guest = index,
	};
}

static bool batch_read(const struct guest *g, uint64_t at, size_t n,
		       uint8_t *buf)
{
	struct iovec to = {buf, n * PAGE_BYTES};
	struct iovec from = {hva_ptr((hva_t){g->base + at * PAGE_BYTES}),
			     n * PAGE_BYTES};

	return process_vm_readv(g->pid, &to, 1, &from, 1, 0) ==
	       (ssize_t)(n * PAGE_BYTES);
}

static int guest_read(struct census *c, uint32_t index, bool touched)
{
	static _Alignas(64) uint8_t buf[BATCH * 4096];
	struct guest *g = &c->guest[index];
	uint64_t entry[BATCH];
	int fd = proc_open(g->pid, "pagemap");
	int rc = fd < 0 ? fd : 0;

	for (uint64_t at = 0; !rc && at < g->pages; at += BATCH) {
		size_t n = (size_t)min_u64(BATCH, g->pages - at);
		rc = pagemap_read(fd, g, at, entry, n);
		bool whole = !touched && batch_read(g, at, n, buf);
		for (size_t i = 0; !rc && i < n; i++) {
			uint8_t *page = buf + i * PAGE_BYTES;
			if (touched && !(entry[i] & (PM_PRESENT | PM_SWAPPED)))
				g->absent++;
			else if (whole || batch_read(g, at + i, 1, page))
				page_count(c, index, page);
			else
				g->unreadable++;
		}
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

static int content_cmp(const void *a, const void *b)
{
	const struct content *x = a, *y = b;
	int rc = XXH128_cmp(&x->sum, &y->sum);

	if (rc)
		return rc;
	return x->guest == y->guest ? 0 : x->guest < y->guest ? -1 : 1;
}

static void contents_print(struct census *c)
{
	uint64_t distinct = 0, within = 0, across = 0, zero = 0, absent = 0;
	uint64_t unreadable = 0;

	qsort(c->content, c->n, sizeof(*c->content), content_cmp);
	for (size_t i = 0; i < c->n; i++) {
		const struct content *x = &c->content[i];
		if (i == 0 || !XXH128_isEqual(x[-1].sum, x->sum))
			distinct++;
		else if (x[-1].guest == x->guest)
			within++;
		else
			across++;
	}
	for (size_t i = 0; i < c->guests; i++) {
		zero += c->guest[i].zero;
		absent += c->guest[i].absent;
		unreadable += c->guest[i].unreadable;
	}
	printf("\"zero\": %ju, \"absent\": %ju, \"unreadable\": %ju, "
	       "\"nonzero\": %zu, \"distinct\": %ju, \"duplicates\": %ju, "
	       "\"duplicates_within\": %ju, \"duplicates_across\": %ju, ",
	       (uintmax_t)zero, (uintmax_t)absent, (uintmax_t)unreadable, c->n,
	       (uintmax_t)distinct, (uintmax_t)(within + across),
	       (uintmax_t)within, (uintmax_t)across);
}

/* Bytes of kernel memory in the caches that mappings are made of. */
static uint64_t slab_bytes(void)
{
	static const char *const names[] = {"vm_area_struct", "anon_vma_chain",
					    "anon_vma", "maple_node"};
	char line[512], name[64];
	uintmax_t active, total, size;
	uint64_t bytes = 0;
	FILE *f = fopen("/proc/slabinfo", "re");

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%63s %ju %ju %ju", name, &active, &total,
			   &size) != 4)
			continue;
		for (size_t i = 0; i < ARRAY_LEN(names); i++)
			if (strcmp(name, names[i]) == 0)
				bytes += total * size;
	}
	fclose(f);
	return bytes;
}

static void guests_print(const struct census *c)
{
	uint64_t pages = 0, anon = 0, file = 0, swapped = 0, vmas = 0;

	printf("\"guests\": [");
	for (size_t i = 0; i < c->guests; i++) {
		const struct guest *g = &c->guest[i];
		printf("%s{\"pid\": %d, \"pages\": %ju, \"anon\": %ju, "
		       "\"file\": %ju, \"swapped\": %ju, \"vmas\": %ju}",
		       i ? ", " : "", (int)g->pid, (uintmax_t)g->pages,
		       (uintmax_t)(g->present - g->file), (uintmax_t)g->file,
		       (uintmax_t)g->swapped, (uintmax_t)g->vmas);
		pages += g->pages;
		anon += g->present - g->file;
		file += g->file;
		swapped += g->swapped;
		vmas += g->vmas;
	}
	printf("], \"pages\": %ju, \"anon\": %ju, \"file\": %ju, "
	       "\"swapped\": %ju, \"vmas\": %ju, \"slab_bytes\": %ju}\n",
	       (uintmax_t)pages, (uintmax_t)anon, (uintmax_t)file,
	       (uintmax_t)swapped, (uintmax_t)vmas, (uintmax_t)slab_bytes());
}

/* What /proc says comes first: reading pages makes them resident. */
static int census_take(struct census *c, bool read_pages, bool touched)
{
	uint64_t pages = 0;
	int rc = 0;

	for (size_t i = 0; !rc && i < c->guests; i++) {
		rc = guest_resident(&c->guest[i]);
		if (!rc)
			rc = guest_vmas(&c->guest[i]);
		pages += c->guest[i].pages;
	}
	if (rc || !read_pages)
		return rc;
	c->content = malloc(pages * sizeof(*c->content));
	if (!c->content)
		return -ENOMEM;
	for (uint32_t i = 0; !rc && i < c->guests; i++)
		rc = guest_read(c, i, touched);
	return rc;
}

int main(int argc, char **argv)
{
	static struct census c;
	bool resident = false, touched = false;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--resident") == 0)
			resident = true;
		else if (strcmp(argv[i], "--touched") == 0)
			touched = true;
		else if (c.guests == VMS_MAX ||
			 !guest_parse(&c.guest[c.guests++], argv[i]))
			c.guests = 0, i = argc;
	}
	if (!c.guests) {
		fprintf(stderr, "usage: census [--resident] [--touched] "
				"PID:BASE_HEX:BYTES ...\n");
		return 2;
	}
	int rc = census_take(&c, !resident, touched);
	if (rc) {
		fprintf(stderr, "census: %s\n", strerror(-rc));
		return 1;
	}
	printf("{");
	if (!resident)
		contents_print(&c);
	guests_print(&c);
	free(c.content);
	return 0;
}
