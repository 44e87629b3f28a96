"""The tables of the likely causes of each failure and their remedies, and the exceptions that carry them.

In each note the first sentence is the likely cause, the second the remedy that changes least.
`_evidence.py` decides between several causes by a look at the system.
"""

from __future__ import annotations

import os
from errno import (
    EACCES,
    EAGAIN,
    EBUSY,
    EDQUOT,
    EFBIG,
    EINVAL,
    EIO,
    EMFILE,
    ENFILE,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTTY,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    EROFS,
    ESRCH,
    EUSERS,
    EXDEV,
)
from signal import SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP

from ._errors import CredentialsError, UsernsError

CRASHES = frozenset(-number for number in (SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV))
"""Return codes of a program that crashed: these signals come from the kernel, and hardly ever from a process."""

BROKEN_BUILD = (
    "broken-build",
    "Likely: the internal helper programs of usernsproc were compiled with flags that they cannot run with, and "
    "crashed at their start. Install usernsproc again without CFLAGS, or from a wheel.",
)

OPEN_FILES = (
    "open-files-limit",
    "RLIMIT_NOFILE (ulimit -n) is reached. Raise it, or close descriptors that are not needed.",
)
_ALL_OPEN_FILES = ("open-files-limit", "The system-wide limit fs.file-max is reached. Raise it with sysctl.")
PROCESS_LIMIT = (
    "process-limit",
    "Likely one of: RLIMIT_NPROC (ulimit -u) of this user, pids.max of a cgroup, kernel.threads-max or kernel.pid_max "
    "is reached, or there is not enough memory for a thread. Raise the limit, or end other processes.",
)
_KILLED = (
    "child-killed",
    "The child was killed before it ran the program: by another process, the out-of-memory killer or a seccomp filter. "
    "Look for it in the kernel's log (dmesg).",
)
_NOT_DUMPABLE = (
    "not-dumpable",
    "Likely: this process changed its user or group ID and has not executed a program since, so it is not dumpable "
    "and the files of its children in /proc belong to root. Call prctl(PR_SET_DUMPABLE, 1) before.",
)
MOUNT_RIGHTS = (
    "no-mount-rights",
    "Mounting and unmounting require CAP_SYS_ADMIN in the user namespace that owns the mount namespace. Run as root, "
    "or as an unprivileged user in a mount namespace of its own.",
)
PROC_READ_ONLY = (
    "proc-read-only",
    "/proc is mounted read-only, and ID maps are written through it. Remount it writable, or start the container "
    "without read-only /proc (docker: --security-opt systempaths=unconfined).",
)
NO_KEYCTL = (
    "no-keyctl",
    "Likely: a seccomp profile, as of containers, refuses keyctl(2), or the kernel was built without it; the command "
    'cannot use its session keyring then. Omit session_keyring="new" or SessionKeyring().',
)
SECCOMP_REFUSED = (
    "seccomp-refused",
    "Likely: a seccomp filter or a security module refuses this system call. Allow it in the profile of the container "
    "or in SystemCallFilter= of the service.",
)
IDS_FAKED = (
    "ids-faked",
    "A tool such as fakeroot or proot shows this program other IDs than the kernel has. Run the program without that "
    "tool, or map the IDs that /proc/self/status shows.",
)
_NO_MEMFD_EXEC = (
    "memfd-noexec",
    "Likely: programs may not be executed from memory (vm.memfd_noexec=2), and /dev/shm, /tmp, /var/tmp and /run do "
    "not allow it either. Set vm.memfd_noexec to 1, or mount one of these without noexec.",
)
_FILE_SIZE = (
    "file-size-limit",
    "RLIMIT_FSIZE (ulimit -f) is smaller than the internal helper program, which is a file in memory. Raise it to "
    "64 KiB or more, and set a lower limit in the command.",
)


def too_old(call: str, version: str) -> tuple[str, str]:
    """Cause and note for a system call that this kernel lacks."""
    return "kernel-too-old", f"{call} requires Linux {version}. Use a newer kernel."


