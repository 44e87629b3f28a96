"""`newuidmap(1)` and `newgidmap(1)`: what they will do for this process, and doing it.

They are set-user-ID programs that write a map which the kernel would refuse to an
ordinary user, of ids that `/etc/subuid` and `/etc/subgid` give to this user.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import EPERM, ESRCH
from fcntl import F_DUPFD_CLOEXEC, fcntl

from ._caller import CAP_SETFCAP, CAP_SETGID, CAP_SETUID, Caller
from ._causes import TOOL_CAUSES
from ._errors import MapToolError, Objection, UsernsError, userns_error
from ._idmap import MAX_TEXT, IdMap, IdRange
from ._procdir import open_proc_dir_of, pid_of, read_id_map
from ._subids import FILES, Owner, Ranges, other_source, ranges_of
from ._tool import Ended, find_tool, run_tool

TOOLS = {"uid_map": "newuidmap", "gid_map": "newgidmap"}
_CAPABILITIES = {"uid_map": CAP_SETUID, "gid_map": CAP_SETGID}
_NAMES = {"uid_map": "CAP_SETUID", "gid_map": "CAP_SETGID"}
_IDS = {"uid_map": "user", "gid_map": "group"}


# ---- what speaks against it, as far as it can be known before ----


def objections(step: str, id_map: IdMap, caller: Caller) -> Iterator[Objection]:
    """Why the tool will not write this map, that which says most first."""
    tool = TOOLS[step]
    status = _own_status()
    bounds = int(status["CapBnd"], 16)
    if not bounds >> _CAPABILITIES[step] & 1:
        rule = f"without {_NAMES[step]} only the own id {_own_id(step, caller)} can be mapped, alone and with count 1"
        reason = f"{rule}; {tool} could not have it either: it is not in this process' bounding set"
        yield Objection(id_map[0], "no-cap-setuid" if step == "uid_map" else "no-cap-setgid", reason)
    yield from _not_given(step, id_map, caller)
    if step == "uid_map" and not bounds >> CAP_SETFCAP & 1:
        for r in (r for r in id_map if r.outside == 0):
            reason = (
                f"mapping outside id 0 needs CAP_SETFCAP, which {tool} could not have: it is not in the bounding set"
            )
            yield Objection(r, "no-cap-setfcap", reason)
    if (os.getuid(), os.getgid()) != (caller.uid, caller.gid):
        ids = f"{os.getuid()}:{os.getgid()} and {caller.uid}:{caller.gid}"
        yield Objection(None, "ids-differ", f"{tool} demands that real and effective ids are the same, not {ids}")
    if Owner.of(None).name is None:
        yield Objection(None, "no-user-name", f"{tool} demands a user name, and user id {os.getuid()} has none")
    yield from _tool_without_rights(step)
    if status.get("NoNewPrivs") == "1":
        yield Objection(None, "no-new-privs", f"no_new_privs is set: {tool} would not get the rights that it needs")
    if not _is_dumpable(caller):
        yield Objection(None, "not-dumpable", f"this process is not dumpable: {tool} could not open the map's file")
    if len(_as_the_tool_writes_it(id_map)) > MAX_TEXT:
        reason = f"{tool} would write {len(_as_the_tool_writes_it(id_map))} bytes, the kernel takes at most {MAX_TEXT}"
        yield Objection(None, "too-many-ranges", reason)


def _own_status() -> dict[str, str]:
    with open("/proc/thread-self/status", encoding="utf-8", errors="replace") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def _own_id(step: str, caller: Caller) -> int:
    return caller.uid if step == "uid_map" else caller.gid


def _is_dumpable(caller: Caller) -> bool:
    """The files in /proc of a process that is not belong to root."""
    return os.stat("/proc/self/environ").st_uid == caller.uid


def _as_the_tool_writes_it(id_map: IdMap) -> str:
    """With a newline at the end, also where that is one byte too much."""
    return "".join(f"{r.inside} {r.outside} {r.count}\n" for r in id_map)


def _not_given(step: str, id_map: IdMap, caller: Caller) -> Iterator[Objection]:
    """Ranges that are neither the own id nor subordinate ids of this user."""
    owner = Owner.of(None)
    given = ranges_of(owner, step)
    for r in id_map:
        if (r.outside, r.count) == (_own_id(step, caller), 1):
            continue
        first = _first_not_in(r, given)
        if first is None:
            continue
        yield _not_given_objection(step, r, first, owner, given)


def _not_given_objection(step: str, r: IdRange, first: int, owner: Owner, given: Ranges) -> Objection:
    if not given:
        return no_subids(step, owner, r)
    shown = ", ".join(f"{start} … {start + count - 1}" for start, count in given[:5]) + (
        "" if len(given) < 6 else ", …"
    )
    cause, where = ("subids-foreign", "not among") if first == r.outside else ("subids-too-small", "beyond")
    theirs = f"the subordinate {_IDS[step]} ids of {owner} in {_where(step)}, {shown}"
    reason = f"{_rule(step)}; outside id {first} is {where} {theirs}"
    return Objection(r, cause, reason, owner.name or str(owner.uid))


def no_subids(step: str, owner: Owner, id_range: IdRange | None = None) -> Objection:
    """Said of a map, and of a preset that cannot be made without."""
    reason = f"{owner} has no subordinate {_IDS[step]} ids: there is no line for it in {_where(step)}"
    reason = reason if id_range is None else f"{_rule(step)}; {reason}"
    return Objection(id_range, "no-subids", reason, owner.name or str(owner.uid))


def _rule(step: str) -> str:
    own_id = os.geteuid() if step == "uid_map" else os.getegid()
    return f"without {_NAMES[step]} a range is the own id {own_id} with count 1, or of subordinate ids"


def _where(step: str) -> str:
    source = other_source()
    return FILES[step] if source is None else f"{source!r} (of /etc/nsswitch.conf)"


def _first_not_in(r: IdRange, given: Ranges) -> int | None:
    """The first outside id of the range that no given one has. They may adjoin."""
    wanted = r.outside
    for first, count in sorted(given):
        if first <= wanted:
            wanted = max(wanted, first + count)
    return wanted if wanted < r.outside + r.count else None


def _tool_without_rights(step: str) -> Iterator[Objection]:
    path = find_tool(TOOLS[step])
    if path is None:
        yield Objection(None, "tool-missing", f"{TOOLS[step]}, which could write this map, is not installed")
        return
    status = os.stat(path)
    has_capability = _file_capabilities(path) >> _CAPABILITIES[step] & 1
    if not has_capability:
        if not status.st_mode & 0o4000:
            yield Objection(None, "tool-not-setuid", f"{path} has neither set-user-ID nor file capabilities")
        elif status.st_uid != 0:
            if _is_mapped_root(status.st_uid):
                yield Objection(None, "tool-not-setuid", f"{path} has set-user-ID, but belongs to user {status.st_uid}")
            else:
                reason = f"the owner of {path} is not mapped in this user namespace: its set-user-ID has no effect"
                yield Objection(None, "tool-owner-unmapped", reason)
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        yield Objection(None, "tool-nosuid", f"{path} is on a file system that is mounted nosuid")


def _is_mapped_root(owner: int) -> bool:
    """Whether that is a real owner, and not what stands for all that are unmapped."""
    with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
        return owner != int(file.read())


def _file_capabilities(path: str) -> int:
    """The permitted ones: the second word of `struct vfs_cap_data`."""
    try:
        return int.from_bytes(os.getxattr(path, "security.capability")[4:8], "little")
    except OSError:
        return 0


# ---- doing it ----

_takes_fd: dict[tuple[str, int, int, int, int], bool] = {}
"""By identity of the file: whether that version takes `fd:N` (shadow 4.14), once known."""


def _identity(path: str) -> tuple[str, int, int, int, int]:
    status = os.stat(path)
    return path, status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


def write_map_by_tool(step: str, id_map: IdMap, pidfd: int) -> None:
    """Have the tool write one map of the process.

    Raises:
        MapToolError: it did not.
        ProcessLookupError: the process has ended (`ESRCH`, step `open_proc`).
    """
    path = find_tool(TOOLS[step])
    if path is None:
        raise userns_error(TOOLS[step], 2, TOOLS[step], cause="tool-missing", note="It has been removed just now.")
    proc_dir = open_proc_dir_of(pidfd)
    try:
        if _read_map(proc_dir, step, pidfd):
            raise userns_error(step, EPERM, cause="map-written", note="A map can be written once.")
        ended = _run(path, step, id_map, pidfd, proc_dir)
        written = _read_map(proc_dir, step, pidfd)
        if ended.returncode or sorted(written) != sorted(id_map):
            raise _failure(step, path, ended, written, pidfd)
    finally:
        os.close(proc_dir)


def _run(path: str, step: str, id_map: IdMap, pidfd: int, proc_dir: int) -> Ended:
    """By `fd:N`, which cannot be another process; where that is not understood, by pid,
    which is the child's as long as nobody has reaped it."""
    numbers = [str(number) for r in id_map for number in r]
    identity = _identity(path)
    if _takes_fd.get(identity, True):
        kept = fcntl(proc_dir, F_DUPFD_CLOEXEC, 3)
        try:
            ended = _run_tool(step, path, f"fd:{kept}", *numbers, keep_fds=(kept,))
        finally:
            os.close(kept)
        if _read_map(proc_dir, step, pidfd):
            _takes_fd[identity] = True
        if _takes_fd.get(identity):
            return ended
    _refuse_ended(pidfd)
    ended = _run_tool(step, path, str(pid_of(pidfd)), *numbers)
    _refuse_ended(pidfd)
    if ended.returncode == 0:
        _takes_fd[identity] = False
    return ended


