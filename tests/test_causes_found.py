"""One errno has several causes. The library finds the one that applies and names it in the note.

Each cause is produced in a separate process: limits, filters, a read-only
/proc, IDs that a tool fakes. Cgroups are in `test_cgroup_causes.py`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from alone import run_alone
from programs import causes_found
from unprivileged import DROP, as_unprivileged_user

from usernsproc._evidence import faked_ids

TESTS = Path(__file__).parent


# ---- no further process ----


@pytest.mark.root
def test_a_thread_with_a_deadline() -> None:
    """SCHED_DEADLINE is not inherited: the kernel refuses children, unless they are to get another policy."""
    run_alone(causes_found.a_thread_with_a_deadline)


def test_the_limit_of_a_users_processes_is_counted() -> None:
    """The note has the number of processes and the limit, and is not a guess."""
    run_alone(causes_found.the_limit_of_a_users_processes)


def test_what_is_not_found_is_a_guess() -> None:
    """As with a filter that answers EAGAIN."""
    run_alone(causes_found.a_filter_that_answers_eagain)


@pytest.mark.root
@pytest.mark.kernel("6.14")
def test_the_limit_of_pids() -> None:
    """kernel.pid_max, which each PID namespace has since Linux 6.14."""
    run_alone(causes_found.the_limit_of_pids)


# ---- refused ----


def test_a_read_only_proc_is_named() -> None:
    """The files of a child's maps cannot be written, by the library or by a tool."""
    run_alone(causes_found.a_read_only_proc)


@pytest.mark.root
def test_newuidmap_where_proc_is_read_only() -> None:
    """The tool fails, and the cause is found."""
    as_unprivileged_user(causes_found.newuidmap_where_proc_is_read_only, before="mount -o remount,ro,bind /proc")


def test_refused_calls_of_the_core() -> None:
    """ENOSYS means an old kernel, unless there is a filter. A filter can also refuse with EPERM."""
    run_alone(causes_found.refused_calls_of_the_core)


def fake_ids(folder: Path) -> Path:
    library = folder / "fake_ids.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, TESTS / "fake_ids.c"], check=True)
    folder.chmod(0o755)
    return library


def test_ids_that_a_tool_fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's IDs are in /proc. A refusal because of the faked IDs says so, not that
    subordinate IDs or capabilities are missing."""
    monkeypatch.setenv("LD_PRELOAD", str(fake_ids(tmp_path)))
    run_alone(causes_found.ids_that_a_tool_fakes)


@pytest.mark.root
def test_ids_that_a_tool_fakes_for_an_unprivileged_user(tmp_path: Path) -> None:
    """The same program as user 1000, whose maps are refused."""
    library = fake_ids(tmp_path)
    as_unprivileged_user(
        causes_found.ids_that_a_tool_fakes_for_an_unprivileged_user,
        before=f"mount -t tmpfs tmpfs /mnt; cp {library} /mnt/fake_ids.so",
        drop=(*DROP, "env", "LD_PRELOAD=/mnt/fake_ids.so"),
    )


def test_without_such_a_tool_nothing_is_faked() -> None:
    assert faked_ids() is None