# (step, errno) -> (cause, note)
CAUSES: dict[tuple[str, int], tuple[str, str]] = {
    ("clone", ENOSPC): (
        "max-user-namespaces",
        "Likely: user.max_user_namespaces of this or an outer user namespace is reached (0 forbids user namespaces), "
        "or user namespaces are nested 33 deep. Close namespaces that are no longer needed, or raise the limit with "
        "sysctl.",
    ),
    ("clone", EUSERS): (
        "max-user-namespaces",
        "Likely: user namespaces are nested too deep, or user.max_user_namespaces is reached. Close namespaces that "
        "are no longer needed, or raise the limit with sysctl.",
    ),
    ("clone", EPERM): (
        "userns-refused",
        "Likely one of: this process runs in a chroot; its user or group ID is not mapped in its user namespace; "
        "kernel.unprivileged_userns_clone is 0; a seccomp profile (containers, RestrictNamespaces= of systemd) refuses "
        "new user namespaces. Run 'usernsproc doctor' to find out which.",
    ),
    ("clone", EACCES): (
        "userns-lsm",
        "Likely: a security module (AppArmor, SELinux) refuses new user namespaces to this program. Run 'usernsproc "
        "doctor' to find out which.",
    ),
    ("clone", EAGAIN): PROCESS_LIMIT,
    ("clone", ENOMEM): (
        "pid-namespace-ended",
        "Likely: PID 1 of the PID namespace that is joined, or was entered before, has exited, and the kernel creates "
        "no further process in it. Join a PID namespace whose PID 1 is alive.",
    ),
    ("memfd_create", EACCES): _NO_MEMFD_EXEC,
    ("execveat", EACCES): _NO_MEMFD_EXEC,
    ("prepare", EACCES): _NO_MEMFD_EXEC,
    ("memfd_create", ENOSYS): too_old("memfd_create(2)", "3.17"),
    ("execveat", ENOSYS): too_old("execveat(2)", "3.19"),
    ("pidfd_open", ENOSYS): too_old("pidfd_open(2)", "5.3"),
    ("pidfd_open", EACCES): SECCOMP_REFUSED,
    ("keyring", EDQUOT): (
        "key-quota",
        "The quota of keys of this user (kernel.keys.maxkeys, kernel.keys.maxbytes) is reached. Raise it with sysctl, "
        "or revoke keys that are no longer needed.",
    ),
    ("open_tree", ENOSYS): too_old("open_tree(2)", "5.2, an idmapped mount Linux 5.12"),
    ("open_tree", EPERM): MOUNT_RIGHTS,
    ("move_mount", EPERM): MOUNT_RIGHTS,
    ("umount", EPERM): MOUNT_RIGHTS,
    ("move_mount", ENOSPC): (
        "mount-max",
        "The limit of mounts in a mount namespace, fs.mount-max, is reached. Raise it with sysctl, or unmount what is "
        "not needed.",
    ),
    ("propagation", EINVAL): (
        "root-not-a-mount",
        "Likely: the root directory of the caller is not a mount point (chroot). Run the caller in a root file system "
        'that is a mount, or pass propagation="unchanged".',
    ),
    ("setns", EPERM): (
        "join-refused",
        "Joining a namespace requires CAP_SYS_ADMIN in the user namespace that owns it. Join that user namespace in "
        "the same call (Namespace.owner() returns it).",
    ),
    ("setns", EINVAL): (
        "join-impossible",
        "Likely: the PID namespace is not the caller's or below it, or this process is in the user namespace already. "
        "Leave this namespace out of join=.",
    ),
    ("mount_proc", EPERM): (
        "proc-masked",
        "Likely: parts of /proc are masked here, as in containers, so the kernel does not allow a new /proc mount in a "
        "user namespace. Start the container without masked paths, or omit mount_proc=.",
    ),
    ("cgroup", ENOENT): (
        "no-cgroup",
        "There is no such directory. Create the cgroup, or pass the path of one that exists.",
    ),
    ("cgroup", EACCES): (
        "cgroup-denied",
        "Placing a process requires write access to cgroup.procs of that cgroup and of the nearest ancestor that the "
        "calling process is in too (cgroups(7)). Use a cgroup that is delegated to this user (systemd: Delegate=yes).",
    ),
    ("cgroup", EBUSY): (
        "cgroup-not-leaf",
        "The cgroup enables controllers for its children (cgroup.subtree_control), so it can contain no process "
        "itself. Choose a cgroup below it.",
    ),
    ("cgroup", EOPNOTSUPP): (
        "cgroup-threaded",
        "The cgroup is threaded, or invalid because an ancestor is threaded (cgroup.type), so no process can be "
        "placed in it. Choose a cgroup of type domain.",
    ),
    ("cgroup", ENODEV): (
        "cgroup-removed",
        "The cgroup was removed while its descriptor was open. Create it again.",
    ),
    ("cgroup", EROFS): (
        "cgroup-read-only",
        "The cgroup file system is mounted read-only here, as in containers. Mount it writable, or omit cgroup=.",
    ),
    ("owner", EPERM): (
        "no-cap-setuid",
        "Becoming the user that owns the namespace requires CAP_SETUID. Omit owner=, or run as root.",
    ),
    ("capabilities", EINVAL): (
        "capability-unknown",
        "The kernel does not know a capability that the command is to keep. Leave it out, or use a newer kernel.",
    ),
    ("capabilities", EPERM): (
        "capability-missing",
        "The caller does not have a capability that the command is to keep. Leave it out, use a new user namespace, or "
        "run as root.",
    ),
    ("init", EAGAIN): PROCESS_LIMIT,
    ("open_proc", ENOENT): (
        "no-proc",
        "Likely: /proc is not mounted here, or was mounted for a PID namespace that this process is not in; ID maps "
        "can only be written, and processes only be looked at, through it. Mount it: mount -t proc proc /proc.",
    ),
    ("open_proc", EXDEV): (
        "proc-forged",
        "/proc is not the root of a procfs here, or another file is mounted over a file in it, so its contents cannot "
        "be trusted. Call this in a mount namespace whose /proc is genuine, or unmount what covers it.",
    ),
    ("open_proc", ESRCH): _KILLED,
    ("on_created", ESRCH): _KILLED,
    ("open_ns", EACCES): (
        "ptrace-denied",
        "This process may not inspect the other one (the ptrace access check of proc(5)): that belongs to another "
        "user, changed its IDs, or runs a program that is not readable. Run as root or as the user of that process.",
    ),
    ("setgroups", EPERM): (
        "setgroups-denied",
        "setgroups is denied already in the user namespace of this process, or the group ID map was written before. "
        "Omit setgroups=.",
    ),
}
MAPS = ("setgroups", "uid_map", "gid_map")
_OF_DESCRIPTORS = (
    *("prepare", "memfd_create", "pidfd_open", "execveat", "clone", "init", "open_proc", *MAPS, "newuidmap"),
    *("newgidmap", "open_ns", "stdio", "cgroup", "on_created"),
    *("open_tree", "mount_setattr", "move_mount", "mount_point", "umount"),
)
CAUSES.update({(step, EMFILE): OPEN_FILES for step in _OF_DESCRIPTORS})
CAUSES.update({(step, ENFILE): _ALL_OPEN_FILES for step in _OF_DESCRIPTORS})
CAUSES.update({(step, EFBIG): _FILE_SIZE for step in ("prepare", "memfd_create")})
CAUSES.update({(step, EPERM): SECCOMP_REFUSED for step in ("memfd_create", "execveat", "pidfd_open")})
CAUSES.update({("keyring", errno): NO_KEYCTL for errno in (EPERM, ENOSYS)})
CAUSES.update({(step, EACCES): _NOT_DUMPABLE for step in MAPS})
CAUSES.update({(step, EROFS): PROC_READ_ONLY for step in MAPS})
CAUSES.update(
    {
        (step, EPERM): (
            "map-refused",
            "Likely: this process lacks CAP_SETUID, CAP_SETGID or (for ID 0 of the parent namespace) CAP_SETFCAP, or a "
            "security module took its capabilities in the new user namespace "
            "(kernel.apparmor_restrict_unprivileged_userns). Run 'usernsproc doctor' to find out which.",
        )
        for step in MAPS[1:]
    }
)

