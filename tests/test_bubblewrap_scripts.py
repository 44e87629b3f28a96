"""bubblewrap's own tests pass with `usernsproc run` in its place.

They are those of its source package in Debian, and are changed in these ways: the name of the program, the words of
its messages (`MESSAGES`), what is left out (`LEFT_OUT`), and what is in `FURTHER`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bubblewrap
import pytest
from alone import A_HANG

PROGRAM = os.environ.get("UB", str(Path(sys.executable).parent / "usernsproc"))

MESSAGES = {
    "test-run.sh": {
        r"Can't make symlink .*: existing destination is /dev/null": "Symlink: .*: File exists",
        r"^bwrap: Can't find source path.*source-enoent": "Bind: open_tree: No such file or directory: .*source-enoent",
        "'^bwrap: Only the last": "'^usernsproc: Only the last",
        "^bwrap: --overlay requires": "^usernsproc run: --overlay .*requires",
        "^bwrap: --tmp-overlay requires": "^usernsproc run: --tmp-overlay .*requires",
        "^bwrap: --ro-overlay requires": "^usernsproc run: --ro-overlay .*requires",
        "^bwrap: --overlay-src must": "^usernsproc run: --overlay-src must",
    },
    "test-sandbox.py": {
        "Can't mount on symlink destination": "Too many levels of symbolic links",
        "existing destination is /usr": "File exists",
        "b'not a symlink'": "b'File exists'",
        "b'not a directory'": "b'move_mount: Invalid argument'",
        'b"not a file"': 'b"move_mount: Invalid argument"',
        "b'Operation not permitted' in result.stderr": "b'--namespaces ipc' in result.stderr",
    },
    "test-seccomp.py": {
        r"bwrap: Invalid fd: -1\n": "-1\\' is not a descriptor",
        r"bwrap: Invalid fd: 0a\n": "0a\\' is not a descriptor",
        r"bwrap: --seccomp cannot be combined with --add-seccomp-fd\n": "--seccomp cannot be combined",
        "bwrap: Can't read seccomp data: ": "is not open",
        r"bwrap: Invalid seccomp data, must be multiple of 8\n": "instructions of 8 bytes",
        "assertEqual(completed.returncode, 1)": "assertEqual(completed.returncode, 125)",
        "import seccomp\n": "import pyseccomp as seccomp\n",
    },
}
"""The words of bubblewrap, and those here."""

LEFT_OUT = {
    "test-run.sh": {
        r"if ! command -v strace(.*\n)+?fi\n": "has strace make the 39th prctl(2) of bubblewrap fail",
        r'\$RUN --level-prefix.*\n.*<4>bwrap.*\nok "--level-prefix"\n': "messages have no levels",
    },
}
"""Parts of the scripts, as patterns, with the reason."""

FURTHER = {
    "/proc/self/exe": "${BWRAP}",  # the program is a script, and known by its name alone
    "('f_bsize', ctypes.c_long)": "('f_bsize', ctypes.c_long * 32)",  # statfs(2) writes more, and overwrites memory
}


@pytest.fixture
def scripts() -> Iterator[Path]:
    """Not in /tmp, which they cover."""
    with tempfile.TemporaryDirectory(prefix="scripts-", dir="/var/tmp") as temporary:
        yield changed(Path(temporary))


def changed(temporary: Path) -> Path:
    folder = temporary / "tests"
    shutil.copytree(bubblewrap.source() / "tests", folder)
    subprocess.run(["gcc", "-o", folder / "try-syscall", folder / "try-syscall.c"], check=True)
    for name in ("test-run.sh", "test-sandbox.py", "test-seccomp.py"):
        text = (folder / name).read_text()
        for pattern in LEFT_OUT.get(name, {}):
            text, count = re.subn(pattern, "", text)
            assert count == 1, pattern
        for theirs, ours in MESSAGES[name].items():
            assert theirs in text, theirs
            text = text.replace(theirs, ours)
        for theirs, ours in FURTHER.items():
            text = text.replace(theirs, ours)
        (folder / name).write_text(text)
    program = temporary / "bwrap"
    program.write_text(f'#!/bin/sh\nexec {PROGRAM} run "$@"\n')
    program.chmod(0o755)
    return folder


def results(command: list[str], program: str, folder: Path) -> list[str]:
    """The lines of a run, without those about details."""
    environment = {**os.environ, "BWRAP": program, "PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}"}
    environment |= {"BWRAP_MUST_WORK": "1"}
    shown = folder / "shown"
    with shown.open("w") as file:  # not a pipe: a script that fails leaves processes which hold it
        status = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, timeout=A_HANG, env=environment, cwd=folder, check=False
        ).returncode
    text = shown.read_text()
    assert status == 0, text[-5000:]
    return [line for line in text.splitlines() if re.match(r"(not )?ok|1\.\.", line)]


def are_ok(lines: list[str], *skipped: str) -> bool:
    """All of the plan, and nothing is skipped but for these reasons."""
    plan = next(line for line in lines if line.startswith("1.."))
    tests = [line for line in lines if line is not plan]
    unexpected = [
        line
        for line in tests
        if not line.startswith("ok") or ("# SKIP" in line and not any(map(line.__contains__, skipped)))
    ]
    assert unexpected == []
    return len(tests) == int(plan.removeprefix("1.."))


def test_the_script(scripts: Path) -> None:
    lines = results(["bash", "test-run.sh"], f"{Path(PROGRAM).name} run", scripts)
    # Skipped with bubblewrap itself too: no FUSE file system, or no file that root cannot read.
    assert are_ok(lines, "no FUSE support", "not sure what unreadable file to use", "/dev/log is not a socket")
    assert len(lines) > 60


@pytest.mark.parametrize("kind", ["userns", "pidns"])
def test_the_scripts_that_join(kind: str, scripts: Path) -> None:
    assert are_ok(results(["bash", f"test-specifying-{kind}.sh"], f"{Path(PROGRAM).name} run", scripts))


def test_the_module(scripts: Path) -> None:
    lines = results(["/usr/bin/python3", "test-sandbox.py"], str(scripts.parent / "bwrap"), scripts)
    assert are_ok(lines, "mqueue not available in user namespace")
    assert len(lines) > 60


def test_the_module_about_filters(scripts: Path) -> None:
    lines = results([sys.executable, "test-seccomp.py"], str(scripts.parent / "bwrap"), scripts)
    assert are_ok(lines)
