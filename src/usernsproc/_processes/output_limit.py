"""The limit of what is captured from a command, `max_output`."""

from __future__ import annotations

import os
import selectors
from operator import index
from select import PIPE_BUF
from subprocess import PIPE, SubprocessError, TimeoutExpired

from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .._spawn import Patience

_STREAMS = ("stdout", "stderr")
_READ_SIZE = 32768  # bytes, as Popen.communicate


class OutputLimitExceeded(SubprocessError):
    """A command wrote more than `max_output` bytes to a pipe. It was killed and reaped.

    Attributes:
        cmd: the command.
        max_output: the limit, in bytes.
        stream: `"stdout"` or `"stderr"`: the pipe of which the limit was exceeded.
        output: the bytes of standard output that were read, at most `max_output`; `None`: it is not a pipe. Always
            bytes, also in text mode, as those of `TimeoutExpired`.
        stdout: the same as `output`.
        stderr: the bytes of standard error.
    """

    def __init__(
        self, cmd: Any, max_output: int, stream: str, output: bytes | None = None, stderr: bytes | None = None
    ) -> None:
        super().__init__(cmd, max_output, stream, output, stderr)
        self.cmd, self.max_output, self.stream = cmd, max_output, stream
        self.output, self.stderr = output, stderr

    @property
    def stdout(self) -> bytes | None:
        return self.output

    def __str__(self) -> str:
        return f"Command {self.cmd!r} wrote more than {self.max_output} bytes to {self.stream}"


class Captured:
    """What a command has written to each of its pipes, up to the limit."""

    def __init__(self, max_output: int | None) -> None:
        self._max_output = max_output
        self._kept: dict[str, bytearray] = {}
        self.exceeded: str | None = None
        """The first stream of which the limit was exceeded."""

    def expect(self, stream: str) -> None:
        self._kept[stream] = bytearray()

    def add(self, stream: str, data: bytes) -> bool:
        """Return whether it was within the limit."""
        kept = self._kept[stream]
        kept += data
        if self._max_output is None or len(kept) <= self._max_output:
            return True
        del kept[self._max_output :]
        self.exceeded = self.exceeded or stream
        return False

    def of(self, stream: str) -> bytes | None:
        """`None`: it is not a pipe."""
        return bytes(self._kept[stream]) if stream in self._kept else None

    def raise_if_exceeded(self, args: Any) -> None:
        if self.exceeded is not None:
            assert self._max_output is not None
            output, errors = self.of("stdout"), self.of("stderr")
            raise OutputLimitExceeded(args, self._max_output, self.exceeded, output, errors)

    def timeout(self, args: Any, timeout: float) -> TimeoutExpired:
        return TimeoutExpired(args, timeout, self.of("stdout") or None, self.of("stderr") or None)


def checked_limit(max_output: int | None, options: Mapping[str, Any]) -> int | None:
    """Refuse a limit that is not a number of bytes, or that limits nothing."""
    if max_output is None:
        return None
    max_output = index(max_output)
    if max_output < 0:
        raise ValueError(f"max_output={max_output} is not a number of bytes")
    if PIPE not in (options.get("stdout"), options.get("stderr")):
        raise ValueError(
            "max_output limits what is captured: capture_output=True, stdout=PIPE or stderr=PIPE is needed"
        )
    return max_output


def decoded(data: bytes | None, encoding: str, errors: str) -> str | None:
    """As the standard library decodes the output of a command: with universal newlines."""
    return None if data is None else data.decode(encoding, errors).replace("\r\n", "\n").replace("\r", "\n")


def communicate(process: Any, input: Any, patience: Patience, max_output: int) -> tuple[Any, Any]:
    """As `UsernsProcess.communicate`, with a limit for each pipe.

    Raises:
        OutputLimitExceeded, TimeoutExpired: the command still runs.
    """
    pipes = {stream: pipe for stream in _STREAMS if (pipe := getattr(process, stream)) is not None}
    captured = Captured(max_output)
    _transfer(process, input, pipes, captured, patience)
    try:
        process.wait(patience.left())
    except TimeoutExpired:
        raise captured.timeout(process.args, 0) from None
    found = {stream: captured.of(stream) for stream in _STREAMS}
    if not process.text_mode:
        return found["stdout"], found["stderr"]
    texts = {stream: decoded(found[stream], pipe.encoding, pipe.errors) for stream, pipe in pipes.items()}
    return texts.get("stdout"), texts.get("stderr")


def _transfer(process: Any, input: Any, pipes: Mapping[str, Any], captured: Captured, patience: Patience) -> None:
    """Write the input and read all output."""
    with selectors.DefaultSelector() as selector:
        for stream, pipe in pipes.items():
            captured.expect(stream)
            selector.register(pipe, selectors.EVENT_READ, stream)
        rest = memoryview(b"")
        if process.stdin is not None:
            is_text = process.text_mode and input
            rest = memoryview(input.encode(process.stdin.encoding, process.stdin.errors) if is_text else input or b"")
            rest = rest.cast("B")
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(patience.left())
            if not ready and patience.left() == 0:
                raise captured.timeout(process.args, 0)
            for key, _ in ready:
                if key.data is None:
                    rest = _write(key.fd, rest)
                    is_over = not rest
                else:
                    data = os.read(key.fd, _READ_SIZE)
                    captured.add(key.data, data)
                    is_over = not data
                if is_over:
                    selector.unregister(key.fileobj)
                    _close(key.fileobj)
            captured.raise_if_exceeded(process.args)


def _write(fd: int, rest: memoryview) -> memoryview:
    """Return what is left. A reader that has gone needs nothing more."""
    try:
        return rest[os.write(fd, rest[:PIPE_BUF]) :]
    except BrokenPipeError:
        return rest[:0]


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        pass