# Set-up steps that concern the process, its names and its terminal.
_SCHEDULING_RIGHTS = (
    "no-scheduling-rights",
    "A lower nice value than the caller's requires CAP_SYS_NICE in the initial user namespace or RLIMIT_NICE, a "
    "real-time policy that capability or RLIMIT_RTPRIO, and also a real-time budget of the cgroup where the kernel has "
    "them (cpu.rt_runtime_us). For real-time IoPriority, the command itself requires it. Omit the step, or run the "
    "caller with that capability.",
)
_NAME_RIGHTS = (
    "no-namespace-rights",
    "This requires CAP_SYS_ADMIN, for Loopback CAP_NET_ADMIN, in the user namespace that owns the namespace, and the "
    "command has none there. Create the namespace (namespaces=), or join the user namespace that owns it.",
)
CAUSES.update(
    {
        ("Rlimit", EPERM): (
            "limit-too-high",
            "A hard limit above the caller's requires CAP_SYS_RESOURCE in the initial user namespace, and that of "
            "NOFILE cannot be above fs.nr_open. Request at most the caller's hard limit (ulimit -H), or raise that.",
        ),
        ("Nice", EACCES): _SCHEDULING_RIGHTS,
        ("Scheduler", EPERM): _SCHEDULING_RIGHTS,
        ("IoPriority", EPERM): _SCHEDULING_RIGHTS,
        ("Scheduler", EINVAL): (
            "no-such-policy",
            'The kernel does not have this policy: "EXT" requires Linux 6.12 with CONFIG_SCHED_CLASS_EXT. Use another '
            "policy.",
        ),
        ("Affinity", EINVAL): (
            "cpu-not-allowed",
            "At least one of the CPUs does not exist, is offline, or is not in the cpuset of the cgroup. Use only CPUs "
            "of os.sched_getaffinity(0), or of cpuset.cpus.effective of the cgroup.",
        ),
        ("TimerSlack", EIO): (
            "real-time-policy",
            "The kernel does not delay the timers of a real-time process, and ignores the value. Omit TimerSlack, or "
            "use another policy.",
        ),
        ("CoreScheduling", EINVAL): (
            "no-core-scheduling",
            "Core scheduling requires Linux 5.14 with CONFIG_SCHED_CORE. Use such a kernel, or omit the step.",
        ),
        ("CoreScheduling", ENODEV): (
            "no-hyper-threads",
            "The CPUs of this machine have one thread per core, or the others are offline. Omit the step: no other "
            "process can share a core with the command.",
        ),
        ("OomScoreAdj", EACCES): (
            "oom-score-refused",
            "A value below the least that a privileged process has set requires CAP_SYS_RESOURCE in the initial user "
            "namespace; and the file of a process that joins namespaces belongs to root. Use a value that is not below "
            "the caller's, or run the caller as root with that capability.",
        ),
        ("Personality", EINVAL): (
            "no-such-personality",
            "The processor or the kernel cannot run 32-bit programs. Omit LINUX32.",
        ),
        ("Personality", EPERM): SECCOMP_REFUSED,
        ("Hostname", EPERM): _NAME_RIGHTS,
        ("Domainname", EPERM): _NAME_RIGHTS,
        ("Loopback", EPERM): _NAME_RIGHTS,
        ("TimeOffset", ERANGE): (
            "clock-out-of-range",
            "A clock would become negative, or would overflow. Use an offset that leaves it above 0, and below 146 "
            "years.",
        ),
        ("TimeOffset", EACCES): (
            "not-dumpable",
            "The files in /proc of a process that joins namespaces belong to root. Create the time namespace without "
            "join=, or run the caller as root.",
        ),
        ("ControllingTerminal", EPERM): (
            "terminal-taken",
            "The terminal is the controlling terminal of another session, or the descriptor cannot be read. Use a new "
            "pseudo-terminal (pty.openpty).",
        ),
        ("ControllingTerminal", ENOTTY): ("not-a-terminal", "The descriptor is not a terminal. Pass one that is."),
        ("Foreground", ENOTTY): (
            "not-the-terminal",
            "The descriptor is not the controlling terminal of the session of the command. Pass the terminal of this "
            "session, or start a session with ControllingTerminal.",
        ),
        ("SessionKeyring", EDQUOT): CAUSES["keyring", EDQUOT],
        ("SessionKeyring", EPERM): NO_KEYCTL,
        ("SessionKeyring", ENOSYS): NO_KEYCTL,
    }
)

