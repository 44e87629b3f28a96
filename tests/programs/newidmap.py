"""Maps of subordinate IDs that cannot be written, each in a different environment."""

from __future__ import annotations

import json
import os
import signal
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import MagicMock, patch

import alone
import native
from leaks import assert_unchanged, state

from usernsproc import UsernsProcess, _core, call, create_userns, run
from usernsproc._maps import newidmap as tools
from usernsproc._maps import writer

REPORTED = ("errno", "step", "cause", "returncode", "stderr")
CAP_SETGID, CAP_SETUID = 6, 7
VFS_CAP_REVISION_2, VFS_CAP_EFFECTIVE = 0x02000000, 1


def report(function: Callable[..., object], *arguments: object, **options: object) -> None:
    """Call it, print its exception in JSON, or null, and check that nothing is left."""
    before = state()
    try:
        function(*arguments, **options)
    except Exception as error:
        reported = {name: getattr(error, name, None) for name in REPORTED}
        reported |= {"type": type(error).__name__, "text": str(error), "notes": getattr(error, "__notes__", [])}
        print(json.dumps(reported))
    else:
        print("null")
    assert_unchanged(before)


def check_nothing() -> None:
    """Skip the checks, as if files had changed between the library's check and the tool's."""
    patch.object(writer, "newidmap_violations", lambda *_: iter(())).start()


def let_the_tool_be_known(by_fd: bool) -> None:
    """Make the library remember whether the tool accepts fd:N."""
    known = MagicMock()
    known.get.return_value = by_fd
    tools._takes_fd = known


# ---- one map ----


def create(uid_map: str = "rootless", gid_map: str = "rootless", setgroups: str | None = None) -> None:
    report(create_userns, uid_map, gid_map, setgroups=setgroups)


def create_unchecked(uid_map: str, gid_map: str) -> None:
    check_nothing()
    create(uid_map, gid_map)


def run_unchecked(uid_map: str, gid_map: str) -> None:
    check_nothing()
    report(run, ["true"], uid_map=uid_map, gid_map=gid_map)


def create_each(*uid_maps: list[tuple[int, int, int]]) -> None:
    for ranges in uid_maps:
        report(create_userns, [tuple(numbers) for numbers in ranges], "root")


def create_inside(options: dict[str, Any], *maps: str) -> None:
    """Create it in a command that is run with these options."""
    call(alone.command(create, *maps), **options)


def create_while_not_dumpable_and_after() -> None:
    native.prctl(native.PR_SET_DUMPABLE, 0)
    create()
    native.prctl(native.PR_SET_DUMPABLE, 1)
    create()


def create_with_secrets(by_fd: bool) -> None:
    """The secrets are in the environment and behind an inheritable descriptor."""
    let_the_tool_be_known(by_fd)
    os.environ["SECRET"] = "secret"
    os.chdir("/tmp")
    os.set_inheritable(os.open("/etc/passwd", os.O_RDONLY), True)
    create()


def create_twice(log: str) -> None:
    """Print what a tracer has written meanwhile."""
    for _ in range(2):
        create_userns("rootless", "rootless").close()
    print(Path(log).read_text())


# ---- each way to give a map ----


def each_way() -> None:
    report(create_userns, "rootless", "rootless")
    report(run, ["true"], uid_map="rootless")
    report(UsernsProcess, uid_map="rootless")


def each_way_with_a_known_tool(by_fd: bool) -> None:
    let_the_tool_be_known(by_fd)
    each_way()


def each_way_with_a_handler_that_raises() -> None:
    def handler(*_: object) -> NoReturn:
        raise TimeoutError("interrupted")

    signal.signal(signal.SIGALRM, handler)
    each_way()


# ---- order ----


def write_each_again(preset: str) -> None:
    with UsernsProcess(uid_map=preset) as holder:
        report(holder.write_uid_map, preset)
        report(holder.write_gid_map, preset)
        print(json.dumps(None) if holder.poll() is None else "it has ended")


def write_setgroups_late_and_twice() -> None:
    with UsernsProcess(uid_map="rootless") as holder:
        report(holder.write_setgroups, "deny")
    with UsernsProcess() as holder:
        holder.write_setgroups("deny")
        report(holder.write_setgroups, "allow")
        holder.write_gid_map("rootless")
        print("null")


# ---- how the tool is called ----


def create_while_others_reap() -> None:
    """SIGCHLD is ignored first; then a thread reaps all children."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    create()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stop = threading.Event()

    def reap() -> None:
        while not stop.is_set():
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pass

    thread = threading.Thread(target=reap)
    thread.start()
    try:
        for _ in range(5):
            create()
        report(run, ["true"], uid_map="rootless")
        create_unchecked("0:5:2", "root")
    finally:
        stop.set()
        thread.join()


def create_where_the_status_gets_lost() -> None:
    patch.object(_core, "exit_status", lambda _: -1).start()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    create()
    create_unchecked("0:5:2", "root")


def create_from_many_threads() -> None:
    def one(number: int) -> tuple[str, ...]:
        if number % 2:
            done = run(["cat", "/proc/self/uid_map"], uid_map="rootless", capture_output=True, text=True)
            return tuple(done.stdout.split())
        with create_userns("rootless", "rootless") as userns:
            return tuple(str(number) for numbers in userns.uid_map for number in numbers)

    with ThreadPoolExecutor(8) as pool:
        print(json.dumps(None) if len(set(pool.map(one, range(40)))) == 1 else "they differ")


def create_where_standard_files_are_closed() -> None:
    keep = os.dup(1)
    for fd in (0, 1, 2):
        os.close(fd)
    userns = create_userns("rootless", "rootless")
    maps = str(userns.uid_map)
    userns.close()
    os.dup2(keep, 1)
    os.write(1, json.dumps(None if maps.endswith(":65536") else maps).encode())
    os._exit(0)


# ---- for root ----


def give_file_capabilities(folder: str) -> None:
    """Give them to copies of the tools instead of set-user-ID, as in Fedora (`struct vfs_cap_data`)."""
    for tool, capability in (("newuidmap", CAP_SETUID), ("newgidmap", CAP_SETGID)):
        path = Path(folder, tool)
        path.chmod(0o755)
        data = struct.pack("<5I", VFS_CAP_REVISION_2 | VFS_CAP_EFFECTIVE, 1 << capability, 0, 0, 0)
        os.setxattr(path, "security.capability", data)
