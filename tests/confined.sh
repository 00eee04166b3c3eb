#!/bin/sh
# Runs a command as a container engine runs our images: as uid and gid 10001 without any capability or a way to get one,
# on a file system that is read-only but for the folders before the two dashes. Only root can, in a mount namespace.
#
#     confined.sh FOLDER… -- COMMAND…
set -eu
if [ -z "${AFDP_CONFINED:-}" ]; then
  AFDP_CONFINED=1 exec /usr/bin/unshare --mount --propagation private -- "$0" "$@"
fi
unset AFDP_CONFINED
writable=""
while [ "$1" != -- ]; do
  /bin/mount --bind "$1" "$1"
  writable="$writable $1 "
  shift
done
shift
points=$(/usr/bin/cut -d' ' -f5 /proc/self/mountinfo) # read whole first: what is remounted moves in it
for point in $points; do
  case "$writable" in
    *" $point "*) ;;
    *) /bin/mount -o remount,bind,ro "$point" ;;
  esac
done
exec /usr/bin/setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
  --pdeathsig=keep -- "$@"
