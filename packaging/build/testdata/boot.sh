# Boots the Debian in $1 with systemd as its first process, in namespaces of
# its own, and ends when it is off: boot.sh ROOT NAME. It has a cgroup of its
# own, in the unified hierarchy, which is mounted for it where the machine has
# another one; and it runs in a mount namespace of its own.
set -eu
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
	mount -t cgroup2 none /sys/fs/cgroup
fi
group=/sys/fs/cgroup/$2
mkdir "$group"
echo $$ > "$group/cgroup.procs"
status=0
systemd-nspawn --directory="$1" --machine="$2" --boot --register=no --keep-unit --private-network --console=pipe \
	systemd.unit=multi-user.target || status=$?
echo $$ > /sys/fs/cgroup/cgroup.procs
find "$group" -depth -type d -exec rmdir {} \;
# nspawn leaves this where /run is no file system of its own.
rmdir "/run/systemd/nspawn/propagate/$2" 2>/dev/null || true
exit $status
