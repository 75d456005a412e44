/* SPDX-License-Identifier: GPL-2.0-or-later */
/* hv: the host's command line. Its verbs are in verbs.c. */
#include "hv/ctl/program.h"

int main(int argc, char **argv)
{
	return program_run(&program_hv, argc, argv, stdout, stderr);
}
