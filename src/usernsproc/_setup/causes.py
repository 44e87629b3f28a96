"""The likely causes of a failure of a set-up step that concerns files, and their remedies, as in `_causes.py`."""

from __future__ import annotations

from errno import (
    E2BIG,
    EACCES,
    EAGAIN,
    EBUSY,
    EINVAL,
    ELOOP,
    EMFILE,
    ENODEV,
    ENOENT,
    ENOSPC,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    EROFS,
    EXDEV,
)

from .._causes import CAUSES, MOUNT_RIGHTS, OPEN_FILES, PROCESS_LIMIT, SECCOMP_REFUSED, too_old

_MOUNT_POINT_READ_ONLY = (
    "mount-point-missing",
    "The target does not exist, and cannot be created because its file system is mounted read-only. Create it in the "
    "source, put the step before the one that mounts read-only, or mount a Tmpfs above it.",
)
_MOUNT_POINT_DENIED = (
    "mount-point-missing",
    "The target does not exist, and the command may not create it in that directory. Create it before, use another "
    "target, or start with Root.",
)
_FULL = (
    "file-system-full",
    "The file system has no space or no inodes left. Give the Tmpfs a larger size= or inodes=, or free space.",
)
OF_STEPS: dict[tuple[str, int], tuple[str, str]] = {
    ("Proc", EPERM): (
        "proc-masked",
        "Likely: parts of /proc are masked here, as in containers, or the user namespace of the command does not "
        'own the PID namespace. Start the container without masked paths, use Bind("/proc") instead, or create a PID '
        "namespace.",
    ),
    ("Sysfs", EPERM): (
        "sysfs-masked",
        "Likely: parts of /sys are masked or read-only here, as in containers, or the user namespace of the command "
        "does not own the network namespace. Use Bind('/sys', read_only=True) instead, or create a network namespace.",
    ),
    ("Overlay", EINVAL): (
        "overlay-refused",
        "Likely: upper and work are not on the same file system, or that does not support overlayfs; or more than two "
        "of them are stacked; or a layer has submounts that came from a more privileged mount namespace. Use upper and "
        "work of one tmpfs, ext4, xfs or btrfs, and layers without submounts; the kernel's log has the reason.",
    ),
    ("Overlay", ELOOP): (
        "overlay-overlaps",
        "One of the directories lies in another one. Use directories that do not contain each other.",
    ),
    ("Overlay", EBUSY): (
        "overlay-in-use",
        "The upper or work directory is in use by another overlay. Use a pair of directories for each command.",
    ),
    ("Bind", EAGAIN): (
        "mounts-changed",
        "Before Linux 5.12: another process mounted or unmounted something below the source while the command was "
        "started. Start it again.",
    ),
    ("Root", EAGAIN): (
        "mounts-changed",
        "Before Linux 5.12: another process mounted or unmounted something below the source while the command was "
        "started. Start it again.",
    ),
    ("Remount", EINVAL): (
        "not-mounted",
        "Nothing is mounted at that path. Bind the path to itself before, or use the path of a mount point.",
    ),
    ("Unmount", EINVAL): (
        "not-mounted",
        "Nothing is mounted at that path, or it came from a more privileged mount namespace, which hides what it "
        "covers. Use the path of a mount point, or mount over it.",
    ),
    ("Bind", ENOENT): (
        "path-missing",
        "The source does not exist, or with create=False the target. Create it, or pass missing_ok=True.",
    ),
    ("Capabilities", EPERM): (
        "no-cap-setpcap",
        "Dropping capabilities from the bounding set requires CAP_SETPCAP in the user namespace. Use a new user "
        "namespace, or run as root.",
    ),
    ("NoUserNamespaces", ENOSPC): CAUSES["clone", ENOSPC],
    ("NoUserNamespaces", EPERM): (
        "nested-map-refused",
        "Likely: in the caller's own user namespace this requires CAP_SETUID and CAP_SETGID, or further user "
        "namespaces are refused here. Use a new user namespace, or run 'usernsproc doctor'.",
    ),
    ("NoUserNamespaces", EXDEV): (
        "proc-read-only",
        "Likely: another mount covers /proc/sys, as in containers, where it is read-only; the limit is set through it. "
        "Start the container without read-only /proc (docker: --security-opt systempaths=unconfined).",
    ),
    ("Landlock", ENOSYS): too_old("landlock_create_ruleset(2)", "5.13 with CONFIG_SECURITY_LANDLOCK"),
    ("Landlock", EOPNOTSUPP): (
        "landlock-disabled",
        "Landlock was not enabled when this kernel was booted. Add landlock to the boot parameter lsm=, or pass "
        "best_effort=True to do without it.",
    ),
    ("Landlock", E2BIG): (
        "landlock-layers",
        "16 rulesets are in force for this process already, and the kernel accepts no more. Combine them into fewer.",
    ),
    ("Seccomp", EINVAL): (
        "seccomp-program",
        "The kernel refuses the program: an instruction is not allowed in a filter, or a path through it does not "
        "end with a return. Make it with libseccomp.",
    ),
    ("Seccomp", EPERM): SECCOMP_REFUSED,
    ("Landlock", ENOENT): (
        "path-missing",
        "The path does not exist in the root of the command. Create it, or pass missing_ok=True.",
    ),
    ("Landlock", ELOOP): (
        "path-is-magic-link",
        "The path leads through a magic link of /proc, such as /proc/self/root, or links form a loop. Use the path of "
        "the file itself.",
    ),
}
"""By the class of the step."""

