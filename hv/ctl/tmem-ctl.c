/* SPDX-License-Identifier: GPL-2.0-or-later */
/* tmem-ctl: the memory administrator's command line; verbs in verbs.c. */
#include "hv/ctl/program.h"

int main(int argc, char **argv)
{
	return program_run(&program_tmem, argc, argv, stdout, stderr);
}
