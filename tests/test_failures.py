"""Every failure is reported exactly, with its step, and leaves nothing behind.

Limits, namespaces and filters would affect the test runner as well, so the programs run in separate processes.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from alone import run_alone
from commands import SLEEP
from kinds import ALL_KINDS, DIRECT, ENDS_WITHIN, MISSING, SHIFTED, WITH_IDS, failure_of
from programs import failures, faults
from unprivileged import as_unprivileged_user

from usernsproc import UsernsError, UsernsProcess

NR_CLOSE_RANGE, NR_CLONE3 = 436, 435

each_way_to_run = pytest.mark.parametrize("options", [DIRECT, WITH_IDS], ids=["direct", "with ids"])
each_kind = pytest.mark.parametrize("kind", ALL_KINDS)


# ---- what cannot be executed: as Popen has it ----


class Attempt(NamedTuple):
    args: Any
    step: str
    options: dict[str, Any]


def make_files(folder: Path) -> None:
    (folder / "plain").write_text("no program\n")
    (folder / "orphan").write_text("#!/nonexistent/interpreter\n")
    (folder / "format").write_bytes(b"\x7fELF but no more\n")
    for name in ("orphan", "format"):
        (folder / name).chmod(0o755)


def attempts(folder: Path) -> dict[str, Attempt]:
    path = {"env": {"PATH": f"/nonexistent:{folder}"}}
    return {
        "missing": Attempt([MISSING], "exec", {}),
        "missing, as a word": Attempt(MISSING, "exec", {}),
        "missing, as bytes": Attempt([os.fsencode(MISSING)], "exec", {}),
        "missing in PATH": Attempt(["no-such-program"], "exec", {}),
        "missing in the PATH of env": Attempt(["no-such-program"], "exec", path),
        "not executable": Attempt([f"{folder}/plain"], "exec", {}),
        "not executable in PATH": Attempt(["plain"], "exec", path),
        "a directory": Attempt([str(folder)], "exec", {}),
        "below a file": Attempt([f"{folder}/plain/x"], "exec", {}),
        "no interpreter": Attempt([f"{folder}/orphan"], "exec", {}),
        "no format": Attempt([f"{folder}/format"], "exec", {}),
        "executable": Attempt(["x"], "exec", {"executable": MISSING}),
        "no shell": Attempt("exit 0", "exec", {"shell": True, "executable": MISSING}),
        "cwd missing": Attempt(SLEEP, "chdir", {"cwd": "/nonexistent"}),
        "cwd a Path": Attempt(SLEEP, "chdir", {"cwd": Path("/nonexistent")}),
        "cwd a file": Attempt(SLEEP, "chdir", {"cwd": str(folder / "plain")}),
        "cwd and program missing": Attempt([MISSING], "chdir", {"cwd": "/nonexistent"}),
    }


@each_way_to_run
@pytest.mark.parametrize("name", attempts(Path()))
def test_what_cannot_be_started_fails_as_with_popen(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The same builtin exception, errno, message and file name; and the step."""
    make_files(tmp_path)
    attempt = attempts(tmp_path)[name]
    theirs = failure_of(subprocess.Popen, attempt.args, **attempt.options)
    ours = failure_of(UsernsProcess, attempt.args, **attempt.options, **options)
    assert isinstance(ours, type(theirs))
    assert (ours.errno, ours.strerror, ours.filename) == (theirs.errno, theirs.strerror, theirs.filename)
    assert isinstance(ours, UsernsError)
    assert ours.step == attempt.step
    assert str(ours).startswith(f"{attempt.step}: {theirs.strerror}")


def test_a_missing_program_is_a_file_not_found_error_in_a_thread_too() -> None:
    """Neither the child nor its keeper thread is left."""
    found: list[OSError] = []
    thread = threading.Thread(target=lambda: found.append(failure_of(UsernsProcess, [MISSING], **DIRECT)))
    thread.start()
    thread.join()
    assert isinstance(found[0], FileNotFoundError)
    assert found[0].filename == MISSING


@each_way_to_run
def test_pipes_of_a_program_that_is_missing_are_closed(options: dict[str, Any]) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    assert isinstance(failure_of(UsernsProcess, [MISSING], **pipes, **options), FileNotFoundError)


@pytest.mark.root
def test_a_directory_that_inside_root_may_not_enter(tmp_path: Path) -> None:
    """With other IDs even root's child needs permission. (Popen's child would be root in the initial namespace.)"""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    error = failure_of(UsernsProcess, SLEEP, cwd=closed, **SHIFTED)
    assert isinstance(error, PermissionError)
    assert isinstance(error, UsernsError)
    assert (error.errno, error.filename, error.step) == (errno.EACCES, closed, "chdir")


def test_a_directory_that_an_unprivileged_user_may_not_enter() -> None:
    """The same exception, errno and file name as with Popen."""
    as_unprivileged_user(failures.a_closed_directory)


# ---- limits ----


