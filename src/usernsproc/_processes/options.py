"""The parameters of `UsernsProcess`, for type checkers alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import IO, Any, Literal, TypedDict

from typing_extensions import TypeAlias

from .._maps.idmap import IdMapLike
from .._namespaces.join import JoinLike
from .._setup.step import Step
from .cgroup import CgroupLike

File: TypeAlias = int | IO[Any] | None


class CommandOptions(TypedDict, total=False):
    """Those of `Popen` except what `usernsproc.aio` decides, and those of this package."""

    executable: Any
    close_fds: bool
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
    preexec_fn: None
    startupinfo: None
    creationflags: Literal[0]

    uid_map: IdMapLike | None
    gid_map: IdMapLike | None
    setgroups: str | None
    namespaces: Iterable[str]
    propagation: str | None
    mount_proc: bool
    init: bool
    join: JoinLike | Iterable[JoinLike]
    owner: int | None
    on_created: Callable[[Any], object] | None
    pdeathsig: int | None
    no_new_privs: bool
    ambient_caps: Iterable[str | int]
    cgroup: CgroupLike | None
    session_keyring: str | None
    setup: Iterable[Step]


class ReexecOptions(TypedDict, total=False):
    """Those of `reexec`."""

    cwd: Any
    env: Mapping[Any, Any] | None
    restore_signals: bool
    start_new_session: bool
    pass_fds: Collection[int]
    umask: int
    process_group: int | None

    gid_map: IdMapLike | None
    setgroups: str | None
    namespaces: Iterable[str]
    propagation: str | None
    owner: int | None
    no_new_privs: bool
    ambient_caps: Iterable[str | int]
    cgroup: CgroupLike | None
    session_keyring: str | None
    setup: Iterable[Step]


class ExecOptions(ReexecOptions, total=False):
    """Those of `execvp`, and its `env`."""

    executable: Any
    shell: bool
    user: str | int | None
    group: str | int | None
    extra_groups: Iterable[str | int] | None
    uid_map: IdMapLike | None
    join: JoinLike | Iterable[JoinLike]


class StreamOptions(CommandOptions, total=False):
    """What `usernsproc.aio` takes, as asyncio, to say what is so anyway."""

    bufsize: Literal[0]
    shell: bool
    text: Literal[False] | None
    universal_newlines: Literal[False]
    encoding: None
    errors: None


class ProcessOptions(CommandOptions, total=False):
    """All but those that decide on text or bytes."""

    bufsize: int
    stdin: File
    stdout: File
    stderr: File
    shell: bool


class CallOptions(ProcessOptions, total=False):
    """All: `call` gives neither text nor bytes."""

    text: bool | None
    universal_newlines: bool | None
    encoding: str | None
    errors: str | None


class OutputOptions(ProcessOptions, total=False):
    """What `check_output` takes in addition."""

    max_output: int | None


class RunOptions(OutputOptions, total=False):
    """What `run` takes in addition."""

    capture_output: bool
    timeout: float | None
    check: bool
