#!/bin/sh
# The first process of a node, in its new namespaces: makes the node's file systems and becomes the pause program.
# usage: first_process.sh FOLDER NAME V1_CONTROLLERS     V1_CONTROLLERS is empty with cgroup v2
# FOLDER has: disk/ (the node's disk, which outlives a reboot), etc/ (copied into /etc), sysctls/ (files in place of the
# machine's settings), pause. The file FOLDER/ready appears at the end.
set -eu
folder=$1 name=$2 controllers=$3
hostname "$name"
mount -t proc proc /proc
# The kubelet uses the first mount of each controller that it finds, which must not be another one of the machine.
awk '$3 ~ /^cgroup/ { print $2 }' /proc/self/mounts | while read -r path; do umount -l "$path"; done
umount -l /sys
mount -t sysfs sysfs /sys
if [ -n "$controllers" ]; then
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    for controller in $controllers; do
        mkdir "/sys/fs/cgroup/$controller"
        case $controller in systemd) option=none,name=systemd ;; *) option=$controller ;; esac
        mount -t cgroup -o "$option" cgroup "/sys/fs/cgroup/$controller"
    done
else
    # With cgroup v2 a group with controllers for its children has no processes of its own.
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p /sys/fs/cgroup/node
    while read -r process; do echo "$process" >/sys/fs/cgroup/node/cgroup.procs || true; done </sys/fs/cgroup/cgroup.procs
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
    done
fi
mount -t tmpfs -o mode=755 run /run
for directory in etc var; do
    mkdir -p "$folder/overlay/$directory" "$folder/overlay/$directory.work"
    options=lowerdir=/$directory,upperdir=$folder/overlay/$directory,workdir=$folder/overlay/$directory.work
    mount -t overlay overlay -o "$options" "/$directory"
done
for path in lib/kubelet lib/containerd lib/cni log/pods log/containers; do
    mkdir -p "$folder/disk/$path" "/var/$path"
    mount --bind "$folder/disk/$path" "/var/$path"
done
mkdir -p /run/netns
cp -r "$folder/etc/." /etc/
# The node finds the values that it wants to write in these files, and leaves the machine's own values unchanged.
(cd "$folder/sysctls" && find . -type f) | while read -r setting; do
    [ ! -e "/proc/sys/$setting" ] || mount --bind "$folder/sysctls/$setting" "/proc/sys/$setting"
done
mount --make-rshared /
: >"$folder/ready"
exec "$folder/pause"
