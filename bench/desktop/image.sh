#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Builds the one golden desktop image that every guest of `make run` starts
# from: Debian 12 with systemd, Xvfb, openbox, xterm, Firefox and the workload.
# Usage: image.sh DIR. Leaves DIR/desktop.raw, DIR/vmlinuz, DIR/initrd.
#
# It is made in a directory of its own beside DIR and put in place by one
# rename, so DIR is either whole or not there. DIR/recipe holds the hash of all
# that went in; when it still fits, nothing is done.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
dir=${1:?usage: image.sh DIR}
image_mib=2048
packages=linux-image-cloud-amd64,systemd-sysv,udev,dbus,xvfb,openbox,xterm
packages+=,firefox-esr,python3-minimal,initramfs-tools,fonts-dejavu-core
recipe=$(cat "$here"/image.sh "$here"/workload.c "$here"/guest/* | sha256sum)

if [ "$(cat "$dir/recipe" 2>/dev/null)" = "$recipe" ]; then
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	echo "image.sh: building a Debian tree needs root: sudo $0 $dir" >&2
	exit 1
fi

# Steps of the bar, in percent; the first takes nearly all of the time.
bar() {
	local width=40 fill
	fill=$((width * $1 / 100))
	if [ -t 1 ]; then
		printf '\r\033[Kdesktop image [%-*s] %3d%% %s' $width \
			"$(printf '%*s' $fill '' | tr ' ' '#')" "$1" "$2"
		[ "$1" = 100 ] && echo
	else
		echo "desktop image $1% $2"
	fi
	return 0
}

mkdir -p "$(dirname "$dir")"
work=$(mktemp -d "$(dirname "$dir")/.image.XXXXXX")
chmod 755 "$work" # apt's own user looks in
child=
clean() {
	local rc=$?
	trap "" EXIT INT TERM
	set +e
	if [ -n "$child" ] && kill -0 "$child" 2>/dev/null; then
		kill -TERM "$child" 2>/dev/null
		wait "$child" 2>/dev/null
	fi
	if [ $rc != 0 ] && [ -s "$work/log" ]; then
		printf '\n' >&2
		tail -n 15 "$work/log" >&2
		echo "image.sh: failed; nothing was kept" >&2
	fi
	rm -rf --one-file-system "$work"
	exit $rc
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

root=$work/root
share=$root/usr/share/tidepool
bar 0 "starting"

# The hook in place before the kernel is configured saves a second initrd.
mmdebstrap --variant=minbase --include="$packages" \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--aptopt='Acquire::Retries "3"' \
	--essential-hook='mkdir -p "$1/etc/initramfs-tools/hooks"' \
	--essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"' \
	--essential-hook="echo MODULES=list \
		>'$root/etc/initramfs-tools/conf.d/tidepool'" \
	--essential-hook="cp '$here/guest/initramfs-hook' \
		'$root/etc/initramfs-tools/hooks/tidepool'" \
	bookworm "$root" >"$work/log" 2>&1 &
child=$!
# What it prints is not a measure of time, but the size of the tree is.
while kill -0 "$child" 2>/dev/null; do
	have=$(du -sm "$root" 2>/dev/null | cut -f1 || true)
	percent=$((${have:-0} * 85 / 1050))
	bar $((percent > 85 ? 85 : percent)) "installing Debian"
	sleep 2
done
wait "$child"
child=

bar 86 "desktop and workload"
mkdir -p "$share/page"
gcc -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -static \
	-o "$share/workload" "$here/workload.c" >>"$work/log" 2>&1
install -m 755 "$here/guest/desktop.sh" "$share/desktop.sh"
install -m 644 "$here/guest/index.html" "$share/page/index.html"
install -m 644 "$here"/guest/*.service "$root/etc/systemd/system/"
{
	chroot "$root" useradd -m -s /bin/sh desk
	chroot "$root" systemctl enable desktop workload
	chroot "$root" systemctl disable apt-daily.timer \
		apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer
	chroot "$root" systemctl mask systemd-networkd-wait-online \
		systemd-timesyncd
	chroot "$root" apt-get clean
	chroot "$root" passwd -d root
	chroot "$root" install -d -o desk -g desk /home/desk/profile
	install -m 644 "$here/guest/user.js" "$root/home/desk/profile/"
} >>"$work/log" 2>&1
echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
echo desktop >"$root/etc/hostname"
rm -f "$root/etc/machine-id" "$root/etc/resolv.conf"
: >"$root/etc/machine-id"
rm -rf "$root"/var/lib/apt/lists/*

# One start here, at full speed, fills the browser's caches: a desktop's browser
# has been started before. It runs without network, in mounts of its own.
bar 88 "first start of the browser"
unshare --mount --net --pid --fork --kill-child sh -c '
	mount -t proc proc "$1/proc"
	mount -t tmpfs tmpfs "$1/dev/shm"
	timeout -s TERM 15 chroot --userspec=desk "$1" env HOME=/home/desk \
		firefox-esr --headless --no-remote --profile /home/desk/profile \
		file:///usr/share/tidepool/page/index.html
' - "$root" >>"$work/log" 2>&1 || test $? = 124
rm -rf "$root/home/desk/profile/lock" "$root"/tmp/*

bar 90 "checksums"
"$share/workload" manifest "$root" >"$work/manifest"
mv "$work/manifest" "$share/manifest"

bar 93 "file system"
mkdir "$work/out"
cp "$(ls "$root"/boot/vmlinuz-*)" "$work/out/vmlinuz"
cp "$(ls "$root"/boot/initrd.img-*)" "$work/out/initrd"
mke2fs -q -t ext4 -O ^has_journal -d "$root" "$work/out/desktop.raw" \
	"${image_mib}M" >>"$work/log" 2>&1
echo "$recipe" >"$work/out/recipe"

if [ -e "$dir" ]; then
	mv "$dir" "$work/old"
fi
mv "$work/out" "$dir"
bar 100 "$dir"
