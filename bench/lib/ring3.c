/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest without a kernel: one vCPU set straight into long mode at CPL 3, flat
 * page tables of 2 MiB pages, and two pieces of code. There is no handler for
 * anything: an exception is a triple fault, which ends the measurement.
 *
 *   gpa 0      own memory: tables, code, order of touches, what they took
 *   gpa 1 GiB  guest RAM: the caller's memory, as a VMM hands it to KVM
 *   gpa 2 GiB  nothing: a write there ends a call (an exit for MMIO)
 *
 * Why CPL 3: some hosts offer a /dev/kvm that runs only guest user mode
 * natively. What is measured, an access that finds no page behind its address,
 * is the same at each level. The selectors are those of a Linux process; such
 * hosts take no others.
 *
 * Dropped: protected mode at CPL 0 as in bench/engine.c, which would measure
 * an emulator there.
 */
#include "bench/lib/ring3.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define OWN_BYTES  (4 * CHUNK_BYTES)
#define RAM_GPA	   (UINT64_C(1) << 30)
#define END_GPA	   (UINT64_C(2) << 30)
#define PML4_AT	   0x1000
#define PDPT_AT	   0x2000
#define PD_AT	   0x3000 /* three: own memory, RAM, the end */
#define TSS_AT	   0x6000
#define CODE_AT	   0x8000
#define ORDER_AT   CHUNK_BYTES
#define PRESENT	   UINT64_C(0x67) /* writable, user, accessed, dirty */
#define LARGE	   UINT64_C(0x80)
#define SPINS	   UINT64_C(50000000) /* two instructions each */
#define TIMEOUT_S  20
#define CPUID_MAX  128
#define ALIGNED(n) (((n) + 4095) & ~(size_t)4095)

/*
 * rdi: page numbers, rsi: how many, r8: where times go, r10: RAM, r13: the
 * end, which is told how many pages began with another byte than page * 7 + 1.
 */
__asm__(".pushsection .rodata\n"
	"ring3_touches:\n"
	"	xor	%r12d, %r12d\n"
	"1:	mov	(%rdi), %ebx\n"
	"	mov	%rbx, %r9\n"
	"	shl	$12, %r9\n"
	"	add	%r10, %r9\n"
	"	lfence\n"
	"	rdtsc\n"
	"	lfence\n"
	"	shl	$32, %rdx\n"
	"	or	%rdx, %rax\n"
	"	mov	%rax, %r11\n"
	"	movzbl	(%r9), %ecx\n"
	"	lfence\n"
	"	rdtsc\n"
	"	shl	$32, %rdx\n"
	"	or	%rdx, %rax\n"
	"	sub	%r11, %rax\n"
	"	mov	%rax, (%r8)\n"
	"	lea	1(,%rbx,8), %eax\n"
	"	sub	%ebx, %eax\n"
	"	cmp	%al, %cl\n"
	"	je	2f\n"
	"	inc	%r12\n"
	"2:	add	$4, %rdi\n"
	"	add	$8, %r8\n"
	"	dec	%rsi\n"
	"	jnz	1b\n"
	"	mov	%r12, (%r13)\n"
	"ring3_spins:\n"
	"	dec	%rsi\n"
	"	jnz	ring3_spins\n"
	"	mov	%rsi, (%r13)\n"
	"ring3_code_end:\n"
	".popsection\n");
extern const uint8_t ring3_touches[], ring3_spins[], ring3_code_end[];

struct ring3 {
	int kvm, vm, vcpu;
	uint8_t *own;
	struct kvm_run *run;
	size_t run_bytes;
	uint64_t tsc_khz;
};

/* ---- making it ---- */

