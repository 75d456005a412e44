// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which engine runs a stock guest kernel best here: prints `kvm` or `tcg`, and
 * on a second line why.
 *
 * That /dev/kvm opens proves little: some hosts run only guest user mode
 * natively and emulate every kernel-mode instruction at some 1.5 million a
 * second, where a stock kernel needs minutes to boot. So a tiny VM counts down
 * in ring 0 for a moment and its speed decides. QEMU's TCG reaches several
 * hundred million instructions a second; a real ring 0 over a thousand.
 *
 * The probe starts in protected mode at the reset state with flat segments set
 * by hand: no firmware, one page of code, one page table of the host's making.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "hv/base/types.h"

#define LOOPS	   (20u * 1000 * 1000) /* two instructions each */
#define ENOUGH	   100e6	       /* instructions a second */
#define TIMEOUT_MS 500
#define CODE_GPA   0x1000

/* mov ecx, LOOPS; 1: dec ecx; jnz 1b; out 0x10, al; hlt */
static const uint8_t code[] = {
	0xb9,
	LOOPS & 0xff,
	LOOPS >> 8 & 0xff,
	LOOPS >> 16 & 0xff,
	LOOPS >> 24,
	0x49,
	0x75,
	0xfd,
	0xe6,
	0x10,
	0xf4,
};

struct probe {
	int kvm, vm, vcpu;
	void *ram;
	struct kvm_run *run;
	size_t run_bytes;
};

static void alarm_ignored(int sig)
{
	(void)sig; /* only to interrupt KVM_RUN */
}

static void probe_close(struct probe *p)
{
	if (p->run)
		munmap(p->run, p->run_bytes);
	if (p->vcpu >= 0)
		close(p->vcpu);
	if (p->vm >= 0)
		close(p->vm);
	if (p->kvm >= 0)
		close(p->kvm);
	if (p->ram)
		munmap(p->ram, 2 * PAGE_BYTES);
}

static struct kvm_segment flat(uint16_t selector, uint8_t type)
{
	return (struct kvm_segment){
		.limit = UINT32_MAX,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1,
	};
}

static int probe_registers(const struct probe *p)
{
	struct kvm_regs regs = {.rip = CODE_GPA, .rflags = 2};
	struct kvm_sregs sregs;

	if (ioctl(p->vcpu, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	sregs.cs = flat(8, 11);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(16, 3);
	sregs.cr0 |= 1;
	if (ioctl(p->vcpu, KVM_SET_SREGS, &sregs) < 0 ||
	    ioctl(p->vcpu, KVM_SET_REGS, &regs) < 0)
		return -errno;
	return 0;
}

static int probe_open(struct probe *p)
{
	p->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (p->kvm < 0)
		return -errno;
	p->vm = ioctl(p->kvm, KVM_CREATE_VM, 0);
	if (p->vm < 0)
		return -errno;
	p->ram = mmap(NULL, 2 * PAGE_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->ram == MAP_FAILED) {
		p->ram = NULL;
		return -ENOMEM;
	}
	memcpy((uint8_t *)p->ram + CODE_GPA, code, sizeof(code));
	struct kvm_userspace_memory_region slot = {
		.memory_size = 2 * PAGE_BYTES,
		.userspace_addr = (uintptr_t)p->ram,
	};
	if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return -errno;
	p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
	int bytes = ioctl(p->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (p->vcpu < 0 || bytes < 0)
		return -errno;
	p->run_bytes = (size_t)bytes;
	p->run = mmap(NULL, p->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		      p->vcpu, 0);
	if (p->run == MAP_FAILED) {
		p->run = NULL;
		return -ENOMEM;
	}
	return probe_registers(p);
}

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Instructions a second, 0 if it did not come to its end properly. */
static double probe_speed(const struct probe *p)
{
	struct itimerval timer = {.it_value.tv_usec = TIMEOUT_MS * 1000};
	struct sigaction sa = {.sa_handler = alarm_ignored};
	struct kvm_regs regs;

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	double start = now_s();
	int r = ioctl(p->vcpu, KVM_RUN, 0);
	double took = now_s() - start;
	bool late = r < 0 && errno == EINTR;
	if (ioctl(p->vcpu, KVM_GET_REGS, &regs) < 0)
		return 0;
	if (late) /* how far did it come? */
		return (double)(LOOPS - (uint32_t)regs.rcx) * 2 / took;
	if (r < 0 || p->run->exit_reason != KVM_EXIT_IO)
		return 0;
	return LOOPS * 2.0 / took;
}

int main(void)
{
	struct probe p = {.kvm = -1, .vm = -1, .vcpu = -1};
	int rc = probe_open(&p);

	if (rc) {
		printf("tcg\nno VM through /dev/kvm: %s\n", strerror(-rc));
	} else {
		double speed = probe_speed(&p);
		printf("%s\nkernel mode under /dev/kvm runs %.1f million "
		       "instructions a second\n",
		       speed >= ENOUGH ? "kvm" : "tcg", speed / 1e6);
	}
	probe_close(&p);
	return 0;
}
