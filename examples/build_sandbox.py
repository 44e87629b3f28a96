"""Build a program twice from sources that cannot change, without network, and compare the results."""

import tempfile
from pathlib import Path

from usernsproc import check_call
from usernsproc.setup import Bind, Capabilities, Hostname, Rlimit, minimal_root

HERMETIC = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8", "TZ": "UTC", "SOURCE_DATE_EPOCH": "0"}
ISOLATED = {"uid_map": "current", "gid_map": "current", "namespaces": ["net", "pid", "ipc", "uts"], "init": True}


def build(source, result, *command):
    steps = minimal_root()
    steps[-1:] = [Bind(source, "/source", read_only=True), Bind(result, "/build"), steps[-1]]  # the last: read-only
    steps += [Hostname("build"), Rlimit("CORE", 0), Capabilities()]
    check_call(command, setup=steps, cwd="/build", umask=0o022, env=HERMETIC, no_new_privs=True, **ISOLATED)


with tempfile.TemporaryDirectory() as folder:
    source, one, two = (Path(folder, name) for name in ("source", "one", "two"))
    for directory in source, one, two:
        directory.mkdir()
    (source / "hello.c").write_text("int puts(const char *);\nint main(void) { return puts(__FILE__) < 0; }\n")
    for result in one, two:
        build(source, result, "cc", "-o", "hello", "/source/hello.c")
    assert (one / "hello").read_bytes() == (two / "hello").read_bytes()
