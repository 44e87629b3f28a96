"""asyncio's `create_subprocess_exec` and `create_subprocess_shell`, in a new user namespace.

The event loop watches the pidfd and the pipes with `add_reader` and `add_writer`: there is
no SIGCHLD handler, no child watcher and no thread, and any loop that has these methods
will do, in any thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import warnings
from asyncio import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from signal import SIGKILL, SIGTERM
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any

from ._caller import Caller
from ._in_thread import create_in_thread
from ._maps.idmap import IdMap, IdMapLike
from ._maps.writer import Maps
from ._namespaces.namespace import Namespace
from ._pipes import ReadPipe, WritePipe
from ._processes.process import UsernsProcess

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._pipes import Data
    from ._processes.ended_by import EndedBy
    from ._processes.options import File, StreamOptions

__all__ = ["Process", "create_subprocess_exec", "create_subprocess_shell"]

_LOOK_AGAIN = 0.01  # seconds
_LONGEST_DEATH = 1.0  # seconds


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
    # Others get their turn, and a cancellation arrives here, where nothing exists yet. Between
    # the creation and the return there is no such place.
    await asyncio.sleep(0)
    protocol = _Protocol(limit, loop)
    with ExitStack() as on_failure:
        options["bufsize"] = 0
        create = create_in_thread if _may_take_long(options) else _create_here
        process = await create(args, options)
        transport = _Transport(loop, protocol, process)
        on_failure.callback(transport.abandon)
        transport.connect()
        on_failure.pop_all()
    return Process(transport, protocol, loop)


async def _create_here(args: Any, options: dict[str, Any]) -> UsernsProcess[Any]:
    return UsernsProcess[Any](args, **options)


def _may_take_long(options: dict[str, Any]) -> bool:
    """Whether the creation waits for others, as asyncio's own never does: for a cgroup that may be
    frozen, files of a joined namespace, `newuidmap`."""
    join = options.get("join")
    nothing_to_join = join is None or (isinstance(join, (tuple, list)) and not join)
    if options.get("cgroup") is not None or not nothing_to_join:
        return True
    maps = Maps.resolve(options.get("uid_map"), options.get("gid_map"), options.get("setgroups"), Caller.now())
    return bool(maps.via_newidmap)


class Process(subprocess.Process):
    """An `asyncio.subprocess.Process` that has the namespaces and the maps of a `UsernsProcess` as well.

    Made by `create_subprocess_exec` and `create_subprocess_shell`. Once the process has
    ended and its pipes are at their end, its descriptors are closed; what needs the
    process raises `ProcessLookupError` (`ESRCH`) then.
    """

    _transport: _Transport

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


class _Transport(asyncio.SubprocessTransport):
    """Owns a `UsernsProcess`, and the readers and writers on its pidfd and pipes.

    Not a subclass of asyncio's own transport: that waits between the start of the
    process and the connection of its pipes, where it can be cancelled, and from
    Python 3.13 on it signals a pid.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: _Protocol, process: UsernsProcess[bytes]) -> None:
        super().__init__({"subprocess": process})
        self._loop, self._protocol, self._process = loop, protocol, process
        self._pipes: dict[int, ReadPipe | WritePipe] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._watched = -1
        self._returncode: int | None = None
        self._closing, self._released = False, False

    def connect(self) -> None:
        process, protocol, loop = self._process, self._protocol, self._loop
        if process.stdin is not None:
            self._pipes[0] = WritePipe(loop, process.stdin, protocol, partial(self._pipe_lost, 0))
        for number, pipe in ((1, process.stdout), (2, process.stderr)):
            if pipe is not None:
                received = partial(protocol.pipe_data_received, number)
                self._pipes[number] = ReadPipe(loop, pipe, received, partial(self._pipe_lost, number))
        # A duplicate: a loop has one reader for a descriptor, and `pidfd` is for the program.
        self._watched = os.dup(process.pidfd)
        self._watch()
        protocol.connection_made(self)

    def process(self) -> UsernsProcess[bytes]:
        if self._released:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return self._process

    def ended_by(self) -> EndedBy | None:
        return self._process.ended_by

    # ---- the end of the process ----

    def _watch(self) -> None:
        if self._watched >= 0:
            self._loop.add_reader(self._watched, self._pidfd_readable)

    def _unwatch(self) -> None:
        if self._watched >= 0:
            watched, self._watched = self._watched, -1
            self._loop.remove_reader(watched)
            os.close(watched)

    def _pidfd_readable(self) -> None:
        try:
            self._process.poll()
        finally:  # a warning may be an error here
            if self._process.returncode is not None:
                self._ended(self._process.returncode)
            else:
                # A tracer has to let go of it first, or another thread waits for it just now.
                self._loop.remove_reader(self._watched)
                self._loop.call_later(_LOOK_AGAIN, self._watch)

    def _ended(self, returncode: int) -> None:
        self._returncode = returncode
        self._unwatch()
        self._tell(self._protocol.process_exited)  # before the last pipe is closed: then all is over
        for pipe in self._pipes.values():
            if isinstance(pipe, ReadPipe):
                pipe.read_rest()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._release_when_over()

    async def wait(self) -> int:
        while self._returncode is None:
            self._process._refuse_to_wait_in_copy()
            waiter = self._loop.create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self._returncode

    def _pipe_lost(self, number: int, error: Exception | None) -> None:
        self._tell(self._protocol.pipe_connection_lost, number, error)
        self._release_when_over()

    def _release_when_over(self) -> None:
        if self._returncode is None or self._released:
            return
        if all(pipe.is_closed() for pipe in self._pipes.values()):
            self._tell(self._protocol.connection_lost, None)
            self._released = True
            self._process.close()

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        if not self._released and not self._loop.is_closed():
            self._loop.call_soon(callback, *args)

    # ---- what asyncio asks of a transport ----

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._process!r}>"

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Close the pipes, kill the process; the loop reaps it."""
        if self._closing:
            return
        if self._loop.is_closed() or self._process._is_copy():
            self.abandon()
            return
        self._closing = True
        for pipe in self._pipes.values():
            pipe.close()
        if self._returncode is None:
            self._kill()

    def _kill(self) -> None:
        try:
            self._process.kill()
        except PermissionError:
            pass  # it runs a set-user-ID program

    def abandon(self) -> None:
        """`close` without the loop: for a start that failed, and for a loop that is closed."""
        self._closing = self._released = True
        if self._process._is_copy():
            # Closing is all: the loop's selector is shared with the process that it was copied
            # from, which would not notice that something is removed from it here.
            if self._watched >= 0:
                os.close(self._watched)
            self._process.close()
            return
        for pipe in self._pipes.values():
            pipe.abort()
        self._unwatch()
        self._kill()
        try:
            self._process.wait(_LONGEST_DEATH)
        except TimeoutExpired:
            return  # in the middle of a system call; when dropped, Popen reaps it later
        self._process.close()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if self._released:
            return
        if not self._closing:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
        self.abandon()

    def get_pid(self) -> int:
        return self._process.pid

    def get_returncode(self) -> int | None:
        return self._returncode

    def get_pipe_transport(self, fd: int) -> ReadPipe | WritePipe | None:
        return self._pipes.get(fd)

    def get_protocol(self) -> _Protocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        raise NotImplementedError("the streams of a process are its protocol")

    def send_signal(self, signal: int) -> None:
        if self._returncode is not None:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        self._process.send_signal(signal)

    def terminate(self) -> None:
        self.send_signal(SIGTERM)

    def kill(self) -> None:
        self.send_signal(SIGKILL)
