# Starts the two processes of each run: one frame of JSON (the set-up), then runs, until its input ends.
#
# Input: a frame is its length (4 bytes, little-endian) and that many bytes. A run is one frame for this process (JSON: the
# folder) and one frame that only the trusted process reads: the bytes of the task are never in the memory that the
# untrusted process is forked from. Output: lines of the trusted process, then {"end": ...}, when nothing of the run is left.
# One thread. Everything that a process may not have is taken from it before its own code begins.


def ended(pid):
    """The exit code of the child `pid` if it has ended."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return LOST
    return exit_code(status) if done else None


def reap_all(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    # What a killed child leaves comes to this process, the first of each namespace too, which ends after all in it.
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def wait_for_judge(life, wall):
    """True when the trusted process has ended, False at the deadline; ends with the launcher's own input."""
    until = time.monotonic() + wall
    poll = select.poll()
    poll.register(life, select.POLLIN)
    poll.register(0, 0)
    while True:
        left = until - time.monotonic()
        if left <= 0:
            return False
        for fd, event in poll.poll(left * 1000):
            if fd == life:
                return True
            if event & (select.POLLHUP | select.POLLERR):
                raise EOFError


def run(setup, parties):
    folder = json.loads(read_frame(0))["folder"]
    if setup["mode"] == "bare" and setup["uid"] is not None:
        os.chown(folder, setup["uid"], setup["uid"])
    asks, answers, life, trouble = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    pids, deadline, codes = [], False, [None, None]
    try:
        pids.append(start(setup, folder, [asks[0], answers[1]], trouble[1], parties["candidate"], False))
        pids.append(start(setup, folder, [asks[1], answers[0], 0, 1, life[1]], trouble[1], parties["judge"], True))
        for fd in (*asks, *answers, life[1], trouble[1]):
            os.close(fd)
        deadline = not wait_for_judge(life[0], setup["wall_seconds"])
        until = time.monotonic() + GRACE
        while not deadline and codes[1] is None and time.monotonic() < until:
            codes[1] = ended(pids[1])
            codes[1] is None and time.sleep(0.0005)
        while codes[1] == PEER_ENDED and codes[0] is None and time.monotonic() < until:
            codes[0] = ended(pids[0])
            codes[0] is None and time.sleep(0.0005)
    finally:
        # A child that has been reaped is not killed: its number may be another's.
        reap_all([pid for pid, code in zip(pids, codes) if code is None])
    said = os.read(trouble[0], 400).decode(errors="replace").strip()
    os.close(life[0])
    os.close(trouble[0])
    return {"judge": codes[1], "candidate": codes[0], "deadline": deadline, "trouble": said}


def load(setup):
    """The two parties as functions; modules that programs often import are loaded once, for all."""
    for name in setup["preload"]:
        try:
            __import__(name)
        except ImportError:
            pass
    parties = {}
    for party in ("judge", "candidate"):
        names = {"__name__": party}
        for source in setup[party]:
            exec(compile(source, party, "exec"), names)
        parties[party] = names["main"]
    return parties


def main():
    if libc.syscall(436, 3, 0xFFFFFFFF, 0) != 0:
        for name in os.listdir("/proc/self/fd"):
            int(name) > 2 and os.closerange(int(name), int(name) + 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MAX, FILES_MAX))
    libc.prctl(SUBREAPER, 1, 0, 0, 0)
    setup = json.loads(read_frame(0))
    try:
        parties = load(setup)
        make_groups(setup)
        seen, why = find_mode(setup, setup["folder"])
        hello = {"mode": setup["mode"], "protections": protections(setup, seen, why)}
    except Exception as error:
        hello = {"error": str(error)[:400] or type(error).__name__}
    print(json.dumps(hello), flush=True)
    gc.collect()
    gc.freeze()
    try:
        while "error" not in hello:
            end = run(setup, parties)
            os.write(1, (json.dumps({"end": end}) + "\n").encode())
    except (EOFError, BrokenPipeError):
        pass
    finally:
        drop_groups(setup)


main()
