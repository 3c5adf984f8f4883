# Runs a program in a file system of its own: isolate.sh ROOT WORK_BYTES DROP PREFIX COMMAND...
# It is process 1 of fresh mount, process, network and IPC namespaces: when it dies, all that it started dies. ROOT is an
# empty folder. What is mounted there is the system's programs and PREFIX, read-only, /dev/null, and an empty /work.
# COMMAND runs in /work without capabilities, and as the user that DROP names where there is another to be.
set -e
root=$1 bytes=$2 drop=$3 prefix=$4
shift 4
mount --make-rprivate /
mount -t tmpfs -o size=1m,mode=755,nosuid,nodev tmpfs "$root"
cd "$root"
for path in /usr /bin /lib /lib64 "$prefix"; do
  [ -e "$path" ] && [ ! -e ".$path" ] || continue
  if [ -h "$path" ]; then
    ln -s "$(readlink "$path")" ".$path"
  else
    mkdir -p ".$path"
    mount --bind "$path" ".$path"
    mount -o remount,bind,ro,nosuid,nodev ".$path"
  fi
done
mkdir dev work
: >dev/null
mount --bind /dev/null dev/null
mount -t tmpfs -o "size=$bytes,mode=777,nosuid,nodev" tmpfs work
mount -o remount,bind,ro,nosuid,nodev "$root"
# Not exec: as a child of process 1 the program is killed with it, whatever it does to its group and its signals.
chroot . /bin/sh -c 'cd /work; "$@"; exit $?' sh \
  setpriv $drop --no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all "$@"
exit $?
