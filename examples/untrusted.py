"""Run commands that are not trusted, with limits, and report how each one ended."""

import os
import tempfile

from usernsproc import DEVNULL, STDOUT, TimeoutExpired, run
from usernsproc.setup import Seccomp, untrusted
from usernsproc.setup.seccomp import deny

IDS = "0:100000:65536" if os.geteuid() == 0 else "subids"
STEPS = untrusted(memory=512 << 20, processes=20, cpu_seconds=10, file_size=1 << 20)
STEPS.append(Seccomp(deny(["bpf", "io_uring_setup", "keyctl", "perf_event_open", "ptrace", "userfaultfd"])))
ISOLATED = {"uid_map": IDS, "gid_map": IDS, "namespaces": ["pid", "net", "ipc", "uts", "cgroup"], "init": True}
ISOLATED |= {"start_new_session": True, "no_new_privs": True, "env": {"PATH": "/usr/bin:/bin"}, "stdin": DEVNULL}


def outcome(*command, timeout=60):
    with tempfile.TemporaryFile() as output:
        try:
            done = run(command, setup=STEPS, timeout=timeout, stdout=output, stderr=STDOUT, **ISOLATED)
            end = done.ended_by or done.returncode
        except TimeoutExpired:
            end = "timeout"
        output.seek(0)
        return end, output.read()


assert outcome("echo", "hello") == (0, b"hello\n")
assert outcome("yes")[0] == "file-size-limit"
assert outcome("sleep", "1000", timeout=1) == ("timeout", b"")
