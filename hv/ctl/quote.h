/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Printing words for others to read: a shell, or a reader of JSON. */
#ifndef HV_CTL_QUOTE_H
#define HV_CTL_QUOTE_H

#include <stdio.h>

/* As a shell would need it: quoted unless it is plain. */
void word_print(FILE *out, const char *word);

/* As a JSON string, its quotes included. */
void json_print(FILE *out, const char *text);

#endif
