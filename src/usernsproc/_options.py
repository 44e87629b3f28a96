"""The parameters of `UsernsProcess`, for type checkers alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import IO, Any, TypedDict

from typing_extensions import TypeAlias

from ._idmap import IdMapLike

File: TypeAlias = int | IO[Any] | None


class ProcessOptions(TypedDict, total=False):
    """Popen's own, less those that decide on text or bytes, and ours."""

    bufsize: int
    executable: Any
    stdin: File
    stdout: File
    stderr: File
    close_fds: bool
    shell: bool
    cwd: Any
    env: Mapping[Any, Any] | None
    restore_signals: bool
    start_new_session: bool
    pass_fds: Collection[int]
    user: str | int | None
    group: str | int | None
    extra_groups: Iterable[str | int] | None
    umask: int
    pipesize: int
    process_group: int | None

    uid_map: IdMapLike | None
    gid_map: IdMapLike | None
    setgroups: str | None
    pdeathsig: int | None


class RunOptions(ProcessOptions, total=False):
    """What `run` takes in addition."""

    capture_output: bool
    timeout: float | None
    check: bool
