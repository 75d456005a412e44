#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# debian.sh: prints the folder with a small Debian 12 to boot: systemd, the cloud
# kernel, and what DKMS needs to build a module for it. Made on first use, which
# takes a minute or two:
#
#   build/rig/debian/vmlinuz, initrd
#   build/rig/debian/root.raw   ext4, sparse
#
# Root has no password. Commands come on ttyS1, one a line, as
# bench/lib/shell_guest.py sends them. Exit code 77: it cannot be had here.
set -u
cd "$(dirname "$0")/../.." || exit 1
rig=$PWD/build/rig
out=$rig/debian
recipe=$(sha256sum <"$0")
packages=linux-image-cloud-amd64,linux-headers-cloud-amd64,dkms,initramfs-tools
packages+=,systemd-sysv,udev,dbus,dmsetup,kmod

say() {
	echo "debian: $*" >&2
}

mkdir -p "$rig"
exec 9>"$rig/debian.lock"
flock 9
if [ "$(cat "$out/recipe" 2>/dev/null)" = "$recipe" ]; then
	echo "$out"
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	say "only root can make a Debian tree"
	exit 77
fi
for program in mmdebstrap mke2fs; do
	if ! PATH=$PATH:/usr/sbin:/sbin command -v $program >/dev/null; then
		say "no $program here"
		exit 77
	fi
done

tmp=$rig/debian.tmp
rm -rf --one-file-system "$tmp"
mkdir -p "$tmp/out"
chmod 755 "$tmp" # apt's own user looks in
root=$tmp/root
say "fetching and unpacking Debian 12"
# In place before the kernel is configured: the few modules that find the root.
mmdebstrap --variant=minbase --include="$packages" \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--aptopt='Acquire::Retries "3"' \
	--essential-hook="mkdir -p '$root/etc/initramfs-tools/hooks' \
		'$root/etc/initramfs-tools/conf.d'" \
	--essential-hook="echo MODULES=list \
		>'$root/etc/initramfs-tools/conf.d/rig'" \
	--essential-hook="cp '$PWD/bench/desktop/guest/initramfs-hook' \
		'$root/etc/initramfs-tools/hooks/rig'" \
	bookworm "$root" >"$rig/debian.log" 2>&1 || {
	tail -n 5 "$rig/debian.log" >&2
	say "Debian's packages are not reachable from here"
	rm -rf --one-file-system "$tmp"
	exit 77
}

cat >"$root/usr/local/sbin/rig-shell" <<'END'
#!/bin/sh
stty raw -echo
printf '\n@@ 0\n'
while IFS= read -r line; do
	sh -c "$line" </dev/null 2>&1
	printf '\n@@ %d\n' $?
done
END
cat >"$root/etc/systemd/system/rig-shell.service" <<'END'
[Service]
ExecStart=/usr/local/sbin/rig-shell
StandardInput=tty-force
StandardOutput=tty
TTYPath=/dev/ttyS1
[Install]
WantedBy=multi-user.target
END
{
	chmod 755 "$root/usr/local/sbin/rig-shell"
	chroot "$root" systemctl enable rig-shell.service
	chroot "$root" systemctl disable apt-daily.timer \
		apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer
	chroot "$root" passwd -d root
	echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
	echo debian >"$root/etc/hostname"
	rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
	cp "$root"/boot/vmlinuz-* "$tmp/out/vmlinuz"
	cp "$root"/boot/initrd.img-* "$tmp/out/initrd"
	PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 \
		-E lazy_itable_init=0 -d "$root" "$tmp/out/root.raw" 2048M
} >>"$rig/debian.log" 2>&1 || {
	tail -n 5 "$rig/debian.log" >&2
	exit 1
}
echo "$recipe" >"$tmp/out/recipe"
rm -rf "$out"
mv "$tmp/out" "$out" || exit 1
rm -rf --one-file-system "$tmp"
echo "$out"
