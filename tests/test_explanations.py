"""Each row of the table of explanations, on recorded states of `/proc` and `/sys`.

Security modules and the settings of distributions do not exist on every machine:
a state is a few files, as they are on such a machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from errno import EACCES, EINVAL, ENOSPC, ENOSYS, EPERM
from pathlib import Path

import pytest

from usernsproc._diagnosis.environment import Environment
from usernsproc._diagnosis.explanations import EXPLANATIONS, Explanation, Failure, Seen, explain

KIND_OF_CONTAINER = {
    "proc/self/mountinfo": "1 0 0:40 / / rw - overlay overlay rw\n22 1 0:20 / /proc rw,nosuid - proc proc rw\n",
    "proc/self/ns/uts": "link uts:[4026532500]",
}
"""Of a process in a container: a root file system made of layers, and namespaces that are not the initial ones."""

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
    "proc/self/ns/user": "link user:[4026531837]",
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
            if text is ABSENT:
                continue
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).unlink(missing_ok=True)
            if text.startswith("link "):
                (tmp_path / name).symlink_to(text.removeprefix("link "))
            else:
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
    # Root of a nested user namespace.
    (
        "unprivileged-userns-clone",
        "clone",
        EPERM,
        {
            **status(uid="0", capabilities="000001ffffffffff"),
            "proc/self/ns/user": "link user:[4026532600]",
            "proc/sys/kernel/unprivileged_userns_clone": "0\n",
        },
        "kernel.unprivileged_userns_clone=1",
    ),
    ("container-seccomp", "clone", EPERM, {**status(seccomp="2"), **KIND_OF_CONTAINER, ".dockerenv": ""}, "(docker)"),
    (
        "container-seccomp",
        "clone",
        ENOSYS,
        {**status(seccomp="2"), **KIND_OF_CONTAINER, "run/.containerenv": ""},
        "(podman)",
    ),
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
    ("apparmor-userns", "Loopback", EPERM, UBUNTU, "'userns,'"),
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
    ("kernel-too-old", "clone", EINVAL, {"proc/sys/kernel/osrelease": "3.10.0-1160.el7.x86_64\n"}, "5.4"),
    ("namespaces-forbidden", "clone", ENOSPC, {"proc/sys/user/max_net_namespaces": "0\n"}, "max_net_namespaces is 0"),
    ("apparmor-userns", "mount()", EACCES, UBUNTU, "'userns,'"),
    ("apparmor-profile", "move_mount()", EACCES, {"proc/self/attr/current": "docker-default (enforce)\n"}, "apparmor="),
    (
        "selinux-mount",
        "fsmount()",
        EACCES,
        {"sys/fs/selinux/enforce": "1", "proc/self/attr/current": "system_u:system_r:container_t:s0\0"},
        "container_t",
    ),
    ("overlay-too-old", "Overlay", EPERM, {"proc/sys/kernel/osrelease": "5.10.0-28-amd64\n"}, "5.11"),
    ("container-seccomp", "propagation", EPERM, {**status(seccomp="2"), "run/systemd/container": "oci\n"}, "(oci)"),
    ("container-seccomp", "open_tree", ENOSYS, {**status(seccomp="2"), "run/systemd/container": "oci\n"}, "(oci)"),
    ("container-seccomp", "Loopback", EPERM, {**status(seccomp="2"), "run/systemd/container": "oci\n"}, "(oci)"),
    ("seccomp", "propagation", EPERM, status(seccomp="2"), "refuses the system call"),
    ("seccomp", "mount()", EPERM, status(seccomp="2"), "refuses the system call"),
    ("seccomp", "Landlock", EPERM, status(seccomp="2"), "refuses the system call"),
    ("seccomp", "fsopen()", ENOSYS, status(seccomp="2"), "refuses the system call"),
    ("seccomp", "open_tree", ENOSYS, status(seccomp="2"), "refuses the system call"),
]


def failure(step: str, errno: int, *, foreseen: bool = False) -> Failure:
    """Of a step, or of a set-up step whose call has failed, written as `mount()`."""
    if step.endswith("()"):
        return Failure("Bind", errno, step.removesuffix("()"), foreseen)
    return Failure(step, errno, None, foreseen)


def row_for(step: str, errno: int, environment: Environment, **options: bool) -> Explanation | None:
    return explain(failure(step, errno, **options), Seen(environment))


@pytest.mark.parametrize(("cause", "step", "errno", "changed", "words"), CASES)
def test_the_row_that_applies_is_reported(
    recorded: Recorded, cause: str, step: str, errno: int, changed: dict[str, str], words: str
) -> None:
    around = recorded(changed)
    row = row_for(step, errno, around)
    assert row
    assert row.cause == cause
    assert words in " ".join(row.describe(around))


def test_each_row_has_been_reported() -> None:
    """No row is hidden by an earlier one."""
    reported = {(cause, step, errno) for cause, step, errno, *_ in CASES}
    of_rows = [{(row.cause, step, errno) for step in row.steps for errno in row.errnos} for row in EXPLANATIONS]
    assert [row for row in of_rows if not row & reported] == []


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
        # Root is not restricted by AppArmor.
        ("uid_map", EPERM, {**UBUNTU, **status(uid="0", capabilities="000001ffffffffff")}),
        # A filter alone does not mean that an unprivileged user could do more without it.
        ("open_tree", EPERM, status(seccomp="2")),
        # A kernel may be built without Landlock.
        ("Landlock", ENOSYS, status(seccomp="2")),
        # Before Linux 5.13 the call may be missing.
        ("open_tree()", ENOSYS, {**status(seccomp="2"), "proc/sys/kernel/osrelease": "5.10.0\n"}),
    ],
)
def test_what_the_environment_does_not_show_is_not_guessed(
    recorded: Recorded, step: str, errno: int, changed: dict[str, str]
) -> None:
    assert row_for(step, errno, recorded(changed)) is None


def test_what_other_trials_have_shown_decides(recorded: Recorded) -> None:
    """If no mount works, the masks of `/proc` are not the reason; if no user namespace does, no other limit is."""
    around = recorded({"proc/self/mountinfo": MOUNTS + MASKED, **status(seccomp="2")})
    found = [explain(failure("mount_proc", EPERM), Seen(around, {"mount": works})) for works in (True, False)]
    assert [row and row.cause for row in found] == ["proc-masked", "seccomp"]
    limited = recorded({"proc/sys/user/max_net_namespaces": "0\n"})
    found = [explain(failure("clone", ENOSPC), Seen(limited, {"userns": works})) for works in (True, False)]
    assert [row and row.cause for row in found] == ["namespaces-forbidden", "max-user-namespaces"]


def test_an_exception_is_explained_by_what_is_certain(recorded: Recorded) -> None:
    """The caller of a set-up step may lack the rights that a trial of the doctor has."""
    around = recorded(status(seccomp="2"))
    found = [explain(failure(step, EPERM), Seen(around), of_trial=False) for step in ("clone", "mount()")]
    assert [row and row.cause for row in found] == ["seccomp", None]


SIGNS: list[tuple[dict[str, str], str | None]] = [
    ({**KIND_OF_CONTAINER, ".dockerenv": ""}, "docker"),
    ({**KIND_OF_CONTAINER, "run/.containerenv": ""}, "podman"),
    # Files of /etc that an engine has mounted.
    (
        {
            "proc/self/ns/pid": "link pid:[4026532500]",
            "proc/self/mountinfo": MOUNTS + "40 1 8:1 /c/hosts /etc/hosts rw - ext4 /dev/sda1 rw\n",
            ".dockerenv": "",
        },
        "docker",
    ),
    # A virtual machine that was made from an image: the namespaces are the initial ones, or the root is a disk.
    ({".dockerenv": ""}, None),
    ({**KIND_OF_CONTAINER, "proc/self/ns/uts": "link uts:[4026531838]", ".dockerenv": ""}, None),
    ({"proc/self/ns/uts": "link uts:[4026532500]", ".dockerenv": ""}, None),
    # A sandbox or a machine whose root is an overlay, without a mark.
    (KIND_OF_CONTAINER, None),
    ({"run/host/container-manager": "podman\n", ".dockerenv": ""}, "podman"),
    ({"proc/sys/kernel/osrelease": "5.15.90.1-microsoft-standard-WSL2\n", "run/WSL": ""}, "wsl"),
]


@pytest.mark.parametrize(("changed", "expected"), SIGNS)
def test_a_container_is_known_by_several_signs(
    recorded: Recorded, changed: dict[str, str], expected: str | None
) -> None:
    assert recorded(changed).container == expected


@pytest.mark.parametrize(
    ("cgroups", "expected"),
    [
        ("0::/system.slice/build.service\n", "build.service"),
        ("1:name=systemd:/system.slice/build.service/sub\n0::/\n", "build.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app.service\n", None),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", None),
        ("0::/\n", None),
    ],
)
def test_the_service_of_the_process(recorded: Recorded, cgroups: str, expected: str | None) -> None:
    assert recorded({"proc/self/cgroup": cgroups}).service == expected


def test_what_was_refused_without_asking_the_kernel_has_its_own_reason(recorded: Recorded) -> None:
    """AppArmor is not blamed for a user without subordinate IDs."""
    assert row_for("uid_map", EPERM, recorded(UBUNTU), foreseen=True) is None
    unmapped = row_for("uid_map", EPERM, recorded({**status(uid="65534"), "proc/self/uid_map": ""}), foreseen=True)
    assert unmapped
    assert unmapped.cause == "own-id-unmapped"


def test_nothing_can_be_read(tmp_path: Path) -> None:
    """As in a chroot without `/proc`: nothing is known, and nothing is guessed."""
    around = Environment.read(tmp_path)
    assert (around.kernel, around.max_user_namespaces, around.chroot, around.container) == (None,) * 4
    assert row_for("clone", EPERM, around) is None


def test_the_environment_of_this_process() -> None:
    around = Environment.read()
    assert around.kernel == os.uname().release
    assert around.has_user_namespaces
    assert around.own_ids_mapped
    assert around.max_user_namespaces
    assert around.capabilities == int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16)
