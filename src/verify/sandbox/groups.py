# Control groups, where they can be had: version 1 or 2, below the group of this process.


def controllers():
    """{controller: (folder of this process's group, version)}"""
    found = {}
    mounts = []
    with open("/proc/self/mountinfo") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            kind, _, options = (after.split() + ["", "", ""])[:3]
            if kind.startswith("cgroup"):
                mounts.append((before.split()[3], before.split()[4], kind, options.split(",")))
    with open("/proc/self/cgroup") as lines:
        groups = [line.strip().split(":", 2) for line in lines]
    for root, point, kind, options in mounts:
        for _, names, path in groups:
            if (kind == "cgroup2") != (names == ""):
                continue
            inside = path[len(root):] if root != "/" and path.startswith(root) else path
            folder = point + inside.rstrip("/")
            if kind == "cgroup2":
                try:
                    names = open(f"{folder}/cgroup.subtree_control").read().replace(" ", ",").strip()
                except OSError:
                    continue
            for name in ("memory", "pids"):
                if name in names.split(",") and (kind == "cgroup2" or name in options):
                    found.setdefault(name, (folder, 2 if kind == "cgroup2" else 1))
    return found


def remove_groups(folder):
    """Removes groups of launchers that are gone."""
    for name in os.listdir(folder):
        pid = name.rpartition("-")[2]
        if name.startswith("rco-sandbox-") and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            try:
                os.rmdir(f"{folder}/{name}")
            except OSError:
                pass


def make_groups(setup):
    setup.update(cgroups=[], cgroup_kinds=[], cgroup_why="", cgroup_folders=[])
    memory = setup["memory_bytes"] + 2 * setup["file_bytes"] + (64 << 20)
    try:
        found = controllers()
        if not found:
            setup["cgroup_why"] = "no controller is delegated to this process"
        for kind, (parent, version) in found.items():
            remove_groups(parent)
            folder = f"{parent}/rco-sandbox-{os.getpid()}"
            os.makedirs(folder, exist_ok=True)
            if folder not in setup["cgroup_folders"]:
                setup["cgroup_folders"].append(folder)
                setup["cgroups"].append(os.open(f"{folder}/cgroup.procs", os.O_WRONLY))
            if kind == "memory":
                write_file(f"{folder}/memory.{'max' if version == 2 else 'limit_in_bytes'}", str(memory))
            else:
                write_file(f"{folder}/pids.max", str(setup["processes"] + 8))
            setup["cgroup_kinds"].append(kind)
    except OSError as error:
        setup["cgroup_why"] = str(error)
        drop_groups(setup)
    if setup["cgroup_kinds"]:
        setup["cgroup_why"] = "cgroup"


def drop_groups(setup):
    for fd in setup["cgroups"]:
        os.close(fd)
    for folder in setup["cgroup_folders"]:
        try:
            os.rmdir(folder)
        except OSError:
            pass
    setup.update(cgroups=[], cgroup_kinds=[], cgroup_folders=[])
