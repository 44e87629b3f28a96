"""Why a step failed, told from the errno and the surroundings: the one table of that.

An error alone has several likely causes (`_causes.py`). Here one is picked, where the
surroundings show which. The rows were measured, or reported by users of other tools; the first one that
applies is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from errno import EACCES, EINVAL, ENOSPC, EPERM

from .._caller import CAP_SYS_ADMIN
from .surroundings import Surroundings


@dataclass(frozen=True)
class Explanation:
    """A row: what it explains, when, and in which words."""

    cause: str
    steps: tuple[str, ...]
    errnos: tuple[int, ...]
    applies: Callable[[Surroundings], bool]
    reason: str
    """With names of `Surroundings` to be filled in."""
    remedy: str
    """What changes least comes first."""
    is_foreseen: bool = False
    """It explains also what is refused before the kernel is asked."""

    def told(self, around: Surroundings) -> tuple[str, str]:
        """The reason and the remedy."""
        values = around._asdict() | {"proc_mounts": ", ".join(around.proc_mounts)}
        return self.reason.format(**values), self.remedy.format(**values)


def _is_privileged(around: Surroundings) -> bool:
    return bool(around.capabilities >> CAP_SYS_ADMIN & 1)


_CLONE = ("clone",)
_MAPS = ("setgroups", "uid_map", "gid_map")
_INSIDE = ("propagation", "mount_proc", "loopback")
_APPARMOR_PROFILE = "Let root load a profile for this program with the rule 'userns,' (apparmor_parser -r)."

EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        cause="no-user-namespaces",
        steps=_CLONE,
        errnos=(EINVAL,),
        applies=lambda around: not around.has_user_namespaces,
        reason="The kernel {kernel} was built without user namespaces (CONFIG_USER_NS).",
        remedy="It takes another kernel.",
    ),
    Explanation(
        cause="own-id-unmapped",
        steps=(*_CLONE, *_MAPS),
        errnos=(EPERM,),
        applies=lambda around: not around.own_ids_mapped,
        reason="The own user or group id is not mapped in the user namespace that this process is in.",
        remedy="Have the outer namespace made with a map of that id, or become one that it maps.",
        is_foreseen=True,
    ),
    Explanation(
        cause="chroot",
        steps=_CLONE,
        errnos=(EPERM,),
        applies=lambda around: around.chroot is True,
        reason="This process runs in a chroot, where the kernel makes no user namespaces.",
        remedy="Use pivot_root(2) in a mount namespace instead of chroot(2).",
    ),
    Explanation(
        cause="unprivileged-userns-clone",
        steps=_CLONE,
        errnos=(EPERM,),
        applies=lambda around: around.unprivileged_userns_clone is False and not _is_privileged(around),
        reason="kernel.unprivileged_userns_clone is 0: only root makes user namespaces here.",
        remedy="Let root set it: sysctl -w kernel.unprivileged_userns_clone=1.",
    ),
    Explanation(
        cause="container-seccomp",
        steps=_CLONE,
        errnos=(EPERM,),
        applies=lambda around: around.seccomp and around.container is not None,
        reason="Likely: the seccomp profile of this container ({container}) refuses new user namespaces.",
        remedy="Start the container with a profile that allows clone, unshare and mount to ordinary users "
        "(--security-opt seccomp=FILE; Kubernetes: seccompProfile).",
    ),
    Explanation(
        cause="seccomp",
        steps=_CLONE,
        errnos=(EPERM,),
        applies=lambda around: around.seccomp,
        reason="Likely: a seccomp filter on this process refuses new user namespaces.",
        remedy="In a service of systemd: leave out RestrictNamespaces=, or allow user there, and @mount in "
        "SystemCallFilter=. Otherwise see what started this process.",
    ),
    Explanation(
        cause="apparmor-userns",
        steps=_CLONE,
        errnos=(EACCES, EPERM),
        applies=lambda around: around.apparmor_restricts,
        reason="AppArmor refuses user namespaces to programs without a profile that allows them "
        "(kernel.apparmor_restrict_unprivileged_userns is 1); this one is called {label}.",
        remedy=_APPARMOR_PROFILE,
    ),
    Explanation(
        cause="selinux-userns",
        steps=_CLONE,
        errnos=(EACCES,),
        applies=lambda around: around.selinux_enforces,
        reason="SELinux refuses the permission user_namespace create to {label}.",
        remedy="Let root allow it to that domain by a policy module (ausearch -m avc tells the denial).",
    ),
    Explanation(
        cause="userns-forbidden",
        steps=_CLONE,
        errnos=(ENOSPC,),
        applies=lambda around: around.max_user_namespaces == 0,
        reason="user.max_user_namespaces is 0, which forbids them.",
        remedy="Let root set it: sysctl -w user.max_user_namespaces=15000. In a sandbox that was made so "
        "(bwrap --disable-userns) nothing helps but another sandbox.",
    ),
    Explanation(
        cause="max-user-namespaces",
        steps=_CLONE,
        errnos=(ENOSPC,),
        applies=lambda around: around.max_user_namespaces is not None,
        reason="user.max_user_namespaces ({max_user_namespaces} here; each outer user namespace has its own, which may "
        "be 0) is reached, or user namespaces are nested 33 deep.",
        remedy="Close namespaces that are no longer needed (usernsproc ls tells them), or let root raise the limit.",
    ),
    Explanation(
        cause="apparmor-userns",
        steps=(*_MAPS, *_INSIDE),
        errnos=(EPERM, EACCES),
        applies=lambda around: around.apparmor_restricts,
        reason="AppArmor lets this program, called {label}, make a user namespace, but takes all rights in it "
        "(kernel.apparmor_restrict_unprivileged_userns is 1).",
        remedy=_APPARMOR_PROFILE,
    ),
    Explanation(
        cause="proc-masked",
        steps=("mount_proc",),
        errnos=(EPERM,),
        applies=lambda around: bool(around.proc_mounts),
        reason="Parts of /proc are hidden by other mounts ({proc_mounts}), and the kernel shows nobody in a user "
        "namespace more of it than there was.",
        remedy="Bind the own /proc in place of a fresh one, or start the container without that (podman: "
        "--security-opt unmask=ALL; docker: --security-opt systempaths=unconfined; Kubernetes: procMount: Unmasked).",
    ),
)


def explain(step: str | None, errno: int | None, around: Surroundings, *, foreseen: bool = False) -> Explanation | None:
    """The row for a failed step, if the surroundings show why; *foreseen*: the kernel was not asked."""
    for row in EXPLANATIONS:
        if foreseen and not row.is_foreseen:
            continue
        if step in row.steps and errno in row.errnos and row.applies(around):
            return row
    return None
