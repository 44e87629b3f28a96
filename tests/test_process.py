"""A command in a new user namespace, with all features of `Popen`."""

from __future__ import annotations

import os
import pickle
import select
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from alone import run_alone
from commands import sleeping
from programs import process as programs

from usernsproc import DEVNULL, PIPE, STDOUT, IdMap, IdMapError, Namespace, TimeoutExpired, UsernsError, UsernsProcess

OWN_UID, OWN_GID = os.geteuid(), os.getegid()
FOREVER = ["sleep", "1000"]
SHIFTED: dict[str, Any] = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}


def output_of(command: Any, **options: Any) -> str:
    with UsernsProcess(command, stdout=PIPE, text=True, **options) as process:
        assert process.stdout is not None
        output: str = process.stdout.read()
    assert process.returncode == 0
    return output


def status_field(name: str, **options: Any) -> list[str]:
    fields = dict(line.split(":", 1) for line in output_of(["cat", "/proc/self/status"], **options).splitlines())
    return fields[name].split()


class EqualToAll(list[Any]):
    """Equal to everything, like `unittest.mock.ANY`, or like an array."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None


# ---- arguments ----


def test_several_are_iterated_whatever_they_are_equal_to() -> None:
    with sleeping(uid_map="root", namespaces=EqualToAll(["uts"])) as process:
        with process.namespace("uts") as made, Namespace.current("uts") as own:
            assert made != own
        with (
            sleeping(join=EqualToAll([process])) as joined,
            joined.namespace() as theirs,
            process.namespace() as userns,
        ):
            assert theirs == userns
    ambient = status_field("CapAmb", uid_map="current", ambient_caps=EqualToAll([0]))
    assert [int(word, 16) for word in ambient] == [1]


def test_a_number_outside_the_c_type_names_the_parameter() -> None:
    with pytest.raises(OverflowError, match="^umask does not fit"):
        UsernsProcess(["true"], uid_map="root", umask=2**40)


@pytest.mark.root
def test_an_object_that_is_initialized_again_has_nothing_of_the_first_time() -> None:
    with UsernsProcess(["true"], owner=1000, **SHIFTED) as process:
        pass
    process.__init__(["true"])  # type: ignore[misc]
    with process:
        assert process.wait() == 0


# ---- maps and IDs ----


def test_root_maps_the_callers_id_to_0() -> None:
    assert output_of(["id", "-u"], uid_map="root") == "0\n"
    assert output_of(["cat", "/proc/self/uid_map"], uid_map="root").split() == ["0", str(OWN_UID), "1"]
    assert output_of(["cat", "/proc/self/gid_map"], uid_map="root").split() == ["0", str(OWN_GID), "1"]


def test_current_keeps_the_callers_id() -> None:
    assert output_of(["id", "-u"], gid_map="current") == f"{OWN_UID}\n"


def test_without_a_map_it_runs_unmapped() -> None:
    assert output_of(["id", "-u"]) == "65534\n"
    assert output_of(["cat", "/proc/self/uid_map"]) == ""


@pytest.mark.root
def test_a_command_whose_own_id_is_not_mapped_becomes_inside_root() -> None:
    """Otherwise it would have the overflow ID and could not create files."""
    assert output_of(["id", "-u"], **SHIFTED) == "0\n"
    assert status_field("Uid", **SHIFTED) == ["0"] * 4
    assert status_field("Gid", **SHIFTED) == ["0"] * 4
    assert status_field("Groups", **SHIFTED) == []


@pytest.mark.root
def test_inside_root_has_all_capabilities_and_no_ambient_ones() -> None:
    all_capabilities = status_field("CapBnd", **SHIFTED)
    assert status_field("CapEff", **SHIFTED) == all_capabilities
    for name in ("CapInh", "CapAmb"):
        assert int(status_field(name, **SHIFTED)[0], 16) == 0


@pytest.mark.root
def test_user_group_and_extra_groups_are_ids_inside() -> None:
    options = {**SHIFTED, "user": 5, "group": 6, "extra_groups": [7, 8]}
    assert status_field("Uid", **options) == ["5"] * 4
    assert status_field("Gid", **options) == ["6"] * 4
    assert status_field("Groups", **options) == ["7", "8"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status_field(name, **options)[0], 16) == 0


@pytest.mark.root
def test_ids_above_2_to_the_31_work() -> None:
    high = 2**32 - 2
    options: dict[str, Any] = {"uid_map": f"{high}:{high}:1", "gid_map": f"{high}:{high}:1", "user": high}
    assert output_of(["id", "-u"], **options, group=high) == f"{high}\n"


@pytest.mark.root
def test_files_created_inside_belong_to_the_outside_id(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == 0 and folder.name.startswith("pytest"):
            folder.chmod(0o755)
    assert UsernsProcess(["touch", str(tmp_path / "file")], **SHIFTED, user=3).wait() == 0
    assert (tmp_path / "file").stat().st_uid == 100003


def test_explicit_ids_with_the_root_preset() -> None:
    assert output_of(["id", "-u"], uid_map="root", user=0, group=0) == "0\n"


def test_an_id_that_is_not_mapped_is_refused_before_anything_exists() -> None:
    with pytest.raises(ValueError, match="user=5 is not mapped by 0:"):
        UsernsProcess(["true"], uid_map="root", user=5)
    with pytest.raises(ValueError, match="group=5 is not mapped"):
        UsernsProcess(["true"], uid_map="root", group=5)
    with pytest.raises(ValueError, match="no id is mapped"):
        UsernsProcess(["true"], user=0)


@pytest.mark.root
def test_a_map_with_neither_the_callers_id_nor_0_needs_a_user() -> None:
    with pytest.raises(ValueError, match="neither is inside 0"):
        UsernsProcess(["true"], uid_map="5:5:1", gid_map="root")
    assert output_of(["id", "-u"], uid_map="5:5:1", gid_map="root", user=5) == "5\n"


@pytest.mark.root
def test_groups_that_could_not_be_dropped_are_refused() -> None:
    """They are not kept silently."""
    run_alone(programs.groups_are_not_left_in_place)


def test_extra_groups_cannot_be_set_where_setgroups_is_denied() -> None:
    with pytest.raises(ValueError, match='setgroups is "deny"'):
        UsernsProcess(["true"], uid_map="root", setgroups="deny", extra_groups=[0])


def test_a_bad_map_is_refused_before_anything_exists() -> None:
    with pytest.raises(IdMapError, match="0:4294967296:1"):
        UsernsProcess(["true"], uid_map="0:4294967296:1", gid_map="root")


def test_the_maps_are_read_back_from_the_kernel() -> None:
    with UsernsProcess(FOREVER, uid_map="root", gid_map="current") as process:
        assert process.uid_map == IdMap([(0, OWN_UID, 1)])
        assert process.gid_map == IdMap([(OWN_GID, OWN_GID, 1)])
        process.kill()


# ---- features of Popen ----


def test_pipes_in_and_out() -> None:
    with UsernsProcess(["cat"], stdin=PIPE, stdout=PIPE, uid_map="root") as process:
        assert process.communicate(b"through")[0] == b"through"


def test_text_and_merged_errors() -> None:
    process = UsernsProcess("echo out; echo err >&2", shell=True, stdout=PIPE, stderr=STDOUT, text=True, uid_map="root")
    assert process.communicate()[0] == "out\nerr\n"


def test_devnull() -> None:
    assert UsernsProcess(["sh", "-c", "echo nothing; ! read line"], stdin=DEVNULL, stdout=DEVNULL).wait() == 0


def test_communicate_keeps_its_timeout() -> None:
    with UsernsProcess(FOREVER, stdout=PIPE) as process:
        with pytest.raises(TimeoutExpired) as caught:
            process.communicate(timeout=0.05)
        assert caught.value.cmd == FOREVER
        process.kill()


def test_the_environment_is_inherited_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERNSPROC_TEST", "now")
    assert "USERNSPROC_TEST=now\n" in output_of(["env"])


@pytest.mark.parametrize("options", [{}, pytest.param(SHIFTED, marks=pytest.mark.root)])
def test_a_given_environment_is_the_whole_environment(options: dict[str, Any]) -> None:
    env = {"A": "1", b"B": b"\xff"}
    output = UsernsProcess(["/usr/bin/env"], env=env, stdout=PIPE, **options).communicate()[0]
    assert output == b"A=1\nB=\xff\n"


@pytest.mark.parametrize("options", [{}, pytest.param(SHIFTED, marks=pytest.mark.root)])
def test_arguments_arrive_as_they_are(options: dict[str, Any]) -> None:
    words = ["a b", "", "ü", "x" * 100_000]
    output = output_of(["printf", "%s\\n", *words], **options)
    assert output.split("\n")[:-1] == words


def test_an_executable_of_another_name() -> None:
    assert output_of(["other-name", "-c", "echo $0"], executable="/bin/sh") == "other-name\n"


def test_the_path_is_that_of_the_given_environment(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    assert output_of(["program"], env={"PATH": str(tmp_path)}) == "found\n"


@pytest.mark.parametrize("as_path", [str, os.fsencode, Path])
def test_cwd(tmp_path: Path, as_path: Callable[[str], Any]) -> None:
    assert output_of(["pwd"], cwd=as_path(str(tmp_path))) == f"{tmp_path}\n"


def test_umask_session_and_process_group() -> None:
    assert output_of("umask", shell=True, umask=0o27) == "0027\n"
    read_stat = ["sh", "-c", "read -r line </proc/self/stat; echo $line"]
    pid, _, _, _, group, session, *_ = output_of(read_stat, start_new_session=True).split()
    assert pid == group == session
    pid, _, _, _, group, session, *_ = output_of(read_stat, process_group=0).split()
    assert pid == group
    assert session != pid


def test_signals_that_python_ignores_are_restored() -> None:
    ignored = int(status_field("SigIgn")[0], 16)
    assert not ignored & 1 << signal.SIGPIPE - 1
    ignored = int(status_field("SigIgn", restore_signals=False)[0], 16)
    assert ignored & 1 << signal.SIGPIPE - 1


def test_a_handler_of_the_parent_is_not_inherited() -> None:
    previous = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        assert int(status_field("SigCgt")[0], 16) & 1 << signal.SIGUSR1 - 1 == 0
    finally:
        signal.signal(signal.SIGUSR1, previous)


@pytest.mark.parametrize("options", [{}, pytest.param(SHIFTED, marks=pytest.mark.root)])
def test_no_descriptor_but_0_1_2_and_those_passed(options: dict[str, Any]) -> None:
    """Also with many inheritable ones, and gaps between the passed ones."""
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
    for fd in opened:
        os.set_inheritable(fd, True)
    passed = opened[::7]
    try:
        output = output_of(["ls", "/proc/self/fd"], pass_fds=passed, **options)
    finally:
        for fd in opened:
            os.close(fd)
    listed = {int(name) for name in output.split()}
    assert listed - set(passed) == {0, 1, 2, min(set(range(3, 100)) - set(passed))}  # the last one: ls itself
    assert set(passed) <= listed


@pytest.mark.parametrize("options", [{}, pytest.param(SHIFTED, marks=pytest.mark.root)])
def test_without_close_fds_inheritable_descriptors_are_inherited_and_no_others(options: dict[str, Any]) -> None:
    inheritable, private = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inheritable, True)
    try:
        output = output_of(
            ["sh", "-c", f"test -e /proc/self/fd/{inheritable} && ! test -e /proc/self/fd/{private} && echo right"],
            close_fds=False,
            **options,
        )
    finally:
        os.close(inheritable)
        os.close(private)
    assert output == "right\n"


@pytest.mark.parametrize("options", [{}, pytest.param(SHIFTED, marks=pytest.mark.root)])
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2), (0, 2)])
def test_stdio_is_right_when_the_parent_has_its_own_closed(options: dict[str, Any], closed: tuple[int, ...]) -> None:
    """Pipes, pidfd and the rest then get the numbers 0, 1 and 2."""
    run_alone(programs.stdio_while_own_is_closed, options, closed)


def test_a_signal_is_a_number() -> None:
    with pytest.raises(TypeError, match="pdeathsig is a signal number or None, not 'SIGKILL'"):
        UsernsProcess(["true"], uid_map="root", pdeathsig=cast("Any", "SIGKILL"))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"preexec_fn": print}, "preexec_fn"),
        ({"pass_fds": [-1]}, "pass_fds"),
        ({"env": {"A=B": ""}}, "illegal environment variable name"),
        ({"env": {"A": "\0"}}, "null byte"),
        ({"cwd": "\0"}, "null byte"),
        ({"pdeathsig": 0}, "not a signal"),
        ({"pdeathsig": 65}, "not a signal"),
        ({"setgroups": "perhaps"}, "setgroups"),
    ],
)
def test_what_makes_no_sense_is_a_value_error(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        UsernsProcess(["true"], uid_map="root", stdout=PIPE, **options)


def test_preexec_fn_is_refused_by_position_too() -> None:
    with pytest.raises(ValueError, match="preexec_fn"):
        UsernsProcess(["true"], -1, None, None, None, None, print)


def test_an_audit_event_is_raised_as_by_popen() -> None:
    run_alone(programs.audit_event)


# ---- signals and waiting ----


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_the_exit_status_is_the_return_code(status: int) -> None:
    assert UsernsProcess(["sh", "-c", f"exit {status}"]).wait() == status


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL, signal.SIGRTMAX])
def test_a_signal_is_a_negative_return_code(sig: int) -> None:
    process = UsernsProcess(FOREVER)
    assert process.poll() is None
    process.send_signal(sig)
    assert process.wait() == -sig
    assert process.poll() == -sig


def test_signals_after_the_end_have_no_effect() -> None:
    with UsernsProcess(["true"]) as process:
        process.wait()
        process.kill()
        process.terminate()
        process.send_signal(signal.SIGSTOP)


def test_wait_keeps_its_timeout() -> None:
    with UsernsProcess(FOREVER) as process:
        start = time.monotonic()
        with pytest.raises(TimeoutExpired):
            process.wait(timeout=0.1)
        with pytest.raises(TimeoutExpired):
            process.wait(timeout=0)
        with pytest.raises(TimeoutExpired):
            process.wait(timeout=-1)
        assert time.monotonic() - start >= 0.1
        process.kill()
        assert process.wait(timeout=1e9) == -signal.SIGKILL


def test_waitid_reports_stops_and_looks_without_reaping() -> None:
    with UsernsProcess(FOREVER) as process:
        assert process.waitid(os.WEXITED | os.WNOHANG) is None
        process.send_signal(signal.SIGSTOP)
        stopped = process.waitid(os.WSTOPPED)
        assert stopped is not None
        assert (stopped.si_code, stopped.si_status, stopped.si_pid) == (os.CLD_STOPPED, signal.SIGSTOP, process.pid)
        assert process.returncode is None
        process.kill()
        seen = process.waitid(os.WEXITED | os.WNOWAIT)
        assert seen is not None
        assert process.returncode is None
        ended = process.waitid()
        assert ended is not None
        assert ended.si_code == os.CLD_KILLED
        assert process.wait() == -signal.SIGKILL
        with pytest.raises(ChildProcessError):
            process.waitid()


def test_the_process_is_readable_when_it_has_ended() -> None:
    with UsernsProcess(["cat"], stdin=PIPE) as process, selectors.DefaultSelector() as selector:
        assert select.select([process], [], [], 0) == ([], [], [])
        selector.register(process, selectors.EVENT_READ)
        assert process.fileno() == process.pidfd
        assert process.stdin is not None
        process.stdin.close()
        assert selector.select(timeout=60)


def test_the_status_is_exact_when_another_thread_reaped_it() -> None:
    """Linux 6.15 and later; before, it is 255 with a warning."""
    for command, expected in ((["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], -9)):
        with UsernsProcess(command) as process:
            os.waitpid(process.pid, 0)
            if _kernel_keeps_exit_status():
                assert process.wait() == expected
            else:
                with pytest.warns(RuntimeWarning, match="status is lost"):
                    assert process.wait() == 255


def _kernel_keeps_exit_status() -> bool:
    from usernsproc import _core

    probe = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(probe.pid)
    probe.wait()
    status = _core.exit_status(pidfd)
    os.close(pidfd)
    return status == 0


def test_a_forked_copy_neither_waits_for_it_nor_makes_up_a_status() -> None:
    run_alone(programs.forked_copy_knows_no_status)


# ---- the object ----


def test_leaving_the_block_waits_and_closes_the_pidfd() -> None:
    with UsernsProcess(["true"]) as process:
        pidfd = process.pidfd
        assert os.fstat(pidfd)
    assert process.returncode == 0
    for use in (process.fileno, process.namespace, process.detach_pidfd, lambda: process.uid_map):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pidfd)


def test_close_kills_and_releases_everything() -> None:
    process = UsernsProcess(FOREVER, stdin=PIPE, stdout=PIPE)
    process.close()
    assert process.returncode == -signal.SIGKILL
    assert process.stdin is not None
    assert process.stdin.closed
    process.close()


def test_a_detached_pidfd_is_the_callers() -> None:
    process = UsernsProcess(FOREVER)
    pidfd = process.detach_pidfd()
    assert process.poll() is None
    with pytest.raises(ValueError, match="closed"):
        process.kill()
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    assert result is not None
    assert result.si_status == signal.SIGKILL
    os.close(pidfd)
    assert "detached" in repr(process)


def test_dropping_a_running_one_warns_and_it_is_reaped_later() -> None:
    process = UsernsProcess(["cat"], stdin=PIPE)
    stdin = process.stdin
    assert stdin is not None
    pidfd = os.dup(process.pidfd)
    with pytest.warns(ResourceWarning, match=f"subprocess {process.pid} is still running"):
        del process
    stdin.close()
    select.select([pidfd], [], [])
    os.close(pidfd)
    UsernsProcess(["true"]).wait()  # as Popen, a new process reaps the dropped ones


def test_dropping_a_finished_one_is_silent() -> None:
    UsernsProcess(["true"]).wait()


def test_repr_says_the_state_in_words() -> None:
    with UsernsProcess(["cat"], stdin=PIPE) as process:
        assert repr(process) == f"<UsernsProcess ['cat']: pid {process.pid}, running when last looked at>"
        process.kill()
    assert repr(process) == f"<UsernsProcess ['cat']: pid {process.pid}, killed by SIGKILL>"
    process = UsernsProcess(["false"])
    process.wait()
    assert repr(process) == f"<UsernsProcess ['false']: pid {process.pid}, exited with status 1>"


def test_it_cannot_be_pickled() -> None:
    with UsernsProcess(["true"]) as process, pytest.raises(TypeError, match="pickled"):
        pickle.dumps(process)


def test_it_is_a_popen() -> None:
    with UsernsProcess(["true"]) as process:
        assert isinstance(process, subprocess.Popen)
        assert process.args == ["true"]
        assert UsernsProcess[bytes] is not None


def test_the_namespace_of_a_running_command() -> None:
    with (
        UsernsProcess(["cat"], stdin=PIPE, uid_map="root") as process,
        process.namespace() as userns,
        process.namespace("net") as net,
    ):
        assert userns.inode == os.stat(process.namespace_path()).st_ino
        assert net.inode == os.stat("/proc/self/ns/net").st_ino
        assert str(userns.uid_map) == f"0:{OWN_UID}:1"


# ---- errors from the child ----


def test_a_missing_file_is_a_file_not_found_error_with_its_name() -> None:
    for name in ("/nonexistent/program", "no-such-program-anywhere"):
        with pytest.raises(FileNotFoundError) as caught:
            UsernsProcess([name], uid_map="root", stdout=PIPE)
        assert isinstance(caught.value, UsernsError)
        assert (caught.value.step, caught.value.filename) == ("exec", name)
        assert str(caught.value) == f"exec: No such file or directory: {name!r} [ENOENT]"


def test_a_file_that_is_not_a_program_is_a_permission_error() -> None:
    with pytest.raises(PermissionError) as caught:
        UsernsProcess(["/etc/passwd"], uid_map="root")
    assert isinstance(caught.value, UsernsError)
    assert (caught.value.step, caught.value.filename) == ("exec", "/etc/passwd")


@pytest.mark.root
def test_errors_after_a_change_of_ids_are_reported_as_well() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        UsernsProcess(["/nonexistent"], **SHIFTED)
    assert caught.value.filename == "/nonexistent"


def test_a_bad_cwd_is_the_error_that_popen_gives(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for cwd in ("/nonexistent", str(file), b"/nonexistent"):
        with pytest.raises(OSError, match=".") as ours:
            UsernsProcess(["true"], cwd=cwd)
        with pytest.raises(OSError, match=".") as theirs:
            subprocess.Popen(["true"], cwd=cwd)
        assert isinstance(ours.value, type(theirs.value))
        assert (ours.value.args, ours.value.filename) == (theirs.value.args, theirs.value.filename)
        assert ours.value.strerror == theirs.value.strerror


def test_a_process_group_that_does_not_exist() -> None:
    with pytest.raises(PermissionError) as caught:
        UsernsProcess(["true"], process_group=1)
    assert isinstance(caught.value, UsernsError)
    assert (caught.value.step, caught.value.filename) == ("setpgid", None)


def test_python_runs_in_it_as_ever() -> None:
    source = "import sys; print(sys.stdin.read()[::-1])"
    process = UsernsProcess([sys.executable, "-c", source], stdin=PIPE, stdout=PIPE, text=True, uid_map="root")
    assert process.communicate("abc")[0] == "cba\n"


def test_the_pidfd_leaves_the_standard_streams_to_the_program_that_opens_them_again() -> None:
    """A daemon that closes 0, 1 and 2 relies on getting the lowest numbers next."""
    run_alone(programs.streams_are_opened_again)


def test_minus_one_is_not_a_descriptor() -> None:
    """Popen accepts -1 or not, depending on the version of Python and on other arguments."""
    options: dict[str, Any] = {"pass_fds": None}
    assert UsernsProcess(["true"], uid_map="root", **options).wait() == 0