static void tables_fill(const struct ring3 *r, size_t ram_bytes)
{
	uint64_t *pml4 = (void *)(r->own + PML4_AT);
	uint64_t *pdpt = (void *)(r->own + PDPT_AT);
	const size_t bytes[] = {OWN_BYTES, ram_bytes, CHUNK_BYTES};

	pml4[0] = PDPT_AT | PRESENT;
	for (size_t i = 0; i < ARRAY_LEN(bytes); i++) {
		uint64_t pd_at = PD_AT + i * PAGE_BYTES;
		uint64_t *pd = (void *)(r->own + pd_at);

		pdpt[i] = pd_at | PRESENT;
		for (size_t k = 0; k < bytes[i] / CHUNK_BYTES; k++)
			pd[k] = (i << 30) | k * CHUNK_BYTES | PRESENT | LARGE;
	}
	memcpy(r->own + CODE_AT, ring3_touches,
	       (size_t)(ring3_code_end - ring3_touches));
}

static int slot_set(const struct ring3 *r, uint32_t slot, uint64_t gpa,
		    const void *at, size_t bytes)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = bytes,
		.userspace_addr = (uintptr_t)at,
	};

	return ioctl(r->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno
								     : 0;
}

/* Without it the vCPU has no long mode. */
static int cpuid_set(const struct ring3 *r)
{
	struct kvm_cpuid2 *cpuid =
		calloc(1, sizeof(*cpuid) +
				  CPUID_MAX * sizeof(struct kvm_cpuid_entry2));
	int rc = 0;

	if (!cpuid)
		return -ENOMEM;
	cpuid->nent = CPUID_MAX;
	if (ioctl(r->kvm, KVM_GET_SUPPORTED_CPUID, cpuid) < 0 ||
	    ioctl(r->vcpu, KVM_SET_CPUID2, cpuid) < 0)
		rc = -errno;
	free(cpuid);
	return rc;
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool code)
{
	return (struct kvm_segment){
		.limit = UINT32_MAX,
		.selector = selector,
		.type = type,
		.present = 1,
		.dpl = 3,
		.s = 1,
		.db = !code,
		.l = code,
		.g = 1,
	};
}

static int registers_set(const struct ring3 *r)
{
	struct kvm_sregs s;

	if (ioctl(r->vcpu, KVM_GET_SREGS, &s) < 0)
		return -errno;
	s.cs = segment(0x33, 11, true);
	s.ds = s.es = s.fs = s.gs = s.ss = segment(0x2b, 3, false);
	s.tr = (struct kvm_segment){
		.base = TSS_AT,
		.limit = 0x67,
		.selector = 0x40,
		.type = 11,
		.present = 1,
	};
	s.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	s.cr3 = PML4_AT;
	s.cr4 = 0x220;	/* OSFXSR PAE */
	s.efer = 0xd01; /* NX LMA LME SCE */
	return ioctl(r->vcpu, KVM_SET_SREGS, &s) < 0 ? -errno : 0;
}