EXEC_CAUSES: dict[tuple[str, int], tuple[str, str]] = {
    ("Landlock", EACCES): (
        "landlock-exec",
        "Likely: the step Landlock does not allow the command or its interpreter to be executed. Add their directories "
        "to execute= (ldd(1) shows the interpreter).",
    ),
    ("Seccomp", EPERM): (
        "seccomp-exec",
        "Likely: the program of a step Seccomp refuses execve(2). Allow that call in the program.",
    ),
}
"""Of the step exec, by the class of a set-up step that is in force."""

_MAKE = ("mkdirat", "make_like", "mknodat", "symlinkat", "openat2")
_FRESH = ("fsopen", "fsconfig", "fsmount")
OF_CALLS: dict[tuple[str, int], tuple[str, str]] = {
    ("openat2", ENOSYS): too_old("openat2(2)", "5.6"),
    ("mount_setattr", ENOSYS): too_old("mount_setattr(2)", "5.12"),
    ("fsopen", ENODEV): (
        "no-file-system",
        "The kernel does not have this file system, or its module is not loaded. Load the module (modprobe), or "
        "omit the step.",
    ),
    ("openat2", ELOOP): (
        "target-is-link",
        "A component of the target is a symbolic link, which this step does not follow, or links form a loop. Use "
        "the path without links.",
    ),
    ("open_tree", EINVAL): (
        "locked-submounts",
        "Likely: the submounts came from a more privileged mount namespace and cannot be separated from the source, "
        "or the mount is unbindable. Bind it recursively, or run mount --make-private on it.",
    ),
    ("mount_setattr", EPERM): (
        "locked-attributes",
        "Likely: the mount came from a more privileged mount namespace, so read-only, nosuid, nodev and noexec can "
        "be set, but not cleared. Leave them as they are.",
    ),
    ("mount_setattr", EBUSY): (
        "mount-busy",
        "A file of the mount is open for writing, so it cannot become read-only. Close the file, or use "
        "Bind(read_only=True), which changes a copy of the mount.",
    ),
    ("umount2", EBUSY): (
        "mount-busy",
        "A process uses the mount, or it has submounts. Detach it with lazy=True.",
    ),
    ("pivot_root", EINVAL): (
        "root-not-a-mount",
        "Likely: the root directory of the caller is not a mount point (chroot), or it is the initial ramfs, which "
        "pivot_root(2) cannot replace. Run the caller in a root file system that is a mount, or omit Root.",
    ),
    ("open_tree", ENOSYS): too_old("open_tree(2)", "5.2"),
    ("open_tree", EPERM): MOUNT_RIGHTS,
    ("move_mount", EPERM): MOUNT_RIGHTS,
    ("move_mount", ENOSPC): CAUSES["move_mount", ENOSPC],
    ("fork_", EAGAIN): PROCESS_LIMIT,
}
OF_CALLS.update({(call, EROFS): _MOUNT_POINT_READ_ONLY for call in _MAKE})
OF_CALLS.update({(call, EACCES): _MOUNT_POINT_DENIED for call in ("mkdirat", "make_like")})
OF_CALLS.update({(call, ENOSPC): _FULL for call in ("mkdirat", "make_like", "mknodat", "symlinkat", "write")})
OF_CALLS.update({(call, ENOSYS): too_old(f"{call}(2)", "5.2") for call in (*_FRESH, "move_mount")})
OF_CALLS.update({(call, EPERM): MOUNT_RIGHTS for call in _FRESH})
OF_CALLS.update({(call, EMFILE): OPEN_FILES for call in ("openat", "openat2", "open_tree", "fsopen", "fsmount", "dup")})
