"""Why a step failed, determined from its errno and the environment.

An errno alone has several likely causes (`_causes.py`). If the environment shows which one it
is, a row of this table explains it. The rows were measured, or reported by users of other
tools. The first row that applies is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from errno import EACCES, EINVAL, ENOSPC, EPERM

from .._caller import CAP_SYS_ADMIN
from .environment import Environment


@dataclass(frozen=True)
class Explanation:
    """A row of the table: what it explains, when it applies, and its text."""

    cause: str
    steps: tuple[str, ...]
    errnos: tuple[int, ...]
    applies: Callable[[Environment], bool]
    reason: str
    """A format string with names of `Environment`."""
    remedy: str
    """The same; the least invasive change comes first."""
    is_foreseen: bool = False
    """Whether it also explains what is refused before the kernel is asked."""

    def describe(self, env: Environment) -> tuple[str, str]:
        """The reason and the remedy."""
        values = env._asdict() | {"proc_mounts": ", ".join(env.proc_mounts)}
        return self.reason.format(**values), self.remedy.format(**values)


def _is_privileged(env: Environment) -> bool:
    return bool(env.capabilities >> CAP_SYS_ADMIN & 1)


_CLONE = ("clone",)
_MAPS = ("setgroups", "uid_map", "gid_map")
_INSIDE = ("propagation", "mount_proc", "loopback")
_APPARMOR_PROFILE = "Let root load a profile for this program with the rule 'userns,' (apparmor_parser -r)."

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        cause="no-user-namespaces",
        steps=_CLONE,
        errnos=(EINVAL,),
        applies=lambda env: not env.has_user_namespaces,
        reason="The kernel {kernel} was built without user namespaces (CONFIG_USER_NS).",
        remedy="Use another kernel.",
    ),
    Explanation(
        cause="own-id-unmapped",
        steps=(*_CLONE, *_MAPS),
        errnos=(EPERM,),
        applies=lambda env: not env.own_ids_mapped,
        reason="The user or group ID of this process is not mapped in its user namespace.",
        remedy="Create the outer namespace with a map of that ID, or run as an ID that it maps.",
        is_foreseen=True,
    ),
    Explanation(
        cause="chroot",
        steps=_CLONE,
        errnos=(EPERM,),
        applies=lambda env: env.chroot is True,
        reason="This process runs in a chroot, where the kernel does not allow new user namespaces.",
        remedy="Use pivot_root(2) in a mount namespace instead of chroot(2).",
    ),
    Explanation(
        cause="unprivileged-userns-clone",
        steps=_CLONE,
        errnos=(EPERM,),
        applies=lambda env: env.unprivileged_userns_clone is False and not _is_privileged(env),
        reason="kernel.unprivileged_userns_clone is 0: only root can create user namespaces here.",
        remedy="Let root set it: sysctl -w kernel.unprivileged_userns_clone=1.",
    ),
    Explanation(
        cause="container-seccomp",
        steps=_CLONE,
        errnos=(EPERM,),
        applies=lambda env: env.seccomp and env.container is not None,
        reason="Likely: the seccomp profile of this container ({container}) refuses new user namespaces.",
        remedy="Start the container with a profile that allows clone, unshare and mount for unprivileged users "
        "(--security-opt seccomp=FILE; Kubernetes: seccompProfile).",
    ),
    Explanation(
        cause="seccomp",
        steps=_CLONE,
        errnos=(EPERM,),
        applies=lambda env: env.seccomp,
        reason="Likely: a seccomp filter on this process refuses new user namespaces.",
        remedy="In a systemd service, omit RestrictNamespaces= or allow user in it, and allow @mount in "
        "SystemCallFilter=. Otherwise find out which program started this process with the filter.",
    ),
    Explanation(
        cause="apparmor-userns",
        steps=_CLONE,
        errnos=(EACCES, EPERM),
        applies=lambda env: env.apparmor_restricts,
        reason="AppArmor refuses user namespaces for programs without a profile that allows them "
        "(kernel.apparmor_restrict_unprivileged_userns is 1); the label of this one is {label}.",
        remedy=_APPARMOR_PROFILE,
    ),
    Explanation(
        cause="selinux-userns",
        steps=_CLONE,
        errnos=(EACCES,),
        applies=lambda env: env.selinux_enforces,
        reason="SELinux denies {label} the permission user_namespace create.",
        remedy="Let root allow it for that domain in a policy module (ausearch -m avc shows the denial).",
    ),
    Explanation(
        cause="userns-forbidden",
        steps=_CLONE,
        errnos=(ENOSPC,),
        applies=lambda env: env.max_user_namespaces == 0,
        reason="user.max_user_namespaces is 0, which forbids them.",
        remedy="Let root set it: sysctl -w user.max_user_namespaces=15000. Inside bwrap "
        "--disable-userns this cannot be changed; start the sandbox without that option.",
    ),
    Explanation(
        cause="max-user-namespaces",
        steps=_CLONE,
        errnos=(ENOSPC,),
        applies=lambda env: env.max_user_namespaces is not None,
        reason="user.max_user_namespaces ({max_user_namespaces} here; each outer user namespace has its own, which may "
        "be 0) is reached, or user namespaces are nested 33 deep.",
        remedy="Close namespaces that are no longer needed (usernsproc ls shows them), or let root raise the limit.",
    ),
    Explanation(
        cause="apparmor-userns",
        steps=(*_MAPS, *_INSIDE),
        errnos=(EPERM, EACCES),
        applies=lambda env: env.apparmor_restricts,
        reason="AppArmor lets this program (label {label}) create a user namespace, but grants it no capabilities in "
        "it (kernel.apparmor_restrict_unprivileged_userns is 1).",
        remedy=_APPARMOR_PROFILE,
    ),
    Explanation(
        cause="proc-masked",
        steps=("mount_proc",),
        errnos=(EPERM,),
        applies=lambda env: bool(env.proc_mounts),
        reason="Parts of /proc are masked here ({proc_mounts}), so the kernel does not allow a new /proc mount in a "
        "user namespace.",
        remedy="Bind-mount the existing /proc instead, or start the container without the masks (podman: "
        "--security-opt unmask=ALL; docker: --security-opt systempaths=unconfined; Kubernetes: procMount: Unmasked).",
    ),
)


def explain(step: str | None, errno: int | None, env: Environment, *, foreseen: bool = False) -> Explanation | None:
    """The row for a failed step, if the environment shows why; *foreseen*: the kernel was not asked."""
    for row in EXPLANATIONS:
        if foreseen and not row.is_foreseen:
            continue
        if step in row.steps and errno in row.errnos and row.applies(env):
            return row
    return None