def _run_tool(step: str, path: str, *args: str, keep_fds: tuple[int, ...] = ()) -> Ended:
    try:
        return run_tool(path, *args, keep_fds=keep_fds)
    except UsernsError as error:
        if error.step != "exec":
            raise
        raise userns_error(TOOLS[step], error.errno or 0, path) from None


def _refuse_ended(pidfd: int) -> None:
    if _has_ended(pidfd):
        raise userns_error("open_proc", ESRCH)


def _has_ended(pidfd: int) -> bool:
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def _read_map(proc_dir: int, step: str, pidfd: int) -> IdMap:
    try:
        return read_id_map(proc_dir, step)
    except OSError as error:
        _refuse_ended(pidfd)
        raise userns_error(step, error.errno or 0) from None


# ---- what went wrong ----


def _failure(step: str, path: str, ended: Ended, written: IdMap, pidfd: int) -> UsernsError:
    if _has_ended(pidfd):
        return userns_error("open_proc", ESRCH)
    tool = TOOLS[step]
    if ended.returncode == 0:
        cause, how = "map-differs", f"the kernel shows {written}" if written else "the map is unwritten"
    else:
        cause = _likely_cause(written)
        how = "its status is not known" if ended.returncode is None else f"it ended with status {ended.returncode}"
    said = ended.stderr.strip().splitlines()
    if said:
        how += f": {said[-1][:200]}"
    error = MapToolError(EPERM, f"{os.strerror(EPERM)}: {path}: {how}", step=tool, cause=cause)
    error.returncode, error.stderr = ended.returncode, ended.stderr
    error.add_note("\n".join([TOOL_CAUSES[cause], *said]))
    return error


def _likely_cause(written: IdMap) -> str:
    import pwd

    if written:
        return "map-written"
    if os.getgid() != pwd.getpwuid(os.getuid()).pw_gid:
        return "tool-other-group"
    return "tool-failed"
