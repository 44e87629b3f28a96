"""`run` and `check_output` of `usernsproc.aio`."""

from __future__ import annotations

import asyncio
import io
import sys
from typing import TYPE_CHECKING, Any, cast, overload

from ._pipes import WritePipe
from ._processes.output_limit import Captured, checked_limit, decoded
from ._processes.popen import name_default_encoding
from ._processes.run import CompletedCommand, raise_if_failed, set_pipes, set_pipes_of_check_output
from ._transport import start

if TYPE_CHECKING:
    from typing import Literal

    from typing_extensions import Unpack

    from ._processes.options import OutputOptions, RunOptions
    from ._processes.process import UsernsProcess
    from ._transport import Transport

_STREAMS = {1: "stdout", 2: "stderr"}
_TEXT = ("text", "encoding", "errors", "universal_newlines")


@overload
async def run(
    args: Any,
    *,
    text: Literal[True],
    encoding: str | None = None,
    errors: str | None = None,
    input: str | None = None,
    **options: Unpack[RunOptions],
) -> CompletedCommand[str]: ...
@overload
async def run(
    args: Any,
    *,
    encoding: str,
    errors: str | None = None,
    text: bool | None = None,
    input: str | None = None,
    **options: Unpack[RunOptions],
) -> CompletedCommand[str]: ...
@overload
async def run(
    args: Any,
    *,
    text: Literal[False] | None = None,
    universal_newlines: Literal[False] | None = None,
    encoding: None = None,
    errors: None = None,
    input: Any = None,
    **options: Unpack[RunOptions],
) -> CompletedCommand[bytes]: ...
@overload
async def run(
    args: Any,
    *,
    text: bool | None = None,
    universal_newlines: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    input: Any = None,
    **options: Unpack[RunOptions],
) -> CompletedCommand[Any]: ...
async def run(
    args: Any,
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    max_output: int | None = None,
    **options: Any,
) -> CompletedCommand[Any]:
    """Run a command in a new user namespace, wait for it, and return how it ended.

    As `usernsproc.run`, and as that with all parameters of `UsernsProcess`; the event loop runs on. When the timeout
    passes, the task is cancelled or *max_output* is exceeded, the command is killed and reaped, and no process,
    descriptor or task of the call remains when the exception is raised. There are no tasks and no threads except as
    described at `create_subprocess_exec`.

    Only the command itself is killed. A PID namespace with `init=True` ends its descendants as well.

    Args:
        args: as in `subprocess.run`: a list, or with `shell=True` a string.
        input: bytes for standard input, or a string in text mode.
        capture_output: collect standard output and error in the result.
        timeout: in seconds, for the creation of the process and the command together.
        check: raise when the return code is not 0.
        max_output: bytes; the most that is kept of standard output, and of standard error, if they are captured.

    Raises:
        CalledProcessError: with *check*; it has `ended_by` too.
        TimeoutExpired: with what was captured so far.
        OutputLimitExceeded: *max_output* was exceeded; with what was captured so far.
        ValueError: *input* with *stdin*, *capture_output* with *stdout* or *stderr*, *max_output* if nothing is
            captured; and what `UsernsProcess` raises.

    Linux 5.4.
    """
    options = {**options, "input": input, "capture_output": capture_output}
    return await _run(args, options, timeout=timeout, check=check, max_output=max_output)


@overload
async def check_output(
    args: Any,
    *,
    text: Literal[True],
    encoding: str | None = None,
    errors: str | None = None,
    input: str | None = None,
    timeout: float | None = None,
    **options: Unpack[OutputOptions],
) -> str: ...
@overload
async def check_output(
    args: Any,
    *,
    encoding: str,
    errors: str | None = None,
    text: bool | None = None,
    input: str | None = None,
    timeout: float | None = None,
    **options: Unpack[OutputOptions],
) -> str: ...
@overload
async def check_output(
    args: Any,
    *,
    text: Literal[False] | None = None,
    universal_newlines: Literal[False] | None = None,
    encoding: None = None,
    errors: None = None,
    input: Any = None,
    timeout: float | None = None,
    **options: Unpack[OutputOptions],
) -> bytes: ...
@overload
async def check_output(
    args: Any,
    *,
    text: bool | None = None,
    universal_newlines: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    input: Any = None,
    timeout: float | None = None,
    **options: Unpack[OutputOptions],
) -> Any: ...
async def check_output(
    args: Any, *, timeout: float | None = None, max_output: int | None = None, **options: Any
) -> Any:
    """Run a command that must succeed and return its standard output; as `run` with `check=True`.

    Raises:
        CalledProcessError: the return code is not 0; `output` has what the command printed.
        TimeoutExpired: *timeout* seconds have passed; the command was killed.
        OutputLimitExceeded: the command printed more than *max_output* bytes; it was killed.
        ValueError: *stdout* or *check* is given.

    Linux 5.4.
    """
    set_pipes_of_check_output(options)
    return (await _run(args, options, timeout=timeout, check=True, max_output=max_output)).stdout


async def _run(
    args: Any, options: dict[str, Any], *, timeout: float | None, check: bool, max_output: int | None
) -> CompletedCommand[Any]:
    input = set_pipes(args, options)
    max_output = checked_limit(max_output, options)
    if sys.flags.warn_default_encoding:
        name_default_encoding((), options)
    codec = _codec(options)
    if codec is not None and input is not None:
        input = input.encode(*codec)
    captured = Captured(max_output)
    ended = await _ended(args, options, input, timeout, captured)
    stdout, stderr = (
        captured.of(stream) if codec is None else decoded(captured.of(stream), *codec) for stream in _STREAMS.values()
    )
    if check:
        raise_if_failed(ended, stdout, stderr)
    return CompletedCommand[Any].of(ended, stdout, stderr)


def _codec(options: dict[str, Any]) -> tuple[str, str] | None:
    """The encoding and its error handler in text mode. The process itself has pipes of bytes."""
    given = {name: options.pop(name, None) for name in _TEXT}
    if not any(given.values()):
        return None
    wrapper = io.TextIOWrapper(io.BytesIO(), given["encoding"], given["errors"])
    return wrapper.encoding, wrapper.errors or "strict"


async def _ended(
    args: Any, options: dict[str, Any], input: Any, timeout: float | None, captured: Captured
) -> UsernsProcess[Any]:
    collector = _Collector(captured)
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            transport = await start(args, collector, options)
            try:
                collector.feed(input)
                await collector.over
            finally:
                await transport.end()
    except TimeoutError:
        if not limit.expired():  # of on_created, say
            raise
        assert timeout is not None
        raise captured.timeout(args, timeout) from None
    captured.raise_if_exceeded(args)
    return transport.ended_process


class _Collector(asyncio.SubprocessProtocol):
    """Keeps what arrives. No stream and no task is involved, so none is left."""

    _transport: Transport

    def __init__(self, captured: Captured) -> None:
        self._captured = captured
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the command has ended and its pipes are closed, or the limit is exceeded."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("Transport", transport)
        for fd, stream in _STREAMS.items():
            if self._transport.get_pipe_transport(fd) is not None:
                self._captured.expect(stream)

    def feed(self, input: Any) -> None:
        pipe = self._transport.get_pipe_transport(0)
        if isinstance(pipe, WritePipe):
            pipe.write(input or b"")
            pipe.close()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if not self._captured.add(_STREAMS[fd], data):
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._finish()

    def _finish(self) -> None:
        if not self.over.done():
            self.over.set_result(None)
