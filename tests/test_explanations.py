"""Each row of the table of explanations, on recorded states of `/proc` and `/sys`.

Security modules and the settings of distributions do not exist on every machine:
a state is a few files, as they are on such a machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from errno import EACCES, EINVAL, ENOSPC, EPERM
from pathlib import Path

import pytest

from usernsproc._diagnosis.environment import Environment
from usernsproc._diagnosis.explanations import EXPLANATIONS, explain

Recorded = Callable[[Mapping[str, str]], Environment]

STATUS = """\
Name:	python
Uid:	{uid}	{uid}	{uid}	{uid}
Gid:	{gid}	{gid}	{gid}	{gid}
CapEff:	{capabilities}
NoNewPrivs:	{no_new_privs}
Seccomp:	{seccomp}
"""
ORDINARY = {"uid": "1000", "gid": "1000", "capabilities": "0000000000000000", "no_new_privs": "0", "seccomp": "0"}
WHOLE_MAP = "         0          0 4294967295\n"
MOUNTS = """\
1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 1 0:20 / /proc rw,nosuid - proc proc rw
23 22 0:30 / /proc/sys/fs/binfmt_misc rw,relatime - binfmt_misc binfmt_misc rw
"""
IN_A_CHROOT = "22 1 0:20 / /proc rw,nosuid - proc proc rw\n"
MASKED = "30 22 0:31 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw\n31 22 0:20 /sys /proc/sys ro - proc proc rw\n"

UBUNTU = {
    "proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
    "proc/self/attr/current": "unconfined\n",
}


def status(**changed: str) -> dict[str, str]:
    return {"proc/self/status": STATUS.format_map(ORDINARY | changed)}


USUAL = {
    **status(),
    "proc/self/uid_map": WHOLE_MAP,
    "proc/self/gid_map": WHOLE_MAP,
    "proc/self/mountinfo": MOUNTS,
    "proc/self/ns/user": "",
    "proc/sys/kernel/osrelease": "6.8.0-31-generic\n",
    "proc/sys/kernel/overflowuid": "65534\n",
    "proc/sys/kernel/overflowgid": "65534\n",
    "proc/sys/user/max_user_namespaces": "63500\n",
}
ABSENT = "absent"


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    """Return the usual state with these files changed."""

    def read(changed: Mapping[str, str]) -> Environment:
        for name, text in {**USUAL, **changed}.items():
            if text is not ABSENT:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text(text)
        return Environment.read(tmp_path)

    return read


CASES: list[tuple[str, str, int, dict[str, str], str]] = [
    ("no-user-namespaces", "clone", EINVAL, {"proc/self/ns/user": ABSENT}, "CONFIG_USER_NS"),
    ("own-id-unmapped", "clone", EPERM, {**status(uid="65534"), "proc/self/uid_map": ""}, "not mapped"),
    ("own-id-unmapped", "clone", EPERM, {**status(gid="65534"), "proc/self/gid_map": "0 1000 1\n"}, "not mapped"),
    ("own-id-unmapped", "uid_map", EPERM, {**status(uid="65534"), "proc/self/uid_map": ""}, "not mapped"),
    ("chroot", "clone", EPERM, {"proc/self/mountinfo": IN_A_CHROOT}, "pivot_root"),
    (
        "unprivileged-userns-clone",
        "clone",
        EPERM,
        {"proc/sys/kernel/unprivileged_userns_clone": "0\n"},
        "kernel.unprivileged_userns_clone=1",
    ),
    ("container-seccomp", "clone", EPERM, {**status(seccomp="2"), ".dockerenv": ""}, "(docker)"),
    ("container-seccomp", "clone", EPERM, {**status(seccomp="2"), "run/.containerenv": ""}, "(podman)"),
    (
        "container-seccomp",
        "clone",
        EPERM,
        {**status(seccomp="2"), "run/systemd/container": "systemd-nspawn\n"},
        "(systemd-nspawn)",
    ),
    ("container-seccomp", "clone", EPERM, {**status(seccomp="2"), "proc/1/environ": "A=b\0container=lxc\0"}, "(lxc)"),
    ("seccomp", "clone", EPERM, status(seccomp="2"), "RestrictNamespaces="),
    ("apparmor-userns", "clone", EACCES, UBUNTU, "apparmor_parser"),
    ("apparmor-userns", "clone", EPERM, UBUNTU, "label of this one is unconfined"),
    ("apparmor-userns", "uid_map", EPERM, UBUNTU, "grants it no capabilities in it"),
    ("apparmor-userns", "uid_map", EACCES, UBUNTU, "grants it no capabilities in it"),
    ("apparmor-userns", "propagation", EACCES, UBUNTU, "'userns,'"),
    ("apparmor-userns", "mount_proc", EACCES, UBUNTU, "'userns,'"),
    ("apparmor-userns", "loopback", EPERM, UBUNTU, "'userns,'"),
    (
        "selinux-userns",
        "clone",
        EACCES,
        {"sys/fs/selinux/enforce": "1", "proc/self/attr/current": "system_u:system_r:container_t:s0\0"},
        "system_u:system_r:container_t:s0",
    ),
    ("userns-forbidden", "clone", ENOSPC, {"proc/sys/user/max_user_namespaces": "0\n"}, "disable-userns"),
    ("max-user-namespaces", "clone", ENOSPC, {}, "63500 here"),
    ("proc-masked", "mount_proc", EPERM, {"proc/self/mountinfo": MOUNTS + MASKED}, "/proc/kcore, /proc/sys"),
]


@pytest.mark.parametrize(("cause", "step", "errno", "changed", "words"), CASES)
def test_the_row_that_applies_is_reported(
    recorded: Recorded, cause: str, step: str, errno: int, changed: dict[str, str], words: str
) -> None:
    around = recorded(changed)
    row = explain(step, errno, around)
    assert row
    assert row.cause == cause
    assert words in " ".join(row.describe(around))


def test_each_row_has_been_reported() -> None:
    """No row is hidden by an earlier one."""
    reported = {(cause, step) for cause, step, *_ in CASES}
    assert {row.cause for row in EXPLANATIONS if not {(row.cause, step) for step in row.steps} & reported} == set()


@pytest.mark.parametrize(
    ("step", "errno", "changed"),
    [
        ("clone", EPERM, {}),
        ("clone", EACCES, {}),
        ("clone", EINVAL, {}),
        ("uid_map", EPERM, {}),
        ("mount_proc", EPERM, {}),
        # Root needs no permission from that switch.
        (
            "clone",
            EPERM,
            {
                **status(uid="0", capabilities="000001ffffffffff"),
                "proc/sys/kernel/unprivileged_userns_clone": "0\n",
            },
        ),
        ("clone", EPERM, {"proc/sys/kernel/unprivileged_userns_clone": "1\n"}),
        # The overflow ID, but mapped.
        ("clone", EPERM, status(uid="65534", gid="65534")),
        ("clone", EACCES, {"sys/fs/selinux/enforce": "0"}),
        ("exec", EACCES, UBUNTU),
    ],
)
def test_what_the_environment_does_not_show_is_not_guessed(
    recorded: Recorded, step: str, errno: int, changed: dict[str, str]
) -> None:
    assert explain(step, errno, recorded(changed)) is None


def test_what_was_refused_without_asking_the_kernel_has_its_own_reason(recorded: Recorded) -> None:
    """AppArmor is not blamed for a user without subordinate IDs."""
    assert explain("uid_map", EPERM, recorded(UBUNTU), foreseen=True) is None
    unmapped = explain("uid_map", EPERM, recorded({**status(uid="65534"), "proc/self/uid_map": ""}), foreseen=True)
    assert unmapped
    assert unmapped.cause == "own-id-unmapped"


def test_nothing_can_be_read(tmp_path: Path) -> None:
    """As in a chroot without `/proc`: nothing is known, and nothing is guessed."""
    around = Environment.read(tmp_path)
    assert (around.kernel, around.max_user_namespaces, around.chroot, around.container) == (None,) * 4
    assert explain("clone", EPERM, around) is None


def test_the_environment_of_this_process() -> None:
    around = Environment.read()
    assert around.kernel == os.uname().release
    assert around.has_user_namespaces
    assert around.own_ids_mapped
    assert around.max_user_namespaces
    assert around.capabilities == int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16)
