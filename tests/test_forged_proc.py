"""`/proc` is verified, not trusted: another user's mount namespace cannot direct a call to another process."""

from __future__ import annotations

import forging
import pytest
from alone import run_alone
from programs import forged_proc

with_and_without_openat2 = pytest.mark.parametrize("openat2", ["is there", "ENOSYS"])
each_forgery = pytest.mark.parametrize("forgery", forging.FORGERIES)


@each_forgery
def test_a_forged_proc_is_refused(forgery: str) -> None:
    """By every call that needs what is forged. Nothing is done to the process that it names. The answers that the
    kernel gives without `/proc` are correct."""
    run_alone(forged_proc.forged, forgery, "is there")


@each_forgery
def test_a_forged_proc_is_refused_without_openat2(forgery: str) -> None:
    """Linux 5.4, or a seccomp filter: each component is checked, which Linux 5.8 allows without a race."""
    run_alone(forged_proc.forged, forgery, "ENOSYS")


@pytest.mark.parametrize("errno", ["ENOSYS", "EPERM"])
def test_all_works_without_openat2(errno: str) -> None:
    run_alone(forged_proc.without_openat2, errno)


@with_and_without_openat2
def test_without_the_requests_of_pidfds_namespaces_are_found_by_proven_links(openat2: str) -> None:
    """Linux before 6.11. Everything works; with a forged /proc no namespace is returned."""
    run_alone(forged_proc.without_requests_of_pidfds, openat2)


@pytest.mark.root
def test_root_in_a_hostile_mount_namespace_writes_no_map_of_another_process() -> None:
    """An unprivileged user forges /proc in a new mount namespace, and root enters that. Without the check, root would
    write the map of a process of that user, which would become root."""
    run_alone(forged_proc.root_in_a_hostile_mount_namespace)


@with_and_without_openat2
@pytest.mark.parametrize("name", ["uid_map", "gid_map", "setgroups"])
def test_the_file_of_another_process_over_that_of_the_right_one(name: str, openat2: str) -> None:
    """A map is written to the intended process or to none, and it is read from the intended process."""
    run_alone(forged_proc.file_of_another_process, name, openat2)


@with_and_without_openat2
def test_a_link_to_a_namespace_that_is_covered(openat2: str) -> None:
    """If the kernel has no other way than the link (Linux before 6.11, or a filter), what is mounted on it is
    refused, with a link to another namespace or with that namespace itself."""
    run_alone(forged_proc.covered_link, openat2)


def test_the_callers_map_is_not_believed() -> None:
    """The preset "all" passes it on, and maps are checked against it."""
    run_alone(forged_proc.own_map)


def test_the_table_of_mounts_is_not_believed() -> None:
    run_alone(forged_proc.table_of_mounts)


def test_a_process_in_the_list_of_namespaces_is_not_believed() -> None:
    run_alone(forged_proc.process_in_the_list)


def test_a_genuine_proc_of_another_pid_namespace() -> None:
    """There the PIDs are those of other processes, and this one is not visible: a PID that matches by chance,
    or that another user has chosen, is not accepted."""
    run_alone(forged_proc.proc_of_another_pid_namespace)


@pytest.mark.parametrize("options", ["hidepid=2", "ro", "subset=pid", "hidepid=ptraceable"])
def test_a_genuine_proc_with_options_is_accepted(options: str) -> None:
    run_alone(forged_proc.proc_with_options, options)


@with_and_without_openat2
def test_settings_below_a_read_only_proc_sys(openat2: str) -> None:
    """Container engines bind-mount /proc/sys on itself. Another file system there is refused."""
    run_alone(forged_proc.settings_below_proc_sys, openat2)
