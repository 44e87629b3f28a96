"""The words of bubblewrap: what each of them adds to a sandbox."""

from __future__ import annotations

from .._typing import TYPE_CHECKING
from .options import Option, Take
from .sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


class Word(Option):
    """One option of bubblewrap."""

    __slots__ = ("apply",)
    free = True

    def __init__(self, name: str, values: str, help: str, apply: Callable[..., object]) -> None:
        super().__init__(name, values, help, Take(None, self._say), to="sandbox")
        self.apply = apply
        """Called with the sandbox and the values."""

    def _say(self, box: Sandbox | None, *values: str) -> Sandbox:
        box = box or Sandbox()
        [name] = self.names
        box.begin_word(name, list(values), modifies=name in MODIFIERS)
        self.apply(box, *values)
        return box


def _set(name: str, value: object = True) -> Callable[[Sandbox], None]:
    return lambda box: setattr(box, name, value)


def _last(name: str, convert: Callable[[Sandbox, str], object] = Sandbox.text) -> Callable[[Sandbox, str], None]:
    """Keep the value; of several, the last."""
    return lambda box, text: box.keep_last(name, convert(box, text))


def _new(*kinds: str) -> Callable[[Sandbox], None]:
    return lambda box: box.kinds.update(kinds)


def _read_words(box: Sandbox, fd: str) -> None:
    """The options of `--args`."""
    words = box.read_words(fd)
    while words:
        name, *words = words
        word = WORDS.get(name)
        if word is None:
            raise ValueError(f"{name} is not an option that can be read from a descriptor")
        if name == "--args":
            raise ValueError("--args cannot be read from a descriptor itself")
        count = len(word.values.split())
        values, words = words[:count], words[count:]
        shown = " ".join((name, *values))
        if len(values) < count:
            raise ValueError(f"{shown} requires {word.values}")
        try:
            word.take.add(box, *values)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{shown}: {error}") from None


def _bind(**options: bool) -> Callable[[Sandbox, str, str], None]:
    return lambda box, source, target: box.bind(source, target, **options)


def _refuse(reason: str) -> Callable[..., NoReturn]:
    def refuse(*_: object) -> NoReturn:
        raise ValueError(reason)

    return refuse


MODIFIERS = ("--perms", "--size")
"""For the next word."""

FILES = (
    Word("--bind", "SRC DEST", "mount SRC of the caller's root on DEST, with all mounts below it", _bind()),
    Word("--bind-try", "SRC DEST", "like --bind; nothing if SRC does not exist", _bind(missing_ok=True)),
    Word("--ro-bind", "SRC DEST", "like --bind, read-only", _bind(read_only=True)),
    Word(
        "--ro-bind-try", "SRC DEST", "like --ro-bind; nothing if SRC does not exist",
        _bind(read_only=True, missing_ok=True),
    ),
    Word("--dev-bind", "SRC DEST", "like --bind; device nodes work", _bind(dev=True)),
    Word(
        "--dev-bind-try", "SRC DEST", "like --dev-bind; nothing if SRC does not exist",
        _bind(dev=True, missing_ok=True),
    ),
    Word("--bind-fd", "FD DEST", "like --bind, for a descriptor", Sandbox.bind_fd),
    Word(
        "--ro-bind-fd", "FD DEST", "like --ro-bind, for a descriptor",
        Sandbox.ro_bind_fd,
    ),
    Word("--remount-ro", "DEST", "make the mount on DEST read-only, without those below it", Sandbox.remount_ro),
    Word("--overlay-src", "SRC", "a lower layer of the next overlay, above those before it", Sandbox.overlay_src),
    Word("--overlay", "RWSRC WORKDIR DEST", "overlay; changes go to RWSRC", Sandbox.overlay),
    Word("--tmp-overlay", "DEST", "overlay; changes are kept in memory", Sandbox.tmp_overlay),
    Word("--ro-overlay", "DEST", "overlay, read-only", Sandbox.ro_overlay),
    Word("--proc", "DEST", "procfs", Sandbox.proc),
    Word("--dev", "DEST", "a minimal /dev", Sandbox.dev),
    Word("--tmpfs", "DEST", "an empty file system in memory (mode 0755)", Sandbox.tmpfs),
    Word("--mqueue", "DEST", "the POSIX message queues", Sandbox.mqueue),
    Word("--dir", "DEST", "a directory (mode 0755)", Sandbox.dir),
    Word("--file", "FD DEST", "a file with the content of FD (mode 0666)", Sandbox.file),
    Word(
        "--bind-data", "FD DEST", "a file with the content of FD, mounted on DEST (mode 0600)",
        Sandbox.bind_data,
    ),
    Word(
        "--ro-bind-data", "FD DEST", "like --bind-data, read-only",
        Sandbox.ro_bind_data,
    ),
    Word("--symlink", "TEXT DEST", "a symbolic link", Sandbox.symlink),
    Word("--chmod", "OCTAL PATH", "change the permissions of PATH", Sandbox.chmod),
    Word("--perms", "OCTAL", "permissions of what the next option creates", Sandbox.set_perms),
    Word("--size", "BYTES", "size of the next --tmpfs", Sandbox.set_size),
    Word("--lock-file", "PATH", "hold a read lock on a file of the caller's that the command finds at PATH",
         Sandbox.lock_file),
    Word("--file-label", "LABEL", "refused", _refuse("SELinux labels of files are not supported")),
)  # fmt: skip

