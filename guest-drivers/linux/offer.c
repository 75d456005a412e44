// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Self-ballooning, the guest's half: how much memory it could do without.
 *
 *     offer = min(available - reserve, most)
 *
 * available is the kernel's own MemAvailable: free pages and the part of caches
 * that costs little. The reserve is what experience adds to it: each page that
 * had to be read again after it was given up (a refault) is a page that was
 * missing, so the reserve grows by a multiple of them at once and shrinks by a
 * small part with each quiet look. So a guest that was squeezed too hard asks
 * for room within seconds and gives it up again within minutes.
 *
 * While processes wait for memory (psi.h) the offer is 0, whatever is
 * available, and with each look the reserve grows by the part of the time that
 * they wait.
 */
#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/mm.h>

#include "offer.h"

#define RESERVE_LEAST ((64u << 20) >> PAGE_SHIFT) /* pages */
#define RESERVE_SHARE 16 /* at least this part of the memory */
#define REFAULT_COST  4	 /* pages of reserve for each refault */
#define DECAY	      32 /* part given up with each quiet look */
/* Fewer refaults between two looks are noise. */
#define QUIET 16

static u64 reserve;
static u64 refaults_seen;

static u64 reserve_least(void)
{
	return max_t(u64, RESERVE_LEAST, totalram_pages() / RESERVE_SHARE);
}

static void reserve_learn(u64 refaults, u32 psi)
{
	u64 missing = refaults - min(refaults, refaults_seen);
	u64 next = reserve - reserve / DECAY;

	if (missing > QUIET || psi)
		next = reserve + missing * REFAULT_COST +
		       div_u64(reserve * psi, 1000);
	refaults_seen = refaults;
	reserve = clamp_t(u64, next, reserve_least(), totalram_pages());
}

u64 tm_offer(u64 most, u64 refaults, u32 psi)
{
	long available = si_mem_available();

	reserve_learn(refaults, psi);
	if (psi || available <= 0 || available <= reserve)
		return 0;
	return min_t(u64, available - reserve, most);
}
