"""The calling thread in another namespace, and the way back."""

from __future__ import annotations

import os
import pickle
import threading

import pytest
from alone import run_alone
from programs import enter, enter_refusals

from usernsproc import Entered, Namespace, NamespaceKind, UsernsError, create_userns


@pytest.mark.parametrize("kind", ["net", "uts", "ipc", "mnt"])
def test_a_with_block_enters_and_comes_back(kind: str) -> None:
    run_alone(enter.a_with_block, kind)


@pytest.mark.root
@pytest.mark.parametrize("kind", [kind for kind in NamespaceKind if kind != "user"])
def test_root_enters_and_comes_back_from_all_kinds_but_user(kind: str) -> None:
    """Only children enter a PID namespace."""
    run_alone(enter.root_enters, kind)


@pytest.mark.root
def test_children_are_created_in_the_pid_namespace_and_later_in_the_callers() -> None:
    run_alone(enter.pids_of_children)


def test_nested_blocks_come_back_one_by_one() -> None:
    run_alone(enter.nested_blocks)


def test_as_a_plain_call_it_stays_and_holds_nothing() -> None:
    """No descriptor and no warning: the way back is dropped."""
    run_alone(enter.a_plain_call)


def test_leave_goes_back_at_any_time_and_again_has_no_effect() -> None:
    run_alone(enter.leave)


def test_close_gives_up_the_way_back() -> None:
    run_alone(enter.close)


def test_an_exception_in_the_block_comes_back_too() -> None:
    run_alone(enter.an_exception_in_the_block)


def test_a_socket_created_in_the_namespace_stays_in_it() -> None:
    """The usual reason for a visit to a network namespace."""
    run_alone(enter.a_socket)


def test_root_and_working_directory_come_back_with_a_mount_namespace() -> None:
    run_alone(enter.root_and_working_directory)


def test_another_thread_cannot_be_brought_back() -> None:
    run_alone(enter.leave_in_another_thread)


def test_other_threads_stay_where_they_are() -> None:
    run_alone(enter.other_threads)


# ---- no way back ----


def test_from_a_user_namespace_there_is_no_way_back() -> None:
    """With a plain call it is entered; `with` says so before its block begins."""
    run_alone(enter.from_a_user_namespace)


def test_without_rights_where_one_came_from_there_is_no_way_back() -> None:
    """The previous network namespace is owned by the parent user namespace."""
    run_alone(enter.without_rights_where_it_came_from)


def test_capabilities_lost_in_the_block_are_reported_at_its_end() -> None:
    run_alone(enter.rights_lost_in_the_block)


@pytest.mark.kernel("6.11")
def test_without_proc_it_is_entered_and_left() -> None:
    """A pidfd of the thread leads to its previous namespace."""
    run_alone(enter.without_proc_and_back)


@pytest.mark.kernel(before="6.11")
def test_without_proc_it_is_entered_and_the_way_back_is_missing() -> None:
    run_alone(enter.without_proc_and_no_way_back)


def test_threads_that_were_started_meanwhile_are_in_the_way() -> None:
    """They share the thread's root and working directory. When they have exited, it can leave."""
    run_alone(enter.threads_started_meanwhile)


# ---- refusals ----


def test_a_mount_namespace_is_not_entered_by_a_thread_that_shares_its_directory() -> None:
    """The note names os.unshare(CLONE_FS) as the remedy."""
    run_alone(enter_refusals.a_thread_that_shares_its_directory)


@pytest.mark.parametrize("kind", ["user", "time"])
def test_a_threaded_program_gets_an_error_with_the_remedy(kind: str) -> None:
    run_alone(enter_refusals.a_threaded_program, kind)


def test_a_pid_namespace_is_entered_from_above_only() -> None:
    run_alone(enter_refusals.a_sibling_pid_namespace)


def test_without_rights_in_its_owner_it_is_not_entered() -> None:
    """nsfd: no_foul_play of the kernel's own tests: from one user namespace, every
    namespace of a sibling is refused, and nothing has changed."""
    run_alone(enter_refusals.without_rights_in_its_owner)


def test_one_namespace_after_the_other_is_entered() -> None:
    """nsfd_incremental_setns of the kernel's own tests: the user namespace first, then what it owns."""
    run_alone(enter_refusals.one_after_the_other)


def test_pidfd_setns_with_invalid_flags() -> None:
    """invalid_flags of the kernel's own tests: with a pidfd, the flags must name kinds, and nothing else."""
    run_alone(enter_refusals.pidfd_with_wrong_flags)


def test_pidfd_setns_incremental_and_one_shot() -> None:
    """pidfd_incremental_setns and pidfd_one_shot_setns of the kernel's own tests: one kind
    after the other, and all at once."""
    run_alone(enter_refusals.pidfd_incremental_and_one_shot)


def test_pidfd_setns_no_foul_play_and_of_an_exited_child() -> None:
    """By these names in the kernel's own tests: a sibling is refused for every kind, and a process that has
    exited has no namespaces. In both cases nothing has changed."""
    run_alone(enter_refusals.pidfd_of_a_sibling_and_of_an_exited_child)


def test_a_file_that_is_not_a_namespace_is_not_entered() -> None:
    """setns_einval of the kernel's own tests: a memfd."""
    with Namespace(os.memfd_create("no namespace")) as wrong:
        for use in (wrong.enter, lambda: wrong.kind):
            with pytest.raises(UsernsError, match="ioctl") as caught:
                use()
            assert "not a namespace" in caught.value.__notes__[0]
            assert caught.value.step == "open_ns"
        assert repr(wrong) == f"<Namespace fd {wrong.fileno()}>"


def test_of_a_process_that_has_exited_nothing_is_entered() -> None:
    """pidfd_exited_child of the kernel's own tests: ESRCH or ENOENT, and nothing has changed."""
    run_alone(enter_refusals.namespaces_of_an_exited_child)


def test_a_thread_of_the_test_runner_shares_its_directory() -> None:
    """The program's own mount namespace: the refusal does not depend on capabilities."""
    seen: list[OSError] = []

    def enter() -> None:
        with Namespace.current("mnt") as mnt:
            try:
                mnt.enter()
            except UsernsError as error:
                seen.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    expected = "shared-fs" if os.geteuid() == 0 else "no-setns-rights"
    assert [getattr(error, "cause", None) for error in seen] == [expected]


def test_it_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(Entered(NamespaceKind.USER))


def test_interrupted_while_entering_it_is_where_it_was() -> None:
    run_alone(enter.interrupted_while_entering)


def test_what_was_left_is_not_entered_again_by_with() -> None:
    """The thread may have left the namespace."""
    run_alone(enter.with_what_was_left)


def test_a_failing_way_back_is_reported_with_its_step() -> None:
    run_alone(enter.a_failing_way_back)


def test_entering_the_callers_user_namespace_leaves_no_descriptor() -> None:
    with create_userns("root", "root") as userns, Namespace.current() as current, pytest.raises(UsernsError):
        assert current != userns
        current.enter()
