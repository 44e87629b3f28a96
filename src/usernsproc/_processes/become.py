"""The calling program becomes a command: `execvp`."""

from __future__ import annotations

import math
import os
import resource
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from signal import SIGKILL

from .. import _core
from .._namespaces.new import create_with
from .._setup.calls import Setup
from .._spawn import Files, Namespaces, Program, Signals, error_of_start, setup_error
from .._typing import TYPE_CHECKING
from .._uapi import CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER
from .messages import messages
from .process import UsernsProcess

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, NoReturn

    from typing_extensions import Unpack

    from .._namespaces.namespace import Namespace
    from .options import ExecOptions

_NO_PIPES = "the command has the standard streams of this process: redirect them with os.dup2() before"
_NO_PARENT = "this process becomes the command, and its parent is not this program"
_NEEDS_CHILD = (
    "only the children of a process are in a new pid or time namespace: start one with UsernsProcess or run()"
)
_REFUSED = {
    **dict.fromkeys(("stdin", "stdout", "stderr"), _NO_PIPES),
    **dict.fromkeys(("bufsize", "pipesize", "text", "encoding", "errors", "universal_newlines"), _NO_PIPES),
    **dict.fromkeys(("init", "mount_proc"), _NEEDS_CHILD),
    "on_created": "there is no child: create the namespaces with UsernsProcess(), prepare them, and use join=",
    "pdeathsig": f"{_NO_PARENT}; for that one, call prctl(PR_SET_PDEATHSIG) in the command",
    "close_fds": "inheritable descriptors are inherited, as with os.execvp(): see os.set_inheritable()",
}
_LONGEST_NUMBER = 32
_NANOSECONDS, _LONGEST_TIME = 1_000_000_000, 2**63 - 1
_COERCED = (b"C.UTF-8", b"C.utf8", b"UTF-8")


def execvp(args: Any, **options: Unpack[ExecOptions]) -> NoReturn:
    """Replace this program by a command in a new or joined user namespace: `os.execvp`, like `unshare(1)`.

    The command has the PID, the parent, the process group, the session, the terminal, the standard streams and the
    inheritable descriptors of this process, which executes it. The other threads end, buffers of files are not
    flushed, and exit handlers are not called.

    Args:
        args: as in `UsernsProcess`: a list, whose first item is looked up in `PATH`, or one word.
        options: those of `UsernsProcess`, such as `env`, except the ones that concern pipes or a child: `stdin`,
            `stdout`, `stderr`, `text` and so on, `close_fds`, `on_created`, `pdeathsig`, `init`, `mount_proc`. The
            kinds `"pid"` and `"time"` are refused as well, new or joined.

    Differences from `os.execvp`:

    * `restore_signals` is true by default, as in `Popen`: `SIGPIPE` and `SIGXFSZ`, which Python ignores, have their
      default action.
    * An error that occurs after this program has ended is one line on standard error, which begins with `usernsproc:`,
      and an exit status: 125, or if it is the command that cannot be executed 126, or 127 if it is not found.

    The new user namespace exists, with its maps, before anything is changed, so the errors of maps are exceptions. When
    an exception is raised, this process is what it was before.

    Raises:
        IdMapError, IdMapPermissionError, CredentialsError, ValueError, TypeError: before anything is created.
        MapToolError: `newuidmap` or `newgidmap` failed.
        UsernsError: as `create_userns`; step `execveat`: programs may not be executed from memory.

    Linux 5.4. See `execve(2)`, `setns(2)`, `unshare(2)`.
    """
    for name, remedy in _REFUSED.items():
        value = options.get(name)
        if value is not None and value is not False:
            raise ValueError(f"{name}= has no meaning for execvp: {remedy}")
    if args is None:
        raise TypeError("execvp needs a command; a holder is a UsernsProcess without args")
    ExecutedCommand(args, False, {"pdeathsig": None, **options})
    raise AssertionError("an exception is raised, or nothing returns")


def become_in_foreground(
    args: Any,
    *,
    pdeathsig: int | None = SIGKILL,
    stays_above: bool = False,
    limits: tuple[float, float] = (0, 0),
    **options: Any,
) -> NoReturn:
    """As `execvp`, also where the command has to be a child of this process: then this process becomes a small program
    that follows the command, and exits with its status, or 128 + *n* if signal *n* ends it.

    The command is a child in new and joined pid and time namespaces, in a new session, and with a time limit.

    Args:
        pdeathsig: what a child gets when that program ends.
        stays_above: the command is a child in any case.
        limits: seconds until the command gets `SIGTERM`, and from then on until it gets `SIGKILL`; 0: no limit. The
            exit status is then that of `timeout(1)`.
        words: for each step of `setup`, the option of the command line that it comes from.
    """
    if options.get("env") is None:
        options["env"] = _environment()
    options |= {"pdeathsig": pdeathsig, "stays_above": stays_above, "limits": limits}
    ExecutedCommand(args, True, options)
    raise AssertionError("an exception is raised, or nothing returns")


