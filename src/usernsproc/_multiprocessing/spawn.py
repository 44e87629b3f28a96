"""The start method spawn: each process is a new interpreter, in a namespace of its own."""

from __future__ import annotations

import io
import os
from multiprocessing import popen_spawn_posix, reduction, resource_tracker, spawn, util
from multiprocessing.context import set_spawning_popen
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any

from .._processes.process import UsernsProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.process import BaseProcess


def pickled(popen: Any, process: BaseProcess, options: Mapping[str, Any]) -> memoryview:
    """What the child reads: its preparation data, then the process object."""
    preparation = spawn.get_preparation_data(process.name)
    if options.get("cwd") is not None:
        preparation.pop("dir", None)  # it is there already, and the caller's directory may not exist in its root
    data = io.BytesIO()
    set_spawning_popen(popen)
    try:
        reduction.dump(preparation, data)
        reduction.dump(process, data)
    finally:
        set_spawning_popen(None)
    return data.getbuffer()


def send(fd: int, data: memoryview) -> None:
    """If the child has ended before it has read everything, its exit code says so."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        pass


class Popen(popen_spawn_posix.Popen):
    """As `multiprocessing.popen_spawn_posix.Popen`, with a `UsernsProcess`.

    Unlike there, the sentinel is the pidfd: it is ready when the process itself has ended, even if descendants run on.
    """

    _fds: list[int]
    """Other descriptors that the process object contains."""
    _process: UsernsProcess[bytes]

    def __init__(self, process: BaseProcess, options: Mapping[str, Any]) -> None:
        self._options = options
        super().__init__(process)

    def _launch(self, process_obj: BaseProcess) -> None:
        tracker: Any = resource_tracker.getfd()
        data = pickled(self, process_obj, self._options)
        read, write = os.pipe()
        # As long as this end is open, the child knows that its parent lives.
        self.finalizer = util.Finalize(self, os.close, (write,))
        try:
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=read)
            self._process = start(command, [*self._fds, tracker, read], self._options)
        except BaseException:
            self.finalizer()
            raise
        finally:
            os.close(read)
        self.pid, self.sentinel = self._process.pid, self._process.pidfd
        try:
            send(write, data)
        except BaseException:
            self.close()
            raise

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            self.returncode = self._process.poll() if flag & os.WNOHANG else self._process.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        if self.returncode is None:
            try:
                self.returncode = self._process.wait(timeout)
            except TimeoutExpired:
                return None
        return self.returncode

    def _send_signal(self, sig: int) -> None:
        if self.returncode is None:
            self._process.send_signal(sig)

    def close(self) -> None:
        super().close()
        self._process.close()


def start(command: list[Any], fds: list[int], options: Mapping[str, Any]) -> UsernsProcess[bytes]:
    """Start the interpreter with these descriptors. Like multiprocessing, it does not restore signals."""
    given: dict[str, Any] = {"restore_signals": False, **options}
    given["pass_fds"] = {*fds, *given.get("pass_fds", ())}
    return UsernsProcess[bytes](command, **given)
