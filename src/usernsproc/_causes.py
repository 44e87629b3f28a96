"""Why a step fails: the one table of likely causes, and what to do about each."""

from __future__ import annotations

from errno import EACCES, EAGAIN, EINVAL, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, EPERM, ESRCH, EUSERS

# The one table of causes: (step, errno) -> (cause, likely cause and the least
# far-reaching remedy).
CAUSES: dict[tuple[str, int], tuple[str, str]] = {
    ("clone", ENOSPC): (
        "max-user-namespaces",
        "Likely: the limit user.max_user_namespaces of this or an outer user namespace is reached "
        "(0 forbids them), or user namespaces are nested 33 deep. "
        "Close namespaces that are no longer needed, or raise the limit with sysctl.",
    ),
    ("clone", EUSERS): (
        "max-user-namespaces",
        "Likely: user namespaces are nested too deep, or user.max_user_namespaces is reached.",
    ),
    ("clone", EPERM): (
        "userns-refused",
        "Likely one of: this process runs in a chroot; its own user or group id is not mapped in its "
        "user namespace; kernel.unprivileged_userns_clone is 0; a seccomp profile (containers, systemd's "
        "RestrictNamespaces=) refuses new user namespaces.",
    ),
    ("clone", EACCES): (
        "userns-lsm",
        "Likely: a security module (AppArmor, SELinux) refuses new user namespaces to this program.",
    ),
    ("clone", EAGAIN): (
        "process-limit",
        "Likely: RLIMIT_NPROC (ulimit -u) of this user or pids.max of its cgroup is reached.",
    ),
    ("clone", ENOMEM): (
        "pid-namespace-ended",
        "Likely: process 1 of the pid namespace, which is joined or was entered before, has ended, and it takes "
        "no more.",
    ),
    ("clone", EMFILE): ("open-files-limit", "RLIMIT_NOFILE (ulimit -n) is reached: each child needs a pidfd."),
    ("clone", ENFILE): ("open-files-limit", "The system-wide limit fs.file-max is reached."),
    ("prepare", EMFILE): ("open-files-limit", "RLIMIT_NOFILE (ulimit -n) is reached."),
    ("prepare", EACCES): (
        "memfd-noexec",
        "Likely: programs may not be executed from memory (vm.memfd_noexec=2), and none of /dev/shm, /tmp, "
        "/var/tmp and /run allows it either.",
    ),
    ("open_tree", EPERM): (
        "no-mount-rights",
        "A mount takes CAP_SYS_ADMIN in the user namespace that owns the mount namespace: root, or an ordinary user "
        "in a mount namespace of its own.",
    ),
    ("setns", EPERM): (
        "join-refused",
        "Entering a namespace takes CAP_SYS_ADMIN in the user namespace that owns it, and in the own one or the one "
        "that is entered first: an ordinary user joins a user namespace of its own together with what that owns.",
    ),
    ("setns", EINVAL): (
        "join-impossible",
        "Likely: a pid namespace that is not below the own one, or a user namespace that this process is in already.",
    ),
    ("mount_proc", EPERM): (
        "proc-masked",
        "Likely: parts of /proc are hidden here by other mounts, as in containers, and the kernel shows nobody in a "
        "user namespace more of it than there was.",
    ),
    ("owner", EPERM): ("no-cap-setuid", "Becoming another user, who is to own the namespace, takes CAP_SETUID."),
    ("init", EAGAIN): (
        "process-limit",
        "Likely: RLIMIT_NPROC (ulimit -u) of this user or pids.max of its cgroup is reached.",
    ),
    ("init", EMFILE): ("open-files-limit", "RLIMIT_NOFILE (ulimit -n) is reached."),
    ("open_proc", EMFILE): ("open-files-limit", "RLIMIT_NOFILE (ulimit -n) is reached."),
    ("open_proc", ENOENT): ("no-proc", "Likely: /proc is not mounted here. Id maps can only be written through it."),
    ("open_proc", ESRCH): ("child-killed", "The child was killed from outside before its maps were written."),
    ("on_created", ESRCH): ("child-killed", "The child was killed from outside before it ran the program."),
    ("open_ns", EMFILE): ("open-files-limit", "RLIMIT_NOFILE (ulimit -n) is reached."),
}
_NOT_DUMPABLE = (
    "not-dumpable",
    "Likely: this process changed its user or group id without executing a program since, so it is not "
    "dumpable, and the files of its children in /proc belong to root. prctl(PR_SET_DUMPABLE, 1) undoes that.",
)
CAUSES.update({(step, EACCES): _NOT_DUMPABLE for step in ("setgroups", "uid_map", "gid_map")})
CAUSES.update({(step, EMFILE): CAUSES["open_ns", EMFILE] for step in ("setgroups", "uid_map", "gid_map")})
CAUSES["open_ns", EACCES] = (
    "ptrace-denied",
    "This process may not inspect that one (the ptrace access check of proc(5)): it belongs to somebody else, "
    "changed its ids, or runs a program that is not readable.",
)
CAUSES["setgroups", EPERM] = (
    "setgroups-denied",
    "setgroups is denied already in this process' own user namespace, or the group id map was written before.",
)
CAUSES.update(
    {
        (step, EPERM): (
            "map-refused",
            "Likely: this process lacks CAP_SETUID, CAP_SETGID or (for outside id 0) CAP_SETFCAP, or a security "
            "module took its rights in the new user namespace "
            "(kernel.apparmor_restrict_unprivileged_userns).",
        )
        for step in ("uid_map", "gid_map")
    }
)
