// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The ring's core, as it is for every guest. Of its own here, since the build
 * wants each object's source in this folder.
 */
#include "../mini/line.c"
