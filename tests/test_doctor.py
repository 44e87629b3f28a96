"""The doctor under real restrictions: what does not work is reported with its cause, and nothing else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from alone import A_HANG, command, environment, run_alone
from cgroups import remove, unified
from programs import doctor
from test_newidmap import copies
from unprivileged import DROP, as_unprivileged_user

NEW_CALLS = ("fsopen", "fsconfig", "fsmount", "open_tree", "move_mount", "mount_setattr")
OF_MOUNTS = ("mount", "bind-read-only", "tmpfs", "new-root", "proc", "overlay")
WITH_NEW_CALLS = ("bind-read-only", "tmpfs", "new-root", "overlay")
ALL = (
    *("userns", "memfd-exec", "many-ids", "join", "mount", "bind-read-only", "tmpfs", "new-root", "proc", "net"),
    *("overlay", "seccomp", "landlock"),
)
pytestmark = pytest.mark.kernel("5.13")
"""Landlock is there, and overlays in user namespaces."""


def names(printed: str) -> list[str]:
    return [line.split()[0] for line in printed.splitlines() if line]


def causes(printed: str) -> set[str]:
    return {line.split()[2] for line in printed.splitlines() if len(line.split()) == 3}


def inside(*wrapper: str, program: Callable[[], object] = doctor.report_here) -> str:
    result = subprocess.run(
        [*wrapper, *command(program)], capture_output=True, text=True, timeout=A_HANG, env=environment(), check=False
    )
    assert result.returncode == 0, result
    return result.stdout


# ---- no false alarm ----


@pytest.mark.root
def test_root_of_a_machine_can_do_everything() -> None:
    assert names(run_alone(doctor.report_here)) == []


def test_an_unprivileged_user_with_subordinate_ids_as_well() -> None:
    assert names(as_unprivileged_user(doctor.report_here)) == []


@pytest.mark.root
def test_a_proc_with_hidden_processes_forbids_nothing() -> None:
    assert names(run_alone(doctor.a_hidden_proc)) == []


@pytest.mark.parametrize("options", [("--map-root-user",), ("--map-root-user", "--mount"), ("--map-current-user",)])
def test_in_a_namespace_of_unshare_there_is_one_id(options: tuple[str, ...]) -> None:
    reported = inside("unshare", "--user", *options)
    assert reported.split("\n")[0] in [
        f"many-ids uid_map {cause}" for cause in ("not-mapped-in-parent", "tool-owner-unmapped")
    ]
    assert names(reported) == ["many-ids"]


@pytest.mark.parametrize(("options", "cause"), [((), "no-mount-rights"), (("--mount",), "no-rights-over-file-system")])
def test_in_a_namespace_of_unshare_the_file_systems_are_of_another_one(options: tuple[str, ...], cause: str) -> None:
    reported = inside("unshare", "--user", "--map-root-user", *options, program=doctor.report_idmapped_mount)
    assert causes(reported) == {cause}


SANDBOX = ("bwrap", "--bind", "/", "/", "--dev", "/dev")


def test_in_bubblewrap() -> None:
    """It covers parts of `/proc` for root, and maps one ID."""
    reported = inside(*SANDBOX, "--unshare-user", "--unshare-pid", "--proc", "/proc").splitlines()
    assert set(reported) - {"proc mount_proc proc-masked"} <= {
        "many-ids uid_map not-mapped-in-parent",
        "many-ids uid_map no-cap-setuid",
        "",
    }
    assert "many-ids" in reported[0]


def test_in_bubblewrap_that_forbids_user_namespaces() -> None:
    reported = inside(*SANDBOX, "--unshare-user", "--disable-userns", "--proc", "/proc")
    assert names(reported) == list(ALL)
    assert causes(reported) == {"max-user-namespaces"}


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("call", ["clone3"])
def test_a_filter_that_refuses_clone3_forbids_nothing(call: str, error: str) -> None:
    """Time namespaces require it, which the list of features shows."""
    reported = run_alone(doctor.refuse, [call], error).splitlines()
    assert [line for line in reported if not line.startswith("many-ids")] == ["clone3"]


# ---- restrictions of container engines ----


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_a_profile_that_refuses_user_namespaces(error: str) -> None:
    calls = ["clone", "clone3", "unshare", "setns", "mount", *NEW_CALLS]
    reported = run_alone(doctor.refuse, calls, error)
    assert names(reported)[: len(ALL)] == list(ALL)
    assert causes(reported) == {"seccomp"}
    assert {line.split()[1] for line in reported.splitlines()[: len(ALL)]} == {"clone"}


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize(("calls", "failing"), [(["mount"], OF_MOUNTS), (NEW_CALLS, WITH_NEW_CALLS)])
def test_a_profile_that_refuses_mounts(calls: Sequence[str], failing: tuple[str, ...], error: str) -> None:
    """User namespaces work, and the other abilities with them."""
    reported = run_alone(doctor.refuse, list(calls), error)
    lines = [line.split() for line in reported.splitlines() if line and not line.startswith("many-ids")]
    assert [name for name, _, _ in lines] == list(failing)
    assert {cause for _, _, cause in lines} == {"seccomp"}


MASKS = """
for name in keys timer_list kcore; do [ ! -e /proc/$name ] || mount --bind /dev/null /proc/$name; done
mount -t tmpfs -o ro tmpfs /proc/driver
for name in bus fs irq sys; do mount --bind /proc/$name /proc/$name; mount -o remount,bind,ro /proc/$name; done
mount -o remount,bind,ro /sys
"""
DOCKER = (
    "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+sys_chroot,+setfcap"
)


@pytest.mark.root
def test_masks_and_few_capabilities() -> None:
    """As root in a container with a masked `/proc`, a read-only `/sys`, and the capabilities that are usual there."""
    wrapper = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{MASKS}\nexec "$@"', "sh")
    reported = inside(*wrapper, "setpriv", "--bounding-set", DOCKER, "--no-new-privs")
    assert reported.split("\n")[0] == "proc mount_proc proc-masked"
    assert names(reported) == ["proc"]


@pytest.mark.root
def test_no_capability_at_all() -> None:
    """User 0 cannot map itself then."""
    reported = inside("setpriv", "--bounding-set", "-all", "--inh-caps=-all")
    assert names(reported) == list(ALL)
    assert causes(reported) == {"no-cap-setfcap"}


# ---- each cause that can be had here, in the exception and in the doctor's report ----

ROWS: dict[str, tuple[Callable[..., object], str]] = {
    "a filter refuses user namespaces": (doctor.refuse_with_exception, "seccomp"),
    "a filter of a container refuses them": (doctor.in_a_container_with_a_filter, "container-seccomp"),
    "a filter refuses mounts": (doctor.refuse_mounts, "seccomp"),
    "a filter hides a system call": (doctor.refuse_file_systems, "seccomp"),
    "a limit of 0 in an outer namespace": (doctor.limit_of_an_outer_namespace, "max-user-namespaces"),
    "nested too deep": (doctor.nested_too_deep, "max-user-namespaces"),
}


@pytest.mark.parametrize("name", ROWS)
def test_exception_and_doctor_report_the_same_cause(name: str) -> None:
    program, cause = ROWS[name]
    assert run_alone(program).split() == [cause]


@pytest.mark.root
def test_a_capability_that_root_lacks() -> None:
    assert run_alone(doctor.without_setfcap).split() == ["no-cap-setfcap"]


def test_a_limit_of_another_kind_of_namespace() -> None:
    same, *reported = run_alone(doctor.limit_of_another_kind).splitlines()
    assert same == "namespaces-forbidden"
    assert reported == ["net clone namespaces-forbidden", ""]


@pytest.mark.root
def test_a_chroot_that_looks_like_a_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/proc").mkdir()
    reported = run_alone(doctor.in_a_chroot_that_is_a_mount_point, str(tmp_path / "root")).splitlines()
    assert reported == ["chroot userns-refused", "userns clone chroot", ""]  # the error alone names no single cause


def test_an_unprivileged_user_that_is_not_dumpable() -> None:
    assert as_unprivileged_user(doctor.not_dumpable).split() == ["not-dumpable"] * 2


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_programs_cannot_be_executed_from_memory() -> None:
    works, same = run_alone(doctor.no_memory_may_be_executed).splitlines()
    assert works == "True executable-memory"
    assert same == "memfd-noexec"


NNP = (*DROP, "--no-new-privs")
BOUNDED = (*DROP, "--bounding-set", "-setuid")
SUBORDINATE: dict[str, tuple[dict[str, object], str]] = {
    "no lines": ({"subuid": "", "subgid": ""}, "no-subids"),
    "not installed": ({"before": copies("chmod 0 /mnt/newuidmap")}, "tool-missing"),
    "not set-user-ID": ({"before": copies("chmod 755 /mnt/newuidmap")}, "tool-not-setuid"),
    "nosuid": ({"before": copies(options=",nosuid")}, "tool-nosuid"),
    "no_new_privs": ({"drop": NNP}, "no-new-privs"),
    "outside of the bounding set": ({"drop": BOUNDED}, "no-cap-setuid"),
}


@pytest.mark.root
@pytest.mark.parametrize("name", SUBORDINATE)
def test_subordinate_ids_that_cannot_be_mapped(name: str) -> None:
    """All else works."""
    options, cause = SUBORDINATE[name]
    same, *reported = as_unprivileged_user(doctor.with_subordinate_ids, **options).splitlines()  # type: ignore[arg-type]
    assert same == cause
    assert names("\n".join(reported)) == ["many-ids"]


# ---- cgroups ----

ENTER = """
cgroup=$(sed -n 's/^0:://p' /proc/self/cgroup)
mount=$(findmnt --first-only --noheadings --output TARGET --types cgroup2)
mkdir "$mount$cgroup/$NAME"
echo $$ >"$mount$cgroup/$NAME/cgroup.procs"
"""
DELEGATE = 'chown 1000 "$mount$cgroup/$NAME" "$mount$cgroup/$NAME/cgroup.procs"\n'


@pytest.fixture
def own_cgroup() -> Iterator[str]:
    """The name of a cgroup of the test, below that of the test run. The test creates it."""
    name = f"usernsproc-doctor-{os.getpid()}"
    yield name
    remove(cgroup_of_this_process() / name)


def cgroup_of_this_process() -> Path:
    [path] = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    return unified() / path.lstrip("/")


@pytest.mark.root
@pytest.mark.parametrize(("delegate", "expected"), [(DELEGATE, []), ("", ["cgroup cgroup cgroup-denied"])])
def test_a_cgroup_is_usable_if_it_is_delegated(own_cgroup: str, delegate: str, expected: list[str]) -> None:
    before = f"NAME={own_cgroup}\n{ENTER}{delegate}"
    reported = as_unprivileged_user(doctor.report_cgroup, before=before)
    assert [line for line in reported.splitlines() if line] == expected


@pytest.mark.root
def test_no_cgroup_file_system() -> None:
    before = "umount --lazy --all --types cgroup2"
    assert as_unprivileged_user(doctor.report_cgroup, before=before).split() == ["cgroup", "cgroup", "no-cgroup2"]


def test_a_program_that_fails_is_reported() -> None:
    printed = run_alone(doctor.a_program_that_fails)
    assert printed == "exec True The program of the trial ended with the return code 1. Find out why it fails.\n"


def test_a_thread_that_cannot_be_created() -> None:
    """The trials run in the calling thread then."""
    assert names(run_alone(doctor.no_further_process)) == []
