# What a process of a run is given, from the outside in: limits, namespaces, a file system, a user, a filter of system calls.
import ctypes
import errno
import gc
import json
import os
import resource
import select
import signal
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
DETACH = 2
PDEATHSIG, DUMPABLE, SECCOMP, CAPBSET_DROP, SUBREAPER, NO_NEW_PRIVS = 1, 4, 22, 24, 36, 38
NOBODY = 65534
# Exit codes of a process of a run: its set-up failed; the trusted one says that the untrusted one has ended.
LOST, PEER_ENDED = 121, 122
FILES_MAX = 64
# What has ended has this long to be reaped, in seconds: on a busy machine the kernel takes its time with namespaces.
GRACE = 5.0


def checked(result, what):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def call(name, *args):
    converted = [a.encode() if isinstance(a, str) else ctypes.c_ulong(a) if isinstance(a, int) else a for a in args]
    return checked(getattr(libc, name)(*converted), name)


def read_exactly(fd, count):
    data = bytearray()
    while len(data) < count:
        part = os.read(fd, count - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def read_frame(fd):
    return read_exactly(fd, int.from_bytes(read_exactly(fd, 4), "little"))


def write_file(path, text):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def keep_only(keep):
    low = 0
    for fd in sorted(keep):
        # An empty range would be taken as an endless one.
        low < fd and os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, FILES_MAX)


def exit_code(status):
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


# ---- What a process of a run is given, from the outside in. `mode` is "root", "user" or "bare".

def enter_limits(setup, trusted):
    """What only the untrusted process has: it is the first to die of a lack of memory, and shares one allowance."""
    if trusted:
        return
    try:
        write_file("/proc/self/oom_score_adj", "1000")
    except OSError:
        pass
    for fd in setup["cgroups"]:
        os.write(fd, b"0")


def enter_namespaces(setup):
    mode = setup["mode"]
    if mode == "bare":
        return
    uid, gid = os.geteuid(), os.getegid()
    own = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS
    call("unshare", own | (NEWUSER if mode == "user" else 0))
    try:
        call("unshare", NEWCGROUP)
    except OSError:
        pass
    if mode == "user":
        write_file("/proc/self/setgroups", "deny")
        write_file("/proc/self/uid_map", f"{NOBODY} {uid} 1")
        write_file("/proc/self/gid_map", f"{NOBODY} {gid} 1")


class MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def bind_read_only(source, target):
    call("mount", source, target, None, BIND | REC, None)
    # With all that is mounted below; an older kernel than 5.12 can only do the top.
    attributes = MountAttr(set=RDONLY | NOSUID | NODEV)
    if libc.syscall(442, -100, target.encode(), 0x8000, ctypes.byref(attributes), ctypes.sizeof(attributes)) != 0:
        call("mount", None, target, None, REMOUNT | BIND | RDONLY | NOSUID | NODEV, None)


def enter_root(setup, folder):
    """A file system of its own: the system's programs and Python, read-only, /dev/null, and an empty /work."""
    call("mount", None, "/", None, REC | PRIVATE, None)
    call("mount", "tmpfs", folder, "tmpfs", NOSUID | NODEV, "size=1m,nr_inodes=256,mode=755")
    for path in ["/usr", "/bin", "/lib", "/lib64", setup["prefix"]]:
        target = folder + path
        if not os.path.exists(path) or os.path.lexists(target):
            continue
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
        else:
            os.makedirs(target)
            bind_read_only(path, target)
    os.mkdir(f"{folder}/dev")
    os.mkdir(f"{folder}/work")
    os.close(os.open(f"{folder}/dev/null", os.O_CREAT | os.O_WRONLY))
    call("mount", "/dev/null", f"{folder}/dev/null", None, BIND, None)
    size = f"size={setup['file_bytes']},nr_inodes=1024,mode=777"
    call("mount", "tmpfs", f"{folder}/work", "tmpfs", NOSUID | NODEV, size)
    call("mount", None, folder, None, REMOUNT | BIND | RDONLY | NOSUID | NODEV, None)
    os.chdir(folder)
    call("pivot_root", ".", ".") if hasattr(libc, "pivot_root") else call("syscall", PIVOT_ROOT, b".", b".")
    call("umount2", ".", DETACH)
    os.chdir("/")
    libc.sethostname(b"sandbox", 7)


PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine, -1)


def drop_privileges(setup, trusted):
    memory, cpu = setup["memory_bytes"], setup["cpu_seconds"]
    limits = [
        (resource.RLIMIT_CPU, cpu, cpu + 1), (resource.RLIMIT_AS, memory, memory), (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, setup["file_bytes"], setup["file_bytes"]),
        (resource.RLIMIT_NOFILE, FILES_MAX, FILES_MAX), (resource.RLIMIT_MSGQUEUE, 0, 0), (resource.RLIMIT_MEMLOCK, 0, 0),
    ]
    for cap in range(64):
        libc.prctl(CAPBSET_DROP, cap, 0, 0, 0)
    if setup["uid"] is not None:
        os.setgroups([])
        os.setresgid(setup["uid"], setup["uid"], setup["uid"])
        os.setresuid(setup["uid"], setup["uid"], setup["uid"])
    # Only now is it a user of its own, or in a user namespace of its own: the number of processes is counted there.
    if setup["mode"] != "bare":
        limits.append((resource.RLIMIT_NPROC, setup["processes"], setup["processes"]))
    for which, soft, hard in limits:
        resource.setrlimit(which, (soft, hard))
    header, nothing = struct.pack("<Ii", 0x20080522, 0), bytes(24)
    call("capset", header, nothing)
    call("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)
    # No process of the same user can look into the one that has the tests.
    call("prctl", DUMPABLE, 0 if trusted else 1, 0, 0, 0)


def enter_filter(setup):
    """The system calls that are allowed, as a program for the kernel."""
    if not setup["seccomp"]:
        return
    code = bytes.fromhex(setup["filters"]["bare" if setup["mode"] == "bare" else "isolated"])
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    program = Program(len(code) // 8, ctypes.addressof(buffer))
    call("prctl", SECCOMP, 2, ctypes.byref(program), 0, 0)


def start(setup, folder, descriptors, trouble, party, trusted):
    """Forks a process of a run, which has `descriptors` and nothing else, and calls `party` in it."""
    launcher = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        null = os.open("/dev/null", os.O_RDWR)
        descriptors = [os.dup(fd) if fd < 3 else fd for fd in descriptors]
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        keep_only({0, 1, 2, trouble, *descriptors, *([] if trusted else setup["cgroups"])})
        os.setsid()
        libc.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != launcher:
            os._exit(LOST)
        enter_limits(setup, trusted)
        enter_namespaces(setup)
        if setup["mode"] == "bare":
            os.chdir(folder)
            become(setup, descriptors, trouble, party, trusted)
        first = os.fork()
        if first == 0:
            first_process(setup, folder, descriptors, trouble, party, trusted)
        os.closerange(0, FILES_MAX)
        os._exit(exit_code(os.waitpid(first, 0)[1]))
    except BaseException as error:
        tell_trouble(trouble, error)
    finally:
        os._exit(LOST)


def first_process(setup, folder, descriptors, trouble, party, trusted):
    """Process 1 of its namespace: when it dies, everything there does."""
    try:
        libc.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        enter_root(setup, folder)
        os.chdir("/work")
        second = os.fork()
        if second == 0:
            become(setup, descriptors, trouble, party, trusted)
        os.closerange(0, FILES_MAX)
        while True:
            pid, status = os.wait()
            if pid == second:
                os._exit(exit_code(status))
    except BaseException as error:
        tell_trouble(trouble, error)
    finally:
        os._exit(LOST)


def become(setup, descriptors, trouble, party, trusted):
    try:
        drop_privileges(setup, trusted)
        # A change of user has cleared it.
        setup["mode"] == "bare" and libc.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        enter_filter(setup)
        keep_only({0, 1, 2, *descriptors})
    except BaseException as error:
        tell_trouble(trouble, error)
        os._exit(LOST)
    code = party(*descriptors)
    os._exit(code if isinstance(code, int) else 0)


def tell_trouble(fd, error):
    try:
        os.write(fd, f"{error}\n".encode()[:200])
    except OSError:
        pass
