# What holds on this machine, measured in the place of the untrusted process.


def look(report):
    found = {}

    def see(name, ask):
        try:
            found[name] = ask()
        except (OSError, ImportError) as error:
            found[name] = errno.errorcode.get(getattr(error, "errno", None), type(error).__name__)

    see("root", lambda: sorted(os.listdir("/")))
    see("write", lambda: os.access("/usr", os.W_OK) or os.access("/", os.W_OK))
    see("pid", os.getpid)
    see("uids", os.getresuid)
    see("library", lambda: len(os.listdir(os.path.dirname(os.__file__))) > 0)
    see("processes", lambda: resource.getrlimit(resource.RLIMIT_NPROC)[0])
    # Harmless in itself, so that only the filter refuses it; of the network only loopback could be had.
    see("unshare", lambda: call("unshare", 0))
    see("socket", lambda: __import__("socket").socket(2, 1).fileno())
    descriptors = []
    for fd in range(FILES_MAX):
        try:
            os.fstat(fd)
            descriptors.append(fd)
        except OSError:
            pass
    found["descriptors"] = [fd for fd in descriptors if fd not in (0, 1, 2, report)]
    os.write(report, json.dumps(found).encode())


def try_mode(setup, folder):
    """What the untrusted process sees in this mode; an OSError if it cannot even begin."""
    report, trouble = os.pipe(), os.pipe()
    pid = start(setup, folder, [report[1]], trouble[1], look, False)
    os.close(report[1])
    os.close(trouble[1])
    ready = select.select([report[0]], [], [], 10)[0]
    seen = os.read(report[0], 1 << 16) if ready else b""
    reap_all([pid])
    said = os.read(trouble[0], 400).decode(errors="replace").strip()
    os.close(report[0])
    os.close(trouble[0])
    if not seen:
        raise OSError(said or "its first process did not begin")
    return json.loads(seen)


def find_mode(setup, folder):
    """Sets the strictest mode that works here, and returns what is seen in it and why stricter ones do not work."""
    own_uid = 1 << 30 | os.getpid()
    root = os.geteuid() == 0
    modes = [("root", own_uid)] if root else []
    modes += [("user", None), ("bare", own_uid if root else None), ("bare", None)]
    why = []
    for seccomp in (True, False):
        for mode, uid in modes:
            if mode not in setup["modes"]:
                continue
            setup.update(mode=mode, uid=uid, seccomp=seccomp)
            try:
                if mode == "bare" and uid is not None:
                    os.chown(folder, uid, uid)
                seen = try_mode(setup, folder)
            except OSError as error:
                why.append(f"{mode}: {error.strerror or error}")
                continue
            if seen["library"] is True:
                return seen, "; ".join(why)
            why.append(f"{mode}: {seen['library']} on Python's own files")
    raise OSError("; ".join(why) or "no mode is allowed")


def protections(setup, seen, why):
    """(what it is, whether it holds, whether a run needs it, more)"""
    mode = setup["mode"]
    alone = mode != "bare"
    held = [
        ("own file system", alone and "work" in seen["root"] and "etc" not in seen["root"] and "proc" not in seen["root"]
         and seen["write"] is False, True, why if not alone else "pivot_root, read-only but /work"),
        ("own processes", alone and seen["pid"] < 100, True, why if not alone else "pid and ipc namespaces"),
        ("no network", seen["socket"] == "ENOSYS", True, "no socket but local ones"
         + (", network namespace" if alone else "")),
        ("own user", alone, True, {"root": "user id of its own", "user": "user namespace"}.get(mode, why)),
        ("process limit of its own", alone and seen["processes"] == setup["processes"], True, str(setup["processes"])),
        ("system call filter", seen["unshare"] == "ENOSYS", True, "seccomp"),
        ("no inherited descriptor", seen["descriptors"] == [], True, "close_range"),
    ]
    held.append(("memory limit for all processes together", "memory" in setup["cgroup_kinds"], False, setup["cgroup_why"]))
    held.append(("process limit by cgroup", "pids" in setup["cgroup_kinds"], False, setup["cgroup_why"]))
    held.append(("first to die without memory", os.access("/proc/self/oom_score_adj", os.W_OK), False, "oom_score_adj"))
    return [dict(zip(("name", "holds", "needed", "detail"), row)) for row in held]
