"""asyncio's `create_subprocess_exec` and `create_subprocess_shell`, and `run` and `check_output`, in a new user
namespace.

The event loop watches the pidfd and the pipes with `add_reader` and `add_writer`: there is
no SIGCHLD handler, no child watcher and no thread, and any loop that has these methods
will do, in any thread.
"""

from __future__ import annotations

import asyncio
from asyncio import subprocess
from typing import TYPE_CHECKING, Any

from ._collected import check_output, run
from ._maps.idmap import IdMap, IdMapLike
from ._namespaces.namespace import Namespace
from ._transport import Transport, start

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._pipes import Data
    from ._processes.ended_by import EndedBy
    from ._processes.options import File, StreamOptions
    from ._processes.process import UsernsProcess

__all__ = ["Process", "check_output", "create_subprocess_exec", "create_subprocess_shell", "run"]


async def create_subprocess_exec(
    program: Any,
    *args: Any,
    stdin: File = None,
    stdout: File = None,
    stderr: File = None,
    limit: int = 2**16,
    **options: Unpack[StreamOptions],
) -> Process:
    """Start a command in a new user namespace: `asyncio.create_subprocess_exec` with the
    parameters of `UsernsProcess`.

    Args:
        program: the program; as in `Popen`, looked for in the `PATH` of the command.
        args: its arguments.
        stdin: as in `Popen`; with `PIPE`, the process has a `StreamWriter`.
        stdout: the same for standard output; a `StreamReader`.
        stderr: the same for standard error; a `StreamReader`.
        limit: bytes; a `StreamReader` lets the command wait when twice as much is unread.
        options: those of `UsernsProcess`: `uid_map`, `cwd`, `env` and all others.

    Differences from asyncio:

    * It cannot be cancelled half-way. Of a cancelled call nothing is left; one that
      returns has left nothing to be done.
    * `wait` returns when the process has ended, even if another process still holds
      its pipes. What it wrote itself has been read by then, *limit* or not, and its
      descriptors are closed: after `kill` and `wait` nothing is left.
    * Signals go through the pidfd; see `UsernsProcess` for more of that kind.

    As in asyncio the process is started in the loop's thread, which takes about a
    millisecond, and it is not killed when a task that waits for it is cancelled. With
    *join* or *cgroup*, or when `newuidmap(1)` writes a map, it is started in a thread of
    its own, and the loop runs on: a frozen cgroup or a file system of a container does
    not block it. *on_created* runs in the loop's thread in both cases.

    Raises:
        ValueError: as in asyncio, `universal_newlines`, `text`, `encoding`, `errors`,
            `bufsize` or `shell` is given: the streams are of bytes.
        UsernsError, IdMapError, TypeError: as `UsernsProcess`.

    Linux 5.4.
    """
    _refuse_what_asyncio_refuses(options, limit, shell=False)
    return await _start((program, *args), limit, {**options, "stdin": stdin, "stdout": stdout, "stderr": stderr})


async def create_subprocess_shell(
    cmd: str | bytes,
    stdin: File = None,
    stdout: File = None,
    stderr: File = None,
    limit: int = 2**16,
    **options: Unpack[StreamOptions],
) -> Process:
    """Run *cmd* with `/bin/sh` in a new user namespace: as `create_subprocess_exec`.

    Raises:
        ValueError: *cmd* is neither a `str` nor `bytes`; else as `create_subprocess_exec`.

    Linux 5.4.
    """
    if not isinstance(cmd, (str, bytes)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError("cmd must be a string")
    _refuse_what_asyncio_refuses(options, limit, shell=True)
    streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    return await _start(cmd, limit, {**options, **streams, "shell": True})


def _refuse_what_asyncio_refuses(options: Any, limit: int, *, shell: bool) -> None:
    """With asyncio's words. What is left of *options* is for `UsernsProcess`."""
    if bool(options.pop("shell", shell)) is not shell:
        raise ValueError(f"shell must be {shell}")
    if options.pop("bufsize", 0) != 0:
        raise ValueError("bufsize must be 0")
    for name in ("universal_newlines", "text"):
        if options.pop(name, False):
            raise ValueError(f"{name} must be False")
    for name in ("encoding", "errors"):
        if options.pop(name, None) is not None:
            raise ValueError(f"{name} must be None")
    if limit <= 0:
        raise ValueError("Limit cannot be <= 0")


async def _start(args: Any, limit: int, options: dict[str, Any]) -> Process:
    loop = asyncio.get_running_loop()
    protocol = _Protocol(limit, loop)
    return Process(await start(args, protocol, options), protocol, loop)


class Process(subprocess.Process):
    """An `asyncio.subprocess.Process` that has the namespaces and the maps of a `UsernsProcess` as well.

    Made by `create_subprocess_exec` and `create_subprocess_shell`. Once the process has
    ended and its pipes are at their end, its descriptors are closed; what needs the
    process raises `ProcessLookupError` (`ESRCH`) then.
    """

    _transport: Transport

    async def wait(self) -> int:
        """Wait until the process has ended; gives `returncode`.

        Any number of tasks can wait at once. Unlike in asyncio, a pipe that another
        process keeps open, or that is not read, does not delay it.
        """
        return await self._transport.wait()

    async def communicate(self, input: Data | None = None) -> tuple[bytes, bytes]:
        """As in asyncio. Without *input*, too, stdin is closed: as in `Popen`, and in asyncio from Python 3.12 on."""
        if input is None and self.stdin is not None:
            input = b""
        return await super().communicate(input)

    @property
    def pidfd(self) -> int:
        """The pidfd, borrowed: valid until the process has ended and its pipes are closed.

        The loop watches a duplicate of it, so this one can have a reader of your own.
        """
        return self._process.pidfd

    @property
    def ended_by(self) -> EndedBy | None:
        """The limit that ended the command, as `UsernsProcess.ended_by`."""
        return self._transport.ended_by()

    def namespace(self, kind: str = "user") -> Namespace:
        """As `UsernsProcess.namespace`: a new object that the caller closes."""
        return self._process.namespace(kind)

    def namespace_path(self, kind: str = "user") -> str:
        """As `UsernsProcess.namespace_path`."""
        return self._process.namespace_path(kind)

    @property
    def uid_map(self) -> IdMap:
        """As `UsernsProcess.uid_map`: as the kernel has it."""
        return self._process.uid_map

    @property
    def gid_map(self) -> IdMap:
        """As `UsernsProcess.gid_map`."""
        return self._process.gid_map

    def write_uid_map(self, uid_map: IdMapLike) -> None:
        """As `UsernsProcess.write_uid_map`, once."""
        self._process.write_uid_map(uid_map)

    def write_gid_map(self, gid_map: IdMapLike) -> None:
        """As `UsernsProcess.write_gid_map`, once."""
        self._process.write_gid_map(gid_map)

    def write_setgroups(self, value: str) -> None:
        """As `UsernsProcess.write_setgroups`."""
        self._process.write_setgroups(value)

    @property
    def _process(self) -> UsernsProcess[bytes]:
        return self._transport.process()


class _Protocol(subprocess.SubprocessStreamProtocol):
    _stdin_closed: asyncio.Future[None]

    async def _get_close_waiter(self, _stream: asyncio.StreamWriter) -> None:
        """What `stdin.wait_closed()` waits for. asyncio gives the future away: cancelling
        a task that waits cancels it for all, and an error arrives when stdin is closed."""
        await asyncio.wait([self._stdin_closed])
        self._stdin_closed.result()
