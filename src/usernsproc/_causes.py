"""Why a step fails: the one table of likely causes, and what to do about each."""

from __future__ import annotations

from errno import EACCES, EAGAIN, EINVAL, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, ENOSYS, EPERM, ESRCH, EUSERS
from signal import SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP

CRASHES = frozenset(-number for number in (SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV))
"""Return codes of a program that could not go on: the kernel sends these signals, hardly any process does."""

BROKEN_BUILD = (
    "broken-build",
    "Likely: the internal helper programs of usernsproc were compiled with flags that they cannot run with, and "
    "crashed at their start. Install usernsproc again without CFLAGS, or from a wheel.",
)

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
        "RestrictNamespaces=) refuses new user namespaces. 'usernsproc doctor' tells which.",
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
    ("open_tree", ENOSYS): ("kernel-too-old", "open_tree(2) needs Linux 5.2, idmapped mounts 5.12."),
    ("move_mount", EPERM): (
        "no-mount-rights",
        "A mount takes CAP_SYS_ADMIN in the user namespace that owns the mount namespace.",
    ),
    ("umount", EPERM): (
        "no-mount-rights",
        "To unmount takes CAP_SYS_ADMIN in the user namespace that owns the mount namespace.",
    ),
    ("move_mount", ENOSPC): ("mount-max", "The limit of mounts in a mount namespace, fs.mount-max, is reached."),
    ("setns", EPERM): (
        "join-refused",
        "Entering a namespace takes CAP_SYS_ADMIN in the user namespace that owns it, and in the own one or the one "
        "that is entered first: an ordinary user joins a user namespace of its own together with what that owns. Some "
        "sandboxes (bwrap) have a second one, which owns nothing: Namespace.owner() tells the one to join.",
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
    ("cgroup", ENOENT): (
        "no-cgroup",
        "There is no such directory, or it is none of a cgroup (version 2): those have a file cgroup.procs.",
    ),
    ("cgroup", EACCES): (
        "cgroup-denied",
        "To place a process takes the right to write cgroup.procs of that cgroup and of the nearest one above that the "
        "calling process is in too (cgroups(7)). An ordinary user gets both by delegation (systemd: Delegate=yes).",
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
CAUSES.update({(step, EMFILE): CAUSES["open_ns", EMFILE] for step in ("open_tree", "move_mount", "umount")})
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
CAUSES.update({(step, EMFILE): CAUSES["open_ns", EMFILE] for step in ("newuidmap", "newgidmap")})
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

# What to do about a map that a rule forbids: by cause. The message says which range
# and which rule.
REMEDIES: dict[str, str] = {
    "no-cap-setuid": "Map the own id alone (presets 'root' and 'current'), or leave CAP_SETUID to this process: "
    "in a container, in its bounding set.",
    "no-cap-setgid": "Map the own id alone (presets 'root' and 'current'), or leave CAP_SETGID to this process: "
    "in a container, in its bounding set.",
    "no-cap-setfcap": "Leave outside user 0 out of the map, or leave CAP_SETFCAP to this process.",
    "not-mapped-in-parent": "Map ids that the first column of /proc/self/uid_map or gid_map has (preset 'all': "
    "these and no others), or have the outer namespace made with more ids (preset 'rootless').",
    "setgroups-allowed": "Leave setgroups= out, which writes 'deny' here. It stays allowed where newgidmap writes the "
    "map, that is with subordinate group ids.",
    "no-subids": "Let root give this user some that nobody else has: usermod --add-subuids 100000-165535 "
    "--add-subgids 100000-165535 USER. Presets 'root' and 'current' need none; in a namespace that maps many ids, "
    "'all' passes them on.",
    "subids-too-small": "Ask for fewer ids, or let root give this user more: usermod --add-subuids FIRST-LAST "
    "--add-subgids FIRST-LAST USER.",
    "subids-foreign": "Map own ids: presets 'subids' and 'rootless' take those, and usernsproc.subids() tells them.",
    "no-user-name": "Make an account for this user id; newuidmap and newgidmap refuse to work for a number.",
    "ids-differ": "Give up the other ids with setresuid(2) and setresgid(2), or start this program without them.",
    "tool-missing": "Install the package uidmap (Debian, Ubuntu), shadow-utils (Fedora, RHEL) or shadow (Arch, SUSE).",
    "tool-not-setuid": "Let root repair it: reinstall its package, or chmod u+s, or setcap cap_setuid=ep (newuidmap) "
    "and cap_setgid=ep (newgidmap).",
    "tool-nosuid": "Mount that file system without nosuid, or install the program on another one.",
    "tool-owner-unmapped": "The outer namespace has to map user 0, who owns the program: preset 'rootless' there. Or "
    "map the own id alone here.",
    "no-new-privs": "Start this program without it: NoNewPrivileges= of systemd, --security-opt no-new-privileges of "
    "containers, no_new_privs= of this library, or another sandbox set it; it cannot be undone.",
    "not-dumpable": _NOT_DUMPABLE[1],
    "too-many-ranges": "Use fewer, longer ranges.",
}

# What to do about ids that a command cannot take, or a namespace cannot belong to: by step and cause.
_OWN_ALONE = "Leave owner= out: the namespace is then the own id's; or leave {} to this process."
CREDENTIALS_REMEDIES: dict[tuple[str, str], str] = {
    (
        "setid",
        "id-not-mapped",
    ): "user=, group= and extra_groups= are ids inside: take one that the map has, or map more (preset 'rootless').",
    ("setid", "setgroups-denied"): 'Leave extra_groups= out. Groups can be set where setgroups stays "allow": with a '
    "map of subordinate group ids (preset 'rootless'), or by who has CAP_SETGID.",
    ("owner", "id-not-mapped"): "owner= is an id outside: take one that the first column of /proc/self/uid_map has.",
    ("owner", "no-cap-setuid"): _OWN_ALONE.format("CAP_SETUID"),
    ("owner", "no-cap-sys-admin"): _OWN_ALONE.format("CAP_SYS_ADMIN"),
    ("owner", "no-cap-dac-override"): _OWN_ALONE.format("CAP_DAC_OVERRIDE"),
}

# What was found when newuidmap or newgidmap had failed, or None when nothing was.
TOOL_CAUSES: dict[str, str] = {
    "map-written": "The map was written before: it can be written once.",
    "tool-other-group": "The group id of this process is not the primary group of its user (newgrp, sg): "
    "newuidmap and newgidmap demand that.",
    "tool-failed": "Likely: the program got no privileges (a security module, securebits, a tracer), or /etc/subuid "
    "and /etc/subgid were changed meanwhile.",
    "map-differs": "The program ended with success, but the kernel shows another map.",
}
