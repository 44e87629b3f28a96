"""The transport of a process on an event loop, and its start."""

from __future__ import annotations

import asyncio
import errno
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from signal import SIGKILL, SIGTERM
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any

from ._caller import Caller
from ._in_thread import create_in_thread
from ._maps.writer import Maps
from ._pipes import ReadPipe, WritePipe
from ._processes.process import UsernsProcess

if TYPE_CHECKING:
    from ._processes.ended_by import EndedBy

_LOOK_AGAIN = 0.01  # seconds
_LONGEST_DEATH = 1.0  # seconds


async def start(args: Any, protocol: asyncio.SubprocessProtocol, options: dict[str, Any]) -> Transport:
    """Create a `UsernsProcess`, and connect its pipes with the *protocol*."""
    loop = asyncio.get_running_loop()
    # Others get their turn, and a cancellation arrives here, where nothing exists yet. Between
    # the creation and the return there is no such place.
    await asyncio.sleep(0)
    with ExitStack() as on_failure:
        options["bufsize"] = 0
        create = create_in_thread if _may_take_long(options) else _create_here
        process = await create(args, options)
        transport = Transport(loop, protocol, process)
        on_failure.callback(transport.abandon)
        transport.connect()
        on_failure.pop_all()
    return transport


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


class Transport(asyncio.SubprocessTransport):
    """Owns a `UsernsProcess`, and the readers and writers on its pidfd and pipes.

    Not a subclass of asyncio's own transport: that waits between the start of the
    process and the connection of its pipes, where it can be cancelled, and from
    Python 3.13 on it signals a pid.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.SubprocessProtocol, process: UsernsProcess[bytes]
    ) -> None:
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

    @property
    def ended_process(self) -> UsernsProcess[bytes]:
        """For what remains of it: `args`, `returncode`, `ended_by`."""
        return self._process

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

    async def end(self) -> None:
        """Kill the process unless it has ended, and wait for that, despite cancellations. All is released then."""
        self._closing = True
        for pipe in self._pipes.values():
            pipe.abort()
        if self._returncode is None:
            self._kill()
        cancellation = None
        while self._returncode is None:
            try:
                await self.wait()
            except asyncio.CancelledError as raised:
                cancellation = raised
        if cancellation is not None:
            raise cancellation

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

    def get_protocol(self) -> asyncio.SubprocessProtocol:
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
