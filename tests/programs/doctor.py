"""Programs that restrict themselves as sandboxes and container engines do, and what the doctor reports there."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest import mock

import native
from alone import A_HANG
from entering import be_root, enter_own_mounts, enter_own_userns
from errors import error_of

import usernsproc
from usernsproc import UsernsError, UsernsProcess, create_userns
from usernsproc._system_calls import NR
from usernsproc.setup import Tmpfs

diagnose = partial(usernsproc.diagnose, timeout=A_HANG)
MAY_FAIL = ("cgroup", "idmapped-mount")
"""These depend on the machine and on the user."""


def report(*abilities: str) -> None:
    """Print the abilities that fail, with the cause and the step, and which features are missing."""
    diagnosis = diagnose(*abilities)
    for ability in diagnosis.abilities:
        if not ability and (abilities or ability.name not in MAY_FAIL):
            print(ability.name, ability.step, ability.cause)
    print("clone3" if any(f.name == "clone3" and not f.available for f in diagnosis.features) else "")


def report_with_exception(call: Callable[[], object], *abilities: str) -> None:
    """Print the cause that the exception has, and the one that the doctor finds for each ability."""
    causes = {str(getattr(error_of(call), "cause", None))}
    causes.update(str(ability.cause) for ability in diagnose(*abilities).abilities)
    print(*sorted(causes))


def create() -> None:
    create_userns("root", "root").close()


def refuse(calls: list[str], error: str) -> None:
    """As seccomp profiles do; `clone`: for user namespaces alone."""
    diagnose()
    be_root()
    for call in calls:
        if call == "clone":
            native.refuse_flag(NR["clone"], 0, native.CLONE_NEWUSER, getattr(errno, error))
        else:
            native.refuse_system_call(NR[call], getattr(errno, error))
    report()


def refuse_with_exception() -> None:
    be_root()
    native.refuse_flag(NR["clone"], 0, native.CLONE_NEWUSER, errno.EPERM)
    report_with_exception(create, "userns", "net")


def refuse_file_systems() -> None:
    """A new file system is created by fsopen(2), which the kernel has."""
    be_root()
    native.refuse_system_call(NR["fsopen"], errno.ENOSYS)
    report_with_exception(lambda: UsernsProcess(uid_map="root", namespaces=["mnt"], setup=[Tmpfs("/proc")]), "tmpfs")


def refuse_mounts() -> None:
    be_root()
    native.refuse_system_call(NR["mount"], errno.EPERM)
    report_with_exception(lambda: UsernsProcess(uid_map="root", namespaces=["mnt"]), "mount", "new-root")


def in_a_container_with_a_filter() -> None:
    """The engine has left its name in a file of /run."""
    enter_own_mounts()
    native.must(native.libc.mount(b"tmpfs", b"/run", b"tmpfs", 0, None))
    Path("/run/host").mkdir()
    Path("/run/host/container-manager").write_text("podman\n")
    native.refuse_flag(NR["clone"], 0, native.CLONE_NEWUSER, errno.EPERM)
    report_with_exception(create, "userns", "tmpfs")


def in_a_chroot_that_is_a_mount_point(folder: str) -> None:
    """Its mounts look like those of a mount namespace with this root."""
    diagnose()
    enter_own_mounts()
    for source, target in (("/", folder), ("/proc", f"{folder}/proc")):
        native.must(native.libc.mount(source.encode(), target.encode(), None, native.MS_BIND, None))
    os.chroot(folder)
    report_with_exception(create, "userns")
    report("userns")


def limit_of_an_outer_namespace() -> None:
    """It is 0 there, and not here."""
    diagnose()
    enter_own_userns()
    with UsernsProcess(uid_map="root") as holder, holder.namespace() as inner:
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        inner.enter()
    report_with_exception(create, "userns")


def limit_of_another_kind() -> None:
    diagnose()
    enter_own_userns()
    Path("/proc/sys/user/max_net_namespaces").write_text("0")
    report_with_exception(lambda: UsernsProcess(uid_map="root", namespaces=["net"]).close(), "net")
    report("userns", "net", "mount")


def nested_too_deep() -> None:
    diagnose()
    with suppress(UsernsError):
        while True:
            enter_own_userns()
    report_with_exception(create, "userns")


def a_program_that_fails() -> None:
    enter_own_mounts()
    native.must(native.libc.mount(b"/bin/false", b"/bin/true", None, native.MS_BIND, None))
    for ability in diagnose("seccomp").abilities:
        print(ability.step, ability.errno == errno.EIO, ability.remedy)


def enter_a_namespace_afterwards() -> None:
    """Print how often a thread was left."""
    left = 0
    for _ in range(20):
        diagnose("userns", "net")
        left += len(os.listdir("/proc/self/task")) - 1
    enter_own_userns()
    print(left)


def without_setfcap() -> None:
    diagnose()
    be_root()
    native.drop_capability(31)
    report_with_exception(create, "userns")


def not_dumpable() -> None:
    """Neither this process nor newuidmap can open the files of the maps."""
    diagnose()
    native.prctl(native.PR_SET_DUMPABLE, 0)
    report_with_exception(create, "userns")
    report_with_exception(lambda: create_userns("rootless", "rootless"), "many-ids")


def with_subordinate_ids() -> None:
    """What the preset `rootless` meets."""
    report_with_exception(lambda: create_userns("rootless", "rootless").close(), "many-ids")
    report()


def report_here() -> None:
    report()


def report_idmapped_mount() -> None:
    report("idmapped-mount")


def report_cgroup() -> None:
    report("cgroup")


def a_hidden_proc() -> None:
    """Mounted with hidepid=2: others' processes are not shown, and nothing fails."""
    diagnose()
    enter_own_mounts()
    native.unshare(native.CLONE_NEWPID)
    if pid := os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    native.must(native.libc.mount(b"proc", b"/proc", b"proc", 0, b"hidepid=2"))
    report()
    sys.stdout.flush()


def no_memory_may_be_executed() -> None:
    """A setting of a PID namespace of its own. Then with no other place for programs either."""
    diagnose()
    enter_own_mounts()
    native.unshare(native.CLONE_NEWPID)
    if pid := os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    native.must(native.libc.mount(b"proc", b"/proc", b"proc", 0, None))
    Path("/proc/sys/vm/memfd_noexec").write_text("2")
    diagnosis = diagnose("memfd-exec")
    print(bool(diagnosis), *(f.name for f in diagnosis.features if not f.available and f.name == "executable-memory"))
    for folder in (b"/dev/shm", b"/tmp", b"/var/tmp", b"/run"):
        native.must(native.libc.mount(b"tmpfs", folder, b"tmpfs", 8, None))  # MS_NOEXEC
    report_with_exception(lambda: UsernsProcess(uid_map="root").close(), "memfd-exec", "mount")
    sys.stdout.flush()


def no_further_process() -> None:
    """The doctor's threads cannot be created either."""
    diagnose()
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
        report("userns")