@each_kind
def test_the_limit_of_descriptors_reached_at_every_count(kind: str) -> None:
    steps = run_alone(failures.limit_of_descriptors, kind).split()
    of_images = {"prepare", "memfd_create", "pidfd_open"}
    assert steps[0] in {*of_images, "open_proc"}
    assert set(steps) <= {*of_images, "clone", "open_proc", "setgroups", "uid_map", "gid_map", "open_ns", "stdio"}


def test_the_limit_of_a_files_size() -> None:
    run_alone(failures.limit_of_a_files_size)


def test_the_limit_of_processes() -> None:
    run_alone(failures.limit_of_processes)


def test_the_limit_of_processes_in_a_thread() -> None:
    """There the keeper thread cannot be created."""
    run_alone(failures.limit_of_processes_in_a_thread)


def test_user_namespaces_forbidden_by_their_limit() -> None:
    run_alone(failures.user_namespaces_forbidden)


def test_user_namespaces_nested_too_deep() -> None:
    assert 0 < int(run_alone(failures.nest_too_deep)) <= failures.DEEPEST


# ---- environment ----


def test_in_a_chroot(tmp_path: Path) -> None:
    run_alone(failures.in_a_chroot, str(tmp_path))


def test_without_proc() -> None:
    """ID maps can only be written through it; a holder without maps does not need it."""
    run_alone(failures.without_proc)


def test_the_proc_that_was_proven_is_used_whatever_covers_it_later() -> None:
    """From Linux 6.8 on, where a mount can be recognized."""
    run_alone(failures.proc_is_covered_later)


def test_a_process_cannot_be_looked_at_without_proc() -> None:
    """Except for its namespaces, which its pidfd leads to (Linux 6.11)."""
    run_alone(failures.look_without_proc)


@pytest.mark.root
def test_a_process_that_changed_its_ids_and_is_not_dumpable() -> None:
    """The files of its children in /proc belong to root: the error has the remedy. For a holder, and a command with
    other IDs, the maps can be written, because they have executed a program by then."""
    run_alone(failures.not_dumpable)


def test_no_new_privileges_take_nothing_away_inside() -> None:
    """In services and containers with NoNewPrivileges a command has its usual capabilities."""
    run_alone(failures.without_new_privileges)


# ---- refused system calls ----

each_refusal = pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=["ENOSYS", "EPERM"])


@each_refusal
def test_descriptors_are_closed_without_close_range(error: int) -> None:
    """Linux before 5.9, or a filter that does not know it. They are closed one by one."""
    run_alone(failures.refuse, NR_CLOSE_RANGE, error)


@each_refusal
def test_clone3_is_not_needed(error: int) -> None:
    """Filters cannot inspect its arguments, so they refuse it."""
    run_alone(failures.refuse, NR_CLONE3, error)


@each_refusal
def test_without_pidfds_nothing_is_started(error: int) -> None:
    run_alone(failures.without_pidfds, error)


@pytest.mark.parametrize("name", ["namespace", "missing"])
def test_no_call_waits_for_a_child_that_it_could_not_kill(name: str) -> None:
    """A filter refuses `pidfd_send_signal(2)`."""
    run_alone(failures.without_pidfd_send_signal, name, timeout=ENDS_WITHIN)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_program_may_close_the_image_that_stays_open(replaced: bool) -> None:
    """Then each command has its own image, and another file with that number is not touched."""
    run_alone(failures.lose_the_shared_image, replaced)


@pytest.mark.root
def test_where_memory_is_not_executable() -> None:
    """vm.memfd_noexec=2 (Linux 6.3), which is set for one PID namespace: an unlinked file serves, with a warning;
    if the warning is an error, nothing is left; and if no file system allows it either, that is reported."""
    run_alone(failures.without_executable_memory)


# ---- every system call, failing once ----


@each_kind
def test_every_system_call_failing_once(kind: str) -> None:
    """It is an error with its step and the errno, or the requested object is there nevertheless. Nothing is left, and
    the next call works."""
    struck = dict(line.rsplit(maxsplit=1) for line in run_alone(faults.each_fault, kind).splitlines())
    assert int(struck["clone:error=EAGAIN"]) + int(struck["clone3:error=EAGAIN"]) > 0
    assert int(struck["openat2:error=EMFILE"]) > 2


@each_kind
def test_a_child_that_is_killed_at_any_time(kind: str) -> None:
    """It is reported as a process that has exited, never as another cause; or it was started, and was killed."""
    assert int(run_alone(faults.children_killed, kind)) > 0


@pytest.mark.parametrize("kind", [name for name in ALL_KINDS if "joins" in name])
def test_a_child_that_is_stopped_while_it_joins(kind: str) -> None:
    """It is continued; the call does not wait forever."""
    assert int(run_alone(faults.children_stopped, kind)) > 2


def test_the_process_that_reads_the_maps_is_stopped() -> None:
    """Its parent, which is the only process that is notified, continues it."""
    assert int(run_alone(faults.children_stopped, "maps")) > 0
