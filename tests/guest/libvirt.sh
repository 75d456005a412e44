#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The domain of docs/libvirt.md, as it stands there: libvirt translates it to a
# QEMU command line with everything `hv qemu` would have added, and starts it
# with the agent in it. No daemon: libvirt's QEMU driver runs inside virsh and
# virt-qemu-run (qemu:///embed), as an ordinary user, with all its files in one
# folder that is removed afterwards.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${BUILD:-build}
agent=$(realpath "$build/libhvagent.so" 2>/dev/null)

skip() {
	echo "libvirt: $*"
	exit 77
}
fail() {
	echo "libvirt: $*"
	[ -f "$dir/run.log" ] && cat "$dir/run.log"
	cat "$dir"/root/log/qemu/*.log 2>/dev/null
	exit 1
}

command -v virsh >/dev/null || skip "virsh (libvirt-clients) is not installed"
command -v virt-qemu-run >/dev/null ||
	skip "virt-qemu-run (libvirt-daemon-driver-qemu) is not installed"
[ -f "$agent" ] || { echo "libvirt: $build/libhvagent.so is not built"; exit 1; }

dir=$(mktemp -d /tmp/tidepool-libvirt-XXXXXX) || exit 1
runner=
cleanup() {
	# virt-qemu-run destroys the domain when it is told to end.
	if [ -n "$runner" ]; then
		kill -TERM "$runner" 2>/dev/null
		wait "$runner" 2>/dev/null
	fi
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# As root libvirt wants its own user and /var: be nobody.
mkdir -p "$dir/root/etc" "$dir/home" "$dir/run"
echo 'stdio_handler = "file"' >"$dir/root/etc/qemu.conf"
cp "$agent" "$dir/libhvagent.so"
chmod 755 "$dir" "$dir/libhvagent.so"
as=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "HOME=$dir/home"
	"XDG_RUNTIME_DIR=$dir/home")
if [ "$(id -u)" = 0 ]; then
	chown -R nobody:nogroup "$dir"
	as=(setpriv --reuid=nobody --regid=nogroup --clear-groups "${as[@]}")
fi

sed -n '/^<domain /,/^<\/domain>/p' docs/libvirt.md >"$dir/doc.xml"
[ -s "$dir/doc.xml" ] || fail "docs/libvirt.md shows no domain"

# 1. The XML as documented gives the command line it claims to give.
line=$(timeout 60 "${as[@]}" virsh -c "qemu:///embed?root=$dir/root" \
	domxml-to-native qemu-argv --xml "$dir/doc.xml" 2>"$dir/run.log") ||
	fail "domxml-to-native refuses the documented XML"
for wanted in LD_PRELOAD=/usr/local/lib/tidepool/libhvagent.so \
	TIDEPOOL_NAME=desk1 TIDEPOOL_DOMAIN=desks \
	TIDEPOOL_QMP=/run/tidepool/desk1.qmp TIDEPOOL_RUN_DIR=/run/tidepool \
	'-qmp unix:/run/tidepool/desk1.qmp,server=on,wait=off' \
	'"driver":"virtio-balloon-pci"' '"free-page-reporting":true' \
	'"deflate-on-oom":true' '"qom-type":"memory-backend-ram"'; do
	[[ $line == *"$wanted"* ]] || fail "no $wanted in: $line"
done
echo "libvirt: the documented XML gives the managed command line"

# 2. And it starts. Only its folders are others here.
sed -e "s,/usr/local/lib/tidepool/,$dir/," -e "s,/run/tidepool,$dir/run,g" \
	"$dir/doc.xml" >"$dir/run.xml"
rm -rf "$dir/root/run" "$dir/root/lib"
"${as[@]}" virt-qemu-run -v -r "$dir/root" "$dir/run.xml" \
	>"$dir/run.log" 2>&1 &
runner=$!

# The QEMU that listens on our QMP socket, found by its environment.
pid=
for _ in $(seq 600); do
	kill -0 "$runner" 2>/dev/null || fail "virt-qemu-run has ended"
	if grep -q 'guest running' "$dir/run.log"; then
		for env in /proc/[0-9]*/environ; do
			tr '\0' '\n' 2>/dev/null <"$env" |
				grep -qx "TIDEPOOL_RUN_DIR=$dir/run" || continue
			pid=${env#/proc/}
			pid=${pid%/environ}
		done
		[ -n "$pid" ] && [ -S "$dir/run/desk1.qmp" ] && break
	fi
	sleep 0.1
done
[ -n "$pid" ] || fail "the domain did not start within 60 s"
[ -S "$dir/run/desk1.qmp" ] || fail "QEMU made no QMP socket"
grep -q "$dir/libhvagent.so" "/proc/$pid/maps" ||
	fail "the agent is not loaded into QEMU"
tr '\0' '\n' <"/proc/$pid/environ" | grep -qx TIDEPOOL_DOMAIN=desks ||
	fail "the agent's variables did not reach QEMU"
# No hvd listens there: the agent has to say so, and QEMU has to run on.
said='^[0-9:.]* tidepool.*: unmanaged: '
for _ in $(seq 100); do
	grep -q "$said" "$dir/root/log/qemu/desk1.log" && break
	sleep 0.1
done
grep "$said" "$dir/root/log/qemu/desk1.log" ||
	fail "the agent said nothing about the missing hvd"
kill -0 "$pid" || fail "QEMU did not run on"
echo "libvirt: the documented domain runs with the agent in it"
