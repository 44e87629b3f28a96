"""A command as bubblewrap starts it: what its words add up to."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from .. import _system_calls
from .._caller import Caller
from .._errors import UsernsError
from .._namespaces.namespace import Namespace
from .._proc import read_sysctl
from .._processes.become import become_in_foreground
from .._processes.process import UsernsProcess
from .._setup.capabilities import HIGHEST, capability_mask
from .._setup.sandbox import BoundingSet, EmptyRoot, GuardedProc, Mode, StartDirectory, UserNamespacesDisabled
from .._setup.step import Step
from ..setup import (
    Bind,
    Capabilities,
    Dev,
    Dir,
    File,
    Hostname,
    Loopback,
    Mqueue,
    NoUserNamespaces,
    Overlay,
    Remount,
    Seccomp,
    Symlink,
    Tmpfs,
)
from ._foreground import run_in_foreground
from .options import UsageError
from .output import write_error
from .timeout import Timeout
from .view import View

REPORTED = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
"""Kinds of namespaces, by the names in the JSON of `--info-fd`."""


class Sandbox:
    """Collects the words in their order; `options` are then those of `UsernsProcess`."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Step]] = []
        self._word, self._modifies = "", False
        self._seen: set[str] = set()
        self._view = View()
        self.kinds: set[str] = set()
        self.environment = dict(os.environ)
        self._lock_files: list[str] = []
        self._filters: list[bytes] = []
        self.new_user = self.try_user = self.disable_userns = self.assert_userns_disabled = False
        self.new_session = self.die_with_parent = self.as_pid_1 = False
        self.uid: int | None = None
        self.gid: int | None = None
        self.hostname: str | None = None
        self.chdir: str | None = None
        self.argv0: str | None = None
        self.seccomp: bytes | None = None
        self.userns: int | None = None
        self.pidns: int | None = None
        self.sync: int | None = None
        self.block: int | None = None
        self.userns_block: int | None = None
        self.info: int | None = None
        self.json_status: int | None = None
        self._caps = Caller.now().capabilities if os.getuid() == 0 else 0
        self._changes_caps = False
        self._perms: int | None = None
        self._size: int | None = None
        self._layers: list[str] = []

    # ---- words ----

    def begin_word(self, name: str, values: list[str], *, modifies: bool) -> None:
        if not self._modifies:
            self._end_word(name)
        self._word, self._modifies = " ".join((name, *values)), modifies
        self._name = name

    def _end_word(self, next_name: str) -> None:
        """What the word before this one should have used."""
        if self._perms is not None:
            raise UsageError("--perms must be followed by an option that creates a file or directory")
        if self._size is not None:
            raise UsageError("--size must be followed by --tmpfs")
        if self._layers and next_name not in ("--overlay-src", "--overlay", "--tmp-overlay", "--ro-overlay"):
            raise UsageError(
                "--overlay-src must be followed by another --overlay-src or one of --overlay, --tmp-overlay, "
                "or --ro-overlay"
            )

    def end_of_words(self) -> None:
        self._end_word("")

    def keep_last(self, name: str, value: object) -> None:
        if name in self._seen:
            write_error(f"usernsproc: Only the last {self._name} option will take effect\n")
        self._seen.add(name)
        setattr(self, name, value)

    def _add(self, step: Step) -> None:
        self._steps.append((self._word, step))

    def _create(self, target: str) -> str:
        """The target of a word, as an absolute path. It is noted that it will exist."""
        path = "/" + target.strip("/")
        self._view.make(path)
        return path

    def _mount(self, target: str, source: str | None = None) -> str:
        path = self._create(target)
        self._view.mount(path, source)
        return path

    # ---- values ----

    def fd(self, text: str) -> int:
        """A descriptor of the caller's, which the command does not inherit."""
        if not text.isascii() or not text.isdigit():
            raise ValueError(f"{text!r} is not a descriptor")
        number = int(text)
        try:
            os.set_inheritable(number, False)
        except (OSError, OverflowError):
            raise ValueError(f"descriptor {text} is not open") from None
        return number

    def read(self, text: str) -> bytes:
        with open(self.fd(text), "rb") as file:
            return file.read()

    def read_words(self, fd: str) -> list[str]:
        words = [os.fsdecode(word) for word in self.read(fd).split(b"\0")]
        return words[:-1] if words[-1] == "" else words

    def text(self, text: str) -> str:
        return text

    def id(self, text: str) -> int:
        if not text.isascii() or not text.isdigit():
            raise ValueError(f"{text!r} is not an ID")
        return int(text)

    # ---- files ----

    def set_perms(self, text: str) -> None:
        if self._perms is not None:
            raise ValueError("given twice for the same option")
        self._perms = _octal(text)

    def set_size(self, text: str) -> None:
        if self._size is not None:
            raise ValueError("given twice for the same option")
        if not re.fullmatch("[0-9]+", text) or not 0 < int(text) < 2**63:
            raise ValueError("a number of bytes from 1 to 2**63 - 1 is needed")
        self._size = int(text)

    def _take_perms(self, default: int, path: str) -> int:
        """The permissions of a new file. Directories above it are not more open than it is."""
        mode, self._perms = default if self._perms is None else self._perms, None
        directories = 0o755 & ~(0o050 if not mode & 0o070 else 0) & ~(0o005 if not mode & 0o007 else 0)
        if directories != 0o755:
            parts = path.split("/")[1:-1]
            for end in range(1, len(parts) + 1):
                self._add(Dir("/" + "/".join(parts[:end]), directories))
        return mode

    def bind(self, source: str | int, target: str, **options: bool) -> None:
        place = "/" + target.strip("/")
        if options.pop("missing_ok", False) and not _exists(source):
            return  # not even the directories above the target are created
        self._mount(target, f"/proc/self/fd/{source}" if isinstance(source, int) else source)
        self._add(Bind(source, place, **options))

    def bind_fd(self, fd: str, target: str) -> None:
        self.bind(self.fd(fd), target)

    def ro_bind_fd(self, fd: str, target: str) -> None:
        self.bind(self.fd(fd), target, read_only=True)

    def remount_ro(self, target: str) -> None:
        self._add(Remount("/" + target.strip("/")))

    def overlay_src(self, source: str) -> None:
        self._layers.append(source)

    def _take_layers(self, least: int) -> list[str]:
        layers, self._layers = self._layers[::-1], []
        if len(layers) < least:
            raise ValueError(f"requires at least {('one', 'two')[least - 1]} --overlay-src")
        return layers

    def overlay(self, upper: str, work: str, target: str) -> None:
        self._add(Overlay(self._mount(target), self._take_layers(1), upper, work))

    def tmp_overlay(self, target: str) -> None:
        self._add(Overlay(self._mount(target), self._take_layers(1), "tmpfs"))

    def ro_overlay(self, target: str) -> None:
        self._add(Overlay(self._mount(target), self._take_layers(2)))

    def proc(self, target: str) -> None:
        self._add(GuardedProc(self._mount(target), fresh=True))

    def dev(self, target: str) -> None:
        path = self._mount(target)
        self._add(Dev(path))
        if os.isatty(1):
            self._add(Bind(os.ttyname(1), f"{path}/console", dev=True))

    def tmpfs(self, target: str) -> None:
        path = self._mount(target)
        size, self._size = self._size, None
        self._add(Tmpfs(path, size=size, mode=self._take_perms(0o755, path)))

    def mqueue(self, target: str) -> None:
        self._add(Mqueue(self._mount(target)))

    def dir(self, target: str) -> None:
        path = self._create(target)
        self._add(Dir(path, self._take_perms(0o755, path)))

    def file(self, fd: str, target: str) -> None:
        path = self._create(target)
        self._add(File(path, self.read(fd), self._take_perms(0o666, path)))

    def bind_data(self, fd: str, target: str) -> None:
        self._data(fd, target, read_only=False)

    def ro_bind_data(self, fd: str, target: str) -> None:
        self._data(fd, target, read_only=True)

    def _data(self, fd: str, target: str, *, read_only: bool) -> None:
        path = self._mount(target)
        self._add(File(path, self.read(fd), self._take_perms(0o600, path), read_only, cover=True))

    def symlink(self, text: str, target: str) -> None:
        self._add(Symlink(text, self._create(target)))

    def chmod(self, mode: str, path: str) -> None:
        self._add(Mode("/" + path.strip("/"), _octal(mode)))

    def lock_file(self, path: str) -> None:
        self._lock_files.append(path)

    # ---- namespaces and the process ----

    def unshare_all(self) -> None:
        self.try_user = True
        self.kinds.update(("ipc", "pid", "net", "uts", "cgroup"))

    def share_net(self) -> None:
        self.kinds.discard("net")

    def ignore(self) -> None:
        pass

    def setenv(self, name: str, value: str) -> None:
        self.environment[name] = value

    def unsetenv(self, name: str) -> None:
        self.environment.pop(name, None)

    def clearenv(self) -> None:
        self.environment.clear()

    def set_argv0(self, name: str) -> None:
        if self.argv0 is not None:
            raise ValueError("given twice")
        self.argv0 = name

    def cap_add(self, name: str) -> None:
        self._caps |= _mask(name)
        self._changes_caps = True

    def cap_drop(self, name: str) -> None:
        self._caps &= ~_mask(name)
        self._changes_caps = True

    def set_seccomp(self, fd: str) -> None:
        if self._filters:
            raise ValueError("--seccomp cannot be combined with --add-seccomp-fd")
        self.keep_last("seccomp", self.read(fd))

    def add_seccomp(self, fd: str) -> None:
        if self.seccomp is not None:
            raise ValueError("--add-seccomp-fd cannot be combined with --seccomp")
        self._filters.append(self.read(fd))

    # ---- all together ----

    def run(
        self,
        command: list[str],
        own: dict[str, Any],
        variables: Mapping[str, str],
        *,
        stays_above: bool = False,
        limits: tuple[float, float] = (0, 0),
    ) -> int:
        """Run the command in the foreground, or become it.

        Args:
            own: the parameters that the other options give.
            stays_above, limits: as for `become_in_foreground`.
        """
        self.environment.update(variables)
        identity = self._identity(own)
        words, steps = self._all_steps(own, is_new_userns="uid_map" in identity)
        options = {**own, **identity, **self._fixed(own)}
        options["setup"] = steps
        self._timeout = Timeout(*limits)
        has_part = {self.info, self.json_status, self.block, self.userns_block} != {None}
        if self.die_with_parent:
            _system_calls.set_death_signal(signal.SIGKILL)
        try:
            argv, options["executable"] = [self.argv0 or command[0], *command[1:]], command[0]
            if not self._lock_files and not self.die_with_parent and not has_part:
                become_in_foreground(argv, words=words, stays_above=stays_above, limits=limits, **options)
            with self._locks():
                if has_part or limits[0]:
                    options["on_created"] = self._while_it_waits
                status = run_in_foreground(argv, **options)
        except (UsernsError, ValueError) as error:
            _name_word(error, words)
            raise
        if self.json_status is not None:
            _write(self.json_status, f'{{ "exit-code": {status} }}\n')
        return self._timeout.status(status)

    def _all_steps(self, own: dict[str, Any], *, is_new_userns: bool) -> tuple[list[str], list[Step]]:
        """With the word that each comes from."""
        if self._is_fresh("pid", own) or self.pidns is not None:
            files = self._steps
        else:
            files = [
                (word, GuardedProc(step.target, fresh=False) if isinstance(step, GuardedProc) else step)
                for word, step in self._steps
            ]
        pairs = [("", EmptyRoot()), *files]
        if self.chdir is None:
            pairs.append(("", StartDirectory(*self._start_directories())))
        if self.hostname is not None:
            pairs.append((f"--hostname {self.hostname}", Hostname(self.hostname)))
        if self._is_fresh("net", own):
            pairs.append(("", Loopback()))
        if self.disable_userns:
            pairs.append(("--disable-userns", NoUserNamespaces()))
        if self.assert_userns_disabled:
            pairs.append(("--assert-userns-disabled", UserNamespacesDisabled()))
        if self._changes_caps or os.getuid() != 0:
            pairs.append(("", Capabilities(keep=_numbers(self._caps))))
        elif is_new_userns:
            pairs.append(("", BoundingSet(self._caps)))
        filters = self._filters if self.seccomp is None else [self.seccomp]
        pairs += [("", Seccomp(program)) for program in filters]
        pairs += [("", step) for step in own["setup"]]
        return [word for word, _ in pairs], [step for _, step in pairs]

    def _is_fresh(self, kind: str, own: dict[str, Any]) -> bool:
        return kind in self.kinds or kind in own["namespaces"]

    def _fixed(self, own: dict[str, Any]) -> dict[str, Any]:
        """What is as bubblewrap has it, whatever the words are."""
        if self.as_pid_1 and "pid" not in self.kinds:
            raise ValueError("--as-pid-1 requires --unshare-pid")
        if self.chdir is not None and own["cwd"] is not None:
            raise ValueError("--chdir and --cwd: one of them")
        start = own["cwd"] if self.chdir is None else self.chdir
        if start is None:
            start = next(filter(self._view.has_directory, self._start_directories()), "/")
        return {
            "namespaces": sorted({"mnt", *self.kinds, *own["namespaces"]}),
            "propagation": own["propagation"] or "slave",
            "init": own["init"] or ("pid" in self.kinds and not self.as_pid_1),
            "cwd": own["cwd"] if self.chdir is None else self.chdir,
            "env": {**self.environment, "PWD": start},
            "close_fds": False,
            "no_new_privs": True,
            "session_keyring": own["session_keyring"] or ("inherit" if self.userns is None else None),
            "start_new_session": self.new_session or own["start_new_session"],
            "pdeathsig": signal.SIGKILL if self.die_with_parent else own.get("pdeathsig"),
        }

    def _start_directories(self) -> list[str]:
        return [path for path in (_working_directory(), self.environment.get("HOME", "")) if path.startswith("/")]

    def _identity(self, own: dict[str, Any]) -> dict[str, Any]:
        """The user namespace, and the maps of a new one."""
        joined = [f"/proc/self/fd/{fd}" for fd in (self.userns, self.pidns) if fd is not None]
        own_maps = own["uid_map"] is not None or own["gid_map"] is not None
        if self.disable_userns and not self.new_user:
            raise ValueError("--disable-userns requires --unshare-user")
        if own_maps and (self.uid, self.gid) != (None, None):
            raise ValueError("--uid and --gid are for a map of one ID: leave --map, --uid-map and --gid-map out")
        is_new = self.new_user or own_maps or os.getuid() != 0 or (self.try_user and _user_namespaces_enabled())
        if self.userns is not None:
            if self.new_user or self.try_user or own_maps:
                raise ValueError("--userns: the user namespace is joined, so none is created and no map is written")
            return {"join": joined, "user": self.uid, "group": self.gid}
        if not is_new:
            for name, value, current in (("--uid", self.uid, os.getuid()), ("--gid", self.gid, os.getgid())):
                if value not in (None, current):
                    raise ValueError(f"{name} requires --unshare-user or --userns")
            joined.insert(0, "/proc/self/ns/user")
        if self.userns_block is not None or own_maps or not is_new:
            return {"join": joined}
        uid = os.getuid() if self.uid is None else self.uid
        gid = os.getgid() if self.gid is None else self.gid
        return {
            "join": joined,
            "uid_map": f"{uid}:{os.getuid()}:1",
            "gid_map": f"{gid}:{os.getgid()}:1",
            "setgroups": "deny",
        }

    def _while_it_waits(self, process: UsernsProcess[Any]) -> None:
        """The child exists; it has not set up anything yet."""
        self._timeout.watch(process)
        if self.info is not None:
            _write(self.info, json.dumps(_report(process), indent=4) + "\n")
            os.close(self.info)
        if self.json_status is not None:
            _write(self.json_status, json.dumps(_report(process)) + "\n")
        for fd in (self.userns_block, self.block):
            if fd is not None:
                os.read(fd, 1)

    @contextmanager
    def _locks(self) -> Generator[None]:
        """Read locks on the files that the command finds at the paths of `--lock-file`."""
        with ExitStack() as locks:
            for path in self._lock_files:
                source = self._view.source_of(path)
                if source is None:
                    raise ValueError(f"--lock-file {path}: not a file of the caller's")
                fcntl.lockf(locks.enter_context(open(source, "rb")), fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield


def _exists(path: str | int) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _octal(text: str) -> int:
    if not re.fullmatch("[0-7]+", text) or int(text, 8) > 0o7777:
        raise ValueError("permissions are an octal number, at most 07777")
    return int(text, 8)


def _mask(capability: str) -> int:
    if capability.lower() != "all":
        return capability_mask([capability])
    count = int(read_sysctl("kernel/cap_last_cap")) + 1
    return (1 << count) - 1


def _numbers(mask: int) -> list[int]:
    return [number for number in range(HIGHEST + 1) if mask >> number & 1]


def _working_directory() -> str:
    """As the shell calls it, if that is right: it may contain symbolic links."""
    shown = os.environ.get("PWD", "")
    with suppress(OSError):
        if shown.startswith("/") and os.path.samefile(shown, "."):
            return shown
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _user_namespaces_enabled() -> bool:
    return read_sysctl("user/max_user_namespaces").strip() != "0"


def _name_word(error: Exception, words: list[str]) -> None:
    """Add the option that the step of the error comes from."""
    index = getattr(error, "setup_index", None)
    if index is None and (found := re.match(r"setup\[([0-9]+)\]", str(error))):
        index = int(found[1])
    if index is not None and index < len(words) and words[index]:
        error.add_note(f"The option is {words[index]!r}.")


def _report(process: UsernsProcess[Any]) -> dict[str, int]:
    """The PID, and the namespaces other than the caller's."""
    report = {"child-pid": process.pid}
    with suppress(PermissionError):  # a process that joins a user namespace cannot be inspected before it has done so
        for kind in REPORTED:
            with process.namespace(kind) as namespace, Namespace.current(kind) as current:
                if namespace != current:
                    report[f"{kind}-namespace"] = namespace.inode
    return report


def _write(fd: int, text: str) -> None:
    with open(fd, "w", closefd=False) as file:
        file.write(text)
