/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tracepoints for perf, bpftrace and gdb (USDT): `perf list sdt`,
 * `bpftrace -l 'usdt:PATH:*'`. A probe is one nop where it stands and a note in
 * the file that says where that is and in which registers its arguments lie;
 * arguments are such as the code has at hand, so nothing is computed for a
 * probe that nobody watches. bench/perf.sh counts what that is.
 *
 *   tidepool:page      first page of its range, page in it, state from, to
 *                      (the sum of the first two is the guest's page number)
 *   tidepool:pressure  state from, state to, by hand (1) or measured (0)
 *
 * States are those of enum page_state and enum pressure_state. Without
 * <sys/sdt.h> (Debian: systemtap-sdt-dev), and with TIDEPOOL_NO_PROBES, they
 * are not there.
 */
#ifndef HV_BASE_PROBE_H
#define HV_BASE_PROBE_H

#if !defined(TIDEPOOL_NO_PROBES) && defined(__has_include)
#if __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define PROBE_USDT 1
#endif
#endif

#ifdef PROBE_USDT
#define PROBE3(name, a, b, c)	 DTRACE_PROBE3(tidepool, name, a, b, c)
#define PROBE4(name, a, b, c, d) DTRACE_PROBE4(tidepool, name, a, b, c, d)
#else
#define PROBE3(name, a, b, c)	 ((void)(a), (void)(b), (void)(c))
#define PROBE4(name, a, b, c, d) ((void)(a), (void)(b), (void)(c), (void)(d))
#endif

#endif
