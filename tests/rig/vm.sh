#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Runs programs as root on another kernel than this machine's: inside a QEMU
# machine, always by TCG, so that it works and means the same everywhere.
#
#   vm.sh [-k 6.1|6.12] [-m MiB] [-t seconds] [-T seconds] OUTDIR PROGRAM...
#
# -t bounds one program, -T the whole machine. Each program's output goes to
# OUTDIR/NAME.log; stdout gets a line "NAME EXITCODE" when it ends (125: the
# machine died under it, 137: it took too long). The exit code is 0 if the
# machine ran to its end, 77 if the kernel cannot be had.
#
# Inside: busybox, the programs in /tp/build/tests with the libraries ldd names,
# proc, sys, dev, tmpfs on /tmp and an ext4 disk on /var/tmp (O_DIRECT works
# there). Nothing of the kernel's defaults is changed. The kernel's console is
# ttyS0; programs write to ttyS1, so neither garbles the other.
set -u
cd "$(dirname "$0")/../.." || exit 1
kernel=6.1 ram=2048 each=120 whole=600
while getopts k:m:t:T: opt; do
	case $opt in
	k) kernel=$OPTARG ;;
	m) ram=$OPTARG ;;
	t) each=$OPTARG ;;
	T) whole=$OPTARG ;;
	*) exit 1 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || {
	echo "usage: vm.sh [-k kernel] [-m MiB] [-t s] [-T s] outdir program..."
	exit 1
}
out=$1
shift
mkdir -p "$out" || exit 1

kdir=$(tests/rig/kernel.sh "$kernel") || exit $?
tmp=$(mktemp -d "${TMPDIR:-/tmp}/tidepool-vm.XXXXXX") || exit 1
qemu=
cleanup() {
	[ -n "$qemu" ] && kill "$qemu" 2>/dev/null
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

root=$tmp/root
add_program() { # file: the program and its libraries, at their own paths
	local lib
	cp "$1" "$root/tp/build/tests/" || exit 1
	ldd "$1" 2>/dev/null | grep -o '/[^ ]*' | while read -r lib; do
		[ -e "$root$lib" ] && continue
		mkdir -p "$root$(dirname "$lib")"
		cp -L "$lib" "$root$lib"
	done
}

add_modules() { # names: they and what they need, in loading order
	local version name file
	version=$(basename "$kdir"/lib/modules/*)
	for name in "$@"; do
		PATH=$PATH:/usr/sbin:/sbin modprobe -d "$kdir" -S "$version" \
			--show-depends "$name" 2>/dev/null |
			sed -n 's/^insmod \([^ ]*\).*/\1/p'
	done | awk '!seen[$0]++' | while read -r file; do
		cp "$file" "$root/modules/"
		basename "$file" >>"$root/modules/order"
	done
}

mkdir -p "$root"/{bin,dev,proc,sys,tmp,etc,modules,var/tmp,run,root} \
	"$root/tp/build/tests"
cp /bin/busybox "$root/bin/" || exit 1
for program; do
	add_program "$program"
	basename "$program" >>"$root/tp/list"
done
: >"$root/modules/order"
add_modules virtio_pci virtio_blk crc32c_generic ext4
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'nobody:x:65534:65534:nobody:/:/bin/false' >>"$root/etc/passwd"
cat >"$root/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
ip link set lo up
while read -r m; do insmod /modules/\$m; done </modules/order
mount -t ext4 /dev/vda /var/tmp
stty -F /dev/ttyS1 raw -echo
exec >/dev/ttyS1 2>&1 </dev/null
export TEST_SLOW=1 CK_TIMEOUT_MULTIPLIER=8 HOME=/root
export CHECK_KERNEL=$kernel
cd /tp
while read -r t; do
	echo "@@begin \$t"
	timeout -s KILL $each build/tests/\$t
	echo "@@end \$t \$?"
done <list
echo "@@done"
sync
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) >"$tmp/initrd" || exit 1
truncate -s 1G "$tmp/disk"
PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -F "$tmp/disk" || exit 1

# Splits what the machine has said so far; prints ends not yet printed.
split() {
	tr -d '\r' <"$tmp/serial" | awk -v out="$out" -v skip="$1" '
		$1 == "@@begin" { f = out "/" $2 ".log"; printf "" >f; next }
		$1 == "@@end"   { if (++n > skip) print $2, $3; f = ""; next }
		f != ""		{ print >f }'
}

boot() {
	: >"$tmp/serial"
	# cx16=off: QEMU 7.2's translation of cmpxchg16b, which 6.12's allocator
	# uses, can leave a wrong flags register behind; the guest kernel then
	# dies of a double fault about once in ten boots.
	qemu-system-x86_64 -accel tcg,thread=multi,tb-size=256 -machine q35 \
		-cpu max,cx16=off -smp 2 -m "$ram" -nodefaults -no-user-config \
		-display none -no-reboot -kernel "$kdir/vmlinuz" \
		-initrd "$tmp/initrd" \
		-append "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check" \
		-drive "if=none,id=d,file=$tmp/disk,format=raw,cache=unsafe" \
		-device virtio-blk-pci,drive=d,disable-legacy=on \
		-chardev "file,id=c0,path=$out/console.log" \
		-serial chardev:c0 \
		-chardev "file,id=c1,path=$tmp/serial" -serial chardev:c1 \
		>"$out/qemu.log" 2>&1 &
	qemu=$!
}

# Until the machine is off or time is up; prints each program's end.
watch() {
	local alive=1 ends
	printed=0
	while [ $alive = 1 ]; do
		kill -0 "$qemu" 2>/dev/null || alive=0
		ends=$(split $printed)
		if [ -n "$ends" ]; then
			echo "$ends"
			printed=$((printed + $(echo "$ends" | wc -l)))
		fi
		if [ $SECONDS -ge "$whole" ]; then
			echo "vm: kernel $kernel took over $whole s" >&2
			return
		fi
		[ $alive = 0 ] || sleep 1
	done
}

boot
watch
if ! grep -q '^@@begin' "$tmp/serial"; then
	# Died before it ran anything of ours: the machine's fault, not a test's.
	echo "vm: kernel $kernel did not boot; once more" >&2
	cp "$out/console.log" "$out/console-1.log" 2>/dev/null
	kill "$qemu" 2>/dev/null
	boot
	watch
fi
grep -q '^@@done' "$tmp/serial" && exit 0
echo "vm: the machine with kernel $kernel died; see $out/console.log" >&2
tail -n +$((printed + 1)) "$root/tp/list" | sed 's/$/ 125/'
exit 1