def _environment() -> dict[bytes, bytes]:
    """Without the variable that Python adds in the C locale (PEP 538), for programs that it starts."""
    environment = dict(os.environb)
    if environment.get(b"LC_CTYPE") in _COERCED:
        with (
            suppress(OSError),
            _core.open_proc("self/environ", os.O_RDONLY) as fd,
            open(fd, "rb", closefd=False) as file,
        ):
            if b"LC_CTYPE" not in (pair.partition(b"=")[0] for pair in file.read().split(b"\0")):
                del environment[b"LC_CTYPE"]
    return environment


class ExecutedCommand(UsernsProcess[bytes]):
    """What the process is to become: the parameters are checked as those of a child."""

    def __init__(self, args: Any, in_foreground: bool, options: dict[str, Any]) -> None:
        self._in_foreground = in_foreground
        self._limits = [min(math.ceil(limit * _NANOSECONDS), _LONGEST_TIME) for limit in options.pop("limits", (0, 0))]
        self._stays = bool(options.pop("stays_above", False) or self._limits[0] or options.get("start_new_session"))
        self._kept, self._words = options.pop("pass_fds", ()), options.pop("words", ())
        options["close_fds"] = False
        super().__init__(args, **options)

    def _needs_child(self) -> bool:
        flags, joins, *_ = self._namespaces
        kinds = flags
        for kind in joins[1::2]:
            kinds |= kind & CLONE_NEWPID
        needs_child = bool(kinds & (CLONE_NEWPID | CLONE_NEWTIME))
        if self._in_foreground:
            return needs_child or self._stays
        if needs_child:
            raise ValueError(f"pid and time namespaces have no meaning for execvp: {_NEEDS_CHILD}")
        return False

    def _start_child(self, *values: Any) -> None:
        pipes, given, ids, attributes, env, restore_signals, close_fds, _ = values
        super()._start_child(pipes, given, ids, attributes, env, restore_signals, close_fds, self._kept)

    def _start(self, program: Program | None, files: Files, setup: Setup) -> None:
        assert program is not None
        flags, joins, owner, init = self._namespaces
        is_new, is_monitored = bool(flags & CLONE_NEWUSER), self._needs_child()
        compiled, mask = self._plan.compiled, None
        with ExitStack() as opened:
            if is_new:
                userns = opened.enter_context(create_with(self._maps, owner))
                program = self._with_variables(program, userns)
                flags, joins = flags & ~CLONE_NEWUSER, (*joins, userns.fileno(), CLONE_NEWUSER)
            if compiled is not None:
                mask = compiled.signal_mask
                opened.enter_context(_put_back_on_failure())
                for origin, action in compiled.in_parent:
                    try:  # of the calling thread, which is the one that stays; the out-of-memory score is the process'
                        action(os.getpid() if origin.call == "write" else threading.get_native_id())
                    except OSError as error:
                        raise setup_error(origin, error.errno or 0) from None
            sys.audit("os.exec", program[-1], program[0], program[2])
            try:
                _core.become(
                    Namespaces(flags, joins, init=init),
                    (None, None, None),
                    program,
                    files,
                    setup,
                    Signals(mask, self._death_signal),
                    (0, -1),
                    self._cgroup,
                    messages(program, setup, self._cgroup, self._words),
                    is_monitored,
                    is_new,
                    *self._limits,
                )
            except _core.Failure as failure:
                raise error_of_start(failure, program, setup, self._cgroup) from None

    def _variables(self, userns: tuple[int, int]) -> tuple[str, ...]:  # noqa: ARG002, for a subclass
        """What the environment gets in addition, in a new user namespace with this device and inode."""
        return ()

    def _with_variables(self, program: Program, userns: Namespace) -> Program:
        argv, candidates, envp, restores_signals, filename = program
        more = tuple(map(os.fsencode, self._variables((userns.device, userns.inode))))
        if not more:
            return program
        names = tuple(variable.partition(b"=")[0] + b"=" for variable in more)
        given = tuple(b"=".join(pair) for pair in os.environb.items()) if envp is None else envp
        kept = tuple(variable for variable in given if not variable.startswith(names))
        return Program(argv, candidates, kept + more, restores_signals, filename)


# ---- what a caller sets of itself, because the launcher could not any more ----


@contextmanager
def _put_back_on_failure() -> Generator[None]:
    """Set-up steps of which the parent does a part change this process itself before it is replaced."""
    kinds = {which for name, which in vars(resource).items() if name.startswith("RLIMIT_")}
    limits = [(which, resource.getrlimit(which)) for which in kinds]
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    cpus, nice = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    with _core.open_proc("self/oom_score_adj", os.O_RDONLY) as file:
        score = os.read(file, _LONGEST_NUMBER)
    try:
        yield
    except BaseException:
        with suppress(OSError), _core.open_proc("self/oom_score_adj", os.O_WRONLY) as file:
            os.write(file, score)
        with suppress(OSError):
            os.sched_setaffinity(0, cpus)
            os.sched_setscheduler(0, policy, parameters)
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        for which, limit in limits:
            with suppress(OSError, ValueError):
                resource.setrlimit(which, limit)
        raise
