"""A user namespace as a descriptor, and namespaces as objects."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import threading

import pytest
from alone import run_alone
from programs import namespace
from unprivileged import as_unprivileged_user

from usernsproc import IdMap, IdMapError, Namespace, NamespaceKind, UsernsError, UsernsProcess, create_userns

TEN = "0:100000:10,10:200000:5"
OWN_UID, OWN_GID = os.geteuid(), os.getegid()


def test_the_root_preset_maps_the_callers_ids_to_0() -> None:
    with create_userns("root", "root") as userns:
        assert userns.uid_map == IdMap([(0, OWN_UID, 1)])
        assert userns.gid_map == IdMap([(0, OWN_GID, 1)])


def test_the_current_preset_keeps_the_callers_ids() -> None:
    with create_userns("current", "current") as userns:
        assert userns.uid_map == IdMap([(OWN_UID, OWN_UID, 1)])
        assert userns.gid_map == IdMap([(OWN_GID, OWN_GID, 1)])


@pytest.mark.parametrize("maps", [("root",), (None, "root"), ("root", None)])
def test_one_preset_stands_for_both_maps(maps: tuple[str | None, ...]) -> None:
    with create_userns(*maps) as userns:
        assert (userns.uid_map, userns.gid_map) == (IdMap([(0, OWN_UID, 1)]), IdMap([(0, OWN_GID, 1)]))


@pytest.mark.parametrize("maps", [(), (None,), (f"0:{OWN_UID}:1",), (None, [(0, OWN_GID, 1)])])
def test_a_map_in_numbers_does_not_stand_for_the_other(maps: tuple[str | None, ...]) -> None:
    with pytest.raises(TypeError, match="both maps are needed, or the name of a preset"):
        create_userns(*maps)


@pytest.mark.root
def test_maps_of_several_ranges_are_read_back_from_the_descriptor_alone() -> None:
    with create_userns(TEN, "0:5:1") as userns:
        assert str(userns.uid_map) == TEN
        assert str(userns.gid_map) == "0:5:1"


@pytest.mark.root
def test_a_map_of_340_ranges_comes_back_whole() -> None:
    ranges = [(i, i, 1) for i in range(340)]
    with create_userns(ranges, "root") as userns:
        assert userns.uid_map == IdMap(ranges)


def test_which_file_of_proc_could_not_be_opened_is_reported() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError) as caught:
            Namespace.of(process.pid, "net")
        assert caught.value.filename == f"/proc/{process.pid}/ns/net"


@pytest.mark.parametrize("kind", ["pid", "net", "mnt"])
def test_only_user_namespaces_have_maps(kind: str) -> None:
    with UsernsProcess(uid_map="root", namespaces=[kind]) as holder, holder.namespace(kind) as namespace:
        for name in ("uid_map", "gid_map"):
            with pytest.raises(UsernsError) as caught:
                getattr(namespace, name)
            assert (caught.value.step, caught.value.errno) == ("setns", errno.EINVAL)
            assert caught.value.cause == "not-a-user-namespace"
            assert "ask its owner()" in caught.value.__notes__[0]


def test_it_has_a_kind_an_identity_and_an_owner() -> None:
    with create_userns("root", "root") as userns:
        assert userns.kind is NamespaceKind.USER
        assert (userns.device, userns.inode) == tuple(os.stat(userns.path))[2:0:-1]
        assert userns.owner_uid == OWN_UID
        with userns.parent() as parent, userns.owner() as owner, Namespace.current() as current:
            assert parent == owner == current
            assert hash(parent) == hash(current)
            assert userns != current


def test_its_path_can_be_opened_and_is_the_same_namespace() -> None:
    with create_userns("root", "root") as userns, Namespace.open(userns.path) as again:
        assert again == userns
        assert again.fileno() != userns.fileno()


def test_each_one_is_a_namespace_of_its_own() -> None:
    with create_userns("root", "root") as one, create_userns("root", "root") as other:
        assert one != other
        assert one != "no namespace"


def test_the_namespace_stays_usable_without_any_process() -> None:
    """setns(2) in a helper process; the maps are read back from the descriptor alone."""
    printed = run_alone(namespace.the_namespace_stays_usable_without_any_process)
    assert printed == "0 ['0', '1']\n"


def test_a_bind_mounted_namespace_file_can_be_opened() -> None:
    """Also when no process is left, in a new mount namespace."""
    run_alone(namespace.a_bind_mounted_namespace_file_can_be_opened)


@pytest.mark.parametrize("kind", NamespaceKind)
def test_the_current_namespaces_of_all_eight_kinds(kind: NamespaceKind) -> None:
    with Namespace.current(kind) as namespace, Namespace.of(os.getpid(), str(kind)) as by_pid:
        assert namespace.kind is kind
        assert namespace == by_pid
        assert f"{kind}:[{namespace.inode}]" == os.readlink(f"/proc/self/ns/{kind}")


def test_of_takes_a_process_a_pidfd_and_a_pid() -> None:
    with UsernsProcess(uid_map="root") as holder:
        pidfd = os.pidfd_open(holder.pid)
        with (
            Namespace.of(holder) as by_process,
            Namespace.of(pidfd) as by_pidfd,
            Namespace.of(holder.pid) as by_pid,
            holder.namespace() as own,
        ):
            assert by_process == by_pidfd == by_pid == own
        os.close(pidfd)


def test_a_number_that_is_two_processes_is_refused() -> None:
    """The library does not guess whether it is a PID or a descriptor. Here 1 is both."""
    run_alone(namespace.a_number_that_is_two_processes_is_refused)


def test_a_file_that_is_not_a_namespace_is_refused() -> None:
    with pytest.raises(UsernsError, match="ioctl") as caught:
        Namespace.open("/etc/passwd")
    assert caught.value.step == "open_ns"


def test_a_missing_file_is_a_file_not_found_error() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Namespace.open("/nonexistent")
    assert caught.value.filename == "/nonexistent"


def test_a_process_that_has_exited_is_a_process_lookup_error() -> None:
    with UsernsProcess(uid_map="root") as holder:
        holder.kill()
        holder.wait()
        with pytest.raises(ProcessLookupError):
            Namespace.of(holder)
        with pytest.raises(ProcessLookupError):
            Namespace.of(holder.pid)


def test_an_unknown_kind_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="mount"):
        Namespace.current("mount")


def test_detach_hands_the_descriptor_over() -> None:
    userns = create_userns("root", "root")
    fd = userns.detach()
    assert userns.closed
    os.close(fd)


def test_close_again_has_no_effect_and_use_after_is_a_value_error() -> None:
    userns = create_userns("root", "root")
    userns.close()
    userns.close()
    for use in (userns.fileno, userns.detach, userns.parent, userns.enter, userns.__enter__):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert repr(userns) == "<Namespace closed>"


def test_dropping_one_unclosed_warns_and_closes() -> None:
    with pytest.warns(ResourceWarning, match="unclosed <Namespace user"):
        create_userns("root", "root")


def test_it_cannot_be_pickled() -> None:
    with create_userns("root", "root") as userns, pytest.raises(TypeError, match="pickled"):
        pickle.dumps(userns)


def test_the_owner_of_another_kind_is_its_user_namespace() -> None:
    with Namespace.current("net") as net, pytest.raises(UsernsError) as caught:
        assert net.owner_uid
    assert "owner()" in caught.value.__notes__[0]


def test_a_kind_without_hierarchy_has_no_parent() -> None:
    with Namespace.current("net") as net, pytest.raises(UsernsError) as caught:
        net.parent()
    assert caught.value.errno == 22


def test_what_is_above_is_out_of_sight() -> None:
    run_alone(namespace.what_is_above_is_out_of_sight)


def test_a_user_namespace_is_not_entered_by_a_threaded_program() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with create_userns("root", "root") as userns, pytest.raises(UsernsError) as caught:
            userns.enter()
    finally:
        done.set()
        thread.join()
    assert caught.value.errno == 22
    assert caught.value.step == "setns"
    assert caught.value.cause == "threads"


def test_the_callers_user_namespace_is_not_entered_again() -> None:
    with Namespace.current() as current, pytest.raises(UsernsError) as caught:
        current.enter()
    assert caught.value.cause == "already-there"


@pytest.mark.root
def test_enter_moves_the_calling_thread_alone() -> None:
    with UsernsProcess(["unshare", "--uts", "sleep", "60"], uid_map="root") as process:
        before = os.readlink("/proc/self/ns/uts")
        while os.readlink(f"/proc/{process.pid}/ns/uts") == before:
            pass
        seen: list[str] = []

        def enter() -> None:
            with process.namespace("uts") as uts:
                uts.enter()
            seen.append(os.readlink("/proc/thread-self/ns/uts"))

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert seen == [os.readlink(f"/proc/{process.pid}/ns/uts")]
        assert os.readlink("/proc/self/ns/uts") == before
        process.kill()


def test_a_bad_map_is_refused_by_name() -> None:
    with pytest.raises(IdMapError, match="gid_map: range '0:0'") as caught:
        create_userns("root", "0:0")
    assert caught.value.step == "gid_map"


@pytest.mark.parametrize("empty", ["", [], IdMap()])
def test_an_empty_map_is_refused(empty: object) -> None:
    with pytest.raises(IdMapError, match="no ranges"):
        create_userns(empty, "root")  # type: ignore[arg-type]


def test_setgroups_is_what_was_asked_for() -> None:
    with pytest.raises(ValueError, match='"allow", "deny"'):
        create_userns("root", "root", setgroups="maybe")


@pytest.mark.root
@pytest.mark.parametrize(("asked", "found"), [(None, "allow"), ("allow", "allow"), ("deny", "deny")])
def test_setgroups_for_root(asked: str | None, found: str) -> None:
    printed = run_alone(namespace.print_setgroups_inside, asked)
    assert printed.strip() == found


def test_setgroups_for_an_unprivileged_user() -> None:
    printed = as_unprivileged_user(namespace.print_setgroups_inside, None)
    assert printed.strip() == "deny"
    as_unprivileged_user(namespace.setgroups_cannot_be_allowed)


def test_a_proc_of_another_pid_namespace_leads_to_no_other_process() -> None:
    """There the PIDs are those of other processes. The pidfd identifies the process."""
    run_alone(namespace.a_proc_of_another_pid_namespace_leads_to_no_other_process)
