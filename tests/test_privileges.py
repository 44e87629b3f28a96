"""Several new namespaces at once, the privileges of a command, and its cgroup."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alone import run_alone
from programs import privileges

from usernsproc import NamespaceKind, UsernsError, UsernsProcess, check_output

SHIFTED: dict[str, Any] = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
WAYS = [
    pytest.param({"uid_map": "root"}, id="command"),
    pytest.param(SHIFTED, id="launcher", marks=pytest.mark.root),
]
OTHERS = [kind for kind in NamespaceKind if kind != "user"]


def status(**options: Any) -> dict[str, str]:
    lines = check_output(["cat", "/proc/self/status"], text=True, **options).splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


# ---- namespaces ----


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("kind", OTHERS)
def test_a_kind_is_created_and_owned_by_the_new_user_namespace(kind: NamespaceKind, options: dict[str, Any]) -> None:
    with UsernsProcess(["sleep", "1000"], namespaces=[kind], **options) as process:
        with process.namespace(kind) as made, process.namespace() as userns, made.owner() as owner:
            assert owner == userns
            assert made.inode != os.stat(f"/proc/self/ns/{kind}").st_ino
        for other in OTHERS:
            if other != kind:
                assert os.readlink(f"/proc/{process.pid}/ns/{other}") == os.readlink(f"/proc/self/ns/{other}")
        process.kill()


@pytest.mark.parametrize("options", WAYS)
def test_all_kinds_at_once(options: dict[str, Any]) -> None:
    output = check_output("readlink /proc/self/ns/*", shell=True, text=True, namespaces=NamespaceKind, **options)
    own = {os.readlink(f"/proc/self/ns/{kind}") for kind in NamespaceKind}
    assert len(set(output.split())) == 8
    assert not own & set(output.split())


@pytest.mark.parametrize("options", WAYS)
def test_in_a_new_pid_namespace_the_command_is_pid_1(options: dict[str, Any]) -> None:
    """The check of the parent, which it cannot see, does not fail."""
    assert check_output("echo $$", shell=True, namespaces=["pid"], **options) == b"1\n"


def test_a_holder_of_other_namespaces() -> None:
    with UsernsProcess(uid_map="root", namespaces=("net", "time")) as holder, holder.namespace("net") as net:
        assert net.inode != os.stat("/proc/self/ns/net").st_ino


@pytest.mark.parametrize(("namespaces", "error"), [(["mount"], ValueError), ("net", TypeError)])
def test_what_is_not_a_kind_is_refused(namespaces: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        UsernsProcess(["true"], namespaces=namespaces)


def test_without_clone3_all_but_time_work() -> None:
    """As under a seccomp profile, which cannot inspect its flags."""
    run_alone(privileges.without_clone3)


# ---- no_new_privs, ambient capabilities ----


@pytest.mark.parametrize("options", WAYS)
def test_no_new_privs(options: dict[str, Any]) -> None:
    assert status(no_new_privs=True, **options)["NoNewPrivs"] == "1"
    assert status(**options)["NoNewPrivs"] == "0"


@pytest.mark.parametrize("options", WAYS)
def test_inside_root_keeps_its_capabilities_under_no_new_privs(options: dict[str, Any]) -> None:
    """The execve(2) of the launcher does not drop any of them."""
    found = status(no_new_privs=True, **options)
    assert found["CapEff"] == found["CapBnd"]


@pytest.mark.root
def test_a_caller_under_no_new_privs_gets_a_full_inside_root_too() -> None:
    run_alone(privileges.under_no_new_privs)


@pytest.mark.root
@pytest.mark.parametrize("caps", [["net_admin", "CAP_CHOWN"], ["NET_ADMIN", 0], (12, 0)])
def test_ambient_capabilities_are_kept_by_another_user(caps: Any) -> None:
    found = status(ambient_caps=caps, user=5, **SHIFTED)
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(found[name], 16) == 1 << 12 | 1


def test_ambient_capabilities_are_kept_unmapped() -> None:
    found = status(ambient_caps=["sys_admin"])
    assert int(found["CapEff"], 16) == int(found["CapAmb"], 16) == 1 << 21


@pytest.mark.parametrize(("caps", "error"), [(["net"], ValueError), ([-1], ValueError), ("chown", TypeError)])
def test_what_is_not_a_capability_is_refused(caps: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        UsernsProcess(["true"], ambient_caps=caps)


def test_a_capability_that_the_kernel_does_not_know() -> None:
    with pytest.raises(UsernsError) as caught:
        UsernsProcess(["true"], ambient_caps=[61])
    assert caught.value.step == "capabilities"


def test_a_holder_has_no_use_for_ambient_capabilities() -> None:
    with pytest.raises(ValueError, match="a holder"):
        UsernsProcess(uid_map="root", ambient_caps=["chown"])


# ---- cgroup ----


def unified_hierarchy() -> Path:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    (mount_point,) = [line.split()[4] for line in lines if " - cgroup2 " in line][:1]
    return Path(mount_point)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    path = unified_hierarchy() / f"usernsproc-test-{os.getpid()}"
    path.mkdir()
    yield path
    path.rmdir()


def cgroup_of(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("0::")]
    return line


@pytest.mark.root
@pytest.mark.parametrize("options", WAYS)
def test_a_command_starts_in_the_cgroup(cgroup: Path, options: dict[str, Any]) -> None:
    """By path and by descriptor."""
    descriptor = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    for by in (cgroup, os.fsencode(cgroup), descriptor):
        output = check_output(["cat", "/proc/self/cgroup"], text=True, cgroup=by, **options)
        assert cgroup_of(output) == f"0::/{cgroup.name}"
    os.close(descriptor)


@pytest.mark.root
def test_a_holder_is_in_the_cgroup(cgroup: Path) -> None:
    with UsernsProcess(uid_map="root", cgroup=cgroup) as holder:
        assert (cgroup / "cgroup.procs").read_text() == f"{holder.pid}\n"


@pytest.mark.root
def test_without_clone3_it_is_placed_before_the_program_runs(cgroup: Path) -> None:
    output = run_alone(privileges.cgroup_without_clone3, str(cgroup))
    assert cgroup_of(output) == f"0::/{cgroup.name}"


def test_a_cgroup_of_another_user() -> None:
    run_alone(privileges.cgroup_of_another_user, str(unified_hierarchy()))
