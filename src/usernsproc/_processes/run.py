"""`run`, `call`, `check_call` and `check_output`: as in `subprocess`, in a new user namespace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

from .. import PIPE, CalledProcessError, CompletedProcess, TimeoutExpired
from .._spawn import GaveUp, Patience
from .ended_by import NOTES
from .process import UsernsProcess

if TYPE_CHECKING:
    from typing import AnyStr, Literal  # noqa: F401, AnyStr is named in a base class

    from typing_extensions import Unpack

    from .ended_by import EndedBy
    from .options import CallOptions, OutputOptions, RunOptions

__all__ = ["CompletedCommand", "call", "check_call", "check_output", "run"]


class CompletedCommand(CompletedProcess["AnyStr"]):
    """How a command ended: a `CompletedProcess`, and `ended_by`."""

    ended_by: EndedBy | None = None
    """The limit that ended the command, or `None`; see `UsernsProcess.ended_by`."""

    @classmethod
    def of(cls, process: UsernsProcess[Any], stdout: Any, stderr: Any) -> CompletedCommand[Any]:
        completed = CompletedCommand[Any](process.args, process.returncode, stdout, stderr)
        completed.ended_by = process.ended_by
        return completed

    def __repr__(self) -> str:
        shown = super().__repr__()
        return shown if self.ended_by is None else f"{shown[:-1]}, ended_by={self.ended_by!r})"


def raise_if_failed(process: UsernsProcess[Any], stdout: Any = None, stderr: Any = None) -> None:
    """Raise a `CalledProcessError`, with the attribute `ended_by` and a note if a limit ended the command."""
    if not process.returncode:
        return
    error = CalledProcessError(process.returncode, process.args, output=stdout, stderr=stderr)
    error.ended_by = process.ended_by  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    if process.ended_by is not None:
        error.add_note(NOTES[process.ended_by])
    raise error


@overload
def run(
    args: Any,
    *popen_args: Any,
    text: Literal[True],
    encoding: str | None = None,
    errors: str | None = None,
    input: str | None = None,
    **options: Unpack[RunOptions],
) -> CompletedCommand[str]: ...
@overload
def run(
    args: Any,
    *popen_args: Any,
    universal_newlines: Literal[True],
    encoding: str | None = None,
    errors: str | None = None,
    input: str | None = None,
    **options: Unpack[RunOptions],
) -> CompletedCommand[str]: ...
@overload
def run(
    args: Any,
    *popen_args: Any,
    encoding: str,
    errors: str | None = None,
    text: bool | None = None,
    input: str | None = None,
    **options: Unpack[RunOptions],
) -> CompletedCommand[str]: ...
@overload
def run(
    args: Any,
    *popen_args: Any,
    errors: str,
    encoding: str | None = None,
    text: bool | None = None,
    input: str | None = None,
    **options: Unpack[RunOptions],
) -> CompletedCommand[str]: ...
@overload
def run(
    args: Any,
    *popen_args: Any,
    text: Literal[False] | None = None,
    universal_newlines: Literal[False] | None = None,
    encoding: None = None,
    errors: None = None,
    input: Any = None,
    **options: Unpack[RunOptions],
) -> CompletedCommand[bytes]: ...
@overload
def run(
    args: Any,
    *popen_args: Any,
    text: bool | None = None,
    universal_newlines: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    input: Any = None,
    **options: Unpack[RunOptions],
) -> CompletedCommand[Any]: ...
def run(
    args: Any,
    *popen_args: Any,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    max_output: int | None = None,
    **options: Any,
) -> CompletedCommand[Any]:
    """Run a command in a new user namespace, wait for it, and return how it ended.

    As `subprocess.run`, with the parameters of `UsernsProcess` in addition. When
    the timeout passes, or anything else interrupts it, the command is killed and
    reaped.

    Args:
        input: bytes for standard input, or a string in text mode.
        capture_output: collect standard output and error in the result.
        timeout: in seconds, for the creation of the process and the command together.
        check: raise when the return code is not 0.
        max_output: bytes; the most that is kept of standard output, and of standard
            error, if they are captured. `None`: no limit.

    Raises:
        CalledProcessError: with *check*; it has `ended_by` too.
        TimeoutExpired: with what was captured so far.
        OutputLimitExceeded: *max_output* was exceeded; the command was killed. With
            what was captured so far.
        ValueError: *input* with *stdin*, *capture_output* with *stdout* or
            *stderr*, *max_output* if nothing is captured; and what `UsernsProcess`
            raises.
    """
    options = {**options, "input": input, "capture_output": capture_output}
    return _run(args, popen_args, options, timeout=timeout, check=check, max_output=max_output)


def call(args: Any, *popen_args: Any, timeout: float | None = None, **options: Unpack[CallOptions]) -> int:
    """Run a command and give its return code; as `subprocess.call`.

    Raises:
        TimeoutExpired: *timeout* seconds have passed; the command was killed.
    """
    return _called(args, popen_args, options, timeout).returncode


def _called(
    args: Any, popen_args: tuple[Any, ...], options: Mapping[str, Any], timeout: float | None
) -> UsernsProcess[Any]:
    _refuse_holder(args)
    patience = Patience.of(timeout)
    with _created(patience, timeout, args, popen_args, options) as process:
        try:
            process.wait(patience.left())
            return process
        except TimeoutExpired as expired:
            process.kill()
            raise _as_asked(expired, timeout) from None
        except BaseException:
            process.kill()
            raise


def check_call(args: Any, *popen_args: Any, timeout: float | None = None, **options: Unpack[CallOptions]) -> int:
    """Run a command that has to succeed; as `subprocess.check_call`.

    Raises:
        CalledProcessError: the return code is not 0.
        TimeoutExpired: *timeout* seconds have passed; the command was killed.
    """
    raise_if_failed(_called(args, popen_args, options, timeout))
    return 0


@overload
def check_output(
    args: Any,
    *popen_args: Any,
    text: Literal[True],
    encoding: str | None = None,
    errors: str | None = None,
    input: str | None = None,
    timeout: float | None = None,
    **options: Unpack[OutputOptions],
) -> str: ...
@overload
def check_output(
    args: Any,
    *popen_args: Any,
    universal_newlines: Literal[True],
    encoding: str | None = None,
    errors: str | None = None,
    input: str | None = None,
    timeout: float | None = None,
    **options: Unpack[OutputOptions],
) -> str: ...
@overload
def check_output(
    args: Any,
    *popen_args: Any,
    encoding: str,
    errors: str | None = None,
    text: bool | None = None,
    input: str | None = None,
    timeout: float | None = None,
    **options: Unpack[OutputOptions],
) -> str: ...
@overload
def check_output(
    args: Any,
    *popen_args: Any,
    errors: str,
    encoding: str | None = None,
    text: bool | None = None,
    input: str | None = None,
    timeout: float | None = None,
    **options: Unpack[OutputOptions],
) -> str: ...
@overload
def check_output(
    args: Any,
    *popen_args: Any,
    text: Literal[False] | None = None,
    universal_newlines: Literal[False] | None = None,
    encoding: None = None,
    errors: None = None,
    input: Any = None,
    timeout: float | None = None,
    **options: Unpack[OutputOptions],
) -> bytes: ...
@overload
def check_output(
    args: Any,
    *popen_args: Any,
    text: bool | None = None,
    universal_newlines: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    input: Any = None,
    timeout: float | None = None,
    **options: Unpack[OutputOptions],
) -> Any: ...
def check_output(
    args: Any, *popen_args: Any, timeout: float | None = None, max_output: int | None = None, **options: Any
) -> Any:
    """Run a command that has to succeed and give its standard output; as `subprocess.check_output`.

    Raises:
        CalledProcessError: the return code is not 0; `output` has what it printed.
        TimeoutExpired: *timeout* seconds have passed; the command was killed.
        OutputLimitExceeded: the command printed more than *max_output* bytes; it was killed.
        ValueError: *stdout* or *check* is given.
    """
    set_pipes_of_check_output(options)
    return _run(args, popen_args, options, timeout=timeout, check=True, max_output=max_output).stdout


def set_pipes_of_check_output(options: dict[str, Any]) -> None:
    """In *options*. Standard input is empty by default."""
    for name in ("stdout", "check"):
        if name in options:
            raise ValueError(f"{name} argument not allowed, it will be overridden.")
    if "input" in options and options["input"] is None:
        # As subprocess has it: no input is an empty one here.
        text = any(options.get(name) for name in ("text", "encoding", "errors", "universal_newlines"))
        options["input"] = "" if text else b""
    options["stdout"] = PIPE


def set_pipes(args: Any, options: dict[str, Any]) -> Any:
    """Replace the parameters that `UsernsProcess` does not have, and return the input."""
    _refuse_holder(args)
    input = options.pop("input", None)
    if input is not None:
        if options.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        options["stdin"] = PIPE
    if options.pop("capture_output", False):
        if options.get("stdout") is not None or options.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        options["stdout"] = options["stderr"] = PIPE
    return input


def _run(
    args: Any,
    popen_args: tuple[Any, ...],
    options: dict[str, Any],
    *,
    timeout: float | None,
    check: bool,
    max_output: int | None,
) -> CompletedCommand[Any]:
    input = set_pipes(args, options)
    if max_output is not None:
        from .output_limit import checked_limit  # rarely needed

        max_output = checked_limit(max_output, options)
    patience = Patience.of(timeout)
    with _created(patience, timeout, args, popen_args, options) as process:
        stdout, stderr = _communicate(process, input, patience, timeout, max_output)
    if check:
        raise_if_failed(process, stdout, stderr)
    return CompletedCommand[Any].of(process, stdout, stderr)


def _created(
    patience: Patience, timeout: float | None, args: Any, popen_args: tuple[Any, ...], options: Mapping[str, Any]
) -> UsernsProcess[Any]:
    """The timeout is that of creation, too, which may wait for others: a frozen cgroup, a file
    system of a container, `newuidmap`."""
    try:
        return UsernsProcess._within(patience, args, *popen_args, **options)
    except GaveUp as gave_up:
        assert timeout is not None
        expired = TimeoutExpired(args, timeout)
        notes: list[str] = getattr(gave_up, "__notes__", [])
        for note in (f"The command was not started: step {gave_up.args[0]} took too long.", *notes):
            expired.add_note(note)
        raise expired from None


def _as_asked(expired: TimeoutExpired, timeout: float | None) -> TimeoutExpired:
    """It names what was left after the creation."""
    if timeout is not None:
        expired.timeout = timeout
    return expired


def _communicate(
    process: UsernsProcess[Any], input: Any, patience: Patience, timeout: float | None, max_output: int | None
) -> tuple[Any, Any]:
    try:
        if max_output is not None:
            from .output_limit import communicate

            return communicate(process, input, patience, max_output)
        return process.communicate(input, timeout=patience.left())
    except TimeoutExpired as expired:
        process.kill()
        process.wait()
        raise _as_asked(expired, timeout) from None
    except BaseException:
        process.kill()
        raise  # leaving the block of the process waits for it


def _refuse_holder(args: Any) -> None:
    if args is None:
        raise TypeError("a command is needed; a holder is made with UsernsProcess()")
