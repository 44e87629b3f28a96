"""A small process that holds a namespace."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from alone import run_alone
from programs import holder
from stepping import Stepped

from usernsproc import PIPE, IdMap, IdMapError, TimeoutExpired, UsernsError, UsernsProcess, lowlevel

OWN_UID, OWN_GID = os.geteuid(), os.getegid()


def test_a_holder_has_the_maps_and_lives_until_it_is_closed() -> None:
    holder = UsernsProcess(uid_map="root", gid_map="current")
    assert holder.args is None
    assert holder.poll() is None
    assert holder.uid_map == IdMap([(0, OWN_UID, 1)])
    assert holder.gid_map == IdMap([(OWN_GID, OWN_GID, 1)])
    assert repr(holder) == f"<UsernsProcess holder: pid {holder.pid}, running when last looked at>"
    holder.close()
    assert holder.returncode == -signal.SIGKILL


@pytest.mark.root
def test_it_has_its_name_even_if_its_exec_took_long() -> None:
    """Then it runs alone: the caller looks for the name before it writes maps."""

    def create(_: object) -> None:
        with UsernsProcess(uid_map="root") as holder:
            assert Path(f"/proc/{holder.pid}/comm").read_text() == "usernsproc-hold\n"

    with Stepped(lambda: None, create) as program:
        program.interrupt_exec_of(program.step_until_it_has_a_child(), seconds=0.3)
        assert program.ends_with() == 0


def test_a_seccomp_filter_that_refuses_names_does_not_stop_it() -> None:
    run_alone(holder.it_starts_where_names_are_refused)


def test_leaving_the_block_ends_it() -> None:
    with UsernsProcess(uid_map="root") as holder:
        pass
    assert holder.returncode == -signal.SIGKILL


def test_an_exception_in_the_block_ends_it_too() -> None:
    with pytest.raises(KeyboardInterrupt), UsernsProcess(uid_map="root") as holder:
        raise KeyboardInterrupt
    assert holder.returncode == -signal.SIGKILL


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_end_it(sig: int) -> None:
    """Also when the creating thread has them blocked, or the program ignores them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        holder = UsernsProcess(uid_map="root")
    finally:
        signal.signal(signal.SIGINT, previous)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    with holder:
        with pytest.raises(TimeoutExpired):
            holder.wait(timeout=0.01)
        holder.send_signal(sig)
        assert holder.wait() == -sig


def test_tools_find_the_namespace_by_path() -> None:
    with UsernsProcess(uid_map="root") as holder, holder.namespace() as userns:
        assert holder.namespace_path() == f"/proc/{holder.pid}/ns/user"
        assert os.stat(holder.namespace_path()).st_ino == userns.inode


def test_maps_that_were_left_out_are_written_later() -> None:
    with UsernsProcess() as holder:
        assert holder.uid_map == holder.gid_map == IdMap()
        holder.write_uid_map("root")
        holder.write_gid_map("current")
        assert str(holder.uid_map) == f"0:{OWN_UID}:1"
        assert str(holder.gid_map) == f"{OWN_GID}:{OWN_GID}:1"


def test_a_map_is_written_once() -> None:
    with UsernsProcess(uid_map="root") as holder:
        for write, step in ((holder.write_uid_map, "uid_map"), (holder.write_gid_map, "gid_map")):
            with pytest.raises(PermissionError) as caught:
                write("root")
            assert isinstance(caught.value, UsernsError)
            assert caught.value.step in (step, "setgroups")


def test_no_map_is_written_for_one_that_has_ended() -> None:
    """Its files in `/proc` then belong to root (not on Linux 7.3). The caller is not blamed for that."""
    with UsernsProcess() as holder:
        holder.kill()
        os.waitid(os.P_PIDFD, holder.fileno(), os.WEXITED | os.WNOWAIT)
        for write in (holder.write_uid_map, holder.write_gid_map):
            try:
                write("root")
            except ProcessLookupError as error:
                assert isinstance(error, UsernsError)
                assert (error.step, error.cause) == ("open_proc", "process-gone")
            else:
                owner = os.stat(f"/proc/{holder.pid}/uid_map").st_uid
                assert owner == os.geteuid(), "the kernel permits it to the owner of the files"


def test_a_bad_map_is_refused_before_it_is_written() -> None:
    with UsernsProcess() as holder:
        with pytest.raises(IdMapError, match="uid_map"):
            holder.write_uid_map("0:-1:1")
        with pytest.raises(IdMapError, match="gid_map"):
            holder.write_gid_map("0:0:1:1")
        holder.write_uid_map("root")


def test_setgroups_is_denied_on_request() -> None:
    with UsernsProcess() as holder:
        holder.write_setgroups("deny")
        holder.write_gid_map("root")
        with open(f"/proc/{holder.pid}/setgroups") as file:
            assert file.read() == "deny\n"
        with pytest.raises(PermissionError) as caught:
            holder.write_setgroups("allow")
        assert isinstance(caught.value, UsernsError)
        assert caught.value.step == "setgroups"
        with pytest.raises(ValueError, match="setgroups"):
            holder.write_setgroups("maybe")


@pytest.mark.parametrize(
    "options", [{"stdin": PIPE}, {"env": {}}, {"cwd": "/"}, {"user": 0}, {"shell": True}, {"close_fds": False}]
)
def test_parameters_of_a_program_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a holder"):
        UsernsProcess(uid_map="root", **options)


def test_it_ends_with_the_creating_process() -> None:
    """The process is killed and cannot clean up. Without a parent-death signal the holder stays."""
    run_alone(holder.it_ends_with_the_creating_process)


def test_fork_userns_is_the_ancestors_call() -> None:
    """It creates a parked child, whose maps the caller writes."""
    pid, pidfd = lowlevel.fork_userns()
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {OWN_UID} 1"), ("gid_map", f"0 {OWN_GID} 1")):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(text)
        with open(f"/proc/{pid}/uid_map") as file:
            assert file.read().split() == ["0", str(OWN_UID), "1"]
        assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
    assert result is not None
    assert (result.si_pid, result.si_status) == (pid, signal.SIGKILL)
