/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Will the dynamic loader put a preloaded library into this program? Only a
 * program with an interpreter (PT_INTERP) has a loader; the loader ignores
 * LD_PRELOAD where the kernel set AT_SECURE (setuid, setgid or capabilities
 * that change who the process is); and it can load only what is of its own
 * machine. The header is read once, into a copy, and every offset of it is
 * checked against the file's size: the file may be anything.
 */
#include "hv/ctl/elf.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define PHDRS_MAX 512

#if defined(__x86_64__)
#define OUR_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OUR_MACHINE EM_AARCH64
#elif defined(__riscv)
#define OUR_MACHINE EM_RISCV
#elif defined(__s390x__)
#define OUR_MACHINE EM_S390
#elif defined(__powerpc64__)
#define OUR_MACHINE EM_PPC64
#else
#error "name this machine's EM_ constant here"
#endif

static bool is_privileged(const char *path, const struct stat *st)
{
	if ((st->st_mode & S_ISUID) && st->st_uid != geteuid())
		return true;
	if ((st->st_mode & S_ISGID) && (st->st_mode & S_IXGRP) &&
	    st->st_gid != getegid())
		return true;
	return geteuid() && getxattr(path, "security.capability", NULL, 0) > 0;
}

static int phdrs_judge(int fd, const Elf64_Ehdr *head, uint64_t bytes,
		       enum elf_verdict *out)
{
	*out = ELF_NOT_ELF;
	if (head->e_phentsize != sizeof(Elf64_Phdr) ||
	    head->e_phnum > PHDRS_MAX || head->e_phoff > bytes ||
	    head->e_phnum * sizeof(Elf64_Phdr) > bytes - head->e_phoff)
		return 0;
	*out = ELF_STATIC;
	for (unsigned i = 0; i < head->e_phnum; i++) {
		Elf64_Phdr phdr;
		ssize_t r = pread(fd, &phdr, sizeof(phdr),
				  (off_t)(head->e_phoff + i * sizeof(phdr)));

		if (r < 0)
			return -errno;
		if (r != (ssize_t)sizeof(phdr))
			return -EIO;
		if (phdr.p_type == PT_INTERP)
			*out = ELF_PRELOADS;
	}
	return 0;
}

static int file_judge(int fd, uint64_t bytes, enum elf_verdict *out)
{
	Elf64_Ehdr head = {0};
	ssize_t r = pread(fd, &head, sizeof(head), 0);

	if (r < 0)
		return -errno;
	*out = ELF_NOT_ELF;
	if (r >= 2 && !memcmp(&head, "#!", 2))
		*out = ELF_SCRIPT;
	if (r < (ssize_t)sizeof(head) ||
	    memcmp(head.e_ident, ELFMAG, SELFMAG) ||
	    (head.e_type != ET_EXEC && head.e_type != ET_DYN))
		return 0;
	*out = ELF_FOREIGN;
	if (head.e_ident[EI_CLASS] != ELFCLASS64 ||
	    head.e_machine != OUR_MACHINE)
		return 0;
	return phdrs_judge(fd, &head, bytes, out);
}

int elf_judge(const char *path, enum elf_verdict *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	int rc;

	if (fd < 0)
		return -errno;
	rc = fstat(fd, &st) < 0 ? -errno : 0;
	if (!rc && !S_ISREG(st.st_mode))
		rc = -EACCES;
	if (!rc)
		rc = file_judge(fd, (uint64_t)st.st_size, out);
	if (!rc && *out == ELF_PRELOADS && is_privileged(path, &st))
		*out = ELF_PRIVILEGED;
	close(fd);
	return rc;
}