# Remedies for a map that a rule forbids, by cause. The message names the range and the rule.
REMEDIES: dict[str, str] = {
    "no-cap-setuid": "Map the caller's ID alone (presets 'root' and 'current'), or run the container with CAP_SETUID "
    "(--cap-add SETUID).",
    "no-cap-setgid": "Map the caller's ID alone (presets 'root' and 'current'), or run the container with CAP_SETGID "
    "(--cap-add SETGID).",
    "no-cap-setfcap": "Leave user 0 of the parent namespace out of the map, or run the container with CAP_SETFCAP "
    "(--cap-add SETFCAP).",
    "not-mapped-in-parent": "Map IDs that are in the first column of /proc/self/uid_map or gid_map (preset 'all' maps "
    "exactly these), or create the outer namespace with more IDs (preset 'rootless').",
    "setgroups-allowed": "Omit setgroups=, which writes 'deny' here. It stays allowed if newgidmap writes the map, "
    "that is with subordinate group IDs.",
    "no-subids": "As root, assign some that no other user has: usermod --add-subuids 100000-165535 "
    "--add-subgids 100000-165535 USER. The presets 'root' and 'current' need none; in a namespace that maps many IDs, "
    "use 'all'.",
    "subids-too-small": "Map fewer IDs, or as root assign more to this user: usermod --add-subuids FIRST-LAST "
    "--add-subgids FIRST-LAST USER.",
    "subids-foreign": "Map this user's subordinate IDs: use the preset 'subids' or 'rootless', or look them up with "
    "usernsproc.subids().",
    "no-user-name": "Create an account for this user ID; newuidmap and newgidmap refuse to work for a number.",
    "ids-differ": "Set real and effective IDs to the same values with setresuid(2) and setresgid(2) before.",
    "ids-faked": IDS_FAKED[1],
    "tool-missing": "Install the package uidmap (Debian, Ubuntu), shadow-utils (Fedora, RHEL) or shadow (Arch, SUSE).",
    "tool-not-setuid": "As root, reinstall its package, or run chmod u+s, or setcap cap_setuid=ep (newuidmap) and "
    "cap_setgid=ep (newgidmap).",
    "tool-nosuid": "Mount that file system without nosuid, or install the program on another one.",
    "tool-owner-unmapped": "Create the outer namespace with a map of user 0, which owns the program (preset "
    "'rootless'), or map the caller's ID alone here.",
    "no-new-privs": "Start this program without no_new_privs, which cannot be undone: look for NoNewPrivileges= "
    "(systemd), --security-opt no-new-privileges (containers), no_new_privs= of this library, or another sandbox.",
    "not-dumpable": _NOT_DUMPABLE[1],
    "too-many-ranges": "Use fewer, longer ranges.",
}

