"""A `Popen` whose child is known by a pidfd: signals, waiting and the end of the object.

What makes the child is left to a subclass, in `_execute_child`.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import threading
import time
import warnings
from subprocess import TimeoutExpired

from .. import _core, _system_calls
from .._typing import TYPE_CHECKING
from .._uapi import WALL
from .ended_by import End, cpu_of, end_below_init
from .popen import Popen, check_layout, in_own_order, is_patched, patched_subprocess, wait_readable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Any, AnyStr  # noqa: F401, named in the base class

    from .._cgroups import OomKills
    from .._core import Child
    from .ended_by import EndedBy

LOST_STATUS = 255
NOT_REAPED = -2
_ENDED = (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)
_STATES = os.WEXITED | os.WSTOPPED | os.WCONTINUED
_LONGEST_POLL = 86_400.0  # seconds


class _DelSafe:
    """For what `__del__` calls: when the interpreter ends, modules may be empty already."""

    waitid = staticmethod(os.waitid)
    RLock = staticmethod(threading.RLock)
    close = staticmethod(os.close)
    P_PIDFD = os.P_PIDFD
    WEXITED = os.WEXITED | WALL
    WNOHANG = os.WNOHANG
    WNOWAIT = os.WNOWAIT
    CLD_EXITED = os.CLD_EXITED
    SIGKILL = signal.SIGKILL
    KILLED = (os.CLD_KILLED, signal.SIGKILL)
    reap = staticmethod(_core.reap)
    End = End
    end_below_init = staticmethod(end_below_init)
    cpu_of = staticmethod(cpu_of)
    generation = staticmethod(_core.generation)
    """Of this copy of the program. Not its PID: a copy in a new PID namespace can have the same."""


class PidfdPopen(Popen["AnyStr"]):
    """`wait` and `poll` use `waitid(P_PIDFD)`, `send_signal` uses `pidfd_send_signal`: never a pid.

    In a forked copy of the program the child is a sibling, and not the copy's to end or to wait for.
    """

    ended_by: EndedBy | None = None
    """The limit that ended the command, once `returncode` is set; `None`: none, as far as the kernel shows it.

    * `"cpu-limit"`: it had used the CPU time of `RLIMIT_CPU`: `SIGXCPU`, or at the hard limit `SIGKILL`.
    * `"file-size-limit"`: it wrote a file beyond `RLIMIT_FSIZE`: `SIGXFSZ`.
    * `"out-of-memory"`: `SIGKILL`, and the out-of-memory killer has killed a process of the cgroup that was given as
      `cgroup`, or of one below it, since the command was started: `oom_kill` in its `memory.events`.
    * `"seccomp"`: a seccomp filter ended it: `SIGSYS`.

    Such a signal can also come from another process. One that was sent by `send_signal`, `kill` or `terminate` of this
    object is not a limit. A shell that reports the end of another process by its exit status was not ended by a limit
    itself.
    """

    _child: Child | None = None
    _oom_kills: OomKills | None = None
    """In the cgroup of the command, since before it was started."""
    _sent: int = 0
    """The last signal that this object has sent."""
    _detached = False
    _generation = 0
    _creating_thread = 0
    """Which runs on_created now: for it, waiting would never end."""
    _is_holder = False
    _at_end: Sequence[Callable[[], object]] = ()
    """Called once, before the return code is known."""
    _child_created = False
    args: Any
    _start_child: Callable[..., None]
    """The start itself, with what `in_own_order` returns."""

    def __init__(self, args: Any, *popen_args: Any, **popen_options: Any) -> None:
        check_layout()
        self._pidfd_lock = threading.RLock()
        self._generation = _core.generation()
        super().__init__(args, *popen_args, **popen_options)

    def _execute_child(self, *values: Any) -> None:
        """Called by `Popen.__init__`, with an order of parameters that depends on the version of Python."""
        check_layout(self)
        self._start_child(*in_own_order(values))

    # ---- the pidfd ----

    @property
    def _pidfd(self) -> int:
        return -1 if self._child is None else self._child.pidfd

    @property
    def pidfd(self) -> int:
        """The pidfd, borrowed: valid until this object is closed or dropped. It becomes
        readable when the process has ended."""
        pidfd = self._pidfd
        if pidfd < 0:
            raise ValueError("operation on a closed process")
        return pidfd

    def fileno(self) -> int:
        """The same as `pidfd`, so that the object works with `select`, `selectors` and event loops."""
        return self.pidfd

    def detach_pidfd(self) -> int:
        """Give up the pidfd: it is the caller's to close, and to signal and wait with.

        This object can do neither any more; of `Popen`'s members only `pid`, `args`
        and the pipes remain.
        """
        pidfd, self._detached = self.pidfd, True
        if self._child is not None:
            self._child.pidfd = -1
            self._close_witnesses()
        return pidfd

    def _is_copy(self, _safe: type[_DelSafe] = _DelSafe) -> bool:
        """This object was made by a process of which this one is a forked copy."""
        return self._generation != _safe.generation()

    def _close_pidfd(self, _safe: type[_DelSafe] = _DelSafe) -> None:
        if self._is_copy():  # where a lock may be held by a thread that does not exist
            self._pidfd_lock = _safe.RLock()
        # Not while another thread, a watchdog perhaps, signals through it: its
        # number could be that of another child the next moment.
        with self._pidfd_lock:
            if self._child is not None and self._child.pidfd >= 0:
                pidfd, self._child.pidfd = self._child.pidfd, -1
                _safe.close(pidfd)
                self._close_witnesses(_safe)

    def _close_witnesses(self, _safe: type[_DelSafe] = _DelSafe) -> None:
        """What shows how the command ended, other than its status."""
        if self._oom_kills is not None:
            self._oom_kills.close()
        if self._child is not None and self._child.ending >= 0:
            ending, self._child.ending = self._child.ending, -1
            _safe.close(ending)

    def close(self) -> None:
        """Kill the process if it still runs, reap it, and release pipes and pidfd. Again: no effect.

        In a forked copy of the program the process runs on: the copy's descriptors are released.
        """
        try:
            if self._pidfd >= 0:
                if not self._is_copy():
                    self.kill()
                    self._creating_thread = 0  # it ends, whether it was started or not
                    self.wait()
                self._close_pidfd()
        finally:
            self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                _close_quietly(pipe)

    def __exit__(
        self, exc_type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for a command, as `Popen` does; end a holder. Then close the pidfd. In a
        forked copy of the program, `close`."""
        if self._is_holder or self._pidfd < 0 or self._is_copy():
            self.close()
            return
        try:
            super().__exit__(exc_type, value, traceback)
        finally:
            if self.returncode is not None:
                self._close_pidfd()

    def __del__(self, *ignored: Any) -> None:
        # A running child stays in subprocess._active, which reaps it later: as in Popen. One whose start was
        # interrupted ends with this object, and so does the pidfd.
        child = self._child
        if child is None or child.pidfd < 0 or not child.taken or self.returncode is not None or self._is_copy():
            return
        super().__del__()

    # ---- signals ----

    def send_signal(self, sig: int) -> None:
        """Send *sig* with `pidfd_send_signal(2)`.

        As `Popen.send_signal`, it does nothing when the process has ended, or in a
        forked copy of the program. Unlike it, it cannot reach another process that got
        the same PID.

        Raises:
            PermissionError: the process runs a set-user-ID program (`EPERM`).
        """
        if self._is_copy():
            return
        self.poll()
        with self._pidfd_lock:
            if self.returncode is None:
                try:
                    self._sent = sig
                    signal.pidfd_send_signal(self.pidfd, sig)
                except ProcessLookupError:
                    pass  # ended, and reaped by other code, in this moment

    # ---- waiting; `poll`, `wait` and `communicate` of Popen call these ----

    def waitid(self, options: int = os.WEXITED) -> os.waitid_result | None:
        """`waitid(P_PIDFD, …)`: unlike `wait` it reports stops (`os.WSTOPPED`,
        `os.WCONTINUED`) and core dumps (`os.CLD_DUMPED`), and can look without
        reaping (`os.WNOWAIT`) or blocking (`os.WNOHANG`: `None` when there is nothing).

        When another part of the program has reaped the child, the kernel is asked for
        its status (Linux 6.15); `si_uid` is then -1.

        Raises:
            ChildProcessError: it has been reaped (`ECHILD`), by this object, or where
                the kernel does not keep the status.
        """
        if not options & os.WNOHANG:
            self._refuse_to_wait_while_creating()
            if options & _STATES == os.WEXITED and is_patched():
                wait_readable(self.pidfd)  # only the end of a process makes its pidfd readable
        try:
            # Look first: reaping is done under the lock, as in wait().
            result = os.waitid(os.P_PIDFD, self.pidfd, options | WALL | os.WNOWAIT)
            if result is not None and result.si_code in _ENDED:
                result = self._of_command(result)
            elif result is not None and not options & os.WNOWAIT:
                return os.waitid(os.P_PIDFD, self.pidfd, options | WALL)
        except ChildProcessError:
            if self.returncode is not None or not options & os.WEXITED:
                raise
            result = self._kept_result()
            if result is None:
                raise
        if result is not None and not options & os.WNOWAIT:
            with self._waitpid_lock:  # type: ignore[attr-defined]
                if self.returncode is None:
                    self._reap(os.WNOHANG)
        return result

    def _of_command(self, result: os.waitid_result) -> os.waitid_result:
        """As the command below an init ended."""
        end = self._end_of(result.si_code, result.si_status)
        if result.si_code != os.CLD_EXITED or end.returncode >= 0:
            return result
        code = os.CLD_DUMPED if end.dumped else os.CLD_KILLED
        return os.waitid_result((result.si_pid, result.si_uid, result.si_signo, -end.returncode, code))

    def _kept_result(self) -> os.waitid_result | None:
        status = _core.exit_status(self.pidfd)
        if status < 0:
            return None
        if os.WIFEXITED(status):
            code, value = os.CLD_EXITED, os.WEXITSTATUS(status)
        else:
            code, value = os.CLD_DUMPED if os.WCOREDUMP(status) else os.CLD_KILLED, os.WTERMSIG(status)
        return self._of_command(os.waitid_result((self.pid, -1, signal.SIGCHLD, value, code)))

    def _end_of(self, code: int, status: int, _safe: type[_DelSafe] = _DelSafe) -> End:
        if code != _safe.CLD_EXITED:
            return _safe.End(-status)
        ending = -1 if self._child is None else self._child.ending
        below = None if ending < 0 else _safe.end_below_init(status, ending)
        return below or _safe.End(status)

    def _set_end(self, end: End) -> None:
        """The return code last: other threads look at it without the lock."""
        if self._at_end:
            self._finish()
        if end.returncode < 0 and end.returncode != -self._sent:
            self.ended_by = end.limit(self._oom_kills)
        self._close_witnesses()
        self.returncode = end.returncode

    def _finish(self) -> None:
        """What is to be done when the process has ended, or could not be started."""
        actions, self._at_end = self._at_end, ()
        if actions and not self._is_copy():
            for action in actions:
                action()

    def _internal_poll(self, _deadstate: int | None = None, _safe: type[_DelSafe] = _DelSafe) -> int | None:
        if self.returncode is None and not self._detached:
            if not self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
                return None  # another thread is waiting: nothing is known yet
            try:
                if self.returncode is None:
                    self._reap(_safe.WNOHANG)
            except OSError:
                if _deadstate is None:
                    raise
                self._finish()
                self.returncode = _deadstate
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """As `Popen.communicate`; in `on_created` it would never end, and is a `RuntimeError`."""
        if timeout is None:
            self._refuse_to_wait_while_creating()
            if is_patched() and not self._communication_started:
                return self._communicate_without_timeout(input)
        return super().communicate(input, timeout)

    def _communicate_without_timeout(self, input: Any) -> tuple[Any, Any]:
        """`Popen.communicate` would read a single pipe with a blocking call."""
        try:
            return self._communicate(input, None, None)
        finally:
            self._communication_started = True

    def _communicate(self, *given: Any) -> tuple[Any, Any]:
        popen: Any = patched_subprocess().Popen if is_patched() else Popen
        result: tuple[Any, Any] = popen._communicate(self, *given)
        return result

    def _refuse_to_wait_while_creating(self) -> None:
        if self._creating_thread == threading.get_ident() and self.returncode is None:
            raise RuntimeError("the command runs only after on_created has returned: waiting for it would never end")

    def _refuse_to_wait_in_copy(self) -> None:
        if self._is_copy() and self.poll() is None:
            raise ChildProcessError(
                errno.ECHILD, f"process {self.pid} is not a child of this forked copy of the program"
            )

    def _wait(self, timeout: float | None) -> int:
        if timeout is None and self._creating_thread:
            self._refuse_to_wait_while_creating()
        self._refuse_to_wait_in_copy()
        if self.returncode is None and (timeout is not None or is_patched()):
            self._wait_readable(math.inf if timeout is None else timeout)
        while self.returncode is None:
            with self._waitpid_lock:  # type: ignore[attr-defined]
                if self.returncode is None:
                    self._reap(0)
        return self.returncode

    def _wait_readable(self, timeout: float) -> None:
        """Sleep on the pidfd, without the lock; `Popen` looks again and again."""
        end = time.monotonic() + timeout
        with self._pidfd_lock:
            if self.returncode is not None:
                return  # another thread waited, and may have closed the pidfd
            pidfd = self.pidfd
        while True:
            remaining = end - time.monotonic()
            ended = wait_readable(pidfd, max(0, min(remaining, _LONGEST_POLL)))
            if ended:
                self._internal_poll()
            if self.returncode is not None:
                return
            if remaining <= 0:
                raise TimeoutExpired(self.args, timeout)
            if ended:  # a tracer, or another thread that waits, has to let go first
                time.sleep(min(remaining, 0.01))

    def _reap(self, flags: int, _safe: type[_DelSafe] = _DelSafe) -> None:
        """Set `returncode`, or leave it when the process still runs. The lock is held."""
        try:
            found = _safe.reap(self.pidfd, flags)
        except ChildProcessError:
            self._reap_lost(flags)
            return
        if found is None:
            return
        end = self._end_of(*found)
        if found == _safe.KILLED:
            self._reap_killed(end)
        self._set_end(end)

    def _reap_killed(self, end: End, _safe: type[_DelSafe] = _DelSafe) -> None:
        if self._sent != _safe.SIGKILL:
            end.cpu = _safe.cpu_of(self.pidfd)  # before it is reaped
        try:
            _safe.waitid(_safe.P_PIDFD, self.pidfd, _safe.WEXITED)
        except ChildProcessError:
            pass  # other code has done it in this moment

    def _reap_lost(self, flags: int) -> None:
        """Other code has reaped it, or this is a forked copy of the creating process."""
        if not flags & os.WNOHANG:
            wait_readable(self.pidfd)
        elif not _system_calls.poll((self.pidfd,), 0):
            return
        status = _core.exit_status(self.pidfd)
        if status == NOT_REAPED and flags & os.WNOHANG:
            return
        if status >= 0:
            code = os.waitstatus_to_exitcode(status)
            self._set_end(End(code) if code < 0 else self._end_of(os.CLD_EXITED, code))
            return
        self._finish()
        self._close_witnesses()
        self.returncode = LOST_STATUS
        warnings.warn(
            f"another part of the program reaped process {self.pid}; its exit status is lost "
            f"(Linux 6.15 would keep it), returncode is {LOST_STATUS}",
            RuntimeWarning,
            stacklevel=5,
        )

    def _state(self) -> str:
        if not self._child_created:
            return "not started"
        if self.returncode is None:
            return f"pid {self.pid}, detached" if self._detached else f"pid {self.pid}, running when last looked at"
        if self.returncode >= 0:
            return f"pid {self.pid}, exited with status {self.returncode}"
        try:
            name = signal.Signals(-self.returncode).name
        except ValueError:
            name = f"signal {-self.returncode}"
        return f"pid {self.pid}, killed by {name}"


def _close_quietly(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:
        pass  # buffered input for a process that is gone
