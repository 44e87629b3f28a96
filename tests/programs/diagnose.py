"""Programs in environments in which something does not work, and what `diagnose` reports there."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path

import native
from alone import A_HANG
from commands import USERNSPROC
from entering import be_root, enter_own_mounts

import usernsproc
from usernsproc import Diagnosis, create_userns

diagnose = partial(usernsproc.diagnose, timeout=A_HANG)
DOCTOR = (USERNSPROC, "doctor", "--timeout", str(A_HANG))
LIMIT = Path("/proc/sys/user/max_user_namespaces")


def load_and_become_root() -> None:
    diagnose()  # imports all that it needs
    be_root()


def report(diagnosis: Diagnosis) -> None:
    for ability in diagnosis.abilities:
        print(ability.name, ability.works, ability.step, ability.errno, ability.cause)


def enter_userns_with_a_limit_of_its_own() -> None:
    """Enter one as user 0. An unprivileged user has entered one in `be_root`."""
    if not os.geteuid():
        with create_userns("all", "all") as own:
            own.enter()


def all_causes() -> None:
    for ability in diagnose().abilities:
        print(ability.name, ability.cause)


def without_subordinate_ids() -> None:
    diagnosis = diagnose("many-ids")
    ability = diagnosis.ability("many-ids")
    print(bool(diagnosis), diagnosis.has_userns, ability.step, ability.errno, ability.cause)
    print(ability.remedy)


def fixes() -> None:
    print(subprocess.run([*DOCTOR, "many-ids", "--fix"], capture_output=True, text=True).stdout)


def user_namespaces_forbidden() -> None:
    load_and_become_root()
    enter_userns_with_a_limit_of_its_own()
    LIMIT.write_text("0")
    diagnosis = diagnose("net", "many-ids")
    assert not diagnosis.has_userns
    report(diagnosis)


def in_a_chroot(folder: str) -> None:
    load_and_become_root()
    enter_own_mounts()
    proc = Path(folder, "proc")
    proc.mkdir()
    native.must(native.libc.mount(b"/proc", bytes(proc), None, native.MS_BIND | native.MS_REC, None))
    outside = os.open("/", os.O_RDONLY)
    os.chroot(folder)
    report(diagnose("userns"))
    os.fchdir(outside)
    os.chroot(".")


def under_a_filter() -> None:
    load_and_become_root()
    native.refuse_system_call(native.NR_CLONE, 1)
    diagnosis = diagnose("userns")
    report(diagnosis)
    print(diagnosis.environment.seccomp, diagnosis.environment.no_new_privs)


def own_id_not_mapped() -> None:
    load_and_become_root()
    native.unshare(native.CLONE_NEWUSER)
    report(diagnose("userns"))


def masked_proc() -> None:
    load_and_become_root()
    enter_own_mounts()
    native.must(native.libc.mount(b"tmpfs", b"/proc/sys", b"tmpfs", 0, None))
    diagnosis = diagnose("proc", "mount")
    report(diagnosis)
    print("/proc/sys" in (diagnosis.ability("proc").reason or ""))


def a_file_system_that_cannot() -> None:
    load_and_become_root()
    native.unshare(native.CLONE_NEWNS)
    ability = diagnose("idmapped-mount", path="/proc").ability("idmapped-mount")
    print(ability.meaning)
    print(ability.cause)


def statuses() -> None:
    """Print the exit status and the number of lines on stderr for each class of trouble."""
    load_and_become_root()
    enter_userns_with_a_limit_of_its_own()
    print_status("userns")
    fails = print_status("idmapped-mount", "--path", "/proc")
    assert fails.startswith("fails  idmapped-mount"), fails
    print_status("wlan")
    LIMIT.write_text("0")
    assert "user.max_user_namespaces is 0" in print_status()


def one_reason() -> None:
    load_and_become_root()
    enter_userns_with_a_limit_of_its_own()
    LIMIT.write_text("0")
    print(subprocess.run(DOCTOR, capture_output=True, text=True).stdout)


def print_status(*arguments: str) -> str:
    ended = subprocess.run([*DOCTOR, *arguments], capture_output=True, text=True)
    print(ended.returncode, len(ended.stderr.splitlines()))
    return ended.stdout