# Remedies for IDs that a command cannot have, or that cannot own a namespace, by step and cause.
_CALLER_OWNS = "Omit owner= (the caller then owns the namespace), or run with {}."
CREDENTIALS_REMEDIES: dict[tuple[str, str], str] = {
    (
        "setid",
        "id-not-mapped",
    ): "user=, group= and extra_groups= are IDs in the namespace: use IDs that the map has, or map more (preset "
    "'rootless').",
    ("setid", "setgroups-denied"): 'Omit extra_groups=. Groups can be set if setgroups stays "allow": with a map of '
    "subordinate group IDs (preset 'rootless'), or with CAP_SETGID.",
    ("owner", "id-not-mapped"): "owner= is an ID in the parent namespace: use one that is in the first column of "
    "/proc/self/uid_map.",
    ("owner", "no-cap-setuid"): _CALLER_OWNS.format("CAP_SETUID"),
    ("owner", "no-cap-sys-admin"): _CALLER_OWNS.format("CAP_SYS_ADMIN"),
    ("owner", "no-cap-dac-override"): _CALLER_OWNS.format("CAP_DAC_OVERRIDE"),
}

# Notes on a failure of newuidmap or newgidmap, by cause.
TOOL_CAUSES: dict[str, str] = {
    "map-written": "The map was written before: it can be written once. Create another namespace.",
    "tool-other-group": "The group ID of this process is not the primary group of its user (newgrp, sg), which "
    "newuidmap and newgidmap require. Run this program with the primary group.",
    "proc-read-only": PROC_READ_ONLY[1],
    "tool-failed": "Likely: the program got no privileges (a security module, securebits, a tracer), or /etc/subuid "
    "and /etc/subgid were changed meanwhile. See what the program printed, which follows.",
    "map-differs": "The program exited with status 0, but the kernel shows another map. Check that it is the "
    "newuidmap or newgidmap of the distribution.",
}


def userns_error(
    step: str,
    errno: int,
    filename: object = None,
    *,
    cause: str | None = None,
    note: str | None = None,
) -> UsernsError:
    """The exception for a failed step. If neither cause nor note is given, both come from the table."""
    if cause is None and note is None:
        cause, note = CAUSES.get((step, errno), (None, None))
    error = UsernsError(errno, os.strerror(errno), filename, step=step, cause=cause)
    if note is not None:
        error.add_note(note)
    return error


class at_step:  # noqa: N801, reads as a statement
    """In this block, an `OSError` of a system call becomes the `UsernsError` of a step.

    A block that opens a descriptor must keep it as an `OwnedFd`: a signal handler can raise at
    the end of the block, and a bare number would be lost.
    """

    def __init__(self, step: str, filename: object = None) -> None:
        self._step = step
        self._filename = filename

    def __enter__(self) -> None:
        pass

    def __exit__(self, exc_type: object, error: BaseException | None, traceback: object) -> None:
        # One without an errno is not the answer of a system call: a signal handler's TimeoutError.
        if isinstance(error, OSError) and not isinstance(error, UsernsError) and error.errno is not None:
            filename = error.filename if self._filename is None else self._filename
            raise userns_error(self._step, error.errno, filename) from None


def credentials_error(step: str, reason: str, cause: str, *, remedy: str | None = None) -> CredentialsError:
    """Ids that the kernel would refuse with EPERM or EINVAL, before it is asked; step `setid` or `owner`."""
    error = CredentialsError(EPERM, f"{os.strerror(EPERM)}: {reason}", step=step, cause=cause)
    error.add_note(remedy or CREDENTIALS_REMEDIES[step, cause])
    return error
