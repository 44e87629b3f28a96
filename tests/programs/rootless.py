"""The programs of `test_rootless.py`."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from alone import command
from leaks import assert_unchanged, state

from usernsproc import (
    DEVNULL,
    PIPE,
    IdMap,
    IdMapError,
    IdMapPermissionError,
    Namespace,
    UsernsProcess,
    aio,
    call,
    check_call,
    check_output,
    create_userns,
    run,
)
from usernsproc._maps import newidmap

OWN_SETGROUPS = Path("/proc/self/setgroups")
OWNERS = [(0, 0), (1, 1), (33, 33), (1000, 100), (65534, 65534), (65536, 7)]
"""User and group IDs in the namespace."""


def output_of(*args: str, **options: Any) -> str:
    printed: str = check_output(args, text=True, **options)
    return printed.strip()


def map_of_a_command() -> list[str]:
    return output_of("cat", "/proc/self/uid_map", uid_map="rootless").split()


def print_maps_of_each_kind() -> None:
    with create_userns("rootless", "rootless") as userns:
        print(userns.uid_map, userns.gid_map)
        print(sum(r.count for r in userns.uid_map))
    print(map_of_a_command())
    with UsernsProcess(uid_map="rootless") as holder:
        print(holder.uid_map, holder.gid_map)
    with UsernsProcess() as holder:
        holder.write_gid_map("rootless")
        holder.write_uid_map("rootless")
        print(holder.uid_map, holder.gid_map)


def give_a_file_away() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file")
        file.touch()
        check_call(["chown", "1:33", file], uid_map="rootless")
        status = file.stat()
        print(status.st_uid, status.st_gid)
        check_call(["rm", file], uid_map="rootless")


def print_setgroups() -> None:
    print(OWN_SETGROUPS.read_text().strip())
    print(output_of("cat", str(OWN_SETGROUPS), uid_map="rootless"))
    print(output_of("id", "-G", uid_map="rootless", extra_groups=[5, 65536]))
    print(output_of("cat", str(OWN_SETGROUPS), uid_map="rootless", setgroups="deny"))
    print(output_of("cat", str(OWN_SETGROUPS), uid_map="root"))


def drop_privileges() -> None:
    os.setgroups([65534])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(100, 100, 100)
    print(os.getresuid(), os.getresgid(), os.getgroups())
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        print("no way back")


def drop_privileges_inside() -> None:
    print(output_of(*command(drop_privileges), uid_map="rootless"))


def unpack_an_archive() -> None:
    with tempfile.TemporaryDirectory() as folder:
        packed, unpacked = f"{folder}/archive", f"{folder}/inside"
        with tarfile.open(packed, "w") as archive:
            for uid, gid in OWNERS:
                info = tarfile.TarInfo(f"{uid}-{gid}")
                info.uid, info.gid = uid, gid
                archive.addfile(info, io.BytesIO())
        os.mkdir(unpacked)
        check_call(["tar", "--numeric-owner", "-xpf", packed, "-C", unpacked], uid_map="rootless")
        for name in sorted(os.listdir(unpacked)):
            status = os.stat(f"{unpacked}/{name}")
            print(name, status.st_uid, status.st_gid)
        check_call(["rm", "-r", unpacked], uid_map="rootless")


def read_own_files_with_subids() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        secret = Path(folder, "secret")
        secret.touch(mode=0o600)
        print(output_of("id", "-u", uid_map="subids"))
        print(call(["cat", secret], uid_map="subids", stderr=DEVNULL))
    with UsernsProcess(["sleep", "1000"], uid_map="subids") as process:
        print(os.stat(f"/proc/{process.pid}").st_uid)
        process.kill()


async def output_by_asyncio() -> bytes:
    process = await aio.create_subprocess_exec("id", "-u", uid_map="rootless", stdout=PIPE)
    output: bytes = (await process.communicate())[0]
    return output


def start_in_each_way() -> None:
    print(asyncio.run(output_by_asyncio()).decode().strip())
    seen: list[str] = []
    run(["true"], uid_map="rootless", on_created=lambda process: seen.append(str(process.uid_map)))
    print(seen)


def fail_in_on_created() -> None:
    before = state()
    try:
        run(["true"], uid_map="rootless", on_created=lambda _: 1 / 0)
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("it has ended without")
    assert_unchanged(before)


def print_map_at_each_level(level: int) -> None:
    print(level, Namespace.current().uid_map, flush=True)
    if level < 3:
        call(command(print_map_at_each_level, level + 1), uid_map="all")


def nest() -> None:
    sys.exit(call(command(print_map_at_each_level, 1), uid_map="rootless"))


def print_maps_that_fit() -> None:
    for uids in ("root", "current", "all", "0:0:65537", "0:5:1", "5:65536:1", "0:65000:536,1000:0:1000"):
        with create_userns(uids, uids) as userns:
            print(userns.uid_map)
    try:
        create_userns("0:60000:6000", "root")
    except IdMapPermissionError as error:
        print(error.cause, error)


def map_in_a_small_map() -> None:
    sys.exit(call(command(print_maps_that_fit), uid_map="rootless"))


def start_where_setgroups_is_denied() -> None:
    assert OWN_SETGROUPS.read_text() == "deny\n"
    print(output_of("id", "-u", uid_map="all"))
    several: list[dict[str, Any]] = [
        {"uid_map": "0:5:10", "gid_map": "0:5:10"},
        {"uid_map": "all", "extra_groups": [5]},
    ]
    for options in several:
        try:
            print(output_of("id", "-u", **options))
        except ValueError as error:
            print(getattr(error, "cause", None), error)


def deny_setgroups() -> None:
    sys.exit(call(command(start_where_setgroups_is_denied), uid_map="rootless", setgroups="deny"))


def print_maps_of_a_nested_user() -> None:
    has_capabilities = "CapEff:\t0000000000000000" not in Path("/proc/self/status").read_text()
    print(Namespace.current().uid_map, os.getuid(), has_capabilities)
    print(map_of_a_command())


def nest_as_another_user() -> None:
    ids = "0:0:200000"
    nested = command(print_maps_of_a_nested_user)
    sys.exit(call(nested, uid_map=ids, gid_map=ids, user=1000, group=1000, extra_groups=[]))


def use_large_ids() -> None:
    print(map_of_a_command())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file")
        file.touch()
        check_call(["chown", "7:7", file], uid_map="rootless")
        print(file.stat().st_uid)
        file.unlink()
    try:
        create_userns("0:4294967290:5", "root")
    except IdMapError as error:
        print(error)


def do_without_tools() -> None:
    vars(newidmap)["run_tool"] = None
    print(Namespace.current().uid_map == IdMap([(0, 0, 2**32 - 1)]), os.geteuid())
    with create_userns("subids", "subids") as userns:
        print(userns.uid_map, userns.gid_map)
    with UsernsProcess(["sleep", "100"], uid_map="rootless") as process:
        print(process.uid_map, Path(f"/proc/{process.pid}/setgroups").read_text().strip())
        process.kill()


def seconds_of_creation() -> float:
    start = time.perf_counter()
    create_userns("rootless", "rootless").close()
    return time.perf_counter() - start


def measure_small_and_big() -> None:
    """Print the seconds that it takes a small program, and one with much memory."""
    seconds_of_creation()
    small = min(seconds_of_creation() for _ in range(15))
    memory = bytearray(512 * 2**20)
    for page in range(0, len(memory), 4096):
        memory[page] = 1
    big, end = seconds_of_creation(), time.monotonic() + 60
    while big >= small + 0.010 and time.monotonic() < end:  # other programs may keep the machine busy for a while
        big = min(big, seconds_of_creation())
    print(small, big)