NAMESPACES = (
    Word("--unshare-user", "", "a new user namespace (always, unless the caller is root)", _set("new_user")),
    Word("--unshare-user-try", "", "the same, if user namespaces are enabled", _set("try_user")),
    Word("--unshare-ipc", "", "a new IPC namespace", _new("ipc")),
    Word("--unshare-pid", "", "a new PID namespace, with an init as PID 1", _new("pid")),
    Word("--unshare-net", "", "a new network namespace, with loopback", _new("net")),
    Word("--unshare-uts", "", "a new UTS namespace", _new("uts")),
    Word("--unshare-cgroup", "", "a new cgroup namespace", _new("cgroup")),
    Word("--unshare-cgroup-try", "", "the same", _new("cgroup")),  # Linux 4.6: all that are supported
    Word("--unshare-all", "", "all of them", Sandbox.unshare_all),
    Word("--share-net", "", "no new network namespace after all", Sandbox.share_net),
    Word("--userns", "FD", "join this user namespace", _last("userns", Sandbox.fd)),
    Word(
        "--userns2", "FD", "refused", _refuse("join the inner user namespace with --userns: only one can be joined")
    ),
    Word("--pidns", "FD", "join this PID namespace", _last("pidns", Sandbox.fd)),
    Word("--uid", "UID", "the user ID in the user namespace", _last("uid", Sandbox.id)),
    Word("--gid", "GID", "the group ID in the user namespace", _last("gid", Sandbox.id)),
    Word("--hostname", "NAME", "the hostname in the new UTS namespace", _last("hostname")),
    Word("--disable-userns", "", "no further user namespaces; requires --unshare-user", _set("disable_userns")),
    Word(
        "--assert-userns-disabled", "", "fail unless further user namespaces are refused",
        _set("assert_userns_disabled"),
    ),
)  # fmt: skip

PROCESS = (
    Word("--chdir", "DIR", "working directory in the sandbox", _last("chdir")),
    Word("--setenv", "NAME VALUE", "set an environment variable", Sandbox.setenv),
    Word("--unsetenv", "NAME", "remove an environment variable", Sandbox.unsetenv),
    Word("--clearenv", "", "remove all environment variables", Sandbox.clearenv),
    Word("--argv0", "NAME", "argument 0 of the command", Sandbox.set_argv0),
    Word("--cap-add", "CAP", "keep a capability, or ALL", Sandbox.cap_add),
    Word("--cap-drop", "CAP", "drop a capability, or ALL", Sandbox.cap_drop),
    Word("--seccomp", "FD", "a seccomp filter, as BPF", Sandbox.set_seccomp),
    Word(
        "--add-seccomp-fd", "FD", "a further seccomp filter",
        Sandbox.add_seccomp,
    ),
    Word("--new-session", "", "call setsid(2)", _set("new_session")),
    Word("--die-with-parent", "", "end when the parent process of usernsproc ends", _set("die_with_parent")),
    Word("--as-pid-1", "", "no init: the command is PID 1", _set("as_pid_1")),
    Word("--exec-label", "LABEL", "refused", _refuse("SELinux labels of processes are not supported")),
)  # fmt: skip

DESCRIPTORS = (
    Word("--args", "FD", "further options from FD, each followed by a null byte", _read_words),
    Word("--sync-fd", "FD", "keep FD open while the command runs, for others to wait", _last("sync", Sandbox.fd)),
    Word("--block-fd", "FD", "wait for a byte from FD before the command runs", _last("block", Sandbox.fd)),
    Word("--userns-block-fd", "FD", "wait for a byte from FD: the ID maps have been written",
         _last("userns_block", Sandbox.fd)),
    Word("--info-fd", "FD", "write the PID and the namespaces to FD, as JSON", _last("info", Sandbox.fd)),
    Word("--json-status-fd", "FD", "the same, and the exit status", _last("json_status", Sandbox.fd)),
    Word("--level-prefix", "", "refused", _refuse("messages have no levels")),
    Word("--not-a-security-boundary", "", "no effect: a mount that fails is always an error", Sandbox.ignore),
)  # fmt: skip

GROUPS = {
    "files, as in bubblewrap": FILES,
    "namespaces and IDs, as in bubblewrap": NAMESPACES,
    "the process, as in bubblewrap": PROCESS,
    "descriptors, as in bubblewrap": DESCRIPTORS,
}
"""By the title in the help."""

WORDS = {name: word for group in GROUPS.values() for word in group for name in word.names}
