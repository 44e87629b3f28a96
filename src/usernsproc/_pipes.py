"""The parent's ends of a process' pipes, as asyncio transports on `add_reader` and `add_writer` alone.

`loop.connect_read_pipe` and `connect_write_pipe` are coroutines, which can be cancelled
half-way. Loops then differ in what they close: asyncio closes the file object, uvloop the
number of its descriptor. Here a descriptor has one owner, and nothing can be cancelled.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterable
from posix import read, write  # eventlet's os.read and os.write would wait

from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import IO, TypeAlias

    Data: TypeAlias = bytes | bytearray | memoryview
    Lost: TypeAlias = Callable[[Exception | None], object]

_READ_SIZE = 256 * 1024  # bytes in one read, as asyncio
_HIGH_WATER = 64 * 1024  # bytes waiting to be written until writers are paused, as asyncio


class ReadPipe(asyncio.ReadTransport):
    """Owns the end that is read. *lost* is called once, when this end is closed."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pipe: IO[bytes], received: Callable[[bytes], object], lost: Lost
    ) -> None:
        super().__init__({"pipe": pipe})
        self._loop, self._pipe, self._fd = loop, pipe, pipe.fileno()
        self._received, self._lost = received, lost
        self._closed, self._paused = False, False
        os.set_blocking(self._fd, False)
        loop.add_reader(self._fd, self._read)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._closed else f'fd={self._fd}'}>"

    def _read(self) -> int:
        """Return the number of bytes; 0: there are none now, or the pipe has ended."""
        try:
            data = read(self._fd, _READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._close(error)
            return 0
        if data:
            self._received(data)
        else:
            self._close(None)
        return len(data)

    def read_rest(self) -> None:
        """Read up to the end, because the process has ended, even if a slow reader has paused this
        transport. At most the capacity of a pipe is read: if there is more, another process still writes."""
        if self._closed:
            return
        left = fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ)
        while left >= 0 and (count := self._read()):
            left -= count

    def is_reading(self) -> bool:
        return not self._closed and not self._paused

    def pause_reading(self) -> None:
        if self.is_reading():
            self._paused = True
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        if self._paused and not self._closed:
            self._paused = False
            self._loop.add_reader(self._fd, self._read)

    def is_closing(self) -> bool:
        return self._closed

    is_closed = is_closing

    def close(self) -> None:
        self._close(None)

    abort = close

    def _close(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._pipe.close()
        lost, self._lost = self._lost, _ignore  # so that no reference cycle is left
        lost(error)


class WritePipe(asyncio.WriteTransport):
    """Owns the end that is written. *lost* is called once, when this end is closed."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pipe: IO[bytes], protocol: asyncio.BaseProtocol, lost: Lost
    ) -> None:
        super().__init__({"pipe": pipe})
        self._loop, self._pipe, self._fd = loop, pipe, pipe.fileno()
        self._protocol, self._lost = protocol, lost
        self._buffer = bytearray()
        self._closing, self._closed, self._paused = False, False, False
        self._low, self._high = _HIGH_WATER // 4, _HIGH_WATER
        os.set_blocking(self._fd, False)
        # This end is never readable, except for the error that the other end is closed.
        loop.add_reader(self._fd, self._no_reader_left)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"fd={self._fd}{' closing' if self._closing else ''}"
        return f"<{type(self).__name__} {state}, {len(self._buffer)} bytes waiting>"

    def _no_reader_left(self) -> None:
        self._close(BrokenPipeError() if self._buffer else None)

    def write(self, data: Data) -> None:
        """Write as much as fits into the pipe, and the rest later. A closed pipe ignores it; `drain` then raises."""
        rest = memoryview(data).cast("B")
        if self._closing or not rest:
            return
        if not self._buffer:
            rest = rest[self._write(rest) :]
            if self._closed or not rest:
                return
            self._loop.add_writer(self._fd, self._write_buffer)
        self._buffer += rest
        self._pause_or_resume()

    def writelines(self, list_of_data: Iterable[Data]) -> None:
        self.write(b"".join(list_of_data))

    def _write(self, data: Data) -> int:
        try:
            return write(self._fd, data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._close(error)
            return 0

    def _write_buffer(self) -> None:
        written = self._write(self._buffer)
        if self._closed:
            return
        del self._buffer[:written]
        self._pause_or_resume()
        if not self._buffer:
            self._loop.remove_writer(self._fd)
            if self._closing:
                self._close(None)

    def _pause_or_resume(self) -> None:
        if not self._paused and len(self._buffer) > self._high:
            self._paused = True
            self._protocol.pause_writing()
        elif self._paused and len(self._buffer) <= self._low:
            self._paused = False
            self._protocol.resume_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._low, self._high = low, high
        self._pause_or_resume()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The same as `close`: a pipe has no other end of file."""
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Accept no more data; close when all waiting data has been written."""
        self._closing = True
        if not self._buffer:
            self._close(None)

    def abort(self) -> None:
        self._close(None)

    def _close(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closing = self._closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._buffer.clear()
        self._pipe.close()
        lost, self._lost = self._lost, _ignore
        lost(error)


def _ignore(_error: Exception | None) -> None:
    pass
