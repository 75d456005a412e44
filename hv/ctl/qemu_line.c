/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading a QEMU command line, not parsing it: only QEMU itself knows its whole
 * grammar (-readconfig, JSON and key=value forms of the same option, a new
 * option each year). Looked for are a few words in options that say what they
 * mean in either form; what is overlooked costs a warning or an unneeded
 * balloon, never the VM.
 */
#include "hv/ctl/qemu_line.h"

#include <ctype.h>
#include <string.h>

bool qemu_name_valid(const char *name)
{
	size_t n = strlen(name);

	if (!n || n >= QEMU_NAME_MAX || !isalnum((unsigned char)name[0]))
		return false;
	for (; *name; name++)
		if (!isascii((unsigned char)*name) ||
		    (!isalnum((unsigned char)*name) && !strchr("._-", *name)))
			return false;
	return true;
}

/* "-name" and "--name" are the same to QEMU. */
static bool is_option(const char *word, const char *option)
{
	if (*word++ != '-')
		return false;
	return !strcmp(word + (*word == '-'), option);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static bool starts(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

/* Copies up to the comma that ends the value; ",," is a comma in it. */
static void value_copy(const char *from, char *to, size_t room)
{
	while (room > 1 && *from) {
		if (*from == ',' && *++from != ',')
			break;
		*to++ = *from++;
		room--;
	}
	*to = '\0';
}

/* The value of key= in a list of key=value; implied: a bare first value. */
static bool key_find(const char *list, const char *key, bool implied,
		     char *value, size_t room)
{
	size_t n = strlen(key);
	const char *at = list;

	if (implied && !memchr(list, '=', strcspn(list, ","))) {
		value_copy(list, value, room);
		return true;
	}
	while (at && *at) {
		if (!strncmp(at, key, n) && at[n] == '=') {
			value_copy(at + n + 1, value, room);
			return true;
		}
		for (at = strchr(at, ','); at && at[1] == ',';)
			at = strchr(at + 2, ',');
		at += at != NULL;
	}
	return false;
}

static bool key_is(const char *list, const char *key, const char *wanted)
{
	char value[32];

	return key_find(list, key, false, value, sizeof(value)) &&
	       !strcmp(value, wanted);
}

/* Both share=on and "share": true */
static bool switch_is(const char *list, const char *key, bool on)
{
	const char *at;
	size_t n = strlen(key);

	if (key_is(list, key, on ? "on" : "off") ||
	    key_is(list, key, on ? "yes" : "no") ||
	    key_is(list, key, on ? "true" : "false"))
		return true;
	if (*list != '{')
		return false;
	for (at = strstr(list, key); at; at = strstr(at + n, key))
		if (at[-1] == '"' && at[n] == '"')
			return starts(at + n + 1 + strspn(at + n + 1, ": \t"),
				      on ? "true" : "false");
	return false;
}

/* What is not allowed becomes '-', so that the VM is still recognised. */
static void name_make(const char *from, char *to)
{
	char *at = to;

	while (*from && !isalnum((unsigned char)*from))
		from++;
	for (; *from && at < to + QEMU_NAME_MAX - 1; from++, at++)
		*at = isascii((unsigned char)*from) &&
				      (isalnum((unsigned char)*from) ||
				       strchr("._-", *from))
			      ? *from
			      : '-';
	*at = '\0';
	if (!qemu_name_valid(to))
		*to = '\0';
}

static void name_read(const char *value, struct qemu_line *out)
{
	char name[256];

	if (key_find(value, "guest", true, name, sizeof(name)))
		name_make(name, out->name);
}

/* ---- machines -------------------------------------------------------- */

static const struct target {
	const char *name;
	const char *machines; /* with PCI; NULL: all but those in no_pci */
} targets[] = {
	{"x86_64", NULL},     {"i386", NULL},	       {"aarch64", "virt sbsa"},
	{"arm", "virt"},      {"riscv64", "virt"},     {"riscv32", "virt"},
	{"ppc64", "pseries"}, {"loongarch64", "virt"}, {"s390x", ""},
};

static const char no_pci[] = "microvm isapc none x-remote xenpv";

static bool word_in(const char *list, const char *word)
{
	size_t n;

	for (; *list; list += n + (list[n] == ' ')) {
		n = strcspn(list, " ");
		if (!strncmp(list, word, n) &&
		    (!word[n] || word[n] == '-' ||
		     isdigit((unsigned char)word[n])))
			return true;
	}
	return false;
}

/* "" as target: `kvm` and `qemu-kvm`, which are this host's x86 QEMU. */
static enum qemu_balloon balloon_fit(const char *qemu, const char *machine)
{
	const char *name = base_name(qemu);

	if (starts(name, "qemu-system-"))
		name += strlen("qemu-system-");
	else if (!strcmp(name, "kvm") || !strcmp(name, "qemu-kvm"))
		name = "x86_64";
	for (size_t i = 0; i < ARRAY_LEN(targets); i++) {
		if (strcmp(targets[i].name, name))
			continue;
		if (!targets[i].machines)
			return word_in(no_pci, machine) ? QEMU_BALLOON_NO_PCI
							: QEMU_BALLOON_FITS;
		if (!*targets[i].machines)
			return QEMU_BALLOON_NO_PCI;
		/* pseries is what ppc64 starts when not told */
		if (!*machine && !strcmp(name, "ppc64"))
			return QEMU_BALLOON_FITS;
		return word_in(targets[i].machines, machine)
			       ? QEMU_BALLOON_FITS
			       : QEMU_BALLOON_NO_PCI;
	}
	return QEMU_BALLOON_UNKNOWN;
}

/* ---- memory ---------------------------------------------------------- */

static unsigned object_flaws(const char *value)
{
	unsigned flaws = 0;

	if (!strstr(value, "memory-backend-"))
		return 0;
	if (strstr(value, "memory-backend-file"))
		flaws |= QEMU_RAM_FILE;
	if (switch_is(value, "share", true) ||
	    (strstr(value, "memory-backend-memfd") &&
	     !switch_is(value, "share", false)))
		flaws |= QEMU_RAM_SHARED;
	if (strstr(value, "memory-backend-memfd"))
		flaws |= QEMU_RAM_FILE;
	if (switch_is(value, "merge", false))
		flaws |= QEMU_RAM_NO_MERGE;
	return flaws;
}

static unsigned option_flaws(const char *option, const char *value)
{
	if (is_option(option, "object"))
		return object_flaws(value);
	if (is_option(option, "mem-path"))
		return QEMU_RAM_FILE;
	if (is_option(option, "overcommit") &&
	    switch_is(value, "mem-lock", true))
		return QEMU_RAM_LOCKED;
	if (is_option(option, "device") && strstr(value, "vfio-"))
		return QEMU_VFIO;
	if ((is_option(option, "machine") || is_option(option, "M")) &&
	    switch_is(value, "mem-merge", false))
		return QEMU_RAM_NO_MERGE;
	return 0;
}

void qemu_line_read(char *const *argv, struct qemu_line *out)
{
	char machine[64] = "";
	bool balloon = false;

	*out = (struct qemu_line){0};
	for (size_t i = 1; argv[i]; i++) {
		const char *value = argv[i + 1];

		balloon |= strstr(argv[i], "virtio-balloon") != NULL;
		if (!value)
			continue;
		if (is_option(argv[i], "name"))
			name_read(value, out);
		if (is_option(argv[i], "machine") || is_option(argv[i], "M"))
			key_find(value, "type", true, machine, sizeof(machine));
		balloon |= is_option(argv[i], "balloon") &&
			   starts(value, "virtio");
		out->flaws |= option_flaws(argv[i], value);
	}
	out->balloon =
		balloon ? QEMU_BALLOON_PRESENT : balloon_fit(argv[0], machine);
}
