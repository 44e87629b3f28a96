"""The start method forkserver: a server in the namespace, of which all processes are forks."""

from __future__ import annotations

import os
import signal
from multiprocessing import forkserver, popen_forkserver, util
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from .._namespaces.namespace import Namespace
from .spawn import pickled, send, start

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.process import BaseProcess

    from .._processes.process import UsernsProcess

_NO_PID_NAMESPACE = (
    "forkserver: with a PID namespace, the PIDs that the server reports would be those of other processes here. "
    'Use the start method "spawn"'
)


def refuse_pid_namespace(options: Mapping[str, Any]) -> None:
    if "pid" in options.get("namespaces", ()):
        raise ValueError(_NO_PID_NAMESPACE)


class Server(forkserver.ForkServer):
    """A fork server of one context. It ends with the context, or with this program."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        self._options = options
        self._process: UsernsProcess[bytes] | None = None
        self._ending: Any = None

    def ensure_running(self) -> None:
        """The method of the standard library, in which one function is another: what starts the server."""
        before = self._process
        functions = SimpleNamespace(**vars(util))
        functions.spawnv_passfds = self._start
        names: dict[str, Any] = {**vars(forkserver), "util": functions}
        FunctionType(forkserver.ForkServer.ensure_running.__code__, names)(self)
        if self._process is before:
            return
        if before is not None:  # it has ended, and that method has reaped it and closed the descriptor
            self._ending.cancel()
            os.close(before.detach_pidfd())
        given: Any = self._process, self._forkserver_alive_fd  # type: ignore[attr-defined]
        # At the exit of this program, after its processes were joined.
        self._ending = util.Finalize(self, _end, given, exitpriority=-1)

    def _start(self, _path: Any, command: list[Any], fds: list[int]) -> int:
        process = start(command, fds, self._options)
        with process.namespace("pid") as its, Namespace.current("pid") as own:
            is_same = its == own
        if not is_same:
            process.close()
            raise ValueError(_NO_PID_NAMESPACE)
        self._process = process
        return process.pid


def _end(process: UsernsProcess[bytes], alive: int) -> None:
    os.close(alive)
    process.close()


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


class Popen(popen_forkserver.Popen):
    """As `multiprocessing.popen_forkserver.Popen`, with a `Server`. Signals are sent by a pidfd."""

    _fds: list[int]
    _pidfd = -1

    def __init__(self, process: BaseProcess, options: Mapping[str, Any], server: Server) -> None:
        self._options, self._server = options, server
        super().__init__(process)

    def _launch(self, process_obj: BaseProcess) -> None:
        data = pickled(self, process_obj, self._options)
        self.sentinel, write = self._server.connect_to_new_process(self._fds)
        self.finalizer = util.Finalize(self, _close, (self.sentinel, write))
        send(write, data)
        self.pid = forkserver.read_signed(self.sentinel)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return  # it has ended, and the server has reaped it
        self.finalizer.cancel()
        self.finalizer = util.Finalize(self, _close, (self.sentinel, write, self._pidfd))

    def _send_signal(self, sig: int) -> None:
        if self.poll() is None and self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, sig)
            except ProcessLookupError:
                pass
