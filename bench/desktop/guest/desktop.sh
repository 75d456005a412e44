#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# A desktop session without a screen: what a VDI guest runs, on a local page.
export HOME=/home/desk DISPLAY=:0 XDG_RUNTIME_DIR=/run/desk
# No GLX: a software GL would compile shaders for minutes under TCG.
Xvfb :0 -screen 0 1024x768x24 -nolisten tcp -extension GLX &
for i in $(seq 300); do
	test -S /tmp/.X11-unix/X0 && break
	sleep 0.2
done
openbox &
xterm -e 'while :; do date; sleep 10; done' &
exec firefox-esr --no-remote --profile /home/desk/profile file:///usr/share/tidepool/page/index.html
