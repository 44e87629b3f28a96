"""`subprocess.Popen` in a new user namespace, and the holder."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager, nullcontext
from errno import ESRCH

from .. import _system_calls
from .._caller import Caller
from .._causes import at_step
from .._cgroups import OomKills
from .._maps.idmap import IdMap, IdMapLike
from .._maps.side import GID, UID
from .._maps.writer import Maps, write_map
from .._namespaces.join import NO_JOINS, open_joins
from .._namespaces.namespace import Namespace, NamespaceKind
from .._namespaces.new import new_namespaces, resolve_owner
from .._proc import open_proc_dir_of, pid_of, read_id_map
from .._setup.capabilities import capability_mask
from .._spawn import FOREVER, NO_CGROUP, Files, Namespaces, Patience, Program, Signals, setup_error, start
from .._typing import TYPE_CHECKING
from .._uapi import CLONE_NEWNS
from .cgroup import open_cgroup
from .command import Command, descriptors_to_keep, environment
from .pidfd_popen import PidfdPopen
from .popen import NO_PIPES, name_default_encoding, refuse_for_holder, refuse_preexec_fn, refuse_unknown
from .setup import Plan, Steps, death_signal, is_root, mounts, no_new_privileges, open_setup
from .setup import session_keyring as keyring_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from contextlib import AbstractContextManager
    from typing import Any, AnyStr, Literal, NoReturn, overload

    from typing_extensions import Unpack

    from .._core import Child
    from .._maps.side import Side
    from .._namespaces.join import JoinLike, Joins
    from .._setup.calls import Setup
    from .._setup.compiler import CompiledSetup
    from .._setup.step import Step
    from .cgroup import CgroupLike
    from .credentials import Userns
    from .options import ProcessOptions

__all__ = ["UsernsProcess"]


class UsernsProcess(PidfdPopen["AnyStr"]):
    """A command in a new user namespace; without *args*, a holder of one.

    Every parameter, attribute and method of `subprocess.Popen` keeps its name and
    meaning. What is added is keyword-only:

    Args:
        args: as in `Popen`. `None`: a holder. A helper process of a few kilobytes,
            with no environment and `/` as its directory, keeps the namespace until
            it is killed or closed, or the creating process ends.
        uid_map: user IDs, an `IdMapLike`. `None`: left unwritten, to be written
            with `write_uid_map`. When only one of the two maps is given, as the
            name of a preset, the other is the same preset; when it is given in
            numbers, the other is left unwritten. What this process may not write
            itself is written by `newuidmap(1)` and `newgidmap(1)`.
        gid_map: group IDs.
        setgroups: `"allow"`, `"deny"`, or `None` for what the map needs.
        user: a user ID **inside**. If omitted and the caller's user ID is not mapped,
            the command runs as ID 0 in the namespace.
        group: a group ID **inside**, with the same default.
        extra_groups: group IDs **inside**. If omitted, the command has those supplementary
            groups of the caller that the group map contains; without a group map,
            all of them. `setgroups="deny"` forbids to drop a group.
        namespaces: further kinds to make together with the user namespace, and owned
            by it: `("mnt", "net", …)`, see `NamespaceKind`. With `"pid"`, the command
            is pid 1 of its pid namespace; see `init`.
        propagation: of all mounts of a new mount namespace, as in `unshare(1)`:
            `"private"` (`None`), `"slave"`, `"shared"` or `"unchanged"`.
        mount_proc: a fresh `/proc`, that shows the pid namespace which is new or
            joined; in a new mount namespace, as `"mnt"` among *namespaces*.
        init: PID 1 of the new PID namespace is a small helper process that reaps
            orphans, forwards signals to the command, and exits with it. `pid`, `pidfd`
            and the methods refer to it; `returncode` is that of the command. Init itself
            exits with status 128 + *n* if signal *n* kills the command, because PID 1
            cannot be killed by a signal from inside its own PID namespace: other code that
            waits for `pid` gets that status.
        join: existing namespaces to enter first: `Namespace` objects, paths of
            namespace files, or processes (an object with a pidfd, a pid), which stand
            for each namespace that differs from the caller's; one of these, or
            several. `[(process, kinds)]` takes its namespaces of these kinds alone.
            With a user namespace among them, no new one is made, and new ones of other
            kinds belong to it; the caller's own is one to stay in.
            Entered with `setns(2)`, by a helper program that shares no memory with
            this process and that root of the joined namespace cannot inspect. With a
            mount namespace, *args* and *cwd* are paths in it.
        owner: the user ID **outside** that owns the new user namespace and is charged
            for it (`user.max_user_namespaces`). An ID other than the caller's requires
            `CAP_SETUID`, `CAP_SYS_ADMIN` and, unless the caller is user 0,
            `CAP_DAC_OVERRIDE`.
        on_created: called with this object while the child exists, is mapped, and
            has not yet run the command: the place to move a network interface in, or
            to register the pidfd. An exception in it kills and reaps the child, and
            propagates. Other threads can start processes meanwhile.
        no_new_privs: `prctl(PR_SET_NO_NEW_PRIVS)`.
        ambient_caps: capabilities, by name or number, that the command keeps although
            it is not inside 0.
        cgroup: the directory of a cgroup (version 2) to start in, as a path or a
            descriptor. A path that is itself a symbolic link, or a directory outside of
            a cgroup2 file system, is refused. The child is placed there when it is made (`clone3`,
            Linux 5.7), else before the command runs.
        session_keyring: the session keyring (`session-keyring(7)`) of the command:
            `"inherit"`, that of the caller, with all keys in it; `"new"`, an empty
            one that the command owns; `None`: `"new"` when a namespace is joined,
            unless the system refuses `keyctl(2)` to the command as well, and
            otherwise `"inherit"`.
        setup: set-up steps, values of `usernsproc.setup`: what is done between clone and exec, such as mounts, a
            new root, limits, signals or a seccomp filter. Those that concern files are done in the
            order of the list, the others where they work. They take the place of `preexec_fn`.
        pdeathsig: the signal the command gets when the creating **process** ends,
            also when it is killed (`PR_SET_PDEATHSIG`); `None`: none. The signal is
            tied to the process, not to the calling thread. The kernel
            drops this signal when the command executes a program with set-user-ID,
            set-group-ID or file capabilities. A holder simply ends, whatever the
            signal.

    Differences from `Popen`:

    * `preexec_fn` is refused: no Python runs between clone and exec.
    * Signals, waiting and polling go through a pidfd, never a pid.
    * The child is killed when this process ends; see `pdeathsig`.
    * When another part of the program has reaped the child, `returncode` is still
      exact on Linux 6.15 and later. Before, it is 255, with a `RuntimeWarning`.
    * Errors from the child are `UsernsError`s, which are the same builtin
      subclasses of `OSError` that `Popen` raises, with the step that failed.

    Raises:
        IdMapError, IdMapPermissionError, ValueError, TypeError: before anything is
            created.
        MapToolError: `newuidmap` or `newgidmap` failed.
        UsernsError: as `create_userns`, and from the child: `chdir`, `setsid`,
            `setpgid`, `setid`, `exec` (`ENOENT`: `FileNotFoundError`, `EACCES`:
            `PermissionError`).

    Linux 5.4. See `clone(2)`, `user_namespaces(7)`, `pidfd_open(2)`.
    """

    _maps: Maps
    _plan: Plan
    _namespaces: Namespaces
    _texts_of_maps: tuple[str | None, str | None, str | None]
    _cgroup: tuple[int, object]
    _patience: Patience = FOREVER
    _signal_mask: int | None = None
    """Of the command: a bit for each signal that is blocked. `None`: that of the calling thread."""

    @classmethod
    def _within(cls, patience: Patience, args: Any, *popen_args: Any, **options: Any) -> UsernsProcess[Any]:
        """As the constructor, which gives up when the patience ends (`GaveUp`)."""
        process = cls.__new__(cls)
        process._patience = patience
        process.__init__(args, *popen_args, **options)  # type: ignore[misc]
        return process

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: UsernsProcess[str],
            args: Any = None,
            *popen_args: Any,
            text: Literal[True],
            encoding: str | None = None,
            errors: str | None = None,
            **options: Unpack[ProcessOptions],
        ) -> None: ...
        @overload
        def __init__(
            self: UsernsProcess[str],
            args: Any = None,
            *popen_args: Any,
            universal_newlines: Literal[True],
            encoding: str | None = None,
            errors: str | None = None,
            **options: Unpack[ProcessOptions],
        ) -> None: ...
        @overload
        def __init__(
            self: UsernsProcess[str],
            args: Any = None,
            *popen_args: Any,
            encoding: str,
            errors: str | None = None,
            text: bool | None = None,
            **options: Unpack[ProcessOptions],
        ) -> None: ...
        @overload
        def __init__(
            self: UsernsProcess[str],
            args: Any = None,
            *popen_args: Any,
            errors: str,
            encoding: str | None = None,
            text: bool | None = None,
            **options: Unpack[ProcessOptions],
        ) -> None: ...
        @overload
        def __init__(
            self: UsernsProcess[bytes],
            args: Any = None,
            *popen_args: Any,
            text: Literal[False] | None = None,
            universal_newlines: Literal[False] | None = None,
            encoding: None = None,
            errors: None = None,
            **options: Unpack[ProcessOptions],
        ) -> None: ...
        @overload
        def __init__(
            self: UsernsProcess[Any],
            args: Any = None,
            *popen_args: Any,
            text: bool | None = None,
            universal_newlines: bool | None = None,
            encoding: str | None = None,
            errors: str | None = None,
            **options: Unpack[ProcessOptions],
        ) -> None: ...

    def __init__(
        self,
        args: Any = None,
        *popen_args: Any,
        uid_map: IdMapLike | None = None,
        gid_map: IdMapLike | None = None,
        setgroups: str | None = None,
        namespaces: Iterable[str] = (),
        propagation: str | None = None,
        mount_proc: bool = False,
        init: bool = False,
        join: JoinLike | Iterable[JoinLike] = (),
        owner: int | None = None,
        on_created: Callable[[UsernsProcess[AnyStr]], object] | None = None,
        pdeathsig: int | None = signal.SIGKILL,
        no_new_privs: bool = False,
        ambient_caps: Iterable[str | int] = (),
        cgroup: CgroupLike | None = None,
        session_keyring: str | None = None,
        setup: Iterable[Step] = (),
        **popen_options: Any,
    ) -> None:
        refuse_preexec_fn(popen_args, popen_options)
        if args is None:
            refuse_for_holder(popen_args, popen_options)
        if on_created is not None and not callable(on_created):
            raise TypeError(f"on_created is called with the process, and {on_created!r} cannot be")
        if sys.flags.warn_default_encoding:
            name_default_encoding(popen_args, popen_options)
        self._is_holder = args is None
        self._on_created: Callable[[UsernsProcess[AnyStr]], object] | None = on_created
        caller = Caller.now()
        self._death_signal = death_signal(pdeathsig)
        if not hasattr(setup, "__iter__"):
            raise TypeError(f"setup= is a list of set-up steps, not {setup!r}")
        steps = tuple(setup)
        with _open(cgroup, join, steps) as (cgroup_to_enter, joins, compiled):
            new = new_namespaces(
                namespaces,
                joins,
                propagation=propagation,
                mount_proc=mount_proc,
                init=init,
                root=any(map(is_root, steps)),
            )
            if owner is not None and joins.userns is not None:
                raise ValueError("a user namespace is joined, and has its owner")
            owner_uid = None if owner is None else resolve_owner(owner, caller)
            entered = joins.for_core
            userns: Userns = "new" if joins.userns is None else "own" if joins.is_own else "joined"
            self._maps = maps = self._resolve_maps(uid_map, gid_map, setgroups, joins, caller)
            capabilities = capability_mask(ambient_caps)
            keyring = keyring_calls(session_keyring, joins=bool(entered))
            of_setup = None
            if compiled is not None:
                of_setup = Steps(
                    steps,
                    compiled,
                    new.kinds(joins),
                    propagation=propagation,
                    mount_proc=mount_proc,
                    cgroup=cgroup is not None,
                    owner=owner,
                    copied_mounts=not joins.kinds & CLONE_NEWNS,
                    new_kinds=new.flags,
                )
            if self._is_holder:
                _refuse_what_a_command_has(ambient_caps=capabilities, init=init)
            self._plan = Plan(
                mounts(new.propagation, new.mount_proc),
                keyring + no_new_privileges(bool(no_new_privs)),
                capabilities,
                maps,
                caller,
                userns,
                owner_uid,
                of_setup,
            )
            self._namespaces = Namespaces(new.flags, entered, -1 if owner_uid is None else owner_uid, new.init)
            self._texts_of_maps = maps.for_core if userns == "new" else (None, None, None)
            self._cgroup = cgroup_to_enter
            if cgroup_to_enter[0] >= 0:
                self._oom_kills = OomKills(cgroup_to_enter[0])
            try:
                super().__init__(args, *popen_args, **popen_options)
            except BaseException as error:
                self._finish()
                self._close_witnesses()
                if isinstance(error, TypeError):
                    refuse_unknown(popen_options)
                raise
        assert self._child is not None
        self._child.taken = True  # before, an exception of a signal handler ends it with this object

    def _resolve_maps(
        self, uid_map: IdMapLike | None, gid_map: IdMapLike | None, setgroups: str | None, joins: Joins, caller: Caller
    ) -> Maps:
        if joins.userns is None:
            return Maps.resolve(uid_map, gid_map, setgroups, caller)
        if uid_map is not None or gid_map is not None or setgroups is not None:
            raise ValueError("a user namespace is joined, and has its maps: none can be written for the command")
        return joins.maps(caller)

    # ---- starting; called by Popen.__init__ ----

    def _get_handles(self, stdin: Any, stdout: Any, stderr: Any) -> Any:
        if stdin is None and stdout is None and stderr is None:
            return NO_PIPES
        with at_step("stdio"):
            return super()._get_handles(stdin, stdout, stderr)  # type: ignore[misc]

    def _start_child(
        self,
        pipes: tuple[int, ...],
        given: tuple[Any, Any, bool],
        ids: tuple[int | None, int | None, list[int] | None],
        attributes: tuple[Any, int, bool, int],
        env: Any,
        restore_signals: bool,
        close_fds: bool,
        pass_fds: Any,
    ) -> None:
        if self._is_holder:
            self._start(None, Files(), self._plan.of_holder())
            return
        command, keep = Command.of(*given), descriptors_to_keep(pass_fds)
        sys.audit("subprocess.Popen", command.executable, command.args, attributes[0], env)
        self._start(
            Program(command.args, command.candidates(env), environment(env), bool(restore_signals), command.executable),
            Files(pipes[0], pipes[3], pipes[5], keep, bool(close_fds)),
            self._plan.of_command(ids, *attributes, pass_fds=keep),
        )
        if pipes != NO_PIPES:
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _start(self, program: Program | None, files: Files, setup: Setup) -> None:
        compiled, mask = self._plan.compiled, self._signal_mask
        waits = self._on_created is not None or bool(self._maps.via_newidmap)
        if compiled is not None:
            mask = mask if compiled.signal_mask is None else compiled.signal_mask
            waits = waits or bool(compiled.in_parent)
            self._at_end = tuple(compiled.at_end)
        signals, hook = Signals(mask, self._death_signal), self._while_it_waits if waits else None
        try:
            self._child = child = start(
                program,
                self._namespaces,
                self._texts_of_maps,
                files,
                setup,
                signals,
                self._patience,
                self._cgroup,
                hook,
            )
            self.pid, self._child_created = child.pid, True
        except BaseException:
            self._child_created = False
            raise

    def _while_it_waits(self, child: Child) -> None:
        """The maps that a tool writes, then `on_created`, then what set-up steps have to be done from outside."""
        if self._maps.via_newidmap:
            self._maps.write_via_newidmap(child.pid, child.pidfd, self._patience)
        self._call_on_created(child)
        compiled = self._plan.compiled
        for origin, action in () if compiled is None else compiled.in_parent:
            try:
                _refuse_if_ended(child)
                action(child.pid)
            except OSError as error:
                raise setup_error(origin, error.errno or 0) from None

    def _call_on_created(self, child: Child) -> None:
        """It may even close the pidfd, which is a copy."""
        if self._on_created is None:
            return
        self._child, self.pid, self._child_created = child, child.pid, True
        self._creating_thread = threading.get_ident()
        try:
            self._on_created(self)
        finally:
            self._creating_thread = 0

    # ---- the namespace ----

    @contextmanager
    def _proc_dir(self) -> Generator[int]:
        if self._pidfd < 0:
            raise ValueError("operation on a closed process")
        with open_proc_dir_of(self._pidfd) as proc_dir:
            yield proc_dir

    def namespace(self, kind: str = "user") -> Namespace:
        """A namespace of the process, as a new object that the caller closes.

        Raises:
            ProcessLookupError: the process has been reaped (`ESRCH`), or for kinds
                other than user: it has ended.
            PermissionError: the process changed its ids or executed a program that
                this one may not inspect (`EACCES`, see `ptrace(2)`).
        """
        return Namespace.of(self, kind)

    def namespace_path(self, kind: str = "user") -> str:
        """`/proc/PID/ns/…` for tools that take a path. Good while the process is not reaped.

        Raises:
            ProcessLookupError: the process has been reaped (`ESRCH`).
        """
        kind = NamespaceKind(kind)
        with self._proc_dir():
            return f"/proc/{pid_of(self._pidfd)}/ns/{kind}"

    @property
    def uid_map(self) -> IdMap:
        """The user id map as the kernel has it, seen from the calling process; empty when unwritten.

        Raises:
            ProcessLookupError: the process has been reaped (`ESRCH`).
        """
        return self._read_map("uid_map")

    @property
    def gid_map(self) -> IdMap:
        """The group id map; as `uid_map`."""
        return self._read_map("gid_map")

    def _read_map(self, name: str) -> IdMap:
        with self._proc_dir() as proc_dir:
            return read_id_map(proc_dir, name)

    def write_uid_map(self, uid_map: IdMapLike) -> None:
        """Write the user id map that was left out at creation, or have `newuidmap(1)`
        write it. It can be written once.

        Raises:
            IdMapError, IdMapPermissionError: before the kernel is asked.
            MapToolError: `newuidmap` failed.
            UsernsError: step `uid_map`: `EPERM` (written already), `EACCES` (the
                process changed its ids or executed an unreadable program).
            ProcessLookupError: the process has been reaped (`ESRCH`).
        """
        self._write_map(UID, uid_map)

    def write_gid_map(self, gid_map: IdMapLike) -> None:
        """Write the group id map that was left out at creation, once, or have `newgidmap(1)`
        write it. If the map is the caller's group alone, the caller lacks `CAP_SETGID`, and
        `setgroups` was omitted, `"deny"` is written first.

        Raises:
            IdMapError, IdMapPermissionError: before the kernel is asked.
            MapToolError: `newgidmap` failed.
            UsernsError: as `write_uid_map`, with the steps `gid_map` and `setgroups`.
            ProcessLookupError: the process has been reaped (`ESRCH`).
        """
        self._write_map(GID, gid_map)

    def _write_map(self, side: Side, id_map: IdMapLike) -> None:
        maps = Maps.resolve_one(side, id_map, self._maps.setgroups, Caller.now())
        with self._proc_dir() as proc_dir:
            if maps.setgroups != self._maps.setgroups:
                write_map(proc_dir, "setgroups", maps.setgroups or "")
                self._maps = self._maps.replace(setgroups=maps.setgroups)
            maps.write(proc_dir, self._pidfd)
        self._maps = self._maps.replace(**{side.file: side.map_of(maps)})

    def write_setgroups(self, value: str) -> None:
        """Write `/proc/PID/setgroups`: `"deny"` for good, before the group id map.

        Raises:
            ValueError: neither `"allow"` nor `"deny"`.
            UsernsError: step `setgroups`: `EPERM` (the group id map is written, or
                it was denied already).
        """
        if value not in ("allow", "deny"):
            raise ValueError(f'setgroups must be "allow" or "deny", not {value!r}')
        with self._proc_dir() as proc_dir:
            write_map(proc_dir, "setgroups", value)
        self._maps = self._maps.replace(setgroups=value)

    # ---- how it presents itself ----

    def __repr__(self) -> str:
        what = "holder" if self._is_holder else repr(getattr(self, "args", None))
        return f"<{type(self).__name__} {what}: {self._state()}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a UsernsProcess cannot be pickled: it stands for a child of this process")


_NOTHING_TO_OPEN = nullcontext((NO_CGROUP, NO_JOINS, None))
_NONE: tuple[()] = ()  # the default of a parameter, and the same object


def _open(
    cgroup: CgroupLike | None, join: JoinLike | Iterable[JoinLike], steps: tuple[Step, ...]
) -> AbstractContextManager[tuple[tuple[int, object], Joins, CompiledSetup | None]]:
    """What is open while a process is created: the cgroup to enter, the namespaces to join, files of set-up steps."""
    return _NOTHING_TO_OPEN if cgroup is None and join is _NONE and not steps else _open_all(cgroup, join, steps)


@contextmanager
def _open_all(
    cgroup: CgroupLike | None, join: JoinLike | Iterable[JoinLike], steps: tuple[Step, ...]
) -> Generator[tuple[tuple[int, object], Joins, CompiledSetup | None]]:
    with open_cgroup(cgroup) as cgroup_to_enter, open_joins(join) as joins, open_setup(steps) as compiled:
        yield cgroup_to_enter, joins, compiled


def _refuse_if_ended(child: Child) -> None:
    """`on_created` may have ended and reaped it: its PID can be that of another process."""
    if child.pidfd < 0 or _system_calls.poll((child.pidfd,), 0):
        raise ProcessLookupError(ESRCH, os.strerror(ESRCH))


def _refuse_what_a_command_has(**values: object) -> None:
    for name, value in values.items():
        if value:
            raise ValueError(f"a holder (no args) runs no program: {name}= has no meaning for it")
