"""Why a step failed, determined from its errno and what was observed: data, and a search in it.

An errno alone has several likely causes (`_causes.py`). If the environment, or the outcome of the other trials,
shows which one it is, a row of this table explains it. The rows were measured, or reported by users of other
tools. The first row that applies is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import EACCES, EINVAL, ENOSPC, ENOSYS, EPERM
from typing import NamedTuple

from .._caller import CAP_SYS_ADMIN
from .environment import Environment


class Seen(NamedTuple):
    """What is known when a failure is explained."""

    environment: Environment
    works: Mapping[str, bool] = {}
    """The outcome of the trials, by ability. Empty for an exception."""


class Failure(NamedTuple):
    """What failed."""

    step: str | None
    errno: int | None
    call: str | None = None
    """The system call of a set-up step."""
    is_foreseen: bool = False
    """Whether it was refused before the kernel was asked."""


@dataclass(frozen=True)
class Explanation:
    """A row of the table: what it explains, when it applies, and its text."""

    cause: str
    steps: tuple[str, ...]
    """Steps; system calls of set-up steps, as `mount()`."""
    errnos: tuple[int, ...]
    applies: Callable[[Seen], bool]
    reason: str
    """A format string with names of `Environment`."""
    remedy: str
    """The same; the least invasive change comes first."""
    is_foreseen: bool = False
    """Whether it also explains what is refused before the kernel is asked."""
    of_trials: bool = False
    """Whether it holds only for a trial, which has all capabilities in new namespaces."""

    def describe(self, environment: Environment) -> tuple[str, str]:
        """The reason and the remedy."""
        values = environment._asdict() | {
            "proc_mounts": ", ".join(environment.proc_mounts),
            "limits": ", ".join(f"user.max_{kind}_namespaces" for kind in environment.forbidden_kinds),
        }
        return self.reason.format(**values), self.remedy.format(**values)


def explain(failure: Failure, seen: Seen, *, of_trial: bool = True) -> Explanation | None:
    """The row for a failed step, if what was seen shows why."""
    for row in EXPLANATIONS:
        if (failure.is_foreseen and not row.is_foreseen) or (row.of_trials and not of_trial):
            continue
        is_step = failure.step in row.steps or f"{failure.call}()" in row.steps
        if is_step and failure.errno in row.errnos and row.applies(seen):
            return row
    return None


# ---- conditions ----


def _is_privileged(seen: Seen) -> bool:
    """Root of a user namespace below the initial one is as unprivileged as the user that has created it."""
    return seen.environment.in_initial_userns and bool(seen.environment.capabilities >> CAP_SYS_ADMIN & 1)


def _is_older(seen: Seen, major: int, minor: int) -> bool:
    numbers = (seen.environment.kernel or "").split("-", 1)[0].split(".")[:2]
    return all(map(str.isdigit, numbers)) and len(numbers) == 2 and tuple(map(int, numbers)) < (major, minor)


def _has_filter(seen: Seen) -> bool:
    return seen.environment.seccomp


def _has_filter_of_container(seen: Seen) -> bool:
    return seen.environment.seccomp and seen.environment.container is not None


def _apparmor_restricts(seen: Seen) -> bool:
    return seen.environment.apparmor_restricts and not _is_privileged(seen)


def _is_confined(seen: Seen) -> bool:
    return (seen.environment.label or "").endswith("(enforce)")


# ---- the table ----

CLONE = ("clone",)
MAPS = ("setgroups", "uid_map", "gid_map")
_NEW_CALLS = ("fsopen", "fsconfig", "fsmount", "open_tree", "move_mount", "mount_setattr")
_MOUNTING = (
    *("propagation", "mount_proc", "mount()", "umount2()", "pivot_root()"),
    *(f"{call}()" for call in _NEW_CALLS),
)
_INSIDE = (*_MOUNTING, "Loopback")
_CERTAIN = (*_INSIDE, *_NEW_CALLS, "setns", "Seccomp")
"""What Linux 5.13 has whatever its configuration: if it is missing, a filter hides it."""
_PROC = ("mount_proc", "Proc")

_APPARMOR_PROFILE = "Let root load a profile for this program with the rule 'userns,' (apparmor_parser -r)."
_OTHER_PROFILE = (
    "Start the container with a profile that allows clone, unshare and mount for unprivileged users "
    "(--security-opt seccomp=FILE; Kubernetes: seccompProfile)."
)
_SERVICE = (
    "In a systemd service, omit RestrictNamespaces= or allow user in it, and allow @mount in "
    "SystemCallFilter=. Otherwise find out which program started this process with the filter."
)

_REFUSED_BY_CONTAINER = "Likely: the seccomp profile of this container ({container}) refuses the system call."
_REFUSED = "Likely: a seccomp filter on this process refuses the system call."

_OF_CLONE = (
    Explanation(
        "no-user-namespaces",
        CLONE,
        (EINVAL,),
        lambda seen: not seen.environment.has_user_namespaces,
        "The kernel {kernel} was built without user namespaces (CONFIG_USER_NS).",
        "Use another kernel.",
    ),
    Explanation(
        "kernel-too-old",
        CLONE,
        (EINVAL, ENOSYS),
        lambda seen: _is_older(seen, 5, 4),
        "The kernel {kernel} is older than Linux 5.4, which this library requires.",
        "Use a newer kernel.",
    ),
    Explanation(
        "own-id-unmapped",
        (*CLONE, *MAPS),
        (EPERM,),
        lambda seen: not seen.environment.own_ids_mapped,
        "The user or group ID of this process is not mapped in its user namespace.",
        "Create the outer namespace with a map of that ID, or run as an ID that it maps.",
        is_foreseen=True,
    ),
    Explanation(
        "chroot",
        CLONE,
        (EPERM,),
        lambda seen: seen.environment.chroot is True,
        "This process runs in a chroot, where the kernel does not allow new user namespaces.",
        "Use pivot_root(2) in a mount namespace instead of chroot(2).",
    ),
    Explanation(
        "unprivileged-userns-clone",
        CLONE,
        (EPERM,),
        lambda seen: seen.environment.unprivileged_userns_clone is False and not _is_privileged(seen),
        "kernel.unprivileged_userns_clone is 0: only root can create user namespaces here.",
        "Let root set it: sysctl -w kernel.unprivileged_userns_clone=1.",
    ),
    Explanation(
        "container-seccomp",
        CLONE,
        (EPERM, ENOSYS),
        _has_filter_of_container,
        "Likely: the seccomp profile of this container ({container}) refuses new user namespaces.",
        _OTHER_PROFILE,
    ),
    Explanation(
        "seccomp",
        CLONE,
        (EPERM, ENOSYS),
        _has_filter,
        "Likely: a seccomp filter on this process refuses new user namespaces.",
        _SERVICE,
    ),
    Explanation(
        "apparmor-userns",
        CLONE,
        (EACCES, EPERM),
        _apparmor_restricts,
        "AppArmor refuses user namespaces for programs without a profile that allows them "
        "(kernel.apparmor_restrict_unprivileged_userns is 1); the label of this one is {label}.",
        _APPARMOR_PROFILE,
    ),
    Explanation(
        "selinux-userns",
        CLONE,
        (EACCES,),
        lambda seen: seen.environment.selinux_enforces,
        "SELinux denies {label} the permission user_namespace create.",
        "Let root allow it for that domain in a policy module (ausearch -m avc shows the denial).",
    ),
    Explanation(
        "userns-forbidden",
        CLONE,
        (ENOSPC,),
        lambda seen: seen.environment.max_user_namespaces == 0,
        "user.max_user_namespaces is 0, which forbids them.",
        "Let root set it: sysctl -w user.max_user_namespaces=15000. Inside bwrap "
        "--disable-userns this cannot be changed; start the sandbox without that option.",
    ),
    Explanation(
        "namespaces-forbidden",
        CLONE,
        (ENOSPC,),
        lambda seen: bool(seen.environment.forbidden_kinds) and seen.works.get("userns", True),
        "{limits} is 0, which forbids namespaces of that kind.",
        "Let root set it to 15000 with sysctl -w.",
    ),
    Explanation(
        "max-user-namespaces",
        CLONE,
        (ENOSPC,),
        lambda seen: seen.environment.max_user_namespaces is not None,
        "user.max_user_namespaces ({max_user_namespaces} here; each outer user namespace has its own, which may "
        "be lower or 0) is reached, or user namespaces are nested 33 deep.",
        "Close namespaces that are no longer needed (usernsproc ls shows them), or let root raise the limit. Inside "
        "bwrap --disable-userns this cannot be changed; start the sandbox without that option.",
    ),
)

_OF_WHAT_IS_DONE_INSIDE = (
    Explanation(
        "apparmor-userns",
        (*MAPS, *_INSIDE, "setns", "setid", "capabilities"),
        (EPERM, EACCES),
        _apparmor_restricts,
        "AppArmor lets this program (label {label}) create a user namespace, but grants it no capabilities in "
        "it (kernel.apparmor_restrict_unprivileged_userns is 1).",
        _APPARMOR_PROFILE,
    ),
    Explanation(
        "apparmor-profile",
        _MOUNTING,
        (EACCES, EPERM),
        _is_confined,
        "Likely: the AppArmor profile of this process ({label}) does not allow mounts.",
        "Start the container with --security-opt apparmor=unconfined, or allow mount and pivot_root in the profile.",
        of_trials=True,
    ),
    Explanation(
        "selinux-mount",
        _MOUNTING,
        (EACCES,),
        lambda seen: seen.environment.selinux_enforces,
        "Likely: SELinux denies {label} this mount.",
        "Let root allow it for that domain in a policy module (ausearch -m avc shows the denial).",
        of_trials=True,
    ),
    Explanation(
        "proc-masked",
        _PROC,
        (EPERM,),
        lambda seen: bool(seen.environment.proc_mounts) and seen.works.get("mount", True),
        "Parts of /proc are masked here ({proc_mounts}), so the kernel does not allow a new /proc mount in a "
        "user namespace.",
        "Bind-mount the existing /proc instead, or start the container without the masks (podman: "
        "--security-opt unmask=ALL; docker: --security-opt systempaths=unconfined; Kubernetes: procMount: Unmasked).",
    ),
    Explanation(
        "overlay-too-old",
        ("Overlay",),
        (EPERM,),
        lambda seen: _is_older(seen, 5, 11),
        "An overlay in a user namespace requires Linux 5.11, and this kernel is {kernel}.",
        "Use a newer kernel, or fuse-overlayfs.",
    ),
    Explanation(
        "container-seccomp",
        _CERTAIN,
        (ENOSYS,),
        lambda seen: _has_filter_of_container(seen) and not _is_older(seen, 5, 13),
        _REFUSED_BY_CONTAINER,
        _OTHER_PROFILE,
    ),
    Explanation(
        "container-seccomp",
        _INSIDE,
        (EPERM,),
        _has_filter_of_container,
        _REFUSED_BY_CONTAINER,
        _OTHER_PROFILE,
        of_trials=True,
    ),
    Explanation(
        "seccomp",
        _CERTAIN,
        (ENOSYS,),
        lambda seen: _has_filter(seen) and not _is_older(seen, 5, 13),
        _REFUSED,
        _SERVICE,
    ),
    Explanation(
        "seccomp",
        ("propagation",),
        (EPERM,),
        _has_filter,
        _REFUSED,
        _SERVICE,
    ),
    Explanation(
        "seccomp",
        (*_INSIDE, "setns", "Landlock", "Seccomp"),
        (EPERM,),
        _has_filter,
        _REFUSED,
        _SERVICE,
        of_trials=True,
    ),
)

EXPLANATIONS: tuple[Explanation, ...] = _OF_CLONE + _OF_WHAT_IS_DONE_INSIDE
