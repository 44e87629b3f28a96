"""The least far-reaching remedy of a cause as shell commands. They are printed, and never run."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable
from shlex import quote
from typing import NamedTuple

from .._proc import read_link
from .environment import Environment


class Place(NamedTuple):
    """What commands have to name."""

    program: str
    """The path of the program that is refused."""
    user: str
    uid: int
    kernel: str
    service: str | None
    forbidden_kinds: tuple[str, ...]
    tools: tuple[str, ...]
    """The paths of newuidmap and newgidmap, or their names."""

    @classmethod
    def of(cls, environment: Environment, tools: tuple[str, ...]) -> Place:
        uid = os.getuid()
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            user = str(uid)
        return cls(
            program=_own_program(),
            user=user,
            uid=uid,
            kernel=environment.kernel or "unknown",
            service=environment.service,
            forbidden_kinds=environment.forbidden_kinds,
            tools=tools,
        )


def _own_program() -> str:
    """The file that was executed, by which security modules choose a profile."""
    try:
        return read_link(-1, "self/exe")
    except OSError:
        return os.path.realpath(sys.executable)


Lines = tuple[str, ...]


def _set_sysctl(name: str, value: object) -> Lines:
    return (f"sysctl -w {name}={value}", "# It lasts until the next boot. A file in /etc/sysctl.d keeps it.")


def _in_service(place: Place, setting: str) -> Lines:
    """An addition to the unit that this process runs in."""
    if place.service is None:
        return ()
    folder = quote(f"/etc/systemd/system/{place.service}.d")
    return (
        f"mkdir -p {folder}",
        rf"printf '[Service]\n{setting}\n' >{folder}/usernsproc.conf",
        "systemctl daemon-reload",
        f"systemctl restart {quote(place.service)}",
    )


def _apparmor_profile(place: Place) -> Lines:
    """For the program alone: a profile that confines nothing and allows user namespaces."""
    name = place.program.strip("/").replace("/", ".")
    file = quote(f"/etc/apparmor.d/{name}")
    escaped = "".join(f"\\{char}" if char in '\\"*?[]{}^' else char for char in place.program)
    return (
        f"cat >{file} <<'END'",
        "abi <abi/4.0>,",
        "include <tunables/global>",
        f'profile "{name.replace(chr(34), "")}" "{escaped}" flags=(unconfined) {{',
        "  userns,",
        "}",
        "END",
        f"apparmor_parser -r {file}",
    )


def _install_shadow(_: Place) -> Lines:
    return (
        "if command -v apt-get; then apt-get install -y uidmap",
        "elif command -v dnf; then dnf install -y shadow-utils",
        "elif command -v zypper; then zypper install -y shadow",
        "elif command -v pacman; then pacman -S --noconfirm shadow",
        "elif command -v apk; then apk add shadow-uidmap",
        "fi",
    )


def _give_subids(place: Place) -> Lines:
    """A range behind all those that are given."""
    user = quote(place.user)
    next_id = "$(awk -F: '$2 + $3 > n { n = $2 + $3 } END { print n < 100000 ? 100000 : n }' /etc/subuid /etc/subgid)"
    return (
        "touch /etc/subuid /etc/subgid",
        f"first={next_id}",
        "last=$((first + 65535))",
        f'usermod --add-subuids "$first-$last" --add-subgids "$first-$last" {user}',
    )


def _setuid_tools(place: Place) -> Lines:
    return tuple(f"chmod u+s {quote(tool)}" for tool in place.tools)


def _allow_setuid_there(place: Place) -> Lines:
    return tuple(f'mount -o remount,suid "$(stat -c %m {quote(tool)})"' for tool in place.tools[:1])


def _delegate_cgroup(place: Place) -> Lines:
    in_session = ("systemd-run --user --scope --property=Delegate=yes -- YOUR-COMMAND",)
    return _in_service(place, "Delegate=yes") or in_session


FIXES: dict[str, Callable[[Place], Lines]] = {
    "apparmor-userns": _apparmor_profile,
    "cgroup-denied": _delegate_cgroup,
    "landlock-disabled": lambda _: (
        "cat /sys/kernel/security/lsm",
        "# Add landlock to that list in the boot parameter lsm=, for example in GRUB_CMDLINE_LINUX.",
    ),
    "max-user-namespaces": lambda _: _set_sysctl(
        "user.max_user_namespaces", "$((2 * $(sysctl -n user.max_user_namespaces)))"
    ),
    "memfd-noexec": lambda _: ("sysctl -w vm.memfd_noexec=1",),
    "namespaces-forbidden": lambda place: tuple(
        line for kind in place.forbidden_kinds for line in _set_sysctl(f"user.max_{kind}_namespaces", 15000)
    ),
    "no-cgroup2": lambda _: ("mkdir -p /run/cgroup2", "mount -t cgroup2 cgroup2 /run/cgroup2"),
    "no-file-system": lambda _: ("modprobe overlay",),
    "no-new-privs": lambda place: _in_service(place, "NoNewPrivileges=no"),
    "no-proc": lambda _: ("mount -t proc proc /proc",),
    "no-subids": _give_subids,
    "no-user-name": lambda place: (f"useradd --uid {place.uid} --no-create-home user{place.uid}",),
    "open-files-limit": lambda _: ('ulimit -n "$(ulimit -H -n)"',),
    "proc-read-only": lambda _: ("mount -o remount,rw /proc",),
    "seccomp": lambda place: _in_service(place, "RestrictNamespaces=no"),
    "subids-too-small": _give_subids,
    "tool-missing": _install_shadow,
    "tool-nosuid": _allow_setuid_there,
    "tool-not-setuid": _setuid_tools,
    "unprivileged-userns-clone": lambda _: _set_sysctl("kernel.unprivileged_userns_clone", 1),
    "userns-forbidden": lambda _: _set_sysctl("user.max_user_namespaces", 15000),
}
"""By cause. The others have a remedy that is no command: another kernel, or how a container is started."""

AS_THE_USER = frozenset({"open-files-limit", "cgroup-denied"})
"""Causes whose commands do not require root."""


def fix(cause: str | None, place: Place) -> Lines:
    """The commands, none if the remedy is not one, or if a name has characters that a script must not contain."""
    make = FIXES.get(cause or "")
    names = (place.program, place.user, place.service or "", *place.tools)
    return make(place) if make and all(map(str.isprintable, names)) else ()