static int vcpu_make(struct ring3 *r)
{
	int bytes, khz, rc;

	r->vcpu = ioctl(r->vm, KVM_CREATE_VCPU, 0);
	bytes = ioctl(r->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (r->vcpu < 0 || bytes < 0)
		return -errno;
	r->run_bytes = (size_t)bytes;
	r->run = mmap(NULL, r->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		      r->vcpu, 0);
	if (r->run == MAP_FAILED) {
		r->run = NULL;
		return -errno;
	}
	rc = cpuid_set(r);
	if (rc)
		return rc;
	khz = ioctl(r->vcpu, KVM_GET_TSC_KHZ, 0);
	if (khz <= 0)
		return -ENOSYS;
	r->tsc_khz = (uint64_t)khz;
	return registers_set(r);
}

static int vm_make(struct ring3 *r, const struct tool_ram *ram)
{
	int rc;

	r->vm = ioctl(r->kvm, KVM_CREATE_VM, 0);
	if (r->vm < 0)
		return -errno;
	r->own = mmap(NULL, OWN_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r->own == MAP_FAILED) {
		r->own = NULL;
		return -ENOMEM;
	}
	tables_fill(r, tool_ram_bytes(ram));
	rc = slot_set(r, 0, 0, r->own, OWN_BYTES);
	if (!rc)
		rc = slot_set(r, 1, RAM_GPA, ram->at, tool_ram_bytes(ram));
	return rc;
}

int ring3_create(const struct tool_ram *ram, struct ring3 **out,
		 const char **why_out)
{
	struct ring3 *r = calloc(1, sizeof(*r));
	int rc = 0;

	*why_out = "memory";
	if (!r)
		return -ENOMEM;
	r->vm = r->vcpu = -1;
	*why_out = "/dev/kvm";
	r->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (r->kvm < 0)
		rc = -errno;
	*why_out = rc ? *why_out : "a VM";
	rc = rc ? rc : vm_make(r, ram);
	*why_out = rc ? *why_out : "a vCPU at CPL 3";
	rc = rc ? rc : vcpu_make(r);
	if (rc)
		ring3_destroy(r);
	else
		*out = r;
	return rc;
}

void ring3_destroy(struct ring3 *r)
{
	if (!r)
		return;
	if (r->run)
		munmap(r->run, r->run_bytes);
	if (r->vcpu >= 0)
		close(r->vcpu);
	if (r->vm >= 0)
		close(r->vm);
	if (r->kvm >= 0)
		close(r->kvm);
	if (r->own)
		munmap(r->own, OWN_BYTES);
	free(r);
}

/* ---- running it ---- */

static void alarm_ignored(int sig)
{
	(void)sig; /* only to interrupt KVM_RUN */
}

static void alarm_set(unsigned seconds)
{
	struct itimerval timer = {.it_value.tv_sec = (time_t)seconds};
	struct sigaction sa = {.sa_handler = alarm_ignored};

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
}

/* A write to nowhere is done with only when the vCPU is entered again. */
static void exit_finish(const struct ring3 *r)
{
	r->run->immediate_exit = 1;
	(void)ioctl(r->vcpu, KVM_RUN, 0);
	r->run->immediate_exit = 0;
}

/* From `code` to its end. regs: its arguments. */
static int call(const struct ring3 *r, const uint8_t *code,
		struct kvm_regs *regs, uint64_t *result_out)
{
	int rc = 0;

	regs->rip = CODE_AT + (uint64_t)(code - ring3_touches);
	regs->rflags = 0x202;
	regs->r10 = RAM_GPA;
	regs->r13 = END_GPA;
	if (ioctl(r->vcpu, KVM_SET_REGS, regs) < 0)
		return -errno;
	alarm_set(TIMEOUT_S);
	if (ioctl(r->vcpu, KVM_RUN, 0) < 0)
		rc = -errno;
	alarm_set(0);
	if (rc)
		return rc;
	if (r->run->exit_reason != KVM_EXIT_MMIO || !r->run->mmio.is_write ||
	    r->run->mmio.phys_addr != END_GPA)
		return -EIO;
	memcpy(result_out, r->run->mmio.data, sizeof(*result_out));
	exit_finish(r);
	return 0;
}

static double thread_cpu_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

double ring3_speed(struct ring3 *r)
{
	struct kvm_regs regs = {.rsi = SPINS};
	double start = thread_cpu_s(), took;
	uint64_t left;
	int rc = call(r, ring3_spins, &regs, &left);

	took = thread_cpu_s() - start;

	if (rc == -EINTR && ioctl(r->vcpu, KVM_GET_REGS, &regs) == 0)
		return (double)(SPINS - regs.rsi) * 2 / took;
	return rc ? 0 : (double)SPINS * 2 / took;
}

int ring3_touch(struct ring3 *r, const uint32_t *order, size_t n,
		uint32_t *took_ns, uint64_t *wrong_out)
{
	size_t took_at = ORDER_AT + ALIGNED(n * sizeof(*order));
	struct kvm_regs regs = {.rdi = ORDER_AT, .rsi = n, .r8 = took_at};
	const uint64_t *took = (const void *)(r->own + took_at);
	int rc;

	if (!n || took_at + n * sizeof(*took) > OWN_BYTES)
		return -E2BIG;
	memcpy(r->own + ORDER_AT, order, n * sizeof(*order));
	memset(r->own + took_at, 0, n * sizeof(*took));
	rc = call(r, ring3_touches, &regs, wrong_out);
	for (size_t i = 0; i < n && !rc; i++)
		took_ns[i] = (uint32_t)min_u64(took[i] * 1000000 / r->tsc_khz,
					       UINT32_MAX);
	return rc;
}
