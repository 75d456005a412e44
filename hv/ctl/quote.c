/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See quote.h. */
#include "hv/ctl/quote.h"

#include <string.h>

void word_print(FILE *out, const char *word)
{
	if (*word && !word[strspn(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
					"abcdefghijklmnopqrstuvwxyz0123456789"
					"%+,-./:=@_")]) {
		fputs(word, out);
		return;
	}
	fputc('\'', out);
	for (; *word; word++)
		if (*word == '\'')
			fputs("'\\''", out);
		else
			fputc(*word, out);
	fputc('\'', out);
}

void json_print(FILE *out, const char *text)
{
	fputc('"', out);
	for (; *text; text++)
		if ((unsigned char)*text < 0x20)
			fprintf(out, "\\u%04x", (unsigned)*text);
		else
			fprintf(out, strchr("\"\\", *text) ? "\\%c" : "%c",
				*text);
	fputc('"', out);
}
